/* test_support_helpers.c: the common helpers of the tests and the starter of real servers,
 * tested themselves. */
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "support/authority.h"
#include "support/peer.h"
#include "support/servers.h"
#include "support/tests.h"

#define SOON 10000

Test(support_helpers, descriptors_are_counted)
{
    int before = count_descriptors(), fd = dup(1);

    cr_assert_gt(before, 0);
    cr_expect_eq(count_descriptors(), before + 1);
    close(fd);
    cr_expect_eq(count_descriptors(), before);
}

Test(support_helpers, the_descriptor_limit_can_be_raised_again)
{
    unsigned before = set_descriptor_limit(64);

    cr_expect_eq(set_descriptor_limit(before), 64);
    cr_expect_eq(set_descriptor_limit(before), before);
}

Test(support_helpers, within_holds_between_its_bounds)
{
    cr_expect(WITHIN(5, 5, 10));
    cr_expect(WITHIN(10, 5, 10));
    cr_expect_not(WITHIN(4, 5, 10));
    cr_expect_not(WITHIN(5 + 5 * slowness() + 1, 5, 10));
}

struct tally {
    atomic_uint inside, most, sum;
};

static bool all_inside(void *argument)
{
    struct tally *tally = argument;

    return atomic_load(&tally->inside) == 8;
}

static void add_up(unsigned index, void *argument)
{
    struct tally *tally = argument;

    atomic_fetch_add(&tally->inside, 1);
    atomic_fetch_add(&tally->sum, index);
    if (wait_until(all_inside, tally, SOON))
        atomic_fetch_add(&tally->most, 1);
}

Test(support_helpers, threads_run_side_by_side)
{
    struct tally tally = {0};

    cr_expect(run_threads(8, add_up, &tally));
    cr_expect_eq(atomic_load(&tally.sum), 28);
    cr_expect_eq(atomic_load(&tally.most), 8);
}

static bool never(void *argument)
{
    (void)argument;
    return false;
}

Test(support_helpers, waiting_for_what_never_comes_ends)
{
    uint64_t start = now_ms();

    cr_expect_not(wait_until(never, NULL, 50));
    cr_expect(WITHIN(elapsed_ms(start), 49, 120));
}

Test(support_helpers, a_storm_interrupts_the_thread_that_asked)
{
    struct signal_storm *storm = start_signal_storm(1000);
    uint64_t interrupted = 0;

    cr_assert_not_null(storm);
    while (interrupted < 20 && poll(NULL, 0, SOON) < 0 && errno == EINTR)
        interrupted++;
    cr_expect_eq(interrupted, 20);
    cr_expect_geq(stop_signal_storm(storm), 20);
    storm = start_signal_storm(1000);
    stop_signal_storm(storm);
}

Test(support_helpers, a_directory_goes_with_what_is_in_it)
{
    char path[128], inside[160];

    cr_assert(make_temp_dir(path, sizeof(path)));
    snprintf(inside, sizeof(inside), "%s/file", path);
    fclose(fopen(inside, "w"));
    remove_temp_dir(path);
    cr_expect_lt(access(path, F_OK), 0);
}

static int dial_tcp(int port)
{
    struct sockaddr_in name = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    name.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    cr_assert_eq(connect(fd, (struct sockaddr *)&name, sizeof(name)), 0);
    return fd;
}

static bool listens(int port)
{
    struct sockaddr_in name = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    bool does;

    name.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    does = connect(fd, (struct sockaddr *)&name, sizeof(name)) == 0;
    close(fd);
    return does;
}

static int dial_unix(const char *address)
{
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);

    snprintf(name.sun_path, sizeof(name.sun_path), "%s", address + strlen("unix://"));
    cr_assert_eq(connect(fd, (struct sockaddr *)&name, sizeof(name)), 0);
    return fd;
}

static void expect_answer(int fd, const char *request, const char *answer)
{
    char buffer[512] = "";

    cr_assert(write_exactly(fd, request, strlen(request), SOON));
    cr_expect(read_exactly(fd, buffer, strlen(answer), SOON));
    cr_expect_str_eq(buffer, answer);
}

Test(support_servers, redis_answers_on_port_and_path_and_comes_back)
{
    struct server *redis = redis_start(NULL);
    int fd;

    if (!redis)
        cr_skip("%s", server_why_not());
    fd = dial_tcp(server_port(redis));
    expect_answer(fd, "PING\r\n", "+PONG\r\n");
    close(fd);
    fd = dial_unix(server_unix_address(redis));
    expect_answer(fd, "SET a 1\r\n", "+OK\r\n");
    cr_expect(server_restart(redis));
    cr_expect_neq(listen_to(fd, SOON), HEARD_BYTES);
    close(fd);
    fd = dial_tcp(server_port(redis));
    expect_answer(fd, "GET a\r\n", "$-1\r\n");
    close(fd);
    server_stop(redis);
}

Test(support_servers, redis_wants_its_password)
{
    struct server *redis = redis_start("let me in");
    int fd;

    if (!redis)
        cr_skip("%s", server_why_not());
    fd = dial_tcp(server_port(redis));
    expect_answer(fd, "PING\r\n", "-NOAUTH");
    close(fd);
    fd = dial_tcp(server_port(redis));
    expect_answer(fd, "AUTH \"let me in\"\r\n", "+OK\r\n");
    expect_answer(fd, "PING\r\n", "+PONG\r\n");
    close(fd);
    server_stop(redis);
}

