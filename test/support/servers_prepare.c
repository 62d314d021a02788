/* servers_prepare.c: what each kind of server is told: its files, its arguments, its address, and
 * by what it is known to listen. */
#include <errno.h>
#include <pwd.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "support/authority.h"
#include "support/servers_parts.h"
#include "support/tests.h"

void server_argue(struct server *server, const char *format, ...)
{
    unsigned place = server->argument_count++;
    va_list list;

    if (place >= SERVER_ARGUMENTS)
        abort();
    va_start(list, format);
    vsnprintf(server->texts[place], sizeof(server->texts[place]), format, list);
    va_end(list);
    server->arguments[place] = server->texts[place];
    server->arguments[place + 1] = NULL;
}

static void argue_pair(struct server *server, const char *name, const char *value)
{
    server_argue(server, "%s", name);
    server_argue(server, "%s", value);
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

static void argue_redis_port(struct server *server)
{
    if (server->credential) {
        argue_pair(server, "--port", "0");
        argue_pair(server, "--tls-auth-clients", "no");
        server_argue(server, "--tls-cert-file");
        server_argue(server, "%s/certificate.pem", server->directory);
        server_argue(server, "--tls-key-file");
        server_argue(server, "%s/key.pem", server->directory);
    }
    server_argue(server, server->credential ? "--tls-port" : "--port");
    server_argue(server, "%d", server->port);
}

/* DEBUG must be allowed since Redis 7, and what allows it is unknown before. */
static bool must_allow_debug(const struct server *server)
{
    char command[300], words[80] = "";
    const char *version;
    FILE *said;

    snprintf(command, sizeof(command), "%s --version", server->program);
    said = popen(command, "re");
    if (said && !fgets(words, sizeof(words), said))
        words[0] = 0;
    if (said)
        pclose(said);
    version = strstr(words, "v=");
    return version && atoi(version + 2) >= 7;
}

bool server_prepare_redis(struct server *server)
{
    argue_pair(server, "--bind", "127.0.0.1");
    argue_redis_port(server);
    server_argue(server, "--unixsocket");
    server_argue(server, "%s/redis", server->directory);
    argue_pair(server, "--dir", server->directory);
    argue_pair(server, "--save", "");
    argue_pair(server, "--appendonly", "no");
    argue_pair(server, "--daemonize", "no");
    argue_pair(server, "--maxclients", "10000");
    if (must_allow_debug(server))
        argue_pair(server, "--enable-debug-command", "yes");
    if (server->password[0])
        argue_pair(server, "--requirepass", server->password);
    snprintf(server->unix_address, sizeof(server->unix_address), "unix://%s/redis",
             server->directory);
    return write_credential(server);
}

bool server_prepare_nginx(struct server *server)
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
        "    server {\n"
        "        listen 127.0.0.1:%d%s; root %s/www; index small.txt;\n"
        "        location /echo/ { return 200 \"$request_uri\"; }\n"
        "        location /few/ { keepalive_requests %d; return 200 \"$request_uri\"; }\n"
        "        location /none { return 204; }\n"
        "        location /packed/ { alias %s/www/; gzip on; gzip_types text/plain; }\n"
        "    }\n"
        "}\n";
    const char *at = server->directory;
    char text[4096], kilo[1025], path[160], secure[400] = "";

    snprintf(path, sizeof(path), "%s/www", at);
    mkdir(path, 0700);
    memset(kilo, 'k', 1024);
    kilo[1024] = 0;
    if (server->credential)
        snprintf(secure, sizeof(secure),
                 " ssl; ssl_certificate %s/certificate.pem; ssl_certificate_key %s/key.pem; "
                 "ssl_session_cache shared:test:1m; ssl_protocols %s",
                 at, at, server->protocols);
    snprintf(text, sizeof(text), configuration, at, at, at, at, at, at, server->port, secure, at,
             NGINX_FEW, at);
    snprintf(server->proof, sizeof(server->proof), "%s/pid", at);
    argue_pair(server, "-p", at);
    server_argue(server, "-e");
    server_argue(server, "stderr");
    server_argue(server, "-c");
    server_argue(server, "%s/nginx.conf", at);
    return write_credential(server) && write_file(server, "nginx.conf", text) &&
           write_file(server, "www/small.txt", NGINX_SMALL) &&
           write_file(server, "www/kilo.txt", kilo);
}

bool server_prepare_memcached(struct server *server)
{
    struct passwd *own = getpwuid(geteuid());

    argue_pair(server, "-l", "127.0.0.1");
    argue_pair(server, "-U", "0");
    argue_pair(server, "-t", "2");
    argue_pair(server, "-m", "32");
    server_argue(server, "-p");
    server_argue(server, "%d", server->port);
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
bool server_prepare_dnsmasq(struct server *server)
{
    struct passwd *own = getpwuid(geteuid());

    server_argue(server, "--no-daemon");
    server_argue(server, "--conf-file=/dev/null");
    server_argue(server, "--no-resolv");
    server_argue(server, "--addn-hosts=%s/hosts", server->directory);
    server_argue(server, "--no-hosts");
    server_argue(server, "--listen-address=127.0.0.1");
    server_argue(server, "--bind-interfaces");
    server_argue(server, "--port=%d", server->port);
    server_argue(server, "--pid-file=%s/pid", server->directory);
    server_argue(server, "--user=%s", own ? own->pw_name : "root");
    server_argue(server, "--group=");
    server_argue(server, "--local=/example/");
    server_argue(server, "--local-ttl=7");
    server_argue(server, "--edns-packet-max=512");
    server_argue(server, "--host-record=db.example,10.0.0.1,2001:db8::1,7");
    server_argue(server, "--host-record=v6.example,2001:db8::6,7");
    server_argue(server, "--cname=alias.example,db.example,3");
    server_argue(server, "--cname=www.example,alias.example,3");
    return write_many(server);
}

bool server_prepare_openssl(struct server *server)
{
    argue_pair(server, "s_server", "-tls1_3");
    server_argue(server, "-accept");
    server_argue(server, "127.0.0.1:%d", server->port);
    argue_pair(server, "-cert", "certificate.pem");
    argue_pair(server, "-key", "key.pem");
    server_argue(server, "-num_tickets");
    server_argue(server, "%u", server->tickets);
    server_argue(server, "-msg");
    if (server->reverses)
        server_argue(server, "-rev");
    snprintf(server->proof, sizeof(server->proof), "%s/log", server->directory);
    server->proof_word = "ACCEPT";
    return write_credential(server);
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
    server_argue(server, "--no-locale");
    server_argue(server, "--no-sync");
    if (!server_launch(server))
        return false;
    while (waitpid(server->pid, &status, 0) < 0 && errno == EINTR)
        continue;
    server->pid = 0;
    strcpy(server->program, program);
    return status == 0;
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
bool server_prepare_postgres(struct server *server)
{
    char text[128];

    snprintf(text, sizeof(text), "%s/postgresql.conf", server->directory);
    if (access(text, F_OK) != 0 && !make_cluster(server))
        return false;
    server->argument_count = 1;
    argue_pair(server, "-D", "data");
    server_argue(server, "-c");
    server_argue(server, "config_file=%s", text);
    server_argue(server, "-p");
    server_argue(server, "%d", server->port);
    snprintf(server->proof, sizeof(server->proof), "%s/data/postmaster.pid", server->directory);
    server->proof_word = "\nready";
    snprintf(server->address, sizeof(server->address), "tls://127.0.0.1:%d?starttls=1",
             server->port);
    return true;
}
