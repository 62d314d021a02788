/* test_query_world.c: whatever the peer says, how often, how late and in which pieces, no reply
 * reaches another query, and each query is answered once. In the scripted world. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "pool/line.h"
#include "support/query_script.h"

TestSuite(query_world, .timeout = 60);

static void end(void)
{
    cr_expect(script_end());
}

/* ---- one round of queries: two are given up, and the others answered */

enum { LATE, CANCELED, FIRST, SECOND, THIRD, FOURTH, ROUND };

struct round {
    struct query queries[ROUND];
    char tokens[ROUND][32];
    uint64_t late_before;
};

/* Tokens are all of one length, so that a stream of replies is. */
static void write_token(char *token, size_t size)
{
    static unsigned serial;

    snprintf(token, size, "token %06u", ++serial);
}

static void begin_round(struct round *round)
{
    struct query *late = &round->queries[LATE], *canceled = &round->queries[CANCELED];

    memset(round, 0, sizeof(*round));
    script.count = 0;
    canceled->has_ticket = true;
    for (unsigned i = 0; i < ROUND; i++) {
        write_token(round->tokens[i], sizeof(round->tokens[i]));
        cr_assert_eq(script_ask(&round->queries[i], round->tokens[i],
                                i == LATE ? POOL_CALL(.timeout_ms = 5) : NULL),
                     POOL_OK);
    }
    world_run(script.world, 20);
    cr_assert_eq(script.count, ROUND);
    cr_expect(pool_ticket_cancel(canceled->ticket));
    pool_ticket_free(canceled->ticket);
    world_settle(script.world);
    cr_expect(has_failed_with(late, POOL_E_TIMEOUT_IN_TRANSFER));
    cr_expect_eq(late->error.outcome, POOL_MAYBE_SENT);
    cr_expect(has_failed_with(canceled, POOL_E_CANCELED));
    cr_expect_eq(canceled->error.outcome, POOL_MAYBE_SENT);
    round->late_before = STAT(script.pool, late_replies);
}

static void end_round(const struct round *round)
{
    for (unsigned i = 0; i < ROUND; i++)
        cr_expect_eq(round->queries[i].told, 1, "the one at %u: %u", i, round->queries[i].told);
    cr_expect_eq(STAT(script.pool, late_replies) - round->late_before, 2);
    cr_expect_eq(world_counts(script.peer).accepted, 1, "the connection was shared all the time");
}

/* What is there when nobody waits is taken in with the next reply. So much was nobody's in all. */
static void end_rounds(unsigned orphans)
{
    struct query last = { 0 };

    script.on_request = script_answer;
    cr_expect_eq(script_ask_and_wait(&last, "last", NULL), POOL_OK);
    cr_expect(script_is_answered(&last, "last"));
    world_settle(script.world);
    cr_expect_eq(STAT(script.pool, orphans), orphans);
    cr_expect_eq(script.orphans, orphans);
    end();
}

/* Says the stream cut at `cut`; beyond its end, a byte at a time. */
static void say(const struct script_bytes *stream, size_t cut)
{
    if (cut <= stream->size)
        script_say_cut(script.requests[0].link, stream, cut);
    else
        script_say_dripped(script.requests[0].link, stream);
}

/* ---- by key */

/* Out of order, twice, also when others are asked already, for nobody, late, in parts between
 * others, and with an error. */
static void write_wild_stream(struct script_bytes *stream)
{
    static uint32_t answered_before = UINT32_MAX;
    const struct script_request *requests = script.requests;

    stream->size = 0;
    script_frame(stream, answered_before, FRAME_REPLY, "of the last round");
    answered_before = requests[FIRST].id;
    script_reply(stream, &requests[SECOND]);
    script_reply(stream, &requests[LATE]);
    script_reply(stream, &requests[FIRST]);
    script_reply(stream, &requests[FIRST]);
    script_frame(stream, requests[THIRD].id, FRAME_PART, "token ");
    script_reply(stream, &requests[CANCELED]);
    script_frame(stream, UINT32_MAX, FRAME_REPLY, "nobody's");
    script_frame(stream, requests[FOURTH].id, FRAME_ERROR, requests[FOURTH].token);
    script_frame(stream, requests[FOURTH].id, FRAME_PART, "again");
    script_push(stream, "news");
    script_frame(stream, requests[THIRD].id, FRAME_PART, "");
    script_frame(stream, requests[THIRD].id, FRAME_REPLY, requests[THIRD].token + 6);
    script_reply(stream, &requests[SECOND]);
    script_reply(stream, &requests[LATE]);
}

