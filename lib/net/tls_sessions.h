/* tls_sessions.h: sessions that may be continued with one peer, that is, under one key.
 *
 * A session stands for a verification that was done: OpenSSL continues it with whomever it is told
 * to, and verifies nothing then. So a store belongs to one key, takes only what a verified
 * connection brought, and gives a session only to connections of the settings it was made under.
 *
 * A TLS 1.3 session is given once (its ticket would tell an eavesdropper that two connections are
 * of one client), the newest first; one of TLS 1.2 again and again. Any thread may use a store. It
 * is counted: connections that are being closed may outlive their peer.
 */
#ifndef PL_NET_TLS_SESSIONS_H
#define PL_NET_TLS_SESSIONS_H

#include <openssl/ssl.h>
#include <stdint.h>

#define PL_TLS_SESSIONS 4

struct pl_tls_sessions;

struct pl_tls_sessions *pl_tls_sessions_create(void); /* NULL: no memory */
struct pl_tls_sessions *pl_tls_sessions_keep(struct pl_tls_sessions *sessions);
void pl_tls_sessions_release(struct pl_tls_sessions *sessions); /* NULL: nothing */

/* The session becomes the store's. */
void pl_tls_sessions_put(struct pl_tls_sessions *sessions, SSL_SESSION *session,
                         uint64_t generation);

/* A session to continue, which the caller frees, or NULL. Those of other settings, and those that
 * are too old, are dropped. */
SSL_SESSION *pl_tls_sessions_take(struct pl_tls_sessions *sessions, uint64_t generation);

void pl_tls_sessions_clear(struct pl_tls_sessions *sessions);
unsigned pl_tls_sessions_count(struct pl_tls_sessions *sessions);

#endif
