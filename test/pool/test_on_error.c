/* test_on_error.c: who decides about a failed attempt, what is made again and what never is. In the
 * scripted world, which has its own clock. */
#include <criterion/criterion.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "base/os.h"
#include "commpool/pool.h"
#include "support/verbs.h"
#include "world/world.h"

#define A "tcp://10.0.0.1:80"
#define B "tcp://10.0.0.2:80"
#define ABSENT 9

static struct world *world;
static struct world_peer *peer;
static struct pool *pool;
static struct pool_error told;

/* One level: what it says first, and from then on; and what it heard. */
struct level {
    int first, later;
    unsigned count, place;
    struct pool_error heard;
    pthread_t thread;
};

static unsigned places;
static struct level of_call, of_pool;

static enum pool_decision decide(const struct pool_error *error, void *user)
{
    struct level *level = user;

    level->heard = *error;
    level->thread = pthread_self();
    level->place = ++places;
    return (enum pool_decision)(level->count++ == 0 ? level->first : level->later);
}

static void begin(void)
{
    world = world_create(11);
    peer = WORLD_LISTEN(world, A, .behave = WORLD_REFUSE);
    WORLD_LISTEN(world, B, .behave = WORLD_ECHO);
    pl_os_replace(world_os(world));
    of_call = of_pool = (struct level){ .later = POOL_ABORT };
    places = 0;
    told = (struct pool_error)POOL_ERROR_INIT;
}

static void end(void)
{
    pool_destroy(pool);
    cr_expect_eq(world_descriptors(world), 0);
    cr_expect_eq(world_violations(world), 0);
    pl_os_replace(NULL);
    world_destroy(world);
}

TestSuite(on_error, .init = begin, .fini = end);

#define MAKE(...) cr_assert_eq(pool_create(POOL_OPTIONS(__VA_ARGS__), &pool), POOL_OK)
#define AT_ONCE .backoff_first_ms = POOL_ZERO, .suspend_after = POOL_NONE
#define UNLOOKED_AT .check = POOL_CHECK_NEVER, .park_ms = POOL_NONE

static struct pool_call with(struct level *level, uint32_t flags)
{
    return (struct pool_call){ .size = sizeof(struct pool_call),
                               .flags = flags,
                               .on_error = level ? decide : NULL,
                               .user = level,
                               .error = &told };
}

/* ---- the nine combinations, and those with one level missing */

static enum pool_status try(bool by_hand, const struct pool_call *call)
{
    struct pool_conn conn;
    enum pool_status status;

    if (!by_hand)
        return pool_communicate(pool, A, do_nothing, NULL, call);
    status = pool_borrow(pool, A, call, &conn);
    if (!status)
        pool_return(&conn);
    return status;
}

static void expect_last_decides(int call_says, int pool_says, bool by_hand)
{
    int last = pool_says != ABSENT ? pool_says : call_says;
    unsigned attempts = last == POOL_CONTINUE ? 2 : 1;
    struct pool_call call = with(call_says == ABSENT ? NULL : &of_call, 0);

    of_call = (struct level){ .first = call_says, .later = POOL_ABORT };
    of_pool = (struct level){ .first = pool_says, .later = POOL_ABORT };
    places = 0;
    MAKE(AT_ONCE, .on_error = pool_says == ABSENT ? NULL : decide, .user = &of_pool);
    cr_expect_eq(try(by_hand, &call), POOL_E_REFUSED);
    cr_expect_eq(told.status, POOL_E_REFUSED);
    cr_expect_eq(told.cause, ECONNREFUSED);
    cr_expect_eq(of_call.count, call_says == ABSENT ? 0 : attempts, "%d, %d", call_says, pool_says);
    cr_expect_eq(of_pool.count, pool_says == ABSENT ? 0 : attempts, "%d, %d", call_says, pool_says);
    if (of_call.count && of_pool.count)
        cr_expect_eq(of_pool.place, of_call.place + 1, "the call's level is asked first");
    cr_expect_eq(STAT(pool, retries), attempts - 1);
    cr_expect_eq(STAT(pool, borrow_failed), attempts);
    pool_destroy(pool);
    pool = NULL;
}

