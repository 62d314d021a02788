/* address_host.h: what a host may look like. Pure text: nothing is looked up here. */
#ifndef PL_NET_ADDRESS_HOST_H
#define PL_NET_ADDRESS_HOST_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>

#include "commpool/types.h"

#define PL_IP_TEXT_SIZE INET6_ADDRSTRLEN
#define PL_NAME_MAX 253 /* RFC 1035, without the root's dot */

/* A host name in lower case and without its trailing dot; *size says how many bytes of `name` it
 * takes. The answer is NULL, or what is wrong with the byte at text.data[*wrong] (one past the
 * end: with what should follow). */
const char *pl_host_name(struct pool_bytes text, char name[PL_NAME_MAX], size_t *size,
                         size_t *wrong);

/* Digits and dots only: meant as an IPv4 address, whether it is one or not. */
bool pl_host_is_dotted(struct pool_bytes text);

/* Four decimal numbers without leading zeros; no other way to write an IPv4 address. */
bool pl_host_ipv4(struct pool_bytes text, struct in_addr *ip);

/* An IPv6 address without brackets and zone; `canonical` is its text by RFC 5952, with an IPv4
 * address at the end only after ::ffff:. */
bool pl_host_ipv6(struct pool_bytes text, struct in6_addr *ip, char canonical[PL_IP_TEXT_SIZE]);

/* Cuts "fe80::1%eth0" into address and zone; without a '%' the zone's data is NULL. */
struct pool_bytes pl_host_cut_zone(struct pool_bytes *text);

/* The name of a network interface: 1 to 15 letters, digits, '-', '_', '.'; neither "." nor "..". */
bool pl_host_is_interface(struct pool_bytes text);

/* An interface's index, 1 to 2147483647 without leading zeros, or 0 if `text` is none. */
unsigned pl_host_interface_index(struct pool_bytes text);

#endif
