/* queries.c: what queries over one shared connection cost: alone, from many threads, many in flight
 * at once, and their memory.
 *
 * The peer is the same for ours and for the reference; the address is given as text, as most
 * programs do. Each reply is looked at, ours and the other's alike.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bench.h"
#include "commpool/query.h"
#include "crowd.h"
#include "peer.h"
#include "queries_peer.h"

static const char body[64] = "sixty-four bytes: what is asked is what is answered, as it was";

static struct pool_stats stats_of(struct pool *pool)
{
    struct pool_stats stats = { .size = sizeof(stats) };

    need_ok(pool_stats(pool, &stats), "pool_stats");
    return stats;
}

static void need_body(const char *bytes, size_t size, size_t wanted)
{
    need(size == wanted && memcmp(bytes, body, wanted) == 0, "the reply to what was asked");
}

static void take(struct pool_reply *reply, size_t wanted)
{
    const struct pool_error *error = pool_reply_error(reply);
    struct pool_bytes bytes = pool_reply_bytes(reply);

    if (error)
        give_up("a query", error->text);
    need_body(bytes.data, bytes.size, wanted);
    pool_reply_free(reply);
}

static void query(struct pool *pool, const char *address, size_t size)
{
    struct pool_reply *reply;

    need_ok(pool_query(pool, address, (struct pool_bytes){ body, size }, NULL, &reply),
            "pool_query");
    take(reply, size);
}

static void query_bare(int fd, size_t size)
{
    char frame[FRAME_MOST];
    size_t whole = frame_request(frame, 1, body, size);

    need(send(fd, frame, whole, MSG_NOSIGNAL) == (ssize_t)whole, "send");
    need(recv(fd, frame, sizeof(frame), 0) == (ssize_t)whole, "recv");
    need(frame_find(frame, whole, FRAME_REPLY) == whole, "one whole frame");
    need_body(frame + FRAME_HEAD, whole - FRAME_HEAD, size);
}

/* ---- one thread */

#define LONE_ROUNDS 151u /* short ones, since the limit is close to 1 */
#define LONE_TIMES 500u
#define LONE_BYTES 64u

struct lone {
    struct echo echo;
    struct pool *pool;
    int bare_fd;
};

static double round_lone(void *user)
{
    struct lone *lone = user;
    uint64_t start_ns;

    query(lone->pool, lone->echo.addresses[0], LONE_BYTES);
    start_ns = now_ns();
    for (unsigned i = 0; i < LONE_TIMES; i++)
        query(lone->pool, lone->echo.addresses[0], LONE_BYTES);
    return (double)(now_ns() - start_ns) / LONE_TIMES;
}

static double round_lone_bare(void *user)
{
    struct lone *lone = user;
    uint64_t start_ns;

    query_bare(lone->bare_fd, LONE_BYTES);
    start_ns = now_ns();
    for (unsigned i = 0; i < LONE_TIMES; i++)
        query_bare(lone->bare_fd, LONE_BYTES);
    return (double)(now_ns() - start_ns) / LONE_TIMES;
}

/* Both ends on one core, as in roundtrip.c. */
void figure_query_lone(const char *name)
{
    struct lone lone;

    pin_to_core(0);
    echo_start_as(&lone.echo, 0, answer_frames);
    need_ok(pool_create(POOL_OPTIONS(.codec = pool_codec_length()), &lone.pool), "pool_create");
    lone.bare_fd = echo_connect(&lone.echo, 0);
    report_comparison(name, alternate(LONE_ROUNDS, round_lone, round_lone_bare, &lone), 1.10);
    close(lone.bare_fd);
    pool_destroy(lone.pool);
    echo_stop(&lone.echo);
}

/* ---- many threads that wait */

#define THREAD_BYTES 64u

struct sharers {
    struct echo echo;
    struct pool *pool;
};

static void *connect_bare(void *user)
{
    struct sharers *sharers = user;
    int *bare_fd = malloc(sizeof(*bare_fd));

    need(bare_fd, "malloc");
    *bare_fd = echo_connect(&sharers->echo, 0);
    return bare_fd;
}

