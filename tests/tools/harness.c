#define HARNESS_ITSELF
#include "harness.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define SERVERS_MAX 512
#define LOG_SHOWN_MAX 65536 /* bytes of each server's log, of a test that failed */
#define WORDS_MAX 64

static char base_dir[PATH_MAX];
char test_dir[PATH_MAX];
static struct server servers[SERVERS_MAX];
static unsigned server_count;
const char *test_file = "";
int test_line;

int64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

int patience_ms(void)
{
    const char *times = getenv("CK_TIMEOUT_MULTIPLIER");
    int n = times ? atoi(times) : 1;
    return 20000 * (n > 1 ? n : 1);
}

void rest(void)
{
    nanosleep(&(struct timespec){.tv_nsec = 3000000}, NULL);
}

/* ---- Files ------------------------------------------------------------------------------- */

const char *at(const char *format, ...)
{
    static char paths[16][PATH_MAX];
    static unsigned next;
    char *path = paths[next++ % 16];
    int n = snprintf(path, PATH_MAX, "%s/", test_dir);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(path + n, (size_t)(PATH_MAX - n), format, arguments);
    va_end(arguments);
    return path;
}

bool exists(const char *path)
{
    struct stat st;
    return lstat(path, &st) == 0;
}

bool is_empty(const char *directory)
{
    DIR *d = opendir(directory);
    if (!d)
        return true;
    unsigned entries = 0;
    while (readdir(d))
        entries++;
    closedir(d);
    return entries == 2;
}

static bool is_free(const char *pool, const char *name)
{
    if (strncmp(name, ".spare-", strlen(".spare-")) == 0)
        return is_empty(at("tmp/%s/%s", pool, name));
    return strcmp(name, ".") == 0 || strcmp(name, "..") == 0;
}

bool no_scratch(void)
{
    unsigned pools = 0;
    bool none = true;
    DIR *tmp = opendir(at("tmp"));
    for (const struct dirent *e; tmp && (e = readdir(tmp));) {
        if (e->d_name[0] == '.')
            continue;
        bool is_pool = strlen(e->d_name) == strlen("hangupd-") + 16 + 1 + 16;
        DIR *pool = is_pool ? opendir(at("tmp/%s", e->d_name)) : NULL;
        none = none && pool;
        for (const struct dirent *d; pool && (d = readdir(pool));)
            none = none && is_free(e->d_name, d->d_name);
        pools++;
        if (pool)
            closedir(pool);
    }
    if (tmp)
        closedir(tmp);
    return none && pools <= 1;
}

void file_write(const char *path, const char *text)
{
    FILE *f = fopen(path, "w");
    must_say(f && fputs(text, f) >= 0 && fclose(f) == 0, "write %s: %s", path, strerror(errno));
}

char *file_read(const char *path)
{
    static char texts[4][16384];
    static unsigned next;
    char *text = texts[next++ % 4];
    size_t n = 0;
    FILE *f = fopen(path, "r");
    if (f) {
        n = fread(text, 1, sizeof(texts[0]) - 1, f);
        fclose(f);
    }
    text[n] = '\0';
    return text;
}

void wait_exists(const char *path)
{
    wait_until(exists(path));
}

void wait_gone(const char *path)
{
    wait_until(!exists(path));
}

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *walk)
{
    (void)st;
    (void)walk;
    if (type == FTW_DP)
        rmdir(path);
    else
        unlink(path);
    return 0;
}

static bool write_line(const char *path, const char *line)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    ssize_t n = (ssize_t)strlen(line);
    bool written = fd >= 0 && write(fd, line, (size_t)n) == n;
    if (fd >= 0)
        close(fd);
    return written;
}

bool private_mounts(void)
{
    char users[32], groups[32];
    snprintf(users, sizeof(users), "0 %u 1", geteuid());
    snprintf(groups, sizeof(groups), "0 %u 1", getegid());
    if (geteuid() == 0) {
        if (unshare(CLONE_NEWNS) < 0)
            return false;
    } else if (unshare(CLONE_NEWUSER | CLONE_NEWNS) < 0 ||
               !write_line("/proc/self/setgroups", "deny") ||
               !write_line("/proc/self/uid_map", users) ||
               !write_line("/proc/self/gid_map", groups)) {
        return false;
    }
    return mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0;
}

/* ---- The README's snippets -------------------------------------------------------------- */

char *replaced(char *text, const char *what, const char *with)
{
    char *found = strstr(text, what);
    must_say(found, "the README has no %s in: %s", what, text);
    char *result;
    must(asprintf(&result, "%.*s%s%s", (int)(found - text), text, with, found + strlen(what)) >= 0);
    free(text);
    return result;
}

