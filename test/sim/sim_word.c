/* sim_word.c: tries every order of the steps by which threads lend, take back, park, evict and
 * wait for one connection (lending.h), and shows that each mistake planted in them is found.
 *
 *     sim_word            all scenes; how many states each has, what mistakes lead to
 *     sim_word SCENE      one of them, with the way to what is wrong */
#include "sim/lending.h"
#include "sim/scenes.h"

static const struct sim_scene scenes[] = {
    { "return-waiter",
      &(const struct cast){
          .roles = { BORROWER, BORROWER, BORROWER }, .rounds = { 0, 1, 1 }, .is_held = true },
      { { HINT_BEFORE_SWAP | LEFT_LISTED, "hint read before the swap, lent one left listed" },
        { NO_SECOND_LOOK | LEFT_LISTED, "no look after the hint, lent one left listed" } } },
    { "grant-timeout",
      &(const struct cast){ .roles = { BORROWER, BORROWER, BORROWER },
                            .rounds = { 0, 1, 1 },
                            .may_time_out = { false, true, true },
                            .is_held = true },
      { { BLIND_TIMEOUT, "timeout without a look" },
        { LATE_GRANT, "outcome written after the lock" } } },
    { "evict-borrow",
      &(const struct cast){ .roles = { BORROWER, BORROWER, EVICTOR, EVENT }, .rounds = { 2, 1 } },
      { { EVICT_BY_STORE, "evicted by a store" }, { TAKE_BY_STORE, "taken by a store" } } },
    { "sweep-return",
      &(const struct cast){
          .roles = { BORROWER, BORROWER, SWEEPER }, .rounds = { 1, 1, 2 }, .is_held = true },
      { { HINT_CLEARED_LATE, "hint cleared after the look" },
        { PARK_AND_FORGET, "no look after parking" },
        { HINT_IGNORED, "hint ignored by a warm return" } } },
    { "room-return",
      &(const struct cast){
          .roles = { BORROWER, BORROWER, WANTER }, .rounds = { 1, 1, 1 }, .is_held = true },
      { { WISH_LATE, "looked for room, then wanted it" } } },
    { "room-sweep",
      &(const struct cast){ .roles = { BORROWER, NOBODY, WANTER, SWEEPER },
                            .rounds = { 1, 0, 1, 1 },
                            .is_held = true },
      { { PARK_WITHOUT_ROOM | WANT_WITHOUT_LOCK,
          "no look for room after parking, no sweep lock" } } },
    { "return-copy",
      &(const struct cast){ .roles = { BORROWER, COPIER, BORROWER, COPIER },
                            .rounds = { 1, 0, 1, 0 },
                            .is_held = true },
      { { NO_TRACE, "no trace of an operation in the word" },
        { TRACE_CLEARED_LATE, "trace cleared after the look at the marks" } } },
};

static bool explore(const void *given, unsigned plants, struct sim_result *result)
{
    struct cast cast = *(const struct cast *)given;
    struct lending first;
    struct sim_model model = { .size = sizeof(first),
                               .actors = LENDING_ACTORS,
                               .choices = 2,
                               .first = &first,
                               .argument = &cast,
                               .step = lending_step,
                               .wrong = lending_wrong };

    cast.plants = plants;
    lending_begin(&first, &cast);
    return sim_explore(&model, result);
}

int main(int argc, char **argv)
{
    return sim_play(argc, argv, scenes, sizeof(scenes) / sizeof(*scenes), explore);
}
