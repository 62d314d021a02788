/* stress_waiters.c: many who wait for few connections.
 *
 * - crowd: 64 threads, 4 connections, random deadlines: everybody is served or told at his
 *   deadline, and hardly a thread is woken for nothing.
 * - line: those who wait longer than barge_ms are served in the order in which they came,
 *   whether or not newcomers try to pass.
 * - duel: one gives back at the moment at which the other begins to wait, and nobody else comes
 *   by who could make up for a lost wake-up.
 *
 * Wake-ups are counted at the door: how often a wait ended, other than by its deadline. */
#include <errno.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>

#include "base/os.h"
#include "stress/stress.h"
#include "support/peer.h"
#include "support/tests.h"

#define CROWD 64u
#define CONNECTIONS 4u
#define LINE 24u
#define PAIRS 4u
#define PATIENCE_MS 20000u
#define PATIENT 2000u /* turns of waiting before the processor is given away */

static struct peer *peer;
static struct pool *pool;
static atomic_ullong wakeups, loans, timeouts, lines, duels_fought;

static int counting_wait(_Atomic uint32_t *word, uint32_t expected, uint64_t deadline_ns)
{
    int result = pl_os_real.sleep_until(word, expected, deadline_ns);

    if (result != -ETIMEDOUT)
        atomic_fetch_add(&wakeups, 1);
    return result;
}

static void begin(const struct pool_options *options, unsigned ms)
{
    if (pool_create(options, &pool))
        stress_fail("no pool");
    stress_begin_part(ms);
}

/* ---- crowd */

static void borrow_and_return(struct stress_caller *caller, uint32_t timeout_ms)
{
    uint64_t start_ms = now_ms(), took_ms;
    struct pool_conn conn;
    int status;

    status = pool_borrow(pool, peer_address(peer), POOL_CALL(.timeout_ms = timeout_ms), &conn);
    took_ms = elapsed_ms(start_ms);
    if (took_ms > timeout_ms + 300 * slowness())
        stress_fail("a borrow with %u ms took %llu", timeout_ms, (unsigned long long)took_ms);
    if (status == POOL_E_TIMEOUT && timeout_ms < PATIENCE_MS) {
        atomic_fetch_add(&timeouts, 1);
        if (took_ms + 1 < timeout_ms)
            stress_fail("a borrow with %u ms gave up after %llu", timeout_ms,
                        (unsigned long long)took_ms);
        return;
    }
    if (status) {
        stress_fail("a borrow with %u ms: %s", timeout_ms,
                    pool_status_name((enum pool_status)status));
        return;
    }
    atomic_fetch_add(&loans, 1);
    if (stress_chance(caller, 30))
        status = stress_ask(caller, &conn, NULL);
    if (status && timeout_ms == PATIENCE_MS)
        stress_fail("no answer: %s", pool_status_name((enum pool_status)status));
    if (stress_chance(caller, 3))
        pool_discard(&conn);
    else
        pool_return(&conn);
}

static void be_one_of_many(unsigned index, void *argument)
{
    struct stress_caller caller = stress_caller_make(index);

    (void)argument;
    while (stress_is_on())
        borrow_and_return(&caller,
                          stress_chance(&caller, 60) ? PATIENCE_MS : 1 + stress_below(&caller, 40));
}

static void play_crowd(const struct pool_options *options)
{
    struct pool_stats stats = { .size = sizeof(stats) };
    unsigned long long ended;

    atomic_store(&wakeups, 0);
    begin(options, stress_seconds() * 1000 / 4);
    run_threads(CROWD, be_one_of_many, NULL);
    pool_stats(pool, &stats);
    if (stats.waiting || stats.lent || stats.total > CONNECTIONS)
        stress_fail("at the end %llu wait, %llu are lent, %llu exist",
                    (unsigned long long)stats.waiting, (unsigned long long)stats.lent,
                    (unsigned long long)stats.total);
    /* One for each connection that came or went; the slack is for waits that the kernel ends. */
    ended = stats.borrowed + stats.opened + stats.borrow_failed;
    if (atomic_load(&wakeups) > ended + ended / 20 + 100)
        stress_fail("%llu wake-ups for %llu loans", wakeups, (unsigned long long)stats.borrowed);
    pool_destroy(pool);
}

