/* pool.h: the pool, which lends warm connections.
 *
 * A program names a peer by an address (address.h has the form). The pool opens the connection when
 * it is first needed, lends it to one user at a time, takes it back warm, and closes the least
 * recently used one when descriptors run out. pool_communicate() is the main call; pool_borrow()
 * and pool_return() are its two halves, and pool_communicate_async() lends to code that must not
 * block. This header brings all others with it but codec.h, query.h and those of adapt/.
 *
 * It is not a protocol: what the bytes mean is the program's business. Queries, which share
 * connections, are in query.h, which a program includes besides.
 *
 * Threads. Every function here may be called from any thread, callbacks included, unless its
 * comment says otherwise. Functions that may wait answer POOL_E_WOULD_BLOCK instead of waiting when
 * they are called on the mux thread (mux.h). on_lent, on_reply, on_request, on_orphan,
 * on_new_connection, on_resolved, on_socket, on_closed, actors and connection events run on the mux
 * thread; `use`, prepare and on_error inside the call that they are for, on its thread, but prepare
 * for an asynchronous call on a thread of the pool's own; on_part inside pool_query(), or on the
 * mux thread; on_none_removable on whichever thread meets the lack of room; on_event and on_log
 * wherever events are told (observe.h). No lock is held in any of them. A codec's functions run on
 * any thread that sends or receives (codec.h).
 *
 * Ownership. `const struct x *` is borrowed until the call returns. `struct x **` hands over
 * something that the caller frees. A `struct pool_conn *` given to a callback is borrowed for that
 * call: copy *conn to keep the handle.
 *
 * Fork. In a child of fork(2) the pools, targets, tickets and muxes of the parent answer
 * POOL_E_FORKED, and so does every handle that was lent at the fork; nothing that the child does
 * with them reaches the parent's peers. Functions that answer no status answer there what they
 * answer for nothing. pool_destroy() closes the child's copies of the descriptors, quietly. The
 * child may make pools of its own, execute another program, exit, or fork again. A call, or a batch
 * of a mux, that forks in one of its callbacks ends in the child with POOL_E_FORKED once the
 * callback comes back; a thread of the pool's own then ends, and the child with it. vfork(2),
 * posix_spawn(3), _Fork(3) and a bare clone(2) are not noticed: call nothing of the pool after them
 * but what executes a program. Do not fork in a signal handler, nor in an allocator given to
 * pool_set_allocator().
 *
 * Errors. POOL_E_ARGUMENT stands for the caller's mistakes, in every build: NULL where something is
 * needed, an impossible value, a handle that is stale because its connection was returned.
 * Functions that answer no status say in their comments what they answer then. Times are in
 * milliseconds unless the name ends in _ns (nanoseconds of CLOCK_MONOTONIC); sizes are in bytes.
 */
#ifndef COMMPOOL_POOL_H
#define COMMPOOL_POOL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "commpool/address.h"
#include "commpool/conn.h"
#include "commpool/mux.h"
#include "commpool/observe.h"
#include "commpool/options.h"
#include "commpool/status.h"
#include "commpool/tls.h"
#include "commpool/types.h"
#include "commpool/version.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Makes a pool and stores it in *pool. It opens no connection yet; without a mux in the options it
 * starts one thread.
 *
 * The pool is the caller's and ends with pool_destroy(). `options` may be NULL for all defaults; it
 * is copied. *pool means something only after POOL_OK. No address is looked at before the first
 * call; pool_address_parse() checks one beforehand, with a sentence for the user. Any thread may
 * call it. Errors: POOL_E_ARGUMENT for an impossible option, a codec that lacks something, and
 * on_request or on_orphan without one; POOL_E_MEMORY; POOL_E_RESOURCE when descriptors or threads
 * ran out; POOL_E_SYSTEM. */
POOL_API enum pool_status pool_create(const struct pool_options *options, struct pool **pool);

