/* test_query_surplus.c: where replies come in order, a peer that answers once too often answers
 * nobody with that who asks later, whenever the surplus comes, and in whatever pieces. */
#include <criterion/criterion.h>
#include <string.h>
#include <sys/socket.h>

#include "base/os.h"
#include "pool/raw_line.h"
#include "support/query_script.h"

TestSuite(query_surplus, .timeout = 60);

#define ALONE .max_per_address = 1

static void end(void)
{
    cr_expect(script_end());
}

static void say(const char *text)
{
    world_say_text(world_link_at(script.peer, 0), text);
    world_settle(script.world);
}

/* ---- behind a reply upon which the next query of the queue is asked */

static struct pl_os door;
static size_t cut; /* bytes that the next receive finds; 0: all */

/* It may be set while somebody waits here. */
static ssize_t receive_cut(int fd, void *buffer, size_t size, int flags)
{
    char first;
    ssize_t got = world_os(script.world)->recv(fd, &first, 1, flags | MSG_PEEK);
    bool is_cut = cut && !(flags & MSG_PEEK);

    if (got <= 0)
        return got;
    got = world_os(script.world)->recv(fd, buffer, is_cut ? cut : size, flags);
    cut = is_cut ? 0 : cut;
    return got;
}

static struct query queued;

/* Both lines are there at once, and two receives take them. */
static void answer_twice(struct world_link *link)
{
    cut = strlen("first\n");
    world_say_text(link, "first\nextra\n");
}

static void begin_cut(void)
{
    queued = (struct query){ 0 };
    cut = 0;
    script_begin(SPEAK_LINE, POOL_OPTIONS(ALONE, .max_inflight = 1), NULL);
    door = *world_os(script.world);
    door.recv = receive_cut;
    pl_os_replace(&door);
}

static void expect_asked_elsewhere(void)
{
    world_settle(script.world);
    cr_expect(script_is_answered(&queued, "queued"));
    cr_expect_eq(world_counts(script.peer).accepted, 2);
    cr_expect_eq(cut, 0);
    end();
}

static void answer_the_second_link(const struct script_request *request, struct pool_bytes token)
{
    if (world_link_nth(request->link))
        script_answer(request, token);
}

Test(query_surplus, is_no_answer_to_the_next_of_the_queue_where_the_mux_reads)
{
    struct query first = { 0 };

    begin_cut();
    script.on_request = answer_the_second_link;
    cr_assert_eq(script_ask(&first, "first", NULL), POOL_OK);
    cr_assert_eq(script_ask(&queued, "queued", NULL), POOL_OK);
    world_settle(script.world);
    cr_assert_eq(script.count, 1);
    answer_twice(script.requests[0].link);
    world_settle(script.world);
    cr_expect(script_is_answered(&first, "first"));
    expect_asked_elsewhere();
}

static void have_one_queued(const struct script_request *request, struct pool_bytes token)
{
    answer_the_second_link(request, token);
    if (script.count > 1)
        return;
    cr_assert_eq(script_ask(&queued, "queued", NULL), POOL_OK);
    answer_twice(request->link);
}

Test(query_surplus, is_no_answer_to_the_next_of_the_queue_where_a_thread_reads)
{
    struct query first = { 0 };

    begin_cut();
    script.on_request = have_one_queued;
    cr_expect_eq(script_ask_and_wait(&first, "first", NULL), POOL_OK);
    cr_expect(script_is_answered(&first, "first"));
    expect_asked_elsewhere();
}

/* ---- half of it before the query leaves, half behind */

#define NARROW 50u                      /* bytes on the wire, which is slow */

static enum pool_status encode_one_way(void *state, enum pool_message_kind kind, uint64_t key,
                                       struct pool_bytes body, struct pool_out *out,
                                       struct pool_expect *expect)
{
    enum pool_status status =
        pool_codec_line()->encode(state, kind, key, body, out, expect);

    if (body.size && *(const char *)body.data == '-')
        expect->replies = 0;
    return status;
}

