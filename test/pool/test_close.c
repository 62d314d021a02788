/* test_close.c: the gentle end of a pool: what is new is refused, what is begun is let finish, what
 * is left at the end of the patience is forced, and somebody is told, once. */
#include <criterion/criterion.h>

#include "pool/witness.h"
#include "support/peer.h"

struct told {
    atomic_uint times;
    struct pool *pool;
    bool destroys;
    uint64_t total; /* of the pool, when told */
};

static void on_closed(void *user)
{
    struct told *told = user;

    told->total = STAT(told->pool, total);
    if (told->destroys)
        pool_destroy(told->pool);
    atomic_fetch_add(&told->times, 1);
}

static bool was_told(void *argument)
{
    return atomic_load(&((struct told *)argument)->times);
}

static bool wait_told(struct told *told)
{
    return wait_until(was_told, told, VERBS_SOON);
}

/* ---- nobody has a connection */

Test(pool_close, of_a_pool_without_connections_is_told_at_once)
{
    struct told told = { .pool = MAKE_POOL() };

    cr_expect_eq(pool_close(told.pool, POOL_NONE, on_closed, &told), POOL_OK);
    cr_expect(wait_told(&told));
    cr_expect_eq(told.total, 0);
    pool_destroy(told.pool);
    cr_expect_eq(told.times, 1);
}

Test(pool_close, idle_connections_close_now)
{
    struct peer *peer = PEER(.own_process = true);

    for (uint32_t park_ms = 1; park_ms <= 2; park_ms++) {
        struct told told = { .pool = MAKE_POOL(.park_ms = park_ms == 1 ? 1 : POOL_NONE) };
        struct pool_conn conns[3];

        for (int i = 0; i < 3; i++)
            cr_assert(borrow(told.pool, peer_address(peer), &conns[i]));
        for (int i = 0; i < 3; i++)
            cr_assert_eq(pool_return(&conns[i]), POOL_OK);
        cr_expect_eq(pool_close(told.pool, POOL_NONE, on_closed, &told), POOL_OK);
        cr_expect_eq(STAT(told.pool, total), 0, "within the call");
        cr_expect_eq(STAT(told.pool, closed[POOL_CLOSE_POOL]), 3);
        cr_expect(wait_told(&told));
        pool_destroy(told.pool);
        cr_expect(peer_wait_open(peer, 0, VERBS_SOON));
    }
    peer_stop(peer);
}

Test(pool_close, needs_nobody_to_be_told)
{
    struct peer *peer = PEER(.own_process = true);
    struct pool *pool = MAKE_POOL();

    cr_expect_eq(id_of_next(pool, peer_address(peer)), 1);
    cr_expect_eq(pool_close(pool, 100, NULL, NULL), POOL_OK);
    cr_expect_eq(STAT(pool, total), 0);
    pool_destroy(pool);
    peer_stop(peer);
}

/* ---- what is new, what is begun */

Test(pool_close, new_work_is_refused_and_what_is_lent_goes_on)
{
    struct peer *peer = PEER(.own_process = true);
    struct told told = { .pool = MAKE_POOL() };
    struct pool_target *target;
    struct pool_conn conn, other;

    cr_assert(borrow(told.pool, peer_address(peer), &conn));
    cr_expect_eq(pool_target_get(told.pool, peer_address(peer), &target), POOL_OK);
    cr_expect_eq(pool_close(told.pool, POOL_NONE, on_closed, &told), POOL_OK);
    cr_expect_eq(talk(told.pool, peer_address(peer)), POOL_E_CLOSING);
    cr_expect_eq(pool_borrow(told.pool, "tcp://127.0.0.1:1", NULL, &other), POOL_E_CLOSING);
    cr_expect_eq(pool_borrow(told.pool, NULL, POOL_CALL(.target = target), &other), POOL_E_CLOSING);
    cr_expect_eq(pool_pause(told.pool), POOL_E_CLOSING);
    cr_expect_eq(pool_ready(told.pool), POOL_E_CLOSING);
    cr_expect_eq(pool_clear(told.pool, NULL, 0), POOL_E_CLOSING);
    cr_expect_eq(echo(&conn, "goes on"), 0);
    cr_expect(adds_up(told.pool));
    cr_expect_eq(told.times, 0);
    cr_expect_eq(pool_return(&conn), POOL_OK);
    cr_expect_eq(STAT(told.pool, closed[POOL_CLOSE_POOL]), 1, "nobody waits for it");
    cr_expect(wait_told(&told));
    pool_target_free(target);
    pool_destroy(told.pool);
    cr_expect_eq(told.times, 1);
    peer_stop(peer);
}