/* Ends a pool: closes everything now.
 *
 * Callers that wait get POOL_E_CLOSING. Connections that are lent are shut down (shutdown(2)), so
 * that I/O on them ends at once; the pool does not wait for the borrowers, and the last return
 * frees what is left. It waits for callbacks that are running, and for the last events and on_close
 * of what it closes; after it nothing is called any more. Called from a callback of the same mux it
 * cannot wait: those last calls then come right after that callback, so `user` pointers must live
 * until they came. With an embedded mux it runs what is left itself. Two pools with a mux each must
 * not be ended crosswise, each in a callback of the other: that is two threads waiting for each
 * other. In a child of fork() it only closes the child's copies of the parent's connections: no
 * byte is sent, nothing is shut down, nobody is waited for. Any thread may call it, once; the
 * pointer is dead afterwards. It cannot fail; NULL is fine. */
POOL_API void pool_destroy(struct pool *pool);

/* Borrows a connection to `address`, runs use(conn, user) on this thread, and returns the
 * connection, on every way out. This is the main call.
 *
 * The connection is opened if need be. While `use` runs, nobody else reads or writes it. The handle
 * belongs to the library and is stale afterwards; `address` is read during the call only. A reused
 * connection that fails before anything was sent is replaced and `use` runs again from its start,
 * once; with POOL_SAFE_TO_REPEAT also after something was sent. So `use` must bear to be begun
 * again. Nesting is allowed: inside `use` another call borrows another connection, under the same
 * limits; when this thread itself holds every connection that could serve it, in calls around this
 * one, that call gets POOL_E_FULL at once, with EDEADLK in pool_error.cause. on_error (options.h)
 * may decide otherwise about what is tried again.
 *
 * `call` may be NULL. Its timeout bounds the whole: waiting, connecting, setting up, and the I/O
 * that `use` does through the functions below; what else `use` does is not interrupted. Any thread
 * may call it; on the mux thread it answers POOL_E_WOULD_BLOCK when it would have to wait.
 *
 * Errors. An I/O error inside `use` wins over what `use` answers, and is answered as it is:
 * POOL_E_CLOSED, POOL_E_BROKEN, POOL_E_PROTOCOL, POOL_E_TIMEOUT_IN_TRANSFER and the like.
 * POOL_E_USER when `use` or `prepare` answered non-zero without one, or on_new_connection did.
 * Before `use` ran: POOL_E_ADDRESS for a bad address, POOL_E_RESOLVE for a name without address,
 * POOL_E_REFUSED, POOL_E_CONNECT or POOL_E_ACCESS from connecting, POOL_E_TLS when the peer of a
 * tls:// address could not prove who it is, or when the pool was given no settings and the system's
 * certificates cannot be used, POOL_E_RESOURCE when no descriptor could be had, POOL_E_FULL when
 * too many wait, POOL_E_CLEARED when the pool is paused or was cleared meanwhile, POOL_E_CLOSING
 * when the pool ends, POOL_E_MEMORY, POOL_E_ARGUMENT, POOL_E_SYSTEM. POOL_E_TIMEOUT when time ran
 * out with nothing sent. */
POOL_API enum pool_status pool_communicate(struct pool *pool, const char *address, pool_use_fn *use,
                                           void *user, const struct pool_call *call);

/* Borrows a connection to `address` and stores its handle in *conn: pool_communicate() by hand, for
 * other languages.
 *
 * The connection is the caller's alone until it goes back with pool_return() or pool_discard();
 * every successful borrow needs one of the two. The call's deadline goes on counting for the I/O on
 * it until then. Nothing is repeated by itself once this has answered. *conn means something only
 * after POOL_OK. `call` may be NULL. Threads and errors are those of pool_communicate() before
 * `use` runs; `prepare` may run on this thread inside the call. */
POOL_API enum pool_status pool_borrow(struct pool *pool, const char *address,
                                      const struct pool_call *call, struct pool_conn *conn);

