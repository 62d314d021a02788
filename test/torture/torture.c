/* torture.c: one run of a scenario, and what must be true after it. */
#include "torture/torture.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define LATE_NS (20 * PL_MS)
#define LONGEST_RUN_MS 600000
#define TEXT_SIZE 24

static const struct torture_plan *playing;
static unsigned sayings_left;

/* ---- saying what is wrong */

static void say_where(const struct torture *torture)
{
    const struct torture_plan *plan = playing;

    printf("  %s", torture->scenario->name);
    if (plan->point)
        printf(" %llu %s %s (%s)", (unsigned long long)plan->point, fault_error_name(plan->error),
               plan->for_good ? "good" : "once", fault_call_name(fault_struck_kind()));
    printf("%s: ", torture->is_strict && plan->point ? ", fault gone" : "");
}

void torture_fail(struct torture *torture, const char *format, ...)
{
    va_list arguments;

    torture->failures++;
    if (!sayings_left)
        return;
    sayings_left--;
    say_where(torture);
    va_start(arguments, format);
    vprintf(format, arguments);
    va_end(arguments);
    putchar('\n');
    fflush(stdout);
}

/* ---- asking */

/* What a call may answer because of what the kernel answered. The rest are mistakes of callers,
 * features that are not in use, or things that only an end of the pool brings about. */
static bool may_be_answered(enum pool_status status)
{
    switch (status) {
    case POOL_OK:
    case POOL_E_MEMORY:
    case POOL_E_ADDRESS:
    case POOL_E_REFUSED:
    case POOL_E_CONNECT:
    case POOL_E_ACCESS:
    case POOL_E_TIMEOUT:
    case POOL_E_TIMEOUT_IN_TRANSFER:
    case POOL_E_CLOSED:
    case POOL_E_BROKEN:
    case POOL_E_RESOURCE:
        return true;
    default:
        return false;
    }
}

void torture_check_status(struct torture *torture, enum pool_status status, const char *of)
{
    if (torture->is_strict ? status != POOL_OK : !may_be_answered(status))
        torture_fail(torture, "%s answers %s", of, pool_status_name(status));
}

static void write_text(const struct torture *torture, char *text)
{
    snprintf(text, TEXT_SIZE, "exchange number %06u\n", torture->asked);
}

int torture_exchange(struct pool_conn *conn, void *user)
{
    struct torture *torture = user;
    char sent[TEXT_SIZE], got[TEXT_SIZE] = "";

    torture->uses++;
    write_text(torture, sent);
    if (pool_send(conn, sent, sizeof(sent)) || pool_recv_exact(conn, got, sizeof(got)))
        return 1;
    if (memcmp(sent, got, sizeof(sent)))
        torture_fail(torture, "a reply crossed: asked \"%.20s\", got \"%.20s\"", sent, got);
    return 0;
}

static uint64_t bytes_at_peers(const struct torture *torture)
{
    uint64_t bytes = 0;

    if (torture->peer)
        bytes += world_counts(torture->peer).bytes_in;
    if (torture->second)
        bytes += world_counts(torture->second).bytes_in;
    return bytes;
}

static bool has_hooks(const struct scenario *scenario)
{
    return scenario->options.prepare || scenario->options.on_new_connection;
}

static void check_error(struct torture *torture, const struct torture_ask *ask,
                        const struct pool_error *error, enum pool_status status)
{
    if (error->status != status)
        torture_fail(torture, "%s, but the error says %s", pool_status_name(status),
                     pool_status_name(error->status));
    if (ask->address && !strstr(error->text, ask->address))
        torture_fail(torture, "the error does not name the peer: \"%s\"", error->text);
}

static void check_stats(struct torture *torture)
{
    struct pool_stats stats = { .size = sizeof(stats) };

    torture_check(torture, pool_stats(torture->pool, &stats) == POOL_OK);
    if (stats.idle + stats.lent + stats.shared + stats.opening + stats.closing != stats.total)
        torture_fail(
            torture,
            "the gauges do not add up: idle %llu lent %llu opening %llu closing %llu total %llu",
            (unsigned long long)stats.idle, (unsigned long long)stats.lent,
            (unsigned long long)stats.opening, (unsigned long long)stats.closing,
            (unsigned long long)stats.total);
}

static void check_answer(struct torture *torture, const struct torture_ask *ask,
                         enum pool_status status)
{
    if (torture->is_strict && status != ask->expected)
        torture_fail(torture, "%s: %s where %s was due", ask->address ? ask->address : "target",
                     pool_status_name(status), pool_status_name(ask->expected));
    else if (!torture->is_strict && status != ask->expected && !may_be_answered(status) &&
             !(status == POOL_E_USER && torture->may_refuse))
        torture_fail(torture, "%s: %s is no answer to that", ask->address ? ask->address : "target",
                     pool_status_name(status));
}

