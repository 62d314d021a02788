/* test_query_ends.c: queries whose connection ends, is ended, or whose pool is: each is answered
 * once, with what can be known. test_query_again.c has those that go on elsewhere. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "support/queries.h"

#define KEYED .codec = pool_codec_length()

/* Starts many with the same body, which reach the peer. */
static void start_many(struct query *queries, unsigned count, struct pool *pool,
                       struct query_peer *peer, const char *body)
{
    unsigned before = query_peer_requests(peer);

    for (unsigned i = 0; i < count; i++)
        cr_assert_eq(start_query(&queries[i], pool, query_peer_address(peer), body, NULL),
                     POOL_OK);
    cr_assert(query_peer_wait_requests(peer, before + count));
}

static void expect_all(struct query *queries, unsigned count, enum pool_status status)
{
    for (unsigned i = 0; i < count; i++) {
        cr_assert(wait_answered(&queries[i]));
        cr_expect(status ? has_failed_with(&queries[i], status)
                         : queries[i].told == 1 && !queries[i].status,
                  "the one at %u: %s", i, queries[i].error.text);
    }
}

static void expect_next(struct pool *pool, const char *address)
{
    struct query next = { 0 };

    ask_and_wait(&next, pool, address, "next", NULL);
    cr_expect(is_answered_with(&next, "next"));
}

/* ---- the peer ends the connection */

Test(query_ends, a_thousand_in_flight_fail_once_each)
{
    struct query *queries = calloc(1000, sizeof(*queries));

    for (unsigned round = 0; round < 2; round++) {
        struct query_peer *peer = QUERY_PEER();
        struct pool *pool = MAKE_POOL(KEYED);

        memset(queries, 0, 1000 * sizeof(*queries));
        start_many(queries, 1000, pool, peer, "Never");
        if (round)
            query_peer_reset(peer);
        else
            query_peer_close(peer);
        expect_all(queries, 1000, round ? POOL_E_BROKEN : POOL_E_CLOSED);
        for (unsigned i = 0; i < 1000; i++)
            cr_expect_eq(queries[i].error.outcome, POOL_MAYBE_SENT);
        expect_next(pool, query_peer_address(peer));
        cr_expect_eq(query_peer_accepted(peer), 2);
        pool_destroy(pool);
        for (unsigned i = 0; i < 1000; i++)
            cr_expect_eq(queries[i].told, 1);
        query_peer_stop(peer);
    }
    free(queries);
}

Test(query_ends, threads_in_flight_fail_once_each)
{
    struct query_peer *peer = QUERY_PEER();
    struct pool *pool = MAKE_POOL(KEYED);
    struct asker askers[20] = { 0 };

    for (unsigned i = 0; i < 20; i++)
        cr_assert(start_asker(&askers[i], pool, query_peer_address(peer), "Never", NULL));
    cr_assert(query_peer_wait_requests(peer, 20));
    query_peer_reset(peer);
    for (unsigned i = 0; i < 20; i++) {
        cr_expect_eq(join_asker(&askers[i]), POOL_E_BROKEN);
        cr_expect_eq(askers[i].query.error.outcome, POOL_MAYBE_SENT);
    }
    expect_next(pool, query_peer_address(peer));
    pool_destroy(pool);
    query_peer_stop(peer);
}

Test(query_ends, nonsense_ends_the_connection_for_all)
{
    static const char *const bodies[] = { "Garbage", "Tcut" };
    static const enum pool_status statuses[] = { POOL_E_PROTOCOL, POOL_E_BROKEN };
    struct query_peer *peer = QUERY_PEER();
    struct pool *pool = MAKE_POOL(KEYED);

    for (unsigned round = 0; round < 2; round++) {
        struct query queries[20] = { { 0 } }, last = { 0 };

        start_many(queries, 20, pool, peer, "Never");
        ask_and_wait(&last, pool, query_peer_address(peer), bodies[round], NULL);
        cr_expect(has_failed_with(&last, statuses[round]));
        expect_all(queries, 20, statuses[round]);
        expect_next(pool, query_peer_address(peer));
    }
    cr_expect_eq(query_peer_accepted(peer), 3);
    pool_destroy(pool);
    query_peer_stop(peer);
}

