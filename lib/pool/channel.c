/* channel.c: see channel.h.
 *
 * A callback runs with the connection pinned, so what it asks for (ready, drain, the pool's end)
 * can only mark; it is carried out when the callback has come back. Reading is bounded for each
 * event, so one loud peer does not starve the others on the mux.
 */
#include "pool/channel.h"

#include <errno.h>
#include <poll.h>

#include "base/os.h"
#include "net/stream.h"
#include "net/transport.h"
#include "pool/lent.h"
#include "pool/open.h"
#include "pool/pool.h"

/* ---- the end */

static void free_channel(struct pl_channel *channel)
{
    struct pool *pool = channel->pool;

    for (int i = 0; i < 2 && channel->has_timers; i++)
        pl_mux_timer_close(pool->mux, &channel->silence[i]);
    if (channel->has_deadline)
        pl_mux_timer_close(pool->mux, &channel->deadline);
    pl_buffer_fini(&channel->out);
    pl_os->free(channel);
    atomic_fetch_sub(&pool->channels, 1);
    pl_pool_leave(pool);
}

void pl_channel_end(struct pl_connection *connection)
{
    struct pl_channel *channel = atomic_exchange(&connection->channel, NULL);

    pl_set(connection->has_actor, false);
    if (!channel)
        return;
    channel->failure = pl_failure_unpack(pl_get(connection->failure));
    pl_mux_post(channel->pool->mux, &channel->end_post);
}

static void tell_end(struct pl_channel *channel)
{
    struct pool_conn gone = { 0 };
    struct pool_error error = POOL_ERROR_INIT;
    pool_conn_event_fn *on_event = channel->on_event;
    pool_gone_fn *on_close = channel->actor.on_close;
    bool has_failed =
        channel->failure.status != POOL_OK && channel->failure.status != POOL_E_CLOSED;

    channel->on_event = NULL;
    if (on_event)
        on_event(&gone, has_failed ? POOL_EV_ERROR : POOL_EV_CLOSED, (struct pool_bytes){ 0 },
                 channel->user);
    if (!on_close || pl_pool_is_forked(channel->pool))
        return;
    pl_failure_tell(&channel->failure, NULL, NULL, &error);
    on_close(channel->id, has_failed ? &error : NULL, channel->actor.user);
}

static void on_end_post(struct pl_post *post)
{
    struct pl_channel *channel = pl_container(post, struct pl_channel, end_post);

    if (channel->lent_serial)
        pl_lent_tell_end_of_pool(channel);
    channel->connection = NULL;
    if (atomic_load(&channel->posted) & PL_POSTED_READY) {
        pl_mux_post(channel->pool->mux, post);          /* that one may have been put off */
        return;
    }
    tell_end(channel);
    if (pl_pool_is_forked(channel->pool))
        return;
    free_channel(channel); /* posts run in order: the others of this channel have run */
}

/* ---- interest and silence */

void pl_channel_arm_silence(struct pl_channel *channel, enum pool_direction direction)
{
    uint32_t ms = channel->silence_ms[direction];

    if (channel->has_timers && ms)
        pl_mux_timer_arm(channel->pool->mux, &channel->silence[direction],
                         pl_after(pl_os->now_ns(), ms * PL_MS));
}

bool pl_channel_watch_again(struct pl_channel *channel)
{
    struct pl_connection *connection = channel->connection;
    bool is_read_ahead = connection->input && connection->input->start < connection->input->end;
    /* What comes in a loan is its borrower's, and never an actor's. */
    bool is_heard = channel->on_event || (channel->actor.on_message && !channel->lent_serial);
    bool has_more = is_heard && pl_transport_has_more(connection);
    bool is_due = pl_buffer_size(&channel->out) || channel->owes_written || has_more ||
                  (is_read_ahead && channel->on_event);
    uint32_t events = is_due ? EPOLLOUT : 0;

    if (channel->is_securing)
        return pl_connection_arm(connection, channel->pool->mux,
                                 channel->read_wants == POLLOUT ? EPOLLOUT
                                                                : EPOLLIN | EPOLLRDHUP);
    if (is_heard)
        events |= EPOLLIN | EPOLLRDHUP;
    /* Who secures it may have to write in order to read, and the other way round. */
    if (is_heard && channel->read_wants == POLLOUT)
        events |= EPOLLOUT;
    if (pl_buffer_size(&channel->out) && channel->write_wants == POLLIN)
        events = (events & ~(uint32_t)EPOLLOUT) | EPOLLIN;
    return !events || pl_connection_arm(connection, channel->pool->mux, events);
}

