/* codec_http1.c: responses of HTTP/1.1, in order (RFC 9112). A message is a response as it came,
 * head and content; interim ones in front of it are taken off. How long it is depends on its
 * request too, and on the end of the connection where it says nothing itself. */
#include <string.h>

#include "wire/http.h"
#include "wire/out.h"

struct reading {
    struct pl_http http;
    size_t begin; /* of the final response */
    bool has_head; /* the final one has been read up to its content */
};

#define LAST_CHUNK 5u /* bytes of the last chunk and no trailers */

static bool is_interim(const struct pl_http_head *head)
{
    return head->status < 200;
}

static bool is_bare(const struct pl_http_head *head, uint64_t hint)
{
    return (hint & PL_HTTP_WAS_HEAD) || head->status == 204 || head->status == 304;
}

/* Interim responses and 204 never have content. One that announces some might be read in two ways.
 * And what follows a 101 is another protocol, which nobody asked for. */
static bool is_sane(const struct pl_http_head *head)
{
    if (head->status == 101)
        return false;
    return (!is_interim(head) && head->status != 204) || (!head->is_chunked && !head->length);
}

/* Reads heads up to the final one. */
static enum pl_http_found read_heads(struct reading *reading, struct pool_bytes in)
{
    struct pl_http *http = &reading->http;
    enum pl_http_found found;

    do {
        found = pl_http_read_head(http, in, pl_http_status_line);
        if (found != PL_HTTP_WHOLE)
            return found;
        if (!is_sane(&http->head))
            return PL_HTTP_BAD;
        reading->has_head = !is_interim(&http->head);
        if (!reading->has_head) {
            reading->begin = http->at;
            *http = (struct pl_http){ .at = http->at };
        }
    } while (!reading->has_head);
    return PL_HTTP_WHOLE;
}

static enum pl_http_found read_content(struct reading *reading, struct pool_bytes in, bool at_end,
                                       uint64_t hint, struct pool_message *message)
{
    struct pl_http *http = &reading->http;

    if (is_bare(&http->head, hint))
        return PL_HTTP_WHOLE;
    if (http->head.is_chunked)
        return pl_http_read_chunks(http, in);
    if (http->head.has_length)
        return pl_http_read_length(http, in);
    http->at = in.size;
    message->closes = true;
    return at_end ? PL_HTTP_WHOLE : PL_HTTP_MORE;
}

static enum pl_http_found read_response(struct reading *reading, struct pool_bytes in, bool at_end,
                                        uint64_t hint, struct pool_message *message)
{
    enum pl_http_found found = PL_HTTP_WHOLE;

    if (!reading->has_head)
        found = read_heads(reading, in);
    if (found == PL_HTTP_WHOLE)
        found = read_content(reading, in, at_end, hint, message);
    return found;
}

/* How many bytes it will take at least; 0: that is not known. */
static size_t least(const struct pl_http *http, size_t have)
{
    size_t need = http->need;

    if (http->in_chunk)
        need += LAST_CHUNK;
    return need > have ? need : 0;
}

static void describe(const struct reading *reading, struct pool_bytes in, uint64_t hint,
                     struct pool_message *message)
{
    const struct pl_http_head *head = &reading->http.head;
    const char *bytes = in.data;

    message->kind = POOL_REPLY;
    message->failed = head->status >= 400;
    message->closes |=
        head->says_close || (head->is_old && !head->says_keep) || (hint & PL_HTTP_WAS_LAST);
    message->body.data = bytes + reading->begin;
    message->body.size = reading->http.at - reading->begin;
}

static long next(void *state, struct pool_bytes in, bool at_end, uint64_t hint,
                 struct pool_message *message)
{
    struct reading *reading = state;
    enum pl_http_found found;
    long taken;

    if (!in.size)
        return 0;
    found = read_response(reading, in, at_end, hint, message);
    if (found == PL_HTTP_MORE) {
        message->wanted = least(&reading->http, in.size);
        return 0;
    }
    taken = POOL_E_PROTOCOL;
    if (found == PL_HTTP_WHOLE) {
        describe(reading, in, hint, message);
        taken = (long)reading->http.at;
    }
    memset(reading, 0, sizeof(*reading));
    return taken;
}

static enum pool_status encode(void *state, enum pool_message_kind kind, uint64_t key,
                               struct pool_bytes body, struct pool_out *out,
                               struct pool_expect *expect)
{
    enum pool_status status;

    (void)state;
    (void)key;
    if (kind != POOL_REQUEST)
        return POOL_E_ARGUMENT;
    status = pl_http_request(body, expect);
    return status ? status : pool_out_append(out, body.data, body.size);
}

const struct pool_codec *pool_codec_http1(void)
{
    static const struct pool_codec codec = { .size = sizeof(struct pool_codec),
                                             .name = "http1",
                                             .read_state_size = sizeof(struct reading),
                                             .next = next,
                                             .encode = encode };

    return &codec;
}
