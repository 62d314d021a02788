/* test_backoff.c: failures to connect: pauses between dials, each one longer, suspension, and what
 * ends both. In the scripted world, which has its own clock; the last ones on loopback. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/os.h"
#include "commpool/pool.h"
#include "support/asks.h"
#include "support/peer.h"
#include "support/tests.h"
#include "support/verbs.h"
#include "world/world.h"

#define A "tcp://10.0.0.1:80"

static struct world *world;
static struct world_peer *peer;
static struct pool *pool;
static unsigned dials;
static struct pool_error error;
static char lines[8][256];
static unsigned line_count;

static int count_dial(int fd, const char *address, void *user)
{
    (void)fd, (void)address, (void)user;
    dials++;
    return 0;
}

static void hear(enum pool_log_level level, const char *line, void *user)
{
    (void)level, (void)user;
    snprintf(lines[line_count++ % 8], sizeof(lines[0]), "%s", line);
}

static void begin(void)
{
    world = world_create(7);
    peer = WORLD_LISTEN(world, A, .behave = WORLD_REFUSE);
    pl_os_replace(world_os(world));
    dials = line_count = 0;
}

static void end(void)
{
    pool_destroy(pool);
    cr_expect_eq(world_descriptors(world), 0);
    cr_expect_eq(world_violations(world), 0);
    pl_os_replace(NULL);
    world_destroy(world);
}

TestSuite(backoff, .init = begin, .fini = end);

#define MAKE(...)                                                                                  \
    cr_assert_eq(pool_create(POOL_OPTIONS(.on_socket = count_dial, .on_log = hear, __VA_ARGS__),  \
                             &pool),                                                               \
                 POOL_OK)

static enum pool_status call_within(uint32_t timeout_ms)
{
    struct pool_conn conn;
    enum pool_status status;

    error = (struct pool_error)POOL_ERROR_INIT;
    status = pool_borrow(pool, A, POOL_CALL(.timeout_ms = timeout_ms, .error = &error), &conn);
    if (!status)
        pool_return(&conn);
    return status;
}

#define CALL() call_within(0)

/* How long the next call takes. */
static uint64_t time_of_refused_call(void)
{
    uint64_t start_ms = world_now_ms(world);

    cr_assert_eq(CALL(), POOL_E_REFUSED, "%s", error.text);
    cr_assert_eq(error.cause, ECONNREFUSED);
    return world_now_ms(world) - start_ms;
}

/* ---- the rule */

Test(backoff, by_default_a_loop_is_refused_five_times_then_told_of_the_suspension_then_one_probes)
{
    MAKE(.timeout_ms = 10000);
    for (unsigned i = 1; i <= 5; i++) {
        cr_expect_eq(CALL(), POOL_E_REFUSED, "%u", i);
        cr_expect_eq(dials, i);
    }
    for (unsigned i = 0; i < 100; i++) {
        uint64_t start_ms = world_now_ms(world);

        cr_assert_eq(CALL(), POOL_E_SUSPENDED);
        cr_assert_eq(world_now_ms(world), start_ms, "at once");
    }
    cr_expect_eq(dials, 5);
    cr_expect_eq(error.phase, POOL_PHASE_WAIT);
    cr_expect_eq(error.cause, ECONNREFUSED);
    cr_expect_not_null(strstr(error.text, "ECONNREFUSED"), "%s", error.text);
    world_run(world, 990);
    cr_expect_eq(CALL(), POOL_E_SUSPENDED);
    world_run(world, 20);
    cr_expect_eq(CALL(), POOL_E_REFUSED, "the probe");
    cr_expect_eq(CALL(), POOL_E_SUSPENDED);
    cr_expect_eq(dials, 6);
}

Test(backoff, pauses_are_thrown_within_a_span_that_doubles_up_to_the_longest)
{
    uint64_t longest_ms[9] = { 0 }, shortest_ms[9];

    memset(shortest_ms, 0xff, sizeof(shortest_ms));
    for (unsigned round = 0; round < 60; round++) {
        MAKE(.backoff_first_ms = 100, .backoff_max_ms = 1600, .suspend_after = POOL_NONE);
        cr_expect_leq(time_of_refused_call(), 1, "the first one waits for nothing");
        for (unsigned i = 0; i < 9; i++) {
            uint64_t took_ms = time_of_refused_call();

            longest_ms[i] = took_ms > longest_ms[i] ? took_ms : longest_ms[i];
            shortest_ms[i] = took_ms < shortest_ms[i] ? took_ms : shortest_ms[i];
        }
        pool_destroy(pool);
    }
    pool = NULL;
    for (unsigned i = 0; i < 9; i++) {
        uint64_t span_ms = i < 4 ? 100u << i : 1600;

        cr_expect_leq(longest_ms[i], span_ms + 2, "pause %u", i);
        cr_expect_geq(longest_ms[i], span_ms * 8 / 10, "pause %u", i);
        cr_expect_leq(shortest_ms[i], span_ms * 2 / 10, "pause %u", i);
    }
}

