/* schedule_destroy.c: a pool ends at any moment: ended by another thread, by several at once, from
 * inside `use`, from on_lent, from the hook, from an actor, from an observer, from a timer; while
 * others borrow, wait, connect, cancel, hear and are called back.
 *
 * Whatever the schedule: every call ends once, with what its comment promises; nothing is called
 * after pool_destroy() came back, unless it was called from where callbacks run; and nothing is
 * left, no descriptor and no byte.
 *
 *     schedule_destroy [seed [rounds]]     the seed that a failure names repeats it, as a rule */
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "commpool/pool.h"
#include "schedule/schedule.h"
#include "support/peer.h"
#include "support/tests.h"

#define SECONDS 20
#define THREADS 6u
#define ASKED 6u

enum ender {
    BY_THREAD, BY_TWO, IN_USE, IN_ON_LENT, IN_HOOK, IN_ACTOR, IN_OBSERVER, IN_TIMER, ENDERS
};

static struct peer *peer;
static uint64_t seed_now;

/* One pool's life. */
struct round {
    struct pool *pool;
    struct pool_mux *mux; /* embedded; NULL: its own thread */
    enum ender ender;
    atomic_uint asked, answered, canceled, told_canceled, lent, parts;
    atomic_bool is_over, has_ended_outside;
    atomic_uint destroys, ending;
    struct pool_timer *timer;
};

static void fail(const char *what, int number)
{
    fprintf(stderr, "seed %llu: %s (%d)\n", (unsigned long long)seed_now, what, number);
    abort();
}

static void end_pool(struct round *round, bool is_inside)
{
    if (atomic_fetch_add(&round->destroys, 1) > 1)
        return;
    atomic_fetch_add(&round->ending, 1);
    pool_destroy(round->pool);
    /* Of two, the one that came second goes on at once. */
    if (atomic_fetch_sub(&round->ending, 1) == 1 && !is_inside)
        atomic_store(&round->has_ended_outside, true);
}

static bool is_allowed(enum pool_status status)
{
    switch (status) {
    case POOL_OK:
    case POOL_E_CLOSING:
    case POOL_E_CANCELED:
    case POOL_E_TIMEOUT:
    case POOL_E_TIMEOUT_IN_TRANSFER:
    case POOL_E_USER:
    case POOL_E_CLOSED:
    case POOL_E_BROKEN:
        return true;
    default:
        return false;
    }
}

static int use(struct pool_conn *conn, void *user)
{
    struct round *round = user;
    char bytes[8];

    if (pool_send(conn, "hello", 5))
        return -1;
    if (round->ender == IN_USE && schedule_chance(3) == 0)
        end_pool(round, false);
    if (pool_recv_exact(conn, bytes, 5))
        return -1;
    if (memcmp(bytes, "hello", 5) && !memchr("unasked", bytes[0], 7))
        fail("another's bytes", bytes[0]);
    return bytes[0] == 'h' ? 0 : -1; /* the push may come in the middle of a loan */
}

static void talk(struct round *round)
{
    for (int i = 0; i < 3 && !atomic_load(&round->is_over); i++) {
        enum pool_status status =
            pool_communicate(round->pool, peer_address(peer), use, round,
                             POOL_CALL(.timeout_ms = 200 + schedule_chance(2000)));

        if (!is_allowed(status))
            fail("pool_communicate", status);
    }
}

static void borrow(struct round *round)
{
    struct pool_ticket *ticket = NULL;
    struct pool_conn conn;
    enum pool_status status;

    for (int i = 0; i < 3 && !atomic_load(&round->is_over); i++) {
        bool has_ticket = schedule_chance(2);

        status = pool_borrow(round->pool, peer_address(peer),
                             POOL_CALL(.timeout_ms = 500, .ticket = has_ticket ? &ticket : NULL),
                             &conn);
        if (!is_allowed(status))
            fail("pool_borrow", status);
        if (has_ticket && schedule_chance(2) && pool_ticket_cancel(ticket) && status)
            fail("canceled after its end", status);
        if (!status && schedule_chance(2))
            pool_discard(&conn);
        else if (!status)
            pool_return(&conn);
        if (has_ticket)
            pool_ticket_free(ticket);
        ticket = NULL;
    }
}