/* ---- line: one connection, so nobody is served before the one ahead of him gave it back */

struct line {
    struct pool_conn held;
    uint32_t barge_ms;
    uint64_t full_ms; /* when all had come */
    atomic_uint called; /* how many places were told to queue */
    atomic_uint served;
    atomic_bool is_full;
};

static bool as_many_wait(void *argument)
{
    struct pool_stats stats = { .size = sizeof(stats) };

    return !pool_stats(pool, &stats) && stats.waiting == *(unsigned *)argument;
}

static bool nobody_may_be_passed(void *argument)
{
    struct line *line = argument;

    return elapsed_ms(line->full_ms) > line->barge_ms;
}

static void stand_in_line(struct line *line, unsigned place)
{
    struct stress_caller caller = stress_caller_make(place);
    struct pool_conn conn;
    unsigned nth;
    int status;

    while (atomic_load(&line->called) <= place)
        sched_yield();
    status = pool_borrow(pool, peer_address(peer), POOL_CALL(.timeout_ms = PATIENCE_MS), &conn);
    nth = atomic_fetch_add(&line->served, 1);
    if (status) {
        stress_fail("place %u of the line: %s", place, pool_status_name((enum pool_status)status));
        return;
    }
    if (nth != place)
        stress_fail("place %u of the line was served as number %u", place, nth);
    if (stress_ask(&caller, &conn, NULL))
        stress_fail("no answer");
    if (stress_chance(&caller, 80))
        pool_return(&conn);
    else
        pool_discard(&conn); /* then a new connection serves the next one */
}

static void try_to_pass(struct line *line)
{
    struct pool_conn conn;

    while (!atomic_load(&line->is_full))
        sched_yield();
    while (atomic_load(&line->served) < LINE) {
        if (pool_borrow(pool, peer_address(peer), POOL_CALL(.timeout_ms = 1), &conn))
            continue;
        if (atomic_load(&line->served) < LINE)
            stress_fail("a newcomer passed %u who waited", LINE - atomic_load(&line->served));
        pool_return(&conn);
    }
}

/* Lets them queue one by one, and gives back what they wait for. */
static void be_the_host(struct line *line)
{
    for (unsigned waiting = 1; waiting <= LINE; waiting++) {
        atomic_store(&line->called, waiting);
        if (!wait_until(as_many_wait, &waiting, 5000 * slowness()))
            stress_fail("place %u does not wait", waiting - 1);
    }
    line->full_ms = now_ms();
    wait_until(nobody_may_be_passed, line, 5000);
    atomic_store(&line->is_full, true);
    pool_return(&line->held);
}

static void take_part(unsigned index, void *argument)
{
    if (index < LINE)
        stand_in_line(argument, index);
    else if (index == LINE)
        be_the_host(argument);
    else
        try_to_pass(argument);
}

static void play_line(uint32_t barge_ms)
{
    begin(POOL_OPTIONS(.max_per_address = 1, .barge_ms = barge_ms), stress_seconds() * 1000 / 8);
    do {
        struct line line = { .barge_ms = barge_ms == POOL_ZERO ? 0 : barge_ms };
        struct pool_call call = { .size = sizeof(call), .timeout_ms = PATIENCE_MS };

        if (pool_borrow(pool, peer_address(peer), &call, &line.held)) {
            stress_fail("nothing for the host");
            break;
        }
        run_threads(LINE + 3, take_part, &line);
        atomic_fetch_add(&lines, 1);
    } while (stress_is_on());
    pool_destroy(pool);
}

/* ---- duel */

