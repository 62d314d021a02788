/* test_dialer.c: one socket to one address: how it is made, every way in which that ends, and that
 * a failure leaves nothing behind. */
#include "net/dialer.h"

#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/os.h"
#include "net/address.h"
#include "support/peer.h"
#include "support/tests.h"

#define SOON 10000

static struct pool_mux *mux;
static struct pl_os os;
static struct pl_dial dial;
static int descriptors;
static unsigned ends;
static int end_error;

static void on_watch(struct pool_mux *of, uint32_t index, uint32_t birth, uint32_t events)
{
    (void)of, (void)events;
    if (index == dial.connection->node.index && birth == dial.connection->birth)
        pl_dial_on_event(&dial, dial.connection);
}

static void on_end(struct pl_dial *ended, int error)
{
    cr_assert_eq(ended, &dial);
    ends++;
    end_error = error;
}

static int (*hook)(int fd);

static int on_socket(struct pl_dial *asked, int fd)
{
    cr_assert_eq(asked, &dial);
    return hook ? hook(fd) : 0;
}

static bool make_no_room(struct pl_dial *of)
{
    (void)of;
    return false;
}

static bool go_on(struct pl_dial *of)
{
    (void)of;
    return true;
}

static const struct pl_dial_ops ops = {
    .on_socket = on_socket, .make_room = make_no_room, .may_go_on = go_on, .on_end = on_end
};

static void begin(void)
{
    os = pl_os_real;
    pl_os_replace(&os);
    cr_assert_eq(pool_mux_create(&mux), POOL_OK);
    atomic_store(&mux->on_watch[PL_WATCH_CONNECTION], on_watch);
}

TestSuite(dialer, .init = begin, .timeout = 60);

/* A dial to `text` that is ready to start. */
static void prepare(const char *text, uint32_t timeout_ms)
{
    struct pool_address *address;

    cr_assert_eq(pool_address_parse(text, &address, NULL), POOL_OK, "%s", text);
    dial = (struct pl_dial){ .connection = pl_connection_take(),
                             .mux = mux,
                             .address = address,
                             .ops = &ops,
                             .shows_sockets = hook != NULL,
                             .deadline_ns = pl_os->now_ns() + timeout_ms * PL_MS };
    dial.connection->mux = mux;
    cr_assert(pl_dial_open(&dial));
    ends = 0;
    descriptors = count_descriptors();
}

/* Dispatches until the dial has ended; answers its errno. */
static int end_of_dial(void)
{
    while (!ends)
        cr_assert_eq(pool_mux_dispatch(mux, SOON), POOL_OK);
    cr_assert_eq(pool_mux_dispatch(mux, 0), POOL_OK);
    cr_expect_eq(ends, 1);
    return end_error;
}

static int dial_to(const char *text, uint32_t timeout_ms)
{
    prepare(text, timeout_ms);
    pl_dial_start(&dial);
    return end_of_dial();
}

/* What an end leaves to its owner to do. */
static void release(void)
{
    pl_dial_close(&dial);
    pl_connection_close_fd(dial.connection, mux);
    pool_address_unref((struct pool_address *)(uintptr_t)dial.address);
}

static void drop(void)
{
    release();
    cr_expect_eq(count_descriptors(), descriptors);
}

/* ---- success */

Test(dialer, every_kind_of_address_connects)
{
    static const struct peer_options kinds[] = {
        { .family = AF_INET },
        { .family = AF_INET6 },
        { .family = AF_UNIX },
        { .family = AF_UNIX, .abstract = true },
    };

    for (size_t i = 0; i < PL_COUNT(kinds); i++) {
        struct peer *peer = peer_start(&kinds[i]);
        char byte = 'x';

        cr_assert_not_null(peer);
        cr_expect_eq(dial_to(peer_address(peer), SOON), 0, "%s", peer_address(peer));
        cr_assert_eq(send(dial.connection->fd, &byte, 1, MSG_NOSIGNAL), 1);
        cr_expect_eq(listen_to(dial.connection->fd, SOON), HEARD_BYTES);
        release(); /* the peer, in this process, ends its side too */
        peer_stop(peer);
    }
}

