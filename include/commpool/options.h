/* options.h: the settings of pools and calls, and the hooks that they carry.
 *
 * It comes with pool.h, which has the functions that use it; programs need not include it
 * themselves. Options structs begin with `size_t size`, are built with POOL_OPTIONS(.field = ...)
 * and POOL_CALL(...), and are only ever appended to, so a program goes on working with later
 * releases.
 *
 * In every number 0 means the default, POOL_NONE "no limit" or "for ever", POOL_ZERO "none at all".
 *
 * Invariants: no lock is held while a hook runs; a handle or struct given to a hook is borrowed for
 * that call; hooks return normally, that is, no longjmp, no exception and no pthread_exit leaves
 * them.
 */
#ifndef COMMPOOL_OPTIONS_H
#define COMMPOOL_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include "commpool/mux.h"
#include "commpool/observe.h"
#include "commpool/status.h"
#include "commpool/tls.h"
#include "commpool/types.h"

#ifdef __cplusplus
extern "C" {
#endif

struct pool_codec;

/* How closely a connection is looked at before it is lent again. */
enum pool_check {
    POOL_CHECK_ALWAYS, /* at every borrow: is it alive, free of unasked data, and still ours? */
    POOL_CHECK_PARKED, /* the same, but only when it was idle long enough to be parked */
    POOL_CHECK_NEVER /* trust the mux, which watches parked connections */
};

/* Which idle connection is lent first. */
enum pool_order {
    POOL_LIFO, /* the one returned last: the warmest, and the others may grow old and close */
    POOL_FIFO /* the one idle for longest */
};

/* What a deciding hook wants. Any other number counts as POOL_ABORT. */
enum pool_decision {
    POOL_ABORT, /* do nothing more: let the call fail now */
    POOL_CONTINUE, /* go on: wait, or try again */
    POOL_FATAL /* the same as POOL_ABORT, for a hook that takes back what the one before it said */
};

/* The program's own code on a borrowed connection. `conn` is lent for the call, `user` is what was
 * given with it.
 *
 * 0 says that the connection is healthy and between two exchanges: it is kept warm if it is clean,
 * as for pool_return(). Anything else closes it, and the number comes back in pool_error.cause. */
typedef int pool_use_fn(struct pool_conn *conn, void *user);

/* Gets the connection that pool_communicate_async() asked for, on the mux thread, exactly once. One
 * of `conn` and `error` is NULL: with `conn` the connection is lent until pool_return() or
 * pool_discard(); copy *conn to keep it. With `error` there is none. Both are borrowed for the
 * call. */
typedef void pool_lent_fn(struct pool_conn *conn, const struct pool_error *error, void *user);

/* Says that something asked for is finished; runs on the mux thread, exactly once. */
typedef void pool_done_fn(void *user);

/* An actor's receiver: `message` is what arrived on an idle connection, borrowed for the call.
 *
 * It runs on the mux thread. It answers 0 when it stands between two messages, so that the
 * connection may be lent; or POOL_LATER when it has half of a message, or wrote something that will
 * be answered: the connection is then not lent until pool_conn_ready(). It may write with
 * pool_write(), and may call pool_conn_drain(). */
typedef int pool_message_fn(struct pool_conn *conn, struct pool_bytes message, void *user);

/* Gets one part of a query's reply (pool_call.on_part); `part` is borrowed for the call.
 *
 * Parts come in order, each once, and before pool_query() returns, or before on_reply runs. For
 * pool_query() it runs inside that call, on its thread; for pool_query_async() on the mux thread. A
 * query that fails, or that moves to another connection, may have told some parts already. Parts
 * that came and are not told when its time is over, or when it is canceled, cleared or killed, or
 * its pool ends, are dropped; when the whole reply came before, all are told. */
typedef void pool_part_fn(struct pool_bytes part, void *user);

/* An actor's last call: the connection with this id is gone. `error` is why, or NULL when nothing
 * had failed, and is borrowed for the call. It runs on the mux thread, once. */
typedef void pool_gone_fn(uint64_t connection, const struct pool_error *error, void *user);

/* Who receives the messages that nobody asked for on one connection. The hook on_new_connection
 * fills it. */
struct pool_actor {
    /* Bytes of the struct; the library has set it. */
    size_t size;

    /* Gets what arrives while the connection is idle, and what the pool's codec calls a push, which
     * queries and pool_ask() meet on their way. NULL: there is no actor; such bytes close an idle
     * connection, and pushes go to on_orphan. All else that arrives during a borrow is the
     * borrower's.
     *
     * For a push the handle is that of whoever uses the connection: it tells its id and may drain
     * it, and when that use has ended it is stale. Where queries share the connection, all that
     * would move bytes, watch it, or end the use is POOL_E_ARGUMENT, pool_write() and pool_return()
     * among them. What the actor answers then does not matter. */
    pool_message_fn *on_message;

    /* Called once when the connection is gone; may be NULL. It is the place to free `user`. */
    pool_gone_fn *on_close;

    /* Given to both; belongs to the program. */
    void *user;
};

/* Sets up a connection that the pool has just opened, once, on the mux thread, before its first
 * use.
 *
 * 0: it is ready. POOL_LATER: an exchange was begun, with pool_conn_watch() and pool_write(), and
 * pool_conn_ready() will tell how it ended; copy *conn for that. Anything else: the connection is
 * dropped, and the borrower gets POOL_E_USER with the number in pool_error.cause. `actor` comes
 * empty; filling it attaches an actor. `conn` and `actor` are borrowed for the call; `user` is
 * pool_options.user. */
typedef int pool_new_connection_fn(struct pool_conn *conn, struct pool_actor *actor, void *user);

/* "Not finished yet", the answer of on_new_connection and of an actor. */
#define POOL_LATER 1

/* Decides whether a failed attempt of pool_communicate() or pool_borrow() is made again.
 *
 * It is told of each attempt that fails, whether it got no connection or `use` failed on it, on the
 * thread of the call and inside it; `error` is borrowed for the call. The call's hook is told
 * first, then the pool's; the answer of the last one that there is counts.
 *
 * An asynchronous call asks neither of them, whatever fails: it makes one attempt, and on_lent is
 * told how that ended and may start another call at once, or later by pool_mux_after(). What fails
 * on its loan is told to whoever uses it.
 *
 * POOL_CONTINUE makes another attempt, at most eight times in one call and within its deadline,
 * after a pause as the back-off of the options has it; only after a reused one has failed there is
 * none. A pause that would pass the deadline, or would have to be spent on the mux thread, is not
 * begun. `use` runs again only when nothing was sent, or with POOL_SAFE_TO_REPEAT. Where
 * POOL_CONTINUE cannot be obeyed, the call fails with its error. POOL_ABORT and POOL_FATAL let it
 * fail now. Where a hook decides, pool_communicate() repeats nothing by itself: a hook that only
 * wants to see answers POOL_CONTINUE when `error` has POOL_PHASE_USE and POOL_NOT_SENT, so that a
 * reused connection that had died is still replaced.
 *
 * Failures of the caller's own are told but never repeated: POOL_E_ARGUMENT, POOL_E_ADDRESS,
 * POOL_E_WOULD_BLOCK, POOL_E_CANCELED, POOL_E_CLOSING, POOL_E_FORKED, and POOL_E_FULL when the
 * thread itself holds every connection. A call without a pool, or whose settings cannot be read,
 * fails untold; a pool that has ended is not asked any more. */
typedef enum pool_decision pool_error_fn(const struct pool_error *error, void *user);

/* Decides what happens when room is needed and no idle connection is left to evict. POOL_CONTINUE
 * waits for one until the deadline, then fails with POOL_E_RESOURCE; POOL_ABORT fails so at once.
 * It runs on the thread that needs room; `user` is pool_options.user. */
typedef enum pool_decision pool_none_removable_fn(struct pool *pool, void *user);

/* Receives a request of the peer, the body alone, borrowed for the call.
 *
 * It runs on the mux thread, in the order in which the requests of a connection came. `responder`
 * is the program's: exactly one pool_respond() or pool_respond_error() must end it, now or later,
 * from any thread, also when the connection or the pool is gone.
 *
 * Of one connection at most max_inflight requests are unanswered at a time. Beyond them it is not
 * read, unless queries of ours await replies on it: then further requests are kept, and come here
 * as others are answered; the connection's end drops them. While more than max_message bytes wait
 * for this function it is not read in any case; so where answers need answers of the peer, bound
 * what the peer may ask at once. `user` is pool_options.user. */
typedef void pool_request_fn(struct pool_responder *responder, struct pool_bytes request,
                             void *user);

/* Receives a message that belongs to nobody: a reply whose query had run out of time or was
 * canceled, or that was asked for by pool_post_request(), and a push to a connection without an
 * actor.
 *
 * It runs on the mux thread. `connection` is the connection's id, `key` that of the reply, or 0;
 * `message` is the body, borrowed for the call; `user` is pool_options.user. What comes while
 * max_message bytes wait to be told is counted only. */
typedef void pool_orphan_fn(uint64_t connection, uint64_t key, struct pool_bytes message,
                            void *user);

/* The settings of a pool. POOL_OPTIONS(), which is `size` and zeros, is a safe pool; nothing needs
 * setting.
 *
 * pool_create() copies the struct; what its pointers name must outlive the pool. It answers
 * POOL_E_ARGUMENT to an impossible value. */
struct pool_options {
    /* Bytes of the struct as the program was compiled; POOL_OPTIONS and pool_options_init() set it.
     * A size that no release has is POOL_E_ARGUMENT. A longer struct, of a later release, is taken
     * when all that is new in it is zero. */
    size_t size;

    /* The mux that serves the pool. A pool keeps its mux: pool_mux_destroy() may come first, and
     * takes effect when the pool has ended. Default, NULL: one of the pool's own, on its own
     * thread. Set it to share one among pools, or to run it in a loop of your own (mux.h). */
    struct pool_mux *mux;

    /* How the protocol cuts bytes into messages (codec.h), for queries (query.h) and pool_ask(). It
     * must outlive the pool. Default: NULL, none: queries are POOL_E_ARGUMENT. Set it to
     * pool_codec_resp() or another ready-made one, or to one of your own. */
    const struct pool_codec *codec;

    /* How connections of tls:// addresses are secured (tls.h); the pool keeps a share of it, so it
     * may be freed before the pool. Default: NULL, the system's store of certificates and nothing
     * else, read at the first use of such an address. */
    struct pool_tls *tls;

    /* Connections that the pool may have at once, of any kind, in all. Reaching it evicts an idle
     * one, or, when none is, one that queries share and that carries nothing, but none that serves
     * on_request since it was adopted. Else callers wait, and get POOL_E_RESOURCE at their
     * deadline. Default: the soft RLIMIT_NOFILE (getrlimit(2)) less 64, at least 8. Lower it when
     * the program needs many descriptors itself. */
    uint32_t max_connections;

    /* Connections to one address at once. When all are lent, callers wait. Default: 64. Lower it to
     * spare the peer, raise it when `waiting` in pool_stats stays above 0 and the peer has room. */
    uint32_t max_per_address;

    /* Callers that may wait for one address at once; the next one gets POOL_E_FULL. Default:
     * 10,000. POOL_ZERO: nobody waits for what others have, only for what is being opened. Lower it
     * to fail early under overload. */
    uint32_t max_waiters;

    /* Connections to one address that may be in the making at once. Default: 2, which keeps a
     * restarted peer from being stormed. Raise it when connecting is slow and bursts are sudden. */
    uint32_t max_connecting;

    /* Queries in flight on one shared connection, which is full then, as it is with write_high
     * bytes unsent, or 2 GiB. When all that queries share are full, or have more than write_high
     * bytes of a reply to come first, another one is opened, up to max_per_address, and then
     * queries wait, at most max_waiters to an address. Default: 1,024.
     * Also the requests of the peer that may be unanswered on one connection (pool_request_fn).
     * POOL_ZERO is POOL_E_ARGUMENT. Lower it when the peer serves a connection's requests slowly,
     * so that they spread over several; raise it where many small queries are under way at once. */
    uint32_t max_inflight;

    /* Connections kept open to an address once it was used, even when nobody needs them; at most
     * max_idle and max_per_address. They are opened in the background, never at the cost of another
     * connection, and replaced when they end, also when idle_ms ends them. An address that cannot
     * be reached any more is left alone until it is used again. `prepare` runs when one is borrowed
     * first. Default: none. Set it where the first callers after a quiet time must not wait. */
    uint32_t min_idle;

    /* Idle connections kept for one address; one returned beyond it is closed. Default:
     * max_per_address. Lower it when bursts leave connections behind that nobody needs. */
    uint32_t max_idle;

    /* Borrows after which a connection is closed. Default: no limit. Set it for peers that leak or
     * forbid long use. */
    uint32_t max_uses;

    /* Milliseconds after which an idle connection is closed. Default: 60,000. Keep it below the
     * time after which the peer closes idle connections itself. */
    uint32_t idle_ms;

    /* Milliseconds that a connection may live; each one's limit differs by up to 10 % either way,
     * so that they do not all end at once. A lent one is closed when it is returned. Default:
     * 1,800,000. Lower it when what stands behind an address changes often. */
    uint32_t max_age_ms;

    /* Milliseconds of idleness after which a connection is parked, that is, handed to the mux to
     * watch. Default: 100. Raising it saves system calls for connections used at that pace, and
     * notices a peer's close later. */
    uint32_t park_ms;

    /* Milliseconds after which a loan is reported to on_log as a leak, once, with the tag of its
     * call. Default: off, which costs nothing. Set it while you search for a borrow that is never
     * returned: no return is as cheap then as a warm one. */
    uint32_t leak_ms;

    /* Milliseconds that a whole call may take: waiting, connecting, setting up and using. Default:
     * 10,000. pool_call.timeout_ms overrides it for one call. Over TCP it is also the time after
     * which the kernel gives up a peer that acknowledges nothing (TCP_USER_TIMEOUT, tcp(7)). */
    uint32_t timeout_ms;

    /* Milliseconds that opening one connection may take, up to its being connected; as many again
     * for the exchange that on_new_connection begins. Default: 5,000. Lower it on a local network,
     * where a late answer means none. */
    uint32_t connect_ms;

    /* Milliseconds for one TLS handshake, after connecting. Default: 5,000. Where a name has
     * several addresses, each has its own. */
    uint32_t tls_ms;

    /* Milliseconds that one receiving call may wait. Default: bounded by the call's deadline alone.
     * Set it when the peer's silence should end a long call early. */
    uint32_t read_ms;

    /* Milliseconds that one sending call may wait. Default: bounded by the call's deadline alone.
     * Set it when a peer that no longer reads should end a long call early. */
    uint32_t write_ms;

    /* Milliseconds for which newcomers may take a free connection ahead of a waiting caller; a
     * caller that has waited longer comes first, and such callers are served in order. Default: 10.
     * POOL_ZERO serves strictly in order, which is fairer and slower. */
    uint32_t barge_ms;

    /* Bytes queued by pool_write() on one connection above which it answers POOL_E_FULL. Default: 1
     * MiB. Lower it to bound memory with many slow peers. */
    uint32_t write_high;

    /* Bytes to which that queue must fall before it takes more. Default: 256 KiB, or write_high
     * where that is less. It must not be above write_high. */
    uint32_t write_low;

    /* Bytes that pool_recv_until() may read in search of its delimiter, the delimiter included;
     * beyond it the answer is POOL_E_PROTOCOL. Default: 64 KiB. Raise it for protocols with longer
     * lines. */
    uint32_t max_line;

    /* Bytes of one message of a codec with its framing, in either direction, and of a reply that
     * comes in several; a longer request is POOL_E_FULL, and a longer message of the peer ends its
     * connection with POOL_E_PROTOCOL. It also bounds what waits to be told to actors, on_request,
     * on_orphan and on_part. Default: 16 MiB. POOL_ZERO is POOL_E_ARGUMENT. Lower it to what your
     * protocol needs: a peer may make the pool hold as much for each connection, and sixteen times
     * as much in replies that come in several, of which more together end the connection, too. */
    uint32_t max_message;

    /* After a failure to connect to an address, the next attempt waits: a time by chance, at most
     * so many milliseconds after the first failure, twice as long after each one more. Callers wait
     * meanwhile, until their deadlines. Default: 100. POOL_ZERO: no pause. Raise it for peers that
     * take long to come back. */
    uint32_t backoff_first_ms;

    /* The longest such pause, in milliseconds. Default: 10,000. */
    uint32_t backoff_max_ms;

    /* Failures in a row after which an address is suspended: who needs a new connection gets
     * POOL_E_SUSPENDED at once. Attempts that were under way together count as one; success, or
     * ten seconds without an attempt, begins anew. Default: 5. POOL_ZERO and POOL_NONE: never. */
    uint32_t suspend_after;

    /* Milliseconds for which it is. Then one attempt is made, for the next caller, and when it
     * fails the address is suspended again. Default: 1,000. */
    uint32_t suspend_ms;

    /* How closely connections are looked at before reuse. Default: POOL_CHECK_ALWAYS, two short
     * system calls. Choose POOL_CHECK_PARKED or POOL_CHECK_NEVER when those count and no other code
     * closes descriptors that are not its own. */
    enum pool_check check;

    /* Which idle connection is lent first. Default: POOL_LIFO. POOL_FIFO spreads use over all idle
     * ones; no return is then as cheap as a warm one. */
    enum pool_order order;

    /* The pool is born paused: it lends and opens nothing until pool_ready(). Default: false. Set
     * it when borrowers may come before the program knows that the peers are there. */
    bool start_paused;

    /* Sees each fresh socket before it connects, on the mux thread: the place for socket options of
     * your own (setsockopt(2)). It must not close `fd`. Non-zero refuses the socket, and the caller
     * gets POOL_E_USER. Closing never waits for the peer: SO_LINGER with a time is switched off
     * then, without one (a reset) it holds. Default: NULL. */
    int (*on_socket)(int fd, const char *address, void *user);

    /* Sets up each connection that the pool opens, on the mux thread. Default: NULL, none. Set it
     * to attach an actor, or for a greeting that can be event-driven. */
    pool_new_connection_fn *on_new_connection;

    /* Prepares each connection by blocking code, for example AUTH or SELECT, after
     * on_new_connection and before the first use. It runs on the thread of the caller who borrows
     * it first, for an asynchronous call on a thread of the pool's own, within that call's deadline
     * and never on the mux thread. What it answers counts as for `use`: non-zero closes the
     * connection, and the caller gets the error. Default: NULL, none. */
    pool_use_fn *prepare;

    /* Decides whether a failed attempt of a blocking call is made again; after the hook of the
     * call, and with the last word. Default: NULL, none: pool_communicate() then replaces a reused
     * connection that failed before anything was sent, once. */
    pool_error_fn *on_error;

    /* Decides what happens when room is needed and nothing is idle. Default, NULL: as
     * POOL_CONTINUE, wait until the deadline, then POOL_E_RESOURCE. Set it to fail at once, or to
     * free descriptors of your own. */
    pool_none_removable_fn *on_none_removable;

    /* Observes what happens (observe.h). Default: NULL, which costs nothing. */
    pool_event_fn *on_event;

    /* Receives log lines (observe.h): descriptors that other code replaced, connections closed to
     * make room, addresses suspended, leaks. Default: NULL, which costs nothing. */
    pool_log_fn *on_log;

    /* Receives requests of the peer, on connections that queries share and on those given to the
     * pool by pool_adopt(), which then hear their peer for as long as they last, unless somebody
     * borrows them: idle_ms ends none of them, max_age_ms does, and each counts against
     * max_per_address and max_idle. One that was adopted, or on which the peer asked while it was
     * idle, is not closed for room. Default: NULL: a request of the peer ends its connection with
     * POOL_E_PROTOCOL. It needs a codec, and one that knows requests of the peer. Set it where both
     * ends ask, or to serve accepted sockets. */
    pool_request_fn *on_request;

    /* Receives messages that belong to nobody, among them replies that came too late. Default:
     * NULL: they are counted (pool_stats.orphans) and dropped. It needs a codec. Set it to learn
     * what answers to queries that were given up, or only posted. */
    pool_orphan_fn *on_orphan;

    /* Given to every hook here; belongs to the program and must be valid as long as the pool is.
     * Default: NULL. */
    void *user;

    /* Says whether a socket address that a host name stands for may be connected to, before a
     * socket is made for it: 0, it may; else it is passed as one that failed is, and when no other
     * is left the caller gets POOL_E_USER, "on_resolved answered" that number. It runs on the mux
     * thread, for each attempt anew, and must not wait. `address` is the canonical text, `place`
     * has its port; both are borrowed for the call. A literal address in the text is the program's
     * own and is not asked about. Connections that stand stay. Default: NULL, every one may. Set it
     * where names come from others and must not lead inside, to 127.0.0.1 for example (DNS
     * rebinding); an IPv4 address may also come as an IPv6 one, ::ffff:127.0.0.1. */
    int (*on_resolved)(const char *address, const struct sockaddr *place, socklen_t size,
                       void *user);
};

/* Options in place, for C: pool_create(POOL_OPTIONS(.idle_ms = 5000), &pool). The struct lives
 * until the block around the call ends. C++ and other languages call pool_options_init() and set
 * fields. */
#ifndef __cplusplus
#define POOL_OPTIONS(...) \
    (&(struct pool_options){ .size = sizeof(struct pool_options), __VA_ARGS__ })
#endif

/* Bits for pool_call.flags. A bit that is not here is POOL_E_ARGUMENT, and so is one that is not
 * for this kind of call: borrows know the first four, queries POOL_SAFE_TO_REPEAT, POOL_DONT_WAIT
 * and the last three. */
enum {
    /* Doing it twice does no harm: after a reused connection failed, `use` may run again even
     * though something was sent; a query whose connection broke is asked again on another one, at
     * most three times. */
    POOL_SAFE_TO_REPEAT = 1,

    /* A new connection, never a reused one. Where max_per_address or max_connections is reached, an
     * idle connection is closed to make place for it; else the call waits until one can be. */
    POOL_FRESH = 2,

    /* Do not wait for a connection that somebody else has: POOL_E_FULL at once when none is idle
     * and none may be opened for this call, because max_per_address or max_connections is reached;
     * POOL_E_RESOURCE when descriptors ran out. One that is being opened is waited for. A query
     * gets POOL_E_FULL when no connection has room for it and none may be opened. */
    POOL_DONT_WAIT = 4,

    POOL_ONE_WAY = 8, /* no answer is due to what is sent last: the connection is clean after it */

    /* For queries: never on two connections, even when the first one broke before anything was
     * sent. */
    POOL_ONE_SHOT = 16,

    /* For queries: all queries to an address with this flag go over one connection, in the order in
     * which they were asked, as long as that connection lasts; when it is full, they wait for it.
     * After it broke, those that move to another one keep their order among themselves. */
    POOL_ORDERED = 32,

    /* For queries: wait while the peer is down. As long as no connection can be opened, because the
     * name is not found, the peer refuses, does not answer or ends what was begun, or is suspended
     * for that, the query stays queued, and attempts go on as the pool's back-off has it. At its
     * deadline it fails as the last attempt did. */
    POOL_WAIT_FOR_PEER = 64
};

/* The settings of one call. NULL in its place, all zeros, or POOL_CALL() means the pool's own
 * settings.
 *
 * The struct is borrowed until the call returns, which answers POOL_E_ARGUMENT to an impossible
 * value. */
struct pool_call {
    /* Bytes of the struct as the program was compiled; POOL_CALL and pool_call_init() set it. A
     * size that no release has is POOL_E_ARGUMENT; a longer struct is taken as for pool_options.
     * Only a struct that is all zeros may do without. */
    size_t size;

    /* Milliseconds for the whole call. Default: pool_options.timeout_ms. POOL_NONE waits for
     * ever. */
    uint32_t timeout_ms;

    /* Milliseconds for the wait for a connection alone; for a query, until one has room for it.
     * Default: bounded by the whole call. */
    uint32_t wait_ms;

    /* Bits as above. Default: 0. */
    uint32_t flags;

    /* A point in time at which the whole call must end, in nanoseconds of CLOCK_MONOTONIC
     * (clock_gettime(2)); the earliest of all bounds counts. Default: 0, none. */
    uint64_t deadline_ns;

    /* Where to put a ticket by which another thread can cancel the call: set before the call waits,
     * and the caller's until pool_ticket_free(); NULL when the call was refused before. It outlives
     * the call, and after pool_borrow() cancels the loan. For pool_communicate_async() the
     * parameter `ticket` counts, where it is not NULL, before this one. Default: NULL, none.
     *
     * The calling thread alone writes the variable that this names: NULL when the call begins, and
     * the ticket, once, when it is ready for use, by an atomic store with release order. While the
     * call runs, another thread reads it by an atomic load with acquire order, for example
     * __atomic_load_n(&ticket, __ATOMIC_ACQUIRE), finds NULL before there is a ticket, and may
     * cancel from then on: set the variable to NULL yourself before you show it to that thread. The
     * ticket must not be freed while another thread may still use it. Of an asynchronous call no
     * other thread may look before the start has answered POOL_OK; on_lent may. */
    struct pool_ticket **ticket;

    /* For queries: receives the parts of the reply as they come; the reply is then only its last
     * part, and its size as a whole has no limit. While more than max_message bytes wait for this
     * function, the connection is not read, so be quick, or have other queries go elsewhere.
     * Default: NULL: the parts are kept and the reply is all of them as one, at most max_message
     * bytes. On a borrow it is POOL_E_ARGUMENT. Set it for long replies that can be used piece by
     * piece. */
    pool_part_fn *on_part;

    /* The peer, looked up beforehand with pool_target_get(). The address of the call is then not
     * looked at, and may be NULL; errors name the target's peer. Default: NULL. Set it in hot
     * loops: it spares parsing and looking up the text. It must belong to the same pool. */
    struct pool_target *target;

    /* Decides whether a failed attempt is made again, before the hook of the pool. Asynchronous
     * calls and queries do not look at it. Default: NULL, none. */
    pool_error_fn *on_error;

    /* Where to write the details of a failure. A call that succeeds leaves it as it was: test the
     * answer of the call, not this. pool_communicate_async() writes it before it returns or never;
     * on_lent is given the later failures. Default: NULL, nowhere. It must be initialised with
     * POOL_ERROR_INIT, or be all zeros. */
    struct pool_error *error;

    /* A name for this call in reports of leaks. Default: NULL, none. It is read during the call
     * only, when leak_ms is set, up to 31 bytes. */
    const char *tag;

    /* Given to the hooks of this call; belongs to the program. Default: NULL. */
    void *user;
};

/* The settings of one call in place, for C: POOL_CALL(.timeout_ms = 250). The struct lives until
 * the block around the call ends. C++ and other languages call pool_call_init() and set fields. */
#ifndef __cplusplus
#define POOL_CALL(...) \
    (&(struct pool_call){ .size = sizeof(struct pool_call), __VA_ARGS__ })
#endif

/* Fills *options with the defaults: its size, and zeros. For languages that cannot use
 * POOL_OPTIONS.
 *
 * The struct stays the caller's. Any thread may call it. It cannot fail; NULL is fine. */
POOL_API void pool_options_init(struct pool_options *options);

/* Fills *call with the defaults: its size, and zeros. For languages that cannot use POOL_CALL.
 *
 * The struct stays the caller's. Any thread may call it. It cannot fail; NULL is fine. */
POOL_API void pool_call_init(struct pool_call *call);

#ifdef __cplusplus
}
#endif

#endif
