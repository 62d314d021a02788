/* address_text.c: the grammar of addresses. It accepts what the public address.h describes and
 * says at which byte it stops. It allocates nothing and looks nothing up; writing is
 * address_write.c's.
 */
#include "net/address_text.h"

#include <stdint.h>

#include "base/compiler.h"

#define IP_SCHEMES (1u << PL_SCHEME_TCP | 1u << PL_SCHEME_TLS)
#define TLS_SCHEMES (1u << PL_SCHEME_TLS)
#define ALL_SCHEMES (IP_SCHEMES | 1u << PL_SCHEME_UNIX | 1u << PL_SCHEME_ABSTRACT)
#define ALPN_ITEM_MAX 255 /* RFC 7301: one byte says how long */
#define DSCP_MAX 63

/* Where a parameter's value was read, and into what it decodes. */
struct value {
    size_t at;
    struct pool_bytes bytes;
};

static bool fail(struct pl_draft *draft, size_t at, const char *wrong)
{
    draft->wrong = wrong;
    draft->wrong_at = at;
    return false;
}

static struct pool_bytes slice(const struct pl_draft *draft, size_t at, size_t end)
{
    return (struct pool_bytes){ draft->text + at, end - at };
}

static struct pool_bytes keep(struct pl_draft *draft, const void *bytes, size_t size)
{
    char *kept = draft->room + draft->used;

    memcpy(kept, bytes, size);
    kept[size] = '\0';
    draft->used += size + 1;
    return (struct pool_bytes){ kept, size };
}

/* The offset of the first of `stops` from `at` on, or the text's size. */
static size_t find(const struct pl_draft *draft, size_t at, const char *stops)
{
    return at + strcspn(draft->text + at, stops);
}

static bool is_text(struct pool_bytes bytes, const char *text)
{
    return bytes.size == strlen(text) && memcmp(bytes.data, text, bytes.size) == 0;
}

static int32_t find_value(const struct pl_name *names, size_t count, struct pool_bytes text)
{
    for (size_t i = 0; i < count; i++) {
        if (is_text(text, names[i].text))
            return names[i].value;
    }
    return -1;
}

