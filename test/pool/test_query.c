/* test_query.c: queries that go well: whose a reply is, what it says, how many share a connection,
 * and what the pool counts of it. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "support/queries.h"

#define KEYED .codec = pool_codec_length()
#define TURNS .codec = pool_codec_line()

Test(query, answers_a_lone_caller)
{
    struct query_peer *peer = QUERY_PEER();
    struct pool *pool = MAKE_POOL(KEYED);
    struct query query = { 0 };

    for (unsigned i = 0; i < 3; i++) {
        query = (struct query){ 0 };
        cr_assert_eq(ask_and_wait(&query, pool, query_peer_address(peer), "hello", NULL), POOL_OK);
        cr_expect(is_answered_with(&query, "hello"));
    }
    cr_expect_eq(query_peer_accepted(peer), 1);
    cr_expect_eq(STAT(pool, opened), 1);
    cr_expect_eq(STAT(pool, queries), 3);
    pool_destroy(pool);
    query_peer_stop(peer);
}

Test(query, carries_any_bytes_and_none)
{
    static const char odd[] = "\r\r\n\r\n\0\xff\x00\x01\r\r\n";
    struct query_peer *peer = QUERY_PEER();
    struct pool *pool = MAKE_POOL(KEYED);
    struct pool_reply *reply;

    for (size_t size = 0; size < sizeof(odd); size++) {
        cr_assert_eq(pool_query(pool, query_peer_address(peer),
                                (struct pool_bytes){ odd, size }, NULL, &reply),
                     POOL_OK);
        cr_expect_eq(pool_reply_bytes(reply).size, size);
        cr_expect(!memcmp(pool_reply_bytes(reply).data, odd, size));
        cr_expect_null(pool_reply_error(reply));
        pool_reply_free(reply);
    }
    pool_destroy(pool);
    query_peer_stop(peer);
}

Test(query, carries_what_is_larger_than_any_buffer)
{
    size_t size = 9u << 20;
    char *large = malloc(size);
    struct query_peer *peer = QUERY_PEER();
    struct pool *pool = MAKE_POOL(KEYED);
    struct pool_reply *reply;

    for (size_t i = 0; i < size; i++)
        large[i] = (char)('a' + i * 7 / 5 % 26);
    cr_assert_eq(pool_query(pool, query_peer_address(peer), (struct pool_bytes){ large, size },
                            NULL, &reply),
                 POOL_OK);
    cr_assert_eq(pool_reply_bytes(reply).size, size);
    cr_expect(!memcmp(pool_reply_bytes(reply).data, large, size));
    pool_reply_free(reply);
    pool_destroy(pool);
    query_peer_stop(peer);
    free(large);
}

static void *free_elsewhere(void *reply)
{
    struct pool_bytes bytes = pool_reply_bytes(reply);
    bool is_right = bytes.size == 5 && !memcmp(bytes.data, "hello", 5);

    pool_reply_free(reply);
    return is_right ? reply : NULL;
}

Test(query, a_reply_is_its_callers_on_any_thread_and_after_the_pool)
{
    struct query_peer *peer = QUERY_PEER();
    struct pool *pool = MAKE_POOL(KEYED);
    struct pool_reply *reply;
    pthread_t thread;
    void *was_right;

    cr_assert_eq(pool_query(pool, query_peer_address(peer), POOL_TEXT("hello"), NULL, &reply),
                 POOL_OK);
    pool_destroy(pool);
    query_peer_stop(peer);
    cr_assert_eq(pthread_create(&thread, NULL, free_elsewhere, reply), 0);
    pthread_join(thread, &was_right);
    cr_expect_not_null(was_right);
}

struct crowd {
    struct pool *pool;
    struct query_peer *peer;
    unsigned rounds;
    atomic_uint wrong;
};

static void ask_own(unsigned index, void *user)
{
    struct crowd *crowd = user;
    char body[32];

    for (unsigned i = 0; i < crowd->rounds; i++) {
        struct query query = { 0 };

        snprintf(body, sizeof(body), "%s own %u of %u", i % 7 ? "" : "D1", i, index);
        ask_and_wait(&query, crowd->pool, query_peer_address(crowd->peer), body, NULL);
        if (!is_answered_with(&query, body))
            atomic_fetch_add(&crowd->wrong, 1);
    }
}

Test(query, fifty_threads_share_one_connection_and_each_gets_its_own)
{
    struct query_peer *peer = QUERY_PEER();
    struct pool *pool = MAKE_POOL(KEYED);
    struct crowd crowd = { .pool = pool, .peer = peer, .rounds = 100 };

    cr_assert(run_threads(50, ask_own, &crowd));
    cr_expect_eq(crowd.wrong, 0);
    cr_expect_eq(query_peer_accepted(peer), 1, "%u", query_peer_accepted(peer));
    cr_expect_eq(STAT(pool, queries), 5000);
    pool_destroy(pool);
    query_peer_stop(peer);
}

Test(query, fifty_threads_share_one_connection_whose_replies_come_in_order)
{
    struct query_peer *peer = QUERY_PEER(.is_line = true);
    struct pool *pool = MAKE_POOL(TURNS);
    struct crowd crowd = { .pool = pool, .peer = peer, .rounds = 50 };

    cr_assert(run_threads(50, ask_own, &crowd));
    cr_expect_eq(crowd.wrong, 0);
    cr_expect_eq(query_peer_accepted(peer), 1);
    pool_destroy(pool);
    query_peer_stop(peer);
}

Test(query, threads_that_find_no_room_are_served_when_there_is_some)
{
    struct query_peer *peer = QUERY_PEER();
    struct pool *pool = MAKE_POOL(KEYED, .max_inflight = 4, .max_per_address = 1);
    struct crowd crowd = { .pool = pool, .peer = peer, .rounds = 20 };
    uint64_t start_ms = now_ms();

    cr_assert(run_threads(50, ask_own, &crowd));
    cr_expect_eq(crowd.wrong, 0);
    cr_expect_lt(elapsed_ms(start_ms), VERBS_SOON / 2);
    cr_expect_eq(query_peer_accepted(peer), 1);
    pool_destroy(pool);
    query_peer_stop(peer);
}

Test(query, waits_for_an_id_where_there_are_few)
{
    struct query_peer *peer = QUERY_PEER();
    struct pool_codec codec = *pool_codec_length();
    struct crowd crowd = { .peer = peer, .rounds = 20 };

    codec.key_limit = 3;
    crowd.pool = MAKE_POOL(.codec = &codec, .max_per_address = 1);
    cr_assert(run_threads(10, ask_own, &crowd));
    cr_expect_eq(crowd.wrong, 0);
    pool_destroy(crowd.pool);
    query_peer_stop(peer);
}

Test(query, a_slow_reply_holds_up_no_other)
{
    struct query_peer *peer = QUERY_PEER();
    struct pool *pool = MAKE_POOL(KEYED);
    struct asker slow = { .query = { 0 } };
    struct query query = { 0 };

    cr_assert(start_asker(&slow, pool, query_peer_address(peer), "Hold", NULL));
    cr_assert(query_peer_wait_requests(peer, 1));
    ask_and_wait(&query, pool, query_peer_address(peer), "quick", NULL);
    cr_expect(is_answered_with(&query, "quick"), "the reader's seat is handed on");
    cr_expect_eq(query_peer_release(peer), 1);
    cr_expect_eq(join_asker(&slow), POOL_OK);
    cr_expect(is_answered_with(&slow.query, "Hold"));
    cr_expect_eq(query_peer_accepted(peer), 1);
    pool_destroy(pool);
    query_peer_stop(peer);
}

Test(query, replies_in_any_order_find_their_callers)
{
    struct query_peer *peer = QUERY_PEER();
    struct pool *pool = MAKE_POOL(KEYED);
    struct asker askers[5] = { 0 };
    static const char *const bodies[] = { "H0", "H1", "H2", "H3", "H4" };

    for (unsigned i = 0; i < 5; i++) {
        cr_assert(start_asker(&askers[i], pool, query_peer_address(peer), bodies[i], NULL));
        cr_assert(query_peer_wait_requests(peer, i + 1));
    }
    cr_expect_eq(query_peer_release(peer), 5);
    for (unsigned i = 0; i < 5; i++) {
        join_asker(&askers[i]);
        cr_expect(is_answered_with(&askers[i].query, bodies[i]));
    }
    pool_destroy(pool);
    query_peer_stop(peer);
}

Test(query, an_error_of_the_peer_is_a_reply_that_says_so)
{
    struct query_peer *peer = QUERY_PEER();
    struct pool *pool = MAKE_POOL(KEYED);
    struct pool_reply *reply;

    cr_assert_eq(pool_query(pool, query_peer_address(peer), POOL_TEXT("Failed"), NULL, &reply),
                 POOL_OK);
    cr_expect(pool_reply_failed(reply));
    cr_expect_null(pool_reply_error(reply));
    cr_expect_eq(pool_reply_bytes(reply).size, 6);
    pool_reply_free(reply);
    pool_destroy(pool);
    query_peer_stop(peer);
}

/* ---- what comes besides */

