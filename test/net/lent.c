/* lent.c: see lent.h. */
#include "net/lent.h"

#include <stdlib.h>

#include "base/os.h"

struct pl_limits lent_limits = { POOL_NONE, POOL_NONE, 65536 };

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
    connection->limits = &lent_limits;
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
