/* redis_query.c: many threads ask one Redis server over one shared connection: SET, GET and INCR.
 *
 *     ./examples/run redis_query 127.0.0.1:6379 [threads] [rounds of each]
 *
 * It shows queries by a ready-made codec: what the body of a request is, what comes back, how a
 * failure of the connection and an error of the server differ, and the same without waiting. */
#include <commpool/query.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "support/arguments.h"

enum { THREADS_MOST = 256 };

struct asker {
    struct pool *pool;
    const char *address;
    long number, rounds;
    pthread_t thread;
};

static atomic_long answered, wrong;

/* Writes one command as an array of strings, the form in which the codec takes it; `words` ends
 * with NULL. What does not fit is empty, which the codec refuses. */
static struct pool_bytes command(char *room, size_t size, const char *const *words)
{
    size_t count = 0, used;

    while (words[count])
        count++;
    used = (size_t)snprintf(room, size, "*%zu\r\n", count);
    for (size_t word = 0; word < count && used < size; word++)
        used += (size_t)snprintf(room + used, size - used, "$%zu\r\n%s\r\n", strlen(words[word]),
                                 words[word]);
    return (struct pool_bytes){ room, used < size ? used : 0 };
}

/* Asks, and waits. Answers the reply, which the caller frees, or NULL after saying what was wrong:
 * either there is none, or the server answered with an error. */
static struct pool_reply *ask(const struct asker *asker, const char *const *words)
{
    struct pool_error error = POOL_ERROR_INIT;
    struct pool_reply *reply;
    char room[512];

    if (pool_query(asker->pool, asker->address, command(room, sizeof(room), words),
                   POOL_CALL(.error = &error), &reply)) {
        fprintf(stderr, "redis_query: %s\n", error.text);
        return NULL;
    }
    if (pool_reply_failed(reply)) {
        fprintf(stderr, "redis_query: the server said %.*s", (int)pool_reply_bytes(reply).size,
                (const char *)pool_reply_bytes(reply).data);
        pool_reply_free(reply);
        return NULL;
    }
    return reply;
}

/* Answers whether the server could be asked at all; counts what it said, against `expected`. */
static bool expect(const struct asker *asker, const char *const *words, const char *expected)
{
    struct pool_reply *reply = ask(asker, words);
    struct pool_bytes bytes = pool_reply_bytes(reply);

    if (!reply)
        return false;
    atomic_fetch_add(bytes.size >= strlen(expected) &&
                             memcmp(bytes.data, expected, strlen(expected)) == 0
                         ? &answered
                         : &wrong,
                     1);
    pool_reply_free(reply);
    return true;
}

static void *work(void *argument)
{
    const struct asker *asker = argument;
    char key[64], value[64], reply[128];

    snprintf(key, sizeof(key), "commpool:example:%ld", asker->number);
    for (long round = 0; round < asker->rounds; round++) {
        snprintf(value, sizeof(value), "thread %ld, round %ld", asker->number, round);
        snprintf(reply, sizeof(reply), "$%zu\r\n%s\r\n", strlen(value), value);
        if (!expect(asker, (const char *[]){ "SET", key, value, "EX", "60", NULL }, "+OK\r\n") ||
            !expect(asker, (const char *[]){ "GET", key, NULL }, reply) ||
            !expect(asker, (const char *[]){ "INCR", "commpool:example:count", NULL }, ":"))
            break;
    }
    return NULL;
}

/* Runs on the mux thread: it must not wait, and the reply is its own. */
static void on_count(struct pool_reply *reply, void *user)
{
    const struct pool_error *error = pool_reply_error(reply);
    struct pool_bytes bytes = pool_reply_bytes(reply);

    if (error)
        fprintf(stderr, "redis_query: %s\n", error->text);
    else
        printf("the counter, and how many keys went with it:\n%.*s", (int)bytes.size,
               (const char *)bytes.data);
    pool_reply_free(reply);
    sem_post(user);
}

/* Reads the counter and deletes it, in one body: two replies, one behind the other. Whether the
 * first one is an error only its bytes say. */
static void count_later(struct pool *pool, const char *address)
{
    struct pool_bytes both = POOL_TEXT("*2\r\n$3\r\nGET\r\n$22\r\ncommpool:example:count\r\n"
                                       "*2\r\n$3\r\nDEL\r\n$22\r\ncommpool:example:count\r\n");
    sem_t told;

    sem_init(&told, 0, 0);
    if (pool_query_async(pool, address, both, on_count, &told, NULL, NULL) == POOL_OK)
        while (sem_wait(&told))
            ;
    sem_destroy(&told);
}

static void run(struct pool *pool, const char *address, long threads, long rounds)
{
    static struct asker askers[THREADS_MOST];
    struct pool_stats stats = { .size = sizeof(stats) };

    for (long i = 0; i < threads; i++) {
        askers[i] =
            (struct asker){ .pool = pool, .address = address, .number = i, .rounds = rounds };
        pthread_create(&askers[i].thread, NULL, work, &askers[i]);
    }
    for (long i = 0; i < threads; i++)
        pthread_join(askers[i].thread, NULL);
    count_later(pool, address);
    pool_stats(pool, &stats);
    printf("%ld threads, %llu connection%s: %ld replies as expected, %ld not\n", threads,
           (unsigned long long)stats.opened, stats.opened == 1 ? "" : "s", atomic_load(&answered),
           atomic_load(&wrong));
}

int main(int argc, char **argv)
{
    long threads = argument_number(argc, argv, 2, 20, THREADS_MOST);
    long rounds = argument_number(argc, argv, 3, 100, 1000000);
    struct pool *pool = NULL;
    char address[256];

    if (!threads || !rounds ||
        !argument_address(argc, argv, "redis_query 127.0.0.1:6379 [threads] [rounds of each]",
                          address) ||
        pool_create(POOL_OPTIONS(.codec = pool_codec_resp()), &pool) != POOL_OK)
        return 2;
    if (expect(&(struct asker){ .pool = pool, .address = address },
               (const char *[]){ "SET", "commpool:example:count", "0", "EX", "60", NULL },
               "+OK\r\n"))
        run(pool, address, threads, rounds);
    pool_destroy(pool);
    return atomic_load(&answered) == 3 * threads * rounds + 1 ? 0 : 1;
}
