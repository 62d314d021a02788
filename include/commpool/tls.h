/* tls.h: a place for TLS settings. TLS comes with a later release; nothing can create a struct
 * pool_tls yet. */
#ifndef COMMPOOL_TLS_H
#define COMMPOOL_TLS_H

struct pool_tls;

#endif
