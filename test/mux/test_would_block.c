/* test_would_block.c: what would have to wait answers POOL_E_WOULD_BLOCK where the mux would wait
 * for itself, and waits everywhere else; what needs no waiting works in both. A row is a call, a
 * column a place to call it from. */
#include <criterion/criterion.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "commpool/pool.h"
#include "pool/pool.h"
#include "support/peer.h"
#include "support/tests.h"

#define SOON 10000
#define WAIT_MS (300 * slowness()) /* for what never comes */
#define MUCH (64u * 1024 * 1024) /* more than sockets hold */

enum place {
    OWN_CALLBACK,               /* a mux with a thread of its own: inside its callback */
    HOME,                       /* embedded: its home thread, between two dispatches */
    HOME_CALLBACK,              /* embedded: inside a callback */
    ELSEWHERE,                  /* embedded: another thread, while the home thread dispatches */
    OWN_ELSEWHERE,              /* a mux with a thread of its own: another thread */
    PLACES
};

static const char *const place_names[] = { "in a callback on the mux's own thread",
                                           "on the home thread", "in a callback on the home thread",
                                           "on another thread", "beside the mux's own thread" };

struct cell {
    enum place place;
    struct peer *peer;
    struct pool_mux *mux; /* embedded; NULL: the pool has its own */
    struct pool *pool;
    struct pool_conn conn; /* lent before the call */
    enum pool_status status;
    enum pool_status (*call)(struct cell *cell);
    _Atomic bool is_done;
};

/* ---- places */

static void call_it(struct cell *cell)
{
    cell->status = cell->call(cell);
    atomic_store(&cell->is_done, true);
}

static void call_posted(void *cell)
{
    call_it(cell);
}

static void *call_in_thread(void *cell)
{
    call_it(cell);
    return NULL;
}

static bool is_done(void *cell)
{
    return atomic_load(&((struct cell *)cell)->is_done);
}

static void dispatch_until_done(struct cell *cell)
{
    uint64_t begin_ms = now_ms();

    while (!is_done(cell) && elapsed_ms(begin_ms) < SOON)
        cr_assert_eq(pool_mux_dispatch(cell->mux, 5), POOL_OK);
}

static enum pool_status call_at(struct cell *cell, enum place place,
                                enum pool_status (*call)(struct cell *cell))
{
    pthread_t thread;

    cell->call = call;
    atomic_store(&cell->is_done, false);
    switch (place) {
    case OWN_CALLBACK:
        pool_mux_post(cell->pool->mux, call_posted, cell);
        cr_assert(wait_until(is_done, cell, SOON));
        break;
    case HOME_CALLBACK:
        pool_mux_post(cell->mux, call_posted, cell);
        dispatch_until_done(cell);
        break;
    case ELSEWHERE:
        cr_assert_eq(pthread_create(&thread, NULL, call_in_thread, cell), 0);
        dispatch_until_done(cell);
        pthread_join(thread, NULL);
        break;
    case HOME:
    case OWN_ELSEWHERE:
    case PLACES:
        call_it(cell);
        break;
    }
    return cell->status;
}

/* ---- what was before the call */

static enum pool_status lend(struct cell *cell)
{
    return pool_borrow(cell->pool, peer_address(cell->peer), POOL_CALL(.timeout_ms = WAIT_MS),
                       &cell->conn);
}

static enum pool_status warm(struct cell *cell)
{
    enum pool_status status = lend(cell);

    return status ? status : pool_return(&cell->conn);
}

/* Five bytes have come back. */
static enum pool_status lend_with_answer(struct cell *cell)
{
    enum pool_status status = lend(cell);
    struct pollfd polled = { .fd = pool_conn_fd(&cell->conn), .events = POLLIN };

    if (!status)
        status = pool_send(&cell->conn, "five\n", 5);
    return !status && poll(&polled, 1, SOON) != 1 ? POOL_E_TIMEOUT : status;
}

/* ---- calls */

static int do_nothing(struct pool_conn *conn, void *user)
{
    (void)conn, (void)user;
    return 0;
}

static enum pool_status communicate(struct cell *cell)
{
    return pool_communicate(cell->pool, peer_address(cell->peer), do_nothing, NULL, NULL);
}

