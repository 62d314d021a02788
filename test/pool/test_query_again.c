/* test_query_again.c: queries whose connection ended under them, and which go on over another one,
 * or are asked again: which may, how often, and in what order. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "support/queries.h"

#define KEYED .codec = pool_codec_length()

Test(query_again, what_is_safe_to_repeat_moves_and_other_queries_do_not)
{
    struct query_peer *peer = QUERY_PEER(.close_after = 3, .only_first = 1);
    struct pool *pool = MAKE_POOL(KEYED);
    const char *address = query_peer_address(peer);
    struct query safe = { 0 }, plain = { 0 };
    struct asker asker = { .query = { 0 } };

    cr_assert_eq(start_query(&plain, pool, address, "Hplain", NULL), POOL_OK);
    cr_assert(query_peer_wait_requests(peer, 1));
    cr_assert_eq(start_query(&safe, pool, address, "safe",
                             POOL_CALL(.flags = POOL_SAFE_TO_REPEAT)),
                 POOL_OK);
    cr_assert(wait_answered(&safe));
    cr_expect(is_answered_with(&safe, "safe"));
    cr_assert(start_asker(&asker, pool, address, "blocking",
                          POOL_CALL(.timeout_ms = VERBS_SOON, .flags = POOL_SAFE_TO_REPEAT)));
    cr_expect_eq(join_asker(&asker), POOL_OK);
    cr_expect(is_answered_with(&asker.query, "blocking"));
    cr_assert(wait_answered(&plain));
    cr_expect(has_failed_with(&plain, POOL_E_CLOSED));
    cr_expect_eq(query_peer_accepted(peer), 2);
    pool_destroy(pool);
    query_peer_stop(peer);
}

Test(query_again, moving_is_bounded)
{
    struct query_peer *peer = QUERY_PEER(.close_after = 1);
    struct pool *pool = MAKE_POOL(KEYED);
    struct query query = { 0 };

    ask_and_wait(&query, pool, query_peer_address(peer), "safe",
                 POOL_CALL(.timeout_ms = VERBS_SOON, .flags = POOL_SAFE_TO_REPEAT));
    cr_expect(has_failed_with(&query, POOL_E_CLOSED));
    cr_expect_leq(query_peer_accepted(peer), 5);
    cr_expect_geq(query_peer_accepted(peer), 2);
    pool_destroy(pool);
    query_peer_stop(peer);
}

/* It moved, and found nobody there: that nothing was sent would be a lie. */
Test(query_again, what_was_sent_once_is_never_said_to_be_unsent)
{
    struct query_peer *peer = QUERY_PEER();
    struct pool *pool = MAKE_POOL(KEYED, .max_per_address = 1);
    struct query safe = { 0 }, plain = { 0 };

    cr_assert_eq(start_query(&safe, pool, query_peer_address(peer), "Hold",
                             POOL_CALL(.flags = POOL_SAFE_TO_REPEAT)),
                 POOL_OK);
    cr_assert(query_peer_wait_requests(peer, 1));
    cr_assert_eq(start_query(&plain, pool, query_peer_address(peer), "Hold", NULL), POOL_OK);
    cr_assert(query_peer_wait_requests(peer, 2));
    query_peer_stop(peer);
    cr_assert(wait_answered(&safe) && wait_answered(&plain));
    cr_expect(has_failed_with(&safe, POOL_E_REFUSED));
    cr_expect_eq(safe.error.outcome, POOL_MAYBE_SENT, "%s", safe.error.text);
    cr_expect(strstr(safe.error.text, "may have seen"), "%s", safe.error.text);
    cr_expect_eq(plain.error.outcome, POOL_MAYBE_SENT);
    pool_destroy(pool);
}

Test(query_again, a_one_shot_never_moves)
{
    struct query_peer *peer = QUERY_PEER(.close_after = 1, .only_first = 1);
    struct pool *pool = MAKE_POOL(KEYED);
    struct query query = { 0 };

    ask_and_wait(&query, pool, query_peer_address(peer), "once",
                 POOL_CALL(.timeout_ms = VERBS_SOON, .flags = POOL_ONE_SHOT));
    cr_expect(has_failed_with(&query, POOL_E_CLOSED));
    cr_expect_eq(query_peer_requests(peer), 1);
    pool_destroy(pool);
    query_peer_stop(peer);
}

#define LARGE 20000u
#define MOVED 300u