enum pool_status torture_ask(struct torture *torture, const struct torture_ask *ask)
{
    struct pool_error error = POOL_ERROR_INIT;
    uint32_t timeout_ms = ask->timeout_ms ? ask->timeout_ms : 1000;
    struct pool_call call = { .size = sizeof(call), .timeout_ms = timeout_ms, .flags = ask->flags,
                              .target = ask->target, .error = &error };
    const struct pl_os *clock = world_os(torture->world);
    uint64_t start_ns, spent_ns, bytes;
    unsigned asked = ++torture->asked;
    enum pool_status status;

    world_settle(torture->world); /* nothing of what came before is under way any more */
    bytes = bytes_at_peers(torture);
    start_ns = clock->now_ns();
    torture->uses = 0;
    torture->may_refuse = false;
    status = pool_communicate(torture->pool, ask->address, ask->use ? ask->use : torture_exchange,
                              ask->user ? ask->user : torture, &call);
    spent_ns = clock->now_ns() - start_ns;
    if (spent_ns > timeout_ms * PL_MS + LATE_NS)
        torture_fail(torture, "answered after %.3f ms of %u", (double)spent_ns / (double)PL_MS,
                     timeout_ms);
    if (torture->uses > 2)
        torture_fail(torture, "use ran %u times", torture->uses);
    check_answer(torture, ask, status);
    if (status)
        check_error(torture, ask, &error, status);
    check_stats(torture);
    if (!status || error.outcome != POOL_NOT_SENT || has_hooks(torture->scenario) ||
        torture->asked != asked)
        return status;
    world_settle(torture->world);
    if (bytes_at_peers(torture) != bytes)
        torture_fail(torture, "%s says that nothing was sent, but the peer has bytes",
                     pool_status_name(status));
    return status;
}

/* ---- a run */

static void furnish(struct torture *torture)
{
    if (torture->scenario->furnish) {
        torture->scenario->furnish(torture);
        return;
    }
    torture->peer = WORLD_LISTEN(torture->world, TCP, .behave = WORLD_ECHO);
    torture->second = WORLD_LISTEN(torture->world, TCP2, .behave = WORLD_ECHO);
}

static void create(struct torture *torture)
{
    struct pool_options options = torture->scenario->options;

    options.size = sizeof(options);
    options.user = torture;
    torture_check_status(torture, pool_create(&options, &torture->pool), "pool_create");
}

/* From here on nothing fails any more, so everything must go well: on the same pool, if there is
 * one. */
static void recover(struct torture *torture)
{
    fault_off();
    torture->is_strict = true;
    if (!torture->pool)
        create(torture);
    if (torture->pool)
        torture->scenario->exercise(torture);
}

static void check_accounts(struct torture *torture, long allocations, long maps)
{
    struct world *world = torture->world;

    if (world_descriptors(world))
        torture_fail(torture, "%u descriptors are left", world_descriptors(world));
    if (world_threads(world))
        torture_fail(torture, "%u threads are left", world_threads(world));
    if (fault_live_allocations() != allocations)
        torture_fail(torture, "%ld allocations are left", fault_live_allocations() - allocations);
    if (maps >= 0 && fault_live_maps() > maps)
        torture_fail(torture, "%ld more pages are mapped", fault_live_maps() - maps);
    if (world_violations(world))
        torture_fail(torture, "%llu times something foreign was touched",
                     (unsigned long long)world_violations(world));
    if (torture->peer && world_counts(torture->peer).open)
        torture_fail(torture, "%u connections are open at the peer",
                     world_counts(torture->peer).open);
    if (torture->second && world_counts(torture->second).open)
        torture_fail(torture, "%u connections are open at the second peer",
                     world_counts(torture->second).open);
}

static void play(struct torture *torture, const struct torture_plan *plan)
{
    if (plan->point)
        fault_arm(plan->point, plan->error, plan->for_good);
    else
        fault_count();
    torture->is_strict = !plan->point;
    create(torture);
    if (torture->pool)
        torture->scenario->exercise(torture);
    if (fault_has_struck())
        recover(torture);
    pool_destroy(torture->pool);
    torture->pool = NULL;
    if (torture->scenario->afterwards)
        torture->scenario->afterwards(torture);
    fault_off();
    torture->is_strict = true;
    world_settle(torture->world);
}

unsigned torture_run(const struct scenario *scenario, const struct torture_plan *plan,
                     unsigned say_at_most)
{
    struct torture torture = { .scenario = scenario, .world = world_create(1), .fd = -1 };
    long allocations = fault_live_allocations(), maps = fault_live_maps();

    playing = plan;
    sayings_left = say_at_most;
    world_end_at(torture.world, LONGEST_RUN_MS);
    if (scenario->descriptors)
        world_limit_descriptors(torture.world, scenario->descriptors);
    pl_os_replace(fault_os(world_os(torture.world)));
    furnish(&torture);
    play(&torture, plan);
    check_accounts(&torture, allocations, plan->point && !plan->is_fresh ? maps : -1);
    pl_os_replace(NULL);
    world_destroy(torture.world);
    return torture.failures;
}
