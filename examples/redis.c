/* redis.c: PING, SET and GET on a Redis server, with AUTH when a password is given.
 *
 *     ./examples/run redis 127.0.0.1:6379 [password]
 *
 * It shows the main call with blocking code inside, `prepare`, which runs once for each connection
 * before its first use, and how a failure is told: by the pool, and by the peer. */
#include <commpool/pool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "support/arguments.h"

struct session {
    const char *password;
    char said[512]; /* what the server answered last */
};

/* Sends one command as an array of strings (the Redis protocol, RESP2); `words` ends with NULL. */
static enum pool_status send_command(struct pool_conn *conn, const char *const *words)
{
    char text[2048];
    size_t count = 0, size;

    while (words[count])
        count++;
    size = (size_t)snprintf(text, sizeof(text), "*%zu\r\n", count);
    for (size_t word = 0; word < count && size < sizeof(text); word++)
        size += (size_t)snprintf(text + size, sizeof(text) - size, "$%zu\r\n%s\r\n",
                                 strlen(words[word]), words[word]);
    return size < sizeof(text) ? pool_send(conn, text, size) : POOL_E_ARGUMENT;
}

/* Receives a line, or a length and that many bytes; an error that the server tells is -1 too. */
static int receive_reply(struct pool_conn *conn, char *said, size_t room)
{
    struct pool_bytes line;
    long size;

    if (pool_recv_until(conn, "\r\n", 2, &line) != POOL_OK || line.size < 3)
        return -1;
    snprintf(said, room, "%.*s", (int)line.size - 2, (const char *)line.data);
    if (said[0] != '$')
        return said[0] == '-' ? -1 : 0;
    size = strtol(said + 1, NULL, 10);
    if (size < 0 || (size_t)size + 2 > room || pool_recv_exact(conn, said, (size_t)size + 2))
        return -1;
    said[size] = '\0';
    return 0;
}

static int ask(struct pool_conn *conn, struct session *session, const char *const *words)
{
    session->said[0] = '\0';
    if (send_command(conn, words) != POOL_OK)
        return -1;
    return receive_reply(conn, session->said, sizeof(session->said));
}

static int log_in(struct pool_conn *conn, void *user)
{
    struct session *session = user;

    if (!session->password)
        return 0;
    return ask(conn, session, (const char *[]){ "AUTH", session->password, NULL });
}

static int exchange(struct pool_conn *conn, void *user)
{
    static const char *const commands[][6] = { { "PING" },
                                               { "SET", "commpool:example", "warm", "EX", "60" },
                                               { "GET", "commpool:example" } };
    struct session *session = user;

    for (int command = 0; command < 3; command++) {
        if (ask(conn, session, commands[command]))
            return -1;
        printf("%s: %s\n", commands[command][0], session->said);
    }
    return strcmp(session->said, "warm") ? -1 : 0;
}

int main(int argc, char **argv)
{
    struct session session = { .password = argc > 2 ? argv[2] : NULL };
    struct pool_error error = POOL_ERROR_INIT;
    struct pool *pool = NULL;
    enum pool_status status;
    char address[256];

    if (!argument_address(argc, argv, "redis 127.0.0.1:6379 [password]", address) ||
        pool_create(POOL_OPTIONS(.prepare = log_in, .user = &session), &pool) != POOL_OK)
        return 2;
    status = pool_communicate(pool, address, exchange, &session, POOL_CALL(.error = &error));
    if (status != POOL_OK)
        fprintf(stderr, "redis: %s\nThe server said last: %s\n", error.text,
                session.said[0] ? session.said : "nothing");
    pool_destroy(pool);
    return status == POOL_OK ? 0 : 1;
}
