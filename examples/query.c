/* query.c: queries over one shared connection, by a codec of one's own; both ends in one program.
 *
 *     ./examples/run query [threads] [queries of each]
 *
 * The serving end takes its sockets through pool_adopt() and answers in on_request; the asking end
 * has many threads and one connection, and each thread gets the replies to what it asked. The codec
 * is support/reqrsp.c. */
#include <arpa/inet.h>
#include <commpool/query.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "support/reqrsp.h"

#define THREADS_MOST 256
#define PEERS_MOST 10000 /* served at once; without it, as many as a pool lends of one address */

struct asker {
    struct pool *pool;
    const char *address;
    unsigned number, queries;
    pthread_t thread;
};

static atomic_uint answered, wrong;

/* Says the request backwards. */
static void serve(struct pool_responder *responder, struct pool_bytes request, void *user)
{
    char turned[64];
    size_t size = request.size < sizeof(turned) ? request.size : sizeof(turned);

    (void)user;
    for (size_t i = 0; i < size; i++)
        turned[i] = ((const char *)request.data)[size - 1 - i];
    pool_respond(responder, (struct pool_bytes){ turned, size });
}

static bool is_turned(const struct pool_reply *reply, const char *text)
{
    struct pool_bytes bytes = pool_reply_bytes(reply);
    size_t size = strlen(text);

    if (bytes.size != size)
        return false;
    for (size_t i = 0; i < size; i++) {
        if (((const char *)bytes.data)[i] != text[size - 1 - i])
            return false;
    }
    return true;
}

static void *ask(void *argument)
{
    const struct asker *asker = argument;
    char text[64];

    for (unsigned i = 0; i < asker->queries; i++) {
        struct pool_error error = POOL_ERROR_INIT;
        struct pool_reply *reply;

        snprintf(text, sizeof(text), "thread %u, query %u", asker->number, i);
        if (pool_query(asker->pool, asker->address, (struct pool_bytes){ text, strlen(text) },
                       POOL_CALL(.error = &error), &reply)) {
            fprintf(stderr, "query: %s\n", error.text);
            return NULL;
        }
        atomic_fetch_add(is_turned(reply, text) ? &answered : &wrong, 1);
        pool_reply_free(reply);
    }
    return NULL;
}

/* ---- the serving end */

struct server {
    struct pool *pool;
    int listener;
};

/* The address is only a name here: nobody asks these peers anything, so the pool never dials it,
 * and nobody listens there. Who asks them, too, gives each a name of its own, by tenant=. */
static void *accept_all(void *argument)
{
    struct server *server = argument;
    enum pool_status status;
    int fd;

    while ((fd = accept(server->listener, NULL, NULL)) >= 0) {
        status = pool_adopt(server->pool, "tcp://127.0.0.1:1", fd);
        if (status) {
            fprintf(stderr, "query: a peer is turned away: %s\n", pool_status_text(status));
            close(fd);
        }
    }
    return NULL;
}

static bool listen_on_loopback(struct server *server, char *address, size_t size)
{
    struct sockaddr_in place = { .sin_family = AF_INET,
                                 .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t length = sizeof(place);

    server->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (server->listener < 0 || bind(server->listener, (struct sockaddr *)&place, length) ||
        listen(server->listener, 64) ||
        getsockname(server->listener, (struct sockaddr *)&place, &length))
        return false;
    snprintf(address, size, "tcp://127.0.0.1:%u", ntohs(place.sin_port));
    return true;
}

/* ---- the asking end */

static double seconds_since(struct timespec start)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)(now.tv_sec - start.tv_sec) + (double)(now.tv_nsec - start.tv_nsec) / 1e9;
}

static void run(struct pool *pool, const char *address, unsigned threads, unsigned queries)
{
    static struct asker askers[THREADS_MOST];
    struct pool_stats stats = { .size = sizeof(stats) };
    struct timespec start;
    double seconds;

    clock_gettime(CLOCK_MONOTONIC, &start);
    for (unsigned i = 0; i < threads; i++) {
        askers[i] = (struct asker){ .pool = pool, .address = address, .number = i,
                                    .queries = queries };
        pthread_create(&askers[i].thread, NULL, ask, &askers[i]);
    }
    for (unsigned i = 0; i < threads; i++)
        pthread_join(askers[i].thread, NULL);
    seconds = seconds_since(start);
    pool_stats(pool, &stats);
    printf("%u queries of %u threads over %llu connection%s: %u answered, %u wrong, "
           "%.0f a second\n",
           threads * queries, threads, (unsigned long long)stats.opened,
           stats.opened == 1 ? "" : "s", atomic_load(&answered), atomic_load(&wrong),
           threads * queries / seconds);
}

int main(int count, char **arguments)
{
    unsigned threads = count > 1 ? (unsigned)strtoul(arguments[1], NULL, 10) : 50;
    unsigned queries = count > 2 ? (unsigned)strtoul(arguments[2], NULL, 10) : 1000;
    struct server server = { .listener = -1 };
    struct pool *pool = NULL;
    char address[64];
    pthread_t accepting;

    if (!threads || threads > THREADS_MOST || !queries) {
        fprintf(stderr, "usage: query [1 to %d threads] [queries of each]\n", THREADS_MOST);
        return 2;
    }
    if (pool_create(POOL_OPTIONS(.codec = reqrsp_codec(), .on_request = serve,
                                 .max_per_address = PEERS_MOST, .max_age_ms = POOL_NONE),
                    &server.pool) ||
        pool_create(POOL_OPTIONS(.codec = reqrsp_codec(), .max_per_address = 1), &pool) ||
        !listen_on_loopback(&server, address, sizeof(address)) ||
        pthread_create(&accepting, NULL, accept_all, &server)) {
        fprintf(stderr, "query: cannot begin\n");
        return 1;
    }
    run(pool, address, threads, queries);
    shutdown(server.listener, SHUT_RDWR);
    pthread_join(accepting, NULL);
    pool_destroy(pool);
    pool_destroy(server.pool);
    close(server.listener);
    return atomic_load(&answered) == threads * queries ? 0 : 1;
}
