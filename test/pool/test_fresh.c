/* test_fresh.c: which connection a call gets, as its flags and the pool's order have it: a fresh
 * one, none that must be waited for, the one returned last or first. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

#include "base/os.h"
#include "support/peer.h"
#include "support/tests.h"
#include "support/verbs.h"

static struct peer *peer;
static struct pool *pool;

/* ---- who sleeps: the library's waits, counted, and held at their end while `gate` is locked */

static struct pl_os os;
static atomic_uint asleep;
static pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;

static int counted_wait(_Atomic uint32_t *word, uint32_t expected, uint64_t deadline_ns)
{
    int status;

    atomic_fetch_add(&asleep, 1);
    status = pl_os_real.sleep_until(word, expected, deadline_ns);
    atomic_fetch_sub(&asleep, 1);
    pthread_mutex_lock(&gate);
    pthread_mutex_unlock(&gate);
    return status;
}

static bool sleep_so_many(void *count)
{
    return atomic_load(&asleep) == *(unsigned *)count;
}

static void wait_asleep(unsigned count)
{
    cr_assert(wait_until(sleep_so_many, &count, VERBS_SOON));
}

static void begin(void)
{
    os = pl_os_real;
    os.sleep_until = counted_wait;
    pl_os_replace(&os);
    peer = PEER(.every_loopback = true);
}

static void end(void)
{
    pool_destroy(pool);
    peer_stop(peer);
}

TestSuite(pool_fresh, .init = begin, .fini = end);

#define A loopback_at(peer, 1)
#define B loopback_at(peer, 2)

static enum pool_status borrow_flagged(const char *address, uint32_t flags, struct pool_conn *conn)
{
    return pool_borrow(pool, address, POOL_CALL(.flags = flags, .timeout_ms = VERBS_SOON), conn);
}

static struct pool_conn lend(const char *address)
{
    struct pool_conn conn = { 0 };

    cr_assert(borrow(pool, address, &conn));
    return conn;
}

/* So many idle connections, their ids counting from 1 in the order of their return. */
static void leave_idle(const char *address, unsigned count)
{
    struct pool_conn conns[8];

    for (unsigned i = 0; i < count; i++)
        conns[i] = lend(address);
    for (unsigned i = 0; i < count; i++)
        pool_return(&conns[i]);
}

static void expect_id(struct pool_conn *conn, uint64_t id)
{
    cr_expect_eq(pool_conn_id(conn), id);
    cr_expect_eq(echo(conn, "usable"), 0);
    pool_return(conn);
}

/* ---- fresh */

Test(pool_fresh, a_fresh_connection_is_opened_though_idle_ones_stand)
{
    struct pool_conn conn;

    pool = MAKE_POOL(.max_per_address = 8);
    leave_idle(A, 3);
    for (uint64_t id = 4; id <= 6; id++) {
        cr_assert_eq(borrow_flagged(A, POOL_FRESH, &conn), POOL_OK);
        cr_expect_eq(pool_conn_id(&conn), id);
        pool_return(&conn);
    }
    cr_expect_eq(STAT(pool, idle), 6);
    cr_expect_eq(STAT(pool, reused), 0);
}

Test(pool_fresh, communicate_gets_a_fresh_one_too)
{
    pool = MAKE_POOL();
    for (unsigned i = 1; i <= 3; i++) {
        cr_expect_eq(pool_communicate(pool, A, do_nothing, NULL, POOL_CALL(.flags = POOL_FRESH)),
                     POOL_OK);
        cr_expect_eq(STAT(pool, opened), i);
    }
}

Test(pool_fresh, at_the_cap_of_the_address_the_coldest_idle_one_makes_place)
{
    struct pool_conn conn;

    pool = MAKE_POOL(.max_per_address = 3);
    leave_idle(A, 3);
    cr_assert_eq(borrow_flagged(A, POOL_FRESH, &conn), POOL_OK);
    cr_expect_eq(pool_conn_id(&conn), 4);
    pool_return(&conn);
    cr_expect_eq(STAT(pool, evicted), 1);
    cr_expect_eq(STAT(pool, total), 3);
    conn = lend(A);
    expect_id(&conn, 4);
    cr_expect_eq(pool_remove_some_connection(pool), 1);
    cr_expect_eq(pool_remove_some_connection(pool), 1);
    conn = lend(A);
    expect_id(&conn, 4);
}