static void note_callback(struct round *round)
{
    if (atomic_load(&round->has_ended_outside))
        fail("called back after the end", round->ender);
}

static void on_lent(struct pool_conn *conn, const struct pool_error *error, void *user)
{
    struct round *round = user;
    struct pool_conn held;

    note_callback(round);
    if (!conn == !error)
        fail("on_lent with both or none", 0);
    if (error && !is_allowed(error->status))
        fail("on_lent", error->status);
    if (error && error->status == POOL_E_CANCELED)
        atomic_fetch_add(&round->told_canceled, 1);
    if (round->ender == IN_ON_LENT && schedule_chance(4) == 0)
        end_pool(round, true);
    if (conn) {
        atomic_fetch_add(&round->lent, 1);
        held = *conn;
        if (schedule_chance(3))
            pool_return(&held);
        else
            pool_discard(&held);
    }
    atomic_fetch_add(&round->answered, 1);
}

static void ask_async(struct round *round)
{
    struct pool_ticket *tickets[ASKED] = { NULL };

    for (unsigned i = 0; i < ASKED; i++) {
        bool has_ticket = schedule_chance(2);
        enum pool_status status;

        atomic_fetch_add(&round->asked, 1);
        status = pool_communicate_async(round->pool, peer_address(peer), on_lent, round,
                                        POOL_CALL(.timeout_ms = 100 + schedule_chance(1000)),
                                        has_ticket ? &tickets[i] : NULL);
        if (status) {
            atomic_fetch_sub(&round->asked, 1);
            if (status != POOL_E_CLOSING)
                fail("pool_communicate_async", status);
        }
    }
    for (unsigned i = 0; i < ASKED; i++) {
        if (tickets[i] && schedule_chance(2) && pool_ticket_cancel(tickets[i]))
            atomic_fetch_add(&round->canceled, 1);
        pool_ticket_free(tickets[i]);
    }
}

static int on_message(struct pool_conn *conn, struct pool_bytes message, void *user)
{
    struct round *round = user;

    (void)conn, (void)message;
    note_callback(round);
    if (round->ender == IN_ACTOR)
        end_pool(round, true);
    return 0;
}

static void on_close(uint64_t connection, const struct pool_error *error, void *user)
{
    (void)connection, (void)error;
    note_callback(user);
}

static int on_new(struct pool_conn *conn, struct pool_actor *actor, void *user)
{
    struct round *round = user;

    (void)conn;
    note_callback(round);
    if (round->ender == IN_HOOK)
        end_pool(round, true);
    actor->on_message = on_message;
    actor->on_close = on_close;
    actor->user = round;
    return schedule_chance(8) == 0 ? 5 : 0;
}

static void on_event(const struct pool_event_info *event, void *user)
{
    struct round *round = user;

    if (event->kind == POOL_EVENT_RETURNED && schedule_chance(4) == 0)
        end_pool(round, true);
}

static void on_timer(void *user)
{
    end_pool(user, true);
}

static void dispatch_on(struct round *round)
{
    while (!atomic_load(&round->is_over)) {
        enum pool_status status = pool_mux_dispatch(round->mux, 2);

        if (status)
            fail("pool_mux_dispatch", status);
    }
}

static void dawdle(unsigned most)
{
    for (unsigned i = schedule_chance(most); i > 0; i--)
        schedule_point();
}

static void part(unsigned index, void *argument)
{
    struct round *round = argument;
    bool is_ender = (round->ender == BY_THREAD && index == 5) ||
                    (round->ender == BY_TWO && (index == 4 || index == 5));

    if (index < 2)
        talk(round);
    else if (index == 2)
        borrow(round);
    else if (index == 3)
        ask_async(round);
    else if (index < THREADS)
        dawdle(3000);
    else
        dispatch_on(round);
    if (index == 4) {
        schedule_leave();
        peer_push(peer, PEER_ALL, "unasked", 7);
        schedule_come();
    }
    if (is_ender)
        end_pool(round, false);
    if (index < THREADS && atomic_fetch_sub(&round->parts, 1) == 1)
        atomic_store(&round->is_over, true);
}

