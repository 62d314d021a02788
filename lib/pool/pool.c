/* pool.c: the life of a pool, and the table of its peers. */
#include "net/resolver.h"
#include "pool/pool.h"

#include "base/os.h"
#include "net/address.h"
#include "net/tls_settings.h"
#include "pool/events.h"
#include "pool/exchange.h"
#include "pool/fork.h"
#include "pool/line.h"
#include "pool/secure.h"
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

void pl_pools_visit(void (*visit)(void *pool, void *argument), void *argument)
{
    pl_arena_visit(&pools, visit, argument);
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
    uint64_t refs = atomic_load(&pool->refs);

    while ((uint32_t)refs && !atomic_compare_exchange_weak(&pool->refs, &refs, refs + 1))
        continue;
    return (uint32_t)refs;
}

/* Every connection, peer and call is gone. */
static void free_pool(struct pool *pool)
{
    struct pool_mux *mux = pool->mux;

    pl_workers_join(&pool->workers);
    pl_room_remove_pool(pool->room, pool);
    pl_events_close(pool);
    pl_secure_end(pool);
    pl_table_fini(&pool->peers);
    pl_arena_give(&pools, pool);
    pl_mux_unref(mux);
}

/* Of those who find that nobody is left one frees, of the life that he left: a call that came too
 * late may have been the last one meanwhile, and another pool may stand here by now. */
void pl_pool_leave(struct pool *pool)
{
    uint64_t left = atomic_fetch_sub(&pool->refs, 1) - 1;

    if ((uint32_t)left || !(left & PL_POOL_LIFE) ||
        atomic_load(&pool->state) != PL_POOL_DESTROYED ||
        !atomic_compare_exchange_strong(&pool->refs, &left, left + PL_POOL_LIFE))
        return;
    atomic_store(&pool->state, PL_POOL_NONE);
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
        status = pl_secure_begin(pool, error);
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
    atomic_store(&pool->reload.is_posted, false);
    atomic_store(&pool->tls, settings.options.tls ? pl_tls_keep(settings.options.tls) : NULL);
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
    atomic_fetch_add(&pool->refs, PL_POOL_LIFE + 1);
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
        pl_secure_end(pool);
    if (pool)
        pl_arena_give(&pools, pool);
    return status;
}

/* ---- the library's end */

__attribute__((destructor)) static void library_end(void)
{
    if (pl_arena_is_used(&pools))
        return;                         /* the process exits, and threads still use them */
    pl_connection_library_end();
    pl_resolver_library_end();
    pl_exchange_library_end();
    pl_lines_library_end();
    pl_peer_library_end();
    pl_arena_release(&pools);
    pl_thread_library_end();
}
