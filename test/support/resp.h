/* resp.h: just enough of Redis' protocol (RESP2) to test with a real Redis: asking one command and
 * reading its reply as text, and finding where a message in a stream ends.
 *
 * Commands are sent inline, as one line, so their arguments hold no blanks. */
#ifndef TEST_SUPPORT_RESP_H
#define TEST_SUPPORT_RESP_H

#include <stddef.h>

#include "commpool/pool.h"

#define RESP_TEXT 512 /* a reply as text has fewer bytes than this */

/* Sends one command, printf-like, and reads its reply into `reply`: a status, number or string as
 * it is, "-" and the words for an error, "(nil)", and the parts of an array with blanks between
 * them. 0, or -1 when the connection failed or the reply makes no sense. */
int resp_ask(struct pool_conn *conn, char reply[RESP_TEXT], const char *format, ...)
    __attribute__((format(printf, 3, 4)));
int resp_read(struct pool_conn *conn, char reply[RESP_TEXT]);

/* How many bytes the message takes that `bytes` begins with; 0 when it is not complete yet, -1 when
 * it is none. */
long resp_length(struct pool_bytes bytes);

/* What came in pieces: resp_feed() appends, resp_next() copies the next whole message to `message`,
 * a text of its own; 1, 0 when there is none yet, -1 when what came is no message or too much. */
struct resp_inbox {
    char bytes[16384];
    size_t size;
};

int resp_feed(struct resp_inbox *inbox, struct pool_bytes bytes);
int resp_next(struct resp_inbox *inbox, char message[RESP_TEXT]);

#endif
