/* fuzz_address.c: any bytes as an address. What parses must give a canonical text that parses to an
 * equal address with the same text, key and hash; what does not must say where it is wrong.
 *
 * Built for libFuzzer, or with FUZZ_MAIN as a plain program:
 *     fuzz_address                        a fixed seed and number of rounds over the corpus
 *     fuzz_address SEED ROUNDS            others; a seed is not 0
 *     fuzz_address FILE...                replays files
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/os.h"
#include "net/address.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define EXPECT(condition) ((condition) ? (void)0 : give_up(#condition, __LINE__))

static void give_up(const char *condition, int line)
{
    fprintf(stderr, "fuzz_address.c:%d: not so: %s\n", line, condition);
    abort();
}

static unsigned no_interface(const char *name)
{
    return strcmp(name, "lo") ? 0 : 1;
}

static void check_refused(const char *text, const struct pool_error *error)
{
    const char *place = strstr(error->text, " at character ");
    size_t character, size = strnlen(text, PL_ADDRESS_TEXT_MAX + 1);

    EXPECT(error->status == POOL_E_ADDRESS && place);
    for (const char *next = place; next; next = strstr(place + 1, " at character "))
        place = next; /* the text itself may say so too */
    character = strtoul(place + strlen(" at character "), NULL, 10);
    EXPECT(character >= 1 && character <= size + 1);
    EXPECT(strlen(error->text) < sizeof(error->text) - 1);
}

static void check_socket_addresses(const struct pool_address *address)
{
    struct sockaddr_storage storage;
    socklen_t size;
    int result = pl_address_sockaddr(address, &storage, &size);

    EXPECT(result == 0 || result == -ENODEV ||
           (result == -EDESTADDRREQ && !pl_address_is_literal(address)));
    EXPECT(result || (size > sizeof(sa_family_t) && size <= sizeof(storage)));
    result = pl_address_bind_sockaddr(address, AF_INET6, &storage, &size);
    EXPECT(result == 0 || result == -ENODEV || result == -EAFNOSUPPORT);
    EXPECT(!pl_address_bind_interface(address) || (result == 0 && size == 0));
}

