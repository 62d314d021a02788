/* nested.h: calls inside `use`. A thread that holds, through pool_communicate(), every connection
 * that could serve one more call would wait for itself; it is told so instead. Loans by hand do not
 * count, since another thread may return them.
 */
#ifndef PL_POOL_NESTED_H
#define PL_POOL_NESTED_H

#include "pool/peer.h"

/* Does the thread hold all that the peer may have? Peer lock held. */
bool pl_nested_holds_peer(struct pl_peer *peer, const struct pl_thread *self);

/* Does it hold all that the pool may have? No lock held. */
bool pl_nested_holds_pool(struct pool *pool, const struct pl_thread *self);

#endif
