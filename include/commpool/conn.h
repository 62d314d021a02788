/* conn.h: what can be done with a connection that is lent: bytes in and out, blocking or by events,
 * and what there is to know about it. pool.h includes it.
 *
 * Threads, ownership, errors and forks are as pool.h says for all headers.
 */
#ifndef COMMPOOL_CONN_H
#define COMMPOOL_CONN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "commpool/options.h"
#include "commpool/status.h"
#include "commpool/types.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Blocking I/O on a borrowed connection.
 *
 * These functions work on the calling thread, on the connection of a valid handle, straight on its
 * socket. Each is bounded by the deadline of the call that borrowed the connection, and by read_ms
 * or write_ms. They bound waiting alone. Buffers stay the caller's. Any thread may call them, one
 * at a time for each connection; on the mux thread they answer POOL_E_WOULD_BLOCK instead of
 * waiting. An operation that fails makes the connection unfit for reuse: its return closes it. So
 * does a receive that answers POOL_E_WOULD_BLOCK, for its caller expects an answer, unless a later
 * receive succeeds; pool_try_recv() looks without expecting one.
 *
 * Errors that all of them have: POOL_E_ARGUMENT for NULL or a stale handle; POOL_E_TIMEOUT when
 * time ran out before anything of this exchange was on the wire, POOL_E_TIMEOUT_IN_TRANSFER when it
 * ran out later; POOL_E_BROKEN when the connection was reset, lost, killed or marked as dead;
 * POOL_E_CLEARED when pool_clear() interrupted it; POOL_E_CLOSING when the pool was destroyed
 * meanwhile, or the patience of pool_close() ended; POOL_E_WOULD_BLOCK as above, and always for a
 * handle that on_new_connection or an actor was given: those use the event-driven calls;
 * POOL_E_RESOURCE, POOL_E_ACCESS or POOL_E_SYSTEM for other refusals of the kernel. Each comment
 * below adds its own. */

/* Sends all `size` bytes of `data`: POOL_OK says that the kernel took every one, not that the peer
 * has read them.
 *
 * Threads and errors are those of the section above. No SIGPIPE is raised. Source: send(2). */
POOL_API enum pool_status pool_send(struct pool_conn *conn, const void *data, size_t size);

/* Sends the bytes of `count` pieces, in order and as if they were one, without copying them
 * together.
 *
 * `iov` is read, never changed. Threads and errors are those of the section above; POOL_E_ARGUMENT
 * also for a negative count, and for a piece at NULL that is not empty. No SIGPIPE is raised.
 * Source: sendmsg(2), readv(2) for struct iovec. */
POOL_API enum pool_status pool_sendv(struct pool_conn *conn, const struct iovec *iov, int count);

/* Receives what there is, at least one byte and at most `size`, waiting if nothing has come yet;
 * stores the number in *got.
 *
 * Bytes that an earlier pool_recv_until() or pool_ask() read beyond its end come first. A `size` of
 * 0 waits for nothing and answers POOL_OK with 0 bytes; `buffer` may then be NULL. Threads and
 * errors are those of the section above; POOL_E_CLOSED when the peer has ended the stream. Source:
 * recv(2). */
POOL_API enum pool_status pool_recv(struct pool_conn *conn, void *buffer, size_t size, size_t *got);

/* Receives exactly `size` bytes, waiting until the last one has come.
 *
 * Threads and errors are those of the section above; POOL_E_CLOSED when the peer ended the stream
 * before the first of them, POOL_E_BROKEN when it did so after that. Source: recv(2). */
POOL_API enum pool_status pool_recv_exact(struct pool_conn *conn, void *buffer, size_t size);

/* Receives up to and including the first occurrence of `delimiter`, `size` bytes long, and stores
 * in *bytes where the result is.
 *
 * The bytes include the delimiter, belong to the connection, and are valid until the next I/O on it
 * or its return. What came after the delimiter is kept for the next receive. Threads and errors are
 * those of the section above; POOL_E_PROTOCOL when max_line bytes came without the delimiter,
 * POOL_E_CLOSED when the peer ended the stream before the first byte, POOL_E_BROKEN when it did so
 * later, POOL_E_MEMORY, POOL_E_ARGUMENT for an empty delimiter. */