Test(backoff, success_forgets_the_failures)
{
    MAKE(.backoff_first_ms = 100, .suspend_after = 4);
    for (unsigned i = 0; i < 3; i++)
        cr_expect_eq(CALL(), POOL_E_REFUSED);
    world_behave(peer, WORLD_ECHO);
    cr_expect_eq(CALL(), POOL_OK);
    world_settle(world);
    world_close_all(peer);
    world_settle(world);
    world_behave(peer, WORLD_REFUSE);
    cr_expect_leq(time_of_refused_call(), 1, "no pause is left");
    cr_expect_leq(time_of_refused_call(), 102, "and the next one is the first");
    cr_expect_eq(CALL(), POOL_E_REFUSED);
    cr_expect_eq(CALL(), POOL_E_REFUSED);
    cr_expect_eq(CALL(), POOL_E_SUSPENDED);
}

Test(backoff, without_back_off_each_call_dials_at_once)
{
    MAKE(.backoff_first_ms = POOL_ZERO, .suspend_after = POOL_NONE);
    for (unsigned i = 1; i <= 50; i++) {
        cr_expect_leq(time_of_refused_call(), 1);
        cr_expect_eq(dials, i);
    }
}

Test(backoff, suspension_works_without_pauses)
{
    MAKE(.backoff_first_ms = POOL_ZERO, .suspend_after = 2, .suspend_ms = 300);
    cr_expect_leq(time_of_refused_call(), 1);
    cr_expect_leq(time_of_refused_call(), 1);
    cr_expect_eq(CALL(), POOL_E_SUSPENDED);
    world_run(world, 301);
    cr_expect_leq(time_of_refused_call(), 1);
    cr_expect_eq(CALL(), POOL_E_SUSPENDED);
}

/* ---- those who wait */

#define LONG_PAUSE .backoff_first_ms = 60000, .backoff_max_ms = 60000, .suspend_after = POOL_NONE

Test(backoff, a_deadline_in_the_pause_is_kept_and_its_error_tells_the_cause_of_the_pause)
{
    uint64_t start_ms;

    MAKE(LONG_PAUSE);
    cr_expect_eq(CALL(), POOL_E_REFUSED);
    start_ms = world_now_ms(world);
    cr_expect_eq(call_within(250), POOL_E_TIMEOUT);
    cr_expect_eq(world_now_ms(world) - start_ms, 250);
    cr_expect_eq(error.cause, ECONNREFUSED);
    cr_expect_eq(dials, 1);
}

Test(backoff, a_pause_is_told_as_waiting_and_not_as_connecting)
{
    MAKE(LONG_PAUSE);
    cr_expect_eq(CALL(), POOL_E_REFUSED);
    cr_expect_eq(call_within(250), POOL_E_TIMEOUT);
    cr_expect_eq(error.phase, POOL_PHASE_WAIT);
    cr_expect_eq(error.spent_ms[POOL_PHASE_WAIT], 250);
    cr_expect_eq(error.spent_ms[POOL_PHASE_CONNECT], 0);
    cr_expect_str_eq(error.text,
                     A ": out of time while the address backs off after a failure (ECONNREFUSED), "
                       "the request was not sent; 250 ms: wait 250");
}

static void keep_error(struct pool_conn *conn, const struct pool_error *told, void *user)
{
    (void)user;
    cr_assert_null(conn);
    error = *told;
}

Test(backoff, an_asynchronous_caller_is_told_of_a_pause_in_the_same_words)
{
    MAKE(LONG_PAUSE);
    cr_expect_eq(CALL(), POOL_E_REFUSED);
    cr_assert_eq(pool_communicate_async(pool, A, keep_error, NULL, POOL_CALL(.timeout_ms = 250),
                                        NULL),
                 POOL_OK);
    world_run(world, 260);
    cr_expect_str_eq(error.text,
                     A ": out of time while the address backs off after a failure (ECONNREFUSED), "
                       "the request was not sent; 250 ms: wait 250");
}

static void vanish(void *argument)
{
    (void)argument;
    world_behave(peer, WORLD_BLACK_HOLE);
}

