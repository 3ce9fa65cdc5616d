/* thing.h: removing what a record names, if it is that and the place is the right one.
 *
 *     place_tell(&t, path);                      // "in FILEID DIR\n", before the record of PATH
 *     ...
 *     place_forget();                            // the ledger is read from here on
 *     switch (undo_thing(&evidence, &record))
 *
 * "It is not there" is success for an undo only where the thing was: at a start, its disk may not
 * be mounted yet, and somebody may have moved the directory away. So a ledger says of each
 * directory that its maker's records lie in which one that is, and by a path that leads elsewhere
 * now nothing is removed and nothing is forgotten. Without such a line, as before a program's
 * records have been looked at, it is enough that there is a directory.
 *
 * What lay in a directory that this ledger removes, or has removed, went with it; and what a tmpfs
 * held before the last boot is gone.
 *
 * Kind: included by cleanup.c alone.
 * Signal safety: what is marked ASYNC_SAFE, which is all of it; its buffers are static.
 */
#ifndef HANGUPD_THING_H
#define HANGUPD_THING_H

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "identity.h"
#include "reader.h"
#include "text.h"
#include "tree.h"
#include "verbs.h"

/* ---- Telling ------------------------------------------------------------------------------- */

/* The bytes of PATH up to its last name, without the slash between, unless that is the root. */
ASYNC_SAFE static size_t directory_length(const char *path)
{
    size_t length = (size_t)(strrchr(path, '/') - path);
    return length > 0 ? length : 1;
}

/* The directories that have been told of last. */
static struct {
    char paths[4][PATH_MAX];
    unsigned next;
} places_told;

ASYNC_SAFE static void places_told_forget(void)
{
    for (int i = 0; i < 4; i++)
        places_told.paths[i][0] = '\0';
}

ASYNC_SAFE static bool place_is_told(const char *dir)
{
    for (int i = 0; i < 4; i++)
        if (strcmp(places_told.paths[i], dir) == 0)
            return true;
    return false;
}

/* Open PATH's directory, whose name is put into DIR; or, if that is not there yet, the nearest that
 * is. Returns -1 if that was told of just before, or it cannot be looked at. */
ASYNC_SAFE static int place_open(const char *path, char dir[PATH_MAX])
{
    size_t length = directory_length(path);
    if (length >= PATH_MAX)
        return -1;
    memcpy(dir, path, length);
    for (;; length = directory_length(dir)) {
        dir[length] = '\0';
        int fd = place_is_told(dir) ? -1 : open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
        if (fd >= 0 || place_is_told(dir) || !is_not_there(errno) || length == 1)
            return fd;
    }
}

/* Add the line about PATH's directory to T, unless it was told of just before. */
ASYNC_SAFE static void place_tell(struct text *t, const char *path)
{
    char *dir = places_told.paths[places_told.next], found[PATH_MAX];
    struct identity id;
    int fd = place_open(path, found);
    if (fd < 0)
        return;
    if (identify(fd, "", AT_EMPTY_PATH, &id) == 0) {
        text_format(t, "%s ", verbs[VERB_IN].name);
        identity_write(t, &id);
        text_format(t, " %s\n", found);
        memcpy(dir, found, strlen(found) + 1);
        places_told.next = (places_told.next + 1) % 4;
    }
    close(fd);
}

/* ---- Asking -------------------------------------------------------------------------------- */

/* The ledger, and what its maker and the kernel's boot say about it. */
struct evidence {
    int fds[2]; /* its two files; -1: not there */
    off_t from[2];
    bool same_boot; /* device numbers mean what they meant */
    bool held;      /* no inode's number has been given out again since */
};

/* What the ledger says of the last directory that was asked about. */
static struct {
    char path[PATH_MAX];
    size_t told; /* the bytes of the path of the one that is told of: itself or, if it is not there,
                  * what was there when things were recorded in it; 0: none */
    bool right;  /* it is that one */
    bool gone; /* so is what was in it: the tree that it is in is the ledger's, or it was a tmpfs */
} place;

/* Forget it, as more may be recorded. */
ASYNC_SAFE static void place_forget(void)
{
    place.path[0] = '\0';
}

/* Returns true if PATH is the directory TREE, or in it. */
ASYNC_SAFE static bool is_in(const char *path, const char *tree)
{
    size_t n = strlen(tree);
    while (n > 0 && tree[n - 1] == '/')
        n--;
    return n > 0 && strncmp(path, tree, n) == 0 && (path[n] == '/' || path[n] == '\0');
}

/* Parse LINE, also if it is a record of a tree that has been struck out: for that its first letter
 * is guessed. */
ASYNC_SAFE static struct record parse_struck(char *line)
{
    struct record r = record_parse(line);
    for (const char *letter = "rs"; line[0] == '#' && *letter != '\0'; letter++) {
        line[0] = *letter;
        r = record_parse(line);
        line[0] = r.error == 0 && r.verb != VERB_UNKNOWN ? *letter : '#';
    }
    return r;
}

/* Note that the directory DIR was the one that WAS. */
ASYNC_SAFE static void place_line_in(const struct evidence *e, const char *dir,
                                     const struct identity *was)
{
    struct identity is;
    size_t length = strlen(dir);
    int fd = length >= place.told ? open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC) : -1;
    if (length < place.told)
        return;
    if (length > place.told)
        place.right = false;
    place.told = length;
    if (fd >= 0 && identify(fd, "", AT_EMPTY_PATH, &is) == 0 &&
        (identity_compare(was, &is, e->same_boot, true) == IDENTITY_SAME ||
         identity_is_fleeting(fd)))
        place.right = true;
    if (!e->same_boot && identity_is_of_tmpfs(was))
        place.gone = true;
    if (fd >= 0)
        close(fd);
}

