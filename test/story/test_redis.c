/* test_redis.c: the pool on a real Redis: commands from many threads, transactions, passwords by
 * the hook and by `prepare`, and a server that restarts. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "support/resp.h"
#include "support/servers.h"
#include "support/tests.h"
#include "support/verbs.h"

#define PASSWORD "correct-horse"

static struct server *start_redis(const char *password)
{
    struct server *redis = redis_start(password);

    if (!redis)
        cr_skip("%s", server_why_not());
    return redis;
}

static int ping(struct pool_conn *conn, void *user)
{
    char reply[RESP_TEXT];

    (void)user;
    return resp_ask(conn, reply, "PING") || strcmp(reply, "PONG");
}

static int set_and_get(struct pool_conn *conn, void *user)
{
    char reply[RESP_TEXT];

    if (resp_ask(conn, reply, "SET key:%u value:%u", *(unsigned *)user, *(unsigned *)user) ||
        strcmp(reply, "OK"))
        return -1;
    if (resp_ask(conn, reply, "GET key:%u", *(unsigned *)user))
        return -1;
    return strncmp(reply, "value:", 6) || strtoul(reply + 6, NULL, 10) != *(unsigned *)user;
}

Test(redis, answers_over_tcp_and_over_its_unix_socket)
{
    struct server *redis = start_redis(NULL);
    struct pool *pool = MAKE_POOL();
    unsigned number = 7;

    for (int i = 0; i < 10; i++) {
        cr_expect_eq(pool_communicate(pool, server_address(redis), ping, NULL, NULL), POOL_OK);
        cr_expect_eq(pool_communicate(pool, server_unix_address(redis), ping, NULL, NULL), POOL_OK);
        cr_expect_eq(pool_communicate(pool, server_unix_address(redis), set_and_get, &number, NULL),
                     POOL_OK);
    }
    cr_expect_eq(STAT(pool, opened), 2);
    pool_destroy(pool);
    server_stop(redis);
}

struct crowd {
    struct pool *pool;
    const char *address;
    unsigned rounds;
    atomic_uint failures;
};

static void ask_much(unsigned index, void *argument)
{
    struct crowd *crowd = argument;
    struct pool_error error = POOL_ERROR_INIT;
    unsigned number;

    for (unsigned i = 0; i < crowd->rounds; i++) {
        number = index * 100000 + i;
        if (pool_communicate(crowd->pool, crowd->address, set_and_get, &number,
                             POOL_CALL(.error = &error))) {
            fprintf(stderr, "%s\n", error.text);
            atomic_fetch_add(&crowd->failures, 1);
        }
    }
}

Test(redis, eight_threads_over_four_connections_read_what_they_wrote)
{
    struct server *redis = start_redis(NULL);
    struct crowd crowd = { .address = server_address(redis),
                           .pool = MAKE_POOL(.max_per_address = 4) };

    crowd.rounds = 2000 / slowness();
    cr_assert(run_threads(8, ask_much, &crowd));
    cr_expect_eq(crowd.failures, 0);
    cr_expect_leq(STAT(crowd.pool, opened), 4);
    pool_destroy(crowd.pool);
    server_stop(redis);
}

/* A transaction has its connection to itself, while others go on. */
static int transact(struct pool_conn *conn, void *user)
{
    char reply[RESP_TEXT], expected[RESP_TEXT];
    unsigned number = *(unsigned *)user;

    if (resp_ask(conn, reply, "MULTI") || strcmp(reply, "OK"))
        return -1;
    for (int i = 0; i < 5; i++)
        if (resp_ask(conn, reply, "SET multi:%u:%d %u", number, i, number) ||
            strcmp(reply, "QUEUED"))
            return -1;
    if (resp_ask(conn, reply, "GET multi:%u:3", number) || strcmp(reply, "QUEUED"))
        return -1;
    snprintf(expected, sizeof(expected), "OK OK OK OK OK %u", number);
    return resp_ask(conn, reply, "EXEC") || strcmp(reply, expected);
}

static void transact_or_ask(unsigned index, void *argument)
{
    struct crowd *crowd = argument;
    unsigned number;

    for (unsigned i = 0; i < crowd->rounds; i++) {
        number = index * 100000 + i;
        if (pool_communicate(crowd->pool, crowd->address, index % 2 ? transact : set_and_get,
                             &number, NULL))
            atomic_fetch_add(&crowd->failures, 1);
    }
}

Test(redis, a_transaction_is_not_disturbed_by_others)
{
    struct server *redis = start_redis(NULL);
    struct crowd crowd = { .address = server_address(redis),
                           .pool = MAKE_POOL(.max_per_address = 3) };

    crowd.rounds = 300 / slowness() + 1;
    cr_assert(run_threads(8, transact_or_ask, &crowd));
    cr_expect_eq(crowd.failures, 0);
    pool_destroy(crowd.pool);
    server_stop(redis);
}

