/* line.c: how a line begins and ends, and which one carries a query. See line.h. */
#include "pool/line.h"

#include <errno.h>
#include <string.h>

#include "base/os.h"
#include "net/stream.h"
#include "net/transport.h"
#include "pool/borrow.h"
#include "pool/responder.h"
#include "pool/unasked.h"

static void prepare_line(void *element)
{
    struct pl_line *line = element;

    pl_list_init(&line->waiting);
}

static struct pl_arena lines = PL_ARENA_INIT(lines, struct pl_line, prepare_line);

void pl_lines_hold(void)
{
    pl_arena_hold(&lines);
}

void pl_lines_let_go(void)
{
    pl_arena_let_go(&lines);
}

void pl_lines_library_end(void)
{
    pl_arena_release(&lines);
}

/* ---- birth and end */

static void fini(struct pl_line *line)
{
    pl_unasked_drop_kept(line);
    pl_responders_drop(line);
    pl_line_drop_gaps(line);
    pl_correlator_fini(&line->correlator);
    pl_runner_fini(&line->runner);
    pl_buffer_fini(&line->out);
    pl_buffer_fini(&line->sending);
    pl_os->free(line->write_state);
    line->write_state = NULL;
}

static void on_pump(struct pl_post *post)
{
    struct pl_line *line = pl_container(post, struct pl_line, pump_post);
    struct pl_exchange *exchange = line->exchange;      /* it stays until this has run */
    struct pl_wakes wakes = { 0 };

    pthread_mutex_lock(&exchange->lock);
    line->is_pump_posted = false;
    pl_line_flush(line, &wakes);
    pl_line_resume(line, &wakes);
    if (line->must_hear) {
        line->must_hear = false;
        pl_line_hear(line, &wakes);
    } else {
        pl_line_let_go(line, &wakes);
    }
    pl_exchange_unlock(exchange, &wakes);
}

static bool init(struct pl_line *line, struct pl_exchange *exchange, struct pool_conn conn)
{
    const struct pool_codec *codec = exchange->pool->settings.options.codec;
    struct pl_connection *connection = pl_connection_of(conn.slot);
    size_t fixed = offsetof(struct pl_line, link);      /* a late event may look at what is there */

    memset((char *)line + fixed, 0, sizeof(*line) - fixed);
    line->connection = connection;
    line->conn = conn;
    pl_list_init(&line->waiting);
    pl_list_init(&line->gaps);
    pl_list_init(&line->responders);
    pl_list_init(&line->kept_back);
    line->used_ns = pl_os->coarse_ns();
    line->pump_post = (struct pl_post){ .run = on_pump, .owner = exchange->pool };
    pl_correlator_init(&line->correlator, codec,
                       codec->keyed ? &exchange->next_key : &connection->next_key);
    line->write_state = pl_zalloc(codec->write_state_size ? codec->write_state_size : 1);
    if (line->write_state &&
        !pl_runner_init(&line->runner, codec, exchange->pool->settings.options.max_message))
        return true;
    fini(line);
    return false;
}

bool pl_line_open(struct pl_exchange *exchange, struct pool_conn conn, bool is_served)
{
    struct pl_line *line = pl_arena_take(&lines);

    if (!line)
        return false;
    if (!init(line, exchange, conn)) {
        pl_arena_give(&lines, line);
        return false;
    }
    line->is_served = is_served;
    pl_line_begin_evidence(line);
    atomic_store(&line->exchange, exchange);
    pl_list_push_back(&exchange->lines, &line->link);
    exchange->line_count++;
    atomic_store(&line->connection->line, line);
    pl_set(line->connection->lease.flags,
           pl_get(line->connection->lease.flags) | PL_LEASE_SHARED);
    pl_exchange_wake_at(exchange, pl_after(line->used_ns, exchange->pool->settings.park_ns));
    pl_exchange_wake_at(exchange, pl_get(line->connection->expires_ns));
    return true;
}

static bool has_unsent(const struct pl_line *line)
{
    return pl_buffer_size(&line->out) || pl_buffer_size(&line->sending);
}

static bool is_clean(const struct pl_line *line)
{
    return !line->is_broken && pl_runner_is_clean(&line->runner) && !has_unsent(line);
}