static enum pool_status borrow_with(struct cell *cell, const char *address,
                                    const struct pool_call *call)
{
    struct pool_conn conn;
    enum pool_status status = pool_borrow(cell->pool, address, call, &conn);

    return status ? status : pool_return(&conn);
}

static enum pool_status borrow(struct cell *cell)
{
    return borrow_with(cell, peer_address(cell->peer), POOL_CALL(.timeout_ms = WAIT_MS));
}

static enum pool_status borrow_by_target(struct cell *cell)
{
    struct pool_target *target;
    enum pool_status status = pool_target_get(cell->pool, peer_address(cell->peer), &target);

    if (status)
        return status;
    status = borrow_with(cell, NULL, POOL_CALL(.target = target));
    pool_target_free(target);
    return status;
}

static enum pool_status borrow_without_waiting(struct cell *cell)
{
    return borrow_with(cell, peer_address(cell->peer), POOL_CALL(.flags = POOL_DONT_WAIT));
}

static enum pool_status borrow_in_no_time(struct cell *cell)
{
    return borrow_with(cell, peer_address(cell->peer), POOL_CALL(.timeout_ms = POOL_ZERO));
}

static void give_back(struct pool_conn *conn, const struct pool_error *error, void *user)
{
    (void)error, (void)user;
    if (conn)
        pool_discard(conn);
}

static enum pool_status communicate_async(struct cell *cell)
{
    return pool_communicate_async(cell->pool, peer_address(cell->peer), give_back, NULL, NULL,
                                  NULL);
}

static enum pool_status send_little(struct cell *cell)
{
    return pool_send(&cell->conn, "little", 6);
}

static enum pool_status send_much(struct cell *cell)
{
    static char bytes[MUCH];

    return pool_send(&cell->conn, bytes, sizeof(bytes));
}

static enum pool_status send_many(struct cell *cell)
{
    static char bytes[MUCH / 4];
    struct iovec pieces[] = { { bytes, sizeof(bytes) },
                              { bytes, sizeof(bytes) },
                              { bytes, sizeof(bytes) },
                              { bytes, sizeof(bytes) } };

    return pool_sendv(&cell->conn, pieces, 4);
}

static enum pool_status receive(struct cell *cell)
{
    char bytes[8];
    size_t got;

    return pool_recv(&cell->conn, bytes, sizeof(bytes), &got);
}

static enum pool_status receive_five(struct cell *cell)
{
    char bytes[5];

    return pool_recv_exact(&cell->conn, bytes, sizeof(bytes));
}

static enum pool_status receive_six(struct cell *cell)
{
    char bytes[6];

    return pool_recv_exact(&cell->conn, bytes, sizeof(bytes));
}

static enum pool_status receive_line(struct cell *cell)
{
    struct pool_bytes bytes;

    return pool_recv_until(&cell->conn, "\n", 1, &bytes);
}

static enum pool_status receive_two_lines(struct cell *cell)
{
    struct pool_bytes bytes;

    return pool_recv_until(&cell->conn, "\n\n", 2, &bytes);
}

static enum pool_status give_it_back(struct cell *cell)
{
    return pool_return(&cell->conn);
}

static enum pool_status destroy(struct cell *cell)
{
    pool_destroy(cell->pool);
    cell->pool = NULL;
    return POOL_OK;
}

/* ---- the table */

struct row {
    const char *name;
    enum peer_behaviour peer;
    enum pool_status (*before)(struct cell *cell);
    enum pool_status (*call)(struct cell *cell);
    enum pool_status here, elsewhere;
};

#define BLOCK POOL_E_WOULD_BLOCK
#define LATE POOL_E_TIMEOUT
#define LATE_INSIDE POOL_E_TIMEOUT_IN_TRANSFER

