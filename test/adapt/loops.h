/* loops.h: what is true of a mux in any loop, told once for all adapters. Each adapter's test gives
 * the few verbs of its loop. */
#ifndef TEST_ADAPT_LOOPS_H
#define TEST_ADAPT_LOOPS_H

#include <stdbool.h>
#include <stdint.h>

#include "commpool/mux.h"

struct loop_verbs {
    void *(*open)(void);
    enum pool_status (*attach)(struct pool_mux *mux, void *loop, void **link);
    void (*detach)(void *link);
    void (*run)(void *loop, const bool *until); /* until it is true, then detached or not */
    void (*settle)(void *loop);                 /* one turn that does not wait */
    void (*after)(void *loop, unsigned ms, void (*call)(void *user), void *user);
    void (*close)(void *loop);                  /* must find nothing left */
};

void loop_test_posts_and_timers(const struct loop_verbs *loop);
void loop_test_idle(const struct loop_verbs *loop);
void loop_test_borrow(const struct loop_verbs *loop);
void loop_test_detach_in_callback(const struct loop_verbs *loop);
void loop_test_mux_ends_first(const struct loop_verbs *loop);
void loop_test_attach_again(const struct loop_verbs *loop);
void loop_test_two_muxes(const struct loop_verbs *loop);
void loop_test_no_memory(const struct loop_verbs *loop);
void loop_test_arguments(const struct loop_verbs *loop);

#endif
