/* test_thread.c: cells lose no wake-up and are never early; records are reused clean. */
#include "base/thread.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "base/os.h"
#include "support/tests.h"

Test(thread, a_wake_up_before_the_wait_is_not_lost)
{
    struct pl_thread *self = pl_thread_self();

    pl_thread_wake(self);
    pl_thread_wake(self);
    cr_expect(pl_thread_wait(self, PL_NEVER));
    cr_expect_not(pl_thread_wait(self, 0), "two wake-ups before one wait are one");
}

Test(thread, a_wait_ends_at_its_deadline_and_never_before)
{
    struct pl_thread *self = pl_thread_self();

    for (unsigned ms = 0; ms < 20; ms += 3) {
        uint64_t deadline_ns = pl_os->now_ns() + ms * PL_MS, now_ns;

        cr_expect_not(pl_thread_wait(self, deadline_ns));
        now_ns = pl_os->now_ns();
        cr_expect_geq(now_ns, deadline_ns);
        cr_expect(WITHIN((now_ns - deadline_ns) / PL_MS, 0, 20));
    }
}

static int idle_wakes;

static int wake_for_nothing(_Atomic uint32_t *word, uint32_t expected, uint64_t deadline_ns)
{
    if (idle_wakes++ < 100)
        return 0;
    return pl_os_real.sleep_until(word, expected, deadline_ns);
}

Test(thread, a_spurious_wake_up_of_the_system_ends_no_wait)
{
    struct pl_os os = pl_os_real;
    uint64_t deadline_ns = pl_os->now_ns() + 5 * PL_MS;

    os.sleep_until = wake_for_nothing;
    pl_os_replace(&os);
    cr_expect_not(pl_thread_wait(pl_thread_self(), deadline_ns));
    pl_os_replace(NULL);
    cr_expect_geq(pl_os->now_ns(), deadline_ns);
    cr_expect_geq(idle_wakes, 100);
}

#define ROUNDS 20000

struct pair {
    struct pl_thread *_Atomic threads[2];
    _Atomic unsigned turn, lost;
};

static void play(unsigned index, void *argument)
{
    struct pair *pair = argument;
    struct pl_thread *other;

    atomic_store(&pair->threads[index], pl_thread_self());
    while (!(other = atomic_load(&pair->threads[1 - index])))
        continue;
    for (unsigned round = 0; round < ROUNDS; round++) {
        while (atomic_load(&pair->turn) % 2 != index)
            atomic_fetch_add(&pair->lost, !pl_thread_wait(pl_thread_self(),
                                                          pl_os->now_ns() + 20000 * PL_MS));
        atomic_fetch_add(&pair->turn, 1);
        pl_thread_wake(other);
    }
}

Test(thread, two_threads_that_wake_each_other_in_turn_lose_no_wake_up)
{
    struct pair pair = { .turn = 0 };

    cr_assert(run_threads(2, play, &pair));
    cr_expect_eq(pair.turn, 2 * ROUNDS);
    cr_expect_eq(pair.lost, 0);
}

struct lives {
    struct pl_thread *record;
    uint64_t id;
    bool is_clean;
};

/* Leaves traces in the record; tells whether it got one without. */
static void live(unsigned index, void *argument)
{
    struct lives *life = argument;
    struct pl_thread *self = pl_thread_self();

    (void)index;
    life->record = self;
    life->id = self->id;
    life->is_clean = !self->recent[0].pool && !self->recent[PL_RECENT - 1].text[0] &&
                     !self->stamp_ns && !self->dispatching && !self->callback &&
                     !self->next_recent && self->cell == PL_CELL_AWAKE && pl_thread_self() == self;
    memset(self->recent, 0x5a, sizeof(self->recent));
    self->next_recent = 3;
    self->dispatching = self->callback = life;
    pl_thread_stamp(self, 77);
    pl_thread_wake(self);
}

Test(thread, a_record_is_reused_by_a_later_thread_clean_and_with_a_new_id)
{
    enum { LIVES = 3 * PL_ARENA_FIRST };
    static struct lives lives[LIVES];
    unsigned reused = 0;

    for (unsigned i = 0; i < LIVES; i++) {
        cr_assert(run_threads(1, live, &lives[i]));
        cr_expect(lives[i].is_clean);
        for (unsigned before = 0; before < i; before++) {
            cr_expect_neq(lives[i].id, lives[before].id);
            reused += lives[i].record == lives[before].record;
        }
    }
    cr_expect_gt(reused, 0);
}

static void *no_map(size_t size)
{
    (void)size;
    return NULL;
}

static void ask_without_memory(unsigned index, void *argument)
{
    (void)index;
    *(bool *)argument = pl_thread_self() == NULL && pl_thread_self() == NULL;
}

Test(thread, without_memory_there_is_no_record_until_there_is_some)
{
    struct pl_os os = pl_os_real;
    bool had_none = false;

    os.map = no_map;
    pl_os_replace(&os);
    cr_assert(run_threads(1, ask_without_memory, &had_none));
    cr_expect(had_none);
    cr_expect_null(pl_thread_self());
    pl_os_replace(NULL);
    cr_expect_not_null(pl_thread_self());
}

Test(thread, stamps_of_one_thread_always_grow_and_follow_the_clock)
{
    struct pl_thread *self = pl_thread_self();

    cr_expect_eq(pl_thread_stamp(self, 10), 10);
    cr_expect_eq(pl_thread_stamp(self, 10), 11);
    cr_expect_eq(pl_thread_stamp(self, 9), 12);
    cr_expect_eq(pl_thread_stamp(self, 500), 500);
    cr_expect_eq(pl_thread_stamp(NULL, 9), 9);
}
