/* test_reload.c: what becomes of connections when the settings that secured them are replaced, and
 * nobody asks for one. What is lent and continued then is in test_secure_sessions.c. */
#include <criterion/criterion.h>

#include "pool/secure_stage.h"

TestSuite(pool_reload, .init = secure_stage_begin, .fini = secure_stage_end, .timeout = 60);

#define MOST_MS 12000 /* they have 10 s */
#define MANY 5u

static void reload(void)
{
    cr_assert_eq(pool_tls_reload(trust, POOL_TLS_OPTIONS(.ca_pem = authority->certificate), NULL),
                 POOL_OK);
}

/* So many connections stand idle then. */
static void leave_idle(struct pool *in, const char *address, unsigned count)
{
    struct pool_conn conns[MANY];

    for (unsigned i = 0; i < count; i++)
        cr_assert(borrow(in, address, &conns[i]));
    for (unsigned i = 0; i < count; i++)
        cr_assert_eq(pool_return(&conns[i]), POOL_OK);
}

struct expected {
    struct pool *in;
    unsigned stale;
};

static bool are_closed(void *argument)
{
    struct expected *expected = argument;

    return STAT(expected->in, closed[POOL_CLOSE_STALE]) == expected->stale;
}

static bool wait_closed(struct pool *in, unsigned stale)
{
    struct expected expected = { in, stale };

    return wait_until(are_closed, &expected, MOST_MS);
}

static void count_end(uint64_t connection, const struct pool_error *error, void *user)
{
    (void)connection, (void)error;
    atomic_fetch_add((_Atomic unsigned *)user, 1);
}

static int listen_in(struct pool_conn *conn, struct pool_actor *actor, void *user)
{
    (void)conn;
    actor->on_close = count_end;
    actor->user = user;
    return 0;
}

Test(pool_reload, idle_connections_end_soon_wherever_they_stand)
{
    _Atomic unsigned actors_ended = 0;
    struct pool_tls *others = NULL;
    struct pool *parked, *heard, *spare, *other;
    const char *address;

    START_PEER(.version = 0x0304);
    address = secure_at("");
    cr_assert_eq(pool_tls_create(POOL_TLS_OPTIONS(.ca_pem = authority->certificate), &others, NULL),
                 POOL_OK);
    SECURE_POOL(.park_ms = POOL_NONE, .idle_ms = POOL_NONE);
    parked = MAKE_POOL(.tls = trust, .park_ms = 1, .idle_ms = POOL_NONE);
    heard = MAKE_POOL(.tls = trust, .park_ms = 1, .idle_ms = POOL_NONE,
                      .on_new_connection = listen_in, .user = (void *)&actors_ended);
    spare = MAKE_POOL(.tls = trust, .min_idle = 2, .idle_ms = POOL_NONE);
    other = MAKE_POOL(.tls = others, .idle_ms = POOL_NONE);
    leave_idle(pool, address, MANY);
    leave_idle(parked, address, MANY);
    leave_idle(heard, address, 2);
    leave_idle(spare, address, 2);
    leave_idle(other, address, 2);
    reload();
    cr_expect(wait_closed(pool, MANY));
    cr_expect(wait_closed(parked, MANY));
    cr_expect(wait_closed(heard, 2));
    cr_expect_eq(actors_ended, 2);
    cr_expect(wait_closed(spare, 2));
    cr_expect(WAIT_STAT(spare, idle, 2), "others take their place");
    cr_expect_eq(STAT(other, idle), 2);
    cr_expect_eq(STAT(spare, closed[POOL_CLOSE_STALE]), 2, "and stay");
    pool_destroy(other);
    pool_destroy(spare);
    pool_destroy(heard);
    pool_destroy(parked);
    pool_tls_free(others);
}

Test(pool_reload, what_is_lent_ends_with_its_return)
{
    struct pool_conn conn;

    START_PEER(.version = 0x0304);
    SECURE_POOL(.check = POOL_CHECK_NEVER);
    cr_assert(borrow(pool, secure_at(""), &conn));
    reload();
    cr_assert_eq(talk(pool, secure_at("")), POOL_OK); /* by way of the mux, which was told before */
    cr_expect_eq(echo(&conn, "old"), 0);
    cr_expect_eq(pool_return(&conn), POOL_OK);
    cr_expect_eq(STAT(pool, closed[POOL_CLOSE_STALE]), 1);
    cr_expect_eq(STAT(pool, idle), 1);
}

static int reload_at_first(struct pool_conn *conn, struct pool_actor *actor, void *user)
{
    unsigned *calls = user;

    (void)conn, (void)actor;
    if (++*calls == 1)
        reload();
    return 0;
}

/* Nobody waits for a spare, so nobody looks at it. */
Test(pool_reload, a_spare_that_was_being_opened_does_not_become_idle)
{
    unsigned calls = 0;

    START_PEER(.version = 0x0304);
    SECURE_POOL(.on_new_connection = reload_at_first, .user = &calls, .min_idle = 1);
    cr_assert_eq(talk(pool, secure_at("")), POOL_OK);
    cr_expect_eq(STAT(pool, closed[POOL_CLOSE_STALE]), 1);
    cr_expect_eq(STAT(pool, idle), 1);
}

static void reload_often(unsigned index, void *argument)
{
    struct pool *in = argument;

    for (int i = 0; i < 50; i++) {
        if (index)
            cr_expect_eq(talk(in, secure_at("")), POOL_OK);
        else
            reload();
    }
}

Test(pool_reload, settings_may_be_replaced_while_pools_come_and_go)
{
    START_PEER(.version = 0x0304);
    for (int i = 0; i < 4; i++) {
        SECURE_POOL();
        cr_assert(run_threads(3, reload_often, pool));
        pool_destroy(pool);
        reload();
    }
    pool = NULL;
}
