/* log.h: the lines that a pool writes to on_log: what an operator wants to know and no status
 * tells. Writing one only queues it, like an event; it is told when no lock is held. Without on_log
 * they cost one look at an option.
 */
#ifndef PL_POOL_LOG_H
#define PL_POOL_LOG_H

#include "commpool/observe.h"

struct pool;
struct pl_connection;

__attribute__((format(printf, 3, 4))) void pl_log(struct pool *pool, enum pool_log_level level,
                                                  const char *format, ...);

/* The connection is being closed: says so when the reason is one to be told. */
void pl_log_closed(struct pool *pool, const struct pl_connection *connection);

#endif
