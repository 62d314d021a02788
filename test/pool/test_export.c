/* test_export.c: a pool's numbers as text: valid for whoever gathers them, and of exactly the size
 * that was told. */
#include <criterion/criterion.h>
#include <regex.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "support/peer.h"
#include "support/tests.h"
#include "support/verbs.h"

typedef enum pool_status export_fn(struct pool *pool, char *text, size_t size, size_t *needed);

static export_fn *const exports[] = { pool_stats_json, pool_stats_openmetrics };

static struct peer *peer;
static struct pool *pool;
static struct pool_conn kept; /* lent as long as a case runs */

/* A pool in which most numbers are something else than 0, and which stays as it is. */
static void begin(void)
{
    struct pool_conn other;

    peer = PEER();
    pool = MAKE_POOL(.max_per_address = 3);
    cr_assert(borrow(pool, peer_address(peer), &kept));
    cr_assert(borrow(pool, peer_address(peer), &other));
    cr_assert_eq(echo(&kept, "a few bytes"), 0);
    cr_assert_eq(pool_discard(&other), POOL_OK);
    cr_assert_eq(talk(pool, peer_address(peer)), POOL_OK);
    cr_assert_eq(talk(pool, peer_address(peer)), POOL_OK);
    cr_assert_eq(pool_communicate(pool, "tcp://nonsense", do_nothing, NULL, NULL), POOL_E_ADDRESS);
    cr_assert(WAIT_STAT(pool, total, 2));
}

static void end(void)
{
    cr_assert_eq(pool_discard(&kept), POOL_OK);
    pool_destroy(pool);
    peer_stop(peer);
}

TestSuite(pool_export, .init = begin, .fini = end);

static char *text_of_pool(export_fn *export, struct pool *of)
{
    size_t needed = 0;
    char *text;

    cr_assert_eq(export(of, NULL, 0, &needed), POOL_E_FULL, "nothing fits into no room");
    needed += 16; /* the mux may wake up meanwhile, and its number grow by a digit */
    text = malloc(needed);
    cr_assert_eq(export(of, text, needed, &needed), POOL_OK);
    cr_assert_eq(strlen(text) + 1, needed);
    return text;
}

static char *text_of(export_fn *export)
{
    return text_of_pool(export, pool);
}

/* ---- JSON */

static const char script[] =
    "import json, sys\n"
    "told = json.load(open(sys.argv[1]))\n"
    "closed = told.pop('closed')\n"
    "told.pop('wakeups')\n"
    "print(' '.join(f'{name}={told[name]}' for name in told), "
    "' '.join(f'{name}={closed[name]}' for name in closed))\n";

/* What Python's reader of JSON finds in `json`. */
static const char *read_by_python(const char *json)
{
    static char line[4096];
    char folder[256], path[300], command[2048];
    FILE *file;

    cr_assert(make_temp_dir(folder, sizeof(folder)));
    snprintf(path, sizeof(path), "%s/stats.json", folder);
    file = fopen(path, "w");
    cr_assert_not_null(file);
    fputs(json, file);
    fclose(file);
    snprintf(command, sizeof(command), "python3 -c \"%s\" %s", script, path);
    file = popen(command, "r");
    cr_assert_not_null(file);
    if (!fgets(line, sizeof(line), file))
        *line = '\0';
    cr_expect_eq(pclose(file), 0);
    remove_temp_dir(folder);
    return line;
}

Test(pool_export, json_is_read_by_pythons_reader_and_says_what_the_snapshot_says)
{
    struct pool_stats stats = { .size = sizeof(stats) };
    char *text = text_of(pool_stats_json), expected[4096];

    cr_assert_eq(pool_stats(pool, &stats), POOL_OK);
    cr_assert_eq(stats.lent, 1);
    cr_assert_eq(stats.idle, 1);
    cr_assert_eq(stats.borrow_failed, 1);
    cr_assert_gt(stats.bytes_in, 0);
#define N(field) (unsigned long long)stats.field
    snprintf(expected, sizeof(expected),
             "idle=%llu lent=%llu shared=0 opening=0 closing=0 total=%llu waiting=0 borrowed=%llu "
             "reused=%llu opened=%llu evicted=0 stolen=0 borrow_failed=%llu timeouts=0 retries=0 "
             "queries=0 late_replies=0 orphans=0 bytes_in=%llu bytes_out=%llu "
             "idle=0 age=0 uses=0 stale=0 evicted=0 error=0 dirty=%llu peer=0 stolen=0 pool=0 "
             "detached=0\n",
             N(idle), N(lent), N(total), N(borrowed), N(reused), N(opened), N(borrow_failed),
             N(bytes_in), N(bytes_out), N(closed[POOL_CLOSE_DIRTY]));
    cr_expect_str_eq(read_by_python(text), expected);
    free(text);
}

/* ---- OpenMetrics */

static bool matches(const char *line, const char *pattern, char *first)
{
    regmatch_t parts[3];
    regex_t regex;
    bool matches;

    cr_assert_eq(regcomp(&regex, pattern, REG_EXTENDED), 0);
    matches = regexec(&regex, line, 3, parts, 0) == 0;
    if (matches && first)
        sprintf(first, "%.*s", (int)(parts[1].rm_eo - parts[1].rm_so), line + parts[1].rm_so);
    regfree(&regex);
    return matches;
}

#define NAME "([a-z][a-z0-9_]*)"

/* Holds each line against the grammar of the format: metadata before samples, each family in one
 * piece, counters ending in _total, the end mark last. */
struct reader {
    char family[128], type[16], seen[8192];
    bool has_help, is_over;
    unsigned samples;
};

