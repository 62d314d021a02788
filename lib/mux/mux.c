/* mux.c: the life of a mux and its batches. Locks: `shared.lock` is held for list and heap work
 * only, never while a callback runs or the kernel waits.
 */
#include "mux/mux.h"

#include <errno.h>

#include "base/os.h"
#include "mux/muxes.h"

#define BATCH 256                       /* events taken from the kernel at once */
#define INDEX_BITS 29
#define ROUNDS_HERE 256 /* of posts made by posts, in one batch: others want their turn, too */
#define END_ROUNDS 1000                 /* in which posts may post on while the mux ends */
#define RECOVERY_NS (20 * PL_MS)        /* between attempts of our own thread while a batch cannot
                                         * even begin */

uint64_t pl_mux_data(enum pl_watch_kind kind, uint32_t index, uint32_t birth)
{
    return (uint64_t)kind << (32 + INDEX_BITS) | (uint64_t)index << 32 | birth;
}

static uint64_t self_id(void)
{
    struct pl_thread *self = pl_thread_self();

    return self ? self->id : UINT64_MAX;
}

bool pl_mux_is_dispatching(const struct pool_mux *mux)
{
    struct pl_thread *self = pl_thread_self();
    const struct pool_mux *inner = self ? self->dispatching : NULL;

    while (inner && inner != mux)
        inner = inner->on_mux.outer;
    return inner != NULL;
}

/* A callback of one mux may run a batch of another. */
static void begin_callbacks(struct pool_mux *mux, struct pl_thread *self)
{
    mux->on_mux.outer = self->dispatching;
    self->dispatching = mux;
}

static void end_callbacks(struct pool_mux *mux, struct pl_thread *self)
{
    self->dispatching = mux->on_mux.outer;
}

static uint64_t thread_in(uint64_t dispatcher)
{
    return dispatcher & ~PL_MUX_VISITOR;
}

bool pl_mux_is_here(const struct pool_mux *mux)
{
    if (pl_mux_is_dispatching(mux))
        return true;
    return !mux->has_thread && atomic_load(&mux->home) == self_id();
}

/* ---- posts */

static void wake(struct pool_mux *mux)
{
    pl_os->eventfd_add(mux->wake_fd);
}

/* Whoever runs the post may end the mux with it, and must take the lock before: so we wake under
 * it. */
void pl_mux_post(struct pool_mux *mux, struct pl_post *post)
{
    bool is_first;

    if (mux->is_forked)
        return;
    pthread_mutex_lock(&mux->shared.lock);
    is_first = pl_list_is_empty(&mux->shared.posts);
    pl_list_push_back(&mux->shared.posts, &post->link);
    if (is_first && !pl_mux_is_dispatching(mux))
        wake(mux);
    pthread_mutex_unlock(&mux->shared.lock);
}

/* Those of one owner and nobody's, or (NULL) all of them. */
static void take_posts(struct pl_list *posts, const void *owner, struct pl_list *taken)
{
    pl_list_init(taken);
    if (!owner) {
        pl_list_move_all(taken, posts);
        return;
    }
    PL_LIST_EACH(link, posts) {
        const struct pl_post *post = pl_container(link, struct pl_post, link);

        if (post->owner && post->owner != owner)
            continue;
        pl_list_unlink(link);
        pl_list_push_back(taken, link);
    }
}

static void run_taken(struct pool_mux *mux, struct pl_list *taken)
{
    struct pl_list *link;

    while (!mux->is_forked && (link = pl_list_pop_front(taken))) {
        struct pl_post *post = pl_container(link, struct pl_post, link);

        post->run(post);
    }
}

/* Runs what was posted until now; what these post in turn waits for the next batch. */
static void run_posts(struct pool_mux *mux, const void *owner)
{
    struct pl_list now;

    pthread_mutex_lock(&mux->shared.lock);
    take_posts(&mux->shared.posts, owner, &now);
    pthread_mutex_unlock(&mux->shared.lock);
    run_taken(mux, &now);
}

