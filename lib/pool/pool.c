/* pool.c: the life of a pool, and the table of its peers. */
#include "pool/pool.h"

#include "base/os.h"
#include "net/address.h"
#include "pool/channel.h"
#include "pool/close.h"
#include "pool/events.h"
#include "pool/fork.h"
#include "pool/hooks.h"
#include "pool/open.h"
#include "pool/reserve.h"
#include "pool/retry.h"
#include "pool/waiter.h"
#include "pool/watch.h"

static void prepare_pool(void *element)
{
    struct pool *pool = element;

    pthread_mutex_init(&pool->lock, NULL);
    pthread_mutex_init(&pool->workers.lock, NULL);
    pthread_mutex_init(&pool->round_lock, NULL);
}

static struct pl_arena pools = PL_ARENA_INIT(pools, struct pool, prepare_pool);
static pthread_mutex_t creation = PTHREAD_MUTEX_INITIALIZER; /* two on a new mux make one room */

/* ---- fork */

void pl_pools_hold(void)
{
    pl_arena_hold(&pools);
}

void pl_pools_let_go(void)
{
    pl_arena_let_go(&pools);
}

/* Locks that threads which are no more may have held are made anew: a free pool will be a new one,
 * and whoever comes back from a callback is on his way out of the others. */
static void orphan(void *element, void *unused)
{
    struct pool *pool = element;

    (void)unused;
    prepare_pool(pool);
    if (atomic_load(&pool->state) == PL_POOL_NONE || pl_pool_is_forked(pool))
        return;
    atomic_store(&pool->state, PL_POOL_FORKED);
    pthread_mutex_init(&pool->room->lock, NULL);
    pthread_mutex_init(&pool->room->sweep_lock, NULL);
    pthread_mutex_init(&pool->room->close_lock, NULL);
}

void pl_pools_orphan(void)
{
    pthread_mutex_init(&creation, NULL);
    pl_arena_visit(&pools, orphan, NULL);
}

/* ---- references */

enum pool_status pl_pool_enter(struct pool *pool)
{
    enum pool_status refusal = POOL_E_CLOSING;

    atomic_fetch_add(&pool->refs, 1);
    switch ((enum pl_pool_state)atomic_load(&pool->state)) {
    case PL_POOL_LIVE:
    case PL_POOL_PAUSED:
    case PL_POOL_CLOSING:
        return POOL_OK;
    case PL_POOL_FORKED:
        refusal = POOL_E_FORKED;
        break;
    case PL_POOL_NONE:
    case PL_POOL_DESTROYED:
        break;
    }
    pl_pool_leave(pool);
    return refusal;
}

enum pool_status pl_pool_refusal(const struct pool *pool)
{
    switch ((enum pl_pool_state)atomic_load(&pool->state)) {
    case PL_POOL_LIVE:
        return POOL_OK;
    case PL_POOL_PAUSED:
        return POOL_E_CLEARED;
    case PL_POOL_FORKED:
        return POOL_E_FORKED;
    case PL_POOL_NONE:
    case PL_POOL_CLOSING:
    case PL_POOL_DESTROYED:
        break;
    }
    return POOL_E_CLOSING;
}

enum pool_status pl_pool_admission(const struct pool *pool, bool has_waited)
{
    if (has_waited && atomic_load(&pool->state) == PL_POOL_CLOSING)
        return POOL_OK;
    return pl_pool_refusal(pool);
}

void pl_pool_ref(struct pool *pool)
{
    atomic_fetch_add(&pool->refs, 1);
}

bool pl_pool_try_ref(struct pool *pool)
{
    uint32_t refs = atomic_load(&pool->refs);

    while (refs && !atomic_compare_exchange_weak(&pool->refs, &refs, refs + 1))
        continue;
    return refs;
}

