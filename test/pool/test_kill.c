/* test_kill.c: one connection is closed, or its time is over, by an order from anywhere, in
 * whatever state it is. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "pool/witness.h"
#include "support/peer.h"

/* ---- kill: idle and lent */

static void kill_idle(uint32_t park_ms, enum pool_check check)
{
    struct peer *peer = PEER(.own_process = true);
    struct pool *pool = MAKE_POOL(.park_ms = park_ms, .check = check);
    struct pool_conn conn;
    int fd;

    cr_assert(borrow(pool, peer_address(peer), &conn));
    fd = pool_conn_fd(&conn);
    cr_assert_eq(pool_return(&conn), POOL_OK);
    if (park_ms != POOL_NONE)
        cr_assert(wait_parked(fd));
    cr_expect(pool_kill(pool, 1));
    cr_expect_eq(STAT(pool, total), 0);
    cr_expect_eq(STAT(pool, closed[POOL_CLOSE_DIRTY]), 1);
    cr_expect(peer_wait_open(peer, 0, VERBS_SOON));
    cr_expect_not(pool_kill(pool, 1), "it is gone");
    cr_expect_eq(id_of_next(pool, peer_address(peer)), 2);
    pool_destroy(pool);
    peer_stop(peer);
}

Test(pool_kill, an_idle_connection_is_closed_within_the_call)
{
    kill_idle(POOL_NONE, POOL_CHECK_ALWAYS);
    kill_idle(1, POOL_CHECK_ALWAYS);
    kill_idle(POOL_NONE, POOL_CHECK_NEVER);
    kill_idle(1, POOL_CHECK_NEVER);
}

Test(pool_kill, ends_the_io_of_a_borrower_at_once)
{
    struct peer *peer = PEER(.behave = PEER_SILENT, .own_process = true);
    struct pool *pool = MAKE_POOL();
    struct reader reader;
    struct pool_conn conn;
    uint64_t start_ms;

    cr_assert(borrow(pool, peer_address(peer), &conn));
    cr_assert(start_reader(&reader, &conn, true));
    start_ms = now_ms();
    cr_expect(pool_kill(pool, pool_conn_id(&conn)));
    join_reader(&reader);
    cr_expect(IN_TIME(elapsed_ms(start_ms), 0));
    cr_expect_eq(reader.status, POOL_E_BROKEN);
    cr_expect_eq(reader.second, POOL_E_BROKEN);
    cr_expect_eq(reader.error.cause, ESHUTDOWN);
    cr_expect_eq(reader.error.outcome, POOL_MAYBE_SENT);
    cr_expect(pool_kill(pool, 1), "lent still, so there is one");
    cr_expect_eq(pool_return(&conn), POOL_OK);
    cr_expect_eq(STAT(pool, closed[POOL_CLOSE_DIRTY]), 1);
    cr_expect_not(pool_kill(pool, 1));
    pool_destroy(pool);
    peer_stop(peer);
}

Test(pool_kill, finds_one_by_its_id_and_leaves_the_others_alone)
{
    struct peer *peer = PEER(.own_process = true, .every_loopback = true);
    struct pool *pool = MAKE_POOL(), *other = MAKE_POOL();
    struct pool_conn conns[3];

    for (unsigned i = 0; i < 3; i++)
        cr_assert(borrow(pool, loopback_at(peer, i), &conns[i]));
    cr_expect_not(pool_kill(other, 2));
    cr_expect_not(pool_kill(pool, 0));
    cr_expect_not(pool_kill(pool, 4));
    cr_expect_not(pool_kill(pool, UINT64_MAX));
    cr_expect_not(pool_kill(NULL, 2));
    cr_expect(pool_kill(pool, 2));
    for (unsigned i = 0; i < 3; i++) {
        cr_expect_eq(echo(&conns[i], "who?"), i == 1 ? -1 : 0);
        cr_expect_eq(pool_return(&conns[i]), POOL_OK);
    }
    cr_expect_eq(STAT(pool, idle), 2);
    pool_destroy(other);
    pool_destroy(pool);
    peer_stop(peer);
}

