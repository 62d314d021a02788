/* query_script.c: see query_script.h. */
#include "support/query_script.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ECHO_HEAD "*2\r\n$4\r\nECHO\r\n$"

struct script script;

static _Noreturn void give_up(const char *why)
{
    fprintf(stderr, "a script: %s\n", why);
    abort();
}

/* ---- how it is written */

size_t script_write_request(char *at, size_t room, struct pool_bytes token)
{
    int head = 0;

    if (script.speech == SPEAK_RESP)
        head = snprintf(at, room, ECHO_HEAD "%zu\r\n", token.size);
    if ((size_t)head + token.size + 3 > room)
        give_up("a token is too long");
    memcpy(at + head, token.data, token.size);
    strcpy(at + (size_t)head + token.size, script.speech == SPEAK_RESP ? "\r\n" : "");
    return (size_t)head + token.size + (script.speech == SPEAK_RESP ? 2 : 0);
}

size_t script_write_body(char *at, size_t room, struct pool_bytes token)
{
    if (token.size + 32 > room)
        give_up("a token is too long");
    if (script.speech != SPEAK_RESP) {
        memcpy(at, token.data, token.size);
        at[token.size] = 0;
        return token.size;
    }
    return (size_t)snprintf(at, room, "$%zu\r\n%.*s\r\n", token.size, (int)token.size,
                            (const char *)token.data);
}

void script_add(struct script_bytes *bytes, const void *more, size_t size)
{
    if (size > sizeof(bytes->data) - bytes->size)
        give_up("it says too much at once");
    memcpy(bytes->data + bytes->size, more, size);
    bytes->size += size;
}

void script_frame(struct script_bytes *bytes, uint32_t id, enum frame_kind kind, const char *body)
{
    char head[FRAME_HEAD];

    frame_write_head(head, &(struct frame_head){ (uint32_t)strlen(body), id, kind });
    script_add(bytes, head, sizeof(head));
    script_add(bytes, body, strlen(body));
}

void script_reply(struct script_bytes *bytes, const struct script_request *request)
{
    char body[SCRIPT_TOKEN + 32];

    if (script.speech == SPEAK_LENGTH) {
        script_frame(bytes, request->id, FRAME_REPLY, request->token);
        return;
    }
    script_add(bytes, body, script_write_body(body, sizeof(body), text_bytes(request->token)));
    if (script.speech == SPEAK_LINE)
        script_add(bytes, "\n", 1);
}

void script_push(struct script_bytes *bytes, const char *text)
{
    char push[128];

    if (script.speech == SPEAK_LENGTH) {
        script_frame(bytes, 0, FRAME_PUSH, text);
        return;
    }
    snprintf(push, sizeof(push), ">2\r\n$7\r\nmessage\r\n$%zu\r\n%s\r\n", strlen(text), text);
    script_add(bytes, push, strlen(push));
}

/* ---- what the peer is asked */

/* The bytes of one whole request at the start of `in`; 0: more must come. */
static size_t find_request(struct pool_bytes in, uint32_t *id, struct pool_bytes *token)
{
    const char *data = in.data, *end = memchr(data, '\n', in.size);
    size_t head = strlen(ECHO_HEAD);
    struct frame_head frame;

    *id = 0;
    switch (script.speech) {
    case SPEAK_LENGTH:
        if (in.size < FRAME_HEAD)
            return 0;
        frame = frame_read_head(data);
        *id = frame.id;
        *token = (struct pool_bytes){ data + FRAME_HEAD, frame.size };
        return in.size - FRAME_HEAD < frame.size ? 0 : FRAME_HEAD + token->size;
    case SPEAK_LINE:
        *token = (struct pool_bytes){ data, end ? (size_t)(end - data) : 0 };
        return end ? token->size + 1 : 0;
    default:
        end = in.size > head ? memchr(data + head, '\n', in.size - head) : NULL;
        if (!end)
            return 0;
        *token = (struct pool_bytes){ end + 1, strtoul(data + head, NULL, 10) };
        head = (size_t)(end + 1 - data) + token->size + 2;
        return in.size < head ? 0 : head;
    }
}

