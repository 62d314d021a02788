/* socket_text.c: see socket_text.h. */
#include "net/socket_text.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/un.h>

/* All of these answer how many bytes the text has, or -1. */

static int write_ipv4(const struct sockaddr_in *address, char *text, size_t size)
{
    char host[INET_ADDRSTRLEN];

    inet_ntop(AF_INET, &address->sin_addr, host, sizeof(host));
    return snprintf(text, size, "%s:%u", host, ntohs(address->sin_port));
}

static int write_ipv6(const struct sockaddr_in6 *address, char *text, size_t size)
{
    char host[INET6_ADDRSTRLEN], zone[16] = "";

    inet_ntop(AF_INET6, &address->sin6_addr, host, sizeof(host));
    if (address->sin6_scope_id)
        snprintf(zone, sizeof(zone), "%%%u", address->sin6_scope_id);
    return snprintf(text, size, "[%s%s]:%u", host, zone, ntohs(address->sin6_port));
}

static int write_unix(const struct sockaddr_un *address, socklen_t length, char *text, size_t size)
{
    size_t name = length > offsetof(struct sockaddr_un, sun_path)
                      ? length - offsetof(struct sockaddr_un, sun_path)
                      : 0;

    if (name && address->sun_path[0])
        name = strnlen(address->sun_path, name);        /* a path may end before its room does */
    if (name >= size)
        return -1;
    for (size_t i = 0; i < name; i++)
        text[i] = address->sun_path[i] ? address->sun_path[i] : '@';
    text[name] = '\0';
    return (int)name;
}

bool pl_socket_text(const struct sockaddr_storage *address, socklen_t length, char *text,
                    size_t size)
{
    int written = -1;

    if (address->ss_family == AF_INET)
        written = write_ipv4((const void *)address, text, size);
    else if (address->ss_family == AF_INET6)
        written = write_ipv6((const void *)address, text, size);
    else if (address->ss_family == AF_UNIX || length <= sizeof(sa_family_t))
        written = write_unix((const void *)address, length, text, size);
    if (written >= 0 && (size_t)written < size)
        return true;
    if (size)
        text[0] = '\0';
    return false;
}
