/* query.c: pool_query() and its companions: how a call comes to its exchange, and how a thread
 * waits for its reply. See exchange.h.
 */
#include "commpool/query.h"

#include "base/os.h"
#include "net/stream.h"
#include "pool/borrow.h"
#include "pool/events.h"
#include "pool/line.h"
#include "pool/recent.h"
#include "pool/ticket.h"

/* One call, as long as it is being accepted, and a blocking one to its end. */
struct querying {
    struct pl_borrow borrow;            /* for what calls share: peer, deadline, error, ticket */
    struct pl_submission submission;
    struct pl_exchange *exchange;
    struct pl_query *query;
    bool is_entered;                    /* the peer and the pool are */
    bool is_guard;                      /* it sees to it that what was held back is sent */
    bool is_told;                       /* the error says already why it cannot be */
};

static enum pool_status read_call(struct querying *querying, struct pool *pool, const char *address,
                                  const struct pool_call *call)
{
    struct pl_borrow *borrow = &querying->borrow;
    enum pool_status status = pl_call_read_query(call, &borrow->call);

    borrow->pool = pool;
    borrow->address = address;
    querying->submission.call = &borrow->call;
    if (status)
        return status;
    if (!pool || (!address && !borrow->call.target) ||
        (!querying->submission.request.data && querying->submission.request.size))
        return POOL_E_ARGUMENT;
    return POOL_OK;
}

static void set_deadline(struct querying *querying)
{
    struct pl_borrow *borrow = &querying->borrow;
    uint32_t timeout_ms = borrow->call.timeout_ms;

    querying->submission.deadline_ns = borrow->deadline_ns;
    querying->submission.wait_deadline_ns = borrow->wait_deadline_ns;
    querying->submission.asked_ns = borrow->start_ns;
    querying->submission.is_too_late = borrow->deadline_ns <= borrow->start_ns;
    if (!timeout_ms)
        timeout_ms = borrow->pool->settings.options.timeout_ms;
    querying->submission.timeout_ms =
        borrow->call.deadline_ns || timeout_ms >= POOL_ZERO ? 0 : timeout_ms;
}

/* The exchange of the peer that this thread knows by this text, locked; NULL: it takes more than
 * that. */
static struct pl_exchange *enter_known(const struct pool *pool, const char *address)
{
    struct pl_thread *self = pl_thread_current;
    struct pl_exchange *exchange;
    struct pl_recent *recent;

    if (!self || !pool || !address || !*address ||
        atomic_load_explicit(&pool->state, memory_order_relaxed) != PL_POOL_LIVE)
        return NULL;
    recent = pl_recent_of_text(self, pool, address);
    exchange = recent ? atomic_load(&((struct pl_peer *)recent->peer)->exchange) : NULL;
    if (!exchange || !pl_exchange_enter_warm(exchange, recent->generation))
        return NULL;
    if (exchange->pool == pool)
        return exchange;
    pthread_mutex_unlock(&exchange->lock);
    return NULL;
}

/* The same by a target, which keeps its peer. */
static struct pl_exchange *enter_target(const struct pool *pool, const struct pool_target *target)
{
    struct pl_exchange *exchange =
        target->pool == pool ? atomic_load(&target->peer->exchange) : NULL;

    if (!exchange || atomic_load(&pool->state) != PL_POOL_LIVE ||
        !pl_exchange_enter_warm(exchange, pl_get(target->peer->generation)))
        return NULL;
    return exchange;
}

/* By what this thread remembers of the peer, whose exchange is locked then. */
static bool enter_warm(struct querying *querying)
{
    struct pl_borrow *borrow = &querying->borrow;

    querying->exchange = borrow->call.target ? enter_target(borrow->pool, borrow->call.target)
                                             : enter_known(borrow->pool, borrow->address);
    if (!querying->exchange)
        return false;
    if (pl_borrow_begin(borrow) == POOL_OK)
        return true;
    pthread_mutex_unlock(&querying->exchange->lock);
    return false;
}

static enum pool_status enter_cold(struct querying *querying)
{
    struct pl_borrow *borrow = &querying->borrow;
    enum pool_status status = pl_pool_enter(borrow->pool);