struct killer {
    struct pool *pool;
    bool uses_it_after;
    atomic_uint begun, gone, heard;
    atomic_bool was_there;
    enum pool_status last;
};

static int kill_and_answer(struct pool_conn *conn, void *user)
{
    struct killer *killer = user;

    if (echo(conn, "done"))
        return 1;
    cr_expect(pool_kill(killer->pool, pool_conn_id(conn)));
    return killer->uses_it_after ? echo(conn, "more") : 0;
}

/* An exchange that was finished before the order counts; the connection is not kept. */
Test(pool_kill, an_exchange_that_met_no_failure_counts_as_done)
{
    struct peer *peer = PEER();
    struct killer killer = { .pool = MAKE_POOL() };
    struct pool_error error = POOL_ERROR_INIT;

    for (uint64_t id = 1; id <= 2; id++) {
        cr_expect_eq(
            pool_communicate(killer.pool, peer_address(peer), kill_and_answer, &killer, NULL),
            POOL_OK);
        cr_expect_eq(STAT(killer.pool, closed[POOL_CLOSE_DIRTY]), id);
    }
    killer.uses_it_after = true;
    cr_expect_eq(pool_communicate(killer.pool, peer_address(peer), kill_and_answer, &killer,
                                  POOL_CALL(.error = &error)),
                 POOL_E_BROKEN);
    cr_expect_eq(error.outcome, POOL_ANSWERED);
    cr_expect_eq(STAT(killer.pool, total), 0);
    pool_destroy(killer.pool);
    peer_stop(peer);
}

/* ---- kill: what is not ready yet */

Test(pool_kill, who_waits_for_a_connection_in_the_making_is_told_that_it_broke)
{
    struct peer *peer = PEER(.behave = PEER_NEVER_ACCEPT, .own_process = true);
    struct pool *pool = MAKE_POOL();
    struct caller caller;
    uint64_t start_ms;

    cr_assert(queue_caller(&caller, pool, peer_address(peer), VERBS_SOON));
    cr_assert(WAIT_STAT(pool, opening, 1));
    start_ms = now_ms();
    cr_expect(pool_kill(pool, 1));
    cr_expect_eq(join_caller(&caller), POOL_E_BROKEN);
    cr_expect(IN_TIME(elapsed_ms(start_ms), 0));
    cr_expect_eq(caller.error.phase, POOL_PHASE_CONNECT);
    cr_expect_eq(caller.error.outcome, POOL_NOT_SENT);
    cr_expect_eq(caller.error.cause, ESHUTDOWN);
    cr_expect_eq(STAT(pool, closed[POOL_CLOSE_ERROR]), 1);
    cr_expect_eq(STAT(pool, total), 0);
    pool_destroy(pool);
    peer_stop(peer);
}

/* It is no fault of the peer's, and nobody pauses for it or suspends the address. */
Test(pool_kill, of_connections_in_the_making_does_not_count_as_failing_to_connect)
{
    struct peer *peer = PEER(.behave = PEER_NEVER_ACCEPT, .own_process = true);
    struct pool *pool = MAKE_POOL(.suspend_after = 2, .suspend_ms = VERBS_SOON);
    struct caller caller;

    for (uint64_t id = 1; id <= 4; id++) {
        cr_assert(start_caller(&caller, pool, peer_address(peer), VERBS_SOON));
        cr_expect(WAIT_STAT(pool, opening, 1));
        cr_expect(pool_kill(pool, id));
        cr_expect_eq(join_caller(&caller), POOL_E_BROKEN, "attempt %d", (int)id);
    }
    pool_destroy(pool);
    peer_stop(peer);
}

static void watch(struct pool_conn *conn, enum pool_event event, struct pool_bytes bytes,
                  void *user)
{
    struct killer *killer = user;

    (void)conn;
    (void)bytes;
    atomic_fetch_add(&killer->gone, event == POOL_EV_ERROR || event == POOL_EV_CLOSED);
}

