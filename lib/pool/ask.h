/* ask.h: what pool_ask() keeps with a connection from one exchange to the next: the states of the
 * codec, and room for what comes. */
#ifndef PL_POOL_ASK_H
#define PL_POOL_ASK_H

#include "net/connection.h"

/* The connection is idle for longer, or gone: frees that, and what was read ahead. */
void pl_ask_forget(struct pl_connection *connection);

/* What asks next begins with a codec's zeros, though the loan stays the same: `prepare` is over. */
void pl_ask_begin_anew(struct pl_connection *connection);

#endif
