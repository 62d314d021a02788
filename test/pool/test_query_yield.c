/* test_query_yield.c: queries and callers who want a connection of their own, at one peer: who gets
 * what there is, and when. */
#include <criterion/criterion.h>
#include <stdio.h>

#include "base/os.h"
#include "pool/query_scene.h"

#define KEYED .codec = pool_codec_length()

TestSuite(query_yield, .init = query_scene_plain, .fini = query_scene_end, .timeout = 60);

/* What carries queries is full, and the other connection there may be is lent for long: whoever is
 * to open a line waits for that one. */
Test(query_yield, who_opens_a_line_for_queries_takes_none_from_them)
{
    struct query never = { 0 }, slow = { 0 }, next = { 0 };
    struct pool_conn conn;

    pool = MAKE_POOL(KEYED, .max_inflight = 2, .max_per_address = 2);
    cr_assert_eq(start_query(&never, pool, address, "Never", POOL_CALL(.timeout_ms = POOL_NONE)),
                 POOL_OK);
    cr_assert(query_peer_wait_requests(peer, 1));
    cr_assert(borrow(pool, address, &conn));
    cr_assert_eq(start_query(&slow, pool, address, "D60", NULL), POOL_OK);
    cr_assert_eq(start_query(&next, pool, address, "next", POOL_CALL(.timeout_ms = 3000)),
                 POOL_OK);
    cr_expect(wait_answered(&slow) && wait_answered(&next));
    cr_expect(is_answered_with(&next, "next"));
    cr_expect_eq(never.told, 0);
    pool_return(&conn);
    pool_destroy(pool);
    pool = NULL;
    cr_expect(has_failed_with(&never, POOL_E_CLOSING));
}

static bool is_told_or_waits(void *query)
{
    return ((struct query *)query)->told || STAT(pool, waiting) == 2;
}

/* Asks until one waits, too, for lack of a line that takes it. */
static bool ask_until_one_waits(struct query *asked, unsigned count, unsigned *waits)
{
    for (*waits = 0; *waits < count; ++*waits) {
        struct query *query = &asked[*waits];

        cr_assert_eq(start_query(query, pool, address, "next", POOL_CALL(.timeout_ms = 3000)),
                     POOL_OK);
        cr_assert(wait_until(is_told_or_waits, query, VERBS_SOON));
        if (!query->told)
            return true;
    }
    return false;
}

/* What carries queries is to go to who waits, when it is empty; it never is, and he gets another
 * one. */
Test(query_yield, a_line_that_nobody_waits_for_any_more_takes_queries_again)
{
    static struct query asked[100];
    struct query never = { 0 };
    struct caller first = { .pool = NULL };
    struct pool_conn conn;
    unsigned waits;

    pool = MAKE_POOL(KEYED, .max_inflight = 8, .max_per_address = 2, .barge_ms = 1);
    cr_assert_eq(start_query(&never, pool, address, "Never", POOL_CALL(.timeout_ms = POOL_NONE)),
                 POOL_OK);
    cr_assert(query_peer_wait_requests(peer, 1));
    cr_assert(borrow(pool, address, &conn));
    cr_assert(queue_caller(&first, pool, address, 3000));
    cr_assert(ask_until_one_waits(asked, PL_COUNT(asked), &waits));
    pool_return(&conn);
    cr_expect_eq(join_caller(&first), POOL_OK);
    cr_expect(wait_answered(&asked[waits]));
    cr_expect(is_answered_with(&asked[waits], "next"));
    cr_expect_eq(never.told, 0);
    pool_return(&first.conn);
    pool_destroy(pool);
    pool = NULL;
}

static void ask_instead(struct pool_conn *conn, const struct pool_error *error, void *query)
{
    (void)error;
    cr_expect_null(conn);
    cr_expect_eq(start_query(query, pool, address, "next", POOL_CALL(.timeout_ms = 10000)),
                 POOL_OK);
}

/* He gave up, and asks on the line that was to go to him. */
Test(query_yield, a_line_takes_the_query_of_who_waited_for_it_in_vain)
{
    static struct query next;
    struct query never = { 0 };

    pool = MAKE_POOL(KEYED, .max_per_address = 1, .barge_ms = 1);
    cr_assert_eq(start_query(&never, pool, address, "Never", POOL_CALL(.timeout_ms = POOL_NONE)),
                 POOL_OK);
    cr_assert(query_peer_wait_requests(peer, 1));
    cr_assert_eq(pool_communicate_async(pool, address, ask_instead, &next,
                                        POOL_CALL(.timeout_ms = 100), NULL),
                 POOL_OK);
    cr_expect(wait_answered(&next));
    cr_expect(is_answered_with(&next, "next"));
    pool_destroy(pool);
    pool = NULL;
}

/* Queries that follow each other, so that what carries them is never without one. */
struct chain {
    struct query query;
    char body[8];
    atomic_bool *stops;
};

static void ask_again(struct query *query)
{
    struct chain *chain = query->user;

    if (!atomic_load(chain->stops))
        start_query(query, pool, address, chain->body, NULL);
}

