/* tree.h: removing trees, without following links, memory or a limit of depth.
 *
 * Kind: included by cleanup.c alone.
 * Signal safety: all of it; static buffers, so one at a time.
 */
#ifndef HANGUPD_TREE_H
#define HANGUPD_TREE_H

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "text.h"

/* ---- Removing trees, without following links, memory or a limit of depth ------------- */

/* Deeper than this, a directory is first moved up to the top of its tree. */
#define TREE_DEPTH 48
struct tree {
    int top;
    unsigned hoisted;
    unsigned long long mount; /* never left: a mount point below is not the request's */
};
static union {
    char bytes[2048];
    struct dirent64 aligned;
} tree_entries[TREE_DEPTH];

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

/* Open the directory NAME in DIR to be emptied, even if its maker took our rights to it away. */
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
    text_add(&t, "/proc/self/fd/");
    text_signed(&t, handle);
    if (chmod(text_end(&t), 0700) == 0)
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
        text_add(&t, ".hangupd-deep-");
        text_number(&t, tree->hoisted++, 1);
        return renameat(dir, name, tree->top, text_end(&t));
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

ASYNC_SAFE static int remove_entry(int dir, const struct dirent64 *e, int depth, struct tree *tree)
{
    if (e->d_type != DT_DIR && (unlinkat(dir, e->d_name, 0) == 0 || errno == ENOENT))
        return 0;
    if (e->d_type != DT_DIR && errno != EISDIR)
        return -1;
    return remove_directory(dir, e->d_name, depth, tree);
}

/* One pass over DIR. Returns how many entries it removed, or -1 when it could not be read; *LEFT
 * is the errno of the first that would not go, or 0 when it was found empty. */
ASYNC_SAFE static int empty_pass(int dir, int depth, struct tree *tree, int *left)
{
    int removed = 0;
    *left = 0;
    if (lseek(dir, 0, SEEK_SET) < 0)
        return -1;
    for (;;) {
        char *buffer = tree_entries[depth].bytes;
        long n = syscall(SYS_getdents64, dir, buffer, sizeof tree_entries[depth].bytes);
        if (n <= 0)
            return n < 0 ? -1 : removed;
        for (long at = 0; at < n;) {
            const struct dirent64 *e = (const void *)(buffer + at);
            at += e->d_reclen;
            if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
                continue;
            if (remove_entry(dir, e, depth, tree) == 0)
                removed++;
            else if (*left == 0)
                *left = errno;
        }
    }
}

ASYNC_SAFE static int empty_directory(int dir, int depth, struct tree *tree)
{
    bool mode_forced = false;
    for (;;) {
        int left;
        int removed = empty_pass(dir, depth, tree, &left);
        if (removed < 0)
            return -1;
        if (removed == 0 && left == 0)
            return 0;
        if (removed > 0)
            continue; /* entries may have moved while some were removed: look again */
        if (left != EACCES || mode_forced) {
            errno = left;
            return -1;
        }
        mode_forced = true;
        if (fchmod(dir, 0700) < 0)
            return -1;
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