/* Every connection, peer and call is gone. */
static void free_pool(struct pool *pool)
{
    struct pool_mux *mux = pool->mux;

    pl_workers_join(&pool->workers);
    pl_room_remove_pool(pool->room, pool);
    pl_events_close(pool);
    pl_table_fini(&pool->peers);
    pl_arena_give(&pools, pool);
    pl_mux_unref(mux);
}

void pl_pool_leave(struct pool *pool)
{
    uint32_t destroyed = PL_POOL_DESTROYED;

    if (atomic_fetch_sub(&pool->refs, 1) == 1 &&
        atomic_compare_exchange_strong(&pool->state, &destroyed, PL_POOL_NONE))
        free_pool(pool);
}

void pl_pool_count(struct pool *pool, uint64_t *counter)
{
    pthread_mutex_lock(&pool->lock);
    ++*counter;
    pthread_mutex_unlock(&pool->lock);
}

/* ---- peers */

static bool is_peer_of(const struct pl_table_node *node, const void *key)
{
    return pl_key_is_same(&pl_container(node, struct pl_peer, table_node)->key, key);
}

static bool is_open(const struct pool *pool)
{
    uint32_t state = atomic_load(&pool->state);

    return state == PL_POOL_LIVE || state == PL_POOL_PAUSED;
}

/* Pool lock held. NULL: there is none; else it is entered. */
static struct pl_peer *find(struct pool *pool, const struct pl_key *key)
{
    struct pl_table_node *node = pl_table_find(&pool->peers, pl_key_hash(key), is_peer_of, key);

    return node ? pl_peer_join(pl_container(node, struct pl_peer, table_node)) : NULL;
}

/* Peers are found and made under the lock, so two callers never make two of one address. Takes the
 * address. */
static struct pl_peer *find_or_make(struct pool *pool, struct pool_address *address)
{
    struct pl_key key = pl_key_make(address, &pool->settings.options);
    struct pl_peer *peer;

    pthread_mutex_lock(&pool->lock);
    peer = find(pool, &key);
    if (!peer && is_open(pool)) {
        peer = pl_peer_make(pool, address);
        if (peer) {
            peer->key = key;
            pl_table_add(&pool->peers, &peer->table_node, pl_key_hash(&key));
            pl_list_push_back(&pool->all_peers, &peer->pool_link);
            address = NULL;
        }
    }
    pthread_mutex_unlock(&pool->lock);
    pool_address_unref(address);
    return peer;
}

struct pl_peer *pl_pool_look_up(struct pool *pool, const struct pool_address *address)
{
    struct pl_key key = pl_key_make(address, &pool->settings.options);
    struct pl_peer *peer;

    pthread_mutex_lock(&pool->lock);
    peer = find(pool, &key);
    pthread_mutex_unlock(&pool->lock);
    return peer;
}

static enum pool_status refuse(struct pl_failure failure, const char *text,
                               struct pool_error *error)
{
    pl_failure_tell(&failure, NULL, text, error);
    return (enum pool_status)failure.status;
}

enum pool_status pl_pool_find_peer(struct pool *pool, const char *text, struct pl_peer **peer,
                                   struct pool_error *error)
{
    struct pool_address *address;
    enum pool_status status = pool_address_parse(text, &address, error);

    *peer = NULL;
    if (status == POOL_E_MEMORY)
        return refuse(pl_failure_make(status, POOL_PHASE_NONE, 0), text, error);
    if (status)
        return status;
    if (address->scheme == PL_SCHEME_TLS)
        status = refuse(pl_failure_because(PL_REASON_TLS, POOL_PHASE_NONE, 0), text, error);
    else if (!pl_address_is_literal(address))
        status =
            refuse(pl_failure_because(PL_REASON_NAME, POOL_PHASE_RESOLVE, 0), text, error);
    if (status) {
        pool_address_unref(address);
        return status;
    }
    *peer = find_or_make(pool, address);
    if (*peer)
        return POOL_OK;
    status = is_open(pool) ? POOL_E_MEMORY : POOL_E_CLOSING;
    return refuse(pl_failure_make(status, POOL_PHASE_NONE, 0), text, error);
}

