/* test_query_last.c: a request that ends its connection is the last one on it. What others ask goes
 * elsewhere, and is not lost with it. */
#include <criterion/criterion.h>
#include <string.h>

#include "pool/query_scene.h"

static struct pool_codec codec;

/* A request that ends so is the last one. */
static bool is_last(struct pool_bytes body)
{
    return body.size >= 4 && memcmp((const char *)body.data + body.size - 4, "last", 4) == 0;
}

static enum pool_status encode(void *state, enum pool_message_kind kind, uint64_t key,
                               struct pool_bytes body, struct pool_out *out,
                               struct pool_expect *expect)
{
    expect->closes = is_last(body);
    return pool_codec_line()->encode(state, kind, key, body, out, expect);
}

static long next(void *state, struct pool_bytes in, bool at_end, uint64_t hint,
                 struct pool_message *message)
{
    long taken = pool_codec_line()->next(state, in, at_end, hint, message);

    if (taken > 0)
        message->closes = is_last(message->body);
    return taken;
}

static void begin(uint32_t connections)
{
    codec = *pool_codec_line();
    codec.encode = encode;
    codec.next = next;
    QUERY_SCENE(.is_line = true);
    pool = MAKE_POOL(.codec = &codec, .max_per_address = connections);
}

TestSuite(query_last, .fini = query_scene_end, .timeout = 60);

static void start(struct query *query, const char *body)
{
    cr_assert_eq(start_query(query, pool, address, body, NULL), POOL_OK);
}

static void expect_answer(struct query *query, const char *body)
{
    cr_assert(wait_answered(query));
    cr_expect(is_answered_with(query, body));
}

static void expect_on(unsigned number, const char *body, unsigned nth)
{
    char asked[QUERY_PEER_KEPT];
    unsigned on;

    query_peer_request(peer, number, asked, &on);
    cr_expect_str_eq(asked, body);
    cr_expect_eq(on, nth, "%s: on %u", body, on);
}

Test(query_last, what_is_asked_behind_it_goes_to_another_connection)
{
    struct query first = { 0 }, last = { 0 }, other = { 0 };

    begin(2);
    start(&first, "Hfirst");
    start(&last, "Hlast");
    cr_assert(query_peer_wait_requests(peer, 2));
    start(&other, "other");
    expect_answer(&other, "other");
    expect_on(2, "other", 1);
    query_peer_release(peer);
    expect_answer(&first, "Hfirst");
    expect_answer(&last, "Hlast");
    cr_expect(query_peer_wait_open(peer, 1), "the other connection stays");
}

Test(query_last, what_is_asked_behind_it_waits_where_there_is_one_connection)
{
    struct query last = { 0 }, other[2] = { 0 };

    begin(1);
    start(&last, "Hlast");
    for (unsigned i = 0; i < 2; i++)
        start(&other[i], "other");
    cr_assert(query_peer_wait_requests(peer, 1));
    query_peer_release(peer);
    expect_answer(&last, "Hlast");
    for (unsigned i = 0; i < 2; i++) {
        expect_answer(&other[i], "other");
        expect_on(1 + i, "other", 1);
    }
    cr_expect_eq(query_peer_accepted(peer), 2);
}

Test(query_last, a_borrowed_connection_is_not_lent_again_after_it)
{
    struct pool_bytes reply;
    struct pool_conn conn;

    begin(1);
    codec.next = pool_codec_line()->next; /* the reply does not say so */
    cr_assert(borrow(pool, address, &conn));
    cr_expect_eq(pool_ask(&conn, POOL_TEXT("other"), &reply), POOL_OK);
    cr_expect_eq(pool_return(&conn), POOL_OK);
    cr_assert(borrow(pool, address, &conn));
    cr_expect_eq(query_peer_accepted(peer), 1);
    cr_expect_eq(pool_ask(&conn, POOL_TEXT("the last"), &reply), POOL_OK);
    cr_expect_eq(pool_return(&conn), POOL_OK);
    cr_expect(query_peer_wait_open(peer, 0));
}

static long next_says_always(void *state, struct pool_bytes in, bool at_end, uint64_t hint,
                             struct pool_message *message)
{
    long taken = pool_codec_line()->next(state, in, at_end, hint, message);

    message->closes = taken > 0;
    return taken;
}

/* As a server does that answers so many on a connection: here one, and reads no more. */
Test(query_last, what_may_be_repeated_moves_as_often_as_answers_end_connections)
{
    struct peer *ending = PEER(.behave = PEER_CLOSE_SENT, .after_bytes = sizeof("again\n") - 1);
    struct query queries[8] = { 0 };

    begin(1);
    codec.encode = pool_codec_line()->encode;
    codec.next = next_says_always;
    for (unsigned i = 0; i < 8; i++)
        cr_assert_eq(start_query(&queries[i], pool, peer_address(ending), "again",
                                 POOL_CALL(.timeout_ms = VERBS_SOON,
                                           .flags = POOL_SAFE_TO_REPEAT)),
                     POOL_OK);
    for (unsigned i = 0; i < 8; i++)
        expect_answer(&queries[i], "again");
    cr_expect_eq(peer_accepted(ending, 8), 8);
    pool_destroy(pool);
    pool = NULL;
    peer_stop(ending);
}

static long next_says_parts(void *state, struct pool_bytes in, bool at_end, uint64_t hint,
                            struct pool_message *message)
{
    long taken = next_says_always(state, in, at_end, hint, message);

    message->kind = POOL_PART;
    return taken;
}

/* Else it would be asked again for ever. */
Test(query_last, where_no_answer_was_whole_moving_is_bounded)
{
    struct peer *ending = PEER(.behave = PEER_CLOSE_SENT, .after_bytes = sizeof("again\n") - 1);
    struct query query = { 0 };

    begin(1);
    codec.encode = pool_codec_line()->encode;
    codec.next = next_says_parts;
    ask_and_wait(&query, pool, peer_address(ending), "again",
                 POOL_CALL(.timeout_ms = VERBS_SOON, .flags = POOL_SAFE_TO_REPEAT));
    cr_expect(has_failed_with(&query, POOL_E_CLOSED));
    cr_expect_leq(peer_count(ending, PEER_ACCEPTED), 5);
    pool_destroy(pool);
    pool = NULL;
    peer_stop(ending);
}
