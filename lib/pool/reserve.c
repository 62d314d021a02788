/* reserve.c: see reserve.h. */
#include "pool/reserve.h"

#include <errno.h>

#include "base/os.h"
#include "pool/events.h"
#include "pool/pool.h"

/* ---- the bound */

static uint64_t bound(const struct pl_room *room)
{
    uint64_t left = atomic_load(&room->left), limit;

    if (!left)
        return UINT64_MAX;
    limit = pl_os->descriptor_limit();
    return limit > left ? limit - left : 0;
}

/* A birth; false: no more may be born on this mux. */
static bool take_share(struct pl_room *room)
{
    uint32_t shares = atomic_load(&room->shares);

    do {
        if (shares >= bound(room))
            return false;
    } while (!atomic_compare_exchange_weak(&room->shares, &shares, shares + 1));
    if (PL_LIKELY(shares < bound(room)))
        return true;
    atomic_fetch_sub(&room->shares, 1);         /* it was set in between, without this share */
    return false;
}

bool pl_pool_try_share(struct pool *pool, bool *is_reserved)
{
    uint32_t total = atomic_load(&pool->total);

    *is_reserved = false;
    do {
        if (total >= pool->settings.options.max_connections)
            return false;
    } while (!atomic_compare_exchange_weak(&pool->total, &total, total + 1));
    if (take_share(pool->room))
        return true;
    atomic_fetch_sub(&pool->total, 1);
    *is_reserved = true;
    return false;
}

bool pl_pool_has_share(const struct pool *pool)
{
    return atomic_load(&pool->total) < pool->settings.options.max_connections;
}

void pl_pool_give_share(struct pool *pool)
{
    atomic_fetch_sub(&pool->room->shares, 1);
    atomic_fetch_sub(&pool->total, 1);
}

/* ---- counting */

/* Connections that surely have a socket. Peer lock held. */
static uint64_t count_at(struct pl_peer *peer)
{
    uint64_t count = 0;

    PL_LIST_EACH(link, &peer->shared.all) {
        struct pl_connection *connection = pl_container(link, struct pl_connection, all_link);
        enum pl_state state = pl_word_state(atomic_load(&connection->word));

        count += state != PL_OPENING && state != PL_CLOSING && state != PL_FREE;
    }
    return count;
}

static uint64_t count_of(struct pool *pool)
{
    uint64_t count = 0;

    pthread_mutex_lock(&pool->lock);
    PL_LIST_EACH(link, &pool->all_peers) {
        struct pl_peer *peer = pl_container(link, struct pl_peer, pool_link);

        pthread_mutex_lock(&peer->lock);
        count += count_at(peer);
        pthread_mutex_unlock(&peer->lock);
    }
    pthread_mutex_unlock(&pool->lock);
    return count;
}

static uint64_t count_sockets(struct pl_room *room)
{
    struct pool *pool = pl_room_next_pool(room, NULL), *next;
    uint64_t count = 0;

    while (pool) {
        count += count_of(pool);
        next = pl_room_next_pool(room, pool);
        pl_pool_leave(pool);
        pool = next;
    }
    return count;
}

/* ---- reserving */

static bool has_ended(const struct pool *pool)
{
    return atomic_load(&pool->state) == PL_POOL_DESTROYED;
}

/* Sets what this pool is to keep free, and what it was in *before. False: the pool has ended, and
 * nobody would ever give it back. */
static bool set_reserved(struct pool *pool, uint32_t count, uint32_t *before)
{
    struct pl_room *room = pool->room;
    bool may_reserve;

    pthread_mutex_lock(&room->lock);
    may_reserve = !count || !has_ended(pool);
    *before = pool->reserved;
    if (may_reserve) {
        room->reserved += count - *before;
        pool->reserved = count;
    }
    if (!room->reserved)
        atomic_store(&room->left, 0);
    pthread_mutex_unlock(&room->lock);
    return may_reserve;
}

/* Sets what `others` and what is reserved leave, and answers what is: one step, so that whoever
 * counted before it was changed does not have the last word. */
static uint32_t set_left(struct pl_room *room, int64_t others)
{
    uint32_t wanted;

    pthread_mutex_lock(&room->lock);
    wanted = room->reserved;
    atomic_store(&room->left, wanted ? (uint64_t)((others > 0 ? others : 0) + wanted) : 0);
    pthread_mutex_unlock(&room->lock);
    return wanted;
}

/* Works out anew how much is left to others. Answers how many connections must go before what is
 * reserved is free, 0 or less for none, or a negative errno in *error. What cannot be known errs on
 * the safe side: a socket that is opened after they were counted is taken for somebody else's, and
 * for one that has a share and is not known to have a socket another number must be free. */
static int64_t work_out(struct pl_room *room, int *error)
{
    int64_t limit = (int64_t)pl_os->descriptor_limit(), sockets, shares, free, unborn;
    uint32_t wanted;

    pthread_mutex_lock(&room->close_lock);
    sockets = (int64_t)count_sockets(room);
    free = pl_os->free_descriptors();
    pthread_mutex_unlock(&room->close_lock);
    *error = free < 0 ? (int)free : 0;
    if (free < 0)
        return 0;
    wanted = set_left(room, limit - free - sockets);
    shares = atomic_load(&room->shares);        /* whoever takes one from now on sees the bound */
    unborn = shares > sockets ? shares - sockets : 0;
    return wanted ? (int64_t)wanted + unborn - free : 0;
}

/* Evicts until what is reserved is free; false: nothing is left to evict. */
static bool make_room(struct pl_room *room)
{
    int64_t missing;
    int error;

    for (;;) {
        missing = work_out(room, &error);
        if (error)
            missing = 1; /* not even one to look with: after the next eviction there is */
        if (missing <= 0)
            return true;
        while (missing-- > 0) {
            if (!pl_room_evict(room, NULL))
                return false;
        }
    }
}

/* Some of the bound was lifted: those who stood before it try again. */
static void let_in(struct pool *pool, uint32_t count)
{
    while (count-- && pl_room_is_wanted_of(pool->room, pool))
        pl_room_serve(pool->room, pool, true);
}

void pl_reserve_end(struct pool *pool)
{
    uint32_t before;
    int error;

    if (set_reserved(pool, 0, &before) && before)
        work_out(pool->room, &error);
    let_in(pool, before);
}

static enum pool_status reserve(struct pool *pool, uint32_t count)
{
    uint32_t before;

    if (!set_reserved(pool, count, &before))
        return POOL_E_CLOSING;
    if (!make_room(pool->room)) {
        if (pl_pool_is_forked(pool))
            return POOL_E_FORKED;       /* a hook did */
        pl_reserve_end(pool);
        return has_ended(pool) ? POOL_E_CLOSING : POOL_E_RESOURCE;
    }
    if (has_ended(pool))
        return POOL_E_CLOSING;          /* meanwhile, and gave it back */
    if (before > count)
        let_in(pool, before - count);
    return POOL_OK;
}

enum pool_status pool_reserve_fds(struct pool *pool, uint32_t count)
{
    enum pool_status status = POOL_OK;

    if (!pool || count > INT32_MAX)
        return POOL_E_ARGUMENT;
    status = pl_pool_enter(pool);
    if (status)
        return status;
    if (count)
        status = reserve(pool, count);
    else
        pl_reserve_end(pool);
    pl_events_tell(pool);
    pl_pool_leave(pool);
    return status;
}
