/* post.c: the public posts and timers of a mux, which allocate what the inner ones ask their owners
 * to hold. */
#include <stddef.h>

#include "base/os.h"
#include "commpool/mux.h"
#include "mux/mux.h"

#define LONG_MS 1000u

struct public_post {
    struct pl_post post;
    pool_post_fn *run;
    void *user;
};

struct pool_timer {
    struct pool_mux *mux;
    struct pl_timer timer;
};

static void run_public(struct pl_post *inner)
{
    struct public_post post = *pl_container(inner, struct public_post, post);

    pl_os->free(inner);
    post.run(post.user);
}

enum pool_status pool_mux_post(struct pool_mux *mux, pool_post_fn *run, void *user)
{
    struct public_post *post;

    if (!mux || !run)
        return POOL_E_ARGUMENT;
    if (mux->is_forked)
        return POOL_E_FORKED;
    if (atomic_load(&mux->refuses_posts))
        return POOL_E_CLOSING;
    post = pl_zalloc(sizeof(*post));
    if (!post)
        return POOL_E_MEMORY;
    *post = (struct public_post){ .post = { .run = run_public, .owner = mux }, run, user };
    pl_mux_post(mux, &post->post);
    return POOL_OK;
}

/* The exact clock waits until all that the processor has begun is done, which is most of what
 * moving a timer costs; a long one may be late by as much as the cheap clock may be behind. */
static uint64_t deadline_in(const struct pool_mux *mux, uint32_t ms)
{
    if (ms == POOL_NONE)
        return PL_NEVER;
    if (ms != POOL_ZERO && ms >= LONG_MS)
        return pl_after(pl_os->coarse_ns() + mux->slack_ns, ms * PL_MS);
    return pl_after(pl_os->now_ns(), ms == POOL_ZERO ? 0 : ms * PL_MS);
}

enum pool_status pool_mux_after(struct pool_mux *mux, uint32_t ms, pool_post_fn *fire, void *user,
                                struct pool_timer **opened)
{
    struct pool_timer *timer;

    if (!mux || !fire || !opened)
        return POOL_E_ARGUMENT;
    *opened = NULL;
    if (mux->is_forked)
        return POOL_E_FORKED;
    timer = pl_zalloc(sizeof(*timer));
    if (!timer)
        return POOL_E_MEMORY;
    timer->mux = mux;
    if (!pl_mux_timer_open(mux, &timer->timer, fire, user)) {
        pl_os->free(timer);
        return POOL_E_MEMORY;
    }
    pl_mux_ref(mux);
    *opened = timer;
    pl_mux_timer_arm(mux, &timer->timer, deadline_in(mux, ms));
    return POOL_OK;
}

enum pool_status pool_timer_again(struct pool_timer *timer, uint32_t ms)
{
    if (!timer)
        return POOL_E_ARGUMENT;
    if (timer->mux->is_forked)
        return POOL_E_FORKED;
    pl_mux_timer_arm(timer->mux, &timer->timer, deadline_in(timer->mux, ms));
    return POOL_OK;
}

void pool_timer_cancel(struct pool_timer *timer)
{
    if (!timer)
        return;
    pl_mux_timer_close(timer->mux, &timer->timer);
    pl_mux_unref(timer->mux);
    pl_os->free(timer);
}
