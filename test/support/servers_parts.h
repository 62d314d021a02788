/* servers_parts.h: between servers.c, which starts and ends servers, and servers_prepare.c, which
 * knows how each kind is told what to do. */
#ifndef TEST_SUPPORT_SERVERS_PARTS_H
#define TEST_SUPPORT_SERVERS_PARTS_H

#include <stdbool.h>
#include <sys/types.h>

#include "support/servers.h"

#define SERVER_ARGUMENTS 32

struct server;

/* Fills in the arguments for the port, and writes what files the server needs. */
typedef bool prepare_fn(struct server *server);

struct server {
    const char *name;
    prepare_fn *prepare;
    char program[256], directory[96], address[64], unix_address[128], password[128];
    char protocols[32];                 /* of TLS, as nginx writes them */
    char proof[128];            /* a file that is there once it listens, if it makes one */
    const char *proof_word;     /* and has this in it, unless NULL */
    const struct credential *credential;            /* NULL: it speaks no TLS */
    uid_t uid;                                      /* it becomes that user; 0: stays who we are */
    gid_t gid;
    int end_signal;
    bool has_input;                                 /* server_say() reaches it */
    int input;                                      /* our end of it; -1: none */
    unsigned tickets;                               /* the rest is for openssl */
    bool reverses;
    char texts[SERVER_ARGUMENTS][160];
    char *arguments[SERVER_ARGUMENTS + 1];
    unsigned argument_count;
    int port;
    pid_t pid;                                      /* 0: down */
};

/* One more argument. */
void server_argue(struct server *server, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Runs the program with the arguments it has; false: there is no process. */
bool server_launch(struct server *server);

/* Writes the files that a server of the kind needs, and its arguments, for server->port. */
bool server_prepare_redis(struct server *server);
bool server_prepare_nginx(struct server *server);
bool server_prepare_memcached(struct server *server);
bool server_prepare_dnsmasq(struct server *server);
bool server_prepare_postgres(struct server *server);
bool server_prepare_openssl(struct server *server);

#endif
