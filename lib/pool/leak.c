/* leak.c: see leak.h. When no memory for a note is to be had, that loan goes unwatched: observing
 * must not make anything fail.
 */
#include "pool/leak.h"

#include <stdio.h>

#include "base/os.h"
#include "pool/log.h"
#include "pool/pool.h"

void pl_leak_note(struct pl_connection *connection, const char *tag)
{
    struct pl_peer *peer = connection->peer;
    struct pool *pool = peer->pool;
    uint64_t now_ns = pl_os->now_ns();
    struct pl_loan_note *note;

    pthread_mutex_lock(&peer->lock);
    if (!connection->note)
        connection->note = pl_zalloc(sizeof(*connection->note));
    note = connection->note;
    if (note) {
        note->serial = pl_word_serial(atomic_load(&connection->word));
        note->lent_ns = now_ns;
        note->is_reported = false;
        snprintf(note->tag, sizeof(note->tag), "%s", tag);
    }
    pthread_mutex_unlock(&peer->lock);
    pl_room_note_loan(pool->room, pool, pl_after(now_ns, pool->settings.leak_ns));
}

static void report(const struct pl_connection *connection, const struct pl_loan_note *note,
                   uint64_t now_ns)
{
    const struct pl_peer *peer = connection->peer;
    bool has_tag = note->tag[0];

    pl_log(peer->pool, POOL_LOG_WARNING,
           "%s: connection %llu was lent%s%s%s %llu ms ago and has not come back", peer->text,
           (unsigned long long)connection->id, has_tag ? " to \"" : "", note->tag,
           has_tag ? "\"" : "", (unsigned long long)((now_ns - note->lent_ns) / PL_MS));
}

/* Peer lock held. Answers when this one will be due; PL_NEVER: it is not lent, or reported; or
 * queries have it, which no program can forget to return. */
static uint64_t look_at(struct pl_connection *connection, uint64_t leak_ns, uint64_t now_ns)
{
    struct pl_loan_note *note = connection->note;
    uint64_t word = atomic_load(&connection->word), due_ns;

    if (!note || note->is_reported || pl_word_state(word) != PL_LENT ||
        pl_word_serial(word) != note->serial ||
        (pl_get(connection->lease.flags) & PL_LEASE_SHARED))
        return PL_NEVER;
    due_ns = pl_after(note->lent_ns, leak_ns);
    if (due_ns > now_ns)
        return due_ns;
    note->is_reported = true;
    report(connection, note, now_ns);
    return PL_NEVER;
}

static uint64_t look_through(struct pool *pool, uint64_t now_ns)
{
    uint64_t next_ns = PL_NEVER, due_ns;

    pthread_mutex_lock(&pool->lock);
    PL_LIST_EACH(peer_link, &pool->all_peers) {
        struct pl_peer *peer = pl_container(peer_link, struct pl_peer, pool_link);

        pthread_mutex_lock(&peer->lock);
        PL_LIST_EACH(link, &peer->shared.all) {
            due_ns = look_at(pl_container(link, struct pl_connection, all_link),
                             pool->settings.leak_ns, now_ns);
            next_ns = pl_earlier(due_ns, next_ns);
        }
        pthread_mutex_unlock(&peer->lock);
    }
    pthread_mutex_unlock(&pool->lock);
    return next_ns;
}

/* A pool that has something due, which is then due no more; NULL: none. It may end meanwhile: pools
 * are type-stable. */
static struct pool *pop_due(struct pl_room *room, uint64_t now_ns, uint64_t *next_ns)
{
    struct pool *due = NULL;

    *next_ns = PL_NEVER;
    pthread_mutex_lock(&room->lock);
    PL_LIST_EACH(link, &room->pools) {
        struct pool *pool = pl_container(link, struct pool, room_link);
        uint64_t leak_ns = atomic_load(&pool->leak_ns);

        if (!due && leak_ns <= now_ns) {
            due = pool;
            atomic_store(&pool->leak_ns, PL_NEVER);     /* before it is looked through */
        } else if (leak_ns < *next_ns) {
            *next_ns = leak_ns;
        }
    }
    pthread_mutex_unlock(&room->lock);
    return due;
}

uint64_t pl_leak_look(struct pl_room *room, uint64_t now_ns)
{
    struct pool *pool;
    uint64_t next_ns;

    while ((pool = pop_due(room, now_ns, &next_ns))) {
        if (pl_pool_enter(pool))
            continue;
        pl_room_note_loan(room, pool, look_through(pool, now_ns));
        pl_pool_leave(pool);
    }
    return next_ns;
}
