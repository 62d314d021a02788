/* test_errors.c: what failures are called, and how far the request had come. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/os.h"
#include "support/peer.h"
#include "support/tests.h"
#include "support/verbs.h"

/* ---- a door that fails one call on command */

enum failing {
    FAIL_NONE,
    FAIL_SOCKET,
    FAIL_CONNECT,
    FAIL_CONNECT_LATE,
    FAIL_SEND,
    FAIL_RECV,
    FAIL_CLOSE
};

static struct pl_os door;
static _Atomic int failing, failing_errno;
static atomic_uint closes;

static int failing_socket(int family, int type, int protocol)
{
    return failing == FAIL_SOCKET ? -failing_errno : pl_os_real.socket(family, type, protocol);
}

static int failing_connect(int fd, const struct sockaddr *address, socklen_t size)
{
    return failing == FAIL_CONNECT ? -failing_errno : pl_os_real.connect(fd, address, size);
}

static int failing_getsockopt(int fd, int level, int name, void *value, socklen_t *size)
{
    int result = pl_os_real.getsockopt(fd, level, name, value, size);

    if (failing == FAIL_CONNECT_LATE && level == SOL_SOCKET && name == SO_ERROR)
        *(int *)value = failing_errno;
    return result;
}

static ssize_t failing_send(int fd, const void *data, size_t size, int flags)
{
    return failing == FAIL_SEND ? -failing_errno : pl_os_real.send(fd, data, size, flags);
}

static ssize_t failing_recv(int fd, void *buffer, size_t size, int flags)
{
    if (failing == FAIL_RECV && !(flags & MSG_PEEK))
        return -failing_errno;
    return pl_os_real.recv(fd, buffer, size, flags);
}

/* As Linux does it: the number is free again whatever the answer is. */
static int failing_close(int fd)
{
    int result = pl_os_real.close(fd);

    atomic_fetch_add(&closes, 1);
    return failing == FAIL_CLOSE ? -failing_errno : result;
}

static void open_failing_door(void)
{
    door = pl_os_real;
    door.socket = failing_socket;
    door.connect = failing_connect;
    door.getsockopt = failing_getsockopt;
    door.send = failing_send;
    door.recv = failing_recv;
    door.close = failing_close;
    pl_os_replace(&door);
}

static void close_door(void)
{
    pl_os_replace(NULL);
}

TestSuite(pool_errors, .init = open_failing_door, .fini = close_door);

static void fail(enum failing what, int error)
{
    failing_errno = error;
    failing = what;
}

static int ask(struct pool_conn *conn, void *user)
{
    (void)user;
    return echo(conn, "hello");
}

/* ---- errno and status */

struct row {
    int error;
    enum pool_status status;
};

static void expect_rows(enum failing what, const struct row *rows, size_t count,
                        enum pool_phase phase)
{
    struct peer *peer = PEER();

    for (size_t i = 0; i < count; i++) {
        struct pool *pool = MAKE_POOL(.timeout_ms = 300);
        struct pool_error error = POOL_ERROR_INIT;

        fail(what, rows[i].error);
        cr_expect_eq(
            pool_communicate(pool, peer_address(peer), ask, NULL, POOL_CALL(.error = &error)),
            rows[i].status, "%s: %s, not %s", strerrorname_np(rows[i].error),
            pool_status_name(error.status), pool_status_name(rows[i].status));
        cr_expect_eq(error.status, rows[i].status, "%s", strerrorname_np(rows[i].error));
        cr_expect_eq(error.cause, rows[i].error, "%s: %d", strerrorname_np(rows[i].error),
                     error.cause);
        cr_expect_eq(error.phase, phase, "%s: %d", strerrorname_np(rows[i].error), error.phase);
        cr_expect_not_null(strstr(error.text, peer_address(peer)), "%s", error.text);
        cr_expect_not_null(strstr(error.text, strerrorname_np(rows[i].error)), "%s", error.text);
        fail(FAIL_NONE, 0);
        cr_expect_eq(STAT(pool, lent), 0);
        cr_expect_eq(talk(pool, peer_address(peer)), POOL_OK, "after %s",
                     strerrorname_np(rows[i].error));
        pool_destroy(pool);
    }
    peer_stop(peer);
}

