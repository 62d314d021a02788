/* test_starttls.c: connections that begin in the clear and are secured by a hook or by `prepare`,
 * and never lent before that. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "base/os.h"
#include "support/authority.h"
#include "support/peer.h"
#include "support/tests.h"
#include "support/tls_peer.h"
#include "support/verbs.h"

static struct credential *authority, *good;
static struct pool_tls *tls;

static void begin(void)
{
    authority = CREDENTIAL(NULL, .common_name = "our authority", .is_authority = true);
    good = CREDENTIAL(authority, .names = "IP:127.0.0.1");
    cr_assert_eq(pool_tls_create(POOL_TLS_OPTIONS(.ca_pem = authority->certificate), &tls, NULL),
                 POOL_OK);
}

static void end(void)
{
    pool_tls_free(tls);
    credential_free(good);
    credential_free(authority);
}

TestSuite(pool_starttls, .init = begin, .fini = end, .timeout = 60);

static const char *address_of(const struct tls_peer *peer, const char *rest)
{
    static char text[8][96];
    static unsigned turn;
    char *made = text[turn++ % 8];

    snprintf(made, sizeof(text[0]), "tls://127.0.0.1:%d%s", tls_peer_port(peer), rest);
    return made;
}

static int exchange(struct pool_conn *conn, void *user)
{
    struct pool_tls_info info = { .size = sizeof(info) };
    char back[5];

    (void)user;
    if (pool_conn_tls(conn, &info) || !info.secure)
        return -1;
    if (pool_send(conn, "hello", 5) || pool_recv_exact(conn, back, 5))
        return -2;
    return memcmp(back, "hello", 5) ? -3 : 0;
}

static enum pool_status attempt(struct pool *pool, const char *address, struct pool_error *error)
{
    *error = (struct pool_error)POOL_ERROR_INIT;
    return pool_communicate(pool, address, exchange, NULL,
                            POOL_CALL(.timeout_ms = 5000, .error = error));
}

/* ---- `prepare` */

static int start_by_prepare(struct pool_conn *conn, void *user)
{
    struct pool_bytes line;

    (void)user;
    if (pool_send(conn, "STARTTLS\n", 9) || pool_recv_until(conn, "\n", 1, &line))
        return -1;
    return pool_conn_start_tls(conn);
}

Test(pool_starttls, prepare_talks_in_the_clear_and_then_secures)
{
    struct tls_peer *peer = TLS_PEER(.credential = good, .clear_answer = "GO\n");
    struct pool *pool = MAKE_POOL(.tls = tls, .prepare = start_by_prepare);
    struct pool_error error;

    for (int i = 0; i < 3; i++)
        cr_expect_eq(attempt(pool, address_of(peer, "?starttls=1"), &error), POOL_OK, "%s",
                     error.text);
    cr_expect_eq(tls_peer_handshakes(peer), 1, "and serves again");
    pool_destroy(pool);
    tls_peer_stop(peer);
}

Test(pool_starttls, bytes_that_came_before_tls_make_it_fail)
{
    struct tls_peer *peer = TLS_PEER(.credential = good, .clear_answer = "GO\n+OK you are in\n");
    struct pool *pool = MAKE_POOL(.tls = tls, .prepare = start_by_prepare);
    struct pool_error error;

    cr_expect_eq(attempt(pool, address_of(peer, "?starttls=1"), &error), POOL_E_TLS, "%s",
                 error.text);
    cr_expect(strstr(error.text, "in the clear before TLS"), "%s", error.text);
    cr_expect_eq(STAT(pool, total), 0);
    pool_destroy(pool);
    tls_peer_stop(peer);
}

static int forget(struct pool_conn *conn, void *user)
{
    struct pool_bytes line;

    (void)user;
    return pool_send(conn, "STARTTLS\n", 9) || pool_recv_until(conn, "\n", 1, &line) ? -1 : 0;
}

Test(pool_starttls, whoever_forgets_to_secure_lends_nothing)
{
    struct tls_peer *peer = TLS_PEER(.credential = good, .clear_answer = "GO\n");
    struct pool *pools[2] = { MAKE_POOL(.tls = tls, .prepare = forget), MAKE_POOL(.tls = tls) };
    struct pool_error error;

    for (size_t i = 0; i < PL_COUNT(pools); i++) {
        cr_expect_eq(attempt(pools[i], address_of(peer, "?starttls=1"), &error), POOL_E_TLS, "%s",
                     error.text);
        cr_expect(strstr(error.text, "neither hook nor"), "%s", error.text);
        cr_expect_eq(error.phase, POOL_PHASE_TLS);
        cr_expect_eq(STAT(pools[i], total), 0);
        pool_destroy(pools[i]);
    }
    tls_peer_stop(peer);
}

