/* line_write.c: what is put on a line, and how it leaves. See line.h. */
#include "pool/line.h"

#include <errno.h>

#include "base/os.h"
#include "net/transport.h"
#include "pool/room.h"
#include "pool/unasked.h"

#define KEPT 4096u                      /* bytes of a buffer that is empty */
#define TURNS 16                        /* writes of one who has the seat */
#define BURST_MOST (1u << 20)           /* bytes made room for at once */
#define MARK_AFTER (1u << 30)           /* after so many bytes queries whose frames are gone are
                                         * marked: places are kept modulo 2^32 */

static void note_long_gone(struct pl_line *line)
{
    if (PL_UNLIKELY(line->given - line->marked > MARK_AFTER))
        pl_line_note_long_gone(line);
}

/* The query has a frame at the end of what is queued, which is that much now. */
static void note_put(struct pl_line *line, struct pl_query *query, uint64_t key)
{
    if (!line->correlator.count) {
        line->was_quiet = true;
        line->early_size = line->correlator.codec->keyed ? 0 : pl_buffer_size(&line->runner.in);
        line->early_from = line->given;
        line->is_to_be_heard_first = line->is_hearing && !line->correlator.codec->keyed;
    }
    query->entry.size = (uint32_t)(pl_buffer_size(&line->out) + line->taken - line->given);
    note_long_gone(line);
    line->given += query->entry.size;
    query->end = (uint32_t)line->given;
    if (PL_UNLIKELY(query->closes)) {   /* nothing goes behind it, also where nobody shares it */
        pl_line_retire(line);
        pl_set(line->connection->expires_ns, 0);
    }
    if (!query->entry.replies) {
        pl_correlator_pass(&line->correlator, key);
        return;
    }
    pl_correlator_add(&line->correlator, &query->entry, key);
    line->unanswered += query->entry.size;
    query->line = line;
    line->ordered += (query->flags & POOL_ORDERED) != 0;
    if (query->is_posted) {             /* whatever comes for it is nobody's */
        pl_list_drop(&query->link);
        query->is_done = true;
        query->is_awaited = false;
        line->posted++;
        query->posted_ns = pl_os->now_ns();
        line->late_ns = line->late++ ? line->late_ns : query->posted_ns;
        pl_exchange_wake_at(line->exchange, pl_after(line->late_ns, PL_LATE_NS));
    } else if (query->is_passive) {
        line->passive++;
    } else {
        pl_list_push_back(&line->waiting, &query->link);
    }
}

/* Room for as much as the last burst took; without memory, for less. */
static void make_room(struct pl_line *line)
{
    size_t burst = line->burst < BURST_MOST ? line->burst : BURST_MOST, room;

    if (PL_UNLIKELY(!line->out.capacity && burst > KEPT))
        (void)!pl_buffer_space(&line->out, burst, &room);
}

enum pool_status pl_line_put(struct pl_line *line, struct pl_query *query,
                             struct pool_bytes request)
{
    const struct pool_codec *codec = line->correlator.codec;
    struct pool_out out = { .buffer = &line->out, .most = pl_line_options(line)->max_message };
    struct pl_frame frame = { .kind = POOL_REQUEST, .body = request };
    struct pool_expect expect;
    uint64_t key;
    enum pool_status status = pl_correlator_reserve(&line->correlator, &key);

    line->lacks_key = status == POOL_E_FULL;
    if (status)
        return line->lacks_key ? POOL_E_WOULD_BLOCK : status;
    make_room(line);
    frame.key = codec->keyed ? key : 0;
    status = pl_out_encode(&out, codec, line->write_state, &frame, &expect);
    if (status)
        return status;
    query->entry = (struct pl_entry){ .hint = expect.hint, .replies = expect.replies };
    query->closes = expect.closes;
    note_put(line, query, key);
    return POOL_OK;
}

