/* query_peer_answer.c: what the peer of queries answers, and when. See query_peer.h. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "support/frames.h"
#include "support/query_peer_parts.h"
#include "support/tests.h"

#define STRANGE 1000000u /* so far from the right id is one that nobody asked with */

struct request {
    struct query_link *link;
    uint32_t id;
    const char *body;
    size_t size;
};

void query_peer_append_frame(struct query_peer *peer, struct query_bytes *bytes, uint32_t id,
                             enum frame_kind kind, const void *body, size_t size)
{
    char head[FRAME_HEAD];

    frame_write_head(head, &(struct frame_head){ (uint32_t)size, id, kind });
    if (!peer->options.is_line)
        query_bytes_add(bytes, head, sizeof(head));
    query_bytes_add(bytes, body, size);
    if (peer->options.is_line)
        query_bytes_add(bytes, "\n", 1);
}

/* ---- what is due later */

static bool is_before(const struct query_due *one, const struct query_due *other)
{
    return one->at_us < other->at_us ||
           (one->at_us == other->at_us && one->number < other->number);
}

static void push_due(struct query_peer *peer, struct query_due due)
{
    size_t at = peer->due_count++;

    if (peer->due_count > peer->due_room) {
        peer->due_room = 2 * peer->due_count;
        peer->dues = realloc(peer->dues, peer->due_room * sizeof(due));
    }
    for (; at && is_before(&due, &peer->dues[(at - 1) / 2]); at = (at - 1) / 2)
        peer->dues[at] = peer->dues[(at - 1) / 2];
    peer->dues[at] = due;
}

static struct query_due pop_due(struct query_peer *peer)
{
    struct query_due top = peer->dues[0], last = peer->dues[--peer->due_count];
    size_t at = 0, child;

    while ((child = 2 * at + 1) < peer->due_count) {
        if (child + 1 < peer->due_count && is_before(&peer->dues[child + 1], &peer->dues[child]))
            child++;
        if (is_before(&last, &peer->dues[child]))
            break;
        peer->dues[at] = peer->dues[child];
        at = child;
    }
    peer->dues[at] = last;
    return top;
}

static void deliver_one(struct query_peer *peer, struct query_due *due)
{
    struct query_link *link = &peer->links[due->slot];

    if (link->fd >= 0 && link->nth == due->nth && !link->ends)
        query_bytes_add(&link->out, due->frame.data, due->frame.end);
    free(due->frame.data);
}

uint64_t query_peer_deliver(struct query_peer *peer, uint64_t now_us)
{
    while (peer->due_count && peer->dues[0].at_us <= now_us) {
        struct query_due due = pop_due(peer);

        deliver_one(peer, &due);
    }
    return peer->due_count ? peer->dues[0].at_us : UINT64_MAX;
}

unsigned query_peer_release(struct query_peer *peer)
{
    unsigned count;

    pthread_mutex_lock(&peer->lock);
    count = (unsigned)peer->held_count;
    for (size_t i = 0; i < count; i++) {
        struct query_due due = peer->held[peer->options.is_line ? i : count - 1 - i];

        due.at_us = 0;
        due.number = ++peer->due_number;
        push_due(peer, due);
    }
    peer->held_count = 0;
    pthread_mutex_unlock(&peer->lock);
    query_peer_wake(peer);
    return count;
}

/* ---- answers */

static void hold(struct query_peer *peer, struct query_due due)
{
    if (peer->held_count == peer->held_room) {
        peer->held_room = 2 * peer->held_room + 16;
        peer->held = realloc(peer->held, peer->held_room * sizeof(due));
    }
    peer->held[peer->held_count++] = due;
}

static struct query_due make_answer(struct query_peer *peer, const struct request *request,
                                    enum frame_kind kind, const char *body, size_t size)
{
    struct query_due due = { .slot = (unsigned)(request->link - peer->links),
                             .nth = request->link->nth,
                             .number = ++peer->due_number };

    query_peer_append_frame(peer, &due.frame, request->id, kind, body, size);
    return due;
}

/* Lines keep their order: an answer is due when those before it are, or later. */
static void answer_at(struct query_peer *peer, const struct request *request, uint64_t at_us)
{
    struct query_link *link = request->link;

    if (peer->options.is_line) {
        at_us = at_us > link->last_due_us ? at_us : link->last_due_us;
        link->last_due_us = at_us;
    }
    if (!at_us) {
        query_peer_append_frame(peer, &link->out, request->id, FRAME_REPLY, request->body,
                                request->size);
        return;
    }
    struct query_due due = make_answer(peer, request, FRAME_REPLY, request->body, request->size);

    due.at_us = at_us;
    push_due(peer, due);
}

