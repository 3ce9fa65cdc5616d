/* check_cleanup.c: the ledger, by itself: what it says, what undoing it does, and what it
 * does to processes. Every test has a directory of its own, and its own process. */
#include <check.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <regex.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#include "files.h"
#include "ledger.h"
#include "deny.h"
#include "memcheck.h"

/* This run's own: two that run at once must not take each other's processes for theirs. */
static char token_of_run[CLEANUP_TOKEN_SIZE];
static char id_of_run[CLEANUP_ID_SIZE];
#define TOKEN ((const char *)token_of_run)
#define ID ((const char *)id_of_run)

static char run_dir[PATH_MAX - 64]; /* of the whole run; main removes it */
static char base[PATH_MAX - 48];    /* of one test, below run_dir */
static int ledgers = -1;            /* base/ledgers */

/* ---- Small tools ------------------------------------------------------------------------- */

/* base/NAME; valid for the next 15 calls. */
static const char *at(const char *name)
{
    static char paths[16][PATH_MAX];
    static unsigned next;
    char *path = paths[next++ % 16];

    ck_assert_int_lt(snprintf(path, PATH_MAX, "%s/%s", base, name), PATH_MAX);
    return path;
}

static bool there(const char *path)
{
    struct stat st;

    return lstat(path, &st) == 0;
}

/* FORMAT with what it names; valid for the next 7 calls. */
__attribute__((format(printf, 1, 2))) static const char *with(const char *format, ...)
{
    static char texts[8][256];
    static unsigned next;
    char *text = texts[next++ % 8];
    va_list args;

    va_start(args, format);
    ck_assert_int_lt(vsnprintf(text, sizeof texts[0], format, args), (int)sizeof texts[0]);
    va_end(args);
    return text;
}

static void put(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

    ck_assert_msg(fd >= 0, "%s: %s", path, strerror(errno));
    ck_assert_int_eq(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    close(fd);
}

static const char *text_of_fd(int fd)
{
    static char text[4][65536];
    static unsigned next;
    char *buffer = text[next++ % 4];
    ssize_t n = pread(fd, buffer, sizeof text[0] - 1, 0);

    ck_assert_int_ge(n, 0);
    buffer[n] = '\0';
    close(fd);
    return buffer;
}

/* What the file PATH says; NULL if there is none. */
static const char *get(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    return fd < 0 ? NULL : text_of_fd(fd);
}

static const char *ledger_of(const char *id)
{
    int fd = openat(ledgers, id, O_RDONLY | O_CLOEXEC);

    ck_assert_msg(fd >= 0, "there is no ledger");
    return text_of_fd(fd);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* The names in base/NAME, sorted, each followed by a space. */
static const char *listing(const char *name)
{
    static char list[65536];
    char *names[4096];
    size_t count = 0, length = 0;
    DIR *dir = opendir(at(name));

    ck_assert_msg(dir != NULL, "%s: %s", at(name), strerror(errno));
    for (const struct dirent *e; (e = readdir(dir)) != NULL;)
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0 && count < 4096)
            names[count++] = strdup(e->d_name);
    closedir(dir);
    if (count > 0)
        qsort(names, count, sizeof names[0], by_name);
    list[0] = '\0';
    for (size_t i = 0; i < count; i++) {
        length += (size_t)snprintf(list + length, sizeof list - length, "%s ", names[i]);
        free(names[i]);
    }
    return list;
}

/* The identity of PATH as the ledger writes it. */
static const char *file_id(const char *path, long long off_by_ns)
{
    static char text[128];
    struct statx st;

    ck_assert_int_eq(statx(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW, STATX_INO | STATX_BTIME, &st), 0);
    snprintf(text, sizeof text, "%u:%u:%llu:%lld.%09lld", st.stx_dev_major, st.stx_dev_minor,
             (unsigned long long)st.stx_ino, (long long)st.stx_btime.tv_sec,
             (long long)st.stx_btime.tv_nsec + off_by_ns);
    return text;
}

static bool have_birth_times(void)
{
    struct statx st;

    ck_assert_int_eq(statx(AT_FDCWD, base, 0, STATX_BTIME, &st), 0);
    if (st.stx_mask & STATX_BTIME)
        return true;
    fprintf(stderr, "skipped: no birth times in %s\n", base);
    return false;
}

/* Whether TEXT has a line that matches the extended regular expression PATTERN. */
static bool has_line(const char *text, const char *pattern)
{
    regex_t re;

    ck_assert_int_eq(regcomp(&re, pattern, REG_EXTENDED | REG_NEWLINE | REG_NOSUB), 0);
    int found = regexec(&re, text, 0, NULL, 0);
    regfree(&re);
    return found == 0;
}
#define ck_assert_line(text, pattern)                                                              \
    ck_assert_msg(has_line(text, pattern), "no line like %s in:\n%s", pattern, text)
#define ck_assert_no_line(text, pattern)                                                           \
    ck_assert_msg(!has_line(text, pattern), "a line like %s in:\n%s", pattern, text)

/* What cleanup_report was told: "ID: WHAT\n" each. */
static char reports[65536];

static void note_report(const char *id, const char *what)
{
    strncat(reports, id, sizeof reports - strlen(reports) - 1);
    strncat(reports, ": ", sizeof reports - strlen(reports) - 1);
    strncat(reports, what, sizeof reports - strlen(reports) - 1);
    strncat(reports, "\n", sizeof reports - strlen(reports) - 1);
}

/* What was run: "COMMAND\n" each; a command that starts with "fail" fails. */
static char runs[65536];
static void (*on_run)(const char *command);

static int note_run(const char *id, const char *command)
{
    ck_assert_str_eq(id, ID);
    strncat(runs, command, sizeof runs - strlen(runs) - 1);
    strncat(runs, "\n", sizeof runs - strlen(runs) - 1);
    if (on_run)
        on_run(command);
    return strncmp(command, "fail", 4) == 0 ? -1 : 0;
}

#define ck_assert_done(call)                                                                       \
    ck_assert_msg((call) == CLEANUP_DONE, "%s did not succeed: %s", #call, reports)

static int status_of(pid_t pid)
{
    int status = -1;

    while (waitpid(pid, &status, 0) < 0)
        ck_assert_int_eq(errno, EINTR);
    return status;
}

static bool dead_by(pid_t pid, int sig)
{
    int status = status_of(pid);

    return WIFSIGNALED(status) && WTERMSIG(status) == sig;
}

static pid_t start(void (*body)(void))
{
    pid_t pid = fork();

    ck_assert_int_ge(pid, 0);
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        body();
        _exit(0);
    }
    return pid;
}

/* A failed assertion in a child ends the child alone: its status carries it here. */
static void in_child(void (*body)(void))
{
    ck_assert_int_eq(status_of(start(body)), 0);
}

/* Wait for the process's one byte. */
static void await(const int pipe_fds[2])
{
    struct pollfd p = {.fd = pipe_fds[0], .events = POLLIN};
    char c;

    ck_assert_int_eq(poll(&p, 1, 20000), 1);
    ck_assert_int_eq(read(pipe_fds[0], &c, 1), 1);
}

static int ready[2];

static void say_ready(void)
{
    ck_assert_int_eq(write(ready[1], "", 1), 1);
}

/* Start BODY and wait until it says that it is ready, on a pipe that nobody else listens to. */
static pid_t start_ready(void (*body)(void))
{
    int outer[2] = {ready[0], ready[1]};

    ck_assert_int_eq(pipe2(ready, O_CLOEXEC), 0);
    pid_t pid = start(body);
    await(ready);
    close(ready[0]);
    close(ready[1]);
    ready[0] = outer[0];
    ready[1] = outer[1];
    return pid;
}

static void set_up(void)
{
    snprintf(base, sizeof base, "%s/XXXXXX", run_dir);
    ck_assert_ptr_nonnull(mkdtemp(base));
    ck_assert_int_eq(mkdir(at("ledgers"), 0700), 0);
    ck_assert_int_eq(mkdir(at("work"), 0755), 0);
    ck_assert_int_eq(mkdir(at("tmp"), 0700), 0);
    ledgers = open(at("ledgers"), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    ck_assert_int_ge(ledgers, 0);
    ck_assert_int_eq(pipe2(ready, O_CLOEXEC), 0);
    umask(022);
    signal(SIGTERM, SIG_DFL);
    signal(SIGALRM, SIG_DFL);
    ck_assert_int_eq(prctl(PR_SET_CHILD_SUBREAPER, 1), 0);
    cleanup_report = note_report;
}

static void tear_down(void)
{
    pid_t left = waitpid(-1, NULL, WNOHANG);

    ck_assert_msg(left == -1 && errno == ECHILD, "the test left a process (%d)", (int)left);
}

static void begin_as(const char *id)
{
    static char tmp[PATH_MAX];
    static struct cleanup_owner owner;

    snprintf(tmp, sizeof tmp, "%s/tmp", base);
    owner = (struct cleanup_owner){.dir = ledgers, .id = id, .title = "GET /test", .tmpdir = tmp};
    cleanup_begin(&owner);
}

static void begin(void)
{
    begin_as(ID);
}

static enum cleanup_result settle_with(bool after_crash, int (*run)(const char *, const char *))
{
    struct cleanup_settling how = {
        .dir = ledgers, .id = ID, .after_crash = after_crash, .run = run};

    return cleanup_settle(&how);
}

static enum cleanup_result settle(void)
{
    return settle_with(false, note_run);
}

static const char *boot_id(void)
{
    static char id[64];
    int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);

    ck_assert_int_ge(fd, 0);
    strncpy(id, text_of_fd(fd), sizeof id - 1);
    id[strcspn(id, "\n")] = '\0';
    return id;
}

/* When PID was started, in clock ticks after boot: field 22 of its stat. */
static unsigned long long start_time(pid_t pid)
{
    char path[64];
    unsigned long long ticks = 0;

    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    const char *text = get(path);
    ck_assert_ptr_nonnull(text);
    const char *p = strrchr(text, ')');
    ck_assert_ptr_nonnull(p);
    for (int field = 2; field < 22; field++)
        p = strchr(p + 1, ' ');
    ck_assert_int_eq(sscanf(p, "%llu", &ticks), 1);
    return ticks;
}

/* A ledger as a child with pid PID would have left it in DIR. */
static void forge(int dir, const char *id, pid_t pid, unsigned long long started, const char *boot,
                  const char *format, va_list args)
{
    char text[32768];
    int n = snprintf(text, sizeof text,
                     "# hangupd ledger 1 id=%.*s pid=%d start=%llu boot=%s GET /test\n",
                     (int)strcspn(id, "."), id, (int)pid, started, boot);
    int fd = openat(dir, id, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    ck_assert_int_ge(fd, 0);
    n += vsnprintf(text + n, sizeof text - (size_t)n, format, args);
    ck_assert_int_lt(n, (int)sizeof text);
    ck_assert_int_eq(write(fd, text, (size_t)n), n);
    close(fd);
}

/* A ledger of a child that is dead, written in this boot. */
__attribute__((format(printf, 2, 3))) static void leave(const char *id, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    forge(ledgers, id, 1, 1, boot_id(), format, args);
    va_end(args);
}

__attribute__((format(printf, 1, 2))) static void leave_before_boot(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    forge(ledgers, ID, 1, 1, "00000000-0000-4000-8000-000000000000", format, args);
    va_end(args);
}

/* A mount namespace of our own, where this test may mount; false (and said) if not allowed. */
static bool private_mounts(void)
{
    if (unshare(CLONE_NEWNS) == 0 && mount("none", "/", "none", MS_REC | MS_PRIVATE, NULL) == 0)
        return true;
    fprintf(stderr, "skipped: no mount namespace (%s)\n", strerror(errno));
    return false;
}

/* ---- Ways to create ---------------------------------------------------------------------- */

enum way { BY_TMPFILE, BY_RENAME, BY_LINK, WAYS };

/* Leave this process only the file system features of WAY. */
static bool use_way(int way)
{
    if (way >= BY_RENAME) {
        if (!deny(SYS_openat, 2, O_TMPFILE & ~O_DIRECTORY, EOPNOTSUPP))
            return false;
        ck_assert_int_eq(open(base, O_TMPFILE | O_RDWR, 0600), -1);
        ck_assert_int_eq(errno, EOPNOTSUPP);
    }
    if (way >= BY_LINK) {
        if (!deny(SYS_renameat2, 4, ~0U, EINVAL))
            return false;
        ck_assert_int_eq(renameat2(AT_FDCWD, base, AT_FDCWD, base, RENAME_NOREPLACE), -1);
        ck_assert_int_eq(errno, EINVAL);
    }
    return true;
}

/* ---- The ledger's format ----------------------------------------------------------------- */

START_TEST(ledger_is_made_at_the_first_record)
{
    begin();
    ck_assert(!cleanup_pending());
    ck_assert(!cleanup_exists(ledgers, ID));
    ck_assert_str_eq(listing("ledgers"), "");
    ck_assert_int_eq(cleanup_unlink(at("work/a")), 0);
    ck_assert(cleanup_pending());
    ck_assert(cleanup_exists(ledgers, ID));
    ck_assert_str_eq(listing("ledgers"), with("%s ", ID));
    ck_assert_done(cleanup_undo());
    ck_assert(!cleanup_exists(ledgers, ID));
    ck_assert_str_eq(listing("ledgers"), "");
}
END_TEST

START_TEST(ledger_header)
{
    char expected[512];
    struct stat st;

    begin();
    ck_assert_int_eq(cleanup_unlink(at("work/a")), 0);
    snprintf(expected, sizeof expected,
             "# hangupd ledger 1 id=%s pid=%d start=%llu boot=%s GET /test\n", ID, (int)getpid(),
             start_time(getpid()), boot_id());
    ck_assert_int_eq(strncmp(ledger_of(ID), expected, strlen(expected)), 0);
    ck_assert_int_eq(fstatat(ledgers, ID, &st, AT_SYMLINK_NOFOLLOW), 0);
    ck_assert_uint_eq(st.st_mode, S_IFREG | 0600);
    ck_assert_done(cleanup_undo());
}
END_TEST

/* It says when its process was born, also where the clock was read in another tick. */
static struct cleanup_owner newborn;
static int late_ms;

static void be_newborn(void)
{
    sleep_ms(late_ms);
    newborn.dir = ledgers;
    cleanup_begin(&newborn);
    ck_assert_int_eq(cleanup_unlink(at("work/a")), 0);
    ck_assert_ptr_nonnull(strstr(ledger_of(ID), with(" start=%llu ", start_time(getpid()))));
    ck_assert_done(cleanup_undo());
}

START_TEST(ledger_header_of_a_newborn)
{
    newborn = (struct cleanup_owner){.id = ID, .title = "GET /test", .tmpdir = at("tmp")};
    newborn.forked = clock_ticks();
    if (_i == 1)
        sleep_ms(30);
    late_ms = _i == 2 ? 30 : 0;
    in_child(be_newborn);
}
END_TEST

/* A title is for people: whatever it holds, it stays on its line and says nothing else. */
START_TEST(ledger_hostile_title)
{
    static char title[4096];
    struct cleanup_owner owner = {.dir = ledgers, .id = ID, .title = title, .tmpdir = "/tmp"};

    snprintf(title, sizeof title, "GET /\nunlink %s\n# pid=1 boot=x ", at("work/theirs"));
    memset(title + strlen(title), 'x', 2000);
    put(at("work/theirs"), "");
    cleanup_begin(&owner);
    close(cleanup_create(at("work/a"), 0, 0644));
    ck_assert_int_eq(settle_with(true, NULL), CLEANUP_DONE);
    ck_assert_str_eq(listing("work"), "theirs ");
    ck_assert_str_eq(reports, "");
}
END_TEST

/* The verbs whose record is what the caller said. */
START_TEST(ledger_plain_records)
{
    char expected[PATH_MAX * 4];

    begin();
    ck_assert_int_eq(chdir(at("work")), 0);
    ck_assert_int_eq(cleanup_unlink("a b"), 0);
    ck_assert_int_eq(cleanup_rmtree(at("work/tree")), 0);
    ck_assert_int_eq(cleanup_run("echo  'x' >&2 # y"), 0);
    ck_assert_int_eq(cleanup_sent(18446744073709551615ULL), 0);
    ck_assert_int_eq(cleanup_commit(), 0);
    snprintf(expected, sizeof expected,
             "unlink %s/work/a b\nrmtree %s/work/tree\nrun echo  'x' >&2 # y\n"
             "sent 18446744073709551615\ncommit\n",
             base, base);
    const char *text = ledger_of(ID);
    ck_assert_str_eq(strchr(text, '\n') + 1, expected);
}
END_TEST

/* A file made in the first tenth of a second has a fraction that begins with 0. */
static void wait_for_a_small_fraction(void)
{
    struct timespec now;

    do {
        sleep_ms(1);
        clock_gettime(CLOCK_REALTIME_COARSE, &now); /* what files are stamped with */
    } while (now.tv_nsec < 5000000 || now.tv_nsec > 50000000);
}

START_TEST(ledger_identity_records)
{
    char expected[PATH_MAX * 2];

    if (!use_way(_i) || !have_birth_times())
        return;
    begin();
    if (_i == BY_TMPFILE)
        wait_for_a_small_fraction();
    int fd = cleanup_create(at("work/f"), 0, 0644);
    ck_assert_int_ge(fd, 0);
    close(fd);
    snprintf(expected, sizeof expected, "\nunlink-if %s %s\n", file_id(at("work/f"), 0),
             at("work/f"));
    ck_assert_ptr_nonnull(strstr(ledger_of(ID), expected));
    ck_assert_int_eq(cleanup_mkdir(at("work/d"), 0755), 0);
    snprintf(expected, sizeof expected, "\nrmtree-if %s %s\n", file_id(at("work/d"), 0),
             at("work/d"));
    ck_assert_ptr_nonnull(strstr(ledger_of(ID), expected));
    ck_assert_done(cleanup_undo());
}
END_TEST

/* Every line is a comment or a record of the grammar, whatever is called. */
START_TEST(ledger_grammar)
{
    static const char grammar[] = "^(#.*|(unlink|rmtree|scratch) /.*|run .*|sent [0-9]+|commit|"
                                  "(unlink|rmtree)-if [0-9]+:[0-9]+:[0-9]+:(-|[0-9]+\\.[0-9]{9}) "
                                  "/.*)$";

    if (!use_way(_i))
        return;
    begin();
    close(cleanup_create(at("work/f"), 0, 0644));
    close(cleanup_create(at("work/f"), CLEANUP_OVERWRITE, 0644));
    ck_assert_int_eq(cleanup_create(at("work/f"), 0, 0644), -1);
    ck_assert_int_eq(cleanup_mkdir(at("work/d"), 0755), 0);
    ck_assert_int_eq(cleanup_mkdir(at("work/d"), 0755), -1);
    ck_assert_ptr_nonnull(cleanup_tempdir());
    ck_assert_int_eq(cleanup_run("true"), 0);
    ck_assert_int_eq(cleanup_sent(1), 0);
    ck_assert_int_eq(cleanup_unsent(), 0);
    const char *text = ledger_of(ID);
    while (*text) {
        char line[PATH_MAX * 2];
        size_t n = strcspn(text, "\n");
        ck_assert_int_eq(text[n], '\n');
        snprintf(line, sizeof line, "%.*s", (int)n, text);
        ck_assert_line(line, grammar);
        text += n + 1;
    }
    ck_assert_done(settle());
    ck_assert_str_eq(listing("work"), "");
}
END_TEST

/* What the ledger cannot hold is refused, and then nothing is made, not even the ledger. */
START_TEST(ledger_refuses)
{
    static char long_command[CLEANUP_RECORD_MAX];
    static char long_path[CLEANUP_RECORD_MAX + 16];

    memset(long_command, 'x', CLEANUP_RECORD_MAX - strlen("run \n") + 1);
    memset(long_path, 'x', sizeof long_path - 1);
    long_path[0] = '/';
    begin();
    ck_assert_int_eq(cleanup_unlink("a\nb"), -1);
    ck_assert_int_eq(errno, EINVAL);
    ck_assert_int_eq(cleanup_rmtree("/a\n"), -1);
    ck_assert_int_eq(errno, EINVAL);
    ck_assert_int_eq(cleanup_run("true\ntrue"), -1);
    ck_assert_int_eq(errno, EINVAL);
    ck_assert_int_eq(cleanup_create(at("work/a\nb"), 0, 0644), -1);
    ck_assert_int_eq(errno, EINVAL);
    ck_assert_int_eq(cleanup_mkdir(at("work/a\nb"), 0755), -1);
    ck_assert_int_eq(errno, EINVAL);
    ck_assert_int_eq(cleanup_unlink(""), -1);
    ck_assert_int_eq(errno, EINVAL);
    ck_assert_int_eq(cleanup_rmtree(""), -1);
    ck_assert_int_eq(errno, EINVAL);
    ck_assert_int_eq(cleanup_run(""), -1);
    ck_assert_int_eq(errno, EINVAL);
    ck_assert_int_eq(cleanup_create("", 0, 0644), -1);
    ck_assert_int_eq(errno, EINVAL);
    ck_assert_int_eq(cleanup_mkdir("", 0755), -1);
    ck_assert_int_eq(errno, EINVAL);
    ck_assert_int_eq(cleanup_run(long_command), -1);
    ck_assert_int_eq(errno, ENAMETOOLONG);
    ck_assert_int_eq(cleanup_unlink(long_path), -1);
    ck_assert_int_eq(errno, ENAMETOOLONG);
    ck_assert_int_eq(cleanup_rmtree(long_path), -1);
    ck_assert_int_eq(errno, ENAMETOOLONG);
    ck_assert_int_eq(cleanup_create(long_path, 0, 0644), -1);
    ck_assert_int_eq(errno, ENAMETOOLONG);
    ck_assert_int_eq(cleanup_mkdir(long_path, 0755), -1);
    ck_assert_int_eq(errno, ENAMETOOLONG);
    ck_assert_str_eq(listing("work"), "");
    ck_assert_str_eq(listing("ledgers"), "");
    ck_assert(!cleanup_pending());
}
END_TEST

/* The longest record is written, and read back whole. */
START_TEST(ledger_longest_record)
{
    static char command[CLEANUP_RECORD_MAX];
    size_t length = CLEANUP_RECORD_MAX - strlen("run \n");

    memset(command, 'x', length);
    begin();
    ck_assert_int_eq(cleanup_run("first"), 0);
    ck_assert_int_eq(cleanup_run(command), 0);
    ck_assert_int_eq(cleanup_run("last"), 0);
    ck_assert_done(settle());
    ck_assert_uint_eq(strlen(runs), strlen("last\n") + length + 1 + strlen("first\n"));
    ck_assert_int_eq(strncmp(runs, "last\nxxx", 8), 0);
    ck_assert_str_eq(reports, "");
}
END_TEST

START_TEST(ledger_outside_a_request)
{
    ck_assert_int_eq(cleanup_unlink(at("work/a")), -1);
    ck_assert_int_eq(errno, EPERM);
    ck_assert_int_eq(cleanup_create(at("work/a"), 0, 0644), -1);
    ck_assert_int_eq(errno, EPERM);
    ck_assert_int_eq(cleanup_mkdir(at("work/a"), 0755), -1);
    ck_assert_int_eq(errno, EPERM);
    ck_assert_int_eq(cleanup_run("true"), -1);
    ck_assert_int_eq(errno, EPERM);
    ck_assert_int_eq(cleanup_commit(), -1);
    ck_assert_int_eq(errno, EPERM);
    ck_assert_ptr_null(cleanup_tempdir());
    ck_assert_int_eq(errno, EPERM);
    ck_assert(!cleanup_is_owner());
    ck_assert(!cleanup_pending());
    ck_assert_done(cleanup_undo());
    ck_assert_int_eq(cleanup_keep(), CLEANUP_DONE);
    ck_assert_str_eq(listing("work"), "");
    ck_assert_str_eq(listing("ledgers"), "");
}
END_TEST

START_TEST(append_checks_the_grammar)
{
    static const struct {
        const char *verb, *argument;
        int error;
    } cases[] = {
        {"unlink", "/a b", 0},
        {"rmtree", "/a", 0},
        {"run", "rm -f x", 0},
        {"scratch", "/s", 0},
        {"commit", "", 0},
        {"unlink-if", "8:1:10952780:1795412859.324394260 /srv/q3.csv", 0},
        {"rmtree-if", "8:1:10952780:- /srv/q3", 0},
        {"delete", "/a", EINVAL},
        {"", "/a", EINVAL},
        {"unlink ", "/a", EINVAL},
        {"#nlink", "/a", EINVAL},
        {"unlink", "a", EINVAL},
        {"unlink", "", EINVAL},
        {"unlink", "/a\nrun x", EINVAL},
        {"run", "", EINVAL},
        {"run", "a\n", EINVAL},
        {"commit", "x", EINVAL},
        {"unlink-if", "/a", EINVAL},
        {"unlink-if", "1:2:3 /a", EINVAL},
        {"unlink-if", "1:2:3:4.000000005 a", EINVAL},
    };
    int fd = open(at("ledger"), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0600);

    ck_assert_int_ge(fd, 0);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        errno = 0;
        off_t before = lseek(fd, 0, SEEK_END);
        int result = cleanup_append(fd, cases[i].verb, cases[i].argument, false);
        ck_assert_msg(result == (cases[i].error ? -1 : 0) && (!cases[i].error || errno == EINVAL),
                      "%s %s: %d, %s", cases[i].verb, cases[i].argument, result, strerror(errno));
        if (cases[i].error)
            ck_assert_int_eq(lseek(fd, 0, SEEK_END), before);
    }
    ck_assert_str_eq(text_of_fd(fd), "unlink /a b\nrmtree /a\nrun rm -f x\nscratch /s\ncommit\n"
                                     "unlink-if 8:1:10952780:1795412859.324394260 /srv/q3.csv\n"
                                     "rmtree-if 8:1:10952780:- /srv/q3\n");
}
END_TEST

/* ---- cleanup_create ---------------------------------------------------------------------- */

START_TEST(create_new)
{
    if (!use_way(_i))
        return;
    begin();
    int fd = cleanup_create(at("work/f"), 0, 0644);
    ck_assert_msg(fd >= 0, "%s", strerror(errno));
    ck_assert_int_eq(fcntl(fd, F_GETFD), FD_CLOEXEC);
    ck_assert_int_eq(write(fd, "hello", 5), 5);
    ck_assert_str_eq(get(at("work/f")), "hello");
    ck_assert_str_eq(text_of_fd(fd), "hello");
    ck_assert_str_eq(listing("work"), "f ");
    ck_assert_done(cleanup_undo());
    ck_assert_str_eq(listing("work"), "");
    ck_assert_str_eq(listing("ledgers"), "");
    ck_assert_str_eq(reports, "");
}
END_TEST

START_TEST(create_is_kept)
{
    if (!use_way(_i))
        return;
    begin();
    close(cleanup_create(at("work/f"), 0, 0644));
    ck_assert_int_eq(cleanup_mkdir(at("work/d"), 0755), 0);
    ck_assert_int_eq(cleanup_keep(), CLEANUP_DONE);
    ck_assert_str_eq(listing("work"), "d f ");
    ck_assert_str_eq(listing("ledgers"), "");
    ck_assert_done(cleanup_undo());
    ck_assert_str_eq(listing("work"), "d f ");
}
END_TEST

/* A name that is taken is refused, and undo does not touch what has it. */
START_TEST(create_taken)
{
    if (!use_way(_i))
        return;
    put(at("work/f"), "theirs");
    ck_assert_int_eq(mkdir(at("work/d"), 0755), 0);
    ck_assert_int_eq(symlink("nowhere", at("work/l")), 0);
    begin();
    ck_assert_int_eq(cleanup_create(at("work/f"), 0, 0644), -1);
    ck_assert_int_eq(errno, EEXIST);
    ck_assert_int_eq(cleanup_create(at("work/d"), 0, 0644), -1);
    ck_assert_int_eq(errno, EEXIST);
    ck_assert_int_eq(cleanup_create(at("work/l"), 0, 0644), -1);
    ck_assert_int_eq(errno, EEXIST);
    ck_assert_str_eq(listing("work"), "d f l ");
    ck_assert_done(cleanup_undo());
    ck_assert_str_eq(listing("work"), "d f l ");
    ck_assert_str_eq(get(at("work/f")), "theirs");
    ck_assert_str_eq(listing("ledgers"), "");
}
END_TEST

START_TEST(create_overwrite)
{
    struct stat st;

    if (!use_way(_i))
        return;
    put(at("work/f"), "old and longer");
    ck_assert_int_eq(chmod(at("work/f"), 0600), 0);
    begin();
    int fd = cleanup_create(at("work/f"), CLEANUP_OVERWRITE, 0640);
    ck_assert_msg(fd >= 0, "%s", strerror(errno));
    ck_assert_int_eq(write(fd, "new", 3), 3);
    close(fd);
    ck_assert_str_eq(get(at("work/f")), "new");
    ck_assert_int_eq(stat(at("work/f"), &st), 0);
    ck_assert_uint_eq(st.st_mode & 07777, 0640);
    fd = cleanup_create(at("work/g"), CLEANUP_OVERWRITE, 0644); /* nothing there to overwrite */
    ck_assert_int_ge(fd, 0);
    close(fd);
    ck_assert_str_eq(listing("work"), "f g ");
    ck_assert_done(cleanup_undo());
    ck_assert_str_eq(listing("work"), "");
}
END_TEST

/* Twice the same name: both are ours, and nothing is left of either. */
START_TEST(create_overwrite_own)
{
    if (!use_way(_i))
        return;
    begin();
    close(cleanup_create(at("work/f"), 0, 0644));
    close(cleanup_create(at("work/f"), CLEANUP_OVERWRITE, 0644));
    ck_assert_str_eq(listing("work"), "f ");
    ck_assert_done(cleanup_undo());
    ck_assert_str_eq(listing("work"), "");
    ck_assert_str_eq(reports, "");
}
END_TEST

START_TEST(create_overwrite_directory)
{
    if (!use_way(_i))
        return;
    ck_assert_int_eq(mkdir(at("work/d"), 0755), 0);
    put(at("work/d/x"), "theirs");
    ck_assert_int_eq(mkdir(at("work/empty"), 0755), 0);
    begin();
    ck_assert_int_eq(cleanup_create(at("work/d"), CLEANUP_OVERWRITE, 0644), -1);
    ck_assert_int_eq(errno, EISDIR);
    ck_assert_int_eq(cleanup_create(at("work/empty"), CLEANUP_OVERWRITE, 0644), -1);
    ck_assert_int_eq(errno, EISDIR);
    ck_assert_str_eq(listing("work"), "d empty ");
    ck_assert_done(cleanup_undo());
    ck_assert_str_eq(listing("work"), "d empty ");
    ck_assert_str_eq(get(at("work/d/x")), "theirs");
    ck_assert_str_eq(reports, "");
}
END_TEST

/* A symbolic link at the name is what is replaced, not what it points to. */
START_TEST(create_overwrite_symlink)
{
    if (!use_way(_i))
        return;
    put(at("target"), "theirs");
    ck_assert_int_eq(symlink(at("target"), at("work/l")), 0);
    begin();
    int fd = cleanup_create(at("work/l"), CLEANUP_OVERWRITE, 0644);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(write(fd, "ours", 4), 4);
    close(fd);
    ck_assert_str_eq(get(at("target")), "theirs");
    ck_assert_str_eq(get(at("work/l")), "ours");
    ck_assert_done(cleanup_undo());
    ck_assert_str_eq(listing("work"), "");
    ck_assert_str_eq(get(at("target")), "theirs");
}
END_TEST

/* A symbolic link on the way is followed, as by open(2). */
START_TEST(create_below_symlink)
{
    if (!use_way(_i))
        return;
    ck_assert_int_eq(mkdir(at("real"), 0755), 0);
    ck_assert_int_eq(symlink(at("real"), at("work/l")), 0);
    begin();
    close(cleanup_create(at("work/l/f"), 0, 0644));
    ck_assert_str_eq(listing("real"), "f ");
    ck_assert_done(cleanup_undo());
    ck_assert_str_eq(listing("real"), "");
    ck_assert_str_eq(listing("work"), "l ");
}
END_TEST

START_TEST(create_mode)
{
    static const mode_t cases[][3] = {
        {0666, 022, 0644}, {0666, 027, 0640}, {0600, 0, 0600}, {0777, 077, 0700}, {0444, 0, 0444}};
    struct stat st;

    if (!use_way(_i))
        return;
    begin();
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char name[32];
        snprintf(name, sizeof name, "work/f%zu", i);
        umask(cases[i][1]);
        int fd = cleanup_create(at(name), 0, cases[i][0]);
        ck_assert_int_ge(fd, 0);
        ck_assert_int_eq(write(fd, "x", 1), 1); /* whatever the mode says */
        close(fd);
        ck_assert_int_eq(stat(at(name), &st), 0);
        ck_assert_uint_eq(st.st_mode & 07777, cases[i][2]);
    }
    ck_assert_done(cleanup_undo());
    ck_assert_str_eq(listing("work"), "");
}
END_TEST

