/* test_waiting.c: public bugs in which callers waited for ever, for too long, or for nothing; in
 * which places were lost, counts drifted, or a processor burnt. */
#include <criterion/criterion.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "support/peer.h"
#include "support/tests.h"
#include "support/verbs.h"

static void expect_all_places(struct pool *pool, struct peer *peer, unsigned places)
{
    struct pool_conn conns[16];

    cr_expect_eq(STAT(pool, lent), 0);
    cr_expect_eq(STAT(pool, waiting), 0);
    for (unsigned i = 0; i < places; i++)
        cr_assert(borrow(pool, peer_address(peer), &conns[i]), "only %u of %u places are left", i,
                  places);
    for (unsigned i = 0; i < places; i++)
        cr_expect_eq(pool_return(&conns[i]), POOL_OK);
}

/* ---- places lost by giving up */

struct giving_up {
    struct pool *pool;
    struct peer *peer;
};

static void give_up_often(unsigned index, void *argument)
{
    struct giving_up *one = argument;
    unsigned seed = index + 1;
    struct pool_conn conn;

    for (int i = 0; i < 300; i++)
        if (pool_borrow(one->pool, peer_address(one->peer),
                        POOL_CALL(.timeout_ms = (unsigned)rand_r(&seed) % 3 ? 1 : POOL_ZERO),
                        &conn) == POOL_OK)
            pool_return(&conn);
}

/* httpcore #1093, #658, #830; node-postgres #3543; redis-py #4121; npgsql #3004; bb8 #67: who was
 * cancelled in the queue, or just when he was served, took his place with him. */
Test(museum_waiting, httpcore_1093_place_lost_by_cancelling)
{
    struct giving_up one = { .peer = PEER(.own_process = true),
                             .pool = MAKE_POOL(.max_per_address = 3) };

    cr_assert(run_threads(8, give_up_often, &one));
    expect_all_places(one.pool, one.peer, 3);
    pool_destroy(one.pool);
    peer_stop(one.peer);
}

/* bb8 #122, corefx #32297: the wake-up fell between looking and waiting. */
struct pingpong {
    struct pool *pool;
    struct peer *peer;
    atomic_uint late;
};

static void take_turns(unsigned index, void *argument)
{
    struct pingpong *one = argument;
    struct pool_conn conn;
    uint64_t start_ms;

    (void)index;
    for (int i = 0; i < 3000; i++) {
        start_ms = now_ms();
        if (pool_borrow(one->pool, peer_address(one->peer), POOL_CALL(.timeout_ms = VERBS_SOON),
                        &conn))
            atomic_fetch_add(&one->late, 1);
        else
            pool_return(&conn);
        if (elapsed_ms(start_ms) > 5000)
            atomic_fetch_add(&one->late, 1);
    }
}

Test(museum_waiting, bb8_122_corefx_32297_lost_wake_up)
{
    struct pingpong one = { .peer = PEER(.own_process = true),
                            .pool = MAKE_POOL(.max_per_address = 1, .barge_ms = 1) };

    cr_assert(run_threads(3, take_turns, &one));
    cr_expect_eq(one.late, 0);
    pool_destroy(one.pool);
    peer_stop(one.peer);
}

/* sqlx #3132: callers who gave up threw finished connects away, thousands a second. Here what is
 * opened belongs to the peer, and serves the next one. */
Test(museum_waiting, sqlx_3132_connects_survive_their_callers)
{
    struct peer *peer = PEER(.own_process = true);
    struct pool_mux *mux;
    struct pool *pool;
    struct caller hasty, patient;

    cr_assert_eq(pool_mux_create(&mux), POOL_OK);
    pool = MAKE_POOL(.mux = mux);
    cr_assert(queue_caller(&hasty, pool, peer_address(peer), 100));
    cr_assert_eq(poll(&(struct pollfd){ .fd = pool_mux_fd(mux), .events = POLLIN }, 1, 5000), 1);
    cr_assert_eq(pool_mux_dispatch(mux, 0), POOL_OK); /* its connection is on the way */
    cr_expect_eq(join_caller(&hasty), POOL_E_TIMEOUT);
    cr_assert(start_caller(&patient, pool, peer_address(peer), VERBS_SOON));
    while (!atomic_load(&patient.is_back))
        cr_assert_eq(pool_mux_dispatch(mux, 10), POOL_OK);
    cr_expect_eq(join_caller(&patient), POOL_OK);
    cr_expect_eq(pool_conn_id(&patient.conn), 1);
    pool_return(&patient.conn);
    pool_destroy(pool);
    pool_mux_destroy(mux);
    peer_stop(peer);
}

