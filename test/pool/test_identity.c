/* test_identity.c: a number is not a socket. Other code closes our descriptors, replaces them or
 * gets their numbers anew: the next borrow works, and the stranger is left alone. */
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

enum theft { CLOSED, REPLACED, REUSED, THEFTS };
enum place { HOT, PARKED, PLACES };

static const char *const theft_names[] = { "closed", "replaced", "reused" };
static const char *const place_names[] = { "hot", "parked" };

/* A foreign socket at `fd`, the other end of it, and what was set on it when it came. */
struct stranger {
    int fd, far;
    int flags;
    struct timeval timeout;
};

static struct timeval timeout_of(int fd)
{
    struct timeval timeout = { 0 };
    socklen_t size = sizeof(timeout);

    cr_expect_eq(getsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, &size), 0);
    return timeout;
}

static struct stranger steal(int fd, enum theft theft)
{
    struct stranger stranger = { .fd = -1, .far = -1 };
    int pair[2];

    if (theft == CLOSED) {
        cr_assert_eq(close(fd), 0);
        return stranger;
    }
    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    if (theft == REUSED)
        cr_assert_eq(close(fd), 0);
    cr_assert_eq(dup2(pair[0], fd), fd);
    close(pair[0]);
    stranger = (struct stranger){ .fd = fd, .far = pair[1], .flags = fcntl(fd, F_GETFL) };
    stranger.timeout = timeout_of(fd);
    return stranger;
}

/* It heard nothing, works both ways, and is as it was. Then it goes. */
static void expect_unharmed(struct stranger *stranger, const char *when)
{
    struct timeval timeout;
    char got[4];

    if (stranger->fd < 0)
        return;
    cr_expect_eq(listen_to(stranger->far, 0), HEARD_NOTHING, "%s", when);
    timeout = timeout_of(stranger->fd);
    cr_expect_eq(timeout.tv_sec, stranger->timeout.tv_sec, "%s", when);
    cr_expect_eq(timeout.tv_usec, stranger->timeout.tv_usec, "%s", when);
    cr_expect_eq(fcntl(stranger->fd, F_GETFL), stranger->flags, "%s", when);
    cr_expect(write_exactly(stranger->fd, "fore", 4, VERBS_SOON), "%s", when);
    cr_expect(read_exactly(stranger->far, got, 4, VERBS_SOON), "%s", when);
    cr_expect(write_exactly(stranger->far, "back", 4, VERBS_SOON), "%s", when);
    cr_expect(read_exactly(stranger->fd, got, 4, VERBS_SOON), "%s", when);
    cr_expect_eq(close(stranger->fd), 0, "%s", when);
    cr_expect_eq(close(stranger->far), 0, "%s", when);
}

/* One idle connection; answers its descriptor. */
static int leave_idle(struct pool *pool, const char *address, enum place place)
{
    struct pool_conn conn;
    int fd;

    cr_assert(borrow(pool, address, &conn));
    cr_assert_eq(echo(&conn, "first"), 0);
    fd = pool_conn_fd(&conn);
    cr_assert_eq(pool_return(&conn), POOL_OK);
    if (place == PARKED)
        cr_assert(wait_parked(fd));
    return fd;
}

static struct pool *pool_for(enum place place)
{
    struct pool *pool = place == HOT ? MAKE_POOL(.park_ms = POOL_NONE) : MAKE_POOL(.park_ms = 1);

    cr_assert_not_null(pool);
    return pool;
}

static void lose_idle_one(enum theft theft, enum place place, bool marked)
{
    struct peer *peer = PEER(.own_process = true);
    struct pool *pool = pool_for(place);
    int fd = leave_idle(pool, peer_address(peer), place);
    struct stranger stranger = steal(fd, theft);
    char when[64];

    snprintf(when, sizeof(when), "%s %s %s", theft_names[theft], place_names[place],
             marked ? "marked" : "unmarked");
    if (marked) {
        cr_expect_eq(pool_mark_as_dead(pool, fd), 1, "%s", when);
        cr_expect_eq(pool_mark_as_dead(pool, fd), 0, "%s: only once", when);
        cr_expect_eq(STAT(pool, total), 0, "%s", when);
    }
    cr_expect_eq(id_of_next(pool, peer_address(peer)), 2, "%s", when);
    cr_expect_eq(id_of_next(pool, peer_address(peer)), 2, "%s", when);
    cr_expect_eq(STAT(pool, stolen), 1, "%s", when);
    cr_expect_eq(STAT(pool, closed[POOL_CLOSE_STOLEN]), 1, "%s", when);
    cr_expect_eq(STAT(pool, total), 1, "%s", when);
    pool_destroy(pool);
    expect_unharmed(&stranger, when);
    peer_stop(peer);
}

