/* heap.c: how many bytes of the heap are alive, of those who allocate by what stands here. */
#include <malloc.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "bench.h"

static _Atomic int64_t live_bytes;

void *heap_malloc(size_t size)
{
    void *memory = malloc(size);

    atomic_fetch_add(&live_bytes, (int64_t)malloc_usable_size(memory));
    return memory;
}

void *heap_realloc(void *memory, size_t size)
{
    int64_t before = (int64_t)malloc_usable_size(memory);
    void *moved = realloc(memory, size);

    if (moved)
        atomic_fetch_add(&live_bytes, (int64_t)malloc_usable_size(moved) - before);
    return moved;
}

void heap_free(void *memory)
{
    atomic_fetch_sub(&live_bytes, (int64_t)malloc_usable_size(memory));
    free(memory);
}

void heap_begin(void)
{
    need_ok(pool_set_allocator(heap_malloc, heap_realloc, heap_free), "pool_set_allocator");
}

int64_t heap_bytes(void)
{
    return atomic_load(&live_bytes);
}
