/* wait.h: how a caller comes to a connection that it must wait for: the queue of its peer. A
 * blocking caller waits in its thread's cell; an asynchronous one (request.c) is told on the mux.
 */
#ifndef PL_POOL_WAIT_H
#define PL_POOL_WAIT_H

#include "pool/borrow.h"

/* Some connection for this caller, LENT and not looked at yet; NULL: borrow->failure. */
struct pl_connection *pl_wait_for_some(struct pl_borrow *borrow) PL_MUST_USE;

/* What is idle, or a place in the queue; peer lock held. NULL with POOL_OK: it is queued. */
struct pl_connection *pl_wait_join(struct pl_borrow *borrow, struct pl_waiter *waiter,
                                   enum pool_status *status) PL_MUST_USE;

/* What pl_wait_join() answered, as a failure. */
struct pl_failure pl_wait_refusal(enum pool_status status);

/* The deadline came while waiting. What for decides what it is called; *tried_ns as for
 * pl_open_phase(). */
struct pl_failure pl_wait_out_of_time(struct pl_peer *peer, uint64_t *tried_ns);

/* When nobody waits at the peer any more it needs no room either. Peer lock held. */
void pl_wait_calm_down(struct pl_peer *peer);

#endif