static void play_wild_round(size_t cut, struct script_bytes *stream)
{
    struct round round;

    begin_round(&round);
    write_wild_stream(stream);
    say(stream, cut);
    for (unsigned i = FIRST; i < FOURTH; i++)
        cr_expect(script_is_answered(&round.queries[i], round.tokens[i]), "cut at %zu", cut);
    cr_expect(round.queries[FOURTH].failed);
    cr_expect_str_eq(round.queries[FOURTH].text, round.tokens[FOURTH]);
    end_round(&round);
}

Test(query_world, by_key_late_doubled_and_reordered_replies_reach_nobody_else_wherever_they_are_cut)
{
    struct script_bytes stream = { .size = 0 };

    script_begin(SPEAK_LENGTH, POOL_OPTIONS(), NULL);
    for (size_t cut = 0; cut <= stream.size + 1; cut++)
        play_wild_round(cut, &stream);
    end_rounds(9 * (unsigned)(stream.size + 2));
}

/* ---- in order */

static void play_round_in_order(size_t cut, struct script_bytes *stream, unsigned pushes)
{
    struct round round;

    begin_round(&round);
    stream->size = 0;
    for (unsigned i = 0; i < ROUND; i++) {
        script_reply(stream, &script.requests[i]);
        if (pushes > i)
            script_push(stream, "news");
    }
    say(stream, cut);
    for (unsigned i = FIRST; i < ROUND; i++)
        cr_expect(script_is_answered(&round.queries[i], round.tokens[i]), "cut at %zu", cut);
    end_round(&round);
}

static void play_in_order(enum script_speech speech, unsigned pushes)
{
    struct script_bytes stream = { .size = 0 };

    script_begin(speech, POOL_OPTIONS(), NULL);
    for (size_t cut = 0; cut <= stream.size + 1; cut++)
        play_round_in_order(cut, &stream, pushes);
    end_rounds((2 + pushes) * (unsigned)(stream.size + 2));
}

Test(query_world, in_lines_late_replies_keep_their_turn_wherever_they_are_cut)
{
    play_in_order(SPEAK_LINE, 0);
}

Test(query_world, in_resp_late_replies_and_pushes_keep_their_turn_wherever_they_are_cut)
{
    play_in_order(SPEAK_RESP, 3);
}

/* ---- a thread receives */

static struct script_bytes answer;
static size_t answer_cut;
static const struct script_request *before; /* whose query was given up */

static void say_the_rest(void *link)
{
    world_say(link, answer.data + answer_cut, answer.size - answer_cut);
}

/* What is late comes first; by key, nobody's and a second one around the reply, too. */
static void answer_in_two(const struct script_request *request, struct pool_bytes token)
{
    (void)token;
    answer.size = 0;
    if (script.speech == SPEAK_LENGTH)
        script_frame(&answer, UINT32_MAX, FRAME_REPLY, "nobody's");
    script_reply(&answer, before);
    if (script.speech == SPEAK_RESP)
        script_push(&answer, "news");
    script_reply(&answer, request);
    if (script.speech == SPEAK_LENGTH)
        script_reply(&answer, request);
    if (answer_cut)
        world_say(request->link, answer.data, answer_cut);
    if (answer_cut < answer.size)
        world_at(script.world, 1, say_the_rest, request->link);
}

static void play_for_a_thread(enum script_speech speech)
{
    struct query late, query;
    char token[32];

    script_begin(speech, POOL_OPTIONS(), NULL);
    answer.size = 1;
    before = &script.requests[0];
    for (answer_cut = 0; answer_cut <= answer.size; answer_cut++) {
        late = query = (struct query){ 0 };
        script.count = 0;
        script.on_request = NULL;
        write_token(token, sizeof(token));
        script_ask_and_wait(&late, token, POOL_CALL(.timeout_ms = 5));
        cr_expect(has_failed_with(&late, POOL_E_TIMEOUT_IN_TRANSFER));
        script.on_request = answer_in_two;
        write_token(token, sizeof(token));
        script_ask_and_wait(&query, token, NULL);
        cr_expect(script_is_answered(&query, token), "cut at %zu", answer_cut);
        world_run(script.world, 2);
    }
    cr_expect_eq(world_counts(script.peer).accepted, 1);
    cr_expect_eq(STAT(script.pool, late_replies), answer.size + 1);
    end();
}

Test(query_world, a_thread_that_receives_takes_its_own_reply_by_key)
{
    play_for_a_thread(SPEAK_LENGTH);
}

