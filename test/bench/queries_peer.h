/* queries_peer.h: the other end of queries: length-prefixed frames, as pool_codec_length() has
 * them.
 *
 * One thread serves all connections. It reads as much as there is, and answers all whole requests
 * of it with one send, each with its own body.
 */
#ifndef TEST_BENCH_QUERIES_PEER_H
#define TEST_BENCH_QUERIES_PEER_H

#include "support/frames.h"

#define FRAME_MOST 256u /* bytes of the largest one that the peer takes */

/* For echo_start_as(): one answers requests, the other one reads and says nothing. */
void answer_frames(int fd);
void answer_nothing(int fd);

/* Writes one request, and answers its bytes. */
size_t frame_request(char *to, uint32_t id, const void *body, size_t size);

/* The bytes of the frame at the start of these; 0: there is no whole one. Gives up when it is of
 * another kind. */
size_t frame_find(const char *bytes, size_t size, enum frame_kind kind);

#endif
