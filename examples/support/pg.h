/* pg.h: the part of PostgreSQL's protocol (version 3) that the example needs: asking for TLS, the
 * start of a session, and simple queries.
 *
 * Messages are a letter, a length that counts itself, and a body. Whatever was asked, the server
 * ends its answer with ReadyForQuery, and only then is the connection anybody's again. */
#ifndef EXAMPLES_PG_H
#define EXAMPLES_PG_H

#include <commpool/pool.h>
#include <stdint.h>

enum { PG_TEXT = 256 };

/* One message; after the body, which is cut at that size, stands a zero byte. */
struct pg_message {
    char kind;
    uint32_t size; /* of the body as it is kept */
    char body[PG_TEXT];
};

/* What an answer came to: the first column of its last row, or the server's words for an error. */
struct pg_answer {
    int is_error;
    char text[PG_TEXT];
};

/* Asks whether the server speaks TLS. Answers 'S' for yes, 'N' for no, any other letter when this
 * is no such server, -1 when the connection failed. */
int pg_ask_for_tls(struct pool_conn *conn);

/* Begins a session as `user` in `database`. 0, or -1 with the reason in *answer, where it is not
 * the connection's own failure. */
int pg_begin(struct pool_conn *conn, const char *user, const char *database,
             struct pg_answer *answer);

/* One query, and its answer to the end. 0: the connection is clean, also after an error that the
 * server told; 1: it is within a transaction, and must not be lent to anybody else; -1: it
 * failed. */
int pg_query(struct pool_conn *conn, const char *query, struct pg_answer *answer);

#endif
