/* test_ticket.c: canceling: at every point of a call, by anybody, and what the answer promises. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "pool/ticket.h"
#include "support/asks.h"
#include "support/peer.h"
#include "support/tests.h"

static void expect_told_once(struct ask *ask, enum pool_status status)
{
    cr_assert(wait_told(ask));
    cr_expect_eq(ask->told, 1);
    cr_expect_eq(ask->status, status, "%s: %s", pool_status_name(ask->status), ask->error.text);
    cr_expect_lt(ask->took_ms, VERBS_SOON / 2, "it was told late");
}

/* ---- asynchronous calls, point by point */

Test(ticket, cancels_one_that_is_queued_and_the_others_keep_their_places)
{
    struct peer *peer = PEER();
    struct pool *pool = MAKE_POOL(.max_per_address = 1, .barge_ms = POOL_ZERO);
    struct ask first = { .is_kept = true }, canceled = { 0 }, last = { .is_kept = true };
    struct pool_conn conn;

    cr_assert(borrow(pool, peer_address(peer), &conn));
    cr_assert_eq(start_ask_with_ticket(&first, pool, peer_address(peer), NULL), POOL_OK);
    cr_assert_eq(start_ask_with_ticket(&canceled, pool, peer_address(peer), NULL), POOL_OK);
    cr_assert_eq(start_ask_with_ticket(&last, pool, peer_address(peer), NULL), POOL_OK);
    cr_expect(pool_ticket_cancel(canceled.ticket));
    expect_told_once(&canceled, POOL_E_CANCELED);
    cr_expect_eq(canceled.error.outcome, POOL_NOT_SENT);
    cr_expect_not_null(strstr(canceled.error.text, peer_address(peer)));
    cr_expect_not(pool_ticket_cancel(canceled.ticket), "it is over");
    cr_expect_eq(STAT(pool, waiting), 2);
    cr_assert_eq(pool_return(&conn), POOL_OK);
    expect_told_once(&first, POOL_OK);
    cr_expect_eq(last.told, 0);
    cr_assert_eq(pool_return(&first.conn), POOL_OK);
    expect_told_once(&last, POOL_OK);
    cr_assert_eq(pool_return(&last.conn), POOL_OK);
    cr_expect_eq(STAT(pool, opened), 1);
    pool_ticket_free(first.ticket);
    pool_ticket_free(canceled.ticket);
    pool_ticket_free(last.ticket);
    pool_destroy(pool);
    peer_stop(peer);
}

Test(ticket, cancels_one_that_connects)
{
    struct peer *peer = PEER(.behave = PEER_NEVER_ACCEPT);
    struct pool *pool = MAKE_POOL();
    struct ask ask = { 0 };

    cr_assert_eq(start_ask_with_ticket(&ask, pool, peer_address(peer), NULL), POOL_OK);
    cr_expect(WAIT_STAT(pool, opening, 1));
    cr_expect(pool_ticket_cancel(ask.ticket));
    expect_told_once(&ask, POOL_E_CANCELED);
    pool_ticket_free(ask.ticket);
    pool_destroy(pool);
    peer_stop(peer);
}

static int set_up_for_ever(struct pool_conn *conn, struct pool_actor *actor, void *user)
{
    (void)conn, (void)actor, (void)user;
    return POOL_LATER;
}

Test(ticket, cancels_one_whose_connection_is_set_up)
{
    struct peer *peer = PEER();
    struct pool *pool = MAKE_POOL(.on_new_connection = set_up_for_ever);
    struct ask ask = { 0 };

    cr_assert_eq(start_ask_with_ticket(&ask, pool, peer_address(peer), NULL), POOL_OK);
    cr_expect(peer_wait_accepted(peer, 1, VERBS_SOON));
    cr_expect(pool_ticket_cancel(ask.ticket));
    expect_told_once(&ask, POOL_E_CANCELED);
    pool_ticket_free(ask.ticket);
    pool_destroy(pool);
    peer_stop(peer);
}

static int listen_in_vain(struct pool_conn *conn, void *user)
{
    char byte;
    size_t got;

    (void)user;
    return pool_send(conn, "HELLO", 5) || pool_recv(conn, &byte, 1, &got) ? 1 : 0;
}

Test(ticket, cancels_one_that_a_worker_prepares)
{
    struct peer *peer = PEER(.behave = PEER_SILENT);
    struct pool *pool = MAKE_POOL(.prepare = listen_in_vain);
    struct ask ask = { 0 };

    cr_assert_eq(start_ask_with_ticket(&ask, pool, peer_address(peer), NULL), POOL_OK);
    cr_expect(peer_wait_bytes_in(peer, 5, VERBS_SOON));
    cr_expect(pool_ticket_cancel(ask.ticket));
    expect_told_once(&ask, POOL_E_CANCELED);
    cr_expect(WAIT_STAT(pool, total, 0));
    pool_ticket_free(ask.ticket);
    pool_destroy(pool);
    peer_stop(peer);
}

