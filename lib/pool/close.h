/* close.h: the gentle end of a pool: what is begun is let finish, and somebody is told when the
 * last connection is gone.
 */
#ifndef PL_POOL_CLOSE_H
#define PL_POOL_CLOSE_H

struct pool;

/* Has it told, once, when a pool that closes has no connection left and nobody waits for one.
 * Everybody who lets go of a peer asks. */
void pl_close_look(struct pool *pool);

/* The pool was destroyed: has it told now, if it was not. Mux thread. */
void pl_close_end(struct pool *pool);

#endif
