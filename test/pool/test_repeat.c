/* test_repeat.c: what is repeated, and what never is: an exchange whose request may have been seen
 * not by itself. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/os.h"
#include "support/peer.h"
#include "support/tests.h"
#include "support/verbs.h"

static struct pl_os door;
static atomic_bool is_broken;

static ssize_t break_sending(int fd, const void *data, size_t size, int flags)
{
    return atomic_load(&is_broken) ? -EPIPE : pl_os_real.send(fd, data, size, flags);
}

static void open_breaking_door(void)
{
    door = pl_os_real;
    door.send = break_sending;
    pl_os_replace(&door);
}

static void close_door(void)
{
    pl_os_replace(NULL);
}

TestSuite(pool_repeat, .init = open_breaking_door, .fini = close_door);

struct repeat {
    unsigned runs;
    uint64_t ids[4];
};

static int use_counted(struct pool_conn *conn, void *user)
{
    struct repeat *repeat = user;

    if (repeat->runs < 4)
        repeat->ids[repeat->runs] = pool_conn_id(conn);
    repeat->runs++;
    return echo(conn, "ping");
}

/* A warm connection that nobody looks at, and that the peer has reset: the first send fails. */
static void leave_reset_one(struct pool *pool, struct peer *peer)
{
    struct pool_conn conn;
    int fd;

    cr_assert(borrow(pool, peer_address(peer), &conn));
    cr_assert_eq(echo(&conn, "warm"), 0);
    fd = pool_conn_fd(&conn);
    cr_assert_eq(pool_return(&conn), POOL_OK);
    cr_assert_eq(peer_reset_all(peer), 1);
    cr_assert_eq(listen_to(fd, VERBS_SOON),
                 HEARD_ERROR); /* it has come; asking took the error away */
}

Test(pool_repeat, a_reused_connection_that_fails_before_anything_was_sent_is_replaced_once)
{
    struct peer *peer = PEER(.own_process = true);
    struct pool *pool = MAKE_POOL(.check = POOL_CHECK_NEVER, .park_ms = POOL_NONE);
    struct repeat repeat = { 0 };

    leave_reset_one(pool, peer);
    cr_expect_eq(pool_communicate(pool, peer_address(peer), use_counted, &repeat, NULL), POOL_OK);
    cr_expect_eq(repeat.runs, 2);
    cr_expect_eq(repeat.ids[0], 1);
    cr_expect_eq(repeat.ids[1], 2);
    cr_expect_eq(STAT(pool, retries), 1);
    cr_expect_eq(STAT(pool, total), 1);
    pool_destroy(pool);
    peer_stop(peer);
}

Test(pool_repeat, it_is_replaced_once_and_not_more)
{
    struct peer *peer = PEER(.own_process = true);
    struct pool *pool = MAKE_POOL(.check = POOL_CHECK_NEVER, .park_ms = POOL_NONE);
    struct pool_error error = POOL_ERROR_INIT;
    struct repeat repeat = { 0 };

    leave_reset_one(pool, peer);
    atomic_store(&is_broken, true);
    cr_expect_eq(pool_communicate(pool, peer_address(peer), use_counted, &repeat,
                                  POOL_CALL(.error = &error)),
                 POOL_E_BROKEN);
    atomic_store(&is_broken, false);
    cr_expect_eq(repeat.runs, 2);
    cr_expect_eq(error.outcome, POOL_NOT_SENT);
    cr_expect_eq(STAT(pool, retries), 1);
    cr_expect_eq(STAT(pool, total), 0);
    pool_destroy(pool);
    peer_stop(peer);
}