Test(on_error, the_last_level_that_ran_decides)
{
    static const int says[] = { POOL_ABORT, POOL_CONTINUE, POOL_FATAL, ABSENT };

    for (unsigned i = 0; i < 4; i++)
        for (unsigned j = 0; j < 4; j++)
            for (unsigned by_hand = 0; by_hand < 2; by_hand++)
                expect_last_decides(says[i], says[j], by_hand);
}

Test(on_error, both_levels_hear_the_whole_error_on_the_callers_thread)
{
    struct pool_call call = with(&of_call, 0);
    const struct level *levels[] = { &of_call, &of_pool };

    MAKE(.on_error = decide, .user = &of_pool);
    cr_expect_eq(try(false, &call), POOL_E_REFUSED);
    for (unsigned i = 0; i < 2; i++) {
        cr_expect_eq(levels[i]->count, 1);
        cr_expect(pthread_equal(levels[i]->thread, pthread_self()));
        cr_expect_eq(levels[i]->heard.status, POOL_E_REFUSED);
        cr_expect_eq(levels[i]->heard.phase, POOL_PHASE_CONNECT);
        cr_expect_eq(levels[i]->heard.outcome, POOL_NOT_SENT);
        cr_expect_eq(levels[i]->heard.cause, ECONNREFUSED);
        cr_expect_not_null(strstr(levels[i]->heard.text, A));
        cr_expect_str_eq(levels[i]->heard.text, told.text);
    }
}

/* ---- bounds */

Test(on_error, an_attempt_is_made_again_eight_times_at_most)
{
    struct pool_call call = with(&of_call, 0);

    of_call.first = of_call.later = POOL_CONTINUE;
    MAKE(AT_ONCE);
    cr_expect_eq(try(false, &call), POOL_E_REFUSED);
    cr_expect_eq(of_call.count, 9);
    cr_expect_eq(STAT(pool, retries), 8);
    cr_expect_eq(try(true, &call), POOL_E_REFUSED);
    cr_expect_eq(of_call.count, 18, "each call has its own eight");
}

Test(on_error, attempts_pause_and_the_pauses_grow)
{
    uint64_t took_ms = 0;

    for (unsigned round = 0; round < 20; round++) {
        struct pool_call call = with(&of_call, 0);
        uint64_t start_ms = world_now_ms(world);

        of_call.first = of_call.later = POOL_CONTINUE;
        of_call.count = 0;
        MAKE(.backoff_first_ms = 10, .suspend_after = POOL_NONE);
        cr_expect_eq(try(false, &call), POOL_E_REFUSED);
        cr_expect_eq(of_call.count, 9);
        took_ms += world_now_ms(world) - start_ms;
        pool_destroy(pool);
    }
    pool = NULL;
    cr_expect_geq(took_ms / 20, 10 * 255 / 4, "%llu ms", (unsigned long long)took_ms);
    cr_expect_leq(took_ms / 20, 10 * 255 * 2);
}

Test(on_error, a_pause_that_would_pass_the_deadline_is_not_begun)
{
    struct pool_call call = with(&of_call, 0);

    of_call.first = of_call.later = POOL_CONTINUE;
    call.timeout_ms = 300;
    MAKE(.backoff_first_ms = 100000, .backoff_max_ms = 100000, .suspend_after = POOL_NONE);
    cr_expect_eq(try(false, &call), POOL_E_REFUSED);
    cr_expect_leq(world_now_ms(world), 300);
    cr_expect_leq(of_call.count, 2);
}

Test(on_error, the_deadline_of_the_first_attempt_bounds_them_all)
{
    struct pool_call call = with(&of_call, 0);

    world_behave(peer, WORLD_BLACK_HOLE);
    of_call.first = of_call.later = POOL_CONTINUE;
    call.timeout_ms = 1000;
    MAKE(AT_ONCE, .connect_ms = 300);
    cr_expect_eq(try(false, &call), POOL_E_TIMEOUT);
    cr_expect_eq(of_call.count, 4, "300, 300, 300, and what was left");
    cr_expect_eq(world_now_ms(world), 1000);
}

static void destroy(void *argument)
{
    (void)argument;
    pool_destroy(pool);
    pool = NULL;
}