char *readme_block(const char *info, const char *with)
{
    char path[4096], fence[64];
    must(getenv("TESTS"));
    snprintf(path, sizeof(path), "%s/../README.md", getenv("TESTS"));
    snprintf(fence, sizeof(fence), "```%s\n", info);
    const char *at = file_read(path);
    while ((at = strstr(at, fence))) {
        at += strlen(fence);
        const char *end = strstr(at, "```");
        must(end);
        char *block = strndup(at, (size_t)(end - at));
        must(block);
        if (strstr(block, with))
            return block;
        free(block);
    }
    must_say(false, "the README has no block %s with %s", info, with);
    return NULL;
}

/* ---- Processes --------------------------------------------------------------------------- */

/* What /proc/PID/stat says after the name: state letter, parent, and more. False: it is gone. */
static bool process_stat(pid_t pid, char *state, pid_t *parent, unsigned long *ticks)
{
    char path[64], text[1024];
    snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    ssize_t n = read(fd, text, sizeof(text) - 1);
    close(fd);
    if (n <= 0)
        return false;
    text[n] = '\0';
    const char *rest_of_it = strrchr(text, ')');
    unsigned long user = 0, kernel = 0;
    int of = 0;
    if (!rest_of_it || sscanf(rest_of_it + 1, " %c %d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu",
                              state, &of, &user, &kernel) != 4)
        return false;
    *parent = of;
    *ticks = user + kernel;
    return true;
}

char process_state(pid_t pid)
{
    char state;
    pid_t parent;
    unsigned long ticks;
    return process_stat(pid, &state, &parent, &ticks) ? state : '\0';
}

bool is_alive(pid_t pid)
{
    char state = process_state(pid);
    return state != '\0' && state != 'Z' && state != 'X';
}

long processor_ms(pid_t pid)
{
    char state;
    pid_t parent;
    unsigned long ticks = 0;
    must_say(process_stat(pid, &state, &parent, &ticks), "pid %d is gone", (int)pid);
    return (long)ticks * 1000 / sysconf(_SC_CLK_TCK);
}

static bool proc_file_names(pid_t pid, const char *file, const char *text)
{
    static char content[262144];
    char path[64];
    snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, file);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    size_t length = 0;
    ssize_t n;
    while (length < sizeof(content) &&
           (n = read(fd, content + length, sizeof(content) - length)) > 0)
        length += (size_t)n;
    close(fd);
    return memmem(content, length, text, strlen(text)) != NULL;
}

/* Call EACH for every process below this one, or that names DIRECTORY on its command line or in
 * its environment. A request's child writes over a part of its environment, hence both. */
static void each_process(const char *directory, void (*each)(pid_t pid, void *data), void *data)
{
    DIR *proc = opendir("/proc");
    if (!proc)
        return;
    for (const struct dirent *entry; (entry = readdir(proc));) {
        pid_t pid = atoi(entry->d_name), parent;
        char state;
        unsigned long ticks;
        if (pid <= 0 || pid == getpid() || !process_stat(pid, &state, &parent, &ticks) ||
            state == 'Z' || state == 'X')
            continue;
        if (parent == getpid() || proc_file_names(pid, "cmdline", directory) ||
            proc_file_names(pid, "environ", directory))
            each(pid, data);
    }
    closedir(proc);
}

struct process_list {
    pid_t pids[256];
    unsigned count;
};

static void list_process(pid_t pid, void *data)
{
    struct process_list *list = data;
    if (list->count < sizeof(list->pids) / sizeof(list->pids[0]))
        list->pids[list->count++] = pid;
}

struct find_child {
    pid_t parent, child;
    unsigned count;
};

static void is_child(pid_t pid, void *data)
{
    struct find_child *find = data;
    char state;
    pid_t parent;
    unsigned long ticks;
    if (process_stat(pid, &state, &parent, &ticks) && parent == find->parent) {
        find->child = pid;
        find->count++;
    }
}

pid_t only_child(pid_t parent)
{
    struct find_child find;
    wait_until((find = (struct find_child){.parent = parent},
                each_process(test_dir, is_child, &find), find.count == 1));
    return find.child;
}

unsigned children_of(pid_t of, pid_t *pids, unsigned room)
{
    unsigned count = 0;
    DIR *proc = opendir("/proc");
    must(proc);
    for (const struct dirent *entry; count < room && (entry = readdir(proc));) {
        pid_t pid = atoi(entry->d_name), parent;
        char state;
        unsigned long ticks;
        if (pid > 0 && process_stat(pid, &state, &parent, &ticks) && parent == of && state != 'Z')
            pids[count++] = pid;
    }
    closedir(proc);
    return count;
}

bool kill_child(pid_t of, pid_t pid)
{
    char state;
    pid_t parent;
    unsigned long ticks;
    int fd = (int)syscall(SYS_pidfd_open, pid, 0);
    bool killed = fd >= 0 && process_stat(pid, &state, &parent, &ticks) && parent == of &&
                  syscall(SYS_pidfd_send_signal, fd, SIGKILL, NULL, 0) == 0;
    if (fd >= 0)
        close(fd);
    return killed;
}

