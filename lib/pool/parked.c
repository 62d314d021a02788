/* parked.c: see parked.h. */
#include "pool/parked.h"

#include "base/os.h"
#include "pool/pool.h"

#define AGE_STEPS 64                    /* so often, in the time that connections may live, is the
                                         * list looked through */

static struct pl_connection *from_lru(struct pl_list *link)
{
    return pl_container(link, struct pl_connection, lru_link);
}

/* Moves half of `list` to `half`. */
static void split(struct pl_list *list, struct pl_list *half)
{
    struct pl_list *slow = list->next, *fast = list->next;

    while (fast != list && fast->next != list) {
        slow = slow->next;
        fast = fast->next->next;
    }
    while (slow != list && list->next != slow)
        pl_list_push_back(half, pl_list_pop_front(list));
}

void pl_parked_sort(struct pl_list *list)
{
    struct pl_list half, sorted;

    if (pl_list_is_empty(list) || list->next->next == list)
        return;
    pl_list_init(&half);
    pl_list_init(&sorted);
    split(list, &half);
    pl_parked_sort(list);
    pl_parked_sort(&half);
    while (!pl_list_is_empty(list) && !pl_list_is_empty(&half)) {
        bool first =
            pl_get(from_lru(list->next)->last_used_ns) < pl_get(from_lru(half.next)->last_used_ns);

        pl_list_push_back(&sorted, pl_list_pop_front(first ? list : &half));
    }
    pl_list_move_all(&sorted, list);
    pl_list_move_all(&sorted, &half);
    pl_list_move_all(list, &sorted);
}

struct pl_connection *pl_parked_pop(struct pool *pool, uint64_t before_ns,
                                    enum pool_close_reason reason)
{
    while (!pl_list_is_empty(&pool->parked)) {
        struct pl_connection *connection = from_lru(pool->parked.next);
        uint64_t seen = atomic_load(&connection->word);

        if (pl_word_state(seen) == PL_PARKED && !(seen & PL_PIN_MASK)) {
            if (pl_get(connection->last_used_ns) > before_ns)
                return NULL;
            if (!pl_word_become_state(&connection->word, seen, PL_CLOSING))
                continue;
            pl_list_unlink(&connection->lru_link);
            connection->close_reason = (uint8_t)reason;
            return connection;
        }
        pl_list_unlink(&connection->lru_link);
    }
    return NULL;
}

uint64_t pl_parked_oldest(struct pool *pool)
{
    while (!pl_list_is_empty(&pool->parked)) {
        struct pl_connection *connection = from_lru(pool->parked.next);

        if (pl_word_state(atomic_load(&connection->word)) == PL_PARKED)
            return pl_get(connection->last_used_ns);
        pl_list_unlink(&connection->lru_link);
    }
    return PL_NEVER;
}

/* Closes what was idle for longer than its pool allows; answers when the next one is due. */
static uint64_t end_idle(struct pl_room *room, uint64_t now_ns)
{
    struct pl_connection *connection;
    uint64_t next_ns = PL_NEVER;

    do {
        connection = NULL;
        next_ns = PL_NEVER;
        pthread_mutex_lock(&room->lock);
        PL_LIST_EACH(link, &room->pools) {
            struct pool *pool = pl_container(link, struct pool, room_link);
            uint32_t idle_ms = pool->settings.options.idle_ms;
            uint64_t idle_ns = idle_ms * PL_MS, oldest_ns = pl_parked_oldest(pool);

            if (connection || idle_ms == POOL_NONE || oldest_ns == PL_NEVER)
                continue;
            if (oldest_ns + idle_ns <= now_ns)
                connection = pl_parked_pop(pool, oldest_ns, POOL_CLOSE_IDLE);
            else if (oldest_ns + idle_ns < next_ns)
                next_ns = oldest_ns + idle_ns;
        }
        pthread_mutex_unlock(&room->lock);
        if (connection)
            pl_peer_finish_close(connection);
    } while (connection && !room->mux->is_forked);
    return next_ns;
}

/* Takes what is too old out of the parked ones of a pool, CLOSING and the caller's; room lock held.
 * The list is in another order, so the whole of it is looked at, but only a few times in the span
 * that connections may live. */
static void take_aged(struct pool *pool, uint64_t now_ns, struct pl_list *aged)
{
    uint64_t next_ns = PL_NEVER, step_ns = pool->settings.options.max_age_ms * PL_MS / AGE_STEPS;

    PL_LIST_EACH(link, &pool->parked) {
        struct pl_connection *connection = from_lru(link);
        uint64_t seen = atomic_load(&connection->word), expires_ns = pl_get(connection->expires_ns);

        if (pl_word_state(seen) != PL_PARKED)
            continue;
        if (expires_ns > now_ns || (seen & PL_PIN_MASK) ||
            !pl_word_become_state(&connection->word, seen, PL_CLOSING)) {
            next_ns = pl_earlier(expires_ns, next_ns);
            continue;
        }
        connection->close_reason = (uint8_t)pl_peer_reason_of_age(connection);
        pl_list_unlink(link);
        pl_list_push_back(aged, link);
    }
    pool->aged_ns = next_ns != PL_NEVER && next_ns < now_ns + step_ns ? now_ns + step_ns : next_ns;
}

/* Closes what lived for too long; answers when to look again. */
static uint64_t end_aged(struct pl_room *room, uint64_t now_ns)
{
    uint64_t next_ns = PL_NEVER;
    struct pl_list aged, *link;

    if (room->mux->is_forked)
        return PL_NEVER;                /* whatever end_idle() called did */
    pl_list_init(&aged);
    pthread_mutex_lock(&room->lock);
    PL_LIST_EACH(other, &room->pools) {
        struct pool *pool = pl_container(other, struct pool, room_link);

        if (pool->aged_ns <= now_ns)
            take_aged(pool, now_ns, &aged);
        next_ns = pl_earlier(pool->aged_ns, next_ns);
    }
    pthread_mutex_unlock(&room->lock);
    while ((link = pl_list_pop_front(&aged)))
        pl_peer_finish_close(from_lru(link));
    return next_ns;
}

uint64_t pl_parked_expire(struct pl_room *room, uint64_t now_ns)
{
    uint64_t idle_ns = end_idle(room, now_ns), aged_ns = end_aged(room, now_ns);

    return pl_earlier(idle_ns, aged_ns);
}
