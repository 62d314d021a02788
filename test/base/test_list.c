/* test_list.c: the intrusive list keeps order, knows what is linked, and refuses to link or unlink
 * twice. */
#include "base/list.h"

#include <criterion/criterion.h>

#include "support/tests.h"

#define NODES 6

static struct pl_list list, other, nodes[NODES];

static void begin(void)
{
    pl_list_init(&list);
    pl_list_init(&other);
}

TestSuite(list, .init = begin);

/* `from` holds exactly the nodes whose digits `order` names, forwards and backwards. */
static bool holds(const struct pl_list *from, const char *order)
{
    const struct pl_list *node = from->next, *before = from;

    for (; *order; order++, before = node, node = node->next) {
        if (node != &nodes[*order - '0'] || node->previous != before)
            return false;
    }
    return node == from && from->previous == before;
}

static void push_back(struct pl_list *to, const char *order)
{
    for (; *order; order++)
        pl_list_push_back(to, &nodes[*order - '0']);
}

Test(list, back_is_behind_and_front_is_before_all_others)
{
    push_back(&list, "01");
    pl_list_push_front(&list, &nodes[2]);
    pl_list_link_before(&nodes[0], &nodes[3]);
    cr_expect(holds(&list, "2301"));
    cr_expect_not(pl_list_is_empty(&list));
}

Test(list, a_node_is_linked_from_push_to_unlink)
{
    cr_expect_not(pl_list_is_linked(&nodes[0]));
    push_back(&list, "01");
    cr_expect(pl_list_is_linked(&nodes[0]));
    pl_list_unlink(&nodes[0]);
    cr_expect_not(pl_list_is_linked(&nodes[0]));
    cr_expect(holds(&list, "1"));
    pl_list_push_back(&list, &nodes[0]);
    cr_expect(holds(&list, "10"));
}

Test(list, drop_unlinks_what_is_linked_and_nothing_else)
{
    push_back(&list, "012");
    pl_list_drop(&nodes[1]);
    cr_expect(holds(&list, "02"));
    pl_list_drop(&nodes[1]);
    cr_expect(holds(&list, "02"));
    cr_expect_not(pl_list_is_linked(&nodes[1]));
}

Test(list, pop_takes_the_front_until_nothing_is_left)
{
    push_back(&list, "012");
    cr_expect_eq(pl_list_pop_front(&list), &nodes[0]);
    cr_expect_eq(pl_list_pop_front(&list), &nodes[1]);
    cr_expect_eq(pl_list_pop_front(&list), &nodes[2]);
    cr_expect_null(pl_list_pop_front(&list));
    cr_expect(pl_list_is_empty(&list));
}

Test(list, moving_all_appends_in_order_and_leaves_an_empty_list)
{
    push_back(&list, "01");
    push_back(&other, "23");
    pl_list_move_all(&list, &other);
    cr_expect(holds(&list, "0123"));
    cr_expect(holds(&other, ""));
    pl_list_move_all(&list, &other);
    cr_expect(holds(&list, "0123"));
    pl_list_move_all(&other, &list);
    cr_expect(holds(&other, "0123"));
    cr_expect(holds(&list, ""));
}

Test(list, a_walk_survives_that_the_node_in_hand_leaves)
{
    char met[NODES + 1] = "";
    size_t count = 0;

    push_back(&list, "012345");
    PL_LIST_EACH(node, &list) {
        size_t index = (size_t)(node - nodes);

        met[count++] = (char)('0' + index);
        if (index % 2) {
            pl_list_unlink(node);
            pl_list_push_back(&other, node);
        }
    }
    cr_expect_str_eq(met, "012345");
    cr_expect(holds(&list, "024"));
    cr_expect(holds(&other, "135"));
}

static void link_it_twice(void)
{
    push_back(&list, "0");
    pl_list_push_back(&other, &nodes[0]);
}

Test(list, linking_a_linked_node_ends_the_process)
{
    cr_expect(aborts_saying("invariant broken: !pl_list_is_linked(node)", link_it_twice));
}

static void unlink_it_twice(void)
{
    pl_list_unlink(&nodes[0]);
}

Test(list, unlinking_an_unlinked_node_ends_the_process)
{
    cr_expect(aborts_saying("invariant broken: pl_list_is_linked(node)", unlink_it_twice));
}
