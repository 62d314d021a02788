/* test_requests.c: the other direction: the peer asks us, and the same code is its peer. Two pools,
 * each with one end of a socket pair. */
#include <criterion/criterion.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "commpool/query.h"
#include "support/tests.h"
#include "support/verbs.h"

#define LEFT "unix:///left"
#define RIGHT "unix:///right"

static struct pool *left, *right;

/* ---- what serves */

static struct pool_responder *kept[8];
static atomic_uint kept_count;

/* Whoever asked got an answer of his own for it. */
static void pass_on(struct pool_reply *reply, void *responder)
{
    if (pool_reply_error(reply))
        pool_respond_error(responder, POOL_TEXT("no answer"));
    else
        pool_respond(responder, pool_reply_bytes(reply));
    pool_reply_free(reply);
}

/* Answers with the same bytes; "fail" with an error; "keep" later; "back" once it was asked back,
 * on the right. */
static void serve(struct pool_responder *responder, struct pool_bytes request, void *user)
{
    (void)user;
    if (request.size == 4 && memcmp(request.data, "fail", 4) == 0) {
        pool_respond_error(responder, POOL_TEXT("no"));
    } else if (request.size >= 4 && memcmp(request.data, "keep", 4) == 0) {
        kept[atomic_load(&kept_count)] = responder;
        atomic_fetch_add(&kept_count, 1);
    } else if (request.size == 4 && memcmp(request.data, "back", 4) == 0) {
        if (pool_query_async(right, LEFT, POOL_TEXT("asked"), pass_on, responder, NULL, NULL))
            pool_respond_error(responder, POOL_TEXT("cannot ask"));
    } else {
        pool_respond(responder, request);
    }
}

static struct pool *make_serving(void)
{
    return make_pool(POOL_OPTIONS(.codec = pool_codec_length(), .on_request = serve,
                                  .max_inflight = 4, .max_per_address = 1, .park_ms = 10));
}

static void begin(void)
{
    int ends[2];

    atomic_store(&kept_count, 0);
    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    left = make_serving();
    right = make_serving();
    cr_assert_eq(pool_adopt(left, RIGHT, ends[0]), POOL_OK);
    cr_assert_eq(pool_adopt(right, LEFT, ends[1]), POOL_OK);
}

static void end(void)
{
    pool_destroy(left);
    pool_destroy(right);
}

TestSuite(requests, .init = begin, .fini = end, .timeout = 60);

/* ---- what asks */

static bool is_text(const struct pool_reply *reply, const char *text)
{
    struct pool_bytes bytes = pool_reply_bytes(reply);

    return bytes.size == strlen(text) && memcmp(bytes.data, text, bytes.size) == 0;
}

static bool comes_back(struct pool *pool, const char *address, const char *text)
{
    struct pool_reply *reply = NULL;
    struct pool_bytes request = { text, strlen(text) };
    bool is_same;

    if (pool_query(pool, address, request, NULL, &reply))
        return false;
    is_same = is_text(reply, text) && !pool_reply_failed(reply);
    pool_reply_free(reply);
    return is_same;
}

static void expect_echo(struct pool *pool, const char *address, const char *text)
{
    cr_expect(comes_back(pool, address, text));
}

/* It lends and opens nothing, and what is open serves. */
Test(requests, are_answered_in_a_pause)
{
    cr_assert_eq(pool_pause(right), POOL_OK);
    for (int i = 0; i < 5; i++)
        cr_expect(comes_back(left, RIGHT, "paused"), "the answer %d", i);
    cr_expect_eq(pool_ready(right), POOL_OK);
    cr_expect(comes_back(left, RIGHT, "ready"));
}

Test(requests, are_answered_on_what_is_adopted_in_a_pause)
{
    int ends[2];

    end();
    left = make_serving();
    right = make_serving();
    cr_assert_eq(pool_pause(right), POOL_OK);
    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    cr_assert_eq(pool_adopt(left, RIGHT, ends[0]), POOL_OK);
    cr_assert_eq(pool_adopt(right, LEFT, ends[1]), POOL_OK);
    for (int i = 0; i < 5; i++)
        cr_expect(comes_back(left, RIGHT, "paused"), "the answer %d", i);
}

