/* fuzz_codec.c: any bytes for any codec. Fed in every way they must give the same, within the
 * contract and the memory that fed.h checks; written as a request, they are taken or refused, and
 * nothing behind them is looked at.
 *
 * An input is the number of a codec, the number of one of its hints, a seed for the splits, how it
 * is fed - a byte each, digits are themselves - and the bytes.
 *
 * Built for libFuzzer, or with FUZZ_MAIN as a plain program: see plain.h. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/compiler.h"
#include "fuzz/plain.h"
#include "wire/fed.h"
#include "wire/http.h"
#include "wire/memcached.h"
#include "wire/resp.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define HEAD 4u
#define REPLIES 64u /* behind them the hint is 0 */

/* A codec keeps its number: the files of the corpus begin with it. */
static const struct row {
    const struct pool_codec *(*codec)(void);
    uint64_t hints[16];
    const char *words[32]; /* what it is made of; the last one is NULL */
} rows[] = {
    { pool_codec_length,
      { 0 },
      { "\001", "\002", "\003", "\004", "\012", "\377\377\377\377", "\r\r\n", "body", NULL } },
    { pool_codec_line, { 0 }, { "\n", "\r\n", "\r", "\n\n", "line", NULL } },
    { pool_codec_memcached,
      { 0, PL_MEMCACHED_VALUES, PL_MEMCACHED_STORED, PL_MEMCACHED_STATS, PL_MEMCACHED_META,
        PL_MEMCACHED_BATCH, PL_MEMCACHED_BATCH | PL_MEMCACHED_DATA,
        PL_MEMCACHED_STORED | PL_MEMCACHED_DATA | PL_MEMCACHED_VALUES, PL_MEMCACHED_SHAPES,
        PL_MEMCACHED_NUMBER, UINT64_MAX },
      { "\r\n",      "END\r\n",  "VALUE a 0 1\r\n",
        "x\r\n",     "STORED",   "NOT_FOUND\r\n",
        "STAT a b",  "VA 3\r\n", "HD\r\n",
        "MN\r\n",    "EN\r\n",   "ERROR\r\n",
        "CLIENT_",   " ",        "2147483647",
        "get a\r\n", "set a 0 ", "noreply",
        " q",        "mn\r\n",   "99999999999999999999",
        "SERVER_",   NULL } },
    { pool_codec_resp,
      { PL_RESP_ANY, PL_RESP_SUBSCRIBE, PL_RESP_PSUBSCRIBE, PL_RESP_SSUBSCRIBE, PL_RESP_UNSUBSCRIBE,
        PL_RESP_PUNSUBSCRIBE, PL_RESP_QUIT, UINT64_MAX },
      { "\r\n",
        "*1\r\n",
        "$-1\r\n",
        "$1\r\na",
        "|0\r\n",
        "|1\r\n",
        "%1\r\n",
        ">2\r\n",
        "~0\r\n",
        "_\r\n",
        "#t\r\n",
        ",1.5e3\r\n",
        "(-1\r\n",
        "=4\r\n",
        "txt:",
        "!",
        ":-",
        "+subscribe\r\n",
        "9223372036854775807",
        "$9\r\nsubscribe\r\n",
        "$4\r\nQUIT\r\n",
        "\r",
        "\n",
        NULL } },
    { pool_codec_http1,
      { 0, PL_HTTP_WAS_HEAD, PL_HTTP_WAS_LAST, PL_HTTP_WAS_HEAD | PL_HTTP_WAS_LAST, UINT64_MAX },
      { "\r\n",
        "HTTP/1.1 200 OK\r\n",
        "HTTP/1.1 100 x\r\n\r\n",
        "204",
        "304",
        "HTTP/1.0",
        "\n",
        "\r",
        "Content-Length: 5\r\n",
        "0\r\n\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Connection: close\r\n",
        ": ",
        "1;a\r\nx\r\n",
        "ffffffffffffffff",
        "9223372036854775807",
        "GET / HTTP/1.1\r\n",
        "HEAD",
        "keep-alive",
        "Upgrade: a\r\n",
        ", ",
        NULL } },
};

static void check(bool is_so, const char *what)
{
    if (is_so)
        return;
    fprintf(stderr, "fuzz_codec.c: not so: %s\n", what);
    abort();
}

static void check_next(const struct row *row, const uint8_t *head, const uint8_t *bytes,
                       size_t size)
{
    static const size_t bounds[] = { 0, 16, 64, 256 };
    uint64_t hints[REPLIES];
    struct feed feed = { .codec = row->codec(),
                         .most = bounds[head[3] & 3],
                         .hints = hints,
                         .hint_count = REPLIES,
                         .seed = head[2],
                         .stays_open = head[3] & 4 };
    struct fed fed;

    for (size_t i = 0; i < REPLIES; i++)
        hints[i] = row->hints[head[1] & 15];
    check(fed_bytes(&fed, &feed, bytes, size), "it is the same in every way");
    check(fed.status <= POOL_OK && fed.status >= POOL_E_SYSTEM, "it ended with a status");
    fed_free(&fed);
}

static void check_encode(const struct row *row, const uint8_t *bytes, size_t size)
{
    char *exact = malloc(size ? size : 1), *text[2];
    enum pool_status status[2];
    struct pool_expect expect[2];
    struct pool_bytes body = { exact, size };

    check(exact, "there is memory");
    if (size)
        memcpy(exact, bytes, size);
    for (size_t i = 0; i < 2; i++)
        fed_encode(row->codec(), body, &text[i], &expect[i], &status[i]);
    check(status[0] == status[1] && strcmp(text[0], text[1]) == 0, "it writes the same twice");
    check(status[0] || (expect[0].replies == expect[1].replies && expect[0].hint == expect[1].hint),
          "it counts the same twice");
    free(text[0]);
    free(text[1]);
    free(exact);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < HEAD || (data[0] & 7) >= PL_COUNT(rows))
        return 0;
    check_next(&rows[data[0] & 7], data, data + HEAD, size - HEAD);
    check_encode(&rows[data[0] & 7], data + HEAD, size - HEAD);
    return 0;
}

#ifdef FUZZ_MAIN
static const char *const *words_of(const uint8_t *data, size_t size)
{
    return rows[size && (data[0] & 7) < PL_COUNT(rows) ? data[0] & 7 : 0].words;
}

int main(int argc, char **argv)
{
    static const struct plain plain = {
        .name = "codec", .rounds = 400000, .words = words_of, .run = LLVMFuzzerTestOneInput
    };

    return plain_main(&plain, argc, argv);
}
#endif
