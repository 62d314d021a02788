/* peer.h: the pool's record of one key: its connections, those of them that are idle, and who waits
 * for one.
 *
 * Peers are type-stable (base/arena.h): `hints` may be read by a thread that has just let go of a
 * connection and owns nothing any more. All else is under the lock, or fixed while the peer is
 * live; it is live as long as it has users, connections, or stands in one of the room's lists.
 *
 * Lock order: the room's sweep lock, pool->lock, the exchange's (exchange.h), peer lock, room lock;
 * below them only those of lower layers. Nobody is called, and nothing waits, under any of them.
 * Two more that come before pool->lock are the room's close lock and the pool's round lock.
 */
#ifndef PL_POOL_PEER_H
#define PL_POOL_PEER_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/failure.h"
#include "base/table.h"
#include "base/thread.h"
#include "net/connection.h"
#include "pool/decide.h"
#include "pool/key.h"

struct pool;
struct pl_names;
struct pl_tls_sessions;
struct pl_exchange;

/* What a thread must know right after it has let go of a connection. */
enum {
    PL_HINT_HOT = 1,                    /* the sweep will look at this peer */
    PL_HINT_WAITERS = 2,                /* somebody waits for a connection */
    PL_HINT_CLOSING = 4,                /* the pool was destroyed, or is forced to end */
    PL_HINT_LOOK = 8                    /* some that come back are not to be kept (pl_peer_verdict),
                                         * or none is: the pool is closing */
};

enum pl_waiter_state { PL_WAITER_QUEUED, PL_WAITER_SERVED, PL_WAITER_FAILED };

/* A caller who waits; lives on its stack, or in its request (request.c). Under the peer lock while
 * it is queued; whoever takes it off the list fills in the result in the same step, and then wakes
 * the thread or posts. */
struct pl_waiter {
    struct pl_list link;
    struct pl_thread *thread; /* NULL: an asynchronous one */
    struct pl_post *post; /* what then brings the result to the mux */
    uint64_t queued_ns;
    enum pl_waiter_state state;
    bool is_woken;                      /* told to look for itself, and did not yet */
    bool wants_fresh;                   /* takes no connection that has served before */
    bool is_hasty;                      /* waits for one that is opened, not for what others have */
    bool is_for_line;                   /* it is to carry queries */
    struct pl_connection *connection;   /* SERVED: lent to it */
    struct pl_failure failure;          /* FAILED */
    uint64_t tried_ns;                  /* the attempt that failed began then; 0: none did */
};

struct pl_peer {
    struct pl_arena_node node;
    _Atomic uint32_t hints;
    _Atomic uint64_t generation;        /* odd while live */
    _Atomic uint32_t epoch;             /* one more with each clear; changed under the lock */
    struct pool *pool;                  /* fixed while live, as the next two */
    struct pool_address *address;
    const char *text;
    struct pl_key key;                  /* pool->lock */
    struct pl_table_node table_node;    /* pool->lock */
    struct pl_list pool_link;           /* pool->lock */
    uint64_t round;                     /* pool->lock: the last round that came by */
    bool is_ended;                      /* pool->lock: pool_destroy() came by */
    struct pl_names *names;             /* mux thread: of a host name; NULL until needed */
    struct pl_tls_sessions *_Atomic sessions;   /* to be continued; NULL until needed; set under
                                         * the lock */
    struct pl_exchange *_Atomic exchange;       /* its queries; once made, it stays with the
                                         * memory, whoever's peer that is */
    _Atomic uint64_t sessions_ns;       /* kept until then without connections; anybody notes it */
    pthread_mutex_t lock;
    struct {
        struct pl_list all;             /* every connection, by birth */
        struct pl_list idle;     /* hints: those that may be idle, the one returned last in front */
        struct pl_list waiters;         /* who waited longest in front */
        uint32_t count, opening;     /* births minus deaths; those of them that are not yet ready */
        uint32_t waiting;
        uint32_t waiting_lines;         /* those of them whom queries wait for */
        _Atomic uint32_t waiting_fresh; /* those of them who want a fresh connection */
        uint32_t users;                 /* targets, and calls under way */
        uint32_t holds;                 /* while there are any, nothing is opened */
        bool was_asked;                 /* on_none_removable ran, and nothing was opened since */
        bool is_yielded_to;             /* a line leaves for those who wait; with it the exchange is
                                         * active */
        bool is_wanting;              /* waits for room: nothing is opened until the room says so */
        bool is_short;                  /* there was no room, and none was found since; also while
                                         * it is tried again */
        int short_of;                   /* the errno that said so; 0: a cap of the pool's */
        bool keeps_spares;              /* min_idle of them, since it was used and not lost */
        bool keeps_names;               /* a place of its name failed lately */
        uint64_t spare_ns;              /* none is opened before then */
        uint64_t spare_lost_ns;         /* nor before then: one did not last */
        struct pl_backoff backoff;
        struct pl_failure last_failure; /* why it is backing off */
    } shared;
    struct {                            /* room lock */
        struct pl_list hot_link;
        struct pl_list want_link;       /* waits for a descriptor or for the pool's cap */
        bool wants_descriptor;          /* a connection of any pool would do */
        struct pl_list tend_link;       /* to be tended at a certain time (tend.h) */
        uint64_t tend_ns;
    } room;
};

