/* reader.h: reading a ledger backwards, a line at a time.
 *
 *     static struct reader r;
 *     reader_begin(&r, fd, size, from);
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
 * The file of a slot has lines of requests that have ended between its head and FROM: they are not
 * read.
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
#include <fcntl.h>
#include <limits.h>
#include <sys/types.h>
#include <unistd.h>

#include "ledger.h"
#include "text.h"

/* ---- The files of a ledger ------------------------------------------------------------- */

/* How a ledger starts, in two versions: the first has its records right behind its first line. */
#define LEDGER_MAGIC_1 "# hangupd ledger 1 "
#define LEDGER_MAGIC "# hangupd ledger 2 "
#define LEDGER_WAITS "# waits: " /* what all of the ledger waits for, in words */
/* How the file of a slot starts while there is no ledger in it. */
#define IDLE_MAGIC "# hangupd slot, idle: "

/* The bytes of a ledger's head: its first line, the record of its slot's scratch directory and a
 * comment that fills it up. It is one sector of a disk, so that it is written whole or not. */
#define LEDGER_HEAD_SIZE 512

/* A ledger is the file NAME: a request's id, or slot-N while a slot keeps it. Its program's file is
 * NAME.p. */
#define LEDGER_NAME_SIZE (CLEANUP_ID_SIZE + 4)

/* Returns PROGRAM with the name of the program's file of the ledger NAME in it. */
ASYNC_SAFE static inline const char *ledger_program_name(char program[LEDGER_NAME_SIZE],
                                                         const char *name)
{
    struct text t = {.at = program, .room = LEDGER_NAME_SIZE};
    text_add(&t, name);
    text_add(&t, ".p");
    return text_end(&t);
}

#define LEDGER_SLOT_NAME "slot-" /* and the slot's number */

/* Returns true if NAME is that of a slot's own file. */
ASYNC_SAFE static inline bool ledger_is_slot_name(const char *name)
{
    size_t n = sizeof LEDGER_SLOT_NAME - 1;
    return strncmp(name, LEDGER_SLOT_NAME, n) == 0 && name[n] != '\0' &&
           name[n + strspn(name + n, "0123456789")] == '\0';
}

/* Returns true if DIR has NAME; else errno says why not. Not faccessat(2), whose newer call a
 * sandbox may forbid with an error that is not ENOSYS. */
ASYNC_SAFE static inline bool name_is_there(int dir, const char *name)
{
    struct stat now;
    return fstatat(dir, name, &now, AT_SYMLINK_NOFOLLOW) == 0;
}

/* Set NAME to that of the ledger in DIR to which FILE belongs. Returns false if it is none's file,
 * or NAME.p beside NAME: the two count as one. */
static inline bool ledger_name_of_file(int dir, const char *file, char name[CLEANUP_ID_SIZE])
{
    size_t length = strlen(file);
    bool program = length > 2 && strcmp(file + length - 2, ".p") == 0;
    length -= program ? 2 : 0;
    if (length >= CLEANUP_ID_SIZE)
        return false;
    memcpy(name, file, length);
    name[length] = '\0';
    /* A crash while a ledger was moved leaves an ID.p alone: it must be found, too. */
    return program ? cleanup_is_id(name) && !name_is_there(dir, name)
                   : cleanup_is_id(name) || ledger_is_slot_name(name);
}

/* ---- The header ------------------------------------------------------------------------ */

/* A slot's scratch directory, as it was made. */
struct scratch_mark {
    char letter;       /* at the end of its name; 0: none */
    bool fresh;        /* what was done in it in the tick of its ctime does not show there */
    ino_t inode;       /* 0: there is none */
    int64_t sec, nsec; /* its ctime */
};

#define NODE_SIZE 65 /* a node's name and a NUL */

/* Returns how many bytes at NAME may be in a node's name. */
ASYNC_SAFE static inline size_t node_length(const char *name)
{
    return strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-");
}

/* What the first line of a file says. */
struct header {
    bool unread;              /* it could not be read (errno), and so may say anything */
    bool valid;               /* it is a ledger's, of a version that is known */
    bool idle;                /* it is a slot's, and there is no ledger in it */
    bool program;             /* the program's file belongs to it */
    pid_t pid;                /* of the request's child, which is also its session */
    unsigned long long start; /* when that was born */
    off_t from;               /* where its records start, beside those in its head */
    int environment;          /* which one its undo commands get; -1: it does not say */
    char id[CLEANUP_ID_SIZE]; /* "" in a program's file */
    char boot[40];
    char node[NODE_SIZE];     /* "": it does not say, and is this node's */
    struct scratch_mark mark; /* if it is idle */
};

/* Returns the number behind KEY in the header LINE, or 0 if there is none. */
ASYNC_SAFE static inline unsigned long long header_number(const char *line, const char *key)
{
    unsigned long long n = 0;
    const char *at = strstr(line, key);
    if (at != NULL) {
        at += strlen(key);
        if (!parse_number(&at, ULLONG_MAX, &n))
            n = 0;
    }
    return n;
}

