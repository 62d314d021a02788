/* test_min_idle.c: connections kept open to an address once it was used. In the scripted world,
 * which has its own clock. */
#include <criterion/criterion.h>
#include <string.h>

#include "base/os.h"
#include "commpool/pool.h"
#include "support/verbs.h"
#include "world/world.h"

#define A "tcp://10.0.0.1:80"
#define B "tcp://10.0.0.2:80"

static struct world *world;
static struct world_peer *peer;
static struct pool *pool;
static unsigned dials, prepared;

static int count_dial(int fd, const char *address, void *user)
{
    (void)fd, (void)user;
    dials += strcmp(address, A) == 0;
    return 0;
}

static int prepare(struct pool_conn *conn, void *user)
{
    (void)user;
    prepared++;
    return echo(conn, "auth");
}

static void begin(void)
{
    world = world_create(13);
    peer = WORLD_LISTEN(world, A, .behave = WORLD_ECHO);
    WORLD_LISTEN(world, B, .behave = WORLD_ECHO);
    pl_os_replace(world_os(world));
    dials = prepared = 0;
}

static void end(void)
{
    pool_destroy(pool);
    world_settle(world);
    cr_expect_eq(world_descriptors(world), 0);
    cr_expect_eq(world_allocations(world), 0);
    cr_expect_eq(world_violations(world), 0);
    pl_os_replace(NULL);
    world_destroy(world);
}

TestSuite(min_idle, .init = begin, .fini = end);

#define MAKE(...)                                                                                  \
    cr_assert_eq(pool_create(POOL_OPTIONS(.on_socket = count_dial, __VA_ARGS__), &pool), POOL_OK)

static void expect_total(uint64_t total)
{
    cr_expect_eq(STAT(pool, total), total);
    cr_expect_eq(STAT(pool, idle), total);
    cr_expect_eq(world_counts(peer).open, total);
}

Test(min_idle, once_used_an_address_has_so_many_connections)
{
    MAKE(.min_idle = 3);
    world_run(world, 5000);
    cr_expect_eq(dials, 0, "not before it is used");
    cr_expect_eq(talk(pool, A), POOL_OK);
    world_run(world, 10);
    expect_total(3);
    world_run(world, 3000);
    cr_expect_eq(dials, 3);
}

Test(min_idle, what_is_lent_counts_as_well)
{
    struct pool_conn conns[4];

    MAKE(.min_idle = 3);
    for (unsigned i = 0; i < 4; i++)
        cr_assert_eq(pool_borrow(pool, A, NULL, &conns[i]), POOL_OK);
    world_run(world, 3000);
    cr_expect_eq(STAT(pool, total), 4);
    for (unsigned i = 0; i < 4; i++)
        pool_discard(&conns[i]);
    world_run(world, 10);
    expect_total(3);
}

Test(min_idle, without_it_none_is_opened_that_nobody_asked_for)
{
    MAKE(.timeout_ms = 1000);
    cr_expect_eq(talk(pool, A), POOL_OK);
    world_run(world, 5000);
    expect_total(1);
}

Test(min_idle, one_that_the_peer_closes_is_replaced)
{
    MAKE(.min_idle = 3);
    cr_expect_eq(talk(pool, A), POOL_OK);
    for (unsigned round = 1; round <= 5; round++) {
        world_run(world, 1000);
        expect_total(3);
        world_close_all(peer);
        world_run(world, 1000);
        expect_total(3);
        cr_expect_eq(dials, 3 + 3 * round);
    }
}

Test(min_idle, one_that_is_idle_for_idle_ms_is_replaced)
{
    MAKE(.min_idle = 2, .idle_ms = 1000);
    cr_expect_eq(talk(pool, A), POOL_OK);
    for (unsigned round = 0; round < 10; round++) {
        world_run(world, 1500);
        expect_total(2);
    }
    cr_expect_geq(STAT(pool, closed[POOL_CLOSE_IDLE]), 10);
}

Test(min_idle, no_more_than_max_idle_and_max_per_address)
{
    MAKE(.min_idle = 10, .max_idle = 4);
    cr_expect_eq(talk(pool, A), POOL_OK);
    world_run(world, 2000);
    expect_total(4);
    pool_destroy(pool);
    world_settle(world);
    MAKE(.min_idle = POOL_NONE, .max_per_address = 5);
    cr_expect_eq(talk(pool, A), POOL_OK);
    world_run(world, 2000);
    expect_total(5);
}

Test(min_idle, no_other_connection_is_closed_for_a_spare)
{
    struct pool_conn conn;

    MAKE(.min_idle = 3, .max_connections = 4);
    cr_assert_eq(pool_borrow(pool, B, NULL, &conn), POOL_OK);
    world_run(world, 2000);
    cr_expect_eq(STAT(pool, total), 3);
    cr_expect_eq(talk(pool, A), POOL_OK);
    world_run(world, 2000);
    cr_expect_eq(STAT(pool, total), 4);
    cr_expect_eq(STAT(pool, evicted), 0);
    cr_expect_eq(dials, 1);
    pool_return(&conn);
}

