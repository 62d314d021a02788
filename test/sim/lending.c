/* lending.c: see lending.h. */
#include "sim/lending.h"

#include <string.h>

#include "net/word.h"
#include "pool/peer.h"

enum place {
    DONE,
    WARM_LOOK, WARM_SWAP,                               /* take_recent */
    BORROW_LOCK, JOIN, WAIT, LOOK_LOCK,                 /* get_some, wait_in_queue */
    TAKE_LOOK, TAKE_UNLIST, TAKE_SWAP,                  /* take_listed */
    RETURN_LOOK, RETURN_SWAP, RETURN_HINTS, RETURN_ROOM, RETURN_AGAIN, RETURN_CLAIM,
    GIVE_LOCK, GIVE_HOT, GIVE_ROOM, GIVE_IDLE, GIVE_SERVE, GIVE_WAKE,
    CLOSE_SWAP, CLOSE_LOCK, CLOSE_TELL,
    SWEEP_POP, SWEEP_LOCK, SWEEP_LOOK, SWEEP_TAKE, SWEEP_PARK, SWEEP_HINTS, SWEEP_ROOM, SWEEP_BACK,
    EVICT_LOOK, EVICT_SWAP,                             /* pop_parked */
    WANT, WANT_LOCK,
    EVENT_LOOK, EVENT_SWAP, EVENT_LOCK
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

static bool go(struct move *move, enum place place)
{
    move->self->at = (uint8_t)place;
    return true;
}

/* ---- the word, and who has the connection */

static bool swap(struct move *move, uint64_t seen, uint64_t next)
{
    _Atomic uint64_t word = move->all->word;
    bool is_first = pl_word_become(&word, seen, next);

    move->all->word = atomic_load(&word);
    return is_first;
}

static void gain(struct move *move, unsigned number)
{
    if (move->all->owner)
        move->all->is_doubled = 1;
    move->all->owner = (uint8_t)(number + 1);
}

static bool swap_and_gain(struct move *move, uint64_t seen, uint64_t next)
{
    if (!swap(move, seen, next))
        return false;
    gain(move, move->number);
    return true;
}

static bool is_idle(uint64_t word)
{
    return pl_word_state(word) == PL_IDLE || pl_word_state(word) == PL_PARKED;
}

/* ---- locks and waiters */

static bool lock(struct move *move, uint8_t *owner)
{
    if (*owner)
        return false;
    *owner = (uint8_t)(move->number + 1);
    return true;
}

static void unlink_waiter(struct lending *all, unsigned number)
{
    unsigned place = 0;

    while (all->queue[place] != number + 1)
        place++;
    all->queued--;
    memmove(&all->queue[place], &all->queue[place + 1], (size_t)all->queued - place);
    all->queue[all->queued] = 0;
    if (!all->queued)
        all->hints &= (uint8_t)~PL_HINT_WAITERS;
}

static void note_hot(struct lending *all)
{
    all->hints |= PL_HINT_HOT;
    all->is_hot = 1;
}

/* ---- what comes next */

static bool next_round(struct move *move)
{
    struct actor *self = move->self;

    self->seen = self->read = self->is_over = self->site = 0;
    if (move->cast->roles[move->number] == BORROWER && self->rounds) {
        self->rounds--;
        return go(move, WARM_LOOK);
    }
    if (move->cast->roles[move->number] == SWEEPER && self->rounds) {
        self->rounds--;
        return go(move, SWEEP_POP);
    }
    self->recent = 0;
    return go(move, DONE);
}

/* The end of a sweep. Who wants room looks once more at what is parked. */
static bool end_sweep(struct move *move)
{
    if (move->cast->roles[move->number] == WANTER && move->self->rounds) {
        move->self->rounds = 0;
        return go(move, EVICT_LOOK);
    }
    move->all->sweep_lock = 0;
    return next_round(move);
}

/* ---- borrowing */

static bool got_one(struct move *move)
{
    if (move->self->site != FIRST) {
        unlink_waiter(move->all, move->number);
        move->self->waiter = NO_WAITER;
    }
    move->all->peer_lock = 0;
    return go(move, RETURN_LOOK);
}

static bool got_none(struct move *move)
{
    if (move->self->site == FIRST)
        return go(move, JOIN);
    move->all->peer_lock = 0;
    if (!move->self->is_over)
        return go(move, WAIT);
    unlink_waiter(move->all, move->number);     /* the lock is still ours: nobody moved since */
    move->self->waiter = NO_WAITER;
    return next_round(move);
}

static bool step_warm(struct move *move)
{
    struct actor *self = move->self;
    uint64_t next;

    if (self->at == WARM_LOOK) {
        self->seen = move->all->word;
        if (!self->recent || (self->seen != self->recent &&
                              self->seen != pl_word_with(self->recent, PL_PARKED)))
            return go(move, BORROW_LOCK);
        return go(move, WARM_SWAP);
    }
    next = pl_word_handed(self->seen, PL_LENT);
    if (move->cast->plant == TAKE_BY_STORE) {
        move->all->word = next;
        gain(move, move->number);
        return go(move, RETURN_LOOK);
    }
    return go(move, swap_and_gain(move, self->seen, next) ? RETURN_LOOK : BORROW_LOCK);
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
            return go(move, TAKE_UNLIST);
        return all->in_idle && is_idle(all->word) ? go(move, TAKE_SWAP) : got_none(move);
    case TAKE_UNLIST:
        if (all->word != seen)
            return go(move, TAKE_LOOK);
        all->word = seen & ~PL_LISTED;
        all->in_idle = 0;
        return got_none(move);
    default:
        if (!swap_and_gain(move, seen, pl_word_handed(seen & ~PL_LISTED, PL_LENT)))
            return go(move, TAKE_LOOK);
        all->in_idle = 0;
        return got_one(move);
    }
}

