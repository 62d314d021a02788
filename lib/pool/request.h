/* request.h: an asynchronous borrow, from pool_communicate_async() to its on_lent.
 *
 * It waits in the same queue as threads do. Its result is brought to the mux by a post, exactly
 * once; only there is it told.
 */
#ifndef PL_POOL_REQUEST_H
#define PL_POOL_REQUEST_H

#include "pool/borrow.h"

struct pl_request {
    struct pl_post post; /* brings the next step to the mux */
    struct pl_list job_link; /* in the workers' queue; their lock */
    struct pl_borrow borrow; /* its pool and peer are entered */
    struct pl_waiter waiter;
    struct pl_timer timer; /* its deadline, while it waits */
    struct pool_conn conn; /* what it got, once it is prepared */
    pool_lent_fn *on_lent;
    void *user;
};

/* A worker has run `prepare` for it (or could not: borrow.failure). Any thread. */
void pl_request_prepared(struct pl_request *request);

/* What a mux keeps for requests, in its room; the mux thread's. */
void pl_request_drop_spares(struct pl_list *spares);

#endif