static const struct row connect_rows[] = {
    { ECONNREFUSED, POOL_E_REFUSED },   { ENOENT, POOL_E_REFUSED },
    { EACCES, POOL_E_ACCESS },          { EPERM, POOL_E_ACCESS },
    { ENETUNREACH, POOL_E_CONNECT },    { EHOSTUNREACH, POOL_E_CONNECT },
    { ENETDOWN, POOL_E_CONNECT },       { EHOSTDOWN, POOL_E_CONNECT },
    { ECONNRESET, POOL_E_CONNECT },     { ECONNABORTED, POOL_E_CONNECT },
    { EINVAL, POOL_E_CONNECT },         { ETIMEDOUT, POOL_E_TIMEOUT },
    { EAFNOSUPPORT, POOL_E_ADDRESS },   { EPROTOTYPE, POOL_E_ADDRESS },
    { EADDRNOTAVAIL, POOL_E_RESOURCE }, { ENOBUFS, POOL_E_RESOURCE },
    { ENOMEM, POOL_E_RESOURCE },        { EIO, POOL_E_SYSTEM },
    { ELIBACC, POOL_E_SYSTEM },
};

Test(pool_errors, every_errno_of_connect_has_a_status)
{
    expect_rows(FAIL_CONNECT, connect_rows, sizeof(connect_rows) / sizeof(*connect_rows),
                POOL_PHASE_CONNECT);
}

Test(pool_errors, a_connect_that_fails_late_is_called_the_same)
{
    expect_rows(FAIL_CONNECT_LATE, connect_rows, sizeof(connect_rows) / sizeof(*connect_rows),
                POOL_PHASE_CONNECT);
}

Test(pool_errors, every_errno_of_socket_has_a_status)
{
    static const struct row rows[] = {
        { EMFILE, POOL_E_RESOURCE },      { ENFILE, POOL_E_RESOURCE },
        { ENOBUFS, POOL_E_RESOURCE },     { ENOMEM, POOL_E_RESOURCE },
        { EACCES, POOL_E_ACCESS },        { EPERM, POOL_E_ACCESS },
        { EAFNOSUPPORT, POOL_E_ADDRESS }, { EPROTONOSUPPORT, POOL_E_ADDRESS },
        { ELIBACC, POOL_E_SYSTEM },
    };

    expect_rows(FAIL_SOCKET, rows, sizeof(rows) / sizeof(*rows), POOL_PHASE_CONNECT);
}

static const struct row transfer_rows[] = {
    { ECONNRESET, POOL_E_BROKEN }, { EPIPE, POOL_E_BROKEN },        { ENOTCONN, POOL_E_BROKEN },
    { ETIMEDOUT, POOL_E_BROKEN },  { EHOSTUNREACH, POOL_E_BROKEN }, { ENETUNREACH, POOL_E_BROKEN },
    { ENETDOWN, POOL_E_BROKEN },   { EBADF, POOL_E_BROKEN },        { ENOTSOCK, POOL_E_BROKEN },
    { ENOBUFS, POOL_E_RESOURCE },  { ENOMEM, POOL_E_RESOURCE },     { EACCES, POOL_E_ACCESS },
    { EPERM, POOL_E_ACCESS },      { EIO, POOL_E_SYSTEM },          { ELIBACC, POOL_E_SYSTEM },
};

Test(pool_errors, every_errno_of_send_has_a_status)
{
    expect_rows(FAIL_SEND, transfer_rows, sizeof(transfer_rows) / sizeof(*transfer_rows),
                POOL_PHASE_USE);
}

Test(pool_errors, every_errno_of_recv_has_a_status)
{
    expect_rows(FAIL_RECV, transfer_rows, sizeof(transfer_rows) / sizeof(*transfer_rows),
                POOL_PHASE_USE);
}

/* Linux has closed it, whatever it says; a second close would hit somebody else's. */
Test(pool_errors, a_close_that_fails_is_never_repeated)
{
    static const int errors[] = { EINTR, EIO, ENOSPC };
    struct peer *peer = PEER(.own_process = true);

    for (size_t i = 0; i < sizeof(errors) / sizeof(*errors); i++) {
        struct pool *pool = MAKE_POOL();
        struct pool_conn conn;
        unsigned before;

        cr_assert(borrow(pool, peer_address(peer), &conn));
        fail(FAIL_CLOSE, errors[i]);
        before = closes;
        cr_expect_eq(pool_discard(&conn), POOL_OK);
        cr_expect_eq(closes, before + 1);
        fail(FAIL_NONE, 0);
        cr_expect_eq(STAT(pool, total), 0);
        pool_destroy(pool);
        cr_expect(peer_wait_open(peer, 0, VERBS_SOON));
    }
    peer_stop(peer);
}

