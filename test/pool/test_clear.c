/* test_clear.c: a new generation: what was there is never lent again, and ends at once or when it
 * comes back; who waits is told; what comes after is opened anew. */
#include <criterion/criterion.h>
#include <stdio.h>

#include "pool/peer.h"
#include "pool/witness.h"
#include "support/peer.h"

/* ---- idle */

static void clear_idle(uint32_t park_ms, enum pool_check check)
{
    struct peer *peer = PEER(.own_process = true);
    struct pool *pool = MAKE_POOL(.park_ms = park_ms, .check = check);
    struct pool_conn conns[3];
    int fd;

    for (int i = 0; i < 3; i++)
        cr_assert(borrow(pool, peer_address(peer), &conns[i]));
    fd = pool_conn_fd(&conns[0]);
    for (int i = 0; i < 3; i++)
        cr_assert_eq(pool_return(&conns[i]), POOL_OK);
    if (park_ms != POOL_NONE)
        cr_assert(wait_parked(fd));
    cr_expect_eq(pool_clear(pool, NULL, 0), POOL_OK);
    cr_expect_eq(STAT(pool, total), 0, "they close within the call");
    cr_expect_eq(STAT(pool, closed[POOL_CLOSE_STALE]), 3);
    cr_expect(peer_wait_open(peer, 0, VERBS_SOON));
    cr_expect_eq(id_of_next(pool, peer_address(peer)), 4, "this thread remembers a cleared one");
    cr_expect_eq(id_of_next(pool, peer_address(peer)), 4);
    pool_destroy(pool);
    peer_stop(peer);
}

Test(pool_clear, idle_connections_close_now_and_the_next_borrow_opens_anew)
{
    clear_idle(POOL_NONE, POOL_CHECK_ALWAYS);
    clear_idle(1, POOL_CHECK_ALWAYS);
    clear_idle(POOL_NONE, POOL_CHECK_NEVER);
    clear_idle(1, POOL_CHECK_NEVER);
}

Test(pool_clear, of_one_address_leaves_the_others_alone)
{
    struct peer *peer = PEER(.own_process = true, .every_loopback = true);
    struct pool *pool = MAKE_POOL();
    char spelled[80];

    cr_expect_eq(id_of_next(pool, loopback_at(peer, 1)), 1);
    cr_expect_eq(id_of_next(pool, loopback_at(peer, 2)), 2);
    snprintf(spelled, sizeof(spelled), "TCP://127.1.3.1:%d?dscp=10", peer_port(peer));
    cr_expect_eq(pool_clear(pool, spelled, 0), POOL_OK, "that is another key");
    cr_expect_eq(STAT(pool, idle), 2);
    snprintf(spelled, sizeof(spelled), "TCP://127.1.3.1:%d", peer_port(peer));
    cr_expect_eq(pool_clear(pool, spelled, 0), POOL_OK);
    cr_expect_eq(id_of_next(pool, loopback_at(peer, 1)), 1);
    cr_expect_eq(id_of_next(pool, loopback_at(peer, 2)), 3);
    pool_destroy(pool);
    peer_stop(peer);
}

Test(pool_clear, of_an_address_that_nobody_used_is_no_error)
{
    struct pool *pool = MAKE_POOL();

    cr_expect_eq(pool_clear(pool, "tcp://127.0.0.1:1", POOL_INTERRUPT), POOL_OK);
    cr_expect_eq(pool_clear(pool, "tcp://a.name:1", 0), POOL_OK);
    cr_expect_eq(pool_clear(pool, NULL, 0), POOL_OK);
    cr_expect_eq(STAT(pool, total), 0);
    pool_destroy(pool);
}

Test(pool_clear, mistakes_clear_nothing)
{
    struct peer *peer = PEER();
    struct pool *pool = MAKE_POOL();

    cr_expect_eq(id_of_next(pool, peer_address(peer)), 1);
    cr_expect_eq(pool_clear(NULL, NULL, 0), POOL_E_ARGUMENT);
    cr_expect_eq(pool_clear(pool, NULL, 4), POOL_E_ARGUMENT);
    cr_expect_eq(pool_clear(pool, NULL, POOL_INTERRUPT | 1u << 31), POOL_E_ARGUMENT);
    cr_expect_eq(pool_clear(pool, "tcp://nonsense", POOL_THEN_PAUSE), POOL_E_ADDRESS);
    cr_expect_eq(id_of_next(pool, peer_address(peer)), 1);
    pool_destroy(pool);
    peer_stop(peer);
}

