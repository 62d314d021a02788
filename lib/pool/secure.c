/* secure.c: see secure.h. */
#include "pool/secure.h"

#include <string.h>

#include "base/os.h"
#include "commpool/conn.h"
#include "net/address.h"
#include "net/dialer.h"
#include "net/tls.h"
#include "pool/conn.h"
#include "pool/pool.h"
#include "pool/tend.h"

#define LARGEST 4096u /* no release's struct is that large: the size was never set */
#define KEEP_NS (300 * 1000 * PL_MS) /* for that long sessions outlive the last connection */

enum pool_status pl_secure_begin(struct pool *pool, struct pool_error *error)
{
    struct pool_tls *tls = atomic_load(&pool->tls), *none = NULL;
    enum pool_status status;

    if (tls)
        return POOL_OK;
    status = pool_tls_create(NULL, &tls, error);
    if (!status && !atomic_compare_exchange_strong(&pool->tls, &none, tls))
        pool_tls_free(tls);
    return status;
}

void pl_secure_end(struct pool *pool)
{
    pool_tls_free(atomic_exchange(&pool->tls, NULL));
}

bool pl_secure_dial(struct pl_peer *peer, struct pl_dial *dial)
{
    const struct pool_options *options = &peer->pool->settings.options;

    if (peer->address->scheme != PL_SCHEME_TLS || peer->address->starttls)
        return true;
    if (!peer->sessions)
        peer->sessions = pl_tls_sessions_create();
    if (!peer->sessions)
        return false;
    dial->tls = pl_tls_settings_take(atomic_load(&peer->pool->tls));
    dial->sessions = peer->sessions;
    dial->tls_ns = options->tls_ms == POOL_NONE ? PL_NEVER : options->tls_ms * PL_MS;
    return true;
}

bool pl_secure_is_outdated(const struct pl_connection *connection)
{
    const struct pool_tls *tls = atomic_load(&connection->peer->pool->tls);

    return pl_tls_generation(connection->tls) != pl_tls_generation_now(tls);
}

/* ---- sessions outlive connections */

bool pl_secure_keeps(const struct pl_peer *peer)
{
    return peer->sessions && pl_tls_sessions_count(peer->sessions);
}

void pl_secure_note_loss(struct pl_peer *peer)
{
    if (!peer->sessions)
        return;
    peer->sessions_ns = pl_after(pl_os->now_ns(), KEEP_NS);
    pl_tend_at(peer->pool->room, peer, peer->sessions_ns);
}

uint64_t pl_secure_tend(struct pl_peer *peer, uint64_t now_ns)
{
    bool is_empty;

    if (!peer->sessions || !pl_tls_sessions_count(peer->sessions))
        return PL_NEVER;
    pthread_mutex_lock(&peer->lock);
    is_empty = !peer->shared.count;
    pthread_mutex_unlock(&peer->lock);
    if (!is_empty)
        return PL_NEVER;                /* the loss of the last one is noted */
    if (now_ns < peer->sessions_ns)
        return peer->sessions_ns;
    pl_tls_sessions_clear(peer->sessions);
    return PL_NEVER;
}

/* ---- what programs ask */

enum pool_status pool_conn_tls(const struct pool_conn *conn, struct pool_tls_info *info)
{
    struct pool_tls_info told = { .size = sizeof(told) };
    struct pl_connection *connection;
    struct pl_tls_facts facts;
    size_t size = info ? info->size : 0;

    if (size < offsetof(struct pool_tls_info, version) || size > LARGEST)
        return POOL_E_ARGUMENT;
    connection = pl_conn_enter(conn);
    if (!connection)
        return pl_connection_refusal(conn);
    if (connection->tls && pl_tls_tell(connection->tls, &facts)) {
        told.secure = true;
        told.resumed = facts.is_resumed;
        told.version = facts.version;
        told.cipher = facts.cipher;
        told.alpn = facts.alpn;
        told.peer_name = facts.peer_name;
    }
    pl_conn_leave(connection);
    told.size = size;
    memcpy(info, &told, size < sizeof(told) ? size : sizeof(told));
    return POOL_OK;
}
