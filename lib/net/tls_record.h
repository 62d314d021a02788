/* tls_record.h: what one record of TLS carries, of bytes that lie in several places. Pure. */
#ifndef PL_NET_TLS_RECORD_H
#define PL_NET_TLS_RECORD_H

#include <sys/uio.h>

#include "commpool/types.h"

#define PL_TLS_RECORD 16384u /* bytes that one record carries at most */

/* The pieces up to one record, in one place: `record`, unless they are there already. */
struct pool_bytes pl_tls_gather(const struct iovec *pieces, int count, char *record);

#endif
