/* conn.c: a borrower's I/O, by its handle. What may be asked about a connection is in
 * conn_about.c.
 */
#include "pool/conn.h"

#include "base/os.h"
#include "net/stream.h"
#include "pool/lent.h"

enum pool_status pl_conn_enter_loan(const struct pool_conn *conn,
                                    struct pl_connection **entered)
{
    struct pl_connection *connection = pl_conn_enter(conn);
    enum pl_state state;

    *entered = connection;
    if (!connection)
        return pl_connection_refusal(conn);
    if (PL_LIKELY(pl_word_state(atomic_load_explicit(&connection->word, memory_order_relaxed)) ==
                      PL_LENT &&
                  !(pl_get(connection->lease.flags) & PL_LEASE_SHARED)))
        return POOL_OK;
    state = pl_word_state(atomic_load(&connection->word));
    if (pl_conn_leave(connection) || state == PL_ENDING || state == PL_LENT)
        return POOL_E_ARGUMENT;         /* it has ended, or queries have it */
    return POOL_E_WOULD_BLOCK;
}

static bool is_readable(const struct iovec *pieces, int count)
{
    bool is_readable = count >= 0 && (pieces || !count);

    for (int i = 0; i < count && is_readable; i++)
        is_readable = pieces[i].iov_base || !pieces[i].iov_len;
    return is_readable;
}

enum pool_status pool_send(struct pool_conn *conn, const void *data, size_t size)
{
    struct iovec piece = { .iov_base = (void *)(uintptr_t)data, .iov_len = size };

    return pool_sendv(conn, &piece, 1);
}

enum pool_status pool_sendv(struct pool_conn *conn, const struct iovec *iov, int count)
{
    struct pl_connection *connection;
    enum pool_status status;

    if (!is_readable(iov, count))
        return POOL_E_ARGUMENT;
    status = pl_conn_enter_loan(conn, &connection);
    if (status)
        return status;
    status = pl_stream_send(connection, iov, count);
    pl_conn_leave(connection);
    return status;
}

typedef enum pool_status recv_fn(struct pl_connection *connection, void *buffer, size_t size,
                                 size_t *got);

/* Inline, so that `receive` is a plain call. */
PL_INLINE enum pool_status recv_by(recv_fn *receive, struct pool_conn *conn, struct iovec into,
                                   size_t *got)
{
    struct pl_connection *connection;
    enum pool_status status;

    if (!got)
        return POOL_E_ARGUMENT;
    *got = 0;
    if (!into.iov_base && into.iov_len)
        return POOL_E_ARGUMENT;
    status = pl_conn_enter_loan(conn, &connection);
    if (status)
        return status;
    status = receive(connection, into.iov_base, into.iov_len, got);
    pl_conn_leave(connection);
    return status;
}

enum pool_status pool_recv(struct pool_conn *conn, void *buffer, size_t size, size_t *got)
{
    return recv_by(pl_stream_recv, conn, (struct iovec){ buffer, size }, got);
}

enum pool_status pool_recv_exact(struct pool_conn *conn, void *buffer, size_t size)
{
    struct pl_connection *connection;
    enum pool_status status;

    if (!buffer && size)
        return POOL_E_ARGUMENT;
    status = pl_conn_enter_loan(conn, &connection);
    if (status)
        return status;
    status = pl_stream_recv_exact(connection, buffer, size);
    pl_conn_leave(connection);
    return status;
}

enum pool_status pool_recv_until(struct pool_conn *conn, const void *delimiter, size_t size,
                                 struct pool_bytes *bytes)
{
    struct pl_connection *connection;
    enum pool_status status;

    if (!bytes)
        return POOL_E_ARGUMENT;
    *bytes = (struct pool_bytes){ 0 };
    if (!delimiter || !size)
        return POOL_E_ARGUMENT;
    status = pl_conn_enter_loan(conn, &connection);
    if (status)
        return status;
    status = pl_stream_recv_until(connection, (struct pool_bytes){ delimiter, size }, bytes);
    if (pl_conn_leave(connection)) {            /* and with it what `bytes` would point to */
        *bytes = (struct pool_bytes){ 0 };
        return POOL_E_ARGUMENT;
    }
    return status;
}

enum pool_status pool_try_send(struct pool_conn *conn, const void *data, size_t size, size_t *sent)
{
    struct pl_connection *connection;
    enum pool_status status;

    if (!sent)
        return POOL_E_ARGUMENT;
    *sent = 0;
    if (!data && size)
        return POOL_E_ARGUMENT;
    status = pl_conn_enter_loan(conn, &connection);
    if (status)
        return status;
    status = pl_stream_try_send(connection, data, size, sent);
    pl_conn_leave(connection);
    return status;
}

enum pool_status pool_try_recv(struct pool_conn *conn, void *buffer, size_t size, size_t *got)
{
    return recv_by(pl_stream_try_recv, conn, (struct iovec){ buffer, size }, got);
}

/* The pool's end takes the channel away under the peer lock. */
static void move_watch(struct pl_connection *connection)
{
    struct pl_peer *peer = connection->peer;

    pthread_mutex_lock(&peer->lock);
    pl_lent_deadline_moved(connection);
    pthread_mutex_unlock(&peer->lock);
}

enum pool_status pool_conn_deadline(struct pool_conn *conn, uint32_t ms)
{
    struct pl_connection *connection;
    uint64_t deadline_ns = PL_NEVER;
    enum pool_status status = pl_conn_enter_loan(conn, &connection);

    if (status)
        return status == POOL_E_WOULD_BLOCK ? POOL_E_ARGUMENT : status;
    if (ms != POOL_NONE)
        deadline_ns = pl_after(pl_os->now_ns(), ms == POOL_ZERO ? 0 : ms * PL_MS);
    pl_set(connection->each_ms, POOL_NONE);
    pl_set(connection->lease.deadline_ns, deadline_ns);
    if (pl_get(connection->lease.marks) & PL_MARK_EVENTS)
        move_watch(connection);
    pl_conn_leave(connection);
    return POOL_OK;
}
