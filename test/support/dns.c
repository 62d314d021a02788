/* dns.c: see dns.h. One thread polls the UDP socket, the TCP listener, their connections and a wake
 * descriptor; what is answered later stands in a list. */
#include "support/dns.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "support/dns_draft.h"
#include "support/tests.h"

#define MOST_NAMES 128
#define MOST_LINKS 16
#define MOST_MESSAGE 65536
#define LIE_LEAD_MS 30

struct name {
    char text[256];
    struct dns_rule rule;
    char addresses[DNS_MOST_ADDRESSES][64];
    bool is_known;
    unsigned counts[2];                             /* of A, of AAAA */
};

struct link {
    int fd;                                         /* -1: free */
    unsigned char got[1024];
    size_t size;
};

/* A message to be sent, or the next byte of one. */
struct reply {
    struct reply *next;
    uint64_t due_ms;
    int fd;                                         /* of a link; -1: by UDP */
    struct sockaddr_in to;
    bool is_drip;
    size_t size, sent;
    unsigned char bytes[];
};

struct dns {
    int udp_fd, tcp_fd, wake_fd;
    char server[32];
    pthread_t thread;
    pthread_mutex_t lock;                           /* of what follows */
    bool is_stopping;
    struct name names[MOST_NAMES];
    unsigned name_count, tcp_count;
    /* the thread's own */
    struct link links[MOST_LINKS];
    struct reply *replies;
};

/* ---- records */

static void put_made_up(struct dns_draft *draft, const char *owner, const struct dns_rule *rule)
{
    for (unsigned i = 0; i < rule->made_up; i++) {
        char text[32];

        snprintf(text, sizeof(text), "10.1.%u.%u", i / 256, i % 256);
        dns_put_address(draft, owner, text, rule->ttl);
    }
}

static void put_records(struct dns_draft *draft, const struct dns_question *question,
                        const struct name *name)
{
    const struct dns_rule *rule = &name->rule;
    char owner[256], alias[256];

    snprintf(owner, sizeof(owner), "%s", question->name);
    for (unsigned i = 0; i < rule->aliases; i++) {
        snprintf(alias, sizeof(alias), "alias%u.example", i);
        dns_put_alias(draft, owner, alias, rule->alias_ttl);
        memcpy(owner, alias, sizeof(owner));
    }
    for (unsigned i = 0; i < DNS_MOST_ADDRESSES && *name->addresses[i]; i++) {
        if ((strchr(name->addresses[i], ':') != NULL) == (question->type == DNS_TYPE_AAAA))
            dns_put_address(draft, owner, name->addresses[i], rule->ttl);
    }
    if (question->type == DNS_TYPE_A)
        put_made_up(draft, owner, rule);
}

/* ---- replies */

static void send_later(struct dns *dns, const struct dns_question *question,
                       const struct dns_draft *draft, unsigned delay_ms, bool is_drip)
{
    size_t head = question->tcp_fd < 0 ? 0 : 2;
    struct reply *reply = calloc(1, sizeof(*reply) + draft->size + head), **place = &dns->replies;

    if (!reply)
        abort();
    reply->due_ms = now_ms() + delay_ms;
    reply->fd = question->tcp_fd;
    reply->to = question->from;
    reply->is_drip = is_drip;
    reply->size = draft->size + head;
    if (head) {
        reply->bytes[0] = (unsigned char)(draft->size >> 8);
        reply->bytes[1] = (unsigned char)draft->size;
    }
    memcpy(reply->bytes + head, draft->bytes, draft->size);
    while (*place)
        place = &(*place)->next;
    *place = reply;
}

/* True: there is nothing more of it to send. */
static bool send_now(struct dns *dns, struct reply *reply, uint64_t now)
{
    size_t size = reply->is_drip ? 1 : reply->size - reply->sent;
    ssize_t sent;

    if (reply->fd < 0) {
        sendto(dns->udp_fd, reply->bytes, reply->size, 0, (struct sockaddr *)&reply->to,
               sizeof(reply->to));
        return true;
    }
    sent = send(reply->fd, reply->bytes + reply->sent, size, MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN)
        return true;
    reply->sent += sent > 0 ? (size_t)sent : 0;
    reply->due_ms = now + 1;
    return reply->sent == reply->size;
}

