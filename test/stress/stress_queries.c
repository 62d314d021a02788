/* stress_queries.c: queries from threads and from the mux, of all sizes, answered late, twice or
 * never, given up and canceled, over connections that break, plain and secured; and borrowers among
 * them.
 *
 *     stress_queries [SEED [SECONDS [COUNT]]]
 *
 * COUNT ends a part when so many queries were asked in it, whatever the time.
 *
 * Every request carries a token that is used once. Its answer repeats the request and says on which
 * connection it came, and the peer notes for each token how often it came, and where. What must
 * hold: no query is told what another asked, nor from another connection than the one that carried
 * it; each is answered exactly once, with what may be; the peer sees each once at most unless it is
 * safe to repeat, and none of which it was said that it was not sent; and nothing is left. */
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "stress/pending.h"
#include "support/frames.h"
#include "support/query_peer.h"
#include "support/tests.h"
#include "support/tls_peer.h"

#define CALLERS 6u
#define IN_FLIGHT 300u /* of each caller, at most */
#define LARGEST 100000u
#define PARTS 6u /* the last two are secured, where lines are echoed at once */
#define REPEATS 3u

static struct pool *pool;
static struct query_peer *peer;
static struct credential *authority, *credential;
static struct pool_tls *trust;
static struct tls_peer *secure_peer; /* NULL: this part is not secured */
static const char *address;
static char secure_address[64];
static bool is_line, is_rough;
static uint64_t count; /* 0: as long as there is time */
static atomic_ullong asked, told, answered, given_up, refused, orphans;
static atomic_uint in_flight[CALLERS];
static _Atomic uint64_t last_id;

/* On the peer's thread. */
static void note_seen(const char *body, size_t size, unsigned nth)
{
    seen_note(seen_token_in(body, size), nth);
}

/* ---- one query */

static size_t random_size(struct stress_caller *caller)
{
    if (stress_chance(caller, 70))
        return stress_below(caller, 64);
    return stress_below(caller, stress_chance(caller, 95) ? 4000 : LARGEST);
}

/* What is asked for is known from the first byte; lines come in order, so every one is answered. */
static char random_order(struct stress_caller *caller)
{
    unsigned choice = stress_below(caller, 100);

    if (choice < 15)
        return 'D';
    if (is_line || choice < 70)
        return 'e';
    if (choice < 80)
        return 'N';
    if (choice < 85)
        return 'W';
    if (choice < 90)
        return 'U';
    if (is_rough && choice < 92)
        return choice < 91 ? 'T' : 'G';
    return 'F';
}

static struct pending *make_pending(struct stress_caller *caller)
{
    struct pending *pending;
    char order[16] = { random_order(caller) };

    if (order[0] == 'D')
        snprintf(order, sizeof(order), "D%u ", stress_below(caller, 8));
    pending = pending_make(order, random_size(caller));
    pending->caller = caller->thread;
    pending->is_hurried = order[0] == 'N';      /* there will be no answer */
    return pending;
}

static uint32_t random_flags(struct stress_caller *caller, struct pending *pending)
{
    static const uint32_t flags[] = { POOL_SAFE_TO_REPEAT, POOL_ONE_SHOT, POOL_ORDERED,
                                      POOL_DONT_WAIT };
    uint32_t chosen = stress_chance(caller, 60) ? 0 : flags[stress_below(caller, 4)];

    pending->is_hasty = chosen == POOL_DONT_WAIT;
    pending->may_repeat = chosen == POOL_SAFE_TO_REPEAT;
    return chosen;
}

/* ---- what it came to */

static bool may_be(enum pool_status status, const struct pending *pending)
{
    switch (status) {
    case POOL_E_CLOSING:
        return !stress_is_on() || count;
    case POOL_E_BROKEN:
    case POOL_E_CLOSED:
    case POOL_E_CLEARED:
    case POOL_E_PROTOCOL:
    case POOL_E_CONNECT:
        return is_rough;
    case POOL_E_TLS:
        return is_rough && secure_peer; /* reset in its handshake */
    default:
        return pending_may_fail(pending, status);
    }
}

