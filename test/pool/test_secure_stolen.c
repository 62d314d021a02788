/* test_secure_stolen.c: as test_stream_stolen.c, over TLS: what follows a long wait leaves a socket
 * alone that has got our number meanwhile. */
#include <criterion/criterion.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/os.h"
#include "pool/secure_stage.h"

TestSuite(secure_stolen, .init = secure_stage_begin, .fini = secure_stage_end, .timeout = 30);

static struct pl_os door;
static int theirs = -1; /* the other end of the socket that has our number */
static uint64_t later_ns;

static uint64_t coarse_time(void)
{
    return pl_os_real.coarse_ns() + later_ns;
}

/* The wait ends because our bytes have come; a good while has gone by, and the number is
 * another's. */
static ssize_t wait_and_steal(int fd, void *buffer, size_t size, int flags)
{
    int pair[2];

    if (flags != MSG_PEEK || theirs >= 0)
        return pl_os_real.recv(fd, buffer, size, flags);
    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    cr_assert_eq(dup2(pair[0], fd), fd);
    close(pair[0]);
    theirs = pair[1];
    cr_assert_eq(send(theirs, "theirs", 6, 0), 6);
    later_ns = 10 * pl_os_real.coarse_step_ns();
    return 1;
}

Test(secure_stolen, bytes_of_another_are_not_taken_after_a_wait)
{
    struct pool_conn conn;
    char bytes[16];
    size_t got = 0;
    int fd;

    START_PEER();
    SECURE_POOL();
    cr_assert(borrow(pool, secure_at(""), &conn));
    fd = pool_conn_fd(&conn);
    door = pl_os_real;
    door.recv = wait_and_steal;
    door.coarse_ns = coarse_time;
    pl_os_replace(&door);
    cr_expect_eq(pool_recv(&conn, bytes, sizeof(bytes), &got), POOL_E_BROKEN);
    cr_expect_eq(got, 0);
    cr_expect_geq(theirs, 0);
    cr_expect_eq(recv(fd, bytes, sizeof(bytes), MSG_DONTWAIT), 6, "all are there");
    pool_discard(&conn);
    pl_os_replace(NULL);
    close(theirs);
    close(fd);
}