Test(query_world, a_thread_that_receives_takes_its_own_reply_in_turn)
{
    play_for_a_thread(SPEAK_LINE);
    play_for_a_thread(SPEAK_RESP);
}

/* ---- one reply too many, in order */

/* The second reply to one query, and the next query: asked when all of it is there, or when a part
 * of it is. Then it may fail, and must not be told what another asked. */
static void answer_once_too_often(size_t cut, bool is_hasty, struct script_bytes *twice)
{
    struct query query = { 0 }, next = { 0 };
    char tokens[2][32];
    size_t once;

    script.count = 0;
    script.on_request = NULL;
    write_token(tokens[0], sizeof(tokens[0]));
    write_token(tokens[1], sizeof(tokens[1]));
    cr_assert_eq(script_ask(&query, tokens[0], NULL), POOL_OK);
    world_settle(script.world);
    cr_assert_eq(script.count, 1);
    twice->size = 0;
    script_reply(twice, &script.requests[0]);
    once = twice->size;
    script_reply(twice, &script.requests[0]);
    is_hasty = is_hasty && cut > once; /* else nobody could know whose it is */
    world_say(script.requests[0].link, twice->data, cut);
    world_settle(script.world);
    script.on_request = script_answer;
    if (is_hasty)
        cr_assert_eq(script_ask(&next, tokens[1], NULL), POOL_OK);
    world_say(script.requests[0].link, twice->data + cut, twice->size - cut);
    world_settle(script.world);
    if (!is_hasty)
        cr_assert_eq(script_ask(&next, tokens[1], NULL), POOL_OK);
    world_run(script.world, 5);
    cr_expect(script_is_answered(&query, tokens[0]), "cut at %zu", cut);
    if (is_hasty && next.status)
        cr_expect(has_failed_with(&next, POOL_E_PROTOCOL), "cut at %zu", cut);
    else
        cr_expect(script_is_answered(&next, tokens[1]), "cut at %zu", cut);
    cr_expect(!world_link_is_open(script.requests[0].link), "cut at %zu", cut);
}

static void play_once_too_often(enum script_speech speech)
{
    struct script_bytes twice = { .size = 1 };

    script_begin(speech, POOL_OPTIONS(), NULL);
    for (size_t cut = 1; cut <= twice.size; cut++) {
        answer_once_too_often(cut, false, &twice);
        answer_once_too_often(cut, true, &twice);
    }
    end();
}

Test(query_world, in_lines_a_second_reply_ends_the_connection_and_is_not_the_next_ones)
{
    play_once_too_often(SPEAK_LINE);
}

Test(query_world, in_resp_a_second_reply_ends_the_connection_and_is_not_the_next_ones)
{
    play_once_too_often(SPEAK_RESP);
}

/* Half a push while nothing is under way is no reply, and ends nothing. */
Test(query_world, half_a_push_before_a_request_ends_nothing)
{
    struct script_bytes push = { .size = 0 };
    char token[32];

    script_begin(SPEAK_RESP, POOL_OPTIONS(), NULL);
    script_push(&push, "news");
    script.on_request = script_answer;
    for (size_t cut = 0; cut <= push.size; cut++) {
        struct query first = { 0 }, query = { 0 };

        script.count = 0;
        write_token(token, sizeof(token));
        cr_expect_eq(script_ask_and_wait(&first, token, NULL), POOL_OK);
        world_say(script.requests[0].link, push.data, cut);
        world_settle(script.world);
        script.on_request = NULL;
        cr_assert_eq(script_ask(&query, token, NULL), POOL_OK);
        world_settle(script.world);
        world_say(script.requests[0].link, push.data + cut, push.size - cut);
        world_settle(script.world);
        script.on_request = script_answer;
        cr_assert_eq(script.count, 2);
        script_answer(&script.requests[1], (struct pool_bytes){ 0 });
        world_settle(script.world);
        cr_expect(script_is_answered(&query, token), "cut at %zu", cut);
    }
    cr_expect_eq(world_counts(script.peer).accepted, 1);
    cr_expect_eq(STAT(script.pool, orphans), push.size + 1);
    end();
}

/* ---- cut off */

static void answer_on_another(const struct script_request *request, struct pool_bytes token)
{
    if (request->link != script.requests[0].link)
        script_answer(request, token);
}