Test(pool_starttls, a_certificate_is_looked_at_here_as_everywhere)
{
    struct credential *wrong = CREDENTIAL(authority, .names = "DNS:another.test");
    struct tls_peer *peer = TLS_PEER(.credential = wrong, .clear_answer = "GO\n");
    struct pool *pool = MAKE_POOL(.tls = tls, .prepare = start_by_prepare);
    struct pool_error error;

    cr_expect_eq(attempt(pool, address_of(peer, "?starttls=1"), &error), POOL_E_TLS, "%s",
                 error.text);
    cr_expect(strstr(error.text, "certificate was refused"), "%s", error.text);
    pool_destroy(pool);
    tls_peer_stop(peer);
    credential_free(wrong);
}

static int start_twice(struct pool_conn *conn, void *user)
{
    int answer = start_by_prepare(conn, user);

    cr_expect_eq(pool_conn_start_tls(conn), POOL_E_ARGUMENT, "it is secured already");
    return answer;
}

static int start_in_use(struct pool_conn *conn, void *user)
{
    cr_expect_eq(pool_conn_start_tls(conn), POOL_E_ARGUMENT, "`use` is too late");
    return exchange(conn, user);
}

Test(pool_starttls, it_is_refused_where_it_has_no_place)
{
    struct tls_peer *peer = TLS_PEER(.credential = good, .clear_answer = "GO\n");
    struct tls_peer *plain = TLS_PEER(.credential = good);
    struct pool *pool = MAKE_POOL(.tls = tls, .prepare = start_twice);
    struct pool *secured = MAKE_POOL(.tls = tls);

    cr_expect_eq(pool_communicate(pool, address_of(peer, "?starttls=1"), start_in_use, NULL, NULL),
                 POOL_OK);
    cr_expect_eq(pool_communicate(secured, address_of(plain, ""), start_in_use, NULL, NULL),
                 POOL_OK);
    pool_destroy(secured);
    pool_destroy(pool);
    tls_peer_stop(plain);
    tls_peer_stop(peer);
}

/* ---- the hook */

static void on_answer(struct pool_conn *conn, enum pool_event event, struct pool_bytes bytes,
                      void *user)
{
    (void)user;
    if (event != POOL_EV_READ)
        return;
    cr_expect_eq(bytes.size, 3);
    pool_conn_ready(conn, pool_conn_start_tls(conn));
}

static int start_by_hook(struct pool_conn *conn, struct pool_actor *actor, void *user)
{
    (void)actor;
    if (pool_conn_watch(conn, on_answer, user) || pool_write(conn, "STARTTLS\n", 9))
        return -1;
    return POOL_LATER;
}

Test(pool_starttls, the_hook_does_the_same_event_by_event)
{
    struct tls_peer *peer = TLS_PEER(.credential = good, .clear_answer = "GO\n");
    struct pool *pool = MAKE_POOL(.tls = tls, .on_new_connection = start_by_hook);
    struct pool_error error;

    for (int i = 0; i < 3; i++)
        cr_expect_eq(attempt(pool, address_of(peer, "?starttls=1"), &error), POOL_OK, "%s",
                     error.text);
    cr_expect_eq(tls_peer_handshakes(peer), 1);
    pool_destroy(pool);
    tls_peer_stop(peer);
}

static struct peer *quiet;

/* The peer agrees, and then says nothing more. */
static int start_in_vain(struct pool_conn *conn, struct pool_actor *actor, void *user)
{
    int answer = start_by_hook(conn, actor, user);

    cr_expect(peer_wait_accepted(quiet, 1, VERBS_SOON));
    cr_expect_eq(peer_push(quiet, PEER_ALL, "GO\n", 3), 1);
    return answer;
}

Test(pool_starttls, tls_ms_bounds_the_handshake_of_a_hook)
{
    struct pool *pool = MAKE_POOL(.tls = tls, .on_new_connection = start_in_vain, .tls_ms = 200,
                                  .connect_ms = POOL_NONE);
    struct pool_error error = POOL_ERROR_INIT;
    struct pool_conn conn;
    char address[96];

    quiet = PEER(.behave = PEER_SILENT);
    snprintf(address, sizeof(address), "tls://127.0.0.1:%d?starttls=1", peer_port(quiet));
    cr_expect_eq(pool_borrow(pool, address, POOL_CALL(.timeout_ms = 20000, .error = &error), &conn),
                 POOL_E_TIMEOUT, "%s", error.text);
    cr_expect_eq(error.phase, POOL_PHASE_TLS, "%s", error.text);
    cr_expect(strstr(error.text, "out of time while securing"), "%s", error.text);
    pool_destroy(pool);
    peer_stop(quiet);
}

/* The same. */
static int prepare_in_vain(struct pool_conn *conn, void *user)
{
    struct pool_bytes line;

    (void)user;
    if (pool_send(conn, "STARTTLS\n", 9))
        return -1;
    cr_expect(peer_wait_accepted(quiet, 1, VERBS_SOON));
    cr_expect_eq(peer_push(quiet, PEER_ALL, "GO\n", 3), 1);
    return pool_recv_until(conn, "\n", 1, &line) ? -1 : pool_conn_start_tls(conn);
}

static struct pool_error stall(uint32_t tls_ms, uint32_t timeout_ms)
{
    struct pool *pool = MAKE_POOL(.tls = tls, .prepare = prepare_in_vain, .tls_ms = tls_ms);
    struct pool_error error = POOL_ERROR_INIT;
    struct pool_conn conn;
    char address[96];

