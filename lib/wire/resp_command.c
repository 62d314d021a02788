/* resp_command.c: commands as they are sent to Redis, and how many replies they have: arrays of
 * strings, one or several. Inline commands are refused, since what a line of blanks or quotes is
 * answered with is the server's secret. */
#include "wire/resp.h"
#include "wire/text.h"

#define DIGITS 19u /* of 2^63 */
#define REFUSED UINT64_MAX

enum pl_found pl_resp_number(struct pool_bytes in, size_t at, uint64_t *number, size_t *end)
{
    const unsigned char *bytes = in.data;
    size_t first = at;
    uint64_t sum = 0;

    for (; at < in.size && bytes[at] >= '0' && bytes[at] <= '9'; at++) {
        if (at - first == DIGITS || (at > first && bytes[first] == '0'))
            return PL_BAD;
        sum = sum * 10 + (bytes[at] - '0'); /* 19 digits fit */
    }
    if (at == in.size)
        return PL_MORE;
    if (at == first || bytes[at] != '\r' || sum > (uint64_t)1 << 63)
        return PL_BAD;
    if (at + 1 == in.size)
        return PL_MORE;
    if (bytes[at + 1] != '\n')
        return PL_BAD;
    *number = sum;
    *end = at + 2;
    return PL_WHOLE;
}

const char *pl_resp_confirmation(uint64_t hint)
{
    static const char *const words[] = { [PL_RESP_ANY] = NULL,
                                         [PL_RESP_SUBSCRIBE] = "subscribe",
                                         [PL_RESP_PSUBSCRIBE] = "psubscribe",
                                         [PL_RESP_SSUBSCRIBE] = "ssubscribe",
                                         [PL_RESP_UNSUBSCRIBE] = "unsubscribe",
                                         [PL_RESP_PUNSUBSCRIBE] = "punsubscribe" };

    return hint < PL_COUNT(words) ? words[hint] : NULL;
}

struct command {
    uint64_t words;
    struct pool_bytes name, second; /* the second is empty where there is one word only */
};

/* A line of `type` and a number; moves *at behind it. */
static bool read_line(struct pool_bytes in, size_t *at, char type, uint64_t *number)
{
    const char *bytes = in.data;

    if (*at == in.size || bytes[*at] != type)
        return false;
    return pl_resp_number(in, *at + 1, number, at) == PL_WHOLE;
}

static bool read_word(struct pool_bytes in, size_t *at, struct pool_bytes *word)
{
    const char *bytes = in.data;
    uint64_t size;

    if (!read_line(in, at, '$', &size))
        return false;
    if (in.size - *at < 2 || size > in.size - *at - 2)
        return false;
    *word = (struct pool_bytes){ bytes + *at, (size_t)size };
    *at += (size_t)size + 2;
    return bytes[*at - 2] == '\r' && bytes[*at - 1] == '\n';
}

static bool read_command(struct pool_bytes in, size_t *at, struct command *command)
{
    struct pool_bytes word;

    *command = (struct command){ .words = 0 };
    if (!read_line(in, at, '*', &command->words) || !command->words)
        return false;
    for (uint64_t i = 0; i < command->words; i++) {
        if (!read_word(in, at, &word))
            return false;
        if (i == 0)
            command->name = word;
        else if (i == 1)
            command->second = word;
    }
    return true;
}

static bool is_named(struct pool_bytes word, const char *name)
{
    return pl_is_word(word.data, word.size, name);
}

/* "HELLO 2" behind a subscription would make messages look like replies. */
static bool leaves_resp3(const struct command *command)
{
    return is_named(command->name, "hello") && command->words > 1 &&
           !is_named(command->second, "3");
}

/* Its hint, or REFUSED: it has no reply, or several, or one at times, or shifts those of others. */
static uint64_t hint_of(const struct command *command)
{
    static const struct {
        const char *name, *second; /* NULL: any, or none */
        uint64_t hint;
    } known[] = { { "quit", NULL, PL_RESP_QUIT },
                  { "sync", NULL, REFUSED },
                  { "psync", NULL, REFUSED },
                  { "monitor", NULL, REFUSED },
                  { "replconf", NULL, REFUSED },
                  { "client", "reply", REFUSED },
                  { "script", "debug", REFUSED },
                  { "cluster", "syncslots", REFUSED },
                  { "subscribe", NULL, PL_RESP_SUBSCRIBE },
                  { "psubscribe", NULL, PL_RESP_PSUBSCRIBE },
                  { "ssubscribe", NULL, PL_RESP_SSUBSCRIBE },
                  { "unsubscribe", NULL, PL_RESP_UNSUBSCRIBE },
                  { "punsubscribe", NULL, PL_RESP_PUNSUBSCRIBE },
                  /* it may come unasked, when a slot moves */
                  { "sunsubscribe", NULL, REFUSED } };

    for (size_t i = 0; i < PL_COUNT(known); i++)
        if (is_named(command->name, known[i].name) &&
            (!known[i].second || is_named(command->second, known[i].second)))
            return known[i].hint;
    return leaves_resp3(command) ? REFUSED : PL_RESP_ANY;
}

/* Until a transaction ends, whatever comes on its connection is queued, also what others ask, and
 * answered by its end. With words too many an end may be refused. */
static bool is_in_transaction(const struct command *command, bool was_in)
{
    if (is_named(command->name, "multi"))
        return true;
    return was_in && !(command->words == 1 && (is_named(command->name, "exec") ||
                                               is_named(command->name, "discard")));
}

enum pool_status pl_resp_commands(struct pool_bytes bytes, struct pool_expect *expect)
{
    struct command command;
    bool is_open = false;
    size_t at = 0;

    do {
        if (expect->hint || expect->replies == UINT32_MAX)
            return POOL_E_ARGUMENT; /* a hint is of one reply */
        if (!read_command(bytes, &at, &command))
            return POOL_E_ARGUMENT;
        expect->hint = hint_of(&command);
        if (expect->hint == REFUSED || (expect->hint && expect->replies))
            return POOL_E_ARGUMENT;
        if (pl_resp_confirmation(expect->hint) && command.words != 2)
            return POOL_E_ARGUMENT; /* there is one for each channel, or one error */
        is_open = is_in_transaction(&command, is_open);
        expect->replies++;
    } while (at < bytes.size);
    return is_open ? POOL_E_ARGUMENT : POOL_OK;
}
