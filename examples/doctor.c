/* doctor.c: looks at what the machine and this process give to a pool, and says what is amiss.
 *
 *     ./examples/run doctor
 *
 * It prints what it finds, line by line, and then advice in sentences. Nothing is changed and
 * nobody outside this machine is spoken to. It ends with 1 when something that every program needs
 * is unusable: the pool itself, the loopback network, or the name localhost; with 2 when it is
 * given arguments, of which it takes none; else with 0. */
#include <ares.h>
#include <arpa/inet.h>
#include <commpool/pool.h>
#include <dirent.h>
#include <errno.h>
#include <ifaddrs.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <openssl/crypto.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#define RESOLV_CONF "/etc/resolv.conf"
#define HOSTS "/etc/hosts"

enum { SPARED = 64, LEAST = 8, ADVICES = 24 }; /* what the pool makes of RLIMIT_NOFILE */

static char advices[ADVICES][300];
static int advice_count;
static bool is_unusable;

__attribute__((format(printf, 1, 2))) static void advise(const char *format, ...)
{
    va_list values;

    if (advice_count == ADVICES)
        return;
    va_start(values, format);
    vsnprintf(advices[advice_count++], sizeof(advices[0]), format, values);
    va_end(values);
}

/* ---- versions and limits */

static void look_at_versions(void)
{
    printf("versions\n");
    printf("  commpool   %s\n", pool_version());
    printf("  c-ares     %s (this program was built with %s)\n", ares_version(NULL),
           ARES_VERSION_STR);
    printf("  OpenSSL    %s\n", OpenSSL_version(OPENSSL_VERSION));
}

static const char *limit_text(rlim_t limit, char text[24])
{
    if (limit == RLIM_INFINITY)
        return "unlimited";
    snprintf(text, 24, "%" PRIu64, (uint64_t)limit);
    return text;
}

static void look_at_limit(int resource, const char *name)
{
    char soft[24], hard[24];
    struct rlimit limit;

    if (getrlimit(resource, &limit) == 0)
        printf("  %-20s %s (hard limit: %s)\n", name, limit_text(limit.rlim_cur, soft),
               limit_text(limit.rlim_max, hard));
}

static void look_at_limits(void)
{
    uint64_t connections = LEAST;
    struct rlimit files;

    printf("limits\n");
    look_at_limit(RLIMIT_NOFILE, "descriptors");
    look_at_limit(RLIMIT_NPROC, "threads of the user");
    look_at_limit(RLIMIT_AS, "address space");
    look_at_limit(RLIMIT_STACK, "stack");
    if (getrlimit(RLIMIT_NOFILE, &files) < 0)
        return;
    if (files.rlim_cur >= SPARED + LEAST)
        connections = files.rlim_cur - SPARED;
    printf("  a pool of this process has at most %" PRIu64 " connections (max_connections)\n",
           connections);
    if (connections < 256)
        advise("A pool closes idle connections when %" PRIu64 " are open. Raise the soft limit of "
               "descriptors (ulimit -n) if the program has more peers or threads than that.",
               connections);
    if (files.rlim_cur < files.rlim_max && files.rlim_cur <= 1024)
        advise("The soft limit of descriptors may be raised to the hard one without any right: "
               "ulimit -n, or setrlimit(2) before the pool is made.");
}

/* ---- signals */

static void look_at_signals(void)
{
    struct sigaction action;

    if (sigaction(SIGPIPE, NULL, &action) < 0)
        return;
    printf("signals\n");
    printf("  SIGPIPE is %s\n", action.sa_handler == SIG_DFL   ? "as the system has it: it would "
                                                                 "end the process"
                                : action.sa_handler == SIG_IGN ? "ignored"
                                                               : "handled");
    printf("  a pool raises none, and changes nothing about it\n");
}

/* ---- the network of this machine */

