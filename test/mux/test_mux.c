/* test_mux.c: batches of the multiplexer: what is watched, who dispatches, how it ends, and that
 * idle means asleep. */
#include "mux/mux.h"

#include <criterion/criterion.h>
#include <dirent.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/os.h"
#include "commpool/pool.h"
#include "pool/pool.h"
#include "support/peer.h"
#include "support/tests.h"

#define SOON 10000

static struct pool_mux *mux;
static struct pl_os os;

static void begin(void)
{
    os = pl_os_real;
    pl_os_replace(&os);
    cr_assert_eq(pool_mux_create(&mux), POOL_OK);
}

TestSuite(mux, .init = begin);

static _Atomic unsigned called;

static void count_call(void *user)
{
    (void)user;
    called++;
}

/* ---- events */

#define WATCHED 8

/* What a layer above keeps for each descriptor, as connections do: a slot with births. */
struct watched {
    int fd;
    uint32_t birth;
    unsigned events, stale;
    char *memory; /* gone when the watched thing is gone: a stale event must not touch it */
};

static struct watched slots[WATCHED];
static bool replaces_others;

static void watch_slot(uint32_t index)
{
    struct watched *slot = &slots[index];

    slot->fd = pl_os->eventfd_create();
    slot->birth++;
    slot->memory = malloc(1);
    cr_assert_eq(pl_mux_add(mux, slot->fd, EPOLLIN | EPOLLONESHOT,
                            pl_mux_data(PL_WATCH_CONNECTION, index, slot->birth)),
                 POOL_OK);
}

/* Closes what the slot watches and watches something new under the same number. */
static void replace_slot(uint32_t index)
{
    int before = slots[index].fd;

    free(slots[index].memory);
    close(before);
    watch_slot(index);
    cr_assert_eq(slots[index].fd, before);
}

static void on_watched(struct pool_mux *of, uint32_t index, uint32_t birth, uint32_t events)
{
    struct watched *slot = &slots[index];

    cr_assert_eq(of, mux);
    if (birth != slot->birth) {
        slot->stale++;
        return;
    }
    slot->events += (events & EPOLLIN) != 0;
    slot->memory[0]++;
    for (uint32_t other = 0; replaces_others && other < WATCHED; other++) {
        if (other != index)
            replace_slot(other);
    }
    replaces_others = false;
}

static void watch_all(void)
{
    atomic_store(&mux->on_watch[PL_WATCH_CONNECTION], on_watched);
    for (uint32_t i = 0; i < WATCHED; i++)
        watch_slot(i);
}

static void ring_all(void)
{
    for (size_t i = 0; i < WATCHED; i++)
        pl_os->eventfd_add(slots[i].fd);
}

static void dispatch(void)
{
    cr_assert_eq(pool_mux_dispatch(mux, 0), POOL_OK);
}

Test(mux, an_event_tells_whose_it_is)
{
    watch_all();
    ring_all();
    dispatch();
    for (size_t i = 0; i < WATCHED; i++)
        cr_expect_eq(slots[i].events, 1);
}

Test(mux, an_event_of_something_that_the_same_batch_closed_tells_its_own_birth_not_the_new_ones)
{
    unsigned events = 0, stale = 0;

    watch_all();
    ring_all();
    replaces_others = true;
    dispatch();
    for (size_t i = 0; i < WATCHED; i++) {
        events += slots[i].events;
        stale += slots[i].stale;
    }
    cr_expect_eq(events, 1);
    cr_expect_eq(stale, WATCHED - 1);
    dispatch();
    ring_all();
    dispatch();
    for (size_t i = 0; i < WATCHED; i++)
        cr_expect_leq(slots[i].events, 1, "the new one is heard once: %zu", i);
}

Test(mux, the_data_of_an_event_keeps_kind_index_and_birth_apart)
{
    uint32_t most = (1u << 29) - 1;

    cr_expect_eq(pl_mux_data(PL_WATCH_CONNECTION, most, 7) >> 61, PL_WATCH_CONNECTION);
    cr_expect_eq(pl_mux_data(PL_WATCH_WAKE, most, UINT32_MAX) >> 61, PL_WATCH_WAKE);
    cr_expect_eq(pl_mux_data(PL_WATCH_CONNECTION, 5, UINT32_MAX) >> 32 & most, 5);
    cr_expect_eq((uint32_t)pl_mux_data(PL_WATCH_CONNECTION, 5, 77), 77);
}

static int waits_before_ready;

