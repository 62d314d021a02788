/* peer_loop.c: the thread of the loopback peer: accepting, commands, and turning events and
 * timers over to the links.
 *
 * It never allocates and never blocks outside epoll_wait (filling its own backlog aside). When
 * accept() runs out of descriptors the listener leaves epoll for 10 ms, so that nothing spins.
 * Epoll events carry the nth of the connection, so that an event for a link closed earlier in
 * the same batch finds nobody. */
#include "support/peer_parts.h"

#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define LISTENER UINT64_MAX
#define COMMANDS (UINT64_MAX - 1)
#define ACCEPT_AGAIN_US 10000

static void watch_listener(struct peer_loop *loop)
{
    bool is_wanted = loop->listen_fd >= 0 && !loop->paused_accepting && !loop->accept_again_us &&
                     loop->options.behave != PEER_NEVER_ACCEPT &&
                     (loop->free_count || loop->slots_used < loop->slots);
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = LISTENER};

    if (is_wanted == loop->listen_watched)
        return;
    epoll_ctl(loop->epoll_fd, is_wanted ? EPOLL_CTL_ADD : EPOLL_CTL_DEL, loop->listen_fd, &event);
    loop->listen_watched = is_wanted;
}

static void drop_listener(struct peer_loop *loop)
{
    if (loop->listen_fd < 0)
        return;
    if (loop->listen_watched)
        epoll_ctl(loop->epoll_fd, EPOLL_CTL_DEL, loop->listen_fd, NULL);
    loop->listen_watched = false;
    close(loop->listen_fd);
    loop->listen_fd = -1;
}

static void drop_fillers(struct peer_loop *loop)
{
    while (loop->filler_count)
        close(loop->fillers[--loop->filler_count]);
}

/* One of our own, which filled the backlog, must not be served and counted. */
static bool is_filler(struct peer_loop *loop, const struct sockaddr *from, socklen_t size)
{
    struct sockaddr_storage own;
    socklen_t own_size;
    unsigned i;

    for (i = 0; i < loop->filler_count; i++) {
        own_size = sizeof(own);
        if (getsockname(loop->fillers[i], (struct sockaddr *)&own, &own_size) < 0)
            continue;
        if (own_size != size || memcmp(&own, from, size) != 0)
            continue;
        close(loop->fillers[i]);
        loop->fillers[i] = loop->fillers[--loop->filler_count];
        return true;
    }
    return false;
}

static void serve(struct peer_loop *loop, int fd)
{
    struct peer_link *link = peer_link_open(loop, fd);

    if (peer_behave_accepted(loop, link))
        peer_link_settle(loop, link);
}

static void accept_some(struct peer_loop *loop)
{
    struct sockaddr_storage from;
    socklen_t size;
    unsigned i;
    int fd;

    for (i = 0; i < 64 && (loop->free_count || loop->slots_used < loop->slots); i++) {
        size = sizeof(from);
        fd =
            accept4(loop->listen_fd, (struct sockaddr *)&from, &size, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd < 0 && (errno == EINTR || errno == ECONNABORTED))
            continue;
        if (fd < 0 && errno == EAGAIN)
            return;
        if (fd < 0) {
            peer_loop_count(loop, PEER_ACCEPT_FAILURES, 1);
            loop->accept_again_us = loop->now_us + ACCEPT_AGAIN_US;
            return;
        }
        if (is_filler(loop, (struct sockaddr *)&from, size))
            close(fd);
        else
            serve(loop, fd);
    }
}

