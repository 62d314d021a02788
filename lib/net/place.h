/* place.h: where a socket is connected to: one of the addresses that a host name stands for.
 *
 * Also the order in which a dial tries several of them, and what a peer remembers of those that
 * failed. Pure: no socket, no clock.
 */
#ifndef PL_NET_PLACE_H
#define PL_NET_PLACE_H

#include <stdbool.h>
#include <stdint.h>

#include "net/answer.h"

/* The same family, address and zone. */
bool pl_place_is_same(const union pl_ip *a, const union pl_ip *b);

/* Never 0. Two places of a family may have the same one, which is then no more than an
 * inconvenience. */
uint64_t pl_place_hash(const union pl_ip *place);
enum pl_family pl_place_family(uint64_t hash);

/* What failed is tried last for this long. */
#define PL_GRUDGE_NS (UINT64_C(30) * 1000 * 1000 * 1000)
#define PL_GRUDGES 8u

/* Places that failed lately; when there are more than fit, the oldest one is forgotten. All zeros:
 * none. */
struct pl_grudges {
    struct {
        union pl_ip place;
        uint64_t until_ns;              /* 0: nobody stands here */
    } all[PL_GRUDGES];
};

void pl_grudge_bear(struct pl_grudges *grudges, const union pl_ip *place, uint64_t now_ns);
void pl_grudge_forget(struct pl_grudges *grudges, const union pl_ip *place);
uint64_t pl_grudges_end(const struct pl_grudges *grudges);  /* of the last one; 0: there is none */
bool pl_grudge_is_borne(const struct pl_grudges *grudges, const union pl_ip *place,
                        uint64_t now_ns);

/* Puts places into the order of RFC 8305: families take turns, beginning with that of the first
 * one; what failed lately comes last, in the same manner. `grudges` may be NULL. */
void pl_places_order(union pl_ip *places, uint32_t count, const struct pl_grudges *grudges,
                     uint64_t now_ns);

/* Removes those that stand there twice; answers how many are left. */
uint32_t pl_places_unique(union pl_ip *places, uint32_t count);

#endif
