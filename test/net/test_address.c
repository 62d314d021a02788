/* test_address.c: what is an address and what is not, and what its text becomes. Equality and the
 * life of an address are test_address_key.c's. */
#include "net/address.h"

#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

#include "base/compiler.h"
#include "base/os.h"

struct good {
    const char *text, *canonical; /* NULL: the text itself */
};

struct bad {
    const char *text;
    size_t character;
    const char *why; /* a part of it */
};

static struct pool_address *parsed(const char *text)
{
    struct pool_error error = POOL_ERROR_INIT;
    struct pool_address *address;
    enum pool_status status = pool_address_parse(text, &address, &error);

    cr_assert_eq(status, POOL_OK, "%s: %s", text, error.text);
    return address;
}

static void expect_canonical(const char *text, const char *canonical)
{
    struct pool_address *address = parsed(text), *again;

    cr_expect_str_eq(pool_address_text(address), canonical);
    again = parsed(pool_address_text(address));
    cr_expect(pool_address_equal(address, again), "%s", text);
    cr_expect_eq(pool_address_hash(address), pool_address_hash(again));
    cr_expect_str_eq(pool_address_text(again), canonical);
    pool_address_unref(again);
    pool_address_unref(address);
}

static void expect_refused(const char *text, size_t character, const char *why)
{
    struct pool_error error = POOL_ERROR_INIT;
    struct pool_address *address = (struct pool_address *)&error;
    char place[48];
    size_t length;

    cr_expect_eq(pool_address_parse(text, &address, &error), POOL_E_ADDRESS, "%s", text);
    cr_expect_null(address);
    cr_expect_eq(error.status, POOL_E_ADDRESS);
    cr_expect_eq(error.phase, POOL_PHASE_NONE);
    cr_expect_eq(error.outcome, POOL_NOT_SENT);
    snprintf(place, sizeof(place), " at character %zu", character);
    length = strlen(error.text);
    cr_expect(length > strlen(place) && !strcmp(error.text + length - strlen(place), place),
              "\"%s\" should end with \"%s\"", error.text, place);
    cr_expect_not_null(strstr(error.text, why), "\"%s\" should say \"%s\"", error.text, why);
}

static void expect_all_canonical(const struct good *goods, size_t count)
{
    for (size_t i = 0; i < count; i++)
        expect_canonical(goods[i].text, goods[i].canonical ? goods[i].canonical : goods[i].text);
}

static void expect_all_refused(const struct bad *bads, size_t count)
{
    for (size_t i = 0; i < count; i++)
        expect_refused(bads[i].text, bads[i].character, bads[i].why);
}

/* `before` + `count` times `c` + `after`; the caller frees it. */
static char *stretched(const char *before, char c, size_t count, const char *after)
{
    char *text = malloc(strlen(before) + count + strlen(after) + 1);

    strcpy(text, before);
    memset(text + strlen(before), c, count);
    strcpy(text + strlen(before) + count, after);
    return text;
}

Test(address, peers_are_read_and_written_in_one_canonical_way)
{
    static const struct good goods[] = {
        { "tcp://127.0.0.1:6379", NULL },
        { "tls://db:5432", NULL },
        { "tcp://[::1]:80?rely=order", NULL },
        { "TCP://DB.Example.COM.:1", "tcp://db.example.com:1" },
        { "tcp://a_b-c.x1:65535", NULL },
        { "tcp://xn--bcher-kva.example:1", NULL },
        { "tcp://1a.b2c:7", NULL },
        { "tcp://0.0.0.0:1", NULL },
        { "tcp://255.255.255.255:1", NULL },
        { "unix:///run/redis.sock", NULL },
        { "unix:///Run/../x//y", NULL },
        { "UNIX:///a b", "unix:///a%20b" },
        { "unix:///%7e%2Fa%3f%26%25%23%0a%ff", "unix:///~/a%3F%26%25%23%0A%FF" },
        { "unix:///a,/b", NULL },
        { "abstract://name", NULL },
        { "abstract:///tmp/.X11-unix/X0", NULL },
        { "abstract://a%00b", NULL },
        { "abstract://caf\xc3\xa9", "abstract://caf%C3%A9" },
    };

    expect_all_canonical(goods, PL_COUNT(goods));
}

