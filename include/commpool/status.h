/* status.h: what can go wrong, and how the library says so.
 *
 * A function that can fail answers an enum pool_status: POOL_OK, or a negative number that says
 * what kind of failure it was. Who wants more passes a struct pool_error, which adds how far the
 * work had come, what the peer can know of it, and one sentence for a log. The library prints
 * nothing, leaves errno as it was, and never ends the program over what a peer or the system does.
 * Only when it finds its own state broken does it say so on stderr, in one line, and abort.
 *
 * Invariants: numbers are never renumbered and never reused; a later release may add new ones at
 * the end, so a switch over them needs a default.
 */
#ifndef COMMPOOL_STATUS_H
#define COMMPOOL_STATUS_H

#include <stddef.h>
#include <stdint.h>

#include "commpool/types.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The kinds of outcome. Those marked (later) belong to features that this release does not have
 * yet. */
enum pool_status {
    POOL_OK = 0,

    /* The caller's mistake: a NULL that matters, an impossible option, a stale handle, the wrong
     * pool. */
    POOL_E_ARGUMENT = -1,

    /* An allocation failed. */
    POOL_E_MEMORY = -2,

    /* The text is no address, or it asks for what cannot be had here, such as a bind= that is no
     * address of this machine. */
    POOL_E_ADDRESS = -3,

    /* The host name has no address, or DNS failed; error.text says which. */
    POOL_E_RESOLVE = -4,

    /* The peer refused the connection (ECONNREFUSED), or no socket stands at the path of a unix
     * address (ENOENT). A connection that reached ourselves counts as refused. */
    POOL_E_REFUSED = -5,

    /* Any other failure to connect: unreachable, reset, no route. */
    POOL_E_CONNECT = -6,

    /* TLS settings are unusable; or the handshake, or the verification of the peer, failed. */
    POOL_E_TLS = -7,

    /* The system forbade it: EACCES, EPERM. */
    POOL_E_ACCESS = -8,

    /* Out of time, and nothing of this exchange is on the wire: it is safe to repeat. */
    POOL_E_TIMEOUT = -9,

    /* Out of time part way: the connection is closed once it goes back, and the peer may have acted
     * on what it got. */
    POOL_E_TIMEOUT_IN_TRANSFER = -10,

    /* The peer ended the stream at a place where it may. */
    POOL_E_CLOSED = -11,

    /* The connection broke: a reset, or an end in the middle of a message. */
    POOL_E_BROKEN = -12,

    /* The peer's bytes make no sense, or pass a limit of ours such as max_line. */
    POOL_E_PROTOCOL = -13,

    /* Descriptors, ports or the system's buffers ran out, or max_connections is reached, and no
     * idle connection could be evicted in time. */
    POOL_E_RESOURCE = -14,

    /* A limit of the pool itself: too many waiters, or too many bytes queued for writing. */
    POOL_E_FULL = -15,

    /* Only blocking could go on, and on this thread (the mux thread) it must not. */
    POOL_E_WOULD_BLOCK = -16,

    /* Canceled by its owner, through its ticket. */
    POOL_E_CANCELED = -17,

    /* The pool or the address was cleared while this waited, or interrupted by that; or the pool is
     * paused. */
    POOL_E_CLEARED = -18,

    /* The address is suspended after failures to connect; the cause of the last one is in
     * pool_error.cause. */
    POOL_E_SUSPENDED = -19,

    /* The pool is being destroyed, or is closed. */
    POOL_E_CLOSING = -20,

    /* The pool, the mux or the handle belongs to the parent process: this is a child of fork(2). */
    POOL_E_FORKED = -21,

    /* `use` or a hook answered non-zero without an I/O error of its own; its number is in
     * pool_error.cause. */
    POOL_E_USER = -22,

    /* An errno outside all these classes; the number is in pool_error.cause. */
    POOL_E_SYSTEM = -23
};

/* How far a call had come when it failed. The numbers index pool_error.spent_ms. */
enum pool_phase {
    POOL_PHASE_NONE, /* before any work began, for example on a bad argument */
    POOL_PHASE_WAIT, /* waiting for a connection to come free, or for room to open one */
    POOL_PHASE_RESOLVE, /* turning the name into socket addresses */
    POOL_PHASE_CONNECT, /* opening the socket and connecting it */
    POOL_PHASE_TLS, /* the TLS handshake */
    POOL_PHASE_SETUP, /* on_new_connection and prepare */
    POOL_PHASE_USE, /* inside `use`, or between a borrow and its return */
    POOL_PHASE_REPLY /* waiting for the reply to a query (later) */
};

/* What the peer can know of a request that failed; it tells whether repeating it may do something
 * twice. It counts all that was sent and received since the connection was lent, however many
 * exchanges that were. */
enum pool_outcome {
    /* No byte of the request was handed to the kernel: repeating is safe. What on_new_connection
     * and prepare sent to set the connection up is not the request, and does not count. */
    POOL_NOT_SENT,
    POOL_MAYBE_SENT, /* some or all of it may have arrived: repeat only what may happen twice */
    POOL_ANSWERED /* bytes of an answer came: the peer has acted */
};

/* Initialises a struct pool_error. In C++17 it is a value of all zeros, which does the same, since
 * a size of 0 counts as that of the first release. */
#ifdef __cplusplus
#define POOL_ERROR_INIT {}
#else
#define POOL_ERROR_INIT { .size = sizeof(struct pool_error) }
#endif

/* The details of one failure. It is the caller's, is a plain value, and may be copied and kept. */
struct pool_error {
    /* Bytes of the struct that the caller has; POOL_ERROR_INIT sets it, and no byte beyond it is
     * written. 0 counts as all that the first release had. The library leaves it as it is. */
    size_t size;

    enum pool_status status;
    enum pool_phase phase;
    enum pool_outcome outcome;

    /* The number behind the status: an errno; with POOL_E_USER what `use` or a hook answered; with
     * POOL_E_RESOLVE one of c-ares (ARES_E...), with POOL_E_TLS one of OpenSSL (X509_V_ERR_..., an
     * alert, or an error code), which serve people only; 0 where there is none. */
    int cause;

    /* Milliseconds that each phase took, indexed by enum pool_phase; 0 for the ones never
     * entered. */
    uint32_t spent_ms[8];

    /* One sentence for a log, ended by a zero byte: which peer, what failed, how long each phase
     * took. Meant for people: its words may change between releases, so test `status`, not this. */
    char text[256];
};

/* Answers the name of a status as it stands in this header, for example "POOL_E_REFUSED".
 *
 * The text belongs to the library, is constant and is never NULL; a number that is no status gets a
 * text that says so. Any thread may call it. It cannot fail. */
POOL_API const char *pool_status_name(enum pool_status status);

/* Answers a few English words on what a status means, for people, for example in a message of a
 * program.
 *
 * The text belongs to the library, is constant and is never NULL; a number that is no status gets a
 * text that says so. Any thread may call it. It cannot fail. The words may change between
 * releases. */
POOL_API const char *pool_status_text(enum pool_status status);

#ifdef __cplusplus
}
#endif

#endif
