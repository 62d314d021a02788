/* http_response.c: reads one HTTP/1.1 response from a borrowed connection, to its last byte. */
#include "support/http_response.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>

static int read_line(struct pool_conn *conn, char line[1024])
{
    struct pool_bytes bytes;

    if (pool_recv_until(conn, "\r\n", 2, &bytes) != POOL_OK || bytes.size > 1023)
        return -1;
    return snprintf(line, 1024, "%.*s", (int)bytes.size - 2, (const char *)bytes.data) < 0;
}

static int note_header(const char *line, struct http_response *response)
{
    char *end;

    if (!strncasecmp(line, "Content-Length:", 15)) {
        if (response->length != -1)
            return -1;
        response->length = strtol(line + 15, &end, 10);
        return response->length < 0 || end == line + 15 || *end ? -1 : 0;
    }
    response->is_chunked |= !strcasecmp(line, "Transfer-Encoding: chunked");
    response->closes |= !strcasecmp(line, "Connection: close");
    return 0;
}

static int read_head(struct pool_conn *conn, struct http_response *response)
{
    char line[1024];

    *response = (struct http_response){ .length = -1 };
    if (read_line(conn, line) ||
        sscanf(line, "HTTP/1.1 %3d %63[^\n]", &response->status, response->reason) < 1)
        return -1;
    for (;;) {
        if (read_line(conn, line))
            return -1;
        if (!line[0])
            return response->is_chunked && response->length != -1 ? -1 : 0;
        if (note_header(line, response))
            return -1;
    }
}

static int read_bytes(struct pool_conn *conn, struct http_response *response, long size)
{
    char piece[16384];
    size_t got;

    while (size > 0) {
        if (pool_recv(conn, piece, size < (long)sizeof(piece) ? (size_t)size : sizeof(piece), &got))
            return -1;
        response->received += got;
        size -= (long)got;
    }
    return 0;
}

static int read_chunks(struct pool_conn *conn, struct http_response *response)
{
    char line[1024];
    long size;

    do {
        if (read_line(conn, line) || !isxdigit((unsigned char)line[0]))
            return -1;
        size = strtol(line, NULL, 16);
        if (read_bytes(conn, response, size) || read_line(conn, line) || line[0])
            return -1;
    } while (size);
    return 0;
}

/* Without a length and without chunks the end of the connection ends the body. */
static int read_to_the_end(struct pool_conn *conn, struct http_response *response)
{
    enum pool_status status;
    char piece[16384];
    size_t got;

    response->closes = true;
    while ((status = pool_recv(conn, piece, sizeof(piece), &got)) == POOL_OK)
        response->received += got;
    return status == POOL_E_CLOSED ? 0 : -1;
}

int http_response_read(struct pool_conn *conn, struct http_response *response)
{
    do {
        if (read_head(conn, response))
            return -1;
    } while (response->status / 100 == 1);
    if (response->status == 204 || response->status == 304)
        return 0;
    if (response->is_chunked)
        return read_chunks(conn, response);
    if (response->length != -1)
        return read_bytes(conn, response, response->length);
    return read_to_the_end(conn, response);
}