static int option(int level, int name)
{
    int value = -1;
    socklen_t size = sizeof(value);

    getsockopt(dial.connection->fd, level, name, &value, &size);
    return value;
}

Test(dialer, a_socket_is_ours_alone_close_on_exec_and_comfortable)
{
    struct peer *peer = PEER(.own_process = true);
    int fd;

    prepare(peer_address(peer), SOON);
    dial.user_timeout_ms = 12345;
    dial.unsent_most = 54321;
    pl_dial_start(&dial);
    cr_assert_eq(ends, 0);
    fd = dial.connection->fd;
    cr_expect_gt(fd, 2);
    cr_expect(fcntl(fd, F_GETFL) & O_NONBLOCK);
    cr_expect_eq(end_of_dial(), 0);
    cr_expect(fcntl(fd, F_GETFD) & FD_CLOEXEC);
    cr_expect(pl_connection_is_ours(dial.connection));
    cr_expect_eq(pl_fd_table_get(fd), dial.connection);
    cr_expect_eq(option(IPPROTO_TCP, TCP_NODELAY), 1);
    cr_expect_eq(option(SOL_SOCKET, SO_KEEPALIVE), 1);
    cr_expect_eq(option(IPPROTO_TCP, TCP_USER_TIMEOUT), 12345);
    cr_expect_eq(option(IPPROTO_TCP, TCP_NOTSENT_LOWAT), 54321);
    drop();
    peer_stop(peer);
}

Test(dialer, what_the_address_asks_for_is_had)
{
    struct peer *peer = PEER(.every_loopback = true, .own_process = true);
    struct sockaddr_in local;
    socklen_t size = sizeof(local);
    char text[128];

    snprintf(text, sizeof(text), "tcp://127.0.0.1:%d?bind=127.0.0.77&dscp=46", peer_port(peer));
    cr_expect_eq(dial_to(text, SOON), 0);
    cr_assert_eq(getsockname(dial.connection->fd, (struct sockaddr *)&local, &size), 0);
    cr_expect_eq(local.sin_addr.s_addr, inet_addr("127.0.0.77"));
    cr_expect_eq(option(IPPROTO_IP, IP_TOS), 46 << 2);
    drop();
    peer_stop(peer);
}

/* ---- failure */

Test(dialer, a_peer_that_is_not_there_refuses)
{
    struct peer *peer = PEER(.own_process = true);

    peer_down(peer);
    cr_expect_eq(dial_to(peer_address(peer), SOON), ECONNREFUSED);
    drop();
    peer_stop(peer);
    cr_expect_eq(dial_to("unix:///nowhere/at/all", SOON), ENOENT);
    drop();
    cr_expect_eq(dial_to("abstract://nobody-listens-here", SOON), ECONNREFUSED);
    drop();
}

Test(dialer, a_demand_that_cannot_be_met_is_an_error_and_no_socket_is_left)
{
    static const struct {
        const char *text;
        int error;
        enum pl_reason reason;
    } demands[] = {
        { "tcp://127.0.0.1:1?bind=no-such-device", ENODEV, PL_REASON_NONE },
        { "tcp://127.0.0.1:1?bind=192.0.2.1", EADDRNOTAVAIL, PL_REASON_BIND },
        { "tcp://[fe80::1%no-such-device]:1", ENODEV, PL_REASON_NONE },
        { "tcp://[fe80::1]:1", EINVAL, PL_REASON_ZONE },
    };

    for (size_t i = 0; i < PL_COUNT(demands); i++) {
        int error = dial_to(demands[i].text, SOON);

        cr_expect_eq(error, demands[i].error, "%s: %s", demands[i].text, strerrorname_np(error));
        cr_expect_eq(dial.reason, demands[i].reason, "%s: %d", demands[i].text, dial.reason);
        cr_expect_eq(dial.connection->fd, -1);
        drop();
    }
}

