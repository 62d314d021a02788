/* world_peer.c: who listens where, and how the ready-made peers behave. */
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "world/world_parts.h"

#define DRIP_MS 20

uint64_t world_peer_latency_ns(const struct world_peer *peer)
{
    unsigned us = peer->options.latency_us;

    if (us == WORLD_NO_LATENCY)
        return 0;
    return (us ? us : 20) * UINT64_C(1000);
}

/* ---- addresses */

static bool read_tcp(const char *text, struct sockaddr_storage *address, socklen_t *size)
{
    struct sockaddr_in *four = (void *)address;
    struct sockaddr_in6 *six = (void *)address;
    const char *colon = strrchr(text, ':');
    char host[64] = "";

    if (!colon || colon == text || (size_t)(colon - text) >= sizeof(host))
        return false;
    memcpy(host, text, (size_t)(colon - text));
    if (*host == '[') {
        host[strlen(host) - 1] = '\0';
        six->sin6_family = AF_INET6;
        six->sin6_port = htons((uint16_t)atoi(colon + 1));
        *size = sizeof(*six);
        return inet_pton(AF_INET6, host + 1, &six->sin6_addr) == 1;
    }
    four->sin_family = AF_INET;
    four->sin_port = htons((uint16_t)atoi(colon + 1));
    *size = sizeof(*four);
    return inet_pton(AF_INET, host, &four->sin_addr) == 1;
}

static bool read_unix(const char *text, bool is_abstract, struct sockaddr_storage *address,
                      socklen_t *size)
{
    struct sockaddr_un *name = (void *)address;
    size_t length = strlen(text);

    if (!length || length + 1 > sizeof(name->sun_path))
        return false;
    name->sun_family = AF_UNIX;
    memcpy(name->sun_path + is_abstract, text, length);
    *size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + is_abstract + length);
    return true;
}

static bool read_address(const char *text, struct sockaddr_storage *address, socklen_t *size)
{
    if (!strncmp(text, "tcp://", 6))
        return read_tcp(text + 6, address, size);
    if (!strncmp(text, "unix://", 7))
        return read_unix(text + 7, false, address, size);
    if (!strncmp(text, "abstract://", 11))
        return read_unix(text + 11, true, address, size);
    return false;
}

/* A path ends at its first zero byte, an abstract name only where its size says. */
static bool is_same_name(const struct sockaddr_un *a, socklen_t a_size, const struct sockaddr_un *b,
                         socklen_t b_size)
{
    size_t start = offsetof(struct sockaddr_un, sun_path);

    if (a_size <= start || b_size <= start || !a->sun_path[0] != !b->sun_path[0])
        return false;
    if (!a->sun_path[0])
        return a_size == b_size && !memcmp(a->sun_path, b->sun_path, a_size - start);
    return strnlen(a->sun_path, a_size - start) == strnlen(b->sun_path, b_size - start) &&
           !memcmp(a->sun_path, b->sun_path, strnlen(a->sun_path, a_size - start));
}

static bool is_at(const struct world_peer *peer, const struct sockaddr *address, socklen_t size)
{
    const struct sockaddr_in *four = (const void *)&peer->address, *four_to = (const void *)address;
    const struct sockaddr_in6 *six = (const void *)&peer->address, *six_to = (const void *)address;

    if (peer->address.ss_family != address->sa_family)
        return false;
    switch (address->sa_family) {
    case AF_INET:
        return four->sin_port == four_to->sin_port &&
               four->sin_addr.s_addr == four_to->sin_addr.s_addr;
    case AF_INET6:
        return six->sin6_port == six_to->sin6_port &&
               !memcmp(&six->sin6_addr, &six_to->sin6_addr, sizeof(six->sin6_addr));
    default:
        return is_same_name((const void *)&peer->address, peer->address_size, (const void *)address,
                            size);
    }
}

struct world_peer *world_peer_of(struct world *world, const struct sockaddr *address,
                                 socklen_t size)
{
    PL_LIST_EACH(link, &world->peers) {
        struct world_peer *peer = pl_container(link, struct world_peer, link);

        if (is_at(peer, address, size))
            return peer;
    }
    return world->nobody;
}

/* ---- behaviour */

static void say_push(struct world_link *link)
{
    world_say_text(link, link->peer->options.push ? link->peer->options.push : "push\n");
}

static void plan_for(struct world_link *link, world_fn *run, unsigned ms)
{
    struct world_event *event = world_memory(sizeof(*event));
    struct world *world = link->peer->world;

    event->run = run;
    event->argument = link;
    world_plan(world, world->now_ns + ms * PL_MS, event);
}

static void push_again(void *argument)
{
    struct world_link *link = argument;

    if (!link->is_open || !link->peer->options.interval_ms)
        return;
    say_push(link);
    plan_for(link, push_again, link->peer->options.interval_ms);
}

static void drip(void *argument)
{
    struct world_link *link = argument;
    unsigned interval_ms = link->peer->options.interval_ms;
    char byte;

    link->is_dripping = false;
    if (!link->is_open || !world_bytes_take(&link->drip, &byte, 1, false))
        return;
    world_say(link, &byte, 1);
    link->is_dripping = true;
    plan_for(link, drip, interval_ms ? interval_ms : DRIP_MS);
}

static void echo(struct world_link *link, const char *bytes, size_t size)
{
    world_link_say_later(link, bytes, size, link->peer->options.delay_ms * PL_MS);
}

