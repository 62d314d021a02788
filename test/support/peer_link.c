/* peer_link.c: one connection of the loopback peer: reading, the queue of what is to be sent,
 * and its end.
 *
 * Everything that happens to a link ends in peer_link_settle(), which sends what may be sent,
 * closes what is over, and brings epoll and the timer in line. A link that wants nothing leaves
 * epoll, since an end cannot be masked there. */
#include "support/peer_parts.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

static char *queue_of(const struct peer_loop *loop, const struct peer_link *link)
{
    return loop->areas + (size_t)link->slot * (PEER_LINE_BYTES + loop->options.queue_bytes) +
           PEER_LINE_BYTES;
}

static void release(struct peer_loop *loop, struct peer_link *link)
{
    while (link->due_count && link->dues[link->due_first].at_us <= loop->now_us) {
        link->released = link->dues[link->due_first].up_to;
        link->due_first = (link->due_first + 1) % PEER_DUES;
        link->due_count--;
    }
}

static void keep_record(struct peer_loop *loop, const struct peer_link *link, const char *bytes,
                        size_t size)
{
    struct peer_record *record = peer_record_of(loop->shared, link->nth);
    size_t kept, room;

    if (!record || loop->options.behave == PEER_SINK)
        return;
    kept = link->received < loop->shared->record_bytes ? (size_t)link->received
                                                       : loop->shared->record_bytes;
    room = loop->shared->record_bytes - kept;
    memcpy(peer_record_bytes(loop->shared, link->nth) + kept, bytes, size < room ? size : room);
}

static void note_received(struct peer_loop *loop, struct peer_link *link, size_t size)
{
    struct peer_record *record = peer_record_of(loop->shared, link->nth);

    link->received += size;
    if (record)
        atomic_store(&record->received, link->received);
    peer_loop_count(loop, PEER_BYTES_IN, size);
}

static bool is_reading(const struct peer_loop *loop, const struct peer_link *link)
{
    return !loop->paused_reading && !link->ended && peer_behave_room(loop, link);
}

static void note_error(struct peer_loop *loop, struct peer_link *link)
{
    if (!link->ended)
        peer_loop_count(loop, PEER_RESETS, 1);
    peer_link_close(loop, link, link->ended ? PEER_CLOSED_BY_OTHER : PEER_RESET_BY_OTHER);
}

static bool receive(struct peer_loop *loop, struct peer_link *link)
{
    size_t room = peer_behave_room(loop, link);
    char bytes[16384];
    ssize_t size = recv(link->fd, bytes, room < sizeof(bytes) ? room : sizeof(bytes), MSG_DONTWAIT);

    if (size < 0 && (errno == EAGAIN || errno == EINTR))
        return true;
    if (size < 0) {
        note_error(loop, link);
        return false;
    }
    if (size == 0) {
        link->ended = true;
        peer_loop_count(loop, PEER_ENDS, 1);
        return true;
    }
    keep_record(loop, link, bytes, (size_t)size);
    note_received(loop, link, (size_t)size);
    return peer_behave_received(loop, link, bytes, (size_t)size);
}

static bool send_queue(struct peer_loop *loop, struct peer_link *link)
{
    size_t capacity = loop->options.queue_bytes, start, size;
    uint64_t sendable;
    ssize_t sent;

    while ((sendable = peer_behave_sendable(loop, link))) {
        start = (size_t)(link->sent % capacity);
        size = sendable < capacity - start ? (size_t)sendable : capacity - start;
        sent = send(link->fd, queue_of(loop, link) + start, size, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR)
            continue;
        if (sent < 0 && errno == EAGAIN)
            return true;
        if (sent < 0) {
            note_error(loop, link);
            return false;
        }
        link->sent += (size_t)sent;
        peer_loop_count(loop, PEER_BYTES_OUT, (uint64_t)sent);
        peer_behave_sent(loop, link);
    }
    return true;
}

static void watch(struct peer_loop *loop, struct peer_link *link)
{
    struct epoll_event event = {.data.u64 = (uint64_t)link->nth << 32 | link->slot};
    int operation, rc;

    if (is_reading(loop, link))
        event.events |= EPOLLIN;
    if (peer_behave_sendable(loop, link))
        event.events |= EPOLLOUT;
    if (event.events == link->mask)
        return;
    operation = !link->mask ? EPOLL_CTL_ADD : event.events ? EPOLL_CTL_MOD : EPOLL_CTL_DEL;
    rc = epoll_ctl(loop->epoll_fd, operation, link->fd, &event);
    assert(rc == 0);
    (void)rc;
    link->mask = event.events;
}

