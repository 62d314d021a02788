/* borrow.h: how a call comes to a connection; give_back.c has the way back. */
#ifndef PL_POOL_BORROW_H
#define PL_POOL_BORROW_H

#include "pool/leak.h"
#include "pool/pool.h"

/* One borrow of one caller; on its stack. */
struct pl_borrow {
    struct pool *pool;
    const char *address; /* as given; with a target it is not looked at */
    struct pool_call call;
    struct pl_thread *self;
    struct pl_peer *peer; /* entered */
    uint64_t start_ns, deadline_ns, wait_deadline_ns;
    struct pl_spent spent;
    struct pl_failure failure;
    uint64_t tried_ns; /* what failed was begun then; 0: with the call */
    struct pool_ticket *ticket; /* counted; NULL: the call cannot be canceled */
    struct pl_peer *waited_at; /* entered once more, while a pool that closes is not empty for it */
    uint64_t queued_ns; /* when it joined the queue: the place it keeps; 0: not yet */
    bool has_waited; /* in the queue, or for those who did: a pool that closes still serves it */
    bool is_for_line; /* what is lent is to carry queries */
    char tag[PL_TAG]; /* the call's, where leaks are looked for */
    bool holds_pool; /* its thread itself has every connection that there may be */
    bool must_look; /* look at the connection closely, whatever the pool's option says */
    bool is_told; /* the search for its peer failed, and told `error` of the call why */
    uint8_t seen; /* enum pool_outcome: what peers may have seen of the call, in all its attempts */
};

/* An attempt failed: what an earlier one may have sent is not unsent by that. */
static inline void pl_borrow_note_outcome(struct pl_borrow *borrow, struct pl_failure *failure)
{
    if (failure->outcome < borrow->seen)
        failure->outcome = borrow->seen;
    borrow->seen = failure->outcome;
}

/* The whole of pool_borrow; what the way took stays in borrow->spent. */
enum pool_status pl_borrow_first(struct pl_borrow *borrow, const struct pool_call *call,
                                 struct pool_conn *conn) PL_MUST_USE;

/* Its slow part, with borrow->call read. Lends one to the caller; POOL_OK, or a failure that
 * `error` of the call was told. */
enum pool_status pl_borrow_any(struct pl_borrow *borrow, struct pool_conn *conn) PL_MUST_USE;

/* The steps of it, for asynchronous calls. */

/* The warm path: the connection that this thread returned last, looked at and lent; false: it takes
 * more than that. */
bool pl_borrow_warm(struct pool *pool, const char *address, const struct pool_call *call,
                    struct pool_conn *conn) PL_MUST_USE;
/* Works out the deadlines. */
enum pool_status pl_borrow_begin(struct pl_borrow *borrow) PL_MUST_USE;
/* The caller's peer, entered; by the target, by memory, or by the text. */
enum pool_status pl_borrow_find_peer(struct pl_borrow *borrow) PL_MUST_USE;
/* Did it get what it may use? Looks at one that was not opened for it; false: it was no good, and
 * is dealt with. */
bool pl_borrow_is_fit(struct pl_borrow *borrow, struct pl_connection *connection) PL_MUST_USE;
/* Begins the loan: the deadline, and `prepare` on a connection that is new. False:
 * borrow->failure. */
bool pl_borrow_settle_in(struct pl_borrow *borrow, struct pl_connection *connection,
                         struct pool_conn *conn) PL_MUST_USE;
/* Says and counts that it came to nothing. */
void pl_borrow_give_up(struct pl_borrow *borrow, enum pool_status status);
/* The time that it took until now, by phase. */
void pl_borrow_account(struct pl_borrow *borrow, const struct pl_connection *connection);

/* It joins the queue: a pool that closes serves it from now on, and has not emptied before the
 * whole call is over. The first: peer lock held; the second: no lock held, and the last step. */
void pl_borrow_note_wait(struct pl_borrow *borrow);
void pl_borrow_end_wait(struct pl_borrow *borrow);

/* Makes the connection of a loan that programs know of the caller's own (MUX). False: a copy of the
 * handle has ended the loan, or ends it now. */
bool pl_give_back_claim(struct pl_connection *connection, uint64_t serial) PL_MUST_USE;

/* Why a connection that comes back may not be lent again (enum pool_close_reason); below 0: it
 * may. */
int pl_give_back_unfitness(struct pl_connection *connection, uint64_t now_ns);

/* The same as pool_return() or pool_discard(), for what queries share. */
void pl_give_back_shared(struct pool_conn conn, bool is_good);

/* A call with a ticket is over, and can be canceled no more: answers its status, or that it was
 * canceled after all. */
enum pool_status pl_borrow_end_ticket(struct pl_borrow *borrow, enum pool_status status);

/* Tells `error` of the call why there is no borrow, and answers that. */
enum pool_status pl_borrow_refuse(const char *address, const struct pool_call *call,
                                  enum pool_status status);

/* The text by which errors name this borrow's peer; NULL: none was given. */
const char *pl_borrow_text(const struct pl_borrow *borrow);

#endif
