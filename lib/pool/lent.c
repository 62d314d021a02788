/* lent.c: see lent.h.
 *
 * Each look at the socket is made with the loan pinned, so that nobody closes it meanwhile; each
 * callback without, and on copies of what it needs: when it returns, the channel may be gone.
 */
#include "pool/lent.h"

#include <errno.h>

#include "base/os.h"
#include "net/stream.h"
#include "net/transport.h"
#include "pool/borrow.h"
#include "pool/pool.h"

/* The channel of a loan that still is what it was, pinned; NULL: it ended. */
static struct pl_channel *enter(const struct pool_conn *handle)
{
    struct pl_connection *connection = pl_connection_of(handle->slot);
    struct pl_channel *channel;

    if (!pl_word_pin(&connection->word, handle->serial))
        return NULL;
    channel = pl_channel_of(connection);
    if (channel && channel->lent_serial == handle->serial)
        return channel;
    if (pl_word_unpin(&connection->word))
        pl_peer_finish_close(connection);
    return NULL;
}

/* False: the loan was ended by another thread meanwhile. */
static bool leave(const struct pool_conn *handle)
{
    struct pl_connection *connection = pl_connection_of(handle->slot);

    if (!pl_word_unpin(&connection->word))
        return true;
    pl_peer_finish_close(connection);
    return false;
}

/* Unpins, and tells the watcher. */
static void leave_and_tell(struct pl_channel *channel, struct pool_conn handle,
                           enum pool_event event, struct pool_bytes bytes)
{
    pool_conn_event_fn *on_event = channel->on_event;
    void *user = channel->user;

    if (event == POOL_EV_ERROR || event == POOL_EV_CLOSED)
        channel->on_event = NULL; /* the last one */
    if (leave(&handle) && on_event)
        on_event(&handle, event, bytes, user);
}

/* The loan can do no more: `error` is an errno, 0 the end of the stream. */
static void leave_and_end(struct pl_channel *channel, struct pool_conn handle, int error)
{
    struct pl_connection *connection = pl_connection_of(handle.slot);
    enum pool_status status =
        error ? pl_stream_fail_errno(connection, error) : pl_stream_fail_at_end(connection, false);

    leave_and_tell(channel, handle, status == POOL_E_CLOSED ? POOL_EV_CLOSED : POOL_EV_ERROR,
                   (struct pool_bytes){ 0 });
}

/* ---- the deadline */

static void on_deadline(void *user)
{
    struct pl_channel *channel = user;
    struct pl_connection *connection = channel->connection;
    struct pool_conn handle = { (struct pool_slot *)(void *)connection, channel->lent_serial };
    uint64_t now_ns = pl_os->now_ns(), deadline_ns;

    if (!connection || !enter(&handle))
        return;
    deadline_ns = pl_stream_deadline(connection, now_ns);
    if (pl_stream_doom(connection)) {
        leave_and_end(channel, handle, EBADF);
        return;
    }
    if (deadline_ns > now_ns) { /* it was moved */
        if (deadline_ns != PL_NEVER)
            pl_mux_timer_arm(channel->pool->mux, &channel->deadline, deadline_ns);
        leave(&handle);
        return;
    }
    leave_and_end(channel, handle, ETIME);
}

static void arm_deadline(struct pl_channel *channel, struct pl_connection *connection)
{
    uint64_t deadline_ns = pl_stream_deadline(connection, pl_os->now_ns());

    if (deadline_ns != PL_NEVER)
        pl_mux_timer_arm(channel->pool->mux, &channel->deadline, deadline_ns);
}

bool pl_lent_begin(struct pl_channel *channel, uint64_t serial)
{
    struct pl_connection *connection = channel->connection;

    if (channel->lent_serial == serial)
        return true;
    if (!channel->has_deadline &&
        !pl_mux_timer_open(channel->pool->mux, &channel->deadline, on_deadline, channel))
        return false;
    channel->has_deadline = true;
    channel->lent_serial = serial;
    atomic_fetch_or(&connection->lease.marks, PL_MARK_EVENTS);
    arm_deadline(channel, connection);
    return true;
}

