/* resolver_ares.c: c-ares as a source of answers.
 *
 * An engine is what c-ares made of the system's files at one time: three channels. `files` reads
 * /etc/hosts, for both families together, because a host that stands there is not asked for in DNS;
 * `plain` asks for names as they are; `search` goes through the search list. When a file changes a
 * new engine is made, and the old one goes when its last question has ended.
 *
 * /etc/hosts comes before DNS whatever nsswitch.conf says. c-ares reads files and clock by itself,
 * past the door. So a descriptor is tried for before it is asked: one that is out of descriptors
 * takes an unreadable /etc/hosts for an empty one.
 */
/* The functions of 1.18 work in all versions; newer headers warn of them. */
#define CARES_NO_DEPRECATED
#include <ares.h>
#include <errno.h>
#include <pthread.h>
#include <string.h>

#include "base/os.h"
#include "mux/mux.h"
#include "net/resolver.h"
#include "net/resolver_info.h"
#include "net/resolver_sockets.h"
#include "net/resolver_source.h"

#define TIMEOUT_MS 2000
#define TRIES 3
#define LOOK_NS (1000 * PL_MS)          /* between looks at the files */

enum channel_kind { FILES, PLAIN, SEARCH, CHANNELS };
enum file { RESOLV_CONF, HOSTS, STAMPS };

struct engine {
    struct pl_source *source;
    struct pl_list link;                /* in source->engines */
    ares_channel channels[CHANNELS];    /* SEARCH may be NULL: there is no search list */
    struct pl_dns_sockets sockets[CHANNELS];
    struct pl_list questions;           /* that it has not answered */
    struct pl_timer timer;
    int ndots;
    bool is_closing;
};

struct pl_source {
    struct pool_mux *mux;
    struct pl_resolver_options options;
    struct engine *engine;              /* NULL: there was no room for one */
    struct pl_list engines;             /* the old ones, too */
    struct pl_file_stamp stamps[STAMPS];
    uint64_t look_ns;                   /* when to look at them next */
    bool is_asking;                     /* c-ares is on the stack */
};

static pthread_mutex_t library_lock = PTHREAD_MUTEX_INITIALIZER;
static bool library_is_ready;
static const char *servers_of_tests;

void pl_resolver_use_servers(const char *servers)
{
    servers_of_tests = servers;
}

static bool begin_library(void)
{
    pthread_mutex_lock(&library_lock);
    if (!library_is_ready)
        library_is_ready = ares_library_init(ARES_LIB_INIT_ALL) == ARES_SUCCESS;
    pthread_mutex_unlock(&library_lock);
    return library_is_ready;
}

void pl_resolver_hold(void)
{
    pthread_mutex_lock(&library_lock);
    pl_dns_sockets_hold();
}

void pl_resolver_let_go(void)
{
    pl_dns_sockets_let_go();
    pthread_mutex_unlock(&library_lock);
}

void pl_resolver_orphan(void)
{
    pl_dns_sockets_orphan();
}

void pl_resolver_library_end(void)
{
    pl_dns_sockets_library_end();
    if (library_is_ready)
        ares_library_cleanup();
    library_is_ready = false;
}

/* ---- engines */

static void close_engine(struct engine *engine)
{
    engine->is_closing = true;
    for (int kind = 0; kind < CHANNELS; kind++) {
        if (engine->channels[kind])
            ares_destroy(engine->channels[kind]);
    }
    while (!pl_list_is_empty(&engine->questions))
        pl_list_pop_front(&engine->questions);
    pl_mux_timer_close(engine->source->mux, &engine->timer);
    pl_list_unlink(&engine->link);
    pl_os->free(engine);
}

/* When c-ares wants to be called next, whatever happens; PL_NEVER: not at all. */
static uint64_t next_turn(const struct engine *engine)
{
    uint64_t now_ns = pl_os->now_ns(), turn_ns = PL_NEVER;

    for (int kind = PLAIN; kind < CHANNELS; kind++) {
        struct timeval left;

        if (!engine->channels[kind] || !ares_timeout(engine->channels[kind], NULL, &left))
            continue;
        /* Its clock is cut to microseconds: one turn late is cheaper than two. */
        turn_ns = pl_earlier(turn_ns, now_ns + (uint64_t)left.tv_sec * 1000 * PL_MS +
                                          (uint64_t)left.tv_usec * 1000 + PL_MS);
    }
    return turn_ns;
}

