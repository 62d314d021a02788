/* reply.c: see reply.h. */
#include "pool/reply.h"

#include <string.h>

#include "base/os.h"
#include "mux/mux.h"
#include "pool/exchange.h"
#include "pool/room.h"

#define SPARES 1024u                    /* small replies that a mux keeps */

static struct pool_error no_memory_error = {
    .size = sizeof(struct pool_error),
    .status = POOL_E_MEMORY,
    .phase = POOL_PHASE_REPLY,
    .outcome = POOL_MAYBE_SENT,
    .text = "no memory to say what became of the query",
};

/* Two stand for many, and nobody changes or frees them: every failure that there is no memory to
 * tell of, and every answer to what has none. */
static struct pool_reply no_memory = { .error = &no_memory_error }, nothing;

static struct pool_reply *from_link(struct pl_list *link)
{
    return pl_container(link, struct pool_reply, link);
}

/* The mux's whose batch this thread runs: there small replies come and go by the thousand. NULL: it
 * runs none. */
static struct pl_room *room_here(void)
{
    const struct pl_thread *self = pl_thread_current;
    const struct pool_mux *mux = self ? self->dispatching : NULL;

    return mux ? mux->extension : NULL;
}

static struct pool_reply *make_small(void)
{
    struct pl_room *room = room_here();
    struct pl_list *spare = room ? pl_list_pop_front(&room->on_mux.replies) : NULL;

    if (!spare)
        return pl_os->malloc(sizeof(struct pool_reply) + PL_REPLY_SMALL);
    room->on_mux.reply_count--;
    return from_link(spare);
}

static struct pool_reply *make(size_t size)
{
    struct pool_reply *reply = NULL;
    bool is_small = size <= PL_REPLY_SMALL;

    if (is_small)
        reply = make_small();
    else if (size <= SIZE_MAX - sizeof(*reply))
        reply = pl_os->malloc(sizeof(*reply) + size);
    if (!reply)
        return NULL;
    *reply = (struct pool_reply){ .size = size, .is_small = is_small };
    return reply;
}

struct pool_reply *pl_reply_make(struct pool_bytes bytes, bool is_failed)
{
    struct pool_reply *reply = make(bytes.size);

    if (!reply)
        return NULL;
    reply->is_failed = is_failed;
    if (bytes.size)
        memcpy(reply->bytes, bytes.data, bytes.size);
    return reply;
}

struct pool_reply *pl_reply_nothing(void)
{
    return &nothing;
}

struct pool_reply *pl_reply_of_failure(const struct pl_query *query, const char *address)
{
    struct pool_error *error = pl_zalloc(sizeof(*error));
    struct pool_reply *reply = error ? make(0) : NULL;

    if (!reply) {
        pl_os->free(error);
        return &no_memory;
    }
    error->size = sizeof(*error);
    pl_query_tell_failure(query, address, error);
    reply->error = error;
    return reply;
}

struct pool_reply *pl_reply_join(struct pool_bytes first, struct pool_bytes last, bool is_failed)
{
    struct pool_reply *whole = make(first.size + last.size);

    if (!whole)
        return NULL;
    whole->is_failed = is_failed;
    if (first.size)
        memcpy(whole->bytes, first.data, first.size);
    if (last.size)
        memcpy(whole->bytes + first.size, last.data, last.size);
    return whole;
}

void pl_reply_drop_spares(struct pl_list *spares)
{
    struct pl_list *link;

    while ((link = pl_list_pop_front(spares)))
        pl_os->free(from_link(link));
}

void pl_reply_drop_all(struct pl_list *replies)
{
    struct pl_list *link;

    while ((link = pl_list_pop_front(replies)))
        pool_reply_free(from_link(link));
}

struct pool_bytes pool_reply_bytes(const struct pool_reply *reply)
{
    if (!reply || reply->error)
        return (struct pool_bytes){ 0 };
    return (struct pool_bytes){ reply->bytes, reply->size };
}

const struct pool_error *pool_reply_error(const struct pool_reply *reply)
{
    return reply ? reply->error : NULL;
}

bool pool_reply_failed(const struct pool_reply *reply)
{
    return reply && reply->is_failed;
}

void pool_reply_free(struct pool_reply *reply)
{
    struct pl_room *room;

    if (!reply || reply == &no_memory || reply == &nothing)
        return;
    room = reply->is_small ? room_here() : NULL;
    if (PL_UNLIKELY(reply->error))
        pl_os->free(reply->error);
    if (!room || room->on_mux.reply_count >= SPARES) {
        pl_os->free(reply);
        return;
    }
    room->on_mux.reply_count++;
    pl_list_push_front(&room->on_mux.replies, &reply->link);
}
