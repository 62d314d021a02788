/* world_door.c: the table that the library calls, and what needs no network: clock, dice, heap,
 * threads. */
#include <errno.h>
#include <malloc.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "world/world_parts.h"

#define COARSE_STEP_NS (4 * PL_MS)

static unsigned door_interface_index(const char *name)
{
    return !strcmp(name, "lo") ? 1 : !strcmp(name, "eth0") ? 2 : 0;
}

static uint64_t door_now_ns(void)
{
    world_note_call(world_current);
    return world_current->now_ns;
}

static uint64_t door_coarse_ns(void)
{
    return world_current->now_ns - world_current->now_ns % COARSE_STEP_NS;
}

static uint64_t door_coarse_step_ns(void)
{
    return COARSE_STEP_NS;
}

static int door_random(void *buffer, size_t size)
{
    unsigned char *bytes = buffer;

    world_current->calls++;
    for (size_t i = 0; i < size; i++)
        bytes[i] = (unsigned char)world_dice(world_current);
    return (int)size;
}

/* ---- memory; what is handed out and taken back is full of junk, so nobody can rely on it */

static void count_in(void *memory)
{
    if (!memory)
        world_fail("the machine has no memory left");
    world_current->allocations++;
    world_current->allocated_bytes += malloc_usable_size(memory);
}

static void count_out(void *memory)
{
    world_current->allocations--;
    world_current->allocated_bytes -= malloc_usable_size(memory);
}

static void *door_malloc(size_t size)
{
    void *memory = malloc(size ? size : 1);

    count_in(memory);
    return memset(memory, 0xa5, size);
}

static void *door_realloc(void *memory, size_t size)
{
    if (!memory)
        return door_malloc(size);
    count_out(memory);
    memory = realloc(memory, size ? size : 1);
    count_in(memory);
    return memory;
}

static void door_free(void *memory)
{
    if (!memory)
        return;
    count_out(memory);
    memset(memory, 0xdd, malloc_usable_size(memory));
    free(memory);
}

static void *door_map(size_t size)
{
    void *pages = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (pages == MAP_FAILED)
        world_fail("the machine has no memory left");
    world_current->maps++;
    return pages;
}

static void door_unmap(void *pages, size_t size)
{
    munmap(pages, size);
    if (world_current)
        world_current->maps--;
}

/* ---- threads */

static int door_thread_start(pthread_t *thread, pl_step_fn *step, void *argument)
{
    world_current->calls++;
    return world_start_task(world_current, thread, step, argument);
}

static void door_thread_join(pthread_t thread)
{
    world_join_task(world_current, thread);
}

static void door_thread_detach(pthread_t thread)
{
    (void)thread; /* its steps go on until it is over, joined or not */
}

/* One thing happens, and whoever waits looks again: sleepers may wake without a reason. */
static int door_sleep_until(_Atomic uint32_t *word, uint32_t expected, uint64_t deadline_ns)
{
    struct world *world = world_current;

    world_note_call(world);
    if (world->running)
        world_fail("a thread of the library's own waits inside its step");
    if (atomic_load(word) != expected)
        return -EAGAIN;
    if (world->now_ns >= deadline_ns)
        return -ETIMEDOUT;
    world_turn(world, deadline_ns);
    return 0;
}

static void door_wake(_Atomic uint32_t *word)
{
    (void)word;
    world_note_call(world_current);
}

static int door_wait_until(pthread_cond_t *condition, pthread_mutex_t *mutex, uint64_t deadline_ns)
{
    _Atomic uint32_t word = 0;
    int result;

    (void)condition;
    pthread_mutex_unlock(mutex);
    result = door_sleep_until(&word, 0, deadline_ns);
    pthread_mutex_lock(mutex);
    return result;
}

/* There is no file in the world. */
static int door_file_stamp(const char *path, struct pl_file_stamp *stamp)
{
    (void)path, (void)stamp;
    world_current->calls++;
    return -ENOENT;
}

/* Nor a datagram: only a stream of bytes, which says nothing of where it is from. */
static ssize_t door_recvfrom(int fd, const struct iovec *into, int flags, struct sockaddr *from,
                             socklen_t *from_size)
{
    ssize_t got = door_recv(fd, into->iov_base, into->iov_len, flags);

    (void)from;
    if (got >= 0 && from_size)
        *from_size = 0;
    return got;
}

static uint32_t door_processors(void)
{
    return 1;
}

static uint64_t door_descriptor_limit(void)
{
    return world_current->number_limit;
}

static int door_free_descriptors(void)
{
    struct world *world = world_current;
    int count = 0;

    world->calls++;
    for (unsigned fd = WORLD_FIRST_FD; fd < world->number_limit; fd++)
        count += !world->numbers[fd];
    return count ? count : -EMFILE;
}

/* There are no files: what is told to a library in a world is told in memory. */
static ssize_t door_read_file(const char *path, size_t most, char **text)
{
    (void)path;
    (void)most;
    *text = NULL;
    world_current->calls++;
    return -ENOENT;
}

static int door_list_directory(const char *path, pl_entry_fn *on_entry, void *user)
{
    (void)path;
    (void)on_entry;
    (void)user;
    world_current->calls++;
    return -ENOENT;
}

static const struct pl_os world_table = {
    .socket = door_socket,
    .connect = door_connect,
    .bind = door_bind,
    .send = door_send,
    .sendmsg = door_sendmsg,
    .recv = door_recv,
    .recvfrom = door_recvfrom,
    .shutdown = door_shutdown,
    .close = door_close,
    .setsockopt = door_setsockopt,
    .getsockopt = door_getsockopt,
    .getsockname = door_getsockname,
    .getpeername = door_getpeername,
    .set_nonblocking = door_set_nonblocking,
    .make_own = door_make_own,
    .copy_above_stdio = door_copy_above_stdio,
    .interface_index = door_interface_index,
    .poll_until = door_poll_until,
    .epoll_create = door_epoll_create,
    .epoll_ctl = door_epoll_ctl,
    .epoll_wait = door_epoll_wait,
    .eventfd_create = door_eventfd_create,
    .eventfd_add = door_eventfd_add,
    .timerfd_create = door_timerfd_create,
    .timerfd_arm = door_timerfd_arm,
    .signalfd_set = door_signalfd_set,
    .signalfd_read = door_signalfd_read,
    .signal_block = door_signal_block,
    .now_ns = door_now_ns,
    .coarse_ns = door_coarse_ns,
    .coarse_step_ns = door_coarse_step_ns,
    .random = door_random,
    .malloc = door_malloc,
    .realloc = door_realloc,
    .free = door_free,
    .map = door_map,
    .unmap = door_unmap,
    .thread_start = door_thread_start,
    .thread_join = door_thread_join,
    .thread_detach = door_thread_detach,
    .wait_until = door_wait_until,
    .sleep_until = door_sleep_until,
    .wake = door_wake,
    .file_stamp = door_file_stamp,
    .processors = door_processors,
    .descriptor_limit = door_descriptor_limit,
    .free_descriptors = door_free_descriptors,
    .read_file = door_read_file,
    .list_directory = door_list_directory,
};

const struct pl_os *world_os(struct world *world)
{
    (void)world;
    return &world_table;
}
