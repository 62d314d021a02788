/* stress.h: what the stress programs share: the seed, the end, failures, counted memory, and
 * questions whose answers cannot be mistaken for another's.
 *
 *     stress_borrow [SEED [SECONDS]]
 *
 * A program prints its seed first, so that what it did can be tried again (the threads' choices
 * repeat, their order does not). It fails by stress_fail(), goes on, and answers in stress_end().
 *
 * Every request carries the thread that sent it and a number that it uses once; the peer
 * (PEER_TOKEN) answers it with its own number of the connection. So a reply that belongs to
 * somebody else is known by sight, and so is a connection that is not the one it says it is. */
#ifndef TEST_STRESS_STRESS_H
#define TEST_STRESS_STRESS_H

#include <stdbool.h>
#include <stdint.h>

#include "commpool/pool.h"

/* Reads the arguments, prints the seed, begins to count allocations and to watch the time: a
 * program that runs for many times longer than it should hangs, and is ended. `seconds` is for a
 * plain start. */
void stress_begin(int argc, char **argv, unsigned seconds);
uint64_t stress_seed(void);
unsigned stress_seconds(void);
bool stress_is_on(void); /* the time is not over, and not everything is broken */
void stress_begin_part(unsigned ms); /* stress_is_on() for so long from now, and a new watch */

/* One failure; the first ones are printed. Any thread. */
void stress_fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
unsigned stress_failures(void);

/* Says what was done, on the last line, and how to do it again if it failed. Answers the exit
 * status. */
int stress_end(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Allocations of the library that are alive. */
long stress_blocks(void);

/* Fails unless the process is back at as many descriptors and allocations as it had at the
 * beginning. */
void stress_expect_nothing_left(int descriptors, long blocks, const char *where);

/* Fails unless the gauges of one snapshot add up. */
void stress_expect_even(struct pool *pool);

uint64_t stress_cpu_ms(void); /* used by this process so far */

/* One thread of a program. */
struct stress_caller {
    unsigned thread;
    uint64_t random;
    uint64_t serial; /* of its last request */
    bool must_copy; /* the loan may end under it: no look at the library's memory */
};

struct stress_caller stress_caller_make(unsigned thread);
uint64_t stress_random(struct stress_caller *caller);
unsigned stress_below(struct stress_caller *caller, unsigned limit); /* 0 .. limit - 1 */
bool stress_chance(struct stress_caller *caller, unsigned percent);

/* One request and its answer. POOL_OK: it was this caller's, and *nth, unless NULL, is the peer's
 * number of the connection. STRESS_STRAY: a whole line that answers nothing. Negative: what the
 * library said. Another's answer is a failure of the program. */
#define STRESS_STRAY 1
#define STRESS_CROSSED 2
int stress_ask(struct stress_caller *caller, struct pool_conn *conn, unsigned *nth);

/* The two halves of it, for callers who do something between them. */
int stress_send(struct stress_caller *caller, struct pool_conn *conn);
int stress_hear(struct stress_caller *caller, struct pool_conn *conn, unsigned *nth);

#endif
