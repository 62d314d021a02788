/* wakeup.c: the connection, the queue, returning, and the model as a whole. See wakeup.h. */
#include "sim/wakeup_parts.h"

#include <string.h>

/* ---- the word and the list of idle ones */

void wakeup_become(struct wakeup *all, uint64_t next)
{
    enum pl_state from = pl_word_state(all->word), to = pl_word_state(next);

    if (from != to && !pl_word_is_legal(from, to))
        all->is_illegal = 1;
    all->word = next;
}

void wakeup_gain(struct wakeup *all, unsigned player)
{
    if (all->owner && all->owner != player + 1)
        all->is_doubled = 1;
    all->owner = (uint8_t)(player + 1);
}

bool wakeup_take_idle(struct turn *turn, unsigned player)
{
    struct wakeup *all = turn->all;

    if (!all->in_idle)
        return false;
    if (pl_word_state(all->word) == PL_LENT && wakeup_has(turn, LEFT_LISTED))
        return false;
    if (pl_word_state(all->word) == PL_LENT) { /* taken from memory: its return lists it again */
        all->word &= ~PL_LISTED;
        all->in_idle = 0;
        return false;
    }
    if (pl_word_state(all->word) != PL_IDLE)
        return false;
    wakeup_become(all, pl_word_handed(all->word & ~PL_LISTED, PL_LENT));
    wakeup_gain(all, player);
    all->in_idle = 0;
    return true;
}

/* ---- the queue */

static unsigned player_of(enum wakeup_call which)
{
    return which == BLOCKING_CALL ? BLOCKING : MUX;
}

void wakeup_link(struct wakeup *all, enum wakeup_call which, bool is_first)
{
    if (is_first) {
        memmove(&all->queue[1], &all->queue[0], WAKEUP_CALLS - 1);
        all->queue[0] = (uint8_t)(which + 1);
    } else {
        all->queue[all->queued] = (uint8_t)(which + 1);
    }
    all->queued++;
    all->calls[which].state = QUEUED;
    all->hints |= PL_HINT_WAITERS;
}

void wakeup_unlink(struct wakeup *all, enum wakeup_call which)
{
    unsigned place = 0;

    while (place < all->queued && all->queue[place] != which + 1)
        place++;
    if (place == all->queued)
        return; /* only by a planted mistake */
    all->queued--;
    memmove(&all->queue[place], &all->queue[place + 1], (size_t)all->queued - place);
    all->queue[all->queued] = 0;
    if (!all->queued)
        all->hints &= (uint8_t)~PL_HINT_WAITERS;
}

/* The first who was not told yet, plus one; 0: all were. */
static unsigned next_untold(const struct wakeup *all)
{
    for (unsigned i = 0; i < all->queued; i++) {
        if (!all->calls[all->queue[i] - 1].is_told)
            return all->queue[i];
    }
    return 0;
}

static void pass_call_on(struct turn *turn, enum wakeup_call which)
{
    struct wakeup *all = turn->all;
    unsigned next =
        all->calls[which].is_told && !wakeup_has(turn, KEEP_CALL) ? next_untold(all) : 0;

    if (next == BLOCKING_CALL + 1) {
        all->calls[BLOCKING_CALL].is_told = 1;
        all->calls[BLOCKING_CALL].is_rung = 1;
    } else if (next && wakeup_take_idle(turn, MUX)) {
        wakeup_unlink(all, ASYNC_CALL);
        all->calls[ASYNC_CALL].state = SERVED;
        all->calls[ASYNC_CALL].is_rung = 1;
    }
}

void wakeup_serve(struct turn *turn, enum wakeup_call which)
{
    struct wakeup *all = turn->all;

    wakeup_become(all, pl_word_handed(all->word, PL_LENT));
    all->owner = 0;
    wakeup_gain(all, player_of(which));
    wakeup_unlink(all, which);
    pass_call_on(turn, which);
    all->calls[which].state = SERVED;
    if (which == ASYNC_CALL)
        all->calls[which].is_rung = 1;
    else
        turn->self->wakes = (uint8_t)(which + 1);
}

void wakeup_fail(struct turn *turn, enum wakeup_call which, enum answer why)
{
    struct wakeup_waiting *call = &turn->all->calls[which];

    wakeup_unlink(turn->all, which);
    pass_call_on(turn, which);
    call->state = FAILED;
    call->why = (uint8_t)why;
    call->is_rung = 1;
}

/* ---- returning */

static bool go_back(struct turn *turn)
{
    struct wakeup_player *self = turn->self;
    enum step then = (enum step)self->then;

    self->then = self->hint = self->is_bad = 0;
    self->seen = self->serial = 0;
    return wakeup_go(turn, then);
}

bool wakeup_return(struct turn *turn, enum step then)
{
    turn->self->then = (uint8_t)then;
    turn->self->serial = pl_word_serial(turn->all->word);
    return wakeup_go(turn, RETURN_LOOK);
}

