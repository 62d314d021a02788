/* test_waiters.c: callers who wait for a connection: their order, their deadlines, and that nobody
 * is forgotten. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/os.h"
#include "support/peer.h"
#include "support/tests.h"
#include "support/verbs.h"

/* With strict order the longest waiter is served first, each in turn. */
Test(pool_waiters, waiters_are_served_in_the_order_in_which_they_came)
{
    enum { WAITERS = 12 };
    struct peer *peer = PEER();
    struct pool *pool = MAKE_POOL(.max_per_address = 1, .barge_ms = POOL_ZERO);
    struct caller callers[WAITERS];
    struct pool_conn conn;
    unsigned first = 0;

    cr_assert(borrow(pool, peer_address(peer), &conn));
    for (int i = 0; i < WAITERS; i++)
        cr_assert(queue_caller(&callers[i], pool, peer_address(peer), VERBS_SOON));
    cr_assert_eq(pool_return(&conn), POOL_OK);
    for (int i = 0; i < WAITERS; i++) {
        cr_assert(wait_back(&callers[i]), "waiter %d", i);
        cr_assert_eq(join_caller(&callers[i]), POOL_OK);
        first = i ? first : callers[0].place;
        cr_expect_eq(callers[i].place, first + (unsigned)i);
        cr_expect_eq(pool_conn_id(&callers[i].conn), 1);
        cr_assert_eq(pool_return(&callers[i].conn), POOL_OK);
    }
    cr_expect_eq(peer_accepted(peer, 1), 1);
    pool_destroy(pool);
    peer_stop(peer);
}

Test(pool_waiters, one_who_runs_out_of_time_leaves_at_once_and_the_next_is_served)
{
    struct peer *peer = PEER();
    struct pool *pool = MAKE_POOL(.max_per_address = 1);
    struct caller hasty, patient;
    struct pool_conn conn;

    cr_assert(borrow(pool, peer_address(peer), &conn));
    cr_assert(queue_caller(&hasty, pool, peer_address(peer), 100));
    cr_assert(queue_caller(&patient, pool, peer_address(peer), VERBS_SOON));
    cr_expect_eq(join_caller(&hasty), POOL_E_TIMEOUT);
    cr_expect(IN_TIME(hasty.took_ms, 100));
    cr_expect_eq(hasty.error.phase, POOL_PHASE_WAIT);
    cr_expect_eq(hasty.error.outcome, POOL_NOT_SENT);
    cr_expect_eq(hasty.error.cause, ETIMEDOUT);
    cr_expect(IN_TIME(hasty.error.spent_ms[POOL_PHASE_WAIT], 100));
    cr_expect_eq(STAT(pool, waiting), 1);
    cr_assert_eq(pool_return(&conn), POOL_OK);
    cr_expect_eq(join_caller(&patient), POOL_OK);
    cr_expect_eq(pool_return(&patient.conn), POOL_OK);
    cr_expect_eq(STAT(pool, timeouts), 1);
    cr_expect_eq(STAT(pool, borrow_failed), 1);
    pool_destroy(pool);
    peer_stop(peer);
}

/* Many deadlines, each its own. */
Test(pool_waiters, each_waiter_leaves_on_its_own_deadline)
{
    enum { WAITERS = 50 };
    struct peer *peer = PEER();
    struct pool *pool = MAKE_POOL(.max_per_address = 1);
    static struct caller callers[WAITERS];
    struct pool_conn conn;

    cr_assert(borrow(pool, peer_address(peer), &conn));
    for (int i = 0; i < WAITERS; i++)
        cr_assert(
            start_caller(&callers[i], pool, peer_address(peer), 100 + (unsigned)(i * 37 % 200)));
    for (int i = 0; i < WAITERS; i++) {
        cr_expect_eq(join_caller(&callers[i]), POOL_E_TIMEOUT);
        cr_expect(IN_TIME(callers[i].took_ms, callers[i].call.timeout_ms));
    }
    cr_expect_eq(STAT(pool, waiting), 0);
    cr_expect_eq(pool_return(&conn), POOL_OK);
    cr_expect_eq(id_of_next(pool, peer_address(peer)), 1);
    pool_destroy(pool);
    peer_stop(peer);
}

