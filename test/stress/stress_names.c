/* stress_names.c: resolvers on several muxes at once, each used by one thread as it must be, which
 * starts, cancels, closes and forks by chance. What they share is the process: the slots of their
 * sockets, the DNS client's library and the locks around a fork. */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "mux/mux.h"
#include "net/resolver.h"
#include "stress/stress.h"
#include "support/dns.h"
#include "support/tests.h"

#define THREADS 4
#define LOOKUPS 16
#define NAMES 12

struct one {
    struct pl_lookup lookup;
    unsigned number; /* of the name; also the last byte of its address */
    bool is_on;
};

static struct dns *dns;
static char names[NAMES][32];
static _Atomic uint64_t answered, canceled, closed, forked;

static void check(const struct one *one, const struct pl_answer *answer)
{
    const struct pl_addresses *ipv4 = answer->of[PL_IPV4];

    for (uint32_t i = 0; ipv4 && i < ipv4->count; i++) {
        if (ntohl(ipv4->list[i].ipv4.sin_addr.s_addr) != (10u << 24 | one->number))
            stress_fail("%s has the address of another", one->lookup.name);
    }
    atomic_fetch_add(&answered, 1);
}

static void on_addresses(struct pl_lookup *lookup, const struct pl_answer *answer)
{
    struct one *one = pl_container(lookup, struct one, lookup);

    if (!one->is_on)
        stress_fail("%s was told after its end", lookup->name);
    check(one, answer);
    one->is_on = !answer->is_last;
}

static void start(struct stress_caller *caller, struct pl_resolver *resolver, struct one *one)
{
    static const int families[] = { 0, 4, 6 };
    struct pl_answer answer;

    one->number = stress_below(caller, NAMES);
    one->lookup = (struct pl_lookup){ .name = names[one->number],
                                      .family = families[stress_below(caller, 3)],
                                      .on_addresses = on_addresses };
    one->is_on = !pl_resolver_look_up(resolver, &one->lookup, &answer);
    if (!one->is_on)
        check(one, &answer);
}

static void cancel(struct one *one)
{
    pl_lookup_cancel(&one->lookup);
    one->is_on = false;
    atomic_fetch_add(&canceled, 1);
}

static void fork_once(struct pl_resolver *resolver)
{
    int status;
    pid_t child;

    pl_resolver_hold();
    child = fork();
    if (!child) {
        pl_resolver_orphan();
        pl_resolver_let_go();
        pl_resolver_close(resolver);
        _exit(0);
    }
    pl_resolver_let_go();
    if (child < 0 || waitpid(child, &status, 0) != child || status)
        stress_fail("a child did not end well");
    atomic_fetch_add(&forked, 1);
}

static struct pl_resolver *reopen(struct pool_mux *mux, struct pl_resolver *old, struct one *ones)
{
    struct pl_resolver_options options = { .servers = dns_server(dns), .hosts = "/dev/null",
                                           .resolv_conf = "/dev/null", .timeout_ms = 200,
                                           .tries = 1 };
    struct pl_resolver *resolver;

    pl_resolver_close(old);
    for (unsigned i = 0; i < LOOKUPS; i++)
        ones[i].is_on = false;
    if (pl_resolver_open(mux, &options, &resolver))
        stress_fail("no resolver");
    atomic_fetch_add(&closed, 1);
    return resolver;
}

static void play(unsigned index, void *argument)
{
    struct stress_caller caller = stress_caller_make(index);
    struct one ones[LOOKUPS] = { 0 };
    struct pl_resolver *resolver = NULL;
    struct pool_mux *mux;

    (void)argument;
    if (pool_mux_create(&mux)) {
        stress_fail("no mux");
        return;
    }
    resolver = reopen(mux, NULL, ones);
    while (resolver && stress_is_on()) {
        struct one *one = &ones[stress_below(&caller, LOOKUPS)];

        if (!one->is_on)
            start(&caller, resolver, one);
        else if (stress_chance(&caller, 20))
            cancel(one);
        if (stress_below(&caller, 500) == 0)
            resolver = reopen(mux, resolver, ones);
        if (index == 0 && stress_below(&caller, 2000) == 0)
            fork_once(resolver);
        if (pool_mux_dispatch(mux, stress_below(&caller, 2)))
            stress_fail("no dispatch");
    }
    pl_resolver_close(resolver);
    pool_mux_destroy(mux);
}

int main(int argc, char **argv)
{
    int descriptors;
    long blocks;

    stress_begin(argc, argv, 4);
    setenv("CARES_HOSTS", "/dev/null", 1);
    dns = dns_start();
    if (!dns) {
        stress_fail("no DNS server");
        return stress_end("nothing");
    }
    for (unsigned i = 0; i < NAMES; i++) {
        char text[32];

        snprintf(names[i], sizeof(names[i]), "n%u.example", i);
        snprintf(text, sizeof(text), "10.0.0.%u", i);
        DNS_SAY(dns, names[i], .addresses = { text, "2001:db8::1" }, .ttl = i % 3,
                .delay_ms = i % 4, .trick = i == 7 ? DNS_TRUNCATED : DNS_PLAIN);
    }
    descriptors = count_descriptors();
    blocks = stress_blocks();
    run_threads(THREADS, play, NULL);
    stress_expect_nothing_left(descriptors, blocks, "the end");
    dns_stop(dns);
    return stress_end("%llu answers, %llu canceled, %llu resolvers, %llu forks",
                      (unsigned long long)answered, (unsigned long long)canceled,
                      (unsigned long long)closed, (unsigned long long)forked);
}
