/* verbs.c: what tests of the pool do again and again. See verbs.h. */
#include "support/verbs.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "net/connection.h"
#include "support/tests.h"

struct wanted_stat {
    struct pool *pool;
    size_t offset;
    uint64_t value;
};

enum { OWN = 4096 };

static atomic_uint places;
static int own[OWN];
static unsigned own_count;

struct pool *make_pool(const struct pool_options *options)
{
    struct pool *pool = NULL;
    enum pool_status status = pool_create(options, &pool);

    if (status)
        fprintf(stderr, "pool_create: %s\n", pool_status_name(status));
    return status ? NULL : pool;
}

int echo(struct pool_conn *conn, const char *text)
{
    char back[4096];
    size_t size = strlen(text);

    if (size > sizeof(back) || pool_send(conn, text, size) || pool_recv_exact(conn, back, size))
        return -1;
    return memcmp(back, text, size) ? -1 : 0;
}

int use_echo(struct pool_conn *conn, void *text)
{
    return echo(conn, text);
}

int do_nothing(struct pool_conn *conn, void *user)
{
    (void)conn;
    (void)user;
    return 0;
}

enum pool_status talk(struct pool *pool, const char *address)
{
    char text[] = "ping";

    return pool_communicate(pool, address, use_echo, text, POOL_CALL(.timeout_ms = VERBS_SOON));
}

bool borrow(struct pool *pool, const char *address, struct pool_conn *conn)
{
    struct pool_error error = POOL_ERROR_INIT;
    enum pool_status status =
        pool_borrow(pool, address, POOL_CALL(.timeout_ms = VERBS_SOON, .error = &error), conn);

    if (status)
        fprintf(stderr, "pool_borrow: %s: %s\n", pool_status_name(status), error.text);
    return status == POOL_OK;
}

uint64_t id_of_next(struct pool *pool, const char *address)
{
    struct pool_conn conn;
    uint64_t id;

    if (!borrow(pool, address, &conn))
        return 0;
    id = pool_conn_id(&conn);
    if (echo(&conn, "ping")) {
        pool_discard(&conn);
        return 0;
    }
    return pool_return(&conn) ? 0 : id;
}

uint64_t stat_at(struct pool *pool, size_t offset)
{
    struct pool_stats stats = { .size = sizeof(stats) };
    uint64_t value = UINT64_MAX;

    if (pool_stats(pool, &stats) == POOL_OK)
        memcpy(&value, (const char *)&stats + offset, sizeof(value));
    return value;
}

static bool has_stat(void *argument)
{
    struct wanted_stat *wanted = argument;

    return stat_at(wanted->pool, wanted->offset) == wanted->value;
}

bool wait_stat(struct pool *pool, size_t offset, uint64_t value)
{
    struct wanted_stat wanted = { .pool = pool, .offset = offset, .value = value };

    if (wait_until(has_stat, &wanted, VERBS_SOON))
        return true;
    fprintf(stderr, "it stayed %llu, not %llu\n", (unsigned long long)stat_at(pool, offset),
            (unsigned long long)value);
    return false;
}

/* Does this epoll set watch `fd` for reading? Its fdinfo has a line for each: tfd, events. */
static bool is_armed_in(const char *path, int fd)
{
    FILE *file = fopen(path, "r");
    char line[256];
    int watched;
    unsigned events;
    bool is_armed = false;

    if (!file)
        return false;
    while (fgets(line, sizeof(line), file))
        if (sscanf(line, "tfd: %d events: %x", &watched, &events) == 2 && watched == fd)
            is_armed = is_armed || (events & 1);
    fclose(file);
    return is_armed;
}

bool is_watched(int fd)
{
    DIR *directory = opendir("/proc/self/fdinfo");
    struct dirent *entry;
    char path[300];
    bool found = false;

    if (!directory)
        return false;
    while (!found && (entry = readdir(directory))) {
        snprintf(path, sizeof(path), "/proc/self/fdinfo/%s", entry->d_name);
        found = entry->d_name[0] != '.' && is_armed_in(path, fd);
    }
    closedir(directory);
    return found;
}

/* Watched alone does not do: it is that before the mux has let go of it. */
static bool is_parked(void *argument)
{
    const int *fd = argument;
    struct pl_connection *connection = pl_fd_table_get(*fd);

    return connection && pl_word_state(atomic_load(&connection->word)) == PL_PARKED &&
           is_watched(*fd);
}

bool wait_parked(int fd)
{
    return wait_until(is_parked, &fd, VERBS_SOON);
}

int leave_parked(struct pool *pool, const char *address)
{
    struct pool_conn conn;
    int fd;

    if (!borrow(pool, address, &conn))
        return -1;
    fd = pool_conn_fd(&conn);
    return !pool_return(&conn) && wait_parked(fd) ? fd : -1;
}

const char *loopback_at(const struct peer *peer, unsigned number)
{
    static _Thread_local char texts[4][64];
    static _Thread_local unsigned next;
    char *text = texts[next++ % 4];

    snprintf(text, sizeof(texts[0]), "tcp://127.%u.%u.1:%d", 1 + number / 200, 1 + number % 200,
             peer_port(peer));
    return text;
}

void fill_descriptors_but(unsigned free_ones)
{
    int fd;

    while (own_count < OWN && (fd = fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3)) >= 0)
        own[own_count++] = fd;
    free_descriptors(free_ones);
}

void free_descriptors(unsigned count)
{
    while (count-- && own_count)
        close(own[--own_count]);
}

static void *run_caller(void *argument)
{
    struct caller *caller = argument;
    uint64_t start_ms = now_ms();

    caller->status = pool_borrow(caller->pool, caller->address, &caller->call, &caller->conn);
    caller->took_ms = elapsed_ms(start_ms);
    caller->place = atomic_fetch_add(&places, 1) + 1;
    atomic_store(&caller->is_back, true);
    return NULL;
}

bool start_caller_with(struct caller *caller, struct pool *pool, const char *address,
                       const struct pool_call *call)
{
    *caller = (struct caller){ .pool = pool, .address = address, .call = *call };
    caller->error.size = sizeof(caller->error);
    caller->call.error = &caller->error;
    return pthread_create(&caller->thread, NULL, run_caller, caller) == 0;
}

bool start_caller(struct caller *caller, struct pool *pool, const char *address,
                  uint32_t timeout_ms)
{
    return start_caller_with(caller, pool, address, POOL_CALL(.timeout_ms = timeout_ms));
}

enum pool_status join_caller(struct caller *caller)
{
    pthread_join(caller->thread, NULL);
    return caller->status;
}

static bool is_back(void *argument)
{
    struct caller *caller = argument;

    return atomic_load(&caller->is_back);
}

bool wait_back(struct caller *caller)
{
    return wait_until(is_back, caller, VERBS_SOON);
}

bool queue_caller(struct caller *caller, struct pool *pool, const char *address,
                  uint32_t timeout_ms)
{
    uint64_t waiting = STAT(pool, waiting);

    return start_caller(caller, pool, address, timeout_ms) && WAIT_STAT(pool, waiting, waiting + 1);
}
