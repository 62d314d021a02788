/* crowd.h: fifty threads that ask at once, each waiting for what it asked before it asks again;
 * ours and the reference in turns, by the same threads. */
#ifndef TEST_BENCH_CROWD_H
#define TEST_BENCH_CROWD_H

#include "bench.h"

struct crowd {
    /* what a thread has of its own, such as the reference's connection; on that thread */
    void *(*enter)(void *user);
    void (*leave)(void *own);
    /* one each: asks, waits, and looks at the answer */
    void (*ours)(void *user, void *own);
    void (*reference)(void *user, void *own);
    void *user;
};

/* What one takes; the threads have ended when it returns. */
struct comparison measure_crowd(const struct crowd *crowd);

#endif