static void echo_garbage(struct world_link *link, size_t size)
{
    char *bytes = world_memory(size);

    for (size_t i = 0; i < size; i++)
        bytes[i] = (char)world_dice(link->peer->world);
    echo(link, bytes, size);
    free(bytes);
}

static void echo_and_close(struct world_link *link, const char *bytes, size_t size)
{
    size_t left = link->peer->options.after_bytes - link->sent;

    echo(link, bytes, size < left ? size : left);
    if (size >= left)
        world_close(link);
}

/* Behaviours that end something once enough has come. */
static void echo_until_enough(struct world_link *link, const char *bytes, size_t size)
{
    bool is_enough = link->received.end >= link->peer->options.after_bytes;

    switch (link->peer->options.behave) {
    case WORLD_HALF_CLOSE:
        echo(link, bytes, size);
        if (is_enough)
            world_half_close(link);
        return;
    case WORLD_RESET:
        if (is_enough)
            world_reset(link);
        break;
    default:
        if (is_enough)
            world_close(link);
    }
    echo(link, bytes, size); /* says nothing any more on one that has ended */
}

static void behave(struct world_link *link, const char *bytes, size_t size)
{
    switch (link->peer->options.behave) {
    case WORLD_SILENT:
        return;
    case WORLD_RESET:
    case WORLD_HALF_CLOSE:
    case WORLD_CLOSE_RECEIVED:
        echo_until_enough(link, bytes, size);
        return;
    case WORLD_CLOSE_SENT:
        echo_and_close(link, bytes, size);
        return;
    case WORLD_GARBAGE:
        echo_garbage(link, size);
        return;
    case WORLD_DRIP:
        world_bytes_add(&link->drip, bytes, size);
        if (!link->is_dripping)
            drip(link);
        return;
    case WORLD_EXTRA:
        world_say(link, bytes, size);
        world_link_say_later(link, "!", 1, link->peer->options.delay_ms * PL_MS);
        return;
    default:
        echo(link, bytes, size);
    }
}

static void behave_on_accept(struct world_link *link)
{
    const struct world_peer_options *options = &link->peer->options;

    if (options->behave == WORLD_ACCEPT_CLOSE)
        world_close(link);
    if (options->behave == WORLD_RESET && !options->after_bytes)
        world_reset(link);
    if (options->behave == WORLD_HALF_CLOSE && !options->after_bytes)
        world_half_close(link);
    if (options->behave != WORLD_PUSH)
        return;
    if (options->push_on_accept)
        say_push(link);
    if (options->interval_ms)
        plan_for(link, push_again, options->interval_ms);
}

/* ---- what the wire brings */

void world_peer_accepted(struct world_link *link)
{
    struct world_peer *peer = link->peer;

    link->is_accepted = link->is_open = true;
    link->nth = peer->counts.accepted++;
    if (++peer->counts.open > peer->counts.most_open)
        peer->counts.most_open = peer->counts.open;
    if (peer->options.on_accept)
        peer->options.on_accept(link, peer->options.user);
    else
        behave_on_accept(link);
}

void world_peer_received(struct world_link *link, const char *bytes, size_t size)
{
    struct world_peer *peer = link->peer;

    if (peer->options.behave == WORLD_DEAF && !peer->options.on_bytes) {
        link->arrived += size;
        return;
    }
    link->unread -= size;
    peer->counts.bytes_in += size;
    world_bytes_add(&link->received, bytes, size);
    if (peer->options.on_bytes)
        peer->options.on_bytes(link, bytes, size, peer->options.user);
    else
        behave(link, bytes, size);
}

void world_peer_ended(struct world_link *link, bool is_reset)
{
    struct world_peer *peer = link->peer;

    if (peer->options.behave == WORLD_DEAF)
        return;
    link->got_end = true;
    if (is_reset)
        peer->counts.resets++;
    else
        peer->counts.ends++;
    if (peer->options.on_end)
        peer->options.on_end(link, is_reset, peer->options.user);
    if (is_reset || !peer->options.on_end)
        world_close(link);
}

/* ---- life */

struct world_peer *world_peer_make(struct world *world, const struct world_peer_options *options)
{
    struct world_peer *peer = world_memory(sizeof(*peer));

    peer->world = world;
    peer->options = *options;
    pl_list_init(&peer->links);
    pl_list_push_back(&world->peers, &peer->link);
    return peer;
}

struct world_peer *world_listen(struct world *world, const char *address,
                                const struct world_peer_options *options)
{
    struct sockaddr_storage place = { 0 };
    struct world_peer *peer;
    socklen_t size = 0;

    if (!read_address(address, &place, &size))
        world_fail("\"%s\" is no address of this world", address);
    if (world_peer_of(world, (struct sockaddr *)&place, size) != world->nobody)
        world_fail("somebody listens on %s already", address);
    peer = world_peer_make(world, options);
    peer->address = place;
    peer->address_size = size;
    return peer;
}

void world_peer_free(struct world_peer *peer)
{
    struct pl_list *link;

    while ((link = pl_list_pop_front(&peer->links)))
        world_link_free(pl_container(link, struct world_link, peer_link));
    free(peer);
}

void world_behave(struct world_peer *peer, enum world_behaviour behave_so)
{
    peer->options.behave = behave_so;
}

void world_close_all(struct world_peer *peer)
{
    PL_LIST_EACH(link, &peer->links)
        world_close(pl_container(link, struct world_link, peer_link));
}

void world_vanish(struct world_peer *peer)
{
    peer->is_gone = true;
}

struct world_peer_counts world_counts(const struct world_peer *peer)
{
    return peer->counts;
}
