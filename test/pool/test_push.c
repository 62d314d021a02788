/* test_push.c: what waits to be told to an actor is bounded, whatever a peer sends: an empty
 * message takes memory, too. */
#include <criterion/criterion.h>
#include <semaphore.h>
#include <string.h>

#include "commpool/query.h"
#include "support/peer.h"
#include "support/verbs.h"

#define FRAME 12u
#define AT_ONCE 2500u /* what a peer sends by one command */

static sem_t may_go_on;
static atomic_uint told;

/* The mux waits in the first one until it may go on. */
static int on_message(struct pool_conn *conn, struct pool_bytes message, void *user)
{
    (void)conn, (void)user;
    cr_expect_eq(message.size, 0);
    if (atomic_fetch_add(&told, 1) == 0)
        sem_wait(&may_go_on);
    return 0;
}

static int attach(struct pool_conn *conn, struct pool_actor *actor, void *user)
{
    (void)conn, (void)user;
    actor->on_message = on_message;
    return 0;
}

static void push_empty_ones(struct peer *peer)
{
    static char frames[AT_ONCE * FRAME];

    for (unsigned i = 0; i < AT_ONCE; i++)
        memcpy(frames + i * FRAME, "\0\0\0\0\0\0\0\0\0\0\0\4", FRAME);
    cr_assert_eq(peer_push(peer, PEER_ALL, frames, sizeof(frames)), 1);
}

Test(push, empty_ones_that_wait_for_their_actor_are_bounded, .timeout = 60)
{
    struct peer *peer = PEER(.behave = PEER_SILENT);
    struct pool *pool = MAKE_POOL(.codec = pool_codec_length(), .on_new_connection = attach,
                                  .max_message = 32768, .timeout_ms = 1000);
    struct pool_bytes reply;
    struct pool_conn conn;

    sem_init(&may_go_on, 0, 0);
    cr_assert_eq(pool_borrow(pool, peer_address(peer), NULL, &conn), POOL_OK);
    push_empty_ones(peer);
    cr_expect_eq(pool_ask(&conn, POOL_TEXT("anything"), &reply), POOL_E_FULL);
    sem_post(&may_go_on);
    pool_discard(&conn);
    pool_destroy(pool);
    cr_expect_geq(atomic_load(&told), 1);
    cr_expect_lt(atomic_load(&told), AT_ONCE);
    peer_stop(peer);
}