/* ---- lent */

static void clear_lent(bool is_warm, uint32_t flags)
{
    struct peer *peer = PEER(.own_process = true);
    struct pool *pool = MAKE_POOL(.check = is_warm ? POOL_CHECK_NEVER : POOL_CHECK_ALWAYS);
    struct pool_conn conn, other;

    for (int i = 0; is_warm && i < 3; i++)
        cr_expect_eq(id_of_next(pool, peer_address(peer)), 1);
    cr_assert(borrow(pool, peer_address(peer), &conn));
    cr_expect_eq(pool_clear(pool, NULL, flags), POOL_OK);
    cr_expect_eq(echo(&conn, "goes on"), 0);
    cr_assert(borrow(pool, peer_address(peer), &other));
    cr_expect_eq(pool_conn_id(&other), 2);
    cr_expect_eq(pool_return(&other), POOL_OK);
    cr_expect_eq(STAT(pool, idle), 1);
    cr_expect_eq(pool_return(&conn), POOL_OK);
    cr_expect_eq(STAT(pool, total), 1, "it ends with its loan");
    cr_expect_eq(STAT(pool, closed[POOL_CLOSE_STALE]), 1);
    cr_expect_eq(id_of_next(pool, peer_address(peer)), 2);
    pool_destroy(pool);
    peer_stop(peer);
}

Test(pool_clear, a_lent_connection_closes_when_it_is_returned)
{
    clear_lent(false, 0);
    clear_lent(true, 0);
}

Test(pool_clear, with_interrupt_a_lent_connection_ends_now)
{
    struct peer *peer = PEER(.behave = PEER_SILENT, .own_process = true);
    struct pool *pool = MAKE_POOL();
    struct reader reader;
    struct pool_conn conn;
    uint64_t start_ms;

    cr_assert(borrow(pool, peer_address(peer), &conn));
    cr_assert(start_reader(&reader, &conn, false));
    start_ms = now_ms();
    cr_expect_eq(pool_clear(pool, peer_address(peer), POOL_INTERRUPT), POOL_OK);
    join_reader(&reader);
    cr_expect(IN_TIME(elapsed_ms(start_ms), 0));
    cr_expect_eq(reader.status, POOL_E_CLEARED);
    cr_expect_eq(reader.second, POOL_E_CLEARED);
    cr_expect_eq(reader.error.phase, POOL_PHASE_USE);
    cr_expect_eq(pool_return(&conn), POOL_OK);
    cr_expect_eq(STAT(pool, closed[POOL_CLOSE_STALE]), 1);
    cr_expect_eq(STAT(pool, total), 0);
    pool_destroy(pool);
    peer_stop(peer);
}

static int clear_and_echo(struct pool_conn *conn, void *user)
{
    struct pool *pool = user;

    cr_expect_eq(echo(conn, "before"), 0);
    cr_expect_eq(pool_clear(pool, NULL, POOL_INTERRUPT), POOL_OK);
    return echo(conn, "after");
}

Test(pool_clear, may_be_called_inside_use)
{
    struct peer *peer = PEER();
    struct pool *pool = MAKE_POOL();
    struct pool_error error = POOL_ERROR_INIT;

    cr_expect_eq(pool_communicate(pool, peer_address(peer), clear_and_echo, pool,
                                  POOL_CALL(.error = &error)),
                 POOL_E_CLEARED);
    cr_expect_eq(error.outcome, POOL_ANSWERED);
    cr_expect_eq(STAT(pool, closed[POOL_CLOSE_STALE]), 1);
    cr_expect_eq(id_of_next(pool, peer_address(peer)), 2);
    pool_destroy(pool);
    peer_stop(peer);
}

