/* wakeup.h: one connection, one caller who blocks, one call that is asynchronous, somebody who
 * cancels one of the two, and deadlines, as a model for explore.h.
 *
 * lending.h looks closely at the word and at those who look for connections; this one at what ends
 * a wait: the return, the grant, the deadline, the cancel, the delivery, and a connection that
 * turns out to be no good on the way. A step is one access to what others see without a lock, or
 * all that happens under a lock between two such accesses; an atomic operation that is tried until
 * it succeeds is one step. It models the order of the steps in
 *     lib/pool/wait.c        pl_wait_join, wait_in_queue, look_around
 *     lib/pool/waiter.c      pl_waiter_serve, pl_waiter_fail, pass_call_on
 *     lib/pool/request.c     place, on_outcome, on_deadline, queue_again, begin_loan, finish
 *     lib/pool/ticket.c      all
 *     lib/pool/peer.c        give_back, pl_peer_supply as far as one connection goes
 *     lib/pool/give_back.c   pool_return, claim, end_shared
 * and the places of the model name their originals. Time is not: whatever depends on it may go
 * either way. When the connection is closed, another one is opened for who waits. */
#ifndef TEST_SIM_WAKEUP_H
#define TEST_SIM_WAKEUP_H

#include <stdbool.h>
#include <stdint.h>

enum wakeup_actor {
    HOLDER, /* has the connection, and returns it */
    BLOCKING, /* pool_communicate() */
    STARTER, /* begins the asynchronous call; the mux ends it */
    MUX,
    CANCELER,
    WAKEUP_ACTORS
};

enum wakeup_call { BLOCKING_CALL, ASYNC_CALL, WAKEUP_CALLS };

/* What is broken on purpose; some mistakes do harm only together. */
enum wakeup_plant {
    SOUND = 0,
    JOIN_WITHOUT_LOOK = 1, /* who queues does not look at what is idle after the hint */
    KEEP_CALL = 2, /* who leaves does not pass on that he was told to look */
    TELL_ASYNC = 4, /* an asynchronous waiter is told to look, and cannot */
    DELIVER_BLINDLY = 8, /* a canceled call gets its connection all the same */
    BLIND_DEADLINE = 16, /* the deadline fails a waiter that is served already */
    CANCEL_WITHOUT_PIN = 32, /* the loan is marked by who looked at it earlier */
    QUEUE_UNSEEN = 64, /* who queues again cannot be found by its ticket */
    WAKE_BY_HINT = 128, /* a warm return looks for waiters before its swap */
    CANCEL_LATE = 256, /* the ticket is marked after its lock was let go */
    LEFT_LISTED = 512 /* one that is lent stays in the list of idle ones */
};

struct wakeup_cast {
    enum wakeup_call canceled;
    bool has_canceler;
    bool may_time_out[WAKEUP_CALLS];
    bool may_be_unfit; /* once, on its way to the asynchronous call */
    bool is_cold; /* the holder's connection is not in the list of idle ones */
    unsigned plants;
};

/* A call, its waiter and its ticket. */
struct wakeup_waiting {
    uint8_t state; /* enum outcome */
    uint8_t is_told; /* pl_waiter.is_woken */
    uint8_t is_rung; /* its thread was woken; or its post is under way */
    uint8_t has_timer, was_unfit;
    uint8_t why; /* enum answer, of a failure */
    uint8_t answers, answer, is_doomed; /* is_doomed: its loan was ended by the cancel */
    uint8_t ticket_lock, knows_waiter, is_canceled, is_over;
    uint64_t loan; /* the serial of it, plus one */
};

struct wakeup_player {
    uint8_t at, then; /* enum step; then: where it goes on after a return */
    uint8_t wakes, is_over, is_pinned, is_in_time, hint, is_bad;
    uint64_t seen, serial;
};

struct wakeup {
    uint64_t word;
    uint8_t hints, peer_lock; /* who has it, plus one */
    uint8_t in_idle, doom, is_coming;
    uint8_t owner; /* who has the connection, plus one */
    uint8_t is_doubled, is_illegal;
    uint8_t queued, queue[WAKEUP_CALLS]; /* calls, plus one */
    uint8_t cancel_said; /* 0: nothing yet; 1: too late; 2: in time */
    struct wakeup_waiting calls[WAKEUP_CALLS];
    struct wakeup_player players[WAKEUP_ACTORS];
};

void wakeup_begin(struct wakeup *wakeup, const struct wakeup_cast *cast);
bool wakeup_step(void *wakeup, unsigned actor, unsigned choice, const void *cast);
const char *wakeup_wrong(const void *wakeup, bool is_end, const void *cast);

#endif
