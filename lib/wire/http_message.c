/* http_message.c: a message of HTTP/1.1 as it comes: lines, and content behind them. What was read
 * is never looked at again. */
#include <limits.h>
#include <string.h>

#include "wire/http.h"

/* So that sizes can be added up without a thought. */
#define MOST ((uint64_t)LONG_MAX / 4)

/* The next line without its end, which `at` is moved behind. `begin` and `most` bound it. */
static enum pl_http_found read_line(struct pl_http *http, struct pool_bytes in, size_t most,
                                    struct pool_bytes *line)
{
    const char *bytes = in.data, *feed, *first = bytes + http->at;
    size_t from = http->searched > http->at ? http->searched : http->at;

    feed = memchr(bytes + from, '\n', in.size - from);
    http->searched = feed ? (size_t)(feed - bytes) + 1 : in.size;
    if (http->searched - http->begin > most)
        return PL_HTTP_BAD;
    if (!feed)
        return PL_HTTP_MORE;
    if (feed == first || feed[-1] != '\r')
        return PL_HTTP_BAD;
    *line = (struct pool_bytes){ first, (size_t)(feed - 1 - first) };
    http->at = http->searched;
    return PL_HTTP_WHOLE;
}

enum pl_http_found pl_http_read_head(struct pl_http *http, struct pool_bytes in,
                                     pl_http_first_line_fn *first_line)
{
    enum pl_http_found found;
    struct pool_bytes line;

    while ((found = read_line(http, in, PL_HTTP_HEAD, &line)) == PL_HTTP_WHOLE) {
        if (http->has_first_line && !line.size)
            break;
        if (!(http->has_first_line ? pl_http_field : first_line)(&http->head, line))
            return PL_HTTP_BAD;
        http->has_first_line = true;
    }
    if (found != PL_HTTP_WHOLE)
        return found;
    if (http->head.is_chunked && (http->head.has_length || http->head.is_old))
        return PL_HTTP_BAD;
    return PL_HTTP_WHOLE;
}

/* Notes where content of that size ends. */
static bool begin_content(struct pl_http *http, uint64_t size)
{
    if (size > MOST)
        return false;
    http->need = http->at + (size_t)size;
    return true;
}

enum pl_http_found pl_http_read_length(struct pl_http *http, struct pool_bytes in)
{
    if (!http->need && !begin_content(http, http->head.length))
        return PL_HTTP_BAD;
    if (in.size < http->need)
        return PL_HTTP_MORE;
    http->at = http->need;
    return PL_HTTP_WHOLE;
}

/* The bytes of a chunk and the line end behind them. */
static enum pl_http_found read_chunk(struct pl_http *http, struct pool_bytes in)
{
    const char *bytes = in.data;

    if (in.size < http->need)
        return PL_HTTP_MORE;
    if (bytes[http->need - 2] != '\r' || bytes[http->need - 1] != '\n')
        return PL_HTTP_BAD;
    http->at = http->begin = http->need;
    http->in_chunk = false;
    return PL_HTTP_WHOLE;
}

static enum pl_http_found read_chunk_line(struct pl_http *http, struct pool_bytes in)
{
    struct pool_bytes line;
    uint64_t size;
    enum pl_http_found found = read_line(http, in, PL_HTTP_CHUNK_LINE, &line);

    if (found != PL_HTTP_WHOLE)
        return found;
    if (!pl_http_chunk_line(line, &size) || !begin_content(http, size))
        return PL_HTTP_BAD;
    http->need += 2;
    http->begin = http->at;
    http->in_chunk = size > 0;
    http->in_trailers = size == 0;
    http->head.fields = 0;
    return PL_HTTP_WHOLE;
}

/* Fields behind the last chunk. They may say anything but how long the message was. */
static enum pl_http_found read_trailers(struct pl_http *http, struct pool_bytes in)
{
    enum pl_http_found found;
    struct pool_bytes line;

    while ((found = read_line(http, in, PL_HTTP_HEAD, &line)) == PL_HTTP_WHOLE) {
        if (!line.size)
            return PL_HTTP_WHOLE;
        if (!pl_http_field(&http->head, line) || http->head.has_length)
            return PL_HTTP_BAD;
    }
    return found;
}

enum pl_http_found pl_http_read_chunks(struct pl_http *http, struct pool_bytes in)
{
    enum pl_http_found found = PL_HTTP_WHOLE;

    if (!http->need)
        http->begin = http->need = http->at;
    while (found == PL_HTTP_WHOLE && !http->in_trailers)
        found = http->in_chunk ? read_chunk(http, in) : read_chunk_line(http, in);
    return found == PL_HTTP_WHOLE ? read_trailers(http, in) : found;
}
