/* connection.h: one socket with its ownership word, its identity and the accounts of who has it.
 *
 * Connections live in an arena: their memory is type-stable, so anybody may read the word of one at
 * any time. All other fields belong to whoever owns the word or pins it; fields that statistics
 * read meanwhile are atomic.
 *
 * A connection knows its peer only as an opaque pointer: the pool layer's.
 */
#ifndef PL_NET_CONNECTION_H
#define PL_NET_CONNECTION_H

#include <errno.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/failure.h"
#include "base/list.h"
#include "base/os.h"
#include "commpool/observe.h"
#include "mux/mux.h"
#include "net/word.h"

struct pl_peer;
struct pl_dial;
struct pl_channel;
struct pl_input;
struct pl_tls;
struct pl_loan_note;
struct pl_line;
struct pl_asker;
struct pool_address;
struct pool_codec;

/* What the pool lays down for each connection: bounds in milliseconds and bytes (POOL_NONE: no
 * bound), and how its bytes are cut into messages. */
struct pl_limits {
    uint32_t read_ms, write_ms, max_line, max_message;
    const struct pool_codec *codec;     /* NULL: none */
};

/* Why operations on a held connection fail from now on, whoever said so. The first one stays. */
enum pl_doom {
    PL_DOOM_NONE,
    PL_DOOM_STOLEN,                     /* the number is somebody else's socket */
    PL_DOOM_POOL,                       /* the pool was destroyed */
    PL_DOOM_STALE_COPY,               /* it was given back while an operation on it was under way */
    PL_DOOM_CANCELED,                   /* the call that has it was canceled */
    PL_DOOM_KILLED,                     /* the program wants it closed */
    PL_DOOM_CLEARED,                    /* its generation was cleared, and not to be waited for */
    PL_DOOM_TIMEOUT,                    /* the program wants its time to be over */
    PL_DOOM_FORKED                      /* it is the parent's; this is the child */
};

/* What happened in a loan. */
enum {
    PL_MARK_SENT = 1, PL_MARK_RECEIVED = 2,     /* anything at all */
    PL_MARK_AWAITS = 4,                         /* the last thing on it was a send */
    PL_MARK_FAILED = 8,                         /* an operation did */
    PL_MARK_UNREAD = 16,                        /* bytes were read ahead and not taken */
    PL_MARK_REUSED = 32,                        /* the connection had served before; no dirt */
    PL_MARK_READING = 64,                       /* a receiving operation is under way */
    PL_MARK_EVENTS = 128,                       /* it is driven by events; no dirt */
    PL_MARK_EXPECTS = 256,                      /* a receiving operation would have waited for
                                                 * more, and nothing has come since */
    PL_MARK_TORN = 512,                         /* something left in part only */
    PL_MARK_DIRT = PL_MARK_TORN | PL_MARK_FAILED | PL_MARK_UNREAD | PL_MARK_READING |
                   PL_MARK_EXPECTS
};

/* In a lease's flags, beside those of the call: lent to event-driven code; or to queries, and then
 * nobody drives or ends the loan but they. */
#define PL_LEASE_BY_EVENTS UINT32_C(0x80000000)
#define PL_LEASE_SHARED UINT32_C(0x40000000)

/* One loan: from borrow to return. Its fields are atomic because a program may misuse two copies of
 * a handle at once. */
struct pl_lease {
    uint64_t start_ns;                  /* when the call began; of a warm borrow by the coarse
                                         * clock, up to two steps too early */
    _Atomic uint64_t deadline_ns;       /* 0: not worked out yet, the first operation does it from
                                         * start_ns */
    uint64_t lent_ns;             /* when the connection was handed over; only kept for observers */
    uint32_t timeout_ms;
    _Atomic uint64_t holder;            /* id of the thread whose pool_communicate() has it; 0: lent
                                         * by hand */
    _Atomic uint32_t flags;             /* of the call */
    _Atomic uint32_t marks;
};

