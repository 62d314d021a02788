/* test_os.c: the door keeps its word: numbers above 2, close-on-exec, errno left alone,
 * deadlines that are never early. */
#include "base/os.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "support/tests.h"

#define STRANGE 12345 /* no errno of any call */

/* ---- descriptors */

static int make_socket(void)
{
    return pl_os->socket(AF_INET, SOCK_STREAM, 0);
}

static int make(size_t kind)
{
    switch (kind) {
    case 0:
        return make_socket();
    case 1:
        return pl_os->epoll_create();
    case 2:
        return pl_os->eventfd_create();
    default:
        return pl_os->timerfd_create();
    }
}

enum { KINDS = 4 };

static bool is_open(int fd)
{
    return fcntl(fd, F_GETFD) >= 0;
}

/* Runs check() while numbers 0 to 2 are closed. */
static int without_stdio(int (*check)(void))
{
    int saved[3], answer;

    for (int fd = 0; fd < 3; fd++)
        saved[fd] = fcntl(fd, F_DUPFD_CLOEXEC, 100);
    for (int fd = 0; fd < 3; fd++)
        close(fd);
    answer = check();
    for (int fd = 0; fd < 3; fd++) {
        dup2(saved[fd], fd);
        close(saved[fd]);
    }
    return answer;
}

static int make_each(void)
{
    int trouble = 0;

    for (size_t kind = 0; kind < KINDS; kind++) {
        int fd = make(kind);

        trouble += fd < 3 || !(fcntl(fd, F_GETFD) & FD_CLOEXEC);
        trouble += is_open(0) + is_open(1) + is_open(2);
    }
    return trouble;
}

Test(os, a_descriptor_is_never_0_1_or_2)
{
    cr_expect_eq(without_stdio(make_each), 0);
}

static int make_without_room(void)
{
    unsigned before = set_descriptor_limit(1024);
    int trouble = 0, top = open("/dev/null", O_RDONLY); /* 0 */

    while (top >= 0 && top < 64)
        top = dup(top);
    close(0); /* the only free numbers are below 3 */
    close(1);
    close(2);
    set_descriptor_limit(64);
    for (size_t kind = 0; kind < KINDS; kind++)
        trouble += make(kind) != -EMFILE || is_open(0) || is_open(1) || is_open(2);
    set_descriptor_limit(before);
    return trouble;
}

Test(os, with_room_below_3_only_there_is_none_and_nothing_stays_open)
{
    cr_expect_eq(without_stdio(make_without_room), 0);
}

Test(os, a_descriptor_is_closed_on_exec)
{
    char command[256];
    int fds[KINDS];

    for (size_t kind = 0; kind < KINDS; kind++) {
        fds[kind] = make(kind);
        cr_assert_geq(fds[kind], 3);
        cr_expect(fcntl(fds[kind], F_GETFD) & FD_CLOEXEC);
    }
    snprintf(command, sizeof(command),
             "for fd in %d %d %d %d; do [ ! -e /proc/$$/fd/$fd ] || exit 1; done", fds[0], fds[1],
             fds[2], fds[3]);
    cr_expect_eq(system(command), 0);
}

Test(os, waiting_descriptors_do_not_block_and_sockets_do_unless_asked)
{
    int quiet = pl_os->socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0), fd = make_socket();

    cr_expect(fcntl(pl_os->eventfd_create(), F_GETFL) & O_NONBLOCK);
    cr_expect(fcntl(pl_os->timerfd_create(), F_GETFL) & O_NONBLOCK);
    cr_expect_not(fcntl(fd, F_GETFL) & O_NONBLOCK);
    cr_expect(fcntl(quiet, F_GETFL) & O_NONBLOCK);
    cr_expect_eq(pl_os->set_nonblocking(fd, true), 0);
    cr_expect(fcntl(fd, F_GETFL) & O_NONBLOCK);
    cr_expect_eq(pl_os->set_nonblocking(fd, false), 0);
    cr_expect_not(fcntl(fd, F_GETFL) & O_NONBLOCK);
}

