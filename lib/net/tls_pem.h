/* tls_pem.h: certificates and keys, from files or from memory into OpenSSL's objects.
 *
 * Everything comes through the door and stays in memory: no store of ours opens a file later, and
 * nothing asks at a terminal for a passphrase. What went wrong is told in a struct pl_tls_trouble,
 * for whoever made the settings.
 */
#ifndef PL_NET_TLS_PEM_H
#define PL_NET_TLS_PEM_H

#include <openssl/ssl.h>
#include <stdbool.h>

#include "base/compiler.h"
#include "commpool/tls.h"

struct pl_tls_trouble {
    enum pool_status status;
    int cause; /* errno, or 0 */
    char text[192];
};

/* Answers false, always: a function that fails may end with it. */
__attribute__((format(printf, 3, 4))) bool
pl_tls_trouble(struct pl_tls_trouble *trouble, enum pool_status status, const char *format, ...);
/* The same, with OpenSSL's reason after `what`. */
bool pl_tls_trouble_openssl(struct pl_tls_trouble *trouble, const char *what);

/* Whom to trust, as the options say. False: *trouble says why. */
bool pl_tls_load_trust(X509_STORE *store, const struct pool_tls_options *options,
                       struct pl_tls_trouble *trouble) PL_MUST_USE;

/* Our own certificate, its chain and its key. */
bool pl_tls_load_identity(SSL_CTX *context, const struct pool_tls_options *options,
                          struct pl_tls_trouble *trouble) PL_MUST_USE;

#endif
