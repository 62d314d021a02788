/* test_recent.c: what a thread remembers of its last returns: found by peer and by text, never for
 * another pool or another peer in the same memory. */
#include "pool/recent.h"

#include <criterion/criterion.h>

#include "base/os.h"
#include "pool/pool.h"
#include "world/world.h"

static struct pl_thread thread;
static struct pool pools[2];

static struct pl_peer peer_named(const char *text, struct pool *pool)
{
    return (struct pl_peer){ .text = text, .pool = pool, .generation = 1 };
}

Test(recent, an_entry_is_found_by_its_peer_and_by_its_pool_and_text)
{
    struct pl_peer peer = peer_named("tcp://a:1", &pools[0]);
    struct pl_recent *recent = pl_recent_make(&thread, &peer);

    cr_expect_eq(pl_recent_of_peer(&thread, &peer), recent);
    cr_expect_eq(pl_recent_of_text(&thread, &pools[0], "tcp://a:1"), recent);
    cr_expect_null(pl_recent_of_text(&thread, &pools[0], "tcp://a:11"));
    cr_expect_null(pl_recent_of_text(&thread, &pools[0], "tcp://a:"));
    cr_expect_null(pl_recent_of_text(&thread, &pools[1], "tcp://a:1"));
    cr_expect_eq(pl_recent_make(&thread, &peer), recent, "no second one");
}

Test(recent, the_oldest_of_too_many_is_forgotten)
{
    struct pl_peer peers[PL_RECENT + 1];

    for (size_t i = 0; i <= PL_RECENT; i++) {
        peers[i] = peer_named("tcp://a:1", &pools[0]);
        cr_assert_not_null(pl_recent_make(&thread, &peers[i]));
    }
    cr_expect_null(pl_recent_of_peer(&thread, &peers[0]));
    for (size_t i = 1; i <= PL_RECENT; i++)
        cr_expect_not_null(pl_recent_of_peer(&thread, &peers[i]));
}

Test(recent, another_peer_in_the_same_memory_inherits_neither_connection_nor_text)
{
    struct pl_peer peer = peer_named("tcp://a:1", &pools[0]);
    struct pl_recent *recent = pl_recent_make(&thread, &peer);

    recent->connection = &thread;
    recent->word = 7;
    pl_recent_spell(recent, "tcp://A:1");
    peer = peer_named("tcp://b:1", &pools[0]);
    peer.generation = 3;
    recent = pl_recent_make(&thread, &peer);
    cr_expect_null(recent->connection);
    cr_expect_eq(recent->word, 0);
    cr_expect_eq(recent->generation, 3);
    cr_expect_null(pl_recent_of_text(&thread, &pools[0], "tcp://A:1"));
    cr_expect_eq(pl_recent_of_text(&thread, &pools[0], "tcp://b:1"), recent);
    peer = peer_named("tcp://b:1", &pools[1]);
    peer.generation = 5;
    cr_expect_eq(pl_recent_make(&thread, &peer)->pool, &pools[1]);
}

Test(recent, the_text_is_the_one_that_the_thread_uses_and_too_long_a_one_is_none)
{
    struct pl_peer peer = peer_named("tcp://a:1", &pools[0]);
    struct pl_recent *recent = pl_recent_make(&thread, &peer);
    char text[PL_RECENT_TEXT + 1] = { 0 };

    pl_recent_spell(recent, "TCP://A:1");
    cr_expect_eq(pl_recent_of_text(&thread, &pools[0], "TCP://A:1"), recent);
    cr_expect_null(pl_recent_of_text(&thread, &pools[0], "tcp://a:1"));
    memset(text, 'x', PL_RECENT_TEXT - 1);
    pl_recent_spell(recent, text);
    cr_expect_eq(pl_recent_of_text(&thread, &pools[0], text), recent);
    text[PL_RECENT_TEXT - 1] = 'x';
    pl_recent_spell(recent, text);
    cr_expect_null(pl_recent_of_text(&thread, &pools[0], text));
    text[PL_RECENT_TEXT - 1] = '\0';
    cr_expect_null(pl_recent_of_text(&thread, &pools[0], text), "not cut either");
}

/* ---- in a pool */

#define PEER "tcp://10.0.0.1:80"

static uint64_t id_of_loan(struct pool *pool, const char *address)
{
    struct pool_conn conn;
    uint64_t id;

    cr_assert_eq(pool_borrow(pool, address, NULL, &conn), POOL_OK);
    id = pool_conn_id(&conn);
    cr_assert_eq(pool_return(&conn), POOL_OK);
    return id;
}

Test(recent, a_pool_in_the_memory_of_another_lends_nothing_of_that_ones)
{
    struct world *world = world_create(1);
    struct world_peer *peer = WORLD_LISTEN(world, PEER, .behave = WORLD_ECHO);
    struct pool *pool = NULL, *before = NULL;
    unsigned reused = 0;

    pl_os_replace(world_os(world));
    for (unsigned round = 1; round <= 20; round++) {
        cr_assert_eq(pool_create(NULL, &pool), POOL_OK);
        reused += pool == before;
        cr_expect_eq(id_of_loan(pool, PEER), 1);
        cr_expect_eq(id_of_loan(pool, PEER), 1);
        world_settle(world);
        cr_expect_eq(world_counts(peer).accepted, round, "a connection of its own");
        before = pool;
        pool_destroy(pool);
        world_settle(world);
        cr_expect_eq(world_counts(peer).open, 0);
    }
    cr_expect_gt(reused, 0, "pools did get each other's memory");
    cr_expect_eq(world_violations(world), 0);
    pl_os_replace(NULL);
    world_destroy(world);
}

Test(recent, a_spelling_that_a_peer_was_reached_by_leads_to_no_other_peer)
{
    struct world *world = world_create(2);
    struct world_peer *peers[2] = { WORLD_LISTEN(world, PEER, .behave = WORLD_ECHO),
                                    WORLD_LISTEN(world, "tcp://10.0.0.2:80",
                                                 .behave = WORLD_ECHO) };
    static const char *const spellings[2][2] = { { PEER, "TCP://10.0.0.1:80" },
                                                 { "tcp://10.0.0.2:80", "Tcp://10.0.0.2:80" } };
    struct pool *pool;

    pl_os_replace(world_os(world));
    cr_assert_eq(pool_create(POOL_OPTIONS(.max_uses = 3), &pool), POOL_OK);
    for (unsigned i = 0; i < 200; i++) {
        unsigned which = i * 7 / 3 % 2;
        uint64_t bytes = world_counts(peers[which]).bytes_in;
        struct pool_conn conn;

        cr_assert_eq(pool_borrow(pool, spellings[which][i % 2], NULL, &conn), POOL_OK);
        cr_assert_eq(pool_send(&conn, "x", 1), POOL_OK);
        cr_assert_eq(pool_recv_exact(&conn, &(char){ 0 }, 1), POOL_OK);
        cr_assert_eq(pool_return(&conn), POOL_OK);
        cr_assert_eq(world_counts(peers[which]).bytes_in, bytes + 1, "round %u", i);
    }
    pool_destroy(pool);
    pl_os_replace(NULL);
    world_destroy(world);
}
