/* lending.c: borrowing, waiting, returning, and the model as a whole. See lending.h. */
#include "sim/lending_parts.h"

#include <string.h>

bool sim_go(struct move *move, enum place place)
{
    move->self->at = (uint8_t)place;
    return true;
}

/* ---- the word, and who has the connection */

bool sim_swap(struct move *move, uint64_t seen, uint64_t next)
{
    if (move->all->word != seen)
        return false;
    if (!pl_word_is_legal(pl_word_state(seen), pl_word_state(next)))
        move->all->is_illegal = 1;
    move->all->word = next;
    return true;
}

void sim_gain(struct move *move, unsigned number)
{
    if (move->all->owner)
        move->all->is_doubled = 1;
    move->all->owner = (uint8_t)(number + 1);
}

bool sim_swap_and_gain(struct move *move, uint64_t seen, uint64_t next)
{
    if (!sim_swap(move, seen, next))
        return false;
    sim_gain(move, move->number);
    return true;
}

static bool is_idle(uint64_t word)
{
    return pl_word_state(word) == PL_IDLE || pl_word_state(word) == PL_PARKED;
}

/* ---- locks and waiters */

bool sim_lock(struct move *move, uint8_t *owner)
{
    if (*owner)
        return false;
    *owner = (uint8_t)(move->number + 1);
    return true;
}

void sim_unlink_waiter(struct lending *all, unsigned number)
{
    unsigned place = 0;

    while (place < all->queued && all->queue[place] != number + 1)
        place++;
    if (place == all->queued)
        return; /* by a planted mistake it was let go before it knew */
    all->queued--;
    memmove(&all->queue[place], &all->queue[place + 1], (size_t)all->queued - place);
    all->queue[all->queued] = 0;
    if (!all->queued)
        all->hints &= (uint8_t)~PL_HINT_WAITERS;
}

void sim_note_hot(struct lending *all)
{
    all->hints |= PL_HINT_HOT;
    all->is_hot = 1;
}

/* ---- what comes next */

bool sim_next_round(struct move *move)
{
    struct actor *self = move->self;

    self->seen = self->read = self->is_over = self->site = 0;
    if (move->cast->roles[move->number] == BORROWER && self->rounds) {
        self->rounds--;
        return sim_go(move, WARM_LOOK);
    }
    if (move->cast->roles[move->number] == SWEEPER && self->rounds) {
        self->rounds--;
        return sim_go(move, SWEEP_POP);
    }
    self->recent = 0;
    return sim_go(move, DONE);
}

/* ---- borrowing */

static bool got_one(struct move *move)
{
    if (move->self->site != FIRST) {
        sim_unlink_waiter(move->all, move->number);
        move->self->waiter = NO_WAITER;
    }
    move->all->peer_lock = 0;
    return sim_go(move, RETURN_LOOK);
}

static bool got_none(struct move *move)
{
    if (move->self->site == FIRST)
        return sim_go(move, JOIN);
    move->all->peer_lock = 0;
    move->self->seen = 0;
    if (!move->self->is_over)
        return sim_go(move, WAIT);
    sim_unlink_waiter(move->all, move->number); /* the lock is still ours: nobody moved since */
    move->self->waiter = NO_WAITER;
    return sim_next_round(move);
}

static bool step_warm(struct move *move)
{
    struct actor *self = move->self;
    uint64_t next;

    if (self->at == WARM_LOOK) {
        self->seen = move->all->word;
        if (!self->recent ||
            (self->seen != self->recent && self->seen != pl_word_with(self->recent, PL_PARKED)))
            return sim_go(move, BORROW_LOCK);
        return sim_go(move, WARM_SWAP);
    }
    next = pl_word_handed(self->seen, PL_LENT);
    if (sim_has(move, TAKE_BY_STORE)) {
        move->all->word = next;
        sim_gain(move, move->number);
        return sim_go(move, RETURN_LOOK);
    }
    return sim_go(move, sim_swap_and_gain(move, self->seen, next) ? RETURN_LOOK : BORROW_LOCK);
}

/* take_listed, of the only connection there is */
static bool step_take(struct move *move)
{
    struct lending *all = move->all;
    uint64_t seen = move->self->seen;

    switch (move->self->at) {
    case TAKE_LOOK:
        move->self->seen = all->word;
        if (all->in_idle && pl_word_state(all->word) == PL_LENT)
            return sim_has(move, LEFT_LISTED) ? got_none(move) : sim_go(move, TAKE_UNLIST);
        return all->in_idle && is_idle(all->word) ? sim_go(move, TAKE_SWAP) : got_none(move);
    case TAKE_UNLIST:
        if (all->word != seen)
            return sim_go(move, TAKE_LOOK);
        all->word = seen & ~PL_LISTED;
        all->in_idle = 0;
        return got_none(move);
    default:
        if (!sim_swap_and_gain(move, seen, pl_word_handed(seen & ~PL_LISTED, PL_LENT)))
            return sim_go(move, TAKE_LOOK);
        all->in_idle = 0;
        return got_one(move);
    }
}

