/* yield.c: callers who want a connection of their own get one from the queries of the same peer.
 * See exchange.h.
 *
 * Among those who wait are some who open lines for the queries themselves: at most as many as lines
 * are being opened. For them no line goes.
 */
#include "base/os.h"
#include "pool/line.h"
#include "pool/waiter.h"

/* The one that is soonest free; NULL: one is on its way already, or there is none. */
static struct pl_line *least_busy(const struct pl_exchange *exchange)
{
    struct pl_line *least = NULL;

    PL_LIST_EACH(link, &exchange->lines) {
        struct pl_line *line = pl_container(link, struct pl_line, link);

        if (line->is_leaving)
            return NULL;                /* one is on its way to them */
        if (!least || line->unanswered < least->unanswered)
            least = line;
    }
    return least;
}

/* When somebody else than those who open lines will have waited for long enough; PL_NEVER: nobody
 * does. */
static uint64_t wanted_ns(const struct pl_exchange *exchange)
{
    struct pl_peer *peer = exchange->peer;
    const struct pl_waiter *waiter;
    uint64_t when_ns = PL_NEVER;

    pthread_mutex_lock(&peer->lock);
    waiter = pl_waiter_at(peer, exchange->opening);
    if (waiter)
        when_ns = pl_after(waiter->queued_ns, exchange->pool->settings.barge_ns);
    pthread_mutex_unlock(&peer->lock);
    return when_ns;
}

void pl_exchange_note_wanted(struct pl_exchange *exchange)
{
    uint64_t when_ns = wanted_ns(exchange);

    if (when_ns >= exchange->yield_ns)
        return;
    exchange->yield_ns = when_ns;
    pl_exchange_wake_at(exchange, when_ns);
}

/* A line takes no more queries, for those who wait and do not open one. False: nobody does. */
static bool yield_line(struct pl_line *line)
{
    struct pl_exchange *exchange = line->exchange;
    struct pl_peer *peer = exchange->peer;

    pthread_mutex_lock(&peer->lock);
    peer->shared.is_yielded_to = peer->shared.waiting > peer->shared.waiting_lines;
    if (peer->shared.is_yielded_to)
        exchange->yielding = line;
    pthread_mutex_unlock(&peer->lock);
    line->is_leaving = exchange->yielding == line;
    return line->is_leaving;
}

static void end_yield(struct pl_exchange *exchange)
{
    struct pl_peer *peer = exchange->peer;

    pthread_mutex_lock(&peer->lock);
    peer->shared.is_yielded_to = false;
    exchange->yielding = NULL;
    pthread_mutex_unlock(&peer->lock);
}

void pl_line_retire(struct pl_line *line)
{
    line->is_leaving = true;
    if (PL_UNLIKELY(line->exchange->yielding == line))
        end_yield(line->exchange);
}

void pl_exchange_note_served(struct pl_peer *peer)
{
    struct pl_exchange *exchange = atomic_load(&peer->exchange);

    if (peer->shared.waiting != peer->shared.waiting_lines || pl_pool_is_forked(peer->pool))
        return;
    atomic_store(&exchange->must_take_back, true);
    pl_mux_timer_arm(peer->pool->mux, &exchange->timer, 0);
}

void pl_exchange_take_back(struct pl_exchange *exchange)
{
    struct pl_line *line = exchange->yielding;
    struct pl_peer *peer = exchange->peer;
    bool is_wanted;

    atomic_store(&exchange->must_take_back, false);
    if (!line || line->is_broken)
        return;
    pthread_mutex_lock(&peer->lock);
    is_wanted = peer->shared.waiting > peer->shared.waiting_lines;
    pthread_mutex_unlock(&peer->lock);
    if (is_wanted)
        return;
    end_yield(exchange);
    line->is_leaving = false;
}

/* Who is served before that makes it later. A line that leaves, and one that is opened, let the
 * next one be noted. */
uint64_t pl_exchange_yield_in_time(struct pl_exchange *exchange, uint64_t now_ns)
{
    struct pl_line *line;

    if (exchange->yield_ns > now_ns)
        return exchange->yield_ns;
    exchange->yield_ns = wanted_ns(exchange);
    if (exchange->yield_ns > now_ns)
        return exchange->yield_ns;
    exchange->yield_ns = PL_NEVER;
    line = least_busy(exchange);
    if (line)
        (void)yield_line(line);
    return PL_NEVER;
}

bool pl_exchange_yield(struct pl_peer *peer)
{
    struct pl_exchange *exchange = atomic_load(&peer->exchange);
    struct pl_wakes wakes = { 0 };
    struct pl_line *line;
    bool has_gone = false;

    if (!exchange)
        return false;
    pthread_mutex_lock(&exchange->lock);
    line = exchange->is_active && !exchange->is_ended ? least_busy(exchange) : NULL;
    if (line && !line->correlator.count && !line->serving && wanted_ns(exchange) != PL_NEVER) {
        has_gone = yield_line(line) && pl_line_let_go(line, &wakes);
    } else if (line) {
        pl_exchange_note_wanted(exchange);
    }
    pl_exchange_unlock(exchange, &wakes);
    return has_gone;
}