/* ---- callbacks */

struct call {
    struct pl_thread *self;
    void *outer;
};

static bool begin_call(struct pl_connection *connection, uint64_t serial, struct call *call)
{
    if (!pl_word_pin(&connection->word, serial))
        return false;
    call->self = pl_thread_self();
    call->outer = call->self->callback;         /* this thread dispatches, so it has a record */
    call->self->callback = connection;
    return true;
}

/* False: the connection ended in the callback; or it forked, and this is the child. */
static bool end_call(struct pl_connection *connection, struct call *call)
{
    call->self->callback = call->outer;
    if (!pl_word_unpin(&connection->word))
        return pl_word_state(atomic_load(&connection->word)) != PL_FORKED;
    pl_peer_finish_close(connection);
    return false;
}

bool pl_channel_tell(struct pl_channel *channel, struct pool_conn handle, enum pool_event event,
                     struct pool_bytes bytes)
{
    struct pl_connection *connection = channel->connection;
    pool_conn_event_fn *on_event = channel->on_event;
    struct call call;

    if (!on_event)
        return true;
    if (!begin_call(connection, handle.serial, &call))
        return false;
    if (event == POOL_EV_ERROR || event == POOL_EV_CLOSED)
        channel->on_event = NULL;               /* the last one */
    on_event(&handle, event, bytes, channel->user);
    return end_call(connection, &call);
}

void pl_channel_fail(struct pl_connection *connection, enum pool_status status, int cause)
{
    struct pl_failure failure = pl_failure_make(status, POOL_PHASE_SETUP, cause);

    if (pl_word_state(atomic_load(&connection->word)) == PL_LENT) {
        pl_stream_fail(connection, status, cause);
        return;
    }
    if (pl_word_state(atomic_load(&connection->word)) == PL_HEARD)
        failure.phase = POOL_PHASE_USE;
    pl_set(connection->failure, pl_failure_pack(failure));
}

void pl_channel_fail_errno(struct pl_connection *connection, int error)
{
    struct pl_failure failure = pl_transport_failure(connection, error, POOL_PHASE_USE);

    if (pl_word_state(atomic_load(&connection->word)) == PL_LENT) {
        pl_stream_fail_errno(connection, error);
        return;
    }
    if (pl_channel_of(connection)->is_securing)
        failure.phase = POOL_PHASE_TLS;
    else if (pl_word_state(atomic_load(&connection->word)) != PL_HEARD)
        failure.phase = POOL_PHASE_SETUP;
    pl_set(connection->failure, pl_failure_pack(failure));
}

/* The connection ended by itself: last event, then whatever it was in the middle of fails. */
void pl_channel_end_of_stream(struct pl_channel *channel, struct pool_conn handle, int error)
{
    struct pl_connection *connection = channel->connection;
    struct pl_failure failure;

    if (error)
        pl_channel_fail_errno(connection, error);
    else
        pl_channel_fail(connection, POOL_E_CLOSED, 0);
    if (!pl_channel_tell(channel, handle, error ? POOL_EV_ERROR : POOL_EV_CLOSED,
                         (struct pool_bytes){ 0 }))
        return;
    failure = pl_failure_unpack(pl_get(connection->failure));
    if (pl_word_state(atomic_load(&connection->word)) == PL_SETUP) {
        enum pool_status told = (enum pool_status)atomic_load(&channel->ready_status);

        if (atomic_load(&channel->is_ready_told) && told)
            failure.status = (int8_t)told;
        pl_open_finish(connection, &failure);
    } else if (error == EBADF) {
        pl_peer_close(connection, POOL_CLOSE_STOLEN);
    } else {
        pl_peer_close(connection, error ? POOL_CLOSE_ERROR : POOL_CLOSE_PEER);
    }
}

void pl_channel_silence(struct pl_channel *channel)
{
    channel->on_event = NULL;
    for (int i = 0; i < 2 && channel->has_timers; i++) {
        channel->silence_ms[i] = 0;
        pl_mux_timer_disarm(channel->pool->mux, &channel->silence[i]);
    }
}

void pl_channel_stop_watching(struct pl_connection *connection)
{
    struct pl_channel *channel = pl_channel_of(connection);

    if (channel)
        pl_channel_silence(channel);
}

