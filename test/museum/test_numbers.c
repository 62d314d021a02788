/* test_numbers.c: public bugs with descriptor numbers, keys and pointers that were used again, or
 * looked the same and were not. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "commpool/address.h"
#include "support/peer.h"
#include "support/tests.h"
#include "support/verbs.h"

/* A child that holds copies of all descriptors until it is killed. */
static pid_t hold_all(void)
{
    int ready[2];
    char byte = 0;
    pid_t child;

    cr_assert_eq(pipe(ready), 0);
    child = fork();
    if (child == 0) {
        if (write(ready[1], &byte, 1) != 1)
            _exit(1);
        for (;;)
            pause();
    }
    cr_assert_eq(read(ready[0], &byte, 1), 1);
    close(ready[0]);
    close(ready[1]);
    return child;
}

static void let_go(pid_t child)
{
    int status;

    kill(child, SIGKILL);
    waitpid(child, &status, 0);
}

/* manticore #4057: a forked child keeps the description, so closing alone leaves it in epoll, under
 * a number that is soon another connection's. */
Test(museum_numbers, manticore_4057_fork_keeps_the_epoll_entry)
{
    struct peer *first = PEER(.own_process = true), *second = PEER(.own_process = true);
    struct pool *pool = MAKE_POOL(.park_ms = 1);
    int fd = leave_parked(pool, peer_address(first));
    uint64_t wakeups;
    pid_t child = hold_all();

    cr_assert_eq(pool_remove_some_connection(pool), 1);
    cr_assert_eq(leave_parked(pool, peer_address(second)), fd, "the test needs the number again");
    cr_expect_eq(listen_to(fd, 50), HEARD_NOTHING); /* until the sweep has nothing more to do */
    wakeups = STAT(pool, wakeups);
    cr_expect_eq(peer_push(first, 0, "to whom?", 8), 1);
    cr_expect_eq(peer_half_close(first, 0), 1);
    cr_expect_eq(listen_to(fd, 200), HEARD_NOTHING);
    cr_expect_eq(STAT(pool, idle), 1);
    cr_expect_eq(STAT(pool, wakeups), wakeups, "the closed one is watched still");
    cr_expect_eq(peer_push(second, 0, "to us", 5), 1);
    cr_expect(WAIT_STAT(pool, total, 0), "the new one is not watched");
    let_go(child);
    pool_destroy(pool);
    peer_stop(first);
    peer_stop(second);
}

/* The same when other code closed it: the entry cannot be removed any more, and must do no harm. */
Test(museum_numbers, an_epoll_entry_that_cannot_be_removed_does_no_harm)
{
    struct peer *peer = PEER(.own_process = true);
    struct pool *pool = MAKE_POOL(.park_ms = 1);
    int fd = leave_parked(pool, peer_address(peer)), pair[2];
    uint64_t wakeups;
    char byte;
    pid_t child = hold_all();

    close(fd);
    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    if (pair[0] != fd)
        cr_assert_eq(dup2(pair[0], fd), fd);
    cr_expect(write_exactly(pair[1], "!", 1, VERBS_SOON));
    wakeups = STAT(pool, wakeups);
    cr_expect_eq(peer_push(peer, 0, "to whom?", 8), 1);
    cr_expect(WAIT_STAT(pool, total, 0), "the event of the lost one ends it");
    cr_expect_eq(STAT(pool, stolen), 1);
    cr_expect_eq(peer_push(peer, 0, "and again", 9), 1);
    cr_expect_eq(id_of_next(pool, peer_address(peer)), 2);
    cr_expect_leq(STAT(pool, wakeups), wakeups + 10, "it spins");
    cr_expect(read_exactly(fd, &byte, 1, 0), "the stranger's byte was taken");
    let_go(child);
    pool_destroy(pool);
    close(fd);
    close(pair[0]);
    close(pair[1]);
    peer_stop(peer);
}

