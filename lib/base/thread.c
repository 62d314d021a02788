/* thread.c: records of threads. A record is taken at a thread's first call and given back by a
 * thread-specific key's destructor; a thread that calls again from a later destructor simply takes
 * another one. */
#include "base/thread.h"

#include <errno.h>
#include <string.h>

#include "base/os.h"

__thread struct pl_thread *pl_thread_current;

static struct pl_arena threads = PL_ARENA_INIT(threads, struct pl_thread, NULL);
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
    atomic_store(&thread->cell, PL_CELL_AWAKE);
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

/* Was it woken? It has heard of it then. */
static bool take_wake_up(struct pl_thread *self)
{
    uint32_t woken = PL_CELL_WOKEN;

    return atomic_compare_exchange_strong(&self->cell, &woken, PL_CELL_AWAKE);
}

bool pl_thread_wait(struct pl_thread *self, uint64_t deadline_ns)
{
    uint32_t awake;
    int error = 0;

    while (!take_wake_up(self)) {
        if (error == -ETIMEDOUT)
            return atomic_exchange(&self->cell, PL_CELL_AWAKE) == PL_CELL_WOKEN;
        awake = PL_CELL_AWAKE;
        if (!atomic_compare_exchange_strong(&self->cell, &awake, PL_CELL_ASLEEP) &&
            awake == PL_CELL_WOKEN)
            continue;
        error = pl_os->sleep_until(&self->cell, PL_CELL_ASLEEP, deadline_ns);
    }
    return true;
}

void pl_thread_wake(struct pl_thread *thread)
{
    if (atomic_exchange(&thread->cell, PL_CELL_WOKEN) == PL_CELL_ASLEEP)
        pl_os->wake(&thread->cell);
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
    atomic_store(&thread->cell, PL_CELL_AWAKE);
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
