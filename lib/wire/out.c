/* out.c: see out.h. */
#include "wire/out.h"

enum pool_status pool_out_append(struct pool_out *out, const void *data, size_t size)
{
    if (!out || (!data && size))
        return POOL_E_ARGUMENT;
    if (out->status)
        return out->status;
    if (size > out->most - (pl_buffer_size(out->buffer) - out->before))
        out->status = POOL_E_FULL;
    else if (!pl_buffer_append(out->buffer, data, size))
        out->status = POOL_E_MEMORY;
    return out->status;
}

unsigned char *pl_out_extend_slowly(struct pool_out *out, size_t size)
{
    size_t room;
    char *at = NULL;

    if (size > out->most - (pl_buffer_size(out->buffer) - out->before)) {
        out->status = POOL_E_FULL;
        return NULL;
    }
    at = pl_buffer_space(out->buffer, size, &room);
    if (!at) {
        out->status = POOL_E_MEMORY;
        return NULL;
    }
    out->buffer->end += size;
    return (unsigned char *)at;
}

/* A codec's own mistakes stay its own. None says when to come again, so whoever did would never
 * end. */
static enum pool_status checked(enum pool_status status)
{
    bool is_meant = status <= POOL_OK && status >= POOL_E_SYSTEM && status != POOL_E_WOULD_BLOCK;

    return is_meant ? status : POOL_E_USER;
}

enum pool_status pl_out_encode(struct pool_out *out, const struct pool_codec *codec,
                               void *write_state, const struct pl_frame *frame,
                               struct pool_expect *expect)
{
    enum pool_status status;

    out->before = pl_buffer_size(out->buffer);
    out->status = POOL_OK;
    *expect = (struct pool_expect){ .size = sizeof(*expect) };
    status = checked(codec->encode(write_state, frame->kind, frame->key, frame->body, out, expect));
    if (!status)
        status = out->status;
    if (status)
        pl_buffer_cut(out->buffer, pl_buffer_size(out->buffer) - out->before);
    return status;
}
