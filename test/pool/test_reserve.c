/* test_reserve.c: room for descriptors of the program's own: made by evicting, and kept. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "base/os.h"
#include "pool/witness.h"
#include "support/peer.h"
#include "support/tests.h"

#define LIMIT 64

/* How many more descriptors this program can open, found out by opening them. */
static unsigned count_free(void)
{
    int taken[256], fd;
    unsigned count = 0;

    while (count < 256 && (fd = fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3)) >= 0)
        taken[count++] = fd;
    for (unsigned i = 0; i < count; i++)
        close(taken[i]);
    return count;
}

/* An idle connection to each of the first addresses. */
static void visit(struct pool *pool, struct peer *peer, unsigned addresses)
{
    for (unsigned i = 0; i < addresses; i++)
        cr_assert_eq(talk(pool, loopback_at(peer, i)), POOL_OK, "address %u", i);
}

static struct peer *many(void)
{
    struct peer *peer = PEER(.own_process = true, .every_loopback = true);

    set_descriptor_limit(LIMIT);
    return peer;
}

Test(pool_reserve, evicts_until_so_many_descriptors_are_free)
{
    struct peer *peer = many();
    struct pool *pool = MAKE_POOL(.max_connections = POOL_NONE);

    visit(pool, peer, 60);
    cr_expect_eq(pool_reserve_fds(pool, 10), POOL_OK);
    cr_expect_geq(count_free(), 10);
    cr_expect_leq(count_free(), 11, "and no more than were needed");
    cr_expect_eq(STAT(pool, idle), STAT(pool, total));
    cr_expect_gt(STAT(pool, idle), 10);
    pool_destroy(pool);
    peer_stop(peer);
}

Test(pool_reserve, evicts_nobody_when_there_is_room_anyhow)
{
    struct peer *peer = many();
    struct pool *pool = MAKE_POOL(.max_connections = POOL_NONE);

    visit(pool, peer, 5);
    cr_expect_eq(pool_reserve_fds(pool, 10), POOL_OK);
    cr_expect_eq(STAT(pool, idle), 5);
    pool_destroy(pool);
    peer_stop(peer);
}

Test(pool_reserve, holds_later_connections_evict_rather_than_eat_the_room)
{
    struct peer *peer = many();
    struct pool *pool = MAKE_POOL(.max_connections = POOL_NONE);
    uint64_t total;

    visit(pool, peer, 60);
    cr_expect_eq(pool_reserve_fds(pool, 10), POOL_OK);
    total = STAT(pool, total);
    visit(pool, peer, 120);
    cr_expect_leq(STAT(pool, total), total);
    cr_expect_geq(count_free(), 10);
    cr_expect_eq(pool_reserve_fds(pool, 0), POOL_OK);
    visit(pool, peer, 120);
    cr_expect_leq(count_free(), 1, "given back, it is the pool's again");
    pool_destroy(pool);
    peer_stop(peer);
}

/* What the program opens in its room is not taken from the pool's. */
Test(pool_reserve, what_the_program_opens_in_it_costs_the_pool_nothing_more)
{
    struct peer *peer = many();
    struct pool *pool = MAKE_POOL(.max_connections = POOL_NONE);
    int own[10];
    uint64_t total;

    visit(pool, peer, 60);
    cr_expect_eq(pool_reserve_fds(pool, 10), POOL_OK);
    total = STAT(pool, total);
    for (int i = 0; i < 10; i++)
        cr_assert_geq(own[i] = fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3), 0, "descriptor %d", i);
    visit(pool, peer, 60);
    cr_expect_eq(STAT(pool, total), total);
    cr_expect_eq(pool_reserve_fds(pool, 5), POOL_OK, "five more");
    cr_expect_geq(count_free(), 5);
    for (int i = 0; i < 10; i++)
        close(own[i]);
    pool_destroy(pool);
    peer_stop(peer);
}

Test(pool_reserve, evicts_idle_connections_of_any_pool_on_the_mux)
{
    struct peer *peer = many();
    struct pool_mux *mux;
    struct pool *pools[2];
    struct caller caller;

    cr_assert_eq(pool_mux_create(&mux), POOL_OK);
    for (int i = 0; i < 2; i++)
        pools[i] = MAKE_POOL(.mux = mux, .max_connections = POOL_NONE);
    for (unsigned i = 0; i < 30; i++) {
        cr_assert(start_caller(&caller, pools[1], loopback_at(peer, i), VERBS_SOON));
        while (!atomic_load(&caller.is_back))
            cr_assert_eq(pool_mux_dispatch(mux, 10), POOL_OK);
        cr_assert_eq(join_caller(&caller), POOL_OK);
        cr_assert_eq(pool_return(&caller.conn), POOL_OK);
    }
    fill_descriptors_but(2);
    cr_expect_eq(pool_reserve_fds(pools[0], 12), POOL_OK);
    cr_expect_eq(STAT(pools[1], evicted), 10);
    cr_expect_geq(count_free(), 12);
    cr_expect_eq(pool_reserve_fds(pools[1], 3), POOL_OK, "on top of that");
    cr_expect_geq(count_free(), 15);
    free_descriptors(PEER_ALL);
    pool_destroy(pools[0]);
    pool_destroy(pools[1]);
    pool_mux_destroy(mux);
    peer_stop(peer);
}