Test(on_error, a_pool_that_ends_during_a_pause_ends_it)
{
    struct pool_call call = with(&of_call, 0);

    of_call.first = of_call.later = POOL_CONTINUE;
    call.timeout_ms = POOL_NONE;
    MAKE(.backoff_first_ms = 100000, .backoff_max_ms = 100000, .suspend_after = POOL_NONE);
    world_at(world, 5, destroy, NULL);
    cr_expect_eq(try(false, &call), POOL_E_CLOSING);
    cr_expect_leq(world_now_ms(world), 6);
    cr_expect_eq(of_call.count, 2, "it is told of the end as well");
}

static void cancel(void *argument)
{
    struct pool_ticket **ticket = argument;

    cr_expect(pool_ticket_cancel(*ticket));
}

Test(on_error, a_call_that_is_canceled_during_a_pause_ends_at_once)
{
    struct pool_call call = with(&of_call, 0);
    struct pool_ticket *ticket = NULL;

    of_call.first = of_call.later = POOL_CONTINUE;
    call.timeout_ms = POOL_NONE;
    call.ticket = &ticket;
    MAKE(.backoff_first_ms = 100000, .backoff_max_ms = 100000, .suspend_after = POOL_NONE);
    world_at(world, 5, cancel, &ticket);
    cr_expect_eq(try(false, &call), POOL_E_CANCELED);
    cr_expect_leq(world_now_ms(world), 6);
    cr_expect_eq(told.status, POOL_E_CANCELED);
    pool_ticket_free(ticket);
}

/* ---- use */

struct runs {
    unsigned count;
    uint64_t ids[12];
    int answers;
};

static int use_counted(struct pool_conn *conn, void *user)
{
    struct runs *runs = user;

    if (runs->count < 12)
        runs->ids[runs->count] = pool_conn_id(conn);
    runs->count++;
    return runs->answers ? runs->answers : echo(conn, "ping");
}

/* A warm connection that nobody looks at, and that the peer has reset: the first send fails. */
static void leave_reset_one(void)
{
    cr_assert_eq(talk(pool, A), POOL_OK);
    world_settle(world);
    world_reset(world_link_at(peer, 0));
    world_settle(world);
}

static enum pool_status use_stale(int call_says, struct runs *runs, uint32_t flags)
{
    struct pool_call call = with(call_says == ABSENT ? NULL : &of_call, flags);

    world_behave(peer, WORLD_ECHO);
    of_call.first = call_says;
    MAKE(UNLOOKED_AT, .backoff_first_ms = 500);
    leave_reset_one();
    return pool_communicate(pool, A, use_counted, runs, &call);
}

Test(on_error, without_anybody_to_ask_a_stale_connection_is_replaced)
{
    struct runs runs = { 0 };

    cr_expect_eq(use_stale(ABSENT, &runs, 0), POOL_OK);
    cr_expect_eq(runs.count, 2);
}

Test(on_error, continue_replaces_a_stale_connection_without_a_pause)
{
    struct runs runs = { 0 };

    cr_expect_eq(use_stale(POOL_CONTINUE, &runs, 0), POOL_OK);
    cr_expect_eq(runs.count, 2);
    cr_expect_eq(runs.ids[0], 1);
    cr_expect_eq(runs.ids[1], 2);
    cr_expect_eq(of_call.count, 1);
    cr_expect_eq(of_call.heard.phase, POOL_PHASE_USE);
    cr_expect_eq(of_call.heard.outcome, POOL_NOT_SENT);
    cr_expect_eq(told.status, POOL_OK, "what was mended is not told");
    cr_expect_leq(world_now_ms(world), 2);
    cr_expect_eq(STAT(pool, retries), 1);
}

static void expect_not_replaced(int says)
{
    struct runs runs = { 0 };

    cr_expect_eq(use_stale(says, &runs, 0), POOL_E_BROKEN);
    cr_expect_eq(runs.count, 1);
    cr_expect_eq(of_call.count, 1, "it was told");
    cr_expect_eq(told.status, POOL_E_BROKEN);
    cr_expect_eq(STAT(pool, retries), 0);
}

Test(on_error, abort_fails_the_call_although_a_stale_connection_could_be_replaced)
{
    expect_not_replaced(POOL_ABORT);
}

Test(on_error, fatal_fails_the_call_although_a_stale_connection_could_be_replaced)
{
    expect_not_replaced(POOL_FATAL);
}

