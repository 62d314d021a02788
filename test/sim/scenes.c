/* scenes.c: see scenes.h. */
#include "sim/scenes.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define AS_BUILT 0 /* no mistake is planted */

struct play {
    sim_explore_fn *explore;
    bool is_verbose;
    unsigned failures;
    uint64_t states; /* of all scenes */
};

static struct sim_result explore(struct play *play, const void *cast, unsigned plants)
{
    struct sim_result result;

    if (!play->explore(cast, plants, &result)) {
        printf("no memory\n");
        exit(EXIT_FAILURE);
    }
    play->states += result.states;
    return result;
}

static void print_trail(const struct sim_result *result)
{
    printf("    actors in order:");
    for (unsigned i = 0; i < result->trail_length; i++)
        printf(" %u", result->trail[i]);
    printf("\n");
}

static void play_as_built(struct play *play, const struct sim_scene *scene)
{
    struct sim_result result = explore(play, scene->cast, AS_BUILT);

    printf("%-20s %9llu states, %10llu steps, %6llu ends: %s\n", scene->name,
           (unsigned long long)result.states, (unsigned long long)result.steps,
           (unsigned long long)result.ends, result.wrong ? result.wrong : "all well");
    play->failures += result.wrong != NULL;
    if (result.wrong)
        print_trail(&result);
}

static void play_mistakes(struct play *play, const struct sim_scene *scene)
{
    for (unsigned i = 0; i < SCENE_MISTAKES && scene->mistakes[i].plants; i++) {
        struct sim_result result = explore(play, scene->cast, scene->mistakes[i].plants);

        printf("    %s: %s after %u steps\n", scene->mistakes[i].name,
               result.wrong ? result.wrong : "NOT FOUND", result.trail_length);
        play->failures += result.wrong == NULL;
        if (result.wrong && play->is_verbose)
            print_trail(&result);
    }
}

int sim_play(int argc, char **argv, const struct sim_scene *scenes, size_t count,
             sim_explore_fn *explore_model)
{
    struct play play = { .explore = explore_model, .is_verbose = argc > 1 };

    setvbuf(stdout, NULL, _IOLBF, 0);
    for (size_t i = 0; i < count; i++) {
        if (argc > 1 && strcmp(argv[1], scenes[i].name))
            continue;
        play_as_built(&play, &scenes[i]);
        play_mistakes(&play, &scenes[i]);
    }
    if (play.failures)
        printf("%u FAILED\n", play.failures);
    printf("%llu states explored\n", (unsigned long long)play.states);
    return play.failures ? EXIT_FAILURE : EXIT_SUCCESS;
}