static void close_bare(void *own)
{
    close(*(int *)own);
    free(own);
}

static void query_shared(void *user, void *own)
{
    struct sharers *sharers = user;

    (void)own;
    query(sharers->pool, sharers->echo.addresses[0], THREAD_BYTES);
}

static void query_own(void *user, void *own)
{
    (void)user;
    query_bare(*(int *)own, THREAD_BYTES);
}

/* Ours share one connection; the others have one each. */
void figure_query_threads(const char *name)
{
    struct sharers sharers;
    const struct crowd crowd = { connect_bare, close_bare, query_shared, query_own, &sharers };
    struct comparison times;

    echo_start_as(&sharers.echo, -1, answer_frames);
    need_ok(pool_create(POOL_OPTIONS(.codec = pool_codec_length(), .max_per_address = 1),
                        &sharers.pool),
            "pool_create");
    times = measure_crowd(&crowd);
    need(stats_of(sharers.pool).opened == 1, "one connection, ever");
    report_rates(name, times, 1.35);
    pool_destroy(sharers.pool);
    echo_stop(&sharers.echo);
}

/* ---- many in flight */

#define FLIGHT_ROUNDS 31u
#define FLIGHT_TIMES 300000u
#define FLIGHT_BYTES 16u
#define FLIGHT_ROOM 262144u

struct flight {
    struct echo echo;
    struct pool_mux *mux;
    struct pool *pool;
    unsigned at_once;
    unsigned to_ask, to_come;
    int bare_fd;
    uint32_t id;
    char in[FLIGHT_ROOM], out[FLIGHT_ROOM];
};

static void ask(struct flight *flight, pool_reply_fn *on_reply)
{
    flight->to_ask--;
    need_ok(pool_query_async(flight->pool, flight->echo.addresses[0],
                             (struct pool_bytes){ body, FLIGHT_BYTES }, on_reply, flight, NULL,
                             NULL),
            "pool_query_async");
}

static void ask_again(struct pool_reply *reply, void *user)
{
    struct flight *flight = user;

    take(reply, FLIGHT_BYTES);
    flight->to_come--;
    if (flight->to_ask)
        ask(flight, ask_again);
}

static double round_flight(void *user)
{
    struct flight *flight = user;
    uint64_t start_ns = now_ns();

    flight->to_ask = flight->to_come = FLIGHT_TIMES;
    for (unsigned i = 0; i < flight->at_once; i++)
        ask(flight, ask_again);
    while (flight->to_come)
        need_ok(pool_mux_dispatch(flight->mux, POOL_NONE), "pool_mux_dispatch");
    return (double)(now_ns() - start_ns) / FLIGHT_TIMES;
}

static size_t ask_bare(struct flight *flight, size_t queued)
{
    need(queued + FRAME_MOST <= sizeof(flight->out), "room for what is asked");
    flight->to_ask--;
    return queued + frame_request(flight->out + queued, ++flight->id, body, FLIGHT_BYTES);
}

static void send_bare(struct flight *flight, size_t queued)
{
    for (size_t done = 0; done < queued;) {
        ssize_t sent = send(flight->bare_fd, flight->out + done, queued - done, MSG_NOSIGNAL);

        need(sent > 0, "send");
        done += (size_t)sent;
    }
}

/* Counts the replies that have come whole, and asks again for each; answers their bytes. */
static size_t take_replies(struct flight *flight, size_t size)
{
    size_t done = 0, queued = 0, frame;

    while ((frame = frame_find(flight->in + done, size - done, FRAME_REPLY))) {
        need_body(flight->in + done + FRAME_HEAD, frame - FRAME_HEAD, FLIGHT_BYTES);
        done += frame;
        flight->to_come--;
        if (flight->to_ask)
            queued = ask_bare(flight, queued);
    }
    send_bare(flight, queued);
    return done;
}

