/* test_replies.c: public bugs in which somebody got a reply that was not his. Each test is named
 * after its bug and shows that the same cannot happen here. */
#include <criterion/criterion.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>

#include "support/peer.h"
#include "support/resp.h"
#include "support/servers.h"
#include "support/tests.h"
#include "support/verbs.h"

static int use_token(struct pool_conn *conn, void *user)
{
    char back[16];

    if (pool_send(conn, user, 16) || pool_recv_exact(conn, back, 16))
        return -1;
    return memcmp(back, user, 16) ? 99 : 0;
}

static void expect_own_reply(struct pool *pool, struct peer *peer)
{
    static unsigned last;
    char token[32];

    snprintf(token, sizeof(token), "token %09x.", ++last);
    cr_expect_eq(pool_communicate(pool, peer_address(peer), use_token, token, NULL), POOL_OK);
}

/* redis-py #2624, CVE-2023-28858: a command cancelled after it was sent left its reply behind. */
static int give_up_after_sending(struct pool_conn *conn, void *user)
{
    (void)user;
    cr_expect_eq(pool_send(conn, "somebody's secret", 16), POOL_OK);
    return 0; /* "cancelled": and even says that all is well */
}

Test(museum_replies, redis_py_2624_cve_2023_28858)
{
    struct peer *peer = PEER(.behave = PEER_SLOW, .delay_ms = 2);
    struct pool *pool = MAKE_POOL();

    for (int i = 0; i < 50; i++) {
        cr_expect_eq(pool_communicate(pool, peer_address(peer), give_up_after_sending, NULL, NULL),
                     POOL_OK);
        expect_own_reply(pool, peer);
    }
    pool_destroy(pool);
    peer_stop(peer);
}

/* redis-py #2665, CVE-2023-28859: the mend forgot pipelines: several replies due, some read. */
static int give_up_in_a_pipeline(struct pool_conn *conn, void *user)
{
    char back[16];
    unsigned replies = *(unsigned *)user;

    for (int i = 0; i < 4; i++)
        if (pool_send(conn, "secret 123456789", 16))
            return -1;
    for (unsigned i = 0; i < replies; i++)
        if (pool_recv_exact(conn, back, 16))
            return -1;
    if (poll(&(struct pollfd){ .fd = pool_conn_fd(conn), .events = POLLIN }, 1, VERBS_SOON) != 1)
        return -1;
    return 0;
}

Test(museum_replies, redis_py_2665_cve_2023_28859)
{
    struct peer *peer = PEER(.message_bytes = 16);
    struct pool *pool = MAKE_POOL();

    for (unsigned i = 0; i < 40; i++) {
        unsigned replies = 1 + i % 3;

        cr_expect_eq(
            pool_communicate(pool, peer_address(peer), give_up_in_a_pipeline, &replies, NULL),
            POOL_OK);
        expect_own_reply(pool, peer);
    }
    pool_destroy(pool);
    peer_stop(peer);
}

/* The same on a real Redis, by a deadline. */
static int ask_slowly(struct pool_conn *conn, void *user)
{
    char reply[RESP_TEXT];

    (void)user;
    resp_ask(conn, reply, "BLPOP nothing 0.05");
    return 0;
}

static int ask_name(struct pool_conn *conn, void *user)
{
    char reply[RESP_TEXT];

    return resp_ask(conn, reply, "ECHO %s", (const char *)user) || strcmp(reply, user) ? 99 : 0;
}

Test(museum_replies, redis_py_2624_on_redis_itself)
{
    struct server *redis = redis_start(NULL);
    struct pool *pool = MAKE_POOL();
    char name[32];

    if (!redis)
        cr_skip("%s", server_why_not());
    for (int i = 0; i < 40; i++) {
        pool_communicate(pool, server_address(redis), ask_slowly, NULL,
                         POOL_CALL(.timeout_ms = 1 + (unsigned)i));
        snprintf(name, sizeof(name), "name-%d", i);
        cr_expect_eq(pool_communicate(pool, server_address(redis), ask_name, name, NULL), POOL_OK);
    }
    pool_destroy(pool);
    server_stop(redis);
}

/* Jedis #186, #476: a connection returned twice was lent to two. */
Test(museum_replies, jedis_186_476_returned_twice)
{
    struct peer *peer = PEER();
    struct pool *pool = MAKE_POOL();
    struct pool_conn first, copy, second, third;

    cr_assert(borrow(pool, peer_address(peer), &first));
    copy = first;
    cr_expect_eq(pool_return(&first), POOL_OK);
    cr_expect_eq(pool_return(&copy), POOL_E_ARGUMENT);
    cr_assert(borrow(pool, peer_address(peer), &second));
    cr_expect_eq(pool_return(&copy), POOL_E_ARGUMENT, "it is another's now");
    cr_expect_eq(pool_discard(&copy), POOL_E_ARGUMENT);
    cr_assert(borrow(pool, peer_address(peer), &third));
    cr_expect_neq(pool_conn_id(&second), pool_conn_id(&third), "two have one connection");
    cr_expect_eq(echo(&second, "second"), 0);
    cr_expect_eq(echo(&third, "third"), 0);
    pool_return(&second);
    pool_return(&third);
    pool_destroy(pool);
    peer_stop(peer);
}

