/* world_socket.c: the calls on stream sockets, as Linux answers them. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>

#include "world/world_parts.h"

#define LATE 8 /* SO_RCVTIMEO comes late by an eighth of itself, and up to a jiffy */
#define JIFFY_NS (4 * PL_MS)
#define SYN_RETRIES_NS (127 * 1000 * PL_MS)

struct world_file *world_socket_at(int fd, bool changes, int *error)
{
    struct world *world = world_current;
    struct world_file *file = world_file_ours(world, fd, changes);

    world->calls++;
    world_note_call(world);
    *error = file ? -ENOTSOCK : -EBADF;
    return file && file->kind == FILE_SOCKET ? file : NULL;
}

static int take_error(struct world_socket *socket)
{
    int error = socket->error;

    socket->error = 0;
    return error;
}

static void free_port(struct world_file *file)
{
    if (file->socket.has_port)
        file->world->tcp_connected--;
    file->socket.has_port = false;
}

static void let_go(struct world_file *file)
{
    if (file->socket.link)
        file->socket.link->file = NULL;
    file->socket.link = NULL;
    free_port(file);
}

void world_socket_connected(struct world_file *file)
{
    file->socket.is_untold = file->socket.state == SOCKET_CONNECTING;
    file->socket.state = SOCKET_CONNECTED;
    file->socket.was_connected = true;
}

void world_socket_died(struct world_file *file, int error)
{
    file->socket.state = SOCKET_DEAD;
    file->socket.error = error;
    file->socket.is_shut_for_reading = file->socket.is_shut_for_writing = true;
    let_go(file);
}

void world_socket_release(struct world_file *file)
{
    struct world_socket *socket = &file->socket;
    const struct socket_option *linger = world_option_of(file, SOL_SOCKET, SO_LINGER);
    struct linger set = { 0 };
    struct world_link *link = socket->link;
    bool is_reset = world_bytes_size(&socket->inbox) > 0;

    if (linger)
        memcpy(&set, linger->value, sizeof(set));
    is_reset = is_reset || (set.l_onoff && !set.l_linger && socket->family != AF_UNIX);
    let_go(file);
    if (link && socket->state == SOCKET_CONNECTED && (is_reset || !socket->is_shut_for_writing))
        world_link_carry_end(link, is_reset);
}

uint32_t world_socket_events(const struct world_file *file)
{
    const struct world_socket *socket = &file->socket;
    uint32_t events = 0;

    if (socket->state == SOCKET_NEW || socket->state == SOCKET_DEAD ||
        (socket->is_shut_for_reading && socket->is_shut_for_writing))
        events |= EPOLLHUP;
    if (socket->is_shut_for_reading)
        events |= EPOLLIN | EPOLLRDNORM | EPOLLRDHUP;
    if (world_bytes_size(&socket->inbox))
        events |= EPOLLIN | EPOLLRDNORM;
    if (socket->state != SOCKET_CONNECTING &&
        (!socket->link || world_link_is_writable(socket->link)))
        events |= EPOLLOUT | EPOLLWRNORM;
    if (socket->error)
        events |= EPOLLERR;
    return events;
}

int door_socket(int family, int type, int protocol)
{
    struct world *world = world_current;
    struct world_file *file;
    int fd;

    world->calls++;
    if (family != AF_INET && family != AF_INET6 && family != AF_UNIX)
        return -EAFNOSUPPORT;
    if ((type & ~(SOCK_NONBLOCK | SOCK_CLOEXEC)) != SOCK_STREAM)
        return -ESOCKTNOSUPPORT;
    if (protocol && (family == AF_UNIX || protocol != IPPROTO_TCP))
        return -EPROTONOSUPPORT;
    fd = world_file_open(world, FILE_SOCKET, &file);
    if (fd < 0)
        return fd;
    file->socket.family = family;
    file->socket.is_nonblocking = type & SOCK_NONBLOCK;
    file->socket.local.ss_family = (sa_family_t)family;
    file->socket.local_size = family == AF_INET    ? sizeof(struct sockaddr_in)
                              : family == AF_INET6 ? sizeof(struct sockaddr_in6)
                                                   : sizeof(sa_family_t);
    return fd;
}

/* ---- connecting */

static bool is_connected(void *argument)
{
    return ((struct world_file *)argument)->socket.state != SOCKET_CONNECTING;
}

/* A connect that failed and said so leaves a tcp socket as good as new. */
static void start_over(struct world_socket *socket)
{
    socket->state = SOCKET_NEW;
    socket->is_shut_for_reading = socket->is_shut_for_writing = false;
}

