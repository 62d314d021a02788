/* test_decide.c: what a peer does next, for every small count there is. */
#include "pool/decide.h"

#include <criterion/criterion.h>

#define UP_TO 6u

/* The rule said another way: one more dial at a time, as long as somebody has none and no cap is
 * reached. */
static uint32_t dials_one_by_one(struct pl_view view)
{
    uint32_t dials = 0;

    while (!view.is_closing && view.opening < view.waiting && view.opening < view.max_opening &&
           view.count < view.max_count) {
        view.opening++;
        view.count++;
        dials++;
    }
    return dials;
}

static bool next_view(struct pl_view *view)
{
    uint32_t *digits[] = { &view->waiting,     &view->count,   &view->max_count,
                           &view->opening, &view->max_opening };

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
    struct pl_view view = { UINT32_MAX, UINT32_MAX - 1, UINT32_MAX, 0, UINT32_MAX, false };

    cr_expect_eq(pl_decide_dials(&view), 1);
    view = (struct pl_view){ UINT32_MAX, 0, UINT32_MAX, 1, UINT32_MAX, false };
    cr_expect_eq(pl_decide_dials(&view), UINT32_MAX - 1);
    view = (struct pl_view){ 0, UINT32_MAX, 1, UINT32_MAX, 1, false };
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