/* A transaction begun and not ended is dirt that the pool cannot see; who breaks off says so. */
static int begin_transaction(struct pool_conn *conn, void *user)
{
    char reply[RESP_TEXT];

    (void)user;
    resp_ask(conn, reply, "MULTI");
    return 1;
}

Test(redis, a_transaction_broken_off_is_not_the_next_borrowers)
{
    struct server *redis = start_redis(NULL);
    struct pool *pool = MAKE_POOL();
    unsigned number = 1;

    cr_expect_eq(pool_communicate(pool, server_address(redis), begin_transaction, NULL, NULL),
                 POOL_E_USER);
    cr_expect_eq(pool_communicate(pool, server_address(redis), set_and_get, &number, NULL),
                 POOL_OK);
    pool_destroy(pool);
    server_stop(redis);
}

/* ---- a password, by blocking code */

static int prepare_auth(struct pool_conn *conn, void *user)
{
    char reply[RESP_TEXT];

    if (resp_ask(conn, reply, "AUTH %s", (const char *)user))
        return -1;
    return strcmp(reply, "OK") ? 77 : 0;
}

/* ---- and event by event, on the mux */

struct handshake {
    const char *password;
    struct resp_inbox inbox;
    unsigned lasts;
};

static void on_auth(struct pool_conn *conn, enum pool_event event, struct pool_bytes bytes,
                    void *user)
{
    struct handshake *handshake = user;
    char message[RESP_TEXT];

    if (event == POOL_EV_ERROR || event == POOL_EV_CLOSED)
        handshake->lasts++;
    if (event != POOL_EV_READ || resp_feed(&handshake->inbox, bytes))
        return;
    if (resp_next(&handshake->inbox, message) > 0)
        pool_conn_ready(conn, strncmp(message, "+OK", 3) ? POOL_E_ACCESS : POOL_OK);
}

static int hook_auth(struct pool_conn *conn, struct pool_actor *actor, void *user)
{
    struct handshake *handshake = user;
    char command[128];
    int size = snprintf(command, sizeof(command), "AUTH %s\r\n", handshake->password);

    (void)actor;
    handshake->inbox.size = 0;
    if (pool_conn_watch(conn, on_auth, handshake) || pool_write(conn, command, (size_t)size))
        return -1;
    return POOL_LATER;
}

static struct pool *authenticated(struct handshake *handshake, bool by_hook, const char *password)
{
    *handshake = (struct handshake){ .password = password };
    if (by_hook)
        return MAKE_POOL(.on_new_connection = hook_auth, .user = handshake);
    return MAKE_POOL(.prepare = prepare_auth, .user = (void *)(uintptr_t)password);
}

Test(redis, a_password_is_given_before_the_first_command_either_way)
{
    struct server *redis = start_redis(PASSWORD);
    static struct handshake handshake;
    struct pool_conn conns[4];
    char reply[RESP_TEXT];
    struct pool *pool;

    for (int by_hook = 0; by_hook < 2; by_hook++) {
        pool = authenticated(&handshake, by_hook, PASSWORD);
        for (int i = 0; i < 4; i++) {
            cr_assert(borrow(pool, server_address(redis), &conns[i]));
            cr_expect_eq(resp_ask(&conns[i], reply, "PING"), 0);
            cr_expect_str_eq(reply, "PONG");
        }
        for (int i = 0; i < 4; i++)
            cr_expect_eq(pool_return(&conns[i]), POOL_OK);
        for (int i = 0; i < 20; i++)
            cr_expect_eq(pool_communicate(pool, server_address(redis), ping, NULL, NULL), POOL_OK);
        cr_expect_eq(STAT(pool, opened), 4);
        pool_destroy(pool);
    }
    server_stop(redis);
}

Test(redis, a_wrong_password_is_an_error_to_the_borrower_and_leaves_nothing)
{
    struct server *redis = start_redis(PASSWORD);
    struct pool_error error = POOL_ERROR_INIT;
    static struct handshake handshake;
    struct pool_conn conn;
    struct pool *pool;

    for (int by_hook = 0; by_hook < 2; by_hook++) {
        pool = authenticated(&handshake, by_hook, "wrong");
        cr_expect_eq(pool_borrow(pool, server_address(redis), POOL_CALL(.error = &error), &conn),
                     by_hook ? POOL_E_ACCESS : POOL_E_USER, "%s", error.text);
        cr_expect_eq(error.phase, POOL_PHASE_SETUP);
        cr_expect_eq(error.cause, by_hook ? 0 : 77);
        cr_expect_not_null(strstr(error.text, server_address(redis)), "%s", error.text);
        cr_expect(WAIT_STAT(pool, total, 0));
        cr_expect_eq(STAT(pool, closed[POOL_CLOSE_ERROR]), 1);
        pool_destroy(pool);
    }
    server_stop(redis);
}

Test(redis, without_the_password_the_server_itself_refuses)
{
    struct server *redis = start_redis(PASSWORD);
    struct pool *pool = MAKE_POOL();
    char reply[RESP_TEXT];
    struct pool_conn conn;

    cr_assert(borrow(pool, server_address(redis), &conn));
    cr_expect_eq(resp_ask(&conn, reply, "PING"), 0);
    cr_expect_eq(strncmp(reply, "-NOAUTH", 7), 0, "%s", reply);
    pool_return(&conn);
    pool_destroy(pool);
    server_stop(redis);
}