/* Copy the word behind KEY in the header LINE to TO, "" if there is none or it does not fit. */
ASYNC_SAFE static inline void header_word(const char *line, const char *key, char *to, size_t size)
{
    const char *at = strstr(line, key);
    size_t n = at != NULL ? strcspn(at + strlen(key), " ") : 0;
    n = n < size ? n : 0;
    if (n > 0)
        memcpy(to, at + strlen(key), n);
    to[n] = '\0';
}

/* Returns what is behind the boot in the header LINE; NULL: nothing is. */
ASYNC_SAFE static inline const char *header_title(const char *line)
{
    const char *boot = strstr(line, " boot=");
    const char *space = boot != NULL ? strchr(boot + 1, ' ') : NULL;
    return space != NULL ? space + 1 : NULL;
}

/* Read the header of the open file FD. A program can write anything into its own, so nothing is
 * done on its word alone. */
ASYNC_SAFE static inline struct header header_read(int fd)
{
    struct header h = {.environment = -1};
    char line[LEDGER_HEAD_SIZE];
    ssize_t n;
    do
        n = pread(fd, line, sizeof line - 1, 0);
    while (n < 0 && errno == EINTR);
    h.unread = n < 0;
    line[n > 0 ? n : 0] = '\0';
    line[strcspn(line, "\n")] = '\0';
    bool first = strncmp(line, LEDGER_MAGIC_1, sizeof LEDGER_MAGIC_1 - 1) == 0;
    h.valid = first || strncmp(line, LEDGER_MAGIC, sizeof LEDGER_MAGIC - 1) == 0;
    h.idle = strncmp(line, IDLE_MAGIC, sizeof IDLE_MAGIC - 1) == 0;
    if (h.idle)
        h.mark = (struct scratch_mark){.letter = (char)header_number(line, " letter="),
                                       .fresh = header_number(line, " fresh=") != 0,
                                       .inode = (ino_t)header_number(line, " inode="),
                                       .sec = (int64_t)header_number(line, " sec="),
                                       .nsec = (int64_t)header_number(line, " nsec=")};
    if (!h.valid)
        return h;
    header_word(line, " id=", h.id, sizeof h.id);
    header_word(line, " boot=", h.boot, sizeof h.boot);
    /* Only right behind it: what comes then is for people, and may say anything. */
    const char *title = header_title(line);
    if (title != NULL && strncmp(title - 1, " node=", 6) == 0)
        header_word(title - 1, " node=", h.node, sizeof h.node);
    h.pid = (pid_t)header_number(line, " pid=");
    h.start = header_number(line, " start=");
    if (strstr(line, " env=") != NULL)
        h.environment = (int)header_number(line, " env=");
    h.from = first ? 0 : (off_t)header_number(line, " from=");
    h.program = first || header_number(line, " program=") != 0;
    return h;
}

/* ---- Reading backwards ----------------------------------------------------------------- */

#define READER_WINDOW ((size_t)2 * CLEANUP_RECORD_MAX)

struct reader {
    int fd;
    off_t floor;    /* where the lines start that are read before the head; 0: there is no gap */
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

/* Returns where the line starts that ends before END, which is just behind the last newline before
 * END, or at the floor; -1 if it cannot be read. */
ASYNC_SAFE static inline off_t reader_line_start(struct reader *r, off_t end)
{
    while (end > r->floor) {
        if ((end <= r->from || end > r->to) && !reader_fill_before(r, end))
            return -1;
        const char *newline = memrchr(r->window, '\n', (size_t)(end - r->from));
        off_t start = newline != NULL ? r->from + (newline - r->window) + 1 : r->from;
        if (newline != NULL)
            return start > r->floor ? start : r->floor;
        end = start; /* a line longer than the window, or no ledger at all */
    }
    return r->floor;
}

/* Begin to read the first SIZE bytes of the open file FD, at their last whole line: those from FROM
 * on, and the head. FROM is 0 if there is no gap. */
ASYNC_SAFE static inline void reader_begin(struct reader *r, int fd, off_t size, off_t from)
{
    r->fd = fd;
    bool gap = from > LEDGER_HEAD_SIZE && size > LEDGER_HEAD_SIZE;
    r->floor = !gap ? 0 : from < size ? from : size;
    r->from = r->to = 0;
    r->end = reader_line_start(r, size);
}

/* Step to the line before. Returns 1, or 0 at the file's beginning, or -1 if it cannot be read. */
ASYNC_SAFE static inline int reader_next(struct reader *r)
{
    if (r->floor > 0 && r->end == r->floor) {
        r->floor = 0;
        r->end = reader_line_start(r, LEDGER_HEAD_SIZE); /* its last line may be cut, too */
    }
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