static void note_request(struct world_link *link, uint32_t id, struct pool_bytes token)
{
    struct script_request request = { .link = link, .id = id };

    snprintf(request.token, sizeof(request.token), "%.*s",
             (int)(token.size < SCRIPT_TOKEN ? token.size : SCRIPT_TOKEN - 1),
             (const char *)token.data);
    if (script.count < SCRIPT_KEPT)
        script.requests[script.count++] = request;
    if (script.on_request)
        script.on_request(&request, token);
}

static void on_bytes(struct world_link *link, const char *bytes, size_t size, void *user)
{
    unsigned nth = world_link_nth(link);
    struct pool_bytes token;
    const char *all;
    uint32_t id;

    (void)bytes, (void)user;
    if (nth >= SCRIPT_LINKS)
        give_up("too many connections");
    for (;;) {
        size_t have = world_link_received(link, &all);
        struct pool_bytes in = { all + script.parsed[nth], have - script.parsed[nth] };

        size = in.size ? find_request(in, &id, &token) : 0;
        if (!size)
            return;
        script.parsed[nth] += size;
        note_request(link, id, token);
    }
}

void script_answer(const struct script_request *request, struct pool_bytes token)
{
    struct script_bytes bytes = { .size = 0 };

    (void)token;
    script_reply(&bytes, request);
    world_say(request->link, bytes.data, bytes.size);
}

/* ---- what it says */

void script_say_cut(struct world_link *link, const struct script_bytes *bytes, size_t cut)
{
    if (cut)
        world_say(link, bytes->data, cut);
    world_settle(script.world);
    if (cut < bytes->size)
        world_say(link, bytes->data + cut, bytes->size - cut);
    world_settle(script.world);
}

void script_say_dripped(struct world_link *link, const struct script_bytes *bytes)
{
    for (size_t i = 0; i < bytes->size; i++) {
        world_say(link, bytes->data + i, 1);
        world_settle(script.world);
    }
}

/* ---- life */

static void on_orphan(uint64_t id, uint64_t key, struct pool_bytes body, void *user)
{
    (void)id, (void)key, (void)body, (void)user;
    script.orphans++;
}

static const struct pool_codec *codec_of(enum script_speech speech)
{
    switch (speech) {
    case SPEAK_LENGTH:
        return pool_codec_length();
    case SPEAK_LINE:
        return pool_codec_line();
    default:
        return pool_codec_resp();
    }
}

void script_begin(enum script_speech speech, const struct pool_options *options,
                  const struct world_peer_options *peer)
{
    struct pool_options own = *options;
    struct world_peer_options behaviour = peer ? *peer : (struct world_peer_options){ 0 };

    memset(&script, 0, sizeof(script));
    script.speech = speech;
    script.world = world_create(5);
    behaviour.on_bytes = on_bytes;
    script.peer = world_listen(script.world, SCRIPT_ADDRESS, &behaviour);
    pl_os_replace(world_os(script.world));
    if (!own.codec)
        own.codec = codec_of(speech);
    own.on_orphan = on_orphan;
    script.pool = make_pool(&own);
    if (!script.pool)
        give_up("no pool");
}

bool script_end(void)
{
    bool is_clean;

    pool_destroy(script.pool);
    world_settle(script.world);
    is_clean = !world_descriptors(script.world) && !world_allocations(script.world) &&
               !world_violations(script.world);
    if (!is_clean)
        fprintf(stderr, "left: %u descriptors, %zu allocations; %llu violations\n",
                world_descriptors(script.world), world_allocations(script.world),
                (unsigned long long)world_violations(script.world));
    pl_os_replace(NULL);
    world_destroy(script.world);
    return is_clean;
}

enum pool_status script_ask(struct query *query, const char *token, const struct pool_call *call)
{
    char body[256];

    script_write_request(body, sizeof(body), text_bytes(token));
    return start_query(query, script.pool, SCRIPT_ADDRESS, body, call);
}

enum pool_status script_ask_and_wait(struct query *query, const char *token,
                                     const struct pool_call *call)
{
    char body[256];

    script_write_request(body, sizeof(body), text_bytes(token));
    return ask_and_wait(query, script.pool, SCRIPT_ADDRESS, body, call);
}

bool script_is_answered(const struct query *query, const char *token)
{
    char body[256];

    script_write_body(body, sizeof(body), text_bytes(token));
    return is_answered_with(query, body);
}
