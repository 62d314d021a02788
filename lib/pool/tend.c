/* tend.c: see tend.h. Being tended too early does no harm: the peer is looked at, and put back. */
#include "pool/tend.h"

#include "base/os.h"
#include "pool/backoff.h"
#include "pool/drain.h"
#include "pool/names.h"
#include "pool/pool.h"
#include "pool/secure.h"
#include "pool/spare.h"

/* Room lock held. */
static void arm(struct pl_room *room, uint64_t when_ns)
{
    if (when_ns >= room->tend_ns)
        return;
    room->tend_ns = when_ns;
    pl_mux_timer_arm(room->mux, &room->tend_timer, when_ns);
}

void pl_tend_at(struct pl_room *room, struct pl_peer *peer, uint64_t when_ns)
{
    pthread_mutex_lock(&room->lock);
    if (!pl_list_is_linked(&peer->room.tend_link)) {
        pl_list_push_back(&room->tended, &peer->room.tend_link);
        peer->room.tend_ns = when_ns;
    }
    if (when_ns < peer->room.tend_ns)
        peer->room.tend_ns = when_ns;
    arm(room, when_ns);
    pthread_mutex_unlock(&room->lock);
}

/* One that is due, out of the list; its generation tells later if it is the same. NULL: none, and
 * the timer is set to the next one. */
static struct pl_peer *pop_due(struct pl_room *room, uint64_t now_ns, uint64_t *generation)
{
    struct pl_peer *due = NULL;
    uint64_t next_ns = PL_NEVER;

    pthread_mutex_lock(&room->lock);
    PL_LIST_EACH(link, &room->tended) {
        struct pl_peer *peer = pl_container(link, struct pl_peer, room.tend_link);

        if (!due && peer->room.tend_ns <= now_ns) {
            due = peer;
            *generation = atomic_load(&peer->generation);
            pl_list_unlink(link);
        } else if (peer->room.tend_ns < next_ns) {
            next_ns = peer->room.tend_ns;
        }
    }
    if (!due)
        arm(room, next_ns);
    pthread_mutex_unlock(&room->lock);
    return due;
}

static void tend(struct pl_room *room, struct pl_peer *peer, uint64_t now_ns)
{
    uint64_t next_ns, spare_ns, name_ns, drain_ns;

    pl_peer_supply(peer);
    if (pl_pool_is_forked(peer->pool))
        return;
    name_ns = pl_names_tend(peer, now_ns);
    if (pl_pool_is_forked(peer->pool))
        return;
    drain_ns = pl_drain_tend(peer, now_ns);
    if (pl_pool_is_forked(peer->pool))
        return;
    spare_ns = pl_spare_tend(peer, now_ns);
    if (pl_pool_is_forked(peer->pool))
        return;
    pthread_mutex_lock(&peer->lock);
    next_ns = pl_backoff_tend(peer, now_ns);
    pthread_mutex_unlock(&peer->lock);
    name_ns = pl_earlier(name_ns, pl_secure_tend(peer, now_ns));
    next_ns = pl_earlier(pl_earlier(name_ns, drain_ns), pl_earlier(spare_ns, next_ns));
    if (next_ns != PL_NEVER)
        pl_tend_at(room, peer, next_ns);
}

void pl_tend_on_timer(void *user)
{
    struct pl_room *room = user;
    uint64_t now_ns = pl_os->now_ns(), generation;
    struct pl_peer *peer;
    struct pool *pool;

    pthread_mutex_lock(&room->lock);
    room->tend_ns = PL_NEVER;
    pthread_mutex_unlock(&room->lock);
    while ((peer = pop_due(room, now_ns, &generation))) {
        if (!pl_peer_enter(peer, NULL, generation))
            continue;
        pool = peer->pool;
        tend(room, peer, now_ns);
        pl_peer_leave(peer);
        pl_pool_leave(pool);
    }
}
