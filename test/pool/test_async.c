/* test_async.c: borrowing for event-driven code: told exactly once, on the mux thread, never on the
 * stack of the call, in order with those who block, and at any end. prepare for it is in
 * test_async_prepare.c. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>

#include "support/asks.h"
#include "support/peer.h"
#include "support/tests.h"

static void expect_told_once(struct ask *ask, enum pool_status status)
{
    cr_assert(wait_told(ask));
    cr_expect_eq(ask->told, 1);
    cr_expect_eq(ask->status, status, "%s: %s", pool_status_name(ask->status), ask->error.text);
    cr_expect_not(ask->was_under_the_start);
    cr_expect_not(ask->was_unset);
}

/* ---- where and how often */

Test(pool_async, is_told_once_on_the_mux_thread)
{
    struct peer *peer = PEER();
    struct mux_thread mux;
    struct ask cold = { .is_kept = true }, warm = { .is_kept = true };
    struct pool *pool;

    cr_assert(start_mux_thread(&mux));
    pool = MAKE_POOL(.mux = mux.mux);
    cr_assert_eq(start_ask_with_ticket(&cold, pool, peer_address(peer), NULL), POOL_OK);
    expect_told_once(&cold, POOL_OK);
    cr_expect(pthread_equal(cold.thread, mux.thread));
    cr_expect_eq(echo(&cold.conn, "hello"), 0, "a loan is a loan: another thread may block on it");
    cr_expect_eq(pool_return(&cold.conn), POOL_OK);
    cr_assert_eq(start_ask(&warm, pool, peer_address(peer), NULL), POOL_OK);
    expect_told_once(&warm, POOL_OK);
    cr_expect(pthread_equal(warm.thread, mux.thread));
    cr_expect_eq(warm.id, cold.id);
    cr_expect_eq(pool_return(&warm.conn), POOL_OK);
    pool_ticket_free(cold.ticket);
    pool_destroy(pool);
    stop_mux_thread(&mux);
    peer_stop(peer);
}

Test(pool_async, embedded_nothing_is_told_before_the_program_dispatches)
{
    struct peer *peer = PEER();
    struct ask asks[2] = { { .is_kept = true }, { .is_kept = true } };
    struct pool_mux *mux;
    struct pool *pool;

    cr_assert_eq(pool_mux_create(&mux), POOL_OK);
    pool = MAKE_POOL(.mux = mux);
    for (int i = 0; i < 2; i++) {
        cr_assert_eq(start_ask(&asks[i], pool, peer_address(peer), NULL), POOL_OK);
        cr_expect_eq(asks[i].told, 0);
        cr_assert(dispatch_until_told(mux, &asks[i]));
        cr_expect_eq(asks[i].status, POOL_OK);
        cr_expect_not(asks[i].was_under_the_start);
        cr_expect(pthread_equal(asks[i].thread, pthread_self()));
        cr_expect_eq(pool_return(&asks[i].conn), POOL_OK);
    }
    cr_expect_eq(asks[0].id, asks[1].id);
    pool_destroy(pool);
    pool_mux_destroy(mux);
    peer_stop(peer);
}

/* ---- the warm way: from one on_lent to the next */

struct chain {
    struct pool *pool;
    const char *address;
    unsigned left, under_the_start, failed;
    bool is_inside;
    atomic_bool is_over;
};

static void next_link(struct pool_conn *conn, const struct pool_error *error, void *user)
{
    struct chain *chain = user;

    chain->failed += error || !conn || pool_return(conn);
    chain->under_the_start += chain->is_inside;
    if (!chain->left--) {
        atomic_store(&chain->is_over, true);
        return;
    }
    chain->is_inside = true;
    chain->failed += pool_communicate_async(chain->pool, chain->address, next_link, chain, NULL,
                                            NULL) != POOL_OK;
    chain->is_inside = false;
}

static bool is_over(void *argument)
{
    return atomic_load((atomic_bool *)argument);
}

Test(pool_async, a_chain_of_warm_borrows_uses_no_stack_and_one_connection)
{
    struct peer *peer = PEER();
    struct pool *pool = MAKE_POOL();
    struct chain chain = { .pool = pool, .address = peer_address(peer), .left = 100000 };

    cr_assert_eq(pool_communicate_async(pool, chain.address, next_link, &chain, NULL, NULL),
                 POOL_OK);
    cr_assert(wait_until(is_over, &chain.is_over, VERBS_SOON));
    cr_expect_eq(chain.failed, 0);
    cr_expect_eq(chain.under_the_start, 0);
    cr_expect(WAIT_STAT(pool, lent, 0));
    cr_expect_eq(STAT(pool, borrowed), 100001);
    cr_expect_eq(STAT(pool, opened), 1);
    pool_destroy(pool);
    peer_stop(peer);
}