/* martin #570: the real error hid behind "pool timed out". */
Test(museum_waiting, martin_570_the_real_error_is_told)
{
    struct pool_error error = POOL_ERROR_INIT;
    struct peer *peer = PEER();
    struct pool *pool = MAKE_POOL();
    struct pool_conn conn;
    uint64_t start_ms = now_ms();

    peer_down(peer);
    cr_expect_eq(pool_borrow(pool, peer_address(peer), POOL_CALL(.error = &error), &conn),
                 POOL_E_REFUSED);
    cr_expect(IN_TIME(elapsed_ms(start_ms), 0));
    cr_expect_eq(error.cause, ECONNREFUSED);
    cr_expect_not_null(strstr(error.text, "ECONNREFUSED"), "%s", error.text);
    pool_destroy(pool);
    peer_stop(peer);
}

/* RedisClient of libtnet: connect failures never reached the caller, who waited for ever; and its
 * connect counted a refused port as connected first. */
static int must_not_run(struct pool_conn *conn, void *user)
{
    (void)conn;
    *(bool *)user = true;
    return 0;
}

Test(museum_waiting, libtnet_refused_port_counted_as_connected)
{
    struct peer *peer = PEER();
    struct pool *pool = MAKE_POOL(.backoff_first_ms = POOL_ZERO, .suspend_after = POOL_NONE);
    bool has_run = false;

    peer_down(peer);
    for (int i = 0; i < 20; i++)
        cr_expect_eq(pool_communicate(pool, peer_address(peer), must_not_run, &has_run, NULL),
                     POOL_E_REFUSED);
    cr_expect_not(has_run);
    cr_expect_eq(STAT(pool, opened), 0);
    pool_destroy(pool);
    peer_stop(peer);
}

/* h2o's pool, HAProxy 9481cef94 and 9c13b62b4, Monkey #41: counts kept by hand went negative, and
 * the pool believed itself full, or endless. */
Test(museum_waiting, haproxy_9481cef94_counts_drift)
{
    struct peer *peer = PEER(.own_process = true);
    struct pool *pool = MAKE_POOL(.max_per_address = 4, .max_connections = 4, .connect_ms = 200);
    struct pool_conn conns[4];

    for (int round = 0; round < 30; round++) {
        for (int i = 0; i < 4; i++)
            cr_assert(borrow(pool, peer_address(peer), &conns[i]));
        if (round % 3 == 0)
            peer_reset_all(peer);
        for (int i = 0; i < 4; i++)
            round % 2 ? pool_return(&conns[i]) : pool_discard(&conns[i]);
        if (round % 5 == 0)
            peer_down(peer);
        if (round % 5 == 0)
            cr_expect_lt(talk(pool, peer_address(peer)), POOL_OK);
        if (round % 5 == 0)
            cr_assert(peer_up(peer));
        cr_expect_leq(STAT(pool, total), 4);
    }
    expect_all_places(pool, peer, 4);
    pool_destroy(pool);
    peer_stop(peer);
}

/* ---- processors burnt */

static uint64_t cpu_ms(void)
{
    struct rusage usage;

    getrusage(RUSAGE_SELF, &usage);
    return (uint64_t)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000 +
           (uint64_t)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1000;
}

/* Monkey #46: a broken connection left its level-triggered event, and the loop span. */
Test(museum_waiting, monkey_46_broken_connection_burns_a_processor)
{
    struct peer *peer = PEER(.own_process = true);
    struct pool *pool = MAKE_POOL(.max_per_address = 10, .park_ms = 1);
    struct pool_conn conns[10], none;
    uint64_t start_ms;

    for (int i = 0; i < 10; i++)
        cr_assert(borrow(pool, peer_address(peer), &conns[i]));
    cr_assert_eq(peer_reset_all(peer), 10);
    start_ms = cpu_ms();
    cr_expect_eq(pool_borrow(pool, peer_address(peer), POOL_CALL(.timeout_ms = 400), &none),
                 POOL_E_TIMEOUT);
    cr_expect_leq(cpu_ms() - start_ms, 40 * slowness());
    for (int i = 0; i < 10; i++)
        pool_return(&conns[i]);
    pool_destroy(pool);
    peer_stop(peer);
}

