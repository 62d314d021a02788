/* codec_memcached.c: memcached's text protocol, as a client speaks it: commands out, replies in, in
 * order.
 *
 * A reply tells by its lines how it ends, so the hint need not; it says which replies may come at
 * all, and one that answers none of the commands sent is a stream out of step. What is read of
 * requests is in memcached.c.
 *
 * Each line and each block of data is looked at once: the state says where the one that comes
 * begins, and up to where it is known to have no newline. */
#include <string.h>

#include "wire/memcached.h"
#include "wire/out.h"

#define DATA_MOST INT32_MAX
#define LAST_LEAST 4u /* bytes of the shortest line that ends several */

struct reading {
    size_t line; /* where what comes next begins */
    size_t searched; /* up to here there is no newline */
    size_t data; /* bytes of data that come next, and a line end */
    unsigned shapes; /* what the reply may be; 0: nothing of it has been read */
    bool is_data, is_last; /* data comes next; what comes next ends the reply */
    bool failed, closes;
};

enum step { MORE, GO_ON, WHOLE, BAD };

/* What may stand behind the first word of a line. */
enum rest { NOTHING, ANYTHING, SOMETHING };

static const struct word {
    const char *text;
    enum rest rest;
    unsigned ends; /* it is the last line of these, */
    unsigned within; /* and one of several of these */
    bool is_alone; /* even where others have several lines */
} words[] = {
    { "VALUE", SOMETHING, 0, PL_MEMCACHED_VALUES, false },
    { "END", NOTHING, PL_MEMCACHED_VALUES | PL_MEMCACHED_STATS, 0, false },
    { "STORED", NOTHING, PL_MEMCACHED_STORED, 0, false },
    { "NOT_STORED", NOTHING, PL_MEMCACHED_STORED, 0, false },
    { "EXISTS", NOTHING, PL_MEMCACHED_STORED, 0, false },
    { "DELETED", NOTHING, PL_MEMCACHED_DELETED, 0, false },
    { "TOUCHED", NOTHING, PL_MEMCACHED_TOUCHED, 0, false },
    { "NOT_FOUND", NOTHING,
      PL_MEMCACHED_STORED | PL_MEMCACHED_DELETED | PL_MEMCACHED_NUMBER | PL_MEMCACHED_TOUCHED, 0,
      false },
    { "HD", ANYTHING, PL_MEMCACHED_META, PL_MEMCACHED_BATCH, false },
    { "VA", SOMETHING, PL_MEMCACHED_META, PL_MEMCACHED_BATCH, false },
    { "EN", ANYTHING, PL_MEMCACHED_META, PL_MEMCACHED_BATCH, false },
    { "NF", ANYTHING, PL_MEMCACHED_META, PL_MEMCACHED_BATCH, false },
    { "NS", ANYTHING, PL_MEMCACHED_META, PL_MEMCACHED_BATCH, false },
    { "EX", ANYTHING, PL_MEMCACHED_META, PL_MEMCACHED_BATCH, false },
    { "ME", SOMETHING, PL_MEMCACHED_META, PL_MEMCACHED_BATCH, false },
    { "MN", NOTHING, PL_MEMCACHED_NOOP | PL_MEMCACHED_BATCH, 0, false },
    { "OK", NOTHING, PL_MEMCACHED_OK | PL_MEMCACHED_STATS, 0, true },
    { "VERSION", SOMETHING, PL_MEMCACHED_VERSION, 0, false },
    { "STAT", SOMETHING, 0, PL_MEMCACHED_STATS, false },
    { "ITEM", SOMETHING, 0, PL_MEMCACHED_STATS, false },
    { "PREFIX", SOMETHING, 0, PL_MEMCACHED_STATS, false },
    { "RESET", NOTHING, PL_MEMCACHED_STATS, 0, true },
};

/* In the place of any line. */
static const struct word error = { "ERROR", ANYTHING, PL_MEMCACHED_SHAPES, PL_MEMCACHED_BATCH,
                                   false };
/* What `incr` answers; old servers put spaces behind it. */
static const struct word number = { "", ANYTHING, PL_MEMCACHED_NUMBER, 0, false };

static bool is_error(struct pool_bytes first)
{
    return pl_memcached_is(first, "ERROR") || pl_memcached_is(first, "CLIENT_ERROR") ||
           pl_memcached_is(first, "SERVER_ERROR");
}

