/* test_query_failed.c: a connection for queries cannot be had: whom that concerns. */
#include <criterion/criterion.h>

#include "pool/query_scene.h"

#define KEYED .codec = pool_codec_length()

TestSuite(query_failed, .init = query_scene_plain, .fini = query_scene_end, .timeout = 60);

static bool has_failed(void *unused)
{
    (void)unused;
    return STAT(pool, borrow_failed) > 0;
}

static atomic_uint started;

static void count_started(const struct pool_event_info *event, void *user)
{
    (void)user;
    atomic_fetch_add(&started, event->kind == POOL_EVENT_BORROW_STARTED);
}

static bool has_a_third_started(void *unused)
{
    (void)unused;
    return atomic_load(&started) == 3;
}

/* Two queries, each with a connection to be opened for it; too many wait for the second one. */
Test(query_failed, to_open_one_connection_fails_nobody_while_another_is_being_opened)
{
    struct query first = { 0 }, second = { 0 };
    struct caller caller = { .pool = NULL };
    struct pool_conn conns[2];

    pool = MAKE_POOL(KEYED, .max_per_address = 2, .max_inflight = 1, .max_waiters = 2,
                     .on_event = count_started);
    for (unsigned i = 0; i < 2; i++)
        cr_assert(borrow(pool, address, &conns[i]));
    cr_assert_eq(start_query(&first, pool, address, "first", NULL), POOL_OK);
    cr_assert(wait_until(has_a_third_started, NULL, VERBS_SOON), "for the first query");
    cr_assert(queue_caller(&caller, pool, address, VERBS_SOON));
    cr_assert_eq(start_query(&second, pool, address, "second", NULL), POOL_OK);
    cr_assert(wait_until(has_failed, NULL, VERBS_SOON));
    pool_return(&conns[0]);
    cr_assert(wait_answered(&first) && wait_answered(&second));
    cr_expect(is_answered_with(&first, "first"));
    cr_expect(is_answered_with(&second, "second"));
    pool_return(&conns[1]);
    cr_expect_eq(join_caller(&caller), POOL_OK);
    pool_return(&caller.conn);
}

static struct query stranger, nested;

static int ask_inside(struct pool_conn *conn, void *user)
{
    (void)conn, (void)user;
    cr_assert_eq(start_query(&stranger, pool, address, "stranger", NULL), POOL_OK);
    ask_and_wait(&nested, pool, address, "nested", NULL);
    return 0;
}

static void borrow_and_ask(unsigned index, void *user)
{
    (void)index, (void)user;
    cr_expect_eq(pool_communicate(pool, address, ask_inside, NULL, NULL), POOL_OK);
}

/* Nobody turns the mux meanwhile, so that no other line is being opened. */
Test(query_failed, who_holds_all_connections_himself_is_told_alone)
{
    struct pool_mux *mux;

    cr_assert_eq(pool_mux_create(&mux), POOL_OK);
    pool = MAKE_POOL(KEYED, .max_per_address = 1, .mux = mux);
    stranger = nested = (struct query){ 0 };
    cr_assert_eq(start_query(&stranger, pool, address, "warm", NULL), POOL_OK);
    cr_assert(dispatch_until_answered(mux, &stranger));
    stranger = (struct query){ 0 };
    cr_assert(run_threads(1, borrow_and_ask, NULL));
    cr_expect(has_failed_with(&nested, POOL_E_FULL));
    cr_assert(dispatch_until_answered(mux, &stranger));
    cr_expect(is_answered_with(&stranger, "stranger"));
    pool_destroy(pool);
    pool = NULL;
    pool_mux_destroy(mux);
}