/* HAProxy 1c59bd5ab: queued twice as idle. */
Test(museum_replies, haproxy_1c59bd5ab_listed_twice)
{
    struct peer *peer = PEER();
    struct pool *pool = MAKE_POOL();
    struct pool_conn conns[3], copies[3];

    for (int round = 0; round < 20; round++) {
        for (int i = 0; i < 3; i++)
            cr_assert(borrow(pool, peer_address(peer), &conns[i]));
        for (int i = 0; i < 3; i++) {
            copies[i] = conns[i];
            cr_expect_eq(pool_return(&conns[i]), POOL_OK);
            for (int j = 0; j <= i; j++)
                cr_expect_eq(pool_return(&copies[j]), POOL_E_ARGUMENT);
        }
        cr_expect_eq(STAT(pool, idle), 3);
        cr_expect_eq(STAT(pool, total), 3);
    }
    pool_destroy(pool);
    peer_stop(peer);
}

/* Go #22158: the server closes the idle connection while it is taken for the next request. The
 * first write after its end still succeeds; only the answer tells. */
struct count {
    unsigned runs;
};

static int ask_counted(struct pool_conn *conn, void *user)
{
    ((struct count *)user)->runs++;
    return echo(conn, "ping");
}

static enum pool_status race_the_end(uint32_t flags, struct count *count, struct pool_error *error)
{
    struct peer *peer = PEER();
    struct pool *pool = MAKE_POOL(.check = POOL_CHECK_NEVER, .park_ms = POOL_NONE);
    enum pool_status status;

    cr_expect_eq(talk(pool, peer_address(peer)), POOL_OK);
    cr_assert_eq(peer_close_all(peer), 1);
    status = pool_communicate(pool, peer_address(peer), ask_counted, count,
                              POOL_CALL(.flags = flags, .error = error));
    pool_destroy(pool);
    peer_stop(peer);
    return status;
}

Test(museum_replies, go_22158_keep_alive_race)
{
    struct pool_error error = POOL_ERROR_INIT;
    struct count count = { 0 };
    enum pool_status status = race_the_end(0, &count, &error);

    cr_expect(status == POOL_E_CLOSED || status == POOL_E_BROKEN);
    cr_expect_eq(count.runs, 1,
                 "it was on the wire: only the program knows whether twice does harm");
    cr_expect_eq(error.outcome, POOL_MAYBE_SENT);
}

/* Go #19943: a request that is not idempotent was sent again. */
Test(museum_replies, go_19943_repeated_only_when_told_so)
{
    struct count count = { 0 };

    cr_expect_eq(race_the_end(POOL_SAFE_TO_REPEAT, &count, NULL), POOL_OK);
    cr_expect_eq(count.runs, 2);
}

/* Go, "Unsolicited response received on idle HTTP channel": it was logged; here it never reaches
 * the next request. */
Test(museum_replies, go_unsolicited_response_on_an_idle_connection)
{
    struct peer *peer = PEER();
    struct pool *pool = MAKE_POOL(.park_ms = POOL_NONE);
    struct pool_conn conn;
    int fd;

    for (uint32_t i = 0; i < 20; i++) {
        cr_assert(borrow(pool, peer_address(peer), &conn));
        fd = pool_conn_fd(&conn);
        cr_assert_eq(pool_return(&conn), POOL_OK);
        cr_assert_eq(peer_push(peer, i, "HTTP/1.1 200 OK\r\n\r\n", 19), 1);
        cr_assert_eq(listen_to(fd, VERBS_SOON), HEARD_BYTES);
        cr_expect_eq(id_of_next(pool, peer_address(peer)), i + 2);
    }
    pool_destroy(pool);
    peer_stop(peer);
}

/* ClickHouse #110402: data together with an end must not look like either alone, nor like
 * health. */
Test(museum_replies, clickhouse_110402_data_and_end_together)
{
    struct peer *peer = PEER();
    struct pool *pool = MAKE_POOL(.park_ms = POOL_NONE);
    struct pool_conn conn;
    int fd;

    for (uint32_t i = 0; i < 10; i++) {
        cr_assert(borrow(pool, peer_address(peer), &conn));
        fd = pool_conn_fd(&conn);
        cr_assert_eq(pool_return(&conn), POOL_OK);
        cr_assert_eq(peer_push(peer, i, "x", 1), 1);
        cr_assert_eq(peer_half_close(peer, i), 1);
        cr_assert_eq(listen_to(fd, VERBS_SOON), HEARD_BYTES);
        cr_expect_eq(id_of_next(pool, peer_address(peer)), i + 2);
    }
    pool_destroy(pool);
    peer_stop(peer);
}

/* StackExchange.Redis, hiredis #1128: the time-out of one command closed the connection and failed
 * all others. Here each has his own. */
struct other {
    struct pool *pool;
    struct peer *peer;
    atomic_bool is_over;
    atomic_uint failures, good;
};

static void ask_or_time_out(unsigned index, void *argument)
{
    struct other *other = argument;
    char token[32];

    for (unsigned i = 0; i < 100; i++) {
        snprintf(token, sizeof(token), "t %03u round %04u.", index, i);
        if (index == 0)
            pool_communicate(other->pool, peer_address(other->peer), use_token, token,
                             POOL_CALL(.timeout_ms = 1));
        else if (pool_communicate(other->pool, peer_address(other->peer), use_token, token, NULL))
            atomic_fetch_add(&other->failures, 1);
        else
            atomic_fetch_add(&other->good, 1);
    }
}

Test(museum_replies, hiredis_1128_one_timeout_fails_nobody_else)
{
    struct other other = { .peer = PEER(.behave = PEER_SLOW, .delay_ms = 3, .own_process = true) };

    other.pool = MAKE_POOL();
    cr_assert(run_threads(4, ask_or_time_out, &other));
    cr_expect_eq(other.failures, 0);
    cr_expect_eq(other.good, 300);
    pool_destroy(other.pool);
    peer_stop(other.peer);
}
