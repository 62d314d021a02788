/* test_address_key.c: which addresses are one and the same, and the life of
 * an address: counts, lack of memory, error structs of other sizes. */
#include "net/address.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/compiler.h"
#include "base/os.h"

#define HEADER "/lib/net/address.h"

struct pair {
    const char *a, *b;
};

static struct pool_address *parsed(const char *text)
{
    struct pool_error error = POOL_ERROR_INIT;
    struct pool_address *address;
    enum pool_status status = pool_address_parse(text, &address, &error);

    cr_assert_eq(status, POOL_OK, "%s: %s", text, error.text);
    return address;
}

/* Equal texts, equal keys and pool_address_equal must agree, both ways round. */
static bool are_same(const char *first, const char *second)
{
    struct pool_address *a = parsed(first), *b = parsed(second);
    bool same = pool_address_equal(a, b);

    cr_expect_eq(same, pool_address_equal(b, a), "%s, %s", first, second);
    cr_expect_eq(same, !strcmp(pool_address_text(a), pool_address_text(b)), "%s, %s", first,
                 second);
    cr_expect(!same || pool_address_hash(a) == pool_address_hash(b), "%s, %s", first, second);
    pool_address_unref(b);
    pool_address_unref(a);
    return same;
}

/* Two addresses that differ in one KEY field only. The table below names one for each row, so a
 * new row does not compile before it has its own. */
#define DIFFER_scheme "tcp://h:1", "tls://h:1"
#define DIFFER_host "tcp://h:1", "tcp://i:1"
#define DIFFER_zone "tcp://[fe80::1%lo]:1", "tcp://[fe80::1%eth0]:1"
#define DIFFER_port "tcp://h:1", "tcp://h:11"
#define DIFFER_path "unix:///run/a", "unix:///run/A"
#define DIFFER_tenant "tcp://h:1?tenant=a", "tcp://h:1?tenant=A"
#define DIFFER_sni "tls://h:1?sni=a", "tls://h:1?sni=b"
#define DIFFER_alpn "tls://h:1?alpn=h2,http/1.1", "tls://h:1?alpn=http/1.1,h2"
#define DIFFER_family "tcp://h:1?family=4", "tcp://h:1?family=6"
#define DIFFER_bind "tcp://h:1?bind=127.0.0.1", "tcp://h:1?bind=127.0.0.2"
#define DIFFER_dscp "tcp://h:1?dscp=0", "tcp://h:1?dscp=1"
#define DIFFER_rely "tcp://h:1?rely=loss", "tcp://h:1?rely=dup"
#define DIFFER_starttls "tls://h:1?starttls=1", "tls://h:1"
#define DIFFER(kind, name) { DIFFER_##name },
#define NOTHING(kind, name)

/* What may stay out of the key. A row that becomes NOT_KEY without being named here does not
 * compile. */
enum outside_the_key {
    OUTSIDE_host_kind,
    OUTSIDE_bind_kind,
    OUTSIDE_text,
    OUTSIDE_key,
    OUTSIDE_references,
    OUTSIDE_hash
};
#define OUTSIDE(kind, name) OUTSIDE_##name,

static const enum outside_the_key outside[] = { PL_ADDRESS_FIELDS(NOTHING, OUTSIDE) };

static const struct pair differing[] = { PL_ADDRESS_FIELDS(DIFFER, NOTHING) };

Test(address_key, every_key_field_alone_tells_two_addresses_apart)
{
    cr_expect_eq(PL_COUNT(differing) + PL_COUNT(outside), PL_ADDRESS_FIELD_COUNT);
    for (size_t i = 0; i < PL_COUNT(differing); i++) {
        cr_expect_not(are_same(differing[i].a, differing[i].b), "%s", differing[i].a);
        cr_expect(are_same(differing[i].a, differing[i].a));
        cr_expect(are_same(differing[i].b, differing[i].b));
    }
}

Test(address_key, a_parameter_left_out_is_not_one_with_its_default)
{
    cr_expect_not(are_same("tcp://h:1", "tcp://h:1?tenant="));
    cr_expect_not(are_same("tcp://h:1", "tcp://h:1?dscp=0"));
    cr_expect_not(are_same("tls://h:1", "tls://h:1?sni=h"));
    cr_expect_not(are_same("tcp://127.0.0.1:1", "tcp://127.0.0.1:1?family=4"));
}