void pl_mux_post_here(struct pool_mux *mux, struct pl_post *post)
{
    pl_assert(pl_mux_is_dispatching(mux));
    pl_list_push_back(&mux->on_mux.posts, &post->link);
}

void pl_mux_post_soonest(struct pool_mux *mux, struct pl_post *post)
{
    if (pl_mux_is_dispatching(mux))
        pl_mux_post_here(mux, post);
    else
        pl_mux_post(mux, post);
}

bool pl_mux_run_posted_here(struct pool_mux *mux, const void *owner)
{
    struct pl_list now;
    bool are_any;

    take_posts(&mux->on_mux.posts, owner, &now);
    are_any = !pl_list_is_empty(&now);
    run_taken(mux, &now);
    return are_any;
}

static void run_all_here(struct pool_mux *mux, const void *owner)
{
    int round = 0;

    run_posts(mux, owner);
    while (round < ROUNDS_HERE && !mux->is_forked && pl_mux_run_posted_here(mux, owner))
        round++;
}

static bool has_posts(struct pool_mux *mux)
{
    bool has_posts = !pl_list_is_empty(&mux->on_mux.posts);

    pthread_mutex_lock(&mux->shared.lock);
    has_posts = has_posts || !pl_list_is_empty(&mux->shared.posts);
    pthread_mutex_unlock(&mux->shared.lock);
    return has_posts;
}

/* And what these post in turn, as nobody comes after us; but a post that posts itself for ever is
 * told that this is the end. */
static void run_all_posts(struct pool_mux *mux)
{
    for (unsigned round = 0; !mux->is_forked && has_posts(mux); round++) {
        if (round == END_ROUNDS)
            atomic_store(&mux->refuses_posts, true);
        run_posts(mux, NULL);
        pl_mux_run_posted_here(mux, NULL);
    }
}

/* ---- batches */

static void on_timer_fd(struct pool_mux *mux, uint32_t index, uint32_t birth, uint32_t events)
{
    (void)index, (void)birth, (void)events;
    pthread_mutex_lock(&mux->shared.lock);
    mux->shared.has_rung = true;
    pthread_mutex_unlock(&mux->shared.lock);
}

static void hand_out(struct pool_mux *mux, const struct epoll_event *event)
{
    uint64_t data = event->data.u64;
    unsigned kind = (unsigned)(data >> (32 + INDEX_BITS));
    pl_watch_fn *on_watch = kind < PL_WATCH_KINDS ? atomic_load(&mux->on_watch[kind]) : NULL;

    if (on_watch)
        on_watch(mux, (uint32_t)(data >> 32) & ((1u << INDEX_BITS) - 1), (uint32_t)data,
                 event->events);
}

static void finish_batch(struct pool_mux *mux)
{
    bool is_more;

    if (atomic_load(&mux->is_given_up))
        run_all_posts(mux);
    if (mux->is_forked)
        return;
    pthread_mutex_lock(&mux->shared.lock);
    pl_mux_set_timer_locked(mux);
    is_more = !pl_list_is_empty(&mux->shared.posts) || !pl_list_is_empty(&mux->on_mux.posts);
    pthread_mutex_unlock(&mux->shared.lock);
    if (is_more)
        wake(mux);
}

/* One batch; the caller is the dispatcher. A callback that comes back in a child of fork() ends it:
 * what is left of it is the parent's to do. */
static int run_batch(struct pool_mux *mux, struct pl_thread *self, int timeout_ms)
{
    struct epoll_event events[BATCH];
    int count;

    count = pl_os->epoll_wait(mux->epoll_fd, events, BATCH, timeout_ms);
    begin_callbacks(mux, self);
    if (count > 0)
        atomic_fetch_add_explicit(&mux->wakeups, 1, memory_order_relaxed);
    for (int i = 0; i < count && !mux->is_forked; i++)
        hand_out(mux, &events[i]);
    if (!mux->is_forked)
        pl_mux_fire_timers(mux);
    if (!mux->is_forked)
        run_all_here(mux, NULL);
    if (mux->is_forked)
        return count;                   /* this thread dispatches nothing any more */
    finish_batch(mux);
    if (mux->is_forked)
        return count;
    end_callbacks(mux, self);
    return count;
}

