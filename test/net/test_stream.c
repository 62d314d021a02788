/* test_stream.c: what a borrower sends and receives, byte by byte, and what it is told when that
 * fails. Deadlines are in test_stream_time.c. */
#include <criterion/criterion.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/os.h"
#include "net/lent.h"
#include "support/tests.h"

#define SOON 10000

static struct pool_mux *mux;
static struct pl_os os;
static struct pl_connection *connection;
static int far; /* the other end */

static void begin(void)
{
    int pair[2];

    os = pl_os_real;
    pl_os_replace(&os);
    cr_assert_eq(pl_mux_open(&mux, true), POOL_OK);
    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    connection = lend(mux, pair[0], SOON);
    far = pair[1];
}

static void end(void)
{
    end_loan(connection);
    close(far);
    pl_mux_unref(mux);
    pl_os_replace(NULL);
}

TestSuite(stream, .init = begin, .fini = end, .timeout = 60);

static enum pool_status send_text(const char *text)
{
    return pl_stream_send(connection, &(struct iovec){ (void *)(uintptr_t)text, strlen(text) }, 1);
}

static void say(const char *text)
{
    cr_assert(write_exactly(far, text, strlen(text), SOON));
}

static uint32_t marks(void)
{
    return connection->lease.marks;
}

/* The next receive yields exactly `text`. */
static void expect_recv(const char *text)
{
    char bytes[256] = "";
    size_t got;

    cr_expect_eq(pl_stream_recv(connection, bytes, sizeof(bytes) - 1, &got), POOL_OK);
    cr_expect_eq(got, strlen(text));
    cr_expect_str_eq(bytes, text);
}

static enum pool_status recv_line(const char *delimiter, const char *expected)
{
    struct pool_bytes line = { NULL, 0 };
    enum pool_status status =
        pl_stream_recv_until(connection, (struct pool_bytes){ delimiter, strlen(delimiter) },
                             &line);

    if (!status) {
        cr_expect_eq(line.size, strlen(expected), "%zu bytes for %s", line.size, expected);
        cr_expect_eq(memcmp(line.data, expected, line.size), 0, "%s", expected);
    }
    return status;
}

/* What the last failure was. */
static void expect_failure(enum pool_status status, enum pool_outcome outcome, int cause)
{
    struct pl_failure failure = failure_of(connection);

    cr_expect_eq(failure.status, status, "%s", pool_status_name((enum pool_status)failure.status));
    cr_expect_eq(failure.phase, POOL_PHASE_USE);
    cr_expect_eq(failure.outcome, outcome);
    cr_expect_eq(failure.cause, cause, "%s", strerrorname_np(failure.cause));
    cr_expect(marks() & PL_MARK_FAILED);
}

/* ---- a kernel that does as little as it may */

#define LARGE 20000

static char large[LARGE];

static void fill_large(void)
{
    for (size_t i = 0; i < LARGE; i++)
        large[i] = (char)(i * 31 >> 3);
}

/* 199 small pieces, some of them empty, and then the rest of `large`. */
static void send_large(void)
{
    struct iovec pieces[200] = { { NULL, 0 } };
    size_t from = 0;

    for (size_t i = 0; i < 199; i++) {
        pieces[i] = (struct iovec){ large + from, i % 5 ? i % 150 : 0 };
        from += pieces[i].iov_len;
    }
    cr_expect_eq(pl_stream_send(connection, pieces, 200), POOL_OK);
    cr_expect_eq(pieces[1].iov_len, 1, "the caller's pieces are as they were");
    cr_expect_eq(pl_stream_send(connection, &(struct iovec){ large + from, LARGE - from }, 1),
                 POOL_OK);
}

static void send_or_read(unsigned index, void *received)
{
    if (index == 0)
        send_large();
    else
        read_exactly(far, received, LARGE, SOON);
}

Test(stream, every_byte_is_sent_once_and_in_order_whatever_the_kernel_takes_at_once)
{
    static char received[LARGE];

    fill_large();
    make_lazy(&os);
    cr_assert(run_threads(2, send_or_read, received));
    cr_expect_eq(memcmp(received, large, LARGE), 0);
    cr_expect_eq(listen_to(far, 0), HEARD_NOTHING);
    cr_expect_eq(connection->bytes_out, LARGE);
}

