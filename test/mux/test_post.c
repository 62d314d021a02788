/* test_post.c: what other threads ask of the mux thread, through mux.h: posts and timers. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "base/compiler.h"
#include "base/os.h"
#include "commpool/mux.h"
#include "mux/mux.h"
#include "support/tests.h"

#define SOON 10000

static struct pool_mux *mux;

static void begin(void)
{
    cr_assert_eq(pool_mux_create(&mux), POOL_OK);
}

static void end(void)
{
    pool_mux_destroy(mux);
}

TestSuite(post, .init = begin, .fini = end);

static unsigned calls;

static void count(void *user)
{
    calls++;
    if (user)
        *(unsigned *)user = calls;
}

static void dispatch(void)
{
    cr_assert_eq(pool_mux_dispatch(mux, 0), POOL_OK);
}

/* ---- posts */

Test(post, one_runs_once_and_never_on_the_stack_of_its_call)
{
    cr_assert_eq(pool_mux_post(mux, count, NULL), POOL_OK);
    cr_expect_eq(calls, 0);
    dispatch();
    cr_expect_eq(calls, 1);
    dispatch();
    cr_expect_eq(calls, 1);
}

#define THREADS 8
#define POSTS 100000u

struct order {
    struct pool_mux *mux;
    _Atomic unsigned done;
    unsigned next[THREADS]; /* the mux thread's */
    unsigned disorder, wrong_thread;
    pthread_t runner;
    bool has_runner;
};

struct numbered {
    struct pl_post post;
    struct order *order;
    unsigned thread, number;
};

static void check_order(struct numbered *numbered)
{
    struct order *order = numbered->order;

    if (!order->has_runner)
        order->runner = pthread_self();
    order->has_runner = true;
    order->wrong_thread += !pthread_equal(order->runner, pthread_self());
    order->disorder += order->next[numbered->thread]++ != numbered->number;
    atomic_fetch_add(&order->done, 1);
}

static void run_numbered(struct pl_post *post)
{
    struct numbered *numbered = pl_container(post, struct numbered, post);

    check_order(numbered);
    free(numbered);
}

static void run_public_numbered(void *user)
{
    check_order(user);
    free(user);
}

/* Odd ones through the public call, even ones through the inner one: one queue. */
static void post_many(unsigned index, void *argument)
{
    struct order *order = argument;

    for (unsigned i = 0; i < POSTS; i++) {
        struct numbered *numbered = calloc(1, sizeof(*numbered));

        *numbered = (struct numbered){ { .run = run_numbered }, order, index, i };
        if (i % 2 == 0)
            pl_mux_post(order->mux, &numbered->post);
        else if (pool_mux_post(order->mux, run_public_numbered, numbered))
            abort();
    }
}

static bool all_ran(void *argument)
{
    return atomic_load(&((struct order *)argument)->done) == THREADS * POSTS;
}

Test(post, those_of_many_threads_all_run_each_threads_in_its_order)
{
    static struct order order;

    cr_assert_eq(pl_mux_open(&order.mux, true), POOL_OK);
    cr_assert(run_threads(THREADS, post_many, &order));
    cr_expect(wait_until(all_ran, &order, 60000), "a wake-up was lost: %u ran", order.done);
    pl_mux_unref(order.mux);
    cr_expect_eq(order.done, THREADS * POSTS);
    cr_expect_eq(order.disorder, 0);
    cr_expect_eq(order.wrong_thread, 0);
}

static void post_again(void *user)
{
    unsigned *more = user;

    calls++;
    if (--*more)
        pool_mux_post(mux, post_again, more);
}

Test(post, what_a_post_posts_runs_in_the_next_batch_so_no_batch_lasts_for_ever)
{
    struct pollfd polled = { .fd = pool_mux_fd(mux), .events = POLLIN };
    unsigned more = 10;

    pool_mux_post(mux, post_again, &more);
    for (unsigned batch = 1; batch <= 10; batch++) {
        cr_assert_eq(poll(&polled, 1, SOON), 1);
        dispatch();
        cr_expect_eq(calls, batch);
    }
    cr_expect_eq(poll(&polled, 1, 0), 0);
}

static void *no_memory(size_t size)
{
    (void)size;
    return NULL;
}

Test(post, without_memory_it_is_refused_and_never_runs)
{
    struct pl_os os = pl_os_real;
    struct pool_timer *timer = (struct pool_timer *)&os;

    os.malloc = no_memory;
    pl_os_replace(&os);
    cr_expect_eq(pool_mux_post(mux, count, NULL), POOL_E_MEMORY);
    cr_expect_eq(pool_mux_after(mux, 0, count, NULL, &timer), POOL_E_MEMORY);
    cr_expect_null(timer);
    pl_os_replace(NULL);
    dispatch();
    cr_expect_eq(calls, 0);
}

