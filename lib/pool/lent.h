/* lent.h: event-driven use of a connection that pool_communicate_async() lent: watching, queued
 * writes, silence, and the loan's deadline. The parts that it shares with hooks and actors are in
 * channel.h.
 *
 * Its callbacks run without a pin, so that they may return or discard the connection: after each of
 * them the loan is looked for anew. All of it belongs to the mux thread, but for the end of a loan,
 * which may come from any.
 */
#ifndef PL_POOL_LENT_H
#define PL_POOL_LENT_H

#include "pool/channel.h"

/* The mux has an event of a connection that is lent. */
void pl_lent_on_event(struct pl_connection *connection, uint64_t word, uint32_t events);

/* Nothing moved for as long as its borrower allows. */
void pl_lent_on_silence(struct pl_channel *channel, enum pool_direction direction);

/* The loan of this handle is driven by events from now on; it is pinned. False: no memory. */
bool pl_lent_begin(struct pl_channel *channel, uint64_t serial) PL_MUST_USE;
/* It was doomed, and no event need come of that: the mux looks at it. Any thread; pinned. */
void pl_lent_look(struct pl_connection *connection);
/* Its deadline may be another one now. Any thread; pinned. */
void pl_lent_deadline_moved(struct pl_connection *connection);

/* The pool's end took the channel from a loan: the watcher's last event. */
void pl_lent_tell_end_of_pool(struct pl_channel *channel);

/* The loan of a connection that was driven by events is over, and the connection is the caller's
 * (MUX): lets go of it on the mux thread, then gives it back, or closes it for `reason` (-1: none).
 * Any thread. */
void pl_lent_end(struct pl_connection *connection, int reason);

#endif
