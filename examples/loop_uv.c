/* loop_uv.c: Redis inside a libuv loop.
 *
 *     ./examples/run loop_uv 127.0.0.1:6379
 *
 * The adapter (commpool_uv) watches the mux in the loop; the rest of the program is libuv's as
 * usual. One thread does everything. */
#include <commpool/adapt/libuv.h>
#include <commpool/pool.h>
#include <stdio.h>
#include <uv.h>

#include "support/arguments.h"
#include "support/talk.h"

enum { TICK_MS = 10, TICKS = 3 };

struct program {
    uv_timer_t ticker;
    int ticks;
    struct talk talk;
};

static void on_tick(uv_timer_t *ticker)
{
    struct program *program = ticker->data;

    if (program->ticks++ < TICKS)
        printf("tick %d\n", program->ticks);
    if (program->talk.is_over && program->ticks >= TICKS)
        uv_stop(ticker->loop);
}

int main(int argc, char **argv)
{
    struct program program = { .ticks = 0 };
    struct pool_uv_link *link = NULL;
    struct pool_mux *mux = NULL;
    struct pool *pool = NULL;
    char address[256];
    uv_loop_t loop;

    if (!argument_address(argc, argv, "loop_uv 127.0.0.1:6379", address))
        return 2;
    uv_loop_init(&loop);
    uv_timer_init(&loop, &program.ticker);
    program.ticker.data = &program;
    if (pool_mux_create(&mux) || pool_create(POOL_OPTIONS(.mux = mux), &pool) ||
        pool_uv_attach(mux, &loop, &link)) {
        fputs("cannot make a pool\n", stderr);
        program.talk.has_failed = true;
    } else {
        uv_timer_start(&program.ticker, on_tick, TICK_MS, TICK_MS);
        talk_begin(&program.talk, pool, address);
        uv_run(&loop, UV_RUN_DEFAULT);
    }
    pool_destroy(pool);                 /* first the pools, then the link, then the mux */
    pool_uv_detach(link);
    pool_mux_destroy(mux);
    uv_close((uv_handle_t *)&program.ticker, NULL);
    uv_run(&loop, UV_RUN_DEFAULT);      /* libuv closes handles in its loop */
    return uv_loop_close(&loop) || program.talk.has_failed;
}