Test(on_error, abort_fails_what_use_answered)
{
    struct runs runs = { .answers = 42 };

    cr_expect_eq(use_stale(POOL_ABORT, &runs, 0), POOL_E_USER);
    cr_expect_eq(runs.count, 1);
    cr_expect_eq(told.status, POOL_E_USER);
}

Test(on_error, what_was_sent_is_not_repeated_however_often_somebody_says_continue)
{
    struct runs runs = { 0 };
    struct world_peer *closes = WORLD_LISTEN(world, "tcp://10.0.0.3:80",
                                             .behave = WORLD_CLOSE_RECEIVED, .after_bytes = 4);
    struct pool_call call = with(&of_call, 0);

    of_call.first = of_call.later = POOL_CONTINUE;
    MAKE(AT_ONCE);
    cr_expect_eq(pool_communicate(pool, "tcp://10.0.0.3:80", use_counted, &runs, &call),
                 POOL_E_CLOSED);
    cr_expect_eq(runs.count, 1);
    cr_expect_eq(of_call.count, 1, "it is told");
    cr_expect_eq(of_call.heard.outcome, POOL_MAYBE_SENT);
    cr_expect_eq(world_counts(closes).accepted, 1);
}

Test(on_error, what_is_safe_to_repeat_is_repeated_even_if_it_was_sent)
{
    struct runs runs = { 0 };
    struct world_peer *closes = WORLD_LISTEN(world, "tcp://10.0.0.3:80",
                                             .behave = WORLD_CLOSE_RECEIVED, .after_bytes = 4);
    struct pool_call call = with(&of_call, POOL_SAFE_TO_REPEAT);

    of_call.first = of_call.later = POOL_CONTINUE;
    MAKE(AT_ONCE);
    cr_expect_eq(pool_communicate(pool, "tcp://10.0.0.3:80", use_counted, &runs, &call),
                 POOL_E_CLOSED);
    cr_expect_eq(runs.count, 9);
    cr_expect_eq(world_counts(closes).accepted, 9);
}

Test(on_error, an_answer_of_use_is_a_failed_attempt_like_any_other)
{
    struct runs runs = { .answers = 42 };
    struct pool_call call = with(&of_call, 0);

    world_behave(peer, WORLD_ECHO);
    of_call.first = of_call.later = POOL_CONTINUE;
    MAKE(AT_ONCE);
    cr_expect_eq(pool_communicate(pool, A, use_counted, &runs, &call), POOL_E_USER);
    cr_expect_eq(runs.count, 9);
    cr_expect_eq(told.cause, 42);
    cr_expect_eq(told.phase, POOL_PHASE_USE);
}

static int give_away(struct pool_conn *conn, void *user)
{
    ++*(unsigned *)user;
    pool_discard(conn);
    return 3;
}

Test(on_error, a_use_that_gave_its_connection_away_is_not_run_again)
{
    struct pool_call call = with(&of_call, POOL_SAFE_TO_REPEAT);
    unsigned runs = 0;

    world_behave(peer, WORLD_ECHO);
    of_call.first = of_call.later = POOL_CONTINUE;
    MAKE(AT_ONCE);
    cr_expect_eq(pool_communicate(pool, A, give_away, &runs, &call), POOL_E_USER);
    cr_expect_eq(runs, 1);
    cr_expect_eq(of_call.count, 1);
}

/* ---- failures of the caller's own */

static void expect_told_once(const char *address, enum pool_status status)
{
    struct pool_call call = with(&of_call, 0);

    of_call = (struct level){ .first = POOL_CONTINUE, .later = POOL_CONTINUE };
    of_pool = (struct level){ .first = POOL_CONTINUE, .later = POOL_CONTINUE };
    cr_expect_eq(pool_communicate(pool, address, do_nothing, NULL, &call), status);
    cr_expect_eq(of_call.count, 1, "%s", pool_status_name(status));
    cr_expect_eq(of_pool.count, 1, "%s", pool_status_name(status));
    cr_expect_eq(of_call.heard.status, status);
    cr_expect_eq(told.status, status);
}

static void call_on_the_mux_thread(void *user)
{
    expect_told_once(B, POOL_E_WOULD_BLOCK);
    *(bool *)user = true;
}

