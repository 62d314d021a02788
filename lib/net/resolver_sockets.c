/* resolver_sockets.c: see resolver_sockets.h. c-ares reads errno, so these functions set it; who
 * calls c-ares puts the program's back.
 */
/* The functions of 1.18 work in all versions; newer headers warn of them. */
#define CARES_NO_DEPRECATED
#include "net/resolver_sockets.h"

#include <ares.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>

#include "base/arena.h"
#include "base/os.h"
#include "mux/mux.h"

struct slot {
    struct pl_arena_node node;
    _Atomic uint32_t birth;             /* odd while it is open: in the data of its events */
    /* its mux thread's; in a child of fork() the child's */
    struct pl_list link;                /* in sockets->open */
    struct pl_dns_sockets *sockets;
    uint64_t cookie;
    uint32_t wanted;                    /* events */
    int fd;                             /* -1: none */
};

static void prepare(void *element)
{
    ((struct slot *)element)->fd = -1;
}

static struct pl_arena slots = PL_ARENA_INIT(slots, struct slot, prepare);
static pthread_mutex_t births = PTHREAD_MUTEX_INITIALIZER; /* and deaths; whole at a fork */

static int fail(int error)
{
    errno = error;
    return -1;
}

static struct slot *slot_of(struct pl_dns_sockets *sockets, int fd)
{
    PL_LIST_EACH(link, &sockets->open) {
        struct slot *slot = pl_container(link, struct slot, link);

        if (slot->fd == fd)
            return slot;
    }
    return NULL;
}

static int read_cookie(int fd, uint64_t *cookie)
{
    socklen_t size = sizeof(*cookie);

    return pl_os->getsockopt(fd, SOL_SOCKET, SO_COOKIE, cookie, &size);
}

static bool is_ours(const struct slot *slot)
{
    uint64_t cookie = 0;

    return slot && !read_cookie(slot->fd, &cookie) && cookie == slot->cookie;
}

static uint64_t data_of(const struct slot *slot)
{
    return pl_mux_data(PL_WATCH_RESOLVER, slot->node.index, atomic_load(&slot->birth));
}

/* 0, or a negative errno. */
static int open_slot(struct slot *slot, int family, int type, int protocol)
{
    int fd = pl_os->socket(family, type | SOCK_NONBLOCK, protocol), error;

    if (fd < 0)
        return fd;
    error = read_cookie(fd, &slot->cookie);
    if (!error && pl_mux_add(slot->sockets->mux, fd, 0, data_of(slot)))
        error = -ENOSPC;
    if (error) {
        pl_os->close(fd);
        return error;
    }
    slot->fd = fd;
    return 0;
}

static bool is_shortage(int error)
{
    return error == EMFILE || error == ENFILE || error == ENOBUFS || error == ENOMEM ||
           error == ENOSPC;
}

static void give(struct slot *slot)
{
    atomic_fetch_add(&slot->birth, 1);
    pl_arena_give(&slots, slot);
}

static int open_socket(int family, int type, int protocol, void *user)
{
    struct pl_dns_sockets *sockets = user;
    struct slot *slot = pl_arena_take(&slots);
    int error = -ENOMEM;

    if (slot) {
        atomic_fetch_add(&slot->birth, 1);
        slot->sockets = sockets;
        slot->wanted = 0;
        pthread_mutex_lock(&births);
        error = open_slot(slot, family, type, protocol);
        pthread_mutex_unlock(&births);
    }
    if (!error) {
        pl_list_push_back(&sockets->open, &slot->link);
        return slot->fd;
    }
    if (slot)
        give(slot);
    if (is_shortage(-error)) {
        sockets->shortages++;
        sockets->shortage = -error;
    }
    return fail(-error);
}

static int close_socket(int fd, void *user)
{
    struct pl_dns_sockets *sockets = user;
    struct slot *slot = slot_of(sockets, fd);
    struct epoll_event none = { 0 };

    if (!slot)
        return fail(EBADF);
    pthread_mutex_lock(&births);
    if (is_ours(slot)) {
        pl_os->epoll_ctl(sockets->mux->epoll_fd, EPOLL_CTL_DEL, fd, &none);
        pl_os->close(fd);
    }
    slot->fd = -1;
    pthread_mutex_unlock(&births);
    pl_list_unlink(&slot->link);
    give(slot);
    return 0;
}