struct pl_connection {
    struct pl_arena_node node;
    /* Seldom looked at, and its owner's alone, or pinned: here they take room that `word`, which
     * has a cache line's start, would leave empty. */
    void *_Atomic user;                 /* the program's own; set under the peer lock */
    void (*free_user)(void *user);
    struct pool_address *address;       /* detached: its own reference; else NULL */
    _Alignas(PL_LINE) _Atomic uint64_t word;
    /* Whoever returns a loan that a copy of the handle has ended already may look at these, down to
     * the lease's marks, while the slot has its next life: they are atomic, and
     * pl_connection_take() sets them one by one. */
    struct pl_peer *_Atomic peer;       /* never NULL once the slot was used; detached: nowhere */
    _Atomic uint64_t last_used_ns;
    _Atomic uint64_t expires_ns;    /* by max_age_ms; PL_NEVER: does not; 0: not to be lent again */
    _Atomic uint64_t uses;              /* loans of this connection */
    _Atomic uint64_t max_uses;
    _Atomic uint64_t failure;           /* the last one, packed (pl_failure_pack) */
    _Atomic uint32_t doom;              /* enum pl_doom */
    _Atomic uint32_t epoch;             /* its peer's, when its opening began */
    _Atomic uint8_t leaves_for;         /* to end soon (pool/drain.h), an enum pool_close_reason; 0:
                                         * it is not */
    _Atomic uint32_t birth;     /* in the data of its events; one more each time the slot is used */
    struct pl_lease lease;
    _Atomic uint64_t cookie;            /* the kernel's name of our socket, also in a child of
                                         * fork(); 0: it has none. Anybody may look at it */
    /* The rest is its owner's alone, or pinned. */
    struct pool_mux *mux;               /* NULL: detached */
    int fd;
    struct pl_tls *_Atomic tls;         /* NULL: it is plain, or not secured yet; set once, maybe
                                         * under the hands of who uses a copy of its handle */
    _Atomic uint64_t secured_by;        /* the number of the settings of that; 0: it is plain */
    _Atomic uint32_t secured_us;        /* what the handshake took that `prepare` waited for */
    _Atomic uint32_t armed_ms;          /* SO_RCVTIMEO as set now; 0: none */
    _Atomic uint64_t bytes_in, bytes_out;
    struct pl_limits limits;            /* its pool's; fixed */
    _Atomic uint32_t each_ms;           /* detached: bounds an operation that has no bound of its
                                         * own; else POOL_NONE */
    uint32_t robbed;                    /* the slot, plus one, of one of ours that had its number
                                         * before and had not closed it; 0: none. Fixed once it is
                                         * open */
    uint64_t id;                        /* in its pool, from 1 */
    uint64_t opened_ns;
    uint64_t next_key;                  /* of requests, for whoever uses it next: a second reply to
                                         * an earlier one must not meet its key again. Counted by
                                         * its exchange where there is one */
    uint32_t took_us[POOL_PHASE_SETUP + 1];     /* its opening, by enum pool_phase */
    _Atomic bool is_prepared;           /* `prepare` ran, or there is none */
    _Atomic bool is_shown;              /* the program saw its number, and may have set options */
    _Atomic bool has_actor;             /* what comes while it is idle is its actor's to hear */
    _Atomic bool missed_event;      /* the mux saw an event while it was being parked, or asked out
                                     * of its pool */
    _Atomic uint8_t dial_phase;         /* enum pool_phase of its dial; 0: it has not begun */
    bool is_opening;                    /* counted among those of its peer that are being opened */
    bool is_short;                      /* being opened, it found no descriptor yet; peer lock */
    bool is_fresh;                     /* goes straight from its opening to whoever waited for it */
    bool is_armed;                      /* the mux watches it: it was parked when it was taken */
    uint8_t close_reason;               /* enum pool_close_reason, once it is known */
    uint8_t absences;                   /* of its place, from answers in a row; peer lock */
    uint64_t place;                     /* pl_place_hash() of where a name led it; 0: no name did */
    struct pl_list all_link;            /* in its peer's list of all; peer lock */
    struct pl_list idle_link;           /* in its peer's list of idle ones; peer lock; linked while
                                         * the word says listed */
    struct pl_list lru_link;            /* in its pool's list of parked ones, oldest first (room
                                         * lock), or in a sweep's */
    struct pl_dial *dial;               /* while it is being opened */
    struct pl_input *input;             /* bytes read ahead of a message; NULL until needed */
    struct pl_asker *asker;             /* of pool_ask(); NULL until needed */
    struct pl_channel *_Atomic channel; /* event-driven use and actor; NULL until needed */
    struct pl_line *_Atomic line;       /* which carries queries over it; NULL: none */
    struct pl_loan_note *note;          /* where leaks are looked for, else NULL; peer lock */
};

struct pl_connection *pl_connection_take(void); /* FREE, owned by the caller; NULL: no memory */
void pl_connection_give(struct pl_connection *connection);      /* CLOSING to FREE */
struct pl_connection *pl_connection_at(uint32_t index);
void pl_connection_library_end(void);

/* Opens a socket for it, non-blocking, remembered and in the table of numbers: 0, or a positive
 * errno and no socket. A fork finds all of that done or nothing. */
int pl_connection_open_socket(struct pl_connection *connection, int family) PL_MUST_USE;

/* The same with a socket that the program hands over; POOL_E_ARGUMENT: it is none, or a connection
 * already, by whatever number. */
enum pool_status pl_connection_take_socket(struct pl_connection *connection, int fd) PL_MUST_USE;

/* The number is somebody else's from now on, or nobody's. */
void pl_connection_lose_socket(struct pl_connection *connection);
/* The socket of `from`, what proves that it is ours, and what secures it become `to`'s, which has
 * none. */
