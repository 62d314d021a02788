/* room.c: parking, eviction, and the queue of those who wait for room.
 *
 * The list of parked ones is lazy: what was lent since is dropped when met, and only the swap of
 * the word decides. It is in order of last use: a sweep takes all that is due, sorted.
 */
#include "pool/room.h"

#include "base/os.h"
#include "net/resolver.h"
#include "net/transport.h"
#include "pool/ask.h"
#include "pool/channel.h"
#include "pool/events.h"
#include "pool/hooks.h"
#include "pool/leak.h"
#include "pool/parked.h"
#include "pool/pool.h"
#include "pool/reply.h"
#include "pool/request.h"
#include "pool/tend.h"

#define RETRY_NS (100 * PL_MS)          /* how often one is tried for while none can be evicted */
#define TO_GIVE_BACK 0xff               /* as a close_reason, in a sweep: not to be closed */

_Atomic uint32_t pl_room_wanted;

static struct pl_connection *from_lru(struct pl_list *link)
{
    return pl_container(link, struct pl_connection, lru_link);
}

/* Room lock held. */
static void arm_sweep(struct pl_room *room, uint64_t when_ns)
{
    if (when_ns >= room->sweep_ns)
        return;
    room->sweep_ns = when_ns;
    pl_mux_timer_arm(room->mux, &room->sweep_timer, when_ns);
}

/* ---- the sweep */

/* Takes the peer's hot connections due at `now_ns` (PL_NEVER: all) out of reach, into `taken`. */
static void take_hot(struct pl_peer *peer, struct pl_room *room, uint64_t now_ns,
                     struct pl_list *taken)
{
    uint64_t before_ns = PL_NEVER, park_ns;
    bool is_more = false;

    pthread_mutex_lock(&peer->lock);
    if (!peer->pool || peer->pool->room != room) {
        pthread_mutex_unlock(&peer->lock);      /* reclaimed since it stood in the list */
        return;
    }
    park_ns = peer->pool->settings.park_ns;
    if (now_ns != PL_NEVER)
        before_ns = now_ns > park_ns ? now_ns - park_ns : 0;
    PL_LIST_EACH(link, &peer->shared.idle) {
        struct pl_connection *connection = pl_container(link, struct pl_connection, idle_link);
        uint64_t seen = atomic_load(&connection->word);

        if (pl_word_state(seen) != PL_IDLE || (seen & PL_PIN_MASK))
            continue;
        if (pl_get(connection->last_used_ns) > before_ns) {
            is_more = true;
            continue;
        }
        if (!pl_word_become_state(&connection->word, seen, PL_MUX))
            continue;
        pl_room_unpark(room, connection);       /* an entry from before it was last lent */
        pl_list_push_back(taken, &connection->lru_link);
    }
    if (is_more)
        pl_room_note_hot(room, peer);
    pthread_mutex_unlock(&peer->lock);
}

static struct pl_peer *pop_hot(struct pl_room *room, struct pl_list *hot)
{
    struct pl_list *link;
    struct pl_peer *peer = NULL;

    pthread_mutex_lock(&room->lock);
    link = pl_list_pop_front(hot);
    if (link) {
        peer = pl_container(link, struct pl_peer, room.hot_link);
        atomic_fetch_and(&peer->hints, ~(uint32_t)PL_HINT_HOT); /* before it is looked through */
    }
    pthread_mutex_unlock(&room->lock);
    return peer;
}

/* Room lock held. */
static void note_age(struct pl_room *room, struct pool *pool,
                     const struct pl_connection *connection)
{
    uint64_t expires_ns = pl_get(connection->expires_ns);

    if (expires_ns >= pool->aged_ns)
        return;
    pool->aged_ns = expires_ns;
    arm_sweep(room, expires_ns);
}

/* Room lock held. */
static void note_idle(struct pl_room *room, const struct pool *pool,
                      const struct pl_connection *connection)
{
    uint32_t idle_ms = pool->settings.options.idle_ms;

    if (idle_ms != POOL_NONE)
        arm_sweep(room, pl_after(pl_get(connection->last_used_ns), idle_ms * PL_MS));
}

/* The counter is the whole process's, and cheap; what it says is looked at more closely. */
static bool is_wanted_of(struct pl_room *room, const struct pool *pool)
{
    return PL_UNLIKELY(atomic_load(&pl_room_wanted)) && pl_room_is_wanted_of(room, pool);
}

