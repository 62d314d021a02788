/* world_link.c: the wire between a socket and its peer. What is put on it arrives later, in order,
 * or, when the wire is cut, never. */
#include <errno.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>

#include "world/world_parts.h"

#define RETRANSMISSION_NS (924600 * PL_MS) /* what tcp_retries2 comes to */
#define THOUGHT_NS PL_MS /* what is delayed more is not on its way yet, but in its sender's mind */

enum packet_kind {
    /* to the socket */
    PACKET_CONNECTED,
    PACKET_BYTES_IN,
    PACKET_HALF_END_IN,
    PACKET_END_IN,
    PACKET_RESET_IN,
    PACKET_SILENCE,
    /* to the peer */
    PACKET_ACCEPT,
    PACKET_BYTES_OUT,
    PACKET_END_OUT,
    PACKET_RESET_OUT
};

struct packet {
    struct world_event event; /* first: the event's memory is the packet's */
    struct world_link *link;
    enum packet_kind kind;
    int error;
    size_t size;
    char bytes[];
};

static bool goes_out(enum packet_kind kind)
{
    return kind >= PACKET_ACCEPT;
}

static struct packet *make_packet(struct world_link *link, enum packet_kind kind, const void *bytes,
                                  size_t size)
{
    struct packet *packet = world_memory(sizeof(*packet) + size);

    packet->link = link;
    packet->kind = kind;
    packet->size = size;
    if (size)
        memcpy(packet->bytes, bytes, size);
    return packet;
}

static void post(struct packet *packet, world_fn *deliver, uint64_t delay_ns)
{
    struct world_link *link = packet->link;
    struct world *world = link->peer->world;
    uint64_t *last_ns = goes_out(packet->kind) ? &link->last_out_ns : &link->last_in_ns;
    uint64_t time_ns = world->now_ns + world_peer_latency_ns(link->peer) + delay_ns;

    packet->event.run = deliver;
    packet->event.argument = packet;
    packet->event.is_packet = delay_ns < THOUGHT_NS;
    if (packet->kind != PACKET_SILENCE) {
        if (time_ns < *last_ns)
            time_ns = *last_ns;
        *last_ns = time_ns;
    }
    world_plan(world, time_ns, &packet->event);
}

/* ---- what arrives at the socket */

static void end_socket(struct world_file *file, bool is_closed)
{
    file->socket.end_came = true;
    file->socket.is_shut_for_reading = true;
    if (is_closed && file->socket.family == AF_UNIX)
        file->socket.is_shut_for_writing = true;
}

static void connect_socket(struct world_file *file, struct packet *packet)
{
    if (packet->error) {
        world_socket_died(file, packet->error);
        return;
    }
    world_socket_connected(file);
    post(make_packet(packet->link, PACKET_ACCEPT, NULL, 0), packet->event.run, 0);
}

static void deliver_to_socket(struct packet *packet)
{
    struct world_link *link = packet->link;
    struct world_file *file = link->file;

    if (!file) {
        if (packet->kind == PACKET_BYTES_IN && link->is_open && link->family != AF_UNIX)
            post(make_packet(link, PACKET_RESET_OUT, NULL, 0), packet->event.run, 0);
        return;
    }
    switch (packet->kind) {
    case PACKET_CONNECTED:
        connect_socket(file, packet);
        return;
    case PACKET_BYTES_IN:
        world_bytes_add(&file->socket.inbox, packet->bytes, packet->size);
        return;
    case PACKET_HALF_END_IN:
    case PACKET_END_IN:
        end_socket(file, packet->kind == PACKET_END_IN);
        return;
    case PACKET_SILENCE:
        world_socket_died(file, ETIMEDOUT);
        return;
    default:
        world_socket_died(file,
                          file->socket.end_came && link->family != AF_UNIX ? EPIPE : ECONNRESET);
    }
}

/* ---- what arrives at the peer */

static void deliver_to_peer(struct packet *packet)
{
    struct world_link *link = packet->link;

    if (packet->kind == PACKET_ACCEPT) {
        world_peer_accepted(link);
        return;
    }
    if (!link->is_open) {
        if (packet->kind == PACKET_BYTES_OUT && link->family != AF_UNIX)
            post(make_packet(link, PACKET_RESET_IN, NULL, 0), packet->event.run, 0);
        return;
    }
    if (packet->kind == PACKET_BYTES_OUT)
        world_peer_received(link, packet->bytes, packet->size);
    else
        world_peer_ended(link, packet->kind == PACKET_RESET_OUT);
}

