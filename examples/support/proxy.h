/* proxy.h: what the examples of proxies have in common: where the destination stands, and an
 * exchange with whoever is there.
 *
 * An address names the proxy, and tenant= the destination behind it. */
#ifndef EXAMPLES_PROXY_H
#define EXAMPLES_PROXY_H

#include <commpool/pool.h>
#include <stdint.h>

struct proxy_destination {
    char host[256]; /* a name, or an IP address without brackets */
    uint16_t port;
};

/* Reads it from the address that the connection belongs to; answers -1 when there is none. */
int proxy_destination(struct pool_conn *conn, struct proxy_destination *destination);

/* The whole program but for `prepare`: through the proxy argv[1] it asks each of the destinations
 * that follow a line, twice, and prints what they answer. */
int proxy_main(int argc, char **argv, const char *name, pool_use_fn *prepare);

#endif