POOL_API enum pool_status pool_recv_until(struct pool_conn *conn, const void *delimiter,
                                          size_t size, struct pool_bytes *bytes);

/* Sends one request and receives its answer, through the codec of the connection's pool
 * (pool_options.codec), and stores in *reply where the answer is.
 *
 * `request` and the answer are bodies, without their framing; codec.h says for each codec what they
 * are. The answer belongs to the connection and is valid until the next I/O on it or its return;
 * one that comes in several messages is made into one, and where none is due it is empty. An answer
 * that tells of an error is an answer, too: only its bytes say so. Pushes that come before it, or
 * right behind it, are copied and given to the actor of the connection, on the mux thread; where
 * there is none, to on_orphan. What else was received behind the answer is kept for the next
 * receive. When the answer says that the connection must end after it, it is closed when it is
 * returned.
 *
 * Threads and errors are those of the section above; on the mux thread it answers
 * POOL_E_WOULD_BLOCK, and nothing is sent. POOL_E_ARGUMENT also when the pool has no codec, or for
 * a request whose answers cannot be counted; POOL_E_FULL for a request longer than max_message, and
 * when pushes of more than that wait to be told; POOL_E_PROTOCOL for what the codec refuses, an
 * answer longer than max_message, one that nobody asked for, and a request of the peer's;
 * POOL_E_CLOSED and POOL_E_BROKEN at the end of the stream, as for pool_recv_exact();
 * POOL_E_MEMORY. After a call that left an answer due, later ones on the connection are
 * POOL_E_BROKEN: nobody knows whose the next answer is. */
POOL_API enum pool_status pool_ask(struct pool_conn *conn, struct pool_bytes request,
                                   struct pool_bytes *reply);

/* Sends what the kernel takes at once, possibly less than `size` bytes, and stores the number in
 * *sent; it never waits.
 *
 * Threads and errors are those of the blocking section; POOL_E_WOULD_BLOCK when not one byte fits,
 * which is no failure of the connection; when the deadline has passed, that is answered as a
 * blocking call would. `sent` must not be NULL. No SIGPIPE is raised. Source: send(2) with
 * MSG_DONTWAIT. */
POOL_API enum pool_status pool_try_send(struct pool_conn *conn, const void *data, size_t size,
                                        size_t *sent);

/* Receives what there is, at most `size` bytes, and stores the number in *got; it never waits.
 *
 * Bytes that an earlier pool_recv_until() or pool_ask() read beyond its end come first. Threads and
 * errors are those of the blocking section; POOL_E_WOULD_BLOCK when there is nothing, which is no
 * failure of the connection; when the deadline has passed, that is answered as a blocking call
 * would; POOL_E_CLOSED when the peer has ended the stream. Source: recv(2) with MSG_DONTWAIT. */
POOL_API enum pool_status pool_try_recv(struct pool_conn *conn, void *buffer, size_t size,
                                        size_t *got);

/* Sets a new deadline, `ms` milliseconds from now, for what follows in this borrow.
 *
 * POOL_NONE takes the deadline away; 0 and POOL_ZERO end the time at once. It does not outlive the
 * borrow, and begins with the next operation: one that is waiting keeps its own. Any thread may
 * call it. Errors: POOL_E_ARGUMENT for NULL, a stale handle, or one that is not lent. */
POOL_API enum pool_status pool_conn_deadline(struct pool_conn *conn, uint32_t ms);

/* Event-driven I/O, on the mux thread: for on_new_connection, actors, and asynchronous loans. */

/* What happened on a watched connection. A watcher ignores what it does not know. */
enum pool_event {
    POOL_EV_CONNECTED, /* no release so far tells it: what can be watched is connected already */
    POOL_EV_READ, /* bytes came; they are in `bytes` */
    POOL_EV_WRITTEN, /* everything that was queued has left */
    POOL_EV_TIMEOUT_READ, /* nothing came for as long as pool_conn_timeout() allows */
    POOL_EV_TIMEOUT_WRITE, /* nothing left for as long as it allows, although something is queued */
    POOL_EV_ERROR, /* it failed, ran out of time or was canceled: pool_conn_error(). Last event */
    POOL_EV_CLOSED /* it was closed without an error. Last event */
};

/* A direction of bytes, as seen from the program. */
enum pool_direction { POOL_READ, POOL_WRITE };

