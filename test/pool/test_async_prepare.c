/* test_async_prepare.c: `prepare` for connections that event-driven code asked for: blocking code,
 * on a thread of the pool's own, never on the mux. */
#include <criterion/criterion.h>
#include <string.h>

#include "support/asks.h"
#include "support/peer.h"
#include "support/resp.h"
#include "support/servers.h"
#include "support/tests.h"

struct preparing {
    atomic_uint runs, at_once, most;
    int answer;
    pthread_t mux_thread;
    atomic_uint on_the_mux;
    const char *says; /* sent, and its echo read */
    atomic_bool *waits_for; /* or blocks until then */
    struct pool *ends; /* or destroys its pool */
    bool discards;
};

static bool is_set(void *argument)
{
    return atomic_load((atomic_bool *)argument);
}

static int prepare(struct pool_conn *conn, void *user)
{
    struct preparing *preparing = user;
    unsigned at_once = atomic_fetch_add(&preparing->at_once, 1) + 1;
    int answer = preparing->answer;

    while (at_once > preparing->most)
        atomic_store(&preparing->most, at_once);
    atomic_fetch_add(&preparing->runs, 1);
    atomic_fetch_add(&preparing->on_the_mux,
                     pthread_equal(pthread_self(), preparing->mux_thread) != 0);
    if (preparing->waits_for)
        wait_until(is_set, preparing->waits_for, VERBS_SOON);
    if (preparing->says && echo(conn, preparing->says))
        answer = -1;
    if (preparing->discards)
        pool_discard(conn);
    if (preparing->ends)
        pool_destroy(preparing->ends);
    atomic_fetch_sub(&preparing->at_once, 1);
    return answer;
}

static bool are_eight_at_work(void *argument)
{
    return atomic_load(&((struct preparing *)argument)->runs) == 8;
}

static void expect_told_once(struct ask *ask, enum pool_status status)
{
    cr_assert(wait_told(ask));
    cr_expect_eq(ask->told, 1);
    cr_expect_eq(ask->status, status, "%s: %s", pool_status_name(ask->status), ask->error.text);
}

Test(async_prepare, runs_once_and_never_on_the_mux)
{
    struct preparing preparing = { .says = "AUTH" };
    struct peer *peer = PEER();
    struct mux_thread mux;
    struct pool *pool;

    cr_assert(start_mux_thread(&mux));
    preparing.mux_thread = mux.thread;
    pool = MAKE_POOL(.mux = mux.mux, .prepare = prepare, .user = &preparing);
    for (int i = 0; i < 3; i++) {
        struct ask ask = { .is_kept = true };

        cr_assert_eq(start_ask(&ask, pool, peer_address(peer), NULL), POOL_OK);
        expect_told_once(&ask, POOL_OK);
        cr_expect(pthread_equal(ask.thread, mux.thread));
        cr_expect_eq(ask.id, 1);
        cr_expect_eq(echo(&ask.conn, "more"), 0);
        cr_expect_eq(pool_return(&ask.conn), POOL_OK);
    }
    cr_expect_eq(preparing.runs, 1);
    cr_expect_eq(preparing.on_the_mux, 0);
    pool_destroy(pool);
    stop_mux_thread(&mux);
    peer_stop(peer);
}

static int authenticate(struct pool_conn *conn, void *user)
{
    char reply[RESP_TEXT];

    (void)user;
    return resp_ask(conn, reply, "AUTH %s", "sesame") || strcmp(reply, "OK") != 0;
}

static atomic_uint pongs;

static void ping(struct ask *ask)
{
    (void)ask;
    atomic_fetch_add(&pongs, 1);
}

Test(async_prepare, blocking_auth_at_a_real_redis)
{
    enum { ASKS = 20 };
    struct server *redis = redis_start("sesame");
    struct ask asks[ASKS] = { 0 };
    char reply[RESP_TEXT];
    struct pool *pool;

    if (!redis)
        cr_skip("%s", server_why_not());
    pool = MAKE_POOL(.prepare = authenticate, .max_per_address = 4);
    for (int i = 0; i < ASKS; i++) {
        asks[i].then = ping;
        cr_assert_eq(start_ask(&asks[i], pool, server_address(redis), NULL), POOL_OK);
    }
    for (int i = 0; i < ASKS; i++)
        expect_told_once(&asks[i], POOL_OK);
    cr_expect_eq(pongs, ASKS);
    asks[0] = (struct ask){ .is_kept = true };
    cr_assert_eq(start_ask(&asks[0], pool, server_address(redis), NULL), POOL_OK);
    expect_told_once(&asks[0], POOL_OK);
    cr_expect_eq(resp_ask(&asks[0].conn, reply, "PING"), 0);
    cr_expect_str_eq(reply, "PONG");
    cr_expect_eq(pool_return(&asks[0].conn), POOL_OK);
    pool_destroy(pool);
    server_stop(redis);
}

