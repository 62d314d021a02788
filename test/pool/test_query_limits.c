/* test_query_limits.c: how many queries one connection carries, what becomes of those beyond that,
 * and what is kept for a peer that does not read. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "pool/raw_line.h"
#include "support/frames.h"
#include "support/queries.h"
#include "support/tests.h"

#define KEYED .codec = pool_codec_length()

Test(query_limits, beyond_the_limits_it_waits_or_is_refused_as_asked)
{
    struct query_peer *peer = QUERY_PEER();
    struct pool *pool =
        MAKE_POOL(KEYED, .max_inflight = 2, .max_per_address = 1, .max_waiters = 1);
    struct query held[2] = { { 0 } }, waits = { 0 }, refused = { 0 }, hasty = { 0 };
    const char *address = query_peer_address(peer);

    for (unsigned i = 0; i < 2; i++) {
        cr_assert_eq(start_query(&held[i], pool, address, "Hold", NULL), POOL_OK);
        cr_assert(query_peer_wait_requests(peer, i + 1));
    }
    cr_expect_eq(start_query(&hasty, pool, address, "hasty",
                             POOL_CALL(.flags = POOL_DONT_WAIT)),
                 POOL_E_FULL);
    cr_assert_eq(start_query(&waits, pool, address, "waits", NULL), POOL_OK);
    cr_expect_eq(start_query(&refused, pool, address, "refused", NULL), POOL_E_FULL);
    cr_expect_eq(waits.told, 0);
    query_peer_release(peer);
    cr_assert(wait_answered(&waits));
    cr_expect(is_answered_with(&waits, "waits"));
    cr_expect(wait_answered(&held[0]) && wait_answered(&held[1]));
    cr_expect_eq(query_peer_accepted(peer), 1);
    cr_expect_eq(hasty.told + refused.told, 0);
    pool_destroy(pool);
    query_peer_stop(peer);
}

Test(query_limits, a_full_connection_gets_a_neighbour_also_for_who_does_not_wait)
{
    struct query_peer *peer = QUERY_PEER();
    struct pool *pool = MAKE_POOL(KEYED, .max_inflight = 1, .max_per_address = 2);
    struct query first = { 0 }, second = { 0 }, third = { 0 };
    const char *address = query_peer_address(peer);

    cr_assert_eq(start_query(&first, pool, address, "Hold", NULL), POOL_OK);
    cr_assert(query_peer_wait_requests(peer, 1));
    cr_assert_eq(start_query(&second, pool, address, "Hold", POOL_CALL(.flags = POOL_DONT_WAIT)),
                 POOL_OK);
    cr_assert(query_peer_wait_requests(peer, 2));
    cr_expect_eq(query_peer_accepted(peer), 2);
    cr_expect_eq(STAT(pool, shared), 2);
    cr_expect_eq(start_query(&third, pool, address, "third", POOL_CALL(.flags = POOL_DONT_WAIT)),
                 POOL_E_FULL);
    query_peer_release(peer);
    cr_expect(wait_answered(&first) && wait_answered(&second));
    pool_destroy(pool);
    query_peer_stop(peer);
}

Test(query_limits, without_waiters_what_is_opened_for_it_is_waited_for)
{
    struct query_peer *peer = QUERY_PEER();
    struct pool *pool = MAKE_POOL(KEYED, .max_waiters = POOL_ZERO, .max_inflight = 1,
                                  .max_per_address = 1);
    struct query first = { 0 }, second = { 0 };

    cr_assert_eq(start_query(&first, pool, query_peer_address(peer), "Hold", NULL), POOL_OK);
    cr_assert(query_peer_wait_requests(peer, 1));
    cr_expect_eq(start_query(&second, pool, query_peer_address(peer), "second", NULL),
                 POOL_E_FULL);
    query_peer_release(peer);
    cr_assert(wait_answered(&first));
    cr_expect(is_answered_with(&first, "Hold"));
    pool_destroy(pool);
    query_peer_stop(peer);
}

Test(query_limits, a_peer_that_does_not_read_bounds_what_is_kept_for_it)
{
    static char body[10001];
    struct query_peer *peer = QUERY_PEER(.is_deaf = true, .receive_buffer = 4096);
    struct pool *pool = MAKE_POOL(KEYED, .max_per_address = 1, .max_waiters = 10,
                                  .write_high = 100000);
    struct query *queries = calloc(5000, sizeof(*queries));
    unsigned asked = 0;

    memset(body, 'x', 10000);
    while (asked < 5000 &&
           !start_query(&queries[asked], pool, query_peer_address(peer), body, NULL))
        asked++;
    cr_expect_lt(asked, 5000, "it would keep any amount");
    query_peer_hear(peer, true);
    for (unsigned i = 0; i < asked; i++) {
        cr_assert(wait_answered(&queries[i]));
        cr_expect_eq(queries[i].size, 10000);
    }
    pool_destroy(pool);
    query_peer_stop(peer);
    free(queries);
}

/* What the socket takes can be withdrawn no more: it takes little that the peer does not. */
Test(query_limits, a_peer_that_does_not_read_is_sent_little_of_what_is_given_up)
{
    static char body[10001];
    static struct query queries[1000];
    struct query_peer *peer = QUERY_PEER(.is_deaf = true, .receive_buffer = 4096);
    struct pool *pool = MAKE_POOL(KEYED, .max_per_address = 1, .write_high = 100000);
    struct query next = { 0 };

    memset(body, 'x', 10000);
    for (unsigned i = 0; i < 1000; i++)
        cr_assert_eq(start_query(&queries[i], pool, query_peer_address(peer), body,
                                 POOL_CALL(.timeout_ms = 100)),
                     POOL_OK);
    for (unsigned i = 0; i < 1000; i++)
        cr_assert(wait_answered(&queries[i]));
    query_peer_hear(peer, true);
    ask_and_wait(&next, pool, query_peer_address(peer), "next", NULL);
    cr_expect(is_answered_with(&next, "next"));
    cr_expect_lt(query_peer_requests(peer), 100);
    pool_destroy(pool);
    query_peer_stop(peer);
}

