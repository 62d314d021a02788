/* servers.c: real servers for tests. See servers.h.
 *
 * The port is found by binding one and letting it go, so another process may take it first: a
 * server that ends while it should come up is tried on other ports, and Redis and nginx must
 * show a socket or file that is surely theirs. Between fork and exec only calls that are safe
 * there are made.
 *
 * PostgreSQL is ended by SIGQUIT, also when the test dies: killed, it would leave its shared memory
 * behind. It refuses to run as root, and so runs as the user that its package made. */
#include "support/servers.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <grp.h>
#include <netinet/in.h>
#include <poll.h>
#include <pwd.h>
#include <signal.h>
#include <stdarg.h>
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
#include "support/tests.h"

#define ARGUMENTS 24
#define PORTS_TRIED 5
#define UP_WITHIN_MS 20000

struct server;

/* Fills in the arguments for the port, and writes what files the server needs. */
typedef bool prepare_fn(struct server *server);

struct server {
    const char *name;
    prepare_fn *prepare;
    char program[256], directory[96], address[64], unix_address[128], password[128];
    char proof[128];            /* a file that is there once it listens, if it makes one */
    const char *proof_word;     /* and has this in it, unless NULL */
    const struct credential *credential;            /* while it starts */
    uid_t uid;                                      /* it becomes that user; 0: stays who we are */
    gid_t gid;
    int end_signal;
    char texts[ARGUMENTS][160];
    char *arguments[ARGUMENTS + 1];
    unsigned argument_count;
    int port;
    pid_t pid;                                      /* 0: down */
};

static _Thread_local char why_not[256];

