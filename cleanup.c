/* cleanup.c: the ledger of what a request made, and how that is undone.
 *
 * It owns one file per request, STATE/SERVER/ID: text, append-only, one record a line.
 *
 *     # hangupd ledger 1 id=... pid=... start=... boot=... GET /report
 *     unlink-if 8:1:10952780:1795412859.324394260 /srv/reports/q3.csv
 *     run aws-terminate --client-token ID
 *
 * A ledger's life, and who may touch it then:
 *
 *     absent    nothing was recorded                        the request's child makes it
 *     open      the request runs; records are appended      the child; its program through ID.p
 *     sent      the answer is complete but for the client's acknowledgement
 *     settling  read backwards, each record undone, then    the child, in its signal handler; else
 *               struck out: its first byte becomes '#'      a janitor; else recovery; under flock
 *     gone      undone or kept: unlinked
 *
 * Beside them are `.spare-N`, a program's ledger that waits for its next request, `.spare-N-room`,
 * a file for the other one on a full disk, and `scratch`, a link to the pool of scratch
 * directories, which goes with STATE/SERVER.
 *
 * The rule that makes it work: a record says what will be true, and is whole on disk before the
 * thing is made. So a record may name what never came to be, and undoing that is success.
 *
 * Everything from "Reading" to "Settling" runs in a signal handler too: static buffers, system
 * calls, no stdio, no memory. There is no HTTP in this file.
 */
#include <hangupd/cleanup.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#include "files.h"
#include "identity.h"
#include "ledger.h"

static bool is_elsewhere(int state, const char *id);

#include "processes.h"

/* ---- Telling of failures ------------------------------------------------------------- */

ASYNC_SAFE static void report_on_stderr(const char *id, const char *what)
{
    char buffer[1024];
    struct text line = TEXT(buffer);
    text_add(&line, id);
    text_char(&line, ' ');
    text_add(&line, what);
    text_char(&line, '\n');
    if (write_all(STDERR_FILENO, buffer, line.length) < 0)
        return; /* there is nobody left to tell */
}

cleanup_report_fn *cleanup_report = report_on_stderr;

#define REPORT_REASON 128 /* bytes for errno's text */

ASYNC_SAFE static void report(const char *id, const char *doing, const char *what, int error)
{
    char buffer[1024];
    struct text t = TEXT(buffer);
    text_add(&t, doing);
    text_char(&t, ' ');
    t.room -= REPORT_REASON; /* however long WHAT is, why is told */
    text_add(&t, what);
    t.room += REPORT_REASON;
    if (error != 0) {
        text_add(&t, ": ");
        const char *why = strerrordesc_np(error);
        text_add(&t, why != NULL ? why : "unknown error");
    }
    cleanup_report(id, text_end(&t));
}

#define BOOT_ID_SIZE 37
static char boot_id[BOOT_ID_SIZE]; /* of this boot; "unknown" where the kernel does not say */

ASYNC_SAFE static void boot_id_read(void)
{
    if (boot_id[0] != '\0')
        return;
    int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, boot_id, BOOT_ID_SIZE - 1);
    if (fd >= 0)
        close(fd);
    if (n != BOOT_ID_SIZE - 1)
        memcpy(boot_id, "unknown", sizeof "unknown");
}

/* Of "Undoing one record" and "Settling" below. */
ASYNC_SAFE static const char *program_name(char name[CLEANUP_ID_SIZE + 4], const char *id);
ASYNC_SAFE static bool strike(int fd, off_t at);
ASYNC_SAFE static int ledger_find(int dir, const char *name, int flags);

/* ---- This process's ledger: making and appending ------------------------------------- */

static struct {
    struct cleanup_owner who;
    pid_t pid;                      /* of the owner; 0: nobody's */
    unsigned long long start;       /* when it was born, as /proc says; 0: not known yet */
    int fd, program_fd;             /* O_APPEND; -1: not made yet */
    off_t last;                     /* where the newest record starts */
    volatile sig_atomic_t touched;  /* set before the file can exist */
    volatile sig_atomic_t recorded; /* set before a record other than `scratch` can exist */
    bool scratch_pooled;            /* it is in the pool */
    struct timespec scratch_made;   /* when it was changed last, as it was made */
    char scratch[PATH_MAX];         /* "": not made yet */
} mine = {.fd = -1, .program_fd = -1};

#define HEADER_MAX 1024 /* bytes; a long title is cut */

/* ID.p without a record of the program's. */
static struct {
    size_t length;
    char text[HEADER_MAX + PATH_MAX + 16];
} program_head;

void cleanup_begin(const struct cleanup_owner *owner)
{
    boot_id_read();
    mine.who = *owner;
    mine.fd = mine.program_fd = -1;
    mine.touched = mine.recorded = 0;
    mine.scratch[0] = '\0';
    /* Born within one tick: no need to ask /proc, which takes longer than all else here. */
    mine.start = clock_ticks() == owner->forked ? owner->forked : 0;
    mine.pid = getpid();
}

ASYNC_SAFE bool cleanup_is_owner(void)
{
    return mine.pid != 0 && mine.pid == getpid();
}

ASYNC_SAFE bool cleanup_pending(void)
{
    return mine.touched != 0 && cleanup_is_owner();
}

/* Whether ID.p is as its program got it. That may have cut it short, too, or have written over it;
 * what cannot be read may hold anything. */
ASYNC_SAFE static bool is_as_it_was(void)
{
    char now[sizeof program_head.text];
    ssize_t n = pread(mine.program_fd, now, sizeof now, 0);
    return n >= 0 && (size_t)n == program_head.length &&
           memcmp(now, program_head.text, (size_t)n) == 0;
}

ASYNC_SAFE bool cleanup_has_records(void)
{
    return cleanup_pending() && (mine.recorded != 0 || (mine.program_fd >= 0 && !is_as_it_was()));
}

/* Whether the ledger's grammar has such a record: what is refused here cannot be undone later. */
static bool is_record(const char *verb, const char *argument)
{
    struct identity id;
    unsigned long long n;
    if (strchr(argument, '\n') != NULL)
        return false;
    if (strcmp(verb, "commit") == 0)
        return *argument == '\0';
    if (strcmp(verb, "run") == 0)
        return argument[strspn(argument, " \t")] != '\0';
    if (strcmp(verb, "sent") == 0)
        return parse_number(&argument, UINT64_MAX, &n) && *argument == '\0';
    if (strcmp(verb, "unlink-if") == 0 || strcmp(verb, "rmtree-if") == 0)
        return identity_parse(&argument, &id) && *argument == '/';
    return (strcmp(verb, "unlink") == 0 || strcmp(verb, "rmtree") == 0 ||
            strcmp(verb, "scratch") == 0) &&
           *argument == '/';
}

static int record_check(const char *verb, const char *argument)
{
    size_t size = strlen(verb) + strlen(argument) + (*argument != '\0') + 1;
    errno = size > CLEANUP_RECORD_MAX ? ENAMETOOLONG : EINVAL;
    return size > CLEANUP_RECORD_MAX || !is_record(verb, argument) ? -1 : 0;
}

int cleanup_append(int fd, const char *verb, const char *argument, bool sync)
{
    char line[CLEANUP_RECORD_MAX + 1];
    if (record_check(verb, argument) < 0)
        return -1;
    struct text t = TEXT(line);
    text_add(&t, verb);
    if (*argument != '\0') {
        text_char(&t, ' ');
        text_add(&t, argument);
    }
    text_char(&t, '\n');
    ssize_t n;
    do
        n = write(fd, line, t.length);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return -1;
    if ((size_t)n < t.length) {
        /* The disk is full. What was not written whole is taken back, unless somebody has
         * appended behind it: without its newline it would spoil the next record. */
        struct stat now;
        off_t end = lseek(fd, 0, SEEK_CUR);
        if (end < n || fstat(fd, &now) < 0 || now.st_size != end || ftruncate(fd, end - n) < 0)
            (void)!write(fd, "\n", 1);
        errno = ENOSPC;
        return -1;
    }
    return sync ? fdatasync(fd) : 0;
}

static void header_write(struct text *t)
{
    struct process self = {0};
    if (mine.start == 0 && process_read(mine.pid, &self))
        mine.start = self.start;
    text_add(t, "# hangupd ledger 1 id=");
    text_add(t, mine.who.id);
    text_add(t, " pid=");
    text_signed(t, mine.pid);
    text_add(t, " start=");
    text_number(t, mine.start, 1);
    text_add(t, " boot=");
    text_add(t, boot_id);
    text_char(t, ' ');
    for (const char *s = mine.who.title; *s != '\0' && t->length < t->room - 2; s++)
        text_char(t, *s == '\n' ? ' ' : *s);
    text_char(t, '\n');
}

