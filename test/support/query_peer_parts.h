/* query_peer_parts.h: what the two files of the peer of queries share. Not for tests. All of it is
 * under the peer's lock. */
#ifndef TEST_SUPPORT_QUERY_PEER_PARTS_H
#define TEST_SUPPORT_QUERY_PEER_PARTS_H

#include <pthread.h>

#include "support/frames.h"
#include "support/query_peer.h"

#define QUERY_PEER_LINKS 256u

struct query_bytes {
    char *data;
    size_t start, end, room;
};

struct query_link {
    int fd; /* -1: the slot is free */
    unsigned nth, requests;
    struct query_bytes in, out;
    uint64_t last_due_us; /* lines: nothing is answered before */
    uint64_t last_due; /* and the number of what is due then */
    bool ends; /* when all is sent */
};

/* An answer in large pieces, of which so many are to come. */
struct query_stream {
    unsigned slot, nth, pieces;
    uint32_t id, size;
};

/* An answer that is not sent yet. */
struct query_due {
    uint64_t at_us, number; /* what is due at one time keeps its order */
    unsigned slot, nth;
    struct query_bytes frame;
};

struct query_record {
    char body[QUERY_PEER_KEPT];
    unsigned nth;
};

struct query_peer {
    struct query_peer_options options;
    pthread_mutex_t lock;
    pthread_t thread;
    int listen_fd, wake_fd, port;
    char address[64];
    bool is_stopping;
    unsigned accepted, open, requests;
    uint32_t last_id;
    struct query_link links[QUERY_PEER_LINKS];
    struct query_due *dues; /* a heap, the first one on top */
    size_t due_count, due_room;
    uint64_t due_number;
    struct query_due *held;
    size_t held_count, held_room;
    struct query_stream *streams; /* whose turn is next comes first */
    size_t stream_count, stream_room;
    struct query_record *records;
    size_t record_room;
};

/* query_peer.c */
void query_bytes_add(struct query_bytes *bytes, const void *data, size_t size);
void query_bytes_fill(struct query_bytes *bytes, char letter, size_t size);
void query_peer_wake(struct query_peer *peer); /* not locked */
void query_link_end(struct query_peer *peer, struct query_link *link, bool resets);

/* query_peer_answer.c */
void query_peer_cut(struct query_peer *peer, struct query_link *link); /* into requests */
uint64_t query_peer_deliver(struct query_peer *peer, uint64_t now_us); /* the next one's time */
bool query_peer_has_stream(const struct query_peer *peer, const struct query_link *link);
void query_peer_stream(struct query_peer *peer, struct query_link *link); /* one piece */
void query_peer_append_frame(struct query_peer *peer, struct query_bytes *bytes, uint32_t id,
                             enum frame_kind kind, const void *body, size_t size);

#endif