Test(pool_waiters, one_too_many_is_refused_at_once)
{
    enum { WAITERS = 5 };
    struct peer *peer = PEER();
    struct pool *pool = MAKE_POOL(.max_per_address = 1, .max_waiters = WAITERS);
    struct caller callers[WAITERS];
    struct pool_error error = POOL_ERROR_INIT;
    struct pool_conn conn, none;
    uint64_t start_ms;

    cr_assert(borrow(pool, peer_address(peer), &conn));
    for (int i = 0; i < WAITERS; i++)
        cr_assert(queue_caller(&callers[i], pool, peer_address(peer), VERBS_SOON));
    start_ms = now_ms();
    cr_expect_eq(pool_borrow(pool, peer_address(peer), POOL_CALL(.error = &error), &none),
                 POOL_E_FULL);
    cr_expect(IN_TIME(elapsed_ms(start_ms), 0));
    cr_expect_eq(error.status, POOL_E_FULL);
    cr_expect_eq(error.outcome, POOL_NOT_SENT);
    cr_assert_eq(pool_return(&conn), POOL_OK);
    for (int i = 0; i < WAITERS; i++) {
        cr_assert_eq(join_caller(&callers[i]), POOL_OK);
        cr_assert_eq(pool_return(&callers[i].conn), POOL_OK);
    }
    cr_expect_eq(id_of_next(pool, peer_address(peer)), 1, "there is room in the queue again");
    pool_destroy(pool);
    peer_stop(peer);
}

Test(pool_waiters, with_no_waiters_allowed_nobody_waits_for_what_others_have)
{
    struct peer *peer = PEER();
    struct pool *pool = MAKE_POOL(.max_waiters = POOL_ZERO, .max_per_address = 1);
    struct pool_conn conn, none;

    cr_assert_eq(pool_borrow(pool, peer_address(peer), NULL, &conn), POOL_OK, "one was opened");
    cr_expect_eq(pool_borrow(pool, peer_address(peer), NULL, &none), POOL_E_FULL);
    cr_assert_eq(pool_return(&conn), POOL_OK);
    cr_expect_eq(id_of_next(pool, peer_address(peer)), 1);
    pool_destroy(pool);
    peer_stop(peer);
}

Test(pool_waiters, who_does_not_want_to_wait_gets_full_at_once)
{
    struct peer *peer = PEER();
    struct pool *pool = MAKE_POOL(.max_per_address = 1);
    struct pool_call *call = POOL_CALL(.flags = POOL_DONT_WAIT);
    struct pool_conn conn, none;
    uint64_t start_ms;

    cr_expect_eq(pool_borrow(pool, peer_address(peer), call, &conn), POOL_OK,
                 "opening one is no waiting");
    start_ms = now_ms();
    cr_expect_eq(pool_borrow(pool, peer_address(peer), call, &none), POOL_E_FULL);
    cr_expect(IN_TIME(elapsed_ms(start_ms), 0));
    cr_expect_eq(pool_return(&conn), POOL_OK);
    cr_expect_eq(pool_borrow(pool, peer_address(peer), call, &conn), POOL_OK);
    cr_expect_eq(pool_return(&conn), POOL_OK);
    pool_destroy(pool);
    peer_stop(peer);
}

Test(pool_waiters, wait_ms_bounds_the_wait_alone)
{
    struct peer *peer = PEER(.behave = PEER_SLOW, .delay_ms = 150);
    struct pool *pool = MAKE_POOL(.max_per_address = 1);
    struct pool_call *call = POOL_CALL(.wait_ms = 80, .timeout_ms = VERBS_SOON);
    char text[] = "slow";
    struct pool_conn conn, none;
    uint64_t start_ms;

    cr_expect_eq(pool_communicate(pool, peer_address(peer), use_echo, text, call), POOL_OK);
    cr_assert(borrow(pool, peer_address(peer), &conn));
    start_ms = now_ms();
    cr_expect_eq(pool_borrow(pool, peer_address(peer), call, &none), POOL_E_TIMEOUT);
    cr_expect(IN_TIME(elapsed_ms(start_ms), 80));
    cr_expect_eq(pool_return(&conn), POOL_OK);
    pool_destroy(pool);
    peer_stop(peer);
}