Test(pool_reserve, with_no_descriptor_left_to_look_with_it_makes_room_all_the_same)
{
    struct peer *peer = many();
    struct pool *pool = MAKE_POOL(.max_connections = POOL_NONE);

    visit(pool, peer, 20);
    fill_descriptors_but(0);
    cr_expect_eq(pool_reserve_fds(pool, 4), POOL_OK);
    cr_expect_geq(count_free(), 4);
    cr_expect_geq(STAT(pool, idle), 15);
    free_descriptors(PEER_ALL);
    pool_destroy(pool);
    peer_stop(peer);
}

Test(pool_reserve, holds_nothing_when_not_enough_can_be_evicted)
{
    struct peer *peer = many();
    struct pool *pool = MAKE_POOL(.max_connections = POOL_NONE);
    struct pool_conn conns[4];
    unsigned free_ones;

    for (unsigned i = 0; i < 4; i++)
        cr_assert(borrow(pool, loopback_at(peer, i), &conns[i]));
    free_ones = count_free();
    cr_expect_eq(pool_reserve_fds(pool, free_ones + 1), POOL_E_RESOURCE);
    cr_expect_eq(pool_reserve_fds(pool, LIMIT * 2), POOL_E_RESOURCE, "more than there are at all");
    for (unsigned i = 0; i < 4; i++)
        cr_expect_eq(echo(&conns[i], "mine"), 0);
    for (unsigned i = 0; i < 4; i++)
        cr_expect_eq(pool_return(&conns[i]), POOL_OK);
    visit(pool, peer, 80);
    cr_expect_leq(count_free(), 1, "the pool takes what there is");
    pool_destroy(pool);
    peer_stop(peer);
}

Test(pool_reserve, a_caller_who_stands_before_it_waits_and_fails_with_resource)
{
    struct peer *peer = many();
    struct pool *pool = MAKE_POOL(.max_connections = POOL_NONE);
    struct pool_conn conn;
    struct caller caller;
    struct pool_error error = POOL_ERROR_INIT;

    cr_assert(borrow(pool, loopback_at(peer, 0), &conn));
    cr_expect_eq(pool_reserve_fds(pool, count_free()), POOL_OK);
    cr_expect_eq(pool_borrow(pool, loopback_at(peer, 1),
                             POOL_CALL(.timeout_ms = 150, .error = &error), &caller.conn),
                 POOL_E_RESOURCE);
    cr_expect_eq(error.cause, EMFILE);
    cr_assert(queue_caller(&caller, pool, loopback_at(peer, 1), VERBS_SOON));
    cr_expect_eq(pool_return(&conn), POOL_OK);
    cr_expect_eq(join_caller(&caller), POOL_OK, "the one that came back was closed for it");
    cr_expect_eq(STAT(pool, total), 1);
    conn = caller.conn;
    cr_assert(queue_caller(&caller, pool, loopback_at(peer, 2), VERBS_SOON));
    cr_expect_eq(pool_reserve_fds(pool, 0), POOL_OK);
    cr_expect_eq(join_caller(&caller), POOL_OK, "room was given back");
    pool_return(&conn);
    pool_return(&caller.conn);
    pool_destroy(pool);
    peer_stop(peer);
}

Test(pool_reserve, follows_the_limit_as_it_changes)
{
    struct peer *peer = many();
    struct pool *pool = MAKE_POOL(.max_connections = POOL_NONE);
    uint64_t total;

    visit(pool, peer, 60);
    cr_expect_eq(pool_reserve_fds(pool, 10), POOL_OK);
    total = STAT(pool, total);
    set_descriptor_limit(LIMIT + 20);
    visit(pool, peer, 100);
    cr_expect_eq(STAT(pool, total), total + 20);
    cr_expect_geq(count_free(), 10);
    set_descriptor_limit(LIMIT);
    cr_expect_eq(talk(pool, loopback_at(peer, 150)), POOL_OK);
    cr_expect_leq(STAT(pool, total), total);
    pool_destroy(pool);
    peer_stop(peer);
}

Test(pool_reserve, ends_with_its_pool)
{
    struct peer *peer = many();
    struct pool_mux *mux;
    struct pool *first, *second;

    cr_assert_eq(pool_mux_create(&mux), POOL_OK);
    first = MAKE_POOL(.mux = mux, .max_connections = POOL_NONE);
    second = MAKE_POOL(.mux = mux, .max_connections = POOL_NONE);
    cr_expect_eq(pool_reserve_fds(first, count_free()), POOL_OK);
    pool_destroy(first);
    cr_expect_eq(pool_reserve_fds(second, count_free()), POOL_OK);
    pool_destroy(second);
    pool_mux_destroy(mux);
    peer_stop(peer);
}

