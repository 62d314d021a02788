/* measure.c: timing, statistics and output of the figures. */
#include "bench.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define ROUNDS_MAX 512u

static int compare(const void *a, const void *b)
{
    double first = *(const double *)a, second = *(const double *)b;

    return (first > second) - (first < second);
}

static void print_number(double number, int decimals)
{
    if (number < 0)
        printf("\t-");
    else
        printf("\t%.*f", decimals, number);
}

static void print_start(const char *name, struct comparison comparison, int decimals)
{
    printf("%s", name);
    print_number(comparison.ours, decimals);
    print_number(comparison.reference, decimals);
    print_number(comparison.ratio, 3);
}

static void print_line(const char *name, struct comparison comparison, double limit)
{
    print_start(name, comparison, 2);
    print_number(limit, 2);
    printf("\n");
    fflush(stdout);
}

/* Of operations that take so many nanoseconds. */
static double rate(double ns)
{
    return ns > 0 ? 1e9 / ns : BENCH_NONE;
}

uint64_t now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec;
}

double median(double *values, unsigned count)
{
    qsort(values, count, sizeof(*values), compare);
    return count % 2 ? values[count / 2] : (values[count / 2 - 1] + values[count / 2]) / 2;
}

struct comparison alternate(unsigned rounds, round_fn *ours, round_fn *reference, void *user)
{
    double our_times[ROUNDS_MAX], reference_times[ROUNDS_MAX], ratios[ROUNDS_MAX];
    struct comparison result;

    need(rounds <= ROUNDS_MAX, "no more rounds than there is room for");
    ours(user);
    reference(user);
    for (unsigned i = 0; i < rounds; i++) {
        if (i % 2)
            our_times[i] = ours(user);
        reference_times[i] = reference(user);
        if (i % 2 == 0)
            our_times[i] = ours(user);
        ratios[i] = our_times[i] / reference_times[i];
    }
    result.ours = median(our_times, rounds);
    result.reference = median(reference_times, rounds);
    result.ratio = median(ratios, rounds);
    return result;
}

double repeat(unsigned rounds, round_fn *ours, void *user)
{
    double times[ROUNDS_MAX];

    need(rounds <= ROUNDS_MAX, "no more rounds than there is room for");
    ours(user);
    for (unsigned i = 0; i < rounds; i++)
        times[i] = ours(user);
    return median(times, rounds);
}

void pin_to_core(unsigned core)
{
    long count = sysconf(_SC_NPROCESSORS_ONLN);
    cpu_set_t set;

    if (count > 0 && core >= (unsigned)count)
        core = (unsigned)count - 1;
    CPU_ZERO(&set);
    CPU_SET(core, &set);
    if (pthread_setaffinity_np(pthread_self(), sizeof(set), &set))
        fprintf(stderr, "bench: cannot bind a thread to core %u; figures may scatter\n", core);
}

void rest_ms(unsigned ms)
{
    struct timespec rest = { .tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000 };

    while (nanosleep(&rest, &rest) && errno == EINTR)
        continue;
}

void give_up(const char *what, const char *why)
{
    fprintf(stderr, "bench: cannot go on: %s: %s\n", what, why ? why : strerror(errno));
    exit(1);
}

void report(const char *name, double ours, double limit)
{
    print_line(name, (struct comparison){ ours, BENCH_NONE, BENCH_NONE }, limit);
}

void report_comparison(const char *name, struct comparison comparison, double limit)
{
    print_line(name, comparison, limit);
}

void report_rates(const char *name, struct comparison times, double least)
{
    struct comparison rates = { rate(times.ours), rate(times.reference),
                                times.ratio > 0 ? 1 / times.ratio : BENCH_NONE };

    print_start(name, rates, 0);
    printf("\t>=%.2f\n", least);
    fflush(stdout);
}

void report_no_rates(const char *name, const char *why, double least)
{
    fprintf(stderr, "bench: %s is left out: %s\n", name, why);
    report_rates(name, (struct comparison){ BENCH_NONE, BENCH_NONE, BENCH_NONE }, least);
}
