/* watch.c: see watch.h. Runs on the mux thread. */
#include "pool/watch.h"

#include "net/connection.h"
#include "pool/channel.h"
#include "pool/exchange.h"
#include "pool/line.h"
#include "pool/lent.h"
#include "pool/open.h"
#include "pool/pool.h"

/* Something came for a connection that nobody has; it is ours (MUX) now. */
static void on_parked_event(struct pl_connection *connection)
{
    struct pl_room *room = connection->peer->pool->room;
    enum pl_health health;

    pl_room_unpark(room, connection);
    if (!pl_connection_is_ours(connection)) {
        pl_peer_close(connection, POOL_CLOSE_STOLEN);
        return;
    }
    if (pl_channel_has_actor(connection)) {
        pl_channel_hear(connection);
        return;
    }
    health = pl_connection_peek(connection);
    if (health == PL_HEALTHY || health == PL_HALF_DATA) {
        pl_room_park_one(room, connection);
    } else if (health == PL_UNASKED_DATA &&
               connection->peer->pool->settings.options.on_request) {
        pl_exchange_serve(connection);
    } else {
        pl_peer_close(connection, POOL_CLOSE_PEER); /* its end, or bytes that nobody asked for */
    }
}

/* True: dealt with, or nobody's business; false: the word changed meanwhile, look again. */
static bool hand_to_owner(struct pl_connection *connection, uint64_t word, uint32_t events)
{
    struct pl_line *line;

    switch (pl_word_state(word)) {
    case PL_OPENING:
        pl_open_on_event(connection);
        return true;
    case PL_SETUP:
    case PL_HEARD:
        pl_channel_on_event(connection, word, events);
        return true;
    case PL_LENT:
        line = atomic_load(&connection->line);
        if (line)
            pl_line_on_event(line, connection, events);
        else
            pl_lent_on_event(connection, word, events);
        return true;
    case PL_PARKED:
        if (!pl_word_become_state(&connection->word, word, PL_MUX))
            return false;
        on_parked_event(connection);
        return true;
    case PL_MUX:
        /* Being parked by another thread, which looks at the mark after it has let go. */
        atomic_store(&connection->missed_event, true);
        return atomic_load(&connection->word) == word;
    default:
        return true;
    }
}

void pl_watch_on_event(struct pool_mux *mux, uint32_t index, uint32_t birth, uint32_t events)
{
    struct pl_connection *connection = pl_connection_at(index);

    (void)mux;
    while (connection) {
        uint64_t word = atomic_load(&connection->word);

        /* In this order: a slot's next birth comes before its next word, maybe another mux's. */
        if (pl_get(connection->birth) != birth || hand_to_owner(connection, word, events))
            break;
    }
}
