/* idle.c: what ten thousand idle connections cost: time of the mux, closing one, memory.
 *
 * They are opened to several addresses of one peer, which is another process, so its descriptors
 * count for itself. When the hard limit of descriptors is too low, there are fewer, and a note says
 * how many.
 */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "bench.h"
#include "peer.h"

#define CONNECTIONS 10000u
#define SPARE_DESCRIPTORS 128u
#define PARKED_MS 10000u
#define EVICT_ROUNDS 41u
#define EVICT_TIMES 20u
#define EVICTIONS ((EVICT_ROUNDS + 1) * EVICT_TIMES)

/* A pool full of idle connections. */
struct crowd {
    struct echo echo;
    struct pool *pool;
    unsigned count;
    struct pool_conn *conns;
};

struct closing {
    struct crowd crowd;
    int bare_fds[EVICTIONS];
    unsigned bare_left;
};

/* How many connections fit, `others` descriptors left out; both ends have the same limit. */
static unsigned how_many(unsigned wanted, unsigned others)
{
    struct rlimit limit;

    need(getrlimit(RLIMIT_NOFILE, &limit) == 0, "getrlimit");
    if (limit.rlim_cur >= (rlim_t)wanted + others + SPARE_DESCRIPTORS)
        return wanted;
    need(limit.rlim_cur >= (rlim_t)2 * (others + SPARE_DESCRIPTORS), "a limit of descriptors");
    wanted = (unsigned)limit.rlim_cur - others - SPARE_DESCRIPTORS;
    fprintf(stderr, "bench: %u connections only, RLIMIT_NOFILE allows no more\n", wanted);
    return wanted;
}

static void crowd_open(struct crowd *crowd, unsigned count)
{
    crowd->count = count;
    crowd->conns = malloc(count * sizeof(*crowd->conns));
    need(crowd->conns, "malloc");
    memset(crowd->conns, 0xff, count * sizeof(*crowd->conns));
    need_ok(pool_create(POOL_OPTIONS(.max_connections = count + 8, .max_per_address = count),
                        &crowd->pool),
            "pool_create");
}

/* Those numbered from `first` on, all lent at once and then given back. */
static void fill(struct crowd *crowd, unsigned first)
{
    for (unsigned i = first; i < crowd->count; i++)
        need_ok(pool_borrow(crowd->pool, crowd->echo.addresses[i % ECHO_ADDRESSES], NULL,
                            &crowd->conns[i]),
                "pool_borrow");
    for (unsigned i = first; i < crowd->count; i++)
        need_ok(pool_return(&crowd->conns[i]), "pool_return");
}

static struct pool_stats stats_of(struct pool *pool)
{
    struct pool_stats stats = { .size = sizeof(stats) };

    need_ok(pool_stats(pool, &stats), "pool_stats");
    return stats;
}

/* Until the mux has parked them all, which shows in its not waking up any more. */
static void settle(struct crowd *crowd)
{
    struct pool_stats before, after = stats_of(crowd->pool);

    for (unsigned quiet = 0, tries = 0; quiet < 3 && tries < 50; tries++) {
        before = after;
        rest_ms(200);
        after = stats_of(crowd->pool);
        quiet = after.wakeups == before.wakeups ? quiet + 1 : 0;
    }
    if (after.idle != crowd->count)
        fprintf(stderr, "bench: %llu connections are idle, not %u\n",
                (unsigned long long)after.idle, crowd->count);
}

static void crowd_close(struct crowd *crowd)
{
    pool_destroy(crowd->pool);
    free(crowd->conns);
    echo_stop(&crowd->echo);
}

/* ---- wake-ups */

static uint64_t read_number(const char *path, const char *label)
{
    size_t length = strlen(label);
    uint64_t number = 0;
    char line[256];
    FILE *file = fopen(path, "r");

    need(file, path);
    while (fgets(line, sizeof(line), file)) {
        if (strncmp(line, label, length) == 0)
            number = strtoull(line + length, NULL, 10);
    }
    fclose(file);
    return number;
}

