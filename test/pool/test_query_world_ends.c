/* test_query_world_ends.c: what becomes of queries when their connection, their opener or their
 * pool ends in the middle of something; and who may answer the peer's requests then. In the
 * scripted world. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pool/line.h"
#include "support/query_script.h"

TestSuite(query_world_ends, .timeout = 60);

static void end(void)
{
    cr_expect(script_end());
}

static struct pl_line *only_line(void)
{
    struct pl_peer *peer =
        pl_container(script.pool->all_peers.next, struct pl_peer, pool_link);
    struct pl_exchange *exchange = atomic_load(&peer->exchange);

    return pl_container(exchange->lines.next, struct pl_line, link);
}

/* ---- the peer ends with a thousand in flight */

#define MANY 1000u
#define WINDOW 8000u /* bytes; two of them are sent of the 26,000 that a thousand ask */

static unsigned asked[MANY]; /* how often the peer heard of it */

/* The first connection is reset when it brought enough; others answer. */
static void hear_and_reset(const struct script_request *request, struct pool_bytes token)
{
    static unsigned heard;

    asked[atoi(request->token)]++;
    if (world_link_nth(request->link))
        script_answer(request, token);
    else if (++heard == 200)
        world_reset(request->link);
}

static void begin_many(struct query *queries, uint32_t (*flags_of)(unsigned))
{
    char token[16];

    for (unsigned i = 0; i < MANY; i++) {
        snprintf(token, sizeof(token), "%04u padding..", i);
        cr_assert_eq(script_ask(&queries[i], token,
                                POOL_CALL(.timeout_ms = VERBS_SOON, .flags = flags_of(i))),
                     POOL_OK);
    }
}

static uint32_t every_third(unsigned index)
{
    return index % 3 == 0 ? POOL_SAFE_TO_REPEAT : index % 3 == 1 ? POOL_ONE_SHOT : 0;
}

/* Answers how many were answered that no flag helped. */
static unsigned expect_told_what_can_be_known(const struct query *queries)
{
    unsigned moved = 0;
    char token[16];

    for (unsigned i = 0; i < MANY; i++) {
        const struct query *query = &queries[i];

        snprintf(token, sizeof(token), "%04u padding..", i);
        cr_expect_eq(query->told, 1);
        moved += !query->status && !every_third(i);
        if (!query->status) {
            cr_expect(script_is_answered(query, token));
        } else {
            cr_expect(has_failed_with(query, POOL_E_BROKEN));
            cr_expect(!(every_third(i) & POOL_SAFE_TO_REPEAT));
            cr_expect(query->error.outcome == POOL_MAYBE_SENT || !asked[i], "%u was heard", i);
            cr_expect(query->error.outcome == POOL_MAYBE_SENT || every_third(i) == POOL_ONE_SHOT,
                      "%u was not sent, and may move", i);
        }
        if (!(every_third(i) & POOL_SAFE_TO_REPEAT))
            cr_expect_leq(asked[i], 1, "%u was asked twice", i);
    }
    return moved;
}

Test(query_world_ends, a_thousand_in_flight_are_told_what_can_be_known_and_the_unsent_move)
{
    struct query *queries = calloc(MANY, sizeof(*queries));
    struct query first = { 0 };
    unsigned moved;

    script_begin(SPEAK_LENGTH, POOL_OPTIONS(.max_per_address = 1),
                 &(struct world_peer_options){ .window = WINDOW });
    script.on_request = hear_and_reset;
    cr_assert_eq(script_ask(&first, "0", POOL_CALL(.timeout_ms = 5)), POOL_OK);
    world_run(script.world, 20);
    asked[0] = 0;
    begin_many(queries, every_third);
    world_run(script.world, 1000);
    moved = expect_told_what_can_be_known(queries);
    cr_expect_geq(moved, 50, "what was not sent is asked elsewhere");
    cr_expect_leq(moved, 150, "and what may have been is not");
    cr_expect_eq(world_counts(script.peer).accepted, 2);
    cr_expect_eq(world_counts(script.peer).most_open, 1);
    end();
    free(queries);
}

/* ---- a frame keeps its id when it moves */

#define BUSY 3u                         /* queries that fill a connection */

static struct script_request *find_asked(const char *token)
{
    for (unsigned i = 0; i < script.count; i++) {
        if (strcmp(script.requests[i].token, token) == 0)
            return &script.requests[i];
    }
    return NULL;
}

