/* test_query_moved.c: requests of which nothing was sent when their connection broke, on their way
 * to another one: each keeps what it was asked with, they go on in the order in which they were
 * asked, and however many they are, quickly. */
#include <criterion/criterion.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pool/query_scene.h"

#define ROOMY .write_high = 64u << 20, .max_per_address = 1

#define MANY 300u
#define LARGE 20000u

static char large[LARGE + 1];

/* The peer reads nothing at first, so most of what it is sent is not sent. */
static void begin(void)
{
    QUERY_SCENE(.is_deaf = true, .receive_buffer = 4096);
    memset(large, 'x', LARGE);
}

TestSuite(query_moved, .init = begin, .fini = query_scene_end, .timeout = 60);

/* The connection breaks, and the peer hears from then on. */
static void break_it(void)
{
    cr_assert(WAIT_STAT(pool, shared, 1));
    cr_assert(query_peer_wait_open(peer, 1));
    query_peer_reset(peer);
    query_peer_hear(peer, true);
}

Test(query_moved, a_posted_request_keeps_its_deadline)
{
    struct query last = { 0 }, next = { 0 };
    struct caller caller = { .pool = NULL };

    pool = MAKE_POOL(.codec = pool_codec_length(), ROOMY, .barge_ms = 60000);
    for (unsigned i = 0; i < MANY; i++)
        cr_assert_eq(pool_post_request(pool, address, text_bytes(large),
                                       POOL_CALL(.timeout_ms = 300)),
                     POOL_OK);
    cr_assert(WAIT_STAT(pool, shared, 1));
    cr_assert(queue_caller(&caller, pool, address, VERBS_SOON));
    break_it();
    cr_assert_eq(join_caller(&caller), POOL_OK);
    cr_assert_eq(start_query(&last, pool, address, "last", POOL_CALL(.timeout_ms = 600)), POOL_OK);
    cr_assert(wait_answered(&last));
    cr_expect(has_failed_with(&last, POOL_E_TIMEOUT));
    pool_return(&caller.conn);
    ask_and_wait(&next, pool, address, "next", NULL);
    cr_expect(is_answered_with(&next, "next"));
    cr_expect_eq(query_peer_requests(peer), 1);
}

/* Lines whose frames say which one of their connection they are. */
static enum pool_status encode(void *state, enum pool_message_kind kind, uint64_t key,
                               struct pool_bytes bytes, struct pool_out *out,
                               struct pool_expect *expect)
{
    unsigned *count = state;
    char number[16];
    int size = snprintf(number, sizeof(number), "%u:", (*count)++);

    (void)kind, (void)key;
    expect->replies = 1;
    pool_out_append(out, number, (size_t)size);
    pool_out_append(out, bytes.data, bytes.size);
    return pool_out_append(out, "\n", 1);
}

static struct query queries[MANY];

Test(query_moved, a_request_is_framed_anew_where_frames_depend_on_their_connection)
{
    static struct pool_codec codec;
    unsigned moved = 0;
    char text[QUERY_PEER_KEPT];

    QUERY_SCENE(.is_line = true, .is_deaf = true, .receive_buffer = 4096);
    codec = *pool_codec_line();
    codec.encode = encode;
    codec.write_state_size = sizeof(unsigned);
    pool = MAKE_POOL(.codec = &codec, ROOMY);
    for (unsigned i = 0; i < MANY; i++)
        cr_assert_eq(start_query(&queries[i], pool, address, large, NULL), POOL_OK);
    break_it();
    for (unsigned i = 0; i < MANY; i++) {
        cr_assert(wait_answered(&queries[i]));
        moved += !queries[i].status;
    }
    cr_expect_gt(moved, 0);
    cr_expect_eq(query_peer_requests(peer), moved);
    for (unsigned i = 0; i < moved; i++) {
        query_peer_request(peer, i, text, NULL);
        cr_expect_eq(strtoul(text, NULL, 10), i, "%s", text);
    }
}

/* ---- in which order */

TestSuite(query_moves, .init = begin, .fini = query_scene_end);

#define STUCK 8000000u /* bytes, more than the sockets hold */
#define MOVED 80000u

