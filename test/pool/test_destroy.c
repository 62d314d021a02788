/* test_destroy.c: a pool's end, at every moment and from every place: waiters fail, lent
 * connections are shut down, nothing waits for a borrower, and nothing is left. */
#include <criterion/criterion.h>
#include <stdio.h>

#include "pool/pool.h"
#include "support/peer.h"
#include "support/tests.h"
#include "support/verbs.h"

Test(pool_destroy, leaves_no_descriptor_and_no_connection)
{
    int before = count_descriptors();
    struct peer *peer = PEER(.own_process = true);
    struct pool *pool;
    struct pool_conn conns[10];

    for (uint32_t park_ms = 1; park_ms <= 2; park_ms++) {
        pool = MAKE_POOL(.park_ms = park_ms == 1 ? 1 : POOL_NONE);
        for (int i = 0; i < 10; i++)
            cr_assert(borrow(pool, peer_address(peer), &conns[i]));
        for (int i = 0; i < 10; i++)
            cr_assert_eq(pool_return(&conns[i]), POOL_OK);
        pool_destroy(pool);
        cr_expect(peer_wait_open(peer, 0, VERBS_SOON));
    }
    peer_stop(peer);
    cr_expect_eq(count_descriptors(), before);
}

struct waiting_read {
    struct pool_conn conn;
    enum pool_status status, second;
    atomic_bool has_begun;
};

static void *read_on(void *argument)
{
    struct waiting_read *read = argument;
    char byte;
    size_t got;

    atomic_store(&read->has_begun, true);
    read->status = pool_recv(&read->conn, &byte, 1, &got);
    read->second = pool_send(&read->conn, "x", 1);
    return NULL;
}

static bool has_begun(void *argument)
{
    struct waiting_read *read = argument;

    return atomic_load(&read->has_begun);
}

Test(pool_destroy, ends_the_io_of_a_borrower_at_once_and_waits_for_none)
{
    struct peer *peer = PEER(.behave = PEER_SILENT);
    struct pool *pool = MAKE_POOL();
    struct waiting_read read = { .status = POOL_OK };
    uint64_t start_ms;
    pthread_t thread;

    cr_assert(borrow(pool, peer_address(peer), &read.conn));
    cr_assert_eq(pthread_create(&thread, NULL, read_on, &read), 0);
    cr_assert(wait_until(has_begun, &read, VERBS_SOON));
    start_ms = now_ms();
    pool_destroy(pool);
    pthread_join(thread, NULL);
    cr_expect(IN_TIME(elapsed_ms(start_ms), 0));
    cr_expect_eq(read.status, POOL_E_CLOSING);
    cr_expect_eq(read.second, POOL_E_CLOSING);
    cr_expect_eq(pool_return(&read.conn), POOL_OK);
    cr_expect(peer_wait_open(peer, 0, VERBS_SOON));
    peer_stop(peer);
}

Test(pool_destroy, leaves_a_lent_connection_to_be_returned_or_discarded_later)
{
    int before = count_descriptors();
    struct peer *peer = PEER(.own_process = true);
    struct pool *pool = MAKE_POOL();
    struct pool_conn conns[4];

    for (int i = 0; i < 4; i++)
        cr_assert(borrow(pool, peer_address(peer), &conns[i]));
    pool_destroy(pool);
    for (int i = 0; i < 4; i++) {
        cr_expect_str_eq(pool_conn_address(&conns[i]), peer_address(peer));
        cr_expect_eq(pool_conn_id(&conns[i]), i + 1);
        cr_expect_eq(echo(&conns[i], "too late"), -1);
        cr_expect_eq(i % 2 ? pool_return(&conns[i]) : pool_discard(&conns[i]), POOL_OK);
    }
    cr_expect(peer_wait_open(peer, 0, VERBS_SOON));
    peer_stop(peer);
    cr_expect_eq(count_descriptors(), before);
}

