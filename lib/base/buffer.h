/* buffer.h: bytes in a queue: appended at the end, taken from the front. It grows by doubling and
 * locks nothing. */
#ifndef PL_BASE_BUFFER_H
#define PL_BASE_BUFFER_H

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#include "base/assert.h"
#include "base/compiler.h"

struct pl_buffer {
    char *data;
    size_t start, end, capacity;        /* in use: data[start..end) */
};

static inline size_t pl_buffer_size(const struct pl_buffer *buffer)
{
    return buffer->end - buffer->start;
}

/* False: no memory. */
bool pl_buffer_append_slowly(struct pl_buffer *buffer, const void *data, size_t size) PL_MUST_USE;

static inline PL_MUST_USE bool pl_buffer_append(struct pl_buffer *buffer, const void *data,
                                                size_t size)
{
    if (PL_UNLIKELY(!size || size > buffer->capacity - buffer->end))
        return pl_buffer_append_slowly(buffer, data, size);
    memcpy(buffer->data + buffer->end, data, size);
    buffer->end += size;
    return true;
}

/* From the front. */
static inline void pl_buffer_drop(struct pl_buffer *buffer, size_t size)
{
    pl_assert(size <= pl_buffer_size(buffer));
    buffer->start += size;
    if (buffer->start == buffer->end)
        buffer->start = buffer->end = 0;
}

void pl_buffer_cut(struct pl_buffer *buffer, size_t size);      /* from the end */

/* Room behind its bytes for at least `least` more, *room of it; NULL: no memory. Then: so many were
 * put there. */
void *pl_buffer_space(struct pl_buffer *buffer, size_t least, size_t *room) PL_MUST_USE;
void pl_buffer_filled(struct pl_buffer *buffer, size_t size);

void pl_buffer_fini(struct pl_buffer *buffer);

#endif
