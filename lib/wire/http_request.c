/* http_request.c: is this one request of HTTP/1.1, whole, with exactly one response? */
#include "wire/http.h"

/* It must end where the bytes do, so that the server sees one request, as we do. */
static bool is_content_whole(struct pl_http *http, struct pool_bytes bytes)
{
    enum pl_http_found found = PL_HTTP_WHOLE;

    if (http->head.is_chunked)
        found = pl_http_read_chunks(http, bytes);
    else if (http->head.has_length)
        found = pl_http_read_length(http, bytes);
    return found == PL_HTTP_WHOLE && http->at == bytes.size;
}

enum pool_status pl_http_request(struct pool_bytes bytes, struct pool_expect *expect)
{
    struct pl_http http = { .at = 0 };
    const struct pl_http_head *head = &http.head;

    if (!bytes.size || pl_http_read_head(&http, bytes, pl_http_request_line) != PL_HTTP_WHOLE)
        return POOL_E_ARGUMENT;
    if (!is_content_whole(&http, bytes) || head->needs_talk)
        return POOL_E_ARGUMENT;
    expect->replies = 1;
    expect->hint = head->is_head ? PL_HTTP_WAS_HEAD : 0;
    expect->closes = head->says_close || (head->is_old && !head->says_keep);
    if (expect->closes)
        expect->hint |= PL_HTTP_WAS_LAST;
    return POOL_OK;
}
