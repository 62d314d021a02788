/* stress_both.c: both ends of a connection ask each other, at once: one pool dials, the other takes
 * what is accepted by pool_adopt(). Each end has callers that wait and queries in flight, and
 * answers at once, later from another thread, with an error, too late, or after it asked back.
 *
 *     stress_both [SEED [SECONDS [COUNT]]]
 *
 * COUNT ends a part when each end asked so many queries, whatever the time.
 *
 * What must hold: no query is told what another asked, each is answered exactly once, with what may
 * be; each comes to the other end once at most, and none of which it was said that it was not sent;
 * and nothing is left. */
#include <arpa/inet.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "stress/pending.h"
#include "support/tests.h"

#define CALLERS 3u /* of each end */
#define IN_FLIGHT 100u /* of each caller, at most */
#define LARGEST 50000u
#define PARTS 3u
#define LATER 1024u /* answers that are due later, at most */

/* One end. */
struct end {
    struct pool *pool;
    const char *address; /* of the other one */
    atomic_ullong asked, told, answered, given_up;
    atomic_uint in_flight[CALLERS];
};

static struct end ends[2]; /* the one that dials, the one that accepts */
static char dialed[64];
static int listening;
static bool is_rough;
static atomic_bool is_ending;
static uint64_t count; /* 0: as long as there is time */
static _Atomic uint64_t last_id;

/* ---- answering later */

struct later {
    struct pool_responder *responder;
    uint64_t due_us;
    struct pool_bytes body;
};

static struct {
    pthread_mutex_t lock;
    struct later waiting[LATER];
    unsigned count;
} shelf = { .lock = PTHREAD_MUTEX_INITIALIZER };

static struct pool_bytes copied(struct pool_bytes bytes)
{
    char *copy = malloc(bytes.size);

    if (!copy)
        abort();
    memcpy(copy, bytes.data, bytes.size);
    return (struct pool_bytes){ copy, bytes.size };
}

/* False: there is no room for it. */
static bool put_off(struct pool_responder *responder, struct pool_bytes body, unsigned ms)
{
    struct later later = { .responder = responder, .due_us = now_us() + ms * 1000 };
    bool has_room;

    later.body = copied(body);
    pthread_mutex_lock(&shelf.lock);
    has_room = shelf.count < LATER;
    if (has_room)
        shelf.waiting[shelf.count++] = later;
    pthread_mutex_unlock(&shelf.lock);
    if (!has_room)
        free((void *)later.body.data);
    return has_room;
}

static bool take_due(struct later *due)
{
    uint64_t now = now_us();
    bool has_found = false;

    pthread_mutex_lock(&shelf.lock);
    for (unsigned i = 0; i < shelf.count && !has_found; i++) {
        if (shelf.waiting[i].due_us > now)
            continue;
        *due = shelf.waiting[i];
        shelf.waiting[i] = shelf.waiting[--shelf.count];
        has_found = true;
    }
    pthread_mutex_unlock(&shelf.lock);
    return has_found;
}

static bool answer_due(void *unused)
{
    struct later due;

    (void)unused;
    while (take_due(&due)) {
        pool_respond(due.responder, due.body);
        free((void *)due.body.data);
    }
    return atomic_load(&is_ending);
}

static void *answer_later(void *unused)
{
    while (!wait_until(answer_due, NULL, 60000))
        continue;
    (void)unused;
    return NULL;
}

/* What nobody will wait for any more. */
static void empty_shelf(void)
{
    for (unsigned i = 0; i < shelf.count; i++) {
        pool_respond(shelf.waiting[i].responder, shelf.waiting[i].body);
        free((void *)shelf.waiting[i].body.data);
    }
    shelf.count = 0;
}

/* ---- one query */

/* What more there is of one that was asked back: the asker gets its answer then. */
struct back {
    struct pool_responder *asker;
    struct pool_bytes asked;
};

static bool may_be(enum pool_status status, const struct pending *pending)
{
    switch (status) {
    case POOL_E_CLOSING:
        return atomic_load(&is_ending);
    case POOL_E_BROKEN:
    case POOL_E_CLOSED:
    case POOL_E_CLEARED:
    case POOL_E_CONNECT:
    case POOL_E_REFUSED:
        return is_rough || atomic_load(&is_ending);
    default:
        return pending_may_fail(pending, status);
    }
}