static void start_chains(struct chain *chains, unsigned count, atomic_bool *stops)
{
    for (unsigned i = 0; i < count; i++) {
        snprintf(chains[i].body, sizeof(chains[i].body), "D%u", 7 + 3 * i);
        chains[i].stops = stops;
        chains[i].query.then = ask_again;
        chains[i].query.user = &chains[i];
        cr_assert_eq(start_query(&chains[i].query, pool, address, chains[i].body, NULL), POOL_OK);
    }
    cr_assert(query_peer_wait_requests(peer, count));
}

Test(query_yield, who_waits_for_a_connection_gets_one_however_many_come_behind)
{
    static struct chain chains[8];
    static atomic_bool stops;
    struct caller first = { .pool = NULL };
    struct pool_conn conn;
    uint64_t start_ms;

    pool = MAKE_POOL(KEYED, .max_per_address = 1);
    start_chains(chains, 8, &stops);
    cr_assert(queue_caller(&first, pool, address, 3000));
    start_ms = now_ms();
    while (!atomic_load(&first.is_back) && elapsed_ms(start_ms) < 4000) {
        if (!pool_borrow(pool, address, POOL_CALL(.timeout_ms = 3), &conn))
            pool_return(&conn);
    }
    atomic_store(&stops, true);
    cr_expect_eq(join_caller(&first), POOL_OK);
    pool_return(&first.conn);
}

Test(query_yield, each_who_waits_gets_one_though_the_one_before_keeps_his)
{
    struct caller callers[2] = { { .pool = NULL } };
    struct query held[2] = { { 0 } };

    pool = MAKE_POOL(KEYED, .max_inflight = 1, .max_per_address = 2, .park_ms = 60000);
    for (unsigned i = 0; i < 2; i++) {
        cr_assert_eq(start_query(&held[i], pool, address, "Hold", NULL), POOL_OK);
        cr_assert(query_peer_wait_requests(peer, i + 1));
    }
    for (unsigned i = 0; i < 2; i++)
        cr_assert(queue_caller(&callers[i], pool, address, 3000));
    query_peer_release(peer);
    for (unsigned i = 0; i < 2; i++)
        cr_expect_eq(join_caller(&callers[i]), POOL_OK);
    for (unsigned i = 0; i < 2; i++)
        pool_return(&callers[i].conn);
}

Test(query_yield, who_wants_a_fresh_one_has_it_opened_beside_what_queries_leave)
{
    struct query query = { 0 };
    struct pool_conn conn;

    pool = MAKE_POOL(KEYED, .max_per_address = 2);
    cr_assert_eq(ask_and_wait(&query, pool, address, "hello", NULL), POOL_OK);
    cr_assert_eq(pool_borrow(pool, address, POOL_CALL(.flags = POOL_FRESH, .timeout_ms = 3000),
                             &conn),
                 POOL_OK);
    cr_expect_eq(pool_conn_id(&conn), 2);
    pool_return(&conn);
}

/* ---- who was told of a line, and does not look yet: sleeps end only while `gate` is open */

static struct pl_os os;
static atomic_uint asleep;
static pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;

static int gated_sleep(_Atomic uint32_t *word, uint32_t expected, uint64_t deadline_ns)
{
    int status;

    atomic_fetch_add(&asleep, 1);
    status = pl_os_real.sleep_until(word, expected, deadline_ns);
    pthread_mutex_lock(&gate);
    pthread_mutex_unlock(&gate);
    return status;
}

static bool has_slept(void *unused)
{
    (void)unused;
    return atomic_load(&asleep);
}

/* The pool is full, so nothing is opened for who waits until the other connection ends; then the
 * line serves, and is taken by one who passes. */
Test(query_yield, who_is_passed_at_a_line_that_was_to_serve_has_one_opened)
{
    struct peer *other = PEER();
    struct caller waiter = { .pool = NULL };
    struct query held = { 0 };
    struct pool_conn full, taken;

    os = pl_os_real;
    os.sleep_until = gated_sleep;
    pl_os_replace(&os);
    pool = MAKE_POOL(KEYED, .max_connections = 2, .barge_ms = 60000, .park_ms = 60000);
    cr_assert_eq(start_query(&held, pool, address, "Hold", NULL), POOL_OK);
    cr_assert(query_peer_wait_requests(peer, 1));
    cr_assert(borrow(pool, peer_address(other), &full));
    cr_assert(queue_caller(&waiter, pool, address, 3000));
    cr_assert(wait_until(has_slept, NULL, VERBS_SOON));
    query_peer_release(peer);
    cr_assert(wait_answered(&held));
    pthread_mutex_lock(&gate);
    pool_discard(&full);
    cr_expect(borrow(pool, address, &taken));
    pthread_mutex_unlock(&gate);
    cr_expect_eq(join_caller(&waiter), POOL_OK);
    cr_expect_eq(pool_conn_id(&taken), 1);
    pool_return(&taken);
    pool_return(&waiter.conn);
    pool_destroy(pool);
    pool = NULL;
    pl_os_replace(NULL);
    peer_stop(other);
}
