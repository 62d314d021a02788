/* sim_wakeup.c: tries every order of the steps by which a wait ends (wakeup.h): return, grant,
 * deadline, cancel, delivery. Nobody waits for ever beside an idle connection, each call is
 * answered once, a cancel keeps its word, and the connection is not lost. Each mistake planted in
 * the steps is found.
 *
 *     sim_wakeup          all scenes; how many states each has, what mistakes lead to
 *     sim_wakeup SCENE    one of them, with the way to what is wrong */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sim/explore.h"
#include "sim/wakeup.h"

struct mistake {
    unsigned plants;
    const char *name;
};

struct scene {
    const char *name;
    struct wakeup_cast cast;
    struct mistake mistakes[4]; /* each must be found in this scene */
};

static const struct scene scenes[] = {
    { "return-waiters",
      { .has_canceler = false },
      { { JOIN_WITHOUT_LOOK | LEFT_LISTED, "no look after the hint, lent one left listed" },
        { WAKE_BY_HINT | LEFT_LISTED, "hint read before the swap, lent one left listed" },
        { TELL_ASYNC, "an asynchronous waiter told to look" } } },
    { "return-waiters-cold",
      { .has_canceler = false, .is_cold = true },
      { { TELL_ASYNC, "an asynchronous waiter told to look" } } },
    { "grant-timeout",
      { .may_time_out = { true, true } },
      { { BLIND_DEADLINE, "a deadline that does not look" } } },
    { "cancel-async",
      { .has_canceler = true, .canceled = ASYNC_CALL, .may_be_unfit = true },
      { { DELIVER_BLINDLY, "delivered without a look at the ticket" },
        { QUEUE_UNSEEN, "queued again without the ticket" },
        { CANCEL_WITHOUT_PIN, "a loan ended without a pin" },
        { CANCEL_LATE, "the ticket marked after its lock" } } },
    { "cancel-blocking",
      { .has_canceler = true, .canceled = BLOCKING_CALL, .may_be_unfit = true },
      { { KEEP_CALL, "a call to look that is not passed on" } } },
    { "everything-async",
      { .has_canceler = true,
        .canceled = ASYNC_CALL,
        .may_time_out = { true, true },
        .may_be_unfit = true },
      { { BLIND_DEADLINE, "a deadline that does not look" } } },
    { "everything-blocking",
      { .has_canceler = true,
        .canceled = BLOCKING_CALL,
        .may_time_out = { true, true },
        .may_be_unfit = true,
        .is_cold = true },
      { { 0, NULL } } },
};

#define SCENES (sizeof(scenes) / sizeof(*scenes))

static unsigned failures;
static uint64_t all_states;

static struct sim_result explore(const struct scene *scene, unsigned plants)
{
    struct wakeup_cast cast = scene->cast;
    struct wakeup first;
    struct sim_model model = { .size = sizeof(first),
                               .actors = WAKEUP_ACTORS,
                               .choices = 3,
                               .first = &first,
                               .argument = &cast,
                               .step = wakeup_step,
                               .wrong = wakeup_wrong };
    struct sim_result result;

    cast.plants = plants;
    wakeup_begin(&first, &cast);
    if (!sim_explore(&model, &result)) {
        printf("no memory\n");
        exit(EXIT_FAILURE);
    }
    all_states += result.states;
    return result;
}

static void print_trail(const struct sim_result *result)
{
    printf("    players in order:");
    for (unsigned i = 0; i < result->trail_length; i++)
        printf(" %u", result->trail[i]);
    printf("\n");
}

static void play(const struct scene *scene, bool is_verbose)
{
    struct sim_result result = explore(scene, SOUND);

    printf("%-20s %9llu states, %10llu steps, %6llu ends: %s\n", scene->name,
           (unsigned long long)result.states, (unsigned long long)result.steps,
           (unsigned long long)result.ends, result.wrong ? result.wrong : "all well");
    failures += result.wrong != NULL;
    if (result.wrong)
        print_trail(&result);
    for (const struct mistake *mistake = scene->mistakes;
         mistake < scene->mistakes + 4 && mistake->plants; mistake++) {
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
