/* test_query_fork.c: in a child of fork() the parent's queries are not asked, answered or canceled,
 * and in the parent they go on as if nothing had been. */
#include <criterion/criterion.h>
#include <string.h>
#include <sys/socket.h>

#include "support/child.h"
#include "support/queries.h"

#define HELD 50u

/* Queries of every kind under way over two lines, a reply that was kept, and a request of the
 * peer's. */
struct parent {
    struct query_peer *peer;
    struct pool *pool;
    const char *address;
    struct query held[HELD], canceled, asked_back;
    struct asker asker;
    struct pool_reply *reply;
    struct pool_responder *responder;
    atomic_bool is_asked;
};

static void keep_responder(struct pool_responder *responder, struct pool_bytes body, void *user)
{
    struct parent *parent = user;

    (void)body;
    parent->responder = responder;
    atomic_store(&parent->is_asked, true);
}

static bool is_asked(void *argument)
{
    return atomic_load(&((struct parent *)argument)->is_asked);
}

static void set_up(struct parent *parent)
{
    parent->peer = QUERY_PEER();
    parent->address = query_peer_address(parent->peer);
    parent->pool = MAKE_POOL(.codec = pool_codec_length(), .max_inflight = HELD / 2 + 10,
                             .on_request = keep_responder, .user = parent);
    cr_assert_eq(pool_query(parent->pool, parent->address, text_bytes("kept"), NULL,
                            &parent->reply),
                 POOL_OK);
    cr_assert_eq(start_query(&parent->asked_back, parent->pool, parent->address, "Ask", NULL),
                 POOL_OK);
    for (unsigned i = 0; i < HELD; i++)
        cr_assert_eq(start_query(&parent->held[i], parent->pool, parent->address, "Held", NULL),
                     POOL_OK);
    parent->canceled.has_ticket = true;
    cr_assert_eq(start_query(&parent->canceled, parent->pool, parent->address, "Held", NULL),
                 POOL_OK);
    cr_assert(start_asker(&parent->asker, parent->pool, parent->address, "Held", NULL));
    cr_assert(query_peer_wait_requests(parent->peer, HELD + 4));
    cr_assert(wait_until(is_asked, parent, VERBS_SOON));
}

/* All are answered, over the connections that there were. */
static void expect_undisturbed(struct parent *parent, unsigned accepted)
{
    for (unsigned i = 0; i < HELD; i++)
        cr_expect_eq(parent->held[i].told, 0);
    cr_expect(pool_ticket_cancel(parent->canceled.ticket));
    pool_ticket_free(parent->canceled.ticket);
    cr_expect_eq(query_peer_release(parent->peer), HELD + 2);
    for (unsigned i = 0; i < HELD; i++)
        cr_expect(wait_answered(&parent->held[i]) && is_answered_with(&parent->held[i], "Held"));
    cr_expect_eq(join_asker(&parent->asker), POOL_OK);
    cr_expect(wait_answered(&parent->canceled));
    cr_expect(has_failed_with(&parent->canceled, POOL_E_CANCELED));
    pool_respond(parent->responder, text_bytes("of the parent"));
    cr_expect(wait_answered(&parent->asked_back));
    cr_expect(is_answered_with(&parent->asked_back, "of the parent"));
    cr_expect_eq(query_peer_accepted(parent->peer), accepted);
    cr_expect_eq(STAT(parent->pool, opened), 2);
}

static void tear_down(struct parent *parent)
{
    pool_reply_free(parent->reply);
    pool_destroy(parent->pool);
    cr_expect(query_peer_wait_open(parent->peer, 0));
    query_peer_stop(parent->peer);
}

static void take_no_reply(struct pool_reply *reply, void *user)
{
    (void)reply, (void)user;
    abort();
}

