/* events.c: prints everything that a pool tells an observer during a few borrows, and its numbers.
 *
 *     ./examples/run events [127.0.0.1:6379]
 *
 * It shows on_event and pool_stats, and checks that the two agree. Nothing is said on the
 * connections, so any peer will do; without an argument there is a small one of its own. */
#include <commpool/pool.h>
#include <inttypes.h>
#include <stdio.h>

#include "support/arguments.h"
#include "support/peer.h"

static const char *const names[] = { "pool created", "pool ready", "pool cleared", "pool closed",
                                     "connection created", "connection ready", "connection closed",
                                     "borrow started", "borrow failed", "borrowed", "returned" };
static const char *const reasons[] = { "idle",  "age",   "uses", "stale",  "evicted",
                                       "error", "dirty", "peer", "stolen", "pool" };
enum { KINDS = sizeof(names) / sizeof(names[0]) };

/* Observers run one at a time, so this needs no lock. */
static void on_event(const struct pool_event_info *event, void *user)
{
    uint64_t *counts = user;

    if ((int)event->kind >= KINDS) /* of a later release */
        return;
    counts[event->kind]++;
    printf("%-*s", event->address ? 19 : 0, names[event->kind]);
    if (event->connection)
        printf(" #%" PRIu64, event->connection);
    if (event->address)
        printf(" %s", event->address);
    if (event->duration_ns)
        printf(" %.3f ms", (double)event->duration_ns / 1e6);
    if (event->kind == POOL_EVENT_CONNECTION_CLOSED)
        printf(" (%s)", reasons[event->reason]);
    printf("%s%s\n", event->status ? " " : "",
           event->status ? pool_status_name(event->status) : "");
}

/* Borrows twice in a row, then two at once, one of which is thrown away. */
static enum pool_status use_it(struct pool *pool, const char *address, struct pool_error *error)
{
    const struct pool_call *call = POOL_CALL(.error = error);
    struct pool_conn first, second;

    if (pool_borrow(pool, address, call, &first) != POOL_OK)
        return error->status;
    pool_return(&first);
    if (pool_borrow(pool, address, call, &first) != POOL_OK)
        return error->status;
    if (pool_borrow(pool, address, call, &second) == POOL_OK)
        pool_discard(&second);
    pool_return(&first);
    return error->status;
}

static bool agree(const uint64_t counts[KINDS], const struct pool_stats *stats)
{
    return counts[POOL_EVENT_BORROWED] == stats->borrowed &&
           counts[POOL_EVENT_RETURNED] == stats->borrowed &&
           counts[POOL_EVENT_BORROW_FAILED] == stats->borrow_failed &&
           counts[POOL_EVENT_CONNECTION_READY] == stats->opened &&
           counts[POOL_EVENT_CONNECTION_CREATED] == counts[POOL_EVENT_CONNECTION_CLOSED];
}

int main(int argc, char **argv)
{
    static struct peer peer;
    uint64_t counts[KINDS] = { 0 };
    struct pool_stats stats = { .size = sizeof(stats) };
    struct pool_error error = POOL_ERROR_INIT;
    struct pool_conn nobody;
    struct pool *pool = NULL;
    enum pool_status status;
    char address[256];

    if (argc > 1 ? !argument_address(argc, argv, "events [address]", address)
                 : !peer_start(&peer, 1))
        return 2;
    if (pool_create(POOL_OPTIONS(.on_event = on_event, .user = counts), &pool) != POOL_OK)
        return 2;
    status = use_it(pool, argc > 1 ? address : peer.address[0], &error);
    if (status != POOL_OK)
        fprintf(stderr, "events: %s\n", error.text);
    if (pool_borrow(pool, "tcp://127.0.0.1:1", NULL, &nobody) == POOL_OK) /* nobody serves it */
        pool_discard(&nobody);
    pool_stats(pool, &stats);
    pool_destroy(pool);
    peer_stop(&peer);
    printf("\n%" PRIu64 " borrowed, %" PRIu64 " of them reused; %" PRIu64 " failed; %" PRIu64
           " opened; %" PRIu64 " idle in the end\n",
           stats.borrowed, stats.reused, stats.borrow_failed, stats.opened, stats.idle);
    return status == POOL_OK && agree(counts, &stats) ? 0 : 1;
}
