/* test_libevent.c: the adapter for libevent. */
#include <criterion/criterion.h>
#include <event2/event.h>

#include "adapt/loops.h"
#include "commpool/adapt/libevent.h"

static void *open_loop(void)
{
    struct event_base *base = event_base_new();

    cr_assert(base);
    return base;
}

static enum pool_status attach(struct pool_mux *mux, void *base, void **link)
{
    return pool_event_attach(mux, base, (struct pool_event_link **)link);
}

static void detach(void *link)
{
    pool_event_detach(link);
}

static void run(void *base, const bool *until)
{
    while (!*until)
        event_base_loop(base, EVLOOP_ONCE);
}

static void settle(void *base)
{
    event_base_loop(base, EVLOOP_NONBLOCK);
}

struct alarm {
    void (*call)(void *user);
    void *user;
};

static void on_alarm(evutil_socket_t fd, short what, void *argument)
{
    struct alarm *alarm = argument;

    (void)fd, (void)what;
    alarm->call(alarm->user);
    free(alarm);
}

static void after(void *base, unsigned ms, void (*call)(void *user), void *user)
{
    struct timeval wait = { .tv_sec = ms / 1000, .tv_usec = (long)(ms % 1000) * 1000 };
    struct alarm *alarm = malloc(sizeof(*alarm));

    *alarm = (struct alarm){ call, user };
    cr_assert_eq(event_base_once(base, -1, EV_TIMEOUT, on_alarm, alarm, &wait), 0);
}

static void close_loop(void *base)
{
    cr_expect_eq(event_base_get_num_events(base, EVENT_BASE_COUNT_ADDED), 0, "an event is left");
    event_base_free(base);
}

static const struct loop_verbs verbs = { open_loop, attach, detach, run,
                                         settle,    after,  close_loop };

Test(libevent, posts_and_timers_run_on_the_loops_thread)
{
    loop_test_posts_and_timers(&verbs);
}

Test(libevent, an_idle_mux_lets_the_loop_sleep)
{
    loop_test_idle(&verbs);
}

Test(libevent, a_pool_lends_to_event_driven_code_in_it)
{
    loop_test_borrow(&verbs);
}

Test(libevent, detaching_and_destroying_inside_a_callback_is_safe)
{
    loop_test_detach_in_callback(&verbs);
}

Test(libevent, the_mux_may_be_destroyed_before_it_is_detached)
{
    loop_test_mux_ends_first(&verbs);
}

Test(libevent, a_detached_mux_may_be_attached_again)
{
    loop_test_attach_again(&verbs);
}

Test(libevent, one_loop_has_several)
{
    loop_test_two_muxes(&verbs);
}

Test(libevent, without_memory_it_is_refused_and_nothing_is_left)
{
    loop_test_no_memory(&verbs);
}

Test(libevent, null_is_an_argument_error_or_harmless)
{
    loop_test_arguments(&verbs);
}
