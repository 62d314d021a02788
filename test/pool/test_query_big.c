/* test_query_big.c: huge replies beside small ones, on one connection and on several: nobody small
 * waits for more than the frame that is under way, and memory stays bounded. */
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <malloc.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "support/frames.h"
#include "support/queries.h"

#define MIB (1024u * 1024u)
#define PIECE 65536u
#define PIECES 1024u /* 64 MiB in all */
#define HUGE_ONE "B1024x65536"

/* ---- the library's memory */

static atomic_long held, most_held;

static void note_held(long more)
{
    long now = atomic_fetch_add(&held, more) + more, most = atomic_load(&most_held);

    while (now > most && !atomic_compare_exchange_weak(&most_held, &most, now))
        continue;
}

static void *counting_malloc(size_t size)
{
    void *memory = malloc(size);

    note_held(memory ? (long)malloc_usable_size(memory) : 0);
    return memory;
}

static void counting_free(void *memory)
{
    note_held(memory ? -(long)malloc_usable_size(memory) : 0);
    free(memory);
}

static void *counting_realloc(void *memory, size_t size)
{
    long before = memory ? (long)malloc_usable_size(memory) : 0;
    void *moved = realloc(memory, size);

    if (moved)
        note_held((long)malloc_usable_size(moved) - before);
    return moved;
}

static void begin(void)
{
    pool_set_allocator(counting_malloc, counting_realloc, counting_free);
}

TestSuite(query_big, .init = begin, .timeout = 60);

/* ---- parts */

struct listener {
    uint64_t bytes;
    unsigned wrong;
};

/* Each part has a letter of its own, which tells how many are to come. */
static void hear_part(struct pool_bytes part, void *user)
{
    struct listener *heard = user;
    unsigned left = PIECES - 1 - (unsigned)(heard->bytes / PIECE);
    char letter = (char)('a' + left % 26);

    if (part.size != PIECE || ((const char *)part.data)[0] != letter ||
        ((const char *)part.data)[PIECE - 1] != letter)
        heard->wrong++;
    heard->bytes += part.size;
}

static void expect_all(const struct listener *heard, const struct query *last)
{
    cr_expect_eq(last->status, POOL_OK, "%s", last->error.text);
    cr_expect_eq(last->size, PIECE);
    cr_expect_eq(heard->bytes, (uint64_t)PIECE * (PIECES - 1));
    cr_expect_eq(heard->wrong, 0);
}

Test(query_big, small_ones_get_between_the_parts_of_a_huge_reply)
{
    struct query_peer *peer = QUERY_PEER();
    struct pool *pool = MAKE_POOL(.codec = pool_codec_length(), .max_per_address = 1);
    struct query huge = { 0 };
    struct listener heard = { 0 };
    unsigned between = 0;
    uint64_t start_us, slowest_us = 0, whole_us = now_us();

    cr_assert_eq(start_query(&huge, pool, query_peer_address(peer), HUGE_ONE,
                             POOL_CALL(.timeout_ms = VERBS_SOON, .on_part = hear_part,
                                       .user = &heard)),
                 POOL_OK);
    while (!huge.told) {
        struct query small = { 0 };

        start_us = now_us();
        ask_and_wait(&small, pool, query_peer_address(peer), "small", NULL);
        cr_assert(is_answered_with(&small, "small"));
        start_us = now_us() - start_us;
        slowest_us = start_us > slowest_us ? start_us : slowest_us;
        between += !huge.told;
    }
    whole_us = now_us() - whole_us;
    fprintf(stderr, "%u small ones in %u ms of a huge one, the slowest took %u us; %ld KiB held\n",
            between, (unsigned)(whole_us / 1000), (unsigned)slowest_us, most_held / 1024);
    expect_all(&heard, &huge);
    cr_expect_gt(between, 1);
    cr_expect_lt(most_held, 4L * MIB);
    cr_expect_eq(query_peer_accepted(peer), 1);
    pool_destroy(pool);
    query_peer_stop(peer);
}

/* ---- a receiver that is slower than the peer */

struct slow {
    struct listener heard;
    struct pool *pool; /* what else it does with each part */
    const char *address;
    unsigned wrong;
};

