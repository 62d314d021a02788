/* sql.h: just enough of PostgreSQL's protocol (version 3) to test with a real PostgreSQL: asking
 * for TLS, the start of a session, and one query with its answer as text. Only the public API
 * stands below it.
 *
 * Sessions are those of the user "postgres", and trusted: none needs a password. */
#ifndef TEST_SUPPORT_SQL_H
#define TEST_SUPPORT_SQL_H

#include "commpool/pool.h"

#define SQL_TEXT 512 /* an answer as text has fewer bytes than this */
#define SQL_NO_TLS 42 /* what sql_prepare() answers when the server has none */
#define SQL_NO_TLS_STATUS POOL_E_ACCESS /* and the hook */

/* A pool_use_fn for `prepare`: TLS, and a session in it. */
int sql_prepare(struct pool_conn *conn, void *user);

/* A pool_new_connection_fn: the same, event by event. The server's greeting is read in it, too. */
int sql_on_new_connection(struct pool_conn *conn, struct pool_actor *actor, void *user);

/* Asks one query, printf-like, and reads up to the server's being ready: the values, with blanks
 * between them, or "-" and the words of an error. 0 when the connection may be lent again after
 * it, 1 when it is in a transaction, -1 when it failed or makes no sense. */
int sql_ask(struct pool_conn *conn, char answer[SQL_TEXT], const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#endif
