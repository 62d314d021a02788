/* test_release.c: connections that leave the pool as bare descriptors: what is given away is a
 * plain socket, ours, with nothing left behind. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "support/peer.h"
#include "support/tests.h"
#include "support/verbs.h"

static struct peer *peer;

static void begin(void)
{
    peer = PEER();
}

static void end(void)
{
    peer_stop(peer);
}

TestSuite(release, .init = begin, .fini = end, .timeout = 60);

static atomic_uint freed;

static void count_free(void *user)
{
    (void)user;
    atomic_fetch_add(&freed, 1);
}

static bool is_close_on_exec(int fd)
{
    return fcntl(fd, F_GETFD) & FD_CLOEXEC;
}

static bool has_timeout(int fd)
{
    struct timeval timeout = { .tv_sec = 9 };
    socklen_t size = sizeof(timeout);

    cr_expect_eq(getsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, &size), 0);
    return timeout.tv_sec || timeout.tv_usec;
}

/* Is it in some epoll set of this process? */
static bool is_in_epoll(int fd)
{
    char path[64], line[256];
    bool found = false;
    int watched;

    for (int set = 0; set < 64; set++) {
        FILE *file;

        snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", set);
        file = fopen(path, "r");
        while (file && fgets(line, sizeof(line), file))
            found = found || (sscanf(line, "tfd: %d", &watched) == 1 && watched == fd);
        if (file)
            fclose(file);
    }
    return found;
}

static bool talks(int fd)
{
    char back[4] = "";

    return write_exactly(fd, "bare", 4, VERBS_SOON) && read_exactly(fd, back, 4, VERBS_SOON) &&
           memcmp(back, "bare", 4) == 0;
}

Test(release, a_released_descriptor_is_a_plain_socket_without_a_trace_of_the_pool)
{
    struct pool *pool = MAKE_POOL();
    struct pool_conn conn, copy;
    int fd = -1, number;

    cr_assert(borrow(pool, peer_address(peer), &conn));
    cr_assert_eq(echo(&conn, "arms the receive timeout"), 0);
    copy = conn;
    number = pool_conn_fd(&conn);
    cr_expect(has_timeout(number));
    cr_expect(is_in_epoll(number));
    cr_expect_eq(pool_release_fd(&conn, &fd), POOL_OK);
    cr_expect_eq(fd, number);
    cr_expect_null(conn.slot);
    cr_expect_eq(pool_conn_id(&copy), 0, "copies are stale");
    cr_expect_eq(pool_discard(&copy), POOL_E_ARGUMENT);
    cr_expect_not(has_timeout(fd));
    cr_expect_not(is_in_epoll(fd));
    cr_expect(is_close_on_exec(fd));
    cr_expect_eq(fcntl(fd, F_GETFL) & O_NONBLOCK, 0);
    cr_expect_eq(pool_mark_as_dead(pool, fd), 0, "the number is nobody's");
    cr_expect_eq(STAT(pool, total), 0);
    pool_destroy(pool);
    cr_expect(talks(fd));
    close(fd);
}

Test(release, a_detached_connection_can_be_released_too)
{
    struct pool *pool = MAKE_POOL();
    struct pool_conn conn;
    int mine, fd = -1;

    cr_assert(borrow(pool, peer_address(peer), &conn));
    cr_assert_eq(echo(&conn, "x"), 0);
    pool_conn_set_user(&conn, &mine, count_free);
    cr_assert_eq(pool_detach(&conn), POOL_OK);
    pool_destroy(pool);
    cr_expect_eq(pool_release_fd(&conn, &fd), POOL_OK);
    cr_expect_eq(freed, 1);
    cr_expect_not(has_timeout(fd));
    cr_expect(talks(fd));
    close(fd);
}

Test(release, bytes_that_only_the_handle_could_give_keep_it)
{
    struct pool *pool = MAKE_POOL();
    struct pool_bytes line;
    struct pool_conn conn;
    char rest[4];
    int fd = -5;

    cr_assert(borrow(pool, peer_address(peer), &conn));
    cr_assert_eq(pool_send(&conn, "line\nrest", 9), POOL_OK);
    cr_assert_eq(pool_recv_until(&conn, "\n", 1, &line), POOL_OK);
    cr_expect_eq(pool_release_fd(&conn, &fd), POOL_E_ARGUMENT);
    cr_expect_eq(fd, -5);
    cr_expect_eq(STAT(pool, lent), 1, "it is still lent");
    cr_expect_eq(pool_recv_exact(&conn, rest, 4), POOL_OK);
    cr_expect_eq(pool_release_fd(&conn, &fd), POOL_OK);
    close(fd);
    pool_destroy(pool);
}

Test(release, somebody_elses_socket_is_not_handed_out)
{
    struct pool *pool = MAKE_POOL();
    struct pool_conn conn;
    int pair[2], number, fd = -5;

    cr_assert(borrow(pool, peer_address(peer), &conn));
    number = pool_conn_fd(&conn);
    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    cr_assert_eq(dup2(pair[0], number), number);
    cr_expect_eq(pool_release_fd(&conn, &fd), POOL_E_BROKEN);
    cr_expect_eq(fd, -5);
    cr_expect_eq(pool_detach(&conn), POOL_OK);
    cr_expect_eq(pool_release_fd(&conn, &fd), POOL_E_BROKEN);
    cr_expect_eq(pool_discard(&conn), POOL_OK);
    cr_expect_geq(fcntl(number, F_GETFD), 0, "the stranger was left alone");
    pool_destroy(pool);
}