static void hear_slowly(struct pool_bytes part, void *user)
{
    struct slow *slow = user;

    hear_part(part, &slow->heard);
    for (unsigned i = 0; i < 10; i++) {
        struct query query = { 0 };

        ask_and_wait(&query, slow->pool, slow->address, "meanwhile", NULL);
        slow->wrong += query.status != POOL_OK;
    }
}

Test(query_big, a_slow_receiver_of_parts_holds_up_the_peer_and_keeps_no_heap)
{
    struct query_peer *peer = QUERY_PEER(), *other = QUERY_PEER();
    struct pool *pool =
        MAKE_POOL(.codec = pool_codec_length(), .max_message = MIB, .max_per_address = 1);
    struct slow slow = { .pool = MAKE_POOL(.codec = pool_codec_length()),
                         .address = query_peer_address(other) };
    struct query huge = { 0 }, next = { 0 };

    ask_and_wait(&huge, pool, query_peer_address(peer), HUGE_ONE,
                 POOL_CALL(.timeout_ms = VERBS_SOON, .on_part = hear_slowly, .user = &slow));
    expect_all(&slow.heard, &huge);
    cr_expect_eq(slow.wrong, 0);
    cr_expect_lt(most_held, 8L * MIB, "%ld KiB were held", most_held / 1024);
    ask_and_wait(&next, pool, query_peer_address(peer), "next", NULL);
    cr_expect(is_answered_with(&next, "next"));
    cr_expect_eq(query_peer_accepted(peer), 1);
    pool_destroy(pool);
    pool_destroy(slow.pool);
    query_peer_stop(peer);
    query_peer_stop(other);
}

static atomic_bool may_go_on;

static bool goes_on(void *unused)
{
    (void)unused;
    return atomic_load(&may_go_on);
}

static void hear_later(struct pool_bytes part, void *user)
{
    (void)part, (void)user;
    wait_until(goes_on, NULL, VERBS_SOON);
}

static bool has_ticket(void *ticket)
{
    return __atomic_load_n((struct pool_ticket **)ticket, __ATOMIC_ACQUIRE);
}

static bool is_held_up(void *pool)
{
    return STAT(pool, bytes_in) > 100u * PIECE;
}

Test(query_big, neighbours_go_on_when_a_receiver_that_held_them_up_is_canceled)
{
    struct query_peer *peer = QUERY_PEER();
    struct pool *pool = MAKE_POOL(.codec = pool_codec_length(), .max_message = 100u * PIECE,
                                  .max_per_address = 1);
    struct pool_ticket *ticket = NULL;
    struct asker huge = { .query = { 0 } };
    struct query small = { 0 };

    cr_assert(start_asker(&huge, pool, query_peer_address(peer), "B150x65536",
                          POOL_CALL(.timeout_ms = VERBS_SOON, .on_part = hear_later,
                                    .ticket = &ticket)));
    cr_assert(wait_until(has_ticket, &ticket, VERBS_SOON));
    cr_assert(wait_until(is_held_up, pool, VERBS_SOON));
    cr_assert_eq(start_query(&small, pool, query_peer_address(peer), "small", NULL), POOL_OK);
    pool_ticket_cancel(ticket);
    cr_expect(wait_answered(&small));
    cr_expect(is_answered_with(&small, "small"));
    cr_expect_eq(huge.query.told, 0, "it still hears its first part");
    atomic_store(&may_go_on, true);
    cr_expect_eq(join_asker(&huge), POOL_E_CANCELED);
    pool_ticket_free(ticket);
    cr_expect_eq(query_peer_accepted(peer), 1);
    pool_destroy(pool);
    query_peer_stop(peer);
}

/* ---- in one frame */

/* A peer of this thread's own, which sends as much as it is told to. */
struct by_hand {
    int listening, fds[2];
    char address[64];
};