/* Link the nameless file FD as NAME in DIR. Through /proc, as AT_EMPTY_PATH wants privileges. */
static int link_nameless(int fd, int dir, const char *name)
{
    char path[32];
    struct text t = TEXT(path);
    text_add(&t, "/proc/self/fd/");
    text_signed(&t, fd);
    return linkat(AT_FDCWD, text_end(&t), dir, name, AT_SYMLINK_FOLLOW);
}

/* A ledger on a file system without O_TMPFILE is called so until its header is whole. */
ASYNC_SAFE static const char *partial_name(char partial[CLEANUP_ID_SIZE + 8], const char *name)
{
    struct text t = {.at = partial, .room = CLEANUP_ID_SIZE + 8};
    text_char(&t, '.');
    text_add(&t, name);
    return text_end(&t);
}

/* Make the file NAME in the server's directory, with its first lines HEAD, in one step. */
static int ledger_make(const char *name, const struct text *head)
{
    char partial[CLEANUP_ID_SIZE + 8];
    partial_name(partial, name);

    /* O_DSYNC: also for what a program appends. */
    const int flags = O_RDWR | O_APPEND | O_CLOEXEC | (mine.who.sync ? O_DSYNC : 0);
    int dir = mine.who.dir;
    int fd = openat(dir, ".", O_TMPFILE | flags, 0600);
    bool nameless = fd >= 0;
    if (!nameless)
        fd = openat(dir, partial, O_CREAT | O_EXCL | O_NOFOLLOW | flags, 0600);
    if (fd < 0)
        return -1;
    /* Its header takes the file's first block: a full disk is found now, while a refusal costs
     * nothing, and the first records have their room. */
    if (write_all(fd, head->at, head->length) < 0 || (mine.who.sync && fdatasync(fd) < 0))
        goto fail;
    if (nameless ? link_nameless(fd, dir, name) < 0 : renameat(dir, partial, dir, name) < 0)
        goto fail;
    if (mine.who.sync && fsync(dir) < 0)
        goto fail;
    return fd;
fail:
    if (!nameless)
        unlinkat(dir, partial, 0);
    close_keep_errno(fd);
    return -1;
}

/* Of "The scratch directory and a program's ledger" below. */
static int ledger_from_room(const char *name, struct text *head);

static int ledger_open(void)
{
    if (!cleanup_is_owner()) {
        errno = EPERM;
        return -1;
    }
    if (mine.fd < 0) {
        char header[HEADER_MAX];
        struct text head = TEXT(header);
        header_write(&head);
        mine.touched = 1;
        mine.fd = ledger_make(mine.who.id, &head);
        if (mine.fd < 0 && (errno == ENOSPC || errno == EDQUOT))
            mine.fd = ledger_from_room(mine.who.id, &head);
    }
    return mine.fd < 0 ? -1 : 0;
}

static int record(const char *verb, const char *argument)
{
    if (record_check(verb, argument) < 0 || ledger_open() < 0)
        return -1;
    if (strcmp(verb, "scratch") != 0)
        mine.recorded = 1;
    mine.last = lseek(mine.fd, 0, SEEK_END);
    return cleanup_append(mine.fd, verb, argument, mine.who.sync);
}

/* What the newest record names was not made after all: its undo might fail for the same reason. */
static void record_withdraw(void)
{
    int saved = errno;
    int fd = openat(mine.who.dir, mine.who.id, O_WRONLY | O_NOFOLLOW | O_CLOEXEC);
    if (fd >= 0) {
        (void)strike(fd, mine.last); /* it stays, and then its undo says that nothing is there */
        close(fd);
    }
    errno = saved;
}

int cleanup_sent(uint64_t n)
{
    char digits[24];
    struct text t = TEXT(digits);
    text_number(&t, n, 1);
    return record("sent", text_end(&t));
}

int cleanup_commit(void)
{
    return record("commit", "");
}

static int record_identity(const char *verb, const struct identity *id, const char *path)
{
    char argument[CLEANUP_RECORD_MAX];
    struct text t = TEXT(argument);
    identity_write(&t, id);
    text_char(&t, ' ');
    text_add(&t, path);
    return record(verb, text_end(&t));
}

/* ---- Making things: record, then create ---------------------------------------------- */

/* PATH as an absolute one, and where its last component starts. */
struct place {
    char path[PATH_MAX];
    char dir[PATH_MAX];
    char private[PATH_MAX]; /* an unguessable name beside it, for the time before it has its own */
};

int cleanup_absolute(const char *path, char *full)
{
    struct text t = {.at = full, .room = PATH_MAX};
    if (path == NULL || *path == '\0' || strchr(path, '\n') != NULL) {
        errno = EINVAL;
        return -1;
    }
    if (*path != '/') {
        if (getcwd(full, PATH_MAX) == NULL)
            return -1;
        if (strchr(full, '\n') != NULL) {
            errno = EINVAL;
            return -1;
        }
        t.length = strlen(full);
        text_char(&t, '/');
    }
    if (t.length + strlen(path) >= PATH_MAX) {
        errno = ENAMETOOLONG;
        return -1;
    }
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
    struct text d = TEXT(p->dir);
    struct text q = TEXT(p->private);
    text_bytes(&d, p->path, directory);
    text_end(&d);
    text_bytes(&q, p->path, directory);
    if (directory + sizeof ".hangupd-" + sizeof hex > PATH_MAX) {
        errno = ENAMETOOLONG;
        return -1;
    }
    text_add(&q, ".hangupd-");
    text_add(&q, hex);
    text_end(&q);
    return 0;
}

/* rename(2) that never replaces, also where the file system has no RENAME_NOREPLACE. */
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
    if (lstat(to, &there) == 0) {
        errno = EEXIST;
        return -1;
    }
    return rename(from, to);
}

/* The file FD, still nameless, gets its name. */
static int publish_nameless(int fd, const struct place *p, bool overwrite)
{
    struct identity id;
    if (identify(fd, "", AT_EMPTY_PATH, &id) < 0 || record_identity("unlink-if", &id, p->path) < 0)
        return -1;
    if (link_nameless(fd, AT_FDCWD, p->path) == 0)
        return 0;
    if (errno != EEXIST || !overwrite) {
        record_withdraw();
        return -1;
    }
    /* linkat never replaces: take a private name first, then rename over what is there. */
    if (record_identity("unlink-if", &id, p->private) < 0 ||
        link_nameless(fd, AT_FDCWD, p->private) < 0)
        return -1;
    if (rename(p->private, p->path) == 0)
        return 0;
    int saved = errno;
    unlink(p->private);
    errno = saved;
    return -1;
}

/* Without O_TMPFILE: under a private name first, recorded before it exists. */
static int create_by_name(const struct place *p, bool overwrite, mode_t mode)
{
    struct identity id;
    if (record("unlink", p->private) < 0)
        return -1;
    int fd = open(p->private, O_CREAT | O_EXCL | O_RDWR | O_NOFOLLOW | O_CLOEXEC, mode);
    if (fd < 0) {
        record_withdraw();
        return -1;
    }
    if (identify(fd, "", AT_EMPTY_PATH, &id) == 0 &&
        record_identity("unlink-if", &id, p->path) == 0 &&
        (overwrite ? rename(p->private, p->path) : rename_new(p->private, p->path, false)) == 0)
        return fd;
    int saved = errno;
    unlink(p->private);
    close(fd);
    errno = saved;
    return -1;
}

int cleanup_create(const char *path, int flags, mode_t mode)
{
    struct place p;
    bool overwrite = (flags & CLEANUP_OVERWRITE) != 0;
    if ((flags & ~CLEANUP_OVERWRITE) != 0) {
        errno = EINVAL;
        return -1;
    }
    if (place_find(path, &p) < 0)
        return -1;
    if (path[strlen(path) - 1] == '/') {
        errno = EISDIR;
        return -1;
    }
    int fd = open(p.dir, O_TMPFILE | O_RDWR | O_CLOEXEC, mode);
    if (fd < 0) /* EISDIR: a kernel or file system that does not know O_TMPFILE */
        return errno == EOPNOTSUPP || errno == EISDIR ? create_by_name(&p, overwrite, mode) : -1;
    if (publish_nameless(fd, &p, overwrite) == 0)
        return fd;
    close_keep_errno(fd);
    return -1;
}

