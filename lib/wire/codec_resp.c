/* codec_resp.c: the replies of Redis, RESP2 and RESP3, in order. A message is one value at the top
 * with all that is in it, and with the attributes in front of it; it is found, not taken apart.
 *
 * Strings and aggregates without a size ("$?", "*?") are refused: no server that we know sends
 * them. A push stands at the top and nowhere else.
 *
 * What has been read is never looked at again: of a message that is not whole, the state holds the
 * place of the first value that is not, and how many values are still owed at each level. The
 * counts go down to zero by themselves, so the state of a whole message is all zeros again. */
#include <limits.h>
#include <string.h>

#include "wire/out.h"
#include "wire/resp.h"
#include "wire/text.h"

#define DEPTH 32u
#define SMALLEST 3u /* bytes of a value at least: a type and a line end */

/* So that sizes and counts can be added up without a thought. */
#define MOST ((uint64_t)LONG_MAX / 4)

struct reading {
    size_t at; /* everything before it has been read */
    size_t searched; /* no line feed lies between `at` and it */
    size_t top; /* where the value itself begins, and 1; 0: not seen yet */
    uint64_t owed; /* values that have to come still */
    uint64_t left[DEPTH]; /* of them, in each of the aggregates around */
    unsigned depth;
};

/* One value as far as it is no aggregate, or the head of one. */
struct value {
    size_t end; /* known also of a string that is not whole */
    uint64_t inner; /* values in it */
};

static enum pl_found literal(struct pool_bytes in, size_t at, const char *text)
{
    size_t size = strlen(text), have = in.size - at < size ? in.size - at : size;

    if (memcmp((const char *)in.data + at, text, have) != 0)
        return PL_BAD;
    return have == size ? PL_WHOLE : PL_MORE;
}

/* A line, whatever is in it, but for line ends of other kinds. */
static enum pl_found read_line(struct reading *reading, struct pool_bytes in, struct value *value)
{
    const char *bytes = in.data, *feed;
    size_t from = reading->searched > reading->at ? reading->searched : reading->at;
    size_t first = reading->at + 1;

    feed = memchr(bytes + from, '\n', in.size - from);
    if (!feed) {
        reading->searched = in.size;
        return PL_MORE;
    }
    value->end = (size_t)(feed - bytes) + 1;
    if (value->end < first + 2 || feed[-1] != '\r')
        return PL_BAD;
    return memchr(bytes + first, '\r', value->end - 2 - first) ? PL_BAD : PL_WHOLE;
}

static bool is_sign(unsigned char byte)
{
    return byte == '+' || byte == '-';
}

/* Behind the digits; `end` is that of the text. */
static const unsigned char *skip_digits(const unsigned char *at, const unsigned char *end)
{
    while (at < end && *at >= '0' && *at <= '9')
        at++;
    return at;
}

static bool is_big_number(const unsigned char *text, const unsigned char *end)
{
    const unsigned char *digits = text + (text < end && is_sign(*text));

    return digits < end && skip_digits(digits, end) == end;
}

static bool is_double(const unsigned char *text, const unsigned char *end)
{
    const unsigned char *digits = text + (text < end && is_sign(*text)), *at;

    if (pl_is_word(digits, (size_t)(end - digits), "inf") ||
        pl_is_word(digits, (size_t)(end - digits), "nan"))
        return true;
    at = skip_digits(digits, end);
    if (at == digits)
        return false;
    if (at < end && *at == '.')
        at = skip_digits(at + 1, end);
    if (at < end && pl_lower(*at) == 'e')
        return is_big_number(at + 1, end);
    return at == end;
}

static enum pl_found read_integer(struct pool_bytes in, size_t at, struct value *value)
{
    const unsigned char *bytes = in.data;
    enum pl_found found;
    bool is_signed = at < in.size && is_sign(bytes[at]);
    uint64_t number;

