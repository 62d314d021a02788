/* test_key.c: which connections may stand in for one another: every KEY field, of
 * the address and of the options, tells two peers apart, and a field without a class does not
 * compile. */
#include "pool/key.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "base/os.h"
#include "net/address.h"
#include "pool/pool.h"

static struct pool_address *parsed(const char *text)
{
    struct pool_address *address;

    cr_assert_eq(pool_address_parse(text, &address, NULL), POOL_OK, "%s", text);
    return address;
}

/* ---- addresses: a pair that differs in one field only, for each row of the table */

#define DIFFER_scheme "abstract:///s", "unix:///s"
#define DIFFER_host "tcp://127.0.0.1:1", "tcp://127.0.0.2:1"
#define DIFFER_zone "tcp://[fe80::1%lo]:1", "tcp://[fe80::1%1]:1"
#define DIFFER_port "tcp://127.0.0.1:1", "tcp://127.0.0.1:257"
#define DIFFER_path "unix:///run/a", "unix:///run/A"
#define DIFFER_tenant "tcp://127.0.0.1:1?tenant=a", "tcp://127.0.0.1:1?tenant=b"
#define DIFFER_sni "tls://127.0.0.1:1?sni=a", "tls://127.0.0.1:1?sni=b"
#define DIFFER_alpn "tls://127.0.0.1:1?alpn=h2", "tls://127.0.0.1:1?alpn=h3"
#define DIFFER_family "tcp://127.0.0.1:1?family=4", "tcp://127.0.0.1:1"
#define DIFFER_bind "tcp://127.0.0.1:1?bind=127.0.0.1", "tcp://127.0.0.1:1?bind=127.0.0.2"
#define DIFFER_dscp "tcp://127.0.0.1:1?dscp=0", "tcp://127.0.0.1:1"
#define DIFFER_rely "tcp://127.0.0.1:1?rely=loss", "tcp://127.0.0.1:1?rely=dup"
#define DIFFER_starttls "tls://127.0.0.1:1?starttls=1", "tls://127.0.0.1:1"
#define DIFFER(kind, name) { DIFFER_##name },
#define NO_PAIR(kind, name)

static const struct pair {
    const char *a, *b;
} pairs[] = { PL_ADDRESS_FIELDS(DIFFER, NO_PAIR) };

static bool are_same(const char *first, const struct pool_options *first_options,
                     const char *second, const struct pool_options *second_options)
{
    struct pool_address *a = parsed(first), *b = parsed(second);
    struct pl_key one = pl_key_make(a, first_options), other = pl_key_make(b, second_options);
    bool is_same = pl_key_is_same(&one, &other);

    cr_expect_eq(pl_key_is_same(&other, &one), is_same);
    cr_expect(!is_same || pl_key_hash(&one) == pl_key_hash(&other));
    pool_address_unref(a);
    pool_address_unref(b);
    return is_same;
}

Test(key, every_key_field_of_an_address_alone_tells_two_keys_apart)
{
    static const struct pool_options options;

    for (size_t i = 0; i < PL_COUNT(pairs); i++) {
        cr_expect_not(are_same(pairs[i].a, &options, pairs[i].b, &options), "%s", pairs[i].a);
        cr_expect(are_same(pairs[i].a, &options, pairs[i].a, &options));
        cr_expect(are_same(pairs[i].b, &options, pairs[i].b, &options));
    }
}

/* ---- options: the same, with any one byte of the field changed */

