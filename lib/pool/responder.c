/* responder.c: see responder.h. Exchanges and lines are type-stable: the serial of the loan tells
 * whether the line is still the one that was asked on.
 *
 * Where replies go by key, each leaves as it comes. Where they go in order, those that come before
 * their turn are kept: the peer would take them for the answers to what it asked earlier. */
#include "pool/responder.h"

#include <errno.h>

#include "base/buffer.h"
#include "base/os.h"
#include "pool/line.h"

struct pool_responder {
    struct pl_exchange *exchange;
    struct pl_line *line;
    struct pool_conn conn;              /* the line's loan */
    uint64_t key;
    struct pl_list link;                /* in its line's, in the order of the requests, where that
                                         * counts */
    struct pl_buffer body;              /* of an answer that waits for its turn */
    enum pool_message_kind kind;
    bool is_answered;
};

_Static_assert(sizeof(struct pool_responder) <= PL_RESPONDER_MOST, "what is kept is bounded");

struct pool_responder *pl_responder_make(struct pl_line *line, uint64_t key)
{
    struct pool_responder *responder = pl_os->malloc(sizeof(*responder));

    if (!responder)
        return NULL;
    *responder = (struct pool_responder){ .exchange = line->exchange,
                                          .line = line,
                                          .conn = line->conn,
                                          .key = key };
    if (!line->correlator.codec->keyed)
        pl_list_push_back(&line->responders, &responder->link);
    line->serving++;
    return responder;
}

static bool is_there(const struct pool_responder *responder)
{
    const struct pl_line *line = responder->line;

    return atomic_load(&line->exchange) == responder->exchange &&
           line->conn.slot == responder->conn.slot &&
           line->conn.serial == responder->conn.serial;
}

static struct pool_responder *of_link(struct pl_list *link)
{
    return pl_container(link, struct pool_responder, link);
}

void pl_responder_free(struct pool_responder *responder)
{
    if (!responder)
        return;
    pl_list_drop(&responder->link);
    pl_buffer_fini(&responder->body);
    pl_os->free(responder);
}

void pl_responders_drop(struct pl_line *line)
{
    struct pl_list *link;

    while ((link = pl_list_pop_front(&line->responders))) {
        if (of_link(link)->is_answered)
            pl_responder_free(of_link(link));   /* the others are the program's */
    }
}

/* False: it is not its turn, and the answer is kept, or its line is broken. */
static bool is_its_turn(struct pool_responder *responder, const struct pl_frame *frame,
                        struct pl_wakes *wakes)
{
    struct pl_line *line = responder->line;
    const struct pool_options *options = pl_line_options(line);
    size_t most = (size_t)options->write_high + options->max_message;
    struct pl_failure failure = pl_failure_make(POOL_E_FULL, POOL_PHASE_USE, 0);

    if (!pl_list_is_linked(&responder->link) || line->responders.next == &responder->link)
        return true;
    responder->is_answered = true;
    responder->kind = frame->kind;
    if (!frame->body.data && frame->body.size)
        failure.status = POOL_E_ARGUMENT;
    else if (frame->body.size <= most && line->responders_size <= most - frame->body.size) {
        line->responders_size += frame->body.size;
        if (pl_buffer_append(&responder->body, frame->body.data, frame->body.size))
            return false;
        failure = pl_failure_make(POOL_E_MEMORY, POOL_PHASE_USE, ENOMEM);
    }
    pl_line_break(line, failure, wakes);
    return false;
}

/* Sends an answer, and those that waited for it to go first. */
static void answer(struct pool_responder *responder, struct pl_frame frame,
                   struct pl_wakes *wakes)
{
    struct pl_line *line = responder->line;

    if (!is_its_turn(responder, &frame, wakes))
        return;
    pl_line_respond(line, &frame, false, wakes);
    pl_responder_free(responder);
    while (!pl_list_is_empty(&line->responders) && of_link(line->responders.next)->is_answered) {
        responder = of_link(line->responders.next);
        frame.kind = responder->kind;
        frame.body = (struct pool_bytes){ responder->body.data + responder->body.start,
                                          pl_buffer_size(&responder->body) };
        line->responders_size -= frame.body.size;
        pl_line_respond(line, &frame, true, wakes);
        pl_responder_free(responder);
    }
}

static void respond(struct pool_responder *responder, enum pool_message_kind kind,
                    struct pool_bytes body)
{
    struct pl_frame frame = { .kind = kind, .body = body };
    struct pl_wakes wakes = { 0 };
    struct pl_exchange *exchange;

    if (!responder)
        return;
    exchange = responder->exchange;
    frame.key = responder->key;
    pthread_mutex_lock(&exchange->lock);
    /* The exchange may be another pool's by now; while the line is there it is still this one's. */
    if (is_there(responder) && !pl_pool_is_forked(exchange->pool))
        answer(responder, frame, &wakes);
    else
        pl_responder_free(responder);
    pl_exchange_unlock(exchange, &wakes);
}

void pool_respond(struct pool_responder *responder, struct pool_bytes body)
{
    respond(responder, POOL_REPLY, body);
}

void pool_respond_error(struct pool_responder *responder, struct pool_bytes body)
{
    respond(responder, POOL_ERROR_REPLY, body);
}
