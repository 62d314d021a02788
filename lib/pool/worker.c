/* worker.c: see worker.h. A worker that finds no job ends; whoever needs its place next, or the
 * pool's end, joins it.
 */
#include "pool/worker.h"

#include "base/os.h"
#include "pool/events.h"
#include "pool/pool.h"
#include "pool/request.h"

void pl_workers_init(struct pl_workers *workers)
{
    pl_list_init(&workers->jobs);
    for (size_t i = 0; i < PL_WORKERS; i++)
        workers->each[i].state = PL_WORKER_NONE;
}

static struct pl_request *next_job(struct pl_worker *worker)
{
    struct pl_workers *workers = &worker->pool->workers;
    struct pl_list *link;

    pthread_mutex_lock(&workers->lock);
    link = pl_list_pop_front(&workers->jobs);
    if (!link)
        worker->state = PL_WORKER_ENDED;
    pthread_mutex_unlock(&workers->lock);
    return link ? pl_container(link, struct pl_request, job_link) : NULL;
}

static bool step(void *argument)
{
    struct pl_worker *worker = argument;
    struct pool *pool = worker->pool;
    struct pl_request *request = next_job(worker);

    if (!request) {
        pl_pool_leave(pool); /* the place is another thread's from here on */
        return false;
    }
    if (!pl_borrow_settle_in(&request->borrow, request->waiter.connection, &request->conn))
        request->conn = (struct pool_conn){ 0 };
    if (!pl_pool_is_forked(pool))
        pl_events_tell(pool);
    if (pl_pool_is_forked(pool))
        return false; /* `prepare` or an observer did and came back: the child's only thread */
    pl_request_prepared(request);
    return true;
}

/* Lock held. A place whose thread has ended is one to be joined first: it is on its last steps. */
static bool start_one(struct pool *pool, bool *has_any)
{
    struct pl_workers *workers = &pool->workers;
    struct pl_worker *worker = NULL;

    for (size_t i = 0; i < PL_WORKERS; i++) {
        if (workers->each[i].state == PL_WORKER_RUNS)
            *has_any = true;
        else if (!worker)
            worker = &workers->each[i];
    }
    if (!worker)
        return true;
    if (worker->state == PL_WORKER_ENDED)
        pl_os->thread_join(worker->thread);
    worker->state = PL_WORKER_NONE;
    worker->pool = pool;
    pl_pool_ref(pool);
    if (pl_os->thread_start(&worker->thread, step, worker)) {
        pl_pool_leave(pool); /* not the last: a request holds it */
        return *has_any;
    }
    worker->state = PL_WORKER_RUNS;
    return true;
}

bool pl_workers_take(struct pool *pool, struct pl_request *request)
{
    bool has_any = false, is_taken;

    pthread_mutex_lock(&pool->workers.lock);
    is_taken = start_one(pool, &has_any);
    if (is_taken)
        pl_list_push_back(&pool->workers.jobs, &request->job_link);
    pthread_mutex_unlock(&pool->workers.lock);
    return is_taken;
}

bool pl_workers_withdraw(struct pool *pool, struct pl_request *request)
{
    bool was_queued;

    pthread_mutex_lock(&pool->workers.lock);
    was_queued = pl_list_is_linked(&request->job_link);
    if (was_queued)
        pl_list_unlink(&request->job_link);
    pthread_mutex_unlock(&pool->workers.lock);
    return was_queued;
}

/* One whose thread is to be waited for, which is then the caller's to join; NULL: none. */
static struct pl_worker *next_to_join(struct pl_workers *workers, pthread_t *thread)
{
    struct pl_worker *found = NULL;

    pthread_mutex_lock(&workers->lock);
    for (size_t i = 0; i < PL_WORKERS; i++) {
        struct pl_worker *worker = &workers->each[i];

        if (!found && worker->state != PL_WORKER_NONE &&
            !pthread_equal(worker->thread, pthread_self()))
            found = worker;
    }
    if (found) {
        *thread = found->thread;
        found->state = PL_WORKER_NONE;
    }
    pthread_mutex_unlock(&workers->lock);
    return found;
}

bool pl_workers_are_here(struct pl_workers *workers)
{
    bool is_here = false;

    pthread_mutex_lock(&workers->lock);
    for (size_t i = 0; i < PL_WORKERS; i++)
        is_here = is_here || (workers->each[i].state == PL_WORKER_RUNS &&
                              pthread_equal(workers->each[i].thread, pthread_self()));
    pthread_mutex_unlock(&workers->lock);
    return is_here;
}

void pl_workers_join(struct pl_workers *workers)
{
    pthread_t thread;

    while (next_to_join(workers, &thread))
        pl_os->thread_join(thread);
    for (size_t i = 0; i < PL_WORKERS; i++) {
        if (workers->each[i].state == PL_WORKER_ENDED) {
            pl_os->thread_detach(workers->each[i].thread);
            workers->each[i].state = PL_WORKER_NONE;
        }
    }
}
