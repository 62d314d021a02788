/* drain.h: connections that are to end soon although nothing is wrong with them: their place left
 * its name, or other settings of TLS are in use. Who has one keeps it until it is given back; an
 * idle one ends at a moment thrown by chance, so that those of many pools do not all move at once.
 */
#ifndef PL_POOL_DRAIN_H
#define PL_POOL_DRAIN_H

#include <stdint.h>

#include "commpool/observe.h"

struct pl_peer;
struct pl_connection;

/* Answers when the peer is to be tended for it; PL_NEVER: it ends sooner by itself. Peer lock
 * held. */
uint64_t pl_drain_soon(struct pl_connection *connection, enum pool_close_reason reason,
                       uint64_t now_ns);

/* Closes the idle ones that are due; answers when the next one is. The peer is entered. */
uint64_t pl_drain_tend(struct pl_peer *peer, uint64_t now_ns);

#endif
