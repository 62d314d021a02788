/* test_query_turns.c: queries that keep their order, where the connection that they share takes no
 * more. */
#include <criterion/criterion.h>

#include "pool/query_scene.h"

#define KEYED .codec = pool_codec_length(), .park_ms = 60000

#define IN_TURN(...) POOL_CALL(.flags = POOL_ORDERED, __VA_ARGS__)

static void begin(void)
{
    QUERY_SCENE();
    pool = MAKE_POOL(KEYED);
}

TestSuite(query_turns, .init = begin, .fini = query_scene_end, .timeout = 60);

Test(query_turns, stay_behind_their_own_kind_and_nobody_else)
{
    struct query held = { 0 }, first = { 0 }, next = { 0 };

    cr_assert_eq(start_query(&first, pool, address, "D50", IN_TURN(.timeout_ms = VERBS_SOON)),
                 POOL_OK);
    cr_assert_eq(start_query(&held, pool, address, "Hold", NULL), POOL_OK);
    cr_assert(query_peer_wait_requests(peer, 2));
    cr_assert_eq(pool_clear(pool, NULL, 0), POOL_OK);
    cr_assert_eq(start_query(&next, pool, address, "next", IN_TURN(.timeout_ms = 3000)), POOL_OK);
    cr_assert(wait_answered(&first) && wait_answered(&next));
    cr_expect(is_answered_with(&first, "D50"));
    cr_expect(is_answered_with(&next, "next"));
    cr_expect_lt(first.place, next.place);
    cr_expect_eq(held.told, 0);
    query_peer_release(peer);
    cr_assert(wait_answered(&held));
    cr_expect(is_answered_with(&held, "Hold"));
}
