/* world_parts.h: the inside of the scripted world, shared among its files and nobody else.
 *
 * world.c turns the world: clock, events, threads. world_file.c has the numbers and what they name,
 * world_socket.c the calls on sockets, world_option.c their options, world_link.c the bytes between
 * two ends, world_peer.c who listens, world_wait.c epoll and its like, world_door.c the table that
 * the library calls.
 */
#ifndef TEST_WORLD_WORLD_PARTS_H
#define TEST_WORLD_WORLD_PARTS_H

#include <netinet/in.h>
#include <sys/un.h>

#include "base/list.h"
#include "world/world.h"

#define WORLD_FIRST_FD 3
#define WORLD_MOST_FDS 65536
#define WORLD_OPTIONS 24

struct pl_thread;

struct world_bytes {
    char *data;
    size_t start, end, capacity;
};

struct world_event {
    struct pl_list link; /* in world->events, by time, then in the order of planning */
    uint64_t time_ns;
    world_fn *run;
    void *argument; /* of a packet: the event itself */
    bool is_packet; /* bytes or ends on their way, not a plan of a script */
    bool is_script; /* runs as a thread of the program's */
};

/* ---- files */

enum file_kind { FILE_SOCKET, FILE_EPOLL, FILE_COUNTER, FILE_TIMER, FILE_SIGNALS };

enum socket_state {
    SOCKET_NEW, /* TCP_CLOSE, before any connect */
    SOCKET_CONNECTING,
    SOCKET_CONNECTED,
    SOCKET_DEAD /* TCP_CLOSE again: refused, reset */
};

struct socket_option {
    int level, name;
    socklen_t size;
    char value[16];
};

struct world_socket {
    enum socket_state state;
    int family;
    uint64_t cookie;
    bool is_nonblocking;
    int error; /* SO_ERROR, told once */
    bool end_came; /* the peer's FIN */
    bool was_connected, is_bound, has_port;
    bool is_untold; /* connected meanwhile: the next connect says so */
    bool is_shut_for_reading, is_shut_for_writing;
    struct world_bytes inbox;
    struct sockaddr_storage local, remote;
    socklen_t local_size, remote_size;
    uint64_t receive_wait_ns; /* SO_RCVTIMEO; 0: for ever */
    struct socket_option options[WORLD_OPTIONS];
    unsigned option_count;
    struct world_link *link; /* NULL: the world's other end is gone, or there never was one */
};

struct world_file {
    struct world *world;
    struct pl_list all_link; /* in world->files */
    enum file_kind kind;
    unsigned refs; /* numbers that name it, calls that wait on it */
    bool is_foreign;
    struct pl_list watchers; /* struct watch.file_link: the epoll sets that watch it */
    struct world_socket socket;
    struct pl_list watches; /* FILE_EPOLL: struct watch.epoll_link, in order of addition */
    uint64_t count, edges; /* FILE_COUNTER; how often it was added to */
    uint64_t deadline_ns; /* FILE_TIMER; PL_NEVER: not armed */
    sigset_t signals; /* FILE_SIGNALS: those that it tells of */
};

/* An entry of an epoll set. As in the kernel it belongs to a file and the number that named it at
 * that time. */
struct watch {
    struct pl_list file_link, epoll_link;
    struct world_file *file;
    int fd;
    uint32_t events; /* 0 when a one-shot entry has fired */
    uint64_t data;
    bool is_armed;
    uint64_t told; /* EPOLLET: the edges of the counter that were told of */
};

/* ---- threads of the library */

struct world_task {
    struct pl_list link; /* in world->tasks, whose turn is next first */
    uintptr_t id;
    pl_step_fn *step;
    void *argument;
    struct pl_thread *identity; /* what the library knows of this thread; NULL: nothing yet */
    /* the epoll set that its last step found empty-handed; NULL: none */
    struct world_file *waits_on;
    bool is_over;
};

/* ---- peers */

struct world_peer {
    struct world *world;
    struct pl_list link; /* in world->peers */
    struct sockaddr_storage address;
    socklen_t address_size;
    struct world_peer_options options;
    bool is_gone; /* its wire is cut */
    struct pl_list links; /* struct world_link.peer_link, in order of connecting */
    struct world_peer_counts counts;
};

struct world_link {
    struct world_peer *peer;
    struct pl_list peer_link;
    struct world_file *file; /* our socket; NULL: closed */
    int family;
    unsigned nth; /* of those accepted */
    bool is_accepted, is_open; /* at the peer */
    bool has_ended; /* the peer sent its FIN */
    bool got_end; /* ours arrived there */
    size_t unread; /* bytes of ours under way, or there and unread */
    size_t arrived; /* those of them that are there */
    struct world_bytes received;
    size_t sent; /* by behaviours that count */
    struct world_bytes drip;
    bool is_dripping;
    uint64_t last_out_ns, last_in_ns; /* when the last packet arrives, each way: order is kept */
    void *user;
};

struct world {
    uint64_t start_ns, now_ns, end_ns;
    uint64_t dice;
    struct pl_list events;
    unsigned packets; /* among the events */
    struct pl_list tasks;
    struct world_task *running; /* whose step is on the stack */
    struct pl_thread *script_identity;
    uintptr_t last_task;
    uint64_t turns_without_time;
    struct pl_list files, peers;
    struct world_peer *nobody; /* stands for every address where no peer is */
    struct world_file **numbers;
    unsigned number_limit, highest; /* numbers from `highest` on were never used */
    unsigned port_limit, tcp_connected;
    uint16_t next_port;
    uint64_t last_cookie;
    uint64_t signals; /* blocked ones that came, a bit for each number */
    uint64_t violations, calls, wakeups;
    size_t allocations, allocated_bytes, maps;
};

