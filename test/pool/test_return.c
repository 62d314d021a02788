/* test_return.c: what comes back is dirty until proven clean: whatever may be left on a connection
 * closes it, and no borrower ever meets what another one left. */
#include <criterion/criterion.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>

#include "support/peer.h"
#include "support/tests.h"
#include "support/verbs.h"

/* ---- ways to leave a connection */

static int answers_seven(struct pool_conn *conn, void *user)
{
    (void)user;
    cr_expect_eq(echo(conn, "fine so far"), 0);
    return 7;
}

static int sends_last(struct pool_conn *conn, void *user)
{
    (void)user;
    cr_expect_eq(echo(conn, "fine so far"), 0);
    cr_expect_eq(pool_send(conn, "one more", 8), POOL_OK);
    return 0;
}

static int leaves_a_line_unread(struct pool_conn *conn, void *user)
{
    struct pool_bytes line;

    (void)user;
    cr_expect_eq(pool_send(conn, "first\nsecond\n", 13), POOL_OK);
    cr_expect_eq(pool_recv_until(conn, "\n", 1, &line), POOL_OK);
    cr_expect_eq(line.size, 6);
    return 0;
}

static int leaves_bytes_in_the_kernel(struct pool_conn *conn, void *user)
{
    char half[4];

    (void)user;
    cr_expect_eq(pool_send(conn, "whole th", 8), POOL_OK);
    cr_expect_eq(pool_recv_exact(conn, half, 4), POOL_OK);
    return 0;
}

static int overlooks_a_timeout(struct pool_conn *conn, void *user)
{
    char more[5];

    (void)user;
    cr_expect_eq(pool_send(conn, "four", 4), POOL_OK);
    cr_expect_eq(pool_recv_exact(conn, more, 5), POOL_E_TIMEOUT_IN_TRANSFER);
    return 0;
}

static int waits_for_nothing(struct pool_conn *conn, void *user)
{
    char byte;
    size_t got;

    (void)user;
    cr_expect_eq(pool_recv(conn, &byte, 1, &got), POOL_E_TIMEOUT);
    return 0;
}

static int reads_a_line_without_end(struct pool_conn *conn, void *user)
{
    struct pool_bytes line;
    char many[200];

    (void)user;
    memset(many, 'x', sizeof(many));
    cr_expect_eq(pool_send(conn, many, sizeof(many)), POOL_OK);
    cr_expect_eq(pool_recv_until(conn, "\n", 1, &line), POOL_E_PROTOCOL);
    return 0;
}

static int discards(struct pool_conn *conn, void *user)
{
    (void)user;
    cr_expect_eq(pool_discard(conn), POOL_OK);
    return 0;
}

static int drains(struct pool_conn *conn, void *user)
{
    (void)user;
    pool_conn_drain(conn);
    cr_expect_eq(echo(conn, "first I finish"), 0);
    return 0;
}

static int only_sends(struct pool_conn *conn, void *user)
{
    (void)user;
    return pool_send(conn, "one", 3);
}

static const struct way {
    const char *name;
    pool_use_fn *use;
    enum pool_status status;
    enum pool_close_reason reason;
} ways[] = {
    { "answers seven", answers_seven, POOL_E_USER, POOL_CLOSE_DIRTY },
    { "sends last", sends_last, POOL_OK, POOL_CLOSE_DIRTY },
    { "leaves a line unread", leaves_a_line_unread, POOL_OK, POOL_CLOSE_DIRTY },
    { "leaves bytes in the kernel", leaves_bytes_in_the_kernel, POOL_OK, POOL_CLOSE_PEER },
    { "overlooks a timeout", overlooks_a_timeout, POOL_E_TIMEOUT_IN_TRANSFER, POOL_CLOSE_ERROR },
    { "waits for nothing", waits_for_nothing, POOL_E_TIMEOUT, POOL_CLOSE_ERROR },
    { "reads a line without end", reads_a_line_without_end, POOL_E_PROTOCOL, POOL_CLOSE_ERROR },
    { "discards", discards, POOL_OK, POOL_CLOSE_DIRTY },
    { "drains", drains, POOL_OK, POOL_CLOSE_AGE },
};

