/* secure_peer.h: the other end of the figures of TLS: an echo server over TLS 1.3 in a process of
 * its own, with a certificate of ECDSA P-256; and bare connections to it, by OpenSSL alone.
 */
#ifndef TEST_BENCH_SECURE_PEER_H
#define TEST_BENCH_SECURE_PEER_H

#include <openssl/ssl.h>
#include <sys/types.h>

#include "commpool/tls.h"

struct secure_echo {
    pid_t pid;
    unsigned short port;
    char address[48]; /* for pool_borrow() */
    struct pool_tls *trust; /* of its authority alone */
    SSL_CTX *bare; /* the same for bare connections, with SSL_MODE_RELEASE_BUFFERS */
};

/* Starts it on one core; any core if `core` is negative. */
void secure_echo_start(struct secure_echo *echo, int core);
void secure_echo_stop(struct secure_echo *echo);

/* A bare blocking connection, with TCP_NODELAY like the pool's. SSL_get_fd() is its socket. */
SSL *secure_echo_connect(const struct secure_echo *echo);
void secure_echo_close(SSL *ssl);

#endif
