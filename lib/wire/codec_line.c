/* codec_line.c: a message is a line: it ends with '\n', and a '\r' before that is none of the body
 * either. Replies come in order, one for each request.
 *
 * The state is how many bytes were searched for the newline in vain, so that none is looked at
 * twice. */
#include <string.h>

#include "base/compiler.h"
#include "wire/out.h"

static long next(void *state, struct pool_bytes in, bool at_end, uint64_t hint,
                 struct pool_message *message)
{
    size_t *searched = state;
    const char *bytes = in.data;
    const char *end = memchr(bytes + *searched, '\n', in.size - *searched);
    size_t size;

    (void)at_end;
    (void)hint;
    if (!end) {
        *searched = in.size;
        return 0;
    }
    *searched = 0;
    size = (size_t)(end - bytes);
    message->kind = POOL_REPLY;
    message->body = (struct pool_bytes){ bytes, size && end[-1] == '\r' ? size - 1 : size };
    return (long)size + 1;
}

/* A reply is known by nothing, so one side only may ask, and only for one line with one line. */
static enum pool_status encode(void *state, enum pool_message_kind kind, uint64_t key,
                               struct pool_bytes body, struct pool_out *out,
                               struct pool_expect *expect)
{
    enum pool_status status;

    (void)state;
    (void)key;
    if ((kind != POOL_REQUEST && kind != POOL_REPLY) ||
        (body.size && memchr(body.data, '\n', body.size)))
        return POOL_E_ARGUMENT;
    expect->replies = kind == POOL_REQUEST;
    status = pool_out_append(out, body.data, body.size);
    return status ? status : pool_out_append(out, "\n", 1);
}

const struct pool_codec *pool_codec_line(void)
{
    static const struct pool_codec codec = { .size = sizeof(struct pool_codec),
                                             .name = "line",
                                             .read_state_size = sizeof(size_t),
                                             .next = next,
                                             .encode = encode };

    return &codec;
}
