/* peer.c: the server, and bare connections to it. */
#include "peer.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench.h"

#define BACKLOG 4096
#define BATCH 64

static struct sockaddr_in place(unsigned nth, unsigned short port)
{
    return (struct sockaddr_in){
        .sin_family = AF_INET,
        .sin_port = htons(port),
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK + nth),
    };
}

static void set_nodelay(int fd)
{
    int on = 1;

    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
}

static void watch(int epoll_fd, int fd, unsigned listener)
{
    struct epoll_event event = {
        .events = EPOLLIN,
        .data.u64 = (uint64_t)listener << 32 | (uint32_t)fd,
    };

    need(epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event) == 0, "the peer's epoll_ctl");
}

/* The first one takes any port, the others the same. */
static void open_listeners(struct echo *echo, int *listeners)
{
    for (unsigned nth = 0; nth < ECHO_ADDRESSES; nth++) {
        struct sockaddr_in address = place(nth, echo->port);
        socklen_t size = sizeof(address);
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

        need(fd >= 0 && bind(fd, (struct sockaddr *)&address, sizeof(address)) == 0 &&
                 listen(fd, BACKLOG) == 0 &&
                 getsockname(fd, (struct sockaddr *)&address, &size) == 0,
             "the peer's listener");
        echo->port = ntohs(address.sin_port);
        listeners[nth] = fd;
        snprintf(echo->addresses[nth], sizeof(echo->addresses[nth]), "tcp://127.0.0.%u:%u", nth + 1,
                 echo->port);
    }
}

static void accept_all(int epoll_fd, int listener)
{
    int fd;

    while ((fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC)) >= 0) {
        set_nodelay(fd);
        watch(epoll_fd, fd, 0);
    }
    need(errno == EAGAIN || errno == ECONNABORTED || errno == EINTR, "the peer's accept");
}

static void answer_same(int fd)
{
    static char buffer[65536];
    ssize_t got = recv(fd, buffer, sizeof(buffer), MSG_DONTWAIT);

    if (got > 0)
        got = send(fd, buffer, (size_t)got, MSG_NOSIGNAL);
    else if (got < 0 && errno == EAGAIN)
        return;
    if (got <= 0)
        close(fd);
}

static void serve(const int *listeners, answer_fn *answer)
{
    struct epoll_event events[BATCH];
    int epoll_fd = epoll_create1(EPOLL_CLOEXEC), count;

    need(epoll_fd >= 0, "the peer's epoll_create");
    for (unsigned nth = 0; nth < ECHO_ADDRESSES; nth++)
        watch(epoll_fd, listeners[nth], 1);
    for (;;) {
        count = epoll_wait(epoll_fd, events, BATCH, -1);
        for (int i = 0; i < count; i++) {
            int fd = (int)(uint32_t)events[i].data.u64;

            if (events[i].data.u64 >> 32)
                accept_all(epoll_fd, fd);
            else
                answer(fd);
        }
    }
}

void echo_start_as(struct echo *echo, int core, answer_fn *answer)
{
    int listeners[ECHO_ADDRESSES];
    pid_t parent = getpid();

    *echo = (struct echo){ 0 };
    open_listeners(echo, listeners);
    echo->pid = fork();
    need(echo->pid >= 0, "fork");
    if (echo->pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent)
            exit(1);
        if (core >= 0)
            pin_to_core((unsigned)core);
        serve(listeners, answer);
    }
    for (unsigned nth = 0; nth < ECHO_ADDRESSES; nth++)
        close(listeners[nth]);
}

void echo_start(struct echo *echo, int core)
{
    echo_start_as(echo, core, answer_same);
}

void echo_stop(struct echo *echo)
{
    kill(echo->pid, SIGKILL);
    waitpid(echo->pid, NULL, 0);
}

int echo_connect(const struct echo *echo, unsigned nth)
{
    struct sockaddr_in address = place(nth, echo->port);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    need(fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0,
         "a bare connection to the peer");
    set_nodelay(fd);
    return fd;
}
