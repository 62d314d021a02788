/* cell.h: what the two halves of the matrix of test_reentrancy.c share: the cell that is being
 * played, and the callbacks, each with its options and something that brings it about. */
#ifndef TEST_POOL_CELL_H
#define TEST_POOL_CELL_H

#include "pool/calls.h"

/* One function in one callback. There is one at a time. */
struct cell {
    const char *callback;
    const struct call *call;
    struct props props;
    struct pool_conn loan; /* for callbacks that have no connection of their own */
    struct peer *peer;
    struct pool_mux *mux; /* the test dispatches it */
    pthread_t thread;
    void (*beside)(void);
    atomic_int answer;
    atomic_bool has_begun, has_run, is_beside_done;
};

extern struct cell cell;

/* The call of the cell, on the connection that the callback has, else on the loan: the first time
 * only. */
void poke(struct pool_conn *conn);
bool cell_has_run(void *unused);

struct callback {
    const char *name;
    void (*adjust)(struct pool_options *options); /* NULL: it is no hook of a pool */
    void (*bring_about)(void); /* on a thread beside */
    bool needs_loan_gone; /* it comes when the last connection is gone */
};

extern const struct callback callbacks[];
extern const unsigned count_of_callbacks;

#endif