Test(os, an_eventfd_is_readable_once_it_was_added_to)
{
    struct pollfd polled = { .fd = pl_os->eventfd_create(), .events = POLLIN };

    cr_expect_eq(pl_os->poll_until(&polled, 1, 0), 0);
    cr_expect_geq(pl_os->eventfd_add(polled.fd), 0);
    cr_expect_geq(pl_os->eventfd_add(polled.fd), 0);
    cr_expect_eq(pl_os->poll_until(&polled, 1, 0), 1);
}

/* ---- errno */

#define KEEPS(call)                                                                                \
    do {                                                                                           \
        errno = STRANGE;                                                                           \
        (void)(call);                                                                              \
        cr_expect_eq(errno, STRANGE, "%s", #call);                                                 \
    } while (0)
#define FAILS(wanted, call)                                                                        \
    do {                                                                                           \
        errno = STRANGE;                                                                           \
        cr_expect_eq((call), -(wanted), "%s", #call);                                              \
        cr_expect_eq(errno, STRANGE, "%s", #call);                                                 \
    } while (0)

Test(os, a_call_that_fails_answers_the_errno_and_leaves_errno_alone)
{
    struct sockaddr_in address = { .sin_family = AF_INET };
    const struct sockaddr *to = (struct sockaddr *)&address;
    socklen_t size = sizeof(address);
    struct msghdr message = { 0 };
    struct epoll_event event = { 0 };
    int value = 0;

    FAILS(EAFNOSUPPORT, pl_os->socket(12345, SOCK_STREAM, 0));
    FAILS(EBADF, pl_os->connect(-1, to, size));
    FAILS(EBADF, pl_os->bind(-1, to, size));
    FAILS(EBADF, pl_os->send(-1, "", 1, 0));
    FAILS(EBADF, pl_os->sendmsg(-1, &message, 0));
    FAILS(EBADF, pl_os->recv(-1, &value, 1, 0));
    FAILS(EBADF, pl_os->shutdown(-1, SHUT_RDWR));
    FAILS(EBADF, pl_os->close(-1));
    FAILS(EBADF, pl_os->setsockopt(-1, SOL_SOCKET, SO_KEEPALIVE, &value, sizeof(value)));
    FAILS(EBADF, pl_os->getsockopt(-1, SOL_SOCKET, SO_ERROR, &value, &size));
    FAILS(EBADF, pl_os->getsockname(-1, (struct sockaddr *)&address, &size));
    FAILS(EBADF, pl_os->getpeername(-1, (struct sockaddr *)&address, &size));
    FAILS(EBADF, pl_os->set_nonblocking(-1, true));
    FAILS(EBADF, pl_os->epoll_ctl(-1, EPOLL_CTL_ADD, 0, &event));
    FAILS(EBADF, pl_os->epoll_wait(-1, &event, 1, 0));
    FAILS(EBADF, pl_os->eventfd_add(-1));
    FAILS(EBADF, pl_os->timerfd_arm(-1, 1));
    if (!is_under_valgrind())           /* which looks at the pointer, too */
        FAILS(EFAULT, pl_os->random((void *)1, 8));
    FAILS(0, (int)pl_os->interface_index("no-such-interface"));
}

static void *strange_malloc(size_t size)
{
    errno = ENOMEM;
    return malloc(size);
}

static void *strange_realloc(void *memory, size_t size)
{
    errno = ENOMEM;
    return realloc(memory, size);
}

static void strange_free(void *memory)
{
    free(memory);
    errno = EINVAL;
}

static bool stop_at_once(void *argument)
{
    (void)argument;
    return false;
}

Test(os, memory_threads_and_time_leave_errno_alone)
{
    pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    pthread_cond_t condition = PTHREAD_COND_INITIALIZER;
    _Atomic uint32_t word = 7;
    pthread_t thread;
    void *memory;

    pl_os_set_allocator(strange_malloc, strange_realloc, strange_free);
    KEEPS(memory = pl_os->malloc(8));
    KEEPS(memory = pl_os->realloc(memory, 16));
    KEEPS(pl_os->free(memory));
    KEEPS(pl_os->thread_start(&thread, stop_at_once, NULL));
    KEEPS(pl_os->thread_join(thread));
    pl_os_set_allocator(malloc, realloc, free);
    KEEPS(memory = pl_os->map(SIZE_MAX / 4));
    cr_expect_null(memory);
    KEEPS(pl_os->unmap((void *)1, 1));
    KEEPS(pl_os->now_ns() + pl_os->coarse_ns() + pl_os->coarse_step_ns());
    KEEPS(pl_os->descriptor_limit());
    pthread_mutex_lock(&lock);
    FAILS(ETIMEDOUT, pl_os->wait_until(&condition, &lock, 0));
    FAILS(ETIMEDOUT, pl_os->sleep_until(&word, 7, 0));
    FAILS(EAGAIN, pl_os->sleep_until(&word, 8, PL_NEVER));
    KEEPS(pl_os->wake(&word));
}

Test(os, where_no_descriptor_is_allowed_all_that_needs_one_says_so)
{
    struct pollfd polled = { .fd = -1 };
    unsigned before = set_descriptor_limit(0);

    FAILS(EMFILE, make_socket());
    FAILS(EMFILE, pl_os->epoll_create());
    FAILS(EMFILE, pl_os->eventfd_create());
    FAILS(EMFILE, pl_os->timerfd_create());
    if (!is_under_valgrind())           /* which has a limit of its own */
        FAILS(EINVAL, pl_os->poll_until(&polled, 1, 0));
    set_descriptor_limit(before);
}

/* ---- time */

Test(os, the_coarse_clock_is_behind_the_exact_one_by_a_step_at_most)
{
    uint64_t step_ns = pl_os->coarse_step_ns(), worst_ns = 0;

    for (unsigned i = 0; i < 100000; i++) {
        uint64_t coarse_ns = pl_os->coarse_ns(), now_ns = pl_os->now_ns(), later_ns;

        cr_assert_leq(coarse_ns, now_ns);
        later_ns = pl_os->coarse_ns();
        if (later_ns == coarse_ns && now_ns - coarse_ns > worst_ns)
            worst_ns = now_ns - coarse_ns;
    }
    cr_expect_leq(worst_ns, step_ns + 20 * PL_MS * slowness(), "but for a late tick");
}

Test(os, waiting_for_a_descriptor_ends_at_the_deadline_and_never_before)
{
    struct pollfd polled = { .fd = pl_os->eventfd_create(), .events = POLLIN };

    for (unsigned us = 1; us < 20000; us = us * 3 + 7) {
        uint64_t deadline_ns = pl_os->now_ns() + us * 1000, now_ns;

        cr_expect_eq(pl_os->poll_until(&polled, 1, deadline_ns), 0);
        now_ns = pl_os->now_ns();
        cr_expect_geq(now_ns, deadline_ns);
        cr_expect(WITHIN((now_ns - deadline_ns) / PL_MS, 0, 20));
    }
    pl_os->eventfd_add(polled.fd);
    cr_expect_eq(pl_os->poll_until(&polled, 1, PL_NEVER), 1);
    cr_expect_eq(pl_os->poll_until(&polled, 1, 0), 1, "a look is taken even when it is too late");
}

Test(os, a_signal_ends_a_wait_with_eintr)
{
    struct pollfd polled = { .fd = pl_os->eventfd_create(), .events = POLLIN };
    struct signal_storm *storm = start_signal_storm(1000);

    FAILS(EINTR, pl_os->poll_until(&polled, 1, PL_NEVER));
    stop_signal_storm(storm);
}

static bool rings(int fd, uint64_t within_ns)
{
    struct pollfd polled = { .fd = fd, .events = POLLIN };

    return pl_os->poll_until(&polled, 1, pl_os->now_ns() + within_ns) == 1;
}

Test(os, a_timer_fires_for_past_deadlines_at_once_and_never_early)
{
    int fd = pl_os->timerfd_create();
    uint64_t deadline_ns;

    cr_expect_not(rings(fd, 0));
    pl_os->timerfd_arm(fd, 0);
    cr_expect(rings(fd, 1000 * PL_MS), "0 is past, too");
    pl_os->timerfd_arm(fd, PL_NEVER);
    cr_expect_not(rings(fd, 5 * PL_MS));
    pl_os->timerfd_arm(fd, pl_os->now_ns() - PL_MS);
    cr_expect(rings(fd, 1000 * PL_MS));
    pl_os->timerfd_arm(fd, PL_NEVER);
    cr_expect_not(rings(fd, 0));
    deadline_ns = pl_os->now_ns() + 10 * PL_MS;
    pl_os->timerfd_arm(fd, deadline_ns);
    cr_expect(rings(fd, 1000 * PL_MS));
    cr_expect_geq(pl_os->now_ns(), deadline_ns);
    pl_os->timerfd_arm(fd, PL_NEVER - 1);
    cr_expect_not(rings(fd, 5 * PL_MS), "the end of time is not now");
}

Test(os, a_deadline_that_would_pass_the_largest_number_never_comes)
{
    cr_expect_eq(pl_after(5, 7), 12);
    cr_expect_eq(pl_after(PL_NEVER - 1, 1), PL_NEVER);
    cr_expect_eq(pl_after(PL_NEVER - 1, 2), PL_NEVER);
    cr_expect_eq(pl_after(1, PL_NEVER), PL_NEVER);
    cr_expect_eq(pl_after(PL_NEVER, PL_NEVER), PL_NEVER);
    cr_expect_eq(pl_after(0, UINT32_MAX * PL_MS), UINT32_MAX * PL_MS);
}

/* ---- threads */

static bool note_signals(void *argument)
{
    sigset_t *blocked = argument;

    pthread_sigmask(SIG_SETMASK, NULL, blocked);
    return false;
}

Test(os, no_signal_of_the_program_is_handled_on_a_thread_of_ours)
{
    sigset_t blocked, before, after;
    pthread_t thread;

    pthread_sigmask(SIG_SETMASK, NULL, &before);
    sigemptyset(&blocked);
    cr_assert_eq(pl_os->thread_start(&thread, note_signals, &blocked), 0);
    pl_os->thread_join(thread);
    pthread_sigmask(SIG_SETMASK, NULL, &after);
    for (int number = 1; number < 32; number++) {
        if (number != SIGKILL && number != SIGSTOP)
            cr_expect(sigismember(&blocked, number), "%d", number);
        cr_expect_eq(sigismember(&before, number), sigismember(&after, number));
    }
}

static bool count_down(void *argument)
{
    return --*(unsigned *)argument;
}

Test(os, a_thread_steps_until_a_step_says_that_it_was_the_last)
{
    unsigned steps = 1000;
    pthread_t thread;

    cr_assert_eq(pl_os->thread_start(&thread, count_down, &steps), 0);
    pl_os->thread_join(thread);
    cr_expect_eq(steps, 0);
}

static void *no_memory(size_t size)
{
    (void)size;
    return NULL;
}

Test(os, without_memory_no_thread_is_started)
{
    unsigned steps = 1;
    pthread_t thread;

    pl_os_set_allocator(no_memory, realloc, free);
    cr_expect_eq(pl_os->thread_start(&thread, count_down, &steps), -ENOMEM);
    cr_expect_null(pl_zalloc(1));
    cr_expect_eq(steps, 1);
}

struct receiver {
    int fd;
    char byte;
    _Atomic int left_by; /* 1: recv came back */
};

static void *receive_cancelled(void *argument)
{
    struct receiver *receiver = argument;

    pl_os->recv(receiver->fd, &receiver->byte, 1, 0);
    atomic_store(&receiver->left_by, 1);
    pthread_testcancel();
    return NULL;
}

Test(os, a_thread_that_is_cancelled_does_not_vanish_inside_a_receive)
{
    struct receiver receiver = { 0 };
    int pair[2];
    pthread_t thread;
    void *result;

    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    receiver.fd = pair[0];
    cr_assert_eq(pthread_create(&thread, NULL, receive_cancelled, &receiver), 0);
    pthread_cancel(thread);
    cr_assert_eq(send(pair[1], "x", 1, 0), 1);
    pthread_join(thread, &result);
    cr_expect_eq(receiver.left_by, 1);
    cr_expect_eq(result, PTHREAD_CANCELED);
}

/* ---- memory */

Test(os, memory_comes_zeroed_where_that_is_promised)
{
    unsigned char *pages = pl_os->map(100000), *memory = pl_os->malloc(4096);
    size_t sum = 0;

    memset(memory, 0xff, 4096);
    pl_os->free(memory);
    memory = pl_zalloc(4096);
    for (size_t i = 0; i < 100000; i++)
        sum += pages[i] + (i < 4096 ? memory[i] : 0);
    cr_expect_eq(sum, 0);
    pl_os->free(memory);
    pl_os->unmap(pages, 100000);
}

/* ---- files */

static void write_file(const char *path, size_t size)
{
    FILE *file = fopen(path, "w");

    cr_assert(file);
    for (size_t i = 0; i < size; i++)
        putc('a' + (int)(i % 26), file);
    cr_assert_eq(fclose(file), 0);
}

Test(os, a_file_is_read_whole_up_to_its_bound)
{
    static const size_t sizes[] = { 0, 1, 4095, 4096, 4097, 100000 };
    char folder[256], path[300], *text;
    int before = count_descriptors();

    cr_assert(make_temp_dir(folder, sizeof(folder)));
    snprintf(path, sizeof(path), "%s/file", folder);
    for (size_t i = 0; i < PL_COUNT(sizes); i++) {
        write_file(path, sizes[i]);
        errno = STRANGE;
        cr_assert_eq(pl_os->read_file(path, sizes[i], &text), sizes[i]);
        cr_expect_eq(strlen(text), sizes[i]);
        cr_expect(sizes[i] < 30 || text[27] == 'b');
        pl_os->free(text);
        if (sizes[i])
            cr_expect_eq(pl_os->read_file(path, sizes[i] - 1, &text), -EFBIG);
    }
    cr_expect_eq(pl_os->read_file(folder, 10, &text), -EISDIR);
    cr_expect_null(text);
    cr_expect_eq(pl_os->read_file("/nothing/here", 10, &text), -ENOENT);
    cr_expect_eq(errno, STRANGE);
    remove_temp_dir(folder);
    cr_expect_eq(count_descriptors(), before);
}

static bool count_entry(const char *name, void *user)
{
    unsigned *counts = user;

    counts[0] += name[0] == 'f';
    return --counts[1] > 0;
}

Test(os, a_directory_is_listed_until_enough_is_known)
{
    char folder[256], path[300];
    unsigned counts[2] = { 0, 1000 };

    cr_assert(make_temp_dir(folder, sizeof(folder)));
    for (unsigned i = 0; i < 300; i++) {
        snprintf(path, sizeof(path), "%s/f%u", folder, i);
        write_file(path, 0);
    }
    errno = STRANGE;
    cr_expect_eq(pl_os->list_directory(folder, count_entry, counts), 0);
    cr_expect_eq(counts[0], 300);
    counts[1] = 7;
    cr_expect_eq(pl_os->list_directory(folder, count_entry, counts), 0);
    cr_expect_eq(counts[1], 0);
    cr_expect_eq(pl_os->list_directory(path, count_entry, counts), -ENOTDIR);
    cr_expect_eq(errno, STRANGE);
    remove_temp_dir(folder);
}

Test(os, chance_fills_every_byte)
{
    unsigned char bytes[64], seen[64] = { 0 };

    for (unsigned i = 0; i < 64; i++) {
        cr_assert_eq(pl_os->random(bytes, sizeof(bytes)), sizeof(bytes));
        for (size_t at = 0; at < sizeof(bytes); at++)
            seen[at] |= bytes[at];
    }
    for (size_t at = 0; at < sizeof(seen); at++)
        cr_expect_eq(seen[at], 0xff);
}

Test(os, the_real_door_comes_back_when_none_is_given)
{
    struct pl_os os = pl_os_real;

    pl_os_replace(&os);
    cr_expect_eq(pl_os, &os);
    pl_os_replace(NULL);
    cr_expect_eq(pl_os, &pl_os_real);
    cr_expect_eq(pl_os->descriptor_limit(), set_descriptor_limit(500));
    cr_expect_eq(pl_os->descriptor_limit(), 500);
}

Test(os, a_datagram_tells_whom_it_is_from_and_waits_for_nothing)
{
    struct sockaddr_in here = { .sin_family = AF_INET }, from = { 0 };
    socklen_t size = sizeof(here);
    char text[8] = "";
    struct iovec into = { text, sizeof(text) };
    int fd = pl_os->socket(AF_INET, SOCK_DGRAM, 0);

    here.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    cr_assert_eq(pl_os->bind(fd, (struct sockaddr *)&here, size), 0);
    cr_assert_eq(pl_os->getsockname(fd, (struct sockaddr *)&here, &size), 0);
    errno = STRANGE;
    cr_expect_eq(pl_os->recvfrom(fd, &into, MSG_DONTWAIT, NULL, NULL), -EAGAIN);
    cr_expect_eq(errno, STRANGE);
    cr_assert_eq(pl_os->connect(fd, (struct sockaddr *)&here, size), 0);
    cr_assert_eq(pl_os->send(fd, "hello", 5, 0), 5);
    cr_expect_eq(pl_os->recvfrom(fd, &into, 0, (struct sockaddr *)&from, &size), 5);
    cr_expect_eq(from.sin_port, here.sin_port);
    cr_expect_str_eq(text, "hello");
    pl_os->close(fd);
}

Test(os, the_stamp_of_a_file_changes_when_it_is_written_or_replaced)
{
    struct pl_file_stamp first, again;
    char folder[256], path[300], other[300];
    int fd;

    cr_assert(make_temp_dir(folder, sizeof(folder)));
    snprintf(path, sizeof(path), "%s/file", folder);
    snprintf(other, sizeof(other), "%s/other", folder);
    errno = STRANGE;
    cr_expect_eq(pl_os->file_stamp(path, &first), -ENOENT);
    cr_expect_eq(errno, STRANGE);
    fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    cr_assert_eq(pl_os->file_stamp(path, &first), 0);
    cr_assert_eq(pl_os->file_stamp(path, &again), 0);
    cr_expect_eq(memcmp(&first, &again, sizeof(first)), 0);
    cr_assert_eq(write(fd, "more", 4), 4);
    cr_assert_eq(pl_os->file_stamp(path, &again), 0);
    cr_expect_neq(memcmp(&first, &again, sizeof(first)), 0, "written");
    close(fd);
    close(open(other, O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
    cr_assert_eq(rename(other, path), 0);
    cr_assert_eq(pl_os->file_stamp(path, &first), 0);
    cr_expect_neq(memcmp(&first, &again, sizeof(first)), 0, "replaced");
    remove_temp_dir(folder);
}