static void argue(struct server *server, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

static void argue(struct server *server, const char *format, ...)
{
    unsigned place = server->argument_count++;
    va_list list;

    if (place >= ARGUMENTS)
        abort();
    va_start(list, format);
    vsnprintf(server->texts[place], sizeof(server->texts[place]), format, list);
    va_end(list);
    server->arguments[place] = server->texts[place];
    server->arguments[place + 1] = NULL;
}

static void argue_pair(struct server *server, const char *name, const char *value)
{
    argue(server, "%s", name);
    argue(server, "%s", value);
}

static bool write_file(const struct server *server, const char *name, const char *text)
{
    char path[160];
    FILE *file;

    snprintf(path, sizeof(path), "%s/%s", server->directory, name);
    file = fopen(path, "we");
    if (!file)
        return false;
    fputs(text, file);
    return fclose(file) == 0;
}

static bool prepare_redis(struct server *server)
{
    argue_pair(server, "--bind", "127.0.0.1");
    argue(server, "--port");
    argue(server, "%d", server->port);
    argue(server, "--unixsocket");
    argue(server, "%s/redis", server->directory);
    argue_pair(server, "--dir", server->directory);
    argue_pair(server, "--save", "");
    argue_pair(server, "--appendonly", "no");
    argue_pair(server, "--daemonize", "no");
    argue_pair(server, "--maxclients", "10000");
    if (server->password[0])
        argue_pair(server, "--requirepass", server->password);
    snprintf(server->unix_address, sizeof(server->unix_address), "unix://%s/redis",
             server->directory);
    return true;
}

static bool prepare_nginx(struct server *server)
{
    static const char configuration[] =
        "daemon off;\nmaster_process off;\npid %s/pid;\nerror_log stderr warn;\n"
        "events { worker_connections 1024; }\n"
        "http {\n"
        "    access_log off;\n    default_type text/plain;\n    server_tokens off;\n"
        "    keepalive_timeout 600;\n    keepalive_requests 100000000;\n"
        "    client_body_temp_path %s/body;\n    proxy_temp_path %s/proxy;\n"
        "    fastcgi_temp_path %s/fastcgi;\n"
        "    uwsgi_temp_path %s/uwsgi;\n    scgi_temp_path %s/scgi;\n"
        "    server { listen 127.0.0.1:%d; root %s/www; index small.txt; }\n"
        "}\n";
    const char *at = server->directory;
    char text[2048], kilo[1025], path[160];

    snprintf(path, sizeof(path), "%s/www", at);
    mkdir(path, 0700);
    memset(kilo, 'k', 1024);
    kilo[1024] = 0;
    snprintf(text, sizeof(text), configuration, at, at, at, at, at, at, server->port, at);
    snprintf(server->proof, sizeof(server->proof), "%s/pid", at);
    argue_pair(server, "-p", at);
    argue(server, "-e");
    argue(server, "stderr");
    argue(server, "-c");
    argue(server, "%s/nginx.conf", at);
    return write_file(server, "nginx.conf", text) &&
           write_file(server, "www/small.txt", NGINX_SMALL) &&
           write_file(server, "www/kilo.txt", kilo);
}

static bool prepare_memcached(struct server *server)
{
    struct passwd *own = getpwuid(geteuid());

    argue_pair(server, "-l", "127.0.0.1");
    argue_pair(server, "-U", "0");
    argue_pair(server, "-t", "2");
    argue_pair(server, "-m", "32");
    argue(server, "-p");
    argue(server, "%d", server->port);
    if (geteuid() == 0 && own)
        argue_pair(server, "-u", own->pw_name);
    return true;
}

static bool write_many(const struct server *server)
{
    char text[2048] = "";
    size_t length = 0;

    for (unsigned i = 1; i <= 60; i++)
        length += (size_t)snprintf(text + length, sizeof(text) - length, "10.1.0.%u many.example\n",
                                   i);
    return write_file(server, "hosts", text);
}

/* It is to stay who it is: it would need to be root to become another user. */
static bool prepare_dnsmasq(struct server *server)
{
    struct passwd *own = getpwuid(geteuid());

    argue(server, "--no-daemon");
    argue(server, "--conf-file=/dev/null");
    argue(server, "--no-resolv");
    argue(server, "--addn-hosts=%s/hosts", server->directory);
    argue(server, "--no-hosts");
    argue(server, "--listen-address=127.0.0.1");
    argue(server, "--bind-interfaces");
    argue(server, "--port=%d", server->port);
    argue(server, "--pid-file=%s/pid", server->directory);
    argue(server, "--user=%s", own ? own->pw_name : "root");
    argue(server, "--group=");
    argue(server, "--local=/example/");
    argue(server, "--local-ttl=7");
    argue(server, "--edns-packet-max=512");
    argue(server, "--host-record=db.example,10.0.0.1,2001:db8::1,7");
    argue(server, "--host-record=v6.example,2001:db8::6,7");
    argue(server, "--cname=alias.example,db.example,3");
    argue(server, "--cname=www.example,alias.example,3");
    return write_many(server);
}

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

static _Noreturn void become_server(const struct server *server, pid_t parent, int log)
{
    sigset_t none;
    int nothing = open("/dev/null", O_RDONLY);

    if (server->uid && (setgroups(0, NULL) || setgid(server->gid) || setuid(server->uid)))
        _exit(126);
    prctl(PR_SET_PDEATHSIG, server->end_signal);    /* changing the user would take it away */
    if (getppid() != parent || chdir(server->directory))
        _exit(126);
    dup2(nothing, 0);
    dup2(log, 1);
    dup2(log, 2);
    close_range(3, ~0U, 0);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    execv(server->program, server->arguments);
    _exit(127);
}

static bool launch(struct server *server)
{
    pid_t parent = getpid();
    sigset_t all, before;
    char path[128];
    int log;

    snprintf(path, sizeof(path), "%s/log", server->directory);
    if (server->proof[0])
        unlink(server->proof);
    log = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (log < 0)
        return false;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);    /* the child must not run the test's handlers */
    server->pid = fork();
    if (server->pid == 0)
        become_server(server, parent, log);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    close(log);
    if (server->pid > 0)
        return true;
    server->pid = 0;
    return false;
}

/* ---- PostgreSQL: its files are made by a program of its own */

