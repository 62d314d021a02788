/* watch.h: what the pool layer does with the events of connections. */
#ifndef PL_POOL_WATCH_H
#define PL_POOL_WATCH_H

#include "mux/mux.h"

/* The mux's handler of connections. Stale events are dropped here: by birth, and by the swap of the
 * word. */
void pl_watch_on_event(struct pool_mux *mux, uint32_t index, uint32_t birth, uint32_t events);

#endif