enum pool_status pl_line_put_frame(struct pl_line *line, struct pl_query *query)
{
    struct pool_bytes frame = query->more->request;
    uint64_t key = query->entry.key;
    enum pool_status status = line->correlator.codec->keyed
                                  ? pl_correlator_reserve_key(&line->correlator, key)
                                  : pl_correlator_reserve(&line->correlator, &key);

    if (status)
        return status == POOL_E_FULL ? POOL_E_WOULD_BLOCK : status;
    if (!pl_buffer_append(&line->out, frame.data, frame.size))
        return POOL_E_MEMORY;
    note_put(line, query, key);
    return POOL_OK;
}

/* One that was quiet for longer than the clock's step may have been ended by the peer meanwhile.
 * What it was to carry is unsent then, and goes elsewhere. */
static bool must_look(struct pl_line *line)
{
    bool must_look = line->was_quiet && pl_os->coarse_ns() > line->used_ns &&
                     pl_line_options(line)->check != POOL_CHECK_NEVER;

    line->was_quiet = false;
    return must_look;
}

/* One write of what was queued; not locked. */
static ssize_t send_once(struct pl_line *line, size_t size, bool must_peek, short *wants)
{
    struct iovec piece = { line->sending.data + line->sending.start, size };
    ssize_t sent;

    if (!pl_line_has_own_socket(line))
        return -EBADF;
    if (must_peek && pl_connection_peek(line->connection) == PL_ENDED)
        return 0;
    do
        sent = pl_transport_send(line->connection, &piece, 1, wants);
    while (sent == -EINTR);
    return sent;
}

static void take_queued(struct pl_line *line)
{
    struct pl_buffer empty = line->sending;

    line->taken += pl_buffer_size(&line->out);
    if (pl_buffer_size(&line->out))
        line->burst = pl_buffer_size(&line->out);
    line->sending = line->out;
    line->out = empty;
}

/* How much is to be written next; it lies in `sending` then. */
static size_t next_piece(struct pl_line *line)
{
    size_t size;

    do {
        if (!pl_buffer_size(&line->sending))
            take_queued(line);
        size = PL_LIKELY(pl_list_is_empty(&line->gaps)) ? pl_buffer_size(&line->sending)
                                                        : pl_line_piece(line);
    } while (PL_UNLIKELY(!size && pl_buffer_size(&line->out)));
    return size;
}

/* Before something leaves: what was received by now answers nothing from there on. Where something
 * has left since that was noted last, that goes on to count, since one of them is kept. */
static void note_early(struct pl_line *line)
{
    size_t size = pl_buffer_size(&line->runner.in);

    if (PL_LIKELY(!size) || line->correlator.codec->keyed ||
        (line->early_size && line->early_from < line->sent))
        return;
    line->early_size = size;
    line->early_from = line->sent;
}

static void give_up(struct pl_buffer *buffer)
{
    if (buffer->capacity > KEPT)
        pl_buffer_fini(buffer);
}

/* Where nothing is left to write, large buffers go: thousands of lines may be quiet. The next burst
 * begins with as much as this one took. */
static void tidy(struct pl_line *line)
{
    if (pl_buffer_size(&line->sending) || pl_buffer_size(&line->out))
        return;
    give_up(&line->sending);
    give_up(&line->out);
}

/* Was anything sent that has not been answered? */
static bool awaits_reply(const struct pl_line *line)
{
    struct pl_entry *entry;
    size_t at = 0;

    while ((entry = pl_correlator_visit(&line->correlator, &at))) {
        if (pl_line_has_begun(line, pl_query_of_entry(entry)))
            return true;
    }
    return false;
}

/* A write ended with `sent`: 0 where the peer had closed before, or a negative errno. A peer that
 * reset the connection may have answered first: what came is told before the line breaks. */
