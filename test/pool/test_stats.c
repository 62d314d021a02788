/* test_stats.c: the numbers of a pool: gauges that add up in every snapshot, and counters that only
 * grow and agree with what really happened. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "commpool/query.h"
#include "support/peer.h"
#include "support/tests.h"
#include "support/verbs.h"

struct load {
    struct pool *pool;
    struct peer *peers[3];
    unsigned rounds;
    atomic_uint good, echoed, failed;
    atomic_bool is_over;
    unsigned snapshots;
};

static void load_it(unsigned index, void *argument)
{
    struct load *load = argument;
    unsigned seed = index + 1;
    struct pool_conn conn;

    for (unsigned i = 0; i < load->rounds; i++) {
        if (pool_borrow(load->pool, peer_address(load->peers[rand_r(&seed) % 3]),
                        POOL_CALL(.timeout_ms = 1 + (unsigned)rand_r(&seed) % 20), &conn)) {
            atomic_fetch_add(&load->failed, 1);
            continue;
        }
        atomic_fetch_add(&load->good, 1);
        if (echo(&conn, "count me") == 0)
            atomic_fetch_add(&load->echoed, 1);
        if (rand_r(&seed) % 16 == 0)
            pool_discard(&conn);
        else
            pool_return(&conn);
        if (rand_r(&seed) % 32 == 0)
            pool_remove_some_connection(load->pool);
    }
}

static uint64_t ends_of(const struct pool_stats *stats)
{
    uint64_t ends = 0;

    for (int i = 0; i < 16; i++)
        ends += stats->closed[i];
    return ends;
}

static void *watch(void *argument)
{
    struct load *load = argument;
    struct pool_stats last = { .size = sizeof(last) }, now;

    for (load->snapshots = 0; !atomic_load(&load->is_over); load->snapshots++) {
        now = (struct pool_stats){ .size = sizeof(now) };
        cr_assert_eq(pool_stats(load->pool, &now), POOL_OK);
        cr_assert_eq(now.idle + now.lent + now.shared + now.opening + now.closing, now.total);
        cr_assert_leq(now.total, 12);
        cr_assert_leq(now.reused, now.borrowed);
        cr_assert_geq(now.borrowed, last.borrowed, "a counter fell");
        cr_assert_geq(now.reused, last.reused);
        cr_assert_geq(now.opened, last.opened);
        cr_assert_geq(ends_of(&now), ends_of(&last));
        cr_assert_geq(now.bytes_in, last.bytes_in);
        cr_assert_geq(now.bytes_out, last.bytes_out);
        cr_assert_geq(now.borrow_failed, last.borrow_failed);
        cr_assert_geq(now.wakeups, last.wakeups);
        cr_assert_eq(now.evicted, now.closed[POOL_CLOSE_EVICTED]);
        last = now;
    }
    return NULL;
}

Test(pool_stats, gauges_add_up_in_every_snapshot_while_eight_threads_work, .timeout = 120)
{
    struct load load = { .rounds = 3000 / slowness() };
    struct pool_stats stats = { .size = sizeof(stats) };
    pthread_t watcher;

    for (int i = 0; i < 3; i++)
        load.peers[i] = PEER(.own_process = true);
    load.pool = MAKE_POOL(.max_per_address = 3, .max_connections = 12, .park_ms = 1);
    cr_assert_eq(pthread_create(&watcher, NULL, watch, &load), 0);
    cr_assert(run_threads(8, load_it, &load));
    atomic_store(&load.is_over, true);
    pthread_join(watcher, NULL);
    cr_assert_eq(pool_stats(load.pool, &stats), POOL_OK);
    cr_expect_eq(stats.borrowed, load.good);
    cr_expect_eq(stats.borrow_failed, load.failed);
    cr_expect_geq(stats.bytes_in, 8ul * load.echoed);
    cr_expect_geq(stats.bytes_out, stats.bytes_in);
    cr_expect_leq(stats.bytes_out, 8ul * load.good);
    cr_expect_gt(load.echoed, 0);
    cr_expect_eq(stats.lent, 0);
    cr_expect_eq(stats.waiting, 0);
    cr_expect_gt(load.snapshots, 100);
    pool_destroy(load.pool);
    for (int i = 0; i < 3; i++)
        peer_stop(load.peers[i]);
}

/* What was opened and has not ended is there. */
Test(pool_stats, births_less_deaths_are_the_living)
{
    struct peer *peer = PEER(.own_process = true);
    struct pool *pool = MAKE_POOL();
    struct pool_stats stats = { .size = sizeof(stats) };
    struct pool_conn conns[10];

    for (int round = 0; round < 20; round++) {
        for (int i = 0; i < 10; i++)
            cr_assert(borrow(pool, peer_address(peer), &conns[i]));
        for (int i = 0; i < 10; i++)
            cr_assert_eq((i + round) % 3 ? pool_return(&conns[i]) : pool_discard(&conns[i]),
                         POOL_OK);
        cr_assert_eq(pool_stats(pool, &stats), POOL_OK);
        cr_expect_eq(stats.opened - ends_of(&stats), stats.total);
        cr_expect_eq(stats.total, stats.idle);
    }
    cr_expect_eq(stats.borrowed, 200);
    cr_expect_eq(stats.borrowed - stats.reused, stats.opened);
    pool_destroy(pool);
    peer_stop(peer);
}

static enum pool_status query(struct pool *pool, const struct peer *peer, uint32_t timeout_ms)
{
    struct pool_reply *reply = NULL;
    enum pool_status status = pool_query(pool, peer_address(peer), POOL_TEXT("word"),
                                         POOL_CALL(.timeout_ms = timeout_ms), &reply);

