/* reqrsp.c: see reqrsp.h. */
#include "support/reqrsp.h"

#include <string.h>

#define HEAD 11u
#define TRAILER "\r\r\n"
#define TRAILER_SIZE 3u

static uint32_t read_u32(const unsigned char *at)
{
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

static void write_u32(unsigned char *at, uint32_t number)
{
    for (int i = 0; i < 4; i++)
        at[i] = (unsigned char)(number >> (24 - 8 * i));
}

/* The trailer within the id would end the frame for a peer that looks for it. */
static bool is_usable(uint64_t key)
{
    unsigned char bytes[4];

    write_u32(bytes, (uint32_t)key);
    return memcmp(bytes, TRAILER, TRAILER_SIZE) != 0 &&
           memcmp(bytes + 1, TRAILER, TRAILER_SIZE) != 0;
}

static long next(void *state, struct pool_bytes in, bool at_end, uint64_t hint,
                 struct pool_message *message)
{
    const unsigned char *bytes = in.data;
    size_t whole;

    (void)state;
    (void)at_end;
    (void)hint;
    if (in.size < HEAD)
        return 0;
    if (memcmp(bytes, "REQ", 3) != 0 && memcmp(bytes, "RSP", 3) != 0)
        return POOL_E_PROTOCOL;
    whole = (size_t)HEAD + read_u32(bytes + 7) + TRAILER_SIZE;
    if (in.size < whole) {
        message->wanted = whole;
        return 0;
    }
    if (memcmp(bytes + whole - TRAILER_SIZE, TRAILER, TRAILER_SIZE) != 0)
        return POOL_E_PROTOCOL;
    message->kind = bytes[2] == 'Q' ? POOL_REQUEST : POOL_REPLY;
    message->key = read_u32(bytes + 3);
    message->body = (struct pool_bytes){ bytes + HEAD, whole - HEAD - TRAILER_SIZE };
    return (long)whole;
}

/* It has no frame for errors, parts or pushes. */
static enum pool_status encode(void *state, enum pool_message_kind kind, uint64_t key,
                               struct pool_bytes body, struct pool_out *out,
                               struct pool_expect *expect)
{
    unsigned char head[HEAD] = "REQ";
    enum pool_status status;

    (void)state;
    if ((kind != POOL_REQUEST && kind != POOL_REPLY) || body.size > UINT32_MAX)
        return POOL_E_ARGUMENT;
    if (kind == POOL_REPLY)
        memcpy(head, "RSP", 3);
    write_u32(head + 3, (uint32_t)key);
    write_u32(head + 7, (uint32_t)body.size);
    expect->replies = kind == POOL_REQUEST;
    status = pool_out_append(out, head, HEAD);
    if (!status)
        status = pool_out_append(out, body.data, body.size);
    return status ? status : pool_out_append(out, TRAILER, TRAILER_SIZE);
}

const struct pool_codec *reqrsp_codec(void)
{
    static const struct pool_codec codec = { .size = sizeof(codec),
                                             .name = "reqrsp",
                                             .keyed = true,
                                             .key_limit = UINT32_MAX,
                                             .key_allowed = is_usable,
                                             .next = next,
                                             .encode = encode };

    return &codec;
}
