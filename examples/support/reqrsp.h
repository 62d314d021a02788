/* reqrsp.h: a codec of one's own: the wire format of a Go package that carries queries.
 *
 *     "REQ" or "RSP" | id, 4 bytes | size of the body, 4 bytes | body | CR CR LF
 *
 * Numbers are big-endian. The package's own receiver looks for CR CR LF instead of counting, so a
 * body or an id that has these bytes in it never arrives there; this one goes by the size, and uses
 * no such id, since the peer may be that package. It keeps no state and names no connection. */
#ifndef EXAMPLES_REQRSP_H
#define EXAMPLES_REQRSP_H

#include <commpool/codec.h>

/* It is constant and there for as long as the program. */
const struct pool_codec *reqrsp_codec(void);

#endif
