/* test_codec_resp.c: replies of RESP2 and RESP3 end where they end, whatever is in them; what is
 * none is refused; and of a request it is known how many replies it has, or it is refused. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/compiler.h"
#include "support/tests.h"
#include "wire/fed.h"
#include "wire/resp.h"
#include "wire/resp_model.h"

static struct fed fed_replies(const char *text, uint64_t hint)
{
    struct feed feed = {
        .codec = pool_codec_resp(), .hints = &hint, .hint_count = 1, .stays_open = true
    };
    struct fed fed;

    cr_assert(fed_text(&fed, &feed, text), "%s", text);
    return fed;
}

static void expect_one(const char *text, enum pool_message_kind kind, bool failed)
{
    struct fed fed = fed_replies(text, 0);

    cr_expect(fed.is_clean, "%s", text);
    cr_expect_eq(fed.count, 1, "%s", text);
    cr_expect(fed_is(&fed, 0, kind, text));
    cr_expect_eq(fed.messages[0].failed, failed, "%s", text);
    cr_expect_not(fed.messages[0].closes);
    fed_free(&fed);
}

static void expect_refused(const char *text)
{
    struct fed fed = fed_replies(text, 0);

    cr_expect_eq(fed.status, POOL_E_PROTOCOL, "%s", text);
    cr_expect_eq(fed.count, 0, "%s", text);
    fed_free(&fed);
}

Test(codec_resp, a_reply_is_the_whole_value_as_it_came)
{
    static const char *const replies[] = { "+OK\r\n",
                                           "+\r\n",
                                           ":1\r\n",
                                           ":-9223372036854775808\r\n",
                                           ":+7\r\n",
                                           "$0\r\n\r\n",
                                           "$-1\r\n",
                                           "*-1\r\n",
                                           "*0\r\n",
                                           "$6\r\na\r\nb\r\n\r\n",
                                           "*2\r\n$1\r\na\r\n*1\r\n:5\r\n",
                                           "*2\r\n-in an array\r\n$-1\r\n",
                                           "_\r\n",
                                           "#t\r\n",
                                           "#f\r\n",
                                           ",3.25\r\n",
                                           ",1e9\r\n",
                                           ",-inf\r\n",
                                           ",nan\r\n",
                                           ",5.\r\n",
                                           "(349999999999999999999999999\r\n",
                                           "=8\r\ntxt:a\r\nb\r\n",
                                           "%2\r\n+a\r\n:1\r\n+b\r\n%0\r\n",
                                           "~1\r\n~1\r\n+a\r\n",
                                           "|1\r\n+ttl\r\n:3600\r\n$1\r\na\r\n",
                                           "*1\r\n|1\r\n+a\r\n*1\r\n:1\r\n:2\r\n",
                                           "|0\r\n+a\r\n" };

    for (size_t i = 0; i < PL_COUNT(replies); i++)
        expect_one(replies[i], POOL_REPLY, false);
}

Test(codec_resp, an_error_at_the_top_is_a_failed_reply_and_one_inside_is_not)
{
    expect_one("-ERR no\r\n", POOL_REPLY, true);
    expect_one("!5\r\nERR\r\n\r\n", POOL_REPLY, true);
    expect_one("|1\r\n+a\r\n+b\r\n-ERR no\r\n", POOL_REPLY, true);
    expect_one("*1\r\n-ERR no\r\n", POOL_REPLY, false);
    expect_one("|1\r\n-ERR no\r\n!1\r\na\r\n+OK\r\n", POOL_REPLY, false);
}

Test(codec_resp, a_push_is_told_apart_at_the_top_and_refused_inside)
{
    expect_one(">2\r\n+message\r\n+text\r\n", POOL_PUSH, false);
    expect_one("|1\r\n+a\r\n*1\r\n+b\r\n>1\r\n+invalidate\r\n", POOL_PUSH, false);
    expect_one("|0\r\n|0\r\n>1\r\n+a\r\n", POOL_PUSH, false);
    expect_refused("*1\r\n>1\r\n+a\r\n");
    expect_refused("|1\r\n+a\r\n>1\r\n+a\r\n");
    expect_refused("|1\r\n>1\r\n+a\r\n+a\r\n");
    expect_refused("*1\r\n|1\r\n+a\r\n+a\r\n>1\r\n+a\r\n");
    expect_refused(">1\r\n>0\r\n");
}

Test(codec_resp, replies_and_pushes_come_one_by_one)
{
    struct fed fed = fed_replies("+a\r\n>1\r\n+b\r\n*1\r\n:1\r\n$1\r\nc\r\n-d\r\n*2\r\n", 0);

    cr_assert_eq(fed.count, 5);
    cr_expect(fed_is(&fed, 0, POOL_REPLY, "+a\r\n"));
    cr_expect(fed_is(&fed, 1, POOL_PUSH, ">1\r\n+b\r\n"));
    cr_expect(fed_is(&fed, 2, POOL_REPLY, "*1\r\n:1\r\n"));
    cr_expect(fed_is(&fed, 3, POOL_REPLY, "$1\r\nc\r\n"));
    cr_expect(fed_is(&fed, 4, POOL_REPLY, "-d\r\n"));
    cr_expect_not(fed.is_clean);
    cr_expect_eq(fed.status, POOL_OK);
    fed_free(&fed);
}

static const char *const bad_replies[] = { "OK\r\n",
                                           "\r\n",
                                           "HTTP/1.1 200 OK\r\n",
                                           "+a\n",
                                           "+a\rb\r\n",
                                           "+a\r\r\n",
                                           "+\n",
                                           "-a\nb\r\n",
                                           ":\r\n",
                                           ":01\r\n",
                                           ":-0\r\n",
                                           ":1a\r\n",
                                           ":--1\r\n",
                                           ":9223372036854775808\r\n",
                                           ":-9223372036854775809\r\n",
                                           ":99999999999999999999",
                                           ": 1\r\n",
                                           ":1\n",
                                           ":1\rx",
                                           "$\r\n",
                                           "$-2\r\n",
                                           "$-1\n",
                                           "$+1\r\na\r\n",
                                           "$01\r\na\r\n",
                                           "$1 \r\na\r\n",
                                           "$1\r\nab\r\n",
                                           "$1\r\na\n\r",
                                           "$0\r\n+a",
                                           "$9223372036854775807\r\n",
                                           "$9223372036854775808\r\n",
                                           "$18446744073709551615\r\n",
                                           "$?\r\n;1\r\na\r\n;0\r\n",
                                           "*?\r\n.\r\n",
                                           "*-2\r\n",
                                           "*+1\r\n",
                                           "*01\r\n",
                                           "*9223372036854775807\r\n",
                                           "*9223372036854775808\r\n",
                                           "*\r\n",
                                           "*1\r\n*a\r\n",
                                           "%9223372036854775807\r\n",
                                           "%4611686018427387904\r\n",
                                           "%-1\r\n",
                                           "~-1\r\n",
                                           ">-1\r\n",
                                           "!-1\r\n",
                                           "=-1\r\n",
                                           "|-1\r\n",
                                           "=3\r\ntxt\r\n",
                                           "=4\r\ntxta\r\n",
                                           "_a\r\n",
                                           "#\r\n",
                                           "#true\r\n",
                                           "#T\r\n",
                                           ",\r\n",
                                           ",a\r\n",
                                           ",1.2.3\r\n",
                                           ",1e\r\n",
                                           ",.5\r\n",
                                           ",+\r\n",
                                           ",0x10\r\n",
                                           ",infinity\r\n",
                                           "(\r\n",
                                           "(-\r\n",
                                           "(1.5\r\n",
                                           "(a\r\n",
                                           ".\r\n",
                                           ";0\r\n" };

Test(codec_resp, what_is_no_reply_is_refused)
{
    for (size_t i = 0; i < PL_COUNT(bad_replies); i++)
        expect_refused(bad_replies[i]);
}

/* Of `depth` arrays around an integer. */
static void nest(char *text, unsigned depth, const char *head)
{
    text[0] = '\0';
    while (depth--)
        strcat(text, head);
    strcat(text, ":1\r\n");
}

