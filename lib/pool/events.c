/* events.c: a queue of copies of events and log lines. Whoever finds nobody telling tells what there
 * is, but not for as long as others note more: after some the mux goes on, a few in each batch.
 * What is noted on the mux's thread is told at the end of the batch. Without an observer nothing is
 * queued. When there is no memory for a copy, it is left out: observing must not make anything
 * fail.
 */
#include "pool/events.h"

#include <string.h>

#include "base/os.h"
#include "pool/log.h"
#include "pool/pool.h"

#define TOLD_AT_ONCE 64

struct event {
    struct pl_list link;
    struct pool_event_info info;
    enum pool_log_level level;
    bool is_line;                       /* a line for on_log, not an event */
    char text[];                        /* the line, or the event's address */
};

struct pl_event_queue {
    struct pool *pool;
    pthread_mutex_t lock;
    pthread_cond_t told;
    struct pl_list events;
    uint64_t teller;                    /* id of the thread that is telling; 0: none */
    bool is_stopped, is_posted;
    struct pl_post post;
};

/* On the mux, by a post of its own. */
static void tell_on_mux(struct pl_event_queue *queue)
{
    pl_pool_ref(queue->pool);
    pl_mux_post(queue->pool->mux, &queue->post);
}

/* NULL: this thread tells no more. Once it is stopped the queue only gets shorter, and whoever
 * stopped it waits for the last one. */
static struct event *next_event(struct pl_event_queue *queue, unsigned told)
{
    struct pl_list *link = NULL;
    bool is_due = false;

    pthread_mutex_lock(&queue->lock);
    if (told < TOLD_AT_ONCE || queue->is_stopped)
        link = pl_list_pop_front(&queue->events);
    if (!link) {
        is_due = !pl_list_is_empty(&queue->events) && !queue->is_posted;
        queue->is_posted = queue->is_posted || is_due;
        queue->teller = 0;
        pthread_cond_broadcast(&queue->told);
    }
    pthread_mutex_unlock(&queue->lock);
    if (is_due)
        tell_on_mux(queue);
    return link ? pl_container(link, struct event, link) : NULL;
}

static bool become_teller(struct pl_event_queue *queue, uint64_t self)
{
    bool is_teller;

    pthread_mutex_lock(&queue->lock);
    is_teller = !queue->teller && !pl_list_is_empty(&queue->events);
    if (is_teller)
        queue->teller = self;
    pthread_mutex_unlock(&queue->lock);
    return is_teller;
}

static void tell(struct pl_event_queue *queue)
{
    const struct pool_options *options = &queue->pool->settings.options;
    struct pl_thread *self = pl_thread_self();
    struct event *event;
    unsigned told = 0;

    if (!become_teller(queue, self ? self->id : UINT64_MAX))
        return;
    while ((event = next_event(queue, told++))) {
        if (event->is_line)
            options->on_log(event->level, event->text, options->user);
        else
            options->on_event(&event->info, options->user);
        if (pl_pool_is_forked(queue->pool))
            return;
        pl_os->free(event);
    }
}

static void on_post(struct pl_post *post)
{
    struct pl_event_queue *queue = pl_container(post, struct pl_event_queue, post);
    struct pool *pool = queue->pool;

    pthread_mutex_lock(&queue->lock);
    queue->is_posted = false;
    pthread_mutex_unlock(&queue->lock);
    tell(queue);
    pl_pool_leave(pool);
}

void pl_events_tell(struct pool *pool)
{
    if (pool->events && !pl_pool_is_forked(pool) && !pl_mux_is_dispatching(pool->mux))
        tell(pool->events);
}

/* True: the batch that is under way must be asked to tell. */
static bool append(struct pl_event_queue *queue, struct event *event)
{
    bool is_due = pl_mux_is_dispatching(queue->pool->mux);

    pthread_mutex_lock(&queue->lock);
    if (queue->is_stopped) {
        pl_os->free(event);
        is_due = false;
    } else {
        pl_list_push_back(&queue->events, &event->link);
        is_due = is_due && !queue->is_posted;
        queue->is_posted = queue->is_posted || is_due;
    }
    pthread_mutex_unlock(&queue->lock);
    return is_due;
}

static struct event *make_event(const struct pool *pool, const char *text)
{
    size_t size = text ? strlen(text) + 1 : 0;
    struct event *event = pl_pool_is_forked(pool) ? NULL : pl_zalloc(sizeof(*event) + size);

    if (event && text)
        memcpy(event->text, text, size);
    return event;
}

static void append_and_post(struct pool *pool, struct event *event)
{
    if (append(pool->events, event))
        tell_on_mux(pool->events);
}

static void note(struct pool *pool, const char *address, struct pool_event_info info)
{
    struct event *event = pool->settings.options.on_event ? make_event(pool, address) : NULL;

    if (!event)
        return;
    event->info = info;
    event->info.size = sizeof(info);
    event->info.address = address ? event->text : NULL;
    append_and_post(pool, event);
}

