/* test_query_async.c: queries that nobody waits for on the spot: from threads, from callbacks,
 * inside a loop of one's own; time that runs out, canceling, parts. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "support/queries.h"

#define KEYED .codec = pool_codec_length()
#define TURNS .codec = pool_codec_line()

Test(query_async, is_told_once_and_never_under_the_call_that_asked)
{
    struct query_peer *peer = QUERY_PEER();
    struct pool *pool = MAKE_POOL(KEYED);
    struct query cold = { 0 }, warm = { 0 };

    cr_assert_eq(start_query(&cold, pool, query_peer_address(peer), "cold", NULL), POOL_OK);
    cr_assert(wait_answered(&cold));
    cr_expect(is_answered_with(&cold, "cold"));
    cr_assert_eq(start_query(&warm, pool, query_peer_address(peer), "warm", NULL), POOL_OK);
    cr_assert(wait_answered(&warm));
    cr_expect(is_answered_with(&warm, "warm"));
    cr_expect_not(pthread_equal(warm.thread, pthread_self()));
    cr_expect(pthread_equal(cold.thread, warm.thread));
    pool_destroy(pool);
    cr_expect_eq(cold.told, 1);
    cr_expect_eq(warm.told, 1);
    query_peer_stop(peer);
}

#define MANY 3000u

static void ask_many(const struct query_peer *peer, struct pool *pool, unsigned accepted)
{
    struct query *queries = calloc(MANY, sizeof(*queries));
    char body[32];

    for (unsigned i = 0; i < MANY; i++) {
        snprintf(body, sizeof(body), "%s%u", i % 3 ? "own " : "D2 ", i);
        cr_assert_eq(start_query(&queries[i], pool, query_peer_address(peer), body, NULL),
                     POOL_OK);
    }
    for (unsigned i = 0; i < MANY; i++) {
        snprintf(body, sizeof(body), "%s%u", i % 3 ? "own " : "D2 ", i);
        cr_assert(wait_answered(&queries[i]));
        cr_expect(is_answered_with(&queries[i], body));
    }
    cr_expect_leq(STAT(pool, opened), accepted);
    free(queries);
}

Test(query_async, thousands_are_in_flight_and_each_gets_its_own)
{
    struct query_peer *peer = QUERY_PEER();
    struct pool *pool = MAKE_POOL(KEYED, .max_inflight = MANY);

    ask_many(peer, pool, 1);
    pool_destroy(pool);
    query_peer_stop(peer);
}

Test(query_async, thousands_are_in_flight_and_answered_in_turn)
{
    struct query_peer *peer = QUERY_PEER(.is_line = true);
    struct pool *pool = MAKE_POOL(TURNS, .max_inflight = MANY);

    ask_many(peer, pool, 1);
    pool_destroy(pool);
    query_peer_stop(peer);
}

Test(query_async, what_does_not_fit_on_one_connection_goes_on_others)
{
    struct query_peer *peer = QUERY_PEER();
    struct pool *pool = MAKE_POOL(KEYED, .max_inflight = 100, .max_per_address = 4);

    ask_many(peer, pool, 4);
    pool_destroy(pool);
    query_peer_stop(peer);
}

/* ---- callbacks */

struct chain {
    struct pool *pool;
    const char *address;
    struct query links[5];
    enum pool_status blocked;
    enum pool_status starts[5];
};

static void ask_on(struct query *query)
{
    struct chain *chain = query->user;
    struct pool_reply *reply;
    long at = query - chain->links;

    chain->blocked = pool_query(chain->pool, chain->address, POOL_TEXT("blocking"), NULL, &reply);
    if (at + 1 < 5)
        chain->starts[at + 1] =
            start_query(query + 1, chain->pool, chain->address, "link", NULL);
}

static void set_up_chain(struct chain *chain, struct pool *pool, const char *address)
{
    *chain = (struct chain){ .pool = pool, .address = address };
    for (unsigned i = 0; i < 5; i++) {
        chain->links[i].then = ask_on;
        chain->links[i].user = chain;
    }
}

Test(query_async, a_reply_asks_again_and_a_blocking_query_there_would_block)
{
    struct query_peer *peer = QUERY_PEER();
    struct pool *pool = MAKE_POOL(KEYED);
    struct chain chain;

    set_up_chain(&chain, pool, query_peer_address(peer));
    cr_assert_eq(start_query(&chain.links[0], pool, chain.address, "link", NULL), POOL_OK);
    for (unsigned i = 0; i < 5; i++) {
        cr_assert(wait_answered(&chain.links[i]));
        cr_expect(is_answered_with(&chain.links[i], "link"));
        cr_expect_eq(chain.starts[i], POOL_OK);
        cr_expect_not(chain.links[i].was_under_the_start);
    }
    cr_expect_eq(chain.blocked, POOL_E_WOULD_BLOCK);
    pool_destroy(pool);
    query_peer_stop(peer);
}

