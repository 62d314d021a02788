/* test_arena.c: elements keep their place and their type, come back as late as possible, and belong
 * to one taker at a time. */
#include "base/arena.h"

#include <criterion/criterion.h>
#include <stdlib.h>

#include "base/os.h"
#include "support/tests.h"

#define MANY 500 /* four chunks of 32, 64, 128, 256, and some of the next */

struct element {
    struct pl_arena_node node;
    unsigned prepared;
    _Atomic unsigned takers;
};

static void prepare(void *element)
{
    ((struct element *)element)->prepared++;
}

static struct pl_arena arena = PL_ARENA_INIT(arena, struct element, prepare);
static struct element *taken[MANY];

static void take_many(void)
{
    for (size_t i = 0; i < MANY; i++) {
        taken[i] = pl_arena_take(&arena);
        cr_assert_not_null(taken[i]);
    }
}

static void give_many(void)
{
    for (size_t i = 0; i < MANY; i++)
        pl_arena_give(&arena, taken[i]);
}

Test(arena, every_element_has_a_number_of_its_own_that_finds_it)
{
    bool seen[2 * MANY] = { false };

    take_many();
    for (size_t i = 0; i < MANY; i++) {
        uint32_t index = taken[i]->node.index;

        cr_assert(index < 2 * MANY && !seen[index]);
        seen[index] = true;
        cr_expect_eq(pl_arena_at(&arena, index), taken[i]);
        cr_expect_eq((uintptr_t)taken[i] % _Alignof(struct element), 0);
    }
}

Test(arena, a_number_that_was_never_made_finds_nothing)
{
    static const uint32_t never[] = { 0, 32, 1u << 20, 1u << 25, UINT32_MAX - 32, UINT32_MAX };

    for (size_t i = 0; i < PL_COUNT(never); i++)
        cr_expect_null(pl_arena_at(&arena, never[i]), "%u", never[i]);
    cr_assert_not_null(pl_arena_take(&arena));
    cr_expect_not_null(pl_arena_at(&arena, 0));
    for (size_t i = 1; i < PL_COUNT(never); i++)
        cr_expect_null(pl_arena_at(&arena, never[i]), "%u", never[i]);
}

Test(arena, an_element_is_prepared_once_and_never_moves)
{
    static struct element *before[MANY];

    take_many();
    for (size_t i = 0; i < MANY; i++)
        before[i] = pl_arena_at(&arena, (uint32_t)i);
    give_many();
    take_many();
    for (size_t i = 0; i < MANY; i++) {
        cr_expect_eq(pl_arena_at(&arena, (uint32_t)i), before[i]);
        cr_expect_eq(taken[i]->prepared, 1);
    }
}

Test(arena, what_was_given_back_first_is_taken_first)
{
    struct element *first = pl_arena_take(&arena), *second = pl_arena_take(&arena);

    pl_arena_give(&arena, second);
    pl_arena_give(&arena, first);
    cr_expect_eq(pl_arena_take(&arena), second);
    cr_expect_eq(pl_arena_take(&arena), first);
}

static void *no_map(size_t size)
{
    (void)size;
    return NULL;
}

Test(arena, without_memory_taking_fails_and_nothing_else_changes)
{
    struct pl_os os = pl_os_real;
    struct element *first = pl_arena_take(&arena);

    os.map = no_map;
    pl_os_replace(&os);
    for (unsigned i = 1; i < PL_ARENA_FIRST; i++)
        cr_assert_not_null(pl_arena_take(&arena));
    cr_expect_null(pl_arena_take(&arena));
    cr_expect_null(pl_arena_take(&arena));
    pl_arena_give(&arena, first);
    cr_expect_eq(pl_arena_take(&arena), first);
    pl_os_replace(NULL);
    cr_expect_not_null(pl_arena_take(&arena));
}

static int mapped;

static void *counted_map(size_t size)
{
    mapped++;
    return pl_os_real.map(size);
}

static void counted_unmap(void *pages, size_t size)
{
    mapped--;
    pl_os_real.unmap(pages, size);
}

Test(arena, its_pages_go_back_only_when_no_element_is_taken)
{
    struct pl_os os = pl_os_real;

    os.map = counted_map;
    os.unmap = counted_unmap;
    pl_os_replace(&os);
    take_many();
    cr_expect_eq(mapped, 5);
    pl_arena_release(&arena);
    cr_expect_eq(mapped, 5);
    cr_expect_eq(pl_arena_at(&arena, taken[0]->node.index), taken[0]);
    give_many();
    pl_arena_release(&arena);
    cr_expect_eq(mapped, 0);
    cr_expect_null(pl_arena_at(&arena, 0));
    cr_expect_not_null(pl_arena_take(&arena), "it can begin again");
    pl_os_replace(NULL);
}

static void take_and_give(unsigned index, void *argument)
{
    _Atomic unsigned *trouble = argument;
    struct element *mine[8];

    (void)index;
    for (unsigned round = 0; round < 5000; round++) {
        for (size_t i = 0; i < PL_COUNT(mine); i++) {
            mine[i] = pl_arena_take(&arena);
            *trouble += !mine[i] || atomic_fetch_add(&mine[i]->takers, 1) ||
                        pl_arena_at(&arena, mine[i]->node.index) != mine[i];
        }
        for (size_t i = 0; i < PL_COUNT(mine); i++) {
            atomic_fetch_sub(&mine[i]->takers, 1);
            pl_arena_give(&arena, mine[i]);
        }
    }
}

Test(arena, one_element_belongs_to_one_thread_at_a_time)
{
    _Atomic unsigned trouble = 0;

    cr_assert(run_threads(8, take_and_give, &trouble));
    cr_expect_eq(trouble, 0);
    cr_expect_eq(arena.taken, 0);
}
