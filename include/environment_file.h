/* environment_file.h: the environment of undo commands, kept beside the ledgers.
 *
 *     environment_keep(dir, 0, token, variables, false);          at the server's start
 *     ...
 *     int fd = environment_open(dir, id, h.environment);          in whoever undoes
 *     if (fd < 0)
 *         ...
 *     char **environment = environment_read(fd, "A=1", "B=2");    for execve(2)
 *
 * An undo command gets what the programs of its route get from the server, whoever runs it: a
 * janitor, the next server, or `hangupd recover` in another shell. So that is kept in STATE/SERVER,
 * in the file `env`, and in `env-N` for the route number N if it has variables of its own; a
 * ledger's head says which. A ledger that leaves its slot or its server's directory takes it along,
 * by a link of the name ID.env.
 *
 * Such a file is strings that end in a NUL, as in /proc/PID/environ: first a word with the token of
 * the server that has written it, which a ledger's id begins with, so that no ledger gets another
 * server's; then the variables; and PWD, the directory that the server was in.
 *
 * Kind: pure.
 * Signal safety: what is marked ASYNC_SAFE.
 */
#ifndef HANGUPD_ENVIRONMENT_FILE_H
#define HANGUPD_ENVIRONMENT_FILE_H

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ledger.h"
#include "text.h"
#include "walk.h"

#define ENVIRONMENT_NAME "env"
#define ENVIRONMENT_MAGIC "# hangupd environment of "
#define ENVIRONMENT_NAME_SIZE (CLEANUP_ID_SIZE + 8)
#define ENVIRONMENT_WORD_SIZE (sizeof ENVIRONMENT_MAGIC - 1 + CLEANUP_TOKEN_SIZE)

/* Returns NAME with that of the environment NUMBER of a server in it; or of the ledger ID, if that
 * is not NULL. */
ASYNC_SAFE static inline const char *environment_name(char name[ENVIRONMENT_NAME_SIZE],
                                                      const char *id, int number)
{
    struct text t = {.at = name, .room = ENVIRONMENT_NAME_SIZE};
    if (id != NULL)
        return text_format(&t, "%s." ENVIRONMENT_NAME, id);
    return text_format(&t, number > 0 ? ENVIRONMENT_NAME "-%d" : ENVIRONMENT_NAME, number);
}

/* Returns true if FILE, in a directory of ledgers, is one of these. */
static inline bool environment_is_name(const char *file)
{
    size_t n = strlen(file), own = sizeof ENVIRONMENT_NAME - 1;
    bool numbered =
        strncmp(file, ENVIRONMENT_NAME, own) == 0 && (file[own] == '\0' || file[own] == '-');
    return numbered || (n > own && strcmp(file + n - own - 1, "." ENVIRONMENT_NAME) == 0);
}

/* Write the environment NUMBER of the server TOKEN to DIR, its directory; SYNC: to the disk.
 * Returns 0, or -1 with errno. */