struct peer_link *peer_link_open(struct peer_loop *loop, int fd)
{
    uint32_t slot = loop->free_count ? loop->free_slots[--loop->free_count] : loop->slots_used++;
    uint64_t nth = atomic_load(&loop->shared->counters[PEER_ACCEPTED]);
    uint64_t open = atomic_load(&loop->shared->counters[PEER_OPEN]) + 1;
    struct peer_link *link = &loop->links[slot];
    struct peer_record *record;

    memset(link, 0, sizeof(*link));
    link->fd = fd;
    link->slot = slot;
    link->nth = (uint32_t)nth;
    record = peer_record_of(loop->shared, link->nth);
    if (record)
        atomic_store(&record->end, PEER_STILL_OPEN);
    peer_loop_count(loop, PEER_OPEN, 1);
    if (open > atomic_load(&loop->shared->counters[PEER_MOST_OPEN]))
        peer_loop_count(loop, PEER_MOST_OPEN, 1);
    peer_loop_count(loop, PEER_ACCEPTED, 1);
    return link;
}

void peer_link_close(struct peer_loop *loop, struct peer_link *link, enum peer_end end)
{
    struct peer_record *record = peer_record_of(loop->shared, link->nth);

    if (link->ended)
        end = PEER_CLOSED_BY_OTHER;
    peer_timer_set(loop, link, PEER_NEVER);
    if (link->mask)
        epoll_ctl(loop->epoll_fd, EPOLL_CTL_DEL, link->fd, NULL);
    close(link->fd);
    link->fd = -1;
    loop->free_slots[loop->free_count++] = link->slot;
    if (record)
        atomic_store(&record->end, end);
    peer_loop_count(loop, PEER_OPEN, UINT64_MAX);
}

void peer_link_reset(struct peer_loop *loop, struct peer_link *link)
{
    struct linger linger = {.l_onoff = 1, .l_linger = 0};

    setsockopt(link->fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger));
    peer_link_close(loop, link, PEER_CLOSED_BY_US);
}

bool peer_link_queue(struct peer_loop *loop, struct peer_link *link, const void *bytes, size_t size,
                     unsigned delay_ms)
{
    size_t capacity = loop->options.queue_bytes, start = (size_t)(link->queued % capacity);
    size_t first = size < capacity - start ? size : capacity - start;
    uint64_t at_us = loop->now_us + delay_ms * UINT64_C(1000);
    struct peer_due *last = &link->dues[(link->due_first + link->due_count - 1) % PEER_DUES];

    if (link->write_closed || size > capacity - (size_t)(link->queued - link->sent))
        return false;
    memcpy(queue_of(loop, link) + start, bytes, first);
    memcpy(queue_of(loop, link), (const char *)bytes + first, size - first);
    link->queued += size;
    if (!delay_ms && !link->due_count) {
        link->released = link->queued;
        return true;
    }
    if (!link->due_count || (link->due_count < PEER_DUES && last->at_us < at_us)) {
        last = &link->dues[(link->due_first + link->due_count++) % PEER_DUES];
        last->at_us = at_us;
    }
    if (last->at_us < at_us)
        last->at_us = at_us;                        /* all places taken: late, never early */
    last->up_to = link->queued;
    return true;
}

bool peer_link_settle(struct peer_loop *loop, struct peer_link *link)
{
    if (!send_queue(loop, link))
        return false;
    if (peer_behave_is_over(loop, link)) {
        peer_link_close(loop, link, PEER_CLOSED_BY_US);
        return false;
    }
    if (link->must_end && !link->write_closed && link->sent == link->queued) {
        shutdown(link->fd, SHUT_WR);
        link->write_closed = true;
    }
    if (link->ended && !peer_behave_sendable(loop, link)) {
        peer_link_close(loop, link, PEER_CLOSED_BY_OTHER);
        return false;
    }
    watch(loop, link);
    peer_timer_set(loop, link, peer_behave_wake(loop, link));
    return true;
}

void peer_link_on_event(struct peer_loop *loop, struct peer_link *link, uint32_t events)
{
    if (events & ~(uint32_t)EPOLLOUT && is_reading(loop, link) && !receive(loop, link))
        return;
    peer_link_settle(loop, link);
}

void peer_link_on_timer(struct peer_loop *loop, struct peer_link *link)
{
    release(loop, link);
    peer_behave_timer(loop, link);
    peer_link_settle(loop, link);
}
