/* room.h: what all pools on one mux share: which connections are parked, in order of last use;
 * which peers have hot ones, wait for a descriptor, or are to be tended. Its lock is held for list
 * work only; two others keep sweeps, and closing and counting, apart.
 */
#ifndef PL_POOL_ROOM_H
#define PL_POOL_ROOM_H

#include <pthread.h>
#include <stdbool.h>

#include "base/list.h"
#include "commpool/options.h"
#include "mux/mux.h"

struct pool;
struct pl_peer;
struct pl_connection;

struct pl_room {
    struct pool_mux *mux;
    pthread_mutex_t lock;
    struct pl_list pools;
    struct pl_list hot;                 /* peers that may have hot connections, the one that became
                                         * so last in front */
    struct pl_list wanting;             /* peers that wait for room, the first one in front */
    struct pl_timer sweep_timer;        /* parks what was hot for long enough, closes what was idle
                                         * for too long */
    struct pl_timer retry_timer;        /* while somebody waits for a descriptor: the program may
                                         * have closed one */
    uint64_t sweep_ns;                  /* what sweep_timer is set to */
    struct {
        struct pl_list spares; /* request.c's */
        uint32_t spare_count;
        struct pl_resolver *resolver;   /* NULL: no name was looked up yet */
        struct pl_list replies;         /* spare ones (reply.c) */
        uint32_t reply_count;
    } on_mux; /* mux thread only */
    _Atomic uint32_t shares;            /* connections of all its pools, births minus deaths */
    uint32_t reserved;                  /* descriptors that its pools were asked to leave free */
    _Atomic uint64_t left;              /* so many are left to all other code; 0: no such bound
                                         * (reserve.h) */
    pthread_mutex_t close_lock;         /* no socket is closed while they are counted; before
                                         * pool->lock */
    struct pl_list tended;              /* peers to be tended at a certain time, in no order */
    struct pl_timer tend_timer;         /* for the first of them */
    uint64_t tend_ns;
    pthread_mutex_t sweep_lock;         /* one sweep at a time; before all other locks */
};

/* How many peers wait for room, in the whole process: read on every return, so it must outlive
 * every mux. */
extern _Atomic uint32_t pl_room_wanted;

/* Gives the mux a room. */
enum pool_status pl_room_open(struct pool_mux *mux, struct pl_room **room) PL_MUST_USE;
void pl_room_add_pool(struct pl_room *room, struct pool *pool);
void pl_room_remove_pool(struct pl_room *room, struct pool *pool);

void pl_room_note_hot(struct pl_room *room, struct pl_peer *peer);              /* sets its hint */
void pl_room_forget_peer(struct pl_room *room, struct pl_peer *peer); /* out of every list */
bool pl_room_peer_is_listed(struct pl_room *room, struct pl_peer *peer);

/* Closes the least recently used idle connection, hot ones included; of `pool`, or of any if NULL.
 * What turned out to be no good on the way there was closed, too, and will do. False: none. */
bool pl_room_evict_idle(struct pl_room *room, struct pool *pool);
/* The same; where nothing is idle, what queries share and carries nothing counts as idle, too. No
 * lock is held. */
bool pl_room_evict(struct pl_room *room, struct pool *pool);

/* The pool behind `pool` in the room, counted; NULL: there is none. `pool` NULL: the first. */
struct pool *pl_room_next_pool(struct pl_room *room, struct pool *pool);

/* Asks the program what to do when nothing could be removed; inside its own answer the question is
 * not asked again. */
enum pool_decision pl_room_ask(struct pool *pool, pool_none_removable_fn *ask);

/* There is no room for the peer: an errno, or 0 for a cap of its pool's. Peer lock held. */
void pl_room_note_short(struct pl_peer *peer, int cause);
/* The peer waits for room from now on, until it is served or forgotten. */
void pl_room_want(struct pl_room *room, struct pl_peer *peer, bool wants_descriptor, int cause);
void pl_room_stop_wanting(struct pl_room *room, struct pl_peer *peer);

/* Would closing a connection of `pool` help somebody? */
bool pl_room_is_wanted_of(struct pl_room *room, const struct pool *pool);

/* A connection of `pool` is gone: let the first one whom that helps try again. */
void pl_room_serve(struct pl_room *room, const struct pool *pool, bool has_freed_descriptor);

/* Parks hot connections: all that were idle for park_ms, or every one if `all`. */
void pl_room_sweep(struct pl_room *room, bool all);

/* Parks one that the caller owns (MUX), or gives it to whoever waits for it. */
void pl_room_park_one(struct pl_room *room, struct pl_connection *connection);

/* A loan of the pool lasts for too long if it has not come back by then; PL_NEVER: none will. */
void pl_room_note_loan(struct pl_room *room, struct pool *pool, uint64_t due_ns);

/* The connection is being closed: out of the list of parked ones. */
void pl_room_unpark(struct pl_room *room, struct pl_connection *connection);

#endif
