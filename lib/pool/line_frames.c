/* line_frames.c: what of a line's frames has left, which says what the peer can know of a query;
 * and frames that are not to leave any more. See line.h.
 *
 * Places are counted in bytes since the line was opened. A frame that is taken back leaves a gap
 * among the bytes that are queued: they stay where they are, and the writer passes over them.
 */
#include "base/os.h"
#include "net/acknowledged.h"
#include "pool/line.h"

struct pl_gap {
    struct pl_list link;                /* among the line's, by place */
    uint64_t begin, end;
};

struct place {
    uint64_t begin, end;
};

/* Not of one that is long gone. */
static struct place place_of(const struct pl_line *line, const struct pl_query *query)
{
    uint64_t end = line->given - (uint32_t)((uint32_t)line->given - query->end);

    return (struct place){ end - query->entry.size, end };
}

bool pl_line_may_have_begun(const struct pl_line *line, const struct pl_query *query)
{
    struct place place = place_of(line, query);

    return query->is_long_gone || place.begin < line->sent ||
           (place.begin < line->taken && line->is_writing);
}

bool pl_line_is_behind(const struct pl_line *line, const struct pl_query *query, uint64_t place)
{
    return !query->is_long_gone && place_of(line, query).begin >= place;
}

struct pool_bytes pl_line_unsent(const struct pl_line *line, const struct pl_query *query)
{
    uint64_t begin = place_of(line, query).begin;

    if (pl_line_has_begun(line, query))
        return (struct pool_bytes){ 0 };
    if (begin < line->taken)
        return (struct pool_bytes){ line->sending.data + line->sending.start + (begin - line->sent),
                                    query->entry.size };
    return (struct pool_bytes){ line->out.data + line->out.start + (begin - line->taken),
                                query->entry.size };
}

void pl_line_note_long_gone(struct pl_line *line)
{
    struct pl_entry *entry;
    size_t at = 0;

    while ((entry = pl_correlator_visit(&line->correlator, &at))) {
        struct pl_query *query = pl_query_of_entry(entry);

        query->is_long_gone = query->is_long_gone || place_of(line, query).end <= line->sent;
    }
    line->marked = line->given;
}

/* ---- frames that are not to leave */

/* False: no memory. */
static bool leave_gap(struct pl_line *line, struct place place)
{
    struct pl_list *next = &line->gaps;
    struct pl_gap *gap = NULL;

    while (next->previous != &line->gaps) {
        gap = pl_container(next->previous, struct pl_gap, link);
        if (gap->end <= place.begin)
            break;
        next = &gap->link;
        gap = NULL;
    }
    if (gap && gap->end == place.begin) {
        gap->end = place.end;
        return true;
    }
    gap = pl_container(next, struct pl_gap, link);
    if (next != &line->gaps && gap->begin == place.end) {
        gap->begin = place.begin;
        return true;
    }
    gap = pl_os->malloc(sizeof(*gap));
    if (!gap)
        return false;
    *gap = (struct pl_gap){ .begin = place.begin, .end = place.end };
    pl_list_link_before(next, &gap->link);
    return true;
}

/* Is none of it in the hands of the kernel, of TLS, or of what the codec remembers? */
static bool may_withdraw(const struct pl_line *line, const struct pl_query *query)
{
    return !line->is_broken && !pl_line_has_begun(line, query) &&
           !line->correlator.codec->write_state_size &&
           (!line->connection->tls || place_of(line, query).begin >= line->taken);
}

bool pl_line_withdraw(struct pl_line *line, struct pl_query *query, struct pl_wakes *wakes)
{
    if (!may_withdraw(line, query) || !leave_gap(line, place_of(line, query)))
        return false;
    pl_list_drop(&query->link);
    pl_correlator_withdraw(&line->correlator, &query->entry);
    pl_line_leave(line, query);
    pl_line_seek_reader(line, wakes);
    if (line->exchange->queued)
        pl_exchange_attend_later(line->exchange);       /* there is room again */
    return true;
}

static void drop_gap(struct pl_gap *gap)
{
    pl_list_unlink(&gap->link);
    pl_os->free(gap);
}

size_t pl_line_piece(struct pl_line *line)
{
    uint64_t before;

    while (!pl_list_is_empty(&line->gaps)) {
        struct pl_gap *gap = pl_container(line->gaps.next, struct pl_gap, link);
        size_t size = pl_buffer_size(&line->sending);

        before = gap->begin - line->sent;
        if (before)
            return before < size ? (size_t)before : size;
        if (size > gap->end - gap->begin)
            size = (size_t)(gap->end - gap->begin);
        pl_buffer_drop(&line->sending, size);
        line->sent += size;
        line->skipped += size;
        gap->begin += size;
        if (gap->begin != gap->end)
            return 0;
        drop_gap(gap);
    }
    return pl_buffer_size(&line->sending);
}

void pl_line_drop_gaps(struct pl_line *line)
{
    while (!pl_list_is_empty(&line->gaps))
        drop_gap(pl_container(line->gaps.next, struct pl_gap, link));
}

/* ---- what was acknowledged */

void pl_line_begin_evidence(struct pl_line *line)
{
    line->has_evidence =
        pl_connection_acknowledged(line->connection, &line->acknowledged) == PL_ALL_ACKNOWLEDGED;
}

void pl_line_take_evidence(struct pl_line *line)
{
    uint64_t now;

    line->has_evidence =
        line->has_evidence && line->correlator.count && line->sent &&
        pl_connection_acknowledged(line->connection, &now) != PL_UNKNOWN;
    if (line->has_evidence)
        line->acknowledged = now - line->acknowledged;
}

/* Of what TLS makes of the bytes only this is known: they do not become fewer. Where the gaps lay
 * that the writer passed over is not known any more, but how much they were. */
uint8_t pl_line_outcome_of(const struct pl_line *line, const struct pl_query *query)
{
    uint64_t begin;

    if (!line->has_evidence)
        return POOL_MAYBE_SENT;
    begin = query->is_long_gone ? 0 : place_of(line, query).begin;
    if (begin >= line->acknowledged + line->skipped)
        return PL_OUTCOME_UNACKNOWLEDGED;
    return line->connection->tls || begin >= line->acknowledged ? POOL_MAYBE_SENT
                                                                 : PL_OUTCOME_ACKNOWLEDGED;
}
