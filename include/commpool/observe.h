/* observe.h: watching a pool at work: events, statistics, log lines.
 *
 * Nothing here changes what a pool does. A pool without observers pays nothing for them.
 *
 * Invariants: observers run with no lock held, one at a time, and in order for each connection; the
 * gauges of one snapshot add up.
 */
#ifndef COMMPOOL_OBSERVE_H
#define COMMPOOL_OBSERVE_H

#include <stddef.h>
#include <stdint.h>

#include "commpool/status.h"
#include "commpool/types.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What happened. Later releases may add kinds, so an observer ignores those that it does not
 * know. */
enum pool_event_kind {
    POOL_EVENT_POOL_CREATED, /* pool_create() made the pool */
    POOL_EVENT_POOL_READY, /* the pool lends connections from now on */
    POOL_EVENT_POOL_CLEARED, /* connections of before count as stale: all, or those to `address` */
    POOL_EVENT_POOL_CLOSED, /* the pool ends; it is the pool's last event */
    POOL_EVENT_CONNECTION_CREATED, /* a connection got its id and is about to be opened */
    POOL_EVENT_CONNECTION_READY, /* it is open and set up, and may be lent */
    POOL_EVENT_CONNECTION_CLOSED, /* it is gone; `reason` says why */
    POOL_EVENT_BORROW_STARTED, /* a caller asked for a connection */
    POOL_EVENT_BORROW_FAILED, /* the caller got none; `status` says why */
    POOL_EVENT_BORROWED, /* the caller got one, after waiting for duration_ns, `prepare` not yet
                          * run; or on_request is heard on one that nobody asked for */
    POOL_EVENT_RETURNED /* the end of each of these: the caller gave it back, or took it out of the
                         * pool, after having it for duration_ns, or `prepare` failed */
};

/* Why a connection was closed; also the index into pool_stats.closed. */
enum pool_close_reason {
    POOL_CLOSE_IDLE, /* nobody needed it for idle_ms, or there were more than max_idle */
    POOL_CLOSE_AGE, /* it lived for longer than max_age_ms, was drained, or its host's name leads
                     * elsewhere now */
    POOL_CLOSE_USES, /* it was borrowed max_uses times */
    POOL_CLOSE_STALE, /* since it was opened the pool or its address was cleared, or the settings
                       * that secured it were replaced */
    POOL_CLOSE_EVICTED, /* its descriptor was needed for another connection */
    POOL_CLOSE_ERROR, /* an operation on it failed, or its setup did */
    POOL_CLOSE_DIRTY, /* nobody else may see its state, such as unread bytes; or it was discarded or
                       * killed */
    POOL_CLOSE_PEER, /* the peer closed it */
    POOL_CLOSE_STOLEN, /* its descriptor number is another socket now; that one was left alone */
    POOL_CLOSE_POOL, /* the pool was destroyed, or is closing */
    POOL_CLOSE_DETACHED /* it left the pool open: pool_detach(), pool_release_fd() */
};

/* One event, as an observer gets it. It and the text in it are the library's and are valid during
 * the call only. */
struct pool_event_info {
    /* Bytes of the struct that the library filled; fields beyond it do not exist in the library
     * that is running. */
    size_t size;

    enum pool_event_kind kind;

    /* The canonical text of the address, or NULL for events of the whole pool. */
    const char *address;

    /* The connection's pool_conn_id(), or 0 where there is none. Ids count from 1 in each pool and
     * never come again. */
    uint64_t connection;

    /* Why it was closed. It means something in CONNECTION_CLOSED only. */
    enum pool_close_reason reason;

    /* What failed, in BORROW_FAILED and in CONNECTION_CLOSED after an error; POOL_OK in all
     * others. */
    enum pool_status status;

    /* Nanoseconds: in BORROWED the wait, in CONNECTION_READY how long opening it took, in RETURNED
     * how long it was lent; 0 in all others. */
    uint64_t duration_ns;
};

/* An observer of events, given as pool_options.on_event; `user` is pool_options.user.
 *
 * It runs after all locks are released, one at a time, and in order for each connection: on the
 * thread that made the event, on another one that is telling events just then, or on the mux
 * thread: where events come faster than they are told, no call tells more than a fixed number of
 * them before it returns. `event` is borrowed for the call. It holds that thread up, so it should
 * be short. */
typedef void pool_event_fn(const struct pool_event_info *event, void *user);

/* A snapshot of a pool's numbers. Gauges say how it is now; counters only grow while the pool
 * lives. */
