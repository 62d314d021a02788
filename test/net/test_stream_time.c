/* test_stream_time.c: when a borrower's waiting ends: the bucket rule, and deadlines in real time
 * that are never early and never more than 20 ms late. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>

#include "base/os.h"
#include "net/lent.h"
#include "support/peer.h"
#include "support/tests.h"

static struct pool_mux *mux;
static struct pl_os os;

static void begin(void)
{
    os = pl_os_real;
    pl_os_replace(&os);
    cr_assert_eq(pl_mux_open(&mux, true), POOL_OK);
}

TestSuite(stream_time, .init = begin, .timeout = 60);

/* ---- the bucket rule, as the design has it */

#define EXACT_MS 50

/* The largest power of two T with 1.15 T + 10 ms <= what is left. */
static uint32_t largest_bucket(uint64_t left_ns)
{
    uint32_t best = 0;

    for (uint64_t bucket = 1; bucket <= 1u << 20; bucket *= 2) {
        if (bucket * UINT64_C(1150000) + 10 * PL_MS <= left_ns)
            best = (uint32_t)bucket;
    }
    return best;
}

static void check_bucket(uint64_t left_ns)
{
    uint32_t best = largest_bucket(left_ns);

    cr_assert_eq(pl_stream_bucket_ms(left_ns, 0), best, "%llu ns left, none armed",
                 (unsigned long long)left_ns);
    for (uint64_t armed = 1; armed <= 1u << 20; armed *= 2) {
        bool is_kept = armed <= best && armed * 8 >= best;

        cr_assert_eq(pl_stream_bucket_ms(left_ns, (uint32_t)armed), is_kept ? 0 : best,
                     "%llu ns left, %llu ms armed", (unsigned long long)left_ns,
                     (unsigned long long)armed);
    }
}

Test(stream_time, a_bucket_surely_ends_before_the_deadline_and_is_set_anew_only_when_it_must)
{
    for (uint64_t left_ms = EXACT_MS; left_ms < 20000; left_ms++)
        check_bucket(left_ms * PL_MS);
    for (uint64_t bucket = 32; bucket <= 1u << 20; bucket *= 2) {
        uint64_t just_ns = bucket * UINT64_C(1150000) + 10 * PL_MS;

        check_bucket(just_ns - 1);
        check_bucket(just_ns);
        check_bucket(just_ns + 1);
    }
    check_bucket(UINT64_C(1) << 50);
    check_bucket(PL_NEVER);
}

/* ---- deadlines */

static const uint32_t timeouts[] = { 100, 333, 2500, 5000 };

/* One way of waiting in vain: each is tried with every timeout, all at once. */
struct wait {
    const char *name;
    enum peer_behaviour behave;
    size_t sends;                   /* bytes before the wait */
    unsigned storm_hz;
    enum pool_status (*wait)(struct pl_connection *connection);
    enum pool_status expected;
};

static enum pool_status wait_for_some(struct pl_connection *connection)
{
    char byte;
    size_t got;

    return pl_stream_recv(connection, &byte, 1, &got);
}

static enum pool_status wait_for_all(struct pl_connection *connection)
{
    char bytes[4096];

    return pl_stream_recv_exact(connection, bytes, sizeof(bytes));
}

static enum pool_status wait_for_line(struct pl_connection *connection)
{
    struct pool_bytes line;

    return pl_stream_recv_until(connection, POOL_TEXT("\n"), &line);
}

static char plenty[16 << 20];

static enum pool_status wait_for_room(struct pl_connection *connection)
{
    struct iovec pieces[] = { { plenty, sizeof(plenty) }, { plenty, sizeof(plenty) } };

    return pl_stream_send(connection, pieces, 2);
}

static const struct wait waits[] = {
    { "silent", PEER_SILENT, 0, 0, wait_for_some, POOL_E_TIMEOUT },
    { "silent, sent", PEER_SILENT, 1, 0, wait_for_line, POOL_E_TIMEOUT_IN_TRANSFER },
    { "silent, signals", PEER_SILENT, 1, 1000, wait_for_some, POOL_E_TIMEOUT_IN_TRANSFER },
    { "dripping", PEER_DRIP, 2000, 0, wait_for_all, POOL_E_TIMEOUT_IN_TRANSFER },
    { "dripping, a line", PEER_DRIP, 2000, 0, wait_for_line, POOL_E_TIMEOUT_IN_TRANSFER },
    { "dripping, signals", PEER_DRIP, 2000, 1000, wait_for_all, POOL_E_TIMEOUT_IN_TRANSFER },
    { "deaf", PEER_DEAF, 0, 0, wait_for_room, POOL_E_TIMEOUT_IN_TRANSFER },
    { "deaf, signals", PEER_DEAF, 0, 1000, wait_for_room, POOL_E_TIMEOUT_IN_TRANSFER },
};

