/* os.c: the door's real side. Each function is one call of the kernel or of libc with the
 * conventions of os.h: negative errno as the answer, the host's errno left alone, close-on-exec, no
 * descriptor below 3. No policy lives here; files are in os_file.c, limits in
 * os_limits.c. */
#include "base/os.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <net/if.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "base/os_file.h"
#include "base/os_limits.h"

#define NS_PER_S UINT64_C(1000000000)

static struct {
    void *(*malloc_fn)(size_t);
    void *(*realloc_fn)(void *, size_t);
    void (*free_fn)(void *);
} allocator = { malloc, realloc, free };

/* `result` as the door answers it; `saved` is the errno that the host program had before the
 * call. */
static ssize_t answer(ssize_t result, int saved)
{
    if (result >= 0)
        return result;
    result = -errno;
    errno = saved;
    return result;
}

/* A thread that is cancelled inside a call of the pool would leave locks, pins and its place in a
 * queue behind, so libc's cancellation points are none here: where speed does not count they are
 * called with cancellation held off, elsewhere the system call itself is made. */
static int hold_cancellation(void)
{
    int state;

    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &state);
    return state;
}

static void let_cancellation_go(int state)
{
    pthread_setcancelstate(state, NULL);
}

static struct timespec to_timespec(uint64_t ns)
{
    return (struct timespec){ .tv_sec = (time_t)(ns / NS_PER_S), .tv_nsec = (long)(ns % NS_PER_S) };
}

static uint64_t read_clock(clockid_t clock)
{
    struct timespec now;

    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec;
}

static uint64_t real_now_ns(void)
{
    return read_clock(CLOCK_MONOTONIC);
}

static uint64_t real_coarse_ns(void)
{
    return read_clock(CLOCK_MONOTONIC_COARSE);
}

static uint64_t real_coarse_step_ns(void)
{
    struct timespec step;

    clock_getres(CLOCK_MONOTONIC_COARSE, &step);
    return (uint64_t)step.tv_sec * NS_PER_S + (uint64_t)step.tv_nsec;
}

/* Standard input, output and error are never ours: text that a program prints must not reach a
 * peer. */
static int above_stdio(int fd)
{
    int moved, state;

    if (fd < 0 || fd > STDERR_FILENO)
        return fd;
    moved = fcntl(fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
    if (moved < 0)
        moved = -errno;
    state = hold_cancellation();
    close(fd);
    let_cancellation_go(state);
    if (moved < 0) {
        errno = -moved;
        return -1;
    }
    return moved;
}

static int real_socket(int family, int type, int protocol)
{
    int saved = errno;

    return (int)answer(above_stdio(socket(family, type | SOCK_CLOEXEC, protocol)), saved);
}

static int real_connect(int fd, const struct sockaddr *address, socklen_t size)
{
    int saved = errno, state = hold_cancellation();
    int result = (int)answer(connect(fd, address, size), saved);

    let_cancellation_go(state);
    return result;
}

static int real_bind(int fd, const struct sockaddr *address, socklen_t size)
{
    int saved = errno;

    return (int)answer(bind(fd, address, size), saved);
}

/* As a cancellation point, each of these would cost some 10 ns more. */
static ssize_t real_send(int fd, const void *data, size_t size, int flags)
{
    int saved = errno;

    return answer(syscall(SYS_sendto, fd, data, size, flags, NULL, 0), saved);
}

static ssize_t real_sendmsg(int fd, const struct msghdr *message, int flags)
{
    int saved = errno;

    return answer(syscall(SYS_sendmsg, fd, message, flags), saved);
}

static ssize_t real_recv(int fd, void *buffer, size_t size, int flags)
{
    int saved = errno;

    return answer(syscall(SYS_recvfrom, fd, buffer, size, flags, NULL, NULL), saved);
}

static ssize_t real_recvfrom(int fd, const struct iovec *into, int flags, struct sockaddr *from,
                             socklen_t *from_size)
{
    int saved = errno;

    return answer(syscall(SYS_recvfrom, fd, into->iov_base, into->iov_len, flags, from, from_size),
                  saved);
}

static int real_shutdown(int fd, int how)
{
    int saved = errno;

    return (int)answer(shutdown(fd, how), saved);
}

static int real_close(int fd)
{
    int saved = errno, state = hold_cancellation();
    int result = (int)answer(close(fd), saved);

    let_cancellation_go(state);
    return result;
}

static int real_setsockopt(int fd, int level, int name, const void *value, socklen_t size)
{
    int saved = errno;

    return (int)answer(setsockopt(fd, level, name, value, size), saved);
}

static int real_getsockopt(int fd, int level, int name, void *value, socklen_t *size)
{
    int saved = errno;

    return (int)answer(getsockopt(fd, level, name, value, size), saved);
}

static int real_getsockname(int fd, struct sockaddr *address, socklen_t *size)
{
    int saved = errno;

    return (int)answer(getsockname(fd, address, size), saved);
}

static int real_getpeername(int fd, struct sockaddr *address, socklen_t *size)
{
    int saved = errno;

    return (int)answer(getpeername(fd, address, size), saved);
}

static int real_set_nonblocking(int fd, bool nonblocking)
{
    int saved = errno, flag = nonblocking;

    return (int)answer(ioctl(fd, FIONBIO, &flag), saved);
}

static int real_make_own(int fd)
{
    int saved = errno, blocking = 0, result;
    int flags = fcntl(fd, F_GETFD);

    if (flags < 0)
        return (int)answer(flags, saved);
    result = fcntl(fd, F_SETFD, flags | FD_CLOEXEC);
    if (result < 0)
        return (int)answer(result, saved);
    result = (int)answer(ioctl(fd, FIONBIO, &blocking), saved);
    if (result < 0) {
        fcntl(fd, F_SETFD, flags);
        errno = saved;
    }
    return result;
}

static int real_copy_above_stdio(int fd)
{
    int saved = errno;

    return (int)answer(fcntl(fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1), saved);
}

static unsigned real_interface_index(const char *name)
{
    int saved = errno, state = hold_cancellation();
    unsigned index = if_nametoindex(name);

    let_cancellation_go(state);
    errno = saved;
    return index;
}

static int real_poll_until(struct pollfd *polled, nfds_t count, uint64_t deadline_ns)
{
    int saved = errno;
    uint64_t now_ns = real_now_ns();
    struct timespec rest = to_timespec(deadline_ns > now_ns ? deadline_ns - now_ns : 0);

    return (int)answer(syscall(SYS_ppoll, polled, count, deadline_ns == PL_NEVER ? NULL : &rest,
                               NULL, 0),
                       saved);
}

static int real_epoll_create(void)
{
    int saved = errno;

    return (int)answer(above_stdio(epoll_create1(EPOLL_CLOEXEC)), saved);
}

static int real_epoll_ctl(int epoll_fd, int operation, int fd, struct epoll_event *event)
{
    int saved = errno;

    return (int)answer(epoll_ctl(epoll_fd, operation, fd, event), saved);
}

static int real_epoll_wait(int epoll_fd, struct epoll_event *events, int count, int timeout_ms)
{
    int saved = errno;
    long count_ready = syscall(SYS_epoll_pwait, epoll_fd, events, count, timeout_ms, NULL, 0);

    return (int)answer(count_ready, saved);
}

static int real_eventfd_create(void)
{
    int saved = errno;

    return (int)answer(above_stdio(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)), saved);
}

