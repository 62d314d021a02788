/* fork.c: see fork.h. Before a fork the forking thread takes the few locks of the whole process, so
 * that the child finds their lists whole; the child then marks what is the parent's, in memory
 * only. What the parent has on its heap stays there in the child, unused and for ever. Muxes have
 * handlers of their own (muxes.h), since they may be there without a pool; they run first in the
 * child.
 */
#include "pool/fork.h"

#include <pthread.h>

#include "mux/muxes.h"
#include "net/resolver.h"
#include "net/tls_gate.h"
#include "net/tls_settings.h"
#include "pool/exchange.h"
#include "pool/line.h"
#include "pool/pool.h"

static pthread_once_t once = PTHREAD_ONCE_INIT;
static bool is_noticing;

static void before_fork(void)
{
    pl_pools_hold();
    pl_peers_hold();
    pl_exchanges_hold();
    pl_lines_hold();
    pl_connection_hold();
    pl_resolver_hold();
    pl_tls_settings_hold();
    pl_tls_gate_hold();
}

static void in_parent(void)
{
    pl_tls_gate_let_go();
    pl_tls_settings_let_go();
    pl_resolver_let_go();
    pl_connection_let_go();
    pl_lines_let_go();
    pl_exchanges_let_go();
    pl_peers_let_go();
    pl_pools_let_go();
}

static void in_child(void)
{
    pl_connection_orphan();
    pl_resolver_orphan();
    pl_peers_orphan();
    pl_exchanges_orphan();
    pl_pools_orphan();
    pl_tls_gate_orphan();
    atomic_store(&pl_room_wanted, 0);
    in_parent();
}

static void notice(void)
{
    is_noticing = pthread_atfork(before_fork, in_parent, in_child) == 0;
}

bool pl_fork_notice(void)
{
    if (!pl_muxes_notice_forks())
        return false;
    pthread_once(&once, notice);
    return is_noticing;
}

static void close_copy(void *slot, void *pool)
{
    struct pl_connection *connection = slot;
    const struct pl_peer *peer = connection->peer;

    if (peer && peer->pool == pool)
        pl_connection_close_copy(connection);
}

void pl_fork_destroy(struct pool *pool)
{
    pl_connection_visit(close_copy, pool);
}