/* A warm return is one swap, and must not keep the connection either. */
Test(pool_close, a_warm_connection_that_comes_back_ends)
{
    struct peer *peer = PEER(.own_process = true);
    struct told told = { .pool = MAKE_POOL(.check = POOL_CHECK_NEVER) };
    struct pool_conn conn;

    for (int i = 0; i < 3; i++)
        cr_expect_eq(id_of_next(told.pool, peer_address(peer)), 1);
    cr_assert(borrow(told.pool, peer_address(peer), &conn));
    cr_expect_eq(pool_close(told.pool, POOL_NONE, on_closed, &told), POOL_OK);
    cr_expect_eq(pool_return(&conn), POOL_OK);
    cr_expect_eq(STAT(told.pool, total), 0);
    cr_expect(wait_told(&told));
    pool_destroy(told.pool);
    peer_stop(peer);
}

Test(pool_close, those_who_already_wait_are_still_served)
{
    enum { WAITERS = 4 };
    struct peer *peer = PEER(.own_process = true);
    struct told told = { .pool = MAKE_POOL(.max_per_address = 1) };
    struct caller callers[WAITERS];
    struct pool_conn conn;

    cr_assert(borrow(told.pool, peer_address(peer), &conn));
    for (int i = 0; i < WAITERS; i++)
        cr_assert(queue_caller(&callers[i], told.pool, peer_address(peer), VERBS_SOON));
    cr_expect_eq(pool_close(told.pool, POOL_NONE, on_closed, &told), POOL_OK);
    cr_expect_eq(talk(told.pool, peer_address(peer)), POOL_E_CLOSING);
    cr_expect_eq(pool_return(&conn), POOL_OK);
    for (int i = 0; i < WAITERS; i++) {
        cr_expect_eq(join_caller(&callers[i]), POOL_OK);
        cr_expect_eq(echo(&callers[i].conn, "served"), 0);
        cr_expect_eq(told.times, 0);
        /* Also when the one they waited for cannot be kept: another one is opened. */
        cr_expect_eq(i == 1 ? pool_discard(&callers[i].conn) : pool_return(&callers[i].conn),
                     POOL_OK);
    }
    cr_expect(wait_told(&told));
    cr_expect_eq(STAT(told.pool, opened), 2);
    cr_expect_eq(STAT(told.pool, borrow_failed), 1);
    pool_destroy(told.pool);
    peer_stop(peer);
}

/* What a waiter is handed may turn out to be dead; it has not been refused for that. */
Test(pool_close, a_waiter_who_is_handed_a_dead_connection_goes_on_waiting)
{
    struct peer *peer = PEER(.own_process = true);
    struct told told = { .pool = MAKE_POOL(.max_per_address = 1, .barge_ms = POOL_ZERO) };
    struct caller caller;
    struct pool_conn conn;

    cr_assert(borrow(told.pool, peer_address(peer), &conn));
    cr_assert(queue_caller(&caller, told.pool, peer_address(peer), VERBS_SOON));
    cr_expect_eq(pool_close(told.pool, POOL_NONE, on_closed, &told), POOL_OK);
    cr_expect_eq(peer_close(peer, 0), 1);
    cr_expect_eq(listen_to(pool_conn_fd(&conn), VERBS_SOON), HEARD_END);
    cr_expect_eq(pool_return(&conn), POOL_OK);
    cr_expect_eq(join_caller(&caller), POOL_OK);
    cr_expect_eq(pool_conn_id(&caller.conn), 2);
    cr_expect_eq(pool_return(&caller.conn), POOL_OK);
    cr_expect(wait_told(&told));
    pool_destroy(told.pool);
    peer_stop(peer);
}

