/* tls_settings.h: struct pool_tls, and what it holds at one time.
 *
 * A struct pl_tls_settings is what one pool_tls_create() or pool_tls_reload() made: immutable,
 * counted, with a number that no other settings of the process ever have. A connection keeps those
 * it was made with to its end; a session that they gave is good for no others.
 */
#ifndef PL_NET_TLS_SETTINGS_H
#define PL_NET_TLS_SETTINGS_H

#include <openssl/bio.h>
#include <openssl/ssl.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/compiler.h"
#include "commpool/tls.h"

#define PL_TLS_ALPN_MOST 255

/* Protocols as they are offered: each with its length before it. */
struct pl_tls_alpn {
    unsigned size; /* 0: none */
    unsigned char wire[PL_TLS_ALPN_MOST];
};

struct pl_tls_settings {
    atomic_size_t references;
    uint64_t generation;
    SSL_CTX *context;
    BIO_METHOD *bio_method;
    char *name; /* instead of the address's; NULL: that one */
    struct pl_tls_alpn alpn;
    bool is_insecure;
    void (*key_log)(const char *line, void *user);
    void *user;
};

/* One more owner; each of them ends with pool_tls_free(). */
struct pool_tls *pl_tls_keep(struct pool_tls *tls);

/* What pool_tls_reload() does with the settings themselves. */
enum pool_status pl_tls_reload(struct pool_tls *tls, const struct pool_tls_options *options,
                               struct pool_error *error);

/* What `tls` holds now; the caller releases it. */
struct pl_tls_settings *pl_tls_settings_take(struct pool_tls *tls);
/* The number of those, without taking them. */
uint64_t pl_tls_generation_now(const struct pool_tls *tls);
struct pl_tls_settings *pl_tls_settings_keep(struct pl_tls_settings *settings);
void pl_tls_settings_release(struct pl_tls_settings *settings); /* NULL: nothing */

/* From "h2,http/1.1". False: it is no list of protocols. */
bool pl_tls_alpn_parse(const char *text, size_t size, struct pl_tls_alpn *alpn);

/* Around a fork, as pl_connection_hold() and its companion. */
void pl_tls_settings_hold(void);
void pl_tls_settings_let_go(void);

#endif