static const struct row rows[] = {
    { "communicate, cold", PEER_ECHO, NULL, communicate, BLOCK, POOL_OK },
    { "communicate, warm", PEER_ECHO, warm, communicate, POOL_OK, POOL_OK },
    { "communicate_async, cold", PEER_ECHO, NULL, communicate_async, POOL_OK, POOL_OK },
    { "communicate_async, warm", PEER_ECHO, warm, communicate_async, POOL_OK, POOL_OK },
    { "borrow, cold", PEER_ECHO, NULL, borrow, BLOCK, POOL_OK },
    { "borrow, warm", PEER_ECHO, warm, borrow, POOL_OK, POOL_OK },
    { "borrow, all lent", PEER_ECHO, lend, borrow, BLOCK, LATE },
    { "borrow by target, cold", PEER_ECHO, NULL, borrow_by_target, BLOCK, POOL_OK },
    { "borrow by target, warm", PEER_ECHO, warm, borrow_by_target, POOL_OK, POOL_OK },
    { "borrow without waiting, warm", PEER_ECHO, warm, borrow_without_waiting, POOL_OK, POOL_OK },
    { "borrow without waiting, all lent", PEER_ECHO, lend, borrow_without_waiting, POOL_E_FULL,
      POOL_E_FULL },
    { "borrow in no time, all lent", PEER_ECHO, lend, borrow_in_no_time, LATE, LATE },
    { "borrow in no time, warm", PEER_ECHO, warm, borrow_in_no_time, POOL_OK, POOL_OK },
    { "send a little", PEER_ECHO, lend, send_little, POOL_OK, POOL_OK },
    { "send much", PEER_DEAF, lend, send_much, BLOCK, LATE_INSIDE },
    { "sendv much", PEER_DEAF, lend, send_many, BLOCK, LATE_INSIDE },
    { "recv, nothing there", PEER_SILENT, lend, receive, BLOCK, LATE },
    { "recv, all there", PEER_ECHO, lend_with_answer, receive, POOL_OK, POOL_OK },
    { "recv_exact, nothing there", PEER_SILENT, lend, receive_five, BLOCK, LATE },
    { "recv_exact, half there", PEER_ECHO, lend_with_answer, receive_six, BLOCK, LATE_INSIDE },
    { "recv_exact, all there", PEER_ECHO, lend_with_answer, receive_five, POOL_OK, POOL_OK },
    { "recv_until, nothing there", PEER_SILENT, lend, receive_line, BLOCK, LATE },
    { "recv_until, half there", PEER_ECHO, lend_with_answer, receive_two_lines, BLOCK,
      LATE_INSIDE },
    { "recv_until, all there", PEER_ECHO, lend_with_answer, receive_line, POOL_OK, POOL_OK },
    { "return", PEER_ECHO, lend, give_it_back, POOL_OK, POOL_OK },
    { "destroy, warm", PEER_ECHO, warm, destroy, POOL_OK, POOL_OK },
    { "destroy, lent", PEER_ECHO, lend, destroy, POOL_OK, POOL_OK },
};

static void check_cell(const struct row *row, enum place place, struct peer *peer)
{
    bool is_embedded = place == HOME || place == HOME_CALLBACK || place == ELSEWHERE;
    bool is_here = place == OWN_CALLBACK || place == HOME || place == HOME_CALLBACK;
    struct cell cell = { .place = place, .peer = peer };
    enum pool_status expected = is_here ? row->here : row->elsewhere;

    if (is_embedded)
        cr_assert_eq(pool_mux_create(&cell.mux), POOL_OK);
    cr_assert_eq(pool_create(POOL_OPTIONS(.mux = cell.mux, .max_per_address = 1), &cell.pool),
                 POOL_OK);
    if (row->before)
        cr_assert_eq(call_at(&cell, is_embedded ? ELSEWHERE : OWN_ELSEWHERE, row->before), POOL_OK);
    call_at(&cell, place, row->call);
    cr_expect_eq(cell.status, expected, "%s %s: %s, not %s", row->name, place_names[place],
                 pool_status_name(cell.status), pool_status_name(expected));
    pool_discard(&cell.conn);
    pool_destroy(cell.pool);
    pool_mux_destroy(cell.mux);
}

Test(would_block, what_would_wait_is_refused_where_the_mux_would_wait_for_itself_and_nowhere_else,
     .timeout = 120)
{
    struct peer *peers[] = { [PEER_ECHO] = PEER(.behave = PEER_ECHO),
                             [PEER_SILENT] = PEER(.behave = PEER_SILENT),
                             [PEER_DEAF] = PEER(.behave = PEER_DEAF) };

    for (size_t i = 0; i < PL_COUNT(rows); i++) {
        for (int place = 0; place < PLACES; place++)
            check_cell(&rows[i], (enum place)place, peers[rows[i].peer]);
    }
    peer_stop(peers[PEER_ECHO]);
    peer_stop(peers[PEER_SILENT]);
    peer_stop(peers[PEER_DEAF]);
}
