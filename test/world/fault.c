/* fault.c: the table of plausible errors, the decision, and one small function for each call. */
#include "world/fault.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MOST_ERRORS 12
#define ONCE 65536 /* added to an errno that cannot be answered twice in a row */

static const struct {
    const char *name;
    int errors[MOST_ERRORS];
} calls[FAULT_CALLS] = {
    [FAULT_SOCKET] = { "socket", { EMFILE, ENFILE, ENOBUFS, ENOMEM, EACCES, EAFNOSUPPORT } },
    [FAULT_CONNECT] = { "connect",
                        { ECONNREFUSED, ETIMEDOUT, ENETUNREACH, EHOSTUNREACH, EADDRNOTAVAIL, EACCES,
                          EPERM, EAGAIN, EINTR + ONCE, ENOBUFS, ECONNRESET } },
    [FAULT_BIND] = { "bind", { EADDRINUSE, EADDRNOTAVAIL, EACCES, ENOMEM } },
    [FAULT_SEND] = { "send",
                     { EPIPE, ECONNRESET, ENOBUFS, ENOMEM, EAGAIN + ONCE, EINTR + ONCE, ETIMEDOUT,
                       EHOSTUNREACH, FAULT_SHORT } },
    [FAULT_SENDMSG] = { "sendmsg",
                        { EPIPE, ECONNRESET, ENOBUFS, ENOMEM, EAGAIN + ONCE, EINTR + ONCE,
                          ETIMEDOUT, EHOSTUNREACH, FAULT_SHORT } },
    [FAULT_RECV] = { "recv",
                     { ECONNRESET, ETIMEDOUT, EINTR + ONCE, ENOMEM, EAGAIN + ONCE, EHOSTUNREACH,
                       FAULT_SHORT } },
    [FAULT_RECVFROM] = { "recvfrom",
                         { ECONNREFUSED, EINTR + ONCE, ENOMEM, EAGAIN + ONCE, EHOSTUNREACH } },
    [FAULT_SHUTDOWN] = { "shutdown", { ENOTCONN, ENOBUFS } },
    [FAULT_CLOSE] = { "close", { EINTR, EIO } },
    [FAULT_SETSOCKOPT] = { "setsockopt", { ENOBUFS, ENOMEM } },
    [FAULT_GETSOCKOPT] = { "getsockopt", { ENOBUFS, ENOMEM } },
    [FAULT_GETSOCKNAME] = { "getsockname", { ENOBUFS } },
    [FAULT_GETPEERNAME] = { "getpeername", { ENOBUFS, ENOTCONN } },
    [FAULT_MAKE_OWN] = { "make_own", { ENOMEM } },
    [FAULT_COPY] = { "copy_above_stdio", { EMFILE } },
    [FAULT_POLL] = { "poll", { EINTR + ONCE, ENOMEM } },
    [FAULT_EPOLL_CREATE] = { "epoll_create", { EMFILE, ENFILE, ENOMEM } },
    [FAULT_EPOLL_ADD] = { "epoll_add", { ENOMEM, ENOSPC } },
    [FAULT_EPOLL_MOD] = { "epoll_mod", { ENOMEM } },
    [FAULT_EPOLL_WAIT] = { "epoll_wait", { EINTR + ONCE } },
    [FAULT_EVENTFD] = { "eventfd", { EMFILE, ENFILE, ENOMEM } },
    [FAULT_TIMERFD] = { "timerfd", { EMFILE, ENFILE, ENOMEM } },
    [FAULT_SIGNALFD] = { "signalfd", { EMFILE, ENFILE, ENOMEM } },
    [FAULT_RANDOM] = { "random", { EINTR + ONCE } },
    [FAULT_MALLOC] = { "malloc", { ENOMEM } },
    [FAULT_REALLOC] = { "realloc", { ENOMEM } },
    [FAULT_MAP] = { "map", { ENOMEM } },
    [FAULT_THREAD] = { "thread_start", { EAGAIN } },
    [FAULT_FREE_DESCRIPTORS] = { "free_descriptors", { EMFILE, ENFILE, ENOMEM } },
    [FAULT_READ_FILE] = { "read_file", { ENOENT, EACCES, EMFILE, ENFILE, ENOMEM, EIO } },
    [FAULT_LIST_DIRECTORY] = { "list_directory", { ENOENT, EACCES, EMFILE, ENFILE, ENOMEM } },
    [FAULT_FILE_STAMP] = { "file_stamp", { ENOENT, EACCES, ENOMEM } },
};

