/* resp_model.c: see resp_model.h. */
#include "wire/resp_model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEEPEST 32u

static bool is_integer(const char *text)
{
    long long number;
    char again[32];

    number = strtoll(text, NULL, 10);
    snprintf(again, sizeof(again), "%lld", number);
    return strcmp(text + (*text == '+' && text[1] != '-'), again) == 0;
}

static bool is_count(const char *text)
{
    return *text != '-' && *text != '+' && is_integer(text);
}

static bool is_big(const char *text)
{
    text += *text == '+' || *text == '-';
    return *text && strspn(text, "0123456789") == strlen(text);
}

static bool is_double(const char *text)
{
    const char *digits = text + (*text == '+' || *text == '-');
    char *end;

    if (strcasecmp(digits, "inf") == 0 || strcasecmp(digits, "nan") == 0)
        return true;
    if (*digits < '0' || *digits > '9' || strpbrk(text, "xXpP"))
        return false;
    strtod(text, &end);
    return !*end;
}

static long model_string(const char *bytes, size_t size, size_t begin, const char *text)
{
    unsigned long long length = strtoull(text, NULL, 10);

    if (bytes[0] == '$' && strcmp(text, "-1") == 0)
        return (long)begin;
    if (!is_count(text) || length > (1ull << 61) || (bytes[0] == '=' && length < 4))
        return -1;
    if (size < begin + length + 2)
        return 0;
    if (memcmp(bytes + begin + length, "\r\n", 2) != 0)
        return -1;
    return bytes[0] == '=' && bytes[begin + 3] != ':' ? -1 : (long)(begin + length + 2);
}

static long model_aggregate(const char *bytes, size_t begin, const char *text,
                            unsigned long long *inner)
{
    unsigned long long count = strtoull(text, NULL, 10);

    if (bytes[0] == '*' && strcmp(text, "-1") == 0)
        return (long)begin;
    if (!is_count(text) || count > (1ull << 60))
        return -1;
    *inner = bytes[0] == '%' ? count * 2 : bytes[0] == '|' ? count * 2 + 1 : count;
    return (long)begin;
}

static long model_line(const char *bytes, size_t size, size_t begin, const char *text,
                       unsigned long long *inner)
{
    switch (bytes[0]) {
    case '+':
    case '-':
        return (long)begin;
    case ':':
        return is_integer(text) ? (long)begin : -1;
    case '_':
        return *text ? -1 : (long)begin;
    case '#':
        return strcmp(text, "t") == 0 || strcmp(text, "f") == 0 ? (long)begin : -1;
    case ',':
        return is_double(text) ? (long)begin : -1;
    case '(':
        return is_big(text) ? (long)begin : -1;
    case '$':
    case '!':
    case '=':
        return model_string(bytes, size, begin, text);
    default:
        return model_aggregate(bytes, begin, text, inner);
    }
}

/* The value without those that are in it. */
static long model_head(const char *bytes, size_t size, unsigned long long *inner)
{
    const char *feed;
    char *text;
    size_t length;
    long taken;

    *inner = 0;
    if (!bytes[0] || !strchr("+-:_#,($!=*%~>|", bytes[0]))
        return -1;
    feed = memchr(bytes, '\n', size);
    if (!feed)
        return 0;
    length = (size_t)(feed - bytes);
    if (length < 2 || feed[-1] != '\r' || memchr(bytes, '\r', length - 1))
        return -1;
    if (!strchr("+-", bytes[0]) && memchr(bytes, '\0', length))
        return -1;
    text = strndup(bytes + 1, length - 2);
    if (!text)
        abort();
    taken = model_line(bytes, size, length + 1, text, inner);
    free(text);
    return taken;
}

/* `is_top`: nothing is around it but attributes of its own. */
static long model_value(const char *bytes, size_t size, unsigned depth, bool is_top)
{
    bool is_attribute = size && bytes[0] == '|';
    unsigned long long inner;
    long taken, at;

    if (!size)
        return 0;
    if (bytes[0] == '>' && !is_top)
        return -1;
    at = model_head(bytes, size, &inner);
    if (at > 0 && inner && depth == DEEPEST)
        return -1;
    for (; at > 0 && inner; inner--) {
        taken = model_value(bytes + at, size - (size_t)at, depth + 1,
                            is_top && is_attribute && inner == 1);
        at = taken > 0 ? at + taken : taken;
    }
    return at;
}

long resp_model(const char *bytes, size_t size)
{
    return model_value(bytes, size, 0, true);
}

static void put_string(struct made *made, uint64_t *state, char type)
{
    static const char bytes[] = "ab\r\n$*:0\\%";
    char text[64] = "txt:";
    size_t from = type == '=' ? 4 : 0, size = from + any_number(state, 20);

    for (size_t i = from; i < size; i++)
        text[i] = bytes[any_number(state, sizeof(bytes) - 1)];
    text[size] = '\0';
    make_text(made, "%c%zu\r\n%s\r\n", type, size, text);
}

static void put_aggregate(struct made *made, uint64_t *state, char type, unsigned depth)
{
    bool is_resp3 = type != '*' || any_number(state, 2);
    size_t count = any_number(state, 4), each = type == '%' || type == '|' ? 2 : 1;

    make_text(made, "%c%zu\r\n", type, count);
    for (size_t i = 0; i < count * each; i++)
        make_value(made, state, is_resp3, depth + 1);
    if (type == '|')
        make_value(made, state, true, depth + 1);
}

/* An array of RESP2 holds no other values. */
static void put_array(struct made *made, uint64_t *state, unsigned depth)
{
    size_t count = any_number(state, 4);

    make_text(made, "*%zu\r\n", count);
    while (count--)
        make_value(made, state, false, depth + 1);
}

void make_value(struct made *made, uint64_t *state, bool is_resp3, unsigned depth)
{
    static const char *const lines[] = { "+OK\r\n",
                                         "-ERR no\r\n",
                                         ":0\r\n",
                                         ":-12\r\n",
                                         "$-1\r\n",
                                         "*-1\r\n",
                                         "+\r\n",
                                         ":9223372036854775807\r\n",
                                         ":-9223372036854775808\r\n",
                                         "_\r\n",
                                         "#t\r\n",
                                         "#f\r\n",
                                         ",1.5e-3\r\n",
                                         ",-inf\r\n",
                                         ",nan\r\n",
                                         ",10\r\n",
                                         "(-123456789012345678901234567890\r\n",
                                         "(0\r\n" };
    static const char aggregates[] = "*%~|>";
    size_t kinds = is_resp3 ? sizeof(lines) / sizeof(lines[0]) : 9, kind = any_number(state, 10);

    if (kind < 5)
        make_text(made, "%s", lines[any_number(state, kinds)]);
    else if (kind < 8 || depth > 5)
        put_string(made, state, is_resp3 ? "$!="[any_number(state, 3)] : '$');
    else if (is_resp3)
        put_aggregate(made, state, aggregates[any_number(state, depth ? 4 : 5)], depth);
    else
        put_array(made, state, depth);
}
