/* detach.c: connections that leave the pool open: with their handle, or as a bare descriptor.
 *
 * A detached connection stays LENT to its holder, under the same serial, and closes when it is
 * given back. Nothing of it points into the memory of a pool, a peer or a mux: its peer is nowhere,
 * its address is a reference of its own, its mux is NULL. What reads those fields has pinned or
 * owns the connection, so it leaves only while nobody else pins it: its word is MUX meanwhile, and
 * the short pins of others are taken under the peer lock.
 */
#include <errno.h>
#include <sys/time.h>

#include "base/os.h"
#include "net/stream.h"
#include "net/tls.h"
#include "pool/channel.h"
#include "pool/conn.h"
#include "pool/events.h"
#include "pool/pool.h"

/* LENT to MUX, keeping the caller's pin, while that is the only one; peer lock held. */
static bool claim(struct pl_connection *connection)
{
    uint64_t seen = atomic_load(&connection->word);

    while (pl_word_state(seen) == PL_LENT && pl_word_pins(seen) == 1) {
        if (pl_word_become_state(&connection->word, seen, PL_MUX))
            return true;
        seen = atomic_load(&connection->word);
    }
    return false;
}

/* MUX to LENT: to its holder again, whose handle was no good meanwhile. An event that came then
 * reached nobody, and only the next one asks for more: what fits at once is one. */
static void lend_back(struct pl_connection *connection)
{
    while (!pl_word_become_state(&connection->word, atomic_load(&connection->word), PL_LENT))
        continue;
    if (connection->mux && atomic_exchange(&connection->missed_event, false))
        pl_connection_arm(connection, connection->mux, EPOLLOUT);
}

static enum pool_status disarm(struct pl_connection *connection)
{
    struct timeval none = { 0 };
    int error;

    if (!pl_get(connection->armed_ms))
        return POOL_OK;
    error = pl_os->setsockopt(connection->fd, SOL_SOCKET, SO_RCVTIMEO, &none, sizeof(none));
    if (error)
        return pl_status_of_errno(-error, POOL_PHASE_USE);
    pl_set(connection->armed_ms, 0);
    return POOL_OK;
}

/* As a bare descriptor it must be ours to give, and have nothing that only the handle could
 * reach. */
static enum pool_status make_bare(struct pl_connection *connection)
{
    const struct pl_input *input = connection->input;

    if (input && input->start < input->end)
        return POOL_E_ARGUMENT;
    if (!pl_connection_is_ours(connection))
        return POOL_E_BROKEN;
    return disarm(connection);
}

/* What was ended is of no use outside, and whoever ends it may still have his pin; what
 * pool_write() queued could not leave any more. */
static enum pool_status claim_as(struct pl_connection *connection, bool is_bare)
{
    bool is_mine = claim(connection);
    enum pool_status status = pl_stream_doom(connection);

    if (!is_mine)
        return status ? status : POOL_E_ARGUMENT;
    if (!status && pl_channel_is_busy(connection))
        status = POOL_E_ARGUMENT;
    if (!status && is_bare)
        status = make_bare(connection);
    if (status)
        lend_back(connection);
    return status;
}

/* Out of the books, all at once. Then it is the caller's (MUX), and the peer is entered. */
static enum pool_status leave_books(struct pl_connection *connection, bool is_bare)
{
    struct pl_peer *peer = connection->peer;
    struct pool *pool = peer->pool;
    enum pool_status status;

    pthread_mutex_lock(&pool->lock);
    pthread_mutex_lock(&peer->lock);
    status = claim_as(connection, is_bare);
    if (!status)
        pl_peer_remove(peer, connection);
    pthread_mutex_unlock(&peer->lock);
    if (!status) {
        connection->close_reason = POOL_CLOSE_DETACHED;
        pl_peer_keep_books(pool, connection);
    }
    pthread_mutex_unlock(&pool->lock);
    return status;
}

