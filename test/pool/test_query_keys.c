/* test_query_keys.c: keys of queries that are in use where others need them. */
#include <criterion/criterion.h>
#include <string.h>

#include "pool/query_scene.h"

static void begin(void)
{
    QUERY_SCENE(.receive_buffer = 4096);
}

TestSuite(query_keys, .init = begin, .fini = query_scene_end, .timeout = 60);

#define MANY 300u
#define LARGE 20000u

static void start_many(struct query *queries, unsigned count, const char *body)
{
    for (unsigned i = 0; i < count; i++)
        cr_assert_eq(start_query(&queries[i], pool, address, body, NULL), POOL_OK);
}

static unsigned count_untold(const struct query *queries, unsigned count)
{
    unsigned untold = 0;

    for (unsigned i = 0; i < count; i++)
        untold += !atomic_load(&queries[i].told);
    return untold;
}

/* So few keys come round: one connection carries long polls, with those that the frames of another
 * one have when that breaks. Its place is somebody else's then, so all that was not sent moves to
 * the first one. */
Test(query_keys, a_frame_that_moved_keeps_nobody_waiting_whose_key_is_free)
{
    static struct query held[MANY], moved[MANY];
    static struct pool_codec codec;
    static char body[LARGE + 1];
    struct query next = { 0 }, hasty = { 0 };
    struct caller caller = { .pool = NULL };

    codec = *pool_codec_length();
    codec.key_limit = MANY;
    memset(body, 'x', LARGE);
    pool = MAKE_POOL(.codec = &codec, .max_inflight = MANY, .max_per_address = 2,
                     .write_high = 64u << 20, .barge_ms = 60000);
    start_many(held, MANY / 2, "Hold");
    start_many(held + MANY / 2, MANY / 2, "Never");
    cr_assert(query_peer_wait_requests(peer, MANY));
    query_peer_hear(peer, false);
    start_many(moved, 1, "R");
    start_many(moved + 1, MANY - 1, body);
    cr_assert(WAIT_STAT(pool, shared, 2));
    query_peer_release(peer);
    for (unsigned i = 0; i < MANY / 2; i++)
        cr_assert(wait_answered(&held[i]));
    cr_assert(queue_caller(&caller, pool, address, VERBS_SOON));
    query_peer_hear(peer, true);
    cr_assert_eq(join_caller(&caller), POOL_OK);
    ask_and_wait(&next, pool, address, "next", POOL_CALL(.timeout_ms = 3000));
    cr_expect(is_answered_with(&next, "next"));
    ask_and_wait(&hasty, pool, address, "hasty",
                 POOL_CALL(.timeout_ms = 3000, .flags = POOL_DONT_WAIT));
    cr_expect(is_answered_with(&hasty, "hasty"));
    cr_expect_gt(count_untold(moved, MANY), 0, "none of them needs a key that is in use");
    pool_return(&caller.conn);
    for (unsigned i = 0; i < MANY; i++)
        cr_assert(wait_answered(&moved[i]));
}

static bool is_one_or_two(uint64_t key)
{
    return key <= 2;
}

static struct pool_codec few_keys(void)
{
    struct pool_codec codec = *pool_codec_length();

    codec.key_limit = 16;
    codec.key_allowed = is_one_or_two;
    return codec;
}

Test(query_keys, whoever_finds_all_keys_in_use_waits_for_one)
{
    static struct pool_codec codec;
    struct query held[2] = { { 0 } }, waits = { 0 }, hasty = { 0 };
    struct asker asker = { .query = { 0 } };

    codec = few_keys();
    pool = MAKE_POOL(.codec = &codec, .max_per_address = 1);
    start_many(held, 2, "Hold");
    cr_assert(query_peer_wait_requests(peer, 2));
    cr_assert_eq(start_query(&waits, pool, address, "waits", NULL), POOL_OK);
    cr_assert(start_asker(&asker, pool, address, "asker", NULL));
    cr_expect(WAIT_STAT(pool, queries, 4));
    cr_expect_eq(start_query(&hasty, pool, address, "hasty", POOL_CALL(.flags = POOL_DONT_WAIT)),
                 POOL_E_FULL);
    cr_expect_eq(waits.told, 0);
    query_peer_release(peer);
    cr_expect_eq(join_asker(&asker), POOL_OK);
    cr_assert(wait_answered(&waits));
    cr_expect(is_answered_with(&waits, "waits"));
    cr_expect(wait_answered(&held[0]) && wait_answered(&held[1]));
}

