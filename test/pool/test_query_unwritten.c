/* test_query_unwritten.c: a write fails where the peer has answered, and then reset or closed the
 * connection: what has come is told, whoever has it in his hands. */
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/os.h"
#include "pool/raw_line.h"

TestSuite(query_unwritten, .timeout = 60);

#define HTTP_GET "GET / HTTP/1.1\r\nHost: a\r\n\r\n"
#define HTTP_REPLY "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n"

static char tcp[64]; /* where nobody listens any more */
static int own_end; /* the pool's */

/* As RAW_LINE(), over TCP. */
#define TCP_LINE(...)                                                                              \
    tcp_line_begin(POOL_OPTIONS(.max_per_address = 1, .backoff_first_ms = POOL_ZERO,               \
                                .suspend_after = POOL_ZERO, __VA_ARGS__))
static void tcp_line_begin(const struct pool_options *options)
{
    struct sockaddr_in place = { .sin_family = AF_INET,
                                 .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t size = sizeof(place);
    int listening = socket(AF_INET, SOCK_STREAM, 0);

    own_end = socket(AF_INET, SOCK_STREAM, 0);
    cr_assert_eq(bind(listening, (struct sockaddr *)&place, size), 0);
    cr_assert_eq(listen(listening, 1), 0);
    cr_assert_eq(getsockname(listening, (struct sockaddr *)&place, &size), 0);
    cr_assert_eq(connect(own_end, (struct sockaddr *)&place, size), 0);
    raw_end = accept(listening, NULL, NULL);
    cr_assert_geq(raw_end, 0);
    close(listening);
    snprintf(tcp, sizeof(tcp), "tcp://127.0.0.1:%u", ntohs(place.sin_port));
    raw_pool = make_pool(options);
    cr_assert_not_null(raw_pool);
    cr_assert_eq(pool_adopt(raw_pool, tcp, own_end), POOL_OK);
}

static void say(const char *text)
{
    cr_assert(write_exactly(raw_end, text, strlen(text), VERBS_SOON));
}

/* What the peer said before stays with us. */
static void reset(void)
{
    struct linger at_once = { .l_onoff = 1 };

    cr_assert_eq(setsockopt(raw_end, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once)), 0);
    close(raw_end);
    raw_end = -1;
}

/* Dispatches until the peer has so many bytes, and reads them. */
static void expect_sent(struct pool_mux *mux, int size)
{
    char bytes[1024];
    uint64_t start_ms = now_ms();
    int there = 0;

    while (there < size && elapsed_ms(start_ms) < VERBS_SOON) {
        pool_mux_dispatch(mux, 10);
        cr_assert_eq(ioctl(raw_end, FIONREAD, &there), 0);
    }
    cr_assert_eq(there, size);
    cr_assert(read_exactly(raw_end, bytes, (size_t)size, VERBS_SOON));
}

/* Three lines are asked and answered, and the fourth one finds the connection reset. */
Test(query_unwritten, what_has_come_before_the_reset_is_told)
{
    static const char *const lines[] = { "one", "two", "three" };
    struct query queries[3] = { { 0 } }, last = { 0 };
    struct pool_mux *mux;

    cr_assert_eq(pool_mux_create(&mux), POOL_OK);
    TCP_LINE(.mux = mux, .codec = pool_codec_line());
    for (unsigned i = 0; i < 3; i++)
        cr_assert_eq(start_query(&queries[i], raw_pool, tcp, lines[i], NULL), POOL_OK);
    expect_sent(mux, 14);
    say("one\ntwo\nthree\n");
    reset();
    cr_assert_eq(start_query(&last, raw_pool, tcp, "last", NULL), POOL_OK);
    cr_assert(dispatch_until_answered(mux, &last));
    for (unsigned i = 0; i < 3; i++)
        cr_expect(is_answered_with(&queries[i], lines[i]));
    cr_expect_neq(last.status, POOL_OK);
    cr_expect_eq(last.error.outcome, POOL_NOT_SENT);
    raw_line_end();
    pool_mux_destroy(mux);
}

/* What was asked behind a closing response is not answered, and so it is told. */
Test(query_unwritten, behind_a_closing_response_it_is_closed)
{
    struct query queries[3] = { { 0 } }, last = { 0 };
    struct pool_mux *mux;

    cr_assert_eq(pool_mux_create(&mux), POOL_OK);
    TCP_LINE(.mux = mux, .codec = pool_codec_http1());
    for (unsigned i = 0; i < 3; i++)
        cr_assert_eq(start_query(&queries[i], raw_pool, tcp, HTTP_GET, NULL), POOL_OK);
    expect_sent(mux, 3 * (int)strlen(HTTP_GET));
    say(HTTP_REPLY "one");
    say("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 3\r\n\r\ntwo");
    reset();
    cr_assert_eq(start_query(&last, raw_pool, tcp, HTTP_GET, NULL), POOL_OK);
    cr_assert(dispatch_until_answered(mux, &last));
    cr_expect(is_answered_with(&queries[0], HTTP_REPLY "one"));
    cr_expect_eq(queries[1].status, POOL_OK);
    cr_expect(has_failed_with(&queries[2], POOL_E_CLOSED));
    cr_expect_eq(queries[2].error.outcome, POOL_MAYBE_SENT);
    cr_expect_eq(last.error.outcome, POOL_NOT_SENT);
    raw_line_end();
    pool_mux_destroy(mux);
}

