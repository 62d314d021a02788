/* test_pubsub.c: an actor on a real Redis: subscribed event by event, it hears every message, and
 * the borrowers of the same connection hear none. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "support/resp.h"
#include "support/servers.h"
#include "support/tests.h"
#include "support/verbs.h"

struct subscriber {
    struct resp_inbox setup, heard;
    atomic_uint messages, wrong;
    unsigned next;
};

static void on_subscribed(struct pool_conn *conn, enum pool_event event, struct pool_bytes bytes,
                          void *user)
{
    struct subscriber *subscriber = user;
    char message[RESP_TEXT];

    if (event != POOL_EV_READ)
        return;
    if (resp_feed(&subscriber->setup, bytes) || resp_next(&subscriber->setup, message) < 0)
        pool_conn_ready(conn, POOL_E_PROTOCOL);
    else if (subscriber->setup.size == 0)
        pool_conn_ready(conn, strstr(message, "subscribe") ? POOL_OK : POOL_E_PROTOCOL);
}

static int hear_messages(struct pool_conn *conn, struct pool_bytes bytes, void *user)
{
    struct subscriber *subscriber = user;
    char message[RESP_TEXT], expected[RESP_TEXT];
    int got;

    if (resp_feed(&subscriber->heard, bytes)) {
        atomic_fetch_add(&subscriber->wrong, 1);
        pool_conn_drain(conn);
        return 0;
    }
    while ((got = resp_next(&subscriber->heard, message)) > 0) {
        snprintf(expected, sizeof(expected),
                 "*3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$8\r\nnews%04u\r\n", subscriber->next++);
        if (strcmp(message, expected))
            atomic_fetch_add(&subscriber->wrong, 1);
        atomic_fetch_add(&subscriber->messages, 1);
    }
    if (got < 0)
        atomic_fetch_add(&subscriber->wrong, 1);
    return subscriber->heard.size ? POOL_LATER : 0;
}

static int subscribe(struct pool_conn *conn, struct pool_actor *actor, void *user)
{
    static const char command[] = "SUBSCRIBE news\r\n";

    actor->on_message = hear_messages;
    actor->user = user;
    if (pool_conn_watch(conn, on_subscribed, user) ||
        pool_write(conn, command, sizeof(command) - 1))
        return -1;
    return POOL_LATER;
}

struct counted {
    struct subscriber *subscriber;
    unsigned messages;
};

static bool has_messages(void *argument)
{
    struct counted *counted = argument;

    return atomic_load(&counted->subscriber->messages) >= counted->messages;
}

/* On a subscribed connection Redis answers PING with an array: "pong" and nothing. */
static int ping_subscribed(struct pool_conn *conn, void *user)
{
    char reply[RESP_TEXT];

    (void)user;
    return resp_ask(conn, reply, "PING") || strcmp(reply, "pong ");
}

static int publish_ten(struct pool_conn *conn, void *user)
{
    unsigned *next = user;
    char reply[RESP_TEXT];

    for (unsigned i = 0; i < 10; i++, ++*next)
        if (resp_ask(conn, reply, "PUBLISH news news%04u", *next) || strcmp(reply, "1"))
            return -1;
    return 0;
}

Test(pubsub, an_actor_hears_a_thousand_messages_and_borrowers_hear_none, .timeout = 120)
{
    struct server *redis = redis_start(NULL);
    static struct subscriber subscriber;
    struct counted counted = { .subscriber = &subscriber };
    struct pool *subscribed, *plain;
    unsigned next = 0;

    if (!redis)
        cr_skip("%s", server_why_not());
    subscribed = MAKE_POOL(.on_new_connection = subscribe, .user = &subscriber,
                           .max_per_address = 1, .park_ms = 2);
    plain = MAKE_POOL();
    cr_expect_eq(pool_communicate(subscribed, server_address(redis), ping_subscribed, NULL, NULL),
                 POOL_OK);
    for (unsigned i = 0; i < 100; i++) {
        cr_assert_eq(pool_communicate(plain, server_address(redis), publish_ten, &next, NULL),
                     POOL_OK);
        counted.messages = next;
        cr_assert(wait_until(has_messages, &counted, VERBS_SOON), "round %u", i);
        cr_assert_eq(
            pool_communicate(subscribed, server_address(redis), ping_subscribed, NULL, NULL),
            POOL_OK);
    }
    cr_expect_eq(subscriber.messages, 1000);
    cr_expect_eq(subscriber.wrong, 0);
    cr_expect_eq(STAT(subscribed, opened), 1);
    pool_destroy(subscribed);
    pool_destroy(plain);
    server_stop(redis);
}

/* The server dies: the next borrower subscribes anew, by the same hook. */
Test(pubsub, an_actor_is_attached_anew_after_the_server_came_back, .timeout = 120)
{
    struct server *redis = redis_start(NULL);
    static struct subscriber subscriber;
    struct counted counted = { .subscriber = &subscriber };
    struct pool *subscribed, *plain;
    unsigned next = 0;

    if (!redis)
        cr_skip("%s", server_why_not());
    subscribed = MAKE_POOL(.on_new_connection = subscribe, .user = &subscriber, .park_ms = 2);
    plain = MAKE_POOL();
    for (unsigned i = 0; i < 3; i++) {
        cr_expect_eq(
            pool_communicate(subscribed, server_address(redis), ping_subscribed, NULL, NULL),
            POOL_OK);
        cr_assert_eq(pool_communicate(plain, server_address(redis), publish_ten, &next, NULL),
                     POOL_OK);
        counted.messages = next;
        cr_assert(wait_until(has_messages, &counted, VERBS_SOON));
        cr_assert(server_restart(redis));
        cr_expect(WAIT_STAT(subscribed, total, 0));
        subscriber.setup.size = 0;
    }
    cr_expect_eq(subscriber.wrong, 0);
    pool_destroy(subscribed);
    pool_destroy(plain);
    server_stop(redis);
}