Test(pool_destroy, fails_all_who_wait)
{
    enum { WAITERS = 10 };
    struct peer *peer = PEER();
    struct pool *pool = MAKE_POOL(.max_per_address = 1);
    struct caller callers[WAITERS];
    struct pool_conn conn;
    uint64_t start_ms;

    cr_assert(borrow(pool, peer_address(peer), &conn));
    for (int i = 0; i < WAITERS; i++)
        cr_assert(queue_caller(&callers[i], pool, peer_address(peer), VERBS_SOON));
    start_ms = now_ms();
    pool_destroy(pool);
    for (int i = 0; i < WAITERS; i++) {
        cr_expect_eq(join_caller(&callers[i]), POOL_E_CLOSING);
        cr_expect_eq(callers[i].error.status, POOL_E_CLOSING);
        cr_expect_eq(callers[i].error.outcome, POOL_NOT_SENT);
    }
    cr_expect(IN_TIME(elapsed_ms(start_ms), 0));
    cr_expect_eq(pool_return(&conn), POOL_OK);
    peer_stop(peer);
}

Test(pool_destroy, fails_who_waits_for_a_connection_in_the_making)
{
    int before = count_descriptors();
    struct peer *peer = PEER(.behave = PEER_NEVER_ACCEPT, .own_process = true);
    struct pool *pool = MAKE_POOL();
    struct caller caller;

    cr_assert(queue_caller(&caller, pool, peer_address(peer), VERBS_SOON));
    cr_expect(WAIT_STAT(pool, opening, 1));
    pool_destroy(pool);
    cr_expect_eq(join_caller(&caller), POOL_E_CLOSING);
    peer_stop(peer);
    cr_expect_eq(count_descriptors(), before);
}

Test(pool_destroy, fails_who_waits_for_room)
{
    struct peer *peer = PEER(.own_process = true, .every_loopback = true);
    struct pool *pool = MAKE_POOL(.max_connections = 1);
    struct caller caller;
    struct pool_conn conn;
    char other[64];

    snprintf(other, sizeof(other), "tcp://127.7.7.7:%d", peer_port(peer));
    cr_assert(borrow(pool, peer_address(peer), &conn));
    cr_assert(queue_caller(&caller, pool, other, VERBS_SOON));
    pool_destroy(pool);
    cr_expect_eq(join_caller(&caller), POOL_E_CLOSING);
    cr_expect_eq(pool_return(&conn), POOL_OK);
    peer_stop(peer);
}

/* ---- from a callback */

enum place {
    IN_HOOK,
    IN_EVENT,
    IN_ACTOR,
    IN_ON_CLOSE,
    IN_OBSERVER,
    IN_NONE_REMOVABLE,
    IN_PREPARE,
    IN_USE,
    PLACES
};

struct suicide {
    enum place place;
    struct pool *pool;
    atomic_bool is_done;
    atomic_uint ends;
    enum pool_event_kind kind; /* IN_OBSERVER: at this event */
};

static void end_once(struct suicide *suicide, enum place place)
{
    if (suicide->place != place || atomic_exchange(&suicide->is_done, true))
        return;
    pool_destroy(suicide->pool);
}

static void on_event(struct pool_conn *conn, enum pool_event event, struct pool_bytes bytes,
                     void *user)
{
    struct suicide *suicide = user;

    (void)bytes;
    atomic_fetch_add(&suicide->ends, event == POOL_EV_ERROR || event == POOL_EV_CLOSED);
    if (event != POOL_EV_READ)
        return;
    end_once(suicide, IN_EVENT);
    pool_conn_ready(conn, POOL_OK);
}

static int on_message(struct pool_conn *conn, struct pool_bytes message, void *user)
{
    (void)message;
    end_once(user, IN_ACTOR);
    cr_expect_leq(pool_conn_id(conn), 1,
                  "its own handle is good, or stale once the pool has ended");
    return 0;
}

