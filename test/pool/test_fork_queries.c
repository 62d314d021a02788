/* test_fork_queries.c: a callback of queries may fork and come back in the child. Of what was to be
 * told beside it nothing is told there, since the parent tells it; a query that waits there ends
 * with POOL_E_FORKED. */
#include <criterion/criterion.h>
#include <unistd.h>

#include "support/child.h"
#include "support/queries.h"

#define COUNT 10u

static struct scene {
    struct query_peer *peer;
    struct pool_mux *mux; /* NULL: one of its own */
    struct pool *pool;
    pid_t child;
    bool is_child;
    unsigned told; /* callbacks */
    unsigned told_in_child; /* after the one that forked */
    struct pool_ticket *tickets[COUNT];
} scene;

static void tell(void)
{
    scene.told++;
    scene.told_in_child += scene.is_child;
    if (scene.child || scene.is_child)
        return;
    scene.child = child_fork();
    if (scene.child)
        return;
    scene.is_child = true;
    child_watch_door();
}

static void on_reply(struct pool_reply *reply, void *user)
{
    (void)user;
    pool_reply_free(reply);
    tell();
}

static void ignore_reply(struct pool_reply *reply, void *user)
{
    (void)user;
    pool_reply_free(reply);
    scene.told_in_child += scene.is_child;
}

static void on_part(struct pool_bytes part, void *user)
{
    (void)part, (void)user;
    tell();
}

static void on_orphan(uint64_t id, uint64_t key, struct pool_bytes body, void *user)
{
    (void)id, (void)key, (void)body, (void)user;
    tell();
}

static void on_request(struct pool_responder *responder, struct pool_bytes request, void *user)
{
    (void)user;
    tell();
    pool_respond(responder, request);
}

static int on_push(struct pool_conn *conn, struct pool_bytes message, void *user)
{
    (void)conn, (void)message, (void)user;
    tell();
    return 0;
}

static int attach(struct pool_conn *conn, struct pool_actor *actor, void *user)
{
    (void)conn, (void)user;
    actor->on_message = on_push;
    return 0;
}

/* ---- the stage */

static int end_in_child(enum pool_status status)
{
    CHILD_NEEDS(status == POOL_E_FORKED);
    CHILD_NEEDS(scene.told_in_child == 0);
    pool_destroy(scene.pool);
    pool_mux_destroy(scene.mux);
    CHILD_NEEDS(scene.told_in_child == 0);
    CHILD_NEEDS(child_door_calls() == 0);
    return 0;
}

/* A child of a thread beside which others run gets the address sanitizer's own locks as they
 * were. */
static void begin(void)
{
#ifdef __SANITIZE_ADDRESS__
    cr_skip("the sanitizer's allocator does not survive a fork beside running threads");
#endif
    scene = (struct scene){ .peer = QUERY_PEER() };
}

/* In a loop of the program's own: what comes before it goes on is told in one batch. */
static void begin_loop(const struct pool_options *options)
{
    struct pool_options own = *options;

    begin();
    cr_assert_eq(pool_mux_create(&scene.mux), POOL_OK);
    own.mux = scene.mux;
    scene.pool = make_pool(&own);
}

#define BEGIN_LOOP(...) begin_loop(POOL_OPTIONS(.codec = pool_codec_length(), __VA_ARGS__))

static void end(void)
{
    pool_destroy(scene.pool);
    pool_mux_destroy(scene.mux);
    query_peer_stop(scene.peer);
}

TestSuite(fork_queries, .fini = end, .timeout = 120);

static void ask(const char *body, pool_reply_fn *told, const struct pool_call *call,
                struct pool_ticket **ticket)
{
    cr_assert_eq(pool_query_async(scene.pool, query_peer_address(scene.peer), text_bytes(body),
                                  told, NULL, call, ticket),
                 POOL_OK);
}

static void dispatch(void)
{
    enum pool_status status = pool_mux_dispatch(scene.mux, 10);

    if (scene.is_child)
        _exit(end_in_child(status));
    cr_assert_eq(status, POOL_OK);
}

