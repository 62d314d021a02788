/* ticket.c: see ticket.h. Canceling never waits: a call that waits is failed where it stands, one
 * that has a connection finds it shut down, and one between the two sees the mark at its next step.
 */
#include "pool/ticket.h"

#include "base/os.h"
#include "pool/conn.h"
#include "pool/exchange.h"
#include "pool/waiter.h"

void pl_ticket_show(struct pool_ticket **given, struct pool_ticket *ticket)
{
    __atomic_store_n(given, ticket, __ATOMIC_RELEASE); /* no _Atomic in programs' structs: C++ */
}

enum pool_status pl_ticket_make(struct pool_ticket **made, struct pool_ticket **given)
{
    struct pool_ticket *ticket = pl_zalloc(sizeof(*ticket));

    *made = ticket;
    if (ticket) {
        atomic_init(&ticket->refs, 2);
        ticket->forks = pl_get(pl_forks);
        pthread_mutex_init(&ticket->lock, NULL);
    }
    pl_ticket_show(given, ticket);
    return ticket ? POOL_OK : POOL_E_MEMORY;
}

/* In a child a thread that is no more may have held its lock. */
static bool is_parents(const struct pool_ticket *ticket)
{
    return ticket->forks != pl_get(pl_forks);
}

void pl_ticket_ref(struct pool_ticket *ticket)
{
    if (ticket)
        atomic_fetch_add(&ticket->refs, 1);
}

void pl_ticket_unref(struct pool_ticket *ticket)
{
    if (!ticket || atomic_fetch_sub(&ticket->refs, 1) != 1)
        return;
    pthread_mutex_destroy(&ticket->lock);
    pl_os->free(ticket);
}

bool pl_ticket_hold(struct pool_ticket *ticket, struct pl_peer *peer, struct pl_waiter *waiter)
{
    if (!ticket)
        return true;
    pthread_mutex_lock(&ticket->lock);
    if (ticket->is_canceled) {
        pthread_mutex_unlock(&ticket->lock);
        return false;
    }
    ticket->peer = peer;
    ticket->waiter = waiter;
    return true;
}

bool pl_ticket_hold_query(struct pool_ticket *ticket)
{
    return pl_ticket_hold(ticket, NULL, NULL);
}

void pl_ticket_release(struct pool_ticket *ticket)
{
    if (ticket)
        pthread_mutex_unlock(&ticket->lock);
}

bool pl_ticket_set_alarm(struct pool_ticket *ticket, struct pool_mux *mux, struct pl_timer *alarm)
{
    bool was_canceled;

    if (!ticket || is_parents(ticket))
        return true;
    pthread_mutex_lock(&ticket->lock);
    was_canceled = ticket->is_canceled;
    ticket->mux = mux;
    ticket->alarm = alarm;
    pthread_mutex_unlock(&ticket->lock);
    return !was_canceled;
}

void pl_ticket_wait_end(struct pool_ticket *ticket)
{
    if (!ticket || is_parents(ticket))
        return;
    pthread_mutex_lock(&ticket->lock);
    ticket->waiter = NULL;
    ticket->peer = NULL;
    ticket->alarm = NULL;
    pthread_mutex_unlock(&ticket->lock);
}

static bool move_on(struct pool_ticket *ticket, struct pool_conn conn, bool is_over)
{
    bool was_canceled;

    if (!ticket || is_parents(ticket))
        return true;
    pthread_mutex_lock(&ticket->lock);
    was_canceled = ticket->is_canceled;
    ticket->is_over = is_over;
    ticket->conn = was_canceled ? (struct pool_conn){ 0 } : conn;       /* goes back: another's */
    pthread_mutex_unlock(&ticket->lock);
    return !was_canceled;
}

bool pl_ticket_take(struct pool_ticket *ticket, const struct pool_conn *conn)
{
    return move_on(ticket, *conn, false);
}

bool pl_ticket_let_go(struct pool_ticket *ticket)
{
    return move_on(ticket, (struct pool_conn){ 0 }, false);
}

bool pl_ticket_pause(struct pool_ticket *ticket, struct pl_thread *thread)
{
    bool was_canceled;

    if (!ticket || is_parents(ticket))
        return true;
    pthread_mutex_lock(&ticket->lock);
    was_canceled = ticket->is_canceled;
    ticket->pausing = thread;
    pthread_mutex_unlock(&ticket->lock);
    return !was_canceled;
}

bool pl_ticket_end(struct pool_ticket *ticket)
{
    return move_on(ticket, (struct pool_conn){ 0 }, true);
}

/* Ends the loan that the call has, which is pinned then, to be let go of when no lock is held.
 * NULL: it has ended by itself. One that left the pool is not the call's any more. */
static struct pl_connection *end_loan(const struct pool_conn *conn)
{
    struct pl_connection *connection = pl_conn_enter(conn);

    if (connection && !pl_connection_is_detached(connection) &&
        pl_connection_doom(connection, PL_DOOM_CANCELED))
        pl_connection_shut(connection);
    return connection;
}

static void end_wait(struct pl_peer *peer, struct pl_waiter *waiter)
{
    struct pl_failure failure = pl_failure_make(POOL_E_CANCELED, POOL_PHASE_WAIT, 0);

    pthread_mutex_lock(&peer->lock);
    if (pl_list_is_linked(&waiter->link))
        pl_waiter_fail(peer, waiter, &failure);
    pthread_mutex_unlock(&peer->lock);
}

bool pool_ticket_cancel(struct pool_ticket *ticket)
{
    struct pl_connection *pinned = NULL;
    bool is_in_time;

    if (!ticket || is_parents(ticket))
        return false;
    pthread_mutex_lock(&ticket->lock);
    is_in_time = !ticket->is_over && (!ticket->exchange || pl_exchange_cancel(ticket));
    if (is_in_time && ticket->conn.slot) {
        pinned = end_loan(&ticket->conn);
        is_in_time = pinned && atomic_load(&pinned->doom) == PL_DOOM_CANCELED;
    }
    if (is_in_time && ticket->waiter)
        end_wait(ticket->peer, ticket->waiter);
    if (is_in_time && ticket->pausing)
        pl_thread_wake(ticket->pausing);
    if (is_in_time && ticket->alarm)
        pl_mux_timer_arm(ticket->mux, ticket->alarm, pl_os->now_ns());
    ticket->is_canceled = ticket->is_canceled || is_in_time;
    pthread_mutex_unlock(&ticket->lock);
    if (pinned && pl_word_unpin(&pinned->word))
        pl_peer_finish_close_and_tell(pinned);
    return is_in_time;
}

void pool_ticket_free(struct pool_ticket *ticket)
{
    pl_ticket_unref(ticket);
}