static void expect_fresh_one(struct pool *pool, struct peer *peer, const char *name)
{
    cr_expect_eq(id_of_next(pool, peer_address(peer)), 2, "%s", name);
    cr_expect_eq(STAT(pool, total), 1, "%s", name);
    cr_expect_eq(STAT(pool, lent), 0, "%s", name);
    cr_expect(peer_wait_open(peer, 1, VERBS_SOON), "%s: the peer sees no end", name);
}

static void leave(const struct way *way, uint32_t park_ms)
{
    struct peer *peer = PEER();
    struct pool *pool = MAKE_POOL(.park_ms = park_ms, .max_line = 100);
    struct pool_call *call = POOL_CALL(.timeout_ms = 300 * slowness());

    cr_expect_eq(pool_communicate(pool, peer_address(peer), way->use, NULL, call), way->status,
                 "%s", way->name);
    expect_fresh_one(pool, peer, way->name);
    cr_expect(WAIT_STAT(pool, closed[way->reason], 1), "%s: another reason", way->name);
    pool_destroy(pool);
    peer_stop(peer);
}

Test(pool_return, whatever_may_be_left_on_a_connection_closes_it)
{
    for (size_t i = 0; i < sizeof(ways) / sizeof(*ways); i++) {
        leave(&ways[i], POOL_NONE); /* it stays hot */
        leave(&ways[i], 1); /* it is parked at once */
    }
}

Test(pool_return, a_clean_connection_is_kept)
{
    struct peer *peer = PEER();
    struct pool *pool = MAKE_POOL();
    struct pool_bytes line;
    struct pool_conn conn;

    cr_assert(borrow(pool, peer_address(peer), &conn));
    cr_expect_eq(pool_return(&conn), POOL_OK); /* untouched */
    cr_expect(!conn.slot && !conn.serial, "the handle is zeroed");
    cr_assert(borrow(pool, peer_address(peer), &conn));
    cr_expect_eq(pool_conn_id(&conn), 1);
    cr_expect_eq(pool_send(&conn, "a\nb\n", 4), POOL_OK);
    cr_expect_eq(pool_recv_until(&conn, "\n", 1, &line), POOL_OK);
    cr_expect_eq(pool_recv_until(&conn, "\n", 1, &line), POOL_OK);
    cr_expect_eq(pool_return(&conn), POOL_OK); /* read ahead, and read to the end */
    cr_expect_eq(id_of_next(pool, peer_address(peer)), 1);
    pool_destroy(pool);
    peer_stop(peer);
}

/* What expects no answer says so, and is clean after its send. */
Test(pool_return, after_a_send_that_expects_no_answer_it_is_kept)
{
    struct peer *peer = PEER(.behave = PEER_SINK);
    struct pool *pool = MAKE_POOL();
    struct pool_call *call = POOL_CALL(.flags = POOL_ONE_WAY);

    for (int i = 0; i < 10; i++)
        cr_expect_eq(pool_communicate(pool, peer_address(peer), only_sends, NULL, call), POOL_OK);
    cr_expect_eq(STAT(pool, opened), 1);
    cr_expect_eq(pool_communicate(pool, peer_address(peer), only_sends, NULL, NULL), POOL_OK);
    cr_expect_eq(STAT(pool, total), 0, "it was said for those calls only");
    cr_expect(peer_wait_bytes_in(peer, 11 * 3, VERBS_SOON));
    pool_destroy(pool);
    peer_stop(peer);
}

/* One idle connection that has served; answers its descriptor. */
static int leave_idle(struct pool *pool, struct peer *peer)
{
    struct pool_conn conn;
    int fd;

    cr_assert(borrow(pool, peer_address(peer), &conn));
    cr_assert_eq(echo(&conn, "ping"), 0);
    fd = pool_conn_fd(&conn);
    cr_assert_eq(pool_return(&conn), POOL_OK);
    return fd;
}

