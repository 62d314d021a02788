/* lending_room.c: closing, sweeping, evicting, and the wish for room. See lending.h. */
#include "sim/lending_parts.h"

/* ---- closing */

bool sim_step_close(struct move *move)
{
    struct lending *all = move->all;

    if (move->self->at == CLOSE_SWAP) {
        sim_swap(move, all->word, pl_word_with(all->word, PL_CLOSING));
        return sim_go(move, CLOSE_LOCK);
    }
    if (!sim_lock(move, &all->peer_lock))
        return false;
    all->peer_lock = 0;
    if (move->self->at == CLOSE_LOCK) { /* remove_from_peer, pl_connection_give */
        all->in_idle = all->in_parked = 0;
        sim_swap(move, all->word, pl_word_handed(all->word & ~PL_LISTED, PL_FREE));
        all->owner = 0;
        all->is_closed = 1;
        return sim_go(move, CLOSE_TELL);
    }
    all->is_wanted = 0;
    while (all->queued) {
        struct actor *waiter = &all->actors[all->queue[0] - 1];

        waiter->waiter = FAILED;
        waiter->cell = 1;
        sim_unlink_waiter(all, all->queue[0] - 1u);
    }
    return sim_next_round(move);
}

/* ---- the sweep, which also runs for who wants room; the sweep lock is held behind SWEEP_POP */

static void unlock_sweep(struct move *move)
{
    if (move->all->sweep_lock == move->number + 1)
        move->all->sweep_lock = 0;
}

/* The end of a sweep. Who wants room looks once more at what is parked. */
static bool end_sweep(struct move *move)
{
    if (move->cast->roles[move->number] == WANTER && move->self->rounds) {
        move->self->rounds = 0;
        return sim_go(move, EVICT_LOOK);
    }
    unlock_sweep(move);
    return sim_next_round(move);
}

static bool pop_hot(struct move *move)
{
    bool is_sweeper = move->cast->roles[move->number] == SWEEPER;

    if (is_sweeper && (!move->all->is_hot || !sim_lock(move, &move->all->sweep_lock)))
        return false; /* the timer is not armed */
    if (!move->all->is_hot)
        return end_sweep(move);
    move->all->is_hot = 0;
    if (!sim_has(move, HINT_CLEARED_LATE))
        move->all->hints &= (uint8_t)~PL_HINT_HOT;
    return sim_go(move, SWEEP_LOCK);
}

static bool leave_peer(struct move *move, bool is_taken)
{
    if (sim_has(move, HINT_CLEARED_LATE)) {
        move->self->site = is_taken;
        return sim_go(move, SWEEP_LEAVE);
    }
    move->all->peer_lock = 0;
    return is_taken ? sim_go(move, SWEEP_PARK) : end_sweep(move);
}

/* Only by a planted mistake: nothing but the hint is left to do under the lock. */
static bool step_leave_peer(struct move *move)
{
    if (!move->all->is_hot)
        move->all->hints &= (uint8_t)~PL_HINT_HOT;
    move->all->peer_lock = 0;
    return move->self->site ? sim_go(move, SWEEP_PARK) : end_sweep(move);
}

static bool step_take_hot(struct move *move)
{
    struct lending *all = move->all;
    bool may_wait = move->cast->roles[move->number] == SWEEPER;

    if (move->self->at == SWEEP_TAKE) {
        bool is_taken =
            sim_swap_and_gain(move, move->self->seen, pl_word_with(move->self->seen, PL_MUX));

        all->in_parked = is_taken ? 0 : all->in_parked;
        return leave_peer(move, is_taken);
    }
    move->self->seen = all->word;
    if (!all->in_idle || pl_word_state(all->word) != PL_IDLE)
        return !move->choice && leave_peer(move, false);
    if (!move->choice)
        return sim_go(move, SWEEP_TAKE);
    if (!may_wait)
        return false;
    sim_note_hot(all); /* it is too early for this one */
    return leave_peer(move, false);
}

