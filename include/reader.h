/* reader.h: reading a ledger backwards, a line at a time.
 *
 *     static struct reader r;
 *     reader_begin(&r, fd, size);
 *     int found;
 *     while ((found = reader_next(&r)) > 0)
 *         ... r.line, which starts at r.start ...
 *     if (found < 0)
 *         ... the rest cannot be read, and must not be taken for undone ...
 *
 * Newest first is the order in which things are undone, and a reader that comes from the end also
 * meets a `commit` before the records that it keeps. A last line without its newline never
 * happened: its writer died, or the disk was full. A line is whole only if r.whole: what is longer
 * than a record may be, or has a NUL in it, is shown as far as it goes and must not be obeyed, as
 * what it names would be cut short.
 *
 * All its state is in the struct, whose window is refilled at most once for 8 KiB of ledger: a
 * small ledger is read by one pread(2). The file may grow or be struck out meanwhile: a reader sees
 * the SIZE bytes that it was begun with, as they were when their window was filled. A struct reader
 * has 16 KiB: static where a signal handler uses it, and then one user at a time.
 *
 * Kind: pure.
 * Signal safety: what is marked ASYNC_SAFE, which is all of it.
 */
#ifndef HANGUPD_READER_H
#define HANGUPD_READER_H

#include <errno.h>
#include <sys/types.h>
#include <unistd.h>

#include "ledger.h"
#include "text.h"

/* ---- The files of a ledger ------------------------------------------------------------- */

#define LEDGER_MAGIC "# hangupd ledger 1 " /* how the header starts, and so every ledger */

/* The ledger of the request ID is the file ID; its program's is ID.p. */
#define LEDGER_NAME_SIZE (CLEANUP_ID_SIZE + 4)

/* Returns NAME with the name of the program's ledger of the request ID in it. */
ASYNC_SAFE static inline const char *ledger_program_name(char name[LEDGER_NAME_SIZE],
                                                         const char *id)
{
    struct text t = {.at = name, .room = LEDGER_NAME_SIZE};
    text_add(&t, id);
    text_add(&t, ".p");
    return text_end(&t);
}

/* ---- Reading backwards ----------------------------------------------------------------- */

#define READER_WINDOW ((size_t)2 * CLEANUP_RECORD_MAX)

struct reader {
    int fd;
    off_t end;      /* where the lines end that are still to be read; -1: they cannot be */
    off_t start;    /* of the line at hand */
    size_t length;  /* its bytes, without its newline; at most CLEANUP_RECORD_MAX - 1 */
    bool too_long;  /* `line` has only its beginning */
    bool whole;     /* neither too long nor with a NUL */
    char *line;     /* ends with a NUL; may be changed until the next call */
    off_t from, to; /* the part of the file that is in the window */
    char window[READER_WINDOW];
};

/* Read the bytes FROM to TO into the window. Returns false if they are not all there: an error, or
 * somebody has cut the file meanwhile. */
ASYNC_SAFE static inline bool reader_fill(struct reader *r, off_t from, off_t to)
{
    r->from = r->to = from;
    while (r->to < to) {
        ssize_t n = pread(r->fd, r->window + (r->to - from), (size_t)(to - r->to), r->to);
        if (n == 0 || (n < 0 && errno != EINTR))
            return false;
        if (n > 0)
            r->to += n;
    }
    return true;
}

/* Fill the window so that it ends at END. */
ASYNC_SAFE static inline bool reader_fill_before(struct reader *r, off_t end)
{
    return reader_fill(r, end > (off_t)READER_WINDOW ? end - (off_t)READER_WINDOW : 0, end);
}

/* Returns where the line starts that ends before END, that is just behind the last newline before
 * END, or at 0; -1 if it cannot be read. */
ASYNC_SAFE static inline off_t reader_line_start(struct reader *r, off_t end)
{
    while (end > 0) {
        if ((end <= r->from || end > r->to) && !reader_fill_before(r, end))
            return -1;
        const char *newline = memrchr(r->window, '\n', (size_t)(end - r->from));
        if (newline != NULL)
            return r->from + (newline - r->window) + 1;
        end = r->from; /* a line longer than the window, or no ledger at all */
    }
    return 0;
}

/* Begin to read the first SIZE bytes of the open file FD, at their last whole line. */
ASYNC_SAFE static inline void reader_begin(struct reader *r, int fd, off_t size)
{
    r->fd = fd;
    r->from = r->to = 0;
    r->end = reader_line_start(r, size);
}

/* Step to the line before. Returns 1, or 0 at the file's beginning, or -1 if it cannot be read. */
ASYNC_SAFE static inline int reader_next(struct reader *r)
{
    if (r->end <= 0)
        return r->end == 0 ? 0 : -1;
    /* Filled anew while what is left in it may be less than a record: else most records at its
     * edge would be looked for twice. */
    bool short_of = r->from > 0 && r->end - r->from < CLEANUP_RECORD_MAX;
    if ((r->end > r->to || short_of) && !reader_fill_before(r, r->end))
        return -1;
    r->start = reader_line_start(r, r->end - 1);
    if (r->start < 0)
        return -1;
    off_t length = r->end - 1 - r->start;
    r->too_long = length >= CLEANUP_RECORD_MAX;
    r->length = r->too_long ? CLEANUP_RECORD_MAX - 1 : (size_t)length;
    bool there = r->start >= r->from && r->start + (off_t)r->length <= r->to;
    if (!there && !reader_fill(r, r->start, r->start + (off_t)r->length))
        return -1;
    r->line = r->window + (r->start - r->from);
    r->line[r->length] = '\0'; /* in the place of its newline, which nobody looks for again */
    r->whole = !r->too_long && strlen(r->line) == r->length;
    r->end = r->start;
    return 1;
}

#endif