/* Three are asked, the last one SAFE_TO_REPEAT; so much of their replies comes, and then an end. */
static void cut_off(size_t cut, bool is_reset, struct script_bytes *stream)
{
    struct query queries[3] = { { 0 } };
    char tokens[3][32];
    size_t each;

    script.count = 0;
    script.on_request = answer_on_another;
    for (unsigned i = 0; i < 3; i++) {
        write_token(tokens[i], sizeof(tokens[i]));
        cr_assert_eq(script_ask(&queries[i], tokens[i],
                                POOL_CALL(.timeout_ms = VERBS_SOON,
                                          .flags = i == 2 ? POOL_SAFE_TO_REPEAT : 0)),
                     POOL_OK);
    }
    world_settle(script.world);
    cr_assert_eq(script.count, 3);
    stream->size = 0;
    for (unsigned i = 0; i < 3; i++)
        script_reply(stream, &script.requests[i]);
    each = stream->size / 3;
    world_say(script.requests[0].link, stream->data, cut);
    if (is_reset) {
        world_settle(script.world);
        world_reset(script.requests[0].link);
    } else {
        world_close(script.requests[0].link);
    }
    world_run(script.world, 5);
    for (unsigned i = 0; i < 3; i++) {
        if (i == 2 || cut >= (i + 1) * each) {
            cr_expect(script_is_answered(&queries[i], tokens[i]), "cut at %zu", cut);
            continue;
        }
        cr_expect(has_failed_with(&queries[i], cut % each || is_reset ? POOL_E_BROKEN
                                                                      : POOL_E_CLOSED),
                  "cut at %zu", cut);
        cr_expect_eq(queries[i].error.outcome, POOL_MAYBE_SENT);
    }
    cr_expect_eq(script.count, cut < 3 * each ? 4 : 3, "asked again once, and only what may be");
}

static void play_cut_off(enum script_speech speech)
{
    struct script_bytes stream = { .size = 1 };

    script_begin(speech, POOL_OPTIONS(), NULL);
    for (size_t cut = 0; cut <= stream.size; cut++) {
        cut_off(cut, false, &stream);
        cut_off(cut, true, &stream);
    }
    end();
}

Test(query_world, what_an_end_cuts_off_fails_once_and_what_was_whole_is_answered)
{
    play_cut_off(SPEAK_LENGTH);
    play_cut_off(SPEAK_LINE);
    play_cut_off(SPEAK_RESP);
}

/* ---- ids */

static struct pl_line *only_line(void)
{
    struct pl_peer *peer =
        pl_container(script.pool->all_peers.next, struct pl_peer, pool_link);
    struct pl_exchange *exchange = atomic_load(&peer->exchange);

    return pl_container(exchange->lines.next, struct pl_line, link);
}

/* Two GiB are not filled here: the line's count is made to say so for a while. */
Test(query_world, what_has_2_gib_unsent_takes_no_more_whatever_write_high_says)
{
    struct query first = { 0 }, second = { 0 };
    struct pl_line *line;

    script_begin(SPEAK_LENGTH,
                 POOL_OPTIONS(.max_per_address = 1, .write_high = UINT32_MAX,
                              .max_inflight = 2),
                 NULL);
    cr_assert_eq(script_ask(&first, "first", NULL), POOL_OK);
    world_settle(script.world);
    line = only_line();
    line->given += INT32_MAX;
    line->taken += INT32_MAX;
    cr_assert_eq(script_ask(&second, "second", NULL), POOL_OK);
    cr_assert_eq(STAT(script.pool, waiting), 1);
    line->given -= INT32_MAX;
    line->taken -= INT32_MAX;
    script_answer(&script.requests[0], (struct pool_bytes){ 0 });
    world_settle(script.world);
    cr_expect(script_is_answered(&first, "first"));
    script_answer(&script.requests[1], (struct pool_bytes){ 0 });
    world_settle(script.world);
    cr_expect(script_is_answered(&second, "second"));
    end();
}

static bool was_asked_with(uint32_t id)
{
    for (unsigned i = 0; i < script.count; i++) {
        if (script.requests[i].id == id)
            return true;
    }
    return false;
}