/* False: the deadline came first. */
static bool wait_for_visitor(struct pool_mux *mux, uint64_t deadline_ns)
{
    bool is_gone;

    pthread_mutex_lock(&mux->shared.lock);
    while (atomic_load(&mux->dispatcher) & PL_MUX_VISITOR) {
        if (pl_os->wait_until(&mux->shared.changed, &mux->shared.lock, deadline_ns) == -ETIMEDOUT)
            break;
    }
    is_gone = !(atomic_load(&mux->dispatcher) & PL_MUX_VISITOR);
    pthread_mutex_unlock(&mux->shared.lock);
    return is_gone;
}

static enum pool_status dispatch(struct pool_mux *mux, int timeout_ms)
{
    struct pl_thread *self = pl_thread_self();
    uint64_t seen = 0, deadline_ns;
    int count;

    if (mux->is_forked)
        return POOL_E_FORKED;
    if (!self)
        return POOL_E_MEMORY;
    while (!atomic_compare_exchange_strong(&mux->dispatcher, &seen, self->id)) {
        if (!(seen & PL_MUX_VISITOR) || thread_in(seen) == self->id)
            return POOL_E_ARGUMENT;
        deadline_ns = timeout_ms < 0 ? PL_NEVER
                                     : pl_after(pl_os->now_ns(), (uint64_t)timeout_ms * PL_MS);
        if (!timeout_ms || !wait_for_visitor(mux, deadline_ns))
            return POOL_OK;
        timeout_ms = 0;
        seen = 0;
    }
    if (!mux->has_thread)
        atomic_store(&mux->home, self->id);
    count = run_batch(mux, self, timeout_ms);
    if (mux->is_forked)
        return POOL_E_FORKED;
    atomic_store(&mux->dispatcher, 0);
    return count < 0 && count != -EINTR ? POOL_E_SYSTEM : POOL_OK;
}

/* ---- visits */

static void leave(struct pool_mux *mux)
{
    pthread_mutex_lock(&mux->shared.lock);
    atomic_store(&mux->dispatcher, 0);
    pthread_cond_broadcast(&mux->shared.changed);
    pthread_mutex_unlock(&mux->shared.lock);
}

/* With no owner, all that is posted, until nothing is left. */
static bool visit(struct pool_mux *mux, const void *owner)
{
    struct pl_thread *self = pl_thread_self();
    uint64_t nobody = 0;

    if (!self ||
        !atomic_compare_exchange_strong(&mux->dispatcher, &nobody, self->id | PL_MUX_VISITOR))
        return false;
    begin_callbacks(mux, self);
    if (owner)
        run_all_here(mux, owner);
    else
        run_all_posts(mux);
    if (mux->is_forked)
        return true;                    /* as in a batch */
    finish_batch(mux);
    if (mux->is_forked)
        return true;
    end_callbacks(mux, self);
    leave(mux);
    return true;
}

bool pl_mux_visit(struct pool_mux *mux, const void *owner)
{
    pl_assert(owner);
    return visit(mux, owner);
}

enum pl_mux_stay pl_mux_enter(struct pool_mux *mux)
{
    uint64_t seen = 0, id = self_id();

    if (!pl_mux_is_here(mux))
        return PL_MUX_ELSEWHERE;
    if (pl_mux_is_dispatching(mux))
        return PL_MUX_INSIDE;
    while (!atomic_compare_exchange_strong(&mux->dispatcher, &seen, id | PL_MUX_VISITOR)) {
        if (thread_in(seen) == id)
            return PL_MUX_INSIDE;       /* further up, perhaps with another mux between */
        if (!(seen & PL_MUX_VISITOR))
            return PL_MUX_ELSEWHERE;
        wait_for_visitor(mux, PL_NEVER);
        seen = 0;
    }
    pl_mux_ref(mux);
    return PL_MUX_ENTERED;
}

void pl_mux_leave(struct pool_mux *mux, enum pl_mux_stay stay)
{
    if (stay != PL_MUX_ENTERED || mux->is_forked)
        return;
    leave(mux);
    pl_mux_unref(mux);
}

