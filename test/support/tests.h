/* tests.h: small helpers of all tests: descriptors, time, threads, waiting, signals, temporary
 * directories.
 *
 * Not a part of the library and not on its door: they call the kernel directly. None needs
 * Criterion, so that plain programs use them too. */
#ifndef TEST_SUPPORT_TESTS_H
#define TEST_SUPPORT_TESTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* Descriptors that this process has open now. -1 when it has none left to look with. */
int count_descriptors(void);

/* Sets the soft RLIMIT_NOFILE and answers what it was. The hard limit stays, so it can be raised
 * again. */
unsigned set_descriptor_limit(unsigned limit);

uint64_t now_ms(void);                                      /* CLOCK_MONOTONIC, as the next two */
uint64_t now_us(void);
uint64_t elapsed_ms(uint64_t since_ms);

/* Is `ms` in [low, high]? If not, says so on stderr. The time between low and high is what a
 * slow machine needs; it is multiplied by slowness(). */
#define WITHIN(ms, low, high) within((ms), (low), (high), #ms)
bool within(uint64_t ms, uint64_t low, uint64_t high, const char *what);

/* By how much code runs slower here than in a plain build: TEST_SLOWNESS of the environment,
 * else 20 under valgrind, 5 in a build with a sanitizer, 1 otherwise. */
unsigned slowness(void);
bool is_under_valgrind(void);

/* Runs fn(index, argument) for every index below count, each in a thread of its own, all let go
 * at the same moment, and joins them. False, and nothing was run, when the threads could not be
 * made. */
typedef void thread_fn(unsigned index, void *argument);
bool run_threads(unsigned count, thread_fn *fn, void *argument);

/* Waits until holds(argument) is true; false when `within_ms` passed in vain (it is asked once
 * more at the end). For what has no event of its own to wait for: it yields at first, then asks
 * once a millisecond. So it waits for a condition, never for a time, and cannot fail for being
 * too quick. */
typedef bool predicate_fn(void *argument);
bool wait_until(predicate_fn *holds, void *argument, unsigned within_ms);

/* Sends the calling thread SIGALRM `hz` times a second, with a handler that does not restart
 * system calls, until it is stopped, at most 64 threads at once. The handler stays installed.
 * Stopping answers how many signals came. */
struct signal_storm;
struct signal_storm *start_signal_storm(unsigned hz);       /* NULL: no timer to be had */
uint64_t stop_signal_storm(struct signal_storm *storm);
uint64_t signals_so_far(const struct signal_storm *storm);

/* Reads or writes all of it on a blocking or non-blocking socket; false at an end, an error or
 * after `within_ms`. */
bool read_exactly(int fd, void *buffer, size_t size, unsigned within_ms);
bool write_exactly(int fd, const void *bytes, size_t size, unsigned within_ms);

/* What the socket has to say within that time. */
enum heard { HEARD_NOTHING, HEARD_BYTES, HEARD_END, HEARD_ERROR };
enum heard listen_to(int fd, unsigned within_ms);           /* bytes stay unread */

/* Runs die() in a child process. Did it end by abort(), having said `text` on stderr? If not, says
 * on stderr what it did instead. */
typedef void die_fn(void);
bool aborts_saying(const char *text, die_fn *die);

/* Makes an empty directory under TMPDIR or /tmp, and removes one with all that is in it. */
bool make_temp_dir(char *path, size_t size);
void remove_temp_dir(const char *path);

#endif