/* The dial after the pause fails for want of time: its own, or the caller's. */
static void expect_time_told_apart(uint32_t connect_ms, uint32_t timeout_ms)
{
    uint64_t start_ms, took_ms;

    MAKE(LONG_PAUSE, .connect_ms = connect_ms);
    world_behave(peer, WORLD_REFUSE);
    cr_expect_eq(CALL(), POOL_E_REFUSED);
    start_ms = world_now_ms(world);
    world_at(world, 1, vanish, NULL);
    cr_expect_eq(call_within(timeout_ms), POOL_E_TIMEOUT);
    took_ms = world_now_ms(world) - start_ms;
    cr_expect_eq(error.phase, POOL_PHASE_CONNECT);
    cr_expect_geq(error.spent_ms[POOL_PHASE_WAIT] + error.spent_ms[POOL_PHASE_CONNECT] + 1, took_ms,
                  "each is rounded down");
    cr_expect_gt(error.spent_ms[POOL_PHASE_WAIT], 0);
    if (connect_ms < 70000)
        cr_expect_eq(error.spent_ms[POOL_PHASE_CONNECT], connect_ms);
    pool_destroy(pool);
    pool = NULL;
}

Test(backoff, what_an_attempt_after_the_pause_took_is_told_apart_from_the_pause)
{
    expect_time_told_apart(300, 90000);
    expect_time_told_apart(100000, 70000);
}

static void come_back(void *argument)
{
    (void)argument;
    world_behave(peer, WORLD_ECHO);
}

Test(backoff, who_waits_through_the_pause_gets_the_connection_after_it)
{
    MAKE(LONG_PAUSE, .timeout_ms = 100000);
    cr_expect_eq(CALL(), POOL_E_REFUSED);
    world_at(world, 1, come_back, NULL);
    cr_expect_eq(CALL(), POOL_OK);
    cr_expect_eq(dials, 2);
    cr_expect_leq(world_now_ms(world), 60010);
}

static struct pool_conn lent;

static void give_back(void *argument)
{
    (void)argument;
    pool_return(&lent);
}

Test(backoff, what_stands_is_lent_and_waited_for_even_while_the_address_is_suspended)
{
    struct pool_conn other;

    MAKE(.suspend_after = 1, .suspend_ms = 60000);
    world_behave(peer, WORLD_ECHO);
    cr_assert_eq(pool_borrow(pool, A, NULL, &lent), POOL_OK);
    world_behave(peer, WORLD_REFUSE);
    cr_expect_eq(pool_borrow(pool, A, NULL, &other), POOL_E_REFUSED);
    world_at(world, 20, give_back, NULL);
    cr_expect_eq(CALL(), POOL_OK, "it came back");
    cr_expect_eq(CALL(), POOL_OK, "it is idle");
    cr_expect_eq(dials, 2);
}

/* ---- what counts */

static int say_hello(struct pool_conn *conn, struct pool_actor *actor, void *user)
{
    (void)conn, (void)actor;
    return *(int *)user;
}

Test(backoff, a_hook_that_refuses_is_no_failure_of_the_peer)
{
    int answer = 5;

    MAKE(.on_new_connection = say_hello, .user = &answer);
    world_behave(peer, WORLD_ECHO);
    for (unsigned i = 0; i < 20; i++)
        cr_expect_eq(CALL(), POOL_E_USER);
    cr_expect_eq(dials, 20);
    cr_expect_leq(world_now_ms(world), 20);
}

Test(backoff, a_shortage_of_our_own_is_no_failure_of_the_peer)
{
    MAKE(.timeout_ms = 10000);
    world_limit_descriptors(world, world_descriptors(world) + 3);
    for (unsigned i = 0; i < 8; i++)
        cr_expect_eq(call_within(10), POOL_E_RESOURCE);
    world_limit_descriptors(world, 1024);
    world_behave(peer, WORLD_ECHO);
    cr_expect_eq(CALL(), POOL_OK);
}

Test(backoff, a_peer_that_answers_nothing_counts_as_failed)
{
    MAKE(.connect_ms = 50, .suspend_after = 2, .backoff_first_ms = 1);
    world_behave(peer, WORLD_BLACK_HOLE);
    cr_expect_eq(CALL(), POOL_E_TIMEOUT);
    cr_expect_eq(CALL(), POOL_E_TIMEOUT);
    cr_expect_eq(CALL(), POOL_E_SUSPENDED);
    cr_expect_eq(error.cause, ETIMEDOUT);
}

/* What it took as idle is dead, and nothing may be opened. */
Test(backoff, an_asynchronous_call_is_told_of_the_suspension_at_once_like_a_thread)
{
    struct ask ask = { 0 };
    struct pool_conn conn;
    uint64_t start_ms;

    MAKE(.suspend_after = 2, .backoff_first_ms = 1, .park_ms = POOL_NONE);
    world_behave(peer, WORLD_ECHO);
    cr_assert_eq(CALL(), POOL_OK);
    world_behave(peer, WORLD_REFUSE);
    for (unsigned i = 0; i < 2; i++)
        cr_assert_eq(pool_borrow(pool, A, POOL_CALL(.flags = POOL_FRESH), &conn), POOL_E_REFUSED);
    cr_assert_eq(STAT(pool, idle), 1);
    world_close_all(peer);
    world_settle(world);
    start_ms = world_now_ms(world);
    cr_assert_eq(start_ask(&ask, pool, A, NULL), POOL_OK);
    world_settle(world);
    cr_expect_eq(ask.told, 1);
    cr_expect_eq(ask.status, POOL_E_SUSPENDED, "%s", pool_status_name(ask.status));
    cr_expect_leq(world_now_ms(world), start_ms + 1);
    cr_expect_eq(CALL(), POOL_E_SUSPENDED);
}

