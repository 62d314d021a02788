/* peer_start.c: the birth and the end of a loopback peer: its memory, its descriptors, its
 * thread or process.
 *
 * The peer's memory is mapped before its thread or process begins; afterwards nothing of it is
 * touched from the test's side but the shared block. A child allocates nothing and runs none of
 * the test's signal handlers. */
#include "support/peer.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "support/peer_parts.h"

static void *map(size_t size, int flags)
{
    void *memory =
        mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_ANONYMOUS | MAP_NORESERVE | flags, -1, 0);

    return memory == MAP_FAILED ? NULL : memory;
}

static struct peer_options with_defaults(const struct peer *peer, const struct peer_options *given)
{
    struct peer_options options = *given;

    options.push = peer->push;
    options.reply = peer->reply;
    if (!options.family)
        options.family = AF_INET;
    if (!options.backlog)
        options.backlog = SOMAXCONN;
    if (!options.max_connections)
        options.max_connections = options.own_process ? 20000 : 4096;
    if (!options.queue_bytes)
        options.queue_bytes = 65536;
    if (!options.record_connections)
        options.record_connections = 256;
    if (!options.record_bytes)
        options.record_bytes = 1024;
    return options;
}

/* What would never fit into the queue would never be sent. */
static bool is_possible(const struct peer_options *options)
{
    size_t half = options->queue_bytes / 2;

    return half >= 64 && strlen(options->push) <= half && strlen(options->reply) <= half &&
           options->extra_bytes <= half && options->reply_bytes <= half;
}

static bool map_shared(struct peer *peer, const struct peer_options *options)
{
    size_t each = sizeof(struct peer_record) + options->record_bytes;

    peer->shared_size = sizeof(*peer->shared) + options->record_connections * each;
    peer->shared = map(peer->shared_size, MAP_SHARED);
    if (!peer->shared)
        return false;
    peer->shared->record_connections = options->record_connections;
    peer->shared->record_bytes = options->record_bytes;
    return true;
}

static bool map_loop(struct peer *peer, const struct peer_options *options)
{
    size_t slots = options->max_connections, head = (sizeof(struct peer_loop) + 63) / 64 * 64;
    size_t numbers = (2 * slots + 1) * sizeof(uint32_t);
    size_t links = slots * sizeof(struct peer_link);
    struct peer_loop *loop;
    char *memory;

    peer->loop_size = head + links + numbers + slots * (PEER_LINE_BYTES + options->queue_bytes);
    memory = map(peer->loop_size, MAP_PRIVATE);
    if (!memory)
        return false;
    loop = peer->loop = (struct peer_loop *)(void *)memory;
    loop->options = *options;
    loop->shared = peer->shared;
    loop->push_length = strlen(options->push);
    loop->reply_length = strlen(options->reply);
    loop->random = options->seed ? options->seed : UINT64_C(0x9e3779b97f4a7c15);
    loop->slots = options->max_connections;
    loop->links = (struct peer_link *)(void *)(memory + head);
    loop->free_slots = (uint32_t *)(void *)(memory + head + links);
    loop->heap = loop->free_slots + slots;
    loop->areas = memory + head + links + numbers;
    loop->epoll_fd = loop->listen_fd = loop->command_fd = -1;
    return true;
}

static int above_two(int low)
{
    int fd;

    if (low < 0 || low > 2)
        return low;
    fd = fcntl(low, F_DUPFD_CLOEXEC, 3);
    close(low);
    return fd;
}

static bool open_descriptors(struct peer *peer, const struct peer_options *options)
{
    int pair[2];

    if (peer_place_find(&peer->place, options) < 0)
        return false;
    peer->loop->listen_fd = peer_place_listen(&peer->place, options->backlog);
    if (peer->loop->listen_fd < 0)
        return false;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
        return false;
    peer->command_fd = above_two(pair[0]);
    peer->loop->command_fd = above_two(pair[1]);
    peer->loop->place = peer->place;
    peer_place_text(&peer->place, peer->address, sizeof(peer->address));
    return peer->command_fd >= 0 && peer->loop->command_fd >= 0;
}

static void *thread_main(void *argument)
{
    peer_loop_run(argument);
    return NULL;
}