/* By all three ways. */
static void receive_large(char *into)
{
    struct pool_bytes line, last = { large + LARGE - 1, 1 };
    char *at = into + 7000;
    size_t got;

    cr_assert_eq(pl_stream_recv_exact(connection, into, 7000), POOL_OK);
    for (; at < into + 14000; at += got)
        cr_assert_eq(pl_stream_recv(connection, at, 100, &got), POOL_OK);
    while (at < into + LARGE) {
        cr_assert_eq(pl_stream_recv_until(connection, last, &line), POOL_OK);
        memcpy(at, line.data, line.size);
        at += line.size;
    }
}

Test(stream, every_byte_is_received_once_and_in_order_however_few_come_at_once)
{
    static char received[LARGE];

    fill_large();
    make_lazy(&os);
    cr_assert(write_exactly(far, large, LARGE, SOON));
    receive_large(received);
    cr_expect_eq(memcmp(received, large, LARGE), 0);
    cr_expect_eq(connection->bytes_in, LARGE);
    cr_expect_not(marks() & PL_MARK_UNREAD);
}

Test(stream, a_storm_of_signals_changes_nothing)
{
    struct signal_storm *storm = start_signal_storm(1000);
    uint64_t begin_ms = now_ms();

    cr_assert_not_null(storm);
    while (signals_so_far(storm) < 200 && elapsed_ms(begin_ms) < SOON) {
        char bytes[64];

        cr_assert_eq(send_text("hello"), POOL_OK);
        cr_assert(read_exactly(far, bytes, 5, SOON));
        say("world");
        cr_assert_eq(pl_stream_recv_exact(connection, bytes, 5), POOL_OK);
        cr_assert_eq(memcmp(bytes, "world", 5), 0);
    }
    cr_expect_geq(stop_signal_storm(storm), 200);
}

/* ---- how many calls */

static unsigned sends, recvs, others;

static ssize_t counted_send(int fd, const void *data, size_t size, int flags)
{
    sends++;
    cr_expect_eq(flags, MSG_DONTWAIT | MSG_NOSIGNAL);
    return pl_os_real.send(fd, data, size, flags);
}

static ssize_t counted_recv(int fd, void *buffer, size_t size, int flags)
{
    recvs++;
    return pl_os_real.recv(fd, buffer, size, flags);
}

static int counted_poll(struct pollfd *polled, nfds_t count, uint64_t deadline_ns)
{
    others++;
    return pl_os_real.poll_until(polled, count, deadline_ns);
}

static int counted_get(int fd, int level, int name, void *value, socklen_t *size)
{
    others++;
    return pl_os_real.getsockopt(fd, level, name, value, size);
}

static int counted_set(int fd, int level, int name, const void *value, socklen_t size)
{
    others++;
    return pl_os_real.setsockopt(fd, level, name, value, size);
}

Test(stream, a_round_trip_is_one_send_and_one_recv)
{
    char bytes[5];

    say("first");
    expect_recv("first"); /* sets the socket's own timeout */
    os.send = counted_send;
    os.recv = counted_recv;
    os.poll_until = counted_poll;
    os.getsockopt = counted_get;
    os.setsockopt = counted_set;
    cr_expect_eq(send_text("hello"), POOL_OK);
    cr_assert(read_exactly(far, bytes, 5, SOON));
    say("world");
    expect_recv("world");
    cr_expect_eq(sends, 1);
    cr_expect_eq(recvs, 1);
    cr_expect_eq(others, 0);
}

Test(stream, nothing_to_send_or_to_receive_asks_the_kernel_nothing)
{
    struct iovec empty[3] = { { NULL, 0 } };
    size_t got = 1;

    os.send = counted_send;
    os.recv = counted_recv;
    cr_expect_eq(pl_stream_send(connection, empty, 3), POOL_OK);
    cr_expect_eq(pl_stream_send(connection, NULL, 0), POOL_OK);
    cr_expect_eq(pl_stream_recv(connection, NULL, 0, &got), POOL_OK);
    cr_expect_eq(pl_stream_recv_exact(connection, NULL, 0), POOL_OK);
    cr_expect_eq(got, 0);
    cr_expect_eq(sends + recvs, 0);
    cr_expect_eq(marks(), 0, "and leaves no mark");
}

/* ---- lines */

