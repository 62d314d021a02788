/* crowd.c: many threads, measured together. See crowd.h. */
#include "crowd.h"

#include <pthread.h>

#define THREADS 50u
#define ROUNDS 21u
#define TIMES 400u

struct gathering {
    const struct crowd *crowd;
    pthread_barrier_t begin, end;
    bool is_reference, is_over;
};

static void *be_one_of_many(void *argument)
{
    struct gathering *gathering = argument;
    const struct crowd *crowd = gathering->crowd;
    void *own = crowd->enter(crowd->user);

    for (;;) {
        pthread_barrier_wait(&gathering->begin);
        if (gathering->is_over)
            break;
        for (unsigned i = 0; i < TIMES; i++) {
            if (gathering->is_reference)
                crowd->reference(crowd->user, own);
            else
                crowd->ours(crowd->user, own);
        }
        pthread_barrier_wait(&gathering->end);
    }
    crowd->leave(own);
    return NULL;
}

static double round_crowd(struct gathering *gathering, bool is_reference)
{
    uint64_t start_ns;

    gathering->is_reference = is_reference;
    pthread_barrier_wait(&gathering->begin);
    start_ns = now_ns();
    pthread_barrier_wait(&gathering->end);
    return (double)(now_ns() - start_ns) / (THREADS * TIMES);
}

static double round_ours(void *user)
{
    return round_crowd(user, false);
}

static double round_reference(void *user)
{
    return round_crowd(user, true);
}

struct comparison measure_crowd(const struct crowd *crowd)
{
    struct gathering gathering = { .crowd = crowd };
    struct comparison times;
    pthread_t threads[THREADS];

    pthread_barrier_init(&gathering.begin, NULL, THREADS + 1);
    pthread_barrier_init(&gathering.end, NULL, THREADS + 1);
    for (unsigned i = 0; i < THREADS; i++)
        need(pthread_create(&threads[i], NULL, be_one_of_many, &gathering) == 0, "pthread_create");
    times = alternate(ROUNDS, round_ours, round_reference, &gathering);
    gathering.is_over = true;
    pthread_barrier_wait(&gathering.begin);
    for (unsigned i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    pthread_barrier_destroy(&gathering.begin);
    pthread_barrier_destroy(&gathering.end);
    return times;
}