Test(address, ipv6_is_written_as_rfc_5952_says)
{
    static const struct good goods[] = {
        { "tcp://[0:0:0:0:0:0:0:0]:1", "tcp://[::]:1" },
        { "tcp://[2001:DB8:0:0:1:0:0:1]:1", "tcp://[2001:db8::1:0:0:1]:1" },
        { "tcp://[2001:0db8:0:1:1:1:1:1]:1", "tcp://[2001:db8:0:1:1:1:1:1]:1" },
        { "tcp://[1:2:3:4:5:6::8]:1", "tcp://[1:2:3:4:5:6:0:8]:1" },
        { "tcp://[2001:0:0:1:0:0:0:1]:1", "tcp://[2001:0:0:1::1]:1" },
        { "tcp://[1::]:1", NULL },
        { "tcp://[::1:0]:1", NULL },
        { "tcp://[::1.2.3.4]:1", "tcp://[::102:304]:1" },
        { "tcp://[::ffff:102:304]:1", "tcp://[::ffff:1.2.3.4]:1" },
        { "tcp://[0::FFFF:1.2.3.4]:1", "tcp://[::ffff:1.2.3.4]:1" },
        { "tcp://[64:ff9b::1.2.3.4]:1", "tcp://[64:ff9b::102:304]:1" },
        { "tcp://[1:2:3:4:5:6:7:8]:1", NULL },
        { "tcp://[fe80::1%eth0]:80", NULL },
        { "tcp://[FE80::1%Eth0.5]:80", "tcp://[fe80::1%Eth0.5]:80" },
        { "tcp://[fe80::1%2147483647]:80", NULL },
    };

    expect_all_canonical(goods, PL_COUNT(goods));
}

Test(address, parameters_come_out_in_one_order_and_one_encoding)
{
    static const struct good goods[] = {
        { "tls://h:1?starttls=1&rely=loss&dscp=0&bind=eth0&family=4&alpn=h2,http/"
          "1.1&sni=S.&tenant=a",
          "tls://h:1?tenant=a&sni=s&alpn=h2,http/"
          "1.1&family=4&bind=eth0&dscp=0&rely=loss&starttls=1" },
        { "tcp://h:1?tenant=", NULL },
        { "tcp://h:1?tenant=%61%2f=+%2B", "tcp://h:1?tenant=a/=++" },
        { "tcp://h:1?tenant=a b%0A\xe2\x82\xac", "tcp://h:1?tenant=a%20b%0A%E2%82%AC" },
        { "unix:///s?tenant=T&rely=reliable", NULL },
        { "abstract://s?rely=dup&tenant=%3f%26%25%23",
          "abstract://s?tenant=%3F%26%25%23&rely=dup" },
        { "tcp://h:1?family=6", NULL },
        { "tcp://h:1?dscp=63", NULL },
        { "tcp://127.0.0.1:1?family=4&bind=127.0.0.2", NULL },
        { "tcp://[::1]:1?family=6&bind=0:0::1", "tcp://[::1]:1?family=6&bind=::1" },
        { "tcp://h:1?bind=FE80::1%25eth0", "tcp://h:1?bind=fe80::1%25eth0" },
        { "tcp://h:1?bind=eth0.100", NULL },
        { "tcp://h:1?bind=br-lan_1", NULL },
        { "tls://h:1?alpn=h2%2cspdy/3", "tls://h:1?alpn=h2,spdy/3" },
    };

    expect_all_canonical(goods, PL_COUNT(goods));
}

