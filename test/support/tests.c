/* tests.c: small helpers of all tests. See tests.h. */
#include "support/tests.h"

#include <dirent.h>
#include <errno.h>
#include <ftw.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define IS_SANITIZED
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || defined(IS_SANITIZED)
#define DEFAULT_SLOWNESS 5
#else
#define DEFAULT_SLOWNESS 1
#endif

#define YIELDS 100
#define STORMS 64

struct start_line {
    pthread_mutex_t lock;
    pthread_cond_t moved;
    bool is_open, is_off;
    thread_fn *fn;
    void *argument;
};

struct runner {
    pthread_t thread;
    unsigned index;
    struct start_line *line;
};

struct signal_storm {
    atomic_bool is_taken;
    timer_t timer;
    _Atomic uint64_t count;
};

/* Never freed: a sanitizer may hold a signal back and deliver it after the timer is gone. */
static struct signal_storm storms[STORMS];

static void *run_one(void *argument)
{
    struct runner *runner = argument;
    struct start_line *line = runner->line;
    bool is_off;

    pthread_mutex_lock(&line->lock);
    while (!line->is_open)
        pthread_cond_wait(&line->moved, &line->lock);
    is_off = line->is_off;
    pthread_mutex_unlock(&line->lock);
    if (!is_off)
        line->fn(runner->index, line->argument);
    return NULL;
}

static void on_alarm(int number, siginfo_t *info, void *context)
{
    struct signal_storm *storm = info->si_value.sival_ptr;

    (void)number;
    (void)context;
    if (info->si_code == SI_TIMER && storm)
        atomic_fetch_add(&storm->count, 1);
}

static struct signal_storm *take_storm(void)
{
    bool is_free;
    unsigned i;

    for (i = 0; i < STORMS; i++) {
        is_free = false;
        if (atomic_compare_exchange_strong(&storms[i].is_taken, &is_free, true))
            return &storms[i];
    }
    return NULL;
}

/* 1: ready, 0: the deadline came */
static int poll_until(int fd, short events, uint64_t deadline_ms)
{
    struct pollfd polled = {.fd = fd, .events = events};
    uint64_t now;
    int ready;

    do {
        now = now_ms();
        ready = poll(&polled, 1, now < deadline_ms ? (int)(deadline_ms - now) : 0);
    } while (ready < 0 && errno == EINTR);
    return ready > 0;
}

static bool is_passing(ssize_t result)
{
    return result < 0 && (errno == EAGAIN || errno == EINTR);
}

static int remove_one(const char *path, const struct stat *status, int kind, struct FTW *walk)
{
    (void)status;
    (void)kind;
    (void)walk;
    return remove(path);
}

int count_descriptors(void)
{
    DIR *directory = opendir("/proc/self/fd");
    struct dirent *entry;
    int count = -1;                                 /* the one we look with */

    if (!directory)
        return -1;
    while ((entry = readdir(directory)))
        if (entry->d_name[0] != '.')
            count++;
    closedir(directory);
    return count;
}

unsigned set_descriptor_limit(unsigned limit)
{
    struct rlimit now;
    unsigned before;

    if (getrlimit(RLIMIT_NOFILE, &now) < 0)
        return 0;
    before = now.rlim_cur > UINT_MAX ? UINT_MAX : (unsigned)now.rlim_cur;
    now.rlim_cur = limit < now.rlim_max ? limit : now.rlim_max;
    setrlimit(RLIMIT_NOFILE, &now);
    return before;
}

uint64_t now_us(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

uint64_t now_ms(void)
{
    return now_us() / 1000;
}

uint64_t elapsed_ms(uint64_t since_ms)
{
    return now_ms() - since_ms;
}

unsigned slowness(void)
{
    const char *text = getenv("TEST_SLOWNESS");
    long value = text ? strtol(text, NULL, 10) : 0;

    if (value > 0 && value < 1000)
        return (unsigned)value;
    return is_under_valgrind() ? 20 : DEFAULT_SLOWNESS;
}

bool is_under_valgrind(void)
{
    const char *loaded = getenv("LD_PRELOAD");

    return loaded && strstr(loaded, "vgpreload");
}

bool within(uint64_t ms, uint64_t low, uint64_t high, const char *what)
{
    uint64_t most = low + (high - low) * slowness();

    if (ms >= low && ms <= most)
        return true;
    fprintf(stderr, "%s: %llu ms, not within %llu and %llu\n", what, (unsigned long long)ms,
            (unsigned long long)low, (unsigned long long)most);
    return false;
}

bool run_threads(unsigned count, thread_fn *fn, void *argument)
{
    struct start_line line = {.fn = fn, .argument = argument};
    struct runner *runners = calloc(count ? count : 1, sizeof(*runners));
    unsigned started = 0, i;

    if (!runners)
        return false;
    pthread_mutex_init(&line.lock, NULL);
    pthread_cond_init(&line.moved, NULL);
    for (; started < count; started++) {
        runners[started].index = started;
        runners[started].line = &line;
        if (pthread_create(&runners[started].thread, NULL, run_one, &runners[started]) != 0)
            break;
    }
    pthread_mutex_lock(&line.lock);
    line.is_open = true;
    line.is_off = started < count;
    pthread_cond_broadcast(&line.moved);
    pthread_mutex_unlock(&line.lock);
    for (i = 0; i < started; i++)
        pthread_join(runners[i].thread, NULL);
    pthread_cond_destroy(&line.moved);
    pthread_mutex_destroy(&line.lock);
    free(runners);
    return started == count;
}

bool wait_until(predicate_fn *holds, void *argument, unsigned within_ms)
{
    uint64_t deadline_us = now_us() + within_ms * UINT64_C(1000);
    unsigned asked;

    for (asked = 0; !holds(argument); asked++) {
        if (now_us() >= deadline_us)
            return holds(argument);
        if (asked < YIELDS)
            sched_yield();
        else
            poll(NULL, 0, 1);
    }
    return true;
}

struct signal_storm *start_signal_storm(unsigned hz)
{
    struct sigaction action = {.sa_sigaction = on_alarm, .sa_flags = SA_SIGINFO};
    struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGALRM};
    long step_ns = 1000000000L / (hz ? hz : 1);
    struct itimerspec every = {.it_interval = {step_ns / 1000000000L, step_ns % 1000000000L}};
    struct signal_storm *storm = take_storm();

    if (!storm)
        return NULL;
    atomic_store(&storm->count, 0);
    every.it_value = every.it_interval;
    event.sigev_value.sival_ptr = storm;
    event._sigev_un._tid = (pid_t)syscall(SYS_gettid);
    sigaction(SIGALRM, &action, NULL);
    if (timer_create(CLOCK_MONOTONIC, &event, &storm->timer) == 0) {
        timer_settime(storm->timer, 0, &every, NULL);
        return storm;
    }
    atomic_store(&storm->is_taken, false);
    return NULL;
}