static void answer_with(struct query_peer *peer, const struct request *request,
                        enum frame_kind kind, const char *body, size_t size)
{
    query_peer_append_frame(peer, &request->link->out, request->id, kind, body, size);
}

/* ---- large ones */

bool query_peer_has_stream(const struct query_peer *peer, const struct query_link *link)
{
    for (size_t i = 0; i < peer->stream_count; i++) {
        if (peer->streams[i].slot == link - peer->links && peer->streams[i].nth == link->nth)
            return true;
    }
    return false;
}

static void drop_stream(struct query_peer *peer, size_t at)
{
    peer->stream_count--;
    memmove(&peer->streams[at], &peer->streams[at + 1],
            (peer->stream_count - at) * sizeof(*peer->streams));
}

static void put_piece(struct query_link *link, struct query_stream *stream)
{
    enum frame_kind kind = --stream->pieces ? FRAME_PART : FRAME_REPLY;
    char head[FRAME_HEAD];

    frame_write_head(head, &(struct frame_head){ stream->size, stream->id, kind });
    query_bytes_add(&link->out, head, sizeof(head));
    query_bytes_fill(&link->out, (char)('a' + stream->pieces % 26), stream->size);
}

/* Those of one connection take turns. */
void query_peer_stream(struct query_peer *peer, struct query_link *link)
{
    for (size_t i = 0; i < peer->stream_count && link->out.start == link->out.end; i++) {
        struct query_stream stream = peer->streams[i];

        if (stream.slot != link - peer->links)
            continue;
        drop_stream(peer, i--);
        if (stream.nth != link->nth)
            continue;                   /* its connection is gone */
        put_piece(link, &stream);
        if (stream.pieces)
            peer->streams[peer->stream_count++] = stream;
    }
}

static void begin_stream(struct query_peer *peer, const struct request *request)
{
    struct query_stream stream = { .slot = (unsigned)(request->link - peer->links),
                                   .nth = request->link->nth,
                                   .id = request->id };
    char text[32] = "";

    memcpy(text, request->body, request->size < 31 ? request->size : 31);
    if (sscanf(text, "B%ux%u", &stream.pieces, &stream.size) != 2 || !stream.pieces)
        abort();
    if (peer->stream_count == peer->stream_room) {
        peer->stream_room = 2 * peer->stream_room + 8;
        peer->streams = realloc(peer->streams, peer->stream_room * sizeof(stream));
    }
    peer->streams[peer->stream_count++] = stream;
}

/* ---- what a request is answered with */

static unsigned number_in(const struct request *request)
{
    char digits[12] = "";

    memcpy(digits, request->body + 1, request->size - 1 < 11 ? request->size - 1 : 11);
    return (unsigned)strtoul(digits, NULL, 10);
}

static void answer_in_parts(struct query_peer *peer, const struct request *request)
{
    unsigned count = number_in(request);
    char text[16];

    for (unsigned i = 0; i < count; i++) {
        int size = snprintf(text, sizeof(text), "%u;", i);

        answer_with(peer, request, i + 1 < count ? FRAME_PART : FRAME_REPLY, text, (size_t)size);
    }
}

static void cut_short(struct query_peer *peer, const struct request *request)
{
    struct query_bytes frame = { 0 };

    query_peer_append_frame(peer, &frame, request->id, FRAME_REPLY, request->body, request->size);
    query_bytes_add(&request->link->out, frame.data, frame.end / 2);
    free(frame.data);
    request->link->ends = true;
}

/* Of the connections that are to end. */
static bool is_meant(const struct query_peer *peer, const struct query_link *link)
{
    return !peer->options.only_first || link->nth < peer->options.only_first;
}

static void answer(struct query_peer *peer, const struct request *request)
{
    const char *body = request->body;
    size_t size = request->size;

    switch (size ? body[0] : ANSWER_ECHO) {
    case ANSWER_DELAY:
        answer_at(peer, request, now_us() + 1000 * (uint64_t)number_in(request));
        break;
    case ANSWER_NEVER:
        break;
    case ANSWER_HOLD:
        hold(peer, make_answer(peer, request, FRAME_REPLY, body, size));
        break;
    case ANSWER_TWICE:
        answer_with(peer, request, FRAME_REPLY, body, size);
        answer_with(peer, request, FRAME_REPLY, body, size);
        break;
    case ANSWER_PARTS:
        answer_in_parts(peer, request);
        break;
    case ANSWER_BIG:
        begin_stream(peer, request);
        break;
    case ANSWER_FAIL:
        answer_with(peer, request, FRAME_ERROR, body, size);
        break;
    case ANSWER_UNKNOWN:
        query_peer_append_frame(peer, &request->link->out, request->id + STRANGE, FRAME_REPLY, body,
                                size);
        answer_at(peer, request, 0);
        break;
    case ANSWER_PUSH:
        query_peer_append_frame(peer, &request->link->out, 0, FRAME_PUSH, body, size);
        answer_at(peer, request, 0);
        break;
    case ANSWER_ASK:
        answer_with(peer, request, FRAME_REQUEST, body, size);
        break;
    case ANSWER_GARBAGE:
        answer_with(peer, request, 77, body, size);
        break;
    case ANSWER_CUT:
        if (is_meant(peer, request->link))
            cut_short(peer, request);
        else
            answer_at(peer, request, 0);
        break;
    case ANSWER_CLOSE:
        request->link->ends = true;
        break;
    case ANSWER_RESET:
        query_link_end(peer, request->link, true);
        break;
    default:
        answer_at(peer, request, 0);
        break;
    }
}

