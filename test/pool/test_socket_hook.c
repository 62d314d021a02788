/* test_socket_hook.c: on_socket does to the socket what it must not, and nobody pays for it but
 * the connection that it was called for. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <netinet/in.h>
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
