/* names.c: what host names cost.
 *
 * dns-cached: how much longer a dial takes to a name whose answer is remembered than to the literal
 * address that it stands for. loop-latency: from a post to a mux that sleeps until it runs, while a
 * lookup hangs, beside the same without one; the mux has a thread of its own on the other core.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "bench.h"
#include "net/resolver.h"
#include "peer.h"
#include "support/dns.h"

#define CACHED_ROUNDS 501u
#define CACHED_TIMES 10u
#define LATENCY_ROUNDS 41u
#define LATENCY_TIMES 1000u
#define NAME "db.example"

/* ---- dns-cached */

struct dials {
    struct echo echo;
    struct dns *dns;
    struct pool_mux *mux;
    struct pool *pool;
    char named[64];
    unsigned left, rounds;
    const char *address;
};

static void dial(struct dials *dials);

static void on_lent(struct pool_conn *conn, const struct pool_error *error, void *user)
{
    struct dials *dials = user;

    need(!error, error ? error->text : "a connection");
    need_ok(pool_discard(conn), "pool_discard");
    if (--dials->left)
        dial(dials);
}

static void dial(struct dials *dials)
{
    need_ok(pool_communicate_async(dials->pool, dials->address, on_lent, dials, NULL, NULL),
            "pool_communicate_async");
}

static double time_dials(struct dials *dials, const char *address)
{
    uint64_t start_ns = now_ns();

    dials->address = address;
    dials->left = CACHED_TIMES;
    dial(dials);
    while (dials->left)
        need_ok(pool_mux_dispatch(dials->mux, POOL_NONE), "pool_mux_dispatch");
    return (double)(now_ns() - start_ns) / CACHED_TIMES;
}

static double round_extra(void *user)
{
    struct dials *dials = user;
    bool is_name_first = dials->rounds++ % 2;
    double named = is_name_first ? time_dials(dials, dials->named) : 0;
    double literal = time_dials(dials, dials->echo.addresses[0]);

    if (!is_name_first)
        named = time_dials(dials, dials->named);
    return named - literal;
}

void figure_dns_cached(const char *name)
{
    struct dials dials = { .left = 0 };
    double extra;

    dials.dns = dns_start();
    need(dials.dns, "a DNS server");
    DNS_SAY(dials.dns, NAME, .addresses = { "127.0.0.1" }, .ttl = 3600);
    pl_resolver_use_servers(dns_server(dials.dns));
    pin_to_core(0);
    echo_start(&dials.echo, 1);
    /* One family: that the other has no address is remembered for a few seconds only. */
    snprintf(dials.named, sizeof(dials.named), "tcp://" NAME ":%u?family=4",
             (unsigned)dials.echo.port);
    need_ok(pool_mux_create(&dials.mux), "pool_mux_create");
    need_ok(pool_create(POOL_OPTIONS(.mux = dials.mux), &dials.pool), "pool_create");
    extra = repeat(CACHED_ROUNDS, round_extra, &dials);
    report(name, extra < 0 ? 0 : extra, 2000); /* less than the noise, then */
    need(dns_count(dials.dns, NAME, 0) == 1, "one question for all");
    pool_destroy(dials.pool);
    pool_mux_destroy(dials.mux);
    echo_stop(&dials.echo);
    dns_stop(dials.dns);
}

/* ---- loop-latency */

/* A mux and the thread that runs it. */
struct sleeper {
    struct pool_mux *mux;
    pthread_t thread;
    int fd; /* what was posted says so */
};

struct latency {
    struct sleeper plain, hanging; /* in the second one a lookup is under way at any time */
    struct pool *pool;
    atomic_bool is_over;
};

static void *run(void *argument)
{
    struct sleeper *sleeper = argument;

    need_ok(pool_mux_run(sleeper->mux), "pool_mux_run");
    return NULL;
}

static void sleeper_start(struct sleeper *sleeper)
{
    sleeper->fd = eventfd(0, EFD_CLOEXEC);
    need(sleeper->fd >= 0, "eventfd");
    need_ok(pool_mux_create(&sleeper->mux), "pool_mux_create");
    need(pthread_create(&sleeper->thread, NULL, run, sleeper) == 0, "pthread_create");
}

static void sleeper_stop(struct sleeper *sleeper)
{
    pool_mux_stop(sleeper->mux);
    pthread_join(sleeper->thread, NULL);
    pool_mux_destroy(sleeper->mux);
    close(sleeper->fd);
}

static void hang(struct latency *latency);

/* The DNS client gives up after some seconds. */
static void on_given_up(struct pool_conn *conn, const struct pool_error *error, void *user)
{
    struct latency *latency = user;

    need(!conn && error, "no answer");
    if (!atomic_load(&latency->is_over))
        hang(latency);
}

static void hang(struct latency *latency)
{
    need_ok(pool_communicate_async(latency->pool, "tcp://" NAME ":1", on_given_up, latency,
                                   POOL_CALL(.timeout_ms = POOL_NONE), NULL),
            "pool_communicate_async");
}

static void on_post(void *user)
{
    struct sleeper *sleeper = user;
    uint64_t one = 1;

    need(write(sleeper->fd, &one, sizeof(one)) == sizeof(one), "writing to an eventfd");
}

static double time_posts(struct sleeper *sleeper)
{
    uint64_t start_ns = now_ns(), count;

    for (unsigned i = 0; i < LATENCY_TIMES; i++) {
        need_ok(pool_mux_post(sleeper->mux, on_post, sleeper), "pool_mux_post");
        need(read(sleeper->fd, &count, sizeof(count)) == sizeof(count), "reading an eventfd");
    }
    return (double)(now_ns() - start_ns) / LATENCY_TIMES;
}

static double round_hanging(void *user)
{
    return time_posts(&((struct latency *)user)->hanging);
}

static double round_plain(void *user)
{
    return time_posts(&((struct latency *)user)->plain);
}

void figure_loop_latency(const char *name)
{
    struct latency latency = { .pool = NULL };
    struct dns *dns;

    pin_to_core(1);
    dns = dns_start();
    need(dns, "a DNS server");
    DNS_SAY(dns, NAME, .trick = DNS_SILENT);
    pl_resolver_use_servers(dns_server(dns));
    sleeper_start(&latency.plain);
    sleeper_start(&latency.hanging);
    pin_to_core(0);
    need_ok(pool_create(POOL_OPTIONS(.mux = latency.hanging.mux, .connect_ms = POOL_NONE,
                                     .backoff_first_ms = POOL_ZERO, .suspend_after = POOL_ZERO),
                        &latency.pool),
            "pool_create");
    hang(&latency);
    need(dns_wait_count(dns, NAME, 0, 2, 5000), "a question under way");
    report_comparison(name, alternate(LATENCY_ROUNDS, round_hanging, round_plain, &latency), 1.05);
    atomic_store(&latency.is_over, true);
    pool_destroy(latency.pool);
    sleeper_stop(&latency.hanging);
    sleeper_stop(&latency.plain);
    dns_stop(dns);
}