Test(pool_close, who_waits_for_a_connection_in_the_making_still_gets_it)
{
    struct peer *peer = PEER(.behave = PEER_NEVER_ACCEPT, .own_process = true);
    struct told told = { .pool = MAKE_POOL() };
    struct caller caller;

    cr_assert(queue_caller(&caller, told.pool, peer_address(peer), VERBS_SOON));
    cr_assert(WAIT_STAT(told.pool, opening, 1));
    cr_expect_eq(pool_close(told.pool, POOL_NONE, on_closed, &told), POOL_OK);
    peer_set_behaviour(peer, PEER_ECHO);
    cr_expect_eq(join_caller(&caller), POOL_OK);
    cr_expect_eq(pool_return(&caller.conn), POOL_OK);
    cr_expect(wait_told(&told));
    pool_destroy(told.pool);
    peer_stop(peer);
}

/* The last one to go may be a waiter who had no connection at all. */
Test(pool_close, is_told_when_the_last_waiter_gives_up)
{
    struct peer *peer = PEER(.own_process = true, .every_loopback = true);
    struct told told = { .pool = MAKE_POOL(.max_connections = 1) };
    struct caller caller;
    struct pool_conn conn;

    cr_assert(borrow(told.pool, loopback_at(peer, 1), &conn));
    cr_assert(queue_caller(&caller, told.pool, "tcp://127.0.0.1:1", 200));
    cr_expect_eq(pool_close(told.pool, POOL_NONE, on_closed, &told), POOL_OK);
    cr_expect_eq(join_caller(&caller), POOL_E_RESOURCE);
    cr_expect_eq(told.times, 0);
    cr_expect_eq(pool_return(&conn), POOL_OK);
    cr_expect(wait_told(&told));
    pool_destroy(told.pool);
    peer_stop(peer);
}

/* ---- the end of the patience */

Test(pool_close, what_is_left_at_the_deadline_is_forced)
{
    struct peer *peer = PEER(.behave = PEER_SILENT, .own_process = true);
    struct told told = { .pool = MAKE_POOL(.max_per_address = 1) };
    struct reader reader;
    struct caller caller;
    struct pool_conn conn;
    uint64_t start_ms;

    cr_assert(borrow(told.pool, peer_address(peer), &conn));
    cr_assert(start_reader(&reader, &conn, false));
    cr_assert(queue_caller(&caller, told.pool, peer_address(peer), VERBS_SOON));
    start_ms = now_ms();
    cr_expect_eq(pool_close(told.pool, 150, on_closed, &told), POOL_OK);
    join_reader(&reader);
    cr_expect(IN_TIME(elapsed_ms(start_ms), 150));
    cr_expect_eq(reader.status, POOL_E_CLOSING);
    cr_expect_eq(reader.second, POOL_E_CLOSING);
    cr_expect_eq(join_caller(&caller), POOL_E_CLOSING);
    cr_expect_eq(told.times, 0, "it is lent still");
    cr_expect_eq(pool_return(&conn), POOL_OK);
    cr_expect(wait_told(&told));
    cr_expect_eq(STAT(told.pool, closed[POOL_CLOSE_POOL]), 1);
    pool_destroy(told.pool);
    peer_stop(peer);
}

Test(pool_close, without_patience_all_is_forced_at_once)
{
    static const uint32_t none_at_all[] = { 0, POOL_ZERO };

    for (int i = 0; i < 2; i++) {
        struct peer *peer = PEER(.behave = PEER_SILENT, .own_process = true);
        struct peer *slow = PEER(.behave = PEER_NEVER_ACCEPT, .own_process = true);
        struct told told = { .pool = MAKE_POOL() };
        struct reader reader;
        struct caller caller;
        struct pool_conn conn;
        uint64_t start_ms;

        cr_assert(borrow(told.pool, peer_address(peer), &conn));
        cr_assert(start_reader(&reader, &conn, false));
        cr_assert(queue_caller(&caller, told.pool, peer_address(slow), VERBS_SOON));
        cr_assert(WAIT_STAT(told.pool, opening, 1));
        start_ms = now_ms();
        cr_expect_eq(pool_close(told.pool, none_at_all[i], on_closed, &told), POOL_OK);
        join_reader(&reader);
        cr_expect_eq(reader.status, POOL_E_CLOSING);
        cr_expect_eq(join_caller(&caller), POOL_E_CLOSING);
        cr_expect(IN_TIME(elapsed_ms(start_ms), 0));
        cr_expect(WAIT_STAT(told.pool, opening, 0));
        cr_expect_eq(pool_discard(&conn), POOL_OK);
        cr_expect(wait_told(&told));
        pool_destroy(told.pool);
        peer_stop(slow);
        peer_stop(peer);
    }
}

