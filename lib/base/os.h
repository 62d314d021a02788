/* os.h: the only door to the kernel, the clock, the random source and the heap.
 *
 * Everything that can fail or take time outside our own memory goes through one table of functions.
 * The release build uses the table that os.c fills with the real thing; tests put another one in
 * its place (the scripted world has no kernel behind it, torture fails its n-th call). It is the
 * same library in both cases.
 *
 * Conventions: a call answers a count or 0, or a negative errno; errno itself is left as the host
 * program had it. Descriptors that are made here are close-on-exec and never 0, 1 or 2. Calls that
 * the kernel may end early by a signal say so with -EINTR, except close, which is never repeated
 * (Linux has freed the number whatever it answers). Deadlines are absolute, in nanoseconds of
 * CLOCK_MONOTONIC; PL_NEVER is the one that never comes.
 */
#ifndef PL_BASE_OS_H
#define PL_BASE_OS_H

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "base/compiler.h"

#define PL_NEVER UINT64_MAX
#define PL_MS UINT64_C(1000000)         /* nanoseconds in a millisecond */

/* A thread of ours runs `step` again and again until it answers false. The scripted world has no
 * threads: it calls the step from its own loop, where epoll_wait comes back at once when nothing is
 * ready. */
typedef bool pl_step_fn(void *argument);

/* A name in a directory, borrowed for the call. False: no more of them. */
typedef bool pl_entry_fn(const char *name, void *user);

/* Two that differ tell that a file was written or replaced between them. */
struct pl_file_stamp {
    uint64_t device, inode, size, changed_ns;
};

struct pl_os {
    /* sockets */
    int (*socket)(int family, int type, int protocol);          /* SOCK_CLOEXEC is added */
    int (*connect)(int fd, const struct sockaddr *address, socklen_t size);
    int (*bind)(int fd, const struct sockaddr *address, socklen_t size);
    ssize_t (*send)(int fd, const void *data, size_t size, int flags);
    ssize_t (*sendmsg)(int fd, const struct msghdr *message, int flags);
    ssize_t (*recv)(int fd, void *buffer, size_t size, int flags);
    /* `from` may be NULL; else *from_size is its room, and its size afterwards */
    ssize_t (*recvfrom)(int fd, const struct iovec *into, int flags, struct sockaddr *from,
                        socklen_t *from_size);
    int (*shutdown)(int fd, int how);
    int (*close)(int fd);
    int (*setsockopt)(int fd, int level, int name, const void *value, socklen_t size);
    int (*getsockopt)(int fd, int level, int name, void *value, socklen_t *size);
    int (*getsockname)(int fd, struct sockaddr *address, socklen_t *size);
    int (*getpeername)(int fd, struct sockaddr *address, socklen_t *size);
    int (*set_nonblocking)(int fd, bool nonblocking);
    /* a socket of the program's becomes ours: close-on-exec, blocking; on failure it is as it
     * was */
    int (*make_own)(int fd);
    int (*copy_above_stdio)(int fd);                            /* close-on-exec */
    unsigned (*interface_index)(const char *name);              /* 0: no such interface */

    /* waiting */
    /* answers 0 when the deadline came */
    int (*poll_until)(struct pollfd *polled, nfds_t count, uint64_t deadline_ns);
    int (*epoll_create)(void);
    int (*epoll_ctl)(int epoll_fd, int operation, int fd, struct epoll_event *event);
    /* timeout_ms -1: for ever */
    int (*epoll_wait)(int epoll_fd, struct epoll_event *events, int count, int timeout_ms);
    int (*eventfd_create)(void);                                /* non-blocking */
    int (*eventfd_add)(int fd);
    int (*timerfd_create)(void);                                /* non-blocking, CLOCK_MONOTONIC */
    int (*timerfd_arm)(int fd, uint64_t deadline_ns); /* PL_NEVER disarms; past: at once */
    /* fd -1: a new one, non-blocking; else that one tells of `signals` from now on */
    int (*signalfd_set)(int fd, const sigset_t *signals);
    int (*signalfd_read)(int fd);                               /* the number of one signal */
    void (*signal_block)(int signo);                            /* in this thread */

