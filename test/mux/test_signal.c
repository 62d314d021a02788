/* test_signal.c: signals as events of a mux. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/compiler.h"
#include "base/os.h"
#include "commpool/pool.h"
#include "mux/mux.h"
#include "support/tests.h"

#define SOON 10000

static struct pool_mux *mux;
static int descriptors;

static void begin(void)
{
    descriptors = count_descriptors();
    cr_assert_eq(pool_mux_create(&mux), POOL_OK);
}

static void end(void)
{
    pool_mux_destroy(mux);
    cr_expect_eq(count_descriptors(), descriptors, "nothing is left");
}

TestSuite(mux_signal, .init = begin, .fini = end);

struct told {
    unsigned times, place; /* place: among all calls */
    pthread_t thread;
};

static unsigned calls;

static void tell(void *user)
{
    struct told *told = user;

    told->times++;
    told->place = ++calls;
    told->thread = pthread_self();
}

static void listen_to_signal(int signo, struct told *told)
{
    cr_assert_eq(pool_mux_signal(mux, signo, tell, told), POOL_OK);
}

/* As other processes do: to the process, whichever thread takes it. */
static void send_signal(int signo)
{
    cr_assert_eq(kill(getpid(), signo), 0);
}

static void dispatch(void)
{
    cr_assert_eq(pool_mux_dispatch(mux, 0), POOL_OK);
}

static bool is_readable(void)
{
    struct pollfd polled = { .fd = pool_mux_fd(mux), .events = POLLIN };

    return poll(&polled, 1, 0) == 1;
}

static bool is_blocked(int signo)
{
    sigset_t blocked;

    pthread_sigmask(SIG_BLOCK, NULL, &blocked);
    return sigismember(&blocked, signo) == 1;
}

Test(mux_signal, one_that_comes_is_told_on_the_mux_thread_each_time_it_comes)
{
    struct told told = { 0 };

    listen_to_signal(SIGTERM, &told);
    cr_expect(is_blocked(SIGTERM));
    cr_expect_not(is_readable());
    for (unsigned round = 1; round <= 3; round++) {
        send_signal(SIGTERM);
        cr_assert(is_readable());
        cr_expect_eq(told.times, round - 1, "never where it comes");
        dispatch();
        cr_expect_eq(told.times, round);
        cr_expect(pthread_equal(told.thread, pthread_self()));
        cr_expect_not(is_readable());
    }
}

Test(mux_signal, several_have_one_descriptor_and_each_its_own_callbacks_in_the_order_of_asking)
{
    struct told term = { 0 }, hup = { 0 }, term_too = { 0 }, realtime = { 0 };
    int before = count_descriptors();

    listen_to_signal(SIGTERM, &term);
    listen_to_signal(SIGHUP, &hup);
    listen_to_signal(SIGTERM, &term_too);
    listen_to_signal(SIGRTMAX, &realtime);
    cr_expect_eq(count_descriptors(), before + 1);
    send_signal(SIGTERM);
    dispatch();
    cr_expect_eq(term.place, 1);
    cr_expect_eq(term_too.place, 2);
    cr_expect_eq(hup.times + realtime.times, 0);
    send_signal(SIGHUP);
    send_signal(SIGRTMAX);
    while (is_readable())
        dispatch();
    cr_expect_eq(hup.times, 1);
    cr_expect_eq(realtime.times, 1);
    cr_expect_eq(term.times, 1);
}

Test(mux_signal, a_realtime_signal_that_is_queued_is_told_as_often_as_it_was_sent)
{
    struct told told = { 0 };

    listen_to_signal(SIGRTMIN, &told);
    for (int i = 0; i < 50; i++)
        send_signal(SIGRTMIN);
    while (is_readable())
        dispatch();
    cr_expect_eq(told.times, 50);
}

static void send_again(void *user)
{
    tell(user);
    raise(SIGUSR1);
}

Test(mux_signal, a_callback_that_raises_its_own_signal_is_called_once_a_batch)
{
    struct told told = { 0 };

    cr_assert_eq(pool_mux_signal(mux, SIGUSR1, send_again, &told), POOL_OK);
    send_signal(SIGUSR1);
    for (unsigned batch = 1; batch <= 5; batch++) {
        dispatch();
        cr_expect_eq(told.times, batch);
    }
}

static struct told late;

static void listen_more(void *user)
{
    tell(user);
    cr_assert_eq(pool_mux_signal(mux, SIGUSR1, listen_more, &late), POOL_OK);
}

Test(mux_signal, a_callback_that_asks_for_its_signal_again_is_called_for_the_next_one)
{
    struct told told = { 0 };

    cr_assert_eq(pool_mux_signal(mux, SIGUSR1, listen_more, &told), POOL_OK);
    send_signal(SIGUSR1);
    dispatch();
    cr_expect_eq(told.times, 1);
    cr_expect_eq(late.times, 0);
    send_signal(SIGUSR1);
    dispatch();
    cr_expect_eq(told.times, 2);
    cr_expect_eq(late.times, 1);
}