static int set_up_later(struct pool_conn *conn, struct pool_actor *actor, void *user)
{
    struct killer *killer = user;

    (void)actor;
    cr_expect_eq(pool_conn_watch(conn, watch, killer), POOL_OK);
    atomic_fetch_add(&killer->begun, 1);
    return POOL_LATER;
}

static int set_up_unwatched(struct pool_conn *conn, struct pool_actor *actor, void *user)
{
    struct killer *killer = user;

    (void)conn;
    (void)actor;
    atomic_fetch_add(&killer->begun, 1);
    return POOL_LATER;
}

static bool has_begun(void *argument)
{
    return atomic_load(&((struct killer *)argument)->begun);
}

static bool is_gone(void *argument)
{
    return atomic_load(&((struct killer *)argument)->gone);
}

static void kill_in_setup(pool_new_connection_fn *hook, bool is_watched)
{
    struct peer *peer = PEER(.own_process = true);
    struct killer killer = { .begun = 0 };
    struct caller caller;

    killer.pool = MAKE_POOL(.on_new_connection = hook, .user = &killer);
    cr_assert(start_caller(&caller, killer.pool, peer_address(peer), VERBS_SOON));
    cr_assert(wait_until(has_begun, &killer, VERBS_SOON));
    cr_expect(pool_kill(killer.pool, 1));
    cr_expect_eq(join_caller(&caller), POOL_E_BROKEN);
    cr_expect_eq(caller.error.phase, POOL_PHASE_SETUP);
    if (is_watched)
        cr_expect(wait_until(is_gone, &killer, VERBS_SOON));
    cr_expect_eq(STAT(killer.pool, closed[POOL_CLOSE_ERROR]), 1);
    pool_destroy(killer.pool);
    peer_stop(peer);
}

Test(pool_kill, who_waits_for_a_connection_being_set_up_is_told_that_it_broke)
{
    kill_in_setup(set_up_later, true);
    kill_in_setup(set_up_unwatched, false);
}

static int kill_in_hook(struct pool_conn *conn, struct pool_actor *actor, void *user)
{
    struct killer *killer = user;

    (void)actor;
    if (atomic_fetch_add(&killer->begun, 1) == 0)
        atomic_store(&killer->was_there, pool_kill(killer->pool, pool_conn_id(conn)));
    return 0;
}

Test(pool_kill, a_hook_may_kill_the_connection_it_sets_up)
{
    struct peer *peer = PEER(.own_process = true);
    struct killer killer = { .begun = 0 };
    struct pool_conn conn;

    killer.pool = MAKE_POOL(.on_new_connection = kill_in_hook, .user = &killer);
    cr_expect_eq(pool_borrow(killer.pool, peer_address(peer), NULL, &conn), POOL_E_BROKEN);
    cr_expect(atomic_load(&killer.was_there));
    cr_expect_eq(id_of_next(killer.pool, peer_address(peer)), 2);
    pool_destroy(killer.pool);
    peer_stop(peer);
}

static void kill_newborn(const struct pool_event_info *event, void *user)
{
    struct killer *killer = user;

    if (event->kind == POOL_EVENT_CONNECTION_CREATED && event->connection == 1)
        atomic_store(&killer->was_there, pool_kill(killer->pool, 1));
}

static bool was_there(void *argument)
{
    return atomic_load(&((struct killer *)argument)->was_there);
}

/* Before it has so much as a socket. */
Test(pool_kill, an_observer_may_kill_a_connection_that_was_just_created)
{
    struct peer *peer = PEER(.own_process = true);
    struct killer killer = { .begun = 0 };
    struct pool_conn conn;
    enum pool_status status;

    killer.pool = MAKE_POOL(.on_event = kill_newborn, .user = &killer);
    status =
        pool_borrow(killer.pool, peer_address(peer), POOL_CALL(.timeout_ms = VERBS_SOON), &conn);
    /* The event may be told as late as when the connection is lent. */
    cr_expect(status == POOL_E_BROKEN || status == POOL_OK);
    if (!status)
        pool_return(&conn);
    cr_expect(wait_until(was_there, &killer, VERBS_SOON));
    cr_expect(WAIT_STAT(killer.pool, total, 0));
    cr_expect_eq(id_of_next(killer.pool, peer_address(peer)), 2);
    pool_destroy(killer.pool);
    peer_stop(peer);
}