static const struct word *find_word(struct pool_bytes first)
{
    uint64_t any;

    for (size_t i = 0; i < PL_COUNT(words); i++)
        if (pl_memcached_is(first, words[i].text))
            return &words[i];
    if (is_error(first))
        return &error;
    return pl_memcached_number(first, UINT64_MAX, &any) ? &number : NULL;
}

/* The size of the data behind "VA size flags..." or "VALUE key flags size [cas]". */
static bool read_data_size(struct reading *reading, struct pool_bytes rest, bool is_meta)
{
    struct pool_bytes key, flags, size;
    uint64_t bytes;

    if (!is_meta && (!pl_memcached_word(&rest, &key) || !pl_memcached_word(&rest, &flags)))
        return false;
    if (!pl_memcached_word(&rest, &size) || !pl_memcached_number(size, DATA_MOST, &bytes))
        return false;
    reading->data = (size_t)bytes;
    reading->is_data = true;
    return true;
}

/* Judges a line without its end. */
static bool read_line(struct reading *reading, struct pool_bytes line, uint64_t hint)
{
    bool is_first = !reading->shapes;
    struct pool_bytes first;
    const struct word *word;

    if (!pl_memcached_word(&line, &first))
        return false;
    word = find_word(first);
    if (!word || (word->is_alone && !is_first) || (word->rest == NOTHING && line.data) ||
        (word->rest == SOMETHING && !line.data))
        return false;
    if (is_first)
        reading->shapes = hint ? (unsigned)hint : PL_MEMCACHED_SHAPES;
    reading->shapes &= word->ends | word->within;
    reading->is_last = (reading->shapes & word->ends) != 0;
    if (word == &error) {
        reading->failed = true;
        reading->closes |= (hint & PL_MEMCACHED_DATA) && !pl_memcached_is(first, "SERVER_ERROR");
    }
    if (!reading->shapes)
        return false;
    if (pl_memcached_is(first, "VALUE") || pl_memcached_is(first, "VA"))
        return read_data_size(reading, line, first.size == 2);
    return true;
}

static enum step take_line(struct reading *reading, struct pool_bytes in, uint64_t hint)
{
    const char *bytes = in.data, *start = bytes + reading->line;
    const char *end = memchr(bytes + reading->searched, '\n', in.size - reading->searched);

    if (!end) {
        reading->searched = in.size;
        return MORE;
    }
    if (end == start || end[-1] != '\r' ||
        !read_line(reading, (struct pool_bytes){ start, (size_t)(end - 1 - start) }, hint))
        return BAD;
    reading->line = reading->searched = (size_t)(end + 1 - bytes);
    return reading->is_last && !reading->is_data ? WHOLE : GO_ON;
}

static enum step take_data(struct reading *reading, struct pool_bytes in, size_t *wanted)
{
    size_t end = reading->line + reading->data + 2;

    if (in.size < end) {
        *wanted = end + (reading->is_last ? 0 : LAST_LEAST);
        return MORE;
    }
    if (memcmp((const char *)in.data + end - 2, "\r\n", 2) != 0)
        return BAD;
    reading->line = reading->searched = end;
    reading->is_data = false;
    return reading->is_last ? WHOLE : GO_ON;
}

static long next(void *state, struct pool_bytes in, bool at_end, uint64_t hint,
                 struct pool_message *message)
{
    struct reading *reading = state;
    enum step step = GO_ON;
    size_t taken;

    (void)at_end;
    while (step == GO_ON)
        step = reading->is_data ? take_data(reading, in, &message->wanted)
                                : take_line(reading, in, hint);
    if (step == MORE)
        return 0;
    taken = reading->line;
    message->kind = POOL_REPLY;
    message->failed = reading->failed;
    message->closes = reading->closes;
    *reading = (struct reading){ 0 };
    if (step == BAD)
        return POOL_E_PROTOCOL;
    message->body = (struct pool_bytes){ in.data, taken - 2 };
    return (long)taken;
}

static enum pool_status encode(void *state, enum pool_message_kind kind, uint64_t key,
                               struct pool_bytes body, struct pool_out *out,
                               struct pool_expect *expect)
{
    enum pool_status status;

    (void)state;
    (void)key;
    if (kind != POOL_REQUEST)
        return POOL_E_ARGUMENT;
    status = pl_memcached_count(body, expect);
    return status ? status : pool_out_append(out, body.data, body.size);
}

const struct pool_codec *pool_codec_memcached(void)
{
    static const struct pool_codec codec = { .size = sizeof(struct pool_codec),
                                             .name = "memcached",
                                             .read_state_size = sizeof(struct reading),
                                             .next = next,
                                             .encode = encode };

    return &codec;
}