int cleanup_mkdir(const char *path, mode_t mode)
{
    struct place p;
    struct identity id;
    if (place_find(path, &p) < 0 || record("rmtree", p.private) < 0)
        return -1;
    if (mkdir(p.private, mode) < 0) {
        record_withdraw();
        return -1;
    }
    if (identify(AT_FDCWD, p.private, AT_SYMLINK_NOFOLLOW, &id) == 0 &&
        record_identity("rmtree-if", &id, p.path) == 0 && rename_new(p.private, p.path, true) == 0)
        return 0;
    int saved = errno;
    rmdir(p.private);
    errno = saved;
    return -1;
}

/* ---- The scratch directory and a program's ledger, reused where they are as they were ----- */

/* What most programs leave as they got it goes to the next request of the same slot under this
 * name: making and removing files would be half of what a small program costs. */
ASYNC_SAFE static const char *spare_name(char name[CLEANUP_ID_SIZE])
{
    struct text t = {.at = name, .room = CLEANUP_ID_SIZE};
    text_add(&t, ".spare-");
    text_number(&t, mine.who.spare, 1);
    return text_end(&t);
}

/* In the server's own directory of them, or, where there is none, under a name in TMPDIR that
 * nobody can guess. */
static int scratch_name(char path[PATH_MAX], bool pooled)
{
    char hex[HEX_SIZE];
    struct text t = {.at = path, .room = PATH_MAX};
    text_add(&t, pooled ? mine.who.pool_path : mine.who.tmpdir);
    text_add(&t, pooled ? "/" : "/hangupd-");
    text_add(&t, mine.who.id);
    if (!pooled) {
        if (random_hex(hex) < 0)
            return -1;
        text_char(&t, '-');
        text_add(&t, hex);
    }
    text_end(&t);
    errno = ENAMETOOLONG;
    return t.length + 1 < t.room ? 0 : -1;
}

/* Make it; its record is written. */
static int scratch_make(const char *path, bool pooled)
{
    char spare[CLEANUP_ID_SIZE];
    struct stat now;
    int pool = mine.who.pool;
    if (!pooled
            ? mkdir(path, 0700) < 0
            : (mine.who.spare == 0 || renameat(pool, spare_name(spare), pool, mine.who.id) < 0) &&
                  mkdirat(pool, mine.who.id, 0700) < 0)
        return -1;
    memcpy(mine.scratch, path, strlen(path) + 1);
    mine.scratch_pooled = pooled && fstatat(pool, mine.who.id, &now, AT_SYMLINK_NOFOLLOW) == 0;
    if (mine.scratch_pooled)
        mine.scratch_made = now.st_ctim;
    return 0;
}

const char *cleanup_tempdir(void)
{
    char path[PATH_MAX];
    if (!cleanup_is_owner()) {
        errno = EPERM;
        return NULL;
    }
    for (int pooled = mine.who.pool_path != NULL ? 1 : 0; pooled >= 0 && mine.scratch[0] == '\0';
         pooled--) {
        if (scratch_name(path, pooled) < 0 || record("scratch", path) < 0)
            return NULL;
        if (scratch_make(path, pooled) < 0) /* somebody has cleaned TMPDIR up, it may be */
            record_withdraw();
    }
    return mine.scratch[0] != '\0' ? mine.scratch : NULL;
}

static bool may_reuse_ledger(void)
{
    return mine.who.spare != 0 && !mine.who.sync;
}

/* Make HEAD as long as a file of SIZE bytes by a comment, or, for a single byte, an empty line. */
static void pad(struct text *head, off_t size)
{
    if ((off_t)head->length >= size || size >= (off_t)head->room)
        return;
    if ((off_t)head->length < size - 1)
        text_char(head, '#');
    while ((off_t)head->length < size - 1)
        text_char(head, ' ');
    text_char(head, '\n');
}

/* Let the file SPARE be the ledger NAME, with the first lines HEAD in the place of its old ones: as
 * ledger_make. It is not truncated: what has been, ext4 writes to the disk when it is closed. */
static int ledger_reuse(const char *spare, const char *name, struct text *head)
{
    struct stat now;
    int dir = mine.who.dir;
    if (!may_reuse_ledger())
        return -1;
    int fd = ledger_find(dir, spare, O_RDWR);
    if (fd < 0)
        return -1;
    if (fstat(fd, &now) == 0) {
        pad(head, now.st_size);
        if (now.st_size <= (off_t)head->length && write_all(fd, head->at, head->length) == 0 &&
            fcntl(fd, F_SETFL, O_APPEND) == 0 && renameat(dir, spare, dir, name) == 0)
            return fd;
    }
    close(fd);
    return -1;
}

/* The server's own ledger is made when the program has answered, which takes room on a disk that
 * may be full by then, and all its work would be for nothing: the room is taken before it starts,
 * by a file that waits for such a day. */
static const char *room_name(char name[CLEANUP_ID_SIZE])
{
    struct text t = {.at = name, .room = CLEANUP_ID_SIZE};
    spare_name(name);
    t.length = strlen(name);
    text_add(&t, "-room");
    return text_end(&t);
}

static int ledger_from_room(const char *name, struct text *head)
{
    char room[CLEANUP_ID_SIZE];
    int saved = errno;
    int fd = ledger_reuse(room_name(room), name, head);
    errno = saved;
    return fd;
}

static int room_make(void)
{
    char room[CLEANUP_ID_SIZE], line[] = "\n";
    const struct text content = {.at = line, .length = 1, .room = sizeof line};
    if (!may_reuse_ledger())
        return ledger_open();
    if (faccessat(mine.who.dir, room_name(room), F_OK, AT_SYMLINK_NOFOLLOW) == 0)
        return 0;
    int fd = ledger_make(room, &content);
    if (fd < 0)
        return -1;
    close(fd);
    return 0;
}

int cleanup_open_for_program(void)
{
    char spare[CLEANUP_ID_SIZE], name[CLEANUP_ID_SIZE + 4], path[PATH_MAX];
    if (!cleanup_is_owner()) {
        errno = EPERM;
        return -1;
    }
    if (mine.program_fd >= 0)
        return mine.program_fd;
    struct text head = {.at = program_head.text, .room = HEADER_MAX};
    header_write(&head);
    head.room = sizeof program_head.text;
    bool pooled =
        mine.scratch[0] == '\0' && mine.who.pool_path != NULL && scratch_name(path, true) == 0;
    if (pooled) {
        text_add(&head, "scratch ");
        text_add(&head, path);
        text_char(&head, '\n');
    }
    mine.touched = 1;
    program_name(name, mine.who.id);
    mine.program_fd = ledger_reuse(spare_name(spare), name, &head);
    if (mine.program_fd < 0 && room_make() == 0)
        mine.program_fd = ledger_make(name, &head);
    program_head.length = head.length;
    if (mine.program_fd >= 0 && pooled)
        (void)scratch_make(path, true); /* else cleanup_tempdir makes one elsewhere */
    return mine.program_fd;
}

/* ---- Making things that other code makes: record only -------------------------------- */

static int record_path(const char *verb, const char *path)
{
    char full[PATH_MAX];
    return cleanup_absolute(path, full) < 0 ? -1 : record(verb, full);
}

int cleanup_unlink(const char *path)
{
    return record_path("unlink", path);
}

int cleanup_rmtree(const char *path)
{
    return record_path("rmtree", path);
}

int cleanup_run(const char *command)
{
    if (command == NULL) {
        errno = EINVAL;
        return -1;
    }
    return record("run", command);
}

/* ---- Reading: backwards, a line at a time -------------------------------------------- */

/* One line of a ledger, without its newline. */
struct line {
    off_t start;
    size_t length;
    bool too_long; /* for a record: nobody's, and reported */
    char text[CLEANUP_RECORD_MAX];
};
static struct line current;

/* Read exactly N bytes at AT. What cannot be read must not be taken for undone. */
ASYNC_SAFE static bool read_at(int fd, char *to, size_t n, off_t at)
{
    while (n > 0) {
        ssize_t got = pread(fd, to, n, at);
        if (got == 0 || (got < 0 && errno != EINTR))
            return false; /* an error, or somebody has cut the file meanwhile */
        if (got > 0) {
            to += got;
            at += got;
            n -= (size_t)got;
        }
    }
    return true;
}

#define NO_NEWLINE (-1)
#define NOT_READABLE (-2)

/* Where the last newline before END is. */
ASYNC_SAFE static off_t newline_before(int fd, off_t end)
{
    while (end > 0) {
        off_t from = end > (off_t)sizeof current.text ? end - (off_t)sizeof current.text : 0;
        if (!read_at(fd, current.text, (size_t)(end - from), from))
            return NOT_READABLE;
        for (off_t at = end - from; at > 0; at--)
            if (current.text[at - 1] == '\n')
                return from + at - 1;
        end = from;
    }
    return NO_NEWLINE;
}

