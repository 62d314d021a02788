/* tls_peer.h: whether a certificate is that of the peer that was meant. It neither verifies chains
 * (OpenSSL does, in the handshake) nor knows connections. */
#ifndef PL_NET_TLS_PEER_H
#define PL_NET_TLS_PEER_H

#include <openssl/ssl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PL_TLS_NAME_MOST 255

/* Whether it can be asked for at all: not empty, without a zero byte, not ".example.com", which
 * OpenSSL takes for all names below. */
bool pl_tls_is_name(const char *name, size_t size);
bool pl_tls_is_ip(const char *name);

/* From now on the handshake fails unless the certificate bears `name`. False: no memory. */
bool pl_tls_expect(SSL *ssl, const char *name);

/* After the handshake, resumed or not: X509_V_OK, or what is wrong (X509_V_ERR_*). */
int pl_tls_judge(const SSL *ssl, const char *name);

/* Notes whose certificate it is, for a sentence, and, where the verdict is that it is another's,
 * the name that settings demand (NULL: none; the sentence has the address's). 0: it is not
 * known. */
uint16_t pl_tls_subject_of(const SSL *ssl, int verdict, const char *demanded);
/* The same while the chain is looked at: of the certificate at fault. */
uint16_t pl_tls_subject_in(const X509_STORE_CTX *verification, const char *demanded);

#endif
