/* test_socket_text.c: how socket addresses are written. */
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <netinet/in.h>
#include <stddef.h>
#include <string.h>
#include <sys/un.h>

#include "net/socket_text.h"

static struct sockaddr_storage ipv4(const char *host, unsigned port)
{
    struct sockaddr_storage storage = { .ss_family = AF_INET };
    struct sockaddr_in *address = (void *)&storage;

    cr_assert_eq(inet_pton(AF_INET, host, &address->sin_addr), 1);
    address->sin_port = htons((uint16_t)port);
    return storage;
}

static struct sockaddr_storage ipv6(const char *host, unsigned port, unsigned zone)
{
    struct sockaddr_storage storage = { .ss_family = AF_INET6 };
    struct sockaddr_in6 *address = (void *)&storage;

    cr_assert_eq(inet_pton(AF_INET6, host, &address->sin6_addr), 1);
    address->sin6_port = htons((uint16_t)port);
    address->sin6_scope_id = zone;
    return storage;
}

static struct sockaddr_storage local(const void *name, size_t size, socklen_t *length)
{
    struct sockaddr_storage storage = { .ss_family = AF_UNIX };

    memcpy(((struct sockaddr_un *)(void *)&storage)->sun_path, name, size);
    *length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + size);
    return storage;
}

static void expect_text(struct sockaddr_storage address, socklen_t length, const char *expected)
{
    char text[256], tight[256];

    cr_expect(pl_socket_text(&address, length, text, sizeof(text)));
    cr_expect_str_eq(text, expected);
    cr_expect(pl_socket_text(&address, length, tight, strlen(expected) + 1), "it just fits");
    memset(tight, 'x', sizeof(tight));
    cr_expect_not(pl_socket_text(&address, length, tight, strlen(expected)), "one byte too few");
    cr_expect_eq(tight[strlen(expected)], 'x', "no byte beyond the room is written");
    if (*expected)
        cr_expect_eq(tight[0], '\0');
}

Test(socket_text, hosts_stand_before_their_ports)
{
    expect_text(ipv4("127.0.0.1", 6379), sizeof(struct sockaddr_in), "127.0.0.1:6379");
    expect_text(ipv4("255.255.255.255", 65535), sizeof(struct sockaddr_in),
                "255.255.255.255:65535");
    expect_text(ipv6("::1", 80, 0), sizeof(struct sockaddr_in6), "[::1]:80");
    expect_text(ipv6("fe80::1", 80, 2), sizeof(struct sockaddr_in6), "[fe80::1%2]:80");
    expect_text(ipv6("::ffff:1.2.3.4", 1, 0), sizeof(struct sockaddr_in6), "[::ffff:1.2.3.4]:1");
}

Test(socket_text, unix_sockets_have_a_path_an_abstract_name_or_none)
{
    char longest[108];
    char expected[109] = "";
    struct sockaddr_storage address;
    socklen_t length;

    address = local("/run/x.sock", 12, &length);        /* as getpeername tells it */
    expect_text(address, length, "/run/x.sock");
    address = local("/run/x.sock", 11, &length);        /* without its zero byte */
    expect_text(address, length, "/run/x.sock");
    address = local("\0a\0b", 4, &length);
    expect_text(address, length, "@a@b");
    address = local("", 0, &length);
    expect_text(address, length, "");
    memset(longest, 'p', sizeof(longest));
    memcpy(expected, longest, sizeof(longest));
    address = local(longest, sizeof(longest), &length);
    expect_text(address, length, expected);
}

Test(socket_text, other_families_are_refused)
{
    struct sockaddr_storage address = { .ss_family = AF_PACKET };
    char text[64] = "before";

    cr_expect_not(pl_socket_text(&address, sizeof(address), text, sizeof(text)));
    cr_expect_str_eq(text, "");
    cr_expect_not(pl_socket_text(&address, sizeof(address), text, 0));
}
