/* exchange.c: accepting queries and giving them to lines; how an exchange begins and ends. See
 * exchange.h. */
#include "pool/exchange.h"
#include "pool/line.h"

#include <errno.h>

#include "base/os.h"
#include "pool/close.h"
#include "pool/ticket.h"
#include "pool/unasked.h"
#include "pool/waiter.h"

#define MOVES 3u                        /* so often may one query move to another line */

static void on_attend(struct pl_post *post);

static void prepare_exchange(void *element)
{
    struct pl_exchange *exchange = element;

    pthread_mutex_init(&exchange->lock, NULL);
    pl_list_init(&exchange->lines);
    pl_list_init(&exchange->queue);
    pl_list_init(&exchange->turns);
    exchange->moved = &exchange->queue;
    exchange->moved_turns = &exchange->turns;
    pl_list_init(&exchange->unwoken);
    pl_list_init(&exchange->done);
    pl_list_init(&exchange->parting);
    pl_list_init(&exchange->unasked);
    pl_list_init(&exchange->spare);
    for (unsigned i = 0; i < PL_SPANS; i++)
        pl_list_init(&exchange->spans[i].queries);
    for (unsigned i = 0; i < PL_SLOTS; i++)
        pl_list_init(&exchange->wheel.slots[i]);
}

static struct pl_arena exchanges = PL_ARENA_INIT(exchanges, struct pl_exchange, prepare_exchange);

void pl_exchange_library_end(void)
{
    pl_arena_release(&exchanges);
}

void pl_exchanges_hold(void)
{
    pl_arena_hold(&exchanges);
}

void pl_exchanges_let_go(void)
{
    pl_arena_let_go(&exchanges);
}

static void renew_lock(void *element, void *unused)
{
    (void)unused;
    pthread_mutex_init(&((struct pl_exchange *)element)->lock, NULL);
}

void pl_exchanges_orphan(void)
{
    pl_arena_visit(&exchanges, renew_lock, NULL);
}

struct pl_exchange *pl_exchange_of(struct pl_peer *peer)
{
    struct pl_exchange *exchange = atomic_load(&peer->exchange), *none = NULL, *made;

    if (exchange)
        return exchange;
    made = pl_arena_take(&exchanges);
    if (!made)
        return NULL;
    made->peer = peer;
    if (atomic_compare_exchange_strong(&peer->exchange, &none, made))
        return made;
    pl_arena_give(&exchanges, made);
    return none;
}

/* ---- time */

void pl_exchange_wake_at(struct pl_exchange *exchange, uint64_t when_ns)
{
    if (when_ns >= exchange->timer_ns)
        return;
    exchange->timer_ns = when_ns;
    pl_mux_timer_arm(exchange->pool->mux, &exchange->timer, when_ns);
    if (PL_UNLIKELY(atomic_load(&exchange->must_take_back)))    /* whoever set it armed it before */
        pl_mux_timer_arm(exchange->pool->mux, &exchange->timer, 0);
}

/* ---- activity */

/* Somebody is to be told something, or waits for a line. */
static bool owes(const struct pl_exchange *exchange)
{
    return exchange->queued || !pl_list_is_empty(&exchange->done) ||
           !pl_list_is_empty(&exchange->unasked) || !pl_list_is_empty(&exchange->parting);
}

static bool has_work(const struct pl_exchange *exchange)
{
    return exchange->line_count || exchange->opening || exchange->steps ||
           exchange->is_attend_posted || owes(exchange);
}

bool pl_exchange_owes(struct pl_peer *peer)
{
    struct pl_exchange *exchange = atomic_load(&peer->exchange);
    bool is_owing;

    if (!exchange)
        return false;
    pthread_mutex_lock(&exchange->lock);
    is_owing = exchange->generation == atomic_load(&peer->generation) && owes(exchange);
    pthread_mutex_unlock(&exchange->lock);
    return is_owing;
}

/* On the mux, with the exchange locked; unlocks it. When nothing is left to do, it lets its peer
 * and its pool go. */
static void rest(struct pl_exchange *exchange)
{
    struct pool *pool = exchange->pool;
    bool is_at_rest = !has_work(exchange);

    if (!exchange->is_active) {
        pthread_mutex_unlock(&exchange->lock);
        return;
    }
    if (is_at_rest) {
        exchange->is_active = false;
        pl_queries_drop_spare(exchange);
        pl_mux_timer_close(pool->mux, &exchange->timer); /* here it waits for nobody */
    }
    pthread_mutex_unlock(&exchange->lock);
    pl_close_look(pool);                /* it may have waited for those who are told now */
    if (!is_at_rest)
        return;
    pl_peer_leave(exchange->peer);
    atomic_fetch_sub(&pool->undelivered, 1);
    pl_pool_leave(pool);
}

