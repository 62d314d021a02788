/* decide.c: see decide.h. */
#include "pool/decide.h"

#define DICE_BITS 16                    /* how finely a pause is thrown */

static uint32_t room(uint32_t used, uint32_t limit)
{
    return used < limit ? limit - used : 0;
}

static uint32_t smaller(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

uint32_t pl_decide_dials(const struct pl_view *view)
{
    uint32_t wanted = room(view->opening, view->waiting), spares = room(view->count, view->least);

    if (view->is_closing)
        return 0;
    if (wanted < spares)
        wanted = spares;
    return smaller(wanted, smaller(room(view->opening, view->max_opening),
                                   room(view->count, view->max_count)));
}

bool pl_decide_may_barge(uint64_t oldest_wait_ns, uint64_t barge_ns)
{
    return oldest_wait_ns < barge_ns;
}

/* ---- after failures */

bool pl_decide_again(const struct pl_votes *votes, struct pl_repeatable attempt, uint32_t repeats)
{
    enum pool_decision last = POOL_ABORT;

    if (votes->call_ran)
        last = votes->call_says;
    if (votes->pool_ran)
        last = votes->pool_says;
    if (!votes->call_ran && !votes->pool_ran)
        return attempt.by_itself && repeats == 0;
    return last == POOL_CONTINUE && attempt.if_wanted && repeats < PL_REPEATS;
}

bool pl_decide_backs_off(const struct pl_backoff_rules *rules)
{
    return rules->first_ns || (rules->suspend_after && rules->suspend_ns);
}

uint64_t pl_decide_pause(const struct pl_backoff_rules *rules, uint32_t failures, uint64_t dice)
{
    uint64_t span_ns = rules->first_ns;

    for (uint32_t i = 1; i < failures && span_ns < rules->longest_ns && span_ns; i++)
        span_ns = span_ns > UINT64_MAX / 2 ? UINT64_MAX : span_ns * 2;
    if (span_ns > rules->longest_ns)
        span_ns = rules->longest_ns;
    return (span_ns >> DICE_BITS) * (dice >> (64 - DICE_BITS));
}

void pl_decide_backoff(struct pl_backoff *backoff, const struct pl_backoff_rules *rules,
                       struct pl_miss miss)
{
    uint64_t pause_ns;

    if (backoff->failures && miss.begun_ns < backoff->noted_ns)
        return;
    backoff->failures += backoff->failures < UINT32_MAX;
    backoff->noted_ns = miss.now_ns;
    backoff->is_suspended = rules->suspend_after && backoff->failures >= rules->suspend_after;
    pause_ns = backoff->is_suspended ? rules->suspend_ns
                                     : pl_decide_pause(rules, backoff->failures, miss.dice);
    backoff->until_ns = pause_ns > UINT64_MAX - miss.now_ns ? UINT64_MAX : miss.now_ns + pause_ns;
}