/* Must it be proved that the stream is in step before somebody gets the connection for himself? */
static bool needs_proof(const struct pl_line *line)
{
    const struct pool_codec *codec = line->correlator.codec;

    return line->is_in_doubt && !line->is_broken && !codec->keyed && codec->sentinel.size &&
           !line->exchange->is_ended && !pl_get(line->connection->doom) &&
           pl_get(line->connection->expires_ns);        /* else nobody gets it */
}

/* Asks what has one answer only, which proves nothing if it is there before. A line that cannot
 * even be asked is not trusted. */
static void send_sentinel(struct pl_line *line, struct pl_wakes *wakes)
{
    static const struct pool_call plain = { .size = sizeof(plain) };
    struct pl_submission submission = { .call = &plain, .deadline_ns = PL_NEVER };
    struct pl_query *query = NULL;

    if (pl_line_catch_up(line, wakes))
        query = pl_query_make(line->exchange, &submission, false);
    else if (!line->is_broken)          /* when what has come is told there is room to hear on */
        return;
    if (query) {
        query->is_sentinel = true;
        if (!pl_line_put(line, query, line->correlator.codec->sentinel) && query->line) {
            line->is_in_doubt = false;  /* but by what is given up behind it */
            pl_exchange_wake_at(line->exchange, pl_after(line->late_ns, PL_LATE_NS));
            pl_line_pump_later(line);
            return;
        }
        pl_exchange_release(line->exchange, query);
    }
    line->is_broken = true;
}

/* The loan did nothing itself: its connection is told how the line ended. That time ran out is its
 * queries' affair. */
static void leave_word(const struct pl_line *line)
{
    struct pl_connection *connection = line->connection;
    struct pl_failure ending = line->ending;

    switch ((enum pool_status)ending.status) {
    case POOL_OK:
    case POOL_E_TIMEOUT:
    case POOL_E_TIMEOUT_IN_TRANSFER:
        return;
    default:
        ending.phase = POOL_PHASE_USE;  /* nobody need have asked */
        pl_set(connection->failure, pl_failure_pack(ending));
        pl_set(connection->lease.marks, pl_get(connection->lease.marks) | PL_MARK_FAILED);
    }
}

bool pl_line_let_go(struct pl_line *line, struct pl_wakes *wakes)
{
    struct pl_exchange *exchange = line->exchange;
    struct pool_conn conn = line->conn;
    bool is_good = is_clean(line);

    if (!line->is_broken && !pl_list_is_empty(&exchange->unasked))
        return false;                   /* those who hear of it may still want the connection */
    if (line->correlator.count || line->is_reading || line->is_writing || line->is_pump_posted ||
        ((line->serving || has_unsent(line)) && !line->is_broken) ||
        !(line->is_broken || line->is_leaving))
        return false;
    if (needs_proof(line)) {
        send_sentinel(line, wakes);
        if (!line->is_broken || line->is_pump_posted)
            return false;
        is_good = false;
    }
    pl_line_retire(line);
    pl_list_unlink(&line->link);
    exchange->line_count--;
    if (exchange->ordered == line)
        exchange->ordered = NULL;
    exchange->steps++;                  /* until it is returned */
    atomic_store(&line->connection->line, NULL);
    line->connection->next_key = *line->correlator.next_key;
    leave_word(line);
    fini(line);
    atomic_store(&line->exchange, NULL);
    pl_exchange_unlock(exchange, wakes);
    pl_give_back_shared(conn, is_good);
    pl_arena_give(&lines, line);
    pthread_mutex_lock(&exchange->lock);
    exchange->steps--;
    if (exchange->line_count)
        pl_exchange_note_wanted(exchange);
    if (exchange->is_ended || exchange->queued)
        pl_exchange_attend_later(exchange);
    else
        pl_exchange_wake_at(exchange, 0);
    return true;
}

/* ---- choosing */

/* What was queued when the pool began to close is still carried, and in a pause the peer may go on
 * asking. */
static bool does_pool_end_it(const struct pl_line *line)
{
    const struct pool *pool = line->exchange->pool;

    switch ((enum pl_pool_state)atomic_load(&pool->state)) {
    case PL_POOL_LIVE:
        return false;
    case PL_POOL_CLOSING:
        return !line->exchange->queued;
    case PL_POOL_PAUSED:
        return !line->is_served || !pool->settings.options.on_request;
    default:
        return true;
    }
}