/* Read the line that ends at END, just behind its newline, into `current`: 1, or 0 at the file's
 * beginning, or -1 when it cannot be read. */
ASYNC_SAFE static int line_read(int fd, off_t end)
{
    if (end <= 0)
        return end == 0 ? 0 : -1;
    off_t newline = newline_before(fd, end - 1);
    if (newline == NOT_READABLE)
        return -1;
    current.start = newline + 1;
    off_t length = end - 1 - current.start;
    current.too_long = length >= (off_t)sizeof current.text;
    current.length = current.too_long ? sizeof current.text - 1 : (size_t)length;
    if (!read_at(fd, current.text, current.length, current.start))
        return -1;
    current.text[current.length] = '\0';
    return 1;
}

/* Where the last whole line of SIZE bytes ends; a line without its newline never happened. */
ASYNC_SAFE static off_t lines_end(int fd, off_t size)
{
    off_t newline = newline_before(fd, size);
    return newline == NOT_READABLE ? -1 : newline + 1;
}

/* If the line is VERB or begins with "VERB ", its argument; else NULL. */
ASYNC_SAFE static const char *argument_of(const char *line, const char *verb)
{
    size_t n = strlen(verb);
    if (strncmp(line, verb, n) != 0)
        return NULL;
    return line[n] == '\0' ? line + n : line[n] == ' ' ? line + n + 1 : NULL;
}

#define LEDGER_MAGIC "# hangupd ledger 1 "

struct header {
    bool valid, this_boot;
    pid_t pid;
    unsigned long long start;
};

/* The number behind KEY in the header line. */
ASYNC_SAFE static unsigned long long header_number(const char *line, const char *key)
{
    unsigned long long n = 0;
    const char *at = strstr(line, key);
    if (at != NULL) {
        at += strlen(key);
        if (!parse_number(&at, ULLONG_MAX, &n))
            n = 0;
    }
    return n;
}

ASYNC_SAFE static struct header header_read(int fd)
{
    struct header h = {0};
    char line[512];
    ssize_t n = pread(fd, line, sizeof line - 1, 0);
    if (n <= 0)
        return h;
    line[n] = '\0';
    h.valid = strncmp(line, LEDGER_MAGIC, sizeof LEDGER_MAGIC - 1) == 0;
    if (!h.valid)
        return h;
    h.pid = (pid_t)header_number(line, " pid=");
    h.start = header_number(line, " start=");
    const char *boot = strstr(line, " boot=");
    h.this_boot = boot != NULL && strcmp(boot_id, "unknown") != 0 &&
                  strncmp(boot + 6, boot_id, BOOT_ID_SIZE - 1) == 0;
    return h;
}

/* ---- A ledger that was handed over as a descriptor ----------------------------------- */

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
    /* A shell's >> opens for writing only: read through a descriptor of our own. */
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    int own_fd = open(path, O_RDONLY | O_CLOEXEC);
    bool valid = header_read(own_fd >= 0 ? own_fd : fd).valid;
    if (own_fd >= 0)
        close(own_fd);
    return valid ? NULL : "is not a ledger, or was overwritten (open it with >>, never with >)";
}

int cleanup_fileid(const char *path, char text[CLEANUP_FILEID_SIZE], bool *directory)
{
    struct identity id;
    struct stat now;
    struct text t = {.at = text, .room = CLEANUP_FILEID_SIZE};
    if (lstat(path, &now) < 0 || identify(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW, &id) < 0)
        return -1;
    identity_write(&t, &id);
    text_end(&t);
    *directory = S_ISDIR(now.st_mode);
    return 0;
}

#include "tree.h"

/* ---- Undoing one record -------------------------------------------------------------- */

ASYNC_SAFE static bool is_not_there(int error)
{
    return error == ENOENT || error == ENOTDIR || error == ENAMETOOLONG;
}

ASYNC_SAFE static int undo_unlink(const char *path)
{
    return unlink(path) == 0 || is_not_there(errno) ? 0 : -1;
}

ASYNC_SAFE static int undo_rmtree(const char *path)
{
    int fd = open_directory(AT_FDCWD, path);
    if (fd >= 0)
        return remove_open_tree(fd, path);
    if (errno == ENOENT)
        return 0;
    return errno == ENOTDIR || errno == ELOOP ? undo_unlink(path) : -1;
}

#define POOL "scratch" /* in STATE/SERVER: a link to the pool, which is in TMPDIR, named so: */
#define POOL_PREFIX "/hangupd-"

/* Whether PATH's last name is that of the pool of the server whose token TOKEN begins with. */
ASYNC_SAFE static bool is_pool_of(const char *path, const char *token)
{
    const char *name = strrchr(path, '/');
    size_t prefix = sizeof POOL_PREFIX - 1;
    return path[0] == '/' && strncmp(name, POOL_PREFIX, prefix) == 0 &&
           strncmp(name + prefix, token, CLEANUP_TOKEN_SIZE - 1) == 0;
}

/* Remove a scratch directory. It may outlive its server: a pool to which there is no link any more
 * goes with the last one. And where somebody has cleaned TMPDIR up, the pool's name may have become
 * another user's: nothing of ours is there. */
ASYNC_SAFE static int undo_scratch(const struct cleanup_settling *how, const char *scratch)
{
    char pool[PATH_MAX], link[] = "../0123456789abcdef/" POOL;
    struct stat now;
    struct text t = TEXT(pool);
    int done = undo_rmtree(scratch), error = errno;
    text_bytes(&t, scratch, (size_t)(strrchr(scratch, '/') - scratch));
    if (!is_pool_of(text_end(&t), how->id))
        return done;
    if (done < 0) {
        bool strange = lstat(pool, &now) == 0 && now.st_uid != geteuid();
        errno = error;
        return strange ? 0 : -1;
    }
    memcpy(link + 3, how->id, CLEANUP_TOKEN_SIZE - 1);
    if (faccessat(how->dir, link, F_OK, AT_SYMLINK_NOFOLLOW) < 0 && errno == ENOENT)
        (void)rmdir(pool); /* unless another's is there */
    return 0;
}

/* What is known of the ledger at hand. */
struct settlement {
    const struct cleanup_settling *how;
    int fd;
    bool kept;      /* what is above is kept: only scratch directories go */
    bool this_boot; /* device numbers mean what they meant */
    bool failed, run_left;
};

/* Is what IS there the thing that WAS recorded? 1 yes, 0 no, -1 it cannot be told. */
ASYNC_SAFE static int is_same(const struct settlement *s, const struct identity *was,
                              const struct identity *is)
{
    if (was->inode != is->inode)
        return 0;
    if (s->this_boot && (was->major != is->major || was->minor != is->minor))
        return 0;
    if (!was->has_birth || !is->has_birth)
        return s->how->after_crash ? -1 : 1;
    return was->birth_seconds == is->birth_seconds &&
           was->birth_nanoseconds == is->birth_nanoseconds;
}

ASYNC_SAFE static int undo_if(const struct settlement *s, const char *argument, bool directory)
{
    struct identity was, is;
    if (!identity_parse(&argument, &was) || *argument != '/') {
        errno = EINVAL;
        return -1;
    }
    if (identify(AT_FDCWD, argument, AT_SYMLINK_NOFOLLOW, &is) < 0)
        return is_not_there(errno) ? 0 : -1;
    int same = is_same(s, &was, &is);
    if (same < 0)
        errno = ESTALE;
    if (same <= 0)
        return same;
    if (!directory)
        return undo_unlink(argument);
    int fd = open_directory(AT_FDCWD, argument);
    if (fd < 0)
        return is_not_there(errno) ? 0 : -1;
    /* What was opened is what is emptied: it must still be the one that was looked at. */
    if (identify(fd, "", AT_EMPTY_PATH, &is) < 0) {
        close_keep_errno(fd);
        return -1;
    }
    if (is_same(s, &was, &is) > 0)
        return remove_open_tree(fd, argument);
    close(fd);
    return 0;
}

/* The same of the record in `current` for a verb that removes trees. With a slash behind it, a name
 * that has become a link would be followed, O_NOFOLLOW or not: it is taken off. */
ASYNC_SAFE static const char *tree_of(const char *verb)
{
    const char *arg = argument_of(current.text, verb);
    size_t start = arg != NULL ? (size_t)(arg - current.text) : 0;
    for (size_t n = arg != NULL ? strlen(arg) : 0; n > 1 && arg[n - 1] == '/'; n--)
        current.text[start + n - 1] = '\0';
    return arg;
}