/* A self-connection counts as refused. It is the kernel's trick, without its luck: a
 * socket bound to the port it connects to. */
static int connect_to_self(int fd, const struct sockaddr *address, socklen_t size)
{
    int on = 1;

    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (bind(fd, address, size))
        return -errno;
    return pl_os_real.connect(fd, address, size);
}

Test(pool_errors, a_connection_that_reaches_ourselves_counts_as_refused)
{
    struct pool_error error = POOL_ERROR_INIT;
    struct peer *peer = PEER();
    struct pool *pool = MAKE_POOL();
    char address[64];

    snprintf(address, sizeof(address), "%s", peer_address(peer));
    peer_stop(peer);
    door.connect = connect_to_self;
    cr_expect_eq(pool_communicate(pool, address, do_nothing, NULL, POOL_CALL(.error = &error)),
                 POOL_E_REFUSED);
    cr_expect_eq(error.cause, ECONNREFUSED);
    cr_expect_eq(STAT(pool, total), 0);
    pool_destroy(pool);
}

/* ---- how far it had come, told exactly */

static int send_and_read(struct pool_conn *conn, void *user)
{
    char back[16];

    (void)user;
    if (pool_send(conn, "0123456789abcdef", 16))
        return -1;
    return pool_recv_exact(conn, back, 16);
}

Test(pool_errors, an_end_after_so_many_bytes_tells_what_the_peer_can_know)
{
    for (size_t bytes = 0; bytes <= 16; bytes++) {
        struct peer *peer = PEER(.behave = PEER_CLOSE_SENT, .after_bytes = bytes);
        struct pool *pool = MAKE_POOL();
        struct pool_error error = POOL_ERROR_INIT;
        enum pool_status status = pool_communicate(pool, peer_address(peer), send_and_read, NULL,
                                                   POOL_CALL(.error = &error));

        if (bytes == 16) {
            cr_expect_eq(status, POOL_OK);
        } else if (bytes) {
            cr_expect_eq(status, POOL_E_BROKEN, "%zu: %s", bytes, pool_status_name(status));
            cr_expect_eq(error.outcome, POOL_ANSWERED, "%zu", bytes);
        } else {
            cr_expect(status == POOL_E_CLOSED || status == POOL_E_BROKEN, "%s",
                      pool_status_name(status));
            cr_expect_eq(error.outcome == POOL_NOT_SENT, error.cause == EPIPE, "%s", error.text);
        }
        cr_expect_eq(STAT(pool, retries), 0, "a new connection that fails would fail again");
        pool_destroy(pool);
        peer_stop(peer);
    }
}

Test(pool_errors, an_end_before_the_whole_request_is_read_may_have_been_seen)
{
    for (size_t bytes = 1; bytes <= 16; bytes++) {
        struct peer *peer =
            PEER(.behave = PEER_CLOSE_RECEIVED, .after_bytes = bytes, .message_bytes = 16);
        struct pool *pool = MAKE_POOL();
        struct pool_error error = POOL_ERROR_INIT;
        enum pool_status status = pool_communicate(pool, peer_address(peer), send_and_read, NULL,
                                                   POOL_CALL(.error = &error));

        cr_expect(status == POOL_E_CLOSED || status == POOL_E_BROKEN, "%s",
                  pool_status_name(status));
        cr_expect_eq(error.outcome, POOL_MAYBE_SENT, "%zu: %s", bytes, error.text);
        pool_destroy(pool);
        peer_stop(peer);
    }
}

Test(pool_errors, the_end_of_an_answer_is_no_failure_of_a_use_that_says_so)
{
    struct peer *peer = PEER(.behave = PEER_CLOSE_SENT, .after_bytes = 16);
    struct pool *pool = MAKE_POOL();
    struct pool_conn conn;
    char byte, back[16];
    size_t got;

    cr_assert(borrow(pool, peer_address(peer), &conn));
    cr_expect_eq(pool_send(&conn, "0123456789abcdef", 16), POOL_OK);
    cr_expect_eq(pool_recv_exact(&conn, back, 16), POOL_OK);
    cr_expect_eq(pool_recv(&conn, &byte, 1, &got), POOL_E_CLOSED);
    cr_expect_eq(got, 0);
    cr_expect_eq(pool_return(&conn), POOL_OK);
    cr_expect_eq(STAT(pool, closed[POOL_CLOSE_PEER]), 1);
    pool_destroy(pool);
    peer_stop(peer);
}