/* It is out of the books; now it forgets where it was. */
static void forget_pool(struct pl_connection *connection)
{
    struct pl_channel *channel = pl_channel_of(connection);
    struct pl_peer *peer = connection->peer;
    struct pool *pool = peer->pool;

    pl_room_unpark(pool->room, connection);
    pl_connection_unwatch(connection, pool->mux);
    if (channel)
        channel->on_event = NULL; /* as at a return: whoever ended the watching is not told */
    pl_channel_end(connection);
    pl_event_returned(pool, connection);
    pl_event_closed(pool, connection);
    if (connection->tls)
        pl_tls_keep_no_sessions(connection->tls);
    connection->address = pool_address_ref(peer->address);
    pl_set(connection->peer, &pl_nowhere);
    pl_set(connection->lease.holder, 0);
    pl_set(connection->lease.flags, 0);
    pl_set(connection->lease.marks, pl_get(connection->lease.marks) & ~(uint32_t)PL_MARK_EVENTS);
    pl_set(connection->lease.deadline_ns, PL_NEVER);
    pl_set(connection->each_ms, pool->settings.options.timeout_ms);
}

/* Helps those whom the pool's loss helps. */
static void leave_pool(struct pl_peer *peer)
{
    struct pool *pool = peer->pool;

    pl_pool_ref(pool);
    pl_peer_after_loss(peer, false);
    pl_events_tell(pool);
    pl_pool_leave(pool);
}

/* Only what was borrowed can leave: not while it is being prepared, nor what queries share. */
static enum pool_status may_leave(const struct pl_connection *connection)
{
    bool is_borrowed = pl_get(connection->is_prepared) &&
                       !(pl_get(connection->lease.flags) & PL_LEASE_SHARED);

    return is_borrowed ? POOL_OK : POOL_E_ARGUMENT;
}

enum pool_status pool_detach(struct pool_conn *conn)
{
    struct pl_connection *connection = pl_conn_enter(conn);
    enum pool_status status = POOL_E_ARGUMENT;
    struct pl_peer *peer;

    if (!connection)
        return pl_connection_refusal(conn);
    peer = connection->peer;
    if (!pl_connection_is_detached(connection))
        status = may_leave(connection);
    if (!status)
        status = leave_books(connection, false);
    if (status) {
        pl_conn_leave(connection);
        return status;
    }
    forget_pool(connection);
    lend_back(connection);
    pl_conn_leave(connection);
    leave_pool(peer);
    return POOL_OK;
}

static enum pool_status claim_detached(struct pl_connection *connection)
{
    enum pool_status status;

    pthread_mutex_lock(&pl_nowhere.lock);
    status = claim_as(connection, true);
    pthread_mutex_unlock(&pl_nowhere.lock);
    return status;
}

enum pool_status pool_release_fd(struct pool_conn *conn, int *fd)
{
    struct pl_connection *connection = fd ? pl_conn_enter(conn) : NULL;
    bool was_detached = connection && pl_connection_is_detached(connection);
    enum pool_status status = POOL_E_ARGUMENT;
    struct pl_peer *peer;

    if (!connection)
        return fd ? pl_connection_refusal(conn) : POOL_E_ARGUMENT;
    peer = connection->peer;
    if (connection->tls) {
        pl_conn_leave(connection);
        return POOL_E_ARGUMENT;         /* the bare descriptor would be of no use */
    }
    if (was_detached)
        status = claim_detached(connection);
    else
        status = may_leave(connection);
    if (!status && !was_detached)
        status = leave_books(connection, true);
    if (status) {
        pl_conn_leave(connection);
        return status;
    }
    if (!was_detached)
        forget_pool(connection);
    *conn = (struct pool_conn){ 0 };
    *fd = connection->fd;
    pl_fd_table_clear(connection->fd, connection);
    pl_connection_lose_socket(connection);
    pl_conn_leave(connection);
    pl_peer_close(connection, POOL_CLOSE_DETACHED);
    if (!was_detached)
        leave_pool(peer);
    return POOL_OK;
}