static bool take_idle(struct move *move, enum site site)
{
    move->self->site = (uint8_t)site;
    move->self->at = TAKE_LOOK;
    return step_take(move); /* the first look comes with the lock */
}

static bool step_join(struct move *move)
{
    struct lending *all = move->all;
    bool may_pass = !all->queued || !move->choice;

    if (move->choice && !all->queued)
        return false;
    if (all->is_closed) {
        all->peer_lock = 0;
        return sim_next_round(move); /* another connection is opened for it */
    }
    all->queue[all->queued++] = (uint8_t)(move->number + 1);
    move->self->waiter = QUEUED;
    move->self->is_told = 0;
    all->hints |= PL_HINT_WAITERS;
    if (may_pass && !sim_has(move, NO_SECOND_LOOK))
        return take_idle(move, JOINED);
    all->peer_lock = 0;
    return sim_go(move, WAIT);
}

static bool step_wait(struct move *move)
{
    struct actor *self = move->self;

    if (self->at == WAIT) {
        if (move->choice &&
            (!move->cast->may_time_out[move->number] || self->is_over || self->cell))
            return false;
        if (!move->choice && !self->cell)
            return false;
        self->cell = 0;
        self->is_over = (uint8_t)move->choice;
        return sim_go(move, LOOK_LOCK);
    }
    if (!sim_lock(move, &move->all->peer_lock))
        return false;
    if (self->waiter != QUEUED && !(sim_has(move, BLIND_TIMEOUT) && self->is_over)) {
        bool is_served = self->waiter == SERVED;

        move->all->peer_lock = 0;
        self->waiter = NO_WAITER;
        return is_served ? sim_go(move, RETURN_LOOK) : sim_next_round(move);
    }
    if (self->waiter != QUEUED) {
        move->all->peer_lock = 0;
        return sim_next_round(move);
    }
    self->is_told = 0;
    return take_idle(move, AWAKE);
}

static bool step_borrow(struct move *move)
{
    switch (move->self->at) {
    case BORROW_LOCK:
        if ((move->choice && !move->all->queued) || !sim_lock(move, &move->all->peer_lock))
            return false;
        return move->choice ? sim_go(move, JOIN) : take_idle(move, FIRST);
    case JOIN:
        return step_join(move);
    default:
        return step_wait(move);
    }
}

/* ---- returning */

static bool is_more_to_do(const struct move *move)
{
    if (sim_has(move, HINT_BEFORE_SWAP))
        return move->self->read;
    if (sim_has(move, HINT_IGNORED))
        return !(move->all->hints & PL_HINT_HOT);
    return move->all->hints != PL_HINT_HOT;
}

/* What it is given back as: warm, or claimed first. */
static bool after_marks(struct move *move)
{
    struct actor *self = move->self;
    bool is_warm = !self->is_over && (self->seen & PL_LISTED) &&
                   !(self->seen & (PL_PIN_MASK | PL_TOUCHED));

    self->is_over = 0;
    if (is_warm)
        return sim_go(move, RETURN_SWAP);
    self->seen = self->read = 0;
    return sim_go(move, RETURN_CLAIM);
}

static bool clear_trace(struct move *move)
{
    struct actor *self = move->self;

    if (sim_swap(move, self->seen, self->seen & ~PL_TOUCHED))
        self->seen &= ~PL_TOUCHED;
    return sim_has(move, TRACE_CLEARED_LATE) ? after_marks(move) : sim_go(move, RETURN_MARKS);
}

static bool look_at_marks(struct move *move)
{
    struct actor *self = move->self;

    self->is_over = move->all->is_dirty;
    if (sim_has(move, TRACE_CLEARED_LATE) && (self->seen & PL_TOUCHED))
        return sim_go(move, RETURN_CLEAR);
    return after_marks(move);
}

static bool look_before_return(struct move *move)
{
    struct actor *self = move->self;

    self->seen = move->all->word;
    self->read = sim_has(move, HINT_BEFORE_SWAP) && move->all->hints != PL_HINT_HOT;
    if ((self->seen & PL_TOUCHED) && !sim_has(move, TRACE_CLEARED_LATE))
        return sim_go(move, RETURN_CLEAR);
    return sim_go(move, RETURN_MARKS);
}

