/* channel_calls.c: what programs ask of an event-driven connection. Each call pins the connection
 * for as long as it looks at it. The callbacks come from channel.c, never from inside a call.
 */
#include <errno.h>
#include <poll.h>

#include "base/os.h"
#include "net/stream.h"
#include "net/transport.h"
#include "pool/channel.h"
#include "pool/lent.h"
#include "pool/open.h"
#include "pool/pool.h"
#include "pool/secure.h"

static bool may_drive(const struct pl_connection *connection, enum pl_state state)
{
    const uint32_t asked = PL_LEASE_BY_EVENTS | PL_LEASE_SHARED;

    return state == PL_SETUP || state == PL_HEARD ||
           (pl_get(connection->lease.flags) & asked) == PL_LEASE_BY_EVENTS;
}

/* A loan that has failed got its last event, and no deadline would end what began after that. The
 * peer's end is no failure of our direction, and leaves the deadline where it was. */
static enum pool_status why_over(const struct pl_connection *connection)
{
    struct pl_failure failure;

    if (!(atomic_load(&connection->lease.marks) & PL_MARK_FAILED))
        return POOL_OK;
    failure = pl_failure_unpack(pl_get(connection->failure));
    return failure.status == POOL_E_CLOSED ? POOL_OK : (enum pool_status)failure.status;
}

static enum pool_status open_channel(struct pl_connection *connection, enum pl_state state,
                                     uint64_t serial, struct pl_channel **opened)
{
    enum pool_status status = state == PL_LENT ? why_over(connection) : POOL_OK;

    if (status)
        return status;
    *opened = pl_channel_make(connection);
    if (*opened && (state != PL_LENT || pl_lent_begin(*opened, serial)))
        return POOL_OK;
    return pl_channel_refusal(connection->peer->pool);
}

/* The channel of a connection that this thread may drive event by event, pinned; on failure nothing
 * is. */
static enum pool_status enter_channel(const struct pool_conn *conn, struct pl_channel **entered)
{
    struct pl_connection *connection = conn ? pl_connection_of(conn->slot) : NULL;
    enum pool_status status = POOL_E_ARGUMENT;
    enum pl_mux_stay stay;
    enum pl_state state;

    *entered = NULL;
    if (!connection || !pl_word_pin(&connection->word, conn->serial))
        return pl_connection_refusal(conn);
    stay = pl_connection_is_detached(connection) ? PL_MUX_ELSEWHERE
                                                 : pl_mux_enter(connection->mux);
    state = pl_word_state(atomic_load(&connection->word));
    if (stay && may_drive(connection, state))
        status = open_channel(connection, state, conn->serial, entered);
    if (!status)
        (*entered)->stay = stay;
    else if (stay)
        pl_mux_leave(connection->mux, stay);
    if (status && pl_word_unpin(&connection->word))
        pl_peer_finish_close(connection);
    return status;
}

static enum pool_status leave_channel(struct pl_channel *channel, enum pool_status status)
{
    struct pl_connection *connection = channel->connection;

    pl_mux_leave(connection->mux, channel->stay); /* it may go with the connection */
    if (pl_word_unpin(&connection->word))
        pl_peer_finish_close(connection);
    return status;
}

enum pool_status pool_conn_watch(struct pool_conn *conn, pool_conn_event_fn *on_event, void *user)
{
    struct pl_channel *channel;
    enum pool_status status;

    if (!on_event)
        return POOL_E_ARGUMENT;
    status = enter_channel(conn, &channel);
    if (status)
        return status;
    channel->on_event = on_event;
    channel->user = user;
    if (!pl_connection_is_ours(channel->connection) || !pl_channel_watch_again(channel)) {
        channel->on_event = NULL;
        return leave_channel(channel, POOL_E_BROKEN);
    }
    return leave_channel(channel, POOL_OK);
}

static enum pool_status queue(struct pl_channel *channel, const char *data, size_t size)
{
    struct pl_connection *connection = channel->connection;
    size_t queued = pl_buffer_size(&channel->out);
    struct iovec piece = { (void *)(uintptr_t)data, size };
    ssize_t sent = 0;

    if (channel->is_over_high || (queued && size > channel->high - queued)) {
        channel->is_over_high = true;
        return POOL_E_FULL;
    }
    if (!queued && size && !channel->is_securing)
        sent = pl_transport_send(connection, &piece, 1, &channel->write_wants);
    if (sent == -EAGAIN || sent == -EINTR)
        sent = 0;
    if (sent < 0) {
        pl_channel_fail_errno(connection, (int)-sent);
        return POOL_E_BROKEN;
    }
    if (sent)
        pl_stream_note_sent(connection, (size_t)sent, pl_os->coarse_ns());
    if (!pl_buffer_append(&channel->out, data + sent, size - (size_t)sent)) {
        if (sent) {                     /* half a message is on the wire: the connection must end */
            pl_channel_fail(connection, POOL_E_MEMORY, ENOMEM);
            pl_connection_shut(connection);
        }
        return POOL_E_MEMORY;
    }
    channel->owes_written = true; /* even when all of it left: told by the next event, not here */
    if (pl_buffer_size(&channel->out) > channel->high)
        channel->is_over_high = true;
    pl_channel_arm_silence(channel, POOL_WRITE);
    return pl_channel_watch_again(channel) ? POOL_OK : POOL_E_BROKEN;
}

