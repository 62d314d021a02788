/* reserve.h: who may be born, and room for descriptors of the program's own. While a pool was asked
 * to keep some free, all pools on its mux together have no more connections than leave these
 * numbers free.
 *
 * The bound is worked out from what is open when a pool is asked, and from the limit as it is at
 * each birth: connections <= limit - left, where `left` is what all other code had open then, plus
 * what is reserved. Shares (pool.h) are taken and given here.
 */
#ifndef PL_POOL_RESERVE_H
#define PL_POOL_RESERVE_H

struct pool;

/* The pool ends, and what it was asked for with it. */
void pl_reserve_end(struct pool *pool);

#endif
