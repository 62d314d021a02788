/* stress_policy.c: all that a pool decides of its own, at once: threads that want fresh
 * connections, that do not wait, that try again and nest, against a peer that goes down and comes
 * up, with spares, back-off, suspension and the search for leaks.
 *
 * Every call ends with an answer that it may have, no answer is another's, the caps hold in every
 * snapshot, and nothing is left. */
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>

#include "stress/stress.h"
#include "support/peer.h"
#include "support/tests.h"

#define THREADS 8u
#define PER_ADDRESS 4u
#define IN_ALL 6u

static struct peer *peers[2];
static struct pool *pool;
static atomic_ullong served, failed, fresh, lines, asked;

static void hear(enum pool_log_level level, const char *line, void *user)
{
    (void)user;
    if (level > POOL_LOG_INFO || !line[0])
        stress_fail("a strange line: %s", line);
    atomic_fetch_add(&lines, 1);
}

static enum pool_decision decide(const struct pool_error *error, void *user)
{
    unsigned long long count = atomic_fetch_add(&asked, 1);

    (void)user;
    if (!error->status)
        stress_fail("asked about nothing");
    return (enum pool_decision)(count % 3);
}

static bool may_be_answered(int status)
{
    switch (status) {
    case POOL_OK:
    case POOL_E_REFUSED:
    case POOL_E_CONNECT:
    case POOL_E_SUSPENDED:
    case POOL_E_CLOSED:
    case POOL_E_BROKEN:
    case POOL_E_FULL:
    case POOL_E_TIMEOUT:
    case POOL_E_TIMEOUT_IN_TRANSFER:
    case POOL_E_RESOURCE:
        return true;
    default:
        return false;
    }
}

struct nest {
    struct stress_caller *caller;
    const char *address;
    unsigned depth;
};

static int use(struct pool_conn *conn, void *user)
{
    struct nest *nest = user;
    int status = stress_ask(nest->caller, conn, NULL);

    if (nest->depth && stress_chance(nest->caller, 50)) {
        struct nest inner = { nest->caller, nest->address, nest->depth - 1 };

        pool_communicate(pool, nest->address, use, &inner, POOL_CALL(.timeout_ms = 50));
    }
    return status;
}

static int call_once(struct stress_caller *caller)
{
    static const uint32_t flags[] = { 0, 0, POOL_FRESH, POOL_DONT_WAIT,
                                      POOL_FRESH | POOL_DONT_WAIT, POOL_SAFE_TO_REPEAT };
    const char *address = peer_address(peers[stress_below(caller, 2)]);
    struct nest nest = { caller, address, stress_below(caller, 3) };
    struct pool_call call = { .size = sizeof(call), .timeout_ms = 1 + stress_below(caller, 300),
                              .tag = "stress", .flags = flags[stress_below(caller, 6)] };
    struct pool_conn conn;
    int status;

    call.on_error = stress_chance(caller, 30) ? decide : NULL;
    if (call.flags & POOL_FRESH)
        atomic_fetch_add(&fresh, 1);
    if (stress_chance(caller, 60))
        return pool_communicate(pool, address, use, &nest, &call);
    status = pool_borrow(pool, address, &call, &conn);
    if (status)
        return status;
    status = stress_ask(caller, &conn, NULL);
    if (stress_chance(caller, 10))
        sched_yield();
    pool_return(&conn);
    return status;
}

static void look_at_numbers(void)
{
    struct pool_stats stats = { .size = sizeof(stats) };
    char text[8192];
    size_t needed;

    pool_stats(pool, &stats);
    if (stats.idle + stats.lent + stats.opening + stats.closing != stats.total ||
        stats.total > IN_ALL)
        stress_fail("the gauges do not add up, or %llu are too many",
                    (unsigned long long)stats.total);
    if (pool_stats_json(pool, text, sizeof(text), &needed) ||
        pool_stats_openmetrics(pool, text, sizeof(text), &needed))
        stress_fail("no text of %zu bytes", needed);
}

static void call_and_call(unsigned index, void *argument)
{
    struct stress_caller caller = stress_caller_make(index);
    int status;

    (void)argument;
    while (stress_is_on()) {
        status = call_once(&caller);
        atomic_fetch_add(status ? &failed : &served, 1);
        if (!may_be_answered(status))
            stress_fail("a call answers %s", pool_status_name((enum pool_status)status));
        if (stress_chance(&caller, 2))
            look_at_numbers();
        if (index == 0 && stress_chance(&caller, 1)) {
            peer_down(peers[0]);
            sched_yield();
            if (!peer_up(peers[0]))
                break;
        }
    }
}

static void play(const struct pool_options *options, unsigned ms)
{
    struct pool_stats stats = { .size = sizeof(stats) };

    if (pool_create(options, &pool))
        stress_fail("no pool");
    stress_begin_part(ms);
    run_threads(THREADS, call_and_call, NULL);
    pool_stats(pool, &stats);
    if (stats.waiting || stats.lent)
        stress_fail("at the end %llu wait and %llu are lent", (unsigned long long)stats.waiting,
                    (unsigned long long)stats.lent);
    pool_destroy(pool);
}

#define CAPS .max_per_address = PER_ADDRESS, .max_connections = IN_ALL, .timeout_ms = 1000

int main(int argc, char **argv)
{
    int descriptors;
    long blocks;

    stress_begin(argc, argv, 4);
    for (unsigned i = 0; i < 2; i++)
        peers[i] = PEER(.behave = PEER_TOKEN, .own_process = true);
    descriptors = count_descriptors();
    blocks = stress_blocks();
    play(POOL_OPTIONS(CAPS, .leak_ms = 1, .on_log = hear, .on_error = decide, .min_idle = 2,
                      .backoff_first_ms = 1, .backoff_max_ms = 10, .suspend_ms = 5),
         stress_seconds() * 500);
    play(POOL_OPTIONS(CAPS, .min_idle = 1, .barge_ms = 1, .suspend_after = 1, .suspend_ms = 1,
                      .backoff_first_ms = POOL_ZERO),
         stress_seconds() * 500);
    stress_expect_nothing_left(descriptors, blocks, "after all");
    for (unsigned i = 0; i < 2; i++)
        peer_stop(peers[i]);
    if (!served || !fresh || !asked || !lines)
        stress_fail("not everything happened");
    return stress_end("%llu calls served, %llu failed, %llu fresh, %llu decisions, %llu lines",
                      served, failed, fresh, asked, lines);
}
