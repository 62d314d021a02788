/* acknowledged.c: see acknowledged.h. */
#include "net/acknowledged.h"

#include <linux/tcp.h>
#include <netinet/in.h>
#include <stddef.h>

enum pl_acknowledged pl_connection_acknowledged(const struct pl_connection *connection,
                                                uint64_t *bytes)
{
    struct tcp_info info;
    socklen_t size = sizeof(info);

    if (!pl_connection_is_ours(connection) ||
        pl_os->getsockopt(connection->fd, IPPROTO_TCP, TCP_INFO, &info, &size) ||
        size < offsetof(struct tcp_info, tcpi_notsent_bytes) + sizeof(info.tcpi_notsent_bytes))
        return PL_UNKNOWN;
    *bytes = info.tcpi_bytes_acked;
    return info.tcpi_unacked || info.tcpi_notsent_bytes ? PL_SOME_ACKNOWLEDGED
                                                        : PL_ALL_ACKNOWLEDGED;
}