/* ---- barging */

/* Lets a waiter wait; false: it was served meanwhile. */
static bool waited_for(struct caller *caller, uint64_t since_ms, uint64_t ms)
{
    while (elapsed_ms(since_ms) < ms)
        if (atomic_load(&caller->is_back))
            return false;
    return true;
}

/* Does the thread that returns get it again before a waiter of `waited_ms`? */
static bool newcomer_passes(uint32_t barge_ms, uint64_t waited_ms)
{
    struct peer *peer = PEER();
    struct pool *pool = MAKE_POOL(.max_per_address = 1, .barge_ms = barge_ms);
    struct caller waiter;
    struct pool_conn conn;
    enum pool_status status;
    uint64_t since_ms;
    bool passes = false;

    cr_assert(borrow(pool, peer_address(peer), &conn));
    cr_assert(queue_caller(&waiter, pool, peer_address(peer), VERBS_SOON));
    since_ms = now_ms();
    cr_assert(waited_for(&waiter, since_ms, waited_ms));
    cr_assert_eq(pool_return(&conn), POOL_OK);
    status = pool_borrow(pool, peer_address(peer), POOL_CALL(.timeout_ms = 1), &conn);
    if (status == POOL_OK) {
        passes = !atomic_load(&waiter.is_back);
        cr_assert_eq(pool_return(&conn), POOL_OK);
    }
    cr_assert_eq(join_caller(&waiter), POOL_OK);
    cr_assert_eq(pool_return(&waiter.conn), POOL_OK);
    pool_destroy(pool);
    peer_stop(peer);
    return passes;
}

/* They may: which thread is quicker is the system's choice. */
Test(pool_waiters, newcomers_pass_a_waiter_for_barge_ms)
{
    unsigned passed = 0;

    for (int i = 0; i < 1000 && !passed; i++)
        passed += newcomer_passes(POOL_NONE, 0);
    cr_expect_gt(passed, 0);
}

Test(pool_waiters, after_barge_ms_the_waiter_comes_first)
{
    for (int i = 0; i < 20; i++) {
        cr_expect_not(newcomer_passes(20, 25));
        cr_expect_not(newcomer_passes(POOL_ZERO, 0));
    }
}

/* A warm borrow looks at no list: it must not starve who waits. */
struct hog {
    struct pool *pool;
    const char *address;
    atomic_bool is_over;
    atomic_ulong rounds;
};

static void hog(unsigned index, void *argument)
{
    struct hog *one = argument;
    struct pool_conn conn;

    (void)index;
    while (!atomic_load(&one->is_over)) {
        if (pool_borrow(one->pool, one->address, NULL, &conn))
            continue;
        pool_return(&conn);
        atomic_fetch_add(&one->rounds, 1);
    }
}

static void *run_hogs(void *argument)
{
    run_threads(2, hog, argument);
    return NULL;
}

Test(pool_waiters, threads_that_take_the_warm_path_starve_nobody)
{
    struct peer *peer = PEER();
    struct pool *pool = MAKE_POOL(.max_per_address = 1, .check = POOL_CHECK_NEVER);
    struct hog one = { .pool = pool, .address = peer_address(peer) };
    struct pool_conn conn;
    uint64_t start_ms;
    pthread_t hogs;

    cr_assert_eq(pthread_create(&hogs, NULL, run_hogs, &one), 0);
    while (!atomic_load(&one.rounds))
        ;
    for (int i = 0; i < 50; i++) {
        start_ms = now_ms();
        cr_assert(borrow(pool, peer_address(peer), &conn));
        cr_expect(IN_TIME(elapsed_ms(start_ms), 0));
        cr_assert_eq(pool_return(&conn), POOL_OK);
    }
    atomic_store(&one.is_over, true);
    pthread_join(hogs, NULL);
    pool_destroy(pool);
    peer_stop(peer);
}

/* ---- what it got was no good */

static struct pl_os os;
static atomic_uint slept;
static pthread_mutex_t wake_gate = PTHREAD_MUTEX_INITIALIZER; /* who is woken passes it */
static pthread_mutex_t open_gate = PTHREAD_MUTEX_INITIALIZER; /* what is opened passes it */