static bool take_idle(struct move *move, enum site site)
{
    move->self->site = (uint8_t)site;
    return go(move, TAKE_LOOK);
}

static bool step_join(struct move *move)
{
    struct lending *all = move->all;
    bool may_pass = !all->queued || !move->choice;

    if (move->choice && !all->queued)
        return false;
    if (all->is_closed) {
        all->peer_lock = 0;
        return next_round(move);                /* another connection is opened for it */
    }
    all->queue[all->queued++] = (uint8_t)(move->number + 1);
    move->self->waiter = QUEUED;
    move->self->is_told = 0;
    all->hints |= PL_HINT_WAITERS;
    if (may_pass && move->cast->plant != NO_SECOND_LOOK)
        return take_idle(move, JOINED);
    all->peer_lock = 0;
    return go(move, WAIT);
}

static bool step_wait(struct move *move)
{
    struct actor *self = move->self;

    if (self->at == WAIT) {
        if (move->choice && (!move->cast->may_time_out[move->number] || self->is_over || self->cell))
            return false;
        if (!move->choice && !self->cell)
            return false;
        self->cell = 0;
        self->is_over = (uint8_t)move->choice;
        return go(move, LOOK_LOCK);
    }
    if (!lock(move, &move->all->peer_lock))
        return false;
    if (self->waiter != QUEUED && !(move->cast->plant == BLIND_TIMEOUT && self->is_over)) {
        bool is_served = self->waiter == SERVED;

        move->all->peer_lock = 0;
        self->waiter = NO_WAITER;
        return is_served ? go(move, RETURN_LOOK) : next_round(move);
    }
    if (self->waiter != QUEUED) {
        move->all->peer_lock = 0;
        return next_round(move);
    }
    self->is_told = 0;
    return take_idle(move, AWAKE);
}

static bool step_borrow(struct move *move)
{
    switch (move->self->at) {
    case BORROW_LOCK:
        if ((move->choice && !move->all->queued) || !lock(move, &move->all->peer_lock))
            return false;
        return move->choice ? go(move, JOIN) : take_idle(move, FIRST);
    case JOIN:
        return step_join(move);
    default:
        return step_wait(move);
    }
}

