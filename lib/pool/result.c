/* result.c: what becomes of queries: their memory, their results, and telling those whose threads
 * do not wait. See exchange.h. */
#include <errno.h>
#include <string.h>

#include "base/os.h"
#include "pool/exchange.h"
#include "pool/line.h"
#include "pool/ticket.h"
#include "pool/unasked.h"

#define SPARES 1024u                    /* queries kept for the next ones */

static struct pl_query_more *more_of_link(struct pl_list *link)
{
    return pl_container(link, struct pl_query_more, link);
}

/* ---- memory */

static struct pl_query *take_query(struct pl_exchange *exchange)
{
    struct pl_list *link = pl_list_pop_front(&exchange->spare);

    if (!link)
        return pl_zalloc(sizeof(struct pl_query));
    exchange->spare_count--;
    return pl_query_of_link(link);
}

void pl_query_keep_told(struct pl_query *query, struct pl_told *told)
{
    struct pl_told *old = query->more->told;

    if (told)
        atomic_fetch_add(&told->refs, 1);
    query->more->told = told;
    if (old && atomic_fetch_sub(&old->refs, 1) == 1)
        pl_os->free(old);
}

static void free_query(struct pl_exchange *exchange, struct pl_query *query)
{
    struct pl_query_more *more = query->more;

    if (more) {
        pl_query_leave_queue(exchange, query);
        pl_list_drop(&more->link);
        pl_reply_drop_all(&more->parts);
        pl_buffer_fini(&more->joined);
        pl_ticket_unref(more->ticket);
        pl_query_keep_told(query, NULL);
        pl_os->free(more);
    }
    pl_list_drop(&query->link);
    if (exchange->spare_count >= SPARES || !exchange->is_active) {
        pl_os->free(query);
        return;
    }
    *query = (struct pl_query){ 0 };
    pl_list_push_front(&exchange->spare, &query->link);
    exchange->spare_count++;
}

void pl_queries_drop_spare(struct pl_exchange *exchange)
{
    struct pl_list *link;

    while ((link = pl_list_pop_front(&exchange->spare)))
        pl_os->free(pl_query_of_link(link));
    exchange->spare_count = 0;
}

void pl_exchange_leave_line(struct pl_exchange *exchange, struct pl_query *query)
{
    query->line = NULL;
    if (!query->is_awaited)
        free_query(exchange, query);
}

void pl_exchange_release(struct pl_exchange *exchange, struct pl_query *query)
{
    query->is_awaited = false;
    if (!query->line)
        free_query(exchange, query);
}

static struct pl_query_more *make_more(struct pl_query *query, struct pool_bytes copied)
{
    struct pl_query_more *more = NULL;

    if (copied.size <= SIZE_MAX - sizeof(*more))
        more = pl_zalloc(sizeof(*more) + copied.size);
    if (!more)
        return NULL;
    pl_list_init(&more->parts);
    more->query = query;
    more->request = (struct pool_bytes){ more->copy, copied.size };
    if (copied.size)
        memcpy(more->copy, copied.data, copied.size);
    return more;
}

struct pl_query_more *pl_query_more_of(struct pl_query *query)
{
    if (!query->more)
        query->more = make_more(query, (struct pool_bytes){ 0 });
    return query->more;
}

static bool equip(struct pl_query *query, const struct pl_submission *submission, bool is_to_stay)
{
    bool is_copied = is_to_stay && !submission->thread;
    struct pl_query_more *more;

    if (!is_to_stay && !submission->ticket && !submission->call->on_part)
        return true;
    more = make_more(query, is_copied ? submission->request : (struct pool_bytes){ 0 });
    if (!more)
        return false;
    if (!is_to_stay)
        more->request = (struct pool_bytes){ 0 };
    else if (!is_copied)
        more->request = submission->request;
    more->has_request = is_to_stay;
    more->on_part = submission->call->on_part;
    more->part_user = submission->call->user;
    more->ticket = submission->ticket;
    pl_ticket_ref(submission->ticket);
    query->more = more;
    return true;
}

struct pl_query *pl_query_make(struct pl_exchange *exchange, const struct pl_submission *submission,
                               bool is_to_stay)
{
    struct pl_query *query = take_query(exchange);

    if (!query)
        return NULL;
    query->is_awaited = true;
    query->deadline_ns = submission->deadline_ns;
    query->asked_ms = pl_ms_of(submission->asked_ns);
    query->on_reply = submission->on_reply;
    query->user = submission->thread ? submission->thread : submission->user;
    query->is_posted = !submission->thread && !submission->on_reply;
    query->is_passive = !query->is_posted && (!submission->thread || submission->ticket);
    query->flags = (uint8_t)submission->call->flags;
    if (equip(query, submission, is_to_stay))
        return query;
    pl_exchange_release(exchange, query);
    return NULL;
}