Test(address, a_wrong_scheme_or_peer_is_refused_at_its_character)
{
    static const struct bad bads[] = {
        { "", 1, "\"\": scheme missing" },
        { "localhost:80", 1, "scheme missing" },
        { "tcp:/h:1", 1, "scheme missing" },
        { "udp://h:1", 1, "none of tcp, tls, unix, abstract" },
        { "://h:1", 1, "none of tcp" },
        { "averyveryverylongscheme://h:1", 1, "none of tcp" },
        { " tcp://h:1", 1, "none of tcp" },
        { "tcp://", 7, "host missing" },
        { "tcp://:80", 7, "host missing" },
        { "tcp://?tenant=a", 7, "host missing" },
        { "tcp://host", 11, "tcp://host: port missing" },
        { "tcp://host:", 12, "port missing" },
        { "tcp://host/", 11, "port missing" },
        { "tcp://host?tenant=a", 11, "port missing" },
        { "tcp://host:80/", 14, "no path" },
        { "tls://host:80/p", 14, "no path" },
        { "tcp://host:80#f", 14, "percent-encoded" },
        { "tcp://a:1,b:2,c:3", 10, "several peers" },
        { "tcp://a:1,", 10, "several peers" },
        { "tcp://user@host:1", 11, "user info is not part" },
        { "tcp://ho%73t:1", 9, "cannot stand in a host name" },
        { "tcp://b\xc3\xbc"
          "cher:1",
          8, "xn--" },
        { "tcp://a b:1", 8, "cannot stand in a host name" },
        { "tcp://a@b:1", 8, "user info is not part" },
        { "tcp://user:pw@host:1", 14, "user info is not part" },
        { "tcp://a^b:1", 8, "cannot stand in a host name" },
        { "tcp://a`b:1", 8, "cannot stand in a host name" },
        { "tcp://a{b:1", 8, "cannot stand in a host name" },
        { "tcp://a\nb:1", 8, "tcp://a?b:1: " },
        { "tcp://.:1", 7, "not an IPv4" },
        { "tcp://a..b:1", 9, "label of the host name is empty" },
        { "tcp://.a:1", 7, "label of the host name is empty" },
        { "tcp://a..:1", 9, "label of the host name is empty" },
        { "tcp://a:b:1", 10, "second ':'" },
        { "tcp://::1:80", 8, "second ':'" },
        { "unix://", 8, "path missing" },
        { "unix:///", 9, "path missing" },
        { "unix://?tenant=a", 8, "path missing" },
        { "unix://run/x", 8, "must begin with /" },
        { "unix://localhost/x", 8, "must begin with /" },
        { "unix:///a%00b", 10, "zero byte" },
        { "unix:///a#b", 10, "percent-encoded" },
        { "unix:///a&b", 10, "percent-encoded" },
        { "unix:///a\x7f", 10, "percent-encoded" },
        { "unix:///a%4", 10, "two hexadecimal digits" },
        { "unix:///a%", 10, "two hexadecimal digits" },
        { "unix:///a%g0", 10, "two hexadecimal digits" },
        { "unix:///a%0g", 10, "two hexadecimal digits" },
        { "unix:///a%/0", 10, "two hexadecimal digits" },
        { "unix:///a%@0", 10, "two hexadecimal digits" },
        { "abstract://", 12, "name missing" },
        { "abstract://?tenant=a", 12, "name missing" },
    };

    expect_all_refused(bads, PL_COUNT(bads));
}

Test(address, a_host_that_others_read_differently_is_refused)
{
    static const struct bad bads[] = {
        { "tcp://127.1:1", 7, "not an IPv4" },
        { "tcp://127.0.0.01:1", 7, "not an IPv4" },
        { "tcp://0177.0.0.1:1", 7, "not an IPv4" },
        { "tcp://127.0.0.1.:1", 7, "not an IPv4" },
        { "tcp://256.0.0.1:1", 7, "not an IPv4" },
        { "tcp://1.2.3.4.5:1", 7, "not an IPv4" },
        { "tcp://2130706433:1", 7, "not an IPv4" },
        { "tcp://0x7f000001:1", 7, "neither a name nor" },
        { "tcp://0X7F.1:1", 12, "neither a name nor" },
        { "tcp://127.0.0.0x1:1", 15, "neither a name nor" },
        { "tcp://host.0x:1", 12, "neither a name nor" },
        { "tcp://host.123:1", 12, "neither a name nor" },
        { "tcp://host.1.:1", 12, "neither a name nor" },
        { "tcp://[]:1", 8, "not an IPv6" },
        { "tcp://[::1", 11, "']' missing" },
        { "tcp://[::1?:1", 11, "']' missing" },
        { "tcp://[::1]", 12, "port missing" },
        { "tcp://[::1]80", 12, "only a port may follow" },
        { "tcp://[::1]x:80", 12, "only a port may follow" },
        { "tcp://[1::2::3]:1", 8, "not an IPv6" },
        { "tcp://[1:2:3:4:5:6:7]:1", 8, "not an IPv6" },
        { "tcp://[12345::]:1", 8, "not an IPv6" },
        { "tcp://[127.0.0.1]:1", 8, "not an IPv6" },
        { "tcp://[::ffff:1.2.3.04]:1", 8, "not an IPv6" },
        { "tcp://[0000:0000:0000:0000:0000:0000:0000:0000:0000:0000]:1", 8, "not an IPv6" },
        { "tcp://[%eth0]:1", 8, "not an IPv6" },
        { "tcp://[fe80::1%]:1", 16, "zone" },
        { "tcp://[fe80::1%0]:1", 16, "zone" },
        { "tcp://[fe80::1%01]:1", 16, "zone" },
        { "tcp://[fe80::1%2147483648]:1", 16, "zone" },
        { "tcp://[fe80::1%99999999999]:1", 16, "zone" },
        { "tcp://[fe80::1%..]:1", 16, "zone" },
        { "tcp://[fe80::1%a b]:1", 16, "zone" },
        { "tcp://[fe80::1%a%b]:1", 16, "zone" },
        { "tcp://[fe80::1%sixteencharacter]:1", 16, "zone" },
    };

    expect_all_refused(bads, PL_COUNT(bads));
}