/* The kernel says it of a connect when no port is left, and then it is no fault of the address. */
static int find_no_port(int fd, const struct sockaddr *address, socklen_t size)
{
    (void)fd, (void)address, (void)size;
    return -EADDRNOTAVAIL;
}

Test(dialer, a_lack_of_ports_is_not_taken_for_a_bad_bind)
{
    os.connect = find_no_port;
    cr_expect_eq(dial_to("tcp://127.0.0.1:1?bind=127.0.0.2", SOON), EADDRNOTAVAIL);
    cr_expect_eq(dial.reason, PL_REASON_NONE);
    drop();
}

/* Binds to where it connects to: the kernel then connects the socket with itself. */
static int connect_to_itself(int fd, const struct sockaddr *address, socklen_t size)
{
    cr_assert_eq(bind(fd, address, size), 0);
    return pl_os_real.connect(fd, address, size);
}

Test(dialer, a_connection_to_ourselves_is_a_refusal)
{
    struct peer *peer = PEER(.own_process = true);

    peer_down(peer);
    os.connect = connect_to_itself;
    cr_expect_eq(dial_to(peer_address(peer), SOON), ECONNREFUSED);
    drop();
    peer_stop(peer);
}

Test(dialer, a_peer_that_does_not_answer_is_given_up_at_the_deadline)
{
    static const int families[] = { AF_INET, AF_UNIX };

    for (size_t i = 0; i < PL_COUNT(families); i++) {
        struct peer *peer = PEER(.behave = PEER_NEVER_ACCEPT, .family = families[i],
                                 .own_process = true);
        uint64_t now_ns;

        cr_expect_eq(dial_to(peer_address(peer), 150), ETIMEDOUT, "%s", peer_address(peer));
        now_ns = pl_os->now_ns();
        cr_expect_geq(now_ns, dial.deadline_ns);
        cr_expect(WITHIN((now_ns - dial.deadline_ns) / PL_MS, 0, 20));
        drop();
        peer_stop(peer);
    }
}

static struct peer *crowded;
static int tries;

static int make_room_at_the_third(int fd, const struct sockaddr *address, socklen_t size)
{
    if (++tries == 3)
        peer_set_behaviour(crowded, PEER_ECHO);
    return pl_os_real.connect(fd, address, size);
}

Test(dialer, a_unix_listener_without_room_is_tried_until_it_has_some)
{
    crowded = PEER(.behave = PEER_NEVER_ACCEPT, .family = AF_UNIX, .own_process = true);
    os.connect = make_room_at_the_third;
    cr_expect_eq(dial_to(peer_address(crowded), SOON), 0);
    cr_expect_geq(tries, 3);
    drop();
    peer_stop(crowded);
}

/* ---- every call of the door fails once */

static int countdown;

#define FAILING(result, name, parameters, arguments)                                               \
    static result failing_##name parameters                                                        \
    {                                                                                              \
        return --countdown == 0 ? -EPROTO : pl_os_real.name arguments;                             \
    }

FAILING(int, socket, (int family, int type, int protocol), (family, type, protocol))
FAILING(int, bind, (int fd, const struct sockaddr *to, socklen_t size), (fd, to, size))
FAILING(int, connect, (int fd, const struct sockaddr *to, socklen_t size), (fd, to, size))
FAILING(int, setsockopt, (int fd, int level, int name, const void *value, socklen_t size),
        (fd, level, name, value, size))
FAILING(int, epoll_ctl, (int epoll_fd, int operation, int fd, struct epoll_event *event),
        (epoll_fd, operation, fd, event))

static int failing_remember(int fd, int level, int name, void *value, socklen_t *size)
{
    return name == SO_COOKIE && --countdown == 0
               ? -EPROTO
               : pl_os_real.getsockopt(fd, level, name, value, size);
}

