/* secure.h: what makes the connections of a tls:// address secure: the pool's settings, the
 * sessions that its peer may continue, and what becomes of connections when the settings change.
 */
#ifndef PL_POOL_SECURE_H
#define PL_POOL_SECURE_H

#include <stdbool.h>
#include <stdint.h>

#include "commpool/status.h"

struct pool;
struct pl_peer;
struct pl_dial;
struct pl_connection;
struct pl_tls;

/* Sees to it that the pool has settings: those of its options, or the defaults, which read the
 * system's store of certificates now. On failure *error is told. Any thread. */
enum pool_status pl_secure_begin(struct pool *pool, struct pool_error *error);
void pl_secure_end(struct pool *pool);

/* The dial secures what it connects, if its address asks for that. False: no memory. Mux thread. */
bool pl_secure_dial(struct pl_peer *peer, struct pl_dial *dial);

/* What secures one of its connections, not begun yet: 0, or a negative errno. Any thread that
 * entered the peer, or has a connection of it. */
int pl_secure_make(struct pl_peer *peer, struct pl_tls **tls);

/* From clear to TLS: nothing was said that could be taken for secured, and the handshake may begin.
 * Else the connection has its failure. Pinned. */
enum pool_status pl_secure_begin_clear(struct pl_connection *connection);

/* starttls=1, and it is in the clear yet. */
bool pl_secure_is_missing(const struct pl_connection *connection);

/* The settings were changed since it was secured: it is not to be lent again. It is secured, and
 * the caller's, or the peer lock is held. */
bool pl_secure_is_outdated(const struct pl_connection *connection);

/* A peer without connections is kept for its sessions for a while. Peer lock held. */
bool pl_secure_keeps(const struct pl_peer *peer);
void pl_secure_note_loss(struct pl_peer *peer); /* the lock is not held */
uint64_t pl_secure_tend(struct pl_peer *peer, uint64_t now_ns);

#endif
