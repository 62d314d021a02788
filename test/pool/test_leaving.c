/* test_leaving.c: who is told, and what ends, when a connection leaves the pool open: actors,
 * watchers, observers, the program's data. What stays is in test_detach.c. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "support/child.h"
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

TestSuite(leaving, .init = begin, .fini = end, .timeout = 60);

static atomic_uint gone, hook_calls;
static enum pool_status in_hook[2];

static int hear(struct pool_conn *conn, struct pool_bytes bytes, void *user)
{
    (void)conn, (void)bytes, (void)user;
    return 0;
}

static void count_gone(uint64_t id, const struct pool_error *error, void *user)
{
    (void)id, (void)user;
    atomic_fetch_add(&gone, error ? 100 : 1);
}

static int attach(struct pool_conn *conn, struct pool_actor *actor, void *user)
{
    int fd = -1;

    (void)user;
    in_hook[0] = pool_detach(conn);
    in_hook[1] = pool_release_fd(conn, &fd);
    atomic_fetch_add(&hook_calls, 1);
    actor->on_message = hear;
    actor->on_close = count_gone;
    return 0;
}

static bool is_gone(void *argument)
{
    (void)argument;
    return atomic_load(&gone) == 1;
}

Test(leaving, an_actor_is_told_that_the_connection_is_gone)
{
    struct pool *pool = MAKE_POOL(.on_new_connection = attach);
    struct pool_conn conn;

    cr_assert(borrow(pool, peer_address(peer), &conn));
    cr_expect_eq(in_hook[0], POOL_E_ARGUMENT, "nothing is lent in the hook");
    cr_expect_eq(in_hook[1], POOL_E_ARGUMENT);
    cr_assert_eq(pool_detach(&conn), POOL_OK);
    cr_expect(wait_until(is_gone, NULL, VERBS_SOON));
    cr_assert_gt(peer_push(peer, 0, "news", 4), 0);
    cr_expect_eq(pool_recv_exact(&conn, (char[4]){ 0 }, 4), POOL_OK, "it is the holder's now");
    pool_discard(&conn);
    pool_destroy(pool);
    cr_expect_eq(gone, 1);
}

/* ---- by events */

struct watched {
    struct pool_conn conn;
    atomic_uint events;
    enum pool_status watch, busy, detach, watch_after, write_after, timeout_after, recv_after;
    atomic_bool is_done;
};

static void on_event(struct pool_conn *conn, enum pool_event event, struct pool_bytes bytes,
                     void *user)
{
    struct watched *watched = user;

    (void)conn, (void)event, (void)bytes;
    atomic_fetch_add(&watched->events, 1);
}

static void watch_and_detach(struct pool_conn *conn, const struct pool_error *error, void *user)
{
    static char plenty[8 << 20];
    struct watched *watched = user;
    char byte;

    cr_assert_null(error);
    watched->conn = *conn;
    watched->watch = pool_conn_watch(conn, on_event, user);
    if (watched->busy == POOL_E_SYSTEM) {
        cr_expect_eq(pool_write(conn, plenty, sizeof(plenty)), POOL_OK);
        watched->busy = pool_detach(conn);
        pool_discard(conn);
    } else {
        watched->detach = pool_detach(conn);
        watched->watch_after = pool_conn_watch(conn, on_event, user);
        watched->write_after = pool_write(conn, "x", 1);
        watched->timeout_after = pool_conn_timeout(conn, POOL_READ, 100);
        watched->recv_after = pool_recv_exact(conn, &byte, 1);
    }
    atomic_store(&watched->is_done, true);
}

static bool is_over(void *argument)
{
    struct watched *watched = argument;

    return atomic_load(&watched->is_done);
}

Test(leaving, watching_ends_with_the_loan)
{
    struct pool *pool = MAKE_POOL();
    struct watched watched = { .detach = POOL_E_SYSTEM };

    cr_assert_eq(pool_communicate_async(pool, peer_address(peer), watch_and_detach, &watched, NULL,
                                        NULL),
                 POOL_OK);
    cr_assert(wait_until(is_over, &watched, VERBS_SOON));
    cr_expect_eq(watched.watch, POOL_OK);
    cr_expect_eq(watched.detach, POOL_OK);
    cr_expect_eq(watched.watch_after, POOL_E_ARGUMENT);
    cr_expect_eq(watched.write_after, POOL_E_ARGUMENT);
    cr_expect_eq(watched.timeout_after, POOL_E_ARGUMENT);
    cr_expect_eq(watched.recv_after, POOL_E_WOULD_BLOCK, "a batch is not held up");
    cr_expect_eq(echo(&watched.conn, "elsewhere it works"), 0);
    pool_destroy(pool);
    cr_expect_eq(watched.events, 0, "whoever ended it is not told");
    cr_expect_eq(echo(&watched.conn, "and goes on to work"), 0);
    cr_expect_eq(pool_return(&watched.conn), POOL_OK);
}

