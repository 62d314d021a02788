/* buffer.c: see buffer.h. */
#include "base/buffer.h"

#include <string.h>

#include "base/assert.h"
#include "base/os.h"

#define FIRST 512u
#define LARGE (1u << 20) /* from here on, what is asked for is not doubled */

static bool make_room(struct pl_buffer *buffer, size_t size)
{
    size_t used = pl_buffer_size(buffer), capacity = buffer->capacity ? buffer->capacity : FIRST;
    char *data;

    if (size <= buffer->capacity - buffer->end)
        return true;
    if (buffer->start) {
        memmove(buffer->data, buffer->data + buffer->start, used);
        buffer->start = 0;
        buffer->end = used;
    }
    if (size <= buffer->capacity - buffer->end)
        return true;
    if (size > SIZE_MAX / 4 - used)
        return false;
    while (capacity < used + size && capacity < LARGE)
        capacity *= 2;
    if (capacity < used + size)
        capacity = used + size + used / 2;
    data = pl_os->realloc(buffer->data, capacity);
    if (!data)
        return false;
    buffer->data = data;
    buffer->capacity = capacity;
    return true;
}

bool pl_buffer_append_slowly(struct pl_buffer *buffer, const void *data, size_t size)
{
    if (!size)
        return true;
    if (!make_room(buffer, size))
        return false;
    memcpy(buffer->data + buffer->end, data, size);
    buffer->end += size;
    return true;
}

void pl_buffer_cut(struct pl_buffer *buffer, size_t size)
{
    pl_assert(size <= pl_buffer_size(buffer));
    buffer->end -= size;
    if (buffer->start == buffer->end)
        buffer->start = buffer->end = 0;
}

void *pl_buffer_space(struct pl_buffer *buffer, size_t least, size_t *room)
{
    if (!make_room(buffer, least ? least : 1))
        return NULL;
    *room = buffer->capacity - buffer->end;
    return buffer->data + buffer->end;
}

void pl_buffer_filled(struct pl_buffer *buffer, size_t size)
{
    pl_assert(size <= buffer->capacity - buffer->end);
    buffer->end += size;
}

void pl_buffer_fini(struct pl_buffer *buffer)
{
    pl_os->free(buffer->data);
    *buffer = (struct pl_buffer){ 0 };
}
