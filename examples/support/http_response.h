/* http_response.h: reads one HTTP/1.1 response from a borrowed connection, to its last byte.
 *
 * It is no HTTP library: no trailers, no compression, and it counts the bytes of the body instead
 * of keeping them. What is ambiguous about where a body ends is an error (RFC 9112, section 6.3).
 * */
#ifndef EXAMPLES_HTTP_RESPONSE_H
#define EXAMPLES_HTTP_RESPONSE_H

#include <commpool/pool.h>
#include <stdbool.h>

struct http_response {
    int status;
    char reason[64];
    long length; /* of the body; -1 when no header says it */
    bool is_chunked;
    bool closes; /* the server closes the connection after this response */
    unsigned long received; /* bytes of the body so far */
};

/* Answers 0 when the whole response to a GET was read, -1 when I/O failed or it makes no sense. */
int http_response_read(struct pool_conn *conn, struct http_response *response);

#endif
