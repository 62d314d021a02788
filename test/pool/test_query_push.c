/* test_query_push.c: whoever is told of a push on a connection that queries share gets its handle,
 * and with that nothing but its name: what it could do to the connection it would do to
 * strangers. */
#include <criterion/criterion.h>

#include <stdio.h>
#include <string.h>

#include "pool/query_scene.h"

/* What an actor tried, and what it was answered. */
struct attempts {
    atomic_uint pushes;
    struct pool_conn kept;
    uint64_t id;
    unsigned allowed; /* of the calls that must be refused */
};

static void note(struct attempts *attempts, const char *call, enum pool_status status)
{
    if (status == POOL_E_ARGUMENT)
        return;
    fprintf(stderr, "%s: %s\n", call, pool_status_name(status));
    attempts->allowed++;
}

static void on_event(struct pool_conn *conn, enum pool_event event, struct pool_bytes bytes,
                     void *user)
{
    (void)conn, (void)event, (void)bytes, (void)user;
}

static void try_to_talk(struct attempts *attempts, struct pool_conn *conn)
{
    struct iovec piece = { (char[]){ "PING" }, 4 };
    struct pool_bytes bytes;
    char got[16];
    size_t size;

    note(attempts, "pool_send", pool_send(conn, "PING", 4));
    note(attempts, "pool_sendv", pool_sendv(conn, &piece, 1));
    note(attempts, "pool_try_send", pool_try_send(conn, "PING", 4, &size));
    note(attempts, "pool_recv", pool_recv(conn, got, sizeof(got), &size));
    note(attempts, "pool_recv_exact", pool_recv_exact(conn, got, 1));
    note(attempts, "pool_recv_until", pool_recv_until(conn, "\n", 1, &bytes));
    note(attempts, "pool_try_recv", pool_try_recv(conn, got, sizeof(got), &size));
    note(attempts, "pool_ask", pool_ask(conn, POOL_TEXT("PING"), &bytes));
    note(attempts, "pool_conn_deadline", pool_conn_deadline(conn, 1));
    note(attempts, "pool_write", pool_write(conn, "PING", 4));
    note(attempts, "pool_conn_watch", pool_conn_watch(conn, on_event, NULL));
    note(attempts, "pool_conn_timeout", pool_conn_timeout(conn, POOL_READ, 1));
    note(attempts, "pool_conn_start_tls", pool_conn_start_tls(conn));
}

static void try_to_end(struct attempts *attempts, const struct pool_conn *conn)
{
    struct pool_conn copy = *conn;
    int fd = -1;

    note(attempts, "pool_return", pool_return(&copy));
    copy = *conn;
    note(attempts, "pool_discard", pool_discard(&copy));
    copy = *conn;
    note(attempts, "pool_detach", pool_detach(&copy));
    copy = *conn;
    note(attempts, "pool_release_fd", pool_release_fd(&copy, &fd));
}

static int on_push(struct pool_conn *conn, struct pool_bytes message, void *user)
{
    struct attempts *attempts = user;

    (void)message;
    attempts->kept = *conn;
    attempts->id = pool_conn_id(conn);
    try_to_talk(attempts, conn);
    try_to_end(attempts, conn);
    pool_conn_ready(conn, POOL_OK);
    atomic_fetch_add(&attempts->pushes, 1);
    return POOL_LATER;
}

static int attach(struct pool_conn *conn, struct pool_actor *actor, void *user)
{
    (void)conn;
    actor->on_message = on_push;
    actor->user = user;
    return 0;
}

static bool has_push(void *attempts)
{
    return atomic_load(&((struct attempts *)attempts)->pushes) > 0;
}

static struct attempts attempts;

static void begin(void)
{
    QUERY_SCENE();
    attempts = (struct attempts){ 0 };
    pool = MAKE_POOL(.codec = pool_codec_length(), .max_per_address = 1,
                     .on_new_connection = attach, .user = &attempts);
}

TestSuite(query_push, .init = begin, .fini = query_scene_end, .timeout = 60);

/* A query is under way while the actor is told, and after that, when the handle was kept. */
static void expect_a_name_only(void)
{
    struct query held = { 0 }, other = { 0 };
    unsigned before = query_peer_requests(peer);

    cr_assert_eq(start_query(&held, pool, address, "Hheld", NULL), POOL_OK);
    cr_assert(query_peer_wait_requests(peer, before + 1));
    query_peer_push(peer, "news");
    cr_assert(wait_until(has_push, &attempts, VERBS_SOON));
    cr_expect_neq(attempts.id, 0);
    try_to_talk(&attempts, &attempts.kept);
    try_to_end(&attempts, &attempts.kept);
    cr_expect_eq(attempts.allowed, 0);
    ask_and_wait(&other, pool, address, "other", NULL);
    cr_expect(is_answered_with(&other, "other"));
    query_peer_release(peer);
    cr_assert(wait_answered(&held));
    cr_expect(is_answered_with(&held, "Hheld"));
    cr_expect_eq(query_peer_requests(peer), before + 2, "nothing else was sent");
    cr_expect_eq(query_peer_accepted(peer), 1);
    cr_expect_eq(STAT(pool, opened), 1);
}