Test(pool_identity, an_idle_connection_that_is_lost_is_forgotten_and_the_stranger_left_alone)
{
    for (int theft = 0; theft < THEFTS; theft++)
        for (int place = 0; place < PLACES; place++) {
            lose_idle_one((enum theft)theft, (enum place)place, true);
            lose_idle_one((enum theft)theft, (enum place)place, false);
        }
}

/* The same when nobody borrows again: expiry, eviction and the pool's end close nothing foreign. */
Test(pool_identity, the_ends_of_a_pool_leave_a_stranger_alone)
{
    struct peer *peer = PEER(.own_process = true);
    struct stranger stranger;
    struct pool *pool;

    for (int theft = 0; theft < THEFTS; theft++)
        for (int place = 0; place < PLACES; place++) {
            pool = pool_for((enum place)place);
            stranger =
                steal(leave_idle(pool, peer_address(peer), (enum place)place), (enum theft)theft);
            pool_destroy(pool);
            expect_unharmed(&stranger, "destroyed");
            pool = pool_for((enum place)place);
            stranger =
                steal(leave_idle(pool, peer_address(peer), (enum place)place), (enum theft)theft);
            pool_remove_some_connection(pool);
            expect_unharmed(&stranger, "evicted");
            cr_expect_eq(STAT(pool, total), 0);
            pool_destroy(pool);
        }
    peer_stop(peer);
}

Test(pool_identity, expiry_leaves_a_stranger_alone)
{
    struct peer *peer = PEER(.own_process = true);
    struct stranger stranger;
    struct pool *pool;

    for (int theft = 0; theft < THEFTS; theft++) {
        pool = MAKE_POOL(.park_ms = 20, .idle_ms = 40);
        stranger = steal(leave_idle(pool, peer_address(peer), HOT), (enum theft)theft);
        cr_expect(WAIT_STAT(pool, total, 0));
        expect_unharmed(&stranger, theft_names[theft]);
        pool_destroy(pool);
    }
    peer_stop(peer);
}

/* The program loses ours, and our own next connection, to another peer, gets its number. */
static void reuse_by_the_pool_itself(enum place place, bool asks_new_one_first)
{
    struct peer *first = PEER(.own_process = true, .behave = PEER_REPLY, .reply = "1111");
    struct peer *second = PEER(.own_process = true, .behave = PEER_REPLY, .reply = "2222");
    struct pool *pool = pool_for(place);
    struct pool_conn a, b;
    char got[4];
    int fd;

    cr_assert(borrow(pool, peer_address(first), &a));
    fd = pool_conn_fd(&a);
    cr_assert_eq(pool_return(&a), POOL_OK);
    if (place == PARKED)
        cr_assert(wait_parked(fd));
    cr_assert_eq(close(fd), 0);
    cr_assert(borrow(pool, peer_address(second), &b));
    cr_assert_eq(pool_conn_fd(&b), fd, "the test needs the number again");
    if (asks_new_one_first) {
        cr_assert_eq(pool_return(&b), POOL_OK);
        if (place == PARKED)
            cr_assert(wait_parked(fd));
    }
    cr_assert(borrow(pool, peer_address(first), &a));
    cr_expect_eq(pool_conn_id(&a), 3, "the old one must not be lent");
    cr_expect_eq(pool_send(&a, "x", 1), POOL_OK);
    cr_expect_eq(pool_recv_exact(&a, got, 4), POOL_OK);
    cr_expect_eq(got[0], '1', "a borrower of one peer talked to the other");
    if (asks_new_one_first)
        cr_assert(borrow(pool, peer_address(second), &b));
    cr_expect_eq(pool_send(&b, "x", 1), POOL_OK);
    cr_expect_eq(pool_recv_exact(&b, got, 4), POOL_OK);
    cr_expect_eq(got[0], '2');
    cr_expect_eq(pool_conn_id(&b), 2);
    pool_return(&a);
    pool_return(&b);
    pool_destroy(pool);
    peer_stop(first);
    peer_stop(second);
}

