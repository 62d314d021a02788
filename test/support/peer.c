/* peer.c: what a test asks of a running loopback peer: commands, counters and waiting for them.
 *
 * One command is on its way at a time; it is answered by its ticket in the shared block. Waiting
 * is on the futex there, which moves whenever anything in the block did. */
#include "support/peer.h"

#include <errno.h>
#include <linux/futex.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>

#include "support/peer_parts.h"

#define LOOK_AGAIN_US 200000                        /* at whether the child still lives */
#define COMMAND_WITHIN_MS 60000

struct wanted {
    enum peer_counter counter;
    uint64_t value;
    uint32_t nth;
};

typedef bool wanted_fn(const struct peer *peer, const struct wanted *wanted);

static bool is_alive(struct peer *peer)
{
    int status = 0;

    if (!peer->pid)
        return true;
    if (atomic_load(&peer->is_gone))
        return false;
    if (waitpid(peer->pid, &status, WNOHANG) != peer->pid)
        return true;
    atomic_store(&peer->is_gone, true);
    fprintf(stderr, "loopback peer %s: its process ended, status 0x%x\n", peer->address,
            (unsigned)status);
    return false;
}

static bool wait_for(struct peer *peer, wanted_fn *holds, const struct wanted *wanted,
                     unsigned within_ms)
{
    uint64_t deadline_us = peer_clock_us() + within_ms * UINT64_C(1000), now_us, left_us;
    uint32_t seen;

    for (;;) {
        seen = atomic_load(&peer->shared->changes);
        if (holds(peer, wanted))
            return true;
        now_us = peer_clock_us();
        if (now_us >= deadline_us || !is_alive(peer))
            return false;
        left_us = deadline_us - now_us;
        atomic_fetch_add(&peer->shared->waiters, 1);
        peer_futex(&peer->shared->changes, FUTEX_WAIT, seen,
                   left_us < LOOK_AGAIN_US ? left_us : LOOK_AGAIN_US);
        atomic_fetch_sub(&peer->shared->waiters, 1);
    }
}

static bool has_least(const struct peer *peer, const struct wanted *wanted)
{
    return peer_count(peer, wanted->counter) >= wanted->value;
}

static bool has_exact(const struct peer *peer, const struct wanted *wanted)
{
    return peer_count(peer, wanted->counter) == wanted->value;
}

static bool has_ended(const struct peer *peer, const struct wanted *wanted)
{
    return peer_how_ended(peer, wanted->nth) == (enum peer_end)wanted->value;
}

static bool has_answered(const struct peer *peer, const struct wanted *wanted)
{
    return atomic_load(&peer->shared->answered) == wanted->value;
}

static uint32_t command(struct peer *peer, struct peer_command head, const void *bytes)
{
    struct iovec parts[2] = {{&head, sizeof(head)}, {(void *)(uintptr_t)bytes, head.size}};
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = head.size ? 2 : 1};
    struct wanted wanted = {0};
    uint32_t answer;
    bool is_done;
    ssize_t sent;

    pthread_mutex_lock(&peer->lock);
    head.ticket = ++peer->ticket;
    wanted.value = head.ticket;
    do
        sent = sendmsg(peer->command_fd, &message, MSG_NOSIGNAL);
    while (sent < 0 && errno == EINTR);
    is_done = sent > 0 && wait_for(peer, has_answered, &wanted, COMMAND_WITHIN_MS);
    answer = is_done ? atomic_load(&peer->shared->answer) : 0;
    pthread_mutex_unlock(&peer->lock);
    if (!is_done)
        fprintf(stderr, "loopback peer %s: it does not obey\n", peer->address);
    return answer;
}

static uint32_t order(struct peer *peer, enum peer_order what, uint32_t nth)
{
    return command(peer, (struct peer_command){.order = what, .nth = nth}, NULL);
}

static void set(struct peer *peer, enum peer_order what, uint64_t number)
{
    command(peer, (struct peer_command){.order = what, .nth = PEER_ALL, .number = number}, NULL);
}

bool peer_wait_ticket(struct peer *peer, uint32_t ticket)
{
    struct wanted wanted = {.value = ticket};

    return wait_for(peer, has_answered, &wanted, COMMAND_WITHIN_MS);
}

void peer_stop_serving(struct peer *peer)
{
    if (!atomic_load(&peer->is_gone))
        order(peer, PEER_DO_STOP, PEER_ALL);
}

const char *peer_address(const struct peer *peer)
{
    return peer->address;
}

int peer_port(const struct peer *peer)
{
    return peer_place_port(&peer->place);
}

const struct sockaddr *peer_sockaddr(const struct peer *peer, socklen_t *size)
{
    *size = peer->place.size;
    return &peer->place.name.any;
}

int peer_pid(const struct peer *peer)
{
    return peer->pid;
}

int peer_dial(const struct peer *peer)
{
    return peer_place_dial(&peer->place);
}

uint64_t peer_count(const struct peer *peer, enum peer_counter counter)
{
    return atomic_load(&peer->shared->counters[counter]);
}