/* Lines that carry nothing go back; answers when to look again. */
static uint64_t sweep_lines(struct pl_exchange *exchange, uint64_t now_ns, struct pl_wakes *wakes)
{
    uint64_t next_ns = PL_NEVER;
    bool has_gone;

    do {
        has_gone = false;
        PL_LIST_EACH(link, &exchange->lines) {
            struct pl_line *line = pl_container(link, struct pl_line, link);
            uint64_t line_ns = pl_line_tend(line, now_ns, wakes);

            has_gone = pl_line_let_go(line, wakes);
            if (has_gone)
                break;                  /* it was unlocked meanwhile */
            next_ns = pl_earlier(next_ns, line_ns);
        }
    } while (has_gone);
    return next_ns;
}

static void on_timer(void *user)
{
    struct pl_exchange *exchange = user;
    struct pl_wakes wakes = { 0 };
    uint64_t now_ns = pl_os->now_ns(), next_ns;

    pthread_mutex_lock(&exchange->lock);
    exchange->timer_ns = PL_NEVER;
    pl_exchange_take_back(exchange);
    next_ns = pl_queries_expire(exchange, now_ns, &wakes);
    next_ns = pl_earlier(next_ns, pl_exchange_yield_in_time(exchange, now_ns));
    next_ns = pl_earlier(next_ns, sweep_lines(exchange, now_ns, &wakes));
    if (exchange->queued && exchange->widen_ns > now_ns)
        next_ns = pl_earlier(next_ns, exchange->widen_ns);
    if (next_ns != PL_NEVER)
        pl_exchange_wake_at(exchange, next_ns);
    if (exchange->queued)
        pl_exchange_attend_later(exchange);
    pl_exchange_unlock(exchange, &wakes);
    pthread_mutex_lock(&exchange->lock);
    rest(exchange);
}

void pl_exchange_renew(struct pl_exchange *exchange)
{
    uint64_t generation = atomic_load(&exchange->peer->generation);

    if (exchange->generation == generation && exchange->next_key)
        return;
    exchange->queries = exchange->late_replies = exchange->orphans = exchange->timeouts =
        exchange->retries = 0;
    exchange->next_key = 1;
    exchange->generation = generation;
}

static enum pool_status activate(struct pl_exchange *exchange, bool also_paused)
{
    struct pl_peer *peer = exchange->peer;
    struct pool *pool = peer->pool;
    enum pool_status refusal;

    atomic_fetch_add(&pool->undelivered, 1);
    refusal = pl_pool_refusal(pool);    /* counted first: the pool's end waits, or has begun */
    if (refusal == POOL_E_CLEARED && also_paused)
        refusal = POOL_OK;
    if (!refusal && !pl_mux_timer_open(pool->mux, &exchange->timer, on_timer, exchange))
        refusal = POOL_E_MEMORY;
    if (refusal) {
        atomic_fetch_sub(&pool->undelivered, 1);
        return refusal;
    }
    pl_pool_ref(pool);
    pl_peer_join(peer);
    pl_exchange_renew(exchange);
    exchange->pool = pool;
    exchange->attend_post = (struct pl_post){ .run = on_attend, .owner = pool };
    exchange->timer_ns = exchange->wheel.next_ns = PL_NEVER;
    exchange->wheel.swept_ns = pl_os->now_ns();
    exchange->woken_most = pool->settings.woken_most;
    exchange->slack_ns = 2 * pl_os->coarse_step_ns();
    exchange->widen_ns = 0;
    exchange->yield_ns = PL_NEVER;
    exchange->ordered = NULL;
    exchange->keeps_requests = pool->settings.options.codec->write_state_size;
    exchange->is_ended = false;
    exchange->is_active = true;
    return POOL_OK;
}

bool pl_exchange_enter_warm(struct pl_exchange *exchange, uint64_t generation)
{
    pthread_mutex_lock(&exchange->lock);
    if (PL_LIKELY(exchange->is_active && exchange->generation == generation &&
                  !exchange->is_ended))
        return true;
    pthread_mutex_unlock(&exchange->lock);
    return false;
}

