/* test_nested.c: calls inside `use`: another connection, and an answer at once where the thread
 * could only wait for itself. */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "support/peer.h"
#include "support/tests.h"
#include "support/verbs.h"

static struct peer *peer;
static struct pool *pool;
static struct pool_error error;

static void begin(void)
{
    peer = PEER(.every_loopback = true);
    error = (struct pool_error)POOL_ERROR_INIT;
}

static void end(void)
{
    pool_destroy(pool);
    peer_stop(peer);
}

TestSuite(pool_nested, .init = begin, .fini = end);

/* A nest of calls, each inside the `use` of the one before. */
struct nest {
    unsigned depth, count;
    const char *addresses[8];
    enum pool_status status;            /* of the one that failed */
    uint64_t took_us, ids[8];
    struct pool_call call;
};

static int use_deeper(struct pool_conn *conn, void *user)
{
    struct nest *nest = user;
    enum pool_status status;
    uint64_t start_us;

    nest->ids[nest->depth++] = pool_conn_id(conn);
    if (nest->depth < nest->count) {
        start_us = now_us();
        status = pool_communicate(pool, nest->addresses[nest->depth], use_deeper, nest,
                                  &nest->call);
        if (status) {
            nest->status = status;
            nest->took_us = now_us() - start_us;
        }
    }
    return echo(conn, "still mine");
}

static enum pool_status run_nest(struct nest *nest)
{
    nest->call.size = sizeof(nest->call);
    nest->call.timeout_ms = 2000;
    nest->call.error = &error;
    return pool_communicate(pool, nest->addresses[0], use_deeper, nest, NULL);
}

static void expect_full(const struct nest *nest)
{
    cr_expect_eq(nest->status, POOL_E_FULL, "%s", error.text);
    cr_expect_leq(nest->took_us, 1000 * slowness(), "%llu us", (unsigned long long)nest->took_us);
    cr_expect_eq(error.cause, EDEADLK);
    cr_expect_not_null(strstr(error.text, "this thread itself holds every connection"), "%s",
                       error.text);
    cr_expect_eq(STAT(pool, lent), 0);
    cr_expect_eq(STAT(pool, waiting), 0);
}

Test(pool_nested, the_same_address_gives_another_connection)
{
    const char *address = loopback_at(peer, 1);
    struct nest nest = { .count = 3, .addresses = { address, address, address } };

    pool = MAKE_POOL(.max_per_address = 3);
    cr_expect_eq(run_nest(&nest), POOL_OK);
    cr_expect_eq(nest.status, POOL_OK);
    for (unsigned i = 0; i < 3; i++)
        cr_expect_eq(nest.ids[i], i + 1);
    cr_expect_eq(STAT(pool, idle), 3);
}

Test(pool_nested, who_holds_all_of_an_address_is_told_at_once)
{
    const char *address = loopback_at(peer, 1);

    pool = MAKE_POOL(.max_per_address = 2);
    for (unsigned round = 0; round < 3; round++) {
        struct nest nest = { .count = 3, .addresses = { address, address, address } };

        cr_expect_eq(run_nest(&nest), POOL_OK, "the outer ones go on");
        expect_full(&nest);
    }
    cr_expect_eq(STAT(pool, idle), 2);
}

Test(pool_nested, who_holds_all_of_the_pool_is_told_at_once)
{
    struct nest nest = { .count = 3,
                         .addresses = { loopback_at(peer, 1), loopback_at(peer, 2),
                                        loopback_at(peer, 3) } };

    pool = MAKE_POOL(.max_connections = 2);
    cr_expect_eq(run_nest(&nest), POOL_OK);
    expect_full(&nest);
}

Test(pool_nested, an_idle_connection_of_the_pool_is_evicted_for_a_nested_call)
{
    struct nest nest = { .count = 2, .addresses = { loopback_at(peer, 1), loopback_at(peer, 2) } };

    pool = MAKE_POOL(.max_connections = 2);
    cr_expect_eq(talk(pool, loopback_at(peer, 3)), POOL_OK);
    cr_expect_eq(run_nest(&nest), POOL_OK);
    cr_expect_eq(nest.status, POOL_OK);
    cr_expect_eq(STAT(pool, evicted), 1);
}