START_TEST(create_impossible)
{
    char name[NAME_MAX + 16] = "work/";

    if (!use_way(_i))
        return;
    memset(name + 5, 'n', NAME_MAX + 1);
    put(at("work/file"), "");
    begin();
    ck_assert_int_eq(cleanup_create(at("work/no/f"), 0, 0644), -1);
    ck_assert_int_eq(errno, ENOENT);
    ck_assert_int_eq(cleanup_create(at("work/file/f"), 0, 0644), -1);
    ck_assert_int_eq(errno, ENOTDIR);
    ck_assert_int_eq(cleanup_create(at(name), 0, 0644), -1);
    ck_assert_int_eq(errno, ENAMETOOLONG);
    ck_assert_int_eq(cleanup_create(at(name), CLEANUP_OVERWRITE, 0644), -1);
    ck_assert_int_eq(errno, ENAMETOOLONG);
    ck_assert_int_eq(cleanup_mkdir(at(name), 0755), -1);
    ck_assert_int_eq(errno, ENAMETOOLONG);
    ck_assert_int_eq(cleanup_create(at("work/no/"), 0, 0644), -1);
    ck_assert_int_eq(cleanup_create("/", 0, 0644), -1);
    ck_assert_int_eq(cleanup_create(at("work/.."), 0, 0644), -1);
    ck_assert_str_eq(listing("work"), "file ");
    ck_assert_done(cleanup_undo());
    ck_assert_str_eq(listing("work"), "file ");
    ck_assert_str_eq(listing("ledgers"), "");
    ck_assert_str_eq(reports, "");
}
END_TEST

/* The longest name a directory takes is taken, private names or not. */
START_TEST(create_longest_name)
{
    char name[NAME_MAX + 16] = "work/";

    if (!use_way(_i))
        return;
    memset(name + 5, 'n', NAME_MAX);
    begin();
    int fd = cleanup_create(at(name), 0, 0644);
    ck_assert_msg(fd >= 0, "%s", strerror(errno));
    close(fd);
    fd = cleanup_create(at(name), CLEANUP_OVERWRITE, 0644);
    ck_assert_msg(fd >= 0, "%s", strerror(errno));
    close(fd);
    ck_assert_str_ne(listing("work"), "");
    ck_assert_done(cleanup_undo());
    ck_assert_str_eq(listing("work"), "");
}
END_TEST

/* The ledger holds absolute paths: the current directory may change. */
START_TEST(create_relative)
{
    if (!use_way(_i))
        return;
    begin();
    ck_assert_int_eq(chdir(at("work")), 0);
    close(cleanup_create("f", 0, 0644));
    ck_assert_int_eq(cleanup_mkdir("d", 0755), 0);
    close(cleanup_create("d/../g", 0, 0644));
    put("u", "");
    ck_assert_int_eq(cleanup_unlink("u"), 0);
    ck_assert_str_eq(listing("work"), "d f g u ");
    ck_assert_int_eq(chdir("/"), 0);
    ck_assert_done(cleanup_undo());
    ck_assert_str_eq(listing("work"), "");
}
END_TEST