static void reply_to(const char *token)
{
    struct script_request *request = find_asked(token);
    struct script_bytes bytes = { .size = 0 };

    cr_assert(request, "%s", token);
    script_reply(&bytes, request);
    world_say(request->link, bytes.data, bytes.size);
    world_settle(script.world);
}

static void ask_one(struct query *query, const char *token)
{
    cr_assert_eq(script_ask(query, token, POOL_CALL(.timeout_ms = VERBS_SOON)), POOL_OK);
    world_settle(script.world);
}

static void expect_each_id_once(void)
{
    for (unsigned i = 0; i < script.count; i++) {
        for (unsigned j = 0; j < i; j++)
            cr_expect(script.requests[i].link != script.requests[j].link ||
                          script.requests[i].id != script.requests[j].id,
                      "%s has the id of %s", script.requests[i].token, script.requests[j].token);
    }
}

/* The second connection has answered as many as the first one carried in all when that breaks: what
 * had not left it moves to the second, which says again what it has said. */
Test(query_world_ends, what_moved_meets_no_second_reply_to_what_was_asked_there_before)
{
    static const char *const held[] = { "held 0", "held 1", "held 2" };
    static const char *const other[] = { "other 0", "other 1", "other 2", "other 3", "other 4" };
    static const char *const last[] = { "last 0", "last 1", "last 2" };
    static struct query holds[BUSY], others[5], lasts[BUSY];
    static char large[200];
    struct query big = { 0 }, moved = { 0 };

    memset(large, 'x', sizeof(large) - 1);
    script_begin(SPEAK_LENGTH, POOL_OPTIONS(.max_per_address = 2, .max_inflight = BUSY),
                 &(struct world_peer_options){ .window = 60 });
    for (unsigned i = 0; i < BUSY; i++)
        ask_one(&holds[i], held[i]);
    for (unsigned i = 0; i < 5; i++) {
        ask_one(&others[i], other[i]);
        reply_to(other[i]);
    }
    for (unsigned i = 0; i < BUSY; i++)
        ask_one(&lasts[i], last[i]);
    reply_to(held[0]);
    reply_to(held[1]);
    cr_assert_eq(script_ask(&big, large, POOL_CALL(.timeout_ms = VERBS_SOON)), POOL_OK);
    cr_assert_eq(script_ask(&moved, "moved", POOL_CALL(.timeout_ms = VERBS_SOON)), POOL_OK);
    world_reset(find_asked(held[0])->link);
    for (unsigned i = 0; i < BUSY; i++)
        reply_to(last[i]);
    cr_expect(has_failed_with(&holds[2], POOL_E_BROKEN));
    cr_assert(find_asked("moved"));
    cr_expect_eq(find_asked("moved")->link, find_asked(other[0])->link);
    for (unsigned i = 0; i < 5; i++)
        reply_to(other[i]);             /* once more */
    cr_expect_eq(moved.told, 0);
    reply_to("moved");
    cr_expect(script_is_answered(&moved, "moved"));
    expect_each_id_once();
    cr_expect_eq(world_counts(script.peer).accepted, 2);
    end();
}

/* ---- parts, when the line breaks between them */

struct parts {
    unsigned count, wrong;
    char last[16];
};

static void note_part(struct pool_bytes part, void *user)
{
    struct parts *parts = user;

    snprintf(parts->last, sizeof(parts->last), "%.*s", (int)part.size, (const char *)part.data);
    parts->wrong += strncmp(parts->last, "part ", 5) != 0;
    parts->count++;
}

static void answer_in_parts(const struct script_request *request, struct pool_bytes token)
{
    struct script_bytes bytes = { .size = 0 };

    (void)token;
    if (!world_link_nth(request->link))
        return;
    script_frame(&bytes, request->id, FRAME_PART, "part 1");
    script_frame(&bytes, request->id, FRAME_PART, "part 2");
    script_frame(&bytes, request->id, FRAME_REPLY, "part 3");
    world_say(request->link, bytes.data, bytes.size);
}

enum breaking { BY_NONSENSE, BY_RESET, BY_END, BREAKINGS };

/* Both parts and what breaks the line come at once, so that they are told when it is broken. */
static void break_between_parts(enum breaking how)
{
    struct world_link *link = script.requests[0].link;
    struct script_bytes bytes = { .size = 0 };

    for (unsigned i = 0; i < script.count; i++) {
        script_frame(&bytes, script.requests[i].id, FRAME_PART, "part 1");
        script_frame(&bytes, script.requests[i].id, FRAME_PART, "part 2");
    }
    if (how == BY_NONSENSE)
        script_frame(&bytes, 0, 99, "");
    world_say(link, bytes.data, bytes.size);
    if (how == BY_RESET)
        world_reset(link);
    if (how == BY_END)
        world_close(link);
}

