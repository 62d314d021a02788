/* tls_record.c: see tls_record.h. */
#include "net/tls_record.h"

#include <string.h>

struct pool_bytes pl_tls_gather(const struct iovec *pieces, int count, char *record)
{
    struct pool_bytes bytes = { record, 0 };
    size_t size;

    while (count && !pieces->iov_len) {
        pieces++;
        count--;
    }
    if (count && (count == 1 || pieces->iov_len >= PL_TLS_RECORD)) {
        size = pieces->iov_len < PL_TLS_RECORD ? pieces->iov_len : PL_TLS_RECORD;
        return (struct pool_bytes){ pieces->iov_base, size };
    }
    for (int i = 0; i < count && bytes.size < PL_TLS_RECORD; i++) {
        size = PL_TLS_RECORD - bytes.size;
        if (size > pieces[i].iov_len)
            size = pieces[i].iov_len;
        if (size)
            memcpy(record + bytes.size, pieces[i].iov_base, size);
        bytes.size += size;
    }
    return bytes;
}
