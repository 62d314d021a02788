/* test_socket_hook.c: on_socket does to the socket what it must not, and nobody pays for it but
 * the connection that it was called for. */
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include "support/verbs.h"

static int make_blocking(int fd, const char *address, void *user)
{
    (void)address, (void)user;
    return fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK) < 0;
}

Test(pool_socket_hook, a_socket_made_blocking_holds_nobody_up, .timeout = 60)
{
    struct peer *silent = PEER(.behave = PEER_NEVER_ACCEPT), *peer = PEER(.behave = PEER_ECHO);
    struct pool *pool = MAKE_POOL(.on_socket = make_blocking, .backoff_first_ms = POOL_ZERO);
    uint64_t start_ms = now_ms();
    struct caller caller;

    cr_assert(start_caller(&caller, pool, peer_address(silent), 300));
    cr_expect_eq(talk(pool, peer_address(peer)), POOL_OK);
    cr_expect_eq(join_caller(&caller), POOL_E_TIMEOUT);
    cr_expect(IN_TIME(elapsed_ms(start_ms), 300));
    pool_destroy(pool);
    cr_expect(IN_TIME(elapsed_ms(start_ms), 300));
    peer_stop(peer);
    peer_stop(silent);
}

static int replace_by_another(int fd, const char *address, void *other)
{
    (void)address;
    return dup2(*(int *)other, fd) < 0;
}

Test(pool_socket_hook, a_socket_put_in_its_place_is_not_touched)
{
    struct peer *peer = PEER(.behave = PEER_ECHO);
    int other = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    struct pool *pool = MAKE_POOL(.on_socket = replace_by_another, .user = &other);
    struct sockaddr_storage address;
    socklen_t size = sizeof(address);

    cr_assert_geq(other, 0);
    cr_expect_eq(talk(pool, peer_address(peer)), POOL_E_BROKEN);
    cr_expect_eq(getpeername(other, (struct sockaddr *)&address, &size), -1, "it was connected");
    cr_expect_eq(fcntl(other, F_GETFL) & O_NONBLOCK, 0, "it was made non-blocking");
    pool_destroy(pool);
    close(other);
    peer_stop(peer);
}

static int close_it(int fd, const char *address, void *user)
{
    (void)address, (void)user;
    return close(fd);
}

Test(pool_socket_hook, a_closed_socket_fails_the_call)
{
    struct peer *peer = PEER(.behave = PEER_ECHO);
    struct pool *pool = MAKE_POOL(.on_socket = close_it);

    cr_expect_eq(talk(pool, peer_address(peer)), POOL_E_BROKEN);
    cr_expect_eq(STAT(pool, total), 0);
    pool_destroy(pool);
    peer_stop(peer);
}

/* ---- a socket whose close would wait for the peer (SO_LINGER) */

#define LINGER_S 5

/* Who connects finds a full handshake, but nobody who reads. */
static int listen_deaf(struct sockaddr_in *at)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    socklen_t size = sizeof(*at);

    *at = (struct sockaddr_in){ .sin_family = AF_INET, .sin_addr = { htonl(INADDR_LOOPBACK) } };
    cr_assert_eq(bind(fd, (struct sockaddr *)at, size), 0);
    cr_assert_eq(listen(fd, 8), 0);
    cr_assert_eq(getsockname(fd, (struct sockaddr *)at, &size), 0);
    return fd;
}

static int make_linger(int fd, const char *address, void *user)
{
    struct linger linger = { .l_onoff = 1, .l_linger = LINGER_S };

    (void)address, (void)user;
    return setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger));
}

static void fill(int fd)
{
    static const char bytes[65536];

    while (send(fd, bytes, sizeof(bytes), MSG_DONTWAIT | MSG_NOSIGNAL) > 0)
        continue;
}

static void discard_with_bytes_unsent(struct pool *pool, const char *address)
{
    struct pool_conn conn;
    uint64_t start_ms;

    cr_assert(borrow(pool, address, &conn));
    fill(pool_conn_fd(&conn));
    start_ms = now_ms();
    cr_expect_eq(pool_discard(&conn), POOL_OK);
    cr_expect_lt(elapsed_ms(start_ms), LINGER_S * 500u, "it waited for the peer");
    pool_destroy(pool);
    cr_expect_lt(elapsed_ms(start_ms), LINGER_S * 500u, "the mux waited for the peer");
}

Test(pool_socket_hook, a_socket_made_to_linger_is_closed_without_waiting, .timeout = 60)
{
    struct sockaddr_in at;
    int deaf = listen_deaf(&at);
    char address[64];

    snprintf(address, sizeof(address), "tcp://127.0.0.1:%u", ntohs(at.sin_port));
    discard_with_bytes_unsent(MAKE_POOL(.on_socket = make_linger), address);
    close(deaf);
}

Test(pool_socket_hook, an_adopted_socket_that_lingers_is_closed_without_waiting, .timeout = 60)
{
    struct sockaddr_in at;
    int deaf = listen_deaf(&at), fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct pool *pool = MAKE_POOL(.max_per_address = 1);
    char address[64];

    snprintf(address, sizeof(address), "tcp://127.0.0.1:%u", ntohs(at.sin_port));
    cr_assert_eq(connect(fd, (struct sockaddr *)&at, sizeof(at)), 0);
    cr_assert_eq(make_linger(fd, address, NULL), 0);
    cr_assert_eq(pool_adopt(pool, address, fd), POOL_OK);
    discard_with_bytes_unsent(pool, address);
    close(deaf);
}
