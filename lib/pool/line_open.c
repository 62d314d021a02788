/* line_open.c: how an exchange comes to its lines: by a borrow, on a thread that waits for its
 * reply or on the mux; or because the peer is to be heard. See exchange.h. */
#include <errno.h>

#include "base/os.h"
#include "net/address.h"
#include "pool/events.h"
#include "pool/line.h"
#include "pool/waiter.h"

#define WIDEN_NS (100 * PL_MS)          /* so long is no other line tried for when one failed and
                                         * there are those who go on waiting */

static uint32_t room(uint32_t used, uint32_t limit)
{
    return used < limit ? limit - used : 0;
}

/* For how many is there a use for another line? Those that keep their order need one among them. */
static uint32_t wanting(const struct pl_exchange *exchange)
{
    return exchange->queued - exchange->queued_turns +
           (exchange->queued_turns && !exchange->ordered);
}

bool pl_exchange_plan_line(struct pl_exchange *exchange)
{
    const struct pool_options *options = &exchange->pool->settings.options;

    if (exchange->is_ended ||
        (uint64_t)exchange->opening * options->max_inflight >= wanting(exchange) ||
        exchange->opening >= options->max_connecting ||
        exchange->line_count + exchange->opening >= options->max_per_address ||
        exchange->widen_ns > pl_os->now_ns())
        return false;
    exchange->opening++;
    return true;
}

/* How many lines are on their way, or may be opened at once: what others wait for is theirs. */
static uint32_t lines_coming(const struct pl_exchange *exchange)
{
    struct pl_peer *peer = exchange->peer;
    uint32_t coming, others, lent;

    pthread_mutex_lock(&peer->lock);
    coming = pl_waiter_coming(peer, true);
    others = peer->shared.waiting - peer->shared.waiting_lines;
    lent = room(peer->shared.waiting_lines, exchange->opening); /* or not asked for yet */
    pthread_mutex_unlock(&peer->lock);
    return room(others, coming) + lent;
}

bool pl_exchange_may_come(const struct pl_exchange *exchange)
{
    const struct pool_options *options = &exchange->pool->settings.options;
    uint32_t lines;

    if (exchange->widen_ns > pl_os->now_ns())
        return false;
    lines = lines_coming(exchange);
    if (lines > options->max_connecting)
        lines = options->max_connecting;
    return exchange->queued < (uint64_t)lines * options->max_inflight;
}

/* Was nothing tried, as where the peer backs off? Who waits for the peer learns of an attempt. */
static bool is_of_no_attempt(const struct pl_query *query, const struct pool_error *error)
{
    return (query->flags & POOL_WAIT_FOR_PEER) && !query->was_sent &&
           error->status == POOL_E_TIMEOUT && error->phase == POOL_PHASE_WAIT;
}

/* Tells a query that stands in the queue. */
static void fail_told(struct pl_exchange *exchange, struct pl_query *query,
                      const struct pool_error *error, struct pl_told *told, struct pl_wakes *wakes)
{
    struct pl_failure failure = pl_failure_make(error->status, error->phase, error->cause);

    if (is_of_no_attempt(query, error))
        failure = pl_query_waited_in_vain(exchange, query);
    else if (told && !query->was_sent)
        pl_query_keep_told(query, told);
    pl_exchange_fail(exchange, query, failure, wakes);
}

/* The peer ended the connection instead of a handshake, as a balancer with nobody behind it does:
 * all else that fails there has a number, but for what is amiss before a change to TLS. */
static bool has_hung_up(const struct pl_exchange *exchange, const struct pool_error *error)
{
    return error->phase == POOL_PHASE_TLS && !error->cause && !exchange->peer->address->starttls;
}

/* Does it wait until the peer can be reached again? What stands against that is kept, for its
 * deadline. */
static bool does_wait(const struct pl_exchange *exchange, struct pl_query *query,
                      const struct pool_error *error, struct pl_told *told)
{
    switch (query->flags & POOL_WAIT_FOR_PEER ? error->status : POOL_OK) {
    case POOL_E_TLS:
        if (!has_hung_up(exchange, error))
            return false;
        /* fall through */
    case POOL_E_RESOLVE:
    case POOL_E_REFUSED:
    case POOL_E_CONNECT:
    case POOL_E_TIMEOUT:
    case POOL_E_CLOSED:
    case POOL_E_BROKEN:
    case POOL_E_SUSPENDED:
        if (!query->was_sent && !(told && is_of_no_attempt(query, error)))
            pl_query_keep_told(query, told);
        return true;
    default:
        return false;
    }
}

/* All who wait for a line, but for those who wait for the peer. */
static void fail_all(struct pl_exchange *exchange, const struct pool_error *error,
                     struct pl_told *told, struct pl_wakes *wakes)
{
    struct pl_list *queues[] = { &exchange->turns, &exchange->queue };

    for (unsigned i = 0; i < 2; i++) {
        PL_LIST_EACH(link, queues[i]) {
            struct pl_query *query = pl_container(link, struct pl_query_more, link)->query;

            if (!does_wait(exchange, query, error, told))
                fail_told(exchange, query, error, told, wakes);
        }
    }
}