/* Kill, and look again, until there is nobody: a process that forks in a loop is not seen whole
 * in one look. Returns how many there were. */
static unsigned kill_all(const char *directory)
{
    unsigned killed = 0;
    for (int look = 0; look < 1000; look++) {
        struct process_list list = {.count = 0};
        each_process(directory, list_process, &list);
        if (list.count == 0)
            break;
        if (look == 0)
            killed = list.count;
        for (unsigned i = 0; i < list.count; i++)
            kill(list.pids[i], SIGKILL);
        while (waitpid(-1, NULL, WNOHANG) > 0) {
        }
        rest();
    }
    return killed;
}

void end_processes(void)
{
    kill_all(test_dir);
}

static bool is_server(pid_t pid)
{
    for (unsigned i = 0; i < server_count; i++)
        if (servers[i].pid == pid && !servers[i].ended)
            return true;
    return false;
}

/* Whether PID is who looks, at a server's start, for what others left: a child of the server's that
 * bears no request's mark. */
static bool is_recovering(pid_t pid)
{
    char path[64], state;
    static char environment[1 << 16];
    pid_t parent;
    unsigned long ticks;
    snprintf(path, sizeof(path), "/proc/%d/environ", (int)pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, environment, sizeof(environment));
    if (fd >= 0)
        close(fd);
    return n > 0 && !memmem(environment, (size_t)n, "REQUEST_ID=", 11) &&
           process_stat(pid, &state, &parent, &ticks) && is_server(parent);
}

void no_process_left(void)
{
    struct process_list list = {.count = 0};
    each_process(test_dir, list_process, &list);
    for (unsigned i = 0; i < list.count; i++) {
        char path[64];
        snprintf(path, sizeof(path), "/proc/%d/cmdline", (int)list.pids[i]);
        must_say(is_server(list.pids[i]) || is_recovering(list.pids[i]) || !is_alive(list.pids[i]),
                 "process %d was left: %s", (int)list.pids[i], file_read(path));
    }
}

static bool no_process(void)
{
    struct process_list list = {.count = 0};
    each_process(test_dir, list_process, &list);
    return list.count == 0;
}

void wait_no_process(void)
{
    wait_until(no_process());
}

/* Split TEXT at spaces, in place. */
static unsigned split(char *text, char **words, unsigned room)
{
    unsigned count = 0;
    for (char *word = strtok(text, " "); word && count + 1 < room; word = strtok(NULL, " "))
        words[count++] = word;
    words[count] = NULL;
    return count;
}

/* What a child of Check's must put right before it runs a program. The parent's death ends it:
 * Check kills a test that takes too long without asking. */
static void become_ordinary(pid_t parent)
{
    struct sigaction usual = {.sa_handler = SIG_DFL};
    for (int n = 1; n < NSIG; n++)
        sigaction(n, &usual, NULL);
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(126);
}

