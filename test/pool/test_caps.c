/* test_caps.c: the limits of a pool: connections in all, for one address, in the making, idle. */
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <netinet/in.h>
#include <stdlib.h>

#include "base/os.h"
#include "support/peer.h"
#include "support/tests.h"
#include "support/verbs.h"

enum { ADDRESSES = 8, IN_ALL = 20, PER_ADDRESS = 5, CONNECTING = 2 };

struct swarm {
    struct pool *pool;
    struct peer *peers[ADDRESSES];
    atomic_uint served, others, most_total, at_once[ADDRESSES], most_at_once;
    atomic_bool is_over;
};

static void raise_to(atomic_uint *most, unsigned value)
{
    unsigned seen = atomic_load(most);

    while (value > seen && !atomic_compare_exchange_weak(most, &seen, value))
        ;
}

static void borrow_anywhere(unsigned index, void *argument)
{
    struct swarm *swarm = argument;
    unsigned seed = index + 1, at;
    struct pool_conn conn;

    for (int i = 0; i < 15; i++) {
        at = (unsigned)rand_r(&seed) % ADDRESSES;
        if (pool_borrow(swarm->pool, peer_address(swarm->peers[at]),
                        POOL_CALL(.timeout_ms = VERBS_SOON), &conn)) {
            atomic_fetch_add(&swarm->others, 1);
            continue;
        }
        raise_to(&swarm->most_at_once, atomic_fetch_add(&swarm->at_once[at], 1) + 1);
        if (echo(&conn, "mine") == 0)
            atomic_fetch_add(&swarm->served, 1);
        atomic_fetch_sub(&swarm->at_once[at], 1);
        pool_return(&conn);
    }
}

static void *watch_gauges(void *argument)
{
    struct swarm *swarm = argument;

    while (!atomic_load(&swarm->is_over)) {
        struct pool_stats stats = { .size = sizeof(stats) };

        if (pool_stats(swarm->pool, &stats))
            break;
        raise_to(&swarm->most_total, (unsigned)stats.total);
    }
    return NULL;
}

/* What really is connected, as the door sees it: sockets in all, to each port, and on their way. */
static atomic_uint sockets, to_port[65536], on_way[65536], most_sockets, most_to_port, most_on_way;
static atomic_uint port_of[4096], way_of[4096];

static int counted_connect(int fd, const struct sockaddr *address, socklen_t size)
{
    unsigned port = ntohs(((const struct sockaddr_in *)(const void *)address)->sin_port);

    atomic_store(&port_of[fd], port);
    raise_to(&most_sockets, atomic_fetch_add(&sockets, 1) + 1);
    raise_to(&most_to_port, atomic_fetch_add(&to_port[port], 1) + 1);
    atomic_store(&way_of[fd], port);
    raise_to(&most_on_way, atomic_fetch_add(&on_way[port], 1) + 1);
    return pl_os_real.connect(fd, address, size);
}

/* It has arrived, or never will. */
static void end_way(int fd)
{
    unsigned port = atomic_exchange(&way_of[fd], 0);

    if (port)
        atomic_fetch_sub(&on_way[port], 1);
}

static int counted_getsockopt(int fd, int level, int name, void *value, socklen_t *size)
{
    if (level == SOL_SOCKET && name == SO_ERROR)
        end_way(fd);
    return pl_os_real.getsockopt(fd, level, name, value, size);
}

static int counted_close(int fd)
{
    unsigned port = atomic_exchange(&port_of[fd], 0);

    end_way(fd);
    if (port) {
        atomic_fetch_sub(&sockets, 1);
        atomic_fetch_sub(&to_port[port], 1);
    }
    return pl_os_real.close(fd);
}

/* 200 borrowers at once; nothing is ever above its cap, in the books or in the kernel. */
Test(pool_caps, two_hundred_borrowers_stay_below_every_cap)
{
    static struct swarm swarm;
    static struct pl_os door;
    pthread_t watcher;

    door = pl_os_real;
    door.connect = counted_connect;
    door.close = counted_close;
    door.getsockopt = counted_getsockopt;
    pl_os_replace(&door);
    for (int i = 0; i < ADDRESSES; i++)
        cr_assert_not_null(swarm.peers[i] = PEER(.own_process = true));
    swarm.pool = MAKE_POOL(.max_connections = IN_ALL, .max_per_address = PER_ADDRESS,
                           .max_connecting = CONNECTING);
    cr_assert_eq(pthread_create(&watcher, NULL, watch_gauges, &swarm), 0);
    cr_assert(run_threads(200, borrow_anywhere, &swarm));
    atomic_store(&swarm.is_over, true);
    pthread_join(watcher, NULL);
    cr_expect_eq(swarm.served, 200 * 15, "%u others", swarm.others);
    cr_expect_leq(swarm.most_total, IN_ALL);
    cr_expect_leq(swarm.most_at_once, PER_ADDRESS);
    cr_expect_leq(most_on_way, CONNECTING);
    cr_expect_leq(most_sockets, IN_ALL);
    cr_expect_leq(most_to_port, PER_ADDRESS);
    cr_expect_gt(most_sockets, IN_ALL / 2, "the caps were never tried");
    cr_expect_eq(STAT(swarm.pool, lent), 0);
    pool_destroy(swarm.pool);
    pl_os_replace(NULL);
    for (int i = 0; i < ADDRESSES; i++)
        peer_stop(swarm.peers[i]);
}

