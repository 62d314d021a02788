/* stress_borrow.c: a crowd of threads does everything that can be done with connections, to
 * steady peers and to peers that push, reset, close, restart and refuse.
 *
 * What must hold: no reply is ever another's; no connection is with two at once, and none comes
 * back that was thrown away; of two who return one loan exactly one does; calls to steady peers
 * with enough time succeed, all others end in time with an error that fits; the gauges of every
 * snapshot add up, and at the end nothing is left.
 *
 * Each of three pools, differently configured, gets a third of the time. */
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "stress/crowd.h"
#include "support/peer.h"
#include "support/tests.h"

#define THREADS 12u
#define CHAOS THREADS /* the thread that troubles the peers */
#define BOXES 3u

/* Two threads with a handle each to the same loan. */
struct box {
    _Atomic int state; /* enum box_state */
    struct pool_conn conn;
    int status; /* what the other one's return answered */
};
enum box_state { BOX_EMPTY, BOX_FILLING, BOX_OPEN, BOX_TAKEN, BOX_DONE };

static struct pool *pool;
static struct box boxes[BOXES];
static atomic_ullong shared, doubled;
static atomic_uint workers_left, observers;

static const struct place *some_place(void)
{
    return &places[stress_below(self, stress_chance(self, 60) ? 4 : PLACES)];
}

/* Steady peers mostly get all the time they may need. */
static struct pool_call some_call(const struct place *place)
{
    struct pool_call call = { .size = sizeof(call), .timeout_ms = ENOUGH_MS };

    if (place->temper != STEADY)
        call.timeout_ms = 20 + stress_below(self, 200);
    else if (stress_chance(self, 10))
        call.timeout_ms = 1 + stress_below(self, 8);
    if (stress_chance(self, 5))
        call.flags |= POOL_DONT_WAIT;
    if (stress_chance(self, 5))
        call.flags |= POOL_SAFE_TO_REPEAT;
    return call;
}

static void end_loan(struct pool_conn *conn, struct card *card, int answer)
{
    int status;

    if (answer)
        retire(card);
    let_go(card);
    status = answer ? pool_discard(conn) : pool_return(conn);
    if (status)
        stress_fail("giving back answered %s", pool_status_name((enum pool_status)status));
}

/* ---- what the threads do */

struct use {
    const struct place *place;
    int answer;
};

static int use_it(struct pool_conn *conn, void *user)
{
    struct use *use = user;
    struct card *card = hold(conn, use->place);

    use->answer = talk(conn, card, use->place);
    if (use->answer)
        retire(card);
    let_go(card);
    return use->answer;
}

static void communicate(void)
{
    struct use use = { .place = some_place() };
    struct pool_call call = some_call(use.place);
    struct pool_target *target = NULL;
    uint64_t start_ms = now_ms();
    int status;

    if (stress_chance(self, 20) && pool_target_get(pool, use.place->address, &target))
        stress_fail("no target of %s", use.place->address);
    call.target = target;
    use.answer = -1;
    status = pool_communicate(pool, target ? NULL : use.place->address, use_it, &use, &call);
    judge("communicate", status, use.place, &call, start_ms);
    if (!status && use.answer)
        stress_fail("communicate says OK, use said %d", use.answer);
    if (!use.answer && status)
        stress_fail("use was content, communicate says %s",
                    pool_status_name((enum pool_status)status));
    pool_target_free(target);
}

/* Borrows by hand; NULL: it failed as it may. */
static struct card *borrow(const struct place *place, struct pool_call *call,
                           struct pool_conn *conn)
{
    uint64_t start_ms = now_ms();
    int status = pool_borrow(pool, place->address, call, conn);

    judge("borrow", status, place, call, start_ms);
    return status ? NULL : hold(conn, place);
}

static void by_hand(void)
{
    const struct place *place = some_place();
    struct pool_call call = some_call(place);
    struct pool_conn conn;
    struct card *card = borrow(place, &call, &conn);

    if (card)
        end_loan(&conn, card, talk(&conn, card, place));
}