Test(query_keys, whoever_finds_all_keys_in_use_goes_to_another_line)
{
    static struct pool_codec codec;
    struct query held[4] = { { 0 } };

    codec = few_keys();
    pool = MAKE_POOL(.codec = &codec, .max_per_address = 2);
    start_many(held, 2, "Hold");
    cr_assert(query_peer_wait_requests(peer, 2));
    start_many(held + 2, 2, "Hold");
    cr_expect(query_peer_wait_requests(peer, 4));
    cr_expect_eq(query_peer_accepted(peer), 2);
    query_peer_release(peer);
    for (unsigned i = 0; i < 4; i++)
        cr_expect(wait_answered(&held[i]));
}

/* What was tried and found no key was never asked: those that were go in front of it. */
Test(query_keys, who_found_no_key_stays_behind_those_who_were_asked)
{
    static struct pool_codec codec;
    static struct query held, first, second, third;     /* told when the scene ends */
    const uint32_t safe = POOL_ORDERED | POOL_SAFE_TO_REPEAT;
    char body[QUERY_PEER_KEPT];
    unsigned nth;

    codec = few_keys();
    pool = MAKE_POOL(.codec = &codec, .max_per_address = 1);
    cr_assert_eq(start_query(&held, pool, address, "Hold", NULL), POOL_OK);
    cr_assert_eq(start_query(&first, pool, address, "Never 1", POOL_CALL(.flags = safe)), POOL_OK);
    cr_assert(query_peer_wait_requests(peer, 2));
    cr_assert_eq(start_query(&second, pool, address, "Never 2", POOL_CALL(.flags = safe)),
                 POOL_OK);
    cr_assert_eq(start_query(&third, pool, address, "third", POOL_CALL(.flags = POOL_ORDERED)),
                 POOL_OK);
    query_peer_release(peer);
    cr_assert(query_peer_wait_requests(peer, 3));
    query_peer_reset(peer);
    cr_expect(query_peer_wait_requests(peer, 5));
    query_peer_request(peer, 3, body, &nth);
    cr_expect_str_eq(body, "Never 1");
    query_peer_request(peer, 4, body, &nth);
    cr_expect_str_eq(body, "Never 2");
    cr_expect_eq(third.told, 0);
}

/* What is not to be answered still goes out with a key, and this peer answers everything. */
static enum pool_status encode_one_way(void *state, enum pool_message_kind kind, uint64_t key,
                                       struct pool_bytes body, struct pool_out *out,
                                       struct pool_expect *expect)
{
    enum pool_status status =
        pool_codec_length()->encode(state, kind, key, body, out, expect);

    if (body.size && *(const char *)body.data == '-')
        expect->replies = 0;
    return status;
}

Test(query_keys, the_key_of_what_is_not_to_be_answered_is_nobody_elses)
{
    static struct pool_codec codec;
    struct query one_way = { 0 }, query = { 0 };
    struct pool_bytes reply;
    struct pool_conn conn;

    codec = *pool_codec_length();
    codec.encode = encode_one_way;
    pool = MAKE_POOL(.codec = &codec, .max_per_address = 1);
    cr_assert_eq(start_query(&one_way, pool, address, "-not answered", NULL), POOL_OK);
    cr_assert_eq(start_query(&query, pool, address, "answered", NULL), POOL_OK);
    cr_assert(wait_answered(&query));
    cr_expect(is_answered_with(&query, "answered"), "%s", query.text);
    cr_assert(borrow(pool, address, &conn));
    cr_expect_eq(pool_ask(&conn, POOL_TEXT("-nor this"), &reply), POOL_OK);
    cr_expect_neq(pool_ask(&conn, POOL_TEXT("asked"), &reply), POOL_OK,
                  "it got what answers the one before: %.*s", (int)reply.size,
                  (const char *)reply.data);
    pool_discard(&conn);
}
