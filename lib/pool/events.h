/* events.h: the stream of observe.h. Noting an event only queues it; it is told when no lock is
 * held, one at a time. */
#ifndef PL_POOL_EVENTS_H
#define PL_POOL_EVENTS_H

#include "commpool/observe.h"
#include "net/connection.h"

struct pool;
struct pl_event_queue;

/* Without on_event and on_log pool->events stays NULL, and POOL_OK is answered. */
enum pool_status pl_events_open(struct pool *pool) PL_MUST_USE;
/* Takes no more, tells what is left and waits for the observer. */
void pl_events_stop(struct pool *pool);
void pl_events_close(struct pool *pool);

/* Noted by whoever owns the connection at that moment, so the order for each connection is the true
 * one. */
void pl_event_created(struct pool *pool, const struct pl_connection *connection);
void pl_event_ready(struct pool *pool, const struct pl_connection *connection);
void pl_event_closed(struct pool *pool, const struct pl_connection *connection);
void pl_event_lent(struct pool *pool, const struct pl_connection *connection, uint64_t waited_ns);
void pl_event_returned(struct pool *pool, const struct pl_connection *connection);
void pl_event_borrow_started(struct pool *pool, const char *address);
void pl_event_borrow_failed(struct pool *pool, const char *address, enum pool_status status);
/* `address` NULL: all of them. */
void pl_event_cleared(struct pool *pool, const char *address);
void pl_event_of_pool(struct pool *pool, enum pool_event_kind kind);

/* A line for on_log, told in turn with the events; log.h has who makes them. */
void pl_event_line(struct pool *pool, enum pool_log_level level, const char *line);

/* Tells what is queued, unless another thread is at it, but not for as long as others note more; at
 * the end of every public call and of every batch. */
void pl_events_tell(struct pool *pool);

#endif
