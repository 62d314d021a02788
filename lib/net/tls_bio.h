/* tls_bio.h: what OpenSSL reads from and writes to: one socket, through the door, without ever
 * waiting and without SIGPIPE.
 *
 * The descriptor is given anew for each call, since the socket belongs to the connection and not to
 * its TLS. */
#ifndef PL_NET_TLS_BIO_H
#define PL_NET_TLS_BIO_H

#include <openssl/bio.h>
#include <stdbool.h>

struct pl_tls_wire {
    int fd;
    int error; /* errno of the call that failed last, since this was 0 */
    short wants;     /* POLLIN, POLLOUT: what the socket could not do since this was 0 */
    bool has_ended; /* the socket has nothing more to read */
    unsigned reads; /* since this was 0: so many at most, that no peer keeps us in one call */
    bool is_cut_short; /* the socket was not asked any more */
};

BIO_METHOD *pl_tls_bio_method(void); /* NULL: no memory; the caller frees it */
BIO *pl_tls_bio(const BIO_METHOD *method, struct pl_tls_wire *wire); /* NULL: no memory */

#endif
