/* dns.h: a DNS server of the tests' own, over UDP and TCP on one port of 127.0.0.1, made to
 * misbehave on demand. One thread of the test process serves it.
 *
 *     struct dns *dns = dns_start();
 *     DNS_SAY(dns, "db.example", .addresses = { "10.0.0.1", "2001:db8::1" }, .ttl = 60);
 *     ... ask dns_server(dns) ...
 *     cr_expect_eq(dns_count(dns, "db.example", 4), 1);
 *     dns_stop(dns);
 *
 * It is not part of the library and does not go through the door. What it was told of no name does
 * not exist (NXDOMAIN). Any thread may call every function. Delays are never short; under load they
 * may be long.
 */
#ifndef TEST_SUPPORT_DNS_H
#define TEST_SUPPORT_DNS_H

#include <stdbool.h>
#include <stdint.h>

enum dns_trick {
    DNS_PLAIN,              /* the addresses of the family; none of it: no error, no record */
    DNS_SILENT,
    DNS_NXDOMAIN,
    DNS_EMPTY,
    DNS_SERVFAIL,
    DNS_TRUNCATED,          /* by UDP nothing but the mark; the records by TCP */
    DNS_DRIP,               /* the same, by TCP one byte each millisecond */
    DNS_WRONG_ID,           /* a lie (6.6.6.6) with another id, then the truth */
    DNS_WRONG_QUESTION,     /* a lie to another question, then the truth */
    DNS_NO_BYTES,           /* a datagram without a byte, then the truth */
    DNS_GARBLED,            /* the header, and then no sense; by TCP, too */
    DNS_LOOP,               /* an alias of an alias of itself */
};

#define DNS_MOST_ADDRESSES 8

struct dns_rule {
    const char *addresses[DNS_MOST_ADDRESSES];      /* of both families; up to the first NULL */
    unsigned made_up;                   /* so many IPv4 addresses more, 10.1.0.0 and on */
    uint32_t ttl;
    unsigned aliases;                   /* CNAME records on the way to the addresses */
    uint32_t alias_ttl;
    enum dns_trick trick;
    int trick_family;                   /* 4, 6: it is played on these questions only */
    unsigned delay_ms, delay4_ms, delay6_ms;        /* the last two for one family more */
};

struct dns;

struct dns *dns_start(void);                        /* NULL with errno */
void dns_stop(struct dns *dns);                     /* NULL is fine */
const char *dns_server(const struct dns *dns);      /* "127.0.0.1:port" */

/* From now on, instead of what was said of the name before. */
void dns_say(struct dns *dns, const char *name, const struct dns_rule *rule);
#define DNS_SAY(dns, name, ...) dns_say((dns), (name), &(struct dns_rule){ __VA_ARGS__ })

/* Questions that came for a name, by UDP and TCP together; family 0: for both. */
unsigned dns_count(struct dns *dns, const char *name, int family);
unsigned dns_count_tcp(struct dns *dns);
/* False: `within_ms` passed in vain. */
bool dns_wait_count(struct dns *dns, const char *name, int family, unsigned least,
                    unsigned within_ms);

#endif
