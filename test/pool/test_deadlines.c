/* test_deadlines.c: a call ends when its time is over, not earlier and at most 20 ms later,
 * whatever the peer does; and says in which phase, and whether anything was on the wire. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "support/peer.h"
#include "support/tests.h"
#include "support/verbs.h"

/* ---- the whole call, exactly */

enum { SILENT_PEER, DRIPPING_PEER, DEAF_PEER, KINDS };
static const char *const kind_names[] = { "silent", "dripping", "deaf" };
static const uint32_t spans_ms[] = { 100, 333, 2500, 5000 };
enum { SPANS = 4 };

struct exact {
    struct pool *pool;
    struct peer *peers[KINDS];
    bool has_storm;
};

static int receive_for_ever(struct pool_conn *conn, void *user)
{
    static _Thread_local char bytes[1 << 16];

    (void)user;
    if (pool_send(conn, bytes, 1000))
        return -1;
    return pool_recv_exact(conn, bytes, sizeof(bytes));
}

static int send_for_ever(struct pool_conn *conn, void *user)
{
    static char bytes[1 << 16];

    (void)user;
    while (pool_send(conn, bytes, sizeof(bytes)) == POOL_OK)
        ;
    return -1;
}

/* Other programs may take the processor away: what is late by itself is late each time. */
static void call_exactly(unsigned index, void *argument)
{
    const struct exact *exact = argument;
    unsigned kind = index / SPANS, ms = spans_ms[index % SPANS];
    struct signal_storm *storm = exact->has_storm ? start_signal_storm(1000) : NULL;
    struct pool_error error = POOL_ERROR_INIT;
    bool is_exact = false;
    uint64_t start_ms;

    for (int i = 0; i < 3 && !is_exact; i++) {
        start_ms = now_ms();
        cr_expect_eq(pool_communicate(exact->pool, peer_address(exact->peers[kind]),
                                      kind == DEAF_PEER ? send_for_ever : receive_for_ever, NULL,
                                      POOL_CALL(.timeout_ms = ms, .error = &error)),
                     POOL_E_TIMEOUT_IN_TRANSFER);
        is_exact = within(elapsed_ms(start_ms), ms, ms + 20, kind_names[kind]);
        cr_expect_eq(error.phase, POOL_PHASE_USE, "%s", error.text);
        cr_expect_eq(error.outcome, kind == DRIPPING_PEER ? POOL_ANSWERED : POOL_MAYBE_SENT, "%s",
                     error.text);
    }
    cr_expect(is_exact, "%s peer, %u ms", kind_names[kind], ms);
    if (exact->has_storm)
        cr_expect_gt(stop_signal_storm(storm), 0);
}

static void call_all_exactly(bool has_storm)
{
    struct exact exact = { .has_storm = has_storm, .pool = MAKE_POOL() };

    exact.peers[SILENT_PEER] = PEER(.behave = PEER_SILENT, .own_process = true);
    exact.peers[DRIPPING_PEER] = PEER(.behave = PEER_DRIP, .interval_ms = 15, .own_process = true);
    exact.peers[DEAF_PEER] = PEER(.behave = PEER_DEAF, .own_process = true);
    cr_assert(run_threads(KINDS * SPANS, call_exactly, &exact));
    cr_expect_geq(STAT(exact.pool, timeouts), KINDS * SPANS);
    pool_destroy(exact.pool);
    for (int i = 0; i < KINDS; i++)
        peer_stop(exact.peers[i]);
}

Test(pool_deadlines, no_call_is_more_than_20_ms_late, .timeout = 120)
{
    call_all_exactly(false);
}

/* EINTR a thousand times a second. */
Test(pool_deadlines, signals_make_no_call_late, .timeout = 120)
{
    call_all_exactly(true);
}

static int receive_one(struct pool_conn *conn, void *user)
{
    char byte;
    size_t got;

    (void)user;
    return pool_recv(conn, &byte, 1, &got);
}

static int ask_in_vain(struct pool_conn *conn, void *user)
{
    (void)user;
    return pool_send(conn, "hello", 5) || receive_one(conn, NULL);
}

/* Every operation draws on the same time. */
static int five_operations(struct pool_conn *conn, void *user)
{
    unsigned *done = user;

    for (*done = 0; *done < 5; ++*done)
        if (echo(conn, "slowly"))
            return -1;
    return 0;
}