enum park_end { PARKED, WANTED, STOLEN, TOO_OLD };

static enum park_end park(struct pl_room *room, struct pl_connection *connection, uint64_t now_ns)
{
    struct pl_peer *peer = connection->peer;
    struct pool *pool = peer->pool;
    uint32_t events = EPOLLIN | EPOLLRDHUP;
    uint64_t word;

    if (pl_transport_has_more(connection))
        events |= EPOLLOUT;             /* the socket will not tell of it again */
    if (pl_get(connection->expires_ns) <= now_ns)
        return TOO_OLD;
    pl_ask_forget(connection);
    pl_channel_drop_unused(connection);
    for (;;) {
        atomic_store(&connection->missed_event, false);
        if (!pl_connection_arm(connection, room->mux, events))
            return STOLEN;
        pthread_mutex_lock(&room->lock);
        pl_list_push_back(&pool->parked, &connection->lru_link);
        note_age(room, pool, connection);
        note_idle(room, pool, connection);
        word = pl_word_with(atomic_load(&connection->word), PL_PARKED);
        while (!pl_word_become(&connection->word, atomic_load(&connection->word), word))
            word = pl_word_with(atomic_load(&connection->word), PL_PARKED);
        pthread_mutex_unlock(&room->lock);
        /* It is anybody's now. What happened meanwhile is ours to tend only if we get it back. */
        if (!atomic_load(&connection->missed_event) &&
            !(atomic_load(&peer->hints) & ~(uint32_t)PL_HINT_HOT) && !is_wanted_of(room, pool))
            return PARKED;
        if (!pl_word_become_state(&connection->word, word, PL_MUX))
            return PARKED;
        pl_room_unpark(room, connection);
        if (!atomic_load(&connection->missed_event))
            return WANTED;
    }
}

/* What could not be parked is the caller's to give back or close, with no lock of the room held. */
static void park_all(struct pl_room *room, struct pl_list *taken, struct pl_list *rest)
{
    uint64_t now_ns = pl_os->coarse_ns();
    struct pl_list *link;

    pl_parked_sort(taken);
    while ((link = pl_list_pop_front(taken))) {
        struct pl_connection *connection = from_lru(link);
        enum park_end end = park(room, connection, now_ns);

        if (end == PARKED)
            continue;
        connection->close_reason = TO_GIVE_BACK;
        if (end != WANTED)
            connection->close_reason =
                (uint8_t)(end == STOLEN ? POOL_CLOSE_STOLEN : pl_peer_reason_of_age(connection));
        pl_list_push_back(rest, &connection->lru_link);
    }
}

/* Answers whether one of `pool` was closed; NULL: of any. */
static bool tend_rest(struct pl_list *rest, const struct pool *pool)
{
    struct pl_list *link;
    bool has_closed = false;

    while ((link = pl_list_pop_front(rest))) {
        struct pl_connection *connection = from_lru(link);
        bool ends = connection->close_reason != TO_GIVE_BACK;

        has_closed = has_closed || (ends && (!pool || connection->peer->pool == pool));
        if (ends)
            pl_peer_close(connection, (enum pool_close_reason)connection->close_reason);
        else
            pl_peer_give_back(connection->peer, connection);
    }
    return has_closed;
}

/* The sweep lock is held. */
static void sweep_locked(struct pl_room *room, bool all, struct pl_list *rest)
{
    struct pl_list hot, taken;
    struct pl_peer *peer;
    uint64_t now_ns = pl_os->now_ns();

    pl_list_init(&hot);
    pl_list_init(&taken);
    pthread_mutex_lock(&room->lock);
    pl_list_move_all(&hot, &room->hot);
    pthread_mutex_unlock(&room->lock);
    while ((peer = pop_hot(room, &hot)))
        take_hot(peer, room, all ? PL_NEVER : now_ns, &taken);
    park_all(room, &taken, rest);
}

void pl_room_park_one(struct pl_room *room, struct pl_connection *connection)
{
    struct pl_list taken, rest;

    pl_list_init(&taken);
    pl_list_init(&rest);
    pl_room_unpark(room, connection);
    pl_list_push_back(&taken, &connection->lru_link);
    pthread_mutex_lock(&room->sweep_lock);
    park_all(room, &taken, &rest);
    pthread_mutex_unlock(&room->sweep_lock);
    tend_rest(&rest, NULL);
}