/* While a cleared one is lent, returns to its peer take a closer look; when it is gone, or when
 * there was none, they are warm again. */
Test(pool_clear, costs_later_returns_nothing)
{
    struct peer *peer = PEER();
    struct pool *pool = MAKE_POOL(.max_per_address = 2);
    struct pl_peer *record;
    struct pool_conn conn;

    cr_assert(borrow(pool, peer_address(peer), &conn));
    record = pl_connection_of(conn.slot)->peer;
    cr_expect_eq(pool_clear(pool, NULL, 0), POOL_OK);
    cr_expect(atomic_load(&record->hints) & PL_HINT_LOOK);
    cr_expect_eq(id_of_next(pool, peer_address(peer)), 2);
    cr_expect(atomic_load(&record->hints) & PL_HINT_LOOK);
    cr_expect_eq(pool_return(&conn), POOL_OK);
    cr_expect_not(atomic_load(&record->hints) & PL_HINT_LOOK);
    cr_expect_eq(id_of_next(pool, peer_address(peer)), 2);
    cr_expect_eq(pool_clear(pool, NULL, 0), POOL_OK);
    cr_expect_eq(id_of_next(pool, peer_address(peer)), 3);
    pool_destroy(pool);
    peer_stop(peer);
}

/* ---- who waits, and what is on its way */

Test(pool_clear, who_waits_fails_at_once)
{
    enum { WAITERS = 5 };
    struct peer *peer = PEER(.own_process = true);
    struct pool *pool = MAKE_POOL(.max_per_address = 1);
    struct caller callers[WAITERS];
    struct pool_conn conn;

    cr_assert(borrow(pool, peer_address(peer), &conn));
    for (int i = 0; i < WAITERS; i++)
        cr_assert(queue_caller(&callers[i], pool, peer_address(peer), VERBS_SOON));
    cr_expect_eq(pool_clear(pool, peer_address(peer), 0), POOL_OK);
    for (int i = 0; i < WAITERS; i++) {
        cr_expect_eq(join_caller(&callers[i]), POOL_E_CLEARED);
        cr_expect_eq(callers[i].error.status, POOL_E_CLEARED);
        cr_expect_eq(callers[i].error.phase, POOL_PHASE_WAIT);
        cr_expect_eq(callers[i].error.outcome, POOL_NOT_SENT);
    }
    cr_expect(queue_caller(&callers[0], pool, peer_address(peer), VERBS_SOON));
    cr_expect_eq(pool_return(&conn), POOL_OK);
    cr_expect_eq(join_caller(&callers[0]), POOL_OK, "it came after the clear");
    cr_expect_eq(pool_conn_id(&callers[0].conn), 2);
    cr_expect_eq(pool_return(&callers[0].conn), POOL_OK);
    pool_destroy(pool);
    peer_stop(peer);
}

/* A connection that hangs in the making must not stand in the way of the new generation. */
Test(pool_clear, what_is_being_opened_is_given_up_and_opened_anew_for_who_comes_later)
{
    struct peer *peer = PEER(.behave = PEER_NEVER_ACCEPT, .own_process = true);
    struct pool *pool = OBSERVED_POOL(.max_connecting = 1);
    struct caller before, after;

    cr_assert(queue_caller(&before, pool, peer_address(peer), VERBS_SOON));
    cr_assert(WAIT_STAT(pool, opening, 1));
    cr_expect_eq(pool_clear(pool, NULL, 0), POOL_OK);
    cr_expect_eq(join_caller(&before), POOL_E_CLEARED);
    peer_set_behaviour(peer, PEER_ECHO);
    cr_assert(start_caller(&after, pool, peer_address(peer), VERBS_SOON));
    cr_expect_eq(join_caller(&after), POOL_OK);
    cr_expect_eq(pool_conn_id(&after.conn), 2);
    cr_expect_eq(pool_return(&after.conn), POOL_OK);
    cr_expect_eq(STAT(pool, closed[POOL_CLOSE_STALE]), 1);
    cr_expect_eq(STAT(pool, opened), 1);
    pool_destroy(pool);
    peer_stop(peer);
}

struct setup {
    struct pool *pool;
    struct pool_conn conn;
    atomic_uint begun, ends;
};

