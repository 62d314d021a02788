/* test_query_joined.c: parts that are kept to be told as one, and how much of them. In the scripted
 * world. */
#include <criterion/criterion.h>
#include <string.h>

#include "support/query_script.h"

TestSuite(query_joined, .timeout = 60);

#define PART 1500u
#define JOINED POOL_OPTIONS(.max_message = 4096) /* two parts, and not three */
#define MANY 22u /* twice as many parts are more than sixteen times max_message */

static char part[PART + 1];

static void begin(void)
{
    memset(part, 'x', PART);
    script_begin(SPEAK_LENGTH, JOINED, NULL);
}

static void say(unsigned request, enum frame_kind kind)
{
    struct script_bytes bytes = { .size = 0 };

    script_frame(&bytes, script.requests[request].id, kind, part);
    world_say(script.requests[request].link, bytes.data, bytes.size);
    world_settle(script.world);
}

Test(query_joined, the_parts_of_all_queries_of_a_connection_are_bounded_together)
{
    static struct query queries[MANY];

    begin();
    for (unsigned i = 0; i < MANY; i++)
        cr_assert_eq(script_ask(&queries[i], "x", NULL), POOL_OK);
    world_settle(script.world);
    for (unsigned i = 0; i < 2 * MANY; i++) {
        cr_expect(world_link_is_open(script.requests[0].link), "part %u", i);
        say(i % MANY, FRAME_PART);
    }
    world_run(script.world, 5);
    cr_expect(!world_link_is_open(script.requests[0].link));
    for (unsigned i = 0; i < MANY; i++)
        cr_expect(has_failed_with(&queries[i], POOL_E_PROTOCOL));
    cr_expect(script_end());
}

Test(query_joined, a_single_one_is_bounded_by_itself)
{
    struct query queries[2] = { { 0 } };

    begin();
    for (unsigned i = 0; i < 2; i++)
        cr_assert_eq(script_ask(&queries[i], "x", NULL), POOL_OK);
    world_settle(script.world);
    for (unsigned i = 0; i < 3; i++) {
        cr_expect(world_link_is_open(script.requests[0].link), "part %u", i);
        say(0, FRAME_PART);
    }
    world_run(script.world, 5);
    cr_expect(!world_link_is_open(script.requests[0].link));
    cr_expect(has_failed_with(&queries[0], POOL_E_PROTOCOL));
    cr_expect(script_end());
}

/* Two parts stay, of others; the third one comes again and again. */
Test(query_joined, what_was_answered_or_given_up_counts_no_more)
{
    struct query kept = { 0 }, query;
    unsigned last = 0;

    begin();
    cr_assert_eq(script_ask(&kept, "x", NULL), POOL_OK);
    world_settle(script.world);
    say(0, FRAME_PART);
    for (unsigned i = 0; i < 10; i++) {
        query = (struct query){ 0 };
        cr_assert_eq(script_ask(&query, "x", i % 2 ? POOL_CALL(.timeout_ms = 5) : NULL), POOL_OK);
        world_settle(script.world);
        last = script.count - 1;
        say(last, FRAME_PART);
        world_run(script.world, 20);
        say(last, FRAME_REPLY);
        cr_expect_eq(query.told, 1);
        cr_expect_eq(query.status, i % 2 ? POOL_E_TIMEOUT_IN_TRANSFER : POOL_OK);
        cr_expect(i % 2 || query.size == 2 * PART);
    }
    say(0, FRAME_REPLY);
    cr_expect_eq(kept.status, POOL_OK);
    cr_expect_eq(kept.size, 2 * PART);
    cr_expect_eq(world_counts(script.peer).accepted, 1);
    cr_expect(script_end());
}
