/* tend.h: peers that need something done at a certain time, on the mux: a dial after a pause,
 * failures and sessions forgotten, spares opened, a name read again, connections drained. */
#ifndef PL_POOL_TEND_H
#define PL_POOL_TEND_H

#include <stdint.h>

struct pl_room;
struct pl_peer;

/* The peer is tended at that time, or earlier; its caller keeps it live. */
void pl_tend_at(struct pl_room *room, struct pl_peer *peer, uint64_t when_ns);

void pl_tend_on_timer(void *room);

#endif
