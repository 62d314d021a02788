/* https.c: fetches a page twice over one TLS connection and shows what the handshake agreed on.
 *
 *     ./examples/run https 127.0.0.1:8443 [--ca FILE]
 *
 * Nothing but the scheme of the address asks for TLS: the peer is verified, and its certificate
 * must bear the host of the address. FILE has the authorities to trust instead of the system's. A
 * peer that cannot prove who it is gets no byte of the request, and the error says why not. */
#include <commpool/pool.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "support/http_response.h"

enum { FETCHES = 2 };

struct fetch {
    const char *host;
    struct http_response response;
    bool is_complete, has_ca;
};

/* Its texts are the connection's, so they are shown while it is lent. */
static void show_tls(struct pool_conn *conn)
{
    struct pool_tls_info info = { .size = sizeof(info) };

    if (pool_conn_tls(conn, &info) != POOL_OK || !info.secure)
        return;
    printf("  connection %" PRIu64 ": %s, %s, protocol %s\n", pool_conn_id(conn), info.version,
           info.cipher, info.alpn ? info.alpn : "not agreed on");
    printf("  peer: %s, session: %s\n", info.peer_name ? info.peer_name : "not verified",
           info.resumed ? "resumed" : "new");
}

static int get(struct pool_conn *conn, void *user)
{
    struct fetch *fetch = user;
    const struct http_response *response = &fetch->response;
    char request[1024];
    int size =
        snprintf(request, sizeof(request), "GET / HTTP/1.1\r\nHost: %s\r\n\r\n", fetch->host);

    fetch->is_complete = false;
    if (size >= (int)sizeof(request) || pool_send(conn, request, (size_t)size) != POOL_OK ||
        http_response_read(conn, &fetch->response))
        return -1;
    fetch->is_complete = true;
    printf("HTTP/1.1 %d %s, %lu bytes\n", response->status, response->reason, response->received);
    show_tls(conn);
    return response->closes;
}

/* Only a failure of the handshake itself says that the request stayed here: with TLS 1.3 a peer may
 * refuse us later, in use. */
static void say_why(const struct pool_error *error, bool has_ca)
{
    fprintf(stderr, "https: %s\n", error->text);
    if (error->status != POOL_E_TLS || error->phase != POOL_PHASE_TLS)
        return;
    fprintf(stderr, "Nothing was sent to this peer.%s\n",
            has_ca ? ""
                   : " If its authority is one of your own, name the file of its certificate: "
                     "--ca FILE");
}

static bool fetch_once(struct pool *pool, const char *address, struct fetch *fetch)
{
    struct pool_error error = POOL_ERROR_INIT;
    enum pool_status status = pool_communicate(
        pool, address, get, fetch, POOL_CALL(.flags = POOL_SAFE_TO_REPEAT, .error = &error));

    if (status == POOL_OK || fetch->is_complete)
        return fetch->response.status < 400;
    say_why(&error, fetch->has_ca);
    return false;
}

static int fetch_all(const char *address, struct pool_tls *tls, bool has_ca)
{
    struct pool_stats stats = { .size = sizeof(stats) };
    struct fetch fetch = { .host = strstr(address, "://") + 3, .has_ca = has_ca };
    struct pool *pool = NULL;
    int done = 0;

    if (pool_create(POOL_OPTIONS(.tls = tls), &pool) != POOL_OK)
        return 2;
    while (done < FETCHES && fetch_once(pool, address, &fetch))
        done++;
    pool_stats(pool, &stats);
    printf("%d of %d fetches over %" PRIu64 " connection%s\n", done, FETCHES, stats.opened,
           stats.opened == 1 ? "" : "s");
    pool_destroy(pool);
    return done == FETCHES ? 0 : 1;
}

int main(int argc, char **argv)
{
    struct pool_error error = POOL_ERROR_INIT;
    struct pool_tls *tls = NULL;
    const char *ca = NULL, *peer = NULL;
    char address[256];
    int status;

    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--ca") && i + 1 < argc)
            ca = argv[++i];
        else
            peer = peer || argv[i][0] == '-' ? "" : argv[i];
    }
    if (!peer || !*peer ||
        snprintf(address, sizeof(address), "%s%s", strncmp(peer, "tls://", 6) ? "tls://" : "",
                 peer) >= (int)sizeof(address)) {
        fprintf(stderr, "usage: ./examples/run https 127.0.0.1:8443 [--ca FILE]\n");
        return 2;
    }
    if (pool_tls_create(POOL_TLS_OPTIONS(.ca_file = ca, .alpn = "http/1.1"), &tls, &error)) {
        fprintf(stderr, "https: %s\n", error.text);
        return 2;
    }
    status = fetch_all(address, tls, ca != NULL);
    pool_tls_free(tls);
    return status;
}
