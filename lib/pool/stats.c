/* stats.c: one snapshot: gauges read off the words, counters from the books and from the living
 * connections. */
#include <string.h>

#include "pool/exchange.h"

#define LARGEST 65536u /* no release's struct is that large: the size was never set */

static void add_connection(struct pool_stats *stats, struct pl_connection *connection)
{
    uint64_t uses = pl_get(connection->uses);

    switch (pl_word_state(atomic_load(&connection->word))) {
    case PL_OPENING:
    case PL_SETUP:
        stats->opening++;
        break;
    case PL_IDLE:
    case PL_PARKED:
    case PL_MUX:
    case PL_HEARD:
        stats->idle++;
        break;
    case PL_LENT:
        if (atomic_load(&connection->line))
            stats->shared++;
        else
            stats->lent++;
        break;
    default:
        stats->closing++;
        break;
    }
    stats->borrowed += uses;
    stats->reused += uses ? uses - 1 : 0;
    stats->bytes_in += pl_get(connection->bytes_in);
    stats->bytes_out += pl_get(connection->bytes_out);
}

static void add_peer(struct pool_stats *stats, struct pl_peer *peer)
{
    uint64_t waiting;

    pthread_mutex_lock(&peer->lock);
    waiting = peer->shared.waiting;
    PL_LIST_EACH(link, &peer->shared.all)
        add_connection(stats, pl_container(link, struct pl_connection, all_link));
    pthread_mutex_unlock(&peer->lock);
    stats->waiting += pl_exchange_count(peer, waiting, stats);
}

static void add_books(struct pool_stats *stats, const struct pl_books *books)
{
    stats->borrowed = books->borrowed;
    stats->reused = books->reused;
    stats->opened = books->opened;
    memcpy(stats->closed, books->closed, sizeof(stats->closed));
    stats->evicted = books->closed[POOL_CLOSE_EVICTED];
    stats->stolen = books->stolen;
    stats->borrow_failed = books->borrow_failed;
    stats->timeouts = books->timeouts;
    stats->retries = books->retries;
    stats->bytes_in = books->bytes_in;
    stats->bytes_out = books->bytes_out;
    stats->queries = books->queries;
    stats->late_replies = books->late_replies;
    stats->orphans = books->orphans;
}

enum pool_status pool_stats(struct pool *pool, struct pool_stats *told)
{
    struct pool_stats stats = { 0 };
    enum pool_status status;

    if (!pool || !told || told->size < sizeof(size_t) || told->size > LARGEST)
        return POOL_E_ARGUMENT;
    status = pl_pool_enter(pool);
    if (status)
        return status;
    pthread_mutex_lock(&pool->lock);
    add_books(&stats, &pool->books);
    PL_LIST_EACH(link, &pool->all_peers)
        add_peer(&stats, pl_container(link, struct pl_peer, pool_link));
    pthread_mutex_unlock(&pool->lock);
    stats.total = stats.idle + stats.lent + stats.shared + stats.opening + stats.closing;
    stats.wakeups = pl_get(pool->mux->wakeups);
    stats.size = told->size;
    memcpy(told, &stats, told->size < sizeof(stats) ? told->size : sizeof(stats));
    pl_pool_leave(pool);
    return POOL_OK;
}