/* While it has one, the thread takes another; in vain if all who do so wait for each other. */
static void two_at_once(void)
{
    const struct place *place = &places[0], *other = &places[1 + stress_below(self, 3)];
    struct pool_call call = some_call(place), short_call = some_call(other);
    struct pool_conn conn, second;
    struct card *card = borrow(place, &call, &conn), *second_card;

    if (!card)
        return;
    short_call.timeout_ms = 1 + stress_below(self, 50);
    second_card = borrow(other, &short_call, &second);
    if (second_card)
        end_loan(&second, second_card, talk(&second, second_card, other));
    end_loan(&conn, card, talk(&conn, card, place));
}

static void throw_away(void)
{
    const struct place *place = some_place();
    struct pool_call call = some_call(place);
    struct pool_conn conn;
    struct card *card = borrow(place, &call, &conn);

    if (!card)
        return;
    if (stress_chance(self, 50))
        stress_send(self, &conn);
    end_loan(&conn, card, 1);
}

/* Its answer is still to come: whoever had it next would hear it. */
static void return_dirty(void)
{
    const struct place *place = some_place();
    struct pool_call call = some_call(place);
    struct pool_conn conn;
    struct card *card = borrow(place, &call, &conn);

    if (!card)
        return;
    stress_send(self, &conn);
    retire(card);
    end_loan(&conn, card, 0);
}

/* The number is the program's from then on, which closes it. */
static void mark_dead(void)
{
    const struct place *place = some_place();
    struct pool_call call = some_call(place);
    struct pool_conn conn;
    struct card *card = borrow(place, &call, &conn);
    int fd, status;

    if (!card)
        return;
    fd = pool_conn_fd(&conn);
    if (pool_mark_as_dead(pool, fd) != 1)
        stress_fail("the lent descriptor %d was not found", fd);
    status = stress_send(self, &conn);
    if (status != POOL_E_BROKEN)
        stress_fail("sending on a dead one answers %s", pool_status_name((enum pool_status)status));
    retire(card);
    end_loan(&conn, card, 0);
    close(fd);
}

static void misuse_stale(void)
{
    const struct place *place = some_place();
    struct pool_call call = some_call(place);
    struct pool_conn conn, copy;
    struct card *card = borrow(place, &call, &conn);
    size_t got;
    char byte;

    if (!card)
        return;
    copy = conn;
    end_loan(&conn, card, talk(&conn, card, place));
    if (pool_return(&copy) != POOL_E_ARGUMENT || pool_discard(&copy) != POOL_E_ARGUMENT ||
        pool_send(&copy, "x", 1) != POOL_E_ARGUMENT ||
        pool_recv(&copy, &byte, 1, &got) != POOL_E_ARGUMENT || pool_conn_id(&copy))
        stress_fail("a stale handle was taken");
}

/* ---- one loan, two handles */

/* The other one: returns a loan that somebody else is using right now. */
static void return_anothers(void)
{
    struct box *box = &boxes[stress_below(self, BOXES)];
    int open = BOX_OPEN;
    struct pool_conn conn;

    if (!atomic_compare_exchange_strong(&box->state, &open, BOX_TAKEN))
        return;
    conn = box->conn;
    if (stress_chance(self, 30))
        sched_yield();
    box->status = stress_chance(self, 30) ? pool_discard(&conn) : pool_return(&conn);
    atomic_store(&box->state, BOX_DONE);
}

static void share(void)
{
    const struct place *place = &places[stress_below(self, 4)];
    struct box *box = &boxes[stress_below(self, BOXES)];
    struct pool_call call = some_call(place);
    struct pool_conn conn;
    struct card *card;
    int state = BOX_EMPTY, status;

    if (!atomic_compare_exchange_strong(&box->state, &state, BOX_FILLING))
        return;
    card = borrow(place, &call, &conn);
    if (!card) {
        atomic_store(&box->state, BOX_EMPTY);
        return;
    }
    let_go(card);
    box->conn = conn;
    atomic_store(&box->state, BOX_OPEN);
    if (stress_chance(self, 20))
        sched_yield();
    self->must_copy = true;
    stress_ask(self, &conn, NULL);
    self->must_copy = false;
    status = pool_return(&conn);
    atomic_fetch_add(&shared, 1);
    state = BOX_OPEN;
    if (atomic_compare_exchange_strong(&box->state, &state, BOX_EMPTY)) {
        if (status)
            stress_fail("nobody else returned it, yet: %s",
                        pool_status_name((enum pool_status)status));
        return;
    }
    while (atomic_load(&box->state) != BOX_DONE)
        sched_yield();
    atomic_fetch_add(&doubled, 1);
    if ((status == POOL_OK) + (box->status == POOL_OK) != 1)
        stress_fail("two returned one loan: %s and %s", pool_status_name((enum pool_status)status),
                    pool_status_name((enum pool_status)box->status));
    atomic_store(&box->state, BOX_EMPTY);
}