Test(query_ends, a_request_that_nobody_serves_ends_the_connection)
{
    struct query_peer *peer = QUERY_PEER();
    struct pool *pool = MAKE_POOL(KEYED);
    struct query query = { 0 };

    ask_and_wait(&query, pool, query_peer_address(peer), "Ask", NULL);
    cr_expect(has_failed_with(&query, POOL_E_PROTOCOL));
    expect_next(pool, query_peer_address(peer));
    pool_destroy(pool);
    query_peer_stop(peer);
}

/* A line is looked at when it was quiet for longer than a step of the coarse clock. */
Test(query_ends, an_end_between_two_queries_costs_none_of_them)
{
    struct query_peer *peer = QUERY_PEER(), *other = QUERY_PEER();
    struct pool *pool = MAKE_POOL(KEYED, .park_ms = 60000);

    for (unsigned i = 0; i < 5; i++) {
        struct query meanwhile = { 0 };

        expect_next(pool, query_peer_address(peer));
        query_peer_close(peer);
        ask_and_wait(&meanwhile, pool, query_peer_address(other), "D30", NULL);
        cr_expect(is_answered_with(&meanwhile, "D30"));
    }
    cr_expect_eq(query_peer_accepted(peer), 5);
    pool_destroy(pool);
    query_peer_stop(peer);
    query_peer_stop(other);
}

/* ---- orders of the program */

Test(query_ends, clear_lets_them_finish_or_interrupts_them)
{
    struct query_peer *peer = QUERY_PEER();
    struct pool *pool = MAKE_POOL(KEYED, .park_ms = 60000);
    struct query queries[10] = { { 0 } };

    start_many(queries, 10, pool, peer, "Hold");
    cr_expect_eq(pool_clear(pool, NULL, 0), POOL_OK);
    expect_next(pool, query_peer_address(peer));
    cr_expect_eq(query_peer_accepted(peer), 2, "it is a new generation");
    query_peer_release(peer);
    expect_all(queries, 10, POOL_OK);
    memset(queries, 0, sizeof(queries));
    start_many(queries, 10, pool, peer, "Hold");
    cr_expect_eq(pool_clear(pool, query_peer_address(peer), POOL_INTERRUPT), POOL_OK);
    expect_all(queries, 10, POOL_E_CLEARED);
    expect_next(pool, query_peer_address(peer));
    cr_expect_eq(query_peer_accepted(peer), 3);
    cr_expect_eq(pool_clear(pool, NULL, 0), POOL_OK);
    cr_expect(WAIT_STAT(pool, total, 0), "also a line that carries nothing");
    pool_destroy(pool);
    query_peer_stop(peer);
}

Test(query_ends, a_cleared_line_waits_quietly_for_replies_and_not_for_what_was_given_up)
{
    struct query_peer *peer = QUERY_PEER(), *other = QUERY_PEER();
    struct pool *pool = MAKE_POOL(KEYED, .park_ms = 60000), *quiet = MAKE_POOL(KEYED);
    struct query held = { 0 }, given_up = { 0 }, meanwhile = { 0 };
    uint64_t wakeups;

    start_many(&held, 1, pool, peer, "Hold");
    ask_and_wait(&given_up, pool, query_peer_address(peer), "Never", POOL_CALL(.timeout_ms = 20));
    cr_expect_eq(pool_clear(pool, NULL, 0), POOL_OK);
    wakeups = STAT(pool, wakeups);
    ask_and_wait(&meanwhile, quiet, query_peer_address(other), "D100", NULL);
    cr_expect_lt(STAT(pool, wakeups) - wakeups, 50, "the mux spins");
    cr_expect_eq(held.told, 0);
    query_peer_release(peer);
    cr_assert(wait_answered(&held));
    cr_expect(is_answered_with(&held, "Hold"));
    cr_expect(WAIT_STAT(pool, total, 0));
    pool_destroy(pool);
    pool_destroy(quiet);
    query_peer_stop(peer);
    query_peer_stop(other);
}

