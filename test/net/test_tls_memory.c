/* test_tls_memory.c: OpenSSL's own allocations fail, one in each turn: a connection fails or works,
 * and nothing else happens. Those of settings are sampled. */
#include <criterion/criterion.h>
#include <openssl/crypto.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "net/tls_stage.h"
#include "support/tests.h"

#define PEER_TURNS (TLS_PEER_MOST - 4)

/* Of this thread only: the peer's go on. */
static __thread unsigned long count, point; /* point 0: none fails */

static bool strikes(void)
{
    return point && ++count == point;
}

static void *malloc_or_not(size_t size, const char *file, int line)
{
    (void)file;
    (void)line;
    return strikes() ? NULL : malloc(size);
}

static void *realloc_or_not(void *memory, size_t size, const char *file, int line)
{
    (void)file;
    (void)line;
    return strikes() ? NULL : realloc(memory, size);
}

static void free_it(void *memory, const char *file, int line)
{
    (void)file;
    (void)line;
    free(memory);
}

static bool is_ours;

/* OpenSSL lets itself be given an allocator only before its first use, and Criterion uses it. */
static __attribute__((constructor)) void take_memory_over(void)
{
    is_ours = CRYPTO_set_mem_functions(malloc_or_not, realloc_or_not, free_it) == 1;
}

static void set_up(void)
{
    cr_assert(is_ours);
    tls_stage_begin();
}

TestSuite(tls_memory, .init = set_up, .fini = tls_stage_end);

/* All that a connection does. False: it failed, as its failure says. */
static bool live(struct pl_tls_sessions *sessions)
{
    struct pl_tls_wish wish = { .name = { "db.test", 7 } };
    struct client client = { .fd = tls_peer_dial(peer) };
    bool is_good = false;

    if (pl_tls_create(settings, sessions, &wish, &client.tls) == 0) {
        is_good = client_shake(&client) == 0 && client_echo(&client, "hello") &&
                  client_order(&client, ORDER_KEY_UPDATE) && client_echo(&client, "again");
        if (!is_good && client.error)
            cr_expect_lt(client_failure(&client, POOL_PHASE_TLS).status, 0);
        pl_tls_peek(client.tls, client.fd);
        pl_tls_shutdown(client.tls, client.fd);
        pl_tls_free(client.tls);
    }
    close(client.fd);
    return is_good;
}

/* `most` turns at most, that fail allocations spread over the whole life of a connection. */
static void fail_each(bool resumes, unsigned most)
{
    struct pl_tls_sessions *sessions = resumes ? pl_tls_sessions_create() : NULL;
    unsigned long total, step;
    unsigned turns = 0, failed = 0;

    peer = TLS_PEER(.credential = credential, .version = TLS1_3_VERSION);
    cr_assert(live(sessions));
    count = 0;
    point = ~0ul;
    cr_assert(live(sessions));
    total = count;
    step = total / most + 1;
    for (unsigned long at = 1; at <= total; at += step, turns++) {
        if (turns % PEER_TURNS == PEER_TURNS - 1) {
            point = 0;
            tls_peer_stop(peer);
            peer = TLS_PEER(.credential = credential, .version = TLS1_3_VERSION);
        }
        count = 0;
        point = at;
        failed += !live(sessions);
        point = 0;
    }
    cr_expect_gt(total, 100);
    cr_expect_gt(failed, turns / 4, "%u of %u", failed, turns);
    cr_expect(live(sessions), "all is well when memory is there again");
    pl_tls_sessions_release(sessions);
}

Test(tls_memory, a_full_connection, .timeout = 60)
{
    fail_each(false, slowness() > 1 ? 150 : 600);
}

Test(tls_memory, a_resumed_connection, .timeout = 60)
{
    fail_each(true, slowness() > 1 ? 150 : 600);
}

static bool trusts_one(struct pool_tls *tls)
{
    struct pl_tls_settings *made = pl_tls_settings_take(tls);
    X509_STORE *store = SSL_CTX_get_cert_store(made->context);
    bool is_one = sk_X509_OBJECT_num(X509_STORE_get0_objects(store)) == 1 &&
                  SSL_CTX_check_private_key(made->context) == 1;

    pl_tls_settings_release(made);
    return is_one;
}

Test(tls_memory, settings, .timeout = 60)
{
    const struct pool_tls_options *options =
        POOL_TLS_OPTIONS(.ca_pem = authority->certificate, .cert_pem = credential->certificate,
                         .key_pem = credential->key, .ciphers = "HIGH", .alpn = "h2");
    unsigned long total;
    struct pool_tls *tls;
    unsigned failed = 0, turns = 0;

    count = 0;
    point = ~0ul;
    cr_assert_eq(pool_tls_create(options, &tls, NULL), POOL_OK);
    pool_tls_free(tls);
    total = count;
    for (unsigned long at = 1; at <= total; at += total / 200 + 1, turns++) {
        struct pool_error error = POOL_ERROR_INIT;
        enum pool_status status;

        count = 0;
        point = at;
        status = pool_tls_create(options, &tls, &error);
        point = 0;
        cr_expect(status == POOL_OK || status == POOL_E_MEMORY || status == POOL_E_TLS, "%s",
                  error.text);
        failed += status != POOL_OK;
        cr_expect(status != POOL_OK || trusts_one(tls), "half of what was asked for");
        pool_tls_free(tls);
    }
    cr_expect_gt(failed, 5, "%u of %u", failed, turns);
}
