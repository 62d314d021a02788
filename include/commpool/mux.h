/* mux.h: the multiplexer, one epoll set (epoll(7)) that watches connections, fires timers and runs
 * posts.
 *
 * Most programs never need this header: a pool without a mux makes one of its own, on a thread of
 * its own. Make one yourself to let several pools share it, or to run it inside the loop that your
 * program already has: watch pool_mux_fd() for reading and call pool_mux_dispatch(mux, 0) when it
 * is readable. A mux made here has no thread until one dispatches or runs it.
 *
 * The mux thread is the thread that dispatches or runs it; before any did, the one that created it.
 * What needs no waiting works there; whatever would have to wait answers POOL_E_WOULD_BLOCK.
 * Callbacks of the mux run on that thread with no lock held, never on the stack of the call that
 * asked for them, and may call every function that does not block. While no thread dispatches,
 * nothing that the mux does for its pools goes on: no connection is opened for a waiting caller,
 * and none is watched.
 *
 * In a child of fork(2) a mux of the parent answers POOL_E_FORKED and runs nothing; its descriptors
 * are closed there already, so pool_mux_fd() answers -1. Its timers may be cancelled and it may be
 * destroyed there, which touches nothing of the parent's.
 *
 * Invariants: one thread dispatches at a time; timers never fire early; a mux with nothing to do
 * does not wake up.
 */
#ifndef COMMPOOL_MUX_H
#define COMMPOOL_MUX_H

#include <stdint.h>

#include "commpool/status.h"
#include "commpool/types.h"

