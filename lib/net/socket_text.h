/* socket_text.h: how a socket address is written for people and for other programs. It is not the
 * text of a struct pool_address, which says how to reach a peer. */
#ifndef PL_NET_SOCKET_TEXT_H
#define PL_NET_SOCKET_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>

#include "base/compiler.h"

/* Writes "1.2.3.4:80", "[::1]:80" with the zone's number before the bracket where there is one, a
 * path, '@' and an abstract name (its zero bytes as '@', too), or nothing for a socket without a
 * name. False: it does not fit, zero byte included, or is of another family; `text` is then
 * empty if it has any room. */
bool pl_socket_text(const struct sockaddr_storage *address, socklen_t length, char *text,
                    size_t size) PL_MUST_USE;

#endif