bool wakeup_close(struct turn *turn, enum step then)
{
    wakeup_become(turn->all, pl_word_with(turn->all->word, PL_CLOSING));
    turn->self->then = (uint8_t)then;
    return wakeup_go(turn, CLOSE);
}

static bool make_idle(struct turn *turn)
{
    struct wakeup *all = turn->all;

    all->in_idle = 1;
    wakeup_become(all, (pl_word_with(all->word, PL_IDLE) & ~PL_TOUCHED) | PL_LISTED);
    all->owner = 0;
    return turn->self->wakes ? wakeup_go(turn, RING) : go_back(turn);
}

/* Nobody has waited for long: a thread is told to look for itself. */
static bool give_to_all(struct turn *turn)
{
    struct wakeup *all = turn->all;
    unsigned next = next_untold(all);

    if (next == ASYNC_CALL + 1 && !wakeup_has(turn, TELL_ASYNC)) {
        wakeup_serve(turn, ASYNC_CALL);
        return go_back(turn);
    }
    if (next) {
        all->calls[next - 1].is_told = 1;
        turn->self->wakes = next == BLOCKING_CALL + 1 ? (uint8_t)next : 0;
    }
    return make_idle(turn);
}

static bool give(struct turn *turn)
{
    struct wakeup *all = turn->all;

    if (all->peer_lock || (turn->choice && (!all->queued || turn->choice > 1)))
        return false;
    if (all->doom)
        return wakeup_close(turn, (enum step)turn->self->then);
    if (!all->queued)
        return make_idle(turn);
    if (!turn->choice)
        return give_to_all(turn);
    wakeup_serve(turn, (enum wakeup_call)(all->queue[0] - 1));
    return turn->self->wakes ? wakeup_go(turn, RING) : go_back(turn);
}

bool wakeup_arrive(struct turn *turn)
{
    struct wakeup *all = turn->all;

    if (all->peer_lock)
        return false;
    all->is_coming = 0;
    wakeup_become(all, pl_word_with(all->word, PL_OPENING));
    wakeup_become(all, pl_word_with(all->word, PL_SETUP));
    wakeup_gain(all, MUX);
    turn->self->then = TURN;
    if (!all->queued)
        return make_idle(turn);
    wakeup_serve(turn, (enum wakeup_call)(all->queue[0] - 1));
    return turn->self->wakes ? wakeup_go(turn, RING) : go_back(turn);
}

/* pl_peer_finish_close; then another is opened for who waits. */
static bool close_it(struct turn *turn)
{
    struct wakeup *all = turn->all;

    if (all->peer_lock)
        return false;
    wakeup_become(all, pl_word_handed(all->word & ~PL_LISTED, PL_FREE));
    all->in_idle = all->doom = all->owner = 0;
    all->is_coming = all->queued > 0;
    return go_back(turn);
}

/* ---- return_warm */

static bool step_warm(struct turn *turn)
{
    struct wakeup *all = turn->all;
    struct wakeup_player *self = turn->self;

    switch (self->at) {
    case RETURN_LOOK:
        self->seen = all->word;
        return wakeup_go(turn, self->is_bad ? RETURN_CLAIM : RETURN_TOUCHED);
    case RETURN_TOUCHED:
        if ((self->seen & PL_TOUCHED) && all->word == self->seen)
            all->word = self->seen &= ~PL_TOUCHED;
        return wakeup_go(turn, RETURN_FIT);
    case RETURN_FIT:
        self->is_bad = all->doom != UNDOOMED;
        self->hint = all->hints;
        if (self->is_bad || !(self->seen & PL_LISTED) || (self->seen & (PL_PIN_MASK | PL_TOUCHED)))
            return wakeup_go(turn, RETURN_CLAIM);
        return wakeup_go(turn, RETURN_SWAP);
    case RETURN_SWAP:
        if (all->word != self->seen)
            return wakeup_go(turn, RETURN_CLAIM);
        wakeup_become(all, self->seen = pl_word_with(self->seen, PL_IDLE));
        all->owner = 0;
        return wakeup_go(turn, RETURN_HINTS);
    case RETURN_HINTS:
        if (wakeup_has(turn, WAKE_BY_HINT) ? !self->hint : !all->hints)
            return go_back(turn);
        return wakeup_go(turn, RETURN_AGAIN);
    default: /* pl_peer_look_again */
        if (all->word != self->seen)
            return go_back(turn);
        wakeup_become(all, pl_word_with(self->seen, PL_MUX));
        wakeup_gain(all, turn->number);
        return wakeup_go(turn, GIVE);
    }
}

/* ---- claim, end_shared */

static bool step_cold(struct turn *turn)
{
    struct wakeup *all = turn->all;
    struct wakeup_player *self = turn->self;

    switch (self->at) {
    case RETURN_CLAIM:
        if (all->word & PL_PIN_MASK) {
            all->word += PL_PIN;
            return wakeup_go(turn, RETURN_SHARED);
        }
        wakeup_become(all, pl_word_with(all->word, PL_MUX));
        return self->is_bad ? wakeup_close(turn, (enum step)self->then) : wakeup_go(turn, GIVE);
    case RETURN_SHARED:
        all->doom = all->doom ? all->doom : DOOMED_BY_RETURN;
        wakeup_become(all, pl_word_with(all->word, PL_ENDING));
        all->owner = 0;
        return wakeup_go(turn, RETURN_UNPIN);
    default:
        all->word -= PL_PIN;
        if (all->word & PL_PIN_MASK)
            return go_back(turn);
        wakeup_gain(all, turn->number);
        return wakeup_close(turn, (enum step)self->then);
    }
}

