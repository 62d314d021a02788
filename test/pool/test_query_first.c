/* test_query_first.c: queries that find no line yet, asked by nobody who waits: the mux opens
 * one. */
#include <criterion/criterion.h>
#include <stdatomic.h>

#include "commpool/query.h"
#include "support/peer.h"
#include "support/tests.h"
#include "support/verbs.h"

#define WITHIN_MS 5000 /* less than the queries' own time, which would end the wait too */

static void count_answer(struct pool_reply *reply, void *user)
{
    cr_expect_null(pool_reply_error(reply));
    pool_reply_free(reply);
    atomic_fetch_add((atomic_uint *)user, 1);
}

struct awaited {
    atomic_uint answers;
    unsigned wanted;
};

static bool has_all(void *argument)
{
    struct awaited *awaited = argument;

    return atomic_load(&awaited->answers) == awaited->wanted;
}

static void expect_answers(struct pool *pool, unsigned count)
{
    struct peer *peer = PEER(.behave = PEER_LINE_ECHO);
    struct awaited awaited = { .wanted = count };

    for (unsigned i = 0; i < count; i++)
        cr_assert_eq(pool_query_async(pool, peer_address(peer), (struct pool_bytes){ "hello", 5 },
                                      count_answer, &awaited.answers, NULL, NULL),
                     POOL_OK);
    cr_expect(wait_until(has_all, &awaited, WITHIN_MS));
    pool_destroy(pool);
    peer_stop(peer);
}

Test(query_first, is_answered_when_it_is_the_only_one)
{
    expect_answers(MAKE_POOL(.codec = pool_codec_line()), 1);
}

Test(query_first, is_answered_where_one_connection_is_allowed)
{
    expect_answers(MAKE_POOL(.codec = pool_codec_line(), .max_per_address = 1), 100);
}

Test(query_first, is_answered_where_one_connection_may_be_opened_at_a_time)
{
    expect_answers(MAKE_POOL(.codec = pool_codec_line(), .max_connecting = 1), 100);
}
