/* servers.h: real servers for tests: Redis, nginx, memcached, dnsmasq, PostgreSQL and OpenSSL's,
 * each on a free port of 127.0.0.1 in a directory of its own. They come from the system's packages;
 * where one is missing the test is skipped:
 *
 *     struct server *redis = redis_start(NULL);
 *
 *     if (!redis)
 *         cr_skip("%s", server_why_not());
 *
 * A server shares no descriptor with the test and dies with the thread that started it
 * (PR_SET_PDEATHSIG looks at threads). Starting returns when it accepts connections. Any one
 * thread at a time may use a server. */
#ifndef TEST_SUPPORT_SERVERS_H
#define TEST_SUPPORT_SERVERS_H

#include <stdbool.h>

#include "support/authority.h"

/* Of nginx: "/" and "/small.txt"; "/kilo.txt" is 1,024 times 'k', and "/packed/kilo.txt" comes in
 * chunks for who accepts gzip; "/none" is 204; "/echo/..." repeats its path, and so does
 * "/few/...", where a connection ends after so many requests. */
#define NGINX_SMALL "hello from nginx\n"
#define NGINX_FEW 50

struct server;

/* Each answers NULL, and server_why_not() says why, when the server is not installed or does not
 * start. End them with server_stop(). Redis keeps nothing on disk, has a unix socket too, allows
 * DEBUG, and wants `password` unless that is NULL. */
struct server *redis_start(const char *password);
struct server *nginx_start(void);
struct server *memcached_start(void);

/* Knows what is under example by heart, and asks nobody:
 *     db.example    10.0.0.1 and 2001:db8::1, good for 7 seconds
 *     v6.example    2001:db8::6 alone, for 7 seconds
 *     www.example   an alias of alias.example, and that one of db.example, for 3 seconds
 *     many.example  10.1.0.1 to 10.1.0.60, more than fit into a datagram */
struct server *dnsmasq_start(void);

/* The same over TLS alone, at tls://127.0.0.1:port: with this certificate, and nginx with TLS 1.2
 * or 1.3 and nothing else. */
struct server *redis_start_secure(const struct credential *credential);
struct server *nginx_start_secure(const struct credential *credential, bool is_12);

/* It lets the user "postgres" in over TLS, and nobody in the clear. With NULL it has no TLS, and
 * lets nobody in. Only a start reads the credential. Root runs it as the user "postgres". */
struct server *postgres_start(const struct credential *credential);

/* OpenSSL's own server: TLS 1.3 alone, and so many tickets for whoever shakes hands in full. It
 * serves one connection after the other. One that reverses answers each line with its letters in
 * reverse order; else what it hears is in its log, and server_say() speaks for it. Its log has a
 * line for each message of a handshake. */
struct server *openssl_start(const struct credential *credential, unsigned tickets, bool reverses);

/* To the connection that it has; false: it is down. A line of one letter is an order to it: K has
 * it send a KeyUpdate that asks for one, k one that does not. Wait until it was obeyed before the
 * next word: what it reads with it is lost. */
#define OPENSSL_SENT ">>> TLS 1.3, Handshake [length 0"
#define OPENSSL_GOT "<<< TLS 1.3, Handshake [length 0"
bool server_say(struct server *server, const char *text);

/* How many lines of its log begin with `head` and have `text` in them; and the wait for it. */
unsigned server_log_count(const struct server *server, const char *head, const char *text);
bool server_wait_log(const struct server *server, const char *head, const char *text,
                     unsigned count);

/* Why this thread's last start answered NULL. */
const char *server_why_not(void);

int server_port(const struct server *server);
/* tcp://127.0.0.1:port; tls://127.0.0.1:port?starttls=1 of PostgreSQL */
const char *server_address(const struct server *server);
const char *server_unix_address(const struct server *server);   /* of Redis, else NULL */
const char *server_directory(const struct server *server);          /* its log is there, in "log" */
int server_pid(const struct server *server);

/* Kills it, and starts it again at the same port with nothing in memory. Up and restart answer
 * false when it does not come up. */
void server_down(struct server *server);
bool server_up(struct server *server);
bool server_restart(struct server *server);

/* Kills it and removes its directory, and leaves no shared memory behind. NULL is fine. */
void server_stop(struct server *server);

#endif