Test(pool_fresh, at_the_cap_of_the_pool_an_idle_one_of_another_address_makes_place)
{
    struct pool_conn conn;

    pool = MAKE_POOL(.max_connections = 2);
    leave_idle(B, 2);
    cr_assert_eq(borrow_flagged(A, POOL_FRESH, &conn), POOL_OK);
    expect_id(&conn, 3);
    cr_expect_eq(STAT(pool, evicted), 1);
}

/* A caller who wants a fresh one, in a thread of its own, seen to wait. */
static void queue_fresh(struct caller *caller)
{
    uint64_t waiting = STAT(pool, waiting);

    cr_assert(start_caller_with(caller, pool, A,
                                POOL_CALL(.flags = POOL_FRESH, .timeout_ms = VERBS_SOON)));
    cr_assert(WAIT_STAT(pool, waiting, waiting + 1));
}

Test(pool_fresh, who_waits_for_a_fresh_one_is_not_handed_one_that_comes_back)
{
    struct pool_conn conn;
    struct caller fresh;

    pool = MAKE_POOL(.max_per_address = 1);
    for (unsigned round = 0; round < 10; round++) {
        conn = lend(A);
        queue_fresh(&fresh);
        pool_return(&conn);
        cr_assert_eq(join_caller(&fresh), POOL_OK);
        cr_expect_eq(pool_conn_id(&fresh.conn), round + 2);
        pool_return(&fresh.conn);
        cr_expect_eq(STAT(pool, evicted), round + 1);
    }
    cr_expect_eq(STAT(pool, total), 1);
}

Test(pool_fresh, one_that_comes_back_goes_to_whoever_takes_it)
{
    struct pool_conn first, second;
    struct caller fresh, other;

    pool = MAKE_POOL(.max_per_address = 2, .barge_ms = POOL_NONE);
    first = lend(A);
    second = lend(A);
    queue_fresh(&fresh);
    cr_assert(queue_caller(&other, pool, A, VERBS_SOON));
    pool_return(&first);
    cr_assert_eq(join_caller(&other), POOL_OK);
    cr_expect_eq(pool_conn_id(&other.conn), 1);
    cr_expect_not(atomic_load(&fresh.is_back));
    pool_return(&second);
    cr_assert_eq(join_caller(&fresh), POOL_OK);
    cr_expect_eq(pool_conn_id(&fresh.conn), 3);
    pool_return(&fresh.conn);
    pool_return(&other.conn);
}

Test(pool_fresh, what_others_wait_for_is_not_closed_to_make_place)
{
    struct pool_conn first, second;
    struct caller fresh, other;

    pool = MAKE_POOL(.max_per_address = 2, .barge_ms = POOL_NONE);
    first = lend(A);
    second = lend(A);
    cr_assert(queue_caller(&other, pool, A, VERBS_SOON));
    wait_asleep(1);
    pthread_mutex_lock(&gate);
    pool_return(&first);                /* the other one is called, and does not look yet */
    wait_asleep(0);
    queue_fresh(&fresh);
    wait_asleep(1);
    pthread_mutex_unlock(&gate);
    cr_assert_eq(join_caller(&other), POOL_OK);
    cr_expect_eq(pool_conn_id(&other.conn), 1);
    pool_return(&second);
    cr_assert_eq(join_caller(&fresh), POOL_OK);
    cr_expect_eq(pool_conn_id(&fresh.conn), 3);
    pool_return(&fresh.conn);
    pool_return(&other.conn);
}

Test(pool_fresh, what_those_who_were_called_leave_makes_place)
{
    struct pool_conn first, second;
    struct caller fresh, other;

    /* Parking, which would look at what is idle, comes too late. */
    pool = MAKE_POOL(.max_per_address = 2, .barge_ms = POOL_NONE, .park_ms = VERBS_SOON);
    first = lend(A);
    second = lend(A);
    queue_fresh(&fresh);
    cr_assert(queue_caller(&other, pool, A, VERBS_SOON));
    wait_asleep(2);
    pthread_mutex_lock(&gate);
    pool_return(&first);
    pool_return(&second);               /* nobody is left to be called */
    pthread_mutex_unlock(&gate);
    cr_assert_eq(join_caller(&other), POOL_OK);
    cr_assert_eq(join_caller(&fresh), POOL_OK);
    cr_expect_eq(pool_conn_id(&fresh.conn), 3);
    pool_return(&fresh.conn);
    pool_return(&other.conn);
}

