/* test_tls_servers.c: the pool on real servers over TLS: nginx with TLS 1.2 and with TLS 1.3, and
 * Redis. Connections stay warm, handshakes are resumed, and nobody is believed without proof. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "support/resp.h"
#include "support/servers.h"
#include "support/tests.h"
#include "support/verbs.h"

static struct credential *authority, *credential;
static struct pool_tls *trust;

static void begin(void)
{
    authority = CREDENTIAL(NULL, .common_name = "test authority", .is_authority = true);
    credential = CREDENTIAL(authority, .names = "DNS:web.test,IP:127.0.0.1");
    cr_assert_eq(
        pool_tls_create(POOL_TLS_OPTIONS(.ca_pem = authority->certificate), &trust, NULL),
        POOL_OK);
}

static void end(void)
{
    pool_tls_free(trust);
    credential_free(credential);
    credential_free(authority);
}

TestSuite(tls_servers, .init = begin, .fini = end, .timeout = 120);

static struct server *need(struct server *server)
{
    if (!server)
        cr_skip("%s", server_why_not());
    return server;
}

static bool is_next_resumed(struct pool *pool, const char *address, const char *version)
{
    struct pool_tls_info info = { .size = sizeof(info) };
    struct pool_conn conn;

    cr_assert(borrow(pool, address, &conn));
    cr_assert_eq(pool_conn_tls(&conn, &info), POOL_OK);
    cr_expect(info.secure);
    if (version)
        cr_expect_str_eq(info.version, version);
    pool_return(&conn);
    return info.resumed;
}

/* ---- nginx */

static int get(struct pool_conn *conn, void *user)
{
    static const char request[] = "GET /kilo.txt HTTP/1.1\r\nHost: web.test\r\n\r\n";
    struct pool_bytes line;
    size_t size = 0;
    char body[1024];

    (void)user;
    if (pool_send(conn, request, sizeof(request) - 1))
        return -1;
    do {
        if (pool_recv_until(conn, "\r\n", 2, &line))
            return -1;
        if (line.size > 16 && strncasecmp(line.data, "Content-Length: ", 16) == 0)
            size = strtoul((const char *)line.data + 16, NULL, 10);
    } while (line.size > 2);
    if (size != sizeof(body) || pool_recv_exact(conn, body, size))
        return -1;
    return body[0] != 'k' || body[1023] != 'k';
}

static enum pool_status fetch(struct pool *pool, const char *address)
{
    return pool_communicate(pool, address, get, NULL, POOL_CALL(.flags = POOL_SAFE_TO_REPEAT));
}

static void fetch_much(struct server *nginx, const char *version)
{
    struct pool *pool = MAKE_POOL(.tls = trust, .park_ms = 1, .max_per_address = 1);

    for (int i = 0; i < 100; i++)
        cr_assert_eq(fetch(pool, server_address(nginx)), POOL_OK);
    cr_expect_eq(STAT(pool, opened), 1, "it stays warm");
    cr_expect_not(is_next_resumed(pool, server_address(nginx), version));
    for (int i = 0; i < 10; i++) {
        cr_assert_eq(pool_clear(pool, NULL, 0), POOL_OK);
        cr_assert_eq(fetch(pool, server_address(nginx)), POOL_OK);
        cr_expect(is_next_resumed(pool, server_address(nginx), version), "dial %d", i);
    }
    cr_expect_eq(STAT(pool, opened), 11);
    pool_destroy(pool);
}

Test(tls_servers, nginx_is_kept_alive_and_resumed_over_tls_12)
{
    struct server *nginx = need(nginx_start_secure(credential, true));

    fetch_much(nginx, "TLSv1.2");
    server_stop(nginx);
}

Test(tls_servers, nginx_is_kept_alive_and_resumed_over_tls_13)
{
    struct server *nginx = need(nginx_start_secure(credential, false));

    fetch_much(nginx, "TLSv1.3");
    server_stop(nginx);
}

struct crowd {
    struct pool *pool;
    const char *address;
    atomic_uint failures;
};