/* BETA's own warning: with nothing removable, "remove one and try again" never ended. */
static enum pool_decision insist(struct pool *pool, void *user)
{
    ++*(unsigned *)user;
    pool_remove_some_connection(pool); /* which asks again, and must not ask for ever */
    return POOL_CONTINUE;
}

Test(museum_waiting, beta_endless_loop_when_nothing_is_removable)
{
    struct peer *peer = PEER(.own_process = true, .every_loopback = true);
    unsigned asked = 0;
    struct pool *pool =
        MAKE_POOL(.max_connections = 1, .on_none_removable = insist, .user = &asked);
    struct pool_conn conn, none;
    char other[64];
    uint64_t start_ms = cpu_ms();

    snprintf(other, sizeof(other), "tcp://127.9.9.9:%d", peer_port(peer));
    cr_assert(borrow(pool, peer_address(peer), &conn));
    cr_expect_eq(pool_borrow(pool, other, POOL_CALL(.timeout_ms = 300), &none), POOL_E_RESOURCE);
    cr_expect_eq(asked, 1);
    cr_expect_eq(pool_remove_some_connection(pool), 0);
    cr_expect_eq(asked, 2);
    cr_expect_leq(cpu_ms() - start_ms, 100 * slowness());
    cr_expect_eq(pool_return(&conn), POOL_OK);
    pool_destroy(pool);
    peer_stop(peer);
}

/* Monkey's accept loop, solidframe 24: a peer that accepts and closes at once was tried without
 * end. */
Test(museum_waiting, solidframe_accept_then_close_is_no_hot_loop)
{
    struct peer *peer = PEER(.own_process = true, .behave = PEER_ACCEPT_CLOSE);
    struct pool *pool = MAKE_POOL();

    for (int i = 0; i < 20; i++)
        cr_expect_lt(pool_communicate(pool, peer_address(peer), use_echo, (char[]){ "ping" },
                                      POOL_CALL(.flags = POOL_SAFE_TO_REPEAT)),
                     POOL_OK);
    cr_expect_leq(peer_count(peer, PEER_ACCEPTED), 40);
    cr_expect(WAIT_STAT(pool, total, 0));
    pool_destroy(pool);
    peer_stop(peer);
}

/* ---- the path nobody tests */

/* HAProxy 394bd4eb3: crashed only when descriptors had run out. 6ed242ece, 7ae48a70d: evicted what
 * was just being borrowed. */
struct squeezed {
    struct pool *pool;
    struct peer *peer;
    atomic_uint bad;
};

static void squeeze(unsigned index, void *argument)
{
    struct squeezed *one = argument;
    unsigned seed = index + 1;
    char address[64], token[32];

    for (int i = 0; i < 200; i++) {
        snprintf(address, sizeof(address), "tcp://127.4.%u.1:%d", 1 + (unsigned)rand_r(&seed) % 12,
                 peer_port(one->peer));
        snprintf(token, sizeof(token), "%u of %u", i, index);
        if (pool_communicate(one->pool, address, use_echo, token,
                             POOL_CALL(.timeout_ms = VERBS_SOON)))
            atomic_fetch_add(&one->bad, 1);
        if (rand_r(&seed) % 4 == 0)
            pool_remove_some_connection(one->pool);
    }
}

Test(museum_waiting, haproxy_394bd4eb3_6ed242ece_evicting_while_others_borrow, .timeout = 120)
{
    struct squeezed one = { .peer = PEER(.own_process = true, .every_loopback = true) };

    one.pool = MAKE_POOL(.park_ms = 1);
    set_descriptor_limit((unsigned)count_descriptors() + 6);
    cr_assert(run_threads(8, squeeze, &one));
    set_descriptor_limit(1024);
    cr_expect_eq(one.bad, 0);
    cr_expect_eq(STAT(one.pool, lent), 0);
    pool_destroy(one.pool);
    peer_stop(one.peer);
}