static void as_nobody(void)
{
    if (geteuid() != 0)
        return;
    ck_assert_int_eq(setgid(65534), 0);
    ck_assert_int_eq(setuid(65534), 0);
}

static void create_without_permission(void)
{
    as_nobody();
    begin();
    ck_assert_int_eq(cleanup_create(at("work/locked/f"), 0, 0644), -1);
    ck_assert_int_eq(errno, EACCES);
    ck_assert_int_eq(cleanup_mkdir(at("work/locked/f"), 0755), -1);
    ck_assert_int_eq(errno, EACCES);
    ck_assert_done(cleanup_undo());
}

static void give_to_nobody(const char *name)
{
    if (geteuid() == 0)
        ck_assert_int_eq(chown(at(name), 65534, 65534), 0);
}

START_TEST(create_in_locked_directory)
{
    if (!use_way(_i))
        return;
    ck_assert_int_eq(mkdir(at("work/locked"), 0500), 0);
    give_to_nobody("");
    give_to_nobody("ledgers");
    in_child(create_without_permission);
    ck_assert_str_eq(listing("work/locked"), "");
    ck_assert_str_eq(listing("ledgers"), "");
}
END_TEST

/* ---- cleanup_mkdir, cleanup_tempdir and the plain records -------------------------------- */

START_TEST(mkdir_new)
{
    struct stat st;

    if (!use_way(_i))
        return;
    begin();
    umask(027);
    ck_assert_msg(cleanup_mkdir(at("work/d"), 0777) == 0, "%s", strerror(errno));
    ck_assert_int_eq(lstat(at("work/d"), &st), 0);
    ck_assert_uint_eq(st.st_mode, S_IFDIR | 0750);
    ck_assert_str_eq(listing("work"), "d ");
    put(at("work/d/x"), "");
    ck_assert_int_eq(mkdir(at("work/d/sub"), 0755), 0);
    put(at("work/d/sub/y"), "");
    ck_assert_done(cleanup_undo());
    ck_assert_str_eq(listing("work"), "");
}
END_TEST

START_TEST(mkdir_taken)
{
    if (!use_way(_i))
        return;
    ck_assert_int_eq(mkdir(at("work/d"), 0755), 0);
    put(at("work/f"), "theirs");
    ck_assert_int_eq(symlink("nowhere", at("work/l")), 0);
    begin();
    /* An empty directory would be replaced by a plain rename. */
    ck_assert_int_eq(cleanup_mkdir(at("work/d"), 0755), -1);
    ck_assert_int_eq(errno, EEXIST);
    put(at("work/d/x"), "theirs");
    ck_assert_int_eq(cleanup_mkdir(at("work/d"), 0755), -1);
    ck_assert_int_eq(errno, EEXIST);
    ck_assert_int_eq(cleanup_mkdir(at("work/f"), 0755), -1);
    ck_assert_int_eq(errno, EEXIST);
    ck_assert_int_eq(cleanup_mkdir(at("work/l"), 0755), -1);
    ck_assert_int_eq(errno, EEXIST);
    ck_assert_int_eq(cleanup_mkdir(at("work/no/d"), 0755), -1);
    ck_assert_int_eq(errno, ENOENT);
    ck_assert_str_eq(listing("work"), "d f l ");
    ck_assert_done(cleanup_undo());
    ck_assert_str_eq(listing("work"), "d f l ");
    ck_assert_str_eq(get(at("work/d/x")), "theirs");
    ck_assert_str_eq(listing("ledgers"), "");
}
END_TEST

/* Ours was moved away and another directory has its name: neither is undone. */
START_TEST(mkdir_identity)
{
    if (!use_way(_i))
        return;
    begin();
    ck_assert_int_eq(cleanup_mkdir(at("work/d"), 0755), 0);
    ck_assert_int_eq(rename(at("work/d"), at("work/moved")), 0);
    ck_assert_int_eq(mkdir(at("work/d"), 0755), 0);
    put(at("work/d/x"), "theirs");
    ck_assert_done(cleanup_undo());
    ck_assert_str_eq(listing("work"), "d moved ");
    ck_assert_str_eq(listing("work/d"), "x ");
}
END_TEST

static void undo_beside_a_locked_stranger(void)
{
    struct stat st;

    as_nobody();
    begin();
    ck_assert_int_eq(cleanup_mkdir(at("work/d"), 0755), 0);
    ck_assert_int_eq(rename(at("work/d"), at("work/moved")), 0);
    ck_assert_int_eq(mkdir(at("work/d"), 0), 0);
    (void)cleanup_undo();
    ck_assert_int_eq(lstat(at("work/d"), &st), 0);
    ck_assert_uint_eq(st.st_mode, S_IFDIR);
}

/* Not even its mode is touched before it is known to be ours. */
START_TEST(mkdir_identity_before_mode)
{
    give_to_nobody("");
    give_to_nobody("work");
    give_to_nobody("ledgers");
    in_child(undo_beside_a_locked_stranger);
}
END_TEST

START_TEST(tempdir_is_private)
{
    struct stat st;
    char path[PATH_MAX], expected[PATH_MAX * 2];

    begin();
    umask(0);
    const char *dir = cleanup_tempdir();
    ck_assert_msg(dir != NULL, "%s", strerror(errno));
    snprintf(path, sizeof path, "%s", dir);
    ck_assert_int_eq(strncmp(path, at("tmp/"), strlen(at("tmp/"))), 0);
    ck_assert_int_eq(lstat(path, &st), 0);
    ck_assert_uint_eq(st.st_mode, S_IFDIR | 0700);
    ck_assert_str_eq(cleanup_tempdir(), path);
    ck_assert_str_eq(strchr(listing("tmp"), ' '), " "); /* there is one */
    snprintf(expected, sizeof expected, "\nscratch %s\n", path);
    ck_assert_ptr_nonnull(strstr(ledger_of(ID), expected));
    put(strcat(path, "/x"), "");
    if (_i) {
        ck_assert_int_eq(cleanup_keep(), CLEANUP_DONE);
    } else {
        ck_assert_done(cleanup_undo());
    }
    ck_assert_str_eq(listing("tmp"), "");
    ck_assert_str_eq(listing("ledgers"), "");
}
END_TEST

static void die_with_tempdir(void)
{
    begin();
    ck_assert_ptr_nonnull(cleanup_tempdir());
}

/* Whoever took the scratch directory's name beforehand does not lose what is in it. */
START_TEST(tempdir_taken)
{
    char name[PATH_MAX];

    in_child(die_with_tempdir);
    snprintf(name, sizeof name, "tmp/%s", listing("tmp"));
    name[strlen(name) - 1] = '\0';
    ck_assert_done(settle());
    ck_assert_str_eq(listing("tmp"), "");
    ck_assert_int_eq(mkdir(at(name), 0755), 0);
    ck_assert_int_eq(mkdir(at(strcat(name, "/theirs")), 0755), 0);
    begin();
    const char *dir = cleanup_tempdir();
    if (dir)
        ck_assert_str_ne(dir, at(name));
    if (_i) {
        ck_assert_int_eq(cleanup_keep(), CLEANUP_DONE);
    } else {
        ck_assert_done(cleanup_undo());
    }
    ck_assert(there(at(name)));
}
END_TEST

START_TEST(tempdir_impossible)
{
    begin();
    ck_assert_int_eq(rmdir(at("tmp")), 0);
    ck_assert_ptr_null(cleanup_tempdir());
    ck_assert_int_eq(errno, ENOENT);
    ck_assert_done(cleanup_undo());
    ck_assert_str_eq(listing("ledgers"), "");
}
END_TEST

/* unlink and rmtree go by name, whatever then has it; what is not there is success. */
START_TEST(plain_records_undone)
{
    begin();
    ck_assert_int_eq(cleanup_unlink(at("work/f")), 0);
    ck_assert_int_eq(cleanup_unlink(at("work/absent")), 0);
    ck_assert_int_eq(cleanup_unlink(at("work/no/way")), 0);
    ck_assert_int_eq(cleanup_rmtree(at("work/d")), 0);
    ck_assert_int_eq(cleanup_rmtree(at("work/plain")), 0);
    ck_assert_int_eq(cleanup_rmtree(at("work/l")), 0);
    ck_assert_int_eq(cleanup_rmtree(at("work/absent")), 0);
    put(at("work/f"), "");
    put(at("work/plain"), "");
    put(at("work/other"), "");
    ck_assert_int_eq(mkdir(at("work/d"), 0755), 0);
    put(at("work/d/x"), "");
    ck_assert_int_eq(mkdir(at("outside"), 0755), 0);
    put(at("outside/x"), "");
    ck_assert_int_eq(symlink(at("outside"), at("work/l")), 0);
    ck_assert_done(cleanup_undo());
    ck_assert_str_eq(listing("work"), "other ");
    ck_assert_str_eq(listing("outside"), "x ");
    ck_assert_str_eq(reports, "");
}
END_TEST

START_TEST(commit_keeps_what_is_above)
{
    begin();
    close(cleanup_create(at("work/kept"), 0, 0644));
    const char *scratch = cleanup_tempdir();
    ck_assert_ptr_nonnull(scratch);
    ck_assert_int_eq(cleanup_run("kept"), 0);
    ck_assert_int_eq(cleanup_commit(), 0);
    close(cleanup_create(at("work/undone"), 0, 0644));
    ck_assert_int_eq(cleanup_run("undone"), 0);
    ck_assert_done(settle());
    ck_assert_str_eq(listing("work"), "kept ");
    ck_assert_str_eq(listing("tmp"), "");
    ck_assert_str_eq(runs, "undone\n");
    ck_assert_str_eq(listing("ledgers"), "");
}
END_TEST

/* A commit in the program's own ledger covers what the program has recorded. */
START_TEST(commit_in_both)
{
    leave(ID, "unlink %s\ncommit\nunlink %s\n", at("work/a"), at("work/b"));
    leave(with("%s.p", ID), "unlink %s\ncommit\nunlink %s\n", at("work/c"), at("work/d"));
    put(at("work/a"), "");
    put(at("work/b"), "");
    put(at("work/c"), "");
    put(at("work/d"), "");
    ck_assert_done(settle());
    ck_assert_str_eq(listing("work"), "a c ");
    ck_assert_str_eq(listing("ledgers"), "");
}
END_TEST

/* ---- Undo -------------------------------------------------------------------------------- */

START_TEST(undo_newest_first)
{
    begin();
    ck_assert_int_eq(cleanup_run("1"), 0);
    ck_assert_int_eq(cleanup_run("2"), 0);
    ck_assert_int_eq(cleanup_run("3"), 0);
    ck_assert_done(settle());
    ck_assert_str_eq(runs, "3\n2\n1\n");
}
END_TEST

/* The order among records of different kinds, as each command sees it. */
static void look(const char *command)
{
    char expected[64];

    snprintf(expected, sizeof expected, "%s", command);
    ck_assert_str_eq(listing("work"), expected);
}

START_TEST(undo_order_across_verbs)
{
    begin();
    ck_assert_int_eq(cleanup_run("x "), 0);
    close(cleanup_create(at("work/a"), 0, 0644));
    ck_assert_int_eq(cleanup_run("a x "), 0);
    ck_assert_int_eq(cleanup_mkdir(at("work/b"), 0755), 0);
    ck_assert_int_eq(cleanup_run("a b x "), 0);
    ck_assert_int_eq(cleanup_unlink(at("work/c")), 0);
    put(at("work/c"), "");
    put(at("work/x"), "");
    on_run = look;
    ck_assert_done(settle());
    ck_assert_str_eq(runs, "a b x \na x \nx \n");
}
END_TEST

START_TEST(undo_failures_newest_first)
{
    begin();
    ck_assert_int_eq(cleanup_unlink(at("work/one")), 0);
    ck_assert_int_eq(cleanup_unlink(at("work/two")), 0);
    ck_assert_int_eq(mkdir(at("work/one"), 0755), 0);
    ck_assert_int_eq(mkdir(at("work/two"), 0755), 0);
    ck_assert_int_eq(cleanup_undo(), CLEANUP_FAILED);
    const char *one = strstr(reports, "work/one"), *two = strstr(reports, "work/two");
    ck_assert_ptr_nonnull(one);
    ck_assert_ptr_nonnull(two);
    ck_assert(two < one);
}
END_TEST

START_TEST(undo_twice)
{
    begin();
    close(cleanup_create(at("work/a"), 0, 0644));
    ck_assert_done(cleanup_undo());
    put(at("work/a"), "theirs, later");
    ck_assert_done(cleanup_undo());
    ck_assert_done(settle());
    ck_assert_str_eq(listing("work"), "a ");
    ck_assert(!cleanup_pending());
}
END_TEST

/* What a failure leaves: the records that are done as comments, the failed one as it was, to
 * be tried again. */
START_TEST(undo_goes_on_after_failure)
{
    begin();
    close(cleanup_create(at("work/a"), 0, 0644));
    ck_assert_int_eq(cleanup_unlink(at("work/stuck")), 0);
    close(cleanup_create(at("work/b"), 0, 0644));
    ck_assert_int_eq(mkdir(at("work/stuck"), 0755), 0);
    ck_assert_int_eq(cleanup_undo(), CLEANUP_FAILED);
    ck_assert_str_eq(listing("work"), "stuck ");
    ck_assert(cleanup_pending());
    const char *text = ledger_of(ID);
    ck_assert_line(text, "^#nlink-if .*/work/a$");
    ck_assert_line(text, "^#nlink-if .*/work/b$");
    ck_assert_line(text, "^unlink /.*/work/stuck$");
    ck_assert_line(reports, with("^%s: .*work/stuck", ID));
    ck_assert_int_eq(rmdir(at("work/stuck")), 0);
    ck_assert_done(settle());
    ck_assert_str_eq(listing("ledgers"), "");
}
END_TEST

START_TEST(undo_on_read_only_file_system)
{
    const char *dir = at("work/ro");

    if (!private_mounts())
        return;
    ck_assert_int_eq(mkdir(dir, 0755), 0);
    begin();
    close(cleanup_create(at("work/a"), 0, 0644));
    close(cleanup_create(at("work/ro/f"), 0, 0644));
    ck_assert_int_eq(cleanup_mkdir(at("work/ro/d"), 0755), 0);
    put(at("work/ro/d/x"), "");
    close(cleanup_create(at("work/b"), 0, 0644));
    ck_assert_int_eq(mount(dir, dir, "none", MS_BIND, NULL), 0);
    ck_assert_int_eq(mount("none", dir, "none", MS_REMOUNT | MS_BIND | MS_RDONLY, NULL), 0);
    ck_assert_int_eq(cleanup_undo(), CLEANUP_FAILED);
    ck_assert_str_eq(listing("work"), "ro ");
    ck_assert_line(reports, "work/ro/f");
    ck_assert_line(reports, "work/ro/d");
    ck_assert_int_eq(umount(dir), 0);
    ck_assert_done(cleanup_undo());
    ck_assert_str_eq(listing("work/ro"), "");
    ck_assert_str_eq(listing("ledgers"), "");
}
END_TEST

/* A handler's undo stops before the first run; what is newer has been undone. */
START_TEST(undo_stops_at_run)
{
    begin();
    close(cleanup_create(at("work/older"), 0, 0644));
    ck_assert_int_eq(cleanup_run("echo"), 0);
    close(cleanup_create(at("work/newer"), 0, 0644));
    ck_assert_int_eq(cleanup_undo(), CLEANUP_RUN_LEFT);
    ck_assert_str_eq(listing("work"), "older ");
    ck_assert_line(ledger_of(ID), "^run echo$");
    ck_assert_int_eq(settle_with(false, NULL), CLEANUP_RUN_LEFT);
    ck_assert_str_eq(listing("work"), "older ");
    ck_assert_done(settle());
    ck_assert_str_eq(listing("work"), "");
    ck_assert_str_eq(runs, "echo\n");
}
END_TEST

START_TEST(run_that_fails)
{
    begin();
    close(cleanup_create(at("work/a"), 0, 0644));
    ck_assert_int_eq(cleanup_run("first"), 0);
    ck_assert_int_eq(cleanup_run("fail"), 0);
    ck_assert_int_eq(cleanup_run("last"), 0);
    ck_assert_int_eq(settle(), CLEANUP_FAILED);
    ck_assert_str_eq(runs, "last\nfail\nfirst\n");
    ck_assert_str_eq(listing("work"), "");
    const char *text = ledger_of(ID);
    ck_assert_line(text, "^#un first$");
    ck_assert_line(text, "^run fail$");
    ck_assert_line(text, "^#un last$");
    runs[0] = '\0';
    ck_assert_int_eq(settle(), CLEANUP_FAILED);
    ck_assert_str_eq(runs, "fail\n"); /* what is done is not done again */
}
END_TEST

/* What a command records while it runs is undone as well: the reader reads on. */
static void record_more(const char *command)
{
    int fd;

    if (strcmp(command, "more") != 0)
        return;
    fd = openat(ledgers, ID, O_WRONLY | O_APPEND | O_CLOEXEC);
    ck_assert_int_eq(cleanup_append(fd, "run", "added", false), 0);
    close(fd);
}

START_TEST(undo_reads_on)
{
    leave(ID, "run first\nrun more\n");
    on_run = record_more;
    ck_assert_done(settle());
    ck_assert_line(runs, "^added$");
    ck_assert_line(runs, "^first$");
    ck_assert_str_eq(listing("ledgers"), "");
}
END_TEST

START_TEST(unknown_verb)
{
    put(at("work/a"), "");
    put(at("work/b"), "");
    put(at("work/c"), "");
    leave(ID,
          "unlink %s\nunlinks %s\nUNLINK %s\nunlink\t%s\nunlink-if %s\nrmtree-if x %s\nunlink %s\n",
          at("work/a"), at("work/c"), at("work/c"), at("work/c"), at("work/c"), at("work/c"),
          at("work/b"));
    ck_assert_int_eq(settle(), CLEANUP_FAILED);
    ck_assert_str_eq(listing("work"), "c ");
    ck_assert_line(reports, "unlinks");
    ck_assert_line(reports, "UNLINK");
    const char *text = ledger_of(ID);
    ck_assert_line(text, "^#nlink .*/a$");
    ck_assert_line(text, "^#nlink .*/b$");
    ck_assert_line(text, "^unlinks .*/c$");
    ck_assert_line(text, "^UNLINK .*/c$");
}
END_TEST

