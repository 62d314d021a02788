/* scenes_names.c: dials to names: a dead place beside a good one, names that fail or come late,
 * what ends while a name is looked up, and names that come to stand for another place. */
#include "torture/scenes.h"

#include <string.h>

#include "world/fault.h"
#include "world/world_resolve.h"

#define NAMED "tcp://db.example:80"
#define PLACE "10.0.0.1"
#define PLACE2 "10.0.0.2"
#define PLACE6 "2001:db8::1"

/* A fault that stays makes the peer fail; here nobody pauses for that. */
#define NO_PAUSES .backoff_first_ms = POOL_ZERO, .suspend_after = POOL_ZERO

static struct world_names *names;

/* ---- around each scene */

static void open_names(struct torture *torture)
{
    names = world_names_open(torture->world);
    torture->peer = WORLD_LISTEN(torture->world, TCP, .behave = WORLD_ECHO);
    torture->second = WORLD_LISTEN(torture->world, TCP2, .behave = WORLD_ECHO);
    WORLD_LISTEN(torture->world, "tcp://[" PLACE6 "]:80", .behave = WORLD_BLACK_HOLE);
}

/* No answer is on its way any more: none takes longer. */
static void close_names(struct torture *torture)
{
    fault_off();
    world_run(torture->world, 2000);
    world_names_close(names);
}

#define SCENE_OF_NAMES .furnish = open_names, .afterwards = close_names

/* A script finds no connection and no answer of the one before. */
static void begin(struct torture *torture, const struct world_name *is)
{
    world_names_change(names);
    world_name(names, "db.example", is);
    world_run(torture->world, 100);
    pool_clear(torture->pool, NULL, 0);
    world_settle(torture->world);
}

#define BEGIN(torture, ...) begin((torture), &(struct world_name){ __VA_ARGS__ })

/* A place that answers is there: whatever else fails, nobody refused. */
static void ask(struct torture *torture)
{
    enum pool_status status = TORTURE_ASK(torture, .address = NAMED);

    torture_check(torture, status != POOL_E_REFUSED || fault_struck_kind() == FAULT_CONNECT);
}

static void ask_thrice(struct torture *torture)
{
    ask(torture);
    ask(torture);
    world_run(torture->world, 400);
    ask(torture);
}

/* ---- several places */

static void pass_silent(struct torture *torture)
{
    world_behave(torture->peer, WORLD_BLACK_HOLE);
    BEGIN(torture, .addresses = { PLACE, PLACE2 }, .delay_ms = 5);
    ask_thrice(torture);
}

const struct scenario scene_name_silent = { "name-silent", .options = { NO_PAUSES },
                                            SCENE_OF_NAMES, .exercise = pass_silent };

static void pass_refused(struct torture *torture)
{
    BEGIN(torture, .addresses = { "10.0.0.9", "2001:db8::9", PLACE2 }, .delay_ms = 5);
    TORTURE_ASK(torture, .address = NAMED);
    pool_clear(torture->pool, NULL, 0);
    TORTURE_ASK(torture, .address = NAMED);
}

const struct scenario scene_name_refused = { "name-refused", .options = { NO_PAUSES },
                                             SCENE_OF_NAMES, .exercise = pass_refused };

/* One family is a black hole, and its answer is not the first to come. */
static void pass_family(struct torture *torture)
{
    BEGIN(torture, .addresses = { PLACE6, PLACE2 }, .delay6_ms = 20);
    ask_thrice(torture);
    BEGIN(torture, .addresses = { PLACE6, PLACE2 }, .delay4_ms = 200);
    ask_thrice(torture);
}

const struct scenario scene_name_family = { "name-family", .options = { NO_PAUSES },
                                            SCENE_OF_NAMES, .exercise = pass_family };

/* ---- no place at all */

static void ask_unknown(struct torture *torture)
{
    BEGIN(torture, .addresses = { NULL });
    TORTURE_ASK(torture, .address = NAMED, .expected = POOL_E_RESOLVE);
    TORTURE_ASK(torture, .address = NAMED, .expected = POOL_E_RESOLVE);
    TORTURE_ASK(torture, .address = "tcp://nobody.example:80", .expected = POOL_E_RESOLVE);
    BEGIN(torture, .failure = { .status = POOL_E_RESOLVE, .phase = POOL_PHASE_RESOLVE,
                                .reason = PL_REASON_DNS_FAILED });
    TORTURE_ASK(torture, .address = NAMED, .expected = POOL_E_RESOLVE);
    BEGIN(torture, .addresses = { PLACE });
    ask(torture);
}

