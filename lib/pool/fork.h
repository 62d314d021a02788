/* fork.h: what becomes of the pools of the parent in a child of fork(). They answer POOL_E_FORKED,
 * and destroying one closes the child's copies of its descriptors. Nothing else of theirs is
 * touched: threads that are no more may have held their locks, and half changed their lists.
 *
 * A callback may fork and come back in the child. Whoever calls one looks afterwards whether the
 * pool (pl_pool_is_forked) or the mux (is_forked) is the parent's now, and then leaves without a
 * further step; functions that are called on the way out do nothing for such a pool.
 */
#ifndef PL_POOL_FORK_H
#define PL_POOL_FORK_H

#include <stdbool.h>

#include "base/compiler.h"

struct pool;

/* From now on a fork is noticed; false: no memory. */
bool pl_fork_notice(void) PL_MUST_USE;

/* The end, in the child, of a pool of the parent. */
void pl_fork_destroy(struct pool *pool);

#endif
