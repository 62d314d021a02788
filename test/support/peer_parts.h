/* peer_parts.h: what the files of the loopback peer share. Not for tests; they include peer.h.
 *
 * Two sides. The test's side (peer.c) starts and stops, sends commands, reads counters. The
 * peer's side (peer_loop.c and the files it calls) is one thread, in this process or in a child.
 * Between them stand one block of shared memory, all of it atomic but the recorded bytes (which
 * are published by the count beside them), and one socket pair that carries commands one way.
 * The peer's side allocates nothing: a child forked from a program with threads must not. */
#ifndef TEST_SUPPORT_PEER_PARTS_H
#define TEST_SUPPORT_PEER_PARTS_H

#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/types.h>
#include <sys/un.h>

#include "support/peer.h"

#define PEER_COMMAND_BYTES 32768
#define PEER_LINE_BYTES 4096
#define PEER_DUES 16
#define PEER_FILLERS 16
#define PEER_NEVER UINT64_MAX

struct peer_place {
    union {
        struct sockaddr any;
        struct sockaddr_in in;
        struct sockaddr_in6 in6;
        struct sockaddr_un un;
    } name;
    socklen_t size;
    bool every_loopback;
};

struct peer_record {
    _Atomic uint64_t received;
    _Atomic uint32_t end;                           /* enum peer_end */
};

/* Lives in memory shared with the child. `changes` is a futex: it moves when anything here did. */
struct peer_shared {
    _Atomic uint32_t changes, waiters;
    _Atomic uint64_t counters[PEER_COUNTERS];
    _Atomic uint32_t answered;                      /* ticket of the last command carried out */
    _Atomic uint32_t answer;
    unsigned record_connections;                    /* fixed, as the next */
    size_t record_bytes;
    struct peer_record records[];                   /* then the bytes of each */
};

enum peer_order {
    PEER_DO_STOP,
    PEER_DO_PUSH,
    PEER_DO_CLOSE,
    PEER_DO_RESET,
    PEER_DO_HALF_CLOSE,
    PEER_DO_PAUSE_READING,
    PEER_DO_PAUSE_ACCEPTING,
    PEER_DO_BEHAVE,
    PEER_DO_DELAY,
    PEER_DO_INTERVAL,
    PEER_DO_AFTER,
    PEER_DO_DOWN,
    PEER_DO_UP,
};

struct peer_command {
    uint32_t order;                                 /* enum peer_order */
    uint32_t ticket;
    uint32_t nth;
    uint32_t size;                                  /* of the bytes that follow */
    uint64_t number;
};

/* Bytes of the queue up to this offset of the stream may leave from then on. */
struct peer_due {
    uint64_t up_to, at_us;
};

struct peer_link {
    int fd;                                         /* -1: the slot is free */
    uint32_t nth, slot, mask;                       /* mask: what epoll watches; 0: not in epoll */
    uint32_t heap_place;                            /* 1 is the top; 0: no timer */
    uint32_t due_first, due_count;
    uint32_t line_length;
    uint64_t wake_us, next_drip_us, next_push_us;
    uint64_t received, cut;                         /* in: read, and cut into requests */
    uint64_t queued, released, sent;                /* out */
    bool ended, write_closed, must_end;             /* must_end: ours, once all is sent */
    struct peer_due dues[PEER_DUES];
};

/* The peer's side. All of it belongs to the peer's thread once that runs. */
struct peer_loop {
    struct peer_options options;
    struct peer_place place;
    struct peer_shared *shared;
    size_t push_length, reply_length;
    int epoll_fd, listen_fd, command_fd;
    bool paused_reading, paused_accepting, listen_watched, stopping;
    bool changed;                                   /* tell the waiters at the end of the turn */
    uint64_t now_us, accept_again_us, random;
    int fillers[PEER_FILLERS];                      /* our own, which fill the backlog */
    unsigned filler_count;
    uint32_t slots, slots_used, free_count;         /* slots_used: those above were never taken */
    uint32_t heap_count;
    struct peer_link *links;
    uint32_t *free_slots, *heap;
    char *areas;                                    /* per slot: a line, then the queue */
    struct { struct peer_command head; char bytes[PEER_COMMAND_BYTES]; } command;
};

