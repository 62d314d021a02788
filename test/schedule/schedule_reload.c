/* schedule_reload.c: settings of TLS are replaced while a pool that has them ends with its embedded
 * mux, which nobody dispatches any more.
 *
 * Whatever the schedule: no news of a reload stays behind in that mux, where it would keep both: no
 * descriptor is left.
 *
 *     schedule_reload [seed [rounds]]     the seed that a failure names repeats it, as a rule */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "commpool/pool.h"
#include "schedule/schedule.h"
#include "support/authority.h"
#include "support/tests.h"

#define SECONDS 5
#define THREADS 2u
#define RELOADS 2

static struct credential *authority;

struct round {
    struct pool_tls *tls;
    struct pool_mux *mux;
    struct pool *pool;
};

static void end_or_reload(unsigned index, void *argument)
{
    struct round *round = argument;

    if (index == 0) {
        pool_destroy(round->pool);
        pool_mux_destroy(round->mux);
        return;
    }
    for (int i = 0; i < RELOADS; i++) {
        if (pool_tls_reload(round->tls, POOL_TLS_OPTIONS(.ca_pem = authority->certificate), NULL))
            abort();
    }
}

static bool play(uint64_t seed)
{
    int before = count_descriptors();
    struct round round = { .tls = NULL };

    schedule_begin(seed, 20 + (unsigned)(seed % 100));
    if (pool_tls_create(POOL_TLS_OPTIONS(.ca_pem = authority->certificate), &round.tls, NULL) ||
        pool_mux_create(&round.mux) ||
        pool_create(POOL_OPTIONS(.mux = round.mux, .tls = round.tls), &round.pool))
        abort();
    schedule_run(THREADS, end_or_reload, &round);
    schedule_end();
    pool_tls_free(round.tls);
    if (count_descriptors() == before)
        return true;
    fprintf(stderr, "seed %llu: %d descriptors are left behind\n", (unsigned long long)seed,
            count_descriptors() - before);
    return false;
}

int main(int argc, char **argv)
{
    uint64_t seed = argc > 1 ? strtoull(argv[1], NULL, 0) : now_us();
    unsigned long rounds = argc > 2 ? strtoul(argv[2], NULL, 0) : argc > 1 ? 200 : 0, played = 0;
    uint64_t start_ms = now_ms();

    authority = CREDENTIAL(NULL, .common_name = "authority", .is_authority = true);
    for (; rounds ? played < rounds : elapsed_ms(start_ms) < SECONDS * 1000; played++) {
        alarm(60);
        if (!play(argc > 1 ? seed : seed + played))
            return 1;
    }
    credential_free(authority);
    printf("%lu rounds from seed %llu, %llu points, %llu switches\n", played,
           (unsigned long long)seed, (unsigned long long)schedule_points(),
           (unsigned long long)schedule_switches());
    return 0;
}
