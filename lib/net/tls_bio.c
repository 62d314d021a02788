/* tls_bio.c: see tls_bio.h. */
#include "net/tls_bio.h"

#include <errno.h>
#include <poll.h>

#include "base/os.h"

/* OpenSSL gives out numbers of types for ever, so each reload would use one up; ours is one that it
 * does not give. */
#define OUR_TYPE (0x7e | BIO_TYPE_SOURCE_SINK)

#define READS 8u /* in one call: OpenSSL goes on for as long as there is what means nothing */

static bool is_full(int error)
{
    return error == EAGAIN || error == EWOULDBLOCK;
}

static int on_read(BIO *bio, char *buffer, int size)
{
    struct pl_tls_wire *wire = BIO_get_data(bio);
    ssize_t got;

    BIO_clear_retry_flags(bio);
    if (wire->reads++ == READS) {
        wire->is_cut_short = true;
        wire->wants = POLLIN;
        BIO_set_retry_read(bio);
        return -1;
    }
    do
        got = pl_os->recv(wire->fd, buffer, (size_t)size, MSG_DONTWAIT);
    while (got == -EINTR);
    if (got >= 0) {
        wire->has_ended = got == 0;
        return (int)got;
    }
    if (is_full((int)-got)) {
        wire->wants = POLLIN;
        BIO_set_retry_read(bio);
    } else {
        wire->error = (int)-got;
    }
    return -1;
}

static int on_write(BIO *bio, const char *data, int size)
{
    struct pl_tls_wire *wire = BIO_get_data(bio);
    ssize_t sent;

    BIO_clear_retry_flags(bio);
    do
        sent = pl_os->send(wire->fd, data, (size_t)size, MSG_DONTWAIT | MSG_NOSIGNAL);
    while (sent == -EINTR);
    if (sent >= 0)
        return (int)sent;
    if (is_full((int)-sent)) {
        wire->wants = POLLOUT;
        BIO_set_retry_write(bio);
    } else {
        wire->error = (int)-sent;
    }
    return -1;
}

static long on_control(BIO *bio, int command, long number, void *pointer)
{
    const struct pl_tls_wire *wire = BIO_get_data(bio);

    (void)number;
    (void)pointer;
    switch (command) {
    case BIO_CTRL_FLUSH:
        return 1;
    case BIO_CTRL_EOF:
        return wire->has_ended;
    default:
        return 0;
    }
}

BIO_METHOD *pl_tls_bio_method(void)
{
    BIO_METHOD *method = BIO_meth_new(OUR_TYPE, "commpool");

    if (!method)
        return NULL;
    BIO_meth_set_read(method, on_read);
    BIO_meth_set_write(method, on_write);
    BIO_meth_set_ctrl(method, on_control);
    return method;
}

BIO *pl_tls_bio(const BIO_METHOD *method, struct pl_tls_wire *wire)
{
    BIO *bio = BIO_new(method);

    if (!bio)
        return NULL;
    BIO_set_data(bio, wire);
    BIO_set_init(bio, 1);
    return bio;
}