static int real_eventfd_add(int fd)
{
    int saved = errno;
    uint64_t one = 1;

    return (int)answer(syscall(SYS_write, fd, &one, sizeof(one)), saved);
}

static int real_timerfd_create(void)
{
    int saved = errno;

    return (int)answer(above_stdio(timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK)),
                       saved);
}

static int real_timerfd_arm(int fd, uint64_t deadline_ns)
{
    int saved = errno;
    struct itimerspec when = { .it_value = { 0, 0 } };

    if (deadline_ns != PL_NEVER)
        when.it_value = to_timespec(deadline_ns ? deadline_ns : 1);     /* zero would disarm */
    return (int)answer(timerfd_settime(fd, TFD_TIMER_ABSTIME, &when, NULL), saved);
}

static int real_signalfd_set(int fd, const sigset_t *signals)
{
    int saved = errno, result = signalfd(fd, signals, SFD_CLOEXEC | SFD_NONBLOCK);

    return (int)answer(fd < 0 ? above_stdio(result) : result, saved);
}

static int real_signalfd_read(int fd)
{
    int saved = errno;
    struct signalfd_siginfo info;
    ssize_t got = answer(read(fd, &info, sizeof(info)), saved);

    return got < 0 ? (int)got : (int)info.ssi_signo;
}

static void real_signal_block(int signo)
{
    sigset_t signals;

    sigemptyset(&signals);
    sigaddset(&signals, signo);
    pthread_sigmask(SIG_BLOCK, &signals, NULL);
}

static int real_random(void *buffer, size_t size)
{
    int saved = errno;

    return (int)answer(syscall(SYS_getrandom, buffer, size, 0), saved);
}

static void *real_malloc(size_t size)
{
    int saved = errno;
    void *memory = allocator.malloc_fn(size);

    errno = saved;
    return memory;
}

static void *real_realloc(void *memory, size_t size)
{
    int saved = errno;

    memory = allocator.realloc_fn(memory, size);
    errno = saved;
    return memory;
}

static void real_free(void *memory)
{
    int saved = errno;

    allocator.free_fn(memory);
    errno = saved;
}

static void *real_map(size_t size)
{
    int saved = errno;
    void *pages = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    errno = saved;
    return pages == MAP_FAILED ? NULL : pages;
}

static void real_unmap(void *pages, size_t size)
{
    int saved = errno;

    munmap(pages, size);
    errno = saved;
}

struct start {
    pl_step_fn *step;
    void *argument;
};

