/* arena.c: chunks of doubling size, found by the position of an index's highest bit. A chunk is
 * published once and never moves, so reading by index needs no lock. */
#include "base/arena.h"

#include "base/os.h"

static unsigned chunk_of(uint32_t index)
{
    return 31u - (unsigned)__builtin_clz(index / PL_ARENA_FIRST + 1u);
}

static uint32_t chunk_start(unsigned chunk)
{
    return PL_ARENA_FIRST * ((1u << chunk) - 1u);
}

static uint32_t chunk_count(unsigned chunk)
{
    return PL_ARENA_FIRST << chunk;
}

/* The chunk in which the next element is made; NULL: no memory. */
static char *chunk_to_fill(struct pl_arena *arena)
{
    unsigned chunk = chunk_of(arena->made);
    char *elements;

    if (chunk >= PL_ARENA_CHUNKS)
        return NULL;
    elements = atomic_load_explicit(&arena->chunks[chunk], memory_order_relaxed);
    if (elements)
        return elements;
    elements = pl_os->map(arena->element_size * chunk_count(chunk));
    if (elements)
        atomic_store_explicit(&arena->chunks[chunk], elements, memory_order_release);
    return elements;
}

/* Makes one more element. Those of a chunk are touched one by one, so what is never taken costs no
 * memory. */
static bool make_one(struct pl_arena *arena)
{
    char *elements = chunk_to_fill(arena);
    struct pl_arena_node *node;

    if (!elements)
        return false;
    node = (void *)(elements +
                    arena->element_size * (arena->made - chunk_start(chunk_of(arena->made))));
    node->index = arena->made++;
    if (arena->prepare)
        arena->prepare(node);
    pl_list_push_back(&arena->unused, &node->link);
    return true;
}

void *pl_arena_take(struct pl_arena *arena)
{
    struct pl_list *link = NULL;

    pthread_mutex_lock(&arena->lock);
    if (!pl_list_is_empty(&arena->unused) || make_one(arena)) {
        link = pl_list_pop_front(&arena->unused);
        arena->taken++;
    }
    pthread_mutex_unlock(&arena->lock);
    return link ? pl_container(link, struct pl_arena_node, link) : NULL;
}

void pl_arena_give(struct pl_arena *arena, void *element)
{
    struct pl_arena_node *node = element;

    pthread_mutex_lock(&arena->lock);
    pl_list_push_back(&arena->unused, &node->link);
    arena->taken--;
    pthread_mutex_unlock(&arena->lock);
}

void *pl_arena_at(struct pl_arena *arena, uint32_t index)
{
    unsigned chunk = chunk_of(index);
    char *elements;

    if (chunk >= PL_ARENA_CHUNKS)
        return NULL;
    elements = atomic_load_explicit(&arena->chunks[chunk], memory_order_acquire);
    return elements ? elements + arena->element_size * (index - chunk_start(chunk)) : NULL;
}

bool pl_arena_is_used(struct pl_arena *arena)
{
    bool is_used;

    pthread_mutex_lock(&arena->lock);
    is_used = arena->taken > 0;
    pthread_mutex_unlock(&arena->lock);
    return is_used;
}

void pl_arena_release(struct pl_arena *arena)
{
    pthread_mutex_lock(&arena->lock);
    if (!arena->taken) {
        for (unsigned chunk = 0; chunk < PL_ARENA_CHUNKS; chunk++) {
            char *elements = atomic_exchange(&arena->chunks[chunk], NULL);

            if (elements)
                pl_os->unmap(elements, arena->element_size * chunk_count(chunk));
        }
        arena->made = 0;
        pl_list_init(&arena->unused);
    }
    pthread_mutex_unlock(&arena->lock);
}

void pl_arena_hold(struct pl_arena *arena)
{
    pthread_mutex_lock(&arena->lock);
}

void pl_arena_let_go(struct pl_arena *arena)
{
    pthread_mutex_unlock(&arena->lock);
}

void pl_arena_visit(struct pl_arena *arena, void (*visit)(void *element, void *argument),
                    void *argument)
{
    for (uint32_t index = 0; index < arena->made; index++)
        visit(pl_arena_at(arena, index), argument);
}