/* Between the grant and on_lent: whoever drives the mux himself can stand there as long as he
 * likes. */
Test(ticket, cancels_one_that_was_granted_and_not_delivered)
{
    struct peer *peer = PEER();
    struct ask ask = { 0 };
    struct pool_mux *mux;
    struct pool *pool;

    cr_assert_eq(pool_mux_create(&mux), POOL_OK);
    pool = MAKE_POOL(.mux = mux);
    cr_assert_eq(start_ask(&ask, pool, peer_address(peer), NULL), POOL_OK);
    cr_assert(dispatch_until_told(mux, &ask));
    ask = (struct ask){ 0 };
    cr_assert_eq(start_ask_with_ticket(&ask, pool, peer_address(peer), NULL), POOL_OK);
    cr_expect_eq(STAT(pool, lent), 1);
    cr_expect(pool_ticket_cancel(ask.ticket));
    cr_assert(dispatch_until_told(mux, &ask));
    cr_expect_eq(ask.status, POOL_E_CANCELED);
    cr_expect_eq(STAT(pool, idle), 1, "it went back to the pool");
    cr_expect_eq(STAT(pool, closed[POOL_CLOSE_DIRTY]), 0);
    pool_ticket_free(ask.ticket);
    pool_destroy(pool);
    pool_mux_destroy(mux);
    peer_stop(peer);
}

static atomic_bool may_finish;

static bool is_set(void *argument)
{
    return atomic_load((atomic_bool *)argument);
}

static atomic_bool is_prepared;

static int prepare_well(struct pool_conn *conn, void *user)
{
    (void)conn, (void)user;
    atomic_store(&is_prepared, true);
    return 0;
}

/* The worker is done, and the mux has not heard of it yet. */
Test(ticket, cancels_one_that_is_prepared_and_not_delivered)
{
    struct peer *peer = PEER();
    struct ask ask = { 0 };
    struct pool_mux *mux;
    struct pool *pool;
    uint64_t start_ms;

    cr_assert_eq(pool_mux_create(&mux), POOL_OK);
    pool = MAKE_POOL(.mux = mux, .prepare = prepare_well);
    cr_assert_eq(start_ask_with_ticket(&ask, pool, peer_address(peer), NULL), POOL_OK);
    for (start_ms = now_ms(); !STAT(pool, lent) && elapsed_ms(start_ms) < VERBS_SOON;)
        cr_assert_eq(pool_mux_dispatch(mux, 10), POOL_OK);
    cr_assert(wait_until(is_set, &is_prepared, VERBS_SOON));
    cr_expect(pool_ticket_cancel(ask.ticket));
    cr_assert(dispatch_until_told(mux, &ask));
    cr_expect_eq(ask.status, POOL_E_CANCELED, "%s", pool_status_name(ask.status));
    cr_expect_eq(STAT(pool, lent), 0);
    pool_ticket_free(ask.ticket);
    pool_destroy(pool);
    pool_mux_destroy(mux);
    peer_stop(peer);
}

struct watching {
    struct ask ask;
    atomic_uint events, last;
    enum pool_event event;
    enum pool_status status;
};

static void on_event(struct pool_conn *conn, enum pool_event event, struct pool_bytes bytes,
                     void *user)
{
    struct watching *watching = user;
    struct pool_error error = POOL_ERROR_INIT;

    (void)bytes;
    atomic_fetch_add(&watching->events, 1);
    if (event != POOL_EV_ERROR && event != POOL_EV_CLOSED)
        return;
    watching->event = event;
    pool_conn_error(conn, &error);
    watching->status = error.status;
    cr_expect_eq(pool_return(conn), POOL_OK);
    atomic_fetch_add(&watching->last, 1);
}

static void watch(struct ask *ask)
{
    cr_expect_eq(pool_conn_watch(&ask->conn, on_event, ask->user), POOL_OK);
}

static bool had_last(void *argument)
{
    return atomic_load(&((struct watching *)argument)->last) > 0;
}

