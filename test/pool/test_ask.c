/* test_ask.c: one exchange through the codec on a borrowed connection, and what becomes of all that
 * comes besides the answer. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "commpool/query.h"
#include "support/tests.h"
#include "support/verbs.h"

#define ADDRESS "unix:///nowhere/but/here"

/* The connection is lent, and the test itself is the peer, at the other end. */
static struct pool *pool;
static struct pool_conn conn;
static int far = -1;

static struct pool_bytes text(const char *bytes)
{
    return (struct pool_bytes){ bytes, strlen(bytes) };
}

static void take(void)
{
    cr_assert_eq(pool_borrow(pool, ADDRESS, POOL_CALL(.timeout_ms = VERBS_SOON), &conn), POOL_OK);
}

static void begin(const struct pool_options *options)
{
    int pair[2];

    pool = make_pool(options);
    cr_assert(pool);
    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    cr_assert_eq(pool_adopt(pool, ADDRESS, pair[0]), POOL_OK);
    far = pair[1];
    take();
}

#define BEGIN(...) begin(POOL_OPTIONS(__VA_ARGS__))

static void end(void)
{
    if (pool_conn_id(&conn))
        pool_discard(&conn);
    pool_destroy(pool);
    close(far);
}

static void tell(const void *bytes, size_t size)
{
    cr_assert(write_exactly(far, bytes, size, VERBS_SOON));
}

static void say(const char *bytes)
{
    tell(bytes, strlen(bytes));
}

static void expect_heard(const void *bytes, size_t size)
{
    char heard[256];

    cr_assert_leq(size, sizeof(heard));
    cr_assert(read_exactly(far, heard, size, VERBS_SOON));
    cr_expect_eq(memcmp(heard, bytes, size), 0);
}

static void expect_bytes(struct pool_bytes reply, const char *expected)
{
    cr_expect_eq(reply.size, strlen(expected), "%zu bytes, not those of \"%s\"", reply.size,
                 expected);
    if (reply.size && reply.size == strlen(expected))
        cr_expect_eq(memcmp(reply.data, expected, reply.size), 0, "\"%.*s\", not \"%s\"",
                     (int)reply.size, (const char *)reply.data, expected);
}

static void expect_answer(const char *request, const char *expected)
{
    struct pool_bytes reply;

    cr_expect_eq(pool_ask(&conn, text(request), &reply), POOL_OK, "%s", request);
    expect_bytes(reply, expected);
}

static void expect_failure(const char *request, enum pool_status expected)
{
    struct pool_bytes reply = text("no");
    enum pool_status status = pool_ask(&conn, text(request), &reply);

    cr_expect_eq(status, expected, "%s, not %s", pool_status_name(status),
                 pool_status_name(expected));
    cr_expect_eq(reply.size, 0);
}

static void expect_kept(void)
{
    cr_expect_eq(pool_return(&conn), POOL_OK);
    cr_expect_eq(STAT(pool, idle), 1);
}

static void expect_closed(enum pool_close_reason reason)
{
    cr_expect_eq(pool_return(&conn), POOL_OK);
    cr_expect_eq(stat_at(pool, offsetof(struct pool_stats, closed) + reason * sizeof(uint64_t)), 1);
}

/* ---- an exchange */

Test(pool_ask, a_request_goes_out_framed_and_its_answer_comes_back_bare)
{
    BEGIN(.codec = pool_codec_line());
    say("world\r\n");
    expect_answer("hello", "world");
    expect_heard("hello\n", 6);
    expect_kept();
    take();
    say("again\n");
    expect_answer("more", "again");
    expect_kept();
    end();
}

#define FRAME(size, key, flags, body) "\0\0\0" size "\0\0\0" key "\0\0\0" flags body
#define TELL(frames) tell(frames, sizeof(frames) - 1)

Test(pool_ask, each_request_has_a_key_of_its_own)
{
    static const char first[] = FRAME("\2", "\1", "\1", "hi"),
                      second[] = FRAME("\0", "\2", "\1", "");

    BEGIN(.codec = pool_codec_length());
    TELL(FRAME("\2", "\1", "\2", "ho"));
    expect_answer("hi", "ho");
    expect_heard(first, sizeof(first) - 1);
    TELL(FRAME("\0", "\2", "\2", ""));
    expect_answer("", "");
    expect_heard(second, sizeof(second) - 1);
    expect_kept();
    end();
}

