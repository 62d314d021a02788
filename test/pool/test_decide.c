/* test_decide.c: what a peer does next, for every small count there is. */
#include "pool/decide.h"

#include <criterion/criterion.h>

#define UP_TO 5u

/* The rule said another way: one more dial at a time, as long as somebody has none and no cap is
 * reached. */
static uint32_t dials_one_by_one(struct pl_view view)
{
    uint32_t dials = 0;

    while (!view.is_closing && (view.opening < view.waiting || view.count < view.least) &&
           view.opening < view.max_opening && view.count < view.max_count) {
        view.opening++;
        view.count++;
        dials++;
    }
    return dials;
}

static bool next_view(struct pl_view *view)
{
    uint32_t *digits[] = { &view->waiting,     &view->count,   &view->max_count,
                           &view->opening, &view->max_opening, &view->least };

    for (size_t i = 0; i < sizeof(digits) / sizeof(*digits); i++) {
        if (++*digits[i] <= UP_TO)
            return true;
        *digits[i] = 0;
    }
    view->is_closing = !view->is_closing;
    return view->is_closing;
}

Test(decide, each_waiter_gets_a_dial_of_its_own_until_a_cap_is_reached)
{
    struct pl_view view = { 0 };

    do
        cr_assert_eq(pl_decide_dials(&view), dials_one_by_one(view),
                     "waiting %u count %u of %u opening %u of %u", view.waiting, view.count,
                     view.max_count, view.opening, view.max_opening);
    while (next_view(&view));
}

Test(decide, the_largest_numbers_overflow_nothing)
{
    struct pl_view view = { UINT32_MAX, UINT32_MAX - 1, UINT32_MAX, 0, UINT32_MAX, false, 0 };

    cr_expect_eq(pl_decide_dials(&view), 1);
    view = (struct pl_view){ UINT32_MAX, 0, UINT32_MAX, 1, UINT32_MAX, false, 0 };
    cr_expect_eq(pl_decide_dials(&view), UINT32_MAX - 1);
    view = (struct pl_view){ 0, UINT32_MAX, 1, UINT32_MAX, 1, false, 0 };
    cr_expect_eq(pl_decide_dials(&view), 0);
}

Test(decide, newcomers_pass_a_waiter_until_it_has_waited_for_barge_ms)
{
    cr_expect(pl_decide_may_barge(0, 1));
    cr_expect(pl_decide_may_barge(9999999, 10000000));
    cr_expect_not(pl_decide_may_barge(10000000, 10000000));
    cr_expect_not(pl_decide_may_barge(0, 0), "POOL_ZERO: strictly in order");
    cr_expect(pl_decide_may_barge(UINT64_MAX - 1, UINT64_MAX), "POOL_NONE: always");
}

/* ---- after failures */

#define ABSENT 9

enum outcome { FAILS, AGAIN, ONCE /* if the pool does so by itself */ };

/* What on_error of the call and of the pool say, and what becomes of the attempt. */
static const struct {
    int call, pool;
    enum outcome outcome;
} votes[] = {
    { POOL_ABORT, POOL_ABORT, FAILS },      { POOL_ABORT, POOL_CONTINUE, AGAIN },
    { POOL_ABORT, POOL_FATAL, FAILS },      { POOL_CONTINUE, POOL_ABORT, FAILS },
    { POOL_CONTINUE, POOL_CONTINUE, AGAIN }, { POOL_CONTINUE, POOL_FATAL, FAILS },
    { POOL_FATAL, POOL_ABORT, FAILS },      { POOL_FATAL, POOL_CONTINUE, AGAIN },
    { POOL_FATAL, POOL_FATAL, FAILS },      { ABSENT, POOL_ABORT, FAILS },
    { ABSENT, POOL_CONTINUE, AGAIN },       { ABSENT, POOL_FATAL, FAILS },
    { POOL_ABORT, ABSENT, FAILS },          { POOL_CONTINUE, ABSENT, AGAIN },
    { POOL_FATAL, ABSENT, FAILS },          { ABSENT, ABSENT, ONCE },
    { POOL_CONTINUE, 77, FAILS },
};

static bool is_made_again(enum outcome outcome, struct pl_repeatable attempt, uint32_t repeats)
{
    if (outcome == AGAIN)
        return attempt.if_wanted && repeats < 8;
    return outcome == ONCE && attempt.by_itself && repeats < 1;
}

