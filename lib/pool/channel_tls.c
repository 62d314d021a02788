/* channel_tls.c: a connection that is set up goes from clear to TLS, event by event. Until it is
 * secured nothing is read from it or written to it, and it does not become ready.
 */
#include <errno.h>

#include "net/tls.h"
#include "pool/channel.h"
#include "pool/open.h"
#include "pool/pool.h"
#include "pool/peer.h"

enum pool_phase pl_channel_phase(const struct pl_connection *connection)
{
    const struct pl_channel *channel = pl_channel_of(connection);

    return channel && channel->is_securing ? POOL_PHASE_TLS : POOL_PHASE_SETUP;
}

bool pl_channel_defers_ready(struct pl_connection *connection)
{
    struct pl_channel *channel = pl_channel_of(connection);

    if (channel && channel->is_securing)
        channel->is_ready_due = true;
    return channel && channel->is_securing;
}

bool pl_channel_secure(struct pl_channel *channel, struct pool_conn handle)
{
    struct pl_connection *connection = channel->connection;
    int error;

    if (!pl_word_pin(&connection->word, handle.serial))
        return false;
    error = -pl_tls_handshake(connection->tls, connection->fd, &channel->read_wants);
    if (pl_word_unpin(&connection->word)) {
        pl_peer_finish_close(connection);       /* key_log ended the pool, or this one */
        return false;
    }
    if (pl_word_state(atomic_load(&connection->word)) != PL_SETUP)
        return false;                   /* it forked, and this is the child; or it ended */
    if (error == EAGAIN) {
        if (!pl_channel_watch_again(channel))
            pl_channel_end_of_stream(channel, handle, EBADF);
        return false;
    }
    if (error) {
        pl_channel_end_of_stream(channel, handle, error);
        return false;
    }
    channel->is_securing = false;
    pl_open_give_time(connection, channel->pool->settings.options.connect_ms);
    if (channel->is_ready_due) {
        static const struct pl_failure none;

        channel->is_ready_due = false;
        pl_open_finish(connection, &none);
        return false;
    }
    return true;
}