Test(pool_deadlines, one_deadline_counts_for_all_operations_of_a_call)
{
    struct peer *peer = PEER(.behave = PEER_SLOW, .delay_ms = 100);
    struct pool *pool = MAKE_POOL();
    uint64_t start_ms = now_ms();
    unsigned done;

    cr_expect_eq(pool_communicate(pool, peer_address(peer), five_operations, &done,
                                  POOL_CALL(.timeout_ms = 350)),
                 POOL_E_TIMEOUT_IN_TRANSFER);
    cr_expect(IN_TIME(elapsed_ms(start_ms), 350));
    cr_expect_leq(done, 3);
    cr_expect_eq(talk(pool, peer_address(peer)), POOL_OK);
    pool_destroy(pool);
    peer_stop(peer);
}

/* On a warm connection the deadline is worked out later, but is the same. */
Test(pool_deadlines, a_warm_call_is_as_exact_as_a_cold_one)
{
    struct peer *peer = PEER();
    struct pool *pool = MAKE_POOL(.timeout_ms = 333);
    uint64_t start_ms;
    char byte;
    size_t got;

    for (int i = 0; i < 6; i++) {
        struct pool_conn conn;

        cr_assert_eq(talk(pool, peer_address(peer)), POOL_OK);
        cr_assert_eq(talk(pool, peer_address(peer)), POOL_OK);
        start_ms = now_ms();
        cr_assert_eq(pool_borrow(pool, peer_address(peer), NULL, &conn), POOL_OK);
        cr_expect_eq(pool_recv(&conn, &byte, 1, &got), POOL_E_TIMEOUT);
        cr_expect(IN_TIME(elapsed_ms(start_ms), 332));
        pool_return(&conn);
    }
    pool_destroy(pool);
    peer_stop(peer);
}

Test(pool_deadlines, a_point_in_time_bounds_a_call_like_a_span)
{
    struct peer *peer = PEER(.behave = PEER_SILENT);
    struct pool *pool = MAKE_POOL();

    for (int i = 0; i < 3; i++) {
        uint64_t start_ms = now_ms(), deadline_ns = (start_ms + 150) * 1000000;

        cr_expect_eq(pool_communicate(pool, peer_address(peer), ask_in_vain, NULL,
                                      POOL_CALL(.deadline_ns = deadline_ns,
                                                .timeout_ms = i == 1 ? POOL_NONE : 0)),
                     POOL_E_TIMEOUT_IN_TRANSFER);
        cr_expect(IN_TIME(elapsed_ms(start_ms), 149));
        cr_expect_eq(pool_communicate(pool, peer_address(peer), ask_in_vain, NULL,
                                      POOL_CALL(.deadline_ns = deadline_ns)),
                     POOL_E_TIMEOUT, "it is over");
    }
    pool_destroy(pool);
    peer_stop(peer);
}

/* ---- one stalling peer for each phase */

static int never_ready(struct pool_conn *conn, struct pool_actor *actor, void *user)
{
    (void)conn;
    (void)actor;
    (void)user;
    return POOL_LATER;
}

static int prepare_in_vain(struct pool_conn *conn, void *user)
{
    char byte;
    size_t got;

    (void)user;
    return pool_send(conn, "AUTH", 4) || pool_recv(conn, &byte, 1, &got);
}

static void expect_phase(struct pool *pool, struct peer *peer, pool_use_fn *use,
                         enum pool_status status, enum pool_phase phase)
{
    struct pool_error error = POOL_ERROR_INIT;
    uint64_t start_ms = now_ms(), spent_ms = 0;

    cr_expect_eq(pool_communicate(pool, peer_address(peer), use, NULL,
                                  POOL_CALL(.timeout_ms = 150, .error = &error)),
                 status);
    cr_expect(within(elapsed_ms(start_ms), 150, 550, "the phase"), "phase %d", phase);
    cr_expect_eq(error.status, status, "phase %d", phase);
    cr_expect_eq(error.phase, phase, "phase %d, not %d", error.phase, phase);
    cr_expect_eq(error.cause, ETIMEDOUT, "phase %d", phase);
    for (int i = 0; i < 8; i++)
        spent_ms += error.spent_ms[i];
    cr_expect(within(spent_ms, 140, 550, "spent"), "phase %d", phase);
    cr_expect_gt(error.spent_ms[phase], 0, "phase %d", phase);
    cr_expect_not_null(strstr(error.text, peer_address(peer)), "%s", error.text);
    cr_expect_not_null(strstr(error.text, " ms"), "%s", error.text);
}

