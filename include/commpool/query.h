/* query.h: queries, requests whose replies come back over connections shared with others.
 *
 * A query needs a pool with a codec. It is not a borrow: the connection is never the caller's, and
 * thousands of queries share it. The pool opens the first connection when it is needed, puts each
 * query on the one that has the least to answer, opens another one when all are full
 * (max_inflight), and takes those back that carry nothing for park_ms. Queries and borrows live on
 * one pool and within its limits: a connection serves one or the other at a time, and who waits for
 * a connection of his own gets one from the queries.
 *
 * Invariants: a reply never reaches another query; each query is answered exactly once; a query
 * that runs out of time, or is canceled, leaves the shared connection open.
 *
 * What runs out of time or is canceled before its first byte left is never sent, unless TLS has it
 * already or the codec keeps a state for writing. What was sent may still be answered: such replies
 * are swallowed, counted (pool_stats.late_replies), and told to on_orphan. A connection with a
 * reply that has not come after 30 seconds more is closed, and its other queries fail or move. Of
 * one where more than half of max_inflight were given up and are due, or more than max_message
 * bytes came for such without a pause, those who have asked are answered; it takes no more.
 *
 * A connection that breaks fails each of its queries once, with what the peer can know; the text of
 * the error says what the peer's system has acknowledged, where that is known. What was
 * not sent moves to another connection, and so does what is POOL_SAFE_TO_REPEAT, never with
 * POOL_ONE_SHOT and three times at most; a connection that ended with the answer to somebody else
 * does not count.
 *
 * Threads, ownership, errors and forks are as pool.h says for all headers. In a child of fork(2)
 * the replies of before may be read and freed; queries that were under way are never answered
 * there, and answering a responder does nothing.
 */
#ifndef COMMPOOL_QUERY_H
#define COMMPOOL_QUERY_H

#include "commpool/codec.h"
#include "commpool/pool.h"

#ifdef __cplusplus
extern "C" {
#endif

struct pool_reply;

/* Gets the reply of an asynchronous query, on the mux thread, exactly once, also on failure
 * (pool_reply_error()). The reply is the receiver's: free it with pool_reply_free(). */
typedef void pool_reply_fn(struct pool_reply *reply, void *user);

/* Sends a request and waits for its reply, stored in *reply.
 *
 * The reply is the caller's until pool_reply_free(), on any thread; *reply is set only on POOL_OK.
 * `request` is read during the call only; it is a body in the sense of the codec, whose comment in
 * codec.h says what that is. A request that has no answer in its protocol is answered by an empty
 * reply at once; several answers to one request are one reply, one behind the other with nothing
 * between; with on_part those before the last come as parts. `call` may be NULL; its flags are
 * POOL_SAFE_TO_REPEAT, POOL_DONT_WAIT, POOL_ONE_SHOT, POOL_ORDERED and POOL_WAIT_FOR_PEER;
 * on_error and tag are not looked at. Any thread may call it; on the mux thread it answers
 * POOL_E_WOULD_BLOCK. Errors: POOL_E_TIMEOUT when time ran out before it was sent,
 * POOL_E_TIMEOUT_IN_TRANSFER when it was sent and not answered; POOL_E_BROKEN and POOL_E_CLOSED
 * when the connection ended first; POOL_E_PROTOCOL when it ended because what came on it made no
 * sense, or when several answers are more than max_message together; POOL_E_CANCELED by its ticket;
 * POOL_E_FULL when too many wait, with POOL_DONT_WAIT when it would have to, and for a request
 * longer than max_message; POOL_E_ARGUMENT without a codec or for a request that cannot be counted;
 * and those of pool_borrow(). on_error is not asked. */
POOL_API enum pool_status pool_query(struct pool *pool, const char *address,
                                     struct pool_bytes request, const struct pool_call *call,
                                     struct pool_reply **reply);

/* Sends a request; on_reply(reply, user) runs later, exactly once, on the mux thread, never on the
 * stack of this call.
 *
 * `request`, `address` and `call` are read during the call only; `user` stays the program's.
 * `ticket` is as for pool_communicate_async(). Any thread
 * may call it, callbacks included; it never waits. What one batch of the mux asks leaves together.
 * Errors of the start, after which on_reply never runs, are those of pool_communicate_async(),
 * POOL_E_ARGUMENT without a codec or for a request that cannot be counted, and POOL_E_FULL for one
 * longer than max_message; where the query must first wait for a connection, the last two come
 * through on_reply, with the other errors of pool_query(). */
POOL_API enum pool_status pool_query_async(struct pool *pool, const char *address,
                                           struct pool_bytes request, pool_reply_fn *on_reply,
                                           void *user, const struct pool_call *call,
                                           struct pool_ticket **ticket);

/* Sends a request and waits for nothing; its answers are counted off and go to on_orphan.
 *
 * POOL_OK says that it was accepted. What becomes of it later nobody is told; its timeout bounds
 * how long it may wait for a connection. `request`, `address` and `call` are read during the call
 * only. Any thread may call it; it never waits. Errors are those of the start of
 * pool_query_async(). */
POOL_API enum pool_status pool_post_request(struct pool *pool, const char *address,
                                            struct pool_bytes request,
                                            const struct pool_call *call);

/* Answers the bytes of a reply, a body in the sense of the codec. They belong to the reply, are
 * valid until pool_reply_free(), and no zero byte ends them. Any thread may call it. It cannot
 * fail; for a failure or NULL they are empty. */
POOL_API struct pool_bytes pool_reply_bytes(const struct pool_reply *reply);

/* Answers why there is no reply, or NULL when it is an answer. The error belongs to the reply. Any
 * thread may call it. It cannot fail; NULL gives NULL. */
POOL_API const struct pool_error *pool_reply_error(const struct pool_reply *reply);

/* Answers whether the peer answered with an error of its own; of several answers to one request the
 * last one tells. Any thread may call it. It cannot fail; NULL gives false. */
POOL_API bool pool_reply_failed(const struct pool_reply *reply);

/* Frees a reply. The pointer and its bytes are dead afterwards. Any thread may call it. It cannot
 * fail; NULL is fine. */
POOL_API void pool_reply_free(struct pool_reply *reply);

/* Answers a request of the peer (pool_options.on_request) with `body`, now or later.
 *
 * It must be called once for each responder, or pool_respond_error() instead; the pointer is dead
 * afterwards. Answers leave as they are given; in a protocol without keys, in the order of the
 * requests: one that is given before its turn is kept until then, and the connection ends when more
 * than write_high and max_message together are kept so, or wait to be sent when another is given.
 * `body` is read during the call only. Any thread may call it, callbacks included; it never waits.
 * It cannot fail: when the connection or the pool is gone the answer is dropped, NULL is ignored,
 * and a body that cannot be encoded, or is longer than max_message, ends the connection, as the peer
 * would wait for ever. */
POOL_API void pool_respond(struct pool_responder *responder, struct pool_bytes body);

/* The same with an error, which reaches the peer as an error where the protocol has them; where it
 * has none, so that its codec refuses it, the connection ends. */
POOL_API void pool_respond_error(struct pool_responder *responder, struct pool_bytes body);

#ifdef __cplusplus
}
#endif
#endif