/* A receiver of events. `conn` and `bytes` are borrowed for the call; `bytes` is empty in all
 * events but POOL_EV_READ. At most one of POOL_EV_ERROR and POOL_EV_CLOSED comes, and nothing after
 * it; a connection that is lent still has to be given back. */
typedef void pool_conn_event_fn(struct pool_conn *conn, enum pool_event event,
                                struct pool_bytes bytes, void *user);

/* Has on_event(conn, event, bytes, user) called on the mux thread for what happens on the
 * connection from now on.
 *
 * It serves exchanges that on_new_connection began and ended with POOL_LATER, until
 * pool_conn_ready(), and loans of pool_communicate_async(), until the return; what comes after
 * either is not told. It never calls back from inside this call. `user` stays the program's and
 * must be valid until the last event, or until that end. Call it on the mux thread, in
 * on_new_connection, in an actor, or while on_lent's connection is lent. Errors: POOL_E_ARGUMENT
 * when something is NULL, the handle is stale, this is not the mux thread, or the connection is
 * lent to a blocking borrower; on a loan that has failed, the status of that failure, but after the
 * peer's end one may still write; POOL_E_BROKEN when the descriptor is not the pool's any more;
 * POOL_E_MEMORY. When it fails, nothing is ever called. */
POOL_API enum pool_status pool_conn_watch(struct pool_conn *conn, pool_conn_event_fn *on_event,
                                          void *user);

/* Queues `size` bytes for sending, and writes at once what fits; it never waits.
 *
 * What does not fit is copied, so `data` is read during the call only. A watched connection gets
 * POOL_EV_WRITTEN when everything has left. It is called where pool_conn_watch() is. Errors:
 * POOL_E_FULL when more than write_high bytes are queued, and until they have fallen to write_low:
 * nothing of `data` was taken; POOL_E_MEMORY; POOL_E_BROKEN when the connection is gone; on a loan
 * that has failed, the status of that failure; POOL_E_ARGUMENT. No SIGPIPE is raised. Source:
 * send(2). */
POOL_API enum pool_status pool_write(struct pool_conn *conn, const void *data, size_t size);

/* Bounds the silence in one direction of a watched connection: after `ms` milliseconds without a
 * byte it gets POOL_EV_TIMEOUT_READ or POOL_EV_TIMEOUT_WRITE.
 *
 * POOL_NONE and 0 take the bound away. It counts from this call, and anew from every byte. The
 * event closes nothing by itself. It is called where pool_conn_watch() is. Errors: POOL_E_ARGUMENT
 * for a stale handle or a direction that does not exist; on a loan that has failed, the status of
 * that failure; POOL_E_MEMORY. */
POOL_API enum pool_status pool_conn_timeout(struct pool_conn *conn, enum pool_direction direction,
                                            uint32_t ms);

/* Questions about a connection. The handle stays valid, and the connection is not touched. */

/* Answers the connection's id, the one that events carry. Ids count from 1 in each pool and are
 * never reused.
 *
 * Any thread may call it. It cannot fail; for a stale handle or NULL it answers 0. */
POOL_API uint64_t pool_conn_id(const struct pool_conn *conn);

/* Answers the connection's descriptor, for example to read socket options (getsockopt(2)).
 *
 * It stays the pool's: never close it, and do not read or write it, since bytes may already be
 * buffered. The number means something only while the handle is valid. Any thread may call it. It
 * cannot fail; for a stale handle or NULL it answers -1. */
POOL_API int pool_conn_fd(const struct pool_conn *conn);

/* Answers the canonical text of the address that the connection belongs to.
 *
 * The text belongs to the library and is valid while the handle is. Any thread may call it. It
 * cannot fail; for a stale handle or NULL it answers NULL. */
POOL_API const char *pool_conn_address(const struct pool_conn *conn);

/* Answers when the connection was last used, in nanoseconds of CLOCK_MONOTONIC (clock_gettime(2)).
 *
 * Of two uses by one thread the later one has the greater number. Any thread may call it. It cannot
 * fail; for a stale handle or NULL it answers 0. */
POOL_API uint64_t pool_conn_last_used_ns(const struct pool_conn *conn);

/* Answers whether two handles are valid and name the same connection. Copies of one handle do.
 *
 * Any thread may call it. It cannot fail; a stale handle, a zero one or NULL is the same as
 * nothing, so it answers false. */
