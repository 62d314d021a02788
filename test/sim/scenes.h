/* scenes.h: what the programs of this folder share: they play scenes of a model as it is built, in
 * which nothing may be wrong, and then once with each mistake planted, which must be found.
 *
 *     PROGRAM             all scenes; how many states each has, what mistakes lead to
 *     PROGRAM SCENE       one of them, with the way to what is wrong */
#ifndef TEST_SIM_SCENES_H
#define TEST_SIM_SCENES_H

#include "sim/explore.h"

#define SCENE_MISTAKES 4

struct sim_scene {
    const char *name;
    const void *cast; /* the model's: who plays, and what may happen */
    struct {
        unsigned plants;
        const char *name;
    } mistakes[SCENE_MISTAKES]; /* up to the first without plants */
};

/* Explores the model with that cast and these mistakes. False: no memory. */
typedef bool sim_explore_fn(const void *cast, unsigned plants, struct sim_result *result);

/* Plays those that the arguments name, and answers main()'s exit status. */
int sim_play(int argc, char **argv, const struct sim_scene *scenes, size_t count,
             sim_explore_fn *explore);

#endif