/* Note what LINE says of the place, which IS_THERE or not. */
ASYNC_SAFE static void place_line(const struct evidence *e, char *line, bool is_there)
{
    const struct record r = parse_struck(line);
    enum verb_undo how = verbs[r.verb].undo;
    if (r.error != 0)
        return;
    if (how == UNDO_TREE || how == UNDO_SCRATCH)
        place.gone = place.gone || is_in(place.path, r.argument);
    if (how == UNDO_PLACE && (is_there ? strcmp(place.path, r.argument) == 0
                                       : is_in(place.path, r.argument) || r.argument[1] == '\0'))
        place_line_in(e, r.argument, &r.identity);
}

/* Look up the directory of PATH, which IS_THERE or not. Returns false, with errno, if the ledger
 * cannot be read. */
ASYNC_SAFE static bool place_look(const struct evidence *e, const char *path, bool is_there)
{
    static struct reader reader; /* not that of the records that are being undone */
    struct stat now;
    size_t length = directory_length(path);
    if (strncmp(place.path, path, length) == 0 && place.path[length] == '\0')
        return true;
    memcpy(place.path, path, length);
    place.path[length] = '\0';
    place.told = 0;
    place.right = place.gone = false;
    for (int i = 0; i < 2; i++) {
        int found = -1;
        if (e->fds[i] < 0)
            continue;
        if (fstat(e->fds[i], &now) == 0) {
            reader_begin(&reader, e->fds[i], now.st_size, e->from[i]);
            while ((found = reader_next(&reader)) > 0)
                if (reader.whole)
                    place_line(e, reader.line, is_there);
        }
        if (found < 0) {
            place_forget();
            return false;
        }
    }
    place.right = place.right || (is_there && place.told == 0);
    return true;
}

/* ---- Undoing ------------------------------------------------------------------------------- */

/* Returns 1 if what is open as FD is the thing that WAS recorded, 0 if it is another one, or -1
 * with errno, which is ESTALE if it cannot be told. */
ASYNC_SAFE static int is_same(const struct evidence *e, const struct identity *was, int fd)
{
    struct identity is;
    if (identify(fd, "", AT_EMPTY_PATH, &is) < 0)
        return -1;
    enum identity_answer answer = identity_compare(was, &is, e->same_boot, e->held);
    if (answer != IDENTITY_SAME && identity_is_fleeting(fd) && identity_may_be(was, &is))
        answer = IDENTITY_SAME;
    errno = ESTALE;
    return answer == IDENTITY_UNKNOWN ? -1 : answer == IDENTITY_SAME;
}

/* Remove what is at AT if it still is the thing WAS. Returns 1 if it was and is gone; 0 if nothing
 * is there, or another thing; -1 with errno if it is still there, or cannot be told. */
ASYNC_SAFE static int remove_if(const struct evidence *e, const struct identity *was,
                                const struct spot *at, bool directory)
{
    int fd = open_within(at->dir, at->name, O_PATH);
    if (fd < 0)
        return is_not_there(errno) ? 0 : -1;
    int same = is_same(e, was, fd);
    close_keep_errno(fd);
    if (same <= 0)
        return same;
    if (!directory)
        return remove_at(at, 0) < 0 ? -1 : spot_removed != 0;
    fd = open_directory(at->dir, at->name);
    if (fd < 0)
        return is_not_there(errno) ? 0 : -1;
    /* What was opened is what is emptied: it must still be the one that was looked at. */
    same = is_same(e, was, fd);
    if (same > 0)
        return remove_open_tree(fd, at) < 0 ? -1 : 1;
    close_keep_errno(fd);
    return same;
}

/* The same of a record's thing in its directory AT, whose descriptor is -1 if it is not there.
 * Returns as undo_thing does. */
ASYNC_SAFE static int undo_at(const struct evidence *e, const struct record *r,
                              const struct spot *at)
{
    bool by_identity = verbs[r->verb].argument == ARGUMENT_FILEID_PATH;
    bool directory = verbs[r->verb].undo == UNDO_TREE;
    if (by_identity && at->dir >= 0) {
        int done = remove_if(e, &r->identity, at, directory);
        if (done != 0)
            return done < 0 ? -1 : 0;
    }
    if (!place_look(e, r->argument, at->dir >= 0))
        return -1;
    if (!place.right)
        return place.gone ? 0 : 1;
    if (by_identity || at->dir < 0)
        return 0;
    if (directory)
        return remove_tree(at);
    return remove_at(at, 0);
}

/* Undo the record R of a file or a tree. Returns 0 if nothing of it is there; 1 if that cannot be
 * told yet, as its directory is not there or another one; -1 with errno if it is still there, or
 * (ESTALE) it cannot be told whether that is it. */
ASYNC_SAFE static int undo_thing(const struct evidence *e, const struct record *r)
{
    struct spot at;
    spot_removed = 0;
    int opened = spot_open(r->argument, &at);
    if (opened < 0 && errno == EINVAL && verbs[r->verb].argument == ARGUMENT_FILEID_PATH)
        return 0; /* nothing that was made is called "." or ".." */
    if (opened < 0 && errno == ENAMETOOLONG)
        return 0;
    if (opened < 0 && !is_not_there(errno))
        return -1;
    at.dir = opened < 0 ? -1 : at.dir;
    int done = undo_at(e, r, &at);
    if (at.dir >= 0)
        close_keep_errno(at.dir);
    return done;
}

#endif
