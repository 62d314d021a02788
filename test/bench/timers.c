/* timers.c: what moving a timer costs among a hundred thousand, all due within an hour or two, none
 * while it is measured.
 */
#include <stdlib.h>

#include "bench.h"

#define ROUNDS 101u
#define TIMERS 100000u
#define TIMES 50000u
#define SOONEST_MS 600000u
#define SPAN_MS 3600000u

struct clockwork {
    struct pool_mux *mux;
    struct pool_timer *timers[TIMERS];
    uint64_t seed;
};

/* Marsaglia's xorshift, "Xorshift RNGs" (2003): cheap beside what is measured. */
static uint64_t next_random(struct clockwork *clockwork)
{
    clockwork->seed ^= clockwork->seed << 13;
    clockwork->seed ^= clockwork->seed >> 7;
    clockwork->seed ^= clockwork->seed << 17;
    return clockwork->seed;
}

static uint32_t random_ms(struct clockwork *clockwork)
{
    return SOONEST_MS + (uint32_t)(next_random(clockwork) % SPAN_MS);
}

static void on_fire(void *user)
{
    (void)user;
    need(false, "no timer fires");
}

static double round_move(void *user)
{
    struct clockwork *clockwork = user;
    uint64_t start_ns = now_ns();

    for (unsigned i = 0; i < TIMES; i++) {
        struct pool_timer *timer = clockwork->timers[next_random(clockwork) % TIMERS];

        need_ok(pool_timer_again(timer, random_ms(clockwork)), "pool_timer_again");
    }
    return (double)(now_ns() - start_ns) / TIMES;
}

void figure_timers(const char *name)
{
    struct clockwork *clockwork = calloc(1, sizeof(*clockwork));

    need(clockwork, "calloc");
    clockwork->seed = 88172645463325252u;
    pin_to_core(0);
    need_ok(pool_mux_create(&clockwork->mux), "pool_mux_create");
    for (unsigned i = 0; i < TIMERS; i++)
        need_ok(pool_mux_after(clockwork->mux, random_ms(clockwork), on_fire, NULL,
                               &clockwork->timers[i]),
                "pool_mux_after");
    report(name, repeat(ROUNDS, round_move, clockwork), 150);
    for (unsigned i = 0; i < TIMERS; i++)
        pool_timer_cancel(clockwork->timers[i]);
    pool_mux_destroy(clockwork->mux);
    free(clockwork);
}
