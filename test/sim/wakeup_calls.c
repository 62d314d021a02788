/* wakeup_calls.c: who waits, the mux, and who cancels. See wakeup.h. */
#include "sim/wakeup_parts.h"

/* ---- both kinds of calls, until they are in the queue */

static unsigned taker_of(const struct turn *turn)
{
    return turn->number == BLOCKING ? BLOCKING : MUX;
}

static enum wakeup_call which_of(const struct turn *turn)
{
    return turn->number == BLOCKING ? BLOCKING_CALL : ASYNC_CALL;
}

static bool unlock(struct turn *turn, enum step next)
{
    turn->all->peer_lock = 0;
    turn->call->ticket_lock = 0;
    turn->self->is_bad = 0;
    return wakeup_go(turn, next);
}

/* It has one; the mux tells an asynchronous call. */
static bool be_served(struct turn *turn)
{
    turn->call->state = SERVED;
    if (turn->number == BLOCKING)
        return unlock(turn, WAIT_END);
    turn->call->is_rung = 1;
    return unlock(turn, FINISHED);
}

static bool hold(struct turn *turn)
{
    if (turn->call->ticket_lock)
        return false;
    if (turn->call->is_canceled) {
        turn->call->state = FAILED;
        turn->call->why = CANCELED;
        if (turn->number == BLOCKING)
            return wakeup_go(turn, END);
        turn->call->is_rung = 1; /* fail_later */
        return wakeup_go(turn, FINISHED);
    }
    turn->call->ticket_lock = (uint8_t)(turn->number + 1);
    turn->call->knows_waiter = 1;
    return wakeup_go(turn, LOCK);
}

/* Who comes to a queue may have to leave what is idle to it. */
static bool lock(struct turn *turn)
{
    if (turn->all->peer_lock || turn->choice > 1 || (turn->choice && !turn->all->queued))
        return false;
    turn->all->peer_lock = (uint8_t)(turn->number + 1);
    turn->self->is_bad = (uint8_t)turn->choice;
    if (!turn->choice && wakeup_take_idle(turn, taker_of(turn)))
        return be_served(turn);
    return wakeup_go(turn, QUEUE);
}

static bool queue(struct turn *turn)
{
    bool may_look = !turn->self->is_bad && !wakeup_has(turn, JOIN_WITHOUT_LOOK);

    wakeup_link(turn->all, which_of(turn), false);
    turn->call->is_told = 0;
    turn->call->has_timer = turn->number == STARTER;
    return may_look ? wakeup_go(turn, TAKE_AGAIN) : unlock(turn, SUPPLY);
}

static bool take_again(struct turn *turn)
{
    if (!wakeup_take_idle(turn, taker_of(turn)))
        return unlock(turn, SUPPLY);
    wakeup_unlink(turn->all, which_of(turn));
    turn->call->has_timer = 0;
    return be_served(turn);
}

static bool supply(struct turn *turn)
{
    struct wakeup *all = turn->all;

    if (all->peer_lock)
        return false;
    if (pl_word_state(all->word) == PL_FREE && all->queued)
        all->is_coming = 1;
    if (turn->number == MUX)
        return wakeup_go(turn, TURN);
    return wakeup_go(turn, turn->number == BLOCKING ? WAIT : FINISHED);
}

/* ---- the blocking call */

static bool wait_for_wake(struct turn *turn)
{
    struct wakeup_waiting *call = turn->call;

    if (turn->choice > 1 || (!turn->choice && !call->is_rung))
        return false;
    if (turn->choice &&
        (call->is_rung || turn->self->is_over || !turn->cast->may_time_out[BLOCKING_CALL]))
        return false;
    call->is_rung = 0;
    turn->self->is_over = (uint8_t)turn->choice;
    return wakeup_go(turn, LOOK);
}

static bool look(struct turn *turn)
{
    struct wakeup *all = turn->all;
    struct wakeup_waiting *call = turn->call;

    if (all->peer_lock)
        return false;
    if (call->state != QUEUED)
        return wakeup_go(turn, WAIT_END);
    call->is_told = 0;
    if (wakeup_take_idle(turn, BLOCKING)) {
        call->state = SERVED;
    } else if (turn->self->is_over) {
        call->state = FAILED;
        call->why = TIMED_OUT;
    } else {
        return wakeup_go(turn, WAIT);
    }
    wakeup_unlink(all, BLOCKING_CALL);
    return wakeup_go(turn, WAIT_END);
}

