/* show.h: what a demo shows: a line of progress for each of its parts, and a table at the end.
 *
 * On a terminal the line is redrawn in place; elsewhere a plain line is printed now and then. Steps
 * and trouble may be told by any thread, all else by one. */
#ifndef EXAMPLES_SHOW_H
#define EXAMPLES_SHOW_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

enum { SHOW_ROWS = 32 };

enum show_relation { SHOW_EXACTLY, SHOW_AT_MOST, SHOW_AT_LEAST };

struct show_row {
    const char *what;
    enum show_relation relation;
    uint64_t expected, seen;
};

struct show {
    bool is_terminal;
    const char *title;
    uint64_t total, start_ns;
    _Atomic uint64_t done, draw_ns, troubles;
    struct show_row rows[SHOW_ROWS];
    int row_count;
};

void show_init(struct show *show);

/* One part: `total` steps under a title, from begin to end. */
void show_begin(struct show *show, const char *title, uint64_t total);
void show_step(struct show *show);
void show_end(struct show *show);

/* Prints what failed; after the first few it only counts. */
void show_trouble(struct show *show, const char *text);

/* Notes one thing that was checked, for the table. The text is not copied. */
void show_check(struct show *show, const char *what, enum show_relation relation, uint64_t expected,
                uint64_t seen);

/* Prints the table; answers whether everything was as expected and there was no trouble. */
bool show_table(struct show *show);

#endif
