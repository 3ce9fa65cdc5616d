/* walk.h: the names in a directory, one by one, and lists of what was found there.
 *
 *     _Alignas(struct dirent64) char entries[WALK_SIZE];
 *     struct walk w = walk_open(dir, ".", entries, sizeof entries);
 *     for (const struct dirent64 *e; (e = walk_next(&w)) != NULL;)
 *         puts(e->d_name);
 *     if (!walk_close(&w))
 *         perror("that was not all");
 *
 * "." and ".." are left out. The end of a directory and a failure to read it both end the loop;
 * only walk_close, or the field `error`, tells one from the other. The buffer is the caller's, so a
 * walk may be inside another one if each has its own; it must be aligned as above and hold at least
 * one entry (280 bytes). An entry is valid until the next call.
 *
 * A directory may change during the walk. What is there from beginning to end is seen once, on most
 * file systems; after removing entries a caller that must find all of them walks again (tree.h).
 *
 * Kind: pure.
 * Signal safety: what is marked ASYNC_SAFE, which is all but the lists. This is why it is not
 * readdir(3): that takes memory.
 */
#ifndef HANGUPD_WALK_H
#define HANGUPD_WALK_H

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "text.h"

/* ---- Walking through a directory ------------------------------------------------------- */

/* Bytes for a walk through a directory of any size: as many as readdir(3) asks for at a time. */
#define WALK_SIZE 32768

struct walk {
    int fd;
    int error; /* the errno that ended the walk before the end of the directory, else 0 */
    char *entries;
    size_t size;
    size_t filled, at; /* bytes that the kernel has filled in, and where the next entry starts */
};

/* Begin a walk through the open directory FD from where its offset is. If FD is negative the walk
 * has ended already, with errno as its error. A caller that keeps FD looks at `error` instead of
 * calling walk_close. */
ASYNC_SAFE static inline struct walk walk_from(int fd, char *entries, size_t size)
{
    return (struct walk){.fd = fd, .error = fd < 0 ? errno : 0, .entries = entries, .size = size};
}

/* Begin a walk through the directory NAME in DIR, to be closed by walk_close. It is opened anew
 * even if NAME is ".": a copy of a descriptor would share its offset with other processes. */
ASYNC_SAFE static inline struct walk walk_open(int dir, const char *name, char *entries,
                                               size_t size)
{
    return walk_from(openat(dir, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC), entries, size);
}

/* Returns the next entry, or NULL at the end and after a failure. */
ASYNC_SAFE static inline const struct dirent64 *walk_next(struct walk *w)
{
    while (w->error == 0) {
        if (w->at == w->filled) {
            long n = syscall(SYS_getdents64, w->fd, w->entries, w->size);
            if (n <= 0) {
                w->error = n < 0 ? errno : 0;
                return NULL;
            }
            w->filled = (size_t)n;
            w->at = 0;
        }
        const struct dirent64 *e = (const void *)(w->entries + w->at);
        w->at += e->d_reclen;
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
            return e;
    }
    return NULL;
}

/* End the walk and close its descriptor. Returns false, with errno, if the walk did not see all. */
ASYNC_SAFE static inline bool walk_close(struct walk *w)
{
    if (w->fd >= 0)
        close(w->fd);
    errno = w->error;
    return w->error == 0;
}

/* ---- Lists that grow ------------------------------------------------------------------- */

/* Make room for one more item of SIZE bytes in ITEMS, which holds COUNT of *ROOM and comes from
 * malloc(3), or is NULL at first. Returns ITEMS, or where it was moved to; or NULL with errno, and
 * then ITEMS is as before and still the caller's to free. */
static inline void *list_grow(void *items, size_t count, size_t *room, size_t size)
{
    size_t more = *room == 0 ? 64 : *room * 2;
    if (count < *room)
        return items;
    items = reallocarray(items, more, size);
    if (items != NULL)
        *room = more;
    return items;
}

/* List the names in DIR for which TAKE returns true, each as what TAKE has set, SIZE bytes. Returns
 * the list of *COUNT, from malloc(3), or NULL if it is empty; errno is 0 if that is all. */
static inline void *list_names(int dir, size_t size,
                               bool (*take)(int dir, const char *name, char *to), size_t *count)
{
    _Alignas(struct dirent64) char entries[WALK_SIZE];
    char *all = NULL;
    size_t room = 0;
    *count = 0;
    struct walk w = walk_open(dir, ".", entries, sizeof entries);
    for (const struct dirent64 *e; (e = walk_next(&w)) != NULL;) {
        char *more = list_grow(all, *count, &room, size);
        if (more == NULL) {
            w.error = errno;
            break;
        }
        all = more;
        if (take(dir, e->d_name, all + *count * size))
            ++*count;
    }
    if (*count == 0) {
        free(all);
        all = NULL;
    }
    (void)walk_close(&w);
    return all;
}

#endif