static int use_the_pool(void *argument)
{
    struct parent *parent = argument;
    struct pool_error error = POOL_ERROR_INIT;
    struct pool_reply *reply = NULL;
    struct pool_ticket *ticket = NULL;

    child_watch_door();
    CHILD_NEEDS(pool_query(parent->pool, parent->address, text_bytes("x"), NULL, &reply) ==
                POOL_E_FORKED);
    CHILD_NEEDS(pool_query(parent->pool, parent->address, text_bytes("x"),
                           POOL_CALL(.error = &error), &reply) == POOL_E_FORKED);
    CHILD_NEEDS(!reply && error.status == POOL_E_FORKED && error.outcome == POOL_NOT_SENT);
    CHILD_NEEDS(pool_query_async(parent->pool, parent->address, text_bytes("x"), take_no_reply,
                                 NULL, NULL, NULL) == POOL_E_FORKED);
    CHILD_NEEDS(pool_query_async(parent->pool, parent->address, text_bytes("x"), take_no_reply,
                                 NULL, POOL_CALL(.timeout_ms = 5), &ticket) == POOL_E_FORKED);
    CHILD_NEEDS(!ticket);
    CHILD_NEEDS(pool_post_request(parent->pool, parent->address, text_bytes("x"), NULL) ==
                POOL_E_FORKED);
    CHILD_NEEDS(!pool_ticket_cancel(parent->canceled.ticket) && !parent->canceled.told);
    pool_respond(parent->responder, text_bytes("of the child"));
    CHILD_NEEDS(pool_reply_bytes(parent->reply).size == 4 &&
                !memcmp(pool_reply_bytes(parent->reply).data, "kept", 4));
    pool_reply_free(parent->reply);
    CHILD_NEEDS(child_door_calls() == 0);
    return 0;
}

Test(query_fork, the_child_is_refused_and_the_parents_queries_go_on)
{
    static struct parent parent;

    set_up(&parent);
    cr_expect_eq(child_run(use_the_pool, &parent), 0);
    expect_undisturbed(&parent, 2);
    tear_down(&parent);
}

static int destroy_and_ask(void *argument)
{
    struct parent *parent = argument;
    struct query query = { 0 };
    struct pool *own;

    child_watch_door();
    pool_destroy(parent->pool);
    CHILD_NEEDS(!parent->canceled.told && !parent->held[0].told);
    CHILD_NEEDS(child_door_calls() == 0);
    own = MAKE_POOL(.codec = pool_codec_length());
    CHILD_NEEDS(own);
    CHILD_NEEDS(ask_and_wait(&query, own, parent->address, "mine", NULL) == POOL_OK);
    CHILD_NEEDS(is_answered_with(&query, "mine"));
    pool_destroy(own);
    return 0;
}

Test(query_fork, the_child_ends_the_parents_pool_and_asks_over_one_of_its_own)
{
    static struct parent parent;

    set_up(&parent);
    cr_expect_eq(child_run(destroy_and_ask, &parent), 0);
    expect_undisturbed(&parent, 3);
    tear_down(&parent);
}

/* Forked while threads ask, again and again: nobody of them notices. */
struct storm {
    struct pool *pool;
    const char *address;
    atomic_uint wrong, good;
};

static int refuse(void *argument)
{
    struct storm *storm = argument;
    struct pool_reply *reply;

    CHILD_NEEDS(pool_query(storm->pool, storm->address, text_bytes("x"), NULL, &reply) ==
                POOL_E_FORKED);
    pool_destroy(storm->pool);
    return 0;
}

static void ask_or_fork(unsigned index, void *argument)
{
    struct storm *storm = argument;
    struct query query;

    for (unsigned i = 0; i < (index ? 2000 : 30) / slowness(); i++) {
        if (!index) {
            atomic_fetch_add(&storm->wrong, child_run(refuse, storm) != 0);
            continue;
        }
        query = (struct query){ 0 };
        ask_and_wait(&query, storm->pool, storm->address, index % 2 ? "odd" : "even", NULL);
        atomic_fetch_add(is_answered_with(&query, index % 2 ? "odd" : "even") ? &storm->good
                                                                              : &storm->wrong,
                         1);
    }
}

Test(query_fork, threads_that_ask_do_not_notice_forks, .timeout = 60)
{
    struct query_peer *peer = QUERY_PEER();
    struct storm storm = { .address = query_peer_address(peer) };

    storm.pool = MAKE_POOL(.codec = pool_codec_length());
    cr_assert(run_threads(5, ask_or_fork, &storm));
    cr_expect_eq(storm.wrong, 0);
    cr_expect_eq(storm.good, 4 * (2000 / slowness()));
    pool_destroy(storm.pool);
    query_peer_stop(peer);
}
