/* target.c: peers that a program looked up beforehand. A target keeps its peer live, and its pool's
 * memory, also after the pool has ended. */
#include "base/os.h"
#include "pool/orders.h"

enum pool_status pool_target_get(struct pool *pool, const char *address, struct pool_target **got)
{
    struct pool_target *target;
    enum pool_status status;

    if (!got)
        return POOL_E_ARGUMENT;
    *got = NULL;
    if (!pool || !address)
        return POOL_E_ARGUMENT;
    status = pl_pool_enter(pool);
    if (status)
        return status;
    target = pl_zalloc(sizeof(*target));
    status = target ? pl_orders_refusal(pool) : POOL_E_MEMORY;
    if (!status)
        status = pl_pool_find_peer(pool, address, &target->peer, NULL);
    if (status) {
        pl_os->free(target);
        pl_pool_leave(pool);
        return status;
    }
    target->pool = pool;                /* and the reference that was entered */
    *got = target;
    return POOL_OK;
}

void pool_target_free(struct pool_target *target)
{
    struct pool *pool;

    if (!target)
        return;
    pool = target->pool;
    pl_peer_leave(target->peer);        /* in a child it does nothing */
    pl_pool_leave(pool);
    pl_os->free(target);
}