/* ---- creation */

static enum pool_status open_mux(struct pool *pool, struct pool_mux *mux)
{
    enum pool_status status = POOL_OK;

    pool->mux = mux;
    if (mux && mux->is_forked)
        return POOL_E_FORKED;
    if (mux)
        pl_mux_ref(mux);
    else
        status = pl_mux_open(&pool->mux, true);
    if (status)
        return status;
    pthread_mutex_lock(&creation);
    pool->room = pool->mux->extension;
    if (!pool->room) {
        status = pl_room_open(pool->mux, &pool->room);
        if (!status)
            atomic_store(&pool->mux->on_watch[PL_WATCH_CONNECTION], pl_watch_on_event);
    }
    pthread_mutex_unlock(&creation);
    if (status)
        pl_mux_unref(pool->mux);
    return status;
}

enum pool_status pool_create(const struct pool_options *options, struct pool **created)
{
    struct pl_settings settings;
    enum pool_status status;
    struct pool *pool;

    if (!created)
        return POOL_E_ARGUMENT;
    *created = NULL;
    status = pl_settings_make(options, &settings);
    if (status)
        return status;
    pool = pl_fork_notice() ? pl_arena_take(&pools) : NULL;
    if (!pool || !pl_thread_self()) {
        status = POOL_E_MEMORY;
        goto no_pool;
    }
    pool->settings = settings;
    status = open_mux(pool, settings.options.mux);
    if (status)
        goto no_pool;
    status = pl_events_open(pool);
    if (status)
        goto no_events;
    pl_table_init(&pool->peers);
    pl_list_init(&pool->all_peers);
    pl_list_init(&pool->parked);
    pl_list_init(&pool->pausing);
    pl_list_init(&pool->hooks);
    pl_workers_init(&pool->workers);
    pool->aged_ns = PL_NEVER;
    pool->last_round = 0;
    pool->closing = NULL;
    pool->reserved = 0;
    atomic_store(&pool->leak_ns, PL_NEVER);
    pool->books = (struct pl_books){ 0 };
    atomic_store(&pool->total, 0);
    atomic_store(&pool->last_id, 0);
    pl_room_add_pool(pool->room, pool);
    atomic_fetch_add(&pool->refs, 1);
    atomic_store(&pool->state, settings.options.start_paused ? PL_POOL_PAUSED : PL_POOL_LIVE);
    *created = pool;
    pl_pool_ref(pool);                  /* an observer may end it at once */
    pl_event_of_pool(pool, POOL_EVENT_POOL_CREATED);
    if (!settings.options.start_paused)
        pl_event_of_pool(pool, POOL_EVENT_POOL_READY);
    pl_events_tell(pool);
    pl_pool_leave(pool);
    return POOL_OK;

no_events:
    pl_mux_unref(pool->mux);
no_pool:
    if (pool)
        pl_arena_give(&pools, pool);
    return status;
}

/* ---- the end */

/* A connection as the destroyer meets it; peer lock held. True: it is idle no more, and the
 * destroyer's to close. */
static bool end_connection(struct pl_connection *connection)
{
    uint64_t seen = atomic_load(&connection->word);

    while (pl_word_state(seen) == PL_IDLE || pl_word_state(seen) == PL_PARKED) {
        if (pl_word_become_state(&connection->word, seen, PL_CLOSING)) {
            connection->close_reason = POOL_CLOSE_POOL;
            return true;
        }
        seen = atomic_load(&connection->word);
    }
    if (pl_word_state(seen) == PL_LENT && pl_word_pin_any(&connection->word)) {
        pl_connection_doom(connection, PL_DOOM_POOL);
        pl_connection_shut(connection);
        pl_channel_end(connection);
        if (pl_word_unpin(&connection->word))
            return true;
    }
    return false;
}

/* Does the destroyer have something to do with it yet? One that somebody watches has a last call to
 * get. Peer lock held. */
