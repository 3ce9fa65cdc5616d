/* cleanup.c: the ledger of what a request made, and how that is undone.
 *
 * It owns one ledger per request, which is one file, or two where a program records: text,
 * append-only, one record a line.
 *
 *     # hangupd ledger 2 id=... from=0000000512 program=1 client=... pid=... node=... ... GET
 * /report scratch /tmp/hangupd-1f0c2/0
 *     #
 *     unlink-if 8:1:10952780:1795412859.324394260 /srv/reports/q3.csv
 *     run aws-terminate --client-token ID
 *
 * The head has LEDGER_HEAD_SIZE bytes: the comment fills it up. It lies in STATE/SERVER/slot-N, a
 * file that the slot keeps for the requests that it has one after the other, and says from where on
 * the file's records count. What the request's program records is in a file of its own, slot-N.p,
 * so that a careless `>` there can take none of the server's records along. What outlives its
 * request, and what a server without a next request makes, is called after the request: ID, ID.p.
 *
 * A ledger's life, and who may touch it then:
 *
 *     idle      the slot's head says that there is none     the request's child begins it
 *     begun     the request runs; records are appended      the child; its program through NAME.p
 *     sent      the answer is complete but for the client's acknowledgement
 *     settling  read backwards, each record undone, then    the child, as it ends or in its signal
 *               struck out: its first byte becomes '#'      handler; else a janitor; else recovery
 *     dropped   undone or kept: idle again, or unlinked
 *     left      its undo failed: the slot gives it away     janitors, recovery
 *     parked    it failed too often: in STATE/failed        `hangupd recover`
 *
 * Beside them is `scratch`, a link to the pool of scratch directories, which goes with
 * STATE/SERVER.
 *
 * Plan:
 *   TELL - how a failure to undo is told
 *   RECORD - this process's ledger: its header, and records appended to it
 *   MAKE - files and directories, each recorded before it is made
 *   SLOT - the files and the scratch directory that a slot keeps for its requests
 *   READ - opening a ledger, its header, its `sent` mark
 *   UNDO - one record, and all records of a file, newest first
 *   SETTLE - a ledger's two files together: undone or kept, and then dropped
 *   STATE - the directories that ledgers lie in, and the lock of a living server
 *   RECOVER - the ledgers that dead servers left, and what these left running
 *   PARK - what could not be undone, in STATE/failed
 *
 * Invariants, which hold between any two lines, as the process may die there:
 *   - Nothing is there that no record names. A record is whole in the ledger before the thing has
 *     its name, so it may name what never came to be, and undoing that is success.
 *   - A ledger begins with its head, in one write of one sector or in one link, before its first
 *     record; and ends with the head that says that there is none. A dot file is nobody's ledger.
 *   - What the slot's head does not say belongs to its ledger does not: neither what is above
 *     `from`, nor a program's file. Both are cleared before the head says so.
 *   - `touched` and `recorded` are set before what they speak of can exist. A signal handler that
 *     runs at any instruction looks once too often, never once too little.
 *   - A record is struck out only when its thing is not there: it has been undone, or could not be
 *     made (record_withdraw). After a death in between it is undone twice, which is success as
 *     well. A `sent` mark is struck when the connection has been cut (cleanup_unsent).
 *   - A ledger is settled under its flock, and unlinked last. Only where its child keeps it and no
 *     record is read (the short way of cleanup_keep) is there no lock. A server's ledgers are
 *     settled by it and its children alone while it holds STATE/SERVER/lock; after its death by
 *     whoever has that.
 *   - Where both files of a ledger are moved or removed, ID.p is first: ID alone would look whole.
 *     What decides about both is noted in ID.p before it moves.
 *   - Of a handler's threads one at a time records and makes. The signal handler, which undoes,
 *     runs only where there is no other thread.
 *   - Only the process that called cleanup_begin records and undoes; a fork of it does neither.
 *
 * BUGS:
 *   - Between the look at an identity and the removal of its name somebody who renames in a loop
 *     can put another thing there. Linux has no call that removes a name if it is this inode.
 *   - Where the file system has neither times of birth nor file handles, another file with the same
 *     inode number counts as the recorded one while the server lives. After a crash such a record
 *     is kept, not guessed.
 *   - A scratch directory whose TMPDIR is not mounted when its ledger is settled counts as gone.
 *
 * What READ, UNDO and SETTLE do for this process's ledger, they may do in a signal handler: static
 * buffers, system calls, no stdio, no memory. There is no HTTP in this file.
 */
#include <hangupd/cleanup.h>

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "again.h"
#include "environment_file.h"
#include "guard.h"
#include "identity.h"
#include "ledger.h"
#include "line.h"
#include "look.h"
#include "machine.h"
#include "pool.h"
#include "processes.h"
#include "reader.h"
#include "record_check.h"
#include "scratch.h"
#include "text.h"
#include "thing.h"
#include "tree.h"
#include "verbs.h"
#include "walk.h"

/* Forward, as an earlier section needs them of a later one.
 * SLOT: the ledger of most requests is one that their slot has.
 * READ: a ledger is opened in one way, whether to be settled or to be used again.
 * UNDO: a record whose thing could not be made is struck out like one that is undone. */
static int slot_open(void);
ASYNC_SAFE static int ledger_find(int dir, const char *name, int flags, struct stat *now);
ASYNC_SAFE static bool strike(int fd, off_t at);
ASYNC_SAFE static int undo_rmtree(const char *path);

/* ---- TELL -------------------------------------------------------------------------- */

/* For a process that has set no other: a test, or the library without a server. */
ASYNC_SAFE static void report_on_stderr(const char *id, const char *what)
{
    char buffer[1024];
    struct text line = TEXT(buffer);
    text_format(&line, "%s %s\n", id, what);
    if (write_all(STDERR_FILENO, buffer, line.length) < 0)
        return; /* there is nobody left to tell */
}

cleanup_report_fn *cleanup_report = report_on_stderr;

ASYNC_SAFE static void tell_nobody(const char *id, const char *what, const char *name)
{
    (void)id, (void)what, (void)name;
}

cleanup_undone_fn *cleanup_undone = tell_nobody;

#define REPORT_REASON 192 /* bytes for errno's text */
#define REPORT_PART 256   /* and for what of a tree would not go */

/* Returns ERROR in words, as strerror(3) does; that may translate, which takes memory. */
ASYNC_SAFE static const char *words_of(int error)
{
    if (error == EBUSY)
        return "Device or resource busy: something is mounted there";
    if (error == ESTALE)
        return "it cannot be told whether this is what was recorded: if it is, remove it by hand, "
               "if not, take this record out of the ledger";
    const char *words = strerrordesc_np(error);
    return words != NULL ? words : "unknown error";
}

/* Report that DOING something to WHAT has failed, at its PART if that is not "", with ERROR in
 * words if that is not 0. */
ASYNC_SAFE static void report_part(const char *id, const char *doing, const char *what,
                                   const char *part, int error)
{
    char buffer[1024];
    struct text t = TEXT(buffer);
    text_format(&t, "%s ", doing);
    t.room -= REPORT_REASON + REPORT_PART; /* WHAT may be 8 KiB: the reason is not cut */
    text_add(&t, what);
    t.room += REPORT_PART;
    if (part[0] != '\0')
        text_format(&t, ": %s", part);
    t.room += REPORT_REASON;
    if (error != 0)
        text_format(&t, ": %s", words_of(error));
    cleanup_report(id, text_end(&t));
}

ASYNC_SAFE static void report(const char *id, const char *doing, const char *what, int error)
{
    report_part(id, doing, what, "", error);
}

/* Returns -1 with ERROR as errno. */
ASYNC_SAFE static int fail(int error)
{
    errno = error;
    return -1;
}

/* ---- RECORD ------------------------------------------------------------------------ */

/* Returns the user that this server's files belong to. It is asked for once, by the server when it
 * makes its directory: a handler may change its ids afterwards. */
ASYNC_SAFE static uid_t own_uid(void)
{
    static uid_t uid;
    static bool known;
    if (!known)
        uid = geteuid();
    known = true;
    return uid;
}

/* What the program's file of a ledger starts with, and is while nothing is recorded in it. */
#define PROGRAM_HEAD                                                                               \
    LEDGER_MAGIC "of a program; it counts if the ledger of this name without .p says so\n"

/* STATE/SERVER of this very process, if it is a server's: for its children to know it by; and a
 * POSIX lock does not bind the process that holds it, so the lock would not keep its own recovery
 * out. */
static struct stat own_server;

/* This process's ledger. cleanup_begin fills it in; before that, pid is 0. */
static struct {
    struct cleanup_owner owner;
    pid_t pid;                     /* the owner's, which a process that it forks is not; 0: none */
    unsigned long long start;      /* when it was born, as /proc says; 0: not known yet */
    int fd, program_fd;            /* -1: not open yet */
    off_t from;                    /* where its records start */
    off_t last;                    /* where the newest record starts */
    off_t seen;                    /* how much of the program's file has been looked at */
    struct stat file;              /* what fd is open on */
    int environment;               /* of its undo commands (environment_file.h); -1: none is kept */
    bool begun;                    /* its head is written */
    bool no_scratch;               /* its program wants none */
    bool lent;                     /* the scratch directory is made, and the request has it */
    volatile sig_atomic_t touched; /* set before a file of the ledger can exist */
    volatile sig_atomic_t recorded; /* set before a record other than `scratch` can exist */
    struct scratch_mark mark;       /* of the scratch directory, if it is the slot's */
    char name[CLEANUP_ID_SIZE];     /* of its files */
    char scratch[PATH_MAX];         /* what the head says; "": none */
} ledger;

void cleanup_slot_name(char name[CLEANUP_ID_SIZE], unsigned slot)
{
    struct text t = {.at = name, .room = CLEANUP_ID_SIZE};
    text_format(&t, LEDGER_SLOT_NAME "%u", slot);
}

void cleanup_begin(const struct cleanup_owner *owner)
{
    boot_id_read();
    ledger.owner = *owner;
    ledger.fd = ledger.program_fd = -1;
    ledger.from = LEDGER_HEAD_SIZE;
    ledger.environment = -1;
    ledger.begun = ledger.no_scratch = ledger.lent = false;
    ledger.touched = ledger.recorded = 0;
    ledger.mark = (struct scratch_mark){0};
    ledger.scratch[0] = '\0';
    places_told_forget();
    if (owner->slot != 0)
        cleanup_slot_name(ledger.name, owner->slot - 1);
    else
        snprintf(ledger.name, sizeof ledger.name, "%s", owner->id);
    /* A process that was born within this tick knows its time of birth; it need not read /proc,
     * which takes longer than all else here. */
    ledger.start = clock_ticks() == owner->forked ? owner->forked : 0;
    ledger.pid = owner->pid != 0 ? owner->pid : getpid();
}

void cleanup_want_scratch(bool wanted)
{
    ledger.no_scratch = !wanted;
}

void cleanup_use_environment(unsigned number)
{
    ledger.environment = (int)number;
}

ASYNC_SAFE bool cleanup_is_owner(void)
{
    return ledger.pid != 0 && ledger.pid == getpid();
}

ASYNC_SAFE bool cleanup_pending(void)
{
    return ledger.touched != 0 && cleanup_is_owner();
}

/* Returns true if the program's file FD has nothing but its first line. Its length does not tell:
 * the program may have written over it, or cut it. A file that cannot be read may hold anything. */
ASYNC_SAFE static bool program_is_untouched(int fd)
{
    char now[sizeof PROGRAM_HEAD];
    return pread(fd, now, sizeof now, 0) == sizeof now - 1 &&
           memcmp(now, PROGRAM_HEAD, sizeof now - 1) == 0;
}