static void on_set_up(struct pool_conn *conn, enum pool_event event, struct pool_bytes bytes,
                      void *user)
{
    struct setup *setup = user;

    (void)conn;
    (void)bytes;
    atomic_fetch_add(&setup->ends, event == POOL_EV_ERROR || event == POOL_EV_CLOSED);
}

static int set_up_later(struct pool_conn *conn, struct pool_actor *actor, void *user)
{
    struct setup *setup = user;

    (void)actor;
    cr_expect_eq(pool_conn_watch(conn, on_set_up, setup), POOL_OK);
    setup->conn = *conn;
    return atomic_fetch_add(&setup->begun, 1) ? 0 : POOL_LATER;
}

static bool has_ended(void *argument)
{
    struct setup *setup = argument;

    return atomic_load(&setup->ends);
}

Test(pool_clear, what_is_being_set_up_is_given_up)
{
    struct peer *peer = PEER(.own_process = true);
    struct setup setup = { .begun = 0 };
    struct pool *pool = MAKE_POOL(.on_new_connection = set_up_later, .user = &setup);
    struct caller caller;

    cr_assert(queue_caller(&caller, pool, peer_address(peer), VERBS_SOON));
    while (!atomic_load(&setup.begun))
        sched_yield();
    cr_expect_eq(pool_clear(pool, NULL, 0), POOL_OK);
    cr_expect_eq(join_caller(&caller), POOL_E_CLEARED);
    cr_expect(wait_until(has_ended, &setup, VERBS_SOON));
    cr_expect(WAIT_STAT(pool, closed[POOL_CLOSE_STALE], 1));
    cr_expect_eq(id_of_next(pool, peer_address(peer)), 2);
    pool_destroy(pool);
    peer_stop(peer);
}

static int clear_in_hook(struct pool_conn *conn, struct pool_actor *actor, void *user)
{
    struct setup *setup = user;

    (void)actor;
    (void)conn;
    if (atomic_fetch_add(&setup->begun, 1) == 0)
        cr_expect_eq(pool_clear(setup->pool, NULL, 0), POOL_OK);
    return 0;
}

Test(pool_clear, a_connection_whose_hook_clears_the_pool_is_not_lent)
{
    struct peer *peer = PEER(.own_process = true);
    struct setup setup = { .begun = 0 };
    struct caller caller;

    setup.pool = MAKE_POOL(.on_new_connection = clear_in_hook, .user = &setup);
    cr_assert(start_caller(&caller, setup.pool, peer_address(peer), VERBS_SOON));
    cr_expect_eq(join_caller(&caller), POOL_E_CLEARED);
    cr_expect(WAIT_STAT(setup.pool, closed[POOL_CLOSE_STALE], 1));
    cr_expect_eq(id_of_next(setup.pool, peer_address(peer)), 2);
    pool_destroy(setup.pool);
    peer_stop(peer);
}

/* ---- what an actor hears */

struct listener {
    atomic_uint heard, gone;
};

static int hear_half(struct pool_conn *conn, struct pool_bytes message, void *user)
{
    struct listener *listener = user;

    (void)conn;
    atomic_fetch_add(&listener->heard, 1);
    return ((const char *)message.data)[message.size - 1] == '.' ? 0 : POOL_LATER;
}

static void on_gone(uint64_t connection, const struct pool_error *error, void *user)
{
    struct listener *listener = user;

    (void)connection;
    (void)error;
    atomic_fetch_add(&listener->gone, 1);
}

static int attach(struct pool_conn *conn, struct pool_actor *actor, void *user)
{
    (void)conn;
    actor->on_message = hear_half;
    actor->on_close = on_gone;
    actor->user = user;
    return 0;
}

static bool has_heard(void *argument)
{
    return atomic_load(&((struct listener *)argument)->heard);
}

static bool is_gone(void *argument)
{
    return atomic_load(&((struct listener *)argument)->gone);
}

/* Half a message heard, the connection is its actor's. */
static struct pool *with_half(struct peer *peer, struct listener *listener)
{
    struct pool *pool = MAKE_POOL(.on_new_connection = attach, .park_ms = 1, .user = listener);

