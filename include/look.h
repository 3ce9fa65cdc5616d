/* look.h: what servers and ledgers there are, for `hangupd status`; and what `hangupd undo` is
 * given.
 *
 *     size_t count;
 *     struct cleanup_look *all = cleanup_look_ledgers(dir, &count);
 *
 * Nothing is made, changed, locked or waited for, and nothing that is read is believed: it may be
 * written at this moment, or by somebody who means harm. So what is found is for people to read,
 * never a reason to undo or to remove anything. What others may call is declared in ledger.h.
 *
 * Kind: included by cleanup.c alone.
 * Signal safety: none.
 */
#ifndef HANGUPD_LOOK_H
#define HANGUPD_LOOK_H

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "identity.h"
#include "ledger.h"
#include "reader.h"
#include "text.h"
#include "verbs.h"
#include "walk.h"

/* ---- Looking at servers ---------------------------------------------------------------- */

static int compare_names(const void *a, const void *b)
{
    return strcmp(a, b); /* each kind of item that is sorted so starts with its name */
}

static bool take_token(int state, const char *name, char *token)
{
    (void)state;
    bool good = cleanup_is_server_token(name);
    if (good)
        memcpy(token, name, CLEANUP_TOKEN_SIZE);
    return good;
}

char (*cleanup_look_servers(int state, size_t *count))[CLEANUP_TOKEN_SIZE]
{
    char(*tokens)[CLEANUP_TOKEN_SIZE] = list_names(state, sizeof *tokens, take_token, count);
    int error = errno;
    if (tokens != NULL)
        qsort(tokens, *count, sizeof *tokens, compare_names);
    errno = error;
    return tokens;
}