struct pool_stats {
    /* Set it to sizeof(struct pool_stats) before the call; no byte beyond it is written. */
    size_t size;

    /* Gauges, in connections: the first five add up to `total` in every snapshot. */
    uint64_t idle; /* hot or parked, free to be borrowed; or heard by its actor */
    uint64_t lent; /* in the hands of one borrower */
    uint64_t shared; /* carrying queries, or kept by them for the next one */
    uint64_t opening; /* being connected or set up */
    uint64_t closing; /* on their way out, still holding a descriptor */
    uint64_t total;

    /* Gauge: callers that wait for a connection, or for room on one that queries share. */
    uint64_t waiting;

    /* Counters of borrows and connections. */
    uint64_t borrowed; /* borrows that got a connection */
    uint64_t reused; /* those of them that got one which had served before */
    uint64_t opened; /* connections that became ready */
    uint64_t closed[16]; /* connections that ended, by enum pool_close_reason */
    uint64_t evicted; /* idle connections closed to make room */
    uint64_t stolen; /* descriptors found to be somebody else's */
    uint64_t borrow_failed; /* borrows that got none */
    uint64_t timeouts; /* calls and queries that ran out of time, before or in the transfer */
    uint64_t retries; /* exchanges repeated on another connection, queries moved to one */

    /* Counters of queries. */
    uint64_t queries; /* queries accepted, posted requests among them */
    uint64_t late_replies; /* replies whose query had been given up */
    uint64_t orphans; /* messages that belonged to nobody, whether on_orphan was told or not */

    /* Counters of traffic, in bytes as the program sees them, and of the mux. */
    uint64_t bytes_in;
    uint64_t bytes_out;
    uint64_t wakeups; /* times that the mux of this pool woke up; an idle pool adds none */
};

/* Fills *stats with one consistent snapshot.
 *
 * The struct is the caller's; its `size` must be set before. Any thread may call it, callbacks
 * included; it never waits for the network. Errors: POOL_E_ARGUMENT when `pool` or `stats` is NULL
 * or stats->size is impossible; POOL_E_CLOSING when the pool is being destroyed; one that
 * pool_close() has closed still answers. *stats is then unchanged. */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wshadow" /* C++ takes the struct's name for a constructor's */
POOL_API enum pool_status pool_stats(struct pool *pool, struct pool_stats *stats);
#pragma GCC diagnostic pop

/* Writes the numbers of pool_stats() into `text` as one JSON object (RFC 8259), ended by a zero
 * byte.
 *
 * `text` is the caller's and has room for `size` bytes. *needed gets the number of bytes that the
 * whole takes, the zero byte included; `text` may be NULL with a size of 0 to ask for that only,
 * which is then answered with POOL_E_FULL. The numbers go on changing, so leave a few bytes more
 * for the next call. Any thread may call it; it never waits for the network. Errors: POOL_E_FULL
 * when `size` is too small: `text` then holds nothing useful; POOL_E_MEMORY; POOL_E_CLOSING when
 * the pool ends; POOL_E_ARGUMENT when `pool` or `needed` is NULL. */
POOL_API enum pool_status pool_stats_json(struct pool *pool, char *text, size_t size,
                                          size_t *needed);

/* Writes the numbers of pool_stats() into `text` in the OpenMetrics text format, ended by a zero
 * byte; names follow OpenTelemetry's db.client.connection.*.
 *
 * The text is a whole exposition, of this pool alone: it names no pool, and ends with "# EOF". In
 * one release all such texts have the same lines in the same order, but for the numbers, so those
 * of several pools are joined line by line: of lines that begin with '#' the first text's, of all
 * others each text's, with a label for its pool.
 *
 * Room, owners, threads and errors are those of pool_stats_json(). */
POOL_API enum pool_status pool_stats_openmetrics(struct pool *pool, char *text, size_t size,
                                                 size_t *needed);

/* How much a log line matters, the gravest first. */
enum pool_log_level {
    POOL_LOG_ERROR, /* something failed that the pool cannot mend */
    POOL_LOG_WARNING, /* something is wrong, and the pool went on */
    POOL_LOG_INFO, /* what an operator wants to know once */
    POOL_LOG_DEBUG /* what a programmer wants to know while searching */
};

/* A receiver of log lines, the type of pool_options.on_log; `line` has no newline at its end and is
 * borrowed for the call. It runs like an observer of events, and in turn with it. The words may
 * change between releases. */
typedef void pool_log_fn(enum pool_log_level level, const char *line, void *user);

#ifdef __cplusplus
}
#endif

#endif
