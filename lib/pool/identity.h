/* identity.h: connections whose numbers other code took, as the pool itself finds out. */
#ifndef PL_POOL_IDENTITY_H
#define PL_POOL_IDENTITY_H

#include <stdint.h>

struct pool;

/* Forgets the one that a new connection's `robbed` names, when it is of this pool, and tells
 * whoever has it; one of another pool is doomed, and learns of it at its next operation. The pool
 * is referred to, no lock held. */
void pl_identity_forget_robbed(struct pool *pool, uint32_t robbed);

#endif