START_TEST(relative_path_is_not_guessed)
{
    ck_assert_int_eq(chdir(at("work")), 0);
    put("a", "");
    leave(ID, "unlink a\nrmtree a\nscratch a\n");
    ck_assert_int_eq(settle(), CLEANUP_FAILED);
    ck_assert_str_eq(listing("work"), "a ");
    ck_assert_str_ne(reports, "");
}
END_TEST

START_TEST(last_line_without_newline)
{
    put(at("work/a"), "");
    put(at("work/b"), "");
    leave(ID, "unlink %s\nunlink %s", at("work/a"), at("work/b"));
    ck_assert_done(settle());
    ck_assert_str_eq(listing("work"), "b ");
    ck_assert_str_eq(listing("ledgers"), "");
}
END_TEST

START_TEST(comments_and_empty_lines)
{
    put(at("work/a"), "");
    leave(ID, "#nlink %s\n\n# a remark\n", at("work/a"));
    ck_assert_done(settle());
    ck_assert_str_eq(listing("work"), "a ");
    ck_assert_str_eq(reports, "");
}
END_TEST

/* A request that has left these made something that was to be undone, or not. */
static const struct {
    const char *records;
    bool made;
} lefts[] = {
    {"", false},
    {"# a remark\n#\n", false},
    {"scratch /nonexistent/a\n", false},
    {"unlink /nonexistent/a\n", true},
    {"unlink /nonexistent/a\ncommit\n", false},
    {"scratch /nonexistent/a\ncommit\nunlink /nonexistent/b\n", true},
    {"#nlink /nonexistent/a\n", true}, /* undone by whoever died then */
};

START_TEST(look_tells_whether_something_was_made)
{
    struct cleanup_look l;
    leave(ID, "%s", lefts[_i].records);
    ck_assert(cleanup_look_ledger(ledgers, ID, &l));
    ck_assert_int_eq(l.made, lefts[_i].made);
}
END_TEST

/* What cannot be read has not been undone, and is not dropped. */
static void settle_what_cannot_be_read(void)
{
    if (deny(SYS_pread64, 2, ~0U, EIO))
        ck_assert_int_eq(settle(), CLEANUP_FAILED);
}

START_TEST(read_error)
{
    put(at("work/a"), "");
    leave(ID, "unlink %s\n", at("work/a"));
    in_child(settle_what_cannot_be_read);
    ck_assert(cleanup_exists(ledgers, ID));
    ck_assert_done(settle());
    ck_assert_str_eq(listing("work"), "");
}
END_TEST

/* A line that no maker of ours can have written is reported, and stops nothing. */
START_TEST(overlong_line)
{
    static char noise[3 * CLEANUP_RECORD_MAX] = "run ";

    memset(noise + 4, 'x', sizeof noise - 5);
    put(at("work/a"), "");
    put(at("work/b"), "");
    leave(with("%s.p", ID), "unlink %s\n%s\nunlink %s\n", at("work/a"), noise, at("work/b"));
    leave(ID, "scratch %s\n", at("tmp/none"));
    ck_assert_int_eq(settle(), CLEANUP_FAILED);
    ck_assert_str_eq(listing("work"), "");
    ck_assert_str_eq(runs, "");
    ck_assert_str_ne(reports, "");
}
END_TEST

/* What was read of such a line is not what was recorded, whatever it says. */
START_TEST(overlong_scratch)
{
    static char noise[2 * CLEANUP_RECORD_MAX] = "";

    memset(noise, 'x', sizeof noise - 1);
    leave(ID, "scratch /%s\n", noise);
    ck_assert_int_eq(settle(), CLEANUP_FAILED);
    ck_assert_str_ne(reports, "");
    leave(ID, "scratch /%s\n", noise);
    ck_assert_int_eq(
        cleanup_settle_kept(&(struct cleanup_settling){.dir = ledgers, .id = ID, .run = note_run}),
        CLEANUP_DONE);
}
END_TEST

START_TEST(line_with_nul)
{
    int fd;

    put(at("work/a"), "");
    put(at("work/b"), "");
    leave(ID, "unlink %s\n", at("work/b"));
    leave(with("%s.p", ID), "%s", "");
    fd = openat(ledgers, with("%s.p", ID), O_WRONLY | O_APPEND | O_CLOEXEC);
    ck_assert_int_gt(dprintf(fd, "rmtree %s", at("work/a")), 0);
    ck_assert_int_eq(write(fd, "\0/tail\n", 7), 7);
    close(fd);
    ck_assert_int_eq(settle(), CLEANUP_FAILED);
    ck_assert_str_eq(listing("work"), "a ");
    ck_assert_str_ne(reports, "");
}
END_TEST

/* ---- Identity ---------------------------------------------------------------------------- */

START_TEST(foreign_file_stays)
{
    if (!use_way(_i))
        return;
    begin();
    close(cleanup_create(at("work/a"), 0, 0644));
    put(at("theirs"), "theirs");
    ck_assert_int_eq(rename(at("theirs"), at("work/a")), 0);
    ck_assert_done(cleanup_undo());
    ck_assert_str_eq(get(at("work/a")), "theirs");
    ck_assert_str_eq(listing("ledgers"), "");
}
END_TEST

START_TEST(renamed_away)
{
    begin();
    close(cleanup_create(at("work/a"), 0, 0644));
    ck_assert_int_eq(rename(at("work/a"), at("work/b")), 0);
    ck_assert_done(cleanup_undo());
    ck_assert_str_eq(listing("work"), "b ");
}
END_TEST

/* Inode numbers are given out again at once: ours is gone, a stranger has name and number. */
START_TEST(same_inode_number_stays)
{
    struct stat ours, theirs = {0};

    if (!have_birth_times())
        return;
    begin();
    close(cleanup_create(at("work/a"), 0, 0644));
    ck_assert_int_eq(lstat(at("work/a"), &ours), 0);
    for (int i = 0; i < 100 && theirs.st_ino != ours.st_ino; i++) {
        ck_assert_int_eq(unlink(at("work/a")), 0);
        put(at("work/a"), "theirs");
        ck_assert_int_eq(lstat(at("work/a"), &theirs), 0);
    }
    ck_assert_done(cleanup_undo());
    ck_assert_str_eq(get(at("work/a")), "theirs");
}
END_TEST

START_TEST(birth_time_decides)
{
    if (!have_birth_times())
        return;
    put(at("work/other"), "");
    put(at("work/ours"), "");
    ck_assert_int_eq(mkdir(at("work/dir"), 0755), 0);
    leave(ID, "unlink-if %s %s\n", file_id(at("work/other"), 1), at("work/other"));
    ck_assert_done(settle());
    leave(ID, "rmtree-if %s %s\n", file_id(at("work/dir"), -1), at("work/dir"));
    ck_assert_done(settle());
    leave(ID, "unlink-if %s %s\n", file_id(at("work/ours"), 0), at("work/ours"));
    ck_assert_done(settle());
    ck_assert_str_eq(listing("work"), "dir other ");
    leave(ID, "rmtree-if %s %s\n", file_id(at("work/dir"), 0), at("work/dir"));
    ck_assert_done(settle());
    ck_assert_str_eq(listing("work"), "other ");
}
END_TEST

/* A device's number may be another after a reboot; within a boot it counts. */
START_TEST(device_counts_within_a_boot)
{
    const char *id, *rest;

    if (!have_birth_times())
        return;
    put(at("work/a"), "");
    begin(); /* as a server has: this boot is known */
    id = file_id(at("work/a"), 0);
    rest = strchr(strchr(id, ':') + 1, ':'); /* INO:BTIME */
    leave(ID, "unlink-if 9999:1%s %s\n", rest, at("work/a"));
    ck_assert_int_eq(settle_with(true, NULL), CLEANUP_DONE);
    ck_assert_str_eq(listing("work"), "a ");
    leave_before_boot("unlink-if 9999:1%s %s\n", rest, at("work/a"));
    ck_assert_int_eq(settle_with(true, NULL), CLEANUP_DONE);
    ck_assert_str_eq(listing("work"), "");
}
END_TEST

START_TEST(without_birth_time)
{
    struct stat st;
    char id[64];

    put(at("work/a"), "");
    ck_assert_int_eq(mkdir(at("work/d"), 0755), 0);
    ck_assert_int_eq(lstat(at("work/a"), &st), 0);
    snprintf(id, sizeof id, "%u:%u:%llu:-", major(st.st_dev), minor(st.st_dev),
             (unsigned long long)st.st_ino);
    leave(ID, "unlink-if %s %s\n", id, at("work/a"));
    ck_assert_int_eq(settle_with(true, NULL), CLEANUP_FAILED);
    ck_assert_str_eq(listing("work"), "a d ");
    ck_assert_line(ledger_of(ID), "^unlink-if .*/work/a$");
    ck_assert_line(reports, "work/a");
    ck_assert_int_eq(settle_with(false, NULL), CLEANUP_DONE);
    ck_assert_str_eq(listing("work"), "d ");

    /* What is gone, or plainly another, needs no birth time. */
    leave(ID, "unlink-if %s %s\nunlink-if %s %s\n", id, at("work/a"), id, at("work/d"));
    ck_assert_int_eq(settle_with(true, NULL), CLEANUP_DONE);
    ck_assert_str_eq(listing("work"), "d ");
}
END_TEST

/* ---- sent, kept, refuted ----------------------------------------------------------------- */

START_TEST(sent_mark)
{
    uint64_t n = 0;

    begin();
    ck_assert(!cleanup_was_sent(ledgers, ID, &n));
    close(cleanup_create(at("work/a"), 0, 0644));
    ck_assert(!cleanup_was_sent(ledgers, ID, &n));
    ck_assert_int_eq(cleanup_sent(1893), 0);
    ck_assert_line(ledger_of(ID), "^sent 1893$");
    ck_assert(cleanup_was_sent(ledgers, ID, &n));
    ck_assert_uint_eq(n, 1893);
    ck_assert_int_eq(cleanup_unsent(), 0);
    ck_assert_line(ledger_of(ID), "^#ent 1893$");
    ck_assert(!cleanup_was_sent(ledgers, ID, &n));
    ck_assert_done(cleanup_undo());
    ck_assert_str_eq(listing("work"), "");
}
END_TEST

START_TEST(unsent_without_sent)
{
    begin();
    ck_assert_int_eq(cleanup_unsent(), 0);
    close(cleanup_create(at("work/a"), 0, 0644));
    ck_assert_int_eq(cleanup_unsent(), 0);
    ck_assert_line(ledger_of(ID), "^unlink-if .*work/a$");
    ck_assert_done(cleanup_undo());
}
END_TEST

/* A mark that only looks like one: cut off, too long, with a NUL, or in the program's ledger, which
 * is not believed. */
START_TEST(sent_mark_forged)
{
    static char zeros[CLEANUP_RECORD_MAX];
    uint64_t n;

    leave(ID, "unlink /no/such\nsent 12");
    ck_assert(!cleanup_was_sent(ledgers, ID, &n));
    leave(ID, "#ent 12\nrun sent 12\nsent\nsent x\nsent 12x\n");
    ck_assert(!cleanup_was_sent(ledgers, ID, &n));
    memset(zeros, '0', sizeof zeros - 1);
    leave(ID, "sent %s1\n", zeros);
    ck_assert(!cleanup_was_sent(ledgers, ID, &n));
    leave(ID, "sent 12");
    int fd = openat(ledgers, ID, O_WRONLY | O_APPEND | O_CLOEXEC);
    ck_assert_int_eq(write(fd, "\0tail\n", 6), 6);
    close(fd);
    ck_assert(!cleanup_was_sent(ledgers, ID, &n));
    leave(ID, "unlink /no/such\n");
    leave(with("%s.p", ID), "sent 12\n");
    ck_assert(!cleanup_was_sent(ledgers, ID, &n));
    leave(ID, "sent 12\n");
    ck_assert(cleanup_was_sent(ledgers, ID, &n));
    ck_assert_uint_eq(n, 12);
}
END_TEST

static void die_after_sent(void)
{
    begin();
    close(cleanup_create(at("work/a"), 0, 0644));
    ck_assert_ptr_nonnull(cleanup_tempdir());
    ck_assert_int_eq(cleanup_run("undo"), 0);
    ck_assert_int_ge(cleanup_open_for_program(), 0);
    ck_assert_int_eq(cleanup_sent(100), 0);
}

static void no_longer_sent(const char *command)
{
    uint64_t n;

    (void)command;
    ck_assert(!cleanup_was_sent(ledgers, ID, &n));
}

/* The peer had it all: results stay, the scratch goes. It had not: all is undone, and whoever
 * would have to go on after a crash in between no longer finds the mark. */
START_TEST(kept_or_refuted)
{
    struct cleanup_settling how = {.dir = ledgers, .id = ID, .run = note_run};

    in_child(die_after_sent);
    ck_assert_str_ne(listing("tmp"), "");
    if (_i) {
        ck_assert_int_eq(cleanup_settle_kept(&how), CLEANUP_DONE);
        ck_assert_str_eq(listing("work"), "a ");
        ck_assert_str_eq(runs, "");
    } else {
        on_run = no_longer_sent;
        ck_assert_int_eq(cleanup_settle_refuted(&how), CLEANUP_DONE);
        ck_assert_str_eq(listing("work"), "");
        ck_assert_str_eq(runs, "undo\n");
    }
    ck_assert_str_eq(listing("tmp"), "");
    ck_assert_str_eq(listing("ledgers"), "");
}
END_TEST

/* ---- The program's own ledger ------------------------------------------------------------ */

START_TEST(program_ledger_first)
{
    begin();
    int fd = cleanup_open_for_program();
    ck_assert_int_ge(fd, 0);
    ck_assert_str_eq(listing("ledgers"), with("%s %s.p ", ID, ID));
    ck_assert_int_eq(cleanup_run("server"), 0);
    ck_assert_int_eq(write(fd, "run program\n", 12), 12);
    ck_assert_int_eq(cleanup_run("server again"), 0);
    ck_assert_int_eq(cleanup_append(fd, "run", "program again", false), 0);
    close(fd);
    ck_assert_done(settle());
    ck_assert_str_eq(runs, "program again\nprogram\nserver again\nserver\n");
    ck_assert_str_eq(listing("ledgers"), "");
}
END_TEST

static void begin_pooled(const char *id, const char *title, int pool)
{
    static struct cleanup_owner owner;
    static char tmp[PATH_MAX];

    snprintf(tmp, sizeof tmp, "%s/tmp", base);
    owner = (struct cleanup_owner){.dir = ledgers,
                                   .id = id,
                                   .title = title,
                                   .tmpdir = tmp,
                                   .pool = pool,
                                   .pool_path = tmp,
                                   .spare = 1};
    cleanup_begin(&owner);
}

/* A ledger without records and an empty scratch directory are given to the next one, whose first
 * lines are shorter, as long, or longer. */
static const char *const titles[] = {"GET /", "GET /1", "GET /12", "GET /123456789", "GET"};