static void expect_next(struct pool *pool, const char *address)
{
    struct query next = { 0 };

    ask_and_wait(&next, pool, address, "next", NULL);
    cr_expect(is_answered_with(&next, "next"));
}

/* The peer reads nothing: some are sent, one in part, the others not. */
Test(query_again, what_was_not_sent_moves_and_what_may_have_been_fails)
{
    static char body[LARGE + 1];
    static struct query queries[MOVED];
    struct query_peer *peer = QUERY_PEER(.receive_buffer = 4096);
    struct pool *pool = MAKE_POOL(KEYED, .write_high = 64u << 20, .max_per_address = 1);
    unsigned moved = 0, failed = 0, unsent = 0;

    /* The line stands, and the first one leaves at once. */
    expect_next(pool, query_peer_address(peer));
    query_peer_hear(peer, false);
    memset(body, 'x', LARGE);
    for (unsigned i = 0; i < MOVED; i++)
        cr_assert_eq(start_query(&queries[i], pool, query_peer_address(peer), body,
                                 POOL_CALL(.timeout_ms = VERBS_SOON,
                                           .flags = i % 3 ? 0 : POOL_ONE_SHOT)),
                     POOL_OK);
    cr_assert(query_peer_wait_unread(peer, 1));
    query_peer_reset(peer);
    query_peer_hear(peer, true);
    for (unsigned i = 0; i < MOVED; i++) {
        cr_assert(wait_answered(&queries[i]));
        cr_expect_eq(queries[i].told, 1);
        moved += !queries[i].status;
        failed += queries[i].status && queries[i].error.outcome == POOL_MAYBE_SENT;
        unsent += queries[i].status && queries[i].error.outcome == POOL_NOT_SENT;
        cr_expect(i % 3 || queries[i].status, "a one-shot moved");
        cr_expect(i % 3 == 0 || !queries[i].status || queries[i].error.outcome == POOL_MAYBE_SENT,
                  "what was not sent did not move: %s", queries[i].error.text);
    }
    cr_expect_gt(moved, 0);
    cr_expect_gt(failed, 0);
    cr_expect_gt(unsent, 0);
    cr_expect_eq(query_peer_requests(peer), moved + 1, "each was heard once");
    pool_destroy(pool);
    query_peer_stop(peer);
}

static void expect_in_order(struct query_peer *peer)
{
    unsigned last_nth = 0, nth = 0, last = 0, number;
    char body[QUERY_PEER_KEPT];

    for (unsigned i = 0; i < query_peer_requests(peer); i++) {
        query_peer_request(peer, i, body, &nth);
        number = (unsigned)strtoul(body, NULL, 10);
        cr_expect(nth >= last_nth, "one connection after the other");
        cr_expect(nth != last_nth || i == 0 || number == last + 1, "%u came after %u", number,
                  last);
        last = number;
        last_nth = nth;
    }
}

Test(query_again, ordered_queries_keep_their_order_over_a_reconnect)
{
    static struct query queries[300];
    struct query_peer *peer = QUERY_PEER(.close_after = 50, .only_first = 2);
    struct pool *pool = MAKE_POOL(KEYED, .max_inflight = 40, .max_per_address = 4);
    char body[16];

    for (unsigned i = 0; i < 300; i++) {
        snprintf(body, sizeof(body), "%u.", i);
        cr_assert_eq(start_query(&queries[i], pool, query_peer_address(peer), body,
                                 POOL_CALL(.timeout_ms = VERBS_SOON,
                                           .flags = POOL_ORDERED | POOL_SAFE_TO_REPEAT)),
                     POOL_OK);
    }
    for (unsigned i = 0; i < 300; i++) {
        cr_assert(wait_answered(&queries[i]));
        cr_expect(queries[i].told == 1 && !queries[i].status, "%u: %s", i, queries[i].error.text);
    }
    for (unsigned i = 1; i < 300; i++)
        cr_expect_gt(queries[i].place, queries[i - 1].place);
    expect_in_order(peer);
    cr_expect_eq(query_peer_accepted(peer), 3);
    pool_destroy(pool);
    query_peer_stop(peer);
}

