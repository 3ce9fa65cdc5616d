/* look.h: what ledgers hold, for `hangupd status`: nothing is made, changed, locked or waited for.
 *
 * What others may call is declared in ledger.h.
 *
 * Kind: included by cleanup.c alone.
 * Signal safety: none.
 */
#ifndef HANGUPD_LOOK_H
#define HANGUPD_LOOK_H

#include "ledger.h"

static int compare_names(const void *a, const void *b)
{
    return strcmp(a, b); /* each kind of item that is sorted so starts with its name */
}

char (*cleanup_look_servers(int state, size_t *count))[CLEANUP_TOKEN_SIZE]
{
    char(*tokens)[CLEANUP_TOKEN_SIZE] = NULL;
    size_t room = 0;
    *count = 0;
    errno = 0;
    DIR *list = list_directory(state);
    for (const struct dirent *e; list != NULL && (e = readdir(list)) != NULL;) {
        if (!is_token(e->d_name))
            continue;
        void *more = make_room(tokens, *count, &room, sizeof *tokens);
        if (more == NULL)
            break;
        tokens = more;
        memcpy(tokens[(*count)++], e->d_name, sizeof *tokens);
    }
    int saved = errno;
    if (list != NULL)
        closedir(list);
    if (tokens != NULL)
        qsort(tokens, *count, sizeof *tokens, compare_names);
    errno = saved;
    return tokens;
}

int cleanup_look_lock(int dir, pid_t *pid)
{
    /* Closing a descriptor of the lock lets go of it in the process that holds it: that is not
     * this one, which only looks. */
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    int fd = openat(dir, "lock", O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0)
        return -1;
    int result = fcntl(fd, F_GETLK, &lock);
    close_keep_errno(fd);
    if (result < 0)
        return -1;
    *pid = lock.l_pid > 0 ? lock.l_pid : 0;
    return lock.l_type != F_UNLCK;
}

/* A ledger's lines, first to last, each cut to fit. */
struct tally {
    struct cleanup_look *look;
    unsigned scratch; /* directories, which go in any case: also those above a `commit` */
    bool header_seen;
    size_t length;
    char line[CLEANUP_EXCERPT_SIZE], next[CLEANUP_EXCERPT_SIZE], next_scratch[CLEANUP_EXCERPT_SIZE];
};

static void tally_header(struct tally *t)
{
    const char *boot = strstr(t->line, " boot=");
    const char *title = boot == NULL ? NULL : strchr(boot + 1, ' ');
    t->header_seen = true;
    if (title != NULL && t->look->title[0] == '\0' &&
        strncmp(t->line, LEDGER_MAGIC, strlen(LEDGER_MAGIC)) == 0)
        memcpy(t->look->title, title + 1, strlen(title + 1) + 1);
}

static void tally_line(struct tally *t, unsigned *records)
{
    t->line[t->length] = '\0';
    if (t->length == 0)
        return;
    if (t->line[0] == '#') {
        t->look->made = t->look->made || (t->length > 1 && t->line[1] != ' '); /* struck out */
        if (!t->header_seen)
            tally_header(t);
    } else if (strcmp(t->line, "commit") == 0) {
        *records = t->scratch;
        memcpy(t->next, t->next_scratch, sizeof t->next);
    } else if (argument_of(t->line, "sent") == NULL) {
        ++*records;
        memcpy(t->next, t->line, t->length + 1);
        if (argument_of(t->line, "scratch") != NULL) {
            t->scratch++;
            memcpy(t->next_scratch, t->line, t->length + 1);
        }
    }
}

#define LOOK_MOST                                                                                  \
    (16 << 20) /* bytes of one ledger: whoever looks is not kept busy by a monster                 \
                */

/* Count what is left in the file NAME of a ledger. */
static bool tally_file(int dir, const char *name, struct cleanup_look *look)
{
    char buffer[16384];
    struct stat now;
    struct tally t = {.look = look};
    unsigned records = 0;
    int fd = openat(dir, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0)
        return false;
    if (fstat(fd, &now) < 0 || !S_ISREG(now.st_mode)) {
        close(fd);
        errno = EINVAL;
        return false;
    }
    ssize_t n;
    for (off_t at = 0; at < LOOK_MOST && (n = pread(fd, buffer, sizeof buffer, at)) > 0; at += n)
        for (ssize_t i = 0; i < n; i++) {
            if (buffer[i] == '\n') {
                tally_line(&t, &records); /* a line without its newline never happened */
                t.length = 0;
            } else if (t.length < sizeof t.line - 1) {
                t.line[t.length++] = buffer[i] != '\0' ? buffer[i] : '?';
            }
        }
    close(fd);
    look->records += records;
    look->made = look->made || records > t.scratch;
    if (records > 0)
        memcpy(look->next, t.next, sizeof t.next);
    int64_t changed_ms = (int64_t)now.st_ctim.tv_sec * 1000 + now.st_ctim.tv_nsec / 1000000;
    if (changed_ms > look->changed_ms)
        look->changed_ms = changed_ms;
    return true;
}

bool cleanup_look_ledger(int dir, const char *id, struct cleanup_look *l)
{
    char program[CLEANUP_ID_SIZE + 4];
    *l = (struct cleanup_look){.records = 0};
    errno = ENOENT;
    if (!cleanup_is_id(id))
        return false;
    memcpy(l->id, id, strlen(id) + 1);
    bool own_there = tally_file(dir, id, l);
    bool program_there = tally_file(dir, program_name(program, id), l);
    return own_there || program_there;
}

struct cleanup_look *cleanup_look_ledgers(int dir, size_t *count)
{
    size_t names;
    char(*ids)[CLEANUP_ID_SIZE] = cleanup_list(dir, &names);
    int error = errno;
    struct cleanup_look *all = calloc(names + 1, sizeof *all);
    *count = 0;
    for (size_t i = 0; all != NULL && ids != NULL && i < names; i++)
        if (cleanup_look_ledger(dir, ids[i], &all[*count])) /* else it was settled meanwhile */
            ++*count;
    free(ids);
    if (all != NULL)
        qsort(all, *count, sizeof *all, compare_names);
    errno = all == NULL ? ENOMEM : error;
    return all;
}

#endif