Test(pool_fresh, who_waited_for_long_is_not_passed_for_ever)
{
    struct pool_conn conn;
    struct caller fresh, other;

    pool = MAKE_POOL(.max_per_address = 1, .barge_ms = POOL_ZERO);
    conn = lend(A);
    queue_fresh(&fresh);
    cr_assert(queue_caller(&other, pool, A, VERBS_SOON));
    pool_return(&conn);
    cr_assert_eq(join_caller(&fresh), POOL_OK);
    cr_expect_eq(pool_conn_id(&fresh.conn), 2);
    cr_expect_not(atomic_load(&other.is_back));
    pool_return(&fresh.conn);
    cr_assert_eq(join_caller(&other), POOL_OK);
    cr_expect_eq(pool_conn_id(&other.conn), 2);
    pool_return(&other.conn);
}

Test(pool_fresh, who_gives_up_leaves_nothing_behind)
{
    struct pool_conn conn, again;

    pool = MAKE_POOL(.max_per_address = 1);
    conn = lend(A);
    cr_expect_eq(pool_borrow(pool, A, POOL_CALL(.flags = POOL_FRESH, .timeout_ms = 30), &again),
                 POOL_E_TIMEOUT);
    cr_expect_eq(STAT(pool, waiting), 0);
    pool_return(&conn);
    cr_expect_eq(STAT(pool, evicted), 0);
    conn = lend(A);
    expect_id(&conn, 1);
}

struct lent_to {
    _Atomic uint64_t id;
};

static void on_lent(struct pool_conn *conn, const struct pool_error *error, void *user)
{
    struct lent_to *to = user;
    uint64_t id = UINT64_MAX;

    (void)error;
    if (conn) {
        id = pool_conn_id(conn);
        pool_return(conn);
    }
    atomic_store(&to->id, id);
}

static bool was_lent(void *argument)
{
    return atomic_load(&((struct lent_to *)argument)->id) != 0;
}

Test(pool_fresh, event_driven_code_gets_a_fresh_one_too)
{
    struct lent_to to = { 0 };

    pool = MAKE_POOL(.max_per_address = 2);
    leave_idle(A, 2);
    cr_assert_eq(pool_communicate_async(pool, A, on_lent, &to, POOL_CALL(.flags = POOL_FRESH),
                                        NULL),
                 POOL_OK);
    cr_assert(wait_until(was_lent, &to, VERBS_SOON));
    cr_expect_eq(to.id, 3);
    cr_expect_eq(STAT(pool, evicted), 1);
}

/* Callers of both kinds, at one cap: everybody is served, and fresh ones with what is new. */
struct mixed {
    atomic_uint served, failed, stale;
    atomic_bool was_lent[8192];         /* by id */
};

static void borrow_mixed(unsigned index, void *argument)
{
    struct mixed *mixed = argument;
    struct pool_conn conn;

    for (unsigned i = 0; i < 200 / slowness(); i++) {
        bool is_fresh = (index + i) % 4 == 0;

        if (borrow_flagged(A, is_fresh ? POOL_FRESH : 0, &conn)) {
            atomic_fetch_add(&mixed->failed, 1);
            continue;
        }
        if (atomic_exchange(&mixed->was_lent[pool_conn_id(&conn) % 8192], true) && is_fresh)
            atomic_fetch_add(&mixed->stale, 1);
        pool_return(&conn);
        atomic_fetch_add(&mixed->served, 1);
    }
}

Test(pool_fresh, callers_of_both_kinds_are_all_served_at_a_cap, .timeout = 120)
{
    static struct mixed mixed;

    for (uint32_t cap = 1; cap <= 3; cap++) {
        memset(&mixed, 0, sizeof(mixed));
        pool = MAKE_POOL(.max_per_address = cap, .barge_ms = 1);
        cr_assert(run_threads(8, borrow_mixed, &mixed));
        cr_expect_eq(mixed.failed, 0, "cap %u", cap);
        cr_expect_eq(mixed.stale, 0);
        cr_expect_eq(STAT(pool, waiting), 0);
        cr_expect_leq(STAT(pool, total), cap);
        cr_expect_geq(STAT(pool, opened), 8 * (200 / slowness()) / 4, "each fresh one is new");
        pool_destroy(pool);
    }
    pool = NULL;
}

/* ---- not to wait */

static void expect_full_at_once(uint32_t flags, enum pool_status status)
{
    struct pool_conn conn;
    uint64_t start_us = now_us();

    cr_expect_eq(borrow_flagged(A, flags, &conn), status);
    cr_expect_leq(now_us() - start_us, 20000 * slowness());
    cr_expect_eq(STAT(pool, waiting), 0);
}

