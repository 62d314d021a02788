/* test_query_slow.c: queries queued behind a peer that does not read: what has not left is nobody's
 * to answer, and is taken back when it is given up. */
#include <criterion/criterion.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>

#include "pool/raw_line.h"

TestSuite(query_slow, .fini = raw_line_end, .timeout = 60);

/* The peer has got the beginning of the first one, and what is queued behind it does not fit. */
static void stick(struct query *stuck, const struct pool_call *call)
{
    struct pollfd polled = { .fd = raw_end, .events = POLLIN };

    cr_assert_eq(start_query(stuck, raw_pool, RAW, raw_big, call), POOL_OK);
    cr_assert_eq(poll(&polled, 1, VERBS_SOON), 1);
}

/* What is under way stays so until these have been put behind it. */
static void queue(struct query *query, const char *body, const struct pool_call *call)
{
    cr_assert_eq(start_query(query, raw_pool, RAW, body, call), POOL_OK);
}

/* ---- replies that come too early */

Test(query_slow, a_reply_before_its_request_began_to_leave_ends_the_connection)
{
    struct query stuck = { 0 }, second = { 0 };

    RAW_LINE(.codec = pool_codec_length());
    stick(&stuck, NULL);
    queue(&second, "second", NULL);
    cr_assert(raw_put(2, FRAME_REPLY, "early"));
    cr_assert(wait_answered(&stuck) && wait_answered(&second));
    cr_expect(has_failed_with(&stuck, POOL_E_PROTOCOL));
    cr_expect_eq(stuck.error.outcome, POOL_MAYBE_SENT);
    cr_expect(has_failed_with(&second, POOL_E_REFUSED), "it moved on, and nobody was there");
    cr_expect_eq(second.error.outcome, POOL_NOT_SENT);
    cr_expect_eq(STAT(raw_pool, orphans), 1);
    cr_expect_eq(STAT(raw_pool, late_replies), 0);
}

Test(query_slow, where_replies_come_in_order_too)
{
    struct query stuck = { 0 }, second = { 0 };

    RAW_LINE(.codec = pool_codec_line());
    stick(&stuck, NULL);
    queue(&second, "second", NULL);
    cr_assert(write_exactly(raw_end, "no\n", 3, VERBS_SOON));
    cr_assert(wait_answered(&stuck));
    cr_expect(is_answered_with(&stuck, "no"), "a peer may answer before it has read all");
    cr_assert(write_exactly(raw_end, "early\n", 6, VERBS_SOON));
    cr_assert(wait_answered(&second));
    cr_expect(has_failed_with(&second, POOL_E_REFUSED), "it moved on, and nobody was there");
    cr_expect_eq(second.error.outcome, POOL_NOT_SENT);
    cr_expect_eq(STAT(raw_pool, orphans), 1);
}

/* ---- what is given up before it left */

#define MANY 60u

static bool is_hurried(unsigned i)
{
    return i % 3 != 1;
}

static void expect_taken_back(const struct query *query)
{
    cr_expect(has_failed_with(query, POOL_E_TIMEOUT));
    cr_expect_eq(query->error.outcome, POOL_NOT_SENT, "%s", query->error.text);
    cr_expect(strstr(query->error.text, "behind others"), "%s", query->error.text);
}

static enum pool_status encode_nothing(void *state, enum pool_message_kind kind, uint64_t key,
                                       struct pool_bytes body, struct pool_out *out,
                                       struct pool_expect *expect)
{
    (void)state, (void)kind, (void)key, (void)body, (void)out;
    expect->replies = 1;
    return POOL_OK;
}

Test(query_slow, who_was_behind_nobody_is_not_told_that_he_was)
{
    struct pool_codec silent = *pool_codec_line();
    struct query query = { 0 };

    silent.encode = encode_nothing;
    RAW_LINE(.codec = &silent);
    ask_and_wait(&query, raw_pool, RAW, "x", POOL_CALL(.timeout_ms = 30));
    cr_expect(has_failed_with(&query, POOL_E_TIMEOUT), "%s", query.error.text);
    cr_expect_not(strstr(query.error.text, "behind others"), "%s", query.error.text);
}

/* Some of those that are taken back stand alone, some side by side. */
Test(query_slow, what_runs_out_of_time_before_it_left_never_leaves)
{
    static struct query stuck, queries[MANY];
    char bodies[MANY][16];

    RAW_LINE(.codec = pool_codec_length());
    stick(&stuck, NULL);
    for (unsigned i = 0; i < MANY; i++) {
        snprintf(bodies[i], sizeof(bodies[i]), "number %u", i);
        queue(&queries[i], bodies[i],
              POOL_CALL(.timeout_ms = is_hurried(i) ? 30 : VERBS_SOON));
    }
    for (unsigned i = 0; i < MANY; i++) {
        if (is_hurried(i)) {
            cr_assert(wait_answered(&queries[i]));
            expect_taken_back(&queries[i]);
        }
    }
    cr_assert(raw_serve("xxx"));
    for (unsigned i = 0; i < MANY; i++)
        cr_assert(is_hurried(i) || raw_serve(bodies[i]));
    for (unsigned i = 0; i < MANY; i++) {
        cr_assert(wait_answered(&queries[i]));
        cr_expect(is_hurried(i) || is_answered_with(&queries[i], bodies[i]));
    }
    cr_assert(wait_answered(&stuck));
    cr_expect_eq(stuck.status, POOL_OK);
    cr_expect_eq(STAT(raw_pool, orphans), 0);
    cr_expect_eq(STAT(raw_pool, timeouts), MANY - MANY / 3);
}