/* Is it the request, and "@" and the number of a connection behind it? -1: it is not. */
static long connection_in(const struct pending *pending, struct pool_bytes bytes)
{
    const char *label = (const char *)bytes.data + pending->size;
    char text[16] = "";

    if (secure_peer)                    /* which says nothing of itself */
        return bytes.size == pending->size && memcmp(bytes.data, pending->body, bytes.size) == 0
                   ? 0
                   : -1;
    if (bytes.size < pending->size + 2 || bytes.size > pending->size + 11 || label[0] != '@' ||
        memcmp(bytes.data, pending->body, pending->size) != 0)
        return -1;
    memcpy(text, label + 1, bytes.size - pending->size - 1);
    return strtol(text, NULL, 10);
}

/* One that is safe to repeat may be read late on a connection that is given up already. */
static void check_connection(const struct pending *pending, long nth)
{
    uint64_t token = seen_token_in(pending->body, pending->size);

    if (token >= SEEN_TOKENS || pending->may_repeat || secure_peer)
        return;
    if (seen_times(token) != 1 || seen_connection(token) != nth)
        stress_fail("%.40s came %u times, at last on %u; the answer came on %ld", pending->body,
                    seen_times(token), seen_connection(token), nth);
}

static void check_answer(const struct pending *pending, struct pool_bytes bytes, bool failed)
{
    long nth = connection_in(pending, bytes);

    if (nth < 0)
        stress_fail("crossed: asked %.40s (%zu), was told %.40s (%zu)", pending->body,
                    pending->size, bytes.size ? (const char *)bytes.data : "", bytes.size);
    else
        check_connection(pending, nth);
    if (failed != (pending->body[0] == 'F' && !is_line))
        stress_fail("%.40s: it failed, or did not", pending->body);
    atomic_fetch_add(&answered, 1);
}

static void check_failure(const struct pending *pending, const struct pool_error *error)
{
    pending_check_failure(pending, error, may_be(error->status, pending));
    atomic_fetch_add(&given_up, 1);
}

static void ask_from_the_mux(struct pending *pending);

static void on_reply(struct pool_reply *reply, void *user)
{
    struct pending *pending = user;
    const struct pool_error *error = pool_reply_error(reply);

    pending_note_told(pending);
    if (error)
        check_failure(pending, error);
    else
        check_answer(pending, pool_reply_bytes(reply), pool_reply_failed(reply));
    pool_reply_free(reply);
    atomic_fetch_add(&told, 1);
    if (pending->asks_again && !error)
        ask_from_the_mux(pending);
    atomic_fetch_sub(&in_flight[pending->caller], 1);
    free(pending);
}

static void note_start(enum pool_status status, struct pending *pending)
{
    if (!status) {
        atomic_fetch_add(&asked, 1);
        return;
    }
    if (status != POOL_E_FULL && !may_be(status, pending))
        stress_fail("a start: %s", pool_status_name(status));
    atomic_fetch_add(&refused, 1);
    atomic_fetch_sub(&in_flight[pending->caller], 1);
    free(pending);
}

static void ask_from_the_mux(struct pending *pending)
{
    struct pending *next = pending_make("e", 0);

    next->caller = pending->caller;
    next->is_hasty = true;
    atomic_fetch_add(&in_flight[next->caller], 1);
    note_start(pool_query_async(pool, address, pending_bytes(next), on_reply, next, NULL, NULL),
               next);
}

/* ---- callers */

static void ask_async(struct stress_caller *caller)
{
    struct pending *pending = make_pending(caller);
    struct pool_ticket *ticket = NULL;
    bool has_ticket = stress_chance(caller, 15), is_plain = stress_chance(caller, 30);
    enum pool_status status;

    pending->asks_again = stress_chance(caller, 10);
    pending->is_canceled = has_ticket;
    is_plain = is_plain && pending->body[0] != 'N';
    atomic_fetch_add(&in_flight[caller->thread], 1);
    status = pool_query_async(pool, address, pending_bytes(pending), on_reply, pending,
                              is_plain ? NULL
                                       : POOL_CALL(.timeout_ms = pending_timeout(caller, pending),
                                                   .flags = random_flags(caller, pending)),
                              has_ticket ? &ticket : NULL);
    note_start(status, pending);
    pending_cancel(caller, ticket);
}

