/* stress_secure.c: threads share a pool of tls:// addresses, throw connections away, clear, evict
 * and kill them, reload the settings, and end the pool under one another; each answer must be the
 * asker's own. For TSan. */
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "stress/stress.h"
#include "support/tests.h"
#include "support/tls_peer.h"

#define THREADS 6
#define ADDRESSES 3
#define PART_MS 1000

static struct credential *authority, *credential;
static struct pool_tls *trust;
static struct tls_peer *peer;
static struct pool *pool;
static char addresses[ADDRESSES][80];
static atomic_uint exchanges, resumed, reloads, pools;

/* A question that nobody else asks, and its echo. 0: it came; -1: the connection failed. */
static int ask(struct stress_caller *caller, struct pool_conn *conn)
{
    char question[64], answer[64];
    int size = snprintf(question, sizeof(question), "[%u] %llu", caller->thread,
                        (unsigned long long)++caller->serial);

    if (pool_send(conn, question, (size_t)size) || pool_recv_exact(conn, answer, (size_t)size))
        return -1;
    if (memcmp(question, answer, (size_t)size) != 0)
        stress_fail("asked %s, got %.*s", question, size, answer);
    atomic_fetch_add(&exchanges, 1);
    return 0;
}

/* Some leave the rest of their answer: nobody else may get it. */
static int use(struct pool_conn *conn, void *user)
{
    struct stress_caller *caller = user;
    struct pool_tls_info info = { .size = sizeof(info) };
    char byte;

    if (pool_conn_tls(conn, &info) == POOL_OK) {
        if (!info.secure)
            stress_fail("a connection in the clear");
        resumed += info.resumed;
    }
    for (unsigned i = 1 + stress_below(caller, 3); i > 0; i--) {
        if (ask(caller, conn))
            return -1;
    }
    if (stress_chance(caller, 3))
        return pool_send(conn, "and more", 8) || pool_recv_exact(conn, &byte, 1);
    return 0;
}

static void borrow_by_hand(struct stress_caller *caller, const char *address)
{
    struct pool_conn conn;

    if (pool_borrow(pool, address, POOL_CALL(.timeout_ms = 20000), &conn))
        return;
    use(&conn, caller);
    if (stress_chance(caller, 20))
        pool_discard(&conn);
    else
        pool_return(&conn);
}

static void disturb(struct stress_caller *caller, const char *address)
{
    const struct pool_tls_options *options = POOL_TLS_OPTIONS(.ca_pem = authority->certificate);

    switch (stress_below(caller, 6)) {
    case 0:
        pool_clear(pool, address, stress_chance(caller, 50) ? POOL_INTERRUPT : 0);
        break;
    case 1:
        pool_remove_some_connection(pool);
        break;
    case 2:
        pool_kill(pool, 1 + stress_below(caller, 200));
        break;
    case 3:
        if (pool_tls_reload(trust, options, NULL))
            stress_fail("no reload");
        atomic_fetch_add(&reloads, 1);
        break;
    default:
        tls_peer_tell(peer, stress_chance(caller, 50) ? ORDER_KEY_UPDATE : ORDER_TICKET);
    }
}

static void come_and_go(unsigned index, void *argument)
{
    struct stress_caller caller = stress_caller_make(index + 1);

    (void)argument;
    while (stress_is_on()) {
        const char *address = addresses[stress_below(&caller, ADDRESSES)];

        if (index == 0 && stress_chance(&caller, 10))
            disturb(&caller, address);
        if (stress_chance(&caller, 50))
            borrow_by_hand(&caller, address);
        else
            (void)!pool_communicate(pool, address, use, &caller, POOL_CALL(.timeout_ms = 20000));
    }
}

/* One pool after another, each ended while loans may still be out. */
static void run_pool(unsigned ms)
{
    struct pool_conn left[2] = { { 0 } };

    if (pool_create(POOL_OPTIONS(.tls = trust, .max_per_address = 4, .park_ms = 2), &pool)) {
        stress_fail("no pool");
        return;
    }
    stress_begin_part(ms);
    run_threads(THREADS, come_and_go, NULL);
    for (int i = 0; i < 2; i++)
        (void)!pool_borrow(pool, addresses[i], NULL, &left[i]);
    pool_destroy(pool);
    for (int i = 0; i < 2; i++)
        pool_return(&left[i]);
    atomic_fetch_add(&pools, 1);
}

int main(int argc, char **argv)
{
    static const char *const rests[ADDRESSES] = { "", "?tenant=a", "?sni=db.test" };
    unsigned parts;

    stress_begin(argc, argv, 4);
    authority = CREDENTIAL(NULL, .common_name = "authority", .is_authority = true);
    credential = CREDENTIAL(authority, .names = "DNS:db.test,IP:127.0.0.1");
    peer = TLS_PEER(.credential = credential);
    if (pool_tls_create(POOL_TLS_OPTIONS(.ca_pem = authority->certificate), &trust, NULL))
        return stress_end("no settings");
    for (int i = 0; i < ADDRESSES; i++)
        snprintf(addresses[i], sizeof(addresses[i]), "tls://127.0.0.1:%d%s", tls_peer_port(peer),
                 rests[i]);
    parts = stress_seconds() * 1000 / PART_MS;
    for (unsigned i = 0; i < parts || i == 0; i++)
        run_pool(PART_MS);
    pool_tls_free(trust);
    tls_peer_stop(peer);
    credential_free(credential);
    credential_free(authority);
    if (!exchanges)
        stress_fail("nobody got an answer");
    return stress_end("%u exchanges, %u resumed, %u reloads, %u pools", exchanges, resumed, reloads,
                      pools);
}
