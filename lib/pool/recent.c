/* recent.c: see recent.h. */
#include "pool/recent.h"

#include "pool/pool.h"

void pl_recent_spell(struct pl_recent *recent, const char *text)
{
    size_t size = strlen(text) + 1;

    recent->text[0] = '\0';
    if (size <= sizeof(recent->text))
        memcpy(recent->text, text, size);
}

struct pl_recent *pl_recent_make(struct pl_thread *self, struct pl_peer *peer)
{
    struct pl_recent *recent = pl_recent_of_peer(self, peer);
    uint64_t generation = atomic_load(&peer->generation);

    if (recent && recent->generation == generation)
        return recent;
    if (!recent)
        recent = &self->recent[self->next_recent++ % PL_RECENT];
    *recent = (struct pl_recent){ .pool = peer->pool, .peer = peer, .generation = generation };
    recent->is_unlooked_at = peer->pool->settings.options.check == POOL_CHECK_NEVER;
    recent->is_plain = peer->pool->settings.is_plain;
    pl_recent_spell(recent, peer->text);
    return recent;
}
