/* test_secure_key.c: connections of tls:// addresses are never used for an address, or by a pool,
 * that differs in anything that shapes them: tried on real ones, for every field of an address. And
 * a name with several places, one of which stalls. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "base/compiler.h"
#include "net/address.h"
#include "net/resolver.h"
#include "net/tls_sessions.h"
#include "net/tls_settings.h"
#include "pool/pool.h"
#include "pool/secure_stage.h"
#include "support/dns.h"

static struct dns *dns;

static void begin(void)
{
    secure_stage_begin();
    dns = dns_start();
    cr_assert_not_null(dns);
    pl_resolver_use_servers(dns_server(dns));
}

static void end(void)
{
    secure_stage_end();
    pl_resolver_use_servers(NULL);
    dns_stop(dns);
}

TestSuite(pool_secure_key, .init = begin, .fini = end, .timeout = 60);

static const char *named(const char *name, const char *rest)
{
    static char text[8][128];
    static unsigned turn;
    char *made = text[turn++ % 8];

    snprintf(made, sizeof(text[0]), "tls://%s:%d%s", name, tls_peer_port(tls_peer), rest);
    return made;
}

/* ---- addresses: host and parameters of two that differ in one field only, for each row of the
 * table. Fields that no two addresses of one TLS peer can differ in have none. */

#define DIFFER_scheme NULL, NULL, NULL, NULL
#define DIFFER_host "db.test", "", "other.test", ""
#define DIFFER_zone NULL, NULL, NULL, NULL
#define DIFFER_port NULL, NULL, NULL, NULL
#define DIFFER_path NULL, NULL, NULL, NULL
#define DIFFER_tenant "db.test", "?tenant=a", "db.test", "?tenant=A"
#define DIFFER_sni "127.0.0.1", "?sni=db.test", "127.0.0.1", "?sni=other.test"
#define DIFFER_alpn "db.test", "?alpn=echo", "db.test", "?alpn=other"
#define DIFFER_family "db.test", "?family=4", "db.test", ""
#define DIFFER_bind "db.test", "?bind=127.0.0.1", "db.test", "?bind=127.0.0.2"
#define DIFFER_dscp "db.test", "?dscp=0", "db.test", ""
#define DIFFER_rely "db.test", "?rely=loss", "db.test", "?rely=dup"
#define DIFFER_starttls NULL, NULL, NULL, NULL
#define DIFFER(kind, name) { #name, DIFFER_##name },
#define NO_PAIR(kind, name)

static const struct pair {
    const char *field, *host, *rest, *other_host, *other_rest;
} pairs[] = { PL_ADDRESS_FIELDS(DIFFER, NO_PAIR) };

static void expect_apart(const char *first, const char *second)
{
    unsigned before = tls_peer_accepted(tls_peer);

    cr_expect_not(is_next_resumed(first), "%s", first);
    cr_expect_not(is_next_resumed(second), "%s after %s", second, first);
    cr_expect_eq(tls_peer_accepted(tls_peer) - before, 2, "%s, %s", first, second);
    for (int i = 0; i < 3; i++) {
        cr_expect_eq(talk(pool, first), POOL_OK);
        cr_expect_eq(talk(pool, second), POOL_OK);
    }
    cr_expect_eq(tls_peer_accepted(tls_peer) - before, 2, "%s, %s", first, second);
}

Test(pool_secure_key, addresses_that_differ_in_one_field_share_no_connection_and_no_session)
{
    unsigned tried = 0;

    DNS_SAY(dns, "db.test", .addresses = { "127.0.0.1" }, .ttl = 60);
    DNS_SAY(dns, "other.test", .addresses = { "127.0.0.1" }, .ttl = 60);
    START_PEER(.version = 0x0304);
    for (size_t i = 0; i < PL_COUNT(pairs); i++) {
        if (!pairs[i].host)
            continue;
        SECURE_POOL();
        expect_apart(named(pairs[i].host, pairs[i].rest),
                     named(pairs[i].other_host, pairs[i].other_rest));
        pool_destroy(pool);
        pool = NULL;
        cr_assert(wait_peer_open(0));
        tried++;
    }
    cr_expect_eq(tried, PL_COUNT(pairs) - 5);
}