static void on_gone(uint64_t connection, const struct pool_error *error, void *user)
{
    (void)connection;
    (void)error;
    end_once(user, IN_ON_CLOSE);
}

static int on_new(struct pool_conn *conn, struct pool_actor *actor, void *user)
{
    struct suicide *suicide = user;

    end_once(suicide, IN_HOOK);
    actor->on_message = on_message;
    actor->on_close = on_gone;
    actor->user = user;
    if (suicide->place != IN_EVENT)
        return 0;
    cr_expect_eq(pool_conn_watch(conn, on_event, suicide), POOL_OK);
    cr_expect_eq(pool_write(conn, "hello", 5), POOL_OK);
    return POOL_LATER;
}

static int prepare(struct pool_conn *conn, void *user)
{
    end_once(user, IN_PREPARE);
    return echo(conn, "prepared");
}

static int use(struct pool_conn *conn, void *user)
{
    end_once(user, IN_USE);
    return echo(conn, "used");
}

static void observe(const struct pool_event_info *event, void *user)
{
    struct suicide *suicide = user;

    if (event->kind == suicide->kind)
        end_once(suicide, IN_OBSERVER);
}

static enum pool_decision none_removable(struct pool *pool, void *user)
{
    (void)pool;
    end_once(user, IN_NONE_REMOVABLE);
    return POOL_CONTINUE;
}

static bool is_done(void *argument)
{
    struct suicide *suicide = argument;

    return atomic_load(&suicide->is_done);
}

/* What brings each place about, after the first exchange. */
static void bring_about(struct suicide *suicide, struct peer *peer)
{
    if (suicide->place == IN_ACTOR)
        peer_push(peer, 0, "unasked", 7);
    if (suicide->place == IN_ON_CLOSE)
        peer_close_all(peer);
    if (suicide->place == IN_NONE_REMOVABLE) {
        pool_remove_some_connection(suicide->pool);
        pool_remove_some_connection(suicide->pool);
    }
}

static void end_in(enum place place, enum pool_event_kind kind)
{
    int before = count_descriptors();
    struct peer *peer = PEER(.own_process = true);
    static struct suicide all[PLACES + 16]; /* the mux thread may look at one a moment longer */
    static unsigned used;
    struct suicide *suicide = &all[used++ % (PLACES + 16)];
    enum pool_status status;

    *suicide = (struct suicide){ .place = place, .kind = kind };
    suicide->pool = MAKE_POOL(.on_new_connection = on_new, .prepare = prepare,
                             .on_none_removable = none_removable,
                             .on_event = place == IN_OBSERVER ? observe : NULL, .user = suicide,
                             .park_ms = 1);
    cr_assert_not_null(suicide->pool);
    status = pool_communicate(suicide->pool, peer_address(peer), use, suicide,
                              POOL_CALL(.timeout_ms = VERBS_SOON));
    cr_expect(status == POOL_OK || status == POOL_E_CLOSING || status == POOL_E_USER,
              "place %d, kind %d: %s", place, kind, pool_status_name(status));
    if (!suicide->is_done)
        bring_about(suicide, peer);
    cr_expect(wait_until(is_done, suicide, VERBS_SOON), "place %d, kind %d: it never came to that",
              place, kind);
    cr_expect(peer_wait_open(peer, 0, VERBS_SOON), "place %d, kind %d", place, kind);
    peer_stop(peer);
    for (uint64_t start_ms = now_ms();
         count_descriptors() != before && elapsed_ms(start_ms) < VERBS_SOON;)
        sched_yield();
    cr_expect_eq(count_descriptors(), before, "place %d, kind %d", place, kind);
    cr_expect_leq(suicide->ends, 1);
}

Test(pool_destroy, may_be_called_in_every_callback, .timeout = 120)
{
    for (int place = 0; place < PLACES; place++)
        if (place != IN_OBSERVER)
            end_in((enum place)place, POOL_EVENT_POOL_CREATED);
}