int cleanup_look_lock(int dir, pid_t *pid)
{
    /* If the process that holds a POSIX lock closes any descriptor of its file, it lets go of the
     * lock. That does not happen here: this process only looks, and holds none. */
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

/* ---- Looking at ledgers ---------------------------------------------------------------- */

/* The most bytes of a ledger that are read: one monster must not keep status busy for long. */
#define LOOK_MOST (16 << 20)

/* Copy the line at hand to an excerpt, cut to fit. */
static void excerpt(char *to, size_t size, const struct reader *r)
{
    size_t n = r->length < size ? r->length : size - 1;
    memcpy(to, r->line, n);
    to[n] = '\0';
}

/* What is known of one file of a ledger, read backwards. */
struct tally {
    bool kept; /* a `commit` is below: of what comes now only scratch directories are undone */
    bool made; /* there is, or was, a record other than a scratch directory's */
    unsigned records, looks;
    unsigned long long due;          /* of the looks */
    char header[LEDGER_HEAD_SIZE];   /* the first comment */
    char next[CLEANUP_EXCERPT_SIZE]; /* the record that is undone next, or who is waited for */
};

static void tally_line(struct tally *t, struct reader *r)
{
    for (size_t i = 0; !r->whole && i < r->length; i++)
        if (r->line[i] == '\0')
            r->line[i] = '?'; /* such a record will fail, but it is one that is left */
    if (r->length == 0)
        return;
    if (r->line[0] == '#') {
        t->made = t->made || (r->length > 1 && r->line[1] != ' '); /* struck out */
        excerpt(t->header, sizeof t->header, r);
        if (t->next[0] == '\0' && strncmp(r->line, LEDGER_WAITS, strlen(LEDGER_WAITS)) == 0)
            excerpt(t->next, sizeof t->next, r);
        return;
    }
    struct record record = record_parse(r->line);
    enum verb_undo how = verbs[record.verb].undo;
    bool scratch = how == UNDO_SCRATCH;
    if (how == UNDO_MARK_KEEP && record.error == 0) {
        t->kept = true;
    } else if (how == UNDO_AGAIN && record.error == 0 && record.number > 0) {
        t->looks += !t->kept;
        t->due = record.number > t->due ? record.number : t->due;
    } else if (how != UNDO_MARK_SENT && how != UNDO_PLACE && (scratch || !t->kept)) {
        t->made = t->made || !scratch;
        t->records++;
        if (t->next[0] == '\0')
            excerpt(t->next, sizeof t->next, r);
    }
}

/* Returns the title in a ledger's HEADER, of either version, or NULL if it is not one. */
static const char *title_of(const char *header)
{
    const char *title = header_title(header);
    const char *node = title != NULL && strncmp(title, "node=", 5) == 0 ? title : NULL;
    const char *behind = node != NULL ? strchr(node, ' ') : NULL;
    bool ours = strncmp(header, LEDGER_MAGIC, strlen(LEDGER_MAGIC)) == 0 ||
                strncmp(header, LEDGER_MAGIC_1, strlen(LEDGER_MAGIC_1)) == 0;
    return !ours ? NULL : behind != NULL ? behind + 1 : title;
}

/* Count what is left in the file NAME of a ledger, and add it to LOOK. Returns false, with errno,
 * if it cannot be read. */
static bool tally_file(int dir, const char *name, struct cleanup_look *look, struct header *h)
{
    struct reader r; /* not cleanup.c's: a janitor looks before it settles */
    struct tally t = {.kept = false};
    struct stat now;
    int fd = openat(dir, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0)
        return false;
    if (fstat(fd, &now) < 0 || !S_ISREG(now.st_mode)) {
        close(fd);
        errno = EINVAL;
        return false;
    }
    *h = header_read(fd);
    if (h->unread) {
        close_keep_errno(fd);
        return false;
    }
    reader_begin(&r, fd, now.st_size < LOOK_MOST ? now.st_size : LOOK_MOST, h->from);
    while (reader_next(&r) > 0)
        tally_line(&t, &r);
    close(fd);
    const char *title = title_of(t.header);
    if (title != NULL && look->title[0] == '\0') {
        snprintf(look->title, sizeof look->title, "%.*s", CLEANUP_EXCERPT_SIZE - 1, title);
        header_word(t.header, " client=", look->client, sizeof look->client);
    }
    look->records += t.records;
    look->looks += t.looks;
    int64_t due_ms = t.due < INT64_MAX / 1000 ? (int64_t)t.due * 1000 : INT64_MAX;
    look->due_ms = due_ms > look->due_ms ? due_ms : look->due_ms;
    look->made = look->made || t.made;
    if (t.next[0] != '\0' && strncmp(look->next, LEDGER_WAITS, strlen(LEDGER_WAITS)) != 0)
        memcpy(look->next, t.next, sizeof t.next);
    int64_t changed_ms = (int64_t)now.st_ctim.tv_sec * 1000 + now.st_ctim.tv_nsec / 1000000;
    if (changed_ms > look->changed_ms)
        look->changed_ms = changed_ms;
    return true;
}

bool cleanup_look_ledger(int dir, const char *name, struct cleanup_look *l)
{
    char program[LEDGER_NAME_SIZE];
    struct header h = {0}, of_program;
    bool slot = ledger_is_slot_name(name);
    *l = (struct cleanup_look){.records = 0};
    errno = ENOENT;
    if (!slot && !cleanup_is_id(name))
        return false;
    /* The program's second: its records are newer, and so one of them is undone next. */
    bool own_there = tally_file(dir, name, l, &h);
    if (slot && !cleanup_is_id(h.id)) {
        errno = own_there ? ENOENT : errno;
        return false;
    }
    memcpy(l->name, name, strlen(name) + 1);
    memcpy(l->id, slot ? h.id : name, strlen(slot ? h.id : name) + 1);
    bool program_there = (!h.valid || h.program) &&
                         tally_file(dir, ledger_program_name(program, name), l, &of_program);
    return own_there || program_there;
}

struct cleanup_look *cleanup_look_ledgers(int dir, size_t *count)
{
    size_t names;
    char(*list)[CLEANUP_ID_SIZE] = list_names(dir, CLEANUP_ID_SIZE, ledger_name_of_file, &names);
    int error = errno;
    struct cleanup_look *all = calloc(names + 1, sizeof *all);
    *count = 0;
    for (size_t i = 0; all != NULL && list != NULL && i < names; i++)
        if (cleanup_look_ledger(dir, list[i], &all[*count])) /* else it was settled meanwhile */
            ++*count;
    free(list);
    if (all != NULL)
        qsort(all, *count, sizeof *all, compare_names);
    errno = all == NULL ? ENOMEM : error;
    return all;
}

/* ---- Looking at what `hangupd undo` is given -------------------------------------------- */

const char *cleanup_not_a_ledger(int fd)
{
    struct stat now;
    char path[32];
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0)
        return "is not open";
    if (fstat(fd, &now) < 0 || !S_ISREG(now.st_mode))
        return "is not a file";
    if ((flags & O_ACCMODE) == O_RDONLY || (flags & O_APPEND) == 0)
        return "is not open for appending";
    if (now.st_nlink == 0)
        return "is the ledger of a request that has ended";
    /* A shell's >> opens for writing only, so the file is read through a descriptor of our own. */
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    int own_fd = open(path, O_RDONLY | O_CLOEXEC);
    bool valid = header_read(own_fd >= 0 ? own_fd : fd).valid;
    if (own_fd >= 0)
        close(own_fd);
    return valid ? NULL : "is not a ledger, or was overwritten (open it with >>, never with >)";
}

int cleanup_fileid(const char *path, char text[IDENTITY_SIZE], bool *directory)
{
    struct identity id;
    struct stat now;
    struct text t = {.at = text, .room = IDENTITY_SIZE};
    if (lstat(path, &now) < 0 || identify(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW, &id) < 0)
        return -1;
    identity_write(&t, &id);
    text_end(&t);
    *directory = S_ISDIR(now.st_mode);
    return 0;
}

#endif