static int interrupted_wait(int epoll_fd, struct epoll_event *events, int count, int timeout_ms)
{
    if (waits_before_ready-- > 0)
        return -EINTR;
    return pl_os_real.epoll_wait(epoll_fd, events, count, timeout_ms);
}

Test(mux, a_signal_during_the_wait_is_no_error_and_loses_nothing)
{
    os.epoll_wait = interrupted_wait;
    waits_before_ready = 1;
    pool_mux_post(mux, count_call, NULL);
    dispatch();
    dispatch();
    cr_expect_eq(called, 1);
}

Test(mux, a_thread_under_a_storm_of_signals_runs_everything)
{
    struct signal_storm *storm = start_signal_storm(1000);

    for (unsigned i = 0; i < 200; i++) {
        struct pool_timer *timer;
        uint64_t deadline_ns = pl_os->now_ns() + 2 * PL_MS;

        cr_assert_eq(pool_mux_after(mux, 2, count_call, NULL, &timer), POOL_OK);
        while (called == i)
            cr_assert_eq(pool_mux_dispatch(mux, POOL_NONE), POOL_OK);
        cr_assert_geq(pl_os->now_ns(), deadline_ns);
        pool_timer_cancel(timer);
    }
    stop_signal_storm(storm);
}

static int refuse_wait(int epoll_fd, struct epoll_event *events, int count, int timeout_ms)
{
    (void)epoll_fd, (void)events, (void)count, (void)timeout_ms;
    return -EBADF;
}

Test(mux, a_kernel_that_refuses_to_wait_is_told_but_posts_still_run)
{
    os.epoll_wait = refuse_wait;
    pool_mux_post(mux, count_call, NULL);
    cr_expect_eq(pool_mux_dispatch(mux, 0), POOL_E_SYSTEM);
    cr_expect_eq(called, 1);
}

/* ---- embedded in a loop */

static bool is_readable(int within_ms)
{
    struct pollfd polled = { .fd = pool_mux_fd(mux), .events = POLLIN };

    return poll(&polled, 1, within_ms) == 1;
}

static void post_one(unsigned index, void *argument)
{
    (void)index, (void)argument;
    pool_mux_post(mux, count_call, NULL);
}

Test(mux, its_descriptor_is_readable_exactly_while_there_is_something_to_do)
{
    struct pool_timer *timer;
    uint64_t begin_ms;

    cr_expect_not(is_readable(0), "nothing yet");
    cr_assert(run_threads(1, post_one, NULL));
    cr_expect(is_readable(SOON), "a post");
    dispatch();
    cr_expect_eq(called, 1);
    cr_expect_not(is_readable(0));
    begin_ms = now_ms();
    cr_assert_eq(pool_mux_after(mux, 30, count_call, NULL, &timer), POOL_OK);
    cr_expect_not(is_readable(0));
    cr_expect(is_readable(SOON), "a timer that is due");
    cr_expect(WITHIN(elapsed_ms(begin_ms), 29, 50));
    dispatch();
    cr_expect_eq(called, 2);
    cr_expect_not(is_readable(0));
    watch_all();
    cr_expect_not(is_readable(0));
    ring_all();
    cr_expect(is_readable(SOON), "a descriptor");
    dispatch();
    cr_expect_not(is_readable(0));
    pool_timer_cancel(timer);
}

Test(mux, a_dispatch_waits_no_longer_than_it_was_told_to)
{
    static const uint32_t waits[] = { 0, POOL_ZERO, 1, 25 };

    for (size_t i = 0; i < PL_COUNT(waits); i++) {
        uint64_t begin_ms = now_ms(), least = waits[i] == POOL_ZERO ? 0 : waits[i];

        cr_expect_eq(pool_mux_dispatch(mux, waits[i]), POOL_OK);
        cr_expect(WITHIN(elapsed_ms(begin_ms), least ? least - 1 : 0, least + 20));
    }
    cr_assert(run_threads(1, post_one, NULL));
    cr_expect_eq(pool_mux_dispatch(mux, POOL_NONE), POOL_OK);
    cr_expect_eq(called, 1);
}

static enum pool_status inner;

static void dispatch_inside(void *user)
{
    (void)user;
    inner = pool_mux_dispatch(mux, 0);
    called++;
}

struct turn {
    _Atomic bool is_inside, may_leave;
    _Atomic int second;
};

static bool is_true(void *flag)
{
    return atomic_load((_Atomic bool *)flag);
}

static void hold_the_turn(void *user)
{
    struct turn *turn = user;

    atomic_store(&turn->is_inside, true);
    wait_until(is_true, &turn->may_leave, SOON);
}

