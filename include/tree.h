/* tree.h: removing trees, without following links, memory or a limit of depth.
 *
 *     int fd = open_directory(AT_FDCWD, path);
 *     if (fd >= 0 && remove_open_tree(fd, path) < 0)
 *         ... errno: what is left is a part of the tree, or its top ...
 *
 * A tree may be hostile: as deep as its maker liked, with links out of it, with modes that keep us
 * out, and still being written to. So each directory is opened by its name in its parent, never by
 * a path; a mount point below is not entered and stays, with EXDEV; and what will not go is no
 * reason not to remove the rest.
 *
 * Kind: included by cleanup.c alone.
 * Signal safety: what is marked ASYNC_SAFE, which is all of it; its buffers are static, so one tree
 * at a time.
 */
#ifndef HANGUPD_TREE_H
#define HANGUPD_TREE_H

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "text.h"
#include "walk.h"

/* Each level that is entered takes a buffer and a descriptor. So a directory deeper than this is
 * first moved up to the top of its tree, and found there by the next pass. */
#define TREE_DEPTH 48
struct tree {
    int top;
    unsigned hoisted;         /* directories that were moved up, which numbers their names */
    unsigned long long mount; /* never left: a mount point below is not the request's */
};
static _Alignas(struct dirent64) char tree_entries[TREE_DEPTH][2048];

/* Which mount the open directory FD is on; before Linux 5.8, which device, which is nearly the
 * same. */
ASYNC_SAFE static int mount_of(int fd, unsigned long long *mount)
{
    struct statx x;
    if (statx(fd, "", AT_EMPTY_PATH, STATX_MNT_ID, &x) < 0)
        return -1;
    *mount = (x.stx_mask & STATX_MNT_ID) != 0
                 ? x.stx_mnt_id
                 : ((unsigned long long)x.stx_dev_major << 32 | x.stx_dev_minor);
    return 0;
}

/* Open the directory NAME in DIR to be emptied, even if its maker took our rights to it away. The
 * mode is changed through a descriptor: by its name a link that has come meanwhile would be
 * followed. */
ASYNC_SAFE static int open_directory(int dir, const char *name)
{
    const int flags = O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
    int fd = openat(dir, name, O_RDONLY | flags);
    if (fd >= 0 || errno != EACCES)
        return fd;
    int handle = openat(dir, name, O_PATH | flags);
    if (handle < 0)
        return -1;
    char path[32];
    struct text t = TEXT(path);
    if (chmod(text_format(&t, "/proc/self/fd/%d", handle), 0700) == 0)
        fd = openat(dir, name, O_RDONLY | flags);
    close_keep_errno(handle);
    return fd;
}

ASYNC_SAFE static int empty_directory(int dir, int depth, struct tree *tree);

ASYNC_SAFE static int remove_directory(int dir, const char *name, int depth, struct tree *tree)
{
    if (unlinkat(dir, name, AT_REMOVEDIR) == 0)
        return 0;
    if (errno != ENOTEMPTY && errno != EEXIST)
        return -1;
    if (depth + 1 >= TREE_DEPTH) {
        char up[48];
        struct text t = TEXT(up);
        text_format(&t, ".hangupd-deep-%u", tree->hoisted++);
        return renameat(dir, name, tree->top, up);
    }
    int fd = open_directory(dir, name);
    if (fd < 0)
        return -1;
    unsigned long long mount;
    int done = mount_of(fd, &mount);
    if (done == 0 && mount != tree->mount) {
        errno = EXDEV;
        done = -1;
    }
    if (done == 0)
        done = empty_directory(fd, depth + 1, tree);
    close_keep_errno(fd);
    return done < 0 ? -1 : unlinkat(dir, name, AT_REMOVEDIR);
}

/* One pass over DIR. Returns how many entries it removed, or -1 if it could not be read; *LEFT is
 * the errno of the first that would not go, or 0 if there was none. */
ASYNC_SAFE static int empty_pass(int dir, int depth, struct tree *tree, int *left)
{
    int removed = 0;
    *left = 0;
    if (lseek(dir, 0, SEEK_SET) < 0)
        return -1;
    struct walk w = walk_from(dir, tree_entries[depth], sizeof tree_entries[depth]);
    for (const struct dirent64 *e; (e = walk_next(&w)) != NULL;) {
        bool gone = e->d_type != DT_DIR && (unlinkat(dir, e->d_name, 0) == 0 || errno == ENOENT);
        if (!gone && (e->d_type == DT_DIR || errno == EISDIR)) /* some file systems tell no types */
            gone = remove_directory(dir, e->d_name, depth, tree) == 0;
        if (gone)
            removed++;
        else if (*left == 0)
            *left = errno;
    }
    errno = w.error;
    return w.error == 0 ? removed : -1;
}

/* Empty DIR, with passes until one removes nothing: entries may move while others are removed. */
ASYNC_SAFE static int empty_directory(int dir, int depth, struct tree *tree)
{
    for (bool mode_forced = false;;) {
        int left;
        int removed = empty_pass(dir, depth, tree, &left);
        if (removed < 0 || (removed == 0 && left == 0))
            return removed;
        if (removed > 0)
            continue;
        errno = left;
        if (left != EACCES || mode_forced || fchmod(dir, 0700) < 0)
            return -1;
        mode_forced = true;
    }
}

/* Remove the open directory FD, whose name is PATH, and close it. */
ASYNC_SAFE static int remove_open_tree(int fd, const char *path)
{
    struct tree tree = {.top = fd};
    int done = mount_of(fd, &tree.mount);
    if (done == 0)
        done = empty_directory(fd, 0, &tree);
    close_keep_errno(fd);
    if (done < 0)
        return -1;
    return rmdir(path) == 0 || errno == ENOENT ? 0 : -1;
}

#endif
