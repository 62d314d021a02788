/* resp.c: just enough of Redis' protocol for tests. See resp.h. */
#include "support/resp.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int read_line(struct pool_conn *conn, char *line, size_t size)
{
    struct pool_bytes bytes;

    if (pool_recv_until(conn, "\r\n", 2, &bytes) || bytes.size - 2 >= size)
        return -1;
    memcpy(line, bytes.data, bytes.size - 2);
    line[bytes.size - 2] = '\0';
    return 0;
}

static int read_body(struct pool_conn *conn, long size, char reply[RESP_TEXT])
{
    if (size < 0) {
        strcpy(reply, "(nil)");
        return 0;
    }
    if (size + 2 >= RESP_TEXT || pool_recv_exact(conn, reply, (size_t)size + 2))
        return -1;
    if (memcmp(reply + size, "\r\n", 2))
        return -1;
    reply[size] = '\0';
    return 0;
}

static int read_value(struct pool_conn *conn, char reply[RESP_TEXT], long *parts)
{
    char line[RESP_TEXT];

    *parts = 0;
    if (read_line(conn, line, sizeof(line)))
        return -1;
    switch (line[0]) {
    case '+':
    case ':':
        strcpy(reply, line + 1);
        return 0;
    case '-':
        strcpy(reply, line);
        return 0;
    case '$':
        return read_body(conn, strtol(line + 1, NULL, 10), reply);
    case '*':
        *reply = '\0';
        *parts = strtol(line + 1, NULL, 10);
        return *parts < 0 ? -1 : 0;
    default:
        return -1;
    }
}

int resp_read(struct pool_conn *conn, char reply[RESP_TEXT])
{
    char part[RESP_TEXT];
    long parts, none;

    if (read_value(conn, reply, &parts))
        return -1;
    for (long i = 0; i < parts; i++) {
        if (read_value(conn, part, &none) || none)
            return -1;
        if (strlen(reply) + strlen(part) + 2 > RESP_TEXT)
            return -1;
        if (i)
            strcat(reply, " ");
        strcat(reply, part);
    }
    return 0;
}

int resp_ask(struct pool_conn *conn, char reply[RESP_TEXT], const char *format, ...)
{
    char command[RESP_TEXT];
    va_list arguments;
    int size;

    va_start(arguments, format);
    size = vsnprintf(command, sizeof(command) - 2, format, arguments);
    va_end(arguments);
    if (size < 0 || (size_t)size >= sizeof(command) - 2)
        return -1;
    memcpy(command + size, "\r\n", 2);
    if (pool_send(conn, command, (size_t)size + 2))
        return -1;
    return resp_read(conn, reply);
}

/* The line that begins at `at`, without its end; 0: it has none yet. */
static size_t line_length(struct pool_bytes bytes, size_t at)
{
    const char *text = bytes.data, *end;

    end = at < bytes.size ? memmem(text + at, bytes.size - at, "\r\n", 2) : NULL;
    return end ? (size_t)(end - text) - at : 0;
}

static long value_length(struct pool_bytes bytes, size_t at, long *parts)
{
    const char *text = bytes.data;
    size_t line = line_length(bytes, at);
    long size;

    *parts = 0;
    if (!line)
        return 0;
    switch (text[at]) {
    case '+':
    case '-':
    case ':':
        return (long)line + 2;
    case '*':
        *parts = strtol(text + at + 1, NULL, 10);
        return *parts < 0 ? -1 : (long)line + 2;
    case '$':
        size = strtol(text + at + 1, NULL, 10);
        size = size < 0 ? (long)line + 2 : (long)line + 2 + size + 2;
        return at + (size_t)size <= bytes.size ? size : 0;
    default:
        return -1;
    }
}

long resp_length(struct pool_bytes bytes)
{
    long parts, none, size = value_length(bytes, 0, &parts), one;

    for (long i = 0; size > 0 && i < parts; i++) {
        one = value_length(bytes, (size_t)size, &none);
        size = one > 0 && !none ? size + one : one > 0 ? -1 : one;
    }
    return size;
}

int resp_feed(struct resp_inbox *inbox, struct pool_bytes bytes)
{
    if (bytes.size > sizeof(inbox->bytes) - inbox->size)
        return -1;
    memcpy(inbox->bytes + inbox->size, bytes.data, bytes.size);
    inbox->size += bytes.size;
    return 0;
}

int resp_next(struct resp_inbox *inbox, char message[RESP_TEXT])
{
    long size = resp_length((struct pool_bytes){ inbox->bytes, inbox->size });

    if (size <= 0)
        return (int)size;
    if (size >= RESP_TEXT)
        return -1;
    memcpy(message, inbox->bytes, (size_t)size);
    message[size] = '\0';
    inbox->size -= (size_t)size;
    memmove(inbox->bytes, inbox->bytes + size, inbox->size);
    return 1;
}