Test(query, a_second_reply_and_one_that_nobody_asked_for_are_orphans)
{
    static const char *const bodies[] = { "Wtwice", "Unknown" };
    struct query_peer *peer = QUERY_PEER();
    struct orphans orphans = { 0 };
    struct pool *pool = MAKE_POOL(KEYED, .on_orphan = count_orphan, .user = &orphans);

    for (unsigned i = 0; i < 2; i++) {
        struct query query = { 0 }, next = { 0 };

        ask_and_wait(&query, pool, query_peer_address(peer), bodies[i], NULL);
        cr_expect(is_answered_with(&query, bodies[i]));
        ask_and_wait(&next, pool, query_peer_address(peer), "next", NULL);
        cr_expect(is_answered_with(&next, "next"));
        cr_assert(wait_orphans(&orphans, i + 1));
        cr_expect_str_eq(orphans.text, bodies[i]);
    }
    cr_expect_eq(STAT(pool, orphans), 2);
    cr_expect_eq(STAT(pool, late_replies), 0);
    cr_expect_eq(query_peer_accepted(peer), 1);
    pool_destroy(pool);
    query_peer_stop(peer);
}

Test(query, what_is_left_over_where_replies_come_in_order_ends_the_connection)
{
    struct query_peer *peer = QUERY_PEER(.is_line = true);
    struct pool *pool = MAKE_POOL(TURNS);
    struct query query = { 0 }, next = { 0 };

    ask_and_wait(&query, pool, query_peer_address(peer), "Wtwice", NULL);
    cr_expect(is_answered_with(&query, "Wtwice"));
    /* Whether the second one was read with the first or not, it is never the next one's. */
    ask_and_wait(&next, pool, query_peer_address(peer), "next", NULL);
    cr_expect(next.status || !strcmp(next.text, "next"), "%s", next.text);
    pool_destroy(pool);
    query_peer_stop(peer);
}