Test(query_ends, a_paused_pool_answers_what_is_in_flight_and_takes_no_more)
{
    struct query_peer *peer = QUERY_PEER();
    struct pool *pool = MAKE_POOL(KEYED);
    struct query held[3] = { { 0 } }, query = { 0 };

    start_many(held, 3, pool, peer, "Hold");
    cr_expect_eq(pool_pause(pool), POOL_OK);
    cr_expect_eq(ask_and_wait(&query, pool, query_peer_address(peer), "x", NULL),
                 POOL_E_CLEARED);
    cr_expect_eq(start_query(&query, pool, query_peer_address(peer), "x", NULL), POOL_E_CLEARED);
    query_peer_release(peer);
    expect_all(held, 3, POOL_OK);
    cr_expect_eq(pool_ready(pool), POOL_OK);
    expect_next(pool, query_peer_address(peer));
    pool_destroy(pool);
    query_peer_stop(peer);
}

static void kill_line(bool is_idle)
{
    struct query_peer *peer = QUERY_PEER();
    struct orphans orphans = { 0 };
    struct pool *pool =
        MAKE_POOL(KEYED, .on_orphan = count_orphan, .user = &orphans, .park_ms = 60000);
    struct query queries[10] = { { 0 } }, twice = { 0 };

    ask_and_wait(&twice, pool, query_peer_address(peer), "Wtwice", NULL);
    expect_next(pool, query_peer_address(peer));
    cr_assert(wait_orphans(&orphans, 1));
    if (!is_idle)
        start_many(queries, 10, pool, peer, "Hold");
    cr_expect(pool_kill(pool, orphans.id));
    if (!is_idle)
        expect_all(queries, 10, POOL_E_BROKEN);
    cr_expect(WAIT_STAT(pool, total, 0));
    expect_next(pool, query_peer_address(peer));
    cr_expect_eq(query_peer_accepted(peer), 2);
    pool_destroy(pool);
    query_peer_stop(peer);
}

Test(query_ends, kill_fails_what_a_line_carries)
{
    kill_line(false);
}

Test(query_ends, kill_ends_a_line_that_carries_nothing)
{
    kill_line(true);
}

static void note_closed(void *user)
{
    atomic_fetch_add((atomic_uint *)user, 1);
}

static bool is_set(void *argument)
{
    return atomic_load((atomic_uint *)argument);
}

static void close_pool(uint32_t drain_ms, enum pool_status expected)
{
    struct query_peer *peer = QUERY_PEER();
    struct pool *pool = MAKE_POOL(KEYED, .park_ms = 60000);
    struct query queries[10] = { { 0 } }, late = { 0 };
    struct asker asker = { .query = { 0 } };
    atomic_uint closed = 0;

    start_many(queries, 10, pool, peer, "Hold");
    cr_assert(start_asker(&asker, pool, query_peer_address(peer), "Hold", NULL));
    cr_assert(query_peer_wait_requests(peer, 11));
    cr_assert_eq(pool_close(pool, drain_ms, note_closed, &closed), POOL_OK);
    cr_expect_eq(start_query(&late, pool, query_peer_address(peer), "late", NULL),
                 POOL_E_CLOSING);
    if (!expected)
        query_peer_release(peer);
    expect_all(queries, 10, expected);
    cr_expect_eq(join_asker(&asker), expected);
    cr_expect(wait_until(is_set, &closed, VERBS_SOON), "it is never told that it is closed");
    pool_destroy(pool);
    cr_expect_eq(late.told, 0);
    cr_expect_eq(closed, 1);
    query_peer_stop(peer);
}