/* Dispatches until the peer has so many requests. */
static void dispatch_requests(unsigned count)
{
    uint64_t start_ms = now_ms();

    while (query_peer_requests(scene.peer) < count && elapsed_ms(start_ms) < VERBS_SOON)
        dispatch();
    cr_assert_eq(query_peer_requests(scene.peer), count);
}

/* The parent tells all, once each. */
static void expect_all_told(unsigned count)
{
    uint64_t start_ms = now_ms();

    while (scene.told < count && elapsed_ms(start_ms) < VERBS_SOON)
        dispatch();
    cr_expect_eq(scene.told, count);
    cr_expect_eq(child_status(scene.child), 0);
}

Test(fork_queries, a_reply_that_forks_leaves_the_others_to_the_parent)
{
    BEGIN_LOOP(.max_inflight = COUNT);
    for (unsigned i = 0; i < COUNT; i++)
        ask("Nnever", on_reply, NULL, &scene.tickets[i]);
    dispatch_requests(COUNT);
    for (unsigned i = 0; i < COUNT; i++) {
        cr_expect(pool_ticket_cancel(scene.tickets[i]));
        pool_ticket_free(scene.tickets[i]);
    }
    expect_all_told(COUNT);
}

Test(fork_queries, a_part_that_forks_leaves_the_others_to_the_parent)
{
    BEGIN_LOOP(.max_inflight = COUNT);
    ask("P100", ignore_reply, POOL_CALL(.timeout_ms = VERBS_SOON, .on_part = on_part), NULL);
    dispatch_requests(1);
    expect_all_told(99);
}

Test(fork_queries, an_orphan_that_forks_leaves_the_others_to_the_parent)
{
    BEGIN_LOOP(.on_orphan = on_orphan);
    for (unsigned i = 0; i < COUNT; i++)
        cr_assert_eq(pool_post_request(scene.pool, query_peer_address(scene.peer),
                                       text_bytes("Hheld"), NULL),
                     POOL_OK);
    dispatch_requests(COUNT);
    query_peer_release(scene.peer);
    expect_all_told(COUNT);
}

Test(fork_queries, a_request_of_the_peers_that_forks_leaves_the_others_to_the_parent)
{
    BEGIN_LOOP(.on_request = on_request);
    for (unsigned i = 0; i < COUNT; i++)
        ask("Aask", ignore_reply, NULL, NULL);
    dispatch_requests(COUNT);
    expect_all_told(COUNT);
}

Test(fork_queries, an_actor_that_forks_leaves_the_other_pushes_to_the_parent)
{
    BEGIN_LOOP(.on_new_connection = attach);
    ask("Nnever", ignore_reply, POOL_CALL(.timeout_ms = POOL_NONE), &scene.tickets[0]);
    dispatch_requests(1);
    for (unsigned i = 0; i < COUNT; i++)
        query_peer_push(scene.peer, "news");
    expect_all_told(COUNT);
    pool_ticket_free(scene.tickets[0]);
}

/* The thread that waits tells its parts itself, and waits for ever. */
static void expect_no_end_of_waiting(const char *body)
{
    struct query query = { 0 };

    begin();
    scene.pool = MAKE_POOL(.codec = pool_codec_length());
    ask_and_wait(&query, scene.pool, query_peer_address(scene.peer), body,
                 POOL_CALL(.timeout_ms = POOL_NONE, .flags = POOL_SAFE_TO_REPEAT,
                           .on_part = on_part));
    if (scene.is_child)
        _exit(end_in_child(query.error.status == query.status ? query.status : POOL_OK));
    cr_expect(is_answered_with(&query, "99;"));
    cr_expect_eq(scene.told, 99);
    cr_expect_eq(child_status(scene.child), 0);
}

Test(fork_queries, a_part_that_forks_ends_the_wait_of_its_thread_in_the_child)
{
    expect_no_end_of_waiting("P100");
}