/* ---- the log, memory, the end */

Test(backoff, the_log_tells_when_a_suspension_begins_and_when_it_ends)
{
    MAKE(.suspend_after = 2, .suspend_ms = 100);
    for (unsigned i = 0; i < 5; i++) {
        CALL();
        world_run(world, 110);
    }
    cr_expect_eq(line_count, 1, "%s", lines[1]);
    cr_expect_str_eq(lines[0], A ": suspended for 100 ms after 2 failures in a row (ECONNREFUSED)");
    world_behave(peer, WORLD_ECHO);
    cr_expect_eq(CALL(), POOL_OK);
    cr_expect_eq(line_count, 2);
    cr_expect_not_null(strstr(lines[1], "suspended no more"), "%s", lines[1]);
}

Test(backoff, failures_long_past_are_forgotten_and_the_mux_sleeps)
{
    struct pool_stats stats = { .size = sizeof(stats) };
    uint64_t wakeups;
    size_t before;

    MAKE(.suspend_after = 2, .suspend_ms = 100);
    CALL();
    world_run(world, 60000);
    before = world_allocations(world);
    for (unsigned i = 0; i < 3; i++)
        CALL();
    cr_expect_eq(CALL(), POOL_E_SUSPENDED);
    cr_expect_gt(world_allocations(world), before, "the peer is kept");
    world_run(world, 30000);
    cr_expect_eq(world_allocations(world), before, "and then it is not");
    wakeups = world_wakeups(world);
    world_run(world, 3600000);
    cr_expect_eq(world_wakeups(world), wakeups);
    cr_expect_eq(CALL(), POOL_E_REFUSED);
    cr_expect_eq(pool_stats(pool, &stats), POOL_OK);
}

Test(backoff, a_pool_may_end_in_the_middle_of_a_pause)
{
    MAKE(LONG_PAUSE);
    cr_expect_eq(CALL(), POOL_E_REFUSED);
    pool_destroy(pool);
    pool = NULL;
    world_settle(world);
    cr_expect_eq(world_allocations(world), 0);
}

/* ---- many at once, on loopback */

static atomic_uint real_dials;

static int count_real_dial(int fd, const char *address, void *user)
{
    (void)fd, (void)address, (void)user;
    atomic_fetch_add(&real_dials, 1);
    return 0;
}

struct crowd {
    struct pool *pool;
    const char *address;
    atomic_uint served, refused, suspended, others;
};

static void call_until_served(unsigned index, void *argument)
{
    struct crowd *crowd = argument;
    uint64_t start_ms = now_ms();
    enum pool_status status;

    (void)index;
    do {
        status = talk(crowd->pool, crowd->address);
        atomic_fetch_add(status == POOL_OK            ? &crowd->served
                         : status == POOL_E_REFUSED   ? &crowd->refused
                         : status == POOL_E_SUSPENDED ? &crowd->suspended
                                                      : &crowd->others,
                         1);
    } while (status && elapsed_ms(start_ms) < VERBS_SOON);
}

static bool has_failed_often(void *argument)
{
    (void)argument;
    return atomic_load(&real_dials) >= 7;
}

static void *raise_peer(void *argument)
{
    wait_until(has_failed_often, NULL, VERBS_SOON);
    peer_up(argument);
    return NULL;
}

Test(pool_backoff, many_callers_of_a_dead_peer_make_few_dials_and_are_served_when_it_is_back)
{
    struct peer *real = PEER();
    struct pool *crowded =
        MAKE_POOL(.on_socket = count_real_dial, .suspend_after = 5, .suspend_ms = 50);
    struct crowd crowd = { .pool = crowded, .address = peer_address(real) };
    pthread_t helper;

    peer_down(real);
    cr_assert_eq(pthread_create(&helper, NULL, raise_peer, real), 0);
    cr_assert(run_threads(16, call_until_served, &crowd));
    pthread_join(helper, NULL);
    cr_expect_eq(crowd.served, 16);
    cr_expect_eq(crowd.others, 0);
    cr_expect_gt(crowd.suspended, 0);
    cr_expect_leq(real_dials, 60, "%u dials for %u calls", real_dials,
                  crowd.refused + crowd.suspended);
    pool_destroy(crowded);
    peer_stop(real);
}