Test(dialer, a_start_that_fails_leaves_nothing_behind_and_is_told_once)
{
    struct peer *peer = PEER(.every_loopback = true, .own_process = true);
    int failures = 0;
    char text[128];

    snprintf(text, sizeof(text), "tcp://127.0.0.1:%d?bind=127.0.0.2&dscp=8", peer_port(peer));
    for (int nth = 1;; nth++) {
        prepare(text, SOON);
        os.socket = failing_socket;
        os.bind = failing_bind;
        os.connect = failing_connect;
        os.setsockopt = failing_setsockopt;
        os.getsockopt = failing_remember;
        os.epoll_ctl = failing_epoll_ctl;
        countdown = nth;
        pl_dial_start(&dial);
        if (countdown > 0)
            break;
        os = pl_os_real;
        if (ends) {
            failures++;
            cr_expect(end_error == EPROTO || end_error == ENOSPC, "%s",
                      strerrorname_np(end_error));
            cr_expect_eq(dial.connection->fd, -1);
            cr_expect_eq(count_descriptors(), descriptors);
            cr_expect_eq(end_of_dial(), end_error, "call %d", nth);
        } else {
            cr_expect_eq(end_of_dial(), 0, "a comfort that is not to be had is no failure");
        }
        drop();
    }
    cr_expect_geq(failures, 6, "socket, cookie, dscp, bind, connect, watch: %d", failures);
    peer_stop(peer);
}

static int hook_fd, hook_answer;

static int answer_hook(int fd)
{
    hook_fd = fd;
    return hook_answer;
}

Test(dialer, the_hook_sees_the_socket_before_it_connects_and_may_refuse_it)
{
    struct peer *peer = PEER(.own_process = true);

    hook = answer_hook;
    hook_answer = 7;
    cr_expect_eq(dial_to(peer_address(peer), SOON), EPERM);
    cr_expect_eq(dial.reason, PL_REASON_SOCKET);
    cr_expect_eq(dial.answer, 7);
    drop();
    hook_answer = 0;
    prepare(peer_address(peer), SOON);
    pl_dial_start(&dial);
    cr_expect_eq(hook_fd, dial.connection->fd);
    cr_expect_eq(end_of_dial(), 0);
    cr_expect(peer_wait_accepted(peer, 1, SOON));
    drop();
    peer_stop(peer);
}

Test(dialer, one_that_was_closed_never_calls_back)
{
    struct peer *peer = PEER(.behave = PEER_NEVER_ACCEPT, .own_process = true);

    prepare(peer_address(peer), 30);
    pl_dial_start(&dial);
    cr_assert_eq(ends, 0);
    drop();
    while (pl_os->now_ns() < dial.deadline_ns)
        pool_mux_dispatch(mux, 5);
    pool_mux_dispatch(mux, 0);
    cr_expect_eq(ends, 0);
    peer_stop(peer);
}

static unsigned foreign_connects;

static int count_foreign(int fd, const struct sockaddr *address, socklen_t size)
{
    foreign_connects += !pl_connection_is_ours(dial.connection);
    return pl_os_real.connect(fd, address, size);
}

Test(dialer, a_number_that_is_stolen_meanwhile_ends_the_dial_and_is_left_alone)
{
    static const int families[] = { AF_INET, AF_UNIX };

    os.connect = count_foreign;
    for (size_t i = 0; i < PL_COUNT(families); i++) {
        struct peer *peer = PEER(.behave = PEER_NEVER_ACCEPT, .family = families[i],
                                 .own_process = true);
        int pair[2], fd;

        prepare(peer_address(peer), 100);
        pl_dial_start(&dial);
    cr_assert_eq(ends, 0);
        fd = dial.connection->fd;
        cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
        dup2(pair[0], fd);
        cr_expect(end_of_dial() != 0);
        release();
        cr_expect_eq(foreign_connects, 0, "nothing is connected that is not ours");
        cr_expect_eq(send(fd, "x", 1, MSG_NOSIGNAL), 1);
        cr_expect_eq(listen_to(pair[1], SOON), HEARD_BYTES);
        close(pair[0]);
        close(pair[1]);
        close(fd);
        peer_stop(peer);
    }
}