Test(stream, a_line_ends_with_its_delimiter_and_the_rest_stays_for_the_next_receive)
{
    char bytes[4];

    say("+OK\r\n\r\n$5\r\nhello\r\n");
    cr_expect_eq(recv_line("\r\n", "+OK\r\n"), POOL_OK);
    cr_expect(marks() & PL_MARK_UNREAD);
    cr_expect_eq(recv_line("\r\n", "\r\n"), POOL_OK);
    cr_expect_eq(recv_line("\r\n", "$5\r\n"), POOL_OK);
    cr_expect_eq(pl_stream_recv_exact(connection, bytes, 4), POOL_OK);
    cr_expect_eq(memcmp(bytes, "hell", 4), 0);
    cr_expect(marks() & PL_MARK_UNREAD);
    expect_recv("o\r\n");
    cr_expect_not(marks() & PL_MARK_UNREAD);
}

Test(stream, what_was_read_ahead_comes_first_and_what_is_missing_after_it)
{
    char bytes[8];

    say("a\nbc");
    cr_expect_eq(recv_line("\n", "a\n"), POOL_OK);
    say("defg");
    cr_expect_eq(pl_stream_recv_exact(connection, bytes, 6), POOL_OK);
    cr_expect_eq(memcmp(bytes, "bcdefg", 6), 0);
}

static ssize_t piecewise_recv(int fd, void *buffer, size_t size, int flags)
{
    return pl_os_real.recv(fd, buffer, size < 3 ? size : 1 + any_of(3), flags);
}

Test(stream, a_delimiter_is_found_wherever_the_pieces_are_cut)
{
    os.recv = piecewise_recv;
    for (unsigned round = 0; round < 500; round++) {
        say("a-b--c---d----END-E-EN-END--END");
        cr_assert_eq(recv_line("END", "a-b--c---d----END"), POOL_OK);
        cr_assert_eq(recv_line("END", "-E-EN-END"), POOL_OK);
        cr_assert_eq(recv_line("--END", "--END"), POOL_OK);
    }
    cr_expect_eq(marks() & PL_MARK_UNREAD, 0);
}

Test(stream, a_line_may_be_as_long_as_allowed_and_not_a_byte_longer)
{
    static char line[8192];

    memset(line, 'x', sizeof(line));
    connection->limits.max_line = 5000;
    line[4999] = '\n';
    line[5000] = '\0';
    say(line);
    cr_expect_eq(recv_line("\n", line), POOL_OK);
    line[4999] = 'x';
    line[5000] = '\n';
    line[5001] = '\0';
    say(line);
    cr_expect_eq(recv_line("\n", line), POOL_E_PROTOCOL);
    expect_failure(POOL_E_PROTOCOL, POOL_ANSWERED, 0);
}

Test(stream, as_many_bytes_as_a_line_may_have_and_no_delimiter_are_enough_to_refuse_it)
{
    connection->limits.max_line = 8;
    say("1234567\n12345678");
    cr_expect_eq(recv_line("\n", "1234567\n"), POOL_OK);
    cr_expect_eq(recv_line("\n", ""), POOL_E_PROTOCOL);
    expect_failure(POOL_E_PROTOCOL, POOL_ANSWERED, 0);
}

Test(stream, a_peer_that_never_ends_its_line_is_left_before_it_fills_the_memory)
{
    static char flood[65536];

    memset(flood, 'x', sizeof(flood));
    connection->limits.max_line = 1000;
    cr_assert(write_exactly(far, flood, sizeof(flood), SOON));
    cr_expect_eq(recv_line("\n", ""), POOL_E_PROTOCOL);
    cr_expect_leq(connection->input->capacity, 4096);
}

static void *no_memory(void *memory, size_t size)
{
    (void)memory, (void)size;
    return NULL;
}

Test(stream, without_memory_a_line_fails_and_says_so)
{
    os.realloc = no_memory;
    say("a\n");
    cr_expect_eq(recv_line("\n", ""), POOL_E_MEMORY);
    expect_failure(POOL_E_MEMORY, POOL_NOT_SENT, ENOMEM);
}

/* ---- ends */

Test(stream, an_end_before_the_first_byte_is_an_end_and_after_it_a_break)
{
    char bytes[8];

    say("ab");
    shutdown(far, SHUT_WR);
    cr_expect_eq(pl_stream_recv_exact(connection, bytes, 4), POOL_E_BROKEN);
    expect_failure(POOL_E_BROKEN, POOL_ANSWERED, 0);
    cr_expect_eq(pl_stream_recv_exact(connection, bytes, 4), POOL_E_CLOSED);
    cr_expect_eq(recv_line("\n", ""), POOL_E_CLOSED);
    expect_failure(POOL_E_CLOSED, POOL_ANSWERED, 0);
}