START_TEST(program_ledger_reused)
{
    struct stat first, now;
    char second[CLEANUP_ID_SIZE];
    int pool = open(at("tmp"), O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    snprintf(second, sizeof second, "%s-2", TOKEN);
    begin_pooled(ID, titles[_i], pool);
    ck_assert_int_eq(fstat(cleanup_open_for_program(), &first), 0);
    ck_assert_str_eq(cleanup_tempdir(), at(with("tmp/%s", ID)));
    ck_assert_str_eq(listing("tmp"), with("%s ", ID));
    ck_assert_int_eq(cleanup_keep(), CLEANUP_DONE);
    ck_assert_str_eq(listing("ledgers"), ".spare-1 .spare-1-room ");
    ck_assert_str_eq(listing("tmp"), ".spare-1 ");

    begin_pooled(second, titles[0], pool);
    int fd = cleanup_open_for_program();
    ck_assert_int_eq(fstat(fd, &now), 0);
    ck_assert(now.st_ino == first.st_ino);
    ck_assert_ptr_null(cleanup_not_a_ledger(fd)); /* it is appended to, too */
    ck_assert_str_eq(listing("ledgers"), with(".spare-1-room %s.p ", second));
    ck_assert_str_eq(listing("tmp"), with("%s ", second));
    const char *text = get(at(with("ledgers/%s.p", second)));
    ck_assert_line(text, with("^# hangupd ledger 1 id=%s .* GET /$", second));
    ck_assert_ptr_null(strstr(text, ID));
    ck_assert(text[strlen(text) - 1] == '\n');
    ck_assert(!cleanup_has_records());
    put(at("work/a"), "");
    ck_assert_int_eq(cleanup_append(fd, "unlink", at("work/a"), false), 0);
    ck_assert(cleanup_has_records());
    ck_assert_done(_i % 2 == 0 ? cleanup_keep() : cleanup_undo());
    ck_assert_str_eq(listing("work"), _i % 2 == 0 ? "a " : "");
    ck_assert_str_eq(listing("ledgers"), ".spare-1-room ");
    ck_assert_str_eq(listing("tmp"), "");
    close(fd);
    close(pool);
}
END_TEST

static void own_it(const char *path)
{
    ck_assert_int_eq(chown(path, geteuid(), getegid()), 0);
}

static void set_attribute(const char *path, const char *name, const char *value, size_t size)
{
    if (setxattr(path, name, value, size, 0) < 0) {
        ck_assert_int_eq(errno, EOPNOTSUPP);
        own_it(path);
    }
}

/* With it, what the next request makes there would be the user 12345's as well. */
static void share_it(const char *path)
{
    static const char acl[] = "\2\0\0\0" /* version; then tag, rights, who */
                              "\1\0\7\0\377\377\377\377"
                              "\2\0\7\0\x39\x30\0\0"
                              "\4\0\0\0\377\377\377\377"
                              "\20\0\7\0\377\377\377\377"
                              "\40\0\0\0\377\377\377\377";
    set_attribute(path, "system.posix_acl_default", acl, sizeof acl - 1);
}

static void name_it(const char *path)
{
    set_attribute(path, "user.name", "it", 2);
}

static void use_it(const char *path)
{
    char file[PATH_MAX];
    snprintf(file, sizeof file, "%s/a", path);
    put(file, "");
    ck_assert_int_eq(unlink(file), 0);
}

static void (*const changes[])(const char *) = {own_it, use_it, share_it, name_it};

START_TEST(changed_scratch_is_not_reused)
{
    struct stat made, now;
    int pool = open(at("tmp"), O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    begin_pooled(ID, "GET /test", pool);
    ck_assert_int_ge(cleanup_open_for_program(), 0);
    const char *scratch = cleanup_tempdir();
    ck_assert_int_eq(stat(scratch, &made), 0);
    do { /* files may have a clock that goes in steps */
        changes[_i](scratch);
        ck_assert_int_eq(stat(scratch, &now), 0);
    } while (now.st_ctim.tv_sec == made.st_ctim.tv_sec &&
             now.st_ctim.tv_nsec == made.st_ctim.tv_nsec);
    ck_assert_int_eq(cleanup_keep(), CLEANUP_DONE);
    ck_assert_str_eq(listing("tmp"), "");
    close(pool);
}
END_TEST

/* Let CHILD go on until it is about to rename something. False: it has ended, with STATUS. */
static bool goes_on_to_rename(pid_t child, int *status)
{
    for (long signal = 0;;) {
        struct __ptrace_syscall_info now = {0};
        ck_assert_int_eq(ptrace(PTRACE_SYSCALL, child, NULL, signal), 0);
        ck_assert_int_eq(waitpid(child, status, 0), child);
        if (!WIFSTOPPED(*status))
            return false;
        bool at_call = WSTOPSIG(*status) == (SIGTRAP | 0x80);
        signal = at_call ? 0 : WSTOPSIG(*status);
        if (at_call && ptrace(PTRACE_GET_SYSCALL_INFO, child, sizeof now, &now) > 0 &&
            now.op == PTRACE_SYSCALL_INFO_ENTRY && now.entry.nr == SYS_renameat)
            return true;
    }
}

/* Whoever opens the ledger while it is given back breaks the lease, whose signal must not end us;
 * and what he opened is not used again. */
START_TEST(lease_that_is_broken)
{
    int status, broken = 0, pool = open(at("tmp"), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    pid_t child = fork();
    ck_assert_int_ge(child, 0);
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        ptrace(PTRACE_TRACEME, 0, NULL, NULL);
        raise(SIGSTOP);
        begin_pooled(ID, "GET /test", pool);
        _exit(cleanup_open_for_program() >= 0 && cleanup_keep() == CLEANUP_DONE ? 0 : 1);
    }
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert_int_eq(ptrace(PTRACE_SETOPTIONS, child, NULL, PTRACE_O_TRACESYSGOOD), 0);
    while (goes_on_to_rename(child, &status)) {
        int fd = open(at(with("ledgers/%s.p", ID)), O_WRONLY | O_NONBLOCK | O_CLOEXEC);
        broken += fd < 0 && errno == EWOULDBLOCK;
        close(fd);
    }
    ck_assert_int_eq(broken, 1);
    ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 0, "status %x", (unsigned)status);
    ck_assert_str_eq(listing("ledgers"), ".spare-1-room ");
    close(pool);
}
END_TEST

/* Somebody has cleaned TMPDIR up: the scratch directory is made elsewhere. */
START_TEST(pool_that_is_gone)
{
    ck_assert_int_eq(mkdir(at("tmp/pool"), 0700), 0);
    int pool = open(at("tmp/pool"), O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    ck_assert_int_eq(rmdir(at("tmp/pool")), 0);
    begin_pooled(ID, "GET /test", pool);
    int fd = cleanup_open_for_program();
    ck_assert_int_ge(fd, 0);
    ck_assert_ptr_nonnull(cleanup_tempdir());
    ck_assert_str_ne(listing("tmp"), "");
    ck_assert_int_eq(cleanup_keep(), CLEANUP_DONE);
    ck_assert_str_eq(listing("ledgers"), ".spare-1 .spare-1-room ");
    ck_assert_str_eq(listing("tmp"), "");
    close(pool);
}
END_TEST

/* ...and another user has taken the name of the pool: nothing of ours is in there. */
static void undo_beside_a_stranger(void)
{
    char *path = strdup(at(with("tmp/hangupd-%s-1", TOKEN)));
    struct cleanup_owner owner = {.dir = ledgers,
                                  .id = ID,
                                  .title = "GET /test",
                                  .tmpdir = strdup(at("tmp")),
                                  .pool = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC),
                                  .pool_path = path};
    ck_assert_int_eq(rmdir(path), 0);
    ck_assert_int_eq(mkdir(path, 0700), 0);
    as_nobody();
    cleanup_begin(&owner);
    ck_assert_int_ge(cleanup_open_for_program(), 0);
    ck_assert_ptr_nonnull(cleanup_tempdir());
    ck_assert_done(cleanup_undo());
}

START_TEST(pool_of_a_stranger)
{
    if (geteuid() != 0)
        return;
    give_to_nobody("");
    give_to_nobody("tmp");
    give_to_nobody("ledgers");
    ck_assert_int_eq(mkdir(at(with("tmp/hangupd-%s-1", TOKEN)), 0700), 0);
    in_child(undo_beside_a_stranger);
    ck_assert_str_eq(listing("tmp"), with("hangupd-%s-1 ", TOKEN));
    ck_assert_str_eq(listing("ledgers"), "");
}
END_TEST

/* What could not be removed is named, and it is not the ledger. */
START_TEST(scratch_that_cannot_be_removed)
{
    if (!private_mounts())
        return;
    char *path = strdup(at(with("tmp/hangupd-%s-1", TOKEN)));
    ck_assert_int_eq(mkdir(path, 0700), 0);
    struct cleanup_owner owner = {.dir = ledgers,
                                  .id = ID,
                                  .title = "GET /test",
                                  .tmpdir = strdup(at("tmp")),
                                  .pool = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC),
                                  .pool_path = path,
                                  .spare = 1};
    cleanup_begin(&owner);
    int fd = cleanup_open_for_program();
    ck_assert_int_ge(fd, 0);
    char *scratch = strdup(cleanup_tempdir()), *mounted = strdup(with("%s/mounted", scratch));
    ck_assert_int_eq(mkdir(mounted, 0755), 0);
    ck_assert_int_eq(mount("tmpfs", mounted, "tmpfs", 0, "size=64k"), 0);
    ck_assert_int_eq(ftruncate(fd, 0), 0);
    ck_assert_int_eq(cleanup_undo(), CLEANUP_FAILED);
    ck_assert_ptr_nonnull(
        strstr(reports, with("could not remove the scratch directory %s", scratch)));
    ck_assert_ptr_null(strstr(reports, "could not remove the ledger"));
    ck_assert_str_eq(listing("ledgers"), with(".spare-1-room %s.p ", ID));
    ck_assert_int_eq(umount(mounted), 0);
    ck_assert_done(cleanup_undo());
    ck_assert_str_eq(listing("tmp"), "");
    ck_assert_str_eq(listing("ledgers"), ".spare-1-room ");
    free(mounted);
    free(scratch);
}
END_TEST

START_TEST(program_ledger_kept)
{
    begin();
    put(at("work/a"), "");
    int fd = cleanup_open_for_program();
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(cleanup_append(fd, "unlink", at("work/a"), false), 0);
    close(fd);
    ck_assert(cleanup_pending());
    ck_assert_int_eq(cleanup_keep(), CLEANUP_DONE);
    ck_assert_str_eq(listing("work"), "a ");
    ck_assert_str_eq(listing("ledgers"), "");
}
END_TEST

/* `> /dev/fd/3` truncates: what it threw away is lost and said so, but not what it wrote, nor
 * what the server recorded. */
START_TEST(program_ledger_truncated)
{
    char path[64];

    begin();
    put(at("work/server"), "");
    ck_assert_int_eq(cleanup_unlink(at("work/server")), 0);
    int fd = cleanup_open_for_program();
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(cleanup_append(fd, "unlink", at("work/lost"), false), 0);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    int careless = open(path, O_WRONLY | O_TRUNC | O_CLOEXEC);
    ck_assert_int_ge(careless, 0);
    put(at("work/program"), "");
    ck_assert_int_gt(dprintf(careless, "unlink %s\n", at("work/program")), 0);
    close(careless);
    close(fd);
    (void)settle();
    ck_assert_str_eq(listing("work"), "");
    ck_assert_line(reports, with("^%s: ", ID));
}
END_TEST

/* What has the same size and says something else is no ledger without records. */
START_TEST(program_ledger_rewritten)
{
    struct stat st;
    char line[CLEANUP_RECORD_MAX];

    begin();
    int fd = cleanup_open_for_program();
    ck_assert_int_eq(fstat(fd, &st), 0);
    ck_assert(!cleanup_has_records());
    snprintf(line, sizeof line, "run true %0*d\n", (int)st.st_size - 10, 0);
    int own = open(at(with("ledgers/%s.p", ID)), O_WRONLY | (_i == 0 ? O_TRUNC : 0) | O_CLOEXEC);
    ck_assert_int_eq(write(own, line, strlen(line)), st.st_size);
    ck_assert(cleanup_has_records());
    close(own);
    ck_assert_int_eq(cleanup_undo(), CLEANUP_RUN_LEFT);
}
END_TEST

/* With --sync every record is on the disk when it is written, whoever writes it. */
START_TEST(program_ledger_is_synced)
{
    for (int sync = 0; sync < 2; sync++) {
        struct cleanup_owner owner = {
            .dir = ledgers, .id = ID, .title = "GET /test", .tmpdir = at("tmp"), .sync = sync};

        cleanup_begin(&owner);
        int fd = cleanup_open_for_program();
        ck_assert_int_ge(fd, 0);
        ck_assert_int_eq(fcntl(fd, F_GETFL) & O_DSYNC, sync ? O_DSYNC : 0);
        close(fd);
        ck_assert_done(settle());
    }
}
END_TEST

/* ---- A full disk ------------------------------------------------------------------------- */

/* A file system of SIZE at base/NAME. */
static bool small_disk(const char *name, const char *options)
{
    if (!private_mounts())
        return false;
    ck_assert_int_eq(mkdir(at(name), 0755), 0);
    if (mount("tmpfs", at(name), "tmpfs", 0, options) == 0)
        return true;
    fprintf(stderr, "skipped: cannot mount (%s)\n", strerror(errno));
    return false;
}

static void fill(const char *path)
{
    static const char block[4096];
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);

    ck_assert_int_ge(fd, 0);
    for (size_t n = sizeof block; n > 0; n /= 2)
        while (write(fd, block, n) == (ssize_t)n)
            ;
    ck_assert_int_eq(errno, ENOSPC);
    close(fd);
}