/* The peer of all detached connections: it has no pool, is never live, and lends nothing. */
extern struct pl_peer pl_nowhere;

/* Takes the first idle connection for the caller, who holds the lock; NULL: there is none. It is
 * LENT then, unchecked. */
struct pl_connection *pl_peer_take_idle(struct pl_peer *peer, bool must_be_prepared) PL_MUST_USE;

/* The same for one that is to be closed: the one that was used longest ago. */
struct pl_connection *pl_peer_take_coldest(struct pl_peer *peer) PL_MUST_USE;

/* How many there are to take so. Peer lock held. */
uint32_t pl_peer_count_idle(struct pl_peer *peer);

/* Why a connection must end although nothing is wrong with it: an enum pool_close_reason, by its
 * doom or because it was cleared; -1: it need not. For its owner, or under the peer lock. */
int pl_peer_verdict(const struct pl_connection *connection);
/* Nobody who comes back needs a closer look any more, if that is so. Peer lock held. */
void pl_peer_stop_looking(struct pl_peer *peer);
/* Why one whose time is over ends: that, or its age. */
enum pool_close_reason pl_peer_reason_of_age(const struct pl_connection *connection);
/* max_idle of them are idle already. */
bool pl_peer_is_idle_full(struct pl_peer *peer);

/* Lends a connection that the caller owns (MUX, SETUP, or just taken back) to whoever waits, or
 * makes it idle. */
void pl_peer_give_back(struct pl_peer *peer, struct pl_connection *connection);

/* The rest of a return, after the word was swapped to IDLE by the short way: hints said that there
 * is more to do. */
void pl_peer_look_again(struct pl_peer *peer, struct pl_connection *connection, uint64_t word);

/* Closes a connection that the caller owns; when operations are under way on it, the last of them
 * does. */
void pl_peer_close(struct pl_connection *connection, enum pool_close_reason reason);
/* The word says CLOSING, and the caller made it so. No lock is held: the program's data on it is
 * freed. */
void pl_peer_finish_close(struct pl_connection *connection);
/* The same as the last thing of a program's call: observers are told of it. */
void pl_peer_finish_close_and_tell(struct pl_connection *connection);

/* The steps by which a connection leaves its pool. From the living to the books both locks are
 * held, the pool's and the peer's: statistics see it once. The peer is entered in exchange for the
 * connection that kept it live. */
void pl_peer_remove(struct pl_peer *peer, struct pl_connection *connection);
void pl_peer_keep_books(struct pool *pool, const struct pl_connection *connection);
/* Its share of the caps is free: whoever waits is helped. Leaves the peer and the pool. */
void pl_peer_after_loss(struct pl_peer *peer, bool has_freed_descriptor);

/* Opens what those who wait need; the lock is not held. True: it began to. */
bool pl_peer_supply(struct pl_peer *peer);
/* Opens the spares that it is to have (spare.h), as far as there is room; the same. */
void pl_peer_supply_spares(struct pl_peer *peer);

/* Users keep a peer live. */
void pl_peer_leave(struct pl_peer *peer);               /* may reclaim it */
/* Enters one that cannot go meanwhile: pool->lock is held, or it is entered or has a connection of
 * the caller's. Answers it. */
struct pl_peer *pl_peer_join(struct pl_peer *peer);
/* False: it is another one now. `pool` NULL: of whatever pool, which is then counted once more for
 * the caller. */
bool pl_peer_enter(struct pl_peer *peer, const struct pool *pool, uint64_t generation);

/* NULL: no memory; takes the address. */
struct pl_peer *pl_peer_make(struct pool *pool, struct pool_address *address);
void pl_peer_library_end(void);

/* Around fork(); in the child, free ones must be good again. */
void pl_peers_hold(void);
void pl_peers_let_go(void);
void pl_peers_orphan(void);

#endif
