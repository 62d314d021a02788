/* asked.c: see asked.h. */
#include "net/asked.h"

#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "support/dns.h"
#include "support/tests.h"

struct pool_mux *mux;
struct pl_resolver *resolver;
struct dns *dns;
struct pl_os os;
struct asked asked, other;
int descriptors;

static void note_one(struct asked *of, const union pl_ip *ip)
{
    char text[INET6_ADDRSTRLEN];
    size_t length = strlen(of->text);
    const void *bytes = ip->any.sa_family == AF_INET6 ? (const void *)&ip->ipv6.sin6_addr
                                                      : (const void *)&ip->ipv4.sin_addr;

    cr_assert_not_null(inet_ntop(ip->any.sa_family, bytes, text, sizeof(text)));
    snprintf(of->text + length, sizeof(of->text) - length, "%s%s", length ? " " : "", text);
    of->count++;
}

static void note(struct asked *of, const struct pl_answer *answer)
{
    cr_expect_not(of->is_over, "told after the end");
    of->tellings++;
    for (int family = 0; family < PL_FAMILIES; family++) {
        const struct pl_addresses *addresses = answer->of[family];

        for (uint32_t i = 0; addresses && i < addresses->count; i++)
            note_one(of, &addresses->list[i]);
    }
    if (of->tellings == 1) {
        of->first_ms = elapsed_ms(of->began_ms);
        memcpy(of->first, of->text, sizeof(of->first));
    }
    of->expires_ns = answer->expires_ns;
    of->failure = answer->failure;
    of->is_over = answer->is_last;
    of->over_ms = elapsed_ms(of->began_ms);
    cr_expect_eq(answer->failure.status == POOL_OK, of->count > 0);
}

static void on_addresses(struct pl_lookup *lookup, const struct pl_answer *answer)
{
    struct asked *of = pl_container(lookup, struct asked, lookup);

    note(of, answer);
    if (of->then)
        of->then(of);
}

void ask_name(struct asked *of, const char *name, int family)
{
    void (*then)(struct asked *) = of->then;
    void *user = of->user;
    struct pl_answer answer;

    memset(of, 0, sizeof(*of));
    of->then = then;
    of->user = user;
    of->lookup.name = name;
    of->lookup.family = family;
    of->lookup.on_addresses = on_addresses;
    of->began_ms = now_ms();
    of->was_cached = pl_resolver_look_up(resolver, &of->lookup, &answer);
    cr_expect_eq(of->tellings, 0, "never on the stack of the start");
    if (of->was_cached) {
        cr_expect(answer.is_last);
        note(of, &answer);
    }
}

static void run_until(struct asked *of, unsigned tellings)
{
    uint64_t began_ms = now_ms();

    while (!of->is_over && of->tellings < tellings) {
        cr_assert_lt(elapsed_ms(began_ms), ASKED_SOON, "%s: no answer", of->lookup.name);
        cr_assert_eq(pool_mux_dispatch(mux, 1000), POOL_OK);
    }
}

void await_answer(struct asked *of)
{
    run_until(of, UINT32_MAX);
}

void await_tellings(struct asked *of, unsigned tellings)
{
    run_until(of, tellings);
}

void look_up(struct asked *of, const char *name)
{
    ask_name(of, name, 0);
    await_answer(of);
}

/* ---- the stage */

void open_names(uint32_t timeout_ms, uint32_t tries)
{
    struct pl_resolver_options options = { .servers = dns_server(dns),
                                           .resolv_conf = "/dev/null",
                                           .hosts = "/dev/null",
                                           .timeout_ms = timeout_ms,
                                           .tries = tries };

    cr_assert_eq(pl_resolver_open(mux, &options, &resolver), POOL_OK);
}

void begin_names(void)
{
    setenv("CARES_HOSTS", "/dev/null", 1);
    unsetenv("LOCALDOMAIN");
    unsetenv("RES_OPTIONS");
    os = pl_os_real;
    pl_os_replace(&os);
    asked = other = (struct asked){ 0 };
    dns = dns_start();
    cr_assert_not_null(dns);
    cr_assert_eq(pool_mux_create(&mux), POOL_OK);
    descriptors = count_descriptors();
    open_names(0, 0);
}

void end_names(void)
{
    pl_resolver_close(resolver);
    cr_expect_eq(count_descriptors(), descriptors);
    pool_mux_destroy(mux);
    dns_stop(dns);
}

void reopen_names(uint32_t timeout_ms, uint32_t tries)
{
    pl_resolver_close(resolver);
    open_names(timeout_ms, tries);
}

void expect_text(const char *text)
{
    cr_expect_str_eq(asked.text, text);
}

void expect_reason(enum pl_reason reason)
{
    cr_expect_eq(asked.count, 0);
    cr_expect_eq(asked.failure.status, POOL_E_RESOLVE, "%d", asked.failure.status);
    cr_expect_eq(asked.failure.phase, POOL_PHASE_RESOLVE);
    cr_expect_eq(asked.failure.reason, reason, "%d, cause %d", asked.failure.reason,
                 asked.failure.cause);
}