static int plain_status(int status)
{
    return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

static void append(char **text, size_t *length, size_t *room, const char *bytes, size_t n)
{
    if (*length + n + 1 > *room) {
        *room = 2 * (*length + n + 1);
        *text = realloc(*text, *room);
        if (!*text)
            abort();
    }
    memcpy(*text + *length, bytes, n);
    *length += n;
    (*text)[*length] = '\0';
}

struct output run_argv(const char *const argv[], const char *input, bool both)
{
    int out[2], in[2];
    pid_t parent = getpid();
    must(pipe2(out, O_CLOEXEC) == 0 && pipe2(in, O_CLOEXEC) == 0);
    fflush(NULL);
    pid_t pid = fork();
    must(pid >= 0);
    if (pid == 0) {
        become_ordinary(parent);
        dup2(in[0], 0);
        dup2(out[1], 1);
        if (both)
            dup2(out[1], 2);
        execvp(argv[0], (char *const *)argv);
        _exit(127);
    }
    close(out[1]);
    close(in[0]);
    if (input) {
        ssize_t n = write(in[1], input, strlen(input));
        must(n == (ssize_t)strlen(input) || errno == EPIPE);
    }
    close(in[1]);
    struct output o = {.text = NULL};
    size_t room = 0;
    int64_t deadline = now_ms() + PATIENCE_MS;
    char buffer[65536];
    append(&o.text, &o.length, &room, "", 0);
    for (;;) {
        struct pollfd p = {.fd = out[0], .events = POLLIN};
        int64_t left = deadline - now_ms();
        if (left <= 0 || (poll(&p, 1, (int)left) < 0 && errno != EINTR)) {
            kill(pid, SIGKILL);
            must_say(false, "%s did not end; it said: %s", argv[0], o.text);
        }
        ssize_t n = p.revents ? read(out[0], buffer, sizeof(buffer)) : -1;
        if (n == 0)
            break;
        if (n > 0)
            append(&o.text, &o.length, &room, buffer, (size_t)n);
    }
    close(out[0]);
    int status;
    must(waitpid(pid, &status, 0) == pid);
    o.status = plain_status(status);
    return o;
}

pid_t start_shell(const char *command)
{
    pid_t parent = getpid();
    fflush(NULL);
    pid_t pid = fork();
    must(pid >= 0);
    if (pid == 0) {
        become_ordinary(parent);
        execl("/bin/sh", "sh", "-c", command, (char *)NULL);
        _exit(127);
    }
    return pid;
}

struct output run(const char *format, ...)
{
    char text[8192], *words[WORDS_MAX];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    split(text, words, WORDS_MAX);
    return run_argv((const char *const *)words, NULL, true);
}

/* ---- The whole suite, and one test --------------------------------------------------------- */

void harness_begin(void)
{
    const char *tmp = getenv("TMPDIR");
    snprintf(base_dir, sizeof(base_dir), "%s/hangupd-test-XXXXXX", tmp && *tmp ? tmp : "/tmp");
    /* Open to others, for --user: the tests' own directories are below. */
    if (!mkdtemp(base_dir) || chmod(base_dir, 0711) < 0) {
        fprintf(stderr, "%s: %s\n", base_dir, strerror(errno));
        exit(1);
    }
}

unsigned harness_end(void)
{
    unsigned left = kill_all(base_dir);
    nftw(base_dir, remove_entry, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
    return left;
}

void test_begin(void)
{
    snprintf(test_dir, PATH_MAX, "%.*s/XXXXXX", PATH_MAX - 16, base_dir);
    must_say(mkdtemp(test_dir) && chmod(test_dir, 0711) == 0, "%s: %s", test_dir, strerror(errno));
    must(mkdir(at("tmp"), 0777) == 0 && chmod(at("tmp"), 01777) == 0);
    must(chdir(test_dir) == 0);
    must(setenv("TMPDIR", at("tmp"), 1) == 0);
    signal(SIGPIPE, SIG_IGN);
    /* Whoever loses its parent comes here, and is found. */
    must(prctl(PR_SET_CHILD_SUBREAPER, 1) == 0);
}

void test_failed(const char *file, int line, const char *condition, const char *format, ...)
{
    static bool failing;
    char why[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(why, sizeof(why), format, arguments);
    va_end(arguments);
    /* A failure on the way down has nothing to add. */
    if (!failing) {
        failing = true;
        for (unsigned i = 0; i < server_count; i++) {
            log_has(&servers[i], "%s", "");
            const char *end = servers[i].text + servers[i].length;
            bool all = servers[i].length <= LOG_SHOWN_MAX;
            fprintf(stderr, "--- %s:%d: log of server %d%s:\n%s", file, line, (int)servers[i].pid,
                    all ? "" : " (its end)", all ? servers[i].text : end - LOG_SHOWN_MAX);
        }
        fflush(stderr);
        end_processes();
    }
    if (strcmp(file, __FILE__) == 0 && *test_file)
        ck_abort_msg("%s:%d: %s:%d: %s: %s", test_file, test_line, file, line, condition, why);
    ck_abort_msg("%s:%d: %s: %s", file, line, condition, why);
    abort();
}

void test_skipped(const char *test, const char *why)
{
    fprintf(stderr, "SKIPPED %s: %s\n", test, why);
}

bool left_out_with_memcheck(const char *test, const char *why)
{
    if (!getenv("MEMCHECK"))
        return false;
    fprintf(stderr, "LEFT OUT %s: %s\n", test, why);
    return true;
}

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define ARGUMENT(n) (offsetof(struct seccomp_data, args) + (size_t)8 * (n))
#else
#define ARGUMENT(n) (offsetof(struct seccomp_data, args) + (size_t)8 * (n) + 4)
#endif

bool deny(unsigned number, unsigned arg, unsigned bits, unsigned error)
{
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (unsigned)ARGUMENT(arg)),
        BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, bits, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | error),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {.len = sizeof filter / sizeof filter[0], .filter = filter};

    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0)
        return true;
    return false;
}

/* ---- Servers ----------------------------------------------------------------------------- */

static const char *from_environment(const char *name)
{
    const char *value = getenv(name);
    must_say(value, "%s is not set: see the Makefile", name);
    return value;
}

const char *the_hangupd(void)
{
    return from_environment("HANGUPD");
}

const char *the_binary(void)
{
    const char *run_with_memcheck = getenv("MEMCHECK");
    return run_with_memcheck ? run_with_memcheck : the_hangupd();
}

const char *the_things(void)
{
    static char path[PATH_MAX];
    snprintf(path, sizeof(path), "%s/example_things", from_environment("EXAMPLES"));
    return path;
}