/* Messages on one stream must not be mixed. */
static bool is_first_on_its_link(const struct dns *dns, const struct reply *reply)
{
    const struct reply *first = dns->replies;

    while (first->fd != reply->fd)
        first = first->next;
    return reply->fd < 0 || first == reply;
}

static void send_due(struct dns *dns)
{
    struct reply **place = &dns->replies;
    uint64_t now = now_ms();

    while (*place) {
        struct reply *reply = *place;

        if (reply->due_ms <= now && is_first_on_its_link(dns, reply) &&
            send_now(dns, reply, now)) {
            *place = reply->next;
            free(reply);
        } else {
            place = &reply->next;
        }
    }
}

static void forget_replies(struct dns *dns, int fd)
{
    struct reply **place = &dns->replies;

    while (*place) {
        struct reply *reply = *place;

        if (reply->fd == fd) {
            *place = reply->next;
            free(reply);
        } else {
            place = &reply->next;
        }
    }
}

/* ---- what is answered */

static void lie(struct dns *dns, const struct dns_question *question, struct dns_draft *draft,
                enum dns_trick trick, unsigned delay_ms)
{
    dns_begin(draft, question, 0);
    dns_put_address(draft, question->name,
                    question->type == DNS_TYPE_A ? "6.6.6.6" : "2001:db8::666", 60);
    dns_end(draft);
    if (trick == DNS_WRONG_ID)
        draft->bytes[0] ^= 0x55;
    if (trick == DNS_WRONG_QUESTION)
        draft->bytes[13] ^= 1;                      /* the first letter of the name */
    if (trick == DNS_NO_BYTES)
        draft->size = 0;
    send_later(dns, question, draft, delay_ms, false);
}

static void put_loop(struct dns_draft *draft, const struct dns_question *question)
{
    dns_put_alias(draft, question->name, "loop.example", 60);
    dns_put_alias(draft, "loop.example", question->name, 60);
}

static unsigned code_of(enum dns_trick trick)
{
    return trick == DNS_NXDOMAIN ? 3 : trick == DNS_SERVFAIL ? 2 : 0;
}

static bool has_records(enum dns_trick trick)
{
    return trick != DNS_NXDOMAIN && trick != DNS_SERVFAIL && trick != DNS_EMPTY &&
           trick != DNS_LOOP && trick != DNS_GARBLED;
}

static void reply_to(struct dns *dns, const struct dns_question *question, const struct name *name)
{
    static unsigned char bytes[MOST_MESSAGE];
    struct dns_draft draft = { .bytes = bytes };
    const struct dns_rule *rule = &name->rule;
    int family = question->type == DNS_TYPE_A ? 4 : 6;
    bool is_udp = question->tcp_fd < 0;
    enum dns_trick trick =
        !rule->trick_family || rule->trick_family == family ? rule->trick : DNS_PLAIN;
    unsigned delay_ms = rule->delay_ms + (family == 4 ? rule->delay4_ms : rule->delay6_ms);

    if (!name->is_known)
        trick = DNS_NXDOMAIN;
    if (trick == DNS_SILENT)
        return;
    if (trick == DNS_WRONG_ID || trick == DNS_WRONG_QUESTION || trick == DNS_NO_BYTES) {
        lie(dns, question, &draft, trick, delay_ms);
        delay_ms += LIE_LEAD_MS;
    }
    dns_begin(&draft, question, code_of(trick));
    if (has_records(trick))
        put_records(&draft, question, name);
    if (trick == DNS_LOOP)
        put_loop(&draft, question);
    if (trick == DNS_GARBLED) {
        dns_put_record_head(&draft, question->name, question->type, 60);
        dns_put(&draft, 60000);
    }
    dns_end(&draft);
    if (is_udp && (trick == DNS_TRUNCATED || trick == DNS_DRIP || draft.size > 512)) {
        dns_begin(&draft, question, 0);
        draft.bytes[2] |= 2;
        dns_end(&draft);
    }
    send_later(dns, question, &draft, delay_ms, trick == DNS_DRIP && !is_udp);
}

/* ---- questions */