Test(pool_deadlines, a_timeout_names_the_phase_it_came_in)
{
    struct peer *silent = PEER(.behave = PEER_SILENT), *hung = PEER(.behave = PEER_NEVER_ACCEPT);
    struct pool *plain = MAKE_POOL(.max_per_address = 1),
                *hooked = MAKE_POOL(.on_new_connection = never_ready);
    struct pool *prepared = MAKE_POOL(.prepare = prepare_in_vain);
    struct pool_conn conn;

    expect_phase(plain, hung, do_nothing, POOL_E_TIMEOUT, POOL_PHASE_CONNECT);
    expect_phase(hooked, silent, do_nothing, POOL_E_TIMEOUT, POOL_PHASE_SETUP);
    expect_phase(prepared, silent, do_nothing, POOL_E_TIMEOUT_IN_TRANSFER, POOL_PHASE_SETUP);
    expect_phase(plain, silent, receive_one, POOL_E_TIMEOUT, POOL_PHASE_USE);
    expect_phase(plain, silent, ask_in_vain, POOL_E_TIMEOUT_IN_TRANSFER, POOL_PHASE_USE);
    cr_assert(borrow(plain, peer_address(silent), &conn));
    expect_phase(plain, silent, do_nothing, POOL_E_TIMEOUT, POOL_PHASE_WAIT);
    pool_return(&conn);
    pool_destroy(plain);
    pool_destroy(hooked);
    pool_destroy(prepared);
    peer_stop(silent);
    peer_stop(hung);
}

/* ---- the bounds of single steps */

Test(pool_deadlines, connect_ms_ends_an_attempt_before_the_call)
{
    struct peer *peer = PEER(.behave = PEER_NEVER_ACCEPT);
    struct pool *pool = MAKE_POOL(.connect_ms = 100);
    struct pool_error error = POOL_ERROR_INIT;
    struct pool_conn conn;
    uint64_t start_ms = now_ms();

    cr_expect_eq(pool_borrow(pool, peer_address(peer), POOL_CALL(.error = &error), &conn),
                 POOL_E_TIMEOUT);
    cr_expect(IN_TIME(elapsed_ms(start_ms), 100));
    cr_expect_eq(error.phase, POOL_PHASE_CONNECT);
    cr_expect_eq(error.outcome, POOL_NOT_SENT);
    pool_destroy(pool);
    peer_stop(peer);
}

/* An earlier caller left its dial behind. */
Test(pool_deadlines, who_comes_while_a_dial_is_under_way_has_all_of_connect_ms)
{
    struct peer *peer = PEER(.behave = PEER_NEVER_ACCEPT);
    struct pool *pool = MAKE_POOL(.connect_ms = 400, .suspend_after = POOL_NONE);
    struct pool_error error = POOL_ERROR_INIT;
    struct pool_conn conn;
    uint64_t start_ms;

    cr_expect_eq(pool_borrow(pool, peer_address(peer), POOL_CALL(.timeout_ms = 200), &conn),
                 POOL_E_TIMEOUT);
    start_ms = now_ms();
    cr_expect_eq(pool_borrow(pool, peer_address(peer), POOL_CALL(.error = &error), &conn),
                 POOL_E_TIMEOUT);
    cr_expect_geq(elapsed_ms(start_ms), 400, "%s", error.text);
    cr_expect_eq(error.phase, POOL_PHASE_CONNECT);
    pool_destroy(pool);
    peer_stop(peer);
}

Test(pool_deadlines, read_ms_ends_a_receiving_call_before_the_call)
{
    struct peer *peer = PEER(.behave = PEER_SILENT);
    struct pool *pool = MAKE_POOL(.read_ms = 120);
    uint64_t start_ms = now_ms();

    cr_expect_eq(pool_communicate(pool, peer_address(peer), ask_in_vain, NULL, NULL),
                 POOL_E_TIMEOUT_IN_TRANSFER);
    cr_expect(IN_TIME(elapsed_ms(start_ms), 120));
    pool_destroy(pool);
    peer_stop(peer);
}

Test(pool_deadlines, write_ms_ends_a_sending_call_before_the_call)
{
    struct peer *peer = PEER(.behave = PEER_DEAF);
    struct pool *pool = MAKE_POOL(.write_ms = 120);
    uint64_t start_ms = now_ms();

    cr_expect_eq(pool_communicate(pool, peer_address(peer), send_for_ever, NULL, NULL),
                 POOL_E_TIMEOUT_IN_TRANSFER);
    cr_expect(IN_TIME(elapsed_ms(start_ms), 120));
    pool_destroy(pool);
    peer_stop(peer);
}

