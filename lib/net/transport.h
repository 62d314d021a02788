/* transport.h: bytes of a connection, whether it is plain or secured. Nothing here waits: -EAGAIN
 * says to come again when the socket is ready for *wants (POLLIN or POLLOUT), whichever way the
 * bytes were meant to go.
 *
 * Inline as far as plain connections go: theirs is one system call, as before.
 */
#ifndef PL_NET_TRANSPORT_H
#define PL_NET_TRANSPORT_H

#include <poll.h>
#include <sys/uio.h>

#include "net/connection.h"

PL_COLD ssize_t pl_transport_recv_secured(struct pl_connection *connection, struct iovec into,
                                          short *wants);
PL_COLD ssize_t pl_transport_send_secured(struct pl_connection *connection,
                                          const struct iovec *pieces, int count, short *wants);

/* > 0: bytes; 0: the peer's end; else a negative errno. */
PL_INLINE ssize_t pl_transport_recv(struct pl_connection *connection, void *buffer, size_t size,
                                    short *wants)
{
    ssize_t got;

    if (PL_UNLIKELY(connection->tls))
        return pl_transport_recv_secured(connection, (struct iovec){ buffer, size }, wants);
    *wants = POLLIN;
    do
        got = pl_os->recv(connection->fd, buffer, size, MSG_DONTWAIT);
    while (PL_UNLIKELY(got == -EINTR));
    return got;
}

/* How many bytes of the pieces are done with; the next call goes on behind them. */
PL_INLINE ssize_t pl_transport_send(struct pl_connection *connection, struct iovec *pieces,
                                    int count, short *wants)
{
    struct msghdr message = { .msg_iov = pieces, .msg_iovlen = (size_t)count };

    if (PL_UNLIKELY(connection->tls))
        return pl_transport_send_secured(connection, pieces, count, wants);
    *wants = POLLOUT;
    if (PL_LIKELY(count == 1))
        return pl_os->send(connection->fd, pieces->iov_base, pieces->iov_len,
                           MSG_DONTWAIT | MSG_NOSIGNAL);
    return pl_os->sendmsg(connection->fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
}

PL_COLD bool pl_transport_has_more_secured(const struct pl_connection *connection);

/* There may be bytes to receive without the socket saying so. */
PL_INLINE bool pl_transport_has_more(const struct pl_connection *connection)
{
    return PL_UNLIKELY(connection->tls) && pl_transport_has_more_secured(connection);
}

/* What became of an operation that answered -`error`, in that phase. */
struct pl_failure pl_transport_failure(const struct pl_connection *connection, int error,
                                       enum pool_phase phase);

#endif