static bool start_thread(struct peer *peer)
{
    sigset_t all, before;
    int error;

    peer->loop->epoll_fd = above_two(epoll_create1(EPOLL_CLOEXEC));
    if (peer->loop->epoll_fd < 0)
        return false;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);    /* signals are for the test's threads */
    error = pthread_create(&peer->thread, NULL, thread_main, peer->loop);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    peer->has_thread = error == 0;
    errno = error;
    return peer->has_thread;
}

static void close_others(int one, int other)
{
    unsigned low = (unsigned)(one < other ? one : other),
             high = (unsigned)(one < other ? other : one);

    if (low > 3)
        close_range(3, low - 1, 0);
    if (high > low + 1)
        close_range(low + 1, high - 1, 0);
    close_range(high + 1, ~0U, 0);
}

static _Noreturn void child_main(struct peer_loop *loop, pid_t parent)
{
    struct rlimit limit;

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(1);
    prctl(PR_SET_NAME, "loopback-peer");
    close_others(loop->listen_fd, loop->command_fd);
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        if (loop->options.max_descriptors && loop->options.max_descriptors < limit.rlim_max)
            limit.rlim_cur = loop->options.max_descriptors;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
    loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (loop->epoll_fd < 0)
        _exit(2);
    peer_loop_run(loop);
    for (;;)
        pause();    /* until peer_stop() kills: exiting, valgrind would report what is inherited */
}

static void drop_loop(struct peer *peer)
{
    int fds[3] = { peer->loop->listen_fd, peer->loop->command_fd, peer->loop->epoll_fd },
        error = errno;
    unsigned i;

    for (i = 0; i < 3; i++)
        if (fds[i] >= 0)
            close(fds[i]);
    munmap(peer->loop, peer->loop_size);
    peer->loop = NULL;
    errno = error;
}

static bool start_process(struct peer *peer)
{
    pid_t parent = getpid(), pid;
    sigset_t all, before;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);    /* a child must not run the test's handlers */
    pid = fork();
    if (pid == 0)
        child_main(peer->loop, parent);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (pid < 0)
        return false;
    peer->pid = pid;
    drop_loop(peer);
    return true;
}

static void forget(struct peer *peer)
{
    int error = errno;

    if (peer->loop && !peer->has_thread)
        drop_loop(peer);
    else if (peer->loop)
        munmap(peer->loop, peer->loop_size);
    if (peer->command_fd >= 0)
        close(peer->command_fd);
    if (peer->address[0])
        peer_place_leave(&peer->place);
    if (peer->shared)
        munmap(peer->shared, peer->shared_size);
    pthread_mutex_destroy(&peer->lock);
    free(peer->push);
    free(peer->reply);
    free(peer);
    errno = error;
}

static void end_process(struct peer *peer)
{
    if (atomic_load(&peer->is_gone))
        return;
    kill(peer->pid, SIGKILL);
    while (waitpid(peer->pid, NULL, 0) < 0 && errno == EINTR)
        continue;
}

struct peer *peer_start(const struct peer_options *given)
{
    struct peer *peer = calloc(1, sizeof(*peer));
    struct peer_options options;

    if (!peer)
        return NULL;
    pthread_mutex_init(&peer->lock, NULL);
    peer->command_fd = -1;
    peer->ticket = 1;
    peer->push = strdup(given->push ? given->push : "push\n");
    peer->reply = strdup(given->reply ? given->reply : "reply\n");
    if (!peer->push || !peer->reply)
        goto no_peer;
    options = with_defaults(peer, given);
    errno = EINVAL;
    if (!is_possible(&options))
        goto no_peer;
    if (!map_shared(peer, &options) || !map_loop(peer, &options) ||
        !open_descriptors(peer, &options))
        goto no_peer;
    if (!(options.own_process ? start_process(peer) : start_thread(peer)))
        goto no_peer;
    if (peer_wait_ticket(peer, 1))
        return peer;
    peer_stop(peer);
    errno = ECHILD;
    return NULL;

no_peer:
    forget(peer);
    return NULL;
}

void peer_stop(struct peer *peer)
{
    if (!peer)
        return;
    peer_stop_serving(peer);
    if (peer->has_thread)
        pthread_join(peer->thread, NULL);
    else
        end_process(peer);
    forget(peer);
}