/* How often the threads other than this one went to sleep, as the kernel saw it. */
static uint64_t sleeps_of_others(void)
{
    DIR *tasks = opendir("/proc/self/task");
    struct dirent *task;
    uint64_t sleeps = 0;
    char path[300];

    need(tasks, "/proc/self/task");
    while ((task = readdir(tasks))) {
        if (task->d_name[0] == '.' || atoi(task->d_name) == gettid())
            continue;
        snprintf(path, sizeof(path), "/proc/self/task/%s/status", task->d_name);
        sleeps += read_number(path, "voluntary_ctxt_switches:");
    }
    closedir(tasks);
    return sleeps;
}

/* The larger of what the mux counts and what the kernel counts. */
void figure_parked(const char *name)
{
    struct crowd crowd;
    uint64_t wakeups, sleeps;

    echo_start(&crowd.echo, -1);
    crowd_open(&crowd, how_many(CONNECTIONS, 0));
    fill(&crowd, 0);
    settle(&crowd);
    wakeups = stats_of(crowd.pool).wakeups;
    sleeps = sleeps_of_others();
    rest_ms(PARKED_MS);
    sleeps = sleeps_of_others() - sleeps;
    wakeups = stats_of(crowd.pool).wakeups - wakeups;
    report(name, (double)(wakeups > sleeps ? wakeups : sleeps), 0);
    crowd_close(&crowd);
}

/* ---- evicting */

static double round_evict(void *user)
{
    struct closing *closing = user;
    uint64_t start_ns = now_ns();

    for (unsigned i = 0; i < EVICT_TIMES; i++)
        need(pool_remove_some_connection(closing->crowd.pool) == 1, "an idle connection to evict");
    return (double)(now_ns() - start_ns) / EVICT_TIMES;
}

static double round_close(void *user)
{
    struct closing *closing = user;
    uint64_t start_ns = now_ns();

    for (unsigned i = 0; i < EVICT_TIMES; i++)
        close(closing->bare_fds[--closing->bare_left]);
    return (double)(now_ns() - start_ns) / EVICT_TIMES;
}

/* The bare ones are opened before the others, to be as cold as the least recently used. */
void figure_evict(const char *name)
{
    struct closing closing;

    pin_to_core(0);
    echo_start(&closing.crowd.echo, 1);
    for (unsigned i = 0; i < EVICTIONS; i++)
        closing.bare_fds[i] = echo_connect(&closing.crowd.echo, i % ECHO_ADDRESSES);
    closing.bare_left = EVICTIONS;
    crowd_open(&closing.crowd, how_many(CONNECTIONS + EVICTIONS, EVICTIONS));
    fill(&closing.crowd, 0);
    settle(&closing.crowd);
    report_comparison(name, alternate(EVICT_ROUNDS, round_evict, round_close, &closing), 1.4);
    crowd_close(&closing.crowd);
}

/* ---- memory */

static int64_t resident_bytes(void)
{
    return (int64_t)read_number("/proc/self/smaps_rollup", "Rss:") * 1024;
}

/* What the heap grew by and what the process grew by; the latter has the pages that the library
 * maps itself, and what the heap wastes. The larger one counts. One connection exists before, so
 * that what a pool needs once is left out. */
void figure_idle_bytes(const char *name)
{
    int64_t heap, resident, more;
    struct crowd crowd;

    echo_start(&crowd.echo, -1);
    heap_begin();
    crowd_open(&crowd, how_many(CONNECTIONS + ECHO_ADDRESSES, 0));
    for (unsigned i = 0; i < ECHO_ADDRESSES; i++) {
        need_ok(pool_borrow(crowd.pool, crowd.echo.addresses[i], NULL, &crowd.conns[i]), "borrow");
        rest_ms(1);
    }
    resident_bytes();
    resident = resident_bytes();
    heap = heap_bytes();
    fill(&crowd, ECHO_ADDRESSES);
    for (unsigned i = 0; i < ECHO_ADDRESSES; i++)
        need_ok(pool_return(&crowd.conns[i]), "pool_return");
    settle(&crowd);
    heap = heap_bytes() - heap;
    resident = resident_bytes() - resident;
    more = heap > resident ? heap : resident;
    fprintf(stderr, "bench: heap grew by %lld bytes, resident memory by %lld, %u connections\n",
            (long long)heap, (long long)resident, crowd.count - ECHO_ADDRESSES);
    report(name, (double)more / (crowd.count - ECHO_ADDRESSES), 512);
    crowd_close(&crowd);
}