static int wait_for_connect(struct world_file *file)
{
    int error;

    file->refs++;
    world_block(file->world, is_connected, file, PL_NEVER);
    error = file->socket.state == SOCKET_CONNECTED ? 0 : -take_error(&file->socket);
    file->socket.is_untold = false;
    if (error)
        start_over(&file->socket);
    world_file_unref(file);
    return error;
}

static void name_ends(struct world_file *file, const struct sockaddr *address, socklen_t size)
{
    struct world_socket *socket = &file->socket;
    struct sockaddr_in *local = (void *)&socket->local;
    struct sockaddr_in6 *local6 = (void *)&socket->local;

    memcpy(&socket->remote, address, size);
    socket->remote_size = size;
    if (socket->family == AF_INET) {
        if (!local->sin_addr.s_addr)
            local->sin_addr.s_addr = htonl(0x0afffffe); /* 10.255.255.254 */
        if (!local->sin_port)
            local->sin_port = htons(file->world->next_port++);
    } else {
        if (IN6_IS_ADDR_UNSPECIFIED(&local6->sin6_addr))
            local6->sin6_addr.s6_addr[0] = 0xfd, local6->sin6_addr.s6_addr[15] = 0xfe;
        if (!local6->sin6_port)
            local6->sin6_port = htons(file->world->next_port++);
    }
    if (file->world->next_port < 32768)
        file->world->next_port = 32768;
}

static void start_tcp(struct world_file *file, struct world_peer *peer)
{
    uint64_t way_there_ns = world_peer_latency_ns(peer); /* the way back is the packet's own */
    struct world_link *link = world_link_open(peer, file);

    file->socket.link = link;
    file->socket.state = SOCKET_CONNECTING;
    if (peer->is_gone) {
        world_link_answer_connect(link, ETIMEDOUT, SYN_RETRIES_NS);
        return;
    }
    switch (peer->options.behave) {
    case WORLD_REFUSE:
        world_link_answer_connect(link, ECONNREFUSED, way_there_ns);
        return;
    case WORLD_UNREACHABLE:
        world_link_answer_connect(link, EHOSTUNREACH, way_there_ns);
        return;
    case WORLD_BLACK_HOLE:
        world_link_answer_connect(link, ETIMEDOUT, SYN_RETRIES_NS);
        return;
    case WORLD_SELF:
        memcpy(&file->socket.local, &file->socket.remote, file->socket.remote_size);
        world_link_answer_connect(link, 0, 0);
        return;
    default:
        world_link_answer_connect(link, 0, way_there_ns);
    }
}

static int connect_tcp(struct world_file *file, const struct sockaddr *address, socklen_t size)
{
    struct world *world = file->world;

    if (size < file->socket.local_size)
        return -EINVAL;
    if (world->tcp_connected >= world->port_limit)
        return -EADDRNOTAVAIL;
    name_ends(file, address, file->socket.local_size);
    world->tcp_connected++;
    file->socket.has_port = true;
    start_tcp(file, world_peer_of(world, address, size));
    return file->socket.is_nonblocking ? -EINPROGRESS : wait_for_connect(file);
}

static int connect_unix(struct world_file *file, const struct sockaddr *address, socklen_t size)
{
    const struct sockaddr_un *name = (const void *)address;
    struct world_peer *peer = world_peer_of(file->world, address, size);

    if (peer == file->world->nobody)
        return name->sun_path[0] ? -ENOENT : -ECONNREFUSED;
    switch (peer->options.behave) {
    case WORLD_REFUSE:
        return -ECONNREFUSED;
    case WORLD_UNREACHABLE:
        return -EACCES;
    case WORLD_BLACK_HOLE:
        if (!file->socket.is_nonblocking)
            world_fail("connecting to a unix socket whose backlog is full blocks for ever");
        return -EAGAIN;
    default:
        break;
    }
    memcpy(&file->socket.remote, address, size);
    file->socket.remote_size = size;
    file->socket.link = world_link_open(peer, file);
    world_socket_connected(file);
    world_link_announce(file->socket.link);
    return 0;
}

/* The first connect after one that failed tells the error, and only the next one tries again. */
static int connect_after_failure(struct world_file *file)
{
    int error = take_error(&file->socket);

    start_over(&file->socket);
    return error ? -error : -ECONNABORTED;
}

