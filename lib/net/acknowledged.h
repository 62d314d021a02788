/* acknowledged.h: what the peer's system has acknowledged of what was sent on a connection. It is
 * evidence, and no proof: an acknowledgement can be late or get lost, and what the system has the
 * program there need not have read. */
#ifndef PL_NET_ACKNOWLEDGED_H
#define PL_NET_ACKNOWLEDGED_H

#include "net/connection.h"

enum pl_acknowledged {
    PL_UNKNOWN,                         /* it is no TCP, not ours any more, or the kernel is old */
    PL_SOME_ACKNOWLEDGED,               /* bytes are under way, or wait to be */
    PL_ALL_ACKNOWLEDGED
};

/* *bytes of the connection, ever, from an origin that stays the same. */
enum pl_acknowledged pl_connection_acknowledged(const struct pl_connection *connection,
                                                uint64_t *bytes) PL_MUST_USE;

#endif