/* ---- questions about the pool */

static void look_at_gauges(void)
{
    struct pool_stats stats = { .size = sizeof(stats) };

    stress_expect_even(pool);
    if (pool_stats(pool, &stats))
        stress_fail("no statistics");
    if (stats.waiting > THREADS || stats.lent > 2 * THREADS)
        stress_fail("%llu wait, %llu are lent", (unsigned long long)stats.waiting,
                    (unsigned long long)stats.lent);
}

static void ask_the_pool(void)
{
    struct pool_target *target;

    look_at_gauges();
    if (stress_chance(self, 30))
        pool_remove_some_connection(pool);
    if (pool_mark_as_dead(pool, (int)stress_below(self, 3)) || pool_mark_as_dead(pool, -1))
        stress_fail("the pool took a descriptor for its own that is not");
    if (pool_target_get(pool, some_place()->address, &target))
        stress_fail("no target");
    pool_target_free(target);
}

static void do_something(void)
{
    static void (*const rare[])(void) = { two_at_once,  throw_away, return_dirty, mark_dead,
                                          misuse_stale, share,      share,        ask_the_pool };
    unsigned dice = stress_below(self, 100);

    if (dice < 45)
        communicate();
    else if (dice < 65)
        by_hand();
    else
        rare[dice % (sizeof(rare) / sizeof(*rare))]();
    return_anothers();
}

/* ---- trouble */

static bool has_asked(void *argument)
{
    return atomic_load(&asked) >= *(unsigned long long *)argument || !stress_is_on();
}

static void trouble(struct peer *peer)
{
    switch (stress_below(self, 10)) {
    case 0:
        peer_close_all(peer);
        break;
    case 1:
        peer_reset_all(peer);
        break;
    case 2:
        peer_half_close_all(peer);
        break;
    case 3:
        if (!peer_restart(peer))
            stress_fail("the peer does not come up again");
        break;
    case 4:
        peer_set_after(peer, 40 + stress_below(self, 60));
        peer_set_behaviour(peer, stress_chance(self, 50) ? PEER_ACCEPT_CLOSE : PEER_TOKEN);
        break;
    case 5:
        peer_pause_reading(peer);
        break;
    default:
        peer_push(peer, PEER_ALL, "!stray\n", stress_chance(self, 50) ? 7 : 1);
        break;
    }
}

static void make_trouble(void)
{
    struct peer *peer = places[4 + stress_below(self, 3)].peer;
    unsigned long long until = atomic_load(&asked) + 1 + stress_below(self, 40);

    trouble(peer);
    wait_until(has_asked, &until, 1000);
    peer_resume_reading(peer);
    peer_set_behaviour(peer, PEER_TOKEN);
}

static void run(unsigned index, void *argument)
{
    struct stress_caller caller = stress_caller_make(index + 100 * *(unsigned *)argument);

    self = &caller;
    if (index == CHAOS) {
        while (atomic_load(&workers_left))
            make_trouble();
        return;
    }
    while (stress_is_on())
        do_something();
    atomic_fetch_sub(&workers_left, 1);
}

/* ---- the pools */

static void on_event(const struct pool_event_info *event, void *user)
{
    (void)event, (void)user;
    if (atomic_fetch_add(&observers, 1))
        stress_fail("two observers at once");
    atomic_fetch_sub(&observers, 1);
}

static int prepare(struct pool_conn *conn, void *user)
{
    (void)user;
    if (!self) {
        stress_fail("prepare runs on a thread that asked for nothing");
        return 1;
    }
    return stress_ask(self, conn, NULL);
}

