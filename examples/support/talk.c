/* talk.c: see talk.h. */
#include "support/talk.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name, *text;
} commands[] = {
    { "PING", "*1\r\n$4\r\nPING\r\n" },
    { "SET", "*5\r\n$3\r\nSET\r\n$14\r\ncommpool:loops\r\n$4\r\nwarm\r\n$2\r\nEX\r\n$2\r\n60\r\n" },
    { "GET", "*2\r\n$3\r\nGET\r\n$14\r\ncommpool:loops\r\n" },
};

enum { COMMANDS = sizeof(commands) / sizeof(commands[0]) };

static void fail(struct talk *talk, const char *why)
{
    fprintf(stderr, "%s: %s\n", talk->address, why);
    talk->has_failed = talk->is_over = true;
}

/* What a complete reply says: a line, or a length and that many bytes. NULL: it is not complete. */
static const char *read_reply(struct talk *talk)
{
    char *end = strstr(talk->reply, "\r\n");
    size_t size, start;

    if (!end || talk->reply[0] != '$') {
        if (end)
            *end = '\0';
        return end ? talk->reply : NULL;
    }
    size = strtoul(talk->reply + 1, NULL, 10);
    start = (size_t)(end - talk->reply) + 2;
    if (size >= sizeof(talk->reply) || talk->got < start + size + 2)
        return NULL;
    talk->reply[start + size] = '\0';
    return talk->reply + start;
}

/* The next command, or the end: the connection goes back to the pool, warm. */
static void go_on(struct talk *talk, struct pool_conn *conn)
{
    const char *text = talk->answered < COMMANDS ? commands[talk->answered].text : NULL;

    talk->got = 0;
    if (text && pool_write(conn, text, strlen(text)) == POOL_OK)
        return;
    if (text)
        fail(talk, "it cannot be written to");
    pool_return(conn);
    talk->is_over = true;
}

static void on_event(struct pool_conn *conn, enum pool_event event, struct pool_bytes bytes,
                     void *user)
{
    struct talk *talk = user;
    const char *said;

    if (event == POOL_EV_ERROR || event == POOL_EV_CLOSED || event == POOL_EV_TIMEOUT_READ) {
        fail(talk, event == POOL_EV_TIMEOUT_READ ? "it does not answer" : "it hung up");
        pool_discard(conn);
        return;
    }
    if (event != POOL_EV_READ)
        return;
    if (bytes.size >= sizeof(talk->reply) - talk->got)
        bytes.size = sizeof(talk->reply) - talk->got - 1;
    memcpy(talk->reply + talk->got, bytes.data, bytes.size);
    talk->got += bytes.size;
    talk->reply[talk->got] = '\0';
    said = read_reply(talk);
    if (!said && talk->got + 1 < sizeof(talk->reply))
        return;
    if (!said || !strchr("+$", talk->reply[0])) {
        fail(talk, talk->reply);
        pool_discard(conn);
        return;
    }
    printf("%s: %s\n", commands[talk->answered++].name, said);
    go_on(talk, conn);
}

static void on_lent(struct pool_conn *conn, const struct pool_error *error, void *user)
{
    struct talk *talk = user;

    if (!conn) {
        fail(talk, error->text);
    } else if (pool_conn_watch(conn, on_event, talk) || pool_conn_timeout(conn, POOL_READ, 5000)) {
        fail(talk, "it cannot be watched");
        pool_discard(conn);
    } else {
        go_on(talk, conn);
    }
}

void talk_begin(struct talk *talk, struct pool *pool, const char *address)
{
    struct pool_error error = POOL_ERROR_INIT;

    talk->address = address;
    if (pool_communicate_async(pool, address, on_lent, talk, POOL_CALL(.error = &error), NULL))
        fail(talk, error.text);
}
