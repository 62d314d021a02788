/* test_ticket_blocking.c: canceling calls that block, from another thread. */
#include <criterion/criterion.h>
#include <string.h>

#include "support/asks.h"
#include "support/peer.h"
#include "support/tests.h"

/* A thread that communicates, with a ticket for the others. */
struct talker {
    struct pool *pool;
    const char *address;
    pool_use_fn *use; /* NULL: touches nothing */
    struct pool_ticket *ticket; /* once it waits, connects or uses */
    struct pool_error error;
    enum pool_status status;
    uint64_t took_ms;
    atomic_bool is_in_use, may_go_on;
    enum pool_status io;
    pthread_t thread;
};

static int use_nothing(struct pool_conn *conn, void *user)
{
    (void)conn;
    atomic_store(&((struct talker *)user)->is_in_use, true);
    return 0;
}

static void *talk_on(void *argument)
{
    struct talker *talker = argument;
    uint64_t start_ms = now_ms();

    talker->error.size = sizeof(talker->error);
    talker->status = pool_communicate(
        talker->pool, talker->address, talker->use ? talker->use : use_nothing, talker,
        POOL_CALL(.timeout_ms = VERBS_SOON, .error = &talker->error, .ticket = &talker->ticket));
    talker->took_ms = elapsed_ms(start_ms);
    return NULL;
}

static bool start_talker(struct talker *talker)
{
    return pthread_create(&talker->thread, NULL, talk_on, talker) == 0;
}

static void join_talker(struct talker *talker)
{
    pthread_join(talker->thread, NULL);
}

static void expect_canceled(struct talker *talker)
{
    cr_expect(pool_ticket_cancel(talker->ticket));
    join_talker(talker);
    cr_expect_eq(talker->status, POOL_E_CANCELED, "%s", pool_status_name(talker->status));
    cr_expect_eq(talker->error.status, POOL_E_CANCELED);
    cr_expect_lt(talker->took_ms, VERBS_SOON / 2);
    cr_expect_not(pool_ticket_cancel(talker->ticket), "it is over");
    pool_ticket_free(talker->ticket);
}

static bool is_in_use(void *argument)
{
    return atomic_load(&((struct talker *)argument)->is_in_use);
}

Test(ticket_blocking, cancels_who_waits)
{
    struct peer *peer = PEER();
    struct pool *pool = MAKE_POOL(.max_per_address = 1);
    struct talker talker = { .pool = pool, .address = peer_address(peer) };
    struct pool_conn conn;

    cr_assert(borrow(pool, peer_address(peer), &conn));
    cr_assert(start_talker(&talker));
    cr_assert(WAIT_STAT(pool, waiting, 1));
    expect_canceled(&talker);
    cr_expect_eq(talker.error.outcome, POOL_NOT_SENT);
    cr_expect_eq(STAT(pool, waiting), 0);
    cr_expect_not(talker.is_in_use);
    cr_expect_eq(pool_return(&conn), POOL_OK);
    cr_expect_eq(id_of_next(pool, peer_address(peer)), 1);
    pool_destroy(pool);
    peer_stop(peer);
}

static void *cancel_when_seen(void *argument)
{
    struct pool_ticket **place = argument, *ticket;

    while (!(ticket = __atomic_load_n(place, __ATOMIC_ACQUIRE)))
        sched_yield();
    cr_expect(pool_ticket_cancel(ticket));
    return NULL;
}

Test(ticket_blocking, another_thread_may_cancel_as_soon_as_it_sees_the_ticket)
{
    struct peer *peer = PEER();
    struct pool *pool = MAKE_POOL(.max_per_address = 1);
    struct pool_conn conn, none;
    struct pool_ticket *ticket;
    pthread_t thread;

    cr_assert(borrow(pool, peer_address(peer), &conn));
    for (unsigned i = 0; i < 200; i++) {
        ticket = NULL;
        cr_assert_eq(pthread_create(&thread, NULL, cancel_when_seen, &ticket), 0);
        cr_expect_eq(pool_borrow(pool, peer_address(peer),
                                 POOL_CALL(.timeout_ms = VERBS_SOON, .ticket = &ticket), &none),
                     POOL_E_CANCELED);
        pthread_join(thread, NULL);
        pool_ticket_free(ticket);
    }
    cr_expect_eq(pool_return(&conn), POOL_OK);
    pool_destroy(pool);
    peer_stop(peer);
}

