/* test_postgres.c: the pool on a real PostgreSQL, whose sessions begin in the clear and go on in
 * TLS: by `prepare` and by the hook, with a server that has no TLS, with somebody in the middle,
 * and when sessions end at the server. */
#include <criterion/criterion.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "support/asks.h"
#include "support/authority.h"
#include "support/servers.h"
#include "support/sql.h"
#include "support/tests.h"
#include "support/verbs.h"

static struct credential *authority, *good;
static struct pool_tls *tls;
static struct server *postgres;

static void begin(void)
{
    authority = CREDENTIAL(NULL, .common_name = "our authority", .is_authority = true);
    good = CREDENTIAL(authority, .names = "IP:127.0.0.1");
    cr_assert_eq(pool_tls_create(POOL_TLS_OPTIONS(.ca_pem = authority->certificate), &tls, NULL),
                 POOL_OK);
}

static void end(void)
{
    server_stop(postgres);
    pool_tls_free(tls);
    credential_free(good);
    credential_free(authority);
}

TestSuite(postgres, .init = begin, .fini = end, .timeout = 120);

static void serve(const struct credential *credential)
{
    postgres = postgres_start(credential);
    if (!postgres)
        cr_skip("%s", server_why_not());
}

/* The two ways to set a connection up. */
enum way { BY_PREPARE, BY_HOOK, WAYS };

static struct pool *pool_by(enum way way)
{
    return MAKE_POOL(.tls = tls, .max_per_address = 3,
                     .prepare = way == BY_PREPARE ? sql_prepare : NULL,
                     .on_new_connection = way == BY_HOOK ? sql_on_new_connection : NULL);
}

static int ask_pid(struct pool_conn *conn, void *pid)
{
    char answer[SQL_TEXT];
    int dirty = sql_ask(conn, answer, "select pg_backend_pid()");

    *(int *)pid = atoi(answer);
    return dirty;
}

/* Who serves the next call; 0, and *error, when nobody does. */
static int next_pid(struct pool *pool, const char *address, struct pool_error *error)
{
    int pid = 0;

    *error = (struct pool_error)POOL_ERROR_INIT;
    return pool_communicate(pool, address, ask_pid, &pid, POOL_CALL(.error = error)) ? 0 : pid;
}

/* ---- sessions */

struct crowd {
    struct pool *pool;
    unsigned rounds;
    atomic_uint failures;
};

static int ask_sum(struct pool_conn *conn, void *user)
{
    unsigned number = *(unsigned *)user;
    struct pool_tls_info info = { .size = sizeof(info) };
    char answer[SQL_TEXT], expected[SQL_TEXT];

    if (pool_conn_tls(conn, &info) || !info.secure || strcmp(info.peer_name, "127.0.0.1"))
        return -1;
    snprintf(expected, sizeof(expected), "%u t", number + 1);
    if (sql_ask(conn, answer, "select %u + 1, ssl from pg_stat_ssl where pid = pg_backend_pid()",
                number))
        return -1;
    return strcmp(answer, expected);
}

static void ask_much(unsigned index, void *argument)
{
    struct crowd *crowd = argument;
    struct pool_error error = POOL_ERROR_INIT;
    unsigned number;

    for (unsigned i = 0; i < crowd->rounds; i++) {
        number = index * 100000 + i;
        if (pool_communicate(crowd->pool, server_address(postgres), ask_sum, &number,
                             POOL_CALL(.error = &error))) {
            fprintf(stderr, "%s\n", error.text);
            atomic_fetch_add(&crowd->failures, 1);
        }
    }
}

Test(postgres, threads_share_sessions_that_begin_in_the_clear)
{
    struct crowd crowd = { .rounds = 300 / slowness() + 1 };

    serve(good);
    for (enum way way = 0; way < WAYS; way++) {
        crowd.pool = pool_by(way);
        cr_assert(run_threads(8, ask_much, &crowd));
        cr_expect_eq(crowd.failures, 0);
        cr_expect_leq(STAT(crowd.pool, opened), 3);
        pool_destroy(crowd.pool);
    }
}

static int leave_open(struct pool_conn *conn, void *pid)
{
    char answer[SQL_TEXT];

    if (ask_pid(conn, pid))
        return -1;
    cr_expect_eq(sql_ask(conn, answer, "begin"), 1);
    return sql_ask(conn, answer, "select 1");
}

