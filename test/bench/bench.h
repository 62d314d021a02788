/* bench.h: what the figures share: timing, statistics, and the line that each of them prints.
 *
 * Each figure runs in a process of its own, so that none inherits another's memory, descriptors,
 * threads or place on a core. A figure that cannot do its work ends its process with a note; being
 * slow is never a failure.
 *
 * Ours and the reference are measured in one run, in turns, because a machine's speed wanders: what
 * is compared lies a few milliseconds apart.
 */
#ifndef TEST_BENCH_BENCH_H
#define TEST_BENCH_BENCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "commpool/pool.h"

/* A number that does not exist; it is printed as "-". */
#define BENCH_NONE (-1.0)

/* Does some operations and answers the nanoseconds that one of them took. */
typedef double round_fn(void *user);

struct comparison {
    double ours, reference; /* medians, nanoseconds */
    double ratio; /* median of the ratios within each pair of rounds, so drift cancels out */
};

uint64_t now_ns(void);
double median(double *values, unsigned count); /* sorts them */

/* Runs both in turns, changing who begins, after one unmeasured turn each. */
struct comparison alternate(unsigned rounds, round_fn *ours, round_fn *reference, void *user);

/* Ours alone, the median of the same number of rounds. */
double repeat(unsigned rounds, round_fn *ours, void *user);

/* Binds the calling thread, and those it starts from then on, to one core; a machine with fewer
 * cores gives the last one. */
void pin_to_core(unsigned core);

/* Sleeps until `ms` milliseconds have passed. */
void rest_ms(unsigned ms);

/* Notes what failed, and why (NULL: errno tells), and ends the process. */
_Noreturn void give_up(const char *what, const char *why);

/* Goes on only if it holds. In the header, so that it costs a loop nothing but the comparison. */
static inline void need(bool holds, const char *what)
{
    if (!holds)
        give_up(what, NULL);
}

/* The same for a status. */
static inline void need_ok(enum pool_status status, const char *what)
{
    if (status)
        give_up(what, pool_status_name(status));
}

/* Prints the line of a figure: name, ours, reference, ratio, limit. */
void report(const char *name, double ours, double limit);
void report_comparison(const char *name, struct comparison comparison, double limit);

/* The same from times, as operations a second, where more is better; or "-" instead of them, as
 * something that is needed is missing here. */
void report_rates(const char *name, struct comparison times, double least);
void report_no_rates(const char *name, const char *why, double least);

/* From now on the library allocates by the three functions below, which others may use as well,
 * and heap_bytes() is what of it is alive. */
void heap_begin(void);
int64_t heap_bytes(void);
void *heap_malloc(size_t size);
void *heap_realloc(void *memory, size_t size);
void heap_free(void *memory);

/* The figures, one function each. */
void figure_borrow(const char *name);
void figure_borrow_check(const char *name);
void figure_borrow2(const char *name);
void figure_borrow2_async(const char *name);
void figure_borrow_text(const char *name);
void figure_roundtrip(const char *name);
void figure_roundtrip_check(const char *name);
void figure_roundtrip_syscalls(const char *name);
void figure_roundtrip_check_syscalls(const char *name);
void figure_parked(const char *name);
void figure_evict(const char *name);
void figure_idle_bytes(const char *name);
void figure_timers(const char *name);
void figure_async(const char *name);
void figure_async_cross(const char *name);
void figure_waiters(const char *name);
void figure_waiters_wakes(const char *name);
void figure_dns_cached(const char *name);
void figure_loop_latency(const char *name);
void figure_tls_roundtrip(const char *name);
void figure_tls_resume(const char *name);
void figure_tls_resume_missed(const char *name);
void figure_tls_idle_bytes(const char *name);
void figure_query_lone(const char *name);
void figure_query_threads(const char *name);
void figure_query_async(const char *name);
void figure_query_async_256(const char *name);
void figure_query_redis(const char *name);
void figure_query_redis_threads(const char *name);
void figure_query_memory(const char *name);
void figure_query_memory_1000(const char *name);

/* `count` round trips and nothing else, for figure_roundtrip_syscalls to look at from outside. */
void make_round_trips(const char *address, const char *check, const char *count);

#endif
