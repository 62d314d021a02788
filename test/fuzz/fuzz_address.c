/* fuzz_address.c: any bytes as an address. What parses must give a canonical text that parses to an
 * equal address with the same text, key and hash; what does not must say where it is wrong.
 *
 * Built for libFuzzer, or with FUZZ_MAIN as a plain program: see plain.h. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/os.h"
#include "fuzz/plain.h"
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
static const char *const words[] = {
    "://",      "?",     "&",     "=",     "%",         "%25",  "[",     "]",
    ":",        "::",    ".",     ",",     "+",         "0",    "65535", "65536",
    "family=",  "bind=", "rely=", "dscp=", "starttls=", "sni=", "alpn=", "tenant=",
    "reliable", "lo",    "%00",   "a.b",   "1.2.3.4",   NULL
};

static const char *const *all_words(const uint8_t *data, size_t size)
{
    (void)data;
    (void)size;
    return words;
}

int main(int argc, char **argv)
{
    static const struct plain plain = {
        .name = "address", .rounds = 300000, .words = all_words, .run = LLVMFuzzerTestOneInput
    };

    return plain_main(&plain, argc, argv);
}
#endif