void pl_connection_move_socket(struct pl_connection *to, struct pl_connection *from);

/* Reads the cookie of its new socket: 0, or a negative errno. */
int pl_connection_remember(struct pl_connection *connection) PL_MUST_USE;

/* Both leave a number that is not ours any more alone. Shutting wakes whoever waits on it. `mux`
 * NULL: none watches it any more. Closing never waits for the peer. */
void pl_connection_close_fd(struct pl_connection *connection, struct pool_mux *mux);
void pl_connection_shut(struct pl_connection *connection);

/* Not watched from now on, and by no mux. */
void pl_connection_unwatch(struct pl_connection *connection, struct pool_mux *mux);

/* Watches or does not; false: the number is not ours any more. */
bool pl_connection_arm(struct pl_connection *connection, struct pool_mux *mux, uint32_t events);

/* Around fork(). In the child all connections there are become FORKED: no handle of them is good,
 * and no operation reaches their sockets, which are the parent's. */
void pl_connection_hold(void);
void pl_connection_let_go(void);
void pl_connection_orphan(void);
/* In the child: closes its copy of the descriptor and nothing else, unless the number is not ours
 * any more. */
void pl_connection_close_copy(struct pl_connection *connection);
/* Visits every slot there is; no connection is born or dies meanwhile. */
void pl_connection_visit(void (*visit)(void *connection, void *argument), void *argument);

/* What an operation answers whose handle is not good: in the child POOL_E_FORKED when it was good
 * at the fork, else POOL_E_ARGUMENT. */
PL_COLD enum pool_status pl_connection_refusal(const struct pool_conn *conn);

/* Which connection a number belongs to, process-wide, from birth. Setting is false without memory.
 * Who is still there under the number has lost it, and is STOLEN: the kernel gives none away that
 * is open. */
bool pl_fd_table_set(int fd, struct pl_connection *connection) PL_MUST_USE;
void pl_fd_table_clear(int fd, const struct pl_connection *connection);
struct pl_connection *pl_fd_table_get(int fd);

/* The two looks of every borrow. Inline: after a system call each function that is returned from
 * costs some 10 ns. */

/* Is the number still our socket, and did the program not take it over? */
PL_INLINE bool pl_connection_is_ours(const struct pl_connection *connection)
{
    uint64_t cookie;
    socklen_t size = sizeof(cookie);

    return connection->fd >= 0 &&
           atomic_load_explicit(&connection->doom, memory_order_relaxed) != PL_DOOM_STOLEN &&
           pl_os->getsockopt(connection->fd, SOL_SOCKET, SO_COOKIE, &cookie, &size) == 0 &&
           cookie == atomic_load_explicit(&connection->cookie, memory_order_relaxed);
}

enum pl_health {
    PL_HEALTHY,
    PL_UNASKED_DATA,
    PL_HALF_DATA,                       /* of a secured one: it may turn out to be TLS's own */
    PL_ENDED
};

PL_COLD enum pl_health pl_connection_peek_secured(const struct pl_connection *connection);

/* What is there on a connection from which nothing is due? */
PL_INLINE enum pl_health pl_connection_peek(const struct pl_connection *connection)
{
    char byte;
    ssize_t got;

    if (PL_UNLIKELY(connection->tls))
        return pl_connection_peek_secured(connection);
    do
        got = pl_os->recv(connection->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    while (PL_UNLIKELY(got == -EINTR));
    if (PL_LIKELY(got == -EAGAIN))
        return PL_HEALTHY;
    return got > 0 ? PL_UNASKED_DATA : PL_ENDED;
}

/* Relaxed access, for fields that one thread writes and others may look at. */
#define pl_get(field) atomic_load_explicit(&(field), memory_order_relaxed)
#define pl_set(field, value) atomic_store_explicit(&(field), (value), memory_order_relaxed)
#define pl_add(field, value) pl_set(field, pl_get(field) + (value))

/* False: it has a doom already, which stays. */
static inline bool pl_connection_doom(struct pl_connection *connection, enum pl_doom doom)
{
    uint32_t none = PL_DOOM_NONE;

    return atomic_compare_exchange_strong(&connection->doom, &none, (uint32_t)doom);
}

static inline struct pl_connection *pl_connection_of(struct pool_slot *slot)
{
    return (struct pl_connection *)(void *)slot;
}

/* It left its pool's books and knows no pool, peer or mux any more. Pinned or owned. */
static inline bool pl_connection_is_detached(const struct pl_connection *connection)
{
    return connection->address != NULL;
}

static inline struct pool_conn pl_connection_handle(struct pl_connection *connection, uint64_t word)
{
    return (struct pool_conn){ (struct pool_slot *)(void *)connection, pl_word_serial(word) };
}

#endif
