/* test_detach.c: connections that leave the pool open, with their handle: what the pool forgets,
 * what their holder keeps, and for how long. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "net/connection.h"
#include "support/peer.h"
#include "support/tests.h"
#include "support/verbs.h"

static struct peer *peer;

static void begin(void)
{
    peer = PEER(.record_connections = 8);
}

static void end(void)
{
    peer_stop(peer);
}

TestSuite(detach, .init = begin, .fini = end, .timeout = 60);

/* ---- the books */

Test(detach, a_detached_connection_is_in_no_number_of_the_pool_and_still_works)
{
    struct pool *pool = MAKE_POOL();
    struct pool_conn conn, copy;
    uint64_t id;

    cr_assert(borrow(pool, peer_address(peer), &conn));
    copy = conn;
    id = pool_conn_id(&conn);
    cr_expect_eq(pool_detach(&conn), POOL_OK);
    cr_expect(pool_conn_same(&conn, &copy), "the handle stays good");
    cr_expect_eq(STAT(pool, total), 0);
    cr_expect_eq(STAT(pool, lent), 0);
    cr_expect_eq(STAT(pool, borrowed), 1);
    cr_expect_eq(STAT(pool, closed[POOL_CLOSE_DETACHED]), 1);
    cr_expect_eq(echo(&conn, "hello"), 0);
    cr_expect_eq(STAT(pool, bytes_in), 0, "what came after is not the pool's");
    cr_expect_eq(pool_conn_id(&conn), id);
    cr_expect_str_eq(pool_conn_address(&conn), peer_address(peer));
    cr_expect_neq(id_of_next(pool, peer_address(peer)), id);
    cr_expect_eq(pool_detach(&conn), POOL_E_ARGUMENT, "it is detached already");
    cr_expect_eq(pool_discard(&conn), POOL_OK);
    cr_expect(peer_wait_end(peer, 0, PEER_CLOSED_BY_OTHER, VERBS_SOON));
    cr_expect_eq(echo(&copy, "x"), -1);
    cr_expect_eq(STAT(pool, closed[POOL_CLOSE_DETACHED]), 1, "counted once");
    pool_destroy(pool);
}

Test(detach, returning_a_detached_connection_closes_it_too)
{
    struct pool *pool = MAKE_POOL();
    struct pool_conn conn;

    for (int i = 0; i < 3; i++) {       /* so that the warm path knows it */
        cr_assert_neq(id_of_next(pool, peer_address(peer)), 0);
    }
    cr_assert(borrow(pool, peer_address(peer), &conn));
    cr_assert_eq(pool_detach(&conn), POOL_OK);
    cr_expect_eq(echo(&conn, "x"), 0);
    cr_expect_eq(pool_return(&conn), POOL_OK);
    cr_expect(peer_wait_end(peer, 0, PEER_CLOSED_BY_OTHER, VERBS_SOON));
    cr_expect_eq(STAT(pool, total), 0);
    cr_expect_eq(id_of_next(pool, peer_address(peer)), 2);
    pool_destroy(pool);
}

Test(detach, everything_is_given_back_in_the_end)
{
    int before = count_descriptors();
    struct pool *pool = MAKE_POOL();
    struct pool_conn conns[3];

    for (int i = 0; i < 3; i++) {
        cr_assert(borrow(pool, peer_address(peer), &conns[i]));
        cr_assert_eq(pool_detach(&conns[i]), POOL_OK);
    }
    pool_discard(&conns[0]);
    pool_destroy(pool);
    pool_discard(&conns[1]);
    pool_return(&conns[2]);
    cr_expect(peer_wait_open(peer, 0, VERBS_SOON));
    cr_expect_eq(count_descriptors(), before);
}

Test(detach, its_place_is_free_for_whoever_waits)
{
    struct pool *pool = MAKE_POOL(.max_per_address = 1);
    struct pool_conn conn;
    struct caller caller;

    cr_assert(borrow(pool, peer_address(peer), &conn));
    cr_assert(queue_caller(&caller, pool, peer_address(peer), VERBS_SOON));
    cr_expect_eq(pool_detach(&conn), POOL_OK);
    cr_expect_eq(join_caller(&caller), POOL_OK);
    cr_expect_eq(echo(&conn, "mine"), 0);
    cr_expect_eq(echo(&caller.conn, "yours"), 0);
    pool_discard(&conn);
    pool_return(&caller.conn);
    pool_destroy(pool);
}

