/* decide.c: see decide.h. */
#include "pool/decide.h"

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
    uint32_t wanted = room(view->opening, view->waiting);

    if (view->is_closing)
        return 0;
    return smaller(wanted, smaller(room(view->opening, view->max_opening),
                                   room(view->count, view->max_count)));
}

bool pl_decide_may_barge(uint64_t oldest_wait_ns, uint64_t barge_ns)
{
    return oldest_wait_ns < barge_ns;
}