Test(address, a_port_is_a_plain_number_from_1_to_65535)
{
    static const struct bad bads[] = {
        { "tcp://h:0", 9, "1 to 65535" },
        { "tcp://h:65536", 9, "1 to 65535" },
        { "tcp://h:080", 9, "1 to 65535" },
        { "tcp://h:00", 9, "1 to 65535" },
        { "tcp://h:99999999999999999999", 9, "1 to 65535" },
        { "tcp://h:-1", 9, "no number" },
        { "tcp://h:+1", 9, "no number" },
        { "tcp://h:8a", 10, "no number" },
        { "tcp://h: 80", 9, "no number" },
        { "tcp://h:http", 9, "no number" },
        { "tcp://[::1]:0x50", 14, "no number" },
    };
    char text[32];

    for (int32_t port = 1; port <= UINT16_MAX; port += port < 300 || port > 65300 ? 1 : 97) {
        struct pool_address *address;

        snprintf(text, sizeof(text), "tcp://h:%d", port);
        address = parsed(text);
        cr_assert_eq(address->port, port);
        cr_assert_str_eq(pool_address_text(address), text);
        pool_address_unref(address);
    }
    expect_all_refused(bads, PL_COUNT(bads));
}

Test(address, a_wrong_parameter_is_refused_at_its_character)
{
    static const struct bad bads[] = {
        { "tcp://h:1?", 11, "parameter missing" },
        { "tcp://h:1?&tenant=a", 11, "parameter missing" },
        { "tcp://h:1?tenant=a&", 20, "parameter missing" },
        { "tcp://h:1?tenant=a&&rely=dup", 20, "parameter missing" },
        { "tcp://h:1?=a", 11, "unknown parameter" },
        { "tcp://h:1?Tenant=a", 11, "unknown parameter" },
        { "tcp://h:1?tenan=a", 11, "unknown parameter" },
        { "tcp://h:1?%74enant=a", 11, "unknown parameter" },
        { "tcp://h:1?tenant=a&tenants=b", 20, "unknown parameter" },
        { "tcp://h:1?tenant=a&tenant=a", 20, "stands there already" },
        { "tcp://h:1?tenant", 17, "'=' missing" },
        { "tcp://h:1?tenant&rely=dup", 17, "'=' missing" },
        { "tcp://h:1?tenant=a?b", 19, "percent-encoded" },
        { "tcp://h:1?tenant=a#b", 19, "percent-encoded" },
        { "tcp://h:1?tenant=a\tb", 19, "percent-encoded" },
        { "tcp://h:1?tenant=a%zz", 19, "two hexadecimal digits" },
        { "tcp://h:1?tenant=a%0&rely=dup", 19, "two hexadecimal digits" },
        { "tcp://h:1?tenant=a%00", 19, "zero byte" },
        { "abstract://n?tenant=%00", 21, "zero byte" },
    };

    expect_all_refused(bads, PL_COUNT(bads));
}

