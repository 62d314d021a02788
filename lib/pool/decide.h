/* decide.h: what a peer should do next. Pure: counts in, a plan out; no lock, no clock, no
 * memory. */
#ifndef PL_POOL_DECIDE_H
#define PL_POOL_DECIDE_H

#include <stdbool.h>
#include <stdint.h>

#include "commpool/options.h"

struct pl_view {
    uint32_t waiting;       /* callers in the queue, those already promised a connection left out */
    uint32_t count, max_count;  /* connections of the peer in any state, and how many it may have */
    uint32_t opening, max_opening;      /* those of them that are being opened or set up */
    bool is_closing;                    /* the pool was destroyed: nothing new */
    uint32_t least;                     /* so many there are to be, whoever waits */
};

/* How many connections to open now. Each one that is on its way will serve one waiter, or a
 * connection that is returned first will: so nobody needs more than one for each waiter. */
uint32_t pl_decide_dials(const struct pl_view *view);

/* May a newcomer take an idle connection although others wait? For barge_ms yes: whoever runs is
 * quicker than whoever must be woken. After that those who wait come first. */
bool pl_decide_may_barge(uint64_t oldest_wait_ns, uint64_t barge_ns);

/* ---- after failures */

#define PL_REPEATS 8                    /* so often is an attempt made again in one call */

/* What on_error of each level said to a failed attempt; a level without one did not run. */
struct pl_votes {
    bool call_ran, pool_ran;
    enum pool_decision call_says, pool_says;
};

/* What may be made again: whatever the program wants, and what the pool repeats of its own. */
struct pl_repeatable {
    bool if_wanted, by_itself;
};

/* Is the attempt to be made again? The last one that ran decides, and whatever it says but to
 * continue ends the call. Where none ran, what the pool repeats of its own it repeats once. */
bool pl_decide_again(const struct pl_votes *votes, struct pl_repeatable attempt, uint32_t repeats);

struct pl_backoff_rules {
    uint64_t first_ns, longest_ns;      /* the first pause, and the longest one */
    uint32_t suspend_after;             /* failures in a row; 0: never */
    uint64_t suspend_ns;
};

/* How it stands with a peer that cannot be reached. */
struct pl_backoff {
    uint32_t failures;                  /* in a row; 0: all is well */
    uint64_t until_ns;                  /* nothing is dialed before then */
    uint64_t noted_ns;                  /* when the last failure was counted */
    bool is_suspended;
};

/* A dial that failed: when it was begun, when it ended, and a throw of the dice. */
struct pl_miss {
    uint64_t begun_ns, now_ns, dice;
};

/* Do these rules ask for anything? */
bool pl_decide_backs_off(const struct pl_backoff_rules *rules);

/* The pause after so many failures: by chance between nothing and a span that doubles with each, so
 * that callers who failed together do not come back together. */
uint64_t pl_decide_pause(const struct pl_backoff_rules *rules, uint32_t failures, uint64_t dice);

/* One more failure. Dials that were under way together failed for one reason, and count as one. */
void pl_decide_backoff(struct pl_backoff *backoff, const struct pl_backoff_rules *rules,
                       struct pl_miss miss);

#endif
