/* list.h: the intrusive doubly linked list. One struct is node and head; an unlinked node has next
 * == NULL, and linking a linked node is an invariant broken. A list allocates nothing and locks
 * nothing. */
#ifndef PL_BASE_LIST_H
#define PL_BASE_LIST_H

#include <stdbool.h>

#include "base/assert.h"

struct pl_list {
    struct pl_list *next, *previous;
};

static inline void pl_list_init(struct pl_list *list)
{
    list->next = list->previous = list;
}

static inline bool pl_list_is_linked(const struct pl_list *node)
{
    return node->next != NULL;
}

static inline bool pl_list_is_empty(const struct pl_list *list)
{
    return list->next == list;
}

static inline void pl_list_link_before(struct pl_list *place, struct pl_list *node)
{
    pl_assert(!pl_list_is_linked(node));
    node->next = place;
    node->previous = place->previous;
    place->previous->next = node;
    place->previous = node;
}

static inline void pl_list_push_front(struct pl_list *list, struct pl_list *node)
{
    pl_list_link_before(list->next, node);
}

static inline void pl_list_push_back(struct pl_list *list, struct pl_list *node)
{
    pl_list_link_before(list, node);
}

static inline void pl_list_unlink(struct pl_list *node)
{
    pl_assert(pl_list_is_linked(node));
    node->previous->next = node->next;
    node->next->previous = node->previous;
    node->next = node->previous = NULL;
}

/* Unlinks it where it is linked. */
static inline void pl_list_drop(struct pl_list *node)
{
    if (pl_list_is_linked(node))
        pl_list_unlink(node);
}

static inline struct pl_list *pl_list_pop_front(struct pl_list *list)
{
    struct pl_list *node = list->next;

    if (node == list)
        return NULL;
    pl_list_unlink(node);
    return node;
}

/* All nodes of `from`, in order, become the end of `to`; `from` is empty then. */
static inline void pl_list_move_all(struct pl_list *to, struct pl_list *from)
{
    if (pl_list_is_empty(from))
        return;
    from->next->previous = to->previous;
    to->previous->next = from->next;
    from->previous->next = to;
    to->previous = from->previous;
    pl_list_init(from);
}

/* Walks a list; the node in hand may be unlinked meanwhile. */
#define PL_LIST_EACH(node, list)                                                                   \
    for (struct pl_list *node = (list)->next, *node##_next = node->next; node != (list);           \
         node = node##_next, node##_next = node->next)

#endif