Test(ticket, cancels_a_loan_in_event_driven_use)
{
    struct peer *peer = PEER(.behave = PEER_SILENT);
    struct pool *pool = MAKE_POOL();
    struct watching watching = { .ask = { .is_kept = true, .then = watch } };

    watching.ask.user = &watching;
    cr_assert_eq(start_ask_with_ticket(&watching.ask, pool, peer_address(peer), NULL), POOL_OK);
    expect_told_once(&watching.ask, POOL_OK);
    cr_expect(pool_ticket_cancel(watching.ask.ticket));
    cr_expect(wait_until(had_last, &watching, VERBS_SOON));
    cr_expect_eq(watching.event, POOL_EV_ERROR);
    cr_expect_eq(watching.status, POOL_E_CANCELED);
    cr_expect_eq(watching.last, 1);
    cr_expect_eq(watching.ask.told, 1);
    cr_expect(WAIT_STAT(pool, total, 0));
    cr_expect_not(pool_ticket_cancel(watching.ask.ticket), "it was returned");
    pool_ticket_free(watching.ask.ticket);
    pool_destroy(pool);
    peer_stop(peer);
}

Test(ticket, is_too_late_once_the_connection_was_returned)
{
    struct peer *peer = PEER();
    struct pool *pool = MAKE_POOL();
    struct ask ask = { 0 };

    cr_assert_eq(start_ask_with_ticket(&ask, pool, peer_address(peer), NULL), POOL_OK);
    expect_told_once(&ask, POOL_OK);
    cr_expect_not(pool_ticket_cancel(ask.ticket));
    cr_expect_not(pool_ticket_cancel(NULL));
    cr_expect_eq(id_of_next(pool, peer_address(peer)), ask.id, "the connection is untouched");
    pool_ticket_free(ask.ticket);
    pool_ticket_free(NULL);
    pool_destroy(pool);
    peer_stop(peer);
}

Test(ticket, may_be_freed_before_the_end_and_the_call_goes_on)
{
    struct peer *peer = PEER();
    struct pool *pool = MAKE_POOL(.max_per_address = 1);
    struct ask ask = { 0 };
    struct pool_conn conn;

    cr_assert(borrow(pool, peer_address(peer), &conn));
    cr_assert_eq(start_ask_with_ticket(&ask, pool, peer_address(peer), NULL), POOL_OK);
    pool_ticket_free(ask.ticket);
    cr_assert_eq(pool_return(&conn), POOL_OK);
    expect_told_once(&ask, POOL_OK);
    pool_destroy(pool);
    peer_stop(peer);
}

/* ---- from callbacks */

static void cancel_another(struct ask *ask)
{
    struct ask *other = ask->user;

    cr_expect(pool_ticket_cancel(other->ticket));
    cr_expect_eq(other->told, 0, "never on the stack of the call");
}

static void cancel_itself(struct ask *ask)
{
    cr_expect(pool_ticket_cancel(ask->ticket), "it has the connection");
    cr_expect_eq(pool_send(&ask->conn, "x", 1), POOL_E_CANCELED);
    cr_expect_eq(pool_return(&ask->conn), POOL_OK);
    pool_ticket_free(ask->ticket);
}

Test(ticket, cancels_from_on_lent_others_and_itself)
{
    struct peer *peer = PEER();
    struct pool *pool = MAKE_POOL(.max_per_address = 1);
    struct ask second = { 0 }, third = { .is_kept = true, .then = cancel_itself };
    struct ask first = { .then = cancel_another, .user = &second };
    struct pool_conn conn;

    cr_assert(borrow(pool, peer_address(peer), &conn));
    cr_assert_eq(start_ask_with_ticket(&first, pool, peer_address(peer), NULL), POOL_OK);
    first.is_kept = true;
    cr_assert_eq(start_ask_with_ticket(&second, pool, peer_address(peer), NULL), POOL_OK);
    cr_assert_eq(start_ask_with_ticket(&third, pool, peer_address(peer), NULL), POOL_OK);
    cr_assert_eq(pool_return(&conn), POOL_OK);
    expect_told_once(&first, POOL_OK);
    expect_told_once(&second, POOL_E_CANCELED);
    cr_assert_eq(pool_return(&first.conn), POOL_OK);
    expect_told_once(&third, POOL_OK);
    pool_ticket_free(first.ticket);
    pool_ticket_free(second.ticket);
    pool_destroy(pool);
    peer_stop(peer);
}

