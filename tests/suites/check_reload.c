/* check_reload.c: SIGHUP, a new server in the place of the old one while the process that was
 * started stays. */
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness.h"

/* A terminal that the tests are run in must not be the servers': SIGHUP would be its end. */
static void leave_terminal(void)
{
    int terminal = open("/dev/tty", O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (terminal >= 0 && ioctl(terminal, TIOCNOTTY) < 0)
        setsid();
    if (terminal >= 0)
        close(terminal);
}

SUITE(.begin = leave_terminal);

/* ---- Reloading ---------------------------------------------------------------------------------
 */

/* Tell S to reload, and wait until the new server has taken over: its pid. */
static pid_t reload(struct server *s)
{
    log_mark(s);
    kill(s->pid, SIGHUP);
    log_wait(s, " - handed over to the new server");
    const char *line = log_wait(s, " - reload: process ");
    return (pid_t)atoi(strstr(line, "process ") + 8);
}

static int status_of(const struct server *s, const char *target)
{
    int c = get(s, "%s", target);
    int status = hear_answer(c, false).status;
    close_fin(c);
    return status;
}

static void copy_program(const char *to)
{
    char new[256];
    snprintf(new, sizeof(new), "%s.new", to);
    must(run("cp %s %s", the_things(), new).status == 0);
    must(rename(new, to) == 0);
}

static pid_t parent_of(pid_t pid)
{
    char path[64];
    snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
    const char *line = strstr(file_read(path), "\nPPid:\t");
    return line ? (pid_t)atoi(line + 7) : 0;
}

THEME("hand-over");

TEST(new_routes_are_served)
{
    file_write(at("routes"), "/one=@who\n");
    struct server *s = things("--routes %s", at("routes"));
    int idle = get(s, "/one");
    must(hear_answer(idle, false).status == 200);
    int busy = dial(s);
    must(status_of(s, "/two") == 404);
    file_write(at("routes"), "/two=@who\n");
    pid_t next = reload(s);
    must(parent_of(next) == s->pid);
    must(status_of(s, "/two") == 200 && status_of(s, "/one") == 404);
    /* Who has asked before gets one more answer from the old one. */
    say(idle, "GET /one HTTP/1.1\r\nHost: test\r\n\r\n");
    struct heard h = hear(idle);
    must_say(h.status == 200 && strcasecmp(field(h, "Connection"), "close") == 0 && !h.reset, "%s",
             h.text);
    /* Also one that has not asked for anything yet. */
    say(busy, "GET /one HTTP/1.1\r\nHost: test\r\n\r\n");
    h = hear(busy);
    must_say(h.status == 200 && strcasecmp(field(h, "Connection"), "close") == 0, "%s", h.text);
    server_stop(s);
}

TEST(work_goes_on_without_a_limit)
{
    struct server *s = things("--drain 0.1 --listen unix:sock");
    s->port = 0;
    int first = dial_unix("sock");
    say(first, "GET /make?path=%s&seconds=1.5 HTTP/1.1\r\nHost: x\r\n\r\n", at("first"));
    wait_made(s, at("first"));
    pid_t two = reload(s);
    int second = dial_unix("sock");
    say(second, "GET /make?path=%s&seconds=1 HTTP/1.1\r\nHost: x\r\n\r\n", at("second"));
    wait_made(s, at("second"));
    int gone = dial_unix("sock");
    say(gone, "GET /make?path=%s&seconds=60 HTTP/1.1\r\nHost: x\r\n\r\n", at("gone"));
    wait_made(s, at("gone"));
    log_mark(s);
    kill(s->pid, SIGHUP);
    pid_t three = (pid_t)atoi(strstr(log_wait(s, " - reload: process "), "process ") + 8);
    log_wait(s, " - handed over to the new server: 2 in flight");
    must(parent_of(two) == s->pid && parent_of(three) == s->pid);
    /* Each undoes what is its own. */
    close_fin(gone);
    log_wait(s, " hangup undo=ok");
    must(!exists(at("gone")));
    must(hear_answer(first, false).status == 200 && hear_answer(second, false).status == 200);
    close_fin(first);
    close_fin(second);
    wait_until(!is_alive(two));
    must(exists(at("first")) && exists(at("second")) && exists(at("sock")));
    must(is_alive(s->pid) && is_alive(three));
    /* The old directories go at once, not when the process ends. */
    wait_until(run("find %s -name lock", at("state")).length > 0 &&
               !strchr(strchr(run("find %s -name lock", at("state")).text, '\n') + 1, '\n'));
    server_stop(s);
    must(!exists(at("sock")));
}

TEST(one_that_cannot_start_is_told)
{
    file_write(at("routes"), "/one=@who\n");
    struct server *s = things("--routes %s", at("routes"));
    int kept = get(s, "/one");
    must(hear_answer(kept, false).status == 200);
    file_write(at("routes"), "/one=@nobody\n");
    kill(s->pid, SIGHUP);
    log_wait(s, "@nobody");
    log_wait(s, "could not start: exit status 2; this one goes on");
    must(status_of(s, "/one") == 200);
    say(kept, "GET /one HTTP/1.1\r\nHost: test\r\n\r\n");
    struct heard h = hear_answer(kept, false);
    must_say(h.status == 200 && !*field(h, "Connection"), "%s", h.text);
    file_write(at("routes"), "/two=@who\n");
    reload(s);
    must(status_of(s, "/two") == 200);
    server_stop(s);
}

/* ---- Ends ---------------------------------------------------------------------------------- */

THEME("ends");

TEST_TIMES(signal_is_passed_on, 2)
{
    struct server *s = things("--drain 600");
    int old = get(s, "/make?path=%s&seconds=60", at("old"));
    wait_made(s, at("old"));
    pid_t next = reload(s);
    int young = get(s, "/make?path=%s&seconds=60", at("young"));
    wait_made(s, at("young"));
    if (_i == 1) { /* to all of them, as some supervisors do: that is not twice */
        kill(next, SIGTERM);
        kill(s->pid, SIGTERM);
        kill(next, SIGTERM);
    } else {
        kill(s->pid, SIGTERM);
    }
    wait_until(log_count(s, "stopping: 1 in flight, which may take") == 2);
    must(curl(s, "/who").status == 7 && exists(at("old")) && exists(at("young")));
    kill(s->pid, SIGINT);
    must(hear(old).status == 503 && hear(young).status == 503);
    must(server_wait(s) == 0 && !exists(at("old")) && !exists(at("young")));
}

TEST(status_of_the_new_one_is_passed_on)
{
    struct server *s = things("--listen unix:sock --listen 127.0.0.1:0");
    pid_t next = reload(s);
    kill(next, SIGKILL);
    wait_until(!is_alive(s->pid));
    int status;
    must(waitpid(s->pid, &status, 0) == s->pid && WIFEXITED(status));
    must_say(WEXITSTATUS(status) == 128 + SIGKILL, "%d", WEXITSTATUS(status));
    s->ended = true;
    must(!exists(at("sock")));
    s = things("--listen unix:sock"); /* which recovers what the killed one has left */
    wait_until(run("ls %s", at("state")).length == 17);
    server_stop(s);
}

TEST(death_of_the_started_one_ends_the_new_one)
{
    struct server *s = things("--listen unix:sock --listen 127.0.0.1:0");
    int c = dial_unix("sock");
    pid_t next = reload(s);
    int young = dial_unix("sock");
    say(young, "GET /make?path=%s&seconds=0.5 HTTP/1.1\r\nHost: x\r\n\r\n", at("young"));
    wait_made(s, at("young"));
    server_kill(s, SIGKILL);
    must(hear_answer(young, false).status == 200);
    close_fin(young);
    close_fin(c);
    wait_until(!is_alive(next));
    must(exists(at("young")));
    s = things("--listen unix:sock");
    wait_until(run("ls %s", at("state")).length == 17);
    server_stop(s);
}

/* The new one is asked to end while it is starting, and is no one's leftover afterwards. */
TEST(stop_while_one_is_starting)
{
    must(mkfifo(at("routes"), 0600) == 0);
    pid_t writer = start_shell("echo '/one=@who' >routes");
    struct server *s = things("--routes %s", at("routes"));
    wait_status(writer);
    kill(s->pid, SIGHUP); /* it waits for the fifo's writer */
    log_wait(s, " - reload: process ");
    must(status_of(s, "/one") == 200);
    server_stop(s);
}

/* While a janitor of the old one hunts for what a request has left, the new one is no leftover. */
TEST(new_one_is_no_leftover)
{
    struct server *s = things("%s", "");
    (void)get(s, "/make?path=%s&seconds=60", at("file"));
    pid_t child = wait_made(s, at("file"));
    pid_t next = reload(s);
    must(kill_child(s->pid, child));
    log_wait(s, " killed undo=ok");
    must(is_alive(next) && !exists(at("file")) && status_of(s, "/who") == 200);
    server_stop(s);
}

/* A new one whose old one has died before it could be asked for must not serve: nobody knows it. */
TEST(new_one_without_an_old_one)
{
    setenv("HANGUPD_HANDOVER", "1 3 4 5 /nowhere", 1);
    struct output o = run("%s --state %s --listen 127.0.0.1:0", the_things(), at("state"));
    must_say(o.status == 1 && strstr(o.text, "the old server has gone"), "%d: %s", o.status,
             o.text);
    must(!exists(at("state")));
}

TEST(terminal_that_hangs_up)
{
    int master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (master < 0 || grantpt(master) < 0 || unlockpt(master) < 0) {
        test_skipped("terminal_that_hangs_up", "no terminals here");
        return;
    }
    char command[8192];
    snprintf(command, sizeof(command),
             "exec setsid -c -w %s --state %s --listen 127.0.0.1:0 <%s >log 2>&1", the_things(),
             at("state"), ptsname(master));
    pid_t pid = start_shell(command);
    wait_until(strstr(file_read(at("log")), "listening on"));
    close(master);
    must(wait_status(pid) == 0);
    must(strstr(file_read(at("log")), " - stopping\n"));
    must(!strstr(file_read(at("log")), "reload"));
    wait_no_process();
    nothing_left();
}

/* As another user the new one has nothing of root's, and needs nothing of it. */
TEST(user_stays_the_user)
{
    struct stat st;
    if (only_for_root("user_stays_the_user"))
        return;
    copy_program(at("server"));
    must(chmod(at("server"), 0755) == 0);
    struct server *s = server_start(at("server"), "--user nobody --listen 127.0.0.1:0 --listen "
                                                  "unix:sock --socket-mode 0660");
    must(lstat(at("sock"), &st) == 0);
    for (int round = 0; round < 2; round++) {
        pid_t next = reload(s);
        char path[64], uid[64];
        snprintf(path, sizeof(path), "/proc/%d/status", (int)next);
        snprintf(uid, sizeof(uid), "\nUid:\t%u\t%u\t", st.st_uid, st.st_uid);
        must_say(strstr(file_read(path), uid), "%s", file_read(path));
        int c = get(s, "/make?path=%s&seconds=60", at("tmp/file"));
        wait_made(s, at("tmp/file"));
        close_fin(c);
        log_wait(s, " hangup undo=ok");
    }
    server_stop(s);
    must(!exists(at("sock")));
}

/* It is for the process that was started, whoever else gets it. */
TEST(hangup_of_all)
{
    struct server *s = things("%s", "");
    pid_t next = reload(s);
    log_mark(s);
    kill(next, SIGHUP);
    log_wait(s, " - SIGHUP is for process %d", (int)s->pid);
    must(is_alive(next) && status_of(s, "/who") == 200);
    server_stop(s);
}

/* ---- Counted together ------------------------------------------------------------------------ */

THEME("limits");

static void must_wait(struct server *s, bool queued)
{
    must(mkdir(at("crowd"), 0755) == 0);
    int old = get(s, "/crowd?in=%s&seconds=60", at("crowd"));
    wait_until(exists(at("crowd.1")));
    reload(s);
    int young = get(s, "/crowd?in=%s", at("crowd"));
    if (queued)
        wait_until(strstr(run("%s status --state %s", the_hangupd(), at("state")).text,
                          "0 of 1 requests in flight, 1 queued"));
    else
        wait_until(strstr(run("%s status --state %s", the_hangupd(), at("state")).text, "waiting"));
    must(is_quiet(young));
    close_fin(old);
    must(hear_answer(young, false).status == 200);
    must_say(!exists(at("crowd.2")), "there were two");
    server_stop(s);
}

TEST(requests_are_counted_together)
{
    must_wait(things("--requests 1"), true);
}

TEST(max_counts_both)
{
    must_wait(things("/crowd=@crowd,max=1"), false);
}

/* Fewer than before: the old one's count as long as they are there. */
TEST(max_that_got_less)
{
    file_write(at("routes"), "/crowd=@crowd,max=3\n");
    must(mkdir(at("crowd"), 0755) == 0);
    struct server *s = things("--routes %s", at("routes"));
    int a = get(s, "/crowd?in=%s&seconds=0.5", at("crowd"));
    wait_until(exists(at("crowd.1")));
    int b = get(s, "/crowd?in=%s&seconds=1.5", at("crowd"));
    wait_until(exists(at("crowd.2")));
    file_write(at("routes"), "/crowd=@crowd,max=2\n");
    reload(s);
    int c = get(s, "/crowd?in=%s&seconds=1.5", at("crowd"));
    int d = get(s, "/crowd?in=%s&seconds=0", at("crowd"));
    must(hear_answer(a, false).status == 200);
    must(hear_answer(b, false).status == 200 && hear_answer(c, false).status == 200);
    must(hear_answer(d, false).status == 200);
    must_say(!exists(at("crowd.3")), "there were three");
    server_stop(s);
}

/* ---- Callers who come all the time --------------------------------------------------------- */

THEME("callers");

enum { ON_TCP, ON_UNIX, INHERITED, OF_INETD, AS_PID_1, PLACES_OF_CALL };

struct caller {
    unsigned port; /* 0: the socket "sock" */
    bool keep;
    const char *target;
};

static int call_connect(const struct caller *k)
{
    struct sockaddr_un file = {.sun_family = AF_UNIX, .sun_path = "sock"};
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
                                  .sin_port = htons((uint16_t)k->port)};
    int fd = socket(k->port ? AF_INET : AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connect(fd, k->port ? (struct sockaddr *)&address : (struct sockaddr *)&file,
                k->port ? sizeof(address) : sizeof(file)) == 0)
        return fd;
    close(fd);
    return -1;
}