static uint64_t hash_to_zero(const void *bytes, size_t size)
{
    (void)bytes;
    (void)size;
    return 0;
}

Test(address_key, a_hash_that_is_always_0_mixes_nothing_up)
{
    pl_address_replace_hash(hash_to_zero);
    for (size_t i = 0; i < PL_COUNT(differing); i++) {
        struct pool_address *a = parsed(differing[i].a);

        cr_expect_eq(pool_address_hash(a), 0);
        cr_expect_not(are_same(differing[i].a, differing[i].b), "%s", differing[i].a);
        pool_address_unref(a);
    }
    pl_address_replace_hash(NULL);
}

Test(address_key, the_low_bits_of_the_hash_are_spread)
{
    unsigned buckets[64] = { 0 };

    for (int port = 1; port <= 6400; port++) {
        struct pool_address *address;
        char text[32];

        snprintf(text, sizeof(text), "tcp://127.0.0.1:%d", port);
        address = parsed(text);
        buckets[pool_address_hash(address) % PL_COUNT(buckets)]++;
        pool_address_unref(address);
    }
    for (size_t i = 0; i < PL_COUNT(buckets); i++)
        cr_expect(buckets[i] > 50 && buckets[i] < 150, "bucket %zu has %u of 6400", i, buckets[i]);
}

Test(address_key, look_alikes_are_different_addresses)
{
    static const struct pair pairs[] = {
        { "tcp://[::1]:1", "tcp://[::ffff:127.0.0.1]:1" },
        { "tcp://127.0.0.1:1", "tcp://[::ffff:127.0.0.1]:1" },
        { "tcp://[::1]:1", "tcp://[::1%lo]:1" },
        { "tcp://[fe80::1%lo]:1", "tcp://[fe80::1%Lo]:1" },
        { "tcp://[fe80::1%1]:1", "tcp://[fe80::1%11]:1" },
        { "tcp://127.0.0.1:1", "tcp://localhost:1" },
        { "unix:///tmp/s", "abstract:///tmp/s" },
        { "abstract://tmp/s", "abstract:///tmp/s" },
        { "abstract://a", "abstract://a%00" },
        { "unix:///tmp/S", "unix:///tmp/s" },
        { "unix:///tmp/s", "unix:///tmp//s" },
        { "unix:///tmp/s", "unix:///tmp/s/" },
        { "unix:///tmp/s", "unix:///tmp/s." },
        { "tcp://ab:1", "tcp://a-b:1" },
        { "tcp://a.b:1", "tcp://ab:1" },
        { "tcp://h:1?tenant=ab", "tcp://h:1?tenant=a%20b" },
        { "tls://h:1?tenant=a&sni=b", "tls://h:1?tenant=a%26sni=b" },
        { "tls://h:1?tenant=a", "tls://h:1?sni=a" },
        { "tls://h:1?alpn=h2", "tls://h:1?alpn=H2" },
        { "tcp://h:1?tenant=a+b", "tcp://h:1?tenant=a%20b" },
        { "tcp://h:1?bind=lo", "tcp://h:1?bind=Lo" },
        { "tcp://h:1?bind=127.0.0.1", "tcp://h:1?bind=lo" },
    };

    for (size_t i = 0; i < PL_COUNT(pairs); i++)
        cr_expect_not(are_same(pairs[i].a, pairs[i].b), "%s, %s", pairs[i].a, pairs[i].b);
}

