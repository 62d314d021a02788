/* secure.c: see secure.h. */
#include "pool/secure.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "base/os.h"
#include "commpool/conn.h"
#include "net/address.h"
#include "net/dialer.h"
#include "net/stream.h"
#include "net/tls.h"
#include "pool/channel.h"
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

/* Made when they are first needed; NULL: no memory. */
static struct pl_tls_sessions *sessions_of(struct pl_peer *peer)
{
    struct pl_tls_sessions *sessions;

    pthread_mutex_lock(&peer->lock);
    if (!peer->sessions)
        peer->sessions = pl_tls_sessions_create();
    sessions = peer->sessions;
    pthread_mutex_unlock(&peer->lock);
    return sessions;
}

bool pl_secure_dial(struct pl_peer *peer, struct pl_dial *dial)
{
    const struct pool_options *options = &peer->pool->settings.options;

    if (peer->address->scheme != PL_SCHEME_TLS || peer->address->starttls)
        return true;
    dial->sessions = sessions_of(peer);
    if (!dial->sessions)
        return false;
    dial->tls = pl_tls_settings_take(atomic_load(&peer->pool->tls));
    dial->tls_ns = options->tls_ms == POOL_NONE ? PL_NEVER : options->tls_ms * PL_MS;
    return true;
}

int pl_secure_make(struct pl_peer *peer, struct pl_tls **tls)
{
    struct pl_tls_sessions *sessions = sessions_of(peer);
    struct pl_tls_settings *settings;
    int error;

    *tls = NULL;
    if (!sessions)
        return -ENOMEM;
    settings = pl_tls_settings_take(atomic_load(&peer->pool->tls));
    error = pl_tls_create_for(settings, sessions, peer->address, tls);
    pl_tls_settings_release(settings);
    return error;
}

bool pl_secure_is_missing(const struct pl_connection *connection)
{
    return connection->peer->address->starttls && !connection->tls;
}

bool pl_secure_is_outdated(const struct pl_connection *connection)
{
    const struct pool_tls *tls = atomic_load(&connection->peer->pool->tls);

    return pl_get(connection->secured_by) != pl_tls_generation_now(tls);
}

/* ---- sessions outlive connections */

bool pl_secure_keeps(const struct pl_peer *peer)
{
    return peer->sessions && pl_tls_sessions_count(peer->sessions);
}

void pl_secure_note_loss(struct pl_peer *peer)
{
    uint64_t until_ns = pl_after(pl_os->now_ns(), KEEP_NS);

    if (!atomic_load(&peer->sessions))
        return;
    atomic_store(&peer->sessions_ns, until_ns);
    pl_tend_at(peer->pool->room, peer, until_ns);
}

uint64_t pl_secure_tend(struct pl_peer *peer, uint64_t now_ns)
{
    uint64_t until_ns;
    bool is_empty;

    if (!peer->sessions || !pl_tls_sessions_count(peer->sessions))
        return PL_NEVER;
    pthread_mutex_lock(&peer->lock);
    is_empty = !peer->shared.count;
    pthread_mutex_unlock(&peer->lock);
    if (!is_empty)
        return PL_NEVER;                /* the loss of the last one is noted */
    until_ns = atomic_load(&peer->sessions_ns);
    if (now_ns < until_ns)
        return until_ns;
    pl_tls_sessions_clear(peer->sessions);
    return PL_NEVER;
}

/* ---- STARTTLS, on a thread that may wait */

/* The peer must not have said anything that would be taken for secured: who sits in between could
 * have said it. */
static bool has_early_bytes(const struct pl_connection *connection)
{
    const struct pl_input *input = connection->input;

    return (input && input->start < input->end) ||
           pl_connection_peek(connection) == PL_UNASKED_DATA;
}

enum pool_status pl_secure_begin_clear(struct pl_connection *connection)
{
    struct pl_tls *tls, *none = NULL;
    int error;

    if (!connection->peer->address->starttls || connection->tls)
        return POOL_E_ARGUMENT;
    if (!pl_connection_is_ours(connection))
        return POOL_E_BROKEN;
    if (has_early_bytes(connection)) {
        pl_stream_fail_with(connection,
                            pl_failure_because(PL_REASON_EARLY, POOL_PHASE_TLS, 0));
        return POOL_E_TLS;
    }
    error = pl_secure_make(connection->peer, &tls);
    if (error) {
        pl_stream_fail_with(connection, pl_failure_of_errno(-error, POOL_PHASE_TLS));
        return POOL_E_MEMORY;
    }
    if (!atomic_compare_exchange_strong(&connection->tls, &none, tls)) {
        pl_tls_free(tls);               /* by a copy of the handle it was begun meanwhile */
        return POOL_E_ARGUMENT;
    }
    pl_set(connection->secured_by, pl_tls_generation(tls));
    if (pl_secure_is_outdated(connection)) {    /* a reload came by before it could know */
        pl_set(connection->leaves_for, POOL_CLOSE_STALE);
        pl_set(connection->expires_ns, 0);
    }
    return POOL_OK;
}

/* `prepare` does it, so the loan's deadline bounds it, and tls_ms. */
static enum pool_status start_and_wait(struct pl_connection *connection)
{
    uint32_t tls_ms = connection->peer->pool->settings.options.tls_ms;
    uint64_t now_ns = pl_os->now_ns(), until_ns = PL_NEVER;
    enum pool_status status = pl_secure_begin_clear(connection);

    if (status)
        return status;
    if (tls_ms != POOL_NONE)
        until_ns = pl_after(now_ns, tls_ms * PL_MS);
    status = pl_stream_secure(connection, until_ns);
    pl_set(connection->secured_us,
           (uint32_t)pl_earlier(pl_since(now_ns, pl_os->now_ns()) / 1000, UINT32_MAX));
    return status;
}

enum pool_status pool_conn_start_tls(struct pool_conn *conn)
{
    struct pl_connection *connection = pl_conn_enter(conn);
    enum pool_status status = POOL_E_ARGUMENT;
    enum pl_state state;

    if (!connection)
        return pl_connection_refusal(conn);
    state = pl_word_state(atomic_load(&connection->word));
    if (pl_connection_is_detached(connection))
        status = POOL_E_ARGUMENT;
    else if (state == PL_SETUP)
        status = pl_channel_start_tls(conn);
    else if (state == PL_LENT && !pl_get(connection->is_prepared))
        status = start_and_wait(connection);
    pl_conn_leave(connection);
    return status;
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
