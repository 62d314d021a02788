/* timer.h: the timers of a mux, a 4-ary heap whose keys stand in the array, so that comparing
 * touches no timer. Equal deadlines fire in the order in which they were armed. The heap locks
 * nothing: the mux does.
 */
#ifndef PL_MUX_TIMER_H
#define PL_MUX_TIMER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/list.h"

typedef void pl_timer_fn(void *user);

struct pl_timer {
    struct pl_list due_link;            /* in the list of those that fire in this batch */
    uint32_t place;                     /* in the heap, from 1; 0: not armed */
    pl_timer_fn *fire;
    void *user;
};

struct pl_timer_entry {
    uint64_t deadline_ns, order;
    struct pl_timer *timer;
};

struct pl_timers {
    struct pl_timer_entry *entries;     /* the heap; children of i are 4i+1 .. 4i+4 */
    uint32_t count, capacity;
    uint32_t reserved;             /* timers that exist, armed or not: arming one never allocates */
    uint64_t next_order;
};

/* Room for one more timer to be armed at any time; false: no memory. */
bool pl_timers_reserve(struct pl_timers *timers);
void pl_timers_unreserve(struct pl_timers *timers);
void pl_timers_fini(struct pl_timers *timers);

/* Arms it, or moves it. Disarming one that is not armed does nothing. */
void pl_timers_arm(struct pl_timers *timers, struct pl_timer *timer, uint64_t deadline_ns);
void pl_timers_disarm(struct pl_timers *timers, struct pl_timer *timer);

uint64_t pl_timers_first(const struct pl_timers *timers);       /* PL_NEVER: none */
struct pl_timer *pl_timers_pop_due(struct pl_timers *timers, uint64_t now_ns); /* NULL: none */

#endif