void pl_room_sweep(struct pl_room *room, bool all)
{
    struct pl_list rest;

    pl_list_init(&rest);
    pthread_mutex_lock(&room->sweep_lock);
    sweep_locked(room, all, &rest);
    pthread_mutex_unlock(&room->sweep_lock);
    tend_rest(&rest, NULL);
}

/* ---- taking out of the parked ones */

static struct pl_connection *pop_oldest(struct pl_room *room, struct pool *pool)
{
    struct pl_connection *connection = NULL;
    uint64_t oldest_ns, best_ns = PL_NEVER;

    pthread_mutex_lock(&room->lock);
    if (!pool) {
        PL_LIST_EACH(link, &room->pools) {
            struct pool *other = pl_container(link, struct pool, room_link);

            oldest_ns = pl_parked_oldest(other);
            if (oldest_ns < best_ns) {
                best_ns = oldest_ns;
                pool = other;
            }
        }
    }
    if (pool)
        connection = pl_parked_pop(pool, PL_NEVER, POOL_CLOSE_EVICTED);
    pthread_mutex_unlock(&room->lock);
    return connection;
}

/* Where all pools park after the same time, every hot connection is younger than every parked
 * one. */
static bool is_parking_even(struct pl_room *room)
{
    uint64_t first_ns = PL_NEVER;
    bool is_even = true;

    pthread_mutex_lock(&room->lock);
    PL_LIST_EACH(link, &room->pools) {
        uint64_t park_ns = pl_container(link, struct pool, room_link)->settings.park_ns;

        is_even = is_even && (first_ns == PL_NEVER || first_ns == park_ns);
        first_ns = park_ns;
    }
    pthread_mutex_unlock(&room->lock);
    return is_even;
}

bool pl_room_evict_idle(struct pl_room *room, struct pool *pool)
{
    struct pl_connection *connection = NULL;
    struct pl_list rest;

    if (room->mux->is_forked)
        return false;
    pl_list_init(&rest);
    pthread_mutex_lock(&room->sweep_lock);
    if (pool || is_parking_even(room))
        connection = pop_oldest(room, pool);
    if (!connection) {
        sweep_locked(room, true, &rest);
        connection = pop_oldest(room, pool);
    }
    pthread_mutex_unlock(&room->sweep_lock);
    if (connection)
        pl_peer_finish_close(connection);
    return tend_rest(&rest, pool) || connection;
}

void pl_room_unpark(struct pl_room *room, struct pl_connection *connection)
{
    pthread_mutex_lock(&room->lock);
    pl_list_drop(&connection->lru_link);
    pthread_mutex_unlock(&room->lock);
}

/* ---- hot peers */

void pl_room_note_hot(struct pl_room *room, struct pl_peer *peer)
{
    pthread_mutex_lock(&room->lock);
    atomic_fetch_or(&peer->hints, PL_HINT_HOT);
    if (!pl_list_is_linked(&peer->room.hot_link))
        pl_list_push_front(&room->hot, &peer->room.hot_link);
    arm_sweep(room, pl_after(pl_os->now_ns(), peer->pool->settings.park_ns));
    pthread_mutex_unlock(&room->lock);
}

void pl_room_forget_peer(struct pl_room *room, struct pl_peer *peer)
{
    pthread_mutex_lock(&room->lock);
    pl_list_drop(&peer->room.hot_link);
    pl_list_drop(&peer->room.tend_link);
    atomic_fetch_and(&peer->hints, ~(uint32_t)PL_HINT_HOT);
    pthread_mutex_unlock(&room->lock);
    pl_room_stop_wanting(room, peer);
}

bool pl_room_peer_is_listed(struct pl_room *room, struct pl_peer *peer)
{
    bool is_listed;

    pthread_mutex_lock(&room->lock);
    is_listed = pl_list_is_linked(&peer->room.hot_link) ||
                pl_list_is_linked(&peer->room.want_link) ||
                pl_list_is_linked(&peer->room.tend_link);
    pthread_mutex_unlock(&room->lock);
    return is_listed;
}

/* ---- those who want room */

enum pool_decision pl_room_ask(struct pool *pool, pool_none_removable_fn *ask)
{
    static __thread bool is_asking __attribute__((tls_model("initial-exec")));
    enum pool_decision decision;
    struct pl_hook hook;

    if (!ask || is_asking || !pl_hook_enter(pool, &hook))
        return POOL_CONTINUE;
    is_asking = true;
    decision = ask(pool, pool->settings.options.user);
    is_asking = false;
    pl_hook_leave(pool, &hook);
    return decision;
}