Test(pool_ask, an_answer_in_parts_is_one)
{
    BEGIN(.codec = pool_codec_length());
    TELL(FRAME("\2", "\1", "\3", "ab") FRAME("\0", "\1", "\3", "") FRAME("\1", "\1", "\2", "c"));
    expect_answer("x", "abc");
    TELL(FRAME("\1", "\2", "\3", "d") FRAME("\0", "\2", "\2", ""));
    expect_answer("y", "d");
    expect_kept();
    end();
}

Test(pool_ask, several_answers_to_one_request_are_one)
{
    BEGIN(.codec = pool_codec_resp());
    say("+one\r\n-two\r\n");
    expect_answer("*1\r\n$4\r\nPING\r\n*1\r\n$4\r\nPING\r\n", "+one\r\n-two\r\n");
    say("+3\r\n");
    expect_answer("*1\r\n$4\r\nPING\r\n", "+3\r\n");
    expect_kept();
    end();
}

Test(pool_ask, an_answer_that_tells_of_an_error_is_one)
{
    BEGIN(.codec = pool_codec_length());
    TELL(FRAME("\2", "\1", "\12", "no"));
    expect_answer("please", "no");
    expect_kept();
    end();
}

Test(pool_ask, a_request_without_an_answer_is_not_waited_for)
{
    static const char request[] = "set k 0 0 1 noreply\r\nx\r\n";

    BEGIN(.codec = pool_codec_memcached());
    expect_answer(request, "");
    expect_heard(request, sizeof(request) - 1);
    expect_kept();
    end();
}

Test(pool_ask, an_answer_in_drips_is_whole)
{
    struct peer *peer = PEER(.behave = PEER_DRIP, .interval_ms = 1);

    pool = MAKE_POOL(.codec = pool_codec_line());
    cr_assert(borrow(pool, peer_address(peer), &conn));
    expect_answer("drop by drop", "drop by drop");
    expect_answer("and again", "and again");
    expect_kept();
    pool_destroy(pool);
    peer_stop(peer);
}

Test(pool_ask, an_answer_may_be_long)
{
    enum { LONG = 300000 };
    struct peer *peer = PEER(.own_process = true, .queue_bytes = 2 * LONG);
    char *request = malloc(LONG);
    struct pool_bytes reply;

    cr_assert(request);
    memset(request, 'l', LONG);
    pool = MAKE_POOL(.codec = pool_codec_line());
    cr_assert(borrow(pool, peer_address(peer), &conn));
    for (int i = 0; i < 2; i++) {
        cr_expect_eq(pool_ask(&conn, (struct pool_bytes){ request, LONG }, &reply), POOL_OK);
        cr_assert_eq(reply.size, LONG);
        cr_expect_eq(memcmp(reply.data, request, LONG), 0);
        expect_answer("short", "short");
    }
    expect_kept();
    free(request);
    pool_destroy(pool);
    peer_stop(peer);
}

/* ---- what comes besides */

#define PING "*1\r\n$4\r\nPING\r\n"

/* An actor's, or on_orphan's. */
static struct {
    atomic_int count;
    char messages[4][32];
    uint64_t id;
    atomic_bool is_gone;
} heard;

static void note(struct pool_bytes message)
{
    int place = atomic_load(&heard.count);

    cr_assert_lt(place, 4);
    cr_assert_lt(message.size, sizeof(heard.messages[0]));
    memcpy(heard.messages[place], message.data, message.size);
    heard.messages[place][message.size] = 0;
    atomic_store(&heard.count, place + 1);
}

static int on_message(struct pool_conn *from, struct pool_bytes message, void *user)
{
    (void)user;
    (void)from;
    cr_expect_not(atomic_load(&heard.is_gone));
    note(message);
    return 0;
}

static void on_close(uint64_t connection, const struct pool_error *error, void *user)
{
    (void)connection;
    (void)error;
    (void)user;
    atomic_store(&heard.is_gone, true);
}

static int attach(struct pool_conn *fresh, struct pool_actor *actor, void *user)
{
    (void)fresh;
    (void)user;
    actor->on_message = on_message;
    actor->on_close = on_close;
    return 0;
}

