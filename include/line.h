/* line.h: a record on its way into a ledger: composed, checked, appended.
 *
 *     struct line line;
 *     if (line_compose(&line, VERB_UNLINK, NULL, "/srv/a") == 0 && line_append(fd, &line, false) ==
 * 0)
 *         ... the thing may be made ...
 *
 * The other way is reader.h's and verbs.h's. Both functions return 0, or -1 with errno.
 *
 * Kind: pure.
 * Signal safety: what is marked ASYNC_SAFE.
 */
#ifndef HANGUPD_LINE_H
#define HANGUPD_LINE_H

#include <errno.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <hangupd/cleanup.h>

#include "identity.h"
#include "text.h"
#include "verbs.h"

/* A record as a line, without its newline. One that is too long is cut, and still too long. Before
 * it goes the line about its directory, if there is one. */
struct line {
    char bytes[CLEANUP_RECORD_MAX + 1];
    struct text text;
    char in_bytes[PATH_MAX + IDENTITY_SIZE + 8];
    struct text in;
};

/* Compose the record in LINE, and check it: a reader will parse it as this does, so what is refused
 * here, with errno, could not be undone later. */
static inline int line_compose(struct line *line, enum verb verb, const struct identity *id,
                               const char *argument)
{
    struct text *t = &line->text;
    *t = TEXT(line->bytes);
    line->in = TEXT(line->in_bytes);
    text_add(t, verbs[verb].name);
    if (id != NULL) {
        text_char(t, ' ');
        identity_write(t, id);
    }
    if (*argument != '\0')
        text_format(t, " %s", argument);
    text_end(t);
    errno = ENAMETOOLONG;
    if (t->length >= CLEANUP_RECORD_MAX)
        return -1;
    struct record r = record_parse(line->bytes);
    bool blank =
        (verb == VERB_RUN || verb == VERB_AGAIN) && r.argument[strspn(r.argument, " \t")] == '\0';
    errno = EINVAL;
    return r.verb != verb || r.error != 0 || blank || strchr(line->bytes, '\n') != NULL ? -1 : 0;
}

/* Append LINE to the ledger FD. Returns 0, or -1 with errno, and then the ledger is as before. */
ASYNC_SAFE static inline int line_append(int fd, struct line *line, bool sync)
{
    struct text *t = &line->text, *in = &line->in;
    struct iovec v[] = {{in->at, in->length}, {t->at, t->length + 1}};
    int first = in->length == 0;
    ssize_t n;
    text_char(t, '\n');
    do /* at the end, also if it is our own file, which is not O_APPEND, as its head is rewritten */
        n = pwritev2(fd, v + first, 2 - first, -1, RWF_APPEND);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return -1;
    if ((size_t)n < in->length + t->length) {
        /* The disk is full. What was not written whole is taken back, unless somebody has
         * appended behind it: without its newline it would spoil the next record. */
        struct stat now;
        off_t end = lseek(fd, 0, SEEK_CUR);
        if (end < n || fstat(fd, &now) < 0 || now.st_size != end || ftruncate(fd, end - n) < 0)
            (void)!write(fd, "\n", 1);
        errno = ENOSPC;
        return -1;
    }
    return sync ? fdatasync(fd) : 0;
}

#endif
