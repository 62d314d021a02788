/* peer_place.c: where a peer listens: finding a free place, its text, connecting to it, filling
 * its backlog.
 *
 * A place is found once and kept: a peer that goes down comes up again where it was. Descriptors
 * made here are close-on-exec and never 0, 1 or 2. */
#include "support/peer_parts.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "support/tests.h"

static int find_ip(struct peer_place *place, const struct peer_options *options)
{
    const char *host = options->host;

    errno = EINVAL;
    if (options->port < 0 || options->port > UINT16_MAX)
        return -1;
    if (options->family == AF_INET6) {
        place->name.in6.sin6_family = AF_INET6;
        place->name.in6.sin6_port = htons((uint16_t)options->port);
        place->size = sizeof(place->name.in6);
        return inet_pton(AF_INET6, host ? host : "::1", &place->name.in6.sin6_addr) == 1 ? 0 : -1;
    }
    place->name.in.sin_family = AF_INET;
    place->name.in.sin_port = htons((uint16_t)options->port);
    place->size = sizeof(place->name.in);
    place->every_loopback = options->every_loopback;
    return inet_pton(AF_INET, host ? host : "127.0.0.1", &place->name.in.sin_addr) == 1 ? 0 : -1;
}

static int find_unix(struct peer_place *place, bool abstract)
{
    char *path = place->name.un.sun_path, directory[80];
    uint64_t random = 0;
    int length;

    place->name.un.sun_family = AF_UNIX;
    if (abstract) {
        if (getrandom(&random, sizeof(random), 0) < 0)
            return -1;
        length = snprintf(path + 1, sizeof(place->name.un.sun_path) - 1, "commpool-%d-%016llx",
                          getpid(), (unsigned long long)random);
    } else {
        if (!make_temp_dir(directory, sizeof(directory)))
            return -1;
        length = snprintf(path, sizeof(place->name.un.sun_path), "%s/peer", directory);
    }
    place->size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + (size_t)length + 1);
    return 0;
}

static int open_socket(int family)
{
    int low = socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), fd;

    if (low < 0 || low > 2)
        return low;
    fd = fcntl(low, F_DUPFD_CLOEXEC, 3);
    close(low);
    return fd;
}

static int bind_place(const struct peer_place *place, int fd)
{
    struct peer_place every = *place;
    int one = 1;

    if (place->name.any.sa_family == AF_UNIX) {
        if (place->name.un.sun_path[0])
            unlink(place->name.un.sun_path);
        return bind(fd, &place->name.any, place->size);
    }
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    if (!place->every_loopback)
        return bind(fd, &place->name.any, place->size);
    every.name.in.sin_addr.s_addr = htonl(INADDR_ANY);
    if (setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, "lo", sizeof("lo")) < 0)
        return -1;
    return bind(fd, &every.name.any, every.size);
}

/* Several tests start at the same time: a filler that waits for nothing must not be taken for
 * one that connected. */
static bool fill_one(const struct peer_place *place, int fd)
{
    struct sockaddr_un nameless = {.sun_family = AF_UNIX};
    struct pollfd polled = {.fd = fd, .events = POLLOUT};
    int error = 0;
    socklen_t size = sizeof(error);

    if (place->name.any.sa_family == AF_UNIX) {
        /* a name of its own, or the one who accepts could not tell it from others */
        if (bind(fd, (struct sockaddr *)&nameless, sizeof(nameless.sun_family)) < 0)
            return false;
        return connect(fd, &place->name.any, place->size) == 0;
    }
    if (connect(fd, &place->name.any, place->size) == 0)
        return true;
    if (errno != EINPROGRESS || poll(&polled, 1, 50) <= 0)
        return false;
    return getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) == 0 && error == 0;
}

int peer_place_find(struct peer_place *place, const struct peer_options *options)
{
    memset(place, 0, sizeof(*place));
    if (options->family == AF_UNIX)
        return find_unix(place, options->abstract);
    return find_ip(place, options);
}

int peer_place_listen(struct peer_place *place, int backlog)
{
    int fd = open_socket(place->name.any.sa_family), error;
    struct peer_place bound = *place;

    if (fd < 0)
        return -1;
    if (bind_place(place, fd) < 0 || listen(fd, backlog) < 0)
        goto no_listener;
    bound.size = sizeof(bound.name);
    if (getsockname(fd, &bound.name.any, &bound.size) < 0)
        goto no_listener;
    if (place->name.any.sa_family == AF_INET)
        place->name.in.sin_port = bound.name.in.sin_port;
    if (place->name.any.sa_family == AF_INET6)
        place->name.in6.sin6_port = bound.name.in6.sin6_port;
    return fd;

no_listener:
    error = errno;
    close(fd);
    errno = error;
    return -1;
}

int peer_place_dial(const struct peer_place *place)
{
    int fd = socket(place->name.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0), error;

    if (fd < 0)
        return -1;
    if (connect(fd, &place->name.any, place->size) == 0)
        return fd;
    error = errno;
    close(fd);
    errno = error;
    return -1;
}

int peer_place_port(const struct peer_place *place)
{
    if (place->name.any.sa_family == AF_INET)
        return ntohs(place->name.in.sin_port);
    return place->name.any.sa_family == AF_INET6 ? ntohs(place->name.in6.sin6_port) : 0;
}

void peer_place_text(const struct peer_place *place, char *text, size_t size)
{
    char host[INET6_ADDRSTRLEN] = "";

    switch (place->name.any.sa_family) {
    case AF_INET:
        inet_ntop(AF_INET, &place->name.in.sin_addr, host, sizeof(host));
        snprintf(text, size, "tcp://%s:%d", host, peer_place_port(place));
        break;
    case AF_INET6:
        inet_ntop(AF_INET6, &place->name.in6.sin6_addr, host, sizeof(host));
        snprintf(text, size, "tcp://[%s]:%d", host, peer_place_port(place));
        break;
    default:
        if (place->name.un.sun_path[0])
            snprintf(text, size, "unix://%s", place->name.un.sun_path);
        else
            snprintf(text, size, "abstract://%s", place->name.un.sun_path + 1);
    }
}

void peer_place_leave(const struct peer_place *place)
{
    char directory[sizeof(place->name.un.sun_path)], *slash;

    if (place->name.any.sa_family != AF_UNIX || !place->name.un.sun_path[0])
        return;
    unlink(place->name.un.sun_path);
    memcpy(directory, place->name.un.sun_path, sizeof(directory));
    slash = strrchr(directory, '/');
    if (slash) {
        *slash = 0;
        rmdir(directory);
    }
}

unsigned peer_place_fill(const struct peer_place *place, int *fillers, unsigned most)
{
    unsigned count = 0;
    int fd;

    while (count < most) {
        fd = open_socket(place->name.any.sa_family);
        if (fd < 0)
            break;
        if (!fill_one(place, fd)) {
            close(fd);
            break;
        }
        fillers[count++] = fd;
    }
    return count;
}
