/* stage.c: the two stages. */
#include "world/stage.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

#include "support/peer.h"
#include "world/world.h"

#define SOON_NS (10000 * PL_MS)
#define SOON_MS 10000
#define MOST_HELD 16

static int held[MOST_HELD]; /* descriptors of foreign code on the real stage */
static unsigned held_count;

static void give_up(const char *what)
{
    fprintf(stderr, "stage: %s: %s\n", what, strerror(errno));
    abort();
}

/* ---- notes */

void stage_note_text(struct stage *stage, const char *what, const char *text)
{
    size_t length = strlen(stage->notes);

    snprintf(stage->notes + length, sizeof(stage->notes) - length, "%s: %s\n", what, text);
}

void stage_note(struct stage *stage, const char *what, long answer)
{
    char number[32];

    snprintf(number, sizeof(number), "%ld", answer);
    stage_note_text(stage, what, answer < 0 ? strerrorname_np((int)-answer) : number);
}

void stage_note_events(struct stage *stage, const char *what, uint32_t events)
{
    static const struct {
        uint32_t bit;
        const char *name;
    } names[] = { { EPOLLIN, "IN" }, { EPOLLOUT, "OUT" }, { EPOLLERR, "ERR" }, { EPOLLHUP, "HUP" },
                  { EPOLLRDHUP, "RDHUP" }, { POLLNVAL, "NVAL" } };
    char text[64] = "";

    for (size_t i = 0; i < PL_COUNT(names); i++) {
        if (events & names[i].bit)
            sprintf(text + strlen(text), "%s%s", *text ? " " : "", names[i].name);
    }
    stage_note_text(stage, what, text);
}

/* ---- peers */

static const char *const places[] = { "tcp://10.0.0.1:80", "unix:///run/stage",
                                      "abstract://stage" };

static enum world_behaviour scripted_behaviour(enum stage_peer peer)
{
    return peer == STAGE_FULL ? WORLD_BLACK_HOLE : peer == STAGE_DEAF ? WORLD_DEAF : WORLD_ECHO;
}

static enum peer_behaviour real_behaviour(enum stage_peer peer)
{
    return peer == STAGE_FULL ? PEER_NEVER_ACCEPT : peer == STAGE_DEAF ? PEER_DEAF : PEER_ECHO;
}

void stage_peer(struct stage *stage, enum stage_place place, enum stage_peer peer)
{
    if (stage->world) {
        stage->scripted =
            WORLD_LISTEN(stage->world, places[place], .behave = scripted_behaviour(peer));
        return;
    }
    stage->real =
        PEER(.behave = real_behaviour(peer), .family = place == STAGE_TCP ? AF_INET : AF_UNIX,
             .abstract = place == STAGE_ABSTRACT);
    if (!stage->real)
        give_up("peer");
}

int stage_socket(struct stage *stage, enum stage_place place)
{
    return stage->os->socket(place == STAGE_TCP ? AF_INET : AF_UNIX, SOCK_STREAM, 0);
}

static int connect_to(struct stage *stage, int fd, const char *address)
{
    struct sockaddr_in tcp = { .sin_family = AF_INET, .sin_port = htons(80) };
    struct sockaddr_un name = { .sun_family = AF_UNIX };
    const char *text = strstr(address, "://") + 3;
    bool is_abstract = *address == 'a';

    if (*address == 't') {
        tcp.sin_addr.s_addr = htonl(0x0a000001);
        return stage->os->connect(fd, (struct sockaddr *)&tcp, sizeof(tcp));
    }
    memcpy(name.sun_path + is_abstract, text, strlen(text));
    return stage->os->connect(
        fd, (struct sockaddr *)&name,
        (socklen_t)(offsetof(struct sockaddr_un, sun_path) + is_abstract + strlen(text)));
}

int stage_connect(struct stage *stage, int fd)
{
    const struct sockaddr *address;
    int type, family;
    socklen_t size = sizeof(type);

    if (stage->real) {
        address = peer_sockaddr(stage->real, &size);
        return stage->os->connect(fd, address, size);
    }
    stage->os->getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &family, &size);
    for (size_t i = 0; i < PL_COUNT(places); i++) {
        if ((*places[i] == 't') != (family == AF_INET))
            continue;
        type = connect_to(stage, fd, places[i]);
        if (type != -ENOENT && type != -ECONNREFUSED)
            return type;
    }
    return -ECONNREFUSED;
}