Test(query_slow, where_replies_come_in_order_those_behind_move_up)
{
    struct query stuck = { 0 }, hurried = { 0 }, patient = { 0 };
    static char line[RAW_BIG + 2];

    RAW_LINE(.codec = pool_codec_line());
    stick(&stuck, NULL);
    queue(&hurried, "hurried", POOL_CALL(.timeout_ms = 30));
    queue(&patient, "patient", NULL);
    cr_assert(wait_answered(&hurried));
    expect_taken_back(&hurried);
    cr_assert(raw_get_line(line, sizeof(line)) && raw_get_line(line, sizeof(line)));
    cr_expect_str_eq(line, "patient");
    cr_assert(write_exactly(raw_end, "one\ntwo\n", 8, VERBS_SOON));
    cr_assert(wait_answered(&stuck) && wait_answered(&patient));
    cr_expect(is_answered_with(&stuck, "one"));
    cr_expect(is_answered_with(&patient, "two"));
}

Test(query_slow, a_thread_that_runs_out_of_time_and_one_that_is_canceled_take_theirs_back)
{
    struct query stuck = { 0 }, canceled = { .has_ticket = true }, last = { 0 };
    struct asker asker = { .query = { 0 } };

    RAW_LINE(.codec = pool_codec_length());
    stick(&stuck, NULL);
    queue(&canceled, "canceled", NULL);
    cr_assert(start_asker(&asker, raw_pool, RAW, "thread", POOL_CALL(.timeout_ms = 30)));
    join_asker(&asker);
    expect_taken_back(&asker.query);
    pool_ticket_cancel(canceled.ticket);
    cr_assert(wait_answered(&canceled));
    cr_expect(has_failed_with(&canceled, POOL_E_CANCELED));
    cr_expect_eq(canceled.error.outcome, POOL_NOT_SENT);
    queue(&last, "last", NULL);
    cr_assert(raw_serve("xxx") && raw_serve("last"));
    cr_assert(wait_answered(&stuck) && wait_answered(&last));
    cr_expect(is_answered_with(&last, "last"));
    pool_ticket_free(canceled.ticket);
}

Test(query_slow, what_has_begun_to_leave_is_not_taken_back)
{
    struct query stuck = { 0 }, next = { 0 };

    RAW_LINE(.codec = pool_codec_length());
    stick(&stuck, POOL_CALL(.timeout_ms = 30));
    cr_assert(wait_answered(&stuck));
    cr_expect(has_failed_with(&stuck, POOL_E_TIMEOUT_IN_TRANSFER));
    cr_expect_eq(stuck.error.outcome, POOL_MAYBE_SENT);
    queue(&next, "next", NULL);
    cr_assert(raw_serve("xxx") && raw_serve("next"));
    cr_assert(wait_answered(&next));
    cr_expect(is_answered_with(&next, "next"));
    cr_expect_eq(STAT(raw_pool, late_replies), 1);
}

/* What comes behind may depend on it. */
Test(query_slow, nothing_is_taken_back_where_encode_remembers_what_it_wrote)
{
    struct pool_codec codec = *pool_codec_length();
    struct query stuck = { 0 }, hurried = { 0 };

    codec.write_state_size = 8;
    RAW_LINE(.codec = &codec);
    stick(&stuck, NULL);
    queue(&hurried, "hurried", POOL_CALL(.timeout_ms = 30));
    cr_assert(wait_answered(&hurried));
    cr_expect(has_failed_with(&hurried, POOL_E_TIMEOUT_IN_TRANSFER));
    cr_expect_eq(hurried.error.outcome, POOL_MAYBE_SENT);
    cr_assert(raw_serve("xxx") && raw_serve("hurried"));
    cr_assert(wait_answered(&stuck));
    raw_line_end();
}

/* Those behind go on when the connection breaks; the ones that were taken back are told once. */
Test(query_slow, a_connection_that_breaks_moves_what_is_left)
{
    static struct query stuck, queries[MANY];

    RAW_LINE(.codec = pool_codec_length());
    stick(&stuck, NULL);
    for (unsigned i = 0; i < MANY; i++)
        queue(&queries[i], "moves", POOL_CALL(.timeout_ms = is_hurried(i) ? 30 : VERBS_SOON));
    for (unsigned i = 0; i < MANY; i++)
        cr_assert(!is_hurried(i) || wait_answered(&queries[i]));
    cr_assert(raw_put(77, FRAME_PART + 20, ""), "nonsense, which ends it at once");
    cr_assert(wait_answered(&stuck));
    cr_expect(has_failed_with(&stuck, POOL_E_PROTOCOL));
    for (unsigned i = 0; i < MANY; i++) {
        cr_assert(wait_answered(&queries[i]));
        cr_expect(has_failed_with(&queries[i], is_hurried(i) ? POOL_E_TIMEOUT : POOL_E_REFUSED));
        cr_expect_eq(queries[i].error.outcome, POOL_NOT_SENT);
    }
    cr_expect_eq(STAT(raw_pool, retries), MANY / 3);
}
