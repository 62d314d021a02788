/* test_age.c: how long a connection is kept: idle, in years and in uses. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "base/os.h"
#include "support/peer.h"
#include "support/tests.h"
#include "support/verbs.h"

enum { CROWD = 200 };

/* When each connection was ready and when it was closed, by id. */
struct lives {
    uint64_t ready_ms[CROWD + 1], closed_ms[CROWD + 1];
    enum pool_close_reason reasons[CROWD + 1];
    atomic_uint closed;
};

static void note_life(const struct pool_event_info *event, void *user)
{
    struct lives *lives = user;

    if (event->connection > CROWD)
        return;
    if (event->kind == POOL_EVENT_CONNECTION_READY)
        lives->ready_ms[event->connection] = now_ms();
    if (event->kind == POOL_EVENT_CONNECTION_CLOSED) {
        lives->closed_ms[event->connection] = now_ms();
        lives->reasons[event->connection] = event->reason;
        atomic_fetch_add(&lives->closed, 1);
    }
}

static void leave_crowd(struct pool *pool, struct peer *peer, unsigned count)
{
    static struct pool_conn conns[CROWD];

    for (unsigned i = 0; i < count; i++)
        cr_assert(borrow(pool, peer_address(peer), &conns[i]));
    for (unsigned i = 0; i < count; i++)
        cr_assert_eq(pool_return(&conns[i]), POOL_OK);
}

static bool are_gone(void *argument)
{
    struct lives *lives = argument;

    return atomic_load(&lives->closed) >= CROWD;
}

Test(pool_age, an_idle_connection_is_closed_after_idle_ms_and_not_before)
{
    struct peer *peer = PEER(.own_process = true);
    struct pool *pool = MAKE_POOL(.idle_ms = 300, .park_ms = 20);
    uint64_t start_ms;

    leave_crowd(pool, peer, 5);
    start_ms = now_ms();
    cr_expect(WAIT_STAT(pool, total, 0));
    cr_expect(IN_TIME(elapsed_ms(start_ms), 290));
    cr_expect_eq(STAT(pool, closed[POOL_CLOSE_IDLE]), 5);
    cr_expect(peer_wait_open(peer, 0, VERBS_SOON));
    pool_destroy(pool);
    peer_stop(peer);
}

Test(pool_age, a_connection_in_use_now_and_then_is_not_idle)
{
    struct peer *peer = PEER(.own_process = true);
    struct pool *pool = MAKE_POOL(.idle_ms = 400, .park_ms = 10);
    struct pool_conn conn;
    int fd;

    for (int i = 0; i < 20; i++) {
        cr_assert(borrow(pool, peer_address(peer), &conn));
        cr_expect_eq(pool_conn_id(&conn), 1);
        fd = pool_conn_fd(&conn);
        cr_assert_eq(pool_return(&conn), POOL_OK);
        cr_assert(wait_parked(fd));
    }
    pool_destroy(pool);
    peer_stop(peer);
}

Test(pool_age, for_ever_is_possible)
{
    struct peer *peer = PEER(.own_process = true);
    struct pool *pool = MAKE_POOL(.idle_ms = POOL_NONE, .max_age_ms = POOL_NONE, .park_ms = 1);
    struct pool_conn conn;
    uint64_t wakeups;
    int fd;

    cr_assert(borrow(pool, peer_address(peer), &conn));
    fd = pool_conn_fd(&conn);
    cr_assert_eq(pool_return(&conn), POOL_OK);
    cr_assert(wait_parked(fd));
    wakeups = STAT(pool, wakeups);
    cr_expect_eq(listen_to(fd, 300), HEARD_NOTHING);
    cr_expect_leq(STAT(pool, wakeups), wakeups + 1, "an idle pool does not wake up");
    cr_expect_eq(id_of_next(pool, peer_address(peer)), 1);
    pool_destroy(pool);
    peer_stop(peer);
}

Test(pool_age, a_connection_is_closed_after_max_uses)
{
    struct peer *peer = PEER(.own_process = true);
    struct pool *pool = MAKE_POOL(.max_uses = 3);

    for (uint64_t i = 0; i < 30; i++)
        cr_expect_eq(id_of_next(pool, peer_address(peer)), 1 + i / 3);
    cr_expect_eq(STAT(pool, closed[POOL_CLOSE_USES]), 10);
    cr_expect_eq(STAT(pool, total), 0);
    pool_destroy(pool);
    peer_stop(peer);
}

Test(pool_age, a_lent_connection_that_is_too_old_is_closed_when_it_is_returned)
{
    struct peer *peer = PEER(.own_process = true, .behave = PEER_SLOW, .delay_ms = 150);
    struct pool *pool = MAKE_POOL(.max_age_ms = 100);
    struct pool_conn conn;

    cr_assert(borrow(pool, peer_address(peer), &conn));
    cr_expect_eq(echo(&conn, "it lives as long as it is needed"), 0);
    cr_assert_eq(pool_return(&conn), POOL_OK);
    cr_expect_eq(STAT(pool, closed[POOL_CLOSE_AGE]), 1);
    cr_expect_eq(STAT(pool, total), 0);
    pool_destroy(pool);
    peer_stop(peer);
}

