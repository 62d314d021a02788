/* lending.h: one connection, its peer, and those who lend, take back, park and close it, as a model for explore.h.
 *
 * A step is one access to what others see without a lock, or all that happens under a lock between two such
 * accesses. The word is the library's own (net/word.h), so an illegal move stops the program. What is modelled
 * is the order of the steps in
 *     lib/pool/borrow.c      take_recent, get_some, join_queue, wait_in_queue, look_around
 *     lib/pool/give_back.c   return_warm, claim
 *     lib/pool/peer.c        take_listed, give_back, make_idle, call_waiter, look_again, close, remove_from_peer
 *     lib/pool/room.c        pop_hot, take_hot, park, pop_parked, want, note_hot
 *     lib/pool/watch.c       on_parked_event
 * and each line of the model names its original. Time is not: whatever depends on it may go either way. Memory is
 * as the library asks for it, sequentially consistent where two look at each other.
 *
 * When the connection is closed, those who wait are told at once; the library would open another one for them. */
#ifndef TEST_SIM_LENDING_H
#define TEST_SIM_LENDING_H

#include <stdbool.h>
#include <stdint.h>

#define LENDING_ACTORS 4

enum role { NOBODY, BORROWER, SWEEPER, EVICTOR, WANTER, EVENT };

/* What is broken on purpose. */
enum plant {
    AS_BUILT,
    HINT_BEFORE_SWAP,                   /* return_warm looks for waiters, then gives back */
    NO_SECOND_LOOK,                     /* join_queue does not look at the idle ones after setting the hint */
    BLIND_TIMEOUT,                      /* a waiter whose time is over leaves without looking whether he was served */
    LATE_GRANT,                         /* the outcome is written after the lock is let go */
    EVICT_BY_STORE,                     /* the word is looked at, then overwritten */
    TAKE_BY_STORE,                      /* the same, by a borrower from memory */
    HINT_CLEARED_LATE,                  /* the sweep takes the peer's hint away after it has looked through it */
    PARK_AND_FORGET,                    /* the sweep does not look for waiters after parking */
    ROOM_BEFORE_SWAP,                   /* return_warm looks whether room is wanted, then gives back */
    PLANTS
};

struct cast {
    enum role roles[LENDING_ACTORS];
    uint8_t rounds[LENDING_ACTORS];     /* borrows, sweeps */
    bool may_time_out[LENDING_ACTORS];
    bool is_held;                       /* the first actor has the connection; else it is parked */
    enum plant plant;
};

struct actor {
    uint8_t at;                         /* enum place */
    uint8_t rounds;
    uint8_t site;                       /* who called take_idle */
    uint8_t waiter;                     /* enum waiter */
    uint8_t is_told;                    /* pl_waiter.is_woken */
    uint8_t cell;                       /* its thread was woken */
    uint8_t is_over;
    uint8_t wake;                       /* whom to wake after the lock, plus one */
    uint8_t read;                       /* of the hints and of the wish for room, read too early */
    uint8_t clear[7];
    uint64_t seen, recent;
};

struct lending {
    uint64_t word;
    uint8_t hints, is_hot, is_wanted;   /* is_hot: the peer stands in the sweep's list */
    uint8_t peer_lock, sweep_lock;      /* who has it, plus one */
    uint8_t in_idle, in_parked;         /* the connection stands in these lists */
    uint8_t is_closed;
    uint8_t owner;                      /* who has the connection, plus one */
    uint8_t is_doubled;                 /* two had it */
    uint8_t queued, queue[LENDING_ACTORS];
    uint8_t clear;
    struct actor actors[LENDING_ACTORS];
};

void lending_begin(struct lending *lending, const struct cast *cast);
bool lending_step(void *lending, unsigned actor, unsigned choice, const void *cast);
const char *lending_wrong(const void *lending, bool is_end, const void *cast);

#endif