#define POSTED 300u
#define LARGE 20000u

/* The peer reads nothing: some are sent, the others are not, and nobody waits for any of them. */
Test(query_limits, posted_requests_that_were_not_sent_move_to_another_connection)
{
    static char body[LARGE + 1];
    struct query_peer *peer = QUERY_PEER(.is_deaf = true, .receive_buffer = 4096);
    struct pool *pool = MAKE_POOL(.codec = pool_codec_length(), .write_high = 64u << 20,
                                  .max_per_address = 1);

    memset(body, 'x', LARGE);
    for (unsigned i = 0; i < POSTED; i++)
        cr_assert_eq(pool_post_request(pool, query_peer_address(peer),
                                       (struct pool_bytes){ body, LARGE },
                                       POOL_CALL(.timeout_ms = VERBS_SOON)),
                     POOL_OK);
    cr_assert(WAIT_STAT(pool, shared, 1));
    cr_assert(query_peer_wait_open(peer, 1));
    query_peer_reset(peer);
    query_peer_hear(peer, true);
    cr_expect(query_peer_wait_requests(peer, POSTED / 6));
    pool_destroy(pool);
    query_peer_stop(peer);
}

/* Two late replies are more than one message may be. */
static void give_up_too_much(struct pool *pool, struct query_peer *peer)
{
    static char body[3000] = "Hold ";
    struct query late[2] = { { 0 } };

    memset(body + 5, 'x', sizeof(body) - 6);
    for (unsigned i = 0; i < 2; i++) {
        cr_assert_eq(start_query(&late[i], pool, query_peer_address(peer), body,
                                 POOL_CALL(.timeout_ms = 100)),
                     POOL_OK);
        cr_expect(wait_answered(&late[i]));
        cr_expect(has_failed_with(&late[i], POOL_E_TIMEOUT_IN_TRANSFER));
    }
}