Test(pool_identity, a_number_that_the_pool_itself_got_again_names_the_new_connection_only)
{
    for (int place = 0; place < PLACES; place++) {
        reuse_by_the_pool_itself((enum place)place, false);
        reuse_by_the_pool_itself((enum place)place, true);
    }
}

/* Other code closes what the first one has, and the second one gets its number; answers that. */
static int lend_one_number_twice(struct pool *pool, const struct peer *first, struct pool_conn *a,
                                 const struct peer *second, struct pool_conn *b)
{
    int fd;

    cr_assert(borrow(pool, peer_address(first), a));
    fd = pool_conn_fd(a);
    cr_assert_eq(close(fd), 0);
    cr_assert(borrow(pool, peer_address(second), b));
    cr_assert_eq(pool_conn_fd(b), fd, "the test needs the number again");
    return fd;
}

/* Lent to two at once, one number: who lost it sends the other's peer nothing. Marking it late ends
 * the other, too, but leaves no descriptor behind. */
static void reuse_while_lent(bool is_marked)
{
    struct peer *first = PEER(.own_process = true), *second = PEER(.own_process = true);
    struct pool *pool = MAKE_POOL();
    struct pool_conn a, b;
    int fd;

    fd = lend_one_number_twice(pool, first, &a, second, &b);
    if (is_marked)
        cr_expect_eq(pool_mark_as_dead(pool, fd), 1);
    cr_expect_eq(pool_send(&a, "theirs", 6), POOL_E_BROKEN);
    if (is_marked)
        cr_expect_eq(pool_send(&b, "mine", 4), POOL_E_BROKEN);
    else
        cr_expect_eq(echo(&b, "mine"), 0);
    cr_expect_eq(pool_return(&a), POOL_OK);
    cr_expect_eq(STAT(pool, stolen), 1);
    cr_expect_eq(pool_discard(&b), POOL_OK);
    cr_expect_eq(STAT(pool, total), 0);
    cr_expect_eq(fcntl(fd, F_GETFD), -1, "closed with the one that had it");
    pool_destroy(pool);
    peer_stop(first);
    peer_stop(second);
}

Test(pool_identity, who_lost_its_number_to_another_of_the_pool_answers_broken_and_nothing_leaks)
{
    reuse_while_lent(false);
    reuse_while_lent(true);
}

Test(pool_identity, an_idle_one_is_forgotten_once_the_pool_gets_its_number_for_another)
{
    struct peer *first = PEER(.own_process = true), *second = PEER(.own_process = true);
    struct pool *pool = pool_for(HOT);
    int fd = leave_idle(pool, peer_address(first), HOT);
    struct pool_conn conn;

    cr_assert_eq(close(fd), 0);
    cr_assert(borrow(pool, peer_address(second), &conn));
    cr_assert_eq(pool_conn_fd(&conn), fd, "the test needs the number again");
    cr_expect(WAIT_STAT(pool, closed[POOL_CLOSE_STOLEN], 1));
    cr_expect_eq(echo(&conn, "mine"), 0);
    pool_return(&conn);
    cr_expect_eq(pool_mark_as_dead(pool, fd), 0, "that one was forgotten already");
    cr_expect_eq(id_of_next(pool, peer_address(second)), 2, "and this one can prove itself");
    pool_destroy(pool);
    peer_stop(first);
    peer_stop(second);
}

/* The number is lost a second time: now the mark means who has it. */
Test(pool_identity, the_next_owner_of_a_number_is_forgotten_when_it_lost_it_too)
{
    struct peer *first = PEER(.own_process = true), *second = PEER(.own_process = true);
    struct pool *pool = MAKE_POOL();
    struct stranger stranger;
    struct pool_conn a, b;
    int fd;

    fd = lend_one_number_twice(pool, first, &a, second, &b);
    stranger = steal(fd, REPLACED);
    cr_expect_eq(pool_mark_as_dead(pool, fd), 1);
    cr_expect_eq(pool_send(&b, "x", 1), POOL_E_BROKEN);
    pool_return(&a);
    pool_return(&b);
    pool_destroy(pool);
    expect_unharmed(&stranger, "lost twice");
    peer_stop(first);
    peer_stop(second);
}