Test(async_prepare, that_fails_is_told_with_what_it_took)
{
    struct preparing ways[] = { { .answer = 9 },
                                { .answer = -1, .says = "AUTH" },
                                { .answer = 3, .discards = true } };
    struct peer *peer = PEER(.behave = PEER_SLOW, .delay_ms = 100);

    for (int i = 0; i < 3; i++) {
        struct pool *pool = MAKE_POOL(.prepare = prepare, .user = &ways[i]);
        struct ask ask = { 0 };

        cr_assert_eq(start_ask(&ask, pool, peer_address(peer), NULL), POOL_OK);
        expect_told_once(&ask, POOL_E_USER);
        cr_expect_eq(ask.error.phase, POOL_PHASE_SETUP);
        cr_expect_eq(ask.error.cause, ways[i].answer);
        if (i == 1) {
            cr_expect(WITHIN(ask.error.spent_ms[POOL_PHASE_SETUP], 99, 190), "told twice?");
        }
        cr_expect(WAIT_STAT(pool, total, 0));
        cr_expect_eq(STAT(pool, borrow_failed), 1);
        pool_destroy(pool);
    }
    peer_stop(peer);
}

Test(async_prepare, is_bounded_by_the_calls_deadline)
{
    struct preparing preparing = { .says = "AUTH" };
    struct peer *peer = PEER(.behave = PEER_SILENT);
    struct pool *pool = MAKE_POOL(.prepare = prepare, .user = &preparing);
    struct ask ask = { 0 };

    cr_assert_eq(start_ask(&ask, pool, peer_address(peer), POOL_CALL(.timeout_ms = 120)), POOL_OK);
    expect_told_once(&ask, POOL_E_TIMEOUT_IN_TRANSFER);
    cr_expect(IN_TIME(ask.took_ms, 119));
    cr_expect_eq(ask.error.phase, POOL_PHASE_SETUP);
    pool_destroy(pool);
    peer_stop(peer);
}

/* Eight workers, the rest waits its turn; and nothing else of the pool waits for them. */
Test(async_prepare, eight_at_once_and_the_others_in_turn)
{
    enum { ASKS = 20, WORKERS = 8 };
    atomic_bool may_go = false;
    struct preparing preparing = { .says = "AUTH", .waits_for = &may_go };
    struct peer *peer = PEER();
    struct pool *pool = MAKE_POOL(.prepare = prepare, .user = &preparing, .max_connecting = ASKS);
    struct ask asks[ASKS] = { 0 }, late = { 0 };

    for (int i = 0; i < ASKS; i++)
        cr_assert_eq(start_ask(&asks[i], pool, peer_address(peer), NULL), POOL_OK);
    cr_expect(WAIT_STAT(pool, lent, ASKS));
    cr_assert_eq(start_ask(&late, pool, peer_address(peer), POOL_CALL(.timeout_ms = 50)), POOL_OK);
    expect_told_once(&late, POOL_E_TIMEOUT); /* in the workers' queue */
    cr_expect(IN_TIME(late.took_ms, 49));
    atomic_store(&may_go, true);
    for (int i = 0; i < ASKS; i++)
        expect_told_once(&asks[i], POOL_OK);
    cr_expect_eq(preparing.most, WORKERS);
    cr_expect_geq(preparing.runs, ASKS);
    pool_destroy(pool);
    peer_stop(peer);
}

/* Canceled where only a worker's turn is missing, it is told at once. */
Test(async_prepare, canceled_in_the_workers_queue_is_told_without_a_worker)
{
    enum { WORKERS = 8 };
    atomic_bool may_go = false;
    struct preparing preparing = { .waits_for = &may_go };
    struct peer *peer = PEER();
    struct pool *pool = MAKE_POOL(.prepare = prepare, .user = &preparing, .max_connecting = 20);
    struct ask asks[WORKERS] = { 0 }, late = { 0 };

    for (int i = 0; i < WORKERS; i++)
        cr_assert_eq(start_ask(&asks[i], pool, peer_address(peer), NULL), POOL_OK);
    cr_assert(wait_until(are_eight_at_work, &preparing, VERBS_SOON));
    cr_assert_eq(start_ask_with_ticket(&late, pool, peer_address(peer), NULL), POOL_OK);
    cr_expect(WAIT_STAT(pool, lent, WORKERS + 1));
    cr_expect(pool_ticket_cancel(late.ticket));
    cr_expect(wait_told(&late));
    cr_expect_eq(late.status, POOL_E_CANCELED);
    cr_expect_lt(late.took_ms, VERBS_SOON / 4, "its deadline came first");
    cr_expect_eq(preparing.runs, WORKERS);
    atomic_store(&may_go, true);
    for (int i = 0; i < WORKERS; i++)
        expect_told_once(&asks[i], POOL_OK);
    pool_ticket_free(late.ticket);
    pool_destroy(pool);
    peer_stop(peer);
}

