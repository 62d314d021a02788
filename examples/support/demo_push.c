/* demo_push.c: messages that nobody asked for reach an actor, and never a borrower.
 *
 * The listening pool has one connection: a borrow that finds it in the middle of a message would
 * open another, and with two subscriptions each message comes twice. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "support/demo.h"

enum { ROUNDS = 20, PUSHES = 50 };

struct listener {
    struct { /* mux thread only */
        char half[32];
        size_t size;
    } on_mux;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    uint64_t heard, wrong; /* lock */
};

/* The peer numbers its messages from 1 each time that it is told to publish. */
static void hear(struct listener *listener, const char *line)
{
    pthread_mutex_lock(&listener->lock);
    if (!strncmp(line, "push ", 5) && strtoul(line + 5, NULL, 10) == listener->heard % PUSHES + 1)
        listener->heard++;
    else
        listener->wrong++;
    pthread_cond_signal(&listener->changed);
    pthread_mutex_unlock(&listener->lock);
}

static int on_message(struct pool_conn *conn, struct pool_bytes message, void *user)
{
    struct listener *listener = user;
    const char *bytes = message.data;

    (void)conn;
    for (size_t index = 0; index < message.size; index++) {
        listener->on_mux.half[listener->on_mux.size++ % 32] = bytes[index];
        if (bytes[index] == '\n') {
            listener->on_mux.size = 0;
            hear(listener, listener->on_mux.half);
        }
    }
    return listener->on_mux.size ? POOL_LATER : 0;
}

static int attach(struct pool_conn *conn, struct pool_actor *actor, void *user)
{
    (void)conn;
    actor->on_message = on_message;
    actor->user = user;
    return 0;
}

/* Sends a line and wants it confirmed: `prepare` subscribes so, and the publisher publishes. */
static int order(struct pool_conn *conn, const char *line)
{
    struct pool_bytes answer;

    return pool_send(conn, line, strlen(line)) || pool_recv_until(conn, "\n", 1, &answer);
}

static int subscribe(struct pool_conn *conn, void *user)
{
    (void)user;
    return order(conn, "subscribe\n");
}

static int publish(struct pool_conn *conn, void *user)
{
    return order(conn, user);
}

/* Answers whether `count` messages were heard in time. */
static bool wait_for(struct listener *listener, uint64_t count)
{
    struct timespec until;
    bool is_heard;

    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += 10;
    pthread_mutex_lock(&listener->lock);
    while (listener->heard < count && !listener->wrong &&
           !pthread_cond_clockwait(&listener->changed, &listener->lock, CLOCK_MONOTONIC, &until))
        ;
    is_heard = listener->heard >= count;
    pthread_mutex_unlock(&listener->lock);
    return is_heard;
}

/* The listening connection is borrowed between messages: its borrower must see answers only. */
static uint64_t listen_and_ask(struct demo *demo, struct listener *listener, struct pool *listening,
                               struct pool *talking)
{
    const char *address = demo->peer.address[DEMO_PUSH];
    char order_text[32], token[32];
    uint64_t right = demo_ask(demo, listening, address, "first");

    snprintf(order_text, sizeof(order_text), "publish %d\n", PUSHES);
    for (uint64_t round = 1; round <= ROUNDS; round++) {
        struct pool_error error = POOL_ERROR_INIT;

        if (pool_communicate(talking, address, publish, order_text, POOL_CALL(.error = &error)))
            show_trouble(&demo->show, error.text);
        else if (!wait_for(listener, round * PUSHES))
            show_trouble(&demo->show, "a message did not arrive");
        snprintf(token, sizeof(token), "round %d", (int)round);
        right += demo_ask(demo, listening, address, token);
        show_step(&demo->show);
    }
    return right;
}

void demo_push(struct demo *demo)
{
    struct listener listener = { .lock = PTHREAD_MUTEX_INITIALIZER,
                                 .changed = PTHREAD_COND_INITIALIZER };
    struct pool *listening =
        demo_pool(demo, POOL_OPTIONS(.on_new_connection = attach, .prepare = subscribe,
                                     .user = &listener, .park_ms = 10,
                                     .max_per_address = 1));
    struct pool *talking = demo_pool(demo, NULL);
    struct pool_stats stats = { .size = sizeof(stats) };
    uint64_t right;

    show_begin(&demo->show, "an idle connection is sent messages, 50 at a time", ROUNDS);
    right = listen_and_ask(demo, &listener, listening, talking);
    show_end(&demo->show);
    pool_stats(listening, &stats);
    pool_destroy(talking);
    pool_destroy(listening);

    show_check(&demo->show, "messages that the actor heard, in order", SHOW_EXACTLY,
               ROUNDS * PUSHES, listener.heard);
    show_check(&demo->show, "messages that the actor could not read", SHOW_EXACTLY, 0,
               listener.wrong);
    show_check(&demo->show, "answers to the borrower in between", SHOW_EXACTLY, ROUNDS + 1, right);
    show_check(&demo->show, "connections that all this took", SHOW_EXACTLY, 1, stats.opened);
}