Test(codec_resp, values_are_nested_32_deep_and_no_deeper)
{
    char text[256];

    nest(text, 32, "*1\r\n");
    expect_one(text, POOL_REPLY, false);
    nest(text, 33, "*1\r\n");
    expect_refused(text);
    nest(text, 33, "|0\r\n");
    expect_refused(text);
}

Test(codec_resp, what_cannot_fit_is_refused_before_it_comes)
{
    expect_refused("$65531\r\n"); /* with what surrounds it, one byte too much */
    expect_refused("*21845\r\n");
    expect_refused("%10923\r\n");
    expect_refused("*3\r\n$65520\r\n");
    expect_refused("*1\r\n*1\r\n$65521\r\n");
    expect_refused("*3\r\n*20000\r\n*1000\r\n*1000\r\n");
    expect_refused("*4611686018427387904\r\n*4611686018427387904\r\n*4611686018427387904\r\n");
}

Test(codec_resp, a_connection_that_ends_inside_a_reply_is_broken)
{
    struct feed feed = { .codec = pool_codec_resp() };
    struct fed fed;

    cr_assert(fed_text(&fed, &feed, "+OK\r\n$5\r\nabc"));
    cr_expect_eq(fed.count, 1);
    cr_expect_eq(fed.status, POOL_E_BROKEN);
    fed_free(&fed);
    cr_assert(fed_text(&fed, &feed, "+OK\r\n"));
    cr_expect_eq(fed.status, POOL_E_CLOSED);
    fed_free(&fed);
}