Test(detach, its_share_of_the_pool_is_free_for_other_addresses)
{
    struct peer *other = PEER();
    struct pool *pool = MAKE_POOL(.max_connections = 1);
    struct pool_conn conn;
    struct caller caller;

    cr_assert(borrow(pool, peer_address(peer), &conn));
    cr_assert(queue_caller(&caller, pool, peer_address(other), VERBS_SOON));
    cr_expect_eq(pool_detach(&conn), POOL_OK);
    cr_expect_eq(join_caller(&caller), POOL_OK);
    pool_return(&caller.conn);
    pool_discard(&conn);
    pool_destroy(pool);
    peer_stop(other);
}

/* ---- after the pool */

Test(detach, it_outlives_its_pool_and_its_mux)
{
    struct pool *pool = MAKE_POOL();
    struct pool_conn conn;
    struct pool_conn_counts counts = { .size = sizeof(counts) };
    struct pool_error error = POOL_ERROR_INIT;
    char text[64];
    int mine;

    cr_assert(borrow(pool, peer_address(peer), &conn));
    cr_assert_eq(pool_detach(&conn), POOL_OK);
    pool_destroy(pool);
    for (int i = 0; i < 8; i++)         /* other pools and peers take their places in memory */
        pool_destroy(MAKE_POOL(.read_ms = 1, .max_line = 2));
    cr_expect_eq(echo(&conn, "after all of it"), 0);
    cr_expect_str_eq(pool_conn_address(&conn), peer_address(peer));
    cr_expect_eq(pool_conn_count(&conn, &counts), POOL_OK);
    cr_expect_eq(counts.bytes_out, 15);
    cr_expect_eq(pool_conn_remote(&conn, text, sizeof(text)), POOL_OK);
    pool_conn_set_user(&conn, &mine, NULL);
    cr_expect_eq(pool_conn_user(&conn), &mine);
    cr_expect_eq(pool_conn_deadline(&conn, 1000), POOL_OK);
    pool_conn_drain(&conn);
    pool_conn_ready(&conn, POOL_OK);
    cr_expect_eq(pool_conn_error(&conn, &error), POOL_OK);
    cr_expect_eq(error.status, POOL_OK);
    peer_close_all(peer);
    cr_expect_neq(echo(&conn, "the peer has gone"), 0);
    cr_expect_eq(pool_conn_error(&conn, &error), POOL_OK);
    cr_expect_neq(error.status, POOL_OK);
    cr_expect(strstr(error.text, peer_address(peer)), "%s", error.text);
    cr_expect_eq(pool_discard(&conn), POOL_OK);
}

Test(detach, it_outlives_an_embedded_mux_too)
{
    struct pool_mux *mux;
    struct pool *pool;
    struct pool_conn conn;
    struct caller caller;

    cr_assert_eq(pool_mux_create(&mux), POOL_OK);
    pool = MAKE_POOL(.mux = mux);
    cr_assert(start_caller(&caller, pool, peer_address(peer), VERBS_SOON));
    while (!caller.is_back)
        pool_mux_dispatch(mux, 10);
    cr_assert_eq(join_caller(&caller), POOL_OK);
    conn = caller.conn;
    cr_assert_eq(pool_detach(&conn), POOL_OK);
    pool_destroy(pool);
    pool_mux_destroy(mux);
    cr_expect_eq(echo(&conn, "on the thread that was the mux's home"), 0);
    pool_discard(&conn);
}

Test(detach, one_that_was_ended_is_of_no_use_outside)
{
    struct pool *pool = MAKE_POOL();
    struct pool_conn conn;
    int fd = -5;

    cr_assert(borrow(pool, peer_address(peer), &conn));
    pool_destroy(pool);
    cr_expect_eq(pool_detach(&conn), POOL_E_CLOSING);
    cr_expect_eq(pool_release_fd(&conn, &fd), POOL_E_CLOSING);
    cr_expect_eq(fd, -5);
    cr_expect_eq(pool_discard(&conn), POOL_OK);
    cr_expect(peer_wait_open(peer, 0, VERBS_SOON));
}

