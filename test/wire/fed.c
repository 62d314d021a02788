/* fed.c: see fed.h. */
#include "wire/fed.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "wire/out.h"
#include "wire/runner.h"

#define LONGEST_EXACT 4096u /* copying what came so far takes the square of it */

enum way { WHOLE, BYTES, PIECES, LARGE_PIECES, EXACT_PIECES, WAYS };

static const char *const way_names[] = { "whole", "byte by byte", "in small pieces",
                                         "in large pieces", "in exact pieces" };

/* The codec under test, for the one that stands before it. */
static const struct pool_codec *inner;
static bool is_broken; /* the codec broke its contract */

static void blame(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void blame(const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    fprintf(stderr, "fed: %s: ", inner->name);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    is_broken = true;
}

/* splitmix64 */
static size_t any(uint64_t *state, size_t count)
{
    uint64_t mixed = *state += UINT64_C(0x9e3779b97f4a7c15);

    mixed = (mixed ^ mixed >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    mixed = (mixed ^ mixed >> 27) * UINT64_C(0x94d049bb133111eb);
    return (size_t)((mixed ^ mixed >> 31) % count);
}

static void *make(size_t size)
{
    void *memory = malloc(size ? size : 1);

    if (!memory)
        abort();
    return memory;
}

static void check_found(const void *state, struct pool_bytes in, size_t taken,
                        const struct pool_message *message)
{
    const char *start = in.data, *body = message->body.data, *zeros = state;

    if (taken > in.size)
        blame("it took %zu of %zu bytes", taken, in.size);
    if (message->size != sizeof(*message))
        blame("it changed the size of the message");
    if ((unsigned)message->kind > POOL_REQUEST)
        blame("it told of kind %d", (int)message->kind);
    if (message->body.size && (body < start || body > start + taken ||
                               message->body.size > (size_t)(start + taken - body)))
        blame("the body is not within the message");
    for (size_t i = 0; i < inner->read_state_size; i++) {
        if (zeros[i]) {
            blame("byte %zu of its state is not zero when a message is whole", i);
            return;
        }
    }
}

static long checked(void *state, struct pool_bytes in, bool at_end, uint64_t hint,
                    struct pool_message *message)
{
    long taken = inner->next(state, in, at_end, hint, message);

    if (taken > 0)
        check_found(state, in, (size_t)taken, message);
    else if (taken < POOL_E_SYSTEM)
        blame("it answered %ld", taken);
    else if (taken == 0 && message->wanted && message->wanted <= in.size)
        blame("it wants %zu bytes and has %zu", message->wanted, in.size);
    return taken;
}

/* The codec never sees the bytes twice at one place, nor anything behind them. */
static long exact(void *state, struct pool_bytes in, bool at_end, uint64_t hint,
                  struct pool_message *message)
{
    char *copy = make(in.size);
    struct pool_bytes bytes = { copy, in.size };
    long taken;

    if (in.size)
        memcpy(copy, in.data, in.size);
    taken = checked(state, bytes, at_end, hint, message);
    if (taken > 0 && !is_broken && message->body.size)
        message->body.data = (const char *)in.data + ((const char *)message->body.data - copy);
    free(copy);
    return taken;
}

static void note(struct fed *fed, const struct pool_message *message)
{
    struct fed_message *last;
    char *body = make(message->body.size + 1);

    fed->messages = realloc(fed->messages, (fed->count + 1) * sizeof(*fed->messages));
    if (!fed->messages)
        abort();
    if (message->body.size)
        memcpy(body, message->body.data, message->body.size);
    body[message->body.size] = '\0';
    last = &fed->messages[fed->count++];
    *last = (struct fed_message){ .kind = message->kind,
                                  .key = message->key,
                                  .failed = message->failed,
                                  .closes = message->closes,
                                  .body = body,
                                  .size = message->body.size };
}

static void drain(struct fed *fed, const struct feed *feed, struct pl_runner *runner,
                  size_t *replies)
{
    struct pool_message message;

    while (
        pl_runner_next(runner, *replies < feed->hint_count ? feed->hints[*replies] : 0, &message)) {
        note(fed, &message);
        *replies += message.kind == POOL_REPLY;
        pl_runner_drop(runner);
    }
}

static size_t piece(enum way way, size_t left, uint64_t *seed)
{
    size_t size = way == WHOLE ? left : 1;

    if (way == PIECES || way == EXACT_PIECES)
        size = 1 + any(seed, 16);
    else if (way == LARGE_PIECES)
        size = 1 + any(seed, left);
    return size < left ? size : left;
}

static void put(struct pl_runner *runner, const char *bytes, size_t size)
{
    size_t room;
    char *space = pl_runner_space(runner, size, &room);

    if (!space || room < size)
        abort();
    memset(space, '\n', room < size + 64 ? room : size + 64); /* what lies behind means nothing */
    memcpy(space, bytes, size);
    pl_runner_filled(runner, size);
}

static struct fed feed_in(enum way way, const struct feed *feed, const char *bytes, size_t size)
{
    struct pool_codec codec = *feed->codec;
    struct pl_runner runner;
    struct fed fed = { 0 };
    uint64_t seed = feed->seed + (unsigned)way;
    size_t replies = 0, most = feed->most ? feed->most : FED_MOST;

    codec.next = way == EXACT_PIECES ? exact : checked;
    if (pl_runner_init(&runner, &codec, most) != POOL_OK)
        abort();
    for (size_t at = 0, more; at < size && !runner.status; at += more) {
        more = piece(way, size - at, &seed);
        put(&runner, bytes + at, more);
        if (way != WHOLE || feed->stays_open)
            drain(&fed, feed, &runner, &replies);
    }
    if (!feed->stays_open) {
        pl_runner_end(&runner);
        drain(&fed, feed, &runner, &replies);
    }
    if (way == BYTES && runner.in.capacity > 2 * most + 512)
        blame("%zu bytes are kept for messages of %zu", runner.in.capacity, most);
    fed.status = runner.status;
    fed.is_clean = pl_runner_is_clean(&runner);
    pl_runner_fini(&runner);
    return fed;
}

static bool is_same_message(const struct fed_message *one, const struct fed_message *other)
{
    return one->kind == other->kind && one->key == other->key && one->failed == other->failed &&
           one->closes == other->closes && one->size == other->size &&
           memcmp(one->body, other->body, one->size) == 0;
}

static void compare(const struct fed *whole, const struct fed *fed, enum way way)
{
    size_t least = whole->count < fed->count ? whole->count : fed->count;

    for (size_t i = 0; i < least; i++) {
        if (!is_same_message(&whole->messages[i], &fed->messages[i]))
            blame("message %zu is another one %s", i, way_names[way]);
    }
    if (whole->count != fed->count)
        blame("%zu messages whole, %zu %s", whole->count, fed->count, way_names[way]);
    if (whole->status != fed->status)
        blame("%s whole, %s %s", pool_status_name(whole->status), pool_status_name(fed->status),
              way_names[way]);
    if (whole->is_clean != fed->is_clean)
        blame("only one of whole and %s ended clean", way_names[way]);
}

bool fed_bytes(struct fed *fed, const struct feed *feed, const void *bytes, size_t size)
{
    inner = feed->codec;
    is_broken = false;
    *fed = feed_in(WHOLE, feed, bytes, size);
    for (enum way way = WHOLE + 1; way < WAYS; way++) {
        struct fed other;

        if (way == EXACT_PIECES && size > LONGEST_EXACT)
            continue;
        other = feed_in(way, feed, bytes, size);
        compare(fed, &other, way);
        fed_free(&other);
    }
    return !is_broken;
}

bool fed_text(struct fed *fed, const struct feed *feed, const char *text)
{
    return fed_bytes(fed, feed, text, strlen(text));
}

void fed_free(struct fed *fed)
{
    for (size_t i = 0; i < fed->count; i++)
        free(fed->messages[i].body);
    free(fed->messages);
    *fed = (struct fed){ 0 };
}

bool fed_is(const struct fed *fed, size_t index, enum pool_message_kind kind, const char *body)
{
    const struct fed_message *message;

    if (index >= fed->count) {
        fprintf(stderr, "fed: there are %zu messages\n", fed->count);
        return false;
    }
    message = &fed->messages[index];
    if (message->kind == kind && message->size == strlen(body) &&
        memcmp(message->body, body, message->size) == 0)
        return true;
    fprintf(stderr, "fed: message %zu is of kind %d: '%s'\n", index, (int)message->kind,
            message->body);
    return false;
}

bool fed_encode(const struct pool_codec *codec, struct pool_bytes body, char **text,
                struct pool_expect *expect, enum pool_status *status)
{
    struct pl_buffer buffer = { 0 };
    struct pool_out out = { .buffer = &buffer, .most = FED_MOST };
    struct pl_frame frame = { .kind = POOL_REQUEST, .key = codec->keyed, .body = body };
    void *state = make(codec->write_state_size);
    size_t size;

    memset(state, 0, codec->write_state_size);
    *status = pl_out_encode(&out, codec, state, &frame, expect);
    size = pl_buffer_size(&buffer);
    *text = make(size + 1);
    if (size)
        memcpy(*text, buffer.data + buffer.start, size);
    (*text)[size] = '\0';
    pl_buffer_fini(&buffer);
    free(state);
    return !*status;
}