static int set_up_later(struct pool_conn *conn, struct pool_actor *actor, void *user)
{
    (void)conn;
    (void)actor;
    atomic_fetch_add((atomic_uint *)user, 1);
    return POOL_LATER;
}

Test(pool_close, a_connection_being_set_up_is_forced_too)
{
    struct peer *peer = PEER(.own_process = true);
    atomic_uint begun = 0;
    struct told told = { .pool = MAKE_POOL(.on_new_connection = set_up_later, .user = &begun) };
    struct caller caller;

    cr_assert(start_caller(&caller, told.pool, peer_address(peer), VERBS_SOON));
    while (!atomic_load(&begun))
        sched_yield();
    cr_expect_eq(pool_close(told.pool, 50, on_closed, &told), POOL_OK);
    cr_expect_eq(join_caller(&caller), POOL_E_CLOSING);
    cr_expect(wait_told(&told));
    cr_expect_eq(told.total, 0);
    pool_destroy(told.pool);
    peer_stop(peer);
}

/* ---- twice, and with the pool's end */

Test(pool_close, a_second_one_is_refused_and_never_told)
{
    struct peer *peer = PEER(.own_process = true);
    struct told told = { .pool = MAKE_POOL() }, second = { .pool = told.pool };
    struct pool_conn conn;

    cr_assert(borrow(told.pool, peer_address(peer), &conn));
    cr_expect_eq(pool_close(NULL, 0, on_closed, &second), POOL_E_ARGUMENT);
    cr_expect_eq(pool_close(told.pool, POOL_NONE, on_closed, &told), POOL_OK);
    cr_expect_eq(pool_close(told.pool, 0, on_closed, &second), POOL_E_CLOSING);
    cr_expect_eq(echo(&conn, "goes on"), 0, "it forced nothing");
    cr_expect_eq(pool_return(&conn), POOL_OK);
    cr_expect(wait_told(&told));
    cr_expect_eq(pool_close(told.pool, 0, on_closed, &second), POOL_E_CLOSING);
    pool_destroy(told.pool);
    cr_expect_eq(told.times, 1);
    cr_expect_eq(second.times, 0);
    peer_stop(peer);
}

static void count_only(void *user)
{
    atomic_fetch_add(&((struct told *)user)->times, 1);
}

Test(pool_close, the_pool_may_be_destroyed_before_it_is_told_and_it_is_told_within)
{
    struct peer *peer = PEER(.own_process = true);
    struct told told = { .pool = MAKE_POOL() };
    struct pool_conn conn;

    cr_assert(borrow(told.pool, peer_address(peer), &conn));
    cr_expect_eq(pool_close(told.pool, POOL_NONE, count_only, &told), POOL_OK);
    pool_destroy(told.pool);
    cr_expect_eq(told.times, 1, "none comes after the pool's end");
    cr_expect_eq(echo(&conn, "too late"), -1);
    cr_expect_eq(pool_return(&conn), POOL_OK);
    cr_expect_eq(told.times, 1);
    peer_stop(peer);
}

Test(pool_close, the_pool_may_be_destroyed_while_it_is_told)
{
    int before = count_descriptors();
    struct peer *peer = PEER(.own_process = true);
    struct told told = { .pool = MAKE_POOL(), .destroys = true };

    cr_expect_eq(id_of_next(told.pool, peer_address(peer)), 1);
    cr_expect_eq(pool_close(told.pool, POOL_NONE, on_closed, &told), POOL_OK);
    cr_expect(wait_told(&told));
    cr_expect(peer_wait_open(peer, 0, VERBS_SOON));
    peer_stop(peer);
    for (uint64_t start_ms = now_ms();
         count_descriptors() != before && elapsed_ms(start_ms) < VERBS_SOON;)
        sched_yield();
    cr_expect_eq(count_descriptors(), before);
    cr_expect_eq(told.times, 1);
}