static void *run_steps(void *argument)
{
    struct start start = *(struct start *)argument;

    real_free(argument);
    while (start.step(start.argument))
        continue;
    return NULL;
}

static int real_thread_start(pthread_t *thread, pl_step_fn *step, void *argument)
{
    struct start *start = real_malloc(sizeof(*start));
    sigset_t all, before;
    int error, saved = errno;

    if (!start)
        return -ENOMEM;
    *start = (struct start){ step, argument };
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are the program's, not our thread's */
    error = pthread_create(thread, NULL, run_steps, start);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    errno = saved;                      /* libc may have met one on its way */
    if (error)
        real_free(start);
    return -error;
}

static void real_thread_join(pthread_t thread)
{
    int state = hold_cancellation();

    pthread_join(thread, NULL);
    let_cancellation_go(state);
}

static void real_thread_detach(pthread_t thread)
{
    pthread_detach(thread);
}

static int real_wait_until(pthread_cond_t *condition, pthread_mutex_t *mutex, uint64_t deadline_ns)
{
    struct timespec when = to_timespec(deadline_ns);
    int error, state = hold_cancellation();

    if (deadline_ns == PL_NEVER)
        error = pthread_cond_wait(condition, mutex);
    else
        error = pthread_cond_clockwait(condition, mutex, CLOCK_MONOTONIC, &when);
    let_cancellation_go(state);
    return -error;
}

/* A pthread condition would do, but its mutex counts as contended after each wait, and costs one
 * system call more to unlock. */
static int real_sleep_until(_Atomic uint32_t *word, uint32_t expected, uint64_t deadline_ns)
{
    struct { long seconds, nanoseconds; } when = { (long)(deadline_ns / NS_PER_S),
                                                   (long)(deadline_ns % NS_PER_S) };
    int saved = errno;

    return (int)answer(syscall(SYS_futex, word, FUTEX_WAIT_BITSET_PRIVATE, expected,
                               deadline_ns == PL_NEVER ? NULL : &when, NULL,
                               FUTEX_BITSET_MATCH_ANY),
                       saved);
}

static void real_wake(_Atomic uint32_t *word)
{
    int saved = errno;

    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
    errno = saved;
}

const struct pl_os pl_os_real = {
    .socket = real_socket,
    .connect = real_connect,
    .bind = real_bind,
    .send = real_send,
    .sendmsg = real_sendmsg,
    .recv = real_recv,
    .recvfrom = real_recvfrom,
    .shutdown = real_shutdown,
    .close = real_close,
    .setsockopt = real_setsockopt,
    .getsockopt = real_getsockopt,
    .getsockname = real_getsockname,
    .getpeername = real_getpeername,
    .set_nonblocking = real_set_nonblocking,
    .make_own = real_make_own,
    .copy_above_stdio = real_copy_above_stdio,
    .interface_index = real_interface_index,
    .poll_until = real_poll_until,
    .epoll_create = real_epoll_create,
    .epoll_ctl = real_epoll_ctl,
    .epoll_wait = real_epoll_wait,
    .eventfd_create = real_eventfd_create,
    .eventfd_add = real_eventfd_add,
    .timerfd_create = real_timerfd_create,
    .timerfd_arm = real_timerfd_arm,
    .signalfd_set = real_signalfd_set,
    .signalfd_read = real_signalfd_read,
    .signal_block = real_signal_block,
    .now_ns = real_now_ns,
    .coarse_ns = real_coarse_ns,
    .coarse_step_ns = real_coarse_step_ns,
    .random = real_random,
    .malloc = real_malloc,
    .realloc = real_realloc,
    .free = real_free,
    .map = real_map,
    .unmap = real_unmap,
    .thread_start = real_thread_start,
    .thread_join = real_thread_join,
    .thread_detach = real_thread_detach,
    .wait_until = real_wait_until,
    .sleep_until = real_sleep_until,
    .wake = real_wake,
    .processors = pl_os_real_processors,
    .descriptor_limit = pl_os_real_descriptor_limit,
    .free_descriptors = pl_os_real_free_descriptors,
    .read_file = pl_os_real_read_file,
    .list_directory = pl_os_real_list_directory,
    .file_stamp = pl_os_real_file_stamp,
};

const struct pl_os *pl_os = &pl_os_real;

void pl_os_replace(const struct pl_os *os)
{
    pl_os = os ? os : &pl_os_real;
}

void pl_os_set_allocator(void *(*malloc_fn)(size_t), void *(*realloc_fn)(void *, size_t),
                         void (*free_fn)(void *))
{
    allocator.malloc_fn = malloc_fn;
    allocator.realloc_fn = realloc_fn;
    allocator.free_fn = free_fn;
}

void *pl_zalloc(size_t size)
{
    void *memory = pl_os->malloc(size);

    return memory ? memset(memory, 0, size) : NULL;
}

uint64_t pl_dice(void)
{
    uint64_t dice;

    return pl_os->random(&dice, sizeof(dice)) < 0 ? UINT64_MAX : dice;
}