enum pool_status pool_write(struct pool_conn *conn, const void *data, size_t size)
{
    struct pl_channel *channel;
    enum pool_status status;

    if (!data && size)
        return POOL_E_ARGUMENT;
    status = enter_channel(conn, &channel);
    if (status)
        return status;
    if (!pl_connection_is_ours(channel->connection))
        return leave_channel(channel, POOL_E_BROKEN);
    return leave_channel(channel, queue(channel, data, size));
}

enum pool_status pl_channel_start_tls(struct pool_conn *conn)
{
    struct pl_channel *channel;
    enum pool_status status = enter_channel(conn, &channel);

    if (status)
        return status;
    if (pl_buffer_size(&channel->out))
        return leave_channel(channel, POOL_E_ARGUMENT);         /* in the clear, and not yet sent */
    status = pl_secure_begin_clear(channel->connection);
    if (status)
        return leave_channel(channel, status);
    channel->is_securing = true;
    channel->owes_written = false;
    pl_open_give_time(channel->connection, channel->pool->settings.options.tls_ms);
    channel->read_wants = POLLOUT;      /* the first step is made by the next event */
    return leave_channel(channel,
                         pl_channel_watch_again(channel) ? POOL_OK : POOL_E_BROKEN);
}

static void on_silence(struct pl_channel *channel, enum pool_direction direction)
{
    struct pl_connection *connection = channel->connection;
    enum pool_event event = direction == POOL_READ ? POOL_EV_TIMEOUT_READ : POOL_EV_TIMEOUT_WRITE;
    uint64_t word = atomic_load(&connection->word);

    if (direction == POOL_WRITE && !pl_buffer_size(&channel->out))
        return;
    if (channel->lent_serial) {
        pl_lent_on_silence(channel, direction);
        return;
    }
    if (pl_word_state(word) != PL_SETUP && pl_word_state(word) != PL_HEARD)
        return;                         /* it is somebody else's by now */
    if (pl_channel_tell(channel, pl_connection_handle(connection, word), event,
                        (struct pool_bytes){ 0 }))
        pl_channel_carry_out_ready(connection);
}

static void on_silent_read(void *user)
{
    on_silence(user, POOL_READ);
}

static void on_silent_write(void *user)
{
    on_silence(user, POOL_WRITE);
}

static bool make_timers(struct pl_channel *channel)
{
    struct pool_mux *mux = channel->pool->mux;

    if (channel->has_timers)
        return true;
    if (!pl_mux_timer_open(mux, &channel->silence[POOL_READ], on_silent_read, channel))
        return false;
    if (!pl_mux_timer_open(mux, &channel->silence[POOL_WRITE], on_silent_write, channel)) {
        pl_mux_timer_close(mux, &channel->silence[POOL_READ]);
        return false;
    }
    channel->has_timers = true;
    return true;
}

enum pool_status pool_conn_timeout(struct pool_conn *conn, enum pool_direction direction,
                                   uint32_t ms)
{
    struct pl_channel *channel;
    enum pool_status status;

    if (direction != POOL_READ && direction != POOL_WRITE)
        return POOL_E_ARGUMENT;
    status = enter_channel(conn, &channel);
    if (status)
        return status;
    if (!make_timers(channel))
        return leave_channel(channel, POOL_E_MEMORY);
    channel->silence_ms[direction] = ms == POOL_NONE ? 0 : ms;
    if (channel->silence_ms[direction])
        pl_channel_arm_silence(channel, direction);
    else
        pl_mux_timer_disarm(channel->pool->mux, &channel->silence[direction]);
    return leave_channel(channel, POOL_OK);
}

void pool_conn_ready(struct pool_conn *conn, enum pool_status status)
{
    struct pl_connection *connection = conn ? pl_connection_of(conn->slot) : NULL;
    struct pl_thread *self = pl_thread_self();
    struct pl_channel *channel;
    uint64_t word;

    if (!connection || !pl_word_pin(&connection->word, conn->serial))
        return;
    word = atomic_load(&connection->word);
    channel = pl_channel_of(connection);
    if (channel && (pl_word_state(word) == PL_SETUP || pl_word_state(word) == PL_HEARD)) {
        atomic_store(&channel->ready_status, status);
        atomic_store(&channel->ready_serial, conn->serial);
        if (self && self->callback == connection)
            atomic_store(&channel->is_ready_told, true); /* carried out when the callback is back */
        else if (!(atomic_fetch_or(&channel->posted, PL_POSTED_READY) & PL_POSTED_READY))
            pl_mux_post(channel->pool->mux, &channel->ready_post);
    }
    if (pl_word_unpin(&connection->word))
        pl_peer_finish_close(connection);
}
