/* nested.c: see nested.h. The thread's own number of loans comes first: it can hold everything only
 * where there is no more than that, so nothing is counted where there is much.
 */
#include "pool/nested.h"

#include "pool/pool.h"

/* Peer lock held. */
static uint32_t count_held(struct pl_peer *peer, const struct pl_thread *self)
{
    uint32_t held = 0;

    PL_LIST_EACH(link, &peer->shared.all) {
        struct pl_connection *connection = pl_container(link, struct pl_connection, all_link);

        held += pl_word_state(atomic_load(&connection->word)) == PL_LENT &&
                pl_get(connection->lease.holder) == self->id;
    }
    return held;
}

bool pl_nested_holds_peer(struct pl_peer *peer, const struct pl_thread *self)
{
    uint32_t count = peer->shared.count;

    return count >= peer->pool->settings.options.max_per_address && self->loans >= count &&
           count_held(peer, self) == count;
}

bool pl_nested_holds_pool(struct pool *pool, const struct pl_thread *self)
{
    uint32_t total = atomic_load(&pool->total), held = 0;

    if (total < pool->settings.options.max_connections || self->loans < total)
        return false;
    pthread_mutex_lock(&pool->lock);
    PL_LIST_EACH(link, &pool->all_peers) {
        struct pl_peer *peer = pl_container(link, struct pl_peer, pool_link);

        pthread_mutex_lock(&peer->lock);
        held += count_held(peer, self);
        pthread_mutex_unlock(&peer->lock);
    }
    pthread_mutex_unlock(&pool->lock);
    return held == total;
}
