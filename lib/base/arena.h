/* arena.h: type-stable memory. An element that was taken and given back stays an element of the
 * same type for ever, so a thread that holds an old pointer may still read its atomic fields: it
 * sees that the element is somebody else's now instead of crashing. Nothing else may be read
 * through an old pointer.
 *
 * An arena only grows; elements are reused first in, first out, so that a number comes back as late
 * as possible. The pages go back when the library is unloaded.
 */
#ifndef PL_BASE_ARENA_H
#define PL_BASE_ARENA_H

#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/list.h"

#define PL_ARENA_FIRST 32u              /* elements of the first chunk; each chunk has twice as many
                                         * as the one before */
#define PL_ARENA_CHUNKS 20

/* Must be the first member of what lives in an arena. */
struct pl_arena_node {
    struct pl_list link;                /* in the arena's free list, else unlinked */
    uint32_t index;                     /* fixed for ever */
};

struct pl_arena {
    size_t element_size;
    void (*prepare)(void *element);     /* once for each element, before it is first taken; may be
                                         * NULL */
    pthread_mutex_t lock;
    struct pl_list unused;              /* oldest first */
    uint32_t made, taken;
    _Atomic(char *) chunks[PL_ARENA_CHUNKS];
};

#define PL_ARENA_INIT(name, type, prepare_element)                                                 \
    { .element_size = sizeof(type), .prepare = (prepare_element),                                  \
      .lock = PTHREAD_MUTEX_INITIALIZER, .unused = { &(name).unused, &(name).unused } }

void *pl_arena_take(struct pl_arena *arena);                    /* NULL: no memory */
void pl_arena_give(struct pl_arena *arena, void *element);
/* Any thread, no lock. What was never taken is NULL or all zeros. */
void *pl_arena_at(struct pl_arena *arena, uint32_t index);
bool pl_arena_is_used(struct pl_arena *arena);                  /* is an element taken? */
void pl_arena_release(struct pl_arena *arena); /* unmaps everything, unless an element is taken */

/* For fork(): while it is held nobody takes or gives, so that the child finds the lists whole.
 * Visiting sees every element that was ever made, taken or not, while it is held. */
void pl_arena_hold(struct pl_arena *arena);
void pl_arena_let_go(struct pl_arena *arena);
void pl_arena_visit(struct pl_arena *arena, void (*visit)(void *element, void *argument),
                    void *argument);

#endif
