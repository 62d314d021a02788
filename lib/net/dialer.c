/* dialer.c: socket, options, connect, and the wait for its end. A connection to ourselves (a dead
 * port of the ephemeral range can answer its own SYN) counts as refused.
 */
#include "net/dialer.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/ip.h>
#include <netinet/tcp.h>
#include <string.h>

#include "base/os.h"
#include "net/address.h"

#define RETRY_NS (10 * PL_MS)           /* a unix listener whose backlog is full tells nobody when
                                         * it has room again */
#define KEEPALIVE_S 60
#define KEEPALIVE_STEP_S 10
#define KEEPALIVE_PROBES 3

static void finish(struct pl_dial *dial, int error)
{
    pl_mux_timer_disarm(dial->mux, &dial->timer);
    dial->on_end(dial, error);
}

static int set_int(int fd, int level, int name, int value)
{
    return pl_os->setsockopt(fd, level, name, &value, sizeof(value));
}

/* What helps, but is no reason to fail. */
static void set_comforts(const struct pl_dial *dial, int fd)
{
    set_int(fd, IPPROTO_TCP, TCP_NODELAY, 1);
    set_int(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
    set_int(fd, IPPROTO_TCP, TCP_KEEPIDLE, KEEPALIVE_S);
    set_int(fd, IPPROTO_TCP, TCP_KEEPINTVL, KEEPALIVE_STEP_S);
    set_int(fd, IPPROTO_TCP, TCP_KEEPCNT, KEEPALIVE_PROBES);
    if (dial->user_timeout_ms)
        set_int(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, (int)dial->user_timeout_ms);
}

/* What the address asks for must be had. */
static int set_demands(struct pl_dial *dial, int fd, int family)
{
    const char *interface = pl_address_bind_interface(dial->address);
    struct sockaddr_storage local;
    socklen_t size = 0;
    int error = 0, dscp = dial->address->dscp;

    if (interface)
        error = pl_os->setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, interface,
                                  (socklen_t)strlen(interface) + 1);
    if (error == 0 && dscp != PL_DSCP_NONE)
        error = family == AF_INET6 ? set_int(fd, IPPROTO_IPV6, IPV6_TCLASS, dscp << 2)
                                   : set_int(fd, IPPROTO_IP, IP_TOS, dscp << 2);
    if (error == 0)
        error = pl_address_bind_sockaddr(dial->address, family, &local, &size);
    if (error == 0 && size && family != AF_UNIX) {
        set_int(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1);
        error = pl_os->bind(fd, (struct sockaddr *)&local, size);
        if (error == -EADDRNOTAVAIL)
            dial->reason = PL_REASON_BIND; /* no port is asked for: it cannot mean a shortage */
    }
    return -error;
}

/* Who is at the other end? 0: a peer; else a positive errno. */
static int look_at_peer(int fd)
{
    struct sockaddr_storage here = { 0 }, there = { 0 };
    socklen_t here_size = sizeof(here), there_size = sizeof(there);
    int error = pl_os->getpeername(fd, (struct sockaddr *)&there, &there_size);

    if (error)
        return -error;
    error = pl_os->getsockname(fd, (struct sockaddr *)&here, &here_size);
    if (error)
        return -error;
    if (here.ss_family != AF_INET && here.ss_family != AF_INET6)
        return 0;
    return here_size == there_size && memcmp(&here, &there, here_size) == 0 ? ECONNREFUSED : 0;
}

static int watch(struct pl_dial *dial, int fd)
{
    struct pl_connection *connection = dial->connection;
    uint64_t data =
        pl_mux_data(PL_WATCH_CONNECTION, connection->node.index, pl_get(connection->birth));

    return pl_mux_add(dial->mux, fd, EPOLLOUT | EPOLLONESHOT, data) ? ENOSPC : 0;
}

/* Of a link-local host the kernel has to know the link, by a zone or by an interface of bind=. */
static bool lacks_zone(const struct sockaddr_storage *peer)
{
    const struct sockaddr_in6 *ipv6 = (const struct sockaddr_in6 *)peer;

    return ipv6->sin6_family == AF_INET6 && !ipv6->sin6_scope_id &&
           IN6_IS_ADDR_LINKLOCAL(&ipv6->sin6_addr);
}