/* The test's side. */
struct peer {
    struct peer_shared *shared;
    struct peer_loop *loop;
    size_t shared_size, loop_size;
    struct peer_place place;
    char address[160];
    char *push, *reply;
    pthread_mutex_t lock;                           /* one command at a time */
    uint32_t ticket;
    int command_fd;
    pthread_t thread;
    bool has_thread;
    pid_t pid;                                      /* 0: a thread */
    atomic_bool is_gone;                            /* the child ended and is reaped */
};

/* peer.c */
bool peer_wait_ticket(struct peer *peer, uint32_t ticket);
void peer_stop_serving(struct peer *peer);

/* peer_place.c; -1 with errno where something fails */
int peer_place_find(struct peer_place *place, const struct peer_options *options);
int peer_place_listen(struct peer_place *place, int backlog);
int peer_place_dial(const struct peer_place *place);
int peer_place_port(const struct peer_place *place);
void peer_place_text(const struct peer_place *place, char *text, size_t size);
void peer_place_leave(const struct peer_place *place);  /* unlinks a unix path */
unsigned peer_place_fill(const struct peer_place *place, int *fillers, unsigned most);

/* peer_timer.c: a heap of the links by wake_us */
void peer_timer_set(struct peer_loop *loop, struct peer_link *link, uint64_t wake_us);
struct peer_link *peer_timer_first(struct peer_loop *loop);

/* peer_link.c: one connection. Those that answer false have closed the link. */
struct peer_link *peer_link_open(struct peer_loop *loop, int fd);
void peer_link_close(struct peer_loop *loop, struct peer_link *link, enum peer_end end);
void peer_link_reset(struct peer_loop *loop, struct peer_link *link);
bool peer_link_settle(struct peer_loop *loop, struct peer_link *link);
void peer_link_on_event(struct peer_loop *loop, struct peer_link *link, uint32_t events);
void peer_link_on_timer(struct peer_loop *loop, struct peer_link *link);

/* Copies bytes to what is to be sent, `delay_ms` from now; false: no room, and none is taken. */
bool peer_link_queue(struct peer_loop *loop, struct peer_link *link, const void *bytes, size_t size,
                     unsigned delay_ms);

/* peer_behave.c: what the behaviours differ in */
size_t peer_behave_room(const struct peer_loop *loop, const struct peer_link *link);
uint64_t peer_behave_sendable(const struct peer_loop *loop, const struct peer_link *link);
uint64_t peer_behave_wake(const struct peer_loop *loop, const struct peer_link *link);
bool peer_behave_accepted(struct peer_loop *loop, struct peer_link *link);
bool peer_behave_received(struct peer_loop *loop, struct peer_link *link, const char *bytes,
                          size_t size);
void peer_behave_changed(struct peer_loop *loop, struct peer_link *link);
void peer_behave_sent(struct peer_loop *loop, struct peer_link *link);
void peer_behave_timer(struct peer_loop *loop, struct peer_link *link);
bool peer_behave_is_over(const struct peer_loop *loop, const struct peer_link *link);

/* peer_loop.c */
void peer_loop_run(struct peer_loop *loop);
void peer_loop_count(struct peer_loop *loop, enum peer_counter counter, uint64_t more);
struct peer_record *peer_record_of(struct peer_shared *shared, uint32_t nth);   /* or NULL */
char *peer_record_bytes(struct peer_shared *shared, uint32_t nth);
uint64_t peer_clock_us(void);
long peer_futex(_Atomic uint32_t *word, int operation, uint32_t value, uint64_t wait_us);

#endif