/* Returns true if the program has recorded something, or may have. */
ASYNC_SAFE static bool program_has_records(void)
{
    return ledger.program_fd >= 0 && !program_is_untouched(ledger.program_fd);
}

ASYNC_SAFE bool cleanup_has_records(void)
{
    return cleanup_pending() && (ledger.recorded != 0 || program_has_records());
}

int cleanup_append(int fd, const char *verb, const char *argument, bool sync)
{
    struct line line;
    enum verb known = verb_find(verb, strlen(verb));
    if (known == VERB_UNKNOWN)
        return fail(EINVAL);
    return line_compose(&line, known, NULL, argument) < 0 ? -1 : line_append(fd, &line, sync);
}

/* Write the head to T, which has room for it and a NUL. The title comes from a client: it is cut to
 * what is left, and has no newline. */
static void head_write(struct text *t)
{
    struct process self = {0};
    if (ledger.start == 0 && process_read(ledger.pid, &self))
        ledger.start = self.start;
    text_format(t, LEDGER_MAGIC "id=%s from=", ledger.owner.id);
    text_number(t, (unsigned long long)ledger.from, 10);
    text_format(t, ledger.environment >= 0 ? " program=%d env=%d" : " program=%d",
                ledger.program_fd >= 0, ledger.environment);
    if (ledger.owner.client != NULL)
        text_format(t, " client=%s", ledger.owner.client);
    text_format(t, " pid=%d start=%llu boot=%s%s%s ", ledger.pid, ledger.start, boot_id,
                own_node[0] != '\0' ? " node=" : "", own_node);
    size_t scratch =
        ledger.scratch[0] != '\0' ? strlen("scratch ") + strlen(ledger.scratch) + 1 : 0;
    size_t room = t->length + scratch + 1 < LEDGER_HEAD_SIZE ? LEDGER_HEAD_SIZE - scratch - 1 : 0;
    for (const char *s = ledger.owner.title; *s != '\0' && t->length < room; s++)
        text_char(t, *s == '\n' ? ' ' : *s);
    text_char(t, '\n');
    if (scratch > 0) {
        text_add(t, "scratch ");
        text_add(t, ledger.scratch);
        text_char(t, '\n');
    }
}

/* Fill the head T up with a comment, or, for a single byte, an empty line. */
ASYNC_SAFE static void head_fill(struct text *t)
{
    if (t->length < LEDGER_HEAD_SIZE - 1)
        text_char(t, '#');
    while (t->length < LEDGER_HEAD_SIZE - 1)
        text_char(t, ' ');
    if (t->length < LEDGER_HEAD_SIZE)
        text_char(t, '\n');
}

/* Write the head T over that of the open file FD. Returns false, with errno, if that failed. */
ASYNC_SAFE static bool head_put(int fd, struct text *t)
{
    ssize_t n;
    head_fill(t);
    do
        n = pwrite(fd, t->at, t->length, 0);
    while (n < 0 && errno == EINTR);
    return n == LEDGER_HEAD_SIZE;
}

/* Link the nameless file FD as NAME in DIR. This goes through /proc because linkat with
 * AT_EMPTY_PATH needs CAP_DAC_READ_SEARCH. */
static int link_nameless(int fd, int dir, const char *name)
{
    char path[32];
    struct text t = TEXT(path);
    return linkat(AT_FDCWD, text_format(&t, "/proc/self/fd/%d", fd), dir, name, AT_SYMLINK_FOLLOW);
}

/* Returns the name that the file NAME has until its header is whole, on a file system without
 * O_TMPFILE: a dot file is never taken for a ledger. */
ASYNC_SAFE static const char *partial_name(char partial[CLEANUP_ID_SIZE + 8], const char *name)
{
    struct text t = {.at = partial, .room = CLEANUP_ID_SIZE + 8};
    return text_format(&t, ".%s", name);
}

/* Make the file NAME in the server's directory, with its first lines HEAD, in one step. Returns a
 * descriptor on it, with FLAGS, or -1 with errno. */
static int ledger_make(const char *name, const struct text *head, int flags)
{
    char partial[CLEANUP_ID_SIZE + 8];
    partial_name(partial, name);

    /* O_DSYNC, not only fdatasync: a program appends through this descriptor, too. */
    flags |= O_RDWR | O_CLOEXEC | (ledger.owner.sync ? O_DSYNC : 0);
    int dir = ledger.owner.dir;
    int fd = openat(dir, ".", O_TMPFILE | flags, 0600);
    bool nameless = fd >= 0;
    if (!nameless)
        (void)unlinkat(dir, partial, 0); /* the slot's last child may have died just here */
    if (!nameless)
        fd = openat(dir, partial, O_CREAT | O_EXCL | O_NOFOLLOW | flags, 0600);
    if (fd < 0)
        return -1;
    /* Its header takes the file's first block: a full disk is found now, while a refusal costs
     * nothing, and the first records have their room. */
    if (write_all(fd, head->at, head->length) < 0 || (ledger.owner.sync && fdatasync(fd) < 0))
        goto fail;
    if (nameless ? link_nameless(fd, dir, name) < 0 : renameat(dir, partial, dir, name) < 0)
        goto fail;
    if (ledger.owner.sync && fsync(dir) < 0)
        goto fail;
    return fd;
fail:
    if (!nameless)
        unlinkat(dir, partial, 0);
    close_keep_errno(fd);
    return -1;
}

/* Open the own file of this process's slot, if it has one that is not open yet. Returns -1 with
 * errno if there is one that cannot be used. */
static int own_open(void)
{
    if (ledger.fd < 0 && ledger.owner.slot != 0)
        ledger.fd = slot_open();
    else
        return 0;
    return ledger.fd >= 0 || errno == ENOENT ? 0 : -1;
}

/* Returns true if the descriptors of STATE/SERVER and of the ledger, if they are open, are still
 * that, and the handler's files are not taken for them. */
ASYNC_SAFE static bool descriptors_are_ours(void)
{
    return (own_server.st_ino == 0 || guard_is_open(ledger.owner.dir, &own_server)) &&
           (ledger.fd < 0 || guard_is_open(ledger.fd, &ledger.file));
}

/* Begin this process's ledger by its head, or write that anew. Most requests for C handlers record
 * nothing, and never come here. */
static int ledger_begin(void)
{
    char bytes[LEDGER_HEAD_SIZE + 1];
    struct text head = TEXT(bytes);
    if (!cleanup_is_owner())
        return fail(EPERM);
    if (ledger.program_fd < 0 && !descriptors_are_ours()) /* a program's: no handler has run yet */
        return fail(EBADF);
    uid_t self = guard_become(own_uid());
    if (own_open() == 0) {
        head_write(&head);
        ledger.touched = 1;
        if (ledger.fd < 0) {
            head_fill(&head);
            ledger.fd = ledger_make(ledger.name, &head, 0);
            ledger.begun = ledger.fd >= 0 && fstat(ledger.fd, &ledger.file) == 0;
        } else {
            ledger.begun = head_put(ledger.fd, &head);
        }
    }
    int saved = errno;
    guard_become(self);
    errno = saved;
    return ledger.begun ? 0 : -1;
}

/* Record VERB, with ID if that is not NULL, and ARGUMENT. Returns 0 once it is in the ledger, which
 * is when the thing may be made; or -1 with errno. */
static int record_add(enum verb verb, const struct identity *id, const char *argument)
{
    struct line line;
    if (line_compose(&line, verb, id, argument) < 0)
        return -1;
    if (!cleanup_is_owner())
        return fail(EPERM);
    if (!ledger.begun && ledger_begin() < 0)
        return -1;
    if (!guard_is_open(ledger.fd, &ledger.file))
        return fail(EBADF);
    if (verb != VERB_SCRATCH)
        ledger.recorded = 1;
    if (verbs[verb].undo == UNDO_FILE || verbs[verb].undo == UNDO_TREE)
        place_tell(&line.in, argument);
    ledger.last = lseek(ledger.fd, 0, SEEK_END) + (off_t)line.in.length;
    if (line_append(ledger.fd, &line, ledger.owner.sync) == 0)
        return 0;
    places_told_forget(); /* the line about the directory may not be there */
    return -1;
}

/* Strike the newest record out: what it names was not made after all. If it stayed, its undo could
 * fail for the same reason, say a directory that cannot be searched, and would be reported. */
static void record_withdraw(void)
{
    int saved = errno;
    (void)strike(ledger.fd, ledger.last); /* if this fails, its undo finds that nothing is there */
    errno = saved;
}

/* The same as record_add, for a handler, which may have threads. */
static int record_guarded(enum verb verb, const char *argument)
{
    if (!cleanup_is_owner())
        return fail(EPERM);
    int cancel = guard_take();
    int added = record_add(verb, NULL, argument);
    guard_give(cancel);
    return added;
}

void cleanup_hold_threads(void)
{
    (void)guard_take();
}

int cleanup_sent(uint64_t n)
{
    char digits[24];
    struct text t = TEXT(digits);
    return record_add(VERB_SENT, NULL, text_format(&t, "%llu", (unsigned long long)n));
}

int cleanup_commit(void)
{
    return record_guarded(VERB_COMMIT, "");
}

/* ---- MAKE -------------------------------------------------------------------------- */

/* Where a thing is to be made. */
struct place {
    char path[PATH_MAX];    /* absolute */
    char dir[PATH_MAX];     /* the directory that it is in, with a slash at its end */
    char private[PATH_MAX]; /* an unguessable name beside it, for the time before it has its own */
};

int cleanup_absolute(const char *path, char *full)
{
    struct text t = {.at = full, .room = PATH_MAX};
    if (path == NULL || *path == '\0' || strchr(path, '\n') != NULL)
        return fail(EINVAL);
    if (*path != '/') {
        if (getcwd(full, PATH_MAX) == NULL)
            return -1;
        if (strchr(full, '\n') != NULL)
            return fail(EINVAL);
        t.length = strlen(full);
        text_char(&t, '/');
    }
    if (t.length + strlen(path) >= PATH_MAX)
        return fail(ENAMETOOLONG);
    text_add(&t, path);
    text_end(&t);
    return 0;
}

static int place_find(const char *path, struct place *p)
{
    char hex[HEX_SIZE];
    if (cleanup_absolute(path, p->path) < 0 || random_hex(hex) < 0)
        return -1;
    size_t length = strlen(p->path);
    while (length > 1 && p->path[length - 1] == '/') /* mkdir(2) takes "name/" too */
        p->path[--length] = '\0';
    size_t directory = (size_t)(strrchr(p->path, '/') - p->path) + 1;
    struct text d = TEXT(p->dir), q = TEXT(p->private);
    text_bytes(&d, p->path, directory);
    text_format(&q, "%s.hangupd-%s", text_end(&d), hex);
    return q.length + 1 < q.room ? 0 : fail(ENAMETOOLONG);
}

/* Returns true, with EEXIST, if what must be new is there already. The step that makes it finds
 * that out, too; but to look first spares a record of what was never made, and the undo of that. */
static bool is_taken(const struct place *p)
{
    struct stat there;
    errno = EEXIST;
    return lstat(p->path, &there) == 0;
}

/* What could not be made last, by this thread, and why. */
static _Thread_local struct {
    char path[PATH_MAX];
    int error;
} unmade;

const char *cleanup_unmade(int error)
{
    return error != 0 && unmade.error == error ? unmade.path : NULL;
}

