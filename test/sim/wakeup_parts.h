/* wakeup_parts.h: what the two halves of the model share. See wakeup.h. */
#ifndef TEST_SIM_WAKEUP_PARTS_H
#define TEST_SIM_WAKEUP_PARTS_H

#include "net/word.h"
#include "pool/peer.h"
#include "sim/wakeup.h"

enum outcome { NO_WAITER, QUEUED, SERVED, FAILED };
enum answer { NONE, LENT, CANCELED, TIMED_OUT };
enum doom { UNDOOMED, DOOMED_BY_CANCEL, DOOMED_BY_RETURN };

enum step {
    FINISHED,
    RETURN_LOOK,
    RETURN_TOUCHED,
    RETURN_FIT,
    RETURN_SWAP,
    RETURN_HINTS,
    RETURN_AGAIN, /* pool_return, return_warm */
    RETURN_CLAIM,
    RETURN_SHARED,
    RETURN_UNPIN, /* claim, end_shared */
    GIVE,
    RING, /* pl_peer_give_back */
    CLOSE,
    HOLD,
    LOCK,
    QUEUE,
    TAKE_AGAIN,
    SUPPLY, /* pl_wait_for_some, place */
    WAIT,
    LOOK, /* wait_in_queue */
    WAIT_END,
    SETTLE,
    USE,
    END, /* pl_borrow_settle_in, run_use, pl_borrow_end_ticket */
    TURN, /* the mux looks for something to do */
    OUTCOME,
    IS_FIT,
    REQUEUE,
    REQUEUE_LOCK,
    REQUEUE_LINK,
    REQUEUE_TAKE, /* on_outcome, queue_again */
    BEGIN_LOAN,
    DELIVER,
    TELL, /* begin_loan, finish */
    CANCEL,
    CANCEL_PIN,
    CANCEL_DOOM,
    CANCEL_WAIT,
    CANCEL_MARK,
    CANCEL_LET_GO,
    CANCEL_UNPIN /* pool_ticket_cancel */
};

/* One step of one player. */
struct turn {
    struct wakeup *all;
    struct wakeup_player *self;
    struct wakeup_waiting *call; /* the one that it is about */
    const struct wakeup_cast *cast;
    unsigned number, choice;
};

static inline bool wakeup_has(const struct turn *turn, enum wakeup_plant plant)
{
    return turn->cast->plants & plant;
}

static inline bool wakeup_go(struct turn *turn, enum step step)
{
    turn->self->at = (uint8_t)step;
    return true;
}

/* The word and the list of idle ones. */
void wakeup_become(struct wakeup *all, uint64_t next);
void wakeup_gain(struct wakeup *all, unsigned player);
bool wakeup_take_idle(struct turn *turn, unsigned player);

/* The queue; peer lock held. */
void wakeup_link(struct wakeup *all, enum wakeup_call which, bool is_first);
void wakeup_unlink(struct wakeup *all, enum wakeup_call which);
void wakeup_serve(struct turn *turn, enum wakeup_call which);
void wakeup_fail(struct turn *turn, enum wakeup_call which, enum answer why);

/* Returns what it has, and then goes on there. */
bool wakeup_return(struct turn *turn, enum step then);
bool wakeup_close(struct turn *turn, enum step then);

/* wakeup_calls.c */
bool wakeup_step_wait(struct turn *turn);
bool wakeup_step_mux(struct turn *turn);
bool wakeup_step_cancel(struct turn *turn);
bool wakeup_arrive(struct turn *turn);

#endif
