/* resp.c: cuts a stream of Redis messages (RESP2) into arrays of strings and numbers. */
#include "support/resp.h"

#include <stdlib.h>
#include <string.h>

/* Answers where the line at `offset` ends, its CR LF included; 0 when it has not come yet. */
static size_t line_end(struct pool_bytes bytes, size_t offset)
{
    const char *data = bytes.data;
    const char *end = offset < bytes.size ? memchr(data + offset, '\n', bytes.size - offset) : NULL;

    return end ? (size_t)(end - data) + 1 : 0;
}

/* Reads the string or number at `offset`; answers where it ends, 0 for not yet, -1 for no sense. */
static long read_part(struct pool_bytes bytes, size_t offset, struct pool_bytes *part)
{
    const char *data = bytes.data;
    size_t end = line_end(bytes, offset);
    long size;

    if (!end)
        return bytes.size - offset > 32 ? -1 : 0;
    if (data[offset] == ':') {
        *part = (struct pool_bytes){ data + offset + 1, end - offset - 3 };
        return (long)end;
    }
    size = strtol(data + offset + 1, NULL, 10);
    if (data[offset] != '$' || size < 0 || size > 1 << 20)
        return -1;
    *part = (struct pool_bytes){ data + end, (size_t)size };
    end += (size_t)size + 2;
    return end <= bytes.size ? (long)end : 0;
}

long resp_array(struct pool_bytes bytes, struct pool_bytes parts[RESP_PARTS], int *count)
{
    const char *data = bytes.data;
    long end = (long)line_end(bytes, 0);

    if (!end)
        return bytes.size > 32 ? -1 : 0;
    *count = data[0] == '*' ? (int)strtol(data + 1, NULL, 10) : -1;
    if (*count < 1 || *count > RESP_PARTS)
        return -1;
    for (int part = 0; part < *count && end > 0; part++)
        end = read_part(bytes, (size_t)end, &parts[part]);
    return end;
}

int resp_is(struct pool_bytes part, const char *text)
{
    return part.size == strlen(text) && !memcmp(part.data, text, part.size);
}