static int gated_sleep(_Atomic uint32_t *word, uint32_t expected, uint64_t deadline_ns)
{
    int status;

    atomic_fetch_add(&slept, 1);
    status = pl_os_real.sleep_until(word, expected, deadline_ns);
    pthread_mutex_lock(&wake_gate);
    pthread_mutex_unlock(&wake_gate);
    return status;
}

static bool has_slept(void *unused)
{
    (void)unused;
    return atomic_load(&slept);
}

static int gated_opening(struct pool_conn *conn, struct pool_actor *actor, void *user)
{
    (void)conn, (void)actor, (void)user;
    pthread_mutex_lock(&open_gate);
    pthread_mutex_unlock(&open_gate);
    return 0;
}

/* The other one queues while the first is on its way to a connection that has ended. */
Test(pool_waiters, who_was_served_what_has_ended_keeps_its_place_in_a_queue_that_is_full)
{
    struct peer *peer = PEER();
    struct caller first, other;
    struct pool *pool;
    struct pool_conn conn;

    os = pl_os_real;
    os.sleep_until = gated_sleep;
    pl_os_replace(&os);
    pool = MAKE_POOL(.max_per_address = 1, .max_waiters = 1, .barge_ms = POOL_ZERO,
                     .on_new_connection = gated_opening);
    cr_assert(borrow(pool, peer_address(peer), &conn));
    atomic_store(&slept, 0);
    cr_assert(queue_caller(&first, pool, peer_address(peer), VERBS_SOON));
    cr_assert(wait_until(has_slept, NULL, VERBS_SOON));
    pthread_mutex_lock(&wake_gate);
    pthread_mutex_lock(&open_gate);
    cr_assert_eq(peer_close_all(peer), 1);
    cr_assert_eq(listen_to(pool_conn_fd(&conn), VERBS_SOON), HEARD_END);
    cr_assert_eq(pool_return(&conn), POOL_OK);
    cr_assert(queue_caller(&other, pool, peer_address(peer), VERBS_SOON));
    pthread_mutex_unlock(&wake_gate);
    cr_expect(WAIT_STAT(pool, waiting, 2));
    pthread_mutex_unlock(&open_gate);
    cr_assert_eq(join_caller(&first), POOL_OK);
    cr_expect_not(other.is_back);
    cr_expect_eq(pool_conn_id(&first.conn), 2);
    cr_assert_eq(pool_return(&first.conn), POOL_OK);
    cr_assert_eq(join_caller(&other), POOL_OK);
    cr_assert_eq(pool_return(&other.conn), POOL_OK);
    pool_destroy(pool);
    pl_os_replace(NULL);
    peer_stop(peer);
}

/* ---- nobody is forgotten */

/* Whether it is told to look, or handed the connection: nothing else will ever happen. */
Test(pool_waiters, one_return_is_enough_to_end_the_wait)
{
    static const uint32_t barges_ms[] = { POOL_ZERO, 10, POOL_NONE };
    struct peer *peer = PEER();
    struct caller waiter;
    struct pool_conn conn;
    struct pool *pool;

    for (int i = 0; i < 60; i++) {
        pool = MAKE_POOL(.max_per_address = 1, .barge_ms = barges_ms[i % 3]);
        cr_assert(borrow(pool, peer_address(peer), &conn));
        cr_assert(queue_caller(&waiter, pool, peer_address(peer), VERBS_SOON));
        cr_assert_eq(pool_return(&conn), POOL_OK);
        cr_expect_eq(join_caller(&waiter), POOL_OK);
        cr_assert_lt(waiter.took_ms, VERBS_SOON / 4, "it woke by itself");
        cr_assert_eq(pool_return(&waiter.conn), POOL_OK);
        pool_destroy(pool);
    }
    peer_stop(peer);
}

enum { FORGOTTEN = 5000 }; /* ms: far more than a turn takes, and less than the deadline */

struct rush {
    struct pool *pool;
    const char *address;
    unsigned rounds, discard_each;
    uint32_t timeout_ms;
    atomic_uint served, late, other, forgotten;
};

