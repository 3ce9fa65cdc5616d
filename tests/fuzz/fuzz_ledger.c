/* fuzz_ledger.c: the ledger's reader, cleanup_settle and its kin, fed any bytes as a ledger.
 *
 * The promise: only what a whole record names is touched. An oracle reads the same bytes by the
 * grammar alone and says what may be touched; every system call that takes a path is caught on
 * its way (the linker's --wrap) and held against that. Then, from the ledger that is left: what
 * was undone is struck out and nothing else is changed; it is not undone again; what could be
 * undone is gone.
 *
 * The input's first line has letters for how it is settled: k kept, r refuted, n without `run`,
 * c after a crash, f every second command fails. The rest is the ledger, with these filled in:
 *     %R  the directory of the things that may be removed: file, other, link, dir/...
 *     %F  the identity of %R/file      %D  that of %R/dir      %B  this boot's id
 *     %f  the same without its handle
 *     %P  here the program's own ledger, ID.p, begins
 * Nothing outside %R is ever really touched: the catchers only say that it is not there, and
 * where the kernel has Landlock, it refuses too.
 */
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <linux/landlock.h>
#include <linux/openat2.h>
#include <stdarg.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "environment_file.h"
#include "fuzz.h"
#include "ledger.h"

#define TOKEN "0123456789abcdef"
#define ID TOKEN "-1"

static char base[128], world[160]; /* the target's directory; %R in it */
static int state = -1;             /* BASE/state, where the ledger is */
static char boot[40];
static bool armed;        /* the reader is at work: its calls are caught */
static unsigned removals; /* that it has really made */

#ifdef __GLIBC__ /* what the calls are called there, with offsets of 64 bits */
#define __real_open __real_open64
#define __real_openat __real_openat64
#define __wrap_open __wrap_open64
#define __wrap_openat __wrap_openat64
#endif

/* ---- The calls as they are --------------------------------------------------------------- */

int __real_unlink(const char *path);
int __real_rmdir(const char *path);
int __real_unlinkat(int dir, const char *path, int flags);
int __real_open(const char *path, int flags, ...);
int __real_openat(int dir, const char *path, int flags, ...);
int __real_renameat(int from_dir, const char *from, int to_dir, const char *to);
int __real_chmod(const char *path, mode_t mode);
long __real_syscall(long number, ...);
int __real_statx(int dir, const char *path, int flags, unsigned mask, struct statx *x);
int __wrap_unlink(const char *path);
int __wrap_rmdir(const char *path);
int __wrap_unlinkat(int dir, const char *path, int flags);
int __wrap_open(const char *path, int flags, ...);
int __wrap_openat(int dir, const char *path, int flags, ...);
int __wrap_renameat(int from_dir, const char *from, int to_dir, const char *to);
int __wrap_chmod(const char *path, mode_t mode);
int __wrap_statx(int dir, const char *path, int flags, unsigned mask, struct statx *x);
long __wrap_syscall(long number, ...);

/* ---- The things: files, a tree, and links that lead out of it ---------------------------- */

static const char *const directories[] = {"dir", "dir/sub", "outside"};
static const char *const files[] = {"file", "other", "dir/one", "dir/sub/two", "outside/three"};
static const char *const links[] = {"link", "dir/link", "dir/sub/link"}; /* all to outside */
#define COUNT(array) (sizeof(array) / sizeof(array)[0])

static const char *in_world(const char *name)
{
    static char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/%s", world, name);
    return path;
}

static int remove_one(const char *path, const struct stat *s, int type, struct FTW *walk)
{
    (void)s;
    (void)walk;
    return type == FTW_DP ? __real_rmdir(path) : __real_unlink(path);
}

