/* resolver_info.c: see resolver_info.h. */
#include "net/resolver_info.h"

#include <ares.h>
#include <string.h>

#include "base/os.h"

static enum pl_reason reason_of(int status)
{
    switch (status) {
    case ARES_ENOTFOUND:
    case ARES_EBADNAME:
        return PL_REASON_NO_HOST;
    case ARES_ENODATA:
        return PL_REASON_NO_ADDRESS;
    case ARES_ETIMEOUT:
        return PL_REASON_DNS_SILENT;
    case ARES_EFORMERR:
    case ARES_ESERVFAIL:
    case ARES_ENOTIMP:
    case ARES_EREFUSED:
        return PL_REASON_DNS_FAILED;
    case ARES_EBADRESP:
        return PL_REASON_DNS_GARBLED;
    default:
        return PL_REASON_DNS_UNREACHED;
    }
}

struct pl_failure pl_dns_failure(int status)
{
    if (status == ARES_ENOMEM)
        return pl_failure_make(POOL_E_MEMORY, POOL_PHASE_RESOLVE, 0);
    return pl_failure_because(reason_of(status), POOL_PHASE_RESOLVE, status);
}

/* The unspecified address means this host to the kernel, and nothing to DNS. */
static bool is_usable(const struct ares_addrinfo_node *node, int family)
{
    const union pl_ip *ip = (const union pl_ip *)node->ai_addr;

    if (node->ai_family != family)
        return false;
    return family == AF_INET6 ? !IN6_IS_ADDR_UNSPECIFIED(&ip->ipv6.sin6_addr)
                              : ip->ipv4.sin_addr.s_addr != INADDR_ANY;
}

static uint32_t count_usable(const struct ares_addrinfo *info, int family)
{
    uint32_t count = 0;

    for (const struct ares_addrinfo_node *node = info->nodes; node; node = node->ai_next)
        count += is_usable(node, family);
    return count < PL_ADDRESSES_MOST ? count : PL_ADDRESSES_MOST;
}

/* The shortest of all records that led there. */
static int64_t ttl_of(const struct ares_addrinfo *info)
{
    int64_t ttl_s = PL_TTL_MOST_S;

    for (const struct ares_addrinfo_cname *cname = info->cnames; cname; cname = cname->next)
        ttl_s = cname->ttl < ttl_s ? cname->ttl : ttl_s;
    for (const struct ares_addrinfo_node *node = info->nodes; node; node = node->ai_next)
        ttl_s = node->ai_ttl < ttl_s ? node->ai_ttl : ttl_s;
    return ttl_s;
}

const struct pl_addresses *pl_dns_addresses(const struct ares_addrinfo *info, enum pl_family of)
{
    int family = of == PL_IPV6 ? AF_INET6 : AF_INET;
    uint64_t expires_ns = pl_ttl_end(pl_os->now_ns(), ttl_of(info));
    uint32_t count = count_usable(info, family);
    struct pl_addresses *addresses;

    if (!count)
        return pl_addresses_none(pl_dns_failure(ARES_ENODATA), expires_ns);
    addresses = pl_addresses_make(count, expires_ns);
    if (!addresses)
        return pl_addresses_none(pl_dns_failure(ARES_ENOMEM), 0);
    for (const struct ares_addrinfo_node *node = info->nodes; node; node = node->ai_next) {
        if (addresses->count < count && is_usable(node, family))
            memcpy(&addresses->list[addresses->count++], node->ai_addr,
                   family == AF_INET6 ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in));
    }
    return addresses;
}

bool pl_dns_is_local(const char *name)
{
    static const char local[] = ".localhost";
    size_t size = strlen(name), tail = sizeof(local) - 1;

    return !strcmp(name, local + 1) || (size > tail && !strcmp(name + size - tail, local));
}

const struct pl_addresses *pl_dns_loopback(enum pl_family family)
{
    struct pl_addresses *addresses =
        pl_addresses_make(1, pl_ttl_end(pl_os->now_ns(), PL_TTL_MOST_S));
    union pl_ip *ip;

    if (!addresses)
        return pl_addresses_none(pl_dns_failure(ARES_ENOMEM), 0);
    addresses->count = 1;
    ip = &addresses->list[0];
    if (family == PL_IPV6)
        ip->ipv6 = (struct sockaddr_in6){ .sin6_family = AF_INET6,
                                          .sin6_addr = IN6ADDR_LOOPBACK_INIT };
    else
        ip->ipv4 = (struct sockaddr_in){ .sin_family = AF_INET,
                                         .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    return addresses;
}
