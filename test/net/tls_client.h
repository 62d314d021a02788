/* tls_client.h: verbs of the TLS tests: a connection's TLS over a bare socket, driven by poll until
 * something came of it. */
#ifndef TEST_NET_TLS_CLIENT_H
#define TEST_NET_TLS_CLIENT_H

#include "net/tls.h"
#include "support/tls_peer.h"

#define SOON 10000 /* ms */

struct client {
    int fd;
    struct pl_tls *tls;
    int error; /* of the call that failed last */
};

/* What options make, as a connection gets it; release it. */
struct pl_tls_settings *settings_of(const struct pool_tls_options *options);
#define SETTINGS(...) settings_of(POOL_TLS_OPTIONS(__VA_ARGS__))

/* Dials; the handshake has not begun. */
struct client client_dial(const struct tls_peer *peer, struct pl_tls_settings *settings,
                          struct pl_tls_sessions *sessions, const char *name);
/* 0, or the errno that the handshake ended with; -ETIME after SOON. */
int client_shake(struct client *client);
/* Both of them, and it must succeed. */
struct client client_open(const struct tls_peer *peer, struct pl_tls_settings *settings,
                          struct pl_tls_sessions *sessions, const char *name);
void client_close(struct client *client);

bool client_say(struct client *client, const char *bytes, size_t size);
/* How many bytes came before the end or an error (then in client->error), `size` at most. */
size_t client_hear(struct client *client, char *bytes, size_t size);
/* Says `text` and expects it back. */
bool client_echo(struct client *client, const char *text);
bool client_order(struct client *client, const char *order);

struct pl_failure client_failure(struct client *client, enum pool_phase phase);
/* The sentence of that failure; valid until the next one. */
const char *client_sentence(struct client *client, enum pool_phase phase);

#endif
