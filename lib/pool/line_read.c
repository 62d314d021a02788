/* line_read.c: what comes on a line, and whose it is. See line.h. */
#include "pool/line.h"

#include <errno.h>
#include <limits.h>
#include <string.h>

#include "base/os.h"
#include "net/stream.h"
#include "net/transport.h"
#include "pool/unasked.h"

#define RECEIVE 8192u                   /* bytes taken from the socket at once by the mux: what is
                                         * asked upon them is sent before more are taken, so the
                                         * peer does not wait for all of it */
#define RECEIVE_ALONE 16384u            /* and by a thread, which tells nobody meanwhile */
#define SLICE 64u                       /* messages that the mux finds before it tells: they are
                                         * still in the processor's nearest cache then */
#define JOINED_AT_ONCE 16u              /* longest answers in the making that a line may keep */
#define TURNS 64                        /* and how often for each event: others want their turn */

static bool is_too_long_with(const struct pl_line *line, const struct pl_buffer *joined,
                             size_t more)
{
    size_t most = pl_line_options(line)->max_message;

    return more > most - pl_buffer_size(joined) ||
           line->joined + more > most * (size_t)JOINED_AT_ONCE;
}

/* A part, or one of several replies that answer one request. POOL_E_MEMORY; POOL_E_PROTOCOL:
 * joined, they are too many bytes, or those of all queries. */
static enum pool_status keep_part(struct pl_line *line, struct pl_query *query,
                                  const struct pool_message *message, struct pl_wakes *wakes)
{
    struct pl_query_more *more = pl_query_more_of(query);
    struct pool_bytes body = message->body;
    struct pool_reply *part;
    size_t size;

    if (!more)
        return POOL_E_MEMORY;
    if (!more->on_part) {
        if (is_too_long_with(line, &more->joined, body.size))
            return POOL_E_PROTOCOL;
        if (!pl_buffer_append(&more->joined, body.data, body.size))
            return POOL_E_MEMORY;
        line->joined += body.size;
        return POOL_OK;
    }
    part = pl_reply_make(body, message->failed);
    if (!part)
        return POOL_E_MEMORY;
    pl_list_push_back(&more->parts, &part->link);
    size = sizeof(*part) + (body.size > PL_REPLY_SMALL ? body.size : PL_REPLY_SMALL);
    more->part_size += size;
    line->untold += size;
    pl_exchange_note_parts(line->exchange, query, wakes);
    return POOL_OK;
}

static void answer(struct pl_line *line, struct pl_query *query, struct pool_reply *reply,
                   struct pl_wakes *wakes)
{
    struct pl_failure failure;

    if (PL_LIKELY(reply)) {
        pl_exchange_finish(line->exchange, query, reply, wakes);
        return;
    }
    failure = pl_failure_make(POOL_E_MEMORY, POOL_PHASE_REPLY, ENOMEM);
    failure.outcome = POOL_ANSWERED;
    pl_exchange_fail(line->exchange, query, failure, wakes);
}

/* The last of several replies that answer one request. */
static void answer_joined(struct pl_line *line, struct pl_query *query,
                          const struct pool_message *message, struct pl_wakes *wakes)
{
    const struct pl_buffer *joined = &query->more->joined;
    struct pool_bytes before = { joined->data + joined->start, pl_buffer_size(joined) };
    struct pl_failure failure = pl_failure_make(POOL_E_PROTOCOL, POOL_PHASE_REPLY, EMSGSIZE);

    if (message->body.size <= pl_line_options(line)->max_message - before.size) {
        answer(line, query, pl_reply_join(before, message->body, message->failed), wakes);
        return;
    }
    failure.outcome = POOL_ANSWERED;
    pl_exchange_fail(line->exchange, query, failure, wakes);
}

/* What the sentinel got: exactly what it must, or nobody knows whose the bytes are. A line that is
 * not in step breaks, and takes a sentinel with it that has more to come. */
