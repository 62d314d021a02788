/* loop_event.c: Redis inside a libevent loop.
 *
 *     ./examples/run loop_event 127.0.0.1:6379
 *
 * The adapter (commpool_event) watches the mux in the loop; the rest of the program is libevent's
 * as usual. One thread does everything. */
#include <commpool/adapt/libevent.h>
#include <commpool/pool.h>
#include <event2/event.h>
#include <stdio.h>

#include "support/arguments.h"
#include "support/talk.h"

enum { TICK_MS = 10, TICKS = 3 };

struct program {
    struct event_base *base;
    int ticks;
    struct talk talk;
};

static void on_tick(evutil_socket_t fd, short what, void *user)
{
    struct program *program = user;

    (void)fd, (void)what;
    if (program->ticks++ < TICKS)
        printf("tick %d\n", program->ticks);
    if (program->talk.is_over && program->ticks >= TICKS)
        event_base_loopbreak(program->base);
}

int main(int argc, char **argv)
{
    struct program program = { .base = event_base_new() };
    struct event *ticker = event_new(program.base, -1, EV_PERSIST, on_tick, &program);
    struct timeval tick = { .tv_usec = TICK_MS * 1000 };
    struct pool_event_link *link = NULL;
    struct pool_mux *mux = NULL;
    struct pool *pool = NULL;
    char address[256];
    int status = 2;

    if (argument_address(argc, argv, "loop_event 127.0.0.1:6379", address)) {
        if (pool_mux_create(&mux) || pool_create(POOL_OPTIONS(.mux = mux), &pool) ||
            pool_event_attach(mux, program.base, &link)) {
            fputs("cannot make a pool\n", stderr);
            program.talk.has_failed = true;
        } else {
            event_add(ticker, &tick);
            talk_begin(&program.talk, pool, address);
            event_base_dispatch(program.base);
        }
        status = program.talk.has_failed;
    }
    pool_destroy(pool);                 /* first the pools, then the link, then the mux */
    pool_event_detach(link);
    pool_mux_destroy(mux);
    event_free(ticker);
    event_base_free(program.base);
    return status;
}