static int fail_clean(struct pool_conn *conn, void *pid)
{
    char answer[SQL_TEXT];

    if (ask_pid(conn, pid) || sql_ask(conn, answer, "select nonsense"))
        return -1;
    cr_expect(strstr(answer, "-column \"nonsense\""), "%s", answer);
    return 0;
}

Test(postgres, a_session_in_a_transaction_is_not_lent_again_and_one_after_an_error_is)
{
    struct pool_error error;
    struct pool *pool;
    int pids[2];

    serve(good);
    for (enum way way = 0; way < WAYS; way++) {
        pool = pool_by(way);
        cr_expect_eq(pool_communicate(pool, server_address(postgres), leave_open, &pids[0], NULL),
                     POOL_E_USER);
        cr_expect_eq(pool_communicate(pool, server_address(postgres), fail_clean, &pids[1], NULL),
                     POOL_OK);
        cr_expect_neq(pids[0], pids[1]);
        cr_expect_eq(next_pid(pool, server_address(postgres), &error), pids[1], "%s", error.text);
        pool_destroy(pool);
    }
}

/* An asynchronous loan: one query, event by event. */
struct talk {
    struct ask ask;
    size_t size;
    char bytes[512];
    atomic_bool is_over;
};

static bool ends_with_ready(const struct talk *talk)
{
    static const char ready[] = { 'Z', 0, 0, 0, 5, 'I' };

    return talk->size > sizeof(ready) &&
           memcmp(talk->bytes + talk->size - sizeof(ready), ready, sizeof(ready)) == 0;
}

static void on_answer(struct pool_conn *conn, enum pool_event event, struct pool_bytes bytes,
                      void *user)
{
    struct talk *talk = user;
    bool is_last = event == POOL_EV_ERROR || event == POOL_EV_CLOSED;

    if (event == POOL_EV_READ && bytes.size <= sizeof(talk->bytes) - talk->size) {
        memcpy(talk->bytes + talk->size, bytes.data, bytes.size);
        talk->size += bytes.size;
    }
    if (!is_last && !ends_with_ready(talk))
        return;
    pool_return(conn);
    atomic_store(&talk->is_over, true);
}

static void begin_talk(struct ask *ask)
{
    static const char query[] = "Q\0\0\0\x0dselect 7";
    struct talk *talk = ask->user;

    if (ask->status || pool_conn_watch(&ask->conn, on_answer, talk) ||
        pool_write(&ask->conn, query, sizeof(query)))
        atomic_store(&talk->is_over, true);
}

static bool is_over(void *argument)
{
    return atomic_load(&((struct talk *)argument)->is_over);
}

Test(postgres, asynchronous_loans_talk_in_sessions_that_were_begun_for_them)
{
    static const char row[] = "D\0\0\0\x0b\0\1\0\0\0\1\x37";
    struct talk talks[12];
    struct pool *pool;

    serve(good);
    for (enum way way = 0; way < WAYS; way++) {
        pool = pool_by(way);
        memset(talks, 0, sizeof(talks));
        for (int i = 0; i < 12; i++) {
            talks[i].ask = (struct ask){ .is_kept = true, .then = begin_talk, .user = &talks[i] };
            cr_assert_eq(start_ask(&talks[i].ask, pool, server_address(postgres), NULL), POOL_OK);
        }
        for (int i = 0; i < 12; i++) {
            cr_assert(wait_until(is_over, &talks[i], VERBS_SOON));
            cr_expect_eq(talks[i].ask.status, POOL_OK, "%s", talks[i].ask.error.text);
            cr_expect(memmem(talks[i].bytes, talks[i].size, row, sizeof(row) - 1), "%d", i);
        }
        cr_expect_leq(STAT(pool, opened), 3);
        cr_expect_eq(STAT(pool, closed[POOL_CLOSE_ERROR]), 0);
        pool_destroy(pool);
    }
}

/* ---- refusals */

Test(postgres, without_tls_nothing_is_said_but_the_question)
{
    struct pool_error error;
    struct pool *pool;

    serve(NULL);
    pool = pool_by(BY_PREPARE);
    cr_expect_eq(next_pid(pool, server_address(postgres), &error), 0);
    cr_expect_eq(error.status, POOL_E_USER, "%s", error.text);
    cr_expect_eq(error.cause, SQL_NO_TLS);
    cr_expect_eq(error.phase, POOL_PHASE_SETUP);
    cr_expect_eq(STAT(pool, total), 0);
    pool_destroy(pool);
    pool = pool_by(BY_HOOK);
    cr_expect_eq(next_pid(pool, server_address(postgres), &error), 0);
    cr_expect_eq(error.status, SQL_NO_TLS_STATUS, "%s", error.text);
    cr_expect_eq(error.phase, POOL_PHASE_SETUP);
    cr_expect_eq(STAT(pool, total), 0);
    pool_destroy(pool);
}