Test(pool_caps, one_address_gets_no_more_than_its_share)
{
    struct peer *peer = PEER();
    struct pool *pool = MAKE_POOL(.max_per_address = 3);
    struct pool_conn conns[3], none;

    for (int i = 0; i < 3; i++)
        cr_assert(borrow(pool, peer_address(peer), &conns[i]));
    cr_expect_eq(pool_borrow(pool, peer_address(peer), POOL_CALL(.timeout_ms = 50), &none),
                 POOL_E_TIMEOUT);
    cr_expect_eq(peer_accepted(peer, 3), 3);
    for (int i = 0; i < 3; i++)
        pool_return(&conns[i]);
    pool_destroy(pool);
    peer_stop(peer);
}

Test(pool_caps, a_discarded_connection_gives_its_place_to_the_next)
{
    struct peer *peer = PEER();
    struct pool *pool = MAKE_POOL(.max_per_address = 1);
    struct caller waiter;
    struct pool_conn conn;

    for (int i = 0; i < 100; i++) {
        cr_assert(borrow(pool, peer_address(peer), &conn));
        cr_assert(queue_caller(&waiter, pool, peer_address(peer), VERBS_SOON));
        cr_assert_eq(pool_discard(&conn), POOL_OK);
        cr_assert_eq(join_caller(&waiter), POOL_OK);
        cr_assert_eq(pool_discard(&waiter.conn), POOL_OK);
    }
    cr_expect(peer_wait_exact(peer, PEER_ACCEPTED, 200, VERBS_SOON));
    pool_destroy(pool);
    peer_stop(peer);
}

/* No storm on a peer that answers slowly: so many attempts are under way, however many wait. */
Test(pool_caps, connections_in_the_making_are_capped)
{
    for (uint32_t cap = 1; cap <= 3; cap++) {
        struct peer *peer = PEER(.behave = PEER_NEVER_ACCEPT);
        struct pool *pool = MAKE_POOL(.max_connecting = cap);
        struct caller callers[10];

        for (int i = 0; i < 10; i++)
            cr_assert(queue_caller(&callers[i], pool, peer_address(peer), 300));
        cr_expect_eq(STAT(pool, opening), cap);
        cr_expect_eq(STAT(pool, total), cap);
        for (int i = 0; i < 10; i++)
            cr_expect_eq(join_caller(&callers[i]), POOL_E_TIMEOUT);
        pool_destroy(pool);
        peer_stop(peer);
    }
}

Test(pool_caps, idle_connections_beyond_max_idle_are_closed)
{
    struct peer *peer = PEER();
    struct pool *pool = MAKE_POOL(.max_idle = 2), *none = MAKE_POOL(.max_idle = POOL_ZERO);
    struct pool_conn conns[5];

    for (int i = 0; i < 5; i++)
        cr_assert(borrow(pool, peer_address(peer), &conns[i]));
    for (int i = 0; i < 5; i++)
        cr_expect_eq(pool_return(&conns[i]), POOL_OK);
    cr_expect_eq(STAT(pool, idle), 2);
    cr_expect_eq(STAT(pool, total), 2);
    cr_expect_eq(STAT(pool, closed[POOL_CLOSE_IDLE]), 3);
    cr_expect_eq(talk(none, peer_address(peer)), POOL_OK);
    cr_expect_eq(talk(none, peer_address(peer)), POOL_OK);
    cr_expect_eq(STAT(none, total), 0);
    cr_expect_eq(STAT(none, opened), 2);
    pool_destroy(none);
    pool_destroy(pool);
    peer_stop(peer);
}

/* max_idle bounds what lies about, not what is handed on. */
Test(pool_caps, a_waiter_is_served_even_when_no_idle_one_may_stay)
{
    struct peer *peer = PEER();
    struct pool *pool = MAKE_POOL(.max_idle = POOL_ZERO, .max_per_address = 1);
    struct caller waiter;
    struct pool_conn conn;

    cr_assert(borrow(pool, peer_address(peer), &conn));
    cr_assert(queue_caller(&waiter, pool, peer_address(peer), VERBS_SOON));
    cr_assert_eq(pool_return(&conn), POOL_OK);
    cr_expect_eq(join_caller(&waiter), POOL_OK);
    pool_return(&waiter.conn);
    pool_destroy(pool);
    peer_stop(peer);
}

Test(pool_caps, without_limits_there_are_none)
{
    struct peer *peer = PEER();
    struct pool *pool = MAKE_POOL(.max_connections = POOL_NONE, .max_per_address = POOL_NONE,
                                  .max_waiters = POOL_NONE, .max_connecting = POOL_NONE,
                                  .max_uses = POOL_NONE, .max_idle = POOL_NONE);
    struct pool_conn conns[100];

    for (int i = 0; i < 100; i++)
        cr_assert(borrow(pool, peer_address(peer), &conns[i]));
    cr_expect_eq(STAT(pool, lent), 100);
    for (int i = 0; i < 100; i++)
        pool_return(&conns[i]);
    cr_expect_eq(STAT(pool, idle), 100);
    pool_destroy(pool);
    peer_stop(peer);
}

Test(pool_caps, by_default_an_address_has_64_places)
{
    struct peer *peer = PEER();
    struct pool *pool = MAKE_POOL();
    struct pool_conn conns[64], none;

    for (int i = 0; i < 64; i++)
        cr_assert(borrow(pool, peer_address(peer), &conns[i]));
    cr_expect_eq(pool_borrow(pool, peer_address(peer), POOL_CALL(.timeout_ms = 20), &none),
                 POOL_E_TIMEOUT);
    for (int i = 0; i < 64; i++)
        pool_return(&conns[i]);
    pool_destroy(pool);
    peer_stop(peer);
}