/* A socket that listens at the loopback address of a family; a negative errno: there is none. */
static int listen_at_home(int family, uint16_t *port)
{
    struct sockaddr_in6 ipv6 = { .sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT };
    struct sockaddr_in ipv4 = { .sin_family = AF_INET };
    struct sockaddr *address =
        family == AF_INET ? (struct sockaddr *)&ipv4 : (struct sockaddr *)&ipv6;
    socklen_t size = family == AF_INET ? sizeof(ipv4) : sizeof(ipv6);
    int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0), error;

    ipv4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (fd >= 0 && !bind(fd, address, size) && !listen(fd, 8) && !getsockname(fd, address, &size)) {
        *port = ntohs(family == AF_INET ? ipv4.sin_port : ipv6.sin6_port);
        return fd;
    }
    error = errno;
    if (fd >= 0)
        close(fd);
    return -error;
}

/* How many addresses of the family lead further than this machine and its own wire. */
static int count_global(int family)
{
    struct ifaddrs *all = NULL;
    int count = 0;

    if (getifaddrs(&all) < 0)
        return 0;
    for (struct ifaddrs *one = all; one; one = one->ifa_next) {
        const struct sockaddr_in6 *ipv6 = (const struct sockaddr_in6 *)(const void *)one->ifa_addr;
        const struct sockaddr_in *ipv4 = (const struct sockaddr_in *)(const void *)one->ifa_addr;

        if (!one->ifa_addr || one->ifa_addr->sa_family != family)
            continue;
        if (family == AF_INET)
            count += ntohl(ipv4->sin_addr.s_addr) >> 24 != 127;
        else
            count +=
                !IN6_IS_ADDR_LOOPBACK(&ipv6->sin6_addr) && !IN6_IS_ADDR_LINKLOCAL(&ipv6->sin6_addr);
    }
    freeifaddrs(all);
    return count;
}

static void look_at_family(int family, const char *name)
{
    uint16_t port;
    int fd = listen_at_home(family, &port), count = count_global(family);

    if (fd < 0)
        printf("  %s: not available (%s)\n", name, strerror(-fd));
    else
        printf("  %s: available; addresses beyond loopback: %d\n", name, count);
    if (fd >= 0)
        close(fd);
    else if (family == AF_INET6)
        advise("Without IPv6 on this machine, IPv6 places of a name fail at once and the others "
               "are tried; ?family=4 in an address does not even ask for them.");
}

static void look_at_network(void)
{
    printf("network\n");
    look_at_family(AF_INET, "IPv4");
    look_at_family(AF_INET6, "IPv6");
}

/* ---- names */

static int print_servers(FILE *file)
{
    char line[512], server[256];
    int count = 0;

    while (fgets(line, sizeof(line), file)) {
        if (sscanf(line, " nameserver %255s", server) == 1) {
            printf("%s%s", count ? ", " : "  DNS servers (" RESOLV_CONF "): ", server);
            count++;
        }
    }
    if (count)
        printf("\n");
    return count;
}

static void look_at_files(void)
{
    FILE *file = fopen(RESOLV_CONF, "re");
    int count = file ? print_servers(file) : 0;

    if (!file) {
        printf("  %s cannot be read (%s)\n", RESOLV_CONF, strerror(errno));
        advise("Make %s readable: without it no DNS server but one on this machine is asked.",
               RESOLV_CONF);
    } else {
        fclose(file);
    }
    if (file && !count) {
        printf("  %s names no DNS server\n", RESOLV_CONF);
        advise("Add a nameserver line to %s: without one only a DNS server on this machine is "
               "asked.",
               RESOLV_CONF);
    }
    if (access(HOSTS, R_OK) == 0) {
        printf("  %s is readable\n", HOSTS);
    } else {
        printf("  %s cannot be read (%s)\n", HOSTS, strerror(errno));
        advise("Make %s readable: names that stand only there are not found now.", HOSTS);
    }
}

/* The kernel accepts: nobody has to. */
static void look_up_localhost(struct pool *pool, uint16_t port)
{
    struct pool_error error = POOL_ERROR_INIT;
    struct pool_conn conn;
    char address[64], remote[80] = "?";

    snprintf(address, sizeof(address), "tcp://localhost:%u", port);
    if (pool_borrow(pool, address, POOL_CALL(.timeout_ms = 5000, .error = &error), &conn)) {
        printf("  localhost: %s\n", error.text);
        advise("Let %s say that localhost is 127.0.0.1.", HOSTS);
        is_unusable = true;
        return;
    }
    pool_conn_remote(&conn, remote, sizeof(remote));
    printf("  localhost leads to %s\n", remote);
    pool_discard(&conn);
}