static void on_failure(struct pl_line *line, ssize_t sent, struct pl_wakes *wakes)
{
    struct pl_failure failure =
        sent ? pl_transport_failure(line->connection, (int)-sent, POOL_PHASE_USE)
             : pl_failure_make(POOL_E_CLOSED, POOL_PHASE_USE, 0);

    if (!sent || sent == -EBADF || !awaits_reply(line)) {
        pl_line_break(line, failure, wakes);
        return;
    }
    line->is_mute = true;
    pl_line_retire(line);
    line->ending = failure;
    pl_connection_shut(line->connection);       /* whoever reads comes to the end */
    pl_line_seek_reader(line, wakes);
}

void pl_line_flush(struct pl_line *line, struct pl_wakes *wakes)
{
    struct pl_exchange *exchange = line->exchange;
    short wants = POLLOUT;
    ssize_t sent = 0;
    size_t size;
    bool must_peek;
    int turns = 0;

    if (line->is_writing || PL_UNLIKELY(line->is_to_be_heard_first || line->is_mute))
        return;
    line->is_writing = true;
    line->is_held_back = false;
    while (!line->is_broken && !line->is_mute && !line->is_to_be_heard_first && sent != -EAGAIN &&
           turns++ < TURNS) {
        size = next_piece(line);
        if (!size)
            break;
        note_early(line);
        must_peek = must_look(line);
        pl_exchange_unlock(exchange, wakes);
        sent = send_once(line, size, must_peek, &wants);
        pthread_mutex_lock(&exchange->lock);
        if (sent > 0) {
            line->used_ns = pl_os->coarse_ns();
            pl_buffer_drop(&line->sending, (size_t)sent);
            line->sent += (uint64_t)sent;
            pl_add(line->connection->bytes_out, (uint64_t)sent);
        } else if (sent != -EAGAIN) {
            line->is_writing = false;
            on_failure(line, sent, wakes);
        }
    }
    line->is_writing = false;
    tidy(line);
    if (exchange->queued)
        pl_exchange_attend_later(exchange);     /* there may be room again */
    if (turns > TURNS && !line->is_broken)
        pl_line_pump_later(line);       /* others go on asking; who writes has his own to do */
    if (exchange->is_ended)             /* who waits for the end may run no timer any more */
        pl_exchange_attend_later(exchange);
    else if (line->is_broken || (line->is_leaving && !line->correlator.count))
        pl_exchange_wake_at(exchange, 0);       /* it could not go while we wrote */
    else if (PL_UNLIKELY(atomic_load(&pl_room_wanted)) && pl_line_may_make_room(line))
        pl_exchange_wake_at(exchange, 0);
    if (sent == -EAGAIN)
        pl_line_watch(line, wants == POLLIN ? EPOLLIN : EPOLLOUT, wakes);
}

void pl_line_pump_later(struct pl_line *line)
{
    if (line->is_pump_posted)
        return;
    line->is_pump_posted = true;
    pl_mux_post_soonest(line->exchange->pool->mux, &line->pump_post);
}

void pl_line_respond(struct pl_line *line, const struct pl_frame *frame, bool was_kept,
                     struct pl_wakes *wakes)
{
    struct pool_out out = { .buffer = &line->out, .most = pl_line_options(line)->max_message };
    struct pool_expect expect;
    const struct pool_options *options = pl_line_options(line);
    enum pool_status status = POOL_OK;

    line->serving--;
    if (line->is_broken)
        return;
    pl_unasked_admit_kept(line);
    if (!was_kept &&
        (pl_buffer_size(&line->out) > (size_t)options->write_high + options->max_message ||
         pl_line_is_far_behind(line)))
        status = POOL_E_FULL;           /* who asks and does not read must not fill our memory */
    if (!frame->body.data && frame->body.size)
        status = POOL_E_ARGUMENT;
    if (!status)
        status = pl_out_encode(&out, line->correlator.codec, line->write_state, frame, &expect);
    if (status) {                       /* the peer would wait for ever */
        pl_line_break(line, pl_failure_make(status, POOL_PHASE_USE, 0), wakes);
        return;
    }
    note_long_gone(line);
    line->given = line->taken + pl_buffer_size(&line->out);
    pl_line_pump_later(line);
}
