/* attempt.c: socket, options, connect, the answer of the kernel, and the handshake. A connection to
 * ourselves (a dead port of the ephemeral range can answer its own SYN) counts as refused.
 */
#include "net/attempt.h"

#include <errno.h>
#include <netinet/ip.h>
#include <netinet/tcp.h>
#include <string.h>

#include "base/os.h"
#include "net/address.h"
#include "net/tls.h"

#define RETRY_NS (10 * PL_MS)           /* a unix listener whose backlog is full tells nobody when
                                         * it has room again */
#define KEEPALIVE_S 60
#define KEEPALIVE_STEP_S 10
#define KEEPALIVE_PROBES 3

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
    if (dial->unsent_most)
        set_int(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, (int)dial->unsent_most);
}

/* A socket of IPv6 sends to an address of IPv4 that is mapped into it as one of IPv4. */
static int mark_packets(int fd, int family, int mark)
{
    int error = set_int(fd, IPPROTO_IP, IP_TOS, mark);

    return family == AF_INET6 ? set_int(fd, IPPROTO_IPV6, IPV6_TCLASS, mark) : error;
}

/* What the address asks for must be had. */
static int set_demands(const struct pl_dial *dial, struct pl_dial_attempt *attempt, int family)
{
    const char *interface = pl_address_bind_interface(dial->address);
    int fd = attempt->connection->fd;
    struct sockaddr_storage local;
    socklen_t size = 0;
    int error = 0, dscp = dial->address->dscp;

    if (interface)
        error = pl_os->setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, interface,
                                  (socklen_t)strlen(interface) + 1);
    if (error == 0 && dscp != PL_DSCP_NONE)
        error = mark_packets(fd, family, dscp << 2);
    if (error == 0)
        error = pl_address_bind_sockaddr(dial->address, family, &local, &size);
    if (error == 0 && size && family != AF_UNIX) {
        set_int(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1);
        error = pl_os->bind(fd, (struct sockaddr *)&local, size);
        if (error == -EADDRNOTAVAIL)
            attempt->reason = PL_REASON_BIND; /* no port is asked for: it cannot mean a shortage */
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

static int watch(const struct pl_dial *dial, const struct pl_connection *connection)
{
    uint64_t data =
        pl_mux_data(PL_WATCH_CONNECTION, connection->node.index, pl_get(connection->birth));

    return pl_mux_add(dial->mux, connection->fd, EPOLLOUT | EPOLLONESHOT, data) ? ENOSPC : 0;
}

/* Of a link-local host the kernel has to know the link, by a zone or by an interface of bind=. */
static bool lacks_zone(const struct sockaddr_storage *peer)
{
    const struct sockaddr_in6 *ipv6 = (const struct sockaddr_in6 *)peer;

    return ipv6->sin6_family == AF_INET6 && !ipv6->sin6_scope_id &&
           IN6_IS_ADDR_LINKLOCAL(&ipv6->sin6_addr);
}

int pl_attempt_place(const struct pl_dial *dial, const struct pl_dial_attempt *attempt,
                     struct sockaddr_storage *peer, socklen_t *size)
{
    in_port_t port = htons((in_port_t)dial->address->port);

    if (!dial->places)
        return pl_address_sockaddr(dial->address, peer, size);
    *peer = (struct sockaddr_storage){ 0 };
    memcpy(peer, &attempt->place, sizeof(attempt->place));
    if (peer->ss_family == AF_INET6) {
        ((struct sockaddr_in6 *)peer)->sin6_port = port;
        *size = sizeof(struct sockaddr_in6);
    } else {
        ((struct sockaddr_in *)peer)->sin_port = port;
        *size = sizeof(struct sockaddr_in);
    }
    return 0;
}

/* The kernel says of both, no port left and no address of ours in that family, that an address is
 * not available. Datagrams have ports of their own. */
static bool lacks_own_address(const struct sockaddr_storage *peer, socklen_t size)
{
    int error, fd = pl_os->socket(peer->ss_family, SOCK_DGRAM, 0);

    if (fd < 0)
        return false;
    error = pl_os->connect(fd, (const struct sockaddr *)peer, size);
    pl_os->close(fd);
    return error == -EADDRNOTAVAIL;
}

/* 0: connected or on the way; else a positive errno. */
static int begin_connect(const struct pl_dial *dial, struct pl_dial_attempt *attempt)
{
    int fd = attempt->connection->fd;
    struct sockaddr_storage peer;
    socklen_t size;
    int error = pl_attempt_place(dial, attempt, &peer, &size);

    attempt->again_ns = PL_NEVER;
    if (!error)
        error = pl_os->connect(fd, (struct sockaddr *)&peer, size);
    if (error == -EAGAIN && peer.ss_family == AF_UNIX) {
        attempt->again_ns = pl_after(pl_os->now_ns(), RETRY_NS);
        return 0;
    }
    if (error == -EINVAL && lacks_zone(&peer))
        attempt->reason = PL_REASON_ZONE;
    if (error == -EADDRNOTAVAIL && peer.ss_family == AF_INET6 && lacks_own_address(&peer, size))
        return ENETUNREACH;             /* no way from here, and nothing that closing one cures */
    if (error && error != -EINPROGRESS && error != -EINTR)
        return -error;
    /* Watched only now: a socket that never began to connect would report a hang-up. Connected at
     * once is told by the same event as connected later: one way to the end, never on this
     * stack. */
    return watch(dial, attempt->connection);
}

static int family_of(const struct pl_dial *dial, const struct pl_dial_attempt *attempt, int *family)
{
    struct sockaddr_storage peer;
    socklen_t size;
    int error = pl_attempt_place(dial, attempt, &peer, &size);

    *family = error ? AF_UNSPEC : peer.ss_family;
    return -error;
}

/* The program may know better than to go there. 0, or a positive errno. */
static int ask_about_place(struct pl_dial *dial, struct pl_dial_attempt *attempt)
{
    struct sockaddr_storage peer;
    socklen_t size;
    int error = pl_attempt_place(dial, attempt, &peer, &size);

    if (error)
        return -error;
    attempt->answer = dial->ops->on_place(dial, (const struct sockaddr *)&peer, size);
    if (dial->mux->is_forked)
        return ECANCELED;               /* the hook did, and this is the child */
    if (!attempt->answer)
        return 0;
    attempt->reason = PL_REASON_RESOLVED;
    return EPERM;
}

/* The program sees the socket, and may have done to it what it must not: connecting another one, or
 * one that blocks, would be worse than failing. 0, or a positive errno. */
static int show(struct pl_dial *dial, struct pl_dial_attempt *attempt)
{
    int fd = attempt->connection->fd;

    pl_set(attempt->connection->is_shown, true);
    attempt->answer = dial->ops->on_socket(dial, fd);
    if (dial->mux->is_forked)
        return ECANCELED;               /* the hook did, and this is the child */
    if (attempt->answer) {
        attempt->reason = PL_REASON_SOCKET;
        return EPERM;
    }
    if (!pl_connection_is_ours(attempt->connection))
        return EBADF;
    return -pl_os->set_nonblocking(fd, true);
}

int pl_attempt_begin(struct pl_dial *dial, struct pl_dial_attempt *attempt)
{
    struct pl_connection *connection = attempt->connection;
    int family, error = family_of(dial, attempt, &family);

    attempt->reason = PL_REASON_NONE;
    if (!error && dial->asks_places && dial->places)
        error = ask_about_place(dial, attempt);
    if (!error)
        error = pl_connection_open_socket(connection, family);
    if (error)
        return error;
    if (family != AF_UNIX) {
        set_comforts(dial, connection->fd);
        error = set_demands(dial, attempt, family);
    }
    if (!error && dial->shows_sockets)
        error = show(dial, attempt);
    if (dial->mux->is_forked)
        return error;
    if (!error)
        error = begin_connect(dial, attempt);
    if (error)
        pl_connection_close_fd(connection, dial->mux);
    return error;
}

int pl_attempt_again(const struct pl_dial *dial, struct pl_dial_attempt *attempt)
{
    attempt->reason = PL_REASON_NONE;
    /* Somebody else's socket may block in connect. */
    return pl_connection_is_ours(attempt->connection) ? begin_connect(dial, attempt) : EBADF;
}

int pl_attempt_outcome(const struct pl_dial_attempt *attempt)
{
    int error = 0, fd = attempt->connection->fd;
    socklen_t size = sizeof(error);

    if (!pl_connection_is_ours(attempt->connection) ||
        pl_os->getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size))
        return EBADF;
    return error ? error : look_at_peer(fd);
}

