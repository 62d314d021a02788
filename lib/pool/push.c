/* push.c: see push.h. A push knows the channel of its actor, which ends by a post of its own behind
 * this one: so it is there when the push is told, whatever became of the loan and its
 * connection. */
#include "pool/push.h"

#include <string.h>

#include "base/os.h"
#include "pool/channel.h"
#include "pool/exchange.h"
#include "pool/unasked.h"

struct push {
    struct pl_post post;
    struct pl_channel *channel;
    struct pool_conn conn;              /* the loan's, which may have ended */
    size_t size;
    char bytes[];
};

/* An empty one is not for nothing: a peer may send many. */
static size_t cost_of(const struct push *push)
{
    return sizeof(*push) + push->size;
}

static void on_push(struct pl_post *post)
{
    struct push *push = pl_container(post, struct push, post);
    struct pl_channel *channel = push->channel;
    struct pool *pool = channel->pool;

    atomic_fetch_sub(&channel->untold, cost_of(push));
    channel->actor.on_message(&push->conn, (struct pool_bytes){ push->bytes, push->size },
                              channel->actor.user);
    if (!pl_pool_is_forked(pool))
        pl_os->free(push);
}

static struct push *make(struct pool_conn conn, struct pool_bytes bytes)
{
    struct push *push = NULL;

    if (bytes.size <= SIZE_MAX - sizeof(*push))
        push = pl_os->malloc(sizeof(*push) + bytes.size);
    if (!push)
        return NULL;
    *push = (struct push){ .post = { .run = on_push }, .conn = conn, .size = bytes.size };
    if (bytes.size)
        memcpy(push->bytes, bytes.data, bytes.size);
    return push;
}

/* The pool's end may take the channel away, under the peer lock; its actor was told then. */
static enum pool_status post(struct pl_connection *connection, struct push *push)
{
    struct pl_peer *peer = connection->peer;
    enum pool_status status = POOL_E_FULL;
    size_t most = connection->limits.max_message, untold;
    struct pl_channel *channel;

    pthread_mutex_lock(&peer->lock);
    channel = pl_channel_of(connection);
    untold = channel ? atomic_load(&channel->untold) : 0;
    if (channel && untold <= most && push->size <= most - untold) {
        push->channel = channel;
        push->post.owner = channel->pool;
        atomic_fetch_add(&channel->untold, cost_of(push));
        pl_mux_post(channel->pool->mux, &push->post);
        push = NULL;
    }
    pthread_mutex_unlock(&peer->lock);
    if (!push || !channel)
        status = POOL_OK;
    pl_os->free(push);
    return status;
}

static enum pool_status tell_actor(struct pl_connection *connection, struct pool_conn conn,
                                   struct pool_bytes bytes)
{
    struct push *push = make(conn, bytes);

    return push ? post(connection, push) : POOL_E_MEMORY;
}

/* Where queries have no exchange any more, nobody is told. */
static void tell_orphan(struct pl_connection *connection, const struct pool_message *message)
{
    struct pl_exchange *exchange = pl_exchange_of(connection->peer);
    struct pl_wakes wakes = { 0 };

    if (!exchange || pl_exchange_enter(exchange, true))
        return;
    pl_unasked_stray(exchange, connection->id, message);
    pl_exchange_attend_later(exchange); /* it may have nothing else to do */
    pl_exchange_unlock(exchange, &wakes);
}

enum pool_status pl_push_tell(struct pl_connection *connection, struct pool_conn conn,
                              const struct pool_message *message)
{
    if (pl_connection_is_detached(connection))
        return POOL_OK;
    if (pl_channel_has_actor(connection))
        return tell_actor(connection, conn, message->body);
    tell_orphan(connection, message);
    return POOL_OK;
}