Test(address_key, two_spellings_of_one_peer_are_the_same_address)
{
    static const struct pair pairs[] = {
        { "TCP://H:1", "tcp://h:1" },
        { "tcp://a.b.:1", "tcp://A.B:1" },
        { "tcp://[::ffff:7f00:1]:1", "tcp://[::FFFF:127.0.0.1]:1" },
        { "tcp://[0:0:0:0:0:0:0:1]:1", "tcp://[::1]:1" },
        { "unix:///%74mp/s", "unix:///tmp/s" },
        { "abstract://%2Fs", "abstract:///s" },
        { "tcp://h:1?dscp=1&tenant=a", "tcp://h:1?tenant=%61&dscp=1" },
        { "tls://h:1?sni=A.b.", "tls://h:1?sni=a.B" },
        { "tcp://h:1?rely=order,loss", "tcp://h:1?rely=loss+order" },
        { "tcp://h:1?rely=reliable", "tcp://h:1?rely=contents+order+dup+loss+unreliable" },
        { "tcp://h:1?rely=order", "tcp://h:1?rely=order+order" },
        { "tcp://h:1?bind=0::1", "tcp://h:1?bind=::1" },
    };

    for (size_t i = 0; i < PL_COUNT(pairs); i++)
        cr_expect(are_same(pairs[i].a, pairs[i].b), "%s, %s", pairs[i].a, pairs[i].b);
}

/* Copies the header into `folder`, with `line` behind the line that ends with `after`. */
static void change_header(const char *folder, const char *after, const char *line)
{
    char path[512], read[512], changed = 0;
    FILE *from, *to;

    from = fopen(COMMPOOL_SOURCE HEADER, "r");
    snprintf(path, sizeof(path), "%s/net/address.h", folder);
    to = fopen(path, "w");
    cr_assert(from && to);
    while (fgets(read, sizeof(read), from)) {
        fputs(read, to);
        if (!strncmp(read, after, strlen(after))) {
            fprintf(to, "%s\n", line);
            changed++;
        }
    }
    fclose(to);
    fclose(from);
    cr_assert_eq(changed, 1, "\"%s\" stands once in the header", after);
}