/* After a reset the system answers that nothing more comes, as if the peer had said so. */
Test(query_unwritten, a_reset_is_not_the_end_of_a_body_that_ends_with_the_connection)
{
    struct query queries[2] = { { 0 } }, last = { 0 };
    struct pool_mux *mux;

    cr_assert_eq(pool_mux_create(&mux), POOL_OK);
    TCP_LINE(.mux = mux, .codec = pool_codec_http1());
    for (unsigned i = 0; i < 2; i++)
        cr_assert_eq(start_query(&queries[i], raw_pool, tcp, HTTP_GET, NULL), POOL_OK);
    expect_sent(mux, 2 * (int)strlen(HTTP_GET));
    say(HTTP_REPLY "one");
    say("HTTP/1.1 200 OK\r\n\r\nthe begin");
    reset();
    cr_assert_eq(start_query(&last, raw_pool, tcp, HTTP_GET, NULL), POOL_OK);
    cr_assert(dispatch_until_answered(mux, &last));
    cr_expect(is_answered_with(&queries[0], HTTP_REPLY "one"));
    cr_expect(has_failed_with(&queries[1], POOL_E_BROKEN));
    raw_line_end();
    pool_mux_destroy(mux);
}

/* ---- somebody reads */

static struct pl_os door;
static atomic_bool is_armed, is_there, may_go_on;

static bool is_set(void *flag)
{
    return atomic_load((atomic_bool *)flag);
}

/* He has bytes in his hands, and goes on when somebody else could not write. */
static ssize_t receive_and_hold(int fd, void *buffer, size_t size, int flags)
{
    ssize_t got = pl_os_real.recv(fd, buffer, size, flags);

    if (got > 0 && fd == own_end && atomic_exchange(&is_armed, false)) {
        atomic_store(&is_there, true);
        (void)wait_until(is_set, &may_go_on, VERBS_SOON);
    }
    return got;
}

static int sleep_and_tell(_Atomic uint32_t *word, uint32_t expected, uint64_t deadline_ns)
{
    if (atomic_load(&is_there))
        atomic_store(&may_go_on, true);
    return pl_os_real.sleep_until(word, expected, deadline_ns);
}

static void begin_held(void)
{
    door = pl_os_real;
    door.recv = receive_and_hold;
    door.sleep_until = sleep_and_tell;
    pl_os_replace(&door);
    TCP_LINE(.codec = pool_codec_length());
}

/* Whoever receives has the first reply when the peer has reset; the second one has come as well. */
static void answer_and_reset(const struct raw_frame *frames)
{
    struct asker last = { .pool = NULL };

    atomic_store(&is_armed, true);
    cr_assert(raw_put(frames[0].id, FRAME_REPLY, frames[0].body));
    cr_assert(wait_until(is_set, &is_there, VERBS_SOON));
    cr_assert(raw_put(frames[1].id, FRAME_REPLY, frames[1].body));
    reset();
    cr_assert(start_asker(&last, raw_pool, tcp, "last", NULL));
    cr_expect_neq(join_asker(&last), POOL_OK);
    cr_expect_eq(last.query.error.outcome, POOL_NOT_SENT);
}

static void end_held(void)
{
    raw_line_end();
    pl_os_replace(NULL);
}

Test(query_unwritten, what_another_thread_receives_is_told)
{
    struct asker askers[2] = { { .pool = NULL } };
    struct raw_frame frames[2];

    begin_held();
    for (unsigned i = 0; i < 2; i++) {
        cr_assert(start_asker(&askers[i], raw_pool, tcp, i ? "two" : "one", NULL));
        cr_assert(raw_get(&frames[i]));
    }
    answer_and_reset(frames);
    for (unsigned i = 0; i < 2; i++) {
        cr_expect_eq(join_asker(&askers[i]), POOL_OK);
        cr_expect(is_answered_with(&askers[i].query, i ? "two" : "one"));
    }
    end_held();
}

Test(query_unwritten, what_the_mux_receives_is_told)
{
    struct query queries[2] = { { 0 } };
    struct raw_frame frames[2];

    begin_held();
    for (unsigned i = 0; i < 2; i++) {
        cr_assert_eq(start_query(&queries[i], raw_pool, tcp, i ? "two" : "one", NULL), POOL_OK);
        cr_assert(raw_get(&frames[i]));
    }
    answer_and_reset(frames);
    for (unsigned i = 0; i < 2; i++) {
        cr_assert(wait_answered(&queries[i]));
        cr_expect(is_answered_with(&queries[i], i ? "two" : "one"));
    }
    end_held();
}
