/* torture_memory.c: the allocations of OpenSSL and c-ares fail, in turn, while a pool connects to
 * real peers on loopback.
 *
 *     torture_memory [SEED [SCENE]]                everything, or one of them
 *     torture_memory SCENE POINT once|good         one run (gdb)
 *
 * A mux without a thread is driven by this one, so the same script makes the same allocations. All
 * those of a connection fail, once and for good; those of settings are sampled from a seed. After
 * each run every caller had one answer, in time and with its reason; then the same pool serves as
 * if nothing had been; and when it is gone, nothing of ours is left.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/os.h"
#include "net/resolver.h"
#include "support/asks.h"
#include "support/dns.h"
#include "support/tls_peer.h"
#include "torture/memory.h"
#include "world/fault.h"

#define WARM_UPS 3
#define WELL_MS 10000
#define PATIENCE_MS 2700 /* c-ares asks a server again after 2,000 */
#define SAMPLE 37
#define SAMPLES_MOST 40
#define SECONDS_PER_RUN 60u

static const char example[] = "db.example";

struct run {
    const struct scene *scene;
    unsigned long point;
    bool for_good;
    bool is_strict; /* nothing fails any more */
    bool was_spared; /* it made a few allocations less than the run that was counted */
    unsigned failures;
    struct pool_mux *mux;
    struct pool *pool;
    char address[64];
};

struct scene {
    const char *name;
    enum memory_of of;
    unsigned step; /* 1: every allocation fails in turn, once */
    unsigned sample; /* and those of which so many apart from then on, which takes time */
    uint32_t call_ms; /* while memory is missing: what waits for it has that long */
    void (*set_up)(struct run *run); /* of the pool; not under the fault */
    void (*play)(struct run *run);
    void (*tear_down)(struct run *run);
};

static struct credential *authority, *credential;
static struct pool_tls *trust;
static struct tls_peer *tls_peer;
static struct peer *peer;
static struct dns *dns;
static bool says_all;

/* ---- saying what is wrong */

static void fail(struct run *run, const char *what, const char *more)
{
    if (run->failures++ == 0 || says_all)
        printf("  %s %lu %s%s: %s%s%s\n", run->scene->name, run->point,
               run->for_good ? "good" : "once", run->is_strict ? ", fault gone" : "", what,
               more ? ": " : "", more ? more : "");
    fflush(stdout);
}

#define CHECK(run, condition) ((condition) ? (void)0 : fail((run), #condition, NULL))

static bool may_be_answered(const struct pool_error *error)
{
    switch (error->status) {
    case POOL_E_MEMORY:
        return true;
    case POOL_E_TLS:
        return error->phase == POOL_PHASE_TLS || error->phase == POOL_PHASE_USE;
    case POOL_E_RESOURCE: /* room that is missing is waited for */
        return error->cause == ENOMEM;
    case POOL_E_TIMEOUT: /* c-ares takes a lack of memory for a lost answer, and asks again */
        return error->phase == POOL_PHASE_RESOLVE;
    default: /* that there is no such host, for example, nobody knows */
        return false;
    }
}

static void check_failure(struct run *run, const struct pool_error *error)
{
    if (run->is_strict || !may_be_answered(error))
        fail(run, pool_status_name(error->status), error->text);
    if (!strstr(error->text, run->address))
        fail(run, "the error does not name the peer", error->text);
}

/* ---- what a connection does */

static bool is_late(uint64_t start_ms)
{
    return elapsed_ms(start_ms) > PATIENCE_MS * slowness();
}

static enum pool_status answer_of(struct pool_conn *conn, char *got, size_t size)
{
    uint64_t start_ms = now_ms();
    size_t have = 0, more;
    enum pool_status status = POOL_OK;

    while (have < size && !is_late(start_ms)) {
        struct pollfd one = { .fd = pool_conn_fd(conn), .events = POLLIN };

        status = pool_try_recv(conn, got + have, size - have, &more);
        if (status == POOL_OK)
            have += more;
        else if (status == POOL_E_WOULD_BLOCK)
            poll(&one, 1, 100);
        else
            return status;
    }
    return have == size ? POOL_OK : POOL_E_TIMEOUT;
}

static bool exchange(struct run *run, struct pool_conn *conn)
{
    static unsigned number;
    struct pool_error error = POOL_ERROR_INIT;
    char text[32] = "", got[sizeof(text)] = "";
    enum pool_status status;
    size_t sent = 0;

    snprintf(text, sizeof(text), "exchange %u", ++number);
    status = pool_try_send(conn, text, sizeof(text), &sent);
    if (!status)
        status = answer_of(conn, got, sizeof(got));
    if (!status) {
        CHECK(run, sent == sizeof(text) && !memcmp(text, got, sizeof(text)));
        return true;
    }
    CHECK(run, pool_conn_error(conn, &error) == POOL_OK && error.status == status);
    check_failure(run, &error);
    return false;
}

