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

struct talker {
    struct pool_target *target;
    enum pool_status status;
    pthread_t thread;
};

static void *communicate(void *argument)
{
    struct talker *talker = argument;

    talker->status = pool_communicate(
        pool, peer_address(peer), use_a_breaking_one, NULL,
        POOL_CALL(.timeout_ms = VERBS_SOON, .target = talker->target));
    return NULL;
}

static void expect_it_runs_again(struct pool_target *target)
{
    struct talker talker = { .target = target };

    cr_assert_eq(pthread_create(&talker.thread, NULL, communicate, &talker), 0);
    close_gently();
    cr_assert_eq(pool_return(&conn), POOL_OK);
    pthread_join(talker.thread, NULL);
    cr_expect_eq(talker.status, POOL_OK, "%s", pool_status_name(talker.status));
    cr_expect_eq(atomic_load(&runs), 2);
    cr_expect_eq(atomic_load(&closed_inside), 0, "it is in use");
    cr_expect(wait_until(was_closed, NULL, VERBS_SOON));
}

Test(close_waits, for_a_use_that_is_run_again)
{
    expect_it_runs_again(NULL);
}

Test(close_waits, for_a_use_that_is_run_again_by_target)
{
    struct pool_target *target;

    cr_assert_eq(pool_target_get(pool, peer_address(peer), &target), POOL_OK);
    expect_it_runs_again(target);
    pool_target_free(target);
}

static atomic_uint failures;

static enum pool_decision try_again(const struct pool_error *error, void *user)
{
    (void)error, (void)user;
    atomic_fetch_add(&failures, 1);
    return POOL_CONTINUE;
}

static int fail_to_use(struct pool_conn *used, void *user)
{
    char byte;

    (void)user;
    peer_close_all(peer);
    return pool_send(used, "x", 1) || pool_recv_exact(used, &byte, 1);
}

static void *communicate_with_pauses(void *argument)
{
    struct talker *talker = argument;

    talker->status =
        pool_communicate(pool, peer_address(peer), fail_to_use, NULL,
                         POOL_CALL(.timeout_ms = VERBS_SOON, .flags = POOL_SAFE_TO_REPEAT,
                                   .on_error = try_again));
    return NULL;
}

/* One that was reused is replaced at once; the pause behind that is thrown, and may be short. */
static bool is_pausing(void *unused)
{
    (void)unused;
    return atomic_load(&failures) >= 2;
}

Test(close_waits, for_no_pause_of_one_that_it_forces)
{
    struct talker talker = { .target = NULL };
    uint64_t start_ms;

    pool_return(&conn);
    pool_destroy(pool);
    pool = MAKE_POOL(.max_per_address = 1, .backoff_first_ms = VERBS_SOON / 2,
                     .backoff_max_ms = VERBS_SOON / 2);
    cr_assert(borrow(pool, peer_address(peer), &conn));
    cr_assert_eq(pthread_create(&talker.thread, NULL, communicate_with_pauses, &talker), 0);
    cr_assert(WAIT_STAT(pool, waiting, 1));
    cr_assert_eq(pool_return(&conn), POOL_OK);
    cr_assert(wait_until(is_pausing, NULL, VERBS_SOON));
    start_ms = now_ms();
    cr_assert_eq(pool_close(pool, POOL_ZERO, on_closed, NULL), POOL_OK);
    pthread_join(talker.thread, NULL);
    cr_expect_neq(talker.status, POOL_OK);
    cr_expect(wait_until(was_closed, NULL, VERBS_SOON));
    cr_expect_lt(elapsed_ms(start_ms), VERBS_SOON / 8);
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