static void check_address(const struct pool_address *address)
{
    const char *text = pool_address_text(address);
    struct pool_address *again;

    EXPECT(strlen(text) <= PL_ADDRESS_TEXT_MAX);
    for (size_t i = 0; text[i]; i++)
        EXPECT(text[i] > ' ' && text[i] <= '~' && text[i] != '#');
    EXPECT(pool_address_parse(text, &again, NULL) == POOL_OK);
    EXPECT(pool_address_equal(address, again));
    EXPECT(pool_address_hash(address) == pool_address_hash(again));
    EXPECT(strcmp(text, pool_address_text(again)) == 0);
    check_socket_addresses(address);
    pool_address_unref(again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct pool_error error = POOL_ERROR_INIT;
    struct pl_os os = pl_os_real;
    struct pool_address *address;
    char *text = malloc(size + 1);

    EXPECT(text);
    if (size)
        memcpy(text, data, size);
    text[size] = '\0';
    os.interface_index = no_interface;
    pl_os_replace(&os);
    if (pool_address_parse(text, &address, &error) == POOL_OK) {
        check_address(address);
    } else {
        EXPECT(!address);
        check_refused(text, &error);
    }
    pool_address_unref(address);
    pl_os_replace(NULL);
    free(text);
    return 0;
}

#ifdef FUZZ_MAIN
#define CORPUS COMMPOOL_SOURCE "/test/fuzz/corpus/address/"
#define LONGEST 5000

static const char *const seeds[] = {
    CORPUS "tcp_ipv4", CORPUS "tcp_ipv6_zone", CORPUS "tcp_mapped", CORPUS "tcp_name",
    CORPUS "tls_all",  CORPUS "tls_good",      CORPUS "unix",       CORPUS "abstract",
    CORPUS "several",  CORPUS "bad_ipv4",
};
#define SEED_COUNT (sizeof(seeds) / sizeof(seeds[0]))

struct input {
    uint8_t bytes[LONGEST];
    size_t size;
};

static struct input corpus[SEED_COUNT];
static uint64_t state;

/* splitmix64 */
static size_t any(size_t count)
{
    uint64_t mixed = state += UINT64_C(0x9e3779b97f4a7c15);

    mixed = (mixed ^ mixed >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    mixed = (mixed ^ mixed >> 27) * UINT64_C(0x94d049bb133111eb);
    return (size_t)((mixed ^ mixed >> 31) % count);
}

static void load(const char *path, struct input *input)
{
    FILE *file = fopen(path, "rb");

    if (!file) {
        fprintf(stderr, "cannot open %s\n", path);
        exit(1);
    }
    input->size = fread(input->bytes, 1, sizeof(input->bytes), file);
    fclose(file);
}

/* Replaces `removed` bytes at `at` by `size` others, as far as there is room. */
static void replace(struct input *input, size_t at, size_t removed, const void *bytes, size_t size)
{
    uint8_t copy[LONGEST];
    size_t rest = input->size - at - removed;

    if (input->size - removed + size > LONGEST)
        return;
    memcpy(copy, bytes, size);
    memmove(input->bytes + at + size, input->bytes + at + removed, rest);
    memcpy(input->bytes + at, copy, size);
    input->size = at + size + rest;
}

static void mutate(struct input *input)
{
    static const char *const words[] = {
        "://",      "?",     "&",     "=",     "%",         "%25",  "[",     "]",
        ":",        "::",    ".",     ",",     "+",         "0",    "65535", "65536",
        "family=",  "bind=", "rely=", "dscp=", "starttls=", "sni=", "alpn=", "tenant=",
        "reliable", "lo",    "%00",   "a.b",   "1.2.3.4"
    };
    size_t at = any(input->size + 1), rest = input->size - at, size;
    const struct input *other = &corpus[any(SEED_COUNT)];
    const char *word = words[any(sizeof(words) / sizeof(words[0]))];
    uint8_t byte = (uint8_t)any(256);

    switch (any(6)) {
    case 0:
        replace(input, at, 0, word, strlen(word));
        break;
    case 1:
        replace(input, at, rest ? 1 : 0, &byte, 1);
        break;
    case 2:
        replace(input, at, any(rest + 1), "", 0);
        break;
    case 3:
        size = any(other->size + 1);
        replace(input, at, any(rest + 1), other->bytes + other->size - size, size);
        break;
    case 4:
        replace(input, at, 0, input->bytes + at, any(rest + 1));
        break;
    default:
        replace(input, at, rest ? 1 : 0, word, strlen(word));
    }
}

static void run(uint64_t seed, unsigned long rounds)
{
    static struct input input;

    state = seed;
    for (unsigned long i = 0; i < rounds; i++) {
        if (i % 16 == 0)
            input = corpus[any(SEED_COUNT)];
        mutate(&input);
        LLVMFuzzerTestOneInput(input.bytes, input.size);
    }
    printf("address: %zu files, %lu mutations of seed %llu\n", SEED_COUNT, rounds,
           (unsigned long long)seed);
}

static void replay(int count, char **paths)
{
    static struct input input;

    for (int i = 0; i < count; i++) {
        load(paths[i], &input);
        LLVMFuzzerTestOneInput(input.bytes, input.size);
    }
}

int main(int argc, char **argv)
{
    unsigned long rounds = argc > 2 ? strtoul(argv[2], NULL, 10) : 300000;
    uint64_t seed = argc > 1 ? strtoull(argv[1], NULL, 10) : 1;

    if (argc > 1 && !seed) {
        replay(argc - 1, argv + 1);
        return 0;
    }
    for (size_t i = 0; i < SEED_COUNT; i++) {
        load(seeds[i], &corpus[i]);
        LLVMFuzzerTestOneInput(corpus[i].bytes, corpus[i].size);
    }
    run(seed, rounds);
    return 0;
}
#endif
