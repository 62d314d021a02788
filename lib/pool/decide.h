/* decide.h: what a peer should do next. Pure: counts in, a plan out; no lock, no clock, no
 * memory. */
#ifndef PL_POOL_DECIDE_H
#define PL_POOL_DECIDE_H

#include <stdbool.h>
#include <stdint.h>

struct pl_view {
    uint32_t waiting;       /* callers in the queue, those already promised a connection left out */
    uint32_t count, max_count;  /* connections of the peer in any state, and how many it may have */
    uint32_t opening, max_opening;      /* those of them that are being opened or set up */
    bool is_closing;                    /* the pool was destroyed: nothing new */
};

/* How many connections to open now. Each one that is on its way will serve one waiter, or a
 * connection that is returned first will: so nobody needs more than one for each waiter. */
uint32_t pl_decide_dials(const struct pl_view *view);

/* May a newcomer take an idle connection although others wait? For barge_ms yes: whoever runs is
 * quicker than whoever must be woken. After that those who wait come first. */
bool pl_decide_may_barge(uint64_t oldest_wait_ns, uint64_t barge_ns);

#endif