Test(requests, the_same_code_serves_as_the_peer)
{
    expect_echo(left, RIGHT, "from the left");
    expect_echo(right, LEFT, "from the right");
    cr_expect_eq(STAT(left, opened), 1);
    cr_expect_eq(STAT(right, opened), 1);
}

static atomic_uint echoes;

static void ask_many(unsigned index, void *rounds)
{
    char text[32];

    for (unsigned i = 0; i < *(unsigned *)rounds; i++) {
        snprintf(text, sizeof(text), "%u asks %u", index, i);
        if (!comes_back(index % 2 ? left : right, index % 2 ? RIGHT : LEFT, text))
            return;
        atomic_fetch_add(&echoes, 1);
    }
}

Test(requests, both_ends_ask_each_other_over_one_connection)
{
    unsigned rounds = 5000 / slowness();

    cr_assert(run_threads(8, ask_many, &rounds));
    cr_expect_eq(atomic_load(&echoes), 8 * rounds);
    cr_expect_eq(STAT(left, opened), 1);
    cr_expect_eq(STAT(right, opened), 1);
}

static void ask_back(unsigned index, void *rounds)
{
    struct pool_reply *reply;

    (void)index;
    for (unsigned i = 0; i < *(unsigned *)rounds; i++) {
        reply = NULL;
        if (pool_query(left, RIGHT, POOL_TEXT("back"), NULL, &reply) == POOL_OK &&
            is_text(reply, "asked"))
            atomic_fetch_add(&echoes, 1);
        pool_reply_free(reply);
    }
}

/* Each of more requests than may be unanswered needs an answer of who asked. */
Test(requests, who_is_asked_can_ask_back_before_he_answers)
{
    unsigned rounds = 500 / slowness();

    cr_assert(run_threads(8, ask_back, &rounds));
    cr_expect_eq(atomic_load(&echoes), 8 * rounds);
    cr_expect_eq(STAT(left, opened), 1);
}

Test(requests, an_error_reaches_who_asked_as_an_error)
{
    struct pool_reply *reply = NULL;

    cr_assert_eq(pool_query(left, RIGHT, POOL_TEXT("fail"), NULL, &reply), POOL_OK);
    cr_expect(pool_reply_failed(reply));
    cr_expect(is_text(reply, "no"));
    pool_reply_free(reply);
    expect_echo(left, RIGHT, "as before");
}

static atomic_uint answered;
static const char *answers[8];

static void on_reply(struct pool_reply *reply, void *user)
{
    (void)user;
    answers[atomic_load(&answered)] = is_text(reply, "first") ? "first" : "second";
    atomic_fetch_add(&answered, 1);
    pool_reply_free(reply);
}

static bool have_kept(void *count)
{
    return atomic_load(&kept_count) >= *(unsigned *)count;
}

static bool have_answered(void *count)
{
    return atomic_load(&answered) == *(unsigned *)count;
}

static void wait_kept(unsigned count)
{
    cr_assert(wait_until(have_kept, &count, VERBS_SOON));
}

static void wait_answered(unsigned count)
{
    cr_assert(wait_until(have_answered, &count, VERBS_SOON));
}

Test(requests, they_are_answered_later_from_any_thread_in_any_order)
{
    atomic_store(&answered, 0);
    cr_assert_eq(pool_query_async(left, RIGHT, POOL_TEXT("keep 1"), on_reply, NULL, NULL, NULL),
                 POOL_OK);
    cr_assert_eq(pool_query_async(left, RIGHT, POOL_TEXT("keep 2"), on_reply, NULL, NULL, NULL),
                 POOL_OK);
    wait_kept(2);
    expect_echo(left, RIGHT, "meanwhile");
    pool_respond(kept[1], POOL_TEXT("second"));
    wait_answered(1);
    pool_respond(kept[0], POOL_TEXT("first"));
    wait_answered(2);
    cr_expect_str_eq(answers[0], "second");
    cr_expect_str_eq(answers[1], "first");
}