/* ---- deadlines */

Test(detach, the_deadline_of_the_call_ends_with_the_loan)
{
    struct peer *slow = PEER(.behave = PEER_SLOW, .delay_ms = 200);
    struct pool *pool = MAKE_POOL();
    struct pool_conn conn;

    cr_assert_eq(pool_borrow(pool, peer_address(slow), POOL_CALL(.timeout_ms = 100), &conn),
                 POOL_OK);
    cr_assert_eq(pool_detach(&conn), POOL_OK);
    cr_expect_eq(echo(&conn, "later than the call allowed"), 0);
    pool_discard(&conn);
    pool_destroy(pool);
    peer_stop(slow);
}

Test(detach, each_operation_has_the_pools_time)
{
    struct peer *silent = PEER(.behave = PEER_SILENT);
    struct pool *pool = MAKE_POOL(.timeout_ms = 150);
    struct pool_conn conn;
    uint64_t start_ms;
    char byte;

    cr_assert(borrow(pool, peer_address(silent), &conn));
    cr_assert_eq(pool_detach(&conn), POOL_OK);
    pool_destroy(pool);
    for (int i = 0; i < 2; i++) {
        start_ms = now_ms();
        cr_expect_eq(pool_recv_exact(&conn, &byte, 1), POOL_E_TIMEOUT);
        cr_expect(IN_TIME(elapsed_ms(start_ms), 150));
    }
    cr_expect_eq(pool_conn_deadline(&conn, 300), POOL_OK);
    start_ms = now_ms();
    cr_expect_eq(pool_recv_exact(&conn, &byte, 1), POOL_E_TIMEOUT);
    cr_expect(IN_TIME(elapsed_ms(start_ms), 300), "its own deadline instead");
    pool_discard(&conn);
    peer_stop(silent);
}

Test(detach, read_ms_still_bounds_each_operation)
{
    struct peer *silent = PEER(.behave = PEER_SILENT);
    struct pool *pool = MAKE_POOL(.read_ms = 100);
    struct pool_conn conn;
    uint64_t start_ms;
    char byte;

    cr_assert(borrow(pool, peer_address(silent), &conn));
    cr_assert_eq(pool_detach(&conn), POOL_OK);
    pool_destroy(pool);
    start_ms = now_ms();
    cr_expect_eq(pool_recv_exact(&conn, &byte, 1), POOL_E_TIMEOUT);
    cr_expect(IN_TIME(elapsed_ms(start_ms), 100));
    pool_discard(&conn);
    peer_stop(silent);
}

/* ---- inside use */

struct taken {
    struct pool_conn conn;
    int answer;
    unsigned runs;
};

static int take_away(struct pool_conn *conn, void *user)
{
    struct taken *taken = user;

    taken->runs++;
    taken->conn = *conn;
    return pool_detach(conn) ? -77 : taken->answer;
}

Test(detach, communicate_leaves_what_use_detached_alone_and_answers_what_it_answered)
{
    struct pool *pool = MAKE_POOL();
    struct taken taken = { .answer = 0 };
    struct pool_error error = POOL_ERROR_INIT;

    cr_expect_eq(pool_communicate(pool, peer_address(peer), take_away, &taken, NULL), POOL_OK);
    cr_expect_eq(echo(&taken.conn, "mine"), 0);
    pool_discard(&taken.conn);
    taken.answer = 5;
    cr_expect_eq(pool_communicate(pool, peer_address(peer), take_away, &taken,
                                  POOL_CALL(.error = &error, .flags = POOL_SAFE_TO_REPEAT)),
                 POOL_E_USER);
    cr_expect_eq(error.cause, 5);
    cr_expect_eq(taken.runs, 2);
    cr_expect_eq(echo(&taken.conn, "still mine"), 0);
    pool_destroy(pool);
    cr_expect_eq(echo(&taken.conn, "and without the pool"), 0);
    pool_discard(&taken.conn);
}

struct canceled {
    struct pool_ticket *ticket;
    struct pool_conn conn;
    bool was_in_time;
};

