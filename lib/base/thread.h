/* thread.h: what the library remembers for each thread that calls it: the cell it waits in, the
 * connections it returned last, and its latest time stamp. Records are type-stable and reused when
 * a thread ends, so whoever wakes a cell needs no lock and no reference on it: a wake-up that comes
 * late is spurious for the cell's next owner, and every wait looks at its own condition again.
 */
#ifndef PL_BASE_THREAD_H
#define PL_BASE_THREAD_H

#include <stdbool.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/compiler.h"

#define PL_RECENT 4                     /* addresses whose last connection a thread remembers */
#define PL_RECENT_TEXT 72             /* longer address texts are looked up in the pool each time */

/* The connection that this thread returned last for one peer. It is only a hint: whether the
 * connection is still the one that was returned shows when its word, compared as a whole, is
 * exactly `word`. */
struct pl_recent {
    void *pool, *peer, *connection;
    uint64_t word;
    uint64_t generation;               /* of the peer: it is a new one's memory when this differs */
    bool is_unlooked_at;                /* its pool checks nothing when it lends */
    bool is_plain;                      /* of its pool's settings */
    char text[PL_RECENT_TEXT];      /* the address as this thread last spelled it; empty: unknown */
};

enum pl_cell { PL_CELL_AWAKE, PL_CELL_ASLEEP, PL_CELL_WOKEN };

struct pl_thread {
    struct pl_arena_node node;
    _Atomic uint32_t cell;              /* enum pl_cell; anybody may wake it */
    /* the thread's own */
    uint64_t id;                        /* never 0, never used again */
    uint64_t stamp_ns;
    void *dispatching;                  /* the mux whose batch this thread is running, the innermost
                                         * of several, or NULL */
    void *callback;                     /* the connection whose event it is handling, or NULL */
    uint32_t loans;                     /* connections that it has through pool_communicate() */
    unsigned next_recent;
    struct pl_recent recent[PL_RECENT];
};

extern __thread struct pl_thread *pl_thread_current __attribute__((tls_model("initial-exec")));

PL_COLD struct pl_thread *pl_thread_register(void);

/* The running thread's record; NULL when there was no memory for one. */
static inline struct pl_thread *pl_thread_self(void)
{
    return PL_LIKELY(pl_thread_current != NULL) ? pl_thread_current : pl_thread_register();
}

/* A stamp of "last used": the clock's time, but greater than any that this thread took before. */
static inline uint64_t pl_thread_stamp(struct pl_thread *self, uint64_t now_ns)
{
    if (PL_UNLIKELY(!self))
        return now_ns;
    if (now_ns <= self->stamp_ns)
        now_ns = self->stamp_ns + 1;
    self->stamp_ns = now_ns;
    return now_ns;
}

/* False: the deadline came first. */
bool pl_thread_wait(struct pl_thread *self, uint64_t deadline_ns);
void pl_thread_wake(struct pl_thread *thread);                          /* any thread */

/* Before a fork, after it in both processes, and before the latter in the child: there only the
 * forking thread's record has a thread; the others stay taken for ever. */
void pl_thread_hold(void);
void pl_thread_let_go(void);
void pl_thread_orphan(void);

/* One more in each child: whoever keeps what it was knows later whether it is in a child. */
extern _Atomic uint32_t pl_forks;

void pl_thread_library_end(void);       /* the library is being unloaded */

#endif