static void listen_by_hand(struct by_hand *peer)
{
    struct sockaddr_in name = { .sin_family = AF_INET,
                                .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t size = sizeof(name);

    peer->listening = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    cr_assert_eq(bind(peer->listening, (struct sockaddr *)&name, size), 0);
    cr_assert_eq(listen(peer->listening, 10), 0);
    cr_assert_eq(getsockname(peer->listening, (struct sockaddr *)&name, &size), 0);
    snprintf(peer->address, sizeof(peer->address), "tcp://127.0.0.1:%d", ntohs(name.sin_port));
}

static int accept_by_hand(const struct by_hand *peer)
{
    int on = 1, fd = accept(peer->listening, NULL, NULL);

    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    return fd;
}

/* Reads a request of five bytes and answers its id. */
static uint32_t hear_five(int fd)
{
    char frame[FRAME_HEAD + 5];

    cr_assert(read_exactly(fd, frame, sizeof(frame), VERBS_SOON));
    return frame_read_head(frame).id;
}

static void begin_reply(int fd, uint32_t id, uint32_t size)
{
    char head[FRAME_HEAD];

    frame_write_head(head, &(struct frame_head){ size, id, FRAME_REPLY });
    cr_assert(write_exactly(fd, head, sizeof(head), VERBS_SOON));
}

static void answer_five(int fd)
{
    begin_reply(fd, hear_five(fd), 5);
    cr_assert(write_exactly(fd, "small", 5, VERBS_SOON));
}

static void *send_rest(void *user)
{
    static char rest[64 * MIB];

    write_exactly(*(int *)user, rest, sizeof(rest) - PIECE, VERBS_SOON);
    return NULL;
}

static bool has_come(void *pool)
{
    return STAT(pool, bytes_in) > PIECE;
}

Test(query_big, small_ones_take_another_connection_while_a_huge_frame_comes_in)
{
    static char piece[PIECE];
    struct by_hand peer;
    struct pool *pool;
    struct query huge = { 0 }, small[100] = { { 0 } };
    pthread_t sending;

    listen_by_hand(&peer);
    pool = MAKE_POOL(.codec = pool_codec_length(), .max_message = 65 * MIB, .max_per_address = 2);
    cr_assert_eq(start_query(&huge, pool, peer.address, "huge!", NULL), POOL_OK);
    peer.fds[0] = accept_by_hand(&peer);
    begin_reply(peer.fds[0], hear_five(peer.fds[0]), 64 * MIB);
    cr_assert(write_exactly(peer.fds[0], piece, sizeof(piece), VERBS_SOON));
    cr_assert(wait_until(has_come, pool, VERBS_SOON));
    for (unsigned i = 0; i < 100; i++) {
        cr_assert_eq(start_query(&small[i], pool, peer.address, "small", NULL), POOL_OK);
        if (i == 0)
            peer.fds[1] = accept_by_hand(&peer);
        answer_five(peer.fds[1]);
        cr_assert(wait_answered(&small[i]));
        cr_expect(is_answered_with(&small[i], "small"));
    }
    cr_expect_eq(huge.told, 0);
    cr_assert_eq(pthread_create(&sending, NULL, send_rest, &peer.fds[0]), 0);
    cr_expect(wait_answered(&huge));
    pthread_join(sending, NULL);
    cr_expect_eq(huge.size, 64u * MIB);
    cr_expect_lt(most_held, 140L * MIB, "%ld KiB were held", most_held / 1024);
    pool_destroy(pool);
    cr_expect_lt(held, (long)MIB);
    close(peer.fds[0]);
    close(peer.fds[1]);
    close(peer.listening);
}

/* It waits for the frame, and for no more. */
Test(query_big, where_one_connection_is_allowed_a_small_one_comes_right_behind_the_frame)
{
    struct query_peer *peer = QUERY_PEER();
    struct pool *pool = MAKE_POOL(.codec = pool_codec_length(), .max_message = 65 * MIB,
                                  .max_per_address = 1);
    struct query huge = { 0 }, small = { 0 }, last = { 0 };

    cr_assert_eq(start_query(&huge, pool, query_peer_address(peer), "B1x67108864", NULL), POOL_OK);
    cr_assert(query_peer_wait_requests(peer, 1));
    cr_assert_eq(start_query(&small, pool, query_peer_address(peer), "small", NULL), POOL_OK);
    ask_and_wait(&last, pool, query_peer_address(peer), "last", NULL);
    cr_expect(is_answered_with(&last, "last"));
    cr_expect(wait_answered(&huge) && wait_answered(&small));
    cr_expect_eq(huge.size, 64u * MIB);
    cr_expect(is_answered_with(&small, "small"));
    cr_expect_lt(huge.place, small.place);
    cr_expect_eq(query_peer_accepted(peer), 1);
    pool_destroy(pool);
    query_peer_stop(peer);
}