/* Gives a borrowed connection back and zeroes *conn.
 *
 * It is kept warm when it is clean: no operation on it failed, nothing unread is buffered, nothing
 * unsent is queued, the last thing on it was not a send, and after a receive that answered
 * POOL_E_WOULD_BLOCK, other than pool_try_recv(), a later one succeeded. Otherwise it is closed,
 * and the answer is still POOL_OK. All copies of the handle are stale from then on. Any thread may
 * call it, also another one than the borrower; it never waits for the network. Another thread's
 * operation that is still running on a copy makes the connection dirty: it is shut down, and closed
 * when that operation ends. Inside `use` there is no need for it: answer 0. Errors: POOL_E_ARGUMENT
 * when the handle is NULL, zero or stale, or an actor's of a connection that queries share;
 * POOL_E_FORKED in a child of fork(). In both *conn stays what it was. */
POOL_API enum pool_status pool_return(struct pool_conn *conn);

/* Gives a borrowed connection back to be closed, and zeroes *conn: for a connection whose state is
 * in doubt.
 *
 * All copies of the handle are stale from then on. Any thread may call it; it never waits for the
 * network. Inside `use` there is no need for it: answer non-zero. Errors: POOL_E_ARGUMENT when the
 * handle is NULL, zero or stale, or an actor's of a connection that queries share; POOL_E_FORKED in
 * a child of fork(), which then has no copy of the
 * descriptor any more, while *conn stays what it was. */
POOL_API enum pool_status pool_discard(struct pool_conn *conn);

/* Borrows a connection to `address` for event-driven code: on_lent(conn, error, user) runs later,
 * exactly once, on the mux thread, never on the stack of this call.
 *
 * The connection stays lent until pool_return() or pool_discard(), and the call's deadline goes on
 * counting; when it passes, a watched connection gets POOL_EV_ERROR. `address` and `call` are read
 * during the call only; `user` stays the program's. `ticket` may be NULL; else *ticket gets a
 * ticket, set before on_lent can run, by which the call can be canceled, and which is the caller's
 * until pool_ticket_free(). Any thread may call it; it never waits. Errors of the start, after
 * which on_lent never runs: POOL_E_ARGUMENT, POOL_E_ADDRESS, POOL_E_FULL when too many wait,
 * POOL_E_CLOSING, POOL_E_CLEARED when the pool is paused, POOL_E_FORKED, POOL_E_MEMORY, and those
 * of pool_tls_create() at the first tls:// address of a pool that was given no settings. Everything
 * else comes through on_lent, with the errors of pool_borrow(). One attempt is made: on_error is
 * not asked, and on_lent may start the next call itself. */
POOL_API enum pool_status pool_communicate_async(struct pool *pool, const char *address,
                                                 pool_lent_fn *on_lent, void *user,
                                                 const struct pool_call *call,
                                                 struct pool_ticket **ticket);

/* Cancels the call that a ticket stands for, at whatever point it is, and answers whether that came
 * in time. How another thread gets the ticket of a blocking call is told at pool_call.ticket.
 *
 * true: the call ends with POOL_E_CANCELED; an asynchronous one still calls back, once. A
 * connection that was granted but not delivered goes back to the pool; on one that is in use, the
 * I/O ends with POOL_E_CANCELED, also after pool_borrow() or on_lent handed it over. false: it was
 * too late, and the call ends as it would have: so it is once `use` answered 0 and nothing had
 * failed. The ticket stays the caller's. Any thread may call it, callbacks included; it never
 * waits. It cannot fail; NULL gives false. */
POOL_API bool pool_ticket_cancel(struct pool_ticket *ticket);

/* Gives a ticket back. The call itself goes on.
 *
 * The pointer is dead afterwards. Any thread may call it. It cannot fail; NULL is fine. */
POOL_API void pool_ticket_free(struct pool_ticket *ticket);

