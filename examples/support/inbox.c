/* inbox.c: an actor for Redis channels: subscribes event-driven, then collects what is
 * published. */
#include "support/inbox.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#include "support/resp.h"

static void hear(struct inbox *inbox, struct pool_bytes message)
{
    pthread_mutex_lock(&inbox->lock);
    inbox->heard++;
    printf("heard: %.*s\n", (int)message.size, (const char *)message.data);
    pthread_cond_signal(&inbox->changed);
    pthread_mutex_unlock(&inbox->lock);
}

/* Takes in what came and handles each whole message; false when it makes no sense. */
static bool take(struct inbox *inbox, struct pool_bytes bytes)
{
    struct pool_bytes parts[RESP_PARTS];
    char *start = inbox->on_mux.bytes;
    size_t *size = &inbox->on_mux.size;
    long taken;
    int count;

    if (bytes.size > sizeof(inbox->on_mux.bytes) - *size)
        return false;
    memcpy(start + *size, bytes.data, bytes.size);
    *size += bytes.size;
    while ((taken = resp_array((struct pool_bytes){ start, *size }, parts, &count)) > 0) {
        if (resp_is(parts[0], "subscribe"))
            inbox->on_mux.is_subscribed = true;
        else if (count == 3 && resp_is(parts[0], "message"))
            hear(inbox, parts[2]);
        *size -= (size_t)taken;
        memmove(start, start + taken, *size);
    }
    return taken == 0;
}

/* Until the connection is ready, what happens on it comes here. */
static void on_event(struct pool_conn *conn, enum pool_event event, struct pool_bytes bytes,
                     void *user)
{
    struct inbox *inbox = user;

    if (event == POOL_EV_TIMEOUT_READ)
        pool_conn_ready(conn, POOL_E_TIMEOUT);
    else if (event == POOL_EV_READ && !take(inbox, bytes))
        pool_conn_ready(conn, POOL_E_PROTOCOL);
    else if (event == POOL_EV_READ && inbox->on_mux.is_subscribed && !inbox->on_mux.size)
        pool_conn_ready(conn, POOL_OK);
}

/* Once it is ready and idle, what arrives comes here. */
static int on_message(struct pool_conn *conn, struct pool_bytes message, void *user)
{
    struct inbox *inbox = user;

    if (!take(inbox, message))
        pool_conn_drain(conn);
    return inbox->on_mux.size ? POOL_LATER : 0;
}

static void on_close(uint64_t connection, const struct pool_error *error, void *user)
{
    struct inbox *inbox = user;

    if (error)
        fprintf(stderr, "connection %llu: %s\n", (unsigned long long)connection, error->text);
    pthread_mutex_lock(&inbox->lock);
    inbox->is_gone = true;
    pthread_cond_signal(&inbox->changed);
    pthread_mutex_unlock(&inbox->lock);
}

int inbox_open(struct pool_conn *conn, struct pool_actor *actor, void *user)
{
    struct inbox *inbox = user;
    char command[256];
    int size = snprintf(command, sizeof(command), "SUBSCRIBE %s\r\n", inbox->channel);

    inbox->on_mux.size = 0;
    inbox->on_mux.is_subscribed = false;
    actor->on_message = on_message;
    actor->on_close = on_close;
    actor->user = inbox;
    if (size >= (int)sizeof(command) || pool_conn_watch(conn, on_event, inbox) != POOL_OK ||
        pool_conn_timeout(conn, POOL_READ, 5000) != POOL_OK ||
        pool_write(conn, command, (size_t)size) != POOL_OK)
        return -1;
    return POOL_LATER;
}

long inbox_wait(struct inbox *inbox, long count, int seconds)
{
    struct timespec until;
    long heard;

    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += seconds;
    pthread_mutex_lock(&inbox->lock);
    while (inbox->heard < count && !inbox->is_gone &&
           !pthread_cond_clockwait(&inbox->changed, &inbox->lock, CLOCK_MONOTONIC, &until))
        ;
    heard = inbox->heard;
    pthread_mutex_unlock(&inbox->lock);
    return heard;
}