/* Returns RESULT; if that is -1, PATH is what could not be made. */
static int noted(int result, const char *path)
{
    if (result >= 0 && unmade.error != 0)
        unmade.error = 0;
    if (result < 0) {
        unmade.error = errno;
        snprintf(unmade.path, sizeof unmade.path, "%s", path != NULL ? path : "");
    }
    return result;
}

/* Rename FROM to TO without replacing anything, also where the file system has no RENAME_NOREPLACE.
 * Returns 0, or -1 with errno. */
static int rename_new(const char *from, const char *to, bool directory)
{
    struct stat there;
    if (renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_NOREPLACE) == 0)
        return 0;
    if (errno != EINVAL && errno != ENOSYS && errno != EOPNOTSUPP)
        return -1;
    if (!directory)
        return link(from, to) < 0 ? -1 : unlink(from);
    /* The look and the rename are two steps; what can slip in between and be replaced is an
     * empty directory. */
    if (lstat(to, &there) == 0)
        return fail(EEXIST);
    return rename(from, to);
}

/* Give the nameless file FD its name. Its inode is known before it has a name, so the record can
 * say which file is meant: what a neighbour puts there first, or later, is never removed. */
static int publish_nameless(int fd, const struct place *p, bool overwrite)
{
    struct identity id;
    if (identify(fd, "", AT_EMPTY_PATH, &id) < 0 || record_add(VERB_UNLINK_IF, &id, p->path) < 0)
        return -1;
    if (link_nameless(fd, AT_FDCWD, p->path) == 0)
        return 0;
    if (errno != EEXIST || !overwrite) {
        record_withdraw();
        return -1;
    }
    /* linkat never replaces: take a private name first, then rename over what is there. */
    if (record_add(VERB_UNLINK_IF, &id, p->private) < 0 ||
        link_nameless(fd, AT_FDCWD, p->private) < 0)
        return -1;
    if (rename(p->private, p->path) == 0)
        return 0;
    int saved = errno;
    unlink(p->private);
    errno = saved;
    return -1;
}

/* Make a file without O_TMPFILE. Its inode is known only when it has a name, so its first name is a
 * private one, which can be recorded, and removed, by name alone: it is nobody else's. */
static int create_by_name(const struct place *p, bool overwrite, mode_t mode)
{
    struct identity id;
    if (record_add(VERB_UNLINK, NULL, p->private) < 0)
        return -1;
    int fd = open(p->private, O_CREAT | O_EXCL | O_RDWR | O_NOFOLLOW | O_CLOEXEC, mode);
    if (fd < 0) {
        record_withdraw();
        return -1;
    }
    if (identify(fd, "", AT_EMPTY_PATH, &id) == 0 &&
        record_add(VERB_UNLINK_IF, &id, p->path) == 0 &&
        (overwrite ? rename(p->private, p->path) : rename_new(p->private, p->path, false)) == 0)
        return fd;
    int saved = errno;
    unlink(p->private);
    close(fd);
    errno = saved;
    return -1;
}

static int create(const char *path, int flags, mode_t mode)
{
    struct place p;
    bool overwrite = (flags & CLEANUP_OVERWRITE) != 0;
    if ((flags & ~CLEANUP_OVERWRITE) != 0)
        return fail(EINVAL);
    if (place_find(path, &p) < 0)
        return -1;
    if (path[strlen(path) - 1] == '/')
        return fail(EISDIR);
    if (!overwrite && is_taken(&p))
        return -1;
    int fd = open(p.dir, O_TMPFILE | O_RDWR | O_CLOEXEC, mode);
    if (fd < 0) /* EISDIR: a kernel or file system that does not know O_TMPFILE */
        return errno == EOPNOTSUPP || errno == EISDIR ? create_by_name(&p, overwrite, mode) : -1;
    if (publish_nameless(fd, &p, overwrite) == 0)
        return fd;
    close_keep_errno(fd);
    return -1;
}

/* As in create_by_name, as there are no nameless directories. */
static int make_directory(const char *path, mode_t mode)
{
    struct place p;
    struct identity id;
    if (place_find(path, &p) < 0 || is_taken(&p) || record_add(VERB_RMTREE, NULL, p.private) < 0)
        return -1;
    if (mkdir(p.private, mode) < 0) {
        record_withdraw();
        return -1;
    }
    if (identify(AT_FDCWD, p.private, AT_SYMLINK_NOFOLLOW, &id) == 0 &&
        record_add(VERB_RMTREE_IF, &id, p.path) == 0 && rename_new(p.private, p.path, true) == 0)
        return 0;
    int saved = errno;
    rmdir(p.private);
    errno = saved;
    return -1;
}

/* A thread has its turn until the thing is made: so the newest record is its own, and when the
 * handler has returned nothing is still to come (cleanup_hold_threads). */
int cleanup_create(const char *path, int flags, mode_t mode)
{
    if (!cleanup_is_owner())
        return fail(EPERM);
    int cancel = guard_take();
    int fd = noted(create(path, flags, mode), path);
    guard_give(cancel);
    return fd;
}

int cleanup_mkdir(const char *path, mode_t mode)
{
    if (!cleanup_is_owner())
        return fail(EPERM);
    int cancel = guard_take();
    int made = noted(make_directory(path, mode), path);
    guard_give(cancel);
    return made;
}

static int record_path(enum verb verb, const char *path)
{
    char full[PATH_MAX];
    return cleanup_absolute(path, full) < 0 ? -1 : record_guarded(verb, full);
}

int cleanup_unlink(const char *path)
{
    return record_path(VERB_UNLINK, path);
}

int cleanup_rmtree(const char *path)
{
    return record_path(VERB_RMTREE, path);
}

int cleanup_run(const char *command)
{
    if (command == NULL)
        return fail(EINVAL);
    return record_guarded(VERB_RUN, command);
}

/* ---- SLOT -------------------------------------------------------------------------- */

/* A slot keeps its two files and its scratch directory. A request writes its head over that of the
 * last one, and at its end a head that says that there is no ledger: nothing is made, renamed or
 * removed while all goes well. What outlives its request is renamed to the request's id
 * (cleanup_move), and the slot makes new files.
 *
 * The reason is the file system. ext4 looks long for an inode that was not deleted a short time
 * ago, and requests that rename in one directory wait for each other. The danger is that one
 * request's program reaches another's records or directory: each step below is against that. */

/* The rooms of a slot's own file: a `sent` mark must always fit into its first block, as the disk
 * may be full by the time of the answer, and the work would be for nothing. */
#define SLOT_BLOCK 4096
#define SLOT_MARK 64

static void scratch_name(char letter)
{
    struct text t = TEXT(ledger.scratch);
    scratch_path(&t, ledger.owner.pool_path, ledger.owner.slot - 1, letter);
}

/* Choose the slot's scratch directory: the last request's if it is as it was made, else a name that
 * nothing has. The slot's children come one after the other, and nobody else makes names there.
 * Without any, ledger.scratch is empty. */
static void scratch_choose(void)
{
    struct scratch_mark *made = &ledger.mark;
    struct stat there;
    scratch_name(made->letter);
    if (scratch_is_still_good(ledger.scratch, own_uid(), made))
        return;
    /* If somebody has cleaned TMPDIR up, another user may have taken the pool's name. */
    if (lstat(ledger.owner.pool_path, &there) < 0 || there.st_mode != (S_IFDIR | 0700) ||
        there.st_uid != own_uid()) {
        ledger.scratch[0] = '\0';
        return;
    }
    if (made->inode != 0)
        (void)undo_rmtree(ledger.scratch); /* somebody has changed it since */
    made->inode = 0;
    for (int letter = 0; letter <= 'Z'; letter = letter == 0 ? 'A' : letter + 1) {
        made->letter = (char)letter;
        scratch_name(made->letter);
        if (lstat(ledger.scratch, &there) < 0 && errno == ENOENT)
            return;
    }
    ledger.scratch[0] = '\0';
}

/* Make the slot's scratch directory, which the head names already, if it is not there. */
static int scratch_make(void)
{
    struct stat now;
    if (ledger.mark.inode != 0)
        return 0;
    if (mkdir(ledger.scratch, 0700) < 0)
        return -1;
    if (lstat(ledger.scratch, &now) == 0)
        ledger.mark = (struct scratch_mark){.letter = ledger.mark.letter,
                                            .fresh = true,
                                            .inode = now.st_ino,
                                            .sec = now.st_ctim.tv_sec,
                                            .nsec = now.st_ctim.tv_nsec};
    return 0;
}

/* Open the slot's own file for a new request, with its records from ledger.from on. Returns -1 with
 * ENOENT if the file must be made. A request that wants no scratch directory names the kept one in
 * its head all the same: else nothing would speak of it, if it ended badly. */
static int slot_open(void)
{
    struct stat now;
    int dir = ledger.owner.dir;
    int fd = ledger_find(dir, ledger.name, O_RDWR | (ledger.owner.sync ? O_DSYNC : 0), &now);
    if (fd < 0)
        return errno == EPERM && unlinkat(dir, ledger.name, 0) == 0 ? fail(ENOENT) : -1;
    struct header was = header_read(fd);
    if (was.unread) { /* it may be a ledger */
        close_keep_errno(fd);
        return -1;
    }
    bool idle = was.idle;
    bool fits = idle && now.st_size <= SLOT_BLOCK - SLOT_MARK;
    if (idle && (fits || ftruncate(fd, LEDGER_HEAD_SIZE) == 0)) {
        ledger.from = fits ? now.st_size : LEDGER_HEAD_SIZE;
        ledger.mark = was.mark;
        if (ledger.mark.inode != 0 && ledger.owner.pool_path != NULL)
            scratch_choose();
        if (ledger.mark.inode == 0) /* nothing was kept: there is none until it is asked for */
            ledger.scratch[0] = '\0';
        ledger.file = now;
        return fd;
    }
    close(fd);
    /* If a request that was never settled has left it, it goes on under the name of that. */
    if (was.valid ? !cleanup_move(dir, ledger.name, dir, was.id)
                  : unlinkat(dir, ledger.name, 0) < 0)
        return -1;
    return fail(ENOENT);
}

/* Open the program's file NAME of the slot, without the lines of the last request. Whoever still
 * has it open, as its descriptor was passed on, would write into this request's ledger: that nobody
 * has is what a write lease says (fcntl(2), F_SETLEASE). Else it is left to them, and a new file is
 * made: -1 with ENOENT. Who opens it meanwhile breaks the lease, and of that SIGURG tells, which is
 * ignored, and not SIGIO, which kills. */
static int slot_open_program(const char *name)
{
    struct stat now;
    int dir = ledger.owner.dir;
    int fd = ledger_find(dir, name, O_RDWR | O_APPEND | (ledger.owner.sync ? O_DSYNC : 0), &now);
    if (fd < 0)
        return errno == EPERM && unlinkat(dir, name, 0) == 0 ? fail(ENOENT) : -1;
    if (fcntl(fd, F_SETSIG, SIGURG) == 0 && fcntl(fd, F_SETLEASE, F_WRLCK) == 0 &&
        fcntl(fd, F_SETLEASE, F_UNLCK) == 0 &&
        (now.st_size < (off_t)sizeof PROGRAM_HEAD || ftruncate(fd, sizeof PROGRAM_HEAD - 1) == 0) &&
        program_is_untouched(fd))
        return fd;
    close(fd);
    return unlinkat(dir, name, 0) < 0 && errno != ENOENT ? -1 : fail(ENOENT);
}

