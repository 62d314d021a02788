/* evict.c: what makes room: what is idle, and when nothing is, a line that carries nothing: it goes
 * back to its pool, and is idle then. */
#include "base/os.h"
#include "pool/line.h"
#include "pool/room.h"

struct pool *pl_room_next_pool(struct pl_room *room, struct pool *pool)
{
    struct pl_list *link;
    struct pool *next = NULL;

    pthread_mutex_lock(&room->lock);
    for (link = pool ? pool->room_link.next : room->pools.next; !next && link != &room->pools;
         link = link->next) {
        next = pl_container(link, struct pool, room_link);
        if (!pl_pool_try_ref(next))
            next = NULL; /* about to be freed */
    }
    pthread_mutex_unlock(&room->lock);
    return next;
}

/* The one that carried nothing for the longest time; NULL: none is free of everything. Locked. */
static struct pl_line *oldest_line(struct pl_exchange *exchange)
{
    struct pl_line *oldest = NULL;

    if (!exchange->is_active || exchange->is_ended)
        return NULL;
    PL_LIST_EACH(link, &exchange->lines) {
        struct pl_line *line = pl_container(link, struct pl_line, link);

        if (!pl_line_may_make_room(line))
            continue;
        if (pl_line_has_seat_taken(line))
            pl_exchange_wake_at(exchange, 0);   /* soon it is free; who wants room is there then */
        else if (!oldest || line->used_ns < oldest->used_ns)
            oldest = line;
    }
    return oldest;
}

static uint64_t oldest_ns(struct pl_peer *peer)
{
    struct pl_exchange *exchange = atomic_load(&peer->exchange);
    struct pl_line *line;
    uint64_t used_ns;

    if (!exchange)
        return PL_NEVER;
    pthread_mutex_lock(&exchange->lock);
    line = oldest_line(exchange);
    used_ns = line ? line->used_ns : PL_NEVER;
    pthread_mutex_unlock(&exchange->lock);
    return used_ns;
}

static void let_peer_go(struct pl_peer *peer)
{
    struct pool *pool = peer->pool;

    pl_peer_leave(peer);
    pl_pool_leave(pool);
}

/* The peer of the pool's oldest line, if it is older than *best_ns, entered, with its pool; NULL:
 * there is none. */
static struct pl_peer *find_in_pool(struct pool *pool, uint64_t *best_ns)
{
    struct pl_peer *found = NULL;

    pthread_mutex_lock(&pool->lock);
    PL_LIST_EACH(link, &pool->all_peers) {
        struct pl_peer *peer = pl_container(link, struct pl_peer, pool_link);
        uint64_t used_ns = oldest_ns(peer);

        if (used_ns < *best_ns) {
            *best_ns = used_ns;
            found = peer;
        }
    }
    if (found) {
        pl_peer_join(found);
        pl_pool_ref(pool);
    }
    pthread_mutex_unlock(&pool->lock);
    return found;
}

static struct pl_peer *find_in_room(struct pl_room *room)
{
    struct pool *pool = pl_room_next_pool(room, NULL), *next;
    struct pl_peer *found = NULL, *older;
    uint64_t best_ns = PL_NEVER;

    while (pool) {
        older = find_in_pool(pool, &best_ns);
        if (older && found)
            let_peer_go(found);
        found = older ? older : found;
        next = pl_room_next_pool(room, pool);
        pl_pool_leave(pool);
        pool = next;
    }
    return found;
}

/* What carries a query meanwhile, or must be proved first, is passed. */
static void let_line_go(struct pl_peer *peer)
{
    struct pl_exchange *exchange = atomic_load(&peer->exchange);
    struct pl_wakes wakes = { 0 };
    struct pl_line *line;
    bool has_gone = false;

    pthread_mutex_lock(&exchange->lock);
    while (!has_gone && (line = oldest_line(exchange))) {
        pl_line_retire(line);
        has_gone = pl_line_let_go(line, &wakes);        /* unlocks meanwhile */
    }
    pl_exchange_unlock(exchange, &wakes);
}

/* False: no line carries nothing. */
static bool let_one_go(struct pl_room *room, struct pool *pool)
{
    uint64_t best_ns = PL_NEVER;
    struct pl_peer *peer;

    if (room->mux->is_forked)
        return false;
    peer = pool ? find_in_pool(pool, &best_ns) : find_in_room(room);
    if (!peer)
        return false;
    let_line_go(peer);
    let_peer_go(peer);
    return true;
}

bool pl_room_evict(struct pl_room *room, struct pool *pool)
{
    do {
        if (pl_room_evict_idle(room, pool))
            return true;
    } while (let_one_go(room, pool));
    return false;
}
