/* ticket.h: by what a call can be canceled while it waits, is being set up, or uses its connection.
 * A ticket belongs to the program and to the call; whichever lets go of it last frees it.
 *
 * Lock order: a ticket's lock, then those of peer.h.
 */
#ifndef PL_POOL_TICKET_H
#define PL_POOL_TICKET_H

#include "pool/peer.h"

struct pl_exchange;
struct pl_query;

struct pool_ticket {
    _Atomic uint32_t refs; /* the program's, the call's */
    uint32_t forks; /* pl_forks where it was made: elsewhere it is the parent's */
    pthread_mutex_t lock;
    bool is_canceled, is_over;
    struct pl_peer *peer; /* while the call waits there; the call has entered it */
    struct pl_waiter *waiter;
    struct pl_thread *pausing; /* the call's thread, between two attempts */
    struct pool_mux *mux; /* while the call waits for a worker, as the next one */
    struct pl_timer *alarm; /* what fires takes it out of their queue */
    struct pl_exchange *exchange; /* of a query: set once, before anybody may cancel it */
    struct pl_query *query; /* under the exchange's lock; NULL: its result stands */
    struct pool_conn conn; /* while the call has it; it may be stale */
};

/* All of them do nothing, and answer true, for a call without a ticket (NULL). */

/* The program's variable, which other threads may read meanwhile. */
void pl_ticket_show(struct pool_ticket **given, struct pool_ticket *ticket);

/* For the call or the program that has a share of it already. */
void pl_ticket_ref(struct pool_ticket *ticket);

/* Makes one for a call, and hands the program its share of it. */
enum pool_status pl_ticket_make(struct pool_ticket **ticket,
                                struct pool_ticket **given) PL_MUST_USE;
void pl_ticket_unref(struct pool_ticket *ticket);

/* The call is about to queue at a peer that it has entered: holds the ticket, so that canceling
 * comes before or after that step. False: it was canceled, and the ticket is not held. */
bool pl_ticket_hold(struct pool_ticket *ticket, struct pl_peer *peer,
                    struct pl_waiter *waiter) PL_MUST_USE;
void pl_ticket_release(struct pool_ticket *ticket);
/* The same for a query, which is about to be accepted. */
bool pl_ticket_hold_query(struct pool_ticket *ticket) PL_MUST_USE;
/* The call waits for a worker: canceling makes the timer fire. False: it was canceled. */
bool pl_ticket_set_alarm(struct pool_ticket *ticket, struct pool_mux *mux,
                         struct pl_timer *alarm) PL_MUST_USE;
/* The wait is over, whatever came of it; the waiter's and the timer's memory may go. */
void pl_ticket_wait_end(struct pool_ticket *ticket);

/* The call has a connection now, which canceling ends. False: it was canceled. */
bool pl_ticket_take(struct pool_ticket *ticket, const struct pool_conn *conn) PL_MUST_USE;

/* The call has no connection any more, but may get another one. False: it was canceled. */
bool pl_ticket_let_go(struct pool_ticket *ticket) PL_MUST_USE;

/* Its thread pauses between two attempts, until it is woken; NULL: no more. False: it was
 * canceled. */
bool pl_ticket_pause(struct pool_ticket *ticket, struct pl_thread *thread);

/* The call is over: canceling comes too late from now on. False: it came before. */
bool pl_ticket_end(struct pool_ticket *ticket) PL_MUST_USE;

#endif