/* One request on FD: NULL, or what was wrong. *CLOSES: the server is going to close it. */
static const char *call_once(int fd, const struct caller *k, bool *closes)
{
    static char text[8192];
    int n = snprintf(text, sizeof(text), "GET %s HTTP/1.1\r\nHost: x\r\n%s\r\n", k->target,
                     k->keep ? "" : "Connection: close\r\n");
    if (send(fd, text, (size_t)n, MSG_NOSIGNAL) != n)
        return "the request could not be sent";
    size_t have = 0;
    for (;;) {
        ssize_t got = read(fd, text + have, sizeof(text) - 1 - have);
        if (got <= 0)
            return have ? "the answer was cut" : got == 0 ? "no answer, but an end" : "a reset";
        have += (size_t)got;
        text[have] = '\0';
        const char *body = strstr(text, "\r\n\r\n"), *length = strstr(text, "Content-Length: ");
        if (body && length && have >= (size_t)(body + 4 - text) + strtoul(length + 16, NULL, 10))
            break;
    }
    *closes = strstr(text, "Connection: close") != NULL;
    return strncmp(text, "HTTP/1.1 200 ", 13) == 0 ? NULL : text;
}

/* Call until the file "stop" is there. */
static pid_t start_caller(const struct caller *k)
{
    pid_t parent = getpid(), pid = fork();
    if (pid != 0)
        return pid;
    become_ordinary(parent);
    const char *wrong = NULL;
    while (!wrong && access("stop", F_OK) < 0) {
        bool closes = false;
        int fd = call_connect(k);
        if (fd < 0)
            wrong = "refused";
        while (!wrong && !closes && access("stop", F_OK) < 0)
            wrong = call_once(fd, k, &closes);
        close(fd);
    }
    if (wrong)
        file_write("wrong", wrong);
    _exit(wrong ? 1 : 0);
}

