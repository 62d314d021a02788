/* address.c: addresses as counted values: one allocation holds the struct, its texts, its key and
 * its canonical text. The struct, the key and the copying are generated from PL_ADDRESS_FIELDS. */
#include "net/address.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/un.h>

#include "base/hash.h"
#include "base/os.h"
#include "net/address_host.h"
#include "net/address_text.h"

#define QUOTED_MAX 100 /* bytes of a faulty text that its error repeats */

/* A member written beside the table makes the struct larger than the table, or stands in padding
 * before the first row; after the last row there is none. */
struct table_alone {
    PL_ADDRESS_FIELDS(PL_ADDRESS_MEMBER, PL_ADDRESS_MEMBER)
};
_Static_assert(sizeof(struct table_alone) == sizeof(struct pool_address),
               "a field stands outside the table");
_Static_assert(offsetof(struct pool_address, scheme) == 0, "a field stands before the table");
_Static_assert(offsetof(struct pool_address, hash) + sizeof(uint64_t) ==
                   sizeof(struct pool_address),
               "the table must end with its widest member");

#define IN_KEY(kind, name) put_##kind(sink, &address->name);
#define KEEP(kind, name) keep_##kind(&memory, &address->name);
#define MEASURE(kind, name) size += measure_##kind(&address->name);
#define NOTHING(kind, name)

static uint64_t hash_bytes(const void *bytes, size_t size)
{
    return pl_hash(bytes, size, 0);
}

static uint64_t (*hash_key)(const void *bytes, size_t size) = hash_bytes;

static void put_number(struct pl_sink *sink, const int32_t *number)
{
    pl_sink_put(sink, number, sizeof(*number));
}

static void put_text(struct pl_sink *sink, const struct pool_bytes *text)
{
    uint32_t size = text->data ? (uint32_t)text->size : UINT32_MAX;

    pl_sink_put(sink, &size, sizeof(size));
    pl_sink_put(sink, text->data, text->size);
}

static void write_key(struct pl_sink *sink, const struct pool_address *address)
{
    PL_ADDRESS_FIELDS(IN_KEY, NOTHING)
}

static size_t measure_number(const int32_t *number)
{
    (void)number;
    return 0;
}

static size_t measure_text(const struct pool_bytes *text)
{
    return text->data ? text->size + 1 : 0;
}

/* What the texts take, each with its zero byte. */
static size_t measure(const struct pool_address *address)
{
    size_t size = 0;

    PL_ADDRESS_FIELDS(MEASURE, NOTHING)
    return size;
}

static void keep_number(char **memory, const int32_t *number)
{
    (void)memory;
    (void)number;
}

/* Moves a text into *memory, and *memory behind it. */
static void keep_text(char **memory, struct pool_bytes *text)
{
    char *kept = *memory;

    if (!text->data)
        return;
    memcpy(kept, text->data, text->size);
    kept[text->size] = '\0';
    text->data = kept;
    *memory += text->size + 1;
}

static void keep_values(char *memory, struct pool_address *address)
{
    PL_ADDRESS_FIELDS(KEEP, NOTHING)
}

/* The address that `parts` describes, with the texts and the key in its own memory; NULL: no
 * memory. */
static struct pool_address *create(const struct pool_address *parts, size_t text_size)
{
    struct pl_sink key = { NULL, 0 }, text = { NULL, 0 };
    size_t values = measure(parts), key_size;
    struct pool_address *address;

    write_key(&key, parts);
    key_size = key.size;
    address = pl_os->malloc(sizeof(*address) + values + key_size + text_size + 1);
    if (!address)
        return NULL;
    *address = *parts;
    keep_values((char *)(address + 1), address);
    key = (struct pl_sink){ (char *)(address + 1) + values, 0 };
    write_key(&key, address);
    text = (struct pl_sink){ key.bytes + key_size, 0 };
    pl_address_write(&text, address);
    text.bytes[text_size] = '\0';
    address->key = (struct pool_bytes){ key.bytes, key_size };
    address->text = (struct pool_bytes){ text.bytes, text_size };
    address->hash = hash_key(key.bytes, key_size);
    atomic_init(&address->references, 1);
    return address;
}

/* Fills *error as far as its size says and answers `status`. */
static enum pool_status tell(struct pool_error *error, enum pool_status status, const char *text)
{
    struct pool_error told = { .status = status };
    size_t size, from = offsetof(struct pool_error, text);

    if (!error)
        return status;
    size = error->size ? error->size : sizeof(told);
    if (size > sizeof(told))
        size = sizeof(told);
    told.size = error->size;
    if (size > from)
        snprintf(told.text, size - from, "%s", text);
    memcpy(error, &told, size);
    return status;
}

/* "tcp://host: port missing at character 11"; what a log could stumble over is shown as '?'. */
static enum pool_status tell_fault(struct pool_error *error, const struct pl_draft *draft)
{
    char quoted[QUOTED_MAX + 1], text[sizeof(error->text)];
    size_t size = draft->size < QUOTED_MAX ? draft->size : QUOTED_MAX;