/* ---- ready */

/* An actor has no more to hear for now. */
static void unhear(struct pl_connection *connection)
{
    struct pl_channel *channel = pl_channel_of(connection);
    uint64_t seen = atomic_load(&connection->word);

    channel->is_half = false;
    pl_channel_stop_watching(connection);       /* the next borrower is not this watcher's */
    if (pl_get(connection->expires_ns) == 0 || (seen & PL_PIN_MASK) ||
        !pl_word_become_state(&connection->word, seen, PL_MUX)) {
        pl_peer_close(connection, pl_peer_reason_of_age(connection));
        return;
    }
    if (seen & PL_LISTED)
        pl_room_park_one(channel->pool->room, connection);
    else                                        /* it was put aside by one who had taken it */
        pl_peer_give_back(connection->peer, connection);
}

bool pl_channel_carry_out_ready(struct pl_connection *connection)
{
    struct pl_channel *channel = pl_channel_of(connection);
    struct pl_failure failure;
    enum pool_status status;

    if (!channel || !atomic_exchange(&channel->is_ready_told, false))
        return false;
    status = (enum pool_status)atomic_load(&channel->ready_status);
    failure = pl_failure_make(status, POOL_PHASE_SETUP, 0);
    if (pl_word_state(atomic_load(&connection->word)) == PL_SETUP) {
        pl_open_finish(connection, &failure);
        return true;
    }
    if (status) {
        pl_channel_fail(connection, status, 0);
        pl_peer_close(connection, POOL_CLOSE_ERROR);
    } else if (pl_channel_is_busy(connection)) {
        channel->is_half = false;               /* parked when the rest has left */
        pl_channel_stop_watching(connection);
        pl_channel_watch_again(channel);
    } else {
        unhear(connection);
    }
    return true;
}

/* Told from outside a callback. Whoever told it may still hold its pin for a moment: a connection
 * that is given on must have none, so that moment is waited out, batch after batch. */
static void on_ready_post(struct pl_post *post)
{
    struct pl_channel *channel = pl_container(post, struct pl_channel, ready_post);
    struct pl_connection *connection = channel->connection;
    uint64_t word = connection ? atomic_load(&connection->word) : 0;
    bool is_held = connection && pl_channel_of(connection) == channel && pl_word_is_held(word) &&
                   pl_word_serial(word) == atomic_load(&channel->ready_serial);

    if (is_held && pl_word_pins(word)) {
        pl_mux_post(channel->pool->mux, post);
        return;
    }
    atomic_fetch_and(&channel->posted, ~(uint32_t)PL_POSTED_READY);
    if (!is_held)
        return;
    atomic_store(&channel->is_ready_told, true);
    pl_channel_carry_out_ready(connection);
}

/* ---- what it is */

bool pl_channel_is_busy(const struct pl_connection *connection)
{
    const struct pl_channel *channel = pl_channel_of(connection);

    return channel && pl_buffer_size(&channel->out) > 0;
}

bool pl_channel_has_actor(const struct pl_connection *connection)
{
    return pl_get(connection->has_actor);
}

void pl_channel_settle(struct pl_connection *connection)
{
    struct pl_channel *channel = pl_channel_of(connection);

    pl_set(connection->has_actor, channel && channel->actor.on_message);
}

void pl_channel_drop_unused(struct pl_connection *connection)
{
    struct pl_channel *channel = pl_channel_of(connection);

    if (!channel || channel->actor.on_message || channel->actor.on_close ||
        atomic_load(&channel->posted) || !pl_mux_is_dispatching(channel->pool->mux))
        return;
    atomic_store(&connection->channel, NULL);
    free_channel(channel);
}

/* ---- events */

static int send_queued(struct pl_channel *channel, bool *has_written)
{
    struct pl_connection *connection = channel->connection;
    struct iovec queued;
    ssize_t sent;

    if (channel->is_securing)
        return 0;

    while (pl_buffer_size(&channel->out)) {
        queued = (struct iovec){ channel->out.data + channel->out.start,
                                 pl_buffer_size(&channel->out) };
        sent = pl_transport_send(connection, &queued, 1, &channel->write_wants);
        if (sent == -EINTR)
            continue;
        if (sent == -EAGAIN)
            return 0;
        if (sent < 0)
            return (int)-sent;
        pl_buffer_drop(&channel->out, (size_t)sent);
        pl_stream_note_sent(connection, (size_t)sent, pl_os->coarse_ns());
        *has_written = true;
    }
    pl_buffer_fini(&channel->out);
    return 0;
}