/* A tenant is a key: what one selected, the other never meets. */
Test(redis, tenants_never_meet_each_others_session)
{
    struct server *redis = start_redis(NULL);
    struct pool *pool = MAKE_POOL();
    char addresses[2][128], reply[RESP_TEXT];
    struct pool_conn conn;

    for (int i = 0; i < 2; i++)
        snprintf(addresses[i], sizeof(addresses[i]), "%s?tenant=%d", server_address(redis), i);
    cr_assert(borrow(pool, addresses[0], &conn));
    cr_expect_eq(resp_ask(&conn, reply, "SELECT 5"), 0);
    cr_expect_eq(resp_ask(&conn, reply, "SET who zero"), 0);
    pool_return(&conn);
    for (int i = 0; i < 10; i++) {
        cr_assert(borrow(pool, addresses[i % 2], &conn));
        cr_expect_eq(resp_ask(&conn, reply, "GET who"), 0);
        cr_expect_str_eq(reply, i % 2 ? "(nil)" : "zero");
        pool_return(&conn);
    }
    pool_destroy(pool);
    server_stop(redis);
}

/* All idle ones die at once. */
static void restart_with(struct pool *pool, struct server *redis, unsigned idle)
{
    static struct pool_conn conns[256];

    for (unsigned i = 0; i < idle; i++)
        cr_assert(borrow(pool, server_address(redis), &conns[i]));
    for (unsigned i = 0; i < idle; i++)
        cr_expect_eq(pool_return(&conns[i]), POOL_OK);
    cr_assert(server_restart(redis));
    for (unsigned i = 0; i < 100; i++)
        cr_expect_eq(pool_communicate(pool, server_address(redis), ping, NULL, NULL), POOL_OK);
}

Test(redis, a_restart_with_200_idle_connections_costs_no_request, .timeout = 120)
{
    struct server *redis = start_redis(NULL);
    struct pool *pool = MAKE_POOL(.max_per_address = 256);

    restart_with(pool, redis, 200);
    cr_expect(WAIT_STAT(pool, total, 1), "the others go by themselves");
    cr_expect_leq(STAT(pool, opened), 202);
    pool_destroy(pool);
    server_stop(redis);
}

/* The same with nobody looking: what is safe to repeat is repeated once, on a fresh one. */
Test(redis, a_restart_costs_no_safe_request_even_when_nobody_looks)
{
    struct server *redis = start_redis(NULL);
    struct pool *pool = MAKE_POOL(.check = POOL_CHECK_NEVER, .park_ms = POOL_NONE);

    for (int i = 0; i < 3; i++) {
        cr_expect_eq(pool_communicate(pool, server_address(redis), ping, NULL, NULL), POOL_OK);
        cr_assert(server_restart(redis));
        cr_expect_eq(pool_communicate(pool, server_address(redis), ping, NULL,
                                      POOL_CALL(.flags = POOL_SAFE_TO_REPEAT)),
                     POOL_OK);
    }
    cr_expect_eq(STAT(pool, retries), 3);
    pool_destroy(pool);
    server_stop(redis);
}

Test(redis, a_server_that_is_down_is_refused_and_works_again_when_it_is_up)
{
    struct server *redis = start_redis(NULL);
    struct pool *pool = MAKE_POOL();

    cr_expect_eq(pool_communicate(pool, server_address(redis), ping, NULL, NULL), POOL_OK);
    server_down(redis);
    cr_expect_eq(pool_communicate(pool, server_address(redis), ping, NULL, NULL), POOL_E_REFUSED);
    cr_expect_eq(pool_communicate(pool, server_unix_address(redis), ping, NULL, NULL),
                 POOL_E_REFUSED);
    cr_assert(server_up(redis));
    cr_expect_eq(pool_communicate(pool, server_address(redis), ping, NULL, NULL), POOL_OK);
    pool_destroy(pool);
    server_stop(redis);
}

/* A command that blocks longer than the call may take: its late reply reaches nobody. */
static int block_too_long(struct pool_conn *conn, void *user)
{
    char reply[RESP_TEXT];

    (void)user;
    return resp_ask(conn, reply, "BLPOP nothing 0.2");
}

Test(redis, a_late_reply_of_a_blocking_command_reaches_nobody)
{
    struct server *redis = start_redis(NULL);
    struct pool *pool = MAKE_POOL();

    for (int i = 0; i < 5; i++) {
        cr_expect_eq(pool_communicate(pool, server_address(redis), block_too_long, NULL,
                                      POOL_CALL(.timeout_ms = 50)),
                     POOL_E_TIMEOUT_IN_TRANSFER);
        cr_expect_eq(pool_communicate(pool, server_address(redis), ping, NULL, NULL), POOL_OK);
    }
    pool_destroy(pool);
    server_stop(redis);
}
