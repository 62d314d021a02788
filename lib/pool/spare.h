/* spare.h: min_idle: connections kept open to an address once it was used. They are opened on the
 * mux, one after the other, never at the cost of another connection; one that ends is replaced.
 */
#ifndef PL_POOL_SPARE_H
#define PL_POOL_SPARE_H

#include "pool/peer.h"

/* How many the peer is to have now, counting all that there are. Peer lock held, as for the next
 * one. */
uint32_t pl_spare_least(const struct pl_peer *peer);

/* One more came to nothing. A peer that cannot be reached, and has no other connection, is left
 * alone until it is used again. */
void pl_spare_fail(struct pl_peer *peer, const struct pl_failure *failure);

/* A connection goes. One that nobody used and that did not last came to nothing, too: a peer that
 * accepts and closes, because it is full, must not be stormed. Peer lock held. */
void pl_spare_lose(struct pl_peer *peer, const struct pl_connection *connection);

/* A connection of the peer is ready: from now on there are to be spares. No lock held. */
void pl_spare_begin(struct pl_peer *peer);

/* A connection came or went: sees to it that the peer is tended if it has too few. No lock held. */
void pl_spare_note(struct pl_peer *peer);

/* Opens what is missing, as far as it can be had. Answers when to look again; PL_NEVER: nothing is
 * missing. Mux thread; no lock held. */
uint64_t pl_spare_tend(struct pl_peer *peer, uint64_t now_ns);

#endif