/* Write the head that says that there is no ledger in the slot's own file FD. */
ASYNC_SAFE static bool slot_drop(int fd, const struct scratch_mark *made)
{
    char bytes[LEDGER_HEAD_SIZE + 1];
    struct text t = TEXT(bytes);
    text_format(&t, IDLE_MAGIC "letter=%u fresh=%u inode=%llu sec=%lld nsec=%lld\n",
                (unsigned char)made->letter, made->fresh, (unsigned long long)made->inode,
                (long long)made->sec, (long long)made->nsec);
    text_add(&t, "# The lines below are of requests that have ended: nothing is to be undone.\n");
    return head_put(fd, &t);
}

/* Make a scratch directory in TMPDIR: for a server without a pool, or whose pool has been removed
 * by whoever cleans TMPDIR up. */
static int scratch_make_elsewhere(void)
{
    char hex[HEX_SIZE], path[PATH_MAX];
    struct stat there;
    struct text t = TEXT(path);
    if (random_hex(hex) < 0)
        return -1;
    text_add(&t, ledger.owner.tmpdir);
    text_add(&t, POOL_PREFIX);
    text_bytes(&t, hex, 8);
    text_end(&t);
    if (ledger.mark.inode != 0)
        (void)undo_rmtree(ledger.scratch);
    ledger.mark = (struct scratch_mark){0};
    if (t.length + 1 >= t.room)
        return fail(ENAMETOOLONG);
    if (lstat(path, &there) == 0) /* the record would be of somebody else's */
        return fail(EEXIST);
    if (record_add(VERB_SCRATCH, NULL, path) < 0)
        return -1;
    memcpy(ledger.scratch, path, t.length + 1); /* only now, or the head would record it as well */
    if (mkdir(ledger.scratch, 0700) == 0)
        return 0;
    record_withdraw();
    return -1;
}

/* Begin the ledger with the slot's scratch directory, if it has one. */
static bool begin_with_scratch(void)
{
    if (ledger.lent)
        return ledger_begin() == 0;
    if (ledger.no_scratch || ledger.owner.slot == 0 || ledger.owner.pool_path == NULL ||
        own_open() < 0)
        return false;
    if (ledger.begun || ledger.mark.inode == 0) /* else slot_open has, just now */
        scratch_choose();
    ledger.lent = ledger.scratch[0] != '\0' && ledger_begin() == 0 && scratch_make() == 0;
    if (!ledger.lent && ledger.mark.inode == 0) /* a kept one stays in the head */
        ledger.scratch[0] = '\0';
    return ledger.lent;
}

const char *cleanup_tempdir(void)
{
    if (!cleanup_is_owner()) {
        errno = EPERM;
        return NULL;
    }
    int cancel = guard_take();
    if (!ledger.lent && !begin_with_scratch())
        ledger.lent = scratch_make_elsewhere() == 0;
    if (!ledger.lent)
        ledger.scratch[0] = '\0';
    guard_give(cancel);
    return ledger.lent ? ledger.scratch : NULL;
}

int cleanup_open_for_program(void)
{
    char name[LEDGER_NAME_SIZE];
    if (!cleanup_is_owner())
        return fail(EPERM);
    if (ledger.program_fd >= 0)
        return ledger.program_fd;
    ledger_program_name(name, ledger.name);
    /* First the own file: if it has a ledger that was left here, the program's goes with it. */
    if (own_open() < 0)
        return -1;
    errno = ENOENT;
    int fd = ledger.owner.slot != 0 ? slot_open_program(name) : -1;
    if (fd < 0 && errno == ENOENT) {
        char line[] = PROGRAM_HEAD;
        struct text head = {.at = line, .length = sizeof line - 1, .room = sizeof line};
        fd = ledger_make(name, &head, O_APPEND);
    }
    if (fd < 0)
        return -1;
    ledger.program_fd = fd;
    ledger.seen = sizeof PROGRAM_HEAD - 1;
    /* The head says that there is a program's file, so it comes after that. */
    if (!begin_with_scratch() && ledger_begin() < 0)
        return -1;
    return fd;
}

/* Say in the own file in which directory the program's record LINE lies. */
static bool tell_place_of(char *line)
{
    struct line in = {.text = TEXT(in.bytes), .in = TEXT(in.in_bytes)};
    struct record r = record_parse(line);
    enum verb_undo how = verbs[r.verb].undo;
    if (r.error == 0 && (how == UNDO_FILE || how == UNDO_TREE))
        place_tell(&in.text, r.argument);
    if (in.text.length == 0)
        return true;
    in.text.length--; /* its newline is appended with it */
    if (line_append(ledger.fd, &in, ledger.owner.sync) == 0)
        return true;
    places_told_forget();
    return false;
}

void cleanup_look_at_program(void)
{
    static char lines[2 * CLEANUP_RECORD_MAX + 1];
    struct stat now;
    if (!cleanup_is_owner() || ledger.program_fd < 0 || fstat(ledger.program_fd, &now) < 0)
        return;
    while (ledger.seen < now.st_size) {
        ssize_t n = pread(ledger.program_fd, lines, sizeof lines - 1, ledger.seen);
        char *at = lines, *end;
        if (n <= 0)
            return;
        lines[n] = '\0';
        for (; (end = memchr(at, '\n', (size_t)(lines + n - at))) != NULL; at = end + 1) {
            *end = '\0';
            if (!tell_place_of(at))
                return; /* a full disk: the next look tries it again */
            ledger.seen += end + 1 - at;
        }
        if (at == lines && n < (ssize_t)sizeof lines - 1)
            return; /* the program is still at this line */
        if (at == lines)
            ledger.seen += n; /* nobody obeys a line of this length */
    }
}

/* ---- READ -------------------------------------------------------------------------- */

/* Begin to read the open ledger FD with R. Returns false, with errno, if it cannot be looked at. */
ASYNC_SAFE static bool read_from_end(struct reader *r, int fd)
{
    struct stat now;
    struct header h = header_read(fd);
    if (h.unread || fstat(fd, &now) < 0)
        return false;
    reader_begin(r, fd, now.st_size, h.from);
    return true;
}

/* Open the ledger NAME, which must be a plain file of this user's own, with no other name. Anything
 * else was put there by somebody else, at a time when STATE was open to others, so that it be
 * obeyed. Returns a descriptor, or -1: with ENOENT if there is none, with EPERM if it is no ledger
 * of ours. */
ASYNC_SAFE static int ledger_find(int dir, const char *name, int flags, struct stat *now)
{
    struct stat here = {0};
    now = now != NULL ? now : &here;
    int fd = openat(dir, name, flags | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0) {
        if (errno == ELOOP || errno == EISDIR || errno == ENXIO)
            errno = EPERM;
        return -1;
    }
    if (fstat(fd, now) == 0) {
        if (S_ISREG(now->st_mode) && now->st_uid == own_uid() && now->st_nlink <= 1)
            return fd;
        errno = EPERM;
    }
    close_keep_errno(fd);
    return -1;
}

/* Report that ledger_find has failed, by errno, in what was to be done with it, DOING. */
ASYNC_SAFE static void report_unopened(const char *id, const char *doing, const char *name)
{
    if (errno == EPERM)
        report(id, "refused, as it is not a plain file of this user's own: the ledger", name, 0);
    else
        report(id, doing, name, errno);
}

/* Read the header of the file NAME in DIR. It is not valid if there is no such ledger. */
static struct header header_of(int dir, const char *name)
{
    struct header h = {0};
    int fd = ledger_find(dir, name, O_RDONLY, NULL);
    if (fd >= 0) {
        h = header_read(fd);
        close_keep_errno(fd);
    } else {
        h.unread = errno != ENOENT && errno != EPERM;
    }
    return h;
}

/* Read the header of the ledger ID, under that name or in a slot. */
static struct header header_find(int dir, const char *id)
{
    _Alignas(struct dirent64) char entries[WALK_SIZE];
    struct header h = header_of(dir, id);
    bool found = h.valid;
    struct walk w = walk_open(dir, ".", entries, sizeof entries);
    for (const struct dirent64 *e; !found && (e = walk_next(&w)) != NULL;)
        if (ledger_is_slot_name(e->d_name)) {
            h = header_of(dir, e->d_name);
            found = strcmp(h.id, id) == 0;
        }
    (void)walk_close(&w);
    return found ? h : (struct header){0};
}

bool cleanup_exists(int dir, const char *id)
{
    char program[LEDGER_NAME_SIZE];
    return name_is_there(dir, id) || name_is_there(dir, ledger_program_name(program, id)) ||
           header_find(dir, id).valid;
}

/* Find the newest `sent` mark of the ledger NAME that is not struck out, and if STRIKE_OUT is true,
 * strike it out. While it is there only the server's own file is asked: a program cannot say that
 * its answer has arrived. Returns 1 with its number in *N, 0 if there is none, or -1 with errno. */
ASYNC_SAFE static int sent_find(int dir, const char *name, bool strike_out, uint64_t *n)
{
    static struct reader reader; /* not undo_pass's: a `run` may ask in the midst of that */
    char program[LEDGER_NAME_SIZE];
    int flags = strike_out ? O_RDWR : O_RDONLY;
    int fd = ledger_find(dir, name, flags, NULL);
    if (fd < 0 && errno == ENOENT) /* moved by halves: see note_sent */
        fd = ledger_find(dir, ledger_program_name(program, name), flags, NULL);
    if (fd < 0)
        return errno == ENOENT ? 0 : -1;
    int found = -1;
    bool sent = false;
    if (read_from_end(&reader, fd))
        while (!sent && (found = reader_next(&reader)) > 0) {
            struct record r = record_parse(reader.line);
            sent = reader.whole && r.verb == VERB_SENT && r.error == 0;
            *n = sent ? r.number : 0;
        }
    if (sent && strike_out && !strike(fd, reader.start))
        found = -1;
    close_keep_errno(fd);
    return found;
}

void cleanup_check_program(cleanup_tell_fn *tell)
{
    static struct check check = {.checked = sizeof PROGRAM_HEAD - 1};
    if (ledger.program_fd >= 0)
        check_lines(&check, ledger.program_fd, tell);
}

int cleanup_was_sent(int dir, const char *name, uint64_t *n)
{
    return sent_find(dir, name, false, n);
}

/* ---- UNDO -------------------------------------------------------------------------- */

ASYNC_SAFE static bool remove_name(int dir, const char *name, int flags)
{
    return unlinkat(dir, name, flags) == 0 || errno == ENOENT;
}

/* Remove the tree PATH. Returns 0 if nothing is there, or was ever, else -1 with errno. */
ASYNC_SAFE static int undo_rmtree(const char *path)
{
    struct spot at;
    if (spot_open(path, &at) < 0)
        return is_not_there(errno) ? 0 : -1;
    int done = remove_tree(&at);
    close_keep_errno(at.dir);
    return done;
}

/* Remove a scratch directory. A parked ledger's may outlive its server, so the pool is removed with
 * the last one in it, if there is no link to it any more. */
ASYNC_SAFE static int undo_scratch(const struct cleanup_settling *how, const char *scratch)
{
    char buffer[PATH_MAX], link[] = "../0123456789abcdef/" POOL;
    struct spot pool, leaf = {.name = strrchr(scratch, '/') + 1};
    struct text t = TEXT(buffer);
    text_bytes(&t, scratch, (size_t)(leaf.name - scratch - 1));
    const char *path = text_end(&t);
    if (!is_pool_of(path, how->id))
        return undo_rmtree(scratch);
    leaf.dir = pool_open(path, own_uid(), &pool);
    if (leaf.dir < 0)
        return errno == ENOENT ? 0 : -1;
    int done = remove_tree(&leaf);
    close_keep_errno(leaf.dir);
    memcpy(link + 3, how->id, CLEANUP_TOKEN_SIZE - 1);
    if (done == 0 && !name_is_there(how->dir, link) && errno == ENOENT)
        (void)unlinkat(pool.dir, pool.name, AT_REMOVEDIR); /* fails while another's is in it */
    close_keep_errno(pool.dir);
    return done;
}

