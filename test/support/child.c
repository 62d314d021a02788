/* child.c: see child.h. */
#include "support/child.h"

#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/os.h"
#include "support/tests.h"

#define WATCH_S 20u
#define NUMBERS 4096

static atomic_uint door_calls;
static atomic_bool is_watched_number[NUMBERS];
static struct pl_os watching;
static bool is_child;

/* Asked by the leak checker at exit. */
__attribute__((visibility("default"))) int __lsan_is_turned_off(void);
int __lsan_is_turned_off(void)
{
    return is_child;
}

void child_leaks_are_fine(void)
{
    is_child = true;
}

int child_failed(const char *condition, const char *file, int line)
{
    fprintf(stderr, "%s:%d: in the child: %s\n", file, line, condition);
    return 1;
}

pid_t child_fork(void)
{
    pid_t child = fork();

    if (child == 0) {
        child_leaks_are_fine();
        signal(SIGALRM, SIG_DFL);
        alarm(WATCH_S * slowness());
    }
    return child;
}

int child_status(pid_t child)
{
    int status;

    if (child < 0 || waitpid(child, &status, 0) != child)
        return -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

int child_run(int (*fn)(void *argument), void *argument)
{
    pid_t child = child_fork();

    if (child == 0)
        _exit(fn(argument));
    return child_status(child);
}

/* ---- the door */

static void note(int fd)
{
    if (fd >= 0 && fd < NUMBERS && atomic_load(&is_watched_number[fd]))
        atomic_fetch_add(&door_calls, 1);
}

static ssize_t send_noted(int fd, const void *data, size_t size, int flags)
{
    note(fd);
    return pl_os_real.send(fd, data, size, flags);
}

static ssize_t sendmsg_noted(int fd, const struct msghdr *message, int flags)
{
    note(fd);
    return pl_os_real.sendmsg(fd, message, flags);
}

static ssize_t recv_noted(int fd, void *buffer, size_t size, int flags)
{
    note(fd);
    return pl_os_real.recv(fd, buffer, size, flags);
}

static int shutdown_noted(int fd, int how)
{
    note(fd);
    return pl_os_real.shutdown(fd, how);
}

static int setsockopt_noted(int fd, int level, int name, const void *value, socklen_t size)
{
    note(fd);
    return pl_os_real.setsockopt(fd, level, name, value, size);
}

static int connect_noted(int fd, const struct sockaddr *address, socklen_t size)
{
    note(fd);
    return pl_os_real.connect(fd, address, size);
}

static int epoll_ctl_noted(int epoll_fd, int operation, int fd, struct epoll_event *event)
{
    note(epoll_fd);
    return pl_os_real.epoll_ctl(epoll_fd, operation, fd, event);
}

static int epoll_wait_noted(int epoll_fd, struct epoll_event *events, int count, int timeout_ms)
{
    note(epoll_fd);
    return pl_os_real.epoll_wait(epoll_fd, events, count, timeout_ms);
}

/* From here on it is a number like any other. */
static int close_noted(int fd)
{
    if (fd >= 0 && fd < NUMBERS)
        atomic_store(&is_watched_number[fd], false);
    return pl_os_real.close(fd);
}

static int eventfd_add_noted(int fd)
{
    note(fd);
    return pl_os_real.eventfd_add(fd);
}

static int timerfd_arm_noted(int fd, uint64_t deadline_ns)
{
    note(fd);
    return pl_os_real.timerfd_arm(fd, deadline_ns);
}

void child_watch_door(void)
{
    for (int fd = 0; fd < NUMBERS; fd++)
        atomic_store(&is_watched_number[fd], fcntl(fd, F_GETFD) >= 0);
    watching = pl_os_real;
    watching.send = send_noted;
    watching.sendmsg = sendmsg_noted;
    watching.recv = recv_noted;
    watching.shutdown = shutdown_noted;
    watching.setsockopt = setsockopt_noted;
    watching.close = close_noted;
    watching.connect = connect_noted;
    watching.epoll_ctl = epoll_ctl_noted;
    watching.epoll_wait = epoll_wait_noted;
    watching.eventfd_add = eventfd_add_noted;
    watching.timerfd_arm = timerfd_arm_noted;
    pl_os_replace(&watching);
}

unsigned child_door_calls(void)
{
    return atomic_load(&door_calls);
}
