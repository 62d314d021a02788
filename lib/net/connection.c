/* connection.c: slots, and the identity of their sockets. */
#include "net/connection.h"

#include <errno.h>
#include <string.h>

#include "base/os.h"
#include "net/tls.h"

#define FD_CHUNK 1024u
#define FD_CHUNKS 4096u /* descriptors up to four million are looked up here */

/* The number that the child's copy of a descriptor has, kept so that no call takes it for a
 * descriptor. It is its own inverse. */
#define PARENTS(fd) (-2 - (fd))

static struct pl_arena connections = PL_ARENA_INIT(connections, struct pl_connection, NULL);
static pthread_mutex_t births = PTHREAD_MUTEX_INITIALIZER; /* of sockets; whole at a fork */

/* For each descriptor number, the slot whose socket it is, plus one. Entries are hints: who follows
 * one compares. */
static _Atomic(_Atomic uint32_t *) fd_chunks[FD_CHUNKS];

/* What somebody who comes too late may be looking at; the peer stays what it was until the slot has
 * another. */
static void clear_looked_at(struct pl_connection *connection)
{
    pl_set(connection->last_used_ns, 0);
    pl_set(connection->expires_ns, 0);
    pl_set(connection->uses, 0);
    pl_set(connection->max_uses, 0);
    pl_set(connection->failure, 0);
    pl_set(connection->doom, PL_DOOM_NONE);
    pl_set(connection->epoch, 0);
    pl_set(connection->leaves_for, 0);
    pl_set(connection->lease.holder, 0);
    pl_set(connection->lease.flags, 0);
    pl_set(connection->lease.marks, 0);
    pl_set(connection->cookie, 0);
}

struct pl_connection *pl_connection_take(void)
{
    struct pl_connection *connection = pl_arena_take(&connections);

    if (!connection)
        return NULL;
    clear_looked_at(connection);
    connection->lease.start_ns = connection->lease.lent_ns = 0;
    connection->lease.timeout_ms = 0;
    pl_set(connection->lease.deadline_ns, 0);
    pl_set(connection->user, NULL);
    connection->free_user = NULL;
    connection->address = NULL;
    memset((char *)connection + offsetof(struct pl_connection, mux), 0,
           sizeof(*connection) - offsetof(struct pl_connection, mux));
    atomic_fetch_add(&connection->birth, 1);
    connection->fd = -1;
    connection->next_key = 1;
    pl_set(connection->each_ms, POOL_NONE);
    pl_word_move(&connection->word, pl_word_handed(atomic_load(&connection->word), PL_OPENING));
    return connection;
}

void pl_connection_give(struct pl_connection *connection)
{
    uint64_t word = atomic_load(&connection->word);

    pl_assert(!(word & (PL_LISTED | PL_PIN_MASK)));
    pl_os->free(connection->note);
    connection->note = NULL;
    pl_word_move(&connection->word, pl_word_handed(word, PL_FREE));
    if (!pl_word_is_used_up(word))
        pl_arena_give(&connections, connection);
}

struct pl_connection *pl_connection_at(uint32_t index)
{
    return pl_arena_at(&connections, index);
}

void pl_connection_library_end(void)
{
    for (size_t i = 0; i < FD_CHUNKS; i++) {
        _Atomic uint32_t *chunk = atomic_exchange(&fd_chunks[i], NULL);

        if (chunk)
            pl_os->unmap((void *)(uintptr_t)chunk, FD_CHUNK * sizeof(*chunk));
    }
    pl_arena_release(&connections);
}

void pl_connection_lose_socket(struct pl_connection *connection)
{
    connection->fd = -1;
    pl_set(connection->cookie, 0);
}

static int open_socket(struct pl_connection *connection, int family)
{
    int fd = pl_os->socket(family, SOCK_STREAM | SOCK_NONBLOCK, 0), error;
    uint32_t stolen = PL_DOOM_STOLEN;

    if (fd < 0)
        return -fd;
    connection->fd = fd;
    atomic_compare_exchange_strong(&connection->doom, &stolen, PL_DOOM_NONE); /* an earlier one */
    error = -pl_connection_remember(connection);
    if (!error && !pl_fd_table_set(fd, connection))
        error = ENOMEM;
    if (error) {
        pl_os->close(fd); /* without these nothing could prove later that it is ours, or is not */
        pl_connection_lose_socket(connection);
    }
    return error;
}

