/* asks.h: asynchronous borrows in tests: one record for each, which counts how often it was told,
 * where, and what.
 *
 *     struct ask ask = { .is_kept = true };
 *
 *     cr_assert_eq(start_ask(&ask, pool, address, NULL), POOL_OK);
 *     cr_assert(wait_told(&ask));
 *     ... what ask.conn, ask.status and ask.error say ...
 *     cr_expect_eq(pool_return(&ask.conn), POOL_OK);
 *
 * As verbs.h: only the public API stands below it, and it needs no Criterion. */
#ifndef TEST_SUPPORT_ASKS_H
#define TEST_SUPPORT_ASKS_H

#include "support/verbs.h"

struct ask {
    /* before the start */
    bool is_kept; /* the connection stays lent; else it is returned at once */
    void (*then)(struct ask *ask); /* runs on the mux thread, when it was told; may be NULL */
    void *user; /* of `then` */
    /* afterwards, once it is told */
    atomic_uint told; /* how often */
    struct pool_conn conn; /* is_kept */
    enum pool_status status;
    struct pool_error error;
    struct pool_ticket *ticket; /* when asked for, of the start */
    pthread_t thread; /* on which it was told */
    bool was_under_the_start; /* it was told on the stack of the call that asked */
    bool was_unset; /* it was told before the ticket was there */
    uint64_t id; /* of the connection */
    uint64_t start_ms, took_ms;
    unsigned place; /* in the order in which asks were told, from 1 */
    bool has_ticket;
};

/* Starts it; `call` may be NULL, which means a timeout of VERBS_SOON. The second one fills in
 * ask.ticket, which is the test's to free. */
enum pool_status start_ask(struct ask *ask, struct pool *pool, const char *address,
                           const struct pool_call *call);
enum pool_status start_ask_with_ticket(struct ask *ask, struct pool *pool, const char *address,
                                       const struct pool_call *call);

bool wait_told(struct ask *ask);
/* The same where the calling thread drives the mux. */
bool dispatch_until_told(struct pool_mux *mux, struct ask *ask);

/* Runs `work` on the thread of the mux and waits for it. */
bool run_on_mux(struct pool_mux *mux, pool_post_fn *work, void *user);

/* A mux with a thread that runs it until it is stopped: what a pool of its own has, but one whose
 * thread tests can post to. */
struct mux_thread {
    struct pool_mux *mux;
    pthread_t thread;
};

bool start_mux_thread(struct mux_thread *thread);
void stop_mux_thread(struct mux_thread *thread); /* and destroys the mux */

/* Keeps that thread from all else, from the one call to the other. */
struct mux_hold {
    atomic_bool is_held, may_go;
};

bool hold_mux(struct pool_mux *mux, struct mux_hold *hold);
void let_mux_go(struct mux_hold *hold);

#endif