struct server *server_spawn(const char *program, const char *words, int in, bool all, int three)
{
    must(server_count < SERVERS_MAX);
    struct server *s = &servers[server_count];
    *s = (struct server){.log = -1};
    append(&s->text, &s->length, &s->room, "", 0);
    char text[8192], state[PATH_MAX], *split_words[WORDS_MAX], *argv[WORDS_MAX + 4];
    snprintf(text, sizeof(text), "%s", words);
    snprintf(state, sizeof(state), "%s", at("state"));
    unsigned count = split(text, split_words, WORDS_MAX), n = 0;
    argv[n++] = (char *)program;
    if (!strstr(words, "--state")) {
        argv[n++] = (char *)"--state";
        argv[n++] = state;
    }
    for (unsigned i = 0; i <= count; i++)
        argv[n++] = split_words[i];

    int log[2];
    pid_t parent = getpid();
    must(pipe2(log, O_CLOEXEC) == 0);
    fcntl(log[0], F_SETPIPE_SZ, 1 << 20);
    fcntl(log[0], F_SETFL, O_NONBLOCK);
    fflush(NULL);
    s->pid = fork();
    must(s->pid >= 0);
    if (s->pid == 0) {
        become_ordinary(parent);
        int null = open("/dev/null", O_RDWR);
        if (dup2(in < 0 ? null : in, 0) < 0 || dup2(all ? in : log[1], 1) < 0 ||
            dup2(all ? in : log[1], 2) < 0)
            _exit(126);
        if (three >= 0) {
            char pid[16];
            snprintf(pid, sizeof(pid), "%d", (int)getpid());
            if (three == 3 ? fcntl(3, F_SETFD, 0) < 0 : dup2(three, 3) < 0)
                _exit(126);
            setenv("LISTEN_PID", pid, 1);
            setenv("LISTEN_FDS", "1", 1);
        }
        execv(program, argv);
        _exit(127);
    }
    close(log[1]);
    s->log = log[0];
    server_count++;
    return s;
}

struct server *server_start(const char *program, const char *format, ...)
{
    char text[8192];
    va_list arguments;
    va_start(arguments, format);
    int n = vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    if (!strstr(text, "--listen"))
        snprintf(text + n, sizeof(text) - (size_t)n, " --listen 127.0.0.1:0");
    struct server *s = server_spawn(program, text, -1, false, -1);
    const char *line = log_wait(s, "listening on ");
    const char *colon = strrchr(line, ':');
    if (colon && !strstr(line, "on unix:"))
        s->port = (unsigned)atoi(colon + 1);
    return s;
}

/* Take what there is of the log, after at most MS; false when it has ended. */
static bool log_read(struct server *s, int ms)
{
    char buffer[65536];
    if (s->log < 0)
        return false;
    struct pollfd p = {.fd = s->log, .events = POLLIN};
    poll(&p, 1, ms);
    for (;;) {
        ssize_t n = read(s->log, buffer, sizeof(buffer));
        if (n > 0) {
            append(&s->text, &s->length, &s->room, buffer, (size_t)n);
            continue;
        }
        if (n == 0) {
            close(s->log);
            s->log = -1;
            return false;
        }
        return true;
    }
}

static const char *log_find(struct server *s, const char *text)
{
    static char line[16384];
    const char *found = strstr(s->text + s->mark, text);
    if (!found)
        return NULL;
    const char *end = strchr(found, '\n');
    if (!end)
        return NULL;
    const char *start = found;
    while (start > s->text && start[-1] != '\n')
        start--;
    snprintf(line, sizeof(line), "%.*s", (int)(end - start), start);
    return line;
}

const char *log_wait(struct server *s, const char *format, ...)
{
    char text[8192];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    int64_t deadline = now_ms() + PATIENCE_MS;
    for (bool more = true;;) {
        const char *line = log_find(s, text);
        if (line)
            return line;
        must_say(more, "the server ended without a log line with: %s", text);
        must_say(now_ms() < deadline, "waited for a log line with: %s", text);
        more = log_read(s, 100);
    }
}

bool log_has(struct server *s, const char *format, ...)
{
    char text[8192];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    log_read(s, 0);
    return log_find(s, text) != NULL;
}

unsigned log_count(struct server *s, const char *text)
{
    unsigned count = 0;
    log_read(s, 0);
    for (const char *p = s->text + s->mark; (p = strstr(p, text)); count++)
        p += strlen(text);
    return count;
}

void log_mark(struct server *s)
{
    log_read(s, 0);
    s->mark = s->length;
}

pid_t wait_made(struct server *s, const char *path)
{
    const char *line = log_wait(s, "made %s pid ", path);
    return (pid_t)atoi(strstr(line, " pid ") + 5);
}