static char stuck_body[STUCK + 1];

/* The first one keeps all others from leaving; the peer reads nothing yet. */
static void ask_behind(struct query *stuck, struct query *others, unsigned count, uint32_t flags)
{
    char body[16];

    memset(stuck_body, 'x', STUCK);
    cr_assert_eq(start_query(stuck, pool, address, stuck_body, NULL), POOL_OK);
    cr_assert(WAIT_STAT(pool, shared, 1));
    for (unsigned i = 0; i < count; i++) {
        snprintf(body, sizeof(body), "%u.", i);
        cr_assert_eq(start_query(&others[i], pool, address, body,
                                 POOL_CALL(.timeout_ms = POOL_NONE, .flags = flags)),
                     POOL_OK);
    }
    cr_assert(query_peer_wait_open(peer, 1));
}

static void expect_in_order(unsigned count)
{
    char body[QUERY_PEER_KEPT];

    cr_expect_eq(query_peer_requests(peer), count);
    for (unsigned i = 0; i < count; i++) {
        query_peer_request(peer, i, body, NULL);
        cr_assert_eq(strtoul(body, NULL, 10), i, "%s came at %u", body, i);
    }
}

static atomic_uint answered;

/* Too many for a record each. */
static void count_answered(struct pool_reply *reply, void *user)
{
    (void)user;
    atomic_fetch_add(&answered, pool_reply_error(reply) == NULL);
    pool_reply_free(reply);
}

static bool are_all_answered(void *unused)
{
    (void)unused;
    return atomic_load(&answered) == MOVED;
}

Test(query_moves, they_keep_their_order_and_are_quick_however_many, .timeout = 120)
{
    struct query stuck = { 0 };
    uint64_t start_ms;
    char body[16];

    pool = MAKE_POOL(.codec = pool_codec_length(), ROOMY, .max_inflight = 2 * MOVED);
    ask_behind(&stuck, NULL, 0, 0);
    for (unsigned i = 0; i < MOVED; i++) {
        snprintf(body, sizeof(body), "%u.", i);
        cr_assert_eq(pool_query_async(pool, address, text_bytes(body), count_answered, NULL,
                                      POOL_CALL(.timeout_ms = POOL_NONE), NULL),
                     POOL_OK);
    }
    start_ms = now_ms();
    query_peer_reset(peer);
    query_peer_hear(peer, true);
    cr_assert(wait_until(are_all_answered, NULL, VERBS_SOON * slowness()));
    cr_expect_lt(elapsed_ms(start_ms), 2500 * slowness(), "it took %u ms",
                 (unsigned)elapsed_ms(start_ms));
    cr_assert(wait_answered(&stuck));
    cr_expect_eq(stuck.status, POOL_E_BROKEN);
    expect_in_order(MOVED);
    cr_expect_eq(STAT(pool, retries), MOVED);
}

/* The keys begin anew behind the second one, as it were: the one that moves first keeps its own. */
Test(query_moves, the_order_is_that_of_asking_whatever_the_keys)
{
    static struct pool_codec codec;
    struct query behind[20] = { { 0 } }, passing = { 0 }, stuck = { 0 };

    QUERY_SCENE();
    codec = *pool_codec_length();
    codec.key_limit = 30;
    pool = MAKE_POOL(.codec = &codec, ROOMY);
    for (unsigned i = 0; i < 20; i++) {
        passing = (struct query){ 0 };
        ask_and_wait(&passing, pool, address, "passing", NULL);
        cr_assert(is_answered_with(&passing, "passing"));
    }
    query_peer_hear(peer, false);
    ask_behind(&stuck, behind, 20, POOL_ORDERED);
    query_peer_reset(peer);
    query_peer_hear(peer, true);
    for (unsigned i = 0; i < 20; i++) {
        char body[QUERY_PEER_KEPT];

        cr_assert(wait_answered(&behind[i]));
        cr_assert_eq(behind[i].status, POOL_OK, "%s", behind[i].error.text);
        query_peer_request(peer, 20 + i, body, NULL);
        cr_expect_eq(strtoul(body, NULL, 10), i, "%s came at %u", body, i);
    }
    cr_assert(wait_answered(&stuck));
}