Test(query_ends, close_waits_for_them)
{
    close_pool(POOL_NONE, POOL_OK);
}

Test(query_ends, close_ends_them_when_their_time_is_over)
{
    close_pool(30, POOL_E_CLOSING);
}

/* Queries that are queued for room, or for a first connection, when the pool begins to close. */
static void close_pool_with_queued(const char *first_body, uint32_t most)
{
    struct query_peer *peer = QUERY_PEER();
    struct pool *pool = MAKE_POOL(KEYED, .max_inflight = 1, .max_per_address = most);
    struct query held = { 0 }, queued[5] = { { 0 } };
    struct asker asker = { .query = { 0 } };
    atomic_uint closed = 0;

    if (first_body)
        start_many(&held, 1, pool, peer, first_body);
    for (unsigned i = 0; i < 5; i++)
        cr_assert_eq(start_query(&queued[i], pool, query_peer_address(peer), "x", NULL), POOL_OK);
    cr_assert(start_asker(&asker, pool, query_peer_address(peer), "x", NULL));
    cr_assert(WAIT_STAT(pool, queries, first_body ? 7 : 6));
    cr_assert_eq(pool_close(pool, POOL_NONE, note_closed, &closed), POOL_OK);
    query_peer_release(peer);
    expect_all(queued, 5, POOL_OK);
    cr_expect_eq(join_asker(&asker), POOL_OK);
    if (first_body)
        expect_all(&held, 1, *first_body == 'C' ? POOL_E_CLOSED : POOL_OK);
    cr_expect(wait_until(is_set, &closed, VERBS_SOON), "it is never told that it is closed");
    pool_destroy(pool);
    cr_expect_eq(closed, 1);
    query_peer_stop(peer);
}

/* The one that waited runs out of time: nobody needs the line then but the one that it carries. */
Test(query_ends, close_waits_no_longer_than_for_the_last_of_them)
{
    struct query_peer *peer = QUERY_PEER();
    struct pool *pool =
        MAKE_POOL(KEYED, .max_inflight = 1, .max_per_address = 1, .park_ms = 60000);
    struct asker held = { .query = { 0 } }, queued = { .query = { 0 } };
    atomic_uint closed = 0;

    cr_assert(start_asker(&held, pool, query_peer_address(peer), "Hold", NULL));
    cr_assert(query_peer_wait_requests(peer, 1));
    cr_assert(start_asker(&queued, pool, query_peer_address(peer), "x",
                          POOL_CALL(.timeout_ms = 300)));
    cr_assert(WAIT_STAT(pool, queries, 2));
    cr_assert_eq(pool_close(pool, POOL_NONE, note_closed, &closed), POOL_OK);
    cr_expect_eq(join_asker(&queued), POOL_E_TIMEOUT);
    query_peer_release(peer);
    cr_expect_eq(join_asker(&held), POOL_OK);
    cr_expect(wait_until(is_set, &closed, VERBS_SOON), "it is never told that it is closed");
    pool_destroy(pool);
    query_peer_stop(peer);
}

Test(query_ends, close_waits_for_those_that_are_queued)
{
    close_pool_with_queued("Hold", 1);
    close_pool_with_queued("D30", 2);
}

Test(query_ends, close_waits_for_those_without_a_connection)
{
    for (unsigned i = 0; i < 20; i++)
        close_pool_with_queued(NULL, 1 + i % 2);
    close_pool_with_queued("C", 1);
}

/* ---- the end of the pool */

