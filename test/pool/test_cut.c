/* test_cut.c: a reply that says nothing of its length ends with its connection: where it was the
 * peer who ended it, and not we. */
#include <criterion/criterion.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "base/os.h"
#include "pool/raw_line.h"

TestSuite(cut, .timeout = 60);

#define HTTP_GET "GET / HTTP/1.1\r\nHost: a\r\n\r\n"
#define HTTP_WHOLE "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\none"
#define HTTP_BEGIN "HTTP/1.1 200 OK\r\n\r\nthe begin"

static struct pool_ticket *ticket;

static void say(const char *text)
{
    cr_assert(write_exactly(raw_end, text, strlen(text), VERBS_SOON));
}

static void kill_it(void)
{
    cr_expect(pool_kill(raw_pool, 1));
}

static void clear_it(void)
{
    cr_expect_eq(pool_clear(raw_pool, RAW, POOL_INTERRUPT), POOL_OK);
}

static void end_its_time(void)
{
    cr_expect(pool_force_timeout(raw_pool, 1));
}

static void cancel_it(void)
{
    cr_expect(pool_ticket_cancel(ticket));
}

static void end_at_the_peer(void)
{
    cr_assert_eq(shutdown(raw_end, SHUT_WR), 0);
}

/* ---- queries */

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

/* The mux reads. */
static void cut_on_the_mux(void (*cut)(void), enum pool_status expected)
{
    struct query queries[2] = { { 0 } };
    struct pool_mux *mux;

    cr_assert_eq(pool_mux_create(&mux), POOL_OK);
    RAW_LINE(.mux = mux, .codec = pool_codec_http1());
    for (unsigned i = 0; i < 2; i++)
        cr_assert_eq(start_query(&queries[i], raw_pool, RAW, HTTP_GET, NULL), POOL_OK);
    expect_sent(mux, 2 * (int)strlen(HTTP_GET));
    say(HTTP_WHOLE HTTP_BEGIN);
    cr_assert(dispatch_until_answered(mux, &queries[0]));
    cut();
    cr_assert(dispatch_until_answered(mux, &queries[1]));
    cr_expect(is_answered_with(&queries[0], HTTP_WHOLE));
    if (expected)
        cr_expect(has_failed_with(&queries[1], expected));
    else
        cr_expect(is_answered_with(&queries[1], HTTP_BEGIN));
    raw_line_end();
    pool_mux_destroy(mux);
}

Test(cut, the_mux_tells_no_query_that_half_of_its_reply_is_all)
{
    cut_on_the_mux(kill_it, POOL_E_BROKEN);
    cut_on_the_mux(clear_it, POOL_E_CLEARED);
    cut_on_the_mux(end_its_time, POOL_E_TIMEOUT_IN_TRANSFER);
    cut_on_the_mux(end_at_the_peer, POOL_OK);
}

/* The caller reads. */
static void cut_on_a_thread(void (*cut)(void), enum pool_status expected)
{
    struct asker asker = { .pool = NULL };
    char request[sizeof(HTTP_GET)];

    RAW_LINE(.codec = pool_codec_http1());
    cr_assert(start_asker(&asker, raw_pool, RAW, HTTP_GET, NULL));
    cr_assert(read_exactly(raw_end, request, strlen(HTTP_GET), VERBS_SOON));
    say(HTTP_BEGIN);
    cut();
    join_asker(&asker);
    if (expected)
        cr_expect(has_failed_with(&asker.query, expected));
    else
        cr_expect(is_answered_with(&asker.query, HTTP_BEGIN));
    raw_line_end();
}

Test(cut, no_thread_is_told_that_half_of_its_reply_is_all)
{
    cut_on_a_thread(kill_it, POOL_E_BROKEN);
    cut_on_a_thread(clear_it, POOL_E_CLEARED);
    cut_on_a_thread(end_its_time, POOL_E_TIMEOUT_IN_TRANSFER);
    cut_on_a_thread(end_at_the_peer, POOL_OK);
}

/* ---- pool_ask() */

static struct pl_os door;
static void (*cut_now)(void);
static bool has_begun;

/* The connection ends while its borrower waits for more of the reply. */
static ssize_t cut_and_receive(int fd, void *buffer, size_t size, int flags)
{
    void (*cut)(void) = has_begun ? cut_now : NULL;
    ssize_t got;

    if (cut) {
        cut_now = NULL;
        cut();
    }
    got = pl_os_real.recv(fd, buffer, size, flags);
    has_begun = got > 0 && !(flags & MSG_PEEK);
    return got;
}

static void cut_an_ask(void (*cut)(void), enum pool_status expected)
{
    struct pool_bytes reply;
    struct pool_conn conn;

    RAW_LINE(.codec = pool_codec_http1());
    cr_assert_eq(pool_borrow(raw_pool, RAW,
                             POOL_CALL(.timeout_ms = VERBS_SOON, .ticket = &ticket), &conn),
                 POOL_OK);
    say(HTTP_BEGIN);
    has_begun = false;
    cut_now = cut;
    cr_expect_eq(pool_ask(&conn, text_bytes(HTTP_GET), &reply), expected);
    cr_expect_null(cut_now);
    cr_expect_eq(reply.size, expected ? 0 : strlen(HTTP_BEGIN));
    cr_expect_eq(pool_return(&conn), POOL_OK);
    cr_expect_eq(STAT(raw_pool, total), 0);
    pool_ticket_free(ticket);
    raw_line_end();
}

Test(cut, no_borrower_is_told_that_half_of_his_answer_is_all)
{
    door = pl_os_real;
    door.recv = cut_and_receive;
    pl_os_replace(&door);
    cut_an_ask(kill_it, POOL_E_BROKEN);
    cut_an_ask(clear_it, POOL_E_CLEARED);
    cut_an_ask(end_its_time, POOL_E_TIMEOUT_IN_TRANSFER);
    cut_an_ask(cancel_it, POOL_E_CANCELED);
    cut_an_ask(end_at_the_peer, POOL_OK);
    pl_os_replace(NULL);
}