/* Whoever goes on for ever leaves the others their turn. */
Test(pool_async, an_endless_chain_does_not_starve_the_mux)
{
    struct peer *peer = PEER();
    struct pool *pool = MAKE_POOL();
    struct chain chain = { .pool = pool, .address = peer_address(peer), .left = UINT32_MAX };
    struct ask ask = { .is_kept = false };

    cr_assert_eq(pool_communicate_async(pool, chain.address, next_link, &chain, NULL, NULL),
                 POOL_OK);
    for (int i = 0; i < 20; i++) {
        ask = (struct ask){ .is_kept = false };
        cr_assert_eq(start_ask(&ask, pool, peer_address(peer), NULL), POOL_OK);
        expect_told_once(&ask, POOL_OK);
        cr_expect_eq(talk(pool, peer_address(peer)), POOL_OK);
    }
    pool_destroy(pool);
    peer_stop(peer);
}

/* ---- many */

Test(pool_async, a_thousand_at_once_over_four_connections_are_all_told_once, .timeout = 60)
{
    enum { ASKS = 1000 };
    struct peer *peer = PEER();
    struct pool *pool = MAKE_POOL(.max_per_address = 4);
    static struct ask asks[ASKS];

    for (int i = 0; i < ASKS; i++)
        cr_assert_eq(start_ask(&asks[i], pool, peer_address(peer), NULL), POOL_OK);
    for (int i = 0; i < ASKS; i++)
        expect_told_once(&asks[i], POOL_OK);
    cr_expect_eq(STAT(pool, waiting), 0);
    cr_expect_leq(STAT(pool, opened), 4);
    cr_expect_eq(STAT(pool, borrowed), ASKS);
    pool_destroy(pool);
    for (int i = 0; i < ASKS; i++)
        cr_expect_eq(asks[i].told, 1);
    peer_stop(peer);
}

static atomic_uint more_told;

static void count_more(struct pool_conn *conn, const struct pool_error *error, void *user)
{
    (void)user;
    if (!error && pool_return(conn) == POOL_OK)
        atomic_fetch_add(&more_told, 1);
}

static void start_100(struct ask *ask)
{
    struct chain *chain = ask->user;

    for (int i = 0; i < 100; i++)
        chain->failed += pool_communicate_async(chain->pool, chain->address, count_more, NULL, NULL,
                                                NULL) != POOL_OK;
}

static bool are_100(void *argument)
{
    (void)argument;
    return atomic_load(&more_told) == 100;
}

Test(pool_async, on_lent_may_start_many_more)
{
    struct peer *peer = PEER();
    struct pool *pool = MAKE_POOL(.max_per_address = 3);
    struct chain chain = { .pool = pool, .address = peer_address(peer) };
    struct ask ask = { .then = start_100, .user = &chain };

    cr_assert_eq(start_ask(&ask, pool, peer_address(peer), NULL), POOL_OK);
    cr_expect(wait_until(are_100, NULL, VERBS_SOON));
    cr_expect_eq(chain.failed, 0);
    pool_destroy(pool);
    cr_expect_eq(more_told, 100);
    peer_stop(peer);
}

/* ---- errors of the start */

static void expect_refused(struct pool *pool, const char *address, const struct pool_call *call,
                           enum pool_status status)
{
    struct pool_ticket *leftover = (struct pool_ticket *)(uintptr_t)1;
    struct pool_error error = POOL_ERROR_INIT;
    struct pool_call told = call ? *call : *POOL_CALL(.timeout_ms = VERBS_SOON);
    struct ask ask = { .ticket = leftover };

    told.error = &error;
    cr_expect_eq(start_ask_with_ticket(&ask, pool, address, &told), status);
    cr_expect_null(ask.ticket);
    cr_expect_eq(error.status, status);
    cr_expect_eq(ask.told, 0);
    if (pool)
        pool_communicate(pool, address ? address : "", do_nothing, NULL, NULL);
    cr_expect_eq(ask.told, 0);
}