Test(pool_destroy, may_be_called_in_an_observer_at_each_event, .timeout = 120)
{
    static const enum pool_event_kind kinds[] = {
        POOL_EVENT_CONNECTION_CREATED, POOL_EVENT_CONNECTION_READY, POOL_EVENT_BORROW_STARTED,
        POOL_EVENT_BORROWED,           POOL_EVENT_RETURNED,
    };

    for (size_t i = 0; i < sizeof(kinds) / sizeof(*kinds); i++)
        end_in(IN_OBSERVER, kinds[i]);
}

/* ---- embedded */

static void destroy_posted(void *user)
{
    pool_destroy(user);
}

Test(pool_destroy, of_a_pool_on_an_embedded_mux_needs_nobody_to_dispatch)
{
    int before = count_descriptors();
    struct peer *peer = PEER(.own_process = true);
    struct pool_mux *mux;
    struct caller callers[2];
    struct pool *pool;

    for (int posted = 0; posted < 2; posted++) {
        cr_assert_eq(pool_mux_create(&mux), POOL_OK);
        pool = MAKE_POOL(.mux = mux, .max_per_address = 1);
        cr_assert(start_caller(&callers[0], pool, peer_address(peer), VERBS_SOON));
        while (!atomic_load(&callers[0].is_back))
            cr_assert_eq(pool_mux_dispatch(mux, 10), POOL_OK);
        cr_assert(queue_caller(&callers[1], pool, peer_address(peer), VERBS_SOON));
        cr_assert_eq(join_caller(&callers[0]), POOL_OK);
        if (posted) {
            cr_assert_eq(pool_mux_post(mux, destroy_posted, pool), POOL_OK);
            cr_assert_eq(pool_mux_dispatch(mux, 1000), POOL_OK);
        } else {
            pool_destroy(pool);
        }
        cr_expect_eq(join_caller(&callers[1]), POOL_E_CLOSING);
        cr_expect_eq(pool_return(&callers[0].conn), POOL_OK);
        pool_mux_destroy(mux);
        cr_expect(peer_wait_open(peer, 0, VERBS_SOON));
    }
    peer_stop(peer);
    cr_expect_eq(count_descriptors(), before);
}

Test(pool_destroy, of_one_pool_leaves_another_on_the_same_mux_alone)
{
    struct peer *peer = PEER(.own_process = true);
    struct pool_mux *mux;
    struct pool *first, *second;
    struct caller caller;
    struct pool_conn conn;

    cr_assert_eq(pool_mux_create(&mux), POOL_OK);
    first = MAKE_POOL(.mux = mux);
    second = MAKE_POOL(.mux = mux);
    cr_assert(start_caller(&caller, second, peer_address(peer), VERBS_SOON));
    while (!atomic_load(&caller.is_back))
        cr_assert_eq(pool_mux_dispatch(mux, 10), POOL_OK);
    cr_assert_eq(join_caller(&caller), POOL_OK);
    pool_destroy(first);
    cr_expect_eq(pool_return(&caller.conn), POOL_OK);
    cr_expect_eq(pool_borrow(second, peer_address(peer), NULL, &conn), POOL_OK);
    cr_expect_eq(pool_return(&conn), POOL_OK);
    pool_destroy(second);
    pool_mux_destroy(mux);
    peer_stop(peer);
}

/* ---- it waits for callbacks that run */

struct slow {
    atomic_bool is_inside, may_leave, has_left, is_destroyed;
    struct pool *pool;
};

static int linger(struct pool_conn *conn, struct pool_actor *actor, void *user)
{
    struct slow *slow = user;

    (void)conn;
    (void)actor;
    atomic_store(&slow->is_inside, true);
    while (!atomic_load(&slow->may_leave))
        sched_yield();
    atomic_store(&slow->has_left, true);
    return 0;
}