Test(on_error, failures_of_the_callers_own_are_told_and_not_tried_again)
{
    struct pool_call call;
    bool is_done = false;
    struct pool_mux *mux;
    struct pool *other;
    struct pool_target *target;

    cr_assert_eq(pool_mux_create(&mux), POOL_OK);
    cr_assert_eq(pool_create(POOL_OPTIONS(.mux = NULL), &other), POOL_OK);
    cr_assert_eq(pool_target_get(other, B, &target), POOL_OK);
    MAKE(.mux = mux, .on_error = decide, .user = &of_pool);
    expect_told_once("tcp://nonsense", POOL_E_ADDRESS);
    cr_assert_eq(pool_mux_post(mux, call_on_the_mux_thread, &is_done), POOL_OK);
    cr_assert_eq(pool_mux_dispatch(mux, 0), POOL_OK);
    cr_expect(is_done);
    call = with(&of_call, 0);
    call.target = target;
    of_call.count = 0;
    cr_expect_eq(pool_communicate(pool, NULL, do_nothing, NULL, &call), POOL_E_ARGUMENT);
    cr_expect_eq(of_call.count, 1);
    pool_target_free(target);
    pool_destroy(other);
    pool_destroy(pool);
    pool = NULL;
    pool_mux_destroy(mux);
}

static enum pool_decision talk_to_b(const struct pool_error *error, void *user)
{
    (void)error;
    cr_expect_eq(talk(pool, B), POOL_OK);
    ++*(unsigned *)user;
    return POOL_ABORT;
}

Test(on_error, no_lock_is_held_while_somebody_decides)
{
    unsigned count = 0;

    MAKE(.on_error = talk_to_b, .user = &count);
    cr_expect_eq(talk(pool, A), POOL_E_REFUSED);
    cr_expect_eq(count, 1);
}

static enum pool_decision end_the_pool(const struct pool_error *error, void *user)
{
    (void)error, (void)user;
    destroy(NULL);
    return POOL_CONTINUE;
}

Test(on_error, who_decides_may_end_the_pool)
{
    struct pool_call call = { .size = sizeof(call), .on_error = end_the_pool };
    struct pool *ended;

    MAKE(AT_ONCE);
    ended = pool;
    cr_expect_eq(pool_communicate(ended, A, do_nothing, NULL, &call), POOL_E_CLOSING);
}

/* ---- asynchronous calls */

static void ask_three_times(struct pool_conn *conn, const struct pool_error *error, void *user)
{
    struct pool_call call = with(&of_call, 0);

    cr_expect_null(conn);
    cr_expect_eq(error->status, POOL_E_REFUSED);
    if (++*(unsigned *)user < 3)
        cr_expect_eq(pool_communicate_async(pool, A, ask_three_times, user, &call, NULL), POOL_OK);
}

Test(on_error, an_asynchronous_call_asks_nobody_and_on_lent_may_start_the_next_one)
{
    struct pool_call call = with(&of_call, 0);
    unsigned told_times = 0;

    of_call.first = of_call.later = of_pool.first = of_pool.later = POOL_CONTINUE;
    MAKE(AT_ONCE, .on_error = decide, .user = &of_pool);
    cr_expect_eq(pool_communicate_async(pool, A, ask_three_times, &told_times, &call, NULL),
                 POOL_OK);
    world_run(world, 10);
    cr_expect_eq(told_times, 3);
    cr_expect_eq(of_call.count + of_pool.count, 0);
    cr_expect_eq(STAT(pool, borrow_failed), 3);
    cr_expect_eq(STAT(pool, retries), 0);
}

/* ---- the caller's struct */

Test(on_error, an_older_and_shorter_error_is_filled_as_far_as_it_goes)
{
    struct {
        struct pool_error error;
        char guard[16];
    } old = { .error.size = offsetof(struct pool_error, cause) };
    struct pool_call call = with(&of_call, 0);

    memset(&old.error.cause, 'g', sizeof(old) - offsetof(struct pool_error, cause));
    call.error = &old.error;
    MAKE(AT_ONCE);
    cr_expect_eq(try(false, &call), POOL_E_REFUSED);
    cr_expect_eq(old.error.status, POOL_E_REFUSED);
    cr_expect_eq(old.error.size, offsetof(struct pool_error, cause));
    for (const char *at = (char *)&old.error.cause; at < old.guard + sizeof(old.guard); at++)
        cr_assert_eq(*at, 'g', "bytes behind the struct were written");
}
