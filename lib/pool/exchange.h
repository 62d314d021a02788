/* exchange.h: the queries of one peer: those that wait for a connection, and the lines that carry
 * the others. A line is one connection that queries share: the pool has lent it to the exchange,
 * which returns it when it has carried nothing for a while.
 *
 * All of it is under the exchange's lock, which is below the pool's lock and above the peer's and
 * the mux's; no system call that may wait is made under it, and nobody is called. An exchange and
 * its lines are type-stable: a late event finds one that is somebody else's now.
 *
 * A query stands in the queue, then on a line until its replies have come, and has one result, a
 * reply or a failure, which may come earlier: time can run out. So two things keep one: its line,
 * and whoever has yet to learn the result, a thread that waits or the mux. The last of them frees
 * it.
 */
#ifndef PL_POOL_EXCHANGE_H
#define PL_POOL_EXCHANGE_H

#include <pthread.h>

#include "base/buffer.h"
#include "base/os.h"
#include "mux/mux.h"
#include "net/connection.h"
#include "pool/pool.h"
#include "pool/reply.h"
#include "wire/correlator.h"

struct pl_line;

#define PL_SPANS 4u                     /* distinct timeouts whose deadlines come in order */
#define PL_SLOTS 64u                    /* of a wheel, for those of other timeouts */
#define PL_LATE_NS (30 * 1000 * PL_MS)  /* so long may a reply be late before its line ends */
#define PL_WAKES 32u                    /* threads noted to be woken after unlocking; more are woken
                                         * at once */

/* Why a line could not be opened, as it was told; shared by those whom it concerns. */
struct pl_told {
    _Atomic uint32_t refs;
    struct pool_error error;
};

/* What only some queries need. */
struct pl_query_more {
    struct pl_list link;                /* in the queue; or among those whose parts are to be
                                         * told */
    struct pl_query *query;
    struct pool_ticket *ticket;         /* counted */
    struct pl_told *told;               /* counted: why it failed, or would at its deadline; NULL:
                                         * its failure says it all */
    struct pl_buffer joined;            /* parts of the reply so far, if they are told as one */
    pool_part_fn *on_part;              /* NULL: they are */
    struct pl_list parts;               /* those that are yet to be told to it */
    size_t part_size;                   /* bytes that these take */
    void *part_user;
    uint32_t queued_ms;                 /* since when it is queued, modulo 2^32 */
    uint64_t reply_deadline_ns;         /* its own once a line carries it; 0: the one it has */
    bool is_queued, has_request;
    bool is_frame;                      /* the request is framed already, with the entry's key */
    bool is_stuck;                      /* that is in use where it was to go */
    struct pool_bytes request;          /* the caller's, or the copy */
    char copy[];
};

struct pl_query {
    struct pl_entry entry;
    struct pl_list link;                /* among those whose threads wait on a line; by its
                                         * deadline; among those that are to be told; unwoken; or
                                         * spare */
    struct pl_line *line;               /* NULL: none yet, or no more */
    struct pl_query_more *more;         /* NULL: not needed */
    uint64_t deadline_ns;               /* of one that was given up: since when it is late */
    pool_reply_fn *on_reply;            /* NULL: a thread waits */
    void *user;                         /* or the struct pl_thread */
    union {                             /* once it is done */
        struct pool_reply *reply;
        struct pl_failure failure;
        uint64_t posted_ns;             /* it is posted, and on its line since then */
    };
    uint32_t asked_ms, waited_ms;       /* when, modulo 2^32; of that, in the queue so far */
    uint32_t end;                       /* behind its frame: the line's `given`, modulo 2^32 */
    bool is_done : 1, has_reply : 1;
    bool is_awaited : 1;                /* somebody has yet to learn its result, or it is posted and
                                         * on no line yet */
    bool is_passive : 1;                /* no thread would receive for it */
    bool is_posted : 1;                 /* nobody wants to know */
    bool is_sentinel : 1;               /* the line's own: is the stream in step? */
    bool is_returning : 1;              /* its thread is told, and has not been back yet */
    bool is_woken : 1;                  /* and was woken for it */
    bool is_long_gone : 1;              /* its frame left so long ago that `end` does not tell */
    bool was_sent : 1;                  /* a line that broke may have sent it */
    bool closes : 1;                    /* its request ends the connection that it goes out on */
    uint8_t moves;                      /* so often it moved */
    uint8_t flags;                      /* of the call */
};