Test(query_async, runs_in_a_loop_of_the_programs_own)
{
    struct query_peer *peer = QUERY_PEER();
    struct pool_mux *mux;
    struct pool *pool;
    struct chain chain;
    struct query query = { 0 };

    cr_assert_eq(pool_mux_create(&mux), POOL_OK);
    pool = MAKE_POOL(KEYED, .mux = mux);
    set_up_chain(&chain, pool, query_peer_address(peer));
    cr_assert_eq(start_query(&chain.links[0], pool, chain.address, "link", NULL), POOL_OK);
    for (unsigned i = 0; i < 5; i++) {
        cr_assert(dispatch_until_answered(mux, &chain.links[i]));
        cr_expect(is_answered_with(&chain.links[i], "link"));
        cr_expect(pthread_equal(chain.links[i].thread, pthread_self()));
    }
    cr_expect_eq(ask_and_wait(&query, pool, chain.address, "x", NULL), POOL_E_WOULD_BLOCK);
    pool_destroy(pool);
    pool_mux_destroy(mux);
    query_peer_stop(peer);
}

/* ---- time */

Test(query_async, time_that_runs_out_leaves_the_connection_to_the_others)
{
    struct query_peer *peer = QUERY_PEER();
    struct orphans orphans = { 0 };
    struct pool *pool = MAKE_POOL(KEYED, .on_orphan = count_orphan, .user = &orphans);
    struct query slow = { 0 }, waits = { 0 }, next = { 0 };

    cr_assert_eq(start_query(&slow, pool, query_peer_address(peer), "Hslow",
                             POOL_CALL(.timeout_ms = 30)),
                 POOL_OK);
    ask_and_wait(&waits, pool, query_peer_address(peer), "Hwaits", POOL_CALL(.timeout_ms = 30));
    cr_assert(wait_answered(&slow));
    cr_expect(has_failed_with(&slow, POOL_E_TIMEOUT_IN_TRANSFER));
    cr_expect(has_failed_with(&waits, POOL_E_TIMEOUT_IN_TRANSFER));
    cr_expect_eq(slow.error.outcome, POOL_MAYBE_SENT);
    cr_expect_not_null(strstr(slow.error.text, query_peer_address(peer)));
    ask_and_wait(&next, pool, query_peer_address(peer), "next", NULL);
    cr_expect(is_answered_with(&next, "next"));
    cr_expect_eq(STAT(pool, late_replies), 0);
    cr_expect_eq(query_peer_release(peer), 2);
    cr_assert(wait_orphans(&orphans, 2));
    cr_expect_eq(STAT(pool, late_replies), 2);
    cr_expect_eq(STAT(pool, orphans), 2);
    next = (struct query){ 0 };
    ask_and_wait(&next, pool, query_peer_address(peer), "last", NULL);
    cr_expect(is_answered_with(&next, "last"));
    cr_expect_eq(query_peer_accepted(peer), 1, "the shared connection stays");
    cr_expect_eq(slow.told, 1);
    pool_destroy(pool);
    query_peer_stop(peer);
}

Test(query_async, a_late_reply_in_order_is_not_the_next_ones)
{
    struct query_peer *peer = QUERY_PEER(.is_line = true);
    struct orphans orphans = { 0 };
    struct pool *pool = MAKE_POOL(TURNS, .on_orphan = count_orphan, .user = &orphans);
    struct query slow = { 0 }, next = { 0 };

    ask_and_wait(&slow, pool, query_peer_address(peer), "D150 late", POOL_CALL(.timeout_ms = 20));
    cr_expect(has_failed_with(&slow, POOL_E_TIMEOUT_IN_TRANSFER));
    ask_and_wait(&next, pool, query_peer_address(peer), "next", NULL);
    cr_expect(is_answered_with(&next, "next"));
    cr_assert(wait_orphans(&orphans, 1));
    cr_expect_str_eq(orphans.text, "D150 late");
    cr_expect_eq(query_peer_accepted(peer), 1);
    pool_destroy(pool);
    query_peer_stop(peer);
}

