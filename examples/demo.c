/* demo.c: the main job: a pool that lends warm connections, put to the test.
 *
 *     ./examples/run
 *
 * It starts a small server as a child process (support/peer.c), then shows four things:
 *   - 8 threads ask 200,000 times over at most 4 connections, and each gets its own answers;
 *   - 300 addresses are visited with 64 descriptors, and no visit fails;
 *   - messages that nobody asked for reach an actor, and no borrower sees one;
 *   - a descriptor that other code replaced by its own is noticed and left alone.
 * The table at the end compares what was expected with what was seen, on both sides of the wire.
 * The exit status is 0 only if every line of it is right. */
#include <commpool/pool.h>
#include <stdio.h>

#include "support/demo.h"

int main(void)
{
    static struct demo demo;
    bool is_right;

    show_init(&demo.show);
    printf("commpool %s\n\n", pool_version());
    if (!peer_start(&demo.peer, DEMO_ROOM + DEMO_ROOM_ADDRESSES))
        return 2;
    demo_crowd(&demo);
    demo_room(&demo);
    demo_push(&demo);
    demo_stolen(&demo);
    is_right = show_table(&demo.show);
    peer_stop(&demo.peer);
    return is_right ? 0 : 1;
}