static void check(struct pending *pending, const struct pool_reply *reply,
                  const struct pool_error *error)
{
    struct pool_bytes bytes = pool_reply_bytes(reply);
    struct end *end = pending->owner;
    uint64_t token = seen_token_in(pending->body, pending->size);

    if (error) {
        pending_check_failure(pending, error, may_be(error->status, pending));
        atomic_fetch_add(&end->given_up, 1);
        return;
    }
    if (bytes.size != pending->size || memcmp(bytes.data, pending->body, bytes.size) != 0)
        stress_fail("crossed: asked %.40s, was told %.*s", pending->body,
                    (int)(bytes.size < 40 ? bytes.size : 40), (const char *)bytes.data);
    if (pool_reply_failed(reply) != (pending->body[0] == 'F'))
        stress_fail("%.40s: it failed, or did not", pending->body);
    if (seen_times(token) != 1)
        stress_fail("%.40s came %u times", pending->body, seen_times(token));
    atomic_fetch_add(&end->answered, 1);
}

static struct pending *make_pending(struct end *end, unsigned caller, const char *order,
                                    size_t padding)
{
    struct pending *pending = pending_make(order, padding);

    pending->owner = end;
    pending->caller = caller;
    return pending;
}

static void answer_back(struct back *back)
{
    pool_respond(back->asker, back->asked);
    free((void *)back->asked.data);
    free(back);
}

static void on_reply(struct pool_reply *reply, void *user)
{
    struct pending *pending = user;
    struct end *end = pending->owner;
    struct back *back = pending->more;

    pending_note_told(pending);
    check(pending, reply, pool_reply_error(reply));
    pool_reply_free(reply);
    atomic_fetch_add(&end->told, 1);
    if (back)
        answer_back(back);
    else
        atomic_fetch_sub(&end->in_flight[pending->caller], 1);
    free(pending);
}

/* ---- being asked */

static void ask_back(struct end *end, struct pool_responder *responder, struct pool_bytes request)
{
    struct pending *pending = make_pending(end, 0, "e", 0);
    struct back *back = malloc(sizeof(*back));

    if (!back)
        abort();
    *back = (struct back){ responder, copied(request) };
    pending->more = back;
    atomic_fetch_add(&end->asked, 1);
    if (!pool_query_async(end->pool, end->address, pending_bytes(pending), on_reply, pending,
                          NULL, NULL))
        return;
    if (!is_rough && !atomic_load(&is_ending))
        stress_fail("asking back failed");
    atomic_fetch_sub(&end->asked, 1);
    answer_back(back);
    free(pending);
}

static void serve(struct pool_responder *responder, struct pool_bytes request, void *user)
{
    const char *body = request.data;

    seen_note(seen_token_in(body, request.size), 0);
    if (body[0] == 'A')
        ask_back(user, responder, request);
    else if (body[0] == 'F')
        pool_respond_error(responder, request);
    else if ((body[0] != 'L' && body[0] != 'S') ||
             !put_off(responder, request, body[0] == 'L' ? 0 : 2 * HURRIED_MS))
        pool_respond(responder, request);
}

static void on_orphan(uint64_t id, uint64_t key, struct pool_bytes body, void *user)
{
    (void)key, (void)body, (void)user;
    atomic_store(&last_id, id);
}

/* ---- asking */

/* The order is the first byte: at once, later, slowly, with an error, after asking back. */
static struct pending *random_pending(struct stress_caller *random, struct end *end)
{
    static const char *const orders[] = { "e", "L", "S", "F", "A" };
    unsigned choice = stress_below(random, 100);
    const char *order = orders[choice < 60 ? 0 : choice < 85 ? 1 : choice - 85 < 3 ? 2
                               : choice < 95 ? 3 : 4];
    size_t padding = stress_below(random, stress_chance(random, 98) ? 200 : LARGEST);

    return make_pending(end, random->thread % CALLERS, order, padding);
}

static void ask_async(struct stress_caller *random, struct end *end)
{
    struct pending *pending = random_pending(random, end);
    struct pool_ticket *ticket = NULL;
    bool has_ticket = stress_chance(random, 10);

    pending->is_canceled = has_ticket;
    atomic_fetch_add(&end->in_flight[pending->caller], 1);
    atomic_fetch_add(&end->asked, 1);
    if (pool_query_async(end->pool, end->address, pending_bytes(pending), on_reply, pending,
                         POOL_CALL(.timeout_ms = pending_timeout(random, pending)),
                         has_ticket ? &ticket : NULL))
        stress_fail("a start");
    pending_cancel(random, ticket);
}

static void ask_and_wait(struct stress_caller *random, struct end *end)
{
    struct pending *pending = random_pending(random, end);
    struct pool_error error = POOL_ERROR_INIT;
    struct pool_reply *reply = NULL;
    enum pool_status status;

    atomic_fetch_add(&end->asked, 1);
    status = pool_query(end->pool, end->address, pending_bytes(pending),
                        POOL_CALL(.timeout_ms = pending_timeout(random, pending), .error = &error),
                        &reply);
    check(pending, reply, status ? &error : NULL);
    pool_reply_free(reply);
    atomic_fetch_add(&end->told, 1);
    free(pending);
}

static bool goes_on(const struct end *end)
{
    if (count)
        return atomic_load(&end->asked) < count && stress_failures() < 1000;
    return stress_is_on();
}