    if (status)
        return status;
    querying->is_entered = true;
    status = pl_pool_refusal(borrow->pool);
    if (!status)
        status = borrow->pool->settings.options.codec ? pl_borrow_begin(borrow) : POOL_E_ARGUMENT;
    if (status)
        return status;
    status = pl_borrow_find_peer(borrow);
    querying->is_told = status && status != POOL_E_ARGUMENT;
    if (status)
        return status;
    querying->exchange = pl_exchange_of(borrow->peer);
    return querying->exchange ? pl_exchange_enter(querying->exchange, false) : POOL_E_MEMORY;
}

static void leave(struct querying *querying)
{
    if (!querying->is_entered)
        return;
    if (querying->borrow.peer)
        pl_peer_leave(querying->borrow.peer);
    pl_pool_leave(querying->borrow.pool);
}

/* The exchange is locked on POOL_OK. */
static enum pool_status enter(struct querying *querying)
{
    enum pool_status status = enter_warm(querying) ? POOL_OK : enter_cold(querying);

    if (!status)
        set_deadline(querying);
    return status;
}

static enum pool_status tell(struct querying *querying, struct pl_failure failure)
{
    pl_failure_tell(&failure, &querying->borrow.spent, pl_borrow_text(&querying->borrow),
                    querying->borrow.call.error);
    return (enum pool_status)failure.status;
}

static enum pool_status refuse(struct querying *querying, enum pool_status status)
{
    if (querying->is_told)
        return status;
    return tell(querying, pl_failure_make(status, POOL_PHASE_NONE, 0));
}

/* Accepts the query. The exchange is locked on POOL_OK. */
static enum pool_status submit(struct querying *querying)
{
    struct pool_ticket *ticket = querying->submission.ticket;
    struct pl_wakes wakes;
    enum pool_status status;

    pl_wakes_init(&wakes);
    if (!pl_ticket_hold_query(ticket))
        return POOL_E_CANCELED;
    status = enter(querying);
    if (!status) {
        status = querying->submission.thread && pl_mux_is_here(querying->borrow.pool->mux)
                     ? POOL_E_WOULD_BLOCK
                     : pl_exchange_submit(querying->exchange, &querying->submission,
                                          &querying->query, &wakes);
        if (status) {
            pl_exchange_attend_later(querying->exchange); /* it may have nothing to do */
            pl_exchange_unlock(querying->exchange, &wakes);
        }
    }
    pl_ticket_release(ticket);
    return status;
}

/* ---- a thread that waits */

/* Did parts come that its thread is to tell? */
static bool has_untold_parts(const struct pl_query *query)
{
    return query->more && query->more->on_part && !pl_list_is_empty(&query->more->parts);
}

/* Receives for all, until its own reply has come. Locked. */
static void take_seat(struct querying *querying, struct pl_line *line, struct pl_wakes *wakes)
{
    const struct pl_query *query = querying->query;
    uint64_t until_ns = querying->submission.deadline_ns;

    line->is_reading = true;
    line->called = NULL;
    while (query->line == line && !query->is_done && !line->is_broken &&
           !pl_line_is_choked(line) && !has_untold_parts(query) && !pl_is_past(until_ns))
        pl_line_receive(line, until_ns, wakes);
    line->is_reading = false;
    pl_line_seek_reader(line, wakes);
    if (query->is_done)
        pl_line_let_go(line, wakes);
    else if (line->is_broken || line->is_leaving)
        pl_exchange_wake_at(line->exchange, 0); /* the mux does: observers may take their time, and
                                                 * others count on us */
}

static bool may_receive(const struct pl_query *query)
{
    const struct pl_line *line = query->line;

    return line && !query->is_passive && !line->is_reading && !line->passive &&
           !pl_line_is_choked(line) &&
           (!line->called || line->called == query);
}

/* The query's thread does something else for a while: nobody counts on it as a reader. True:
 * somebody did, and it is to come back. */
static bool step_away(struct pl_query *query, struct pl_wakes *wakes)
{
    struct pl_line *line = query->line;

    if (query->is_passive || query->is_done)
        return false;
    query->is_passive = true;
    if (!line)
        return true;
    pl_list_drop(&query->link);
    if (line->called == query)
        line->called = NULL;
    line->passive++;
    pl_line_seek_reader(line, wakes);
    return true;
}