/* ---- world.c */

extern struct world *world_current;

_Noreturn void world_fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
void *world_memory(size_t size); /* zeroed, never NULL; the world's own, not counted */
struct world_event *world_plan(struct world *world, uint64_t time_ns, struct world_event *event);
void world_note_call(struct world *world); /* counts it, and notices those that go round for ever */

/* Turns the world until holds(argument); false: the deadline came first. */
typedef bool world_condition_fn(void *argument);
bool world_block(struct world *world, world_condition_fn *holds, void *argument,
                 uint64_t deadline_ns);
/* the smallest thing that can happen next */
void world_turn(struct world *world, uint64_t deadline_ns);

int world_start_task(struct world *world, pthread_t *thread, pl_step_fn *step, void *argument);
void world_join_task(struct world *world, pthread_t thread);

void world_bytes_add(struct world_bytes *bytes, const void *data, size_t size);
size_t world_bytes_take(struct world_bytes *bytes, void *data, size_t size, bool peek);
static inline size_t world_bytes_size(const struct world_bytes *bytes)
{
    return bytes->end - bytes->start;
}

/* ---- world_file.c */

/* the number, or -errno */
int world_file_open(struct world *world, enum file_kind kind, struct world_file **file);
struct world_file *world_file_at(struct world *world, int fd); /* NULL: EBADF */
/* counts what is done to others' */
struct world_file *world_file_ours(struct world *world, int fd, bool changes);
void world_file_unref(struct world_file *file);

/* ---- world_socket.c, world_option.c */

struct world_file *world_socket_at(int fd, bool changes, int *error); /* NULL: *error is -errno */
void world_socket_connected(struct world_file *file);
void world_socket_died(struct world_file *file, int error); /* refused or reset */
void world_socket_release(struct world_file *file); /* the last number is gone */
uint32_t world_socket_events(const struct world_file *file);
const struct socket_option *world_option_of(const struct world_file *file, int level, int name);

/* ---- world_link.c: packets */

struct world_link *world_link_open(struct world_peer *peer, struct world_file *file);
void world_link_answer_connect(struct world_link *link, int error, uint64_t delay_ns);
void world_link_announce(struct world_link *link); /* to the peer: it is connected */
void world_link_carry(struct world_link *link, const void *bytes, size_t size);
void world_link_carry_end(struct world_link *link, bool is_reset);
size_t world_link_room(const struct world_link *link);
bool world_link_is_writable(const struct world_link *link);
void world_link_free(struct world_link *link);
void world_link_say_later(struct world_link *link, const void *bytes, size_t size,
                          uint64_t delay_ns);

/* ---- world_peer.c: what the packets mean there */

struct world_peer *world_peer_make(struct world *world, const struct world_peer_options *options);
struct world_peer *world_peer_of(struct world *world, const struct sockaddr *address,
                                 socklen_t size);
void world_peer_free(struct world_peer *peer);
void world_peer_accepted(struct world_link *link);
void world_peer_received(struct world_link *link, const char *bytes, size_t size);
void world_peer_ended(struct world_link *link, bool is_reset);
uint64_t world_peer_latency_ns(const struct world_peer *peer);

/* ---- world_wait.c */

uint32_t world_events_of(struct world_file *file); /* as poll sees it */
/* it ends: out of all sets, and its own entries */
void world_forget_watches(struct world_file *file);
bool world_epoll_is_ready(struct world_file *epoll);
uint64_t world_next_timer(const struct world *world); /* the next one that will fire; PL_NEVER */

/* ---- the door, each as in lib/base/os.h */

int door_socket(int family, int type, int protocol);
int door_connect(int fd, const struct sockaddr *address, socklen_t size);
int door_bind(int fd, const struct sockaddr *address, socklen_t size);
ssize_t door_send(int fd, const void *data, size_t size, int flags);
ssize_t door_sendmsg(int fd, const struct msghdr *message, int flags);
ssize_t door_recv(int fd, void *buffer, size_t size, int flags);
int door_shutdown(int fd, int how);
int door_close(int fd);
int door_setsockopt(int fd, int level, int name, const void *value, socklen_t size);
int door_getsockopt(int fd, int level, int name, void *value, socklen_t *size);
int door_getsockname(int fd, struct sockaddr *address, socklen_t *size);
int door_getpeername(int fd, struct sockaddr *address, socklen_t *size);
int door_set_nonblocking(int fd, bool nonblocking);
int door_make_own(int fd);
int door_copy_above_stdio(int fd);
int door_poll_until(struct pollfd *polled, nfds_t count, uint64_t deadline_ns);
int door_epoll_create(void);
int door_epoll_ctl(int epoll_fd, int operation, int fd, struct epoll_event *event);
int door_epoll_wait(int epoll_fd, struct epoll_event *events, int count, int timeout_ms);
int door_eventfd_create(void);
int door_eventfd_add(int fd);
int door_timerfd_create(void);
int door_timerfd_arm(int fd, uint64_t deadline_ns);
int door_signalfd_set(int fd, const sigset_t *signals);
int door_signalfd_read(int fd);
void door_signal_block(int signo);

#endif
