/* hooks.c: see hooks.h. The pool ends its state before it takes the lock to look at the list, so a
 * hook is either in the list then or finds the end.
 */
#include "pool/hooks.h"

#include "pool/pool.h"

bool pl_hook_enter(struct pool *pool, struct pl_hook *hook)
{
    const struct pl_thread *self = pl_thread_self();
    uint32_t state;
    bool may_run;

    *hook = (struct pl_hook){ .thread = self ? self->id : 0 };
    pthread_mutex_lock(&pool->lock);
    state = atomic_load(&pool->state);
    may_run = state != PL_POOL_DESTROYED && state != PL_POOL_FORKED;
    if (may_run)
        pl_list_push_back(&pool->hooks, &hook->link);
    pthread_mutex_unlock(&pool->lock);
    return may_run;                     /* the link is its neighbours' to write now */
}

void pl_hook_leave(struct pool *pool, struct pl_hook *hook)
{
    if (pl_pool_is_forked(pool))        /* the hook did, and this is the child */
        return;
    pthread_mutex_lock(&pool->lock);
    pl_list_unlink(&hook->link);
    pthread_mutex_unlock(&pool->lock);
}

bool pl_hooks_run_elsewhere(struct pool *pool)
{
    const struct pl_thread *self = pl_thread_self();
    bool is_elsewhere = false;

    pthread_mutex_lock(&pool->lock);
    PL_LIST_EACH(link, &pool->hooks)
        is_elsewhere = is_elsewhere ||
                       pl_container(link, struct pl_hook, link)->thread != (self ? self->id : 0);
    pthread_mutex_unlock(&pool->lock);
    return is_elsewhere;
}
