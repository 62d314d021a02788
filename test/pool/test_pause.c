/* test_pause.c: a paused pool lends nothing and opens nothing, and loses nothing. */
#include <criterion/criterion.h>

#include "pool/witness.h"
#include "support/peer.h"

Test(pool_pause, borrows_are_refused_and_nothing_is_opened_until_ready)
{
    struct peer *peer = PEER();
    struct pool *pool = MAKE_POOL();
    struct pool_error error = POOL_ERROR_INIT;
    struct pool_conn conn;

    cr_expect_eq(pool_pause(pool), POOL_OK);
    cr_expect_eq(pool_borrow(pool, peer_address(peer), POOL_CALL(.error = &error), &conn),
                 POOL_E_CLEARED);
    cr_expect_eq(error.status, POOL_E_CLEARED);
    cr_expect_eq(error.outcome, POOL_NOT_SENT);
    cr_expect_eq(STAT(pool, total), 0);
    cr_expect_eq(STAT(pool, borrow_failed), 1);
    cr_expect_eq(pool_ready(pool), POOL_OK);
    cr_expect_eq(id_of_next(pool, peer_address(peer)), 1);
    cr_expect_eq(peer_accepted(peer, 1), 1);
    pool_destroy(pool);
    peer_stop(peer);
}

Test(pool_pause, idle_connections_stay_and_are_lent_again_when_it_is_ready)
{
    struct peer *peer = PEER();
    struct pool *pool = MAKE_POOL();
    struct pool_conn conn;

    cr_expect_eq(id_of_next(pool, peer_address(peer)), 1);
    cr_expect_eq(pool_pause(pool), POOL_OK);
    cr_expect_eq(pool_borrow(pool, peer_address(peer), NULL, &conn), POOL_E_CLEARED,
                 "although this thread remembers one");
    cr_expect_eq(STAT(pool, idle), 1);
    cr_expect_eq(pool_ready(pool), POOL_OK);
    cr_expect_eq(id_of_next(pool, peer_address(peer)), 1);
    pool_destroy(pool);
    peer_stop(peer);
}

Test(pool_pause, lent_connections_go_on_and_come_back_idle)
{
    struct peer *peer = PEER();
    struct pool *pool = MAKE_POOL();
    struct pool_conn conn;

    cr_assert(borrow(pool, peer_address(peer), &conn));
    cr_expect_eq(pool_pause(pool), POOL_OK);
    cr_expect_eq(echo(&conn, "goes on"), 0);
    cr_expect_eq(pool_return(&conn), POOL_OK);
    cr_expect_eq(STAT(pool, idle), 1);
    cr_expect_eq(pool_ready(pool), POOL_OK);
    cr_expect_eq(id_of_next(pool, peer_address(peer)), 1);
    pool_destroy(pool);
    peer_stop(peer);
}

Test(pool_pause, who_waits_fails_at_once)
{
    struct peer *peer = PEER(.own_process = true);
    struct pool *pool = MAKE_POOL(.max_per_address = 1);
    struct caller callers[3];
    struct pool_conn conn;

    cr_assert(borrow(pool, peer_address(peer), &conn));
    for (int i = 0; i < 3; i++)
        cr_assert(queue_caller(&callers[i], pool, peer_address(peer), VERBS_SOON));
    cr_expect_eq(pool_pause(pool), POOL_OK);
    for (int i = 0; i < 3; i++)
        cr_expect_eq(join_caller(&callers[i]), POOL_E_CLEARED);
    cr_expect_eq(pool_return(&conn), POOL_OK);
    cr_expect_eq(STAT(pool, idle), 1);
    pool_destroy(pool);
    peer_stop(peer);
}

/* What is on its way when nobody may wait any more ends as one that nobody needs, or stays idle. */
Test(pool_pause, no_new_socket_is_made_for_who_was_waiting)
{
    struct peer *peer = PEER(.behave = PEER_NEVER_ACCEPT, .own_process = true);
    struct pool *pool = MAKE_POOL(.max_connecting = 1);
    struct caller callers[3];

    for (int i = 0; i < 3; i++)
        cr_assert(queue_caller(&callers[i], pool, peer_address(peer), VERBS_SOON));
    cr_expect_eq(pool_pause(pool), POOL_OK);
    for (int i = 0; i < 3; i++)
        cr_expect_eq(join_caller(&callers[i]), POOL_E_CLEARED);
    peer_set_behaviour(peer, PEER_ECHO);
    cr_expect(WAIT_STAT(pool, opening, 0));
    cr_expect_leq(STAT(pool, opened), 1);
    cr_expect_eq(STAT(pool, total), STAT(pool, idle));
    pool_destroy(pool);
    peer_stop(peer);
}