static void look_at_names(void)
{
    struct pool *pool = NULL;
    enum pool_status status;
    uint16_t port = 0;
    int fd;

    printf("names\n");
    look_at_files();
    status = pool_create(NULL, &pool);
    fd = listen_at_home(AF_INET, &port);
    if (status) {
        printf("  no pool can be made: %s\n", pool_status_text(status));
        advise("No pool can be made at all (%s): look at the limits above.",
               pool_status_name(status));
    }
    if (fd < 0)
        advise("Nothing can listen at 127.0.0.1 (%s): the loopback interface is down or missing.",
               strerror(-fd));
    if (status || fd < 0)
        is_unusable = true;
    else
        look_up_localhost(pool, port);
    if (fd >= 0)
        close(fd);
    pool_destroy(pool);
}

/* ---- whom TLS trusts */

static const char *variable_or(const char *variable, const char *standard)
{
    const char *value = secure_getenv(variable);

    return value && *value ? value : standard;
}

/* They go to the store, too, which keeps each once. -1: the file cannot be read. */
static int count_certificates(const char *path, X509_STORE *store)
{
    FILE *file = fopen(path, "re");
    X509 *certificate;
    int count = 0;

    if (!file)
        return -1;
    while ((certificate = PEM_read_X509_AUX(file, NULL, NULL, NULL))) {
        X509_STORE_add_cert(store, certificate);
        X509_free(certificate);
        count++;
    }
    fclose(file);
    return count;
}

static int count_in_directory(const char *path, X509_STORE *store)
{
    DIR *directory = opendir(path);
    struct dirent *entry;
    char name[4096];
    int count = 0, found;

    if (!directory)
        return -1;
    while ((entry = readdir(directory))) {
        if (entry->d_name[0] == '.' ||
            snprintf(name, sizeof(name), "%s/%s", path, entry->d_name) >= (int)sizeof(name))
            continue;
        found = count_certificates(name, store);
        count += found > 0 ? found : 0;
    }
    closedir(directory);
    return count;
}

static void print_count(const char *path, int count)
{
    if (count < 0)
        printf("  %s cannot be read (%s)\n", path, strerror(errno));
    else
        printf("  %s: %d certificate%s\n", path, count, count == 1 ? "" : "s");
}

/* The same places that pool_tls_create(NULL) reads. In a directory most authorities stand more than
 * once, by symbolic links. */
static void look_at_store(X509_STORE *store)
{
    const char *file = variable_or(X509_get_default_cert_file_env(), X509_get_default_cert_file());
    const char *list = variable_or(X509_get_default_cert_dir_env(), X509_get_default_cert_dir());
    char directories[4096], *next, *path;

    print_count(file, count_certificates(file, store));
    snprintf(directories, sizeof(directories), "%s", list);
    for (path = strtok_r(directories, ":", &next); path; path = strtok_r(NULL, ":", &next))
        print_count(path, count_in_directory(path, store));
    printf("  different ones in all: %d\n", sk_X509_OBJECT_num(X509_STORE_get0_objects(store)));
}

static void look_at_trust(void)
{
    struct pool_error error = POOL_ERROR_INIT;
    X509_STORE *store = X509_STORE_new();
    struct pool_tls *tls = NULL;

    printf("whom TLS trusts\n");
    if (store)
        look_at_store(store);
    X509_STORE_free(store);
    if (pool_tls_create(NULL, &tls, &error) == POOL_OK) {
        printf("  TLS settings with all defaults can be made\n");
    } else {
        printf("  %s\n", error.text);
        advise("No tls:// address can be used without settings of your own: install the system's "
               "certificates (Debian: ca-certificates), or name yours by ca_file.");
    }
    pool_tls_free(tls);
}

int main(int argc, char **argv)
{
    if (argc > 1) {
        fprintf(stderr, "usage: %s (it takes no arguments)\n", argv[0]);
        return 2;
    }
    look_at_versions();
    look_at_limits();
    look_at_signals();
    look_at_network();
    look_at_names();
    look_at_trust();
    printf("advice\n");
    for (int i = 0; i < advice_count; i++)
        printf("  %s\n", advices[i]);
    if (!advice_count)
        printf("  Nothing is amiss.\n");
    return is_unusable;
}
