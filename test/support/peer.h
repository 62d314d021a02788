/* peer.h: the loopback peer, the other end of the tests that use real sockets.
 *
 * A peer is a small server made to misbehave on demand. One thread of its own serves up to
 * 20,000 connections with epoll, either inside the test process or, with .own_process, in a
 * child that shares no descriptor with the test.
 *
 *     struct peer *peer = PEER(.behave = PEER_ECHO, .own_process = true);
 *     ... talk to peer_address(peer) ...
 *     cr_expect(peer_wait_open(peer, 0, 1000));
 *     peer_stop(peer);
 *
 * It is not part of the library and does not go through the door: it calls the kernel directly,
 * so that a test which breaks the door leaves the peer alone.
 *
 * Rules:
 * - Connections are told apart by `nth`, their place in the order of acceptance, from 0, over
 *   the peer's whole life.
 * - Every function here may be called from any thread of the process that started the peer. A
 *   command has been carried out when its function returns.
 * - A child dies with the thread that started it (PR_SET_PDEATHSIG looks at threads) or when the
 *   test process ends.
 * - Without .own_process the peer's descriptors are in the test process: one for each
 *   connection, and three more. With it, one descriptor of the test process belongs to the peer,
 *   the line of command.
 * - A count moves after what it counts was done: having waited for it, a test may rely on the
 *   deed. The other way round it may see an end or a reply on its socket a moment before that is
 *   counted: wait, do not read once.
 * - Delays are never short; under load they may be long. */
#ifndef TEST_SUPPORT_PEER_H
#define TEST_SUPPORT_PEER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

/* A request is what one recv() brought, or .message_bytes bytes where that is set, or a line for
 * the four behaviours that say so. Unless told otherwise, answers come .delay_ms after what they
 * answer. */
enum peer_behaviour {
    PEER_ECHO,              /* sends back what it got */
    PEER_LINE_ECHO,         /* the same, whole lines only */
    PEER_SLOW,              /* echo with a .delay_ms of 100 by default */
    PEER_SILENT,            /* reads, never answers */
    PEER_SINK,              /* the same, and keeps no record of what it read */
    PEER_DEAF,              /* never reads, and so never notices an end either */
    PEER_RESET,             /* echo, RST after .after_bytes received; 0: once accepted */
    PEER_HALF_CLOSE,        /* echo, ends its direction after .after_bytes, reads on */
    PEER_GARBAGE,           /* .reply_bytes random bytes a request; 0: as many as it got */
    PEER_CLOSE_RECEIVED,    /* closes after .after_bytes received, echo until then */
    PEER_CLOSE_SENT,        /* echo, closes when exactly .after_bytes are sent */
    PEER_PUSH,              /* echo, and .push unasked, .push_on_accept, every .interval_ms */
    PEER_DRIP,              /* echo, a byte each .interval_ms (20 by default), one at once */
    PEER_ACCEPT_CLOSE,      /* closes what it accepts */
    PEER_EXTRA,             /* echo at once, then .extra_bytes stray '!' after .delay_ms */
    PEER_NEVER_ACCEPT,      /* its backlog is full: connecting hangs (unix: EAGAIN) */
    PEER_TOKEN,             /* answers the line "TOKEN n" with "nth n" */
    PEER_ID,                /* answers each line with its nth */
    PEER_REPLY,             /* answers each request with .reply */
    PEER_REPLY_LINE,        /* answers each line with .reply */
};

struct peer_options {
    bool follow;                    /* nothing; lets PEER() stand without arguments */
    enum peer_behaviour behave;
    int family;                     /* AF_INET by default, AF_INET6, AF_UNIX */
    bool abstract;                  /* AF_UNIX in the abstract name space */
    bool own_process;
    const char *host;               /* numeric loopback address; 127.0.0.1 or ::1 by default */
    bool every_loopback;            /* AF_INET: one port on all of 127.0.0.0/8, only there */
    int port;                       /* 0, the default: a free one */
    int backlog;                    /* 0: as long as the system allows */
    unsigned delay_ms, interval_ms;
    size_t after_bytes, extra_bytes, reply_bytes, message_bytes;
    const char *push, *reply;       /* copied; "push\n" and "reply\n" by default */
    bool push_on_accept;
    uint64_t seed;                  /* of the garbage */
    unsigned max_connections;       /* at once; 4,096 by default, 20,000 with .own_process */
    unsigned max_descriptors;       /* of its own process; all that are allowed by default */
    size_t queue_bytes;             /* unsent bytes a connection may have; 64 KiB by default */
    unsigned record_connections;    /* whose received bytes are kept; 256 by default */
    size_t record_bytes;            /* and how many of each; 1,024 by default */
};

