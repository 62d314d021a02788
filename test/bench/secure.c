/* secure.c: what TLS costs through the pool: a whole exchange, a handshake that continues an
 * earlier session, memory of an idle connection.
 */
#include <openssl/crypto.h>
#include <stdio.h>
#include <stdlib.h>

#include "bench.h"
#include "secure_peer.h"

#define ROUNDS 151u /* short ones, since the limit is close to 1 */
#define TIMES 200u
#define BYTES 64u
#define DIAL_ROUNDS 41u
#define DIALS 10u
#define CONNECTIONS 400u

/* ---- an exchange */

struct exchange {
    struct secure_echo echo;
    struct pool *pool;
    SSL *bare;
    char request[BYTES], reply[BYTES];
};

static int use(struct pool_conn *conn, void *user)
{
    struct exchange *exchange = user;

    if (pool_send(conn, exchange->request, BYTES))
        return 1;
    return pool_recv_exact(conn, exchange->reply, BYTES) != POOL_OK;
}

static double round_pool(void *user)
{
    struct exchange *exchange = user;
    uint64_t start_ns = 0;

    for (unsigned i = 0; i <= TIMES; i++) {
        if (i == 1)
            start_ns = now_ns();
        need_ok(pool_communicate(exchange->pool, exchange->echo.address, use, exchange, NULL),
                "pool_communicate");
    }
    return (double)(now_ns() - start_ns) / TIMES;
}

static double round_bare(void *user)
{
    struct exchange *exchange = user;
    uint64_t start_ns = 0;

    for (unsigned i = 0; i <= TIMES; i++) {
        if (i == 1)
            start_ns = now_ns();
        need(SSL_write(exchange->bare, exchange->request, BYTES) == BYTES, "SSL_write");
        need(SSL_read(exchange->bare, exchange->reply, BYTES) == BYTES, "SSL_read");
    }
    return (double)(now_ns() - start_ns) / TIMES;
}

/* Both ends on one core, as for the plain figure. */
void figure_tls_roundtrip(const char *name)
{
    struct exchange exchange = { .bare = NULL };

    pin_to_core(0);
    secure_echo_start(&exchange.echo, 0);
    need_ok(pool_create(POOL_OPTIONS(.tls = exchange.echo.trust, .check = POOL_CHECK_PARKED),
                        &exchange.pool),
            "pool_create");
    exchange.bare = secure_echo_connect(&exchange.echo);
    report_comparison(name, alternate(ROUNDS, round_pool, round_bare, &exchange), 1.05);
    secure_echo_close(exchange.bare);
    pool_destroy(exchange.pool);
    secure_echo_stop(&exchange.echo);
}

/* ---- handshakes */

struct dialing {
    struct secure_echo echo;
    struct pool *pool;
    unsigned tenants, dials, resumed;
};

/* From the call to a connection that is ready. Its tickets come with the answer. */
static uint64_t dial(struct dialing *dialing, const char *address)
{
    struct pool_tls_info info = { .size = sizeof(info) };
    struct pool_conn conn;
    uint64_t start_ns = now_ns(), took_ns;
    char back[2];

    need_ok(pool_borrow(dialing->pool, address, NULL, &conn), "pool_borrow");
    took_ns = now_ns() - start_ns;
    need_ok(pool_send(&conn, "hi", 2), "pool_send");
    need_ok(pool_recv_exact(&conn, back, 2), "pool_recv_exact");
    need_ok(pool_conn_tls(&conn, &info), "pool_conn_tls");
    dialing->resumed += info.resumed;
    need_ok(pool_discard(&conn), "pool_discard");
    return took_ns;
}

static double round_resumed(void *user)
{
    struct dialing *dialing = user;
    uint64_t spent_ns = 0;

    for (unsigned i = 0; i < DIALS; i++, dialing->dials++)
        spent_ns += dial(dialing, dialing->echo.address);
    return (double)spent_ns / DIALS;
}

/* Each of them under a key of its own, which has no session. */
static double round_full(void *user)
{
    struct dialing *dialing = user;
    unsigned before = dialing->resumed;
    uint64_t spent_ns = 0;
    char address[80];

    for (unsigned i = 0; i < DIALS; i++) {
        snprintf(address, sizeof(address), "%s?tenant=%u", dialing->echo.address,
                 dialing->tenants++);
        spent_ns += dial(dialing, address);
    }
    need(dialing->resumed == before, "no session under a new key");
    return (double)spent_ns / DIALS;
}