/* ---- kill: what an actor hears */

static int hear_half(struct pool_conn *conn, struct pool_bytes message, void *user)
{
    struct killer *killer = user;

    (void)conn;
    (void)message;
    atomic_fetch_add(&killer->begun, 1);
    return POOL_LATER;
}

static void on_gone(uint64_t connection, const struct pool_error *error, void *user)
{
    struct killer *killer = user;

    (void)error;
    cr_expect_eq(connection, 1);
    atomic_fetch_add(&killer->gone, 1);
}

static int attach(struct pool_conn *conn, struct pool_actor *actor, void *user)
{
    (void)conn;
    actor->on_message = hear_half;
    actor->on_close = on_gone;
    actor->user = user;
    return 0;
}

Test(pool_kill, an_actor_inside_a_message_loses_the_connection)
{
    struct peer *peer = PEER(.own_process = true);
    struct killer killer = { .begun = 0 };

    killer.pool = MAKE_POOL(.on_new_connection = attach, .park_ms = 1, .user = &killer);
    cr_assert_eq(id_of_next(killer.pool, peer_address(peer)), 1);
    peer_push(peer, 0, "half", 4);
    cr_assert(wait_until(has_begun, &killer, VERBS_SOON));
    cr_expect(pool_kill(killer.pool, 1));
    cr_expect(wait_until(is_gone, &killer, VERBS_SOON));
    cr_expect_eq(STAT(killer.pool, closed[POOL_CLOSE_DIRTY]), 1);
    cr_expect_eq(STAT(killer.pool, total), 0);
    pool_destroy(killer.pool);
    cr_expect_eq(atomic_load(&killer.gone), 1);
    peer_stop(peer);
}

/* ---- force timeout: the same answers as the deadline gives */

static int wait_for_reply(struct pool_conn *conn, void *user)
{
    struct killer *killer = user;
    char byte;
    size_t got;

    if (killer->uses_it_after && pool_send(conn, "x", 1))
        return 1;
    atomic_store(&killer->begun, 1);
    killer->last = pool_recv(conn, &byte, 1, &got);
    return 1;
}

static void *force_it(void *argument)
{
    struct killer *killer = argument;

    wait_until(has_begun, killer, VERBS_SOON);
    atomic_store(&killer->was_there, pool_force_timeout(killer->pool, 1));
    return NULL;
}

/* Runs into the deadline, or is forced into it; the error without the times. */
static enum pool_status run_out(bool is_forced, bool sends, struct pool_error *error)
{
    struct peer *peer = PEER(.behave = PEER_SILENT, .own_process = true);
    struct killer killer = { .uses_it_after = sends, .pool = MAKE_POOL() };
    enum pool_status status;
    pthread_t thread;

    if (is_forced)
        cr_assert_eq(pthread_create(&thread, NULL, force_it, &killer), 0);
    *error = (struct pool_error)POOL_ERROR_INIT;
    status =
        pool_communicate(killer.pool, peer_address(peer), wait_for_reply, &killer,
                         POOL_CALL(.timeout_ms = is_forced ? VERBS_SOON : 100, .error = error));
    if (is_forced)
        pthread_join(thread, NULL);
    cr_expect_eq(atomic_load(&killer.was_there), is_forced);
    cr_expect_eq(killer.last, status);
    cr_expect_eq(STAT(killer.pool, timeouts), 1);
    cr_expect_eq(STAT(killer.pool, closed[POOL_CLOSE_ERROR]), 1);
    cr_expect_eq(STAT(killer.pool, total), 0);
    pool_destroy(killer.pool);
    peer_stop(peer);
    return status;
}