/* 0: connected or on the way; else a positive errno. */
static int begin_connect(struct pl_dial *dial, int fd)
{
    struct sockaddr_storage peer;
    socklen_t size;
    int error = pl_address_sockaddr(dial->address, &peer, &size);

    if (!error)
        error = pl_os->connect(fd, (struct sockaddr *)&peer, size);
    if (error == -EAGAIN && peer.ss_family == AF_UNIX) {
        uint64_t again_ns = pl_after(pl_os->now_ns(), RETRY_NS);

        pl_mux_timer_arm(dial->mux, &dial->timer, pl_earlier(again_ns, dial->deadline_ns));
        return 0;
    }
    if (error == -EINVAL && lacks_zone(&peer))
        dial->reason = PL_REASON_ZONE;
    if (error && error != -EINPROGRESS && error != -EINTR)
        return -error;
    pl_mux_timer_arm(dial->mux, &dial->timer, dial->deadline_ns);
    /* Watched only now: a socket that never began to connect would report a hang-up. Connected at
     * once is told by the same event as connected later: one way to the end, never on this
     * stack. */
    return watch(dial, fd);
}

static void on_timer(void *user)
{
    struct pl_dial *dial = user;
    int error;

    if (pl_os->now_ns() >= dial->deadline_ns) {
        dial->reason = PL_REASON_DEADLINE;
        finish(dial, ETIMEDOUT);
        return;
    }
    /* Somebody else's socket may block in connect. */
    error =
        pl_connection_is_ours(dial->connection) ? begin_connect(dial, dial->connection->fd) : EBADF;
    if (error)
        finish(dial, error);
}

static void drop_socket(struct pl_dial *dial)
{
    pl_mux_timer_disarm(dial->mux, &dial->timer);
    pl_connection_close_fd(dial->connection, dial->mux);
}

bool pl_dial_open(struct pl_dial *dial)
{
    return pl_mux_timer_open(dial->mux, &dial->timer, on_timer, dial);
}

void pl_dial_close(struct pl_dial *dial)
{
    pl_mux_timer_close(dial->mux, &dial->timer);
}

static int family_of(const struct pl_dial *dial, int *family)
{
    struct sockaddr_storage peer;
    socklen_t size;
    int error = pl_address_sockaddr(dial->address, &peer, &size);

    *family = error ? AF_UNSPEC : peer.ss_family;
    return -error;
}

/* The program sees the socket, and may have done to it what it must not: connecting another one, or
 * one that blocks, would be worse than failing. 0, or a positive errno. */
static int show(struct pl_dial *dial, int fd)
{
    dial->answer = dial->on_socket(fd, pool_address_text(dial->address), dial->user);
    if (dial->mux->is_forked)
        return ECANCELED;               /* the hook did, and this is the child */
    if (dial->answer) {
        dial->reason = PL_REASON_SOCKET;
        return EPERM;
    }
    if (!pl_connection_is_ours(dial->connection))
        return EBADF;
    return -pl_os->set_nonblocking(fd, true);
}

int pl_dial_start(struct pl_dial *dial)
{
    struct pl_connection *connection = dial->connection;
    int family, fd, error = family_of(dial, &family);

    dial->reason = PL_REASON_NONE;
    if (!error)
        error = pl_connection_open_socket(connection, family);
    if (error)
        return error;
    fd = connection->fd;
    if (family != AF_UNIX) {
        set_comforts(dial, fd);
        error = set_demands(dial, fd, family);
    }
    if (!error && dial->on_socket)
        error = show(dial, fd);
    if (dial->mux->is_forked)
        return error;
    if (!error)
        error = begin_connect(dial, fd);
    if (error)
        drop_socket(dial);
    return error;
}

void pl_dial_on_event(struct pl_dial *dial, uint32_t events)
{
    int error = 0;
    socklen_t size = sizeof(error);
    int fd = dial->connection->fd;

    (void)events;
    if (!pl_connection_is_ours(dial->connection)) {
        finish(dial, EBADF);
        return;
    }
    if (pl_os->getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size))
        error = EBADF;
    if (!error)
        error = look_at_peer(fd);
    finish(dial, error);
}