Test(decide, the_last_level_that_ran_decides_about_another_attempt)
{
    for (size_t i = 0; i < sizeof(votes) / sizeof(*votes); i++) {
        struct pl_votes said = { .call_ran = votes[i].call != ABSENT,
                                 .pool_ran = votes[i].pool != ABSENT,
                                 .call_says = (enum pool_decision)votes[i].call,
                                 .pool_says = (enum pool_decision)votes[i].pool };

        for (unsigned j = 0; j < 4 * 20; j++) {
            struct pl_repeatable attempt = { j & 1, j & 2 };

            cr_expect_eq(pl_decide_again(&said, attempt, j / 4),
                         is_made_again(votes[i].outcome, attempt, j / 4), "%d, %d, %u",
                         votes[i].call, votes[i].pool, j);
        }
    }
}

static const struct pl_backoff_rules rules = {
    .first_ns = 100000000, .longest_ns = 1000000000, .suspend_after = 5, .suspend_ns = 700000000
};

Test(decide, a_pause_lies_between_nothing_and_a_span_that_doubles_up_to_the_longest)
{
    static const uint64_t spans_ms[] = { 100, 200, 400, 800, 1000, 1000, 1000 };

    for (uint32_t i = 0; i < sizeof(spans_ms) / sizeof(*spans_ms); i++) {
        uint64_t span_ns = spans_ms[i] * 1000000;

        cr_expect_eq(pl_decide_pause(&rules, i + 1, 0), 0);
        cr_expect_leq(pl_decide_pause(&rules, i + 1, UINT64_MAX), span_ns);
        cr_expect_geq(pl_decide_pause(&rules, i + 1, UINT64_MAX), span_ns - span_ns / 1000);
        cr_expect_leq(pl_decide_pause(&rules, i + 1, UINT64_MAX / 2), span_ns / 2);
        cr_expect_geq(pl_decide_pause(&rules, i + 1, UINT64_MAX / 2), span_ns / 2 - span_ns / 500);
    }
}

Test(decide, the_largest_pauses_overflow_nothing)
{
    struct pl_backoff_rules endless = { .first_ns = UINT64_MAX / 3, .longest_ns = UINT64_MAX };
    struct pl_backoff backoff = { 0 };

    cr_expect_geq(pl_decide_pause(&endless, UINT32_MAX, UINT64_MAX),
                  UINT64_MAX - UINT64_MAX / 1000);
    endless.first_ns = UINT64_MAX;
    pl_decide_backoff(&backoff, &endless, (struct pl_miss){ 4, UINT64_MAX / 2, UINT64_MAX });
    cr_expect_eq(backoff.until_ns, UINT64_MAX);
    endless.first_ns = 0;
    cr_expect_eq(pl_decide_pause(&endless, UINT32_MAX, UINT64_MAX), 0);
}

Test(decide, dials_that_were_under_way_together_count_as_one_failure)
{
    struct pl_backoff backoff = { 0 };

    pl_decide_backoff(&backoff, &rules, (struct pl_miss){ 10, 20, 0 });
    cr_expect_eq(backoff.failures, 1);
    pl_decide_backoff(&backoff, &rules, (struct pl_miss){ 11, 30, UINT64_MAX });
    cr_expect_eq(backoff.failures, 1);
    cr_expect_eq(backoff.until_ns, 20, "and the pause stays as it is");
    pl_decide_backoff(&backoff, &rules, (struct pl_miss){ 21, 30, 0 });
    cr_expect_eq(backoff.failures, 2);
}

Test(decide, so_many_failures_in_a_row_suspend_and_each_one_more_does_so_again)
{
    struct pl_backoff backoff = { 0 };

    for (uint32_t i = 1; i <= 8; i++) {
        pl_decide_backoff(&backoff, &rules, (struct pl_miss){ i * 10, i * 10 + 5, 0 });
        cr_expect_eq(backoff.failures, i);
        cr_expect_eq(backoff.is_suspended, i >= 5, "%u", i);
        cr_expect_eq(backoff.until_ns, i * 10 + 5 + (i >= 5 ? rules.suspend_ns : 0), "%u", i);
    }
}

Test(decide, rules_that_ask_for_no_suspension_get_none)
{
    struct pl_backoff_rules never = rules;
    struct pl_backoff backoff = { 0 };

    never.suspend_after = 0;
    for (uint32_t i = 1; i <= 100; i++)
        pl_decide_backoff(&backoff, &never, (struct pl_miss){ i * 10, i * 10 + 5, 0 });
    cr_expect_not(backoff.is_suspended);
    cr_expect(pl_decide_backs_off(&never));
    never.first_ns = 0;
    cr_expect_not(pl_decide_backs_off(&never));
    never.suspend_after = 1;
    cr_expect(pl_decide_backs_off(&never));
    never.suspend_ns = 0;
    cr_expect_not(pl_decide_backs_off(&never));
}
