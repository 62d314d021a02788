/* key.h: what makes two connections of a pool different, so that only equal ones share a peer.
 *
 * The two tables class every field of struct pool_options and struct pool_call: KEY, a connection
 * made with another value is another kind of connection; NOT_KEY, it is not. key.c compares the
 * tables with the public structs: a field without a row does not compile, wherever it was added.
 *
 * A key is the address's own canonical bytes (net/address.h) and the values of all KEY fields. Two
 * keys are the same if and only if all of these are the same bytes. The hash only says where to
 * look.
 */
#ifndef PL_POOL_KEY_H
#define PL_POOL_KEY_H

#include <stdbool.h>
#include <stdint.h>

#include "commpool/options.h"

struct pool_address;

#define PL_OPTION_FIELDS(KEY, NOT_KEY)                                                             \
    NOT_KEY(size) /* of the struct, not of the connection */                                       \
    NOT_KEY(mux) /* who watches it; the peer cannot tell */                                        \
    KEY(codec) /* what its bytes mean, and what was read ahead of them */                          \
    KEY(tls) /* whom it trusts, and who it says that it is */                                      \
    NOT_KEY(max_connections) /* this and the next six: how many, not which kind */                 \
    NOT_KEY(max_per_address)                                                                       \
    NOT_KEY(max_waiters)                                                                           \
    NOT_KEY(max_connecting)                                                                        \
    NOT_KEY(max_inflight)                                                                          \
    NOT_KEY(min_idle)                                                                              \
    NOT_KEY(max_idle)                                                                              \
    NOT_KEY(max_uses) /* this and the next four: how long it is kept */                            \
    NOT_KEY(idle_ms)                                                                               \
    NOT_KEY(max_age_ms)                                                                            \
    NOT_KEY(park_ms)                                                                               \
    NOT_KEY(leak_ms)                                                                               \
    NOT_KEY(timeout_ms) /* this and the next five: how long callers are patient */                 \
    NOT_KEY(connect_ms)                                                                            \
    NOT_KEY(tls_ms)                                                                                \
    NOT_KEY(read_ms)                                                                               \
    NOT_KEY(write_ms)                                                                              \
    NOT_KEY(barge_ms)                                                                              \
    NOT_KEY(write_high) /* this and the next three: bounds of our memory, unseen on the wire */    \
    NOT_KEY(write_low)                                                                             \
    NOT_KEY(max_line)                                                                              \
    NOT_KEY(max_message)                                                                           \
    NOT_KEY(backoff_first_ms) /* this and the next three: when to try again */                     \
    NOT_KEY(backoff_max_ms)                                                                        \
    NOT_KEY(suspend_after)                                                                         \
    NOT_KEY(suspend_ms)                                                                            \
    NOT_KEY(check) /* how closely it is looked at, whatever it is */                               \
    NOT_KEY(order) /* which of equal ones comes first */                                           \
    NOT_KEY(start_paused)                                                                          \
    KEY(on_socket) /* may set anything on the socket */                                            \
    KEY(on_new_connection) /* may log in, and attaches the actor */                                \
    KEY(prepare) /* may log in, or choose a database */                                            \
    NOT_KEY(on_error) /* this and the next five: who is asked or told */                           \
    NOT_KEY(on_none_removable)                                                                     \
    NOT_KEY(on_event)                                                                              \
    NOT_KEY(on_log)                                                                                \
    NOT_KEY(on_request)                                                                            \
    NOT_KEY(on_orphan)                                                                             \
    KEY(user) /* as whom the hooks above log in */                                                \
    KEY(on_resolved) /* where a name may lead */

#define PL_CALL_FIELDS(KEY, NOT_KEY)                                                               \
    NOT_KEY(size)                                                                                  \
    NOT_KEY(timeout_ms) /* how long this caller is patient; as the next and deadline_ns */         \
    NOT_KEY(wait_ms)                                                                               \
    NOT_KEY(flags) /* what this loan may do; none changes the connection */                        \
    NOT_KEY(deadline_ns)                                                                           \
    NOT_KEY(ticket)                                                                                \
    NOT_KEY(on_part) /* this, error, on_error and tag: who is told, and where */                   \
    NOT_KEY(target) /* stands for the address, whose key it has */                                 \
    NOT_KEY(on_error)                                                                              \
    NOT_KEY(error)                                                                                 \
    NOT_KEY(tag)                                                                                   \
    NOT_KEY(user) /* for this call's hooks, none of which sets a connection up */

#define PL_KEY_NOTHING(name)
#define PL_OPTION_MEMBER(name) __typeof__(((struct pool_options *)0)->name) name;

struct pl_key_options {
    PL_OPTION_FIELDS(PL_OPTION_MEMBER, PL_KEY_NOTHING)
};

struct pl_key {
    const struct pool_address *address; /* must live as long as this */
    struct pl_key_options options;
};

/* The key of connections to `address` in a pool with `options`. No option of a single call is KEY
 * in this release. */
struct pl_key pl_key_make(const struct pool_address *address, const struct pool_options *options);

bool pl_key_is_same(const struct pl_key *a, const struct pl_key *b);
uint64_t pl_key_hash(const struct pl_key *key);

#endif