Test(min_idle, a_spare_gives_way_and_comes_back_when_there_is_room)
{
    struct pool_conn conns[3];

    MAKE(.min_idle = 2, .max_connections = 3);
    cr_expect_eq(talk(pool, A), POOL_OK);
    world_run(world, 1000);
    expect_total(2);
    for (unsigned i = 0; i < 3; i++)
        cr_assert_eq(pool_borrow(pool, B, NULL, &conns[i]), POOL_OK);
    cr_expect_eq(STAT(pool, evicted), 2);
    world_run(world, 3000);
    cr_expect_eq(dials, 2);
    for (unsigned i = 0; i < 3; i++)
        pool_discard(&conns[i]);
    world_run(world, 3000);
    cr_expect_eq(STAT(pool, total), 3);
    cr_expect_geq(world_counts(peer).open, 1, "B has its own");
}

Test(min_idle, a_shortage_of_descriptors_is_tried_again_at_leisure)
{
    uint64_t calls;

    MAKE(.min_idle = 4);
    world_limit_descriptors(world, world_descriptors(world) + 5);
    cr_expect_eq(talk(pool, A), POOL_OK);
    world_run(world, 1000);
    cr_expect_eq(STAT(pool, total), 2);
    calls = world_calls(world);
    world_run(world, 10000);
    cr_expect_leq(world_calls(world) - calls, 400, "%llu calls",
                  (unsigned long long)(world_calls(world) - calls));
    world_limit_descriptors(world, 1024);
    world_run(world, 3000);
    expect_total(4);
}

Test(min_idle, a_peer_that_cannot_be_reached_is_left_alone_until_it_is_used_again)
{
    uint64_t wakeups;

    MAKE(.min_idle = 3);
    cr_expect_eq(talk(pool, A), POOL_OK);
    world_run(world, 1000);
    world_behave(peer, WORLD_REFUSE);
    world_close_all(peer);
    world_run(world, 60000);
    cr_expect_eq(STAT(pool, total), 0);
    cr_expect_leq(dials, 6);
    wakeups = world_wakeups(world);
    world_run(world, 3600000);
    cr_expect_leq(world_wakeups(world), wakeups + 1, "a last look at what was once parked");
    world_behave(peer, WORLD_ECHO);
    world_run(world, 60000);
    cr_expect_eq(STAT(pool, total), 0);
    cr_expect_eq(talk(pool, A), POOL_OK);
    world_run(world, 100);
    expect_total(3);
}

Test(min_idle, while_one_stands_a_spare_that_fails_is_tried_for_again)
{
    struct pool_conn conn;

    MAKE(.min_idle = 3);
    cr_assert_eq(pool_borrow(pool, A, NULL, &conn), POOL_OK);
    world_run(world, 1000);
    world_behave(peer, WORLD_REFUSE);
    world_close(world_link_at(peer, 1));
    world_close(world_link_at(peer, 2));
    world_run(world, 20000);
    cr_expect_eq(STAT(pool, total), 1);
    cr_expect_leq(dials, 25);
    cr_expect_geq(dials, 6, "%u", dials);
    world_behave(peer, WORLD_ECHO);
    world_run(world, 5000);
    cr_expect_eq(STAT(pool, total), 3);
    pool_return(&conn);
}

Test(min_idle, a_peer_that_closes_what_it_accepts_is_not_stormed)
{
    MAKE(.min_idle = 2, .park_ms = POOL_ZERO);
    cr_expect_eq(talk(pool, A), POOL_OK);
    world_run(world, 1000);
    world_behave(peer, WORLD_ACCEPT_CLOSE);
    world_close_all(peer);
    world_run(world, 10000);
    cr_expect_leq(dials, 2 + 2 * 11, "%u", dials);
    world_behave(peer, WORLD_ECHO);
    world_run(world, 2100);
    expect_total(2);
}

Test(min_idle, spares_are_prepared_by_whoever_borrows_them_first)
{
    struct pool_conn conns[3];

    MAKE(.min_idle = 3, .prepare = prepare);
    cr_expect_eq(talk(pool, A), POOL_OK);
    world_run(world, 1000);
    expect_total(3);
    cr_expect_eq(prepared, 1);
    for (unsigned i = 0; i < 3; i++)
        cr_assert_eq(pool_borrow(pool, A, NULL, &conns[i]), POOL_OK);
    cr_expect_eq(prepared, 3);
    cr_expect_eq(dials, 3);
    for (unsigned i = 0; i < 3; i++)
        pool_return(&conns[i]);
}

Test(min_idle, a_pool_that_is_cleared_or_paused_keeps_to_it)
{
    MAKE(.min_idle = 2);
    cr_expect_eq(talk(pool, A), POOL_OK);
    world_run(world, 1000);
    cr_expect_eq(pool_clear(pool, NULL, 0), POOL_OK);
    world_run(world, 1000);
    expect_total(2);
    cr_expect_eq(dials, 4);
    cr_expect_eq(pool_clear(pool, NULL, POOL_THEN_PAUSE), POOL_OK);
    world_run(world, 10000);
    expect_total(0);
    cr_expect_eq(pool_ready(pool), POOL_OK);
    cr_expect_eq(talk(pool, A), POOL_OK);
    world_run(world, 1000);
    expect_total(2);
}

Test(min_idle, a_pool_may_end_while_spares_are_in_the_making)
{
    MAKE(.min_idle = 8, .max_connecting = 8);
    cr_expect_eq(talk(pool, A), POOL_OK);
    pool_destroy(pool);
    pool = NULL;
}
