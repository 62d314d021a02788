/* conn.h: how a call comes to the connection of a handle: it checks and pins in one step, so a
 * stale or shared copy is an error and never somebody else's connection.
 */
#ifndef PL_POOL_CONN_H
#define PL_POOL_CONN_H

#include "commpool/pool.h"
#include "net/address.h"
#include "pool/peer.h"

/* Pins; NULL: the handle is stale. */
static inline struct pl_connection *pl_conn_enter(const struct pool_conn *conn)
{
    struct pl_connection *connection = conn ? pl_connection_of(conn->slot) : NULL;

    return connection && pl_word_pin(&connection->word, conn->serial) ? connection : NULL;
}

/* Pins for blocking I/O: only a loan, for what the mux thread holds must not wait. */
enum pool_status pl_conn_enter_loan(const struct pool_conn *conn,
                                    struct pl_connection **entered) PL_MUST_USE;

/* True: the loan had been ended by another copy of the handle, and the connection is closed now. */
static inline bool pl_conn_leave(struct pl_connection *connection)
{
    bool has_ended = pl_word_unpin(&connection->word);

    if (PL_UNLIKELY(has_ended))
        pl_peer_finish_close_and_tell(connection);
    return has_ended;
}

/* The canonical text of the address of a connection that is pinned or owned. */
static inline const char *pl_conn_text(const struct pl_connection *connection)
{
    return pl_connection_is_detached(connection) ? pool_address_text(connection->address)
                                                 : connection->peer->text;
}

#endif