/* Many stale ones lie about: the second run gets one that was looked at. */
Test(pool_repeat, the_second_run_meets_no_second_stale_connection)
{
    struct peer *peer = PEER(.own_process = true);
    struct pool *pool = MAKE_POOL(.check = POOL_CHECK_NEVER, .park_ms = POOL_NONE);
    struct repeat repeat = { 0 };
    struct pool_conn conns[5];
    int fds[5];

    for (int i = 0; i < 5; i++) {
        cr_assert(borrow(pool, peer_address(peer), &conns[i]));
        cr_assert_eq(echo(&conns[i], "warm"), 0);
        fds[i] = pool_conn_fd(&conns[i]);
    }
    for (int i = 0; i < 5; i++)
        pool_return(&conns[i]);
    cr_assert_eq(peer_reset_all(peer), 5);
    for (int i = 0; i < 5; i++)
        cr_assert_eq(listen_to(fds[i], VERBS_SOON), HEARD_ERROR);
    cr_expect_eq(pool_communicate(pool, peer_address(peer), use_counted, &repeat, NULL), POOL_OK);
    cr_expect_eq(repeat.runs, 2);
    pool_destroy(pool);
    peer_stop(peer);
}

static int ask_by_number(struct pool_conn *conn, void *user)
{
    unsigned *number = user;
    char text[32];

    snprintf(text, sizeof(text), "request %07u.", *number);
    return echo(conn, text);
}

/* How often each request arrived, read off what the peer's connections received. */
static void count_requests(struct peer *peer, unsigned *arrived, unsigned requests)
{
    static char bytes[1024];
    uint64_t connections = peer_count(peer, PEER_ACCEPTED);
    unsigned number;

    for (uint32_t nth = 0; nth < connections; nth++) {
        uint64_t size = peer_received(peer, nth, bytes, sizeof(bytes));

        for (size_t at = 0; at + 16 <= size && at + 16 <= sizeof(bytes); at += 16)
            if (sscanf(bytes + at, "request %u.", &number) == 1 && number < requests)
                arrived[number]++;
    }
}

static void make_requests(uint32_t flags, unsigned *done, unsigned *arrived, unsigned requests)
{
    struct peer *peer = PEER(.behave = PEER_CLOSE_RECEIVED, .after_bytes = 48, .message_bytes = 16,
                             .record_connections = 4096);
    struct pool *pool = MAKE_POOL(.check = POOL_CHECK_NEVER, .park_ms = POOL_NONE);

    for (unsigned i = 0; i < requests; i++)
        done[i] = pool_communicate(pool, peer_address(peer), ask_by_number, &i,
                                   POOL_CALL(.flags = flags)) == POOL_OK;
    pool_destroy(pool);
    cr_expect(peer_wait_open(peer, 0, VERBS_SOON));
    count_requests(peer, arrived, requests);
    peer_stop(peer);
}

/* The peer closes after each third request, unanswered: the server's own count of request ids. */
Test(pool_repeat, an_unsafe_request_never_arrives_twice)
{
    enum { REQUESTS = 300 };
    static unsigned done[REQUESTS], arrived[REQUESTS];
    unsigned lost = 0;

    make_requests(0, done, arrived, REQUESTS);
    for (unsigned i = 0; i < REQUESTS; i++) {
        cr_expect_leq(arrived[i], 1, "request %u arrived %u times", i, arrived[i]);
        lost += !done[i];
    }
    cr_expect_gt(lost, 0, "nothing failed: the test shows nothing");
}

Test(pool_repeat, a_request_that_is_safe_to_repeat_is_never_lost)
{
    enum { REQUESTS = 300 };
    static unsigned done[REQUESTS], arrived[REQUESTS];
    unsigned twice = 0;

    make_requests(POOL_SAFE_TO_REPEAT, done, arrived, REQUESTS);
    for (unsigned i = 0; i < REQUESTS; i++) {
        cr_expect(done[i], "request %u", i);
        cr_expect_geq(arrived[i], 1);
        cr_expect_leq(arrived[i], 2);
        twice += arrived[i] == 2;
    }
    cr_expect_gt(twice, 0, "nothing was repeated: the test shows nothing");
}

