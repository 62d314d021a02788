/* connect.c: talks to peers behind an HTTP proxy, by CONNECT (RFC 9110, section 9.3.6).
 *
 *     ./examples/run connect 127.0.0.1:3128 127.0.0.1:6379
 *
 * The address names the proxy, since that is whom the pool connects to, and tenant= the
 * destination: tcp://127.0.0.1:3128?tenant=127.0.0.1:6379. A tenant is part of the key, so a
 * connection that the proxy has joined to one destination is never lent to a call for another one.
 * Without it the first caller's destination would answer the second caller.
 *
 * `prepare` asks the proxy for the destination, once for each connection, by blocking calls within
 * the deadline of the caller. A name is sent as it is: the proxy looks it up, not we. Where the
 * destination speaks first, `prepare` must read its greeting, too.
 *
 * What follows is in the clear. For TLS with the destination the address is
 * tls://127.0.0.1:3128?starttls=1&sni=NAME&tenant=NAME:443, and `prepare` ends with
 * pool_conn_start_tls(): NAME is what the certificate must have, and the proxy reads nothing. */
#include <commpool/pool.h>
#include <stdio.h>
#include <string.h>

#include "support/proxy.h"

static int read_verdict(struct pool_conn *conn)
{
    struct pool_bytes head;
    char line[200];
    int status = 0;

    /* An answer that says yes has no body: what follows its head is the destination's. */
    if (pool_recv_until(conn, "\r\n\r\n", 4, &head))
        return -1;
    snprintf(line, sizeof(line), "%.*s", (int)head.size, (const char *)head.data);
    line[strcspn(line, "\r\n")] = '\0';
    if (sscanf(line, "HTTP/1.%*1d %3d", &status) == 1 && status / 100 == 2)
        return 0;
    fprintf(stderr, "connect: the proxy answered '%s'\n", line);
    return -1;
}

static int reach_destination(struct pool_conn *conn, void *user)
{
    struct proxy_destination destination;
    const char *open = "", *close = "";
    char request[700];
    int size;

    (void)user;
    if (proxy_destination(conn, &destination))
        return -1;
    if (strchr(destination.host, ':')) {
        open = "[";
        close = "]";
    }
    size = snprintf(request, sizeof(request),
                    "CONNECT %s%s%s:%u HTTP/1.1\r\nHost: %s%s%s:%u\r\n\r\n", open, destination.host,
                    close, destination.port, open, destination.host, close, destination.port);
    if (pool_send(conn, request, (size_t)size))
        return -1;
    return read_verdict(conn);
}

int main(int argc, char **argv)
{
    return proxy_main(argc, argv, "connect", reach_destination);
}