Test(postgres, a_server_of_another_authority_is_refused)
{
    struct credential *stranger = CREDENTIAL(NULL, .names = "IP:127.0.0.1");
    struct pool_error error;
    struct pool *pool;

    serve(stranger);
    for (enum way way = 0; way < WAYS; way++) {
        pool = pool_by(way);
        cr_expect_eq(next_pid(pool, server_address(postgres), &error), 0);
        cr_expect_eq(error.status, POOL_E_TLS, "%s", error.text);
        cr_expect_eq(error.phase, POOL_PHASE_TLS);
        cr_expect_eq(STAT(pool, total), 0);
        pool_destroy(pool);
    }
    credential_free(stranger);
}

/* Stands between client and server, and adds to the server's answer to the question for TLS what
 * the client might take for said in TLS. It serves one connection after the other. */
struct middle {
    int listener, port, server_port;
    const char *added;
    size_t added_size;
    atomic_size_t heard; /* bytes of clients */
    atomic_uint served, expected; /* connections to their end */
    pthread_t thread;
};

static int loopback_socket(int port, int (*act)(int, const struct sockaddr *, socklen_t))
{
    struct sockaddr_in name = { .sin_family = AF_INET, .sin_port = htons((uint16_t)port) };
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    name.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    cr_assert_eq(act(fd, (struct sockaddr *)&name, sizeof(name)), 0);
    return fd;
}

/* What one side says goes to the other; false when it has ended. */
static bool pass_on(int from, int to, atomic_size_t *count)
{
    char bytes[4096];
    ssize_t got = recv(from, bytes, sizeof(bytes), 0);

    if (got <= 0)
        return false;
    atomic_fetch_add(count, (size_t)got);
    return write_exactly(to, bytes, (size_t)got, VERBS_SOON);
}

static void meddle(struct middle *middle, int client, int server)
{
    struct pollfd sides[] = { { .fd = client, .events = POLLIN },
                              { .fd = server, .events = POLLIN } };
    char bytes[64];
    atomic_size_t answered = 0;
    bool goes_on = read_exactly(client, bytes, 8, VERBS_SOON) &&
                   write_exactly(server, bytes, 8, VERBS_SOON) &&
                   read_exactly(server, bytes, 1, VERBS_SOON);

    atomic_fetch_add(&middle->heard, 8);
    memcpy(bytes + 1, middle->added, middle->added_size);
    goes_on = goes_on && write_exactly(client, bytes, 1 + middle->added_size, VERBS_SOON);
    while (goes_on && poll(sides, 2, -1) > 0) {
        if (sides[0].revents)
            goes_on = pass_on(client, server, &middle->heard);
        if (goes_on && sides[1].revents)
            goes_on = pass_on(server, client, &answered);
    }
}

static void *stand_between(void *argument)
{
    struct middle *middle = argument;
    int client, server;

    while ((client = accept(middle->listener, NULL, NULL)) >= 0) {
        server = loopback_socket(middle->server_port, connect);
        meddle(middle, client, server);
        close(server);
        close(client);
        atomic_fetch_add(&middle->served, 1);
    }
    return NULL;
}

static bool has_served(void *argument)
{
    struct middle *middle = argument;

    return atomic_load(&middle->served) == atomic_load(&middle->expected);
}

/* What was heard is all there is to hear only then. */
static bool wait_served(struct middle *middle)
{
    atomic_fetch_add(&middle->expected, 1);
    return wait_until(has_served, middle, VERBS_SOON);
}

static void begin_meddling(struct middle *middle)
{
    struct sockaddr_in name;
    socklen_t size = sizeof(name);

    middle->server_port = server_port(postgres);
    middle->listener = loopback_socket(0, bind);
    cr_assert_eq(listen(middle->listener, 16), 0);
    cr_assert_eq(getsockname(middle->listener, (struct sockaddr *)&name, &size), 0);
    middle->port = ntohs(name.sin_port);
    cr_assert_eq(pthread_create(&middle->thread, NULL, stand_between, middle), 0);
}