void pl_room_note_short(struct pl_peer *peer, int cause)
{
    peer->shared.is_short = true;
    peer->shared.short_of = cause;
}

void pl_room_want(struct pl_room *room, struct pl_peer *peer, bool wants_descriptor, int cause)
{
    struct pool *pool = peer->pool;

    if (room->mux->is_forked)
        return;
    pthread_mutex_lock(&peer->lock);
    peer->shared.is_wanting = true;
    pl_room_note_short(peer, cause);
    pthread_mutex_lock(&room->lock);
    peer->room.wants_descriptor = wants_descriptor;
    if (!pl_list_is_linked(&peer->room.want_link)) {
        pl_list_push_back(&room->wanting, &peer->room.want_link);
        atomic_fetch_add(&pl_room_wanted, 1);
    }
    if (wants_descriptor)
        pl_mux_timer_arm(room->mux, &room->retry_timer, pl_after(pl_os->now_ns(), RETRY_NS));
    pthread_mutex_unlock(&room->lock);
    pthread_mutex_unlock(&peer->lock);
    /* What was returned too early to see the flag is idle now; closing it serves who is first. And
     * what was closed too early has left its share. */
    if (!pl_room_evict(room, wants_descriptor ? NULL : pool) && !wants_descriptor &&
        pl_pool_has_share(pool))
        pl_room_serve(room, pool, false);
}

/* Room lock held. */
static void unlink_wanting(struct pl_peer *peer)
{
    pl_list_unlink(&peer->room.want_link);
    atomic_fetch_sub(&pl_room_wanted, 1);
}

void pl_room_stop_wanting(struct pl_room *room, struct pl_peer *peer)
{
    pthread_mutex_lock(&room->lock);
    if (pl_list_is_linked(&peer->room.want_link))
        unlink_wanting(peer);
    pthread_mutex_unlock(&room->lock);
}

static bool helps(const struct pl_peer *peer, const struct pool *pool, bool has_freed_descriptor)
{
    return peer->room.wants_descriptor ? has_freed_descriptor : peer->pool == pool;
}

bool pl_room_is_wanted_of(struct pl_room *room, const struct pool *pool)
{
    bool is_wanted = false;

    pthread_mutex_lock(&room->lock);
    PL_LIST_EACH(link, &room->wanting) {
        struct pl_peer *peer = pl_container(link, struct pl_peer, room.want_link);

        is_wanted = is_wanted || helps(peer, pool, true);
    }
    pthread_mutex_unlock(&room->lock);
    return is_wanted;
}

/* The first one whom it helps, out of the queue; its generation tells later if it is the same. */
static struct pl_peer *pop_wanting(struct pl_room *room, const struct pool *pool,
                                   bool has_freed_descriptor, uint64_t *generation)
{
    struct pl_peer *found = NULL;

    pthread_mutex_lock(&room->lock);
    PL_LIST_EACH(link, &room->wanting) {
        struct pl_peer *peer = pl_container(link, struct pl_peer, room.want_link);

        if (!found && helps(peer, pool, has_freed_descriptor)) {
            found = peer;
            *generation = atomic_load(&peer->generation);
            unlink_wanting(peer);
        }
    }
    pthread_mutex_unlock(&room->lock);
    return found;
}

static bool is_wanting(struct pl_room *room, struct pl_peer *peer)
{
    bool is_wanting;

    pthread_mutex_lock(&room->lock);
    is_wanting = pl_list_is_linked(&peer->room.want_link);
    pthread_mutex_unlock(&room->lock);
    return is_wanting;
}

void pl_room_serve(struct pl_room *room, const struct pool *pool, bool has_freed_descriptor)
{
    struct pl_peer *peer;
    struct pool *owner;
    uint64_t generation;
    bool is_used = false;

    while (!is_used && !room->mux->is_forked &&
           (peer = pop_wanting(room, pool, has_freed_descriptor, &generation))) {
        if (!pl_peer_enter(peer, NULL, generation))
            continue;
        owner = peer->pool;
        pthread_mutex_lock(&peer->lock);
        peer->shared.is_wanting = false;
        pthread_mutex_unlock(&peer->lock);
        /* When it needs none, the room is for the next one in the queue; when it could not use it
         * and wants it again, nobody could. */
        is_used = pl_peer_supply(peer) || is_wanting(room, peer);
        pl_peer_leave(peer);
        pl_pool_leave(owner);
    }
}

