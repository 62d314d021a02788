/* world.h: the scripted world, a kernel made of memory: network, clock, threads and heap behind the
 * door of lib/base/os.h.
 *
 * A pool in it opens no socket, starts no thread and never sleeps; a run is the same every time.
 *
 *     struct world *world = world_create(1);
 *     struct world_peer *peer = WORLD_LISTEN(world, "tcp://10.0.0.1:80", .behave = WORLD_ECHO);
 *     pl_os_replace(world_os(world));
 *     ... talk to tcp://10.0.0.1:80 through a pool ...
 *     pl_os_replace(NULL);
 *     world_destroy(world);
 *
 * Rules:
 * - One world at a time, used by one thread. Calls that wait turn the world on the calling thread
 *   until what they wait for has come: they deliver bytes, run what world_at() planned, run the
 *   steps of the library's threads, and when nothing is left to do at this moment, the clock jumps
 *   to the next one. Nothing else moves the clock.
 * - Errors of the library that no status can tell end the process with a message (abort): waiting
 *   for ever for what cannot come, waiting inside a step of a thread of its own, going round
 *   without the clock moving, raising SIGPIPE.
 * - Numbers are given out as the kernel does, the lowest free one first, from 3. SO_COOKIE never
 *   comes again.
 * - Bytes and ends need 20 us each way, unless the peer says otherwise. They stay in order on a
 *   connection.
 * - Hooks of a peer and what world_at() runs may call everything here, and the library.
 *
 * It is not a model of TCP: nothing is lost, windows are a number of bytes, and ports are never in
 * TIME_WAIT. What it answers to a call is meant to be what Linux answers;
 * test/base/test_world_linux.c holds the two against each other.
 */
#ifndef TEST_WORLD_WORLD_H
#define TEST_WORLD_WORLD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/os.h"

struct world;
struct world_peer; /* one address and how it behaves */
struct world_link; /* one connection, as its peer sees it */

typedef void world_fn(void *argument);

struct world *world_create(uint64_t seed);
/* with all its peers; the door must be another one by then */
void world_destroy(struct world *world);
const struct pl_os *world_os(struct world *world);

/* ---- time, in milliseconds since the world began */

uint64_t world_now_ms(const struct world *world);
void world_run(struct world *world, uint64_t ms); /* lets that much time pass */
void world_settle(struct world *world); /* until no byte is on its way and every thread waits */
/* in `ms` from now */
void world_at(struct world *world, uint64_t ms, world_fn *run, void *argument);
/* A signal that somebody has blocked comes to the process (1 to 63). */
void world_signal(struct world *world, int signo);
/* whoever waits beyond this moment waits too long: abort */
void world_end_at(struct world *world, uint64_t ms);

/* ---- resources: what the library has, and what there is */

/* numbers from `limit` on: EMFILE; 1,024 */
void world_limit_descriptors(struct world *world, unsigned limit);
/* tcp connections at once: EADDRNOTAVAIL */
void world_limit_ports(struct world *world, unsigned limit);
unsigned world_descriptors(const struct world *world);
unsigned world_threads(const struct world *world);
size_t world_allocations(const struct world *world);
size_t world_allocated_bytes(const struct world *world);
size_t world_maps(const struct world *world); /* pages may stay: arenas keep theirs on purpose */
uint64_t world_calls(const struct world *world); /* of the door, that a kernel would see */
/* steps that were run because something was ready */
uint64_t world_wakeups(const struct world *world);

/* ---- code that is not ours, in the same process */

void world_foreign_close(struct world *world, int fd); /* closes our number by mistake */
/* dup2 of a connected socket of its own over it */
int world_foreign_replace(struct world *world, int fd);
int world_foreign_open(struct world *world); /* opens a connected socket: the lowest free number */
/* to be read there */
void world_foreign_say(struct world *world, int fd, const void *bytes, size_t size);
void world_foreign_hold(struct world *world, int fd); /* a child process has inherited our socket */

/* What the library did that it must not: each byte written to and each call that changes a foreign
 * descriptor, and each close of a number that is not open. */