/* ---- not stuck: somebody else may return what is missing */

struct lender {
    struct pool_conn conn;
};

static void *return_soon(void *argument)
{
    struct lender *lender = argument;

    cr_expect(WAIT_STAT(pool, waiting, 1));
    pool_return(&lender->conn);
    return NULL;
}

Test(pool_nested, a_loan_by_hand_is_waited_for_since_another_thread_may_return_it)
{
    const char *address = loopback_at(peer, 1);
    struct nest nest = { .count = 2, .addresses = { address, address } };
    struct lender lender;
    pthread_t thread;

    pool = MAKE_POOL(.max_per_address = 2);
    cr_assert(borrow(pool, address, &lender.conn));
    cr_assert_eq(pthread_create(&thread, NULL, return_soon, &lender), 0);
    cr_expect_eq(run_nest(&nest), POOL_OK);
    cr_expect_eq(nest.status, POOL_OK, "%s", error.text);
    pthread_join(thread, NULL);
}

static int use_until_wanted(struct pool_conn *conn, void *user)
{
    atomic_store((atomic_bool *)user, true);
    cr_expect(WAIT_STAT(pool, waiting, 1));
    return echo(conn, "done");
}

struct other {
    const char *address;
    atomic_bool is_inside;
};

static void *communicate_in_other_thread(void *argument)
{
    struct other *other = argument;

    cr_expect_eq(pool_communicate(pool, other->address, use_until_wanted, &other->is_inside, NULL),
                 POOL_OK);
    return NULL;
}

static bool is_inside(void *argument)
{
    return atomic_load(&((struct other *)argument)->is_inside);
}

Test(pool_nested, what_another_thread_uses_is_waited_for)
{
    const char *address = loopback_at(peer, 1);
    struct nest nest = { .count = 2, .addresses = { address, address } };
    struct other other = { .address = address };
    pthread_t thread;

    pool = MAKE_POOL(.max_per_address = 2);
    cr_assert_eq(pthread_create(&thread, NULL, communicate_in_other_thread, &other), 0);
    cr_assert(wait_until(is_inside, &other, VERBS_SOON));
    cr_expect_eq(run_nest(&nest), POOL_OK);
    cr_expect_eq(nest.status, POOL_OK, "%s", error.text);
    pthread_join(thread, NULL);
}

static int return_early(struct pool_conn *conn, void *user)
{
    struct nest *nest = user;
    struct pool_conn copy = *conn, other;

    cr_expect_eq(echo(conn, "early"), 0);
    cr_expect_eq(pool_return(&copy), POOL_OK);
    nest->status = pool_borrow(pool, nest->addresses[0], &nest->call, &other);
    if (!nest->status)
        pool_return(&other);
    nest->depth++;
    return 0;
}

Test(pool_nested, a_connection_that_use_gave_back_itself_is_held_no_more)
{
    struct nest nest = { .addresses = { loopback_at(peer, 1) },
                         .call = { .size = sizeof(nest.call), .error = &error } };

    pool = MAKE_POOL(.max_per_address = 1);
    cr_expect_eq(pool_communicate(pool, nest.addresses[0], return_early, &nest, NULL), POOL_OK);
    cr_expect_eq(nest.status, POOL_OK, "%s", error.text);
}

static int count_attempts(struct pool_conn *conn, void *user)
{
    struct nest *nest = user;

    (void)conn;
    nest->status = pool_communicate(pool, nest->addresses[0], do_nothing, NULL, &nest->call);
    return 0;
}

static enum pool_decision go_on(const struct pool_error *failure, void *user)
{
    (void)failure;
    ++*(unsigned *)user;
    return POOL_CONTINUE;
}

Test(pool_nested, being_stuck_is_not_tried_again)
{
    unsigned asked = 0;
    struct nest nest = { .addresses = { loopback_at(peer, 1) },
                         .call = { .size = sizeof(nest.call),
                                   .error = &error,
                                   .on_error = go_on,
                                   .user = &asked } };

    pool = MAKE_POOL(.max_per_address = 1);
    cr_expect_eq(pool_communicate(pool, nest.addresses[0], count_attempts, &nest, NULL), POOL_OK);
    expect_full(&nest);
    cr_expect_eq(asked, 1);
}