static void obey_link(struct peer_loop *loop, struct peer_link *link, uint32_t *obeyed)
{
    const struct peer_command *command = &loop->command.head;

    switch (command->order) {
    case PEER_DO_PUSH:
        if (!peer_link_queue(loop, link, loop->command.bytes, command->size, 0))
            return;
        peer_loop_count(loop, PEER_PUSHES, 1);
        peer_link_settle(loop, link);
        break;
    case PEER_DO_CLOSE: case PEER_DO_DOWN: case PEER_DO_STOP:
        peer_link_close(loop, link, PEER_CLOSED_BY_US);
        break;
    case PEER_DO_RESET:
        peer_link_reset(loop, link);
        break;
    case PEER_DO_HALF_CLOSE:
        link->must_end = true;
        peer_link_settle(loop, link);
        break;
    default:
        peer_behave_changed(loop, link);
        peer_link_settle(loop, link);
    }
    ++*obeyed;
}

static uint32_t obey_links(struct peer_loop *loop)
{
    uint32_t obeyed = 0, slot;

    for (slot = 0; slot < loop->slots_used; slot++) {
        struct peer_link *link = &loop->links[slot];

        if (link->fd >= 0 &&
            (loop->command.head.nth == PEER_ALL || loop->command.head.nth == link->nth))
            obey_link(loop, link, &obeyed);
    }
    return obeyed;
}

static void change_behaviour(struct peer_loop *loop, enum peer_behaviour behaviour)
{
    if ((behaviour == PEER_NEVER_ACCEPT) == (loop->options.behave == PEER_NEVER_ACCEPT)) {
        loop->options.behave = behaviour;
        return;
    }
    loop->options.behave = behaviour;
    if (loop->listen_fd < 0)
        return;
    listen(loop->listen_fd, behaviour == PEER_NEVER_ACCEPT ? 0 : loop->options.backlog);
    if (behaviour == PEER_NEVER_ACCEPT)
        loop->filler_count = peer_place_fill(&loop->place, loop->fillers, PEER_FILLERS);
}

static uint32_t come_up(struct peer_loop *loop)
{
    enum peer_behaviour behaviour = loop->options.behave;

    if (loop->listen_fd >= 0)
        return 0;
    loop->listen_fd = peer_place_listen(&loop->place, loop->options.backlog);
    if (loop->listen_fd < 0)
        return (uint32_t)errno;
    if (behaviour == PEER_NEVER_ACCEPT) {
        loop->options.behave = PEER_ECHO;
        change_behaviour(loop, behaviour);
    }
    return 0;
}

static uint32_t obey(struct peer_loop *loop)
{
    const struct peer_command *command = &loop->command.head;

    switch (command->order) {
    case PEER_DO_UP:
        return come_up(loop);
    case PEER_DO_STOP: case PEER_DO_DOWN:
        loop->stopping = command->order == PEER_DO_STOP;
        drop_listener(loop);
        drop_fillers(loop);
        break;
    case PEER_DO_PAUSE_READING:
        loop->paused_reading = command->number;
        break;
    case PEER_DO_PAUSE_ACCEPTING:
        loop->paused_accepting = command->number;
        return 0;
    case PEER_DO_BEHAVE:
        change_behaviour(loop, (enum peer_behaviour)command->number);
        break;
    case PEER_DO_DELAY:
        loop->options.delay_ms = (unsigned)command->number;
        return 0;
    case PEER_DO_INTERVAL:
        loop->options.interval_ms = (unsigned)command->number;
        break;
    case PEER_DO_AFTER:
        loop->options.after_bytes = (size_t)command->number;
        break;
    default:
        break;
    }
    return obey_links(loop);
}