/* The peer ends in the middle of its answer, comes again, and answers. */
Test(query_again, what_was_answered_by_half_is_asked_for_again_if_that_is_safe)
{
    struct query_peer *peer = QUERY_PEER(.only_first = 1);
    struct pool *pool = MAKE_POOL(KEYED, .max_per_address = 1);
    struct query safe = { 0 }, plain = { 0 };

    cr_assert_eq(start_query(&plain, pool, query_peer_address(peer), "Hold", NULL), POOL_OK);
    cr_assert(query_peer_wait_requests(peer, 1));
    ask_and_wait(&safe, pool, query_peer_address(peer), "Torn",
                 POOL_CALL(.timeout_ms = VERBS_SOON, .flags = POOL_SAFE_TO_REPEAT));
    cr_expect(is_answered_with(&safe, "Torn"));
    cr_assert(wait_answered(&plain));
    cr_expect(has_failed_with(&plain, POOL_E_BROKEN));
    cr_expect_eq(plain.error.outcome, POOL_MAYBE_SENT);
    cr_expect_eq(query_peer_accepted(peer), 2);
    pool_destroy(pool);
    query_peer_stop(peer);
}

/* ---- a peer that is down */

struct patient {
    struct query query; /* first, as `then` is given it */
    struct pool *pool;
    const char *address;
    atomic_uint refused, answered;
};

static void ask_again(struct query *query)
{
    struct patient *patient = query->user;

    if (query->status != POOL_E_REFUSED) {
        atomic_fetch_add(&patient->answered, 1);
        return;
    }
    atomic_fetch_add(&patient->refused, 1);
    query->status = POOL_OK;
    cr_assert_eq(start_query(query, patient->pool, patient->address, "patient", NULL), POOL_OK);
}

static bool has_been_refused(void *user)
{
    return atomic_load(&((struct patient *)user)->refused) >= 3;
}

static bool has_been_answered(void *user)
{
    return atomic_load(&((struct patient *)user)->answered);
}

/* Each attempt waits for the pause of the address, which grows: nobody spins. */
Test(query_again, who_asks_again_when_refused_reaches_a_peer_that_comes_up_later)
{
    static struct patient patient;
    struct peer *peer = PEER(.own_process = true);
    uint64_t start_ms = now_ms();

    peer_down(peer);
    patient.pool = MAKE_POOL(.codec = pool_codec_line(), .backoff_first_ms = 20,
                             .suspend_after = POOL_ZERO);
    patient.address = peer_address(peer);
    patient.query.then = ask_again;
    patient.query.user = &patient;
    cr_assert_eq(start_query(&patient.query, patient.pool, patient.address, "patient", NULL),
                 POOL_OK);
    cr_assert(wait_until(has_been_refused, &patient, VERBS_SOON));
    cr_expect_lt(patient.refused, 20 + elapsed_ms(start_ms) / 5);
    cr_assert(peer_up(peer));
    cr_assert(wait_until(has_been_answered, &patient, VERBS_SOON));
    cr_expect_str_eq(patient.query.text, "patient");
    pool_destroy(patient.pool);
    peer_stop(peer);
}

static struct pool *pool_of_patience(void)
{
    return MAKE_POOL(.codec = pool_codec_line(), .backoff_first_ms = 20);
}

#define PATIENT(ms) POOL_CALL(.timeout_ms = (ms), .flags = POOL_WAIT_FOR_PEER)

/* Threads and events; the first one opens the first connection itself. */
Test(query_again, who_waits_for_the_peer_reaches_one_that_comes_up_later)
{
    struct peer *peer = PEER(.own_process = true);
    struct pool *pool = pool_of_patience();
    struct query query = { 0 }, hasty = { 0 };
    struct asker asker;

    peer_down(peer);
    cr_assert(start_asker(&asker, pool, peer_address(peer), "thread", PATIENT(VERBS_SOON)));
    cr_assert_eq(start_query(&query, pool, peer_address(peer), "event", PATIENT(VERBS_SOON)),
                 POOL_OK);
    ask_and_wait(&hasty, pool, peer_address(peer), "hasty", NULL);
    cr_expect(hasty.status == POOL_E_REFUSED || hasty.status == POOL_E_SUSPENDED, "%s",
              hasty.error.text);
    cr_expect_eq(query.told, 0);
    cr_assert(peer_up(peer));
    cr_expect_eq(join_asker(&asker), POOL_OK);
    cr_assert(wait_answered(&query));
    cr_expect(is_answered_with(&asker.query, "thread"));
    cr_expect(is_answered_with(&query, "event"));
    pool_destroy(pool);
    peer_stop(peer);
}

static uint32_t spent_ms(const struct query *query)
{
    uint32_t total = 0;

    for (unsigned i = 0; i < 8; i++)
        total += query->error.spent_ms[i];
    return total;
}

