/* looks.h: what is looked at before a connection is lent: is the number still our socket, is it
 * alive, is it silent, is it young enough. Inline where the warm path goes.
 */
#ifndef PL_POOL_LOOKS_H
#define PL_POOL_LOOKS_H

#include "commpool/options.h"
#include "net/connection.h"
#include "net/transport.h"
#include "pool/peer.h"
#include "pool/secure.h"

/* The connection is not to be lent. Data for an actor sends it to the mux, anything else ends
 * it. */
PL_COLD void pl_look_put_aside(struct pl_connection *connection, enum pl_health health);

PL_INLINE bool pl_look_is_still_ours(struct pl_connection *connection, enum pool_check check)
{
    if (connection->is_armed) {
        connection->is_armed = false;
        return pl_connection_arm(connection, connection->mux, 0); /* ENOENT proves a theft */
    }
    return check != POOL_CHECK_ALWAYS || pl_connection_is_ours(connection);
}

/* Looks at an idle connection that was just taken (LENT). False: it was no good and is dealt with.
 * What the last borrower left of a record is with us already, so it is seen however little is
 * looked at. */
PL_INLINE bool pl_look_is_fit(struct pl_connection *connection, enum pool_check check)
{
    bool was_parked = connection->is_armed;
    enum pl_health health;

    if (PL_UNLIKELY(connection->tls) && pl_secure_is_outdated(connection)) {
        pl_peer_close(connection, POOL_CLOSE_STALE);
        return false;
    }
    if (!pl_look_is_still_ours(connection, check)) {
        pl_peer_close(connection, POOL_CLOSE_STOLEN);
        return false;
    }
    if ((check == POOL_CHECK_NEVER || (check == POOL_CHECK_PARKED && !was_parked)) &&
        PL_LIKELY(!pl_transport_has_more(connection)))
        return true;
    health = pl_connection_peek(connection);
    if (PL_LIKELY(health == PL_HEALTHY))
        return true;
    pl_look_put_aside(connection, health);
    return false;
}

/* True: it is past its age, and closed now. */
PL_INLINE bool pl_look_has_aged(struct pl_connection *connection, uint64_t now_ns)
{
    if (PL_LIKELY(pl_get(connection->expires_ns) > now_ns))
        return false;
    pl_peer_close(connection, pl_peer_reason_of_age(connection));
    return true;
}

#endif
