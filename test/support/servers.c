/* servers.c: real servers for tests. See servers.h.
 *
 * The port is found by binding one and letting it go, so another process may take it first: a
 * server that ends while it should come up is tried on other ports, and Redis and nginx must
 * show a socket or file that is surely theirs. Between fork and exec only calls that are safe
 * there are made.
 *
 * PostgreSQL is ended by SIGQUIT, also when the test dies: killed, it would leave its shared memory
 * behind. It refuses to run as root, and so runs as the user that its package made. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <grp.h>
#include <netinet/in.h>
#include <poll.h>
#include <pwd.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "support/authority.h"
#include "support/servers_parts.h"
#include "support/tests.h"

#define PORTS_TRIED 5
#define UP_WITHIN_MS 20000

static _Thread_local char why_not[256];

/* Debian keeps daemons out of the path of those who are not root, and PostgreSQL's, of which there
 * may be several, out of everybody's: the one that comes last will do. */
static bool find_program(struct server *server)
{
    const char *path = getenv("PATH");
    char places[4096], *place, *rest = NULL;
    glob_t found;

    glob("/usr/lib/postgresql/*/bin", 0, NULL, &found);
    snprintf(places, sizeof(places), "%s:/usr/sbin:/usr/local/sbin:/usr/bin:%s",
             path ? path : "/usr/local/bin",
             found.gl_pathc ? found.gl_pathv[found.gl_pathc - 1] : "");
    globfree(&found);
    for (place = strtok_r(places, ":", &rest); place; place = strtok_r(NULL, ":", &rest)) {
        snprintf(server->program, sizeof(server->program), "%s/%s", place, server->name);
        if (access(server->program, X_OK) == 0)
            return true;
    }
    snprintf(why_not, sizeof(why_not), "%s is not installed", server->name);
    return false;
}

static struct sockaddr_in loopback(int port)
{
    struct sockaddr_in name = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};

    name.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return name;
}

static int find_port(void)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in name = loopback(0);
    socklen_t size = sizeof(name);
    bool is_found = fd >= 0 && bind(fd, (struct sockaddr *)&name, size) == 0 &&
                    getsockname(fd, (struct sockaddr *)&name, &size) == 0;

    if (fd >= 0)
        close(fd);
    return is_found ? ntohs(name.sin_port) : -1;
}

static bool accepts(const struct sockaddr *name, socklen_t size)
{
    int fd = socket(name->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool does = fd >= 0 && connect(fd, name, size) == 0;

    if (fd >= 0)
        close(fd);
    return does;
}

static bool has_proof(const struct server *server)
{
    char text[1024] = "";
    FILE *file;

    if (!server->proof[0])
        return true;
    file = fopen(server->proof, "re");
    if (!file)
        return false;
    text[fread(text, 1, sizeof(text) - 1, file)] = 0;
    fclose(file);
    return !server->proof_word || strstr(text, server->proof_word);
}

static bool accepts_everywhere(const struct server *server)
{
    struct sockaddr_in name = loopback(server->port);
    struct sockaddr_un path = {.sun_family = AF_UNIX};

    if (!has_proof(server) || !accepts((struct sockaddr *)&name, sizeof(name)))
        return false;
    if (!server->unix_address[0])
        return true;
    snprintf(path.sun_path, sizeof(path.sun_path), "%s", server->unix_address + strlen("unix://"));
    return accepts((struct sockaddr *)&path, sizeof(path));
}

static _Noreturn void become_server(const struct server *server, pid_t parent, int input, int log)
{
    sigset_t none;

    if (server->uid && (setgroups(0, NULL) || setgid(server->gid) || setuid(server->uid)))
        _exit(126);
    prctl(PR_SET_PDEATHSIG, server->end_signal);    /* changing the user would take it away */
    if (getppid() != parent || chdir(server->directory))
        _exit(126);
    dup2(input, 0);
    dup2(log, 1);
    dup2(log, 2);
    close_range(3, ~0U, 0);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    execv(server->program, server->arguments);
    _exit(127);
}

/* What it reads from; -1: no descriptor is left. */
static int open_input(struct server *server)
{
    int ends[2];

    if (!server->has_input)
        return open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends))
        return -1;
    server->input = ends[0];
    return ends[1];
}

static void close_input(struct server *server)
{
    if (server->input >= 0)
        close(server->input);
    server->input = -1;
}

bool server_launch(struct server *server)
{
    pid_t parent = getpid();
    sigset_t all, before;
    char path[128];
    int log, input;

    snprintf(path, sizeof(path), "%s/log", server->directory);
    if (server->proof[0])
        unlink(server->proof);
    log = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (log < 0)
        return false;
    input = open_input(server);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);    /* the child must not run the test's handlers */
    server->pid = input < 0 ? -1 : fork();
    if (server->pid == 0)
        become_server(server, parent, input, log);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    close(log);
    if (input >= 0)
        close(input);
    if (server->pid > 0)
        return true;
    close_input(server);
    server->pid = 0;
    return false;
}

/* A socket gives no sign when somebody begins to listen on it: it is tried every 5 ms. */
static bool wait_accepting(struct server *server)
{
    uint64_t deadline_ms = now_ms() + UP_WITHIN_MS;
    bool is_up = false;

    while (now_ms() < deadline_ms && !is_up) {
        poll(NULL, 0, 5);
        is_up = accepts_everywhere(server);
        if (waitpid(server->pid, NULL, WNOHANG) == 0)
            continue;
        close_input(server);
        server->pid = 0;
        return false;
    }
    return is_up;
}