Test(address, a_parameter_of_another_scheme_is_refused)
{
    static const struct bad bads[] = {
        { "tcp://h:1?policy=first", 11, "several peers" },
        { "tcp://h:1?sni=a", 11, "does not fit the scheme" },
        { "tcp://h:1?alpn=h2", 11, "does not fit the scheme" },
        { "tcp://h:1?starttls=1", 11, "does not fit the scheme" },
        { "unix:///s?sni=a", 11, "does not fit the scheme" },
        { "unix:///s?family=4", 11, "does not fit the scheme" },
        { "unix:///s?bind=eth0", 11, "does not fit the scheme" },
        { "abstract://s?dscp=1", 14, "does not fit the scheme" },
    };

    expect_all_refused(bads, PL_COUNT(bads));
}

Test(address, a_wrong_value_is_refused_where_it_begins)
{
    static const struct bad bads[] = {
        { "tls://h:1?starttls=0", 20, "starttls= is not 1" },
        { "tls://h:1?starttls=", 20, "starttls= is not 1" },
        { "tls://h:1?sni=", 15, "no host name" },
        { "tls://h:1?sni=10.0.0.1", 15, "no host name" },
        { "tls://h:1?sni=a%20b", 15, "no host name" },
        { "tls://h:1?sni=*.a", 15, "no host name" },
        { "tls://h:1?alpn=", 16, "alpn=" },
        { "tls://h:1?alpn=h2,", 16, "alpn=" },
        { "tls://h:1?alpn=,h2", 16, "alpn=" },
        { "tcp://h:1?family=5", 18, "neither 4 nor 6" },
        { "tcp://h:1?family=", 18, "neither 4 nor 6" },
        { "tcp://h:1?family=04", 18, "neither 4 nor 6" },
        { "tcp://h:1?family=4x", 18, "neither 4 nor 6" },
        { "tcp://h:1?dscp=64", 16, "0 to 63" },
        { "tcp://h:1?dscp=-1", 16, "0 to 63" },
        { "tcp://h:1?dscp=007", 16, "0 to 63" },
        { "tcp://h:1?dscp=", 16, "0 to 63" },
        { "tcp://h:1?rely=fast", 16, "unknown quality" },
        { "tcp://h:1?rely=", 16, "unknown quality" },
        { "tcp://h:1?rely=order+", 16, "unknown quality" },
        { "tcp://h:1?rely=31", 16, "unknown quality" },
        { "tcp://h:1?rely=Order", 16, "unknown quality" },
        { "tcp://h:1?bind=", 16, "neither an IP" },
        { "tcp://h:1?bind=127.1", 16, "neither an IP" },
        { "tcp://h:1?bind=..", 16, "neither an IP" },
        { "tcp://h:1?bind=sixteencharacter", 16, "neither an IP" },
        { "tcp://h:1?bind=a/b", 16, "neither an IP" },
        { "tcp://h:1?bind=[::1]", 16, "no IPv6" },
        { "tcp://h:1?bind=1:2", 16, "no IPv6" },
        { "tcp://h:1?bind=fe80::1%2501", 16, "no IPv6" },
    };

    expect_all_refused(bads, PL_COUNT(bads));
}

Test(address, families_that_contradict_each_other_are_refused)
{
    static const struct bad bads[] = {
        { "tcp://127.0.0.1:1?family=6", 26, "contradicts the host" },
        { "tcp://[::1]:1?family=4", 22, "contradicts the host" },
        { "tcp://[::ffff:1.2.3.4]:1?family=4", 33, "contradicts the host" },
        { "tcp://127.0.0.1:1?bind=::1", 24, "another family" },
        { "tcp://[::1]:1?tenant=x&bind=10.0.0.1", 29, "another family" },
        { "tcp://h:1?family=4&bind=::1", 25, "bind= contradicts family=" },
        { "tcp://h:1?bind=10.0.0.1&family=6", 16, "bind= contradicts family=" },
    };

    expect_all_refused(bads, PL_COUNT(bads));
}

Test(address, names_have_the_lengths_of_rfc_1035)
{
    char *label = stretched("tcp://", 'a', 63, ".b:1"),
         *longer = stretched("tcp://", 'a', 64, ".b:1");
    char name[512] = "tcp://", text[512] = "tcp://b";

    expect_canonical(label, label);
    expect_refused(longer, 7 + 63, "63 bytes");
    for (size_t i = 0; i < 126; i++)
        strcat(name, "a.");
    strcat(text, name + strlen("tcp://"));
    strcat(text, "b:1");
    expect_refused(text, 7 + 253, "253 bytes");
    strcat(strcpy(text, name), "b.:1"); /* 253 and the root's dot */
    strcat(name, "b:1");
    expect_canonical(text, name);
    free(longer);
    free(label);
}

