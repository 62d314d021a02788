/* libevent.h: runs a mux inside a libevent loop (https://libevent.org). A small library of its own:
 * link commpool_event and libevent_core beside commpool.
 *
 * While a mux is attached, the thread that runs the loop is the mux thread: callbacks of the pools
 * run there, and what would have to wait answers POOL_E_WOULD_BLOCK. Create the mux on that thread,
 * too. An attached mux keeps event_base_dispatch() running, as every pending event does.
 *
 * Make both calls on the loop's thread, unless libevent was told to lock (evthread_use_pthreads()).
 */
#ifndef COMMPOOL_ADAPT_LIBEVENT_H
#define COMMPOOL_ADAPT_LIBEVENT_H

#include "commpool/mux.h"

#ifdef __cplusplus
extern "C" {
#endif

struct pool_event_link;
struct event_base;

/* Watches the mux in `base` and dispatches it whenever it has something to do; *link stands for
 * that.
 *
 * The link is the caller's and ends with pool_event_detach(), before the base is freed. It keeps
 * the mux: pool_mux_destroy() may come before it, and takes effect after it. *link means something
 * only after POOL_OK. Nothing is called from inside this call. Errors: POOL_E_ARGUMENT when
 * something is NULL; POOL_E_MEMORY, also when libevent refuses. Source: event_new(). */
POOL_API enum pool_status pool_event_attach(struct pool_mux *mux, struct event_base *base,
                                            struct pool_event_link **link);

/* Takes the mux out of the loop and frees the link; nothing is dispatched any more. What the mux
 * has to do then waits until somebody dispatches it.
 *
 * The pointer is dead at once. It may be called inside a callback of the mux. It cannot fail; NULL
 * is fine. Source: event_free(). */
POOL_API void pool_event_detach(struct pool_event_link *link);

#ifdef __cplusplus
}
#endif

#endif