/* curl #21779, libdill #129, re #266: the number of a closed connection is opened anew while the
 * old one is still registered. */
Test(museum_numbers, curl_21779_number_reused_under_a_live_registration)
{
    struct peer *peer = PEER(.own_process = true), *other = PEER(.own_process = true);
    struct pool *pool = MAKE_POOL(.park_ms = 1);

    for (int i = 0; i < 50; i++) {
        int fd = leave_parked(pool, peer_address(i % 2 ? other : peer));

        if (i % 3 == 0)
            close(fd); /* by somebody else */
        else
            pool_remove_some_connection(pool);
        cr_expect_neq(id_of_next(pool, peer_address(i % 2 ? peer : other)), 0);
        cr_expect_neq(id_of_next(pool, peer_address(i % 2 ? other : peer)), 0);
    }
    cr_expect_eq(STAT(pool, lent), 0);
    pool_destroy(pool);
    peer_stop(peer);
    peer_stop(other);
}

/* SQLite since 2013: with 0 to 2 closed, a socket became stderr, and messages went to a server. */
Test(museum_numbers, sqlite_2013_low_descriptors)
{
    struct peer *peer = PEER(.own_process = true);
    int saved = fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 10), number = -1;
    struct pool *pool;
    struct pool_conn conn;

    close(STDIN_FILENO);
    pool = MAKE_POOL();
    if (pool && borrow(pool, peer_address(peer), &conn)) {
        number = pool_conn_fd(&conn);
        pool_return(&conn);
    }
    pool_destroy(pool);
    cr_expect_lt(fcntl(STDIN_FILENO, F_GETFD), 0, "0 was taken");
    if (saved >= 0)
        dup2(saved, STDIN_FILENO);
    cr_expect_gt(number, 2);
    peer_stop(peer);
}

/* curl CVE-2020-8231: a new connection at the address of a freed one was taken for it. */
Test(museum_numbers, curl_cve_2020_8231_memory_of_a_freed_connection_is_used_again)
{
    struct peer *peer = PEER();
    struct pool *pool = MAKE_POOL();
    struct pool_conn old, now;
    unsigned same = 0;

    for (int i = 0; i < 200; i++) {
        cr_assert(borrow(pool, peer_address(peer), &old));
        now = old;
        cr_assert_eq(pool_discard(&now), POOL_OK);
        cr_assert(borrow(pool, peer_address(peer), &now));
        same += now.slot == old.slot;
        cr_expect_not(pool_conn_same(&old, &now));
        cr_expect_eq(pool_send(&old, "x", 1), POOL_E_ARGUMENT);
        cr_expect_eq(pool_conn_id(&old), 0);
        cr_assert_eq(pool_discard(&now), POOL_OK);
    }
    cr_expect_gt(same, 0, "the slot was never used again: the test shows nothing");
    pool_destroy(pool);
    peer_stop(peer);
}

/* ---- keys */

static bool are_same(const char *a, const char *b)
{
    struct pool_address *first, *second;
    bool is_same;

    cr_assert_eq(pool_address_parse(a, &first, NULL), POOL_OK, "%s", a);
    cr_assert_eq(pool_address_parse(b, &second, NULL), POOL_OK, "%s", b);
    is_same = pool_address_equal(first, second);
    cr_expect_eq(is_same, strcmp(pool_address_text(first), pool_address_text(second)) == 0);
    pool_address_unref(first);
    pool_address_unref(second);
    return is_same;
}

/* curl CVE-2021-22924: paths were compared without regard to case. */
Test(museum_numbers, curl_cve_2021_22924_case_of_a_path)
{
    cr_expect_not(are_same("unix:///run/Redis.sock", "unix:///run/redis.sock"));
    cr_expect_not(are_same("abstract://Name", "abstract://name"));
    cr_expect_not(are_same("tcp://127.0.0.1:1?tenant=A", "tcp://127.0.0.1:1?tenant=a"));
    cr_expect(are_same("tcp://EXAMPLE.test:1", "tcp://example.test:1"));
}