    found = pl_resp_number(in, at + is_signed, &number, &value->end);
    if (found != PL_WHOLE)
        return found;
    if (is_signed && bytes[at] == '-')
        return number ? PL_WHOLE : PL_BAD;
    return number >> 63 ? PL_BAD : PL_WHOLE;
}

/* A string with its size in front. */
static enum pl_found read_string(struct pool_bytes in, size_t at, char type, struct value *value)
{
    const char *bytes = in.data;
    enum pl_found found;
    uint64_t size;
    size_t begin;

    found = pl_resp_number(in, at, &size, &begin);
    if (found != PL_WHOLE)
        return found;
    if (size > MOST || (type == '=' && size < 4))
        return PL_BAD;
    value->end = begin + (size_t)size + 2;
    if (in.size < value->end)
        return PL_MORE;
    if (bytes[value->end - 2] != '\r' || bytes[value->end - 1] != '\n')
        return PL_BAD;
    return type == '=' && bytes[begin + 3] != ':' ? PL_BAD : PL_WHOLE;
}

static enum pl_found read_aggregate(struct pool_bytes in, size_t at, char type, struct value *value)
{
    enum pl_found found = pl_resp_number(in, at, &value->inner, &value->end);

    if (found != PL_WHOLE)
        return found;
    if (value->inner > MOST)
        return PL_BAD;
    if (type == '%' || type == '|')
        value->inner *= 2;
    value->inner += type == '|'; /* the value that it is an attribute of */
    return PL_WHOLE;
}

static enum pl_found read_null(struct pool_bytes in, size_t at, struct value *value)
{
    value->end = at + 4;
    return literal(in, at, "-1\r\n");
}

static enum pl_found read_boolean(struct pool_bytes in, size_t at, struct value *value)
{
    enum pl_found is_true = literal(in, at, "t\r\n"), is_false = literal(in, at, "f\r\n");

    value->end = at + 3;
    return is_true > is_false ? is_true : is_false;
}

static enum pl_found read_checked_line(struct reading *reading, struct pool_bytes in,
                                       struct value *value)
{
    const unsigned char *bytes = in.data, *text = bytes + reading->at + 1, *end;
    enum pl_found found = read_line(reading, in, value);

    if (found != PL_WHOLE)
        return found;
    end = bytes + value->end - 2;
    return (text[-1] == ',' ? is_double(text, end) : is_big_number(text, end)) ? PL_WHOLE : PL_BAD;
}

static enum pl_found read_value(struct reading *reading, struct pool_bytes in, struct value *value)
{
    const char *bytes = in.data;
    size_t at = reading->at + 1;
    char type = bytes[reading->at];

    switch (type) {
    case '$':
    case '*':
        if (at < in.size && bytes[at] == '-')
            return read_null(in, at, value);
        return type == '$' ? read_string(in, at, type, value) : read_aggregate(in, at, type, value);
    case '+':
    case '-':
        return read_line(reading, in, value);
    case ':':
        return read_integer(in, at, value);
    case '_':
        value->end = at + 2;
        return literal(in, at, "\r\n");
    case '#':
        return read_boolean(in, at, value);
    case ',':
    case '(':
        return read_checked_line(reading, in, value);
    case '!':
    case '=':
        return read_string(in, at, type, value);
    case '%':
    case '~':
    case '|':
    case '>':
        return read_aggregate(in, at, type, value);
    default:
        return PL_BAD;
    }
}

/* Goes on behind a value, or into it. False: there are too many. */
static bool advance(struct reading *reading, const struct value *value)
{
    reading->at = reading->searched = value->end;
    if (value->inner > MOST - reading->owed)
        return false;
    reading->owed += value->inner;
    reading->owed--;
    if (value->inner) {
        if (reading->depth == DEPTH)
            return false;
        reading->left[reading->depth++] = value->inner;
        return true;
    }
    while (reading->depth && --reading->left[reading->depth - 1] == 0)
        reading->depth--; /* the last value of an aggregate ends that one too */
    return true;
}