/* claim; with an operation under way, end_shared */
static bool claim(struct move *move)
{
    struct lending *all = move->all;

    if (all->word & PL_PIN_MASK) {
        sim_swap(move, all->word, pl_word_with(all->word, PL_ENDING));
        all->owner = 0;
        return sim_next_round(move);
    }
    sim_swap(move, all->word, pl_word_with(all->word, PL_MUX));
    return sim_go(move, RETURN_UNFIT);
}

static bool step_return(struct move *move)
{
    struct lending *all = move->all;
    struct actor *self = move->self;

    switch (self->at) {
    case RETURN_LOOK:
        return look_before_return(move);
    case RETURN_CLEAR:
        return clear_trace(move);
    case RETURN_MARKS:
        return look_at_marks(move);
    case RETURN_SWAP:
        self->recent = pl_word_with(self->seen, PL_IDLE);
        if (!sim_swap(move, self->seen, self->recent))
            return sim_go(move, RETURN_CLAIM);
        all->owner = 0;
        return sim_go(move, RETURN_HINTS);
    case RETURN_HINTS:
        return sim_go(move, is_more_to_do(move) ? RETURN_AGAIN : RETURN_ROOM);
    case RETURN_ROOM:
        if (all->is_wanted)
            return sim_go(move, RETURN_AGAIN);
        return sim_next_round(move);
    case RETURN_AGAIN: /* pl_peer_look_again */
        if (!sim_swap_and_gain(move, self->recent, pl_word_with(self->recent, PL_MUX)))
            return sim_next_round(move);
        return sim_go(move, GIVE_LOCK);
    case RETURN_CLAIM:
        return claim(move);
    default: /* return_cold */
        if (all->is_dirty)
            return sim_go(move, CLOSE_SWAP);
        self->recent = (pl_word_with(all->word, PL_IDLE) & ~PL_TOUCHED) | PL_LISTED;
        return sim_go(move, GIVE_LOCK);
    }
}

/* ---- an operation on a copy of the handle: enter, the mark, leave */

static bool step_copy(struct move *move)
{
    struct lending *all = move->all;

    switch (move->self->at) {
    case COPY_PIN:
        if (!pl_word_is_held(all->word) || pl_word_serial(all->word) != move->self->seen)
            return sim_next_round(move); /* it is stale */
        all->word += PL_PIN;
        if (!sim_has(move, NO_TRACE))
            all->word |= PL_TOUCHED;
        return sim_go(move, COPY_MARK);
    case COPY_MARK:
        all->is_dirty |= !move->choice; /* a question leaves nothing */
        return sim_go(move, COPY_UNPIN);
    default:
        all->word -= PL_PIN;
        if (pl_word_state(all->word) != PL_ENDING)
            return sim_next_round(move);
        sim_swap(move, all->word, pl_word_with(all->word, PL_CLOSING));
        sim_gain(move, move->number);
        return sim_go(move, CLOSE_LOCK);
    }
}

/* ---- pl_peer_give_back: the connection is MUX and this actor's */

static void call_waiter(struct move *move)
{
    struct lending *all = move->all;

    for (unsigned i = 0; i < all->queued; i++) {
        struct actor *waiter = &all->actors[all->queue[i] - 1];

        if (!waiter->is_told) {
            waiter->is_told = 1;
            move->self->wake = all->queue[i];
            return;
        }
    }
}

static bool serve(struct move *move)
{
    struct lending *all = move->all;
    unsigned first = all->queue[0] - 1u;

    sim_swap(move, all->word, pl_word_handed(all->word, PL_LENT));
    all->owner = (uint8_t)(first + 1);
    sim_unlink_waiter(all, first);
    if (!sim_has(move, LATE_GRANT))
        all->actors[first].waiter = SERVED;
    move->self->wake = (uint8_t)(first + 1);
    all->peer_lock = 0;
    return sim_go(move, GIVE_WAKE);
}

static bool make_idle(struct move *move)
{
    struct lending *all = move->all;

    all->in_idle = 1;
    sim_swap(move, all->word, (pl_word_with(all->word, PL_IDLE) & ~PL_TOUCHED) | PL_LISTED);
    all->owner = 0;
    call_waiter(move);
    all->peer_lock = 0;
    return move->self->wake ? sim_go(move, GIVE_WAKE) : sim_next_round(move);
}

static bool wake(struct move *move)
{
    struct actor *woken = &move->all->actors[move->self->wake - 1];

    if (sim_has(move, LATE_GRANT) && move->all->owner == move->self->wake)
        woken->waiter = SERVED;
    woken->cell = 1;
    move->self->wake = 0;
    return sim_next_round(move);
}

