/* looks.c: see looks.h. */
#include "pool/looks.h"

#include "pool/channel.h"

void pl_look_put_aside(struct pl_connection *connection, enum pl_health health)
{
    uint64_t seen = atomic_load(&connection->word);

    if (health == PL_UNASKED_DATA && pl_channel_has_actor(connection) && !(seen & PL_PIN_MASK) &&
        pl_word_become_state(&connection->word, seen, PL_MUX))
        pl_channel_post_hear(connection);
    else
        pl_peer_close(connection, POOL_CLOSE_PEER);
}