_Static_assert(sizeof(struct pl_query) <= 104, "there are thousands of them");

struct pl_exchange {
    pthread_mutex_t lock;
    struct pl_peer *peer;               /* fixed */
    struct pool *pool;                  /* while it is active: counted, and the peer is entered */
    uint64_t generation;                /* of the peer, then */
    uint64_t next_key;                  /* where replies carry keys: for all connections to the
                                         * peer, so that a frame keeps its key when it moves */
    bool is_active, is_ended;
    bool keeps_requests;                /* on lines, too: a frame is good on its own line only */
    struct pl_list lines;
    struct pl_line *yielding;           /* leaves for those who wait, and for no other reason; its
                                         * peer has it noted, under both locks; NULL: none does */
    _Atomic bool must_take_back;        /* nobody waits for it any more, and the mux is to see to it
                                         * at once; set without the lock */
    struct pl_line *ordered;            /* where queries that keep their order go; NULL: none yet */
    uint32_t line_count, opening;
    uint32_t steps;                     /* under way, that let the lock go and find it active
                                         * after */
    uint64_t yield_ns;                  /* one line stops carrying queries then, for those who wait
                                         * for a connection of their own */
    uint64_t widen_ns;                  /* a further line is not tried for before then */
    struct pl_list queue;               /* of pl_query_more, first come first */
    struct pl_list turns;               /* the same of those that keep their order: they wait for
                                         * one line, and nobody waits for them */
    struct pl_list *moved, *moved_turns;        /* in each the last one that was on a line before,
                                                 * all of which are in front; or the list itself */
    uint32_t queued, queued_turns;      /* in both; in the second */
    uint32_t queued_hasty;              /* of those in both: they wait for no return */
    struct pl_list done;                /* asynchronous ones, to be told on the mux; as the next
                                         * two */
    struct pl_list parting;             /* of pl_query_more: parts came */
    struct pl_list unasked;             /* messages that answer nothing (unasked.h) */
    size_t orphan_size;                 /* bytes in them that belong to nobody */
    bool is_attend_posted;              /* the post is on its way */
    struct pl_post attend_post;
    uint32_t returning, woken;          /* queries that are so (crowd.c) */
    uint32_t woken_most;                /* of the pool's settings */
    struct pl_list unwoken;             /* those of threads that others wake when they are back */
    bool has_held_back;                 /* what was asked on some line waits for them */
    uint64_t held_until_ns;             /* so long at the most */
    struct pl_list spare;               /* queries, for the next ones */
    uint32_t spare_count;
    struct {
        uint32_t timeout_ms;
        struct pl_list queries;         /* the earliest first */
    } spans[PL_SPANS];
    struct {                            /* the others, by when they are due (deadline.c) */
        struct pl_list slots[PL_SLOTS];
        uint64_t swept_ns;              /* what was due by then has gone */
        uint64_t next_ns;               /* and nothing is due before then */
    } wheel;
    bool has_timer;
    struct pl_timer timer;              /* deadlines, and lines that carry nothing */
    uint64_t timer_ns;
    uint64_t slack_ns;                  /* by which the coarse clock may be behind */
    uint64_t queries, late_replies, orphans, timeouts, retries;         /* ever, of this pool */
};

/* Threads that a step has yet to wake, when the lock is not held any more. */
struct pl_wakes {
    unsigned count;
    struct pl_thread *threads[PL_WAKES];
};

