/* world.c: what turns the world: the clock, planned events, and the steps of the library's threads.
 *
 * One thing happens at a time, on the thread of whoever waits. An event may wait itself (a script
 * that borrows), so the world can turn inside a turn; a step of a thread must not, as it is a mux,
 * which never blocks.
 */
#include "world/world.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/thread.h"
#include "world/world_parts.h"

#define START_NS (1000 * 1000 * PL_MS) /* a clock that starts at 0 hides mistakes */
#define DAY_NS (86400 * 1000 * PL_MS)
#define MOST_TURNS 2000000 /* calls and turns in one moment: somebody goes round in circles */
#define MOST_SPARES 64

struct world *world_current;

/* The clock never goes back, not from one world to the next either: the library keeps what it has
 * seen of it. But each world begins at the same time of day, so that its runs are the same. */
static uint64_t days_ns;

/* Records of threads that ended. The library gives them back at the end of a real thread only. */
static struct pl_thread *spares[MOST_SPARES];
static unsigned spare_count;

_Noreturn void world_fail(const char *format, ...)
{
    va_list arguments;

    fflush(stdout);
    if (world_current)
        fprintf(stderr, "world: at %.3f ms: ",
                (double)(world_current->now_ns - world_current->start_ns) / (double)PL_MS);
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    abort();
}

void *world_memory(size_t size)
{
    void *memory = calloc(1, size);

    if (!memory)
        world_fail("the machine has no memory left");
    return memory;
}

void world_bytes_add(struct world_bytes *bytes, const void *data, size_t size)
{
    if (bytes->end + size > bytes->capacity) {
        size_t capacity = (bytes->end + size) * 2;
        char *grown = realloc(bytes->data, capacity);

        if (!grown)
            world_fail("the machine has no memory left");
        bytes->data = grown;
        bytes->capacity = capacity;
    }
    if (size)
        memcpy(bytes->data + bytes->end, data, size);
    bytes->end += size;
}

size_t world_bytes_take(struct world_bytes *bytes, void *data, size_t size, bool peek)
{
    if (size > world_bytes_size(bytes))
        size = world_bytes_size(bytes);
    if (size)
        memcpy(data, bytes->data + bytes->start, size);
    if (!peek)
        bytes->start += size;
    if (bytes->start == bytes->end)
        bytes->start = bytes->end = 0;
    return size;
}