static const struct pl_os *inner;
static _Atomic uint64_t passed; /* points since counting began */
static _Atomic long live_allocations, live_maps;
static _Atomic bool is_counting, has_struck;
static _Atomic unsigned struck_kind;
static uint64_t armed_point; /* 0: none */
static int armed_error;
static bool armed_for_good;
static struct {
    unsigned char *kinds;
    uint64_t count, capacity;
    bool is_open;
} memory; /* of the run that counted */

/* ---- deciding */

static void remember(uint64_t point, enum fault_call call)
{
    if (!memory.is_open)
        return;
    if (point > memory.capacity) {
        memory.capacity = memory.capacity ? memory.capacity * 2 : 4096;
        memory.kinds = realloc(memory.kinds, memory.capacity);
        if (!memory.kinds)
            abort();
    }
    memory.kinds[point - 1] = (unsigned char)call;
    memory.count = point;
}

/* Stands alone so that a debugger can stop here. */
static __attribute__((noinline)) void fault_strikes(enum fault_call call)
{
    struck_kind = call;
    has_struck = true;
}

/* What this call must answer: an errno or FAULT_SHORT; 0: let it pass. */
static int verdict(enum fault_call call)
{
    uint64_t point;

    if (!is_counting)
        return 0;
    point = atomic_fetch_add(&passed, 1) + 1;
    remember(point, call);
    if (!armed_point || point < armed_point)
        return 0;
    if (point == armed_point) {
        fault_strikes(call);
        return armed_error;
    }
    return armed_for_good && call == struck_kind ? armed_error : 0;
}

static void start(uint64_t point, int error, bool for_good)
{
    armed_point = point;
    armed_error = error;
    armed_for_good = for_good;
    has_struck = false;
    passed = 0;
    is_counting = true;
}

void fault_count(void)
{
    memory.count = 0;
    memory.is_open = true;
    start(0, 0, false);
}

void fault_arm(uint64_t point, int error, bool for_good)
{
    memory.is_open = false;
    start(point, error, for_good);
}

void fault_off(void)
{
    is_counting = false;
}

uint64_t fault_points(void)
{
    return passed;
}

enum fault_call fault_kind(uint64_t point)
{
    return point && point <= memory.count ? memory.kinds[point - 1] : FAULT_CALLS;
}

bool fault_has_struck(void)
{
    return has_struck;
}

enum fault_call fault_struck_kind(void)
{
    return struck_kind;
}

long fault_live_allocations(void)
{
    return live_allocations;
}

long fault_live_maps(void)
{
    return live_maps;
}

/* ---- names */

const char *fault_call_name(enum fault_call call)
{
    return call < FAULT_CALLS ? calls[call].name : "no call";
}

const char *fault_error_name(int error)
{
    const char *name = error == FAULT_SHORT ? "SHORT" : strerrorname_np(error);

    return name ? name : "NONE";
}

int fault_error_named(const char *name)
{
    for (int error = 1; error <= FAULT_SHORT; error++) {
        if (!strcmp(fault_error_name(error), name))
            return error;
    }
    return 0;
}

int fault_error(enum fault_call call, unsigned index, bool *once_only)
{
    int error = call < FAULT_CALLS && index < MOST_ERRORS ? calls[call].errors[index] : 0;

    *once_only = error >= ONCE;
    return error % ONCE;
}

/* ---- the calls */

static int fail_socket(int family, int type, int protocol)
{
    int error = verdict(FAULT_SOCKET);

    return error ? -error : inner->socket(family, type, protocol);
}

static int fail_connect(int fd, const struct sockaddr *address, socklen_t size)
{
    int error = verdict(FAULT_CONNECT);

    if (error == EINTR)
        inner->connect(fd, address, size);
    return error ? -error : inner->connect(fd, address, size);
}

static int fail_bind(int fd, const struct sockaddr *address, socklen_t size)
{
    int error = verdict(FAULT_BIND);

    return error ? -error : inner->bind(fd, address, size);
}

static ssize_t fail_send(int fd, const void *data, size_t size, int flags)
{
    int error = verdict(FAULT_SEND);

    if (error == FAULT_SHORT)
        return inner->send(fd, data, size < 1 ? size : 1, flags);
    return error ? -error : inner->send(fd, data, size, flags);
}

