/* tls_sessions.c: see tls_sessions.h. The newest session is the first; a new one pushes the oldest
 * out.
 */
#include "net/tls_sessions.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>

#include "base/os.h"
#include "net/tls_gate.h"

#define NS_PER_S UINT64_C(1000000000)

struct kept {
    SSL_SESSION *session;
    uint64_t generation, expires_ns;
};

struct pl_tls_sessions {
    atomic_size_t references;
    pthread_mutex_t lock;
    unsigned count;
    struct kept kept[PL_TLS_SESSIONS];
};

struct pl_tls_sessions *pl_tls_sessions_create(void)
{
    struct pl_tls_sessions *sessions = pl_zalloc(sizeof(*sessions));

    if (!sessions)
        return NULL;
    pthread_mutex_init(&sessions->lock, NULL);
    atomic_init(&sessions->references, 1);
    return sessions;
}

struct pl_tls_sessions *pl_tls_sessions_keep(struct pl_tls_sessions *sessions)
{
    if (sessions)
        atomic_fetch_add(&sessions->references, 1);
    return sessions;
}

static void drop_all(struct pl_tls_sessions *sessions)
{

    if (!pl_tls_gate_enter())
        return;
    while (sessions->count)
        SSL_SESSION_free(sessions->kept[--sessions->count].session);
    pl_tls_gate_leave();
}

void pl_tls_sessions_release(struct pl_tls_sessions *sessions)
{
    if (!sessions || atomic_fetch_sub(&sessions->references, 1) > 1)
        return;
    drop_all(sessions);
    pthread_mutex_destroy(&sessions->lock);
    pl_os->free(sessions);
}

/* The place at `index` is free, and those behind it move up. */
static void take_out(struct pl_tls_sessions *sessions, unsigned index)
{
    sessions->count--;
    memmove(&sessions->kept[index], &sessions->kept[index + 1],
            (sessions->count - index) * sizeof(*sessions->kept));
}

static void drop_stale(struct pl_tls_sessions *sessions, uint64_t generation, uint64_t now_ns)
{
    for (unsigned i = sessions->count; i-- > 0;) {
        struct kept *kept = &sessions->kept[i];

        if (kept->generation == generation && now_ns < kept->expires_ns &&
            SSL_SESSION_is_resumable(kept->session))
            continue;
        SSL_SESSION_free(kept->session);
        take_out(sessions, i);
    }
}

/* Settings made later have a greater number. */
static uint64_t latest(const struct pl_tls_sessions *sessions, uint64_t generation)
{
    for (unsigned i = 0; i < sessions->count; i++) {
        if (sessions->kept[i].generation > generation)
            generation = sessions->kept[i].generation;
    }
    return generation;
}

/* The wall clock may be set; ours goes on. */
static uint64_t expiry_of(const SSL_SESSION *session)
{
    long seconds = SSL_SESSION_get_timeout(session);
    unsigned long hint = SSL_SESSION_get_ticket_lifetime_hint(session);
    uint64_t lifetime = seconds > 0 ? (uint64_t)seconds : 0;

    if (hint && hint < lifetime)
        lifetime = hint;
    return pl_after(pl_os->now_ns(), lifetime * NS_PER_S);
}

void pl_tls_sessions_put(struct pl_tls_sessions *sessions, SSL_SESSION *session,
                         uint64_t generation)
{
    struct kept kept = { session, generation, expiry_of(session) };

    pthread_mutex_lock(&sessions->lock);
    drop_stale(sessions, latest(sessions, generation), pl_os->now_ns());
    if (generation < latest(sessions, generation)) {
        pthread_mutex_unlock(&sessions->lock);
        SSL_SESSION_free(session); /* an old connection's, and new settings are in use */
        return;
    }
    if (sessions->count == PL_TLS_SESSIONS)
        SSL_SESSION_free(sessions->kept[--sessions->count].session);
    memmove(&sessions->kept[1], &sessions->kept[0], sessions->count * sizeof(kept));
    sessions->kept[0] = kept;
    sessions->count++;
    pthread_mutex_unlock(&sessions->lock);
}

static bool is_used_once(const SSL_SESSION *session)
{
    return SSL_SESSION_get_protocol_version(session) >= TLS1_3_VERSION;
}

SSL_SESSION *pl_tls_sessions_take(struct pl_tls_sessions *sessions, uint64_t generation)
{
    uint64_t now_ns = pl_os->now_ns();
    SSL_SESSION *session = NULL;

    pthread_mutex_lock(&sessions->lock);
    drop_stale(sessions, generation, now_ns);
    if (sessions->count) {
        session = sessions->kept[0].session;
        if (is_used_once(session))
            take_out(sessions, 0);
        else
            SSL_SESSION_up_ref(session);
    }
    pthread_mutex_unlock(&sessions->lock);
    return session;
}

void pl_tls_sessions_clear(struct pl_tls_sessions *sessions)
{
    if (!pl_tls_gate_enter())           /* before the lock, as everywhere */
        return;
    pthread_mutex_lock(&sessions->lock);
    drop_all(sessions);
    pthread_mutex_unlock(&sessions->lock);
    pl_tls_gate_leave();
}

unsigned pl_tls_sessions_count(struct pl_tls_sessions *sessions)
{
    unsigned count;

    pthread_mutex_lock(&sessions->lock);
    count = sessions->count;
    pthread_mutex_unlock(&sessions->lock);
    return count;
}
