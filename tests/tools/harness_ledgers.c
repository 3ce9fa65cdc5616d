#include "harness_ledgers.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <regex.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* ---- This run ---------------------------------------------------------------------------- */

char token_of_run[CLEANUP_TOKEN_SIZE];
char id_of_run[CLEANUP_ID_SIZE];
int ledgers = -1;
char reports[65536], runs[65536];
void (*on_run)(const char *command);
static int ready[2];

static void note_report(const char *id, const char *what)
{
    strncat(reports, id, sizeof reports - strlen(reports) - 1);
    strncat(reports, ": ", sizeof reports - strlen(reports) - 1);
    strncat(reports, what, sizeof reports - strlen(reports) - 1);
    strncat(reports, "\n", sizeof reports - strlen(reports) - 1);
}

void ledgers_start(int argc, char **argv)
{
    uint64_t number;
    if (getrandom(&number, sizeof number, 0) != sizeof number) {
        perror("getrandom");
        exit(2);
    }
    snprintf(token_of_run, sizeof token_of_run, "%016llx", (unsigned long long)number);
    snprintf(id_of_run, sizeof id_of_run, "%s-1", token_of_run);
    cleanup_mark_prepare(argc, argv);
}

void ledgers_begin(void)
{
    must(chmod(test_dir, 0700) == 0 && chmod(at("tmp"), 0700) == 0);
    must(mkdir(at("ledgers"), 0700) == 0 && mkdir(at("work"), 0755) == 0);
    ledgers = open(at("ledgers"), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    must(ledgers >= 0 && pipe2(ready, O_CLOEXEC) == 0);
    umask(022);
    signal(SIGPIPE, SIG_DFL);
    signal(SIGTERM, SIG_DFL);
    signal(SIGALRM, SIG_DFL);
    cleanup_report = note_report;
}

void ledgers_end(void)
{
    pid_t left = waitpid(-1, NULL, WNOHANG);
    must_say(left == -1 && errno == ECHILD, "the test left a process (%d)", (int)left);
}

/* ---- Texts ------------------------------------------------------------------------------- */

const char *with(const char *format, ...)
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

const char *text_of_fd(int fd)
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

const char *text_of(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    return fd < 0 ? NULL : text_of_fd(fd);
}

const char *ledger_of(const char *id)
{
    int fd = openat(ledgers, id, O_RDONLY | O_CLOEXEC);

    ck_assert_msg(fd >= 0, "there is no ledger");
    return text_of_fd(fd);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

const char *listing(const char *name)
{
    static char list[65536];
    char *names[4096];
    size_t count = 0, length = 0;
    DIR *dir = opendir(at("%s", name));

    ck_assert_msg(dir != NULL, "%s: %s", at("%s", name), strerror(errno));
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

bool has_line(const char *text, const char *pattern)
{
    regex_t re;

    ck_assert_int_eq(regcomp(&re, pattern, REG_EXTENDED | REG_NEWLINE | REG_NOSUB), 0);
    int found = regexec(&re, text, 0, NULL, 0);
    regfree(&re);
    return found == 0;
}

const char *file_id(const char *path, long long off_by_ns)
{
    static char text[512];
    struct statx st;
    union {
        struct file_handle head;
        unsigned char room[sizeof(struct file_handle) + MAX_HANDLE_SZ];
    } h = {.head.handle_bytes = MAX_HANDLE_SZ};
    int mount;

    ck_assert_int_eq(statx(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW, STATX_INO | STATX_BTIME, &st), 0);
    int n = snprintf(text, sizeof text, "%u:%u:%llu:%lld.%09lld", st.stx_dev_major,
                     st.stx_dev_minor, (unsigned long long)st.stx_ino,
                     (long long)st.stx_btime.tv_sec, (long long)st.stx_btime.tv_nsec + off_by_ns);
    if (name_to_handle_at(AT_FDCWD, path, &h.head, &mount, 0) == 0)
        n += snprintf(text + n, sizeof text - (size_t)n, ":%d.", h.head.handle_type);
    else
        h.head.handle_bytes = 0;
    for (unsigned i = 0; i < h.head.handle_bytes; i++)
        n += snprintf(text + n, sizeof text - (size_t)n, "%02x", h.head.f_handle[i]);
    return text;
}

bool have_birth_times(void)
{
    struct statx st;

    ck_assert_int_eq(statx(AT_FDCWD, test_dir, 0, STATX_BTIME, &st), 0);
    if (st.stx_mask & STATX_BTIME)
        return true;
    fprintf(stderr, "skipped: no birth times in %s\n", test_dir);
    return false;
}

const char *boot_id(void)
{
    static char id[64];
    int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);

    ck_assert_int_ge(fd, 0);
    strncpy(id, text_of_fd(fd), sizeof id - 1);
    id[strcspn(id, "\n")] = '\0';
    return id;
}

unsigned long long start_time(pid_t pid)
{
    char path[64];
    unsigned long long ticks = 0;

    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    const char *text = text_of(path);
    ck_assert_ptr_nonnull(text);
    const char *p = strrchr(text, ')');
    ck_assert_ptr_nonnull(p);
    for (int field = 2; field < 22; field++)
        p = strchr(p + 1, ' ');
    ck_assert_int_eq(sscanf(p, "%llu", &ticks), 1);
    return ticks;
}

/* ---- Ledgers ----------------------------------------------------------------------------- */

void begin_as(const char *id)
{
    static char tmp[PATH_MAX];
    static struct cleanup_owner owner;

    snprintf(tmp, sizeof tmp, "%s/tmp", test_dir);
    owner = (struct cleanup_owner){.dir = ledgers, .id = id, .title = "GET /test", .tmpdir = tmp};
    cleanup_begin(&owner);
}

void begin(void)
{
    begin_as(ID);
}

void begin_in_slot(unsigned slot, const char *id, const char *title)
{
    static struct cleanup_owner owner;
    static char tmp[PATH_MAX];

    snprintf(tmp, sizeof tmp, "%s/tmp", test_dir);
    owner = (struct cleanup_owner){.dir = ledgers,
                                   .id = id,
                                   .title = title,
                                   .tmpdir = tmp,
                                   .pool_path = tmp,
                                   .slot = slot + 1};
    cleanup_begin(&owner);
}

int note_run(const char *id, const char *command, int look)
{
    ck_assert_str_eq(id, ID);
    if (look > 1)
        strncat(runs, "again: ", sizeof runs - strlen(runs) - 1);
    strncat(runs, command, sizeof runs - strlen(runs) - 1);
    strncat(runs, "\n", sizeof runs - strlen(runs) - 1);
    if (on_run)
        on_run(command);
    return strncmp(command, "fail", 4) == 0 ? -1 : 0;
}

enum cleanup_result settle_with(bool after_crash, int (*run)(const char *, const char *, int))
{
    struct cleanup_settling how = {
        .dir = ledgers, .id = ID, .after_crash = after_crash, .run = run};

    return cleanup_settle(&how);
}

enum cleanup_result settle(void)
{
    return settle_with(false, note_run);
}

void forge(int dir, const char *id, pid_t pid, unsigned long long started, const char *boot,
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

void leave(const char *id, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    forge(ledgers, id, 1, 1, boot_id(), format, args);
    va_end(args);
}

void leave_before_boot(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    forge(ledgers, ID, 1, 1, "00000000-0000-4000-8000-000000000000", format, args);
    va_end(args);
}

/* ---- Obstacles --------------------------------------------------------------------------- */

bool use_way(int way)
{
    if (way >= BY_RENAME) {
        if (!deny(SYS_openat, 2, O_TMPFILE & ~O_DIRECTORY, EOPNOTSUPP))
            return false;
        ck_assert_int_eq(open(test_dir, O_TMPFILE | O_RDWR, 0600), -1);
        ck_assert_int_eq(errno, EOPNOTSUPP);
    }
    if (way >= BY_LINK) {
        if (!deny(SYS_renameat2, 4, ~0U, EINVAL))
            return false;
        ck_assert_int_eq(renameat2(AT_FDCWD, test_dir, AT_FDCWD, test_dir, RENAME_NOREPLACE), -1);
        ck_assert_int_eq(errno, EINVAL);
    }
    return true;
}

void as_nobody(void)
{
    if (geteuid() != 0)
        return;
    ck_assert_int_eq(setgid(65534), 0);
    ck_assert_int_eq(setuid(65534), 0);
}

void give_to_nobody(const char *name)
{
    if (geteuid() == 0)
        ck_assert_int_eq(chown(at("%s", name), 65534, 65534), 0);
}

bool may_mount(void)
{
    if (private_mounts())
        return true;
    fprintf(stderr, "skipped: no mount namespace (%s)\n", strerror(errno));
    return false;
}

/* ---- Processes --------------------------------------------------------------------------- */

int status_of(pid_t pid)
{
    int status = -1;

    while (waitpid(pid, &status, 0) < 0)
        ck_assert_int_eq(errno, EINTR);
    return status;
}

bool dead_by(pid_t pid, int sig)
{
    int status = status_of(pid);

    return WIFSIGNALED(status) && WTERMSIG(status) == sig;
}

pid_t start(void (*body)(void))
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

void in_child(void (*body)(void))
{
    ck_assert_int_eq(status_of(start(body)), 0);
}

void await(const int pipe_fds[2])
{
    struct pollfd p = {.fd = pipe_fds[0], .events = POLLIN};
    char c;

    ck_assert_int_eq(poll(&p, 1, 20000), 1);
    ck_assert_int_eq(read(pipe_fds[0], &c, 1), 1);
}

void say_ready(void)
{
    ck_assert_int_eq(write(ready[1], "", 1), 1);
}

pid_t start_ready(void (*body)(void))
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

static void on_term(int sig)
{
    (void)sig;
    if (cleanup_is_owner())
        (void)cleanup_undo();
    _exit(9);
}

void arm(void)
{
    struct sigaction action = {.sa_handler = on_term};

    sigfillset(&action.sa_mask);
    ck_assert_int_eq(sigaction(SIGTERM, &action, NULL), 0);
}

void wait_for_term(void)
{
    say_ready();
    for (;;)
        pause();
}

void sleep_forever(void)
{
    sigset_t none;

    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    prctl(PR_SET_PDEATHSIG, 0);
    wait_for_term();
}

pid_t spawn(const char *request_id)
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

void await_exec(pid_t pid)
{
    char path[64], name[64] = "";

    snprintf(path, sizeof path, "/proc/%d/comm", (int)pid);
    for (int64_t end = clock_ms() + 20000; strncmp(name, "sleep", 5) != 0; sleep_ms(1)) {
        const char *text = text_of(path);
        snprintf(name, sizeof name, "%s", text ? text : "");
        ck_assert_int_lt(clock_ms(), end);
    }
}

void await_zombie(pid_t pid)
{
    siginfo_t info;

    ck_assert_int_eq(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT), 0);
}

bool alive(pid_t pid)
{
    return waitpid(pid, NULL, WNOHANG) == 0;
}

void end_by_kill(pid_t pid)
{
    ck_assert_int_eq(kill(pid, SIGKILL), 0);
    ck_assert(dead_by(pid, SIGKILL));
}

struct stage *stage;

void make_stage(void)
{
    stage = mmap(NULL, sizeof *stage, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    ck_assert_ptr_ne(stage, MAP_FAILED);
}