int door_connect(int fd, const struct sockaddr *address, socklen_t size)
{
    int error;
    struct world_file *file = world_socket_at(fd, true, &error);

    if (!file)
        return error;
    if (file->socket.is_untold) {
        file->socket.is_untold = false;
        return 0;
    }
    if (file->is_foreign || file->socket.was_connected)
        return -EISCONN;
    if (file->socket.state == SOCKET_CONNECTING)
        return file->socket.is_nonblocking ? -EALREADY : wait_for_connect(file);
    if (file->socket.state == SOCKET_DEAD)
        return connect_after_failure(file);
    if (address->sa_family != file->socket.family)
        return file->socket.family == AF_UNIX ? -EINVAL : -EAFNOSUPPORT;
    return file->socket.family == AF_UNIX ? connect_unix(file, address, size)
                                          : connect_tcp(file, address, size);
}

static bool is_local(const struct sockaddr *address)
{
    const struct sockaddr_in *four = (const void *)address;
    const struct sockaddr_in6 *six = (const void *)address;
    uint32_t first;

    if (address->sa_family == AF_INET) {
        first = ntohl(four->sin_addr.s_addr) >> 24;
        return !four->sin_addr.s_addr || first == 127 || first == 10;
    }
    return IN6_IS_ADDR_UNSPECIFIED(&six->sin6_addr) || IN6_IS_ADDR_LOOPBACK(&six->sin6_addr) ||
           IN6_IS_ADDR_LINKLOCAL(&six->sin6_addr) || six->sin6_addr.s6_addr[0] == 0xfd;
}

int door_bind(int fd, const struct sockaddr *address, socklen_t size)
{
    int error;
    struct world_file *file = world_socket_at(fd, true, &error);

    if (!file)
        return error;
    if (file->socket.is_bound || file->socket.state != SOCKET_NEW)
        return -EINVAL;
    if (file->socket.family == AF_UNIX)
        world_fail("binding unix sockets is not part of this world");
    if (address->sa_family != file->socket.family || size < file->socket.local_size)
        return address->sa_family != file->socket.family ? -EAFNOSUPPORT : -EINVAL;
    if (!is_local(address))
        return -EADDRNOTAVAIL;
    memcpy(&file->socket.local, address, file->socket.local_size);
    file->socket.is_bound = true;
    return 0;
}

/* ---- bytes */

static bool may_wait(const struct world_file *file, int flags)
{
    return !file->socket.is_nonblocking && !(flags & MSG_DONTWAIT);
}

/* 0: it may be sent on, as far as there is room. */
static int sending_error(struct world_socket *socket)
{
    if (socket->family == AF_UNIX && socket->state == SOCKET_NEW)
        return -ENOTCONN;
    if (socket->family == AF_UNIX && socket->is_shut_for_writing)
        return -EPIPE;
    if (socket->error)
        return -take_error(socket);
    if (socket->state == SOCKET_NEW || socket->is_shut_for_writing)
        return -EPIPE;
    return socket->state == SOCKET_CONNECTING ? -EAGAIN : 0;
}

static ssize_t send_some(struct world_file *file, const char *data, size_t size)
{
    struct world_socket *socket = &file->socket;
    ssize_t error = sending_error(socket);
    size_t room;

    if (error)
        return error;
    room = world_link_room(socket->link);
    if (size > room)
        size = room;
    if (!size)
        return -EAGAIN;
    world_link_carry(socket->link, data, size);
    return (ssize_t)size;
}

static bool can_send(void *argument)
{
    return world_socket_events(argument) & (EPOLLOUT | EPOLLERR | EPOLLHUP);
}

static ssize_t send_all(struct world_file *file, const char *data, size_t size, int flags)
{
    size_t sent = 0;
    ssize_t now;

    file->refs++;
    do {
        now = size ? send_some(file, data + sent, size - sent) : 0;
        if (now > 0)
            sent += (size_t)now;
        else if (now != -EAGAIN || !may_wait(file, flags))
            break;
        else
            world_block(file->world, can_send, file, PL_NEVER);
    } while (sent < size);
    if (now == -EPIPE && !sent && !(flags & MSG_NOSIGNAL))
        world_fail("SIGPIPE: a send without MSG_NOSIGNAL on a connection that has ended");
    world_file_unref(file);
    return sent ? (ssize_t)sent : now;
}

ssize_t door_send(int fd, const void *data, size_t size, int flags)
{
    int error;
    struct world_file *file = world_socket_at(fd, false, &error);

    if (!file)
        return error;
    if (file->is_foreign) {
        file->world->violations += size ? size : 1;
        return (ssize_t)size;
    }
    return send_all(file, data, size, flags);
}