static void dialing_begin(struct dialing *dialing)
{
    *dialing = (struct dialing){ .tenants = 0 };
    pin_to_core(0);
    secure_echo_start(&dialing->echo, 0);
    need_ok(pool_create(POOL_OPTIONS(.tls = dialing->echo.trust), &dialing->pool), "pool_create");
    dial(dialing, dialing->echo.address);
}

static void dialing_end(struct dialing *dialing)
{
    pool_destroy(dialing->pool);
    secure_echo_stop(&dialing->echo);
}

void figure_tls_resume(const char *name)
{
    struct dialing dialing;

    dialing_begin(&dialing);
    report_comparison(name, alternate(DIAL_ROUNDS, round_resumed, round_full, &dialing), 0.6);
    dialing_end(&dialing);
}

/* Dials after the first one that began a session of their own. */
void figure_tls_resume_missed(const char *name)
{
    struct dialing dialing;

    dialing_begin(&dialing);
    repeat(DIAL_ROUNDS, round_resumed, &dialing);
    report(name, dialing.dials - dialing.resumed, 0);
    dialing_end(&dialing);
}

/* ---- memory */

static void *ssl_malloc(size_t size, const char *file, int line)
{
    (void)file, (void)line;
    return size ? heap_malloc(size) : NULL;
}

static void *ssl_realloc(void *memory, size_t size, const char *file, int line)
{
    (void)file, (void)line;
    return heap_realloc(memory, size);
}

static void ssl_free(void *memory, const char *file, int line)
{
    (void)file, (void)line;
    heap_free(memory);
}

static uint64_t wakeups_of(struct pool *pool)
{
    struct pool_stats stats = { .size = sizeof(stats) };

    need_ok(pool_stats(pool, &stats), "pool_stats");
    return stats.wakeups;
}

/* Until the mux has parked them all, which shows in its not waking up any more. */
static void settle(struct pool *pool)
{
    uint64_t before, after = wakeups_of(pool);

    for (unsigned quiet = 0, tries = 0; quiet < 3 && tries < 50; tries++) {
        before = after;
        rest_ms(200);
        after = wakeups_of(pool);
        quiet = after == before ? quiet + 1 : 0;
    }
}

static double bytes_of_pool(const struct secure_echo *echo)
{
    static struct pool_conn conns[CONNECTIONS + 1];
    struct pool *pool;
    int64_t heap = 0;
    char back[2];

    need_ok(pool_create(POOL_OPTIONS(.tls = echo->trust, .max_per_address = CONNECTIONS + 1),
                        &pool),
            "pool_create");
    for (unsigned i = 0; i <= CONNECTIONS; i++) {
        need_ok(pool_borrow(pool, echo->address, NULL, &conns[i]), "pool_borrow");
        need_ok(pool_send(&conns[i], "hi", 2), "pool_send");
        need_ok(pool_recv_exact(&conns[i], back, 2), "pool_recv_exact");
        if (i == 0)
            heap = heap_bytes();
    }
    for (unsigned i = 0; i <= CONNECTIONS; i++)
        need_ok(pool_return(&conns[i]), "pool_return");
    settle(pool);
    heap = heap_bytes() - heap;
    pool_destroy(pool);
    return (double)heap / CONNECTIONS;
}

static double bytes_of_bare(const struct secure_echo *echo)
{
    static SSL *bare[CONNECTIONS + 1];
    int64_t heap = 0;
    char back[2];

    for (unsigned i = 0; i <= CONNECTIONS; i++) {
        bare[i] = secure_echo_connect(echo);
        need(SSL_write(bare[i], "hi", 2) == 2 && SSL_read(bare[i], back, 2) == 2, "an exchange");
        if (i == 0)
            heap = heap_bytes();
    }
    heap = heap_bytes() - heap;
    for (unsigned i = 0; i <= CONNECTIONS; i++)
        secure_echo_close(bare[i]);
    return (double)heap / CONNECTIONS;
}

/* Heap alone, OpenSSL's and ours: what is mapped besides is counted by idle-bytes. One connection
 * exists before, so that what is needed once is left out. */
void figure_tls_idle_bytes(const char *name)
{
    struct comparison bytes;
    struct secure_echo echo;

    need(CRYPTO_set_mem_functions(ssl_malloc, ssl_realloc, ssl_free), "CRYPTO_set_mem_functions");
    heap_begin();
    secure_echo_start(&echo, -1);
    bytes.reference = bytes_of_bare(&echo);
    bytes.ours = bytes_of_pool(&echo);
    bytes.ratio = bytes.ours / bytes.reference;
    report_comparison(name, bytes, 1.1);
    secure_echo_stop(&echo);
}