/* After each call of c-ares, when it is off the stack. */
static void follow(struct engine *engine)
{
    struct pl_source *source = engine->source;
    uint64_t turn_ns;

    pl_assert(!source->is_asking);
    if (engine != source->engine && pl_list_is_empty(&engine->questions)) {
        close_engine(engine);
        return;
    }
    turn_ns = next_turn(engine);
    if (turn_ns == PL_NEVER)
        pl_mux_timer_disarm(source->mux, &engine->timer);
    else
        pl_mux_timer_arm(source->mux, &engine->timer, turn_ns);
}

static void process(struct engine *engine, enum channel_kind kind, int read_fd, int write_fd)
{
    if (!engine->channels[kind])
        return;
    engine->source->is_asking = true;
    ares_process_fd(engine->channels[kind], read_fd, write_fd);
    engine->source->is_asking = false;
}

static void on_event(void *owner, struct pl_dns_sockets *sockets, int read_fd, int write_fd)
{
    struct engine *engine = owner;
    int saved = errno;

    process(engine, (enum channel_kind)(sockets - engine->sockets), read_fd, write_fd);
    follow(engine);
    errno = saved;
}

static void on_timer(void *user)
{
    struct engine *engine = user;
    int saved = errno;

    process(engine, PLAIN, ARES_SOCKET_BAD, ARES_SOCKET_BAD);
    process(engine, SEARCH, ARES_SOCKET_BAD, ARES_SOCKET_BAD);
    follow(engine);
    errno = saved;
}

static void set_options(const struct pl_source *source, enum channel_kind kind,
                        struct ares_options *options, int *mask)
{
    const struct pl_resolver_options *given = &source->options;

    options->timeout = (int)(given->timeout_ms ? given->timeout_ms : TIMEOUT_MS);
    options->tries = (int)(given->tries ? given->tries : TRIES);
    options->lookups = (char *)(uintptr_t)(kind == FILES ? "f" : "b");
    options->sock_state_cb = pl_dns_sockets_want;
    *mask = ARES_OPT_TIMEOUTMS | ARES_OPT_TRIES | ARES_OPT_LOOKUPS | ARES_OPT_SOCK_STATE_CB;
    if (given->resolv_conf) {
        options->resolvconf_path = (char *)(uintptr_t)given->resolv_conf;
        *mask |= ARES_OPT_RESOLVCONF;
    }
    if (kind != SEARCH) {
        options->flags = ARES_FLAG_NOSEARCH;    /* and for versions that do not heed it: */
        *mask |= ARES_OPT_FLAGS | ARES_OPT_NDOTS | ARES_OPT_DOMAINS;
    }
#ifdef ARES_OPT_HOSTS_FILE
    if (given->hosts) {
        options->hosts_path = (char *)(uintptr_t)given->hosts;
        *mask |= ARES_OPT_HOSTS_FILE;
    }
#endif
#ifdef ARES_OPT_QUERY_CACHE
    *mask |= ARES_OPT_QUERY_CACHE;      /* with a time of 0: the cache is ours */
#endif
}

static int open_channel(struct engine *engine, enum channel_kind kind)
{
    struct pl_source *source = engine->source;
    const char *servers = source->options.servers ? source->options.servers : servers_of_tests;
    struct ares_options options = { 0 };
    int mask = 0, status;

    set_options(source, kind, &options, &mask);
    options.sock_state_cb_data = &engine->sockets[kind];
    pl_dns_sockets_init(&engine->sockets[kind], source->mux);
    engine->sockets[kind].owner = engine;
    engine->sockets[kind].on_event = on_event;
    status = ares_init_options(&engine->channels[kind], &options, mask);
    if (status) {
        engine->channels[kind] = NULL;
        return status;
    }
    pl_dns_sockets_use(&engine->sockets[kind], engine->channels[kind]);
    return servers && kind != FILES ? ares_set_servers_ports_csv(engine->channels[kind], servers)
                                    : ARES_SUCCESS;
}

/* What resolv.conf and the environment say of searching, c-ares knows. */
static int learn_search(struct engine *engine)
{
    struct ares_options options = { 0 };
    int mask = 0, status = ares_save_options(engine->channels[SEARCH], &options, &mask);

    if (status)
        return status;
    engine->ndots = options.ndots;
    if (!options.ndomains) {
        ares_destroy(engine->channels[SEARCH]);
        engine->channels[SEARCH] = NULL;
    }
    ares_destroy_options(&options);
    return ARES_SUCCESS;
}

static int open_channels(struct engine *engine)
{
    int status = ARES_SUCCESS;

    for (int kind = 0; kind < CHANNELS && !status; kind++)
        status = open_channel(engine, (enum channel_kind)kind);
    return status ? status : learn_search(engine);
}