Test(pool_fresh, who_does_not_wait_is_told_at_once_when_the_address_has_no_place)
{
    struct pool_conn first, second, conn;

    pool = MAKE_POOL(.max_per_address = 2);
    first = lend(A);
    cr_assert_eq(borrow_flagged(A, POOL_DONT_WAIT, &second), POOL_OK, "one may be opened");
    expect_full_at_once(POOL_DONT_WAIT, POOL_E_FULL);
    expect_full_at_once(POOL_DONT_WAIT | POOL_FRESH, POOL_E_FULL);
    pool_return(&first);
    cr_assert_eq(borrow_flagged(A, POOL_DONT_WAIT, &conn), POOL_OK, "one is idle");
    expect_id(&conn, 1);
    cr_assert_eq(borrow_flagged(A, POOL_DONT_WAIT | POOL_FRESH, &conn), POOL_OK,
                 "an idle one can make place");
    expect_id(&conn, 3);
    pool_return(&second);
}

Test(pool_fresh, who_does_not_wait_is_told_at_once_when_the_pool_has_no_place)
{
    struct pool_conn first, second, conn;

    pool = MAKE_POOL(.max_connections = 2);
    first = lend(B);
    second = lend(B);
    expect_full_at_once(POOL_DONT_WAIT, POOL_E_FULL);
    expect_full_at_once(POOL_DONT_WAIT | POOL_FRESH, POOL_E_FULL);
    pool_return(&first);
    cr_assert_eq(borrow_flagged(A, POOL_DONT_WAIT, &conn), POOL_OK, "an idle one can be evicted");
    expect_id(&conn, 3);
    pool_return(&second);
}

Test(pool_fresh, who_does_not_wait_does_not_queue_behind_others_for_room)
{
    struct pool_conn first;
    struct caller patient;

    pool = MAKE_POOL(.max_connections = 1);
    first = lend(B);
    cr_assert(queue_caller(&patient, pool, A, VERBS_SOON));
    for (unsigned i = 0; i < 3; i++) {
        struct pool_conn conn;

        cr_expect_eq(borrow_flagged(A, POOL_DONT_WAIT, &conn), POOL_E_FULL);
    }
    cr_expect_eq(STAT(pool, waiting), 1, "the other one goes on waiting");
    pool_return(&first);
    cr_expect_eq(join_caller(&patient), POOL_OK);
    pool_return(&patient.conn);
}

Test(pool_fresh, who_does_not_wait_is_told_that_descriptors_ran_out)
{
    struct pool_conn held, conn;

    pool = MAKE_POOL();
    held = lend(B);
    set_descriptor_limit(256);
    fill_descriptors_but(0);
    cr_expect_eq(borrow_flagged(A, POOL_DONT_WAIT, &conn), POOL_E_RESOURCE);
    free_descriptors(PEER_ALL);
    cr_expect_eq(borrow_flagged(A, POOL_DONT_WAIT, &conn), POOL_OK);
    pool_return(&conn);
    pool_return(&held);
}

Test(pool_fresh, one_that_is_being_opened_for_somebody_else_is_not_counted_on)
{
    struct pool_conn conn;
    struct caller first;

    pool = MAKE_POOL(.max_per_address = 1);
    peer_set_behaviour(peer, PEER_NEVER_ACCEPT);
    cr_assert(queue_caller(&first, pool, A, 300));
    cr_expect_eq(borrow_flagged(A, POOL_DONT_WAIT, &conn), POOL_E_FULL);
    cr_expect_eq(STAT(pool, waiting), 1);
    cr_expect_eq(join_caller(&first), POOL_E_TIMEOUT);
}

/* ---- order */

Test(pool_fresh, lifo_lends_the_one_returned_last_and_fifo_the_one_returned_first)
{
    static const struct {
        enum pool_order order;
        uint64_t ids[3];
    } orders[] = { { POOL_LIFO, { 3, 3, 3 } }, { POOL_FIFO, { 1, 2, 3 } } };

    for (unsigned i = 0; i < 2; i++) {
        pool = MAKE_POOL(.order = orders[i].order);
        leave_idle(A, 3);
        for (unsigned j = 0; j < 3; j++) {
            struct pool_conn conn = lend(A);

            expect_id(&conn, orders[i].ids[j]);
        }
        pool_destroy(pool);
    }
    pool = NULL;
}