/* ---- loans */

/* A look for leaks sets the time to never before it reads the notes: whoever still reads the old
 * time here has written its note before that. */
void pl_room_note_loan(struct pl_room *room, struct pool *pool, uint64_t due_ns)
{
    if (due_ns >= atomic_load(&pool->leak_ns))
        return;
    pthread_mutex_lock(&room->lock);
    if (due_ns < atomic_load(&pool->leak_ns))
        atomic_store(&pool->leak_ns, due_ns);
    arm_sweep(room, due_ns);
    pthread_mutex_unlock(&room->lock);
}

/* ---- timers */

static void on_sweep(void *user)
{
    struct pl_room *room = user;
    uint64_t expire_ns, leak_ns;

    pthread_mutex_lock(&room->lock);
    room->sweep_ns = PL_NEVER;
    pthread_mutex_unlock(&room->lock);
    pl_room_sweep(room, false);
    if (room->mux->is_forked)
        return;
    expire_ns = pl_parked_expire(room, pl_os->now_ns());
    leak_ns = pl_leak_look(room, pl_os->now_ns());
    pthread_mutex_lock(&room->lock);
    arm_sweep(room, pl_earlier(expire_ns, leak_ns));
    pthread_mutex_unlock(&room->lock);
}

static void on_retry(void *user)
{
    struct pl_room *room = user;

    pl_room_serve(room, NULL, true);
    if (room->mux->is_forked)
        return;
    pthread_mutex_lock(&room->lock);
    if (!pl_list_is_empty(&room->wanting))
        pl_mux_timer_arm(room->mux, &room->retry_timer, pl_after(pl_os->now_ns(), RETRY_NS));
    pthread_mutex_unlock(&room->lock);
}

/* ---- life */

static void close_room(struct pool_mux *mux)
{
    struct pl_room *room = mux->extension;

    pl_mux_timer_close(mux, &room->sweep_timer);
    pl_mux_timer_close(mux, &room->retry_timer);
    pl_mux_timer_close(mux, &room->tend_timer);
    pl_request_drop_spares(&room->on_mux.spares);
    pl_reply_drop_spares(&room->on_mux.replies);
    pl_resolver_close(room->on_mux.resolver);
    pthread_mutex_destroy(&room->close_lock);
    pthread_mutex_destroy(&room->sweep_lock);
    pthread_mutex_destroy(&room->lock);
    pl_os->free(room);
}

enum pool_status pl_room_open(struct pool_mux *mux, struct pl_room **opened)
{
    struct pl_room *room = pl_zalloc(sizeof(*room));

    *opened = NULL;
    if (!room)
        return POOL_E_MEMORY;
    room->mux = mux;
    room->sweep_ns = room->tend_ns = PL_NEVER;
    pl_list_init(&room->pools);
    pl_list_init(&room->tended);
    pl_list_init(&room->hot);
    pl_list_init(&room->wanting);
    pl_list_init(&room->on_mux.spares);
    pl_list_init(&room->on_mux.replies);
    if (!pl_mux_timer_open(mux, &room->sweep_timer, on_sweep, room))
        goto no_sweep;
    if (!pl_mux_timer_open(mux, &room->retry_timer, on_retry, room))
        goto no_retry;
    if (!pl_mux_timer_open(mux, &room->tend_timer, pl_tend_on_timer, room))
        goto no_tend;
    pthread_mutex_init(&room->lock, NULL);
    pthread_mutex_init(&room->sweep_lock, NULL);
    pthread_mutex_init(&room->close_lock, NULL);
    mux->extension = room;
    mux->end_extension = close_room;
    *opened = room;
    return POOL_OK;

no_tend:
    pl_mux_timer_close(mux, &room->retry_timer);
no_retry:
    pl_mux_timer_close(mux, &room->sweep_timer);
no_sweep:
    pl_os->free(room);
    return POOL_E_MEMORY;
}

void pl_room_add_pool(struct pl_room *room, struct pool *pool)
{
    pthread_mutex_lock(&room->lock);
    pl_list_push_back(&room->pools, &pool->room_link);
    pthread_mutex_unlock(&room->lock);
}

void pl_room_remove_pool(struct pl_room *room, struct pool *pool)
{
    pthread_mutex_lock(&room->lock);
    pl_list_unlink(&pool->room_link);
    pthread_mutex_unlock(&room->lock);
}