int pl_connection_open_socket(struct pl_connection *connection, int family)
{
    int error;

    pthread_mutex_lock(&births);
    error = open_socket(connection, family);
    pthread_mutex_unlock(&births);
    return error;
}

int pl_connection_remember(struct pl_connection *connection)
{
    uint64_t cookie = 0;
    socklen_t size = sizeof(cookie);
    int error = pl_os->getsockopt(connection->fd, SOL_SOCKET, SO_COOKIE, &cookie, &size);

    pl_set(connection->cookie, cookie);
    return error;
}

static void unwatch_ours(const struct pl_connection *connection, struct pool_mux *mux)
{
    struct epoll_event none = { 0 };

    pl_os->epoll_ctl(mux->epoll_fd, EPOLL_CTL_DEL, connection->fd, &none);
}

void pl_connection_unwatch(struct pl_connection *connection, struct pool_mux *mux)
{
    if (pl_connection_is_ours(connection))
        unwatch_ours(connection, mux);
    connection->mux = NULL;
}

/* Is the number still our socket? What the program says of it does not count. */
static bool has_its_socket(const struct pl_connection *connection)
{
    uint64_t cookie;
    socklen_t size = sizeof(cookie);

    return pl_os->getsockopt(connection->fd, SOL_SOCKET, SO_COOKIE, &cookie, &size) == 0 &&
           cookie == pl_get(connection->cookie);
}

/* The program is believed when it says that the number is not ours. But of one that another had
 * before it may have meant that other, and nobody else would ever close it. */
static bool is_left_open(const struct pl_connection *connection)
{
    return atomic_load(&connection->doom) == PL_DOOM_STOLEN && !connection->robbed;
}

/* The program may have made its socket linger: then the kernel lets its closing wait for the peer's
 * acknowledgement, whoever calls and whatever lock is held, though the socket does not block. What
 * was sent leaves all the same. Lingering for no time (a reset) waits for nothing, and stays. */
static void stop_lingering(const struct pl_connection *connection)
{
    struct linger linger = { 0 };
    socklen_t size = sizeof(linger);

    if (!pl_get(connection->is_shown) ||
        pl_os->getsockopt(connection->fd, SOL_SOCKET, SO_LINGER, &linger, &size) ||
        !linger.l_onoff || !linger.l_linger)
        return;
    linger.l_onoff = 0;
    (void)pl_os->setsockopt(connection->fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger));
}

void pl_connection_close_fd(struct pl_connection *connection, struct pool_mux *mux)
{
    if (connection->fd < 0)
        return;
    pl_fd_table_clear(connection->fd, connection);
    if (!is_left_open(connection) && has_its_socket(connection)) {
        if (mux)
            unwatch_ours(connection, mux);
        if (connection->tls && atomic_load(&connection->doom) != PL_DOOM_STOLEN)
            pl_tls_shutdown(connection->tls, connection->fd);
        if (!is_left_open(connection)) { /* it may be said meanwhile */
            stop_lingering(connection);
            pl_os->close(connection->fd);
        }
    }
    pl_connection_lose_socket(connection);
    pl_tls_free(connection->tls);
    connection->tls = NULL;
}

PL_COLD enum pl_health pl_connection_peek_secured(const struct pl_connection *connection)
{
    switch (pl_tls_peek(connection->tls, connection->fd)) {
    case PL_TLS_QUIET:
        return PL_HEALTHY;
    case PL_TLS_HALF:
        return PL_HALF_DATA;
    case PL_TLS_DATA:
        return PL_UNASKED_DATA;
    case PL_TLS_ENDED:
        break;
    }
    return PL_ENDED;
}

void pl_connection_shut(struct pl_connection *connection)
{
    if (atomic_load(&connection->doom) != PL_DOOM_STOLEN && pl_connection_is_ours(connection))
        pl_os->shutdown(connection->fd, SHUT_RDWR);
}

