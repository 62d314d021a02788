/* test_check.c: the looks at a connection before it is lent, by pool_options.check, seen at the
 * door; and what the mux does for those that are parked. */
#include <criterion/criterion.h>
#include <string.h>
#include <sys/socket.h>

#include "base/os.h"
#include "support/peer.h"
#include "support/tests.h"
#include "support/verbs.h"

static struct pl_os door;
static atomic_uint peeks, cookies, mods, sends, receives, options, polls;

static ssize_t counted_recv(int fd, void *buffer, size_t size, int flags)
{
    atomic_fetch_add(flags & MSG_PEEK ? &peeks : &receives, 1);
    return pl_os_real.recv(fd, buffer, size, flags);
}

static ssize_t counted_send(int fd, const void *data, size_t size, int flags)
{
    atomic_fetch_add(&sends, 1);
    return pl_os_real.send(fd, data, size, flags);
}

static int counted_getsockopt(int fd, int level, int name, void *value, socklen_t *size)
{
    atomic_fetch_add(name == SO_COOKIE ? &cookies : &options, 1);
    return pl_os_real.getsockopt(fd, level, name, value, size);
}

static int counted_setsockopt(int fd, int level, int name, const void *value, socklen_t size)
{
    atomic_fetch_add(&options, 1);
    return pl_os_real.setsockopt(fd, level, name, value, size);
}

static int counted_epoll_ctl(int epoll_fd, int operation, int fd, struct epoll_event *event)
{
    atomic_fetch_add(&mods, 1);
    return pl_os_real.epoll_ctl(epoll_fd, operation, fd, event);
}

static int counted_poll(struct pollfd *polled, nfds_t count, uint64_t deadline_ns)
{
    atomic_fetch_add(&polls, 1);
    return pl_os_real.poll_until(polled, count, deadline_ns);
}

static void count_from_here(void)
{
    peeks = cookies = mods = sends = receives = options = polls = 0;
}

static void open_counting_door(void)
{
    door = pl_os_real;
    door.recv = counted_recv;
    door.send = counted_send;
    door.getsockopt = counted_getsockopt;
    door.setsockopt = counted_setsockopt;
    door.epoll_ctl = counted_epoll_ctl;
    door.poll_until = counted_poll;
    pl_os_replace(&door);
}

static void close_door(void)
{
    pl_os_replace(NULL);
}

TestSuite(pool_check, .init = open_counting_door, .fini = close_door);

static int ask_once(struct pool_conn *conn, void *user)
{
    char back[4];

    (void)user;
    return pool_send(conn, "ping", 4) || pool_recv_exact(conn, back, 4);
}

/* A thousand warm exchanges: what they cost at the door, each. */
static void exchange(enum pool_check check, unsigned looks)
{
    struct peer *peer = PEER(.own_process = true);
    struct pool *pool = MAKE_POOL(.check = check, .park_ms = POOL_NONE);

    for (int i = 0; i < 3; i++)
        cr_assert_eq(pool_communicate(pool, peer_address(peer), ask_once, NULL, NULL), POOL_OK);
    count_from_here();
    for (int i = 0; i < 1000; i++)
        cr_assert_eq(pool_communicate(pool, peer_address(peer), ask_once, NULL, NULL), POOL_OK);
    cr_expect_eq(peeks, looks);
    cr_expect_eq(cookies, looks);
    cr_expect_eq(sends, 1000);
    cr_expect_eq(receives, 1000);
    cr_expect_eq(mods, 0, "a hot one is not watched");
    cr_expect_eq(options + polls, 0);
    pool_destroy(pool);
    peer_stop(peer);
}

Test(pool_check, always_looks_at_a_hot_one_twice_and_never_does_not)
{
    exchange(POOL_CHECK_ALWAYS, 1000);
    exchange(POOL_CHECK_PARKED, 0);
    exchange(POOL_CHECK_NEVER, 0);
}

static void lend_parked(enum pool_check check, unsigned looks)
{
    struct peer *peer = PEER(.own_process = true);
    struct pool *pool = MAKE_POOL(.check = check, .park_ms = 1);
    struct pool_conn conn;
    int fd = leave_parked(pool, peer_address(peer));

    cr_assert_geq(fd, 0);
    count_from_here();
    cr_assert(borrow(pool, peer_address(peer), &conn));
    cr_expect_eq(mods, 1, "it is watched no more");
    cr_expect_eq(peeks, looks);
    cr_expect_not(is_watched(fd));
    cr_expect_eq(pool_conn_id(&conn), 1);
    pool_discard(&conn);
    pool_destroy(pool);
    peer_stop(peer);
}

