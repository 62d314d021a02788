/* schedule.c: see schedule.h. A thread runs while it has the seat; whoever wants it stands in a
 * list. Seats of threads that end are given up by a thread-specific key's destructor. */
#include "schedule/schedule.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "base/os.h"

struct runner {
    pthread_cond_t turn;
    struct runner *next;
    uint64_t chance;
    bool has_left; /* it blocks in the kernel */
};

static struct {
    pthread_mutex_t lock;
    struct runner *running, *standing;
    unsigned standing_count, spacing;
    uint64_t seed, chance, points, switches, runners;
    atomic_bool is_on;
} schedule = { .lock = PTHREAD_MUTEX_INITIALIZER };

static __thread struct runner *self;
static __thread bool has_ended;         /* what its last destructors do is outside the schedule */
static pthread_key_t key;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static uint64_t next_chance(uint64_t *state)
{
    *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return *state >> 33;
}

/* Lock held: one of those who stand gets the seat. */
static void seat_somebody(void)
{
    struct runner **at = &schedule.standing;
    uint64_t place;

    schedule.running = NULL;
    if (!schedule.standing_count)
        return;
    place = next_chance(&schedule.chance) % schedule.standing_count;
    while (place--)
        at = &(*at)->next;
    schedule.running = *at;
    *at = (*at)->next;
    schedule.standing_count--;
    pthread_cond_signal(&schedule.running->turn);
}

/* Lock held. */
static void stand(struct runner *runner)
{
    runner->next = schedule.standing;
    schedule.standing = runner;
    schedule.standing_count++;
}

/* Lock held. */
static void wait_for_turn(struct runner *runner)
{
    if (!schedule.is_on)
        return;
    if (!schedule.running && !schedule.standing_count) {
        schedule.running = runner;
        return;
    }
    stand(runner);
    if (!schedule.running)
        seat_somebody();
    while (schedule.running != runner && schedule.is_on)
        pthread_cond_wait(&runner->turn, &schedule.lock);
}

static void on_end(void *ended)
{
    struct runner *runner = ended;

    pthread_mutex_lock(&schedule.lock);
    if (schedule.running == runner)
        seat_somebody();
    pthread_mutex_unlock(&schedule.lock);
    self = NULL;
    has_ended = true;
    pthread_cond_destroy(&runner->turn);
    free(runner);
}

static void make_key(void)
{
    pthread_key_create(&key, on_end);
}

static struct runner *become_runner(void)
{
    struct runner *runner = calloc(1, sizeof(*runner));

    pthread_once(&once, make_key);
    pthread_cond_init(&runner->turn, NULL);
    pthread_setspecific(key, runner);
    self = runner;
    pthread_mutex_lock(&schedule.lock);
    runner->chance = schedule.seed ^ (++schedule.runners * UINT64_C(0x9e3779b97f4a7c15));
    wait_for_turn(runner);
    pthread_mutex_unlock(&schedule.lock);
    return runner;
}

static void switch_now(void)
{
    pthread_mutex_lock(&schedule.lock);
    if (schedule.is_on && schedule.standing_count) {
        schedule.switches++;
        stand(self);
        seat_somebody();
        while (schedule.running != self && schedule.is_on)
            pthread_cond_wait(&self->turn, &schedule.lock);
    }
    pthread_mutex_unlock(&schedule.lock);
}

void schedule_point(void)
{
    if (!schedule.is_on || has_ended)
        return;
    if (!self)
        become_runner();
    if (self->has_left)
        return;
    schedule.points++;                  /* only who has the seat writes it */
    if (next_chance(&self->chance) % schedule.spacing == 0)
        switch_now();
}

void schedule_yield(void)
{
    bool is_alone;

    if (!schedule.is_on || !self || self->has_left) {
        sched_yield();
        return;
    }
    pthread_mutex_lock(&schedule.lock);
    is_alone = !schedule.standing_count;
    pthread_mutex_unlock(&schedule.lock);
    if (!is_alone) {
        switch_now();
        return;
    }
    schedule_leave();                   /* who has what it wants is in the kernel */
    sched_yield();
    schedule_come();
}

void schedule_leave(void)
{
    if (!self || self->has_left)
        return;
    pthread_mutex_lock(&schedule.lock);
    self->has_left = true;
    if (schedule.running == self)
        seat_somebody();
    pthread_mutex_unlock(&schedule.lock);
}

