/* retry.h: what becomes of a failed attempt when on_error of the call, of the pool, or of both
 * decides. Without either, pool_communicate() replaces a reused connection that failed early, once,
 * and nothing here is in use.
 */
#ifndef PL_POOL_RETRY_H
#define PL_POOL_RETRY_H

#include "pool/borrow.h"

struct pl_retry {
    struct pool_call call;              /* as the attempts are made: its error is the next field */
    struct pool_error error;            /* of the latest attempt */
    struct pool_error *told;            /* the caller's own; NULL: he wants none */
    uint32_t repeats;
};

/* One attempt that failed. */
struct pl_attempt {
    struct pl_failure failure;
    uint64_t deadline_ns;               /* of the whole call */
    struct pl_repeatable repeatable;
    bool is_to_repeat;                  /* where nobody is asked */
    bool was_reused;                    /* it was the connection's age: no reason for a pause */
};

/* Has anybody something to decide? */
bool pl_retry_is_asked(const struct pool *pool, const struct pool_call *call);

/* False: the call cannot be read, and nobody is asked. */
bool pl_retry_begin(struct pl_retry *retry, const struct pool_call *call) PL_MUST_USE;

/* Asks who is to be asked, and pauses. True: the attempt is to be made again. No lock held. */
bool pl_retry_wants(struct pl_retry *retry, struct pl_borrow *borrow,
                    const struct pl_attempt *attempt) PL_MUST_USE;

/* The last attempt is made; answers how the call ended. When it failed, the caller is told; from
 * now on the borrow tells him itself again. */
enum pool_status pl_retry_end(struct pl_retry *retry, struct pl_borrow *borrow,
                              enum pool_status status);

/* An attempt that got no connection, as there is something to decide about it. */
struct pl_attempt pl_retry_failed_borrow(const struct pl_borrow *borrow, enum pool_status status);

/* Borrows for another attempt, with what is left of the time. */
enum pool_status pl_retry_borrow_again(struct pl_borrow *borrow, const struct pool_call *call,
                                       uint64_t deadline_ns, struct pool_conn *conn) PL_MUST_USE;

/* The slow part of pool_borrow() where somebody is asked. */
enum pool_status pl_retry_borrow(struct pl_borrow *borrow, const struct pool_call *call,
                                 struct pool_conn *conn) PL_MUST_USE;

/* The pool ends: those who pause go on. */
void pl_retry_wake_all(struct pool *pool);

#endif