static bool has_come(unsigned count)
{
    for (unsigned i = 0; i < 1000 && script.count < count; i++)
        world_run(script.world, 1);
    return script.count == count;
}

/* The wire is full of what nobody answers, the query waits behind it, and half a reply comes. */
static void play_half(bool is_one_due)
{
    static struct pool_codec codec;
    struct query due = { 0 }, one_way = { 0 }, unsent = { 0 };
    char long_token[200];

    memset(long_token, '-', sizeof(long_token));
    long_token[sizeof(long_token) - 1] = 0;
    codec = *pool_codec_line();
    codec.encode = encode_one_way;
    script_begin(SPEAK_LINE, POOL_OPTIONS(ALONE, .codec = &codec),
                 &(struct world_peer_options){ .window = NARROW, .latency_us = 10000 });
    cr_assert_eq(script_ask(&due, "due", NULL), POOL_OK);
    cr_assert(has_come(1));
    if (!is_one_due)
        say("due\n");
    cr_assert_eq(script_ask(&one_way, long_token, NULL), POOL_OK);
    cr_assert_eq(script_ask(&unsent, "unsent", NULL), POOL_OK);
    world_say_text(script.requests[0].link, is_one_due ? "due\nex" : "ex");
    world_run(script.world, 15);
    cr_assert_eq(script.count, 1);
    cr_expect(script_is_answered(&due, "due"));
    cr_assert(has_come(3));
    say("tra\n");
    cr_expect(has_failed_with(&unsent, POOL_E_PROTOCOL), "\"%s\" is no answer", unsent.text);
    end();
}

Test(query_surplus, that_began_before_the_query_left_is_no_answer_to_it)
{
    play_half(true);
}

Test(query_surplus, that_began_before_the_query_left_is_no_answer_where_nothing_else_was_due)
{
    play_half(false);
}

/* What had begun when it left may be the answer to another one, or a push. */
static void ask_amid(size_t at)
{
    struct query first = { 0 }, second = { 0 };
    struct script_bytes stream = { .size = 0 };
    struct world_link *link;

    script.count = 0;
    cr_assert_eq(script_ask(&first, "first", NULL), POOL_OK);
    world_settle(script.world);
    cr_assert_eq(script.count, 1);
    link = script.requests[0].link;
    script_push(&stream, "pushed");
    script_reply(&stream, &script.requests[0]);
    if (at)
        world_say(link, stream.data, at < stream.size ? at : stream.size - 1);
    world_settle(script.world);
    cr_assert_eq(script_ask(&second, "second", NULL), POOL_OK);
    world_settle(script.world);
    cr_assert_eq(script.count, 2);
    at = at < stream.size ? at : stream.size - 1;
    world_say(link, stream.data + at, stream.size - at);
    script_answer(&script.requests[1], (struct pool_bytes){ 0 });
    world_settle(script.world);
    cr_expect(script_is_answered(&first, "first"), "cut at %zu", at);
    cr_expect(script_is_answered(&second, "second"), "cut at %zu", at);
}

Test(query_surplus, is_not_what_answers_another_query_or_none_wherever_it_is_cut)
{
    script_begin(SPEAK_RESP, POOL_OPTIONS(ALONE), NULL);
    for (size_t at = 0; at < 60; at++)
        ask_amid(at);
    cr_expect_eq(world_counts(script.peer).accepted, 1);
    end();
}

/* ---- received, but not looked at yet when the query leaves */

#define SLICE 64u                       /* messages that the mux finds before it tells */

static struct asker asker;

/* Comes back when the request of another thread is at the peer. */
static void have_another_ask(struct query *query)
{
    char line[32] = "";

    (void)query;
    cr_assert(start_asker(&asker, raw_pool, RAW, "asked", NULL));
    cr_expect(raw_get_line(line, sizeof(line)));
    cr_expect_str_eq(line, "asked");
}