/* Undo the record in `current`: 1 done, 0 nothing to do with it, -1 failed (errno). */
ASYNC_SAFE static int undo_record(struct settlement *s)
{
    const char *line = current.text, *arg;
    if (line[0] == '#' || current.length == 0)
        return 0;
    if (strlen(line) != current.length) { /* a NUL: what it names would be cut short */
        errno = EBADMSG;
        return s->kept ? 0 : -1;
    }
    if (current.too_long) { /* only its beginning was read: likewise */
        errno = ENAMETOOLONG;
        return s->kept ? 0 : -1;
    }
    if ((arg = tree_of("scratch")) != NULL && *arg == '/')
        return undo_scratch(s->how, arg) < 0 ? -1 : 1;
    if (s->kept)
        return 0;
    if (strcmp(line, "commit") == 0) {
        s->kept = true;
        return 0;
    }
    if (argument_of(line, "sent") != NULL)
        return 0;
    if ((arg = argument_of(line, "unlink-if")) != NULL)
        return undo_if(s, arg, false) < 0 ? -1 : 1;
    if ((arg = tree_of("rmtree-if")) != NULL)
        return undo_if(s, arg, true) < 0 ? -1 : 1;
    if ((arg = argument_of(line, "unlink")) != NULL && *arg == '/')
        return undo_unlink(arg) < 0 ? -1 : 1;
    if ((arg = tree_of("rmtree")) != NULL && *arg == '/')
        return undo_rmtree(arg) < 0 ? -1 : 1;
    if ((arg = argument_of(line, "run")) != NULL && *arg != '\0') {
        if (s->how->run == NULL) {
            s->run_left = true;
            return 0;
        }
        return s->how->run(s->how->id, arg) < 0 ? -1 : 1;
    }
    errno = EBADMSG; /* no such verb, or a path that is not absolute */
    return -1;
}

ASYNC_SAFE static bool strike(int fd, off_t at)
{
    ssize_t n;
    do
        n = pwrite(fd, "#", 1, at);
    while (n < 0 && errno == EINTR);
    return n == 1;
}

/* Undo the open ledger backwards, once; what is done becomes a comment. */
ASYNC_SAFE static void undo_pass(struct settlement *s, off_t size)
{
    off_t end = lines_end(s->fd, size);
    int found = 0;
    s->failed = false;
    while (!s->run_left && (found = line_read(s->fd, end)) > 0) {
        end = current.start;
        int done = undo_record(s);
        if (done < 0) {
            s->failed = true;
            if (errno != 0)
                report(s->how->id, "could not undo:", current.text, errno);
        } else if (done > 0 && !strike(s->fd, end)) {
            s->failed = true;
            report(s->how->id, "could not strike out:", current.text, errno);
        }
    }
    if (found < 0) {
        s->failed = true;
        report(s->how->id, "could not read the ledger", s->how->id, errno);
    }
}

/* ---- Settling a ledger --------------------------------------------------------------- */

static ASYNC_SAFE const char *program_name(char name[CLEANUP_ID_SIZE + 4], const char *id)
{
    struct text t = {.at = name, .room = CLEANUP_ID_SIZE + 4};
    text_add(&t, id);
    text_add(&t, ".p");
    return text_end(&t);
}

/* Open the ledger NAME, which must be a plain file of this user's own, with no other name: whatever
 * else is there was put there by somebody else, when STATE was open to others, to have it obeyed.
 * -1 with ENOENT: none; with EPERM: no ledger of ours. */
ASYNC_SAFE static int ledger_find(int dir, const char *name, int flags)
{
    struct stat now;
    int fd = openat(dir, name, flags | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0) {
        if (errno == ELOOP || errno == EISDIR || errno == ENXIO)
            errno = EPERM;
        return -1;
    }
    if (fstat(fd, &now) == 0) {
        if (S_ISREG(now.st_mode) && now.st_uid == geteuid() && now.st_nlink <= 1)
            return fd;
        errno = EPERM;
    }
    close_keep_errno(fd);
    return -1;
}

/* Say that it could not: what was being done, and by errno why not. */
ASYNC_SAFE static void report_unopened(const char *id, const char *doing, const char *name)
{
    if (errno == EPERM)
        report(id, "refused, as it is not a plain file of this user's own: the ledger", name, 0);
    else
        report(id, doing, name, errno);
}

/* Open and lock a ledger: whoever else settles it is waited for. */
ASYNC_SAFE static int ledger_lock(int dir, const char *name)
{
    struct stat now;
    int fd = ledger_find(dir, name, O_RDWR);
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

/* Undo (or, KEPT, keep) one of the ledger's two files; it stays, locked: *LOCKED is a descriptor
 * on it, or -1 if it was not there. */
ASYNC_SAFE static enum cleanup_result settle_file(const struct cleanup_settling *how,
                                                  const char *name, bool kept, int *locked)
{
    int fd = *locked = ledger_lock(how->dir, name);
    if (fd < 0) {
        if (errno == ENOENT)
            return CLEANUP_DONE;
        report_unopened(how->id, "could not open the ledger", name);
        return CLEANUP_FAILED;
    }
    boot_id_read();
    struct header h = header_read(fd);
    if (!h.valid)
        report(how->id, "the ledger was overwritten and records may be lost:", name, 0);
    struct settlement s = {.how = how, .fd = fd, .this_boot = h.this_boot};
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
    }
    return s.run_left ? CLEANUP_RUN_LEFT : s.failed ? CLEANUP_FAILED : CLEANUP_DONE;
}

/* Remove what was settled: not a file that has come since, from another directory. */
ASYNC_SAFE static bool remove_settled(int dir, const char *name, int locked)
{
    return locked < 0 || unlinkat(dir, name, 0) == 0 || errno == ENOENT;
}

/* What its maker died over, or was stopped in. */
ASYNC_SAFE static bool remove_partial(int dir, const char *name)
{
    char partial[CLEANUP_ID_SIZE + 8];
    return unlinkat(dir, partial_name(partial, name), 0) == 0 || errno == ENOENT;
}

/* A program that has overwritten its ledger has thrown away the record of its scratch directory. */
ASYNC_SAFE static bool remove_pooled(const struct cleanup_settling *how)
{
    char path[PATH_MAX];
    struct text t = TEXT(path);
    if (how->pool_path == NULL || !is_pool_of(how->pool_path, how->id))
        return true; /* or it is another server's ledger, taken over */
    text_add(&t, how->pool_path);
    text_char(&t, '/');
    text_add(&t, how->id);
    if (undo_scratch(how, text_end(&t)) == 0)
        return true;
    report(how->id, "could not remove the scratch directory", path, errno);
    return false;
}

/* All is settled: the ledgers can go. */
ASYNC_SAFE static bool remove_ledgers(const struct cleanup_settling *how, bool kept,
                                      const char *program, const int locked[2])
{
    if (remove_settled(how->dir, program, locked[0]) &&
        remove_settled(how->dir, how->id, locked[1]) &&
        (kept || (remove_partial(how->dir, program) && remove_partial(how->dir, how->id))))
        return true;
    report(how->id, "could not remove the ledger", how->id, errno);
    return false;
}

ASYNC_SAFE static enum cleanup_result settle(const struct cleanup_settling *how, bool kept)
{
    char program[CLEANUP_ID_SIZE + 4];
    int locked[2] = {-1, -1};
    program_name(program, how->id);
    /* The program's records are newer than the server's own, which only prepared its start. */
    enum cleanup_result first = settle_file(how, program, kept, &locked[0]), result = first;
    if (first != CLEANUP_RUN_LEFT) {
        result = settle_file(how, how->id, kept, &locked[1]);
        if (result == CLEANUP_DONE)
            result = first;
    }
    if (result == CLEANUP_DONE &&
        (!remove_pooled(how) || !remove_ledgers(how, kept, program, locked)))
        result = CLEANUP_FAILED;
    for (int i = 0; i < 2; i++)
        if (locked[i] >= 0)
            close(locked[i]);
    return result;
}

/* Find the `sent` mark that is not struck out: 1, 0 if there is none, -1 if it cannot be told. */
ASYNC_SAFE static int sent_find(int fd, uint64_t *n, off_t *at)
{
    struct stat now;
    if (fstat(fd, &now) < 0)
        return -1;
    int found;
    off_t end = lines_end(fd, now.st_size);
    for (; (found = line_read(fd, end)) > 0; end = current.start) {
        bool whole = !current.too_long && strlen(current.text) == current.length;
        const char *arg = whole ? argument_of(current.text, "sent") : NULL;
        unsigned long long value;
        if (arg != NULL && parse_number(&arg, UINT64_MAX, &value) && *arg == '\0') {
            *n = value;
            *at = current.start;
            return 1;
        }
    }
    return found;
}