enum pool_status pl_exchange_enter(struct pl_exchange *exchange, bool also_paused)
{
    enum pool_status status = POOL_OK;

    pthread_mutex_lock(&exchange->lock);
    if (!exchange->is_active)
        status = activate(exchange, also_paused);
    else if (exchange->is_ended)
        status = POOL_E_CLOSING;
    if (status)
        pthread_mutex_unlock(&exchange->lock);
    return status;
}

void pl_exchange_unlock(struct pl_exchange *exchange, struct pl_wakes *wakes)
{
    pthread_mutex_unlock(&exchange->lock);
    while (wakes->count)
        pl_thread_wake(wakes->threads[--wakes->count]);
}

/* ---- the queue */

static struct pl_list *queue_for(struct pl_exchange *exchange, uint32_t flags)
{
    return flags & POOL_ORDERED ? &exchange->turns : &exchange->queue;
}

static void note_queued(struct pl_exchange *exchange, struct pl_query *query)
{
    query->more->is_queued = true;
    query->more->queued_ms = pl_ms_of(pl_os->coarse_ns());
    exchange->queued++;
    exchange->queued_turns += (query->flags & POOL_ORDERED) != 0;
    exchange->queued_hasty += (query->flags & POOL_DONT_WAIT) != 0;
}

static enum pool_status enqueue(struct pl_exchange *exchange, struct pl_query *query, bool is_hasty)
{
    uint32_t most = exchange->pool->settings.options.max_waiters;

    if (most && exchange->queued >= most)
        return POOL_E_FULL;
    if ((is_hasty || !most) && !pl_exchange_may_come(exchange))
        return POOL_E_FULL;             /* only for what is opened for it would it wait */
    pl_list_push_back(queue_for(exchange, query->flags), &query->more->link);
    note_queued(exchange, query);
    return POOL_OK;
}

static void requeue(struct pl_exchange *exchange, struct pl_query *query, bool was_moved)
{
    struct pl_list *queue = queue_for(exchange, query->flags),
                   **moved = pl_query_last_moved(exchange, query);

    pl_list_push_front(queue, &query->more->link);
    if (was_moved && *moved == queue)
        *moved = &query->more->link;
    note_queued(exchange, query);
}

/* In front of those that were on no line yet, behind those that were. */
static void enqueue_again(struct pl_exchange *exchange, struct pl_query *query)
{
    struct pl_list **moved = pl_query_last_moved(exchange, query);

    pl_list_push_front(*moved, &query->more->link);     /* right behind it */
    *moved = &query->more->link;
    note_queued(exchange, query);
    pl_exchange_attend_later(exchange);
}

/* Until now its time was that for waiting in the queue. */
static void end_wait(struct pl_exchange *exchange, struct pl_query *query)
{
    query->deadline_ns = query->more->reply_deadline_ns;
    query->more->reply_deadline_ns = 0;
    if (!query->on_reply)
        return;
    pl_list_drop(&query->link);
    pl_query_link_deadline(exchange, query, 0);
}

/* On a line it has an answer to come, or none at all. */
static enum pool_status put(struct pl_exchange *exchange, struct pl_line *line,
                            struct pl_query *query, struct pool_bytes request,
                            struct pl_wakes *wakes)
{
    enum pool_status status = query->more && query->more->is_frame
                                  ? pl_line_put_frame(line, query)
                                  : pl_line_put(line, query, request);

    if (!status && query->more) {
        if (query->more->reply_deadline_ns)
            end_wait(exchange, query);
        pl_query_keep_told(query, NULL);
        if (query->line && !exchange->keeps_requests)
            pl_query_slim(query);
    }
    if (status || query->line)
        return status;
    pl_exchange_finish(exchange, query, pl_reply_nothing(), wakes);
    return POOL_OK;
}

/* There was no key for it on the line that it was to go to: not its own, which only its reply would
 * free, or none at all. Then there may be another line. */
static void set_aside(struct pl_exchange *exchange, struct pl_query *query, bool was_moved,
                      struct pl_list *stuck)
{
    query->more->is_stuck = query->more->is_frame;
    if (query->more->is_stuck)
        pl_list_push_back(stuck, &query->more->link);
    else
        requeue(exchange, query, was_moved);
}