static void end_meddling(struct middle *middle)
{
    shutdown(middle->listener, SHUT_RDWR);
    pthread_join(middle->thread, NULL);
    close(middle->listener);
}

/* The way of CVE-2021-23222: a client that keeps what it read ahead takes this for the server's
 * first words in TLS. */
Test(postgres, words_slipped_in_before_tls_end_the_connection)
{
    static const char slipped[] = "R\0\0\0\10\0\0\0\0Z\0\0\0\5I";
    struct middle middle = { .added = slipped };
    struct pool_error error;
    struct pool *pool;
    char address[64];

    serve(good);
    begin_meddling(&middle);
    snprintf(address, sizeof(address), "tls://127.0.0.1:%d?starttls=1", middle.port);
    for (enum way way = 0; way < WAYS; way++) {
        middle.added_size = 0;
        pool = pool_by(way);
        cr_expect_gt(next_pid(pool, address, &error), 0, "%s", error.text);
        pool_destroy(pool);
        cr_assert(wait_served(&middle));

        middle.added_size = sizeof(slipped) - 1;
        atomic_store(&middle.heard, 0);
        pool = pool_by(way);
        cr_expect_eq(next_pid(pool, address, &error), 0);
        cr_expect_eq(error.status, POOL_E_TLS, "%s", error.text);
        cr_expect_eq(STAT(pool, total), 0);
        cr_assert(wait_served(&middle));
        cr_expect_eq(middle.heard, 8, "nothing followed the question");
        pool_destroy(pool);
    }
    end_meddling(&middle);
}

/* ---- sessions that end at the server */

/* Ends those sessions by another one, and waits until their processes are gone. */
static int end_sessions(struct pool_conn *conn, void *user)
{
    const int *pids = user;
    char answer[SQL_TEXT];

    if (sql_ask(conn, answer, "select pg_terminate_backend(%d, 20000)", pids[0]) ||
        strcmp(answer, "t"))
        return -1;
    return sql_ask(conn, answer, "select pg_terminate_backend(%d, 20000)", pids[1]) ||
           strcmp(answer, "t");
}

static void hold_two(struct pool *pool, int pids[2])
{
    struct pool_conn conns[2];

    for (int i = 0; i < 2; i++) {
        cr_assert(borrow(pool, server_address(postgres), &conns[i]));
        cr_assert_eq(ask_pid(&conns[i], &pids[i]), 0);
    }
    for (int i = 0; i < 2; i++)
        cr_assert_eq(pool_return(&conns[i]), POOL_OK);
    cr_expect_eq(STAT(pool, idle), 2);
}

Test(postgres, sessions_that_the_server_ends_while_idle_are_replaced)
{
    struct pool *other, *pool;
    struct pool_error error;
    int pids[2], fresh[2];

    serve(good);
    other = pool_by(BY_PREPARE);
    for (enum way way = 0; way < WAYS; way++) {
        pool = pool_by(way);
        hold_two(pool, pids);
        cr_assert_eq(pool_communicate(other, server_address(postgres), end_sessions, pids, NULL),
                     POOL_OK);
        hold_two(pool, fresh);
        for (int i = 0; i < 2; i++)
            cr_expect(fresh[i] != pids[0] && fresh[i] != pids[1]);
        cr_expect_eq(STAT(pool, opened), 4);
        cr_expect_eq(STAT(pool, closed[POOL_CLOSE_ERROR]), 0, "none was lent");

        cr_assert_eq(pool_communicate(other, server_address(postgres), end_sessions, fresh, NULL),
                     POOL_OK);
        cr_expect(WAIT_STAT(pool, total, 0), "parked ones are closed unasked");
        cr_expect_gt(next_pid(pool, server_address(postgres), &error), 0, "%s", error.text);
        pool_destroy(pool);
    }
    pool_destroy(other);
}

Test(postgres, a_server_that_comes_back_is_used_again)
{
    struct pool_error error;
    struct pool *pool;
    int pids[2];

    serve(good);
    for (enum way way = 0; way < WAYS; way++) {
        pool = pool_by(way);
        hold_two(pool, pids);
        cr_assert(server_restart(postgres));
        cr_expect_gt(next_pid(pool, server_address(postgres), &error), 0, "%s", error.text);
        pool_destroy(pool);
    }
}
