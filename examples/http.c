/* http.c: fetches a page several times over one kept-alive HTTP/1.1 connection.
 *
 *     ./examples/run http 127.0.0.1:80 [path] [count]
 *
 * It shows what keeps a connection warm: `use` reads each response to its last byte, whichever
 * way its length is told, and answers non-zero when the server wants to close. Asking twice does
 * no harm here, so a fetch that hits a connection which the server is just closing is repeated by
 * itself. */
#include <commpool/pool.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "support/arguments.h"
#include "support/http_response.h"

struct fetch {
    const char *host, *path;
    struct http_response response;
    bool is_complete;
};

static int get(struct pool_conn *conn, void *user)
{
    struct fetch *fetch = user;
    char request[1024];
    int size = snprintf(request, sizeof(request), "GET %s HTTP/1.1\r\nHost: %s\r\n\r\n",
                        fetch->path, fetch->host);

    /* `use` may run again on another connection, so it begins by forgetting the last time. */
    fetch->is_complete = false;
    if (size >= (int)sizeof(request) || pool_send(conn, request, (size_t)size) != POOL_OK ||
        http_response_read(conn, &fetch->response))
        return -1;
    fetch->is_complete = true;
    return fetch->response.closes;
}

/* A complete response counts, also when the connection ended with it. */
static bool fetch_once(struct pool *pool, const char *address, struct fetch *fetch)
{
    struct pool_error error = POOL_ERROR_INIT;
    const struct http_response *response = &fetch->response;
    enum pool_status status = pool_communicate(
        pool, address, get, fetch, POOL_CALL(.flags = POOL_SAFE_TO_REPEAT, .error = &error));

    if (status != POOL_OK && !fetch->is_complete) {
        fprintf(stderr, "http: %s\n", error.text);
        return false;
    }
    printf("%d %s, %lu bytes\n", response->status, response->reason, response->received);
    return response->status < 400;
}

int main(int argc, char **argv)
{
    struct fetch fetch = { .path = argc > 2 ? argv[2] : "/" };
    long count = argument_number(argc, argv, 3, 3, 1000000), done = 0;
    struct pool_stats stats = { .size = sizeof(stats) };
    struct pool *pool = NULL;
    char address[256];

    if (!count || !argument_address(argc, argv, "http 127.0.0.1:80 [path] [count]", address) ||
        pool_create(NULL, &pool) != POOL_OK)
        return 2;
    fetch.host = strstr(address, "://") + 3;
    while (done < count && fetch_once(pool, address, &fetch))
        done++;
    pool_stats(pool, &stats);
    printf("%ld of %ld fetches over %" PRIu64 " connection%s\n", done, count, stats.opened,
           stats.opened == 1 ? "" : "s");
    pool_destroy(pool);
    return done == count ? 0 : 1;
}
