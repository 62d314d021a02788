/* push.h: pushes that a borrower met on his way to an answer. They are copied and told on the mux,
 * in the order in which they came; unasked.h has those that lines meet. */
#ifndef PL_POOL_PUSH_H
#define PL_POOL_PUSH_H

#include "commpool/codec.h"
#include "net/connection.h"

/* For the actor of a connection that the caller holds, else an orphan. POOL_E_MEMORY; POOL_E_FULL:
 * too much of it waits to be told. */
enum pool_status pl_push_tell(struct pl_connection *connection, struct pool_conn conn,
                              const struct pool_message *message) PL_MUST_USE;

#endif