uint64_t world_violations(const struct world *world);

/* ---- peers */

enum world_behaviour {
    WORLD_ECHO, /* sends back what it got */
    WORLD_SILENT, /* reads, never answers */
    WORLD_DEAF, /* never reads, and so never notices an end either */
    /* echo, and .push unasked: .push_on_accept, and each .interval_ms where that is set */
    WORLD_PUSH,
    WORLD_CLOSE_RECEIVED, /* closes after .after_bytes received, echo until then */
    WORLD_CLOSE_SENT, /* echo, closes when exactly .after_bytes are sent */
    WORLD_RESET, /* resets after .after_bytes received, echo until then; 0: at once */
    WORLD_HALF_CLOSE, /* ends its direction after .after_bytes received, reads on; 0: at once */
    WORLD_GARBAGE, /* answers with as many random bytes */
    WORLD_DRIP, /* echo, one byte each .interval_ms, which is then 20 by default */
    WORLD_EXTRA, /* echo, then one stray '!' after .delay_ms */
    WORLD_ACCEPT_CLOSE, /* closes what it accepts */
    WORLD_REFUSE, /* nobody listens: ECONNREFUSED */
    WORLD_UNREACHABLE, /* no way there: EHOSTUNREACH */
    WORLD_BLACK_HOLE, /* connecting is never answered; unix: EAGAIN, the backlog is full */
    WORLD_SELF, /* tcp: connecting reaches the connecting socket itself */
};

struct world_peer_options {
    enum world_behaviour behave;
    unsigned delay_ms; /* what is answered is answered so much later */
    unsigned interval_ms;
    size_t after_bytes;
    const char *push; /* "push\n" by default; not copied */
    bool push_on_accept;
    unsigned latency_us; /* each way; 20 by default, WORLD_NO_LATENCY */
    size_t window; /* bytes that may be under way to the peer, unread by it; 64 KiB by default */
    /* Hooks, for peers of one's own. A hook that is set takes the place of the behaviour. */
    void (*on_accept)(struct world_link *link, void *user);
    void (*on_bytes)(struct world_link *link, const char *bytes, size_t size, void *user);
    void (*on_end)(struct world_link *link, bool was_reset, void *user);
    void *user;
};
#define WORLD_NO_LATENCY UINT32_MAX

/* `address` is tcp://1.2.3.4:5, tcp://[::1]:5, unix:///path or abstract://name. What nobody listens
 * on refuses. */
struct world_peer *world_listen(struct world *world, const char *address,
                                const struct world_peer_options *options);
#define WORLD_LISTEN(world, address, ...) \
    world_listen((world), (address), &(struct world_peer_options){ __VA_ARGS__ })

/* from now on, on all connections */
void world_behave(struct world_peer *peer, enum world_behaviour behave);
void world_close_all(struct world_peer *peer); /* the peer closes every connection that it has */
void world_vanish(struct world_peer *peer); /* its wire is cut: nothing arrives, either way */

struct world_peer_counts {
    unsigned accepted, open, most_open;
    unsigned ends, resets; /* that it saw from the other side */
    uint64_t bytes_in, bytes_out;
};
struct world_peer_counts world_counts(const struct world_peer *peer);

/* in order of acceptance, from 0; NULL */
struct world_link *world_link_at(struct world_peer *peer, unsigned nth);
unsigned world_link_nth(const struct world_link *link);
bool world_link_is_open(const struct world_link *link); /* at the peer */
/* all that came, ever */
size_t world_link_received(const struct world_link *link, const char **bytes);
void world_link_set_user(struct world_link *link, void *user);
void *world_link_user(const struct world_link *link);

void world_say(struct world_link *link, const void *bytes, size_t size);
void world_say_text(struct world_link *link, const char *text);
void world_half_close(struct world_link *link); /* shutdown(SHUT_WR) */
void world_close(struct world_link *link); /* close: FIN, or RST when something is unread */
void world_reset(struct world_link *link);

/* A number from the world's own dice, for peers and scripts. */
uint64_t world_dice(struct world *world);

#endif