Test(query_ends, destroy_answers_each_once_before_it_returns)
{
    static struct query queries[1000];
    struct query_peer *peer = QUERY_PEER();
    struct pool *pool = MAKE_POOL(KEYED, .max_inflight = 300, .max_per_address = 2);
    struct asker askers[5] = { 0 };

    for (unsigned i = 0; i < 1000; i++)
        cr_assert_eq(start_query(&queries[i], pool, query_peer_address(peer), "Never", NULL),
                     POOL_OK);
    cr_assert(query_peer_wait_requests(peer, 600));
    for (unsigned i = 0; i < 5; i++)
        cr_assert(start_asker(&askers[i], pool, query_peer_address(peer), "Never", NULL));
    cr_expect(wait_stat(pool, offsetof(struct pool_stats, queries), 1005));
    pool_destroy(pool);
    for (unsigned i = 0; i < 1000; i++)
        cr_expect(has_failed_with(&queries[i], POOL_E_CLOSING));
    for (unsigned i = 0; i < 5; i++)
        cr_expect_eq(join_asker(&askers[i]), POOL_E_CLOSING);
    cr_expect(query_peer_wait_open(peer, 0));
    query_peer_stop(peer);
}

Test(query_ends, destroy_answers_what_waits_for_its_first_connection)
{
    struct peer *peer = PEER(.behave = PEER_NEVER_ACCEPT);
    struct pool *pool = MAKE_POOL(KEYED);
    struct query query = { 0 };
    struct asker asker = { .query = { 0 } };

    cr_assert_eq(start_query(&query, pool, peer_address(peer), "x", NULL), POOL_OK);
    cr_assert(start_asker(&asker, pool, peer_address(peer), "x", NULL));
    cr_assert(WAIT_STAT(pool, queries, 2));
    pool_destroy(pool);
    cr_expect(has_failed_with(&query, POOL_E_CLOSING));
    cr_expect_eq(query.error.outcome, POOL_NOT_SENT);
    cr_expect_eq(join_asker(&asker), POOL_E_CLOSING);
    peer_stop(peer);
}

struct ending {
    struct pool *pool;
    atomic_uint returned;
};

static void destroy_pool(struct query *query)
{
    struct ending *ending = query->user;

    pool_destroy(ending->pool);
    atomic_fetch_add(&ending->returned, 1);
}

Test(query_ends, destroy_in_a_reply_answers_the_others_after_it)
{
    static struct query queries[100];
    struct query_peer *peer = QUERY_PEER();
    struct pool *pool = MAKE_POOL(KEYED);
    struct ending ending = { .pool = pool };
    struct query last = { .then = destroy_pool, .user = &ending };
    struct asker asker = { .query = { 0 } };

    start_many(queries, 100, pool, peer, "Never");
    cr_assert(start_asker(&asker, pool, query_peer_address(peer), "Never", NULL));
    cr_assert(query_peer_wait_requests(peer, 101));
    cr_assert_eq(start_query(&last, pool, query_peer_address(peer), "last", NULL), POOL_OK);
    cr_assert(wait_answered(&last));
    cr_expect(is_answered_with(&last, "last"));
    cr_expect_eq(ending.returned, 1);
    expect_all(queries, 100, POOL_E_CLOSING);
    cr_expect_eq(join_asker(&asker), POOL_E_CLOSING);
    cr_expect(query_peer_wait_open(peer, 0));
    query_peer_stop(peer);
}

Test(query_ends, destroy_inside_a_loop_of_ones_own_answers_what_is_left)
{
    static struct query queries[100];
    struct query_peer *peer = QUERY_PEER();
    struct pool_mux *mux;
    struct pool *pool;

    cr_assert_eq(pool_mux_create(&mux), POOL_OK);
    pool = MAKE_POOL(KEYED, .mux = mux);
    for (unsigned i = 0; i < 100; i++)
        cr_assert_eq(start_query(&queries[i], pool, query_peer_address(peer),
                                 i ? "Never" : "first", NULL),
                     POOL_OK);
    cr_assert(dispatch_until_answered(mux, &queries[0]));
    pool_destroy(pool);
    for (unsigned i = 1; i < 100; i++)
        cr_expect(has_failed_with(&queries[i], POOL_E_CLOSING));
    pool_mux_destroy(mux);
    query_peer_stop(peer);
}

