/* test_tls_sessions.c: what is continued, with whom, how often, and what is never continued. */
#include "net/tls_sessions.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>

#include "base/os.h"
#include "net/tls_client.h"
#include "support/tests.h"

static struct credential *authority, *credential;
static struct pl_tls_sessions *sessions;
static struct pl_tls_settings *settings;
static struct tls_peer *peer;

/* A clock that the test moves. */
static uint64_t ahead_ns;
static struct pl_os wrapped;

static uint64_t clock_ahead(void)
{
    return pl_os_real.now_ns() + ahead_ns;
}

static void set_up(void)
{
    signal(SIGPIPE, SIG_DFL);
    wrapped = pl_os_real;
    wrapped.now_ns = clock_ahead;
    pl_os_replace(&wrapped);
    authority = CREDENTIAL(NULL, .common_name = "test authority", .is_authority = true);
    credential = CREDENTIAL(authority, .names = "DNS:db.test,DNS:two.test");
    settings = SETTINGS(.ca_pem = authority->certificate);
    sessions = pl_tls_sessions_create();
    cr_assert(sessions);
}

static void tear_down(void)
{
    pl_tls_sessions_release(sessions);
    pl_tls_settings_release(settings);
    tls_peer_stop(peer);
    credential_free(credential);
    credential_free(authority);
    pl_os_replace(NULL);
}

TestSuite(tls_sessions, .init = set_up, .fini = tear_down);

static void start(const struct tls_peer_options *options)
{
    peer = tls_peer_start(options);
}
#define START(...) start(&(struct tls_peer_options){ .credential = credential, __VA_ARGS__ })

/* A connection that says a word, so that tickets have come; was it resumed? */
static bool visit(struct pl_tls_settings *with, const char *name)
{
    struct client client = client_open(peer, with, sessions, name);
    struct pl_tls_facts facts;

    cr_expect(client_echo(&client, "hello"));
    cr_assert(pl_tls_tell(client.tls, &facts));
    client_close(&client);
    return facts.is_resumed;
}

static void expect_resumption(int version)
{
    START(.version = version);
    cr_expect_not(visit(settings, "db.test"));
    for (unsigned i = 0; i < 10; i++)
        cr_expect(visit(settings, "db.test"), "%u", i);
    cr_expect_eq(tls_peer_resumed(peer), 10);
    cr_expect_leq(pl_tls_sessions_count(sessions), PL_TLS_SESSIONS);
}

Test(tls_sessions, all_but_the_first_connection_are_resumed_in_tls_1_2)
{
    expect_resumption(TLS1_2_VERSION);
}

Test(tls_sessions, all_but_the_first_connection_are_resumed_in_tls_1_3)
{
    expect_resumption(TLS1_3_VERSION);
}

Test(tls_sessions, a_session_of_tls_1_3_is_given_once_and_one_of_1_2_again)
{
    static const int versions[] = { TLS1_2_VERSION, TLS1_3_VERSION };

    for (size_t i = 0; i < PL_COUNT(versions); i++) {
        SSL_SESSION *first, *second;

        START(.version = versions[i], .tickets = versions[i] == TLS1_3_VERSION);
        cr_expect_not(visit(settings, "db.test"));
        cr_expect_eq(pl_tls_sessions_count(sessions), 1);
        first = pl_tls_sessions_take(sessions, settings->generation);
        second = pl_tls_sessions_take(sessions, settings->generation);
        cr_expect_not_null(first);
        cr_expect_eq(second, versions[i] == TLS1_2_VERSION ? first : NULL);
        SSL_SESSION_free(first);
        SSL_SESSION_free(second);
        pl_tls_sessions_clear(sessions);
        tls_peer_stop(peer);
        peer = NULL;
    }
}

Test(tls_sessions, the_newest_is_first_and_few_are_kept)
{
    SSL_SESSION *session, *newest = NULL;

    START(.version = TLS1_3_VERSION, .tickets = 8);
    visit(settings, "db.test");
    cr_expect_eq(pl_tls_sessions_count(sessions), PL_TLS_SESSIONS);
    newest = SSL_SESSION_new();
    session = pl_tls_sessions_take(sessions, settings->generation);
    cr_assert(session);
    SSL_SESSION_free(newest);
    newest = SSL_SESSION_dup(session);
    pl_tls_sessions_put(sessions, session, settings->generation);
    pl_tls_sessions_put(sessions, newest, settings->generation);
    session = pl_tls_sessions_take(sessions, settings->generation);
    cr_expect_eq(session, newest);
    SSL_SESSION_free(session);
    cr_expect_eq(pl_tls_sessions_count(sessions), PL_TLS_SESSIONS - 1);
}

Test(tls_sessions, those_that_are_too_old_are_dropped)
{
    START(.version = TLS1_3_VERSION, .ticket_lifetime_s = 100);
    visit(settings, "db.test");
    cr_expect_eq(pl_tls_sessions_count(sessions), 2);
    ahead_ns = 99 * UINT64_C(1000000000);
    cr_expect(visit(settings, "db.test"));
    ahead_ns += 101 * UINT64_C(1000000000);
    cr_expect_not(visit(settings, "db.test"));
}

