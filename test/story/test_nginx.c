/* test_nginx.c: the pool on a real nginx: kept-alive HTTP/1.1, a server that closes after so many
 * requests, and one that restarts. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "support/servers.h"
#include "support/tests.h"
#include "support/verbs.h"

struct page {
    const char *path;
    int status;
    bool closes;
    size_t size;
    char body[2048];
};

static int read_head(struct pool_conn *conn, struct page *page)
{
    struct pool_bytes line;

    if (pool_recv_until(conn, "\r\n", 2, &line) ||
        sscanf(line.data, "HTTP/1.1 %d", &page->status) != 1)
        return -1;
    while (pool_recv_until(conn, "\r\n", 2, &line) == POOL_OK) {
        if (line.size == 2)
            return 0;
        if (line.size > 16 && strncasecmp(line.data, "Content-Length: ", 16) == 0)
            page->size = strtoul((const char *)line.data + 16, NULL, 10);
        if (line.size > 17 && strncasecmp(line.data, "Connection: close", 17) == 0)
            page->closes = true;
    }
    return -1;
}

static int get(struct pool_conn *conn, void *user)
{
    struct page *page = user;
    char request[256];
    int size =
        snprintf(request, sizeof(request), "GET %s HTTP/1.1\r\nHost: test\r\n\r\n", page->path);

    page->size = page->closes = 0;
    if (pool_send(conn, request, (size_t)size) || read_head(conn, page))
        return -1;
    if (page->size > sizeof(page->body) || pool_recv_exact(conn, page->body, page->size))
        return -1;
    if (page->closes)
        pool_conn_drain(conn);
    return 0;
}

static struct server *start_nginx(void)
{
    struct server *nginx = nginx_start();

    if (!nginx)
        cr_skip("%s", server_why_not());
    return nginx;
}

static enum pool_status fetch(struct pool *pool, struct server *nginx, struct page *page)
{
    return pool_communicate(pool, server_address(nginx), get, page,
                            POOL_CALL(.flags = POOL_SAFE_TO_REPEAT));
}

Test(nginx, answers_many_requests_on_one_kept_alive_connection)
{
    struct server *nginx = start_nginx();
    struct pool *pool = MAKE_POOL();
    struct page page = { .path = "/" }, kilo = { .path = "/kilo.txt" },
                none = { .path = "/nothing-here" };

    for (int i = 0; i < 100; i++) {
        cr_assert_eq(fetch(pool, nginx, &page), POOL_OK);
        cr_expect_eq(page.status, 200);
        cr_expect_eq(page.size, strlen(NGINX_SMALL));
        cr_expect_eq(memcmp(page.body, NGINX_SMALL, page.size), 0);
        cr_assert_eq(fetch(pool, nginx, &kilo), POOL_OK);
        cr_expect_eq(kilo.size, 1024);
        cr_expect(kilo.body[0] == 'k' && kilo.body[1023] == 'k');
        cr_assert_eq(fetch(pool, nginx, &none), POOL_OK);
        cr_expect_eq(none.status, 404);
    }
    cr_expect_eq(STAT(pool, opened), 1);
    pool_destroy(pool);
    server_stop(nginx);
}

struct crowd {
    struct pool *pool;
    struct server *nginx;
    unsigned rounds;
    atomic_uint good, bad;
};

static void fetch_much(unsigned index, void *argument)
{
    struct crowd *crowd = argument;
    struct page small = { .path = "/small.txt" }, kilo = { .path = "/kilo.txt" };

    for (unsigned i = 0; i < crowd->rounds; i++) {
        struct page *page = (index + i) % 2 ? &small : &kilo;
        bool is_good = fetch(crowd->pool, crowd->nginx, page) == POOL_OK && page->status == 200 &&
                       page->size == ((index + i) % 2 ? strlen(NGINX_SMALL) : 1024) &&
                       page->body[0] == ((index + i) % 2 ? NGINX_SMALL[0] : 'k');

        atomic_fetch_add(is_good ? &crowd->good : &crowd->bad, 1);
    }
}

Test(nginx, serves_eight_threads_over_four_connections_without_a_failure, .timeout = 120)
{
    struct crowd crowd = { .nginx = start_nginx(), .pool = MAKE_POOL(.max_per_address = 4) };

    crowd.rounds = 1500 / slowness();
    cr_assert(run_threads(8, fetch_much, &crowd));
    cr_expect_eq(crowd.bad, 0);
    cr_expect_eq(crowd.good, 8 * crowd.rounds);
    cr_expect_leq(STAT(crowd.pool, total), 4);
    pool_destroy(crowd.pool);
    server_stop(crowd.nginx);
}

/* The keep-alive race: the server closes idle connections while they are borrowed again. */
Test(nginx, that_restarts_costs_no_request)
{
    struct server *nginx = start_nginx();
    struct pool *pool = MAKE_POOL(.park_ms = 1);
    struct page page = { .path = "/" };

    for (int i = 0; i < 5; i++) {
        for (int j = 0; j < 20; j++)
            cr_expect_eq(fetch(pool, nginx, &page), POOL_OK);
        cr_assert(server_restart(nginx));
    }
    pool_destroy(pool);
    server_stop(nginx);
}

/* More came than was read; what is left is nobody's. */
static int ask_twice_read_once(struct pool_conn *conn, void *user)
{
    static const char twice[] =
        "GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /kilo.txt HTTP/1.1\r\nHost: a\r\n\r\n";
    struct page *page = user;
    struct pool_bytes line;

    if (pool_send(conn, twice, sizeof(twice) - 1) || read_head(conn, page))
        return -1;
    if (pool_recv_exact(conn, page->body, page->size))
        return -1;
    return pool_recv_until(conn, "\r\n", 2, &line); /* the second one has come, and stays */
}

Test(nginx, a_response_that_nobody_read_reaches_no_next_borrower)
{
    struct server *nginx = start_nginx();
    struct pool *pool = MAKE_POOL();
    struct page page = { .path = "/" };

    for (int i = 0; i < 20; i++) {
        page.size = 0;
        cr_expect_eq(
            pool_communicate(pool, server_address(nginx), ask_twice_read_once, &page, NULL),
            POOL_OK);
        cr_expect_eq(fetch(pool, nginx, &page), POOL_OK);
        cr_expect_eq(page.size, strlen(NGINX_SMALL));
    }
    pool_destroy(pool);
    server_stop(nginx);
}
