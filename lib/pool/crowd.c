/* crowd.c: what is done differently when one receive brings the replies of many threads.
 *
 * They get the processor one after the other, however they are woken. Woken all at once they only
 * move each other from one processor to the next; so no more are woken than the processors run
 * soon, and each who is back wakes the next one.
 *
 * Most ask again at once, and each would find nobody writing, and write alone. While more of them
 * are still to come back than that, what is asked stays queued: whoever comes back as the last but
 * few sends it all. It waits for HELD_NS at the most: the first who asked sleeps no longer than
 * that.
 */
#include "base/os.h"
#include "pool/line.h"

#define HELD_NS (PL_MS / 5)
#define HELD_MOST 65536u                /* bytes: more would be several writes */

static bool is_worth_it(const struct pl_exchange *exchange)
{
    return exchange->returning >= exchange->woken_most;
}

static void wake(struct pl_exchange *exchange, struct pl_query *query, struct pl_wakes *wakes)
{
    query->is_woken = true;
    exchange->woken++;
    pl_exchange_wake(wakes, query->user);
}

void pl_exchange_tell_thread(struct pl_exchange *exchange, struct pl_query *query,
                             struct pl_wakes *wakes)
{
    if (query->is_passive) {            /* it may do something else for long: nobody waits for it */
        pl_exchange_wake(wakes, query->user);
        return;
    }
    query->is_returning = true;
    exchange->returning++;
    exchange->held_until_ns = 0;        /* from when the first of them asks */
    if (query->user == pl_thread_current)
        return;
    if (exchange->woken < exchange->woken_most)
        wake(exchange, query, wakes);
    else
        pl_list_push_back(&exchange->unwoken, &query->link);
}

bool pl_exchange_hold_back(struct pl_exchange *exchange, struct pl_line *line, bool *is_guard)
{
    uint64_t now_ns;

    *is_guard = false;
    if (PL_LIKELY(!is_worth_it(exchange)) || line->is_writing ||
        pl_buffer_size(&line->out) > HELD_MOST)
        return false;
    now_ns = pl_os->now_ns();
    if (!exchange->held_until_ns)
        exchange->held_until_ns = pl_after(now_ns, HELD_NS);
    if (exchange->held_until_ns <= now_ns)
        return false;
    *is_guard = !exchange->has_held_back;
    line->is_held_back = exchange->has_held_back = true;
    return true;
}

void pl_exchange_send_held_back(struct pl_exchange *exchange, struct pl_wakes *wakes)
{
    bool has_sent;

    exchange->has_held_back = false;
    do {
        has_sent = false;
        PL_LIST_EACH(link, &exchange->lines) {
            struct pl_line *line = pl_container(link, struct pl_line, link);

            if (!line->is_held_back)
                continue;
            line->is_held_back = false;
            pl_line_flush(line, wakes);
            pl_line_seek_reader(line, wakes);
            has_sent = true;
            break;                      /* it was unlocked meanwhile */
        }
    } while (has_sent);
}

void pl_exchange_note_back(struct pl_exchange *exchange, struct pl_query *query,
                           struct pl_wakes *wakes)
{
    if (!query->is_returning)
        return;
    query->is_returning = false;
    exchange->returning--;
    exchange->woken -= query->is_woken;
    query->is_woken = false;
    pl_list_drop(&query->link);                 /* it came by itself */
    while (exchange->woken < exchange->woken_most && !pl_list_is_empty(&exchange->unwoken))
        wake(exchange, pl_query_of_link(pl_list_pop_front(&exchange->unwoken)), wakes);
    if (PL_UNLIKELY(exchange->has_held_back) && !is_worth_it(exchange))
        pl_exchange_send_held_back(exchange, wakes);
}