/* What is stuck goes in front again. */
static void requeue_all(struct pl_exchange *exchange, struct pl_list *stuck)
{
    while (!pl_list_is_empty(stuck)) {
        struct pl_query_more *more = pl_container(stuck->previous, struct pl_query_more, link);

        pl_list_unlink(&more->link);
        requeue(exchange, more->query, true);   /* only what moved keeps its key */
    }
}

/* A frame whose key is in use keeps only those waiting that keep their order. */
static void distribute(struct pl_exchange *exchange, const struct pl_list *queue,
                       struct pl_wakes *wakes)
{
    bool is_in_order = queue == &exchange->turns;
    struct pl_list stuck;

    pl_list_init(&stuck);
    while (!pl_list_is_empty(queue) && !(is_in_order && !pl_list_is_empty(&stuck))) {
        struct pl_query *query = pl_container(queue->next, struct pl_query_more, link)->query;
        struct pl_line *line = pl_line_choose(exchange, is_in_order, wakes);
        bool was_moved = *pl_query_last_moved(exchange, query) != queue;
        enum pool_status status;

        if (!line)
            break;
        pl_query_leave_queue(exchange, query);
        query->more->is_stuck = false;
        status = put(exchange, line, query, query->more->request, wakes);
        if (status == POOL_E_WOULD_BLOCK)
            set_aside(exchange, query, was_moved, &stuck);
        else if (status)
            pl_exchange_fail(exchange, query, pl_failure_make(status, POOL_PHASE_USE, 0), wakes);
        else
            pl_line_pump_later(line);
    }
    requeue_all(exchange, &stuck);
}

void pl_exchange_distribute(struct pl_exchange *exchange, struct pl_wakes *wakes)
{
    distribute(exchange, &exchange->turns, wakes);
    distribute(exchange, &exchange->queue, wakes);
    pl_exchange_let_lines_go(exchange);
}

/* Is nobody passed but those who are stuck, who stand in front? */
static bool passes_nobody(struct pl_exchange *exchange, uint32_t flags)
{
    const struct pl_list *queue = queue_for(exchange, flags);

    return pl_list_is_empty(queue) ||
           (!(flags & POOL_ORDERED) &&
            pl_container(queue->previous, struct pl_query_more, link)->is_stuck);
}

/* On that line, or in the queue. */
static enum pool_status accept_query(struct pl_exchange *exchange, struct pl_submission *submission,
                                     struct pl_line *line, struct pl_query **made,
                                     struct pl_wakes *wakes)
{
    uint32_t flags = submission->call->flags;
    struct pl_query *query;
    enum pool_status status;

    query = pl_query_make(exchange, submission,
                          !line || exchange->keeps_requests || (flags & POOL_SAFE_TO_REPEAT));
    if (!query)
        return POOL_E_MEMORY;
    if (submission->ticket) {
        submission->ticket->query = query;
        submission->ticket->exchange = exchange;
    }
    if (!line && submission->wait_deadline_ns < submission->deadline_ns) {
        query->more->reply_deadline_ns = submission->deadline_ns;
        query->deadline_ns = submission->wait_deadline_ns;
    }
    if (!submission->thread)
        pl_query_link_deadline(
            exchange, query,
            query->deadline_ns == submission->deadline_ns ? submission->timeout_ms : 0);
    if (submission->is_too_late) {
        exchange->queries++;
        *made = query;
        pl_query_expire(exchange, query, wakes);
        return POOL_OK;
    }
    status = line ? put(exchange, line, query, submission->request, wakes)
                  : enqueue(exchange, query, flags & POOL_DONT_WAIT);
    if (status) {
        if (submission->ticket)
            submission->ticket->query = NULL;
        pl_exchange_release(exchange, query);
        return status;
    }
    exchange->queries++;
    submission->line = line;
    *made = query;
    return POOL_OK;
}

enum pool_status pl_exchange_submit(struct pl_exchange *exchange, struct pl_submission *submission,
                                    struct pl_query **made, struct pl_wakes *wakes)
{
    uint32_t flags = submission->call->flags;
    bool may_go = PL_LIKELY(passes_nobody(exchange, flags) && !submission->is_too_late);
    enum pool_status status = pl_pool_refusal(exchange->pool);

    if (PL_UNLIKELY(status))            /* it may have closed since it was looked at */
        return status;
    do {                                /* a line that has no key for it is not chosen again */
        struct pl_line *line =
            may_go ? pl_line_choose(exchange, flags & POOL_ORDERED, wakes) : NULL;

        status = accept_query(exchange, submission, line, made, wakes);
    } while (PL_UNLIKELY(status == POOL_E_WOULD_BLOCK));
    return status;
}

