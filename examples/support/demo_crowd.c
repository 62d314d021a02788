/* demo_crowd.c: many threads share few connections, and each gets the answers to its own
 * questions. */
#include <pthread.h>
#include <stdio.h>

#include "support/demo.h"

enum { THREADS = 8, QUESTIONS = 200000, CONNECTIONS = 4 };

struct talker {
    struct demo *demo;
    struct pool *pool;
    pthread_t thread;
    int number;
    uint64_t right;
};

static void *talk(void *user)
{
    struct talker *talker = user;
    struct demo *demo = talker->demo;
    char token[48];

    for (int question = 0; question < QUESTIONS / THREADS; question++) {
        snprintf(token, sizeof(token), "thread %d question %d", talker->number, question);
        talker->right += demo_ask(demo, talker->pool, demo->peer.address[DEMO_CROWD], token);
        show_step(&demo->show);
    }
    return NULL;
}

void demo_crowd(struct demo *demo)
{
    struct pool *pool = demo_pool(demo, POOL_OPTIONS(.max_per_address = CONNECTIONS));
    struct pool_stats stats = { .size = sizeof(stats) };
    struct talker talkers[THREADS];
    uint64_t right = 0;
    int started = 0;

    show_begin(&demo->show, "8 threads ask over at most 4 connections", QUESTIONS);
    for (; started < THREADS; started++) {
        struct talker *talker = &talkers[started];

        *talker = (struct talker){ .demo = demo, .pool = pool, .number = started };
        if (pthread_create(&talker->thread, NULL, talk, talker))
            break;
    }
    while (started > 0) {
        pthread_join(talkers[--started].thread, NULL);
        right += talkers[started].right;
    }
    pool_stats(pool, &stats);
    show_end(&demo->show);
    pool_destroy(pool);

    show_check(&demo->show, "answers that fit thread and question", SHOW_EXACTLY, QUESTIONS, right);
    show_check(&demo->show, "questions that the peer counted", SHOW_EXACTLY, QUESTIONS,
               demo->peer.seen->asked[DEMO_CROWD]);
    show_check(&demo->show, "connections that the peer accepted", SHOW_AT_MOST, CONNECTIONS,
               demo->peer.seen->accepted[DEMO_CROWD]);
    show_check(&demo->show, "borrows of a connection that was warm", SHOW_AT_LEAST,
               QUESTIONS - CONNECTIONS, stats.reused);
}
