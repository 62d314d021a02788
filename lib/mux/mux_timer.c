/* mux_timer.c: the timers of a mux: the heap, its lock, and the kernel's one timer. The lock is
 * held in the functions whose names end in _locked, and in no callback.
 */
#include "base/os.h"
#include "mux/mux.h"

void pl_mux_set_timer_locked(struct pool_mux *mux)
{
    uint64_t first_ns = pl_timers_first(&mux->shared.timers);

    if (first_ns == mux->shared.armed_ns && !mux->shared.has_rung)
        return;
    mux->shared.armed_ns = first_ns;
    mux->shared.has_rung = false;
    pl_os->timerfd_arm(mux->timer_fd, first_ns);
}

/* Inside a batch the end of the batch does it once for all. */
static void timers_changed_locked(struct pool_mux *mux)
{
    if (!pl_mux_is_dispatching(mux))
        pl_mux_set_timer_locked(mux);
}

static void take_back_locked(struct pool_mux *mux, struct pl_timer *timer)
{
    pl_timers_disarm(&mux->shared.timers, timer);
    pl_list_drop(&timer->due_link);
}

bool pl_mux_timer_open(struct pool_mux *mux, struct pl_timer *timer, pl_timer_fn *fire, void *user)
{
    bool has_room;

    *timer = (struct pl_timer){ .fire = fire, .user = user };
    pthread_mutex_lock(&mux->shared.lock);
    has_room = pl_timers_reserve(&mux->shared.timers);
    pthread_mutex_unlock(&mux->shared.lock);
    return has_room;
}

void pl_mux_timer_close(struct pool_mux *mux, struct pl_timer *timer)
{
    if (mux->is_forked)
        return;
    pthread_mutex_lock(&mux->shared.lock);
    take_back_locked(mux, timer);
    while (mux->shared.firing == timer && !pl_mux_is_dispatching(mux))
        pl_os->wait_until(&mux->shared.changed, &mux->shared.lock, PL_NEVER);
    take_back_locked(mux, timer);       /* its callback may have armed it again */
    pl_timers_unreserve(&mux->shared.timers);
    timers_changed_locked(mux);
    pthread_mutex_unlock(&mux->shared.lock);
}

void pl_mux_timer_arm(struct pool_mux *mux, struct pl_timer *timer, uint64_t deadline_ns)
{
    if (mux->is_forked)
        return;
    pthread_mutex_lock(&mux->shared.lock);
    pl_list_drop(&timer->due_link);
    pl_timers_arm(&mux->shared.timers, timer, deadline_ns);
    timers_changed_locked(mux);
    pthread_mutex_unlock(&mux->shared.lock);
}

void pl_mux_timer_disarm(struct pool_mux *mux, struct pl_timer *timer)
{
    if (mux->is_forked)
        return;
    pthread_mutex_lock(&mux->shared.lock);
    take_back_locked(mux, timer);
    timers_changed_locked(mux);
    pthread_mutex_unlock(&mux->shared.lock);
}

static void fire_one(struct pool_mux *mux, struct pl_timer *timer)
{
    timer->fire(timer->user);           /* may close and free the timer */
    if (mux->is_forked)
        return;
    pthread_mutex_lock(&mux->shared.lock);
    mux->shared.firing = NULL;
    pthread_cond_broadcast(&mux->shared.changed);
    pthread_mutex_unlock(&mux->shared.lock);
}

static struct pl_timer *next_due(struct pool_mux *mux)
{
    struct pl_list *link;

    pthread_mutex_lock(&mux->shared.lock);
    link = pl_list_pop_front(&mux->shared.due);
    mux->shared.firing = link ? pl_container(link, struct pl_timer, due_link) : NULL;
    pthread_mutex_unlock(&mux->shared.lock);
    return link ? pl_container(link, struct pl_timer, due_link) : NULL;
}

void pl_mux_fire_timers(struct pool_mux *mux)
{
    struct pl_timer *timer;
    uint64_t now_ns;

    pthread_mutex_lock(&mux->shared.lock);
    if (pl_timers_first(&mux->shared.timers) != PL_NEVER) {
        now_ns = pl_os->now_ns();
        while ((timer = pl_timers_pop_due(&mux->shared.timers, now_ns)))
            pl_list_push_back(&mux->shared.due, &timer->due_link);
    }
    pthread_mutex_unlock(&mux->shared.lock);
    while (!mux->is_forked && (timer = next_due(mux)))
        fire_one(mux, timer);
}