Test(ticket_blocking, cancels_who_connects)
{
    struct peer *peer = PEER(.behave = PEER_NEVER_ACCEPT);
    struct pool *pool = MAKE_POOL();
    struct talker talker = { .pool = pool, .address = peer_address(peer) };

    cr_assert(start_talker(&talker));
    cr_assert(WAIT_STAT(pool, opening, 1));
    expect_canceled(&talker);
    pool_destroy(pool);
    peer_stop(peer);
}

static int listen_in_vain(struct pool_conn *conn, void *user)
{
    struct talker *talker = user;
    size_t got;
    char byte;
    enum pool_status status = pool_send(conn, "HELLO", 5);

    if (!status)
        status = pool_recv(conn, &byte, 1, &got);
    if (talker)
        talker->io = status;
    return status != POOL_OK;
}

Test(ticket_blocking, cancels_who_prepares)
{
    struct peer *peer = PEER(.behave = PEER_SILENT);
    struct pool *pool = MAKE_POOL(.prepare = listen_in_vain);
    struct talker talker = { .pool = pool, .address = peer_address(peer) };

    cr_assert(start_talker(&talker));
    cr_expect(peer_wait_bytes_in(peer, 5, VERBS_SOON));
    expect_canceled(&talker);
    cr_expect_eq(talker.error.phase, POOL_PHASE_SETUP);
    cr_expect_eq(STAT(pool, total), 0);
    pool_destroy(pool);
    peer_stop(peer);
}

static int fail_to_prepare(struct pool_conn *conn, void *user)
{
    (void)conn;
    (void)user;
    return -1;
}

static enum pool_decision cancel_and_go_on(const struct pool_error *error, void *user)
{
    struct talker *talker = user;

    (void)error;
    if (!atomic_exchange(&talker->is_in_use, true))
        cr_expect(pool_ticket_cancel(talker->ticket));
    return POOL_CONTINUE;
}

Test(ticket_blocking, cancels_between_two_attempts_of_which_one_failed_to_prepare)
{
    struct peer *peer = PEER();
    struct talker talker = { .ticket = NULL };
    struct pool *pool = MAKE_POOL(.prepare = fail_to_prepare, .on_error = cancel_and_go_on,
                                  .user = &talker);
    struct pool_conn conn;

    cr_expect_eq(pool_borrow(pool, peer_address(peer), POOL_CALL(.ticket = &talker.ticket), &conn),
                 POOL_E_CANCELED);
    cr_expect_eq(STAT(pool, opened), 1);
    cr_expect_not(pool_ticket_cancel(talker.ticket), "it is over");
    pool_ticket_free(talker.ticket);
    pool_destroy(pool);
    peer_stop(peer);
}

Test(ticket_blocking, wakes_who_is_blocked_inside_use)
{
    struct peer *peer = PEER(.behave = PEER_SILENT);
    struct pool *pool = MAKE_POOL();
    struct talker talker = { .pool = pool, .address = peer_address(peer), .use = listen_in_vain };

    cr_assert(start_talker(&talker));
    cr_expect(peer_wait_bytes_in(peer, 5, VERBS_SOON));
    expect_canceled(&talker);
    cr_expect_eq(talker.io, POOL_E_CANCELED);
    cr_expect_eq(talker.error.phase, POOL_PHASE_USE);
    cr_expect_eq(talker.error.outcome, POOL_MAYBE_SENT);
    cr_expect_eq(STAT(pool, total), 0);
    pool_destroy(pool);
    peer_stop(peer);
}

static int wait_without_io(struct pool_conn *conn, void *user)
{
    struct talker *talker = user;

    (void)conn;
    atomic_store(&talker->is_in_use, true);
    while (!atomic_load(&talker->may_go_on))
        ;
    return 0;
}

