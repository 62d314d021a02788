/* schedule_lent.c: loans that are driven by events end while their pool does: returned by other
 * threads and by the mux thread, with their deadline moved meanwhile, while one more thread
 * destroys the pool or closes it by force.
 *
 * Whatever the schedule: a watcher hears nothing of a loan that was returned before, and nothing is
 * used that is freed (which is the sanitizer's to see).
 *
 *     schedule_lent [seed [rounds]]     the seed that a failure names repeats it, nearly always */
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "commpool/pool.h"
#include "schedule/schedule.h"
#include "support/peer.h"
#include "support/tests.h"

#define SECONDS 10
#define LOANS 6u
#define THREADS 4u /* two return loans, one ends the pool, one dispatches */

static struct peer *peer;
static uint64_t seed_now;

struct loan {
    struct round *round;
    struct pool_conn conn;
    bool is_mine; /* the mux thread returns it */
    bool is_over; /* and has */
};

struct round {
    struct pool *pool;
    struct pool_mux *mux;
    struct loan loans[LOANS];
    unsigned lent;
    bool is_destroyed; /* or closed by force */
    atomic_bool is_over;
    atomic_uint at_work;
};

static void fail(const char *what, int number)
{
    fprintf(stderr, "seed %llu: %s (%d)\n", (unsigned long long)seed_now, what, number);
    abort();
}

static void on_event(struct pool_conn *conn, enum pool_event event, struct pool_bytes bytes,
                     void *user)
{
    struct loan *loan = user;

    (void)conn, (void)bytes;
    if (loan->is_over)
        fail("told of a loan that was returned", event);
}

static void on_lent(struct pool_conn *conn, const struct pool_error *error, void *user)
{
    struct round *round = user;
    struct loan *loan = &round->loans[round->lent++];

    if (error)
        fail("on_lent", error->status);
    loan->round = round;
    loan->conn = *conn;
    if (pool_conn_watch(conn, on_event, loan))
        fail("pool_conn_watch", 0);
}

static void give_back(struct loan *loan)
{
    struct pool_conn conn = loan->conn;

    if (schedule_chance(2))
        pool_conn_deadline(&conn, 1000);
    if (schedule_chance(2))
        pool_discard(&conn);
    else
        pool_return(&conn);
}

static void give_back_mine(void *user)
{
    struct loan *loan = user;

    give_back(loan);
    loan->is_over = true;
}

static void end_pool(struct round *round)
{
    round->is_destroyed = schedule_chance(2);
    if (round->is_destroyed)
        pool_destroy(round->pool);
    else if (pool_close(round->pool, POOL_ZERO, NULL, NULL))
        fail("pool_close", 0);
}

static void part(unsigned index, void *argument)
{
    struct round *round = argument;

    while (index == 3 && !atomic_load(&round->is_over))
        pool_mux_dispatch(round->mux, 1);
    if (index == 3)
        return;
    for (unsigned i = schedule_chance(40); i > 0; i--)
        schedule_point();
    for (unsigned i = index; i < LOANS && index < 2; i += 2) {
        if (!round->loans[i].is_mine)
            give_back(&round->loans[i]);
    }
    if (index == 2)
        end_pool(round);
    if (atomic_fetch_sub(&round->at_work, 1) == 1)
        atomic_store(&round->is_over, true);
}

static void begin(struct round *round)
{
    if (pool_mux_create(&round->mux) ||
        pool_create(POOL_OPTIONS(.mux = round->mux, .max_per_address = LOANS), &round->pool))
        fail("no pool", 0);
    for (unsigned i = 0; i < LOANS; i++) {
        if (pool_communicate_async(round->pool, peer_address(peer), on_lent, round, NULL, NULL))
            fail("pool_communicate_async", 0);
    }
    while (round->lent < LOANS)
        pool_mux_dispatch(round->mux, 100);
    for (unsigned i = 0; i < LOANS; i++) {
        struct loan *loan = &round->loans[i];

        loan->is_mine = schedule_chance(3) == 0;
        if (loan->is_mine && pool_mux_post(round->mux, give_back_mine, loan))
            fail("pool_mux_post", 0);
    }
}

static void play(uint64_t seed)
{
    struct round round = { .at_work = THREADS - 1 };

    seed_now = seed;
    schedule_begin(seed, 2 + (unsigned)(seed % 20));
    begin(&round);
    schedule_run(THREADS, part, &round);
    schedule_end();
    if (!round.is_destroyed)
        pool_destroy(round.pool);
    pool_mux_destroy(round.mux);
}

int main(int argc, char **argv)
{
    uint64_t seed = argc > 1 ? strtoull(argv[1], NULL, 0) : now_us();
    unsigned long rounds = argc > 2 ? strtoul(argv[2], NULL, 0) : argc > 1 ? 200 : 0, played = 0;
    uint64_t start_ms = now_ms();

    peer = PEER(.own_process = true);
    if (!peer)
        return 2;
    for (; rounds ? played < rounds : elapsed_ms(start_ms) < SECONDS * 1000; played++) {
        alarm(60);
        play(seed + played);
    }
    peer_stop(peer);
    printf("%lu rounds from seed %llu, %llu points, %llu switches\n", played,
           (unsigned long long)seed, (unsigned long long)schedule_points(),
           (unsigned long long)schedule_switches());
    return 0;
}
