/* dialer.h: opens one connection to one address, on the mux, without blocking: the sockets that
 * race for it when a name stands for several places (RFC 8305), and the first one that stands.
 *
 * A dial knows no pool: what to do when it fails is its caller's business, and so is trying again.
 * It makes its first attempt on the connection's own slot; each one beside it has a slot of its
 * own, which no peer counts and no program sees, and the winner's socket moves.
 */
#ifndef PL_NET_DIALER_H
#define PL_NET_DIALER_H

#include "base/failure.h"
#include "mux/mux.h"
#include "net/connection.h"
#include "net/place.h"
#include "net/resolver.h"

struct pool_address;
struct pl_dial;
struct pl_tls_settings;
struct pl_tls_sessions;

#define PL_ATTEMPTS 6u                  /* sockets of one dial at a time */
#define PL_STAGGER_NS (250 * PL_MS)     /* the next place is tried then, though nothing failed */

/* One socket on its way to one place. */
struct pl_dial_attempt {
    struct pl_connection *connection;   /* NULL: none is under way */
    union pl_ip place;
    uint64_t begun_ns;
    uint64_t again_ns;                  /* to be connected anew then; PL_NEVER: waits for the
                                         * kernel */
    uint64_t connected_ns;              /* when its handshake began */
    uint64_t until_ns;                  /* its handshake's end; PL_NEVER: it has no own */
    enum pl_reason reason;              /* more about its error */
    struct pl_failure failure;          /* what TLS says of it; status POOL_OK: nothing */
    bool is_securing;                   /* connected, and shaking hands */
    int answer;                         /* of the program's function, if that is the reason */
};

/* Functions of the pool, on the mux thread. All but on_end may end pools, or fork. */
struct pl_dial_ops {
    /* The program's word on a place of a name, if the dial asks; 0: go on. */
    int (*on_place)(struct pl_dial *dial, const struct sockaddr *place, socklen_t size);
    /* The same on a new socket, if the dial shows it. */
    int (*on_socket)(struct pl_dial *dial, int fd);
    /* Descriptors or ports ran out. True: something was closed. */
    bool (*make_room)(struct pl_dial *dial);
    /* Asked when functions of the program may have run. False: the dial is no more. */
    bool (*may_go_on)(struct pl_dial *dial);
    /* Once, when the connection stands (0) or cannot (a positive errno); the last call of all. Not
     * after pl_dial_close(). */
    void (*on_end)(struct pl_dial *dial, int error);
};

struct pl_dial {
    struct pl_post post;            /* brings the dial to the mux; free for the caller afterwards */
    struct pl_connection *connection;
    struct pool_mux *mux;
    const struct pool_address *address;
    const struct pl_dial_ops *ops;
    struct pl_resolver *resolver;               /* for a name; may be NULL for a literal address */
    struct pl_tls_settings *tls;                /* counted; NULL: it is not to be secured */
    struct pl_tls_sessions *sessions;           /* the peer's */
    uint64_t tls_ns;                            /* for each handshake; PL_NEVER: unbounded */
    struct pl_grudges *grudges;                 /* of the peer; NULL: none */
    uint64_t deadline_ns;                       /* for being connected */
    bool asks_places, shows_sockets;
    uint32_t user_timeout_ms;                   /* TCP_USER_TIMEOUT; 0: the system's */
    uint32_t unsent_most;                       /* TCP_NOTSENT_LOWAT; likewise */
    struct pl_timer timer;              /* free for the caller after the end */
    uint64_t ended_ns;                  /* the caller's to keep */
    bool is_begun;                   /* for the caller: under way, and nothing of it on the stack */
    /* More about the error that the caller was told. */
    enum pl_reason reason;
    enum pool_phase phase;
    int answer;                         /* of on_place or on_socket */
    uint64_t won;                       /* pl_place_hash() of the place that won; 0: no name led
                                         * there */
    uint64_t expires_ns;                /* when the first of its places do; 0: not known */
    uint64_t connecting_ns;             /* when the first attempt began; 0: none did */
    uint64_t connected_ns;              /* when the one that won was */
    struct pl_failure failure;          /* what is told instead of the error, unless its status is
                                         * POOL_OK: what became of the name, or what TLS says */
    /* The dialer's own. */
    struct pl_dial_attempt attempts[PL_ATTEMPTS];
    uint32_t live;                      /* of them */
    struct pl_lookup lookup;
    bool is_resolving;                  /* more places may come */
    union pl_ip *places;                /* NULL: the address itself says where */
    uint32_t place_count, next_place;
    uint64_t last_begun_ns;
    bool is_next_due;                   /* an attempt failed since */
    uint32_t rooms_made;
    bool is_late;                       /* the deadline is over: only handshakes go on */
    int error;                          /* what those that failed say; 0: none did */
};

bool pl_dial_open(struct pl_dial *dial) PL_MUST_USE;    /* false: no memory */
/* After its end, or to stop it; the socket of the connection stays the connection's. */
void pl_dial_close(struct pl_dial *dial);

/* Places to try beside, and before, those that were not tried yet; a dial that has begun goes on
 * with them by pl_dial_go_on(). ENOMEM: none was added. */
int pl_dial_add_places(struct pl_dial *dial, const union pl_ip *places,
                       uint32_t count) PL_MUST_USE;

/* Begins, on the mux thread: with the places it has, or with what the address itself says, or by
 * looking up its name. May end on this stack. */
void pl_dial_start(struct pl_dial *dial);
void pl_dial_go_on(struct pl_dial *dial);

/* Is a socket of it on its way? */
static inline bool pl_dial_has_socket(const struct pl_dial *dial)
{
    return dial->live > 0;
}

/* `connection` is of one of its attempts. */
void pl_dial_on_event(struct pl_dial *dial, struct pl_connection *connection);

/* An error that closing some other connection can cure. What there is a reason for is none. */
bool pl_dial_is_shortage(enum pl_reason reason, int error);

#endif