static void dispatch_twice(unsigned index, void *argument)
{
    struct turn *turn = argument;

    if (index == 0) {
        pool_mux_dispatch(mux, POOL_NONE);
        return;
    }
    wait_until(is_true, &turn->is_inside, SOON);
    turn->second = pool_mux_dispatch(mux, 0);
    turn->second |= pool_mux_run(mux);
    atomic_store(&turn->may_leave, true);
}

Test(mux, two_dispatches_at_once_are_an_argument_error_for_the_second)
{
    struct turn turn = { .second = POOL_OK };

    pool_mux_post(mux, hold_the_turn, &turn);
    cr_assert(run_threads(2, dispatch_twice, &turn));
    cr_expect_eq(turn.second, POOL_E_ARGUMENT);
    pool_mux_post(mux, dispatch_inside, NULL);
    dispatch();
    cr_expect_eq(inner, POOL_E_ARGUMENT, "further up on the same stack, too");
    dispatch();
    cr_expect_eq(called, 1);
}

static void note_place(unsigned index, void *argument)
{
    bool *places = argument;

    (void)index;
    places[0] = pl_mux_is_here(mux);
    dispatch();
    places[1] = pl_mux_is_here(mux);
}

Test(mux, the_mux_thread_is_its_creator_until_another_one_dispatches)
{
    bool places[2] = { true, false };

    cr_expect(pl_mux_is_here(mux));
    cr_assert(run_threads(1, note_place, places));
    cr_expect_not(places[0]);
    cr_expect(places[1]);
    cr_expect_not(pl_mux_is_here(mux));
    dispatch();
    cr_expect(pl_mux_is_here(mux));
}

static void stop_it(void *user)
{
    (void)user;
    pool_mux_stop(mux);
    pool_mux_post(mux, count_call, NULL); /* belongs to the next run */
}

Test(mux, stopping_ends_the_run_after_its_batch_or_the_next_one_at_once)
{
    pool_mux_post(mux, stop_it, NULL);
    pool_mux_post(mux, count_call, NULL);
    cr_expect_eq(pool_mux_run(mux), POOL_OK);
    cr_expect_eq(called, 1);
    pool_mux_stop(mux);
    cr_expect_eq(pool_mux_run(mux), POOL_OK);
    cr_expect_eq(called, 1);
    pool_mux_post(mux, stop_it, NULL);
    cr_expect_eq(pool_mux_run(mux), POOL_OK);
    cr_expect_eq(called, 2);
}

static void stop_it_and_run_another(void *user)
{
    pool_mux_stop(mux);
    *(enum pool_status *)user = pool_mux_run(mux);
}

/* Else the inner one would take the stop, and the outer one run for ever. */
Test(mux, a_stop_is_not_taken_by_a_run_inside_the_one_that_it_is_meant_for)
{
    enum pool_status status = POOL_OK;

    pool_mux_post(mux, stop_it_and_run_another, &status);
    cr_expect_eq(pool_mux_run(mux), POOL_OK);
    cr_expect_eq(status, POOL_E_ARGUMENT);
}

/* ---- its birth and its end */

static int calls_until_failure;

static bool fails_now(void)
{
    return --calls_until_failure == 0;
}

static int failing_epoll_create(void)
{
    return fails_now() ? -EMFILE : pl_os_real.epoll_create();
}

static int failing_eventfd_create(void)
{
    return fails_now() ? -EMFILE : pl_os_real.eventfd_create();
}

static int failing_timerfd_create(void)
{
    return fails_now() ? -EMFILE : pl_os_real.timerfd_create();
}

static int failing_epoll_ctl(int epoll_fd, int operation, int fd, struct epoll_event *event)
{
    return fails_now() ? -ENOSPC : pl_os_real.epoll_ctl(epoll_fd, operation, fd, event);
}

static void *failing_malloc(size_t size)
{
    return fails_now() ? NULL : pl_os_real.malloc(size);
}

static int failing_thread_start(pthread_t *thread, pl_step_fn *step, void *argument)
{
    return fails_now() ? -EAGAIN : pl_os_real.thread_start(thread, step, argument);
}

Test(mux, one_that_cannot_be_made_leaves_nothing_behind)
{
    int before = count_descriptors(), failures = 0;
    struct pool_mux *made = mux;
    enum pool_status status;

    os.epoll_create = failing_epoll_create;
    os.eventfd_create = failing_eventfd_create;
    os.timerfd_create = failing_timerfd_create;
    os.epoll_ctl = failing_epoll_ctl;
    os.malloc = failing_malloc;
    os.thread_start = failing_thread_start;
    for (int nth = 1;; nth++) {
        calls_until_failure = nth;
        status = pl_mux_open(&made, true);
        if (calls_until_failure > 0)
            break;
        failures++;
        cr_expect_eq(status, nth == 1 ? POOL_E_MEMORY : POOL_E_RESOURCE);
        cr_expect_null(made);
        cr_expect_eq(count_descriptors(), before);
    }
    cr_expect_eq(status, POOL_OK);
    cr_expect_eq(failures, 7, "each call of the door was failed once: %d", failures);
    pl_mux_unref(made);
    cr_expect_eq(count_descriptors(), before);
}