/* Digits without leading zeros up to `most`, or -1. */
static int32_t read_number(struct pool_bytes text, int32_t most)
{
    const char *digits = text.data;
    int32_t number = 0;

    if (!text.size || text.size > 5 || (digits[0] == '0' && text.size > 1))
        return -1;
    for (size_t i = 0; i < text.size; i++) {
        if (digits[i] < '0' || digits[i] > '9')
            return -1;
        number = number * 10 + (digits[i] - '0');
    }
    return number <= most ? number : -1;
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* The byte that "%XX" at `at` stands for, or -1. Whatever ends a value is no hexadecimal digit. */
static int read_escape(const struct pl_draft *draft, size_t at)
{
    int high = hex_digit(draft->text[at + 1]);
    int low = high >= 0 ? hex_digit(draft->text[at + 2]) : -1;

    return low < 0 ? -1 : high << 4 | low;
}

/* The percent-encoded text from `at` to `end`. Only an abstract name may hold zero bytes. */
static bool decode(struct pl_draft *draft, size_t at, size_t end, struct pool_bytes *value)
{
    bool zero_is_fine = draft->parts.scheme == PL_SCHEME_ABSTRACT && value == &draft->parts.path;
    char *to = draft->room + draft->used;
    size_t size = 0;

    while (at < end) {
        int byte = (unsigned char)draft->text[at];

        if (byte == '%')
            byte = read_escape(draft, at);
        else if (pl_must_be_encoded((char)byte))
            return fail(draft, at, "this character must be percent-encoded");
        if (byte < 0)
            return fail(draft, at, "two hexadecimal digits must follow %");
        if (!byte && !zero_is_fine)
            return fail(draft, at, "a zero byte cannot stand here");
        at += draft->text[at] == '%' ? 3 : 1;
        to[size++] = (char)byte;
    }
    to[size] = '\0';
    draft->used += size + 1;
    *value = (struct pool_bytes){ to, size };
    return true;
}

static bool read_port(struct pl_draft *draft, size_t at, size_t end)
{
    int32_t port;

    if (at >= end)
        return fail(draft, end, "port missing");
    for (size_t i = at; i < end; i++) {
        if (draft->text[i] < '0' || draft->text[i] > '9')
            return fail(draft, i, "the port is no number");
    }
    port = read_number(slice(draft, at, end), UINT16_MAX);
    if (port <= 0)
        return fail(draft, at, "the port is not 1 to 65535 without leading zeros");
    draft->parts.port = port;
    return true;
}

static bool read_name(struct pl_draft *draft, size_t at, struct pool_bytes text,
                      struct pool_bytes *kept)
{
    char name[PL_NAME_MAX];
    size_t size, wrong_at;
    const char *wrong = pl_host_name(text, name, &size, &wrong_at);

    if (wrong)
        return fail(draft, at + wrong_at, wrong);
    *kept = keep(draft, name, size);
    return true;
}

static bool is_zone(struct pool_bytes zone)
{
    if (pl_host_is_dotted(zone))
        return pl_host_interface_index(zone) != 0;
    return pl_host_is_interface(zone);
}

/* "[IPv6%zone]", the brackets at `at` and `close`. */
static bool read_bracketed(struct pl_draft *draft, size_t at, size_t close)
{
    struct pool_bytes host = slice(draft, at + 1, close), zone = pl_host_cut_zone(&host);
    char canonical[PL_IP_TEXT_SIZE];
    struct in6_addr ip;

    if (!pl_host_ipv6(host, &ip, canonical))
        return fail(draft, at + 1, "not an IPv6 address");
    if (zone.data && !is_zone(zone))
        return fail(draft, at + 2 + host.size,
                    "the zone is neither an interface's name nor its index");
    draft->parts.host = keep(draft, canonical, strlen(canonical));
    if (zone.data)
        draft->parts.zone = keep(draft, zone.data, zone.size);
    draft->parts.host_kind = PL_HOST_IPV6;
    return true;
}

static bool read_plain_host(struct pl_draft *draft, size_t at, size_t end)
{
    struct pool_bytes host = slice(draft, at, end);
    struct in_addr ip;

    if (!pl_host_is_dotted(host)) {
        draft->parts.host_kind = PL_HOST_NAME;
        return read_name(draft, at, host, &draft->parts.host);
    }
    if (!pl_host_ipv4(host, &ip))
        return fail(draft, at,
                    "not an IPv4 address (four numbers up to 255 without leading zeros)");
    draft->parts.host = keep(draft, host.data, host.size);
    draft->parts.host_kind = PL_HOST_IPV4;
    return true;
}

/* host:port, up to `end`. */
static bool read_endpoint(struct pl_draft *draft, size_t at, size_t end)
{
    size_t comma = find(draft, at, ","), host_end = find(draft, at, ":/?#"), second;
    size_t user_end = find(draft, at, "@");

    if (user_end < end)
        return fail(draft, user_end, "user info is not part of an address");
    if (comma < end)
        return fail(draft, comma, "several peers in one address are not supported in this release");
    if (draft->text[at] == '[') {
        host_end = find(draft, at, "]/?#");
        if (draft->text[host_end] != ']')
            return fail(draft, host_end, "']' missing");
        if (!read_bracketed(draft, at, host_end))
            return false;
        host_end++;
    } else {
        second = host_end < end ? find(draft, host_end + 1, ":") : end;
        if (second < end)
            return fail(draft, second, "a second ':' (IPv6 addresses stand in brackets)");
        if (!read_plain_host(draft, at, host_end))
            return false;
    }
    if (host_end < end && draft->text[host_end] != ':')
        return fail(draft, host_end, "only a port may follow ']'");
    return read_port(draft, host_end + 1, end);
}

static bool read_path(struct pl_draft *draft, size_t at, size_t end)
{
    bool is_unix = draft->parts.scheme == PL_SCHEME_UNIX;

    if (is_unix && draft->text[at] != '/' && at < end)
        return fail(draft, at, "the path must begin with /");
    if (at == end || (is_unix && at + 1 == end))
        return fail(draft, end, is_unix ? "path missing" : "name missing");
    if (!decode(draft, at, end, &draft->parts.path))
        return false;
    if (draft->parts.path.size > PL_ADDRESS_PATH_MAX)
        return fail(draft, end, "longer than 107 bytes");
    return true;
}

static bool read_tenant(struct pl_draft *draft, const struct value *value)
{
    draft->parts.tenant = value->bytes;
    return true;
}

static bool read_sni(struct pl_draft *draft, const struct value *value)
{
    if (!read_name(draft, value->at, value->bytes, &draft->parts.sni))
        return fail(draft, value->at, "sni= is no host name");
    return true;
}

static bool read_alpn(struct pl_draft *draft, const struct value *value)
{
    const char *items = value->bytes.data;
    size_t begin = 0;

    for (size_t i = 0; i <= value->bytes.size; i++) {
        if (i < value->bytes.size && items[i] != ',')
            continue;
        if (i == begin || i - begin > ALPN_ITEM_MAX)
            return fail(draft, value->at, "alpn= has a protocol of no or over 255 bytes");
        begin = i + 1;
    }
    draft->parts.alpn = value->bytes;
    return true;
}

static bool read_family(struct pl_draft *draft, const struct value *value)
{
    draft->parts.family = read_number(value->bytes, 6);
    if (draft->parts.family != 4 && draft->parts.family != 6)
        return fail(draft, value->at, "family= is neither 4 nor 6");
    draft->family_at = value->at;
    return true;
}

/* An IPv6 address with or without a zone, of which the text is kept as it stands. */
static bool read_bind_ipv6(struct pl_draft *draft, struct pool_bytes text)
{
    struct pool_bytes zone = pl_host_cut_zone(&text);
    char canonical[PL_IP_TEXT_SIZE + PL_IP_TEXT_SIZE];
    struct in6_addr ip;
    size_t size;

    if (!pl_host_ipv6(text, &ip, canonical) || (zone.data && !is_zone(zone)))
        return false;
    size = strlen(canonical);
    if (zone.data) {
        canonical[size] = '%';
        memcpy(canonical + size + 1, zone.data, zone.size);
        size += 1 + zone.size;
    }
    draft->parts.bind = keep(draft, canonical, size);
    draft->parts.bind_kind = PL_HOST_IPV6;
    return true;
}

static bool read_bind(struct pl_draft *draft, const struct value *value)
{
    struct pool_bytes text = value->bytes;
    struct in_addr ip;

    draft->bind_at = value->at;
    draft->parts.bind = text;
    if (memchr(text.data, ':', text.size)) {
        if (!read_bind_ipv6(draft, text))
            return fail(draft, value->at,
                        "bind= is no IPv6 address (without brackets, zone after %25)");
        return true;
    }
    draft->parts.bind_kind = pl_host_ipv4(text, &ip) ? PL_HOST_IPV4 : PL_HOST_NAME;
    if (draft->parts.bind_kind == PL_HOST_NAME &&
        (pl_host_is_dotted(text) || !pl_host_is_interface(text)))
        return fail(draft, value->at, "bind= is neither an IP address nor an interface");
    return true;
}

static bool read_dscp(struct pl_draft *draft, const struct value *value)
{
    draft->parts.dscp = read_number(value->bytes, DSCP_MAX);
    if (draft->parts.dscp < 0)
        return fail(draft, value->at, "dscp= is not 0 to 63 without leading zeros");
    return true;
}

static bool read_rely(struct pl_draft *draft, const struct value *value)
{
    const char *at = value->bytes.data, *end = at + value->bytes.size;

    for (;;) {
        size_t size = strcspn(at, "+,");
        int32_t quality =
            find_value(pl_qualities, PL_QUALITY_COUNT, (struct pool_bytes){ at, size });

        if (quality < 0)
            return fail(draft, value->at, "rely= has an unknown quality");
        draft->parts.rely |= quality;
        at += size;
        if (at == end)
            return true;
        at++;
    }
}

static bool read_starttls(struct pl_draft *draft, const struct value *value)
{
    draft->parts.starttls = is_text(value->bytes, "1");
    return draft->parts.starttls || fail(draft, value->at, "starttls= is not 1");
}

static const struct parameter {
    const char *name;
    unsigned schemes; /* that it fits */
    bool (*read)(struct pl_draft *draft, const struct value *value);
} parameters[] = {
    { "tenant", ALL_SCHEMES, read_tenant }, { "sni", TLS_SCHEMES, read_sni },
    { "alpn", TLS_SCHEMES, read_alpn },     { "family", IP_SCHEMES, read_family },
    { "bind", IP_SCHEMES, read_bind },      { "dscp", IP_SCHEMES, read_dscp },
    { "rely", ALL_SCHEMES, read_rely },     { "starttls", TLS_SCHEMES, read_starttls },
};

/* One "name=value"; `seen` has a bit for each parameter that was read before. */
static bool read_parameter(struct pl_draft *draft, size_t at, size_t end, unsigned *seen)
{
    size_t name_end = find(draft, at, "=&"), i = 0;
    struct pool_bytes name = slice(draft, at, name_end);
    struct value value = { .at = name_end + 1 };

    if (at == end)
        return fail(draft, at, "parameter missing");
    if (is_text(name, "policy"))
        return fail(draft, at,
                    "policy= is for several peers, which are not supported in this release");
    while (i < PL_COUNT(parameters) && !is_text(name, parameters[i].name))
        i++;
    if (i == PL_COUNT(parameters))
        return fail(draft, at, "unknown parameter");
    if (*seen & 1u << i)
        return fail(draft, at, "this parameter stands there already");
    if (!(parameters[i].schemes & 1u << draft->parts.scheme))
        return fail(draft, at, "this parameter does not fit the scheme");
    if (name_end == end)
        return fail(draft, end, "'=' missing");
    *seen |= 1u << i;
    return decode(draft, value.at, end, &value.bytes) && parameters[i].read(draft, &value);
}

static int32_t family_of(int32_t kind)
{
    return kind == PL_HOST_IPV4 ? 4 : kind == PL_HOST_IPV6 ? 6 : 0;
}

/* The host, family= and bind= may each ask for a family; they must not ask for different ones. */
static bool check_families(struct pl_draft *draft)
{
    int32_t host = family_of(draft->parts.host_kind), asked = draft->parts.family;
    int32_t bound = family_of(draft->parts.bind_kind);

    if (host && asked && host != asked)
        return fail(draft, draft->family_at, "family= contradicts the host");
    if (bound && host && bound != host)
        return fail(draft, draft->bind_at, "bind= is of another family than the host");
    if (bound && asked && bound != asked)
        return fail(draft, draft->bind_at, "bind= contradicts family=");
    return true;
}

static bool read_parameters(struct pl_draft *draft, size_t at)
{
    unsigned seen = 0;
    size_t end;

    do {
        end = find(draft, at, "&");
        if (!read_parameter(draft, at, end, &seen))
            return false;
        at = end + 1;
    } while (end < draft->size);
    return check_families(draft);
}

static bool read_scheme(struct pl_draft *draft, size_t *after)
{
    const char *mark = strstr(draft->text, "://");
    int32_t scheme = -1;
    char lower[16];
    size_t size;

    if (!mark)
        return fail(draft, 0, "scheme missing (tcp://, tls://, unix:// or abstract://)");
    size = (size_t)(mark - draft->text);
    for (size_t i = 0; i < size && i < sizeof(lower); i++) {
        char c = draft->text[i];

        lower[i] = c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
    }
    if (size <= sizeof(lower))
        scheme = find_value(pl_schemes, PL_SCHEME_COUNT, (struct pool_bytes){ lower, size });
    if (scheme < 0)
        return fail(draft, 0, "the scheme is none of tcp, tls, unix, abstract");
    draft->parts.scheme = scheme;
    *after = size + strlen("://");
    return true;
}

bool pl_draft_read(struct pl_draft *draft, const char *text)
{
    size_t at, end;

    draft->parts = (struct pool_address){ .dscp = PL_DSCP_NONE };
    draft->wrong = NULL;
    draft->used = 0;
    draft->text = text;
    draft->size = strnlen(text, PL_ADDRESS_TEXT_MAX + 1);
    if (draft->size > PL_ADDRESS_TEXT_MAX)
        return fail(draft, PL_ADDRESS_TEXT_MAX, "longer than 4096 bytes");
    if (!read_scheme(draft, &at))
        return false;
    if (1u << draft->parts.scheme & IP_SCHEMES) {
        end = find(draft, at, "/?#");
        if (!read_endpoint(draft, at, end))
            return false;
        if (draft->text[end] == '/')
            return fail(draft, end, "tcp and tls have no path, not even /");
        if (draft->text[end] == '#')
            return fail(draft, end, "this character must be percent-encoded");
    } else {
        end = find(draft, at, "?");
        if (!read_path(draft, at, end))
            return false;
    }
    return end == draft->size || read_parameters(draft, end + 1);
}
