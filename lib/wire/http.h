/* http.h: what responses and requests of HTTP/1.1 have in common: lines, fields, and the content
 * behind them (RFC 9112). Pure functions of bytes.
 *
 * A line ends with CR LF and holds neither by itself; fields are not folded; no blank stands before
 * a colon. What two readers could take for two different lengths is refused. */
#ifndef PL_WIRE_HTTP_H
#define PL_WIRE_HTTP_H

#include "base/compiler.h"
#include "commpool/codec.h"

#define PL_HTTP_HEAD 65536u /* bytes of the first line and the fields; of the trailers as well */
#define PL_HTTP_FIELDS 256u /* in them */
#define PL_HTTP_CHUNK_LINE 4096u /* bytes of a size and its extensions */

/* What has been found of something that may not be whole. */
enum pl_http_found { PL_HTTP_BAD = -1, PL_HTTP_MORE, PL_HTTP_WHOLE };

/* What a head says. */
struct pl_http_head {
    uint64_t length; /* of the content, where has_length */
    uint32_t fields;
    uint16_t status; /* of a response */
    bool is_old; /* HTTP/1.0 */
    bool is_head; /* a request with the method HEAD */
    bool has_length, is_chunked;
    bool says_close, says_keep; /* in Connection */
    bool needs_talk; /* a request that one response may not be the end of */
};

/* How far a message has been read. All zeros is the beginning. */
struct pl_http {
    size_t at; /* everything before it has been read */
    size_t searched; /* no line feed lies between `at` and it */
    size_t begin; /* of the lines that are bounded together */
    size_t need; /* the end of the content or chunk that is read */
    struct pl_http_head head;
    bool has_first_line;
    bool in_chunk, in_trailers;
};

/* One line, without its end. False: it is no such line. */
bool pl_http_status_line(struct pl_http_head *head, struct pool_bytes line) PL_MUST_USE;
bool pl_http_request_line(struct pl_http_head *head, struct pool_bytes line) PL_MUST_USE;
bool pl_http_field(struct pl_http_head *head, struct pool_bytes line) PL_MUST_USE;
bool pl_http_chunk_line(struct pool_bytes line, uint64_t *size) PL_MUST_USE;

typedef bool pl_http_first_line_fn(struct pl_http_head *head, struct pool_bytes line);

/* Reads on: a head up to its empty line; content of a known length; chunks and their trailers. Each
 * is called again with the same bytes and more until it is whole; then `at` is behind it. */
enum pl_http_found pl_http_read_head(struct pl_http *http, struct pool_bytes in,
                                     pl_http_first_line_fn *first_line);
enum pl_http_found pl_http_read_length(struct pl_http *http, struct pool_bytes in);
enum pl_http_found pl_http_read_chunks(struct pl_http *http, struct pool_bytes in);

/* Checks one request, whole and nothing else. */
enum pool_status pl_http_request(struct pool_bytes bytes, struct pool_expect *expect) PL_MUST_USE;

/* What a response must be read with: the hint of its request. */
enum { PL_HTTP_WAS_HEAD = 1, PL_HTTP_WAS_LAST = 2 };

#endif