Test(query_again, who_waits_for_the_peer_in_vain_learns_at_the_deadline_why)
{
    struct peer *peer = PEER(.own_process = true);
    struct pool *pool = pool_of_patience();
    struct query queries[2] = { { 0 }, { 0 } };
    uint64_t start_ms = now_ms();

    peer_down(peer);
    cr_assert_eq(start_query(&queries[0], pool, peer_address(peer), "event", PATIENT(400)),
                 POOL_OK);
    ask_and_wait(&queries[1], pool, peer_address(peer), "thread", PATIENT(400));
    cr_assert(wait_answered(&queries[0]));
    cr_expect(elapsed_ms(start_ms) >= 400);
    for (unsigned i = 0; i < 2; i++) {
        cr_expect(queries[i].status == POOL_E_REFUSED || queries[i].status == POOL_E_SUSPENDED);
        cr_expect_eq(queries[i].error.status, queries[i].status);
        cr_expect_eq(queries[i].error.outcome, POOL_NOT_SENT);
        cr_expect(strstr(queries[i].error.text, "ECONNREFUSED"), "%s", queries[i].error.text);
        cr_expect(IN_TIME(spent_ms(&queries[i]), 398), "%s", queries[i].error.text);
        cr_expect(strstr(queries[i].error.text, "wait "), "%s", queries[i].error.text);
    }
    cr_expect_eq(STAT(pool, timeouts), 2);
    pool_destroy(pool);
    peer_stop(peer);
}

/* While the peer backs off nothing is tried: what was tried before tells. */
Test(query_again, who_waits_for_the_peer_while_it_backs_off_learns_of_the_attempt_before)
{
    struct peer *peer = PEER(.own_process = true);
    struct pool *pool = MAKE_POOL(.codec = pool_codec_line(), .suspend_after = POOL_ZERO,
                                  .backoff_first_ms = VERBS_SOON);
    struct query first = { 0 }, queries[2] = { { 0 }, { 0 } };

    peer_down(peer);
    ask_and_wait(&first, pool, peer_address(peer), "first", NULL);
    cr_expect(has_failed_with(&first, POOL_E_REFUSED));
    cr_assert_eq(start_query(&queries[0], pool, peer_address(peer), "event", PATIENT(50)),
                 POOL_OK);
    ask_and_wait(&queries[1], pool, peer_address(peer), "thread", PATIENT(50));
    cr_assert(wait_answered(&queries[0]));
    for (unsigned i = 0; i < 2; i++) {
        cr_expect(has_failed_with(&queries[i], POOL_E_REFUSED), "%s", queries[i].error.text);
        cr_expect_eq(queries[i].error.cause, ECONNREFUSED);
        cr_expect_eq(queries[i].error.outcome, POOL_NOT_SENT);
        cr_expect(IN_TIME(spent_ms(&queries[i]), 48), "%s", queries[i].error.text);
    }
    pool_destroy(pool);
    peer_stop(peer);
}

static bool has_failed_twice(void *pool)
{
    return STAT(pool, borrow_failed) >= 2;
}

/* Not of the peer that is down, but of what ended the wait. */
Test(query_again, who_waits_for_the_peer_is_told_of_the_order_that_ends_it)
{
    struct peer *peer = PEER(.own_process = true);
    struct pool *pool = pool_of_patience();
    struct query canceled = { .has_ticket = true }, left = { 0 };

    peer_down(peer);
    cr_assert_eq(start_query(&canceled, pool, peer_address(peer), "canceled", PATIENT(VERBS_SOON)),
                 POOL_OK);
    cr_assert_eq(start_query(&left, pool, peer_address(peer), "left", PATIENT(VERBS_SOON)),
                 POOL_OK);
    cr_assert(wait_until(has_failed_twice, pool, VERBS_SOON));
    cr_expect(pool_ticket_cancel(canceled.ticket));
    cr_assert(wait_answered(&canceled));
    cr_expect(has_failed_with(&canceled, POOL_E_CANCELED));
    cr_expect_eq(canceled.error.status, POOL_E_CANCELED);
    pool_ticket_free(canceled.ticket);
    pool_destroy(pool);
    cr_assert(wait_answered(&left));
    cr_expect(has_failed_with(&left, POOL_E_CLOSING));
    cr_expect_eq(left.error.status, POOL_E_CLOSING);
    peer_stop(peer);
}