/* Locked. */
static struct name *name_of(struct dns *dns, const char *text)
{
    struct name *name;

    for (unsigned i = 0; i < dns->name_count; i++) {
        if (!strcasecmp(dns->names[i].text, text))
            return &dns->names[i];
    }
    if (dns->name_count == MOST_NAMES)
        return &dns->names[MOST_NAMES - 1];         /* shared by all that are too many */
    name = &dns->names[dns->name_count++];
    snprintf(name->text, sizeof(name->text), "%s", text);
    return name;
}

static void take_question(struct dns *dns, struct dns_question *question, size_t size)
{
    struct name *name, copy;

    if (!dns_read_question(question, size))
        return;
    pthread_mutex_lock(&dns->lock);
    name = name_of(dns, question->name);
    name->counts[question->type == DNS_TYPE_AAAA]++;
    dns->tcp_count += question->tcp_fd >= 0;
    copy = *name;
    pthread_mutex_unlock(&dns->lock);
    reply_to(dns, question, &copy);
}

static void read_udp(struct dns *dns)
{
    unsigned char bytes[1024];
    struct dns_question question = { .message = bytes, .tcp_fd = -1 };
    socklen_t size = sizeof(question.from);
    ssize_t got = recvfrom(dns->udp_fd, bytes, sizeof(bytes), MSG_DONTWAIT,
                           (struct sockaddr *)&question.from, &size);

    if (got > 0)
        take_question(dns, &question, (size_t)got);
}

static void read_tcp(struct dns *dns, struct link *link)
{
    ssize_t got = recv(link->fd, link->got + link->size, sizeof(link->got) - link->size,
                       MSG_DONTWAIT);

    if (got < 0 && errno == EAGAIN)
        return;
    if (got <= 0) {
        forget_replies(dns, link->fd);
        close(link->fd);
        link->fd = -1;
        return;
    }
    link->size += (size_t)got;
    while (link->size >= 2) {
        size_t size = (size_t)link->got[0] << 8 | link->got[1];
        struct dns_question question = { .message = link->got + 2, .tcp_fd = link->fd };

        if (link->size < size + 2)
            break;
        take_question(dns, &question, size);
        link->size -= size + 2;
        memmove(link->got, link->got + size + 2, link->size);
    }
}

