/* names.h: what a peer whose address has a host name remembers of it, and what becomes of its
 * connections when the name comes to stand for other places.
 *
 * While the peer has connections, the name is read again when its answer expires. A connection
 * whose place is missing from two answers in a row ends: when it is idle, or given back, at a
 * moment thrown by chance, so that those of many pools do not all move at once. Two, because some
 * names stand for another few of many places each time. An answer that fails changes nothing, and
 * one that is still remembered from the last reading is not counted twice: each family has its own.
 *
 * All of it belongs to the mux thread.
 */
#ifndef PL_POOL_NAMES_H
#define PL_POOL_NAMES_H

#include <stdbool.h>
#include <stdint.h>

#include "net/place.h"
#include "net/resolver.h"

struct pl_room;
struct pl_peer;
struct pl_dial;

struct pl_names {
    struct pl_grudges grudges;
    struct pl_lookup lookup;
    struct pl_peer *peer;
    const struct pl_addresses *read[PL_FAMILIES];       /* of the reading under way */
    uint64_t read_expires_ns[PL_FAMILIES];      /* of what was read last: which answer it was */
    bool is_reading;                    /* it keeps the peer and the pool */
    uint64_t next_read_ns;              /* PL_NEVER: none is due */
};

/* The resolver of the room's mux, and the peer's names; both made when they are first needed. NULL:
 * no memory, or a literal address, which has no names. */
struct pl_resolver *pl_names_resolver(struct pl_room *room);
struct pl_names *pl_names_of(struct pl_peer *peer);

/* A dial found the place of its connection, by an answer that expires at dial->expires_ns. */
void pl_names_note_place(struct pl_peer *peer, const struct pl_dial *dial);

/* A dial is over: the peer stays for as long as a place that failed is to be tried last. */
void pl_names_note_failures(struct pl_peer *peer);

/* Reads the name again if it is time; answers when to come again. The peer is entered. */
uint64_t pl_names_tend(struct pl_peer *peer, uint64_t now_ns);

bool pl_names_are_read(const struct pl_peer *peer); /* is a reading under way? */
void pl_names_abort(struct pl_peer *peer);      /* ends that reading, as the pool ends */

void pl_names_free(struct pl_names *names);     /* nothing of it is under way */

#endif
