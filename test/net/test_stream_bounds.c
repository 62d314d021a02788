/* test_stream_bounds.c: read_ms and write_ms bound a whole call, however many times it must ask the
 * kernel. The clock and the kernel are made of paper here: every look moves them by one step. */
#include <criterion/criterion.h>
#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/os.h"
#include "net/lent.h"
#include "support/peer.h"
#include "support/tests.h"

#define STEP_MS 40
#define BOUND_MS 100

static struct pool_mux *mux;
static struct pl_os os;
static struct pl_connection *connection;
static uint64_t paper_ns;
static unsigned turn;
static char bytes[10];

static uint64_t now_on_paper(void)
{
    return paper_ns;
}

/* The peer takes or gives something after one step; whoever waits less long is out of time. */
static int wait_a_step(struct pollfd *polled, nfds_t count, uint64_t deadline_ns)
{
    (void)count;
    paper_ns += STEP_MS * PL_MS;
    polled->revents = polled->events;
    return paper_ns < deadline_ns;
}

/* Nothing can be sent at first, then everything at once. */
static ssize_t send_all_in_turn(int fd, const struct msghdr *message, int flags)
{
    ssize_t size = 0;

    (void)fd, (void)flags;
    if (turn++ % 2 == 0)
        return -EAGAIN;
    for (size_t i = 0; i < message->msg_iovlen; i++)
        size += (ssize_t)message->msg_iov[i].iov_len;
    return size;
}

/* Each byte has come by the time that the next one is asked for. */
static ssize_t drip(int fd, void *buffer, size_t size, int flags)
{
    (void)fd, (void)flags;
    paper_ns += STEP_MS * PL_MS;
    *(char *)buffer = 'x';
    return size ? 1 : 0;
}

static ssize_t send_one(int fd, const void *data, size_t size, int flags)
{
    (void)fd, (void)data, (void)flags;
    paper_ns += STEP_MS * PL_MS;
    return size ? 1 : 0;
}

static void begin(void)
{
    int pair[2];

    os = pl_os_real;
    pl_os_replace(&os);
    cr_assert_eq(pl_mux_open(&mux, true), POOL_OK);
    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    connection = lend(mux, pair[0], 60000);
    connection->limits.read_ms = connection->limits.write_ms = BOUND_MS;
    close(pair[1]);
}

/* From here on the kernel is the paper one. */
static void begin_on_paper(void)
{
    paper_ns = pl_os_real.now_ns();
    os.now_ns = now_on_paper;
    os.poll_until = wait_a_step;
    os.sendmsg = send_all_in_turn;
    os.send = send_one;
    os.recv = drip;
}

static void end(void)
{
    os = pl_os_real;
    end_loan(connection);
    pl_mux_unref(mux);
    pl_os_replace(NULL);
}

TestSuite(stream_bounds, .init = begin, .fini = end, .timeout = 60);

/* Did it end at the bound, and not a step later? */
static void expect_bounded(enum pool_status status, uint64_t start_ns)
{
    cr_expect_eq(status, POOL_E_TIMEOUT_IN_TRANSFER);
    cr_expect_geq(paper_ns, start_ns + BOUND_MS * PL_MS, "it is not cut short either");
    cr_expect_leq(paper_ns, start_ns + (BOUND_MS + STEP_MS) * PL_MS);
}

Test(stream_bounds, pieces_that_leave_in_several_groups_share_one_bound)
{
    struct iovec pieces[64 * 5];
    uint64_t start_ns;

    for (size_t i = 0; i < PL_COUNT(pieces); i++)
        pieces[i] = (struct iovec){ bytes, 1 };
    begin_on_paper();
    start_ns = paper_ns;
    expect_bounded(pl_stream_send(connection, pieces, PL_COUNT(pieces)), start_ns);
}

Test(stream_bounds, a_peer_that_takes_byte_after_byte_does_not_stretch_a_send)
{
    uint64_t start_ns;

    begin_on_paper();
    start_ns = paper_ns;
    expect_bounded(pl_stream_send(connection, &(struct iovec){ bytes, 10 }, 1), start_ns);
}

Test(stream_bounds, a_peer_that_drips_does_not_stretch_an_exact_receive)
{
    uint64_t start_ns;

    begin_on_paper();
    start_ns = paper_ns;
    expect_bounded(pl_stream_recv_exact(connection, bytes, sizeof(bytes)), start_ns);
}

Test(stream_bounds, a_peer_that_drips_does_not_stretch_the_wait_for_a_line)
{
    struct pool_bytes line;
    uint64_t start_ns;

    begin_on_paper();
    start_ns = paper_ns;
    expect_bounded(pl_stream_recv_until(connection, (struct pool_bytes){ "\n", 1 }, &line),
                   start_ns);
}

Test(stream_bounds, each_call_has_the_whole_bound_again)
{
    begin_on_paper();
    for (int i = 0; i < 5; i++)
        cr_expect_eq(pl_stream_recv_exact(connection, bytes, 2), POOL_OK);
}

