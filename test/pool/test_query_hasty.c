/* test_query_hasty.c: queries that wait for no connection that others have (POOL_DONT_WAIT). */
#include <criterion/criterion.h>
#include <stdatomic.h>

#include "pool/query_scene.h"

#define KEYED .codec = pool_codec_length()

static struct query_peer *other;

static void begin(void)
{
    QUERY_SCENE();
    other = QUERY_PEER();
}

static void end(void)
{
    query_scene_end();
    query_peer_stop(other);
}

TestSuite(query_hasty, .init = begin, .fini = end, .timeout = 60);

static void expect_refused(void)
{
    struct query asked = { 0 }, started = { 0 };
    uint64_t start_ms = now_ms();

    ask_and_wait(&asked, pool, address, "x",
                 POOL_CALL(.flags = POOL_DONT_WAIT, .timeout_ms = 5000));
    cr_expect(has_failed_with(&asked, POOL_E_FULL));
    if (!start_query(&started, pool, address, "x",
                     POOL_CALL(.flags = POOL_DONT_WAIT, .timeout_ms = 5000))) {
        cr_assert(wait_answered(&started));
        cr_expect(has_failed_with(&started, POOL_E_FULL));
    }
    cr_expect_lt(elapsed_ms(start_ms), 5000);
}

Test(query_hasty, wait_for_no_connection_that_is_lent)
{
    struct query patient = { 0 }, hasty = { 0 };
    struct pool_conn conn;

    pool = MAKE_POOL(KEYED, .max_per_address = 1);
    cr_assert(borrow(pool, address, &conn));
    expect_refused();
    cr_assert_eq(start_query(&patient, pool, address, "patient", NULL), POOL_OK);
    expect_refused();
    pool_return(&conn);
    cr_assert(wait_answered(&patient));
    cr_expect(is_answered_with(&patient, "patient"));
    ask_and_wait(&hasty, pool, address, "hasty",
                 POOL_CALL(.flags = POOL_DONT_WAIT, .timeout_ms = VERBS_SOON));
    cr_expect(is_answered_with(&hasty, "hasty"));
}

Test(query_hasty, take_what_is_idle_or_may_be_opened)
{
    struct query queries[2] = { { 0 } };
    struct pool_conn conns[2];

    pool = MAKE_POOL(KEYED, .max_per_address = 2, .max_inflight = 1);
    for (unsigned i = 0; i < 2; i++)
        cr_assert(borrow(pool, address, &conns[i]));
    for (unsigned i = 0; i < 2; i++)
        cr_assert_eq(i ? pool_discard(&conns[i]) : pool_return(&conns[i]), POOL_OK);
    for (unsigned i = 0; i < 2; i++)
        cr_assert_eq(start_query(&queries[i], pool, address, "Hold",
                                 POOL_CALL(.flags = POOL_DONT_WAIT, .timeout_ms = VERBS_SOON)),
                     POOL_OK);
    cr_expect(query_peer_wait_requests(peer, 2));
    cr_expect_eq(query_peer_accepted(peer), 3);
    query_peer_release(peer);
    cr_expect(wait_answered(&queries[0]) && wait_answered(&queries[1]));
}

static struct gate {
    atomic_bool is_reached, is_open;
} gate;

static bool is_reached(void *unused)
{
    (void)unused;
    return atomic_load(&gate.is_reached);
}

static bool is_open(void *unused)
{
    (void)unused;
    return atomic_load(&gate.is_open);
}

static int stop_at_gate(struct pool_conn *conn, void *user)
{
    (void)conn;
    (void)user;
    atomic_store(&gate.is_reached, true);
    return wait_until(is_open, NULL, VERBS_SOON) ? 0 : -1;
}

/* It was lent to be shared, and nobody may use it yet. */
Test(query_hasty, wait_for_what_is_prepared_to_be_shared)
{
    struct query first = { 0 }, hasty[3] = { { 0 } }, refused = { 0 };

    pool = MAKE_POOL(KEYED, .max_per_address = 1, .max_inflight = 4, .prepare = stop_at_gate);
    cr_assert_eq(start_query(&first, pool, address, "first", NULL), POOL_OK);
    cr_assert(wait_until(is_reached, NULL, VERBS_SOON));
    for (unsigned i = 0; i < 3; i++)
        cr_assert_eq(start_query(&hasty[i], pool, address, "hasty",
                                 POOL_CALL(.flags = POOL_DONT_WAIT, .timeout_ms = VERBS_SOON)),
                     POOL_OK);
    cr_expect_eq(start_query(&refused, pool, address, "fifth",
                             POOL_CALL(.flags = POOL_DONT_WAIT, .timeout_ms = VERBS_SOON)),
                 POOL_E_FULL);
    atomic_store(&gate.is_open, true);
    cr_assert(wait_answered(&first));
    for (unsigned i = 0; i < 3; i++)
        cr_expect(wait_answered(&hasty[i]) && is_answered_with(&hasty[i], "hasty"));
    cr_expect_eq(query_peer_accepted(peer), 1);
}

/* The pool may have one connection, and another peer's is lent. */
Test(query_hasty, wait_for_no_room_in_the_pool_and_harm_nobody_who_does)
{
    struct query patient = { 0 };
    struct pool_conn conn;

    pool = MAKE_POOL(KEYED, .max_connections = 1);
    cr_assert(borrow(pool, query_peer_address(other), &conn));
    expect_refused();
    cr_assert_eq(start_query(&patient, pool, address, "patient", NULL), POOL_OK);
    expect_refused();
    cr_expect_eq(patient.told, 0);
    pool_return(&conn);
    cr_assert(wait_answered(&patient));
    cr_expect(is_answered_with(&patient, "patient"));
}
