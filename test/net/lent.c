/* lent.c: see lent.h. */
#include "net/lent.h"

#include <errno.h>
#include <stdlib.h>

struct pl_limits lent_limits = { .read_ms = POOL_NONE, .write_ms = POOL_NONE, .max_line = 65536 };

void lend_again(struct pl_connection *connection, uint32_t timeout_ms)
{
    connection->lease = (struct pl_lease){ .start_ns = pl_os->coarse_ns(),
                                           .timeout_ms = timeout_ms };
    pl_set(connection->failure, 0);
}

struct pl_connection *lend(struct pool_mux *mux, int fd, uint32_t timeout_ms)
{
    struct pl_connection *connection = pl_connection_take();

    if (!connection || fd < 0)
        abort();
    connection->fd = fd;
    connection->mux = mux;
    connection->limits = lent_limits;
    connection->is_prepared = true;
    if (pl_connection_remember(connection) || !pl_fd_table_set(fd, connection))
        abort();
    lend_again(connection, timeout_ms);
    return connection;
}

void end_loan(struct pl_connection *connection)
{
    pl_stream_drop_input(connection);
    pl_connection_close_fd(connection, connection->mux);
    pl_word_move(&connection->word, pl_word_with(connection->word, PL_CLOSING));
    pl_connection_give(connection);
}

struct pl_failure failure_of(struct pl_connection *connection)
{
    return pl_failure_unpack(pl_get(connection->failure));
}

/* ---- the lazy kernel */

static unsigned chance = 1;

unsigned any_of(unsigned count)
{
    chance = chance * 1103515245u + 12345u;
    return (chance >> 16) % count;
}

/* Interrupted, not ready, or (0) one byte. */
static int hesitate(void)
{
    switch (any_of(4)) {
    case 0:
        return -EINTR;
    case 1:
        return -EAGAIN;
    default:
        return 0;
    }
}

static ssize_t lazy_send(int fd, const void *data, size_t size, int flags)
{
    int error = hesitate();

    return error ? error : pl_os_real.send(fd, data, size ? 1 : 0, flags);
}

static ssize_t lazy_sendmsg(int fd, const struct msghdr *message, int flags)
{
    struct iovec *piece = message->msg_iov;

    return lazy_send(fd, piece->iov_base, piece->iov_len, flags);
}

static ssize_t lazy_recv(int fd, void *buffer, size_t size, int flags)
{
    int error = hesitate();

    return error ? error : pl_os_real.recv(fd, buffer, size ? 1 : 0, flags);
}

static int lazy_poll(struct pollfd *polled, nfds_t count, uint64_t deadline_ns)
{
    return any_of(2) ? -EINTR : pl_os_real.poll_until(polled, count, deadline_ns);
}

void make_lazy(struct pl_os *os)
{
    os->send = lazy_send;
    os->sendmsg = lazy_sendmsg;
    os->recv = lazy_recv;
    os->poll_until = lazy_poll;
}
