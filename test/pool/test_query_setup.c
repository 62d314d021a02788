/* test_query_setup.c: queries that wait for a connection while its set-up fails: what that means
 * for those who have more time, and for those who wait for the peer. */
#include <criterion/criterion.h>

#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "support/queries.h"
#include "support/tests.h"

#define PATIENT(ms) POOL_CALL(.timeout_ms = (ms), .flags = POOL_WAIT_FOR_PEER)

/* Something was sent on the connection, but nothing of a query. */
static int greet_in_vain(struct pool_conn *conn, void *user)
{
    char answer;

    (void)user;
    return pool_send(conn, "hello\n", 6) || pool_recv_exact(conn, &answer, 1);
}

Test(query_setup, who_has_more_time_than_who_prepares_waits_on)
{
    struct peer *peer = PEER(.behave = PEER_SILENT);
    struct pool *pool = MAKE_POOL(.codec = pool_codec_line(), .prepare = greet_in_vain,
                                  .max_connecting = 1, .timeout_ms = 150);
    struct query others[2] = { { 0 }, { 0 } };
    struct asker hasty;
    uint64_t start_ms = now_ms();

    cr_assert(start_asker(&hasty, pool, peer_address(peer), "x", POOL_CALL(.timeout_ms = 200)));
    cr_assert(peer_wait_accepted(peer, 1, VERBS_SOON));
    cr_assert_eq(start_query(&others[0], pool, peer_address(peer), "plain",
                             POOL_CALL(.timeout_ms = 700)),
                 POOL_OK);
    cr_assert_eq(start_query(&others[1], pool, peer_address(peer), "patient", PATIENT(700)),
                 POOL_OK);
    cr_expect_eq(join_asker(&hasty), POOL_E_TIMEOUT, "nothing of it was sent");
    cr_expect_eq(hasty.query.error.outcome, POOL_NOT_SENT);
    for (unsigned i = 0; i < 2; i++) {
        cr_assert(wait_answered(&others[i]));
        cr_expect(elapsed_ms(start_ms) >= 700);
        cr_expect(has_failed_with(&others[i], POOL_E_TIMEOUT));
        cr_expect_eq(others[i].error.outcome, POOL_NOT_SENT);
    }
    cr_expect_geq(peer_accepted(peer, 2), 2);
    pool_destroy(pool);
    peer_stop(peer);
}

/* As a balancer does that has nobody behind it. */
Test(query_setup, who_waits_for_the_peer_does_so_where_it_ends_the_connection_instead_of_a_handshake)
{
    struct peer *peer = PEER(.behave = PEER_CLOSE_RECEIVED, .after_bytes = 1);
    struct pool *pool = MAKE_POOL(.codec = pool_codec_line(), .backoff_first_ms = 20);
    struct query patient = { 0 }, plain = { 0 };
    char address[128];
    uint64_t start_ms = now_ms();

    snprintf(address, sizeof(address), "tls%s", strchr(peer_address(peer), ':'));
    cr_assert_eq(start_query(&patient, pool, address, "patient", PATIENT(2000)), POOL_OK);
    ask_and_wait(&plain, pool, address, "plain", NULL);
    cr_expect(elapsed_ms(start_ms) < 2000);
    cr_expect_neq(plain.status, POOL_OK);
    cr_assert(wait_answered(&patient));
    cr_expect(elapsed_ms(start_ms) >= 2000, "%s", patient.error.text);
    cr_expect_eq(patient.error.outcome, POOL_NOT_SENT);
    pool_destroy(pool);
    peer_stop(peer);
}

/* ---- hooks that are asked for borrowers */

static atomic_uint asked;

static enum pool_decision ask_again(const struct pool_error *error, void *user)
{
    (void)error;
    (void)user;
    atomic_fetch_add(&asked, 1);
    return POOL_CONTINUE;
}

/* Also when its own thread opens the first connection. */
Test(query_setup, no_query_asks_what_to_do_about_an_error)
{
    struct peer *peer = PEER(.behave = PEER_SILENT);
    struct pool *pool = MAKE_POOL(.codec = pool_codec_line(), .on_error = ask_again);
    struct query query = { 0 }, started = { 0 };
    char address[128];

    snprintf(address, sizeof(address), "%s", peer_address(peer));
    peer_stop(peer);
    ask_and_wait(&query, pool, address, "x", NULL);
    cr_expect(has_failed_with(&query, POOL_E_REFUSED), "%s", query.error.text);
    cr_assert_eq(start_query(&started, pool, address, "x", NULL), POOL_OK);
    cr_assert(wait_answered(&started));
    cr_expect_eq(atomic_load(&asked), 0);
    pool_destroy(pool);
}