const struct scenario scene_name_unknown = { "name-unknown", .options = { NO_PAUSES },
                                             SCENE_OF_NAMES, .exercise = ask_unknown };

/* All places fail; what is known of one family only is worth trying. */
static void ask_nobody(struct torture *torture)
{
    BEGIN(torture, .addresses = { "10.0.0.8", "10.0.0.9" },
          .failure = { .status = POOL_E_RESOLVE, .phase = POOL_PHASE_RESOLVE,
                       .reason = PL_REASON_DNS_FAILED },
          .only_family = 6);
    TORTURE_ASK(torture, .address = NAMED, .expected = POOL_E_REFUSED);
    BEGIN(torture, .addresses = { PLACE6 }, .ttl = 1);
    TORTURE_ASK(torture, .address = NAMED, .timeout_ms = 300, .expected = POOL_E_TIMEOUT);
}

const struct scenario scene_name_nobody = { "name-nobody", .options = { NO_PAUSES },
                                            SCENE_OF_NAMES, .exercise = ask_nobody };

/* ---- too late */

/* The answer comes when nobody waits for it any more, and is remembered. */
static void ask_late(struct torture *torture)
{
    BEGIN(torture, .addresses = { PLACE, PLACE2 }, .delay_ms = 300, .delay6_ms = 50);
    TORTURE_ASK(torture, .address = NAMED, .timeout_ms = 200, .expected = POOL_E_TIMEOUT);
    world_run(torture->world, 200);
    ask(torture);
}

const struct scenario scene_name_late = { "name-late", .options = { NO_PAUSES },
                                          SCENE_OF_NAMES, .exercise = ask_late };

/* The dial ends in the middle of the lookup, while its caller goes on waiting. */
static void ask_late_twice(struct torture *torture)
{
    BEGIN(torture, .addresses = { PLACE }, .is_silent = true);
    TORTURE_ASK(torture, .address = NAMED, .timeout_ms = 600, .expected = POOL_E_TIMEOUT);
    BEGIN(torture, .addresses = { PLACE }, .delay_ms = 100);
    ask(torture);
}

const struct scenario scene_name_connect_ms = { "name-connect-ms",
                                                .options = { NO_PAUSES, .connect_ms = 200 },
                                                SCENE_OF_NAMES, .exercise = ask_late_twice };

struct call {
    struct torture *torture;
    unsigned told;
    enum pool_status status;
};

static void on_lent(struct pool_conn *conn, const struct pool_error *error, void *user)
{
    struct call *call = user;

    call->told++;
    call->status = error ? error->status : POOL_OK;
    if (conn)
        torture_check(call->torture, pool_return(conn) == POOL_OK);
}

static void cancel(void *user)
{
    struct pool_ticket **ticket = user;

    pool_ticket_cancel(*ticket);
}

/* One is canceled, another waits for the same name. */
static void cancel_one(struct torture *torture)
{
    struct call calls[2] = { { .torture = torture }, { .torture = torture } };
    struct pool_ticket *tickets[2] = { NULL };
    enum pool_status started[2];

    BEGIN(torture, .addresses = { PLACE, PLACE2 }, .delay_ms = 100);
    for (int i = 0; i < 2; i++) {
        started[i] = pool_communicate_async(torture->pool, NAMED, on_lent, &calls[i],
                                            POOL_CALL(.timeout_ms = 1000), &tickets[i]);
        torture_check_status(torture, started[i], "pool_communicate_async");
    }
    if (tickets[0])
        world_at(torture->world, 30, cancel, &tickets[0]);
    world_run(torture->world, 1100);
    for (int i = 0; i < 2; i++) {
        torture_check(torture, calls[i].told == !started[i]);
        pool_ticket_free(tickets[i]);
    }
    torture_must(torture, calls[0].status == POOL_E_CANCELED && calls[1].status == POOL_OK);
    ask(torture);
}

const struct scenario scene_name_cancel = { "name-cancel", .options = { NO_PAUSES },
                                            SCENE_OF_NAMES, .exercise = cancel_one };

/* ---- what ends while a name is looked up */

static void clear_later(void *user)
{
    struct torture *torture = user;
    enum pool_status status = pool_clear(torture->pool, torture->heard ? NULL : NAMED, 0);

    torture_check(torture, !status || status == POOL_E_MEMORY);
}