uint64_t world_dice(struct world *world)
{
    uint64_t number = world->dice += UINT64_C(0x9e3779b97f4a7c15);

    number = (number ^ number >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    number = (number ^ number >> 27) * UINT64_C(0x94d049bb133111eb);
    return number ^ number >> 31;
}

/* ---- events */

struct world_event *world_plan(struct world *world, uint64_t time_ns, struct world_event *event)
{
    struct pl_list *place = &world->events;

    event->time_ns = time_ns;
    while (place->previous != &world->events &&
           pl_container(place->previous, struct world_event, link)->time_ns > time_ns)
        place = place->previous;
    pl_list_link_before(place, &event->link);
    world->packets += event->is_packet;
    return event;
}

void world_at(struct world *world, uint64_t ms, world_fn *run, void *argument)
{
    struct world_event *event = world_memory(sizeof(*event));

    event->run = run;
    event->argument = argument;
    event->is_script = true;
    world_plan(world, world->now_ns + ms * PL_MS, event);
}

static void run_event(struct world *world, struct world_event *event)
{
    struct pl_thread *caller = pl_thread_current;

    world->packets -= event->is_packet;
    if (!event->is_script) {
        event->run(event->argument);
    } else {
        pl_thread_current = world->script_identity;
        event->run(event->argument);
        world->script_identity = pl_thread_current;
        pl_thread_current = caller;
    }
    free(event);
}

static struct world_event *next_event(const struct world *world)
{
    if (pl_list_is_empty(&world->events))
        return NULL;
    return pl_container(world->events.next, struct world_event, link);
}

static bool run_due_event(struct world *world)
{
    struct world_event *event = next_event(world);

    if (!event || event->time_ns > world->now_ns)
        return false;
    pl_list_unlink(&event->link);
    run_event(world, event);
    return true;
}

/* ---- threads of the library */

static struct pl_thread *take_spare(void)
{
    return spare_count ? spares[--spare_count] : NULL;
}

/* What a thread remembers of an earlier world would make its calls differ from run to run. */
static void forget_the_past(struct pl_thread *identity)
{
    if (!identity)
        return;
    memset(identity->recent, 0, sizeof(identity->recent));
    identity->next_recent = 0;
}

static void keep_spare(struct pl_thread *identity)
{
    if (identity && spare_count < MOST_SPARES)
        spares[spare_count++] = identity;
}

static bool is_runnable(const struct world_task *task)
{
    return !task->is_over && (!task->waits_on || world_epoll_is_ready(task->waits_on));
}

static void run_step(struct world *world, struct world_task *task)
{
    struct pl_thread *caller = pl_thread_current;
    bool goes_on;

    if (task->waits_on) {
        world->wakeups++;
        world_file_unref(task->waits_on);
        task->waits_on = NULL;
    }
    pl_thread_current = task->identity;
    world->running = task;
    goes_on = task->step(task->argument);
    world->running = NULL;
    task->identity = pl_thread_current;
    pl_thread_current = caller;
    if (goes_on)
        return;
    task->is_over = true;
    keep_spare(task->identity);
    task->identity = NULL;
}

static bool run_ready_task(struct world *world)
{
    if (world->running)
        return false;
    PL_LIST_EACH(link, &world->tasks) {
        struct world_task *task = pl_container(link, struct world_task, link);

        if (!is_runnable(task))
            continue;
        pl_list_unlink(&task->link);
        pl_list_push_back(&world->tasks, &task->link);
        run_step(world, task);
        return true;
    }
    return false;
}

int world_start_task(struct world *world, pthread_t *thread, pl_step_fn *step, void *argument)
{
    struct world_task *task = world_memory(sizeof(*task));

    task->id = ++world->last_task;
    task->step = step;
    task->argument = argument;
    task->identity = take_spare();
    pl_list_push_back(&world->tasks, &task->link);
    *thread = (pthread_t)task->id;
    return 0;
}

static bool is_over(void *argument)
{
    return ((struct world_task *)argument)->is_over;
}

void world_join_task(struct world *world, pthread_t thread)
{
    PL_LIST_EACH(link, &world->tasks) {
        struct world_task *task = pl_container(link, struct world_task, link);

        if (task->id == (uintptr_t)thread) {
            world_block(world, is_over, task, PL_NEVER);
            return;
        }
    }
    world_fail("a thread was joined that never was");
}

unsigned world_threads(const struct world *world)
{
    unsigned count = 0;

    PL_LIST_EACH(link, &world->tasks)
        count += !pl_container(link, struct world_task, link)->is_over;
    return count;
}

/* ---- turning */

void world_note_call(struct world *world)
{
    if (++world->turns_without_time > MOST_TURNS)
        world_fail(
            "millions of calls, and the clock has not moved: somebody goes round in circles");
}

static void move_clock(struct world *world, uint64_t time_ns)
{
    if (time_ns <= world->now_ns)
        return;
    world->now_ns = time_ns;
    world->turns_without_time = 0;
    if (world->now_ns > world->end_ns)
        world_fail("somebody waits longer than this test allows");
}

void world_turn(struct world *world, uint64_t deadline_ns)
{
    struct world_event *event;
    uint64_t next_ns = world_next_timer(world);

    world_note_call(world);
    if (run_due_event(world) || run_ready_task(world))
        return;
    event = next_event(world);
    if (event && event->time_ns < next_ns)
        next_ns = event->time_ns;
    if (deadline_ns < next_ns)
        next_ns = deadline_ns;
    if (next_ns == PL_NEVER)
        world_fail("somebody waits for ever: nothing can happen any more");
    move_clock(world, next_ns);
}

bool world_block(struct world *world, world_condition_fn *holds, void *argument,
                 uint64_t deadline_ns)
{
    while (!holds(argument)) {
        if (world->now_ns >= deadline_ns)
            return false;
        if (world->running)
            world_fail("a thread of the library's own waits inside its step");
        world_turn(world, deadline_ns);
    }
    return true;
}

static bool never(void *argument)
{
    (void)argument;
    return false;
}

void world_run(struct world *world, uint64_t ms)
{
    world_block(world, never, NULL, world->now_ns + ms * PL_MS);
    while (run_due_event(world) || run_ready_task(world))
        world_note_call(world);
}

void world_settle(struct world *world)
{
    while (run_due_event(world) || run_ready_task(world) || world->packets)
        world_turn(world, world->now_ns + PL_MS);
}

uint64_t world_now_ms(const struct world *world)
{
    return (world->now_ns - world->start_ns) / PL_MS;
}

void world_end_at(struct world *world, uint64_t ms)
{
    world->end_ns = world->start_ns + ms * PL_MS;
}

/* ---- life and questions */

struct world *world_create(uint64_t seed)
{
    struct world *world = world_memory(sizeof(*world));

    if (world_current)
        world_fail("there is a world already");
    world->start_ns = world->now_ns = days_ns + START_NS;
    world->end_ns = PL_NEVER;
    world->dice = seed;
    world->number_limit = 1024;
    world->port_limit = UINT16_MAX;
    world->next_port = 32768;
    world->last_cookie = 4096;
    world->numbers = world_memory(WORLD_MOST_FDS * sizeof(struct world_file *));
    world->highest = WORLD_FIRST_FD;
    for (unsigned i = 0; i < spare_count; i++)
        forget_the_past(spares[i]);
    forget_the_past(pl_thread_current);
    world->script_identity = take_spare();
    pl_list_init(&world->events);
    pl_list_init(&world->tasks);
    pl_list_init(&world->files);
    pl_list_init(&world->peers);
    world_current = world;
    world->nobody = world_peer_make(world, &(struct world_peer_options){ .behave = WORLD_REFUSE });
    return world;
}

void world_destroy(struct world *world)
{
    struct pl_list *link;

    while ((link = pl_list_pop_front(&world->tasks))) {
        struct world_task *task = pl_container(link, struct world_task, link);

        keep_spare(task->identity);
        free(task);
    }
    keep_spare(world->script_identity);
    for (unsigned fd = WORLD_FIRST_FD; fd < world->highest; fd++)
        world->numbers[fd] = NULL;
    while (!pl_list_is_empty(&world->files)) {
        struct world_file *file = pl_container(world->files.next, struct world_file, all_link);

        file->refs = 1;
        world_file_unref(file);
    }
    while ((link = pl_list_pop_front(&world->events)))
        free(pl_container(link, struct world_event, link));
    while ((link = pl_list_pop_front(&world->peers)))
        world_peer_free(pl_container(link, struct world_peer, link));
    days_ns += (world->now_ns - days_ns) / DAY_NS * DAY_NS + DAY_NS;
    free(world->numbers);
    free(world);
    world_current = NULL;
}

size_t world_allocations(const struct world *world)
{
    return world->allocations;
}

size_t world_allocated_bytes(const struct world *world)
{
    return world->allocated_bytes;
}

size_t world_maps(const struct world *world)
{
    return world->maps;
}

uint64_t world_calls(const struct world *world)
{
    return world->calls;
}

uint64_t world_wakeups(const struct world *world)
{
    return world->wakeups;
}

uint64_t world_violations(const struct world *world)
{
    return world->violations;
}

void world_limit_descriptors(struct world *world, unsigned limit)
{
    world->number_limit = limit < WORLD_MOST_FDS ? limit : WORLD_MOST_FDS;
}

void world_limit_ports(struct world *world, unsigned limit)
{
    world->port_limit = limit;
}
