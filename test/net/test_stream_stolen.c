/* test_stream_stolen.c: while somebody waits on our socket, other code may close its number, which
 * then is another socket's. What the wait is followed by leaves that one alone. */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/os.h"
#include "net/lent.h"
#include "support/tests.h"

static struct pool_mux *mux;
static struct pl_os os;
static struct pl_connection *connection;
static int far = -1, theirs = -1; /* the other ends of our socket, and of the one in its place */

/* Closes our number by mistake; the next socket gets it, and has bytes at once. */
static void steal(int fd)
{
    int pair[2];

    if (theirs >= 0)
        return;
    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    cr_assert_eq(dup2(pair[0], fd), fd);
    close(pair[0]);
    theirs = pair[1];
    cr_assert_eq(send(theirs, "theirs", 6, 0), 6);
}

/* The kernel's own timeout ends. */
static ssize_t receive_and_steal(int fd, void *buffer, size_t size, int flags)
{
    if (flags & MSG_DONTWAIT)
        return pl_os_real.recv(fd, buffer, size, flags);
    steal(fd);
    return -EAGAIN;
}

static ssize_t receive_interrupted_and_steal(int fd, void *buffer, size_t size, int flags)
{
    ssize_t got = receive_and_steal(fd, buffer, size, flags);

    return got == -EAGAIN ? -EINTR : got;
}

static int wait_and_steal(struct pollfd *polled, nfds_t count, uint64_t deadline_ns)
{
    (void)count, (void)deadline_ns;
    steal(polled->fd);
    polled->revents = polled->events;
    return 1;
}

static void begin(void)
{
    int pair[2];

    os = pl_os_real;
    pl_os_replace(&os);
    cr_assert_eq(pl_mux_open(&mux, true), POOL_OK);
    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    connection = lend(mux, pair[0], 60000);
    far = pair[1];
}

static void end(void)
{
    os = pl_os_real;
    end_loan(connection);
    pl_mux_unref(mux);
    pl_os_replace(NULL);
    close(far);
    close(theirs);
}

TestSuite(stream_stolen, .init = begin, .fini = end, .timeout = 30);

static void expect_bytes_left(void)
{
    char bytes[16];
    size_t got = 0;

    cr_expect_eq(pl_stream_recv(connection, bytes, sizeof(bytes), &got), POOL_E_BROKEN);
    cr_expect_eq(got, 0);
    cr_expect_geq(theirs, 0);
    cr_expect_eq(recv(connection->fd, bytes, sizeof(bytes), MSG_DONTWAIT), 6, "all are there");
}

Test(stream_stolen, bytes_of_another_are_not_taken_when_the_kernels_timeout_ends)
{
    os.recv = receive_and_steal;
    expect_bytes_left();
}

Test(stream_stolen, bytes_of_another_are_not_taken_after_a_signal)
{
    os.recv = receive_interrupted_and_steal;
    expect_bytes_left();
}

Test(stream_stolen, bytes_of_another_are_not_taken_after_an_exact_wait)
{
    lend_again(connection, 20);
    os.poll_until = wait_and_steal;
    expect_bytes_left();
}

/* What was sent comes in parts, and after the first one the number is another's. */
static ssize_t receive_part_and_steal(int fd, void *buffer, size_t size, int flags)
{
    ssize_t got = pl_os_real.recv(fd, buffer, size, flags);

    steal(fd);
    return got;
}

/* The same, but only the program says so. */
static ssize_t receive_part_and_mark(int fd, void *buffer, size_t size, int flags)
{
    ssize_t got = pl_os_real.recv(fd, buffer, size < 2 ? size : 2, flags);

    pl_connection_doom(connection, PL_DOOM_STOLEN);
    return got;
}

static void expect_rest_left(const char *sent, ssize_t rest)
{
    size_t size = strlen(sent);
    char bytes[16];

    cr_assert_eq(send(far, sent, size, 0), (ssize_t)size);
    cr_expect_eq(pl_stream_recv_exact(connection, bytes, 8), POOL_E_BROKEN);
    cr_expect_eq(recv(connection->fd, bytes, sizeof(bytes), MSG_DONTWAIT), rest, "all are there");
}

Test(stream_stolen, bytes_of_another_are_not_taken_after_a_part_of_ours)
{
    os.recv = receive_part_and_steal;
    expect_rest_left("ou", 6);
}

Test(stream_stolen, nothing_more_is_taken_once_the_number_was_marked_between_parts)
{
    os.recv = receive_part_and_mark;
    expect_rest_left("our four", 6);
}

Test(stream_stolen, bytes_of_another_are_not_taken_for_the_rest_of_a_line)
{
    struct pool_bytes line;
    char bytes[16];

    os.recv = receive_part_and_steal;
    cr_assert_eq(send(far, "ou", 2, 0), 2);
    cr_expect_eq(pl_stream_recv_until(connection, (struct pool_bytes){ "s", 1 }, &line),
                 POOL_E_BROKEN);
    cr_expect_eq(recv(connection->fd, bytes, sizeof(bytes), MSG_DONTWAIT), 6, "all are there");
}

static ssize_t refuse(int fd, const struct msghdr *message, int flags)
{
    return theirs < 0 ? -EAGAIN : pl_os_real.sendmsg(fd, message, flags);
}

static ssize_t refuse_plainly(int fd, const void *data, size_t size, int flags)
{
    return theirs < 0 ? -EAGAIN : pl_os_real.send(fd, data, size, flags);
}

Test(stream_stolen, nothing_is_sent_to_another_after_a_wait_for_room)
{
    struct iovec piece = { (char[]){ "ours" }, 4 };

    os.sendmsg = refuse;
    os.send = refuse_plainly;
    os.poll_until = wait_and_steal;
    cr_expect_eq(pl_stream_send(connection, &piece, 1), POOL_E_BROKEN);
    cr_expect_eq(listen_to(theirs, 20), HEARD_NOTHING);
}