void pl_query_slim(struct pl_query *query)
{
    struct pl_query_more *more = query->more;

    if (more->ticket || more->on_part || (query->flags & POOL_SAFE_TO_REPEAT))
        return;
    query->more = NULL;
    pl_os->free(more);
}

bool pl_query_keep_frame(struct pl_query *query, struct pool_bytes frame)
{
    struct pl_query_more *old = query->more, *more = make_more(query, frame);

    if (!more)
        return false;
    more->is_frame = more->has_request = true;
    query->more = more;
    if (!old)
        return true;
    more->on_part = old->on_part;
    more->part_user = old->part_user;
    more->ticket = old->ticket;
    pl_reply_drop_all(&old->parts);
    pl_buffer_fini(&old->joined);
    pl_os->free(old);
    return true;
}

/* ---- results */

void pl_exchange_wake(struct pl_wakes *wakes, struct pl_thread *thread)
{
    if (wakes->count == PL_WAKES)
        pl_thread_wake(thread);
    else
        wakes->threads[wakes->count++] = thread;
}

void pl_query_leave_queue(struct pl_exchange *exchange, struct pl_query *query)
{
    struct pl_query_more *more = query->more;
    struct pl_list **moved = pl_query_last_moved(exchange, query);

    if (!more || !more->is_queued)
        return;
    more->is_queued = false;
    query->waited_ms += pl_ms_of(pl_os->coarse_ns()) - more->queued_ms;
    if (*moved == &more->link)
        *moved = more->link.previous;
    pl_list_unlink(&more->link);
    exchange->queued--;
    exchange->queued_turns -= (query->flags & POOL_ORDERED) != 0;
    exchange->queued_hasty -= (query->flags & POOL_DONT_WAIT) != 0;
}

/* Parts that came to be told as one are told, or never will be. */
static void drop_joined(struct pl_query *query)
{
    if (!query->more)
        return;
    if (query->line)
        pl_line_uncount_joined(query->line, query);
    pl_buffer_fini(&query->more->joined);
}

/* Its result stands; what it still has on a line is late from now on. */
static void conclude(struct pl_exchange *exchange, struct pl_query *query, struct pl_wakes *wakes)
{
    struct pl_query_more *more = query->more;
    struct pl_line *line = query->line;
    bool was_queued = more && more->is_queued;

    pl_query_leave_queue(exchange, query);
    if (was_queued)
        pl_exchange_let_lines_go(exchange);
    pl_list_drop(&query->link);
    if (more)
        pl_list_drop(&more->link);
    if (more && more->ticket)
        more->ticket->query = NULL;
    query->is_done = true;
    drop_joined(query);
    if (line) {
        if (more && more->on_part)
            pl_line_uncount_parts(line, query);
        line->passive -= query->is_passive;
        line->is_in_doubt = true;
        query->deadline_ns = pl_os->now_ns();
        line->late_ns = line->late++ ? line->late_ns : query->deadline_ns;
        pl_exchange_wake_at(exchange, pl_after(line->late_ns, PL_LATE_NS));
        pl_line_note_given_up(line);
        if (line->called == query)
            line->called = NULL;        /* others are to be called */
        pl_line_seek_reader(line, wakes);
    }
    if (query->is_posted) {
        if (query->has_reply)
            pool_reply_free(query->reply);
        pl_exchange_release(exchange, query);
    } else if (query->on_reply) {
        pl_list_push_back(&exchange->done, &query->link);
        pl_exchange_attend_later(exchange);
    } else {
        pl_exchange_tell_thread(exchange, query, wakes);
    }
}

void pl_exchange_finish(struct pl_exchange *exchange, struct pl_query *query,
                        struct pool_reply *reply, struct pl_wakes *wakes)
{
    query->reply = reply;
    query->has_reply = true;
    conclude(exchange, query, wakes);
}

void pl_exchange_fail(struct pl_exchange *exchange, struct pl_query *query,
                      struct pl_failure failure, struct pl_wakes *wakes)
{
    const struct pl_query_more *more = query->more;

    if (query->was_sent &&
        (failure.outcome == POOL_NOT_SENT || failure.outcome == PL_OUTCOME_UNACKNOWLEDGED))
        failure.outcome = POOL_MAYBE_SENT;      /* by a line before */
    if (more && more->told && more->told->error.status != (enum pool_status)failure.status)
        pl_query_keep_told(query, NULL);        /* it fails for another reason */
    query->failure = failure;
    query->has_reply = false;
    conclude(exchange, query, wakes);
}

