/* sim_wakeup.c: tries every order of the steps by which a wait ends (wakeup.h): return, grant,
 * deadline, cancel, delivery. Nobody waits for ever beside an idle connection, each call is
 * answered once, a cancel keeps its word, and the connection is not lost. Each mistake planted in
 * the steps is found.
 *
 *     sim_wakeup          all scenes; how many states each has, what mistakes lead to
 *     sim_wakeup SCENE    one of them, with the way to what is wrong */
#include "sim/scenes.h"
#include "sim/wakeup.h"

static const struct sim_scene scenes[] = {
    { "return-waiters",
      &(const struct wakeup_cast){ .has_canceler = false },
      { { JOIN_WITHOUT_LOOK | LEFT_LISTED, "no look after the hint, lent one left listed" },
        { WAKE_BY_HINT | LEFT_LISTED, "hint read before the swap, lent one left listed" },
        { TELL_ASYNC, "an asynchronous waiter told to look" } } },
    { "return-waiters-cold",
      &(const struct wakeup_cast){ .has_canceler = false, .is_cold = true },
      { { TELL_ASYNC, "an asynchronous waiter told to look" } } },
    { "grant-timeout",
      &(const struct wakeup_cast){ .may_time_out = { true, true } },
      { { BLIND_DEADLINE, "a deadline that does not look" } } },
    { "cancel-async",
      &(const struct wakeup_cast){
          .has_canceler = true, .canceled = ASYNC_CALL, .may_be_unfit = true },
      { { DELIVER_BLINDLY, "delivered without a look at the ticket" },
        { QUEUE_UNSEEN, "queued again without the ticket" },
        { CANCEL_WITHOUT_PIN, "a loan ended without a pin" },
        { CANCEL_LATE, "the ticket marked after its lock" } } },
    { "cancel-blocking",
      &(const struct wakeup_cast){
          .has_canceler = true, .canceled = BLOCKING_CALL, .may_be_unfit = true },
      { { KEEP_CALL, "a call to look that is not passed on" } } },
    { "everything-async",
      &(const struct wakeup_cast){ .has_canceler = true,
                                   .canceled = ASYNC_CALL,
                                   .may_time_out = { true, true },
                                   .may_be_unfit = true },
      { { BLIND_DEADLINE, "a deadline that does not look" } } },
    { "everything-blocking",
      &(const struct wakeup_cast){ .has_canceler = true,
                                   .canceled = BLOCKING_CALL,
                                   .may_time_out = { true, true },
                                   .may_be_unfit = true,
                                   .is_cold = true },
      { { 0, NULL } } },
};

static bool explore(const void *given, unsigned plants, struct sim_result *result)
{
    struct wakeup_cast cast = *(const struct wakeup_cast *)given;
    struct wakeup first;
    struct sim_model model = { .size = sizeof(first),
                               .actors = WAKEUP_ACTORS,
                               .choices = 3,
                               .first = &first,
                               .argument = &cast,
                               .step = wakeup_step,
                               .wrong = wakeup_wrong };

    cast.plants = plants;
    wakeup_begin(&first, &cast);
    return sim_explore(&model, result);
}

int main(int argc, char **argv)
{
    return sim_play(argc, argv, scenes, sizeof(scenes) / sizeof(*scenes), explore);
}
