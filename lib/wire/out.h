/* out.h: where a codec's `encode` writes: the end of a buffer, up to a bound. A frame that could
 * not be written whole is taken back. */
#ifndef PL_WIRE_OUT_H
#define PL_WIRE_OUT_H

#include "base/buffer.h"
#include "commpool/codec.h"

struct pool_out {
    struct pl_buffer *buffer;
    size_t most;                        /* bytes of one frame */
    size_t before;                      /* bytes in the buffer when the frame was begun */
    enum pool_status status;            /* of the first append that failed */
};

struct pl_frame {
    enum pool_message_kind kind;
    uint64_t key;
    struct pool_bytes body;
};

unsigned char *pl_out_extend_slowly(struct pool_out *out, size_t size) PL_MUST_USE;

/* Appends `size` bytes that the caller fills in at once; NULL: out->status says why not. */
static inline PL_MUST_USE unsigned char *pl_out_extend(struct pool_out *out, size_t size)
{
    struct pl_buffer *buffer = out->buffer;
    unsigned char *at;

    if (PL_UNLIKELY(!buffer->data || size > buffer->capacity - buffer->end ||
                    size > out->most - (pl_buffer_size(buffer) - out->before)))
        return pl_out_extend_slowly(out, size);
    at = (unsigned char *)buffer->data + buffer->end;
    buffer->end += size;
    return at;
}

/* Appends one frame, or nothing at all. Of a request, *expect says what comes back. `out` needs its
 * buffer and its bound only. */
enum pool_status pl_out_encode(struct pool_out *out, const struct pool_codec *codec,
                               void *write_state, const struct pl_frame *frame,
                               struct pool_expect *expect) PL_MUST_USE;

#endif