static int take_away_and_cancel(struct pool_conn *conn, void *user)
{
    struct canceled *canceled = user;

    canceled->conn = *conn;
    cr_expect_eq(pool_detach(conn), POOL_OK);
    canceled->was_in_time = pool_ticket_cancel(canceled->ticket);
    return 0;
}

Test(detach, canceling_the_call_leaves_what_it_detached_alone)
{
    struct pool *pool = MAKE_POOL();
    struct canceled canceled = { .was_in_time = true };

    cr_expect_eq(pool_communicate(pool, peer_address(peer), take_away_and_cancel, &canceled,
                                  POOL_CALL(.ticket = &canceled.ticket)),
                 POOL_OK);
    cr_expect_not(canceled.was_in_time);
    cr_expect_eq(echo(&canceled.conn, "unharmed"), 0);
    pool_discard(&canceled.conn);
    pool_ticket_free(canceled.ticket);
    pool_destroy(pool);
}

static int fail_and_take_away(struct pool_conn *conn, void *user)
{
    char byte;

    peer_close_all(peer);
    if (pool_recv_exact(conn, &byte, 1) != POOL_E_CLOSED)
        return -78;
    return take_away(conn, user);
}

Test(detach, what_use_detached_is_not_repeated_even_when_it_had_failed)
{
    struct pool *pool = MAKE_POOL();
    struct taken taken = { .answer = 5 };

    cr_assert_eq(talk(pool, peer_address(peer)), POOL_OK);
    cr_expect_eq(pool_communicate(pool, peer_address(peer), fail_and_take_away, &taken, NULL),
                 POOL_E_USER);
    cr_expect_eq(taken.runs, 1);
    pool_discard(&taken.conn);
    pool_destroy(pool);
}

static enum pool_status in_prepare[2];

static int leave_in_prepare(struct pool_conn *conn, void *user)
{
    int fd = -5;

    (void)user;
    in_prepare[0] = pool_detach(conn);
    in_prepare[1] = pool_release_fd(conn, &fd);
    return fd == -5 ? 0 : 1;
}

Test(detach, what_is_being_prepared_is_not_borrowed_yet)
{
    struct pool *pool = MAKE_POOL(.prepare = leave_in_prepare);

    cr_expect_eq(talk(pool, peer_address(peer)), POOL_OK);
    cr_expect_eq(in_prepare[0], POOL_E_ARGUMENT);
    cr_expect_eq(in_prepare[1], POOL_E_ARGUMENT);
    pool_destroy(pool);
}

Test(detach, bytes_read_ahead_stay_with_a_detached_handle)
{
    struct pool *pool = MAKE_POOL();
    struct pool_bytes line;
    struct pool_conn conn;
    char rest[4];

    cr_assert(borrow(pool, peer_address(peer), &conn));
    cr_assert_eq(pool_send(&conn, "line\nrest", 9), POOL_OK);
    cr_assert_eq(pool_recv_until(&conn, "\n", 1, &line), POOL_OK);
    cr_assert_eq(pool_detach(&conn), POOL_OK);
    pool_destroy(pool);
    cr_expect_eq(pool_recv_exact(&conn, rest, 4), POOL_OK);
    cr_expect_eq(memcmp(rest, "rest", 4), 0);
    pool_discard(&conn);
}

Test(detach, a_detached_connection_is_not_the_pools_to_forget)
{
    struct pool *pool = MAKE_POOL();
    struct pool_conn conn, other; /* which keeps the peer */

    cr_assert(borrow(pool, peer_address(peer), &other));
    cr_assert(borrow(pool, peer_address(peer), &conn));
    cr_assert_eq(pool_detach(&conn), POOL_OK);
    cr_expect_eq(pool_mark_as_dead(pool, pool_conn_fd(&conn)), 0);
    cr_expect_eq(echo(&conn, "x"), 0);
    pool_discard(&conn);
    pool_return(&other);
    pool_destroy(pool);
}

/* ---- two at once */

static void *wait_for_a_byte(void *argument)
{
    struct tried {
        struct pool_conn conn;
        enum pool_status status;
        char byte;
    } *tried = argument;

    tried->status = pool_recv_exact(&tried->conn, &tried->byte, 1);
    return NULL;
}