static void on_failure(struct pool_reply *reply, void *user)
{
    *(enum pool_status *)user = pool_reply_error(reply) ? pool_reply_error(reply)->status : POOL_OK;
    atomic_fetch_add(&answered, 1);
    pool_reply_free(reply);
}

static atomic_uint finished;

static void ask_to_keep(unsigned index, void *unused)
{
    struct pool_reply *reply = NULL;

    (void)index;
    (void)unused;
    if (pool_query(left, RIGHT, POOL_TEXT("keep"), NULL, &reply) == POOL_OK &&
        is_text(reply, "kept"))
        atomic_fetch_add(&finished, 1);
    pool_reply_free(reply);
}

static void *answer_all(void *unused)
{
    (void)unused;
    for (unsigned i = 0; i < 8; i++) {
        wait_kept(i < 4 ? 4 : i + 1);
        pool_respond(kept[i], POOL_TEXT("kept"));
    }
    return NULL;
}

/* Eight ask at once, and four may be under way: the others wait for their turn, at both ends. */
Test(requests, who_finds_no_room_waits_until_there_is)
{
    pthread_t answering;

    atomic_store(&finished, 0);
    pthread_create(&answering, NULL, answer_all, NULL);
    cr_assert(run_threads(8, ask_to_keep, NULL));
    pthread_join(answering, NULL);
    cr_expect_eq(atomic_load(&finished), 8);
    cr_expect_eq(STAT(left, opened), 1);
}

Test(requests, an_answer_to_one_who_is_gone_is_dropped)
{
    enum pool_status status = POOL_OK;

    atomic_store(&answered, 0);
    cr_assert_eq(
        pool_query_async(left, RIGHT, POOL_TEXT("keep"), on_failure, &status, NULL, NULL),
        POOL_OK);
    wait_kept(1);
    pool_destroy(left);
    left = NULL;
    cr_expect_eq(atomic_load(&answered), 1, "the pool's end waits for it");
    cr_expect_eq(status, POOL_E_CLOSING);
    pool_respond(kept[0], POOL_TEXT("too late"));
}

Test(requests, an_answer_that_is_not_there_ends_the_connection)
{
    const struct pool_bytes nowhere = { NULL, 10 };
    enum pool_status status = POOL_OK;

    for (unsigned i = 0; i < 2; i++) {
        if (i) {
            end();
            begin();
        }
        atomic_store(&answered, 0);
        cr_assert_eq(
            pool_query_async(left, RIGHT, POOL_TEXT("keep"), on_failure, &status, NULL, NULL),
            POOL_OK);
        wait_kept(1);
        if (i)
            pool_respond_error(kept[0], nowhere);
        else
            pool_respond(kept[0], nowhere);
        wait_answered(1);
        cr_expect_eq(status, POOL_E_CLOSED);
    }
}

Test(requests, one_that_is_never_answered_keeps_nothing_from_ending)
{
    enum pool_status status = POOL_OK;

    atomic_store(&answered, 0);
    cr_assert_eq(
        pool_query_async(left, RIGHT, POOL_TEXT("keep"), on_failure, &status, NULL, NULL),
        POOL_OK);
    wait_kept(1);
    pool_destroy(right);
    right = NULL;
    wait_answered(1);
    cr_expect_eq(status, POOL_E_CLOSED);
    pool_respond(kept[0], POOL_TEXT("too late"));
}

Test(requests, they_are_heard_on_a_connection_that_came_back_from_a_borrow)
{
    struct pool_conn conn;
    char frame[17] = "\0\0\0\5\0\0\0\7\0\0\0\1hello", got[17];

    cr_assert(borrow(left, RIGHT, &conn));
    cr_assert_eq(pool_send(&conn, frame, sizeof(frame)), POOL_OK);
    cr_assert_eq(pool_recv_exact(&conn, got, sizeof(got)), POOL_OK);
    cr_expect_eq(memcmp(got, "\0\0\0\5\0\0\0\7\0\0\0\2hello", sizeof(got)), 0);
    pool_return(&conn);
    expect_echo(right, LEFT, "as before");
    cr_expect_eq(STAT(left, opened), 1);
}
