/* test_query_told.c: what failures of queries, events and numbers tell: where the time went, who
 * waits, why a connection that was shared closed. */
#include <criterion/criterion.h>

#include "pool/query_scene.h"

static atomic_int close_status;

static void note_event(const struct pool_event_info *event, void *user)
{
    (void)user;
    if (event->kind == POOL_EVENT_CONNECTION_CLOSED)
        atomic_store(&close_status, event->status);
}

static void begin(void)
{
    QUERY_SCENE();
    pool = MAKE_POOL(.codec = pool_codec_length(), .max_inflight = 1, .max_per_address = 1,
                     .on_event = note_event);
}

TestSuite(query_told, .init = begin, .fini = query_scene_end, .timeout = 60);

static void fill(struct query *query)
{
    cr_assert_eq(start_query(query, pool, address, "Hold", NULL), POOL_OK);
    cr_assert(query_peer_wait_requests(peer, 1));
}

/* What is asked next waits for no connection. */
static void connect_first(void)
{
    struct query first = { 0 };

    ask_and_wait(&first, pool, address, "first", NULL);
    cr_assert(is_answered_with(&first, "first"));
}

/* ---- time, by phase */

static void expect_spent(const struct query *query, enum pool_phase phase, uint32_t low_ms)
{
    for (unsigned i = 0; i < 8; i++) {
        /* what is asked without options is stamped by the coarse clock */
        if (i == phase)
            cr_expect(IN_TIME(query->error.spent_ms[i], low_ms - 1), "%s", query->error.text);
        else
            cr_expect_lt(query->error.spent_ms[i], 30, "%s", query->error.text);
    }
}

Test(query_told, time_in_the_queue_is_time_of_waiting)
{
    struct query held = { 0 }, asked = { 0 }, started = { 0 };

    fill(&held);
    cr_assert_eq(start_query(&started, pool, address, "x", POOL_CALL(.timeout_ms = 120)), POOL_OK);
    cr_expect_eq(ask_and_wait(&asked, pool, address, "x", POOL_CALL(.timeout_ms = 120)),
                 POOL_E_TIMEOUT);
    cr_assert(wait_answered(&started));
    expect_spent(&asked, POOL_PHASE_WAIT, 120);
    expect_spent(&started, POOL_PHASE_WAIT, 120);
    query_peer_release(peer);
    cr_assert(wait_answered(&held));
}

Test(query_told, time_on_a_connection_is_time_of_the_reply)
{
    struct query asked = { 0 }, started = { 0 };

    connect_first();
    cr_expect_eq(ask_and_wait(&asked, pool, address, "Never", POOL_CALL(.timeout_ms = 120)),
                 POOL_E_TIMEOUT_IN_TRANSFER);
    expect_spent(&asked, POOL_PHASE_REPLY, 120);
    begin();
    connect_first();
    cr_assert_eq(start_query(&started, pool, address, "Never", POOL_CALL(.timeout_ms = 120)),
                 POOL_OK);
    cr_assert(wait_answered(&started));
    expect_spent(&started, POOL_PHASE_REPLY, 120);
}

Test(query_told, of_one_that_waited_and_was_sent_both_times_are_told)
{
    struct query first = { 0 }, second = { 0 };

    cr_assert_eq(start_query(&first, pool, address, "D150", NULL), POOL_OK);
    cr_assert(query_peer_wait_requests(peer, 1));
    cr_assert_eq(start_query(&second, pool, address, "Never", POOL_CALL(.timeout_ms = 400)),
                 POOL_OK);
    cr_assert(wait_answered(&second));
    cr_expect_eq(second.status, POOL_E_TIMEOUT_IN_TRANSFER);
    cr_expect_gt(second.error.spent_ms[POOL_PHASE_WAIT], 50);
    cr_expect_gt(second.error.spent_ms[POOL_PHASE_REPLY], 50);
    cr_expect(IN_TIME(second.error.spent_ms[POOL_PHASE_WAIT] +
                          second.error.spent_ms[POOL_PHASE_REPLY],
                      398));
    cr_assert(wait_answered(&first));
}

/* ---- time for waiting alone */