static void come_back(struct pl_query *query)
{
    query->is_passive = false;
    if (query->is_done || !query->line)
        return;
    query->line->passive--;
    pl_list_push_back(&query->line->waiting, &query->link);
}

/* It was called to the reader's seat, and somebody else has that now, who will call again. */
static void pass_call_on(struct pl_query *query, struct pl_wakes *wakes)
{
    struct pl_line *line = query->line;

    if (!line || line->called != query)
        return;
    line->called = NULL;
    pl_line_seek_reader(line, wakes);
}

/* Others count on it only while it goes on at once. Locked; unlocks meanwhile. */
static void leave_duties(struct querying *querying, struct pl_wakes *wakes)
{
    if (querying->query->is_done)
        pl_exchange_note_back(querying->exchange, querying->query, wakes);
    if (querying->is_guard && querying->exchange->has_held_back)
        pl_exchange_send_held_back(querying->exchange, wakes);
    querying->is_guard = false;
}

/* Parts that came for a thread that waits are told on it. Locked; unlocks meanwhile. */
static void tell_parts(struct querying *querying, struct pl_wakes *wakes)
{
    struct pl_exchange *exchange = querying->exchange;
    bool is_away;

    if (!has_untold_parts(querying->query))
        return;
    is_away = step_away(querying->query, wakes);
    leave_duties(querying, wakes);
    pl_exchange_unlock(exchange, wakes);        /* nobody is to wait for what the program does */
    pthread_mutex_lock(&exchange->lock);
    pl_query_tell_parts(exchange, querying->query);
    if (is_away && !pl_pool_is_forked(exchange->pool))
        come_back(querying->query);
}

/* What was held back is sent at the latest now, or after a while, if nobody does so before. Locked;
 * unlocks meanwhile. */
static void stand_guard(struct querying *querying, struct pl_wakes *wakes)
{
    struct pl_exchange *exchange = querying->exchange;
    uint64_t until_ns = pl_earlier(exchange->held_until_ns, querying->query->deadline_ns);

    querying->is_guard = false;
    if (!pl_is_past(until_ns)) {
        pl_exchange_unlock(exchange, wakes);
        querying->is_guard = pl_thread_wait(querying->submission.thread, until_ns);
        pthread_mutex_lock(&exchange->lock);
    }
    if (exchange->has_held_back && !querying->is_guard)
        pl_exchange_send_held_back(exchange, wakes);
}

/* Until the result stands; in a child of fork(), which the telling of a part may leave behind, it
 * never will. Locked. */
static void await(struct querying *querying, struct pl_wakes *wakes)
{
    struct pl_exchange *exchange = querying->exchange;
    struct pl_query *query = querying->query;
    uint64_t deadline_ns;

    for (;;) {
        tell_parts(querying, wakes);
        if (query->is_done || pl_pool_is_forked(querying->borrow.pool))
            return;
        if (pl_is_past(query->deadline_ns)) {
            pl_query_expire(exchange, query, wakes);
            return;
        }
        if (querying->is_guard && exchange->has_held_back) {
            stand_guard(querying, wakes);
            continue;
        }
        if (may_receive(query)) {
            take_seat(querying, query->line, wakes);
            continue;
        }
        pass_call_on(query, wakes);
        deadline_ns = query->deadline_ns;
        pl_exchange_unlock(exchange, wakes);
        pl_thread_wait(querying->submission.thread, deadline_ns);
        pthread_mutex_lock(&exchange->lock);
    }
}

/* Nothing carries its query yet, and nobody sees to it: this thread opens the first line. Locked;
 * unlocks meanwhile. */