/* 0, or a status of c-ares. */
static int open_engine(struct pl_source *source)
{
    struct engine *engine = pl_zalloc(sizeof(*engine));
    int status;

    if (!engine)
        return ARES_ENOMEM;
    engine->source = source;
    pl_list_init(&engine->questions);
    if (!pl_mux_timer_open(source->mux, &engine->timer, on_timer, engine)) {
        pl_os->free(engine);
        return ARES_ENOMEM;
    }
    pl_list_push_back(&source->engines, &engine->link);
    status = open_channels(engine);
    if (status)
        close_engine(engine);
    else
        source->engine = engine;
    return status;
}

/* ---- from what c-ares says to answers */

static bool is_asked(const struct pl_question *question, int family)
{
    return question->ask == PL_ASK_SEARCH ||
           (question->ask == PL_ASK_IPV6) == (family == PL_IPV6);
}

/* All that was asked failed so. Without its own engine it was not begun. */
static void refuse(struct pl_question *question, struct pl_failure failure, uint64_t expires_ns)
{
    const struct pl_addresses *none[PL_FAMILIES] = { NULL };

    for (int family = 0; family < PL_FAMILIES; family++) {
        if (is_asked(question, family))
            none[family] = pl_addresses_none(failure, expires_ns);
    }
    if (question->at_source.engine)
        pl_list_unlink(&question->at_source.link);
    question->on_answer(question, none);
}

static uint64_t shortages(const struct engine *engine, int *error)
{
    uint64_t count = 0;

    for (int kind = PLAIN; kind < CHANNELS; kind++) {
        count += engine->sockets[kind].shortages;
        if (engine->sockets[kind].shortage)
            *error = engine->sockets[kind].shortage;
    }
    return count;
}

/* c-ares cannot tell a server that it did not reach from a socket that it could not have. */
static void fail(struct pl_question *question, int status)
{
    struct pl_failure failure = pl_dns_failure(status);
    uint64_t expires_ns = 0;
    int error = 0;

    if (shortages(question->at_source.engine, &error) != question->at_source.shortages &&
        (status == ARES_ECONNREFUSED || status == ARES_ETIMEOUT))
        failure = pl_failure_of_errno(error, POOL_PHASE_RESOLVE);
    if (status == ARES_ENOTFOUND || status == ARES_ENODATA)
        expires_ns = pl_ttl_end(pl_os->now_ns(), PL_TTL_NEGATIVE_S);
    refuse(question, failure, expires_ns);
}

static void answer(struct pl_question *question, struct ares_addrinfo *info)
{
    const struct pl_addresses *addresses[PL_FAMILIES] = { NULL };

    for (int family = 0; family < PL_FAMILIES; family++) {
        if (is_asked(question, family))
            addresses[family] = pl_dns_addresses(info, (enum pl_family)family);
    }
    pl_list_unlink(&question->at_source.link);
    question->on_answer(question, addresses);
}

/* RFC 6761: what is called so is this machine, whoever else may say something else. */
static void answer_local(struct pl_question *question)
{
    const struct pl_addresses *addresses[PL_FAMILIES] = { NULL };

    for (int family = 0; family < PL_FAMILIES; family++) {
        if (is_asked(question, family))
            addresses[family] = pl_dns_loopback((enum pl_family)family);
    }
    pl_list_unlink(&question->at_source.link);
    question->on_answer(question, addresses);
}

/* ---- asking */

static void on_dns(void *argument, int status, int timeouts, struct ares_addrinfo *info)
{
    struct pl_question *question = argument;
    const struct engine *engine = question->at_source.engine;

    (void)timeouts;
    if (engine->is_closing)
        return;
    if (status)
        fail(question, status);
    else
        answer(question, info);
    ares_freeaddrinfo(info);
}

static void on_files(void *argument, int status, int timeouts, struct ares_addrinfo *info)
{
    struct pl_question *question = argument;
    struct engine *engine = question->at_source.engine;
    struct ares_addrinfo_hints hints = { .ai_socktype = SOCK_STREAM };
    bool is_search = question->ask == PL_ASK_SEARCH && engine->channels[SEARCH];

    (void)timeouts;
    if (engine->is_closing)
        return;
    if (status == ARES_SUCCESS && info->nodes) {
        answer(question, info);
    } else if (status == ARES_ENOMEM) {
        fail(question, status);
    } else if (pl_dns_is_local(question->name)) {
        answer_local(question);
    } else {
        hints.ai_family = question->ask == PL_ASK_SEARCH ? AF_UNSPEC
                          : question->ask == PL_ASK_IPV6 ? AF_INET6
                                                         : AF_INET;
        ares_getaddrinfo(engine->channels[is_search ? SEARCH : PLAIN], question->name, NULL, &hints,
                         on_dns, question);
    }
    ares_freeaddrinfo(info);
}