static ssize_t send_one_byte(int fd, const struct msghdr *message, int flags)
{
    for (size_t i = 0; i < message->msg_iovlen; i++) {
        if (message->msg_iov[i].iov_len)
            return inner->send(fd, message->msg_iov[i].iov_base, 1, flags);
    }
    return inner->sendmsg(fd, message, flags);
}

static ssize_t fail_sendmsg(int fd, const struct msghdr *message, int flags)
{
    int error = verdict(FAULT_SENDMSG);

    if (error == FAULT_SHORT)
        return send_one_byte(fd, message, flags);
    return error ? -error : inner->sendmsg(fd, message, flags);
}

/* Nothing there, or cut short while waiting: neither is true of a call that has something to
 * give. */
static bool has_bytes(int fd)
{
    char byte;

    return inner->recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) >= 0;
}

static ssize_t fail_recv(int fd, void *buffer, size_t size, int flags)
{
    int error = verdict(FAULT_RECV);

    if ((error == EAGAIN || error == EINTR) && has_bytes(fd))
        error = 0;
    if (error == FAULT_SHORT)
        return inner->recv(fd, buffer, size < 1 ? size : 1, flags);
    return error ? -error : inner->recv(fd, buffer, size, flags);
}

static ssize_t fail_recvfrom(int fd, const struct iovec *into, int flags, struct sockaddr *from,
                             socklen_t *from_size)
{
    int error = verdict(FAULT_RECVFROM);

    if ((error == EAGAIN || error == EINTR) && has_bytes(fd))
        error = 0;
    return error ? -error : inner->recvfrom(fd, into, flags, from, from_size);
}

static int fail_shutdown(int fd, int how)
{
    int error = verdict(FAULT_SHUTDOWN);

    return error ? -error : inner->shutdown(fd, how);
}

static int fail_close(int fd)
{
    int error = verdict(FAULT_CLOSE), closed = inner->close(fd);

    return error ? -error : closed;
}

static int fail_setsockopt(int fd, int level, int name, const void *value, socklen_t size)
{
    int error = verdict(FAULT_SETSOCKOPT);

    return error ? -error : inner->setsockopt(fd, level, name, value, size);
}

static int fail_getsockopt(int fd, int level, int name, void *value, socklen_t *size)
{
    bool is_sure = level == SOL_SOCKET && name == SO_COOKIE;
    int error = is_sure ? 0 : verdict(FAULT_GETSOCKOPT);

    return error ? -error : inner->getsockopt(fd, level, name, value, size);
}

static int fail_getsockname(int fd, struct sockaddr *address, socklen_t *size)
{
    int error = verdict(FAULT_GETSOCKNAME);

    return error ? -error : inner->getsockname(fd, address, size);
}

static int fail_getpeername(int fd, struct sockaddr *address, socklen_t *size)
{
    int error = verdict(FAULT_GETPEERNAME);

    return error ? -error : inner->getpeername(fd, address, size);
}

static int fail_make_own(int fd)
{
    int error = verdict(FAULT_MAKE_OWN);

    return error ? -error : inner->make_own(fd);
}

static int fail_copy_above_stdio(int fd)
{
    int error = verdict(FAULT_COPY);

    return error ? -error : inner->copy_above_stdio(fd);
}

static int fail_poll_until(struct pollfd *polled, nfds_t count, uint64_t deadline_ns)
{
    int error = verdict(FAULT_POLL);

    return error ? -error : inner->poll_until(polled, count, deadline_ns);
}

static int fail_epoll_create(void)
{
    int error = verdict(FAULT_EPOLL_CREATE);

    return error ? -error : inner->epoll_create();
}

static int fail_epoll_ctl(int epoll_fd, int operation, int fd, struct epoll_event *event)
{
    int error = 0;

    if (operation != EPOLL_CTL_DEL)
        error = verdict(operation == EPOLL_CTL_ADD ? FAULT_EPOLL_ADD : FAULT_EPOLL_MOD);
    return error ? -error : inner->epoll_ctl(epoll_fd, operation, fd, event);
}

