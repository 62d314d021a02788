/* demo.h: the parts of demo.c. Each makes pools of its own, talks to the peer, and notes in the
 * table what it saw. */
#ifndef EXAMPLES_DEMO_H
#define EXAMPLES_DEMO_H

#include <commpool/pool.h>
#include <stdbool.h>

#include "support/peer.h"
#include "support/show.h"

/* Which of the peer's addresses each part has to itself; the rest is for demo_room(). */
enum { DEMO_CROWD, DEMO_PUSH, DEMO_STOLEN, DEMO_ROOM, DEMO_ROOM_ADDRESSES = 300 };

struct demo {
    struct peer peer;
    struct show show;
};

void demo_crowd(struct demo *demo);
void demo_room(struct demo *demo);
void demo_push(struct demo *demo);
void demo_stolen(struct demo *demo);

/* Has the peer echo `token` over a connection of the pool, and answers whether exactly that came
 * back. What failed otherwise is shown. Any thread may call it. */
bool demo_ask(struct demo *demo, struct pool *pool, const char *address, const char *token);

/* Makes a pool; what fails is shown. */
struct pool *demo_pool(struct demo *demo, const struct pool_options *options);

#endif