static bool run_initdb(struct server *server)
{
    char program[sizeof(server->program)], *slash;
    int status;

    strcpy(program, server->program);
    slash = strrchr(server->program, '/');
    strcpy(slash, "/initdb");
    argue_pair(server, "-D", "data");
    argue_pair(server, "-A", "trust");
    argue_pair(server, "-U", "postgres");
    argue_pair(server, "-E", "UTF8");
    argue(server, "--no-locale");
    argue(server, "--no-sync");
    if (!launch(server))
        return false;
    while (waitpid(server->pid, &status, 0) < 0 && errno == EINTR)
        continue;
    server->pid = 0;
    strcpy(server->program, program);
    return status == 0;
}

static bool write_credential(const struct server *server)
{
    char path[160];

    if (!server->credential)
        return true;
    snprintf(path, sizeof(path), "%s/key.pem", server->directory);
    return write_file(server, "certificate.pem", server->credential->certificate) &&
           write_file(server, "key.pem", server->credential->key) && chmod(path, 0600) == 0 &&
           (!server->uid || chown(path, server->uid, server->gid) == 0);
}

static bool make_cluster(struct server *server)
{
    static const char configuration[] =
        "hba_file = '%s/hba.conf'\nlisten_addresses = '127.0.0.1'\n"
        "unix_socket_directories = ''\nmax_connections = 40\nshared_buffers = 1MB\n"
        "dynamic_shared_memory_type = mmap\nhuge_pages = off\nfsync = off\nautovacuum = off\n"
        "max_wal_senders = 0\nwal_level = minimal\nssl = %s\n"
        "ssl_cert_file = '%s/certificate.pem'\nssl_key_file = '%s/key.pem'\n";
    const char *at = server->directory;
    char text[1024];

    snprintf(text, sizeof(text), configuration, at, server->credential ? "on" : "off", at, at);
    return (!server->uid || chown(at, server->uid, server->gid) == 0) && run_initdb(server) &&
           write_credential(server) && write_file(server, "postgresql.conf", text) &&
           write_file(server, "hba.conf",
                      "hostssl all all 127.0.0.1/32 trust\nhostnossl all all all reject\n");
}

/* Its first sockets are served with words that it is not up yet, so its file must say "ready". */
static bool prepare_postgres(struct server *server)
{
    char text[128];

    snprintf(text, sizeof(text), "%s/postgresql.conf", server->directory);
    if (access(text, F_OK) != 0 && !make_cluster(server))
        return false;
    server->argument_count = 1;
    argue_pair(server, "-D", "data");
    argue(server, "-c");
    argue(server, "config_file=%s", text);
    argue(server, "-p");
    argue(server, "%d", server->port);
    snprintf(server->proof, sizeof(server->proof), "%s/data/postmaster.pid", server->directory);
    server->proof_word = "\nready";
    snprintf(server->address, sizeof(server->address), "tls://127.0.0.1:%d?starttls=1",
             server->port);
    return true;
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
        server->pid = 0;
        return false;
    }
    return is_up;
}

static bool configure(struct server *server, int port)
{
    server->port = port;
    server->argument_count = 0;
    snprintf(server->address, sizeof(server->address), "tcp://127.0.0.1:%d", port);
    argue(server, "%s", server->name);
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
    struct server *server = make("redis-server", prepare_redis);

    if (server && password)
        snprintf(server->password, sizeof(server->password), "%s", password);
    return start(server);
}

struct server *nginx_start(void)
{
    return start(make("nginx", prepare_nginx));
}

struct server *memcached_start(void)
{
    return start(make("memcached", prepare_memcached));
}

struct server *postgres_start(const struct credential *credential)
{
    struct server *server = make("postgres", prepare_postgres);
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
    return start(make("dnsmasq", prepare_dnsmasq));
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
    server->pid = 0;
}

bool server_up(struct server *server)
{
    if (server->pid)
        return true;
    if (!launch(server))
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