/* The sweep parks the lost one while its number is another connection of the same mux: that one is
 * watched on, under its own name. */
Test(pool_identity, parking_a_lost_connection_does_not_take_over_the_watch_of_another)
{
    struct peer *first = PEER(.own_process = true), *second = PEER(.own_process = true);
    struct pool *pool = MAKE_POOL(.park_ms = 50);
    struct pool_conn a, b;
    int fd;

    cr_assert(borrow(pool, peer_address(first), &a));
    fd = pool_conn_fd(&a);
    cr_assert_eq(pool_return(&a), POOL_OK);
    cr_assert_eq(close(fd), 0);
    cr_assert(borrow(pool, peer_address(second), &b));
    cr_assert_eq(pool_conn_fd(&b), fd, "the test needs the number again");
    cr_assert_eq(pool_return(&b), POOL_OK);
    cr_assert(wait_parked(fd));
    cr_expect(WAIT_STAT(pool, closed[POOL_CLOSE_STOLEN], 1));
    cr_expect_eq(peer_close_all(second), 1);
    cr_expect(WAIT_STAT(pool, closed[POOL_CLOSE_PEER], 1), "the end of the second one was missed");
    pool_destroy(pool);
    peer_stop(first);
    peer_stop(second);
}

static void mark_lent(enum theft theft)
{
    struct peer *peer = PEER(.own_process = true);
    struct pool *pool = MAKE_POOL();
    struct stranger stranger;
    struct pool_conn conn;
    char byte;
    size_t got;
    int fd;

    cr_assert(borrow(pool, peer_address(peer), &conn));
    cr_assert_eq(echo(&conn, "mine"), 0);
    fd = pool_conn_fd(&conn);
    stranger = steal(fd, theft);
    cr_expect_eq(pool_mark_as_dead(pool, fd), 1);
    cr_expect_eq(pool_send(&conn, "x", 1), POOL_E_BROKEN);
    cr_expect_eq(pool_recv(&conn, &byte, 1, &got), POOL_E_BROKEN);
    cr_expect_eq(pool_return(&conn), POOL_OK);
    cr_expect_eq(STAT(pool, stolen), 1);
    cr_expect_eq(id_of_next(pool, peer_address(peer)), 2);
    pool_destroy(pool);
    expect_unharmed(&stranger, theft_names[theft]);
    peer_stop(peer);
}

Test(pool_identity, a_lent_connection_that_is_marked_answers_broken_from_then_on)
{
    for (int theft = 0; theft < THEFTS; theft++)
        mark_lent((enum theft)theft);
}

static void lose_lent_one(enum theft theft, bool is_discarded)
{
    struct peer *peer = PEER(.own_process = true);
    struct pool *pool = MAKE_POOL();
    struct stranger stranger;
    struct pool_conn conn;

    cr_assert(borrow(pool, peer_address(peer), &conn));
    cr_assert_eq(echo(&conn, "mine"), 0);
    stranger = steal(pool_conn_fd(&conn), theft);
    cr_expect_eq(is_discarded ? pool_discard(&conn) : pool_return(&conn), POOL_OK);
    cr_expect_eq(id_of_next(pool, peer_address(peer)), 2);
    pool_destroy(pool);
    expect_unharmed(&stranger, theft_names[theft]);
    peer_stop(peer);
}

Test(pool_identity, a_lent_connection_that_is_lost_unmarked_is_noticed_afterwards)
{
    for (int theft = 0; theft < THEFTS; theft++) {
        lose_lent_one((enum theft)theft, false);
        lose_lent_one((enum theft)theft, true);
    }
}

/* A lent one that is lost while the pool ends: it is not ours to shut down. */
Test(pool_identity, destroying_a_pool_does_not_shut_a_stranger_down)
{
    struct peer *peer = PEER(.own_process = true);
    struct stranger stranger;
    struct pool_conn conn;
    struct pool *pool;

    for (int theft = 0; theft < THEFTS; theft++) {
        pool = MAKE_POOL();
        cr_assert(borrow(pool, peer_address(peer), &conn));
        stranger = steal(pool_conn_fd(&conn), (enum theft)theft);
        pool_destroy(pool);
        cr_expect_eq(pool_return(&conn), POOL_OK);
        expect_unharmed(&stranger, theft_names[theft]);
    }
    peer_stop(peer);
}

