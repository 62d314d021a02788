/* open.h: how a peer comes to a new connection: a share of the pool's cap, a dial on the mux, room
 * when descriptors ran out, the program's hook, and then the first waiter. */
#ifndef PL_POOL_OPEN_H
#define PL_POOL_OPEN_H

#include "pool/peer.h"

/* The mux has an event of a connection that is being opened. */
void pl_open_on_event(struct pl_connection *connection, uint32_t events);

/* on_new_connection is done with it: 0 makes it ready, else `failure` says why not. Mux thread. */
void pl_open_finish(struct pl_connection *connection, const struct pl_failure *failure);

/* The pool ends: stops what this peer has on the mux. Mux thread. */
void pl_open_abort_all(struct pl_peer *peer);
bool pl_open_has_unready(struct pl_peer *peer);         /* is there any? Peer lock held */

/* The phase that a caller who waits at this peer is in. */
enum pool_phase pl_open_phase(struct pl_peer *peer);

#endif
