/* test_query_orders.c: what the program orders about connections, while queries share them.
 * Clearing, killing and closing with patience are in test_query_ends.c. */
#include <criterion/criterion.h>
#include <errno.h>
#include <unistd.h>

#include "pool/query_scene.h"

#define KEYED .codec = pool_codec_length(), .park_ms = 60000

TestSuite(query_orders, .init = query_scene_plain, .fini = query_scene_end, .timeout = 60);

static void expect_next(void)
{
    struct query next = { 0 };

    ask_and_wait(&next, pool, address, "next", NULL);
    cr_expect(is_answered_with(&next, "next"));
}

/* The connection that queries get next; answers its descriptor, and its id. */
static int make_idle(uint64_t *id)
{
    struct pool_conn conn;
    int fd;

    cr_assert(borrow(pool, address, &conn));
    fd = pool_conn_fd(&conn);
    *id = pool_conn_id(&conn);
    cr_assert_eq(pool_return(&conn), POOL_OK);
    return fd;
}

static void start_ten(struct query *queries)
{
    for (unsigned i = 0; i < 10; i++)
        cr_assert_eq(start_query(&queries[i], pool, address, "Never",
                                 POOL_CALL(.timeout_ms = POOL_NONE)),
                     POOL_OK);
    cr_assert(query_peer_wait_requests(peer, 10));
}

static void expect_ten(struct query *queries, enum pool_status status, int cause)
{
    for (unsigned i = 0; i < 10; i++) {
        cr_assert(wait_answered(&queries[i]));
        cr_expect(has_failed_with(&queries[i], status));
        cr_expect_eq(queries[i].error.outcome, POOL_MAYBE_SENT);
        cr_expect_eq(queries[i].error.cause, cause, "%s", queries[i].error.text);
        cr_expect_eq(queries[i].error.phase, POOL_PHASE_REPLY, "%s", queries[i].error.text);
    }
}

Test(query_orders, what_is_marked_as_dead_fails_what_it_carries_at_once)
{
    struct query queries[10] = { { 0 } };
    uint64_t id;
    int fd;

    pool = MAKE_POOL(KEYED);
    fd = make_idle(&id);
    start_ten(queries);
    cr_expect_eq(pool_mark_as_dead(pool, fd), 1);
    expect_ten(queries, POOL_E_BROKEN, EBADF);
    expect_next();
    cr_expect_eq(query_peer_accepted(peer), 2);
    close(fd); /* the pool has forgotten it */
}

Test(query_orders, what_was_sent_when_its_time_is_ended_timed_out_in_transfer)
{
    struct query queries[10] = { { 0 } };
    struct asker asker = { .query = { 0 } };
    uint64_t id;

    pool = MAKE_POOL(KEYED);
    make_idle(&id);
    start_ten(queries);
    cr_assert(start_asker(&asker, pool, address, "Never", NULL));
    cr_assert(query_peer_wait_requests(peer, 11));
    cr_expect(pool_force_timeout(pool, id));
    expect_ten(queries, POOL_E_TIMEOUT_IN_TRANSFER, ETIMEDOUT);
    cr_expect_eq(join_asker(&asker), POOL_E_TIMEOUT_IN_TRANSFER);
    expect_next();
    cr_expect_eq(query_peer_accepted(peer), 2);
}

static void expect_told_so(bool is_killed, enum pool_status status, int cause)
{
    struct query queries[10] = { { 0 } };
    struct asker asker = { .query = { 0 } };
    uint64_t id;

    QUERY_SCENE();
    pool = MAKE_POOL(KEYED);
    make_idle(&id);
    start_ten(queries);
    cr_assert(start_asker(&asker, pool, address, "Never", NULL));
    cr_assert(query_peer_wait_requests(peer, 11));
    if (is_killed)
        cr_expect(pool_kill(pool, id));
    else
        cr_expect_eq(pool_clear(pool, address, POOL_INTERRUPT), POOL_OK);
    expect_ten(queries, status, cause);
    cr_expect_eq(join_asker(&asker), status);
    cr_expect_eq(asker.query.error.cause, cause, "%s", asker.query.error.text);
    cr_expect_eq(asker.query.error.phase, POOL_PHASE_REPLY);
}

Test(query_orders, what_is_ended_is_told_so_and_not_that_its_descriptor_was_bad)
{
    expect_told_so(true, POOL_E_BROKEN, ESHUTDOWN);
    expect_told_so(false, POOL_E_CLEARED, 0);
}

/* ---- those who wait for a line */