/* pl_ticket_take; false: the call was canceled, and what it got goes back. */
static bool take_loan(struct turn *turn)
{
    turn->call->loan = pl_word_serial(turn->all->word) + 1;
    if (!turn->call->is_canceled || wakeup_has(turn, DELIVER_BLINDLY))
        return true;
    turn->call->state = FAILED;
    turn->call->why = CANCELED;
    return false;
}

static bool step_ticket(struct turn *turn)
{
    struct wakeup_waiting *call = turn->call;

    if (call->ticket_lock)
        return false;
    switch (turn->self->at) {
    case WAIT_END:
        call->knows_waiter = 0;
        return wakeup_go(turn, call->state == SERVED ? SETTLE : END);
    case SETTLE:
        if (take_loan(turn))
            return wakeup_go(turn, USE);
        turn->self->then = END;
        return wakeup_go(turn, GIVE);
    case USE: /* and pl_ticket_let_go */
        call->loan = 0;
        turn->self->is_bad = call->is_canceled;
        return wakeup_return(turn, END);
    default:
        call->is_over = 1;
        call->answers++;
        call->answer = call->is_canceled ? CANCELED : call->state == SERVED ? LENT : call->why;
        return wakeup_go(turn, FINISHED);
    }
}

bool wakeup_step_wait(struct turn *turn)
{
    switch (turn->self->at) {
    case HOLD:
        return hold(turn);
    case LOCK:
        return lock(turn);
    case QUEUE:
        return queue(turn);
    case TAKE_AGAIN:
        return take_again(turn);
    case SUPPLY:
        return supply(turn);
    case WAIT:
        return wait_for_wake(turn);
    case LOOK:
        return look(turn);
    default:
        return step_ticket(turn);
    }
}

/* ---- the mux */

static bool fire(struct turn *turn)
{
    if (!turn->call->has_timer || !turn->cast->may_time_out[ASYNC_CALL] || turn->all->peer_lock)
        return false;
    turn->call->has_timer = 0;
    if (turn->call->state == QUEUED ||
        (wakeup_has(turn, BLIND_DEADLINE) && turn->call->state == SERVED))
        wakeup_fail(turn, ASYNC_CALL, TIMED_OUT);
    return true;
}

static bool look_for_work(struct turn *turn)
{
    if (turn->choice == 1)
        return fire(turn);
    if (turn->choice == 2)
        return turn->all->is_coming && wakeup_arrive(turn);
    if (!turn->call->is_rung)
        return false;
    turn->call->is_rung = 0;
    return wakeup_go(turn, OUTCOME);
}

static bool is_fit(struct turn *turn)
{
    if (!turn->choice)
        return wakeup_go(turn, BEGIN_LOAN);
    if (turn->choice > 1 || turn->call->was_unfit || !turn->cast->may_be_unfit)
        return false;
    turn->call->was_unfit = 1;
    return wakeup_close(turn, REQUEUE);
}

static bool requeue(struct turn *turn)
{
    if (wakeup_has(turn, QUEUE_UNSEEN))
        return wakeup_go(turn, REQUEUE_LOCK);
    if (turn->call->ticket_lock)
        return false;
    if (turn->call->is_canceled) {
        turn->call->state = FAILED;
        turn->call->why = CANCELED;
        return wakeup_go(turn, TELL);
    }
    turn->call->ticket_lock = MUX + 1;
    turn->call->knows_waiter = 1;
    return wakeup_go(turn, REQUEUE_LOCK);
}

static bool got_another(struct turn *turn)
{
    turn->call->state = SERVED;
    return unlock(turn, OUTCOME);
}

static bool step_requeue(struct turn *turn)
{
    struct wakeup *all = turn->all;

    switch (turn->self->at) {
    case REQUEUE_LOCK:
        if (all->peer_lock)
            return false;
        all->peer_lock = MUX + 1;
        if (wakeup_take_idle(turn, MUX))
            return got_another(turn);
        return wakeup_go(turn, REQUEUE_LINK);
    case REQUEUE_LINK:
        wakeup_link(all, ASYNC_CALL, true);
        turn->call->has_timer = 1;
        return wakeup_go(turn, REQUEUE_TAKE);
    default:
        if (!wakeup_take_idle(turn, MUX))
            return unlock(turn, SUPPLY);
        wakeup_unlink(all, ASYNC_CALL);
        return got_another(turn);
    }
}