static bool step_park(struct move *move)
{
    struct lending *all = move->all;
    struct actor *self = move->self;

    switch (self->at) {
    case SWEEP_PARK:
        all->in_parked = 1;
        self->seen = pl_word_with(all->word, PL_PARKED);
        sim_swap(move, all->word, self->seen);
        all->owner = 0;
        return sim_go(move, SWEEP_HINTS);
    case SWEEP_HINTS:
        if ((all->hints & ~PL_HINT_HOT) && !sim_has(move, PARK_AND_FORGET))
            return sim_go(move, SWEEP_BACK);
        return sim_go(move, SWEEP_ROOM);
    case SWEEP_ROOM:
        if (all->is_wanted && !sim_has(move, PARK_WITHOUT_ROOM))
            return sim_go(move, SWEEP_BACK);
        return end_sweep(move);
    default:
        if (!sim_swap_and_gain(move, self->seen, pl_word_with(self->seen, PL_MUX)))
            return end_sweep(move);
        all->in_parked = 0;
        unlock_sweep(move); /* tend_rest comes after the sweep */
        return sim_go(move, GIVE_LOCK);
    }
}

bool sim_step_sweep(struct move *move)
{
    switch (move->self->at) {
    case SWEEP_POP:
        return pop_hot(move);
    case SWEEP_LOCK:
        return sim_lock(move, &move->all->peer_lock) && step_take_hot(move);
    case SWEEP_LEAVE:
        return step_leave_peer(move);
    case SWEEP_TAKE:
        return step_take_hot(move);
    default:
        return step_park(move);
    }
}

/* ---- eviction, the wish for room, events */

static bool found_none(struct move *move)
{
    if (move->cast->roles[move->number] == EVICTOR)
        return sim_next_round(move);
    if (move->self->rounds)
        return sim_go(move, SWEEP_POP);
    if (sim_has(move, WISH_LATE))
        move->all->is_wanted = 1;
    unlock_sweep(move);
    return sim_next_round(move);
}

bool sim_step_evict(struct move *move)
{
    struct lending *all = move->all;
    uint64_t seen = move->self->seen, next = pl_word_with(seen, PL_CLOSING);

    if (move->self->at == EVICT_LOOK) {
        move->self->seen = all->word;
        if (all->in_parked && pl_word_state(all->word) == PL_PARKED)
            return sim_go(move, EVICT_SWAP);
        all->in_parked = 0;
        return found_none(move);
    }
    if (sim_has(move, EVICT_BY_STORE)) {
        all->word = next;
        sim_gain(move, move->number);
    } else if (!sim_swap_and_gain(move, seen, next)) {
        return sim_go(move, EVICT_LOOK);
    }
    all->in_parked = 0;
    if (move->cast->roles[move->number] == WANTER)
        unlock_sweep(move);
    return sim_go(move, CLOSE_LOCK);
}

bool sim_step_others(struct move *move)
{
    struct lending *all = move->all;

    switch (move->self->at) {
    case WANT:
        all->is_wanted = !sim_has(move, WISH_LATE);
        return sim_go(move, WANT_LOCK);
    case WANT_LOCK:
        if (sim_has(move, WANT_WITHOUT_LOCK))
            return !move->choice && sim_go(move, EVICT_LOOK);
        /* pl_room_evict pops first, or sweeps first */
        return sim_lock(move, &all->sweep_lock) &&
               sim_go(move, move->choice ? SWEEP_POP : EVICT_LOOK);
    case EVENT_LOOK:
        move->self->seen = all->word;
        return pl_word_state(all->word) == PL_PARKED ? sim_go(move, EVENT_SWAP)
                                                     : sim_next_round(move);
    case EVENT_SWAP:
        if (!sim_swap_and_gain(move, move->self->seen, pl_word_with(move->self->seen, PL_MUX)))
            return sim_go(move, EVENT_LOOK);
        all->in_parked = 0;
        return sim_go(move, move->choice ? CLOSE_SWAP : EVENT_LOCK); /* its end, or nothing */
    default:
        return sim_lock(move, &all->sweep_lock) && sim_go(move, SWEEP_PARK); /* pl_room_park_one */
    }
}