/* Takes a borrowed connection out of the pool's books. It stays usable through the same handle
 * until pool_discard(), also after the pool and its mux are gone, and no longer counts against any
 * limit; pool_return() closes it, too.
 *
 * Inside `use`, copy *conn to keep the handle; pool_communicate() then leaves the connection alone
 * and answers by what `use` answered, without running it again. The deadline of the call ends with
 * the loan: from now on each operation is bounded by read_ms or write_ms, or by the pool's
 * timeout_ms where these are not set, and after pool_conn_deadline() by that deadline instead of
 * timeout_ms. Watching ends, without a last event, and the event-driven calls answer
 * POOL_E_ARGUMENT; an actor is told that the connection is gone. In a callback on a mux thread the
 * blocking functions answer POOL_E_WOULD_BLOCK instead of waiting, as ever. The pool counts it as
 * closed, with POOL_CLOSE_DETACHED. Any thread may call it; it never waits. Errors: POOL_E_ARGUMENT
 * for NULL, a stale handle, a connection that is detached already, that `prepare` has or whose
 * pool_write() has bytes queued, and while another thread's operation on it is running;
 * POOL_E_CLOSING, POOL_E_BROKEN or what else its operations answer when it was ended meanwhile;
 * POOL_E_FORKED. When it fails, nothing has changed. */
POOL_API enum pool_status pool_detach(struct pool_conn *conn);

/* Takes a borrowed plain connection out of the pool as a bare descriptor, stored in *fd, and zeroes
 * *conn. A detached one may be given.
 *
 * The descriptor is the caller's to close(2). It is in blocking mode and close-on-exec, without a
 * receive timeout (SO_RCVTIMEO, socket(7)), in no epoll set of the pool's; other options that the
 * pool sets on its sockets stay. All copies of the handle are stale from then on, and data attached
 * by pool_conn_set_user() is freed. Any thread may call it; it never waits. Errors: POOL_E_ARGUMENT
 * for NULL, a stale handle, a connection with bytes still buffered or that `prepare` has, one with
 * TLS, and while another thread's operation on it is running; POOL_E_BROKEN when the descriptor is
 * not the pool's any more, and what else its operations answer when it was ended; POOL_E_FORKED;
 * POOL_E_RESOURCE or POOL_E_SYSTEM for other refusals of the kernel. The connection is then still
 * lent, and *fd is unchanged. */
POOL_API enum pool_status pool_release_fd(struct pool_conn *conn, int *fd);

/* Gives a connected or accepted socket to the pool, to be lent as a connection to `address`: at
 * once to a caller who waits, else as an idle one. When none is idle, the pool still dials.
 *
 * With POOL_OK the descriptor is the pool's, who may close it at any time; it is made blocking and
 * close-on-exec, and gets another number when it is 0, 1 or 2; its other options stay as they are.
 * When it fails the descriptor is the caller's again, unchanged. on_new_connection, on_resolved,
 * on_socket and prepare do not run for it, so it has no actor; it counts and grows old like any
 * other from now on: a server that adopts what it accepts (pool_options.on_request) sets
 * max_per_address to the peers that it serves at once, and max_age_ms to POOL_NONE.
 * Reaching max_connections evicts an idle connection. `address` is read during the call only, and
 * must be a plain one, without TLS: tcp takes a socket of IPv4 or IPv6 (the one that family=
 * names), unix and abstract take a unix one. That it leads to where the address says is the
 * caller's word. Any thread may call it; it never waits. Errors: POOL_E_ARGUMENT when the
 * descriptor is no connected stream socket of that kind, when its socket is a connection of a pool
 * already, by this number or another one (dup(2)), or was one of the parent's at a fork(2), or when
 * something is NULL; POOL_E_ADDRESS for an address that could not be borrowed, or asks for TLS;
 * POOL_E_FULL when max_per_address or max_idle is reached, or max_connections and nothing is idle;
 * POOL_E_RESOURCE when the kernel has no room for it; POOL_E_CLOSING; POOL_E_FORKED; POOL_E_MEMORY;
 * POOL_E_SYSTEM. */
