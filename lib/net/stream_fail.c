/* stream_fail.c: what the failures of a loan are called, what the peer can have seen of it by then,
 * and what operations leave behind on a connection.
 */
#include <errno.h>

#include "base/os.h"
#include "net/stream.h"
#include "net/transport.h"

/* What running out of time is called, by what the peer can have seen. */
static enum pool_status timed_out(const struct pl_connection *connection)
{
    return pl_get(connection->lease.marks) & (PL_MARK_SENT | PL_MARK_RECEIVED)
               ? POOL_E_TIMEOUT_IN_TRANSFER
               : POOL_E_TIMEOUT;
}

enum pool_status pl_stream_doom(const struct pl_connection *connection)
{
    switch ((enum pl_doom)atomic_load(&connection->doom)) {
    case PL_DOOM_STOLEN:
        return POOL_E_BROKEN;
    case PL_DOOM_POOL:
        return POOL_E_CLOSING;
    case PL_DOOM_STALE_COPY:
        return POOL_E_ARGUMENT;
    case PL_DOOM_CANCELED:
        return POOL_E_CANCELED;
    case PL_DOOM_KILLED:
        return POOL_E_BROKEN;
    case PL_DOOM_CLEARED:
        return POOL_E_CLEARED;
    case PL_DOOM_TIMEOUT:
        return timed_out(connection);
    case PL_DOOM_FORKED:
        return POOL_E_FORKED;
    case PL_DOOM_NONE:
        break;
    }
    return POOL_OK;
}

static enum pool_outcome outcome_of(uint32_t marks)
{
    if (marks & PL_MARK_RECEIVED)
        return POOL_ANSWERED;
    return marks & PL_MARK_SENT ? POOL_MAYBE_SENT : POOL_NOT_SENT;
}

void pl_stream_mark(struct pl_connection *connection, uint32_t set, uint32_t clear)
{
    uint32_t seen = pl_get(connection->lease.marks), next;

    do {
        next = (seen & ~clear) | set;
    } while (next != seen && !atomic_compare_exchange_weak(&connection->lease.marks, &seen, next));
}

struct pl_failure pl_stream_failure(const struct pl_connection *connection)
{
    struct pl_failure failure = pl_failure_unpack(pl_get(connection->failure));
    enum pool_outcome outcome = outcome_of(pl_get(connection->lease.marks));

    if (failure.status && pl_get(connection->is_prepared) && failure.outcome < outcome)
        failure.outcome = (uint8_t)outcome;
    return failure;
}

enum pool_status pl_stream_fail_with(struct pl_connection *connection, struct pl_failure failure)
{
    bool is_set_up = pl_get(connection->is_prepared);

    if (failure.phase != POOL_PHASE_TLS)
        failure.phase = is_set_up ? POOL_PHASE_USE : POOL_PHASE_SETUP;
    if (is_set_up)                      /* `prepare` sends no request */
        failure.outcome = (uint8_t)outcome_of(pl_get(connection->lease.marks));
    pl_set(connection->failure, pl_failure_pack(failure));
    pl_stream_mark(connection, PL_MARK_FAILED, 0);
    return (enum pool_status)failure.status;
}

enum pool_status pl_stream_fail(struct pl_connection *connection, enum pool_status status,
                                int cause)
{
    return pl_stream_fail_with(connection, pl_failure_make(status, POOL_PHASE_USE, cause));
}

/* For want of time, by a deadline of ours. */
static enum pool_status fail_too_late(struct pl_connection *connection)
{
    struct pl_failure failure = pl_failure_because(PL_REASON_DEADLINE, POOL_PHASE_USE, ETIMEDOUT);

    failure.status = (int8_t)timed_out(connection);
    return pl_stream_fail_with(connection, failure);
}

int pl_stream_doom_cause(const struct pl_connection *connection)
{
    switch ((enum pl_doom)atomic_load(&connection->doom)) {
    case PL_DOOM_STOLEN:
        return EBADF;
    case PL_DOOM_TIMEOUT:
        return ETIMEDOUT;
    case PL_DOOM_KILLED:
        return ESHUTDOWN;
    default:
        return 0;
    }
}

static enum pool_status fail_doomed(struct pl_connection *connection, enum pool_status doom)
{
    int cause = pl_stream_doom_cause(connection);

    return cause == ETIMEDOUT ? fail_too_late(connection)
                              : pl_stream_fail(connection, doom, cause);
}

/* `error` is a positive errno of the door, or ETIME for our own deadline. */
enum pool_status pl_stream_fail_errno(struct pl_connection *connection, int error)
{
    enum pool_status doom = pl_stream_doom(connection);

    if (doom)
        return fail_doomed(connection, doom);
    if (error == EAGAIN)
        return POOL_E_WOULD_BLOCK; /* on the mux's thread: nothing failed, it may be tried again */
    if (error == ETIME)
        return fail_too_late(connection);
    return pl_stream_fail_with(connection, pl_transport_failure(connection, error, POOL_PHASE_USE));
}

enum pool_status pl_stream_fail_securing(struct pl_connection *connection, int error)
{
    enum pool_status doom = pl_stream_doom(connection);
    bool is_late = doom ? pl_stream_doom_cause(connection) == ETIMEDOUT : error == ETIME;
    struct pl_failure failure = pl_failure_because(PL_REASON_DEADLINE, POOL_PHASE_TLS, ETIMEDOUT);

    if (doom && !is_late)
        return fail_doomed(connection, doom);
    if (!is_late)
        failure = pl_transport_failure(connection, error, POOL_PHASE_TLS);
    return pl_stream_fail_with(connection, failure);
}

enum pool_status pl_stream_fail_at_end(struct pl_connection *connection, bool is_inside_message)
{
    enum pool_status doom = pl_stream_doom(connection);

    if (doom)
        return fail_doomed(connection, doom);
    return pl_stream_fail(connection, is_inside_message ? POOL_E_BROKEN : POOL_E_CLOSED, 0);
}

void pl_stream_note_received(struct pl_connection *connection, size_t size, uint64_t now_ns)
{
    pl_stream_mark(connection, PL_MARK_RECEIVED, PL_MARK_AWAITS | PL_MARK_EXPECTS);
    pl_add(connection->bytes_in, size);
    pl_set(connection->last_used_ns, pl_thread_stamp(pl_thread_self(), now_ns));
}

void pl_stream_note_sent(struct pl_connection *connection, size_t size, uint64_t now_ns)
{
    pl_stream_mark(connection, PL_MARK_SENT | PL_MARK_AWAITS, 0);
    pl_add(connection->bytes_out, size);
    pl_set(connection->last_used_ns, pl_thread_stamp(pl_thread_self(), now_ns));
}
