/* test_shares.c: what comes free reaches whoever can use it, at once; and who waits for room in one
 * pool is no matter of another's. test_room.c has how room is made. */
#include <criterion/criterion.h>
#include <errno.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>

#include "base/os.h"
#include "support/peer.h"
#include "support/tests.h"
#include "support/verbs.h"

static enum pool_decision discard_own(struct pool *pool, void *user)
{
    (void)pool;
    cr_expect_eq(pool_discard(user), POOL_OK);
    return POOL_CONTINUE;
}

Test(pool_shares, one_that_comes_free_while_the_program_is_asked_is_found)
{
    struct peer *peer = PEER(.every_loopback = true, .own_process = true);
    struct pool_conn held, conn;
    struct pool *pool =
        MAKE_POOL(.max_connections = 1, .on_none_removable = discard_own, .user = &held);

    cr_assert(borrow(pool, loopback_at(peer, 1), &held));
    cr_expect_eq(pool_borrow(pool, loopback_at(peer, 2), POOL_CALL(.timeout_ms = 2000), &conn),
                 POOL_OK);
    cr_expect_eq(pool_return(&conn), POOL_OK);
    pool_destroy(pool);
    peer_stop(peer);
}

/* The first in the queue is a peer for which a connection is on its way: the one who waited for a
 * second one has left. */
Test(pool_shares, one_that_the_first_in_the_queue_does_not_need_is_the_nexts)
{
    struct peer *peer = PEER(.every_loopback = true, .own_process = true);
    struct peer *hung = PEER(.behave = PEER_NEVER_ACCEPT);
    struct pool *pool = MAKE_POOL(.max_connections = 2, .connect_ms = POOL_NONE);
    struct caller first, second, next;
    struct pool_conn held;

    cr_assert(borrow(pool, loopback_at(peer, 1), &held));
    cr_assert(queue_caller(&first, pool, peer_address(hung), 3000));
    cr_assert(queue_caller(&second, pool, peer_address(hung), 200));
    cr_assert(queue_caller(&next, pool, loopback_at(peer, 2), VERBS_SOON));
    cr_expect_eq(join_caller(&second), POOL_E_TIMEOUT);
    cr_expect_eq(pool_discard(&held), POOL_OK);
    cr_expect_eq(join_caller(&next), POOL_OK);
    cr_expect_not(atomic_load(&first.is_back), "he is not served before");
    cr_expect_eq(pool_discard(&next.conn), POOL_OK);
    cr_expect_eq(join_caller(&first), POOL_E_TIMEOUT);
    pool_destroy(pool);
    peer_stop(hung);
    peer_stop(peer);
}

/* ---- two pools, each with a mux of its own */

static uint64_t wakeups_in(struct pool *pool, int ms)
{
    uint64_t before = STAT(pool, wakeups);

    poll(NULL, 0, ms);
    return STAT(pool, wakeups) - before;
}

static void expect_undisturbed(struct pool *pool, const struct peer *peer, uint32_t park_ms)
{
    struct pool_conn conn, other;
    int fd;

    cr_assert(borrow(pool, loopback_at(peer, 1), &conn));
    fd = pool_conn_fd(&conn);
    cr_expect_eq(pool_return(&conn), POOL_OK);
    if (park_ms != POOL_NONE)
        cr_expect(wait_parked(fd));
    cr_expect_leq(wakeups_in(pool, 200), 3, "its mux is quiet");
    cr_expect_eq(STAT(pool, idle), 1, "what is idle stays");
    cr_expect_eq(pool_borrow(pool, loopback_at(peer, 2), POOL_CALL(.timeout_ms = 1000), &other),
                 POOL_OK, "and makes room where it is wanted");
    cr_expect_eq(pool_return(&other), POOL_OK);
    cr_expect_eq(pool_remove_some_connection(pool), 1);
}

static void share_process(uint32_t park_ms)
{
    struct peer *peer = PEER(.every_loopback = true, .own_process = true);
    struct pool *wanting = MAKE_POOL(.max_connections = 1);
    struct pool *pool = MAKE_POOL(.max_connections = 1, .park_ms = park_ms);
    struct pool_conn held;
    struct caller caller;

    cr_assert(borrow(wanting, loopback_at(peer, 1), &held));
    cr_assert(queue_caller(&caller, wanting, loopback_at(peer, 2), VERBS_SOON));
    expect_undisturbed(pool, peer, park_ms);
    cr_expect_eq(pool_return(&held), POOL_OK);
    cr_expect_eq(join_caller(&caller), POOL_OK);
    cr_expect_eq(pool_return(&caller.conn), POOL_OK);
    pool_destroy(pool);
    pool_destroy(wanting);
    peer_stop(peer);
}

Test(pool_shares, a_wish_for_room_is_no_matter_of_pools_on_other_muxes)
{
    share_process(POOL_NONE);
    share_process(1);
    share_process(POOL_ZERO);
}

/* ---- descriptors */

enum { MANY = 40 };

static struct pl_os door;
static atomic_bool is_short;

static int short_socket(int family, int type, int protocol)
{
    return atomic_load(&is_short) ? -EMFILE : pl_os_real.socket(family, type, protocol);
}

/* One is tried for every 100 ms; the others need not wait for their turn to be tried. */
Test(pool_shares, when_descriptors_come_free_nobody_waits_for_his_turn)
{
    static struct caller callers[MANY];
    struct peer *peer = PEER(.every_loopback = true, .own_process = true);
    char addresses[MANY][64];
    struct pool *pool;
    uint64_t start_ms;

    door = pl_os_real;
    door.socket = short_socket;
    pl_os_replace(&door);
    pool = MAKE_POOL();
    atomic_store(&is_short, true);
    for (unsigned i = 0; i < MANY; i++) {
        snprintf(addresses[i], sizeof(addresses[i]), "%s", loopback_at(peer, i + 1));
        cr_assert(queue_caller(&callers[i], pool, addresses[i], VERBS_SOON));
    }
    atomic_store(&is_short, false);
    start_ms = now_ms();
    for (unsigned i = 0; i < MANY; i++)
        cr_expect_eq(join_caller(&callers[i]), POOL_OK);
    cr_expect(WITHIN(elapsed_ms(start_ms), 0, MANY * 100 / 3));
    for (unsigned i = 0; i < MANY; i++)
        cr_expect_eq(pool_return(&callers[i].conn), POOL_OK);
    pool_destroy(pool);
    peer_stop(peer);
}
