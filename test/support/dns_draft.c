/* dns_draft.c: see dns_draft.h. Names are written in full. */
#include "support/dns_draft.h"

#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>

void dns_put(struct dns_draft *draft, unsigned value)
{
    draft->bytes[draft->size++] = (unsigned char)(value >> 8);
    draft->bytes[draft->size++] = (unsigned char)value;
}

static void put_name(struct dns_draft *draft, const char *name)
{
    while (*name) {
        size_t length = strcspn(name, ".");

        draft->bytes[draft->size++] = (unsigned char)length;
        memcpy(draft->bytes + draft->size, name, length);
        draft->size += length;
        name += length + (name[length] == '.');
    }
    draft->bytes[draft->size++] = 0;
}

void dns_put_record_head(struct dns_draft *draft, const char *owner, unsigned type, uint32_t ttl)
{
    put_name(draft, owner);
    dns_put(draft, type);
    dns_put(draft, 1);
    dns_put(draft, ttl >> 16);
    dns_put(draft, ttl & 0xffff);
    draft->answers++;
}

void dns_put_address(struct dns_draft *draft, const char *owner, const char *text, uint32_t ttl)
{
    unsigned char ip[16];
    bool is_ipv6 = strchr(text, ':') != NULL;
    unsigned size = is_ipv6 ? 16 : 4;

    if (inet_pton(is_ipv6 ? AF_INET6 : AF_INET, text, ip) != 1)
        abort();
    dns_put_record_head(draft, owner, is_ipv6 ? DNS_TYPE_AAAA : DNS_TYPE_A, ttl);
    dns_put(draft, size);
    memcpy(draft->bytes + draft->size, ip, size);
    draft->size += size;
}

void dns_put_alias(struct dns_draft *draft, const char *owner, const char *alias, uint32_t ttl)
{
    size_t place;

    dns_put_record_head(draft, owner, DNS_TYPE_CNAME, ttl);
    place = draft->size;
    draft->size += 2;
    put_name(draft, alias);
    draft->bytes[place] = (unsigned char)((draft->size - place - 2) >> 8);
    draft->bytes[place + 1] = (unsigned char)(draft->size - place - 2);
}

void dns_begin(struct dns_draft *draft, const struct dns_question *question, unsigned code)
{
    memcpy(draft->bytes, question->message, question->end);
    draft->bytes[2] = 0x81;
    draft->bytes[3] = (unsigned char)(0x80 | code);
    memset(draft->bytes + 6, 0, 6);
    draft->size = question->end;
    draft->answers = 0;
}

void dns_end(struct dns_draft *draft)
{
    draft->bytes[6] = (unsigned char)(draft->answers >> 8);
    draft->bytes[7] = (unsigned char)draft->answers;
}

bool dns_read_question(struct dns_question *question, size_t size)
{
    size_t at = 12, length = 0;

    if (size < 17)
        return false;
    while (at < size && question->message[at]) {
        unsigned label = question->message[at++];

        if (label > 63 || at + label >= size || length + label + 2 > sizeof(question->name))
            return false;
        if (length)
            question->name[length++] = '.';
        memcpy(question->name + length, question->message + at, label);
        length += label;
        at += label;
    }
    question->name[length] = '\0';
    question->end = at + 5;
    if (question->end > size)
        return false;
    question->type = question->message[at + 2];
    return question->type == DNS_TYPE_A || question->type == DNS_TYPE_AAAA;
}