static bool configure(struct server *server, int port)
{
    server->port = port;
    server->argument_count = 0;
    snprintf(server->address, sizeof(server->address), "%s://127.0.0.1:%d",
             server->credential ? "tls" : "tcp", port);
    server_argue(server, "%s", server->name);
    return port > 0 && server->prepare(server);
}

static void explain(struct server *server)
{
    char path[128], line[160] = "", last[160] = "";
    FILE *file;

    snprintf(path, sizeof(path), "%s/log", server->directory);
    file = fopen(path, "re");
    while (file && fgets(line, sizeof(line), file))
        memcpy(last, line, sizeof(last));
    if (file)
        fclose(file);
    last[strcspn(last, "\n")] = 0;
    snprintf(why_not, sizeof(why_not), "%s does not start; its log ends: %s", server->name, last);
}

static struct server *make(const char *name, prepare_fn *prepare)
{
    struct server *server = calloc(1, sizeof(*server));

    snprintf(why_not, sizeof(why_not), "%s: no memory, or no directory for it", name);
    if (!server)
        return NULL;
    server->name = name;
    server->prepare = prepare;
    server->end_signal = SIGKILL;
    server->input = -1;
    return server;
}

static struct server *start(struct server *server)
{
    unsigned tried;

    if (!server)
        return NULL;
    if (!find_program(server) || !make_temp_dir(server->directory, sizeof(server->directory)))
        goto no_server;
    for (tried = 0; tried < PORTS_TRIED; tried++)
        if (configure(server, find_port()) && server_up(server))
            return server;
    explain(server);

no_server:
    server_stop(server);
    return NULL;
}

struct server *redis_start(const char *password)
{
    struct server *server = make("redis-server", server_prepare_redis);

    if (server && password)
        snprintf(server->password, sizeof(server->password), "%s", password);
    return start(server);
}

struct server *nginx_start(void)
{
    return start(make("nginx", server_prepare_nginx));
}

struct server *redis_start_secure(const struct credential *credential)
{
    struct server *server = make("redis-server", server_prepare_redis);

    if (server)
        server->credential = credential;
    return start(server);
}

struct server *nginx_start_secure(const struct credential *credential, bool is_12)
{
    struct server *server = make("nginx", server_prepare_nginx);

    if (server) {
        server->credential = credential;
        snprintf(server->protocols, sizeof(server->protocols), is_12 ? "TLSv1.2" : "TLSv1.3");
    }
    return start(server);
}

struct server *memcached_start(void)
{
    return start(make("memcached", server_prepare_memcached));
}

struct server *postgres_start(const struct credential *credential)
{
    struct server *server = make("postgres", server_prepare_postgres);
    struct passwd *own = geteuid() == 0 ? getpwnam("postgres") : NULL;

    if (!server)
        return NULL;
    server->credential = credential;
    server->end_signal = SIGQUIT;
    if (geteuid() == 0 && !own) {
        snprintf(why_not, sizeof(why_not), "postgres: root needs a user of that name to run it");
        free(server);
        return NULL;
    }
    server->uid = own ? own->pw_uid : 0;
    server->gid = own ? own->pw_gid : 0;
    return start(server);
}

struct server *dnsmasq_start(void)
{
    return start(make("dnsmasq", server_prepare_dnsmasq));
}

struct server *openssl_start(const struct credential *credential, unsigned tickets, bool reverses)
{
    struct server *server = make("openssl", server_prepare_openssl);

    if (!server)
        return NULL;
    server->credential = credential;
    server->tickets = tickets;
    server->reverses = reverses;
    server->has_input = true;
    return start(server);
}

bool server_say(struct server *server, const char *text)
{
    return server->input >= 0 &&
           send(server->input, text, strlen(text), MSG_NOSIGNAL) == (ssize_t)strlen(text);
}

struct search {
    const struct server *server;
    const char *head, *text;
    unsigned count;
};

unsigned server_log_count(const struct server *server, const char *head, const char *text)
{
    char path[128], line[512];
    unsigned count = 0;
    FILE *file;

    snprintf(path, sizeof(path), "%s/log", server->directory);
    file = fopen(path, "re");
    while (file && fgets(line, sizeof(line), file))
        count += strncmp(line, head, strlen(head)) == 0 && strstr(line, text);
    if (file)
        fclose(file);
    return count;
}

static bool has_count(void *argument)
{
    const struct search *search = argument;

    return server_log_count(search->server, search->head, search->text) >= search->count;
}

bool server_wait_log(const struct server *server, const char *head, const char *text,
                     unsigned count)
{
    struct search search = { server, head, text, count };

    return wait_until(has_count, &search, UP_WITHIN_MS);
}

const char *server_why_not(void)
{
    return why_not;
}

int server_port(const struct server *server)
{
    return server->port;
}

const char *server_address(const struct server *server)
{
    return server->address;
}

const char *server_unix_address(const struct server *server)
{
    return server->unix_address[0] ? server->unix_address : NULL;
}

const char *server_directory(const struct server *server)
{
    return server->directory;
}

int server_pid(const struct server *server)
{
    return server->pid;
}

void server_down(struct server *server)
{
    if (!server->pid)
        return;
    kill(server->pid, server->end_signal);
    while (waitpid(server->pid, NULL, 0) < 0 && errno == EINTR)
        continue;
    close_input(server);
    server->pid = 0;
}

bool server_up(struct server *server)
{
    if (server->pid)
        return true;
    if (!server_launch(server))
        return false;
    if (wait_accepting(server))
        return true;
    server_down(server);
    return false;
}

bool server_restart(struct server *server)
{
    server_down(server);
    return server_up(server);
}

void server_stop(struct server *server)
{
    if (!server)
        return;
    server_down(server);
    if (server->directory[0])
        remove_temp_dir(server->directory);
    free(server);
}