Test(stream, an_end_inside_a_line_is_a_break)
{
    say("half a line");
    shutdown(far, SHUT_WR);
    cr_expect_eq(recv_line("\n", ""), POOL_E_BROKEN);
}

Test(stream, an_end_while_nothing_was_sent_is_told_as_such)
{
    char byte;
    size_t got = 1;

    close(far);
    cr_expect_eq(pl_stream_recv(connection, &byte, 1, &got), POOL_E_CLOSED);
    cr_expect_eq(got, 0);
    expect_failure(POOL_E_CLOSED, POOL_NOT_SENT, 0);
}

Test(stream, sending_to_a_peer_that_is_gone_raises_no_signal)
{
    struct iovec pieces[] = { { large, 5 }, { large, 5 } };

    close(far);
    cr_expect_eq(send_text("hello"), POOL_E_BROKEN);
    expect_failure(POOL_E_BROKEN, POOL_NOT_SENT, EPIPE);
    cr_expect_eq(pl_stream_send(connection, pieces, 2), POOL_E_BROKEN);
}

static int error_to_answer;

static ssize_t failing_send(int fd, const void *data, size_t size, int flags)
{
    (void)fd, (void)data, (void)size, (void)flags;
    return -error_to_answer;
}

static ssize_t failing_recv(int fd, void *buffer, size_t size, int flags)
{
    (void)fd, (void)buffer, (void)size, (void)flags;
    return -error_to_answer;
}

Test(stream, an_error_of_the_kernel_is_told_by_its_status_and_number)
{
    static const struct {
        int error;
        enum pool_status status;
    } errors[] = {
        { ECONNRESET, POOL_E_BROKEN }, { ETIMEDOUT, POOL_E_BROKEN }, { ENOBUFS, POOL_E_RESOURCE },
        { EPERM, POOL_E_ACCESS },      { EFAULT, POOL_E_SYSTEM },    { ENETDOWN, POOL_E_BROKEN },
    };
    char byte;
    size_t got;

    os.send = failing_send;
    os.recv = failing_recv;
    for (size_t i = 0; i < PL_COUNT(errors); i++) {
        error_to_answer = errors[i].error;
        lend_again(connection, SOON);
        cr_expect_eq(send_text("x"), errors[i].status);
        expect_failure(errors[i].status, POOL_NOT_SENT, errors[i].error);
        lend_again(connection, SOON);
        cr_expect_eq(pl_stream_recv(connection, &byte, 1, &got), errors[i].status);
        expect_failure(errors[i].status, POOL_NOT_SENT, errors[i].error);
    }
}

/* ---- what a loan leaves behind */

Test(stream, marks_tell_what_happened_in_a_loan)
{
    char byte;

    cr_expect_eq(marks(), 0);
    cr_expect_eq(send_text("x"), POOL_OK);
    cr_expect_eq(marks(), PL_MARK_SENT | PL_MARK_AWAITS);
    cr_assert(read_exactly(far, &byte, 1, SOON));
    say("y");
    expect_recv("y");
    cr_expect_eq(marks(), PL_MARK_SENT | PL_MARK_RECEIVED);
    cr_expect_eq(send_text("x"), POOL_OK);
    cr_expect_eq(marks(), PL_MARK_SENT | PL_MARK_RECEIVED | PL_MARK_AWAITS);
    connection->is_prepared = false;
    cr_expect_eq(pl_stream_fail(connection, POOL_E_BROKEN, EPIPE), POOL_E_BROKEN);
    cr_expect_eq(failure_of(connection).phase, POOL_PHASE_SETUP, "prepare is at work");
    cr_expect_eq(failure_of(connection).outcome, POOL_NOT_SENT, "it sends no request");
}

Test(stream, what_was_sent_before_a_failure_may_have_been_seen)
{
    cr_expect_eq(send_text("x"), POOL_OK);
    os.send = failing_send;
    error_to_answer = ECONNRESET;
    cr_expect_eq(send_text("y"), POOL_E_BROKEN);
    expect_failure(POOL_E_BROKEN, POOL_MAYBE_SENT, ECONNRESET);
}

