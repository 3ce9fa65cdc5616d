/* identity.h: which file is meant, whatever its name stands for later (FILEID in the ledger).
 *
 *     struct identity was, is;
 *     if (identify(fd, "", AT_EMPTY_PATH, &was) == 0)
 *         identity_write(&t, &was);            // 8:1:1095:1795412859.324394260:1.47040000d7a0c8e9
 *     ...
 *     identify(fd_of_the_name, "", AT_EMPTY_PATH, &is);
 *     if (identity_compare(&was, &is, same_boot, false) == IDENTITY_SAME)
 *         ... it still is that file ...
 *
 * DEV:INO:BTIME:HANDLE, with DEV as MAJOR:MINOR: a device, an inode, when that was born and its
 * file handle. None of them is enough. The number of an inode is given out again at once after it
 * is removed, and on ext4 with the same time of birth if both were made within one tick of the
 * clock (measured: 19,931 of 20,000); the handle, which has the inode's generation, is then another
 * one. BTIME is `-` where the file system has no times of birth (0.000000000, as stat(1) writes it,
 * too), and HANDLE is left out, with its colon, where there is none, as in ledgers of version 1 and
 * what programs put together with stat(1). The device's number is given at mount: in another boot
 * it means nothing, and in the same one a file system that was mounted anew may have another.
 *
 * So there are three answers, and who asks must take the third as it is: nothing may be removed on
 * it, and nothing forgotten.
 *
 * Kind: pure.
 * Signal safety: what is marked ASYNC_SAFE, which is all of it.
 */
#ifndef HANGUPD_IDENTITY_H
#define HANGUPD_IDENTITY_H

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include "text.h"

struct identity {
    unsigned major, minor;
    unsigned long long inode;
    bool has_birth;
    long long birth_seconds;
    unsigned birth_nanoseconds;
    unsigned handle_size; /* 0: it has none */
    unsigned handle_type;
    unsigned char handle[MAX_HANDLE_SZ];
};

#define IDENTITY_SIZE (96 + 2 * MAX_HANDLE_SZ) /* bytes for one as text, with its NUL */

#ifndef AT_HANDLE_FID
#define AT_HANDLE_FID 0x200 /* Linux 6.5: one that need not lead back to the file */
#endif

/* Take the handle of PATH in DIR; FLAGS: AT_EMPTY_PATH, or 0 for not following a link. */
ASYNC_SAFE static inline void identify_handle(int dir, const char *path, int flags,
                                              struct identity *id)
{
    union {
        struct file_handle head;
        char room[sizeof(struct file_handle) + MAX_HANDLE_SZ];
    } h = {.head.handle_bytes = MAX_HANDLE_SZ};
    int mount;
    int done = name_to_handle_at(dir, path, &h.head, &mount, flags);
    if (done < 0 && errno == EOPNOTSUPP) { /* an overlay has only the other kind */
        h.head.handle_bytes = MAX_HANDLE_SZ;
        done = name_to_handle_at(dir, path, &h.head, &mount, flags | AT_HANDLE_FID);
    }
    if (done < 0 || h.head.handle_bytes > sizeof id->handle)
        return;
    id->handle_size = h.head.handle_bytes;
    id->handle_type = (unsigned)h.head.handle_type;
    memcpy(id->handle, h.head.f_handle, id->handle_size);
}

/* Find the identity of PATH in DIR, not following a link, with FLAGS as for statx(2); of DIR itself
 * if PATH is "" and FLAGS has AT_EMPTY_PATH. Returns 0, or -1 with errno. Nothing is mounted by
 * looking. */
ASYNC_SAFE static inline int identify(int dir, const char *path, int flags, struct identity *id)
{
    struct statx x;
    flags |= AT_SYMLINK_NOFOLLOW;
    if (statx(dir, path, flags | AT_NO_AUTOMOUNT, STATX_INO | STATX_BTIME, &x) < 0)
        return -1;
    *id = (struct identity){.major = x.stx_dev_major,
                            .minor = x.stx_dev_minor,
                            .inode = x.stx_ino,
                            .has_birth = (x.stx_mask & STATX_BTIME) != 0,
                            .birth_seconds = x.stx_btime.tv_sec,
                            .birth_nanoseconds = x.stx_btime.tv_nsec};
    identify_handle(dir, path, flags & AT_EMPTY_PATH, id);
    return 0;
}

/* ---- As text --------------------------------------------------------------------------- */

/* Add the identity to T, without a space or NUL. */
ASYNC_SAFE static inline void identity_write(struct text *t, const struct identity *id)
{
    text_format(t, "%u:%u:%llu:", id->major, id->minor, id->inode);
    if (id->has_birth)
        text_format(t, "%lld.%09u", id->birth_seconds, id->birth_nanoseconds);
    else
        text_char(t, '-');
    if (id->handle_size > 0)
        text_format(t, ":%u.", id->handle_type);
    for (unsigned i = 0; i < id->handle_size; i++) {
        text_char(t, "0123456789abcdef"[id->handle[i] >> 4]);
        text_char(t, "0123456789abcdef"[id->handle[i] & 15]);
    }
}

