/* scratch.h: the scratch directory that a slot keeps: its name, and whether it is as it was made.
 *
 *     scratch_path(&t, pool_path, number, letter);
 *     if (!scratch_is_still_good(path, uid, &mark))
 *         ... somebody has changed it since the mark was made: it is not for another request ...
 *
 * A slot hands its scratch directory on from one request to the next if nothing shows that the last
 * one has made something in it. What shows is its ctime, which stands in the slot's file
 * (struct scratch_mark): whoever makes something in it, or changes its mode, its owner or its
 * attributes, changes that. The clock of files stands still for up to 10 ms, and what was done
 * within the tick in which it was made does not show: while the mark is `fresh` it is looked into.
 *
 * Kind: pure.
 * Signal safety: what is marked ASYNC_SAFE.
 */
#ifndef HANGUPD_SCRATCH_H
#define HANGUPD_SCRATCH_H

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#include "reader.h"
#include "text.h"
#include "walk.h"

/* Write the path of the slot's scratch directory: its number in base 32, so that TMPDIR stays short
 * (the path of a socket has 107 bytes at most), and LETTER where the directory without it is needed
 * by a ledger that has outlived its request. */
static inline void scratch_path(struct text *t, const char *pool, unsigned number, char letter)
{
    int shift = 0;
    while (number >> shift > 31)
        shift += 5;
    text_add(t, pool);
    text_char(t, '/');
    for (; shift >= 0; shift -= 5)
        text_char(t, "0123456789abcdefghijklmnopqrstuv"[number >> shift & 31]);
    if (letter != 0)
        text_char(t, letter);
    text_end(t);
}

/* Returns true if the scratch directory is the one that MADE speaks of, as it was made. Whoever
 * makes something in it, or changes its mode, its owner or its attributes, changes its ctime. */
ASYNC_SAFE static inline bool scratch_is(const char *path, uid_t owner,
                                         const struct scratch_mark *made)
{
    struct stat now;
    return made->inode != 0 && lstat(path, &now) == 0 && now.st_mode == (S_IFDIR | 0700) &&
           now.st_uid == owner && now.st_ino == made->inode && now.st_ctim.tv_sec == made->sec &&
           now.st_ctim.tv_nsec == made->nsec;
}

/* Returns true if the scratch directory is empty and has no attributes: a default ACL would open
 * what the next program makes there to whom the last one wanted. */
ASYNC_SAFE static inline bool scratch_is_empty(const char *path)
{
    _Alignas(struct dirent64) char entries[512]; /* on the stack, whose page is there already */
    char names[256];
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    struct walk w = walk_from(fd, entries, sizeof entries);
    bool empty = walk_next(&w) == NULL && w.error == 0;
    ssize_t n = empty ? flistxattr(fd, names, sizeof names) : 0;
    for (ssize_t at = 0; at < n; at += (ssize_t)strlen(names + at) + 1)
        empty = empty && strncmp(names + at, "security.", sizeof "security." - 1) == 0;
    if (fd >= 0)
        close(fd);
    return empty && (n >= 0 || errno == EOPNOTSUPP);
}

/* Returns true if the last request's scratch directory is as it was made. The clock of files stands
 * still for up to 10 ms, and what was done within the tick in which it was made does not show: then
 * it is looked into, by each request until that tick is over. */
static inline bool scratch_is_still_good(const char *path, uid_t owner, struct scratch_mark *made)
{
    struct timespec now; /* before the look, so that a change after it shows */
    clock_gettime(CLOCK_REALTIME_COARSE, &now);
    if (!scratch_is(path, owner, made) || (made->fresh && !scratch_is_empty(path)))
        return false;
    made->fresh = now.tv_sec < made->sec || (now.tv_sec == made->sec && now.tv_nsec <= made->nsec);
    return true;
}

#endif
