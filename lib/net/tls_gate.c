/* tls_gate.c: see tls_gate.h. Whoever enters writes first and looks after, and so does who shuts
 * the gate: either the one is seen inside, or the other is seen to have shut it. Threads count in
 * lanes, so that they do not fight for a line of the cache.
 */
#include "net/tls_gate.h"

#include <openssl/ssl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>

#include "base/os.h"
#include "base/thread.h"

#define LANES 16u
#define LOOK_NS (PL_MS / 10)
#define PATIENCE_NS (1000 * PL_MS) /* only reading a file that does not come takes so long */

enum gate { GATE_OPEN, GATE_HELD, GATE_SHUT };

static struct {
    _Alignas(PL_LINE) _Atomic uint32_t inside;
} lanes[LANES];
static _Atomic uint32_t gate; /* enum gate */
static pthread_mutex_t held = PTHREAD_MUTEX_INITIALIZER; /* while it is HELD */
static pthread_once_t once = PTHREAD_ONCE_INIT;
static __thread struct {
    unsigned depth, lane;
} here __attribute__((tls_model("initial-exec")));

static bool is_anybody_inside(void)
{
    uint32_t inside = 0;

    for (unsigned i = 0; i < LANES; i++)
        inside += atomic_load(&lanes[i].inside);
    return inside;
}

static void wait_until_empty(void)
{
    uint64_t now_ns = pl_os->now_ns(), until_ns = pl_after(now_ns, PATIENCE_NS);

    while (is_anybody_inside() && now_ns < until_ns) {
        pl_os->poll_until(NULL, 0, pl_after(now_ns, LOOK_NS));
        now_ns = pl_os->now_ns();
    }
}

static void shut(void)
{
    atomic_store(&gate, GATE_SHUT);
    wait_until_empty();
}

/* What is registered last runs first. In a child nobody else is inside, also where no pool was made
 * yet, which would say so. */
static void open_gate(void)
{
    (void)!pthread_atfork(NULL, NULL, pl_tls_gate_orphan);
    OPENSSL_init_ssl(0, NULL);
    atexit(shut);
}

void pl_tls_gate_open(void)
{
    pthread_once(&once, open_gate);
}

/* Until the fork is over. False: it lasts. What else is held for it may be what the caller holds,
 * so nobody waits for longer than it would have waited for us. */
static PL_COLD bool wait_outside(void)
{
    uint64_t until_ns = pl_after(pl_os->now_ns(), PATIENCE_NS);
    struct timespec until = { .tv_sec = (time_t)(until_ns / (1000 * PL_MS)),
                              .tv_nsec = (long)(until_ns % (1000 * PL_MS)) };

    if (pthread_mutex_clocklock(&held, CLOCK_MONOTONIC, &until))
        return false;
    pthread_mutex_unlock(&held);
    return true;
}

bool pl_tls_gate_enter(void)
{
    const struct pl_thread *self;
    bool is_patient = true;
    uint32_t seen;

    if (here.depth) {
        here.depth++;
        return true;
    }
    self = pl_thread_self();
    here.lane = self ? (unsigned)(self->id % LANES) : 0;
    for (;;) {
        atomic_fetch_add(&lanes[here.lane].inside, 1);
        seen = atomic_load(&gate);
        if (PL_LIKELY(seen == GATE_OPEN || (seen == GATE_HELD && !is_patient))) {
            here.depth = 1;
            return true;
        }
        atomic_fetch_sub(&lanes[here.lane].inside, 1);
        if (seen == GATE_SHUT)
            return false;
        is_patient = wait_outside();
    }
}

void pl_tls_gate_leave(void)
{
    if (!--here.depth)
        atomic_fetch_sub(&lanes[here.lane].inside, 1);
}

/* ---- fork */

void pl_tls_gate_hold(void)
{
    uint32_t open = GATE_OPEN;

    pthread_mutex_lock(&held);
    if (atomic_compare_exchange_strong(&gate, &open, GATE_HELD))
        wait_until_empty();
}

void pl_tls_gate_let_go(void)
{
    uint32_t mine = GATE_HELD;

    atomic_compare_exchange_strong(&gate, &mine, GATE_OPEN);
    pthread_mutex_unlock(&held);
}

void pl_tls_gate_orphan(void)
{
    for (unsigned i = 0; i < LANES; i++)
        atomic_store(&lanes[i].inside, 0);
}