static void compare_with_model(const struct made *made)
{
    struct feed feed = { .codec = pool_codec_resp(), .most = 1u << 20, .stays_open = true };
    struct fed fed;
    size_t at = 0;
    long taken;

    cr_assert(fed_bytes(&fed, &feed, made->bytes, made->size), "%.*s", (int)made->size,
              made->bytes);
    for (size_t i = 0; i < fed.count; i++) {
        taken = resp_model(made->bytes + at, made->size - at);
        cr_assert_eq(taken, (long)fed.messages[i].size, "%ld: %.*s", taken, (int)made->size,
                     made->bytes);
        at += (size_t)taken;
    }
    taken = resp_model(made->bytes + at, made->size - at);
    cr_assert_leq(taken, 0, "%.*s", (int)made->size, made->bytes);
    if (taken < 0) /* the codec sees some mistakes before the line is whole */
        cr_assert_eq(fed.status, POOL_E_PROTOCOL, "%.*s", (int)made->size, made->bytes);
    fed_free(&fed);
}

Test(codec_resp, values_at_random_are_read_like_by_a_simple_reader)
{
    static const char *const words[] = {
        "\r\n",  "\n",     "\r",     "$",      "*1\r\n", "-1", "0",
        "9",     ">1\r\n", "|1\r\n", "|0\r\n", "%1\r\n", "+",  ":",
        "_\r\n", "#t\r\n", ",",      "(",      "=",      "!",  "9223372036854775807",
        ".",     "e"
    };
    unsigned rounds = 100000 / slowness();
    static struct made made;

    for (uint64_t seed = 1; seed <= rounds; seed++) {
        uint64_t state = seed;

        made.size = 0;
        for (size_t count = 1 + any_number(&state, 3); count; count--)
            make_value(&made, &state, true, 0);
        if (made.size == MADE_MOST - 1)
            continue;
        if (seed % 4 == 0)
            cr_assert_gt(resp_model(made.bytes, made.size), 0, "%s", made.bytes);
        else
            for (size_t count = 1 + any_number(&state, 3); count; count--)
                spoil(&made, &state, words, PL_COUNT(words));
        compare_with_model(&made);
    }
}

/* Encodes commands that are written with blanks between words and bars between commands. */
static enum pool_status encode(const char *commands, struct pool_expect *expect)
{
    char body[2048] = "", *line_rest, *word_rest, *copy = strdup(commands), *out;
    enum pool_status status;

    for (char *line = strtok_r(copy, "|", &line_rest); line;
         line = strtok_r(NULL, "|", &line_rest)) {
        char words[1024] = "";
        unsigned count = 0;

        for (char *word = strtok_r(line, " ", &word_rest); word;
             word = strtok_r(NULL, " ", &word_rest), count++)
            sprintf(words + strlen(words), "$%zu\r\n%s\r\n", strlen(word), word);
        sprintf(body + strlen(body), "*%u\r\n%s", count, words);
    }
    if (fed_encode(pool_codec_resp(), (struct pool_bytes){ body, strlen(body) }, &out, expect,
                   &status))
        cr_expect_str_eq(out, body);
    else
        cr_expect_str_eq(out, "");
    free(out);
    free(copy);
    return status;
}

Test(codec_resp, each_command_of_a_request_has_one_reply)
{
    static const struct {
        const char *commands;
        unsigned replies;
    } rows[] = { { "PING", 1 },
                 { "GET a", 1 },
                 { "SET a b|GET a", 2 },
                 { "MULTI|INCR a|INCR b|EXEC", 4 },
                 { "HELLO 3", 1 },
                 { "RESET", 1 },
                 { "CLIENT ID|CLIENT SETNAME reply", 2 },
                 { "PUBLISH monitor subscribe", 1 } };
    struct pool_expect expect;

    for (size_t i = 0; i < PL_COUNT(rows); i++) {
        cr_expect_eq(encode(rows[i].commands, &expect), POOL_OK, "%s", rows[i].commands);
        cr_expect_eq(expect.replies, rows[i].replies, "%s", rows[i].commands);
        cr_expect_eq(expect.hint, 0, "%s", rows[i].commands);
    }
}

