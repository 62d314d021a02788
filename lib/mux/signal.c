/* signal.c: signals as events of a mux, read from one descriptor. A signal stays blocked in the
 * thread that asked for it, also after the mux: unblocking it would be a decision about what else
 * the program does with it.
 */
#include <errno.h>

#include "base/os.h"
#include "mux/mux.h"
#include "mux/muxes.h"

struct listener {
    struct pl_list link;                /* in shared.listeners, in the order of asking */
    int signo;
    pool_post_fn *on_signal;
    void *user;
};

/* Numbers between the classic signals and SIGRTMIN are libc's own. */
static bool may_be_caught(int signo)
{
    if (signo == SIGKILL || signo == SIGSTOP)
        return false;
    return (signo > 0 && signo <= SIGSYS) || (signo >= SIGRTMIN && signo <= SIGRTMAX);
}

/* The next one for this signal up to `last`, behind `from`; NULL: there is none. Listeners stay
 * until the mux ends, so one may be called without the lock. */
static struct listener *next_listener(struct pool_mux *mux, struct pl_list *from,
                                      const struct pl_list *last, int signo)
{
    struct listener *found = NULL;

    pthread_mutex_lock(&mux->shared.lock);
    while (!found && from != last) {
        from = from->next;
        found = pl_container(from, struct listener, link);
        if (found->signo != signo)
            found = NULL;
    }
    pthread_mutex_unlock(&mux->shared.lock);
    return found;
}

/* One signal for each batch: a callback that raises its own signal must not keep the batch from
 * ending. */
static void on_readable(struct pool_mux *mux, uint32_t index, uint32_t birth, uint32_t events)
{
    int signo = pl_os->signalfd_read(mux->shared.signal_fd);
    struct pl_list *last;
    struct listener *listener;

    (void)index, (void)birth, (void)events;
    pthread_mutex_lock(&mux->shared.lock);
    last = mux->shared.listeners.previous;
    pthread_mutex_unlock(&mux->shared.lock);
    listener = next_listener(mux, &mux->shared.listeners, last, signo);
    for (; listener && !mux->is_forked; listener = next_listener(mux, &listener->link, last, signo))
        listener->on_signal(listener->user);
}

/* The lock is held. */
static enum pool_status watch_locked(struct pool_mux *mux, int signo)
{
    sigset_t signals = mux->shared.signals;
    int fd;

    sigaddset(&signals, signo);
    fd = pl_os->signalfd_set(mux->shared.signal_fd, &signals);
    if (fd < 0)
        return fd == -ENOMEM ? POOL_E_MEMORY : POOL_E_RESOURCE;
    if (mux->shared.signal_fd < 0) {
        atomic_store(&mux->on_watch[PL_WATCH_SIGNAL], on_readable);
        if (pl_mux_add(mux, fd, EPOLLIN, pl_mux_data(PL_WATCH_SIGNAL, 0, 0))) {
            pl_os->close(fd);
            return POOL_E_RESOURCE;
        }
        mux->shared.signal_fd = fd;
    }
    mux->shared.signals = signals;
    return POOL_OK;
}

enum pool_status pool_mux_signal(struct pool_mux *mux, int signo, pool_post_fn *on_signal,
                                 void *user)
{
    struct listener *listener;
    enum pool_status status;

    if (!mux || !on_signal || !may_be_caught(signo))
        return POOL_E_ARGUMENT;
    if (mux->is_forked)
        return POOL_E_FORKED;
    listener = pl_zalloc(sizeof(*listener));
    if (!listener)
        return POOL_E_MEMORY;
    *listener = (struct listener){ .signo = signo, .on_signal = on_signal, .user = user };
    pthread_mutex_lock(&mux->shared.lock);
    pl_muxes_hold();                    /* a child must know of the descriptor to close it */
    status = watch_locked(mux, signo);
    pl_muxes_let_go();
    if (!status)
        pl_list_push_back(&mux->shared.listeners, &listener->link);
    pthread_mutex_unlock(&mux->shared.lock);
    if (status)
        pl_os->free(listener);
    else
        pl_os->signal_block(signo); /* last: what fails before it leaves no trace */
    return status;
}

void pl_mux_signals_begin(struct pool_mux *mux)
{
    mux->shared.signal_fd = -1;
    sigemptyset(&mux->shared.signals);
    pl_list_init(&mux->shared.listeners);
}

void pl_mux_signals_end(struct pool_mux *mux)
{
    struct pl_list *link;

    while ((link = pl_list_pop_front(&mux->shared.listeners)))
        pl_os->free(pl_container(link, struct listener, link));
}
