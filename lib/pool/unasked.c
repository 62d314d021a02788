/* unasked.c: see unasked.h. */
#include "pool/line.h"
#include "pool/unasked.h"

#include <string.h>

#include "base/os.h"
#include "pool/channel.h"
#include "pool/responder.h"

enum kind { ORPHAN, PUSH, REQUEST };

struct unasked {
    struct pl_list link;
    enum kind kind;
    struct pl_line *line;               /* of a push or a request; its bytes count with it while its
                                         * loan is this one */
    struct pool_conn conn;
    uint64_t id;                        /* of the connection */
    uint64_t key;
    struct pool_responder *responder;   /* of a request */
    size_t size;
    char bytes[];
};

static struct unasked *of_link(struct pl_list *link)
{
    return pl_container(link, struct unasked, link);
}

static size_t cost_of(const struct unasked *unasked)
{
    return sizeof(*unasked) + unasked->size +
           (unasked->kind == REQUEST ? PL_RESPONDER_MOST : 0);
}

static struct unasked *keep(struct pl_exchange *exchange, enum kind kind,
                            const struct pool_message *message)
{
    size_t size = message->body.size;
    struct unasked *unasked = pl_os->malloc(sizeof(*unasked) + size);

    if (!unasked)
        return NULL;
    *unasked = (struct unasked){ .kind = kind, .key = message->key, .size = size };
    if (size)
        memcpy(unasked->bytes, message->body.data, size);
    pl_list_push_back(&exchange->unasked, &unasked->link);
    pl_exchange_attend_later(exchange);
    return unasked;
}

/* ---- those that wait for nobody to hear them, however many come */

static bool is_room_for(const struct pl_exchange *exchange, size_t size)
{
    size_t most = exchange->pool->settings.options.max_message;

    return exchange->orphan_size <= most && size <= most - exchange->orphan_size;
}

void pl_unasked_stray(struct pl_exchange *exchange, uint64_t connection,
                      const struct pool_message *message)
{
    struct unasked *unasked;

    exchange->orphans++;
    if (!exchange->pool->settings.options.on_orphan || !is_room_for(exchange, message->body.size))
        return;
    unasked = keep(exchange, ORPHAN, message);
    if (!unasked)
        return;
    unasked->id = connection;
    exchange->orphan_size += cost_of(unasked);
}

void pl_unasked_orphan(struct pl_line *line, const struct pool_message *message)
{
    pl_unasked_stray(line->exchange, line->connection->id, message);
}

/* ---- those of which a line hears no more while too many wait */

static struct unasked *keep_on(struct pl_line *line, enum kind kind,
                               const struct pool_message *message)
{
    struct unasked *unasked = keep(line->exchange, kind, message);

    if (!unasked)
        return NULL;
    unasked->line = line;
    unasked->conn = line->conn;
    line->untold += cost_of(unasked);
    return unasked;
}

/* It waits until requests before it are answered. */
static void keep_back(struct pl_line *line, struct unasked *unasked)
{
    pl_list_unlink(&unasked->link);
    pl_list_push_back(&line->kept_back, &unasked->link);
    line->kept += unasked->kind == REQUEST;
}

/* It is told now, or never. */
static void uncount(struct pl_exchange *exchange, const struct unasked *unasked)
{
    struct pl_line *line = unasked->line;

    if (!line)
        exchange->orphan_size -= cost_of(unasked);
    else if (atomic_load(&line->exchange) == exchange && line->conn.slot == unasked->conn.slot &&
             line->conn.serial == unasked->conn.serial)
        pl_line_uncount(line, cost_of(unasked));
}

bool pl_unasked_push(struct pl_line *line, const struct pool_message *message)
{
    struct unasked *unasked;

    if (!pl_channel_has_actor(line->connection)) {
        pl_unasked_orphan(line, message);
        return true;
    }
    unasked = keep_on(line, PUSH, message);
    if (unasked && line->kept)
        keep_back(line, unasked);
    return unasked;
}

enum pool_status pl_unasked_request(struct pl_line *line, const struct pool_message *message)
{
    struct unasked *unasked;

    if (!line->exchange->pool->settings.options.on_request)
        return POOL_E_PROTOCOL;
    unasked = keep_on(line, REQUEST, message);
    if (!unasked)
        return POOL_E_MEMORY;
    unasked->responder = pl_responder_make(line, message->key);
    if (!unasked->responder) {
        pl_list_unlink(&unasked->link);
        uncount(line->exchange, unasked);
        pl_os->free(unasked);
        return POOL_E_MEMORY;
    }
    if (line->serving - line->kept > pl_line_options(line)->max_inflight)
        keep_back(line, unasked);
    return POOL_OK;
}

void pl_unasked_admit_kept(struct pl_line *line)
{
    while (!pl_list_is_empty(&line->kept_back)) {
        struct unasked *unasked = of_link(line->kept_back.next);

        if (unasked->kind == REQUEST &&
            line->serving - line->kept >= pl_line_options(line)->max_inflight)
            return;
        line->kept -= unasked->kind == REQUEST;
        pl_list_unlink(&unasked->link);
        pl_list_push_back(&line->exchange->unasked, &unasked->link);
        pl_exchange_attend_later(line->exchange);
    }
}

void pl_unasked_drop_kept(struct pl_line *line)
{
    struct pl_list *link;

    while ((link = pl_list_pop_front(&line->kept_back))) {
        pl_responder_free(of_link(link)->responder);
        pl_os->free(of_link(link));
    }
}

/* ---- telling */

static void tell_actor(struct unasked *unasked)
{
    struct pl_connection *connection = pl_connection_of(unasked->conn.slot);
    struct pool_conn conn = unasked->conn;
    struct pool_actor actor = { 0 };
    const struct pl_channel *channel;

    if (!pl_word_pin(&connection->word, conn.serial))
        return;
    channel = pl_channel_of(connection);        /* freed by this thread alone, while it is this
                                                 * loan's */
    if (channel)
        actor = channel->actor;
    if (pl_word_unpin(&connection->word))
        pl_peer_finish_close(connection);
    else if (actor.on_message)
        actor.on_message(&conn, (struct pool_bytes){ unasked->bytes, unasked->size }, actor.user);
}

static void tell(const struct pool_options *options, struct unasked *unasked)
{
    struct pool_bytes bytes = { unasked->bytes, unasked->size };

    switch (unasked->kind) {
    case ORPHAN:
        options->on_orphan(unasked->id, unasked->key, bytes, options->user);
        break;
    case PUSH:
        tell_actor(unasked);
        break;
    case REQUEST:
        options->on_request(unasked->responder, bytes, options->user);
        break;
    }
}

void pl_unasked_tell(struct pl_exchange *exchange)
{
    const struct pool *pool = exchange->pool;
    struct pl_list *link;

    while (!pl_pool_is_forked(pool) && (link = pl_list_pop_front(&exchange->unasked))) {
        struct unasked *unasked = of_link(link);

        uncount(exchange, unasked);
        pthread_mutex_unlock(&exchange->lock);
        tell(&pool->settings.options, unasked);
        pl_os->free(unasked);
        pthread_mutex_lock(&exchange->lock);
    }
}