static void prove(struct pl_line *line, const struct pool_message *message, bool is_last,
                  struct pl_wakes *wakes)
{
    struct pool_bytes expected = line->correlator.codec->sentinel_reply;

    if (!is_last || message->body.size != expected.size ||
        memcmp(message->body.data, expected.data, expected.size) != 0)
        pl_line_break(line, pl_failure_make(POOL_E_PROTOCOL, POOL_PHASE_REPLY, 0), wakes);
}

/* Bytes that nobody waits for. When so many came, without a moment in which none was due, that a
 * new connection costs less, those who have asked are answered here still, and then it ends. */
static void swallow(struct pl_line *line, const struct pl_query *query, size_t size)
{
    size_t most = pl_line_options(line)->max_message;

    if (query->is_posted)
        return;
    line->late_size += size < most ? size : most;
    if (line->late_size <= most)
        return;
    pl_line_retire(line);
    pl_set(line->connection->expires_ns, 0);
    pl_exchange_wake_at(line->exchange, 0);     /* all may have been given up */
}

/* Did what came begin before a byte of the request left? */
static bool answers_too_early(const struct pl_line *line, const struct pl_query *query)
{
    return (PL_UNLIKELY(line->sent != line->given) && !pl_line_has_begun(line, query)) ||
           (PL_UNLIKELY(line->early_size) && pl_line_is_behind(line, query, line->early_from));
}

static void on_reply(struct pl_line *line, const struct pool_message *message,
                     struct pl_wakes *wakes)
{
    struct pl_entry *entry = pl_correlator_find(&line->correlator, message->key);
    struct pl_query *query = entry ? pl_query_of_entry(entry) : NULL;
    bool is_early = query && answers_too_early(line, query);
    enum pool_status status = POOL_OK;
    bool is_last, was_done;

    if (!query || is_early) {           /* nothing was asked that it could answer */
        pl_unasked_orphan(line, message);
        if (is_early || !line->correlator.codec->keyed) /* who knows whose the next one is */
            pl_line_break(line, pl_failure_make(POOL_E_PROTOCOL, POOL_PHASE_REPLY, 0), wakes);
        return;
    }
    is_last = message->kind == POOL_REPLY && pl_correlator_count_off(&line->correlator, entry);
    if (query->is_sentinel) {
        prove(line, message, is_last, wakes);
        if (!is_last)
            return;
    } else if (query->is_done) {
        line->exchange->late_replies += is_last && !query->is_posted;
        pl_unasked_orphan(line, message);
        swallow(line, query, message->body.size);
    }
    if (!is_last) {
        if (!query->is_done)
            status = keep_part(line, query, message, wakes);
        if (status)
            pl_line_break(line,
                          pl_failure_make(status, POOL_PHASE_REPLY,
                                          status == POOL_E_MEMORY ? ENOMEM : EMSGSIZE),
                          wakes);
        return;
    }
    line->has_answered = true;
    was_done = query->is_done;
    pl_line_leave(line, query);
    if (was_done)
        return;
    if (PL_UNLIKELY(query->more && pl_buffer_size(&query->more->joined)))
        answer_joined(line, query, message, wakes);
    else
        answer(line, query, pl_reply_make(message->body, message->failed), wakes);
}

/* What answers no query. */
static void on_unasked(struct pl_line *line, const struct pool_message *message,
                       struct pl_wakes *wakes)
{
    enum pool_status status;

    if (message->kind == POOL_PUSH)
        status = pl_unasked_push(line, message) ? POOL_OK : POOL_E_MEMORY;
    else
        status = pl_unasked_request(line, message);
    if (status)
        pl_line_break(line,
                      pl_failure_make(status, POOL_PHASE_USE,
                                      status == POOL_E_MEMORY ? ENOMEM : 0),
                      wakes);
}

static void on_message(struct pl_line *line, const struct pool_message *message,
                       struct pl_wakes *wakes)
{
    if (message->kind == POOL_REPLY || message->kind == POOL_PART)
        on_reply(line, message, wakes);
    else
        on_unasked(line, message, wakes);
}