static void on_orphan(uint64_t connection, uint64_t key, struct pool_bytes message, void *user)
{
    (void)user;
    cr_expect_eq(key, 0);
    heard.id = connection;
    note(message);
}

static bool have_heard(void *count)
{
    return atomic_load(&heard.count) == *(int *)count;
}

static void expect_messages(int count)
{
    cr_expect(wait_until(have_heard, &count, VERBS_SOON), "%d of %d", atomic_load(&heard.count),
              count);
}

Test(pool_ask, pushes_around_an_answer_are_the_actors)
{
    struct peer *peer =
        PEER(.behave = PEER_REPLY, .reply = ">1\r\n+before\r\n+OK\r\n>1\r\n+behind\r\n");

    pool = MAKE_POOL(.codec = pool_codec_resp(), .on_new_connection = attach);
    cr_assert(borrow(pool, peer_address(peer), &conn));
    expect_answer(PING, "+OK\r\n");
    expect_kept();
    expect_messages(2);
    cr_expect_str_eq(heard.messages[0], ">1\r\n+before\r\n");
    cr_expect_str_eq(heard.messages[1], ">1\r\n+behind\r\n");
    cr_expect_eq(STAT(pool, orphans), 0);
    pool_destroy(pool);
    cr_expect(atomic_load(&heard.is_gone));
    peer_stop(peer);
}

/* Its connection may be gone by then, but the actor was not told so yet. */
Test(pool_ask, the_actor_hears_a_push_before_the_end)
{
    struct peer *peer = PEER(.behave = PEER_REPLY, .reply = ">1\r\n+last\r\n+OK\r\n");

    pool = MAKE_POOL(.codec = pool_codec_resp(), .on_new_connection = attach);
    cr_assert(borrow(pool, peer_address(peer), &conn));
    expect_answer(PING, "+OK\r\n");
    cr_expect_eq(pool_discard(&conn), POOL_OK);
    pool_destroy(pool);
    expect_messages(1);
    cr_expect(atomic_load(&heard.is_gone));
    peer_stop(peer);
}

Test(pool_ask, a_push_without_an_actor_is_an_orphan)
{
    BEGIN(.codec = pool_codec_resp(), .on_orphan = on_orphan);
    say(">1\r\n+alone\r\n+OK\r\n");
    expect_answer(PING, "+OK\r\n");
    expect_messages(1);
    cr_expect_str_eq(heard.messages[0], ">1\r\n+alone\r\n");
    cr_expect_eq(heard.id, pool_conn_id(&conn));
    expect_kept();
    end();
}

Test(pool_ask, nobody_need_hear_of_pushes)
{
    BEGIN(.codec = pool_codec_resp());
    say(">1\r\n+alone\r\n+OK\r\n");
    expect_answer(PING, "+OK\r\n");
    expect_kept();
    end();
}

Test(pool_ask, what_came_behind_the_answer_is_received_next)
{
    char rest[8];
    size_t got;

    BEGIN(.codec = pool_codec_line());
    say("answer\nmore");
    expect_answer("x", "answer");
    cr_expect_eq(pool_recv(&conn, rest, sizeof(rest), &got), POOL_OK);
    expect_bytes((struct pool_bytes){ rest, got }, "more");
    say("next\nstray\n");
    expect_answer("y", "next");
    expect_closed(POOL_CLOSE_DIRTY);
    end();
}

Test(pool_ask, an_answer_before_its_request_is_another_ones)
{
    BEGIN(.codec = pool_codec_line());
    say("answer\nstray\n");
    expect_answer("x", "answer");
    expect_failure("y", POOL_E_PROTOCOL);
    expect_heard("x\n", 2);
    expect_closed(POOL_CLOSE_ERROR);
    cr_expect_eq(listen_to(far, VERBS_SOON), HEARD_END, "y was not sent");
    end();
}