struct duel {
    char address[64];
    _Atomic unsigned come, done; /* two more each round */
    _Atomic bool is_over;
};

static void reach(_Atomic unsigned *counter, unsigned value)
{
    for (unsigned i = 0; atomic_load(counter) < value; i++) {
        if (i > PATIENT)
            sched_yield();
    }
}

static void spin(struct stress_caller *caller)
{
    for (volatile unsigned left = stress_below(caller, 600); left; left--)
        continue;
}

/* At the deadline the pool looks once more, so a wake-up that was lost shows in the time it
 * took. */
static bool take(struct duel *duel, struct pool_conn *conn)
{
    uint64_t start_ms = now_ms();
    int status = pool_borrow(pool, duel->address, POOL_CALL(.timeout_ms = PATIENCE_MS / 4), conn);

    return status == POOL_OK && elapsed_ms(start_ms) < 1000 * slowness();
}

/* The one who has it makes sure that its next return is a warm one. */
static void warm_up(struct duel *duel, struct pool_conn *conn)
{
    pool_return(conn);
    if (!take(duel, conn))
        stress_fail("nothing to borrow for the only one who is there");
}

static void fight(unsigned index, void *argument)
{
    struct stress_caller caller = stress_caller_make(index);
    struct duel *duel = (struct duel *)argument + index / 2;
    struct pool_conn conn = { 0 };
    bool has_it = index % 2;

    if (has_it && !take(duel, &conn))
        stress_fail("no connection to begin with");
    for (unsigned round = 1; !atomic_load(&duel->is_over); round++) {
        if (has_it)
            warm_up(duel, &conn);
        atomic_fetch_add(&duel->come, 1);
        reach(&duel->come, 2 * round);
        spin(&caller);
        if (has_it)
            pool_return(&conn);
        else if (!take(duel, &conn))
            stress_fail("given back, and the one who waits is not told (round %u)", round);
        has_it = !has_it;
        atomic_fetch_add(&duels_fought, has_it);
        if (!stress_is_on() || stress_failures())
            atomic_store(&duel->is_over, true);
        atomic_fetch_add(&duel->done, 1);
        reach(&duel->done, 2 * round);
    }
    if (has_it)
        pool_return(&conn);
}

static void play_duel(uint32_t barge_ms)
{
    struct duel pairs[PAIRS] = { 0 };

    /* Parking would find who was forgotten. */
    begin(POOL_OPTIONS(.max_per_address = 1, .park_ms = 600000, .barge_ms = barge_ms),
          stress_seconds() * 1000 / 8);
    for (unsigned i = 0; i < PAIRS; i++)
        snprintf(pairs[i].address, sizeof(pairs[i].address), "tcp://127.5.0.%u:%d", i + 1,
                 peer_port(peer));
    run_threads(2 * PAIRS, fight, pairs);
    pool_destroy(pool);
}

int main(int argc, char **argv)
{
    static struct pl_os door; /* looked at until the end of the process */
    int descriptors;
    long blocks;

    stress_begin(argc, argv, 5);
    door = pl_os_real;
    door.sleep_until = counting_wait;
    pl_os_replace(&door);
    peer = PEER(.behave = PEER_TOKEN, .own_process = true, .every_loopback = true,
                .record_connections = 1);
    if (!peer)
        return stress_end("no peer");
    descriptors = count_descriptors();
    blocks = stress_blocks();
    play_crowd(POOL_OPTIONS(.max_per_address = CONNECTIONS));
    play_crowd(POOL_OPTIONS(.max_per_address = CONNECTIONS, .barge_ms = POOL_ZERO));
    play_line(10);
    play_line(POOL_ZERO);
    play_duel(10);
    play_duel(POOL_ZERO);
    stress_expect_nothing_left(descriptors, blocks, "at the end");
    peer_stop(peer);
    return stress_end("%llu loans in a crowd, %llu timed out, %llu lines, %llu duels", loans,
                      timeouts, lines, duels_fought);
}