/* Why its connection should carry nothing new, though nothing has failed yet. */
static bool is_outlived(const struct pl_line *line)
{
    const struct pl_connection *connection = line->connection;

    return does_pool_end_it(line) ||
           pl_get(connection->doom) || !pl_get(connection->expires_ns) ||
           pl_get(connection->epoch) != atomic_load(&line->exchange->peer->epoch);
}

/* Bytes that it cannot hear now would pass for the reply to what is asked next. */
static bool may_mistake(const struct pl_line *line)
{
    return PL_UNLIKELY(pl_line_is_full(line)) && !line->correlator.codec->keyed &&
           !line->correlator.count;
}

static bool has_room(struct pl_line *line)
{
    const struct pool_options *options = pl_line_options(line);

    if (line->is_broken || line->is_leaving || line->lacks_key || may_mistake(line))
        return false;
    if (PL_UNLIKELY(is_outlived(line))) {
        pl_line_retire(line);
        pl_exchange_wake_at(line->exchange, line->used_ns);
        return false;
    }
    return line->correlator.count < options->max_inflight &&
           (!options->codec->keyed || line->correlator.count < options->codec->key_limit) &&
           pl_buffer_size(&line->out) < options->write_high && !pl_line_is_far_behind(line);
}

/* It takes no more, and nothing is left on it that others must stay behind. */
static bool is_out_of_order(const struct pl_line *line)
{
    return (line->is_leaving || line->is_broken) && !line->ordered;
}

/* May those who would wait on a line have another one? */
static bool may_widen(const struct pl_exchange *exchange)
{
    return exchange->line_count < exchange->pool->settings.options.max_per_address &&
           exchange->widen_ns <= pl_os->now_ns();
}

/* What is asked now would wait behind a large reply. */
static bool is_swamped(const struct pl_line *line)
{
    uint32_t most = pl_line_options(line)->write_high;

    return PL_UNLIKELY(line->untold > most || pl_runner_missing(&line->runner) > most) &&
           may_widen(line->exchange);
}

static uint64_t load_of(const struct pl_line *line)
{
    return line->unanswered + pl_runner_missing(&line->runner);
}

static struct pl_line *find_room(struct pl_exchange *exchange, bool is_ordered)
{
    struct pl_line *best = NULL;

    if (is_ordered && exchange->ordered) {
        if (has_room(exchange->ordered))
            return exchange->ordered;
        if (!is_out_of_order(exchange->ordered))
            return NULL;
    }
    PL_LIST_EACH(link, &exchange->lines) {
        struct pl_line *line = pl_container(link, struct pl_line, link);

        if ((!best || load_of(line) < load_of(best)) && has_room(line) && !is_swamped(line))
            best = line;
    }
    if (is_ordered)
        exchange->ordered = best;
    return best;
}

struct pl_line *pl_line_choose(struct pl_exchange *exchange, bool is_ordered,
                               struct pl_wakes *wakes)
{
    struct pl_line *line;

    do
        line = find_room(exchange, is_ordered);
    while (line && !line->correlator.codec->keyed && !pl_line_catch_up(line, wakes));
    return line;
}

/* It is to go, and carries only what was given up: who knows if that is ever answered. */
static bool is_forlorn(const struct pl_line *line)
{
    return line->is_leaving && line->late && line->late == line->correlator.count && !line->posted;
}

/* Has the peer said nothing either? Pushes that come when nobody reads any more are still cut into
 * messages; an actor of an idle connection would get the bare bytes. */
static bool is_quiet(struct pl_line *line, struct pl_wakes *wakes)
{
    uint64_t bytes_in = pl_get(line->connection->bytes_in);
    bool had_unheard = line->has_unheard, is_heard = pl_line_catch_up(line, wakes);

    return line->is_broken ||
           (is_heard && !had_unheard && pl_get(line->connection->bytes_in) == bytes_in);
}

/* Where replies carry keys those that come say nothing of one that does not. */
static uint64_t oldest_late(const struct pl_line *line)
{
    uint64_t oldest_ns = PL_NEVER;
    struct pl_entry *entry;
    size_t at = 0;

    while ((entry = pl_correlator_visit(&line->correlator, &at))) {
        const struct pl_query *query = pl_query_of_entry(entry);

        if (query->is_done)
            oldest_ns = pl_earlier(oldest_ns,
                                   query->is_posted ? query->posted_ns : query->deadline_ns);
    }
    return oldest_ns;
}