/* ---- what comes */

/* What is repeated says on which connection it came. */
static void answer_from(struct query_peer *peer, const struct request *request)
{
    struct request labelled = *request;
    struct query_bytes body = { 0 };
    char label[16];
    int size = snprintf(label, sizeof(label), "@%u", request->link->nth);

    query_bytes_add(&body, request->body, request->size);
    query_bytes_add(&body, label, (size_t)size);
    labelled.body = body.data;
    labelled.size = body.end;
    answer(peer, &labelled);
    free(body.data);
}

static void record(struct query_peer *peer, const struct request *request)
{
    struct query_record *kept;
    size_t size = request->size < QUERY_PEER_KEPT ? request->size : QUERY_PEER_KEPT - 1;

    if (peer->requests == peer->record_room) {
        peer->record_room = 2 * peer->record_room + 64;
        peer->records = realloc(peer->records, peer->record_room * sizeof(*peer->records));
    }
    kept = &peer->records[peer->requests++];
    memset(kept, 0, sizeof(*kept));
    memcpy(kept->body, request->body, size);
    kept->nth = request->link->nth;
    peer->last_id = request->id;
}

static bool counts_for(const struct query_peer *peer, const struct query_link *link,
                       unsigned after)
{
    return after && link->requests >= after && is_meant(peer, link);
}

static void on_request(struct query_peer *peer, const struct request *request)
{
    struct query_link *link = request->link;

    link->requests++;
    record(peer, request);
    if (peer->options.saw)
        peer->options.saw(request->body, request->size, link->nth);
    if (counts_for(peer, link, peer->options.reset_after))
        query_link_end(peer, link, true);
    else if (counts_for(peer, link, peer->options.close_after))
        link->ends = true;
    else if (peer->options.says_connection)
        answer_from(peer, request);
    else
        answer(peer, request);
}

/* What we were told when we asked becomes the answer of what made us ask. */
static void on_told(struct query_peer *peer, const struct request *told, bool failed)
{
    struct query_bytes body = { 0 };

    if (failed)
        query_bytes_add(&body, "!", 1);
    query_bytes_add(&body, told->body, told->size);
    answer_with(peer, told, FRAME_REPLY, body.data, body.end);
    free(body.data);
}

static size_t cut_line(struct query_peer *peer, struct query_link *link)
{
    const char *bytes = link->in.data + link->in.start;
    size_t size = link->in.end - link->in.start;
    const char *end = size ? memchr(bytes, '\n', size) : NULL;
    struct request request = { .link = link, .body = bytes };

    if (!end)
        return 0;
    request.size = (size_t)(end - bytes);
    on_request(peer, &request);
    return request.size + 1;
}

static size_t cut_frame(struct query_peer *peer, struct query_link *link)
{
    const char *bytes = link->in.data + link->in.start;
    size_t have = link->in.end - link->in.start;
    struct request request = { .link = link, .body = bytes + FRAME_HEAD };
    struct frame_head head;

    if (have < FRAME_HEAD)
        return 0;
    head = frame_read_head(bytes);
    request.size = head.size;
    request.id = head.id;
    if (have - FRAME_HEAD < request.size)
        return 0;
    if (head.kind == FRAME_REQUEST)
        on_request(peer, &request);
    else
        on_told(peer, &request, head.kind == FRAME_ERROR);
    return FRAME_HEAD + request.size;
}

void query_peer_cut(struct query_peer *peer, struct query_link *link)
{
    size_t taken;

    while (link->fd >= 0 && !link->ends) {
        taken = peer->options.is_line ? cut_line(peer, link) : cut_frame(peer, link);
        if (!taken || link->fd < 0)
            break;
        link->in.start += taken;
    }
    if (link->in.start == link->in.end)
        link->in.start = link->in.end = 0;
}
