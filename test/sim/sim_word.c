/* sim_word.c: tries every order of the steps by which threads lend, take back, park, evict and
 * wait for one connection (lending.h), and shows that each mistake planted in them is found.
 *
 *     sim_word            all scenes; how many states each has, what mistakes lead to
 *     sim_word SCENE      one of them, with the way to what is wrong */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sim/explore.h"
#include "sim/lending.h"

struct mistake {
    unsigned plants;
    const char *name;
};

struct scene {
    const char *name;
    struct cast cast;
    struct mistake mistakes[4]; /* each must be found in this scene */
};

static const struct scene scenes[] = {
    { "return-waiter",
      { .roles = { BORROWER, BORROWER, BORROWER }, .rounds = { 0, 1, 1 }, .is_held = true },
      { { HINT_BEFORE_SWAP | LEFT_LISTED, "hint read before the swap, lent one left listed" },
        { NO_SECOND_LOOK | LEFT_LISTED, "no look after the hint, lent one left listed" } } },
    { "grant-timeout",
      { .roles = { BORROWER, BORROWER, BORROWER },
        .rounds = { 0, 1, 1 },
        .may_time_out = { false, true, true },
        .is_held = true },
      { { BLIND_TIMEOUT, "timeout without a look" },
        { LATE_GRANT, "outcome written after the lock" } } },
    { "evict-borrow",
      { .roles = { BORROWER, BORROWER, EVICTOR, EVENT }, .rounds = { 2, 1 } },
      { { EVICT_BY_STORE, "evicted by a store" }, { TAKE_BY_STORE, "taken by a store" } } },
    { "sweep-return",
      { .roles = { BORROWER, BORROWER, SWEEPER }, .rounds = { 1, 1, 2 }, .is_held = true },
      { { HINT_CLEARED_LATE, "hint cleared after the look" },
        { PARK_AND_FORGET, "no look after parking" },
        { HINT_IGNORED, "hint ignored by a warm return" } } },
    { "room-return",
      { .roles = { BORROWER, BORROWER, WANTER }, .rounds = { 1, 1, 1 }, .is_held = true },
      { { WISH_LATE, "looked for room, then wanted it" } } },
    { "room-sweep",
      { .roles = { BORROWER, NOBODY, WANTER, SWEEPER }, .rounds = { 1, 0, 1, 1 }, .is_held = true },
      { { PARK_WITHOUT_ROOM | WANT_WITHOUT_LOCK,
          "no look for room after parking, no sweep lock" } } },
    { "return-copy",
      { .roles = { BORROWER, COPIER, BORROWER, COPIER },
        .rounds = { 1, 0, 1, 0 },
        .is_held = true },
      { { NO_TRACE, "no trace of an operation in the word" },
        { TRACE_CLEARED_LATE, "trace cleared after the look at the marks" } } },
};

#define SCENES (sizeof(scenes) / sizeof(*scenes))

static unsigned failures;
static uint64_t all_states;

static struct sim_result explore(const struct scene *scene, unsigned plants)
{
    struct cast cast = scene->cast;
    struct lending first;
    struct sim_model model = { .size = sizeof(first),
                               .actors = LENDING_ACTORS,
                               .choices = 2,
                               .first = &first,
                               .argument = &cast,
                               .step = lending_step,
                               .wrong = lending_wrong };
    struct sim_result result;

    cast.plants = plants;
    lending_begin(&first, &cast);
    if (!sim_explore(&model, &result)) {
        printf("no memory\n");
        exit(EXIT_FAILURE);
    }
    all_states += result.states;
    return result;
}

static void print_trail(const struct sim_result *result)
{
    printf("    actors in order:");
    for (unsigned i = 0; i < result->trail_length; i++)
        printf(" %u", result->trail[i]);
    printf("\n");
}

static void play(const struct scene *scene, bool is_verbose)
{
    struct sim_result result = explore(scene, AS_BUILT);

    printf("%-14s %9llu states, %10llu steps, %6llu ends: %s\n", scene->name,
           (unsigned long long)result.states, (unsigned long long)result.steps,
           (unsigned long long)result.ends, result.wrong ? result.wrong : "all well");
    failures += result.wrong != NULL;
    if (result.wrong)
        print_trail(&result);
    for (const struct mistake *mistake = scene->mistakes; mistake->plants; mistake++) {
        result = explore(scene, mistake->plants);
        printf("    %s: %s after %u steps\n", mistake->name,
               result.wrong ? result.wrong : "NOT FOUND", result.trail_length);
        failures += result.wrong == NULL;
        if (result.wrong && is_verbose)
            print_trail(&result);
    }
}

int main(int argc, char **argv)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (unsigned i = 0; i < SCENES; i++) {
        if (argc < 2 || strcmp(argv[1], scenes[i].name) == 0)
            play(&scenes[i], argc > 1);
    }
    if (failures)
        printf("%u FAILED\n", failures);
    printf("%llu states explored\n", (unsigned long long)all_states);
    return failures ? EXIT_FAILURE : EXIT_SUCCESS;
}
