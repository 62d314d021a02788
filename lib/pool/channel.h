/* channel.h: the event-driven side of a connection: watching, queued writes, silence timers, the
 * hook's "later", and the actor that hears what comes while it is idle. All of it belongs to the
 * mux thread, but for what a comment says.
 */
#ifndef PL_POOL_CHANNEL_H
#define PL_POOL_CHANNEL_H

#include "base/buffer.h"
#include "commpool/pool.h"
#include "net/connection.h"

#define PL_CHANNEL_READ 16384 /* bytes taken from the socket at once */
#define PL_CHANNEL_READS 16 /* and how often for each event: others want their turn, too */

struct pl_channel {
    struct pl_connection *connection;   /* NULL once it is gone */
    struct pool *pool;                  /* counted */
    struct pool_actor actor;            /* on_message NULL: none */
    pool_conn_event_fn *on_event;       /* NULL: not watched */
    void *user;
    struct pl_buffer out;
    uint32_t high, low;                 /* watermarks */
    enum pl_mux_stay stay;              /* of the call that is inside */
    bool is_securing;                   /* from clear to TLS: nothing else is read or written */
    bool is_ready_due;                  /* the hook is done with it, but TLS is not */
    short read_wants, write_wants;      /* for what the last one of each waits: POLLIN, POLLOUT */
    bool is_over_high;
    bool owes_written;                  /* POOL_EV_WRITTEN is due once nothing is queued */
    bool is_half;                       /* its actor stands inside a message */
    bool has_timers;
    struct pl_timer silence[2];         /* by enum pool_direction */
    uint32_t silence_ms[2];             /* 0: unbounded */
    uint64_t lent_serial;               /* of the loan that it serves; 0: none */
    bool has_deadline;
    struct pl_timer deadline;           /* of that loan */
    _Atomic bool is_ready_told;         /* pool_conn_ready was called */
    _Atomic int ready_status;
    _Atomic uint64_t ready_serial;      /* of the handle it was called with, when told from outside
                                         * a callback */
    struct pl_post ready_post, hear_post, end_post, let_go_post;
    int let_go_reason;                  /* of the last one: why the connection is closed, or -1 */
    _Atomic uint32_t posted;            /* which of the first two are on their way */
    _Atomic size_t untold;              /* bytes that pushes on their way to the actor take */
    uint64_t id;                        /* of the connection, for the actor's last call */
    struct pl_failure failure;          /* why it is gone */
};

enum { PL_POSTED_READY = 1, PL_POSTED_HEAR = 2 };

static inline struct pl_channel *pl_channel_of(const struct pl_connection *connection)
{
    return atomic_load(&connection->channel);
}

/* The connection's channel, made if need be; NULL: no memory, or the pool has ended, which
 * pl_channel_refusal() tells apart. */
struct pl_channel *pl_channel_make(struct pl_connection *connection);

/* Why none could be made. */
enum pool_status pl_channel_refusal(const struct pool *pool);

/* Runs on_new_connection. False: it has no channel. With POOL_LATER as the answer, the rest is the
 * channel's business. */
bool pl_channel_call_hook(struct pl_connection *connection, int *answer) PL_MUST_USE;

/* pool_conn_start_tls() of a connection that is set up: begins, and does not wait. */
enum pool_status pl_channel_start_tls(struct pool_conn *conn);
/* Goes on with the handshake. False: it is not over, or the connection is out of our hands. */
bool pl_channel_secure(struct pl_channel *channel, struct pool_conn handle);
/* The connection ended by itself, or by `error`: the last event, and then what it was in the middle
 * of fails. */
void pl_channel_end_of_stream(struct pl_channel *channel, struct pool_conn handle, int error);
/* What one that is being set up is doing. */
enum pool_phase pl_channel_phase(const struct pl_connection *connection);
/* True: it is being secured, and pl_open_finish() will be called again. */
bool pl_channel_defers_ready(struct pl_connection *connection);

/* Sends what is queued and fits: 0, or a positive errno. *is_due: all has left, which the watcher
 * is to be told. */
int pl_channel_flush(struct pl_channel *channel, bool *is_due);

void pl_channel_stop_watching(struct pl_connection *connection);
/* The same, also for one that the pool's end has taken from its connection. */
void pl_channel_silence(struct pl_channel *channel);
/* Something is queued and unsent. */
bool pl_channel_is_busy(const struct pl_connection *connection);
/* It is set up: who will hear what comes is decided. */
void pl_channel_settle(struct pl_connection *connection);
/* It is being parked, and so nobody's (MUX): what no actor needs is freed, when this is the mux
 * thread. */
void pl_channel_drop_unused(struct pl_connection *connection);

/* An event of a connection that is held (SETUP, HEARD). */
void pl_channel_on_event(struct pl_connection *connection, uint64_t word, uint32_t events);

/* Any thread that owns the connection. */
bool pl_channel_has_actor(const struct pl_connection *connection);

/* Data waits on a connection that its owner holds (MUX): the actor hears it, then it is parked. Mux
 * thread. */
void pl_channel_hear(struct pl_connection *connection);
/* Any thread: the same, later on the mux. */
void pl_channel_post_hear(struct pl_connection *connection);

/* The connection is being closed: last calls come from the mux, soon. Any thread. Where somebody
 * else may have it, as at the pool's end, its peer's lock is held. */
void pl_channel_end(struct pl_connection *connection);

/* For the calls of programs. */
void pl_channel_fail(struct pl_connection *connection, enum pool_status status, int cause);
void pl_channel_fail_errno(struct pl_connection *connection, int error);
/* False: the number is not ours any more. */
bool pl_channel_watch_again(struct pl_channel *channel);
void pl_channel_arm_silence(struct pl_channel *channel, enum pool_direction direction);

/* One event to the watcher. False: the connection ended in it. */
bool pl_channel_tell(struct pl_channel *channel, struct pool_conn handle, enum pool_event event,
                     struct pool_bytes bytes);

/* Does what pool_conn_ready asked for. True: it was asked, and the connection has left the
 * channel's hands. */
bool pl_channel_carry_out_ready(struct pl_connection *connection);

#endif
