/* test_lent_copies.c: a loan to event-driven code is returned while another thread operates on a
 * copy of its handle: what that operation leaves behind reaches nobody. */
#include <criterion/criterion.h>

#include "base/os.h"
#include "pool/lent_user.h"
#include "support/asks.h"
#include "support/peer.h"
#include "support/tests.h"
#include "support/verbs.h"

static struct pl_os door;
static __thread struct lent_user *returns_in_send;
static struct mux_hold hold;

/* The loan ends when the bytes are out, and before this thread has noted that they are. */
static ssize_t send_and_return(int fd, const void *data, size_t size, int flags)
{
    ssize_t sent = pl_os_real.send(fd, data, size, flags);
    struct lent_user *user = returns_in_send;
    struct pool_conn conn;

    returns_in_send = NULL;
    if (user) {
        conn = user->ask.conn;
        cr_expect_eq(pool_return(&conn), POOL_OK);
    }
    return sent;
}

static void send_on_copy(struct lent_user *user, bool ends_before_the_mux_comes)
{
    struct pool_conn copy = user->ask.conn;

    if (ends_before_the_mux_comes)
        cr_assert(hold_mux(user->mux.mux, &hold));
    returns_in_send = user;
    pool_send(&copy, "late", 4);
    let_mux_go(&hold);
}

static void return_beside_send(bool ends_before_the_mux_comes)
{
    struct peer *peer = PEER(.behave = PEER_SILENT, .own_process = true);
    struct lent_user *user;

    door = pl_os_real;
    door.send = send_and_return;
    pl_os_replace(&door);
    user = LENT_USER(peer, .park_ms = POOL_NONE);
    lent_watch(user);
    send_on_copy(user, ends_before_the_mux_comes);
    cr_expect(WAIT_STAT(user->pool, closed[POOL_CLOSE_DIRTY], 1), "its answer is still to come");
    user->ask.conn = (struct pool_conn){ 0 };
    lent_end(user, peer);
}

Test(lent_copies, an_operation_that_ends_before_the_mux_lets_go_is_seen)
{
    return_beside_send(true);
}

Test(lent_copies, an_operation_that_goes_on_ends_the_connection)
{
    return_beside_send(false);
}