/* ---- returning */

static uint8_t read_early(const struct move *move)
{
    bool is_waited_for = move->all->hints != PL_HINT_HOT;

    if (move->cast->plant == HINT_BEFORE_SWAP)
        return is_waited_for;
    return move->cast->plant == ROOM_BEFORE_SWAP && move->all->is_wanted;
}

static bool step_return(struct move *move)
{
    struct lending *all = move->all;
    struct actor *self = move->self;

    switch (self->at) {
    case RETURN_LOOK:
        self->seen = all->word;
        self->read = read_early(move);
        return go(move, self->seen & PL_LISTED ? RETURN_SWAP : RETURN_CLAIM);
    case RETURN_SWAP:
        self->recent = pl_word_with(self->seen, PL_IDLE);
        if (!swap(move, self->seen, self->recent))
            return go(move, RETURN_CLAIM);
        all->owner = 0;
        return go(move, RETURN_HINTS);
    case RETURN_HINTS:
        if (move->cast->plant == HINT_BEFORE_SWAP ? self->read : all->hints != PL_HINT_HOT)
            return go(move, RETURN_AGAIN);
        return go(move, RETURN_ROOM);
    case RETURN_ROOM:
        if (move->cast->plant == ROOM_BEFORE_SWAP ? self->read : all->is_wanted)
            return go(move, RETURN_AGAIN);
        return next_round(move);
    case RETURN_AGAIN:                          /* pl_peer_look_again */
        if (!swap_and_gain(move, self->recent, pl_word_with(self->recent, PL_MUX)))
            return next_round(move);
        return go(move, GIVE_LOCK);
    default:                                    /* claim, remember_returned */
        swap(move, all->word, pl_word_with(all->word, PL_MUX));
        self->recent = pl_word_with(all->word, PL_IDLE) | PL_LISTED;
        return go(move, GIVE_LOCK);
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

    swap(move, all->word, pl_word_handed(all->word, PL_LENT));
    all->owner = (uint8_t)(first + 1);
    unlink_waiter(all, first);
    if (move->cast->plant != LATE_GRANT)
        all->actors[first].waiter = SERVED;
    move->self->wake = (uint8_t)(first + 1);
    all->peer_lock = 0;
    return go(move, GIVE_WAKE);
}

static bool make_idle(struct move *move)
{
    struct lending *all = move->all;

    all->in_idle = 1;
    swap(move, all->word, pl_word_with(all->word, PL_IDLE) | PL_LISTED);
    all->owner = 0;
    call_waiter(move);
    all->peer_lock = 0;
    return move->self->wake ? go(move, GIVE_WAKE) : next_round(move);
}

static bool wake(struct move *move)
{
    struct actor *woken = &move->all->actors[move->self->wake - 1];

    if (move->cast->plant == LATE_GRANT && move->all->owner == move->self->wake)
        woken->waiter = SERVED;
    woken->cell = 1;
    move->self->wake = 0;
    return next_round(move);
}

static bool step_give(struct move *move)
{
    struct lending *all = move->all;

    switch (move->self->at) {
    case GIVE_LOCK:
        if ((move->choice && !all->queued) || !lock(move, &all->peer_lock))
            return false;
        return go(move, move->choice ? GIVE_SERVE : GIVE_HOT);
    case GIVE_HOT:
        if (!(all->hints & PL_HINT_HOT))
            note_hot(all);
        return go(move, GIVE_ROOM);
    case GIVE_ROOM:
        if (!all->is_wanted)
            return go(move, GIVE_IDLE);
        all->peer_lock = 0;
        return go(move, CLOSE_SWAP);
    case GIVE_IDLE:
        return make_idle(move);
    case GIVE_SERVE:
        return serve(move);
    default:
        return wake(move);
    }
}

/* ---- closing */

static bool step_close(struct move *move)
{
    struct lending *all = move->all;

    if (move->self->at == CLOSE_SWAP) {
        swap(move, all->word, pl_word_with(all->word, PL_CLOSING));
        return go(move, CLOSE_LOCK);
    }
    if (!lock(move, &all->peer_lock))
        return false;
    all->peer_lock = 0;
    if (move->self->at == CLOSE_LOCK) {         /* remove_from_peer, pl_connection_give */
        all->in_idle = all->in_parked = 0;
        swap(move, all->word, pl_word_handed(all->word & ~PL_LISTED, PL_FREE));
        all->owner = 0;
        all->is_closed = 1;
        return go(move, CLOSE_TELL);
    }
    all->is_wanted = 0;
    while (all->queued) {
        struct actor *waiter = &all->actors[all->queue[0] - 1];

        waiter->waiter = FAILED;
        waiter->cell = 1;
        unlink_waiter(all, all->queue[0] - 1u);
    }
    return next_round(move);
}

/* ---- the sweep, which also runs for who wants room; the sweep lock is held behind SWEEP_POP */

static bool pop_hot(struct move *move)
{
    bool is_sweeper = move->cast->roles[move->number] == SWEEPER;

    if (is_sweeper && (!move->all->is_hot || !lock(move, &move->all->sweep_lock)))
        return false;                           /* the timer is not armed */
    if (!move->all->is_hot)
        return end_sweep(move);
    move->all->is_hot = 0;
    if (move->cast->plant != HINT_CLEARED_LATE)
        move->all->hints &= (uint8_t)~PL_HINT_HOT;
    return go(move, SWEEP_LOCK);
}

static bool leave_peer(struct move *move, bool is_taken)
{
    if (move->cast->plant == HINT_CLEARED_LATE && !move->all->is_hot)
        move->all->hints &= (uint8_t)~PL_HINT_HOT;
    move->all->peer_lock = 0;
    return is_taken ? go(move, SWEEP_PARK) : end_sweep(move);
}

static bool step_take_hot(struct move *move)
{
    struct lending *all = move->all;
    bool may_wait = move->cast->roles[move->number] == SWEEPER;

    if (move->self->at == SWEEP_TAKE) {
        bool is_taken = swap_and_gain(move, move->self->seen,
                                      pl_word_with(move->self->seen, PL_MUX));

        all->in_parked = is_taken ? 0 : all->in_parked;
        return leave_peer(move, is_taken);
    }
    move->self->seen = all->word;
    if (!all->in_idle || pl_word_state(all->word) != PL_IDLE)
        return !move->choice && leave_peer(move, false);
    if (!move->choice)
        return go(move, SWEEP_TAKE);
    if (!may_wait)
        return false;
    note_hot(all);                              /* it is too early for this one */
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
        swap(move, all->word, self->seen);
        all->owner = 0;
        return move->cast->plant == PARK_AND_FORGET ? end_sweep(move) : go(move, SWEEP_HINTS);
    case SWEEP_HINTS:
        return go(move, all->hints & ~PL_HINT_HOT ? SWEEP_BACK : SWEEP_ROOM);
    case SWEEP_ROOM:
        return all->is_wanted ? go(move, SWEEP_BACK) : end_sweep(move);
    default:
        if (!swap_and_gain(move, self->seen, pl_word_with(self->seen, PL_MUX)))
            return end_sweep(move);
        all->in_parked = 0;
        all->sweep_lock = 0;                    /* tend_rest comes after the sweep */
        return go(move, GIVE_LOCK);
    }
}

