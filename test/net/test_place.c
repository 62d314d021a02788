/* test_place.c: in which order a dial tries the places that a name stands for. Pure. */
#include "net/place.h"

#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "support/tests.h"

#define SECOND UINT64_C(1000000000)

static union pl_ip place(const char *text)
{
    union pl_ip made = { 0 };

    if (inet_pton(AF_INET, text, &made.ipv4.sin_addr) == 1)
        made.any.sa_family = AF_INET;
    else if (inet_pton(AF_INET6, text, &made.ipv6.sin6_addr) == 1)
        made.any.sa_family = AF_INET6;
    else
        cr_assert_fail("%s", text);
    return made;
}

/* "a b c" as places; answers how many. */
static uint32_t places(const char *text, union pl_ip *all)
{
    char copy[256], *rest = copy;
    uint32_t count = 0;

    strcpy(copy, text);
    for (char *one; (one = strtok_r(rest, " ", &rest));)
        all[count++] = place(one);
    return count;
}

static void expect_order(const char *before, const struct pl_grudges *grudges, uint64_t now_ns,
                         const char *after)
{
    union pl_ip got[16], wanted[16];
    uint32_t count = places(before, got);

    cr_assert_eq(places(after, wanted), count);
    pl_places_order(got, count, grudges, now_ns);
    for (uint32_t i = 0; i < count; i++)
        cr_expect(pl_place_is_same(&got[i], &wanted[i]), "place %u of \"%s\"", i, before);
}

Test(place, families_take_turns_beginning_with_that_of_the_first)
{
    expect_order("", NULL, 0, "");
    expect_order("1.1.1.1", NULL, 0, "1.1.1.1");
    expect_order("::1 ::2 1.1.1.1 1.1.1.2", NULL, 0, "::1 1.1.1.1 ::2 1.1.1.2");
    expect_order("1.1.1.1 1.1.1.2 1.1.1.3 ::1", NULL, 0, "1.1.1.1 ::1 1.1.1.2 1.1.1.3");
    expect_order("::1 ::2 ::3 1.1.1.1", NULL, 0, "::1 1.1.1.1 ::2 ::3");
    expect_order("1.1.1.1 1.1.1.2", NULL, 0, "1.1.1.1 1.1.1.2");
}

Test(place, what_failed_lately_comes_last_for_a_while)
{
    struct pl_grudges grudges = { 0 };
    union pl_ip bad = place("::1"), worse = place("1.1.1.1");

    pl_grudge_bear(&grudges, &bad, SECOND);
    expect_order("::1 ::2 1.1.1.1 1.1.1.2", &grudges, 2 * SECOND, "::2 1.1.1.1 1.1.1.2 ::1");
    pl_grudge_bear(&grudges, &worse, SECOND);
    expect_order("::1 ::2 1.1.1.1 1.1.1.2", &grudges, 2 * SECOND, "::2 1.1.1.2 ::1 1.1.1.1");
    expect_order("::1 ::2 1.1.1.1 1.1.1.2", &grudges, SECOND + PL_GRUDGE_NS,
                 "::1 1.1.1.1 ::2 1.1.1.2");
}

Test(place, a_success_forgives)
{
    struct pl_grudges grudges = { 0 };
    union pl_ip bad = place("::1");

    pl_grudge_bear(&grudges, &bad, SECOND);
    cr_expect(pl_grudge_is_borne(&grudges, &bad, SECOND));
    pl_grudge_forget(&grudges, &bad);
    cr_expect_not(pl_grudge_is_borne(&grudges, &bad, SECOND));
    pl_grudge_forget(&grudges, &bad);
}

Test(place, the_oldest_grudge_makes_way_for_one_too_many)
{
    struct pl_grudges grudges = { 0 };
    union pl_ip one;
    char text[16];

    for (unsigned i = 0; i <= PL_GRUDGES; i++) {
        snprintf(text, sizeof(text), "10.0.0.%u", i);
        one = place(text);
        pl_grudge_bear(&grudges, &one, SECOND + i);
        pl_grudge_bear(&grudges, &one, SECOND + i); /* the same one takes no room */
    }
    for (unsigned i = 0; i <= PL_GRUDGES; i++) {
        snprintf(text, sizeof(text), "10.0.0.%u", i);
        one = place(text);
        cr_expect_eq(pl_grudge_is_borne(&grudges, &one, 2 * SECOND), i > 0, "%s", text);
    }
}

Test(place, each_place_is_tried_once)
{
    union pl_ip all[16], scoped[2] = { place("fe80::1"), place("fe80::1") };
    uint32_t count = places("::1 1.1.1.1 ::1 ::2 1.1.1.1 1.1.1.1", all);

    cr_expect_eq(pl_places_unique(all, count), 3u);
    scoped[1].ipv6.sin6_scope_id = 2;
    cr_expect_eq(pl_places_unique(scoped, 2), 2u, "a zone makes two of one");
}
