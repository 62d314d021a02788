/* test_nested.c: a callback of one mux may run a batch of another; this thread then is inside
 * both. */
#include <criterion/criterion.h>

#include "commpool/mux.h"
#include "mux/mux.h"

static struct pool_mux *outer, *inner;
static unsigned calls;

static void begin(void)
{
    cr_assert_eq(pool_mux_create(&outer), POOL_OK);
    cr_assert_eq(pool_mux_create(&inner), POOL_OK);
}

static void end(void)
{
    pool_mux_destroy(inner);
    pool_mux_destroy(outer);
}

TestSuite(nested, .init = begin, .fini = end);

static void count(void *user)
{
    (void)user;
    calls++;
}

static void run_in_outer(pool_post_fn *run)
{
    cr_assert_eq(pool_mux_post(outer, run, NULL), POOL_OK);
    cr_assert_eq(pool_mux_dispatch(outer, 0), POOL_OK);
}

static void expect_both(void *user)
{
    count(user);
    cr_expect(pl_mux_is_dispatching(inner));
    cr_expect(pl_mux_is_dispatching(outer));
}

static void dispatch_inner(void *user)
{
    cr_assert_eq(pool_mux_post(inner, expect_both, user), POOL_OK);
    cr_expect_eq(pool_mux_dispatch(inner, 0), POOL_OK);
    cr_expect_eq(pool_mux_dispatch(outer, 0), POOL_E_ARGUMENT, "a batch of it is under way");
    cr_expect_not(pl_mux_is_dispatching(inner));
    cr_expect(pl_mux_is_dispatching(outer));
}

Test(nested, a_thread_is_inside_every_mux_whose_callback_it_has_not_left)
{
    run_in_outer(dispatch_inner);
    cr_expect_eq(calls, 1);
    cr_expect_not(pl_mux_is_dispatching(outer));
}

static struct pool_timer *timer;

static void cancel_timer(void *user)
{
    (void)user;
    count(user);
    pool_timer_cancel(timer);
}

static void cancel_from_inner(void *user)
{
    cr_assert_eq(pool_mux_post(inner, cancel_timer, user), POOL_OK);
    cr_expect_eq(pool_mux_dispatch(inner, 0), POOL_OK);
}

/* It waits for a running callback, unless it is called in it. */
Test(nested, a_timer_is_canceled_in_its_own_callback_by_way_of_another_mux, .timeout = 10)
{
    cr_assert_eq(pool_mux_after(outer, POOL_ZERO, cancel_from_inner, NULL, &timer), POOL_OK);
    while (!calls)
        cr_assert_eq(pool_mux_dispatch(outer, 10), POOL_OK);
}

static void end_inner(void *user)
{
    cr_assert_eq(pool_mux_post(inner, expect_both, user), POOL_OK);
    pool_mux_destroy(inner);
}

Test(nested, a_mux_that_ends_in_anothers_callback_runs_what_was_posted)
{
    run_in_outer(end_inner);
    cr_expect_eq(calls, 1);
    cr_assert_eq(pool_mux_create(&inner), POOL_OK);
}
