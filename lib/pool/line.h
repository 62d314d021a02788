/* line.h: one connection that queries share, a part of its exchange (exchange.h), under whose lock
 * all of it is, but for what a comment says.
 *
 * Writers combine: whoever finds the writer's seat free sends all that is queued, with the lock let
 * go. Readers take turns: a thread that waits for its reply receives for all, until its own has
 * come; where nobody waits, the mux receives.
 *
 * Whoever holds a seat keeps the connection's descriptor from being closed: a line that broke goes
 * when both seats are free.
 */
#ifndef PL_POOL_LINE_H
#define PL_POOL_LINE_H

#include "pool/exchange.h"
#include "wire/out.h"
#include "wire/runner.h"

struct pl_line {
    struct pl_arena_node node;
    struct pl_exchange *_Atomic exchange;       /* NULL: the slot is unused; read by anybody, and
                                                 * only ever set atomically. The rest is not
                                                 * looked at before */
    struct pl_list link;                /* among the exchange's */
    struct pl_connection *connection;
    struct pool_conn conn;              /* the loan */
    struct pl_correlator correlator;
    struct pl_runner runner;
    void *write_state;                  /* the codec's */
    struct pl_buffer out, sending;      /* queued; in the hands of whoever writes */
    uint64_t given, taken, sent;        /* bytes, ever: framed, in the writer's hands, gone or
                                         * passed over */
    uint64_t skipped;                   /* of them, bytes of gaps that the writer passed over */
    size_t early_size;                  /* so many bytes of those that are yet to be looked at, in
                                         * order, were there before anything left that was given
                                         * from `early_from` on: what begins in them answers none
                                         * of that */
    uint64_t early_from;                /* as `given` */
    uint64_t marked;                    /* `given` when those that are long gone were marked */
    struct pl_list gaps;                /* among what is queued (line_frames.c) */
    size_t burst;                       /* bytes that were last taken at once */
    uint64_t unanswered;                /* bytes of requests whose replies have not all come */
    struct pl_list waiting;             /* queries whose threads wait for their replies */
    uint32_t passive;                   /* queries on it that no thread would receive for */
    uint32_t late;                      /* queries on it that were given up, or posted */
    uint32_t posted;
    uint32_t ordered;                   /* queries on it that keep their order */
    uint32_t serving;                   /* requests of the peer's that are not answered yet */
    uint32_t kept;                      /* of them, those that wait until others are answered */
    struct pl_list kept_back;           /* they, and pushes behind them, in order (unasked.c) */
    struct pl_list responders;          /* theirs, in order, where answers must be */
    size_t responders_size;             /* bytes of answers that wait for their turn */
    uint64_t late_ns;                   /* since when there have been any; in order, or the last one
                                         * came; by key, none is late since before then */
    size_t late_size;                   /* bytes that came for them, since there have been any */
    size_t joined;                      /* bytes of parts that are to be told as one */
    size_t untold;                      /* bytes of parts, pushes and requests that are yet to be
                                         * told */
    uint64_t used_ns;                   /* when it last carried something */
    _Atomic uint64_t looked_ns;         /* when it was last looked at whose socket it is */
    uint32_t watched;                   /* events that the mux was asked for, and has not told */
    bool is_reading, is_writing;        /* somebody has that seat */
    bool is_hearing;                    /* it is the mux that reads, and is at it */
    bool is_to_be_heard_first;          /* what it gets was said before anything was asked: nothing
                                         * is sent until it has it */
    bool is_catching_up;                /* all that has come is to be heard, for us to ask */
    bool has_unheard;                   /* messages may be in what was received */
    struct pl_query *called;            /* its thread was told to take the reader's seat */
    bool is_in_doubt;                   /* something was given up since its stream was last proved
                                         * to be in step */
    bool was_quiet;                     /* nothing was under way when the next frame was put */
    bool lacks_key;                     /* there was none for another query */
    bool is_pump_posted;                /* the mux will write, and hear on */
    bool is_held_back;                  /* what is queued waits for more (crowd.c) */
    bool is_served;                     /* the peer had something to say before anything was
                                         * asked */
    bool is_stuck_in_write;             /* TLS must write before it can read on */
    bool has_answered;                  /* a query, with all that it was due */
    bool must_hear;                     /* and receive then: bytes are there already */
    bool is_leaving;                    /* takes no more queries, and goes when it is empty */
    bool is_mute;                       /* a write failed: it only takes in what has come, and
                                         * breaks then */
    bool is_broken;                     /* nothing of it is good any more */
    struct pl_failure ending;           /* why it broke, or is to break; status POOL_OK: nothing
                                         * failed on it */
    bool has_evidence;                  /* the next one means something */
    uint64_t acknowledged;              /* when it was opened, of the connection; once it broke, of
                                         * what was sent on the line */
    struct pl_post pump_post;
};