void schedule_come(void)
{
    if (!self || !self->has_left)
        return;
    pthread_mutex_lock(&schedule.lock);
    self->has_left = false;
    wait_for_turn(self);
    pthread_mutex_unlock(&schedule.lock);
}

unsigned schedule_chance(unsigned below)
{
    if (!self)
        become_runner();
    return (unsigned)(next_chance(&self->chance) % below);
}

uint64_t schedule_points(void)
{
    return schedule.points;
}

uint64_t schedule_switches(void)
{
    return schedule.switches;
}

/* ---- the door: what may block is outside the schedule */

static ssize_t outside_recv(int fd, void *buffer, size_t size, int flags)
{
    ssize_t got;

    if (flags & MSG_DONTWAIT)
        return pl_os_real.recv(fd, buffer, size, flags);
    schedule_leave();
    got = pl_os_real.recv(fd, buffer, size, flags);
    schedule_come();
    return got;
}

static int outside_poll_until(struct pollfd *polled, nfds_t count, uint64_t deadline_ns)
{
    int ready;

    schedule_leave();
    ready = pl_os_real.poll_until(polled, count, deadline_ns);
    schedule_come();
    return ready;
}

static int outside_epoll_wait(int epoll_fd, struct epoll_event *events, int count, int timeout_ms)
{
    int ready;

    schedule_leave();
    ready = pl_os_real.epoll_wait(epoll_fd, events, count, timeout_ms);
    schedule_come();
    return ready;
}

static void outside_thread_join(pthread_t thread)
{
    schedule_leave();
    pl_os_real.thread_join(thread);
    schedule_come();
}

static int outside_wait_until(pthread_cond_t *condition, pthread_mutex_t *mutex,
                              uint64_t deadline_ns)
{
    int result;

    schedule_leave();
    result = pl_os_real.wait_until(condition, mutex, deadline_ns);
    schedule_come();
    return result;
}

static int outside_sleep_until(_Atomic uint32_t *word, uint32_t expected, uint64_t deadline_ns)
{
    int result;

    schedule_leave();
    result = pl_os_real.sleep_until(word, expected, deadline_ns);
    schedule_come();
    return result;
}

void schedule_begin(uint64_t seed, unsigned spacing)
{
    static struct pl_os door;

    door = pl_os_real;
    door.recv = outside_recv;
    door.poll_until = outside_poll_until;
    door.epoll_wait = outside_epoll_wait;
    door.thread_join = outside_thread_join;
    door.wait_until = outside_wait_until;
    door.sleep_until = outside_sleep_until;
    pl_os_replace(&door);
    schedule.seed = schedule.chance = seed;
    schedule.runners = 0;
    schedule.spacing = spacing;
    schedule.is_on = true;
    if (!self) {
        become_runner();
        return;
    }
    self->chance = seed;
    self->has_left = true;
    schedule_come();
}

void schedule_end(void)
{
    pthread_mutex_lock(&schedule.lock);
    schedule.is_on = false;
    schedule.running = NULL;
    while (schedule.standing) {         /* they run freely from here on */
        pthread_cond_signal(&schedule.standing->turn);
        schedule.standing = schedule.standing->next;
    }
    schedule.standing_count = 0;
    pthread_mutex_unlock(&schedule.lock);
}

/* ---- threads of a test */

struct start {
    schedule_fn *fn;
    void *argument;
    unsigned index;
};

static void *run(void *argument)
{
    struct start start = *(struct start *)argument;

    schedule_point();
    start.fn(start.index, start.argument);
    return NULL;
}

void schedule_run(unsigned count, schedule_fn *fn, void *argument)
{
    pthread_t *threads = calloc(count, sizeof(*threads));
    struct start *starts = calloc(count, sizeof(*starts));

    schedule_leave();
    for (unsigned i = 0; i < count; i++) {
        starts[i] = (struct start){ fn, argument, i };
        if (pthread_create(&threads[i], NULL, run, &starts[i]))
            abort();
    }
    for (unsigned i = 0; i < count; i++)
        pthread_join(threads[i], NULL);
    schedule_come();
    free(starts);
    free(threads);
}
