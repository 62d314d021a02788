/* query_peer.c: the peer of queries: its connections, its thread and its commands. See
 * query_peer.h. */
#include "support/query_peer.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "support/query_peer_parts.h"
#include "support/tests.h"

#define SOON_MS 20000u
#define ROOM 65536u

/* ---- bytes */

static void make_room(struct query_bytes *bytes, size_t size)
{
    if (bytes->start) {
        memmove(bytes->data, bytes->data + bytes->start, bytes->end - bytes->start);
        bytes->end -= bytes->start;
        bytes->start = 0;
    }
    if (bytes->room - bytes->end >= size)
        return;
    bytes->room = 2 * bytes->room + size;
    bytes->data = realloc(bytes->data, bytes->room);
}

void query_bytes_add(struct query_bytes *bytes, const void *data, size_t size)
{
    if (bytes->room - bytes->end < size)
        make_room(bytes, size);
    if (size)
        memcpy(bytes->data + bytes->end, data, size);
    bytes->end += size;
}

void query_bytes_fill(struct query_bytes *bytes, char letter, size_t size)
{
    if (bytes->room - bytes->end < size)
        make_room(bytes, size);
    memset(bytes->data + bytes->end, letter, size);
    bytes->end += size;
}

/* ---- connections */

static bool accept_one(struct query_peer *peer)
{
    struct query_link *link = peer->links;
    int on = 1, fd = accept4(peer->listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

    if (fd < 0)
        return false;
    while (link < peer->links + QUERY_PEER_LINKS && link->fd >= 0)
        link++;
    if (link == peer->links + QUERY_PEER_LINKS) {
        close(fd);
        return true;
    }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    *link = (struct query_link){ .fd = fd, .nth = peer->accepted++ };
    peer->open++;
    return true;
}

void query_link_end(struct query_peer *peer, struct query_link *link, bool resets)
{
    struct linger at_once = { .l_onoff = 1 };

    if (link->fd < 0)
        return;
    if (resets)
        setsockopt(link->fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
    close(link->fd);
    link->fd = -1;
    peer->open--;
    if (!resets) { /* else its caller still reads them */
        free(link->in.data);
        link->in = (struct query_bytes){ 0 };
    }
    free(link->out.data);
    link->out = (struct query_bytes){ 0 };
}

static void receive(struct query_peer *peer, struct query_link *link)
{
    size_t most = peer->options.bytes_at_once ? peer->options.bytes_at_once : ROOM;
    ssize_t got;

    make_room(&link->in, most);
    got = recv(link->fd, link->in.data + link->in.end, most, 0);
    if (got > 0) {
        link->in.end += (size_t)got;
        query_peer_cut(peer, link);
    } else if (got == 0 || errno != EAGAIN) {
        query_link_end(peer, link, false);
    }
    if (link->fd < 0) {
        free(link->in.data);
        link->in = (struct query_bytes){ 0 };
    }
}

static void flush(struct query_peer *peer, struct query_link *link)
{
    size_t size = link->out.end - link->out.start;
    ssize_t sent = 0;

    if (size)
        sent = send(link->fd, link->out.data + link->out.start, size, MSG_NOSIGNAL);
    if (sent > 0)
        link->out.start += (size_t)sent;
    if (sent < 0 && errno != EAGAIN)
        query_link_end(peer, link, false);
    else if (link->out.start == link->out.end && link->ends)
        query_link_end(peer, link, false);
    else if (link->out.start == link->out.end)
        link->out.start = link->out.end = 0;
}

/* ---- its thread */

static nfds_t fill_polls(struct query_peer *peer, struct pollfd *polls)
{
    nfds_t count = 2;

    polls[0] = (struct pollfd){ .fd = peer->wake_fd, .events = POLLIN };
    polls[1] = (struct pollfd){ .fd = peer->listen_fd, .events = POLLIN };
    for (unsigned i = 0; i < QUERY_PEER_LINKS; i++) {
        struct query_link *link = &peer->links[i];

        polls[count] = (struct pollfd){ .fd = link->fd, .events = POLLIN };
        if (peer->options.is_deaf)
            polls[count] = (struct pollfd){ .fd = -1 };
        if (link->out.start < link->out.end || query_peer_has_stream(peer, link))
            polls[count] = (struct pollfd){ link->fd, polls[count].events | POLLOUT, 0 };
        count++;
    }
    return count;
}

static int patience_ms(uint64_t next_us)
{
    uint64_t now = now_us();

    if (next_us == UINT64_MAX)
        return -1;
    return next_us <= now ? 0 : (int)((next_us - now + 999) / 1000);
}

static void turn(struct query_peer *peer, const struct pollfd *polls)
{
    uint64_t woken;

    if (polls[0].revents && read(peer->wake_fd, &woken, sizeof(woken)) < 0)
        return;
    for (unsigned i = 0; i < QUERY_PEER_LINKS; i++) {
        if (peer->links[i].fd == polls[i + 2].fd && !peer->options.is_deaf &&
            (polls[i + 2].revents & (POLLIN | POLLHUP | POLLERR)))
            receive(peer, &peer->links[i]);
    }
    while (polls[1].revents && accept_one(peer))
        continue;
}

static void *serve(void *user)
{
    struct query_peer *peer = user;
    struct pollfd polls[QUERY_PEER_LINKS + 2];

    pthread_mutex_lock(&peer->lock);
    while (!peer->is_stopping) {
        uint64_t next_us = query_peer_deliver(peer, now_us());
        nfds_t count;

        for (unsigned i = 0; i < QUERY_PEER_LINKS; i++) {
            if (peer->links[i].fd < 0)
                continue;
            query_peer_stream(peer, &peer->links[i]);
            flush(peer, &peer->links[i]);
        }
        count = fill_polls(peer, polls);
        pthread_mutex_unlock(&peer->lock);
        poll(polls, count, patience_ms(next_us));
        pthread_mutex_lock(&peer->lock);
        turn(peer, polls);
    }
    pthread_mutex_unlock(&peer->lock);
    return NULL;
}

/* ---- start and stop */

static bool listen_somewhere(struct query_peer *peer)
{
    struct sockaddr_in name = { .sin_family = AF_INET,
                                .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t size = sizeof(name);
    int buffer = peer->options.receive_buffer;

    peer->listen_fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (peer->listen_fd < 0)
        return false;
    if (buffer)
        setsockopt(peer->listen_fd, SOL_SOCKET, SO_RCVBUF, &buffer, sizeof(buffer));
    if (bind(peer->listen_fd, (struct sockaddr *)&name, size) || listen(peer->listen_fd, 1024) ||
        getsockname(peer->listen_fd, (struct sockaddr *)&name, &size))
        return false;
    peer->port = ntohs(name.sin_port);
    snprintf(peer->address, sizeof(peer->address), "tcp://127.0.0.1:%d", peer->port);
    return true;
}

static bool start_thread(struct query_peer *peer)
{
    sigset_t all, old;
    bool has_thread;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    has_thread = !pthread_create(&peer->thread, NULL, serve, peer);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return has_thread;
}

struct query_peer *query_peer_start(const struct query_peer_options *options)
{
    struct query_peer *peer = calloc(1, sizeof(*peer));

    if (!peer)
        return NULL;
    peer->options = *options;
    pthread_mutex_init(&peer->lock, NULL);
    for (unsigned i = 0; i < QUERY_PEER_LINKS; i++)
        peer->links[i].fd = -1;
    peer->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (peer->wake_fd >= 0 && listen_somewhere(peer) && start_thread(peer))
        return peer;
    free(peer);
    return NULL;
}

void query_peer_wake(struct query_peer *peer)
{
    uint64_t one = 1;

    while (write(peer->wake_fd, &one, sizeof(one)) < 0 && errno == EINTR)
        continue;
}

void query_peer_stop(struct query_peer *peer)
{
    if (!peer)
        return;
    pthread_mutex_lock(&peer->lock);
    peer->is_stopping = true;
    pthread_mutex_unlock(&peer->lock);
    query_peer_wake(peer);
    pthread_join(peer->thread, NULL);
    for (unsigned i = 0; i < QUERY_PEER_LINKS; i++)
        query_link_end(peer, &peer->links[i], false);
    for (size_t i = 0; i < peer->due_count; i++)
        free(peer->dues[i].frame.data);
    for (size_t i = 0; i < peer->held_count; i++)
        free(peer->held[i].frame.data);
    close(peer->listen_fd);
    close(peer->wake_fd);
    free(peer->dues);
    free(peer->streams);
    free(peer->held);
    free(peer->records);
    free(peer);
}

/* ---- looking at it */

const char *query_peer_address(const struct query_peer *peer)
{
    return peer->address;
}

int query_peer_port(const struct query_peer *peer)
{
    return peer->port;
}

static unsigned read_count(struct query_peer *peer, const unsigned *count)
{
    unsigned value;

    pthread_mutex_lock(&peer->lock);
    value = *count;
    pthread_mutex_unlock(&peer->lock);
    return value;
}

unsigned query_peer_requests(struct query_peer *peer)
{
    return read_count(peer, &peer->requests);
}

unsigned query_peer_accepted(struct query_peer *peer)
{
    return read_count(peer, &peer->accepted);
}

unsigned query_peer_open(struct query_peer *peer)
{
    return read_count(peer, &peer->open);
}

struct awaited {
    struct query_peer *peer;
    unsigned number;
};

static bool has_requests(void *argument)
{
    struct awaited *awaited = argument;

    return query_peer_requests(awaited->peer) >= awaited->number;
}

static bool has_open(void *argument)
{
    struct awaited *awaited = argument;

    return query_peer_open(awaited->peer) == awaited->number;
}

static bool has_unread(void *argument)
{
    struct awaited *awaited = argument;
    unsigned unread = 0;
    int waiting;

    pthread_mutex_lock(&awaited->peer->lock);
    for (unsigned i = 0; i < QUERY_PEER_LINKS; i++)
        if (awaited->peer->links[i].fd >= 0 &&
            ioctl(awaited->peer->links[i].fd, FIONREAD, &waiting) == 0)
            unread += (unsigned)waiting;
    pthread_mutex_unlock(&awaited->peer->lock);
    return unread >= awaited->number;
}

bool query_peer_wait_unread(struct query_peer *peer, unsigned least)
{
    return wait_until(has_unread, &(struct awaited){ peer, least }, SOON_MS);
}

bool query_peer_wait_requests(struct query_peer *peer, unsigned least)
{
    return wait_until(has_requests, &(struct awaited){ peer, least }, SOON_MS);
}

bool query_peer_wait_open(struct query_peer *peer, unsigned exact)
{
    return wait_until(has_open, &(struct awaited){ peer, exact }, SOON_MS);
}

void query_peer_request(struct query_peer *peer, unsigned number, char *body, unsigned *nth)
{
    pthread_mutex_lock(&peer->lock);
    body[0] = 0;
    if (number < peer->requests) {
        memcpy(body, peer->records[number].body, QUERY_PEER_KEPT);
        if (nth)
            *nth = peer->records[number].nth;
    }
    pthread_mutex_unlock(&peer->lock);
}

uint32_t query_peer_last_id(struct query_peer *peer)
{
    uint32_t id;

    pthread_mutex_lock(&peer->lock);
    id = peer->last_id;
    pthread_mutex_unlock(&peer->lock);
    return id;
}

/* ---- commands */

void query_peer_hear(struct query_peer *peer, bool does_hear)
{
    pthread_mutex_lock(&peer->lock);
    peer->options.is_deaf = !does_hear;
    pthread_mutex_unlock(&peer->lock);
    query_peer_wake(peer);
}

unsigned query_peer_push(struct query_peer *peer, const char *body)
{
    unsigned count = 0;

    pthread_mutex_lock(&peer->lock);
    for (unsigned i = 0; i < QUERY_PEER_LINKS; i++) {
        if (peer->links[i].fd < 0)
            continue;
        query_peer_append_frame(peer, &peer->links[i].out, 0, FRAME_PUSH, body, strlen(body));
        count++;
    }
    pthread_mutex_unlock(&peer->lock);
    query_peer_wake(peer);
    return count;
}

static void end_all(struct query_peer *peer, bool resets)
{
    pthread_mutex_lock(&peer->lock);
    for (unsigned i = 0; i < QUERY_PEER_LINKS; i++) {
        if (peer->links[i].fd >= 0 && !resets)
            shutdown(peer->links[i].fd, SHUT_RDWR); /* the end leaves now */
        query_link_end(peer, &peer->links[i], resets);
        free(peer->links[i].in.data);
        peer->links[i].in = (struct query_bytes){ 0 };
    }
    pthread_mutex_unlock(&peer->lock);
    query_peer_wake(peer); /* a socket that poll() looks at is not gone yet */
}

void query_peer_close(struct query_peer *peer)
{
    end_all(peer, false);
}

void query_peer_reset(struct query_peer *peer)
{
    end_all(peer, true);
}