/* What is known of the ledger that is being undone. */
struct settlement {
    const struct cleanup_settling *how;
    int fd;
    struct reader *reader;
    off_t from; /* where the records start, beside those in the head */
    bool kept;  /* a `commit` is below: of what is above, only scratch directories go */
    struct evidence evidence;
    int environment; /* of its undo commands, as the own file's head has it */
    bool failed, run_left;
    bool refused;           /* a line was no record */
    bool later;             /* of a record that failed it cannot be told yet whether it is undone */
    bool look;              /* this pass is for second looks, and for nothing else */
    unsigned long long due; /* when the last of the second looks is; 0: there are none */
    off_t grown;            /* by our own records of them, in this pass */
};

/* Cut off the slashes at the end of the record's argument. With one of them a name that has become
 * a link would be followed, O_NOFOLLOW or not; and that of a file would seem not to be there. */
ASYNC_SAFE static void cut_slashes(struct record *r)
{
    /* The root stays "/", but no identity is enough to remove it: that argument becomes empty. */
    size_t least = verbs[r->verb].argument == ARGUMENT_FILEID_PATH && r->error == 0 ? 0 : 1;
    for (size_t n = strlen(r->argument); n > least && r->argument[n - 1] == '/'; n--)
        r->argument[n - 1] = '\0';
    if (r->argument[0] == '\0' && r->error == 0)
        r->error = EINVAL;
}

/* Undo the record R of a file or a tree. Returns as undo_record does. */
ASYNC_SAFE static int undo_made(struct settlement *s, const struct record *r)
{
    int result = undo_thing(&s->evidence, r);
    if (result == 0 && spot_removed != 0)
        cleanup_undone(s->how->id, "removed", r->argument);
    if (result <= 0)
        return result < 0 ? -1 : 1;
    s->later = true;
    report_part(s->how->id, "could not undo yet:", s->reader->line,
                "its directory is not the one that was recorded, or not there: is a disk not "
                "mounted, or has it been moved?",
                0);
    return fail(0);
}

static int command_environment = -1;

int cleanup_environment(void)
{
    return command_environment;
}

/* Run the command of a record in the environment that was kept for it, for this
 * LOOK. Returns as undo_record does. */
ASYNC_SAFE static int undo_run(struct settlement *s, const char *command, int look)
{
    const struct cleanup_settling *how = s->how;
    s->run_left = how->run == NULL;
    if (s->run_left)
        return 0;
    command_environment = environment_open(how->dir, how->id, s->environment);
    if (command_environment < 0 && (errno != ENOENT || s->environment >= 0)) {
        report(how->id, "could not open the environment that was kept for: run", command, errno);
        return fail(0); /* told */
    }
    int result = how->run(how->id, command, look);
    if (command_environment >= 0)
        close_keep_errno(command_environment);
    s->later = s->later || result > 0;
    if (result == 0)
        cleanup_undone(s->how->id, "ran", command);
    return result == 0 ? 1 : result > 0 ? fail(0) : -1;
}

/* Record the second look of R, unless it is too long for that. Returns as undo_record does. */
ASYNC_SAFE static int undo_again_later(struct settlement *s, const struct record *r)
{
    struct line line = {.text = TEXT(line.bytes), .in = TEXT(line.in_bytes)};
    struct text *t = &line.text;
    unsigned long long due = again_due(again_seconds(r, s->how->again_s));
    text_format(t, "again %llu", due);
    if (r->seconds > 0)
        text_format(t, "+%llu", r->seconds);
    text_format(t, " run %s", r->argument);
    if (t->length >= CLEANUP_RECORD_MAX - 1) {
        report(s->how->id, "no room for a second look in the record:", r->argument, 0);
        return 1;
    }
    if (line_append(s->fd, &line, true) < 0)
        return -1;
    s->grown += (off_t)t->length;
    s->due = due > s->due ? due : s->due;
    return 1;
}

/* The first look of a command, which is struck out when the record of the second is there. */
ASYNC_SAFE static int undo_first(struct settlement *s, const struct record *r)
{
    int done = undo_run(s, r->argument, 1);
    bool again = r->seconds > 0 || (s->how->again_s > 0 && again_is_own(r->argument, s->how->id));
    again = again && !s->how->lives_on; /* else this is not the last of the first looks */
    return done > 0 && again ? undo_again_later(s, r) : done;
}

/* The second look: noted in one pass, taken in another when the last is due. After the clock was
 * set back it would wait too long. */
ASYNC_SAFE static int undo_second(struct settlement *s, const struct record *r)
{
    unsigned long long now = (unsigned long long)time(NULL);
    if (!s->look && !s->how->lives_on && r->number > now + again_seconds(r, s->how->again_s) + 1)
        return undo_again_later(s, r);
    if (!s->look) {
        s->due = r->number > s->due ? r->number : s->due;
        return 0;
    }
    int done = undo_run(s, r->argument, 2);
    return done > 0 && r->number > now ? 0 : done;
}

/* Tell that the line that the reader is at is no record, as it is WRONG. No other try will find
 * another line there. Returns 0. */
ASYNC_SAFE static int undo_refuse(struct settlement *s, const char *wrong)
{
    s->refused = true;
    report_part(s->how->id, "could not undo:", s->reader->line, wrong, 0);
    return 0;
}

/* Undo the record that the reader is at. Returns 1 if it is done and can be struck out, 0 if there
 * is nothing to do with it, -1 with errno if it failed. */
ASYNC_SAFE static int undo_record(struct settlement *s)
{
    const struct reader *at = s->reader;
    if (at->line[0] == '#' || at->length == 0)
        return 0;
    if (!at->whole) /* what it names is cut short: it must not be obeyed */
        return s->kept || s->look ? 0 : undo_refuse(s, LINE_NOT_WHOLE);
    struct record r = record_parse(at->line);
    enum verb_undo how = verbs[r.verb].undo;
    if (how == UNDO_FILE || how == UNDO_TREE || how == UNDO_SCRATCH)
        cut_slashes(&r);
    if (how == UNDO_SCRATCH && r.error == 0 && !s->look)
        return undo_scratch(s->how, r.argument) < 0 ? -1 : 1;
    bool second = how == UNDO_AGAIN && r.number > 0;
    if (s->kept || how == UNDO_MARK_SENT || (s->look && !second && how != UNDO_MARK_KEEP))
        return 0;
    if (r.error != 0)
        return undo_refuse(s, record_wrong(&r));
    switch (how) {
    case UNDO_FILE:
    case UNDO_TREE:
        return undo_made(s, &r);
    case UNDO_COMMAND:
        return undo_first(s, &r);
    case UNDO_AGAIN:
        return second ? undo_second(s, &r) : undo_first(s, &r);
    case UNDO_MARK_KEEP:
        s->kept = true;
        break;
    case UNDO_NOTHING:
    case UNDO_PLACE:
    case UNDO_SCRATCH:
    case UNDO_MARK_SENT:
        break; /* dealt with above; no default, so that a new kind must be named here */
    }
    return 0;
}

/* Strike out the record that starts AT, so that it is a comment. FD must not be O_APPEND: on Linux
 * pwrite(2) then appends. One byte is written or not, so no death can leave half of it. */
ASYNC_SAFE static bool strike(int fd, off_t at)
{
    ssize_t n;
    do
        n = pwrite(fd, "#", 1, at);
    while (n < 0 && errno == EINTR);
    return n == 1;
}

/* Undo the first SIZE bytes of the open ledger backwards, once; what is done becomes a comment.
 * After a record that fails it goes on with the older ones. */
ASYNC_SAFE static void undo_pass(struct settlement *s, off_t size)
{
    static struct reader reader;
    int found = 0;
    s->failed = s->later = s->refused = false;
    s->grown = 0;
    s->reader = &reader;
    place_forget();
    reader_begin(&reader, s->fd, size, s->from);
    while (!s->run_left && (found = reader_next(&reader)) > 0) {
        tree_left[0] = '\0';
        int done = undo_record(s);
        if (done < 0) {
            s->failed = true;
            if (errno != 0)
                report_part(s->how->id, "could not undo:", reader.line, tree_left, errno);
        } else if (done > 0 && s->how->lives_on && !s->kept) {
            s->later = true; /* it may be made again */
        } else if (done > 0 && !strike(s->fd, reader.start)) {
            s->failed = true;
            report(s->how->id, "could not strike out:", reader.line, errno);
            /* The next try would remove what the slot's next request has made by this name. */
            if (strncmp(reader.line, "scratch /", 9) == 0)
                (void)mkdir(reader.line + 8, 0700);
        }
    }
    if (found < 0) {
        s->failed = true;
        report(s->how->id, "could not read the ledger", s->how->id, errno);
    }
}

/* ---- SETTLE ------------------------------------------------------------------------ */

/* Open and lock a ledger. If another process settles it that is waited for, and then it may be
 * gone: -1 with ENOENT, as if it had not been there. */
ASYNC_SAFE static int ledger_lock(int dir, const char *name)
{
    struct stat now;
    int fd = ledger_find(dir, name, O_RDWR, NULL);
    if (fd < 0)
        return -1;
    while (flock(fd, LOCK_EX) < 0)
        if (errno != EINTR) {
            close_keep_errno(fd);
            return -1;
        }
    if (fstat(fd, &now) == 0) {
        if (now.st_nlink > 0)
            return fd;
        errno = ENOENT;
    }
    close_keep_errno(fd);
    return -1;
}

/* A ledger that is being settled: its two files, open and locked; -1: not there. */
struct files {
    const char *name;
    char program_name[LEDGER_NAME_SIZE];
    int own, program;
    bool slot;              /* a slot keeps them */
    struct header head;     /* of the own file */
    unsigned long long due; /* when its second looks are; 0: there are none */
    bool look;              /* they are taken now */
};

/* Undo the open FD, one of the ledger's two files, or, if it is KEPT, only remove its scratch
 * directories. */
ASYNC_SAFE static enum cleanup_result settle_file(const struct cleanup_settling *how,
                                                  struct files *f, int fd, bool kept)
{
    const char *name = fd == f->own ? f->name : f->program_name;
    struct header h = fd == f->own ? f->head : header_read(fd);
    if (h.unread) {
        report(how->id, "could not read the ledger", name, errno);
        return CLEANUP_FAILED;
    }
    if (!h.valid)
        report(how->id, "the ledger was overwritten and records may be lost:", name, 0);
    struct settlement s = {.how = how,
                           .fd = fd,
                           .from = h.from,
                           .look = f->look,
                           .environment = f->head.environment,
                           .evidence = {.fds = {f->program, f->own},
                                        .from = {0, f->head.from},
                                        .same_boot = is_this_boot(f->head.valid ? &f->head : &h),
                                        .held = !how->after_crash}};
    struct stat now;
    off_t looked = 0;
    while (!s.run_left) { /* until nothing new appears */
        if (fstat(fd, &now) < 0) {
            s.failed = true;
            report(how->id, "could not look at the ledger", name, errno);
            break;
        }
        if (now.st_size <= looked)
            break;
        looked = now.st_size;
        s.kept = kept;
        undo_pass(&s, looked);
        looked += s.grown;
    }
    f->due = s.due > f->due ? s.due : f->due;
    return s.run_left  ? CLEANUP_RUN_LEFT
           : s.later   ? CLEANUP_LATER
           : s.failed  ? CLEANUP_FAILED
           : s.refused ? CLEANUP_REFUSED
                       : CLEANUP_DONE;
}