    pool_reply_free(reply);
    return status;
}

/* Also after its address was forgotten, and in its next life. */
Test(pool_stats, queries_are_counted_and_their_connection_is_shared)
{
    struct peer *peer = PEER(.behave = PEER_LINE_ECHO);
    struct pool *pool = MAKE_POOL(.codec = pool_codec_line(), .park_ms = 60000);

    for (int i = 0; i < 3; i++)
        cr_expect_eq(query(pool, peer, VERBS_SOON), POOL_OK);
    cr_expect_eq(STAT(pool, queries), 3);
    cr_expect_eq(STAT(pool, shared), 1);
    cr_expect_eq(STAT(pool, lent), 0);
    cr_expect_eq(pool_clear(pool, NULL, 0), POOL_OK);
    cr_assert(WAIT_STAT(pool, total, 0));
    cr_expect_eq(STAT(pool, queries), 3);
    cr_expect_eq(query(pool, peer, VERBS_SOON), POOL_OK);
    cr_expect_eq(STAT(pool, queries), 4);
    cr_expect_eq(STAT(pool, late_replies), 0);
    cr_expect_eq(STAT(pool, orphans), 0);
    pool_destroy(pool);
    peer_stop(peer);
}

Test(pool_stats, a_reply_that_comes_too_late_is_counted)
{
    struct peer *peer = PEER(.behave = PEER_LINE_ECHO, .delay_ms = 800);
    struct pool *pool = MAKE_POOL(.codec = pool_codec_line());

    cr_expect_eq(query(pool, peer, 400), POOL_E_TIMEOUT_IN_TRANSFER);
    cr_expect(WAIT_STAT(pool, late_replies, 1));
    cr_expect_eq(STAT(pool, orphans), 1);
    cr_expect_eq(STAT(pool, queries), 1);
    pool_destroy(pool);
    peer_stop(peer);
}

static int fail(struct pool_conn *conn, void *user)
{
    char byte;
    size_t got;

    (void)user;
    return pool_send(conn, "x", 1) || pool_recv(conn, &byte, 1, &got);
}

Test(pool_stats, calls_that_run_out_of_time_are_counted_once)
{
    struct peer *silent = PEER(.behave = PEER_SILENT), *hung = PEER(.behave = PEER_NEVER_ACCEPT);
    struct pool *pool = MAKE_POOL(.timeout_ms = 40);

    for (int i = 0; i < 3; i++) {
        cr_expect_eq(pool_communicate(pool, peer_address(silent), fail, NULL, NULL),
                     POOL_E_TIMEOUT_IN_TRANSFER);
        cr_expect_eq(pool_communicate(pool, peer_address(hung), fail, NULL, NULL), POOL_E_TIMEOUT);
    }
    cr_expect_eq(STAT(pool, timeouts), 6);
    cr_expect_eq(STAT(pool, borrow_failed), 3);
    cr_expect_eq(STAT(pool, borrowed), 3);
    pool_destroy(pool);
    peer_stop(silent);
    peer_stop(hung);
}

static void fail_by_hand(struct pool *pool, const char *address, bool is_discarded)
{
    struct pool_conn conn;

    cr_assert_eq(pool_borrow(pool, address, NULL, &conn), POOL_OK); /* the pool's timeout counts */
    cr_expect_eq(fail(&conn, NULL), 1);
    cr_expect_eq(is_discarded ? pool_discard(&conn) : pool_return(&conn), POOL_OK);
}

static int fail_and_discard(struct pool_conn *conn, void *user)
{
    int answer = fail(conn, user);

    pool_discard(conn);
    return answer;
}

Test(pool_stats, a_loan_by_hand_that_runs_out_of_time_is_counted_once_where_it_ends)
{
    struct peer *silent = PEER(.behave = PEER_SILENT);
    struct pool *pool = MAKE_POOL(.timeout_ms = 40);

    fail_by_hand(pool, peer_address(silent), false);
    cr_expect_eq(STAT(pool, timeouts), 1);
    fail_by_hand(pool, peer_address(silent), true);
    cr_expect_eq(STAT(pool, timeouts), 2);
    cr_expect_eq(pool_communicate(pool, peer_address(silent), fail_and_discard, NULL, NULL),
                 POOL_E_USER);
    cr_expect_eq(STAT(pool, timeouts), 2, "that call did not end for want of time");
    pool_destroy(pool);
    peer_stop(silent);
}

Test(pool_stats, an_idle_pool_does_not_wake_up)
{
    struct peer *peer = PEER(.own_process = true);
    struct pool *pool = MAKE_POOL(.park_ms = 1, .max_per_address = 100);
    static struct pool_conn conns[100];
    uint64_t before;
    int fd = -1;

    for (int i = 0; i < 100; i++)
        cr_assert(borrow(pool, peer_address(peer), &conns[i]));
    for (int i = 0; i < 100; i++) {
        fd = pool_conn_fd(&conns[i]);
        cr_assert_eq(pool_return(&conns[i]), POOL_OK);
    }
    cr_assert(wait_parked(fd));
    cr_expect_eq(listen_to(fd, 50), HEARD_NOTHING);
    before = STAT(pool, wakeups);
    cr_expect_eq(listen_to(fd, 500), HEARD_NOTHING);
    cr_expect_eq(STAT(pool, wakeups), before);
    pool_destroy(pool);
    peer_stop(peer);
}