int pl_channel_flush(struct pl_channel *channel, bool *is_due)
{
    bool has_written = false, was_waiting = pl_buffer_size(&channel->out) || channel->owes_written;
    int error = send_queued(channel, &has_written);

    *is_due = false;
    if (error)
        return error;
    if (has_written)
        pl_channel_arm_silence(channel, POOL_WRITE);
    if (pl_buffer_size(&channel->out) <= channel->low)
        channel->is_over_high = false;
    if (!was_waiting || pl_buffer_size(&channel->out))
        return 0;
    channel->owes_written = false;
    if (channel->has_timers)
        pl_mux_timer_disarm(channel->pool->mux, &channel->silence[POOL_WRITE]);
    *is_due = true;
    return 0;
}

/* One message or piece to whoever listens. False: the connection is out of our hands. */
static bool deliver(struct pl_channel *channel, struct pool_conn handle, struct pool_bytes bytes)
{
    struct pl_connection *connection = channel->connection;
    struct call call;

    if (channel->on_event)
        return pl_channel_tell(channel, handle, POOL_EV_READ, bytes) &&
               !pl_channel_carry_out_ready(connection);
    if (!begin_call(connection, handle.serial, &call))
        return false;
    channel->is_half = channel->actor.on_message(&handle, bytes, channel->actor.user) != 0;
    return end_call(connection, &call) && !pl_channel_carry_out_ready(connection);
}

/* Hears what there is. False: the connection is out of our hands. */
static bool read_some(struct pl_channel *channel, struct pool_conn handle)
{
    struct pl_connection *connection = channel->connection;
    char bytes[PL_CHANNEL_READ];
    ssize_t got;

    for (int i = 0; i < PL_CHANNEL_READS; i++) {
        if ((!channel->on_event && !channel->actor.on_message) || channel->is_securing)
            return true;
        got = pl_transport_recv(connection, bytes, sizeof(bytes), &channel->read_wants);
        if (got == -EAGAIN)
            return true;
        if (got <= 0) {
            pl_channel_end_of_stream(channel, handle, (int)-got);
            return false;
        }
        pl_add(connection->bytes_in, (uint64_t)got);
        pl_set(connection->last_used_ns, pl_os->now_ns());
        pl_channel_arm_silence(channel, POOL_READ);
        if (!deliver(channel, handle, (struct pool_bytes){ bytes, (size_t)got }))
            return false;
    }
    return true;
}

static bool write_some(struct pl_channel *channel, struct pool_conn handle)
{
    bool is_due;
    int error = pl_channel_flush(channel, &is_due);

    if (error) {
        pl_channel_end_of_stream(channel, handle, error);
        return false;
    }
    return !is_due ||
           (pl_channel_tell(channel, handle, POOL_EV_WRITTEN, (struct pool_bytes){ 0 }) &&
            !pl_channel_carry_out_ready(channel->connection));
}

/* What an event leaves behind: an actor between messages lets go, all else is watched on. */
static void after_event(struct pl_channel *channel, struct pool_conn handle)
{
    struct pl_connection *connection = channel->connection;

    if (pl_word_state(atomic_load(&connection->word)) == PL_HEARD && !channel->is_half &&
        !pl_buffer_size(&channel->out) && !pl_transport_has_more(connection)) {
        unhear(connection);
        return;
    }
    if (!pl_channel_watch_again(channel))
        pl_channel_end_of_stream(channel, handle, EBADF);
}

void pl_channel_on_event(struct pl_connection *connection, uint64_t word, uint32_t events)
{
    struct pl_channel *channel = pl_channel_of(connection);
    struct pool_conn handle = pl_connection_handle(connection, word);

    if (!channel)
        return;
    if (!pl_connection_is_ours(connection)) {
        pl_channel_end_of_stream(channel, handle, EBADF);
        return;
    }
    if (channel->is_securing && !pl_channel_secure(channel, handle))
        return;
    if (connection->tls)
        events |= EPOLLIN | EPOLLOUT;   /* each direction may have waited for the other one */
    if ((events & EPOLLOUT) && !write_some(channel, handle))
        return;
    if ((events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) && !read_some(channel, handle))
        return;
    after_event(channel, handle);
}