static void ask_and_wait(struct stress_caller *caller)
{
    struct pending *pending = make_pending(caller);
    struct pool_error error = POOL_ERROR_INIT;
    struct pool_reply *reply = NULL;
    enum pool_status status;

    atomic_fetch_add(&asked, 1);
    status = pool_query(pool, address, pending_bytes(pending),
                        POOL_CALL(.timeout_ms = pending_timeout(caller, pending),
                                  .flags = random_flags(caller, pending), .error = &error),
                        &reply);
    if (status)
        check_failure(pending, &error);
    else
        check_answer(pending, pool_reply_bytes(reply), pool_reply_failed(reply));
    if (!status == !reply)
        stress_fail("a reply, or none, with %s", pool_status_name(status));
    pool_reply_free(reply);
    atomic_fetch_add(&told, 1);
    free(pending);
}

/* A line, or a frame, into `back`. */
static int receive_by_hand(struct pool_conn *conn, char *back, size_t room, struct pool_bytes *got)
{
    char head[FRAME_HEAD];
    uint32_t size;
    int status;

    if (is_line) {
        status = pool_recv_until(conn, "\n", 1, got);
        got->size -= !status;
        return status;
    }
    status = pool_recv_exact(conn, head, sizeof(head));
    if (status)
        return status;
    size = frame_read_head(head).size;
    *got = (struct pool_bytes){ back, size < room ? size : room };
    return pool_recv_exact(conn, back, got->size);
}

static int exchange_by_hand(struct pool_conn *conn, struct pending *pending)
{
    char line_end[] = "\n", head[FRAME_HEAD];
    size_t room = pending->size + 16;
    char *back = malloc(room);
    struct pool_bytes got = { 0 };
    struct iovec pieces[2] = { { head, sizeof(head) }, { pending->body, pending->size } };
    int status;

    frame_write_head(head, &(struct frame_head){ (uint32_t)pending->size, 77, FRAME_REQUEST });
    if (is_line) {
        pieces[0] = pieces[1];
        pieces[1] = (struct iovec){ line_end, 1 };
    }
    status = pool_sendv(conn, pieces, 2);
    if (!status)
        status = receive_by_hand(conn, back, room, &got);
    if (!status && connection_in(pending, got) < 0)
        stress_fail("crossed: a borrower asked %.40s, was told %.*s", pending->body,
                    (int)(got.size < 40 ? got.size : 40), (const char *)got.data);
    free(back);
    return status;
}

static void borrow(struct stress_caller *caller)
{
    struct pending *pending = make_pending(caller);
    struct pool_conn conn;
    enum pool_status status;

    pending->body[0] = 'e';
    pending->is_hurried = false;
    status = pool_borrow(pool, address, POOL_CALL(.timeout_ms = CALL_MS), &conn);
    if (status) {
        if (!may_be(status, pending))
            stress_fail("a borrow: %s", pool_status_name(status));
        free(pending);
        return;
    }
    atomic_store(&last_id, pool_conn_id(&conn));
    status = (enum pool_status)exchange_by_hand(&conn, pending);
    if (status && !may_be(status, pending))
        stress_fail("a borrower: %s", pool_status_name(status));
    pool_return(&conn);
    free(pending);
}

static void post(struct stress_caller *caller)
{
    struct pending *pending = make_pending(caller);
    enum pool_status status;

    if (pending->body[0] != 'N')
        status = pool_post_request(pool, address, pending_bytes(pending),
                                   POOL_CALL(.timeout_ms = CALL_MS));
    else
        status = POOL_OK;
    if (status && status != POOL_E_FULL && !may_be(status, pending))
        stress_fail("a post: %s", pool_status_name(status));
    free(pending);
}

static void on_orphan(uint64_t id, uint64_t key, struct pool_bytes body, void *user)
{
    (void)key, (void)body, (void)user;
    atomic_store(&last_id, id);
    atomic_fetch_add(&orphans, 1);
}

static void be_rough(struct stress_caller *caller)
{
    switch (stress_below(caller, 5)) {
    case 0:
        if (secure_peer)
            tls_peer_tell(secure_peer, stress_chance(caller, 50) ? ORDER_RESET : ORDER_CUT);
        else
            query_peer_reset(peer);
        break;
    case 1:
        if (secure_peer)
            tls_peer_tell(secure_peer, ORDER_GOODBYE);
        else
            query_peer_close(peer);
        break;
    case 2:
        pool_kill(pool, atomic_load(&last_id));
        break;
    case 3:
        if (pool_clear(pool, NULL, stress_chance(caller, 50) ? POOL_INTERRUPT : 0))
            stress_fail("it is not cleared");
        break;
    default:
        stress_expect_even(pool);
        break;
    }
}

