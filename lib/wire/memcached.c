/* memcached.c: see memcached.h.
 *
 * It is stricter than the servers are: a command that a server would refuse before it has read the
 * data behind it would have that data taken for commands, and each of them answered. So whatever is
 * not plainly right is refused here: the words of a line have one space between them and no control
 * characters in them, lines end with "\r\n", numbers are in the range of all versions. */
#include "wire/memcached.h"

#include <string.h>

#define KEY_MOST 250u
#define DATA_MOST ((uint64_t)INT32_MAX - 2)

/* The words behind the name of a command, a character each:
 *     k  a key                     K  a key and more of them
 *     f  flags, 32 bits            t  a time, may be below 0     n  a number of 64 bits
 *     s  the size of the data      *  any words
 *     T  perhaps a time            0  perhaps "0"                r  perhaps "noreply" */
static const struct command {
    const char *name, *words;
    unsigned shapes;
} commands[] = {
    { "get", "K", PL_MEMCACHED_VALUES },
    { "gets", "K", PL_MEMCACHED_VALUES },
    { "gat", "tK", PL_MEMCACHED_VALUES },
    { "gats", "tK", PL_MEMCACHED_VALUES },
    { "set", "kftsr", PL_MEMCACHED_STORED },
    { "add", "kftsr", PL_MEMCACHED_STORED },
    { "replace", "kftsr", PL_MEMCACHED_STORED },
    { "append", "kftsr", PL_MEMCACHED_STORED },
    { "prepend", "kftsr", PL_MEMCACHED_STORED },
    { "cas", "kftsnr", PL_MEMCACHED_STORED },
    { "delete", "k0r", PL_MEMCACHED_DELETED },
    { "incr", "knr", PL_MEMCACHED_NUMBER },
    { "decr", "knr", PL_MEMCACHED_NUMBER },
    { "touch", "ktr", PL_MEMCACHED_TOUCHED },
    { "flush_all", "Tr", PL_MEMCACHED_OK },
    { "verbosity", "nr", PL_MEMCACHED_OK },
    { "version", "", PL_MEMCACHED_VERSION },
    { "stats", "*", PL_MEMCACHED_STATS },
    { "mg", "k*", PL_MEMCACHED_META },
    { "ms", "ks*", PL_MEMCACHED_META },
    { "md", "k*", PL_MEMCACHED_META },
    { "ma", "k*", PL_MEMCACHED_META },
    { "me", "k*", PL_MEMCACHED_META },
    { "mn", "", PL_MEMCACHED_NOOP },
};

/* One command of a request. */
struct asked {
    const struct command *command;
    bool has_data, is_silent, is_quiet; /* noreply; the flag q */
    uint64_t data; /* bytes, without the line end */
};

/* What the commands of a request come to. */
struct sum {
    uint32_t replies, noops;
    unsigned shapes;
    bool is_quiet; /* a q was there */
    unsigned last; /* shapes of the last command */
};

bool pl_memcached_word(struct pool_bytes *text, struct pool_bytes *word)
{
    const char *start = text->data;
    const char *space;

    if (!start)
        return false;
    space = memchr(start, ' ', text->size);
    *word = (struct pool_bytes){ start, space ? (size_t)(space - start) : text->size };
    *text = space ? (struct pool_bytes){ space + 1, text->size - word->size - 1 }
                  : (struct pool_bytes){ NULL, 0 };
    return true;
}

bool pl_memcached_is(struct pool_bytes word, const char *text)
{
    return word.size == strlen(text) && memcmp(word.data, text, word.size) == 0;
}

bool pl_memcached_number(struct pool_bytes word, uint64_t most, uint64_t *number)
{
    const char *digits = word.data;

    *number = 0;
    for (size_t i = 0; i < word.size; i++) {
        unsigned digit = (unsigned)(digits[i] - '0');

        if (digit > 9 || *number > (most - digit) / 10)
            return false;
        *number = *number * 10 + digit;
    }
    return word.size > 0;
}

static bool is_time(struct pool_bytes word)
{
    bool is_negative = word.size && *(const char *)word.data == '-';
    uint64_t number;

    if (is_negative)
        word = (struct pool_bytes){ (const char *)word.data + 1, word.size - 1 };
    return pl_memcached_number(word, INT32_MAX, &number);
}

static bool is_key(struct pool_bytes word)
{
    return word.size && word.size <= KEY_MOST;
}

/* Any words: flags, for a meta command. */
static bool read_flags(struct pool_bytes *text, struct asked *asked)
{
    struct pool_bytes word;

    while (pl_memcached_word(text, &word)) {
        if (!word.size)
            return false;
        asked->is_quiet |= *(const char *)word.data == 'q';
    }
    return true;
}

