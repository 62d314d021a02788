/* test_query_stolen.c: a descriptor that queries share is closed and given to other code: nobody
 * reads from it any more. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <unistd.h>

#include "pool/query_scene.h"
#include "support/tests.h"

TestSuite(query_stolen, .init = query_scene_plain, .fini = query_scene_end, .timeout = 60);

static atomic_int shared_fd;

static int note_number(struct pool_conn *conn, struct pool_actor *actor, void *user)
{
    (void)actor;
    (void)user;
    atomic_store(&shared_fd, pool_conn_fd(conn));
    return 0;
}

/* One reads when the number is taken, and gets his reply by the socket that he waits at; the next
 * one must not go on with the number. */
static void steal_beside_readers(const struct pool_codec *codec)
{
    struct asker first, second;
    int pair[2], fd;

    pool = MAKE_POOL(.codec = codec, .on_new_connection = note_number, .max_per_address = 1);
    cr_assert(start_asker(&first, pool, address, "D500", NULL));
    cr_assert(query_peer_wait_requests(peer, 1));
    cr_assert(start_asker(&second, pool, address, "Never", NULL));
    cr_assert(query_peer_wait_requests(peer, 2));
    cr_assert(let_peer_take_time(100));
    fd = atomic_load(&shared_fd);
    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    cr_assert_eq(dup2(pair[0], fd), fd);
    close(pair[0]);
    cr_assert(write_exactly(pair[1], "FOREIGN", 7, VERBS_SOON));
    cr_expect_eq(join_asker(&first), POOL_OK);
    cr_expect_eq(join_asker(&second), POOL_E_BROKEN, "%s", second.query.error.text);
    cr_expect_lt(second.took_ms, VERBS_SOON / 2);
    cr_expect_eq(listen_to(fd, 0), HEARD_BYTES, "they are the other code's");
    pool_destroy(pool);
    pool = NULL;
    cr_expect_eq(listen_to(fd, 0), HEARD_BYTES, "and the socket is");
    cr_expect_eq(listen_to(pair[1], 0), HEARD_NOTHING);
    close(fd);
    close(pair[1]);
}

Test(query_stolen, the_next_reader_leaves_other_codes_socket_alone)
{
    steal_beside_readers(pool_codec_length());
}

/* ---- whose thread tells of the end */

static _Thread_local bool is_asker;
static atomic_uint ends, ends_on_asker;

static void note_end(const struct pool_event_info *event, void *user)
{
    (void)user;
    if (event->kind != POOL_EVENT_CONNECTION_CLOSED)
        return;
    atomic_fetch_add(&ends, 1);
    if (is_asker)
        atomic_fetch_add(&ends_on_asker, 1);
}

/* Others count on a thread whose query moves to read for them: it has no time for observers. */
Test(query_stolen, a_thread_whose_query_moves_on_tells_nobody_of_the_end)
{
    struct query query = { 0 };

    QUERY_SCENE(.reset_after = 1, .only_first = 1);
    pool = MAKE_POOL(.codec = pool_codec_length(), .on_event = note_end);
    is_asker = true;
    ask_and_wait(&query, pool, address, "again",
                 POOL_CALL(.timeout_ms = VERBS_SOON, .flags = POOL_SAFE_TO_REPEAT));
    is_asker = false;
    cr_expect(is_answered_with(&query, "again"));
    cr_expect_eq(atomic_load(&ends), 1);
    cr_expect_eq(atomic_load(&ends_on_asker), 0);
}