Test(pool_close, right_before_the_pools_end_is_told_once, .timeout = 60)
{
    struct peer *peer = PEER(.own_process = true);

    for (int i = 0; i < 300; i++) {
        struct told told = { .pool = MAKE_POOL() };

        if (i % 3)
            cr_expect_eq(id_of_next(told.pool, peer_address(peer)), 1);
        cr_expect_eq(pool_close(told.pool, i % 2 ? POOL_NONE : 0, count_only, &told), POOL_OK);
        pool_destroy(told.pool);
        cr_assert_eq(told.times, 1, "round %d", i);
    }
    peer_stop(peer);
}

/* ---- from callbacks, from use, embedded */

static int close_in_use(struct pool_conn *conn, void *user)
{
    struct told *told = user;

    cr_expect_eq(pool_close(told->pool, POOL_NONE, on_closed, told), POOL_OK);
    return echo(conn, "goes on");
}

Test(pool_close, may_be_called_inside_use)
{
    struct peer *peer = PEER(.own_process = true);
    struct told told = { .pool = MAKE_POOL() };

    cr_expect_eq(pool_communicate(told.pool, peer_address(peer), close_in_use, &told, NULL),
                 POOL_OK);
    cr_expect(wait_told(&told));
    pool_destroy(told.pool);
    peer_stop(peer);
}

static int close_in_hook(struct pool_conn *conn, struct pool_actor *actor, void *user)
{
    struct told *told = user;

    (void)conn;
    (void)actor;
    cr_expect_eq(pool_close(told->pool, 0, count_only, told), POOL_OK);
    cr_expect_eq(told->times, 0, "never on the stack of the call that asked");
    return 0;
}

Test(pool_close, may_be_called_in_a_callback_of_the_mux)
{
    struct peer *peer = PEER(.own_process = true);
    struct told told = { .times = 0 };
    struct caller caller;

    told.pool = MAKE_POOL(.on_new_connection = close_in_hook, .user = &told);
    cr_assert(start_caller(&caller, told.pool, peer_address(peer), VERBS_SOON));
    cr_expect_eq(join_caller(&caller), POOL_E_CLOSING);
    cr_expect(wait_told(&told));
    pool_destroy(told.pool);
    cr_expect_eq(told.times, 1);
    peer_stop(peer);
}

Test(pool_close, on_an_embedded_mux_is_told_by_whoever_dispatches)
{
    struct pool_mux *mux;
    struct told told;

    for (int ends_first = 0; ends_first < 2; ends_first++) {
        cr_assert_eq(pool_mux_create(&mux), POOL_OK);
        told = (struct told){ .pool = MAKE_POOL(.mux = mux) };
        cr_expect_eq(pool_close(told.pool, 0, count_only, &told), POOL_OK);
        cr_expect_eq(told.times, 0);
        if (!ends_first)
            cr_expect_eq(pool_mux_dispatch(mux, 1000), POOL_OK);
        cr_expect_eq(told.times, !ends_first);
        pool_destroy(told.pool);
        cr_expect_eq(told.times, 1);
        pool_mux_destroy(mux);
    }
}

/* ---- events, and all at once */

Test(pool_close, is_told_in_order)
{
    struct peer *peer = PEER();
    struct told told = { .pool = OBSERVED_POOL(.max_per_address = 2) };
    struct pool_conn conn;

    cr_assert(borrow(told.pool, peer_address(peer), &conn));
    cr_expect_eq(id_of_next(told.pool, peer_address(peer)), 2);
    cr_expect_eq(pool_close(told.pool, POOL_NONE, count_only, &told), POOL_OK);
    cr_expect_eq(pool_return(&conn), POOL_OK);
    cr_expect(wait_told(&told));
    pool_destroy(told.pool);
    cr_expect(wait_story("created ready ask +1 up1 lent1 ask +2 up2 lent2 back2 -2:9 "
                         "back1 -1:9 closed"));
    peer_stop(peer);
}