struct storm {
    struct pool *pool;
    const char *address;
    atomic_uint wrong, ended;
};

static void ask_until_the_end(unsigned index, void *user)
{
    struct storm *storm = user;
    char body[32];

    for (unsigned i = 0; !storm->ended; i++) {
        struct query query = { 0 };

        snprintf(body, sizeof(body), "%u of %u", i, index);
        ask_and_wait(&query, storm->pool, storm->address, body, NULL);
        if (query.status == POOL_E_CLOSING) {
            atomic_fetch_add(&storm->ended, 1);
            return;
        }
        if (query.status ? query.status != POOL_E_CLEARED : strcmp(query.text, body) != 0)
            atomic_fetch_add(&storm->wrong, 1);
    }
}

static void ask_or_close(unsigned index, void *user)
{
    struct storm *storm = user;

    if (index)
        ask_until_the_end(index, user);
    else if (pool_close(storm->pool, 50, NULL, NULL))
        atomic_fetch_add(&storm->wrong, 1);
}

Test(query_ends, closing_under_threads_that_ask_harms_none)
{
    struct query_peer *peer = QUERY_PEER();

    for (unsigned round = 0; round < 20; round++) {
        struct pool *pool = MAKE_POOL(KEYED);
        struct storm storm = { .pool = pool, .address = query_peer_address(peer) };

        cr_assert(run_threads(8, ask_or_close, &storm));
        cr_expect_eq(storm.wrong, 0);
        cr_expect_geq(storm.ended, 1);
        pool_destroy(pool);
    }
    query_peer_stop(peer);
}

Test(query_ends, nobody_there_is_told_to_all)
{
    struct query_peer *peer = QUERY_PEER();
    char address[64];
    struct pool *pool = MAKE_POOL(KEYED, .backoff_first_ms = POOL_ZERO,
                                  .suspend_after = POOL_ZERO);
    struct query queries[10] = { { 0 } }, query = { 0 };

    snprintf(address, sizeof(address), "%s", query_peer_address(peer));
    query_peer_stop(peer);
    for (unsigned i = 0; i < 10; i++)
        cr_assert_eq(start_query(&queries[i], pool, address, "x", NULL), POOL_OK);
    cr_expect_eq(ask_and_wait(&query, pool, address, "x", NULL), POOL_E_REFUSED);
    expect_all(queries, 10, POOL_E_REFUSED);
    cr_expect_eq(queries[3].error.outcome, POOL_NOT_SENT);
    pool_destroy(pool);
}

static atomic_int told_before;          /* -1: not closed yet */

static void look_back(void *query)
{
    atomic_store(&told_before, (int)atomic_load(&((struct query *)query)->told));
}

static bool has_looked_back(void *unused)
{
    (void)unused;
    return atomic_load(&told_before) >= 0;
}

/* Programs free in on_closed what on_reply needs. */
Test(query_ends, the_last_query_is_told_before_the_pool_says_that_it_is_closed)
{
    struct query_peer *peer = QUERY_PEER();

    for (unsigned i = 0; i < 20; i++) {
        struct pool *pool = MAKE_POOL(KEYED);
        struct query query = { 0 };

        atomic_store(&told_before, -1);
        cr_assert_eq(start_query(&query, pool, query_peer_address(peer), "D5", NULL), POOL_OK);
        cr_assert(query_peer_wait_requests(peer, i + 1));
        cr_assert_eq(pool_close(pool, VERBS_SOON, look_back, &query), POOL_OK);
        cr_assert(wait_until(has_looked_back, NULL, VERBS_SOON));
        cr_expect_eq(atomic_load(&told_before), 1);
        cr_expect(is_answered_with(&query, "D5"));
        pool_destroy(pool);
    }
    query_peer_stop(peer);
}