struct receiving {
    struct pool_conn conn;
    enum pool_status status;
};

static void receive_one(unsigned index, void *argument)
{
    struct receiving *receiving = argument;
    size_t got;
    char byte;

    (void)index;
    receiving->status = pool_recv(&receiving->conn, &byte, 1, &got);
}

/* A wait that begins on a socket that is not ours any more sets nothing on it. */
Test(pool_identity, no_option_is_set_on_a_stranger)
{
    struct peer *peer = PEER(.own_process = true);
    struct pool *pool = MAKE_POOL();
    struct receiving receiving;
    struct stranger stranger;

    cr_assert(borrow(pool, peer_address(peer), &receiving.conn));
    stranger = steal(pool_conn_fd(&receiving.conn), REPLACED);
    cr_assert(run_threads(1, receive_one, &receiving));
    cr_expect_eq(receiving.status, POOL_E_BROKEN);
    cr_expect_eq(pool_return(&receiving.conn), POOL_OK);
    pool_destroy(pool);
    expect_unharmed(&stranger, "received on");
    peer_stop(peer);
}

Test(pool_identity, marking_touches_nobody_else)
{
    struct peer *peer = PEER();
    struct pool *pool = MAKE_POOL(), *other = MAKE_POOL();
    int fd = leave_idle(pool, peer_address(peer), HOT);
    int foreign = dup(STDERR_FILENO);

    cr_expect_eq(pool_mark_as_dead(other, fd), 0, "it is not this pool's");
    cr_expect_eq(pool_mark_as_dead(pool, foreign), 0);
    cr_expect_eq(pool_mark_as_dead(pool, -1), 0);
    cr_expect_eq(pool_mark_as_dead(pool, 1 << 30), 0);
    cr_expect_eq(pool_mark_as_dead(NULL, fd), 0);
    cr_expect_eq(id_of_next(pool, peer_address(peer)), 1);
    close(foreign);
    pool_destroy(other);
    pool_destroy(pool);
    peer_stop(peer);
}

/* The program is believed: a number that it marks is not closed, even though it is still ours. */
Test(pool_identity, what_is_marked_is_not_closed)
{
    struct peer *peer = PEER(.own_process = true);
    struct pool *pool = MAKE_POOL();
    int fd = leave_idle(pool, peer_address(peer), HOT);

    cr_expect_eq(pool_mark_as_dead(pool, fd), 1);
    cr_expect_geq(fcntl(fd, F_GETFD), 0);
    pool_destroy(pool);
    cr_expect_geq(fcntl(fd, F_GETFD), 0);
    cr_expect_eq(peer_count(peer, PEER_OPEN), 1);
    close(fd);
    peer_stop(peer);
}

Test(pool_identity, handles_are_the_same_when_they_name_the_same_loan)
{
    struct peer *peer = PEER();
    struct pool *pool = MAKE_POOL();
    struct pool_conn first, copy, second, none = { 0 };

    cr_assert(borrow(pool, peer_address(peer), &first));
    cr_assert(borrow(pool, peer_address(peer), &second));
    copy = first;
    cr_expect(pool_conn_same(&first, &copy));
    cr_expect(pool_conn_same(&first, &first));
    cr_expect_not(pool_conn_same(&first, &second));
    cr_expect_not(pool_conn_same(&first, &none));
    cr_expect_not(pool_conn_same(&none, &none));
    cr_expect_not(pool_conn_same(NULL, &first));
    cr_expect_not(pool_conn_same(&first, NULL));
    pool_return(&first);
    cr_expect_not(pool_conn_same(&copy, &copy), "a stale handle is nothing");
    cr_assert(borrow(pool, peer_address(peer), &first));
    cr_expect_not(pool_conn_same(&copy, &first), "the same connection, another loan");
    pool_return(&first);
    pool_return(&second);
    pool_destroy(pool);
    peer_stop(peer);
}