void pl_event_line(struct pool *pool, enum pool_log_level level, const char *line)
{
    struct event *event = pool->settings.options.on_log ? make_event(pool, line) : NULL;

    if (!event)
        return;
    event->level = level;
    event->is_line = true;
    append_and_post(pool, event);
}

static uint64_t until_now(uint64_t start_ns)
{
    return pl_since(start_ns, pl_os->now_ns());
}

#define OF(connection, ...) (struct pool_event_info){ .connection = (connection)->id, __VA_ARGS__ }

void pl_event_created(struct pool *pool, const struct pl_connection *connection)
{
    if (pool->events)
        note(pool, connection->peer->text, OF(connection, .kind = POOL_EVENT_CONNECTION_CREATED));
}

void pl_event_ready(struct pool *pool, const struct pl_connection *connection)
{
    if (pool->events)
        note(pool, connection->peer->text, OF(connection, .kind = POOL_EVENT_CONNECTION_READY,
                                              .duration_ns = until_now(connection->opened_ns)));
}

void pl_event_closed(struct pool *pool, const struct pl_connection *connection)
{
    enum pool_close_reason reason = (enum pool_close_reason)connection->close_reason;
    enum pool_status status = POOL_OK;

    if (!pool->events)
        return;
    if (reason == POOL_CLOSE_ERROR)
        status = (enum pool_status)pl_failure_unpack(pl_get(connection->failure)).status;
    pl_log_closed(pool, connection);
    note(pool, connection->peer->text,
         OF(connection, .kind = POOL_EVENT_CONNECTION_CLOSED, .reason = reason, .status = status));
}

void pl_event_lent(struct pool *pool, const struct pl_connection *connection, uint64_t waited_ns)
{
    if (pool->events)
        note(pool, connection->peer->text,
             OF(connection, .kind = POOL_EVENT_BORROWED, .duration_ns = waited_ns));
}

void pl_event_returned(struct pool *pool, const struct pl_connection *connection)
{
    if (pool->events)
        note(pool, connection->peer->text, OF(connection, .kind = POOL_EVENT_RETURNED,
                                              .duration_ns = until_now(connection->lease.lent_ns)));
}

void pl_event_borrow_started(struct pool *pool, const char *address)
{
    if (pool->events)
        note(pool, address, (struct pool_event_info){ .kind = POOL_EVENT_BORROW_STARTED });
}

void pl_event_borrow_failed(struct pool *pool, const char *address, enum pool_status status)
{
    if (pool->events)
        note(pool, address,
             (struct pool_event_info){ .kind = POOL_EVENT_BORROW_FAILED, .status = status });
}

void pl_event_cleared(struct pool *pool, const char *address)
{
    if (pool->events)
        note(pool, address, (struct pool_event_info){ .kind = POOL_EVENT_POOL_CLEARED });
}

void pl_event_of_pool(struct pool *pool, enum pool_event_kind kind)
{
    if (pool->events)
        note(pool, NULL, (struct pool_event_info){ .kind = kind });
}

enum pool_status pl_events_open(struct pool *pool)
{
    struct pl_event_queue *queue;

    pool->events = NULL;
    if (!pool->settings.options.on_event && !pool->settings.options.on_log)
        return POOL_OK;
    queue = pl_zalloc(sizeof(*queue));
    if (!queue)
        return POOL_E_MEMORY;
    queue->pool = pool;
    queue->post = (struct pl_post){ .run = on_post, .owner = pool };
    pl_list_init(&queue->events);
    pthread_mutex_init(&queue->lock, NULL);
    pthread_cond_init(&queue->told, NULL);
    pool->events = queue;
    return POOL_OK;
}

void pl_events_stop(struct pool *pool)
{
    struct pl_event_queue *queue = pool->events;
    struct pl_thread *self = pl_thread_self();

    if (!queue)
        return;
    pthread_mutex_lock(&queue->lock);
    queue->is_stopped = true;           /* so whoever is telling gets to the end */
    pthread_mutex_unlock(&queue->lock);
    tell(queue);
    if (pl_pool_is_forked(pool))
        return;
    pthread_mutex_lock(&queue->lock);
    while (queue->teller && (!self || queue->teller != self->id))
        pl_os->wait_until(&queue->told, &queue->lock, PL_NEVER);
    pthread_mutex_unlock(&queue->lock);
}

void pl_events_close(struct pool *pool)
{
    struct pl_event_queue *queue = pool->events;
    struct pl_list *link;

    if (!queue)
        return;
    while ((link = pl_list_pop_front(&queue->events)))
        pl_os->free(pl_container(link, struct event, link));
    pthread_cond_destroy(&queue->told);
    pthread_mutex_destroy(&queue->lock);
    pl_os->free(queue);
    pool->events = NULL;
}
