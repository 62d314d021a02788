/* pool.h: the pool itself, as the rest of this layer sees it. The struct is type-stable, so a call
 * that comes too late finds a pool that is closed, not a hole.
 */
#ifndef PL_POOL_POOL_H
#define PL_POOL_POOL_H

#include "commpool/pool.h"
#include "pool/peer.h"
#include "pool/room.h"
#include "pool/settings.h"
#include "pool/worker.h"

enum pl_pool_state {
    PL_POOL_NONE,
    PL_POOL_LIVE,
    PL_POOL_PAUSED,                     /* lends and opens nothing until pool_ready() */
    PL_POOL_CLOSING,                    /* by pool_close(): takes nothing new, lets the rest
                                         * finish */
    PL_POOL_DESTROYED,
    PL_POOL_FORKED                      /* the parent's; this is the child */
};

/* Counters of connections that are gone, and of what happened to no connection. */
struct pl_books {
    uint64_t borrowed, reused, opened, closed[16], stolen, borrow_failed, timeouts, retries,
        bytes_in, bytes_out, queries, late_replies, orphans;
};

struct pl_event_queue;

#define PL_POOL_LIFE (UINT64_C(1) << 32)

struct pool {
    struct pl_arena_node node;
    _Atomic uint32_t state;             /* enum pl_pool_state */
    _Atomic uint64_t refs;              /* the user's, each connection's, channel's and target's,
                                         * each active exchange's, each slow call's; above them
                                         * PL_POOL_LIFE for each beginning and end of a pool here */
    _Atomic uint32_t total;             /* connections, births minus deaths */
    _Atomic uint64_t last_id;
    _Atomic uint32_t undelivered;       /* asynchronous calls whose on_lent has not come back, and
                                         * active exchanges */
    _Atomic uint32_t waited;            /* calls that waited in a queue, and are not over */
    _Atomic uint32_t channels;          /* whose last calls have not been made */
    struct pl_workers workers;
    pthread_mutex_t round_lock;         /* one round at a time (round.h); before the next one */
    uint64_t last_round;                /* round lock */
    struct pl_settings settings;        /* fixed */
    struct pool_tls *_Atomic tls;       /* its own share of them; NULL: none was needed yet */
    struct {
        struct pl_post post;            /* they were replaced (reload.c) */
        _Atomic bool is_posted;
    } reload;
    struct pool_mux *mux;               /* fixed; counted */
    struct pl_room *room;               /* fixed; the mux's */
    pthread_mutex_t lock;
    struct pl_table peers;              /* lock; by key */
    struct pl_list all_peers;           /* lock; in no order */
    struct pl_books books;              /* lock */
    struct pl_list pausing;             /* lock; callers between two attempts */
    struct pl_list hooks;               /* lock; those that run on threads of callers (hooks.h) */
    struct pl_list parked;              /* room lock: least recently used first */
    uint64_t aged_ns;                   /* room lock: not before then is one of them too old */
    _Atomic uint64_t leak_ns;           /* not before then has a loan lasted for too long */
    struct pl_list room_link;           /* room lock */
    struct pl_event_queue *events;      /* NULL: nobody observes */
    struct pl_closing *closing;         /* lock: by pool_close(), until it was told (close.h) */
    uint32_t reserved;                  /* room lock: by pool_reserve_fds() */
};

struct pool_target {
    struct pool *pool;
    struct pl_peer *peer;
    bool is_for_queries;                /* that were accepted: a pool that closes still serves
                                         * them */
};

/* A slow call is inside, whose pool is live, paused or closing. Else the answer says why it is not:
 * POOL_E_FORKED, or POOL_E_CLOSING; a second look could meet another pool in the same memory. */
enum pool_status pl_pool_enter(struct pool *pool) PL_MUST_USE;
/* What a call that wants a connection is answered in this state; POOL_OK: it may have one. */
enum pool_status pl_pool_refusal(const struct pool *pool);
/* It is the parent's, and this is a child of fork(). */
static inline bool pl_pool_is_forked(const struct pool *pool)
{
    return PL_UNLIKELY(atomic_load_explicit(&pool->state, memory_order_relaxed) == PL_POOL_FORKED);
}
/* The same for a caller at the queue; who has waited there is still served while the pool
 * closes. */
enum pool_status pl_pool_admission(const struct pool *pool, bool has_waited);
void pl_pool_ref(struct pool *pool);    /* by somebody who holds one already */
bool pl_pool_try_ref(struct pool *pool); /* by anybody else; false: nobody holds one any more */
void pl_pool_leave(struct pool *pool);  /* the last one frees */

/* Around fork(). In the child all pools there are become FORKED. */
void pl_pools_hold(void);
void pl_pools_let_go(void);
void pl_pools_orphan(void);
/* Every slot there is; hold them meanwhile. */
void pl_pools_visit(void (*visit)(void *pool, void *argument), void *argument);

/* Stops what the pool has on the mux: all of it, or what was cleared or killed. Mux thread. */
void pl_pool_abort_unready(struct pool *pool, bool is_ordered);

/* Of max_connections and of the mux's room (reserve.h); false: all are taken, and *is_reserved
 * tells which: the room's, so that closing a connection of any pool on the mux would help. */
bool pl_pool_try_share(struct pool *pool, bool *is_reserved) PL_MUST_USE;
void pl_pool_give_share(struct pool *pool);
bool pl_pool_has_share(const struct pool *pool);        /* is one to be had? */

/* The peer of an address, entered; on failure *peer is NULL and *error, unless NULL, tells why. */
enum pool_status pl_pool_find_peer(struct pool *pool, const char *address, struct pl_peer **peer,
                                   struct pool_error *error) PL_MUST_USE;

/* The same, where there is one; NULL: there is none. It parses nothing. */
struct pl_peer *pl_pool_look_up(struct pool *pool, const struct pool_address *address);

/* Adds one to a counter of pool->books; takes the pool's lock. */
void pl_pool_count(struct pool *pool, uint64_t *counter);

#endif