/* When a reply has been late for too long; there are such. */
static uint64_t late_end(struct pl_line *line, uint64_t now_ns)
{
    if (is_forlorn(line))
        return now_ns;
    if (line->correlator.codec->keyed && pl_after(line->late_ns, PL_LATE_NS) <= now_ns)
        line->late_ns = oldest_late(line);
    return pl_after(line->late_ns, PL_LATE_NS);
}

/* What serves a peer that asks is not idle because it does not ask now. */
bool pl_line_may_make_room(const struct pl_line *line)
{
    return !line->correlator.count && !line->serving && !has_unsent(line) && !line->is_leaving &&
           !line->is_broken && !line->exchange->queued &&
           pl_list_is_empty(&line->exchange->unasked) &&
           !(line->is_served && pl_line_options(line)->on_request);
}

/* Would its end help somebody who waits for room? Those of its own peer have yield.c. */
static bool is_room_wanted(const struct pl_line *line)
{
    const struct pool *pool = line->exchange->pool;
    struct pl_peer *peer = line->exchange->peer;
    bool is_wanting;

    if (PL_LIKELY(!atomic_load(&pl_room_wanted)) || !pl_line_may_make_room(line))
        return false;
    pthread_mutex_lock(&peer->lock);
    is_wanting = peer->shared.is_wanting && peer->shared.waiting > peer->shared.waiting_lines;
    pthread_mutex_unlock(&peer->lock);
    return !is_wanting && pl_room_is_wanted_of(pool->room, pool);
}

uint64_t pl_line_tend(struct pl_line *line, uint64_t now_ns, struct pl_wakes *wakes)
{
    uint64_t park_ns = pl_after(line->used_ns, line->exchange->pool->settings.park_ns),
             next_ns = pl_get(line->connection->expires_ns), late_ns;

    if (pl_get(line->connection->doom))
        pl_line_break(line, pl_failure_make(POOL_E_BROKEN, POOL_PHASE_USE, EBADF), wakes);
    if (is_outlived(line) || next_ns <= now_ns)
        pl_line_retire(line);
    if (line->is_leaving)
        next_ns = PL_NEVER;
    if (line->late && !line->is_broken) {
        late_ns = late_end(line, now_ns);
        next_ns = pl_earlier(next_ns, late_ns);
        if (late_ns <= now_ns)
            pl_line_break(line, pl_failure_because(PL_REASON_OVERDUE, POOL_PHASE_REPLY, 0), wakes);
    }
    if (line->correlator.count || line->serving)
        return next_ns;
    if (is_room_wanted(line))
        pl_line_retire(line);
    if (park_ns <= now_ns && !line->is_leaving && !line->is_broken &&
        !pl_line_options(line)->on_request) {
        line->is_leaving = is_quiet(line, wakes);
        if (!line->is_leaving)          /* the clock of `used_ns` may be behind by a step */
            park_ns = pl_after(now_ns, line->exchange->pool->settings.park_ns);
    }
    if (line->is_leaving && has_unsent(line) && !line->is_broken) {
        late_ns = pl_after(line->used_ns, PL_LATE_NS);
        if (late_ns > now_ns)
            return late_ns;
        pl_line_break(line, pl_failure_make(POOL_E_TIMEOUT_IN_TRANSFER, POOL_PHASE_USE, 0), wakes);
        return PL_NEVER;
    }
    return park_ns > now_ns ? pl_earlier(park_ns, next_ns) : next_ns;
}

/* ---- for all its parts */

/* Those who wait to come behind what it carried may go on elsewhere. */
static void look_at_order(struct pl_line *line)
{
    if (line->exchange->ordered != line || !is_out_of_order(line))
        return;
    line->exchange->ordered = NULL;
    if (line->exchange->queued_turns)
        pl_exchange_attend_later(line->exchange);
}

void pl_line_note_given_up(struct pl_line *line)
{
    if (line->late - line->posted > pl_line_options(line)->max_inflight / 2)
        pl_line_retire(line);
    if (is_forlorn(line))
        pl_exchange_wake_at(line->exchange, 0);
    look_at_order(line);
}

