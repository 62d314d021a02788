/* loop_epoll.c: Redis inside an epoll set that the program has already.
 *
 *     ./examples/run loop_epoll 127.0.0.1:6379
 *
 * The mux's descriptor is itself an epoll set, and epoll sets nest: the program adds it to its own
 * like any other descriptor, level-triggered, and dispatches when it is told. One thread does
 * everything. */
#include <commpool/pool.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "support/arguments.h"
#include "support/talk.h"

enum { TICK_MS = 10, TICKS = 3 };

static int add(int set, int fd)
{
    struct epoll_event event = { .events = EPOLLIN, .data = { .fd = fd } };

    return epoll_ctl(set, EPOLL_CTL_ADD, fd, &event);
}

/* The program's own timer, as a descriptor. */
static int start_ticking(void)
{
    struct itimerspec every = { .it_value = { .tv_nsec = TICK_MS * 1000000L },
                                .it_interval = { .tv_nsec = TICK_MS * 1000000L } };
    int fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC);

    timerfd_settime(fd, 0, &every, NULL);
    return fd;
}

static void loop(struct pool_mux *mux, const struct talk *talk)
{
    int set = epoll_create1(EPOLL_CLOEXEC), ticker = start_ticking(), ticks = 0;
    struct epoll_event event;
    unsigned long long since;

    if (add(set, ticker) || add(set, pool_mux_fd(mux)))
        perror("epoll_ctl");
    while (!talk->is_over || ticks < TICKS) {
        if (epoll_wait(set, &event, 1, -1) != 1)
            continue;
        if (event.data.fd != ticker)
            pool_mux_dispatch(mux, 0);
        else if (read(ticker, &since, sizeof(since)) > 0 && ticks++ < TICKS)
            printf("tick %d\n", ticks);
    }
    close(ticker);
    close(set);
}

int main(int argc, char **argv)
{
    struct talk talk = { .is_over = false };
    struct pool_mux *mux = NULL;
    struct pool *pool = NULL;
    char address[256];

    if (!argument_address(argc, argv, "loop_epoll 127.0.0.1:6379", address))
        return 2;
    if (pool_mux_create(&mux) || pool_create(POOL_OPTIONS(.mux = mux), &pool)) {
        fputs("cannot make a pool\n", stderr);
        talk.has_failed = true;
    } else {
        talk_begin(&talk, pool, address);
        loop(mux, &talk);
    }
    pool_destroy(pool);                 /* first the pools, then their mux */
    pool_mux_destroy(mux);
    return talk.has_failed;
}