Test(query_push, who_is_told_cannot_drive_a_line_that_the_mux_opened)
{
    expect_a_name_only();
}

Test(query_push, who_is_told_cannot_drive_a_line_that_a_thread_opened)
{
    struct query first = { 0 };

    ask_and_wait(&first, pool, address, "first", NULL);
    cr_expect(is_answered_with(&first, "first"));
    expect_a_name_only();
}

/* ---- pushes that come when no query is under way any more */

static atomic_uint whole, other;

static int count_news(struct pool_conn *conn, struct pool_bytes message, void *user)
{
    (void)conn, (void)user;
    atomic_fetch_add(message.size == 4 && !memcmp(message.data, "news", 4) ? &whole : &other, 1);
    return 0;
}

static int attach_counter(struct pool_conn *conn, struct pool_actor *actor, void *user)
{
    (void)conn, (void)user;
    actor->on_message = count_news;
    return 0;
}

static bool has_come(void *unused)
{
    (void)unused;
    return atomic_load(&whole) + atomic_load(&other) == query_peer_requests(peer) * 2;
}

/* A thread reads its own reply, so nobody reads after it. */
static void ask_and_push(struct pool *from)
{
    struct query query = { 0 };

    ask_and_wait(&query, from, query_peer_address(peer), "x", NULL);
    cr_assert(is_answered_with(&query, "x"));
    for (unsigned i = 0; i < 2; i++)
        query_peer_push(peer, "news");
    cr_expect(wait_until(has_come, NULL, VERBS_SOON));
}

Test(query_push, what_comes_before_the_line_is_given_back_is_told_message_by_message)
{
    struct pool *keeping = MAKE_POOL(.codec = pool_codec_length(), .park_ms = 300,
                                     .on_new_connection = attach_counter);

    for (unsigned i = 0; i < 4; i++)
        ask_and_push(keeping);
    cr_expect_eq(atomic_load(&whole), 8);
    cr_expect_eq(atomic_load(&other), 0);
    cr_expect(WAIT_STAT(keeping, idle, 1), "it is given back when no more come");
    pool_destroy(keeping);
}

/* ---- an actor that is slow */

#define MOST 1000u /* bytes that may wait for it */

static atomic_uint found, heard;
static atomic_bool may_go_on;

static long count_next(void *state, struct pool_bytes in, bool at_end, uint64_t hint,
                       struct pool_message *message)
{
    long taken = pool_codec_length()->next(state, in, at_end, hint, message);

    if (taken > 0 && message->kind == POOL_PUSH)
        atomic_fetch_add(&found, 1);
    return taken;
}

static bool is_let_on(void *unused)
{
    (void)unused;
    return atomic_load(&may_go_on);
}

static int hold(struct pool_conn *conn, struct pool_bytes message, void *user)
{
    (void)conn, (void)message, (void)user;
    atomic_fetch_add(&heard, 1);
    wait_until(is_let_on, NULL, VERBS_SOON);
    return 0;
}

static int attach_slow(struct pool_conn *conn, struct pool_actor *actor, void *user)
{
    (void)conn, (void)user;
    actor->on_message = hold;
    return 0;
}

static bool is_one_heard(void *unused)
{
    (void)unused;
    return atomic_load(&heard) == 1;
}

static bool are_all_heard(void *unused)
{
    (void)unused;
    return atomic_load(&heard) == 5;
}

static bool are_too_many_found(void *unused)
{
    (void)unused;
    return atomic_load(&found) == 4;
}

/* The thread that waits for its reply reads on while the actor is held up. */
Test(query_push, those_that_are_told_late_are_received_late)
{
    struct pool_codec counting = *pool_codec_length();
    struct asker asker = { .query = { 0 } };
    char body[MOST * 3 / 10 + 1];
    struct pool *slow;

    memset(body, 'p', sizeof(body) - 1);
    body[sizeof(body) - 1] = 0;
    counting.next = count_next;
    slow = MAKE_POOL(.codec = &counting, .max_message = MOST, .on_new_connection = attach_slow);
    cr_assert(start_asker(&asker, slow, query_peer_address(peer), "Hheld",
                          POOL_CALL(.timeout_ms = VERBS_SOON)));
    cr_assert(query_peer_wait_requests(peer, 1));
    query_peer_push(peer, body);
    cr_assert(wait_until(is_one_heard, NULL, VERBS_SOON));
    for (unsigned i = 0; i < 4; i++)
        query_peer_push(peer, body);
    query_peer_release(peer);
    cr_expect(wait_until(are_too_many_found, NULL, VERBS_SOON));
    atomic_store(&may_go_on, true);
    cr_expect_eq(join_asker(&asker), POOL_OK);
    cr_expect(is_answered_with(&asker.query, "Hheld"));
    cr_expect(wait_until(are_all_heard, NULL, VERBS_SOON));
    pool_destroy(slow);
}
