/* demo_room.c: more addresses than descriptors. The kernel says that no descriptor is left
 * (EMFILE), and the pool closes the connection that was idle for longest and goes on. */
#include <pthread.h>
#include <stdio.h>
#include <sys/resource.h>

#include "support/demo.h"

enum { THREADS = 4, DESCRIPTORS = 64 };

struct visitor {
    struct demo *demo;
    struct pool *pool;
    pthread_t thread;
    int number;
    uint64_t right;
};

/* Each visitor starts somewhere else and comes by all addresses. */
static void *visit_all(void *user)
{
    struct visitor *visitor = user;
    struct demo *demo = visitor->demo;
    char token[48];

    for (int step = 0; step < DEMO_ROOM_ADDRESSES; step++) {
        int place = (visitor->number * DEMO_ROOM_ADDRESSES / THREADS + step) % DEMO_ROOM_ADDRESSES;

        snprintf(token, sizeof(token), "visitor %d at %d", visitor->number, place);
        visitor->right +=
            demo_ask(demo, visitor->pool, demo->peer.address[DEMO_ROOM + place], token);
        show_step(&demo->show);
    }
    return NULL;
}

static uint64_t visit(struct demo *demo, struct pool *pool)
{
    struct visitor visitors[THREADS];
    uint64_t right = 0;
    int started = 0;

    for (; started < THREADS; started++) {
        struct visitor *visitor = &visitors[started];

        *visitor = (struct visitor){ .demo = demo, .pool = pool, .number = started };
        if (pthread_create(&visitor->thread, NULL, visit_all, visitor))
            break;
    }
    while (started > 0) {
        pthread_join(visitors[--started].thread, NULL);
        right += visitors[started].right;
    }
    return right;
}

void demo_room(struct demo *demo)
{
    const uint64_t visits = (uint64_t)THREADS * DEMO_ROOM_ADDRESSES;
    struct pool_stats stats = { .size = sizeof(stats) };
    struct rlimit before, limit;
    uint64_t right, all_seen = 0;
    struct pool *pool;

    getrlimit(RLIMIT_NOFILE, &before);
    limit = before;
    limit.rlim_cur = DESCRIPTORS;
    setrlimit(RLIMIT_NOFILE, &limit);
    /* The pool's own cap is out of the way, so it is descriptors that run out. */
    pool = demo_pool(demo, POOL_OPTIONS(.max_connections = DEMO_ROOM_ADDRESSES));
    show_begin(&demo->show, "4 threads visit 300 addresses, 64 descriptors", visits);
    right = visit(demo, pool);
    show_end(&demo->show);
    pool_stats(pool, &stats);
    pool_destroy(pool);
    setrlimit(RLIMIT_NOFILE, &before);

    for (int place = 0; place < DEMO_ROOM_ADDRESSES; place++)
        all_seen += demo->peer.seen->asked[DEMO_ROOM + place] == THREADS;
    show_check(&demo->show, "visits that went well", SHOW_EXACTLY, visits, right);
    show_check(&demo->show, "addresses where the peer saw every visit", SHOW_EXACTLY,
               DEMO_ROOM_ADDRESSES, all_seen);
    show_check(&demo->show, "connections open in the end", SHOW_AT_MOST, DESCRIPTORS, stats.total);
    show_check(&demo->show, "connections closed to make room", SHOW_AT_LEAST,
               DEMO_ROOM_ADDRESSES - DESCRIPTORS, stats.evicted);
}