Test(pool_async, what_cannot_start_never_calls_back)
{
    struct peer *peer = PEER();
    struct pool *pool = MAKE_POOL(.max_per_address = 1, .max_waiters = 2);
    struct ask waiting[2] = { 0 };
    struct pool_conn conn;

    expect_refused(pool, "no address", NULL, POOL_E_ADDRESS);
    expect_refused(pool, NULL, NULL, POOL_E_ARGUMENT);
    expect_refused(NULL, peer_address(peer), NULL, POOL_E_ARGUMENT);
    expect_refused(pool, peer_address(peer), POOL_CALL(.flags = 1u << 31), POOL_E_ARGUMENT);
    cr_expect_eq(pool_communicate_async(pool, peer_address(peer), NULL, NULL, NULL, NULL),
                 POOL_E_ARGUMENT);
    cr_assert(borrow(pool, peer_address(peer), &conn));
    expect_refused(pool, peer_address(peer), POOL_CALL(.flags = POOL_DONT_WAIT), POOL_E_FULL);
    for (int i = 0; i < 2; i++)
        cr_assert_eq(start_ask(&waiting[i], pool, peer_address(peer), NULL), POOL_OK);
    expect_refused(pool, peer_address(peer), POOL_CALL(.timeout_ms = 1000), POOL_E_FULL);
    cr_expect_eq(pool_return(&conn), POOL_OK);
    for (int i = 0; i < 2; i++)
        expect_told_once(&waiting[i], POOL_OK);
    pool_destroy(pool);
    peer_stop(peer);
}

/* The same sentence as the blocking call's: where the mistake in the text is. */
Test(pool_async, an_address_that_is_none_is_explained_as_in_a_blocking_call)
{
    struct pool_error blocking = POOL_ERROR_INIT, error = POOL_ERROR_INIT;
    struct pool *pool = MAKE_POOL();
    struct pool_conn conn;
    struct ask ask = { 0 };

    pool_borrow(pool, "tcp://127.0.0.1:x", POOL_CALL(.error = &blocking), &conn);
    cr_expect_eq(start_ask(&ask, pool, "tcp://127.0.0.1:x", POOL_CALL(.error = &error)),
                 POOL_E_ADDRESS);
    cr_expect_str_eq(error.text, blocking.text);
    cr_expect_eq(STAT(pool, borrow_failed), 2);
    pool_destroy(pool);
}

/* ---- time */

Test(pool_async, time_that_runs_out_is_told_and_not_before)
{
    struct peer *peer = PEER();
    struct pool *pool = MAKE_POOL(.max_per_address = 1);
    struct ask whole = { 0 }, wait = { 0 }, point = { 0 };
    struct pool_conn conn;

    cr_assert(borrow(pool, peer_address(peer), &conn));
    cr_assert_eq(start_ask(&whole, pool, peer_address(peer), POOL_CALL(.timeout_ms = 80)), POOL_OK);
    cr_assert_eq(start_ask(&wait, pool, peer_address(peer),
                           POOL_CALL(.wait_ms = 80, .timeout_ms = VERBS_SOON)),
                 POOL_OK);
    cr_assert_eq(start_ask(&point, pool, peer_address(peer),
                           POOL_CALL(.deadline_ns = (now_us() + 80000) * 1000)),
                 POOL_OK);
    expect_told_once(&whole, POOL_E_TIMEOUT);
    expect_told_once(&wait, POOL_E_TIMEOUT);
    expect_told_once(&point, POOL_E_TIMEOUT);
    cr_expect(IN_TIME(whole.took_ms, 80));
    cr_expect(IN_TIME(wait.took_ms, 80));
    cr_expect(IN_TIME(point.took_ms, 79)); /* its start is rounded down to a millisecond */
    cr_expect_eq(whole.error.phase, POOL_PHASE_WAIT);
    cr_expect_eq(whole.error.cause, ETIMEDOUT);
    cr_expect_eq(whole.error.outcome, POOL_NOT_SENT);
    cr_expect(IN_TIME(whole.error.spent_ms[POOL_PHASE_WAIT], 79));
    cr_expect_eq(STAT(pool, timeouts), 3);
    cr_expect_eq(STAT(pool, borrow_failed), 3);
    cr_expect_eq(pool_return(&conn), POOL_OK);
    cr_expect_eq(id_of_next(pool, peer_address(peer)), 1);
    pool_destroy(pool);
    peer_stop(peer);
}

