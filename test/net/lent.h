/* lent.h: a connection as a borrower has it, without a pool: for the tests of stream.c. */
#ifndef TEST_NET_LENT_H
#define TEST_NET_LENT_H

#include "base/os.h"
#include "net/connection.h"
#include "net/stream.h"

/* Makes `fd`, which it takes, a lent connection of `mux` with `timeout_ms` to go from now. */
struct pl_connection *lend(struct pool_mux *mux, int fd, uint32_t timeout_ms);

/* The same connection's next loan begins now. */
void lend_again(struct pl_connection *connection, uint32_t timeout_ms);

void end_loan(struct pl_connection *connection);    /* closes it */

/* What failed last. */
struct pl_failure failure_of(struct pl_connection *connection);

/* Makes a door send, receive and wait as lazily as a kernel may: one byte, EINTR, EAGAIN. */
void make_lazy(struct pl_os *os);
unsigned any_of(unsigned count); /* the same numbers in each run */

/* The bounds of every connection made here from now on; those of the library's defaults at
 * first. */
extern struct pl_limits lent_limits;

#endif
