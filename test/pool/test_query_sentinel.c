/* test_query_sentinel.c: before a connection whose stream may be out of step goes to somebody for
 * himself, the codec's sentinel proves that it is not. */
#include <criterion/criterion.h>
#include <string.h>

#include "pool/query_scene.h"

static struct pool_codec codec;

static void begin(const char *expected)
{
    codec = *pool_codec_line();
    codec.sentinel = text_bytes("in step?");
    codec.sentinel_reply = text_bytes(expected);
    QUERY_SCENE(.is_line = true);
    pool = MAKE_POOL(.codec = &codec, .park_ms = 10);
}

/* Takes the sentinel's own bytes for a part of a reply. */
static long next(void *state, struct pool_bytes in, bool at_end, uint64_t hint,
                 struct pool_message *message)
{
    long taken = pool_codec_line()->next(state, in, at_end, hint, message);

    if (taken > 0 && message->body.size == 8 && memcmp(message->body.data, "in step?", 8) == 0)
        message->kind = POOL_PART;
    return taken;
}

TestSuite(query_sentinel, .fini = query_scene_end, .timeout = 60);

static void give_one_up(void)
{
    struct query query = { 0 };

    ask_and_wait(&query, pool, address, "D800 late", POOL_CALL(.timeout_ms = 400));
    cr_expect(has_failed_with(&query, POOL_E_TIMEOUT_IN_TRANSFER));
    cr_expect(WAIT_STAT(pool, late_replies, 1));
}

Test(query_sentinel, is_asked_after_something_was_given_up)
{
    char body[QUERY_PEER_KEPT];
    unsigned nth;

    begin("in step?");
    give_one_up();
    cr_expect(WAIT_STAT(pool, idle, 1));
    cr_assert_eq(query_peer_requests(peer), 2);
    query_peer_request(peer, 1, body, &nth);
    cr_expect_str_eq(body, "in step?");
    cr_expect_eq(nth, 0);
}

Test(query_sentinel, is_not_asked_where_nothing_was_given_up)
{
    struct query query = { 0 };

    begin("in step?");
    ask_and_wait(&query, pool, address, "hello", NULL);
    cr_expect(is_answered_with(&query, "hello"));
    cr_expect(WAIT_STAT(pool, idle, 1));
    cr_expect_eq(query_peer_requests(peer), 1);
}

Test(query_sentinel, another_answer_ends_the_connection)
{
    begin("something else");
    give_one_up();
    cr_expect(query_peer_wait_open(peer, 0));
    cr_expect(WAIT_STAT(pool, total, 0));
    cr_expect_eq(query_peer_requests(peer), 2);
}

static void expect_no_part_is_taken(const char *expected)
{
    struct query query = { 0 };

    begin(expected);
    codec.next = next;
    give_one_up();
    cr_expect(query_peer_wait_open(peer, 0));
    ask_and_wait(&query, pool, address, "hello", NULL);
    cr_expect(is_answered_with(&query, "hello"));
    cr_expect_eq(query_peer_accepted(peer), 2);
}

Test(query_sentinel, a_part_of_an_answer_ends_the_connection_and_is_nobodys)
{
    expect_no_part_is_taken("something else");
}

Test(query_sentinel, a_part_that_reads_like_the_answer_is_none)
{
    expect_no_part_is_taken("in step?");
}