uint64_t signals_so_far(const struct signal_storm *storm)
{
    return atomic_load(&storm->count);
}

uint64_t stop_signal_storm(struct signal_storm *storm)
{
    uint64_t count;

    if (!storm)
        return 0;
    timer_delete(storm->timer);
    count = atomic_load(&storm->count);
    atomic_store(&storm->is_taken, false);
    return count;
}

bool read_exactly(int fd, void *buffer, size_t size, unsigned within_ms)
{
    uint64_t deadline_ms = now_ms() + within_ms;
    size_t done = 0;
    ssize_t result;

    while (done < size) {
        if (!poll_until(fd, POLLIN, deadline_ms))
            return false;
        result = recv(fd, (char *)buffer + done, size - done, MSG_DONTWAIT);
        if (is_passing(result))
            continue;
        if (result <= 0)
            return false;
        done += (size_t)result;
    }
    return true;
}

bool write_exactly(int fd, const void *bytes, size_t size, unsigned within_ms)
{
    uint64_t deadline_ms = now_ms() + within_ms;
    size_t done = 0;
    ssize_t result;

    while (done < size) {
        if (!poll_until(fd, POLLOUT, deadline_ms))
            return false;
        result = send(fd, (const char *)bytes + done, size - done, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (is_passing(result))
            continue;
        if (result <= 0)
            return false;
        done += (size_t)result;
    }
    return true;
}

enum heard listen_to(int fd, unsigned within_ms)
{
    uint64_t deadline_ms = now_ms() + within_ms;
    ssize_t result;
    char byte;

    do {
        if (!poll_until(fd, POLLIN, deadline_ms))
            return HEARD_NOTHING;
        result = recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    } while (is_passing(result));
    return result > 0 ? HEARD_BYTES : result == 0 ? HEARD_END : HEARD_ERROR;
}

/* Reads all there is until the other side has ended. */
static void hear_out(int fd, char *said, size_t room)
{
    size_t size = 0;
    ssize_t result;

    while (size < room - 1) {
        result = read(fd, said + size, room - 1 - size);
        if (result < 0 && errno == EINTR)
            continue;
        if (result <= 0)
            break;
        size += (size_t)result;
    }
    said[size] = '\0';
}

static _Noreturn void die_here(int error_fd, die_fn *die)
{
    struct rlimit no_core = { 0, 0 };

    setrlimit(RLIMIT_CORE, &no_core);
    signal(SIGABRT, SIG_DFL);
    dup2(error_fd, STDERR_FILENO);
    die();
    _exit(0);
}

bool aborts_saying(const char *text, die_fn *die)
{
    char said[4096];
    int ends[2], status = 0;
    pid_t child;

    if (pipe(ends))
        return false;
    child = fork();
    if (child == 0)
        die_here(ends[1], die);
    close(ends[1]);
    hear_out(ends[0], said, sizeof(said));
    close(ends[0]);
    if (child < 0 || waitpid(child, &status, 0) != child)
        return false;
    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT && strstr(said, text))
        return true;
    fprintf(stderr, "it ended with status 0x%x, and said: \"%s\", not \"%s\"\n", (unsigned)status,
            said, text);
    return false;
}

bool make_temp_dir(char *path, size_t size)
{
    const char *parent = getenv("TMPDIR");
    int length =
        snprintf(path, size, "%s/commpool-test-XXXXXX", parent && *parent == '/' ? parent : "/tmp");

    return length > 0 && (size_t)length < size && mkdtemp(path);
}

void remove_temp_dir(const char *path)
{
    nftw(path, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}
