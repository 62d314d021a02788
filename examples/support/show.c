/* show.c: what a demo shows: a line of progress for each of its parts, and a table at the end. */
#include "support/show.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { TROUBLES = 5 };

static uint64_t now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

/* Writes a number with its thousands apart: 200,000. */
static const char *spell(uint64_t number, char text[32])
{
    char digits[24];
    int size = snprintf(digits, sizeof(digits), "%" PRIu64, number);
    char *to = text;

    for (int digit = 0; digit < size; digit++) {
        if (digit && (size - digit) % 3 == 0)
            *to++ = ',';
        *to++ = digits[digit];
    }
    *to = '\0';
    return text;
}

static void draw(struct show *show, uint64_t done, uint64_t now, bool is_last)
{
    char seen[32], total[32];

    printf("%s%-52s %9s of %9s %6.1f s%s", show->is_terminal ? "\r\033[K" : "", show->title,
           spell(done, seen), spell(show->total, total), (double)(now - show->start_ns) / 1e9,
           is_last || !show->is_terminal ? "\n" : "");
    fflush(stdout);
}

void show_init(struct show *show)
{
    memset(show, 0, sizeof(*show));
    show->is_terminal = isatty(STDOUT_FILENO);
}

void show_begin(struct show *show, const char *title, uint64_t total)
{
    show->title = title;
    show->total = total;
    show->start_ns = now_ns();
    show->done = 0;
    show->draw_ns = show->start_ns + (show->is_terminal ? 0 : 1000000000);
}

void show_step(struct show *show)
{
    uint64_t done = atomic_fetch_add(&show->done, 1) + 1;
    uint64_t due = show->draw_ns, now = now_ns();

    /* Whoever moves the time of the next drawing draws; the others go on. */
    if (now >= due && done < show->total &&
        atomic_compare_exchange_strong(&show->draw_ns, &due,
                                       now + (show->is_terminal ? 50000000 : 1000000000)))
        draw(show, done, now, false);
}

void show_end(struct show *show)
{
    draw(show, show->done, now_ns(), true);
}

void show_trouble(struct show *show, const char *text)
{
    if (atomic_fetch_add(&show->troubles, 1) < TROUBLES)
        fprintf(stderr, "%s%s\n", show->is_terminal ? "\r\033[K" : "", text);
}

void show_check(struct show *show, const char *what, enum show_relation relation, uint64_t expected,
                uint64_t seen)
{
    if (show->row_count < SHOW_ROWS)
        show->rows[show->row_count++] = (struct show_row){ what, relation, expected, seen };
}

static bool is_right(const struct show_row *row)
{
    if (row->relation == SHOW_EXACTLY)
        return row->seen == row->expected;
    return row->relation == SHOW_AT_MOST ? row->seen <= row->expected : row->seen >= row->expected;
}

bool show_table(struct show *show)
{
    static const char *const relations[] = { "", "at most ", "at least " };
    bool is_all_right = show->row_count > 0 && !show->troubles;
    char expected[48], number[32], seen[32];

    printf("\n%-52s %18s %12s\n", "what happened", "expected", "seen");
    for (int index = 0; index < show->row_count; index++) {
        const struct show_row *row = &show->rows[index];

        snprintf(expected, sizeof(expected), "%s%s", relations[row->relation],
                 spell(row->expected, number));
        printf("%-52s %18s %12s  %s\n", row->what, expected, spell(row->seen, seen),
               is_right(row) ? "ok" : "WRONG");
        is_all_right &= is_right(row);
    }
    if (show->troubles)
        printf("%" PRIu64 " calls failed\n", show->troubles);
    puts(is_all_right ? "\nEverything was as expected." : "\nSomething was NOT as expected.");
    return is_all_right;
}