void nothing_left(void)
{
    no_process_left();
    must_say(is_empty(at("tmp")), "something was left in TMPDIR: %s", run("ls -lR tmp").text);
    DIR *state = opendir(at("state"));
    if (!state)
        return;
    for (const struct dirent *entry; (entry = readdir(state));)
        must_say(strlen(entry->d_name) != 16, "state was left: %s",
                 run("ls -lR %s", at("state")).text);
    closedir(state);
}

static void reap(struct server *s)
{
    int64_t deadline = now_ms() + PATIENCE_MS;
    int status;
    pid_t pid;
    while ((pid = waitpid(s->pid, &status, WNOHANG)) == 0) {
        must_say(now_ms() < deadline, "the server does not end");
        log_read(s, 5);
    }
    must_say(pid == s->pid, "waitpid: %s", strerror(errno));
    s->status = plain_status(status);
    s->ended = true;
    while (s->log >= 0 && now_ms() < deadline && log_read(s, 0) && !is_alive(s->pid))
        break;
}

int server_wait(struct server *s)
{
    reap(s);
    must_say(!strstr(s->text, "AddressSanitizer") && !strstr(s->text, "LeakSanitizer") &&
                 !strstr(s->text, "runtime error:"),
             "a sanitizer found something");
    nothing_left();
    return s->status;
}

void server_stop(struct server *s)
{
    kill(s->pid, SIGTERM);
    /* Clients that the test has forgotten answer an end with theirs: the server waits for it. */
    struct sockaddr_storage peer;
    for (int fd = 3; fd < 1024; fd++)
        if (getpeername(fd, (struct sockaddr *)&peer, &(socklen_t){sizeof(peer)}) == 0)
            shutdown(fd, SHUT_WR);
    int status = server_wait(s);
    must_say(status == 0, "the server's exit status is %d", status);
}

void server_kill(struct server *s, int signal)
{
    must(kill(s->pid, signal) == 0);
    reap(s);
}

/* Ledgers of all servers, and parked ones. */
static unsigned count_ledgers(void)
{
    unsigned count = 0;
    DIR *state = opendir(at("state"));
    for (const struct dirent *e; state && (e = readdir(state));) {
        DIR *d = e->d_name[0] != '.' ? opendir(at("state/%s", e->d_name)) : NULL;
        for (const struct dirent *l; d && (l = readdir(d));)
            count += strlen(l->d_name) > 17 && l->d_name[16] == '-';
        if (d)
            closedir(d);
    }
    if (state)
        closedir(state);
    return count;
}

static void count_descriptors(pid_t pid, struct gauge *g)
{
    char path[64], target[64];
    snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
    DIR *d = opendir(path);
    must_say(d, "%s: %s", path, strerror(errno));
    for (const struct dirent *e; (e = readdir(d));) {
        ssize_t n = readlinkat(dirfd(d), e->d_name, target, sizeof(target));
        g->descriptors += n > 0;
        g->sockets += n > 7 && strncmp(target, "socket:", 7) == 0;
    }
    closedir(d);
}

struct gauge server_gauge(const struct server *s)
{
    char path[64];
    pid_t pids[4096];
    struct gauge g = {.pss_kb = -1};
    snprintf(path, sizeof(path), "/proc/%d/smaps_rollup", (int)s->pid);
    const char *text = file_read(path), *anonymous = strstr(text, "\nPss_Anon:");
    const char *shared = strstr(text, "\nPss_Shmem:");
    long shared_kb = 0;
    must_say(anonymous && shared && sscanf(anonymous, "\nPss_Anon: %ld", &g.pss_kb) == 1 &&
                 sscanf(shared, "\nPss_Shmem: %ld", &shared_kb) == 1,
             "no Pss in %s", path);
    g.pss_kb += shared_kb;
    count_descriptors(s->pid, &g);
    g.children = children_of(s->pid, pids, 4096);
    g.ledgers = count_ledgers();
    return g;
}

/* ---- Clients ----------------------------------------------------------------------------- */

static int dial_address(const struct server *s, const char *from)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;
    struct sockaddr_in address = {.sin_family = AF_INET};
    must(fd >= 0);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    inet_pton(AF_INET, from, &address.sin_addr);
    must(bind(fd, (struct sockaddr *)&address, sizeof(address)) == 0);
    address.sin_port = htons((uint16_t)s->port);
    inet_pton(AF_INET, "127.0.0.1", &address.sin_addr);
    must_say(connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0, "connect: %s",
             strerror(errno));
    return fd;
}

int dial(const struct server *s)
{
    return dial_address(s, "127.0.0.1");
}

int dial_from(const struct server *s, const char *address)
{
    return dial_address(s, address);
}

/* Whether the server has accepted the connection C (only then the kernel shows an inode for the
 * server's end), and read all that came on it if READ. */
