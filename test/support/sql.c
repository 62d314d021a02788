/* sql.c: just enough of PostgreSQL's protocol for tests. See sql.h. */
#include "support/sql.h"

#include <arpa/inet.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BODY_MOST 4096

static const char tls_request[] = { 0, 0, 0, 8, 4, (char)0xd2, 0x16, 0x2f };
static const char startup[] = "\0\0\0\x29\0\3\0\0user\0postgres\0database\0postgres\0";

_Static_assert(sizeof(startup) == 0x29, "the message begins with its length");

struct message {
    char kind;
    uint32_t size; /* of the body, after which there is a zero byte */
    char body[BODY_MOST];
};

static uint32_t number_at(const char *bytes)
{
    uint32_t number;

    memcpy(&number, bytes, 4);
    return ntohl(number);
}

/* ---- what an answer says */

static void add_text(char answer[SQL_TEXT], const char *text, size_t size)
{
    size_t length = strlen(answer);

    snprintf(answer + length, SQL_TEXT - length, "%s%.*s", length ? " " : "", (int)size, text);
}

static int add_row(char answer[SQL_TEXT], const struct message *message)
{
    uint32_t at = 2, size;

    while (at + 4 <= message->size) {
        size = number_at(message->body + at);
        at += 4;
        if (size == UINT32_MAX)
            continue;
        if (size > message->size - at)
            return -1;
        add_text(answer, message->body + at, size);
        at += size;
    }
    return 0;
}

/* Fields of an error: a letter, a text. */
static void set_error(char answer[SQL_TEXT], const struct message *message)
{
    const char *field = message->body;

    while (field < message->body + message->size && *field && *field != 'M')
        field += strlen(field) + 1;
    snprintf(answer, SQL_TEXT, "-%.500s", field < message->body + message->size ? field + 1 : "");
}

/* ---- messages */

static int receive(struct pool_conn *conn, struct message *message)
{
    char head[5];

    if (pool_recv_exact(conn, head, sizeof(head)))
        return -1;
    message->kind = head[0];
    message->size = number_at(head + 1) - 4;
    if (message->size >= BODY_MOST || pool_recv_exact(conn, message->body, message->size))
        return -1;
    message->body[message->size] = 0;
    return 0;
}

static int until_ready(struct pool_conn *conn, char answer[SQL_TEXT])
{
    struct message message;

    answer[0] = 0;
    for (;;) {
        if (receive(conn, &message))
            return -1;
        if (message.kind == 'R' && number_at(message.body) != 0)
            return -1;
        if (message.kind == 'D' && add_row(answer, &message))
            return -1;
        if (message.kind == 'E')
            set_error(answer, &message);
        if (message.kind == 'Z')
            return message.body[0] != 'I';
    }
}

int sql_ask(struct pool_conn *conn, char answer[SQL_TEXT], const char *format, ...)
{
    char text[SQL_TEXT] = "Q";
    uint32_t size;
    va_list list;

    va_start(list, format);
    size = (uint32_t)vsnprintf(text + 5, sizeof(text) - 5, format, list);
    va_end(list);
    if (size >= sizeof(text) - 5)
        abort();
    size = htonl(size + 5);
    memcpy(text + 1, &size, 4);
    return pool_send(conn, text, ntohl(size) + 1) ? -1 : until_ready(conn, answer);
}

/* ---- sessions */

int sql_prepare(struct pool_conn *conn, void *user)
{
    char answer[SQL_TEXT];
    char tls;

    (void)user;
    if (pool_send(conn, tls_request, sizeof(tls_request)) || pool_recv_exact(conn, &tls, 1))
        return -1;
    if (tls == 'N')
        return SQL_NO_TLS;
    if (tls != 'S' || pool_conn_start_tls(conn) || pool_send(conn, startup, sizeof(startup)))
        return -1;
    return until_ready(conn, answer);
}

/* What the hook keeps about a connection, as its `user` data. */
struct greeting {
    bool is_secured;
    size_t size;
    char bytes[BODY_MOST];
};

/* 1: the server is ready for queries; 0: not yet; -1: it refuses, or makes no sense. */
static int look_at(struct greeting *greeting, struct pool_bytes bytes)
{
    const char *at = greeting->bytes, *end;

    if (bytes.size > sizeof(greeting->bytes) - greeting->size)
        return -1;
    memcpy(greeting->bytes + greeting->size, bytes.data, bytes.size);
    greeting->size += bytes.size;
    end = greeting->bytes + greeting->size;
    while (end - at >= 5 && number_at(at + 1) < (size_t)(end - at)) {
        if (*at == 'E')
            return -1;
        if (*at == 'Z')
            return 1;
        at += 1 + number_at(at + 1);
    }
    return 0;
}

/* All that came with the answer came in the clear: there must be nothing but the answer. */
static enum pool_status secure(struct pool_conn *conn, struct greeting *greeting,
                               struct pool_bytes bytes)
{
    enum pool_status status;

    if (bytes.size != 1)
        return POOL_E_TLS;
    if (*(const char *)bytes.data != 'S')
        return SQL_NO_TLS_STATUS;
    greeting->is_secured = true;
    status = pool_conn_start_tls(conn);
    return status ? status : pool_write(conn, startup, sizeof(startup));
}

static void on_event(struct pool_conn *conn, enum pool_event event, struct pool_bytes bytes,
                     void *user)
{
    struct greeting *greeting = pool_conn_user(conn);
    enum pool_status status = POOL_OK;
    int seen;

    (void)user;
    if (event != POOL_EV_READ)
        return;
    if (!greeting->is_secured) {
        status = secure(conn, greeting, bytes);
        if (status)
            pool_conn_ready(conn, status);
        return;
    }
    seen = look_at(greeting, bytes);
    if (seen)
        pool_conn_ready(conn, seen > 0 ? POOL_OK : POOL_E_USER);
}

int sql_on_new_connection(struct pool_conn *conn, struct pool_actor *actor, void *user)
{
    struct greeting *greeting = calloc(1, sizeof(*greeting));

    (void)actor;
    if (!greeting)
        return -1;
    pool_conn_set_user(conn, greeting, free);
    if (pool_conn_watch(conn, on_event, user) || pool_write(conn, tls_request, sizeof(tls_request)))
        return -1;
    return POOL_LATER;
}
