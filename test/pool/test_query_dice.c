/* test_query_dice.c: a hundred thousand queries by the dice, in the scripted world: of all sizes,
 * given up and canceled, answered late, twice, in parts, in any order, in pieces and never, over
 * connections that break; and borrowers among them. What must hold: no reply reaches another query,
 * each query is answered once and with what may be, and nothing is left.
 *
 * A run is the same every time; its seed is said when it fails. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "support/query_script.h"

#define RUNS 12u
#define ASKED 12500u /* in each run */
#define LARGEST 30000u
#define TICKETS 64u
#define PATIENCE 60000u /* ms: nobody who is answered waits for so long */

TestSuite(query_dice, .timeout = 300);

static uint64_t dice;

static unsigned below(unsigned limit)
{
    uint64_t number = dice += UINT64_C(0x9e3779b97f4a7c15);

    number = (number ^ number >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    number = (number ^ number >> 27) * UINT64_C(0x94d049bb133111eb);
    return (unsigned)((number ^ number >> 31) % limit);
}

static bool chance(unsigned permille)
{
    return below(1000) < permille;
}

/* ---- what the peer says: bytes of one connection, which leave in pieces */

struct voice {
    struct world_link *link;
    char *data;
    size_t start, end, capacity;
    bool is_talking;
    bool ends; /* when it has said all */
};

static struct voice voices[SCRIPT_LINKS];
static bool is_rough;

static void talk_on(void *argument)
{
    struct voice *voice = argument;
    size_t size = voice->end - voice->start, piece = 1 + below(chance(300) ? 20 : 20000);

    voice->is_talking = false;
    if (!world_link_is_open(voice->link))
        return;
    piece = piece < size ? piece : size;
    world_say(voice->link, voice->data + voice->start, piece);
    voice->start += piece;
    voice->is_talking = voice->start < voice->end;
    if (voice->is_talking)
        world_at(script.world, below(3), talk_on, voice);
    else if (voice->ends)
        world_close(voice->link);
}

static struct voice *voice_of(struct world_link *link)
{
    struct voice *voice = &voices[world_link_nth(link)];

    voice->link = link;
    return voice;
}

static void say(struct world_link *link, const void *bytes, size_t size)
{
    struct voice *voice = voice_of(link);

    if (voice->ends)
        return;
    if (voice->end + size > voice->capacity) {
        voice->capacity = 2 * (voice->end + size);
        voice->data = realloc(voice->data, voice->capacity);
        if (!voice->data)
            abort();
    }
    memcpy(voice->data + voice->end, bytes, size);
    voice->end += size;
    if (!voice->is_talking)
        world_at(script.world, below(2), talk_on, voice);
    voice->is_talking = true;
}

static void say_frame(struct world_link *link, uint32_t id, enum frame_kind kind,
                      struct pool_bytes body)
{
    struct script_bytes head = { .size = 0 };

    script_frame(&head, id, kind, "");
    head.data[0] = (char)(body.size >> 24);
    head.data[1] = (char)(body.size >> 16);
    head.data[2] = (char)(body.size >> 8);
    head.data[3] = (char)body.size;
    say(link, head.data, head.size);
    say(link, body.data, body.size);
}

/* ---- how it answers */

struct answer {
    struct world_link *link;
    uint32_t id;
    size_t size;
    char token[];
};

static void answer_in_parts(const struct answer *answer)
{
    size_t at = 0, piece;

    while (answer->size - at > 1 && !chance(200)) {
        piece = 1 + below((unsigned)(answer->size - at) - 1);
        say_frame(answer->link, answer->id, FRAME_PART,
                  (struct pool_bytes){ answer->token + at, piece });
        at += piece;
    }
    say_frame(answer->link, answer->id, FRAME_REPLY,
              (struct pool_bytes){ answer->token + at, answer->size - at });
}

static void answer_by_key(void *argument)
{
    struct answer *answer = argument;
    struct pool_bytes token = { answer->token, answer->size };

    if (chance(50))
        answer_in_parts(answer);
    else
        say_frame(answer->link, answer->id, FRAME_REPLY, token);
    if (chance(30))
        say_frame(answer->link, answer->id, FRAME_REPLY, token);
    if (chance(20))
        say_frame(answer->link, UINT32_MAX - below(1000), FRAME_REPLY, token);
    if (chance(10))
        say_frame(answer->link, 0, FRAME_PUSH, token);
    if (chance(150))
        world_at(script.world, below(chance(300) ? 100 : 3000), answer_by_key, answer);
    else
        free(answer);
}

static void answer_in_turn(struct world_link *link, struct pool_bytes token)
{
    static char body[LARGEST + 64];

    say(link, body, script_write_body(body, sizeof(body), token));
    if (script.speech == SPEAK_LINE)
        say(link, "\n", 1);
    else if (chance(20))
        say(link, ">1\r\n+news\r\n", 11);
}

/* True: the connection ends instead, with half an answer or none. */
static bool is_refused(const struct script_request *request, struct pool_bytes token)
{
    static char body[LARGEST + 64];
    unsigned choice = is_rough ? below(1000) : 2;

    if (choice == 0) {
        world_reset(request->link);
    } else if (choice == 1) {
        if (script.speech == SPEAK_LENGTH)
            say_frame(request->link, request->id, FRAME_REPLY, token);
        else
            say(request->link, body, script_write_body(body, sizeof(body), token));
        voice_of(request->link)->end -= 1 + below(5);
        voice_of(request->link)->ends = true;
    }
    return choice < 2;
}

static void hear(const struct script_request *request, struct pool_bytes token)
{
    struct answer *answer;

    if (!world_link_is_open(request->link) || is_refused(request, token))
        return;
    if (script.speech != SPEAK_LENGTH) {
        answer_in_turn(request->link, token);
        return;
    }
    if (chance(20))
        return;
    answer = malloc(sizeof(*answer) + token.size);
    if (!answer)
        abort();
    *answer = (struct answer){ request->link, request->id, token.size };
    memcpy(answer->token, token.data, token.size);
    world_at(script.world, chance(30) ? below(2000) : below(30), answer_by_key, answer);
}

/* ---- who asks */

struct pending {
    unsigned told;
    uint32_t size;
    bool has_ticket, is_hurried, has_parts;
    uint32_t part_size;
};

static struct pending *all;
static struct pool_ticket *tickets[TICKETS];
static unsigned in_flight, answered, given_up;
static uint64_t seed;

/* The token of the query with that number. */
static struct pool_bytes token_of(const struct pending *pending)
{
    static char token[LARGEST];
    unsigned number = (unsigned)(pending - all);

    snprintf(token, sizeof(token), "%08u.", number);
    memset(token + 9, 'a' + (int)(number % 26), pending->size - 9);
    return (struct pool_bytes){ token, pending->size };
}

static struct pool_bytes request_of(const struct pending *pending)
{
    static char request[LARGEST + 64];
    struct pool_bytes token = token_of(pending);

    return (struct pool_bytes){ request, script_write_request(request, sizeof(request), token) };
}

static void check_answer(const struct pending *pending, struct pool_bytes bytes)
{
    static char body[LARGEST + 64];
    size_t size = script_write_body(body, sizeof(body), token_of(pending));
    size_t before = pending->has_parts ? pending->part_size : 0;

    cr_assert(before + bytes.size == size && !memcmp(body + before, bytes.data, bytes.size),
              "seed %llu: %u was told %.20s (%zu)", (unsigned long long)seed,
              (unsigned)(pending - all), (const char *)bytes.data, bytes.size);
    answered++;
}

static void check_failure(const struct pending *pending, const struct pool_error *error)
{
    bool is_time = error->status == POOL_E_TIMEOUT || error->status == POOL_E_TIMEOUT_IN_TRANSFER;
    bool is_break = error->status == POOL_E_BROKEN || error->status == POOL_E_CLOSED ||
                    error->status == POOL_E_CLEARED;
    bool is_overdue = script.speech == SPEAK_LENGTH && strstr(error->text, "was never answered");

    cr_assert((is_time && pending->is_hurried) ||
                  (error->status == POOL_E_CANCELED && pending->has_ticket) ||
                  (is_break && is_rough) || is_overdue,
              "seed %llu: %u: %s", (unsigned long long)seed, (unsigned)(pending - all),
              error->text);
    given_up++;
}

static void on_reply(struct pool_reply *reply, void *user)
{
    struct pending *pending = user;

    pending->told++;
    in_flight--;
    if (pool_reply_error(reply))
        check_failure(pending, pool_reply_error(reply));
    else
        check_answer(pending, pool_reply_bytes(reply));
    pool_reply_free(reply);
}

static void on_part(struct pool_bytes part, void *user)
{
    struct pending *pending = user;
    static char body[LARGEST + 64];
    size_t size = script_write_body(body, sizeof(body), token_of(pending));

    cr_assert(!pending->told);
    cr_assert(pending->part_size + part.size <= size &&
                  !memcmp(body + pending->part_size, part.data, part.size),
              "seed %llu: a part for %u", (unsigned long long)seed, (unsigned)(pending - all));
    pending->part_size += (uint32_t)part.size;
}

/* Parts come anew after a move, so only what stays may be told them here. */
static struct pool_call call_of(struct pending *pending)
{
    static const uint32_t flags[] = { 0, 0, POOL_SAFE_TO_REPEAT, POOL_ORDERED, POOL_ONE_SHOT };
    struct pool_call call = { .size = sizeof(call), .flags = flags[below(5)] };

    pending->is_hurried = script.speech == SPEAK_LENGTH || chance(100);
    call.timeout_ms = pending->is_hurried ? 1 + below(chance(100) ? 20 : 3000) : PATIENCE;
    pending->has_parts = script.speech == SPEAK_LENGTH && call.flags == POOL_ONE_SHOT;
    call.on_part = pending->has_parts ? on_part : NULL;
    call.user = pending;
    return call;
}

static void drop_ticket(unsigned place)
{
    if (chance(700))
        pool_ticket_cancel(tickets[place]);
    pool_ticket_free(tickets[place]);
    tickets[place] = NULL;
}

static void ask_async(struct pending *pending)
{
    struct pool_call call = call_of(pending);
    unsigned place = below(TICKETS);

    pending->has_ticket = chance(100);
    if (pending->has_ticket)
        drop_ticket(place);
    in_flight++;
    cr_assert_eq(pool_query_async(script.pool, SCRIPT_ADDRESS, request_of(pending), on_reply,
                                  pending, &call, pending->has_ticket ? &tickets[place] : NULL),
                 POOL_OK);
}

static void ask_and_stay(struct pending *pending)
{
    struct pool_error error = POOL_ERROR_INIT;
    struct pool_call call = call_of(pending);
    struct pool_reply *reply = NULL;

    call.error = &error;
    if (pool_query(script.pool, SCRIPT_ADDRESS, request_of(pending), &call, &reply))
        check_failure(pending, &error);
    else
        check_answer(pending, pool_reply_bytes(reply));
    pool_reply_free(reply);
    pending->told++;
}

/* A connection of one's own brings nobody else's reply along. */
static void borrow_and_ask(struct pending *pending)
{
    struct pool_error error = POOL_ERROR_INIT;
    struct pool_bytes reply;
    struct pool_conn conn;
    enum pool_status status;

    pending->is_hurried = true;
    pending->told++;
    if (pool_borrow(script.pool, SCRIPT_ADDRESS, POOL_CALL(.timeout_ms = 3000, .error = &error),
                    &conn)) {
        check_failure(pending, &error);
        return;
    }
    status = pool_ask(&conn, request_of(pending), &reply);
    if (!status)
        check_answer(pending, reply);
    else
        cr_assert_neq(status, POOL_E_ARGUMENT);
    pool_return(&conn);
}

/* Nobody learns what becomes of it. */
static void post(struct pending *pending)
{
    pending->told++;
    answered++;
    cr_assert_eq(pool_post_request(script.pool, SCRIPT_ADDRESS, request_of(pending), NULL),
                 POOL_OK);
}

static void clear(void)
{
    cr_assert_eq(pool_clear(script.pool, NULL, chance(500) ? POOL_INTERRUPT : 0), POOL_OK);
}

static void ask(struct pending *pending)
{
    pending->size = 9 + (chance(900) ? below(100) : below(LARGEST - 10));
    if (is_rough && chance(2))
        clear();
    if (chance(20))
        post(pending);
    else if (chance(20))
        ask_and_stay(pending);
    else if (chance(3))
        borrow_and_ask(pending);
    else
        ask_async(pending);
    if (chance(200))
        world_run(script.world, below(4));
    while (in_flight > 500)
        world_run(script.world, 1);
}

/* ---- a run */

static void forget_voices(void)
{
    for (unsigned i = 0; i < SCRIPT_LINKS; i++)
        free(voices[i].data);
    memset(voices, 0, sizeof(voices));
}

static void expect_all_told_once(unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        cr_assert_eq(all[i].told, 1, "seed %llu: %u was told %u times", (unsigned long long)seed, i,
                     all[i].told);
    cr_expect_geq(answered, count / 2);
}

static void run(enum script_speech speech, uint64_t its_seed, bool rough)
{
    unsigned count = ASKED / slowness();

    seed = dice = its_seed;
    is_rough = rough;
    in_flight = answered = given_up = 0;
    all = calloc(count, sizeof(*all));
    script_begin(speech,
                 POOL_OPTIONS(.max_per_address = 1 + below(4), .max_inflight = 20 + below(150),
                              .max_waiters = 100000, .park_ms = 1 + below(8),
                              .backoff_first_ms = POOL_ZERO, .suspend_after = POOL_ZERO),
                 &(struct world_peer_options){ .window = its_seed & 2 ? 500 + below(5000) : 0, /* much is unsent */
                                               .latency_us = below(3000) });
    script.on_request = hear;
    for (unsigned i = 0; i < count; i++)
        ask(&all[i]);
    for (unsigned i = 0; i < TICKETS; i++)
        drop_ticket(i);
    world_run(script.world, PATIENCE + 5000);
    cr_expect_eq(in_flight, 0);
    cr_expect_leq(STAT(script.pool, late_replies), given_up);
    cr_expect_eq(STAT(script.pool, orphans), script.orphans);
    cr_expect(script_end());
    expect_all_told_once(count);
    forget_voices();
    free(all);
}

static void run_all(enum script_speech speech)
{
    for (unsigned i = 0; i < RUNS; i++)
        run(speech, 1000 * speech + i, i & 1);
}

Test(query_dice, by_key_each_gets_its_own)
{
    run_all(SPEAK_LENGTH);
}

Test(query_dice, in_lines_each_gets_its_own)
{
    run_all(SPEAK_LINE);
}

Test(query_dice, in_resp_each_gets_its_own)
{
    run_all(SPEAK_RESP);
}