Test(stream, a_connection_that_is_doomed_says_why_and_moves_no_byte)
{
    static const struct {
        enum pl_doom doom;
        enum pool_status status;
    } dooms[] = { { PL_DOOM_STOLEN, POOL_E_BROKEN },
                  { PL_DOOM_POOL, POOL_E_CLOSING },
                  { PL_DOOM_STALE_COPY, POOL_E_ARGUMENT } };
    char byte = 0;
    size_t got;

    say("unread");
    for (size_t i = 0; i < PL_COUNT(dooms); i++) {
        connection->doom = dooms[i].doom;
        cr_expect_eq(pl_stream_doom(connection), dooms[i].status);
        cr_expect_eq(send_text("x"), dooms[i].status);
        cr_expect_eq(pl_stream_recv(connection, &byte, 1, &got), dooms[i].status);
        cr_expect_eq(pl_stream_recv_exact(connection, &byte, 1), dooms[i].status);
        cr_expect_eq(recv_line("d", ""), dooms[i].status);
    }
    cr_expect_eq(byte, 0);
    cr_expect_eq(listen_to(far, 0), HEARD_NOTHING);
}

Test(stream, the_timeout_is_not_set_on_a_socket_that_is_not_ours)
{
    struct timeval set;
    socklen_t size = sizeof(set);
    char byte;
    size_t got;
    int pair[2];

    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    dup2(pair[0], connection->fd);
    cr_assert_eq(send(pair[1], "secret", 6, 0), 6);
    cr_expect_eq(pl_stream_recv(connection, &byte, 1, &got), POOL_E_BROKEN);
    expect_failure(POOL_E_BROKEN, POOL_NOT_SENT, EBADF);
    getsockopt(pair[0], SOL_SOCKET, SO_RCVTIMEO, &set, &size);
    cr_expect(!set.tv_sec && !set.tv_usec);
    cr_expect_eq(listen_to(pair[0], 0), HEARD_BYTES, "nothing of it was read");
}

/* ---- threads */

static _Atomic bool is_reading;

static ssize_t told_recv(int fd, void *buffer, size_t size, int flags)
{
    is_reading = true;
    return pl_os_real.recv(fd, buffer, size, flags);
}

static bool one_reads(void *unused)
{
    return !unused && is_reading;
}

static void read_two(unsigned index, void *argument)
{
    enum pool_status *statuses = argument;
    struct pool_bytes line;
    char byte;
    size_t got;

    if (index == 0) {
        statuses[0] = pl_stream_recv(connection, &byte, 1, &got);
        return;
    }
    wait_until(one_reads, NULL, SOON);
    statuses[1] = pl_stream_recv(connection, &byte, 1, &got);
    statuses[2] = pl_stream_recv_exact(connection, &byte, 1);
    statuses[3] = pl_stream_recv_until(connection, POOL_TEXT("x"), &line);
    say("x");
}

Test(stream, a_second_reader_at_once_is_refused_and_the_first_is_not_disturbed)
{
    enum pool_status statuses[4];

    os.recv = told_recv;
    cr_assert(run_threads(2, read_two, statuses));
    cr_expect_eq(statuses[0], POOL_OK);
    for (size_t i = 1; i < PL_COUNT(statuses); i++)
        cr_expect_eq(statuses[i], POOL_E_ARGUMENT);
    cr_expect_not(marks() & (PL_MARK_READING | PL_MARK_FAILED));
}

Test(stream, on_the_mux_thread_nothing_waits)
{
    static char much[1 << 22];
    struct pool_mux *here;
    char byte;
    size_t got;

    cr_assert_eq(pool_mux_create(&here), POOL_OK);
    connection->mux = here;
    cr_expect_eq(pl_stream_recv(connection, &byte, 1, &got), POOL_E_WOULD_BLOCK);
    cr_expect_eq(marks(), PL_MARK_EXPECTS, "nothing failed, but something was due");
    say("x");
    expect_recv("x");
    cr_expect_not(marks() & PL_MARK_EXPECTS);
    cr_expect_eq(send_text("small"), POOL_OK);
    cr_expect_eq(pl_stream_send(connection, &(struct iovec){ much, sizeof(much) }, 1),
                 POOL_E_WOULD_BLOCK);
    cr_expect(marks() & PL_MARK_FAILED, "half of it is on the wire");
    connection->mux = mux;
    pool_mux_destroy(here);
}
