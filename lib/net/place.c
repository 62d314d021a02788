/* place.c: see place.h. */
#include "net/place.h"

#include <string.h>

#include "base/hash.h"

#define MARK_ANY 1u                     /* so that no hash is 0 */
#define MARK_IPV6 2u

bool pl_place_is_same(const union pl_ip *a, const union pl_ip *b)
{
    if (a->any.sa_family != b->any.sa_family)
        return false;
    if (a->any.sa_family == AF_INET)
        return a->ipv4.sin_addr.s_addr == b->ipv4.sin_addr.s_addr;
    return memcmp(&a->ipv6.sin6_addr, &b->ipv6.sin6_addr, sizeof(a->ipv6.sin6_addr)) == 0 &&
           a->ipv6.sin6_scope_id == b->ipv6.sin6_scope_id;
}

uint64_t pl_place_hash(const union pl_ip *place)
{
    const struct in6_addr *ipv6 = &place->ipv6.sin6_addr;
    const struct in_addr *ipv4 = &place->ipv4.sin_addr;

    if (place->any.sa_family == AF_INET6)
        return pl_hash(ipv6, sizeof(*ipv6), place->ipv6.sin6_scope_id) | MARK_ANY | MARK_IPV6;
    return (pl_hash(ipv4, sizeof(*ipv4), 0) & ~(uint64_t)MARK_IPV6) | MARK_ANY;
}

enum pl_family pl_place_family(uint64_t hash)
{
    return hash & MARK_IPV6 ? PL_IPV6 : PL_IPV4;
}

/* ---- what failed lately */

static uint32_t find_grudge(const struct pl_grudges *grudges, const union pl_ip *place)
{
    uint32_t i;

    for (i = 0; i < PL_GRUDGES; i++) {
        if (grudges->all[i].until_ns && pl_place_is_same(&grudges->all[i].place, place))
            break;
    }
    return i;
}

void pl_grudge_bear(struct pl_grudges *grudges, const union pl_ip *place, uint64_t now_ns)
{
    uint32_t at = find_grudge(grudges, place);

    if (at == PL_GRUDGES) {
        at = 0;
        for (uint32_t i = 1; i < PL_GRUDGES; i++) {
            if (grudges->all[i].until_ns < grudges->all[at].until_ns)
                at = i;
        }
    }
    grudges->all[at].place = *place;
    grudges->all[at].until_ns = now_ns + PL_GRUDGE_NS;
}

void pl_grudge_forget(struct pl_grudges *grudges, const union pl_ip *place)
{
    uint32_t at = find_grudge(grudges, place);

    if (at < PL_GRUDGES)
        grudges->all[at].until_ns = 0;
}

uint64_t pl_grudges_end(const struct pl_grudges *grudges)
{
    uint64_t end_ns = 0;

    for (uint32_t i = 0; i < PL_GRUDGES; i++) {
        if (grudges->all[i].until_ns > end_ns)
            end_ns = grudges->all[i].until_ns;
    }
    return end_ns;
}

bool pl_grudge_is_borne(const struct pl_grudges *grudges, const union pl_ip *place,
                        uint64_t now_ns)
{
    uint32_t at = find_grudge(grudges, place);

    return at < PL_GRUDGES && now_ns < grudges->all[at].until_ns;
}

/* ---- order */

/* Moves the place at `from` forward to `to`; those between make way, in order. */
static void bring_forward(union pl_ip *places, uint32_t from, uint32_t to)
{
    union pl_ip moved = places[from];

    memmove(places + to + 1, places + to, (from - to) * sizeof(*places));
    places[to] = moved;
}

/* Places that did not fail come first; answers how many they are. */
static uint32_t part(union pl_ip *places, uint32_t count, const struct pl_grudges *grudges,
                     uint64_t now_ns)
{
    uint32_t good = 0;

    for (uint32_t i = 0; i < count; i++) {
        if (!grudges || !pl_grudge_is_borne(grudges, &places[i], now_ns))
            bring_forward(places, i, good++);
    }
    return good;
}

static void take_turns(union pl_ip *places, uint32_t count)
{
    for (uint32_t i = 1; i < count; i++) {
        uint32_t other = i;

        while (other < count && places[other].any.sa_family == places[i - 1].any.sa_family)
            other++;
        if (other == count)
            return;
        bring_forward(places, other, i);
    }
}

void pl_places_order(union pl_ip *places, uint32_t count, const struct pl_grudges *grudges,
                     uint64_t now_ns)
{
    uint32_t good = part(places, count, grudges, now_ns);

    take_turns(places, good);
    take_turns(places + good, count - good);
}

uint32_t pl_places_unique(union pl_ip *places, uint32_t count)
{
    uint32_t kept = 0;

    for (uint32_t i = 0; i < count; i++) {
        bool is_known = false;

        for (uint32_t k = 0; k < kept && !is_known; k++)
            is_known = pl_place_is_same(&places[k], &places[i]);
        if (!is_known)
            places[kept++] = places[i];
    }
    return kept;
}
