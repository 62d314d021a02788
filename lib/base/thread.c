/* thread.c: records of threads. A record is taken at a thread's first call and given back by a
 * thread-specific key's destructor; a thread that calls again from a later destructor simply takes
 * another one. */
#include "base/thread.h"

#include <errno.h>
#include <string.h>

#include "base/os.h"

__thread struct pl_thread *pl_thread_current;

static void prepare(void *element)
{
    struct pl_thread *thread = element;

    pthread_mutex_init(&thread->cell.lock, NULL);
    pthread_cond_init(&thread->cell.condition, NULL);
}

static struct pl_arena threads = PL_ARENA_INIT(threads, struct pl_thread, prepare);
static pthread_once_t key_once = PTHREAD_ONCE_INIT;
static pthread_key_t key;
static bool has_key;
static _Atomic uint64_t last_id;

static void on_thread_end(void *record)
{
    pl_thread_current = NULL;
    pl_arena_give(&threads, record);
}

static void make_key(void)
{
    has_key = pthread_key_create(&key, on_thread_end) == 0;
}

struct pl_thread *pl_thread_register(void)
{
    struct pl_thread *thread = pl_arena_take(&threads);

    if (!thread)
        return NULL;
    pthread_once(&key_once, make_key);
    thread->cell.is_woken = false;
    thread->id = atomic_fetch_add(&last_id, 1) + 1;
    thread->stamp_ns = 0;
    thread->dispatching = NULL;
    thread->callback = NULL;
    thread->loans = 0;
    thread->next_recent = 0;
    memset(thread->recent, 0, sizeof(thread->recent));
    if (!has_key || pthread_setspecific(key, thread)) {
        pl_arena_give(&threads, thread);
        return NULL;
    }
    pl_thread_current = thread;
    return thread;
}

bool pl_thread_wait(struct pl_thread *self, uint64_t deadline_ns)
{
    bool was_woken;

    pthread_mutex_lock(&self->cell.lock);
    while (!self->cell.is_woken) {
        if (pl_os->wait_until(&self->cell.condition, &self->cell.lock, deadline_ns) == -ETIMEDOUT)
            break;
    }
    was_woken = self->cell.is_woken;
    self->cell.is_woken = false;
    pthread_mutex_unlock(&self->cell.lock);
    return was_woken;
}

void pl_thread_wake(struct pl_thread *thread)
{
    pthread_mutex_lock(&thread->cell.lock);
    thread->cell.is_woken = true;
    pthread_cond_signal(&thread->cell.condition);
    pthread_mutex_unlock(&thread->cell.lock);
}

/* ---- fork */

_Atomic uint32_t pl_forks;

void pl_thread_hold(void)
{
    pl_arena_hold(&threads);
}

void pl_thread_let_go(void)
{
    pl_arena_let_go(&threads);
}

/* A thread that is no more may have been waking this record's last owner, or its next one. */
static void renew_cell(void *element, void *unused)
{
    struct pl_thread *thread = element;

    (void)unused;
    prepare(thread);
    thread->cell.is_woken = false;
}

void pl_thread_orphan(void)
{
    struct pl_thread *self = pl_thread_current;

    atomic_fetch_add(&pl_forks, 1);
    pl_arena_visit(&threads, renew_cell, NULL);
    if (!self)
        return;
    self->dispatching = NULL;
    self->callback = NULL;
    self->next_recent = 0;
    memset(self->recent, 0, sizeof(self->recent));
}

void pl_thread_library_end(void)
{
    if (has_key)
        pthread_key_delete(key);
    has_key = false;
    if (pl_thread_current)
        pl_arena_give(&threads, pl_thread_current);
    pl_thread_current = NULL;
    pl_arena_release(&threads);
}
