/* http_line.c: one line of HTTP/1.1: the first of a message, a field, the size of a chunk. */
#include <string.h>

#include "wire/http.h"
#include "wire/text.h"

/* May the byte stand in a value: blanks, visible ones, and those above ASCII? */
static bool is_text(unsigned char byte)
{
    return (byte >= ' ' && byte != 127) || byte == '\t';
}

static bool is_all_text(const unsigned char *at, const unsigned char *end)
{
    for (; at < end; at++)
        if (PL_UNLIKELY(!is_text(*at)))
            return false;
    return true;
}

static bool is_blank(unsigned char byte)
{
    return byte == ' ' || byte == '\t';
}

static bool is_digit(unsigned char byte)
{
    return byte >= '0' && byte <= '9';
}

/* May the byte stand in a name or a method? */
static bool is_token(unsigned char byte)
{
    static const bool others[128] = {
        ['!'] = true,  ['#'] = true, ['$'] = true, ['%'] = true, ['&'] = true,
        ['\''] = true, ['*'] = true, ['+'] = true, ['-'] = true, ['.'] = true,
        ['^'] = true,  ['_'] = true, ['`'] = true, ['|'] = true, ['~'] = true
    };
    unsigned char lower = byte | 0x20;

    return (lower >= 'a' && lower <= 'z') || is_digit(byte) || (byte < 128 && others[byte]);
}

static size_t token_size(const unsigned char *at, const unsigned char *end)
{
    const unsigned char *first = at;

    while (at < end && is_token(*at))
        at++;
    return (size_t)(at - first);
}

/* "HTTP/1.0" or "HTTP/1.1", which take 8 bytes. */
static bool read_version(struct pl_http_head *head, const unsigned char *at)
{
    head->is_old = at[7] == '0';
    return memcmp(at, "HTTP/1.", 7) == 0 && (at[7] == '0' || at[7] == '1');
}

bool pl_http_status_line(struct pl_http_head *head, struct pool_bytes line)
{
    const unsigned char *at = line.data, *end = at + line.size;

    if (line.size < 12 || !read_version(head, at) || at[8] != ' ')
        return false;
    if (at[9] < '1' || !is_digit(at[9]) || !is_digit(at[10]) || !is_digit(at[11]))
        return false;
    head->status = (uint16_t)((at[9] - '0') * 100 + (at[10] - '0') * 10 + (at[11] - '0'));
    at += 12;
    return at == end || (*at == ' ' && is_all_text(at, end));
}

bool pl_http_request_line(struct pl_http_head *head, struct pool_bytes line)
{
    const unsigned char *at = line.data, *end = at + line.size, *method = at;
    size_t size = token_size(at, end);

    at += size;
    if (!size || at == end || *at++ != ' ' || at == end || *at == ' ')
        return false;
    while (at<end && * at> ' ' && *at < 127)
        at++;
    if (end - at != 9 || *at != ' ' || !read_version(head, at + 1))
        return false;
    head->is_head = size == 4 && memcmp(method, "HEAD", 4) == 0;
    head->needs_talk = size == 7 && memcmp(method, "CONNECT", 7) == 0;
    return true;
}

/* Only digits; a second length is refused though it says the same. */
static bool read_length(struct pl_http_head *head, struct pool_bytes value)
{
    const unsigned char *at = value.data, *end = at + value.size;

    if (head->has_length || at == end)
        return false;
    for (; at < end; at++) {
        if (!is_digit(*at) || head->length > (UINT64_MAX - 9) / 10)
            return false;
        head->length = head->length * 10 + (*at - '0');
    }
    head->has_length = true;
    return true;
}

/* Without the blanks around it. */
static struct pool_bytes trim(const unsigned char *at, const unsigned char *end)
{
    while (at < end && is_blank(*at))
        at++;
    while (end > at && is_blank(end[-1]))
        end--;
    return (struct pool_bytes){ at, (size_t)(end - at) };
}

/* A list with commas. */
static void read_connection(struct pl_http_head *head, struct pool_bytes value)
{
    const unsigned char *at = value.data, *end = at + value.size, *comma;

    for (; at < end; at = comma + 1) {
        struct pool_bytes word;

        comma = memchr(at, ',', (size_t)(end - at));
        if (!comma)
            comma = end;
        word = trim(at, comma);
        head->says_close |= pl_is_word(word.data, word.size, "close");
        head->says_keep |= pl_is_word(word.data, word.size, "keep-alive");
        head->needs_talk |= pl_is_word(word.data, word.size, "upgrade");
    }
}

/* The few names that framing depends on. */
static bool read_known(struct pl_http_head *head, struct pool_bytes name, struct pool_bytes value)
{
    switch (name.size) {
    case 6:
        head->needs_talk |= pl_is_word(name.data, name.size, "expect");
        return true;
    case 7:
        head->needs_talk |= pl_is_word(name.data, name.size, "upgrade");
        return true;
    case 10:
        if (pl_is_word(name.data, name.size, "connection"))
            read_connection(head, value);
        return true;
    case 14:
        return !pl_is_word(name.data, name.size, "content-length") || read_length(head, value);
    case 17:
        if (!pl_is_word(name.data, name.size, "transfer-encoding"))
            return true;
        if (head->is_chunked || !pl_is_word(value.data, value.size, "chunked"))
            return false;
        head->is_chunked = true;
        return true;
    default:
        return true;
    }
}

bool pl_http_field(struct pl_http_head *head, struct pool_bytes line)
{
    const unsigned char *at = line.data, *end = at + line.size;
    struct pool_bytes name = { at, token_size(at, end) };

    at += name.size;
    if (!name.size || at == end || *at++ != ':')
        return false;
    if (!is_all_text(at, end) || head->fields++ == PL_HTTP_FIELDS)
        return false;
    return read_known(head, name, trim(at, end));
}

/* -1: it is none */
static int hex_value(unsigned char byte)
{
    unsigned char lower = pl_lower(byte);

    if (is_digit(byte))
        return byte - '0';
    return lower >= 'a' && lower <= 'f' ? lower - 'a' + 10 : -1;
}

bool pl_http_chunk_line(struct pool_bytes line, uint64_t *size)
{
    const unsigned char *at = line.data, *end = at + line.size, *first = at;

    for (*size = 0; at < end && hex_value(*at) >= 0; at++) {
        if (*size >> 60)
            return false;
        *size = *size << 4 | (uint64_t)hex_value(*at);
    }
    if (at == first || at == end)
        return at > first;
    while (at < end && is_blank(*at))
        at++;
    return at < end && *at == ';' && is_all_text(at, end);
}