ASYNC_SAFE static inline bool identity_parse_birth(const char **s, struct identity *id)
{
    unsigned long long seconds = 0, nanoseconds = 0;
    bool none = **s == '-' && ((*s)[1] == ' ' || (*s)[1] == ':');
    bool negative = **s == '-';
    if (negative)
        ++*s;
    if (none)
        return true;
    if (!parse_number(s, LLONG_MAX, &seconds) || *(*s)++ != '.' ||
        !parse_number(s, 999999999, &nanoseconds))
        return false;
    id->has_birth = seconds != 0 || nanoseconds != 0;
    id->birth_seconds = negative ? -(long long)seconds : (long long)seconds;
    id->birth_nanoseconds = (unsigned)nanoseconds;
    return true;
}

ASYNC_SAFE static inline bool identity_parse_handle(const char **s, struct identity *id)
{
    static const char hex[] = "0123456789abcdef";
    unsigned long long type;
    if (!parse_number(s, UINT_MAX, &type) || *(*s)++ != '.')
        return false;
    id->handle_type = (unsigned)type;
    for (; **s != ' ' && **s != '\0'; *s += 2) {
        const char *high = strchr(hex, (*s)[0]);
        const char *low = (*s)[1] != '\0' ? strchr(hex, (*s)[1]) : NULL;
        if (high == NULL || low == NULL || id->handle_size == sizeof id->handle)
            return false;
        id->handle[id->handle_size++] = (unsigned char)((high - hex) << 4 | (low - hex));
    }
    return id->handle_size > 0;
}

/* Parse "DEV:INO:BTIME:HANDLE " at *S and step over it, its space too. Returns false if that is not
 * what is there; then *S is somewhere in it. */
ASYNC_SAFE static inline bool identity_parse(const char **s, struct identity *id)
{
    unsigned long long major, minor;
    *id = (struct identity){0};
    if (!parse_number(s, UINT_MAX, &major) || *(*s)++ != ':' ||
        !parse_number(s, UINT_MAX, &minor) || *(*s)++ != ':' ||
        !parse_number(s, ULLONG_MAX, &id->inode) || *(*s)++ != ':' || !identity_parse_birth(s, id))
        return false;
    id->major = (unsigned)major;
    id->minor = (unsigned)minor;
    if (**s == ':' && (++*s, !identity_parse_handle(s, id)))
        return false;
    return *(*s)++ == ' ';
}

/* ---- Comparing ------------------------------------------------------------------------- */

enum identity_answer { IDENTITY_OTHER, IDENTITY_SAME, IDENTITY_UNKNOWN };

/* Compare what IS there with what WAS recorded. SAME_BOOT: it was in this one, so that devices had
 * the numbers that they have, unless they were mounted since. HELD: the inode's number cannot have
 * been given out again, which counts where there is neither a time of birth nor a handle. */
ASYNC_SAFE static inline enum identity_answer
identity_compare(const struct identity *was, const struct identity *is, bool same_boot, bool held)
{
    bool births = was->has_birth && is->has_birth;
    bool handles =
        was->handle_size > 0 && is->handle_size > 0 && was->handle_type == is->handle_type;
    if (was->inode != is->inode)
        return IDENTITY_OTHER;
    if (births && (was->birth_seconds != is->birth_seconds ||
                   was->birth_nanoseconds != is->birth_nanoseconds))
        return IDENTITY_OTHER;
    if (handles && (was->handle_size != is->handle_size ||
                    memcmp(was->handle, is->handle, is->handle_size) != 0))
        return IDENTITY_OTHER;
    if (same_boot && (was->major != is->major || was->minor != is->minor))
        return IDENTITY_UNKNOWN;
    return births || handles || held ? IDENTITY_SAME : IDENTITY_UNKNOWN;
}

/* Returns true if the thing was on a tmpfs, which does not outlive its boot: no block device, and a
 * handle of that form (mm/shmem.c: three words). If a kernel writes another one, it is only not
 * known. */
ASYNC_SAFE static inline bool identity_is_of_tmpfs(const struct identity *was)
{
    return was->major == 0 && was->handle_type == 1 && was->handle_size == 12;
}

/* Returns true if FD is on a file system that makes up the numbers of inodes, and handles, anew
 * when the kernel has forgotten them: FAT, exFAT and what is behind FUSE, as sshfs. There a thing
 * goes by its name, as far as identity_may_be says. */
ASYNC_SAFE static inline bool identity_is_fleeting(int fd)
{
    struct statfs fs;
    return fstatfs(fd, &fs) == 0 &&
           (fs.f_type == 0x4d44 || fs.f_type == 0x2011bab0 || fs.f_type == 0x65735546);
}

/* Returns true if the times of birth do not speak against it: what such a file system keeps of them
 * may be as coarse as two seconds. */
ASYNC_SAFE static inline bool identity_may_be(const struct identity *was, const struct identity *is)
{
    long long apart = is->birth_seconds - was->birth_seconds;
    return !was->has_birth || !is->has_birth || (apart >= -2 && apart <= 2);
}

#endif
