/* queries_peer.c: frames, and who answers them. See queries_peer.h. */
#include "queries_peer.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <unistd.h>

#include "bench.h"

#define DESCRIPTORS 1024
#define RECEIVE 262144u

/* What came of a frame whose end is still to come. */
struct rest {
    size_t size;
    char bytes[FRAME_MOST];
};

static char buffer[RECEIVE + FRAME_MOST];

size_t frame_request(char *to, uint32_t id, const void *body, size_t size)
{
    frame_write_head(to, &(struct frame_head){ (uint32_t)size, id, FRAME_REQUEST });
    memcpy(to + FRAME_HEAD, body, size);
    return FRAME_HEAD + size;
}

size_t frame_find(const char *bytes, size_t size, enum frame_kind kind)
{
    struct frame_head head;
    size_t whole;

    if (size < FRAME_HEAD)
        return 0;
    head = frame_read_head(bytes);
    whole = FRAME_HEAD + head.size;
    need(whole <= FRAME_MOST && head.kind == kind, "a frame of that kind");
    return whole <= size ? whole : 0;
}

/* All whole requests become replies where they stand; answers their bytes. */
static size_t turn_round(size_t size)
{
    const uint32_t kind = htonl(FRAME_REPLY);
    size_t done = 0, frame;

    while ((frame = frame_find(buffer + done, size - done, FRAME_REQUEST))) {
        memcpy(buffer + done + FRAME_HEAD - sizeof(kind), &kind, sizeof(kind));
        done += frame;
    }
    return done;
}

static bool send_all(int fd, const char *bytes, size_t size)
{
    while (size) {
        ssize_t sent = send(fd, bytes, size, MSG_NOSIGNAL);

        if (sent < 0)
            return false;
        bytes += sent;
        size -= (size_t)sent;
    }
    return true;
}

void answer_frames(int fd)
{
    static struct rest rests[DESCRIPTORS];
    struct rest *rest;
    size_t size, done;
    ssize_t got;

    need(fd < DESCRIPTORS, "the peer has room for that descriptor");
    rest = &rests[fd];
    memcpy(buffer, rest->bytes, rest->size);
    got = recv(fd, buffer + rest->size, RECEIVE, MSG_DONTWAIT);
    if (got < 0 && errno == EAGAIN)
        return;
    if (got > 0) {
        size = rest->size + (size_t)got;
        done = turn_round(size);
        rest->size = size - done;
        memcpy(rest->bytes, buffer + done, rest->size);
        if (send_all(fd, buffer, done))
            return;
    }
    rest->size = 0;
    close(fd);
}

void answer_nothing(int fd)
{
    ssize_t got = recv(fd, buffer, RECEIVE, MSG_DONTWAIT);

    if (got == 0 || (got < 0 && errno != EAGAIN))
        close(fd);
}
