/* open.h: how a peer comes to a new connection: a share of the pool's cap, a dial on the mux, room
 * when descriptors ran out, the program's hook, and then the first waiter. Whether one is to be
 * opened at all is decided in supply.c, which takes the share; how an opening ends that was ordered
 * to, or how far it is, stands in unready.c.
 */
#ifndef PL_POOL_OPEN_H
#define PL_POOL_OPEN_H

#include "pool/peer.h"

/* The mux has an event of a connection that is being opened. */
void pl_open_on_event(struct pl_connection *connection);

/* on_new_connection is done with it: 0 makes it ready, else `failure` says why not. Mux thread. */
void pl_open_finish(struct pl_connection *connection, const struct pl_failure *failure);

/* From now on the setup of one has so much time, whatever it had before; POOL_NONE: as much as it
 * likes. Mux thread. */
void pl_open_give_time(struct pl_connection *connection, uint32_t ms);

/* What every connection is given when it is connected: age, uses, whether it must be prepared. */
void pl_open_note_birth(struct pl_connection *connection, uint64_t now_ns);

/* A share of the caps, by evicting if need be; false: *is_reserved says whether descriptors that
 * are kept for the program are what is missing. */
bool pl_open_take_share(struct pool *pool, bool *is_reserved) PL_MUST_USE;

/* Ends the opening of one, and tells who waited for it. Mux thread. */
void pl_open_give_up(struct pl_connection *connection, const struct pl_failure *failure);
/* How the opening of one ends that was ordered to: the pool ends, or it was killed, and so it
 * fails; or it was cleared, of which nobody hears. */
struct pl_failure pl_open_ordered_failure(const struct pl_connection *connection);

/* Stops what this peer has on the mux: all of it, because the pool ends, or what was cleared or
 * killed. Mux thread. */
void pl_open_abort(struct pl_peer *peer, bool is_ordered);
bool pl_open_has_unready(struct pl_peer *peer, bool is_ordered); /* is there any? Peer lock held */

/* Begins to open one that is planned: counted, and with a share of the caps. False: no memory. */
bool pl_open_begin(struct pl_peer *peer) PL_MUST_USE;

/* Asks the program once for each time that nothing could be removed for this peer; it says whether
 * to wait for room. *was_told: it was asked just now, and may have made some: one more try is worth
 * while. */
bool pl_open_may_wait_for_room(struct pl_peer *peer, bool *was_told) PL_MUST_USE;

/* The phase that a caller who waits at this peer is in, and since when it is tried what he waits
 * for (0: it is not). */
enum pool_phase pl_open_phase(struct pl_peer *peer, uint64_t *tried_ns);

#endif