/* Two names of one place, whose certificates are not one another's. */
Test(pool_secure_key, a_name_is_never_served_by_what_another_name_proved)
{
    struct credential *own = CREDENTIAL(authority, .names = "DNS:db.test");
    struct pool_error error = POOL_ERROR_INIT;

    DNS_SAY(dns, "db.test", .addresses = { "127.0.0.1" }, .ttl = 60);
    DNS_SAY(dns, "other.test", .addresses = { "127.0.0.1" }, .ttl = 60);
    tls_peer = TLS_PEER(.credential = own);
    SECURE_POOL();
    for (int i = 0; i < 3; i++) {
        cr_expect_eq(talk(pool, named("db.test", "")), POOL_OK);
        cr_expect_eq(borrow_in_vain(named("other.test", ""), &error), POOL_E_TLS, "%s", error.text);
        cr_expect_eq(borrow_in_vain(named("db.test", "?sni=other.test"), &error), POOL_E_TLS, "%s",
                     error.text);
        cr_expect_eq(borrow_in_vain(named("127.0.0.1", ""), &error), POOL_E_TLS, "%s", error.text);
    }
    cr_expect_eq(STAT(pool, opened), 1);
    credential_free(own);
}

static struct pl_peer *peer_at(const char *text)
{
    struct pool_address *address;
    struct pl_peer *found;

    cr_assert_eq(pool_address_parse(text, &address, NULL), POOL_OK);
    found = pl_pool_look_up(pool, address);
    cr_assert_not_null(found);
    pool_address_unref(address);
    return found;
}

static bool was_resumed(void *unused)
{
    (void)unused;
    return tls_peer_resumed(tls_peer) == 1;
}

/* As if the key had not told the two apart: OpenSSL verifies nothing when it continues a session,
 * and the peer shows no certificate then. */
Test(pool_secure_key, the_name_is_compared_again_when_a_session_is_continued)
{
    static const int versions[] = { 0x0303, 0x0304 };
    struct credential *own = CREDENTIAL(authority, .names = "DNS:db.test");

    DNS_SAY(dns, "db.test", .addresses = { "127.0.0.1" }, .ttl = 60);
    DNS_SAY(dns, "other.test", .addresses = { "127.0.0.1" }, .ttl = 60);
    for (int v = 0; v < 2; v++) {
        struct pool_error error = POOL_ERROR_INIT;
        struct pool_target *target;
        struct pl_peer *right, *wrong;
        SSL_SESSION *session;

        tls_peer = TLS_PEER(.credential = own, .version = versions[v]);
        SECURE_POOL();
        cr_assert_eq(pool_target_get(pool, named("other.test", ""), &target), POOL_OK);
        cr_assert_eq(talk(pool, named("db.test", "")), POOL_OK);
        right = peer_at(named("db.test", ""));
        wrong = peer_at(named("other.test", ""));
        session = pl_tls_sessions_take(right->sessions, pl_tls_generation_now(trust));
        cr_assert_not_null(session);
        wrong->sessions = pl_tls_sessions_create();
        pl_tls_sessions_put(wrong->sessions, session, pl_tls_generation_now(trust));
        cr_expect_eq(borrow_in_vain(named("other.test", ""), &error), POOL_E_TLS, "%s", error.text);
        cr_expect_not_null(strstr(error.text, "name"), "%s", error.text);
        cr_expect(wait_until(was_resumed, NULL, VERBS_SOON), "it was continued, and refused");
        pl_peer_leave(right);
        pl_peer_leave(wrong);
        pool_target_free(target);
        pool_destroy(pool);
        tls_peer_stop(tls_peer);
    }
    pool = NULL;
    tls_peer = NULL;
    credential_free(own);
}