/* A stray byte that comes after the reply. */
Test(pool_return, a_stray_byte_after_the_reply_is_nobodys)
{
    for (unsigned delay_ms = 0; delay_ms <= 30; delay_ms += 10) {
        struct peer *peer = PEER(.behave = PEER_EXTRA, .extra_bytes = 1, .delay_ms = delay_ms);
        struct pool *pool = MAKE_POOL(.park_ms = 20);
        int fd;

        fd = leave_idle(pool, peer);
        cr_expect(peer_wait_least(peer, PEER_BYTES_OUT, 5, VERBS_SOON));
        cr_expect_neq(listen_to(fd, VERBS_SOON), HEARD_NOTHING);
        cr_expect_eq(id_of_next(pool, peer_address(peer)), 2, "delay %u ms", delay_ms);
        cr_expect(WAIT_STAT(pool, closed[POOL_CLOSE_PEER], 2));
        pool_destroy(pool);
        peer_stop(peer);
    }
}

/* ---- what the peer does to an idle connection */

enum deed { SENDS, ENDS, SENDS_AND_ENDS, RESETS, DEEDS };
static const char *const deed_names[] = { "sends", "ends", "sends and ends", "resets" };

static void do_deed(struct peer *peer, uint32_t nth, enum deed deed)
{
    if (deed == SENDS || deed == SENDS_AND_ENDS)
        cr_assert_eq(peer_push(peer, nth, "unasked", 7), 1);
    if (deed == SENDS_AND_ENDS)
        peer_half_close(peer, nth); /* what was sent may have ended it already */
    if (deed == ENDS)
        cr_assert_eq(peer_half_close(peer, nth), 1);
    if (deed == RESETS)
        cr_assert_eq(peer_reset(peer, nth), 1);
}

Test(pool_return, a_hot_connection_that_spoke_or_ended_is_never_lent)
{
    for (int deed = 0; deed < DEEDS; deed++) {
        struct peer *peer = PEER();
        struct pool *pool = MAKE_POOL(.park_ms = POOL_NONE);
        int fd;

        fd = leave_idle(pool, peer);
        do_deed(peer, 0, (enum deed)deed);
        if (deed != RESETS) /* a reset is not held back on its way, and looking would take it */
            cr_assert_neq(listen_to(fd, VERBS_SOON), HEARD_NOTHING);
        cr_expect_eq(id_of_next(pool, peer_address(peer)), 2, "%s", deed_names[deed]);
        cr_expect_eq(STAT(pool, closed[POOL_CLOSE_PEER]), 1, "%s", deed_names[deed]);
        pool_destroy(pool);
        peer_stop(peer);
    }
}

Test(pool_return, a_parked_connection_that_spoke_or_ended_goes_without_any_borrow)
{
    for (int deed = 0; deed < DEEDS; deed++) {
        struct peer *peer = PEER();
        struct pool *pool = MAKE_POOL(.park_ms = 1);
        uint64_t start_ms;

        cr_assert(wait_parked(leave_idle(pool, peer)));
        start_ms = now_ms();
        do_deed(peer, 0, (enum deed)deed);
        cr_expect(WAIT_STAT(pool, total, 0), "%s", deed_names[deed]);
        cr_expect(IN_TIME(elapsed_ms(start_ms), 0));
        cr_expect_eq(STAT(pool, closed[POOL_CLOSE_PEER]), 1, "%s", deed_names[deed]);
        pool_destroy(pool);
        peer_stop(peer);
    }
}

/* Deeds at every instant around the look that a borrow takes: each reply is the asker's own or
 * none. */
struct race {
    struct pool *pool;
    struct peer *peer;
    atomic_bool is_over;
    atomic_uint foreign, good;
};

