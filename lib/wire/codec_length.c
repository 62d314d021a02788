/* codec_length.c: frames with their size in front: 4 bytes of size, 4 of id, 4 of flags, all
 * big-endian, then the body. It keeps no state. */
#include <arpa/inet.h>
#include <string.h>

#include "base/compiler.h"
#include "wire/out.h"

#define HEAD 12u

enum { REQUEST = 1, REPLY = 2, PART = 3, PUSH = 4, ERROR = 8 };

static uint32_t read_u32(const unsigned char *at)
{
    uint32_t number;

    memcpy(&number, at, sizeof(number));
    return ntohl(number);
}

static void write_u32(unsigned char *at, uint32_t number)
{
    number = htonl(number);
    memcpy(at, &number, sizeof(number));
}

/* False: it is none of ours. */
static bool read_flags(uint32_t flags, struct pool_message *message)
{
    static const enum pool_message_kind kinds[] = {
        [REQUEST] = POOL_REQUEST, [REPLY] = POOL_REPLY, [PART] = POOL_PART, [PUSH] = POOL_PUSH
    };

    message->failed = flags == (REPLY | ERROR);
    if (message->failed)
        flags = REPLY;
    if (flags < REQUEST || flags > PUSH)
        return false;
    message->kind = kinds[flags];
    return message->kind == POOL_PUSH || message->key;
}

static long next(void *state, struct pool_bytes in, bool at_end, uint64_t hint,
                 struct pool_message *message)
{
    const unsigned char *head = in.data;
    uint32_t size;

    (void)state;
    (void)at_end;
    (void)hint;
    if (in.size < HEAD)
        return 0;
    size = read_u32(head);
    message->key = read_u32(head + 4);
    if (PL_UNLIKELY(!read_flags(read_u32(head + 8), message)))
        return POOL_E_PROTOCOL;
    if (in.size - HEAD < size) {
        message->wanted = (size_t)HEAD + size;
        return 0;
    }
    message->body = (struct pool_bytes){ head + HEAD, size };
    return (long)(HEAD + (size_t)size);
}

static enum pool_status encode(void *state, enum pool_message_kind kind, uint64_t key,
                               struct pool_bytes body, struct pool_out *out,
                               struct pool_expect *expect)
{
    static const uint32_t flags[] = { [POOL_REPLY] = REPLY,
                                      [POOL_PART] = PART,
                                      [POOL_PUSH] = PUSH,
                                      [POOL_REQUEST] = REQUEST,
                                      [POOL_ERROR_REPLY] = REPLY | ERROR };
    unsigned char *frame;

    (void)state;
    if ((unsigned)kind > POOL_ERROR_REPLY || body.size > UINT32_MAX || key > UINT32_MAX)
        return POOL_E_ARGUMENT;
    if (!key && kind != POOL_PUSH)
        return POOL_E_ARGUMENT;
    frame = pl_out_extend(out, HEAD + body.size);
    if (!frame)
        return out->status;
    write_u32(frame, (uint32_t)body.size);
    write_u32(frame + 4, (uint32_t)key);
    write_u32(frame + 8, flags[kind]);
    if (body.size)
        memcpy(frame + HEAD, body.data, body.size);
    expect->replies = kind == POOL_REQUEST;
    return POOL_OK;
}

const struct pool_codec *pool_codec_length(void)
{
    static const struct pool_codec codec = { .size = sizeof(struct pool_codec),
                                             .name = "length",
                                             .keyed = true,
                                             .key_limit = UINT32_MAX,
                                             .next = next,
                                             .encode = encode };

    return &codec;
}
