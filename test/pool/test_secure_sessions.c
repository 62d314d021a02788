/* test_secure_sessions.c: which handshakes continue an earlier session, which must not, and what a
 * reload of the settings makes of connections and sessions. */
#include <criterion/criterion.h>
#include <string.h>

#include "pool/secure_stage.h"

TestSuite(pool_secure_sessions, .init = secure_stage_begin, .fini = secure_stage_end,
          .timeout = 60);

static const int versions[] = { 0x0303, 0x0304 };

/* Ends all connections; sessions stay. */
static void end_connections(void)
{
    cr_assert_eq(pool_clear(pool, NULL, 0), POOL_OK);
    cr_assert(wait_peer_open(0));
}

static void next_version(void)
{
    pool_destroy(pool);
    pool = NULL;
    tls_peer_stop(tls_peer);
    tls_peer = NULL;
}

/* ---- continued */

Test(pool_secure_sessions, the_second_handshake_and_all_later_ones_are_resumed)
{
    for (int v = 0; v < 2; v++) {
        START_PEER(.version = versions[v]);
        SECURE_POOL();
        cr_expect_not(is_next_resumed(secure_at("")));
        for (int i = 0; i < 10; i++) {
            end_connections();
            cr_expect(is_next_resumed(secure_at("")), "version %x, dial %d", versions[v], i);
        }
        cr_expect_eq(tls_peer_resumed(tls_peer), 10);
        cr_expect_eq(tls_peer_accepted(tls_peer), 11);
        next_version();
    }
}

Test(pool_secure_sessions, a_resumed_connection_tells_who_the_peer_is)
{
    for (int v = 0; v < 2; v++) {
        struct pool_tls_info info = { .size = sizeof(info) };
        struct pool_conn conn;

        START_PEER(.version = versions[v], .alpn = "echo");
        SECURE_POOL();
        cr_expect_not(is_next_resumed(secure_at("?sni=db.test&alpn=echo")));
        end_connections();
        cr_assert(borrow(pool, secure_at("?sni=db.test&alpn=echo"), &conn));
        cr_assert_eq(pool_conn_tls(&conn, &info), POOL_OK);
        cr_expect(info.resumed);
        cr_expect_str_eq(info.peer_name, "db.test");
        cr_expect_str_eq(info.alpn, "echo");
        cr_expect_eq(pool_return(&conn), POOL_OK);
        next_version();
    }
}

/* A ticket of TLS 1.3 tells whoever listens that two connections are of one client. */
Test(pool_secure_sessions, a_ticket_is_used_once)
{
    struct pool_tls_info info[2] = { { .size = sizeof(*info) }, { .size = sizeof(*info) } };
    struct pool_conn conns[2];

    START_PEER(.version = 0x0304, .tickets = 1);
    SECURE_POOL();
    cr_expect_not(is_next_resumed(secure_at("")));
    end_connections();
    for (int i = 0; i < 2; i++) {
        cr_assert(borrow(pool, secure_at(""), &conns[i]));
        cr_assert_eq(pool_conn_tls(&conns[i], &info[i]), POOL_OK);
    }
    cr_expect(info[0].resumed);
    cr_expect_not(info[1].resumed);
    for (int i = 0; i < 2; i++)
        cr_assert_eq(pool_return(&conns[i]), POOL_OK);
}

/* Of TLS 1.2 OpenSSL gives the session up. */
Test(pool_secure_sessions, connections_that_end_without_farewell_leave_their_tickets)
{
    START_PEER(.version = 0x0304);
    SECURE_POOL();
    cr_expect_not(is_next_resumed(secure_at("")));
    tls_peer_tell(tls_peer, ORDER_CUT);
    cr_expect(is_next_resumed(secure_at("")));
}

/* ---- not continued */

Test(pool_secure_sessions, no_session_is_continued_under_another_key)
{
    static const char *const keys[] = { "",
                                        "?tenant=a",
                                        "?tenant=b",
                                        "?sni=db.test",
                                        "?sni=other.test",
                                        "?sni=db.test&tenant=a",
                                        "?alpn=echo",
                                        "?dscp=0",
                                        "?family=4",
                                        "?bind=127.0.0.1" };
    enum { KEYS = sizeof(keys) / sizeof(*keys) };

    for (int v = 0; v < 2; v++) {
        START_PEER(.version = versions[v]);
        SECURE_POOL();
        for (int i = 0; i < KEYS; i++)
            cr_expect_not(is_next_resumed(secure_at(keys[i])), "%s", keys[i]);
        cr_expect_eq(tls_peer_accepted(tls_peer), KEYS);
        end_connections();
        for (int i = 0; i < KEYS; i++)
            cr_expect(is_next_resumed(secure_at(keys[i])), "%s", keys[i]);
        next_version();
    }
}