POOL_API enum pool_status pool_adopt(struct pool *pool, const char *address, int fd);

/* Looks an address up once, for hot loops, and stores the result in *target, to be passed as
 * pool_call.target.
 *
 * It opens no connection. The target is the caller's until pool_target_free() and may be used by
 * many threads at once. *target means something only after POOL_OK. Any thread may call it; it
 * never waits for the network. Errors: POOL_E_ADDRESS, for which pool_address_parse() has a
 * sentence that says what is wrong; POOL_E_MEMORY; POOL_E_CLOSING; POOL_E_ARGUMENT when something
 * is NULL; those of pool_tls_create() at the first tls:// address of a pool that was given no
 * settings. A name is looked up when a connection is opened, not here. */
POOL_API enum pool_status pool_target_get(struct pool *pool, const char *address,
                                          struct pool_target **target);

/* Gives a target back. Connections opened through it stay in the pool.
 *
 * The pointer is dead afterwards, and no call that uses it may be running. Any thread may call it.
 * It cannot fail; NULL is fine. */
POOL_API void pool_target_free(struct pool_target *target);

/* Room and identity. */

/* Says that the number `fd` names another socket now, or none: connections of this pool that had it
 * are forgotten.
 *
 * The descriptor is neither closed nor touched in any other way. An idle connection is dropped; a
 * lent one answers POOL_E_BROKEN from then on, and whoever watches or hears it is told so; a call
 * that waits in the kernel learns of it there, or at its deadline. Call it after code that is not
 * the pool's closed or replaced a descriptor by mistake; what goes unsaid is noticed at the next
 * borrow (SO_COOKIE, socket(7)), or when the pool itself gets the number for another connection;
 * said after that, it means that one if it is lent. It answers how many connections were forgotten.
 * Any thread may call it; it never waits. It cannot fail; for NULL or a negative number it answers
 * 0. */
POOL_API int pool_mark_as_dead(struct pool *pool, int fd);

/* Makes room: closes the least recently used idle connection of this pool and answers 1.
 *
 * When none is idle, on_none_removable runs, if there is one, on this thread, and the answer is 0.
 * Call it when your program itself ran out of descriptors; the pool calls the like by itself for
 * its own sockets. Any thread may call it; it never waits. It cannot fail; for NULL it answers
 * 0. */
POOL_API int pool_remove_some_connection(struct pool *pool);

/* Orders to the pool. */

/* Makes room for `count` descriptors of the program's own, by evicting idle connections, and keeps
 * it until the next call or the pool's end.
 *
 * With POOL_OK, `count` more descriptors could be opened under the soft RLIMIT_NOFILE
 * (getrlimit(2)) when they were counted; idle connections of any pool on the mux were evicted for
 * that, as few as possible. From then on all pools on the mux together leave this room free:
 * opening a connection evicts another one, or waits as for any lack of descriptors. The room is the
 * program's to fill; each call counts anew from what is open then, so it asks for `count`
 * descriptors beyond those. What several pools on one mux were asked for adds up. When the limit
 * changes, what the pools may have changes by as much. What the program opens beyond `count`, and
 * what it takes out of the pool with its descriptor, eats the room; so does a thread that opens
 * descriptors while they are being counted.
 *
 * pool_reserve_fds(pool, 0) gives the room back. Any thread may call it; it never waits. Errors:
 * POOL_E_RESOURCE when not enough could be evicted: nothing is kept free for this pool then;
 * POOL_E_CLOSING when the pool is being destroyed; POOL_E_ARGUMENT when `pool` is NULL or the count
 * is impossible. Source: proc(5), /proc/self/fd. */
POOL_API enum pool_status pool_reserve_fds(struct pool *pool, uint32_t count);

/* Bits for pool_clear(). */
enum {
    POOL_INTERRUPT = 1, /* close lent connections now, not when they are returned */
    POOL_THEN_PAUSE = 2 /* leave the pool paused until pool_ready() */
};

