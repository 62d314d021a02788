/* queries.c: see queries.h. */
#include "support/queries.h"

#include <stdio.h>
#include <string.h>

static atomic_uint places;
static __thread const struct query *starting;

struct pool_bytes text_bytes(const char *text)
{
    return (struct pool_bytes){ text, strlen(text) };
}

static void copy_text(char *text, size_t room, struct pool_bytes bytes)
{
    size_t size = bytes.size < room ? bytes.size : room - 1;

    if (size)
        memcpy(text, bytes.data, size);
    text[size] = 0;
}

static void take_reply(struct query *query, struct pool_reply *reply)
{
    const struct pool_error *error = pool_reply_error(reply);
    struct pool_bytes bytes = pool_reply_bytes(reply);

    if (error) {
        query->error = *error;
        query->status = error->status;
    }
    query->failed = pool_reply_failed(reply);
    query->size = bytes.size;
    copy_text(query->text, sizeof(query->text), bytes);
    query->thread = pthread_self();
    pool_reply_free(reply);
}

static void on_reply(struct pool_reply *reply, void *user)
{
    struct query *query = user;

    query->was_under_the_start = starting != NULL;
    query->place = atomic_fetch_add(&places, 1) + 1;
    take_reply(query, reply);
    if (query->then)
        query->then(query);
    atomic_fetch_add(&query->told, 1);
}

enum pool_status start_query(struct query *query, struct pool *pool, const char *address,
                             const char *body, const struct pool_call *call)
{
    const struct query *outer = starting;
    enum pool_status status;

    starting = query;
    status = pool_query_async(pool, address, text_bytes(body), on_reply, query,
                              call ? call : POOL_CALL(.timeout_ms = VERBS_SOON),
                              query->has_ticket ? &query->ticket : NULL);
    starting = outer;
    return status;
}

static bool is_answered(void *argument)
{
    return atomic_load(&((struct query *)argument)->told);
}

bool wait_answered(struct query *query)
{
    return wait_until(is_answered, query, VERBS_SOON);
}

bool dispatch_until_answered(struct pool_mux *mux, struct query *query)
{
    uint64_t start_ms = now_ms();

    while (!atomic_load(&query->told) && elapsed_ms(start_ms) < VERBS_SOON)
        pool_mux_dispatch(mux, 10);
    return atomic_load(&query->told);
}

enum pool_status ask_and_wait(struct query *query, struct pool *pool, const char *address,
                              const char *body, const struct pool_call *call)
{
    struct pool_call own = { .size = sizeof(own), .timeout_ms = VERBS_SOON };
    struct pool_reply *reply = NULL;

    if (call)
        own = *call;
    own.error = &query->error;
    query->error = (struct pool_error)POOL_ERROR_INIT;
    query->status = pool_query(pool, address, text_bytes(body), &own, &reply);
    if (!query->status)
        take_reply(query, reply);
    atomic_fetch_add(&query->told, 1);
    return query->status;
}

bool is_answered_with(const struct query *query, const char *body)
{
    if (query->told == 1 && !query->status && !strcmp(query->text, body) && !query->failed)
        return true;
    fprintf(stderr, "asked for \"%.40s\", told %u times: %s, \"%.40s\", %s\n", body, query->told,
            pool_status_name(query->status), query->text, query->error.text);
    return false;
}

bool has_failed_with(const struct query *query, enum pool_status status)
{
    if (query->told == 1 && query->status == status)
        return true;
    fprintf(stderr, "not %s, but told %u times: %s, %s\n", pool_status_name(status), query->told,
            pool_status_name(query->status), query->error.text);
    return false;
}

/* ---- threads */

static void *run_asker(void *user)
{
    struct asker *asker = user;
    uint64_t start_ms = now_ms();

    ask_and_wait(&asker->query, asker->pool, asker->address, asker->body, &asker->call);
    asker->took_ms = elapsed_ms(start_ms);
    return NULL;
}

bool start_asker(struct asker *asker, struct pool *pool, const char *address, const char *body,
                 const struct pool_call *call)
{
    asker->pool = pool;
    asker->address = address;
    asker->body = body;
    asker->call = call ? *call : *POOL_CALL(.timeout_ms = VERBS_SOON);
    return !pthread_create(&asker->thread, NULL, run_asker, asker);
}

enum pool_status join_asker(struct asker *asker)
{
    pthread_join(asker->thread, NULL);
    return asker->query.status;
}

/* ---- orphans */

void count_orphan(uint64_t id, uint64_t key, struct pool_bytes body, void *user)
{
    struct orphans *orphans = user;

    orphans->id = id;
    orphans->key = key;
    copy_text(orphans->text, sizeof(orphans->text), body);
    atomic_fetch_add(&orphans->count, 1);
}

struct awaited {
    struct orphans *orphans;
    unsigned least;
};

static bool has_orphans(void *argument)
{
    struct awaited *awaited = argument;

    return atomic_load(&awaited->orphans->count) >= awaited->least;
}

bool wait_orphans(struct orphans *orphans, unsigned least)
{
    return wait_until(has_orphans, &(struct awaited){ orphans, least }, VERBS_SOON);
}

bool let_peer_take_time(unsigned ms)
{
    struct query_peer *peer = QUERY_PEER();
    struct pool *pool = MAKE_POOL(.codec = pool_codec_length());
    struct query query = { 0 };
    char body[16];

    snprintf(body, sizeof(body), "D%u", ms);
    ask_and_wait(&query, pool, query_peer_address(peer), body, NULL);
    pool_destroy(pool);
    query_peer_stop(peer);
    return !query.status;
}