    cr_assert_eq(id_of_next(pool, peer_address(peer)), 1);
    peer_push(peer, 0, "half", 4);
    cr_assert(wait_until(has_heard, listener, VERBS_SOON));
    return pool;
}

Test(pool_clear, an_actor_inside_a_message_finishes_it_first)
{
    struct peer *peer = PEER(.own_process = true);
    struct listener listener = { .heard = 0 };
    struct pool *pool = with_half(peer, &listener);

    cr_expect_eq(pool_clear(pool, NULL, 0), POOL_OK);
    cr_expect_eq(STAT(pool, total), 1);
    cr_expect_eq(id_of_next(pool, peer_address(peer)), 2);
    peer_push(peer, 0, "whole.", 6);
    cr_expect(wait_until(is_gone, &listener, VERBS_SOON));
    cr_expect_eq(atomic_load(&listener.heard), 2);
    cr_expect_eq(STAT(pool, closed[POOL_CLOSE_STALE]), 1);
    pool_destroy(pool);
    peer_stop(peer);
}

Test(pool_clear, with_interrupt_an_actor_inside_a_message_loses_the_connection)
{
    struct peer *peer = PEER(.own_process = true);
    struct listener listener = { .heard = 0 };
    struct pool *pool = with_half(peer, &listener);

    cr_expect_eq(pool_clear(pool, NULL, POOL_INTERRUPT), POOL_OK);
    cr_expect(wait_until(is_gone, &listener, VERBS_SOON));
    cr_expect(WAIT_STAT(pool, closed[POOL_CLOSE_STALE], 1));
    cr_expect_eq(STAT(pool, total), 0);
    pool_destroy(pool);
    peer_stop(peer);
}

/* ---- events, and all at once */

Test(pool_clear, is_told_before_what_it_ends)
{
    struct peer *peer = PEER();
    struct pool *pool = OBSERVED_POOL(.max_per_address = 2);
    struct pool_conn conn;

    cr_assert(borrow(pool, peer_address(peer), &conn));
    cr_expect_eq(id_of_next(pool, peer_address(peer)), 2);
    cr_expect_eq(pool_clear(pool, NULL, 0), POOL_OK);
    cr_expect_eq(pool_return(&conn), POOL_OK);
    pool_destroy(pool);
    cr_expect(wait_story("created ready ask +1 up1 lent1 ask +2 up2 lent2 back2 cleared -2:3 "
                         "back1 -1:3 closed"));
    peer_stop(peer);
}

Test(pool_clear, then_pause_leaves_the_pool_paused)
{
    struct peer *peer = PEER();
    struct pool *pool = OBSERVED_POOL();
    struct pool_conn conn;

    cr_expect_eq(id_of_next(pool, peer_address(peer)), 1);
    cr_expect_eq(pool_clear(pool, peer_address(peer), POOL_THEN_PAUSE), POOL_OK);
    cr_expect_eq(pool_borrow(pool, peer_address(peer), NULL, &conn), POOL_E_CLEARED);
    cr_expect_eq(pool_clear(pool, NULL, POOL_THEN_PAUSE), POOL_OK, "again, which changes little");
    cr_expect_eq(pool_ready(pool), POOL_OK);
    cr_expect_eq(id_of_next(pool, peer_address(peer)), 2);
    pool_destroy(pool);
    cr_expect(wait_story("created ready ask +1 up1 lent1 back1 cleared -1:3 ask failed cleared "
                         "ready ask +2 up2 lent2 back2 -2:9 closed"));
    peer_stop(peer);
}

struct thick {
    struct pool *pool;
    struct peer *peer;
    unsigned rounds;
    atomic_uint wrong, uneven, left;
};

static int use_briefly(struct pool_conn *conn, void *user)
{
    (void)user;
    return echo(conn, "hello");
}

