/* tls.h: TLS of one connection, over a socket that is somebody else's.
 *
 * Every function makes one step with what the socket has at that moment and never waits; who has to
 * wait is told for what. It knows nothing of pools, deadlines or loans.
 *
 * Invariants: one call at a time is inside an SSL object, whatever threads read and write; the lock
 * is never held while waiting nor while a program's function runs. A connection is `ready` only
 * once its peer's certificate was verified and bears the expected name, resumed or not; nothing is
 * sent or received before. Bytes that were reported as sent are always followed by some that are
 * not, until everything is with the socket: so whoever sends until all is sent has flushed.
 */
#ifndef PL_NET_TLS_H
#define PL_NET_TLS_H

#include <openssl/ssl.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "base/compiler.h"
#include "base/failure.h"
#include "commpool/types.h"
#include "net/tls_record.h"
#include "net/tls_sessions.h"
#include "net/tls_settings.h"

struct pool_address;
struct pl_tls;

/* How a peer must be called, and what is to be spoken with it. */
struct pl_tls_wish {
    struct pool_bytes name; /* sni= or host: a name or an IP address; never empty */
    struct pool_bytes alpn; /* alpn=; size 0: that of the settings */
};

/* The object keeps `settings` and `sessions` (NULL: none to continue, and none are kept); *wish is
 * copied. Answers 0, -ENOMEM, or -EINVAL: the name is no name, or alpn no list. */
int pl_tls_create(struct pl_tls_settings *settings, struct pl_tls_sessions *sessions,
                  const struct pl_tls_wish *wish, struct pl_tls **tls) PL_MUST_USE;
/* The same for a peer that is named by its address. */
int pl_tls_create_for(struct pl_tls_settings *settings, struct pl_tls_sessions *sessions,
                      const struct pool_address *address, struct pl_tls **tls) PL_MUST_USE;
void pl_tls_free(struct pl_tls *tls); /* sends nothing; NULL: nothing */

/* The next three answer a negative errno when they fail. -EAGAIN: call again when the socket is
 * ready for *wants, POLLIN or POLLOUT, whichever way the bytes were meant to go. The others are
 * explained by pl_tls_failure(). */
int pl_tls_handshake(struct pl_tls *tls, int fd, short *wants) PL_MUST_USE; /* 0: ready */
/* 0: the peer said that nothing more will come. `size` is not 0. */
ssize_t pl_tls_recv(struct pl_tls *tls, int fd, struct iovec into, short *wants) PL_MUST_USE;
/* How many bytes of the pieces are done with, one record's at most, however small the pieces are;
 * the next call goes on behind them. -EINVAL: it does not. 0: the pieces are empty. */
ssize_t pl_tls_send(struct pl_tls *tls, int fd, const struct iovec *pieces, int count,
                    short *wants) PL_MUST_USE;

/* There may be more to receive without the socket saying so. After -EAGAIN for POLLIN there is
 * not. */
bool pl_tls_pending(struct pl_tls *tls);
/* A record is with the socket in part only. */
bool pl_tls_is_unsent(struct pl_tls *tls);

enum pl_tls_look {
    PL_TLS_QUIET, /* healthy; what came was TLS's own, and is dealt with */
    PL_TLS_HALF, /* a part of a record came: it may be either */
    PL_TLS_DATA, /* bytes for whoever has the connection */
    PL_TLS_ENDED /* close_notify, an end, an error */
};
/* Looks at a connection that nobody uses; takes no data out. */
enum pl_tls_look pl_tls_peek(struct pl_tls *tls, int fd);

/* Says goodbye once, if that is possible now. */
void pl_tls_shutdown(struct pl_tls *tls, int fd);

/* What became of the call that answered -`error`, in that phase. */
struct pl_failure pl_tls_failure(struct pl_tls *tls, int error, enum pool_phase phase);

/* What a handshake agreed on; the texts are valid as long as *tls. */
struct pl_tls_facts {
    const char *version, *cipher;
    const char *alpn; /* NULL: none */
    const char *peer_name; /* that was verified; NULL: none was */
    bool is_resumed;
};
/* False: it is not ready. */
bool pl_tls_tell(struct pl_tls *tls, struct pl_tls_facts *facts);

/* That of the settings it was made with. */
uint64_t pl_tls_generation(const struct pl_tls *tls);

/* Whatever sessions the peer offers from now on are nobody's. */
void pl_tls_keep_no_sessions(struct pl_tls *tls);

/* Callbacks of every SSL_CTX that tls_settings.c makes. */
int pl_tls_on_verify(int is_good, X509_STORE_CTX *verification);
int pl_tls_on_session(SSL *ssl, SSL_SESSION *session);
void pl_tls_on_secret(const SSL *ssl, const char *line);

#endif