Test(post, null_is_an_argument_error_or_harmless)
{
    struct pool_timer *timer = NULL;

    cr_expect_eq(pool_mux_create(NULL), POOL_E_ARGUMENT);
    cr_expect_eq(pool_mux_post(NULL, count, NULL), POOL_E_ARGUMENT);
    cr_expect_eq(pool_mux_post(mux, NULL, NULL), POOL_E_ARGUMENT);
    cr_expect_eq(pool_mux_after(NULL, 1, count, NULL, &timer), POOL_E_ARGUMENT);
    cr_expect_eq(pool_mux_after(mux, 1, NULL, NULL, &timer), POOL_E_ARGUMENT);
    cr_expect_eq(pool_mux_after(mux, 1, count, NULL, NULL), POOL_E_ARGUMENT);
    cr_expect_eq(pool_timer_again(NULL, 1), POOL_E_ARGUMENT);
    cr_expect_eq(pool_mux_dispatch(NULL, 0), POOL_E_ARGUMENT);
    cr_expect_eq(pool_mux_run(NULL), POOL_E_ARGUMENT);
    cr_expect_eq(pool_mux_fd(NULL), -1);
    pool_timer_cancel(NULL);
    pool_mux_stop(NULL);
    pool_mux_destroy(NULL);
}

/* ---- timers */

static struct pool_timer *after(uint32_t ms, void *user)
{
    struct pool_timer *timer;

    cr_assert_eq(pool_mux_after(mux, ms, count, user, &timer), POOL_OK);
    return timer;
}

/* Dispatches until `wanted` calls were made; answers how long that took. */
static uint64_t run_until(unsigned wanted)
{
    uint64_t begin_us = now_us();

    while (calls < wanted)
        cr_assert_eq(pool_mux_dispatch(mux, SOON), POOL_OK);
    return (now_us() - begin_us) / 1000;
}

Test(post, a_timer_of_0_fires_in_the_next_batch_and_one_of_none_only_when_it_is_moved)
{
    unsigned first = 0, second = 0;
    struct pool_timer *never = after(POOL_NONE, NULL), *now = after(0, &first);
    struct pool_timer *zero = after(POOL_ZERO, &second);

    dispatch();
    cr_expect_eq(first, 1);
    cr_expect_eq(second, 2);
    cr_expect_eq(pool_timer_again(never, 5), POOL_OK);
    cr_expect(WITHIN(run_until(3), 4, 25));
    pool_timer_cancel(never);
    pool_timer_cancel(now);
    pool_timer_cancel(zero);
}

Test(post, equal_times_fire_in_the_order_in_which_they_were_asked_for)
{
    unsigned places[3] = { 0 };
    struct pool_timer *timers[3];

    for (size_t i = 0; i < PL_COUNT(timers); i++)
        timers[i] = after(0, &places[i]);
    cr_expect_eq(pool_timer_again(timers[0], 0), POOL_OK);
    while (calls < 3)
        dispatch();
    cr_expect_eq(places[1], 1);
    cr_expect_eq(places[2], 2);
    cr_expect_eq(places[0], 3);
    for (size_t i = 0; i < PL_COUNT(timers); i++)
        pool_timer_cancel(timers[i]);
}

Test(post, a_timer_that_is_moved_fires_at_its_new_time_only)
{
    struct pool_timer *timer = after(1, NULL);

    cr_expect_eq(pool_timer_again(timer, 40), POOL_OK);
    cr_expect(WITHIN(run_until(1), 39, 60));
    cr_expect_eq(calls, 1);
    cr_expect_eq(pool_timer_again(timer, POOL_NONE), POOL_OK);
    cr_expect_eq(pool_mux_dispatch(mux, 5), POOL_OK);
    cr_expect_eq(calls, 1);
    pool_timer_cancel(timer);
}

static struct pool_timer *periodic;

static void tick(void *user)
{
    (void)user;
    if (++calls < 10)
        cr_assert_eq(pool_timer_again(periodic, 2), POOL_OK);
    else
        pool_timer_cancel(periodic);
}

Test(post, a_timer_that_arms_itself_is_periodic_and_may_cancel_itself)
{
    cr_assert_eq(pool_mux_after(mux, 2, tick, NULL, &periodic), POOL_OK);
    cr_expect(WITHIN(run_until(10), 19, 60));
}