ssize_t door_sendmsg(int fd, const struct msghdr *message, int flags)
{
    struct world_bytes bytes = { 0 };
    ssize_t sent;

    for (size_t i = 0; i < message->msg_iovlen; i++)
        world_bytes_add(&bytes, message->msg_iov[i].iov_base, message->msg_iov[i].iov_len);
    sent = door_send(fd, bytes.data, bytes.end, flags);
    free(bytes.data);
    return sent;
}

static ssize_t receive_now(struct world_socket *socket, void *buffer, size_t size, int flags)
{
    if (world_bytes_size(&socket->inbox))
        return (ssize_t)world_bytes_take(&socket->inbox, buffer, size, flags & MSG_PEEK);
    if (socket->state == SOCKET_NEW && socket->family == AF_UNIX)
        return -EINVAL;
    if (socket->end_came && socket->family != AF_UNIX)
        return 0;
    if (socket->error)
        return -take_error(socket);
    if (socket->is_shut_for_reading)
        return 0;
    return socket->state == SOCKET_NEW ? -ENOTCONN : -EAGAIN;
}

static bool can_receive(void *argument)
{
    return world_socket_events(argument) & (EPOLLIN | EPOLLERR | EPOLLHUP);
}

ssize_t door_recv(int fd, void *buffer, size_t size, int flags)
{
    int error;
    struct world_file *file = world_socket_at(fd, !(flags & MSG_PEEK), &error);
    uint64_t wait_ns, deadline_ns;
    ssize_t got;

    if (!file)
        return error;
    if (!size)
        return 0;
    got = receive_now(&file->socket, buffer, size, flags);
    if (got != -EAGAIN || !may_wait(file, flags))
        return got;
    wait_ns = file->socket.receive_wait_ns;
    deadline_ns =
        wait_ns ? pl_after(file->world->now_ns, wait_ns + wait_ns / LATE + JIFFY_NS) : PL_NEVER;
    file->refs++;
    if (world_block(file->world, can_receive, file, deadline_ns))
        got = receive_now(&file->socket, buffer, size, flags);
    world_file_unref(file);
    return got;
}

/* Both ends have said that they end: tcp has let go of the connection. */
static bool is_over(const struct world_socket *socket)
{
    return socket->family != AF_UNIX && socket->end_came && socket->is_shut_for_writing;
}

int door_shutdown(int fd, int how)
{
    int error;
    struct world_file *file = world_socket_at(fd, true, &error);
    struct world_socket *socket;
    bool reading = how != SHUT_WR, writing = how != SHUT_RD, was_shut, was_over;

    if (!file)
        return error;
    socket = &file->socket;
    if (socket->state == SOCKET_CONNECTING) {
        socket->state = SOCKET_NEW;
        socket->error = ECONNRESET;
        let_go(file);
        return 0;
    }
    was_shut = socket->is_shut_for_writing;
    was_over = is_over(socket);
    socket->is_shut_for_reading = socket->is_shut_for_reading || reading;
    socket->is_shut_for_writing = socket->is_shut_for_writing || writing;
    if (socket->state != SOCKET_CONNECTED || was_over)
        return socket->family == AF_UNIX ? 0 : -ENOTCONN;
    if (writing && !was_shut && socket->link)
        world_link_carry_end(socket->link, false);
    return 0;
}

int door_set_nonblocking(int fd, bool nonblocking)
{
    int error;
    struct world_file *file = world_socket_at(fd, true, &error);

    if (!file)
        return error;
    file->socket.is_nonblocking = nonblocking;
    return 0;
}

int door_make_own(int fd)
{
    return door_set_nonblocking(fd, false);
}

/* There are no numbers below 3 here, so nothing ever has to be copied. */
int door_copy_above_stdio(int fd)
{
    (void)fd;
    return -EBADF;
}

static int answer_name(const struct sockaddr_storage *name, socklen_t name_size,
                       struct sockaddr *address, socklen_t *size)
{
    memcpy(address, name, *size < name_size ? *size : name_size);
    *size = name_size;
    return 0;
}

int door_getsockname(int fd, struct sockaddr *address, socklen_t *size)
{
    int error;
    struct world_file *file = world_socket_at(fd, false, &error);

    if (!file)
        return error;
    return answer_name(&file->socket.local, file->socket.local_size, address, size);
}

int door_getpeername(int fd, struct sockaddr *address, socklen_t *size)
{
    int error;
    struct world_file *file = world_socket_at(fd, false, &error);

    if (!file)
        return error;
    if (file->socket.state != SOCKET_CONNECTED || is_over(&file->socket))
        return -ENOTCONN;
    return answer_name(&file->socket.remote, file->socket.remote_size, address, size);
}
