/* timer.c: the heap of timers. Pure: no lock, no clock. */
#include "mux/timer.h"

#include "base/os.h"

#define WIDTH 4u

static bool is_before(const struct pl_timer_entry *a, const struct pl_timer_entry *b)
{
    return a->deadline_ns != b->deadline_ns ? a->deadline_ns < b->deadline_ns : a->order < b->order;
}

static void put(struct pl_timers *timers, uint32_t index, struct pl_timer_entry entry)
{
    timers->entries[index] = entry;
    entry.timer->place = index + 1;
}

static void sift_up(struct pl_timers *timers, uint32_t index, struct pl_timer_entry entry)
{
    while (index) {
        uint32_t parent = (index - 1) / WIDTH;

        if (!is_before(&entry, &timers->entries[parent]))
            break;
        put(timers, index, timers->entries[parent]);
        index = parent;
    }
    put(timers, index, entry);
}

static void sift_down(struct pl_timers *timers, uint32_t index, struct pl_timer_entry entry)
{
    for (;;) {
        uint64_t child = (uint64_t)index * WIDTH + 1, last = child + WIDTH, best = child;

        if (child >= timers->count)
            break;
        if (last > timers->count)
            last = timers->count;
        for (uint64_t next = child + 1; next < last; next++) {
            if (is_before(&timers->entries[next], &timers->entries[best]))
                best = next;
        }
        if (!is_before(&timers->entries[best], &entry))
            break;
        put(timers, index, timers->entries[best]);
        index = (uint32_t)best;
    }
    put(timers, index, entry);
}

static void settle(struct pl_timers *timers, uint32_t index, struct pl_timer_entry entry)
{
    if (index && is_before(&entry, &timers->entries[(index - 1) / WIDTH]))
        sift_up(timers, index, entry);
    else
        sift_down(timers, index, entry);
}

bool pl_timers_reserve(struct pl_timers *timers)
{
    uint32_t capacity = timers->capacity ? timers->capacity * 2 : 16;
    struct pl_timer_entry *entries;

    if (timers->reserved == timers->capacity) {
        entries = pl_os->realloc(timers->entries, capacity * sizeof(*entries));
        if (!entries)
            return false;
        timers->entries = entries;
        timers->capacity = capacity;
    }
    timers->reserved++;
    return true;
}

void pl_timers_unreserve(struct pl_timers *timers)
{
    pl_assert(timers->reserved > timers->count);
    timers->reserved--;
}

void pl_timers_fini(struct pl_timers *timers)
{
    pl_os->free(timers->entries);
    *timers = (struct pl_timers){ 0 };
}

void pl_timers_arm(struct pl_timers *timers, struct pl_timer *timer, uint64_t deadline_ns)
{
    struct pl_timer_entry entry = { deadline_ns, timers->next_order++, timer };

    if (timer->place) {
        settle(timers, timer->place - 1, entry);
        return;
    }
    pl_assert(timers->count < timers->reserved);
    sift_up(timers, timers->count++, entry);
}

void pl_timers_disarm(struct pl_timers *timers, struct pl_timer *timer)
{
    uint32_t index = timer->place - 1;

    if (!timer->place)
        return;
    timer->place = 0;
    timers->count--;
    if (index != timers->count)
        settle(timers, index, timers->entries[timers->count]);
}

uint64_t pl_timers_first(const struct pl_timers *timers)
{
    return timers->count ? timers->entries[0].deadline_ns : PL_NEVER;
}

struct pl_timer *pl_timers_pop_due(struct pl_timers *timers, uint64_t now_ns)
{
    struct pl_timer *timer;

    if (!timers->count || timers->entries[0].deadline_ns > now_ns)
        return NULL;
    timer = timers->entries[0].timer;
    pl_timers_disarm(timers, timer);
    return timer;
}
