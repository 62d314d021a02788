/* tls_peer.h: the other end of TLS tests: an OpenSSL server on loopback with threads of its own.
 *
 * Each connection is echoed, but for requests that are one of the orders below; by them the test
 * has the peer do what peers may do at any time. It never goes through the door. SIGPIPE is blocked
 * in its threads only. */
#ifndef TEST_SUPPORT_TLS_PEER_H
#define TEST_SUPPORT_TLS_PEER_H

#include <stdbool.h>
#include <stddef.h>

#include "support/authority.h"

#define TLS_PEER_MOST 64 /* connections at once */

/* Requests of exactly these bytes. Those marked * are not answered. */
#define ORDER_KEY_UPDATE "<key update>" /* * sends a KeyUpdate that asks for one */
#define ORDER_TICKET "<ticket>" /* * TLS 1.3 */
#define ORDER_NOTHING "<nothing>" /* * */
#define ORDER_GOODBYE "<goodbye>" /* * close_notify, then the end */
#define ORDER_CUT "<cut>" /* * the end without close_notify */
#define ORDER_RESET "<reset>" /* * RST */
#define ORDER_RENEGOTIATE "<again>" /* TLS 1.2: a HelloRequest, then "asked" */
#define ORDER_WHO "<who>" /* * TLS 1.3: asks for a certificate after the handshake */
#define ORDER_HALF "<half>" /* * the first bytes of a record */
#define ORDER_FLOOD "<flood>" /* 200 KiB of the alphabet, with KeyUpdates between */
#define FLOOD_SIZE (200u << 10)
#define ORDER_PUSH "<push>" /* "push\n", in a record of its own */
#define ORDER_END "<end>" /* * close_notify; it goes on reading and answers nothing more */
/* * Reads no more until it is told something else. Only told: as a request it ends the connection,
 * because what is told later might overtake it, and then nothing would end the deafness. */
#define ORDER_DEAF "<deaf>"

struct tls_peer_options {
    const struct credential *credential;
    const char *chain; /* further certificates, PEM */
    const char *client_ca; /* PEM: clients must have a certificate of it */
    int version; /* the only one; 0: TLS 1.2 and 1.3 */
    int tickets; /* 0, the default: 2; -1: none */
    const char *alpn; /* the one protocol it speaks; NULL: none is chosen */
    const char *liar; /* ALPN that it answers whatever was offered */
    const char *clear_answer; /* to "STARTTLS\n", in the clear, and then TLS; NULL: TLS at once */
    bool ends_in_handshake; /* closes when the first bytes came */
    int security_level; /* of its own */
    const char *ciphers;
    long ticket_lifetime_s; /* 0: OpenSSL's */
    int record_size; /* each echo leaves in records of so many bytes, at once; 0: in one */
};

struct tls_peer;

struct tls_peer *tls_peer_start(const struct tls_peer_options *options);
#define TLS_PEER(...) tls_peer_start(&(struct tls_peer_options){ __VA_ARGS__ })
void tls_peer_stop(struct tls_peer *peer);

/* Has every open connection carry out an order, now and unasked, and waits until it is done.
 * Answers how many there were. */
unsigned tls_peer_tell(struct tls_peer *peer, const char *order);

int tls_peer_port(const struct tls_peer *peer);
int tls_peer_dial(const struct tls_peer *peer); /* a connected socket, blocking */
unsigned tls_peer_handshakes(struct tls_peer *peer); /* that succeeded there */
unsigned tls_peer_resumed(struct tls_peer *peer);
unsigned tls_peer_accepted(struct tls_peer *peer);
unsigned tls_peer_goodbyes(struct tls_peer *peer); /* connections that the client ended with one */
unsigned tls_peer_open(struct tls_peer *peer); /* now */
/* The name that the last client asked for (SNI), empty: none. */
const char *tls_peer_asked_for(struct tls_peer *peer);
/* The subject of the last client's certificate, empty: none. */
const char *tls_peer_client(struct tls_peer *peer);

#endif
