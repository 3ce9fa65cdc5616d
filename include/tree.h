/* tree.h: opening what a path names where it was made, and removing trees, without following links,
 * entering mounts, memory or a limit of depth.
 *
 *     struct spot at;
 *     if (spot_open(path, &at) == 0) {
 *         if (remove_tree(&at) < 0)
 *             ... errno: what is left is a part of the tree, TREE_LEFT, or its top ...
 *         close(at.dir);
 *     }
 *
 * A tree may be hostile: as deep as its maker liked, with links out of it, with modes that keep us
 * out, and still being written to. So each directory is opened by its name in its parent, never by
 * a path; what is mounted over its top or below it is not the request's, is not entered and stays,
 * with EBUSY; and what will not go is no reason not to remove the rest.
 *
 * Kind: included by cleanup.c alone.
 * Signal safety: what is marked ASYNC_SAFE, which is all of it; its buffers are static, so one tree
 * at a time.
 */
#ifndef HANGUPD_TREE_H
#define HANGUPD_TREE_H

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "text.h"
#include "walk.h"

/* ---- Opening ----------------------------------------------------------------------------- */

/* Which mount the open file FD is on; before Linux 5.8, which device, which is nearly the same. */
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

/* Open NAME in DIR, with FLAGS, as it lies in DIR's own mount. What is mounted over it is EBUSY,
 * and is not even asked: its file system may not answer. A link is ELOOP. */
ASYNC_SAFE static int open_within(int dir, const char *name, int flags)
{
    const struct open_how how = {.flags = (unsigned)flags | O_NOFOLLOW | O_CLOEXEC,
                                 .resolve = RESOLVE_NO_XDEV | RESOLVE_NO_SYMLINKS};
    unsigned long long outside, inside;
    int fd = (int)syscall(SYS_openat2, dir, name, &how, sizeof how);
    if (fd < 0 && errno == EXDEV)
        errno = EBUSY;
    if (fd >= 0 || (errno != ENOSYS && errno != EPERM))
        return fd;
    /* A kernel before 5.6, or a sandbox that does not know the call. What has been opened stays
     * what it is, so it can be asked afterwards. */
    fd = openat(dir, name, flags | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0 || (mount_of(dir, &outside) == 0 && mount_of(fd, &inside) == 0 && outside == inside))
        return fd;
    close(fd);
    errno = EBUSY;
    return -1;
}

/* Returns true if ERROR says that nothing has this name. One too long can never have been made. */
ASYNC_SAFE static bool is_not_there(int error)
{
    return error == ENOENT || error == ENOTDIR || error == ENAMETOOLONG;
}

/* Where a thing is: the directory that it is in, open, and its name there. */
struct spot {
    int dir;
    const char *name;
};

/* Open the directory of PATH, an absolute one. Links on the way to it are followed, as they were
 * when the thing was made. The root, "." and ".." are nobody's to remove: EINVAL. Returns 0, or -1
 * with errno. */
ASYNC_SAFE static int spot_open(const char *path, struct spot *at)
{
    char parent[PATH_MAX];
    at->name = strrchr(path, '/') + 1;
    size_t length = (size_t)(at->name - path);
    errno = ENAMETOOLONG;
    if (length >= sizeof parent)
        return -1;
    errno = EINVAL;
    if (*at->name == '\0' || strcmp(at->name, ".") == 0 || strcmp(at->name, "..") == 0)
        return -1;
    memcpy(parent, path, length);
    parent[length] = '\0';
    at->dir = open(parent, O_PATH | O_DIRECTORY | O_CLOEXEC);
    return at->dir < 0 ? -1 : 0;
}

/* Something was there, and remove_at has removed it: the caller puts it back to 0. */
static volatile sig_atomic_t spot_removed;

/* Remove the name AT, with FLAGS as for unlinkat(2). Returns 0 if nothing has it now, or -1 with
 * errno. */
ASYNC_SAFE static int remove_at(const struct spot *at, int flags)
{
    if (unlinkat(at->dir, at->name, flags) < 0)
        return errno == ENOENT || errno == ENAMETOOLONG ? 0 : -1;
    spot_removed = 1;
    return 0;
}

/* Open the directory NAME in DIR to be emptied, even if its maker took our rights to it away. The
 * mode is changed through a descriptor: by its name a link that has come meanwhile would be
 * followed. */
ASYNC_SAFE static int open_directory(int dir, const char *name)
{
    int fd = open_within(dir, name, O_RDONLY | O_DIRECTORY);
    if (fd >= 0 || errno != EACCES)
        return fd;
    int handle = open_within(dir, name, O_PATH | O_DIRECTORY);
    if (handle < 0)
        return -1;
    char path[32];
    struct text t = TEXT(path);
    if (chmod(text_format(&t, "/proc/self/fd/%d", handle), 0700) == 0)
        fd = open_within(dir, name, O_RDONLY | O_DIRECTORY);
    close_keep_errno(handle);
    return fd;
}

/* ---- Trees ------------------------------------------------------------------------------- */

