/* inbox.h: an actor for Redis channels: subscribes event-driven, then collects what is published.
 *
 * One inbox serves one connection. The functions that the pool calls run on the mux thread; waiting
 * is for any other thread. */
#ifndef EXAMPLES_INBOX_H
#define EXAMPLES_INBOX_H

#include <commpool/pool.h>
#include <pthread.h>
#include <stdbool.h>

struct inbox {
    const char *channel;
    struct {
        char bytes[1 << 17]; /* what came and is not handled yet; half a message, between calls */
        size_t size;
        bool is_subscribed;
    } on_mux; /* mux thread only */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    long heard; /* lock */
    bool is_gone; /* lock */
};

/* An inbox for one channel; it needs no destroying. */
#define INBOX_INIT(name) \
    { .channel = (name), .lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER }

/* The hook for pool_options.on_new_connection; `user` is the inbox. */
int inbox_open(struct pool_conn *conn, struct pool_actor *actor, void *user);

/* Waits until `count` messages were heard, the connection is gone, or `seconds` have passed;
 * answers how many were heard. */
long inbox_wait(struct inbox *inbox, long count, int seconds);

#endif