static atomic_int newest_fd;

static int note_newest(struct pool_conn *conn, struct pool_actor *actor, void *user)
{
    (void)actor, (void)user;
    atomic_store(&newest_fd, pool_conn_fd(conn));
    return 0;
}

/* It was opened for another, and ended in the workers' queue. */
Test(async_prepare, what_was_given_back_unprepared_is_looked_at_for_the_next)
{
    enum { WORKERS = 8 };
    atomic_bool may_go = false;
    struct preparing preparing = { .waits_for = &may_go };
    struct peer *peer = PEER();
    struct pool *pool = MAKE_POOL(.prepare = prepare, .user = &preparing, .max_connecting = 20,
                                  .max_per_address = WORKERS + 1, .barge_ms = POOL_ZERO,
                                  .on_new_connection = note_newest);
    struct ask asks[WORKERS] = { 0 }, late = { 0 };
    struct caller next;

    for (int i = 0; i < WORKERS; i++)
        cr_assert_eq(start_ask(&asks[i], pool, peer_address(peer), NULL), POOL_OK);
    cr_assert(wait_until(are_eight_at_work, &preparing, VERBS_SOON));
    cr_assert_eq(start_ask_with_ticket(&late, pool, peer_address(peer), NULL), POOL_OK);
    cr_expect(WAIT_STAT(pool, lent, WORKERS + 1));
    cr_assert(queue_caller(&next, pool, peer_address(peer), VERBS_SOON));
    cr_expect_eq(peer_close_all(peer), WORKERS + 1);
    cr_expect_eq(listen_to(newest_fd, VERBS_SOON), HEARD_END);
    cr_expect(pool_ticket_cancel(late.ticket));
    cr_expect(wait_told(&late));
    atomic_store(&may_go, true);
    cr_assert_eq(join_caller(&next), POOL_OK);
    cr_expect_gt(pool_conn_id(&next.conn), WORKERS + 1);
    cr_expect_eq(echo(&next.conn, "alive"), 0);
    pool_return(&next.conn);
    for (int i = 0; i < WORKERS; i++)
        cr_assert(wait_told(&asks[i]));
    pool_ticket_free(late.ticket);
    pool_destroy(pool);
    peer_stop(peer);
}

Test(async_prepare, may_end_the_pool)
{
    int before = count_descriptors();
    struct peer *peer = PEER(.own_process = true);

    for (int i = 0; i < 20; i++) {
        struct preparing preparing = { 0 };
        struct pool *pool = MAKE_POOL(.prepare = prepare, .user = &preparing);
        struct ask ask = { .is_kept = true };

        preparing.ends = pool;
        cr_assert_eq(start_ask(&ask, pool, peer_address(peer), NULL), POOL_OK);
        cr_assert(wait_told(&ask));
        cr_expect_eq(ask.told, 1);
        if (ask.conn.slot)
            cr_expect_eq(pool_return(&ask.conn), POOL_OK);
    }
    cr_expect(peer_wait_open(peer, 0, VERBS_SOON));
    peer_stop(peer);
    cr_expect_eq(count_descriptors(), before);
}

Test(async_prepare, destroy_waits_for_it_and_ends_its_io)
{
    struct preparing preparing = { .says = "AUTH" };
    struct peer *peer = PEER(.behave = PEER_SILENT);
    struct pool *pool = MAKE_POOL(.prepare = prepare, .user = &preparing);
    struct ask ask = { 0 };

    cr_assert_eq(start_ask(&ask, pool, peer_address(peer), NULL), POOL_OK);
    cr_expect(peer_wait_bytes_in(peer, 4, VERBS_SOON));
    pool_destroy(pool);
    cr_expect_eq(ask.told, 1);
    cr_expect_eq(ask.status, POOL_E_CLOSING);
    peer_stop(peer);
}

/* ---- what an observer hears of it */

static atomic_uint borrows_told;

static void count_borrows(const struct pool_event_info *event, void *user)
{
    (void)user;
    if (event->kind == POOL_EVENT_BORROWED)
        atomic_fetch_add(&borrows_told, 1);
}

static bool is_borrow_told(void *argument)
{
    (void)argument;
    return atomic_load(&borrows_told) == 1;
}

Test(async_prepare, an_observer_hears_of_the_borrow_while_it_lasts)
{
    struct preparing preparing = { 0 };
    struct peer *peer = PEER();
    struct pool *pool =
        MAKE_POOL(.prepare = prepare, .user = &preparing, .on_event = count_borrows);
    struct ask ask = { .is_kept = true };

    cr_assert_eq(start_ask(&ask, pool, peer_address(peer), NULL), POOL_OK);
    expect_told_once(&ask, POOL_OK);
    cr_expect(wait_until(is_borrow_told, NULL, VERBS_SOON));
    cr_expect_eq(pool_return(&ask.conn), POOL_OK);
    pool_destroy(pool);
    peer_stop(peer);
}