/* Each level that is entered takes a buffer and a descriptor. So a directory deeper than this is
 * first moved up to the top of its tree, and found there by the next pass. */
#define TREE_DEPTH 48
/* Passes over a directory, beside one for each that was moved up; and how many may be. Somebody may
 * go on making files in it, or FUSE put another name in the place of each that is removed while the
 * file is open (.fuse_hidden): then it is for a later try, and not for this process to spin. */
#define TREE_PASSES 64
#define TREE_HOISTS 10000
struct tree {
    int top;
    unsigned hoisted;              /* directories that were moved up, which numbers their names */
    const char *names[TREE_DEPTH]; /* of the directories that are entered, below the top */
};
static _Alignas(struct dirent64) char tree_entries[TREE_DEPTH][2048];

/* What of the last tree would not go, as seen from its top; "": that can be said of its top alone.
 */
static char tree_left[1024];

ASYNC_SAFE static int empty_directory(int dir, int depth, struct tree *tree);

ASYNC_SAFE static int remove_directory(int dir, const char *name, int depth, struct tree *tree)
{
    if (unlinkat(dir, name, AT_REMOVEDIR) == 0)
        return 0;
    if (errno != ENOTEMPTY && errno != EEXIST)
        return -1;
    if (depth + 1 >= TREE_DEPTH && tree->hoisted < TREE_HOISTS) {
        char up[48];
        struct text t = TEXT(up);
        text_format(&t, ".hangupd-deep-%u", tree->hoisted++);
        return renameat(dir, name, tree->top, up);
    }
    if (depth + 1 >= TREE_DEPTH)
        return -1;
    int fd = open_directory(dir, name);
    if (fd < 0)
        return -1;
    tree->names[depth] = name;
    int done = empty_directory(fd, depth + 1, tree);
    close_keep_errno(fd);
    return done < 0 ? -1 : unlinkat(dir, name, AT_REMOVEDIR);
}

/* Remember that NAME, DEPTH levels below the top, would not go; errno stays. What lies deeper has
 * been noted before it, and says more. */
ASYNC_SAFE static void note_left(const struct tree *tree, int depth, const char *name)
{
    struct text t = TEXT(tree_left);
    if (tree_left[0] != '\0')
        return;
    for (int i = 0; i < depth; i++)
        text_format(&t, "%s/", tree->names[i]);
    text_add(&t, name);
    text_end(&t);
}

/* One pass over DIR. Returns how many entries it removed, or -1 if it could not be read; *LEFT is
 * the errno of the first that would not go, or 0 if there was none. */
ASYNC_SAFE static int empty_pass(int dir, int depth, struct tree *tree, int *left)
{
    int removed = 0;
    *left = 0;
    tree_left[0] = '\0';
    if (lseek(dir, 0, SEEK_SET) < 0)
        return -1;
    struct walk w = walk_from(dir, tree_entries[depth], sizeof tree_entries[depth]);
    for (const struct dirent64 *e; (e = walk_next(&w)) != NULL;) {
        bool gone = e->d_type != DT_DIR && (unlinkat(dir, e->d_name, 0) == 0 || errno == ENOENT);
        if (!gone && (e->d_type == DT_DIR || errno == EISDIR)) /* some file systems tell no types */
            gone = remove_directory(dir, e->d_name, depth, tree) == 0;
        if (gone) {
            removed++;
        } else {
            *left = *left == 0 ? errno : *left;
            note_left(tree, depth, e->d_name);
        }
    }
    errno = w.error;
    return w.error == 0 ? removed : -1;
}

/* Empty DIR, with passes until one removes nothing: entries may move while others are removed. */
ASYNC_SAFE static int empty_directory(int dir, int depth, struct tree *tree)
{
    bool mode_forced = false;
    for (unsigned passes = 1;; passes++) {
        int left;
        int removed = empty_pass(dir, depth, tree, &left);
        if (removed < 0 || (removed == 0 && left == 0))
            return removed;
        if (removed > 0 && passes < TREE_PASSES + tree->hoisted)
            continue;
        errno = left != 0 ? left : ENOTEMPTY;
        if (left != EACCES || mode_forced || fchmod(dir, 0700) < 0)
            return -1;
        mode_forced = true;
    }
}

/* Remove the directory at AT, which is open as FD, and close that. */
ASYNC_SAFE static int remove_open_tree(int fd, const struct spot *at)
{
    struct tree tree = {.top = fd};
    int done = empty_directory(fd, 0, &tree);
    close_keep_errno(fd);
    if (done < 0)
        return -1;
    return remove_at(at, AT_REMOVEDIR);
}

/* Remove the directory at AT with all that is in it. If a link or a file has its name by now, that
 * goes by its name. Returns 0 if nothing is there any more, or -1 with errno. */
ASYNC_SAFE static int remove_tree(const struct spot *at)
{
    int fd = open_directory(at->dir, at->name);
    if (fd >= 0)
        return remove_open_tree(fd, at);
    if (errno == ENOTDIR || errno == ELOOP)
        return remove_at(at, 0);
    return is_not_there(errno) ? 0 : -1;
}

#endif