POOL_API bool pool_conn_same(const struct pool_conn *a, const struct pool_conn *b);

/* Writes the last failure on the connection into *error; its status is POOL_OK, and its text empty,
 * when there was none.
 *
 * *error is the caller's and must be initialised with POOL_ERROR_INIT, or be all zeros. Any thread
 * may call it. Errors: POOL_E_ARGUMENT when something is NULL or the handle is stale; *error is
 * then unchanged. */
POOL_API enum pool_status pool_conn_error(const struct pool_conn *conn, struct pool_error *error);

/* Attaches the program's own data to the connection. It stays across borrows, until it is replaced
 * or the connection closes.
 *
 * Then free_user(user) runs, once, if neither is NULL, with no lock held; it may run on any thread,
 * the mux thread included, when the connection is already gone, and must not call fork(2). Data set
 * earlier is freed so at once, unless it is the same pointer. The caller must hold the connection.
 * It cannot fail; with a stale handle or NULL nothing is kept and nothing is freed. */
POOL_API void pool_conn_set_user(struct pool_conn *conn, void *user, void (*free_user)(void *user));

/* Answers what pool_conn_set_user() attached, or NULL.
 *
 * It is valid while the handle is. Any thread may call it. It cannot fail; for a stale handle or
 * NULL it answers NULL. */
POOL_API void *pool_conn_user(const struct pool_conn *conn);

/* What has happened on one connection since it was opened. */
struct pool_conn_counts {
    /* Set it to sizeof(struct pool_conn_counts) before the call; no byte beyond it is written. */
    size_t size;

    /* Bytes received and sent, as the program sees them. */
    uint64_t bytes_in;
    uint64_t bytes_out;

    /* Borrows so far, the present one included. */
    uint64_t uses;

    /* When it was opened and last used, in nanoseconds of CLOCK_MONOTONIC. */
    uint64_t opened_ns;
    uint64_t last_used_ns;
};

/* Fills *counts with the connection's numbers.
 *
 * The struct is the caller's; its `size` must be set before. Any thread may call it. Errors:
 * POOL_E_ARGUMENT for NULL, an impossible size or a stale handle. */
POOL_API enum pool_status pool_conn_count(const struct pool_conn *conn,
                                          struct pool_conn_counts *counts);

/* Writes our end's socket address into `text`, for example "127.0.0.1:40312" or "[fe80::1%2]:80"
 * with the number of the zone, ended by a zero byte. Of a unix socket it is the path, an abstract
 * name with '@' in front of it and for each zero byte, or nothing when the socket has no name.
 *
 * `text` is the caller's and has room for `size` bytes. Any thread may call it. Errors:
 * POOL_E_ARGUMENT for NULL, a stale handle or too little room; POOL_E_BROKEN when the socket is
 * gone. Source: getsockname(2). */
POOL_API enum pool_status pool_conn_local(const struct pool_conn *conn, char *text, size_t size);

/* Writes the peer's socket address into `text`, for example "127.0.0.1:6379", ended by a zero byte.
 * It serves to reach the same server again, for example to cancel a query there.
 *
 * Owners, threads and errors are those of pool_conn_local(). Source: getpeername(2). */
POOL_API enum pool_status pool_conn_remote(const struct pool_conn *conn, char *text, size_t size);

/* Orders about a connection. */

/* Ends POOL_LATER: says that on_new_connection's exchange, or an actor's half message, is finished.
 *
 * With POOL_OK the connection may be lent from now on. With anything else it is closed, and a
 * caller who waits for it gets that status. Do not use the handle after this call. Any thread may
 * call it, also inside the hook itself. It cannot fail; a stale handle, or one that is not waited
 * for, is ignored. */
POOL_API void pool_conn_ready(struct pool_conn *conn, enum pool_status status);

/* Takes the connection out of use: it is not lent again, and is closed as soon as it is free, at
 * once when it is idle.
 *
 * It serves actors that were told so by the peer, for example by a "going away" message. A borrower
 * who has it finishes first. Any thread may call it. It cannot fail; a stale handle or NULL is
 * ignored. */
POOL_API void pool_conn_drain(struct pool_conn *conn);

#ifdef __cplusplus
}
#endif

#endif
