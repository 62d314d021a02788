/* test_ask_loans.c: what pool_ask() keeps from one exchange to the next, and what a loan leaves due
 * to the next one. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "commpool/codec.h"
#include "pool/raw_line.h"
#include "support/query_peer.h"

TestSuite(ask_loans, .timeout = 60);

#define LATER 60000u /* ms until something is parked */

static struct pool_conn conn;

static void take(void)
{
    cr_assert_eq(pool_borrow(raw_pool, RAW, POOL_CALL(.timeout_ms = VERBS_SOON), &conn), POOL_OK);
}

static void give_back(unsigned kept)
{
    cr_expect_eq(pool_return(&conn), POOL_OK);
    cr_expect_eq(STAT(raw_pool, idle), kept);
}

static void say(const char *text)
{
    cr_assert(write_exactly(raw_end, text, strlen(text), VERBS_SOON));
}

static void expect_line(const char *expected)
{
    char line[32] = "";

    cr_assert(raw_get_line(line, sizeof(line)));
    cr_expect_str_eq(line, expected);
}

/* ---- the state for writing */

/* Lines that say which one of their connection they are. */
static enum pool_status encode_counted(void *state, enum pool_message_kind kind, uint64_t key,
                                       struct pool_bytes body, struct pool_out *out,
                                       struct pool_expect *expect)
{
    unsigned *count = state;
    char number[16];
    int size = snprintf(number, sizeof(number), "%u:", ++*count);
    enum pool_status status = pool_out_append(out, number, (size_t)size);

    return status ? status : pool_codec_line()->encode(NULL, kind, key, body, out, expect);
}

static const struct pool_codec *counted_lines(void)
{
    static struct pool_codec codec;

    codec = *pool_codec_line();
    codec.encode = encode_counted;
    codec.write_state_size = sizeof(unsigned);
    return &codec;
}

static void begin_counted(void)
{
    RAW_LINE(.codec = counted_lines(), .park_ms = LATER);
    take();
}

/* By hand, on a handle that may be a copy. */
static void ask_as(struct pool_conn *handle, const char *expected)
{
    struct pool_bytes reply;

    say("ok\n");
    cr_expect_eq(pool_ask(handle, text_bytes("x"), &reply), POOL_OK);
    expect_line(expected);
}

Test(ask_loans, copies_of_a_handle_share_the_state_and_the_next_loan_begins_anew)
{
    struct pool_conn copy;

    begin_counted();
    copy = conn;
    ask_as(&conn, "1:x");
    ask_as(&copy, "2:x");
    ask_as(&conn, "3:x");
    give_back(1);
    take();
    ask_as(&conn, "1:x");
    ask_as(&conn, "2:x");
    give_back(1);
    raw_line_end();
}

Test(ask_loans, behind_queries_the_state_begins_anew)
{
    struct query query = { 0 };

    begin_counted();
    ask_as(&conn, "1:x");
    ask_as(&conn, "2:x");
    give_back(1);
    cr_assert_eq(start_query(&query, raw_pool, RAW, "q", NULL), POOL_OK);
    expect_line("1:q");
    say("answer\n");
    cr_assert(wait_answered(&query));
    take();
    ask_as(&conn, "1:x");
    give_back(1);
    raw_line_end();
}

static void expect_echo(struct pool_conn *handle, const char *expected)
{
    struct pool_bytes reply = { 0 };

    cr_expect_eq(pool_ask(handle, text_bytes("x"), &reply), POOL_OK);
    cr_expect(reply.size == strlen(expected) && !memcmp(reply.data, expected, reply.size));
}

static int ask_twice(struct pool_conn *fresh, void *user)
{
    (void)user;
    expect_echo(fresh, "1:x");
    expect_echo(fresh, "2:x");
    return 0;
}

Test(ask_loans, behind_prepare_the_state_begins_anew)
{
    struct query_peer *peer = QUERY_PEER(.is_line = true);
    struct pool *pool = MAKE_POOL(.codec = counted_lines(), .prepare = ask_twice);

    cr_assert(borrow(pool, query_peer_address(peer), &conn));
    expect_echo(&conn, "1:x");
    expect_echo(&conn, "2:x");
    cr_expect_eq(pool_return(&conn), POOL_OK);
    pool_destroy(pool);
    query_peer_stop(peer);
}

Test(ask_loans, a_detached_connection_keeps_its_state)
{
    begin_counted();
    ask_as(&conn, "1:x");
    cr_assert_eq(pool_detach(&conn), POOL_OK);
    ask_as(&conn, "2:x");
    cr_expect_eq(pool_discard(&conn), POOL_OK);
    raw_line_end();
}

/* ---- what is due */

#define ONE_WAY "set k 0 0 1 noreply\r\nx\r\n"

static void ask_one_way(void)
{
    struct pool_bytes reply;

    cr_expect_eq(pool_ask(&conn, text_bytes(ONE_WAY), &reply), POOL_OK);
    cr_expect_eq(reply.size, 0);
}

Test(ask_loans, what_asks_for_nothing_makes_no_earlier_answer_less_due)
{
    RAW_LINE(.codec = pool_codec_memcached());
    take();
    ask_one_way();
    cr_assert_eq(pool_send(&conn, "version\r\n", 9), POOL_OK);
    ask_one_way();
    give_back(0);
    cr_expect_eq(STAT(raw_pool, closed[POOL_CLOSE_DIRTY]), 1);
    raw_line_end();
}

Test(ask_loans, what_asks_for_nothing_leaves_nothing_due)
{
    char version[11];

    RAW_LINE(.codec = pool_codec_memcached());
    take();
    cr_assert_eq(pool_send(&conn, "version\r\n", 9), POOL_OK);
    say("VERSION 1\r\n");
    cr_expect_eq(pool_recv_exact(&conn, version, sizeof(version)), POOL_OK);
    ask_one_way();
    ask_one_way();
    give_back(1);
    raw_line_end();
}