static bool is_unended(const struct pl_connection *connection)
{
    return atomic_load(&connection->doom) != PL_DOOM_POOL || pl_channel_of(connection);
}

/* Closes what is idle, shuts down what is lent, one at a time: closing takes the lock. */
static void end_connections(struct pl_peer *peer)
{
    struct pl_connection *mine;

    do {
        mine = NULL;
        pthread_mutex_lock(&peer->lock);
        PL_LIST_EACH(link, &peer->shared.all) {
            struct pl_connection *connection = pl_container(link, struct pl_connection, all_link);

            if (!mine && is_unended(connection) && end_connection(connection))
                mine = connection;
        }
        pthread_mutex_unlock(&peer->lock);
        if (mine)
            pl_peer_finish_close(mine);
    } while (mine);
}

/* The next peer that was not told of the end yet, entered and told; NULL: none is left. */
static struct pl_peer *next_peer(struct pool *pool)
{
    struct pl_peer *peer = NULL;

    pthread_mutex_lock(&pool->lock);
    if (!pl_list_is_empty(&pool->all_peers)) {
        peer = pl_container(pool->all_peers.next, struct pl_peer, pool_link);
        atomic_fetch_or(&peer->hints, PL_HINT_CLOSING);
        if (peer->is_ended) {
            peer = NULL;
        } else {
            peer->is_ended = true;
            pl_list_unlink(&peer->pool_link);
            pl_list_push_back(&pool->all_peers, &peer->pool_link);
            pl_peer_join(peer);
        }
    }
    pthread_mutex_unlock(&pool->lock);
    return peer;
}

/* A peer of which that holds, entered; NULL: none. */
static struct pl_peer *next_peer_that(struct pool *pool, bool (*holds)(struct pl_peer *peer))
{
    struct pl_peer *found = NULL;

    pthread_mutex_lock(&pool->lock);
    PL_LIST_EACH(link, &pool->all_peers) {
        struct pl_peer *peer = pl_container(link, struct pl_peer, pool_link);

        if (found)
            break;
        pthread_mutex_lock(&peer->lock);
        if (holds(peer)) {
            found = peer;
            peer->shared.users++;
        }
        pthread_mutex_unlock(&peer->lock);
    }
    pthread_mutex_unlock(&pool->lock);
    return found;
}

static bool has_ordered(struct pl_peer *peer)
{
    return pl_open_has_unready(peer, true);
}

static bool has_unready(struct pl_peer *peer)
{
    return pl_open_has_unready(peer, false);
}

void pl_pool_abort_unready(struct pool *pool, bool is_ordered)
{
    struct pl_peer *peer;

    while (!pl_pool_is_forked(pool) &&
           (peer = next_peer_that(pool, is_ordered ? has_ordered : has_unready))) {
        pl_open_abort(peer, is_ordered);
        pl_peer_leave(peer);
    }
}

/* The part of the end that only the mux thread may do. */
struct end {
    struct pl_post post;
    struct pool *pool;
    struct pl_thread *thread;
    bool is_inside; /* a callback ends the pool: others may be due after it */
    _Atomic bool is_done;
};

static void on_end(struct pl_post *post)
{
    struct end *end = pl_container(post, struct end, post);
    struct pl_thread *thread = end->thread;

    if (pl_mux_is_dispatching(end->pool->mux) && !end->is_inside)
        /* borrows that were granted in this batch */
        pl_mux_run_posted_here(end->pool->mux, end->pool);
    pl_pool_abort_unready(end->pool, false);
    if (!pl_pool_is_forked(end->pool))
        pl_close_end(end->pool);
    atomic_store(&end->is_done, true);
    pl_thread_wake(thread);
}

/* The second one is posted behind all that the first one made to be posted: last calls of
 * channels. */
