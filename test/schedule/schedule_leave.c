/* schedule_leave.c: between the moment at which a pool's last holder lets go of it and the moment
 * at which he frees it, a call that comes too late enters and leaves it, too, and so frees it in
 * his place; and the next pool, in the same memory, is destroyed while a loan of it is out.
 *
 * Whatever the schedule: he does not free that one for it, which is there until the loan is
 * returned.
 *
 *     schedule_leave [seed [rounds]]     the seed that a failure names repeats it, as a rule */
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "pool/pool.h"
#include "schedule/schedule.h"
#include "support/tests.h"

#define SECONDS 5
#define THREADS 2u
#define ADDRESS "unix:///of/a/pair"

struct round {
    struct pool *first, *next; /* NULL: nobody came in between */
    struct pool_conn conn;
    int far;
    atomic_bool is_watched;
};

static struct pool_mux *mux; /* embedded, and dispatched by nobody */
static unsigned long met;

/* The next pool, and its end with a loan out. */
static void lend_and_destroy(struct round *round)
{
    int pair[2];

    if (pool_create(POOL_OPTIONS(.mux = mux), &round->next) ||
        socketpair(AF_UNIX, SOCK_STREAM, 0, pair) || pool_adopt(round->next, ADDRESS, pair[0]) ||
        pool_borrow(round->next, ADDRESS, NULL, &round->conn))
        abort();
    round->far = pair[1];
    met += round->next == round->first;
    pool_destroy(round->next);
}

static void let_go_or_come_late(unsigned index, void *argument)
{
    struct round *round = argument;
    struct pool_conn none;
    uint32_t state;

    if (index == 0) {
        while (!atomic_load(&round->is_watched))
            schedule_yield();
        pool_destroy(round->first);
        return;
    }
    atomic_store(&round->is_watched, true);
    while ((state = atomic_load(&round->first->state)) != PL_POOL_NONE) {
        if (state == PL_POOL_DESTROYED && !(uint32_t)atomic_load(&round->first->refs)) {
            if (pool_borrow(round->first, ADDRESS, NULL, &none) != POOL_E_CLOSING)
                abort();
            lend_and_destroy(round);
            return;
        }
        schedule_yield();
    }
}

static bool play(uint64_t seed)
{
    struct round round = { .next = NULL };
    bool is_there = true;

    schedule_begin(seed, 100 + (unsigned)(seed % 100));
    if (pool_create(POOL_OPTIONS(.mux = mux), &round.first))
        abort();
    schedule_run(THREADS, let_go_or_come_late, &round);
    schedule_end();
    if (round.next) {
        is_there = atomic_load(&round.next->state) == PL_POOL_DESTROYED;
        is_there = pool_return(&round.conn) == POOL_OK && is_there;
        is_there = atomic_load(&round.next->state) == PL_POOL_NONE && is_there;
        close(round.far);
    }
    if (!is_there)
        fprintf(stderr, "seed %llu: a pool was freed under its loan\n", (unsigned long long)seed);
    return is_there;
}

int main(int argc, char **argv)
{
    uint64_t seed = argc > 1 ? strtoull(argv[1], NULL, 0) : now_us();
    unsigned long rounds = argc > 2 ? strtoul(argv[2], NULL, 0) : argc > 1 ? 200 : 0, played = 0;
    uint64_t start_ms = now_ms();

    if (pool_mux_create(&mux))
        abort();
    for (; rounds ? played < rounds : elapsed_ms(start_ms) < SECONDS * 1000; played++) {
        alarm(60);
        if (!play(argc > 1 ? seed : seed + played))
            return 1;
    }
    pool_mux_destroy(mux);
    printf("%lu rounds from seed %llu, %lu of them met, %llu points, %llu switches\n", played,
           (unsigned long long)seed, met, (unsigned long long)schedule_points(),
           (unsigned long long)schedule_switches());
    return 0;
}