#define CASES (PL_COUNT(waits) * PL_COUNT(timeouts))

static struct peer *peers[PL_COUNT(waits)];
static struct outcome {
    enum pool_status status;
    uint64_t early_ns, late_ms, signals;
    int cause;
} outcomes[CASES];

/* When the call began, as far as the library can know: where the system's ticks come later than it
 * allows for, its coarse clock takes some of the time away. */
static uint64_t begin_of(const struct pl_connection *connection, uint64_t now_ns)
{
    uint64_t latest_ns = connection->lease.start_ns + 2 * pl_os->coarse_step_ns();

    return now_ns < latest_ns ? now_ns : latest_ns;
}

static void wait_in_vain(unsigned index, void *argument)
{
    const struct wait *wait = &waits[index / PL_COUNT(timeouts)];
    uint64_t timeout_ns = timeouts[index % PL_COUNT(timeouts)] * PL_MS, start_ns, took_ns;
    int fd = peer_dial(peers[index / PL_COUNT(timeouts)]);
    struct signal_storm *storm = wait->storm_hz ? start_signal_storm(wait->storm_hz) : NULL;
    struct outcome *outcome = &outcomes[index];
    struct pl_connection *connection;

    (void)argument;
    start_ns = pl_os->now_ns();
    connection = lend(mux, fd, (uint32_t)(timeout_ns / PL_MS));
    start_ns = begin_of(connection, start_ns);
    if (wait->sends)
        outcome->status = pl_stream_send(connection, &(struct iovec){ plenty, wait->sends }, 1);
    if (!outcome->status)
        outcome->status = wait->wait(connection);
    took_ns = pl_os->now_ns() - start_ns;
    outcome->signals = stop_signal_storm(storm);
    outcome->early_ns = took_ns < timeout_ns ? timeout_ns - took_ns : 0;
    outcome->late_ms = took_ns < timeout_ns ? 0 : (took_ns - timeout_ns) / PL_MS;
    outcome->cause = failure_of(connection).cause;
    end_loan(connection);
}

Test(stream_time, a_wait_ends_at_the_deadline_never_before_and_20_ms_late_at_most)
{
    for (size_t i = 0; i < PL_COUNT(waits); i++)
        peers[i] = PEER(.behave = waits[i].behave, .own_process = true);
    cr_assert(run_threads(CASES, wait_in_vain, NULL));
    for (size_t i = 0; i < CASES; i++) {
        const struct wait *wait = &waits[i / PL_COUNT(timeouts)];
        uint32_t timeout_ms = timeouts[i % PL_COUNT(timeouts)];
        struct outcome *outcome = &outcomes[i];

        cr_expect_eq(outcome->status, wait->expected, "%s, %u ms: %s", wait->name, timeout_ms,
                     pool_status_name(outcome->status));
        cr_expect_eq(outcome->early_ns, 0, "%s, %u ms: %llu ns early", wait->name, timeout_ms,
                     (unsigned long long)outcome->early_ns);
        cr_expect(within(outcome->late_ms, 0, 20, wait->name), "%u ms", timeout_ms);
        cr_expect_eq(outcome->cause, ETIMEDOUT);
        cr_expect(!wait->storm_hz || outcome->signals > 10); /* a busy machine joins some */
    }
    for (size_t i = 0; i < PL_COUNT(waits); i++)
        peer_stop(peers[i]);
}

/* Waits once, by its own bound, and answers what that took. */
static uint64_t took_ms(struct pl_connection *connection,
                        enum pool_status (*wait)(struct pl_connection *connection))
{
    uint64_t begin_us = now_us();

    cr_expect_eq(wait(connection), POOL_E_TIMEOUT_IN_TRANSFER);
    return (now_us() - begin_us) / 1000;
}

