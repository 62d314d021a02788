/* reserve.h: room for descriptors of the program's own. While a pool was asked to keep some free,
 * all pools on its mux together have no more connections than leave these numbers free.
 *
 * The bound is worked out from what is open when a pool is asked, and from the limit as it is at
 * each birth: connections <= limit - left, where `left` is what all other code had open then, plus
 * what is reserved.
 */
#ifndef PL_POOL_RESERVE_H
#define PL_POOL_RESERVE_H

#include <stdbool.h>

#include "base/compiler.h"

struct pool;
struct pl_room;

/* A birth; false: no more may be born. */
bool pl_reserve_take_share(struct pl_room *room) PL_MUST_USE;
void pl_reserve_give_share(struct pl_room *room);

/* The pool ends, and what it was asked for with it. */
void pl_reserve_end(struct pool *pool);

#endif