/* ---- one round */

static atomic_llong held;

static void *count_malloc(size_t size)
{
    void *memory = malloc(size);

    if (memory)
        atomic_fetch_add(&held, 1);
    return memory;
}

static void *count_realloc(void *memory, size_t size)
{
    void *moved = realloc(memory, size);

    if (moved && !memory)
        atomic_fetch_add(&held, 1);
    return moved;
}

static void count_free(void *memory)
{
    if (memory)
        atomic_fetch_sub(&held, 1);
    free(memory);
}

struct left {
    int descriptors;
    long long held;
};

static bool is_clean(void *argument)
{
    const struct left *before = argument;

    return count_descriptors() <= before->descriptors && atomic_load(&held) <= before->held;
}

static bool is_all_answered(void *argument)
{
    struct round *round = argument;

    if (round->mux)
        pool_mux_dispatch(round->mux, POOL_ZERO);
    return atomic_load(&round->answered) == atomic_load(&round->asked);
}

static void play(uint64_t seed)
{
    struct round round = { .ender = (enum ender)(seed % ENDERS), .parts = THREADS };
    struct left before = { count_descriptors(), atomic_load(&held) };
    bool is_embedded = seed / ENDERS % 2 || round.ender == IN_TIMER;

    seed_now = seed;
    schedule_begin(seed, 3 + (unsigned)(seed / 7 % 60));
    if (is_embedded && pool_mux_create(&round.mux))
        fail("no mux", 0);
    if (pool_create(POOL_OPTIONS(.mux = round.mux, .max_per_address = 1 + (uint32_t)(seed / 3 % 3),
                                 .park_ms = seed / 5 % 2 ? 1 : 0, .on_new_connection = on_new,
                                 .on_event = round.ender == IN_OBSERVER ? on_event : NULL,
                                 .user = &round),
                    &round.pool))
        fail("no pool", 0);
    if (round.ender == IN_TIMER && pool_mux_after(round.mux, 1, on_timer, &round, &round.timer))
        fail("no timer", 0);
    schedule_run(THREADS + is_embedded, part, &round);
    if (atomic_fetch_add(&round.destroys, 1) == 0)
        pool_destroy(round.pool);
    schedule_end();
    if (!wait_until(is_all_answered, &round, 20000))
        fail("calls without an answer", (int)(round.asked - round.answered));
    /* A loan that was delivered can be canceled, too: what it does then fails. */
    if (round.told_canceled + round.lent < round.canceled)
        fail("canceled, but not told so", (int)(round.canceled - round.told_canceled));
    pool_timer_cancel(round.timer);
    pool_mux_destroy(round.mux);
    if (!wait_until(is_clean, &before, 20000))
        fail("left behind: descriptors", count_descriptors() - before.descriptors);
}

int main(int argc, char **argv)
{
    uint64_t seed = argc > 1 ? strtoull(argv[1], NULL, 0) : now_us();
    unsigned long rounds = argc > 2 ? strtoul(argv[2], NULL, 0) : argc > 1 ? 200 : 0, played = 0;
    uint64_t start_ms = now_ms();

    pool_set_allocator(count_malloc, count_realloc, count_free);
    peer = PEER(.own_process = true);
    if (!peer)
        return 2;
    for (; rounds ? played < rounds : elapsed_ms(start_ms) < SECONDS * 1000; played++) {
        alarm(60);
        play(argc > 1 ? seed : seed + played);
    }
    peer_stop(peer);
    printf("%lu rounds from seed %llu, %llu points, %llu switches\n", played,
           (unsigned long long)seed, (unsigned long long)schedule_points(),
           (unsigned long long)schedule_switches());
    return 0;
}