static void end_on_mux(struct pool *pool)
{
    struct pl_thread *self = pl_thread_self();
    bool is_inside = pl_mux_is_dispatching(pool->mux);

    for (int round = 0; round < 2 && self; round++) {
        struct end end = { .post = { .run = on_end, .owner = pool },
                           .pool = pool,
                           .thread = self,
                           .is_inside = is_inside };

        if (pl_pool_is_forked(pool))
            return;
        if (is_inside) {
            on_end(&end.post);
            continue;
        }
        pl_mux_post(pool->mux, &end.post);
        while (!atomic_load(&end.is_done) && !pl_pool_is_forked(pool)) {
            if (pool->mux->has_thread)
                pl_thread_wait(self, PL_NEVER);
            else if (!pl_mux_visit(pool->mux, pool))
                pl_thread_wait(self, pl_after(pl_os->now_ns(), PL_MS));
        }
    }
}

/* Peer lock held. */
static bool has_unended(struct pl_peer *peer)
{
    PL_LIST_EACH(link, &peer->shared.all) {
        struct pl_connection *connection = pl_container(link, struct pl_connection, all_link);

        if (pl_word_state(atomic_load(&connection->word)) == PL_LENT &&
            (!atomic_load(&connection->doom) || pl_channel_of(connection)))
            return true;
    }
    return false;
}

/* One that was in the pool's own hands when the rest was ended, and was lent since. */
static void end_stragglers(struct pool *pool)
{
    struct pl_peer *peer;

    while ((peer = next_peer_that(pool, has_unended))) {
        end_connections(peer);
        pl_peer_leave(peer);
    }
}

/* Asynchronous calls and channels that were not told their end, hooks that run. */
static bool has_last_calls(struct pool *pool)
{
    return atomic_load(&pool->undelivered) || atomic_load(&pool->channels) ||
           pl_hooks_run_elsewhere(pool);
}

/* Waits for them, unless called from where they are made. */
static void await_last_calls(struct pool *pool)
{
    struct pl_thread *self = pl_thread_self();
    bool is_inside = pl_mux_is_dispatching(pool->mux) || pl_workers_are_here(&pool->workers);

    while (self && !is_inside && !pl_pool_is_forked(pool) && has_last_calls(pool)) {
        end_stragglers(pool);
        if (pool->mux->has_thread || !pl_mux_visit(pool->mux, pool) || has_last_calls(pool))
            pl_thread_wait(self, pl_after(pl_os->now_ns(), PL_MS));
    }
}

/* False: somebody else ended it already. */
static bool begin_end(struct pool *pool)
{
    uint32_t state = atomic_load(&pool->state);

    do {
        if (state != PL_POOL_LIVE && state != PL_POOL_PAUSED && state != PL_POOL_CLOSING)
            return false;
    } while (!atomic_compare_exchange_weak(&pool->state, &state, PL_POOL_DESTROYED));
    return true;
}

void pool_destroy(struct pool *pool)
{
    struct pl_failure failure = pl_failure_make(POOL_E_CLOSING, POOL_PHASE_WAIT, 0);
    struct pl_peer *peer;

    if (!pool)
        return;
    if (!begin_end(pool)) {
        if (pl_pool_is_forked(pool))
            pl_fork_destroy(pool);
        return;
    }
    pl_retry_wake_all(pool);
    while (!pl_pool_is_forked(pool) && (peer = next_peer(pool))) {
        pl_peer_fail_waiters(peer, &failure, 0, true);
        end_connections(peer);
        pl_peer_leave(peer);
    }
    pl_reserve_end(pool);
    end_on_mux(pool);
    await_last_calls(pool);
    if (pl_pool_is_forked(pool)) {      /* in one of its last callbacks */
        pl_fork_destroy(pool);
        return;
    }
    pl_event_of_pool(pool, POOL_EVENT_POOL_CLOSED);
    pl_events_stop(pool);
    pl_pool_leave(pool);
}

__attribute__((destructor)) static void library_end(void)
{
    if (pl_arena_is_used(&pools))
        return;                         /* the process exits, and threads still use them */
    pl_connection_library_end();
    pl_peer_library_end();
    pl_arena_release(&pools);
    pl_thread_library_end();
}
