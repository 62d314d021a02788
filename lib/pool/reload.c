/* reload.c: other settings of TLS for the pools that have them, and the end of the connections that
 * the old ones secured. The caller only tells the mux of each such pool; the rest is done there.
 */
#include "base/os.h"
#include "commpool/tls.h"
#include "net/tls_settings.h"
#include "pool/drain.h"
#include "pool/exchange.h"
#include "pool/pool.h"
#include "pool/secure.h"
#include "pool/tend.h"

/* What is lent ends with its return, and is fetched if that was just under way. Answers when the
 * peer is to be tended. Peer lock held. */
static uint64_t drain(struct pl_connection *connection, uint64_t now_ns)
{
    uint64_t when_ns;

    switch (pl_word_state(atomic_load(&connection->word))) {
    case PL_LENT:
    case PL_HEARD:
        when_ns = pl_drain_soon(connection, POOL_CLOSE_STALE, now_ns);
        atomic_store(&connection->expires_ns, 0);
        return when_ns;
    case PL_SETUP:
    case PL_MUX:
    case PL_IDLE:
    case PL_PARKED:
        return pl_drain_soon(connection, POOL_CLOSE_STALE, now_ns);
    default:
        return PL_NEVER;
    }
}

/* Pool lock held. */
static void drain_peer(struct pl_peer *peer, uint64_t now_ns)
{
    uint64_t first_ns = PL_NEVER;

    pthread_mutex_lock(&peer->lock);
    PL_LIST_EACH(link, &peer->shared.all) {
        struct pl_connection *connection = pl_container(link, struct pl_connection, all_link);

        if (pl_get(connection->secured_by) && pl_secure_is_outdated(connection))
            first_ns = pl_earlier(first_ns, drain(connection, now_ns));
    }
    pthread_mutex_unlock(&peer->lock);
    if (first_ns != PL_NEVER)
        pl_tend_at(peer->pool->room, peer, first_ns);
}

static void on_reload(struct pl_post *post)
{
    struct pool *pool = pl_container(post, struct pool, reload.post);
    uint64_t now_ns = pl_os->now_ns();

    atomic_store(&pool->reload.is_posted, false); /* from here on another one is told anew */
    pthread_mutex_lock(&pool->lock);
    PL_LIST_EACH(link, &pool->all_peers)
        drain_peer(pl_container(link, struct pl_peer, pool_link), now_ns);
    pthread_mutex_unlock(&pool->lock);
    pl_exchange_look(pool);
    pl_pool_leave(pool);
}

struct users {
    const struct pool_tls *tls;
    struct pl_list found;               /* by reload.post; referred to */
};

/* The slots of pools are held, so this one does not become another pool. */
static void find(void *element, void *argument)
{
    struct users *users = argument;
    struct pool *pool = element;

    if (atomic_load(&pool->tls) != users->tls || atomic_exchange(&pool->reload.is_posted, true))
        return;
    if (pl_pool_try_ref(pool))
        pl_list_push_back(&users->found, &pool->reload.post.link);
    else
        atomic_store(&pool->reload.is_posted, false);
}

static bool has_connections(const struct pool *pool)
{
    uint32_t state = atomic_load(&pool->state);

    return state == PL_POOL_LIVE || state == PL_POOL_PAUSED || state == PL_POOL_CLOSING;
}

/* The lock is held around both, so whoever ends the pool, and takes it after he said so, finds the
 * post there, or it is not posted: it would keep a pool and a mux that nobody dispatches. */
static void tell(struct pool *pool)
{
    bool is_told;

    pthread_mutex_lock(&pool->lock);
    is_told = has_connections(pool);
    if (is_told) {
        pool->reload.post = (struct pl_post){ .run = on_reload, .owner = pool };
        pl_mux_post(pool->mux, &pool->reload.post);
    }
    pthread_mutex_unlock(&pool->lock);
    if (is_told)
        return;
    atomic_store(&pool->reload.is_posted, false);
    pl_pool_leave(pool);
}

enum pool_status pool_tls_reload(struct pool_tls *tls, const struct pool_tls_options *options,
                                 struct pool_error *error)
{
    enum pool_status status = pl_tls_reload(tls, options, error);
    struct users users = { .tls = tls };
    struct pl_list *link;

    if (status)
        return status;
    pl_list_init(&users.found);
    pl_pools_hold();
    pl_pools_visit(find, &users);
    pl_pools_let_go();
    while ((link = pl_list_pop_front(&users.found)))
        tell(pl_container(link, struct pool, reload.post.link));
    return POOL_OK;
}