/* curl CVE-2022-27775: the zone of an IPv6 address was left out. */
Test(museum_numbers, curl_cve_2022_27775_zone_of_an_address)
{
    cr_expect_not(are_same("tcp://[fe80::1%lo]:1", "tcp://[fe80::1%eth0]:1"));
    cr_expect_not(are_same("tcp://[fe80::1%lo]:1", "tcp://[fe80::1]:1"));
    cr_expect(are_same("tcp://[fe80::1%lo]:1", "tcp://[fe80:0::1%lo]:1"));
}

/* HAProxy b5b40a984: unix destinations were not in the key: requests went to the wrong one. */
Test(museum_numbers, haproxy_b5b40a984_unix_destination_in_the_key)
{
    struct peer *first = PEER(.family = AF_UNIX, .behave = PEER_REPLY, .reply = "one");
    struct peer *second = PEER(.family = AF_UNIX, .behave = PEER_REPLY, .reply = "two");
    struct pool *pool = MAKE_POOL();
    struct pool_conn conn;
    char got[3];

    for (int i = 0; i < 20; i++) {
        cr_assert(borrow(pool, peer_address(i % 2 ? second : first), &conn));
        cr_expect_eq(pool_send(&conn, "?", 1), POOL_OK);
        cr_expect_eq(pool_recv_exact(&conn, got, 3), POOL_OK);
        cr_expect_eq(memcmp(got, i % 2 ? "two" : "one", 3), 0);
        pool_return(&conn);
    }
    pool_destroy(pool);
    peer_stop(first);
    peer_stop(second);
}

/* HAProxy 852234848: alignment left the low bits of the hash zero, and so most of the table
 * unused. */
Test(museum_numbers, haproxy_852234848_low_bits_of_the_hash)
{
    unsigned buckets[64] = { 0 }, most = 0;
    struct pool_address *address;
    char text[64];

    for (int i = 0; i < 6400; i++) {
        snprintf(text, sizeof(text), "tcp://127.0.%d.%d:80", i / 200, i % 200);
        cr_assert_eq(pool_address_parse(text, &address, NULL), POOL_OK);
        buckets[pool_address_hash(address) % 64]++;
        pool_address_unref(address);
    }
    for (int i = 0; i < 64; i++) {
        cr_expect_gt(buckets[i], 50, "bucket %d has %u of 100", i, buckets[i]);
        most = buckets[i] > most ? buckets[i] : most;
    }
    cr_expect_lt(most, 200);
}

/* curl CVE-2014-0015, HAProxy 53f9685b7: a connection that one user had authenticated served
 * another. */
Test(museum_numbers, curl_cve_2014_0015_connection_of_another_user)
{
    struct peer *peer = PEER(.behave = PEER_ID);
    struct pool *pool = MAKE_POOL();
    struct pool_bytes line;
    struct pool_conn conn;
    char address[128], first[8][16];

    for (int i = 0; i < 80; i++) {
        snprintf(address, sizeof(address), "%s?tenant=user%d", peer_address(peer), i % 8);
        cr_assert(borrow(pool, address, &conn));
        cr_assert_eq(pool_send(&conn, "who am I\n", 9), POOL_OK);
        cr_assert_eq(pool_recv_until(&conn, "\n", 1, &line), POOL_OK);
        if (i < 8)
            snprintf(first[i], sizeof(first[i]), "%.*s", (int)line.size, (const char *)line.data);
        cr_expect_eq(memcmp(line.data, first[i % 8], line.size), 0,
                     "user %d on another's connection", i % 8);
        cr_assert_eq(pool_return(&conn), POOL_OK);
    }
    cr_expect_eq(STAT(pool, opened), 8);
    pool_destroy(pool);
    peer_stop(peer);
}