/* Cancel said true: so it was canceled, however content `use` was. */
Test(ticket_blocking, holds_although_use_ends_well)
{
    struct peer *peer = PEER();
    struct pool *pool = MAKE_POOL();
    struct talker talker = { .pool = pool, .address = peer_address(peer), .use = wait_without_io };

    cr_assert(start_talker(&talker));
    cr_assert(wait_until(is_in_use, &talker, VERBS_SOON));
    cr_expect(pool_ticket_cancel(talker.ticket));
    cr_expect(pool_ticket_cancel(talker.ticket), "as often as one likes");
    atomic_store(&talker.may_go_on, true);
    join_talker(&talker);
    cr_expect_eq(talker.status, POOL_E_CANCELED);
    cr_expect_eq(STAT(pool, total), 0);
    pool_ticket_free(talker.ticket);
    pool_destroy(pool);
    peer_stop(peer);
}

Test(ticket_blocking, too_late_changes_nothing)
{
    struct peer *peer = PEER();
    struct pool *pool = MAKE_POOL();
    struct talker talker = { .pool = pool, .address = peer_address(peer) };

    cr_assert(start_talker(&talker));
    join_talker(&talker);
    cr_expect_eq(talker.status, POOL_OK);
    cr_expect_not(pool_ticket_cancel(talker.ticket));
    cr_expect_eq(id_of_next(pool, peer_address(peer)), 1);
    pool_ticket_free(talker.ticket);
    pool_destroy(pool);
    peer_stop(peer);
}

static struct talker *_Atomic watched;
static atomic_uint tries, in_time;

static void cancel_when_returned(const struct pool_event_info *event, void *user)
{
    struct talker *talker = atomic_load(&watched);

    (void)user;
    if (event->kind != POOL_EVENT_RETURNED || !talker)
        return;
    atomic_fetch_add(&tries, 1);
    atomic_fetch_add(&in_time, pool_ticket_cancel(talker->ticket));
}

static int echo_once(struct pool_conn *conn, void *user)
{
    (void)user;
    return echo(conn, "answered");
}

/* Else the caller would read that nothing was sent, and send it again. */
Test(ticket_blocking, is_too_late_once_use_went_well)
{
    struct peer *peer = PEER();
    struct pool *pool = MAKE_POOL(.on_event = cancel_when_returned);
    struct talker talker = { .pool = pool, .address = peer_address(peer), .use = echo_once };

    atomic_store(&watched, &talker);
    cr_assert(start_talker(&talker));
    join_talker(&talker);
    cr_expect_eq(atomic_load(&tries), 1);
    cr_expect_eq(atomic_load(&in_time), 0, "it was answered");
    cr_expect_eq(talker.status, POOL_OK);
    atomic_store(&watched, NULL);
    pool_ticket_free(talker.ticket);
    pool_destroy(pool);
    peer_stop(peer);
}

static int send_and_give_away(struct pool_conn *conn, void *user)
{
    struct talker *talker = user;

    cr_expect_eq(pool_send(conn, "heard", 5), POOL_OK);
    cr_expect(pool_ticket_cancel(talker->ticket));
    cr_expect_eq(pool_discard(conn), POOL_OK);
    return 0;
}

Test(ticket_blocking, of_a_use_that_gave_its_connection_away_tells_that_the_peer_may_know)
{
    struct peer *peer = PEER();
    struct pool *pool = MAKE_POOL();
    struct talker talker = { .pool = pool,
                             .address = peer_address(peer),
                             .use = send_and_give_away };

    cr_assert(start_talker(&talker));
    join_talker(&talker);
    cr_expect_eq(talker.status, POOL_E_CANCELED);
    cr_expect_eq(talker.error.outcome, POOL_MAYBE_SENT);
    pool_ticket_free(talker.ticket);
    pool_destroy(pool);
    peer_stop(peer);
}