/* A port that was just free is as good as one where nobody listens. */
static int connect_to_free_port(struct stage *stage, int fd)
{
    struct sockaddr_in address = { .sin_family = AF_INET,
                                   .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t size = sizeof(address);
    int other = socket(AF_INET, SOCK_STREAM, 0);

    bind(other, (struct sockaddr *)&address, size);
    getsockname(other, (struct sockaddr *)&address, &size);
    close(other);
    return stage->os->connect(fd, (struct sockaddr *)&address, size);
}

int stage_connect_nowhere(struct stage *stage, int fd, enum stage_place place)
{
    static const char *const nowhere[] = { "tcp://10.0.0.9:9", "unix:///nobody/here",
                                           "abstract://nobody-here" };

    if (!stage->world && place == STAGE_TCP)
        return connect_to_free_port(stage, fd);
    return connect_to(stage, fd, nowhere[place]);
}

int stage_dial(struct stage *stage, enum stage_place place)
{
    int fd = stage_socket(stage, place), error;

    error = fd < 0 ? fd : stage_connect(stage, fd);
    if (error) {
        errno = -error;
        give_up("dial");
    }
    if (stage->world)
        world_settle(stage->world);
    else if (!peer_wait_accepted(stage->real, 1, SOON_MS))
        give_up("accept");
    return fd;
}

void stage_push(struct stage *stage, const char *text)
{
    if (!stage->world) {
        peer_push(stage->real, PEER_ALL, text, strlen(text));
        return;
    }
    world_say_text(world_link_at(stage->scripted, 0), text);
    world_settle(stage->world);
}

void stage_half_close(struct stage *stage)
{
    if (!stage->world) {
        peer_half_close(stage->real, PEER_ALL);
        return;
    }
    world_half_close(world_link_at(stage->scripted, 0));
    world_settle(stage->world);
}

void stage_close(struct stage *stage)
{
    if (!stage->world) {
        peer_close_all(stage->real);
        return;
    }
    world_close_all(stage->scripted);
    world_settle(stage->world);
}

void stage_reset(struct stage *stage)
{
    if (!stage->world) {
        peer_reset_all(stage->real);
        return;
    }
    world_reset(world_link_at(stage->scripted, 0));
    world_settle(stage->world);
}

/* ---- looking */

static uint32_t poll_for(struct stage *stage, int fd, uint32_t events, uint64_t deadline_ns)
{
    struct pollfd polled = { .fd = fd, .events = (short)events };

    stage->os->poll_until(&polled, 1, deadline_ns);
    return (uint32_t)(unsigned short)polled.revents;
}

uint32_t stage_events(struct stage *stage, int fd)
{
    return poll_for(stage, fd, EPOLLIN | EPOLLOUT | EPOLLRDHUP, 0);
}

uint32_t stage_wait(struct stage *stage, int fd, uint32_t events)
{
    poll_for(stage, fd, events, stage->os->now_ns() + SOON_NS);
    return stage_events(stage, fd);
}

uint64_t stage_cookie(struct stage *stage, int fd)
{
    uint64_t cookie = 0;
    socklen_t size = sizeof(cookie);

    stage->os->getsockopt(fd, SOL_SOCKET, SO_COOKIE, &cookie, &size);
    return cookie;
}

/* ---- foreign code */

static void hold_really(int fd)
{
    if (held_count < MOST_HELD && fd >= 0)
        held[held_count++] = fd;
}

int stage_foreign_replace(struct stage *stage, int fd)
{
    int pair[2];

    if (stage->world)
        return world_foreign_replace(stage->world, fd);
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair))
        give_up("socketpair");
    dup2(pair[0], fd);
    close(pair[0]);
    hold_really(pair[1]);
    return fd;
}

void stage_foreign_hold(struct stage *stage, int fd)
{
    if (stage->world)
        world_foreign_hold(stage->world, fd);
    else
        hold_really(fcntl(fd, F_DUPFD_CLOEXEC, 3));
}

void stage_foreign_close(struct stage *stage, int fd)
{
    if (stage->world)
        world_foreign_close(stage->world, fd);
    else
        close(fd);
}

/* ---- playing */

bool stage_play(stage_script *script)
{
    struct stage real = { .os = &pl_os_real }, scripted = { .world = world_create(1) };
    bool is_same;

    scripted.os = world_os(scripted.world);
    script(&scripted);
    world_destroy(scripted.world);
    script(&real);
    peer_stop(real.real);
    while (held_count)
        close(held[--held_count]);
    is_same = !strcmp(scripted.notes, real.notes);
    if (!is_same)
        fprintf(stderr, "---- the world:\n%s---- Linux:\n%s----\n", scripted.notes, real.notes);
    return is_same;
}