static bool compiles(const char *after, const char *line)
{
    char folder[] = "/tmp/commpool-unclassed-XXXXXX", command[2048];
    int status;

    cr_assert_not_null(mkdtemp(folder));
    snprintf(command, sizeof(command), "mkdir %s/net", folder);
    cr_assert_eq(system(command), 0);
    change_header(folder, after, line);
    snprintf(command, sizeof(command),
             "cc -std=c11 -D_GNU_SOURCE -I%s -I%s/include -I%s/lib -fsyntax-only "
             "%s/lib/net/address.c 2>%s/errors",
             folder, COMMPOOL_SOURCE, COMMPOOL_SOURCE, COMMPOOL_SOURCE, folder);
    status = system(command);
    snprintf(command, sizeof(command), "rm -r %s", folder);
    cr_assert_eq(system(command), 0);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

Test(address_key, a_field_without_a_class_does_not_compile)
{
    const char *row = "    KEY(text, tenant)", *member = "struct pool_address {";
    const char *last = "    PL_ADDRESS_FIELDS(PL_ADDRESS_MEMBER, PL_ADDRESS_MEMBER)";

    cr_expect(compiles(row, "    KEY(number, added) \\"));
    cr_expect(compiles(row, "    NOT_KEY(number, added) \\"));
    cr_expect_not(compiles(row, "    int32_t added; \\"));
    cr_expect_not(compiles(row, "    FIELD(number, added) \\"));
    cr_expect_not(compiles(row, "    (number, added) \\"));
    cr_expect_not(compiles(member, "    char added;"));
    cr_expect_not(compiles(last, "    char added;"));
}

/* splitmix64 */
static uint64_t random_state;

static uint64_t any(uint64_t count)
{
    uint64_t mixed = random_state += UINT64_C(0x9e3779b97f4a7c15);

    mixed = (mixed ^ mixed >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    mixed = (mixed ^ mixed >> 27) * UINT64_C(0x94d049bb133111eb);
    return (mixed ^ mixed >> 31) % count;
}

static void add_any(char *text, const char *set, size_t most)
{
    size_t length = strlen(text), count = 1 + any(most);

    for (size_t i = 0; i < count; i++)
        text[length++] = set[any(strlen(set))];
    text[length] = '\0';
}

static void add_encoded(char *text, size_t most)
{
    size_t count = any(most + 1);

    for (size_t i = 0; i < count; i++)
        sprintf(text + strlen(text), any(2) ? "%%%02x" : "%%%02X", (unsigned)(1 + any(255)));
}

static void add_host(char *text)
{
    static const char digits[] = "0123456789abcdefABCDEF";

    switch (any(4)) {
    case 0:
        sprintf(text + strlen(text), "%d.%d.%d.%d", (int)any(256), (int)any(256), (int)any(256),
                (int)any(256));
        break;
    case 1:
        strcat(text, "[");
        for (size_t i = 0; i < 8; i++) {
            if (any(2))
                add_any(text, digits, 4);
            else
                strcat(text, "0");
            strcat(text, i < 7 ? ":" : "");
        }
        if (any(2))
            add_any(strcat(text, "%e"), digits, 10);
        strcat(text, "]");
        break;
    default:
        add_any(text, "abcXYZ019-_", 20);
        add_any(strcat(text, ".q"), "abcXYZ019-_", 20);
        strcat(text, any(2) ? "." : "");
    }
    sprintf(text + strlen(text), ":%d", 1 + (int)any(65535));
}

/* Some parameters of a random subset in random order; a few contradict the host or each other. */
static void add_parameters(char *text, bool is_ip, bool is_tls)
{
    static const char *const qualities[] = { "unreliable", "loss",     "dup",
                                             "order",      "contents", "reliable" };
    static const char *const binds[] = { "eth0", "10.0.0.1", "fe80::1%25br-0.1_x" };
    uint64_t kinds = is_tls ? 7 : is_ip ? 5 : 2, first = any(kinds);
    const char *separator = "?";

    for (uint64_t i = first; i < first + kinds; i++) {
        if (any(2))
            continue;
        strcat(text, separator);
        separator = "&";
        switch (i % kinds) {
        case 0:
            add_any(strcat(text, "tenant=z"), "abcXYZ09-_.~!$'()*+,;:@/= \"<>\\^`{|}\xc3\xa9", 30);
            add_encoded(text, 20);
            break;
        case 1:
            sprintf(text + strlen(text), "rely=%s,%s", qualities[any(6)], qualities[any(6)]);
            break;
        case 2:
            sprintf(text + strlen(text), "dscp=%d", (int)any(64));
            break;
        case 3:
            sprintf(text + strlen(text), "bind=%s", binds[any(3)]);
            break;
        case 4:
            strcat(text, any(2) ? "family=4" : "family=6");
            break;
        case 5:
            strcat(text, "starttls=1");
            break;
        default:
            add_any(strcat(text, "alpn=h"), "abc019/.", 10);
        }
    }
}

static void any_address(char *text)
{
    static const char *const schemes[] = { "tcp://", "tls://", "unix:///a", "abstract://a" };
    size_t scheme = any(4);

    strcpy(text, schemes[scheme]);
    if (scheme < 2) {
        add_host(text);
    } else {
        add_any(text, "abcXYZ019/.-_ ,;:@", 40);
        add_encoded(text, 20);
    }
    add_parameters(text, scheme < 2, scheme == 1);
}

Test(address_key, parsing_the_text_of_any_address_gives_an_equal_one)
{
    unsigned parsed_count = 0;

    for (random_state = 1; parsed_count < 20000;) {
        struct pool_address *address, *again;
        char text[1024];

        any_address(text);
        if (pool_address_parse(text, &address, NULL) != POOL_OK)
            continue; /* two families that contradict each other */
        parsed_count++;
        again = parsed(pool_address_text(address));
        cr_assert(pool_address_equal(address, again), "%s", text);
        cr_assert_str_eq(pool_address_text(address), pool_address_text(again));
        cr_assert_eq(pool_address_hash(address), pool_address_hash(again));
        pool_address_unref(again);
        pool_address_unref(address);
    }
}

static size_t allocations, fails_at, blocks;

static void *failing_malloc(size_t size)
{
    void *memory = ++allocations == fails_at ? NULL : malloc(size);

    blocks += memory != NULL;
    return memory;
}

static void counted_free(void *memory)
{
    blocks -= memory != NULL;
    free(memory);
}

Test(address_key, without_memory_there_is_no_address_and_nothing_leaks)
{
    struct pl_os os = pl_os_real;
    enum pool_status status = POOL_E_MEMORY;

    os.malloc = failing_malloc;
    os.free = counted_free;
    pl_os_replace(&os);
    for (fails_at = 1; status == POOL_E_MEMORY; fails_at++) {
        struct pool_error error = POOL_ERROR_INIT;
        struct pool_address *address = (struct pool_address *)&error;

        allocations = 0;
        status = pool_address_parse("tls://h:1?tenant=a&sni=b&alpn=h2&bind=eth0", &address, &error);
        if (status == POOL_E_MEMORY) {
            cr_expect_null(address);
            cr_expect_eq(error.status, POOL_E_MEMORY);
        }
        cr_expect_eq(blocks, status == POOL_OK ? 1 : 0);
        pool_address_unref(address);
        cr_expect_eq(blocks, 0);
    }
    cr_expect_eq(status, POOL_OK);
    cr_expect(fails_at > 2);
    cr_expect_eq(pool_address_parse("tcp://h", &(struct pool_address *){ NULL }, NULL),
                 POOL_E_ADDRESS);
    cr_expect_eq(blocks, 0);
    pl_os_replace(NULL);
}

Test(address_key, an_address_lives_until_its_last_reference_is_given_back)
{
    struct pl_os os = pl_os_real;
    struct pool_address *address;

    os.malloc = failing_malloc;
    os.free = counted_free;
    pl_os_replace(&os);
    address = parsed("tcp://h:1");
    cr_expect_eq(pool_address_ref(address), address);
    cr_expect_eq(pool_address_ref(address), address);
    pool_address_unref(address);
    pool_address_unref(address);
    cr_expect_eq(blocks, 1);
    cr_expect_str_eq(pool_address_text(address), "tcp://h:1");
    pool_address_unref(address);
    cr_expect_eq(blocks, 0);
    pl_os_replace(NULL);
}

Test(address_key, null_is_an_argument_error_or_harmless)
{
    struct pool_error error = POOL_ERROR_INIT;
    struct pool_address *address = (struct pool_address *)&error, *parsed_one = parsed("tcp://h:1");

    cr_expect_eq(pool_address_parse(NULL, &address, &error), POOL_E_ARGUMENT);
    cr_expect_null(address);
    cr_expect_eq(error.status, POOL_E_ARGUMENT);
    cr_expect_eq(pool_address_parse("tcp://h:1", NULL, &error), POOL_E_ARGUMENT);
    cr_expect_eq(pool_address_parse(NULL, NULL, NULL), POOL_E_ARGUMENT);
    cr_expect_eq(pool_address_parse("tcp://h", &address, NULL), POOL_E_ADDRESS);
    cr_expect_null(pool_address_text(NULL));
    cr_expect_not(pool_address_equal(NULL, NULL));
    cr_expect_not(pool_address_equal(parsed_one, NULL));
    cr_expect_not(pool_address_equal(NULL, parsed_one));
    cr_expect_eq(pool_address_hash(NULL), 0);
    cr_expect_null(pool_address_ref(NULL));
    pool_address_unref(NULL);
    pool_address_unref(parsed_one);
}

Test(address_key, an_error_struct_is_filled_as_far_as_its_size_says)
{
    struct pool_error whole = POOL_ERROR_INIT, error;
    struct pool_address *address;

    cr_assert_eq(pool_address_parse("tcp://h", &address, &whole), POOL_E_ADDRESS);
    for (size_t size = 0; size <= sizeof(error) + 8; size++) {
        size_t filled = size && size < sizeof(error) ? size : sizeof(error);
        size_t text_from = offsetof(struct pool_error, text);

        memset(&error, 0x5a, sizeof(error));
        error.size = size;
        cr_assert_eq(pool_address_parse("tcp://h", &address, &error), POOL_E_ADDRESS);
        cr_assert_eq(error.size, size);
        for (size_t i = filled < sizeof(size) ? sizeof(size) : filled; i < sizeof(error); i++)
            cr_assert_eq(((unsigned char *)&error)[i], 0x5a, "size %zu, byte %zu", size, i);
        if (filled >= offsetof(struct pool_error, phase))
            cr_assert_eq(error.status, POOL_E_ADDRESS);
        if (filled > text_from)
            cr_assert(!strncmp(error.text, whole.text, filled - text_from - 1) &&
                      memchr(error.text, '\0', filled - text_from));
    }
}