Test(tls_sessions, other_settings_get_none_and_end_the_old_ones)
{
    struct pl_tls_settings *later = SETTINGS(.ca_pem = authority->certificate);

    START(.version = TLS1_2_VERSION);
    visit(settings, "db.test");
    cr_expect_eq(pl_tls_sessions_count(sessions), 1);
    cr_expect_neq(later->generation, settings->generation);
    cr_expect_not(visit(later, "db.test"));
    cr_expect(visit(later, "db.test"));
    cr_expect_not(visit(settings, "db.test"));
    pl_tls_settings_release(later);
}

Test(tls_sessions, an_old_connections_session_does_not_push_a_new_one_out)
{
    struct pl_tls_settings *later = SETTINGS(.ca_pem = authority->certificate);
    struct client old;

    START(.version = TLS1_3_VERSION, .tickets = 1);
    old = client_open(peer, settings, sessions, "db.test");
    visit(later, "db.test");
    cr_expect_eq(pl_tls_sessions_count(sessions), 1);
    cr_expect(client_order(&old, ORDER_TICKET));
    cr_expect(client_echo(&old, "x"));
    cr_expect_eq(pl_tls_sessions_count(sessions), 1);
    client_close(&old);
    cr_expect(visit(later, "db.test"));
    pl_tls_settings_release(later);
}

/* What OpenSSL alone would let pass: a session of another name, given by too loose a key. */
Test(tls_sessions, the_name_is_compared_again_after_a_resumption)
{
    static const int versions[] = { TLS1_2_VERSION, TLS1_3_VERSION };

    for (size_t i = 0; i < PL_COUNT(versions); i++) {
        struct client client;

        START(.version = versions[i]);
        visit(settings, "db.test");
        client = client_dial(peer, settings, sessions, "evil.test");
        cr_expect_eq(client_shake(&client), EPROTO);
        cr_expect_eq(client_failure(&client, POOL_PHASE_TLS).cause, X509_V_ERR_HOSTNAME_MISMATCH);
        client_close(&client);
        pl_tls_sessions_clear(sessions);
        tls_peer_stop(peer);
        peer = NULL;
    }
}

Test(tls_sessions, a_peer_that_was_refused_leaves_none)
{
    static const int versions[] = { TLS1_2_VERSION, TLS1_3_VERSION };

    for (size_t i = 0; i < PL_COUNT(versions); i++) {
        struct client client;

        START(.version = versions[i]);
        client = client_dial(peer, settings, sessions, "other.test");
        cr_expect_eq(client_shake(&client), EPROTO);
        cr_expect_eq(pl_tls_sessions_count(sessions), 0);
        client_close(&client);
        tls_peer_stop(peer);
        peer = NULL;
    }
}

Test(tls_sessions, insecure_connections_leave_none)
{
    struct pl_tls_settings *insecure = SETTINGS(.insecure = true);

    START(.version = TLS1_3_VERSION);
    cr_expect_not(visit(insecure, "db.test"));
    cr_expect_eq(pl_tls_sessions_count(sessions), 0);
    cr_expect_not(visit(settings, "db.test"));
    pl_tls_settings_release(insecure);
}

/* The certificate was good when the session began. */
Test(tls_sessions, a_session_ends_with_its_certificate)
{
    struct credential *brief = CREDENTIAL(authority, .names = "DNS:db.test", .to_s = 2);
    struct client client;
    uint64_t start_ms = now_ms();
    int error = 0;

    peer = TLS_PEER(.credential = brief, .version = TLS1_2_VERSION);
    visit(settings, "db.test");
    while (!error && elapsed_ms(start_ms) < 4000) {
        struct pollfd none = { .fd = -1 };

        poll(&none, 1, 200);
        client = client_dial(peer, settings, sessions, "db.test");
        error = client_shake(&client);
        if (error)
            cr_expect_eq(client_failure(&client, POOL_PHASE_TLS).cause,
                         X509_V_ERR_CERT_HAS_EXPIRED);
        client_close(&client);
    }
    cr_expect_eq(error, EPROTO);
    credential_free(brief);
}

/* Callbacks of OpenSSL meet a store that its peer gave up, and settings that were reloaded. */
Test(tls_sessions, a_connection_that_outlives_everything_still_has_its_store)
{
    struct client client;

    START(.version = TLS1_3_VERSION);
    client = client_open(peer, settings, sessions, "db.test");
    pl_tls_sessions_release(sessions);
    pl_tls_settings_release(settings);
    cr_expect(client_order(&client, ORDER_TICKET));
    cr_expect(client_echo(&client, "x"));
    client_close(&client);
    sessions = pl_tls_sessions_create();
    settings = SETTINGS(.ca_pem = authority->certificate);
}

static void visit_often(unsigned index, void *argument)
{
    atomic_uint *resumed = argument;

    (void)index;
    for (unsigned i = 0; i < 7; i++)
        atomic_fetch_add(resumed, visit(settings, "db.test"));
}

Test(tls_sessions, threads_share_a_store)
{
    atomic_uint resumed = 0;

    START(.version = TLS1_3_VERSION);
    visit(settings, "db.test");
    cr_assert(run_threads(4, visit_often, &resumed));
    cr_expect_eq(tls_peer_resumed(peer), atomic_load(&resumed));
    cr_expect_gt(atomic_load(&resumed), 0);
}
