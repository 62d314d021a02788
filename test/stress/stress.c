/* stress.c: see stress.h. */
#include "stress/stress.h"

#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "support/tests.h"

#define SAY_AT_MOST 20
#define GIVE_UP_AFTER 1000u
#define WATCH_S 60u
#define LINE 96

static const char *program = "";
static uint64_t seed;
static unsigned seconds;
static _Atomic uint64_t end_ms;
static atomic_uint failures;
static atomic_long blocks;

/* ---- counted memory */

static void *counting_malloc(size_t size)
{
    void *memory = malloc(size);

    if (memory)
        atomic_fetch_add(&blocks, 1);
    return memory;
}

static void *counting_realloc(void *memory, size_t size)
{
    void *moved = realloc(memory, size);

    if (moved && !memory)
        atomic_fetch_add(&blocks, 1);
    return moved;
}

static void counting_free(void *memory)
{
    if (memory)
        atomic_fetch_sub(&blocks, 1);
    free(memory);
}

long stress_blocks(void)
{
    return atomic_load(&blocks);
}

/* ---- begin and end */

static uint64_t mixed(uint64_t value)
{
    value = (value ^ (value >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    value = (value ^ (value >> 27)) * UINT64_C(0x94d049bb133111eb);
    return value ^ (value >> 31);
}

/* The watch. Only what a signal handler may do. */
static void on_alarm(int number)
{
    static const char text[] = "  FAILED it hangs (the seed is above)\n";
    ssize_t written = write(STDOUT_FILENO, text, sizeof(text) - 1);

    (void)number, (void)written;
    _exit(EXIT_FAILURE);
}

void stress_begin_part(unsigned ms)
{
    atomic_store(&end_ms, now_ms() + ms);
    alarm(WATCH_S * slowness() + ms / 1000 * 4);
}

void stress_begin(int argc, char **argv, unsigned default_seconds)
{
    const char *slash = strrchr(argv[0], '/');

    program = slash ? slash + 1 : argv[0];
    seed = argc > 1 ? strtoull(argv[1], NULL, 0) : mixed(now_us() ^ (uint64_t)getpid() << 40) >> 16;
    seconds = argc > 2 ? (unsigned)strtoul(argv[2], NULL, 0) : default_seconds;
    printf("%s: seed %llu, %u s\n", program, (unsigned long long)seed, seconds);
    fflush(stdout);
    signal(SIGALRM, on_alarm);
    pool_set_allocator(counting_malloc, counting_realloc, counting_free);
    stress_begin_part(seconds * 1000);
}

uint64_t stress_seed(void)
{
    return seed;
}

unsigned stress_seconds(void)
{
    return seconds;
}

bool stress_is_on(void)
{
    return now_ms() < atomic_load(&end_ms) && atomic_load(&failures) < GIVE_UP_AFTER;
}

void stress_fail(const char *format, ...)
{
    unsigned before = atomic_fetch_add(&failures, 1);
    char text[512];
    va_list arguments;

    if (before >= SAY_AT_MOST)
        return;
    va_start(arguments, format);
    vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    printf("  FAILED %s\n", text);
    fflush(stdout);
}

unsigned stress_failures(void)
{
    return atomic_load(&failures);
}

int stress_end(const char *format, ...)
{
    unsigned failed = stress_failures();
    va_list arguments;

    if (failed)
        printf("%u failures; again: %s %llu %u\n", failed, program, (unsigned long long)seed,
               seconds);
    va_start(arguments, format);
    vprintf(format, arguments);
    va_end(arguments);
    printf(", seed %llu\n", (unsigned long long)seed);
    fflush(stdout);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}

struct left {
    int descriptors;
    long blocks;
};

static bool is_nothing_left(void *argument)
{
    struct left *left = argument;

    return count_descriptors() == left->descriptors && stress_blocks() == left->blocks;
}

void stress_expect_nothing_left(int descriptors, long blocks_before, const char *where)
{
    struct left left = { descriptors, blocks_before };

    if (!wait_until(is_nothing_left, &left, 2000 * slowness()))
        stress_fail("%s: %d descriptors instead of %d, %ld allocations instead of %ld", where,
                    count_descriptors(), descriptors, stress_blocks(), blocks_before);
}

void stress_expect_even(struct pool *pool)
{
    struct pool_stats stats = { .size = sizeof(stats) };

    if (pool_stats(pool, &stats))
        stress_fail("no statistics");
    else if (stats.idle + stats.lent + stats.shared + stats.opening + stats.closing != stats.total)
        stress_fail("idle %llu, lent %llu, shared %llu, opening %llu, closing %llu, total %llu",
                    (unsigned long long)stats.idle, (unsigned long long)stats.lent,
                    (unsigned long long)stats.shared, (unsigned long long)stats.opening,
                    (unsigned long long)stats.closing, (unsigned long long)stats.total);
}

uint64_t stress_cpu_ms(void)
{
    struct rusage used;

    getrusage(RUSAGE_SELF, &used);
    return (uint64_t)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) * 1000 +
           (uint64_t)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1000;
}

/* ---- callers */

struct stress_caller stress_caller_make(unsigned thread)
{
    return (struct stress_caller){ .thread = thread, .random = mixed(seed + thread * 977 + 1) | 1 };
}

uint64_t stress_random(struct stress_caller *caller)
{
    caller->random ^= caller->random << 13;
    caller->random ^= caller->random >> 7;
    caller->random ^= caller->random << 17;
    return mixed(caller->random);
}

unsigned stress_below(struct stress_caller *caller, unsigned limit)
{
    return (unsigned)(stress_random(caller) % limit);
}

bool stress_chance(struct stress_caller *caller, unsigned percent)
{
    return stress_below(caller, 100) < percent;
}

/* ---- questions */

int stress_send(struct stress_caller *caller, struct pool_conn *conn)
{
    char line[LINE];
    int length = snprintf(line, sizeof(line), "TOKEN t%u-%llu\n", caller->thread,
                          (unsigned long long)++caller->serial);
    struct iovec pieces[2];

    if (stress_chance(caller, 80))
        return pool_send(conn, line, (size_t)length);
    pieces[0] = (struct iovec){ .iov_base = line, .iov_len = 7 };
    pieces[1] = (struct iovec){ .iov_base = line + 7, .iov_len = (size_t)length - 7 };
    return pool_sendv(conn, pieces, 2);
}

/* A line of at most LINE - 1 bytes, without its end. */
static int read_line(struct stress_caller *caller, struct pool_conn *conn, char *line)
{
    struct pool_bytes bytes;
    size_t have = 0, got;
    int status;

    if (!caller->must_copy && stress_chance(caller, 70)) {
        status = pool_recv_until(conn, "\n", 1, &bytes);
        if (status)
            return status;
        have = bytes.size < LINE ? bytes.size : LINE - 1;
        memcpy(line, bytes.data, have);
    } else {
        do {
            status = pool_recv(conn, line + have, LINE - 1 - have, &got);
            if (status)
                return status;
            have += got;
        } while (line[have - 1] != '\n' && have < LINE - 1);
    }
    line[have - 1] = '\0';
    return POOL_OK;
}

int stress_hear(struct stress_caller *caller, struct pool_conn *conn, unsigned *nth)
{
    char line[LINE], *token, own[LINE];
    int status = read_line(caller, conn, line);

    if (status)
        return status;
    snprintf(own, sizeof(own), " t%u-%llu", caller->thread, (unsigned long long)caller->serial);
    token = strstr(line, " t");
    if (!token)
        return STRESS_STRAY;
    token[strcspn(token, "\n")] = '\0'; /* a push may stand behind it */
    if (strcmp(token, own) != 0) {
        stress_fail("crossed: asked%s, heard \"%s\" on connection %llu of %s", own, line,
                    (unsigned long long)pool_conn_id(conn), pool_conn_address(conn));
        return STRESS_CROSSED;
    }
    if (nth)
        *nth = (unsigned)strtoul(line, NULL, 10);
    return POOL_OK;
}

int stress_ask(struct stress_caller *caller, struct pool_conn *conn, unsigned *nth)
{
    int status = stress_send(caller, conn);

    return status ? status : stress_hear(caller, conn, nth);
}