/* For the hot path: `= { 0 }` would clear the list, too. */
static inline void pl_wakes_init(struct pl_wakes *wakes)
{
    wakes->count = 0;
}

/* A query that is to be accepted: what is asked, and by whom. */
struct pl_submission {
    struct pool_bytes request;
    const struct pool_call *call;       /* as read */
    uint64_t asked_ns, deadline_ns;
    uint64_t wait_deadline_ns;          /* the same for the queue alone */
    uint32_t timeout_ms;                /* what `deadline_ns` comes from, or 0 */
    bool is_too_late;                   /* it had no time from the start */
    struct pl_thread *thread;           /* who waits, or NULL */
    pool_reply_fn *on_reply;
    void *user;
    struct pool_ticket *ticket;         /* counted by the caller */
    struct pl_line *line;               /* comes back: where its frame was put; NULL: nowhere yet */
};

static inline uint32_t pl_ms_of(uint64_t ns)
{
    return (uint32_t)(ns / PL_MS);
}

static inline struct pl_query *pl_query_of_entry(struct pl_entry *entry)
{
    return pl_container(entry, struct pl_query, entry);
}

static inline struct pl_query *pl_query_of_link(struct pl_list *link)
{
    return pl_container(link, struct pl_query, link);
}

/* Where the exchange notes the last one of its queue that was on a line before. */
static inline struct pl_list **pl_query_last_moved(struct pl_exchange *exchange,
                                                   const struct pl_query *query)
{
    return query->flags & POOL_ORDERED ? &exchange->moved_turns : &exchange->moved;
}

/* The queue is not empty. */
static inline struct pl_query *pl_query_first_queued(const struct pl_exchange *exchange)
{
    const struct pl_list *queue =
        pl_list_is_empty(&exchange->queue) ? &exchange->turns : &exchange->queue;

    return pl_container(queue->next, struct pl_query_more, link)->query;
}

/* ---- exchange.c, line_open.c, result.c */

/* The peer's, made if need be; NULL: no memory. The peer is entered. */
struct pl_exchange *pl_exchange_of(struct pl_peer *peer);

/* It may have been that of an earlier peer, whose counts are not this one's; locked. */
void pl_exchange_renew(struct pl_exchange *exchange);

/* Locks it, if it still is that of the peer as the caller knew it, and is active. */
bool pl_exchange_enter_warm(struct pl_exchange *exchange, uint64_t generation) PL_MUST_USE;
/* The same, and makes it so; for callers who have entered the peer. What the peer says is heard in
 * a pause, too. */
enum pool_status pl_exchange_enter(struct pl_exchange *exchange, bool also_paused) PL_MUST_USE;

/* Unlocks it, and wakes who is to be woken. */
void pl_exchange_unlock(struct pl_exchange *exchange, struct pl_wakes *wakes);

/* All that follow: locked, unless a comment says otherwise. */

/* Accepts a query: it stands on a line, or in the queue. */
enum pool_status pl_exchange_submit(struct pl_exchange *exchange, struct pl_submission *submission,
                                    struct pl_query **query, struct pl_wakes *wakes) PL_MUST_USE;

/* Puts what is queued on lines that have room for it. */
void pl_exchange_distribute(struct pl_exchange *exchange, struct pl_wakes *wakes);

/* Should one more line be opened? Then the caller is to do so: it takes a loan, and brings it or
 * says why there is none, for a query of its own or for all. The latter two are not locked. */
bool pl_exchange_plan_line(struct pl_exchange *exchange);
void pl_exchange_open_line(struct pl_exchange *exchange, struct pool_conn conn);
void pl_exchange_fail_line(struct pl_exchange *exchange, const struct pool_error *error,
                           struct pl_query *own);

/* Is one more place on lines that come, or may be opened at once, free for a query? */
bool pl_exchange_may_come(const struct pl_exchange *exchange);