static bool is_accepted(const struct server *s, int c, bool read)
{
    struct sockaddr_in mine = {0};
    socklen_t size = sizeof(mine);
    char line[512];
    bool accepted = false;
    must(getsockname(c, (struct sockaddr *)&mine, &size) == 0);
    FILE *f = fopen("/proc/net/tcp", "re");
    must(f);
    while (!accepted && fgets(line, sizeof(line), f)) {
        unsigned local, remote, unread;
        unsigned long inode;
        accepted = sscanf(line, "%*s %*x:%x %*x:%x %*x %*x:%x %*s %*x %*u %*u %lu", &local, &remote,
                          &unread, &inode) == 4 &&
                   local == s->port && remote == ntohs(mine.sin_port) && inode != 0 &&
                   (!read || unread == 0);
    }
    fclose(f);
    return accepted;
}

void wait_read(const struct server *s, int c)
{
    wait_until(is_accepted(s, c, true));
}

void wait_seen(const struct server *s)
{
    /* The first is accepted after all before it; by the third, each of these was looked at. */
    for (int i = 0; i < 3; i++) {
        int c = dial(s);
        wait_until(is_accepted(s, c, false));
        close(c);
    }
}

int dial_unix(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    /* The current directory is the test's, whose path may be too long for a socket's. */
    snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    must_say(fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0,
             "connect to %s: %s", path, strerror(errno));
    return fd;
}

void say_bytes(int fd, const void *bytes, size_t n)
{
    const char *p = bytes;
    while (n > 0) {
        ssize_t sent = send(fd, p, n, MSG_NOSIGNAL);
        must_say(sent > 0, "send: %s", strerror(errno));
        p += sent;
        n -= (size_t)sent;
    }
}

void say(int fd, const char *format, ...)
{
    char *text;
    va_list arguments;
    va_start(arguments, format);
    int n = vasprintf(&text, format, arguments);
    va_end(arguments);
    must(n >= 0);
    say_bytes(fd, text, (size_t)n);
    free(text);
}

int get(const struct server *s, const char *format, ...)
{
    char target[8192];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(target, sizeof(target), format, arguments);
    va_end(arguments);
    int fd = dial(s);
    say(fd, "GET %s HTTP/1.1\r\nHost: test\r\n\r\n", target);
    return fd;
}

/* The first answer in TEXT that is not an interim one: its start, or NULL. */
static const char *final_answer(const char *text)
{
    while (strncmp(text, "HTTP/1.1 1", 10) == 0) {
        const char *end = strstr(text, "\r\n\r\n");
        if (!end)
            return NULL;
        text = end + 4;
    }
    return strncmp(text, "HTTP/1.", 7) == 0 && strnlen(text, 13) > 12 ? text : NULL;
}

/* Read as long as WANTED wants bytes after what has been read, until the connection ends, or time
 * is up. Not one byte more is taken than it wants: they are peeked at. */
static struct heard hear_while(int fd, size_t (*wanted)(const struct heard *, const void *),
                               const void *what, bool end_is_wrong)
{
    static struct heard answers[8];
    static size_t rooms[8];
    static unsigned next;
    unsigned i = next++ % 8;
    struct heard *h = &answers[i];
    *h = (struct heard){.text = h->text};
    append(&h->text, &h->length, &rooms[i], "", 0);
    int64_t deadline = now_ms() + PATIENCE_MS;
    static char buffer[262144];
    for (size_t want; (want = wanted(h, what)) > 0;) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        int64_t left = deadline - now_ms();
        must_say(left > 0, "waited for the other side, which has said: %s", h->text);
        if (poll(&p, 1, (int)left) <= 0)
            continue;
        ssize_t n = recv(fd, buffer, sizeof(buffer), end_is_wrong ? MSG_PEEK : 0);
        if (n <= 0) {
            h->reset = n < 0;
            must_say(!end_is_wrong, "the connection ended; what came: %s", h->text);
            break;
        }
        size_t got = (size_t)n, taken = 0;
        for (; taken < got && want > 0; want = wanted(h, what)) {
            size_t part = want < got - taken ? want : got - taken;
            append(&h->text, &h->length, &rooms[i], buffer + taken, part);
            taken += part;
        }
        must(!end_is_wrong || recv(fd, buffer, taken, 0) == (ssize_t)taken);
    }
    const char *final = final_answer(h->text);
    h->status = final ? atoi(final + 9) : 0;
    return *h;
}

static size_t all(const struct heard *h, const void *what)
{
    (void)h;
    (void)what;
    return SIZE_MAX;
}

struct heard hear_holding(int fd)
{
    return hear_while(fd, all, NULL, false);
}

struct heard hear(int fd)
{
    struct heard h = hear_holding(fd);
    shutdown(fd, SHUT_WR); /* an end is answered by one, as everybody does it */
    return h;
}

static size_t until_it_ends_with(const struct heard *h, const void *what)
{
    size_t n = strlen(what);
    return h->length < n || memcmp(h->text + h->length - n, what, n) != 0;
}

