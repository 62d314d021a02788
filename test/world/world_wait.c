/* world_wait.c: poll, epoll, eventfd, timerfd and signalfd. Readiness is never stored: it is looked
 * up when somebody asks. */
#include <errno.h>
#include <stdlib.h>

#include "world/world_parts.h"

uint64_t world_next_timer(const struct world *world)
{
    uint64_t next_ns = PL_NEVER;

    PL_LIST_EACH(link, &world->files) {
        const struct world_file *file = pl_container(link, struct world_file, all_link);

        if (file->kind == FILE_TIMER && file->deadline_ns > world->now_ns &&
            file->deadline_ns < next_ns)
            next_ns = file->deadline_ns;
    }
    return next_ns;
}

static uint32_t ready_events(struct world_file *file, uint32_t wanted)
{
    return world_events_of(file) & (wanted | EPOLLERR | EPOLLHUP);
}

static bool is_ready(const struct watch *watch)
{
    bool is_old = watch->events & EPOLLET && watch->told == watch->file->edges;

    return watch->is_armed && !is_old && ready_events(watch->file, watch->events);
}

bool world_epoll_is_ready(struct world_file *epoll)
{
    PL_LIST_EACH(link, &epoll->watches) {
        if (is_ready(pl_container(link, struct watch, epoll_link)))
            return true;
    }
    return false;
}

/* 0: none */
static int pending_signal(const struct world_file *file)
{
    for (int signo = 1; signo < 64; signo++) {
        if (file->world->signals >> signo & 1 && sigismember(&file->signals, signo) == 1)
            return signo;
    }
    return 0;
}

uint32_t world_events_of(struct world_file *file)
{
    switch (file->kind) {
    case FILE_SOCKET:
        return world_socket_events(file);
    case FILE_EPOLL:
        return world_epoll_is_ready(file) ? EPOLLIN | EPOLLRDNORM : 0;
    case FILE_COUNTER:
        return EPOLLOUT | (file->count ? EPOLLIN : 0);
    case FILE_SIGNALS:
        return pending_signal(file) ? EPOLLIN : 0;
    case FILE_TIMER:
        break;
    }
    return file->deadline_ns <= file->world->now_ns ? EPOLLIN : 0;
}

/* ---- epoll */

static void forget_watch(struct watch *watch)
{
    pl_list_unlink(&watch->file_link);
    pl_list_unlink(&watch->epoll_link);
    free(watch);
}

void world_forget_watches(struct world_file *file)
{
    PL_LIST_EACH(link, &file->watchers)
        forget_watch(pl_container(link, struct watch, file_link));
    PL_LIST_EACH(own, &file->watches)
        forget_watch(pl_container(own, struct watch, epoll_link));
}

static struct watch *find_watch(struct world_file *epoll, const struct world_file *file, int fd)
{
    PL_LIST_EACH(link, &epoll->watches) {
        struct watch *watch = pl_container(link, struct watch, epoll_link);

        if (watch->file == file && watch->fd == fd)
            return watch;
    }
    return NULL;
}

static void set_watch(struct watch *watch, const struct epoll_event *event)
{
    if (event->events & EPOLLET && watch->file->kind != FILE_COUNTER)
        world_fail("edge-triggered watches are not part of this world, but for counters");
    watch->told = watch->file->edges - 1; /* what was there before is told once */
    watch->events = event->events;
    watch->data = event->data.u64;
    watch->is_armed = true;
}

static int add_watch(struct world_file *epoll, struct world_file *file, int fd,
                     const struct epoll_event *event)
{
    struct watch *watch = world_memory(sizeof(*watch));

    watch->file = file;
    watch->fd = fd;
    pl_list_push_back(&epoll->watches, &watch->epoll_link);
    pl_list_push_back(&file->watchers, &watch->file_link);
    set_watch(watch, event);
    if (file->is_foreign)
        epoll->world->violations++;
    return 0;
}

int door_epoll_create(void)
{
    struct world_file *file;

    world_current->calls++;
    return world_file_open(world_current, FILE_EPOLL, &file);
}

int door_epoll_ctl(int epoll_fd, int operation, int fd, struct epoll_event *event)
{
    struct world *world = world_current;
    struct world_file *epoll = world_file_at(world, epoll_fd), *file = world_file_at(world, fd);
    struct watch *watch;

    world->calls++;
    world_note_call(world);
    if (!epoll || !file)
        return -EBADF;
    if (epoll->kind != FILE_EPOLL || epoll == file)
        return -EINVAL;
    watch = find_watch(epoll, file, fd);
    switch (operation) {
    case EPOLL_CTL_ADD:
        return watch ? -EEXIST : add_watch(epoll, file, fd, event);
    case EPOLL_CTL_MOD:
        if (watch)
            set_watch(watch, event);
        return watch ? 0 : -ENOENT;
    case EPOLL_CTL_DEL:
        if (watch)
            forget_watch(watch);
        return watch ? 0 : -ENOENT;
    default:
        return -EINVAL;
    }
}

static int collect(struct world_file *epoll, struct epoll_event *events, int count)
{
    int collected = 0;

    PL_LIST_EACH(link, &epoll->watches) {
        struct watch *watch = pl_container(link, struct watch, epoll_link);

        if (collected == count)
            break;
        if (!is_ready(watch))
            continue;
        watch->told = watch->file->edges;
        events[collected].events = ready_events(watch->file, watch->events);
        events[collected++].data.u64 = watch->data;
        if (watch->events & EPOLLONESHOT)
            watch->is_armed = false;
    }
    return collected;
}