/* A new connection, one exchange. False: it failed, as it may. */
static bool connect_and_talk(struct run *run, bool *is_resumed)
{
    struct pool_tls_info info = { .size = sizeof(info) };
    struct pool_error error = POOL_ERROR_INIT;
    struct ask ask = { .is_kept = true };
    uint64_t start_ms = now_ms();
    bool is_good;

    pool_clear(run->pool, NULL, 0);
    if (start_ask(&ask, run->pool, run->address,
                  POOL_CALL(.timeout_ms = run->is_strict ? WELL_MS : run->scene->call_ms,
                            .error = &error))) {
        check_failure(run, &error);
        return false;
    }
    CHECK(run, dispatch_until_told(run->mux, &ask));
    CHECK(run, ask.told == 1);
    CHECK(run, !is_late(start_ms));
    if (ask.status) {
        check_failure(run, &ask.error);
        return false;
    }
    CHECK(run, pool_conn_deadline(&ask.conn, WELL_MS) == POOL_OK);
    CHECK(run, pool_conn_tls(&ask.conn, &info) == POOL_OK);
    *is_resumed = info.resumed;
    is_good = exchange(run, &ask.conn);
    pool_return(&ask.conn);
    pool_mux_dispatch(run->mux, 0);
    CHECK(run, ask.told == 1);
    return is_good;
}

static void open_pool(struct run *run, struct pool_tls *tls)
{
    CHECK(run, pool_mux_create(&run->mux) == POOL_OK);
    CHECK(run, pool_create(POOL_OPTIONS(.mux = run->mux, .tls = tls, .suspend_after = POOL_ZERO,
                                        .backoff_first_ms = POOL_ZERO),
                           &run->pool) == POOL_OK);
}

static void close_pool(struct run *run)
{
    pool_destroy(run->pool);
    pool_mux_destroy(run->mux);
}

/* ---- the scenes */

static void open_secure(struct run *run)
{
    open_pool(run, trust);
    snprintf(run->address, sizeof(run->address), "tls://127.0.0.1:%d", tls_peer_port(tls_peer));
}

/* Once in full, once continued. */
static void shake_hands(struct run *run)
{
    bool is_resumed = false, was_good = connect_and_talk(run, &is_resumed);

    CHECK(run, !is_resumed || run->is_strict);
    was_good = connect_and_talk(run, &is_resumed) && was_good;
    if (run->is_strict)
        CHECK(run, was_good && is_resumed);
}

static const struct scene handshakes = { "handshakes", MEMORY_OPENSSL, 1, 4 * SAMPLE, 2000,
                                         open_secure, shake_hands, close_pool };

static void open_named(struct run *run)
{
    open_pool(run, NULL);
    snprintf(run->address, sizeof(run->address), "tcp://%s:%d", example, peer_port(peer));
}

static void find_peer(struct run *run)
{
    bool is_resumed;

    connect_and_talk(run, &is_resumed);
    connect_and_talk(run, &is_resumed);
}

static const struct scene lookups = { "lookups", MEMORY_CARES, 1, 3, 200,
                                      open_named, find_peer, close_pool };

/* Settings are made, and made anew, and serve. */
static void make_settings(struct run *run)
{
    const struct pool_tls_options *ours =
        POOL_TLS_OPTIONS(.ca_pem = authority->certificate, .cert_pem = credential->certificate,
                         .key_pem = credential->key, .ciphers = "HIGH:TLS_AES_256_GCM_SHA384");
    const struct pool_tls_options *of_system = POOL_TLS_OPTIONS(.alpn = "h2");
    struct pool_error error = POOL_ERROR_INIT;
    struct pool_tls *tls = NULL;
    enum pool_status status = pool_tls_create(ours, &tls, &error);

    if (!status)
        status = pool_tls_reload(tls, of_system, &error);
    if (!status)
        status = pool_tls_reload(tls, ours, &error);
    if (status && (run->is_strict || (status != POOL_E_MEMORY && status != POOL_E_TLS)))
        fail(run, pool_status_name(status), error.text);
    CHECK(run, !status || strncmp(error.text, "TLS settings: ", 14) == 0);
    memory_heal();
    if (tls) {
        struct run now = { .scene = run->scene, .point = run->point, .for_good = run->for_good,
                           .is_strict = !status };

        open_pool(&now, tls);
        snprintf(now.address, sizeof(now.address), "%s", run->address);
        if (!status)
            CHECK(&now, connect_and_talk(&now, &(bool){ false }));
        close_pool(&now);
        run->failures += now.failures;
    }
    pool_tls_free(tls);
}