Test(pool_secure_sessions, no_session_is_continued_by_another_pool_or_under_other_settings)
{
    struct pool_tls *same = NULL;

    cr_assert_eq(pool_tls_create(POOL_TLS_OPTIONS(.ca_pem = authority->certificate), &same, NULL),
                 POOL_OK);
    for (int v = 0; v < 2; v++) {
        struct pool *first;

        START_PEER(.version = versions[v]);
        first = SECURE_POOL();
        cr_expect_not(is_next_resumed(secure_at("")));
        SECURE_POOL();
        cr_expect_not(is_next_resumed(secure_at("")));
        pool_destroy(pool);
        pool = MAKE_POOL(.tls = same);
        cr_expect_not(is_next_resumed(secure_at("")));
        pool_destroy(first);
        next_version();
    }
    pool_tls_free(same);
}

/* What it is used for from then on is not the pool's to know. Another loan keeps the peer there. */
Test(pool_secure_sessions, a_detached_connection_leaves_its_peer_no_session)
{
    struct pool_conn conn, other;

    START_PEER(.version = 0x0304, .tickets = -1);
    for (int leaves = 1; leaves >= 0; leaves--) {
        SECURE_POOL();
        cr_assert(borrow(pool, secure_at(""), &other));
        cr_assert(borrow(pool, secure_at(""), &conn));
        if (leaves)
            cr_assert_eq(pool_detach(&conn), POOL_OK);
        cr_assert_eq(tls_peer_tell(tls_peer, ORDER_TICKET), 2);
        cr_expect_eq(echo(&conn, "behind the ticket"), 0);
        cr_expect_eq(pool_discard(&conn), POOL_OK);
        cr_expect_eq(is_next_resumed(secure_at("")), !leaves);
        cr_expect_eq(pool_discard(&other), POOL_OK);
        pool_destroy(pool);
        pool = NULL;
        cr_assert(wait_peer_open(0));
    }
}

/* ---- reload */

Test(pool_secure_sessions, after_a_reload_nothing_old_is_lent_or_continued)
{
    static const uint32_t times[] = { 1, POOL_NONE };

    START_PEER(.version = 0x0304);
    for (int t = 0; t < 2; t++) {
        unsigned before = tls_peer_accepted(tls_peer);

        SECURE_POOL(.park_ms = times[t], .check = POOL_CHECK_NEVER, .max_per_address = 1);
        cr_expect_not(is_next_resumed(secure_at("")));
        if (times[t] == 1)
            cr_assert(wait_next_parked(secure_at("")));
        cr_assert_eq(pool_tls_reload(trust, POOL_TLS_OPTIONS(.ca_pem = authority->certificate),
                                     NULL),
                     POOL_OK);
        cr_expect_not(is_next_resumed(secure_at("")));
        cr_expect_eq(tls_peer_accepted(tls_peer) - before, 2);
        cr_expect_eq(STAT(pool, closed[POOL_CLOSE_STALE]), 1);
        end_connections();
        cr_expect(is_next_resumed(secure_at("")), "the new ones may be");
        pool_destroy(pool);
        pool = NULL;
    }
}

Test(pool_secure_sessions, a_loan_goes_on_through_a_reload_and_ends_with_its_return)
{
    struct pool_conn conn;

    START_PEER(.version = 0x0304);
    SECURE_POOL();
    cr_assert(borrow(pool, secure_at(""), &conn));
    cr_assert_eq(pool_tls_reload(trust, POOL_TLS_OPTIONS(.ca_pem = authority->certificate), NULL),
                 POOL_OK);
    cr_expect_eq(echo(&conn, "old"), 0);
    cr_expect_eq(pool_return(&conn), POOL_OK);
    cr_expect_eq(talk(pool, secure_at("")), POOL_OK);
    cr_expect_eq(talk(pool, secure_at("")), POOL_OK);
    cr_expect_eq(tls_peer_accepted(tls_peer), 2);
}