bool pl_exchange_cancel(struct pool_ticket *ticket)
{
    struct pl_exchange *exchange = ticket->exchange;
    struct pl_failure failure = pl_failure_make(POOL_E_CANCELED, POOL_PHASE_WAIT, 0);
    struct pl_query *query;
    struct pl_wakes wakes = { 0 };

    pthread_mutex_lock(&exchange->lock);
    query = ticket->query;
    if (query && query->line && !pl_line_withdraw(query->line, query, &wakes)) {
        failure.phase = POOL_PHASE_REPLY;
        failure.outcome = POOL_MAYBE_SENT;
    }
    if (query)
        pl_exchange_fail(exchange, query, failure, &wakes);
    pl_exchange_unlock(exchange, &wakes);
    return query != NULL;
}

void pl_exchange_fail_queued(struct pl_peer *peer, struct pl_failure failure)
{
    struct pl_exchange *exchange = atomic_load(&peer->exchange);
    struct pl_wakes wakes = { 0 };

    if (!exchange)
        return;
    pthread_mutex_lock(&exchange->lock);
    if (exchange->queued && exchange->generation == atomic_load(&peer->generation)) {
        while (exchange->queued)
            pl_exchange_fail(exchange, pl_query_first_queued(exchange), failure, &wakes);
        pl_exchange_attend_later(exchange);     /* it may have nothing to do any more */
    }
    pl_exchange_unlock(exchange, &wakes);
}

/* ---- counting */

uint64_t pl_exchange_count(struct pl_peer *peer, uint64_t waiting, struct pool_stats *stats)
{
    struct pl_exchange *exchange = atomic_load(&peer->exchange);

    if (!exchange)
        return waiting;
    pthread_mutex_lock(&exchange->lock);
    if (exchange->generation == atomic_load(&peer->generation)) {
        waiting -= pl_earlier(exchange->opening, waiting);
        waiting += exchange->queued;
        stats->queries += exchange->queries;
        stats->late_replies += exchange->late_replies;
        stats->orphans += exchange->orphans;
        stats->timeouts += exchange->timeouts;
        stats->retries += exchange->retries;
    }
    pthread_mutex_unlock(&exchange->lock);
    return waiting;
}

void pl_exchange_keep_books(struct pl_peer *peer)
{
    const struct pl_exchange *exchange = atomic_load(&peer->exchange);
    struct pl_books *books = &peer->pool->books;

    if (!exchange || exchange->generation != atomic_load(&peer->generation))
        return;
    books->queries += exchange->queries;
    books->late_replies += exchange->late_replies;
    books->orphans += exchange->orphans;
    books->timeouts += exchange->timeouts;
    books->retries += exchange->retries;
}

/* ---- telling, on the mux */

static uint64_t total_ns(const struct pl_query *query)
{
    int32_t total_ms = (int32_t)(pl_ms_of(pl_os->now_ns()) - query->asked_ms);

    return total_ms > 0 ? (uint64_t)total_ms * PL_MS : 0;
}

/* What was not spent in the queue went by where it failed. The clocks of the two differ a
 * little. */
static void account(const struct pl_query *query, struct pl_spent *spent)
{
    uint64_t all_ns = total_ns(query), waited_ns = pl_earlier(query->waited_ms * PL_MS, all_ns);

    spent->ns[query->failure.phase] = all_ns - waited_ns;
    spent->ns[POOL_PHASE_WAIT] += waited_ns;
}

/* Of an attempt to open its line, what fell into its own time; it waited for the rest. */
static void account_attempt(const struct pl_query *query, const struct pool_error *told,
                            struct pl_spent *spent)
{
    uint64_t left_ns = total_ns(query);

    for (size_t i = PL_COUNT(spent->ns); i-- > 0;) {
        spent->ns[i] = pl_earlier(told->spent_ms[i] * PL_MS, left_ns);
        left_ns -= spent->ns[i];
    }
    spent->ns[POOL_PHASE_WAIT] += left_ns;
}

void pl_query_tell_failure(const struct pl_query *query, const char *address,
                           struct pool_error *error)
{
    struct pl_spent spent = { 0 };

    if (query->more && query->more->told) {
        struct pool_error told = query->more->told->error;

        account_attempt(query, &told, &spent);
        pl_failure_retell(&told, &spent);
        pl_failure_copy(&told, error);
        return;
    }
    account(query, &spent);
    pl_failure_tell(&query->failure, &spent, address, error);
}

void pl_exchange_attend_later(struct pl_exchange *exchange)
{
    if (exchange->is_attend_posted)
        return;
    exchange->is_attend_posted = true;
    pl_mux_post_soonest(exchange->pool->mux, &exchange->attend_post);
}

