/* socks5.c: talks to peers behind a SOCKS5 proxy (RFC 1928).
 *
 *     ./examples/run socks5 127.0.0.1:1080 127.0.0.1:6379
 *
 * The address names the proxy, since that is whom the pool connects to, and tenant= the
 * destination: tcp://127.0.0.1:1080?tenant=127.0.0.1:6379. A tenant is part of the key, so a
 * connection that the proxy has joined to one destination is never lent to a call for another one.
 * Without it the first caller's destination would answer the second caller.
 *
 * `prepare` asks the proxy for the destination, once for each connection, by blocking calls within
 * the deadline of the caller. A name is sent as it is: the proxy looks it up, not we. Where the
 * destination speaks first, `prepare` must read its greeting, too.
 *
 * What follows is in the clear. For TLS with the destination the address is
 * tls://127.0.0.1:1080?starttls=1&sni=NAME&tenant=NAME:443, and `prepare` ends with
 * pool_conn_start_tls(): NAME is what the certificate must have, and the proxy reads nothing. */
#include <arpa/inet.h>
#include <commpool/pool.h>
#include <stdio.h>
#include <string.h>

#include "support/proxy.h"

enum { VERSION = 5, NO_PASSWORD = 0, CONNECT = 1, IPV4 = 1, NAME = 3, IPV6 = 4 };

static int refuse(const char *why)
{
    fprintf(stderr, "socks5: the proxy %s\n", why);
    return -1;
}

static int greet(struct pool_conn *conn)
{
    static const unsigned char offer[] = { VERSION, 1, NO_PASSWORD };
    unsigned char chosen[2];

    if (pool_send(conn, offer, sizeof(offer)) || pool_recv_exact(conn, chosen, sizeof(chosen)))
        return -1;
    if (chosen[0] != VERSION)
        return refuse("speaks no SOCKS5");
    return chosen[1] == NO_PASSWORD ? 0 : refuse("wants a password");
}

/* Writes the request for the destination, and answers its size. */
static size_t write_request(const struct proxy_destination *destination, unsigned char *request)
{
    unsigned char *at = request + 4;
    size_t size = strlen(destination->host);

    memcpy(request, (unsigned char[]){ VERSION, CONNECT, 0, NAME }, 4);
    if (inet_pton(AF_INET, destination->host, at) == 1) {
        request[3] = IPV4;
        at += 4;
    } else if (inet_pton(AF_INET6, destination->host, at) == 1) {
        request[3] = IPV6;
        at += 16;
    } else {
        *at++ = (unsigned char)size;
        memcpy(at, destination->host, size);
        at += size;
    }
    *at++ = (unsigned char)(destination->port >> 8);
    *at++ = (unsigned char)destination->port;
    return (size_t)(at - request);
}

/* Where the proxy connects from follows the verdict; nobody needs it, and it has to be read. */
static int read_verdict(struct pool_conn *conn)
{
    static const char *const refusals[] = { "said yes",
                                            "failed",
                                            "may not connect there",
                                            "has no way to that network",
                                            "has no way to that host",
                                            "was refused by the destination",
                                            "gave up waiting",
                                            "cannot connect for others",
                                            "does not know this kind of address" };
    unsigned char verdict[5], rest[258];
    size_t size;

    if (pool_recv_exact(conn, verdict, sizeof(verdict)))
        return -1;
    if (verdict[0] != VERSION)
        return refuse("speaks no SOCKS5");
    if (verdict[1])
        return refuse(verdict[1] < 9 ? refusals[verdict[1]] : "failed");
    switch (verdict[3]) {
    case IPV4:
        size = 4;
        break;
    case IPV6:
        size = 16;
        break;
    case NAME:
        size = (size_t)verdict[4] + 1;
        break;
    default:
        return refuse("makes no sense");
    }
    return pool_recv_exact(conn, rest, size + 1) ? -1 : 0; /* with the port, less what was read */
}

static int reach_destination(struct pool_conn *conn, void *user)
{
    struct proxy_destination destination;
    unsigned char request[4 + 256 + 2];

    (void)user;
    if (proxy_destination(conn, &destination) || greet(conn) ||
        pool_send(conn, request, write_request(&destination, request)))
        return -1;
    return read_verdict(conn);
}

int main(int argc, char **argv)
{
    return proxy_main(argc, argv, "socks5", reach_destination);
}