static inline int environment_keep(int dir, int number, const char *token, char *const *variables,
                                   bool sync)
{
    char name[ENVIRONMENT_NAME_SIZE], cwd[PATH_MAX];
    int fd = openat(dir, environment_name(name, NULL, number),
                    O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    FILE *f = fd >= 0 ? fdopen(fd, "w") : NULL;
    if (f == NULL && fd >= 0)
        close_keep_errno(fd);
    if (f == NULL)
        return -1;
    fprintf(f, ENVIRONMENT_MAGIC "%s%c", token, 0);
    for (; *variables != NULL; variables++)
        fprintf(f, "%s%c", *variables, 0);
    if (getcwd(cwd, sizeof cwd) != NULL)
        fprintf(f, "PWD=%s%c", cwd, 0);
    bool written = fflush(f) == 0 && ferror(f) == 0 && (!sync || fsync(fd) == 0);
    return fclose(f) == 0 && written ? 0 : -1;
}

/* Returns true if the open FD is an environment that the server of the request ID has kept. */
ASYNC_SAFE static inline bool environment_is_of(int fd, const char *id)
{
    char word[ENVIRONMENT_WORD_SIZE], first[ENVIRONMENT_WORD_SIZE];
    struct stat now;
    struct text t = TEXT(word);
    text_add(&t, ENVIRONMENT_MAGIC);
    text_bytes(&t, id, CLEANUP_TOKEN_SIZE - 1);
    const char *expected = text_end(&t);
    return fstat(fd, &now) == 0 && S_ISREG(now.st_mode) && now.st_uid == geteuid() &&
           pread(fd, first, sizeof first, 0) == (ssize_t)sizeof first &&
           memcmp(first, expected, sizeof first) == 0;
}

/* Open what is kept in DIR for the ledger ID, whose head says NUMBER; -1: it says nothing, as
 * ledgers of older versions. Returns a descriptor, or -1 with errno: ENOENT if nothing is kept,
 * EBADMSG if what is there is not of this ledger's server. */
ASYNC_SAFE static inline int environment_open(int dir, const char *id, int number)
{
    char name[ENVIRONMENT_NAME_SIZE];
    const int flags = O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC;
    int fd = openat(dir, environment_name(name, id, 0), flags);
    if (fd < 0 && errno == ENOENT && number >= 0)
        fd = openat(dir, environment_name(name, NULL, number), flags);
    if (fd < 0 || environment_is_of(fd, id))
        return fd;
    close(fd);
    errno = EBADMSG;
    return -1;
}

/* Let the ledger ID have in the directory TO what is kept for it in FROM; both may be the same.
 * Returns false with errno if that failed. If nothing is kept, nothing is done, and whoever undoes
 * finds out. */
ASYNC_SAFE static inline bool environment_take(int from, const char *id, int number, int to)
{
    char kept[ENVIRONMENT_NAME_SIZE], own[ENVIRONMENT_NAME_SIZE];
    environment_name(own, id, 0);
    int done = linkat(from, own, to, own, 0);
    if (done < 0 && errno == ENOENT && number >= 0)
        done = linkat(from, environment_name(kept, NULL, number), to, own, 0);
    return done == 0 || errno == EEXIST || errno == ENOENT;
}

/* Remove the environments in DIR of ledgers that NEEDED, if it is not NULL, does not say are there.
 * Returns false with errno if one could not be. */
static inline bool environment_sweep(int state, int dir,
                                     bool (*needed)(int state, int dir, const char *id))
{
    _Alignas(struct dirent64) char entries[WALK_SIZE];
    char id[CLEANUP_ID_SIZE];
    bool done = true;
    struct walk w = walk_open(dir, ".", entries, sizeof entries);
    for (const struct dirent64 *e; (e = walk_next(&w)) != NULL;) {
        struct text t = TEXT(id);
        text_bytes(&t, e->d_name, strcspn(e->d_name, "."));
        text_end(&t);
        if (environment_is_name(e->d_name) && (needed == NULL || !needed(state, dir, id)))
            done = (unlinkat(dir, e->d_name, 0) == 0 || errno == ENOENT) && done;
    }
    return walk_close(&w) && done;
}

/* Read the environment from FD. Returns the variables, with FIRST and SECOND before them and a NULL
 * behind, all allocated; or NULL with errno. */
static inline char **environment_read(int fd, char *first, char *second)
{
    struct stat now;
    size_t size = fstat(fd, &now) == 0 ? (size_t)now.st_size : 0, count = 0;
    char *all = malloc(size + 1);
    ssize_t n = all != NULL ? pread(fd, all, size, 0) : -1;
    if (n != (ssize_t)size) {
        free(all);
        return NULL;
    }
    all[size] = '\0';
    for (size_t i = 0; i < size; i++)
        count += all[i] == '\0';
    char **variables = malloc((count + 3) * sizeof *variables), **v = variables;
    if (variables == NULL) {
        free(all);
        return NULL;
    }
    *v++ = first;
    *v++ = second;
    for (char *at = all + strlen(all) + 1; at < all + size; at += strlen(at) + 1)
        *v++ = at;
    *v = NULL;
    return variables;
}

#endif
