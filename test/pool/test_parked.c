/* test_parked.c: the lists of the room, seen from inside: parked connections stand in the order of
 * their last use, and an event that comes too late touches nobody. In the scripted world. */
#include <criterion/criterion.h>
#include <stdio.h>

#include "base/os.h"
#include "pool/pool.h"
#include "pool/watch.h"
#include "world/world.h"

#define ADDRESSES 30
#define EACH 3

static struct world *world;
static struct world_peer *peers[ADDRESSES];
static char addresses[ADDRESSES][32];
static struct pool *pool;

static void begin(void)
{
    world = world_create(3);
    for (unsigned i = 0; i < ADDRESSES; i++) {
        snprintf(addresses[i], sizeof(addresses[i]), "tcp://10.0.0.%u:80", i + 1);
        peers[i] = WORLD_LISTEN(world, addresses[i], .behave = WORLD_ECHO);
    }
    pl_os_replace(world_os(world));
    cr_assert_eq(pool_create(NULL, &pool), POOL_OK);
}

static void end(void)
{
    pool_destroy(pool);
    cr_expect_eq(world_violations(world), 0);
    pl_os_replace(NULL);
    world_destroy(world);
}

TestSuite(parked, .init = begin, .fini = end);

/* Holds `count` connections to one address at once, then gives them back. */
static void use(const char *address, unsigned count)
{
    struct pool_conn conns[EACH];

    for (unsigned i = 0; i < count; i++)
        cr_assert_eq(pool_borrow(pool, address, NULL, &conns[i]), POOL_OK);
    for (unsigned i = 0; i < count; i++)
        cr_assert_eq(pool_return(&conns[i]), POOL_OK);
}

/* How many stand in the list of parked ones; an entry out of order ends the test. */
static unsigned count_parked(void)
{
    uint64_t before_ns = 0;
    unsigned count = 0;

    PL_LIST_EACH(link, &pool->parked) {
        struct pl_connection *connection = pl_container(link, struct pl_connection, lru_link);

        if (pl_word_state(connection->word) != PL_PARKED)
            continue;
        cr_assert_gt(connection->last_used_ns, before_ns, "place %u", count);
        before_ns = connection->last_used_ns;
        count++;
    }
    return count;
}

Test(parked, they_stand_in_the_order_of_their_last_use_however_they_were_used)
{
    for (unsigned round = 0; round < 200; round++) {
        for (unsigned i = 0; i < 5; i++)
            use(addresses[world_dice(world) % ADDRESSES], 1 + world_dice(world) % EACH);
        world_run(world, world_dice(world) % 80);
        count_parked();
    }
    world_run(world, 1000);
    cr_expect_geq(count_parked(), ADDRESSES);
    pl_room_sweep(pool->room, true);
    cr_expect_geq(count_parked(), ADDRESSES);
}

Test(parked, a_forced_sweep_parks_hot_ones_behind_those_that_were_parked_before)
{
    use(addresses[0], EACH);
    world_run(world, 500);
    cr_expect_eq(count_parked(), EACH);
    use(addresses[1], EACH);
    use(addresses[2], 1);
    cr_expect_eq(count_parked(), EACH);
    pl_room_sweep(pool->room, true);
    cr_expect_eq(count_parked(), 2 * EACH + 1);
}

static struct pl_connection *first_parked(void)
{
    return pl_container(pool->parked.next, struct pl_connection, lru_link);
}

Test(parked, an_event_of_an_earlier_life_of_the_slot_touches_nobody)
{
    struct pl_connection *connection;
    uint64_t word, calls;

    use(addresses[0], 1);
    world_run(world, 500);
    cr_assert_eq(count_parked(), 1);
    connection = first_parked();
    word = connection->word;
    calls = world_calls(world);
    for (uint32_t late = 1; late < 3; late++)
        pl_watch_on_event(pool->mux, connection->node.index, connection->birth - late, EPOLLIN);
    pl_watch_on_event(pool->mux, 1u << 28, 1, EPOLLIN);
    cr_expect_eq(connection->word, word);
    cr_expect_eq(world_calls(world), calls, "nobody even looked");
    cr_expect_eq(count_parked(), 1);
    cr_expect_eq(world_counts(peers[0]).open, 1);
}

Test(parked, an_event_without_anything_behind_it_parks_the_connection_again)
{
    struct pl_connection *connection;
    uint64_t used_ns;

    use(addresses[0], 1);
    world_run(world, 500);
    connection = first_parked();
    used_ns = connection->last_used_ns;
    pl_watch_on_event(pool->mux, connection->node.index, connection->birth, EPOLLIN);
    cr_expect_eq(count_parked(), 1);
    cr_expect_eq(connection->last_used_ns, used_ns, "that was no use of it");
    world_close_all(peers[0]);
    world_settle(world);
    cr_expect_eq(count_parked(), 0, "it is watched again");
}

Test(parked, an_event_of_a_lent_connection_is_its_borrowers_business)
{
    struct pl_connection *connection;
    struct pool_conn conn;
    uint64_t word;

    cr_assert_eq(pool_borrow(pool, addresses[0], NULL, &conn), POOL_OK);
    connection = pl_connection_of(conn.slot);
    word = connection->word;
    pl_watch_on_event(pool->mux, connection->node.index, connection->birth, EPOLLIN | EPOLLHUP);
    cr_expect_eq(connection->word, word);
    cr_assert_eq(pool_return(&conn), POOL_OK);
}

static unsigned asked;

static enum pool_decision ask_again(struct pool *of, void *user)
{
    (void)user;
    asked++;
    return pl_room_ask(of, ask_again) == POOL_CONTINUE ? POOL_ABORT : POOL_FATAL;
}

Test(parked, inside_its_own_answer_the_program_is_not_asked_again)
{
    cr_expect_eq(pl_room_ask(pool, ask_again), POOL_ABORT);
    cr_expect_eq(pl_room_ask(pool, ask_again), POOL_ABORT);
    cr_expect_eq(asked, 2);
    cr_expect_eq(pl_room_ask(pool, NULL), POOL_CONTINUE);
}