/* The peer gets the request, and then it is gone for good. */
static int lose_the_peer(struct pool_conn *conn, void *user)
{
    struct peer *peer = user;
    char byte;

    if (pool_send(conn, "pay!", 4) || pool_recv_exact(conn, &byte, 1))
        return -1;
    peer_down(peer);
    peer_close_all(peer);
    return pool_recv_exact(conn, &byte, 1) || pool_recv_exact(conn, &byte, 1) ||
                   pool_recv_exact(conn, &byte, 1) || pool_recv_exact(conn, &byte, 1)
               ? -1
               : 0;
}

static enum pool_decision go_on_until_refused(const struct pool_error *error, void *user)
{
    (void)user;
    return error->status == POOL_E_REFUSED ? POOL_ABORT : POOL_CONTINUE;
}

Test(pool_repeat, what_an_earlier_attempt_sent_is_not_unsent_by_a_repeat_that_finds_nobody)
{
    static pool_error_fn *const asked[] = { NULL, go_on_until_refused };

    for (size_t i = 0; i < PL_COUNT(asked); i++) {
        struct pool_error error = POOL_ERROR_INIT;
        struct peer *peer = PEER();
        struct pool *pool = MAKE_POOL();

        cr_assert_eq(talk(pool, peer_address(peer)), POOL_OK);
        cr_expect_eq(pool_communicate(pool, peer_address(peer), lose_the_peer, peer,
                                      POOL_CALL(.flags = POOL_SAFE_TO_REPEAT, .error = &error,
                                                .on_error = asked[i], .timeout_ms = 500)),
                     POOL_E_REFUSED, "%s", error.text);
        cr_expect_eq(error.outcome, POOL_ANSWERED, "%s", error.text);
        cr_expect_null(strstr(error.text, "not sent"), "%s", error.text);
        pool_destroy(pool);
        peer_stop(peer);
    }
}

static int give_up_on_purpose(struct pool_conn *conn, void *user)
{
    ++*(unsigned *)user;
    echo(conn, "fine");
    return 5;
}

Test(pool_repeat, what_use_itself_refuses_is_never_repeated)
{
    struct pool_error error = POOL_ERROR_INIT;
    struct peer *peer = PEER();
    struct pool *pool = MAKE_POOL();
    unsigned runs = 0;

    cr_assert_eq(talk(pool, peer_address(peer)), POOL_OK);
    cr_expect_eq(pool_communicate(pool, peer_address(peer), give_up_on_purpose, &runs,
                                  POOL_CALL(.flags = POOL_SAFE_TO_REPEAT, .error = &error)),
                 POOL_E_USER);
    cr_expect_eq(runs, 1);
    cr_expect_eq(error.cause, 5);
    cr_expect_eq(error.phase, POOL_PHASE_USE);
    cr_expect_eq(error.outcome, POOL_ANSWERED);
    pool_destroy(pool);
    peer_stop(peer);
}

/* The repetition has what is left of the call's time, not a new span. */
static int stall_when_repeated(struct pool_conn *conn, void *user)
{
    unsigned *runs = user;
    char byte;
    size_t got;

    if (++*runs == 1)
        return echo(conn, "ping");
    return pool_recv(conn, &byte, 1, &got);
}

Test(pool_repeat, the_second_run_has_what_is_left_of_the_time)
{
    struct peer *peer = PEER(.own_process = true);
    struct pool *pool = MAKE_POOL(.check = POOL_CHECK_NEVER, .park_ms = POOL_NONE);
    uint64_t start_ms;
    unsigned runs = 0;

    leave_reset_one(pool, peer);
    start_ms = now_ms();
    cr_expect_eq(pool_communicate(pool, peer_address(peer), stall_when_repeated, &runs,
                                  POOL_CALL(.timeout_ms = 200)),
                 POOL_E_TIMEOUT);
    cr_expect_eq(runs, 2);
    cr_expect(IN_TIME(elapsed_ms(start_ms), 199));
    pool_destroy(pool);
    peer_stop(peer);
}