static void end_it(void *user)
{
    tell(user);
    pool_mux_destroy(mux);
    mux = NULL;
}

Test(mux_signal, a_callback_may_end_the_mux)
{
    struct told told = { 0 }, second = { 0 };

    cr_assert_eq(pool_mux_signal(mux, SIGTERM, end_it, &told), POOL_OK);
    listen_to_signal(SIGTERM, &second);
    send_signal(SIGTERM);
    dispatch();
    cr_expect_eq(told.times, 1);
    cr_expect_eq(second.times, 1, "it lives until the batch ends");
}

Test(mux_signal, its_descriptor_is_closed_when_the_process_becomes_another_program)
{
    struct told told = { 0 };
    int flags = -1;

    listen_to_signal(SIGTERM, &told);
    flags = fcntl(mux->shared.signal_fd, F_GETFD);
    cr_expect_neq(flags, -1);
    cr_expect(flags & FD_CLOEXEC);
    cr_expect(fcntl(mux->shared.signal_fd, F_GETFL) & O_NONBLOCK);
}

Test(mux_signal, what_cannot_be_caught_is_an_argument_error_and_so_is_null)
{
    const int impossible[] = {
        SIGKILL, SIGSTOP, 0, -1, SIGRTMAX + 1, SIGRTMIN - 1, 32, 33, 1 << 20
    };
    int before = count_descriptors();

    for (size_t i = 0; i < PL_COUNT(impossible); i++)
        cr_expect_eq(pool_mux_signal(mux, impossible[i], tell, NULL), POOL_E_ARGUMENT, "%d",
                     impossible[i]);
    cr_expect_eq(pool_mux_signal(NULL, SIGTERM, tell, NULL), POOL_E_ARGUMENT);
    cr_expect_eq(pool_mux_signal(mux, SIGTERM, NULL, NULL), POOL_E_ARGUMENT);
    cr_expect_not(is_blocked(SIGTERM));
    cr_expect_eq(count_descriptors(), before);
}

static unsigned calls_until_failure;

static bool fails_now(void)
{
    return --calls_until_failure == 0;
}

static void *failing_malloc(size_t size)
{
    return fails_now() ? NULL : pl_os_real.malloc(size);
}

static int failing_signalfd_set(int fd, const sigset_t *signals)
{
    return fails_now() ? -EMFILE : pl_os_real.signalfd_set(fd, signals);
}

static int failing_epoll_ctl(int epoll_fd, int operation, int fd, struct epoll_event *event)
{
    return fails_now() ? -ENOSPC : pl_os_real.epoll_ctl(epoll_fd, operation, fd, event);
}

Test(mux_signal, one_that_cannot_be_watched_is_refused_leaves_nothing_and_is_not_blocked)
{
    static const enum pool_status expected[] = { POOL_E_MEMORY, POOL_E_RESOURCE, POOL_E_RESOURCE };
    struct pl_os os = pl_os_real;
    struct told told = { 0 };
    int before = count_descriptors();

    os.malloc = failing_malloc;
    os.signalfd_set = failing_signalfd_set;
    os.epoll_ctl = failing_epoll_ctl;
    pl_os_replace(&os);
    for (unsigned nth = 1; nth <= PL_COUNT(expected); nth++) {
        calls_until_failure = nth;
        cr_expect_eq(pool_mux_signal(mux, SIGTERM, tell, &told), expected[nth - 1]);
        cr_expect_eq(count_descriptors(), before);
        cr_expect_not(is_blocked(SIGTERM));
    }
    listen_to_signal(SIGTERM, &told);
    calls_until_failure = 2;
    cr_expect_eq(pool_mux_signal(mux, SIGHUP, tell, &told), POOL_E_RESOURCE);
    cr_expect_not(is_blocked(SIGHUP));
    pl_os_replace(NULL);
    send_signal(SIGTERM);
    dispatch();
    cr_expect_eq(told.times, 1, "the first one is told as before");
}

static void count_told(void *user)
{
    atomic_fetch_add((_Atomic unsigned *)user, 1);
}

struct askers {
    _Atomic unsigned told, failed;
};

static void ask(unsigned index, void *argument)
{
    struct askers *askers = argument;

    for (int i = 0; i < 20; i++)
        askers->failed += pool_mux_signal(mux, SIGRTMIN + (int)index, count_told,
                                          &askers->told) != POOL_OK;
}

Test(mux_signal, several_threads_may_ask_at_once)
{
    struct askers askers = { 0 };
    sigset_t all;

    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, NULL); /* in those threads, too */
    cr_assert(run_threads(8, ask, &askers));
    cr_expect_eq(askers.failed, 0);
    for (int i = 0; i < 8; i++)
        send_signal(SIGRTMIN + i);
    while (is_readable())
        dispatch();
    cr_expect_eq(askers.told, 8 * 20);
}