/* What was found may have said that nothing follows. */
static void judge(struct pl_line *line, struct pl_wakes *wakes)
{
    if (line->is_broken)
        return;
    if (line->runner.status)
        pl_line_break(line, pl_failure_make(line->runner.status, POOL_PHASE_REPLY, 0), wakes);
    else if (line->runner.is_over)      /* what was asked behind it is answered by nobody */
        pl_line_break(line,
                      line->has_answered
                          ? pl_failure_because(PL_REASON_OVER, POOL_PHASE_REPLY, 0)
                          : pl_failure_make(POOL_E_CLOSED, POOL_PHASE_REPLY, 0),
                      wakes);
}

/* Finds so many messages in what is there at the most, unless more requests wait for their answers
 * than may. True: there may be more. */
static bool parse(struct pl_line *line, unsigned most, struct pl_wakes *wakes)
{
    struct pool_message message;

    while (most && !line->is_broken && !pl_line_is_choked(line) &&
           pl_runner_next(&line->runner, pl_correlator_hint(&line->correlator), &message)) {
        on_message(line, &message, wakes);
        line->early_size -=
            line->early_size < line->runner.found ? line->early_size : line->runner.found;
        pl_runner_drop(&line->runner);
        most--;
    }
    judge(line, wakes);
    line->has_unheard = (!most || pl_line_is_choked(line)) && !line->is_broken;
    return line->has_unheard && !most;
}

/* There may be room again. */
static void give_room(struct pl_line *line, struct pl_wakes *wakes)
{
    if (line->exchange->queued && !line->is_broken)
        pl_exchange_distribute(line->exchange, wakes);
}

static bool find_messages(struct pl_line *line, unsigned most, struct pl_wakes *wakes)
{
    bool has_more = parse(line, most, wakes);

    give_room(line, wakes);
    return has_more && line->has_unheard;
}

void pl_line_resume(struct pl_line *line, struct pl_wakes *wakes)
{
    if (line->is_reading || line->is_broken)
        return;                         /* whoever reads finds them */
    (void)find_messages(line, UINT_MAX, wakes);
    pl_line_seek_reader(line, wakes);
}

/* After a write that failed it is the system, or we, who ended what is received: its failure stays
 * the cause. */
static struct pl_failure why_it_ends(const struct pl_line *line, ssize_t got)
{
    if (line->is_mute)
        return line->ending;
    return got ? pl_transport_failure(line->connection, (int)-got, POOL_PHASE_REPLY)
               : pl_failure_make(POOL_E_CLOSED, POOL_PHASE_REPLY, 0);
}

/* Then the end is none of what the peer says. */
static bool is_ended_by_us(const struct pl_line *line)
{
    return line->is_mute || pl_stream_doom(line->connection);
}

/* Reads on after `got`: bytes, 0 the end, or a negative errno. True: more messages than `most` may
 * have come. Nobody gets the room that there is then. */
static bool take_in_quietly(struct pl_line *line, ssize_t got, unsigned most,
                            struct pl_wakes *wakes)
{
    bool has_more;

    if (got > 0) {
        pl_runner_filled(&line->runner, (size_t)got);
        line->used_ns = pl_os->coarse_ns();
        pl_add(line->connection->bytes_in, (uint64_t)got);
    } else if (got == 0 && !is_ended_by_us(line)) {
        pl_runner_end(&line->runner);
    }
    has_more = parse(line, got > 0 ? most : UINT_MAX, wakes);
    if (got <= 0)
        pl_line_break(line, why_it_ends(line, got), wakes);
    return has_more;
}

static bool take_in(struct pl_line *line, ssize_t got, unsigned most, struct pl_wakes *wakes)
{
    bool has_more = take_in_quietly(line, got, most, wakes);

    give_room(line, wakes);
    return has_more && line->has_unheard;
}

