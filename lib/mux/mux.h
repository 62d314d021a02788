/* mux.h: the shared multiplexer: one epoll set that watches connections, fires timers and runs what
 * other threads post.
 *
 * It does not know what a connection is: whoever watches descriptors registers a handler for its
 * kind and is told (index, birth, events); an event whose birth is not the watched thing's any more
 * is stale and dropped by the handler. One thread dispatches at a time. A batch is: events of
 * descriptors, then due timers, then posts. Whoever watches sees to it that nothing disappears
 * under a handler that is still running; a timer may be closed and freed by its own callback.
 */
#ifndef PL_MUX_MUX_H
#define PL_MUX_MUX_H

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/list.h"
#include "base/thread.h"
#include "commpool/mux.h"
#include "mux/timer.h"

enum pl_watch_kind {
    PL_WATCH_WAKE,
    PL_WATCH_TIMER,
    PL_WATCH_CONNECTION,
    PL_WATCH_SIGNAL,
    PL_WATCH_RESOLVER,
    PL_WATCH_KINDS
};

/* Marks in pool_mux.dispatcher: the thread is no dispatcher, but has something to do here for a
 * moment that must not meet a batch. Whoever wants to dispatch waits for its end. */
#define PL_MUX_VISITOR (UINT64_C(1) << 63)

typedef void pl_watch_fn(struct pool_mux *mux, uint32_t index, uint32_t birth, uint32_t events);

/* Something to run on the mux's thread; belongs to the poster, and is unlinked before `run` is
 * called, so `run` may free it. */
struct pl_post {
    struct pl_list link;
    void (*run)(struct pl_post *post);
    const void *owner;                  /* what a visitor asks for; NULL: every visitor runs it */
};

struct pool_mux {
    int epoll_fd, wake_fd, timer_fd;                    /* fixed after open */
    bool has_thread;                                    /* fixed: runs on a thread of its own */
    uint64_t slack_ns;                  /* fixed: by which the coarse clock may be behind */
    bool is_forked;                     /* the parent's; this is the child, where it stays so */
    pthread_t thread;
    pl_watch_fn *_Atomic on_watch[PL_WATCH_KINDS];      /* each set once */
    void *extension;                                    /* the pool layer's part */
    void (*end_extension)(struct pool_mux *mux);
    _Atomic uint32_t refs;                              /* the creator's, each pool's, each public
                                                         * timer's, each public call's */
    _Atomic uint64_t dispatcher;                        /* id of the thread in a batch, 0: none */
    _Atomic uint64_t home;                 /* embedded: id of the thread that must not be blocked */
    _Atomic bool is_stopped;
    _Atomic bool refuses_posts;                /* the program's, that would keep it from ending */
    _Atomic bool is_given_up;                  /* in a callback; what is posted then runs in that
                                                * batch, as nobody may begin another */
    bool ends_itself;                          /* its own thread let go of it last; that thread's */
    _Atomic uint64_t wakeups;
    struct pl_list process_link;                        /* muxes.h */
    struct {
        struct pl_list posts; /* made by what runs in a batch, to run in the same one */
        struct pool_mux *outer; /* the one in whose callback the batch runs */
    } on_mux; /* the dispatching thread's alone */
    struct {
        pthread_mutex_t lock;
        pthread_cond_t changed;                         /* a timer's callback came back, or a
                                                         * visitor left */
        struct pl_list posts;                           /* in order */
        struct pl_timers timers;
        struct pl_list due;          /* popped from the heap, to be fired in this batch, in order */
        struct pl_timer *firing;
        uint64_t armed_ns;                              /* what timer_fd is set to */
        bool has_rung;           /* it told, and stays readable until it is set anew, whatever to */
        int signal_fd;                                  /* -1: no signal was asked for */
        sigset_t signals;                               /* those that it tells of */
        struct pl_list listeners;
    } shared;
};

enum pool_status pl_mux_open(struct pool_mux **mux, bool has_thread) PL_MUST_USE;
void pl_mux_ref(struct pool_mux *mux);
/* The last one ends it; from its own thread, after the batch. */
void pl_mux_unref(struct pool_mux *mux);

/* True where waiting for the mux would wait for ever: on its own thread; embedded, on its home
 * thread. */
bool pl_mux_is_here(const struct pool_mux *mux);
/* This thread runs a batch of it right now. */
bool pl_mux_is_dispatching(const struct pool_mux *mux);

void pl_mux_post(struct pool_mux *mux, struct pl_post *post);
/* The same for the thread that runs a batch: no lock, no wake-up, and still in this batch, unless
 * it has been long already. */
void pl_mux_post_here(struct pool_mux *mux, struct pl_post *post);
/* Whichever of the two this thread may use. */
void pl_mux_post_soonest(struct pool_mux *mux, struct pl_post *post);
/* Runs what was posted here until now, for one owner or (NULL) for all; false: nothing was. */
bool pl_mux_run_posted_here(struct pool_mux *mux, const void *owner);

/* Runs on this thread, which need not be the mux's, what was posted for `owner` and for nobody in
 * particular; false: another thread is at it. */
bool pl_mux_visit(struct pool_mux *mux, const void *owner) PL_MUST_USE;

/* For calls that belong on the mux thread: inside a batch there is nothing to do, and between two
 * of them visitors are kept out, and the mux is kept. Leaving takes what entering answered. */
enum pl_mux_stay { PL_MUX_ELSEWHERE, PL_MUX_INSIDE, PL_MUX_ENTERED };
enum pl_mux_stay pl_mux_enter(struct pool_mux *mux) PL_MUST_USE;
void pl_mux_leave(struct pool_mux *mux, enum pl_mux_stay stay);

enum pool_status pl_mux_add(struct pool_mux *mux, int fd, uint32_t events,
                            uint64_t data) PL_MUST_USE;
uint64_t pl_mux_data(enum pl_watch_kind kind, uint32_t index, uint32_t birth);

void pl_mux_signals_begin(struct pool_mux *mux);
void pl_mux_signals_end(struct pool_mux *mux);

bool pl_mux_timer_open(struct pool_mux *mux, struct pl_timer *timer, pl_timer_fn *fire,
                       void *user) PL_MUST_USE;
/* Waits for a running callback, unless in it. */
void pl_mux_timer_close(struct pool_mux *mux, struct pl_timer *timer);
void pl_mux_timer_arm(struct pool_mux *mux, struct pl_timer *timer, uint64_t deadline_ns);
void pl_mux_timer_disarm(struct pool_mux *mux, struct pl_timer *timer);

/* For batches: what is due fires; the kernel is told when the next one is. */
void pl_mux_fire_timers(struct pool_mux *mux);
void pl_mux_set_timer_locked(struct pool_mux *mux);

#endif