static void expect_cleared(struct query *query)
{
    cr_assert(wait_answered(query));
    cr_expect(has_failed_with(query, POOL_E_CLEARED), "%s", query->error.text);
    cr_expect_eq(query->error.phase, POOL_PHASE_WAIT);
    cr_expect_eq(query->error.outcome, POOL_NOT_SENT);
}

static enum pool_status clear_all(struct pool *cleared)
{
    return pool_clear(cleared, NULL, 0);
}

static enum pool_status clear_and_pause(struct pool *cleared)
{
    return pool_clear(cleared, address, POOL_THEN_PAUSE);
}

/* One line, which has room for one query: the others stand in the queue. */
static void expect_queued_cleared(enum pool_status (*order)(struct pool *pool))
{
    struct query held = { 0 }, queued = { 0 }, in_turn = { 0 };
    struct asker asker = { .query = { 0 } };

    QUERY_SCENE();
    pool = MAKE_POOL(KEYED, .max_inflight = 1, .max_per_address = 1);
    cr_assert_eq(start_query(&held, pool, address, "Hold", NULL), POOL_OK);
    cr_assert(query_peer_wait_requests(peer, 1));
    cr_assert_eq(start_query(&queued, pool, address, "x",
                             POOL_CALL(.timeout_ms = POOL_NONE, .flags = POOL_WAIT_FOR_PEER)),
                 POOL_OK);
    cr_assert_eq(start_query(&in_turn, pool, address, "x",
                             POOL_CALL(.timeout_ms = POOL_NONE, .flags = POOL_ORDERED)),
                 POOL_OK);
    cr_assert(start_asker(&asker, pool, address, "x", POOL_CALL(.timeout_ms = 2 * VERBS_SOON)));
    cr_assert(WAIT_STAT(pool, waiting, 3));
    cr_expect_eq(order(pool), POOL_OK);
    expect_cleared(&queued);
    expect_cleared(&in_turn);
    cr_expect_eq(join_asker(&asker), POOL_E_CLEARED);
    cr_expect_lt(asker.took_ms, VERBS_SOON);
    cr_expect_eq(held.told, 0);
    query_peer_release(peer);
    cr_assert(wait_answered(&held));
    cr_expect(is_answered_with(&held, "Hold"));
    cr_expect_eq(pool_ready(pool), POOL_OK);
    expect_next();
}

Test(query_orders, who_waits_for_a_line_is_told_of_a_pause_and_of_a_clear)
{
    expect_queued_cleared(pool_pause);
    expect_queued_cleared(clear_all);
    expect_queued_cleared(clear_and_pause);
}

static void note_closed(void *user)
{
    atomic_store((atomic_bool *)user, true);
}

static bool is_set(void *argument)
{
    return atomic_load((atomic_bool *)argument);
}

Test(query_orders, close_without_patience_waits_for_no_line_that_carries_nothing)
{
    atomic_bool is_closed = false;

    pool = MAKE_POOL(KEYED);
    for (unsigned i = 0; i < 10; i++)
        expect_next();
    cr_assert_eq(pool_close(pool, POOL_ZERO, note_closed, &is_closed), POOL_OK);
    cr_expect(wait_until(is_set, &is_closed, VERBS_SOON));
}

Test(query_orders, a_line_takes_no_more_queries_when_it_is_too_old)
{
    uint64_t start_ms = now_ms();

    pool = MAKE_POOL(KEYED, .max_age_ms = 50);
    while (query_peer_accepted(peer) < 2 && elapsed_ms(start_ms) < 5000)
        expect_next();
    cr_expect_geq(query_peer_accepted(peer), 2);
}

static atomic_bool is_kept;
static struct pool_conn kept;

static int keep(struct pool_conn *conn, struct pool_bytes push, void *user)
{
    (void)push, (void)user;
    kept = *conn;
    atomic_store(&is_kept, true);
    return 0;
}

static int hear(struct pool_conn *conn, struct pool_actor *actor, void *user)
{
    (void)conn, (void)user;
    actor->on_message = keep;
    return 0;
}

Test(query_orders, a_line_that_is_drained_takes_no_more_queries)
{
    struct query held = { 0 }, pushed = { 0 };

    pool = MAKE_POOL(KEYED, .on_new_connection = hear);
    cr_assert_eq(start_query(&held, pool, address, "Hold", NULL), POOL_OK);
    cr_assert_eq(start_query(&pushed, pool, address, "Spush", NULL), POOL_OK);
    cr_assert(wait_answered(&pushed));
    cr_assert(wait_until(is_set, &is_kept, VERBS_SOON));
    pool_conn_drain(&kept);
    expect_next();
    cr_expect_eq(query_peer_accepted(peer), 2);
    query_peer_release(peer);
    cr_assert(wait_answered(&held));
    cr_expect(is_answered_with(&held, "Hold"));
}
