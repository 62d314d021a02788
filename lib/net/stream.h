/* stream.h: blocking I/O of a borrower on its own thread, straight on the socket, until the exact
 * deadline of its call.
 *
 * The caller holds a pin. Every function answers a status and, unless it is POOL_OK, leaves the
 * failure in the connection: what failed, and what the peer can have seen of this loan by then.
 */
#ifndef PL_NET_STREAM_H
#define PL_NET_STREAM_H

#include <sys/uio.h>

#include "commpool/types.h"
#include "net/connection.h"

/* Bytes read ahead of what the borrower asked for. */
struct pl_input {
    size_t start, end, capacity;        /* unread: data[start..end) */
    char data[];
};

enum pool_status pl_stream_send(struct pl_connection *connection, const struct iovec *pieces,
                                int count) PL_MUST_USE;
enum pool_status pl_stream_recv(struct pl_connection *connection, void *buffer, size_t size,
                                size_t *got) PL_MUST_USE;

/* Receives for whoever keeps the accounts himself, waiting until the deadline: bytes, 0 at the end
 * of the stream, or a negative errno (-ETIME: time is over). */
ssize_t pl_stream_take(struct pl_connection *connection, void *buffer, size_t size,
                       uint64_t deadline_ns) PL_MUST_USE;

/* Neither waits. POOL_E_WOULD_BLOCK is no failure of the connection, and leaves no mark on it. */
enum pool_status pl_stream_try_send(struct pl_connection *connection, const void *data, size_t size,
                                    size_t *sent) PL_MUST_USE;
enum pool_status pl_stream_try_recv(struct pl_connection *connection, void *buffer, size_t size,
                                    size_t *got) PL_MUST_USE;

enum pool_status pl_stream_recv_exact(struct pl_connection *connection, void *buffer,
                                      size_t size) PL_MUST_USE;
enum pool_status pl_stream_recv_until(struct pl_connection *connection, struct pool_bytes delimiter,
                                      struct pool_bytes *bytes) PL_MUST_USE;

/* Shakes hands on a connection in the clear, and waits for it, until the loan's deadline or
 * `until_ns`. */
enum pool_status pl_stream_secure(struct pl_connection *connection, uint64_t until_ns) PL_MUST_USE;

/* Notes that an operation in this loan failed; answers the status. */
enum pool_status pl_stream_fail(struct pl_connection *connection, enum pool_status status,
                                int cause);

/* The same for an errno (ETIME: our own deadline), unless the connection's doom explains it. */
enum pool_status pl_stream_fail_errno(struct pl_connection *connection, int error);
/* The same for a handshake on a connection that was used in the clear: what was said there is no
 * part of a request, so it was not the transfer that took too long. */
enum pool_status pl_stream_fail_securing(struct pl_connection *connection, int error);
/* The same at the end of the stream. */
enum pool_status pl_stream_fail_at_end(struct pl_connection *connection, bool is_inside_message);

/* The same, as it is but for its phase and outcome. */
enum pool_status pl_stream_fail_with(struct pl_connection *connection, struct pl_failure failure);

/* Why the last operation that failed did, and what the peer may have seen by now: others may have
 * gone well since. */
struct pl_failure pl_stream_failure(const struct pl_connection *connection);

/* Sets and clears marks of the loan. */
void pl_stream_mark(struct pl_connection *connection, uint32_t set, uint32_t clear);

/* For whoever receives and sends by himself. */
void pl_stream_note_received(struct pl_connection *connection, size_t size, uint64_t now_ns);
void pl_stream_note_sent(struct pl_connection *connection, size_t size, uint64_t now_ns);
/* Takes what was read ahead; answers how much. */
size_t pl_stream_take_ahead(struct pl_connection *connection, void *buffer, size_t size);
/* What was taken, and more, counts as read ahead again, where nothing else is. False: no memory. */
bool pl_stream_put_ahead(struct pl_connection *connection, const void *data,
                         size_t size) PL_MUST_USE;

/* May this thread wait for the connection? The mux's may not. */
bool pl_stream_may_wait(const struct pl_connection *connection);

/* Around a receiving operation of several steps. Beginning answers POOL_E_ARGUMENT when another one
 * is under way: then there is nothing to end. */
enum pool_status pl_stream_begin_reading(struct pl_connection *connection) PL_MUST_USE;
enum pool_status pl_stream_end_reading(struct pl_connection *connection,
                                       enum pool_status status) PL_MUST_USE;
/* One step: bytes, 0 at the end of the stream, or a negative errno for pl_stream_fail_errno().
 * *own_ns is 0 at the first step and belongs to them all. */
ssize_t pl_stream_receive(struct pl_connection *connection, void *buffer, size_t size,
                          uint64_t *own_ns) PL_MUST_USE;

/* The status that the connection's doom stands for; POOL_OK: none. */
enum pool_status pl_stream_doom(const struct pl_connection *connection);
/* The errno that stands for it; 0: none does. */
int pl_stream_doom_cause(const struct pl_connection *connection);

/* The moment this loan must end. */
uint64_t pl_stream_deadline(struct pl_connection *connection, uint64_t now_ns);

/* What SO_RCVTIMEO should be set to when `left_ns` are left, and `armed_ms` is set: the bucket
 * rule. 0: leave it. */
uint32_t pl_stream_bucket_ms(uint64_t left_ns, uint32_t armed_ms);

void pl_stream_drop_input(struct pl_connection *connection);

#endif
