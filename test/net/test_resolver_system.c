/* test_resolver_system.c: what the resolver takes from the system: its files, descriptors, fork. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/os.h"
#include "net/asked.h"
#include "support/dns.h"
#include "support/tests.h"

TestSuite(resolver_system, .init = begin_names, .fini = end_names, .timeout = 60);

/* ---- the system's files */

static char folder[256], hosts[300], resolv_conf[300];

static void write_file(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    cr_assert_geq(fd, 0);
    cr_assert_eq(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    close(fd);
}

static void open_with_files(const char *hosts_text, const char *conf_text)
{
    struct pl_resolver_options options = { .servers = dns_server(dns),
                                           .resolv_conf = resolv_conf,
                                           .hosts = hosts };

    cr_assert(make_temp_dir(folder, sizeof(folder)));
    snprintf(hosts, sizeof(hosts), "%s/hosts", folder);
    snprintf(resolv_conf, sizeof(resolv_conf), "%s/resolv.conf", folder);
    setenv("CARES_HOSTS", hosts, 1);
    write_file(hosts, hosts_text);
    write_file(resolv_conf, conf_text);
    pl_resolver_close(resolver);
    cr_assert_eq(pl_resolver_open(mux, &options, &resolver), POOL_OK);
}

/* The files are looked at once a second: lets two seconds pass in the door's clock. */
static uint64_t skipped_ns;

static uint64_t skipping_now_ns(void)
{
    return pl_os_real.now_ns() + skipped_ns;
}

static void let_a_look_pass(void)
{
    os.now_ns = skipping_now_ns;
    skipped_ns += 2000 * PL_MS;
}

Test(resolver_system, a_host_of_the_hosts_file_is_asked_for_nowhere)
{
    open_with_files("10.9.9.9 printer.example printer\n", "");
    DNS_SAY(dns, "printer.example", .addresses = { "10.0.0.1", "2001:db8::1" }, .ttl = 60);
    look_up(&asked, "printer.example");
    expect_text("10.9.9.9");
    cr_expect_eq(dns_count(dns, "printer.example", 0), 0, "not for the other family either");
    ask_name(&asked, "printer.example", 6);
    await_answer(&asked);
    expect_reason(PL_REASON_NO_ADDRESS);
    remove_temp_dir(folder);
}

Test(resolver_system, localhost_needs_no_server)
{
    static const char *const names[] = { "localhost", "my.localhost" };

    for (size_t i = 0; i < PL_COUNT(names); i++) {
        DNS_SAY(dns, names[i], .addresses = { "10.6.6.6" }, .ttl = 60);
        look_up(&asked, names[i]);
        expect_text("::1 127.0.0.1");
        cr_expect_eq(dns_count(dns, names[i], 0), 0);
    }
    DNS_SAY(dns, "notlocalhost", .addresses = { "10.0.0.1" }, .ttl = 60);
    look_up(&asked, "notlocalhost");
    expect_text("10.0.0.1");
}

Test(resolver_system, the_hosts_file_says_what_localhost_is)
{
    open_with_files("127.0.0.9 localhost\n", "");
    look_up(&asked, "localhost");
    expect_text("127.0.0.9");
    remove_temp_dir(folder);
}

Test(resolver_system, a_changed_hosts_file_is_read_again)
{
    open_with_files("10.9.9.9 printer.example\n", "");
    look_up(&asked, "printer.example");
    expect_text("10.9.9.9");
    write_file(hosts, "10.8.8.88 printer.example\n");
    let_a_look_pass();
    look_up(&asked, "printer.example");
    expect_text("10.8.8.88");
    remove_temp_dir(folder);
}

Test(resolver_system, a_changed_resolv_conf_empties_the_cache_and_lets_old_questions_end)
{
    open_with_files("", "search one.example\n");
    DNS_SAY(dns, "db.one.example", .addresses = { "10.0.0.1" }, .ttl = 600);
    DNS_SAY(dns, "db.two.example", .addresses = { "10.0.0.2" }, .ttl = 600);
    DNS_SAY(dns, "slow.example", .addresses = { "10.0.0.3" }, .ttl = 600, .delay_ms = 300);
    look_up(&asked, "db");
    expect_text("10.0.0.1");
    ask_name(&other, "slow.example", 4);
    write_file(resolv_conf, "search two.example two-more.example\n");
    let_a_look_pass();
    look_up(&asked, "db");
    expect_text("10.0.0.2");
    await_answer(&other);
    cr_expect_str_eq(other.text, "10.0.0.3");
    ask_name(&other, "slow.example", 4);
    cr_expect_not(other.was_cached, "what was asked before is not remembered");
    await_answer(&other);
    remove_temp_dir(folder);
}

Test(resolver_system, files_are_looked_at_at_most_once_a_second)
{
    open_with_files("10.9.9.9 printer.example\n", "");
    look_up(&asked, "printer.example");
    write_file(hosts, "10.8.8.88 printer.example\n");
    ask_name(&asked, "printer.example", 0);
    cr_expect(asked.was_cached);
    expect_text("10.9.9.9");
    remove_temp_dir(folder);
}

Test(resolver_system, a_dotted_name_is_searched_for_only_after_it_failed_as_it_is)
{
    open_with_files("", "search corp.example\n");
    DNS_SAY(dns, "db.prod", .trick = DNS_NXDOMAIN);
    DNS_SAY(dns, "db.prod.corp.example", .addresses = { "10.0.0.7" }, .ttl = 60);
    DNS_SAY(dns, "db.example", .addresses = { "10.0.0.8" }, .ttl = 60);
    look_up(&asked, "db.prod");
    expect_text("10.0.0.7");
    look_up(&asked, "db.example");
    expect_text("10.0.0.8");
    cr_expect_eq(dns_count(dns, "db.example.corp.example", 0), 0);
    ask_name(&asked, "db.prod", 0);
    cr_expect(asked.was_cached);
    look_up(&asked, "nobody.prod");
    expect_reason(PL_REASON_NO_HOST);
    ask_name(&asked, "nobody.prod", 0);
    cr_expect(asked.was_cached, "after the search it is final");
    remove_temp_dir(folder);
}

Test(resolver_system, a_name_with_few_dots_is_searched_for_first)
{
    open_with_files("", "search corp.example\n");
    DNS_SAY(dns, "db", .addresses = { "10.6.6.6" }, .ttl = 60);
    DNS_SAY(dns, "db.corp.example", .addresses = { "10.0.0.7" }, .ttl = 60);
    look_up(&asked, "db");
    expect_text("10.0.0.7");
    cr_expect_eq(dns_count(dns, "db", 0), 0);
    remove_temp_dir(folder);
}

Test(resolver_system, a_search_never_mixes_two_hosts)
{
    open_with_files("", "search one.example two.example\n");
    DNS_SAY(dns, "db.one.example", .addresses = { "10.0.0.1" }, .ttl = 60);
    DNS_SAY(dns, "db.two.example", .addresses = { "2001:db8::2", "10.0.0.2" }, .ttl = 60);
    look_up(&asked, "db");
    expect_text("10.0.0.1");
    ask_name(&asked, "db", 6);
    await_answer(&asked);
    cr_expect_eq(asked.count, 0, "another host's is not its own: %s", asked.text);
    remove_temp_dir(folder);
}

/* ---- descriptors */

Test(resolver_system, no_descriptor_is_a_lack_of_room_and_not_of_a_host)
{
    unsigned limit;

    DNS_SAY(dns, "db.example", .addresses = { "10.0.0.1" }, .ttl = 60);
    limit = set_descriptor_limit((unsigned)descriptors);
    for (int i = 0; i < 2; i++) {
        look_up(&asked, i ? "localhost" : "db.example");
        cr_expect_eq(asked.failure.status, POOL_E_RESOURCE, "%d", asked.failure.status);
        cr_expect_eq(asked.failure.cause, EMFILE);
    }
    set_descriptor_limit(limit);
    look_up(&asked, "db.example");
    expect_text("10.0.0.1");
}

static int no_socket(int family, int type, int protocol)
{
    (void)family, (void)type, (void)protocol;
    return -ENFILE;
}

Test(resolver_system, a_socket_that_cannot_be_had_is_a_lack_of_room)
{
    DNS_SAY(dns, "db.example", .addresses = { "10.0.0.1" }, .ttl = 60);
    os.socket = no_socket;
    look_up(&asked, "db.example");
    cr_expect_eq(asked.failure.status, POOL_E_RESOURCE, "%d", asked.failure.status);
    cr_expect_eq(asked.failure.cause, ENFILE);
    os.socket = pl_os_real.socket;
    look_up(&asked, "db.example");
    expect_text("10.0.0.1");
}

Test(resolver_system, a_server_that_is_not_there_is_no_lack_of_room)
{
    struct pl_resolver_options options = { .servers = "127.0.0.1:1", .hosts = "/dev/null",
                                           .timeout_ms = 200, .tries = 1 };

    pl_resolver_close(resolver);
    cr_assert_eq(pl_resolver_open(mux, &options, &resolver), POOL_OK);
    look_up(&asked, "db.example");
    cr_expect_eq(asked.failure.status, POOL_E_RESOLVE);
    cr_expect(asked.failure.reason == PL_REASON_DNS_UNREACHED ||
              asked.failure.reason == PL_REASON_DNS_SILENT);
}

/* Both questions go out by one socket, and what the first one met is told once. */
Test(resolver_system, a_server_that_is_not_there_is_noticed_at_once)
{
    struct pl_resolver_options options = { .servers = "127.0.0.1:1", .hosts = "/dev/null",
                                           .timeout_ms = 20000, .tries = 1 };

    pl_resolver_close(resolver);
    cr_assert_eq(pl_resolver_open(mux, &options, &resolver), POOL_OK);
    for (unsigned i = 0; i < 10; i++) {
        look_up(&asked, "db.example");
        expect_reason(PL_REASON_DNS_UNREACHED);
    }
}

Test(resolver_system, an_idle_resolver_has_no_descriptor)
{
    DNS_SAY(dns, "db.example", .addresses = { "10.0.0.1" }, .ttl = 60);
    look_up(&asked, "db.example");
    cr_expect_eq(count_descriptors(), descriptors);
}

Test(resolver_system, sockets_are_above_stdio_and_close_on_exec)
{
    DNS_SAY(dns, "db.example", .trick = DNS_SILENT);
    ask_name(&asked, "db.example", 4);
    cr_assert_eq(count_descriptors(), descriptors + 1);
    for (int fd = 3, left = 1; left; fd++) {
        char path[64], place[64] = "";

        snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
        if (readlink(path, place, sizeof(place) - 1) > 0 && !strncmp(place, "socket:", 7)) {
            cr_expect(fcntl(fd, F_GETFD) & FD_CLOEXEC, "%d", fd);
            left = fd < 64;
        }
        if (fd >= 64)
            break;
    }
    pl_lookup_cancel(&asked.lookup);
}

/* The last socket that was made. */
static int last_socket = -1;

static int noting_socket(int family, int type, int protocol)
{
    return last_socket = pl_os_real.socket(family, type, protocol);
}

Test(resolver_system, a_number_that_is_somebody_elses_now_is_left_alone)
{
    int pair[2];
    char byte;

    os.socket = noting_socket;
    DNS_SAY(dns, "db.example", .trick = DNS_SILENT);
    reopen_names(100, 2);
    ask_name(&asked, "db.example", 4);
    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    cr_assert_eq(dup2(pair[0], last_socket), last_socket);
    await_answer(&asked);
    pl_resolver_close(resolver);
    cr_expect_eq(fcntl(last_socket, F_GETFD) >= 0, 1, "it was not closed");
    cr_expect_eq(recv(pair[1], &byte, 1, MSG_DONTWAIT), -1, "nothing was written to it");
    close(last_socket);
    close(pair[0]);
    close(pair[1]);
    open_names(0, 0);
}

static unsigned receives;

static ssize_t counted_receive(int fd, const struct iovec *into, int flags, struct sockaddr *from,
                               socklen_t *from_size)
{
    receives++;
    return pl_os_real.recvfrom(fd, into, flags, from, from_size);
}

/* An event for each slot that may be in use, as of its `birth`. */
static void pretend_events(uint32_t birth)
{
    for (uint32_t index = 0; index < 40; index++)
        atomic_load(&mux->on_watch[PL_WATCH_RESOLVER])(mux, index, birth, EPOLLIN);
}

Test(resolver_system, a_late_event_of_a_socket_that_is_gone_is_dropped)
{
    uint32_t birth = 1;

    DNS_SAY(dns, "mute.example", .trick = DNS_SILENT);
    os.recvfrom = counted_receive;
    ask_name(&asked, "mute.example", 4);
    while (birth < 1000 && !receives)
        pretend_events(birth++);
    cr_assert_eq(receives, 1, "the event of the socket itself is one");
    for (uint32_t other_birth = 1; other_birth < 1000; other_birth++) {
        if (other_birth != birth - 1)
            pretend_events(other_birth);
    }
    cr_expect_eq(receives, 1);
    pl_lookup_cancel(&asked.lookup);
}

Test(resolver_system, a_child_of_fork_closes_the_sockets_and_sends_nothing)
{
    int status;
    pid_t child;

    DNS_SAY(dns, "db.example", .addresses = { "10.0.0.1" }, .ttl = 60, .delay_ms = 200);
    ask_name(&asked, "db.example", 4);
    cr_assert_eq(count_descriptors(), descriptors + 1);
    cr_assert(dns_wait_count(dns, "db.example", 4, 1, ASKED_SOON));
    pl_resolver_hold();
    child = fork();
    if (!child) {
        /* The mux was the parent's, with four descriptors: its handlers closed three already. */
        int before = count_descriptors();

        pl_resolver_orphan();
        pl_resolver_let_go();
        pl_lookup_cancel(&asked.lookup);
        pl_resolver_close(resolver);
        _exit(count_descriptors() == before - 1 ? 0 : 1);
    }
    pl_resolver_let_go();
    cr_assert_eq(waitpid(child, &status, 0), child);
    cr_expect_eq(status, 0);
    await_answer(&asked);
    expect_text("10.0.0.1");
    cr_expect_eq(dns_count(dns, "db.example", 4), 1);
}

static int live_maps;

static void *counted_map(size_t size)
{
    live_maps++;
    return pl_os_real.map(size);
}

static void counted_unmap(void *pages, size_t size)
{
    live_maps--;
    pl_os_real.unmap(pages, size);
}

Test(resolver_system, what_is_kept_until_the_library_ends_is_given_back_then)
{
    DNS_SAY(dns, "db.example", .addresses = { "10.0.0.1" }, .ttl = 60);
    pl_resolver_close(resolver);
    pl_resolver_library_end();
    os.map = counted_map;
    os.unmap = counted_unmap;
    for (int i = 0; i < 100; i++) {
        open_names(0, 0);
        look_up(&asked, "db.example");
        expect_text("10.0.0.1");
        cr_expect_gt(live_maps, 0);
        pl_resolver_close(resolver);
        pl_resolver_library_end();
        cr_expect_eq(live_maps, 0);
    }
    open_names(0, 0);
}
