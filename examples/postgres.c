/* postgres.c: threads share a few sessions of PostgreSQL, which change from clear to TLS.
 *
 *     ./examples/run postgres 127.0.0.1:5432 [user [database]] [--ca FILE]
 *
 * It shows STARTTLS: starttls=1 in the address leaves it to `prepare` to ask the server for TLS in
 * the clear and to call pool_conn_start_tls() then; the session begins after that, and a server
 * that cannot prove who it is learns not even the user's name. Nobody is lent a connection that is
 * still in the clear. And it shows what keeps a session warm: `use` answers 0 only when the server
 * is ready for queries and no transaction is open.
 *
 * The server must let the user in without a password. FILE has the authorities to trust instead of
 * the system's. */
#include <commpool/pool.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "support/pg.h"

enum { THREADS = 8, QUERIES = 100, SESSIONS = 3 };

struct server {
    char address[256];
    const char *user, *database, *ca;
    struct pool *pool;
};

struct worker {
    const struct server *server;
    unsigned number, right;
    pthread_t thread;
};

/* Why the last session of this thread did not begin, where the server or `prepare` has a reason of
 * its own: `prepare` runs on the thread of the one who calls. */
static _Thread_local struct pg_answer refusal;

static int start_session(struct pool_conn *conn, void *user)
{
    const struct server *server = user;
    int tls = pg_ask_for_tls(conn);

    refusal = (struct pg_answer){ 0 };
    if (tls == 'N')
        refusal = (struct pg_answer){ 1, "the server does not speak TLS" };
    else if (tls != 'S' && tls >= 0)
        refusal = (struct pg_answer){ 1, "what it answered is not PostgreSQL's protocol" };
    if (tls != 'S' || pool_conn_start_tls(conn) != POOL_OK)
        return -1;
    return pg_begin(conn, server->user, server->database, &refusal);
}

static bool call(const struct server *server, pool_use_fn *use, void *user)
{
    struct pool_error error = POOL_ERROR_INIT;

    refusal = (struct pg_answer){ 0 };
    if (pool_communicate(server->pool, server->address, use, user, POOL_CALL(.error = &error)) ==
        POOL_OK)
        return true;
    fprintf(stderr, "postgres: %s\n", error.text);
    if (refusal.is_error)
        fprintf(stderr, "The reason: %s\n", refusal.text);
    if (error.status == POOL_E_TLS && error.phase == POOL_PHASE_TLS)
        fprintf(stderr, "Not even the user's name was sent to this peer.%s\n",
                server->ca ? ""
                           : " If its authority is one of your own, name the file of its "
                             "certificate: --ca FILE");
    return false;
}

static int show_server(struct pool_conn *conn, void *user)
{
    struct pool_tls_info info = { .size = sizeof(info) };
    struct pg_answer answer;
    int dirty = pg_query(conn, "show server_version", &answer);

    (void)user;
    if (dirty || answer.is_error || pool_conn_tls(conn, &info) != POOL_OK)
        return -1;
    printf("PostgreSQL %s, %s, %s, verified as %s\n", answer.text, info.version, info.cipher,
           info.peer_name ? info.peer_name : "nobody");
    return 0;
}

static int ask(struct pool_conn *conn, void *user)
{
    struct worker *worker = user;
    char query[64], expected[32];
    struct pg_answer answer;
    int dirty;

    snprintf(query, sizeof(query), "select %u + 1", worker->number);
    snprintf(expected, sizeof(expected), "%u", worker->number + 1);
    dirty = pg_query(conn, query, &answer);
    worker->right += !dirty && !answer.is_error && !strcmp(answer.text, expected);
    return dirty;
}

static void *work(void *user)
{
    struct worker *worker = user;

    for (int i = 0; i < QUERIES && call(worker->server, ask, worker); i++)
        worker->number++;
    return NULL;
}

static bool work_together(const struct server *server)
{
    struct pool_stats stats = { .size = sizeof(stats) };
    struct worker workers[THREADS];
    unsigned started = 0, right = 0;

    for (; started < THREADS; started++) {
        workers[started] = (struct worker){ .server = server, .number = started * 1000 };
        if (pthread_create(&workers[started].thread, NULL, work, &workers[started]))
            break;
    }
    while (started) {
        pthread_join(workers[--started].thread, NULL);
        right += workers[started].right;
    }
    pool_stats(server->pool, &stats);
    printf("%u of %d answers to %d threads are right, over %" PRIu64 " session%s\n", right,
           THREADS * QUERIES, THREADS, stats.opened, stats.opened == 1 ? "" : "s");
    return right == THREADS * QUERIES;
}

static int run(struct server *server)
{
    struct pool_error error = POOL_ERROR_INIT;
    struct pool_tls *tls = NULL;
    bool is_right;

    if (pool_tls_create(POOL_TLS_OPTIONS(.ca_file = server->ca), &tls, &error) != POOL_OK) {
        fprintf(stderr, "postgres: %s\n", error.text);
        return 2;
    }
    if (pool_create(POOL_OPTIONS(.tls = tls, .prepare = start_session, .user = server,
                                 .max_per_address = SESSIONS),
                    &server->pool) != POOL_OK) {
        pool_tls_free(tls);
        return 2;
    }
    is_right = call(server, show_server, NULL) && work_together(server);
    pool_destroy(server->pool);
    pool_tls_free(tls);
    return is_right ? 0 : 1;
}

int main(int argc, char **argv)
{
    const char *words[3] = { NULL, "postgres", NULL };
    struct server server = { .ca = NULL };
    int count = 0, size = -1;

    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--ca") && i + 1 < argc)
            server.ca = argv[++i];
        else if (argv[i][0] != '-' && count < 3)
            words[count++] = argv[i];
        else
            count = 4;
    }
    if (count > 0 && count < 4)
        size = snprintf(server.address, sizeof(server.address), "tls://%s?starttls=1", words[0]);
    if (size < 0 || size >= (int)sizeof(server.address)) {
        fprintf(stderr, "usage: ./examples/run postgres 127.0.0.1:5432 [user [database]] "
                        "[--ca FILE]\n");
        return 2;
    }
    server.user = words[1];
    server.database = words[2] ? words[2] : words[1];
    return run(&server);
}
