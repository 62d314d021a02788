/* deadline.c: when the time of queries is over that no thread waits for. See exchange.h.
 *
 * Those of the same timeout come due in the order in which they were asked. For a few timeouts
 * there is a list each. All others, as where callers pass deadlines on, stand in a wheel: by the
 * tick of their deadline, in no order, and those of a later round among them. So linking one never
 * looks at the others; expiring looks at those of the ticks that have gone by.
 */
#include <errno.h>

#include "base/os.h"
#include "pool/backoff.h"
#include "pool/exchange.h"
#include "pool/line.h"

#define TICK 24u                        /* 2 to that many ns */

/* The list of those with this timeout; NULL: they stand in the wheel. */
static struct pl_list *span_of(struct pl_exchange *exchange, uint32_t timeout_ms)
{
    for (unsigned i = 0; i < PL_SPANS && timeout_ms; i++) {
        if (pl_list_is_empty(&exchange->spans[i].queries))
            exchange->spans[i].timeout_ms = timeout_ms;
        if (exchange->spans[i].timeout_ms == timeout_ms)
            return &exchange->spans[i].queries;
    }
    return NULL;
}

static struct pl_list *slot_of(struct pl_exchange *exchange, uint64_t tick)
{
    return &exchange->wheel.slots[tick % PL_SLOTS];
}

/* Behind all that are due earlier, which most are. */
static void link_in_span(struct pl_list *span, struct pl_query *query)
{
    struct pl_list *place = span;

    while (place->previous != span &&
           pl_query_of_link(place->previous)->deadline_ns > query->deadline_ns)
        place = place->previous;
    pl_list_link_before(place, &query->link);
}

static void link_in_wheel(struct pl_exchange *exchange, struct pl_query *query)
{
    uint64_t due_ns = query->deadline_ns;

    pl_list_push_back(slot_of(exchange, due_ns >> TICK), &query->link);
    exchange->wheel.swept_ns = pl_earlier(exchange->wheel.swept_ns, due_ns);
    exchange->wheel.next_ns = pl_earlier(exchange->wheel.next_ns, due_ns);
}

void pl_query_link_deadline(struct pl_exchange *exchange, struct pl_query *query,
                            uint32_t timeout_ms)
{
    struct pl_list *span;

    if (query->deadline_ns == PL_NEVER)
        return;
    span = span_of(exchange, timeout_ms);
    if (span)
        link_in_span(span, query);
    else
        link_in_wheel(exchange, query);
    pl_exchange_wake_at(exchange, query->deadline_ns);
}

struct pl_failure pl_query_waited_in_vain(struct pl_exchange *exchange,
                                          const struct pl_query *query)
{
    struct pl_failure failure = pl_failure_because(PL_REASON_QUEUE, POOL_PHASE_WAIT, ETIMEDOUT);

    if (query->more && query->more->told)       /* it waited for the peer */
        return pl_failure_make(query->more->told->error.status, query->more->told->error.phase,
                               query->more->told->error.cause);
    if (!(query->flags & POOL_WAIT_FOR_PEER))
        return failure;
    pthread_mutex_lock(&exchange->peer->lock);
    (void)pl_backoff_has_failed(exchange->peer, &failure);      /* before it was asked */
    pthread_mutex_unlock(&exchange->peer->lock);
    return failure;
}

/* Is the socket full of what the peer does not read? */
static bool is_stuck(const struct pl_line *line)
{
    return line->watched & EPOLLOUT;
}

/* What of it has not left is kept from leaving. */
void pl_query_expire(struct pl_exchange *exchange, struct pl_query *query, struct pl_wakes *wakes)
{
    struct pl_failure failure;
    bool was_on_line = query->line != NULL, was_behind = was_on_line && is_stuck(query->line),
         has_left = was_on_line && !pl_line_withdraw(query->line, query, wakes);

    exchange->timeouts++;
    if (has_left || query->was_sent) {
        failure = pl_failure_make(POOL_E_TIMEOUT_IN_TRANSFER,
                                  has_left ? POOL_PHASE_REPLY : POOL_PHASE_WAIT, ETIMEDOUT);
        failure.outcome = POOL_MAYBE_SENT;
    } else if (was_on_line) {
        failure = pl_failure_because(was_behind ? PL_REASON_BEHIND : PL_REASON_DEADLINE,
                                     POOL_PHASE_USE, ETIMEDOUT);
    } else {
        failure = pl_query_waited_in_vain(exchange, query);
    }
    pl_exchange_fail(exchange, query, failure, wakes);
}

/* Those in front whose time is over fail; one failure may end others, which leave the list then. */
static uint64_t expire_list(struct pl_exchange *exchange, const struct pl_list *list,
                            uint64_t now_ns, struct pl_wakes *wakes)
{
    while (!pl_list_is_empty(list)) {
        struct pl_query *first = pl_query_of_link(list->next);

        if (first->deadline_ns > now_ns)
            return first->deadline_ns;
        pl_query_expire(exchange, first, wakes);
    }
    return PL_NEVER;
}

static void take_due(struct pl_list *slot, uint64_t now_ns, struct pl_list *taken)
{
    struct pl_list *next;

    for (struct pl_list *link = slot->next; link != slot; link = next) {
        next = link->next;
        if (pl_query_of_link(link)->deadline_ns > now_ns)
            continue;
        pl_list_unlink(link);
        pl_list_push_back(taken, link);
    }
}

/* When the first one in the wheel is due; all that were due by now have gone. */
static uint64_t first_due(struct pl_exchange *exchange, uint64_t now_ns)
{
    uint64_t tick = now_ns >> TICK, first_ns = PL_NEVER;

    for (unsigned i = 0; i < PL_SLOTS && first_ns >> TICK >= tick; i++, tick++) {
        PL_LIST_EACH(link, slot_of(exchange, tick))
            first_ns = pl_earlier(first_ns, pl_query_of_link(link)->deadline_ns);
    }
    return first_ns;
}

static uint64_t expire_wheel(struct pl_exchange *exchange, uint64_t now_ns, struct pl_wakes *wakes)
{
    uint64_t tick = exchange->wheel.swept_ns >> TICK, last = now_ns >> TICK;
    struct pl_list taken;

    if (exchange->wheel.next_ns > now_ns)
        return exchange->wheel.next_ns;
    if (last - tick >= PL_SLOTS)
        tick = last - PL_SLOTS + 1;
    pl_list_init(&taken);
    for (; tick <= last; tick++)
        take_due(slot_of(exchange, tick), now_ns, &taken);
    exchange->wheel.swept_ns = now_ns;
    expire_list(exchange, &taken, now_ns, wakes);
    exchange->wheel.next_ns = first_due(exchange, now_ns);
    return exchange->wheel.next_ns;
}

uint64_t pl_queries_expire(struct pl_exchange *exchange, uint64_t now_ns, struct pl_wakes *wakes)
{
    uint64_t next_ns = expire_wheel(exchange, now_ns, wakes);

    for (unsigned i = 0; i < PL_SPANS; i++)
        next_ns = pl_earlier(next_ns,
                             expire_list(exchange, &exchange->spans[i].queries, now_ns, wakes));
    return next_ns;
}