/* ---- one pool for queries and borrows */

Test(query, an_idle_line_goes_back_and_is_borrowed)
{
    struct query_peer *peer = QUERY_PEER();
    struct pool *pool = MAKE_POOL(KEYED, .park_ms = 20);
    struct query query = { 0 };
    struct pool_conn conn;

    ask_and_wait(&query, pool, query_peer_address(peer), "hello", NULL);
    cr_expect(is_answered_with(&query, "hello"));
    cr_expect(WAIT_STAT(pool, idle, 1));
    cr_expect_eq(STAT(pool, shared), 0);
    cr_assert(borrow(pool, query_peer_address(peer), &conn));
    cr_expect_eq(STAT(pool, opened), 1, "it is the same connection");
    cr_expect_eq(STAT(pool, lent), 1);
    cr_expect_eq(pool_return(&conn), POOL_OK);
    query = (struct query){ 0 };
    ask_and_wait(&query, pool, query_peer_address(peer), "again", NULL);
    cr_expect(is_answered_with(&query, "again"));
    cr_expect_eq(STAT(pool, opened), 1);
    pool_destroy(pool);
    query_peer_stop(peer);
}

Test(query, a_line_in_use_is_shared_and_not_lent)
{
    struct query_peer *peer = QUERY_PEER();
    struct pool *pool = MAKE_POOL(KEYED);
    struct query query = { 0 };
    struct pool_conn conn;

    cr_assert_eq(start_query(&query, pool, query_peer_address(peer), "Hold", NULL), POOL_OK);
    cr_assert(query_peer_wait_requests(peer, 1));
    cr_expect_eq(STAT(pool, shared), 1);
    cr_expect_eq(STAT(pool, lent), 0);
    cr_expect_eq(STAT(pool, total), 1);
    cr_assert(borrow(pool, query_peer_address(peer), &conn));
    cr_expect_eq(STAT(pool, lent), 1);
    cr_expect(query_peer_wait_open(peer, 2), "a borrower has a connection of his own");
    cr_expect_eq(pool_return(&conn), POOL_OK);
    query_peer_release(peer);
    cr_assert(wait_answered(&query));
    cr_expect(is_answered_with(&query, "Hold"));
    pool_destroy(pool);
    query_peer_stop(peer);
}