/* The same options but for the settings of TLS: nothing is handed from pool to pool. */
Test(pool_secure_key, pools_with_other_settings_share_nothing)
{
    struct credential *stranger = CREDENTIAL(NULL, .common_name = "stranger", .is_authority = true);
    struct pool_error error = POOL_ERROR_INIT;
    struct pool *first, *named_pool;
    struct pool_tls *strict = NULL, *other_name = NULL;

    START_PEER(.version = 0x0304);
    cr_assert_eq(pool_tls_create(POOL_TLS_OPTIONS(.ca_pem = stranger->certificate), &strict, NULL),
                 POOL_OK);
    cr_assert_eq(pool_tls_create(POOL_TLS_OPTIONS(.ca_pem = authority->certificate,
                                                  .name = "third.test"),
                                 &other_name, NULL),
                 POOL_OK);
    first = SECURE_POOL();
    cr_expect_eq(talk(first, secure_at("")), POOL_OK);
    pool = MAKE_POOL(.tls = strict);
    cr_expect_eq(borrow_in_vain(secure_at(""), &error), POOL_E_TLS, "%s", error.text);
    named_pool = pool;
    pool = MAKE_POOL(.tls = other_name);
    cr_expect_eq(borrow_in_vain(secure_at(""), &error), POOL_E_TLS, "%s", error.text);
    pool_destroy(pool);
    pool_destroy(named_pool);
    pool = first;
    cr_expect_eq(talk(first, secure_at("")), POOL_OK);
    cr_expect_eq(STAT(first, opened), 1);
    pool_tls_free(other_name);
    pool_tls_free(strict);
    credential_free(stranger);
}

/* ---- the race goes on through the handshake */

static bool connects_past_a_stalled_place(const char *name)
{
    struct peer *silent =
        PEER(.behave = PEER_SILENT, .host = "127.0.0.2", .port = tls_peer_port(tls_peer));
    struct pool_conn conn;
    uint64_t start_ms, took_ms;

    cr_assert_not_null(silent);
    DNS_SAY(dns, name, .addresses = { "127.0.0.2", "127.0.0.1" }, .ttl = 60);
    SECURE_POOL();
    start_ms = now_ms();
    cr_assert(borrow(pool, named(name, ""), &conn));
    took_ms = elapsed_ms(start_ms);
    cr_expect_eq(echo(&conn, "hello"), 0);
    cr_expect_eq(pool_return(&conn), POOL_OK);
    cr_expect_eq(peer_accepted(silent, 1), 1, "it was first");
    cr_expect(peer_wait_open(silent, 0, VERBS_SOON), "its socket is closed");
    pool_clear(pool, NULL, 0);
    cr_expect_eq(talk(pool, named(name, "")), POOL_OK);
    cr_expect_eq(peer_accepted(silent, 1), 1, "it is tried last for a while");
    pool_destroy(pool);
    pool = NULL;
    peer_stop(silent);
    return WITHIN(took_ms, 0, 300);
}

Test(pool_secure_key, a_place_that_stalls_in_the_handshake_costs_no_more_than_a_silent_one)
{
    START_PEER(.version = 0x0304);
    cr_expect(connects_past_a_stalled_place("db.test") ||
              connects_past_a_stalled_place("other.test"));
}

Test(pool_secure_key, a_name_whose_only_place_is_an_impostor_is_refused)
{
    struct credential *bad = CREDENTIAL(NULL, .names = "DNS:db.test");
    struct tls_peer *imposter = TLS_PEER(.credential = bad);

    tls_peer = imposter;
    DNS_SAY(dns, "db.test", .addresses = { "127.0.0.1" }, .ttl = 60);
    SECURE_POOL();
    cr_expect_eq(talk(pool, named("db.test", "")), POOL_E_TLS);
    cr_expect(wait_peer_open(0));
    credential_free(bad);
}
