/* orders.h: what the orders to a pool share: when they are taken, how a pool is paused, and the
 * errand that brings the rest of an order to the mux.
 */
#ifndef PL_POOL_ORDERS_H
#define PL_POOL_ORDERS_H

#include "pool/pool.h"

/* What an order is answered in the pool's state; POOL_OK: it is taken. */
enum pool_status pl_orders_refusal(const struct pool *pool) PL_MUST_USE;

/* Pauses the pool and tells those who wait. */
enum pool_status pl_orders_pause(struct pool *pool) PL_MUST_USE;

/* Ends on the mux thread, soon, what a round marked there. Made before anything is marked, so that
 * nothing is promised in vain; NULL: no memory. It is run or dropped. */
struct pl_errand;
struct pl_errand *pl_errand_make(struct pool *pool) PL_MUST_USE;
void pl_errand_run(struct pl_errand *errand, bool is_forced); /* forced: all that is unready */
void pl_errand_drop(struct pl_errand *errand);

#endif
