/* scenes_policy.c: what a pool does of its own accord, or because somebody decides: fresh
 * connections, attempts made again, spares, reports of leaks, numbers as text. */
#include "torture/scenes.h"

/* ---- fresh */

static void ask_for_fresh(struct torture *torture)
{
    TORTURE_ASK(torture, .address = TCP);
    for (int i = 0; i < 2; i++)
        TORTURE_ASK(torture, .address = TCP, .flags = POOL_FRESH);
    TORTURE_ASK(torture, .address = TCP, .flags = POOL_FRESH | POOL_DONT_WAIT);
    world_settle(torture->world);
    torture_must(torture, world_counts(torture->peer).open == 1);
    torture_must(torture, world_counts(torture->peer).accepted >= 4);
}

const struct scenario scene_fresh = { "fresh", .options = { .max_per_address = 1 },
                                      .exercise = ask_for_fresh };

/* ---- again */

static enum pool_decision go_on(const struct pool_error *error, void *user)
{
    (void)user;
    return error->phase == POOL_PHASE_USE ? POOL_ABORT : POOL_CONTINUE;
}

static void ask_again_and_again(struct torture *torture)
{
    for (int i = 0; i < 3; i++)
        TORTURE_ASK(torture, .address = TCP, .timeout_ms = 2000);
    world_close_all(torture->peer);
    TORTURE_ASK(torture, .address = TCP, .timeout_ms = 2000);
}

const struct scenario scene_again = { "again",
                                      .options = { .on_error = go_on, .backoff_first_ms = 5,
                                                   .backoff_max_ms = 20,
                                                   .suspend_after = POOL_NONE },
                                      .exercise = ask_again_and_again };

/* ---- spares */

static void keep_spares(struct torture *torture)
{
    TORTURE_ASK(torture, .address = TCP);
    world_run(torture->world, 2500);    /* attempts that come to nothing are a second apart */
    torture_must(torture, world_counts(torture->peer).open == 2);
    world_close_all(torture->peer);
    world_run(torture->world, 1500);
    TORTURE_ASK(torture, .address = TCP);
}

const struct scenario scene_spares = { "spares",
                                       .options = { .min_idle = 2, .backoff_first_ms = 5,
                                                    .backoff_max_ms = 20,
                                                    .suspend_after = POOL_NONE },
                                       .exercise = keep_spares };

/* ---- reports */

static void hear(enum pool_log_level level, const char *line, void *user)
{
    struct torture *torture = user;

    torture_check(torture, level == POOL_LOG_WARNING && line[0]);
    torture->heard++;
}

static void leak(struct torture *torture)
{
    struct pool_conn conn;
    enum pool_status status =
        pool_borrow(torture->pool, TCP, POOL_CALL(.tag = "leaky"), &conn);

    torture_check_status(torture, status, "pool_borrow");
    world_run(torture->world, 50);
    torture_must(torture, torture->heard >= 1);
    if (!status)
        torture_check(torture, pool_return(&conn) == POOL_OK);
}

const struct scenario scene_leak = { "leak", .options = { .leak_ms = 20, .on_log = hear },
                                     .exercise = leak };