static void on_command(struct peer_loop *loop)
{
    ssize_t size = recv(loop->command_fd, &loop->command, sizeof(loop->command), MSG_DONTWAIT);

    if (size < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (size < (ssize_t)sizeof(loop->command.head)) {
        loop->command.head = (struct peer_command){.order = PEER_DO_STOP, .nth = PEER_ALL};
        obey(loop);                                 /* the test is gone */
        return;
    }
    atomic_store(&loop->shared->answer, obey(loop));
    atomic_store(&loop->shared->answered, loop->command.head.ticket);
    loop->changed = true;
}

static void on_event(struct peer_loop *loop, const struct epoll_event *event)
{
    struct peer_link *link;

    if (event->data.u64 == LISTENER) {
        if (loop->listen_watched)
            accept_some(loop);
        return;
    }
    if (event->data.u64 == COMMANDS) {
        on_command(loop);
        return;
    }
    link = &loop->links[(uint32_t)event->data.u64];
    if (link->fd >= 0 && link->nth == event->data.u64 >> 32)
        peer_link_on_event(loop, link, event->events);
}

static int timeout_ms(struct peer_loop *loop)
{
    struct peer_link *first = peer_timer_first(loop);
    uint64_t wake_us = first ? first->wake_us : PEER_NEVER, left_ms;

    if (loop->accept_again_us && loop->accept_again_us < wake_us)
        wake_us = loop->accept_again_us;
    if (wake_us == PEER_NEVER)
        return -1;
    loop->now_us = peer_clock_us();
    if (wake_us <= loop->now_us)
        return 0;
    left_ms = (wake_us - loop->now_us + 999) / 1000;
    return left_ms > INT_MAX ? INT_MAX : (int)left_ms;
}

static void run_timers(struct peer_loop *loop)
{
    uint64_t until_us = loop->now_us;
    struct peer_link *first;

    if (loop->accept_again_us && loop->accept_again_us <= loop->now_us)
        loop->accept_again_us = 0;
    while ((first = peer_timer_first(loop)) && first->wake_us <= until_us)
        peer_link_on_timer(loop, first);
}

static void tell_waiters(struct peer_loop *loop)
{
    if (!loop->changed)
        return;
    loop->changed = false;
    atomic_fetch_add(&loop->shared->changes, 1);
    if (atomic_load(&loop->shared->waiters))
        peer_futex(&loop->shared->changes, FUTEX_WAKE, INT_MAX, PEER_NEVER);
}

static void begin(struct peer_loop *loop)
{
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = COMMANDS};
    enum peer_behaviour behaviour = loop->options.behave;

    loop->now_us = peer_clock_us();
    epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, loop->command_fd, &event);
    loop->options.behave = PEER_ECHO;
    change_behaviour(loop, behaviour);
    watch_listener(loop);
    atomic_store(&loop->shared->answered, 1);       /* the first ticket: we serve */
    loop->changed = true;
    tell_waiters(loop);
}

void peer_loop_run(struct peer_loop *loop)
{
    struct epoll_event events[256];
    int count, i;

    begin(loop);
    while (!loop->stopping) {
        count = epoll_wait(loop->epoll_fd, events, 256, timeout_ms(loop));
        loop->now_us = peer_clock_us();
        atomic_fetch_add(&loop->shared->counters[PEER_TURNS], 1);
        for (i = 0; i < count; i++)
            on_event(loop, &events[i]);
        run_timers(loop);
        watch_listener(loop);
        tell_waiters(loop);
    }
    close(loop->command_fd);
    close(loop->epoll_fd);
}

void peer_loop_count(struct peer_loop *loop, enum peer_counter counter, uint64_t more)
{
    atomic_fetch_add(&loop->shared->counters[counter], more);
    loop->changed = true;
}

struct peer_record *peer_record_of(struct peer_shared *shared, uint32_t nth)
{
    return nth < shared->record_connections ? &shared->records[nth] : NULL;
}

char *peer_record_bytes(struct peer_shared *shared, uint32_t nth)
{
    return (char *)&shared->records[shared->record_connections] + nth * shared->record_bytes;
}

uint64_t peer_clock_us(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

long peer_futex(_Atomic uint32_t *word, int operation, uint32_t value, uint64_t wait_us)
{
    struct timespec wait = {.tv_sec = (time_t)(wait_us / 1000000)};

    wait.tv_nsec = (long)(wait_us % 1000000) * 1000;
    return syscall(SYS_futex, word, operation, value, wait_us == PEER_NEVER ? NULL : &wait, NULL,
                   0);
}