Test(query_limits, what_is_swallowed_for_late_queries_is_bounded)
{
    struct query_peer *peer = QUERY_PEER();
    struct pool *pool = MAKE_POOL(KEYED, .max_message = 4096, .max_per_address = 1);
    struct query first = { 0 }, next = { 0 };

    ask_and_wait(&first, pool, query_peer_address(peer), "first", NULL);
    give_up_too_much(pool, peer);
    query_peer_release(peer);
    cr_expect(query_peer_wait_open(peer, 0));
    ask_and_wait(&next, pool, query_peer_address(peer), "next", NULL);
    cr_expect(is_answered_with(&next, "next"));
    cr_expect_eq(query_peer_accepted(peer), 2);
    pool_destroy(pool);
    query_peer_stop(peer);
}

Test(query_limits, who_has_asked_where_too_much_is_swallowed_is_answered)
{
    struct query_peer *peer = QUERY_PEER();
    struct pool *pool = MAKE_POOL(KEYED, .max_message = 4096, .park_ms = 60000);
    struct query first = { 0 }, held = { 0 }, next = { 0 };

    ask_and_wait(&first, pool, query_peer_address(peer), "first", NULL);
    give_up_too_much(pool, peer);
    cr_assert_eq(start_query(&held, pool, query_peer_address(peer), "D500 this", NULL), POOL_OK);
    cr_assert(query_peer_wait_requests(peer, 4));
    query_peer_release(peer);
    cr_assert(wait_answered(&held));
    cr_expect(is_answered_with(&held, "D500 this"));
    cr_expect(query_peer_wait_open(peer, 0));
    cr_expect_eq(STAT(pool, late_replies), 2);
    ask_and_wait(&next, pool, query_peer_address(peer), "next", NULL);
    cr_expect(is_answered_with(&next, "next"));
    cr_expect_eq(query_peer_accepted(peer), 2);
    pool_destroy(pool);
    query_peer_stop(peer);
}

/* One that can be canceled is not received for by its own thread, so the mux must. */
Test(query_limits, what_can_be_canceled_is_answered_on_a_line_that_was_quiet)
{
    struct query_peer *peer = QUERY_PEER();
    struct pool *pool = MAKE_POOL(KEYED, .park_ms = VERBS_SOON);
    struct query first = { 0 }, second = { 0 };
    struct pool_ticket *ticket;
    uint64_t start_ms;

    ask_and_wait(&first, pool, query_peer_address(peer), "first", NULL);
    cr_expect(is_answered_with(&first, "first"));
    start_ms = now_ms();
    ask_and_wait(&second, pool, query_peer_address(peer), "second",
                 POOL_CALL(.timeout_ms = VERBS_SOON, .ticket = &ticket));
    cr_expect(is_answered_with(&second, "second"));
    cr_expect_lt(elapsed_ms(start_ms), VERBS_SOON / 2);
    pool_ticket_free(ticket);
    pool_destroy(pool);
    query_peer_stop(peer);
}

static struct pool *nested_pool;
static const char *nested_address;
static struct query nested;

/* Asks the same peer, over the same line, while a part of another reply is being told. */
static void ask_inside(struct pool_bytes part, void *user)
{
    (void)part;
    (void)user;
    if (!nested.told)
        ask_and_wait(&nested, nested_pool, nested_address, "inside", NULL);
}

Test(query_limits, whoever_is_told_a_part_may_ask_again_meanwhile)
{
    struct query_peer *peer = QUERY_PEER();
    struct query parts = { 0 };

    nested_pool = MAKE_POOL(KEYED, .max_per_address = 1);
    nested_address = query_peer_address(peer);
    ask_and_wait(&parts, nested_pool, nested_address, "P5",
                 POOL_CALL(.timeout_ms = VERBS_SOON, .on_part = ask_inside));
    cr_expect_eq(parts.status, POOL_OK);
    cr_expect(is_answered_with(&nested, "inside"));
    pool_destroy(nested_pool);
    query_peer_stop(peer);
}

/* ---- requests of the peer */

static struct pool_responder *kept[4];
static unsigned heard;

static void keep_four(struct pool_responder *responder, struct pool_bytes request, void *user)
{
    (void)user;
    if (heard < 4)
        kept[heard] = responder;
    else
        pool_respond(responder, request);
    heard++;
}