static void open_first_line(struct querying *querying, struct pl_wakes *wakes)
{
    struct pl_exchange *exchange = querying->exchange;
    struct pool_target target = {
        .pool = exchange->pool, .peer = exchange->peer, .is_for_queries = true
    };
    struct pool_error error = POOL_ERROR_INIT;
    bool is_away = step_away(querying->query, wakes);
    uint64_t deadline_ns = querying->query->deadline_ns;
    struct pool_conn conn;

    pl_exchange_unlock(exchange, wakes);
    if (pool_borrow(exchange->pool, NULL,
                    POOL_CALL(.target = &target, .deadline_ns = deadline_ns,
                              .timeout_ms = POOL_NONE, .error = &error,
                              .flags = querying->submission.call->flags & POOL_DONT_WAIT),
                    &conn))
        pl_exchange_fail_line(exchange, &error, querying->query);
    else
        pl_exchange_open_line(exchange, conn);
    pthread_mutex_lock(&exchange->lock);
    if (is_away)
        come_back(querying->query);
}

/* What it came to; the query is gone then. Locked, and unlocks. */
static enum pool_status pick_up(struct querying *querying, struct pool_reply **reply,
                                struct pl_wakes *wakes)
{
    struct pl_query *query = querying->query;
    enum pool_status status = POOL_OK;

    if (query->has_reply) {
        *reply = query->reply;
    } else {
        status = (enum pool_status)query->failure.status;
        pl_query_tell_failure(query, pl_borrow_text(&querying->borrow),
                              querying->borrow.call.error);
    }
    pl_exchange_note_back(querying->exchange, query, wakes);
    if (querying->is_guard && querying->exchange->has_held_back)
        pl_exchange_send_held_back(querying->exchange, wakes);
    pl_exchange_release(querying->exchange, query);
    pl_exchange_unlock(querying->exchange, wakes);
    return status;
}

/* The query is accepted, and its exchange locked; unlocks. */
static enum pool_status wait_for_reply(struct querying *querying, struct pool_reply **reply)
{
    struct pl_exchange *exchange = querying->exchange;
    struct pl_failure failure;
    struct pl_wakes wakes;

    pl_wakes_init(&wakes);
    if (querying->submission.line) {    /* also one that has no reply, and is answered therefore */
        if (!pl_exchange_hold_back(exchange, querying->submission.line, &querying->is_guard))
            pl_line_flush(querying->submission.line, &wakes);
    } else if (querying->query->is_done) {
        /* its time was over before it was asked */
    } else if (!querying->submission.ticket && !exchange->line_count && !exchange->opening &&
               pl_exchange_plan_line(exchange)) {
        open_first_line(querying, &wakes);
    } else {
        pl_exchange_attend_later(exchange);     /* the mux opens what is needed */
    }
    if (querying->query->is_passive && querying->query->line)
        pl_line_seek_reader(querying->query->line, &wakes);
    await(querying, &wakes);
    if (pl_pool_is_forked(querying->borrow.pool)) {     /* a callback did, upon a part */
        failure = pl_failure_make(POOL_E_FORKED, POOL_PHASE_REPLY, 0);
        failure.outcome = POOL_MAYBE_SENT;
        pthread_mutex_unlock(&exchange->lock);
        return tell(querying, failure);
    }
    return pick_up(querying, reply, &wakes);
}

enum pool_status pool_query(struct pool *pool, const char *address, struct pool_bytes request,
                            const struct pool_call *call, struct pool_reply **reply)
{
    struct querying querying = { .submission.request = request };
    enum pool_status status = read_call(&querying, pool, address, call);

    if (querying.borrow.call.ticket)
        pl_ticket_show(querying.borrow.call.ticket, NULL);
    if (!status && !reply)
        status = POOL_E_ARGUMENT;
    if (status)
        return refuse(&querying, status);
    querying.submission.thread = pl_thread_self();
    if (!querying.submission.thread)
        return refuse(&querying, POOL_E_MEMORY);
    if (querying.borrow.call.ticket)
        status = pl_ticket_make(&querying.submission.ticket, querying.borrow.call.ticket);
    if (!status)
        status = submit(&querying);
    status = status ? refuse(&querying, status) : wait_for_reply(&querying, reply);
    (void)!pl_ticket_end(querying.submission.ticket);
    pl_ticket_unref(querying.submission.ticket);
    leave(&querying);
    return status;
}

/* ---- nobody waits */

/* On the mux itself, what one batch asks leaves together; elsewhere, where nothing is under way, at
 * once. */
