/* test_places.c: what an address asks of its sockets (bind=, dscp=, family=), seen at both ends of
 * a borrowed connection. How such texts are read is in test_address.c. */
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/ip.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "support/peer.h"
#include "support/tests.h"
#include "support/verbs.h"

TestSuite(places, .timeout = 60);

static struct pool *pool;
static struct pool_conn conn;

static void borrow_with(const struct peer *peer, const char *parameters)
{
    char text[160];

    snprintf(text, sizeof(text), "%s?%s", peer_address(peer), parameters);
    pool = MAKE_POOL();
    cr_assert(borrow(pool, text, &conn), "%s", text);
}

static void let_go(void)
{
    pool_return(&conn);
    pool_destroy(pool);
}

static int number_at(int level, int name)
{
    int value = -1;
    socklen_t size = sizeof(value);

    cr_expect_eq(getsockopt(pool_conn_fd(&conn), level, name, &value, &size), 0);
    return value;
}

/* Whom the far end of a connection to a listener of the test's own sees. */
Test(places, the_far_end_sees_the_address_that_bind_names)
{
    struct sockaddr_in place = { .sin_family = AF_INET,
                                 .sin_addr.s_addr = htonl(INADDR_LOOPBACK) },
                       seen = { 0 };
    socklen_t size = sizeof(place);
    int listening = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), accepted;
    char text[160], told[64];

    cr_assert_eq(bind(listening, (struct sockaddr *)&place, sizeof(place)), 0);
    cr_assert_eq(listen(listening, 4), 0);
    cr_assert_eq(getsockname(listening, (struct sockaddr *)&place, &size), 0);
    snprintf(text, sizeof(text), "tcp://127.0.0.1:%d?bind=127.0.0.77", ntohs(place.sin_port));
    pool = MAKE_POOL();
    cr_assert(borrow(pool, text, &conn));
    accepted = accept(listening, (struct sockaddr *)&seen, &size);
    cr_expect_geq(accepted, 0);
    cr_expect_eq(seen.sin_addr.s_addr, inet_addr("127.0.0.77"));
    cr_expect_eq(pool_conn_local(&conn, told, sizeof(told)), POOL_OK);
    cr_expect_eq(strncmp(told, "127.0.0.77:", 11), 0, "%s", told);
    let_go();
    close(accepted);
    close(listening);
}

Test(places, an_interface_that_bind_names_is_the_only_way_out)
{
    struct peer *peer = PEER();
    char device[IFNAMSIZ] = "";
    socklen_t size = sizeof(device);

    borrow_with(peer, "bind=lo");
    cr_expect_eq(getsockopt(pool_conn_fd(&conn), SOL_SOCKET, SO_BINDTODEVICE, device, &size), 0);
    cr_expect_str_eq(device, "lo");
    cr_expect_eq(echo(&conn, "through it"), 0);
    let_go();
    peer_stop(peer);
}

Test(places, packets_are_marked_with_dscp_in_both_families)
{
    struct peer *four = PEER(), *six = PEER(.family = AF_INET6);

    borrow_with(four, "dscp=46");
    cr_expect_eq(number_at(IPPROTO_IP, IP_TOS), 46 << 2);
    let_go();
    borrow_with(six, "dscp=10");
    cr_expect_eq(number_at(IPPROTO_IPV6, IPV6_TCLASS), 10 << 2);
    cr_expect_eq(number_at(IPPROTO_IP, IP_TOS), 10 << 2, "for ::ffff:a.b.c.d");
    let_go();
    borrow_with(four, "dscp=0");
    cr_expect_eq(number_at(IPPROTO_IP, IP_TOS), 0);
    let_go();
    peer_stop(four);
    peer_stop(six);
}

Test(places, a_socket_is_of_the_family_asked_for)
{
    struct peer *four = PEER(), *six = PEER(.family = AF_INET6);

    borrow_with(four, "family=4");
    cr_expect_eq(number_at(SOL_SOCKET, SO_DOMAIN), AF_INET);
    let_go();
    borrow_with(six, "family=6");
    cr_expect_eq(number_at(SOL_SOCKET, SO_DOMAIN), AF_INET6);
    let_go();
    peer_stop(four);
    peer_stop(six);
}

Test(places, a_family_that_the_host_is_not_of_is_an_error_of_the_address)
{
    pool = MAKE_POOL();
    cr_expect_eq(pool_borrow(pool, "tcp://127.0.0.1:1?family=6", NULL, &conn), POOL_E_ADDRESS);
    cr_expect_eq(pool_borrow(pool, "tcp://[::1]:1?family=4", NULL, &conn), POOL_E_ADDRESS);
    pool_destroy(pool);
}