static void fetch_in_crowd(unsigned index, void *argument)
{
    struct crowd *crowd = argument;

    (void)index;
    for (int i = 0; i < 50; i++)
        crowd->failures += fetch(crowd->pool, crowd->address) != POOL_OK;
}

Test(tls_servers, nginx_answers_many_threads)
{
    struct server *nginx = need(nginx_start_secure(credential, false));
    struct crowd crowd = { .pool = MAKE_POOL(.tls = trust, .max_per_address = 4),
                           .address = server_address(nginx) };

    cr_assert(run_threads(8, fetch_in_crowd, &crowd));
    cr_expect_eq(crowd.failures, 0);
    cr_expect_leq(STAT(crowd.pool, opened), 4);
    pool_destroy(crowd.pool);
    server_stop(nginx);
}

Test(tls_servers, nginx_that_restarts_is_talked_to_again)
{
    struct server *nginx = need(nginx_start_secure(credential, false));
    struct pool *pool = MAKE_POOL(.tls = trust);

    for (int i = 0; i < 3; i++) {
        cr_expect_eq(fetch(pool, server_address(nginx)), POOL_OK);
        cr_assert(server_restart(nginx));
    }
    cr_expect_eq(fetch(pool, server_address(nginx)), POOL_OK);
    pool_destroy(pool);
    server_stop(nginx);
}

Test(tls_servers, nobody_is_believed_who_cannot_prove_its_name)
{
    struct server *nginx = need(nginx_start_secure(credential, false));
    struct pool *trusting = MAKE_POOL(.tls = trust), *wary = MAKE_POOL();
    struct pool_error error = POOL_ERROR_INIT;
    struct pool_conn conn;
    char address[96];

    snprintf(address, sizeof(address), "%s?sni=bank.test", server_address(nginx));
    cr_expect_eq(pool_borrow(trusting, address, POOL_CALL(.error = &error), &conn), POOL_E_TLS);
    cr_expect_not_null(strstr(error.text, "hostname mismatch"), "%s", error.text);
    cr_expect_eq(pool_borrow(wary, server_address(nginx), POOL_CALL(.error = &error), &conn),
                 POOL_E_TLS);
    cr_expect_not_null(strstr(error.text, "issuer"), "%s", error.text);
    cr_expect_eq(fetch(trusting, server_address(nginx)), POOL_OK);
    pool_destroy(wary);
    pool_destroy(trusting);
    server_stop(nginx);
}

/* ---- Redis */

static int set_and_get(struct pool_conn *conn, void *user)
{
    unsigned number = *(unsigned *)user;
    char reply[RESP_TEXT];

    if (resp_ask(conn, reply, "SET key:%u value:%u", number, number) || strcmp(reply, "OK"))
        return -1;
    if (resp_ask(conn, reply, "GET key:%u", number) || strncmp(reply, "value:", 6))
        return -1;
    return strtoul(reply + 6, NULL, 10) != number;
}

static void ask_in_crowd(unsigned index, void *argument)
{
    struct crowd *crowd = argument;

    for (unsigned i = 0; i < 200; i++) {
        unsigned number = index * 1000 + i;

        crowd->failures += pool_communicate(crowd->pool, crowd->address, set_and_get, &number,
                                            NULL) != POOL_OK;
    }
}

Test(tls_servers, redis_answers_each_caller_its_own)
{
    struct server *redis = need(redis_start_secure(credential));
    struct crowd crowd = { .pool = MAKE_POOL(.tls = trust, .max_per_address = 4, .park_ms = 1),
                           .address = server_address(redis) };

    cr_assert(run_threads(8, ask_in_crowd, &crowd));
    cr_expect_eq(crowd.failures, 0);
    cr_expect_leq(STAT(crowd.pool, opened), 4);
    cr_assert_eq(pool_clear(crowd.pool, NULL, 0), POOL_OK);
    cr_expect(is_next_resumed(crowd.pool, crowd.address, NULL));
    pool_destroy(crowd.pool);
    server_stop(redis);
}
