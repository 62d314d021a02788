/* waiter.h: the queue of those who wait at a peer for a connection, who waited longest in front. A
 * waiter who wants a fresh connection stands in it, too, but takes none that comes back.
 *
 * All of it is called with the peer lock held, but for what says otherwise.
 */
#ifndef PL_POOL_WAITER_H
#define PL_POOL_WAITER_H

#include "pool/peer.h"

/* Into the queue: behind all others, or again at the place it had. */
void pl_waiter_link(struct pl_peer *peer, struct pl_waiter *waiter, bool is_again);
void pl_waiter_unlink(struct pl_peer *peer, struct pl_waiter *waiter);

/* Who comes first, for a new connection, or for one that comes back; NULL: nobody. */
struct pl_waiter *pl_waiter_first(struct pl_peer *peer, bool is_new);
/* The one with that many in front of him; NULL: fewer wait. */
struct pl_waiter *pl_waiter_at(struct pl_peer *peer, uint32_t nth);

/* The first one whom a connection that came back could serve, and who was not yet told to look for
 * itself; NULL: all were. */
struct pl_waiter *pl_waiter_next_untold(struct pl_peer *peer);

/* May a newcomer, or whoever looks first, take a connection ahead of this one? */
bool pl_waiter_may_be_passed(const struct pl_peer *peer, const struct pl_waiter *waiter,
                             uint64_t now_ns);

/* It gets the connection, which is LENT. Answers whose thread is to be woken; NULL: it is told on
 * the mux. */
struct pl_thread *pl_waiter_serve(struct pl_peer *peer, struct pl_waiter *waiter,
                                  struct pl_connection *connection);

/* Ends a wait that nobody has ended yet, and says so to whoever waits. */
void pl_waiter_fail(struct pl_peer *peer, struct pl_waiter *waiter,
                    const struct pl_failure *failure);

/* One failure of opening a connection, told to those whom it concerns: begun at `tried_ns`, or not
 * at all (0). No lock held. */
void pl_peer_fail_waiters(struct pl_peer *peer, const struct pl_failure *failure, uint64_t tried_ns,
                          bool all);

/* The same to those who would not wait for what others have. No lock held. */
void pl_peer_fail_hasty(struct pl_peer *peer, const struct pl_failure *failure);

/* Waits anybody, or anybody who is not hasty? No lock held. */
bool pl_peer_has_waiters(struct pl_peer *peer);
bool pl_peer_has_patient(struct pl_peer *peer);

/* How many are on their way, or may be opened at once, also in the place of idle ones. */
uint32_t pl_waiter_coming(struct pl_peer *peer, bool with_idle);

/* Is a connection to be closed, so that one can be opened in its place? Somebody wants a fresh one,
 * the peer may have no more, and none is on its way. `taker` would else get it, or nobody
 * (NULL). */
bool pl_waiter_wants_place(struct pl_peer *peer, const struct pl_waiter *taker);

#endif