Test(post, a_timer_that_was_cancelled_does_not_fire)
{
    struct pool_timer *due = after(0, NULL), *later = after(1, NULL);

    pool_timer_cancel(due);
    pool_timer_cancel(later);
    cr_expect_eq(pool_mux_dispatch(mux, 10), POOL_OK);
    cr_expect_eq(calls, 0);
}

struct slow {
    _Atomic bool has_begun, may_end, has_ended, was_waited_for;
    struct pool_timer *timer;
};

static bool is_true(void *flag)
{
    return atomic_load((_Atomic bool *)flag);
}

static void be_slow(void *user)
{
    struct slow *slow = user;

    atomic_store(&slow->has_begun, true);
    wait_until(is_true, &slow->may_end, SOON);
    atomic_store(&slow->has_ended, true);
}

static void cancel_meanwhile(unsigned index, void *argument)
{
    struct slow *slow = argument;

    if (index == 0) {
        pool_mux_dispatch(mux, POOL_NONE);
    } else if (index == 1) {
        wait_until(is_true, &slow->has_begun, SOON);
        pool_timer_cancel(slow->timer);
        atomic_store(&slow->was_waited_for, atomic_load(&slow->has_ended));
    } else {
        wait_until(is_true, &slow->has_begun, SOON);
        wait_until(is_true, &slow->was_waited_for, 20); /* a cancel that does not wait is done */
        atomic_store(&slow->may_end, true);
    }
}

Test(post, cancelling_from_another_thread_waits_for_the_callback_that_runs)
{
    struct slow slow = { .timer = NULL };

    cr_assert_eq(pool_mux_after(mux, 0, be_slow, &slow, &slow.timer), POOL_OK);
    cr_assert(run_threads(3, cancel_meanwhile, &slow));
    cr_expect(slow.was_waited_for);
}

Test(post, a_timer_keeps_its_mux_until_it_is_cancelled)
{
    struct pool_mux *other;
    struct pool_timer *timer;

    cr_assert_eq(pool_mux_create(&other), POOL_OK);
    cr_assert_eq(pool_mux_after(other, 0, count, NULL, &timer), POOL_OK);
    pool_mux_destroy(other);
    pool_timer_cancel(timer);
    cr_expect_eq(calls, 0);
}

/* ---- the end of a mux beside whoever wakes it */

struct last {
    struct pool_mux *mux;
    bool is_stopped_by_hand;
    _Atomic bool is_in_batch, is_waking, is_destroyed, was_open;
};

static struct last last;
static struct pl_os slow_door;
static _Thread_local bool wakes_late;

/* Long enough for the other thread to end the mux, if it can. */
static int wake_late(int fd)
{
    if (wakes_late) {
        atomic_store(&last.is_waking, true);
        wait_until(is_true, &last.is_destroyed, 100);
        atomic_store(&last.was_open, fcntl(fd, F_GETFD) >= 0);
        wakes_late = false;
    }
    return pl_os_real.eventfd_add(fd);
}

static void stay_in_batch(void *user)
{
    (void)user;
    atomic_store(&last.is_in_batch, true);
    wait_until(is_true, &last.is_waking, SOON);
}

static void quit(void *user)
{
    (void)user;
    pool_mux_stop(last.mux);
}

static void end_beside(unsigned index, void *unused)
{
    (void)unused;
    if (index) {
        wait_until(is_true, &last.is_in_batch, SOON);
        wakes_late = true;
        if (last.is_stopped_by_hand)
            pool_mux_stop(last.mux);
        else
            pool_mux_post(last.mux, quit, NULL);
        return;
    }
    pool_mux_run(last.mux);
    pool_mux_destroy(last.mux);
    atomic_store(&last.is_destroyed, true);
}

static void end_while_woken(bool is_stopped_by_hand)
{
    last = (struct last){ .is_stopped_by_hand = is_stopped_by_hand };
    slow_door = pl_os_real;
    slow_door.eventfd_add = wake_late;
    cr_assert_eq(pool_mux_create(&last.mux), POOL_OK);
    cr_assert_eq(pool_mux_post(last.mux, stay_in_batch, NULL), POOL_OK);
    pl_os_replace(&slow_door);
    cr_assert(run_threads(2, end_beside, NULL));
    pl_os_replace(NULL);
    cr_expect(atomic_load(&last.was_open), "it woke a number that was closed");
}

Test(post, a_mux_that_ends_by_a_post_ends_after_whoever_wakes_it)
{
    end_while_woken(false);
}

Test(post, a_mux_that_was_stopped_ends_after_whoever_wakes_it)
{
    end_while_woken(true);
}
