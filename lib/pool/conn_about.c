/* conn_about.c: questions about a connection, by its handle, what a program attaches to it, and the
 * word that it is not to be lent again. */
#include <string.h>

#include "base/os.h"
#include "net/socket_text.h"
#include "net/stream.h"
#include "pool/conn.h"

#define LARGEST 65536u /* no release's struct is that large: the size was never set */

uint64_t pool_conn_id(const struct pool_conn *conn)
{
    struct pl_connection *connection = pl_conn_enter(conn);
    uint64_t id;

    if (!connection)
        return 0;
    id = connection->id;
    pl_conn_leave(connection);
    return id;
}

int pool_conn_fd(const struct pool_conn *conn)
{
    struct pl_connection *connection = pl_conn_enter(conn);
    int fd;

    if (!connection)
        return -1;
    fd = connection->fd;
    pl_set(connection->is_shown, true);
    pl_conn_leave(connection);
    return fd;
}

const char *pool_conn_address(const struct pool_conn *conn)
{
    struct pl_connection *connection = pl_conn_enter(conn);
    const char *text;

    if (!connection)
        return NULL;
    text = pl_conn_text(connection);
    pl_conn_leave(connection);
    return text;
}

uint64_t pool_conn_last_used_ns(const struct pool_conn *conn)
{
    struct pl_connection *connection = pl_conn_enter(conn);
    uint64_t last_used_ns;

    if (!connection)
        return 0;
    last_used_ns = pl_get(connection->last_used_ns);
    pl_conn_leave(connection);
    return last_used_ns;
}

bool pool_conn_same(const struct pool_conn *a, const struct pool_conn *b)
{
    struct pl_connection *connection =
        a && b && a->slot == b->slot && a->serial == b->serial ? pl_conn_enter(a) : NULL;

    if (!connection)
        return false;
    pl_conn_leave(connection);
    return true;
}

enum pool_status pool_conn_error(const struct pool_conn *conn, struct pool_error *error)
{
    struct pl_connection *connection = error ? pl_conn_enter(conn) : NULL;
    struct pl_failure failure;

    if (!connection)
        return error ? pl_connection_refusal(conn) : POOL_E_ARGUMENT;
    failure = pl_stream_failure(connection);
    pl_failure_tell(&failure, NULL, pl_conn_text(connection), error);
    pl_conn_leave(connection);
    return POOL_OK;
}

void pool_conn_drain(struct pool_conn *conn)
{
    struct pl_connection *connection = pl_conn_enter(conn);

    if (!connection)
        return;
    pl_set(connection->expires_ns, 0);
    pl_conn_leave(connection);
}

/* ---- the program's own data */

void pool_conn_set_user(struct pool_conn *conn, void *user, void (*free_user)(void *user))
{
    struct pl_connection *connection = pl_conn_enter(conn);
    void (*free_old)(void *old);
    struct pl_peer *peer;
    void *old;

    if (!connection)
        return;
    peer = connection->peer;            /* and stays so while we pin */
    pthread_mutex_lock(&peer->lock);
    old = pl_get(connection->user);
    free_old = connection->free_user;
    pl_set(connection->user, user);
    connection->free_user = free_user;
    pthread_mutex_unlock(&peer->lock);
    pl_conn_leave(connection);
    if (free_old && old && old != user)
        free_old(old);
}

void *pool_conn_user(const struct pool_conn *conn)
{
    struct pl_connection *connection = pl_conn_enter(conn);
    void *user;

    if (!connection)
        return NULL;
    user = atomic_load_explicit(&connection->user, memory_order_acquire);
    pl_conn_leave(connection);
    return user;
}

/* ---- numbers and places */

enum pool_status pool_conn_count(const struct pool_conn *conn, struct pool_conn_counts *told)
{
    struct pool_conn_counts counts = { 0 };
    struct pl_connection *connection;

    if (!told || told->size < sizeof(size_t) || told->size > LARGEST)
        return POOL_E_ARGUMENT;
    connection = pl_conn_enter(conn);
    if (!connection)
        return pl_connection_refusal(conn);
    counts.size = told->size;
    counts.bytes_in = pl_get(connection->bytes_in);
    counts.bytes_out = pl_get(connection->bytes_out);
    counts.uses = pl_get(connection->uses);
    counts.opened_ns = connection->opened_ns;
    counts.last_used_ns = pl_get(connection->last_used_ns);
    pl_conn_leave(connection);
    memcpy(told, &counts, told->size < sizeof(counts) ? told->size : sizeof(counts));
    return POOL_OK;
}

typedef int name_fn(int fd, struct sockaddr *address, socklen_t *size);

/* One end's address as text. Somebody else's socket is not asked. */
static enum pool_status write_end(const struct pool_conn *conn, name_fn *name, char *text,
                                  size_t size)
{
    struct pl_connection *connection = text ? pl_conn_enter(conn) : NULL;
    enum pool_status status = POOL_E_BROKEN;
    struct sockaddr_storage address = { 0 };
    socklen_t length = sizeof(address);

    if (!connection)
        return text ? pl_connection_refusal(conn) : POOL_E_ARGUMENT;
    if (atomic_load(&connection->doom) != PL_DOOM_STOLEN && pl_connection_is_ours(connection) &&
        name(connection->fd, (struct sockaddr *)&address, &length) == 0)
        status = pl_socket_text(&address, length, text, size) ? POOL_OK : POOL_E_ARGUMENT;
    pl_conn_leave(connection);
    return status;
}

enum pool_status pool_conn_local(const struct pool_conn *conn, char *text, size_t size)
{
    return write_end(conn, pl_os->getsockname, text, size);
}

enum pool_status pool_conn_remote(const struct pool_conn *conn, char *text, size_t size)
{
    return write_end(conn, pl_os->getpeername, text, size);
}
