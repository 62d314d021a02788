/* muxes.c: see muxes.h. The handlers belong to the object that this is linked into, and go when it
 * is unloaded.
 */
#include "mux/muxes.h"

#include <pthread.h>

#include "base/os.h"
#include "mux/mux.h"

static struct pl_list muxes = { &muxes, &muxes }; /* lock; in no order */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static bool is_noticing;

void pl_muxes_hold(void)
{
    pthread_mutex_lock(&lock);
}

void pl_muxes_let_go(void)
{
    pthread_mutex_unlock(&lock);
}

void pl_muxes_add(struct pool_mux *mux)
{
    pl_list_push_back(&muxes, &mux->process_link);
}

void pl_muxes_remove(struct pool_mux *mux)
{
    pl_list_unlink(&mux->process_link);
}

static void close_copy(int *fd)
{
    if (*fd >= 0)
        pl_os->close(*fd);
    *fd = -1;
}

/* Its locks may be held by threads that are no more. They are made anew for whoever is inside one
 * of its callbacks in the child, and is on his way out. */
static void orphan(struct pool_mux *mux)
{
    mux->is_forked = true;
    close_copy(&mux->epoll_fd);
    close_copy(&mux->wake_fd);
    close_copy(&mux->timer_fd);
    close_copy(&mux->shared.signal_fd);
    pthread_mutex_init(&mux->shared.lock, NULL);
    pthread_cond_init(&mux->shared.changed, NULL);
}

static void before_fork(void)
{
    pl_thread_hold();
    pl_muxes_hold();
}

static void in_parent(void)
{
    pl_muxes_let_go();
    pl_thread_let_go();
}

static void in_child(void)
{
    PL_LIST_EACH(link, &muxes)
        orphan(pl_container(link, struct pool_mux, process_link));
    pl_thread_orphan();
    in_parent();
}

static void notice_forks(void)
{
    is_noticing = pthread_atfork(before_fork, in_parent, in_child) == 0;
}

bool pl_muxes_notice_forks(void)
{
    pthread_once(&once, notice_forks);
    return is_noticing;
}