void pl_lent_look(struct pl_connection *connection)
{
    struct pl_channel *channel = pl_channel_of(connection);

    if (channel && (pl_get(connection->lease.marks) & PL_MARK_EVENTS))
        pl_mux_timer_arm(channel->pool->mux, &channel->deadline, 0);
}

void pl_lent_deadline_moved(struct pl_connection *connection)
{
    struct pl_channel *channel = pl_channel_of(connection);

    if (channel && (pl_get(connection->lease.marks) & PL_MARK_EVENTS))
        arm_deadline(channel, connection);
}

/* ---- events */

/* What a blocking receive read ahead comes first, all of it. False: the loan ended. */
static bool tell_read_ahead(struct pool_conn handle)
{
    struct pl_connection *connection = pl_connection_of(handle.slot);
    struct pl_channel *channel;
    char bytes[PL_CHANNEL_READ];
    size_t size;

    while ((channel = enter(&handle))) {
        size = channel->on_event ? pl_stream_take_ahead(connection, bytes, sizeof(bytes)) : 0;
        if (!size)
            return leave(&handle);
        leave_and_tell(channel, handle, POOL_EV_READ, (struct pool_bytes){ bytes, size });
    }
    return false;
}

/* True: there may be more. */
static bool read_once(struct pool_conn handle)
{
    struct pl_connection *connection = pl_connection_of(handle.slot);
    struct pl_channel *channel = enter(&handle);
    char bytes[PL_CHANNEL_READ];
    ssize_t got;

    if (!channel)
        return false;
    if (!channel->on_event) {
        leave(&handle);
        return false;
    }
    got = pl_stream_doom(connection)
              ? -EBADF
              : pl_transport_recv(connection, bytes, sizeof(bytes), &channel->read_wants);
    if (got == -EAGAIN) {
        leave(&handle);
        return false;
    }
    if (got <= 0) {
        leave_and_end(channel, handle, (int)-got);
        return false;
    }
    pl_stream_note_received(connection, (size_t)got, pl_os->coarse_ns());
    pl_channel_arm_silence(channel, POOL_READ);
    leave_and_tell(channel, handle, POOL_EV_READ, (struct pool_bytes){ bytes, (size_t)got });
    return true;
}

static void write_some(struct pool_conn handle)
{
    struct pl_channel *channel = enter(&handle);
    bool is_due = false;
    int error;

    if (!channel)
        return;
    error = pl_stream_doom(channel->connection) ? EBADF : pl_channel_flush(channel, &is_due);
    if (error)
        leave_and_end(channel, handle, error);
    else if (is_due)
        leave_and_tell(channel, handle, POOL_EV_WRITTEN, (struct pool_bytes){ 0 });
    else
        leave(&handle);
}

static void watch_on(struct pool_conn handle)
{
    struct pl_channel *channel = enter(&handle);

    if (!channel)
        return;
    if (pl_channel_watch_again(channel))
        leave(&handle);
    else
        leave_and_end(channel, handle, EBADF);
}

void pl_lent_on_event(struct pl_connection *connection, uint64_t word, uint32_t events)
{
    struct pool_conn handle = pl_connection_handle(connection, word);
    struct pl_channel *channel = pl_channel_of(connection); /* freed by this thread alone */

    /* A blocking borrower's, or an event of an earlier loan: a pin of ours could make a return
     * look as if an operation were under way. */
    if (!channel || channel->lent_serial != handle.serial || !enter(&handle))
        return;
    if (!pl_connection_is_ours(connection)) {
        leave_and_end(channel, handle, EBADF);
        return;
    }
    if (!leave(&handle))
        return;
    if (connection->tls)
        events |= EPOLLIN | EPOLLOUT;   /* each direction may have waited for the other one */
    if (events & EPOLLOUT)
        write_some(handle);
    if (!tell_read_ahead(handle))
        return;
    for (int i = 0; i < PL_CHANNEL_READS && (events & ~(uint32_t)EPOLLOUT); i++) {
        if (!read_once(handle))
            break;
    }
    watch_on(handle);
}