static _Atomic uint32_t *fd_entry(int fd, bool make)
{
    unsigned chunk_index = (unsigned)fd / FD_CHUNK;
    _Atomic uint32_t *chunk, *other = NULL;

    if (fd < 0 || chunk_index >= FD_CHUNKS)
        return NULL;
    chunk = atomic_load(&fd_chunks[chunk_index]);
    if (!chunk && make) {
        chunk = pl_os->map(FD_CHUNK * sizeof(*chunk));
        if (!chunk)
            return NULL;
        if (!atomic_compare_exchange_strong(&fd_chunks[chunk_index], &other, chunk)) {
            pl_os->unmap((void *)(uintptr_t)chunk, FD_CHUNK * sizeof(*chunk));
            chunk = other;
        }
    }
    return chunk ? &chunk[(unsigned)fd % FD_CHUNK] : NULL;
}

void pl_connection_move_socket(struct pl_connection *to, struct pl_connection *from)
{
    uint32_t index = from->node.index + 1, stolen = PL_DOOM_STOLEN;
    _Atomic uint32_t *entry;

    pthread_mutex_lock(&births);
    atomic_compare_exchange_strong(&to->doom, &stolen, PL_DOOM_NONE); /* an earlier socket was */
    to->fd = from->fd;
    pl_set(to->cookie, pl_get(from->cookie));
    entry = fd_entry(to->fd, false);
    if (entry && !atomic_compare_exchange_strong(entry, &index, to->node.index + 1))
        pl_connection_doom(to, PL_DOOM_STOLEN); /* `from` had lost the number */
    pl_connection_lose_socket(from);
    if (from->robbed)
        to->robbed = from->robbed;
    to->next_key = from->next_key;
    to->tls = from->tls;
    pl_set(to->secured_by, pl_get(from->secured_by));
    from->tls = NULL;
    pthread_mutex_unlock(&births);
}

/* Was the number not given to a later connection of ours? That one may be watched by the same mux:
 * a MOD would be answered as if it were us, and take over its watch. */
static bool is_last_of_its_number(const struct pl_connection *connection)
{
    const _Atomic uint32_t *entry = fd_entry(connection->fd, false);

    return entry ? atomic_load(entry) == connection->node.index + 1
                 : pl_connection_is_ours(connection);
}

bool pl_connection_arm(struct pl_connection *connection, struct pool_mux *mux, uint32_t events)
{
    struct epoll_event event = {
        .events = events | EPOLLONESHOT,
        .data = { .u64 = pl_mux_data(PL_WATCH_CONNECTION, connection->node.index,
                                     pl_get(connection->birth)) },
    };

    return is_last_of_its_number(connection) &&
           pl_os->epoll_ctl(mux->epoll_fd, EPOLL_CTL_MOD, connection->fd, &event) == 0;
}

/* ---- fork */

void pl_connection_hold(void)
{
    pl_arena_hold(&connections);
    pthread_mutex_lock(&births);
}

void pl_connection_let_go(void)
{
    pthread_mutex_unlock(&births);
    pl_arena_let_go(&connections);
}

static void clear_entry(int fd, const struct pl_connection *connection)
{
    _Atomic uint32_t *entry = fd_entry(fd, false);
    uint32_t index = connection->node.index + 1;

    if (entry)
        atomic_compare_exchange_strong(entry, &index, 0);
}

/* A handle that was good keeps its serial, so that it is known again. */
static void orphan(void *slot, void *unused)
{
    struct pl_connection *connection = slot;
    uint64_t seen = atomic_load(&connection->word);

    (void)unused;
    if (pl_word_state(seen) == PL_FREE || pl_word_state(seen) == PL_FORKED)
        return;
    pl_word_move(&connection->word, pl_word_is_held(seen) ? pl_word_with(seen, PL_FORKED)
                                                          : pl_word_handed(seen, PL_FORKED));
    if (connection->fd >= 0) {
        clear_entry(connection->fd, connection);
        connection->fd = pl_get(connection->doom) == PL_DOOM_STOLEN ? -1 : PARENTS(connection->fd);
    }
    pl_set(connection->doom, PL_DOOM_FORKED);
}