/* Open the file NAME of a ledger at *FD and lock it. Returns false, and reports it, if it is there
 * and cannot be opened. */
ASYNC_SAFE static bool file_open(const struct cleanup_settling *how, const char *name, int *fd)
{
    *fd = ledger_lock(how->dir, name);
    if (*fd >= 0 || errno == ENOENT)
        return true;
    report_unopened(how->id, "could not open the ledger", name);
    return false;
}

/* Open the files of a ledger. If the slot's file has no ledger by now, or another request's, it is
 * as if it were not there. Returns false, and reports it, if a file cannot be opened. */
ASYNC_SAFE static bool files_open(const struct cleanup_settling *how, struct files *f)
{
    *f = (struct files){.name = how->name != NULL ? how->name : how->id, .own = -1, .program = -1};
    f->slot = strcmp(f->name, how->id) != 0;
    ledger_program_name(f->program_name, f->name);
    boot_id_read();
    bool opened = file_open(how, f->name, &f->own);
    if (f->own >= 0)
        f->head = header_read(f->own);
    if (f->own >= 0 && f->head.unread) { /* where its records start is not known */
        report(how->id, "could not read the ledger", f->name, errno);
        close(f->own);
        f->own = -1;
        return false;
    }
    if (f->own >= 0 && f->slot && strcmp(f->head.id, how->id) != 0) {
        close(f->own);
        f->own = -1;
    }
    bool has_program = f->own >= 0 ? f->head.program || !f->head.valid : !f->slot;
    return (!has_program || file_open(how, f->program_name, &f->program)) && opened;
}

/* Drop the ledger, of which all is settled: its slot keeps the files, or both are removed. What was
 * not there when it was to be settled has come since, adopted from another directory, and stays.
 * Removed, too, are the dot files that are there if their maker died in ledger_make. */
ASYNC_SAFE static bool files_drop(const struct cleanup_settling *how, const struct files *f,
                                  bool kept)
{
    char partial[CLEANUP_ID_SIZE + 8], environment[ENVIRONMENT_NAME_SIZE];
    const char *names[] = {f->program_name, f->name};
    const int fds[] = {f->program, f->own};
    bool done = true;
    for (int i = 0; i < 2; i++)
        done = (kept || remove_name(how->dir, partial_name(partial, names[i]), 0)) && done &&
               (f->slot || fds[i] < 0 || remove_name(how->dir, names[i], 0));
    if (done && !f->slot && f->own >= 0)
        done = remove_name(how->dir, environment_name(environment, how->id, 0), 0);
    /* First its word that there is no ledger: from then on the program's file counts for nothing. A
     * file in which something was recorded is not for the next program, nor for people, to read. */
    if (f->slot && f->own >= 0)
        done = done && slot_drop(f->own, &(struct scratch_mark){0}) &&
               (f->program < 0 || program_is_untouched(f->program) ||
                remove_name(how->dir, f->program_name, 0));
    if (!done)
        report(how->id, "could not remove the ledger", how->id, errno);
    return done;
}

/* Settle both files, the program's first, as it is newer. Returns the worst of RESULT and theirs.
 */
ASYNC_SAFE static enum cleanup_result settle_files(const struct cleanup_settling *how,
                                                   struct files *f, bool kept,
                                                   enum cleanup_result result)
{
    const int fds[] = {f->program, f->own};
    for (int i = 0; i < 2 && result != CLEANUP_RUN_LEFT; i++) {
        enum cleanup_result each = fds[i] >= 0 ? settle_file(how, f, fds[i], kept) : CLEANUP_DONE;
        result = each > result ? each : result;
    }
    return result;
}

/* Settle a ledger: undo it, or, if it is KEPT, remove its scratch directories; and then drop it. It
 * stays with what could not be undone, and up to the first `run` that must be left to a janitor. */
ASYNC_SAFE static enum cleanup_result settle_ledger(const struct cleanup_settling *how, bool kept)
{
    struct files f;
    enum cleanup_result result = files_open(how, &f) ? CLEANUP_DONE : CLEANUP_FAILED;
    const int fds[] = {f.program, f.own};
    result = settle_files(how, &f, kept, result);
    bool waits = f.due > (unsigned long long)time(NULL);
    f.look = f.due > 0 && (!waits || how->again_now);
    if (f.look && !how->lives_on && result != CLEANUP_RUN_LEFT)
        result = settle_files(how, &f, kept, result);
    if (result == CLEANUP_DONE && how->lives_on && !kept && (f.own >= 0 || f.program >= 0))
        result = CLEANUP_LATER;
    result = waits && result < CLEANUP_AGAIN ? CLEANUP_AGAIN : result;
    if (waits)
        again_note(how->dir, f.own >= 0 ? f.name : f.program_name, f.due);
    if (result == CLEANUP_DONE && !files_drop(how, &f, kept))
        result = CLEANUP_FAILED;
    for (int i = 0; i < 2; i++)
        if (fds[i] >= 0)
            close(fds[i]);
    return result;
}

ASYNC_SAFE int cleanup_unsent(void)
{
    uint64_t n;
    return cleanup_pending() && sent_find(ledger.owner.dir, ledger.name, true, &n) < 0 ? -1 : 0;
}

ASYNC_SAFE static enum cleanup_result settle_own(bool kept)
{
    if (!cleanup_pending())
        return CLEANUP_DONE;
    (void)guard_become(own_uid());
    if (own_server.st_ino != 0 && !guard_is_open(ledger.owner.dir, &own_server)) {
        report(ledger.owner.id, "the handler has closed the descriptor of", "its ledger", 0);
        return CLEANUP_FAILED; /* the server goes on */
    }
    struct cleanup_settling how = {
        .dir = ledger.owner.dir, .id = ledger.owner.id, .name = ledger.name};
    /* A program may have locked its ledger, so that its processes write there one at a time. The
     * lock outlives it, as it belongs to the open file, which this process shares: we would wait
     * for it. */
    if (ledger.program_fd >= 0)
        (void)flock(ledger.program_fd, LOCK_UN);
    enum cleanup_result result = settle_ledger(&how, kept);
    if (result == CLEANUP_DONE)
        ledger.touched = 0;
    return result;
}

ASYNC_SAFE enum cleanup_result cleanup_undo(void)
{
    return settle_own(false);
}

/* The short way is for most requests: what this process has recorded is kept, its program has
 * recorded nothing, and so there is nothing to read. Whenever it fails, the long way does it, and
 * reports why. */
ASYNC_SAFE enum cleanup_result cleanup_keep(void)
{
    char program[LEDGER_NAME_SIZE];
    int dir = ledger.owner.dir;
    if (!cleanup_pending() || !ledger.begun || program_has_records() || !descriptors_are_ours())
        return settle_own(true);
    (void)guard_become(own_uid());
    const struct cleanup_settling how = {.dir = dir, .id = ledger.owner.id};
    bool reuse = scratch_is(ledger.scratch, own_uid(), &ledger.mark) &&
                 (!ledger.mark.fresh || scratch_is_empty(ledger.scratch));
    if (ledger.scratch[0] != '\0' && !reuse && undo_scratch(&how, ledger.scratch) < 0)
        return settle_own(true);
    const struct scratch_mark none = {0};
    bool dropped = ledger.owner.slot != 0
                       ? slot_drop(ledger.fd, reuse ? &ledger.mark : &none)
                       : (ledger.program_fd < 0 ||
                          remove_name(dir, ledger_program_name(program, ledger.name), 0)) &&
                             remove_name(dir, ledger.name, 0);
    if (!dropped)
        return settle_own(true);
    ledger.touched = 0;
    return CLEANUP_DONE;
}

ASYNC_SAFE enum cleanup_result cleanup_settle(const struct cleanup_settling *how)
{
    return settle_ledger(how, false);
}

enum cleanup_result cleanup_settle_kept(const struct cleanup_settling *how)
{
    return settle_ledger(how, true);
}

enum cleanup_result cleanup_settle_refuted(const struct cleanup_settling *how, bool *kept)
{
    /* The mark goes first. After a crash in the midst of the undo, it would mean that the answer
     * has arrived, and what is left would be kept. */
    uint64_t n;
    const char *name = how->name != NULL ? how->name : how->id;
    int below = sent_find(how->dir, name, true, &n) < 0 ? -1 : sent_find(how->dir, name, false, &n);
    *kept = below > 0 && n == 0;
    if (below >= 0)
        return settle_ledger(how, *kept);
    report(how->id, "could not strike out the sent mark of", how->id, errno);
    return CLEANUP_FAILED;
}

/* ---- STATE ------------------------------------------------------------------------- */

static int make_parents(const char *path)
{
    char part[PATH_MAX];
    size_t length = strlen(path);
    if (length >= sizeof part)
        return fail(ENAMETOOLONG);
    memcpy(part, path, length + 1);
    for (char *slash = strchr(part + 1, '/'); slash != NULL; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        if (mkdir(part, 0755) < 0 && errno != EEXIST)
            return -1;
        *slash = '/';
    }
    return 0;
}

int cleanup_state_open(const char *path, uid_t owner, gid_t group, const char **why)
{
    struct stat now;
    boot_id_read();
    *why = "cannot be made";
    bool made = make_parents(path) == 0 && mkdir(path, 0700) == 0;
    if (!made && errno != EEXIST)
        return -1;
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    *why = "is not a directory that can be opened (symbolic links are not followed)";
    if (fd < 0)
        return -1;
    *why = "cannot be given to its user";
    if (made && owner != geteuid() && fchown(fd, owner, group) < 0)
        goto refuse;
    *why = "cannot be looked at";
    if (fstat(fd, &now) < 0)
        goto refuse;
    errno = 0; /* from here on no call has failed, and *WHY says all */
    *why = "belongs to another user: be that user, or take another directory";
    if (now.st_uid != owner)
        goto refuse;
    *why = "is open to others; chmod 700 makes it private";
    if ((now.st_mode & 077) != 0)
        goto refuse;
    return fd;
refuse:
    close_keep_errno(fd);
    return -1;
}

/* Try to lock FD. A POSIX lock belongs to this process alone, not to its children, and ends with
 * it: so a lock that can be had means that its server is dead, even if children of it live. */
static bool lock_try(int fd)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    return fcntl(fd, F_SETLK, &lock) == 0;
}