struct heard hear_until(int fd, const char *pattern)
{
    return hear_while(fd, until_it_ends_with, pattern, true);
}

static size_t rest_of_answer(const struct heard *h, const void *what)
{
    const bool *head = what;
    const char *start = final_answer(h->text), *end = start ? strstr(start, "\r\n\r\n") : NULL;
    if (!end)
        return 1;
    if (*head || atoi(start + 9) == 204 || atoi(start + 9) == 304)
        return 0;
    size_t body = h->length - (size_t)(end + 4 - h->text);
    for (const char *line = start; line < end; line = strstr(line + 2, "\r\n"))
        if (strncasecmp(line, "\r\nContent-Length:", 17) == 0)
            return strtoull(line + 17, NULL, 10) - body;
    return until_it_ends_with(h, "\r\n0\r\n\r\n");
}

struct heard hear_answer(int fd, bool head)
{
    return hear_while(fd, rest_of_answer, &head, true);
}

bool is_quiet(int fd)
{
    char byte;
    return recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0 && errno == EAGAIN;
}

const char *field(struct heard answer, const char *name)
{
    static char values[4][1024];
    static unsigned next;
    char *value = values[next++ % 4], pattern[128];
    value[0] = '\0';
    snprintf(pattern, sizeof(pattern), "\r\n%s:", name);
    const char *start = final_answer(answer.text);
    const char *end = start ? strstr(start, "\r\n\r\n") : NULL;
    const char *found = start ? strcasestr(start, pattern) : NULL;
    if (!found || !end || found >= end)
        return value;
    found += strlen(pattern);
    found += strspn(found, " \t");
    snprintf(value, sizeof(values[0]), "%.*s", (int)strcspn(found, "\r"), found);
    return value;
}

void close_fin(int fd)
{
    close(fd);
}

void close_rst(int fd)
{
    struct linger at_once = {.l_onoff = 1, .l_linger = 0};
    must(setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once)) == 0);
    close(fd);
}

/* curl's words; TEXT and STORE hold them. */
static void curl_words(const struct server *s, char *text, size_t size, char **argv, char *store,
                       size_t store_size, const char *format, va_list arguments)
{
    static char program[] = "curl", options[] = "-sS", limit[] = "--max-time", time[16];
    char *words[WORDS_MAX];
    unsigned n = 0;
    vsnprintf(text, size, format, arguments);
    snprintf(time, sizeof(time), "%d", PATIENCE_MS / 1000 - 1);
    unsigned count = split(text, words, WORDS_MAX - 6);
    argv[n++] = program;
    argv[n++] = options;
    argv[n++] = limit;
    argv[n++] = time;
    for (unsigned i = 0; i < count; i++) {
        if (words[i][0] != '/') {
            argv[n++] = words[i];
            continue;
        }
        int used = snprintf(store, store_size, "http://127.0.0.1:%u%s", s->port, words[i]);
        argv[n++] = store;
        store += used + 1;
        store_size -= (size_t)used + 1;
    }
    argv[n] = NULL;
}

struct output curl(const struct server *s, const char *format, ...)
{
    char text[8192], store[16384], *argv[WORDS_MAX];
    va_list arguments;
    va_start(arguments, format);
    curl_words(s, text, sizeof(text), argv, store, sizeof(store), format, arguments);
    va_end(arguments);
    return run_argv((const char *const *)argv, NULL, true);
}

pid_t curl_start(const struct server *s, const char *format, ...)
{
    char text[8192], store[16384], *argv[WORDS_MAX];
    pid_t parent = getpid();
    va_list arguments;
    va_start(arguments, format);
    curl_words(s, text, sizeof(text), argv, store, sizeof(store), format, arguments);
    va_end(arguments);
    fflush(NULL);
    pid_t pid = fork();
    must(pid >= 0);
    if (pid == 0) {
        become_ordinary(parent);
        int null = open("/dev/null", O_RDWR);
        dup2(null, 0);
        dup2(null, 1);
        dup2(null, 2);
        execvp(argv[0], argv);
        _exit(127);
    }
    return pid;
}

/* ---- Suites -------------------------------------------------------------------------------- */

TCase *theme(Suite *suite, const char *name)
{
    TCase *tcase = tcase_create(name);
    tcase_set_timeout(tcase, 120);
    tcase_add_checked_fixture(tcase, test_begin, end_processes);
    suite_add_tcase(suite, tcase);
    return tcase;
}

int run_suite(Suite *suite)
{
    SRunner *runner = srunner_create(suite);
    srunner_set_fork_status(runner, CK_FORK);
    harness_begin();
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    unsigned left = harness_end();
    if (left > 0)
        fprintf(stderr, "%u processes were left\n", left);
    return failed == 0 && left == 0 ? 0 : 1;
}