/* The attempt alone ran out of time: that is why they still wait. With no error: they wait for room
 * on a line. */
static void note_all(struct pl_exchange *exchange, const struct pool_error *error,
                     struct pl_told *told)
{
    const struct pl_list *queues[] = { &exchange->turns, &exchange->queue };

    for (unsigned i = 0; i < 2; i++) {
        PL_LIST_EACH(link, queues[i]) {
            struct pl_query *query = pl_container(link, struct pl_query_more, link)->query;

            if (error)
                (void)does_wait(exchange, query, error, told);
            else
                pl_query_keep_told(query, NULL);
        }
    }
}

/* Others than who opened it may have more time, loans that he waits for may not be theirs, and
 * those for whom it waited for no return are not all. */
static bool concerns_all(const struct pl_exchange *exchange, const struct pool_error *error,
                         const struct pl_query *own)
{
    switch (error->status) {
    case POOL_E_TIMEOUT:
    case POOL_E_CANCELED:
        return false;
    case POOL_E_FULL:
    case POOL_E_WOULD_BLOCK:
        return !own && !exchange->queued_hasty;
    case POOL_E_RESOURCE:
        return !exchange->queued_hasty;
    default:
        return true;
    }
}

static struct pl_query *last_hasty(const struct pl_exchange *exchange)
{
    const struct pl_list *queues[] = { &exchange->queue, &exchange->turns };

    for (unsigned i = 0; i < 2; i++) {
        for (struct pl_list *link = queues[i]->previous; link != queues[i]; link = link->previous) {
            struct pl_query *query = pl_container(link, struct pl_query_more, link)->query;

            if (query->flags & POOL_DONT_WAIT)
                return query;
        }
    }
    return NULL;
}

/* Those who wait in the queue, but not for what others have, and for whom none is being opened.
 * True: there were some. */
static bool fail_hasty(struct pl_exchange *exchange, const struct pool_error *error,
                       struct pl_told *told, struct pl_wakes *wakes)
{
    uint64_t covered = (uint64_t)exchange->opening * exchange->pool->settings.options.max_inflight;
    bool were_some = false;

    if (error->status != POOL_E_FULL && error->status != POOL_E_RESOURCE)
        return false;
    while (exchange->queued_hasty && exchange->queued > covered) {
        fail_told(exchange, last_hasty(exchange), error, told, wakes);
        were_some = true;
    }
    return were_some;
}

void pl_exchange_refuse_hasty(struct pl_exchange *exchange, struct pl_wakes *wakes)
{
    struct pl_failure full = pl_failure_make(POOL_E_FULL, POOL_PHASE_WAIT, 0);
    uint64_t covered;

    if (!exchange->queued_hasty)
        return;
    covered = (uint64_t)lines_coming(exchange) * exchange->pool->settings.options.max_inflight;
    while (exchange->queued_hasty && exchange->queued > covered)
        pl_exchange_fail(exchange, last_hasty(exchange), full, wakes);
}

void pl_exchange_note_wait(struct pl_peer *peer)
{
    struct pl_exchange *exchange = atomic_load(&peer->exchange);

    pthread_mutex_lock(&exchange->lock);
    if (exchange->queued_hasty)
        pl_exchange_attend_later(exchange);
    pthread_mutex_unlock(&exchange->lock);
}

/* Is there a line that goes on taking queries, though it may be full now? */
static bool has_line(const struct pl_exchange *exchange)
{
    PL_LIST_EACH(link, &exchange->lines) {
        const struct pl_line *line = pl_container(link, struct pl_line, link);

        if (!line->is_leaving && !line->is_broken)
            return true;
    }
    return false;
}

/* Why there is no line, for those who wait for one: what `prepare` sent was nothing of theirs. */
static struct pool_error tell_waiting(const struct pl_exchange *exchange,
                                      const struct pool_error *error)
{
    struct pl_failure failure =
        pl_failure_because(PL_REASON_DEADLINE, error->phase, error->cause);
    struct pool_error told = *error;
    struct pl_spent spent;

    if (error->status != POOL_E_TIMEOUT_IN_TRANSFER)
        return told;
    for (size_t i = 0; i < PL_COUNT(spent.ns); i++)
        spent.ns[i] = error->spent_ms[i] * PL_MS;
    pl_failure_tell(&failure, &spent, exchange->peer->text, &told);
    return told;
}

void pl_exchange_fail_line(struct pl_exchange *exchange, const struct pool_error *failed,
                           struct pl_query *own)
{
    const struct pool_error told_error = tell_waiting(exchange, failed), *error = &told_error;
    bool is_for_all;
    struct pl_told *told = pl_zalloc(sizeof(*told));
    struct pl_wakes wakes = { 0 };