/* The barest loop that does the same framing. */
static double round_flight_bare(void *user)
{
    struct flight *flight = user;
    uint64_t start_ns = now_ns();
    size_t queued = 0, size = 0, done;

    flight->to_ask = flight->to_come = FLIGHT_TIMES;
    for (unsigned i = 0; i < flight->at_once; i++)
        queued = ask_bare(flight, queued);
    send_bare(flight, queued);
    while (flight->to_come) {
        ssize_t got = recv(flight->bare_fd, flight->in + size, sizeof(flight->in) - size, 0);

        need(got > 0, "recv");
        size += (size_t)got;
        done = take_replies(flight, size);
        size -= done;
        memmove(flight->in, flight->in + done, size);
    }
    return (double)(now_ns() - start_ns) / FLIGHT_TIMES;
}

/* A pool whose mux the thread that measures drives itself, on a core that the peer is not on. A
 * second pool keeps a thread alive, so that the C library takes no shortcuts, as in borrow.c. */
static void measure_flight(const char *name, unsigned at_once)
{
    static struct flight flight;
    struct comparison times;
    struct pool *other;

    flight.at_once = at_once;
    pin_to_core(0);
    echo_start_as(&flight.echo, 1, answer_frames);
    need_ok(pool_create(NULL, &other), "pool_create");
    need_ok(pool_mux_create(&flight.mux), "pool_mux_create");
    need_ok(pool_create(POOL_OPTIONS(.mux = flight.mux, .codec = pool_codec_length(),
                                     .max_per_address = 1, .max_inflight = at_once),
                        &flight.pool),
            "pool_create");
    flight.bare_fd = echo_connect(&flight.echo, 0);
    times = alternate(FLIGHT_ROUNDS, round_flight, round_flight_bare, &flight);
    need(stats_of(flight.pool).opened == 1, "one connection, ever");
    report_rates(name, times, 0.5);
    close(flight.bare_fd);
    pool_destroy(flight.pool);
    pool_mux_destroy(flight.mux);
    pool_destroy(other);
    echo_stop(&flight.echo);
}

void figure_query_async(const char *name)
{
    measure_flight(name, 1024);
}

void figure_query_async_256(const char *name)
{
    measure_flight(name, 256);
}

/* ---- memory */

static void expect_failure(struct pool_reply *reply, void *user)
{
    (void)user;
    need(pool_reply_error(reply), "nobody answers");
    pool_reply_free(reply);
}

/* Asks so many more, and goes on until all of it has left. */
static void ask_in_vain(struct flight *flight, unsigned count)
{
    uint64_t sent = stats_of(flight->pool).bytes_out + count * (FRAME_HEAD + FLIGHT_BYTES);

    flight->to_ask = count;
    while (flight->to_ask)
        ask(flight, expect_failure);
    while (stats_of(flight->pool).bytes_out < sent)
        need_ok(pool_mux_dispatch(flight->mux, POOL_NONE), "pool_mux_dispatch");
}

/* The heap that queries take once they have been sent, so that of their data nothing needs to be
 * kept. Two are in flight before, so that what a pool and a line need once is left out. */
static void measure_memory(const char *name, unsigned count)
{
    static struct flight flight;
    int64_t heap;

    heap_begin();
    echo_start_as(&flight.echo, -1, answer_nothing);
    need_ok(pool_mux_create(&flight.mux), "pool_mux_create");
    need_ok(pool_create(POOL_OPTIONS(.mux = flight.mux, .codec = pool_codec_length(),
                                     .max_per_address = 1, .max_inflight = count + 2,
                                     .timeout_ms = 600000),
                        &flight.pool),
            "pool_create");
    ask_in_vain(&flight, 1);
    ask_in_vain(&flight, 1);
    heap = heap_bytes();
    ask_in_vain(&flight, count);
    heap = heap_bytes() - heap;
    report(name, (double)heap / count, 128);
    pool_destroy(flight.pool);
    pool_mux_destroy(flight.mux);
    echo_stop(&flight.echo);
}

void figure_query_memory(const char *name)
{
    measure_memory(name, 10000);
}

void figure_query_memory_1000(const char *name)
{
    measure_memory(name, 1000);
}
