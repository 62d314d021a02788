/* peer.h: a small server of the examples' own, so that they run where there is none.
 *
 * It is a child process, so its descriptors are its own and the program's limits do not touch it,
 * and it ends when the program does. It listens at any number of loopback addresses, and
 * understands lines:
 *
 *     echo TEXT      answers TEXT
 *     subscribe      answers subscribed; from then on this connection gets what is published
 *     publish N      sends push 1 to push N to every subscriber, one a line, then answers published
 *
 * What it saw is in memory shared with the program, which may read it at any time. */
#ifndef EXAMPLES_PEER_H
#define EXAMPLES_PEER_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

enum { PEER_PLACES = 400 };

/* What the peer counted, at each of its places. */
struct peer_seen {
    _Atomic uint64_t accepted[PEER_PLACES]; /* connections */
    _Atomic uint64_t asked[PEER_PLACES]; /* lines that came */
};

struct peer {
    pid_t pid;
    int places;
    char address[PEER_PLACES][32];
    struct peer_seen *seen;
};

/* Starts a peer that listens at `places` loopback addresses, 127.1.0.1 and so on, each with a
 * port of its own. Call it before the program makes threads. When it answers false, it has
 * printed why. */
bool peer_start(struct peer *peer, int places);

/* Ends the peer; one that was never started (all zeros) is fine. */
void peer_stop(struct peer *peer);

#endif
