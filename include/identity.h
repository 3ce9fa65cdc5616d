/* identity.h: which file is meant, whatever its name stands for later.
 *
 *     struct identity was, is;
 *     identify(fd, "", AT_EMPTY_PATH, &was);
 *     ...
 *     identify(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW, &is);
 *
 * An identity is a device, an inode and the inode's time of birth, written "DEV:INO:BTIME" with DEV
 * as MAJOR:MINOR. It is for telling later whether a name still stands for the same thing. It proves
 * nothing by itself where the file system has no times of birth (BTIME is `-`), and its device
 * number means something only until the next boot: who compares must know both (cleanup.c,
 * is_same).
 *
 * Kind: pure.
 * Signal safety: what is marked ASYNC_SAFE.
 */
#ifndef HANGUPD_IDENTITY_H
#define HANGUPD_IDENTITY_H

#include <fcntl.h>
#include <limits.h>
#include <sys/stat.h>

#include "text.h"

/* ---- Identity: which file is meant, whatever its name stands for later --------------- */

/* The number of an inode is given out again at once after it is removed, measured on ext4; with its
 * time of birth it is another one, unless both were made within one tick of the clock. */
struct identity {
    unsigned major, minor;
    unsigned long long inode;
    bool has_birth;
    long long birth_seconds;
    unsigned birth_nanoseconds;
};

/* Find the identity of PATH in DIR, with FLAGS as for statx(2); of DIR itself if PATH is "" and
 * FLAGS has AT_EMPTY_PATH. Returns 0, or -1 with errno. Nothing is mounted by looking. */
ASYNC_SAFE static inline int identify(int dir, const char *path, int flags, struct identity *id)
{
    struct statx x;
    if (statx(dir, path, flags | AT_NO_AUTOMOUNT, STATX_INO | STATX_BTIME, &x) < 0)
        return -1;
    *id = (struct identity){.major = x.stx_dev_major,
                            .minor = x.stx_dev_minor,
                            .inode = x.stx_ino,
                            .has_birth = (x.stx_mask & STATX_BTIME) != 0,
                            .birth_seconds = x.stx_btime.tv_sec,
                            .birth_nanoseconds = x.stx_btime.tv_nsec};
    return 0;
}

/* Add the identity to T: at most 75 bytes, without a space or NUL. */
ASYNC_SAFE static inline void identity_write(struct text *t, const struct identity *id)
{
    text_number(t, id->major, 1);
    text_char(t, ':');
    text_number(t, id->minor, 1);
    text_char(t, ':');
    text_number(t, id->inode, 1);
    text_char(t, ':');
    if (id->has_birth) {
        text_signed(t, id->birth_seconds);
        text_char(t, '.');
        text_number(t, id->birth_nanoseconds, 9);
    } else {
        text_char(t, '-');
    }
}

/* Parse "DEV:INO:BTIME " at *S and step over it, its space too. Returns false if that is not what
 * is there; then *S is somewhere in it. */
ASYNC_SAFE static inline bool identity_parse(const char **s, struct identity *id)
{
    unsigned long long major, minor, seconds = 0, nanoseconds = 0;
    *id = (struct identity){0};
    if (!parse_number(s, UINT_MAX, &major) || *(*s)++ != ':' ||
        !parse_number(s, UINT_MAX, &minor) || *(*s)++ != ':' ||
        !parse_number(s, ULLONG_MAX, &id->inode) || *(*s)++ != ':')
        return false;
    bool negative = **s == '-' && (*s)[1] != ' ';
    if (**s == '-')
        ++*s;
    id->has_birth = **s != ' ';
    if (id->has_birth && (!parse_number(s, LLONG_MAX, &seconds) || *(*s)++ != '.' ||
                          !parse_number(s, 999999999, &nanoseconds)))
        return false;
    id->major = (unsigned)major;
    id->minor = (unsigned)minor;
    id->birth_seconds = negative ? -(long long)seconds : (long long)seconds;
    id->birth_nanoseconds = (unsigned)nanoseconds;
    return *(*s)++ == ' ';
}

#endif