/* Takes a loan for its exchange, which it joins. False: no memory. */
bool pl_line_open(struct pl_exchange *exchange, struct pool_conn conn,
                  bool is_served) PL_MUST_USE;

/* One that has room for another query; NULL: none. */
struct pl_line *pl_line_choose(struct pl_exchange *exchange, bool is_ordered,
                               struct pl_wakes *wakes);

/* Where replies come in order and none is due, what has come answers nobody, and must not be there
 * when the next query is asked: it is taken in. False: the line broke, or cannot hear now. */
bool pl_line_catch_up(struct pl_line *line, struct pl_wakes *wakes) PL_MUST_USE;

/* Writes a request behind what is queued, and notes what will answer it. POOL_E_WOULD_BLOCK: its
 * key is in use, or all are. */
enum pool_status pl_line_put(struct pl_line *line, struct pl_query *query,
                             struct pool_bytes request) PL_MUST_USE;
/* The same with one that keeps its frame. */
enum pool_status pl_line_put_frame(struct pl_line *line, struct pl_query *query) PL_MUST_USE;

/* Answers one request of the peer's; what was kept until its turn was bounded then. */
void pl_line_respond(struct pl_line *line, const struct pl_frame *frame, bool was_kept,
                     struct pl_wakes *wakes);

/* Sends what is queued, unless somebody is at it; unlocks meanwhile. */
void pl_line_flush(struct pl_line *line, struct pl_wakes *wakes);

/* The same on the mux, at the end of this batch or soon; also hears what it was kept from hearing,
 * and lets go of the line if it has nothing to do any more. */
void pl_line_pump_later(struct pl_line *line);

/* Receives once, waiting until `until_ns` at the latest, for the thread in the reader's seat, which
 * the caller has taken; unlocks meanwhile. */
void pl_line_receive(struct pl_line *line, uint64_t until_ns, struct pl_wakes *wakes);

/* Receives what is there, on the mux, and sees to it that somebody receives the rest; unlocks
 * meanwhile. The line may be gone then. */
void pl_line_hear(struct pl_line *line, struct pl_wakes *wakes);

/* Goes on with what was received already, and had to wait while the line was choked. */
void pl_line_resume(struct pl_line *line, struct pl_wakes *wakes);

/* The reader's seat is free: calls a thread that waits, or has the mux watch. A line that is mute
 * takes in here what has come, and breaks. */
void pl_line_seek_reader(struct pl_line *line, struct pl_wakes *wakes);

/* Nothing of it is good any more; who asked is told, or asks elsewhere. */
void pl_line_break(struct pl_line *line, struct pl_failure failure, struct pl_wakes *wakes);

/* Looks whether its time has come; answers when to look again. */
uint64_t pl_line_tend(struct pl_line *line, uint64_t now_ns, struct pl_wakes *wakes);

/* If it is to go, and nothing keeps it any more, it goes back to the pool, or ends; unlocks
 * meanwhile. False: it is still there. */
bool pl_line_let_go(struct pl_line *line, struct pl_wakes *wakes);

/* It carries nothing and has nothing to wait for: its connection may go where room is needed, once
 * nobody has one of its seats. */
bool pl_line_may_make_room(const struct pl_line *line);
static inline bool pl_line_has_seat_taken(const struct pl_line *line)
{
    return line->is_reading || line->is_writing || line->is_pump_posted;
}

/* An event of its connection; mux thread, not locked. */
void pl_line_on_event(struct pl_line *line, struct pl_connection *connection, uint32_t events);

/* Around fork(). */
void pl_lines_hold(void);
void pl_lines_let_go(void);
void pl_lines_library_end(void);

