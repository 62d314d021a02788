/* torture_pool.c: all scenarios, all points.
 *
 *     torture_pool                                 everything
 *     torture_pool SCENARIO                        one of them
 *     torture_pool SCENARIO points                 what its points are
 *     torture_pool SCENARIO POINT ERRNO once|good [fresh]
 *                                                  one run, in this process (gdb: break
 *                                                  fault_strikes)
 *
 * Each scenario runs in a child, so that one that crashes or hangs is counted and the rest goes on
 * behind it. Pages are mapped only when the library is new in its process, so those points are
 * played "fresh", each in a child of its own. Exit status 0: nothing was wrong. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "torture/torture.h"

#define WARM_UPS 2 /* arenas and thread records exist after them */
#define SECONDS_PER_RUN 20
#define MOST_FRESH 64
#define SAY_AT_MOST 12 /* lines on one scenario, unless TORTURE_LINES says otherwise */

/* What a child tells its parent, also after its death. */
struct report {
    struct torture_plan plan; /* of the run that is on */
    uint64_t run; /* its number, from 1; 0: none yet */
    uint64_t points, runs, failed_runs;
    uint64_t drifted; /* runs that were not like the one that counted the points */
    unsigned said;
    uint64_t fresh[MOST_FRESH]; /* points at which a new library maps pages; ended by 0 */
};

static struct report *report;
static unsigned say_at_most = SAY_AT_MOST;

static void print_repeat(const char *name, const struct torture_plan *plan)
{
    printf("    repeat: torture_pool %s %llu %s %s%s\n", name, (unsigned long long)plan->point,
           fault_error_name(plan->error), plan->for_good ? "good" : "once",
           plan->is_fresh ? " fresh" : "");
}

static void run_counted(const struct scenario *scenario, const struct torture_plan *plan)
{
    unsigned left = report->said < say_at_most ? say_at_most - report->said : 0;
    unsigned failures;

    report->plan = *plan;
    alarm(SECONDS_PER_RUN);
    failures = torture_run(scenario, plan, left);
    report->runs++;
    if (plan->point && !plan->is_fresh &&
        (!fault_has_struck() || fault_struck_kind() != fault_kind(plan->point)))
        report->drifted++;
    if (!failures)
        return;
    report->failed_runs++;
    if (left && plan->point)
        print_repeat(scenario->name, plan);
    report->said += failures < left ? failures : left;
    fflush(stdout);
}

static void warm_up(const struct scenario *scenario)
{
    struct torture_plan none = { 0 };

    for (int i = 0; i < WARM_UPS; i++)
        torture_run(scenario, &none, 0);
}

/* Every errno of one point, once and for good. */
static void torture_point(const struct scenario *scenario, uint64_t point, uint64_t *run,
                          uint64_t first_run)
{
    bool once_only;

    for (unsigned index = 0;; index++) {
        struct torture_plan plan = { .point = point,
                                     .error = fault_error(fault_kind(point), index, &once_only) };

        if (!plan.error)
            return;
        for (int for_good = 0; for_good <= !once_only; for_good++) {
            plan.for_good = for_good;
            if (++*run < first_run)
                continue;
            report->run = *run;
            run_counted(scenario, &plan);
        }
    }
}

static _Noreturn void child(const struct scenario *scenario, uint64_t first_run)
{
    struct torture_plan none = { 0 };
    uint64_t run = 0;

    alarm(SECONDS_PER_RUN);
    warm_up(scenario);
    if (first_run == 1)
        run_counted(scenario, &none);
    else
        torture_run(scenario, &none, 0);
    report->points = fault_points();
    for (uint64_t point = 1; point <= report->points; point++)
        torture_point(scenario, point, &run, first_run);
    fflush(stdout);
    _exit(0);
}

/* True: the child went through; else its death is noted as a run that failed. */
static bool is_through(const struct scenario *scenario, pid_t pid)
{
    int status = 0;

    if (pid < 0 || waitpid(pid, &status, 0) != pid)
        abort();
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return true;
    report->runs++;
    report->failed_runs++;
    if (report->said++ < say_at_most) {
        printf("  %s: %s\n", scenario->name,
               !WIFSIGNALED(status) ? "ended by itself" : strsignal(WTERMSIG(status)));
        print_repeat(scenario->name, &report->plan);
    }
    return false;
}

