/* proxy.c: see proxy.h. */
#include "support/proxy.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "support/arguments.h"

enum { ROUNDS = 2 };

/* "host:port" or "[host]:port"; the host ends at the last colon. */
static int split(const char *text, struct proxy_destination *destination)
{
    const char *colon = strrchr(text, ':');
    size_t size = colon ? (size_t)(colon - text) : 0;
    char *end;
    unsigned long port;

    if (!size)
        return -1;
    port = strtoul(colon + 1, &end, 10);
    if (text[0] == '[' && text[size - 1] == ']') {
        text++;
        size -= 2;
    }
    if (!size || size >= sizeof(destination->host) || !port || port > 65535 || *end)
        return -1;
    memcpy(destination->host, text, size);
    destination->host[size] = '\0';
    destination->port = (uint16_t)port;
    return 0;
}

/* What could end a value, or is no destination's, is not accepted in one: so the canonical text has
 * it as it was given, and nothing needs decoding. */
static bool is_plain(const char *text)
{
    return *text && !text[strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                       "0123456789.-_:[]")];
}

int proxy_destination(struct pool_conn *conn, struct proxy_destination *destination)
{
    const char *address = pool_conn_address(conn);
    const char *tenant = address ? strstr(address, "tenant=") : NULL;
    char text[300];

    if (!tenant)
        return -1;
    snprintf(text, sizeof(text), "%.*s", (int)strcspn(tenant + 7, "&"), tenant + 7);
    return is_plain(text) ? split(text, destination) : -1;
}

static int ask(struct pool_conn *conn, void *user)
{
    const char *destination = user;
    struct pool_bytes line;

    if (pool_send(conn, "PING\r\n", 6) || pool_recv_until(conn, "\n", 1, &line))
        return -1;
    return printf("%s: %.*s", destination, (int)line.size, (const char *)line.data) < 0;
}

static bool ask_one(struct pool *pool, const char *proxy, char *destination)
{
    struct pool_error error = POOL_ERROR_INIT;
    char address[600];
    int size = snprintf(address, sizeof(address), "%s?tenant=%s", proxy, destination);

    if (!is_plain(destination) || size >= (int)sizeof(address)) {
        fprintf(stderr, "'%s' is no destination\n", destination);
        return false;
    }
    if (pool_communicate(pool, address, ask, destination, POOL_CALL(.error = &error)) == POOL_OK)
        return true;
    fprintf(stderr, "%s: %s\n", destination, error.text);
    return false;
}

int proxy_main(int argc, char **argv, const char *name, pool_use_fn *prepare)
{
    struct pool_stats stats = { .size = sizeof(stats) };
    struct pool *pool = NULL;
    char proxy[256], usage[100];
    int right = 0, asked = ROUNDS * (argc - 2);

    snprintf(usage, sizeof(usage), "%s PROXY:PORT DESTINATION:PORT...", name);
    if (!argument_address(argc > 2 ? argc : 0, argv, usage, proxy) ||
        pool_create(POOL_OPTIONS(.prepare = prepare), &pool) != POOL_OK)
        return 2;
    for (int i = 0; i < asked; i++)
        right += ask_one(pool, proxy, argv[2 + i % (argc - 2)]);
    pool_stats(pool, &stats);
    printf("%d of %d answers over %" PRIu64 " connection%s\n", right, asked, stats.opened,
           stats.opened == 1 ? "" : "s");
    pool_destroy(pool);
    return right == asked ? 0 : 1;
}