void pl_lent_on_silence(struct pl_channel *channel, enum pool_direction direction)
{
    enum pool_event event = direction == POOL_READ ? POOL_EV_TIMEOUT_READ : POOL_EV_TIMEOUT_WRITE;
    struct pool_conn handle = { (struct pool_slot *)(void *)channel->connection,
                                channel->lent_serial };

    if (enter(&handle))
        leave_and_tell(channel, handle, event, (struct pool_bytes){ 0 });
}

/* ---- the end of a loan */

void pl_lent_tell_end_of_pool(struct pl_channel *channel)
{
    struct pl_connection *connection = channel->connection;
    struct pool_conn handle = { (struct pool_slot *)(void *)connection, channel->lent_serial };

    if (channel->on_event && pl_word_pin(&connection->word, handle.serial)) {
        pl_stream_fail_errno(connection, EBADF);
        leave_and_tell(channel, handle, POOL_EV_ERROR, (struct pool_bytes){ 0 });
    }
    channel->on_event = NULL; /* whoever returned it before listens no more */
}

/* The mux has nothing to do with it any more. Answers why it is to be closed; -1: it is
 * not. */
static int let_go(struct pl_channel *channel, int reason)
{
    struct pl_connection *connection = channel->connection;

    if (reason < 0 && pl_buffer_size(&channel->out))
        reason = POOL_CLOSE_DIRTY;
    /* Operations may have gone on when it was returned. One that still does ends it; what the
     * others left behind is known now, and no other one can begin. */
    if (reason < 0 && pl_word_pins(atomic_load(&connection->word)))
        reason = POOL_CLOSE_DIRTY;
    if (reason < 0)
        reason = pl_give_back_unfitness(connection, pl_os->coarse_ns());
    channel->lent_serial = 0;
    channel->owes_written = channel->is_over_high = false;
    pl_channel_silence(channel);
    pl_mux_timer_disarm(channel->pool->mux, &channel->deadline);
    pl_buffer_fini(&channel->out);
    return reason < 0 ? -1 : reason;
}

static void hand_on(struct pl_connection *connection, int reason)
{
    if (reason < 0)
        pl_peer_give_back(connection->peer, connection);
    else
        pl_peer_close(connection, (enum pool_close_reason)reason);
}

static void on_let_go(struct pl_post *post)
{
    struct pl_channel *channel = pl_container(post, struct pl_channel, let_go_post);
    struct pl_connection *connection = channel->connection;

    hand_on(connection, let_go(channel, channel->let_go_reason));
}

/* Under the lock under which the pool's end takes a channel away and posts what frees it: behind
 * that post it would be freed under ours. NULL: it was taken. */
static struct pl_channel *post_let_go(struct pl_connection *connection, int reason)
{
    struct pl_peer *peer = connection->peer;
    struct pl_channel *channel;

    pthread_mutex_lock(&peer->lock);
    channel = pl_channel_of(connection);
    if (channel) {
        channel->let_go_post = (struct pl_post){ .run = on_let_go, .owner = channel->pool };
        channel->let_go_reason = reason;
        pl_mux_post(channel->pool->mux, &channel->let_go_post);
    }
    pthread_mutex_unlock(&peer->lock);
    return channel;
}

void pl_lent_end(struct pl_connection *connection, int reason)
{
    struct pool_mux *mux = connection->mux;
    enum pl_mux_stay stay = pl_mux_enter(mux);
    struct pl_channel *channel;

    if (!stay && post_let_go(connection, reason))
        return;
    channel = stay ? pl_channel_of(connection) : NULL; /* freed by this thread alone */
    if (channel)
        reason = let_go(channel, reason);
    else if (reason < 0)
        reason = POOL_CLOSE_POOL; /* the pool's end took it away */
    pl_mux_leave(mux, stay); /* before the program is called, who may end the pool */
    hand_on(connection, reason);
}