static void dispatch_until_heard(struct pool_mux *mux, unsigned count)
{
    uint64_t start_ms = now_ms();

    while (heard < count && elapsed_ms(start_ms) < VERBS_SOON)
        pool_mux_dispatch(mux, 10);
    cr_assert_eq(heard, count);
}

/* Four are under way, so the fifth waits in what was received; the peer answers nobody before it
 * has its answer, and says nothing more. */
Test(query_limits, a_request_that_was_held_up_is_heard_though_somebody_waits_for_his_reply)
{
    struct asker asker = { .query = { 0 } };
    struct pool_mux *mux;
    struct pool *pool;
    char bytes[256];
    size_t size = 0;
    int ends[2];

    cr_assert_eq(pool_mux_create(&mux), POOL_OK);
    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    pool = MAKE_POOL(KEYED, .mux = mux, .on_request = keep_four, .max_inflight = 4,
                     .max_per_address = 1);
    cr_assert_eq(pool_adopt(pool, "unix:///peer", ends[0]), POOL_OK);
    for (unsigned i = 1; i <= 5; i++)
        size += frame_write(bytes + size, i, FRAME_REQUEST, "ask");
    cr_assert(write_exactly(ends[1], bytes, size, VERBS_SOON));
    dispatch_until_heard(mux, 4);
    pool_respond(kept[0], text_bytes("one"));
    cr_assert(start_asker(&asker, pool, "unix:///peer", "mine", NULL));
    cr_assert(read_exactly(ends[1], bytes, 15 + 16, VERBS_SOON));
    cr_expect_eq(memcmp(bytes + 27, "mine", 4), 0);
    dispatch_until_heard(mux, 5);
    pool_mux_dispatch(mux, 0);
    cr_expect(read_exactly(ends[1], bytes, 15, VERBS_SOON));
    cr_expect_eq(memcmp(bytes + 4, "\0\0\0\5\0\0\0\2ask", 11), 0);
    size = frame_write(bytes, 1, FRAME_REPLY, "mine");
    cr_assert(write_exactly(ends[1], bytes, size, VERBS_SOON));
    cr_expect_eq(join_asker(&asker), POOL_OK);
    cr_expect(is_answered_with(&asker.query, "mine"));
    for (unsigned i = 1; i < 4; i++)
        pool_respond(kept[i], text_bytes("late"));
    pool_destroy(pool);
    pool_mux_destroy(mux);
    close(ends[1]);
}

/* ---- several answers to one request */

#define PING "*1\r\n$4\r\nPING\r\n"

static void answer_all(const char *requests, const char *bytes)
{
    char requests_read[64];

    cr_assert(read_exactly(raw_end, requests_read, strlen(requests), VERBS_SOON));
    cr_assert(write_exactly(raw_end, bytes, strlen(bytes), VERBS_SOON));
}

Test(query_limits, answers_that_belong_together_are_bounded_together)
{
    struct query whole = { 0 }, beyond = { 0 }, next = { 0 };

    RAW_LINE(.codec = pool_codec_resp(), .max_message = 50);
    cr_assert_eq(start_query(&whole, raw_pool, RAW, PING PING, NULL), POOL_OK);
    answer_all(PING PING, "+just long enough\r\n+by the two of them is this\r\n");
    cr_assert(wait_answered(&whole));
    cr_expect(is_answered_with(&whole, "+just long enough\r\n+by the two of them is this\r\n"));
    cr_assert_eq(start_query(&beyond, raw_pool, RAW, PING PING, NULL), POOL_OK);
    cr_assert_eq(start_query(&next, raw_pool, RAW, PING, NULL), POOL_OK);
    answer_all(PING PING PING,
               "+it is long enough for one\r\n+and not enough for both of them\r\n+next\r\n");
    cr_assert(wait_answered(&beyond));
    cr_expect(has_failed_with(&beyond, POOL_E_PROTOCOL));
    cr_expect_eq(beyond.error.outcome, POOL_ANSWERED);
    cr_assert(wait_answered(&next));
    cr_expect(is_answered_with(&next, "+next\r\n"));
    raw_line_end();
}
