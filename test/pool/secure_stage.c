/* secure_stage.c: see secure_stage.h. */
#include "pool/secure_stage.h"

#include <criterion/criterion.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

struct credential *authority, *credential;
struct pool_tls *trust;
struct tls_peer *tls_peer;

void secure_stage_begin(void)
{
    signal(SIGPIPE, SIG_DFL);
    authority = CREDENTIAL(NULL, .common_name = "test authority", .is_authority = true);
    credential = CREDENTIAL(authority, .names = "DNS:db.test,DNS:other.test,IP:127.0.0.1");
    cr_assert_eq(
        pool_tls_create(POOL_TLS_OPTIONS(.ca_pem = authority->certificate), &trust, NULL),
        POOL_OK);
}

void secure_stage_end(void)
{
    pool_destroy(pool);
    tls_peer_stop(tls_peer);
    pool_tls_free(trust);
    credential_free(credential);
    credential_free(authority);
}

const char *secure_address(int port, const char *rest)
{
    static char text[8][128];
    static unsigned turn;
    char *made = text[turn++ % 8];

    snprintf(made, sizeof(text[0]), "tls://127.0.0.1:%d%s", port, rest);
    return made;
}

const char *secure_at(const char *rest)
{
    return secure_address(tls_peer_port(tls_peer), rest);
}

bool say(struct pool_conn *conn, const char *text)
{
    return pool_send(conn, text, strlen(text)) == POOL_OK;
}

void order(const char *address, const char *text)
{
    struct pool_conn conn;

    cr_assert_eq(pool_borrow(pool, address,
                             POOL_CALL(.timeout_ms = VERBS_SOON, .flags = POOL_ONE_WAY), &conn),
                 POOL_OK);
    cr_assert(say(&conn, text));
    cr_assert_eq(pool_return(&conn), POOL_OK);
}

struct pool_tls_info info_of_next(const char *address)
{
    struct pool_tls_info info = { .size = sizeof(info) };
    struct pool_conn conn;

    cr_assert(borrow(pool, address, &conn));
    cr_assert_eq(pool_conn_tls(&conn, &info), POOL_OK);
    cr_assert_eq(echo(&conn, "who are you"), 0);
    cr_assert_eq(pool_return(&conn), POOL_OK);
    return info;
}

bool is_next_resumed(const char *address)
{
    return info_of_next(address).resumed;
}

enum pool_status borrow_in_vain(const char *address, struct pool_error *error)
{
    struct pool_conn conn;
    enum pool_status status =
        pool_borrow(pool, address, POOL_CALL(.timeout_ms = 5000, .error = error), &conn);

    if (!status)
        pool_discard(&conn);
    return status;
}

struct number {
    unsigned (*read)(struct tls_peer *peer);
    unsigned wanted;
};

static bool has_come(void *argument)
{
    const struct number *number = argument;

    return number->read(tls_peer) == number->wanted;
}

bool wait_peer_open(unsigned count)
{
    return wait_until(has_come, &(struct number){ tls_peer_open, count }, VERBS_SOON);
}

bool wait_goodbyes(unsigned count)
{
    return wait_until(has_come, &(struct number){ tls_peer_goodbyes, count }, VERBS_SOON);
}

bool wait_next_parked(const char *address)
{
    struct pool_conn conn;
    int fd;

    cr_assert(borrow(pool, address, &conn));
    fd = pool_conn_fd(&conn);
    cr_assert_eq(pool_return(&conn), POOL_OK);
    return wait_parked(fd);
}