Test(address, paths_and_names_of_sockets_have_107_bytes_at_most)
{
    char *path = stretched("unix:///", 'p', 106, ""),
         *longer = stretched("unix:///", 'p', 107, "?tenant=a");
    char *name = stretched("abstract://", 'n', 107, ""),
         *long_name = stretched("abstract://", 'n', 108, "");
    char *encoded = stretched("unix:///", 'p', 105, "%20");

    expect_canonical(path, path);
    expect_canonical(name, name);
    expect_canonical(encoded, encoded);
    expect_refused(longer, 8 + 108, "107 bytes");
    expect_refused(long_name, 12 + 108, "107 bytes");
    free(encoded);
    free(long_name);
    free(name);
    free(longer);
    free(path);
}

Test(address, texts_have_4096_bytes_at_most_given_and_canonical)
{
    const char *before = "tcp://h:1?tenant=";
    size_t room = PL_ADDRESS_TEXT_MAX - strlen(before);
    char *fits = stretched(before, 'a', room, ""), *longer = stretched(before, 'a', room + 1, "");
    char *grows = stretched(before, ' ', room / 3 + 1, ""),
         *grown = stretched(before, ' ', room / 3, "");
    char *alpn = stretched("tls://h:1?alpn=", 'a', 255, ""),
         *long_alpn = stretched("tls://h:1?alpn=h2,", 'a', 256, "");

    expect_canonical(fits, fits);
    expect_canonical(alpn, alpn);
    expect_refused(longer, PL_ADDRESS_TEXT_MAX + 1, "...: longer than 4096");
    expect_refused(grows, strlen(grows) + 1, "in canonical form");
    expect_refused(long_alpn, 16, "alpn=");
    pool_address_unref(parsed(grown));
    free(long_alpn);
    free(alpn);
    free(grown);
    free(grows);
    free(longer);
    free(fits);
}

/* A stream satisfies all qualities, so each of the 32 sums is an address on each scheme. */
Test(address, every_sum_of_qualities_fits_every_scheme)
{
    static const char *const peers[] = { "tcp://h:1", "tls://h:1", "unix:///s", "abstract://s" };
    static const char *const names[] = { "unreliable", "loss", "dup", "order", "contents" };

    for (int32_t mask = 0; mask < 4 * 32; mask++) {
        const char *peer = peers[mask >> 5], *before = "?rely=", *before_sum = "?rely=";
        char text[128], sum[128];
        struct pool_address *address;

        strcpy(text, peer);
        strcpy(sum, peer);
        for (int32_t bit = 0; bit < 5; bit++) {
            if (mask & 16 >> bit) { /* given from large to small, with commas */
                strcat(strcat(text, before), names[4 - bit]);
                before = ",";
            }
            if (mask & 1 << bit) {
                strcat(strcat(sum, before_sum), names[bit]);
                before_sum = "+";
            }
        }
        if ((mask & 31) == 31)
            strcat(strcpy(sum, peer), "?rely=reliable");
        address = parsed(text);
        cr_expect_eq(address->rely, mask & 31);
        cr_expect_str_eq(pool_address_text(address), sum);
        pool_address_unref(address);
    }
}

static unsigned index_of_eth0(const char *name)
{
    return strcmp(name, "eth0") ? 0 : 7;
}

static void expect_peer(const char *text, const void *expected, socklen_t size)
{
    struct pool_address *address = parsed(text);
    struct sockaddr_storage peer;
    socklen_t got;

    cr_assert(pl_address_is_literal(address));
    cr_assert_eq(pl_address_sockaddr(address, &peer, &got), 0, "%s", text);
    cr_expect_eq(got, size, "%s", text);
    cr_expect_arr_eq(&peer, expected, size, "%s", text);
    pool_address_unref(address);
}