bool peer_wait_least(struct peer *peer, enum peer_counter counter, uint64_t least,
                     unsigned within_ms)
{
    struct wanted wanted = {.counter = counter, .value = least};

    return wait_for(peer, has_least, &wanted, within_ms);
}

bool peer_wait_exact(struct peer *peer, enum peer_counter counter, uint64_t exact,
                     unsigned within_ms)
{
    struct wanted wanted = {.counter = counter, .value = exact};

    return wait_for(peer, has_exact, &wanted, within_ms);
}

bool peer_wait_accepted(struct peer *peer, uint64_t least, unsigned within_ms)
{
    return peer_wait_least(peer, PEER_ACCEPTED, least, within_ms);
}

uint64_t peer_accepted(struct peer *peer, uint64_t least)
{
    (void)!peer_wait_accepted(peer, least, 20000);
    return peer_count(peer, PEER_ACCEPTED);
}

bool peer_wait_open(struct peer *peer, uint64_t exact, unsigned within_ms)
{
    return peer_wait_exact(peer, PEER_OPEN, exact, within_ms);
}

bool peer_wait_bytes_in(struct peer *peer, uint64_t least, unsigned within_ms)
{
    return peer_wait_least(peer, PEER_BYTES_IN, least, within_ms);
}

bool peer_wait_requests(struct peer *peer, uint64_t least, unsigned within_ms)
{
    return peer_wait_least(peer, PEER_REQUESTS, least, within_ms);
}

bool peer_wait_end(struct peer *peer, uint32_t nth, enum peer_end end, unsigned within_ms)
{
    struct wanted wanted = {.value = end, .nth = nth};

    return wait_for(peer, has_ended, &wanted, within_ms);
}

uint64_t peer_received(const struct peer *peer, uint32_t nth, void *buffer, size_t size)
{
    struct peer_record *record = peer_record_of(peer->shared, nth);
    uint64_t received = record ? atomic_load(&record->received) : 0;
    size_t kept =
        received < peer->shared->record_bytes ? (size_t)received : peer->shared->record_bytes;

    if (record && size)
        memcpy(buffer, peer_record_bytes(peer->shared, nth), kept < size ? kept : size);
    return received;
}

enum peer_end peer_how_ended(const struct peer *peer, uint32_t nth)
{
    struct peer_record *record = peer_record_of(peer->shared, nth);

    return record ? (enum peer_end)atomic_load(&record->end) : PEER_UNKNOWN;
}

unsigned peer_push(struct peer *peer, uint32_t nth, const void *bytes, size_t size)
{
    struct peer_command head = {.order = PEER_DO_PUSH, .nth = nth, .size = (uint32_t)size};

    if (size > PEER_COMMAND_BYTES)
        return 0;
    return command(peer, head, bytes);
}

unsigned peer_close(struct peer *peer, uint32_t nth)
{
    return order(peer, PEER_DO_CLOSE, nth);
}

unsigned peer_reset(struct peer *peer, uint32_t nth)
{
    return order(peer, PEER_DO_RESET, nth);
}

unsigned peer_half_close(struct peer *peer, uint32_t nth)
{
    return order(peer, PEER_DO_HALF_CLOSE, nth);
}

unsigned peer_close_all(struct peer *peer)
{
    return order(peer, PEER_DO_CLOSE, PEER_ALL);
}

unsigned peer_reset_all(struct peer *peer)
{
    return order(peer, PEER_DO_RESET, PEER_ALL);
}

unsigned peer_half_close_all(struct peer *peer)
{
    return order(peer, PEER_DO_HALF_CLOSE, PEER_ALL);
}

void peer_pause_reading(struct peer *peer)
{
    set(peer, PEER_DO_PAUSE_READING, true);
}

void peer_resume_reading(struct peer *peer)
{
    set(peer, PEER_DO_PAUSE_READING, false);
}

void peer_pause_accepting(struct peer *peer)
{
    set(peer, PEER_DO_PAUSE_ACCEPTING, true);
}

void peer_resume_accepting(struct peer *peer)
{
    set(peer, PEER_DO_PAUSE_ACCEPTING, false);
}

void peer_set_behaviour(struct peer *peer, enum peer_behaviour behaviour)
{
    set(peer, PEER_DO_BEHAVE, behaviour);
}

void peer_set_delay(struct peer *peer, unsigned delay_ms)
{
    set(peer, PEER_DO_DELAY, delay_ms);
}

void peer_set_interval(struct peer *peer, unsigned interval_ms)
{
    set(peer, PEER_DO_INTERVAL, interval_ms);
}

void peer_set_after(struct peer *peer, size_t after_bytes)
{
    set(peer, PEER_DO_AFTER, after_bytes);
}

void peer_down(struct peer *peer)
{
    order(peer, PEER_DO_DOWN, PEER_ALL);
}

bool peer_up(struct peer *peer)
{
    errno = (int)order(peer, PEER_DO_UP, PEER_ALL);
    return errno == 0;
}

bool peer_restart(struct peer *peer)
{
    peer_down(peer);
    return peer_up(peer);
}
