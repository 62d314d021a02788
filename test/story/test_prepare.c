/* test_prepare.c: blocking code that sets a connection up, before its first use, on the thread of
 * the one who borrows it first. */
#include <criterion/criterion.h>
#include <string.h>

#include "support/peer.h"
#include "support/tests.h"
#include "support/verbs.h"

struct preparing {
    atomic_uint runs;
    int answer;
    pthread_t thread;
    const char *says; /* sent, and its echo read */
    bool leaves_half;
};

static int prepare(struct pool_conn *conn, void *user)
{
    struct preparing *preparing = user;

    atomic_fetch_add(&preparing->runs, 1);
    preparing->thread = pthread_self();
    if (preparing->says && echo(conn, preparing->says))
        return -1;
    if (preparing->leaves_half)
        cr_expect_eq(pool_send(conn, "more", 4), POOL_OK);
    return preparing->answer;
}

Test(prepare, runs_once_on_the_thread_of_the_first_borrower)
{
    struct preparing preparing = { .says = "AUTH" };
    struct peer *peer = PEER();
    struct pool *pool = MAKE_POOL(.prepare = prepare, .user = &preparing);
    char received[64] = "";

    for (int i = 0; i < 3; i++)
        cr_expect_eq(id_of_next(pool, peer_address(peer)), 1);
    cr_expect_eq(preparing.runs, 1);
    cr_expect(pthread_equal(preparing.thread, pthread_self()));
    peer_received(peer, 0, received, sizeof(received));
    cr_expect_str_eq(received, "AUTHpingpingping");
    pool_destroy(pool);
    peer_stop(peer);
}

Test(prepare, that_fails_is_the_borrowers_error)
{
    struct preparing ways[] = { { .answer = 9 },
                                { .answer = -1, .says = "AUTH" },
                                { .leaves_half = true } };
    struct pool_error error = POOL_ERROR_INIT;
    struct peer *peer = PEER();
    struct pool_conn conn;
    struct pool *pool;

    for (int i = 0; i < 3; i++) {
        pool = MAKE_POOL(.prepare = prepare, .user = &ways[i]);
        cr_expect_eq(pool_borrow(pool, peer_address(peer), POOL_CALL(.error = &error), &conn),
                     POOL_E_USER);
        cr_expect_eq(error.phase, POOL_PHASE_SETUP);
        cr_expect_eq(error.cause, ways[i].answer);
        cr_expect_eq(STAT(pool, total), 0);
        cr_expect_eq(STAT(pool, closed[POOL_CLOSE_ERROR]), 1);
        pool_destroy(pool);
    }
    cr_expect(peer_wait_open(peer, 0, VERBS_SOON));
    peer_stop(peer);
}

Test(prepare, and_the_peers_end_are_told_as_they_are)
{
    struct preparing preparing = { .says = "AUTH", .answer = 0 };
    struct pool_error error = POOL_ERROR_INIT;
    struct peer *peer = PEER(.behave = PEER_CLOSE_SENT, .after_bytes = 2);
    struct pool *pool = MAKE_POOL(.prepare = prepare, .user = &preparing);
    struct pool_conn conn;

    cr_expect_eq(pool_borrow(pool, peer_address(peer), POOL_CALL(.error = &error), &conn),
                 POOL_E_BROKEN);
    cr_expect_eq(error.phase, POOL_PHASE_SETUP);
    cr_expect_eq(error.outcome, POOL_NOT_SENT, "what prepare sent is not the request");
    cr_expect_eq(STAT(pool, total), 0);
    pool_destroy(pool);
    peer_stop(peer);
}

/* The mux's own thread must not run it: there a connection that is not prepared is as good as
 * none. */
Test(prepare, never_runs_on_the_mux_thread)
{
    struct preparing preparing = { .says = "AUTH" };
    struct peer *peer = PEER(.own_process = true);
    struct pool_mux *mux;
    struct pool_conn conn;
    struct caller other;
    struct pool *pool;

    cr_assert_eq(pool_mux_create(&mux), POOL_OK);
    pool = MAKE_POOL(.mux = mux, .prepare = prepare, .user = &preparing);
    cr_expect_eq(pool_borrow(pool, peer_address(peer), NULL, &conn), POOL_E_WOULD_BLOCK);
    cr_assert(start_caller(&other, pool, peer_address(peer), VERBS_SOON));
    while (!atomic_load(&other.is_back))
        cr_assert_eq(pool_mux_dispatch(mux, 10), POOL_OK);
    cr_assert_eq(join_caller(&other), POOL_OK);
    cr_expect_not(pthread_equal(preparing.thread, pthread_self()));
    cr_assert_eq(pool_return(&other.conn), POOL_OK);
    cr_expect_eq(pool_borrow(pool, peer_address(peer), NULL, &conn), POOL_OK, "now it is prepared");
    cr_expect_eq(pool_return(&conn), POOL_OK);
    cr_expect_eq(preparing.runs, 1);
    pool_destroy(pool);
    pool_mux_destroy(mux);
    peer_stop(peer);
}