/* One receive that does not wait. */
static ssize_t receive_now(struct pl_line *line, short *wants)
{
    size_t room;
    void *space = pl_runner_space(&line->runner, RECEIVE_ALONE, &room);

    if (!space)
        return -ENOMEM;
    return pl_line_has_own_socket(line)
               ? pl_transport_recv(line->connection, space, room, wants)
               : -EBADF;
}

/* Takes in what has come, also what must be kept since too many requests are unanswered. */
static void catch_up(struct pl_line *line, struct pl_wakes *wakes)
{
    ssize_t got = 1;
    short wants = POLLIN;

    line->is_catching_up = true;
    if (line->has_unheard)
        (void)parse(line, UINT_MAX, wakes);
    for (int i = 0; i < TURNS && got > 0 && !line->is_broken && !pl_line_is_choked(line); i++) {
        got = receive_now(line, &wants);
        if (got != -EAGAIN)
            (void)take_in_quietly(line, got, UINT_MAX, wakes);
        else if (wants == POLLOUT)
            pl_line_watch(line, EPOLLOUT, wakes);
    }
    line->is_catching_up = false;
}

bool pl_line_catch_up(struct pl_line *line, struct pl_wakes *wakes)
{
    /* Where somebody is receiving now, it is the mux, which tells what it gets from what is put
     * meanwhile: a thread that receives has a query of its own there. */
    if (line->correlator.count || line->is_hearing)
        return true;
    /* One that was just lent was looked at then; what a peer says that ends each connection at once
     * must not have another one opened for ever. */
    if (!line->given && !line->is_served && pl_os->coarse_ns() == line->used_ns)
        return true;
    catch_up(line, wakes);
    line->used_ns = pl_os->coarse_ns();
    return !line->is_broken && !pl_line_is_full(line);
}

void pl_line_receive(struct pl_line *line, uint64_t until_ns, struct pl_wakes *wakes)
{
    struct pl_exchange *exchange = line->exchange;
    size_t room;
    void *space;
    ssize_t got;

    if (PL_UNLIKELY(line->has_unheard)) {       /* the socket may have nothing more to tell */
        (void)find_messages(line, UINT_MAX, wakes);
        return;
    }
    space = pl_runner_space(&line->runner, RECEIVE_ALONE, &room);
    if (!space) {
        pl_line_break(line, pl_failure_make(POOL_E_MEMORY, POOL_PHASE_REPLY, ENOMEM), wakes);
        return;
    }
    pl_exchange_unlock(exchange, wakes);
    got = pl_line_has_own_socket_still(line)
              ? pl_stream_take(line->connection, space, room, until_ns)
              : -EBADF;
    pthread_mutex_lock(&exchange->lock);
    if (got != -ETIME && got != -EINTR && !line->is_broken)
        (void)take_in(line, got, UINT_MAX, wakes);
}

/* Takes in what has come before a write failed, and breaks, unless it must be told before all is
 * taken in. Nothing more comes: the socket is shut. */
static void wind_up(struct pl_line *line, struct pl_wakes *wakes)
{
    short wants;

    if (line->has_unheard)
        (void)parse(line, UINT_MAX, wakes);
    while (!line->is_broken && !pl_line_is_choked(line))
        (void)take_in_quietly(line, receive_now(line, &wants), UINT_MAX, wakes);
}

void pl_line_seek_reader(struct pl_line *line, struct pl_wakes *wakes)
{
    struct pl_query *first;

    if (line->is_reading || line->is_broken || pl_line_is_choked(line))
        return;
    if (PL_UNLIKELY(line->is_mute)) {
        wind_up(line, wakes);
        return;
    }
    if (line->called)
        return;
    if (line->passive || pl_list_is_empty(&line->waiting)) {
        if (line->passive || line->late || line->exchange->pool->settings.options.on_request)
            pl_line_watch(line, EPOLLIN, wakes);
        return;
    }
    first = pl_query_of_link(line->waiting.next);
    line->called = first;
    pl_exchange_wake(wakes, first->user);
}

/* ---- events; mux thread */