Test(query_told, wait_ms_bounds_the_queue)
{
    const struct pool_call *call = POOL_CALL(.wait_ms = 50, .timeout_ms = VERBS_SOON);
    struct query held = { 0 }, asked = { 0 }, started = { 0 };

    fill(&held);
    cr_assert_eq(start_query(&started, pool, address, "x", call), POOL_OK);
    cr_expect_eq(ask_and_wait(&asked, pool, address, "x", call), POOL_E_TIMEOUT);
    cr_assert(wait_answered(&started));
    cr_expect(has_failed_with(&started, POOL_E_TIMEOUT));
    expect_spent(&asked, POOL_PHASE_WAIT, 50);
    expect_spent(&started, POOL_PHASE_WAIT, 50);
    cr_expect_eq(pool_post_request(pool, address, text_bytes("x"), call), POOL_OK);
    cr_expect(WAIT_STAT(pool, timeouts, 3));
    query_peer_release(peer);
    cr_assert(wait_answered(&held));
    cr_expect_eq(query_peer_requests(peer), 1);
}

Test(query_told, wait_ms_bounds_a_first_connection)
{
    const struct pool_call *call = POOL_CALL(.wait_ms = 50, .timeout_ms = VERBS_SOON);
    struct peer *busy = PEER(.behave = PEER_NEVER_ACCEPT);
    struct query asked = { 0 };

    cr_expect_eq(ask_and_wait(&asked, pool, peer_address(busy), "x", call), POOL_E_TIMEOUT);
    cr_expect(IN_TIME(asked.error.spent_ms[POOL_PHASE_WAIT] +
                          asked.error.spent_ms[POOL_PHASE_CONNECT],
                      49));
    peer_stop(busy);
}

Test(query_told, wait_ms_does_not_bound_the_reply)
{
    const struct pool_call *call = POOL_CALL(.wait_ms = 400, .timeout_ms = 1500);
    struct query held[3] = { { 0 } }, asked = { 0 }, started[2] = { { 0 } };
    struct asker asker = { .query = { 0 } };

    cr_assert_eq(start_query(&held[0], pool, address, "D30", NULL), POOL_OK);
    cr_assert_eq(start_query(&started[0], pool, address, "D600", call), POOL_OK);
    cr_assert(wait_answered(&started[0]));
    cr_expect(is_answered_with(&started[0], "D600"));
    cr_assert_eq(start_query(&held[1], pool, address, "D30", NULL), POOL_OK);
    cr_assert(start_asker(&asker, pool, address, "D600", call));
    cr_expect_eq(join_asker(&asker), POOL_OK);
    cr_expect_eq(ask_and_wait(&asked, pool, address, "D600", call), POOL_OK);
    cr_assert_eq(start_query(&held[2], pool, address, "D30", NULL), POOL_OK);
    cr_assert_eq(start_query(&started[1], pool, address, "Never", call), POOL_OK);
    cr_assert(wait_answered(&started[1]));
    cr_expect(has_failed_with(&started[1], POOL_E_TIMEOUT_IN_TRANSFER));
}

/* ---- no time */

Test(query_told, what_had_no_time_from_the_start_is_never_sent)
{
    const struct pool_call *calls[] = { POOL_CALL(.deadline_ns = 1),
                                        POOL_CALL(.timeout_ms = POOL_ZERO) };
    struct query first = { 0 };

    for (unsigned round = 0; round < 2; round++) {
        for (unsigned i = 0; i < 2; i++) {
            struct query asked = { 0 }, started = { 0 };

            cr_expect_eq(ask_and_wait(&asked, pool, address, "late", calls[i]), POOL_E_TIMEOUT);
            cr_expect_eq(asked.error.outcome, POOL_NOT_SENT);
            cr_assert_eq(start_query(&started, pool, address, "late", calls[i]), POOL_OK);
            cr_assert(wait_answered(&started));
            cr_expect(has_failed_with(&started, POOL_E_TIMEOUT));
            cr_expect_eq(started.error.outcome, POOL_NOT_SENT);
            cr_expect_not(started.was_under_the_start);
            cr_expect_eq(pool_post_request(pool, address, text_bytes("late"), calls[i]), POOL_OK);
        }
        if (!round)                     /* and again where a connection stands */
            ask_and_wait(&first, pool, address, "first", NULL);
    }
    cr_expect(is_answered_with(&first, "first"));
    cr_expect_eq(query_peer_requests(peer), 1);
    cr_expect_eq(STAT(pool, timeouts), 12);
    cr_expect_eq(STAT(pool, queries), 13);
}