Test(pool_force_timeout, answers_as_the_deadline_does_before_and_in_the_transfer)
{
    struct pool_error forced, late;
    size_t same;

    for (int sends = 0; sends < 2; sends++) {
        cr_expect_eq(run_out(true, sends, &forced),
                     sends ? POOL_E_TIMEOUT_IN_TRANSFER : POOL_E_TIMEOUT);
        cr_expect_eq(run_out(false, sends, &late), forced.status);
        cr_expect_eq(forced.status, late.status);
        cr_expect_eq(forced.phase, late.phase);
        cr_expect_eq(forced.outcome, late.outcome);
        cr_expect_eq(forced.cause, late.cause);
        same = strcspn(strchr(late.text + 6, ' '), "(0123456789"); /* behind the address */
        cr_expect_eq(memcmp(strchr(forced.text + 6, ' '), strchr(late.text + 6, ' '), same), 0,
                     "\"%s\" and \"%s\"", forced.text, late.text);
        cr_expect_gt(same, 8);
    }
}

Test(pool_force_timeout, is_for_lent_connections_only)
{
    struct peer *peer = PEER(.own_process = true), *slow = PEER(.behave = PEER_NEVER_ACCEPT);
    struct pool *pool = MAKE_POOL();
    struct caller caller;

    cr_expect_eq(id_of_next(pool, peer_address(peer)), 1);
    cr_expect_not(pool_force_timeout(pool, 1), "idle");
    cr_assert(queue_caller(&caller, pool, peer_address(slow), 300));
    cr_assert(WAIT_STAT(pool, opening, 1));
    cr_expect_not(pool_force_timeout(pool, 2), "being opened");
    cr_expect_not(pool_force_timeout(pool, 3));
    cr_expect_not(pool_force_timeout(pool, 0));
    cr_expect_not(pool_force_timeout(NULL, 1));
    cr_expect_eq(join_caller(&caller), POOL_E_TIMEOUT);
    cr_expect_eq(id_of_next(pool, peer_address(peer)), 1, "none of it did any harm");
    pool_destroy(pool);
    peer_stop(slow);
    peer_stop(peer);
}

Test(pool_force_timeout, the_first_doom_of_a_connection_stays)
{
    struct peer *peer = PEER();
    struct pool *pool = MAKE_POOL();
    struct pool_conn conn;

    cr_assert(borrow(pool, peer_address(peer), &conn));
    cr_expect(pool_force_timeout(pool, 1));
    cr_expect(pool_kill(pool, 1));
    cr_expect_eq(pool_send(&conn, "x", 1), POOL_E_TIMEOUT);
    cr_expect_eq(pool_discard(&conn), POOL_OK);
    cr_expect_eq(STAT(pool, closed[POOL_CLOSE_ERROR]), 1);
    pool_destroy(pool);
    peer_stop(peer);
}

/* ---- all at once */

struct thick {
    struct pool *pool;
    struct peer *peer;
    unsigned rounds;
    atomic_uint wrong, left;
    _Atomic uint64_t last_id;
};

static int use_noted(struct pool_conn *conn, void *user)
{
    struct thick *thick = user;
    uint64_t id = pool_conn_id(conn), last = atomic_load(&thick->last_id);

    while (id > last && !atomic_compare_exchange_weak(&thick->last_id, &last, id))
        continue;
    return echo(conn, "hello");
}

static void work_or_kill(unsigned index, void *argument)
{
    struct thick *thick = argument;
    unsigned seed = index;
    uint64_t id;
    enum pool_status status;

    if (index == 0) {
        while (atomic_load(&thick->left)) {
            id = atomic_load(&thick->last_id) + 2 - (uint64_t)(rand_r(&seed) % 5);
            (void)(rand_r(&seed) % 2 ? pool_kill(thick->pool, id)
                                     : pool_force_timeout(thick->pool, id));
            atomic_fetch_add(&thick->wrong, !adds_up(thick->pool));
        }
        return;
    }
    for (unsigned i = 0; i < thick->rounds; i++) {
        status = pool_communicate(thick->pool, peer_address(thick->peer), use_noted, thick,
                                  POOL_CALL(.timeout_ms = VERBS_SOON));
        atomic_fetch_add(&thick->wrong, status != POOL_OK && status != POOL_E_BROKEN &&
                                            status != POOL_E_TIMEOUT &&
                                            status != POOL_E_TIMEOUT_IN_TRANSFER);
    }
    atomic_fetch_sub(&thick->left, 1);
}