Test(pool_ask, half_a_message_that_was_read_ahead_goes_on)
{
    struct pool_bytes line;

    BEGIN(.codec = pool_codec_resp(), .on_orphan = on_orphan);
    say("hello\r\n>1\r\n+ha");
    cr_assert_eq(pool_recv_until(&conn, "\r\n", 2, &line), POOL_OK);
    say("lf\r\n+OK\r\n>1\r\n+ot");
    expect_answer(PING, "+OK\r\n");
    say("her\r\n+OK\r\n");
    expect_answer(PING, "+OK\r\n");
    expect_messages(2);
    cr_expect_str_eq(heard.messages[0], ">1\r\n+half\r\n");
    cr_expect_str_eq(heard.messages[1], ">1\r\n+other\r\n");
    expect_kept();
    end();
}

/* ---- failures */

static void expect_error(enum pool_phase phase, enum pool_outcome outcome)
{
    struct pool_error error = POOL_ERROR_INIT;

    cr_expect_eq(pool_conn_error(&conn, &error), POOL_OK);
    cr_expect_eq(error.phase, phase);
    cr_expect_eq(error.outcome, outcome);
}

Test(pool_ask, garbage_is_a_protocol_error)
{
    BEGIN(.codec = pool_codec_resp());
    say("what?\r\n");
    expect_failure(PING, POOL_E_PROTOCOL);
    expect_error(POOL_PHASE_USE, POOL_ANSWERED);
    expect_closed(POOL_CLOSE_ERROR);
    end();
}

Test(pool_ask, the_answer_to_another_key_is_a_protocol_error)
{
    BEGIN(.codec = pool_codec_length());
    TELL(FRAME("\2", "\7", "\2", "ho"));
    expect_failure("x", POOL_E_PROTOCOL);
    expect_closed(POOL_CLOSE_ERROR);
    end();
}

Test(pool_ask, nobody_serves_the_peer_meanwhile)
{
    BEGIN(.codec = pool_codec_length());
    TELL(FRAME("\2", "\7", "\1", "do"));
    expect_failure("x", POOL_E_PROTOCOL);
    expect_closed(POOL_CLOSE_ERROR);
    end();
}

Test(pool_ask, silence_ends_at_the_deadline_and_leaves_an_answer_due)
{
    uint64_t start_ms = now_ms();

    BEGIN(.codec = pool_codec_line());
    cr_assert_eq(pool_conn_deadline(&conn, 50), POOL_OK);
    expect_failure("x", POOL_E_TIMEOUT_IN_TRANSFER);
    cr_expect(IN_TIME(elapsed_ms(start_ms), 50));
    expect_error(POOL_PHASE_USE, POOL_MAYBE_SENT);
    say("late\n");
    cr_assert_eq(pool_conn_deadline(&conn, VERBS_SOON), POOL_OK);
    expect_failure("y", POOL_E_BROKEN);
    expect_closed(POOL_CLOSE_ERROR);
    end();
}

Test(pool_ask, a_cut_between_two_messages_is_closed_and_inside_one_broken)
{
    BEGIN(.codec = pool_codec_line());
    cr_assert_eq(shutdown(far, SHUT_WR), 0);
    expect_failure("x", POOL_E_CLOSED);
    end();
    BEGIN(.codec = pool_codec_line());
    say("hal");
    cr_assert_eq(shutdown(far, SHUT_WR), 0);
    expect_failure("x", POOL_E_BROKEN);
    end();
    BEGIN(.codec = pool_codec_length());
    TELL(FRAME("\1", "\1", "\3", "a"));
    cr_assert_eq(shutdown(far, SHUT_WR), 0);
    expect_failure("x", POOL_E_BROKEN);
    end();
}

Test(pool_ask, an_answer_may_end_with_the_stream)
{
    BEGIN(.codec = pool_codec_http1());
    say("HTTP/1.1 200 OK\r\n\r\nbody");
    cr_assert_eq(shutdown(far, SHUT_WR), 0);
    expect_answer("GET / HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\nbody");
    cr_expect_eq(pool_return(&conn), POOL_OK);
    cr_expect_eq(STAT(pool, total), 0);
    end();
}

Test(pool_ask, a_connection_that_must_end_after_its_answer_is_not_lent_again)
{
    BEGIN(.codec = pool_codec_http1());
    say("HTTP/1.1 204 No\r\nConnection: close\r\n\r\n");
    expect_answer("GET / HTTP/1.1\r\nHost: a\r\n\r\n",
                  "HTTP/1.1 204 No\r\nConnection: close\r\n\r\n");
    expect_closed(POOL_CLOSE_AGE);
    end();
}