int cleanup_was_sent(int dir, const char *id, uint64_t *n)
{
    off_t at;
    int fd = ledger_find(dir, id, O_RDONLY);
    if (fd < 0)
        return errno == ENOENT ? 0 : -1;
    int sent = sent_find(fd, n, &at);
    close_keep_errno(fd);
    return sent;
}

ASYNC_SAFE static int sent_strike(int dir, const char *id)
{
    uint64_t n;
    off_t at;
    int fd = ledger_find(dir, id, O_RDWR);
    if (fd < 0)
        return errno == ENOENT ? 0 : -1;
    int found = sent_find(fd, &n, &at);
    int done = found < 0 || (found > 0 && !strike(fd, at)) ? -1 : 0;
    close_keep_errno(fd);
    return done;
}

ASYNC_SAFE int cleanup_unsent(void)
{
    return cleanup_pending() ? sent_strike(mine.who.dir, mine.who.id) : 0;
}

ASYNC_SAFE static enum cleanup_result settle_mine(bool kept)
{
    if (!cleanup_pending())
        return CLEANUP_DONE;
    struct cleanup_settling how = {
        .dir = mine.who.dir, .id = mine.who.id, .pool_path = mine.who.pool_path};
    /* What a dead program has locked, as one process at a time was to write, is locked still: it
     * belongs to the open file, which we share. */
    if (mine.program_fd >= 0)
        (void)flock(mine.program_fd, LOCK_UN);
    enum cleanup_result result = settle(&how, kept);
    if (result == CLEANUP_DONE)
        mine.touched = 0;
    return result;
}

ASYNC_SAFE enum cleanup_result cleanup_undo(void)
{
    return settle_mine(false);
}

/* Whether the open directory FD has nothing in it. On the stack, as a page that the server has
 * written to would be copied. */
ASYNC_SAFE static bool is_empty(int fd)
{
    union {
        char bytes[512];
        struct dirent64 aligned;
    } entries;
    long n;
    while ((n = syscall(SYS_getdents64, fd, entries.bytes, sizeof entries.bytes)) > 0)
        for (long at = 0; at < n;) {
            const struct dirent64 *e = (const void *)(entries.bytes + at);
            at += e->d_reclen;
            if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
                return false;
        }
    return n == 0;
}

/* Whether the open directory FD has attributes of a program's: with a default ACL, what the next
 * one makes there would be open to whom the last one wanted. */
ASYNC_SAFE static bool has_attributes(int fd)
{
    char names[256];
    ssize_t n = flistxattr(fd, names, sizeof names);
    for (ssize_t at = 0; at < n; at += (ssize_t)strlen(names + at) + 1)
        if (strncmp(names + at, "security.", sizeof "security." - 1) != 0)
            return true;
    return n < 0 && errno != EOPNOTSUPP;
}

/* Leave the scratch directory to the next request. False: it is not as it was made. Whoever has
 * made something there, or changed it in whatever way, has changed its time; but before Linux 6.13,
 * where the clock of files stands still for milliseconds, it is looked at, too. */
