/* lending_parts.h: what the two halves of the model share. See lending.h. */
#ifndef TEST_SIM_LENDING_PARTS_H
#define TEST_SIM_LENDING_PARTS_H

#include "net/word.h"
#include "pool/peer.h"
#include "sim/lending.h"

enum place {
    DONE,
    WARM_LOOK,
    WARM_SWAP, /* take_recent */
    BORROW_LOCK,
    JOIN,
    WAIT,
    LOOK_LOCK, /* get_some, wait_in_queue */
    TAKE_LOOK,
    TAKE_UNLIST,
    TAKE_SWAP, /* take_listed */
    RETURN_LOOK,
    RETURN_CLEAR,
    RETURN_MARKS, /* pool_return */
    RETURN_SWAP,
    RETURN_HINTS,
    RETURN_ROOM,
    RETURN_AGAIN,
    RETURN_CLAIM,
    RETURN_UNFIT,
    GIVE_LOCK,
    GIVE_ROOM,
    GIVE_IDLE,
    GIVE_SERVE,
    GIVE_WAKE,
    CLOSE_SWAP,
    CLOSE_LOCK,
    CLOSE_TELL,
    SWEEP_POP,
    SWEEP_LOCK,
    SWEEP_TAKE,
    SWEEP_LEAVE,
    SWEEP_PARK,
    SWEEP_HINTS,
    SWEEP_ROOM,
    SWEEP_BACK,
    EVICT_LOOK,
    EVICT_SWAP, /* pl_parked_pop */
    WANT,
    WANT_LOCK,
    EVENT_LOOK,
    EVENT_SWAP,
    EVENT_LOCK,
    COPY_PIN,
    COPY_MARK,
    COPY_UNPIN
};

enum site { FIRST, JOINED, AWAKE };
enum waiter { NO_WAITER, QUEUED, SERVED, FAILED };

/* One step of one actor. */
struct move {
    struct lending *all;
    struct actor *self;
    const struct cast *cast;
    unsigned number, choice;
};

static inline bool sim_has(const struct move *move, enum plant plant)
{
    return move->cast->plants & plant;
}

bool sim_go(struct move *move, enum place place);
bool sim_next_round(struct move *move);

/* The word, and who has the connection. */
bool sim_swap(struct move *move, uint64_t seen, uint64_t next);
bool sim_swap_and_gain(struct move *move, uint64_t seen, uint64_t next);
void sim_gain(struct move *move, unsigned number);

bool sim_lock(struct move *move, uint8_t *owner); /* false: somebody has it */
void sim_unlink_waiter(struct lending *all, unsigned number);
void sim_note_hot(struct lending *all);

/* lending_room.c */
bool sim_step_close(struct move *move);
bool sim_step_sweep(struct move *move);
bool sim_step_evict(struct move *move);
bool sim_step_others(struct move *move);

#endif
