/* explore.h: tries every order in which a few actors can take their steps.
 *
 * A model is a block of memory and a function that takes one step of one actor in it. The
 * explorer begins with the first state, tries every actor and every choice in it, and goes on
 * with each state that it has not met before, until there is none. It stops at the first state
 * that the model calls wrong and keeps the way there.
 *
 * States are compared byte by byte, so a model clears its padding and what no longer counts. */
#ifndef TEST_SIM_EXPLORE_H
#define TEST_SIM_EXPLORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SIM_TRAIL 400

struct sim_model {
    size_t size; /* of a state */
    unsigned actors;
    unsigned choices; /* how many ways a step may have, at most */
    const void *first;
    const void *argument;

    /* Takes one step. False: the actor cannot move, or its step has no such choice. */
    bool (*step)(void *state, unsigned actor, unsigned choice, const void *argument);

    /* What is wrong with the state, or NULL. `is_end`: nobody can move in it. */
    const char *(*wrong)(const void *state, bool is_end, const void *argument);
};

struct sim_result {
    uint64_t states, steps, ends;
    const char *wrong; /* NULL: nothing */
    unsigned trail_length; /* the steps to the wrong state */
    uint8_t trail[SIM_TRAIL]; /* the actor of each */
};

/* False: no memory. */
bool sim_explore(const struct sim_model *model, struct sim_result *result);

#endif