    /* time and chance */
    uint64_t (*now_ns)(void);                                   /* exact; some 25 ns */
    uint64_t (*coarse_ns)(void);                                /* up to two steps behind; 3 ns */
    uint64_t (*coarse_step_ns)(void);
    int (*random)(void *buffer, size_t size);

    /* memory; `map` answers zeroed pages that count as no allocation of the program's */
    void *(*malloc)(size_t size);
    void *(*realloc)(void *memory, size_t size);
    void (*free)(void *memory);
    void *(*map)(size_t size);
    void (*unmap)(void *pages, size_t size);

    /* threads: `wait_until` is pthread_cond_clockwait; -ETIMEDOUT when the deadline came */
    int (*thread_start)(pthread_t *thread, pl_step_fn *step, void *argument);
    void (*thread_join)(pthread_t thread);
    void (*thread_detach)(pthread_t thread);                    /* the running one ends by itself */
    int (*wait_until)(pthread_cond_t *condition, pthread_mutex_t *mutex, uint64_t deadline_ns);
    /* sleeps while *word is `expected`, until somebody wakes it, or for no reason; -ETIMEDOUT */
    int (*sleep_until)(_Atomic uint32_t *word, uint32_t expected, uint64_t deadline_ns);
    void (*wake)(_Atomic uint32_t *word);                       /* one who sleeps there, if any */

    /* files: which one stands at a path, and since when its content is what it is; -ENOENT: none */
    int (*file_stamp)(const char *path, struct pl_file_stamp *stamp);

    /* limits */
    uint32_t (*processors)(void);                               /* that this process may run on */
    uint64_t (*descriptor_limit)(void);                         /* soft RLIMIT_NOFILE */
    /* numbers below it that are free; -EMFILE, -ENFILE or -ENOMEM: none is left to look with */
    int (*free_descriptors)(void);

    /* files, for settings */
    /* answers the size of *text, which ends with a zero byte besides and is the caller's to free;
     * -EFBIG: more than `most` bytes */
    ssize_t (*read_file)(const char *path, size_t most, char **text);
    int (*list_directory)(const char *path, pl_entry_fn *on_entry, void *user);
};

/* The real door: always the kernel's, whatever stands in front of it. Tests wrap its members. */
extern const struct pl_os pl_os_real;

/* What the library calls. Change it only through pl_os_replace(), while no pool and no mux
 * exists. */
extern const struct pl_os *pl_os;
void pl_os_replace(const struct pl_os *os);                     /* NULL: the real one again */

/* The allocator under pl_os_real.malloc and its companions (pool_set_allocator). */
void pl_os_set_allocator(void *(*malloc_fn)(size_t), void *(*realloc_fn)(void *, size_t),
                         void (*free_fn)(void *));

void *pl_zalloc(size_t size);           /* zeroed, or NULL */

/* A throw of the dice; without chance, always the highest number. */
uint64_t pl_dice(void);

/* A deadline that would pass the largest number is PL_NEVER. */
static inline uint64_t pl_after(uint64_t start_ns, uint64_t span_ns)
{
    return span_ns > PL_NEVER - start_ns ? PL_NEVER : start_ns + span_ns;
}

static inline bool pl_is_past(uint64_t deadline_ns)
{
    return deadline_ns != PL_NEVER && pl_os->now_ns() >= deadline_ns;
}

static inline uint64_t pl_earlier(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* The (positive) errno of a call that makes a descriptor, or reads a file: there was none to be
 * had, or no memory for it, so what the call was to find out is not known. */
static inline bool pl_is_out_of_descriptors(int error)
{
    return error == EMFILE || error == ENFILE || error == ENOMEM;
}

/* How long ago that was; 0 when it lies ahead, as a coarse clock may have it. */
static inline uint64_t pl_since(uint64_t start_ns, uint64_t now_ns)
{
    return now_ns > start_ns ? now_ns - start_ns : 0;
}

#endif
