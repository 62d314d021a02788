/* main.c: bench [NAME...] measures the figures named, or all of them.
 *
 * It prints one line a figure, with tabs between: name, ours, the reference, ours / reference, the
 * limit; "-" where there is none. Times are nanoseconds. The limit is on the ratio where there is
 * one, else on ours. One that begins with ">=" is the least that it must be, and the numbers before
 * it are operations a second. What the columns are and other notes go to stderr. The exit status is
 * 0 when every figure could be measured, whatever came out, or needs what is not installed.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench.h"

struct figure {
    const char *name;
    void (*measure)(const char *name);
};

static const struct figure figures[] = {
    { "borrow", figure_borrow },
    { "borrow-check", figure_borrow_check },
    { "borrow2", figure_borrow2 },
    { "borrow-text", figure_borrow_text },
    { "roundtrip", figure_roundtrip },
    { "roundtrip-check", figure_roundtrip_check },
    { "roundtrip-syscalls", figure_roundtrip_syscalls },
    { "roundtrip-check-syscalls", figure_roundtrip_check_syscalls },
    { "parked", figure_parked },
    { "evict", figure_evict },
    { "idle-bytes", figure_idle_bytes },
    { "timers", figure_timers },
    { "async", figure_async },
    { "async-cross", figure_async_cross },
    { "borrow2-async", figure_borrow2_async },
    { "waiters", figure_waiters },
    { "waiters-wakes", figure_waiters_wakes },
    { "dns-cached", figure_dns_cached },
    { "loop-latency", figure_loop_latency },
    { "tls-roundtrip", figure_tls_roundtrip },
    { "tls-resume", figure_tls_resume },
    { "tls-resume-missed", figure_tls_resume_missed },
    { "tls-idle-bytes", figure_tls_idle_bytes },
    { "query-lone", figure_query_lone },
    { "query-threads", figure_query_threads },
    { "query-async", figure_query_async },
    { "query-async-256", figure_query_async_256 },
    { "query-redis", figure_query_redis },
    { "query-redis-threads", figure_query_redis_threads },
    { "query-memory", figure_query_memory },
    { "query-memory-1000", figure_query_memory_1000 },
};

#define FIGURES (sizeof(figures) / sizeof(figures[0]))

static const struct figure *find(const char *name)
{
    for (size_t i = 0; i < FIGURES; i++) {
        if (strcmp(figures[i].name, name) == 0)
            return &figures[i];
    }
    return NULL;
}

static void raise_descriptor_limit(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit))
        return;
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
}

/* Each in a child: see bench.h. False: it could not be measured. */
static bool measure(const struct figure *figure)
{
    pid_t parent = getpid(), child;
    int status;

    fflush(stdout);
    child = fork();
    need(child >= 0, "fork");
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent)
            exit(1);
        figure->measure(figure->name);
        exit(0);
    }
    need(waitpid(child, &status, 0) == child, "waitpid");
    if (status == 0)
        return true;
    fprintf(stderr, "bench: %s could not be measured (%s %d)\n", figure->name,
            WIFSIGNALED(status) ? "signal" : "exit status",
            WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
    return false;
}

int main(int argc, char **argv)
{
    bool all_measured = true;

    if (argc == 5 && strcmp(argv[1], "--round-trips") == 0) {
        make_round_trips(argv[2], argv[3], argv[4]);
        return 0;
    }
    for (int i = 1; i < argc; i++) {
        if (find(argv[i]))
            continue;
        fprintf(stderr, "bench: no figure is called %s. There are:\n", argv[i]);
        for (size_t figure = 0; figure < FIGURES; figure++)
            fprintf(stderr, "    %s\n", figures[figure].name);
        return 2;
    }
    raise_descriptor_limit();
    fprintf(stderr, "figure\tours(ns)\treference(ns)\tratio\tlimit\n");
    for (int i = 1; i < argc; i++)
        all_measured &= measure(find(argv[i]));
    for (size_t i = 0; argc == 1 && i < FIGURES; i++)
        all_measured &= measure(&figures[i]);
    return all_measured ? 0 : 1;
}