START_TEST(disk_full_before_the_ledger)
{
    if (!small_disk("disk", "size=128k"))
        return;
    fill(at("disk/filler"));
    close(ledgers);
    ledgers = open(at("disk"), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    begin();
    ck_assert_int_eq(cleanup_create(at("work/a"), 0, 0644), -1);
    ck_assert_int_eq(errno, ENOSPC);
    ck_assert_int_eq(cleanup_mkdir(at("work/d"), 0755), -1);
    ck_assert_int_eq(errno, ENOSPC);
    ck_assert_int_eq(cleanup_unlink(at("work/a")), -1);
    ck_assert_int_eq(errno, ENOSPC);
    ck_assert_ptr_null(cleanup_tempdir());
    ck_assert_int_eq(errno, ENOSPC);
    ck_assert_str_eq(listing("work"), "");
    ck_assert_str_eq(listing("tmp"), "");
    ck_assert_str_eq(listing("disk"), "filler ");
    ck_assert_done(cleanup_undo());
}
END_TEST

/* Records of all lengths until the disk is full: the one that did not fit never happened, what
 * it was for was not made, and what fits later is read as it was written. */
START_TEST(disk_full_in_between)
{
    char path[PATH_MAX];
    int made = 0;

    if (!small_disk("disk", "size=128k"))
        return;
    close(ledgers);
    ledgers = open(at("disk"), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    begin();
    close(cleanup_create(at("work/first"), 0, 0644));
    fill(at("disk/filler"));
    for (;; made++) {
        snprintf(path, sizeof path, "work/%0*d", 1 + (made * 37) % 200, made);
        int fd = cleanup_create(at(path), 0, 0644);
        if (fd < 0)
            break;
        close(fd);
        ck_assert_int_lt(made, 10000);
    }
    ck_assert_int_eq(errno, ENOSPC);
    ck_assert(!there(at(path)));
    while (cleanup_unlink(at("work/shorter, and so it may fit yet")) == 0)
        ck_assert_int_lt(made++, 20000);
    ck_assert_int_eq(errno, ENOSPC);
    ck_assert_str_eq(reports, "");
    ck_assert_int_eq(unlink(at("disk/filler")), 0);
    close(cleanup_create(at("work/later"), 0, 0644));
    ck_assert(there(at("work/later")));
    ck_assert_done(cleanup_undo());
    ck_assert_str_eq(listing("work"), "");
    ck_assert_str_eq(listing("disk"), "");
    ck_assert_str_eq(reports, "");
}
END_TEST

/* The work of a program that has made something is not for nothing when the disk is full by then.
 */
START_TEST(disk_full_for_the_answer)
{
    uint64_t n = 0;

    if (!small_disk("disk", "size=128k"))
        return;
    close(ledgers);
    ledgers = open(at("disk"), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int pool = open(at("tmp"), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    for (int i = 0; i < 2; i++) {
        if (_i == 0)
            begin();
        else
            begin_pooled(ID, titles[i], pool);
        int fd = cleanup_open_for_program();
        ck_assert_int_ge(fd, 0);
        ck_assert_int_eq(cleanup_append(fd, "unlink", at("work/a"), false), 0);
        fill(at("disk/filler"));
        ck_assert_int_eq(cleanup_sent(5), 0);
        ck_assert_int_eq(cleanup_was_sent(ledgers, ID, &n), 1);
        ck_assert(n == 5);
        ck_assert_done(i == 0 ? cleanup_keep() : cleanup_undo());
        ck_assert_str_eq(listing("disk"), "filler ");
        ck_assert_int_eq(unlink(at("disk/filler")), 0);
        close(fd);
    }
    close(pool);
}
END_TEST

/* The same by a limit on the ledger's size, for every place where the cut can fall. */
static void write_up_to_limit(void)
{
    struct stat st;
    struct rlimit limit;

    signal(SIGXFSZ, SIG_IGN);
    begin();
    ck_assert_int_eq(cleanup_unlink(at("work/a")), 0);
    ck_assert_int_eq(fstatat(ledgers, ID, &st, 0), 0);
    ck_assert_int_eq(getrlimit(RLIMIT_FSIZE, &limit), 0);
    rlim_t unlimited = limit.rlim_cur;
    for (rlim_t room = 0; room < 30; room++) {
        limit.rlim_cur = (rlim_t)st.st_size + room;
        ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
        ck_assert_int_eq(cleanup_run("this must never have been recorded"), -1);
        limit.rlim_cur = unlimited;
        ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
        ck_assert_int_eq(cleanup_unlink(at("work/b")), 0);
        ck_assert_int_eq(fstatat(ledgers, ID, &st, 0), 0);
    }
}

START_TEST(short_append)
{
    in_child(write_up_to_limit);
    put(at("work/a"), "");
    put(at("work/b"), "");
    ck_assert_done(settle());
    ck_assert_str_eq(runs, "");
    ck_assert_str_eq(reports, "");
    ck_assert_str_eq(listing("work"), "");
}
END_TEST

/* The disk for the files is full, the ledger's is not. */
START_TEST(disk_full_for_the_file)
{
    if (!use_way(_i) || !small_disk("disk", "size=128k,nr_inodes=3"))
        return;
    put(at("disk/1"), "");
    put(at("disk/2"), "");
    begin();
    ck_assert_int_eq(cleanup_create(at("disk/a"), 0, 0644), -1);
    ck_assert_int_eq(errno, ENOSPC);
    ck_assert_int_eq(cleanup_mkdir(at("disk/d"), 0755), -1);
    ck_assert_int_eq(errno, ENOSPC);
    ck_assert_str_eq(listing("disk"), "1 2 ");
    ck_assert_done(cleanup_undo());
    ck_assert_str_eq(listing("disk"), "1 2 ");
    ck_assert_str_eq(reports, "");
}
END_TEST

/* ---- Trees ------------------------------------------------------------------------------- */

/* Deeper than a path can say. */
START_TEST(rmtree_deep)
{
    static const char name[] = "a-directory-with-a-name-of-forty-bytes-x";

    begin();
    ck_assert_int_eq(cleanup_mkdir(at("work/tree"), 0755), 0);
    int fd = open(at("work/tree"), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    for (int level = 0; level < 200; level++) {
        ck_assert_int_eq(mkdirat(fd, name, 0755), 0);
        int file = openat(fd, "file", O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
        ck_assert_int_ge(file, 0);
        close(file);
        int below = openat(fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        ck_assert_int_ge(below, 0);
        close(fd);
        fd = below;
    }
    close(fd);
    ck_assert_done(cleanup_undo());
    ck_assert_str_eq(listing("work"), "");
    ck_assert_str_eq(reports, "");
}
END_TEST

/* As deep, with few descriptors to spare. */
START_TEST(rmtree_with_few_descriptors)
{
    struct rlimit limit;
    char path[PATH_MAX];

    begin();
    ck_assert_int_eq(cleanup_mkdir(at("work/tree"), 0755), 0);
    snprintf(path, sizeof path, "%s", at("work/tree"));
    for (int level = 0; level < 200; level++)
        ck_assert_int_eq(mkdir(strcat(path, "/d"), 0755), 0);
    ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &limit), 0);
    limit.rlim_cur = 100;
    ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
    ck_assert_done(cleanup_undo());
    ck_assert_str_eq(listing("work"), "");
}
END_TEST

START_TEST(rmtree_wide)
{
    begin();
    const char *scratch = cleanup_tempdir();
    ck_assert_ptr_nonnull(scratch);
    int fd = open(scratch, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    for (int i = 0; i < 2000; i++) {
        char name[64];
        snprintf(name, sizeof name, "an entry whose name is not short %d", i);
        ck_assert_int_eq(i % 10 ? mknodat(fd, name, S_IFREG | 0644, 0) : mkdirat(fd, name, 0755),
                         0);
    }
    ck_assert_int_eq(mkfifoat(fd, "fifo", 0644), 0);
    close(fd);
    ck_assert_int_eq(cleanup_keep(), CLEANUP_DONE);
    ck_assert_str_eq(listing("tmp"), "");
}
END_TEST

START_TEST(rmtree_does_not_follow)
{
    ck_assert_int_eq(mkdir(at("outside"), 0755), 0);
    put(at("outside/x"), "theirs");
    begin();
    ck_assert_int_eq(cleanup_mkdir(at("work/tree"), 0755), 0);
    ck_assert_int_eq(symlink(at("outside"), at("work/tree/to-directory")), 0);
    ck_assert_int_eq(symlink(at("outside/x"), at("work/tree/to-file")), 0);
    ck_assert_int_eq(symlink("nowhere", at("work/tree/dangling")), 0);
    ck_assert_int_eq(symlink(".", at("work/tree/loop")), 0);
    ck_assert_int_eq(link(at("outside/x"), at("work/tree/hard")), 0);
    ck_assert_done(cleanup_undo());
    ck_assert_str_eq(listing("work"), "");
    ck_assert_str_eq(get(at("outside/x")), "theirs");
}
END_TEST

/* A name recorded with a slash at its end is no leave to follow the link that it has become. */
START_TEST(rmtree_does_not_follow_for_a_slash)
{
    static const char *const verbs[] = {"rmtree", "scratch"};
    ck_assert_int_eq(mkdir(at("outside"), 0755), 0);
    put(at("outside/x"), "theirs");
    ck_assert_int_eq(symlink(at("outside"), at("work/tree")), 0);
    leave(ID, "%s %s//\n", verbs[_i], at("work/tree"));
    ck_assert_done(settle());
    ck_assert_str_eq(listing("work"), "");
    ck_assert_str_eq(get(at("outside/x")), "theirs");
    ck_assert_int_eq(mkdir(at("work/tree"), 0755), 0);
    leave(ID, "%s %s/\n", verbs[_i], at("work/tree"));
    ck_assert_done(settle());
    ck_assert_str_eq(listing("work"), "");
}
END_TEST

static void locked_trees(void)
{
    as_nobody();
    ck_assert_int_eq(chdir(at("work")), 0);
    begin();
    ck_assert_int_eq(cleanup_mkdir("tree", 0755), 0);
    ck_assert_int_eq(mkdir("tree/a", 0755), 0);
    put("tree/a/x", "");
    ck_assert_int_eq(mkdir("tree/b", 0755), 0);
    ck_assert_int_eq(mkdir("tree/b/c", 0755), 0);
    put("tree/b/c/x", "");
    ck_assert_int_eq(chmod("tree/a", 0500), 0);
    ck_assert_int_eq(chmod("tree/b/c", 0), 0);
    ck_assert_int_eq(chmod("tree/b", 0), 0);
    ck_assert_int_eq(mkdir("tree/empty", 0), 0);
    ck_assert_int_eq(chmod("tree", 0), 0);
    ck_assert_msg(cleanup_undo() == CLEANUP_DONE, "%s", reports);
}

/* The owner's own modes do not stop the owner. */
START_TEST(rmtree_without_permission)
{
    give_to_nobody("");
    give_to_nobody("work");
    give_to_nobody("ledgers");
    in_child(locked_trees);
    ck_assert_str_eq(listing("work"), "");
    ck_assert_str_eq(listing("ledgers"), "");
}
END_TEST

/* A file system mounted inside the tree is somebody else's, even if it is the same one. */
START_TEST(rmtree_stays_on_its_mount)
{
    const char *mounted = at("work/tree/mounted");

    if (!private_mounts())
        return;
    ck_assert_int_eq(mkdir(at("outside"), 0755), 0);
    begin();
    ck_assert_int_eq(cleanup_mkdir(at("work/tree"), 0755), 0);
    ck_assert_int_eq(mkdir(mounted, 0755), 0);
    put(at("work/tree/x"), "");
    if (_i) {
        ck_assert_int_eq(mount("tmpfs", mounted, "tmpfs", 0, "size=64k"), 0);
    } else {
        ck_assert_int_eq(mount(at("outside"), mounted, "none", MS_BIND, NULL), 0);
    }
    put(at("work/tree/mounted/theirs"), "");
    ck_assert_int_eq(cleanup_undo(), CLEANUP_FAILED);
    ck_assert_str_eq(listing("work/tree"), "mounted ");
    ck_assert_str_eq(listing("work/tree/mounted"), "theirs ");
    ck_assert_str_ne(reports, "");
    ck_assert_int_eq(umount(mounted), 0);
    ck_assert_done(cleanup_undo());
    ck_assert_str_eq(listing("work"), "");
}
END_TEST

/* ---- Who owns a ledger ------------------------------------------------------------------- */

static void on_term(int sig)
{
    (void)sig;
    if (cleanup_is_owner())
        (void)cleanup_undo();
    _exit(9);
}

static void arm(void)
{
    struct sigaction action = {.sa_handler = on_term};

    sigfillset(&action.sa_mask);
    ck_assert_int_eq(sigaction(SIGTERM, &action, NULL), 0);
}

static void be_a_helper(void)
{
    ck_assert(!cleanup_is_owner());
    ck_assert(!cleanup_pending());
    ck_assert_int_eq(cleanup_create(at("work/b"), 0, 0644), -1);
    ck_assert_int_eq(errno, EPERM);
    ck_assert_int_eq(cleanup_mkdir(at("work/b"), 0755), -1);
    ck_assert_int_eq(errno, EPERM);
    ck_assert_int_eq(cleanup_unlink(at("work/b")), -1);
    ck_assert_int_eq(errno, EPERM);
    ck_assert_int_eq(cleanup_rmtree(at("work/b")), -1);
    ck_assert_int_eq(errno, EPERM);
    ck_assert_int_eq(cleanup_run("true"), -1);
    ck_assert_int_eq(errno, EPERM);
    ck_assert_int_eq(cleanup_commit(), -1);
    ck_assert_int_eq(errno, EPERM);
    ck_assert_int_eq(cleanup_sent(1), -1);
    ck_assert_int_eq(errno, EPERM);
    ck_assert_ptr_null(cleanup_tempdir());
    ck_assert_int_eq(errno, EPERM);
    ck_assert_int_eq(cleanup_open_for_program(), -1);
    ck_assert_int_eq(errno, EPERM);
    (void)cleanup_undo();
    (void)cleanup_keep();
}

static void wait_for_term(void)
{
    say_ready();
    for (;;)
        pause();
}

START_TEST(forked_helper)
{
    begin();
    arm();
    ck_assert(cleanup_is_owner());
    close(cleanup_create(at("work/a"), 0, 0644));
    const char *before = ledger_of(ID);
    in_child(be_a_helper);
    pid_t helper = start_ready(wait_for_term);
    ck_assert_int_eq(kill(helper, SIGTERM), 0);
    ck_assert_int_eq(WEXITSTATUS(status_of(helper)), 9);
    ck_assert_str_eq(listing("work"), "a ");
    ck_assert_str_eq(ledger_of(ID), before);
    ck_assert_done(cleanup_undo());
    ck_assert_str_eq(listing("work"), "");
}
END_TEST

/* ---- State ------------------------------------------------------------------------------- */

static int state_open(const char *path, const char **why)
{
    *why = NULL;
    return cleanup_state_open(path, geteuid(), getegid(), why);
}

static int open_state(void)
{
    const char *why;
    int fd = state_open(at("state"), &why);

    ck_assert_msg(fd >= 0, "%s: %s", why, strerror(errno));
    return fd;
}

START_TEST(state_made_private)
{
    struct stat st;

    umask(0);
    int fd = open_state();
    ck_assert_int_eq(fcntl(fd, F_GETFD), FD_CLOEXEC);
    close(fd);
    ck_assert_int_eq(lstat(at("state"), &st), 0);
    ck_assert_uint_eq(st.st_mode, S_IFDIR | 0700);
    ck_assert_uint_eq(st.st_uid, geteuid());
    close(open_state()); /* and again */
}
END_TEST

static void state_refused(const char *path, const char *word)
{
    const char *why;

    ck_assert_int_eq(state_open(path, &why), -1);
    ck_assert_ptr_nonnull(why);
    ck_assert_msg(has_line(why, word), "%s: %s", path, why);
}

START_TEST(state_refuses)
{
    ck_assert_int_eq(mkdir(at("open"), 0700), 0);
    ck_assert_int_eq(chmod(at("open"), 0750), 0);
    state_refused(at("open"), "0700|mode|private");
    ck_assert_int_eq(errno, 0); /* no call failed */
    put(at("file"), "");
    state_refused(at("file"), "directory");
    ck_assert_int_eq(mkdir(at("real"), 0700), 0);
    ck_assert_int_eq(symlink(at("real"), at("link")), 0);
    state_refused(at("link"), "link");
    state_refused(at("file/below"), ".");
    ck_assert_str_eq(listing("real"), "");
    if (geteuid() == 0) {
        ck_assert_int_eq(mkdir(at("other"), 0700), 0);
        ck_assert_int_eq(chown(at("other"), 1, 1), 0);
        state_refused(at("other"), "own|belong");
        ck_assert_int_eq(errno, 0);
    }
}
END_TEST

START_TEST(state_for_another_owner)
{
    const char *why;
    struct stat st;

    if (geteuid() != 0)
        return;
    int fd = cleanup_state_open(at("state"), 65534, 65534, &why);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(fstat(fd, &st), 0);
    ck_assert_uint_eq(st.st_uid, 65534);
    ck_assert_uint_eq(st.st_gid, 65534);
    ck_assert_uint_eq(st.st_mode, S_IFDIR | 0700);
    close(fd);
}
END_TEST

static bool lock_is_free(int dir)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    int fd = openat(dir, "lock", O_RDWR | O_CLOEXEC);

    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(fcntl(fd, F_GETLK, &lock), 0);
    close(fd);
    return lock.l_type == F_UNLCK;
}

static int other_dir; /* what a child looks at */

static void expect_locked(void)
{
    ck_assert(!lock_is_free(other_dir));
}

START_TEST(server_directory)
{
    char token[CLEANUP_TOKEN_SIZE], second[CLEANUP_TOKEN_SIZE];
    struct stat st;
    int state = open_state();
    int dir = cleanup_server_open(state, token);

    ck_assert_int_ge(dir, 0);
    ck_assert_uint_eq(strlen(token), 16);
    ck_assert_uint_eq(strspn(token, "0123456789abcdef"), 16);
    ck_assert_int_eq(fstatat(state, token, &st, 0), 0);
    ck_assert_uint_eq(st.st_mode, S_IFDIR | 0700);
    other_dir = dir;
    in_child(expect_locked);
    int dir2 = cleanup_server_open(state, second);
    ck_assert_int_ge(dir2, 0);
    ck_assert_str_ne(token, second);
    cleanup_server_close(state, dir2, second);
    in_child(expect_locked);
    cleanup_server_close(state, dir, token);
    ck_assert_str_eq(listing("state"), "");
}
END_TEST

/* A server that goes while ledgers are left leaves its directory for recovery. */
START_TEST(server_close_keeps_ledgers)
{
    char token[CLEANUP_TOKEN_SIZE];
    int state = open_state();
    int dir = cleanup_server_open(state, token);

    close(openat(dir, ID, O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
    cleanup_server_close(state, dir, token);
    ck_assert_ptr_nonnull(strstr(listing("state"), token));
}
END_TEST

/* What a server of the test's does, in a process of its own. Shared memory tells its token. */
static struct stage {
    char token[CLEANUP_TOKEN_SIZE];
    pid_t child, daemon;
} * stage;

static char stage_id[CLEANUP_ID_SIZE];

static const char *stage_child_id(const char *suffix)
{
    snprintf(stage_id, sizeof stage_id, "%s-%s", stage->token, suffix);
    return stage_id;
}

static void be_a_server(void)
{
    int state = open_state();

    ledgers = cleanup_server_open(state, stage->token);
    ck_assert_int_ge(ledgers, 0);
}

static void server_with_ledger(void)
{
    be_a_server();
    begin_as(stage_child_id("1"));
    close(cleanup_create(at("work/a"), 0, 0644));
    ck_assert_ptr_nonnull(cleanup_tempdir());
}

static void server_with_ledger_pauses(void)
{
    server_with_ledger();
    wait_for_term();
}

static void make_stage(void)
{
    stage = mmap(NULL, sizeof *stage, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    ck_assert_ptr_ne(stage, MAP_FAILED);
}

static int adopt_dir(void)
{
    if (mkdir(at("adopt"), 0700) != 0)
        ck_assert_int_eq(errno, EEXIST);
    return open(at("adopt"), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

static unsigned recovered, recovery_left;

static void count_recovered(const char *id, enum cleanup_result result, bool kept)
{
    (void)id;
    (void)kept;
    if (result == CLEANUP_DONE)
        recovered++;
    else
        recovery_left++;
}

/* As a server does it when it starts. Returns how many were settled. */
static unsigned recover(int state, int adopt, unsigned *left)
{
    struct cleanup_recovery how = {.state = state, .adopt = adopt, .settled = count_recovered};

    recovered = recovery_left = 0;
    ck_assert(cleanup_recover(&how));
    *left = recovery_left;
    return recovered;
}

START_TEST(recover_dead_not_living)
{
    unsigned left = 99;

    make_stage();
    pid_t server = start_ready(server_with_ledger_pauses);
    int state = open_state(), adopt = adopt_dir();
    ck_assert_uint_eq(recover(state, adopt, &left), 0);
    ck_assert_uint_eq(left, 0);
    ck_assert_str_eq(listing("work"), "a ");
    ck_assert_ptr_nonnull(strstr(listing("state"), stage->token));

    ck_assert_int_eq(kill(server, SIGKILL), 0);
    ck_assert(dead_by(server, SIGKILL));
    ck_assert_str_eq(listing("work"), "a ");
    ck_assert_uint_eq(recover(state, adopt, &left), 1);
    ck_assert_uint_eq(left, 0);
    ck_assert_str_eq(listing("work"), "");
    ck_assert_str_eq(listing("tmp"), "");
    ck_assert_str_eq(listing("state"), "");
    ck_assert_str_eq(listing("adopt"), "");
    ck_assert_uint_eq(recover(state, adopt, &left), 0);
}
END_TEST

static void server_dies_after_sent(void)
{
    server_with_ledger();
    ck_assert_int_eq(cleanup_sent(100), 0);
}

/* Server and child died inside delivery: nobody can be asked, so the answer stands. */
START_TEST(recover_keeps_sent)
{
    unsigned left = 99;

    make_stage();
    in_child(server_dies_after_sent);
    ck_assert_uint_eq(recover(open_state(), adopt_dir(), &left), 1);
    ck_assert_uint_eq(left, 0);
    ck_assert_str_eq(listing("work"), "a ");
    ck_assert_str_eq(listing("tmp"), "");
    ck_assert_str_eq(listing("state"), "");
}
END_TEST

static void server_dies_with_run(void)
{
    server_with_ledger();
    ck_assert_int_eq(cleanup_run("true"), 0);
    close(cleanup_create(at("work/newer"), 0, 0644));
    ck_assert_int_ge(cleanup_open_for_program(), 0);
    put(at("work/stuck"), "");
    ck_assert_int_eq(unlink(at("work/stuck")), 0);
    begin_as(strdup(stage_child_id("2")));
    ck_assert_int_eq(cleanup_unlink(at("work/stuck")), 0);
    ck_assert_int_eq(mkdir(at("work/stuck"), 0755), 0);
}

START_TEST(recover_moves_what_is_left)
{
    unsigned left = 99;
    char name[64];

    make_stage();
    in_child(server_dies_with_run);
    int state = open_state(), adopt = adopt_dir();
    (void)recover(state, adopt, &left);
    ck_assert_uint_eq(left, 2);
    ck_assert_str_eq(listing("work"), "a stuck ");
    ck_assert_str_eq(listing("state"), "");
    snprintf(name, sizeof name, "%s-1", stage->token);
    ck_assert(cleanup_exists(adopt, name));
    snprintf(name, sizeof name, "%s-2", stage->token);
    ck_assert(cleanup_exists(adopt, name));
    struct cleanup_settling how = {.dir = adopt, .id = stage_child_id("1"), .after_crash = true};
    ck_assert_int_eq(cleanup_settle(&how), CLEANUP_RUN_LEFT);
    ck_assert_str_eq(listing("work"), "a stuck ");
}
END_TEST

static void sleep_forever(void)
{
    sigset_t none;

    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    prctl(PR_SET_PDEATHSIG, 0);
    wait_for_term();
}

/* A process as a program's daemon would be: own session, own environment. */
static pid_t spawn(const char *request_id)
{
    char variable[128] = "";
    char *env[] = {"SOMETHING=1", variable, NULL};
    pid_t pid = fork();

    ck_assert_int_ge(pid, 0);
    if (pid == 0) {
        snprintf(variable, sizeof variable, "%s", request_id);
        setsid();
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        execle("/bin/sleep", "sleep", "1000", (char *)NULL, env);
        _exit(127);
    }
    return pid;
}

/* Until exec has happened a process still has its maker's environment. */
static void await_exec(pid_t pid)
{
    char path[64], name[64] = "";

    snprintf(path, sizeof path, "/proc/%d/comm", (int)pid);
    for (int64_t end = clock_ms() + 20000; strncmp(name, "sleep", 5) != 0; sleep_ms(1)) {
        const char *text = get(path);
        snprintf(name, sizeof name, "%s", text ? text : "");
        ck_assert_int_lt(clock_ms(), end);
    }
}

static void await_zombie(pid_t pid)
{
    siginfo_t info;

    ck_assert_int_eq(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT), 0);
}

static bool alive(pid_t pid)
{
    return waitpid(pid, NULL, WNOHANG) == 0;
}

static void end(pid_t pid)
{
    ck_assert_int_eq(kill(pid, SIGKILL), 0);
    ck_assert(dead_by(pid, SIGKILL));
}

static void request_child(void)
{
    setsid(); /* as the server's children do, first of all */
    begin_as(stage_child_id("1"));
    close(cleanup_create(at("work/a"), 0, 0644));
    sleep_forever();
}

static void server_with_child(void)
{
    be_a_server();
    stage->child = start_ready(request_child);
    wait_for_term();
}

START_TEST(recover_ends_processes)
{
    char variable[64];
    unsigned left;

    make_stage();
    pid_t server = start_ready(server_with_child);
    snprintf(variable, sizeof variable, "REQUEST_ID=%s-7", stage->token);
    pid_t daemon = spawn(variable);
    pid_t other = spawn("REQUEST_ID=fedcba9876543210-7");
    snprintf(variable, sizeof variable, "XREQUEST_ID=%s-7", stage->token);
    pid_t similar = spawn(variable);
    pid_t stranger = spawn("");
    await_exec(daemon);
    await_exec(other);
    await_exec(similar);
    await_exec(stranger);
    ck_assert_int_eq(kill(server, SIGKILL), 0);
    ck_assert(dead_by(server, SIGKILL));
    ck_assert(alive(stage->child));

    ck_assert_uint_eq(recover(open_state(), adopt_dir(), &left), 1);
    ck_assert(WIFSIGNALED(status_of(stage->child)));
    ck_assert(WIFSIGNALED(status_of(daemon)));
    ck_assert_str_eq(listing("work"), "");
    ck_assert_str_eq(listing("state"), "");
    ck_assert(alive(other));
    ck_assert(alive(similar));
    ck_assert(alive(stranger));
    end(other);
    end(similar);
    end(stranger);
}
END_TEST

__attribute__((format(printf, 5, 6))) static void
leave_for(int dir, const char *id, pid_t pid, unsigned long long started, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    forge(dir, id, pid, started, boot_id(), format, args);
    va_end(args);
}

/* The pid in a header may be somebody else's by now: only the start time proves it. */
START_TEST(recover_spares_a_recycled_pid)
{
    unsigned left;
    char id[64];

    make_stage();
    in_child(be_a_server);
    int state = open_state();
    int dir = openat(state, stage->token, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    pid_t stranger = spawn("");
    pid_t child = spawn("");
    await_exec(stranger);
    await_exec(child);
    snprintf(id, sizeof id, "%s-1", stage->token);
    leave_for(dir, id, stranger, start_time(stranger) - 1, "unlink %s\n", at("work/a"));
    snprintf(id, sizeof id, "%s-2", stage->token);
    leave_for(dir, id, child, start_time(child), "unlink %s\n", at("work/b"));
    ck_assert_uint_eq(recover(state, adopt_dir(), &left), 2);
    ck_assert(alive(stranger));
    ck_assert(WIFSIGNALED(status_of(child)));
    end(stranger);
}
END_TEST

static pid_t spawn_for(const char *token, const char *suffix)
{
    char variable[64];

    snprintf(variable, sizeof variable, "REQUEST_ID=%s-%s", token, suffix);
    pid_t pid = spawn(variable);
    await_exec(pid);
    return pid;
}

/* A ledger that the dead server had taken over bears another server's token. */
START_TEST(recover_ends_processes_of_adopted_ledgers)
{
    unsigned left;

    make_stage();
    in_child(be_a_server);
    int state = open_state();
    int dir = openat(state, stage->token, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    leave_for(dir, "fedcba9876543210-7", 1, 1, "unlink %s\n", at("work/a"));
    pid_t adopted = spawn_for("fedcba9876543210", "7");
    pid_t other = spawn_for("fedcba9876543210", "71");
    ck_assert_uint_eq(recover(state, adopt_dir(), &left), 1);
    ck_assert(WIFSIGNALED(status_of(adopted)));
    ck_assert(alive(other));
    end(other);
}
END_TEST

/* Who holds a ledger ends its processes: not those of one that is parked, or at another server. */
START_TEST(recover_spares_processes_of_ledgers_elsewhere)
{
    char id[64], token[CLEANUP_TOKEN_SIZE];
    unsigned left;

    make_stage();
    in_child(be_a_server);
    int state = open_state();
    int living = cleanup_server_open(state, token);
    ck_assert_int_eq(mkdir(at("state/failed"), 0700), 0);
    int failed = openat(state, "failed", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    snprintf(id, sizeof id, "%s-8", stage->token);
    leave_for(living, id, 1, 1, "unlink %s\n", at("work/a"));
    snprintf(id, sizeof id, "%s-9", stage->token);
    leave_for(failed, id, 1, 1, "unlink %s\n", at("work/a"));
    pid_t at_living = spawn_for(stage->token, "8");
    pid_t parked = spawn_for(stage->token, "9");
    pid_t unrecorded = spawn_for(stage->token, "1");
    (void)recover(state, living, &left);
    ck_assert(WIFSIGNALED(status_of(unrecorded)));
    ck_assert(alive(at_living));
    ck_assert(alive(parked));
    end(at_living);
    end(parked);
}
END_TEST

/* A dead server's directory without its lock, as one that was put back by hand. */
START_TEST(recover_takes_what_has_no_lock)
{
    unsigned left;
    int state = open_state();

    ck_assert_int_eq(mkdir(at(with("state/%s", TOKEN)), 0700), 0);
    int dir = openat(state, TOKEN, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    put(at("work/a"), "");
    leave_for(dir, ID, 1, 1, "unlink %s\n", at("work/a"));
    ck_assert_uint_eq(recover(state, adopt_dir(), &left), 1);
    ck_assert_str_eq(listing("work"), "");
    ck_assert_str_eq(listing("state"), "");
}
END_TEST

/* Where there are no nameless files a ledger has another name first; only its maker's death makes
 * that rubbish. */
START_TEST(list_leaves_unfinished_ledgers)
{
    char token[CLEANUP_TOKEN_SIZE], path[PATH_MAX];
    size_t count = 99;
    int state = open_state();
    int dir = cleanup_server_open(state, token);

    close(openat(dir, with(".%s", ID), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
    ck_assert_ptr_null(cleanup_list(dir, &count));
    ck_assert_uint_eq(count, 0);
    snprintf(path, sizeof path, "state/%s", token);
    ck_assert_ptr_nonnull(strstr(listing(path), with(".%s", ID)));
    cleanup_server_close(state, dir, token);
    ck_assert_str_eq(listing("state"), "");
}
END_TEST

static int recover_state, recover_adopt;

static void recover_as_a_janitor(void)
{
    unsigned left = 99;

    ck_assert_uint_eq(recover(recover_state, recover_adopt, &left), 0);
    ck_assert_uint_eq(left, 0);
}

/* A server's janitor that looks for the dead does not take its own server for one. */
START_TEST(recover_spares_its_own)
{
    char token[CLEANUP_TOKEN_SIZE];

    recover_state = open_state();
    ledgers = recover_adopt = other_dir = cleanup_server_open(recover_state, token);
    begin_as(ID);
    close(cleanup_create(at("work/a"), 0, 0644));
    in_child(recover_as_a_janitor);
    recover_as_a_janitor(); /* nor does the server, whose lock does not bind itself */
    ck_assert_str_eq(listing("work"), "a ");
    ck_assert_ptr_nonnull(strstr(listing("state"), token));
    in_child(expect_locked);
    ck_assert_done(cleanup_undo());
}
END_TEST

/* Things in STATE that are no server's directory are left alone. */
START_TEST(recover_leaves_strangers)
{
    unsigned left;
    int state = open_state();

    put(at("state/file"), "");
    ck_assert_int_eq(mkdir(at(with("state/%sx", TOKEN)), 0700), 0);
    ck_assert_int_eq(mkdir(at("state/failed"), 0700), 0);
    ck_assert_int_eq(mkdir(at("elsewhere"), 0700), 0);
    put(at("elsewhere/lock"), "");
    ck_assert_int_eq(symlink(at("elsewhere"), at(with("state/%s", TOKEN))), 0);
    ck_assert_uint_eq(recover(state, adopt_dir(), &left), 0);
    ck_assert_uint_eq(left, 0);
    ck_assert(there(at("state/file")));
    ck_assert(there(at(with("state/%sx", TOKEN))));
    ck_assert(there(at("state/failed")));
    ck_assert(there(at("elsewhere/lock")));
}
END_TEST

/* ---- Processes --------------------------------------------------------------------------- */

static void ignore_term(void)
{
    signal(SIGTERM, SIG_IGN);
    wait_for_term();
}

static void stop_yourself(void)
{
    say_ready();
    raise(SIGSTOP);
    for (;;)
        pause();
}

static void await_stopped(pid_t pid)
{
    int status;

    ck_assert_int_eq(waitpid(pid, &status, WUNTRACED), pid);
    ck_assert(WIFSTOPPED(status));
}

static void grandchild(void)
{
    setsid();
    signal(SIGTERM, SIG_IGN);
    prctl(PR_SET_PDEATHSIG, 0);
    wait_for_term();
}

static void daemonize(void)
{
    setsid();
    (void)start_ready(grandchild);
    say_ready();
    _exit(0);
}

static void parent_of_daemon(void)
{
    (void)start_ready(daemonize);
    wait_for_term();
}

/* Its child becomes ours only when it is dead itself. */
static void parent_of_session(void)
{
    (void)start_ready(grandchild);
    wait_for_term();
}

static void many_children(void)
{
    for (int i = 0; i < 20; i++)
        (void)start_ready(ignore_term);
    wait_for_term();
}

START_TEST(end_children)
{
    static void (*const bodies[])(void) = {wait_for_term,    ignore_term,       daemonize,
                                           parent_of_daemon, parent_of_session, many_children};
    int64_t before = clock_ms();

    for (size_t i = 0; i < sizeof bodies / sizeof bodies[0]; i++)
        (void)start_ready(bodies[i]);
    await_stopped(start_ready(stop_yourself));
    ck_assert(cleanup_end_children(_i, NULL));
    ck_assert_int_eq(waitpid(-1, NULL, WNOHANG), -1);
    ck_assert_int_eq(errno, ECHILD);
    ck_assert_int_ge(clock_ms() - before, _i); /* some ignore SIGTERM: they had their grace */
    ck_assert_int_lt(clock_ms() - before, 15000);
    ck_assert(cleanup_end_children(_i, NULL)); /* nobody there */
}
END_TEST

/* clone(2): a child whose end is not told by SIGCHLD, which wait(2) does not see. */
START_TEST(end_children_that_tell_nobody)
{
    pid_t pid = (pid_t)syscall(SYS_clone, 0, NULL, NULL, NULL, NULL);
    if (pid == 0)
        for (;;)
            syscall(SYS_ppoll, NULL, 0, NULL, NULL, 0);
    ck_assert_int_gt(pid, 0);
    ck_assert(cleanup_end_children(0, NULL));
    ck_assert_int_eq(waitpid(pid, NULL, WNOHANG | __WALL), -1);
    ck_assert_int_eq(errno, ECHILD);
}
END_TEST

/* With grace, who goes by itself does so with its last word said, and nobody waits longer. */
static int word[2];

static void say_last_word(int sig)
{
    (void)sig;
    if (write(word[1], "", 1) == 1)
        _exit(0);
}

static void last_word(void)
{
    signal(SIGTERM, say_last_word);
    wait_for_term();
}

START_TEST(end_children_with_grace)
{
    ck_assert_int_eq(pipe2(word, O_CLOEXEC), 0);
    (void)start_ready(last_word);
    int64_t before = clock_ms();
    ck_assert(cleanup_end_children(60000, NULL));
    ck_assert_int_lt(clock_ms() - before, 15000);
    await(word);
}
END_TEST

/* A stopped process gets its last word too. */
static void stopped_with_word(void)
{
    signal(SIGTERM, say_last_word);
    say_ready();
    raise(SIGSTOP);
    for (;;)
        pause();
}

START_TEST(end_children_continues_the_stopped)
{
    ck_assert_int_eq(pipe2(word, O_CLOEXEC), 0);
    pid_t pid = start_ready(stopped_with_word);
    await_stopped(pid);
    ck_assert(cleanup_end_children(60000, NULL));
    await(word);
}
END_TEST

static bool know_nobody(pid_t pid)
{
    (void)pid;
    return false;
}

static pid_t known_pid;

static bool know_one(pid_t pid)
{
    return pid == known_pid;
}

/* A request's child that is dead and leaves one process in its session. */
static void session_leader(void)
{
    setsid();
    stage->daemon = start_ready(sleep_forever);
    say_ready();
}

START_TEST(end_request)
{
    pid_t daemon = spawn(with("REQUEST_ID=%s", ID));
    pid_t neighbour = spawn(with("REQUEST_ID=%s-2", TOKEN));
    pid_t longer =
        spawn(with("REQUEST_ID=%s0", ID)); /* another request, whose id begins the same */
    pid_t stranger = spawn("");

    make_stage();
    pid_t leader = start_ready(session_leader);
    await_exec(daemon);
    await_exec(neighbour);
    await_exec(longer);
    await_exec(stranger);
    await_zombie(leader);
    ck_assert(cleanup_end_request(ID, leader, 0, know_nobody));
    ck_assert(WIFSIGNALED(status_of(daemon)));
    ck_assert(WIFSIGNALED(status_of(stage->daemon)));
    ck_assert_int_eq(status_of(leader), 0);
    ck_assert(alive(neighbour));
    ck_assert(alive(longer));
    ck_assert(alive(stranger));

    /* What has re-parented to the server is ended too, unless it is known, or of its session. */
    known_pid = neighbour;
    pid_t janitor = start_ready(wait_for_term);
    ck_assert(cleanup_end_request(ID, leader, getpid(), know_one));
    ck_assert(WIFSIGNALED(status_of(stranger)));
    ck_assert(WIFSIGNALED(status_of(longer)));
    ck_assert(alive(neighbour));
    ck_assert(alive(janitor));
    end(neighbour);
    end(janitor);
}
END_TEST

/* The leader's pid is given out again: a stranger who has it is not in its session. */
START_TEST(end_request_recycled_session)
{
    pid_t stranger = spawn("");

    await_exec(stranger);
    ck_assert(cleanup_end_request(ID, stranger, 0, know_nobody));
    ck_assert(alive(stranger));
    end(stranger);
}
END_TEST

/* ---- The mark in the environment --------------------------------------------------------- */

static bool environment_has(pid_t pid, const char *entry)
{
    static char text[1 << 18];
    char path[64];
    size_t length = 0;

    snprintf(path, sizeof path, "/proc/%d/environ", (int)pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ck_assert_int_ge(fd, 0);
    for (ssize_t n; (n = read(fd, text + length, sizeof text - 1 - length)) > 0;)
        length += (size_t)n;
    close(fd);
    text[length] = '\0';
    for (size_t i = 0; i < length; i += strlen(text + i) + 1)
        if (strcmp(text + i, entry) == 0)
            return true;
    return false;
}

/* The mark overwrites what was there first; what it cuts in two does not look like a variable. */
START_TEST(mark_leaves_no_half_variable)
{
    char path[64];

    if (left_out_with_memcheck("mark_leaves_no_half_variable", NO_MARK))
        return;
    cleanup_mark_process(ID);
    snprintf(path, sizeof path, "/proc/%d/environ", (int)getpid());
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ck_assert_int_ge(fd, 0);
    static char text[1 << 18];
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    ck_assert_int_gt(n, 0);
    for (ssize_t i = 0; i < n; i += (ssize_t)strlen(text + i) + 1) {
        char name[256];
        snprintf(name, sizeof name, "%.*s", (int)strcspn(text + i, "="), text + i);
        if (text[i] != '\0' && strcmp(text + i, with("REQUEST_ID=%s", ID)) != 0)
            ck_assert_msg(getenv(name) != NULL, "half a variable: %s", text + i);
    }
}
END_TEST

START_TEST(mark_process)
{
    char path[PATH_MAX];

    if (left_out_with_memcheck("mark_process", NO_MARK))
        return;
    ck_assert_ptr_nonnull(getenv("PATH"));
    snprintf(path, sizeof path, "%s", getenv("PATH"));
    ck_assert_str_eq(getenv("TMPDIR"), run_dir);
    ck_assert(!environment_has(getpid(), with("REQUEST_ID=%s", ID)));
    cleanup_mark_process(ID);
    ck_assert(environment_has(getpid(), with("REQUEST_ID=%s", ID)));
    ck_assert_str_eq(getenv("PATH"), path);
    ck_assert_str_eq(getenv("TMPDIR"), run_dir);
    pid_t child = start_ready(wait_for_term);
    ck_assert(environment_has(child, with("REQUEST_ID=%s", ID)));
    end(child);

    /* And so it is found, but not who has another mark since. */
    child = start_ready(wait_for_term);
    cleanup_mark_process(with("%s-ffffffffffffffff", TOKEN));
    ck_assert(environment_has(getpid(), with("REQUEST_ID=%s-ffffffffffffffff", TOKEN)));
    ck_assert(!environment_has(getpid(), with("REQUEST_ID=%s", ID)));
    ck_assert(cleanup_end_request(ID, 0x7fffffff, 0, know_nobody));
    ck_assert(WIFSIGNALED(status_of(child)));
}
END_TEST

/* ---- Text -------------------------------------------------------------------------------- */

START_TEST(text_building)
{
    char room[64], small[8];
    struct text t = TEXT(room);

    text_add(&t, "a");
    text_char(&t, 'b');
    text_bytes(&t, "cde", 2);
    text_number(&t, 0, 0);
    text_number(&t, 7, 3);
    text_number(&t, 12345, 2);
    text_char(&t, ' ');
    text_signed(&t, -1);
    ck_assert_str_eq(text_end(&t), "abcd000712345 -1");
    t = TEXT(room);
    text_number(&t, 18446744073709551615ULL, 0);
    text_char(&t, ' ');
    text_signed(&t, LLONG_MIN);
    text_char(&t, ' ');
    text_signed(&t, LLONG_MAX);
    ck_assert_str_eq(text_end(&t), "18446744073709551615 -9223372036854775808 9223372036854775807");

    /* What does not fit is cut, and the byte after the array stays as it is. */
    for (size_t n = 0; n < 20; n++) {
        struct {
            char at[8], after;
        } guarded = {.after = 'x'};
        t = TEXT(guarded.at);
        text_bytes(&t, "01234567890123456789", n);
        text_add(&t, "");
        ck_assert_uint_eq(strlen(text_end(&t)), n < 7 ? n : 7);
        text_char(&t, '!');
        text_number(&t, 123456789, 12);
        text_signed(&t, -123456789);
        ck_assert_int_eq(strncmp(text_end(&t), "01234567", n < 7 ? n : 7), 0);
        ck_assert_uint_eq(strlen(text_end(&t)), 7);
        ck_assert_int_eq(guarded.after, 'x');
    }
    t = TEXT(small);
    ck_assert_str_eq(text_end(&t), "");
}
END_TEST

START_TEST(number_parsing)
{
    static const struct {
        const char *text;
        unsigned long long max;
        bool good;
        unsigned long long n;
        size_t used;
    } cases[] = {
        {"0", 0, true, 0, 1},
        {"1", 0, false, 0, 0},
        {"255", 255, true, 255, 3},
        {"256", 255, false, 0, 0},
        {"0000000000000000000000000255x", 255, true, 255, 28},
        {"12 34", 1000, true, 12, 2},
        {"18446744073709551615", ULLONG_MAX, true, ULLONG_MAX, 20},
        {"18446744073709551616", ULLONG_MAX, false, 0, 0},
        {"18446744073709551620", ULLONG_MAX, false, 0, 0},
        {"99999999999999999999999", ULLONG_MAX, false, 0, 0},
        {"", ULLONG_MAX, false, 0, 0},
        {"-1", ULLONG_MAX, false, 0, 0},
        {"+1", ULLONG_MAX, false, 0, 0},
        {" 1", ULLONG_MAX, false, 0, 0},
        {"x", ULLONG_MAX, false, 0, 0},
    };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const char *s = cases[i].text;
        unsigned long long n = 0;
        ck_assert_msg(parse_number(&s, cases[i].max, &n) == cases[i].good, "%s", cases[i].text);
        if (!cases[i].good)
            continue;
        ck_assert_uint_eq(n, cases[i].n);
        ck_assert_uint_eq((size_t)(s - cases[i].text), cases[i].used);
    }
}
END_TEST

/* Full, the pipe makes the writer wait. One signal cuts its write short, and one comes when the
 * next has written nothing yet. */
static void read_slowly(void)
{
    char buffer[1000];
    size_t total = 0;

    close(word[1]);
    for (ssize_t n; (n = read(word[0], buffer, sizeof buffer)) > 0; total += (size_t)n)
        for (int i = 0; total % 64000 == 0 && i < 2; i++) {
            sleep_ms(1);
            kill(getppid(), SIGALRM);
        }
    _exit(total == 1 << 20 ? 0 : 1);
}

static void nothing(int sig)
{
    (void)sig;
}

/* All arrives, though the reader is slow and signals cut the writes short. */
START_TEST(writing_all)
{
    static char bytes[1 << 20];
    struct sigaction action = {.sa_handler = nothing}; /* no SA_RESTART */

    ck_assert_int_eq(pipe2(word, O_CLOEXEC), 0);
    ck_assert_int_eq(sigaction(SIGALRM, &action, NULL), 0);
    pid_t reader = start(read_slowly);
    close(word[0]);
    ck_assert_int_eq(write_all(word[1], bytes, sizeof bytes), 0);
    close(word[1]);
    ck_assert_int_eq(status_of(reader), 0);

    int fd = open("/dev/full", O_WRONLY | O_CLOEXEC);
    ck_assert_int_eq(write_all(fd, "x", 1), -1);
    ck_assert_int_eq(errno, ENOSPC);
    ck_assert_int_eq(write_all(fd, "x", 0), 0);
    close(fd);
}
END_TEST

START_TEST(time_passes)
{
    int64_t before = clock_ms();

    sleep_ms(30);
    ck_assert_int_ge(clock_ms() - before, 29);
    sleep_ms(0);
    sleep_ms(-5);
    ck_assert_int_lt(clock_ms() - before, 20000);
}
END_TEST

/* ---- The storm --------------------------------------------------------------------------- */

static int storm_round; /* in every other two, one name is overwritten again and again */

static void create_until_killed(void)
{
    char name[64];

    arm();
    begin();
    say_ready();
    for (unsigned i = 0;; i++) {
        snprintf(name, sizeof name, "work/f%u", storm_round % 4 > 1 ? i % 50 : 0);
        int fd =
            cleanup_create(at(name), storm_round % 4 > 1 && i % 3 ? 0 : CLEANUP_OVERWRITE, 0644);
        if (fd >= 0)
            close(fd);
        if (storm_round % 4 > 1 && i % 4 == 0) {
            snprintf(name, sizeof name, "work/d%u", i);
            (void)cleanup_mkdir(at(name), 0755);
            (void)mkdir(strcat(name, "/sub"), 0755);
        }
        if (i == 8)
            (void)cleanup_tempdir();
        if (i == 16)
            (void)cleanup_sent(1);
        if (i == 18)
            (void)cleanup_unsent();
    }
}

/* Death at any instruction leaves nothing: 240 deaths, half of them with an undo of their own,
 * shared between the ways to create. */
START_TEST(kill_storm)
{
    unsigned delay;

    if (!use_way(_i))
        return;
    for (int round = 0; round < 80; round++) {
        storm_round = round;
        pid_t pid = start_ready(create_until_killed);
        ck_assert_int_eq(getrandom(&delay, sizeof delay, 0), sizeof delay);
        usleep(delay % 4000);
        ck_assert_int_eq(kill(pid, round % 2 ? SIGKILL : SIGTERM), 0);
        int status = status_of(pid);
        ck_assert(round % 2 ? WIFSIGNALED(status) : WEXITSTATUS(status) == 9);
        if (round % 2 == 0)
            ck_assert_str_eq(listing("work"), ""); /* by its own hand */
        ck_assert_int_eq(settle_with(round % 8 < 4, NULL), CLEANUP_DONE);
        ck_assert_str_eq(listing("work"), "");
        ck_assert_str_eq(listing("tmp"), "");
        if (_i != BY_TMPFILE) /* a ledger that never was: recovery's to sweep away */
            (void)unlinkat(ledgers, with(".%s", ID), 0);
        ck_assert_str_eq(listing("ledgers"), "");
        ck_assert_str_eq(reports, "");
    }
}
END_TEST

/* Death while undoing: whoever goes on finishes it. */
static void undo_for_ever(void)
{
    (void)settle_with(false, NULL);
}

START_TEST(kill_storm_in_undo)
{
    unsigned delay;

    for (int round = 0; round < 30; round++) {
        begin();
        for (int i = 0; i < 40; i++) {
            char name[64];
            snprintf(name, sizeof name, "work/f%d", i);
            close(cleanup_create(at(name), 0, 0644));
            snprintf(name, sizeof name, "work/d%d", i);
            ck_assert_int_eq(cleanup_mkdir(at(name), 0755), 0);
        }
        pid_t pid = start(undo_for_ever);
        ck_assert_int_eq(getrandom(&delay, sizeof delay, 0), sizeof delay);
        usleep(delay % 2000);
        ck_assert_int_eq(kill(pid, SIGKILL), 0);
        (void)status_of(pid);
        ck_assert_int_eq(settle_with(true, NULL), CLEANUP_DONE);
        ck_assert_str_eq(listing("work"), "");
        ck_assert_str_eq(listing("ledgers"), "");
    }
    ck_assert_str_eq(reports, "");
}
END_TEST

/* ---- The suite --------------------------------------------------------------------------- */

static TCase *new_case(Suite *suite, const char *name)
{
    TCase *tc = tcase_create(name);

    tcase_set_timeout(tc, 60);
    tcase_add_checked_fixture(tc, set_up, tear_down);
    suite_add_tcase(suite, tc);
    return tc;
}

static void add_ledger(Suite *s)
{
    TCase *tc = new_case(s, "ledger");

    tcase_add_test(tc, ledger_is_made_at_the_first_record);
    tcase_add_test(tc, ledger_header);
    tcase_add_loop_test(tc, ledger_header_of_a_newborn, 0, 3);
    tcase_add_test(tc, ledger_hostile_title);
    tcase_add_test(tc, ledger_plain_records);
    tcase_add_loop_test(tc, ledger_identity_records, 0, WAYS);
    tcase_add_loop_test(tc, ledger_grammar, 0, WAYS);
    tcase_add_test(tc, ledger_refuses);
    tcase_add_test(tc, ledger_longest_record);
    tcase_add_test(tc, ledger_outside_a_request);
    tcase_add_test(tc, append_checks_the_grammar);
}

static void add_create(Suite *s)
{
    TCase *tc = new_case(s, "create");

    tcase_add_loop_test(tc, create_new, 0, WAYS);
    tcase_add_loop_test(tc, create_is_kept, 0, WAYS);
    tcase_add_loop_test(tc, create_taken, 0, WAYS);
    tcase_add_loop_test(tc, create_overwrite, 0, WAYS);
    tcase_add_loop_test(tc, create_overwrite_own, 0, WAYS);
    tcase_add_loop_test(tc, create_overwrite_directory, 0, WAYS);
    tcase_add_loop_test(tc, create_overwrite_symlink, 0, WAYS);
    tcase_add_loop_test(tc, create_below_symlink, 0, WAYS);
    tcase_add_loop_test(tc, create_mode, 0, WAYS);
    tcase_add_loop_test(tc, create_impossible, 0, WAYS);
    tcase_add_loop_test(tc, create_longest_name, 0, WAYS);
    tcase_add_loop_test(tc, create_relative, 0, WAYS);
    tcase_add_loop_test(tc, create_in_locked_directory, 0, WAYS);
    tcase_add_loop_test(tc, mkdir_new, 0, WAYS);
    tcase_add_loop_test(tc, mkdir_taken, 0, WAYS);
    tcase_add_loop_test(tc, mkdir_identity, 0, WAYS);
    tcase_add_test(tc, mkdir_identity_before_mode);
    tcase_add_loop_test(tc, tempdir_is_private, 0, 2);
    tcase_add_loop_test(tc, tempdir_taken, 0, 2);
    tcase_add_test(tc, tempdir_impossible);
}

static void add_undo(Suite *s)
{
    TCase *tc = new_case(s, "undo");

    tcase_add_test(tc, plain_records_undone);
    tcase_add_test(tc, commit_keeps_what_is_above);
    tcase_add_test(tc, commit_in_both);
    tcase_add_test(tc, undo_newest_first);
    tcase_add_test(tc, undo_order_across_verbs);
    tcase_add_test(tc, undo_failures_newest_first);
    tcase_add_test(tc, undo_twice);
    tcase_add_test(tc, undo_goes_on_after_failure);
    tcase_add_test(tc, undo_on_read_only_file_system);
    tcase_add_test(tc, undo_stops_at_run);
    tcase_add_test(tc, run_that_fails);
    tcase_add_test(tc, undo_reads_on);
    tcase_add_test(tc, unknown_verb);
    tcase_add_test(tc, relative_path_is_not_guessed);
    tcase_add_test(tc, last_line_without_newline);
    tcase_add_test(tc, comments_and_empty_lines);
    tcase_add_loop_test(tc, look_tells_whether_something_was_made, 0,
                        sizeof lefts / sizeof lefts[0]);
    tcase_add_test(tc, read_error);
    tcase_add_test(tc, overlong_line);
    tcase_add_test(tc, overlong_scratch);
    tcase_add_test(tc, line_with_nul);
}

static void add_identity(Suite *s)
{
    TCase *tc = new_case(s, "identity");

    tcase_add_loop_test(tc, foreign_file_stays, 0, WAYS);
    tcase_add_test(tc, renamed_away);
    tcase_add_test(tc, same_inode_number_stays);
    tcase_add_test(tc, birth_time_decides);
    tcase_add_test(tc, device_counts_within_a_boot);
    tcase_add_test(tc, without_birth_time);
}

static void add_marks(Suite *s)
{
    TCase *tc = new_case(s, "marks");

    tcase_add_test(tc, sent_mark);
    tcase_add_test(tc, unsent_without_sent);
    tcase_add_test(tc, sent_mark_forged);
    tcase_add_loop_test(tc, kept_or_refuted, 0, 2);
    tcase_add_test(tc, program_ledger_first);
    tcase_add_loop_test(tc, program_ledger_reused, 0, sizeof titles / sizeof titles[0]);
    tcase_add_loop_test(tc, changed_scratch_is_not_reused, 0, sizeof changes / sizeof changes[0]);
    tcase_add_test(tc, lease_that_is_broken);
    tcase_add_test(tc, pool_that_is_gone);
    tcase_add_test(tc, pool_of_a_stranger);
    tcase_add_test(tc, scratch_that_cannot_be_removed);
    tcase_add_test(tc, program_ledger_kept);
    tcase_add_test(tc, program_ledger_truncated);
    tcase_add_loop_test(tc, program_ledger_rewritten, 0, 2);
    tcase_add_test(tc, program_ledger_is_synced);
    tcase_add_test(tc, forked_helper);
}

static void add_disk(Suite *s)
{
    TCase *tc = new_case(s, "disk");

    tcase_add_test(tc, disk_full_before_the_ledger);
    tcase_add_test(tc, disk_full_in_between);
    tcase_add_loop_test(tc, disk_full_for_the_answer, 0, 2);
    tcase_add_test(tc, short_append);
    tcase_add_loop_test(tc, disk_full_for_the_file, 0, WAYS);
    tcase_add_test(tc, rmtree_deep);
    tcase_add_test(tc, rmtree_with_few_descriptors);
    tcase_add_test(tc, rmtree_wide);
    tcase_add_test(tc, rmtree_does_not_follow);
    tcase_add_loop_test(tc, rmtree_does_not_follow_for_a_slash, 0, 2);
    tcase_add_test(tc, rmtree_without_permission);
    tcase_add_loop_test(tc, rmtree_stays_on_its_mount, 0, 2);
}

static void add_state(Suite *s)
{
    TCase *tc = new_case(s, "state");

    tcase_add_test(tc, state_made_private);
    tcase_add_test(tc, state_refuses);
    tcase_add_test(tc, state_for_another_owner);
    tcase_add_test(tc, server_directory);
    tcase_add_test(tc, server_close_keeps_ledgers);
    tcase_add_test(tc, recover_dead_not_living);
    tcase_add_test(tc, recover_keeps_sent);
    tcase_add_test(tc, recover_moves_what_is_left);
    tcase_add_test(tc, recover_ends_processes);
    tcase_add_test(tc, recover_spares_a_recycled_pid);
    tcase_add_test(tc, recover_ends_processes_of_adopted_ledgers);
    tcase_add_test(tc, recover_spares_processes_of_ledgers_elsewhere);
    tcase_add_test(tc, recover_takes_what_has_no_lock);
    tcase_add_test(tc, list_leaves_unfinished_ledgers);
    tcase_add_test(tc, recover_spares_its_own);
    tcase_add_test(tc, recover_leaves_strangers);
}

static void add_processes(Suite *s)
{
    TCase *tc = new_case(s, "processes");

    tcase_add_loop_test(tc, end_children, 0, 1);
    tcase_add_loop_test(tc, end_children, 200, 201);
    tcase_add_test(tc, end_children_that_tell_nobody);
    tcase_add_test(tc, end_children_with_grace);
    tcase_add_test(tc, end_children_continues_the_stopped);
    tcase_add_test(tc, end_request);
    tcase_add_test(tc, end_request_recycled_session);
    tcase_add_test(tc, mark_process);
    tcase_add_test(tc, mark_leaves_no_half_variable);
}

static void add_rest(Suite *s)
{
    TCase *tc = new_case(s, "text");

    tcase_add_test(tc, text_building);
    tcase_add_test(tc, number_parsing);
    tcase_add_test(tc, writing_all);
    tcase_add_test(tc, time_passes);
    tc = new_case(s, "storm");
    tcase_add_loop_test(tc, kill_storm, 0, WAYS);
    tcase_add_test(tc, kill_storm_in_undo);
}

/* What a test that failed has left running comes to us, as we are a subreaper. */
static unsigned end_what_is_left(void)
{
    unsigned left = 0;

    while (waitpid(-1, NULL, WNOHANG) > 0)
        ;
    if (waitpid(-1, NULL, WNOHANG) == 0) {
        fprintf(stderr, "processes were left running\n");
        left = 1;
    }
    return cleanup_end_children(0, NULL) ? left : left + 1;
}

/* rm -rf, which does not share its faults with what is tested here. */
static void remove_run_dir(void)
{
    pid_t pid = fork();

    if (pid == 0) {
        execl("/bin/rm", "rm", "-rf", run_dir, (char *)NULL);
        _exit(127);
    }
    waitpid(pid, NULL, 0);
}

/* 16 hex digits that nobody else has, and the id of a request with them. */
static bool choose_token(void)
{
    uint64_t number;

    if (getrandom(&number, sizeof number, 0) != sizeof number)
        return false;
    snprintf(token_of_run, sizeof token_of_run, "%016llx", (unsigned long long)number);
    snprintf(id_of_run, sizeof id_of_run, "%s-1", token_of_run);
    return true;
}

int main(int argc, char **argv)
{
    const char *tmp = getenv("TMPDIR");

    if (!choose_token())
        return 2;
    snprintf(run_dir, sizeof run_dir, "%s/check-cleanup-XXXXXX", tmp ? tmp : "/tmp");
    if (mkdtemp(run_dir) == NULL || chmod(run_dir, 0711) != 0 || setenv("TMPDIR", run_dir, 1) != 0)
        return 2;
    cleanup_mark_prepare(argc, argv);
    prctl(PR_SET_CHILD_SUBREAPER, 1);

    Suite *s = suite_create("cleanup");
    add_ledger(s);
    add_create(s);
    add_undo(s);
    add_identity(s);
    add_marks(s);
    add_disk(s);
    add_state(s);
    add_processes(s);
    add_rest(s);
    SRunner *runner = srunner_create(s);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    unsigned left = end_what_is_left();
    remove_run_dir();
    return failed == 0 && left == 0 ? 0 : 1;
}