void pl_exchange_note_parts(struct pl_exchange *exchange, struct pl_query *query,
                            struct pl_wakes *wakes)
{
    if (!query->on_reply) {
        pl_exchange_wake(wakes, query->user);
    } else if (!pl_list_is_linked(&query->more->link)) {
        pl_list_push_back(&exchange->parting, &query->more->link);
        pl_exchange_attend_later(exchange);
    }
}

/* Are parts that came still to be told? Not when its time is over, and not when it was ended from
 * this side. */
static bool wants_parts(const struct pl_query *query)
{
    if (query->has_reply)
        return true;
    if (!query->is_done)
        return !pl_is_past(query->deadline_ns);
    switch ((enum pool_status)query->failure.status) {
    case POOL_E_TIMEOUT:
    case POOL_E_TIMEOUT_IN_TRANSFER:
    case POOL_E_CANCELED:
    case POOL_E_CLEARED:
    case POOL_E_CLOSING:
        return false;
    default:
        return query->failure.cause != ESHUTDOWN;       /* it was killed */
    }
}

/* Those that had come together. In a child of fork(), also one that a part was told in, they are
 * only freed. */
static void tell_taken(struct pl_exchange *exchange, const struct pl_query *query,
                       struct pl_list *parts)
{
    pool_part_fn *on_part = query->more->on_part;
    void *user = query->more->part_user;
    struct pl_list *link;

    while (!pl_pool_is_forked(exchange->pool) && wants_parts(query) &&
           (link = pl_list_pop_front(parts))) {
        struct pool_reply *part = pl_container(link, struct pool_reply, link);

        pthread_mutex_unlock(&exchange->lock);
        on_part(pool_reply_bytes(part), user);
        pool_reply_free(part);
        pthread_mutex_lock(&exchange->lock);
    }
    pl_reply_drop_all(parts);
}

void pl_query_tell_parts(struct pl_exchange *exchange, struct pl_query *query)
{
    struct pl_list parts;

    while (!pl_pool_is_forked(exchange->pool) && wants_parts(query) &&
           !pl_list_is_empty(&query->more->parts)) {
        pl_list_init(&parts);
        pl_list_move_all(&parts, &query->more->parts);
        if (query->line)
            pl_line_uncount_parts(query->line, query);
        tell_taken(exchange, query, &parts);
    }
}

/* Parts of replies whose ends have not come yet. Only this thread frees what asks here. */
static void tell_parting(struct pl_exchange *exchange)
{
    struct pl_wakes wakes = { 0 };
    struct pl_list *link;

    while (!pl_pool_is_forked(exchange->pool) && (link = pl_list_pop_front(&exchange->parting))) {
        struct pl_query *query = more_of_link(link)->query;

        pl_query_tell_parts(exchange, query);
        if (pl_pool_is_forked(exchange->pool) || query->is_done || !pl_is_past(query->deadline_ns))
            continue;
        pl_query_expire(exchange, query, &wakes);
        pl_exchange_unlock(exchange, &wakes);
        pthread_mutex_lock(&exchange->lock);
    }
}

static void tell_query(struct pl_exchange *exchange, struct pl_query *query)
{
    struct pl_query_more *more = query->more;
    struct pool_reply *reply = query->reply;

    if (more && more->on_part) {
        pthread_mutex_lock(&exchange->lock);
        pl_query_tell_parts(exchange, query);
        pthread_mutex_unlock(&exchange->lock);
    }
    if (pl_pool_is_forked(exchange->pool))
        return;                         /* the parent tells it */
    if (!query->has_reply)
        reply = pl_reply_of_failure(query, exchange->peer->text);
    if (more && more->ticket)
        (void)!pl_ticket_end(more->ticket);
    query->on_reply(reply, query->user);
}

/* In a child of fork() the rest stays as it is: what the stack has of it is lost there. */
static void tell_done(struct pl_exchange *exchange)
{
    struct pl_list told, *link;

    pl_list_init(&told);
    pl_list_move_all(&told, &exchange->done);
    pthread_mutex_unlock(&exchange->lock);
    PL_LIST_EACH(node, &told)
        tell_query(exchange, pl_query_of_link(node));
    pthread_mutex_lock(&exchange->lock);
    while (!pl_pool_is_forked(exchange->pool) && (link = pl_list_pop_front(&told)))
        pl_exchange_release(exchange, pl_query_of_link(link));
}

void pl_exchange_tell(struct pl_exchange *exchange)
{
    while (!pl_pool_is_forked(exchange->pool) &&
           (!pl_list_is_empty(&exchange->done) || !pl_list_is_empty(&exchange->parting) ||
            !pl_list_is_empty(&exchange->unasked))) {
        tell_parting(exchange);
        pl_unasked_tell(exchange);
        if (!pl_pool_is_forked(exchange->pool))
            tell_done(exchange);
    }
}