/* What was granted was no good, and it waits again: it can still be canceled. */
Test(ticket, cancels_one_that_queued_again)
{
    struct peer *peer = PEER();
    struct ask ask = { 0 };
    struct pool_conn conn;
    struct pool_mux *mux;
    struct pool *pool;

    cr_assert_eq(pool_mux_create(&mux), POOL_OK);
    pool =
        MAKE_POOL(.mux = mux, .max_per_address = 1, .park_ms = POOL_NONE, .connect_ms = POOL_NONE);
    cr_assert_eq(start_ask(&ask, pool, peer_address(peer), NULL), POOL_OK);
    cr_assert(dispatch_until_told(mux, &ask));
    cr_assert_eq(pool_borrow(pool, peer_address(peer), NULL, &conn), POOL_OK);
    ask = (struct ask){ 0 };
    cr_assert_eq(start_ask_with_ticket(&ask, pool, peer_address(peer), NULL), POOL_OK);
    peer_set_behaviour(peer, PEER_NEVER_ACCEPT);
    cr_assert_eq(pool_return(&conn), POOL_OK);
    peer_close_all(peer);
    cr_expect(peer_wait_open(peer, 0, VERBS_SOON));
    while (STAT(pool, waiting) != 1)
        cr_assert_eq(pool_mux_dispatch(mux, 10), POOL_OK);
    cr_expect(pool_ticket_cancel(ask.ticket));
    cr_assert(dispatch_until_told(mux, &ask));
    cr_expect_eq(ask.status, POOL_E_CANCELED);
    cr_expect_lt(ask.took_ms, VERBS_SOON / 2);
    pool_ticket_free(ask.ticket);
    pool_destroy(pool);
    pool_mux_destroy(mux);
    peer_stop(peer);
}

/* Canceled between its grant and its loan, it gives the connection back: a second cancel meanwhile
 * must not reach who has it then. */
Test(ticket, canceled_again_ends_no_loan_of_anothers)
{
    struct peer *peer = PEER();
    struct pool *pool = MAKE_POOL(.check = POOL_CHECK_NEVER);
    struct pool_ticket *ticket, *given;
    struct pool_conn conn;

    cr_assert_eq(pl_ticket_make(&ticket, &given), POOL_OK);
    cr_assert(borrow(pool, peer_address(peer), &conn));
    cr_expect(pool_ticket_cancel(given));
    cr_expect_not(pl_ticket_take(ticket, &conn));
    cr_expect(pool_ticket_cancel(given));
    cr_expect_eq(echo(&conn, "another's now"), 0);
    cr_expect_eq(pool_return(&conn), POOL_OK);
    pl_ticket_unref(ticket);
    pool_ticket_free(given);
    pool_destroy(pool);
    peer_stop(peer);
}

/* ---- ten thousand random moments */

struct race {
    struct ask ask;
    unsigned spins;
    bool was_in_time;
};

static struct race *_Atomic raced;
static atomic_bool races_are_over;

static void *cancel_races(void *argument)
{
    (void)argument;
    while (!atomic_load(&races_are_over)) {
        struct race *race = atomic_exchange(&raced, NULL);

        if (!race)
            continue;
        for (volatile unsigned i = 0; i < race->spins; i++)
            ;
        race->was_in_time = pool_ticket_cancel(race->ask.ticket);
        atomic_store(&may_finish, true);
    }
    return NULL;
}

Test(ticket, canceled_at_any_moment_is_one_answer_and_what_cancel_said, .timeout = 300)
{
    enum { RACES = 10000 };
    struct peer *peer = PEER();
    struct pool *pool = MAKE_POOL(.max_per_address = 2);
    unsigned canceled = 0, timed_out = 0, served = 0, seed = 7;
    pthread_t canceler;

    cr_assert_eq(pthread_create(&canceler, NULL, cancel_races, NULL), 0);
    for (unsigned i = 0; i < RACES / slowness(); i++) {
        struct race race = { .spins = (unsigned)rand_r(&seed) % 20000 };
        struct pool_call *call = POOL_CALL(.timeout_ms = i % 5 ? VERBS_SOON : 1);

        atomic_store(&may_finish, false);
        cr_assert_eq(start_ask_with_ticket(&race.ask, pool, peer_address(peer), call), POOL_OK);
        atomic_store(&raced, &race);
        cr_assert(wait_told(&race.ask));
        while (!atomic_load(&may_finish))
            ;
        canceled += race.ask.status == POOL_E_CANCELED;
        timed_out += race.ask.status == POOL_E_TIMEOUT;
        served += race.ask.status == POOL_OK;
        cr_expect_eq(race.ask.told, 1);
        if (race.ask.status == POOL_E_CANCELED)
            cr_expect(race.was_in_time);
        if (race.ask.status == POOL_E_TIMEOUT)
            cr_expect_not(race.was_in_time);
        /* Lent, then canceled: in use, until it was returned at once. */
        pool_ticket_free(race.ask.ticket);
    }
    atomic_store(&races_are_over, true);
    pthread_join(canceler, NULL);
    cr_expect_gt(canceled, 0);
    cr_expect_gt(served, 0);
    cr_expect(WAIT_STAT(pool, lent, 0));
    cr_expect_eq(STAT(pool, waiting), 0);
    pool_destroy(pool);
    peer_stop(peer);
    (void)timed_out;
}