static void be_rough(struct stress_caller *random)
{
    struct pool *pool = ends[stress_below(random, 2)].pool;

    if (stress_chance(random, 50))
        pool_kill(pool, atomic_load(&last_id));
    else if (pool_clear(pool, NULL, stress_chance(random, 50) ? POOL_INTERRUPT : 0))
        stress_fail("it is not cleared");
}

static void call(unsigned index, void *unused)
{
    struct stress_caller random = stress_caller_make(index);
    struct end *end = &ends[index / CALLERS];

    (void)unused;
    while (goes_on(end)) {
        if (is_rough && stress_below(&random, 2000) == 0)
            be_rough(&random);
        if (stress_chance(&random, 20) ||
            atomic_load(&end->in_flight[index % CALLERS]) >= IN_FLIGHT)
            ask_and_wait(&random, end);
        else
            ask_async(&random, end);
    }
}

/* ---- parts */

static void *accept_all(void *unused)
{
    int fd;

    (void)unused;
    while ((fd = accept4(listening, NULL, NULL, SOCK_CLOEXEC)) >= 0) {
        if (pool_adopt(ends[1].pool, ends[1].address, fd))
            close(fd);
    }
    return NULL;
}

static void listen_somewhere(void)
{
    struct sockaddr_in name = { .sin_family = AF_INET,
                                .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t size = sizeof(name);

    listening = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (listening < 0 || bind(listening, (struct sockaddr *)&name, size) ||
        listen(listening, 100) || getsockname(listening, (struct sockaddr *)&name, &size))
        abort();
    snprintf(dialed, sizeof(dialed), "tcp://127.0.0.1:%d", ntohs(name.sin_port));
}

static void make_end(struct end *end, const char *address, unsigned connections)
{
    *end = (struct end){ .address = address };
    if (pool_create(POOL_OPTIONS(.codec = pool_codec_length(), .on_request = serve, .user = end,
                                 .on_orphan = on_orphan, .max_per_address = connections,
                                 .max_inflight = connections > 1 ? 100 : 1024,
                                 .max_waiters = 100000, .backoff_first_ms = POOL_ZERO,
                                 .suspend_after = POOL_ZERO),
                    &end->pool)) {
        stress_fail("no pool");
        exit(stress_end("nothing"));
    }
}

static bool has_line(void *unused)
{
    struct pool_stats stats = { .size = sizeof(stats) };

    (void)unused;
    return pool_stats(ends[1].pool, &stats) == POOL_OK && stats.total;
}

/* The first query brings the connection; nobody could dial the other way. */
static void connect_both(void)
{
    struct stress_caller random = stress_caller_make(99);

    ask_and_wait(&random, &ends[0]);
    if (!wait_until(has_line, NULL, 20000))
        stress_fail("nothing was accepted");
}

static void end_both(void)
{
    atomic_store(&is_ending, true);
    pool_destroy(ends[1].pool);
    pool_destroy(ends[0].pool);
    for (unsigned i = 0; i < 2; i++) {
        struct end *end = &ends[i];

        printf("    %llu asked, %llu answered, %llu given up\n", atomic_load(&end->asked),
               atomic_load(&end->answered), atomic_load(&end->given_up));
        if (atomic_load(&end->asked) != atomic_load(&end->told))
            stress_fail("%llu asked, %llu told", atomic_load(&end->asked),
                        atomic_load(&end->told));
    }
    fflush(stdout);
}

static void play(unsigned part)
{
    int descriptors = count_descriptors();
    long blocks = stress_blocks();
    pthread_t accepting, answering;

    printf("  part %u\n", part);
    stress_begin_part(stress_seconds() * 1000 / PARTS);
    is_rough = part == 2;
    atomic_store(&is_ending, false);
    listen_somewhere();
    make_end(&ends[0], dialed, part == 0 ? 1 : 3);
    make_end(&ends[1], "tcp://127.0.0.1:1", part == 0 ? 1 : 3);
    if (pthread_create(&accepting, NULL, accept_all, NULL) ||
        pthread_create(&answering, NULL, answer_later, NULL))
        abort();
    connect_both();
    if (!run_threads(2 * CALLERS, call, NULL))
        stress_fail("no threads");
    end_both();
    shutdown(listening, SHUT_RDWR);
    pthread_join(accepting, NULL);
    pthread_join(answering, NULL);
    close(listening);
    empty_shelf();
    seen_check(1);
    stress_expect_nothing_left(descriptors, blocks, "a part");
}

int main(int argc, char **argv)
{
    stress_begin(argc, argv, 6);
    if (argc > 3)
        count = strtoull(argv[3], NULL, 0);
    for (unsigned part = 0; part < PARTS; part++)
        play(part);
    return stress_end("both ends");
}
