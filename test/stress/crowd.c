/* crowd.c: see crowd.h. */
#include "stress/crowd.h"

#include <string.h>

#include "support/tests.h"

#define IDS (1u << 20)
#define RETIRED UINT32_MAX

struct place places[PLACES];
atomic_ullong handed, asked, strays, failed_calls;
__thread struct stress_caller *self;
static struct card cards[IDS];

void forget_cards(void)
{
    memset(cards, 0, sizeof(cards));
}

static struct card *card_of(const struct pool_conn *conn)
{
    uint64_t id = pool_conn_id(conn);

    if (!id)
        stress_fail("a connection that was just lent has no id");
    return &cards[id % IDS];
}

struct card *hold(const struct pool_conn *conn, const struct place *place)
{
    struct card *card = card_of(conn);
    uint32_t before = atomic_exchange(&card->holder, self->thread + 1);

    atomic_fetch_add(&handed, 1);
    if (before)
        stress_fail("connection %llu is with threads %u and %u at once",
                    (unsigned long long)pool_conn_id(conn), before - 1, self->thread);
    if (atomic_load(&card->nth) == RETIRED)
        stress_fail("connection %llu was thrown away and is lent again",
                    (unsigned long long)pool_conn_id(conn));
    if (strcmp(pool_conn_address(conn), place->address) != 0)
        stress_fail("asked for %s, got %s", place->address, pool_conn_address(conn));
    return card;
}

void let_go(struct card *card)
{
    atomic_store(&card->holder, 0);
}

void retire(struct card *card)
{
    atomic_store(&card->nth, RETIRED);
}

static void expect_same_end(struct card *card, unsigned nth)
{
    uint32_t known = 0;

    if (!atomic_compare_exchange_strong(&card->nth, &known, nth + 1) && known != nth + 1)
        stress_fail("connection %zu was the peer's %u and is its %u now", (size_t)(card - cards),
                    known - 1, nth);
}

/* One to three questions on a connection that this thread has. */
int talk(struct pool_conn *conn, struct card *card, const struct place *place)
{
    unsigned rounds = 1 + stress_below(self, 3), nth;
    int answer = POOL_OK;

    for (unsigned i = 0; i < rounds && !answer; i++) {
        answer = stress_ask(self, conn, &nth);
        if (!answer && place->temper == STEADY)
            expect_same_end(card, nth);
    }
    if (answer == STRESS_STRAY) {
        atomic_fetch_add(&strays, 1);
        if (place->temper == STEADY)
            stress_fail("%s: heard what nobody sent", place->address);
    }
    atomic_fetch_add(&asked, 1);
    return answer;
}

static bool fits(int status, enum temper temper, const struct pool_call *call)
{
    bool is_hasty = call->timeout_ms < ENOUGH_MS;

    switch (status) {
    case POOL_OK:
        return true;
    case POOL_E_TIMEOUT:
    case POOL_E_TIMEOUT_IN_TRANSFER:
    case POOL_E_RESOURCE:
        return is_hasty;
    case POOL_E_FULL:
        return call->flags & POOL_DONT_WAIT;
    case POOL_E_REFUSED:
        return temper != STEADY;
    case POOL_E_CONNECT:
    case POOL_E_CLOSED:
    case POOL_E_BROKEN:
    case POOL_E_USER:
        return temper == UNSTEADY;
    default:
        return false;
    }
}

void judge(const char *what, int status, const struct place *place, const struct pool_call *call,
           uint64_t start_ms)
{
    uint64_t took_ms = elapsed_ms(start_ms);

    if (status)
        atomic_fetch_add(&failed_calls, 1);
    if (!fits(status, place->temper, call))
        stress_fail("%s to %s with %u ms: %s after %llu ms", what, place->address, call->timeout_ms,
                    pool_status_name((enum pool_status)status), (unsigned long long)took_ms);
    if (took_ms > call->timeout_ms + 500 * slowness())
        stress_fail("%s to %s with %u ms took %llu", what, place->address, call->timeout_ms,
                    (unsigned long long)took_ms);
}