#ifdef __cplusplus
extern "C" {
#endif

struct pool_mux;
struct pool_timer;

/* A piece of work for the mux thread, given to pool_mux_post() or pool_mux_after(). `user` is what
 * was given with it, and stays the program's. */
typedef void pool_post_fn(void *user);

/* Makes a mux and stores it in *mux. It opens its descriptors now and starts no thread.
 *
 * The mux is the caller's and ends with pool_mux_destroy(). *mux means something only after
 * POOL_OK. Any thread may call it; the calling thread counts as the mux thread until another one
 * dispatches. Errors: POOL_E_MEMORY; POOL_E_RESOURCE when the kernel gives no descriptor for it;
 * POOL_E_ARGUMENT when `mux` is NULL. Source: epoll_create1(2), eventfd(2), timerfd_create(2). */
POOL_API enum pool_status pool_mux_create(struct pool_mux **mux);

/* Ends a mux and frees it.
 *
 * Before it, destroy the pools that use it and cancel the timers that you made on it: a pool or a
 * timer that is left keeps the mux until it goes, too. Any thread may call it while no thread
 * dispatches; called from a callback of this mux, the memory goes when the batch ends. What was
 * posted and has not run yet runs before the end, on this thread, and so does what that posts in
 * turn; posts that come without end are refused after 1,000 rounds. The pointer is dead afterwards.
 * It cannot fail; NULL is fine. */
POOL_API void pool_mux_destroy(struct pool_mux *mux);

/* Answers the descriptor to watch for reading: readable means that pool_mux_dispatch() has
 * something to do. It covers connections, timers and posts alike, so no timeout needs computing.
 *
 * The descriptor stays the mux's and the same for life; never read, write or close it. Any thread
 * may call it. It answers -1 for NULL and cannot fail otherwise. Source: epoll(7), on polling an
 * epoll descriptor. */
POOL_API int pool_mux_fd(const struct pool_mux *mux);

/* Runs one batch: waits for something to do for at most `timeout_ms` milliseconds, then handles the
 * events of connections, the timers that are due, and what was posted.
 *
 * A timeout of 0 does not wait; POOL_NONE waits for ever. It answers POOL_OK also when nothing
 * happened in time or a signal cut the wait short, and when another thread was ending one of the
 * pools just then (that moment is waited for, within the timeout). The calling thread becomes the
 * mux thread.
 * Errors: POOL_E_ARGUMENT when `mux` is NULL or when it is being dispatched already, by another
 * thread or further up on this one; POOL_E_MEMORY; POOL_E_SYSTEM when the kernel refuses to wait.
 * Source: epoll_wait(2). */
POOL_API enum pool_status pool_mux_dispatch(struct pool_mux *mux, uint32_t timeout_ms);

/* Dispatches batch after batch until pool_mux_stop() is called; then it answers POOL_OK.
 *
 * The calling thread becomes the mux thread. Errors: those of pool_mux_dispatch(). */
POOL_API enum pool_status pool_mux_run(struct pool_mux *mux);

/* Makes pool_mux_run() return once the batch that it is in has ended.
 *
 * It does not wait for that. When nobody runs the mux, the next pool_mux_run() returns at once. Any
 * thread may call it, callbacks of the mux included. It cannot fail; NULL is fine. */
POOL_API void pool_mux_stop(struct pool_mux *mux);

/* Has the mux thread call post(user), exactly once and soon, even when this is the mux thread
 * itself. Posts of one thread run in the order in which it made them.
 *
 * `user` stays the program's and must be valid until the call. Any thread may call it, callbacks
 * included. Errors: POOL_E_MEMORY; POOL_E_CLOSING while the mux ends, when posts have posted posts
 * for too long; POOL_E_ARGUMENT (`mux` or `post` is NULL). The post is then never called. */
POOL_API enum pool_status pool_mux_post(struct pool_mux *mux, pool_post_fn *post, void *user);

/* Makes a timer that calls fire(user) on the mux thread once `ms` milliseconds have passed, never
 * earlier, and stores it in *timer. One of a second or more comes up to two steps of the kernel's
 * coarse clock late, mostly 8 milliseconds, clock_getres(2), which makes moving it cheap.
 *
 * The timer is the caller's until pool_timer_cancel(), which frees it, fired or not; a timer that
 * has fired can be armed again with pool_timer_again(). 0 fires in the next batch, POOL_NONE only
 * once it was moved. Equal times fire in the order in which they were asked for. Any thread may
 * call it. Errors: POOL_E_MEMORY and POOL_E_ARGUMENT (`mux`, `fire` or `timer` is NULL); `fire` is
 * then never called. Time is CLOCK_MONOTONIC, clock_gettime(2), so setting the date moves no
 * timer. */
POOL_API enum pool_status pool_mux_after(struct pool_mux *mux, uint32_t ms, pool_post_fn *fire,
                                         void *user, struct pool_timer **timer);

/* Moves a timer, or arms one again that has fired: it fires `ms` milliseconds from now, and no
 * longer at its old time.
 *
 * The timer stays the caller's. Any thread may call it, also the timer's own callback, which makes
 * it periodic. It needs no memory. Errors: POOL_E_ARGUMENT when `timer` is NULL. */
POOL_API enum pool_status pool_timer_again(struct pool_timer *timer, uint32_t ms);

/* Cancels a timer and frees it, fired or not. After the call its callback does not run any more.
 *
 * A callback that is running on another thread is waited for; inside its own callback it is safe
 * and waits for nothing. Any thread may call it, once. It cannot fail; NULL is fine. */
POOL_API void pool_timer_cancel(struct pool_timer *timer);

/* Has on_signal(user) called on the mux thread whenever the signal `signo` arrives, until the mux
 * ends.
 *
 * The signal is blocked in the calling thread, and stays so after the mux; block it in all other
 * threads, too, else one of them gets it. Several callbacks for one signal are called in the order
 * in which they were asked for; of several muxes that ask for one signal, each arrival reaches one.
 * Arrivals of a classic signal that nobody has read yet are one (signal(7)). `user` stays the
 * program's. Any thread may call it. Errors: POOL_E_ARGUMENT for NULL or a signal that cannot be
 * caught; POOL_E_RESOURCE; POOL_E_MEMORY; nothing is then blocked or called. Source: signalfd(2).
 */
POOL_API enum pool_status pool_mux_signal(struct pool_mux *mux, int signo, pool_post_fn *on_signal,
                                          void *user);

#ifdef __cplusplus
}
#endif

#endif