/* ---- TLS */

static int begin_tls(struct pl_dial *dial, struct pl_dial_attempt *attempt)
{
    struct pl_tls *tls;
    int error = pl_tls_create_for(dial->tls, dial->sessions, dial->address, &tls);

    attempt->connection->tls = tls;
    pl_set(attempt->connection->secured_by, error ? 0 : pl_tls_generation(tls));
    attempt->is_securing = !error;
    return -error;
}

int pl_attempt_secure(struct pl_dial *dial, struct pl_dial_attempt *attempt)
{
    struct pl_connection *connection = attempt->connection;
    int error = attempt->is_securing ? 0 : begin_tls(dial, attempt);
    short wants;

    attempt->failure = (struct pl_failure){ 0 };
    if (error) {
        attempt->failure = pl_failure_of_errno(error, POOL_PHASE_TLS);
        return error;
    }
    if (!pl_connection_is_ours(connection))
        return EBADF;
    error = -pl_tls_handshake(connection->tls, connection->fd, &wants);
    if (error == EAGAIN)
        return pl_connection_arm(connection, dial->mux,
                                 wants == POLLOUT ? EPOLLOUT : EPOLLIN | EPOLLRDHUP)
                   ? EAGAIN
                   : EBADF;
    if (error)
        attempt->failure = pl_tls_failure(connection->tls, error, POOL_PHASE_TLS);
    return error;
}
