/* backoff.h: what failures to connect do to a peer: pauses between dials, each one longer, and
 * suspension, in which callers are refused at once. Deciding is in decide.h. Nothing is counted
 * where the options ask for neither.
 */
#ifndef PL_POOL_BACKOFF_H
#define PL_POOL_BACKOFF_H

#include "pool/peer.h"

/* A dial that was begun at `begun_ns` came to nothing, or to a connection. Mux thread; no lock
 * held. */
void pl_backoff_fail(struct pl_peer *peer, uint64_t begun_ns, const struct pl_failure *failure);
void pl_backoff_succeed(struct pl_peer *peer);

/* May one be dialed now? Peer lock held, as for all that follow. */
bool pl_backoff_is_pausing(const struct pl_peer *peer);

/* Is a caller to be refused who needs a new connection? `failure` then says so. */
bool pl_backoff_refuses(const struct pl_peer *peer, struct pl_failure *failure);

/* The deadline of a caller came in the pause: `failure` gets the cause of the pause. */
void pl_backoff_blame(const struct pl_peer *peer, struct pl_failure *failure);

/* Does it back off, with no connection? `failure` is then what its last attempt came to. */
bool pl_backoff_has_failed(const struct pl_peer *peer, struct pl_failure *failure);

/* Forgets failures that are long past. Answers when to tend the peer again; PL_NEVER: there is
 * nothing to tend. */
uint64_t pl_backoff_tend(struct pl_peer *peer, uint64_t now_ns);

#endif