static int fail_epoll_wait(int epoll_fd, struct epoll_event *events, int count, int timeout_ms)
{
    int error = verdict(FAULT_EPOLL_WAIT);

    return error ? -error : inner->epoll_wait(epoll_fd, events, count, timeout_ms);
}

static int fail_eventfd_create(void)
{
    int error = verdict(FAULT_EVENTFD);

    return error ? -error : inner->eventfd_create();
}

static int fail_timerfd_create(void)
{
    int error = verdict(FAULT_TIMERFD);

    return error ? -error : inner->timerfd_create();
}

static int fail_signalfd_set(int fd, const sigset_t *signals)
{
    int error = fd < 0 ? verdict(FAULT_SIGNALFD) : 0;

    return error ? -error : inner->signalfd_set(fd, signals);
}

static int fail_random(void *buffer, size_t size)
{
    int error = verdict(FAULT_RANDOM);

    return error ? -error : inner->random(buffer, size);
}

static void *fail_malloc(size_t size)
{
    void *memory_got = verdict(FAULT_MALLOC) ? NULL : inner->malloc(size);

    live_allocations += memory_got != NULL;
    return memory_got;
}

static void *fail_realloc(void *old, size_t size)
{
    void *memory_got = verdict(FAULT_REALLOC) ? NULL : inner->realloc(old, size);

    live_allocations += memory_got && !old;
    return memory_got;
}

static void count_free(void *old)
{
    live_allocations -= old != NULL;
    inner->free(old);
}

static void *fail_map(size_t size)
{
    void *pages = verdict(FAULT_MAP) ? NULL : inner->map(size);

    live_maps += pages != NULL;
    return pages;
}

static void count_unmap(void *pages, size_t size)
{
    live_maps--;
    inner->unmap(pages, size);
}

static int fail_thread_start(pthread_t *thread, pl_step_fn *step, void *argument)
{
    int error = verdict(FAULT_THREAD);

    return error ? -error : inner->thread_start(thread, step, argument);
}

static int fail_free_descriptors(void)
{
    int error = verdict(FAULT_FREE_DESCRIPTORS);

    return error ? -error : inner->free_descriptors();
}

static ssize_t fail_read_file(const char *path, size_t most, char **text)
{
    int error = verdict(FAULT_READ_FILE);

    return error ? -error : inner->read_file(path, most, text); /* its memory came through us */
}

static int fail_list_directory(const char *path, pl_entry_fn *on_entry, void *user)
{
    int error = verdict(FAULT_LIST_DIRECTORY);

    return error ? -error : inner->list_directory(path, on_entry, user);
}

static int fail_file_stamp(const char *path, struct pl_file_stamp *stamp)
{
    int error = verdict(FAULT_FILE_STAMP);

    return error ? -error : inner->file_stamp(path, stamp);
}

/* What is not named here goes through as it is. */
const struct pl_os *fault_os(const struct pl_os *behind)
{
    static struct pl_os table;

    if (inner == behind)
        return &table;                  /* it may be in use */
    inner = behind;
    table = *behind;
    table.socket = fail_socket;
    table.connect = fail_connect;
    table.bind = fail_bind;
    table.send = fail_send;
    table.sendmsg = fail_sendmsg;
    table.recv = fail_recv;
    table.recvfrom = fail_recvfrom;
    table.shutdown = fail_shutdown;
    table.close = fail_close;
    table.setsockopt = fail_setsockopt;
    table.getsockopt = fail_getsockopt;
    table.getsockname = fail_getsockname;
    table.getpeername = fail_getpeername;
    table.make_own = fail_make_own;
    table.copy_above_stdio = fail_copy_above_stdio;
    table.poll_until = fail_poll_until;
    table.epoll_create = fail_epoll_create;
    table.epoll_ctl = fail_epoll_ctl;
    table.epoll_wait = fail_epoll_wait;
    table.eventfd_create = fail_eventfd_create;
    table.timerfd_create = fail_timerfd_create;
    table.signalfd_set = fail_signalfd_set;
    table.random = fail_random;
    table.malloc = fail_malloc;
    table.realloc = fail_realloc;
    table.free = count_free;
    table.map = fail_map;
    table.unmap = count_unmap;
    table.thread_start = fail_thread_start;
    table.file_stamp = fail_file_stamp;
    table.free_descriptors = fail_free_descriptors;
    table.read_file = fail_read_file;
    table.list_directory = fail_list_directory;
    return &table;
}