static bool step_sweep(struct move *move)
{
    switch (move->self->at) {
    case SWEEP_POP:
        return pop_hot(move);
    case SWEEP_LOCK:
        return lock(move, &move->all->peer_lock) && go(move, SWEEP_LOOK);
    case SWEEP_LOOK:
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
        return next_round(move);
    if (move->self->rounds)
        return go(move, SWEEP_POP);
    move->all->sweep_lock = 0;
    return next_round(move);
}

static bool step_evict(struct move *move)
{
    struct lending *all = move->all;
    uint64_t seen = move->self->seen, next = pl_word_with(seen, PL_CLOSING);

    if (move->self->at == EVICT_LOOK) {
        move->self->seen = all->word;
        if (all->in_parked && pl_word_state(all->word) == PL_PARKED)
            return go(move, EVICT_SWAP);
        all->in_parked = 0;
        return found_none(move);
    }
    if (move->cast->plant == EVICT_BY_STORE) {
        all->word = next;
        gain(move, move->number);
    } else if (!swap_and_gain(move, seen, next)) {
        return go(move, EVICT_LOOK);
    }
    all->in_parked = 0;
    if (move->cast->roles[move->number] == WANTER)
        all->sweep_lock = 0;
    return go(move, CLOSE_LOCK);
}

static bool step_others(struct move *move)
{
    struct lending *all = move->all;

    switch (move->self->at) {
    case WANT:
        all->is_wanted = 1;
        return go(move, WANT_LOCK);
    case WANT_LOCK:
        return lock(move, &all->sweep_lock) && go(move, EVICT_LOOK);
    case EVENT_LOOK:
        move->self->seen = all->word;
        return pl_word_state(all->word) == PL_PARKED ? go(move, EVENT_SWAP) : next_round(move);
    case EVENT_SWAP:
        if (!swap_and_gain(move, move->self->seen, pl_word_with(move->self->seen, PL_MUX)))
            return go(move, EVENT_LOOK);
        all->in_parked = 0;
        return go(move, move->choice ? CLOSE_SWAP : EVENT_LOCK);        /* its end, or nothing */
    default:
        return lock(move, &all->sweep_lock) && go(move, SWEEP_PARK);    /* pl_room_park_one */
    }
}

/* ---- the model */

bool lending_step(void *state, unsigned number, unsigned choice, const void *cast)
{
    struct lending *all = state;
    struct move move = {all, &all->actors[number], cast, number, choice};
    enum place at = (enum place)all->actors[number].at;
    bool may_choose = at == BORROW_LOCK || at == JOIN || at == WAIT || at == GIVE_LOCK ||
                      at == SWEEP_LOOK || at == EVENT_SWAP;

    if (at == DONE || (choice && !may_choose))
        return false;
    if (at <= WARM_SWAP)
        return step_warm(&move);
    if (at <= LOOK_LOCK)
        return step_borrow(&move);
    if (at <= TAKE_SWAP)
        return step_take(&move);
    if (at <= RETURN_CLAIM)
        return step_return(&move);
    if (at <= GIVE_WAKE)
        return step_give(&move);
    if (at <= CLOSE_TELL)
        return step_close(&move);
    if (at <= SWEEP_BACK)
        return step_sweep(&move);
    return at <= EVICT_SWAP ? step_evict(&move) : step_others(&move);
}

void lending_begin(struct lending *all, const struct cast *cast)
{
    static const enum place first[] = {[BORROWER] = WARM_LOOK, [SWEEPER] = SWEEP_POP, [WANTER] = WANT,
                                       [EVICTOR] = EVICT_LOOK, [EVENT] = EVENT_LOOK};

    memset(all, 0, sizeof(*all));
    all->word = PL_LISTED | (cast->is_held ? PL_LENT : PL_PARKED);
    all->in_idle = 1;
    all->hints = cast->is_held ? PL_HINT_HOT : 0;
    all->is_hot = cast->is_held;
    all->in_parked = !cast->is_held;
    for (unsigned i = 0; i < LENDING_ACTORS; i++) {
        all->actors[i].at = (uint8_t)first[cast->roles[i]];
        all->actors[i].rounds = cast->rounds[i];
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
    return is_end ? wrong_in_the_end(all, cast) : NULL;
}