/* Those that wait for no return were let in for lines that others have meanwhile: they fail. */
void pl_exchange_refuse_hasty(struct pl_exchange *exchange, struct pl_wakes *wakes);

/* A thread waits for a connection that is to be a line; not locked. */
void pl_exchange_note_wait(struct pl_peer *peer);

/* The result of a query stands from now on. */
void pl_exchange_finish(struct pl_exchange *exchange, struct pl_query *query,
                        struct pool_reply *reply, struct pl_wakes *wakes);
void pl_exchange_fail(struct pl_exchange *exchange, struct pl_query *query,
                      struct pl_failure failure, struct pl_wakes *wakes);

/* A query's line broke under it: it goes back into the queue, or fails. Its frame, as it was to be
 * sent, is given where none of it was. */
void pl_exchange_move(struct pl_exchange *exchange, struct pl_query *query,
                      struct pl_failure failure, struct pool_bytes frame, struct pl_wakes *wakes);

/* Parts of its reply came. */
void pl_exchange_note_parts(struct pl_exchange *exchange, struct pl_query *query,
                            struct pl_wakes *wakes);
/* The mux attends to it soon: it tells what is to be told, gives what is queued to lines, opens
 * those that are wanted, and lets go of those that have nothing to do. */
void pl_exchange_attend_later(struct pl_exchange *exchange);
/* Tells what came so far and comes meanwhile, until the query's time is over or it is ended;
 * unlocks meanwhile. Afterwards this may be a child of fork(). */
void pl_query_tell_parts(struct pl_exchange *exchange, struct pl_query *query);

/* Its line has nothing to do with it any more, or nobody has yet to learn its result. */
void pl_exchange_leave_line(struct pl_exchange *exchange, struct pl_query *query);
void pl_exchange_release(struct pl_exchange *exchange, struct pl_query *query);

void pl_exchange_wake(struct pl_wakes *wakes, struct pl_thread *thread);

/* Looks after deadlines and idle lines at that time, too. */
void pl_exchange_wake_at(struct pl_exchange *exchange, uint64_t when_ns);

/* Cancels the query that the ticket stands for; not locked. False: its result stands already. */
bool pl_exchange_cancel(struct pool_ticket *ticket);

/* Opens those that are wanted, on the mux; unlocks meanwhile. */
void pl_exchange_seek_lines(struct pl_exchange *exchange);

/* A connection that the caller owns (MUX) becomes a line on which the peer is heard; not locked. */
void pl_exchange_serve(struct pl_connection *connection);

/* What lines there are may have become outdated: they are looked at soon; not locked. */
void pl_exchange_look(struct pool *pool);

/* Where the pool closes and nobody waits for a line any more, those that are left are looked at. */
static inline void pl_exchange_let_lines_go(struct pl_exchange *exchange)
{
    if (!exchange->queued && atomic_load(&exchange->pool->state) == PL_POOL_CLOSING)
        pl_exchange_wake_at(exchange, 0);
}

/* Does somebody wait for a line there, or to be told something? Not locked. */
bool pl_exchange_owes(struct pl_peer *peer);

/* All who wait for a line there fail; not locked. */
void pl_exchange_fail_queued(struct pl_peer *peer, struct pl_failure failure);

/* The pool ends; not locked. */
void pl_exchange_end(struct pl_peer *peer);

/* Adds what it counts, and has counted for this peer, to the snapshot, and answers how many callers
 * wait: of those who wait at the peer some do so for queries that are queued here; not locked. */
uint64_t pl_exchange_count(struct pl_peer *peer, uint64_t waiting, struct pool_stats *stats);
/* The peer is no more: what it counted goes into the books; the pool's lock is held, nobody else is
 * there. */
void pl_exchange_keep_books(struct pl_peer *peer);

