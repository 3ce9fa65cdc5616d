#include "harness_servers.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness_clients.h"
#include "harness_files.h"
#include "harness_processes.h"
#include "ledger.h"
#include "suite.h"

#define SERVERS_MAX 512
#define LOG_SHOWN_MAX 65536 /* bytes of each server's log, of a test that failed */

static struct server servers[SERVERS_MAX];
static unsigned server_count;

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
    append_bytes(&s->text, &s->length, &s->room, "", 0);
    char text[8192], state[PATH_MAX], *of_words[WORDS_MAX], *argv[WORDS_MAX + 6];
    snprintf(text, sizeof(text), "%s", words);
    snprintf(state, sizeof(state), "%s", at("state"));
    unsigned count = split_words(text, of_words, WORDS_MAX), n = 0;
    argv[n++] = (char *)program;
    if (!strstr(words, "--state")) {
        argv[n++] = (char *)"--state";
        argv[n++] = state;
    }
    const char *san = getenv("SAN");
    if (san != NULL && *san != '\0') { /* `hangupd undo` in a program, too, has them */
        argv[n++] = (char *)"--pass-env";
        argv[n++] = (char *)"ASAN_OPTIONS,UBSAN_OPTIONS";
    }
    for (unsigned i = 0; i <= count; i++)
        argv[n++] = of_words[i];

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

bool server_is_running(pid_t pid)
{
    for (unsigned i = 0; i < server_count; i++)
        if (servers[i].pid == pid && !servers[i].ended)
            return true;
    return false;
}

/* A listening socket on the loopback, and its port. */
int listening_socket(unsigned *port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof(address);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    must(fd >= 0 && bind(fd, (struct sockaddr *)&address, length) == 0 && listen(fd, 64) == 0);
    must(getsockname(fd, (struct sockaddr *)&address, &length) == 0);
    *port = ntohs(address.sin_port);
    return fd;
}

int connected_socket(int *client)
{
    struct server here;
    int listener = listening_socket(&here.port);
    *client = dial(&here);
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    must(fd >= 0);
    close(listener);
    return fd;
}

struct server *serve_connection(bool systemd, int *client, const char *options)
{
    int fd = connected_socket(client);
    struct server *s = systemd ? server_spawn(the_things(), options, -1, false, fd)
                               : server_spawn(the_things(), options, fd, true, -1);
    close(fd);
    return s;
}

/* ---- The log -----------------------------------------------------------------------------------
 */

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
            append_bytes(&s->text, &s->length, &s->room, buffer, (size_t)n);
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

/* Open STATE's directory NAME. */
static int state_open(const char *name)
{
    return open(at("state/%s", name), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

/* Returns true if the ledger NAME in DIR has a `sent` mark. A slot's file has the lines of requests
 * that have ended as well, which are none of the ledger's. */
static bool is_sent(int dir, const char *name)
{
    uint64_t n;
    struct cleanup_look look;
    return cleanup_look_ledger(dir, name, &look) && cleanup_was_sent(dir, name, &n) == 1;
}

static bool any_sent(void)
{
    size_t count;
    bool sent = false;
    DIR *state = opendir(at("state"));
    for (const struct dirent *e; state && (e = readdir(state));) {
        int dir = e->d_name[0] != '.' ? state_open(e->d_name) : -1;
        struct cleanup_look *all = dir >= 0 ? cleanup_look_ledgers(dir, &count) : NULL;
        for (size_t i = 0; all && i < count; i++)
            sent = sent || is_sent(dir, all[i].name);
        free(all);
        if (dir >= 0)
            close(dir);
    }
    if (state)
        closedir(state);
    return sent;
}

void wait_sent(void)
{
    wait_until(any_sent());
}

pid_t wait_made(struct server *s, const char *path)
{
    const char *line = log_wait(s, "made %s pid ", path);
    return (pid_t)atoi(strstr(line, " pid ") + 5);
}

void servers_show_logs(const char *file, int line)
{
    for (unsigned i = 0; i < server_count; i++) {
        log_has(&servers[i], "%s", "");
        const char *end = servers[i].text + servers[i].length;
        bool all = servers[i].length <= LOG_SHOWN_MAX;
        fprintf(stderr, "--- %s:%d: log of server %d%s:\n%s", file, line, (int)servers[i].pid,
                all ? "" : " (its end)", all ? servers[i].text : end - LOG_SHOWN_MAX);
    }
}

/* ---- The end -----------------------------------------------------------------------------------
 */

bool state_is_there(void)
{
    DIR *state = opendir(at("state"));
    bool there = false;
    for (const struct dirent *entry; state && (entry = readdir(state));)
        there |= strlen(entry->d_name) == 16;
    if (state)
        closedir(state);
    return there;
}

void nothing_left(void)
{
    no_process_left();
    must_say(is_empty(at("tmp")), "something was left in TMPDIR: %s", run("ls -lR tmp").text);
    must_say(!state_is_there(), "state was left: %s", run("ls -lR %s", at("state")).text);
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

/* ---- What a server takes -----------------------------------------------------------------------
 */

/* Ledgers of all servers, and parked ones. */
static unsigned count_ledgers(void)
{
    unsigned count = 0;
    DIR *state = opendir(at("state"));
    for (const struct dirent *e; state && (e = readdir(state));) {
        int dir = e->d_name[0] != '.' ? state_open(e->d_name) : -1;
        size_t here = 0;
        if (dir >= 0) {
            free(cleanup_list(dir, &here));
            close(dir);
        }
        count += (unsigned)here;
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
