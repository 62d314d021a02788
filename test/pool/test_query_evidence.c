/* test_query_evidence.c: what the system knows of a request when its connection broke is told in
 * the sentence of the error. It is evidence for people; the outcome stays what it is. */
#include <criterion/criterion.h>
#include <string.h>
#include <unistd.h>

#include "pool/raw_line.h"

TestSuite(query_evidence, .timeout = 60);

#define KEYED .codec = pool_codec_length()

static void expect_words(const struct query *query, const char *words)
{
    cr_expect_neq(query->status, POOL_OK);
    cr_expect_eq(query->error.outcome, POOL_MAYBE_SENT, "it is no proof");
    cr_expect(strstr(query->error.text, words), "%s", query->error.text);
}

/* An answer to a later request carries the acknowledgement; without one it may wait, and get lost
 * with the connection. */
static void be_acknowledged(struct pool *pool, struct query_peer *peer)
{
    struct query later = { 0 };

    ask_and_wait(&later, pool, query_peer_address(peer), "later", NULL);
    cr_assert(is_answered_with(&later, "later"));
}

/* Longer than an acknowledgement waits for an answer to go with. */
static void be_patient(void)
{
    struct query_peer *other = QUERY_PEER();
    struct pool *pool = MAKE_POOL(KEYED);
    struct query query = { 0 };

    ask_and_wait(&query, pool, query_peer_address(other), "D300", NULL);
    cr_assert(is_answered_with(&query, "D300"));
    pool_destroy(pool);
    query_peer_stop(other);
}

Test(query_evidence, what_the_peers_system_took_was_acknowledged)
{
    struct query_peer *peer = QUERY_PEER();
    struct pool *pool = MAKE_POOL(KEYED);
    struct query queries[3] = { { 0 } };

    for (unsigned i = 0; i < 3; i++)
        cr_assert_eq(start_query(&queries[i], pool, query_peer_address(peer), "Never", NULL),
                     POOL_OK);
    be_acknowledged(pool, peer);
    query_peer_reset(peer);
    for (unsigned i = 0; i < 3; i++) {
        cr_assert(wait_answered(&queries[i]));
        expect_words(&queries[i], "the peer's system acknowledged the request");
    }
    pool_destroy(pool);
    query_peer_stop(peer);
}

/* The peer has closed meanwhile: its system refuses what comes. The mux may have noticed before. */
Test(query_evidence, what_was_written_after_the_peer_had_closed_was_not)
{
    struct query_peer *peer = QUERY_PEER();
    struct pool *pool = MAKE_POOL(KEYED, .check = POOL_CHECK_NEVER, .park_ms = 60000);
    struct query query = { 0 };

    for (unsigned i = 0; i < 50 && !query.status; i++) {
        for (unsigned j = 0; j < 3; j++)
            be_acknowledged(pool, peer);
        query_peer_close(peer);
        query = (struct query){ 0 };
        ask_and_wait(&query, pool, query_peer_address(peer), "query", NULL);
    }
    expect_words(&query, "acknowledged nothing of it");
    pool_destroy(pool);
    query_peer_stop(peer);
}

/* The peer's system has the beginning of the second one, and can take no more: nothing of the third
 * one, though it was sent. What the connection carried before does not count. */
Test(query_evidence, each_query_is_told_of_its_own_bytes)
{
    static char large[100001];
    struct query_peer *peer = QUERY_PEER(.receive_buffer = 4096);
    struct pool *pool = MAKE_POOL(KEYED, .park_ms = 10, .max_per_address = 1);
    struct query first = { 0 }, second = { 0 }, third = { 0 };

    memset(large, 'x', sizeof(large) - 1);
    be_acknowledged(pool, peer);
    cr_assert(WAIT_STAT(pool, idle, 1), "the line goes back, and is opened anew");
    cr_assert_eq(start_query(&first, pool, query_peer_address(peer), "Never", NULL), POOL_OK);
    be_acknowledged(pool, peer);
    query_peer_hear(peer, false);
    cr_assert_eq(start_query(&second, pool, query_peer_address(peer), large, NULL), POOL_OK);
    cr_assert_eq(start_query(&third, pool, query_peer_address(peer), "third", NULL), POOL_OK);
    cr_assert(WAIT_STAT(pool, bytes_out, 5 * 12 + 5 + 5 + 5 + 100000 + 5));
    be_patient();
    query_peer_reset(peer);
    cr_assert(wait_answered(&first) && wait_answered(&second) && wait_answered(&third));
    expect_words(&first, "the peer's system acknowledged the request");
    expect_words(&second, "the peer's system acknowledged the request, or a part of it");
    expect_words(&third, "acknowledged nothing of it");
    pool_destroy(pool);
    query_peer_stop(peer);
}

static bool are_none_queued(void *pool)
{
    return STAT(pool, waiting) == 0;
}

/* What was taken back in front of it lies among the line's bytes, and not among the peer's. */
Test(query_evidence, what_was_taken_back_counts_for_nobody)
{
    static char large[8000001]; /* more than any socket takes */
    struct query_peer *peer = QUERY_PEER(.receive_buffer = 4096);
    struct pool *pool = MAKE_POOL(KEYED, .max_per_address = 1, .park_ms = VERBS_SOON);
    const char *shorter = large + sizeof(large) - 500001;       /* there is room for it and more */
    struct query first = { 0 }, gone = { .has_ticket = true }, last = { 0 };

    memset(large, 'x', sizeof(large) - 1);
    *large = 'N';
    be_acknowledged(pool, peer);
    query_peer_hear(peer, false);
    cr_assert_eq(start_query(&first, pool, query_peer_address(peer), large, NULL), POOL_OK);
    cr_assert_eq(start_query(&gone, pool, query_peer_address(peer), shorter, NULL), POOL_OK);
    cr_assert_eq(start_query(&last, pool, query_peer_address(peer), "Never", NULL), POOL_OK);
    cr_assert(wait_until(are_none_queued, pool, VERBS_SOON), "all are on the line");
    cr_expect(pool_ticket_cancel(gone.ticket));
    cr_assert(wait_answered(&gone));
    cr_expect_eq(gone.error.outcome, POOL_NOT_SENT);
    query_peer_hear(peer, true);
    be_acknowledged(pool, peer);
    cr_expect_eq(query_peer_requests(peer), 4);
    query_peer_reset(peer);
    cr_assert(wait_answered(&first) && wait_answered(&last));
    expect_words(&first, "the peer's system acknowledged the request");
    expect_words(&last, "the peer may have seen the request");
    pool_ticket_free(gone.ticket);
    pool_destroy(pool);
    query_peer_stop(peer);
}

Test(query_evidence, where_nothing_is_known_nothing_is_said)
{
    struct query query = { 0 };
    struct raw_frame frame;

    RAW_LINE(KEYED);
    cr_assert_eq(start_query(&query, raw_pool, RAW, "query", NULL), POOL_OK);
    cr_assert(raw_get(&frame));
    close(raw_end);
    raw_end = -1;
    cr_assert(wait_answered(&query));
    expect_words(&query, "the peer may have seen the request");
    raw_line_end();
}
