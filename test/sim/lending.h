/* lending.h: one connection, its peer, and those who lend, take back, park and close it, as a
 * model for explore.h.
 *
 * A step is one access to what others see without a lock, or all that happens under a lock
 * between two such accesses; taking a lock and the first look behind it are one. The word and
 * its moves are the library's own (net/word.h). What is modelled is the order of the steps in
 *     lib/pool/borrow.c      take_recent, get_some, join_queue, wait_in_queue, look_around
 *     lib/pool/give_back.c   pool_return, return_warm, claim, end_shared
 *     lib/pool/peer.c        take_listed, give_back, make_idle, call_waiter, look_again, close
 *     lib/pool/room.c        pop_hot, take_hot, park, want, evict, note_hot
 *     lib/pool/parked.c      pl_parked_pop
 *     lib/pool/watch.c       on_parked_event
 * and the parts of the model name their originals. Time is not: whatever depends on it may go
 * either way. Memory is as the library asks for it, sequentially consistent where two look at
 * each other.
 *
 * When the connection is closed, those who wait are told at once; the library would open another
 * one for them. */
#ifndef TEST_SIM_LENDING_H
#define TEST_SIM_LENDING_H

#include <stdbool.h>
#include <stdint.h>

#define LENDING_ACTORS 4

/* The copier does one operation on a copy of the handle that the first actor has. */
enum role { NOBODY, BORROWER, SWEEPER, EVICTOR, WANTER, EVENT, COPIER };

/* What is broken on purpose; some mistakes do harm only together. */
enum plant {
    AS_BUILT = 0,
    HINT_IGNORED = 1, /* return_warm never looks for waiters */
    HINT_BEFORE_SWAP = 2, /* return_warm looks for waiters, then gives back */
    NO_SECOND_LOOK = 4, /* join_queue does not look at the idle ones after the hint */
    LEFT_LISTED = 8, /* take_listed leaves one that is lent in the list */
    BLIND_TIMEOUT = 16, /* whose time is over leaves without looking at his state */
    LATE_GRANT = 32, /* the outcome is written after the lock is let go */
    EVICT_BY_STORE = 64, /* the word is looked at, then overwritten */
    TAKE_BY_STORE = 128, /* the same, by a borrower from memory */
    HINT_CLEARED_LATE = 256, /* the sweep takes the hint away after it has looked */
    PARK_AND_FORGET = 512, /* the sweep does not look for waiters after parking */
    PARK_WITHOUT_ROOM = 1024, /* the sweep does not look who wants room after parking */
    WANT_WITHOUT_LOCK = 2048, /* who wants room evicts while a sweep is under way */
    WISH_LATE = 4096, /* who wants room evicts, and only then says so */
    NO_TRACE = 8192, /* an operation leaves nothing in the word once it is over */
    TRACE_CLEARED_LATE = 16384 /* a return looks at what is left behind, then clears the trace */
};

struct cast {
    enum role roles[LENDING_ACTORS];
    uint8_t rounds[LENDING_ACTORS]; /* borrows, sweeps */
    bool may_time_out[LENDING_ACTORS];
    bool is_held; /* the first actor has the connection; else it is parked */
    unsigned plants; /* bits of enum plant */
};

struct actor {
    uint8_t at; /* enum place */
    uint8_t rounds;
    uint8_t site; /* who called take_idle */
    uint8_t waiter; /* enum waiter */
    uint8_t is_told; /* pl_waiter.is_woken */
    uint8_t cell; /* its thread was woken */
    uint8_t is_over;
    uint8_t wake; /* whom to wake after the lock, plus one */
    uint8_t read; /* the hint, too early */
    uint8_t clear[7];
    uint64_t seen, recent;
};

struct lending {
    uint64_t word;
    uint8_t hints, is_hot, is_wanted; /* is_hot: the peer stands in the sweep's list */
    uint8_t peer_lock, sweep_lock; /* who has it, plus one */
    uint8_t in_idle, in_parked; /* the connection stands in these lists */
    uint8_t is_closed;
    uint8_t is_dirty; /* lease.marks: the copier's operation left something behind */
    uint8_t owner; /* who has the connection, plus one */
    uint8_t is_doubled, is_illegal; /* two had it; it made a move that does not exist */
    uint8_t queued, queue[LENDING_ACTORS];
    struct actor actors[LENDING_ACTORS];
};

void lending_begin(struct lending *lending, const struct cast *cast);
bool lending_step(void *lending, unsigned actor, unsigned choice, const void *cast);
const char *lending_wrong(const void *lending, bool is_end, const void *cast);

#endif
