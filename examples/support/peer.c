/* peer.c: a small server of the examples' own: one epoll loop in a child process.
 *
 * It is no model of a server: answers that a client does not read at once end its connection. */
#include "support/peer.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { CLIENTS = 4096, LINE = 256, BATCH = 64 };

struct client {
    int place;
    bool is_open, is_subscribed;
    size_t size;
    char bytes[LINE]; /* what came and is not answered yet */
};

/* The child's own; descriptors are indexes. */
struct service {
    int epoll_fd;
    int listeners[PEER_PLACES];
    struct peer_seen *seen;
    struct client *clients;
    int place_of[CLIENTS]; /* of a listener, -1 for all other descriptors */
};

static void hang_up(struct service *service, int fd)
{
    service->clients[fd].is_open = false;
    close(fd);
}

static bool say(int fd, const char *text, size_t size)
{
    return send(fd, text, size, MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)size;
}

static void publish(struct service *service, long count)
{
    char text[32];

    for (int fd = 0; fd < CLIENTS; fd++) {
        bool goes_on = service->clients[fd].is_open && service->clients[fd].is_subscribed;

        for (long push = 1; push <= count && goes_on; push++)
            goes_on = say(fd, text, (size_t)snprintf(text, sizeof(text), "push %ld\n", push));
    }
}

/* Answers one line, its newline included. */
static bool answer(struct service *service, int fd, const char *line, size_t size)
{
    struct client *client = &service->clients[fd];

    service->seen->asked[client->place]++;
    if (size > 5 && !memcmp(line, "echo ", 5))
        return say(fd, line + 5, size - 5);
    if (size == 10 && !memcmp(line, "subscribe\n", 10)) {
        client->is_subscribed = true;
        return say(fd, "subscribed\n", 11);
    }
    if (size > 8 && !memcmp(line, "publish ", 8)) {
        publish(service, strtol(line + 8, NULL, 10));
        return say(fd, "published\n", 10);
    }
    return false;
}

static bool read_lines(struct service *service, int fd)
{
    struct client *client = &service->clients[fd];
    ssize_t got = recv(fd, client->bytes + client->size, LINE - client->size, MSG_DONTWAIT);
    char *start = client->bytes, *end;

    if (got <= 0)
        return false;
    client->size += (size_t)got;
    while ((end = memchr(start, '\n', client->size))) {
        size_t size = (size_t)(end - start) + 1;

        if (!answer(service, fd, start, size))
            return false;
        start += size;
        client->size -= size;
    }
    memmove(client->bytes, start, client->size);
    return client->size < LINE;
}

static void accept_client(struct service *service, int listener)
{
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC), place = service->place_of[listener];
    struct epoll_event watch = { .events = EPOLLIN, .data.fd = fd };
    int on = 1;

    if (fd < 0)
        return;
    if (fd >= CLIENTS || epoll_ctl(service->epoll_fd, EPOLL_CTL_ADD, fd, &watch)) {
        close(fd);
        return;
    }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    service->clients[fd] = (struct client){ .place = place, .is_open = true };
    service->seen->accepted[place]++;
}

static bool watch_listeners(struct service *service, int places)
{
    memset(service->place_of, -1, sizeof(service->place_of));
    for (int place = 0; place < places; place++) {
        int fd = service->listeners[place];
        struct epoll_event watch = { .events = EPOLLIN, .data.fd = fd };

        if (fd >= CLIENTS || epoll_ctl(service->epoll_fd, EPOLL_CTL_ADD, fd, &watch))
            return false;
        service->place_of[fd] = place;
    }
    return true;
}

static void serve(struct service *service, int places)
{
    struct epoll_event events[BATCH];

    service->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    service->clients = calloc(CLIENTS, sizeof(struct client));
    if (service->epoll_fd < 0 || !service->clients || !watch_listeners(service, places))
        return;
    for (;;) {
        int count = epoll_wait(service->epoll_fd, events, BATCH, -1);

        for (int event = 0; event < count; event++) {
            int fd = events[event].data.fd;

            if (service->place_of[fd] >= 0)
                accept_client(service, fd);
            else if (!read_lines(service, fd))
                hang_up(service, fd);
        }
    }
}

/* Listens at the loopback address number `place`, at a port that the kernel chooses. */
static int listen_at(int place, char text[32])
{
    struct sockaddr_in address = { .sin_family = AF_INET };
    socklen_t size = sizeof(address);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    address.sin_addr.s_addr =
        htonl(0x7f010001u + ((uint32_t)(place / 250) << 8) + (uint32_t)(place % 250));
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, size) || listen(fd, 128) ||
        getsockname(fd, (struct sockaddr *)&address, &size)) {
        perror("peer: cannot listen");
        return -1;
    }
    snprintf(text, 32, "tcp://%s:%u", inet_ntoa(address.sin_addr), ntohs(address.sin_port));
    return fd;
}

/* The peer needs more descriptors than the program may have; `before` is what to go back to. */
static void raise_limit(struct rlimit *before)
{
    struct rlimit limit;

    getrlimit(RLIMIT_NOFILE, before);
    limit = *before;
    if (limit.rlim_cur < CLIENTS) {
        limit.rlim_cur = limit.rlim_max < CLIENTS ? limit.rlim_max : CLIENTS;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

static void be_the_peer(struct service *service, int places, pid_t parent)
{
    signal(SIGINT, SIG_IGN);
    prctl(PR_SET_NAME, "example-peer");
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() == parent)
        serve(service, places);
    _exit(1);
}

/* Opens the listeners, so that their addresses are known, and leaves them to a child. */
static bool start_child(struct peer *peer, struct service *service)
{
    pid_t parent = getpid();
    int open = 0;

    while (open < peer->places) {
        service->listeners[open] = listen_at(open, peer->address[open]);
        if (service->listeners[open] < 0)
            break;
        open++;
    }
    fflush(NULL);
    if (open == peer->places)
        peer->pid = fork();
    if (open == peer->places && !peer->pid)
        be_the_peer(service, peer->places, parent);
    if (peer->pid < 0)
        perror("peer: cannot start it");
    while (open > 0)
        close(service->listeners[--open]);
    return peer->pid > 0;
}

bool peer_start(struct peer *peer, int places)
{
    struct service service = { .epoll_fd = -1 };
    struct rlimit before;
    bool is_started;

    *peer = (struct peer){ .places = places };
    peer->seen = mmap(NULL, sizeof(struct peer_seen), PROT_READ | PROT_WRITE,
                      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (peer->seen == MAP_FAILED) {
        perror("peer: no memory");
        peer->seen = NULL;
        return false;
    }
    service.seen = peer->seen;
    raise_limit(&before);
    is_started = start_child(peer, &service);
    setrlimit(RLIMIT_NOFILE, &before);
    return is_started;
}

void peer_stop(struct peer *peer)
{
    if (peer->pid > 0) {
        kill(peer->pid, SIGKILL);
        waitpid(peer->pid, NULL, 0);
    }
    if (peer->seen)
        munmap(peer->seen, sizeof(struct peer_seen));
    *peer = (struct peer){ .pid = 0 };
}