static bool ring(struct turn *turn)
{
    turn->all->calls[turn->self->wakes - 1].is_rung = 1;
    turn->self->wakes = 0;
    return go_back(turn);
}

/* ---- the model */

bool wakeup_step(void *state, unsigned player, unsigned choice, const void *cast)
{
    struct wakeup *all = state;
    struct turn turn = {
        .all = all, .self = &all->players[player], .cast = cast, .number = player, .choice = choice
    };
    enum step at = (enum step)turn.self->at;

    turn.call = &all->calls[player == BLOCKING ? BLOCKING_CALL : ASYNC_CALL];
    if (player == CANCELER)
        turn.call = &all->calls[turn.cast->canceled];
    if (at == GIVE)
        return give(&turn);
    if (at == TURN || at == IS_FIT)
        return wakeup_step_mux(&turn);
    if (at == LOCK || at == WAIT)
        return wakeup_step_wait(&turn);
    if (choice || at == FINISHED)
        return false; /* all others have one way */
    if (at <= RETURN_AGAIN)
        return step_warm(&turn);
    if (at <= RETURN_UNPIN)
        return step_cold(&turn);
    if (at == RING)
        return ring(&turn);
    if (at == CLOSE)
        return close_it(&turn);
    if (at < TURN)
        return wakeup_step_wait(&turn);
    return at < CANCEL ? wakeup_step_mux(&turn) : wakeup_step_cancel(&turn);
}

void wakeup_begin(struct wakeup *all, const struct wakeup_cast *cast)
{
    memset(all, 0, sizeof(*all));
    all->word = PL_LENT | (cast->is_cold ? 0 : PL_LISTED);
    all->in_idle = !cast->is_cold;
    all->owner = HOLDER + 1;
    all->players[HOLDER].at = RETURN_LOOK;
    all->players[HOLDER].then = FINISHED;
    all->players[BLOCKING].at = HOLD;
    all->players[STARTER].at = HOLD;
    all->players[MUX].at = TURN;
    all->players[CANCELER].at = cast->has_canceler ? CANCEL : FINISHED;
}

static const char *wrong_of_call(const struct wakeup *all, const struct wakeup_cast *cast,
                                 enum wakeup_call which)
{
    const struct wakeup_waiting *call = &all->calls[which];

    if (call->state == QUEUED)
        return "a caller waits for ever";
    if (call->answers != 1)
        return call->answers ? "a call is answered twice" : "a call is never answered";
    if (!cast->has_canceler || cast->canceled != which)
        return call->answer == CANCELED ? "a call is canceled that nobody canceled" : NULL;
    if (all->cancel_said == 1 && call->answer == CANCELED)
        return "it was too late, and the call was canceled";
    if (all->cancel_said != 2 || call->answer == CANCELED)
        return NULL;
    return which == ASYNC_CALL && call->is_doomed ? NULL : "it was in time, and the call went on";
}

static const char *wrong_in_the_end(const struct wakeup *all, const struct wakeup_cast *cast)
{
    const char *wrong = wrong_of_call(all, cast, BLOCKING_CALL);

    if (!wrong)
        wrong = wrong_of_call(all, cast, ASYNC_CALL);
    for (unsigned player = 0; player < WAKEUP_ACTORS && !wrong; player++) {
        if (all->players[player].at != (player == MUX ? TURN : FINISHED))
            wrong = "somebody cannot go on";
    }
    if (wrong)
        return wrong;
    if (all->peer_lock || all->owner || all->is_coming)
        return "something is left";
    if (all->hints)
        return "the hint speaks of waiters, and there are none";
    if (pl_word_state(all->word) == PL_FREE)
        return NULL;
    return all->in_idle && pl_word_state(all->word) == PL_IDLE ? NULL : "the connection is lost";
}

const char *wakeup_wrong(const void *state, bool is_end, const void *cast)
{
    const struct wakeup *all = state;
    const struct wakeup_waiting *async = &all->calls[ASYNC_CALL];

    if (all->is_doubled)
        return "two have the connection at once";
    if (all->is_illegal)
        return "a move that does not exist";
    for (unsigned which = 0; which < WAKEUP_CALLS; which++) {
        if (all->calls[which].state == QUEUED && all->calls[which].is_canceled &&
            !all->calls[which].ticket_lock)
            return "a canceled call waits";
    }
    if (async->state == QUEUED && !async->has_timer && all->players[MUX].at == TURN &&
        all->players[STARTER].at == FINISHED)
        return "a call waits without its deadline";
    return is_end ? wrong_in_the_end(all, cast) : NULL;
}