static void destroy_it(void *user)
{
    (void)user;
    pool_mux_destroy(mux);
    pool_mux_post(mux, count_call, NULL); /* it lives until the batch ends */
}

Test(mux, destroying_it_inside_a_callback_takes_effect_when_the_batch_ends)
{
    int before = count_descriptors();

    pool_mux_post(mux, destroy_it, NULL);
    pool_mux_post(mux, count_call, NULL);
    dispatch();
    cr_expect_eq(called, 2);
    cr_expect_eq(count_descriptors(), before - 3);
}

static void post_another(void *user)
{
    unsigned *more = user;

    called++;
    if ((*more)--)
        pool_mux_post(mux, post_another, more);
}

Test(mux, what_was_posted_runs_before_the_end_and_so_does_what_that_posts)
{
    unsigned more = 5;

    pool_mux_post(mux, post_another, &more);
    pool_mux_destroy(mux);
    cr_expect_eq(called, 6);
}

static unsigned threads_of_process(void)
{
    DIR *tasks = opendir("/proc/self/task");
    unsigned count = 0;

    while (readdir(tasks))
        count++;
    closedir(tasks);
    return count;
}

static bool has_threads(void *count)
{
    return threads_of_process() == *(unsigned *)count;
}

static void destroy_pool(void *pool)
{
    pool_destroy(pool);
    called++;
}

Test(mux, a_thread_of_its_own_ends_even_when_its_last_user_leaves_in_a_callback_on_it)
{
    unsigned before = threads_of_process();
    int descriptors = count_descriptors();

    for (unsigned round = 0; round < 20; round++) {
        struct pool *pool;

        atomic_store(&called, 0);
        cr_assert_eq(pool_create(NULL, &pool), POOL_OK);
        pool_mux_post(pool->mux, destroy_pool, pool);
        cr_expect(wait_until(has_threads, &before, SOON));
        cr_expect_eq(count_descriptors(), descriptors);
        cr_expect_eq(called, 1);
    }
}

/* ---- pools on it */

#define POOLS 3

static int echo(struct pool_conn *conn, void *user)
{
    char text[5];

    (void)user;
    return pool_send(conn, "ping\n", 5) || pool_recv_exact(conn, text, 5) ||
           memcmp(text, "ping\n", 5) != 0;
}

struct shared {
    struct pool *pools[POOLS];
    const char *address;
    _Atomic unsigned failed;
};

static void use_pools(unsigned index, void *argument)
{
    struct shared *shared = argument;

    if (index == 0) {
        pool_mux_run(mux);
        return;
    }
    for (unsigned i = 0; i < 200; i++)
        shared->failed += pool_communicate(shared->pools[i % POOLS], shared->address, echo,
                                           NULL, NULL) != POOL_OK;
    for (unsigned i = 0; i < POOLS; i++) { /* one leaves, the others go on */
        pool_destroy(shared->pools[i]);
        for (unsigned other = i + 1; other < POOLS; other++)
            shared->failed += pool_communicate(shared->pools[other], shared->address, echo,
                                               NULL, NULL) != POOL_OK;
    }
    pool_mux_stop(mux);
}

Test(mux, several_pools_share_one_and_leave_one_by_one)
{
    struct peer *peer = PEER(.behave = PEER_ECHO);
    struct shared shared = { .address = peer_address(peer) };
    int before = count_descriptors();

    for (size_t i = 0; i < POOLS; i++) {
        cr_assert_eq(pool_create(POOL_OPTIONS(.mux = mux), &shared.pools[i]), POOL_OK);
        cr_expect_eq(shared.pools[i]->room, shared.pools[0]->room);
    }
    cr_expect_eq(count_descriptors(), before, "no more descriptors, no thread");
    cr_assert(run_threads(2, use_pools, &shared));
    cr_expect_eq(shared.failed, 0);
    cr_expect(peer_wait_open(peer, 0, SOON));
    cr_expect_eq(peer_accepted(peer, POOLS), POOLS, "pools share no connection");
    pool_mux_destroy(mux);
    peer_stop(peer);
}