static bool step_give(struct move *move)
{
    struct lending *all = move->all;

    switch (move->self->at) {
    case GIVE_LOCK:
        if ((move->choice && !all->queued) || !sim_lock(move, &all->peer_lock))
            return false;
        if (move->choice)
            return sim_go(move, GIVE_SERVE);
        if (!(all->hints & PL_HINT_HOT))
            sim_note_hot(all);
        return sim_go(move, GIVE_ROOM);
    case GIVE_ROOM:
        if (!all->is_wanted)
            return sim_go(move, GIVE_IDLE);
        all->peer_lock = 0;
        return sim_go(move, CLOSE_SWAP);
    case GIVE_IDLE:
        return make_idle(move);
    case GIVE_SERVE:
        return serve(move);
    default:
        return wake(move);
    }
}

/* ---- the model */

bool lending_step(void *state, unsigned number, unsigned choice, const void *cast)
{
    struct lending *all = state;
    struct move move = { all, &all->actors[number], cast, number, choice };
    enum place at = (enum place)all->actors[number].at;
    bool may_choose = at == BORROW_LOCK || at == JOIN || at == WAIT || at == GIVE_LOCK ||
                      at == SWEEP_LOCK || at == EVENT_SWAP || at == WANT_LOCK || at == COPY_MARK;

    if (at == DONE || (choice && !may_choose))
        return false;
    if (at <= WARM_SWAP)
        return step_warm(&move);
    if (at <= LOOK_LOCK)
        return step_borrow(&move);
    if (at <= TAKE_SWAP)
        return step_take(&move);
    if (at <= RETURN_UNFIT)
        return step_return(&move);
    if (at <= GIVE_WAKE)
        return step_give(&move);
    if (at <= CLOSE_TELL)
        return sim_step_close(&move);
    if (at <= SWEEP_BACK)
        return sim_step_sweep(&move);
    if (at >= COPY_PIN)
        return step_copy(&move);
    return at <= EVICT_SWAP ? sim_step_evict(&move) : sim_step_others(&move);
}

void lending_begin(struct lending *all, const struct cast *cast)
{
    static const enum place first[] = { [BORROWER] = WARM_LOOK,
                                        [SWEEPER] = SWEEP_POP,
                                        [WANTER] = WANT,
                                        [EVICTOR] = EVICT_LOOK,
                                        [EVENT] = EVENT_LOOK,
                                        [COPIER] = COPY_PIN };

    memset(all, 0, sizeof(*all));
    all->word = PL_LISTED | (cast->is_held ? PL_LENT : PL_PARKED);
    all->in_idle = 1;
    all->hints = cast->is_held ? PL_HINT_HOT : 0;
    all->is_hot = cast->is_held;
    all->in_parked = !cast->is_held;
    for (unsigned i = 0; i < LENDING_ACTORS; i++) {
        all->actors[i].at = (uint8_t)first[cast->roles[i]];
        all->actors[i].rounds = cast->rounds[i];
        if (cast->roles[i] == COPIER)
            all->actors[i].seen = pl_word_serial(all->word);
    }
    if (cast->is_held) {
        all->actors[0].at = RETURN_LOOK;
        all->owner = 1;
    } else {
        all->actors[0].recent = pl_word_with(all->word, PL_IDLE);
    }
}

static const char *wrong_in_the_end(const struct lending *all, const struct cast *cast)
{
    enum pl_state state = pl_word_state(all->word);

    for (unsigned i = 0; i < LENDING_ACTORS; i++) {
        if (all->actors[i].at == WAIT)
            return "a waiter sleeps for ever";
        if (all->actors[i].at != DONE && cast->roles[i] != SWEEPER)
            return "somebody cannot go on";
    }
    if (all->peer_lock || all->sweep_lock)
        return "a lock is held";
    if (all->is_closed)
        return NULL;
    if (all->owner || !is_idle(all->word))
        return "the connection is with somebody who left";
    if (!all->in_idle || !(all->word & PL_LISTED))
        return "the connection is idle, and nobody can find it";
    if (state == PL_IDLE && !(all->is_hot && (all->hints & PL_HINT_HOT)))
        return "the connection is hot, and no sweep will look at it";
    if (state == PL_PARKED && !all->in_parked)
        return "the connection is parked, and cannot be evicted";
    if (all->is_wanted)
        return "somebody wants room, and an idle connection stays";
    return all->hints & PL_HINT_WAITERS ? "the hint speaks of waiters, and there are none" : NULL;
}

const char *lending_wrong(const void *state, bool is_end, const void *cast)
{
    const struct lending *all = state;

    if (all->is_doubled)
        return "two have the connection at once";
    if (all->is_illegal)
        return "a move that does not exist";
    if (all->is_dirty && is_idle(all->word))
        return "what an operation left behind is kept for the next borrower";
    return is_end ? wrong_in_the_end(all, cast) : NULL;
}
