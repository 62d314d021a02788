/* address_write.c: the canonical text of an address: equal addresses, and only those, have the
 * same one.
 *
 * The scheme is in lower case; names are in lower case without a trailing dot; IPv6 is as RFC 5952
 * writes it; parameters stand in the order tenant, sni, alpn, family, bind, dscp, rely, starttls;
 * qualities from small to large, joined by '+'; every byte outside 0x21 to 0x7e, and ?, &, %, #
 * within it, is %XX; every other byte is as it is. A parameter given with its default value is not
 * the same as one left out: telling too much apart costs a connection, telling too little apart
 * could mix up two users.
 */
#include "net/address_text.h"

const struct pl_name pl_schemes[PL_SCHEME_COUNT] = {
    { "tcp", PL_SCHEME_TCP },
    { "tls", PL_SCHEME_TLS },
    { "unix", PL_SCHEME_UNIX },
    { "abstract", PL_SCHEME_ABSTRACT },
};

const struct pl_name pl_qualities[PL_QUALITY_COUNT] = {
    { "unreliable", PL_UNRELIABLE }, { "loss", PL_LOSS },         { "dup", PL_DUP },
    { "order", PL_ORDER },           { "contents", PL_CONTENTS }, { "reliable", PL_RELIABLE },
};

/* The parameters, and what stands before the next one. */
struct list {
    struct pl_sink *sink;
    const char *separator;
};

static void put_text(struct pl_sink *sink, const char *text)
{
    pl_sink_put(sink, text, strlen(text));
}

static void put_number(struct pl_sink *sink, int32_t number)
{
    char digits[16];
    size_t at = sizeof(digits);

    for (; number || at == sizeof(digits); number /= 10)
        digits[--at] = (char)('0' + number % 10);
    pl_sink_put(sink, digits + at, sizeof(digits) - at);
}

static void put_encoded(struct pl_sink *sink, const struct pool_bytes *bytes)
{
    static const char digits[] = "0123456789ABCDEF";
    const char *at = bytes->data, *end = at + bytes->size;

    for (; at < end; at++) {
        unsigned char c = (unsigned char)*at;
        char escape[3] = { '%', digits[c >> 4], digits[c & 15] };

        if (c <= ' ' || c >= 0x7f || c == '%' || pl_must_be_encoded((char)c))
            pl_sink_put(sink, escape, sizeof(escape));
        else
            pl_sink_put(sink, at, 1);
    }
}

static void put_endpoint(struct pl_sink *sink, const struct pool_address *address)
{
    bool brackets = address->host_kind == PL_HOST_IPV6;

    put_text(sink, brackets ? "[" : "");
    pl_sink_put(sink, address->host.data, address->host.size);
    if (address->zone.data) {
        put_text(sink, "%");
        pl_sink_put(sink, address->zone.data, address->zone.size);
    }
    put_text(sink, brackets ? "]:" : ":");
    put_number(sink, address->port);
}

static void begin_parameter(struct list *list, const char *name)
{
    put_text(list->sink, list->separator);
    put_text(list->sink, name);
    put_text(list->sink, "=");
    list->separator = "&";
}

static void add_text(struct list *list, const char *name, const struct pool_bytes *value)
{
    if (!value->data)
        return;
    begin_parameter(list, name);
    put_encoded(list->sink, value);
}

static void add_number(struct list *list, const char *name, int32_t number, int32_t absent)
{
    if (number == absent)
        return;
    begin_parameter(list, name);
    put_number(list->sink, number);
}

static void add_qualities(struct list *list, int32_t rely)
{
    const char *separator = "";

    if (!rely)
        return;
    begin_parameter(list, "rely");
    if (rely == PL_RELIABLE)
        put_text(list->sink, "reliable");
    for (size_t i = 0; rely != PL_RELIABLE && i < PL_QUALITY_COUNT; i++) {
        if ((rely & pl_qualities[i].value) != pl_qualities[i].value)
            continue;
        put_text(list->sink, separator);
        put_text(list->sink, pl_qualities[i].text);
        separator = "+";
    }
}

void pl_address_write(struct pl_sink *sink, const struct pool_address *address)
{
    struct list list = { sink, "?" };

    put_text(sink, pl_schemes[address->scheme].text);
    put_text(sink, "://");
    if (address->host.data)
        put_endpoint(sink, address);
    else
        put_encoded(sink, &address->path);
    add_text(&list, "tenant", &address->tenant);
    add_text(&list, "sni", &address->sni);
    add_text(&list, "alpn", &address->alpn);
    add_number(&list, "family", address->family, 0);
    add_text(&list, "bind", &address->bind);
    add_number(&list, "dscp", address->dscp, PL_DSCP_NONE);
    add_qualities(&list, address->rely);
    add_number(&list, "starttls", address->starttls, 0);
}
