/* adopt.c: a connected socket of the program's becomes an idle connection of the pool.
 *
 * Until all that can fail has gone well, nothing is done to the descriptor that shows: a number
 * below 3 is copied first and closed last, flags are set last of all. The connection becomes known
 * to its peer as MUX, never as OPENING: nobody dials it.
 */
#include <errno.h>
#include <unistd.h>

#include "base/os.h"
#include "net/address.h"
#include "pool/events.h"
#include "pool/exchange.h"
#include "pool/identity.h"
#include "pool/open.h"
#include "pool/orders.h"
#include "pool/pool.h"
#include "pool/waiter.h"

static int option_of(int fd, int name)
{
    int value = -1;
    socklen_t size = sizeof(value);

    return pl_os->getsockopt(fd, SOL_SOCKET, name, &value, &size) ? -1 : value;
}

static bool is_of_kind(const struct pool_address *address, int family)
{
    if (address->scheme == PL_SCHEME_UNIX || address->scheme == PL_SCHEME_ABSTRACT)
        return family == AF_UNIX;
    return (family == AF_INET && address->family != 6) ||
           (family == AF_INET6 && address->family != 4);
}

/* Is it a connected stream socket of the address's kind? Looking changes nothing. */
static bool is_fit(const struct pool_address *address, int fd)
{
    struct sockaddr_storage there;
    socklen_t size = sizeof(there);

    return option_of(fd, SO_TYPE) == SOCK_STREAM && option_of(fd, SO_ACCEPTCONN) == 0 &&
           is_of_kind(address, option_of(fd, SO_DOMAIN)) &&
           pl_os->getpeername(fd, (struct sockaddr *)&there, &size) == 0;
}

/* ---- its number */

static int number_for(const struct pool *pool, int fd)
{
    int number = fd;

    if (fd > STDERR_FILENO)
        return fd;
    number = pl_os->copy_above_stdio(fd);
    if (number == -EMFILE && pl_room_evict(pool->room, NULL))
        number = pl_os->copy_above_stdio(fd);
    return number;
}

static void let_number_go(struct pl_connection *connection, int fd)
{
    pl_fd_table_clear(connection->fd, connection);
    if (connection->fd != fd)
        pl_os->close(connection->fd);
    pl_connection_lose_socket(connection);
}

static enum pool_status take_number(const struct pool *pool, struct pl_connection *connection,
                                    int fd)
{
    int number = number_for(pool, fd);
    enum pool_status status;

    if (number < 0)
        return pl_status_of_errno(-number, POOL_PHASE_NONE);
    status = pl_connection_take_socket(connection, number);
    if (status && number != fd)
        pl_os->close(number);
    return status;
}

/* ---- its place */

static enum pool_status may_join(const struct pl_peer *peer)
{
    if (atomic_load(&peer->hints) & PL_HINT_CLOSING)
        return POOL_E_CLOSING;
    return peer->shared.count < peer->pool->settings.options.max_per_address ? POOL_OK
                                                                             : POOL_E_FULL;
}

static void give_place_back(struct pl_peer *peer)
{
    pthread_mutex_lock(&peer->lock);
    peer->shared.count--;
    pthread_mutex_unlock(&peer->lock);
    pl_peer_supply(peer);               /* somebody may have been kept from opening one */
}

/* A share of all caps, counted as if it were there. */
static enum pool_status take_place(struct pl_peer *peer)
{
    enum pool_status status;
    bool is_reserved;

    if (!pl_peer_has_waiters(peer) && pl_peer_is_idle_full(peer))
        return POOL_E_FULL;
    pthread_mutex_lock(&peer->lock);
    status = may_join(peer);
    peer->shared.count += status == POOL_OK;
    pthread_mutex_unlock(&peer->lock);
    if (status || pl_open_take_share(peer->pool, &is_reserved))
        return status;
    give_place_back(peer);
    return POOL_E_FULL;
}