ASYNC_SAFE static bool scratch_give_back(void)
{
    char spare[CLEANUP_ID_SIZE];
    struct stat now;
    int pool = mine.who.pool;
    if (!mine.scratch_pooled || mine.who.spare == 0)
        return false;
    int fd = openat(pool, mine.who.id, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return false;
    bool same = fstat(fd, &now) == 0 && now.st_mode == (S_IFDIR | 0700) &&
                now.st_uid == geteuid() && now.st_ctim.tv_sec == mine.scratch_made.tv_sec &&
                now.st_ctim.tv_nsec == mine.scratch_made.tv_nsec && is_empty(fd) &&
                !has_attributes(fd);
    close(fd);
    return same && renameat(pool, mine.who.id, pool, spare_name(spare)) == 0;
}

/* Leave the program's ledger, which has no record, to the next request. False: somebody may still
 * write there for this one, as a read lease is refused (fcntl(2), F_SETLEASE). Who opens it from
 * then on breaks the lease, and of that we are told by a signal that is ignored, unlike SIGIO. */
ASYNC_SAFE static bool ledger_give_back(const char *name)
{
    char spare[CLEANUP_ID_SIZE];
    int dir = mine.who.dir;
    if (!may_reuse_ledger())
        return false;
    close(mine.program_fd);
    mine.program_fd = -1;
    int fd = ledger_find(dir, name, O_RDONLY);
    if (fd < 0)
        return false;
    bool given = fcntl(fd, F_SETSIG, SIGURG) == 0 && fcntl(fd, F_SETLEASE, F_RDLCK) == 0 &&
                 renameat(dir, name, dir, spare_name(spare)) == 0;
    if (given && fcntl(fd, F_GETLEASE) != F_RDLCK)
        unlinkat(dir, spare, 0);
    close(fd);
    return given;
}

ASYNC_SAFE enum cleanup_result cleanup_keep(void)
{
    char program[CLEANUP_ID_SIZE + 4];
    if (!cleanup_pending() || cleanup_has_records())
        return settle_mine(true);
    /* Nothing but a scratch directory, as with most programs: nothing to read. */
    if (mine.scratch[0] != '\0' && !scratch_give_back() && undo_rmtree(mine.scratch) < 0)
        return settle_mine(true); /* which tells why */
    program_name(program, mine.who.id);
    if (mine.program_fd >= 0 && !ledger_give_back(program) &&
        unlinkat(mine.who.dir, program, 0) < 0 && errno != ENOENT)
        return settle_mine(true);
    if (unlinkat(mine.who.dir, mine.who.id, 0) < 0 && errno != ENOENT)
        return settle_mine(true);
    mine.touched = 0;
    return CLEANUP_DONE;
}

ASYNC_SAFE enum cleanup_result cleanup_settle(const struct cleanup_settling *how)
{
    return settle(how, false);
}

enum cleanup_result cleanup_settle_kept(const struct cleanup_settling *how)
{
    return settle(how, true);
}

enum cleanup_result cleanup_settle_refuted(const struct cleanup_settling *how)
{
    /* Struck out first: whoever goes on after a crash must go on with the undo. */
    if (sent_strike(how->dir, how->id) < 0) {
        report(how->id, "could not strike out the sent mark of", how->id, errno);
        return CLEANUP_FAILED;
    }
    return settle(how, false);
}

bool cleanup_exists(int dir, const char *id)
{
    char program[CLEANUP_ID_SIZE + 4];
    return faccessat(dir, id, F_OK, AT_SYMLINK_NOFOLLOW) == 0 ||
           faccessat(dir, program_name(program, id), F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

/* ---- Directories of state ------------------------------------------------------------ */

static int make_parents(const char *path)
{
    char part[PATH_MAX];
    size_t length = strlen(path);
    if (length >= sizeof part) {
        errno = ENAMETOOLONG;
        return -1;
    }
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
    errno = 0; /* from here on the words say it all */
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

/* The lock is POSIX: it belongs to this process alone, not to its children, and dies with it. */
static bool lock_try(int fd)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    return fcntl(fd, F_SETLK, &lock) == 0;
}

static struct stat own; /* this process's server directory: its lock does not bind itself */

int cleanup_server_open(int state, char token[CLEANUP_TOKEN_SIZE])
{
    /* A few tries: between any two of these steps another server's recovery may take the
     * directory for a dead server's and remove it. */
    for (int tries = 0; tries < 10; tries++) {
        struct stat now;
        if (random_hex(token) < 0 || mkdirat(state, token, 0700) < 0)
            return -1;
        int dir = openat(state, token, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        int lock = dir < 0 ? -1 : openat(dir, "lock", O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        if (lock >= 0 && lock_try(lock) && fstat(lock, &now) == 0 && now.st_nlink == 1 &&
            fstat(dir, &own) == 0)
            return dir; /* the lock's descriptor stays open: closing it would let go */
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

static bool remove_name(int dir, const char *name, int flags)
{
    return unlinkat(dir, name, flags) == 0 || errno == ENOENT;
}

int cleanup_pool_open(int dir, const char *tmpdir, const char *token, char *path)
{
    char hex[HEX_SIZE];
    struct text t = {.at = path, .room = PATH_MAX};
    if (strchr(tmpdir, '\n') != NULL) {
        errno = EINVAL;
        return -1;
    }
    if (random_hex(hex) < 0)
        return -1;
    text_add(&t, tmpdir);
    text_add(&t, POOL_PREFIX);
    text_add(&t, token);
    text_char(&t, '-');
    text_add(&t, hex);
    text_end(&t);
    if (t.length + CLEANUP_ID_SIZE + 1 >= PATH_MAX) {
        errno = ENAMETOOLONG;
        return -1;
    }
    /* The link first: whoever dies in between leaves nothing that is not known. */
    if (symlinkat(path, dir, POOL) < 0 || mkdir(path, 0700) < 0)
        return -1;
    int pool = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (pool >= 0) /* systemd-tmpfiles(8) leaves what is locked alone, however old it is */
        (void)flock(pool, LOCK_SH);
    return pool;
}

/* ---- Recovery ------------------------------------------------------------------------ */

static bool is_hex(const char *s, size_t n)
{
    return strspn(s, "0123456789abcdef") == n;
}

#define FAILED "failed" /* in STATE: what could not be undone */

static bool is_token(const char *name)
{
    return strlen(name) == CLEANUP_TOKEN_SIZE - 1 && is_hex(name, CLEANUP_TOKEN_SIZE - 1);
}

/* A request's id, and so its ledger's name: TOKEN-NUMBER. */
bool cleanup_is_id(const char *name)
{
    size_t length = strlen(name);
    return length > CLEANUP_TOKEN_SIZE && length < CLEANUP_ID_SIZE &&
           is_hex(name, CLEANUP_TOKEN_SIZE - 1) && name[CLEANUP_TOKEN_SIZE - 1] == '-' &&
           is_hex(name + CLEANUP_TOKEN_SIZE, length - CLEANUP_TOKEN_SIZE);
}

/* A descriptor of its own: a copy would share its place in the directory with other processes. */
static DIR *list_directory(int dir)
{
    int fd = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *list = fd < 0 ? NULL : fdopendir(fd);
    if (list == NULL && fd >= 0)
        close(fd);
    return list;
}

/* The next entry, or NULL, and then *ERROR says whether that was the end. */
static const struct dirent *next_entry(DIR *list, int *error)
{
    errno = 0;
    const struct dirent *e = readdir(list);
    if (e == NULL && errno != 0)
        *error = errno;
    return e;
}

char (*cleanup_list(int dir, size_t *count))[CLEANUP_ID_SIZE]
{
    char(*ids)[CLEANUP_ID_SIZE] = NULL;
    size_t room = 0;
    *count = 0;
    DIR *list = list_directory(dir);
    if (list == NULL)
        return NULL;
    int error = 0;
    for (const struct dirent *e; (e = next_entry(list, &error)) != NULL;) {
        char name[CLEANUP_ID_SIZE];
        size_t length = strlen(e->d_name);
        bool program = length > 2 && strcmp(e->d_name + length - 2, ".p") == 0;
        if (program)
            length -= 2;
        if (length >= sizeof name)
            continue;
        memcpy(name, e->d_name, length);
        name[length] = '\0';
        /* ID comes with its ID.p; an ID.p alone is what a crash between two unlinks left. */
        if (!cleanup_is_id(name) ||
            (program && faccessat(dir, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0))
            continue;
        if (*count == room) {
            room = room == 0 ? 64 : room * 2;
            void *more = realloc(ids, room * sizeof *ids);
            if (more == NULL) {
                error = ENOMEM;
                break;
            }
            ids = more;
        }
        memcpy(ids[(*count)++], name, sizeof name);
    }
    closedir(list);
    errno = error;
    return ids;
}

static int open_elsewhere(int state, const char *id)
{
    int dir = -1;
    DIR *list = cleanup_is_id(id) ? list_directory(state) : NULL;
    for (const struct dirent *e; list != NULL && dir < 0 && (e = readdir(list)) != NULL;) {
        if (!is_token(e->d_name) && strcmp(e->d_name, FAILED) != 0)
            continue;
        dir = openat(state, e->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (dir >= 0 && !cleanup_exists(dir, id)) {
            close(dir);
            dir = -1;
        }
    }
    if (list != NULL)
        closedir(list);
    return dir;
}

static bool is_elsewhere(int state, const char *id)
{
    int dir = open_elsewhere(state, id);
    if (dir >= 0)
        close(dir);
    return dir >= 0;
}

/* The session that the ledger's header names, if it is still the one; else 0. */
static pid_t session_of(int dir, const char *id)
{
    char program[CLEANUP_ID_SIZE + 4];
    int fd = ledger_find(dir, id, O_RDONLY);
    if (fd < 0)
        fd = ledger_find(dir, program_name(program, id), O_RDONLY);
    if (fd < 0)
        return 0;
    struct header head = header_read(fd);
    close(fd);
    bool lives =
        head.valid && head.this_boot && head.pid > 1 && !session_is_over(head.pid, head.start);
    return lives ? head.pid : 0;
}

/* End what the requests IDS, and all others of the dead server TOKEN unless that is NULL, have
 * left running. A ledger that the server had itself taken over bears another server's token. */
static void end_leftovers(int state, int dir, const char *token, char (*ids)[CLEANUP_ID_SIZE],
                          size_t count)
{
    pid_t *sessions = calloc(count + 1, sizeof *sessions);
    struct hunt h = {.ids = ids, .id_count = count, .token = token, .state = state};
    h.sessions = sessions;
    for (size_t i = 0; sessions != NULL && i < count; i++) {
        pid_t session = session_of(dir, ids[i]);
        if (session != 0)
            sessions[h.session_count++] = session;
    }
    if (!hunt_down(&h))
        report(token != NULL ? token : ids[0], "some processes of", "a dead server would not end",
               0);
    free(sessions);
}

/* Dot files are ledgers that were never finished: their maker is dead. */
static bool sweep_unfinished(int dir)
{
    int error = 0;
    DIR *list = list_directory(dir);
    if (list == NULL)
        return false;
    for (const struct dirent *e; (e = next_entry(list, &error)) != NULL;)
        if (e->d_name[0] == '.' && e->d_name[1] != '\0' && e->d_name[1] != '.' &&
            !remove_name(dir, e->d_name, 0))
            error = errno;
    closedir(list);
    errno = error;
    return error == 0;
}

bool cleanup_adopt(int from, int to, const char *id)
{
    char program[CLEANUP_ID_SIZE + 4];
    program_name(program, id);
    /* ID.p first: alone in the old place, ID would look complete without it. */
    if (renameat(from, program, to, program) < 0 && errno != ENOENT)
        return false;
    return renameat(from, id, to, id) == 0 || errno == ENOENT;
}

/* Whether the ledger NAME in DIR has the record of the scratch directory PATH. */
static bool has_scratch(int dir, const char *name, const char *path)
{
    struct stat now;
    int fd = ledger_find(dir, name, O_RDONLY);
    bool found = false;
    if (fd < 0)
        return false;
    off_t end = fstat(fd, &now) == 0 ? lines_end(fd, now.st_size) : 0;
    for (; !found && line_read(fd, end) > 0; end = current.start) {
        const char *arg = argument_of(current.text, "scratch");
        found = arg != NULL && strcmp(arg, path) == 0;
    }
    close(fd);
    return found;
}

/* Whether the scratch directory PATH of the request ID goes with its ledger, which is elsewhere in
 * STATE now: an undo command of it may need what is there. */
static bool is_needed_elsewhere(int state, const char *id, const char *path)
{
    char program[CLEANUP_ID_SIZE + 4];
    int dir = open_elsewhere(state, id);
    if (dir < 0)
        return false;
    bool needed = has_scratch(dir, program_name(program, id), path) || has_scratch(dir, id, path);
    close(dir);
    return needed;
}

/* Remove the pool PATH with all that no ledger needs. */
static bool empty_pool(int state, const char *path)
{
    char each[PATH_MAX];
    int error = 0, left = 0;
    int fd = open_directory(AT_FDCWD, path);
    DIR *list = fd < 0 ? NULL : fdopendir(fd);
    if (list == NULL) {
        if (fd >= 0)
            close_keep_errno(fd);
        return false;
    }
    for (const struct dirent *e; (e = next_entry(list, &error)) != NULL;) {
        struct text t = TEXT(each);
        text_add(&t, path);
        text_char(&t, '/');
        text_add(&t, e->d_name);
        text_end(&t);
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
            continue;
        if (is_needed_elsewhere(state, e->d_name, each))
            left++;
        else if (undo_rmtree(each) < 0)
            error = errno;
    }
    closedir(list);
    errno = error;
    return error == 0 && (left > 0 || undo_rmtree(path) == 0);
}

/* Remove the pool of the server TOKEN. A link that another user has put there, or to anything else,
 * is not obeyed. */
static bool remove_pool(int state, int dir, const char *token)
{
    char path[PATH_MAX];
    struct stat link, pool;
    ssize_t n = readlinkat(dir, POOL, path, sizeof path - 1);
    if (n < 0 || fstatat(dir, POOL, &link, AT_SYMLINK_NOFOLLOW) < 0)
        return errno == ENOENT;
    path[n] = '\0';
    bool ours = link.st_uid == geteuid() && link.st_nlink == 1 && is_pool_of(path, token);
    bool there = ours && lstat(path, &pool) == 0;
    if (ours && !there && errno != ENOENT)
        return false;
    there = there && pool.st_uid == geteuid();
    if ((there && !empty_pool(state, path)) || !remove_name(dir, POOL, 0))
        return false;
    if (there)
        (void)rmdir(path); /* what was needed may have gone since, when the link was there still */
    return true;
}

static bool remove_server_files(int state, int dir, const char *token)
{
    return remove_pool(state, dir, token) && remove_name(dir, "scoreboard", 0) &&
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

/* Leave in IDS only those that are wanted. */
static size_t keep_wanted(const struct cleanup_recovery *r, char (*ids)[CLEANUP_ID_SIZE],
                          size_t count)
{
    size_t kept = 0;
    for (size_t i = 0; i < count; i++)
        if (r->wanted == NULL || r->wanted(ids[i]))
            memmove(ids[kept++], ids[i], sizeof ids[i]);
    return kept;
}

/* Settle a ledger whose maker, and maker's server, are dead. False: it waits here for another try.
 */
static bool recover_ledger(const struct cleanup_recovery *r, int dir, const char *id)
{
    struct cleanup_settling how = {.dir = dir, .id = id, .after_crash = true, .run = r->run};
    uint64_t n;
    int sent = cleanup_was_sent(dir, id, &n);
    enum cleanup_result result = CLEANUP_FAILED;
    if (sent < 0)
        report_unopened(id, "could not look for the sent mark of", id);
    else
        result = sent > 0 ? cleanup_settle_kept(&how) : cleanup_settle(&how);
    r->settled(id, result, sent > 0);
    if (result == CLEANUP_DONE || r->adopt < 0 || cleanup_adopt(dir, r->adopt, id))
        return true;
    report(id, "could not take over the ledger", id, errno);
    return false;
}

static bool cannot_look(const char *token)
{
    report(token, "could not look for ledgers in", token, errno);
    return false;
}

static bool cannot_remove(const char *token)
{
    report(token, "could not remove the dead server's directory", token, errno);
    return false;
}

/* Settle all that is wanted in the locked directory of a dead server, or (TOKEN NULL) in failed. */
static bool recover_directory(const struct cleanup_recovery *r, int dir, const char *token)
{
    size_t count;
    char(*ids)[CLEANUP_ID_SIZE] = cleanup_list(dir, &count);
    bool listed = errno == 0 || cannot_look(token != NULL ? token : FAILED);
    count = keep_wanted(r, ids, count);
    if (token != NULL && (r->wanted == NULL || count > 0))
        end_leftovers(r->state, dir, r->wanted == NULL ? token : NULL, ids, count);
    bool done = listed;
    for (size_t i = 0; i < count; i++)
        done = recover_ledger(r, dir, ids[i]) && done;
    free(ids);
    return done;
}

/* Who wants nothing here must not even lock it: a start would take the server for a living one. */
static bool is_any_wanted(const struct cleanup_recovery *r, int dir)
{
    size_t count;
    char(*ids)[CLEANUP_ID_SIZE] = r->wanted != NULL ? cleanup_list(dir, &count) : NULL;
    bool any = r->wanted == NULL || errno != 0 || keep_wanted(r, ids, count) > 0;
    free(ids);
    return any;
}

/* False: there may be ledgers that could not be looked at. */
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
    bool is_own = known && now.st_dev == own.st_dev && now.st_ino == own.st_ino;
    if (is_own || !is_any_wanted(r, dir)) {
        close(dir);
        return true;
    }
    /* Without its lock it is half removed, or was put here by hand: only one may take it. */
    int lock = openat(dir, "lock", O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
    bool done = lock >= 0 || errno == ENOENT || cannot_look(token);
    if (lock >= 0 && lock_try(lock)) {
        done = recover_directory(r, dir, token);
        if (!remove_server(r->state, dir, token))
            done = cannot_remove(token);
    } else if (lock >= 0 && errno != EAGAIN && errno != EACCES) {
        done = cannot_look(token); /* not because its server lives */
    }
    if (lock >= 0)
        close(lock);
    close(dir);
    return done;
}

bool cleanup_recover(const struct cleanup_recovery *r)
{
    DIR *list = list_directory(r->state);
    bool done = list != NULL || cannot_look("STATE");
    int error = 0;
    for (const struct dirent *e; list != NULL && (e = next_entry(list, &error)) != NULL;)
        if (is_token(e->d_name) && !recover_server(r, e->d_name))
            done = false;
    if (list != NULL)
        closedir(list);
    errno = error;
    return error == 0 ? done : cannot_look("STATE");
}

/* ---- What failed for good: STATE/failed ---------------------------------------------- */

int cleanup_failed_open(int state, bool make)
{
    if (make && mkdirat(state, FAILED, 0700) < 0 && errno != EEXIST)
        return -1;
    int failed = openat(state, FAILED, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    struct stat now;
    if (failed < 0 || (fstat(failed, &now) == 0 && now.st_uid == geteuid()))
        return failed;
    close(failed);
    errno = EPERM; /* another user's */
    return -1;
}

bool cleanup_park(int state, int dir, const char *id)
{
    int failed = cleanup_failed_open(state, true);
    if (failed < 0)
        return false;
    bool parked = cleanup_adopt(dir, failed, id);
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
        return errno == ENOENT || cannot_look(FAILED);
    bool done = recover_directory(r, failed, NULL);
    close(failed);
    return done;
}

enum cleanup_place cleanup_find(int state, const char *id, pid_t *holder)
{
    enum cleanup_place place = CLEANUP_NOWHERE;
    int failed = cleanup_failed_open(state, false);
    if (failed >= 0 && cleanup_exists(failed, id))
        place = CLEANUP_PARKED;
    if (failed >= 0)
        close(failed);
    DIR *list = place == CLEANUP_NOWHERE ? list_directory(state) : NULL;
    for (const struct dirent *e; list != NULL && (e = readdir(list)) != NULL;) {
        if (!is_token(e->d_name))
            continue;
        int dir = openat(state, e->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (dir >= 0 && cleanup_exists(dir, id)) {
            struct flock held = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
            int lock = openat(dir, "lock", O_RDWR | O_NOFOLLOW | O_CLOEXEC);
            bool lives = lock >= 0 && fcntl(lock, F_GETLK, &held) == 0 && held.l_type != F_UNLCK;
            place = lives ? CLEANUP_HELD : CLEANUP_LEFT;
            *holder = held.l_pid;
            if (lock >= 0)
                close(lock);
        }
        if (dir >= 0)
            close(dir);
    }
    if (list != NULL)
        closedir(list);
    return place;
}

/* ---- Looking, without touching anything ---------------------------------------------- */

/* The array ITEMS, or where it went to have room for one more of SIZE bytes; NULL with errno. */
static void *make_room(void *items, size_t count, size_t *room, size_t size)
{
    size_t more = *room == 0 ? 64 : *room * 2;
    if (count < *room)
        return items;
    items = reallocarray(items, more, size);
    if (items != NULL)
        *room = more;
    return items;
}

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

static int compare_pids(const void *a, const void *b)
{
    const struct cleanup_process *x = a, *y = b;
    return (x->pid > y->pid) - (x->pid < y->pid);
}

struct cleanup_process *cleanup_look_processes(size_t *count)
{
    struct cleanup_process *all = NULL;
    size_t room = 0;
    *count = 0;
    errno = 0;
    DIR *proc = opendir("/proc");
    for (const struct dirent *e; proc != NULL && (e = readdir(proc)) != NULL;) {
        const char *name = e->d_name;
        unsigned long long pid;
        struct process p;
        if (!parse_number(&name, INT_MAX, &pid) || !process_read((pid_t)pid, &p) ||
            p.state == 'Z' || p.state == 'X')
            continue;
        void *more = make_room(all, *count, &room, sizeof *all);
        if (more == NULL)
            break;
        all = more;
        all[(*count)++] = (struct cleanup_process){(pid_t)pid, p.parent};
    }
    if (proc != NULL)
        closedir(proc);
    if (all != NULL)
        qsort(all, *count, sizeof *all, compare_pids);
    return all;
}

const struct cleanup_process *cleanup_find_process(const struct cleanup_process *all, size_t count,
                                                   pid_t pid)
{
    return bsearch(&(struct cleanup_process){.pid = pid}, all, count, sizeof *all, compare_pids);
}