void pl_channel_hear(struct pl_connection *connection)
{
    struct pl_channel *channel = pl_channel_of(connection);
    uint64_t seen = atomic_load(&connection->word), word = pl_word_handed(seen, PL_HEARD);
    struct pool_conn handle = pl_connection_handle(connection, word);
    int verdict = pl_peer_verdict(connection);

    if (atomic_load(&connection->peer->hints) & PL_HINT_CLOSING)
        verdict = POOL_CLOSE_POOL;
    if (verdict >= 0) {
        pl_peer_close(connection, (enum pool_close_reason)verdict);
        return;
    }
    /* Time has passed since it was found to be ours. */
    if (!pl_connection_is_ours(connection)) {
        pl_peer_close(connection, POOL_CLOSE_STOLEN);
        return;
    }
    atomic_store(&channel->is_ready_told, false);
    while (!pl_word_become(&connection->word, seen, word)) {
        seen = atomic_load(&connection->word);
        word = pl_word_handed(seen, PL_HEARD);
    }
    if (read_some(channel, handle))
        after_event(channel, handle);
}

static void on_hear_post(struct pl_post *post)
{
    struct pl_channel *channel = pl_container(post, struct pl_channel, hear_post);

    atomic_fetch_and(&channel->posted, ~(uint32_t)PL_POSTED_HEAR);
    pl_channel_hear(channel->connection); /* it is MUX and nobody's but ours since it was posted */
}

void pl_channel_post_hear(struct pl_connection *connection)
{
    struct pl_channel *channel = pl_channel_of(connection);

    if (!channel) {                     /* the pool's end took it away while it was lent */
        pl_peer_close(connection, POOL_CLOSE_POOL);
        return;
    }
    atomic_fetch_or(&channel->posted, PL_POSTED_HEAR);
    pl_mux_post(channel->pool->mux, &channel->hear_post);
}

/* ---- the beginning; last, since it names all the posts */

enum pool_status pl_channel_refusal(const struct pool *pool)
{
    return atomic_load(&pool->state) == PL_POOL_DESTROYED ? POOL_E_CLOSING : POOL_E_MEMORY;
}

struct pl_channel *pl_channel_make(struct pl_connection *connection)
{
    struct pool *pool = connection->peer->pool;
    struct pl_channel *channel = pl_channel_of(connection);

    if (channel)
        return channel;
    /* Counted first: the pool's end finds it, or has begun before we look. */
    atomic_fetch_add(&pool->channels, 1);
    channel = atomic_load(&pool->state) == PL_POOL_DESTROYED ? NULL : pl_zalloc(sizeof(*channel));
    if (!channel) {
        atomic_fetch_sub(&pool->channels, 1);
        return NULL;
    }
    channel->connection = connection;
    channel->pool = pool;
    channel->actor.size = sizeof(channel->actor);
    channel->high = pool->settings.options.write_high;
    channel->low = pool->settings.options.write_low;
    channel->id = connection->id;
    channel->ready_post = (struct pl_post){ .run = on_ready_post, .owner = pool };
    channel->hear_post = (struct pl_post){ .run = on_hear_post, .owner = pool };
    channel->end_post = (struct pl_post){ .run = on_end_post, .owner = pool };
    pl_pool_ref(pool);
    atomic_store(&connection->channel, channel);
    return channel;
}

bool pl_channel_call_hook(struct pl_connection *connection, int *answer)
{
    struct pl_channel *channel = pl_channel_make(connection);
    struct pool_conn handle = pl_connection_handle(connection, atomic_load(&connection->word));
    const struct pool_options *options = &connection->peer->pool->settings.options;
    struct call call;

    if (!channel)
        return false;
    if (!begin_call(connection, handle.serial, &call)) {
        *answer = POOL_LATER;
        return true;
    }
    *answer = options->on_new_connection(&handle, &channel->actor, options->user);
    if (!end_call(connection, &call)) {
        *answer = POOL_LATER;                   /* it ended meanwhile: nothing is left to do */
        return true;
    }
    if (*answer != POOL_LATER)
        atomic_store(&channel->is_ready_told, false);   /* nobody waits for it */
    if (*answer == POOL_LATER && !pl_channel_carry_out_ready(connection) &&
        !pl_channel_watch_again(channel))
        pl_channel_end_of_stream(channel, handle, EBADF);
    return true;
}
