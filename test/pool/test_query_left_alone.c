/* test_query_left_alone.c: a pool is destroyed on a mux that nobody dispatches any more, while
 * somebody is still inside a write of a query. */
#include <criterion/criterion.h>
#include <poll.h>
#include <pthread.h>
#include <sys/socket.h>

#include "base/os.h"
#include "support/queries.h"
#include "support/query_peer.h"

#define LOOKS 50u /* at the clock, by who ends the pool: all that there is to do is done then */

static struct pl_os door;
static atomic_bool is_armed, is_there, is_ending;
static atomic_uint looks;
static pthread_t ender;
static struct query_peer *peer;
static struct pool_mux *mux;
static struct pool *pool;

static bool has_looked(void *unused)
{
    (void)unused;
    return atomic_load(&looks) >= LOOKS;
}

/* Whoever ends the pool shuts the socket down first. */
static ssize_t send_at_the_end(int fd, const void *data, size_t size, int flags)
{
    ssize_t sent = pl_os_real.send(fd, data, size, flags);
    struct pollfd polled = { .fd = fd, .events = POLLRDHUP };

    if (!atomic_exchange(&is_armed, false))
        return sent;
    atomic_store(&is_there, true);
    cr_expect_eq(poll(&polled, 1, VERBS_SOON), 1);
    atomic_store(&is_ending, true);
    cr_expect(wait_until(has_looked, NULL, VERBS_SOON));
    return sent;
}

static uint64_t look_at_the_clock(void)
{
    if (atomic_load(&is_ending) && pthread_equal(pthread_self(), ender))
        atomic_fetch_add(&looks, 1);
    return pl_os_real.now_ns();
}

static bool is_set(void *flag)
{
    return atomic_load((atomic_bool *)flag);
}

static void *ask(void *status)
{
    struct pool_reply *reply = NULL;

    *(enum pool_status *)status =
        pool_query(pool, query_peer_address(peer), POOL_TEXT("asked"),
                   POOL_CALL(.timeout_ms = VERBS_SOON), &reply);
    pool_reply_free(reply);
    return NULL;
}

Test(query_left_alone, a_pool_ends_though_a_writer_leaves_after_the_last_look, .timeout = 60)
{
    enum pool_status status = POOL_OK;
    struct query first = { 0 };
    pthread_t asker;

    door = pl_os_real;
    door.send = send_at_the_end;
    door.now_ns = look_at_the_clock;
    ender = pthread_self();
    peer = QUERY_PEER(.is_line = false);
    cr_assert_eq(pool_mux_create(&mux), POOL_OK);
    pool = MAKE_POOL(.mux = mux, .codec = pool_codec_length());
    cr_assert_eq(start_query(&first, pool, query_peer_address(peer), "first", NULL), POOL_OK);
    while (!atomic_load(&first.told))
        cr_assert_eq(pool_mux_dispatch(mux, 10), POOL_OK);
    pl_os_replace(&door);
    atomic_store(&is_armed, true);
    cr_assert_eq(pthread_create(&asker, NULL, ask, &status), 0);
    cr_assert(wait_until(is_set, &is_there, VERBS_SOON));
    pool_destroy(pool);
    pthread_join(asker, NULL);
    cr_expect_eq(status, POOL_E_CLOSING, "%s", pool_status_name(status));
    pl_os_replace(NULL);
    pool_mux_destroy(mux);
    query_peer_stop(peer);
}