void pl_connection_orphan(void)
{
    pl_arena_visit(&connections, orphan, NULL);
}

void pl_connection_close_copy(struct pl_connection *connection)
{
    pthread_mutex_lock(&births);
    if (pl_word_state(atomic_load(&connection->word)) == PL_FORKED && connection->fd < -1) {
        connection->fd = PARENTS(connection->fd);
        if (pl_connection_is_ours(connection))
            pl_os->close(connection->fd);
        connection->fd = -1;
    }
    pthread_mutex_unlock(&births);
}

void pl_connection_visit(void (*visit)(void *connection, void *argument), void *argument)
{
    pl_arena_hold(&connections);
    pl_arena_visit(&connections, visit, argument);
    pl_arena_let_go(&connections);
}

enum pool_status pl_connection_refusal(const struct pool_conn *conn)
{
    struct pl_connection *connection = conn ? pl_connection_of(conn->slot) : NULL;
    uint64_t word = connection ? atomic_load(&connection->word) : 0;

    return connection && pl_word_state(word) == PL_FORKED && pl_word_serial(word) == conn->serial
               ? POOL_E_FORKED
               : POOL_E_ARGUMENT;
}

/* ---- the table of numbers */

bool pl_fd_table_set(int fd, struct pl_connection *connection)
{
    _Atomic uint32_t *entry = fd_entry(fd, true);
    struct pl_connection *earlier;
    uint32_t index;

    if (!entry)
        return (unsigned)fd / FD_CHUNK >= FD_CHUNKS; /* one beyond is noticed at its next use */
    index = atomic_exchange(entry, connection->node.index + 1);
    earlier = index ? pl_connection_at(index - 1) : NULL;
    if (!earlier || earlier == connection || earlier->fd != fd)
        return true;
    pl_connection_doom(earlier, PL_DOOM_STOLEN);
    connection->robbed = index;
    return true;
}

void pl_fd_table_clear(int fd, const struct pl_connection *connection)
{
    pthread_mutex_lock(&births);        /* whoever is in the table has not ended */
    clear_entry(fd, connection);
    pthread_mutex_unlock(&births);
}

struct pl_connection *pl_fd_table_get(int fd)
{
    _Atomic uint32_t *entry = fd_entry(fd, false);
    uint32_t index = entry ? atomic_load(entry) : 0;

    return index ? pl_connection_at(index - 1) : NULL;
}

/* ---- sockets of the program */

struct search {
    const struct pl_connection *except;
    uint64_t cookie;
    bool has_found;
};

/* A child's copy of what its parent had counts, too, also when it is closed. */
static void compare(void *slot, void *argument)
{
    const struct pl_connection *connection = slot;
    struct search *search = argument;

    if (connection != search->except && pl_get(connection->cookie) == search->cookie)
        search->has_found = true;
}

/* The number alone would not tell: one socket may have several (dup(2)). The arena is held. */
static bool is_a_connection_already(const struct pl_connection *connection)
{
    struct search search = { .except = connection, .cookie = pl_get(connection->cookie) };

    pl_arena_visit(&connections, compare, &search);
    return search.has_found;
}

/* Its cookie is known. */
static enum pool_status claim_number(int fd, struct pl_connection *connection)
{
    if (is_a_connection_already(connection))
        return POOL_E_ARGUMENT;
    return pl_fd_table_set(fd, connection) ? POOL_OK : POOL_E_MEMORY;
}

static enum pool_status take_socket(struct pl_connection *connection, int fd)
{
    enum pool_status status = POOL_E_ARGUMENT;

    connection->fd = fd;
    if (!pl_connection_remember(connection))
        status = claim_number(fd, connection);
    if (status)
        pl_connection_lose_socket(connection);
    return status;
}

enum pool_status pl_connection_take_socket(struct pl_connection *connection, int fd)
{
    enum pool_status status;

    pl_connection_hold();
    status = take_socket(connection, fd);
    pl_connection_let_go();
    return status;
}