    for (size_t i = 0; i < size; i++)
        quoted[i] = draft->text[i] < ' ' || draft->text[i] > '~' ? '?' : draft->text[i];
    quoted[size] = '\0';
    snprintf(text, sizeof(text), "%s%s: %s at character %zu", size ? quoted : "\"\"",
             size < draft->size ? "..." : "", draft->wrong, draft->wrong_at + 1);
    return tell(error, POOL_E_ADDRESS, text);
}

/* `host` is an IP of `kind` in canonical text; a zone's data is NULL or ends with a zero byte. */
static int fill_ip(struct pool_bytes host, struct pool_bytes zone, int32_t kind, int32_t port,
                   struct sockaddr_storage *filled)
{
    struct sockaddr_in6 *ipv6 = (struct sockaddr_in6 *)filled;
    struct sockaddr_in *ipv4 = (struct sockaddr_in *)filled;
    char canonical[PL_IP_TEXT_SIZE];

    if (kind == PL_HOST_IPV4) {
        ipv4->sin_family = AF_INET;
        ipv4->sin_port = htons((in_port_t)port);
        (void)pl_host_ipv4(host, &ipv4->sin_addr);
        return 0;
    }
    ipv6->sin6_family = AF_INET6;
    ipv6->sin6_port = htons((in_port_t)port);
    (void)pl_host_ipv6(host, &ipv6->sin6_addr, canonical);
    if (!zone.data)
        return 0;
    ipv6->sin6_scope_id = pl_host_interface_index(zone);
    if (!ipv6->sin6_scope_id)
        ipv6->sin6_scope_id = pl_os->interface_index(zone.data);
    return ipv6->sin6_scope_id ? 0 : -ENODEV;
}

static void fill_unix(const struct pool_address *address, struct sockaddr_storage *filled)
{
    struct sockaddr_un *local = (struct sockaddr_un *)filled;
    size_t zero_first = address->scheme == PL_SCHEME_ABSTRACT;

    local->sun_family = AF_UNIX;
    memcpy(local->sun_path + zero_first, address->path.data, address->path.size);
}

static socklen_t size_of_ip(int32_t kind)
{
    return kind == PL_HOST_IPV4 ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6);
}

int pl_address_sockaddr(const struct pool_address *address, struct sockaddr_storage *peer,
                        socklen_t *size)
{
    memset(peer, 0, sizeof(*peer));
    *size = 0;
    if (address->host_kind == PL_HOST_NAME)
        return -EDESTADDRREQ;
    if (address->host_kind == PL_HOST_NONE) {
        fill_unix(address, peer);
        *size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + address->path.size + 1);
        return 0;
    }
    *size = size_of_ip(address->host_kind);
    return fill_ip(address->host, address->zone, address->host_kind, address->port, peer);
}

int pl_address_bind_sockaddr(const struct pool_address *address, int family,
                             struct sockaddr_storage *local, socklen_t *size)
{
    struct pool_bytes ip = address->bind, zone;

    memset(local, 0, sizeof(*local));
    *size = 0;
    if (address->bind_kind != PL_HOST_IPV4 && address->bind_kind != PL_HOST_IPV6)
        return 0;
    if (family != (address->bind_kind == PL_HOST_IPV4 ? AF_INET : AF_INET6))
        return -EAFNOSUPPORT;
    *size = size_of_ip(address->bind_kind);
    zone = pl_host_cut_zone(&ip);
    return fill_ip(ip, zone, address->bind_kind, 0, local);
}

void pl_address_replace_hash(uint64_t (*hash)(const void *bytes, size_t size))
{
    hash_key = hash ? hash : hash_bytes;
}

enum pool_status pool_address_parse(const char *text, struct pool_address **address,
                                    struct pool_error *error)
{
    struct pl_sink canonical = { NULL, 0 };
    struct pl_draft draft;

    if (address)
        *address = NULL;
    if (!text || !address)
        return tell(error, POOL_E_ARGUMENT,
                    text ? "nowhere to put the address: NULL" : "the address text is NULL");
    if (!pl_draft_read(&draft, text))
        return tell_fault(error, &draft);
    pl_address_write(&canonical, &draft.parts);
    if (canonical.size > PL_ADDRESS_TEXT_MAX) {
        draft.wrong = "longer than 4096 bytes in canonical form";
        draft.wrong_at = draft.size;
        return tell_fault(error, &draft);
    }
    *address = create(&draft.parts, canonical.size);
    return *address ? POOL_OK : tell(error, POOL_E_MEMORY, "no memory for an address");
}

const char *pool_address_text(const struct pool_address *address)
{
    return address ? address->text.data : NULL;
}

bool pool_address_equal(const struct pool_address *a, const struct pool_address *b)
{
    return a && b && a->key.size == b->key.size &&
           memcmp(a->key.data, b->key.data, a->key.size) == 0;
}

uint64_t pool_address_hash(const struct pool_address *address)
{
    return address ? address->hash : 0;
}

struct pool_address *pool_address_ref(struct pool_address *address)
{
    if (address)
        atomic_fetch_add_explicit(&address->references, 1, memory_order_relaxed);
    return address;
}

void pool_address_unref(struct pool_address *address)
{
    if (address && atomic_fetch_sub_explicit(&address->references, 1, memory_order_acq_rel) == 1)
        pl_os->free(address);
}