/* Told as they come; kept, to be told as one; of a thread; and each SAFE_TO_REPEAT as well. */
static void break_between_parts_of_all(enum breaking how)
{
    struct parts told[2] = { { 0 } };
    struct query queries[4] = { { 0 } };

    script_begin(SPEAK_LENGTH, POOL_OPTIONS(), NULL);
    script.on_request = answer_in_parts;
    for (unsigned i = 0; i < 4; i++)
        cr_assert_eq(script_ask(&queries[i], "x",
                                POOL_CALL(.timeout_ms = VERBS_SOON,
                                          .flags = i % 2 ? POOL_SAFE_TO_REPEAT : 0,
                                          .on_part = i < 2 ? note_part : NULL,
                                          .user = &told[i % 2])),
                     POOL_OK);
    world_settle(script.world);
    cr_assert_eq(script.count, 4);
    break_between_parts(how);
    world_run(script.world, 10);
    for (unsigned i = 0; i < 4; i += 2) {
        cr_expect_eq(queries[i].told, 1);
        cr_expect(queries[i].status);
    }
    cr_expect_leq(told[0].count, 2);
    cr_expect(is_answered_with(&queries[1], "part 3"));
    cr_expect_str_eq(told[1].last, "part 2");
    cr_expect(is_answered_with(&queries[3], "part 1part 2part 3"));
    cr_expect_eq(told[0].wrong + told[1].wrong, 0);
    end();
}

Test(query_world_ends, a_line_that_breaks_between_parts_leaves_none_behind)
{
    for (unsigned how = 0; how < BREAKINGS; how++)
        break_between_parts_of_all(how);
}

static void break_it(void *unused)
{
    (void)unused;
    break_between_parts(BY_RESET);
}

Test(query_world_ends, a_thread_that_is_told_parts_survives_the_break_between_them)
{
    for (unsigned i = 0; i < 2; i++) {
        struct parts told = { 0 };
        struct query query = { 0 };

        script_begin(SPEAK_LENGTH, POOL_OPTIONS(), NULL);
        script.on_request = answer_in_parts;
        world_at(script.world, 5, break_it, NULL);
        script_ask_and_wait(&query, "x",
                            POOL_CALL(.timeout_ms = VERBS_SOON, .on_part = note_part,
                                      .user = &told, .flags = i ? POOL_SAFE_TO_REPEAT : 0));
        if (i)
            cr_expect(is_answered_with(&query, "part 3"));
        else
            cr_expect(has_failed_with(&query, POOL_E_BROKEN));
        cr_expect_geq(told.count, 2);
        cr_expect_eq(told.wrong, 0);
        end();
    }
}

/* ---- the opener's query has gone */

enum leaving { BY_TIME, BY_CANCEL, LEAVINGS };

/* Connecting takes 100 ms; whoever began it is gone by then. */
static void lose_the_opener(enum leaving how, bool has_company)
{
    struct query opener = { .has_ticket = how == BY_CANCEL }, other = { 0 }, next = { 0 };

    script_begin(SPEAK_LENGTH, POOL_OPTIONS(),
                 &(struct world_peer_options){ .latency_us = 100000 });
    script.on_request = script_answer;
    cr_assert_eq(script_ask(&opener, "opener",
                            POOL_CALL(.timeout_ms = how == BY_TIME ? 50 : VERBS_SOON)),
                 POOL_OK);
    if (has_company)
        cr_assert_eq(script_ask(&other, "other", NULL), POOL_OK);
    world_run(script.world, 60);
    if (how == BY_CANCEL) {
        cr_expect(pool_ticket_cancel(opener.ticket));
        pool_ticket_free(opener.ticket);
    }
    world_run(script.world, 2000);
    cr_expect(has_failed_with(&opener, how == BY_TIME ? POOL_E_TIMEOUT : POOL_E_CANCELED));
    cr_expect_eq(opener.error.outcome, POOL_NOT_SENT);
    if (has_company)
        cr_expect(script_is_answered(&other, "other"));
    cr_expect_eq(script_ask_and_wait(&next, "next", NULL), POOL_OK);
    cr_expect(script_is_answered(&next, "next"));
    cr_expect_eq(world_counts(script.peer).accepted, 1, "what was opened for it serves the next");
    end();
}