static int connect_socket(int fd, const struct sockaddr *address, ares_socklen_t size, void *user)
{
    int error = is_ours(slot_of(user, fd)) ? pl_os->connect(fd, address, size) : -EBADF;

    return error ? fail(-error) : 0;
}

static ares_ssize_t receive(int fd, void *buffer, size_t size, int flags, struct sockaddr *from,
                            ares_socklen_t *from_size, void *user)
{
    struct iovec into = { buffer, size };
    ssize_t got = -EBADF;

    if (is_ours(slot_of(user, fd)))
        got = pl_os->recvfrom(fd, &into, flags | MSG_DONTWAIT, from, from_size);
    return got < 0 ? fail((int)-got) : got;
}

static ares_ssize_t send_parts(int fd, const struct iovec *parts, int count, void *user)
{
    struct msghdr message = { .msg_iov = (struct iovec *)(uintptr_t)parts,
                              .msg_iovlen = (size_t)count };
    ssize_t sent = -EBADF;

    if (is_ours(slot_of(user, fd)))
        sent = pl_os->sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent == -ECONNREFUSED)          /* what was sent before was: sent again, it is told to all */
        sent = pl_os->sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    return sent < 0 ? fail((int)-sent) : sent;
}

void pl_dns_sockets_want(void *user, int fd, int readable, int writable)
{
    struct slot *slot = slot_of(user, fd);
    struct epoll_event event;

    if (!slot || !is_ours(slot))
        return;
    slot->wanted = (readable ? EPOLLIN : 0u) | (writable ? EPOLLOUT : 0u);
    event = (struct epoll_event){ .events = slot->wanted, .data = { .u64 = data_of(slot) } };
    pl_os->epoll_ctl(slot->sockets->mux->epoll_fd, EPOLL_CTL_MOD, fd, &event);
}

/* An error is told to whichever side c-ares waits for: it finds it there. */
static void on_watch(struct pool_mux *mux, uint32_t index, uint32_t birth, uint32_t events)
{
    struct slot *slot = pl_arena_at(&slots, index);
    bool is_error = events & (EPOLLERR | EPOLLHUP);

    if (!slot || atomic_load(&slot->birth) != birth || slot->fd < 0 || slot->sockets->mux != mux)
        return;
    slot->sockets->on_event(
        slot->sockets->owner, slot->sockets,
        (events & EPOLLIN) || (is_error && (slot->wanted & EPOLLIN)) ? slot->fd : ARES_SOCKET_BAD,
        (events & EPOLLOUT) || (is_error && (slot->wanted & EPOLLOUT)) ? slot->fd
                                                                       : ARES_SOCKET_BAD);
}

void pl_dns_sockets_init(struct pl_dns_sockets *sockets, struct pool_mux *mux)
{
    sockets->mux = mux;
    pl_list_init(&sockets->open);
    atomic_store(&mux->on_watch[PL_WATCH_RESOLVER], on_watch);
}

void pl_dns_sockets_use(struct pl_dns_sockets *sockets, struct ares_channeldata *channel)
{
    static const struct ares_socket_functions functions = {
        .asocket = open_socket,
        .aclose = close_socket,
        .aconnect = connect_socket,
        .arecvfrom = receive,
        .asendv = send_parts,
    };

    ares_set_socket_functions(channel, &functions, sockets);
}

/* ---- fork, and the end of the library */

void pl_dns_sockets_hold(void)
{
    pl_arena_hold(&slots);
    pthread_mutex_lock(&births);
}

void pl_dns_sockets_let_go(void)
{
    pthread_mutex_unlock(&births);
    pl_arena_let_go(&slots);
}

static void orphan(void *element, void *unused)
{
    struct slot *slot = element;

    (void)unused;
    if (slot->fd < 0)
        return;
    pl_os->close(slot->fd);
    slot->fd = -1;
    atomic_fetch_add(&slot->birth, 1);
}

void pl_dns_sockets_orphan(void)
{
    pl_arena_visit(&slots, orphan, NULL);
}

void pl_dns_sockets_library_end(void)
{
    pl_arena_release(&slots);
}
