/* pg.c: see pg.h. */
#include "support/pg.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>

enum { PROTOCOL = 196608, TLS_REQUEST = 80877103 };

static void put_number(char *bytes, uint32_t number)
{
    number = htonl(number);
    memcpy(bytes, &number, 4);
}

static uint32_t get_number(const char *bytes)
{
    uint32_t number;

    memcpy(&number, bytes, 4);
    return ntohl(number);
}

/* Reads a message to its last byte and keeps its beginning. */
static int receive(struct pool_conn *conn, struct pg_message *message)
{
    char head[5], rest[1024];
    uint32_t left, size;

    if (pool_recv_exact(conn, head, sizeof(head)) != POOL_OK)
        return -1;
    left = get_number(head + 1) - 4;
    if (left > INT32_MAX)
        return -1;
    message->kind = head[0];
    message->size = left < PG_TEXT ? left : PG_TEXT - 1;
    if (pool_recv_exact(conn, message->body, message->size) != POOL_OK)
        return -1;
    message->body[message->size] = '\0';
    for (left -= message->size; left; left -= size) {
        size = left < sizeof(rest) ? left : sizeof(rest);
        if (pool_recv_exact(conn, rest, size) != POOL_OK)
            return -1;
    }
    return 0;
}

/* A row: the number of columns, and for each its length, -1 for none, and its text. */
static void note_row(const struct pg_message *message, struct pg_answer *answer)
{
    int size = message->size >= 6 ? (int)get_number(message->body + 2) : -1;

    snprintf(answer->text, PG_TEXT, "%.*s", size < 0 ? 0 : size, message->body + 6);
}

/* An error: fields of a letter and a text each; M is the sentence. */
static void note_error(const struct pg_message *message, struct pg_answer *answer)
{
    const char *field = message->body, *end = message->body + message->size;

    while (field < end && *field && *field != 'M')
        field += strlen(field) + 1;
    answer->is_error = 1;
    snprintf(answer->text, PG_TEXT, "%s", field < end && *field ? field + 1 : "no reason given");
}

static int note_method(const struct pg_message *message, struct pg_answer *answer)
{
    uint32_t method = message->size >= 4 ? get_number(message->body) : 0;

    if (!method)
        return 0;
    answer->is_error = 1;
    snprintf(answer->text, PG_TEXT,
             "the server asks for a password (method %u), and this example has none", method);
    return -1;
}

/* Reads up to ReadyForQuery. What says no more than that all is well is passed over. */
static int receive_answer(struct pool_conn *conn, struct pg_answer *answer)
{
    struct pg_message message;

    *answer = (struct pg_answer){ 0 };
    for (;;) {
        if (receive(conn, &message) || (message.kind == 'R' && note_method(&message, answer)))
            return -1;
        if (message.kind == 'D')
            note_row(&message, answer);
        else if (message.kind == 'E')
            note_error(&message, answer);
        else if (message.kind == 'Z')
            return message.body[0] == 'I' ? 0 : 1;
    }
}

int pg_ask_for_tls(struct pool_conn *conn)
{
    char request[8], answer;

    put_number(request, sizeof(request));
    put_number(request + 4, TLS_REQUEST);
    if (pool_send(conn, request, sizeof(request)) || pool_recv_exact(conn, &answer, 1))
        return -1;
    return (unsigned char)answer;
}

int pg_begin(struct pool_conn *conn, const char *user, const char *database,
             struct pg_answer *answer)
{
    char text[512];
    int size = snprintf(text + 8, sizeof(text) - 8, "user%c%s%cdatabase%c%s%c", 0, user, 0, 0,
                        database, 0);

    *answer = (struct pg_answer){ 0 };
    if (size >= (int)sizeof(text) - 8)
        return -1;
    put_number(text, (uint32_t)size + 9);
    put_number(text + 4, PROTOCOL);
    if (pool_send(conn, text, (size_t)size + 9) != POOL_OK)
        return -1;
    return receive_answer(conn, answer) ? -1 : 0;
}

int pg_query(struct pool_conn *conn, const char *query, struct pg_answer *answer)
{
    char head[5] = "Q";
    struct iovec pieces[] = { { head, sizeof(head) },
                              { (void *)(uintptr_t)query, strlen(query) + 1 } };

    *answer = (struct pg_answer){ 0 };
    put_number(head + 1, (uint32_t)pieces[1].iov_len + 4);
    return pool_sendv(conn, pieces, 2) == POOL_OK ? receive_answer(conn, answer) : -1;
}