Test(stream_time, a_bound_of_the_operation_itself_comes_first_when_it_is_shorter)
{
    struct peer *silent = PEER(.behave = PEER_SILENT), *deaf = PEER(.behave = PEER_DEAF);
    struct pl_connection *reading = lend(mux, peer_dial(silent), 5000);
    struct pl_connection *writing = lend(mux, peer_dial(deaf), 5000);

    reading->limits.read_ms = 120;
    writing->limits.write_ms = 60;
    cr_expect_eq(pl_stream_send(reading, &(struct iovec){ plenty, 1 }, 1), POOL_OK);
    cr_expect(WITHIN(took_ms(reading, wait_for_some), 120, 140));
    lend_again(reading, 90);
    cr_expect_eq(pl_stream_send(reading, &(struct iovec){ plenty, 1 }, 1), POOL_OK);
    cr_expect(WITHIN(took_ms(reading, wait_for_some), 88, 110), "the call's own is shorter here");
    cr_expect(WITHIN(took_ms(writing, wait_for_room), 60, 80));
    end_loan(reading);
    end_loan(writing);
    peer_stop(silent);
    peer_stop(deaf);
}

Test(stream_time, a_deadline_that_is_past_still_takes_what_is_there)
{
    struct peer *peer = PEER(.behave = PEER_PUSH, .push_on_accept = true, .push = "hello");
    int fd = peer_dial(peer);
    struct pl_connection *connection;

    cr_assert_eq(listen_to(fd, 10000), HEARD_BYTES);
    connection = lend(mux, fd, 1);
    connection->lease.deadline_ns = 1;
    cr_expect_eq(wait_for_some(connection), POOL_OK);
    cr_expect_eq(pl_stream_send(connection, &(struct iovec){ plenty, 1 }, 1), POOL_OK);
    end_loan(connection);
    peer_stop(peer);
}

/* ---- the moment itself */

Test(stream_time, the_deadline_is_worked_out_once_and_counts_from_the_beginning_of_the_call)
{
    struct pl_connection connection = { .lease = { .start_ns = 100 * PL_MS, .timeout_ms = 50 } };
    uint64_t step_ns = pl_os->coarse_step_ns(), now_ns = 120 * PL_MS;

    cr_expect_eq(pl_stream_deadline(&connection, now_ns), 150 * PL_MS + 2 * step_ns);
    cr_expect_eq(pl_stream_deadline(&connection, 2 * now_ns), 150 * PL_MS + 2 * step_ns);
    connection.lease.deadline_ns = 0;
    cr_expect_eq(pl_stream_deadline(&connection, 100 * PL_MS + 1), 150 * PL_MS + 1,
                 "the coarse clock's step is not given away when the exact one knows better");
    connection.lease = (struct pl_lease){ .start_ns = 1, .timeout_ms = POOL_NONE };
    cr_expect_eq(pl_stream_deadline(&connection, now_ns), PL_NEVER);
    connection.lease = (struct pl_lease){ .start_ns = 1, .timeout_ms = 1, .deadline_ns = 77 };
    cr_expect_eq(pl_stream_deadline(&connection, now_ns), 77);
}

static int set_calls;

static int counted_set(int fd, int level, int name, const void *value, socklen_t size)
{
    set_calls += name == SO_RCVTIMEO;
    return pl_os_real.setsockopt(fd, level, name, value, size);
}

Test(stream_time, loans_of_like_patience_set_the_sockets_timeout_once)
{
    struct peer *peer = PEER(.behave = PEER_ECHO);
    struct pl_connection *connection = lend(mux, peer_dial(peer), 10000);

    os.setsockopt = counted_set;
    for (unsigned i = 0; i < 100; i++) {
        lend_again(connection, 10000 - i * 50);
        cr_assert_eq(pl_stream_send(connection, &(struct iovec){ plenty, 1 }, 1), POOL_OK);
        cr_assert_eq(wait_for_some(connection), POOL_OK);
    }
    cr_expect_eq(set_calls, 2, "8,192 ms, then 4,096 would do but 8,192 is too long: %d",
                 set_calls);
    lend_again(connection, 40);
    cr_assert_eq(pl_stream_send(connection, &(struct iovec){ plenty, 1 }, 1), POOL_OK);
    cr_assert_eq(wait_for_some(connection), POOL_OK);
    cr_expect_eq(set_calls, 2, "under 50 ms only ppoll is exact enough");
    end_loan(connection);
    peer_stop(peer);
}
