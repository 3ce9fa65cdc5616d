/* record_check.h: the lines that a program has written to its ledger, checked while it runs.
 *
 *     static struct check check;
 *     check_lines(&check, fd, tell);     // now and then: what is new, and no record, is told
 *
 * A line that is no record cannot be undone, and who wrote it would hear of that only when it is
 * too late. A line counts when its newline has come. If nothing is new, that costs one fstat(2).
 *
 * Kind: pure.
 * Signal safety: none.
 */
#ifndef HANGUPD_RECORD_CHECK_H
#define HANGUPD_RECORD_CHECK_H

#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ledger.h"
#include "verbs.h"

struct check {
    off_t checked; /* so far */
    bool inside;   /* of a line that is too long, which was told */
};

/* Look at what is new in the open file FD. */
static inline void check_lines(struct check *c, int fd, cleanup_tell_fn *tell)
{
    char window[CLEANUP_RECORD_MAX + 1];
    struct stat now;
    if (fstat(fd, &now) < 0 || now.st_size == c->checked)
        return;
    if (now.st_size < c->checked) {
        c->checked = 0;
        tell("",
             "it was overwritten, and records are lost: write with >&3, never with > /dev/fd/3");
    }
    for (ssize_t n; (n = pread(fd, window, CLEANUP_RECORD_MAX, c->checked)) > 0;) {
        char *line = window, *end;
        for (; (end = memchr(line, '\n', (size_t)(window + n - line))) != NULL; line = end + 1) {
            *end = '\0';
            struct record r = record_parse(line);
            bool whole = line + strlen(line) == end;
            if (!c->inside && (!whole || r.error != 0))
                tell(line, whole ? record_wrong(&r) : LINE_NOT_WHOLE);
            c->inside = false;
        }
        if (line == window && n < CLEANUP_RECORD_MAX)
            return; /* a line that is not whole yet */
        window[n] = '\0';
        if (line == window && !c->inside)
            tell(line, LINE_NOT_WHOLE);
        c->inside = line == window;
        c->checked += c->inside ? n : line - window;
    }
}

#endif