/* ---- life */

/* Held by pl_muxes_hold(). */
static enum pool_status open_descriptors(struct pool_mux *mux)
{
    mux->epoll_fd = pl_os->epoll_create();
    if (mux->epoll_fd < 0)
        goto no_epoll;
    mux->wake_fd = pl_os->eventfd_create();
    if (mux->wake_fd < 0)
        goto no_wake;
    mux->timer_fd = pl_os->timerfd_create();
    if (mux->timer_fd < 0)
        goto no_timer;
    /* Every write to an eventfd is an edge, so its count needs no reading. */
    if (pl_mux_add(mux, mux->wake_fd, EPOLLIN | EPOLLET, pl_mux_data(PL_WATCH_WAKE, 0, 0)) ||
        pl_mux_add(mux, mux->timer_fd, EPOLLIN, pl_mux_data(PL_WATCH_TIMER, 0, 0)))
        goto no_watch;
    pl_muxes_add(mux);
    return POOL_OK;

no_watch:
    pl_os->close(mux->timer_fd);
no_timer:
    pl_os->close(mux->wake_fd);
no_wake:
    pl_os->close(mux->epoll_fd);
no_epoll:
    return POOL_E_RESOURCE;
}

static void close_descriptors(struct pool_mux *mux)
{
    pl_muxes_hold();
    pl_muxes_remove(mux);
    if (mux->shared.signal_fd >= 0)
        pl_os->close(mux->shared.signal_fd);
    pl_os->close(mux->timer_fd);
    pl_os->close(mux->wake_fd);
    pl_os->close(mux->epoll_fd);
    pl_muxes_let_go();
}

enum pool_status pl_mux_add(struct pool_mux *mux, int fd, uint32_t events, uint64_t data)
{
    struct epoll_event event = { .events = events, .data = { .u64 = data } };

    return pl_os->epoll_ctl(mux->epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0 ? POOL_E_RESOURCE
                                                                          : POOL_OK;
}

/* What is still posted or due belongs to things that end with the mux: let it run, then close. */
static void close_mux(struct pool_mux *mux)
{
    struct pl_thread *self = pl_thread_self();

    if (self)
        begin_callbacks(mux, self);
    run_all_posts(mux);
    if (mux->end_extension && !mux->is_forked)
        mux->end_extension(mux);
    if (mux->is_forked)
        return;
    if (self)
        end_callbacks(mux, self);
    close_descriptors(mux);
    pl_mux_signals_end(mux);
    pl_timers_fini(&mux->shared.timers);
    pthread_cond_destroy(&mux->shared.changed);
    pthread_mutex_destroy(&mux->shared.lock);
    pl_os->free(mux);
}

static bool step(void *argument)
{
    struct pool_mux *mux = argument;

    /* It fails without memory, or after a foreign close. */
    if (!atomic_load(&mux->is_stopped) && dispatch(mux, -1) && !mux->is_forked)
        pl_os->poll_until(NULL, 0, pl_after(pl_os->now_ns(), RECOVERY_NS));
    if (mux->is_forked)
        return false; /* a callback forked and came back: the child's only thread ends */
    if (!atomic_load(&mux->is_stopped))
        return true;
    if (mux->ends_itself)
        close_mux(mux);
    return false;
}

enum pool_status pl_mux_open(struct pool_mux **opened, bool has_thread)
{
    struct pool_mux *mux = pl_muxes_notice_forks() ? pl_zalloc(sizeof(*mux)) : NULL;
    enum pool_status status;

