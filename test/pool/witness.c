/* witness.c: see witness.h. */
#include "pool/witness.h"

#include <stdio.h>
#include <string.h>

/* ---- readers */

static void *read_on(void *argument)
{
    struct reader *reader = argument;
    char byte;
    size_t got;

    if (reader->sends_first)
        pool_send(&reader->conn, "x", 1);
    atomic_store(&reader->has_begun, true);
    reader->status = pool_recv(&reader->conn, &byte, 1, &got);
    pool_conn_error(&reader->conn, &reader->error);
    reader->second = pool_send(&reader->conn, "x", 1);
    return NULL;
}

static bool has_begun(void *argument)
{
    struct reader *reader = argument;

    return atomic_load(&reader->has_begun);
}

bool start_reader(struct reader *reader, const struct pool_conn *conn, bool sends_first)
{
    *reader = (struct reader){ .conn = *conn, .sends_first = sends_first };
    reader->error.size = sizeof(reader->error);
    return pthread_create(&reader->thread, NULL, read_on, reader) == 0 &&
           wait_until(has_begun, reader, VERBS_SOON);
}

void join_reader(struct reader *reader)
{
    pthread_join(reader->thread, NULL);
}

/* ---- events */

static struct {
    pthread_mutex_t lock;
    char text[8192];
    size_t size;
} story = { .lock = PTHREAD_MUTEX_INITIALIZER };

static void note(const struct pool_event_info *event, void *user)
{
    static const char *const names[] = { "created", "ready", "cleared", "closed", "+",   "up",
                                         "-",       "ask",   "failed",  "lent",   "back" };
    size_t room;

    (void)user;
    pthread_mutex_lock(&story.lock);
    room = sizeof(story.text) - story.size;
    if (room > 64) {
        story.size += (size_t)snprintf(story.text + story.size, room, "%s%s", story.size ? " " : "",
                                       names[event->kind]);
        if (event->connection)
            story.size += (size_t)snprintf(story.text + story.size, room - 16, "%llu",
                                           (unsigned long long)event->connection);
        if (event->kind == POOL_EVENT_CONNECTION_CLOSED)
            story.size +=
                (size_t)snprintf(story.text + story.size, room - 40, ":%d", (int)event->reason);
    }
    pthread_mutex_unlock(&story.lock);
}

struct pool *observed_pool(const struct pool_options *options)
{
    struct pool_options with = *options;

    story.size = 0;
    story.text[0] = '\0';
    with.on_event = note;
    return make_pool(&with);
}

const char *story_so_far(void)
{
    static char copy[sizeof(story.text)];

    pthread_mutex_lock(&story.lock);
    memcpy(copy, story.text, sizeof(copy));
    pthread_mutex_unlock(&story.lock);
    return copy;
}

static bool is_told(void *argument)
{
    return strlen(story_so_far()) >= strlen(argument);
}

bool wait_story(const char *expected)
{
    char wanted[sizeof(story.text)];

    snprintf(wanted, sizeof(wanted), "%s", expected);
    wait_until(is_told, wanted, VERBS_SOON);
    if (!strcmp(story_so_far(), expected))
        return true;
    fprintf(stderr, "the story is \"%s\"\n    and not \"%s\"\n", story_so_far(), expected);
    return false;
}

bool adds_up(struct pool *pool)
{
    struct pool_stats stats = { .size = sizeof(stats) };
    uint64_t closed = 0;

    if (pool_stats(pool, &stats))
        return false;
    for (size_t i = 0; i < sizeof(stats.closed) / sizeof(*stats.closed); i++)
        closed += stats.closed[i];
    return stats.idle + stats.lent + stats.shared + stats.opening + stats.closing == stats.total &&
           stats.opened <= closed + stats.total && stats.reused <= stats.borrowed;
}