/* Is the word what must be there? */
static bool is_needed(char what, struct pool_bytes word, struct asked *asked)
{
    uint64_t number;

    switch (what) {
    case 'f':
        return pl_memcached_number(word, UINT32_MAX, &number);
    case 'n':
        return pl_memcached_number(word, UINT64_MAX, &number);
    case 't':
        return is_time(word);
    case 's':
        asked->has_data = true;
        return pl_memcached_number(word, DATA_MOST, &asked->data);
    default:
        return is_key(word);
    }
}

/* Is the word what may be there? */
static bool is_optional(char what, struct pool_bytes word, struct asked *asked)
{
    if (what == 'T')
        return is_time(word);
    if (what == '0')
        return pl_memcached_is(word, "0");
    asked->is_silent = pl_memcached_is(word, "noreply");
    return asked->is_silent;
}

/* Takes the word that comes, if it is one of those. False: what must be there is not. */
static bool read_word(char what, struct pool_bytes *text, struct asked *asked)
{
    struct pool_bytes rest = *text, word = { NULL, 0 };
    bool may_miss = what == 'T' || what == '0' || what == 'r', is_it;

    if (what == '*')
        return read_flags(text, asked);
    if (!pl_memcached_word(&rest, &word))
        return may_miss;
    is_it = may_miss ? is_optional(what, word, asked) : is_needed(what, word, asked);
    if (is_it)
        *text = rest;
    return is_it || may_miss;
}

static const struct command *find_command(struct pool_bytes name)
{
    for (size_t i = 0; i < PL_COUNT(commands); i++)
        if (pl_memcached_is(name, commands[i].name))
            return &commands[i];
    return NULL;
}

/* Reads a line without its end. */
static bool read_line(struct pool_bytes line, struct asked *asked)
{
    struct pool_bytes word;

    *asked = (struct asked){ 0 };
    if (!pl_memcached_word(&line, &word))
        return false;
    asked->command = find_command(word);
    if (!asked->command)
        return false;
    for (const char *what = asked->command->words; *what; what++) {
        if (!read_word(*what, &line, asked))
            return false;
        while (*what == 'K' && line.data)
            if (!read_word(*what, &line, asked))
                return false;
    }
    asked->is_quiet &= asked->command->shapes == PL_MEMCACHED_META;
    return !line.data; /* nothing is left of it */
}

/* The end of the line at `start`, which is its '\r'; NULL: it is none, or not clean. */
static const char *line_end(const char *start, size_t size)
{
    const char *end = memchr(start, '\r', size);

    if (!end || (size_t)(end - start) + 2 > size || end[1] != '\n')
        return NULL;
    for (const char *at = start; at < end; at++)
        if ((unsigned char)*at < ' ' || *at == 0x7f)
            return NULL;
    return end;
}

/* Takes one command from the front of *body. */
static bool take_command(struct pool_bytes *body, struct asked *asked)
{
    const char *start = body->data;
    const char *end = line_end(start, body->size);
    size_t size, left;

    if (!end || !read_line((struct pool_bytes){ start, (size_t)(end - start) }, asked))
        return false;
    size = (size_t)(end - start) + 2;
    left = body->size - size;
    if (asked->has_data) {
        if (left < 2 || asked->data > left - 2 || memcmp(end + 2 + asked->data, "\r\n", 2) != 0)
            return false;
        size += asked->data + 2;
    }
    *body = (struct pool_bytes){ start + size, body->size - size };
    return true;
}

static bool add(struct sum *sum, const struct asked *asked)
{
    unsigned shapes = asked->is_silent ? 0 : asked->command->shapes;

    if (sum->replies == UINT32_MAX)
        return false;
    sum->last = asked->command->shapes;
    sum->replies += shapes != 0;
    sum->noops += shapes == PL_MEMCACHED_NOOP;
    sum->is_quiet |= asked->is_quiet;
    sum->shapes |= shapes | (asked->has_data ? PL_MEMCACHED_DATA : 0);
    return true;
}

/* Quiet commands answer when they like, so only the MN behind them tells where the answers end. */
static bool make_batch(struct sum *sum)
{
    const unsigned fitting = PL_MEMCACHED_META | PL_MEMCACHED_NOOP | PL_MEMCACHED_DATA;

    if ((sum->shapes & ~fitting) || sum->last != PL_MEMCACHED_NOOP)
        return false;
    sum->replies = sum->noops;
    sum->shapes = PL_MEMCACHED_BATCH | (sum->shapes & PL_MEMCACHED_DATA);
    return true;
}

enum pool_status pl_memcached_count(struct pool_bytes body, struct pool_expect *expect)
{
    struct sum sum = { 0 };
    struct asked asked;

    if (!body.size)
        return POOL_E_ARGUMENT;
    while (body.size)
        if (!take_command(&body, &asked) || !add(&sum, &asked))
            return POOL_E_ARGUMENT;
    if (sum.is_quiet && !make_batch(&sum))
        return POOL_E_ARGUMENT;
    expect->replies = sum.replies;
    expect->hint = sum.replies ? sum.shapes : 0;
    return POOL_OK;
}