/* Seen from outside: trying to read, too, would be an operation that the other one may meet. */
static bool is_busy(void *argument)
{
    const struct pool_conn *conn = argument;

    return pl_word_pins(atomic_load(&pl_connection_of(conn->slot)->word)) == 1;
}

Test(detach, nothing_leaves_while_another_thread_works_on_it)
{
    struct pool *pool = MAKE_POOL();
    struct {
        struct pool_conn conn;
        enum pool_status status;
        char byte;
    } waiting = { .status = POOL_E_SYSTEM };
    struct pool_conn conn;
    pthread_t thread;
    int fd = -5;

    cr_assert(borrow(pool, peer_address(peer), &conn));
    waiting.conn = conn;
    cr_assert_eq(pthread_create(&thread, NULL, wait_for_a_byte, &waiting), 0);
    cr_assert(wait_until(is_busy, &conn, VERBS_SOON));
    cr_expect_eq(pool_detach(&conn), POOL_E_ARGUMENT);
    cr_expect_eq(pool_release_fd(&conn, &fd), POOL_E_ARGUMENT);
    cr_expect_eq(fd, -5);
    cr_expect_eq(STAT(pool, lent), 1);
    cr_assert_eq(pool_send(&conn, "x", 1), POOL_OK);
    pthread_join(thread, NULL);
    cr_expect_eq(waiting.status, POOL_OK);
    cr_expect_eq(pool_detach(&conn), POOL_OK);
    pool_discard(&conn);
    pool_destroy(pool);
}

struct race {
    struct pool_conn conn;
    atomic_uint detached, released, discarded, returned;
    int fd;
};

static void take_one_way(unsigned index, void *argument)
{
    struct race *race = argument;
    struct pool_conn conn = race->conn;
    int fd = -1;

    if (index == 0 && pool_detach(&conn) == POOL_OK)
        atomic_fetch_add(&race->detached, 1);
    if (index == 1 && pool_discard(&conn) == POOL_OK)
        atomic_fetch_add(&race->discarded, 1);
    if (index == 2 && pool_return(&conn) == POOL_OK)
        atomic_fetch_add(&race->returned, 1);
    if (index == 3 && pool_release_fd(&conn, &fd) == POOL_OK) {
        atomic_fetch_add(&race->released, 1);
        close(fd);
    }
}

Test(detach, of_several_who_end_one_loan_one_does)
{
    struct pool *pool = MAKE_POOL();

    for (int i = 0; i < 200; i++) {
        struct race race = { .fd = -1 };
        unsigned ends;

        cr_assert(borrow(pool, peer_address(peer), &race.conn));
        cr_assert(run_threads(4, take_one_way, &race));
        ends = race.discarded + race.returned + race.released;
        cr_expect_leq(ends, 1, "round %d", i);
        if (!ends) /* each of them met another's pin, or only detached it */
            cr_expect_eq(pool_discard(&race.conn), POOL_OK, "round %d", i);
    }
    cr_expect(WAIT_STAT(pool, lent, 0));
    pool_destroy(pool);
    cr_expect(peer_wait_open(peer, 0, VERBS_SOON));
}

/* ---- mistakes */

Test(detach, mistakes_are_told)
{
    struct pool *pool = MAKE_POOL();
    struct pool_conn conn, stale;
    int fd = -5;

    cr_expect_eq(pool_detach(NULL), POOL_E_ARGUMENT);
    cr_expect_eq(pool_detach(&(struct pool_conn){ 0 }), POOL_E_ARGUMENT);
    cr_expect_eq(pool_release_fd(NULL, &fd), POOL_E_ARGUMENT);
    cr_assert(borrow(pool, peer_address(peer), &conn));
    stale = conn;
    cr_expect_eq(pool_release_fd(&conn, NULL), POOL_E_ARGUMENT);
    pool_return(&conn);
    cr_expect_eq(pool_detach(&stale), POOL_E_ARGUMENT);
    cr_expect_eq(pool_release_fd(&stale, &fd), POOL_E_ARGUMENT);
    cr_expect_eq(fd, -5);
    cr_expect_eq(STAT(pool, idle), 1);
    pool_destroy(pool);
}
