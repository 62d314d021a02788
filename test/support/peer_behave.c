/* peer_behave.c: what the behaviours of the loopback peer differ in. All else, peer_link.c does
 * for all of them.
 *
 * A behaviour can change while connections are open, so nothing here remembers which one a
 * connection began with. */
#include "support/peer_parts.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

/* What answering may cost: so much for each byte read, so much for each request. */
struct cost {
    size_t each_byte, each_request;
};

static bool is_by_lines(const struct peer_loop *loop)
{
    switch (loop->options.behave) {
    case PEER_LINE_ECHO: case PEER_TOKEN: case PEER_ID: case PEER_REPLY_LINE:
        return true;
    default:
        return false;
    }
}

static bool is_mute(const struct peer_loop *loop, const struct peer_link *link)
{
    switch (loop->options.behave) {
    case PEER_SILENT: case PEER_SINK: case PEER_DEAF:
        return true;
    default:
        return link->write_closed;
    }
}

static struct cost cost_of(const struct peer_loop *loop)
{
    const struct peer_options *options = &loop->options;

    switch (options->behave) {
    case PEER_EXTRA:
        return (struct cost){1, options->extra_bytes};
    case PEER_GARBAGE:
        return options->reply_bytes ? (struct cost){0, options->reply_bytes} : (struct cost){1, 0};
    case PEER_REPLY: case PEER_REPLY_LINE:
        return (struct cost){0, loop->reply_length};
    case PEER_TOKEN: case PEER_ID:
        return (struct cost){1, sizeof("4294967295 \n")};
    default:
        return (struct cost){1, 0};
    }
}

static unsigned delay_of(const struct peer_loop *loop)
{
    return loop->options.behave == PEER_SLOW && !loop->options.delay_ms ? 100
                                                                        : loop->options.delay_ms;
}

static uint64_t interval_us_of(const struct peer_loop *loop)
{
    bool is_default = loop->options.behave == PEER_DRIP && !loop->options.interval_ms;

    return (is_default ? 20 : loop->options.interval_ms) * UINT64_C(1000);
}

/* The length of the first piece of `bytes`; `*whole`: it completes a request. */
static size_t cut(const struct peer_loop *loop, const struct peer_link *link, const char *bytes,
                  size_t size, bool *whole)
{
    size_t unit = loop->options.message_bytes, left;
    const char *end;

    *whole = true;
    if (is_by_lines(loop)) {
        left = PEER_LINE_BYTES - link->line_length;
        size = size < left ? size : left;
        end = memchr(bytes, '\n', size);
        *whole = end || size == left;
        return end ? (size_t)(end - bytes) + 1 : size;
    }
    if (!unit)
        return size;
    left = unit - (size_t)(link->cut % unit);
    *whole = size >= left;
    return *whole ? left : size;
}

static void answer_bytes(struct peer_loop *loop, struct peer_link *link, const void *bytes,
                         size_t size)
{
    unsigned delay_ms = loop->options.behave == PEER_EXTRA ? 0 : delay_of(loop);
    bool fits = peer_link_queue(loop, link, bytes, size, delay_ms);

    assert(fits);                                   /* no more was read than could be answered */
    (void)fits;
}

static void answer_line(struct peer_loop *loop, struct peer_link *link, const char *line,
                        size_t size)
{
    char text[PEER_LINE_BYTES + 16];
    const char *token;
    int length;

    if (loop->options.behave == PEER_LINE_ECHO) {
        answer_bytes(loop, link, line, size);
        return;
    }
    if (loop->options.behave == PEER_REPLY_LINE) {
        answer_bytes(loop, link, loop->options.reply, loop->reply_length);
        return;
    }
    while (size && (line[size - 1] == '\n' || line[size - 1] == '\r'))
        size--;
    token = memrchr(line, ' ', size);
    token = token ? token + 1 : line;
    if (loop->options.behave == PEER_ID)
        length = snprintf(text, sizeof(text), "%u\n", link->nth);
    else
        length =
            snprintf(text, sizeof(text), "%u %.*s\n", link->nth, (int)(line + size - token), token);
    answer_bytes(loop, link, text, (size_t)length);
}

static void answer_line_piece(struct peer_loop *loop, struct peer_link *link, const char *bytes,
                              size_t size, bool whole)
{
    char *line = loop->areas + (size_t)link->slot * (PEER_LINE_BYTES + loop->options.queue_bytes);

    memcpy(line + link->line_length, bytes, size);
    link->line_length += (uint32_t)size;
    if (!whole)
        return;
    size = link->line_length;
    link->line_length = 0;
    answer_line(loop, link, line, size);
}

static void answer_garbage(struct peer_loop *loop, struct peer_link *link, size_t size)
{
    unsigned char garbage[256];
    size_t piece, i;

    for (; size; size -= piece) {
        piece = size < sizeof(garbage) ? size : sizeof(garbage);
        for (i = 0; i < piece; i++) {
            loop->random ^= loop->random << 13;
            loop->random ^= loop->random >> 7;
            loop->random ^= loop->random << 17;
            garbage[i] = (unsigned char)(loop->random >> 32);
        }
        answer_bytes(loop, link, garbage, piece);
    }
}

static void answer_extra(struct peer_loop *loop, struct peer_link *link)
{
    char stray[256];
    size_t left = loop->options.extra_bytes, piece;

    memset(stray, '!', sizeof(stray));
    for (; left; left -= piece) {
        piece = left < sizeof(stray) ? left : sizeof(stray);
        peer_link_queue(loop, link, stray, piece, loop->options.delay_ms);
    }
}

