/* failure.h: what went wrong, small enough to keep in every connection, and how it becomes a struct
 * pool_error. */
#ifndef PL_BASE_FAILURE_H
#define PL_BASE_FAILURE_H

#include <stdint.h>
#include <string.h>

#include "commpool/status.h"

/* What more there is to say than a status and an errno can; it chooses the words of the sentence,
 * and nothing else. */
enum pl_reason {
    PL_REASON_NONE,
    PL_REASON_DEADLINE,                 /* one of ours came, the kernel said nothing */
    PL_REASON_QUEUE,                    /* the same, and others had all that could be had */
    PL_REASON_PAUSE,                    /* the same, and the peer had failed before */
    PL_REASON_BEHIND,                   /* the same, and the peer did not read what was before it */
    PL_REASON_OVER,                     /* an earlier answer was the connection's last */
    PL_REASON_OVERDUE,                  /* an earlier query was never answered */
    PL_REASON_CAP,                      /* max_connections */
    PL_REASON_BIND,                     /* bind= is not of this machine */
    PL_REASON_ZONE,                     /* a link-local host without one */
    PL_REASON_PATH,                     /* of a unix socket: nothing is there */
    /* What became of a name; the cause is the DNS client's own number. */
    PL_REASON_NO_HOST,
    PL_REASON_NO_ADDRESS,
    PL_REASON_DNS_FAILED,
    PL_REASON_DNS_SILENT,
    PL_REASON_DNS_UNREACHED,
    PL_REASON_DNS_GARBLED,
    PL_REASON_LINE,                     /* max_line */
    /* What TLS says; `cause` is a number of OpenSSL's. */
    PL_REASON_CERTIFICATE,              /* X509_V_ERR_*; `subject` may say whose */
    PL_REASON_ALERT,                    /* the peer's; its number */
    PL_REASON_HANDSHAKE,                /* an error as OpenSSL packs it */
    PL_REASON_NO_HANDSHAKE,             /* the peer ended the connection instead */
    PL_REASON_CLEAR,                    /* starttls=1, and nobody began it */
    PL_REASON_EARLY,                    /* bytes came in the clear, before it */
    PL_REASON_CUT,                      /* the same later, without close_notify */
    /* What the program's own functions answered, or left behind. */
    PL_REASON_USE,
    PL_REASON_PREPARE,
    PL_REASON_UNCLEAN,
    PL_REASON_HOOK,
    PL_REASON_DRAINED,
    PL_REASON_SOCKET,
    PL_REASON_RESOLVED
};

/* Behind the last enum pool_outcome: POOL_MAYBE_SENT, with what is known besides. */
enum pl_outcome {
    PL_OUTCOME_UNACKNOWLEDGED = POOL_ANSWERED + 1,      /* by the peer's system, not a byte of it */
    PL_OUTCOME_ACKNOWLEDGED                             /* it, or its beginning */
};

struct pl_failure {
    int8_t status;                      /* enum pool_status; POOL_OK: nothing failed */
    uint8_t reason;                     /* enum pl_reason */
    uint16_t phase : 3;                 /* enum pool_phase */
    uint16_t outcome : 3;               /* enum pool_outcome, or enum pl_outcome */
    uint16_t subject : 10;              /* of a certificate, by its number in subject.h; 0: none */
    int32_t cause;                      /* errno, or what `use` answered */
};

/* Time that one call spent in each phase so far, in nanoseconds. */
struct pl_spent {
    uint64_t ns[8];                     /* by enum pool_phase */
};

static inline uint64_t pl_failure_pack(struct pl_failure failure)
{
    uint64_t packed;

    memcpy(&packed, &failure, sizeof(packed));
    return packed;
}

static inline struct pl_failure pl_failure_unpack(uint64_t packed)
{
    struct pl_failure failure;

    memcpy(&failure, &packed, sizeof(failure));
    return failure;
}

enum pool_status pl_status_of_errno(int error, enum pool_phase phase);
struct pl_failure pl_failure_of_errno(int error, enum pool_phase phase);
struct pl_failure pl_failure_make(enum pool_status status, enum pool_phase phase, int cause);
/* With the status that the reason stands for. */
struct pl_failure pl_failure_because(enum pl_reason reason, enum pool_phase phase, int cause);

/* Fills *error, as far as its size says, with one sentence that names `address`; `error` NULL does
 * nothing. */
void pl_failure_tell(const struct pl_failure *failure, const struct pl_spent *spent,
                     const char *address, struct pool_error *error);

/* What was told of an attempt, told of a call that spent its time so. */
void pl_failure_retell(struct pool_error *told, const struct pl_spent *spent);

/* Copies *told, as far as the size of *error says; `error` NULL does nothing. */
void pl_failure_copy(const struct pool_error *told, struct pool_error *error);

#endif
