/* conn.c: what programs do with a handle. Each call checks and pins the connection first, so a
 * stale or shared copy is an error and never somebody else's connection.
 */
#include "base/os.h"
#include "net/stream.h"
#include "pool/channel.h"
#include "pool/pool.h"

/* Pins; NULL: the handle is stale. */
static struct pl_connection *enter(const struct pool_conn *conn)
{
    struct pl_connection *connection = conn ? pl_connection_of(conn->slot) : NULL;

    return connection && pl_word_pin(&connection->word, conn->serial) ? connection : NULL;
}

/* True: the loan had been ended by another copy of the handle, and the connection is closed now. */
static bool leave(struct pl_connection *connection)
{
    bool has_ended = pl_word_unpin(&connection->word);

    if (PL_UNLIKELY(has_ended))
        pl_peer_finish_close(connection);
    return has_ended;
}

/* For blocking I/O: only on a loan, for what the mux thread holds must not wait. */
static enum pool_status enter_loan(const struct pool_conn *conn, struct pl_connection **entered)
{
    struct pl_connection *connection = enter(conn);
    bool has_ended;

    *entered = connection;
    if (!connection)
        return pl_connection_refusal(conn);
    if (PL_LIKELY(pl_word_state(atomic_load_explicit(&connection->word, memory_order_relaxed)) ==
                  PL_LENT))
        return POOL_OK;
    has_ended = pl_word_state(atomic_load(&connection->word)) == PL_ENDING;
    return leave(connection) || has_ended ? POOL_E_ARGUMENT : POOL_E_WOULD_BLOCK;
}

enum pool_status pool_send(struct pool_conn *conn, const void *data, size_t size)
{
    struct iovec piece = { .iov_base = (void *)(uintptr_t)data, .iov_len = size };

    if (!data && size)
        return POOL_E_ARGUMENT;
    return pool_sendv(conn, &piece, 1);
}

enum pool_status pool_sendv(struct pool_conn *conn, const struct iovec *iov, int count)
{
    struct pl_connection *connection;
    enum pool_status status;

    if (count < 0 || (!iov && count))
        return POOL_E_ARGUMENT;
    status = enter_loan(conn, &connection);
    if (status)
        return status;
    status = pl_stream_send(connection, iov, count);
    leave(connection);
    return status;
}

enum pool_status pool_recv(struct pool_conn *conn, void *buffer, size_t size, size_t *got)
{
    struct pl_connection *connection;
    enum pool_status status;

    if (!got)
        return POOL_E_ARGUMENT;
    *got = 0;
    if (!buffer && size)
        return POOL_E_ARGUMENT;
    status = enter_loan(conn, &connection);
    if (status)
        return status;
    status = pl_stream_recv(connection, buffer, size, got);
    leave(connection);
    return status;
}

enum pool_status pool_recv_exact(struct pool_conn *conn, void *buffer, size_t size)
{
    struct pl_connection *connection;
    enum pool_status status;

    if (!buffer && size)
        return POOL_E_ARGUMENT;
    status = enter_loan(conn, &connection);
    if (status)
        return status;
    status = pl_stream_recv_exact(connection, buffer, size);
    leave(connection);
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
    status = enter_loan(conn, &connection);
    if (status)
        return status;
    status = pl_stream_recv_until(connection, (struct pool_bytes){ delimiter, size }, bytes);
    if (leave(connection)) {            /* and with it what `bytes` would point to */
        *bytes = (struct pool_bytes){ 0 };
        return POOL_E_ARGUMENT;
    }
    return status;
}

/* ---- questions */

uint64_t pool_conn_id(const struct pool_conn *conn)
{
    struct pl_connection *connection = enter(conn);
    uint64_t id;

    if (!connection)
        return 0;
    id = connection->id;
    leave(connection);
    return id;
}

int pool_conn_fd(const struct pool_conn *conn)
{
    struct pl_connection *connection = enter(conn);
    int fd;

    if (!connection)
        return -1;
    fd = connection->fd;
    leave(connection);
    return fd;
}

const char *pool_conn_address(const struct pool_conn *conn)
{
    struct pl_connection *connection = enter(conn);
    const char *text;

    if (!connection)
        return NULL;
    text = connection->peer->text;
    leave(connection);
    return text;
}

uint64_t pool_conn_last_used_ns(const struct pool_conn *conn)
{
    struct pl_connection *connection = enter(conn);
    uint64_t last_used_ns;

    if (!connection)
        return 0;
    last_used_ns = pl_get(connection->last_used_ns);
    leave(connection);
    return last_used_ns;
}

bool pool_conn_same(const struct pool_conn *a, const struct pool_conn *b)
{
    struct pl_connection *connection =
        a && b && a->slot == b->slot && a->serial == b->serial ? enter(a) : NULL;

    if (!connection)
        return false;
    leave(connection);
    return true;
}

enum pool_status pool_conn_error(const struct pool_conn *conn, struct pool_error *error)
{
    struct pl_connection *connection = error ? enter(conn) : NULL;
    struct pl_failure failure;

    if (!connection)
        return error ? pl_connection_refusal(conn) : POOL_E_ARGUMENT;
    failure = pl_failure_unpack(pl_get(connection->failure));
    pl_failure_tell(&failure, NULL, connection->peer->text, error);
    leave(connection);
    return POOL_OK;
}

void pool_conn_drain(struct pool_conn *conn)
{
    struct pl_connection *connection = enter(conn);

    if (!connection)
        return;
    pl_set(connection->expires_ns, 0);
    leave(connection);
}