/* Who waits is told; the lookup goes on for whoever comes next. */
static void clear_while_asking(struct torture *torture)
{
    for (torture->heard = 0; torture->heard < 2; torture->heard++) {
        BEGIN(torture, .addresses = { PLACE, PLACE2 }, .delay_ms = 100, .delay6_ms = 20);
        world_at(torture->world, 30, clear_later, torture);
        TORTURE_ASK(torture, .address = NAMED, .expected = POOL_E_CLEARED);
        world_run(torture->world, 50);
        ask(torture);
    }
}

const struct scenario scene_name_clear = { "name-clear", .options = { NO_PAUSES },
                                           SCENE_OF_NAMES, .exercise = clear_while_asking };

static void end_pool(void *user)
{
    struct pool **pool = user;

    pool_destroy(*pool);
    *pool = NULL;
}

/* A pool of its own, as the torture's must stay. */
static void end_after(struct torture *torture, uint64_t ms)
{
    struct pool_error error = POOL_ERROR_INIT;
    struct pool *pool = NULL;
    enum pool_status status = pool_create(NULL, &pool);

    torture_check_status(torture, status, "pool_create");
    if (status)
        return;
    world_at(torture->world, ms, end_pool, &pool);
    status = pool_communicate(pool, NAMED, torture_exchange, torture,
                              POOL_CALL(.timeout_ms = 1000, .error = &error));
    torture_must(torture, status == POOL_E_CLOSING);
    if (status != POOL_E_CLOSING)
        torture_check_status(torture, status, "pool_communicate");
    world_run(torture->world, ms + 300);
    torture_check(torture, !pool);
}

static void end_while_asking(struct torture *torture)
{
    BEGIN(torture, .addresses = { PLACE }, .is_silent = true);
    end_after(torture, 30);
    BEGIN(torture, .addresses = { PLACE }, .delay_ms = 100);
    end_after(torture, 30);
    world_behave(torture->peer, WORLD_BLACK_HOLE);
    BEGIN(torture, .addresses = { PLACE, "10.0.0.9", PLACE6 }, .delay4_ms = 20, .delay6_ms = 600);
    end_after(torture, 300);
    world_behave(torture->peer, WORLD_ECHO);
}

const struct scenario scene_name_end = { "name-end", .options = { NO_PAUSES },
                                         SCENE_OF_NAMES, .exercise = end_while_asking };

/* ---- a name that changes */

/* It is read every five seconds; what it left ends ten seconds after the second reading at the
 * latest. */
static void move(struct torture *torture)
{
    BEGIN(torture, .addresses = { PLACE }, .ttl = 1, .delay_ms = 10);
    ask(torture);
    torture_must(torture, world_counts(torture->peer).open == 1);
    world_run(torture->world, 300);
    WORLD_NAME(names, "db.example", .addresses = { PLACE2 }, .ttl = 1, .delay_ms = 10);
    world_run(torture->world, 30000);
    torture_must(torture, world_counts(torture->peer).open == 0);
    ask(torture);
    torture_must(torture, world_counts(torture->second).open == 1);
}

const struct scenario scene_name_moves = { "name-moves", .options = { NO_PAUSES },
                                           SCENE_OF_NAMES, .exercise = move };

/* The reading itself fails, and then never ends: nothing happens to what stands, and the end of the
 * pool waits for nothing. */
static void fail_to_read(struct torture *torture)
{
    struct pool *pool = NULL;

    BEGIN(torture, .addresses = { PLACE }, .ttl = 1);
    torture_check_status(torture,
                         pool_create(POOL_OPTIONS(NO_PAUSES, .idle_ms = POOL_NONE), &pool),
                         "pool_create");
    if (!pool)
        return;
    torture_check_status(torture,
                         pool_communicate(pool, NAMED, torture_exchange, torture,
                                          POOL_CALL(.timeout_ms = 1000)),
                         "pool_communicate");
    WORLD_NAME(names, "db.example", .failure = { .status = POOL_E_RESOLVE,
                                                 .phase = POOL_PHASE_RESOLVE,
                                                 .reason = PL_REASON_NO_HOST });
    world_run(torture->world, 12000);
    WORLD_NAME(names, "db.example", .addresses = { PLACE2 }, .is_silent = true);
    world_run(torture->world, 60000);
    torture_must(torture, world_counts(torture->peer).open == 1);
    pool_destroy(pool);
    world_settle(torture->world);
}

const struct scenario scene_name_unread = { "name-unread", .options = { NO_PAUSES },
                                            SCENE_OF_NAMES, .exercise = fail_to_read };
