/* peer_timer.c: the timers of the loopback peer, one for each connection: a binary heap of
 * slots, soonest first.
 *
 * A link knows its place in the heap (from 1; 0 is none), so that its timer can move without a
 * search. */
#include "support/peer_parts.h"

static struct peer_link *at(struct peer_loop *loop, uint32_t place)
{
    return &loop->links[loop->heap[place]];
}

static void put(struct peer_loop *loop, struct peer_link *link, uint32_t place)
{
    loop->heap[place] = link->slot;
    link->heap_place = place;
}

static uint32_t rise(struct peer_loop *loop, struct peer_link *link, uint32_t place)
{
    while (place > 1 && at(loop, place / 2)->wake_us > link->wake_us) {
        put(loop, at(loop, place / 2), place);
        place /= 2;
    }
    put(loop, link, place);
    return place;
}

static void sink(struct peer_loop *loop, struct peer_link *link, uint32_t place)
{
    uint32_t child;

    for (; (child = 2 * place) <= loop->heap_count; place = child) {
        if (child < loop->heap_count && at(loop, child + 1)->wake_us < at(loop, child)->wake_us)
            child++;
        if (at(loop, child)->wake_us >= link->wake_us)
            break;
        put(loop, at(loop, child), place);
    }
    put(loop, link, place);
}

static void take_out(struct peer_loop *loop, struct peer_link *link)
{
    uint32_t place = link->heap_place;
    struct peer_link *last = at(loop, loop->heap_count--);

    link->heap_place = 0;
    if (last != link)
        sink(loop, last, rise(loop, last, place));
}

void peer_timer_set(struct peer_loop *loop, struct peer_link *link, uint64_t wake_us)
{
    if (link->heap_place && link->wake_us == wake_us)
        return;
    if (link->heap_place)
        take_out(loop, link);
    link->wake_us = wake_us;
    if (wake_us != PEER_NEVER)
        rise(loop, link, ++loop->heap_count);
}

struct peer_link *peer_timer_first(struct peer_loop *loop)
{
    return loop->heap_count ? at(loop, 1) : NULL;
}
