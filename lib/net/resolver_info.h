/* resolver_info.h: what c-ares says, in our words: its results as addresses, its statuses as
 * failures. It asks nothing. */
#ifndef PL_NET_RESOLVER_INFO_H
#define PL_NET_RESOLVER_INFO_H

#include <stdbool.h>

#include "net/answer.h"

struct ares_addrinfo;

/* Of one family; the unspecified address is left out. */
const struct pl_addresses *pl_dns_addresses(const struct ares_addrinfo *info, enum pl_family of);
struct pl_failure pl_dns_failure(int status);           /* not ARES_SUCCESS */

/* "localhost", and what ends with ".localhost". */
bool pl_dns_is_local(const char *name);
const struct pl_addresses *pl_dns_loopback(enum pl_family family);

#endif