Test(query_async, a_line_full_of_what_was_given_up_makes_way)
{
    struct query_peer *peer = QUERY_PEER();
    struct pool *pool = MAKE_POOL(KEYED, .max_inflight = 4, .max_per_address = 1);
    struct query queries[4] = { { 0 } }, next = { 0 };

    for (unsigned i = 0; i < 4; i++)
        cr_assert_eq(start_query(&queries[i], pool, query_peer_address(peer), "Never",
                                 POOL_CALL(.timeout_ms = 20)),
                     POOL_OK);
    for (unsigned i = 0; i < 4; i++) {
        cr_assert(wait_answered(&queries[i]));
        cr_expect(has_failed_with(&queries[i], POOL_E_TIMEOUT_IN_TRANSFER));
    }
    ask_and_wait(&next, pool, query_peer_address(peer), "next", NULL);
    cr_expect(is_answered_with(&next, "next"));
    cr_expect_eq(query_peer_accepted(peer), 2);
    pool_destroy(pool);
    query_peer_stop(peer);
}

Test(query_async, nobody_waits_behind_queries_that_keep_their_order)
{
    struct query_peer *peer = QUERY_PEER();
    struct pool *pool = MAKE_POOL(KEYED, .max_inflight = 1, .max_per_address = 2);
    struct query ordered[2] = { { 0 } }, next = { 0 };

    for (unsigned i = 0; i < 2; i++) {
        cr_assert_eq(start_query(&ordered[i], pool, query_peer_address(peer),
                                 i ? "second" : "Hold",
                                 POOL_CALL(.timeout_ms = VERBS_SOON, .flags = POOL_ORDERED)),
                     POOL_OK);
        cr_assert(query_peer_wait_requests(peer, 1));
    }
    ask_and_wait(&next, pool, query_peer_address(peer), "next", NULL);
    cr_expect(is_answered_with(&next, "next"));
    cr_expect_eq(ordered[1].told, 0);
    query_peer_release(peer);
    cr_assert(wait_answered(&ordered[1]));
    cr_expect(is_answered_with(&ordered[1], "second"));
    cr_expect_gt(ordered[1].place, ordered[0].place);
    pool_destroy(pool);
    query_peer_stop(peer);
}

Test(query_async, what_never_left_says_so)
{
    struct peer *peer = PEER(.behave = PEER_NEVER_ACCEPT);
    struct pool *pool = MAKE_POOL(KEYED);
    struct query query = { 0 }, waits = { 0 };
    uint64_t start_ms = now_ms();

    cr_assert_eq(start_query(&query, pool, peer_address(peer), "x", POOL_CALL(.timeout_ms = 50)),
                 POOL_OK);
    ask_and_wait(&waits, pool, peer_address(peer), "x", POOL_CALL(.timeout_ms = 60));
    cr_assert(wait_answered(&query));
    cr_expect(has_failed_with(&query, POOL_E_TIMEOUT));
    cr_expect_eq(query.error.outcome, POOL_NOT_SENT);
    cr_expect(has_failed_with(&waits, POOL_E_TIMEOUT));
    cr_expect_eq(waits.error.outcome, POOL_NOT_SENT);
    cr_expect(IN_TIME(elapsed_ms(start_ms), 60));
    pool_destroy(pool);
    peer_stop(peer);
}

Test(query_async, who_has_more_time_outlives_the_one_who_opened_the_line)
{
    struct query_peer *peer = QUERY_PEER();
    struct peer *place = PEER(.behave = PEER_NEVER_ACCEPT);
    struct pool *pool = MAKE_POOL(KEYED);
    struct asker hasty = { .query = { 0 } };
    struct query patient = { 0 };

    (void)peer;
    cr_assert(start_asker(&hasty, pool, peer_address(place), "x", POOL_CALL(.timeout_ms = 100)));
    cr_assert(WAIT_STAT(pool, opening, 1));
    cr_assert_eq(start_query(&patient, pool, peer_address(place), "x",
                             POOL_CALL(.timeout_ms = 400)),
                 POOL_OK);
    cr_expect_eq(join_asker(&hasty), POOL_E_TIMEOUT);
    cr_expect_eq(patient.told, 0);
    cr_assert(wait_answered(&patient));
    cr_expect(has_failed_with(&patient, POOL_E_TIMEOUT));
    pool_destroy(pool);
    peer_stop(place);
    query_peer_stop(peer);
}

/* ---- canceling */