/* What changes how one end writes, while both read and write. */
static void renew_keys(struct stress_caller *caller)
{
    tls_peer_tell(secure_peer, stress_chance(caller, 70) ? ORDER_KEY_UPDATE : ORDER_TICKET);
}

static bool goes_on(void)
{
    return count ? atomic_load(&asked) < count && stress_failures() < 1000 : stress_is_on();
}

static void call(unsigned index, void *argument)
{
    struct stress_caller caller = stress_caller_make(index);

    (void)argument;
    while (goes_on()) {
        unsigned choice = stress_below(&caller, 1000);

        if (is_rough && choice < 2)
            be_rough(&caller);
        else if (secure_peer && choice < 5)
            renew_keys(&caller);
        else if (choice < 10)
            borrow(&caller);
        else if (choice < 30)
            post(&caller);
        else if (choice < 300 || atomic_load(&in_flight[index]) >= IN_FLIGHT)
            ask_and_wait(&caller);
        else
            ask_async(&caller);
    }
}

/* ---- parts */

static void begin_part(unsigned part)
{
    bool is_secure = part >= 4;

    is_line = is_secure || part & 1;
    is_rough = is_secure ? part & 1 : part & 2;
    peer = QUERY_PEER(.is_line = is_line, .says_connection = true, .saw = note_seen);
    secure_peer = is_secure ? TLS_PEER(.credential = credential) : NULL;
    if (!peer || !secure_peer != !is_secure ||
        pool_create(POOL_OPTIONS(.codec = is_line ? pool_codec_line() : pool_codec_length(),
                                 .on_orphan = on_orphan, .park_ms = 5, .tls = trust,
                                 .max_inflight = is_rough ? 50 : 1024, .max_per_address = 3,
                                 .max_waiters = 100000, .backoff_first_ms = POOL_ZERO,
                                 .max_line = 2 * LARGEST, .suspend_after = POOL_ZERO),
                    &pool)) {
        stress_fail("no peer or no pool");
        exit(stress_end("nothing"));
    }
    address = query_peer_address(peer);
    if (is_secure) {
        snprintf(secure_address, sizeof(secure_address), "tls://127.0.0.1:%d",
                 tls_peer_port(secure_peer));
        address = secure_address;
    }
    atomic_store(&asked, 0);
    atomic_store(&told, 0);
}

static void play(unsigned part)
{
    int descriptors = count_descriptors();
    long blocks = stress_blocks();

    stress_begin_part(stress_seconds() * 1000 / PARTS);
    begin_part(part);
    if (!run_threads(CALLERS, call, NULL))
        stress_fail("no threads");
    pool_destroy(pool); /* with some in flight */
    if (atomic_load(&asked) != atomic_load(&told))
        stress_fail("%llu asked, %llu told", atomic_load(&asked), atomic_load(&told));
    printf("  part %u: %llu asked\n", part, atomic_load(&asked));
    fflush(stdout);
    query_peer_stop(peer);
    tls_peer_stop(secure_peer);
    seen_check(1 + REPEATS);
    stress_expect_nothing_left(descriptors, blocks, "a part");
}

int main(int argc, char **argv)
{
    stress_begin(argc, argv, 6);
    if (argc > 3)
        count = strtoull(argv[3], NULL, 0);
    authority = CREDENTIAL(NULL, .common_name = "authority", .is_authority = true);
    credential = CREDENTIAL(authority, .names = "IP:127.0.0.1");
    if (pool_tls_create(POOL_TLS_OPTIONS(.ca_pem = authority->certificate), &trust, NULL))
        return stress_end("no settings");
    for (unsigned part = 0; part < PARTS; part++)
        play(part);
    pool_tls_free(trust);
    credential_free(credential);
    credential_free(authority);
    return stress_end("%llu answered, %llu given up, %llu refused, %llu orphans",
                      atomic_load(&answered), atomic_load(&given_up), atomic_load(&refused),
                      atomic_load(&orphans));
}