Test(pool_kill, in_the_thick_of_work_every_call_goes_well_or_is_told, .timeout = 120)
{
    static const enum pool_check checks[] = { POOL_CHECK_ALWAYS, POOL_CHECK_NEVER };

    for (int i = 0; i < 2; i++) {
        struct thick thick = { .peer = PEER(.own_process = true),
                               .rounds = 400 / slowness(),
                               .left = 6 };

        thick.pool = MAKE_POOL(.max_per_address = 3, .park_ms = 1, .check = checks[i]);
        cr_assert(run_threads(7, work_or_kill, &thick));
        cr_expect_eq(thick.wrong, 0);
        cr_expect_eq(STAT(thick.pool, lent), 0);
        cr_expect_eq(talk(thick.pool, peer_address(thick.peer)), POOL_OK);
        pool_destroy(thick.pool);
        cr_expect(peer_wait_open(thick.peer, 0, VERBS_SOON));
        peer_stop(thick.peer);
    }
}

/* ---- loans that are driven event by event */

struct driven {
    struct pool *pool;
    struct pool_conn conn;
    struct pool_error error;
    atomic_uint begun, ends;
    enum pool_event last;
};

static void on_driven(struct pool_conn *conn, enum pool_event event, struct pool_bytes bytes,
                      void *user)
{
    struct driven *driven = user;

    (void)bytes;
    driven->last = event;
    driven->error.size = sizeof(driven->error);
    pool_conn_error(conn, &driven->error);
    if (event == POOL_EV_ERROR || event == POOL_EV_CLOSED)
        atomic_fetch_add(&driven->ends, 1);
}

static void on_lent(struct pool_conn *conn, const struct pool_error *error, void *user)
{
    struct driven *driven = user;

    cr_expect_null(error);
    driven->conn = *conn;
    cr_expect_eq(pool_conn_watch(conn, on_driven, driven), POOL_OK);
    cr_expect_eq(pool_write(conn, "x", 1), POOL_OK);
    atomic_store(&driven->begun, 1);
}

static bool is_driven(void *argument)
{
    return atomic_load(&((struct driven *)argument)->begun);
}

static bool is_over(void *argument)
{
    return atomic_load(&((struct driven *)argument)->ends);
}

Test(pool_kill, a_loan_that_is_driven_by_events_is_told_once)
{
    struct peer *peer = PEER(.behave = PEER_SILENT, .own_process = true);

    for (int is_killed = 0; is_killed < 2; is_killed++) {
        struct driven driven = { .pool = MAKE_POOL() };

        cr_expect_eq(pool_communicate_async(driven.pool, peer_address(peer), on_lent, &driven,
                                            POOL_CALL(.timeout_ms = VERBS_SOON), NULL),
                     POOL_OK);
        cr_assert(wait_until(is_driven, &driven, VERBS_SOON));
        cr_expect(is_killed ? pool_kill(driven.pool, 1) : pool_force_timeout(driven.pool, 1));
        cr_expect(wait_until(is_over, &driven, VERBS_SOON));
        cr_expect_eq(driven.last, POOL_EV_ERROR);
        cr_expect_eq(driven.error.status, is_killed ? POOL_E_BROKEN : POOL_E_TIMEOUT_IN_TRANSFER);
        cr_expect_eq(pool_return(&driven.conn), POOL_OK);
        cr_expect(WAIT_STAT(driven.pool, total, 0));
        cr_expect_eq(STAT(driven.pool, closed[is_killed ? POOL_CLOSE_DIRTY : POOL_CLOSE_ERROR]), 1);
        pool_destroy(driven.pool);
        cr_expect_eq(driven.ends, 1);
    }
    peer_stop(peer);
}