/* The value at the top, behind its attributes, is the last one that is owed. */
static enum pl_found look_at_top(struct reading *reading, char type)
{
    bool is_top = reading->top == reading->at + 1;

    if (!reading->top && reading->owed == 1 && type != '|') {
        reading->top = reading->at + 1;
        is_top = true;
    }
    return type == '>' && !is_top ? PL_BAD : PL_WHOLE;
}

/* All that is known of its size by now is a lower bound. */
static enum pl_found ask_for_more(const struct reading *reading, const struct value *value,
                                  size_t have, struct pool_message *message)
{
    uint64_t least = reading->at + SMALLEST * reading->owed;

    if (value->end)
        least = value->end + SMALLEST * (reading->owed - 1);
    if (least > have)
        message->wanted = (size_t)least;
    return PL_MORE;
}

static enum pl_found read_message(struct reading *reading, struct pool_bytes in,
                                  struct pool_message *message)
{
    enum pl_found found;

    if (!reading->owed)
        reading->owed = 1;
    do {
        struct value value = { .end = 0 };

        if (reading->at == in.size)
            return ask_for_more(reading, &value, in.size, message);
        if (look_at_top(reading, ((const char *)in.data)[reading->at]) == PL_BAD)
            return PL_BAD;
        found = read_value(reading, in, &value);
        if (found == PL_MORE)
            return ask_for_more(reading, &value, in.size, message);
        if (found == PL_BAD || !advance(reading, &value))
            return PL_BAD;
    } while (reading->owed);
    return PL_WHOLE;
}

/* Does the push at `push` begin with that word? */
static bool begins_with(struct pool_bytes push, const char *word)
{
    const char *end = (const char *)push.data + push.size;
    const char *text = memchr(push.data, '\n', push.size);
    size_t size = strlen(word);

    if (!text || ++text == end)
        return false;
    if (*text == '$')
        text = memchr(text, '\n', (size_t)(end - text));
    return (size_t)(end - text) > size + 1 && memcmp(text + 1, word, size) == 0 &&
           text[size + 1] == '\r';
}

/* Says what the message is. False: it cannot be in step with what was asked. */
static bool describe(struct pool_bytes value, uint64_t hint, struct pool_message *message)
{
    const char *word = pl_resp_confirmation(hint), type = *(const char *)value.data;

    message->kind = POOL_REPLY;
    message->failed = type == '-' || type == '!';
    if (type == '>' && !(word && begins_with(value, word)))
        message->kind = POOL_PUSH;
    else if (hint == PL_RESP_QUIT)
        message->closes = true;
    else if (word && type != '>' && !message->failed)
        return false;
    return true;
}

static long next(void *state, struct pool_bytes in, bool at_end, uint64_t hint,
                 struct pool_message *message)
{
    struct reading *reading = state;
    const char *bytes = in.data;
    enum pl_found found;
    size_t top;

    (void)at_end;
    if (!in.size)
        return 0;
    found = read_message(reading, in, message);
    if (found == PL_MORE)
        return 0;
    if (PL_UNLIKELY(found == PL_BAD)) {
        memset(reading, 0, sizeof(*reading));
        return POOL_E_PROTOCOL;
    }
    message->body = (struct pool_bytes){ bytes, reading->at };
    top = reading->top - 1;
    reading->at = reading->searched = reading->top = 0;
    if (!describe((struct pool_bytes){ bytes + top, message->body.size - top }, hint, message))
        return POOL_E_PROTOCOL;
    return (long)message->body.size;
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
    expect->replies = 0;
    expect->hint = PL_RESP_ANY;
    status = pl_resp_commands(body, expect);
    expect->closes = expect->hint == PL_RESP_QUIT;
    return status ? status : pool_out_append(out, body.data, body.size);
}

const struct pool_codec *pool_codec_resp(void)
{
    static const struct pool_codec codec = { .size = sizeof(struct pool_codec),
                                             .name = "resp",
                                             .read_state_size = sizeof(struct reading),
                                             .next = next,
                                             .encode = encode };

    return &codec;
}