/* Each in its own time, 10 % more or less, and not all at once. */
Test(pool_age, idle_connections_end_by_age_each_in_its_own_time)
{
    static struct lives lives;
    struct peer *peer = PEER(.own_process = true);
    struct pool *pool = MAKE_POOL(.max_age_ms = 1000, .park_ms = 5, .max_per_address = CROWD,
                                  .on_event = note_life, .user = &lives);
    uint64_t age_ms, least = UINT64_MAX, most = 0;

    leave_crowd(pool, peer, CROWD);
    cr_expect(wait_until(are_gone, &lives, VERBS_SOON), "only %u of them", lives.closed);
    for (unsigned i = 1; i <= CROWD; i++) {
        cr_assert_eq(lives.reasons[i], POOL_CLOSE_AGE);
        age_ms = lives.closed_ms[i] - lives.ready_ms[i];
        least = age_ms < least ? age_ms : least;
        most = age_ms > most ? age_ms : most;
    }
    cr_expect(WITHIN(least, 895, 1000));
    cr_expect(WITHIN(most, 1000, 1250));
    cr_expect_gt(most - least, 20, "they ended together");
    pool_destroy(pool);
    peer_stop(peer);
}

/* A busy sibling does not keep the old ones alive: LIFO lets the tail age. */
Test(pool_age, those_that_nobody_needs_end_while_one_is_in_steady_use)
{
    struct peer *peer = PEER(.own_process = true);
    struct pool *pool = MAKE_POOL(.idle_ms = 200, .park_ms = 20);
    uint64_t start_ms;

    leave_crowd(pool, peer, 10);
    for (start_ms = now_ms(); elapsed_ms(start_ms) < 600 * slowness();)
        cr_assert_eq(talk(pool, peer_address(peer)), POOL_OK);
    cr_expect_eq(STAT(pool, total), 1);
    cr_expect_eq(STAT(pool, closed[POOL_CLOSE_IDLE]), 9);
    cr_expect_eq(STAT(pool, opened), 10);
    pool_destroy(pool);
    peer_stop(peer);
}

/* ---- what is found too old while room is made */

static atomic_bool is_later;
static struct pl_os os;

static uint64_t minutes_later(void)
{
    return pl_os_real.coarse_ns() + (atomic_load(&is_later) ? 600000 * PL_MS : 0);
}

static void begin_aging(void)
{
    os = pl_os_real;
    os.coarse_ns = minutes_later;
    pl_os_replace(&os);
}

static void end_aging(void)
{
    pl_os_replace(NULL);
}

TestSuite(pool_aged, .init = begin_aging, .fini = end_aging);

#define OF_A_MINUTE .max_age_ms = 60000, .idle_ms = POOL_NONE, .park_ms = 60000

Test(pool_aged, its_place_is_free_for_who_does_not_wait)
{
    struct peer *peer = PEER(.every_loopback = true);
    struct pool *pool = MAKE_POOL(OF_A_MINUTE, .max_connections = 1);
    struct pool_conn conn;

    cr_expect_eq(id_of_next(pool, loopback_at(peer, 1)), 1);
    atomic_store(&is_later, true);
    cr_assert_eq(pool_borrow(pool, loopback_at(peer, 2), POOL_CALL(.flags = POOL_DONT_WAIT), &conn),
                 POOL_OK);
    cr_expect_eq(STAT(pool, closed[POOL_CLOSE_AGE]), 1);
    cr_expect_eq(STAT(pool, total), 1);
    pool_return(&conn);
    pool_destroy(pool);
    peer_stop(peer);
}

Test(pool_aged, it_counts_as_removed)
{
    struct peer *peer = PEER();
    struct pool *pool = MAKE_POOL(OF_A_MINUTE);

    cr_expect_eq(id_of_next(pool, peer_address(peer)), 1);
    atomic_store(&is_later, true);
    cr_expect_eq(pool_remove_some_connection(pool), 1);
    cr_expect_eq(STAT(pool, closed[POOL_CLOSE_AGE]), 1);
    cr_expect_eq(pool_remove_some_connection(pool), 0);
    pool_destroy(pool);
    peer_stop(peer);
}

static void *run_mux(void *mux)
{
    pool_mux_run(mux);
    return NULL;
}

static atomic_bool is_running;

static void note_running(void *unused)
{
    (void)unused;
    atomic_store(&is_running, true);
}

Test(pool_aged, it_does_not_count_as_removed_from_another_pool)
{
    struct peer *peer = PEER();
    struct pool *pool, *other;
    struct pool_mux *mux;
    pthread_t thread;

    cr_assert_eq(pool_mux_create(&mux), POOL_OK);
    cr_assert_eq(pool_mux_post(mux, note_running, NULL), POOL_OK);
    cr_assert_eq(pthread_create(&thread, NULL, run_mux, mux), 0);
    while (!atomic_load(&is_running))
        sched_yield(); /* until then this thread is the mux's */
    pool = MAKE_POOL(OF_A_MINUTE, .mux = mux);
    other = MAKE_POOL(OF_A_MINUTE, .mux = mux);
    cr_expect_eq(id_of_next(pool, peer_address(peer)), 1);
    atomic_store(&is_later, true);
    cr_expect_eq(pool_remove_some_connection(other), 0);
    cr_expect_eq(STAT(pool, closed[POOL_CLOSE_AGE]), 1);
    pool_destroy(pool);
    pool_destroy(other);
    pool_mux_stop(mux);
    pthread_join(thread, NULL);
    pool_mux_destroy(mux);
    peer_stop(peer);
}