static void accept_link(struct dns *dns)
{
    int fd = accept4(dns->tcp_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

    for (unsigned i = 0; fd >= 0 && i < MOST_LINKS; i++) {
        if (dns->links[i].fd < 0) {
            dns->links[i] = (struct link){ .fd = fd };
            return;
        }
    }
    if (fd >= 0)
        close(fd);
}

/* ---- the thread */

static int wait_ms(const struct dns *dns)
{
    uint64_t now = now_ms();
    int left = -1;

    for (const struct reply *reply = dns->replies; reply; reply = reply->next) {
        int until = reply->due_ms > now ? (int)(reply->due_ms - now) : 0;

        left = left < 0 || until < left ? until : left;
    }
    return left;
}

static bool is_to_stop(struct dns *dns)
{
    bool is_stopping;

    pthread_mutex_lock(&dns->lock);
    is_stopping = dns->is_stopping;
    pthread_mutex_unlock(&dns->lock);
    return is_stopping;
}

static void *serve(void *argument)
{
    struct dns *dns = argument;
    struct pollfd polled[3 + MOST_LINKS];

    while (!is_to_stop(dns)) {
        polled[0] = (struct pollfd){ .fd = dns->udp_fd, .events = POLLIN };
        polled[1] = (struct pollfd){ .fd = dns->tcp_fd, .events = POLLIN };
        polled[2] = (struct pollfd){ .fd = dns->wake_fd, .events = POLLIN };
        for (unsigned i = 0; i < MOST_LINKS; i++)
            polled[3 + i] = (struct pollfd){ .fd = dns->links[i].fd, .events = POLLIN };
        poll(polled, 3 + MOST_LINKS, wait_ms(dns));
        send_due(dns);
        if (polled[0].revents)
            read_udp(dns);
        for (unsigned i = 0; i < MOST_LINKS; i++) {
            if (polled[3 + i].revents)
                read_tcp(dns, &dns->links[i]);
        }
        if (polled[1].revents)
            accept_link(dns);
        send_due(dns);
    }
    return NULL;
}

static int bind_both(struct dns *dns)
{
    struct sockaddr_in place = { .sin_family = AF_INET };
    socklen_t size = sizeof(place);

    place.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (bind(dns->tcp_fd, (struct sockaddr *)&place, size) < 0 || listen(dns->tcp_fd, 16) < 0 ||
        getsockname(dns->tcp_fd, (struct sockaddr *)&place, &size) < 0 ||
        bind(dns->udp_fd, (struct sockaddr *)&place, size) < 0)
        return -1;
    snprintf(dns->server, sizeof(dns->server), "127.0.0.1:%d", ntohs(place.sin_port));
    return 0;
}

static void free_dns(struct dns *dns)
{
    int fds[] = { dns->udp_fd, dns->tcp_fd, dns->wake_fd };

    for (unsigned i = 0; i < 3; i++) {
        if (fds[i] >= 0)
            close(fds[i]);
    }
    while (dns->replies) {
        struct reply *reply = dns->replies;

        dns->replies = reply->next;
        free(reply);
    }
    for (unsigned i = 0; i < MOST_LINKS; i++) {
        if (dns->links[i].fd >= 0)
            close(dns->links[i].fd);
    }
    pthread_mutex_destroy(&dns->lock);
    free(dns);
}

struct dns *dns_start(void)
{
    struct dns *dns = calloc(1, sizeof(*dns));

    if (!dns)
        return NULL;
    pthread_mutex_init(&dns->lock, NULL);
    for (unsigned i = 0; i < MOST_LINKS; i++)
        dns->links[i].fd = -1;
    dns->udp_fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    dns->tcp_fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    dns->wake_fd = eventfd(0, EFD_CLOEXEC);
    if (bind_both(dns) < 0 || pthread_create(&dns->thread, NULL, serve, dns)) {
        free_dns(dns);
        return NULL;
    }
    return dns;
}

void dns_stop(struct dns *dns)
{
    uint64_t one = 1;

    if (!dns)
        return;
    pthread_mutex_lock(&dns->lock);
    dns->is_stopping = true;
    pthread_mutex_unlock(&dns->lock);
    if (write(dns->wake_fd, &one, sizeof(one)) < 0)
        abort();
    pthread_join(dns->thread, NULL);
    free_dns(dns);
}

const char *dns_server(const struct dns *dns)
{
    return dns->server;
}

void dns_say(struct dns *dns, const char *text, const struct dns_rule *rule)
{
    struct name *name;

    pthread_mutex_lock(&dns->lock);
    name = name_of(dns, text);
    name->rule = *rule;
    name->is_known = true;
    memset(name->addresses, 0, sizeof(name->addresses));
    for (unsigned i = 0; i < DNS_MOST_ADDRESSES && rule->addresses[i]; i++)
        snprintf(name->addresses[i], sizeof(name->addresses[i]), "%s", rule->addresses[i]);
    pthread_mutex_unlock(&dns->lock);
}

unsigned dns_count(struct dns *dns, const char *text, int family)
{
    const struct name *name;
    unsigned count;

    pthread_mutex_lock(&dns->lock);
    name = name_of(dns, text);
    count = (family != 6 ? name->counts[0] : 0) + (family != 4 ? name->counts[1] : 0);
    pthread_mutex_unlock(&dns->lock);
    return count;
}

unsigned dns_count_tcp(struct dns *dns)
{
    unsigned count;

    pthread_mutex_lock(&dns->lock);
    count = dns->tcp_count;
    pthread_mutex_unlock(&dns->lock);
    return count;
}

struct count_wait {
    struct dns *dns;
    const char *name;
    int family;
    unsigned least;
};

static bool has_come(void *argument)
{
    const struct count_wait *wait = argument;

    return dns_count(wait->dns, wait->name, wait->family) >= wait->least;
}

bool dns_wait_count(struct dns *dns, const char *name, int family, unsigned least,
                    unsigned within_ms)
{
    struct count_wait wait = { dns, name, family, least };

    return wait_until(has_come, &wait, within_ms);
}