Test(pool_async, no_time_at_all_takes_what_is_idle_and_is_else_told_of_it)
{
    struct peer *peer = PEER();
    struct pool *pool = MAKE_POOL();
    struct ask in_vain = { 0 }, good = { 0 }, no_wait = { 0 };

    cr_assert_eq(start_ask(&in_vain, pool, peer_address(peer), POOL_CALL(.timeout_ms = POOL_ZERO)),
                 POOL_OK);
    expect_told_once(&in_vain, POOL_E_TIMEOUT);
    cr_expect_eq(talk(pool, peer_address(peer)), POOL_OK);
    cr_assert_eq(start_ask(&good, pool, peer_address(peer), POOL_CALL(.timeout_ms = POOL_ZERO)),
                 POOL_OK);
    expect_told_once(&good, POOL_OK);
    cr_assert_eq(start_ask(&no_wait, pool, peer_address(peer), POOL_CALL(.wait_ms = POOL_ZERO)),
                 POOL_OK);
    expect_told_once(&no_wait, POOL_OK);
    pool_destroy(pool);
    peer_stop(peer);
}

/* ---- order */

Test(pool_async, threads_and_events_wait_in_one_queue)
{
    enum { WAITERS = 10 };
    struct peer *peer = PEER();
    struct pool *pool = MAKE_POOL(.max_per_address = 1, .barge_ms = POOL_ZERO);
    struct caller callers[WAITERS / 2];
    struct ask asks[WAITERS / 2] = { 0 };
    struct pool_conn conn;

    cr_assert(borrow(pool, peer_address(peer), &conn));
    for (int i = 0; i < WAITERS / 2; i++) {
        cr_assert(queue_caller(&callers[i], pool, peer_address(peer), VERBS_SOON));
        asks[i].is_kept = true;
        cr_assert_eq(start_ask(&asks[i], pool, peer_address(peer), NULL), POOL_OK);
    }
    cr_expect_eq(STAT(pool, waiting), WAITERS);
    cr_assert_eq(pool_return(&conn), POOL_OK);
    for (int i = 0; i < WAITERS / 2; i++) {
        cr_assert_eq(join_caller(&callers[i]), POOL_OK);
        cr_expect_eq(STAT(pool, waiting), WAITERS - 2u * (unsigned)i - 1);
        cr_expect_eq(asks[i].told, 0, "the thread came first");
        cr_assert_eq(pool_return(&callers[i].conn), POOL_OK);
        expect_told_once(&asks[i], POOL_OK);
        cr_assert_eq(pool_return(&asks[i].conn), POOL_OK);
    }
    cr_expect_eq(STAT(pool, opened), 1);
    pool_destroy(pool);
    peer_stop(peer);
}

/* A thread that waits is told to look for itself while it is young; an event is handed what there
 * is: neither may keep it from the other for good. */
Test(pool_async, a_young_thread_and_a_young_event_are_both_served)
{
    static const uint32_t barges_ms[] = { POOL_ZERO, 10, POOL_NONE };
    struct peer *peer = PEER();

    for (int i = 0; i < 60; i++) {
        struct pool *pool = MAKE_POOL(.max_per_address = 1, .barge_ms = barges_ms[i % 3]);
        struct ask ask = { 0 };
        struct caller caller;
        struct pool_conn conn;

        cr_assert(borrow(pool, peer_address(peer), &conn));
        if (i % 2)
            cr_assert_eq(start_ask(&ask, pool, peer_address(peer), NULL), POOL_OK);
        cr_assert(queue_caller(&caller, pool, peer_address(peer), VERBS_SOON));
        if (i % 2 == 0)
            cr_assert_eq(start_ask(&ask, pool, peer_address(peer), NULL), POOL_OK);
        cr_assert_eq(pool_return(&conn), POOL_OK);
        cr_assert_eq(join_caller(&caller), POOL_OK);
        cr_assert_eq(pool_return(&caller.conn), POOL_OK);
        expect_told_once(&ask, POOL_OK);
        cr_expect_lt(ask.took_ms, VERBS_SOON / 4);
        pool_destroy(pool);
    }
    peer_stop(peer);
}

/* ---- connections that do not come, or are no good */