int cleanup_server_open(int state, char token[CLEANUP_TOKEN_SIZE])
{
    /* A few tries: until it is locked, the recovery of another server that starts now may take the
     * directory for a dead server's and remove it, between any two of these steps. */
    (void)own_uid();
    for (int tries = 0; tries < 10; tries++) {
        struct stat now;
        if (random_hex(token) < 0 || mkdirat(state, token, 0700) < 0)
            return -1;
        int dir = openat(state, token, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        int lock = dir < 0 ? -1 : openat(dir, "lock", O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        if (lock >= 0 && lock_try(lock) && fstat(lock, &now) == 0 && now.st_nlink == 1 &&
            lock_sign(lock) && fstat(dir, &own_server) == 0) {
            directory_hold(dir);
            return dir; /* the lock's descriptor stays open: to close it would let go of the lock */
        }
        int saved = errno;
        if (lock >= 0)
            close(lock);
        if (dir >= 0)
            close(dir);
        unlinkat(state, token, AT_REMOVEDIR);
        errno = saved;
        if (saved == EMFILE || saved == ENFILE || saved == ENOSPC || saved == EACCES)
            return -1;
    }
    return -1;
}

/* ---- RECOVER ----------------------------------------------------------------------- */

static bool is_hex(const char *s, size_t n)
{
    return strspn(s, "0123456789abcdef") == n;
}

bool cleanup_is_server_token(const char *name)
{
    return strlen(name) == CLEANUP_TOKEN_SIZE - 1 && is_hex(name, CLEANUP_TOKEN_SIZE - 1);
}

/* A request's id, and so its ledger's name, is TOKEN-NUMBER, both in hex. */
bool cleanup_is_id(const char *name)
{
    size_t length = strlen(name);
    return length > CLEANUP_TOKEN_SIZE && length < CLEANUP_ID_SIZE &&
           is_hex(name, CLEANUP_TOKEN_SIZE - 1) && name[CLEANUP_TOKEN_SIZE - 1] == '-' &&
           is_hex(name + CLEANUP_TOKEN_SIZE, length - CLEANUP_TOKEN_SIZE);
}

/* Set ID to the id of the request whose ledger's file is called FILE. Returns false if it is no
 * such file, or a slot's in which there is no ledger. */
static bool id_of_file(int dir, const char *file, char id[CLEANUP_ID_SIZE])
{
    if (!ledger_name_of_file(dir, file, id))
        return false;
    if (ledger_is_slot_name(id))
        memcpy(id, header_of(dir, file).id, CLEANUP_ID_SIZE);
    return cleanup_is_id(id);
}

char (*cleanup_list(int dir, size_t *count))[CLEANUP_ID_SIZE]
{
    return list_names(dir, CLEANUP_ID_SIZE, id_of_file, count);
}

/* Open the directory in STATE that has a ledger of ID, a server's or `failed`. Returns -1 if there
 * is none. */
static int open_elsewhere(int state, const char *id)
{
    _Alignas(struct dirent64) char entries[WALK_SIZE];
    int dir = -1;
    if (!cleanup_is_id(id))
        return -1;
    struct walk w = walk_open(state, ".", entries, sizeof entries);
    for (const struct dirent64 *e; dir < 0 && (e = walk_next(&w)) != NULL;) {
        if (!cleanup_is_server_token(e->d_name) && strcmp(e->d_name, PARKED_NAME) != 0)
            continue;
        dir = openat(state, e->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (dir >= 0 && !cleanup_exists(dir, id)) {
            close(dir);
            dir = -1;
        }
    }
    (void)walk_close(&w);
    return dir;
}

/* Returns true if a ledger of ID is anywhere in STATE: whoever has it ends its processes, or needs
 * them. */
static bool is_elsewhere(int state, const char *id)
{
    int dir = open_elsewhere(state, id);
    if (dir >= 0)
        close(dir);
    return dir >= 0;
}

/* Returns the child that the header of the ledger ID names; its pid is 0 if that cannot be told. If
 * the server's own file was never made, its program's has a header as well. */
static struct process child_of(int dir, const char *id)
{
    char program[LEDGER_NAME_SIZE];
    int fd = ledger_find(dir, id, O_RDONLY, NULL);
    if (fd < 0)
        fd = ledger_find(dir, ledger_program_name(program, id), O_RDONLY, NULL);
    if (fd < 0)
        return (struct process){0};
    struct header head = header_read(fd);
    close(fd);
    bool known = head.valid && is_this_boot(&head) && head.pid > 1;
    return (struct process){.pid = known ? head.pid : 0, .start = head.start};
}

/* End what the requests IDS have left running, and, unless TOKEN is NULL, all other requests of the
 * dead server TOKEN: those without a ledger had recorded nothing, but their processes may live. A
 * ledger in DIR may bear another server's token, if the dead server had taken it over itself. */
static bool end_leftovers(int state, int dir, const char *token, char (*ids)[CLEANUP_ID_SIZE],
                          size_t count)
{
    struct process *children = calloc(count + 1, sizeof *children);
    struct hunt h = {.ids = ids, .id_count = count, .token = token, .children = children};
    h.state = state;
    h.spared = is_elsewhere;
    for (size_t i = 0; children != NULL && i < count; i++)
        children[h.child_count++] = child_of(dir, ids[i]);
    bool all = (count == 0 && token == NULL) || hunt_down(&h);
    free(children);
    return all;
}

/* Remove the dot files in DIR: ledgers whose maker died before their header was whole, and spare
 * ones. */
static bool sweep_unfinished(int dir)
{
    _Alignas(struct dirent64) char entries[WALK_SIZE];
    int error = 0;
    struct walk w = walk_open(dir, ".", entries, sizeof entries);
    for (const struct dirent64 *e; (e = walk_next(&w)) != NULL;)
        if (e->d_name[0] == '.' && e->d_name[1] != '.' && !remove_name(dir, e->d_name, 0))
            error = errno;
    if (!walk_close(&w))
        return false;
    errno = error;
    return error == 0;
}

/* Note in the program's file of a ledger that the answer was sent, if that is so. A crash between
 * the two renames of cleanup_move leaves that file alone, and who finds it must decide as with
 * both. The newline ends what the program has left without one. */
static bool note_sent(int dir, const char *name, const char *program)
{
    static const char note[] = "\nsent 0\n";
    uint64_t n;
    int sent = cleanup_was_sent(dir, name, &n);
    int fd = sent > 0 ? ledger_find(dir, program, O_WRONLY | O_APPEND, NULL) : -1;
    if (fd < 0)
        return sent == 0 || (sent > 0 && errno == ENOENT);
    bool noted = write_all(fd, note, sizeof note - 1) == 0 && fdatasync(fd) == 0;
    close_keep_errno(fd);
    return noted;
}

bool cleanup_move(int from, const char *name, int to, const char *id)
{
    char program[LEDGER_NAME_SIZE], program_to[LEDGER_NAME_SIZE];
    char environment[ENVIRONMENT_NAME_SIZE];
    struct header h = header_of(from, name);
    ledger_program_name(program, name);
    ledger_program_name(program_to, id);
    if (!environment_take(from, id, h.environment, to))
        return false;
    /* ID.p goes first. In the new place ID alone would look like a whole ledger, and its records
     * would be undone before the program's, which are newer. A slot's program's file that does not
     * belong to this ledger stays. */
    bool both = !h.valid || h.program;
    if (both && (!note_sent(from, name, program) ||
                 (renameat(from, program, to, program_to) < 0 && errno != ENOENT)))
        return false;
    if (renameat(from, name, to, id) < 0 && errno != ENOENT)
        return false;
    struct stat was, is;
    if (fstat(from, &was) == 0 && fstat(to, &is) == 0 && was.st_ino != is.st_ino)
        (void)remove_name(from, environment_name(environment, id, 0), 0); /* else it is swept */
    return true;
}

bool cleanup_unite(int state, int dir, const char *name, const char *id)
{
    char program[LEDGER_NAME_SIZE], parked[LEDGER_NAME_SIZE];
    struct header h = header_of(dir, name);
    int failed = h.valid && h.program ? cleanup_failed_open(state, false) : -1;
    if (failed < 0)
        return !h.unread;
    bool whole = strcmp(h.id, id) != 0 || name_is_there(failed, id) ||
                 renameat2(failed, ledger_program_name(parked, id), dir,
                           ledger_program_name(program, name), RENAME_NOREPLACE) == 0;
    whole = whole || errno == ENOENT || errno == EEXIST;
    close_keep_errno(failed);
    return whole;
}

/* Give each ledger that a slot keeps in DIR, whose server is dead, the name of its request. */
static bool name_ledgers(int dir)
{
    _Alignas(struct dirent64) char entries[WALK_SIZE];
    int error = 0;
    struct walk w = walk_open(dir, ".", entries, sizeof entries);
    for (const struct dirent64 *e; (e = walk_next(&w)) != NULL;) {
        if (!ledger_is_slot_name(e->d_name))
            continue;
        struct header h = header_of(dir, e->d_name);
        bool stays = !cleanup_is_id(h.id) || is_of_another_node(&h);
        bool moved = !h.unread && (stays || cleanup_move(dir, e->d_name, dir, h.id));
        error = moved ? error : errno;
    }
    bool all = walk_close(&w);
    errno = error != 0 ? error : errno;
    return all && error == 0;
}

/* The names of scratch directories in a pool. */
struct leaves {
    char (*names)[CLEANUP_ID_SIZE];
    size_t count, room;
    bool failed; /* there may be more */
};

/* Add those scratch directories in POOL that the file NAME in DIR has records of. */
static void leaves_add(struct leaves *l, int dir, const char *name, const char *pool)
{
    struct reader reader;
    size_t length = strlen(pool);
    int found = -1, fd = ledger_find(dir, name, O_RDONLY, NULL);
    if (fd < 0) {
        l->failed = l->failed || errno != ENOENT;
        return;
    }
    if (read_from_end(&reader, fd))
        while ((found = reader_next(&reader)) > 0) {
            struct record r = record_parse(reader.line);
            const char *leaf = r.argument + length + 1;
            if (r.verb != VERB_SCRATCH || strncmp(r.argument, pool, length) != 0 ||
                r.argument[length] != '/' || strlen(leaf) >= sizeof l->names[0])
                continue;
            void *more = list_grow(l->names, l->count, &l->room, sizeof l->names[0]);
            if (more == NULL)
                break;
            l->names = more;
            memcpy(l->names[l->count++], leaf, strlen(leaf) + 1);
        }
    l->failed = l->failed || found != 0;
    close(fd);
}

/* Find what ledgers anywhere in STATE, parked or adopted, need of POOL: an undo command of theirs
 * may use what is there. */
static struct leaves leaves_needed(int state, const char *pool)
{
    _Alignas(struct dirent64) char entries[WALK_SIZE];
    struct leaves l = {.names = NULL};
    struct walk w = walk_open(state, ".", entries, sizeof entries);
    for (const struct dirent64 *e; (e = walk_next(&w)) != NULL;) {
        if (!cleanup_is_server_token(e->d_name) && strcmp(e->d_name, PARKED_NAME) != 0)
            continue;
        int dir = openat(state, e->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        size_t count = 0;
        char(*ids)[CLEANUP_ID_SIZE] = dir >= 0 ? cleanup_list(dir, &count) : NULL;
        for (size_t i = 0; i < count; i++) {
            char program[LEDGER_NAME_SIZE];
            leaves_add(&l, dir, ids[i], pool);
            leaves_add(&l, dir, ledger_program_name(program, ids[i]), pool);
        }
        free(ids);
        if (dir >= 0)
            close(dir);
    }
    l.failed = !walk_close(&w) || l.failed;
    return l;
}

static bool is_needed(const struct leaves *l, const char *name)
{
    for (size_t i = 0; i < l->count; i++)
        if (strcmp(l->names[i], name) == 0)
            return true;
    return l->failed;
}

/* Empty the pool PATH, which is at POOL and open as FD, of all that no ledger needs, and remove it
 * if nothing is left. Closes FD. Returns false, with errno, if something could not be removed. */
static bool empty_pool(int state, const char *path, const struct spot *pool, int fd)
{
    _Alignas(struct dirent64) char entries[WALK_SIZE];
    int error = 0, left = 0;
    struct leaves needed = leaves_needed(state, path);
    struct walk w = walk_from(fd, entries, sizeof entries);
    for (const struct dirent64 *e; (e = walk_next(&w)) != NULL;)
        if (is_needed(&needed, e->d_name))
            left++;
        else if (remove_tree(&(struct spot){fd, e->d_name}) < 0)
            error = errno;
    free(needed.names);
    if (!walk_close(&w))
        return false;
    errno = error;
    return error == 0 && (left > 0 || remove_tree(pool) == 0);
}

/* Remove the pool of the server TOKEN. The link to it is obeyed only if it is our own and leads to
 * what has a pool's name: anything else was put there by another user, to have a target removed. */
static bool remove_pool(int state, int dir, const char *token)
{
    char path[PATH_MAX];
    struct stat link;
    struct spot pool;
    ssize_t n = readlinkat(dir, POOL, path, sizeof path - 1);
    if (n < 0 || fstatat(dir, POOL, &link, AT_SYMLINK_NOFOLLOW) < 0)
        return errno == ENOENT;
    path[n] = '\0';
    bool ours = link.st_uid == geteuid() && link.st_nlink == 1 && is_pool_of(path, token);
    int fd = ours ? pool_open(path, own_uid(), &pool) : -1;
    if (ours && fd < 0 && errno != ENOENT)
        return false;
    bool done = (fd < 0 || empty_pool(state, path, &pool, fd)) && remove_name(dir, POOL, 0);
    if (done && fd >= 0) /* its last ledger may have been settled since, and have left it */
        (void)unlinkat(pool.dir, pool.name, AT_REMOVEDIR);
    if (fd >= 0)
        close_keep_errno(pool.dir);
    return done;
}

/* Remove the files of slots. What has a ledger, as it could not be named after its request, stays,
 * and so does what cannot be read. */
static bool remove_slots(int dir)
{
    _Alignas(struct dirent64) char entries[WALK_SIZE];
    char own[CLEANUP_ID_SIZE];
    bool done = true;
    struct walk w = walk_open(dir, ".", entries, sizeof entries);
    for (const struct dirent64 *e; (e = walk_next(&w)) != NULL;) {
        struct text t = TEXT(own);
        text_bytes(&t, e->d_name, strcspn(e->d_name, "."));
        if (!ledger_is_slot_name(text_end(&t)))
            continue;
        struct header h = header_of(dir, own);
        errno = h.valid ? ENOTEMPTY : errno;
        done = !h.unread && !h.valid && remove_name(dir, e->d_name, 0) && done;
    }
    return walk_close(&w) && done;
}

/* One that is on its way here has its environment here already, and so is looked for here last. */
static bool has_ledger(int state, int dir, const char *id)
{
    return is_elsewhere(state, id) || cleanup_exists(dir, id);
}

static bool remove_server_files(int state, int dir, const char *token)
{
    return remove_pool(state, dir, token) && remove_slots(dir) &&
           environment_sweep(state, dir, NULL) && remove_name(dir, "scoreboard", 0) &&
           remove_name(dir, "lock", 0) &&
           (remove_name(state, token, AT_REMOVEDIR) ||
            errno == ENOTEMPTY); /* as it should while something is left */
}

/* Remove the server's directory, if no ledger is left in it. */
static bool remove_server(int state, int dir, const char *token)
{
    size_t count;
    bool swept = sweep_unfinished(dir);
    char(*ids)[CLEANUP_ID_SIZE] = cleanup_list(dir, &count);
    bool listed = errno == 0;
    free(ids);
    return swept && listed && (count > 0 || remove_server_files(state, dir, token));
}

void cleanup_server_close(int state, int dir, const char *token)
{
    remove_server(state, dir, token);
}

/* Leave in IDS only those that are not another node's. Returns how many that are. */
static size_t keep_own(const struct cleanup_recovery *r, int dir, char (*ids)[CLEANUP_ID_SIZE],
                       size_t count)
{
    size_t kept = 0;
    for (size_t i = 0; i < count; i++) {
        struct header h = header_find(dir, ids[i]);
        if (is_of_another_node(&h) && r->foreign != NULL)
            r->foreign(ids[i], h.node);
        if (!is_of_another_node(&h))
            memmove(ids[kept++], ids[i], sizeof ids[i]);
    }
    return kept;
}

/* Leave in IDS only those that are wanted. Returns how many that are. */
static size_t keep_wanted(const struct cleanup_recovery *r, char (*ids)[CLEANUP_ID_SIZE],
                          size_t count)
{
    size_t kept = 0;
    for (size_t i = 0; i < count; i++)
        if (r->wanted == NULL || r->wanted(ids[i]))
            memmove(ids[kept++], ids[i], sizeof ids[i]);
    return kept;
}

/* Settle a ledger whose server is dead. Nobody can ask the client's socket any more, so a `sent`
 * mark means that the answer has arrived. Returns false if it waits here for another try. */
static bool recover_ledger(const struct cleanup_recovery *r, int dir, const char *id, bool lives_on)
{
    struct cleanup_settling how = {.dir = dir,
                                   .id = id,
                                   .after_crash = true,
                                   .again_s = r->again_s,
                                   .again_now = r->again_now,
                                   .run = r->run};
    how.lives_on = lives_on && !cleanup_end_request(id, 0, NULL);
    if (how.lives_on)
        cleanup_note_survivor(&how);
    uint64_t n;
    struct cleanup_look was;
    (void)cleanup_look_ledger(dir, id, &was); /* for people: it may be gone afterwards */
    int sent = cleanup_unite(r->state, dir, id, id) ? cleanup_was_sent(dir, id, &n) : -1;
    enum cleanup_result result = CLEANUP_FAILED;
    if (sent < 0)
        report_unopened(id, "could not look for the sent mark of", id);
    else
        result = sent > 0 ? cleanup_settle_kept(&how) : cleanup_settle(&how);
    if (result == CLEANUP_AGAIN)
        was.due_ms = again_noted(dir, id) * 1000;
    r->settled(&was, result, sent > 0);
    if (result == CLEANUP_DONE || r->adopt < 0 || cleanup_move(dir, id, r->adopt, id))
        return true;
    report(id, "could not take over the ledger", id, errno);
    return false;
}

/* Returns true if the ledger ID in DIR has that name. */
static bool is_named(int dir, const char *id)
{
    char program[LEDGER_NAME_SIZE];
    return name_is_there(dir, id) || name_is_there(dir, ledger_program_name(program, id));
}

static bool cannot_look(const char *token)
{
    report(token, "could not look for ledgers in", token, errno);
    return false;
}

/* Settle all that is wanted in the locked directory DIR of the dead server TOKEN or, if that is
 * NULL, in `failed`. */
static bool recover_directory(const struct cleanup_recovery *r, int dir, const char *token)
{
    size_t count;
    const char *where = token != NULL ? token : PARKED_NAME;
    bool named = name_ledgers(dir) || cannot_look(where);
    char(*ids)[CLEANUP_ID_SIZE] = cleanup_list(dir, &count);
    bool listed = (errno == 0 || cannot_look(where)) && named;
    count = keep_own(r, dir, ids, keep_wanted(r, ids, count));
    bool lives_on = !end_leftovers(r->state, dir, r->wanted == NULL ? token : NULL, ids, count);
    bool done = listed;
    for (size_t i = 0; i < count; i++)
        if (named || is_named(dir, ids[i]))
            done = recover_ledger(r, dir, ids[i], lives_on) && done;
    free(ids);
    return done;
}

/* Returns true if a ledger in DIR is wanted, or that cannot be told. If none is, the directory must
 * not even be locked: while we hold the lock, a server that starts would believe that its owner is
 * alive. */
static bool is_any_wanted(const struct cleanup_recovery *r, int dir)
{
    size_t count;
    char(*ids)[CLEANUP_ID_SIZE] = r->wanted != NULL ? cleanup_list(dir, &count) : NULL;
    bool any = r->wanted == NULL || errno != 0 || keep_wanted(r, ids, count) > 0;
    free(ids);
    return any;
}

/* Recover the directory TOKEN, if its server is dead. Returns false if there may be ledgers that
 * could not be looked at. */
static bool recover_server(const struct cleanup_recovery *r, const char *token)
{
    struct stat now;
    int dir = openat(r->state, token, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (dir < 0)
        return errno == ENOENT || errno == ENOTDIR || errno == ELOOP || cannot_look(token);
    bool known = fstat(dir, &now) == 0;
    if (known && now.st_uid != geteuid()) {
        report(token, "refused, as it belongs to another user: the directory", token, 0);
        close(dir);
        return false;
    }
    bool is_own = known && now.st_dev == own_server.st_dev && now.st_ino == own_server.st_ino;
    char node[NODE_SIZE];
    bool passes = is_own || is_held_without_lock(dir) || !is_any_wanted(r, dir);
    bool foreign = !passes && is_signed_by_another(dir, node);
    if (foreign && r->foreign != NULL)
        r->foreign(token, node);
    if (passes || foreign) {
        close(dir);
        return true;
    }
    /* A directory without the file `lock` is half removed, or was put here by hand. The file is
     * made then, so that only one process takes it. */
    int lock = openat(dir, "lock", O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
    bool done = lock >= 0 || errno == ENOENT || cannot_look(token);
    if (lock >= 0 && lock_try(lock)) {
        done = recover_directory(r, dir, token);
        if (!remove_server(r->state, dir, token)) {
            report(token, "could not remove the dead server's directory", token, errno);
            done = false;
        }
    } else if (lock >= 0 && errno != EAGAIN && errno != EACCES) {
        done = cannot_look(token); /* for another reason than that its server lives */
    }
    if (lock >= 0)
        close(lock);
    if (done) /* on FUSE the open lock was in the way, under a hidden name */
        unlinkat(r->state, token, AT_REMOVEDIR);
    close(dir);
    return done;
}

bool cleanup_recover(const struct cleanup_recovery *r)
{
    _Alignas(struct dirent64) char entries[WALK_SIZE];
    bool done = true;
    struct walk w = walk_open(r->state, ".", entries, sizeof entries);
    for (const struct dirent64 *e; (e = walk_next(&w)) != NULL;)
        if (cleanup_is_server_token(e->d_name) && !recover_server(r, e->d_name))
            done = false;
    return walk_close(&w) ? done : cannot_look("STATE");
}

/* ---- PARK -------------------------------------------------------------------------- */

int cleanup_failed_open(int state, bool make)
{
    if (make && mkdirat(state, PARKED_NAME, 0700) < 0 && errno != EEXIST)
        return -1;
    int failed = openat(state, PARKED_NAME, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    struct stat now;
    if (failed < 0 || (fstat(failed, &now) == 0 && now.st_uid == geteuid()))
        return failed;
    close(failed);
    errno = EPERM; /* it is another user's */
    return -1;
}

/* A ledger that is not there counts as adopted, but parking one that is lost must not look like
 * success. */
bool cleanup_park(int state, int dir, const char *name, const char *id)
{
    int failed = cleanup_failed_open(state, true);
    if (failed < 0)
        return false;
    bool parked = cleanup_move(dir, name, failed, id);
    if (parked && !cleanup_exists(failed, id)) {
        errno = ENOENT;
        parked = false;
    }
    close_keep_errno(failed);
    return parked;
}

bool cleanup_recover_parked(const struct cleanup_recovery *r)
{
    int failed = cleanup_failed_open(r->state, false);
    if (failed < 0)
        return errno == ENOENT || cannot_look(PARKED_NAME);
    bool done = recover_directory(r, failed, NULL);
    done = (environment_sweep(r->state, failed, has_ledger) || cannot_look(PARKED_NAME)) && done;
    close(failed);
    return done;
}

enum cleanup_place cleanup_find(int state, const char *id, pid_t *holder)
{
    int failed = cleanup_failed_open(state, false);
    bool parked = failed >= 0 && cleanup_exists(failed, id);
    if (failed >= 0)
        close(failed);
    int dir = parked ? -1 : open_elsewhere(state, id);
    if (dir < 0)
        return parked ? CLEANUP_PARKED : CLEANUP_NOWHERE;
    bool lives = cleanup_look_lock(dir, holder) == 1;
    close(dir);
    return lives ? CLEANUP_HELD : CLEANUP_LEFT;
}