static void answer(struct peer_loop *loop, struct peer_link *link, const char *bytes, size_t size,
                   bool whole)
{
    const struct peer_options *options = &loop->options;

    if (is_mute(loop, link))
        return;
    if (is_by_lines(loop)) {
        answer_line_piece(loop, link, bytes, size, whole);
        return;
    }
    switch (options->behave) {
    case PEER_GARBAGE:
        if (whole || !options->reply_bytes)
            answer_garbage(loop, link, options->reply_bytes ? options->reply_bytes : size);
        break;
    case PEER_REPLY:
        if (whole)
            answer_bytes(loop, link, options->reply, loop->reply_length);
        break;
    case PEER_EXTRA:
        answer_bytes(loop, link, bytes, size);
        if (whole)
            answer_extra(loop, link);
        break;
    default:
        answer_bytes(loop, link, bytes, size);
    }
}

static void push(struct peer_loop *loop, struct peer_link *link)
{
    if (peer_link_queue(loop, link, loop->options.push, loop->push_length, 0))
        peer_loop_count(loop, PEER_PUSHES, 1);
}

size_t peer_behave_room(const struct peer_loop *loop, const struct peer_link *link)
{
    struct cost cost = cost_of(loop);
    size_t used = (size_t)(link->queued - link->sent) + link->line_length + cost.each_request;
    size_t unit = loop->options.message_bytes, room;

    if (loop->options.behave == PEER_DEAF)
        return 0;
    if (is_mute(loop, link))
        return SIZE_MAX;
    if (used >= loop->options.queue_bytes)
        return 0;
    room = loop->options.queue_bytes - used;
    if (is_by_lines(loop))
        return room / (cost.each_byte + cost.each_request);
    if (unit)
        return room * unit / (cost.each_byte * unit + cost.each_request);
    return cost.each_byte ? room : SIZE_MAX;
}

uint64_t peer_behave_sendable(const struct peer_loop *loop, const struct peer_link *link)
{
    uint64_t ready = link->released - link->sent, after = loop->options.after_bytes;

    if (!ready || link->write_closed)
        return 0;
    if (loop->options.behave == PEER_DRIP)
        return link->next_drip_us <= loop->now_us;
    if (loop->options.behave != PEER_CLOSE_SENT)
        return ready;
    if (link->sent >= after)
        return 0;
    return ready < after - link->sent ? ready : after - link->sent;
}

uint64_t peer_behave_wake(const struct peer_loop *loop, const struct peer_link *link)
{
    uint64_t wake_us = link->due_count ? link->dues[link->due_first].at_us : PEER_NEVER;

    if (link->write_closed)
        return PEER_NEVER;
    if (loop->options.behave == PEER_DRIP && link->released > link->sent &&
        link->next_drip_us < wake_us)
        wake_us = link->next_drip_us;
    if (loop->options.behave == PEER_PUSH && loop->options.interval_ms &&
        link->next_push_us < wake_us)
        wake_us = link->next_push_us;
    return wake_us;
}

bool peer_behave_accepted(struct peer_loop *loop, struct peer_link *link)
{
    const struct peer_options *options = &loop->options;

    link->next_push_us = loop->now_us + interval_us_of(loop);
    switch (options->behave) {
    case PEER_ACCEPT_CLOSE:
        peer_link_close(loop, link, PEER_CLOSED_BY_US);
        return false;
    case PEER_RESET:
        if (options->after_bytes)
            return true;
        peer_link_reset(loop, link);
        return false;
    case PEER_HALF_CLOSE:
        link->must_end = !options->after_bytes;
        return true;
    case PEER_PUSH:
        if (options->push_on_accept)
            push(loop, link);
        return true;
    default:
        return true;
    }
}

void peer_behave_changed(struct peer_loop *loop, struct peer_link *link)
{
    link->line_length = 0;
    link->next_drip_us = link->next_push_us = loop->now_us + interval_us_of(loop);
}

bool peer_behave_received(struct peer_loop *loop, struct peer_link *link, const char *bytes,
                          size_t size)
{
    bool is_enough = link->received >= loop->options.after_bytes, whole;
    size_t piece;

    if (is_enough && loop->options.behave == PEER_RESET) {
        peer_link_reset(loop, link);
        return false;
    }
    if (is_enough && loop->options.behave == PEER_CLOSE_RECEIVED) {
        peer_link_close(loop, link, PEER_CLOSED_BY_US);
        return false;
    }
    for (; size; bytes += piece, size -= piece) {
        piece = cut(loop, link, bytes, size, &whole);
        link->cut += piece;
        if (whole)
            peer_loop_count(loop, PEER_REQUESTS, 1);
        answer(loop, link, bytes, piece, whole);
    }
    if (is_enough && loop->options.behave == PEER_HALF_CLOSE)
        link->must_end = true;
    return true;
}

void peer_behave_sent(struct peer_loop *loop, struct peer_link *link)
{
    link->next_drip_us = loop->now_us + interval_us_of(loop);
}

void peer_behave_timer(struct peer_loop *loop, struct peer_link *link)
{
    if (loop->options.behave != PEER_PUSH || !loop->options.interval_ms ||
        link->next_push_us > loop->now_us)
        return;
    push(loop, link);
    link->next_push_us = loop->now_us + interval_us_of(loop);
}

bool peer_behave_is_over(const struct peer_loop *loop, const struct peer_link *link)
{
    return loop->options.behave == PEER_CLOSE_SENT && link->received &&
           link->sent >= loop->options.after_bytes;
}