Test(query_world_ends, a_line_whose_openers_query_has_gone_serves_the_others)
{
    for (unsigned how = 0; how < LEAVINGS; how++) {
        lose_the_opener(how, false);
        lose_the_opener(how, true);
    }
}

static void ask_the_other(void *query)
{
    cr_expect_eq(script_ask(query, "other", NULL), POOL_OK);
}

/* The thread that opens the first line runs out of time while it does. */
Test(query_world_ends, a_thread_that_opens_the_line_and_runs_out_of_time_leaves_the_others_theirs)
{
    struct query opener = { 0 }, other = { 0 };

    script_begin(SPEAK_LENGTH, POOL_OPTIONS(),
                 &(struct world_peer_options){ .latency_us = 100000 });
    script.on_request = script_answer;
    world_at(script.world, 10, ask_the_other, &other);
    script_ask_and_wait(&opener, "opener", POOL_CALL(.timeout_ms = 50));
    cr_expect_eq(opener.status, POOL_E_TIMEOUT);
    cr_expect_eq(opener.error.outcome, POOL_NOT_SENT);
    world_run(script.world, 2000);
    cr_expect(script_is_answered(&other, "other"));
    end();
}

/* ---- responders */

static struct pool_responder *responders[4];
static unsigned responder_count;

static void keep_responder(struct pool_responder *responder, struct pool_bytes body, void *user)
{
    (void)body, (void)user;
    responders[responder_count++] = responder;
}

/* The peer asks with the id 7 on the newest connection. */
static void ask_back(void)
{
    struct script_bytes bytes = { .size = 0 };

    script_frame(&bytes, 7, FRAME_REQUEST, "?");
    world_say(script.requests[script.count - 1].link, bytes.data, bytes.size);
    world_settle(script.world);
}

static void expect_said(struct world_link *link, size_t from, const struct script_bytes *expected)
{
    const char *bytes;
    size_t size;

    world_settle(script.world);
    size = world_link_received(link, &bytes);
    cr_expect_eq(size - from, expected->size);
    if (size - from == expected->size)
        cr_expect_arr_eq(bytes + from, expected->data, expected->size);
}

/* The slots of the line and of its connection have others in them by then. */
Test(query_world_ends, an_answer_to_one_who_is_gone_is_not_the_answer_to_another_in_its_slot)
{
    struct script_bytes nothing = { .size = 0 }, answer = { .size = 0 };
    struct query first = { 0 }, second = { 0 };
    struct pl_line *slot;
    const char *bytes;
    struct world_link *link;
    size_t before;

    responder_count = 0;
    script_begin(SPEAK_LENGTH, POOL_OPTIONS(.on_request = keep_responder, .max_inflight = 2), NULL);
    script.on_request = script_answer;
    cr_expect_eq(script_ask_and_wait(&first, "first", NULL), POOL_OK);
    ask_back();
    ask_back();
    cr_assert_eq(responder_count, 2);
    slot = only_line();
    world_reset(script.requests[0].link);
    world_run(script.world, 5);
    cr_expect_eq(script_ask_and_wait(&second, "second", NULL), POOL_OK);
    cr_assert_eq(only_line(), slot, "a slot is given anew, else this test shows nothing");
    ask_back();
    cr_assert_eq(responder_count, 3);
    link = script.requests[1].link;
    before = world_link_received(link, &bytes);
    pool_respond(responders[0], text_bytes("for another"));
    pool_respond_error(responders[1], text_bytes("for another"));
    expect_said(link, before, &nothing);
    pool_respond(responders[2], text_bytes("yours"));
    script_frame(&answer, 7, FRAME_REPLY, "yours");
    expect_said(link, before, &answer);
    ask_back();
    cr_expect_eq(responder_count, 4, "what was answered is counted right");
    pool_respond(responders[3], text_bytes("yours"));
    cr_expect_eq(world_counts(script.peer).accepted, 2);
    end();
}

/* ---- the end of the pool */

static void say_a_part(const struct script_request *request, struct pool_bytes token)
{
    struct script_bytes bytes = { .size = 0 };

    (void)token;
    if (strncmp(request->token, "parts", 5) != 0)
        return;
    script_frame(&bytes, request->id, FRAME_PART, "part 1");
    world_say(request->link, bytes.data, bytes.size);
}