/* read_ms bounds each receiving call anew, the deadline all of them */
Test(pool_deadlines, the_earlier_of_two_bounds_counts)
{
    struct peer *peer = PEER(.behave = PEER_SLOW, .delay_ms = 100);
    struct pool *pool = MAKE_POOL(.read_ms = 400);
    unsigned done;

    cr_expect_eq(pool_communicate(pool, peer_address(peer), five_operations, &done, NULL), POOL_OK);
    cr_expect_eq(done, 5);
    pool_destroy(pool);
    peer_stop(peer);
}

static void *wake_later(void *argument)
{
    struct peer *peer = argument;

    cr_expect(peer_wait_requests(peer, 1, VERBS_SOON));
    peer_push(peer, 0, "x", 1);
    return NULL;
}

Test(pool_deadlines, without_a_deadline_a_call_waits_for_ever)
{
    struct peer *peer = PEER(.behave = PEER_SILENT);
    struct pool *pool = MAKE_POOL(.timeout_ms = 10);
    pthread_t thread;

    cr_assert_eq(pthread_create(&thread, NULL, wake_later, peer), 0);
    cr_expect_eq(pool_communicate(pool, peer_address(peer), ask_in_vain, NULL,
                                  POOL_CALL(.timeout_ms = POOL_NONE)),
                 POOL_OK);
    pthread_join(thread, NULL);
    pool_destroy(pool);
    peer_stop(peer);
}

Test(pool_deadlines, no_time_at_all_takes_only_what_is_idle)
{
    struct peer *peer = PEER();
    struct pool *pool = MAKE_POOL();
    struct pool_call *call = POOL_CALL(.timeout_ms = POOL_ZERO);
    struct pool_conn conn;

    cr_expect_eq(pool_borrow(pool, peer_address(peer), call, &conn), POOL_E_TIMEOUT);
    cr_assert_eq(talk(pool, peer_address(peer)), POOL_OK);
    cr_assert_eq(pool_borrow(pool, peer_address(peer), call, &conn), POOL_OK);
    cr_expect_eq(pool_return(&conn), POOL_OK);
    pool_destroy(pool);
    peer_stop(peer);
}

/* ---- what a timeout leaves behind */

struct half {
    size_t sent, got;
};

static int exchange_half(struct pool_conn *conn, void *user)
{
    struct half *half = user;
    char bytes[64];

    if (half->sent && pool_send(conn, "0123456789", half->sent))
        return -1;
    if (half->got && pool_recv_exact(conn, bytes, half->got))
        return -1;
    return pool_recv_exact(conn, bytes, 50);
}

Test(pool_deadlines, timed_out_and_timed_out_in_transfer_are_told_apart_and_both_close)
{
    static const struct {
        struct half half;
        enum pool_status status;
        enum pool_outcome outcome;
    } rows[] = {
        { { 0, 0 }, POOL_E_TIMEOUT, POOL_NOT_SENT },
        { { 10, 0 }, POOL_E_TIMEOUT_IN_TRANSFER, POOL_ANSWERED },
        { { 10, 4 }, POOL_E_TIMEOUT_IN_TRANSFER, POOL_ANSWERED },
        { { 10, 10 }, POOL_E_TIMEOUT_IN_TRANSFER, POOL_ANSWERED },
    };
    struct pool_error error = POOL_ERROR_INIT;
    struct peer *peer = PEER();
    struct pool *pool = MAKE_POOL();

    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
        struct half half = rows[i].half;

        cr_expect_eq(pool_communicate(pool, peer_address(peer), exchange_half, &half,
                                      POOL_CALL(.timeout_ms = 60 * slowness(), .error = &error)),
                     rows[i].status);
        cr_expect_eq(error.outcome, rows[i].outcome, "row %zu", i);
        cr_expect(peer_wait_open(peer, 0, VERBS_SOON), "row %zu", i);
        cr_expect_eq(STAT(pool, total), 0);
    }
    pool_destroy(pool);
    peer_stop(peer);
}

/* The frame stalls before anything came. */
Test(pool_deadlines, a_request_without_any_answer_may_have_been_seen)
{
    struct pool_error error = POOL_ERROR_INIT;
    struct peer *peer = PEER(.behave = PEER_SILENT);
    struct pool *pool = MAKE_POOL();

    cr_expect_eq(pool_communicate(pool, peer_address(peer), ask_in_vain, NULL,
                                  POOL_CALL(.timeout_ms = 50, .error = &error)),
                 POOL_E_TIMEOUT_IN_TRANSFER);
    cr_expect_eq(error.outcome, POOL_MAYBE_SENT);
    pool_destroy(pool);
    peer_stop(peer);
}