Test(query, a_borrower_gets_the_only_connection_though_queries_go_on)
{
    struct query_peer *peer = QUERY_PEER();
    struct pool *pool = MAKE_POOL(KEYED, .max_per_address = 1, .barge_ms = 1);
    struct query query = { 0 };
    struct caller caller = { 0 };

    ask_and_wait(&query, pool, query_peer_address(peer), "first", NULL);
    cr_assert(start_caller(&caller, pool, query_peer_address(peer), VERBS_SOON));
    for (unsigned i = 0; i < 100000 && !caller.is_back; i++) {
        query = (struct query){ 0 };
        ask_and_wait(&query, pool, query_peer_address(peer), "more",
                     POOL_CALL(.timeout_ms = 20));
    }
    cr_expect_eq(join_caller(&caller), POOL_OK);
    cr_expect_eq(query_peer_accepted(peer), 1);
    cr_expect_eq(pool_return(&caller.conn), POOL_OK);
    query = (struct query){ 0 };
    ask_and_wait(&query, pool, query_peer_address(peer), "after", NULL);
    cr_expect(is_answered_with(&query, "after"));
    pool_destroy(pool);
    query_peer_stop(peer);
}

/* ---- what is refused */

Test(query, refuses_what_cannot_be)
{
    struct query_peer *peer = QUERY_PEER();
    struct pool *pool = MAKE_POOL(KEYED), *bare = MAKE_POOL(), *lines = MAKE_POOL(TURNS);
    const char *address = query_peer_address(peer);
    struct pool_reply *reply = (struct pool_reply *)peer;
    struct query query = { 0 };

    cr_expect_eq(pool_query(bare, address, POOL_TEXT("x"), NULL, &reply), POOL_E_ARGUMENT);
    cr_expect_eq(pool_query(NULL, address, POOL_TEXT("x"), NULL, &reply), POOL_E_ARGUMENT);
    cr_expect_eq(pool_query(pool, NULL, POOL_TEXT("x"), NULL, &reply), POOL_E_ARGUMENT);
    cr_expect_eq(pool_query(pool, address, (struct pool_bytes){ NULL, 1 }, NULL, &reply),
                 POOL_E_ARGUMENT);
    cr_expect_eq(pool_query(pool, address, POOL_TEXT("x"), NULL, NULL), POOL_E_ARGUMENT);
    cr_expect_eq(pool_query(pool, "nonsense:", POOL_TEXT("x"), NULL, &reply), POOL_E_ADDRESS);
    cr_expect_eq(pool_query(lines, address, POOL_TEXT("x\ny"), NULL, &reply), POOL_E_ARGUMENT);
    cr_expect_eq(pool_query_async(pool, address, POOL_TEXT("x"), NULL, NULL, NULL, NULL),
                 POOL_E_ARGUMENT);
    cr_expect_eq(start_query(&query, bare, address, "x", NULL), POOL_E_ARGUMENT);
    cr_expect_eq(start_query(&query, NULL, address, "x", NULL), POOL_E_ARGUMENT);
    cr_expect_eq(pool_post_request(bare, address, POOL_TEXT("x"), NULL), POOL_E_ARGUMENT);
    cr_expect_eq(pool_post_request(pool, NULL, POOL_TEXT("x"), NULL), POOL_E_ARGUMENT);
    pool_reply_free(NULL);
    cr_expect_null(pool_reply_error(NULL));
    cr_expect_eq(pool_reply_bytes(NULL).size, 0);
    cr_expect_not(pool_reply_failed(NULL));
    pool_destroy(pool);
    pool_destroy(bare);
    pool_destroy(lines);
    cr_expect_eq(query.told, 0, "a start that fails never calls back");
    query_peer_stop(peer);
}

