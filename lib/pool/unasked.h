/* unasked.h: messages on a line that answer no query: pushes for the connection's actor, requests
 * of the peer, and replies that nobody waits for. They are copied, bounded, and told on the mux in
 * the order in which they came, but for requests beyond max_inflight, and pushes behind them on the
 * same line, which are kept back until others are answered. The exchange is locked, but for what
 * says otherwise. */
#ifndef PL_POOL_UNASKED_H
#define PL_POOL_UNASKED_H

#include "pool/exchange.h"

/* For on_orphan; where there is none, or no memory, it is only counted. */
void pl_unasked_orphan(struct pl_line *line, const struct pool_message *message);
/* The same of a connection, by its id, that is no line. */
void pl_unasked_stray(struct pl_exchange *exchange, uint64_t connection,
                      const struct pool_message *message);

/* For the actor, and counted with what the line has yet to tell; else as an orphan. False: no
 * memory. */
bool pl_unasked_push(struct pl_line *line, const struct pool_message *message) PL_MUST_USE;

/* For on_request, and counted so. POOL_E_PROTOCOL: nobody serves requests; POOL_E_MEMORY. */
enum pool_status pl_unasked_request(struct pl_line *line,
                                    const struct pool_message *message) PL_MUST_USE;

/* A request was answered: what was kept back for that is to be told. */
void pl_unasked_admit_kept(struct pl_line *line);

/* The line ends: nobody could answer what was kept back. */
void pl_unasked_drop_kept(struct pl_line *line);

/* Tells all of them, and unlocks meanwhile; mux thread. */
void pl_unasked_tell(struct pl_exchange *exchange);

#endif