static void deliver(void *argument)
{
    struct packet *packet = argument;

    if (packet->link->peer->is_gone && packet->kind != PACKET_SILENCE &&
        packet->kind != PACKET_CONNECTED)
        return;
    if (goes_out(packet->kind))
        deliver_to_peer(packet);
    else
        deliver_to_socket(packet);
}

/* ---- sending */

static void give_up_later(struct world_link *link)
{
    const struct socket_option *option = world_option_of(link->file, IPPROTO_TCP, TCP_USER_TIMEOUT);
    uint64_t patience_ns = RETRANSMISSION_NS;
    int ms;

    if (option) {
        memcpy(&ms, option->value, sizeof(ms));
        patience_ns = ms > 0 ? (uint64_t)ms * PL_MS : patience_ns;
    }
    post(make_packet(link, PACKET_SILENCE, NULL, 0), deliver, patience_ns);
}

void world_link_answer_connect(struct world_link *link, int error, uint64_t delay_ns)
{
    struct packet *packet = make_packet(link, PACKET_CONNECTED, NULL, 0);

    packet->error = error;
    post(packet, deliver, delay_ns);
}

void world_link_announce(struct world_link *link)
{
    post(make_packet(link, PACKET_ACCEPT, NULL, 0), deliver, 0);
}

void world_link_carry(struct world_link *link, const void *bytes, size_t size)
{
    if (!link->unread && link->peer->is_gone && link->family != AF_UNIX)
        give_up_later(link);
    link->unread += size;
    post(make_packet(link, PACKET_BYTES_OUT, bytes, size), deliver, 0);
}

void world_link_carry_end(struct world_link *link, bool is_reset)
{
    post(make_packet(link, is_reset ? PACKET_RESET_OUT : PACKET_END_OUT, NULL, 0), deliver, 0);
}

static size_t window_of(const struct world_link *link)
{
    return link->peer->options.window ? link->peer->options.window : 65536;
}

size_t world_link_room(const struct world_link *link)
{
    size_t window = window_of(link);

    return link->unread < window ? window - link->unread : 0;
}

bool world_link_is_writable(const struct world_link *link)
{
    return link->unread * 3 <= window_of(link) * 2;
}

void world_link_say_later(struct world_link *link, const void *bytes, size_t size,
                          uint64_t delay_ns)
{
    if (!link->is_open || link->has_ended || !size)
        return;
    link->sent += size;
    link->peer->counts.bytes_out += size;
    post(make_packet(link, PACKET_BYTES_IN, bytes, size), deliver, delay_ns);
}

void world_say(struct world_link *link, const void *bytes, size_t size)
{
    world_link_say_later(link, bytes, size, 0);
}

void world_say_text(struct world_link *link, const char *text)
{
    world_link_say_later(link, text, strlen(text), 0);
}

void world_half_close(struct world_link *link)
{
    if (!link->is_open || link->has_ended)
        return;
    link->has_ended = true;
    post(make_packet(link, PACKET_HALF_END_IN, NULL, 0), deliver, 0);
}

static void end_link(struct world_link *link, enum packet_kind kind)
{
    if (!link->is_open)
        return;
    link->is_open = false;
    link->peer->counts.open--;
    post(make_packet(link, kind, NULL, 0), deliver, 0);
}

void world_close(struct world_link *link)
{
    end_link(link, link->arrived ? PACKET_RESET_IN : PACKET_END_IN);
}

void world_reset(struct world_link *link)
{
    end_link(link, PACKET_RESET_IN);
}

/* ---- life and questions */

struct world_link *world_link_open(struct world_peer *peer, struct world_file *file)
{
    struct world_link *link = world_memory(sizeof(*link));

    link->peer = peer;
    link->file = file;
    link->family = file->socket.family;
    pl_list_push_back(&peer->links, &link->peer_link);
    return link;
}

void world_link_free(struct world_link *link)
{
    free(link->received.data);
    free(link->drip.data);
    free(link);
}

struct world_link *world_link_at(struct world_peer *peer, unsigned nth)
{
    PL_LIST_EACH(place, &peer->links) {
        struct world_link *link = pl_container(place, struct world_link, peer_link);

        if (link->is_accepted && link->nth == nth)
            return link;
    }
    return NULL;
}

unsigned world_link_nth(const struct world_link *link)
{
    return link->nth;
}

bool world_link_is_open(const struct world_link *link)
{
    return link->is_open;
}

size_t world_link_received(const struct world_link *link, const char **bytes)
{
    *bytes = link->received.data;
    return link->received.end;
}

void world_link_set_user(struct world_link *link, void *user)
{
    link->user = user;
}

void *world_link_user(const struct world_link *link)
{
    return link->user;
}