/* Receives once. True: there are more messages in it. *may_come: there may be more to receive. */
static bool read_once(struct pl_line *line, bool *may_come, struct pl_wakes *wakes)
{
    struct pl_exchange *exchange = line->exchange;
    size_t room;
    void *space = pl_runner_space(&line->runner, RECEIVE, &room);
    short wants = POLLIN;
    ssize_t got;

    *may_come = false;
    if (!space) {
        pl_line_break(line, pl_failure_make(POOL_E_MEMORY, POOL_PHASE_REPLY, ENOMEM), wakes);
        return false;
    }
    line->is_hearing = true;
    pthread_mutex_unlock(&exchange->lock);
    got = pl_connection_is_ours(line->connection)
              ? pl_transport_recv(line->connection, space, room, &wants)
              : -EBADF;
    *may_come = (got > 0 && (size_t)got == room) || pl_transport_has_more(line->connection);
    pthread_mutex_lock(&exchange->lock);
    line->is_hearing = false;
    if (PL_UNLIKELY(line->is_to_be_heard_first)) {
        line->is_to_be_heard_first = false;
        line->early_size += got > 0 ? (size_t)got : 0;
        pl_line_pump_later(line);
    }
    if (line->is_broken)
        return false;
    if (got != -EAGAIN)
        return take_in(line, got, SLICE, wakes);
    if (wants == POLLOUT) {
        line->is_stuck_in_write = true;
        pl_line_watch(line, EPOLLOUT, wakes);
    }
    *may_come = false;
    return false;
}

/* What came is told; unlocks meanwhile, when the reader's seat is free. False: the line is gone, or
 * this is the child of somebody who forked there. */
static bool tell(struct pl_line *line, struct pl_wakes *wakes)
{
    struct pl_exchange *exchange = line->exchange;
    uint64_t serial = line->conn.serial;

    if (wakes->count) {
        pl_exchange_unlock(exchange, wakes);
        pthread_mutex_lock(&exchange->lock);
    }
    exchange->steps++;                  /* it stays active while others are called */
    pl_exchange_tell(exchange);
    exchange->steps--;
    return !pl_pool_is_forked(exchange->pool) && atomic_load(&line->exchange) == exchange &&
           line->conn.serial == serial;
}

static bool may_hear(const struct pl_line *line)
{
    return !line->is_reading && !line->is_broken && !pl_line_is_choked(line);
}

/* Receives once, and tells what came. False: as above. */
static bool hear_once(struct pl_line *line, bool *may_come, struct pl_wakes *wakes)
{
    bool has_unheard;

    line->is_reading = true;
    has_unheard = read_once(line, may_come, wakes);
    line->is_reading = false;
    while (has_unheard) {
        if (!tell(line, wakes))
            return false;
        has_unheard = may_hear(line) && find_messages(line, SLICE, wakes);
    }
    return true;
}

void pl_line_hear(struct pl_line *line, struct pl_wakes *wakes)
{
    bool may_come = true;

    for (int i = 0; i < TURNS && may_come && may_hear(line); i++) {
        if (!hear_once(line, &may_come, wakes))
            return;
        if (!may_come)
            break;
        if (!tell(line, wakes))
            return;
        pl_line_flush(line, wakes);
    }
    pl_line_seek_reader(line, wakes);
    pl_line_let_go(line, wakes);
}

void pl_line_on_event(struct pl_line *line, struct pl_connection *connection, uint32_t events)
{
    struct pl_exchange *exchange = atomic_load(&line->exchange);
    struct pl_wakes wakes = { 0 };

    (void)events;
    if (!exchange)
        return;
    pthread_mutex_lock(&exchange->lock);
    if (atomic_load(&line->exchange) != exchange || line->connection != connection) {
        pthread_mutex_unlock(&exchange->lock);
        return;
    }
    line->watched = 0;
    line->is_stuck_in_write = false;
    pl_line_flush(line, &wakes);
    pl_line_hear(line, &wakes);
    pl_exchange_unlock(exchange, &wakes);
}