Test(ticket_blocking, a_call_that_cannot_begin_gives_none)
{
    struct pool_ticket *ticket = (struct pool_ticket *)(void *)&ticket;
    struct pool *pool = MAKE_POOL();

    cr_expect_eq(
        pool_communicate(pool, "no address", do_nothing, NULL, POOL_CALL(.ticket = &ticket)),
        POOL_E_ADDRESS);
    cr_expect(!ticket || !pool_ticket_cancel(ticket));
    pool_ticket_free(ticket);
    pool_destroy(pool);
}

/* ---- a loan by hand */

Test(ticket_blocking, of_a_borrow_cancels_the_loan_until_it_is_returned)
{
    struct peer *peer = PEER();
    struct pool *pool = MAKE_POOL();
    struct pool_ticket *ticket = NULL;
    struct pool_conn conn;

    cr_assert_eq(pool_borrow(pool, peer_address(peer), POOL_CALL(.ticket = &ticket), &conn),
                 POOL_OK);
    cr_assert_not_null(ticket);
    cr_expect_eq(echo(&conn, "fine"), 0);
    cr_expect(pool_ticket_cancel(ticket));
    cr_expect_eq(pool_send(&conn, "x", 1), POOL_E_CANCELED);
    cr_expect_eq(pool_return(&conn), POOL_OK);
    cr_expect_eq(STAT(pool, total), 0);
    cr_expect_not(pool_ticket_cancel(ticket));
    pool_ticket_free(ticket);
    cr_assert_eq(pool_borrow(pool, peer_address(peer), POOL_CALL(.ticket = &ticket), &conn),
                 POOL_OK);
    cr_expect_eq(pool_return(&conn), POOL_OK);
    cr_expect_eq(id_of_next(pool, peer_address(peer)), 2);
    cr_expect_not(pool_ticket_cancel(ticket), "the next loan is another's");
    cr_expect_eq(id_of_next(pool, peer_address(peer)), 2);
    pool_ticket_free(ticket);
    pool_destroy(pool);
    peer_stop(peer);
}

/* ---- who waited behind the canceled one */

/* A young thread that was told to look for what is idle, and is canceled instead, must not take the
 * news with it: nothing else will ever happen. */
static void cancel_who_was_told(bool is_event_next)
{
    struct peer *peer = PEER();

    for (int i = 0; i < 200; i++) {
        struct pool *pool = MAKE_POOL(.max_per_address = 1, .barge_ms = POOL_NONE,
                                      .park_ms = POOL_NONE); /* no sweep finds it by chance */
        struct ask ask = { 0 };
        struct talker told = { .pool = pool, .address = peer_address(peer) };
        struct caller next;
        struct pool_conn conn;

        cr_assert(borrow(pool, peer_address(peer), &conn));
        cr_assert(start_talker(&told));
        cr_assert(WAIT_STAT(pool, waiting, 1));
        if (is_event_next)
            cr_assert_eq(start_ask(&ask, pool, peer_address(peer), NULL), POOL_OK);
        else
            cr_assert(queue_caller(&next, pool, peer_address(peer), VERBS_SOON));
        cr_assert_eq(pool_return(&conn), POOL_OK);
        pool_ticket_cancel(told.ticket);
        join_talker(&told);
        if (is_event_next) {
            cr_assert(wait_told(&ask));
            cr_expect_eq(ask.status, POOL_OK);
            cr_expect_lt(ask.took_ms, VERBS_SOON / 4);
        } else {
            cr_assert_eq(join_caller(&next), POOL_OK);
            cr_expect_lt(next.took_ms, VERBS_SOON / 4);
            cr_assert_eq(pool_return(&next.conn), POOL_OK);
        }
        pool_ticket_free(told.ticket);
        pool_destroy(pool);
    }
    peer_stop(peer);
}

Test(ticket, of_a_thread_that_was_told_to_look_leaves_the_next_thread_its_turn)
{
    cancel_who_was_told(false);
}

Test(ticket, of_a_thread_that_was_told_to_look_leaves_the_next_event_its_turn)
{
    cancel_who_was_told(true);
}