Test(support_servers, nginx_keeps_connections_alive)
{
    struct server *nginx = nginx_start();
    char head[2048];
    unsigned round;
    size_t length;
    int fd;

    if (!nginx)
        cr_skip("%s", server_why_not());
    fd = dial_tcp(server_port(nginx));
    for (round = 0; round < 3; round++) {
        expect_answer(fd, "GET / HTTP/1.1\r\nHost: here\r\n\r\n", "HTTP/1.1 200 OK\r\n");
        for (length = 0; length < sizeof(head) - 1; head[++length] = 0) {
            cr_assert(read_exactly(fd, head + length, 1, SOON));
            if (length > 3 && memcmp(head + length - 3, "\r\n\r\n", 4) == 0)
                break;
        }
        expect_answer(fd, "", NGINX_SMALL);
    }
    close(fd);
    cr_expect(server_restart(nginx));
    server_stop(nginx);
}

Test(support_servers, memcached_answers)
{
    struct server *memcached = memcached_start();
    int fd;

    if (!memcached)
        cr_skip("%s", server_why_not());
    fd = dial_tcp(server_port(memcached));
    expect_answer(fd, "set k 0 0 1\r\nv\r\n", "STORED\r\n");
    expect_answer(fd, "get k\r\n", "VALUE k 0 1\r\nv\r\nEND\r\n");
    close(fd);
    server_stop(memcached);
}

/* The number of its segment, which its file has beside the key. */
static int shared_memory_of(const char *directory)
{
    char path[160], line[128] = "";
    int key = -1, id = -1;
    FILE *file;

    snprintf(path, sizeof(path), "%s/data/postmaster.pid", directory);
    file = fopen(path, "re");
    for (int i = 0; file && i < 7; i++)
        if (!fgets(line, sizeof(line), file))
            break;
    if (file)
        fclose(file);
    return sscanf(line, "%d %d", &key, &id) == 2 ? id : -1;
}

static bool is_released(void *argument)
{
    struct shmid_ds facts;

    return shmctl(*(int *)argument, IPC_STAT, &facts) < 0;
}

Test(support_servers, postgres_speaks_tls_if_it_can_and_leaves_no_shared_memory, .timeout = 60)
{
    struct credential *credential = CREDENTIAL(NULL, .names = "IP:127.0.0.1");
    const struct credential *with[] = { credential, NULL };
    struct server *postgres;
    int fd, segment;

    for (int i = 0; i < 2; i++) {
        postgres = postgres_start(with[i]);
        if (!postgres)
            cr_skip("%s", server_why_not());
        for (int round = 0; round < 2; round++) {
            segment = shared_memory_of(server_directory(postgres));
            cr_expect(segment >= 0 && !is_released(&segment));
            fd = dial_tcp(server_port(postgres));
            cr_assert(write_exactly(fd, "\0\0\0\10\4\322\26\57", 8, SOON));
            expect_answer(fd, "", with[i] ? "S" : "N");
            close(fd);
            if (!round)
                cr_expect(server_restart(postgres));
        }
        server_stop(postgres);
        cr_expect(is_released(&segment));
    }
    credential_free(credential);
}

Test(support_servers, nothing_is_left_behind)
{
    int before = count_descriptors();
    struct server *nginx = nginx_start();
    char directory[128];

    if (!nginx)
        cr_skip("%s", server_why_not());
    snprintf(directory, sizeof(directory), "%s", server_directory(nginx));
    server_stop(nginx);
    cr_expect_lt(access(directory, F_OK), 0);
    cr_expect_eq(count_descriptors(), before);
    server_stop(NULL);
}

static bool is_set(void *argument)
{
    return atomic_load((atomic_bool *)argument);
}

static bool are_gone(void *argument)
{
    const int *ports = argument;

    for (int i = 0; i < 3; i++)
        if (ports[i] && listens(ports[i]))
            return false;
    return true;
}

/* The parent is a process of its own, which dies without a chance to clean up. */
Test(support_servers, peers_and_servers_die_with_their_parent, .timeout = 60)
{
    struct note {
        int ports[3], segment;
        atomic_bool is_ready;
        char directories[2][128];
    } *note;
    pid_t parent;

    note = mmap(NULL, sizeof(*note), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    cr_assert_neq(note, MAP_FAILED);
    parent = fork();
    if (parent == 0) {
        struct server *servers[] = { nginx_start(), postgres_start(NULL) };

        note->ports[2] = peer_port(PEER(.own_process = true));
        for (int i = 0; i < 2; i++) {
            if (!servers[i])
                continue;
            note->ports[i] = server_port(servers[i]);
            snprintf(note->directories[i], 128, "%s", server_directory(servers[i]));
        }
        note->segment = shared_memory_of(note->directories[1]);
        atomic_store(&note->is_ready, true);
        for (;;)
            pause();
    }
    cr_expect(wait_until(is_set, &note->is_ready, 3 * SOON));
    kill(parent, SIGKILL);
    cr_assert_eq(waitpid(parent, NULL, 0), parent);
    cr_assert_neq(note->ports[2], 0);
    cr_expect(wait_until(are_gone, note->ports, SOON));
    cr_expect(wait_until(is_released, &note->segment, SOON));
    for (int i = 0; i < 2; i++)
        if (note->directories[i][0])
            remove_temp_dir(note->directories[i]);
    munmap(note, sizeof(*note));
}