/* A negative errno: there is no descriptor for what c-ares is going to open. */
static int try_descriptor(void)
{
    int fd = pl_os->eventfd_create();

    return fd < 0 ? fd : pl_os->close(fd);
}

static void ask_engine(struct engine *engine, struct pl_question *question)
{
    struct ares_addrinfo_hints hints = { .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM };
    /* The file does not tell case; c-ares 1.18, which answers "localhost" by itself, loses memory
     * each time. */
    const char *name = strcmp(question->name, "localhost") ? question->name : "LOCALHOST";
    int error = 0;

#ifndef ARES_OPT_HOSTS_FILE
    if (engine->source->options.hosts)
        hints.ai_flags |= ARES_AI_ENVHOSTS;
#endif
    question->at_source.engine = engine;
    question->at_source.shortages = shortages(engine, &error);
    pl_list_push_back(&engine->questions, &question->at_source.link);
    engine->source->is_asking = true;
    ares_getaddrinfo(engine->channels[FILES], name, NULL, &hints, on_files, question);
    engine->source->is_asking = false;
    follow(engine);
}

static void source_ask(struct pl_source *source, struct pl_question *question)
{
    int saved = errno, status = ARES_SUCCESS, error = try_descriptor();

    if (pl_is_out_of_descriptors(-error))
        refuse(question, pl_failure_of_errno(-error, POOL_PHASE_RESOLVE), 0);
    else if (!source->engine && (status = open_engine(source)))
        refuse(question, pl_dns_failure(status), 0);
    else
        ask_engine(source->engine, question);
    errno = saved;
}

/* ---- the rest of a source */

/* True: a file is not what it was. One that cannot be looked at counts as unchanged. */
static bool look(struct pl_source *source)
{
    const char *paths[STAMPS] = {
        [RESOLV_CONF] = source->options.resolv_conf ? source->options.resolv_conf
                                                    : "/etc/resolv.conf",
        [HOSTS] = source->options.hosts ? source->options.hosts : "/etc/hosts",
    };
    bool has_changed = false;

    for (int file = 0; file < STAMPS; file++) {
        struct pl_file_stamp stamp = { 0 };
        int error = pl_os->file_stamp(paths[file], &stamp);

        if (error && error != -ENOENT)
            continue;
        has_changed = has_changed || memcmp(&stamp, &source->stamps[file], sizeof(stamp)) != 0;
        source->stamps[file] = stamp;
    }
    return has_changed;
}

static bool source_has_changed(struct pl_source *source, uint64_t now_ns)
{
    struct engine *old = source->engine;
    int saved = errno;

    if (now_ns < source->look_ns)
        return false;
    source->look_ns = pl_after(now_ns, LOOK_NS);
    if (!look(source))
        return false;
    source->engine = NULL;
    if (old)
        follow(old);
    errno = saved;
    return true;
}

static enum pl_search source_search(struct pl_source *source, const char *name)
{
    int saved = errno, dots = 0;

    if (!source->engine && open_engine(source))
        dots = -1;
    errno = saved;
    if (dots < 0 || !source->engine->channels[SEARCH])
        return PL_SEARCH_NEVER;
    for (; *name; name++)
        dots += *name == '.';
    return dots < source->engine->ndots ? PL_SEARCH_FIRST : PL_SEARCH_LAST;
}

static enum pool_status source_open(struct pool_mux *mux,
                                    const struct pl_resolver_options *options,
                                    struct pl_source **opened)
{
    struct pl_source *source = begin_library() ? pl_zalloc(sizeof(*source)) : NULL;

    *opened = source;
    if (!source)
        return POOL_E_MEMORY;
    source->mux = mux;
    source->options = *options;
    pl_list_init(&source->engines);
    source->look_ns = pl_after(pl_os->now_ns(), LOOK_NS);
    look(source);
    return POOL_OK;
}

static void source_close(struct pl_source *source)
{
    int saved = errno;

    pl_assert(!source->is_asking);
    while (!pl_list_is_empty(&source->engines))
        close_engine(pl_container(source->engines.next, struct engine, link));
    pl_os->free(source);
    errno = saved;
}

const struct pl_source_ops pl_source_ares = {
    .open = source_open,
    .close = source_close,
    .ask = source_ask,
    .has_changed = source_has_changed,
    .search = source_search,
};