static void remove_all(const char *path)
{
    nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static bool is_there(const char *path)
{
    struct stat s;
    return lstat(path, &s) == 0;
}

/* Make what is missing. */
static void world_make(void)
{
    char target[sizeof world + 16];
    for (size_t i = 0; i < COUNT(directories); i++)
        must(mkdir(in_world(directories[i]), 0700) == 0 || errno == EEXIST);
    for (size_t i = 0; i < COUNT(files); i++) {
        int fd = __real_open(in_world(files[i]), O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
        must(fd >= 0);
        close(fd);
    }
    snprintf(target, sizeof target, "%s/outside", world);
    for (size_t i = 0; i < COUNT(links); i++)
        must(symlink(target, in_world(links[i])) == 0 || errno == EEXIST);
}

static unsigned missing_of(const char *const names[], size_t count)
{
    unsigned n = 0;
    for (size_t i = 0; i < count; i++)
        n += !is_there(in_world(names[i]));
    return n;
}

static unsigned missing(void)
{
    return missing_of(directories, COUNT(directories)) + missing_of(files, COUNT(files)) +
           missing_of(links, COUNT(links));
}

/* ---- The oracle: what the bytes on record allow ------------------------------------------ */

enum verb { UNLINK, UNLINK_IF, RMTREE, RMTREE_IF, RUN, SCRATCH, SENT, COMMIT, IN, NO_RECORD };
static const char *const verbs[] = {"unlink",  "unlink-if", "rmtree", "rmtree-if", "run",
                                    "scratch", "sent",      "commit", "in"};

struct record {
    enum verb verb;
    size_t at;      /* where its line starts in the file */
    char *identity; /* "DEV:INO:BTIME:HANDLE" */
    char *argument; /* the path, the command or the number */
    bool is_kept;   /* by a commit below it, or because all is kept */
    bool was_run;   /* with success */
};

#define RECORDS_MAX 4096
struct ledger {
    const char *name;
    char *bytes;
    size_t size;
    bool is_there, this_boot;
    bool is_valid, has_program; /* by its header, if that is one; the program's file counts */
    struct record records[RECORDS_MAX]; /* oldest first; only those that are live */
    size_t count;
};
static struct ledger ledgers[2] = {{.name = ID ".p"}, {.name = ID}}; /* as they are undone */
static struct {
    bool kept, refuted, crash, run, fail;
} mode;

static char *text_of(const char *bytes, size_t size)
{
    char *text = malloc(size + 1);
    must(text != NULL);
    memcpy(text, bytes, size);
    text[size] = '\0';
    return text;
}

/* Whether TEXT is a decimal number, all of it, of at most 64 bits. */
static bool is_number(const char *text)
{
    errno = 0;
    return *text != '\0' && text[strspn(text, "0123456789")] == '\0' &&
           (strtoull(text, NULL, 10) != ULLONG_MAX || errno == 0);
}

static enum verb verb_of(const char *line, size_t length)
{
    for (size_t i = 0; i < COUNT(verbs); i++)
        if (strlen(verbs[i]) == length && memcmp(line, verbs[i], length) == 0)
            return (enum verb)i;
    return NO_RECORD;
}

/* The record in one whole line, or NO_RECORD: VERB ARGUMENT, VERB IDENTITY PATH. */
static struct record record_of(const char *line, size_t length)
{
    struct record r = {.verb = NO_RECORD};
    if (length == 0 || line[0] == '#' || length + 1 > CLEANUP_RECORD_MAX ||
        memchr(line, '\0', length) != NULL)
        return r;
    const char *space = memchr(line, ' ', length);
    size_t n = space != NULL ? (size_t)(space - line) : length;
    enum verb verb = verb_of(line, n);
    const char *argument = space != NULL ? space + 1 : line + length;
    size_t left = (size_t)(line + length - argument);
    bool is_conditional = verb == UNLINK_IF || verb == RMTREE_IF || verb == IN;
    if (is_conditional) {
        const char *second = memchr(argument, ' ', left);
        if (second == NULL)
            return r;
        r.identity = text_of(argument, (size_t)(second - argument));
        left -= (size_t)(second - argument) + 1;
        argument = second + 1;
    }
    bool is_path = left > 0 && *argument == '/';
    /* What "link/" stands for is where the link leads; a thing is its name without the slash. */
    bool is_thing = verb == UNLINK || verb == UNLINK_IF || verb == RMTREE || verb == RMTREE_IF ||
                    verb == SCRATCH;
    while (is_thing && left > 1 && argument[left - 1] == '/')
        left--;
    r.argument = text_of(argument, left);
    bool is_good = verb == COMMIT ? space == NULL
                   : verb == RUN  ? left > 0
                   : verb == SENT ? is_number(r.argument)
                                  : is_path;
    r.verb = is_good ? verb : NO_RECORD;
    return r;
}

static void ledger_forget(struct ledger *l)
{
    for (size_t i = 0; i < l->count; i++) {
        free(l->records[i].identity);
        free(l->records[i].argument);
    }
    free(l->bytes);
    l->bytes = NULL;
    l->size = l->count = 0;
}

static void ledger_load(struct ledger *l)
{
    struct stat s;
    ledger_forget(l);
    int fd = __real_openat(state, l->name, O_RDONLY | O_CLOEXEC);
    l->is_there = fd >= 0;
    if (fd < 0)
        return;
    must(fstat(fd, &s) == 0);
    l->size = (size_t)s.st_size;
    l->bytes = malloc(l->size + 1);
    must(l->bytes != NULL && read(fd, l->bytes, l->size) == s.st_size);
    close(fd);
}

/* Understand the whole lines of the bytes FROM to TO. */
static void lines_understand(struct ledger *l, size_t from, size_t to)
{
    for (size_t at = from; l->bytes != NULL && at < to && l->count < RECORDS_MAX;) {
        const char *line = l->bytes + at, *end = memchr(line, '\n', to - at);
        if (end == NULL)
            break; /* it never happened */
        struct record r = record_of(line, (size_t)(end - line));
        r.at = at;
        if (r.verb == NO_RECORD) {
            free(r.identity);
            free(r.argument);
        } else {
            l->records[l->count++] = r;
        }
        at += (size_t)(end - line) + 1;
    }
}

/* The number behind KEY in the HEADER, 0 if there is none. */
static unsigned long long number_of(const char *header, const char *key)
{
    const char *at = strstr(header, key);
    if (at == NULL || at[strlen(key)] < '0' || at[strlen(key)] > '9')
        return 0;
    errno = 0;
    unsigned long long n = strtoull(at + strlen(key), NULL, 10);
    return errno == 0 ? n : 0;
}

static void ledger_understand(struct ledger *l)
{
    static const char first[] = "# hangupd ledger 1 ", second[] = "# hangupd ledger 2 ";
    /* The header is what the first line says, or as much of it as is ever looked at. */
    char *header = text_of(l->bytes != NULL ? l->bytes : "", l->size < 511 ? l->size : 511);
    header[strcspn(header, "\n")] = '\0';
    bool is_second = strncmp(header, second, sizeof second - 1) == 0;
    bool is_first = strncmp(header, first, sizeof first - 1) == 0;
    long long from = is_second ? (long long)number_of(header, " from=") : 0;
    l->is_valid = is_first || is_second;
    l->has_program = !is_second || number_of(header, " program=") != 0;
    if (from > 512 && l->size > 512) { /* between the head and FROM is what nobody reads */
        lines_understand(l, 0, 512);
        lines_understand(l, (size_t)from < l->size ? (size_t)from : l->size, l->size);
    } else {
        lines_understand(l, 0, l->size);
    }
    bool kept = mode.kept;
    for (size_t i = l->count; i-- > 0;) {
        l->records[i].is_kept = kept && l->records[i].verb != SCRATCH;
        kept = kept || l->records[i].verb == COMMIT;
    }
    char *said = strstr(header, " boot=");
    l->this_boot =
        (is_first || is_second) && said != NULL && strncmp(said + 6, boot, strlen(boot)) == 0;
    free(header);
}

/* Write the handle of PATH to TO, as "TYPE.HEX", or "" if it has none. */
static void handle_of(const char *path, char to[32 + 2 * MAX_HANDLE_SZ])
{
    union {
        struct file_handle head;
        unsigned char room[sizeof(struct file_handle) + MAX_HANDLE_SZ];
    } h = {.head.handle_bytes = MAX_HANDLE_SZ};
    int mount, n = 0;
    to[0] = '\0';
    if (name_to_handle_at(AT_FDCWD, path, &h.head, &mount, 0) < 0)
        return;
    n = sprintf(to, "%u.", (unsigned)h.head.handle_type);
    for (unsigned i = 0; i < h.head.handle_bytes; i++)
        n += sprintf(to + n, "%02x", h.head.f_handle[i]);
}

/* Step over a decimal number of at most MAX, and over END behind it. */
static bool steps(const char **s, unsigned long long max, char end)
{
    char *behind;
    errno = 0;
    if (**s < '0' || **s > '9' || strtoull(*s, &behind, 10) > max || errno != 0 || *behind != end)
        return false;
    *s = behind + (end != '\0');
    return true;
}

/* Whether TEXT is an identity by the grammar. */
static bool is_identity(const char *text)
{
    char birth[64] = "";
    for (int field = 0; field < 3; field++)
        if (!steps(&text, field < 2 ? UINT_MAX : ULLONG_MAX, ':'))
            return false;
    size_t n = strcspn(text, ":");
    const char *at = birth, *handle = text + n;
    if (n >= sizeof birth)
        return false;
    memcpy(birth, text, n);
    if (strcmp(birth, "-") != 0) {
        at += *at == '-';
        if (!steps(&at, LLONG_MAX, '.') || !steps(&at, 999999999, '\0'))
            return false;
    }
    if (*handle == '\0')
        return true;
    handle++;
    if (!steps(&handle, UINT_MAX, '.'))
        return false;
    n = strlen(handle);
    return n > 0 && n % 2 == 0 && n <= 2 * (size_t)MAX_HANDLE_SZ &&
           strspn(handle, "0123456789abcdef") == n;
}

/* Whether the thing that PATH stands for is the one that IDENTITY names; HELD: its number is no
 * other's. */
static bool is_identity_of(const struct ledger *l, const char *identity, const char *path,
                           bool held)
{
    struct statx x;
    char *end, handle[32 + 2 * MAX_HANDLE_SZ];
    if (!is_identity(identity) ||
        __real_statx(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW, STATX_INO | STATX_BTIME, &x) < 0)
        return false;
    unsigned long long major = strtoull(identity, &end, 10);
    unsigned long long minor = *end == ':' ? strtoull(end + 1, &end, 10) : 0;
    unsigned long long inode = *end == ':' ? strtoull(end + 1, &end, 10) : 0;
    if (*end++ != ':' || inode != x.stx_ino)
        return false;
    if (l->this_boot && (major != x.stx_dev_major || minor != x.stx_dev_minor))
        return false;
    bool proved = false;
    if (*end == '-' && (end[1] == ':' || end[1] == '\0')) {
        end++;
    } else {
        long long seconds = strtoll(end, &end, 10);
        unsigned long long fraction = *end == '.' ? strtoull(end + 1, &end, 10) : 0;
        proved = (x.stx_mask & STATX_BTIME) != 0 && (seconds != 0 || fraction != 0);
        if (proved && (seconds != x.stx_btime.tv_sec || fraction != x.stx_btime.tv_nsec))
            return false;
    }
    handle_of(path, handle);
    if (*end == ':' && strtoul(end + 1, NULL, 10) == strtoul(handle, NULL, 10)) {
        if (strcmp(strchr(end, '.'), strchr(handle, '.')) != 0)
            return false;
        proved = true;
    }
    return (*end == ':' || *end == '\0') && (proved || held);
}

enum touch { LOOK, OPEN, REMOVE_FILE, REMOVE_DIRECTORY };

/* Whether the directory of the record's path is the one that the ledger says, if it says so. */
static bool is_in_place(const struct ledger *l, const struct record *r)
{
    bool is_told = false;
    size_t n = (size_t)(strrchr(r->argument, '/') - r->argument);
    char *directory = text_of(r->argument, n > 0 ? n : 1), real[PATH_MAX];
    for (size_t k = 0; k < COUNT(ledgers); k++)
        for (size_t i = 0; i < ledgers[k].count; i++) {
            const struct record *in = &ledgers[k].records[i];
            if (in->verb != IN || !is_identity(in->identity) ||
                strcmp(in->argument, directory) != 0)
                continue;
            is_told = true;
            if (realpath(directory, real) != NULL && is_identity_of(l, in->identity, real, true)) {
                free(directory);
                return true;
            }
        }
    free(directory);
    return !is_told;
}

static bool record_allows(const struct ledger *l, const struct record *r, enum touch how)
{
    if ((r->verb == UNLINK || r->verb == RMTREE) && !is_in_place(l, r))
        return false;
    switch (r->verb) {
    case UNLINK:
        return how == REMOVE_FILE;
    case UNLINK_IF:
        return how == LOOK ||
               (how == REMOVE_FILE && is_identity_of(l, r->identity, r->argument, !mode.crash));
    case RMTREE:
    case SCRATCH:
        return how != LOOK;
    case RMTREE_IF:
        return how == LOOK ||
               (how != REMOVE_FILE && is_identity_of(l, r->identity, r->argument, !mode.crash));
    default:
        return false;
    }
}

/* Whether PATH is the pool, by its name, in which the record's scratch directory is: it may be
 * removed when it is empty. */
static bool is_pool_of(const char *path, const struct record *r)
{
    const char *leaf = strrchr(r->argument, '/'), *name = strrchr(path, '/');
    size_t n = leaf != NULL ? (size_t)(leaf - r->argument) : 0;
    if (r->verb != SCRATCH || name == NULL || strlen(path) != n ||
        memcmp(path, r->argument, n) != 0 || strncmp(name, "/hangupd-", 9) != 0)
        return false;
    return strncmp(name + 9, ID, 16) == 0 ||
           (strlen(name + 9) == 5 && strstr(ID, name + 9) != NULL);
}

static bool is_a_pool(const char *path)
{
    for (size_t k = 0; k < COUNT(ledgers); k++)
        for (size_t i = 0; i < ledgers[k].count; i++)
            if (is_pool_of(path, &ledgers[k].records[i]))
                return true;
    return false;
}

/* Whether a record names PATH itself, and allows this. */
static bool is_named(const char *path, enum touch how)
{
    for (size_t k = 0; k < COUNT(ledgers); k++)
        for (size_t i = 0; i < ledgers[k].count; i++) {
            const struct record *r = &ledgers[k].records[i];
            if (!r->is_kept && strcmp(r->argument, path) == 0 && record_allows(&ledgers[k], r, how))
                return true;
        }
    return false;
}

static bool is_allowed(const char *path, enum touch how)
{
    return is_named(path, how) || ((how == REMOVE_DIRECTORY || how == OPEN) && is_a_pool(path));
}

/* ---- The catchers ------------------------------------------------------------------------ */

/* Directories that are open to have a name in them looked at or removed: what each was opened by,
 * with a slash at its end. */
static char spots[256][PATH_MAX];

static int spot_note(int fd, const char *path)
{
    must(fd < (int)COUNT(spots) && strlen(path) < sizeof spots[0]);
    if (fd >= 0)
        strcpy(spots[fd], path);
    return fd;
}

/* NAME in DIR as a path, if DIR is such a directory; else NULL. */
static const char *spot_path(int dir, const char *name)
{
    static char path[2 * PATH_MAX];
    if (dir < 0 || spots[dir][0] == '\0')
        return NULL;
    snprintf(path, sizeof path, "%s%s", spots[dir], name);
    return path;
}

/* Whether PATH, which ends with a slash, is the directory of what a record names, or of its pool.
 */
static bool is_parent(const char *path)
{
    size_t n = strlen(path);
    for (size_t k = 0; k < COUNT(ledgers); k++)
        for (size_t i = 0; i < ledgers[k].count; i++) {
            const struct record *r = &ledgers[k].records[i];
            if (r->is_kept || strncmp(r->argument, path, n) != 0)
                continue;
            const char *slash = strchr(r->argument + n, '/');
            if (slash == NULL || (r->verb == SCRATCH && strchr(slash + 1, '/') == NULL))
                return true;
        }
    return false;
}

/* Whether a line says of the directory PATH which one it is: it is opened to be looked at. */
static bool is_place(const char *path)
{
    for (size_t k = 0; k < COUNT(ledgers); k++)
        for (size_t i = 0; i < ledgers[k].count; i++)
            if (ledgers[k].records[i].verb == IN &&
                strcmp(ledgers[k].records[i].argument, path) == 0)
                return true;
    return false;
}

/* Trees that a record let the reader open, by their real names. */
static char trees[64][PATH_MAX];
static size_t tree_count;

static bool name_of(int fd, char name[PATH_MAX])
{
    char link[32];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, name, PATH_MAX - 1);
    name[n > 0 ? n : 0] = '\0';
    return n > 0;
}

static bool is_below(const char *path, const char *top)
{
    size_t n = strlen(top);
    return strncmp(path, top, n) == 0 && (path[n] == '\0' || path[n] == '/');
}

/* Whether PATH, whatever links and dots it has, stays in the world. */
static bool is_in_world(const char *path)
{
    char parent[PATH_MAX], real[PATH_MAX];
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/')
        n--;
    while (n > 1 && path[n - 1] != '/')
        n--;
    if (n >= sizeof parent)
        return false;
    memcpy(parent, path, n);
    parent[n] = '\0';
    if (realpath(parent, real) == NULL || !is_below(real, world))
        return false;
    return realpath(path, real) == NULL || is_below(real, world);
}

/* A call on an absolute path. True: make it; false: errno says that it is not there. */
static bool caught(const char *path, enum touch how)
{
    must_of(*path == '/', path, strlen(path));
    must_of(is_allowed(path, how), path, strlen(path));
    errno = ENOENT;
    return is_in_world(path);
}

static bool is_in_tree(int dir)
{
    char where[PATH_MAX];
    must(name_of(dir, where));
    for (size_t i = 0; i < tree_count; i++)
        if (is_below(where, trees[i]))
            return true;
    return false;
}

/* A call on NAME in the open directory DIR, which is in a tree that may go. */
static void caught_in_tree(int dir, const char *name)
{
    char where[PATH_MAX];
    must(name_of(dir, where) && is_below(where, world));
    must_of(strchr(name, '/') == NULL && strcmp(name, ".") != 0 && strcmp(name, "..") != 0, name,
            strlen(name));
    must_of(is_in_tree(dir), where, strlen(where));
}

static bool is_ledger(int dir, const char *name)
{
    name += *name == '.'; /* under that name it was made */
    return dir == state && (strcmp(name, ledgers[0].name) == 0 ||
                            strcmp(name, ledgers[1].name) == 0 || strcmp(name, ID ".env") == 0);
}

static int counted(int result)
{
    removals += armed && result == 0;
    return result;
}

int __wrap_unlink(const char *path)
{
    if (armed && !caught(path, REMOVE_FILE))
        return -1;
    return counted(__real_unlink(path));
}

int __wrap_rmdir(const char *path)
{
    if (armed && !caught(path, REMOVE_DIRECTORY))
        return -1;
    return counted(__real_rmdir(path));
}

int __wrap_unlinkat(int dir, const char *path, int flags)
{
    if (!armed || is_ledger(dir, path))
        return __real_unlinkat(dir, path, flags);
    must_of(strchr(path, '/') == NULL && dir != AT_FDCWD, path, strlen(path));
    const char *whole = spot_path(dir, path);
    if (whole == NULL || is_in_tree(dir))
        caught_in_tree(dir, path);
    else if (!caught(whole, flags == AT_REMOVEDIR ? REMOVE_DIRECTORY : REMOVE_FILE))
        return -1;
    return counted(__real_unlinkat(dir, path, flags));
}

static int opened(int fd, const char *path)
{
    char name[PATH_MAX];
    if (fd < 0)
        return fd;
    must(name_of(fd, name));
    /* What a record names by its last link is the link, not where it leads. */
    struct stat s;
    must_of(lstat(path, &s) == 0 && !S_ISLNK(s.st_mode), path, strlen(path));
    size_t known = 0; /* any number of records may name the same tree */
    while (known < tree_count && strcmp(trees[known], name) != 0)
        known++;
    if (known == tree_count) {
        must(tree_count < COUNT(trees));
        memcpy(trees[tree_count++], name, strlen(name) + 1);
    }
    return fd;
}

int __wrap_open(const char *path, int flags, ...)
{
    va_list rest;
    va_start(rest, flags);
    mode_t mode_bits = (flags & (O_CREAT | O_TMPFILE)) != 0 ? va_arg(rest, mode_t) : 0;
    va_end(rest);
    if (!armed || strcmp(path, "/proc/sys/kernel/random/boot_id") == 0)
        return __real_open(path, flags, mode_bits);
    bool parent = is_parent(path);
    must_of((flags & O_PATH) != 0 && (parent || is_place(path)), path, strlen(path));
    char real[PATH_MAX];
    errno = ENOENT;
    if (realpath(path, real) == NULL || !is_below(real, world))
        return -1;
    return spot_note(__real_open(path, flags), parent ? path : "");
}

int __wrap_openat(int dir, const char *path, int flags, ...)
{
    va_list rest;
    va_start(rest, flags);
    mode_t mode_bits = (flags & (O_CREAT | O_TMPFILE)) != 0 ? va_arg(rest, mode_t) : 0;
    va_end(rest);
    must_of(!armed || is_ledger(dir, path), path, strlen(path));
    if (armed && strcmp(path, ID ".env") == 0)
        path = "env"; /* whatever the head says, there is one for the commands */
    int fd = __real_openat(dir, path, flags, mode_bits);
    return armed ? spot_note(fd, "") : fd;
}

/* openat2(2): the top of a tree, a pool, a thing that is only looked at, or what is in a tree. */
static int caught_open(int dir, const char *name, const struct open_how *how, size_t size)
{
    must((how->flags & (O_CREAT | O_TRUNC)) == 0 && (how->flags & O_NOFOLLOW) != 0);
    must(how->resolve == (RESOLVE_NO_XDEV | RESOLVE_NO_SYMLINKS));
    const char *whole = spot_path(dir, name);
    bool looks = (how->flags & O_PATH) != 0 && (how->flags & O_DIRECTORY) == 0;
    if (whole == NULL || is_in_tree(dir))
        caught_in_tree(dir, name);
    else if (!caught(whole, looks ? LOOK : OPEN))
        return -1;
    int fd = (int)__real_syscall(SYS_openat2, dir, name, how, size), error = errno;
    char top[PATH_MAX], below[PATH_MAX], pool[2 * PATH_MAX + 2] = "";
    if (whole == NULL)
        must(fd < 0 || (name_of(dir, top) && name_of(fd, below) && is_below(below, top)));
    else if (!looks && is_a_pool(whole))
        snprintf(pool, sizeof pool, "%s/", whole);
    if (whole != NULL && !looks && is_named(whole, OPEN))
        opened(fd, whole);
    errno = error; /* the looks at what is allowed have set it */
    return spot_note(fd, pool);
}

/* No call that comes here has more than four arguments, and what the caller did not pass must not
 * be read. */
long __wrap_syscall(long number, ...)
{
    va_list rest;
    union {
        long number;
        const void *address;
    } a[4];
    va_start(rest, number);
    for (size_t i = 0; i < COUNT(a); i++)
        a[i].number = va_arg(rest, long);
    va_end(rest);
    if (armed && number == SYS_openat2)
        return caught_open((int)a[0].number, a[1].address, a[2].address, (size_t)a[3].number);
    return __real_syscall(number, a[0].number, a[1].number, a[2].number, a[3].number);
}

int __wrap_renameat(int from_dir, const char *from, int to_dir, const char *to)
{
    if (armed) {
        caught_in_tree(from_dir, from);
        caught_in_tree(to_dir, to);
    }
    return __real_renameat(from_dir, from, to_dir, to);
}

int __wrap_chmod(const char *path, mode_t mode_bits)
{
    char real[PATH_MAX];
    if (armed)
        must_of(strncmp(path, "/proc/self/fd/", 14) == 0 && realpath(path, real) != NULL &&
                    is_below(real, world),
                path, strlen(path));
    return __real_chmod(path, mode_bits);
}

int __wrap_statx(int dir, const char *path, int flags, unsigned mask, struct statx *x)
{
    if (armed && *path != '\0') {
        must_of(dir == AT_FDCWD, path, strlen(path));
        if (!caught(path, LOOK))
            return -1;
    }
    return __real_statx(dir, path, flags, mask, x);
}

/* ---- The commands, which are only noted -------------------------------------------------- */

static size_t run_count;

/* The N-th `run` that must come: newest first, the program's before the server's. */
static struct record *run_expected(size_t n)
{
    for (size_t k = 0; k < COUNT(ledgers); k++)
        for (size_t i = ledgers[k].count; i-- > 0;) {
            struct record *r = &ledgers[k].records[i];
            if (r->verb == RUN && !r->is_kept && n-- == 0)
                return r;
        }
    return NULL;
}

static int note_command(const char *id, const char *command, int look)
{
    struct record *r = run_expected(run_count++);
    must(look == 1 && strcmp(id, ID) == 0);
    must_of(r != NULL && strcmp(r->argument, command) == 0, command, strlen(command));
    r->was_run = !mode.fail || run_count % 2 == 0;
    errno = 0;
    return r->was_run ? 0 : -1;
}

static void note_report(const char *id, const char *what)
{
    must(strcmp(id, ID) == 0 && strlen(what) > 0);
}

/* ---- What must hold afterwards ----------------------------------------------------------- */

/* Only the first bytes of records that were done have changed, to '#'. */
static void check_strikes(const struct ledger *before, const struct ledger *after)
{
    must(after->is_there && after->size == before->size);
    char *allowed = text_of(before->bytes, before->size);
    for (size_t i = 0; i < before->count; i++) {
        const struct record *r = &before->records[i];
        bool is_struck = after->bytes[r->at] == '#';
        if (is_struck) {
            must_of(r->verb == SENT ? mode.refuted
                                    : !r->is_kept && r->verb != COMMIT && r->verb != IN,
                    r->argument, strlen(r->argument));
            allowed[r->at] = '#';
        }
        if (r->verb == RUN)
            must_of(is_struck == r->was_run, r->argument, strlen(r->argument));
    }
    must_of(memcmp(allowed, after->bytes, after->size) == 0, after->bytes, after->size);
    free(allowed);
}

/* What can be undone for certain is gone. */
static void check_gone(const struct ledger *l, const struct record *r)
{
    struct stat s;
    if (r->is_kept || (r->verb != UNLINK && r->verb != RMTREE && r->verb != SCRATCH) ||
        (r->verb != SCRATCH && !is_in_place(l, r)))
        return;
    if (strstr(r->argument, "/.") != NULL || r->argument[strlen(r->argument) - 1] == '/' ||
        !is_in_world(r->argument) || lstat(r->argument, &s) < 0)
        return;
    must_of(r->verb == UNLINK && S_ISDIR(s.st_mode), r->argument, strlen(r->argument));
}

static void check_after(enum cleanup_result result, size_t runs)
{
    static struct ledger after[2];
    for (size_t k = 0; k < COUNT(ledgers); k++) {
        after[k].name = ledgers[k].name;
        ledger_load(&after[k]);
        bool counts = k == 1 || !ledgers[1].is_there || ledgers[1].has_program;
        if (result == CLEANUP_DONE)
            must(counts != after[k].is_there || !ledgers[k].is_there);
        else if (!counts)
            must(after[k].is_there == ledgers[k].is_there);
        else if (ledgers[k].is_there)
            check_strikes(&ledgers[k], &after[k]);
        for (size_t i = 0; result != CLEANUP_RUN_LEFT && i < ledgers[k].count; i++)
            check_gone(&ledgers[k], &ledgers[k].records[i]);
        ledger_forget(&after[k]);
    }
    must(removals == missing());
    must((result == CLEANUP_RUN_LEFT) == (!mode.run && runs > 0));
    must(run_count == (mode.run ? runs : 0));
    for (size_t i = 0; result == CLEANUP_DONE && i < runs; i++)
        must(run_expected(i)->was_run);
}

/* The program's file is asked where it is alone: it was moved by halves, with the mark noted. */
static void check_sent(void)
{
    const struct ledger *own = &ledgers[ledgers[1].is_there ? 1 : 0];
    const struct record *sent = NULL;
    for (size_t i = 0; i < own->count; i++)
        if (own->records[i].verb == SENT)
            sent = &own->records[i];
    uint64_t n = 0;
    must(cleanup_was_sent(state, ID, &n) == (sent != NULL));
    must(sent == NULL || n == strtoull(sent->argument, NULL, 10));
}

/* Returns true if the newest mark stands on one that nobody can refute. */
static bool is_kept_anyway(void)
{
    const struct ledger *own = &ledgers[1];
    const struct record *sent = NULL, *below = NULL;
    for (size_t i = 0; i < own->count; i++)
        if (own->records[i].verb == SENT) {
            below = sent;
            sent = &own->records[i];
        }
    return below != NULL && strtoull(below->argument, NULL, 10) == 0;
}

/* Settle what is on record, once, from inside the world, so that a relative path would be met. */
static void settle_once(void)
{
    struct cleanup_settling how = {.dir = state, .id = ID, .after_crash = mode.crash};
    size_t runs = 0;
    how.run = mode.run ? note_command : NULL;
    for (size_t k = 0; k < COUNT(ledgers); k++) {
        ledger_load(&ledgers[k]);
        ledger_understand(&ledgers[k]);
    }
    /* The own file knows best of which boot they are, and whether the other one belongs to it. */
    if (ledgers[1].is_valid)
        ledgers[0].this_boot = ledgers[1].this_boot;
    if (ledgers[1].is_there && !ledgers[1].has_program)
        ledger_forget(&ledgers[0]);
    mode.refuted = mode.refuted && !is_kept_anyway();
    check_sent();
    while (run_expected(runs) != NULL)
        runs++;
    tree_count = run_count = 0;
    armed = true;
    bool kept = false;
    enum cleanup_result result = mode.kept      ? cleanup_settle_kept(&how)
                                 : mode.refuted ? cleanup_settle_refuted(&how, &kept)
                                                : cleanup_settle(&how);
    must(!kept);
    armed = false;
    check_after(result, runs);
}

/* ---- The input --------------------------------------------------------------------------- */

static void identity_of(const char *name, bool with_handle, char *to, size_t room)
{
    struct statx x;
    char handle[32 + 2 * MAX_HANDLE_SZ];
    must(__real_statx(AT_FDCWD, in_world(name), AT_SYMLINK_NOFOLLOW, STATX_INO | STATX_BTIME, &x) ==
         0);
    int n = snprintf(to, room, "%u:%u:%llu:", x.stx_dev_major, x.stx_dev_minor,
                     (unsigned long long)x.stx_ino);
    if ((x.stx_mask & STATX_BTIME) != 0)
        n += snprintf(to + n, room - (size_t)n, "%lld.%09u", (long long)x.stx_btime.tv_sec,
                      x.stx_btime.tv_nsec);
    else
        n += snprintf(to + n, room - (size_t)n, "-");
    handle_of(in_world(name), handle);
    if (with_handle && handle[0] != '\0')
        snprintf(to + n, room - (size_t)n, ":%s", handle);
}

static FILE *ledger_file(const char *name)
{
    int fd = __real_openat(state, name, O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0600);
    FILE *file = fd < 0 ? NULL : fdopen(fd, "w");
    must(file != NULL);
    return file;
}

/* Write the ledger, and the program's from the first %P on, with the world's names filled in. */
static void ledgers_write(const char *data, size_t size)
{
    char of_file[512], of_file_alone[512], of_dir[512];
    identity_of("file", true, of_file, sizeof of_file);
    identity_of("file", false, of_file_alone, sizeof of_file_alone);
    identity_of("dir", true, of_dir, sizeof of_dir);
    FILE *to = ledger_file(ledgers[1].name);
    __real_unlinkat(state, ledgers[0].name, 0);
    for (size_t i = 0; i < size; i++) {
        const char *sign = memchr(data + i, '%', size - i);
        size_t plain = sign != NULL ? (size_t)(sign - data) - i : size - i;
        fwrite(data + i, 1, plain, to);
        i += plain;
        if (sign == NULL)
            break;
        char letter = i + 1 < size ? data[i + 1] : '\0';
        const char *filled = letter == 'R'   ? world
                             : letter == 'F' ? of_file
                             : letter == 'f' ? of_file_alone
                             : letter == 'D' ? of_dir
                             : letter == 'B' ? boot
                             : letter == 'P' ? ""
                                             : NULL;
        if (letter == 'P') {
            must(fclose(to) == 0);
            to = ledger_file(ledgers[0].name);
        }
        if (filled != NULL)
            fputs(filled, to), i++;
        else
            fputc(data[i], to);
    }
    must(fclose(to) == 0);
}

/* Nothing but what is below BASE can be removed or cut any more; where there is no Landlock, the
 * catchers are all there is. */
static void fence(void)
{
    struct landlock_ruleset_attr what = {.handled_access_fs = LANDLOCK_ACCESS_FS_REMOVE_FILE |
                                                              LANDLOCK_ACCESS_FS_REMOVE_DIR};
    struct landlock_path_beneath_attr where = {.allowed_access = what.handled_access_fs};
    int rules = (int)syscall(SYS_landlock_create_ruleset, &what, sizeof what, 0);
    where.parent_fd = __real_open(base, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (rules >= 0 && where.parent_fd >= 0 &&
        syscall(SYS_landlock_add_rule, rules, LANDLOCK_RULE_PATH_BENEATH, &where, 0) == 0 &&
        prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0)
        syscall(SYS_landlock_restrict_self, rules, 0);
    if (rules >= 0)
        close(rules);
    if (where.parent_fd >= 0)
        close(where.parent_fd);
}

static void remove_base(void)
{
    remove_all(base);
}

static void begin(void)
{
    const char *tmp = getenv("TMPDIR");
    char real[PATH_MAX], path[sizeof base + 16];
    must(realpath(tmp != NULL ? tmp : "/tmp", real) != NULL);
    must(snprintf(base, sizeof base, "%s/hangupd-fuzz-XXXXXX", real) < (int)sizeof base);
    must(mkdtemp(base) != NULL);
    fence();
    atexit(remove_base);
    snprintf(world, sizeof world, "%s/world", base);
    snprintf(path, sizeof path, "%s/state", base);
    must(mkdir(path, 0700) == 0);
    state = __real_open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    FILE *from = fopen("/proc/sys/kernel/random/boot_id", "r");
    must(state >= 0 && from != NULL && fscanf(from, "%36s", boot) == 1);
    fclose(from);
    cleanup_report = note_report;
    must(mkdir(world, 0700) == 0);
    world_make();
    must(environment_keep(state, 0, TOKEN, environ, false) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *text = (const char *)data, *end = memchr(data, '\n', size);
    if (end == NULL)
        return 0;
    if (state < 0)
        begin();
    size_t letters = (size_t)(end - text);
    mode.kept = memchr(text, 'k', letters) != NULL;
    mode.refuted = memchr(text, 'r', letters) != NULL;
    mode.crash = memchr(text, 'c', letters) != NULL;
    mode.fail = memchr(text, 'f', letters) != NULL;
    mode.run = memchr(text, 'n', letters) == NULL;
    if (removals > 0)
        world_make();
    removals = 0;
    int here = __real_open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    must(here >= 0);
    ledgers_write(end + 1, size - letters - 1);
    must(chdir(world) == 0);
    settle_once();
    mode.run = true; /* what a signal handler leaves to a janitor */
    settle_once();
    must(fchdir(here) == 0);
    close(here);
    return 0;
}