/* A query on it is given up. True: not a byte of it left, nor ever will, and it is off the line. */
bool pl_line_withdraw(struct pl_line *line, struct pl_query *query,
                      struct pl_wakes *wakes) PL_MUST_USE;

/* So many bytes of what was to be told are told now, or never; and the parts of a query on it that
 * came so far. */
void pl_line_uncount(struct pl_line *line, size_t size);
void pl_line_uncount_parts(struct pl_line *line, struct pl_query *query);
/* The parts of a query on it that came so far are not to be told as one with those that come. */
void pl_line_uncount_joined(struct pl_line *line, const struct pl_query *query);

/* ---- shared by line.c, line_frames.c, line_write.c and line_read.c */

static inline const struct pool_options *pl_line_options(const struct pl_line *line)
{
    return &line->exchange->pool->settings.options;
}

/* The number is still our socket's: looked at before anything is written to it, as a borrow
 * does. */
static inline bool pl_line_has_own_socket(struct pl_line *line)
{
    if (pl_line_options(line)->check == POOL_CHECK_NEVER)
        return true;
    pl_set(line->looked_ns, pl_os->coarse_ns());
    return pl_connection_is_ours(line->connection);
}

/* The same, for those who read: once in a step of the coarse clock will do. */
static inline bool pl_line_has_own_socket_still(struct pl_line *line)
{
    return pl_get(line->looked_ns) == pl_os->coarse_ns() || pl_line_has_own_socket(line);
}

/* Has the mux watch for what nobody else looks after. */
void pl_line_watch(struct pl_line *line, uint32_t events, struct pl_wakes *wakes);

/* So many bytes are to be told that no more is heard. */
static inline bool pl_line_is_full(const struct pl_line *line)
{
    return PL_UNLIKELY(line->untold > pl_line_options(line)->max_message);
}

/* That, or so many requests of the peer's wait for their answers. While somebody waits for a reply
 * on it that does not count, since the peer may do the same: what it asks meanwhile is kept. */
static inline bool pl_line_is_choked(const struct pl_line *line)
{
    return PL_UNLIKELY(line->serving >= pl_line_options(line)->max_inflight &&
                       line->correlator.count <= line->late && !line->is_catching_up) ||
           pl_line_is_full(line);
}

/* So much is unsent that places, which are kept modulo 2^32, would soon not tell where a frame
 * lies. */
static inline bool pl_line_is_far_behind(const struct pl_line *line)
{
    return PL_UNLIKELY(line->given - line->sent >= INT32_MAX);
}

/* Was a byte of its frame handed to the kernel, or may one be at this very moment? */
bool pl_line_may_have_begun(const struct pl_line *line, const struct pl_query *query);
static inline bool pl_line_has_begun(const struct pl_line *line, const struct pl_query *query)
{
    uint32_t begin = query->end - query->entry.size;

    if (PL_LIKELY(!pl_line_is_far_behind(line) &&       /* near places compare at once */
                  (int32_t)((uint32_t)line->sent - begin) > 0))
        return true;
    return pl_line_may_have_begun(line, query);
}
/* Does its frame begin at this place or behind it? In bytes, as `given`. */
bool pl_line_is_behind(const struct pl_line *line, const struct pl_query *query, uint64_t place);
/* A frame that has not, where it lies; else nothing. */
struct pool_bytes pl_line_unsent(const struct pl_line *line, const struct pl_query *query);
/* Marks those whose place would soon be out of sight. */
void pl_line_note_long_gone(struct pl_line *line);

/* Leaves out what is not to be sent; answers how many bytes of `sending` are, in one piece. */
size_t pl_line_piece(struct pl_line *line);
void pl_line_drop_gaps(struct pl_line *line);

/* What the peer acknowledges counts from here; it broke; the outcome that this makes likely for a
 * query on it, an enum pl_outcome at the most. */
void pl_line_begin_evidence(struct pl_line *line);
void pl_line_take_evidence(struct pl_line *line);
uint8_t pl_line_outcome_of(const struct pl_line *line, const struct pl_query *query);

/* It takes no more queries, and goes when it is empty, whoever waits. */
void pl_line_retire(struct pl_line *line);

/* One more was given up. A line that carries mostly such ones makes way for another. */
void pl_line_note_given_up(struct pl_line *line);

/* The query leaves the line, which may free it. */
void pl_line_leave(struct pl_line *line, struct pl_query *query);

#endif
