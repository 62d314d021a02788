/* recent.h: the connections that a thread returned last, one for each of a few peers (base/thread.h
 * has the memory). */
#ifndef PL_POOL_RECENT_H
#define PL_POOL_RECENT_H

#include <string.h>

#include "base/thread.h"

struct pl_peer;

static inline struct pl_recent *pl_recent_of_peer(struct pl_thread *self, const void *peer)
{
    for (unsigned i = 0; i < PL_RECENT; i++) {
        if (self->recent[i].peer == peer)
            return &self->recent[i];
    }
    return NULL;
}

static inline struct pl_recent *pl_recent_of_text(struct pl_thread *self, const void *pool,
                                                  const char *text)
{
    for (unsigned i = 0; i < PL_RECENT; i++) {
        if (self->recent[i].pool == pool && strcmp(self->recent[i].text, text) == 0)
            return &self->recent[i];
    }
    return NULL;
}

/* The entry of this peer, made if need be; the peer is live. */
struct pl_recent *pl_recent_make(struct pl_thread *self, struct pl_peer *peer);

/* From now on the thread knows the peer by this text, too; one that is too long is not
 * remembered. */
void pl_recent_spell(struct pl_recent *recent, const char *text);

#endif