static void work_or_clear(unsigned index, void *argument)
{
    struct thick *thick = argument;
    unsigned seed = index;
    enum pool_status status;

    if (index == 0) {
        while (atomic_load(&thick->left)) {
            if (pool_clear(thick->pool, rand_r(&seed) % 2 ? NULL : peer_address(thick->peer),
                           rand_r(&seed) % 2 ? POOL_INTERRUPT : 0))
                atomic_fetch_add(&thick->wrong, 1);
            atomic_fetch_add(&thick->uneven, !adds_up(thick->pool));
        }
        return;
    }
    for (unsigned i = 0; i < thick->rounds; i++) {
        status = pool_communicate(thick->pool, peer_address(thick->peer), use_briefly, NULL,
                                  POOL_CALL(.timeout_ms = VERBS_SOON));
        if (status != POOL_OK && status != POOL_E_CLEARED)
            atomic_fetch_add(&thick->wrong, 1);
    }
    atomic_fetch_sub(&thick->left, 1);
}

Test(pool_clear, in_the_thick_of_work_every_call_goes_well_or_is_cleared, .timeout = 120)
{
    static const enum pool_check checks[] = { POOL_CHECK_ALWAYS, POOL_CHECK_NEVER };

    for (int i = 0; i < 2; i++) {
        struct thick thick = { .peer = PEER(.own_process = true),
                               .rounds = 400 / slowness(),
                               .left = 6 };

        thick.pool = MAKE_POOL(.max_per_address = 3, .park_ms = 1, .check = checks[i]);
        cr_assert(run_threads(7, work_or_clear, &thick));
        cr_expect_eq(thick.wrong, 0);
        cr_expect_eq(thick.uneven, 0);
        cr_expect_eq(pool_clear(thick.pool, NULL, 0), POOL_OK);
        cr_expect(WAIT_STAT(thick.pool, total, 0), "nothing old is left");
        cr_expect(peer_wait_open(thick.peer, 0, VERBS_SOON));
        pool_destroy(thick.pool);
        peer_stop(thick.peer);
    }
}

/* ---- calls that wait on the mux, not in a thread */

struct later {
    atomic_uint answers;
    enum pool_status status;
    struct pool_conn conn;
};

static void on_lent(struct pool_conn *conn, const struct pool_error *error, void *user)
{
    struct later *later = user;

    later->status = error ? error->status : POOL_OK;
    if (conn)
        later->conn = *conn;
    atomic_fetch_add(&later->answers, 1);
}

static bool is_answered(void *argument)
{
    return atomic_load(&((struct later *)argument)->answers);
}

Test(pool_clear, asynchronous_calls_that_wait_fail_and_later_ones_are_served_anew)
{
    static const uint32_t flags[] = { 0, POOL_INTERRUPT, POOL_THEN_PAUSE };
    struct peer *peer = PEER(.own_process = true);

    for (int i = 0; i < 3; i++) {
        struct pool *pool = MAKE_POOL(.max_per_address = 1);
        struct later before = { .answers = 0 }, after = { .answers = 0 };
        struct pool_conn conn;

        cr_assert(borrow(pool, peer_address(peer), &conn));
        cr_expect_eq(pool_communicate_async(pool, peer_address(peer), on_lent, &before, NULL, NULL),
                     POOL_OK);
        cr_expect_eq(pool_clear(pool, NULL, flags[i]), POOL_OK);
        cr_expect(wait_until(is_answered, &before, VERBS_SOON));
        cr_expect_eq(before.status, POOL_E_CLEARED);
        if (flags[i] == POOL_THEN_PAUSE) {
            cr_expect_eq(
                pool_communicate_async(pool, peer_address(peer), on_lent, &after, NULL, NULL),
                POOL_E_CLEARED);
            cr_expect_eq(pool_ready(pool), POOL_OK);
        }
        cr_expect_eq(pool_communicate_async(pool, peer_address(peer), on_lent, &after, NULL, NULL),
                     POOL_OK);
        cr_expect_eq(pool_return(&conn), POOL_OK);
        cr_expect(wait_until(is_answered, &after, VERBS_SOON));
        cr_expect_eq(after.status, POOL_OK);
        cr_expect_eq(pool_conn_id(&after.conn), 2);
        cr_expect_eq(pool_return(&after.conn), POOL_OK);
        pool_destroy(pool);
    }
    peer_stop(peer);
}