struct thick {
    struct told told;
    struct peer *peer;
    atomic_uint served, wrong;
    uint32_t drain_ms;
};

static void work_or_close(unsigned index, void *argument)
{
    struct thick *thick = argument;
    enum pool_status status = POOL_OK;

    if (index == 0) {
        while (atomic_load(&thick->served) < 8)
            sched_yield();
        if (pool_close(thick->told.pool, thick->drain_ms, on_closed, &thick->told))
            atomic_fetch_add(&thick->wrong, 1);
        return;
    }
    while (!status) {
        status = talk(thick->told.pool, peer_address(thick->peer));
        atomic_fetch_add(&thick->served, !status);
        if (!adds_up(thick->told.pool))
            atomic_fetch_add(&thick->wrong, 1);
    }
    atomic_fetch_add(&thick->wrong, status != POOL_E_CLOSING);
}

Test(pool_close, in_the_thick_of_work_every_call_goes_well_or_is_refused, .timeout = 120)
{
    struct peer *peer = PEER(.own_process = true);
    static const uint32_t patience[] = { POOL_NONE, 0, 5 };

    for (int i = 0; i < 30; i++) {
        struct thick thick = { .peer = peer, .drain_ms = patience[i % 3] };

        thick.told.pool = MAKE_POOL(.max_per_address = 3, .park_ms = 1);
        cr_assert(run_threads(9, work_or_close, &thick));
        cr_expect(wait_told(&thick.told));
        cr_expect_eq(thick.told.total, 0);
        cr_expect_eq(thick.wrong, 0);
        pool_destroy(thick.told.pool);
        cr_expect_eq(thick.told.times, 1);
        cr_expect(peer_wait_open(peer, 0, VERBS_SOON));
    }
    peer_stop(peer);
}

/* ---- calls that wait on the mux, not in a thread */

struct later {
    atomic_uint lent, failed, told_before;
    enum pool_status status;
    struct pool_conn conn;
    struct told *told;
};

static void on_lent(struct pool_conn *conn, const struct pool_error *error, void *user)
{
    struct later *later = user;

    if (later->told)
        atomic_fetch_add(&later->told_before, atomic_load(&later->told->times));
    if (error)
        later->status = error->status;
    else
        later->conn = *conn;
    atomic_fetch_add(error ? &later->failed : &later->lent, 1);
}

static bool is_answered(void *argument)
{
    struct later *later = argument;

    return atomic_load(&later->lent) + atomic_load(&later->failed);
}

Test(pool_close, asynchronous_calls_that_wait_are_served_or_forced_before_it_is_told)
{
    struct peer *peer = PEER(.own_process = true);

    for (int is_forced = 0; is_forced < 2; is_forced++) {
        struct told told = { .pool = MAKE_POOL(.max_per_address = 1) };
        struct later later = { .told = &told };
        struct pool_conn conn;

        cr_assert(borrow(told.pool, peer_address(peer), &conn));
        cr_expect_eq(
            pool_communicate_async(told.pool, peer_address(peer), on_lent, &later, NULL, NULL),
            POOL_OK);
        cr_expect_eq(pool_close(told.pool, is_forced ? 0 : POOL_NONE, on_closed, &told), POOL_OK);
        cr_expect_eq(
            pool_communicate_async(told.pool, peer_address(peer), on_lent, &later, NULL, NULL),
            POOL_E_CLOSING);
        cr_expect_eq(pool_return(&conn), POOL_OK);
        cr_expect(wait_until(is_answered, &later, VERBS_SOON));
        cr_expect_eq(atomic_load(&later.failed), is_forced);
        if (is_forced)
            cr_expect_eq(later.status, POOL_E_CLOSING);
        else
            cr_expect_eq(pool_return(&later.conn), POOL_OK);
        cr_expect(wait_told(&told));
        cr_expect_eq(later.told_before, 0);
        pool_destroy(told.pool);
        cr_expect_eq(told.times, 1);
    }
    peer_stop(peer);
}