static int use_token(struct pool_conn *conn, void *user)
{
    struct race *race = user;
    static atomic_uint last;
    char token[32], back[32] = "";
    unsigned mine = atomic_fetch_add(&last, 1);

    snprintf(token, sizeof(token), "token %09x.", mine);
    if (pool_send(conn, token, 16) || pool_recv_exact(conn, back, 16))
        return -1;
    if (memcmp(token, back, 16))
        atomic_fetch_add(&race->foreign, 1);
    else
        atomic_fetch_add(&race->good, 1);
    return 0;
}

static void race(unsigned index, void *argument)
{
    struct race *one = argument;
    uint64_t start_ms = now_ms();

    if (index == 0) {
        for (unsigned i = 0; elapsed_ms(start_ms) < 500; i++)
            if (i % 3)
                peer_half_close_all(one->peer);
            else
                peer_reset_all(one->peer);
        atomic_store(&one->is_over, true);
    }
    while (!atomic_load(&one->is_over))
        pool_communicate(one->pool, peer_address(one->peer), use_token, one, NULL);
}

Test(pool_return, ends_at_every_instant_never_cross_replies)
{
    struct race one = { .peer = PEER(.own_process = true), .pool = MAKE_POOL(.park_ms = 1) };

    cr_assert(run_threads(3, race, &one));
    cr_expect_eq(one.foreign, 0);
    cr_expect_gt(one.good, 0);
    cr_expect_eq(STAT(one.pool, lent), 0);
    peer_set_behaviour(one.peer, PEER_ECHO);
    cr_expect_eq(talk(one.pool, peer_address(one.peer)), POOL_OK);
    pool_destroy(one.pool);
    peer_stop(one.peer);
}

/* ---- a reply that comes too late */

struct impatience {
    unsigned late, foreign;
};

static int ask_impatiently(struct pool_conn *conn, void *user)
{
    struct impatience *impatience = user;
    static unsigned last;
    char token[32], back[16];

    snprintf(token, sizeof(token), "token %09x.", ++last);
    if (pool_send(conn, token, 16))
        return -1;
    if (pool_recv_exact(conn, back, 16)) {
        impatience->late++;
        return 0; /* it pretends that nothing happened */
    }
    impatience->foreign += memcmp(token, back, 16) != 0;
    return 0;
}

/* Given up between the first byte written and the last byte read. */
Test(pool_return, a_late_reply_is_never_the_next_borrowers)
{
    struct peer *peer = PEER(.behave = PEER_SLOW, .delay_ms = 3, .own_process = true);
    struct pool *pool = MAKE_POOL();
    struct impatience impatience = { 0 };

    for (unsigned i = 0; i < 400; i++)
        pool_communicate(pool, peer_address(peer), ask_impatiently, &impatience,
                         POOL_CALL(.timeout_ms = 1 + i % 6));
    cr_expect_eq(impatience.foreign, 0);
    cr_expect_gt(impatience.late, 0, "nothing was late: the test shows nothing");
    cr_expect_lt(impatience.late, 400);
    cr_expect_eq(STAT(pool, lent), 0);
    pool_destroy(pool);
    peer_stop(peer);
}

static int drip_in(struct pool_conn *conn, void *user)
{
    char back[16];

    (void)user;
    if (pool_send(conn, "sixteen bytes it", 16))
        return -1;
    return pool_recv_exact(conn, back, 16) ? 0 : 0;
}

/* The same with half of the reply read: a peer that drips, and a deadline at every byte. */
Test(pool_return, half_a_reply_is_never_the_next_borrowers)
{
    struct peer *peer = PEER(.behave = PEER_DRIP, .interval_ms = 2);
    struct pool *pool = MAKE_POOL();
    enum pool_status status;
    unsigned halves = 0;

    for (unsigned i = 0; i < 60; i++) {
        status = pool_communicate(pool, peer_address(peer), drip_in, NULL,
                                  POOL_CALL(.timeout_ms = 1 + i % 40));
        halves += status == POOL_E_TIMEOUT_IN_TRANSFER;
        cr_expect(status == POOL_OK || status == POOL_E_TIMEOUT_IN_TRANSFER ||
                  status == POOL_E_TIMEOUT);
    }
    cr_expect_gt(halves, 0);
    peer_set_behaviour(peer, PEER_ECHO);
    cr_expect_eq(talk(pool, peer_address(peer)), POOL_OK);
    pool_destroy(pool);
    peer_stop(peer);
}

