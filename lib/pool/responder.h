/* responder.h: the right to answer one request of the peer, once, from any thread. It holds no
 * connection: when its line is gone, what is answered is dropped. */
#ifndef PL_POOL_RESPONDER_H
#define PL_POOL_RESPONDER_H

#include "pool/exchange.h"

#define PL_RESPONDER_MOST 128u          /* bytes that one takes, without its answer */

/* The exchange is locked; NULL: no memory. */
struct pool_responder *pl_responder_make(struct pl_line *line, uint64_t key) PL_MUST_USE;

/* Of a request that nobody was told of; accepts NULL. The exchange is locked. */
void pl_responder_free(struct pool_responder *responder);

/* The line ends: what waited for its turn is dropped. The exchange is locked. */
void pl_responders_drop(struct pl_line *line);

#endif