/* An optional greeting does not come, and the request is sent all the same. */
static int send_behind_a_timeout(struct pool_conn *conn, void *user)
{
    struct pool_error error = POOL_ERROR_INIT;
    size_t got;
    char byte;

    (void)user;
    pool_conn_deadline(conn, 30);
    cr_expect_eq(pool_recv(conn, &byte, 1, &got), POOL_E_TIMEOUT);
    pool_conn_error(conn, &error);
    cr_expect_eq(error.outcome, POOL_NOT_SENT);
    pool_conn_deadline(conn, VERBS_SOON);
    cr_expect_eq(pool_send(conn, "request", 7), POOL_OK);
    pool_conn_error(conn, &error);
    cr_expect_eq(error.outcome, POOL_MAYBE_SENT);
    return 0;
}

Test(pool_errors, what_was_sent_behind_a_failure_may_have_been_seen)
{
    struct peer *peer = PEER(.behave = PEER_SILENT);
    struct pool *pool = MAKE_POOL();
    struct pool_error error = POOL_ERROR_INIT;

    cr_expect_eq(pool_communicate(pool, peer_address(peer), send_behind_a_timeout, NULL,
                                  POOL_CALL(.error = &error)),
                 POOL_E_TIMEOUT);
    cr_expect_eq(error.outcome, POOL_MAYBE_SENT, "%s", error.text);
    pool_destroy(pool);
    peer_stop(peer);
}

static pid_t child;

static int send_and_fork(struct pool_conn *conn, void *user)
{
    (void)user;
    cr_expect_eq(pool_send(conn, "request", 7), POOL_OK);
    child = fork();
    return 0;
}

Test(pool_errors, what_was_sent_before_a_fork_may_have_been_seen)
{
    struct peer *peer = PEER(.behave = PEER_SILENT);
    struct pool *pool = MAKE_POOL();
    struct pool_error error = POOL_ERROR_INIT;
    enum pool_status status = pool_communicate(pool, peer_address(peer), send_and_fork, NULL,
                                               POOL_CALL(.error = &error));
    int ended;

    if (!child)
        _exit(status == POOL_E_FORKED && error.outcome == POOL_MAYBE_SENT ? 0 : 1);
    cr_assert_gt(child, 0);
    cr_assert_eq(waitpid(child, &ended, 0), child);
    cr_expect(WIFEXITED(ended) && WEXITSTATUS(ended) == 0, "the child was told something else");
    pool_destroy(pool);
    peer_stop(peer);
}

/* ---- what the caller gets told */

Test(pool_errors, an_error_of_an_older_program_is_filled_as_far_as_it_goes)
{
    struct {
        struct pool_error error;
        char guard[8];
    } old;
    struct pool *pool = MAKE_POOL();

    memset(&old, 'g', sizeof(old));
    old.error.size = offsetof(struct pool_error, cause);
    cr_expect_eq(pool_communicate(pool, "tcp://127.0.0.1:0", do_nothing, NULL,
                                  POOL_CALL(.error = &old.error)),
                 POOL_E_ADDRESS);
    cr_expect_eq(old.error.status, POOL_E_ADDRESS);
    for (const char *at = (char *)&old.error.cause; at < old.guard + sizeof(old.guard); at++)
        cr_assert_eq(*at, 'g', "bytes behind the struct were written");
    pool_destroy(pool);
}

Test(pool_errors, errno_of_the_program_stays_as_it_was)
{
    struct peer *peer = PEER();
    struct pool *pool = MAKE_POOL();

    errno = 4711;
    cr_expect_eq(talk(pool, peer_address(peer)), POOL_OK);
    cr_expect_eq(errno, 4711);
    peer_close_all(peer);
    errno = 4711;
    talk(pool, peer_address(peer));
    cr_expect_eq(errno, 4711);
    peer_down(peer);
    errno = 4711;
    cr_expect_eq(talk(pool, peer_address(peer)), POOL_E_REFUSED);
    cr_expect_eq(errno, 4711);
    pool_destroy(pool);
    peer_stop(peer);
}
