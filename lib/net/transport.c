/* transport.c: see transport.h. */
#include "net/transport.h"

#include "net/stream.h"
#include "net/tls.h"

PL_COLD ssize_t pl_transport_recv_secured(struct pl_connection *connection, struct iovec into,
                                          short *wants)
{
    return pl_tls_recv(connection->tls, connection->fd, into, wants);
}

PL_COLD ssize_t pl_transport_send_secured(struct pl_connection *connection,
                                          const struct iovec *pieces, int count, short *wants)
{
    ssize_t sent = pl_tls_send(connection->tls, connection->fd, pieces, count, wants);

    if (pl_tls_is_unsent(connection->tls))
        pl_stream_mark(connection, PL_MARK_TORN, 0);
    else if (pl_get(connection->lease.marks) & PL_MARK_TORN)
        pl_stream_mark(connection, 0, PL_MARK_TORN);
    return sent;
}

PL_COLD bool pl_transport_has_more_secured(const struct pl_connection *connection)
{
    return pl_tls_pending(connection->tls);
}

struct pl_failure pl_transport_failure(const struct pl_connection *connection, int error,
                                       enum pool_phase phase)
{
    return connection->tls ? pl_tls_failure(connection->tls, error, phase)
                           : pl_failure_of_errno(error, phase);
}
