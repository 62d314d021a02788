/* test_close_waits.c: a pool that closes is not empty while a call that waited is not over, though
 * no connection is left: what the call was handed may be no good, or break under it. */
#include <criterion/criterion.h>

#include "support/asks.h"
#include "support/peer.h"

static struct peer *peer;
static struct pool *pool;
static struct pool_conn conn;
static atomic_uint closed;

static void on_closed(void *user)
{
    (void)user;
    atomic_fetch_add(&closed, 1);
}

static bool was_closed(void *unused)
{
    (void)unused;
    return atomic_load(&closed);
}

/* The only connection is the test's. */
static void begin(void)
{
    atomic_store(&closed, 0);
    peer = PEER(.own_process = true);
    pool = MAKE_POOL(.max_per_address = 1, .barge_ms = POOL_ZERO);
    cr_assert(borrow(pool, peer_address(peer), &conn));
}

static void end(void)
{
    pool_destroy(pool);
    peer_stop(peer);
}

TestSuite(close_waits, .init = begin, .fini = end, .timeout = 60);

static void close_gently(void)
{
    cr_assert(WAIT_STAT(pool, waiting, 1));
    cr_assert_eq(pool_close(pool, POOL_NONE, on_closed, NULL), POOL_OK);
}

/* What goes to whoever waits is dead. */
static void return_a_dead_one(void)
{
    cr_assert_eq(peer_close(peer, 0), 1);
    cr_assert_eq(listen_to(pool_conn_fd(&conn), VERBS_SOON), HEARD_END);
    cr_assert_eq(pool_return(&conn), POOL_OK);
}

Test(close_waits, for_a_thread_that_was_handed_a_dead_connection)
{
    struct caller caller;

    cr_assert(queue_caller(&caller, pool, peer_address(peer), VERBS_SOON));
    close_gently();
    return_a_dead_one();
    cr_expect_eq(join_caller(&caller), POOL_OK);
    cr_expect_eq(pool_conn_id(&caller.conn), 2);
    cr_expect_eq(atomic_load(&closed), 0, "it has a connection");
    cr_expect_eq(pool_return(&caller.conn), POOL_OK);
    cr_expect(wait_until(was_closed, NULL, VERBS_SOON));
}

Test(close_waits, for_an_asynchronous_call_that_was_handed_a_dead_connection)
{
    struct ask ask = { .is_kept = true };

    cr_assert_eq(start_ask(&ask, pool, peer_address(peer), NULL), POOL_OK);
    close_gently();
    return_a_dead_one();
    cr_assert(wait_told(&ask));
    cr_assert_eq(ask.status, POOL_OK);
    cr_expect_eq(atomic_load(&closed), 0, "it has a connection");
    cr_expect_eq(pool_return(&ask.conn), POOL_OK);
    cr_expect(wait_until(was_closed, NULL, VERBS_SOON));
}

static atomic_uint runs, closed_inside;

/* The first time the peer ends the connection before anything was sent. */
static int use_a_breaking_one(struct pool_conn *used, void *user)
{
    char byte;

    (void)user;
    if (atomic_fetch_add(&runs, 1) == 0) {
        peer_close(peer, 0);
        return pool_recv_exact(used, &byte, 1);
    }
    atomic_store(&closed_inside, atomic_load(&closed));
    return echo(used, "again");
}

static void *communicate(void *status)
{
    *(enum pool_status *)status = pool_communicate(
        pool, peer_address(peer), use_a_breaking_one, NULL, POOL_CALL(.timeout_ms = VERBS_SOON));
    return NULL;
}

Test(close_waits, for_a_use_that_is_run_again)
{
    enum pool_status status = POOL_OK;
    pthread_t thread;

    cr_assert_eq(pthread_create(&thread, NULL, communicate, &status), 0);
    close_gently();
    cr_assert_eq(pool_return(&conn), POOL_OK);
    pthread_join(thread, NULL);
    cr_expect_eq(status, POOL_OK, "%s", pool_status_name(status));
    cr_expect_eq(atomic_load(&runs), 2);
    cr_expect_eq(atomic_load(&closed_inside), 0, "it is in use");
    cr_expect(wait_until(was_closed, NULL, VERBS_SOON));
}

Test(close_waits, for_nobody_who_gave_up)
{
    struct caller caller;

    cr_assert(queue_caller(&caller, pool, peer_address(peer), 50));
    close_gently();
    cr_expect_eq(join_caller(&caller), POOL_E_TIMEOUT);
    cr_expect_eq(atomic_load(&closed), 0);
    cr_expect_eq(pool_return(&conn), POOL_OK);
    cr_expect(wait_until(was_closed, NULL, VERBS_SOON));
}