void pl_line_leave(struct pl_line *line, struct pl_query *query)
{
    if (line->called == query)
        line->called = NULL;
    if (PL_UNLIKELY(query->more && query->more->on_part))
        pl_line_uncount_parts(line, query);
    if (query->more)
        pl_line_uncount_joined(line, query);
    line->lacks_key = false;
    line->unanswered -= query->entry.size;
    line->passive -= query->is_passive && !query->is_done;
    line->posted -= query->is_posted;
    line->ordered -= (query->flags & POOL_ORDERED) != 0;
    look_at_order(line);
    if (query->is_done) {
        line->late_size = --line->late ? line->late_size : 0;
        if (!line->correlator.codec->keyed)
            line->late_ns = pl_os->coarse_ns(); /* late, but it comes, and those behind it will */
    }
    if (is_forlorn(line))
        pl_exchange_wake_at(line->exchange, 0);
    else if (!line->correlator.count)
        pl_exchange_wake_at(line->exchange,
                            PL_UNLIKELY(atomic_load(&pl_room_wanted))
                                ? 0
                                : pl_after(line->used_ns, line->exchange->pool->settings.park_ns));
    pl_exchange_leave_line(line->exchange, query);
}

void pl_line_uncount(struct pl_line *line, size_t size)
{
    bool was_choked = pl_line_is_choked(line);

    line->untold -= size;
    if (was_choked && !pl_line_is_choked(line) && !line->is_broken)
        pl_line_pump_later(line);       /* it hears on then */
}

void pl_line_uncount_parts(struct pl_line *line, struct pl_query *query)
{
    pl_line_uncount(line, query->more->part_size);
    query->more->part_size = 0;
}

void pl_line_uncount_joined(struct pl_line *line, const struct pl_query *query)
{
    line->joined -= pl_buffer_size(&query->more->joined);
}

void pl_line_watch(struct pl_line *line, uint32_t events, struct pl_wakes *wakes)
{
    uint32_t wanted = line->watched | events;

    if (wanted == line->watched || line->is_broken)
        return;
    if ((events & EPOLLIN) && !line->is_stuck_in_write && pl_transport_has_more(line->connection)) {
        line->must_hear = true;         /* the socket may have nothing more to tell */
        pl_line_pump_later(line);
        return;
    }
    line->watched = wanted;
    /* A line that does not hear would be told of the peer's end again and again. */
    if (!pl_connection_arm(line->connection, line->exchange->pool->mux,
                           pl_line_is_choked(line) ? wanted : wanted | EPOLLRDHUP))
        pl_line_break(line, pl_failure_make(POOL_E_BROKEN, POOL_PHASE_USE, EBADF), wakes);
}

/* ---- the end of a line */

/* The loan itself sent nothing, so its doom does not know. */
static struct pl_failure by_what_was_sent(struct pl_failure failure, const struct pl_line *line,
                                          const struct pl_query *query, bool maybe_sent)
{
    failure.outcome = 7 & (maybe_sent ? pl_line_outcome_of(line, query) : POOL_NOT_SENT);
    if (!maybe_sent && failure.phase == POOL_PHASE_REPLY)
        failure.phase = POOL_PHASE_USE; /* it awaited no reply yet */
    if (failure.status == POOL_E_TIMEOUT || failure.status == POOL_E_TIMEOUT_IN_TRANSFER)
        failure.status = maybe_sent ? POOL_E_TIMEOUT_IN_TRANSFER : POOL_E_TIMEOUT;
    return failure;
}

void pl_line_break(struct pl_line *line, struct pl_failure failure, struct pl_wakes *wakes)
{
    enum pool_status doom = pl_stream_doom(line->connection);
    struct pl_entry *entry;

    if (line->is_broken)
        return;
    if (doom)                           /* whatever it was noticed by */
        failure = pl_failure_make(doom, POOL_PHASE_REPLY,
                                  pl_stream_doom_cause(line->connection));
    line->is_broken = true;
    line->ending = failure;
    pl_line_take_evidence(line);
    if (line->is_reading || line->is_writing)
        pl_connection_shut(line->connection);   /* wakes who has the seat */
    while ((entry = pl_correlator_pop(&line->correlator))) {
        struct pl_query *query = pl_query_of_entry(entry);
        struct pool_bytes frame = pl_line_unsent(line, query);
        struct pl_failure own = by_what_was_sent(failure, line, query, frame.size == 0);
        bool is_to_move = !query->is_done;

        if (query->is_posted && !query->is_sentinel && frame.size)
            is_to_move = query->is_awaited = true;
        pl_line_leave(line, query);
        if (!is_to_move)
            continue;
        query->is_done = false;
        pl_exchange_move(line->exchange, query, own, frame, wakes);
    }
    pl_exchange_wake_at(line->exchange, 0);
}