Test(query_told, without_a_reply_the_variable_stays_what_it_was)
{
    struct pool_reply *const none = (struct pool_reply *)&pool, *reply = none;

    cr_expect_eq(pool_query(pool, "tcp://127.0.0.1:1", text_bytes("x"), NULL, &reply),
                 POOL_E_REFUSED);
    cr_expect_eq(reply, none);
    connect_first();
    cr_expect_eq(pool_query(pool, address, text_bytes("Never"), POOL_CALL(.timeout_ms = 50),
                            &reply),
                 POOL_E_TIMEOUT_IN_TRANSFER);
    cr_expect_eq(reply, none);
}

/* ---- numbers */

Test(query_told, queued_queries_are_callers_that_wait)
{
    struct query held = { 0 }, queued[3] = { { 0 } };
    struct asker asker = { .query = { 0 } };

    fill(&held);
    for (unsigned i = 0; i < 3; i++)
        cr_assert_eq(start_query(&queued[i], pool, address, "x", NULL), POOL_OK);
    cr_assert(start_asker(&asker, pool, address, "x", NULL));
    cr_expect(WAIT_STAT(pool, waiting, 4));
    query_peer_release(peer);
    cr_expect_eq(join_asker(&asker), POOL_OK);
    for (unsigned i = 0; i < 3; i++)
        cr_assert(wait_answered(&queued[i]));
    cr_expect_eq(STAT(pool, waiting), 0);
    cr_assert(wait_answered(&held));
}

Test(query_told, who_waits_for_a_first_connection_counts_once)
{
    struct peer *busy = PEER(.behave = PEER_NEVER_ACCEPT);
    struct query queued = { 0 };
    struct asker asker = { .query = { 0 } };

    cr_assert_eq(start_query(&queued, pool, peer_address(busy), "x", POOL_CALL(.timeout_ms = 200)),
                 POOL_OK);
    cr_assert(start_asker(&asker, pool, peer_address(busy), "x", POOL_CALL(.timeout_ms = 200)));
    cr_expect(WAIT_STAT(pool, waiting, 2));
    cr_assert(wait_answered(&queued));
    cr_expect_eq(join_asker(&asker), POOL_E_TIMEOUT);
    cr_expect(WAIT_STAT(pool, waiting, 0));
    peer_stop(busy);
}

/* ---- why a connection closed */

static bool is_told_status(void *status)
{
    return atomic_load(&close_status) == *(int *)status;
}

static void expect_closed(const char *body, enum pool_status status, enum pool_close_reason reason)
{
    struct query query = { 0 };
    int told = reason == POOL_CLOSE_ERROR ? (int)status : POOL_OK;

    cr_expect_eq(ask_and_wait(&query, pool, address, body, NULL), status, "%s", query.error.text);
    cr_expect(wait_stat(pool, offsetof(struct pool_stats, closed) + reason * sizeof(uint64_t), 1));
    cr_expect(wait_until(is_told_status, &told, VERBS_SOON), "the event tells of %d",
              atomic_load(&close_status));
}

Test(query_told, the_peer_closed_it)
{
    expect_closed("C", POOL_E_CLOSED, POOL_CLOSE_PEER);
}

Test(query_told, it_was_reset)
{
    expect_closed("R", POOL_E_BROKEN, POOL_CLOSE_ERROR);
}

Test(query_told, it_ended_within_a_message)
{
    expect_closed("T", POOL_E_BROKEN, POOL_CLOSE_ERROR);
}

Test(query_told, what_came_made_no_sense)
{
    expect_closed("G", POOL_E_PROTOCOL, POOL_CLOSE_ERROR);
}

Test(query_told, the_peer_closed_it_while_it_carried_nothing)
{
    struct query query = { 0 };

    ask_and_wait(&query, pool, address, "x", NULL);
    cr_assert(is_answered_with(&query, "x"));
    query_peer_close(peer);
    cr_expect(wait_stat(pool,
                        offsetof(struct pool_stats, closed) + POOL_CLOSE_PEER * sizeof(uint64_t),
                        1));
}
