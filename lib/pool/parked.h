/* parked.h: a pool's list of parked connections, least recently used first, and what leaves it: the
 * oldest when room is needed, and those that were idle or alive for too long. Parking itself is in
 * room.c.
 *
 * The list is lazy: an entry whose word says something else than PARKED is dropped by whoever meets
 * it.
 */
#ifndef PL_POOL_PARKED_H
#define PL_POOL_PARKED_H

#include <stdint.h>

#include "commpool/observe.h"

struct pool;
struct pl_list;
struct pl_room;
struct pl_connection;

/* Puts connections, linked by lru_link, in order of last use, the oldest first. */
void pl_parked_sort(struct pl_list *list);

/* The oldest one, used no later than `before_ns`, CLOSING and the caller's; NULL: none. Room lock
 * held. */
struct pl_connection *pl_parked_pop(struct pool *pool, uint64_t before_ns,
                                    enum pool_close_reason reason);

/* When the oldest one was used last; PL_NEVER: there is none. Room lock held. */
uint64_t pl_parked_oldest(struct pool *pool);

/* Closes what was idle, or lived, for longer than its pool allows; answers when to look again. No
 * lock held. */
uint64_t pl_parked_expire(struct pl_room *room, uint64_t now_ns);

#endif