Test(pool_async, a_refused_connection_is_told_to_all_who_wait)
{
    enum { ASKS = 20 };
    struct peer *peer = PEER();
    struct pool *pool = MAKE_POOL();
    struct ask asks[ASKS] = { 0 };

    peer_down(peer);
    for (int i = 0; i < ASKS; i++)
        cr_assert_eq(start_ask(&asks[i], pool, peer_address(peer), NULL), POOL_OK);
    for (int i = 0; i < ASKS; i++) {
        expect_told_once(&asks[i], POOL_E_REFUSED);
        cr_expect_eq(asks[i].error.cause, ECONNREFUSED);
        cr_expect_eq(asks[i].error.phase, POOL_PHASE_CONNECT);
    }
    cr_expect_eq(STAT(pool, total), 0);
    pool_destroy(pool);
    peer_stop(peer);
}

/* What died while it was idle shows at the delivery: the one who asked gets another one. */
Test(pool_async, a_connection_that_died_idle_is_replaced_unseen)
{
    struct peer *peer = PEER();
    struct pool *pool = MAKE_POOL(.park_ms = POOL_NONE);
    struct ask ask = { .is_kept = true };

    for (int i = 0; i < 10; i++) {
        cr_assert_eq(talk(pool, peer_address(peer)), POOL_OK);
        peer_close_all(peer);
        cr_expect(peer_wait_open(peer, 0, VERBS_SOON));
        ask = (struct ask){ .is_kept = true };
        cr_assert_eq(start_ask(&ask, pool, peer_address(peer), NULL), POOL_OK);
        expect_told_once(&ask, POOL_OK);
        cr_expect_eq(echo(&ask.conn, "alive"), 0);
        cr_expect_eq(pool_return(&ask.conn), POOL_OK);
    }
    pool_destroy(pool);
    peer_stop(peer);
}

static void spend_60_ms(void *user)
{
    uint64_t start_ms = now_ms();

    (void)user;
    while (elapsed_ms(start_ms) < 60)
        ;
}

/* Its time may run out between the grant and the delivery, which finds nothing to deliver: it must
 * not wait on without a deadline. */
Test(pool_async, one_who_queues_again_still_has_a_deadline)
{
    struct peer *peer = PEER();
    struct pool *pool;
    struct pool_mux *mux;
    struct pool_conn conn;
    struct ask first = { 0 }, ask = { 0 };

    cr_assert_eq(pool_mux_create(&mux), POOL_OK);
    pool =
        MAKE_POOL(.mux = mux, .max_per_address = 1, .park_ms = POOL_NONE, .connect_ms = POOL_NONE);
    cr_assert_eq(start_ask(&first, pool, peer_address(peer), NULL), POOL_OK);
    cr_assert(dispatch_until_told(mux, &first));
    cr_assert_eq(pool_borrow(pool, peer_address(peer), NULL, &conn), POOL_OK);
    cr_assert_eq(start_ask(&ask, pool, peer_address(peer), POOL_CALL(.timeout_ms = 30)), POOL_OK);
    peer_set_behaviour(peer, PEER_NEVER_ACCEPT);
    cr_assert_eq(pool_return(&conn), POOL_OK); /* granted, and not delivered */
    peer_close_all(peer);
    cr_expect(peer_wait_open(peer, 0, VERBS_SOON));
    spend_60_ms(NULL); /* the deadline and the delivery fall into one batch */
    cr_assert(dispatch_until_told(mux, &ask));
    cr_expect_eq(ask.status, POOL_E_TIMEOUT, "%s", pool_status_name(ask.status));
    cr_expect_lt(ask.took_ms, 5000, "its own deadline, not the kernel's");
    pool_destroy(pool);
    pool_mux_destroy(mux);
    peer_stop(peer);
}

/* ---- what on_lent may do */

static void discard_it(struct ask *ask)
{
    cr_expect_eq(pool_discard(&ask->conn), POOL_OK);
}

static void destroy_it(struct ask *ask)
{
    pool_destroy(ask->user);
    if (ask->conn.slot)
        cr_expect_eq(pool_return(&ask->conn), POOL_OK);
}

struct place {
    struct pool *pool;
    const char *address;
};

static void communicate(struct ask *ask)
{
    struct place *place = ask->user;

    cr_expect_eq(pool_communicate(place->pool, place->address, do_nothing, NULL, NULL),
                 POOL_E_WOULD_BLOCK, "there is only the one that is lent");
    cr_expect_eq(pool_return(&ask->conn), POOL_OK);
    cr_expect_eq(pool_communicate(place->pool, place->address, do_nothing, NULL, NULL), POOL_OK,
                 "it is warm");
}