/* What is pending has the ids 1 and 2: one is waited for, the other was given up. */
Test(query_world, from_2_to_the_32_less_10_on_no_id_of_a_pending_query_comes_again)
{
    static struct query queries[100];
    struct query old = { 0 }, late = { 0 };
    char tokens[100][32];

    script_begin(SPEAK_LENGTH, POOL_OPTIONS(), NULL);
    cr_assert_eq(script_ask(&old, "old", NULL), POOL_OK);
    cr_assert_eq(script_ask(&late, "late", POOL_CALL(.timeout_ms = 5)), POOL_OK);
    world_run(script.world, 20);
    cr_assert_eq(script.count, 2);
    cr_expect(has_failed_with(&late, POOL_E_TIMEOUT_IN_TRANSFER));
    *only_line()->correlator.next_key = UINT32_MAX - 9;
    for (unsigned i = 0; i < 100; i++) {
        write_token(tokens[i], sizeof(tokens[i]));
        cr_assert_eq(script_ask(&queries[i], tokens[i], NULL), POOL_OK);
    }
    world_settle(script.world);
    cr_assert_eq(script.count, 102);
    cr_expect_eq(script.requests[2].id, UINT32_MAX - 9);
    cr_expect(was_asked_with(UINT32_MAX));
    cr_expect(!was_asked_with(0));
    for (unsigned i = 0; i < 102; i++) {
        for (unsigned j = 0; j < i; j++)
            cr_expect_neq(script.requests[i].id, script.requests[j].id, "%u and %u", i, j);
    }
    for (unsigned i = 102; i-- > 0;)
        script_answer(&script.requests[i], (struct pool_bytes){ 0 });
    world_settle(script.world);
    for (unsigned i = 0; i < 100; i++)
        cr_expect(script_is_answered(&queries[i], tokens[i]));
    cr_expect(script_is_answered(&old, "old"));
    cr_expect_eq(late.told, 1);
    cr_expect_eq(STAT(script.pool, late_replies), 1);
    cr_expect_eq(STAT(script.pool, orphans), 1);
    cr_expect_eq(world_counts(script.peer).accepted, 1);
    end();
}

/* 855306 is 0x000d0d0a: CR CR LF. */
static void ask_with_line_ends(size_t cut, struct script_bytes *stream)
{
    static const char *const bodies[] = { "\r\r\n", "a\r\r\nb", "\r\r\n\r\r\n", "\r\n", "\n\r\r" };
    struct query queries[5] = { { 0 } };

    script.count = 0;
    *only_line()->correlator.next_key = 855304;
    for (unsigned i = 0; i < 5; i++)
        cr_assert_eq(script_ask(&queries[i], bodies[i], NULL), POOL_OK);
    world_settle(script.world);
    stream->size = 0;
    for (unsigned i = 5; i-- > 0;) {
        cr_assert_eq(script.requests[i].id, 855304 + i);
        script_reply(stream, &script.requests[i]);
    }
    say(stream, cut);
    for (unsigned i = 0; i < 5; i++)
        cr_expect(script_is_answered(&queries[i], bodies[i]), "cut at %zu", cut);
}

Test(query_world, ids_and_bodies_that_spell_line_ends_are_like_any_others_wherever_they_are_cut)
{
    struct script_bytes stream = { .size = 0 };
    struct query first = { 0 };

    script_begin(SPEAK_LENGTH, POOL_OPTIONS(), NULL);
    script.on_request = script_answer;
    cr_expect_eq(script_ask_and_wait(&first, "first", NULL), POOL_OK);
    script.on_request = NULL;
    for (size_t cut = 0; cut <= stream.size + 1; cut++)
        ask_with_line_ends(cut, &stream);
    cr_expect_eq(world_counts(script.peer).accepted, 1);
    end();
}

/* A second reply to an earlier user's request is nobody's, whoever has the connection now. */
Test(query_world, no_id_comes_again_when_the_connection_changes_hands)
{
    struct query query = { 0 };
    struct pool_bytes reply;
    struct pool_conn conn;

    script_begin(SPEAK_LENGTH, POOL_OPTIONS(.max_per_address = 1, .park_ms = 5), NULL);
    script.on_request = script_answer;
    for (unsigned i = 0; i < 10; i++) {
        query = (struct query){ 0 };
        cr_expect_eq(script_ask_and_wait(&query, "shared", NULL), POOL_OK);
        world_run(script.world, i % 2 ? 0 : 50);
        cr_assert(borrow(script.pool, SCRIPT_ADDRESS, &conn));
        cr_expect_eq(pool_ask(&conn, text_bytes("own"), &reply), POOL_OK);
        cr_expect_eq(pool_return(&conn), POOL_OK);
        world_run(script.world, i % 3 ? 0 : 50);
    }
    cr_assert_eq(script.count, 20);
    for (unsigned i = 0; i < 20; i++)
        cr_expect_eq(script.requests[i].id, i + 1);
    cr_expect_eq(world_counts(script.peer).accepted, 1);
    end();
}