static void give_share_back(struct pool *pool)
{
    pl_pool_give_share(pool);
    if (atomic_load(&pl_room_wanted))
        pl_room_serve(pool->room, pool, false);
}

/* ---- its life */

static void be_born(struct pl_peer *peer, struct pl_connection *connection)
{
    struct pool *pool = peer->pool;
    uint64_t now_ns = pl_os->now_ns();

    pl_set(connection->peer, peer);
    connection->mux = pool->mux;
    connection->limits = pool->settings.limits;
    pl_set(connection->is_shown, true);
    connection->id = atomic_fetch_add(&pool->last_id, 1) + 1;
    connection->opened_ns = now_ns;
    pl_open_note_birth(connection, now_ns);
    pl_set(connection->is_prepared, true);
}

/* The last that can fail. */
static enum pool_status take_over(struct pl_connection *connection)
{
    struct pool_mux *mux = connection->mux;
    uint64_t data =
        pl_mux_data(PL_WATCH_CONNECTION, connection->node.index, pl_get(connection->birth));
    enum pool_status status = pl_mux_add(mux, connection->fd, EPOLLONESHOT, data);
    int error;

    if (status)
        return status;
    error = pl_os->make_own(connection->fd);
    if (error)
        pl_connection_unwatch(connection, mux);
    return pl_status_of_errno(-error, POOL_PHASE_NONE);
}

static void join(struct pl_peer *peer, struct pl_connection *connection)
{
    struct pool *pool = peer->pool;

    pl_pool_ref(pool);
    pl_word_move(&connection->word, pl_word_with(atomic_load(&connection->word), PL_MUX));
    pthread_mutex_lock(&peer->lock);
    connection->epoch = atomic_load(&peer->epoch);
    pl_list_push_back(&peer->shared.all, &connection->all_link);
    pthread_mutex_unlock(&peer->lock);
    pl_pool_count(pool, &pool->books.opened);
    pl_event_created(pool, connection);
    pl_event_ready(pool, connection);
    if (pool->settings.options.on_request)
        pl_exchange_serve(connection);
    else
        pl_peer_give_back(peer, connection);
}

static enum pool_status adopt(struct pl_peer *peer, int fd)
{
    struct pool *pool = peer->pool;
    struct pl_connection *connection;
    enum pool_status status;
    uint32_t robbed;

    if (!is_fit(peer->address, fd))
        return POOL_E_ARGUMENT;
    connection = pl_connection_take();
    if (!connection)
        return POOL_E_MEMORY;
    status = take_number(pool, connection, fd);
    if (status)
        goto no_number;
    status = take_place(peer);
    if (status)
        goto no_place;
    be_born(peer, connection);
    status = take_over(connection);
    if (status)
        goto not_ours;
    if (connection->fd != fd)
        pl_os->close(fd);
    robbed = connection->robbed;
    join(peer, connection);
    pl_identity_forget_robbed(pool, robbed);
    return POOL_OK;

not_ours:
    give_share_back(pool);
    give_place_back(peer);
no_place:
    let_number_go(connection, fd);
no_number:
    pl_word_move(&connection->word, pl_word_with(atomic_load(&connection->word), PL_CLOSING));
    pl_connection_give(connection);
    return status;
}

enum pool_status pool_adopt(struct pool *pool, const char *address, int fd)
{
    struct pl_peer *peer = NULL;
    enum pool_status status;

    if (!pool || !address || fd < 0)
        return POOL_E_ARGUMENT;
    status = pl_pool_enter(pool);
    if (status)
        return status;
    status = pl_orders_refusal(pool); /* when it pauses it opens nothing, but this is open */
    if (!status)
        status = pl_pool_find_peer(pool, address, &peer, NULL);
    if (!status && peer->address->scheme == PL_SCHEME_TLS)
        status = POOL_E_ADDRESS;        /* whoever asks for it must not get it in the clear */
    if (!status)
        status = adopt(peer, fd);
    if (peer)
        pl_peer_leave(peer);
    pl_events_tell(pool);
    pl_pool_leave(pool);
    return status;
}
