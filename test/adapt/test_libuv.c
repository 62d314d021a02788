/* test_libuv.c: the adapter for libuv. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <uv.h>

#include "adapt/loops.h"
#include "commpool/adapt/libuv.h"

static void *open_loop(void)
{
    uv_loop_t *loop = malloc(sizeof(*loop));

    cr_assert_eq(uv_loop_init(loop), 0);
    return loop;
}

static enum pool_status attach(struct pool_mux *mux, void *loop, void **link)
{
    return pool_uv_attach(mux, loop, (struct pool_uv_link **)link);
}

static void detach(void *link)
{
    pool_uv_detach(link);
}

static void run(void *loop, const bool *until)
{
    while (!*until)
        uv_run(loop, UV_RUN_ONCE);
}

static void settle(void *loop)
{
    uv_run(loop, UV_RUN_NOWAIT);
}

struct alarm {
    uv_timer_t timer; /* first */
    void (*call)(void *user);
    void *user;
};

static void free_alarm(uv_handle_t *timer)
{
    free(timer);
}

static void on_alarm(uv_timer_t *timer)
{
    struct alarm *alarm = (struct alarm *)timer;

    alarm->call(alarm->user);
    uv_close((uv_handle_t *)timer, free_alarm);
}

static void after(void *loop, unsigned ms, void (*call)(void *user), void *user)
{
    struct alarm *alarm = calloc(1, sizeof(*alarm));

    alarm->call = call;
    alarm->user = user;
    uv_update_time(loop);
    uv_timer_init(loop, &alarm->timer);
    uv_timer_start(&alarm->timer, on_alarm, ms, 0);
}

static void close_loop(void *loop)
{
    cr_expect_eq(uv_loop_close(loop), 0, "a handle is left");
    free(loop);
}

static const struct loop_verbs verbs = { open_loop, attach, detach, run,
                                         settle,    after,  close_loop };

Test(libuv, posts_and_timers_run_on_the_loops_thread)
{
    loop_test_posts_and_timers(&verbs);
}

Test(libuv, an_idle_mux_lets_the_loop_sleep)
{
    loop_test_idle(&verbs);
}

Test(libuv, a_pool_lends_to_event_driven_code_in_it)
{
    loop_test_borrow(&verbs);
}

Test(libuv, detaching_and_destroying_inside_a_callback_is_safe)
{
    loop_test_detach_in_callback(&verbs);
}

Test(libuv, the_mux_may_be_destroyed_before_it_is_detached)
{
    loop_test_mux_ends_first(&verbs);
}

Test(libuv, a_detached_mux_may_be_attached_again)
{
    loop_test_attach_again(&verbs);
}

Test(libuv, one_loop_has_several)
{
    loop_test_two_muxes(&verbs);
}

Test(libuv, without_memory_it_is_refused_and_nothing_is_left)
{
    loop_test_no_memory(&verbs);
}

Test(libuv, null_is_an_argument_error_or_harmless)
{
    loop_test_arguments(&verbs);
}

Test(libuv, one_mux_twice_in_one_loop_is_refused)
{
    uv_loop_t *loop = open_loop();
    struct pool_uv_link *link, *second;
    struct pool_mux *mux;

    cr_assert_eq(pool_mux_create(&mux), POOL_OK);
    cr_assert_eq(pool_uv_attach(mux, loop, &link), POOL_OK);
    cr_expect_eq(pool_uv_attach(mux, loop, &second), POOL_E_SYSTEM);
    pool_uv_detach(link);
    pool_mux_destroy(mux);
    cr_expect_eq(uv_loop_close(loop), UV_EBUSY, "until the loop has run once more");
    settle(loop);
    close_loop(loop);
}
