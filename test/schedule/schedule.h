/* schedule.h: a schedule of threads by chance and seed: of all threads that could run, one does,
 * and at each of the library's locks and atomic operations (points.h) chance decides whether it is
 * another one's turn.
 *
 * It finds what a free-running machine meets once in a million runs, for a switch costs it nothing
 * to make just there. What waits in the kernel (the door's blocking calls) is outside the schedule
 * meanwhile; so a seed finds a bug again often, not always. */
#ifndef TEST_SCHEDULE_SCHEDULE_H
#define TEST_SCHEDULE_SCHEDULE_H

#include <stdbool.h>
#include <stdint.h>

/* From here on, on average one point of `spacing` is a switch. Puts a door in front of the
 * kernel. */
void schedule_begin(uint64_t seed, unsigned spacing);
void schedule_end(void);

uint64_t schedule_points(void);         /* since the program began */
uint64_t schedule_switches(void);

/* Runs fn(index, argument) in `count` threads at once and waits for them. */
typedef void schedule_fn(unsigned index, void *argument);
void schedule_run(unsigned count, schedule_fn *fn, void *argument);

/* A moment at which another thread may run; every lock and atomic operation of the library is
 * one. */
void schedule_point(void);

/* The same where this thread cannot go on: for a lock that another one has. */
void schedule_yield(void);

/* Around whatever of a test blocks. */
void schedule_leave(void);
void schedule_come(void);

/* A number below `below`, of the running thread's own chance. */
unsigned schedule_chance(unsigned below);

#endif