Test(address, literals_give_socket_addresses)
{
    struct sockaddr_in ipv4 = { .sin_family = AF_INET, .sin_port = htons(80) };
    struct sockaddr_in6 ipv6 = { .sin6_family = AF_INET6, .sin6_port = htons(80) };
    struct sockaddr_un path = { AF_UNIX, "/run/a b" }, name = { AF_UNIX, "\0a\0b" };
    struct pl_os os = pl_os_real;

    os.interface_index = index_of_eth0;
    pl_os_replace(&os);
    inet_pton(AF_INET, "192.0.2.1", &ipv4.sin_addr);
    inet_pton(AF_INET6, "fe80::1", &ipv6.sin6_addr);
    expect_peer("tcp://192.0.2.1:80", &ipv4, sizeof(ipv4));
    expect_peer("tls://[fe80::1]:80", &ipv6, sizeof(ipv6));
    ipv6.sin6_scope_id = 7;
    expect_peer("tcp://[fe80::1%eth0]:80", &ipv6, sizeof(ipv6));
    ipv6.sin6_scope_id = 25;
    expect_peer("tcp://[fe80::1%25]:80", &ipv6, sizeof(ipv6));
    ipv6.sin6_scope_id = 0;
    inet_pton(AF_INET6, "::ffff:1.2.3.4", &ipv6.sin6_addr);
    expect_peer("tcp://[::ffff:1.2.3.4]:80", &ipv6, sizeof(ipv6));
    expect_peer("unix:///run/a%20b", &path, offsetof(struct sockaddr_un, sun_path) + 9);
    expect_peer("abstract://a%00b", &name, offsetof(struct sockaddr_un, sun_path) + 4);
    pl_os_replace(NULL);
}

Test(address, names_and_unknown_interfaces_give_no_socket_address)
{
    struct pool_address *name = parsed("tcp://h:1"), *zone = parsed("tcp://[fe80::1%nosuchif]:1");
    struct pl_os os = pl_os_real;
    struct sockaddr_storage peer;
    socklen_t size;

    os.interface_index = index_of_eth0;
    pl_os_replace(&os);
    cr_expect_not(pl_address_is_literal(name));
    cr_expect_eq(pl_address_sockaddr(name, &peer, &size), -EDESTADDRREQ);
    cr_expect(pl_address_is_literal(zone));
    cr_expect_eq(pl_address_sockaddr(zone, &peer, &size), -ENODEV);
    pl_os_replace(NULL);
    pool_address_unref(zone);
    pool_address_unref(name);
}

Test(address, bind_gives_an_ip_or_an_interface)
{
    struct pool_address *ipv4 = parsed("tcp://h:1?bind=127.0.0.2&dscp=46&family=4");
    struct pool_address *ipv6 = parsed("tcp://h:1?bind=fe80::1%25eth0"),
                        *device = parsed("tcp://h:1?bind=eth0");
    struct sockaddr_in6 *filled;
    struct pl_os os = pl_os_real;
    struct sockaddr_storage local;
    socklen_t size;

    os.interface_index = index_of_eth0;
    pl_os_replace(&os);
    cr_expect_eq(pl_address_bind_sockaddr(ipv4, AF_INET, &local, &size), 0);
    cr_expect_eq(size, sizeof(struct sockaddr_in));
    cr_expect_eq(((struct sockaddr_in *)&local)->sin_addr.s_addr, htonl(0x7f000002));
    cr_expect_eq(((struct sockaddr_in *)&local)->sin_port, 0);
    cr_expect_eq(pl_address_bind_sockaddr(ipv4, AF_INET6, &local, &size), -EAFNOSUPPORT);
    cr_expect_null(pl_address_bind_interface(ipv4));
    cr_expect_eq(ipv4->dscp, 46);
    cr_expect_eq(ipv4->family, 4);
    cr_expect_eq(pl_address_bind_sockaddr(ipv6, AF_INET6, &local, &size), 0);
    filled = (struct sockaddr_in6 *)&local;
    cr_expect_eq(size, sizeof(*filled));
    cr_expect_eq(filled->sin6_scope_id, 7);
    cr_expect_eq(pl_address_bind_sockaddr(device, AF_INET, &local, &size), 0);
    cr_expect_eq(size, 0);
    cr_expect_str_eq(pl_address_bind_interface(device), "eth0");
    cr_expect_eq(device->dscp, PL_DSCP_NONE);
    pl_os_replace(NULL);
    pool_address_unref(device);
    pool_address_unref(ipv6);
    pool_address_unref(ipv4);
}