#define IS_KEY(name)                                                                               \
    { #name, offsetof(struct pool_options, name), sizeof(((struct pool_options *)0)->name), true },
#define IS_NOT_KEY(name)                                                                           \
    { #name, offsetof(struct pool_options, name), sizeof(((struct pool_options *)0)->name), false },

static const struct field {
    const char *name;
    size_t offset, size;
    bool is_key;
} fields[] = { PL_OPTION_FIELDS(IS_KEY, IS_NOT_KEY) };

Test(key, every_key_option_alone_tells_two_keys_apart_and_no_other_option_does)
{
    const char *text = "tcp://127.0.0.1:1";
    struct pool_options options, others;

    for (size_t i = 0; i < PL_COUNT(fields); i++) {
        for (size_t at = 0; at < fields[i].size; at++) {
            memset(&options, 0, sizeof(options));
            memset(&others, 0, sizeof(others));
            ((char *)&others)[fields[i].offset + at] = 1;
            cr_expect_neq(are_same(text, &options, text, &others), fields[i].is_key, "%s",
                          fields[i].name);
            options = others;
            cr_expect(are_same(text, &options, text, &others), "%s", fields[i].name);
        }
    }
}

Test(key, what_shapes_a_connection_is_key)
{
    static const char *const wanted[] = { "codec",   "tls", "on_socket", "on_new_connection",
                                          "prepare", "user", "on_resolved" };
    size_t count = 0;

    for (size_t i = 0; i < PL_COUNT(fields); i++) {
        if (fields[i].is_key)
            cr_expect_str_eq(fields[i].name, wanted[count++ % PL_COUNT(wanted)]);
    }
    cr_expect_eq(count, PL_COUNT(wanted));
}

/* ---- peers */

static struct pl_peer *peer_of(struct pool *pool, const char *text, struct pool_target **target)
{
    if (pool_target_get(pool, text, target) == POOL_OK)
        return (*target)->peer;
    *target = NULL; /* not in this release: names and TLS */
    return NULL;
}

/* Every address of the pairs has a peer of its own, and the same one each time. */
static void check_peers(struct pool *pool)
{
    struct pool_target *targets[4];
    unsigned tried = 0;

    for (size_t i = 0; i < PL_COUNT(pairs); i++) {
        struct pl_peer *a = peer_of(pool, pairs[i].a, &targets[0]);
        struct pl_peer *b = peer_of(pool, pairs[i].b, &targets[1]);

        cr_expect_eq(peer_of(pool, pairs[i].a, &targets[2]), a);
        cr_expect_eq(peer_of(pool, pairs[i].b, &targets[3]), b);
        cr_expect(!a || a != b, "%s and %s share a peer", pairs[i].a, pairs[i].b);
        tried += a && b;
        for (size_t t = 0; t < PL_COUNT(targets); t++)
            pool_target_free(targets[t]);
    }
    cr_expect_geq(tried, 10, "all but those of TLS");
}

Test(key, addresses_that_differ_in_one_key_field_never_have_the_same_peer)
{
    struct pool *pool;

    cr_assert_eq(pool_create(NULL, &pool), POOL_OK);
    check_peers(pool);
    pool_destroy(pool);
}

static uint64_t hash_to_zero(const void *bytes, size_t size)
{
    (void)bytes, (void)size;
    return 0;
}

#define MANY 300

Test(key, a_hash_that_is_always_0_mixes_no_peers_up)
{
    static struct pool_target *targets[MANY];
    struct pool_target *again;
    struct pool *pool;
    char text[64];

    pl_address_replace_hash(hash_to_zero);
    cr_assert_eq(pool_create(NULL, &pool), POOL_OK);
    check_peers(pool);
    for (unsigned i = 0; i < MANY; i++) {
        snprintf(text, sizeof(text), "tcp://127.0.%u.%u:%u", i % 5, i % 7, 1 + i);
        cr_assert_eq(pool_target_get(pool, text, &targets[i]), POOL_OK);
    }
    for (unsigned i = 0; i < MANY; i++) {
        snprintf(text, sizeof(text), "tcp://127.0.%u.%u:%u", i % 5, i % 7, 1 + i);
        cr_expect_eq(peer_of(pool, text, &again), targets[i]->peer);
        cr_expect_str_eq(targets[i]->peer->text, text);
        pool_target_free(again);
    }
    for (unsigned i = 0; i < MANY; i++)
        pool_target_free(targets[i]);
    cr_expect_eq(pool->peers.count, 0);
    pool_destroy(pool);
    pl_address_replace_hash(NULL);
}

/* ---- what does not compile */

/* Copies the file into `folder`, with `line` behind the first line that begins with `after`, or
 * instead of it if `line` begins with '='. */
static void change(const char *file, const char *folder, const char *after, const char *line)
{
    char path[512], text[512];
    unsigned changed = 0;
    FILE *from, *to;

    snprintf(path, sizeof(path), "%s/%s", COMMPOOL_SOURCE, file);
    from = fopen(path, "r");
    snprintf(path, sizeof(path), "%s/%s", folder, strchr(file, '/') + 1);
    to = fopen(path, "w");
    cr_assert(from && to, "%s", path);
    while (fgets(text, sizeof(text), from)) {
        bool is_place = !changed && !strncmp(text, after, strlen(after));

        changed += is_place;
        if (!is_place || *line != '=')
            fputs(text, to);
        if (is_place)
            fprintf(to, "%s\n", line + (*line == '='));
    }
    fclose(from);
    fclose(to);
    cr_assert_eq(changed, 1, "\"%s\" stands in %s", after, file);
}

static bool compiles(const char *file, const char *after, const char *line)
{
    char folder[] = "/tmp/commpool-unclassed-XXXXXX", command[2048];
    int status;

    cr_assert_not_null(mkdtemp(folder));
    snprintf(command, sizeof(command), "mkdir %s/commpool %s/pool", folder, folder);
    cr_assert_eq(system(command), 0);
    change(file, folder, after, line);
    snprintf(command, sizeof(command),
             "cc -std=c11 -D_GNU_SOURCE -I%s -I%s/include -I%s/lib -fsyntax-only "
             "%s/lib/pool/key.c 2>%s/errors",
             folder, COMMPOOL_SOURCE, COMMPOOL_SOURCE, COMMPOOL_SOURCE, folder);
    status = system(command);
    snprintf(command, sizeof(command), "rm -r %s", folder);
    cr_assert_eq(system(command), 0);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

Test(key, an_option_without_a_row_does_not_compile_wherever_it_is_added)
{
    const char *file = "include/commpool/options.h";
    static const char *const places[] = {
        "    uint32_t max_waiters;",    /* between options */
        "    bool start_paused;",       /* in padding: a bool would move nothing */
        "    pool_orphan_fn *on_orphan;",
        "    uint32_t timeout_ms;",
        "    uint32_t flags;",          /* in padding of the call */
        "    struct pool_error *error;",
        "    const char *tag;",
    };

    cr_expect(compiles(file, places[0], ""));
    for (size_t i = 0; i < PL_COUNT(places); i++) {
        cr_expect_not(compiles(file, places[i], "    bool added;"), "%s", places[i]);
        cr_expect_not(compiles(file, places[i], "    uint32_t added;"), "%s", places[i]);
        cr_expect_not(compiles(file, places[i], "    void *added;"), "%s", places[i]);
    }
}

Test(key, a_row_without_a_class_or_without_a_field_does_not_compile)
{
    const char *file = "lib/pool/key.h", *row = "    NOT_KEY(max_waiters)";

    cr_expect(compiles(file, row, "    \\"));
    cr_expect_not(compiles(file, row, "    (min_idle) \\"));
    cr_expect_not(compiles(file, row, "    OTHER(min_idle) \\"));
    cr_expect_not(compiles(file, row, "    uint32_t added; \\"));
    cr_expect_not(compiles(file, row, "    NOT_KEY(added) \\"));
    cr_expect_not(compiles(file, row, "    NOT_KEY(max_waiters) \\"), "twice");
    cr_expect_not(compiles(file, row, "="), "a row is missing");
    cr_expect(compiles(file, "    NOT_KEY(tag)", "=    NOT_KEY(tag) \\"));
    cr_expect_not(compiles(file, "    NOT_KEY(tag)", "=    KEY(tag) \\"),
                  "no key is made of a call's options yet");
}
