/* buffer.h: bytes in a queue: appended at the end, taken from the front. It grows by doubling and
 * locks nothing. */
#ifndef PL_BASE_BUFFER_H
#define PL_BASE_BUFFER_H

#include <stdbool.h>
#include <stddef.h>

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
bool pl_buffer_append(struct pl_buffer *buffer, const void *data, size_t size) PL_MUST_USE;
void pl_buffer_drop(struct pl_buffer *buffer, size_t size);     /* from the front */
void pl_buffer_fini(struct pl_buffer *buffer);

#endif