Test(stream_bounds, a_dripping_peer_of_flesh_and_blood_is_left_in_time)
{
    struct peer *peer = PEER(.behave = PEER_DRIP, .interval_ms = 20);
    struct pl_connection *reading = lend(mux, peer_dial(peer), 10000);
    char many[100] = "";
    uint64_t start_ms = now_ms();

    reading->limits.read_ms = 120;
    cr_expect_eq(pl_stream_send(reading, &(struct iovec){ many, sizeof(many) }, 1), POOL_OK);
    cr_expect_eq(pl_stream_recv_exact(reading, many, sizeof(many)), POOL_E_TIMEOUT_IN_TRANSFER);
    cr_expect(WITHIN(elapsed_ms(start_ms), 120, 500));
    end_loan(reading);
    peer_stop(peer);
}

/* ---- only trying */

Test(stream_bounds, trying_in_vain_is_no_failure_and_leaves_no_mark)
{
    char got[4];
    size_t done = 9;
    int pair[2];
    struct pl_connection *trying;

    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    trying = lend(mux, pair[0], 60000);
    cr_expect_eq(pl_stream_try_recv(trying, got, sizeof(got), &done), POOL_E_WOULD_BLOCK);
    cr_expect_eq(done, 0);
    cr_expect_eq(trying->lease.marks, 0);
    cr_expect_eq(failure_of(trying).status, POOL_OK);
    cr_assert(write_exactly(pair[1], "abcdef", 6, 1000));
    cr_expect_eq(pl_stream_try_recv(trying, got, sizeof(got), &done), POOL_OK);
    cr_expect_eq(done, 4);
    cr_expect_eq(memcmp(got, "abcd", 4), 0);
    cr_expect_eq(trying->bytes_in, 4);
    cr_expect_eq(trying->lease.marks, PL_MARK_RECEIVED);
    end_loan(trying);
    close(pair[1]);
}

Test(stream_bounds, trying_to_send_moves_what_fits_and_then_says_so)
{
    static char plenty[1 << 20];
    size_t sent = 0, total = 0;
    enum pool_status status;
    int pair[2];
    struct pl_connection *trying;

    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    trying = lend(mux, pair[0], 60000);
    while (!(status = pl_stream_try_send(trying, plenty, sizeof(plenty), &sent)))
        total += sent;
    cr_expect_eq(status, POOL_E_WOULD_BLOCK);
    cr_expect_eq(sent, 0);
    cr_expect_gt(total, 0);
    cr_expect_eq(trying->bytes_out, total);
    cr_expect_eq(trying->lease.marks, PL_MARK_SENT | PL_MARK_AWAITS);
    close(pair[1]);
    cr_expect_eq(pl_stream_try_send(trying, plenty, 1, &sent), POOL_E_BROKEN, "and no SIGPIPE");
    cr_expect(trying->lease.marks & PL_MARK_FAILED);
    end_loan(trying);
}

Test(stream_bounds, whoever_only_tries_learns_that_time_is_over_too)
{
    char byte;
    size_t got;
    int pair[2];
    struct pl_connection *trying;

    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    trying = lend(mux, pair[0], 60000);
    pl_set(trying->lease.deadline_ns, 1);
    cr_assert(write_exactly(pair[1], "x", 1, 1000));
    cr_expect_eq(pl_stream_try_recv(trying, &byte, 1, &got), POOL_OK, "what is there is taken");
    cr_expect_eq(pl_stream_try_recv(trying, &byte, 1, &got), POOL_E_TIMEOUT_IN_TRANSFER);
    cr_expect(trying->lease.marks & PL_MARK_FAILED);
    end_loan(trying);
    close(pair[1]);
}

Test(stream_bounds, the_end_of_the_stream_is_told_to_whoever_tries)
{
    char byte;
    size_t got;

    cr_expect_eq(pl_stream_try_recv(connection, &byte, 1, &got), POOL_E_CLOSED);
    cr_expect(connection->lease.marks & PL_MARK_FAILED);
}

Test(stream_bounds, bytes_read_ahead_come_before_those_in_the_kernel)
{
    struct pool_bytes line;
    char ahead[8] = "";
    size_t got;
    int pair[2];
    struct pl_connection *trying;

    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    trying = lend(mux, pair[0], 60000);
    cr_assert(write_exactly(pair[1], "one\ntwo", 7, 1000));
    cr_expect_eq(pl_stream_recv_until(trying, (struct pool_bytes){ "\n", 1 }, &line), POOL_OK);
    cr_expect(trying->lease.marks & PL_MARK_UNREAD);
    cr_assert(write_exactly(pair[1], "three", 5, 1000));
    cr_expect_eq(pl_stream_try_recv(trying, ahead, sizeof(ahead), &got), POOL_OK);
    cr_expect_eq(got, 3);
    cr_expect_str_eq(ahead, "two");
    cr_expect_not(trying->lease.marks & PL_MARK_UNREAD);
    cr_expect_eq(pl_stream_try_recv(trying, ahead, sizeof(ahead), &got), POOL_OK);
    cr_expect_eq(got, 5);
    end_loan(trying);
    close(pair[1]);
}
