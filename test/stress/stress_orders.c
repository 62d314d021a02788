/* stress_orders.c: borrowers at work while other threads order about: clear, kill, force timeouts,
 * pause, keep room, and at last close.
 *
 * What must hold: every call answers what the orders allow, no reply crosses, every snapshot adds
 * up, a closed pool is told of its end once, and nothing is left. */
#include <stdatomic.h>
#include <stdio.h>

#include "stress/stress.h"
#include "support/peer.h"
#include "support/tests.h"

#define PLACES 3u
#define BORROWERS 6u
#define ORDERERS 2u
#define CALL_MS 20000u
#define SOON_MS 20000u

static struct pool *pool;
static struct peer *peers[PLACES];
static _Atomic uint64_t last_id;
static atomic_ullong served, ended, orders;
static atomic_uint told;
static atomic_bool is_closing;

/* ---- borrowers */

static int visit(struct pool_conn *conn, void *user)
{
    uint64_t id = pool_conn_id(conn), last = atomic_load(&last_id);

    while (id > last && !atomic_compare_exchange_weak(&last_id, &last, id))
        continue;
    return stress_ask(user, conn, NULL);
}

static bool may_be(enum pool_status status)
{
    return status == POOL_E_CLEARED || status == POOL_E_BROKEN || status == POOL_E_TIMEOUT ||
           status == POOL_E_TIMEOUT_IN_TRANSFER || status == POOL_E_CLOSING;
}

/* False: the pool is closed. */
static bool call_somewhere(struct stress_caller *caller)
{
    const char *address = peer_address(peers[stress_below(caller, PLACES)]);
    struct pool_conn conn;
    enum pool_status status;
    int answer = 0;

    if (stress_chance(caller, 60)) {
        status = pool_communicate(pool, address, visit, caller, POOL_CALL(.timeout_ms = CALL_MS));
    } else {
        status = pool_borrow(pool, address, POOL_CALL(.timeout_ms = CALL_MS), &conn);
        if (!status) {
            answer = visit(&conn, caller);
            if (stress_chance(caller, 10))
                pool_discard(&conn);
            else
                pool_return(&conn);
        }
    }
    atomic_fetch_add(status || answer ? &ended : &served, 1);
    if (status && !may_be(status))
        stress_fail("%s: %s", address, pool_status_name(status));
    if (answer > 0)
        stress_fail("%s: a reply crossed or strayed", address);
    if (answer < 0 && !may_be((enum pool_status)answer))
        stress_fail("%s: %s in the exchange", address, pool_status_name((enum pool_status)answer));
    return status != POOL_E_CLOSING;
}

/* ---- orders */

static void order(struct stress_caller *caller)
{
    uint64_t id = atomic_load(&last_id) + 2 - stress_below(caller, 6);
    enum pool_status status = POOL_OK;

    switch (stress_below(caller, 8)) {
    case 0:
        status = pool_clear(pool, NULL, stress_chance(caller, 50) ? POOL_INTERRUPT : 0);
        break;
    case 1:
        status = pool_clear(pool, peer_address(peers[stress_below(caller, PLACES)]), 0);
        break;
    case 2:
        status = pool_pause(pool);
        stress_expect_even(pool);
        if (!status)
            status = pool_ready(pool);
        break;
    case 3:
        status = pool_reserve_fds(pool, stress_below(caller, 20));
        break;
    case 4:
        pool_force_timeout(pool, id);
        break;
    case 5:
        pool_remove_some_connection(pool);
        break;
    default:
        pool_kill(pool, id);
        break;
    }
    if (status && !(status == POOL_E_CLOSING && atomic_load(&is_closing)))
        stress_fail("an order: %s", pool_status_name(status));
    atomic_fetch_add(&orders, 1);
    stress_expect_even(pool);
}

static void on_closed(void *user)
{
    (void)user;
    atomic_fetch_add(&told, 1);
}

static void work(unsigned index, void *argument)
{
    struct stress_caller caller = stress_caller_make(index);
    uint32_t *drain_ms = argument;

    caller.must_copy = true;
    if (index < ORDERERS) {
        while (stress_is_on())
            order(&caller);
        if (index == 0) {
            pool_ready(pool);
            atomic_store(&is_closing, true);
            if (pool_close(pool, *drain_ms, on_closed, NULL))
                stress_fail("it does not close");
        }
        return;
    }
    while (call_somewhere(&caller))
        continue;
}

static bool was_told(void *argument)
{
    (void)argument;
    return atomic_load(&told);
}

static void play(uint32_t drain_ms, enum pool_check check)
{
    stress_begin_part(stress_seconds() * 1000 / 6);
    atomic_store(&told, 0);
    atomic_store(&is_closing, false);
    atomic_store(&last_id, 0);
    if (pool_create(POOL_OPTIONS(.max_per_address = 3, .park_ms = 1, .check = check), &pool)) {
        stress_fail("no pool");
        return;
    }
    if (!run_threads(ORDERERS + BORROWERS, work, &drain_ms))
        stress_fail("no threads");
    if (drain_ms == POOL_NONE && !wait_until(was_told, NULL, SOON_MS))
        stress_fail("nobody was told that it is closed");
    pool_destroy(pool);
    if (atomic_load(&told) != 1)
        stress_fail("it was told %u times that it is closed", atomic_load(&told));
}

int main(int argc, char **argv)
{
    static const uint32_t patience[] = { POOL_NONE, 0, 3 };
    int descriptors;
    long blocks;

    stress_begin(argc, argv, 6);
    for (unsigned i = 0; i < PLACES; i++)
        peers[i] = PEER(.behave = PEER_TOKEN, .own_process = true);
    descriptors = count_descriptors();
    blocks = stress_blocks();
    for (unsigned i = 0; i < 6; i++) {
        play(patience[i % 3], i % 2 ? POOL_CHECK_NEVER : POOL_CHECK_ALWAYS);
        stress_expect_nothing_left(descriptors, blocks, "a pool");
    }
    for (unsigned i = 0; i < PLACES; i++)
        peer_stop(peers[i]);
    return stress_end("%llu exchanges, %llu ended by orders, %llu orders", atomic_load(&served),
                      atomic_load(&ended), atomic_load(&orders));
}