static void send_out(struct pl_exchange *exchange, struct pl_line *line, struct pl_wakes *wakes)
{
    if (!line) {
        pl_exchange_attend_later(exchange);
        return;
    }
    if (line->is_pump_posted && (line->watched & EPOLLIN))
        return;
    if (pl_mux_is_dispatching(exchange->pool->mux) || line->correlator.count > 1)
        pl_line_pump_later(line);
    else
        pl_line_flush(line, wakes);
    if (!(line->watched & EPOLLIN))
        pl_line_seek_reader(line, wakes);
}

static enum pool_status submit_and_send(struct querying *querying)
{
    enum pool_status status = submit(querying);
    struct pl_wakes wakes;

    if (status)
        return status;
    pl_wakes_init(&wakes);
    send_out(querying->exchange, querying->submission.line, &wakes);
    pl_exchange_unlock(querying->exchange, &wakes);
    return POOL_OK;
}

/* The short way of a call with nothing special about it. False: it takes the long one. */
static bool query_known(const struct pool *pool, const char *address,
                        struct pl_submission *submission, enum pool_status *status)
{
    static const struct pool_call plain = { .size = sizeof(plain) };
    uint32_t timeout_ms;
    struct pl_exchange *exchange;
    struct pl_wakes wakes;
    struct pl_query *query;
    uint64_t now_ns;

    if (!submission->on_reply || (!submission->request.data && submission->request.size))
        return false;
    exchange = enter_known(pool, address);
    if (!exchange)
        return false;
    pl_wakes_init(&wakes);
    timeout_ms = pool->settings.options.timeout_ms;
    now_ns = pl_os->coarse_ns();
    submission->call = &plain;
    submission->asked_ns = now_ns;
    submission->wait_deadline_ns = PL_NEVER;
    submission->timeout_ms = timeout_ms == POOL_NONE ? 0 : timeout_ms;
    /* The coarse clock is a step behind, and more where ticks come late. */
    submission->deadline_ns = timeout_ms == POOL_NONE
                                  ? PL_NEVER
                                  : pl_after(now_ns + exchange->slack_ns, timeout_ms * PL_MS);
    *status = pl_exchange_submit(exchange, submission, &query, &wakes);
    if (!*status)
        send_out(exchange, submission->line, &wakes);
    pl_exchange_unlock(exchange, &wakes);
    return true;
}

static PL_NOINLINE enum pool_status query_async(struct pool *pool, const char *address,
                                                const struct pl_submission *submission,
                                                const struct pool_call *call,
                                                struct pool_ticket **ticket)
{
    struct querying querying = { .submission = *submission };
    enum pool_status status = read_call(&querying, pool, address, call);

    if (!ticket)
        ticket = querying.borrow.call.ticket;
    if (ticket)
        pl_ticket_show(ticket, NULL);
    if (!status && !submission->on_reply)
        status = POOL_E_ARGUMENT;
    if (!status && ticket)
        status = pl_ticket_make(&querying.submission.ticket, ticket);
    if (!status)
        status = submit_and_send(&querying);
    if (status && querying.submission.ticket) {
        pl_ticket_unref(querying.submission.ticket);
        pl_ticket_show(ticket, NULL);
    }
    pl_ticket_unref(querying.submission.ticket);
    if (status)
        refuse(&querying, status);
    leave(&querying);
    return status;
}

enum pool_status pool_query_async(struct pool *pool, const char *address,
                                  struct pool_bytes request, pool_reply_fn *on_reply, void *user,
                                  const struct pool_call *call, struct pool_ticket **ticket)
{
    struct pl_submission submission = { .request = request, .on_reply = on_reply, .user = user };
    enum pool_status status;

    if (!call && !ticket && query_known(pool, address, &submission, &status))
        return status;
    return query_async(pool, address, &submission, call, ticket);
}

enum pool_status pool_post_request(struct pool *pool, const char *address,
                                   struct pool_bytes request, const struct pool_call *call)
{
    struct querying querying = { .submission.request = request };
    enum pool_status status = read_call(&querying, pool, address, call);

    if (!status)
        status = submit_and_send(&querying);
    if (status)
        refuse(&querying, status);
    leave(&querying);
    return status;
}
