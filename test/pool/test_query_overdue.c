/* test_query_overdue.c: a reply that has not come 30 seconds after its query was given up ends its
 * connection. In the scripted world. */
#include <criterion/criterion.h>

#include "support/query_script.h"

TestSuite(query_overdue, .timeout = 60);

#define SECOND 1000u

static bool is_open(void)
{
    return world_link_is_open(script.requests[0].link);
}

static void give_one_up(void)
{
    struct query query = { 0 };

    cr_assert_eq(script_ask(&query, "given up", POOL_CALL(.timeout_ms = 5)), POOL_OK);
    world_run(script.world, 20);
    cr_expect(has_failed_with(&query, POOL_E_TIMEOUT_IN_TRANSFER));
}

static void post_one(void)
{
    cr_assert_eq(pool_post_request(script.pool, SCRIPT_ADDRESS, text_bytes("posted"), NULL),
                 POOL_OK);
    world_run(script.world, 20);
}

static void answer(unsigned request)
{
    script_answer(&script.requests[request], (struct pool_bytes){ 0 });
    world_settle(script.world);
}

/* Others are late as well, and are answered all the time. */
static void play_one_of_many(void (*ask_first)(void))
{
    script_begin(SPEAK_LENGTH, POOL_OPTIONS(), NULL);
    ask_first();
    for (unsigned i = 0; i < 29; i++) {
        if (i % 2)
            give_one_up();
        else
            post_one();
        answer(script.count - 1);
        world_run(script.world, SECOND - 20);
    }
    cr_expect(is_open());
    cr_expect_eq(script.count, 30);
    post_one();
    world_run(script.world, 2 * SECOND);
    cr_expect(!is_open());
    cr_expect(script_end());
}

Test(query_overdue, by_key_one_reply_that_does_not_come_is_enough)
{
    play_one_of_many(give_one_up);
    play_one_of_many(post_one);
}

/* Its own time is not over. */
Test(query_overdue, who_has_time_left_learns_that_the_connection_was_given_up)
{
    struct query patient = { 0 };

    script_begin(SPEAK_LENGTH, POOL_OPTIONS(), NULL);
    give_one_up();
    cr_assert_eq(script_ask(&patient, "patient", POOL_CALL(.timeout_ms = 60 * SECOND)), POOL_OK);
    world_run(script.world, 31 * SECOND);
    cr_expect(!is_open());
    cr_expect(has_failed_with(&patient, POOL_E_BROKEN));
    cr_expect_eq(patient.error.outcome, POOL_MAYBE_SENT);
    cr_expect(strstr(patient.error.text, "never answered"), "%s", patient.error.text);
    cr_expect(script_end());
}

/* The time of each counts from when it was given up itself. */
Test(query_overdue, by_key_what_came_within_its_time_ends_nothing)
{
    script_begin(SPEAK_LENGTH, POOL_OPTIONS(), NULL);
    give_one_up();
    world_run(script.world, 20 * SECOND);
    post_one();
    world_run(script.world, 5 * SECOND);
    answer(0);
    world_run(script.world, 24 * SECOND);
    cr_expect(is_open());
    world_run(script.world, 2 * SECOND);
    cr_expect(!is_open());
    cr_expect(script_end());
}
