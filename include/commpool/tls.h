/* tls.h: TLS settings: whom to trust, who we are, and what may be spoken.
 *
 * A struct pool_tls is made from options, may serve several pools, and can be given new contents
 * while they use it: new connections are secured by the new ones, and old ones are not lent again.
 *
 * Invariants: what is not said is safe: peers are verified, TLS 1.2 is the least, there is no
 * renegotiation, no compression and no early data. OpenSSL's configuration file of the system may
 * demand more than that, but cannot take any of it away: it changes neither whom we trust nor who
 * we are. Files are read when settings are made or reloaded, never later.
 */
#ifndef COMMPOOL_TLS_H
#define COMMPOOL_TLS_H

#include <stdbool.h>
#include <stddef.h>

#include "commpool/status.h"
#include "commpool/types.h"

#ifdef __cplusplus
extern "C" {
#endif

struct pool_tls;

/* TLS settings. All zeros are safe ones: verification on, the name checked, the system's CA store.
 * The texts are read when the settings are used and may be freed afterwards; files are read into
 * memory then, so no handshake opens one. */
struct pool_tls_options {
    /* Bytes of the struct as the program was compiled; POOL_TLS_OPTIONS and
     * pool_tls_options_init() set it. */
    size_t size;

    /* Whom to trust: certificates in one PEM file. Default, with all three NULL: the system's
     * store, where OpenSSL looks for it (SSL_CERT_FILE and SSL_CERT_DIR of the environment
     * included). What is given in more than one of the three adds up. */
    const char *ca_file;

    /* The same, from every file of a directory. Files without certificates do not count. */
    const char *ca_dir;

    /* The same, as PEM text. */
    const char *ca_pem;

    /* Our own certificate, first, with its chain, a PEM file, for peers that ask for one. Default:
     * none. */
    const char *cert_file;

    /* The same, as PEM text. Only one of the two may be given. */
    const char *cert_pem;

    /* The key of that certificate, a PEM file, not encrypted. Default: it stands with the
     * certificate. */
    const char *key_file;

    /* The same, as PEM text. Only one of the two may be given. */
    const char *key_pem;

    /* Ciphers allowed, in OpenSSL's notation; names that begin with TLS_ are those of TLS 1.3. A
     * version of which none is named keeps its own. Default: OpenSSL's own. */
    const char *ciphers;

    /* Protocols offered, for example "h2,http/1.1" (RFC 7301); a blank would be part of a name. An
     * address's alpn= takes its place. Default: none. */
    const char *alpn;

    /* The name, or IP address, that the peer's certificate must have; a name is told to the peer,
     * too (SNI). Default: the address's sni= or host. */
    const char *name;

    /* The lowest version allowed, as OpenSSL numbers them: 0x0303 is TLS 1.2, 0x0304 is TLS 1.3;
     * there is no lower one. Default, 0: TLS 1.2. */
    int min_version;

    /* true: no verification at all. For tests only. */
    bool insecure;

    /* Gets the secrets of each session, a line each, for tools that decrypt recordings. It runs on
     * the thread that speaks with the peer at that moment, on several at once, and must not use the
     * connection. Default: NULL. */
    void (*key_log)(const char *line, void *user);

    /* Given to key_log; belongs to the program. */
    void *user;
};

/* TLS settings in place, for C: POOL_TLS_OPTIONS(.ca_file = "ca.pem"). The struct lives until the
 * block around the call ends. C++ and other languages call pool_tls_options_init() and set
 * fields. */
#ifndef __cplusplus
#define POOL_TLS_OPTIONS(...) \
    (&(struct pool_tls_options){ .size = sizeof(struct pool_tls_options), __VA_ARGS__ })
#endif

/* Fills *options with the defaults: its size, and zeros. For languages that cannot use
 * POOL_TLS_OPTIONS.
 *
 * The struct stays the caller's. Any thread may call it. It cannot fail; NULL is fine. */
POOL_API void pool_tls_options_init(struct pool_tls_options *options);

/* What a handshake agreed on. The texts belong to the connection and are valid while the handle
 * is. */
struct pool_tls_info {
    /* Set it to sizeof(struct pool_tls_info) before the call. */
    size_t size;

    /* The connection is secured. */
    bool secure;

    /* The session continued an earlier one. */
    bool resumed;

    /* For example "TLSv1.3". */
    const char *version;

    /* The cipher's name. */
    const char *cipher;

    /* The protocol agreed on (RFC 7301), or NULL. */
    const char *alpn;

    /* The name that was verified, or NULL when none was. */
    const char *peer_name;
};

/* Makes TLS settings from options and stores them in *tls. Files are read now.
 *
 * They are the caller's and end with pool_tls_free(); one struct pool_tls may serve several pools,
 * of which each keeps a share. `options` is copied; NULL means all defaults. `error` may be NULL.
 * Any thread may call it. Errors: POOL_E_TLS when certificates, keys or ciphers are unusable or a
 * file is not there, with the file and the reason in *error; POOL_E_ACCESS, POOL_E_RESOURCE,
 * POOL_E_SYSTEM when one cannot be read; POOL_E_MEMORY; POOL_E_ARGUMENT for options that are
 * impossible, alone or together; *error says which. */
POOL_API enum pool_status pool_tls_create(const struct pool_tls_options *options,
                                          struct pool_tls **tls, struct pool_error *error);

/* Replaces what `tls` holds by new options: new connections use them, old ones drain.
 *
 * Of those that the old options secured none is lent again, in any pool that uses `tls`. Who has
 * one goes on, and it is closed when it is given back; idle ones, those with an actor included, are
 * closed within ten seconds, each at a moment of its own. The call waits for none of this. When it
 * fails, nothing has changed. Any thread may call it, while pools use `tls`. Errors are those of
 * pool_tls_create(). */
POOL_API enum pool_status pool_tls_reload(struct pool_tls *tls,
                                          const struct pool_tls_options *options,
                                          struct pool_error *error);

/* Gives TLS settings back. Pools that were made with them go on using them until they end.
 *
 * The pointer is dead afterwards. Any thread may call it. It cannot fail; NULL is fine. */
POOL_API void pool_tls_free(struct pool_tls *tls);

/* Fills *info with what the connection's handshake agreed on; `secure` is false for a plain
 * connection.
 *
 * The struct is the caller's; its `size` must be set before. Any thread may call it. Errors:
 * POOL_E_ARGUMENT for NULL, an impossible size or a stale handle. */
POOL_API enum pool_status pool_conn_tls(const struct pool_conn *conn, struct pool_tls_info *info);

/* Secures a connection of a starttls=1 address after the hook or `prepare` has talked in the clear.
 *
 * In `prepare` it waits for the handshake, within the call's deadline; on the mux thread it starts
 * it and does not wait, and pool_write() may follow at once: its bytes leave when the connection is
 * secured. Whoever sits in between can add bytes to what the peer says in the clear. What a watcher
 * was given it must look at itself: bytes after the peer's last clear word are POOL_E_TLS to
 * pool_conn_ready(). Errors: POOL_E_TLS when handshake or verification failed, or when bytes had
 * arrived before it; POOL_E_ARGUMENT for a stale handle, an address without starttls=1, or a
 * connection that is secured already; POOL_E_TIMEOUT; POOL_E_BROKEN; POOL_E_MEMORY. */
POOL_API enum pool_status pool_conn_start_tls(struct pool_conn *conn);

#ifdef __cplusplus
}
#endif

#endif