Test(query, refuses_a_request_that_is_too_large_and_ends_a_peer_that_says_too_much)
{
    struct query_peer *peer = QUERY_PEER();
    struct pool *pool = MAKE_POOL(KEYED, .max_message = 1000);
    char body[2000];
    struct query query = { 0 };
    enum pool_status status;

    memset(body, 'x', sizeof(body));
    body[1999] = 0;
    status = ask_and_wait(&query, pool, query_peer_address(peer), body, NULL);
    cr_expect(status == POOL_E_FULL || status == POOL_E_ARGUMENT, "%d", status);
    query = (struct query){ 0 };
    ask_and_wait(&query, pool, query_peer_address(peer), "P400", NULL);
    cr_expect(has_failed_with(&query, POOL_E_PROTOCOL));
    query = (struct query){ 0 };
    ask_and_wait(&query, pool, query_peer_address(peer), "next", NULL);
    cr_expect(is_answered_with(&query, "next"));
    pool_destroy(pool);
    query_peer_stop(peer);
}

/* ---- ids that make trouble elsewhere */

/* A program's own codec: the length codec with other ids on the wire. */
static uint32_t wire_offset;

static long next_shifted(void *state, struct pool_bytes in, bool at_end, uint64_t hint,
                         struct pool_message *out)
{
    long taken = pool_codec_length()->next(state, in, at_end, hint, out);

    if (taken > 0)
        out->key = (uint32_t)(out->key - wire_offset);
    return taken;
}

static enum pool_status encode_shifted(void *state, enum pool_message_kind kind, uint64_t key,
                                       struct pool_bytes body, struct pool_out *out,
                                       struct pool_expect *expect)
{
    return pool_codec_length()->encode(state, kind, (uint32_t)(key + wire_offset), body, out,
                                       expect);
}

static struct pool_codec shifted_codec(uint32_t offset, uint64_t key_limit)
{
    struct pool_codec codec = *pool_codec_length();

    wire_offset = offset;
    codec.next = next_shifted;
    codec.encode = encode_shifted;
    codec.key_limit = key_limit;
    return codec;
}

Test(query, passes_over_the_ids_that_spell_a_line_end)
{
    struct query_peer *peer = QUERY_PEER();
    struct pool_codec codec = shifted_codec(855299, UINT32_MAX - 855299);
    struct pool *pool = MAKE_POOL(.codec = &codec);

    for (uint32_t id = 855300; id <= 855312; id++) {
        struct query query = { 0 };

        ask_and_wait(&query, pool, query_peer_address(peer), "a\r\r\nb", NULL);
        cr_expect(is_answered_with(&query, "a\r\r\nb"));
        cr_expect_eq(query_peer_last_id(peer), id);
    }
    cr_expect_eq(query_peer_accepted(peer), 1);
    pool_destroy(pool);
    query_peer_stop(peer);
}

/* On the wire from 2^32 - 10 on; an old one is pending when its id would come again. */
Test(query, no_id_comes_again_while_its_reply_may_come)
{
    struct query_peer *peer = QUERY_PEER();
    struct pool_codec codec = shifted_codec(UINT32_MAX - 10, 9);
    struct pool *pool = MAKE_POOL(.codec = &codec);
    struct query old = { 0 }, given_up = { 0 };
    uint32_t old_id, given_up_id;

    cr_assert_eq(start_query(&old, pool, query_peer_address(peer), "Hold", NULL), POOL_OK);
    cr_assert(query_peer_wait_requests(peer, 1));
    old_id = query_peer_last_id(peer);
    cr_expect_eq(old_id, UINT32_MAX - 9);
    ask_and_wait(&given_up, pool, query_peer_address(peer), "Hgiven up",
                 POOL_CALL(.timeout_ms = 10));
    given_up_id = query_peer_last_id(peer);
    for (unsigned i = 0; i < 100; i++) {
        struct query query = { 0 };

        ask_and_wait(&query, pool, query_peer_address(peer), "wrapping", NULL);
        cr_expect(is_answered_with(&query, "wrapping"));
        cr_expect_neq(query_peer_last_id(peer), old_id);
        cr_expect_neq(query_peer_last_id(peer), given_up_id);
    }
    query_peer_release(peer);
    cr_assert(wait_answered(&old));
    cr_expect(is_answered_with(&old, "Hold"));
    cr_expect_eq(query_peer_accepted(peer), 1);
    pool_destroy(pool);
    query_peer_stop(peer);
}