/* Peers go down and come back here all the time; pauses after that are shown elsewhere. */
static const struct pool_options kinds[] = {
    { .size = sizeof(struct pool_options),
      .max_per_address = 4,
      .max_connections = 16,
      .backoff_first_ms = POOL_ZERO,
      .suspend_after = POOL_ZERO },
    { .size = sizeof(struct pool_options),
      .max_per_address = 5,
      .backoff_first_ms = POOL_ZERO,
      .suspend_after = POOL_ZERO,
      .max_connections = 12,
      .order = POOL_FIFO,
      .barge_ms = POOL_ZERO,
      .park_ms = 1,
      .idle_ms = 20,
      .max_idle = 3,
      .max_uses = 60,
      .max_age_ms = 300,
      .on_event = on_event },
    { .size = sizeof(struct pool_options),
      .max_per_address = 3,
      .backoff_first_ms = POOL_ZERO,
      .suspend_after = POOL_ZERO,
      .park_ms = 1,
      .max_connecting = 1,
      .check = POOL_CHECK_PARKED,
      .prepare = prepare },
};

static bool is_quiet(void *argument)
{
    struct pool_stats *stats = argument;

    stats->size = sizeof(*stats);
    return !pool_stats(pool, stats) && stats->total == stats->idle;
}

static void look_at_the_end(unsigned kind)
{
    struct pool_stats stats = { 0 };
    uint64_t closed = 0;

    if (!wait_until(is_quiet, &stats, 5000 * slowness()) || stats.lent || stats.waiting)
        stress_fail("pool %u: nobody has anything, yet lent %llu, opening %llu, closing %llu, "
                    "waiting %llu",
                    kind, (unsigned long long)stats.lent, (unsigned long long)stats.opening,
                    (unsigned long long)stats.closing, (unsigned long long)stats.waiting);
    for (unsigned i = 0; i < 16; i++)
        closed += stats.closed[i];
    if (stats.opened > closed + stats.total)
        stress_fail("pool %u: %llu opened, %llu closed, %llu here", kind,
                    (unsigned long long)stats.opened, (unsigned long long)closed,
                    (unsigned long long)stats.total);
    if (kinds[kind].prepare ? stats.borrowed < handed : stats.borrowed != handed)
        stress_fail("pool %u: %llu borrowed, %llu handed out", kind,
                    (unsigned long long)stats.borrowed, (unsigned long long)handed);
}

static void play(unsigned kind)
{
    int descriptors = count_descriptors();
    long blocks = stress_blocks();

    forget_cards();
    atomic_store(&handed, 0);
    atomic_store(&workers_left, THREADS);
    if (pool_create(&kinds[kind], &pool)) {
        stress_fail("no pool");
        return;
    }
    stress_begin_part(stress_seconds() * 1000 / 3);
    run_threads(THREADS + 1, run, &kind);
    look_at_the_end(kind);
    pool_destroy(pool);
    stress_expect_nothing_left(descriptors, blocks, "at the end");
    for (unsigned i = 0; i < PLACES; i++) {
        if (places[i].temper != ABSENT && !peer_wait_open(places[i].peer, 0, 5000 * slowness()))
            stress_fail("%s still has a connection", places[i].address);
    }
}

static void start_peers(void)
{
    for (unsigned i = 0; i < PLACES; i++) {
        struct place *place = &places[i];

        place->temper = i == PLACES - 1 ? ABSENT : i < 4 ? STEADY : UNSTEADY;
        place->peer =
            PEER(.behave = PEER_TOKEN, .own_process = true, .record_connections = 1,
                 .family = i == 3 || i == 6 ? AF_UNIX : AF_INET, .delay_ms = i == 2 ? 1 : 0);
        if (!place->peer)
            stress_fail("no peer");
        else
            place->address = peer_address(place->peer);
    }
    if (!stress_failures())
        peer_down(places[PLACES - 1].peer);
}

int main(int argc, char **argv)
{
    stress_begin(argc, argv, 6);
    start_peers();
    for (unsigned kind = 0; kind < sizeof(kinds) / sizeof(*kinds) && !stress_failures(); kind++)
        play(kind);
    for (unsigned i = 0; i < PLACES; i++)
        peer_stop(places[i].peer);
    return stress_end("%llu talks, %llu failed as they may, %llu strays, %llu shared loans, "
                      "%llu returned by two",
                      asked, failed_calls, strays, shared, doubled);
}