Test(query_surplus, that_was_received_before_the_query_left_is_no_answer_to_it)
{
    static struct query queries[SLICE + 1];
    char line[32], stream[8 * (SLICE + 2)] = "";

    RAW_LINE(.codec = pool_codec_line());
    queries[0].then = have_another_ask;
    for (unsigned i = 0; i <= SLICE; i++) {
        cr_assert_eq(start_query(&queries[i], raw_pool, RAW, "due", NULL), POOL_OK);
        cr_assert(raw_get_line(line, sizeof(line)));
        strcat(stream, "due\n");
    }
    strcat(stream, "extra\n");
    cr_assert(write_exactly(raw_end, stream, strlen(stream), VERBS_SOON));
    for (unsigned i = 0; i <= SLICE; i++) {
        cr_assert(wait_answered(&queries[i]));
        cr_expect(is_answered_with(&queries[i], "due"));
    }
    cr_expect_eq(join_asker(&asker), POOL_E_PROTOCOL, "\"%s\" is no answer", asker.query.text);
    raw_line_end();
}

/* ---- the sentinel */

#define SENTINEL "in step?"

static struct pool_conn lent;
static bool is_lent;

static void keep(struct pool_conn *conn, const struct pool_error *error, void *user)
{
    (void)error;
    (void)user;
    is_lent = conn != NULL;
    if (conn)
        lent = *conn;
}

static void want_own(struct pool_ticket **ticket)
{
    is_lent = false;
    cr_assert_eq(pool_communicate_async(script.pool, SCRIPT_ADDRESS, keep, NULL,
                                        POOL_CALL(.timeout_ms = VERBS_SOON), ticket),
                 POOL_OK);
    world_settle(script.world);
}

static void give_one_up(const char *token)
{
    unsigned asked = script.count;
    struct query query = { 0 };

    cr_assert_eq(script_ask(&query, token, POOL_CALL(.timeout_ms = 5)), POOL_OK);
    world_run(script.world, 15);
    cr_expect(has_failed_with(&query, POOL_E_TIMEOUT_IN_TRANSFER));
    cr_assert_eq(script.count, asked + 1);
}

static void begin_in_doubt(void)
{
    static struct pool_codec codec;

    codec = *pool_codec_line();
    codec.sentinel = codec.sentinel_reply = text_bytes(SENTINEL);
    script_begin(SPEAK_LINE, POOL_OPTIONS(ALONE, .codec = &codec), NULL);
    give_one_up("late");
    say("late\n");
    cr_assert_eq(STAT(script.pool, late_replies), 1);
}

static bool was_sentinel_asked(unsigned nth)
{
    return script.count == nth + 1 && strcmp(script.requests[nth].token, SENTINEL) == 0;
}

Test(query_surplus, that_lies_there_before_the_sentinel_is_asked_proves_nothing)
{
    begin_in_doubt();
    say(SENTINEL "\n");
    want_own(NULL);
    cr_expect_eq(script.count, 1, "nothing is asked");
    cr_expect(is_lent);
    cr_expect_eq(world_counts(script.peer).accepted, 2, "on which the sentinel's answer comes");
    cr_expect_eq(pool_return(&lent), POOL_OK);
    end();
}

Test(query_surplus, of_what_was_given_up_behind_the_sentinel_needs_a_new_one)
{
    struct pool_ticket *ticket = NULL;

    begin_in_doubt();
    want_own(&ticket);
    cr_assert(was_sentinel_asked(1));
    cr_expect(pool_ticket_cancel(ticket));
    pool_ticket_free(ticket);
    world_settle(script.world);
    give_one_up("behind");
    say(SENTINEL "\n");
    say("behind\n");
    cr_assert_eq(STAT(script.pool, late_replies), 2);
    want_own(NULL);
    cr_expect(was_sentinel_asked(3));
    cr_expect(!is_lent);
    say(SENTINEL "\n");
    cr_expect(is_lent);
    cr_expect_eq(world_counts(script.peer).accepted, 1);
    cr_expect_eq(pool_return(&lent), POOL_OK);
    end();
}