/* ---- copies of a handle in other threads */

struct reading {
    struct pool_conn conn;
    enum pool_status status;
    atomic_bool has_begun;
};

static void *read_on_copy(void *argument)
{
    struct reading *reading = argument;
    char bytes[16];
    size_t got;

    atomic_store(&reading->has_begun, true);
    reading->status = pool_recv(&reading->conn, bytes, sizeof(bytes), &got);
    return NULL;
}

static void *return_copy(void *argument)
{
    struct reading *reading = argument;

    reading->status = pool_return(&reading->conn);
    return NULL;
}

static bool has_begun(void *argument)
{
    struct reading *reading = argument;

    return atomic_load(&reading->has_begun);
}

/* Without pins, 100 of 100 runs crossed. */
Test(pool_return, a_read_under_way_on_a_copy_ends_the_connection_and_meets_no_next_borrower)
{
    struct peer *peer = PEER();
    struct pool *pool = MAKE_POOL();
    struct reading reading;
    struct pool_conn conn;
    pthread_t thread;

    for (unsigned i = 0; i < 100; i++) {
        cr_assert(borrow(pool, peer_address(peer), &conn));
        reading = (struct reading){ .conn = conn };
        cr_assert_eq(pthread_create(&thread, NULL, read_on_copy, &reading), 0);
        cr_assert(wait_until(has_begun, &reading, VERBS_SOON));
        cr_assert_eq(pool_return(&conn), POOL_OK);
        cr_expect_eq(talk(pool, peer_address(peer)), POOL_OK);
        pthread_join(thread, NULL);
        cr_expect_neq(reading.status, POOL_OK, "round %u: it read another borrower's reply", i);
    }
    cr_expect_eq(STAT(pool, lent), 0);
    cr_expect_eq(STAT(pool, closing), 0);
    pool_destroy(pool);
    peer_stop(peer);
}

Test(pool_return, of_two_threads_that_return_one_loan_exactly_one_does)
{
    struct peer *peer = PEER();
    struct pool *pool = MAKE_POOL(.max_per_address = 1);
    struct reading readings[2];
    struct pool_conn conn;
    pthread_t threads[2];

    for (unsigned i = 0; i < 300; i++) {
        cr_assert(borrow(pool, peer_address(peer), &conn));
        cr_assert_eq(echo(&conn, "mine"), 0);
        for (int t = 0; t < 2; t++) {
            readings[t] = (struct reading){ .conn = conn };
            cr_assert_eq(pthread_create(&threads[t], NULL, return_copy, &readings[t]), 0);
        }
        for (int t = 0; t < 2; t++)
            pthread_join(threads[t], NULL);
        cr_expect_eq((readings[0].status == POOL_OK) + (readings[1].status == POOL_OK), 1);
        cr_expect_eq(
            (readings[0].status == POOL_E_ARGUMENT) + (readings[1].status == POOL_E_ARGUMENT), 1);
        cr_expect_eq(STAT(pool, idle), 1);
    }
    cr_expect_eq(STAT(pool, opened), 1);
    pool_destroy(pool);
    peer_stop(peer);
}

Test(pool_return, another_thread_may_return_what_this_one_borrowed)
{
    struct peer *peer = PEER();
    struct pool *pool = MAKE_POOL();
    struct reading reading = { 0 };
    pthread_t thread;

    cr_assert(borrow(pool, peer_address(peer), &reading.conn));
    cr_assert_eq(pthread_create(&thread, NULL, return_copy, &reading), 0);
    pthread_join(thread, NULL);
    cr_expect_eq(reading.status, POOL_OK);
    cr_expect_eq(id_of_next(pool, peer_address(peer)), 1);
    pool_destroy(pool);
    peer_stop(peer);
}