/* Counts over the peer's whole life, but for PEER_OPEN. */
enum peer_counter {
    PEER_ACCEPTED,
    PEER_OPEN,                      /* accepted and not yet closed by us */
    PEER_MOST_OPEN,
    PEER_BYTES_IN,
    PEER_BYTES_OUT,
    PEER_REQUESTS,
    PEER_PUSHES,
    PEER_ENDS,                      /* ends read: the other side closed, or ended its direction */
    PEER_RESETS,                    /* resets read */
    PEER_ACCEPT_FAILURES,           /* EMFILE or the like; tried again every 10 ms */
    PEER_TURNS,                     /* of its loop: an idle peer makes none */
    PEER_COUNTERS
};

/* What became of a connection. */
enum peer_end {
    PEER_UNKNOWN,
    PEER_STILL_OPEN,
    PEER_CLOSED_BY_OTHER,
    PEER_RESET_BY_OTHER,
    PEER_CLOSED_BY_US
};

#define PEER_ALL UINT32_MAX         /* instead of nth: every open connection */
#define PEER(...) peer_start(&(struct peer_options){.follow = true, __VA_ARGS__})

struct peer;

/* Starts a peer and returns when it serves. NULL with errno when that cannot be. End it with
 * peer_stop(). */
struct peer *peer_start(const struct peer_options *options);

/* Ends the peer, its connections and its process, and takes its memory. NULL is fine. */
void peer_stop(struct peer *peer);

/* Where it listens, as the library's address text; borrowed until peer_stop(). */
const char *peer_address(const struct peer *peer);
int peer_port(const struct peer *peer);
const struct sockaddr *peer_sockaddr(const struct peer *peer, socklen_t *size);
int peer_pid(const struct peer *peer);                      /* 0 without .own_process */

/* Connects a bare blocking socket to the peer; the caller closes it. -1 with errno. */
int peer_dial(const struct peer *peer);

/* Counters may be read and waited for at any time. A wait answers false when `within_ms` passed
 * in vain. */
uint64_t peer_count(const struct peer *peer, enum peer_counter counter);
bool peer_wait_least(struct peer *peer, enum peer_counter counter, uint64_t least,
                     unsigned within_ms);
bool peer_wait_exact(struct peer *peer, enum peer_counter counter, uint64_t exact,
                     unsigned within_ms);
bool peer_wait_accepted(struct peer *peer, uint64_t least, unsigned within_ms);
/* How many, once they are so many: it accepts on its own time, after the connecting side is done.
 * In vain it waits for 20 s. */
uint64_t peer_accepted(struct peer *peer, uint64_t least);
bool peer_wait_open(struct peer *peer, uint64_t exact, unsigned within_ms);
bool peer_wait_bytes_in(struct peer *peer, uint64_t least, unsigned within_ms);
bool peer_wait_requests(struct peer *peer, uint64_t least, unsigned within_ms);
bool peer_wait_end(struct peer *peer, uint32_t nth, enum peer_end end, unsigned within_ms);

/* Copies what the nth connection received, as far as it was kept, and answers how many bytes it
 * received in all. The end of a connection, and these, can be asked for long after it closed. */
uint64_t peer_received(const struct peer *peer, uint32_t nth, void *buffer, size_t size);
enum peer_end peer_how_ended(const struct peer *peer, uint32_t nth);

/* Commands. Those about connections answer how many were found and obeyed. A push is at most 32
 * KiB; one that does not fit into what is still unsent is refused. On unix sockets a reset looks
 * like an end unless bytes were unread. */
unsigned peer_push(struct peer *peer, uint32_t nth, const void *bytes, size_t size);
unsigned peer_close(struct peer *peer, uint32_t nth);
unsigned peer_reset(struct peer *peer, uint32_t nth);
unsigned peer_half_close(struct peer *peer, uint32_t nth);
unsigned peer_close_all(struct peer *peer);
unsigned peer_reset_all(struct peer *peer);
unsigned peer_half_close_all(struct peer *peer);

void peer_pause_reading(struct peer *peer);
void peer_resume_reading(struct peer *peer);
void peer_pause_accepting(struct peer *peer);   /* the kernel still completes connections */
void peer_resume_accepting(struct peer *peer);

/* Changes the behaviour of the open connections and of those to come. The setters change one
 * number of the options. */
void peer_set_behaviour(struct peer *peer, enum peer_behaviour behaviour);
void peer_set_delay(struct peer *peer, unsigned delay_ms);
void peer_set_interval(struct peer *peer, unsigned interval_ms);
void peer_set_after(struct peer *peer, size_t after_bytes);

/* Down: closes the listener and every connection; connecting is refused. Up: listens again where
 * it did. Restart is both. False with errno when the place was taken meanwhile. */
void peer_down(struct peer *peer);
bool peer_up(struct peer *peer);
bool peer_restart(struct peer *peer);

#endif