Test(pool_reserve, mistakes_reserve_nothing)
{
    struct pool *pool = MAKE_POOL();

    cr_expect_eq(pool_reserve_fds(NULL, 1), POOL_E_ARGUMENT);
    cr_expect_eq(pool_reserve_fds(pool, POOL_NONE), POOL_E_ARGUMENT);
    cr_expect_eq(pool_reserve_fds(pool, POOL_ZERO), POOL_E_ARGUMENT);
    cr_expect_eq(pool_reserve_fds(pool, 0), POOL_OK);
    pool_destroy(pool);
}

static int look_in_vain(void)
{
    return -EMFILE;
}

Test(pool_reserve, that_cannot_look_evicts_all_and_fails)
{
    static struct pl_os door;
    struct peer *peer = many();
    struct pool *pool;

    door = pl_os_real;
    door.free_descriptors = look_in_vain;
    pl_os_replace(&door);
    pool = MAKE_POOL();
    visit(pool, peer, 5);
    cr_expect_eq(pool_reserve_fds(pool, 1), POOL_E_RESOURCE);
    cr_expect_eq(talk(pool, loopback_at(peer, 1)), POOL_OK);
    pool_destroy(pool);
    pl_os_replace(NULL);
    peer_stop(peer);
}

struct thick {
    struct pool *pool;
    struct peer *peer;
    unsigned rounds;
    atomic_uint wrong, eaten, left;
};

static void work_or_reserve(unsigned index, void *argument)
{
    struct thick *thick = argument;

    if (index == 0) {
        while (atomic_load(&thick->left)) {
            enum pool_status status = pool_reserve_fds(thick->pool, 5);

            atomic_fetch_add(&thick->wrong, status != POOL_OK && status != POOL_E_RESOURCE);
            if (!status)
                atomic_fetch_add(&thick->eaten, count_free() < 5);
            atomic_fetch_add(&thick->wrong, pool_reserve_fds(thick->pool, 0) != POOL_OK);
        }
        return;
    }
    for (unsigned i = 0; i < thick->rounds; i++) {
        if (talk(thick->pool, loopback_at(thick->peer, (index * 31 + i) % 40)))
            atomic_fetch_add(&thick->wrong, 1);
    }
    atomic_fetch_sub(&thick->left, 1);
}

Test(pool_reserve, in_the_thick_of_work_is_kept_all_the_same, .timeout = 120)
{
    struct thick thick = { .peer = many(), .rounds = 200 / slowness(), .left = 4 };

    thick.pool = MAKE_POOL(.max_connections = POOL_NONE, .park_ms = 1);
    fill_descriptors_but(12);
    cr_assert(run_threads(5, work_or_reserve, &thick));
    free_descriptors(PEER_ALL);
    cr_expect_eq(thick.wrong, 0);
    cr_expect_eq(thick.eaten, 0);
    pool_destroy(thick.pool);
    peer_stop(thick.peer);
}

/* A borrow on a mux that this thread drives. */
static struct pool_conn borrow_driving(struct pool_mux *mux, struct pool *pool, const char *address)
{
    struct caller caller;

    cr_assert(start_caller(&caller, pool, address, 2000));
    while (!atomic_load(&caller.is_back))
        cr_assert_eq(pool_mux_dispatch(mux, 10), POOL_OK);
    cr_expect_eq(join_caller(&caller), POOL_OK, "%s", address);
    return caller.conn;
}

static void end_pool(void *pool)
{
    pool_destroy(pool);
}

Test(pool_reserve, leaves_nothing_reserved_when_the_pool_ends_while_it_makes_room)
{
    struct peer *peer = many();
    struct pool_mux *mux;
    struct pool *other, *pool;
    struct pool_conn conns[40];

    cr_assert_eq(pool_mux_create(&mux), POOL_OK);
    other = MAKE_POOL(.mux = mux, .max_connections = POOL_NONE);
    pool = MAKE_POOL(.mux = mux, .max_connections = POOL_NONE);
    for (unsigned i = 0; i < 30; i++) {
        conns[0] = borrow_driving(mux, pool, loopback_at(peer, i));
        if (i == 0)
            pool_conn_set_user(&conns[0], pool, end_pool);
        pool_return(&conns[0]);
    }
    fill_descriptors_but(2);
    cr_expect_eq(pool_reserve_fds(pool, 3), POOL_E_CLOSING);
    free_descriptors(PEER_ALL);
    for (unsigned i = 0; i < 40; i++)
        conns[i] = borrow_driving(mux, other, loopback_at(peer, i));
    cr_expect_eq(STAT(other, lent), 40);
    for (unsigned i = 0; i < 40; i++)
        pool_return(&conns[i]);
    pool_destroy(other);
    pool_mux_destroy(mux);
    peer_stop(peer);
}