static bool step_outcome(struct turn *turn)
{
    struct wakeup_waiting *call = turn->call;

    if (call->ticket_lock)
        return false;
    switch (turn->self->at) {
    case OUTCOME:
        call->knows_waiter = 0;
        return wakeup_go(turn, call->state == SERVED ? IS_FIT : TELL);
    case BEGIN_LOAN:
        call->has_timer = 0;
        if (take_loan(turn))
            return wakeup_go(turn, DELIVER);
        turn->self->then = TELL;
        return wakeup_go(turn, GIVE);
    case DELIVER:
        call->answers++;
        call->answer = LENT;
        return wakeup_return(turn, TURN);
    default:
        call->has_timer = 0;
        call->is_over = 1;
        call->answers++;
        call->answer = call->is_canceled ? CANCELED : call->why;
        return wakeup_go(turn, TURN);
    }
}

bool wakeup_step_mux(struct turn *turn)
{
    switch (turn->self->at) {
    case TURN:
        return look_for_work(turn);
    case IS_FIT:
        return is_fit(turn);
    case REQUEUE:
        return requeue(turn);
    case REQUEUE_LOCK:
    case REQUEUE_LINK:
    case REQUEUE_TAKE:
        return step_requeue(turn);
    default:
        return step_outcome(turn);
    }
}

/* ---- pool_ticket_cancel */

static bool too_late(struct turn *turn)
{
    turn->call->ticket_lock = 0;
    turn->all->cancel_said = 1;
    return wakeup_go(turn, FINISHED);
}

static bool begin_cancel(struct turn *turn)
{
    struct wakeup_waiting *call = turn->call;

    if (call->ticket_lock)
        return false;
    call->ticket_lock = CANCELER + 1;
    if (call->is_over)
        return too_late(turn);
    if (call->loan)
        return wakeup_go(turn, CANCEL_PIN);
    return wakeup_go(turn, call->knows_waiter ? CANCEL_WAIT : CANCEL_MARK);
}

static bool pin(struct turn *turn)
{
    struct wakeup *all = turn->all;

    if (pl_word_serial(all->word) + 1 != turn->call->loan || !pl_word_is_held(all->word))
        return too_late(turn);
    turn->self->is_pinned = !wakeup_has(turn, CANCEL_WITHOUT_PIN);
    if (turn->self->is_pinned)
        all->word = (all->word + PL_PIN) | PL_TOUCHED;
    return wakeup_go(turn, CANCEL_DOOM);
}

/* A mark on anybody else's connection would be a wrong that shows nowhere else. */
static bool doom(struct turn *turn)
{
    struct wakeup *all = turn->all;

    if (pl_word_serial(all->word) + 1 != turn->call->loan)
        all->is_doubled = 1;
    turn->self->is_in_time = !all->doom;
    if (!all->doom)
        all->doom = DOOMED_BY_CANCEL;
    turn->call->is_doomed = all->doom == DOOMED_BY_CANCEL;
    return wakeup_go(turn, turn->self->is_in_time ? CANCEL_MARK : CANCEL_LET_GO);
}

static bool end_wait(struct turn *turn)
{
    if (turn->all->peer_lock)
        return false;
    if (turn->call->state == QUEUED)
        wakeup_fail(turn, turn->cast->canceled, CANCELED);
    return wakeup_go(turn, CANCEL_MARK);
}

static bool let_go(struct turn *turn)
{
    turn->call->ticket_lock = 0;
    turn->all->cancel_said = turn->self->is_in_time ? 2 : 1;
    return wakeup_go(turn, turn->self->is_pinned ? CANCEL_UNPIN : FINISHED);
}

static bool unpin(struct turn *turn)
{
    struct wakeup *all = turn->all;

    all->word -= PL_PIN;
    turn->self->is_pinned = 0;
    if (pl_word_state(all->word) != PL_ENDING || (all->word & PL_PIN_MASK))
        return wakeup_go(turn, FINISHED);
    wakeup_gain(all, CANCELER);
    return wakeup_close(turn, FINISHED);
}

bool wakeup_step_cancel(struct turn *turn)
{
    switch (turn->self->at) {
    case CANCEL:
        return begin_cancel(turn);
    case CANCEL_PIN:
        return pin(turn);
    case CANCEL_DOOM:
        return doom(turn);
    case CANCEL_WAIT:
        return end_wait(turn);
    case CANCEL_MARK:
        turn->self->is_in_time = 1;
        if (wakeup_has(turn, CANCEL_LATE))
            turn->call->ticket_lock = 0;
        else
            turn->call->is_canceled = 1;
        return wakeup_go(turn, CANCEL_LET_GO);
    case CANCEL_LET_GO:
        if (turn->self->is_in_time)
            turn->call->is_canceled = 1;
        return let_go(turn);
    default:
        return unpin(turn);
    }
}
