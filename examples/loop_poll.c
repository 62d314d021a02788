/* loop_poll.c: Redis inside a loop of poll(2) that the program has already.
 *
 *     ./examples/run loop_poll 127.0.0.1:6379
 *
 * A mux is one descriptor: the loop watches it beside its own and dispatches when it is readable.
 * The loop's timeout stays its own, since the mux's timers make the descriptor readable, too. One
 * thread does everything. */
#include <commpool/pool.h>
#include <poll.h>
#include <stdio.h>
#include <time.h>

#include "support/arguments.h"
#include "support/talk.h"

enum { TICK_MS = 10, TICKS = 3 };

static long now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Until the talk is over and the loop's own timer has ticked as often as it wants to. */
static void loop(struct pool_mux *mux, const struct talk *talk)
{
    struct pollfd polled = { .fd = pool_mux_fd(mux), .events = POLLIN };
    long next_ms = now_ms() + TICK_MS, left_ms;

    for (int ticks = 0; !talk->is_over || ticks < TICKS;) {
        left_ms = next_ms - now_ms();
        if (poll(&polled, 1, left_ms > 0 ? (int)left_ms : 0) == 1)
            pool_mux_dispatch(mux, 0);
        if (now_ms() < next_ms)
            continue;
        next_ms += TICK_MS;
        if (ticks++ < TICKS)
            printf("tick %d\n", ticks);
    }
}

int main(int argc, char **argv)
{
    struct talk talk = { .is_over = false };
    struct pool_mux *mux = NULL;
    struct pool *pool = NULL;
    char address[256];

    if (!argument_address(argc, argv, "loop_poll 127.0.0.1:6379", address))
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
