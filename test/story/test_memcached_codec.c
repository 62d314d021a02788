/* test_memcached_codec.c: what memcached's codec says of a request is what a real memcached does:
 * so many replies come, of such shapes, and nothing behind them. */
#include <criterion/criterion.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "support/servers.h"
#include "support/tests.h"
#include "wire/out.h"
#include "wire/runner.h"

#define IN_TIME_MS 10000u
#define MOST (4u << 20)

static struct server *server;
static struct pl_runner runner;
static int fd = -1;

static void start(void)
{
    struct sockaddr_in address = { .sin_family = AF_INET,
                                   .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };

    server = memcached_start();
    if (!server)
        cr_skip("%s", server_why_not());
    address.sin_port = htons((uint16_t)server_port(server));
    fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    cr_assert_geq(fd, 0);
    cr_assert_eq(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    cr_assert_eq(pl_runner_init(&runner, pool_codec_memcached(), MOST), POOL_OK);
}

static void stop(void)
{
    if (fd >= 0)
        close(fd);
    pl_runner_fini(&runner);
    server_stop(server);
}

static struct pool_expect send_request(const char *request, size_t size)
{
    struct pl_buffer buffer = { 0 };
    struct pool_out out = { .buffer = &buffer, .most = MOST };
    struct pl_frame frame = { .kind = POOL_REQUEST, .body = { request, size } };
    struct pool_expect expect;

    cr_assert_eq(pl_out_encode(&out, pool_codec_memcached(), NULL, &frame, &expect), POOL_OK,
                 "%.40s", request);
    cr_assert(write_exactly(fd, buffer.data, pl_buffer_size(&buffer), slowness() * IN_TIME_MS));
    pl_buffer_fini(&buffer);
    return expect;
}

static struct pool_message receive(uint64_t hint)
{
    struct pool_message message;
    size_t room = 0;
    ssize_t got;
    void *space;

    while (!pl_runner_next(&runner, hint, &message)) {
        cr_assert_eq(runner.status, POOL_OK, "%s", pool_status_name(runner.status));
        cr_assert_eq(listen_to(fd, slowness() * IN_TIME_MS), HEARD_BYTES);
        space = pl_runner_space(&runner, 1, &room);
        cr_assert_not_null(space);
        got = recv(fd, space, room < 7 ? room : 7, 0);
        cr_assert_gt(got, 0);
        pl_runner_filled(&runner, (size_t)got);
    }
    return message;
}

static bool is_text(const struct pool_message *message, const char *text)
{
    if (message->body.size == strlen(text) &&
        memcmp(message->body.data, text, message->body.size) == 0)
        return true;
    fprintf(stderr, "'%.*s' instead of '%s'\n", (int)message->body.size,
            (const char *)message->body.data, text);
    return false;
}

/* Whatever came without being asked for would come before this. */
static void expect_in_step(void)
{
    struct pool_expect expect = send_request("mn\r\n", 4);
    struct pool_message message = receive(expect.hint);

    cr_expect(is_text(&message, "MN"));
    pl_runner_drop(&runner);
    cr_expect(pl_runner_is_clean(&runner));
}

TestSuite(memcached_codec, .init = start, .fini = stop);

Test(memcached_codec, each_command_is_answered_as_the_codec_says)
{
    static const struct {
        const char *request, *replies[4];
    } rows[] = {
        { "get a\r\n", { "END" } },
        { "set a 5 0 5\r\nhello\r\n", { "STORED" } },
        { "add a 5 0 5\r\nhello\r\n", { "NOT_STORED" } },
        { "get a b\r\n", { "VALUE a 5 5\r\nhello\r\nEND" } },
        { "set b 0 0 8 noreply\r\na\r\nEND\r\n\r\n", { NULL } },
        { "get a b\r\n", { "VALUE a 5 5\r\nhello\r\nVALUE b 0 8\r\na\r\nEND\r\n\r\nEND" } },
        { "gat 100 a\r\n", { "VALUE a 5 5\r\nhello\r\nEND" } },
        { "append a 0 0 1\r\n!\r\n", { "STORED" } },
        { "cas a 0 0 1 1\r\nx\r\n", { "EXISTS" } },
        { "cas c 0 0 1 1\r\nx\r\n", { "NOT_FOUND" } },
        { "touch a 100\r\n", { "TOUCHED" } },
        { "touch c 100\r\n", { "NOT_FOUND" } },
        { "delete a\r\n", { "DELETED" } },
        { "delete a\r\n", { "NOT_FOUND" } },
        { "delete b 0 noreply\r\n", { NULL } },
        { "incr n 1\r\n", { "NOT_FOUND" } },
        { "set n 0 0 2\r\n99\r\n", { "STORED" } },
        { "incr n 1\r\n", { "100" } },
        { "decr n 91\r\nget n\r\n", { "9", "VALUE n 0 3\r\n9  \r\nEND" } },
        { "verbosity 0\r\n", { "OK" } },
        { "stats reset\r\n", { "RESET" } },
        { "stats detail on\r\nstats detail off\r\n", { "OK", "OK" } },
        { "stats cachedump 99 1\r\n", { "CLIENT_ERROR Illegal slab id" } },
        { "ms m 2 T100\r\nhi\r\nmg m v\r\nmd m\r\nmg m v\r\n", { "HD", "VA 2\r\nhi", "HD", "EN" } },
        { "ms m 4\r\nMN\r\n\r\n", { "HD" } },
        { "mg m v q\r\nmg o v q\r\nmg m s\r\nmd m q\r\nmn\r\n",
          { "VA 4\r\nMN\r\n\r\nHD s4\r\nMN" } },
        { "ma o\r\n", { "NF" } },
        { "flush_all\r\n", { "OK" } },
        { "get m\r\nset z 0 0 1 noreply\r\nz\r\nget z\r\nincr z 1\r\n",
          { "END", "VALUE z 0 1\r\nz\r\nEND",
            "CLIENT_ERROR cannot increment or decrement non-numeric value" } },
    };

    for (size_t i = 0; i < PL_COUNT(rows); i++) {
        struct pool_expect expect = send_request(rows[i].request, strlen(rows[i].request));
        size_t count = 0;

        for (; count < PL_COUNT(rows[i].replies) && rows[i].replies[count]; count++) {
            struct pool_message message = receive(expect.hint);

            cr_expect(is_text(&message, rows[i].replies[count]), "%s", rows[i].request);
            cr_expect_eq(message.failed, strstr(rows[i].replies[count], "ERROR") != NULL);
            pl_runner_drop(&runner);
            runner.is_over = false; /* so that whatever follows is seen */
        }
        cr_expect_eq(expect.replies, count, "%s", rows[i].request);
        expect_in_step();
    }
}

Test(memcached_codec, long_replies_end_as_well)
{
    static const char *const requests[] = {
        "stats\r\n",       "stats settings\r\n", "stats items\r\n",      "stats slabs\r\n",
        "stats sizes\r\n", "stats conns\r\n",    "stats detail dump\r\n"
    };

    for (size_t i = 0; i < PL_COUNT(requests); i++) {
        struct pool_expect expect = send_request(requests[i], strlen(requests[i]));
        struct pool_message message = receive(expect.hint);

        cr_expect_geq(message.body.size, 3);
        cr_expect_arr_eq((const char *)message.body.data + message.body.size - 3, "END", 3);
        pl_runner_drop(&runner);
        expect_in_step();
    }
}

/* A set of `size` bytes. */
static char *make_set(size_t size, const char *noreply, size_t *whole)
{
    char *request = malloc(size + 100);
    size_t head;

    cr_assert_not_null(request);
    head = (size_t)sprintf(request, "set big 0 0 %zu%s\r\n", size, noreply);
    memset(request + head, 'x', size);
    memcpy(request + head + size, "\r\n", 2);
    *whole = head + size + 2;
    return request;
}

Test(memcached_codec, an_object_that_is_too_large_fails_and_leaves_the_stream_in_step)
{
    static const char *const ways[] = { "", " noreply" };

    for (size_t i = 0; i < PL_COUNT(ways); i++) {
        size_t size;
        char *request = make_set(2u << 20, ways[i], &size);
        struct pool_expect expect = send_request(request, size);

        cr_assert_eq(expect.replies, i == 0);
        if (i == 0) {
            struct pool_message message = receive(expect.hint);

            cr_expect(is_text(&message, "SERVER_ERROR object too large for cache"));
            cr_expect(message.failed && !message.closes);
            pl_runner_drop(&runner);
        }
        expect_in_step();
        free(request);
    }
}