/* Begins a new generation of connections to one address, or to all when `address` is NULL.
 *
 * Idle connections close now, lent ones when they are returned, or now with POOL_INTERRUPT: their
 * I/O ends at once, with POOL_E_CLEARED. One whose actor stands inside a message counts as lent to
 * it. Those that are being opened or set up are given up. Callers that wait get POOL_E_CLEARED. The
 * next borrow opens anew, unless POOL_THEN_PAUSE, which pauses the whole pool. An address that the
 * pool has no connection to is no error. Any thread may call it; it never waits. Errors:
 * POOL_E_ADDRESS for a bad address; POOL_E_ARGUMENT for a NULL pool or unknown bits;
 * POOL_E_CLOSING; POOL_E_MEMORY. Source: the specification of connection monitoring and pooling
 * (CMAP), clear. */
POOL_API enum pool_status pool_clear(struct pool *pool, const char *address, uint32_t flags);

/* Closes one connection by its id, lent or not, and answers whether there was one.
 *
 * A borrower's I/O on it ends at once, with POOL_E_BROKEN; an exchange that met no failure counts
 * as done all the same, and the connection is closed when it is returned. One that is being opened
 * or set up fails with POOL_E_BROKEN, and so do callers who wait for it. Any thread may call it; it
 * never waits. It cannot fail; for an unknown id, one that is gone, or a NULL pool it answers
 * false, and without memory also for one that is not ready yet. */
POOL_API bool pool_kill(struct pool *pool, uint64_t connection);

/* Ends the I/O on one connection now, as if its deadline had come, and answers whether there was
 * one that is lent.
 *
 * The borrower gets POOL_E_TIMEOUT or POOL_E_TIMEOUT_IN_TRANSFER. An exchange that does no more I/O
 * ends as it would have; the connection is closed when it is returned. Any thread may call it; it
 * never waits. It cannot fail; for an unknown id, one that is not lent, or a NULL pool it answers
 * false. */
POOL_API bool pool_force_timeout(struct pool *pool, uint64_t connection);

/* Ends a pause: the pool lends and opens connections again.
 *
 * On a pool that is not paused it changes nothing. Any thread may call it; it never waits. Errors:
 * POOL_E_ARGUMENT when `pool` is NULL; POOL_E_CLOSING. */
POOL_API enum pool_status pool_ready(struct pool *pool);

/* Pauses the pool: it refuses borrows with POOL_E_CLEARED and opens nothing until pool_ready().
 *
 * Connections that are lent go on, and are idle when they come back; callers that wait get
 * POOL_E_CLEARED. Pausing twice is pausing once. Any thread may call it; it never waits. Errors:
 * POOL_E_ARGUMENT when `pool` is NULL; POOL_E_CLOSING. */
POOL_API enum pool_status pool_pause(struct pool *pool);

/* Closes the pool gently: refuses new work with POOL_E_CLOSING, lets the rest finish for at most
 * `drain_ms` milliseconds, then forces what is left.
 *
 * Those who already wait are still served. Idle connections that nobody waits for close now, and so
 * do those that come back. Forcing is what pool_destroy() does: callers that wait get
 * POOL_E_CLOSING, and lent connections are shut down. 0 and POOL_ZERO force at once, POOL_NONE
 * never does.
 *
 * on_closed(user) runs once, on the mux thread, when the last connection is gone and no call that
 * waited is still under way; it may be NULL. The pool's memory is still the caller's until
 * pool_destroy(), which may come earlier, and inside on_closed; on_closed then runs as part of it,
 * or right after it when it is called on the mux thread. Any thread may call it; it never waits.
 * Errors: POOL_E_ARGUMENT when `pool` is NULL; POOL_E_CLOSING when it is closing already, and
 * on_closed then never runs; POOL_E_MEMORY. */
POOL_API enum pool_status pool_close(struct pool *pool, uint32_t drain_ms, pool_done_fn *on_closed,
                                     void *user);

#ifdef __cplusplus
}
#endif

#endif
