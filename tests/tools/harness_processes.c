#include "harness_processes.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness_files.h"
#include "harness_servers.h"
#include "suite.h"

/* Reads /proc/PID/stat behind the name: state letter, parent, and time used. Returns false if the
 * process is gone. */
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
 * in one look. */
unsigned end_processes_of(const char *directory)
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
    end_processes_of(test_dir);
}

/* Returns true if PID is the child with which a server recovers at its start: a child that bears no
 * request's mark. */
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
           process_stat(pid, &state, &parent, &ticks) && server_is_running(parent);
}

void no_process_left(void)
{
    struct process_list list = {.count = 0};
    each_process(test_dir, list_process, &list);
    for (unsigned i = 0; i < list.count; i++) {
        char path[64];
        snprintf(path, sizeof(path), "/proc/%d/cmdline", (int)list.pids[i]);
        must_say(server_is_running(list.pids[i]) || is_recovering(list.pids[i]) ||
                     !is_alive(list.pids[i]),
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

/* ---- Running programs --------------------------------------------------------------------------
 */

unsigned split_words(char *text, char **words, unsigned room)
{
    unsigned count = 0;
    for (char *word = strtok(text, " "); word && count + 1 < room; word = strtok(NULL, " "))
        words[count++] = word;
    words[count] = NULL;
    return count;
}

void become_ordinary(pid_t parent)
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

int wait_status(pid_t pid)
{
    int status;
    wait_until(!is_alive(pid));
    must(waitpid(pid, &status, 0) == pid);
    return plain_status(status);
}

int plain_status(int status)
{
    return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

void append_bytes(char **text, size_t *length, size_t *room, const char *bytes, size_t n)
{
    if (!*text || *length + n + 1 > *room) {
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
    must(argv[0] && pipe2(out, O_CLOEXEC) == 0 && pipe2(in, O_CLOEXEC) == 0);
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
    append_bytes(&o.text, &o.length, &room, "", 0);
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
            append_bytes(&o.text, &o.length, &room, buffer, (size_t)n);
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
    split_words(text, words, WORDS_MAX);
    return run_argv((const char *const *)words, NULL, true);
}