Test(pool_check, a_parked_one_is_looked_at_unless_told_never)
{
    lend_parked(POOL_CHECK_ALWAYS, 1);
    lend_parked(POOL_CHECK_PARKED, 1);
    lend_parked(POOL_CHECK_NEVER, 0);
}

Test(pool_check, a_half_closed_connection_is_never_handed_out)
{
    struct peer *peer = PEER(.own_process = true);
    struct pool *pool = MAKE_POOL(.park_ms = POOL_NONE);

    for (uint64_t i = 1; i <= 50; i++) {
        cr_expect_eq(id_of_next(pool, peer_address(peer)), i);
        cr_assert_eq(peer_half_close_all(peer), 1);
    }
    cr_expect_eq(STAT(pool, retries), 0, "it was found out before, not by a failure");
    cr_expect_eq(STAT(pool, closed[POOL_CLOSE_PEER]), 49);
    pool_destroy(pool);
    peer_stop(peer);
}

/* Whatever the option says, what the mux saw end while parked is gone. */
Test(pool_check, a_parked_connection_that_ended_is_not_lent_under_any_option)
{
    for (int check = POOL_CHECK_ALWAYS; check <= POOL_CHECK_NEVER; check++) {
        struct peer *peer = PEER(.own_process = true);
        struct pool *pool = MAKE_POOL(.check = (enum pool_check)check, .park_ms = 1);
        struct pool_conn conn;
        int fd;

        cr_assert(borrow(pool, peer_address(peer), &conn));
        fd = pool_conn_fd(&conn);
        cr_assert_eq(pool_return(&conn), POOL_OK);
        cr_assert(wait_parked(fd));
        cr_assert_eq(peer_close_all(peer), 1);
        cr_expect(WAIT_STAT(pool, total, 0));
        cr_expect_eq(id_of_next(pool, peer_address(peer)), 2);
        pool_destroy(pool);
        peer_stop(peer);
    }
}

/* Everything idle dies at once: every one is found out before it is lent. */
Test(pool_check, a_peer_that_restarts_costs_no_borrower_a_failure)
{
    struct peer *peer = PEER(.own_process = true);
    struct pool *pool = MAKE_POOL();
    struct pool_conn conns[30];

    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < 30; i++)
            cr_assert(borrow(pool, peer_address(peer), &conns[i]));
        for (int i = 0; i < 30; i++)
            pool_return(&conns[i]);
        cr_assert(peer_restart(peer));
        for (int i = 0; i < 30; i++)
            cr_expect_eq(talk(pool, peer_address(peer)), POOL_OK);
    }
    cr_expect_eq(STAT(pool, retries), 0);
    pool_destroy(pool);
    peer_stop(peer);
}

/* park_ms is the time of idleness after which a connection is watched, and not before. */
Test(pool_check, a_connection_is_parked_after_park_ms_and_not_before)
{
    struct peer *peer = PEER(.own_process = true);
    struct pool *pool = MAKE_POOL(.park_ms = 200);
    struct pool_conn conn;
    uint64_t start_ms;
    int fd;

    cr_assert(borrow(pool, peer_address(peer), &conn));
    fd = pool_conn_fd(&conn);
    start_ms = now_ms();
    cr_assert_eq(pool_return(&conn), POOL_OK);
    cr_expect_not(is_watched(fd));
    cr_assert(wait_parked(fd));
    cr_expect(WITHIN(elapsed_ms(start_ms), 195, 420));
    pool_destroy(pool);
    peer_stop(peer);
}

Test(pool_check, a_connection_in_steady_use_is_never_parked)
{
    struct peer *peer = PEER(.own_process = true);
    struct pool *pool = MAKE_POOL(.park_ms = 100);
    uint64_t start_ms;

    cr_assert_eq(talk(pool, peer_address(peer)), POOL_OK);
    count_from_here();
    for (start_ms = now_ms(); elapsed_ms(start_ms) < 500;)
        cr_assert_eq(talk(pool, peer_address(peer)), POOL_OK);
    cr_expect_eq(mods, 0);
    cr_expect_leq(STAT(pool, wakeups), 20);
    pool_destroy(pool);
    peer_stop(peer);
}