static void *destroy_it(void *argument)
{
    struct slow *slow = argument;

    pool_destroy(slow->pool);
    cr_expect(atomic_load(&slow->has_left), "it did not wait for the callback");
    atomic_store(&slow->is_destroyed, true);
    return NULL;
}

Test(pool_destroy, waits_for_a_callback_that_is_running)
{
    struct peer *peer = PEER(.own_process = true);
    struct slow slow = { .is_inside = false };
    struct caller caller;
    pthread_t thread;

    slow.pool = MAKE_POOL(.on_new_connection = linger, .user = &slow);
    cr_assert(start_caller(&caller, slow.pool, peer_address(peer), VERBS_SOON));
    while (!atomic_load(&slow.is_inside))
        sched_yield();
    cr_assert_eq(pthread_create(&thread, NULL, destroy_it, &slow), 0);
    cr_expect_eq(join_caller(&caller), POOL_E_CLOSING, "the waiter is told at once");
    cr_expect_not(atomic_load(&slow.is_destroyed));
    atomic_store(&slow.may_leave, true);
    pthread_join(thread, NULL);
    peer_stop(peer);
}

/* ---- in the thick of it */

struct thick {
    struct pool *pool;
    struct peer *peer;
    atomic_uint begun, wrong;
};

static int work_for_long(struct pool_conn *conn, void *user)
{
    struct thick *thick = user;

    atomic_fetch_add(&thick->begun, 1);
    while (echo(conn, "on and on") == 0)
        ;
    return -1;
}

static void work_or_destroy(unsigned index, void *argument)
{
    struct thick *thick = argument;
    enum pool_status status;

    if (index == 0) {
        while (atomic_load(&thick->begun) < 4)
            sched_yield();
        pool_destroy(thick->pool);
        return;
    }
    status = pool_communicate(thick->pool, peer_address(thick->peer), work_for_long, thick, NULL);
    if (status != POOL_E_CLOSING)
        atomic_fetch_add(&thick->wrong, 1);
}

Test(pool_destroy, in_the_thick_of_work_ends_every_call_with_closing)
{
    struct thick thick = { .peer = PEER(.own_process = true) };

    for (int i = 0; i < 20; i++) {
        atomic_store(&thick.begun, 0);
        thick.pool = MAKE_POOL(.max_per_address = 4);
        cr_assert(run_threads(9, work_or_destroy, &thick));
        cr_expect_eq(thick.wrong, 0);
    }
    cr_expect(peer_wait_open(thick.peer, 0, VERBS_SOON));
    peer_stop(thick.peer);
}

Test(pool_destroy, of_nothing_is_nothing)
{
    struct pool *pool = MAKE_POOL();

    pool_destroy(NULL);
    pool_destroy(pool);
    pool_mux_destroy(NULL);
}

Test(pool_destroy, whoever_may_not_enter_is_told_why_by_the_same_look)
{
    static const enum pool_status answers[] = {
        [PL_POOL_NONE] = POOL_E_CLOSING,      [PL_POOL_LIVE] = POOL_OK,
        [PL_POOL_PAUSED] = POOL_OK,           [PL_POOL_CLOSING] = POOL_OK,
        [PL_POOL_DESTROYED] = POOL_E_CLOSING, [PL_POOL_FORKED] = POOL_E_FORKED,
    };
    struct pool *pool = MAKE_POOL();
    uint64_t refs = atomic_load(&pool->refs);
    enum pool_status status;

    for (uint32_t state = PL_POOL_NONE; state <= PL_POOL_FORKED; state++) {
        atomic_store(&pool->state, state);
        status = pl_pool_enter(pool);
        cr_expect_eq(status, answers[state], "state %u", state);
        cr_expect_eq(atomic_load(&pool->refs), refs + (status == POOL_OK));
        if (!status)
            pl_pool_leave(pool);
    }
    atomic_store(&pool->state, PL_POOL_LIVE);
    pool_destroy(pool);
}