    quiet = PEER(.behave = PEER_SILENT);
    snprintf(address, sizeof(address), "tls://127.0.0.1:%d?starttls=1", peer_port(quiet));
    cr_expect_eq(pool_borrow(pool, address,
                             POOL_CALL(.timeout_ms = timeout_ms, .error = &error), &conn),
                 POOL_E_TIMEOUT, "%s", error.text);
    cr_expect_eq(STAT(pool, total), 0);
    pool_destroy(pool);
    peer_stop(quiet);
    return error;
}

Test(pool_starttls, a_handshake_that_stalls_in_prepare_was_no_transfer)
{
    const struct pool_error errors[] = { stall(200, 20000), stall(20000, 400) };

    for (size_t i = 0; i < PL_COUNT(errors); i++) {
        cr_expect_eq(errors[i].status, POOL_E_TIMEOUT, "%s", errors[i].text);
        cr_expect_eq(errors[i].phase, POOL_PHASE_TLS, "%s", errors[i].text);
        cr_expect_eq(errors[i].outcome, POOL_NOT_SENT, "%s", errors[i].text);
        cr_expect(strstr(errors[i].text, "out of time while securing"), "%s", errors[i].text);
    }
}

Test(pool_starttls, the_time_of_a_handshake_in_prepare_is_that_of_tls)
{
    uint64_t begin_ns = pl_os->now_ns(), spent_ms = 0;
    struct pool_error error = stall(300, 20000);

    for (size_t i = 0; i < PL_COUNT(error.spent_ms); i++)
        spent_ms += error.spent_ms[i];
    cr_expect_geq(error.spent_ms[POOL_PHASE_TLS], 300, "%s", error.text);
    cr_expect_leq(spent_ms * PL_MS, pl_os->now_ns() - begin_ns, "it counts once: %s", error.text);
}

Test(pool_starttls, a_hook_that_secures_the_wrong_peer_is_told_why)
{
    struct credential *wrong = CREDENTIAL(authority, .names = "DNS:another.test");
    struct tls_peer *peer = TLS_PEER(.credential = wrong, .clear_answer = "GO\n");
    struct pool *pool = MAKE_POOL(.tls = tls, .on_new_connection = start_by_hook);
    struct pool_error error;

    cr_expect_eq(attempt(pool, address_of(peer, "?starttls=1"), &error), POOL_E_TLS, "%s",
                 error.text);
    cr_expect_eq(error.phase, POOL_PHASE_TLS, "%s", error.text);
    cr_expect(strstr(error.text, "certificate was refused"), "%s", error.text);
    pool_destroy(pool);
    tls_peer_stop(peer);
    credential_free(wrong);
}

Test(pool_starttls, a_peer_that_cannot_prove_who_it_is_is_suspended_like_one_that_is_down)
{
    struct credential *wrong = CREDENTIAL(authority, .names = "DNS:another.test");
    struct tls_peer *peer = TLS_PEER(.credential = wrong);
    struct pool *pool = MAKE_POOL(.tls = tls, .suspend_after = 2, .suspend_ms = 60000,
                                  .backoff_first_ms = 1, .backoff_max_ms = 2);
    struct pool_error error;
    enum pool_status status = POOL_E_TLS;
    unsigned calls = 0;

    for (; status == POOL_E_TLS && calls < 10; calls++)
        status = attempt(pool, address_of(peer, ""), &error);
    cr_expect_eq(status, POOL_E_SUSPENDED, "%s", error.text);
    cr_expect_eq(calls, 3);
    cr_expect_eq(error.cause, 0, "what OpenSSL said is no errno");
    pool_destroy(pool);
    tls_peer_stop(peer);
    credential_free(wrong);
}

/* ---- key_log */

static struct pool *to_end;

static void end_it(const char *line, void *user)
{
    struct pool *ended = to_end;

    (void)line;
    (void)user;
    to_end = NULL;
    pool_destroy(ended);
}

Test(pool_starttls, key_log_may_end_the_pool_in_the_handshake)
{
    struct pool_tls *telling;
    struct pool_error error;

    cr_assert_eq(pool_tls_create(
                     POOL_TLS_OPTIONS(.ca_pem = authority->certificate, .key_log = end_it),
                     &telling, NULL),
                 POOL_OK);
    for (int by_hook = 0; by_hook < 2; by_hook++) {
        struct tls_peer *peer =
            TLS_PEER(.credential = good, .clear_answer = by_hook ? "GO\n" : NULL);
        struct pool *pool =
            MAKE_POOL(.tls = telling, .on_new_connection = by_hook ? start_by_hook : NULL);

        to_end = pool;
        cr_expect_eq(attempt(pool, address_of(peer, by_hook ? "?starttls=1" : ""), &error),
                     POOL_E_CLOSING, "%s", error.text);
        cr_expect_null(to_end);
        tls_peer_stop(peer);
    }
    pool_tls_free(telling);
}