static bool may_move(const struct pl_exchange *exchange, const struct pl_query *query,
                     struct pool_bytes frame)
{
    if (exchange->is_ended || query->moves >= MOVES || (query->flags & POOL_ONE_SHOT))
        return false;
    return frame.size || (query->flags & POOL_SAFE_TO_REPEAT);
}

void pl_exchange_move(struct pl_exchange *exchange, struct pl_query *query,
                      struct pl_failure failure, struct pool_bytes frame, struct pl_wakes *wakes)
{
    bool is_kept = query->more && query->more->has_request;

    if (query->more)
        pl_list_drop(&query->more->link);       /* parts were to be told; they come anew */
    if (!may_move(exchange, query, frame) || (!is_kept && !pl_query_keep_frame(query, frame))) {
        pl_exchange_fail(exchange, query, failure, wakes);
        return;
    }
    query->moves += failure.reason != PL_REASON_OVER;   /* each such connection answers somebody */
    query->is_long_gone = false;
    exchange->retries++;
    query->was_sent = query->was_sent || !frame.size;
    pl_reply_drop_all(&query->more->parts);
    query->more->part_size = 0;
    pl_buffer_fini(&query->more->joined);
    if (!query->on_reply && !query->is_posted)
        pl_list_drop(&query->link);
    if (query->is_posted && !pl_list_is_linked(&query->link))
        pl_query_link_deadline(exchange, query, 0);     /* on the line it had none */
    enqueue_again(exchange, query);
}

/* ---- telling */

static void on_attend(struct pl_post *post)
{
    struct pl_exchange *exchange = pl_container(post, struct pl_exchange, attend_post);
    struct pl_wakes wakes = { 0 };

    pthread_mutex_lock(&exchange->lock);
    exchange->is_attend_posted = false;
    exchange->steps++;                  /* it stays active while others are called */
    pl_exchange_tell(exchange);
    if (pl_pool_is_forked(exchange->pool)) {
        pthread_mutex_unlock(&exchange->lock);
        return;
    }
    pl_exchange_take_back(exchange);
    pl_exchange_distribute(exchange, &wakes);
    pl_exchange_seek_lines(exchange);
    pl_exchange_refuse_hasty(exchange, &wakes);
    exchange->steps--;
    if (exchange->queued && exchange->widen_ns > pl_os->now_ns())
        pl_exchange_wake_at(exchange, exchange->widen_ns);
    sweep_lines(exchange, pl_os->now_ns(), &wakes);     /* some may have waited for this */
    pl_exchange_unlock(exchange, &wakes);
    pthread_mutex_lock(&exchange->lock);
    rest(exchange);
}

/* ---- orders of the program */

void pl_exchange_look(struct pool *pool)
{
    pthread_mutex_lock(&pool->lock);
    PL_LIST_EACH(link, &pool->all_peers) {
        struct pl_peer *peer = pl_container(link, struct pl_peer, pool_link);
        struct pl_exchange *exchange = atomic_load(&peer->exchange);

        if (!exchange)
            continue;
        pthread_mutex_lock(&exchange->lock);
        if (exchange->is_active)
            pl_exchange_wake_at(exchange, 0);
        pthread_mutex_unlock(&exchange->lock);
    }
    pthread_mutex_unlock(&pool->lock);
}

/* ---- the pool's end */

void pl_exchange_end(struct pl_peer *peer)
{
    struct pl_exchange *exchange = atomic_load(&peer->exchange);
    struct pl_failure failure = pl_failure_make(POOL_E_CLOSING, POOL_PHASE_WAIT, 0);
    struct pl_wakes wakes = { 0 };

    if (!exchange)
        return;
    pthread_mutex_lock(&exchange->lock);
    if (exchange->is_active && exchange->generation == atomic_load(&peer->generation)) {
        exchange->is_ended = true;
        while (exchange->queued)
            pl_exchange_fail(exchange, pl_query_first_queued(exchange), failure, &wakes);
        failure.phase = POOL_PHASE_REPLY;
        PL_LIST_EACH(link, &exchange->lines)
            pl_line_break(pl_container(link, struct pl_line, link), failure, &wakes);
        pl_exchange_attend_later(exchange);
    }
    pl_exchange_unlock(exchange, &wakes);
}
