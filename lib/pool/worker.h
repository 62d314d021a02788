/* worker.h: threads that run `prepare`, which may block, for connections that no blocking caller
 * waits for. They are started when there is work and end when there is none: an idle pool has no
 * threads but its mux's.
 */
#ifndef PL_POOL_WORKER_H
#define PL_POOL_WORKER_H

#include <pthread.h>
#include <stdbool.h>

#include "base/compiler.h"
#include "base/list.h"

#define PL_WORKERS 8 /* of one pool at most; more work waits for them */

struct pool;
struct pl_request;

enum pl_worker_state { PL_WORKER_NONE, PL_WORKER_RUNS, PL_WORKER_ENDED };

struct pl_worker {
    struct pool *pool; /* counted while it runs */
    pthread_t thread;
    enum pl_worker_state state; /* lock */
};

struct pl_workers {
    pthread_mutex_t lock;
    struct pl_list jobs; /* lock; requests, in order */
    struct pl_worker each[PL_WORKERS];
};

void pl_workers_init(struct pl_workers *workers);

/* Has a worker run `prepare` on the request's connection. False: there is no thread to be had, and
 * nothing was begun. */
bool pl_workers_take(struct pool *pool, struct pl_request *request) PL_MUST_USE;

/* Takes back a job that no worker has begun; false: one has. */
bool pl_workers_withdraw(struct pool *pool, struct pl_request *request);

bool pl_workers_are_here(struct pl_workers *workers); /* this thread is one of them */

/* Waits for the threads that run, unless this is one of them. */
void pl_workers_join(struct pl_workers *workers);

#endif
