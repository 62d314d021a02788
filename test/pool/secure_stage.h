/* secure_stage.h: what the tests of tls:// addresses stand on: an authority of their own, settings
 * that trust it, a peer of it, and verbs for loans that nobody answers.
 */
#ifndef TEST_POOL_SECURE_STAGE_H
#define TEST_POOL_SECURE_STAGE_H

#include "pool/own_pool.h"
#include "support/tls_peer.h"
#include "support/verbs.h"

extern struct credential *authority, *credential; /* of db.test, other.test and 127.0.0.1 */
extern struct pool_tls *trust; /* of the authority alone */
extern struct tls_peer *tls_peer; /* the test starts it; secure_stage_end() stops it */

void secure_stage_begin(void);
void secure_stage_end(void);

/* Starts the peer, with the credential unless the options name another. */
#define START_PEER(...)                                                                            \
    (tls_peer = tls_peer_start(                                                                    \
         &(struct tls_peer_options){ .credential = credential, __VA_ARGS__ }))

/* The peer's address with `rest` behind it: "tls://127.0.0.1:port?...". The text is good until the
 * eighth call after this one. */
const char *secure_at(const char *rest);
const char *secure_address(int port, const char *rest);

/* Makes the pool, which trusts the authority. */
#define SECURE_POOL(...) (pool = make_pool(POOL_OPTIONS(.tls = trust, __VA_ARGS__)))

/* A loan in which the peer is given an order that it does not answer. */
void order(const char *address, const char *text);
/* One request with this text on a loan, not answered. */
bool say(struct pool_conn *conn, const char *text);

/* What the handshake of the next loan was, which must succeed. */
struct pool_tls_info info_of_next(const char *address);
bool is_next_resumed(const char *address);

/* Borrows in vain: the status, and the error's sentence in *error. */
enum pool_status borrow_in_vain(const char *address, struct pool_error *error);

/* Waits until the peer has so many open connections, or the client said so many goodbyes. */
bool wait_peer_open(unsigned count);
bool wait_goodbyes(unsigned count);

/* Waits until the connection that the last loan at the address had is parked. */
bool wait_next_parked(const char *address);

#endif