static void begin_family(struct reader *reader, const char *line)
{
    char mark[160];

    cr_assert(matches(line, "^# TYPE " NAME " (gauge|counter)$", reader->family), "%s", line);
    snprintf(mark, sizeof(mark), " %s ", reader->family);
    cr_expect_null(strstr(reader->seen, mark), "%s comes twice", reader->family);
    strcat(reader->seen, mark);
    snprintf(reader->type, sizeof(reader->type), "%s", strrchr(line, ' ') + 1);
    reader->has_help = false;
}

static void read_sample(struct reader *reader, const char *line)
{
    bool is_counter = strcmp(reader->type, "counter") == 0;
    char expected[256], name[256];

    cr_assert(matches(line, "^" NAME "(\\{([a-z]+=\"[a-z]+\",?)+\\})? [0-9]+$", name), "%s", line);
    snprintf(expected, sizeof(expected), "%s%s", reader->family, is_counter ? "_total" : "");
    cr_expect_str_eq(name, expected);
    cr_expect(reader->has_help);
    reader->samples++;
}

static void read_line(struct reader *reader, const char *line)
{
    char name[256];

    cr_expect_not(reader->is_over, "something after the end: %s", line);
    if (strcmp(line, "# EOF") == 0) {
        reader->is_over = true;
    } else if (strncmp(line, "# TYPE ", 7) == 0) {
        begin_family(reader, line);
    } else if (strncmp(line, "# UNIT ", 7) == 0) {
        cr_assert(matches(line, "^# UNIT (.*_bytes) bytes$", name), "%s", line);
        cr_expect_str_eq(name, reader->family);
    } else if (strncmp(line, "# HELP ", 7) == 0) {
        cr_assert(matches(line, "^# HELP " NAME " [A-Z][^\\]*$", name), "%s", line);
        cr_expect_str_eq(name, reader->family);
        reader->has_help = true;
    } else {
        read_sample(reader, line);
    }
}

Test(pool_export, openmetrics_follows_the_grammar_and_the_names_of_opentelemetry)
{
    char *text = text_of(pool_stats_openmetrics), *rest = text, *line;
    struct reader reader = { .type = "" };

    cr_expect_not_null(strstr(text, "\ndb_client_connection_count{state=\"idle\"} 1\n"));
    cr_expect_not_null(strstr(text, "\ndb_client_connection_count{state=\"used\"} 1\n"));
    cr_expect_not_null(strstr(text, "\ndb_client_connection_pending_requests 0\n"));
    cr_expect_not_null(strstr(text, "\ndb_client_connection_timeouts_total 0\n"));
    cr_expect_not_null(strstr(text, "\ndb_client_connection_closed_total{reason=\"dirty\"} 1\n"));
    cr_expect_eq(text[strlen(text) - 1], '\n');
    while ((line = strsep(&rest, "\n")) && rest)
        read_line(&reader, line);
    cr_expect(reader.is_over);
    cr_expect_gt(reader.samples, 30);
    free(text);
}

/* A sample with a label for its pool, as observe.h says. */
static void read_labelled(struct reader *reader, const char *line, const char *name)
{
    const char *labels = strchr(line, '{'), *rest = labels ? labels + 1 : strchr(line, ' ');
    char labelled[256];

    snprintf(labelled, sizeof(labelled), "%.*s{pool=\"%s\"%s%s", (int)strcspn(line, "{ "), line,
             name, labels ? "," : "}", rest);
    read_line(reader, labelled);
}

Test(pool_export, openmetrics_of_several_pools_is_joined_line_by_line)
{
    struct pool *other = MAKE_POOL();
    char *texts[] = { text_of(pool_stats_openmetrics),
                      text_of_pool(pool_stats_openmetrics, other) };
    char *rest[] = { texts[0], texts[1] }, *line, *same;
    struct reader reader = { .type = "" };

    while ((line = strsep(&rest[0], "\n")) && (same = strsep(&rest[1], "\n")) && rest[0]) {
        cr_expect_eq(strncmp(line, same, strcspn(line, " ") + 1), 0, "%s: %s", line, same);
        if (*line == '#') {
            cr_expect_str_eq(line, same);
            read_line(&reader, line);
        } else {
            read_labelled(&reader, line, "first");
            read_labelled(&reader, same, "second");
        }
    }
    cr_expect(reader.is_over);
    cr_expect_null(rest[1], "both end at once");
    free(texts[0]);
    free(texts[1]);
    pool_destroy(other);
}

/* ---- sizes */

Test(pool_export, not_one_byte_beyond_the_size_is_written_and_the_size_needed_is_exact)
{
    for (size_t which = 0; which < 2; which++) {
        size_t whole = 0, needed;
        char text[8192];

        exports[which](pool, NULL, 0, &whole);
        for (size_t size = 0; size <= whole + 1; size++) {
            memset(text, 'g', sizeof(text));
            needed = 0;
            cr_assert_eq(exports[which](pool, text, size, &needed),
                         size < needed ? POOL_E_FULL : POOL_OK, "%zu of %zu", size, needed);
            cr_assert_leq(needed, whole + 2);
            cr_assert_geq(needed, whole);
            for (size_t i = size; i < size + 64; i++)
                cr_assert_eq(text[i], 'g', "byte %zu with room for %zu", i, size);
        }
        cr_expect_eq(strlen(text) + 1, needed);
    }
}

Test(pool_export, what_is_missing_is_an_argument_error)
{
    for (size_t which = 0; which < 2; which++) {
        size_t needed;
        char text[8];

        cr_expect_eq(exports[which](NULL, text, sizeof(text), &needed), POOL_E_ARGUMENT);
        cr_expect_eq(exports[which](pool, text, sizeof(text), NULL), POOL_E_ARGUMENT);
        cr_expect_eq(exports[which](pool, NULL, 1, &needed), POOL_E_ARGUMENT);
    }
}
