/* libuv.h: runs a mux inside a libuv loop (uv_run(3), https://docs.libuv.org). A small library of
 * its own: link commpool_uv and libuv beside commpool.
 *
 * While a mux is attached, the thread that runs the loop is the mux thread: callbacks of the pools
 * run there, and what would have to wait answers POOL_E_WOULD_BLOCK. Create the mux on that thread,
 * too. An attached mux keeps the loop running, as every active handle does.
 *
 * libuv belongs to one thread, so both calls are made on the loop's thread.
 */
#ifndef COMMPOOL_ADAPT_LIBUV_H
#define COMMPOOL_ADAPT_LIBUV_H

#include "commpool/mux.h"

#ifdef __cplusplus
extern "C" {
#endif

struct pool_uv_link;
struct uv_loop_s; /* libuv's uv_loop_t */

/* Watches the mux in `loop` and dispatches it whenever it has something to do; *link stands for
 * that.
 *
 * The link is the caller's and ends with pool_uv_detach(), before the loop is closed. It keeps the
 * mux: pool_mux_destroy() may come before it, and takes effect after it. *link means something only
 * after POOL_OK. Nothing is called from inside this call. Errors: POOL_E_ARGUMENT when something is
 * NULL; POOL_E_MEMORY; POOL_E_SYSTEM when libuv refuses, for example because this mux is in this
 * loop already. Source: uv_poll_init(). */
POOL_API enum pool_status pool_uv_attach(struct pool_mux *mux, struct uv_loop_s *loop,
                                         struct pool_uv_link **link);

/* Takes the mux out of the loop; nothing is dispatched any more. What the mux has to do then waits
 * until somebody dispatches it.
 *
 * libuv closes handles later: the link's memory goes when the loop runs next, so run it once more
 * before uv_loop_close(), which answers UV_EBUSY until then. The pointer is dead at once. It may be
 * called inside a callback of the mux. It cannot fail; NULL is fine. Source: uv_close(). */
POOL_API void pool_uv_detach(struct pool_uv_link *link);

#ifdef __cplusplus
}
#endif

#endif
