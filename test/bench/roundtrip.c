/* roundtrip.c: what a whole exchange costs: borrow, send, receive, return.
 *
 * Both ends stand on one core, so that a round trip is two switches of it and nothing is left to
 * where the scheduler puts them. The address is given as text, as most programs do.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench.h"
#include "peer.h"

#define ROUNDS 151u /* short ones, since the limits are close to 1 */
#define TIMES 500u
#define TRACED_TIMES 2000u
#define BYTES 64u

struct exchange {
    struct echo echo;
    struct pool *pool;
    int bare_fd;
    char request[BYTES], reply[BYTES];
};

static int use(struct pool_conn *conn, void *user)
{
    struct exchange *exchange = user;

    if (pool_send(conn, exchange->request, BYTES))
        return 1;
    return pool_recv_exact(conn, exchange->reply, BYTES) != POOL_OK;
}

static void round_trips(struct exchange *exchange, const char *address, unsigned times)
{
    for (unsigned i = 0; i < times; i++)
        need_ok(pool_communicate(exchange->pool, address, use, exchange, NULL), "pool_communicate");
}

static double round_pool(void *user)
{
    struct exchange *exchange = user;
    uint64_t start_ns;

    round_trips(exchange, exchange->echo.addresses[0], 1);
    start_ns = now_ns();
    round_trips(exchange, exchange->echo.addresses[0], TIMES);
    return (double)(now_ns() - start_ns) / TIMES;
}

static void bare_round_trips(struct exchange *exchange, unsigned times)
{
    for (unsigned i = 0; i < times; i++) {
        need(send(exchange->bare_fd, exchange->request, BYTES, MSG_NOSIGNAL) == BYTES, "send");
        need(recv(exchange->bare_fd, exchange->reply, BYTES, 0) == BYTES, "recv");
    }
}

static double round_bare(void *user)
{
    struct exchange *exchange = user;
    uint64_t start_ns;

    bare_round_trips(exchange, 1);
    start_ns = now_ns();
    bare_round_trips(exchange, TIMES);
    return (double)(now_ns() - start_ns) / TIMES;
}

static void compare_round_trips(const char *name, enum pool_check check, double limit)
{
    struct exchange exchange = { .bare_fd = -1 };

    pin_to_core(0);
    echo_start(&exchange.echo, 0);
    need_ok(pool_create(POOL_OPTIONS(.check = check), &exchange.pool), "pool_create");
    exchange.bare_fd = echo_connect(&exchange.echo, 0);
    report_comparison(name, alternate(ROUNDS, round_pool, round_bare, &exchange), limit);
    close(exchange.bare_fd);
    pool_destroy(exchange.pool);
    echo_stop(&exchange.echo);
}

void figure_roundtrip(const char *name)
{
    compare_round_trips(name, POOL_CHECK_PARKED, 1.05);
}

void figure_roundtrip_check(const char *name)
{
    compare_round_trips(name, POOL_CHECK_ALWAYS, 1.10);
}

/* ---- system calls, counted from outside */

void make_round_trips(const char *address, const char *check, const char *count)
{
    struct exchange exchange = { .bare_fd = -1 };
    enum pool_check how = strcmp(check, "always") == 0 ? POOL_CHECK_ALWAYS : POOL_CHECK_PARKED;

    /* Under strace time runs ten times as fast, so to say; parking goes by time, not by use. */
    need_ok(pool_create(POOL_OPTIONS(.check = how, .park_ms = 50000), &exchange.pool),
            "pool_create");
    round_trips(&exchange, address, (unsigned)strtoul(count, NULL, 10));
    pool_destroy(exchange.pool);
}

static void become_traced(int report_fd, const char *address, const char *check, unsigned count)
{
    char program[4096], number[16];
    ssize_t size = readlink("/proc/self/exe", program, sizeof(program) - 1);

    if (size < 0)
        _exit(1);
    program[size] = '\0';
    snprintf(number, sizeof(number), "%u", count);
    dup2(report_fd, STDERR_FILENO);
    execlp("strace", "strace", "-f", "-qq", "-e", "signal=none", program, "--round-trips", address,
           check, number, (char *)NULL);
    _exit(127);
}

/* One line a call, apart from those that tell how an interrupted line went on. */
static unsigned count_calls(FILE *trace)
{
    char line[4096];
    unsigned calls = 0;

    while (fgets(line, sizeof(line), trace)) {
        if (strchr(line, '(') && !strstr(line, " resumed>") && !strstr(line, "+++ "))
            calls++;
    }
    return calls;
}

/* All calls of a process that makes `count` round trips, its other threads' included; negative:
 * there is no strace, or it is not allowed to look. */
static long trace_round_trips(const char *address, const char *check, unsigned count)
{
    int ends[2], status;
    unsigned calls;
    pid_t child;
    FILE *trace;

    need(pipe2(ends, O_CLOEXEC) == 0, "pipe");
    child = fork();
    need(child >= 0, "fork");
    if (child == 0)
        become_traced(ends[1], address, check, count);
    close(ends[1]);
    trace = fdopen(ends[0], "r");
    need(trace, "fdopen");
    calls = count_calls(trace);
    fclose(trace);
    need(waitpid(child, &status, 0) == child, "waitpid");
    if (status == 0)
        return calls;
    fprintf(stderr, "bench: strace is missing or failed (status %d)\n", status);
    return -1;
}

/* What N round trips more cost more: so starting and ending count for nothing. */
static void count_system_calls(const char *name, const char *check, double limit)
{
    struct echo echo;
    long once, twice = -1;

    echo_start(&echo, -1);
    once = trace_round_trips(echo.addresses[0], check, TRACED_TIMES);
    if (once >= 0)
        twice = trace_round_trips(echo.addresses[0], check, 2 * TRACED_TIMES);
    report(name, twice < 0 ? BENCH_NONE : (double)(twice - once) / TRACED_TIMES, limit);
    echo_stop(&echo);
}

void figure_roundtrip_syscalls(const char *name)
{
    count_system_calls(name, "parked", 2);
}

void figure_roundtrip_check_syscalls(const char *name)
{
    count_system_calls(name, "always", 4);
}