Test(pool_ask, what_is_longer_than_max_message_is_refused_both_ways)
{
    BEGIN(.codec = pool_codec_line(), .max_message = 10);
    expect_failure("much too long", POOL_E_FULL);
    say("ok\n");
    expect_answer("short", "ok");
    say("longer than ten\n");
    expect_failure("x", POOL_E_PROTOCOL);
    end();
    BEGIN(.codec = pool_codec_resp(), .max_message = 50);
    say("+it is long enough\r\n+for each\r\n+not for all three of them\r\n");
    expect_failure(PING PING PING, POOL_E_PROTOCOL);
    end();
}

Test(pool_ask, what_cannot_be_counted_is_refused_and_nothing_is_sent)
{
    struct pool_error error = { 0 };

    BEGIN(.codec = pool_codec_line());
    expect_failure("two\nlines", POOL_E_ARGUMENT);
    cr_expect(!pool_conn_error(&conn, &error) && !error.status, "nothing failed on it");
    say("ok\n");
    expect_answer("one", "ok");
    expect_heard("one\n", 4);
    expect_kept();
    end();
}

Test(pool_ask, without_a_codec_there_is_nothing_to_ask_through)
{
    BEGIN(.idle_ms = 5000);
    expect_failure("x", POOL_E_ARGUMENT);
    cr_expect_eq(listen_to(far, 0), HEARD_NOTHING);
    expect_kept();
    end();
}

/* ---- who asks */

static atomic_int answer_on_mux;

static void ask_on_mux(struct pool_conn *lent, const struct pool_error *error, void *user)
{
    struct pool_bytes reply;

    (void)error;
    (void)user;
    cr_assert(lent);
    atomic_store(&answer_on_mux, pool_ask(lent, text("x"), &reply));
    pool_return(lent);
}

static bool has_asked(void *unused)
{
    (void)unused;
    return atomic_load(&answer_on_mux) != 7;
}

Test(pool_ask, the_mux_thread_does_not_wait_and_so_sends_nothing)
{
    BEGIN(.codec = pool_codec_line());
    pool_return(&conn);
    atomic_store(&answer_on_mux, 7);
    cr_assert_eq(pool_communicate_async(pool, ADDRESS, ask_on_mux, NULL, NULL, NULL), POOL_OK);
    cr_assert(wait_until(has_asked, NULL, VERBS_SOON));
    cr_expect_eq(atomic_load(&answer_on_mux), POOL_E_WOULD_BLOCK);
    cr_expect_eq(listen_to(far, 0), HEARD_NOTHING);
    cr_expect(WAIT_STAT(pool, idle, 1), "it is clean");
    end();
}

Test(pool_ask, a_detached_connection_may_ask)
{
    BEGIN(.codec = pool_codec_resp());
    say("+one\r\n");
    expect_answer(PING, "+one\r\n");
    cr_assert_eq(pool_detach(&conn), POOL_OK);
    pool_destroy(pool);
    say(">1\r\n+push\r\n+two\r\n");
    expect_answer(PING, "+two\r\n");
    cr_expect_eq(pool_discard(&conn), POOL_OK);
    pool = NULL;
    end();
}

static int use(struct pool_conn *lent, void *user)
{
    struct pool_bytes reply;

    (void)user;
    if (pool_ask(lent, text("in use"), &reply))
        return -1;
    expect_bytes(reply, "in use");
    return 0;
}

Test(pool_ask, idle_connections_keep_nothing_of_it_and_ask_again)
{
    struct peer *peer = PEER(.behave = PEER_LINE_ECHO);
    int fd;

    pool = MAKE_POOL(.codec = pool_codec_line(), .park_ms = 1);
    for (int i = 0; i < 3; i++) {
        cr_assert(borrow(pool, peer_address(peer), &conn));
        expect_answer("by hand", "by hand");
        fd = pool_conn_fd(&conn);
        expect_kept();
        cr_expect(wait_parked(fd));
        cr_expect_eq(pool_communicate(pool, peer_address(peer), use, NULL, NULL), POOL_OK);
    }
    cr_expect_eq(STAT(pool, opened), 1);
    pool_destroy(pool);
    peer_stop(peer);
}