/* Sent, sent in part, not sent, parts told, parts kept, given up, posted, ordered, waiting for
 * room. */
static void fill_with_all_kinds(struct query *queries, unsigned count, struct parts *parts)
{
    static char large[QUERY_TEXT];
    char body[SCRIPT_TOKEN];

    memset(large, 'x', sizeof(large) - 1);
    for (unsigned i = 0; i < count; i++) {
        struct pool_call call = { .size = sizeof(call), .timeout_ms = VERBS_SOON };

        snprintf(body, sizeof(body), "%s %u", i % 3 ? "parts" : "plain", i);
        call.on_part = i % 3 == 1 ? note_part : NULL;
        call.user = parts;
        call.flags = i % 5 == 0 ? POOL_SAFE_TO_REPEAT : i % 5 == 1 ? POOL_ORDERED : 0;
        if (i % 7 == 0)
            call.timeout_ms = 5;
        queries[i].has_ticket = i % 4 == 0;
        cr_assert_eq(start_query(&queries[i], script.pool, SCRIPT_ADDRESS,
                                 i > count / 2 ? large : body, &call),
                     POOL_OK);
        if (i % 10 == 0)
            cr_assert_eq(pool_post_request(script.pool, SCRIPT_ADDRESS, text_bytes("posted"), NULL),
                         POOL_OK);
    }
}

static void end_with_all_kinds(unsigned ms)
{
    static struct query queries[200];
    struct parts parts = { 0 };
    uint64_t start_ms;

    memset(queries, 0, sizeof(queries));
    script_begin(SPEAK_LENGTH,
                 POOL_OPTIONS(.max_per_address = 2, .max_inflight = 70, .max_waiters = 1000),
                 &(struct world_peer_options){ .window = 10000, .latency_us = 1000 });
    script.on_request = say_a_part;
    fill_with_all_kinds(queries, 200, &parts);
    world_run(script.world, ms);
    for (unsigned i = 0; i < 200; i += 8)
        pool_ticket_cancel(queries[i].ticket);
    start_ms = world_now_ms(script.world);
    pool_destroy(script.pool);
    script.pool = NULL;
    cr_expect_leq(world_now_ms(script.world) - start_ms, 10, "it waited");
    for (unsigned i = 0; i < 200; i++) {
        cr_expect_eq(queries[i].told, 1, "the one at %u, after %u ms: %u", i, ms, queries[i].told);
        cr_expect(queries[i].status == POOL_E_CLOSING ||
                      (queries[i].status == POOL_E_CANCELED && i % 8 == 0) ||
                      (queries[i].status == POOL_E_TIMEOUT && i % 7 == 0) ||
                      (queries[i].status == POOL_E_TIMEOUT_IN_TRANSFER && i % 7 == 0),
                  "the one at %u: %s", i, pool_status_name(queries[i].status));
        pool_ticket_free(queries[i].ticket);
    }
    cr_expect_eq(parts.wrong, 0);
    end();
}

Test(query_world_ends, destroying_answers_queries_in_every_state_once_and_leaves_nothing)
{
    for (unsigned ms = 0; ms < 40; ms++)
        end_with_all_kinds(ms);
}

/* ---- a peer that ends each connection as soon as it stands */

static void refuse_at_once(struct world_link *link, void *user)
{
    (void)user;
    world_say_text(link, "too many clients\n");
    world_close(link);
}

/* What it says is there before anything is asked, and it is not asked for ever. */
Test(query_world_ends, a_peer_that_ends_each_connection_at_once_is_not_dialed_without_end)
{
    for (unsigned speech = SPEAK_LENGTH; speech <= SPEAK_RESP; speech++) {
        struct query query = { 0 };
        struct pool_bytes post;
        char body[64];

        script_begin(speech, POOL_OPTIONS(),
                     &(struct world_peer_options){ .on_accept = refuse_at_once,
                                                   .latency_us = WORLD_NO_LATENCY });
        cr_assert_eq(script_ask(&query, "x", POOL_CALL(.timeout_ms = VERBS_SOON)), POOL_OK);
        post = (struct pool_bytes){ body,
                                    script_write_request(body, sizeof(body), text_bytes("y")) };
        cr_expect_eq(pool_post_request(script.pool, SCRIPT_ADDRESS, post, NULL), POOL_OK);
        world_run(script.world, 1000);
        cr_expect_eq(query.told, 1);
        cr_expect_leq(world_counts(script.peer).accepted, 10);
        end();
    }
}