Test(query_async, canceling_one_leaves_its_neighbours_alone)
{
    struct query_peer *peer = QUERY_PEER();
    struct pool *pool = MAKE_POOL(KEYED);
    struct query queries[3] = { { 0 }, { .has_ticket = true }, { 0 } };

    for (unsigned i = 0; i < 3; i++)
        cr_assert_eq(start_query(&queries[i], pool, query_peer_address(peer), "Hold", NULL),
                     POOL_OK);
    cr_assert(query_peer_wait_requests(peer, 3));
    cr_expect(pool_ticket_cancel(queries[1].ticket));
    cr_expect_not(pool_ticket_cancel(queries[1].ticket));
    cr_assert(wait_answered(&queries[1]));
    cr_expect(has_failed_with(&queries[1], POOL_E_CANCELED));
    cr_expect_eq(queries[1].error.outcome, POOL_MAYBE_SENT);
    cr_expect_eq(queries[0].told + queries[2].told, 0);
    cr_expect_eq(query_peer_release(peer), 3);
    for (unsigned i = 0; i < 3; i += 2) {
        cr_assert(wait_answered(&queries[i]));
        cr_expect(is_answered_with(&queries[i], "Hold"));
    }
    cr_expect_eq(query_peer_accepted(peer), 1);
    pool_ticket_free(queries[1].ticket);
    pool_destroy(pool);
    cr_expect_eq(queries[1].told, 1);
    query_peer_stop(peer);
}

static bool has_shown(void *argument)
{
    return __atomic_load_n((struct pool_ticket **)argument, __ATOMIC_ACQUIRE) != NULL;
}

static void cancel_blocking(const char *address, struct query_peer *peer, enum pool_outcome outcome)
{
    struct pool *pool = MAKE_POOL(KEYED);
    struct pool_ticket *ticket = NULL;
    struct asker asker = { .query = { 0 } };

    cr_assert(start_asker(&asker, pool, address, "Hold",
                          POOL_CALL(.timeout_ms = VERBS_SOON, .ticket = &ticket)));
    cr_assert(wait_until(has_shown, &ticket, VERBS_SOON));
    if (peer)
        cr_assert(query_peer_wait_requests(peer, 1));
    else
        cr_assert(WAIT_STAT(pool, opening, 1));
    cr_expect(pool_ticket_cancel(ticket));
    cr_expect_eq(join_asker(&asker), POOL_E_CANCELED);
    cr_expect_eq(asker.query.error.outcome, outcome);
    cr_expect_lt(asker.took_ms, VERBS_SOON / 2);
    pool_ticket_free(ticket);
    if (peer) {
        struct query next = { 0 };

        ask_and_wait(&next, pool, address, "next", NULL);
        cr_expect(is_answered_with(&next, "next"));
        cr_expect_eq(query_peer_accepted(peer), 1);
    }
    pool_destroy(pool);
}

Test(query_async, cancels_a_thread_that_waits_for_its_reply)
{
    struct query_peer *peer = QUERY_PEER();

    cancel_blocking(query_peer_address(peer), peer, POOL_MAYBE_SENT);
    query_peer_stop(peer);
}

Test(query_async, cancels_a_thread_that_waits_for_the_first_connection)
{
    struct peer *peer = PEER(.behave = PEER_NEVER_ACCEPT);

    cancel_blocking(peer_address(peer), NULL, POOL_NOT_SENT);
    peer_stop(peer);
}

/* ---- parts */

struct parts {
    unsigned count, wrong;
    size_t size;
    pthread_t thread;
};

static void on_part(struct pool_bytes part, void *user)
{
    struct parts *parts = user;
    char expected[16];
    int size = snprintf(expected, sizeof(expected), "%u;", parts->count++);

    parts->thread = pthread_self();
    parts->size += part.size;
    parts->wrong += part.size != (size_t)size || memcmp(part.data, expected, part.size);
}

Test(query_async, tells_a_hundred_parts_in_order_before_the_end)
{
    struct query_peer *peer = QUERY_PEER();
    struct pool *pool = MAKE_POOL(KEYED);
    struct parts parts = { 0 };
    struct query blocking = { 0 }, query = { 0 };

    ask_and_wait(&blocking, pool, query_peer_address(peer), "P100",
                 POOL_CALL(.timeout_ms = VERBS_SOON, .on_part = on_part, .user = &parts));
    cr_expect(is_answered_with(&blocking, "99;"));
    cr_expect_eq(parts.count, 99);
    cr_expect_eq(parts.wrong, 0);
    cr_expect(pthread_equal(parts.thread, pthread_self()), "on the thread that waits");
    parts = (struct parts){ 0 };
    cr_assert_eq(start_query(&query, pool, query_peer_address(peer), "P100",
                             POOL_CALL(.timeout_ms = VERBS_SOON, .on_part = on_part,
                                       .user = &parts)),
                 POOL_OK);
    cr_assert(wait_answered(&query));
    cr_expect(is_answered_with(&query, "99;"));
    cr_expect_eq(parts.count, 99);
    cr_expect_eq(parts.wrong, 0);
    cr_expect(pthread_equal(parts.thread, query.thread), "on the mux");
    pool_destroy(pool);
    query_peer_stop(peer);
}