/* Those that were told go to the end, so that a full batch starves nobody. */
static void rotate(struct world_file *epoll, int told)
{
    while (told-- > 0 && !pl_list_is_empty(&epoll->watches)) {
        struct pl_list *link = pl_list_pop_front(&epoll->watches);

        pl_list_push_back(&epoll->watches, link);
    }
}

static bool epoll_is_ready(void *argument)
{
    return world_epoll_is_ready(argument);
}

/* A thread of the library's own does not wait in it: its step ends empty-handed, and the next one
 * comes when there is something. */
static void wait_for_epoll(struct world *world, struct world_file *epoll, int timeout_ms)
{
    uint64_t deadline_ns = timeout_ms < 0 ? PL_NEVER : world->now_ns + (uint64_t)timeout_ms * PL_MS;

    if (!world->running) {
        world_block(world, epoll_is_ready, epoll, deadline_ns);
    } else if (timeout_ms && !world->running->waits_on) {
        world->running->waits_on = epoll;
        epoll->refs++;
    }
}

int door_epoll_wait(int epoll_fd, struct epoll_event *events, int count, int timeout_ms)
{
    struct world *world = world_current;
    struct world_file *epoll = world_file_at(world, epoll_fd);
    int collected;

    world->calls++;
    world_note_call(world);
    if (!epoll)
        return -EBADF;
    if (epoll->kind != FILE_EPOLL || count <= 0)
        return -EINVAL;
    epoll->refs++;
    wait_for_epoll(world, epoll, timeout_ms);
    collected = collect(epoll, events, count);
    if (collected == count)
        rotate(epoll, collected);
    world_file_unref(epoll);
    return collected;
}

/* ---- poll */

static bool look(struct pollfd *polled, nfds_t count)
{
    bool found = false;

    for (nfds_t i = 0; i < count; i++) {
        struct world_file *file = world_file_at(world_current, polled[i].fd);

        polled[i].revents = 0;
        if (polled[i].fd >= 0 && !file)
            polled[i].revents = POLLNVAL;
        if (file)
            polled[i].revents =
                (short)ready_events(file, (uint32_t)(unsigned short)polled[i].events);
        found = found || polled[i].revents;
    }
    return found;
}

struct poll_wait {
    struct world_file **files;
    struct pollfd *polled;
    nfds_t count;
};

/* Waiting goes on with the files that it began with, whatever becomes of their numbers. */
static bool is_any_ready(void *argument)
{
    const struct poll_wait *wait = argument;
    bool found = false;

    for (nfds_t i = 0; i < wait->count; i++) {
        struct world_file *file = wait->files[i];

        if (file)
            wait->polled[i].revents =
                (short)ready_events(file, (uint32_t)(unsigned short)wait->polled[i].events);
        found = found || wait->polled[i].revents;
    }
    return found;
}

int door_poll_until(struct pollfd *polled, nfds_t count, uint64_t deadline_ns)
{
    struct world *world = world_current;
    struct poll_wait wait = { world_memory((count + 1) * sizeof(*wait.files)), polled, count };
    int ready = 0;

    world->calls++;
    world_note_call(world);
    for (nfds_t i = 0; i < count; i++) {
        wait.files[i] = world_file_at(world, polled[i].fd);
        if (wait.files[i])
            wait.files[i]->refs++;
    }
    if (!look(polled, count))
        world_block(world, is_any_ready, &wait, deadline_ns);
    for (nfds_t i = 0; i < count; i++) {
        ready += polled[i].revents != 0;
        if (wait.files[i])
            world_file_unref(wait.files[i]);
    }
    free(wait.files);
    return ready;
}

/* ---- eventfd, timerfd and signalfd */

static struct world_file *file_of_kind(int fd, enum file_kind kind, int *error)
{
    struct world_file *file = world_file_ours(world_current, fd, true);

    world_current->calls++;
    world_note_call(world_current);
    *error = file ? -EINVAL : -EBADF;
    return file && file->kind == kind ? file : NULL;
}

int door_eventfd_create(void)
{
    struct world_file *file;

    world_current->calls++;
    return world_file_open(world_current, FILE_COUNTER, &file);
}

int door_eventfd_add(int fd)
{
    int error;
    struct world_file *file = file_of_kind(fd, FILE_COUNTER, &error);

    if (!file)
        return error;
    file->count++;
    file->edges++;
    return sizeof(file->count);
}

int door_timerfd_create(void)
{
    struct world_file *file;

    world_current->calls++;
    return world_file_open(world_current, FILE_TIMER, &file);
}

int door_timerfd_arm(int fd, uint64_t deadline_ns)
{
    int error;
    struct world_file *file = file_of_kind(fd, FILE_TIMER, &error);

    if (!file)
        return error;
    file->deadline_ns = deadline_ns;
    return 0;
}

int door_signalfd_set(int fd, const sigset_t *signals)
{
    struct world_file *file;
    int error = fd;

    if (fd < 0) {
        world_current->calls++;
        error = fd = world_file_open(world_current, FILE_SIGNALS, &file);
        if (fd < 0)
            return fd;
    } else {
        file = file_of_kind(fd, FILE_SIGNALS, &error);
    }
    if (!file)
        return error;
    file->signals = *signals;
    return fd;
}

int door_signalfd_read(int fd)
{
    int error, signo;
    struct world_file *file = file_of_kind(fd, FILE_SIGNALS, &error);

    if (!file)
        return error;
    signo = pending_signal(file);
    if (!signo)
        return -EAGAIN;
    file->world->signals &= ~(UINT64_C(1) << signo);
    return signo;
}

void door_signal_block(int signo)
{
    (void)signo;
    world_current->calls++;
}

void world_signal(struct world *world, int signo)
{
    world->signals |= UINT64_C(1) << signo;
}
