/* test_black_hole.c: a host with an address of each family, one of which leads into a black hole:
 * packets leave and nothing ever comes back. The other one serves in no time.
 *
 * The network is one of the test's own, in namespaces of a child: no other host is reached, and
 * nothing of the machine changes. Where the machine does not let us make one, the tests are
 * skipped. The name stands in the /etc/hosts of that child. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "support/child.h"
#include "support/verbs.h"

#define NO_NAMESPACE 77

/* One end of a cable is ours and asks for no neighbour; at the other end nobody listens to what it
 * brings. */
static const char network[] =
    "ip link set lo up && ip link add black type veth peer name hole && "
    "ip link set black arp off && ip link set black up && ip link set hole up && "
    "ip -6 addr add 2001:db8::1/64 dev black nodad && ip addr add 192.0.2.1/24 dev black";

static bool write_file(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
    bool is_written = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);

    if (fd >= 0)
        close(fd);
    return is_written;
}

static bool become_root_here(void)
{
    unsigned uid = geteuid(), gid = getegid();
    char text[64];

    if (unshare(CLONE_NEWUSER) || !write_file("/proc/self/setgroups", "deny"))
        return false;
    snprintf(text, sizeof(text), "0 %u 1", uid);
    if (!write_file("/proc/self/uid_map", text))
        return false;
    snprintf(text, sizeof(text), "0 %u 1", gid);
    return write_file("/proc/self/gid_map", text);
}

/* From here on this process has a network and an /etc/hosts of its own. */
static bool enter_namespaces(const char *hosts)
{
    char path[] = "/tmp/hosts.XXXXXX";
    int fd;
    bool is_mounted;

    if (geteuid() != 0 && !become_root_here())
        return false;
    if (unshare(CLONE_NEWNET | CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL))
        return false;
    fd = mkstemp(path);
    if (fd < 0)
        return false;
    close(fd);
    is_mounted = write_file(path, hosts) && mount(path, "/etc/hosts", NULL, MS_BIND, NULL) == 0;
    unlink(path);
    return is_mounted && system(network) == 0;
}

struct place {
    const char *hosts;
    int family;                     /* of the peer that serves */
    uint64_t first_ms, most_ms;     /* what the first connection takes */
};

static int connect_past_it(void *argument)
{
    const struct place *place = argument;
    struct pool_conn conn;
    struct peer *peer;
    struct pool *pool;
    char address[64];
    uint64_t start_ms;

    if (!enter_namespaces(place->hosts))
        return NO_NAMESPACE;
    CHILD_NEEDS((peer = PEER(.family = place->family)) && (pool = MAKE_POOL()));
    snprintf(address, sizeof(address), "tcp://db.example:%d", peer_port(peer));
    start_ms = now_ms();
    CHILD_NEEDS(borrow(pool, address, &conn));
    CHILD_NEEDS(WITHIN(elapsed_ms(start_ms), place->first_ms, place->most_ms));
    CHILD_NEEDS(echo(&conn, "across") == 0);
    CHILD_NEEDS(pool_return(&conn) == POOL_OK);
    for (int i = 0; i < 3; i++) {
        CHILD_NEEDS(pool_clear(pool, NULL, 0) == POOL_OK);
        start_ms = now_ms();
        CHILD_NEEDS(talk(pool, address) == POOL_OK);
        CHILD_NEEDS(WITHIN(elapsed_ms(start_ms), 0, 100));
    }
    CHILD_NEEDS(peer_count(peer, PEER_ACCEPTED) == 4);
    pool_destroy(pool);
    peer_stop(peer);
    return 0;
}

static void expect_to_pass(struct place place)
{
    int status = child_run(connect_past_it, &place);

    if (status == NO_NAMESPACE)
        cr_skip("this machine does not let us make a network namespace with a veth device");
    cr_expect_eq(status, 0);
}

TestSuite(black_hole, .timeout = 60);

Test(black_hole, an_address_of_ipv6_that_answers_nothing_costs_250_ms_once)
{
    expect_to_pass((struct place){ .hosts = "127.0.0.1 db.example\n2001:db8::7 db.example\n",
                                   .family = AF_INET, .first_ms = 250, .most_ms = 300 });
}

/* Addresses of IPv6 come first. */
Test(black_hole, an_address_of_ipv4_that_answers_nothing_costs_nothing)
{
    expect_to_pass((struct place){ .hosts = "192.0.2.7 db.example\n::1 db.example\n",
                                   .family = AF_INET6, .first_ms = 0, .most_ms = 100 });
}