static struct server *start_for_callers(int place, unsigned *port)
{
    static const char options[] = "--routes routes --requests 8";
    char words[8192];
    int fd = -1;
    *port = 0;
    copy_program(at("server"));
    snprintf(words, sizeof(words), "%s%s", options,
             place == INHERITED  ? ""
             : place == OF_INETD ? " --inetd --log-to stderr"
             : place == ON_UNIX  ? " --listen unix:sock"
                                 : " --listen 127.0.0.1:0");
    if (place == INHERITED || place == OF_INETD)
        fd = listening_socket(port);
    if (place == AS_PID_1) { /* with a /proc of its own, as in a container */
        file_write(at("first"),
                   "#!/bin/sh\nexec unshare -p -f -m sh -c 'mount -t proc proc /proc && "
                   "exec ./server \"$@\"' sh \"$@\"\n");
        must(chmod(at("first"), 0700) == 0);
    }
    struct server *s =
        server_spawn(at(place == AS_PID_1 ? "first" : "server"), words, place == OF_INETD ? fd : -1,
                     false, place == INHERITED ? fd : -1);
    const char *line = log_wait(s, "listening on ");
    if (place != ON_UNIX)
        *port = (unsigned)atoi(strrchr(line, ':') + 1);
    if (fd >= 0)
        close(fd);
    return s;
}