Test(pool_async, on_lent_may_discard_and_call_what_does_not_block)
{
    struct peer *peer = PEER();
    struct pool *pool = MAKE_POOL();
    struct ask discards = { .is_kept = true, .then = discard_it };
    struct place place = { pool, peer_address(peer) };
    struct ask talks = { .is_kept = true, .then = communicate, .user = &place };

    cr_assert_eq(start_ask(&discards, pool, peer_address(peer), NULL), POOL_OK);
    expect_told_once(&discards, POOL_OK);
    cr_expect(WAIT_STAT(pool, total, 0));
    cr_assert_eq(start_ask(&talks, pool, peer_address(peer), NULL), POOL_OK);
    expect_told_once(&talks, POOL_OK);
    pool_destroy(pool);
    peer_stop(peer);
}

Test(pool_async, on_lent_may_destroy_the_pool_and_the_others_are_told_of_it)
{
    enum { OTHERS = 20 };
    int before = count_descriptors();
    struct peer *peer = PEER(.own_process = true);
    struct mux_thread mux;
    struct ask first = { .is_kept = true, .then = destroy_it }, others[OTHERS] = { 0 };
    struct pool_conn conn;

    cr_assert(start_mux_thread(&mux));
    first.user = MAKE_POOL(.mux = mux.mux, .max_per_address = 1);
    cr_assert(borrow(first.user, peer_address(peer), &conn));
    cr_assert_eq(start_ask(&first, first.user, peer_address(peer), NULL), POOL_OK);
    for (int i = 0; i < OTHERS; i++)
        cr_assert_eq(start_ask(&others[i], first.user, peer_address(peer), NULL), POOL_OK);
    cr_expect_eq(pool_return(&conn), POOL_OK);
    expect_told_once(&first, POOL_OK);
    for (int i = 0; i < OTHERS; i++)
        expect_told_once(&others[i], POOL_E_CLOSING);
    cr_expect(peer_wait_open(peer, 0, VERBS_SOON));
    stop_mux_thread(&mux);
    peer_stop(peer);
    cr_expect_eq(count_descriptors(), before);
}

/* From outside it comes back when the last one was told. */
Test(pool_async, destroy_tells_all_before_it_comes_back)
{
    enum { ASKS = 50 };
    struct peer *peer = PEER(.behave = PEER_NEVER_ACCEPT);
    struct pool_mux *mux;

    cr_assert_eq(pool_mux_create(&mux), POOL_OK);
    for (int embedded = 0; embedded < 2; embedded++) {
        struct pool *pool = MAKE_POOL(.mux = embedded ? mux : NULL);
        struct ask asks[ASKS] = { 0 };

        for (int i = 0; i < ASKS; i++)
            cr_assert_eq(start_ask(&asks[i], pool, peer_address(peer), NULL), POOL_OK);
        pool_destroy(pool);
        for (int i = 0; i < ASKS; i++) {
            cr_expect_eq(asks[i].told, 1);
            cr_expect_eq(asks[i].status, POOL_E_CLOSING);
        }
    }
    pool_mux_destroy(mux);
    peer_stop(peer);
}

static struct pool *ended_by_observer;

static void end_at_failure(const struct pool_event_info *event, void *user)
{
    (void)user;
    if (event->kind != POOL_EVENT_BORROW_FAILED || !ended_by_observer)
        return;
    pool_destroy(ended_by_observer);
    ended_by_observer = NULL;
}

Test(pool_async, an_observer_of_the_refused_start_may_destroy_the_pool, .timeout = 20)
{
    struct peer *peer = PEER();
    struct pool *pool =
        MAKE_POOL(.on_event = end_at_failure, .max_waiters = 1, .max_per_address = 1);
    struct ask waiting = { 0 }, ask = { 0 };
    struct pool_conn conn;

    cr_assert(borrow(pool, peer_address(peer), &conn));
    cr_assert_eq(start_ask(&waiting, pool, peer_address(peer), NULL), POOL_OK);
    ended_by_observer = pool;
    cr_expect_eq(start_ask(&ask, pool, peer_address(peer), NULL), POOL_E_FULL);
    cr_expect_null(ended_by_observer);
    cr_expect_eq(ask.told, 0);
    expect_told_once(&waiting, POOL_E_CLOSING);
    cr_expect_eq(pool_return(&conn), POOL_OK);
    peer_stop(peer);
}