static const struct scene settings = { "settings", MEMORY_OPENSSL, SAMPLE, 1, 2000,
                                       open_secure, make_settings, close_pool };

static const struct scene *const scenes[] = { &handshakes, &lookups, &settings };

/* ---- a run */

/* Answers how many allocations there were under the fault. */
static unsigned long play(struct run *run, bool checks_rest)
{
    long ours = fault_live_allocations();
    unsigned long count;
    unsigned left;

    alarm(SECONDS_PER_RUN * slowness());
    memory_begin(run->scene->of, run->point, run->for_good);
    run->is_strict = run->point == 0;
    run->scene->set_up(run);
    run->scene->play(run);
    count = memory_count();
    memory_heal();
    if (run->point) {
        run->was_spared = !memory_has_struck();
        CHECK(run, !checks_rest || !run->was_spared || count < run->point);
        run->is_strict = true;
        run->scene->play(run);
    }
    run->scene->tear_down(run);
    if (checks_rest && fault_live_allocations() != ours)
        fail(run, "an allocation of the library is left", NULL);
    left = memory_left(false);
    if (checks_rest && left) {
        fail(run, "something is left", NULL);
        memory_left(true);
    }
    memory_end();
    return count;
}

static unsigned torture(const struct scene *scene, unsigned seed)
{
    struct run none = { .scene = scene };
    unsigned long count = 0, runs = 0, spared = 0, step = scene->step;
    unsigned failed = 0;

    for (int i = 0; i < WARM_UPS; i++)
        count = play(&none, false);
    play(&none, true);
    failed += none.failures > 0;
    if (step > 1 && count / SAMPLES_MOST > step)
        step = count / SAMPLES_MOST; /* a system's certificates are many */
    for (unsigned long point = seed % step + 1; point <= count; point += step) {
        bool is_sampled = point % scene->sample == seed % scene->sample;

        for (int for_good = 0; for_good <= is_sampled; for_good++, runs++) {
            struct run run = { .scene = scene, .point = point, .for_good = for_good };

            play(&run, true);
            failed += run.failures > 0;
            spared += run.was_spared;
        }
    }
    failed += spared * 50 > runs;
    printf("%-12s %6lu allocations %6lu runs %5u failed\n", scene->name, count, runs, failed);
    fflush(stdout);
    return failed + (count < 20);
}

static int run_one(char **words)
{
    for (size_t i = 0; i < PL_COUNT(scenes); i++) {
        struct run none = { .scene = scenes[i] };
        struct run run = { .scene = scenes[i], .point = strtoul(words[1], NULL, 10),
                           .for_good = !strcmp(words[2], "good") };

        if (strcmp(scenes[i]->name, words[0]))
            continue;
        says_all = true;
        for (int warm = 0; warm < WARM_UPS; warm++)
            play(&none, false);
        play(&run, true);
        return run.failures > 0;
    }
    return 2;
}

static bool begin(void)
{
    signal(SIGPIPE, SIG_IGN);
    pl_os_replace(fault_os(&pl_os_real));
    authority = CREDENTIAL(NULL, .common_name = "test authority", .is_authority = true);
    credential = CREDENTIAL(authority, .names = "IP:127.0.0.1");
    tls_peer = TLS_PEER(.credential = credential, .version = 0x0304);
    peer = PEER();
    dns = dns_start();
    if (!tls_peer || !peer || !dns)
        return false;
    pl_resolver_use_servers(dns_server(dns));
    DNS_SAY(dns, example, .addresses = { "127.0.0.1" }, .ttl = 60, .aliases = 2);
    return pool_tls_create(POOL_TLS_OPTIONS(.ca_pem = authority->certificate), &trust, NULL) ==
           POOL_OK;
}

static void end(void)
{
    pool_tls_free(trust);
    pl_resolver_use_servers(NULL);
    dns_stop(dns);
    peer_stop(peer);
    tls_peer_stop(tls_peer);
    credential_free(credential);
    credential_free(authority);
}

int main(int argc, char **argv)
{
    bool is_seeded = argc == 2 || argc == 3;
    unsigned seed = (unsigned)(is_seeded ? strtol(argv[1], NULL, 10) : time(NULL));
    unsigned failed = 0;
    int answer;

    if (!memory_take_over() || !begin()) {
        printf("the allocators, or the peers, cannot be had\n");
        return 2;
    }
    if (argc == 4) {
        answer = run_one(argv + 1);
        end();
        return answer;
    }
    for (size_t i = 0; i < PL_COUNT(scenes); i++) {
        if (argc < 3 || !strcmp(argv[2], scenes[i]->name))
            failed += torture(scenes[i], seed);
    }
    end();
    printf("seed %u: %u failed\n", seed, failed);
    return failed ? 1 : 0;
}