static void expect_joined(const struct query *query)
{
    char whole[QUERY_TEXT];
    size_t size = 0;

    for (unsigned i = 0; i < 100; i++)
        size += (size_t)snprintf(whole + size, sizeof(whole) - size, "%u;", i);
    cr_expect(is_answered_with(query, whole));
    cr_expect_eq(query->size, size);
}

Test(query_async, joins_parts_that_nobody_asked_to_be_told)
{
    struct query_peer *peer = QUERY_PEER();
    struct pool *pool = MAKE_POOL(KEYED);
    struct query blocking = { 0 }, query = { 0 };

    ask_and_wait(&blocking, pool, query_peer_address(peer), "P100", NULL);
    expect_joined(&blocking);
    cr_assert_eq(start_query(&query, pool, query_peer_address(peer), "P100", NULL), POOL_OK);
    cr_assert(wait_answered(&query));
    expect_joined(&query);
    pool_destroy(pool);
    query_peer_stop(peer);
}

/* ---- posted requests, pushes */

Test(query_async, answers_to_what_was_posted_go_to_on_orphan)
{
    struct query_peer *peer = QUERY_PEER();
    struct orphans orphans = { 0 };
    struct pool *pool = MAKE_POOL(KEYED, .on_orphan = count_orphan, .user = &orphans);
    struct query query = { 0 };

    for (unsigned i = 0; i < 10; i++) {
        cr_assert_eq(pool_post_request(pool, query_peer_address(peer), POOL_TEXT("posted"), NULL),
                     POOL_OK);
        if (i == 5) {
            ask_and_wait(&query, pool, query_peer_address(peer), "query", NULL);
            cr_expect(is_answered_with(&query, "query"));
        }
    }
    cr_assert(wait_orphans(&orphans, 10));
    cr_expect_str_eq(orphans.text, "posted");
    cr_expect_gt(orphans.key, 0);
    cr_expect_gt(orphans.id, 0);
    cr_expect_eq(STAT(pool, orphans), 10);
    cr_expect_eq(STAT(pool, late_replies), 0, "nobody gave them up");
    cr_expect_eq(STAT(pool, queries), 11);
    pool_destroy(pool);
    query_peer_stop(peer);
}

Test(query_async, posting_needs_no_on_orphan_and_keeps_no_line)
{
    struct query_peer *peer = QUERY_PEER();
    struct pool *pool = MAKE_POOL(KEYED, .park_ms = 20);

    cr_assert_eq(pool_post_request(pool, query_peer_address(peer), POOL_TEXT("posted"), NULL),
                 POOL_OK);
    cr_assert(query_peer_wait_requests(peer, 1));
    cr_expect(WAIT_STAT(pool, idle, 1));
    cr_expect_eq(STAT(pool, orphans), 1);
    pool_destroy(pool);
    query_peer_stop(peer);
}

static int on_message(struct pool_conn *conn, struct pool_bytes message, void *user)
{
    (void)conn;
    count_orphan(0, 0, message, user);
    return 0;
}

static int attach(struct pool_conn *conn, struct pool_actor *actor, void *user)
{
    (void)conn;
    actor->on_message = on_message;
    actor->user = user;
    return 0;
}

Test(query_async, pushes_go_to_the_actor_while_queries_run)
{
    struct query_peer *peer = QUERY_PEER();
    struct orphans pushes = { 0 };
    struct pool *pool = MAKE_POOL(KEYED, .on_new_connection = attach, .user = &pushes);

    for (unsigned i = 0; i < 20; i++) {
        struct query query = { 0 };

        ask_and_wait(&query, pool, query_peer_address(peer), "Spushed", NULL);
        cr_expect(is_answered_with(&query, "Spushed"));
    }
    cr_assert(wait_orphans(&pushes, 20));
    cr_expect_str_eq(pushes.text, "Spushed");
    cr_expect_eq(STAT(pool, orphans), 0);
    cr_expect_eq(query_peer_accepted(peer), 1);
    pool_destroy(pool);
    query_peer_stop(peer);
}