/* True: nothing is left to be run. A child that died before its first run would do so again. */
static bool run_child(const struct scenario *scenario)
{
    uint64_t first_run = report->run + 1;
    pid_t pid;

    fflush(stdout);
    pid = fork();
    if (pid == 0)
        child(scenario, first_run);
    return is_through(scenario, pid) || report->run < first_run;
}

/* One run in a process that has not used the library before. */
static void run_fresh(const struct scenario *scenario, const struct torture_plan *plan)
{
    size_t count = 0;
    pid_t pid;

    fflush(stdout);
    pid = fork();
    if (pid) {
        is_through(scenario, pid);
        return;
    }
    run_counted(scenario, plan);
    for (uint64_t point = 1; !plan->point && point <= fault_points() && count < MOST_FRESH - 1;
         point++) {
        if (fault_kind(point) == FAULT_MAP)
            report->fresh[count++] = point;
    }
    fflush(stdout);
    _exit(0);
}

static void torture_fresh(const struct scenario *scenario)
{
    struct torture_plan plan = { .is_fresh = true };

    run_fresh(scenario, &plan);
    plan.error = ENOMEM;
    for (size_t i = 0; report->fresh[i]; i++) {
        report->points++;
        plan.point = report->fresh[i];
        for (int for_good = 0; for_good < 2; for_good++) {
            plan.for_good = for_good;
            run_fresh(scenario, &plan);
        }
    }
}

static double seconds(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static void torture(const struct scenario *scenario, struct report *total)
{
    double start = seconds();

    memset(report, 0, sizeof(*report));
    while (!run_child(scenario))
        continue;
    torture_fresh(scenario);
    printf("%-28s %5llu points %6llu runs %5llu failed %6.1f s\n", scenario->name,
           (unsigned long long)report->points, (unsigned long long)report->runs,
           (unsigned long long)report->failed_runs, seconds() - start);
    if (report->drifted)
        printf("  %llu runs drifted: the same script did not make the same calls\n",
               (unsigned long long)report->drifted);
    fflush(stdout);
    total->points += report->points;
    total->runs += report->runs;
    total->failed_runs += report->failed_runs + report->drifted;
}

static int list_points(const struct scenario *scenario)
{
    struct torture_plan none = { 0 };
    unsigned failures;

    warm_up(scenario);
    failures = torture_run(scenario, &none, say_at_most);
    for (uint64_t point = 1; point <= fault_points(); point++)
        printf("%4llu %s\n", (unsigned long long)point, fault_call_name(fault_kind(point)));
    return failures ? 1 : 0;
}

static int run_one(const struct scenario *scenario, char **words)
{
    struct torture_plan plan = { .point = strtoull(words[0], NULL, 10),
                                 .error = fault_error_named(words[1]),
                                 .for_good = !strcmp(words[2], "good"),
                                 .is_fresh = words[3] };
    unsigned failures;

    if (!plan.point || !plan.error) {
        printf("no such point or errno: %s %s\n", words[0], words[1]);
        return 2;
    }
    if (!plan.is_fresh)
        warm_up(scenario);
    failures = torture_run(scenario, &plan, say_at_most);
    printf("%s struck, %u failures\n",
           fault_has_struck() ? fault_call_name(fault_struck_kind()) : "nothing", failures);
    return failures ? 1 : 0;
}

static const struct scenario *find_scenario(const char *name)
{
    for (size_t i = 0; torture_scenarios[i]; i++) {
        if (!strcmp(torture_scenarios[i]->name, name))
            return torture_scenarios[i];
    }
    return NULL;
}

int main(int argc, char **argv)
{
    const struct scenario *only = argc > 1 ? find_scenario(argv[1]) : NULL;
    struct report total = { 0 };

    if (getenv("TORTURE_LINES"))
        say_at_most = (unsigned)atoi(getenv("TORTURE_LINES"));
    if (argc > 1 && !only) {
        printf("there is no scenario \"%s\"\n", argv[1]);
        return 2;
    }
    if (argc == 3)
        return list_points(only);
    if (argc == 5 || argc == 6)
        return run_one(only, argv + 2);
    report = mmap(NULL, sizeof(*report), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (report == MAP_FAILED)
        return 2;
    for (size_t i = 0; torture_scenarios[i]; i++) {
        if (!only || torture_scenarios[i] == only)
            torture(torture_scenarios[i], &total);
    }
    printf("%llu points, %llu runs, %llu failed\n", (unsigned long long)total.points,
           (unsigned long long)total.runs, (unsigned long long)total.failed_runs);
    return total.failed_runs ? 1 : 0;
}