Test(codec_resp, a_request_whose_replies_cannot_be_counted_is_refused)
{
    static const char *const rows[] = {
        "MONITOR",           "monitor",           "SYNC",
        "SCRIPT DEBUG YES",
        "PSYNC ? -1",        "REPLCONF ACK 1",    "CLIENT REPLY OFF",
        "client Reply SKIP", "GET a|MONITOR",     "SUBSCRIBE",
        "SUBSCRIBE a b",     "UNSUBSCRIBE",       "SUNSUBSCRIBE a",
        "GET a|SUBSCRIBE b", "SUBSCRIBE a|GET b", "QUIT|PING",
        "PING|QUIT",         "CLUSTER SYNCSLOTS", "cluster Syncslots SYNC x"
    };
    struct pool_expect expect;

    for (size_t i = 0; i < PL_COUNT(rows); i++)
        cr_expect_eq(encode(rows[i], &expect), POOL_E_ARGUMENT, "%s", rows[i]);
}

static void expect_each(const char *const *rows, size_t count, enum pool_status status)
{
    struct pool_expect expect;

    for (size_t i = 0; i < count; i++)
        cr_expect_eq(encode(rows[i], &expect), status, "%s", rows[i]);
}

/* Else the others' commands would be queued in it, and their replies be part of its end. */
Test(codec_resp, a_transaction_ends_in_the_request_in_which_it_begins)
{
    static const char *const whole[] = { "MULTI|EXEC", "multi|GET a|Discard", "MULTI|EXEC foo|EXEC",
                                         "MULTI|EXEC|MULTI|INCR a|EXEC", "MULTI|MULTI|EXEC",
                                         "WATCH a|MULTI|EXEC", "EXEC", "DISCARD",
                                         "MULTI|RESET|EXEC" };
    static const char *const open[] = { "MULTI", "Multi|GET a", "MULTI|EXEC|MULTI", "MULTI a",
                                        "EXEC|MULTI", "MULTI|EXEC foo", "MULTI|DISCARD foo",
                                        "MULTI|RESET" }; /* what is old does not know that one */

    expect_each(whole, PL_COUNT(whole), POOL_OK);
    expect_each(open, PL_COUNT(open), POOL_E_ARGUMENT);
}

/* In RESP2 the messages of a subscription would look like replies. */
Test(codec_resp, no_request_leaves_resp3)
{
    static const char *const fine[] = { "HELLO", "HELLO 3", "hello 3 AUTH me 2 SETNAME 2" };
    static const char *const back[] = { "HELLO 2", "Hello 2 AUTH me secret", "HELLO 4", "HELLO 03",
                                        "GET a|HELLO 2", "MULTI|HELLO 2|EXEC" };

    expect_each(fine, PL_COUNT(fine), POOL_OK);
    expect_each(back, PL_COUNT(back), POOL_E_ARGUMENT);
}

/* What all share is the program's choice, and what holds neighbours up keeps their turns. */
Test(codec_resp, what_changes_a_shared_connection_but_no_count_is_allowed)
{
    static const char *const rows[] = { "AUTH secret", "SELECT 1", "CLIENT SETNAME a",
                                        "CLIENT TRACKING ON", "CLIENT CACHING YES|GET a",
                                        "CLIENT NO-EVICT ON", "RESET", "READONLY", "READWRITE",
                                        "ASKING|GET a", "WATCH a", "UNWATCH", "BLPOP a 0",
                                        "XREAD BLOCK 0 STREAMS a 0", "WAIT 1 0", "SHUTDOWN" };

    expect_each(rows, PL_COUNT(rows), POOL_OK);
}

