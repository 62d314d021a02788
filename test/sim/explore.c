/* explore.c: see explore.h. States stand in one growing array in the order in which they were
 * met, which is the order in which they are looked at (breadth first): so the way to a wrong
 * state is a shortest one. */
#include "sim/explore.h"

#include <stdlib.h>
#include <string.h>

#define FIRST 1024u
#define NOWHERE UINT32_MAX

/* How a state was reached. */
struct origin {
    uint32_t from;
    uint8_t actor;
};

struct search {
    const struct sim_model *model;
    struct sim_result *result;
    char *states;
    struct origin *origins;
    uint32_t count, room;
    uint32_t *table; /* places in `states` plus one, by hash; 0: free */
    uint32_t slots; /* a power of two */
};

static char *state_at(const struct search *search, uint32_t place)
{
    return search->states + search->model->size * place;
}

static uint64_t hash_of(const char *bytes, size_t size)
{
    uint64_t hash = UINT64_C(0xcbf29ce484222325);

    for (size_t i = 0; i < size; i++)
        hash = (hash ^ (unsigned char)bytes[i]) * UINT64_C(0x100000001b3);
    return hash ^ hash >> 29;
}

/* The slot of the state, or the free one where it belongs. */
static uint32_t *find_slot(const struct search *search, const char *state)
{
    size_t size = search->model->size;
    uint32_t slot = (uint32_t)hash_of(state, size) & (search->slots - 1);

    while (search->table[slot] &&
           memcmp(state_at(search, search->table[slot] - 1), state, size) != 0)
        slot = (slot + 1) & (search->slots - 1);
    return &search->table[slot];
}

static bool grow_table(struct search *search)
{
    free(search->table);
    search->slots *= 2;
    search->table = calloc(search->slots, sizeof(*search->table));
    if (!search->table)
        return false;
    for (uint32_t place = 0; place < search->count; place++)
        *find_slot(search, state_at(search, place)) = place + 1;
    return true;
}

static bool make_room(struct search *search)
{
    uint32_t room = search->room ? search->room * 2 : FIRST;
    char *states = realloc(search->states, search->model->size * room);
    struct origin *origins;

    if (!states)
        return false;
    search->states = states;
    origins = realloc(search->origins, sizeof(*origins) * room);
    if (!origins)
        return false;
    search->origins = origins;
    search->room = room;
    return true;
}

/* False: no memory. */
static bool meet(struct search *search, const char *state, uint32_t from, unsigned actor)
{
    uint32_t *slot;

    if (search->count == search->room && !make_room(search))
        return false;
    if (search->count * 2 >= search->slots && !grow_table(search))
        return false;
    slot = find_slot(search, state);
    if (*slot)
        return true;
    memcpy(state_at(search, search->count), state, search->model->size);
    search->origins[search->count] = (struct origin){ from, (uint8_t)actor };
    *slot = ++search->count;
    return true;
}

static void keep_trail(struct search *search, uint32_t place)
{
    struct sim_result *result = search->result;
    unsigned length = 0;

    for (uint32_t at = place; search->origins[at].from != NOWHERE; at = search->origins[at].from)
        length++;
    result->trail_length = length < SIM_TRAIL ? length : SIM_TRAIL;
    for (uint32_t at = place; search->origins[at].from != NOWHERE; at = search->origins[at].from) {
        if (--length < SIM_TRAIL)
            result->trail[length] = search->origins[at].actor;
    }
}

/* Every step out of the state. False: no memory. */
static bool follow(struct search *search, uint32_t place, char *next, bool *is_end)
{
    const struct sim_model *model = search->model;

    *is_end = true;
    for (unsigned actor = 0; actor < model->actors; actor++) {
        for (unsigned choice = 0; choice < model->choices; choice++) {
            memcpy(next, state_at(search, place), model->size);
            if (!model->step(next, actor, choice, model->argument))
                continue;
            *is_end = false;
            search->result->steps++;
            if (!meet(search, next, place, actor))
                return false;
        }
    }
    return true;
}

static bool run(struct search *search, char *next)
{
    const struct sim_model *model = search->model;
    struct sim_result *result = search->result;
    bool is_end;

    if (!meet(search, model->first, NOWHERE, 0))
        return false;
    for (uint32_t place = 0; place < search->count && !result->wrong; place++) {
        if (!follow(search, place, next, &is_end))
            return false;
        result->ends += is_end;
        result->wrong = model->wrong(state_at(search, place), is_end, model->argument);
        if (result->wrong)
            keep_trail(search, place);
    }
    result->states = search->count;
    return true;
}

bool sim_explore(const struct sim_model *model, struct sim_result *result)
{
    struct search search = { .model = model, .result = result, .slots = FIRST * 2 };
    char *next = malloc(model->size);
    bool is_done = false;

    *result = (struct sim_result){ 0 };
    search.table = calloc(search.slots, sizeof(*search.table));
    if (next && search.table)
        is_done = run(&search, next);
    free(next);
    free(search.table);
    free(search.states);
    free(search.origins);
    return is_done;
}