Test(pool_pause, twice_is_once_and_ready_on_a_ready_pool_changes_nothing)
{
    struct pool *pool = OBSERVED_POOL();

    cr_expect_eq(pool_ready(pool), POOL_OK);
    cr_expect_eq(pool_pause(pool), POOL_OK);
    cr_expect_eq(pool_pause(pool), POOL_OK);
    cr_expect_eq(pool_ready(pool), POOL_OK);
    cr_expect_eq(pool_ready(pool), POOL_OK);
    cr_expect_eq(pool_pause(NULL), POOL_E_ARGUMENT);
    cr_expect_eq(pool_ready(NULL), POOL_E_ARGUMENT);
    pool_destroy(pool);
    cr_expect(wait_story("created ready ready closed"));
}

Test(pool_pause, a_pool_may_be_born_paused_and_is_ready_only_when_told)
{
    struct peer *peer = PEER();
    struct pool *pool = OBSERVED_POOL(.start_paused = true);
    struct pool_target *target;
    struct pool_conn conn;

    cr_expect_eq(pool_borrow(pool, peer_address(peer), NULL, &conn), POOL_E_CLEARED);
    cr_expect_eq(pool_target_get(pool, peer_address(peer), &target), POOL_OK, "that opens nothing");
    cr_expect_eq(pool_borrow(pool, NULL, POOL_CALL(.target = target), &conn), POOL_E_CLEARED);
    pool_target_free(target);
    cr_expect_eq(pool_ready(pool), POOL_OK);
    cr_expect_eq(id_of_next(pool, peer_address(peer)), 1);
    pool_destroy(pool);
    cr_expect(wait_story("created ask failed ask failed ready ask +1 up1 lent1 back1 -1:9 closed"));
    peer_stop(peer);
}

Test(pool_pause, ends_like_any_other_pool)
{
    struct peer *peer = PEER(.own_process = true);
    struct pool *pool = MAKE_POOL();
    struct pool_conn conn;

    cr_assert(borrow(pool, peer_address(peer), &conn));
    cr_expect_eq(id_of_next(pool, peer_address(peer)), 2);
    cr_expect_eq(pool_pause(pool), POOL_OK);
    pool_destroy(pool);
    cr_expect_eq(echo(&conn, "too late"), -1);
    cr_expect_eq(pool_discard(&conn), POOL_OK);
    cr_expect(peer_wait_open(peer, 0, VERBS_SOON));
    peer_stop(peer);
}

struct thick {
    struct pool *pool;
    struct peer *peer;
    unsigned rounds;
    atomic_uint wrong, served, left;
};

static void work_or_pause(unsigned index, void *argument)
{
    struct thick *thick = argument;
    enum pool_status status;

    if (index == 0) {
        while (atomic_load(&thick->left)) {
            atomic_fetch_add(&thick->wrong, pool_pause(thick->pool) != POOL_OK);
            atomic_fetch_add(&thick->wrong, !adds_up(thick->pool));
            atomic_fetch_add(&thick->wrong, pool_ready(thick->pool) != POOL_OK);
            sched_yield();
        }
        return;
    }
    for (unsigned i = 0; i < thick->rounds; i++) {
        status = talk(thick->pool, peer_address(thick->peer));
        atomic_fetch_add(&thick->wrong, status != POOL_OK && status != POOL_E_CLEARED);
        atomic_fetch_add(&thick->served, status == POOL_OK);
    }
    atomic_fetch_sub(&thick->left, 1);
}

Test(pool_pause, in_the_thick_of_work_every_call_goes_well_or_is_refused, .timeout = 120)
{
    struct thick thick = { .peer = PEER(.own_process = true),
                           .rounds = 400 / slowness(),
                           .left = 4 };

    thick.pool = MAKE_POOL(.max_per_address = 2, .park_ms = 1);
    cr_assert(run_threads(5, work_or_pause, &thick));
    cr_expect_eq(thick.wrong, 0);
    cr_expect_eq(talk(thick.pool, peer_address(thick.peer)), POOL_OK);
    cr_expect_eq(STAT(thick.pool, waiting), 0);
    cr_expect_eq(STAT(thick.pool, lent), 0);
    pool_destroy(thick.pool);
    peer_stop(thick.peer);
}
