/* tls_stage.h: what the tests of TLS stand on: an authority, a peer, and a door that moves little,
 * often nothing, and may end. */
#ifndef TEST_NET_TLS_STAGE_H
#define TEST_NET_TLS_STAGE_H

#include "net/tls_client.h"

struct stage_door {
    size_t most; /* bytes that a call moves; 0: all */
    unsigned refuse; /* of 100 calls that many answer EAGAIN */
    size_t end_after; /* bytes read, then the end; SIZE_MAX: never */
    size_t read, arrived; /* bytes that may be read, then EAGAIN; SIZE_MAX: any */
    size_t room; /* bytes that may be sent; SIZE_MAX: any */
    unsigned calls, state, files;
};

extern struct stage_door door;
extern struct credential *authority, *credential; /* of db.test */
extern struct pl_tls_settings *settings;
extern struct tls_peer *peer; /* the test starts it; tls_stage_end() stops it */

void tls_stage_begin(void);
void tls_stage_end(void);

/* Starts `peer` and opens a connection to it. */
struct client open_to(const struct tls_peer_options *options);
#define OPEN(...) open_to(&(struct tls_peer_options){ .credential = credential, __VA_ARGS__ })

bool is_readable(const struct client *client); /* it waits until it is */
enum pl_tls_look look_until_it_is_not(struct client *client, enum pl_tls_look now);

#endif