/* Twenty reloads, in whose midst the program is replaced and the routes are wrong once. */
TEST_TIMES(nobody_is_refused, PLACES_OF_CALL)
{
    unsigned port;
    char target[4096];
    pid_t pids[6];
    if (_i == AS_PID_1 && only_for_root("nobody_is_refused as pid 1"))
        return;
    must(mkdir(at("crowd"), 0755) == 0);
    file_write(at("routes"), "/who=@who\n/crowd=@crowd,max=1\n");
    struct server *s = start_for_callers(_i, &port);
    pid_t started = _i == AS_PID_1 ? only_child(s->pid) : s->pid;
    char path[64];
    snprintf(path, sizeof(path), "/proc/%d/status", (int)started);
    must(_i != AS_PID_1 || strstr(file_read(path), "\t1\nNSpgid"));
    snprintf(target, sizeof(target), "/crowd?in=%s&seconds=0.004", at("crowd"));
    struct caller callers[] = {
        {port, true, "/who"}, {port, false, "/who"}, {port, true, target}, {port, false, target}};
    for (int i = 0; i < 6; i++)
        pids[i] = start_caller(&callers[i % 4]);
    for (int round = 0; round < 20; round++) {
        if (round == 7) {
            file_write(at("routes"), "/who=@who,max=no\n");
            log_mark(s);
            kill(started, SIGHUP);
            log_wait(s, "could not start: exit status 2");
            file_write(at("routes"), "/who=@who\n/crowd=@crowd,max=1\n");
        }
        if (round == 11)
            copy_program(at("server"));
        log_mark(s);
        kill(started, SIGHUP);
        log_wait(s, "- handed over to the new server");
        must_say(!exists(at("wrong")), "round %d: %s", round, file_read(at("wrong")));
    }
    file_write(at("stop"), "");
    for (int i = 0; i < 6; i++)
        must_say(wait_status(pids[i]) == 0, "%s", file_read(at("wrong")));
    must_say(!exists(at("crowd.2")), "two at once, of max=1");
    s->mark = 0;
    must_say(!strstr(s->text, "undo=ok") && !strstr(s->text, "undo=failed") &&
                 !strstr(s->text, " hangup "),
             "an undo that was not due");
    kill(started, SIGTERM);
    must(server_wait(s) == 0);
    must(_i != ON_UNIX || !exists(at("sock")));
}
