/* world_option.c: socket options. Most are only kept; SO_RCVTIMEO, SO_LINGER and TCP_USER_TIMEOUT
 * have their effect. */
#include <errno.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>

#include "world/world_parts.h"

static const struct {
    int level, name;
    socklen_t size; /* at least */
} known[] = {
    { SOL_SOCKET, SO_KEEPALIVE, sizeof(int) },      { SOL_SOCKET, SO_REUSEADDR, sizeof(int) },
    { SOL_SOCKET, SO_RCVBUF, sizeof(int) },         { SOL_SOCKET, SO_SNDBUF, sizeof(int) },
    { SOL_SOCKET, SO_PRIORITY, sizeof(int) },       { SOL_SOCKET, SO_BINDTODEVICE, 0 },
    { SOL_SOCKET, SO_LINGER, sizeof(struct linger) },
    { SOL_SOCKET, SO_RCVTIMEO, sizeof(struct timeval) },
    { SOL_SOCKET, SO_SNDTIMEO, sizeof(struct timeval) },
    { IPPROTO_TCP, TCP_NODELAY, sizeof(int) },      { IPPROTO_TCP, TCP_KEEPIDLE, sizeof(int) },
    { IPPROTO_TCP, TCP_KEEPINTVL, sizeof(int) },    { IPPROTO_TCP, TCP_KEEPCNT, sizeof(int) },
    { IPPROTO_TCP, TCP_USER_TIMEOUT, sizeof(int) }, { IPPROTO_TCP, TCP_QUICKACK, sizeof(int) },
    { IPPROTO_TCP, TCP_SYNCNT, sizeof(int) },       { IPPROTO_TCP, TCP_NOTSENT_LOWAT, sizeof(int) },
    { IPPROTO_IP, IP_TOS, 1 },
    { IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, sizeof(int) },
    { IPPROTO_IPV6, IPV6_TCLASS, sizeof(int) },     { IPPROTO_IPV6, IPV6_V6ONLY, sizeof(int) },
};

/* 0: the socket has such an option. */
static int check_option(const struct world_file *file, int level, int name, socklen_t size)
{
    if (level != SOL_SOCKET && file->socket.family == AF_UNIX)
        return -EOPNOTSUPP;
    if (level == IPPROTO_IPV6 && file->socket.family != AF_INET6)
        return -ENOPROTOOPT;
    for (size_t i = 0; i < PL_COUNT(known); i++) {
        if (known[i].level == level && known[i].name == name)
            return size < known[i].size ? -EINVAL : 0;
    }
    return -ENOPROTOOPT;
}

static struct socket_option *find_option(struct world_socket *socket, int level, int name)
{
    for (unsigned i = 0; i < socket->option_count; i++) {
        if (socket->options[i].level == level && socket->options[i].name == name)
            return &socket->options[i];
    }
    return NULL;
}

const struct socket_option *world_option_of(const struct world_file *file, int level, int name)
{
    return find_option((struct world_socket *)(uintptr_t)&file->socket, level, name);
}

static int set_receive_wait(struct world_socket *socket, const void *value)
{
    struct timeval wait;

    memcpy(&wait, value, sizeof(wait));
    if (wait.tv_usec < 0 || wait.tv_usec >= 1000000)
        return -EDOM;
    socket->receive_wait_ns = (uint64_t)wait.tv_sec * 1000 * PL_MS + (uint64_t)wait.tv_usec * 1000;
    return 0;
}

static int check_device(const char *name, socklen_t size)
{
    if (!size || !*name || !strncmp(name, "lo", size) || !strncmp(name, "eth0", size))
        return 0;
    return -ENODEV;
}

int door_setsockopt(int fd, int level, int name, const void *value, socklen_t size)
{
    int error;
    struct world_file *file = world_socket_at(fd, true, &error);
    struct socket_option *option;

    if (!file)
        return error;
    error = check_option(file, level, name, size);
    if (!error && level == SOL_SOCKET && name == SO_RCVTIMEO)
        error = set_receive_wait(&file->socket, value);
    if (!error && level == SOL_SOCKET && name == SO_BINDTODEVICE)
        error = check_device(value, size);
    if (error)
        return error;
    option = find_option(&file->socket, level, name);
    if (!option) {
        if (file->socket.option_count == WORLD_OPTIONS)
            world_fail("more options than this world has room for");
        option = &file->socket.options[file->socket.option_count++];
    }
    option->level = level;
    option->name = name;
    option->size = size < sizeof(option->value) ? size : sizeof(option->value);
    memcpy(option->value, value, option->size);
    return 0;
}

static int answer_value(const void *from, socklen_t from_size, void *value, socklen_t *size)
{
    if (*size > from_size)
        *size = from_size;
    memcpy(value, from, *size);
    return 0;
}

static int answer_number(int number, void *value, socklen_t *size)
{
    return answer_value(&number, sizeof(number), value, size);
}

/* What every socket knows; -ENOPROTOOPT: look among the options that were set. */
static int answer_fact(struct world_file *file, int name, void *value, socklen_t *size)
{
    int error;

    switch (name) {
    case SO_COOKIE:
        if (*size < sizeof(file->socket.cookie))
            return -EINVAL;
        return answer_value(&file->socket.cookie, sizeof(file->socket.cookie), value, size);
    case SO_ERROR:
        error = file->socket.error;
        file->socket.error = 0;
        return answer_number(error, value, size);
    case SO_ACCEPTCONN:
        return answer_number(0, value, size);
    case SO_TYPE:
        return answer_number(SOCK_STREAM, value, size);
    case SO_DOMAIN:
        return answer_number(file->socket.family, value, size);
    case SO_PROTOCOL:
        return answer_number(file->socket.family == AF_UNIX ? 0 : IPPROTO_TCP, value, size);
    default:
        return -ENOPROTOOPT;
    }
}

int door_getsockopt(int fd, int level, int name, void *value, socklen_t *size)
{
    int error;
    struct world_file *file = world_socket_at(fd, false, &error);
    struct socket_option *option;
    char zeros[16] = { 0 };

    if (!file)
        return error;
    if (level == SOL_SOCKET) {
        error = answer_fact(file, name, value, size);
        if (error != -ENOPROTOOPT)
            return error;
    }
    error = check_option(file, level, name, sizeof(zeros));
    if (error)
        return error;
    option = find_option(&file->socket, level, name);
    if (option)
        return answer_value(option->value, option->size, value, size);
    return answer_value(zeros, name == SO_RCVTIMEO ? sizeof(struct timeval) : sizeof(int), value,
                        size);
}
