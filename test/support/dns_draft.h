/* dns_draft.h: DNS messages, read and written; for dns.c. */
#ifndef TEST_SUPPORT_DNS_DRAFT_H
#define TEST_SUPPORT_DNS_DRAFT_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define DNS_TYPE_A 1
#define DNS_TYPE_CNAME 5
#define DNS_TYPE_AAAA 28

struct dns_question {
    const unsigned char *message;
    size_t end;                                     /* of the question, in the message */
    char name[256];
    unsigned type;
    int tcp_fd;                                     /* -1: UDP */
    struct sockaddr_in from;
};

/* A message being written. */
struct dns_draft {
    unsigned char *bytes;
    size_t size;
    unsigned answers;
};

/* False: no question for addresses. The message and where it is from are set before. */
bool dns_read_question(struct dns_question *question, size_t size);

/* The question again, as an answer without a record. */
void dns_begin(struct dns_draft *draft, const struct dns_question *question, unsigned code);
void dns_put(struct dns_draft *draft, unsigned value);      /* two bytes */
void dns_put_record_head(struct dns_draft *draft, const char *owner, unsigned type, uint32_t ttl);
void dns_put_address(struct dns_draft *draft, const char *owner, const char *text, uint32_t ttl);
void dns_put_alias(struct dns_draft *draft, const char *owner, const char *alias, uint32_t ttl);
void dns_end(struct dns_draft *draft);

#endif