static void rush(unsigned index, void *argument)
{
    struct rush *one = argument;
    unsigned seed = index + 1;
    struct pool_conn conn;
    enum pool_status status;
    uint64_t start_ms;

    for (unsigned i = 0; i < one->rounds; i++) {
        uint32_t timeout_ms = one->timeout_ms ? one->timeout_ms : 1 + (unsigned)rand_r(&seed) % 4;

        start_ms = now_ms();
        status = pool_borrow(one->pool, one->address, POOL_CALL(.timeout_ms = timeout_ms), &conn);
        atomic_fetch_add(status == POOL_OK          ? &one->served
                         : status == POOL_E_TIMEOUT ? &one->late
                                                    : &one->other,
                         1);
        if (elapsed_ms(start_ms) > FORGOTTEN)
            atomic_fetch_add(&one->forgotten, 1);
        if (status)
            continue;
        if (rand_r(&seed) % 8 == 0)
            sched_yield();
        if (one->discard_each && (unsigned)rand_r(&seed) % one->discard_each == 0)
            pool_discard(&conn);
        else
            pool_return(&conn);
    }
}

static void expect_whole(struct pool *pool, const char *address, unsigned cap)
{
    struct pool_conn conns[8];

    cr_expect_eq(STAT(pool, lent), 0);
    cr_expect_eq(STAT(pool, waiting), 0);
    for (unsigned i = 0; i < cap; i++)
        cr_assert(borrow(pool, address, &conns[i]), "only %u of %u places are left", i, cap);
    for (unsigned i = 0; i < cap; i++)
        pool_return(&conns[i]);
}

Test(pool_waiters, no_wake_up_is_lost, .timeout = 300)
{
    struct peer *peer = PEER(.own_process = true);

    for (unsigned cap = 1; cap <= 3; cap++)
        for (uint32_t barge_ms = 1; barge_ms <= 3; barge_ms++) {
            struct pool *pool = MAKE_POOL(.max_per_address = cap, .park_ms = 1,
                                          .barge_ms = barge_ms == 3 ? POOL_ZERO : barge_ms * 10);
            struct rush one = { .pool = pool,
                                .address = peer_address(peer),
                                .timeout_ms = VERBS_SOON };

            one.rounds = 2000 / slowness();
            one.discard_each = barge_ms == 2 ? 50 : 0;
            cr_assert(run_threads(8, rush, &one));
            cr_expect_eq(one.served, 8 * one.rounds, "cap %u: %u late, %u others", cap, one.late,
                         one.other);
            cr_expect_eq(one.forgotten, 0);
            expect_whole(pool, peer_address(peer), cap);
            pool_destroy(pool);
        }
    peer_stop(peer);
}

/* Those who give up leave no hole and keep nothing. */
Test(pool_waiters, giving_up_costs_no_place, .timeout = 300)
{
    struct peer *peer = PEER(.own_process = true);
    struct pool *pool = MAKE_POOL(.max_per_address = 2, .barge_ms = 1);
    struct rush one = { .pool = pool, .address = peer_address(peer), .discard_each = 10 };

    one.rounds = 1500 / slowness();
    for (int i = 0; i < 20 && !one.late;
         i++) /* a machine that runs one after the other lets nobody wait */
        cr_assert(run_threads(8, rush, &one));
    cr_expect_eq(one.other, 0);
    cr_expect_gt(one.served, 0);
    cr_expect_gt(one.late, 0, "nobody gave up, so nothing was shown");
    expect_whole(pool, peer_address(peer), 2);
    pool_destroy(pool);
    peer_stop(peer);
}

/* ---- when no connection comes */

Test(pool_waiters, a_refused_connection_is_told_to_all_who_wait_and_not_as_a_timeout)
{
    enum { WAITERS = 20 };
    struct peer *peer = PEER();
    struct pool *pool = MAKE_POOL();
    static struct caller callers[WAITERS];

    peer_down(peer);
    for (int i = 0; i < WAITERS; i++)
        cr_assert(start_caller(&callers[i], pool, peer_address(peer), VERBS_SOON));
    for (int i = 0; i < WAITERS; i++) {
        cr_expect_eq(join_caller(&callers[i]), POOL_E_REFUSED);
        cr_expect_eq(callers[i].error.cause, ECONNREFUSED);
        cr_expect_eq(callers[i].error.phase, POOL_PHASE_CONNECT);
        cr_expect(IN_TIME(callers[i].took_ms, 0));
    }
    cr_expect(peer_up(peer));
    cr_expect_eq(talk(pool, peer_address(peer)), POOL_OK);
    pool_destroy(pool);
    peer_stop(peer);
}

