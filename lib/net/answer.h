/* answer.h: what is known of one name in one family: its addresses, or why there are none.
 *
 * Such a record is immutable from when it is shown to somebody, and counted; the one that says that
 * there is no memory needs none, and is there for ever. It knows no name, no DNS and no clock: who
 * makes one says when it expires.
 */
#ifndef PL_NET_ANSWER_H
#define PL_NET_ANSWER_H

#include <netinet/in.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/failure.h"

#define PL_ADDRESSES_MOST 64            /* of one name and family; the rest is not kept */
#define PL_TTL_LEAST_S 1                /* so that TTL 0 serves those who ask together */
#define PL_TTL_MOST_S 3600
#define PL_TTL_NEGATIVE_S 5 /* what a zone says about it, c-ares does not tell */

/* In the order in which RFC 8305 prefers them. */
enum pl_family { PL_IPV6, PL_IPV4, PL_FAMILIES };

union pl_ip {
    struct sockaddr any;
    struct sockaddr_in ipv4;
    struct sockaddr_in6 ipv6;
};

struct pl_addresses {
    _Atomic uint32_t references;
    uint32_t count;
    uint64_t expires_ns;                /* not good beyond; of a failure that may be over at any
                                         * time: 0 */
    struct pl_failure failure;          /* POOL_OK: there is at least one */
    union pl_ip list[];                 /* in the order to try them; ports are 0 */
};

/* From `now_ns` on for the time that a record's TTL gives, within bounds; a TTL with its highest
 * bit set counts as 0 (RFC 2181). */
uint64_t pl_ttl_end(uint64_t now_ns, int64_t ttl_s);

/* Room for `count` addresses, none in it yet; NULL: no memory. */
struct pl_addresses *pl_addresses_make(uint32_t count, uint64_t expires_ns);
/* Never NULL: without memory for it, it is the one that says so. */
const struct pl_addresses *pl_addresses_none(struct pl_failure failure, uint64_t expires_ns);

const struct pl_addresses *pl_addresses_ref(const struct pl_addresses *addresses);
void pl_addresses_unref(const struct pl_addresses *addresses);  /* NULL does nothing */

/* There is no such host, or no address of it in this family: the answer of a working DNS. */
bool pl_addresses_are_denied(const struct pl_addresses *addresses);

#endif