Test(pool_secure_sessions, new_trust_refuses_whom_the_old_one_accepted)
{
    struct credential *stranger = CREDENTIAL(NULL, .common_name = "stranger", .is_authority = true);
    struct pool_error error = POOL_ERROR_INIT;

    for (int v = 0; v < 2; v++) {
        START_PEER(.version = versions[v]);
        SECURE_POOL();
        cr_expect_not(is_next_resumed(secure_at("")));
        cr_assert_eq(pool_tls_reload(trust, POOL_TLS_OPTIONS(.ca_pem = stranger->certificate),
                                     NULL),
                     POOL_OK);
        cr_expect_eq(borrow_in_vain(secure_at(""), &error), POOL_E_TLS);
        cr_expect_not_null(strstr(error.text, "issuer"), "%s", error.text);
        cr_expect_eq(tls_peer_resumed(tls_peer), 0);
        cr_assert_eq(pool_tls_reload(trust, POOL_TLS_OPTIONS(.ca_pem = authority->certificate),
                                     NULL),
                     POOL_OK);
        cr_expect_not(is_next_resumed(secure_at("")));
        next_version();
    }
    credential_free(stranger);
}

Test(pool_secure_sessions, a_reload_that_fails_changes_nothing)
{
    START_PEER(.version = 0x0304);
    SECURE_POOL();
    cr_expect_not(is_next_resumed(secure_at("")));
    cr_assert_neq(pool_tls_reload(trust, POOL_TLS_OPTIONS(.ca_pem = "no certificate"), NULL),
                  POOL_OK);
    cr_expect_eq(talk(pool, secure_at("")), POOL_OK);
    cr_expect_eq(tls_peer_accepted(tls_peer), 1);
    end_connections();
    cr_expect(is_next_resumed(secure_at("")));
}

static int reload_once(struct pool_conn *conn, struct pool_actor *actor, void *user)
{
    unsigned *calls = user;

    (void)conn, (void)actor;
    if (++*calls == 1)
        cr_expect_eq(
            pool_tls_reload(trust, POOL_TLS_OPTIONS(.ca_pem = authority->certificate), NULL),
            POOL_OK);
    return 0;
}

Test(pool_secure_sessions, what_was_being_opened_during_a_reload_is_not_lent)
{
    unsigned calls = 0;

    START_PEER(.version = 0x0304);
    SECURE_POOL(.on_new_connection = reload_once, .user = &calls);
    cr_expect_eq(talk(pool, secure_at("")), POOL_OK);
    cr_expect_eq(calls, 2);
    cr_expect_eq(STAT(pool, closed[POOL_CLOSE_STALE]), 1);
    cr_expect_eq(tls_peer_accepted(tls_peer), 2);
}

Test(pool_secure_sessions, settings_may_be_freed_before_the_pool)
{
    START_PEER(.version = 0x0304);
    SECURE_POOL();
    pool_tls_free(trust);
    trust = NULL;
    cr_expect_eq(talk(pool, secure_at("")), POOL_OK);
}

/* ---- who we are */

Test(pool_secure_sessions, a_new_certificate_of_ours_is_shown_after_a_reload)
{
    struct credential *old = CREDENTIAL(authority, .common_name = "old client"),
                      *new = CREDENTIAL(authority, .common_name = "new client");
    struct pool_error error = POOL_ERROR_INIT;

    START_PEER(.version = 0x0303, .client_ca = authority->certificate);
    SECURE_POOL();
    cr_expect_neq(borrow_in_vain(secure_at(""), &error), POOL_OK, "we show none");
    cr_assert_eq(pool_tls_reload(trust, POOL_TLS_OPTIONS(.ca_pem = authority->certificate,
                                                         .cert_pem = old->certificate,
                                                         .key_pem = old->key),
                                 NULL),
                 POOL_OK);
    cr_expect_eq(talk(pool, secure_at("")), POOL_OK);
    cr_expect_not_null(strstr(tls_peer_client(tls_peer), "old client"));
    cr_assert_eq(pool_tls_reload(trust, POOL_TLS_OPTIONS(.ca_pem = authority->certificate,
                                                         .cert_pem = new->certificate,
                                                         .key_pem = new->key),
                                 NULL),
                 POOL_OK);
    cr_expect_eq(talk(pool, secure_at("")), POOL_OK);
    cr_expect_not_null(strstr(tls_peer_client(tls_peer), "new client"));
    credential_free(old);
    credential_free(new);
}