    if (told) {
        atomic_init(&told->refs, 1);
        told->error = *error;
    }
    pthread_mutex_lock(&exchange->lock);
    is_for_all = concerns_all(exchange, error, own);
    exchange->opening--;
    if (exchange->line_count)
        pl_exchange_note_wanted(exchange);
    exchange->widen_ns = 0;
    if (has_line(exchange) || exchange->opening || (!is_for_all && !own))
        exchange->widen_ns = pl_after(pl_os->now_ns(), WIDEN_NS);
    if (own && own->more && own->more->is_queued) {
        if (pl_is_past(own->deadline_ns) ||
            !does_wait(exchange, own, error, has_line(exchange) ? NULL : told))
            fail_told(exchange, own, error, told, &wakes);
    } else if (!own && fail_hasty(exchange, error, told, &wakes)) {
        exchange->widen_ns = 0;         /* the others wait for what comes back, too */
    }
    if (is_for_all && !has_line(exchange) && !exchange->opening) {
        fail_all(exchange, error, told, &wakes);
        if (exchange->queued)
            exchange->widen_ns = pl_after(pl_os->now_ns(), WIDEN_NS);
    } else if (!has_line(exchange) && !exchange->opening) {
        note_all(exchange, error, told);
    }
    if (exchange->queued)
        pl_exchange_wake_at(exchange, exchange->widen_ns);
    pl_exchange_attend_later(exchange);
    pl_exchange_unlock(exchange, &wakes);
    if (told && atomic_fetch_sub(&told->refs, 1) == 1)
        pl_os->free(told);
}

/* The same where nothing was told yet. */
static void fail_line_with(struct pl_exchange *exchange, enum pool_status status)
{
    struct pool_error error = POOL_ERROR_INIT;
    struct pl_failure failure = pl_failure_make(status, POOL_PHASE_WAIT, 0);

    pl_failure_tell(&failure, NULL, exchange->peer->text, &error);
    pl_exchange_fail_line(exchange, &error, NULL);
}

static void open_line(struct pl_exchange *exchange, struct pool_conn conn, bool is_served)
{
    struct pl_wakes wakes = { 0 };
    bool is_open;

    pthread_mutex_lock(&exchange->lock);
    is_open = !exchange->is_ended && pl_line_open(exchange, conn, is_served);
    if (is_open) {
        exchange->opening--;
        pl_exchange_note_wanted(exchange);
        pl_exchange_distribute(exchange, &wakes);
        note_all(exchange, NULL, NULL);
        PL_LIST_EACH(link, &exchange->lines)
            pl_line_seek_reader(pl_container(link, struct pl_line, link), &wakes);
    }
    pl_exchange_unlock(exchange, &wakes);
    if (is_open)
        return;
    pool_return(&conn);
    fail_line_with(exchange, POOL_E_MEMORY);
}

void pl_exchange_open_line(struct pl_exchange *exchange, struct pool_conn conn)
{
    open_line(exchange, conn, false);
}

static void on_lent(struct pool_conn *conn, const struct pool_error *error, void *user)
{
    if (conn)
        pl_exchange_open_line(user, *conn);
    else
        pl_exchange_fail_line(user, error, NULL);
}

void pl_exchange_seek_lines(struct pl_exchange *exchange)
{
    struct pool_target target = {
        .pool = exchange->pool, .peer = exchange->peer, .is_for_queries = true
    };
    struct pool_error error = POOL_ERROR_INIT;
    enum pool_status status = POOL_OK;

    while (!status && pl_exchange_plan_line(exchange)) {
        uint32_t flags = exchange->queued_hasty ? POOL_DONT_WAIT : 0;

        pthread_mutex_unlock(&exchange->lock);
        status = pool_communicate_async(exchange->pool, NULL, on_lent, exchange,
                                        POOL_CALL(.target = &target, .error = &error,
                                                  .flags = flags),
                                        NULL);
        if (status)
            pl_exchange_fail_line(exchange, &error, NULL);
        pthread_mutex_lock(&exchange->lock);
    }
}

/* ---- the peer asks */

/* It becomes somebody's without a borrow. */
static struct pool_conn lend(struct pl_connection *connection)
{
    uint64_t seen, word;

    pl_set(connection->lease.marks, 0);
    pl_set(connection->lease.flags, PL_LEASE_BY_EVENTS);
    pl_set(connection->lease.holder, 0);
    pl_set(connection->lease.deadline_ns, PL_NEVER);
    if (connection->peer->pool->events) {
        connection->lease.lent_ns = pl_os->now_ns();
        pl_event_lent(connection->peer->pool, connection, 0);
    }
    do {
        seen = atomic_load(&connection->word);
        word = pl_word_handed(seen, PL_LENT);
    } while (!pl_word_become(&connection->word, seen, word));
    return pl_connection_handle(connection, word);
}

void pl_exchange_serve(struct pl_connection *connection)
{
    struct pl_peer *peer = connection->peer;
    struct pl_exchange *exchange = pl_exchange_of(peer);
    struct pool_conn conn;

    if (!exchange || pl_exchange_enter(exchange, true)) {
        pl_peer_close(connection, POOL_CLOSE_POOL);
        return;
    }
    exchange->opening++;
    pthread_mutex_unlock(&exchange->lock);
    conn = lend(connection);
    open_line(exchange, conn, true);
}