    *opened = NULL;
    if (!mux)
        return POOL_E_MEMORY;
    mux->has_thread = has_thread;
    mux->slack_ns = 2 * pl_os->coarse_step_ns();
    atomic_init(&mux->refs, 1);
    pthread_mutex_init(&mux->shared.lock, NULL);
    pthread_cond_init(&mux->shared.changed, NULL);
    pl_list_init(&mux->shared.posts);
    pl_list_init(&mux->shared.due);
    pl_list_init(&mux->on_mux.posts);
    pl_mux_signals_begin(mux);
    mux->shared.armed_ns = PL_NEVER;
    atomic_init(&mux->on_watch[PL_WATCH_TIMER], on_timer_fd);
    status = POOL_E_MEMORY;
    if (pl_thread_self()) {
        pl_muxes_hold();
        status = open_descriptors(mux);
        pl_muxes_let_go();
    }
    if (status)
        goto no_descriptors;
    if (!has_thread)
        atomic_store(&mux->home, self_id());
    else if (pl_os->thread_start(&mux->thread, step, mux))
        goto no_thread;
    *opened = mux;
    return POOL_OK;

no_thread:
    close_descriptors(mux);
    status = POOL_E_RESOURCE;
no_descriptors:
    pthread_cond_destroy(&mux->shared.changed);
    pthread_mutex_destroy(&mux->shared.lock);
    pl_os->free(mux);
    return status;
}

void pl_mux_ref(struct pool_mux *mux)
{
    atomic_fetch_add(&mux->refs, 1);
}

void pl_mux_unref(struct pool_mux *mux)
{
    if (mux->is_forked)
        return;
    if (atomic_fetch_sub(&mux->refs, 1) != 1)
        return;
    if (mux->has_thread && pl_mux_is_dispatching(mux)) {
        pl_os->thread_detach(mux->thread);
        mux->ends_itself = true;
        atomic_store(&mux->is_stopped, true);
        return;
    }
    atomic_store(&mux->is_stopped, true);
    if (mux->has_thread) {
        wake(mux);
        pl_os->thread_join(mux->thread);
    }
    close_mux(mux);
}

/* ---- public */

enum pool_status pool_mux_create(struct pool_mux **mux)
{
    return mux ? pl_mux_open(mux, false) : POOL_E_ARGUMENT;
}

void pool_mux_stop(struct pool_mux *mux)
{
    if (!mux || mux->is_forked)
        return;
    pl_mux_ref(mux);                    /* whoever it stops may end the mux before we wake */
    atomic_store(&mux->is_stopped, true);
    wake(mux);
    pl_mux_unref(mux);
}

void pool_mux_destroy(struct pool_mux *mux)
{
    if (!mux || mux->is_forked)
        return;
    pool_mux_stop(mux);                 /* whoever runs it comes back, and lets go of it */
    /* What was posted too late for the last batch may hold the pools that hold the mux. */
    if (pl_mux_is_dispatching(mux))
        atomic_store(&mux->is_given_up, true);
    else
        visit(mux, NULL);
    pl_mux_unref(mux);
}

int pool_mux_fd(const struct pool_mux *mux)
{
    return mux ? mux->epoll_fd : -1;
}

enum pool_status pool_mux_dispatch(struct pool_mux *mux, uint32_t timeout_ms)
{
    enum pool_status status;

    if (!mux)
        return POOL_E_ARGUMENT;
    if (timeout_ms == POOL_ZERO)
        timeout_ms = 0;
    pl_mux_ref(mux);
    status = dispatch(mux, timeout_ms > INT32_MAX ? -1 : (int)timeout_ms);
    pl_mux_unref(mux);
    return status;
}

/* By another thread, or further up on this one. */
static bool is_in_batch(struct pool_mux *mux)
{
    uint64_t dispatcher = atomic_load(&mux->dispatcher);

    return dispatcher && (!(dispatcher & PL_MUX_VISITOR) || thread_in(dispatcher) == self_id());
}

enum pool_status pool_mux_run(struct pool_mux *mux)
{
    enum pool_status status = POOL_OK;

    if (!mux)
        return POOL_E_ARGUMENT;
    if (mux->is_forked)
        return POOL_E_FORKED;
    if (is_in_batch(mux))
        return POOL_E_ARGUMENT;         /* a stop is meant for whoever runs it already */
    pl_mux_ref(mux);
    while (!status && !atomic_exchange(&mux->is_stopped, false))
        status = dispatch(mux, -1);
    pl_mux_unref(mux);
    return status;
}