Test(leaving, what_was_queued_and_did_not_leave_keeps_it)
{
    struct peer *deaf = PEER(.behave = PEER_DEAF);
    struct pool *pool = MAKE_POOL(.write_high = 16 << 20);
    struct watched watched = { .busy = POOL_E_SYSTEM };

    cr_assert_eq(pool_communicate_async(pool, peer_address(deaf), watch_and_detach, &watched, NULL,
                                        NULL),
                 POOL_OK);
    cr_assert(wait_until(is_over, &watched, VERBS_SOON));
    cr_expect_eq(watched.busy, POOL_E_ARGUMENT);
    cr_expect_eq(STAT(pool, closed[POOL_CLOSE_DETACHED]), 0);
    pool_destroy(pool);
    peer_stop(deaf);
}

static atomic_uint freed;

static void count_free(void *user)
{
    (void)user;
    atomic_fetch_add(&freed, 1);
}

Test(leaving, data_attached_to_it_is_freed_when_it_closes)
{
    struct pool *pool = MAKE_POOL();
    struct pool_conn conn;
    int mine;

    cr_assert(borrow(pool, peer_address(peer), &conn));
    pool_conn_set_user(&conn, &mine, count_free);
    cr_assert_eq(pool_detach(&conn), POOL_OK);
    pool_destroy(pool);
    cr_expect_eq(pool_conn_user(&conn), &mine);
    cr_expect_eq(freed, 0);
    pool_discard(&conn);
    cr_expect_eq(freed, 1);
}

static char told[256];

static void note(const struct pool_event_info *event, void *user)
{
    (void)user;
    if (event->kind == POOL_EVENT_RETURNED)
        strcat(told, "returned ");
    if (event->kind == POOL_EVENT_CONNECTION_CLOSED && event->reason == POOL_CLOSE_DETACHED)
        strcat(told, "detached ");
}

Test(leaving, observers_see_it_go_once)
{
    struct pool *pool = MAKE_POOL(.on_event = note);
    struct pool_conn conn;
    int fd;

    cr_assert(borrow(pool, peer_address(peer), &conn));
    cr_assert_eq(pool_detach(&conn), POOL_OK);
    cr_expect_str_eq(told, "returned detached ");
    pool_discard(&conn);
    cr_expect_str_eq(told, "returned detached ");
    cr_assert(borrow(pool, peer_address(peer), &conn));
    cr_assert_eq(pool_release_fd(&conn, &fd), POOL_OK);
    cr_expect_str_eq(told, "returned detached returned detached ");
    close(fd);
    pool_destroy(pool);
}

/* ---- in a child */

static int use_what_is_the_parents(void *argument)
{
    struct pool_conn conn = *(struct pool_conn *)argument, again;
    int before = count_descriptors(), fd = -5;
    struct pool *pool;
    char text[64];
    size_t sent;

    child_watch_door();
    CHILD_NEEDS(pool_send(&conn, "x", 1) == POOL_E_FORKED);
    CHILD_NEEDS(pool_try_send(&conn, "x", 1, &sent) == POOL_E_FORKED);
    CHILD_NEEDS(pool_conn_local(&conn, text, sizeof(text)) == POOL_E_FORKED);
    CHILD_NEEDS(pool_conn_deadline(&conn, 1) == POOL_E_FORKED);
    CHILD_NEEDS(pool_detach(&conn) == POOL_E_FORKED);
    CHILD_NEEDS(pool_release_fd(&conn, &fd) == POOL_E_FORKED && fd == -5);
    CHILD_NEEDS(pool_discard(&conn) == POOL_E_FORKED);
    CHILD_NEEDS(count_descriptors() == before - 1);
    CHILD_NEEDS(child_door_calls() == 0);
    CHILD_NEEDS(pool_create(NULL, &pool) == POOL_OK);
    CHILD_NEEDS(borrow(pool, peer_address(peer), &again));
    CHILD_NEEDS(pool_detach(&again) == POOL_OK);
    pool_destroy(pool);
    CHILD_NEEDS(echo(&again, "the child's own") == 0);
    CHILD_NEEDS(pool_discard(&again) == POOL_OK);
    return 0;
}

Test(leaving, a_detached_connection_of_the_parent_is_the_parents_in_a_child)
{
    struct pool *pool = MAKE_POOL();
    struct peer *inside = peer;
    struct pool_conn conn;

    peer = PEER(.own_process = true);
    cr_assert(borrow(pool, peer_address(peer), &conn));
    cr_assert_eq(pool_detach(&conn), POOL_OK);
    cr_expect_eq(child_run(use_what_is_the_parents, &conn), 0);
    cr_expect_eq(echo(&conn, "unharmed"), 0);
    cr_expect_eq(pool_discard(&conn), POOL_OK);
    pool_destroy(pool);
    peer_stop(peer);
    peer = inside;
}