void pl_exchange_library_end(void);
/* Around fork(). */
void pl_exchanges_hold(void);
void pl_exchanges_let_go(void);
void pl_exchanges_orphan(void);

/* ---- crowd.c */

/* The thread of a query learns its result, sooner or later; it is back for it. */
void pl_exchange_tell_thread(struct pl_exchange *exchange, struct pl_query *query,
                             struct pl_wakes *wakes);
void pl_exchange_note_back(struct pl_exchange *exchange, struct pl_query *query,
                           struct pl_wakes *wakes);

/* May what was just put on the line wait for what others will ask? *is_guard: the caller has to see
 * to it that it is sent at `held_until_ns`. */
bool pl_exchange_hold_back(struct pl_exchange *exchange, struct pl_line *line, bool *is_guard);
/* Sends what waits so; unlocks meanwhile. */
void pl_exchange_send_held_back(struct pl_exchange *exchange, struct pl_wakes *wakes);

/* ---- yield.c */

/* Callers wait for a connection of their own: one line that carries nothing goes back at once, else
 * one takes no more queries when they have waited for long enough; not locked. True: one has gone
 * back. */
bool pl_exchange_yield(struct pl_peer *peer);
/* There are lines, and somebody may want a connection of his own. */
void pl_exchange_note_wanted(struct pl_exchange *exchange);
/* Has that time come? Answers when to look again. */
uint64_t pl_exchange_yield_in_time(struct pl_exchange *exchange, uint64_t now_ns);
/* Somebody waits no more at a peer that has it noted; under its lock. */
void pl_exchange_note_served(struct pl_peer *peer);
/* The line that leaves for those who wait stays when there are none any more: what it carries may
 * take long. */
void pl_exchange_take_back(struct pl_exchange *exchange);

/* ---- result.c: one query */

/* A query as it was asked, awaited; NULL: no memory. Its bytes are kept if it is to stay, and
 * nobody else keeps them. */
struct pl_query *pl_query_make(struct pl_exchange *exchange, const struct pl_submission *submission,
                               bool is_to_stay) PL_MUST_USE;

/* What only some queries need, made where it has none yet. NULL: no memory. */
struct pl_query_more *pl_query_more_of(struct pl_query *query) PL_MUST_USE;

/* It is on a line: what it needed in the queue only is let go. */
void pl_query_slim(struct pl_query *query);

/* The frame of a query that was on a line is kept with it. False: no memory. */
bool pl_query_keep_frame(struct pl_query *query, struct pool_bytes frame) PL_MUST_USE;

/* Why no line could be opened for it lately (counted here), or nothing any more. */
void pl_query_keep_told(struct pl_query *query, struct pl_told *told);

/* Fills *error with why it failed. */
void pl_query_tell_failure(const struct pl_query *query, const char *address,
                           struct pool_error *error);

/* Out of the queue, if it stands there. */
void pl_query_leave_queue(struct pl_exchange *exchange, struct pl_query *query);

void pl_queries_drop_spare(struct pl_exchange *exchange);

/* Tells what is to be told; mux thread; unlocks meanwhile. Afterwards this may be a child of
 * fork(). */
void pl_exchange_tell(struct pl_exchange *exchange);

/* ---- deadline.c */

/* Its time, from now on, is looked after by the exchange. */
void pl_query_link_deadline(struct pl_exchange *exchange, struct pl_query *query,
                            uint32_t timeout_ms);
/* Those whose time is over fail; answers when the next one's is. */
uint64_t pl_queries_expire(struct pl_exchange *exchange, uint64_t now_ns, struct pl_wakes *wakes);

/* What one that waits for a line, of which nothing was sent, fails with when its time is over. */
struct pl_failure pl_query_waited_in_vain(struct pl_exchange *exchange,
                                          const struct pl_query *query);

/* A query's time is over. */
void pl_query_expire(struct pl_exchange *exchange, struct pl_query *query, struct pl_wakes *wakes);

#endif