/* A connection that comes back first serves the one who asked for a new one. */
Test(pool_waiters, whichever_comes_first_serves_the_waiter)
{
    struct peer *peer = PEER();
    struct pool *pool = MAKE_POOL();
    struct caller waiter;
    struct pool_conn conn;

    cr_assert(borrow(pool, peer_address(peer), &conn));
    peer_set_behaviour(peer, PEER_NEVER_ACCEPT);
    cr_assert(queue_caller(&waiter, pool, peer_address(peer), VERBS_SOON));
    cr_assert_eq(pool_return(&conn), POOL_OK);
    cr_expect_eq(join_caller(&waiter), POOL_OK);
    cr_expect_eq(pool_conn_id(&waiter.conn), 1);
    cr_expect_eq(pool_return(&waiter.conn), POOL_OK);
    pool_destroy(pool);
    peer_stop(peer);
}

/* Few are opened at a time, but one after the other until nobody waits: each keeps what it got. */
Test(pool_waiters, however_few_may_be_opened_at_once_all_who_wait_get_one)
{
    enum { WAITERS = 10 };
    struct peer *peer = PEER();
    struct caller callers[WAITERS];
    struct pool_mux *mux;
    struct pool *pool;

    for (uint32_t connecting = 1; connecting <= 3; connecting++) {
        cr_assert_eq(pool_mux_create(&mux), POOL_OK);
        pool = MAKE_POOL(.mux = mux, .max_connecting = connecting);
        for (int i = 0; i < WAITERS; i++)
            cr_assert(queue_caller(&callers[i], pool, peer_address(peer), 2000));
        for (int i = 0; i < WAITERS; i++)
            while (!atomic_load(&callers[i].is_back))
                cr_assert_eq(pool_mux_dispatch(mux, 10), POOL_OK);
        for (int i = 0; i < WAITERS; i++) {
            cr_expect_eq(join_caller(&callers[i]), POOL_OK, "%u at once: %s", connecting,
                         callers[i].error.text);
            pool_return(&callers[i].conn);
        }
        cr_expect_eq(STAT(pool, opened), WAITERS);
        pool_destroy(pool);
        pool_mux_destroy(mux);
    }
    peer_stop(peer);
}

/* ---- the mux thread never waits */

Test(pool_waiters, the_thread_of_an_embedded_mux_never_waits_but_takes_what_is_warm)
{
    struct peer *peer = PEER();
    struct pool_error error = POOL_ERROR_INIT;
    struct pool_mux *mux;
    struct pool_conn conn;
    struct caller other;
    struct pool *pool;

    cr_assert_eq(pool_mux_create(&mux), POOL_OK);
    pool = MAKE_POOL(.mux = mux);
    cr_expect_eq(pool_borrow(pool, peer_address(peer), POOL_CALL(.error = &error), &conn),
                 POOL_E_WOULD_BLOCK);
    cr_expect_eq(error.status, POOL_E_WOULD_BLOCK);
    cr_assert(start_caller(&other, pool, peer_address(peer), VERBS_SOON));
    while (!atomic_load(&other.is_back))
        cr_assert_eq(pool_mux_dispatch(mux, 10), POOL_OK);
    cr_assert_eq(join_caller(&other), POOL_OK);
    cr_expect_eq(pool_borrow(pool, peer_address(peer), NULL, &conn), POOL_E_WOULD_BLOCK);
    cr_assert_eq(pool_return(&other.conn), POOL_OK);
    cr_assert_eq(pool_borrow(pool, peer_address(peer), NULL, &conn), POOL_OK);
    cr_expect_eq(pool_conn_id(&conn), 1);
    cr_expect_eq(pool_return(&conn), POOL_OK);
    cr_expect_eq(STAT(pool, waiting), 0);
    pool_destroy(pool);
    pool_mux_destroy(mux);
    peer_stop(peer);
}