Test(codec_resp, a_request_that_is_not_whole_commands_is_refused)
{
    static const char *const rows[] = { "",
                                        "PING\r\n",
                                        "\r\n",
                                        "*0\r\n",
                                        "*-1\r\n",
                                        "*1\r\n",
                                        "*1\r\n$4\r\nPING",
                                        "*1\r\n$4\r\nPING\r",
                                        "*1\r\n$4\r\nPING\r\n\r\n",
                                        "*1\r\n$4\r\nPING\r\nGET",
                                        "*1\r\n$4\r\nPING\r\n*1\r\n",
                                        "*1\r\n$5\r\nPING\r\n",
                                        "*1\r\n$3\r\nPING\r\n",
                                        "*1\r\n+PING\r\n",
                                        "*1\r\n:1\r\n",
                                        "*1\r\n$-1\r\n",
                                        "*1\n$4\nPING\n",
                                        "*01\r\n$4\r\nPING\r\n",
                                        "*1\r\n$04\r\nPING\r\n",
                                        "*1\r\n*1\r\n$4\r\nPING\r\n",
                                        "*2\r\n$4\r\nPING\r\n",
                                        "*1\r\n$18446744073709551615\r\nPING\r\n",
                                        "*9223372036854775807\r\n$4\r\nPING\r\n",
                                        "+OK\r\n",
                                        "*1\r\n$4\r\nPING\r\n$4\r\nPING\r\n" };
    struct pool_expect expect;
    enum pool_status status;
    char *out;

    for (size_t i = 0; i < PL_COUNT(rows); i++) {
        struct pool_bytes body = { rows[i], strlen(rows[i]) };

        cr_expect_not(fed_encode(pool_codec_resp(), body, &out, &expect, &status), "%s", rows[i]);
        cr_expect_eq(status, POOL_E_ARGUMENT, "%s", rows[i]);
        free(out);
    }
}

static uint64_t hint_of(const char *command)
{
    struct pool_expect expect;

    cr_assert_eq(encode(command, &expect), POOL_OK);
    cr_assert_eq(expect.replies, 1);
    return expect.hint;
}

Test(codec_resp, a_subscription_is_answered_by_the_push_that_confirms_it)
{
    static const char *const names[] = { "Subscribe", "PSUBSCRIBE", "ssubscribe", "UNSUBSCRIBE",
                                         "PUNSUBSCRIBE" };
    char command[64], text[256], word[32];

    for (size_t i = 0; i < PL_COUNT(names); i++) {
        struct fed fed;

        strcpy(word, names[i]);
        for (char *at = word; *at; at++)
            *at |= 0x20;
        sprintf(command, "%s a", names[i]);
        sprintf(text,
                ">3\r\n+message\r\n+a\r\n+%s\r\n>3\r\n$%zu\r\n%s\r\n$1\r\na\r\n:1\r\n>1\r\n+%s\r\n",
                word, strlen(word), word, word);
        fed = fed_replies(text, hint_of(command));
        cr_assert_eq(fed.count, 3);
        cr_expect_eq(fed.messages[0].kind, POOL_PUSH);
        cr_expect_eq(fed.messages[1].kind, POOL_REPLY, "%s", word);
        cr_expect_eq(fed.messages[2].kind, POOL_PUSH); /* nothing is asked any more */
        fed_free(&fed);
    }
}

Test(codec_resp, a_subscription_may_fail_by_an_error)
{
    struct fed fed = fed_replies("-NOPERM\r\n", hint_of("SUBSCRIBE a"));

    cr_assert_eq(fed.count, 1);
    cr_expect(fed_is(&fed, 0, POOL_REPLY, "-NOPERM\r\n"));
    cr_expect(fed.messages[0].failed);
    fed_free(&fed);
}

Test(codec_resp, a_subscription_in_resp2_ends_the_connection)
{
    static const char *const answers[] = { "*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n",
                                           "+QUEUED\r\n" };

    for (size_t i = 0; i < PL_COUNT(answers); i++) {
        struct fed fed = fed_replies(answers[i], hint_of("SUBSCRIBE a"));

        cr_expect_eq(fed.count, 0);
        cr_expect_eq(fed.status, POOL_E_PROTOCOL);
        fed_free(&fed);
    }
}

Test(codec_resp, quit_is_the_last_request_and_others_are_not)
{
    struct pool_expect expect;

    cr_assert_eq(encode("QUIT", &expect), POOL_OK);
    cr_expect(expect.closes);
    cr_assert_eq(encode("PING", &expect), POOL_OK);
    cr_expect_not(expect.closes);
}

Test(codec_resp, the_reply_to_quit_closes_and_a_push_before_it_does_not)
{
    struct fed fed = fed_replies(">1\r\n+a\r\n+OK\r\n", hint_of("quit"));

    cr_assert_eq(fed.count, 2);
    cr_expect_not(fed.messages[0].closes);
    cr_expect(fed.messages[1].closes);
    fed_free(&fed);
}
