/* check_server.c: the system tests. They start the real server and speak to it through real
 * sockets and real curl; a test's name says what must hold. */
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pwd.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness.h"

/* The ways to hang up. */
enum { BY_FIN, BY_RST, WAYS };

static void hang_up(int fd, int way)
{
    if (way == BY_RST)
        close_rst(fd);
    else
        close_fin(fd);
}

/* ---- The demonstration --------------------------------------------------------------------- */

START_TEST(transcript)
{
    struct server *s = hangupd("%s", "");
    const char *file = at("tmp/txt");
    struct output o = curl(s, "/a?seconds=0.2");
    must_say(o.status == 0 && strcmp(o.text, "File persisted.\n") == 0, "%d: %s", o.status, o.text);
    must(strcmp(file_read(file), "hello\n") == 0);
    must(log_has(s, "new file %s", file));
    log_wait(s, "\"GET /a?seconds=0.2 HTTP/1.1\" 200 16 ");

    log_mark(s);
    pid_t pid = curl_start(s, "/a?seconds=60");
    log_wait(s, "new file %s", file);
    must(strcmp(file_read(file), "hello\n") == 0);
    kill(pid, SIGINT);
    waitpid(pid, NULL, 0);
    log_wait(s, "The client closed the connection prematurely. Cleaning up.");
    log_wait(s, " hangup undo=ok");
    must(!exists(file));
    server_stop(s);
}
END_TEST

START_TEST(demonstration_takes_four_seconds)
{
    struct server *s = hangupd("%s", "");
    int64_t start = now_ms();
    struct output o = curl(s, "/a");
    must_say(o.status == 0 && now_ms() - start >= 4000, "%d: %s", o.status, o.text);
    must(unlink(at("tmp/txt")) == 0);
    server_stop(s);
}
END_TEST

START_TEST(demonstration_for_two_callers)
{
    struct server *s = hangupd("%s", "");
    int first = get(s, "/a?seconds=60");
    log_wait(s, "new file");
    log_mark(s);
    int second = get(s, "/a?seconds=60");
    log_wait(s, "new file");
    close_fin(first);
    log_wait(s, " hangup undo=ok");
    must_say(strcmp(file_read(at("tmp/txt")), "hello\n") == 0, "the second caller's file is gone");
    log_mark(s);
    close_fin(second);
    log_wait(s, " hangup undo=ok");
    must(!exists(at("tmp/txt")));
    server_stop(s);
}
END_TEST

START_TEST(demonstration_refuses_odd_seconds)
{
    struct server *s = hangupd("%s", "");
    static const char *const odd[] = {"61", "-1", "x", "1e9", "nan", ""};
    for (size_t i = 0; i < sizeof(odd) / sizeof(odd[0]); i++) {
        struct heard h = hear_answer(get(s, "/a?seconds=%s", odd[i]), false);
        must_say(h.status == 400, "seconds=%s: %s", odd[i], h.text);
    }
    must(!exists(at("tmp/txt")));
    server_stop(s);
}
END_TEST

/* ---- Hangup -------------------------------------------------------------------------------- */

START_TEST(hangup_removes_the_file)
{
    struct server *s = things("%s", "");
    const char *file = at("file");
    int c = get(s, "/make?path=%s&seconds=60", file);
    pid_t pid = wait_made(s, file);
    must(exists(file));
    hang_up(c, _i);
    log_wait(s, " hangup undo=ok");
    must(!exists(file) && !is_alive(pid));
    server_stop(s);
}
END_TEST

START_TEST(hangup_removes_the_tree_and_the_scratch)
{
    struct server *s = things("%s", "");
    const char *tree = at("tree");
    int c = get(s, "/tree?path=%s&seconds=60", tree);
    wait_made(s, tree);
    must(exists(at("tree/below/two")) && !is_empty(at("tmp")));
    hang_up(c, _i);
    log_wait(s, " hangup undo=ok");
    must(!exists(tree) && is_empty(at("tmp")));
    server_stop(s);
}
END_TEST

START_TEST(answer_keeps_the_tree_but_not_the_scratch)
{
    struct server *s = things("%s", "");
    struct output o = curl(s, "-f /tree?path=%s", at("tree"));
    must_say(o.status == 0 && o.text[0] == '/', "%s", o.text);
    log_wait(s, " ok undo=none");
    must(exists(at("tree/one")) && exists(at("tree/below/two")));
    o.text[strcspn(o.text, "\n")] = '\0';
    must_say(!exists(o.text) && is_empty(at("tmp")), "%s", o.text);
    server_stop(s);
}
END_TEST

START_TEST(hangup_removes_what_was_recorded)
{
    struct server *s = things("%s", "");
    const char *file = at("file");
    int c = get(s, "/byhand?path=%s&seconds=60", file);
    wait_made(s, file);
    hang_up(c, _i);
    log_wait(s, " hangup undo=ok");
    must(!exists(file));
    server_stop(s);
}
END_TEST

START_TEST(hangup_keeps_what_was_committed)
{
    struct server *s = things("%s", "");
    int c = get(s, "/commit?first=%s&second=%s&seconds=60", at("first"), at("second"));
    wait_made(s, at("second"));
    hang_up(c, _i);
    log_wait(s, " hangup undo=ok");
    must(exists(at("first")) && !exists(at("second")));
    server_stop(s);
}
END_TEST

START_TEST(hangup_with_nothing_made)
{
    struct server *s = hangupd("/a=@a");
    int c = dial(s);
    say(c, "GET /a HTTP/1.1\r\nHost: te");
    only_child(s->pid);
    wait_read(s, c);
    hang_up(c, _i);
    log_wait(s, " hangup undo=none");
    must(!exists(at("tmp/txt")));
    server_stop(s);
}
END_TEST

START_TEST(hangup_behind_pipelined_bytes)
{
    struct server *s = things("%s", "");
    const char *file = at("file");
    int c = get(s, "/make?path=%s&seconds=60", file);
    wait_made(s, file);
    say(c, "GET /make?path=%s HTTP/1.1\r\nHost: test\r\n\r\n", at("second"));
    hang_up(c, _i);
    log_wait(s, " hangup undo=ok");
    must(!exists(file));
    server_stop(s);
    must_say(!log_has(s, "made %s", at("second")), "a request was begun for a client that left");
}
END_TEST

START_TEST(hangup_behind_an_ignored_body)
{
    struct server *s = things("%s", "");
    const char *file = at("file");
    static char body[3000000];
    memset(body, 'x', sizeof(body));
    int c = dial(s);
    say(c,
        "POST /ignore-body?path=%s&seconds=60 HTTP/1.1\r\nHost: test\r\nContent-Length: "
        "%zu\r\n\r\n",
        file, sizeof(body));
    say_bytes(c, body, sizeof(body));
    wait_made(s, file);
    hang_up(c, _i);
    log_wait(s, " hangup undo=ok");
    must(!exists(file));
    server_stop(s);
}
END_TEST

START_TEST(hangup_inside_the_body_starts_no_work)
{
    struct server *s = things("%s", "");
    int c = dial(s);
    say(c, "POST /ignore-body?path=%s HTTP/1.1\r\nHost: test\r\nContent-Length: 10\r\n\r\nhalf",
        at("file"));
    only_child(s->pid);
    wait_read(s, c);
    hang_up(c, _i);
    log_wait(s, " hangup undo=none");
    must(!exists(at("file")) && !log_has(s, "made"));
    server_stop(s);
}
END_TEST

START_TEST(hangup_in_the_packet_of_the_request)
{
    struct server *s = things("%s", "");
    const char *file = at("file");
    int c = dial(s), on = 1;
    /* Corked, the request waits for the FIN and goes with it. */
    setsockopt(c, IPPROTO_TCP, TCP_NODELAY, &(int){0}, sizeof(int));
    setsockopt(c, IPPROTO_TCP, TCP_CORK, &on, sizeof(on));
    say(c, "GET /make?path=%s&seconds=60 HTTP/1.1\r\nHost: test\r\n\r\n", file);
    close_fin(c);
    log_wait(s, " hangup undo=");
    must(!exists(file));
    server_stop(s);
}
END_TEST

START_TEST(hangup_touches_no_neighbour)
{
    struct server *s = things("%s", "");
    int c[5];
    for (int i = 0; i < 5; i++) {
        c[i] = get(s, "/make?path=%s&seconds=%s", at("f%d", i), i % 2 ? "60" : "0.5");
        wait_made(s, at("f%d", i));
    }
    hang_up(c[1], _i);
    hang_up(c[3], _i);
    wait_until(log_count(s, " hangup undo=ok") == 2);
    for (int i = 0; i < 5; i += 2)
        must(hear_answer(c[i], false).status == 200);
    wait_until(log_count(s, " ok undo=none") == 3);
    for (int i = 0; i < 5; i++)
        must(exists(at("f%d", i)) == (i % 2 == 0));
    server_stop(s);
}
END_TEST

START_TEST(hangup_when_a_neighbour_holds_no_socket)
{
    /* A child that held another client's socket would keep that client's connection open. */
    struct server *s = things("%s", "");
    int first = dial(s);
    say(first, "GET /make?path=%s&seconds=0.2 HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n",
        at("first"));
    wait_made(s, at("first"));
    int second = get(s, "/make?path=%s&seconds=60", at("second"));
    wait_made(s, at("second"));
    struct heard h = hear(first);
    must(h.status == 200 && !h.reset);
    must(exists(at("second")));
    hang_up(second, _i);
    log_wait(s, " hangup undo=ok");
    server_stop(s);
}
END_TEST

/* How many sockets PID has open; the last one's inode number in *INODE. */
static unsigned sockets_of(pid_t pid, unsigned long *inode)
{
    unsigned count = 0;
    for (int fd = 0; fd < 1024; fd++) {
        char path[64], target[64];
        snprintf(path, sizeof(path), "/proc/%d/fd/%d", (int)pid, fd);
        ssize_t n = readlink(path, target, sizeof(target) - 1);
        target[n > 0 ? n : 0] = '\0';
        if (strncmp(target, "socket:[", 8) == 0) {
            *inode = strtoul(target + 8, NULL, 10);
            count++;
        }
    }
    return count;
}

/* Make clone3(2) unknown to what is started from here on, as sandboxes do. */
static bool forbid_clone3(void)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_clone3, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {.len = sizeof(code) / sizeof(code[0]), .filter = code};
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
           prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

/* With many connections open a child gets its own under another number than the parent has; or,
 * where a sandbox does not allow that, a copy of all, which it closes. */
START_TEST(child_has_its_own_connection_alone)
{
    enum { IDLE = 80, BUSY = 40 };
    if (_i == WAYS && !forbid_clone3()) {
        test_skipped("child_has_its_own_connection_alone", "no seccomp");
        return;
    }
    struct server *s = things("--idle-timeout 600");
    int idle[IDLE], busy[BUSY];
    unsigned long inodes[BUSY], inode;
    for (int i = 0; i < IDLE; i++)
        idle[i] = dial(s);
    wait_seen(s);
    for (int i = 0; i < BUSY; i++) {
        busy[i] = get(s, "/make?path=%s&seconds=60", at("f%d", i));
        must(sockets_of(wait_made(s, at("f%d", i)), &inodes[i]) == 1);
        for (int k = 0; k < i; k++)
            must(inodes[k] != inodes[i]);
    }
    for (int i = 0; i < BUSY; i++)
        hang_up(busy[i], _i % WAYS);
    wait_until(log_count(s, " hangup undo=ok") == BUSY);
    wait_until(sockets_of(s->pid, &inode) == IDLE + 1);
    for (int i = 0; i < IDLE; i++) {
        say(idle[i],
            "GET /who HTTP/1.1\r\nHost: test\r\n\r\nGET /who HTTP/1.1\r\nHost: test\r\n\r\n");
        must(hear_answer(idle[i], false).status == 200 &&
             hear_answer(idle[i], false).status == 200);
        close(idle[i]);
    }
    wait_until(sockets_of(s->pid, &inode) == 1);
    server_stop(s);
}
END_TEST

/* The kernel tells of each child's end by a signal of its own, and drops it when none may wait. */
START_TEST(end_of_a_child_is_noticed_without_a_signal)
{
    struct server *s = things("%s", "");
    struct rlimit none = {0};
    must(prlimit(s->pid, RLIMIT_SIGPENDING, &none, NULL) == 0);
    int c = dial(s);
    for (int i = 0; i < 2; i++) {
        say(c, "GET /who HTTP/1.1\r\nHost: test\r\n\r\n");
        must(hear_answer(c, false).status == 200);
    }
    int hanging = get(s, "/make?path=%s&seconds=60", at("file"));
    wait_made(s, at("file"));
    hang_up(hanging, BY_FIN);
    log_wait(s, " hangup undo=ok");
    must(!exists(at("file")));
    server_stop(s);
}
END_TEST

START_TEST(finish_goes_on_after_a_hangup)
{
    struct server *s = things("%s", "");
    int c = get(s, "/finish?path=%s&seconds=0.3", at("file"));
    pid_t pid = wait_made(s, at("file"));
    hang_up(c, _i);
    log_wait(s, "\"GET /finish");
    must(exists(at("file")) && !is_alive(pid));
    server_stop(s);

    s = things("--on-hangup finish");
    c = get(s, "/make?path=%s&seconds=0.3", at("other"));
    wait_made(s, at("other"));
    hang_up(c, _i);
    log_wait(s, "\"GET /make");
    must(exists(at("other")));
    server_stop(s);
}
END_TEST

/* ---- Half-close ---------------------------------------------------------------------------- */

static const char continued[] = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n";

START_TEST(probe_answers_a_half_closed_client)
{
    struct server *s = things("%s", "");
    int c = get(s, "/make?path=%s&seconds=0.3", at("file"));
    if (_i) /* else the FIN comes while the request is read */
        wait_made(s, at("file"));
    shutdown(c, SHUT_WR);
    struct heard h = hear(c);
    must_say(strncmp(h.text, continued, strlen(continued)) == 0 && !h.reset, "%s", h.text);
    must_say(strcmp(h.text + h.length - 5, "made\n") == 0, "%s", h.text);
    log_wait(s, " ok undo=none");
    must(exists(at("file")));
    server_stop(s);
}
END_TEST

START_TEST(probe_comes_once)
{
    struct server *s = things("%s", "");
    int c = get(s, "/make?path=%s&seconds=0.5", at("file"));
    shutdown(c, SHUT_WR);
    struct heard h = hear(c);
    must_say(h.status == 200 && !strstr(h.text + 20, "100 Continue"), "%s", h.text);
    server_stop(s);
}
END_TEST

START_TEST(no_probe_without_a_fin)
{
    struct server *s = things("%s", "");
    int c = get(s, "/make?path=%s&seconds=0.3", at("file"));
    struct heard h = hear_answer(c, false);
    must_say(strncmp(h.text, "HTTP/1.1 200", 12) == 0, "%s", h.text);
    server_stop(s);
}
END_TEST

START_TEST(fin_of_http10_is_a_hangup)
{
    struct server *s = things("%s", "");
    int c = dial(s);
    say(c, "GET /make?path=%s&seconds=60 HTTP/1.0\r\n\r\n", at("file"));
    if (_i)
        wait_made(s, at("file"));
    shutdown(c, SHUT_WR);
    log_wait(s, " hangup undo=");
    must(!exists(at("file")));
    struct heard h = hear(c);
    must_say(h.length == 0, "%s", h.text);
    server_stop(s);
}
END_TEST

static const char *const hangup_policy[] = {"--half-close hangup /make=@make",
                                            "/make=@make,half-close=hangup", ""};

START_TEST(hangup_policy_takes_a_half_close_for_a_hangup)
{
    struct server *s = things("%s", hangup_policy[_i]);
    int c = get(s, "%s?path=%s&seconds=60", _i == 2 ? "/strict" : "/make", at("file"));
    wait_made(s, at("file"));
    shutdown(c, SHUT_WR);
    log_wait(s, " hangup undo=ok");
    must(!exists(at("file")));
    struct heard h = hear(c);
    must_say(!strstr(h.text, "HTTP/1.1 100"), "%s", h.text);
    server_stop(s);
}
END_TEST

START_TEST(hangup_policy_when_closed)
{
    struct server *s = things("--half-close hangup");
    int c = get(s, "/make?path=%s&seconds=60", at("file"));
    wait_made(s, at("file"));
    close_fin(c);
    log_wait(s, " hangup undo=ok");
    must(!exists(at("file")));
    server_stop(s);
}
END_TEST

START_TEST(ignore_policy_answers_a_half_closed_client)
{
    struct server *s = things("--half-close ignore");
    int c = dial(s);
    say(c, "GET /make?path=%s&seconds=0.3 HTTP/1.%d\r\nHost: test\r\n\r\n", at("file"), _i);
    shutdown(c, SHUT_WR);
    struct heard h = hear(c);
    must_say(h.status == 200 && strncmp(h.text, "HTTP/1.1 200", 12) == 0, "%s", h.text);
    log_wait(s, " ok undo=none");
    must(exists(at("file")));
    server_stop(s);
}
END_TEST

START_TEST(ignore_policy_undoes_for_a_closed_client_at_the_end)
{
    struct server *s = things("--half-close ignore");
    int c = get(s, "/make?path=%s&seconds=0.4", at("file"));
    pid_t pid = wait_made(s, at("file"));
    close_fin(c);
    must(is_alive(pid) && exists(at("file")));
    log_wait(s, " hangup undo=ok");
    must(!exists(at("file")));
    server_stop(s);
}
END_TEST

START_TEST(ignore_policy_takes_a_reset)
{
    struct server *s = things("--half-close ignore");
    int c = get(s, "/make?path=%s&seconds=60", at("file"));
    wait_made(s, at("file"));
    close_rst(c);
    log_wait(s, " hangup undo=ok");
    must(!exists(at("file")));
    server_stop(s);
}
END_TEST

/* ---- In the queue -------------------------------------------------------------------------- */

static const struct {
    const char *options;
    int way;
    bool at_once; /* seen while it waits, not only when its turn comes */
} queued_ways[] = {
    {"--requests 1", BY_RST, true},
    {"--requests 1 --half-close hangup", BY_FIN, true},
    {"--requests 1", BY_FIN, false},
};

START_TEST(hangup_in_the_queue)
{
    struct server *s = things("%s", queued_ways[_i].options);
    int first = get(s, "/make?path=%s&seconds=60", at("first"));
    wait_made(s, at("first"));
    int second = get(s, "/make?path=%s&seconds=60", at("second"));
    int third = get(s, "/make?path=%s", at("third"));
    wait_seen(s);
    hang_up(second, queued_ways[_i].way);
    if (queued_ways[_i].at_once)
        log_wait(s, " hangup undo=none");
    close_fin(first);
    must(hear_answer(third, false).status == 200);
    wait_until(log_count(s, " hangup undo=") == 2);
    must(!exists(at("first")) && !exists(at("second")) && exists(at("third")));
    if (queued_ways[_i].at_once)
        must_say(!log_has(s, "made %s", at("second")), "work was begun for a client that left");
    server_stop(s);
}
END_TEST

START_TEST(queue_is_served_in_order)
{
    struct server *s = things("--requests 1");
    int c[4];
    for (int i = 0; i < 4; i++) {
        c[i] = get(s, "/make?path=%s&seconds=0.1", at("f%d", i));
        if (i == 0)
            wait_made(s, at("f0"));
    }
    for (int i = 0; i < 4; i++) {
        must(hear_answer(c[i], false).status == 200);
        /* Nobody is served before the one in front has had its answer. */
        for (int later = i + 2; later < 4; later++)
            must(!log_has(s, "made %s", at("f%d", later)));
    }
    server_stop(s);
}
END_TEST

START_TEST(queue_timeout_is_503)
{
    struct server *s = things("--requests 1 --queue-timeout 0.3");
    int first = get(s, "/make?path=%s&seconds=60", at("first"));
    wait_made(s, at("first"));
    int second = get(s, "/make?path=%s", at("second"));
    struct heard h = hear(second);
    must_say(h.status == 503 && atoi(field(h, "Retry-After")) > 0 && !h.reset, "%s", h.text);
    log_wait(s, " \"-\" 503 %s ", field(h, "Content-Length"));
    must(exists(at("first")) && !exists(at("second")));
    close_fin(first);
    log_wait(s, " hangup undo=ok");
    server_stop(s);
}
END_TEST

START_TEST(one_address_has_a_limit)
{
    struct server *s = things("--per-client 1");
    int first = get(s, "/make?path=%s&seconds=60", at("first"));
    wait_made(s, at("first"));
    int second = get(s, "/make?path=%s", at("second"));
    int other = dial_from(s, "127.0.0.2");
    say(other, "GET /make?path=%s HTTP/1.1\r\nHost: test\r\n\r\n", at("other"));
    must(hear_answer(other, false).status == 200);
    must(is_quiet(second) && !exists(at("second")));
    close_fin(first);
    must(hear_answer(second, false).status == 200);
    server_stop(s);
}
END_TEST

START_TEST(incomplete_head_gives_way)
{
    struct server *s = things("--requests 1");
    int slow = dial(s);
    say(slow, "GET /make?path=");
    only_child(s->pid);
    must(hear_answer(get(s, "/make?path=%s", at("file")), false).status == 200);
    struct heard h = hear(slow);
    must_say(h.status == 408, "%s", h.text);
    log_wait(s, " 408 ");
    must(exists(at("file")));
    server_stop(s);
}
END_TEST

/* Wait until a ledger says that the answer is on its way. */
static void wait_sent(void)
{
    wait_until(run("grep -rlE ^sent %s", at("state")).status == 0);
}

/* How many bytes wait at the server for its client's PORT to be sent or acknowledged, see proc(5).
 * Ports of others, and of connections that have ended, are there, too. */
static unsigned long waiting_for(const struct server *s, unsigned port)
{
    char line[512];
    unsigned local, remote, state;
    unsigned long waits = 0, n;
    FILE *f = fopen("/proc/net/tcp", "r");
    must(f);
    while (fgets(line, sizeof(line), f))
        if (sscanf(line, " %*d: %*8x:%4x %*8x:%4x %2x %8lx:", &local, &remote, &state, &n) == 4 &&
            local == s->port && remote == port && state == TCP_ESTABLISHED)
            waits = n;
    fclose(f);
    return waits;
}

/* Wait until BYTES have been sent to C, who does not read: they are with its kernel, or wait. */
static void wait_all_sent(const struct server *s, int c, unsigned long bytes)
{
    struct sockaddr_in own = {0};
    int there = 0;
    must(getsockname(c, (struct sockaddr *)&own, &(socklen_t){sizeof(own)}) == 0);
    wait_until(ioctl(c, FIONREAD, &there) == 0 &&
               waiting_for(s, ntohs(own.sin_port)) + (unsigned long)there >= bytes);
}

/* Who waits for the rest of a body has made nothing; of two, the one whose body comes stays. */
START_TEST(slow_body_gives_way)
{
    struct server *s = things("--requests 2 --queue-timeout 600");
    int slow = dial(s), other = dial(s);
    say(slow, "POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: 100\r\n\r\nx");
    say(other, "POST /echo HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n");
    wait_read(s, slow);
    wait_read(s, other);
    int c = get(s, "/who");
    static char chunk[4096];
    memset(chunk, 'x', sizeof(chunk));
    for (int64_t deadline = now_ms() + PATIENCE_MS; is_quiet(c); rest()) {
        must(now_ms() < deadline);
        say(other, "1000\r\n");
        say_bytes(other, chunk, sizeof(chunk));
        say(other, "\r\n");
    }
    must(hear_answer(c, false).status == 200);
    must(hear_answer(slow, false).status == 408);
    say(other, "0\r\n\r\n");
    must(hear_answer(other, false).status == 200);
    server_stop(s);
}
END_TEST

/* With and without an answer that is all on its way. */
START_TEST(slow_reader_gives_way)
{
    struct server *s = things("--requests 1 --queue-timeout 600 --send-timeout 3600");
    int slow = get(s, "/big?path=%s&bytes=%d", at("file"), _i == 0 ? 50000000 : 150000);
    wait_sent();
    must(hear_answer(get(s, "/who"), false).status == 200);
    log_wait(s, " error undo=ok");
    must(!exists(at("file")) && hear(slow).reset);
    server_stop(s);
}
END_TEST

START_TEST(complete_head_does_not_give_way)
{
    struct server *s = things("--requests 1");
    int first = dial(s);
    say(first, "POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: 4\r\n"
               "Expect: 100-continue\r\n\r\n");
    hear_until(first, "HTTP/1.1 100 Continue\r\n\r\n");
    int second = get(s, "/who");
    wait_seen(s);
    must(is_quiet(first) && is_quiet(second));
    say(first, "body");
    must(hear_answer(first, false).status == 200);
    must(hear_answer(second, false).status == 200);
    server_stop(s);
}
END_TEST

START_TEST(connection_limit_ends_the_oldest_idle_one)
{
    struct server *s = things("--connections 3");
    int busy = get(s, "/make?path=%s&seconds=60", at("file"));
    wait_made(s, at("file"));
    int oldest = dial(s);
    say(oldest, "GET /who HTTP/1.1\r\nHost: test\r\n\r\n");
    must(hear_answer(oldest, false).status == 200);
    wait_until(log_count(s, " ok undo=none") == 1);
    int second = dial(s);
    say(second, "GET /who HTTP/1.1\r\nHost: test\r\n\r\n");
    must(hear_answer(second, false).status == 200);
    wait_until(log_count(s, " ok undo=none") == 2);
    int newest = get(s, "/who");
    must(hear_answer(newest, false).status == 200);
    struct heard h = hear(oldest);
    must_say(h.length == 0, "%s", h.text);
    must(is_quiet(second) && is_quiet(busy) && exists(at("file")));
    close_fin(busy);
    log_wait(s, " hangup undo=ok");
    server_stop(s);
}
END_TEST

/* ---- Delivery ------------------------------------------------------------------------------ */

START_TEST(hangup_in_a_streamed_answer)
{
    struct server *s = things("%s", "");
    int c = get(s, "/%s?path=%s&chunks=100000&bytes=100&ms=5", _i < WAYS ? "stream" : "length",
                at("file"));
    hear_until(c, "sss");
    must(exists(at("file")));
    hang_up(c, _i % WAYS);
    log_wait(s, " hangup undo=ok");
    must(!exists(at("file")));
    server_stop(s);
}
END_TEST

START_TEST(hangup_before_the_end_of_a_big_answer)
{
    struct server *s = things("%s", "");
    int c = get(s, "/big?path=%s&bytes=50000000", at("file"));
    hear_until(c, "bbb");
    must(exists(at("file")));
    hang_up(c, _i);
    log_wait(s, " hangup undo=ok");
    must(!exists(at("file")));
    server_stop(s);
}
END_TEST

START_TEST(client_that_does_not_read_is_given_up)
{
    struct server *s = things("--send-timeout 0.4");
    int c = get(s, "/big?path=%s&bytes=50000000", at("file"));
    log_wait(s, "\"GET /big");
    must(log_has(s, " undo=ok") && !exists(at("file")));
    close_fin(c);
    server_stop(s);
}
END_TEST

START_TEST(slow_reader_that_makes_progress_is_served)
{
    struct server *s = things("--send-timeout 0.6");
    int c = dial(s);
    static char buffer[1000000];
    say(c, "GET /big?path=%s&bytes=20000000 HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n",
        at("file"));
    log_wait(s, "big answer is ready");
    size_t total = 0;
    for (ssize_t n; (n = recv(c, buffer, sizeof(buffer), MSG_WAITALL)) > 0; total += (size_t)n)
        poll(NULL, 0, 60);
    must_say(total > 20000000, "%zu bytes came", total);
    log_wait(s, " ok undo=none");
    must(exists(at("file")));
    close_fin(c);
    server_stop(s);
}
END_TEST

START_TEST(reset_after_the_orderly_end_is_too_late)
{
    struct server *s = things("%s", "");
    for (int i = 0; i < 10; i++) {
        const char *file = at("f%d", i);
        int c = dial(s);
        say(c, "GET /make?path=%s HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n", file);
        struct heard h = hear_holding(c);
        must_say(h.status == 200 && !h.reset, "%s", h.text);
        close_rst(c);
        wait_until(log_count(s, " ok undo=none") == (unsigned)i + 1);
        must(exists(file));
    }
    server_stop(s);
}
END_TEST

START_TEST(answer_read_to_its_end_is_kept)
{
    struct server *s = things("%s", "");
    static const char *const kinds[] = {"make?", "stream?", "length?", "big?bytes=200000&"};
    for (unsigned i = 0; i < 200; i++) {
        int c = get(s, "/%spath=%s", kinds[i % 4], at("f%u", i));
        struct heard h = hear_answer(c, false);
        close_fin(c);
        must_say(h.status == 200, "%s", h.text);
        log_has(s, "%s", "");
    }
    wait_until(log_count(s, " ok undo=none") == 200);
    for (unsigned i = 0; i < 200; i++)
        must(exists(at("f%u", i)));
    server_stop(s);
}
END_TEST

START_TEST(reset_at_the_end_is_judged_one_way)
{
    /* Who reads all and then resets may have acknowledged or not; the log and the disk agree. */
    struct server *s = things("%s", "");
    for (unsigned i = 0; i < 40; i++) {
        int c = get(s, "/make?path=%s", at("f%u", i));
        must(hear_answer(c, false).status == 200);
        close_rst(c);
        const char *line = log_wait(s, "path=%s HTTP/1.1\"", at("f%u", i));
        bool kept = strstr(line, " ok undo=none") != NULL;
        must_say(kept || strstr(line, " hangup undo=ok"), "%s", line);
        must_say(kept == exists(at("f%u", i)), "%s", line);
    }
    server_stop(s);
}
END_TEST

START_TEST(http10_answer_is_kept)
{
    struct server *s = things("%s", "");
    static const char *const kinds[] = {"make?", "stream?", "length?"};
    for (unsigned i = 0; i < 3; i++) {
        struct output o = curl(s, "-0 -f /%spath=%s", kinds[i], at("f%u", i));
        must_say(o.status == 0 && o.length > 0, "%s", o.text);
        wait_until(log_count(s, " ok undo=none") == i + 1);
        must(exists(at("f%u", i)));
    }
    server_stop(s);
}
END_TEST

/* ---- An answer that is cut ----------------------------------------------------------------- */

static const char *const cuts[] = {
    "/cut?",           "/cut?length&",           "-0 /cut?",           "-0 /cut?length&",
    "/cut?how=crash&", "/cut?how=crash&length&", "-0 /cut?how=crash&", "-0 /cut?how=crash&length&"};

START_TEST(cut_answer_is_seen_as_cut)
{
    struct server *s = things("%s", "");
    struct output o = curl(s, "-o body %spath=%s", cuts[_i], at("file"));
    must_say(o.status != 0, "curl was content: %s", o.text);
    log_wait(s, "\"GET /cut");
    must(log_has(s, _i < 4 ? " error undo=ok" : " crash undo=ok") && !exists(at("file")));
    server_stop(s);
}
END_TEST

/* Of a small answer that came at once nothing is out when its handler fails: it is told in HTTP. */
START_TEST(failure_after_a_whole_answer_is_told)
{
    struct server *s = things("%s", "");
    for (int way = 0; way < 2; way++) {
        const char *how = way == 0 ? "" : "&how=crash";
        struct heard h =
            hear_answer(get(s, "/cut?length&pieces=1&path=%s%s", at("file"), how), false);
        must_say(h.status == 500 && strstr(h.text, "\r\n\r\n500 ") != NULL, "%s", h.text);
        log_wait(s, way == 0 ? " error undo=ok" : " crash undo=ok");
        must(!exists(at("file")));
    }
    server_stop(s);
}
END_TEST

START_TEST(answer_cut_by_a_limit_or_the_end_is_seen_as_cut)
{
    static const char *const ways[] = {"-0", "-H X:1"};
    for (int way = 0; way < 2; way++) {
        struct server *s = things("--timeout 0.3");
        struct output o =
            curl(s, "%s -o body /stream?chunks=1000&ms=20&path=%s", ways[way], at("f"));
        must_say(o.status != 0, "curl was content: %s", o.text);
        log_wait(s, " timeout undo=ok");
        must(!exists(at("f")));
        server_stop(s);

        s = things("--drain 0.3");
        int c = get(s, "/stream?chunks=1000&ms=20&path=%s", at("f"));
        hear_until(c, "sss");
        kill(s->pid, SIGTERM);
        struct heard h = hear(c);
        must_say(h.reset && !strstr(h.text, "\r\n0\r\n"), "%s", h.text);
        must(server_wait(s) == 0 && !exists(at("f")));
    }
}
END_TEST

START_TEST(answer_cut_by_the_death_of_all_is_seen_as_cut)
{
    struct server *s = things("%s", "");
    int c = dial(s);
    say(c, "GET /stream?chunks=1000&ms=20 HTTP/1.0\r\n\r\n");
    hear_until(c, "sss");
    pid_t child = only_child(s->pid);
    kill(child, SIGSTOP);
    server_kill(s, SIGKILL);
    kill(child, SIGKILL);
    struct heard h = hear(c);
    must_say(h.reset, "%s", h.text);
}
END_TEST

/* ---- Death --------------------------------------------------------------------------------- */

START_TEST(crash_undoes)
{
    struct server *s = things("%s", "");
    struct heard h = hear_answer(get(s, "/crash?path=%s", at("file")), false);
    must_say(h.status == 500, "%s", h.text);
    log_wait(s, " 500 ");
    must(log_has(s, " crash undo=ok") && !exists(at("file")));
    must(hear_answer(get(s, "/who"), false).status == 200);
    server_stop(s);
}
END_TEST

START_TEST(kill_of_the_child_undoes)
{
    static const int signals[] = {SIGKILL, SIGTERM, SIGINT, SIGHUP};
    struct server *s = things("%s", "");
    int c = get(s, "/make?path=%s&seconds=60", at("file"));
    kill(wait_made(s, at("file")), signals[_i]);
    struct heard h = hear_answer(c, false);
    must_say(h.status >= 500 && strstr(h.text, "the server is stopping") == NULL, "%s", h.text);
    log_wait(s, " killed undo=ok");
    must(!exists(at("file")));
    server_stop(s);
}
END_TEST

START_TEST(answer_that_a_killed_child_cannot_finish_is_undone)
{
    struct server *s = things("--send-timeout 3600");
    int c = get(s, "/big?path=%s&bytes=50000000", at("file"));
    pid_t pid = wait_made(s, at("file"));
    wait_sent();
    kill(pid, SIGKILL);
    log_wait(s, " killed undo=ok");
    must(!exists(at("file")) && hear(c).reset);
    server_stop(s);
}
END_TEST

/* All of the answer has been sent, and the client has not read it: whoever asks, waits. */
START_TEST(killed_janitor_leaves_its_question_to_the_next)
{
    struct server *s = things("%s", "");
    int c = get(s, "/big?path=%s&bytes=150000", at("file"));
    pid_t child = wait_made(s, at("file")), janitor;
    wait_all_sent(s, c, 150000);
    kill(child, SIGKILL);
    wait_until((janitor = only_child(s->pid)) != child);
    kill(janitor, SIGKILL);
    wait_until(only_child(s->pid) != janitor);
    must(exists(at("file")));
    if (_i == WAYS) {
        must(hear_answer(c, false).status == 200);
        log_wait(s, " ok undo=none");
        must(exists(at("file")));
    } else {
        hang_up(c, _i);
        log_wait(s, " undo=ok");
        must(!exists(at("file")));
    }
    server_stop(s);
}
END_TEST

START_TEST(hangup_reaches_a_stopped_child)
{
    struct server *s = things("--grace 0.2");
    int c = get(s, "/stop?path=%s", at("file"));
    pid_t pid = wait_made(s, at("file"));
    wait_until(process_state(pid) == 'T');
    hang_up(c, _i);
    log_wait(s, " hangup undo=ok");
    must(!exists(at("file")) && !is_alive(pid));
    server_stop(s);
}
END_TEST

START_TEST(time_limit_reaches_a_stopped_child)
{
    struct server *s = things("--grace 0.2 --timeout 0.4");
    struct heard h = hear_answer(get(s, "/stop?path=%s", at("file")), false);
    must_say(h.status == 504, "%s", h.text);
    log_wait(s, " timeout undo=ok");
    must(!exists(at("file")));
    server_stop(s);
}
END_TEST

/* Whether STATE holds the directory of a server. */
static bool state_is_there(void)
{
    DIR *state = opendir(at("state"));
    bool there = false;
    for (const struct dirent *entry; state && (entry = readdir(state));)
        there |= strlen(entry->d_name) == 16;
    if (state)
        closedir(state);
    return there;
}

START_TEST(child_undoes_when_the_server_is_killed)
{
    struct server *s = things("%s", "");
    int c = get(s, "/tree?path=%s&seconds=60", at("tree"));
    pid_t pid = wait_made(s, at("tree"));
    server_kill(s, SIGKILL);
    wait_until(!is_alive(pid));
    must(!exists(at("tree")) && is_empty(at("tmp")));
    struct heard h = hear(c);
    must_say(h.reset || h.status >= 500, "%s", h.text);
    wait_no_process(); /* a janitor's death by its parent's takes a moment */
    must(state_is_there());
    s = things("%s", "");
    server_stop(s);
}
END_TEST

/* End the server and the child PID so that neither can undo anything. */
static void kill_both(struct server *s, pid_t pid)
{
    kill(pid, SIGSTOP);
    wait_until(process_state(pid) == 'T');
    server_kill(s, SIGKILL);
    kill(pid, SIGKILL);
    wait_until(!is_alive(pid));
}

START_TEST(next_start_undoes_when_both_are_killed)
{
    struct server *s = things("%s", "");
    get(s, "/tree?path=%s&seconds=60", at("tree"));
    kill_both(s, wait_made(s, at("tree")));
    must(exists(at("tree/below/two")) && !is_empty(at("tmp")) && state_is_there());
    s = things("%s", "");
    wait_gone(at("tree"));
    wait_until(is_empty(at("tmp")));
    server_stop(s);
    must(!state_is_there());
}
END_TEST

START_TEST(next_start_ends_what_still_runs_first)
{
    if (left_out_with_memcheck("next_start_ends_what_still_runs_first", NO_MARK))
        return;
    struct server *s = things("%s", "");
    get(s, "/fork?path=%s&seconds=60", at("file"));
    pid_t pid = wait_made(s, at("file")), helper[3];
    const char *line = log_wait(s, "forked ");
    must(sscanf(strstr(line, "forked "), "forked %d %d %d", &helper[0], &helper[1], &helper[2]) ==
         3);
    kill_both(s, pid);
    must(exists(at("file")));
    s = things("%s", "");
    wait_gone(at("file"));
    for (int i = 0; i < 3; i++)
        must_say(!is_alive(helper[i]), "helper %d", i);
    server_stop(s);
}
END_TEST

START_TEST(next_start_leaves_the_living_alone)
{
    struct server *first = things("%s", "");
    int c = get(first, "/make?path=%s&seconds=60", at("file"));
    pid_t pid = wait_made(first, at("file"));
    struct server *second = things("%s", "");
    must(hear_answer(get(second, "/make?path=%s", at("other")), false).status == 200);
    kill(second->pid, SIGTERM);
    must(waitpid(second->pid, NULL, 0) == second->pid);
    second->ended = true;
    must(exists(at("file")) && is_alive(pid));
    close_fin(c);
    log_wait(first, " hangup undo=ok");
    server_stop(first);
}
END_TEST

START_TEST(next_start_keeps_a_file_that_took_the_name)
{
    struct server *s = things("%s", "");
    get(s, "/make?path=%s&seconds=60", at("file"));
    kill_both(s, wait_made(s, at("file")));
    must(unlink(at("file")) == 0);
    file_write(at("file"), "foreign");
    s = things("%s", "");
    server_stop(s);
    must(strcmp(file_read(at("file")), "foreign") == 0);
}
END_TEST

/* ---- Files --------------------------------------------------------------------------------- */

START_TEST(second_caller_is_told_that_the_file_is_taken)
{
    struct server *s = things("%s", "");
    int first = get(s, "/make?path=%s&seconds=60", at("file"));
    wait_made(s, at("file"));
    struct heard h = hear_answer(get(s, "/make?path=%s", at("file")), false);
    must_say(h.status == 409, "%s", h.text);
    log_wait(s, " 409 ");
    must(log_has(s, " error undo="));
    must_say(exists(at("file")), "the second caller's undo took the first one's file");
    hang_up(first, BY_FIN);
    log_wait(s, " hangup undo=ok");
    must(!exists(at("file")));
    server_stop(s);
}
END_TEST

START_TEST(file_that_was_there_stays)
{
    struct server *s = things("%s", "");
    file_write(at("file"), "old");
    struct output o = curl(s, "-o body -w %%{http_code} /make?path=%s", at("file"));
    must_say(o.status == 0 && strcmp(o.text, "409") == 0, "%s", o.text);
    log_wait(s, " 409 ");
    must(strcmp(file_read(at("file")), "old") == 0);
    server_stop(s);
}
END_TEST

START_TEST(two_overwriters_do_not_remove_each_others_file)
{
    struct server *s = things("%s", "");
    int first = get(s, "/over?path=%s&seconds=60", at("file"));
    wait_made(s, at("file"));
    log_mark(s);
    int second = get(s, "/over?path=%s&seconds=60", at("file"));
    wait_made(s, at("file"));
    close_fin(first);
    log_wait(s, " hangup undo=ok");
    must(exists(at("file")));
    log_mark(s);
    close_fin(second);
    log_wait(s, " hangup undo=ok");
    must(!exists(at("file")));
    server_stop(s);
}
END_TEST

START_TEST(foreign_file_that_took_the_name_stays)
{
    struct server *s = things("%s", "");
    int c = get(s, "/make?path=%s&seconds=60", at("file"));
    wait_made(s, at("file"));
    if (_i) { /* the inode number may be used again */
        must(unlink(at("file")) == 0);
        file_write(at("file"), "foreign");
    } else {
        file_write(at("new"), "foreign");
        must(rename(at("new"), at("file")) == 0);
    }
    close_fin(c);
    log_wait(s, " hangup undo=");
    must(strcmp(file_read(at("file")), "foreign") == 0);
    server_stop(s);
}
END_TEST

START_TEST(foreign_directory_that_took_the_name_stays)
{
    struct server *s = things("%s", "");
    int c = get(s, "/tree?path=%s&seconds=60", at("tree"));
    wait_made(s, at("tree"));
    must(rename(at("tree"), at("elsewhere")) == 0 && mkdir(at("tree"), 0755) == 0);
    file_write(at("tree/one"), "foreign");
    close_fin(c);
    log_wait(s, " hangup undo=");
    must(strcmp(file_read(at("tree/one")), "foreign") == 0);
    server_stop(s);
}
END_TEST

START_TEST(tree_with_a_link_out_of_it)
{
    struct server *s = things("%s", "");
    must(mkdir(at("outside"), 0755) == 0);
    file_write(at("outside/precious"), "precious");
    int c = get(s, "/tree?path=%s&seconds=60", at("tree"));
    wait_made(s, at("tree"));
    must(symlink(at("outside"), at("tree/link")) == 0);
    close_fin(c);
    log_wait(s, " hangup undo=ok");
    must(!exists(at("tree")) && exists(at("outside/precious")));
    server_stop(s);
}
END_TEST

START_TEST(undo_keeps_errors_of_400_and_more)
{
    static const int codes[] = {200, 201, 302, 400, 404, 418, 500, 503};
    struct server *s = things("%s", "");
    for (unsigned i = 0; i < sizeof(codes) / sizeof(codes[0]); i++) {
        int code = codes[i];
        struct heard h =
            hear_answer(get(s, "/status?code=%d&path=%s", code, at("f%d", code)), false);
        must_say(h.status == code && strstr(h.text, "as asked\n"), "%s", h.text);
        const char *line = log_wait(s, "/status?code=%d&", code);
        must_say(strstr(line, code < 400 ? " ok undo=none" : " error undo=ok"), "%s", line);
        must_say(exists(at("f%d", code)) == (code < 400), "%d", code);
    }
    server_stop(s);
}
END_TEST

START_TEST(handler_without_an_answer_gets_500)
{
    struct server *s = things("%s", "");
    static const char *const silent[] = {"silent", "fail"};
    struct heard h = hear_answer(get(s, "/%s?path=%s", silent[_i], at("file")), false);
    must_say(h.status == 500, "%s", h.text);
    log_wait(s, " error undo=ok");
    must(!exists(at("file")));
    server_stop(s);
}
END_TEST

START_TEST(directory_that_is_not_there)
{
    struct server *s = things("%s", "");
    struct heard h = hear_answer(get(s, "/make?path=%s", at("none/file")), false);
    must_say(h.status == 500 && strstr(h.text, "create the file"), "%s", h.text);
    log_wait(s, "No such file or directory");
    log_wait(s, " 500 ");
    server_stop(s);
}
END_TEST

START_TEST(directory_that_cannot_be_written)
{
    must(mkdir(at("locked"), 0555) == 0);
    struct server *s = things("%s", geteuid() == 0 ? "--user nobody" : "");
    struct heard h = hear_answer(get(s, "/make?path=%s", at("locked/file")), false);
    must_say(h.status == 500 && strstr(h.text, "create the file"), "%s", h.text);
    log_wait(s, "Permission denied");
    log_wait(s, " 500 ");
    must(is_empty(at("locked")));
    server_stop(s);
}
END_TEST

static bool mount_small(const char *path, const char *size)
{
    char options[64];
    snprintf(options, sizeof(options), "size=%s,mode=0700", size);
    return (mkdir(path, 0700) == 0 || errno == EEXIST) &&
           mount("tmpfs", path, "tmpfs", 0, options) == 0;
}

static void fill(const char *path)
{
    static const char block[4096];
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    must(fd >= 0);
    while (write(fd, block, sizeof(block)) > 0) {
    }
    must(errno == ENOSPC);
    close(fd);
}

START_TEST(disk_that_is_full)
{
    if (!private_mounts() || !mount_small(at("disk"), "256k")) {
        test_skipped("disk_that_is_full", "mounting is not allowed here");
        return;
    }
    struct server *s = things("%s", "");
    struct heard h = hear_answer(get(s, "/full?path=%s&bytes=1000000", at("disk/file")), false);
    must_say(h.status == 507, "%s", h.text);
    log_wait(s, "No space left on device");
    log_wait(s, " error undo=ok");
    must(is_empty(at("disk")));
    h = hear_answer(get(s, "/full?path=%s&bytes=8192", at("disk/file")), false);
    must_say(h.status == 200, "%s", h.text);
    server_stop(s);
}
END_TEST

START_TEST(ledger_on_a_full_disk)
{
    if (!private_mounts() || !mount_small(at("state"), "8m")) {
        test_skipped("ledger_on_a_full_disk", "mounting is not allowed here");
        return;
    }
    struct server *s = things("%s", "");
    fill(at("state/ballast"));
    struct heard h = hear_answer(get(s, "/make?path=%s", at("file")), false);
    must_say(h.status == 507, "%s", h.text);
    log_wait(s, " 507 ");
    must(!exists(at("file")));
    must(unlink(at("state/ballast")) == 0);
    must(hear_answer(get(s, "/make?path=%s", at("file")), false).status == 200);
    log_wait(s, " ok undo=none");
    must(exists(at("file")));
    server_stop(s);
}
END_TEST

START_TEST(disk_that_is_full_when_a_request_is_undone)
{
    if (!private_mounts() || !mount_small(at("state"), "8m")) {
        test_skipped("disk_that_is_full_when_a_request_is_undone", "mounting is not allowed here");
        return;
    }
    struct server *s = things("%s", "");
    int c = get(s, "/make?path=%s&seconds=60", at("file"));
    wait_made(s, at("file"));
    fill(at("state/ballast"));
    close_fin(c);
    log_wait(s, " hangup undo=ok");
    must(!exists(at("file")));
    must(unlink(at("state/ballast")) == 0);
    server_stop(s);
}
END_TEST

START_TEST(undo_that_fails_stays_on_record)
{
    if (!private_mounts()) {
        test_skipped("undo_that_fails_stays_on_record", "mounting is not allowed here");
        return;
    }
    struct server *s = things("%s", "");
    int c = get(s, "/tree?path=%s&seconds=60", at("tree"));
    wait_made(s, at("tree"));
    must(mount("tmpfs", at("tree/below"), "tmpfs", 0, "size=64k") == 0);
    close_fin(c);
    log_wait(s, " hangup undo=failed");
    must(exists(at("tree/below")) && !exists(at("tree/one")) && is_empty(at("tmp")));
    struct output o = run("grep -r -h tree %s", at("state"));
    must_say(strstr(o.text, "rmtree-if ") == o.text || strstr(o.text, "\nrmtree-if "), "%s",
             o.text);
    must(umount(at("tree/below")) == 0);
    kill(s->pid, SIGTERM);
    waitpid(s->pid, NULL, 0);
    s->ended = true;
}
END_TEST

/* ---- Processes ----------------------------------------------------------------------------- */

START_TEST(second_thread_does_not_outlive_the_request)
{
    struct server *s = things("%s", "");
    struct heard h = hear_answer(get(s, "/thread?path=%s&seconds=0.1", at("kept")), false);
    must_say(h.status == 200, "%s", h.text);
    log_wait(s, " ok undo=none");
    must(!is_empty(at("kept")));

    int c = get(s, "/thread?path=%s&seconds=60", at("tree"));
    wait_made(s, at("tree"));
    wait_until(exists(at("tree/499")) && exists(at("tree.again")));
    hang_up(c, _i);
    log_wait(s, " hangup undo=ok");
    must(!exists(at("tree")) && !exists(at("tree.again")));
    server_stop(s);
}
END_TEST

static void wait_forked(struct server *s, pid_t helpers[3])
{
    const char *line = strstr(log_wait(s, "forked "), "forked ");
    must(sscanf(line, "forked %d %d %d", &helpers[0], &helpers[1], &helpers[2]) == 3);
    for (int i = 0; i < 3; i++)
        must(is_alive(helpers[i]));
}

START_TEST(forked_processes_do_not_outlive_the_request)
{
    enum { HUNG_UP, KILLED, ANSWERED, TIMED_OUT };
    static const char *const outcomes[] = {" hangup undo=ok", " killed undo=ok", " ok undo=none",
                                           " timeout undo=ok"};
    struct server *s = things("--grace 0.2%s", _i == TIMED_OUT ? " --timeout 0.5" : "");
    int c = get(s, "/fork?path=%s&seconds=%s", at("file"), _i == ANSWERED ? "0.3" : "60");
    pid_t pid = wait_made(s, at("file")), helpers[3];
    wait_forked(s, helpers);
    if (_i == HUNG_UP)
        close_fin(c);
    if (_i == KILLED)
        kill(pid, SIGKILL);
    log_wait(s, "%s", outcomes[_i]);
    for (int i = 0; i < 3; i++)
        must_say(!is_alive(helpers[i]), "helper %d", i);
    no_process_left();
    must(exists(at("file")) == (_i == ANSWERED));
    server_stop(s);
}
END_TEST

START_TEST(killed_server_leaves_no_forked_process)
{
    struct server *s = things("%s", "");
    get(s, "/fork?path=%s&seconds=60", at("file"));
    pid_t pid = wait_made(s, at("file")), helpers[3];
    wait_forked(s, helpers);
    server_kill(s, SIGKILL);
    wait_until(!is_alive(pid));
    for (int i = 0; i < 3; i++)
        must_say(!is_alive(helpers[i]), "helper %d", i);
    must(!exists(at("file")));
    things("%s", "");
    server_stop(s + 1);
}
END_TEST

START_TEST(forked_processes_touch_no_neighbour)
{
    struct server *s = things("--grace 0.2");
    pid_t mine[3], theirs[3];
    int c = get(s, "/fork?seconds=60");
    wait_forked(s, mine);
    log_mark(s);
    int other = get(s, "/fork?seconds=60");
    wait_forked(s, theirs);
    close_fin(c);
    log_wait(s, " hangup undo=");
    for (int i = 0; i < 3; i++)
        must(!is_alive(mine[i]) && is_alive(theirs[i]));
    log_mark(s);
    close_fin(other);
    log_wait(s, " hangup undo=");
    server_stop(s);
}
END_TEST

START_TEST(server_ends_only_what_it_started)
{
    /* A shell's child becomes the server's when the shell becomes the server. */
    char command[8192];
    snprintf(command, sizeof(command),
             "sleep 600 & echo $! >sleeper; exec %s --state %s --listen 127.0.0.1:0 2>log",
             the_things(), at("state"));
    pid_t pid = start_shell(command);
    wait_until(strstr(file_read(at("log")), "listening on "));
    pid_t sleeper = atoi(file_read(at("sleeper")));
    struct server s = {
        .port = (unsigned)atoi(strstr(file_read(at("log")), "127.0.0.1:") + 10),
    };
    must(hear_answer(get(&s, "/fork"), false).status == 200);
    int c = get(&s, "/fork?seconds=60");
    wait_until(strstr(file_read(at("log")), " 200 "));
    close_fin(c);
    wait_until(strstr(file_read(at("log")), " hangup undo="));
    must_say(is_alive(sleeper), "the server ended a process that it did not start");
    kill(pid, SIGTERM);
    int status;
    must(waitpid(pid, &status, 0) == pid);
    must_say(WIFEXITED(status) && WEXITSTATUS(status) == 0, "status %d", status);
    must(is_alive(sleeper));
    end_processes();
}
END_TEST

START_TEST(child_has_no_descriptor_of_others)
{
    struct server *s = things("%s", "");
    int idle[4], busy = get(s, "/make?path=%s&seconds=60", at("file"));
    wait_made(s, at("file"));
    for (int i = 0; i < 4; i++) {
        idle[i] = get(s, "/who");
        must(hear_answer(idle[i], false).status == 200);
    }
    struct output o = curl(s, "/descriptors");
    unsigned sockets = 0;
    for (const char *p = o.text; (p = strstr(p, "socket:")); p++)
        sockets++;
    must_say(o.status == 0 && sockets == 1, "%s", o.text);
    must_say(!strstr(o.text, "eventpoll") && !strstr(o.text, "signalfd"), "%s", o.text);
    for (int i = 0; i < 4; i++)
        close(idle[i]);
    close_fin(busy);
    log_wait(s, " hangup undo=ok");
    server_stop(s);
}
END_TEST

/* Without the mark that it is on its way, an answer must not go out: nobody has hung up, and a
 * route's on-hangup does not matter. */
START_TEST(answer_that_cannot_be_recorded_is_an_error)
{
    struct server *s = things("%s", _i == 0 ? "" : "--on-hangup finish");
    struct heard h = hear(get(s, "/stuck?path=%s", at("file")));
    must_say(h.reset && h.length == 0, "%s", h.text);
    log_wait(s, "could not record the answer in the ledger: File too large");
    log_wait(s, " error undo=ok");
    must(!exists(at("file")));
    server_stop(s);
}
END_TEST

/* ---- Limits -------------------------------------------------------------------------------- */

START_TEST(time_limit_is_504_after_undo)
{
    static const char *const options[] = {"--timeout 0.3 /make=@make", "/make=@make,timeout=300ms"};
    struct server *s = things("%s", _i < 2 ? options[_i] : "");
    int c = get(s, "/%s?path=%s&seconds=60", _i < 2 ? "make" : "brief", at("file"));
    hear_until(c, "HTTP/1.1 504");
    must_say(!exists(at("file")), "the answer came before the undo");
    log_wait(s, " 504 ");
    must(log_has(s, " timeout undo=ok"));
    server_stop(s);
}
END_TEST

static const struct {
    const char *options, *request;
    int status;
} late[] = {
    {"--header-timeout 0.3", "GET /who HT", 408},
    {"--header-timeout 0.3", "GET /who HTTP/1.1\r\nHost: test\r\n", 408},
    {"--body-timeout 0.3", "POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: 9\r\n\r\nhalf",
     408},
    {"--body-timeout 0.3",
     "POST /echo HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nha", 408},
};

START_TEST(late_request_is_408)
{
    struct server *s = things("%s", late[_i].options);
    int c = dial(s);
    say(c, "%s", late[_i].request);
    struct heard h = hear(c);
    must_say(h.status == late[_i].status && !h.reset, "%s", h.text);
    log_wait(s, " 408 ");
    server_stop(s);
}
END_TEST

START_TEST(trickled_header_is_408)
{
    /* Each byte is progress; the time for a header is for all of it. */
    struct server *s = things("--header-timeout 0.4");
    int c = dial(s);
    int64_t deadline = now_ms() + PATIENCE_MS;
    say(c, "GET /who HTTP/1.1\r\nHost: test\r\nX-Slow: ");
    while (is_quiet(c)) {
        must(now_ms() < deadline);
        if (send(c, "x", 1, MSG_NOSIGNAL) < 0)
            break;
        poll(NULL, 0, 50);
    }
    log_wait(s, " 408 ");
    close_rst(c);
    server_stop(s);
}
END_TEST

START_TEST(body_that_makes_progress_is_served)
{
    struct server *s = things("--body-timeout 0.5");
    int c = dial(s);
    say(c, "POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: 8\r\n\r\n");
    for (int i = 0; i < 8; i++) {
        poll(NULL, 0, 120);
        say(c, "%d", i);
    }
    struct heard h = hear_answer(c, false);
    must_say(h.status == 200 && strstr(h.text, "8 01234567"), "%s", h.text);
    server_stop(s);
}
END_TEST

START_TEST(idle_connection_is_closed)
{
    struct server *s = things("--idle-timeout 0.3");
    int fresh = dial(s), used = get(s, "/who");
    must(hear_answer(used, false).status == 200);
    must(hear(used).length == 0);
    must(hear(fresh).length == 0);
    server_stop(s);
}
END_TEST

START_TEST(too_much_is_refused)
{
    static const struct {
        const char *options, *request;
        int status;
    } cases[] = {
        {"--max-body 1k", "POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: 1025\r\n\r\n", 413},
        {"--max-body 4",
         "POST /echo HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
         413},
        {"--max-target 16", "GET /who?0123456789abcdef HTTP/1.1\r\nHost: test\r\n\r\n", 414},
        {"--max-header 128",
         "GET /who HTTP/1.1\r\nHost: test\r\nX-Long: "
         "0123456789012345678901234567890123456789012345678901234567890123456789"
         "0123456789012345678901234567890123456789012345678901234567890123456789"
         "0123456789012345678901234567890123456789012345678901234567890123456789\r\n\r\n",
         431},
    };
    for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct server *s = things("%s", cases[i].options);
        int c = dial(s);
        say(c, "%s", cases[i].request);
        struct heard h = hear(c);
        must_say(h.status == cases[i].status && !h.reset, "%s: %s", cases[i].options, h.text);
        server_stop(s);
    }
}
END_TEST

START_TEST(refusal_is_read_by_a_client_that_goes_on_sending)
{
    struct server *s = things("--max-body 1k");
    file_write(at("body"), "");
    must(truncate(at("body"), 3000000) == 0);
    struct output o =
        curl(s, "-H Expect: -o answer -w %%{http_code} --data-binary @%s /echo", at("body"));
    must_say(strcmp(o.text, "413") == 0, "%d: %s", o.status, o.text);
    server_stop(s);
}
END_TEST

START_TEST(body_of_the_largest_size_is_taken)
{
    struct server *s = things("--max-body 4");
    int c = dial(s);
    say(c, "POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: 4\r\n\r\nfour");
    must(hear_answer(c, false).status == 200);
    say(c, "POST /echo HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n"
           "4;x=y\r\nfour\r\n0\r\nT: x\r\n\r\n");
    must(hear_answer(c, false).status == 200);
    server_stop(s);
}
END_TEST

START_TEST(no_descriptor_left_is_503)
{
    if (left_out_with_memcheck("no_descriptor_left_is_503", "nothing is left for memcheck either"))
        return;
    struct server *s = things("%s", "");
    must(hear_answer(get(s, "/who"), false).status == 200);
    /* Eight more than it has, of which the harness's own may be anywhere. */
    unsigned limit = 0;
    for (unsigned spare = 0; spare < 8; limit++) {
        char path[64];
        snprintf(path, sizeof(path), "/proc/%d/fd/%u", (int)s->pid, limit);
        spare += !exists(path);
    }
    struct rlimit few = {.rlim_cur = limit, .rlim_max = limit};
    must(prlimit(s->pid, RLIMIT_NOFILE, &few, NULL) == 0);

    int c[24];
    unsigned refused = 0;
    struct pollfd answered[24];
    for (int i = 0; i < 24; i++) {
        c[i] = get(s, "/make?path=%s&seconds=60", at("f%d", i));
        answered[i] = (struct pollfd){.fd = c[i], .events = POLLIN};
    }
    log_wait(s, " 503 ");
    must(poll(answered, 24, PATIENCE_MS) > 0);
    for (int i = 0; i < 24; i++)
        if (!is_quiet(c[i]) && hear(c[i]).status == 503)
            refused++;
    must(refused > 0);
    long before = processor_ms(s->pid);
    poll(NULL, 0, 400);
    long used = processor_ms(s->pid) - before;
    must_say(used < 200, "it spins: %ld of 400 ms", used);
    for (int i = 0; i < 24; i++)
        close(c[i]);
    for (int i = 0; i < 24; i++)
        wait_gone(at("f%d", i));
    /* The descriptors come back a moment after the files have gone. */
    wait_until(hear_answer(get(s, "/make?path=%s", at("after")), false).status == 200);
    server_stop(s);
}
END_TEST

/* ---- HTTP ---------------------------------------------------------------------------------- */

START_TEST(connection_is_used_again)
{
    struct server *s = things("%s", "");
    int c = dial(s);
    static const char *const targets[] = {
        "/who", "/make?path=", "/stream?path=", "/length?path=", "/none", "/status?code=404&path="};
    for (unsigned i = 0; i < 6; i++) {
        bool path = strchr(targets[i], '=') != NULL;
        say(c, "GET %s%s HTTP/1.1\r\nHost: test\r\n\r\n", targets[i], path ? at("f%u", i) : "");
        struct heard h = hear_answer(c, false);
        must_say(h.status == (i < 4 ? 200 : 404), "%s", h.text);
        must_say(*field(h, "Date") && strcasecmp(field(h, "Connection"), "close") != 0, "%s",
                 h.text);
    }
    must(is_quiet(c));
    say(c, "POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: 3\r\n\r\nabc");
    must(strstr(hear_answer(c, false).text, "\r\n\r\n3 abc"));
    say(c, "GET /who HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
    struct heard h = hear(c);
    must_say(h.status == 200 && strcasecmp(field(h, "Connection"), "close") == 0 && !h.reset, "%s",
             h.text);
    server_stop(s);
}
END_TEST

START_TEST(curl_uses_the_connection_again)
{
    struct server *s = things("%s", "");
    struct output o = curl(s, "-w %%{num_connects} -o a -o b /who /who");
    must_say(o.status == 0 && strcmp(o.text, "10") == 0, "%s", o.text);
    server_stop(s);
}
END_TEST

START_TEST(http10_connection_is_closed)
{
    struct server *s = things("%s", "");
    int c = dial(s);
    say(c, "GET /who HTTP/1.0\r\n\r\n");
    struct heard h = hear(c);
    must_say(h.status == 200 && !h.reset, "%s", h.text);
    must_say(!strstr(h.text, "Transfer-Encoding"), "%s", h.text);
    server_stop(s);
}
END_TEST

START_TEST(pipelined_requests_are_answered_in_order)
{
    struct server *s = things("%s", "");
    int c = dial(s);
    say(c,
        "POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: 3\r\n\r\none"
        "GET /make?path=%s&seconds=0.1 HTTP/1.1\r\nHost: test\r\n\r\n"
        "POST /echo HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n"
        "5\r\nthree\r\n0\r\n\r\n"
        "GET /who HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n",
        at("file"));
    struct heard h = hear(c);
    const char *one = strstr(h.text, "3 one"), *two = one ? strstr(one, "made\n") : NULL;
    const char *three = two ? strstr(two, "5 three") : NULL;
    must_say(three && strstr(three, "method GET\n") && !h.reset, "%s", h.text);
    wait_until(log_count(s, " ok undo=none") == 4);
    must(exists(at("file")));
    server_stop(s);
}
END_TEST

START_TEST(request_is_told_to_the_handler)
{
    struct server *s = things("%s", "");
    struct output o = curl(s, "-H X-Who:me -H X-Who:you /under/a%%20b/../c?x=%%41&y");
    must_say(o.status == 0 && strstr(o.text, "method GET\npath /under/c\ninfo c\nquery x=%41&y\n"
                                             "header me, you\nclient 127.0.0.1:"),
             "%s", o.text);
    const char *id = strstr(o.text, "\nid ");
    must(id && strlen(id) > 20);
    char line[64];
    snprintf(line, sizeof(line), "%.*s", (int)strcspn(id + 4, "\n"), id + 4);
    log_wait(s, " %s 127.0.0.1:", line);
    server_stop(s);
}
END_TEST

START_TEST(methods)
{
    struct server *s = things("%s", "");
    int c = dial(s);
    say(c, "HEAD /make?path=%s HTTP/1.1\r\nHost: test\r\n\r\n", at("file"));
    must(hear_answer(c, true).status == 200);
    must_say(!exists(at("file")), "HEAD did the work");
    say(c, "OPTIONS /make HTTP/1.1\r\nHost: test\r\n\r\n");
    struct heard h = hear_answer(c, false);
    must_say((h.status == 200 || h.status == 204) && strstr(field(h, "Allow"), "GET") &&
                 strstr(field(h, "Allow"), "HEAD") && strstr(field(h, "Allow"), "OPTIONS"),
             "%s", h.text);
    say(c, "DELETE /echo HTTP/1.1\r\nHost: test\r\n\r\n");
    h = hear_answer(c, false);
    must_say(h.status == 405 && strstr(field(h, "Allow"), "POST") &&
                 strstr(field(h, "Allow"), "PUT"),
             "%s", h.text);
    say(c, "GET /nowhere HTTP/1.1\r\nHost: test\r\n\r\n");
    must(hear_answer(c, false).status == 404);
    say(c, "HEAD /nowhere HTTP/1.1\r\nHost: test\r\n\r\n");
    must(hear_answer(c, true).status == 404);
    must(is_quiet(c));
    say(c, "OPTIONS * HTTP/1.1\r\nHost: test\r\n\r\n");
    h = hear_answer(c, false);
    must_say(h.status == 200 || h.status == 204, "%s", h.text);
    say(c,
        "POST /echo HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n");
    h = hear(c);
    must_say(h.status == 501, "%s", h.text);
    server_stop(s);
}
END_TEST

START_TEST(wrong_requests_are_400)
{
    struct server *s = things("%s", "");
    static const char *const wrong[] = {
        "GET /who HTTP/1.1\r\n\r\n",
        "GET /who HTTP/1.1\nHost: test\n\n",
        "GET /who HTTP/1.1\r\nHost : test\r\n\r\n",
        "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        "nonsense\r\n\r\n",
        "\x16\x03\x01\x02",
    };
    for (unsigned i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        int c = dial(s);
        say(c, "%s", wrong[i]);
        shutdown(c, SHUT_WR);
        struct heard h = hear(c);
        must_say(h.status == 400, "%u: %s", i, h.text);
    }
    must(hear_answer(get(s, "/who"), false).status == 200);
    server_stop(s);
}
END_TEST

START_TEST(expectation_is_met)
{
    struct server *s = things("%s", "");
    int c = dial(s);
    say(c,
        "POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n");
    hear_until(c, "HTTP/1.1 100 Continue\r\n\r\n");
    say(c, "body");
    struct heard h = hear_answer(c, false);
    must_say(h.status == 200 && strstr(h.text, "4 body"), "%s", h.text);
    struct output o = curl(s, "-f -H Expect:100-continue --data hello /echo");
    must_say(o.status == 0 && strcmp(o.text, "5 hello") == 0, "%s", o.text);
    server_stop(s);
}
END_TEST

START_TEST(expectation_is_refused_before_the_body)
{
    struct server *s = things("--max-body 10");
    static const struct {
        const char *line;
        int length, status;
    } cases[] = {{"POST /echo", 11, 413}, {"POST /none", 5, 404}, {"POST /who", 5, 405}};
    for (unsigned i = 0; i < 3; i++) {
        int c = dial(s);
        say(c, "%s HTTP/1.1\r\nHost: test\r\nContent-Length: %d\r\nExpect: 100-continue\r\n\r\n",
            cases[i].line, cases[i].length);
        struct heard h = hear(c);
        must_say(h.status == cases[i].status && !strstr(h.text, "100 Continue"), "%s", h.text);
    }
    server_stop(s);
}
END_TEST

START_TEST(large_body_comes_back)
{
    struct server *s = things("%s", "");
    file_write(at("body"), "");
    must(truncate(at("body"), 20000000) == 0);
    static const char *const ways[] = {"-H X:1", "-H Transfer-Encoding:chunked"};
    for (int i = 0; i < 2; i++) {
        struct output o = curl(s, "-f -o answer %s --data-binary @%s /echo", ways[i], at("body"));
        must_say(o.status == 0, "%s", o.text);
        o = run("cmp -i 9:0 %s %s", at("answer"), at("body"));
        must_say(o.status == 0, "%s", o.text);
    }
    server_stop(s);
}
END_TEST

START_TEST(header_fields_cannot_be_split)
{
    struct server *s = things("%s", "");
    struct heard h = hear_answer(get(s, "/header?name=X-Fine&value=yes"), false);
    must_say(h.status == 200 && strcmp(field(h, "X-Fine"), "yes") == 0, "%s", h.text);
    h = hear_answer(get(s, "/header?name=X-Bad&value=a%%0d%%0aX-Forged:%%20b"), false);
    must_say(h.status == 500 && !strstr(h.text, "Forged"), "%s", h.text);
    h = hear_answer(get(s, "/header?name=Content-Length&value=0"), false);
    must_say(h.status == 500, "%s", h.text);
    server_stop(s);
}
END_TEST

/* ---- The end of a server ------------------------------------------------------------------- */

START_TEST(drain_lets_the_work_finish)
{
    struct server *s = things("%s", "");
    int idle = get(s, "/who");
    must(hear_answer(idle, false).status == 200);
    int c = get(s, "/make?path=%s&seconds=0.5", at("file"));
    wait_made(s, at("file"));
    kill(s->pid, SIGTERM);
    struct heard h = hear(idle);
    must_say(h.length == 0 && !h.reset, "%s", h.text);
    must(is_alive(s->pid));
    struct output o = curl(s, "/who");
    must_say(o.status == 7, "a new caller was not refused: %s", o.text);
    h = hear(c);
    must_say(h.status == 200 && strcasecmp(field(h, "Connection"), "close") == 0 && !h.reset, "%s",
             h.text);
    must(server_wait(s) == 0 && exists(at("file")));
    must(log_has(s, " ok undo=none"));
}
END_TEST

START_TEST(drain_ends_work_that_takes_too_long)
{
    struct server *s = things("--drain 0.3");
    int c = get(s, "/make?path=%s&seconds=60", at("file"));
    wait_made(s, at("file"));
    kill(s->pid, SIGTERM);
    struct heard h = hear(c);
    must_say(h.status == 503 && !h.reset, "%s", h.text);
    must(server_wait(s) == 0 && !exists(at("file")));
    log_wait(s, " drain undo=ok");
}
END_TEST

START_TEST(second_signal_undoes_at_once)
{
    /* SIGTERM twice, SIGINT alone, SIGTERM then SIGINT */
    static const int signals[3][2] = {{SIGTERM, SIGTERM}, {SIGINT, 0}, {SIGTERM, SIGINT}};
    struct server *s = things("--drain 600");
    int c = get(s, "/make?path=%s&seconds=60", at("file"));
    wait_made(s, at("file"));
    kill(s->pid, signals[_i][0]);
    if (signals[_i][1]) {
        /* Two that come together are one to the kernel: the first must have been taken. */
        wait_until(curl(s, "/who").status == 7);
        kill(s->pid, signals[_i][1]);
    }
    struct heard h = hear(c);
    must_say(h.status == 503, "%s", h.text);
    must(server_wait(s) == 0 && !exists(at("file")));
    log_wait(s, " drain undo=ok");
}
END_TEST

START_TEST(drain_answers_the_queue)
{
    struct server *s = things("--requests 1 --drain 0.3");
    int c = get(s, "/make?path=%s&seconds=60", at("file"));
    wait_made(s, at("file"));
    int queued = get(s, "/make?path=%s", at("queued"));
    wait_seen(s);
    kill(s->pid, SIGTERM);
    must(hear(queued).status == 503);
    must(hear(c).status == 503);
    must(server_wait(s) == 0 && !exists(at("file")) && !exists(at("queued")));
}
END_TEST

START_TEST(hangup_while_draining)
{
    struct server *s = things("--drain 600");
    int c = get(s, "/make?path=%s&seconds=60", at("file"));
    wait_made(s, at("file"));
    kill(s->pid, SIGTERM);
    close_fin(c);
    must(server_wait(s) == 0 && !exists(at("file")));
    log_wait(s, " hangup undo=ok");
}
END_TEST

START_TEST(idle_server_leaves)
{
    struct server *s = things("--idle-exit 0.4");
    int c = get(s, "/make?path=%s&seconds=0.8", at("file"));
    must(hear_answer(c, false).status == 200);
    close_fin(c);
    must(server_wait(s) == 0 && exists(at("file")));
}
END_TEST

/* ---- Listening ----------------------------------------------------------------------------- */

START_TEST(several_sockets)
{
    struct server *s = things("--listen 127.0.0.1:0 --listen unix:sock --listen 127.0.0.1:0");
    log_wait(s, "listening on unix:");
    wait_until(log_count(s, "listening on 127.0.0.1:") == 2);
    const char *first = strstr(s->text, "127.0.0.1:"), *second = strstr(first + 5, "127.0.0.1:");
    struct server other = {.port = (unsigned)atoi(second + 10)};
    must(other.port != s->port);
    must(hear_answer(get(s, "/who"), false).status == 200);
    must(hear_answer(get(&other, "/who"), false).status == 200);
    struct output o = curl(s, "--unix-socket sock /who");
    must_say(o.status == 0 && strstr(o.text, "client unix"), "%s", o.text);
    server_stop(s);
    must_say(!exists(at("sock")), "the socket's path was left");
}
END_TEST

static int get_unix(const char *target)
{
    int fd = dial_unix("sock");
    say(fd, "GET %s HTTP/1.1\r\nHost: test\r\n\r\n", target);
    return fd;
}

static const char *format(const char *how, const char *path)
{
    static char text[8192];
    snprintf(text, sizeof(text), "%s%s", how, path);
    return text;
}

START_TEST(unix_answer_is_kept)
{
    struct server *s = things("--listen unix:sock");
    static const char *const kinds[] = {
        "/make?path=", "/stream?path=", "/length?path=", "/big?bytes=2000000&path="};
    for (unsigned i = 0; i < 40; i++) {
        int c = get_unix(format(kinds[i % 4], at("f%u", i)));
        must(hear_answer(c, false).status == 200);
        close_fin(c);
    }
    wait_until(log_count(s, " ok undo=none") == 40);
    for (unsigned i = 0; i < 40; i++)
        must(exists(at("f%u", i)));
    struct output o = run("curl -sS -0 -f --unix-socket sock http://x/stream?path=%s", at("old"));
    must_say(o.status == 0 && exists(at("old")), "%s", o.text);
    server_stop(s);
}
END_TEST

START_TEST(unix_hangup_undoes)
{
    struct server *s = things("--listen unix:sock");
    int c = get_unix(format("/make?seconds=60&path=", at("file")));
    wait_made(s, at("file"));
    close_fin(c);
    log_wait(s, " hangup undo=ok");
    must(!exists(at("file")));
    log_mark(s);
    c = get_unix(format("/big?bytes=5000000&path=", at("file")));
    hear_until(c, "bbb");
    close_fin(c);
    log_wait(s, " hangup undo=ok");
    must(!exists(at("file")));
    server_stop(s);
}
END_TEST

START_TEST(unix_half_close_is_answered)
{
    struct server *s = things("--listen unix:sock");
    int c = get_unix(format("/make?seconds=0.3&path=", at("file")));
    wait_made(s, at("file"));
    shutdown(c, SHUT_WR);
    struct heard h = hear(c);
    must_say(h.status == 200, "%s", h.text);
    log_wait(s, " ok undo=none");
    must(exists(at("file")));
    server_stop(s);
}
END_TEST

START_TEST(unix_answer_that_is_cut)
{
    struct server *s = things("--listen unix:sock");
    /* What must end with the connection is held back whole there: then it is a plain 500. */
    for (int way = 0; way < 4; way++) {
        struct output o = run("curl -sS -f -o body %s --unix-socket sock http://x/cut?%spath=%s",
                              way % 2 ? "-0" : "-H X:1", way / 2 ? "length&" : "", at("file"));
        must_say(o.status != 0, "curl was content: %d: %s", way, o.text);
        wait_until(log_count(s, " error undo=ok") == (unsigned)way + 1);
        must(!exists(at("file")));
    }
    server_stop(s);
}
END_TEST

START_TEST(unix_path_that_was_left)
{
    struct server *s = things("--listen unix:sock");
    server_kill(s, SIGKILL);
    must(exists(at("sock")));
    s = things("--listen unix:sock");
    must(hear_answer(get_unix("/who"), false).status == 200);

    struct output o = run("%s --state %s --listen unix:sock", the_things(), at("state2"));
    must_say(o.status != 0 && strstr(o.text, "sock"), "%s", o.text);
    must(hear_answer(get_unix("/who"), false).status == 200);
    server_stop(s);

    file_write(at("sock"), "not a socket");
    o = run("%s --state %s --listen unix:sock", the_things(), at("state2"));
    must_say(o.status != 0 && strstr(o.text, "sock"), "%s", o.text);
    must(strcmp(file_read(at("sock")), "not a socket") == 0);
}
END_TEST

START_TEST(every_address)
{
    struct server *s = things("--listen :0");
    struct output o = run("curl -sS http://127.0.0.1:%u/who", s->port);
    must_say(o.status == 0 && strstr(o.text, "client 127.0.0.1:"), "%s", o.text);
    if (strstr(log_wait(s, "listening on "), "[::]")) {
        o = run("curl -sS -g http://[::1]:%u/who", s->port);
        must_say(o.status == 0 && strstr(o.text, "client [::1]:"), "%s", o.text);
    }
    server_stop(s);
    s = things("--listen localhost:0");
    log_wait(s, "listening on 127.0.0.1:");
    server_stop(s);
}
END_TEST

START_TEST(ipv6)
{
    struct sockaddr_in6 address = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    int fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
        test_skipped("ipv6", "there is no ::1 here");
        return;
    }
    close(fd);
    struct server *s = things("--listen [::1]:0");
    log_wait(s, "listening on [::1]:");
    struct output o = run("curl -sS -g http://[::1]:%u/who", s->port);
    must_say(o.status == 0 && strstr(o.text, "client [::1]:"), "%s", o.text);
    server_stop(s);
    s = things("--listen :0");
    o = run("curl -sS -f http://127.0.0.1:%u/who", s->port);
    must_say(o.status == 0 && strstr(o.text, "client 127.0.0.1:"), "%s", o.text);
    server_stop(s);
}
END_TEST

START_TEST(address_that_is_taken)
{
    struct server *s = things("%s", "");
    struct output o =
        run("%s --state %s --listen 127.0.0.1:%u", the_things(), at("state2"), s->port);
    char port[16];
    snprintf(port, sizeof(port), ":%u", s->port);
    must_say(o.status == 1 && strstr(o.text, port) && strstr(o.text, "in use"), "%d: %s", o.status,
             o.text);
    server_stop(s);
}
END_TEST

/* A listening socket on the loopback, and its port. */
static int listening_socket(unsigned *port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof(address);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    must(fd >= 0 && bind(fd, (struct sockaddr *)&address, length) == 0 && listen(fd, 64) == 0);
    must(getsockname(fd, (struct sockaddr *)&address, &length) == 0);
    *port = ntohs(address.sin_port);
    return fd;
}

/* Two ends of one TCP connection. */
static int connected_socket(int *client)
{
    struct server here;
    int listener = listening_socket(&here.port);
    *client = dial(&here);
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    must(fd >= 0);
    close(listener);
    return fd;
}

/* Serve the connection that a super-server would hand over: as descriptors 0 to 2, or as systemd
 * does it. The log must not be on it. */
static struct server *serve_connection(bool systemd, int *client, const char *options)
{
    int fd = connected_socket(client);
    struct server *s = systemd ? server_spawn(the_things(), options, -1, false, fd)
                               : server_spawn(the_things(), options, fd, true, -1);
    close(fd);
    return s;
}

START_TEST(handed_connection_is_served)
{
    int c;
    struct server *s = serve_connection(_i, &c, _i ? "" : "--inetd");
    say(c, "GET /make?path=%s HTTP/1.1\r\nHost: test\r\n\r\n", at("one"));
    struct heard h = hear_answer(c, false);
    must_say(strncmp(h.text, "HTTP/1.1 200 OK\r\n", 17) == 0, "%s", h.text);
    say(c, "GET /make?path=%s HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n", at("two"));
    h = hear(c);
    must_say(strncmp(h.text, "HTTP/1.1 200 OK\r\n", 17) == 0 && !h.reset, "%s", h.text);
    must_say(strcmp(h.text + h.length - 5, "made\n") == 0, "more than HTTP came: %s", h.text);
    must(server_wait(s) == 0);
    must(exists(at("one")) && exists(at("two")));
}
END_TEST

START_TEST(handed_connection_that_hangs_up)
{
    int c;
    struct server *s = serve_connection(_i, &c, _i ? "" : "--inetd");
    say(c, "GET /make?path=%s&seconds=60 HTTP/1.1\r\nHost: test\r\n\r\n", at("file"));
    wait_exists(at("file"));
    must(is_quiet(c));
    close_fin(c);
    must(server_wait(s) == 0 && !exists(at("file")));
}
END_TEST

START_TEST(handed_connection_that_says_nothing)
{
    int c;
    struct server *s = serve_connection(_i, &c, _i ? "" : "--inetd");
    close_fin(c);
    must(server_wait(s) == 0);
}
END_TEST

START_TEST(handed_connection_with_trouble)
{
    /* What would be said on stderr elsewhere must not reach the client. */
    int c;
    struct server *s = serve_connection(false, &c, "--inetd");
    say(c, "GET /crash?path=%s HTTP/1.1\r\nHost: test\r\n\r\n", at("file"));
    struct heard h = hear(c);
    must_say(strncmp(h.text, "HTTP/1.1 500 ", 13) == 0, "%s", h.text);
    const char *body = strstr(h.text, "\r\n\r\n") + 4;
    must_say(strlen(body) == strtoul(field(h, "Content-Length"), NULL, 10), "%s", h.text);
    must(server_wait(s) == 0 && !exists(at("file")));
}
END_TEST

START_TEST(handed_listener_is_served)
{
    struct server here;
    int fd = listening_socket(&here.port);
    struct server *s = _i ? server_spawn(the_things(), "--idle-exit 0.5", -1, false, fd)
                          : server_spawn(the_things(), "--inetd --idle-exit 0.5", fd, true, -1);
    for (int i = 0; i < 3; i++) {
        int c = get(&here, "/make?path=%s", at("f%d", i));
        must(hear_answer(c, false).status == 200);
        close_fin(c);
    }
    int c = get(&here, "/make?path=%s&seconds=60", at("file"));
    wait_exists(at("file"));
    close_fin(c);
    wait_gone(at("file"));
    must(server_wait(s) == 0);
    for (int i = 0; i < 3; i++)
        must(exists(at("f%d", i)));
    close(fd);
}
END_TEST

START_TEST(descriptor_that_is_no_socket)
{
    const char *argv[] = {the_hangupd(), "--inetd", "--state", at("state"), NULL};
    struct output o = run_argv(argv, "GET / HTTP/1.0\r\n\r\n", true);
    must_say(o.status != 0 && strstr(o.text, "socket") && strstr(o.text, "--inetd"), "%d: %s",
             o.status, o.text);
    must(!state_is_there());
}
END_TEST

/* Find PROGRAM where the Makefile may have put it. */
static bool find_program(const char *program, char *path, size_t size)
{
    const char *value = getenv("PATH");
    char *search = strdup(value ? value : ""), *rest_of_it = search;
    bool found = false;
    for (char *directory; !found && (directory = strsep(&rest_of_it, ":"));) {
        snprintf(path, size, "%s/%s", directory, program);
        found = access(path, X_OK) == 0;
    }
    free(search);
    return found;
}

static void stop_daemon(pid_t pid)
{
    int status;
    kill(pid, SIGTERM);
    must(waitpid(pid, &status, 0) == pid);
}

static bool port_is_open(unsigned port)
{
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
                                  .sin_port = htons((uint16_t)port)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool open_there = connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0;
    close(fd);
    return open_there;
}

static const char *user_name(void)
{
    const struct passwd *user = getpwuid(geteuid());
    must(user);
    return user->pw_name;
}

/* Requests through a super-server on PORT: answered, hung up, and again. */
static void use_super_server(unsigned port, pid_t daemon)
{
    struct server there = {.port = port};
    int64_t deadline = now_ms() + PATIENCE_MS;
    while (!port_is_open(port)) {
        must_say(now_ms() < deadline, "%s", file_read(at("daemon.log")));
        rest();
    }
    for (int i = 0; i < 3; i++) {
        int c = dial(&there);
        say(c, "GET /make?path=%s HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n",
            at("f%d", i));
        struct heard h = hear(c);
        must_say(strncmp(h.text, "HTTP/1.1 200 OK\r\n", 17) == 0 && !h.reset &&
                     strcmp(h.text + h.length - 5, "made\n") == 0,
                 "%s\n%s", h.text, file_read(at("daemon.log")));
        close(c);
        must(exists(at("f%d", i)));
    }
    struct output o = curl(&there, "-f /who");
    must_say(o.status == 0 && strstr(o.text, "client 127.0.0.1:"), "%s", o.text);
    int c = get(&there, "/tree?path=%s&seconds=60", at("tree"));
    wait_exists(at("tree/below/two"));
    close_fin(c);
    wait_gone(at("tree"));
    wait_until(!state_is_there());
    stop_daemon(daemon);
    wait_no_process();
    nothing_left();
}

START_TEST(xinetd)
{
    char program[4096], config[16384];
    unsigned port;
    if (!find_program("xinetd", program, sizeof(program))) {
        test_skipped("xinetd", "it is not installed");
        return;
    }
    close(listening_socket(&port));
    snprintf(config, sizeof(config),
             "defaults\n{\n    log_type = FILE %s\n    instances = UNLIMITED\n    cps = 1000 1\n}\n"
             "service hangupd\n{\n    type = UNLISTED\n    bind = 127.0.0.1\n    port = %u\n"
             "    socket_type = stream\n    protocol = tcp\n    wait = %s\n    user = %s\n"
             "    server = %s\n    server_args = --inetd --state %s %s\n}\n",
             at("xinetd.log"), port, _i ? "yes" : "no", user_name(), the_things(), at("state"),
             _i ? "--idle-exit 0.3" : "");
    file_write(at("xinetd.conf"), config);
    char command[16384];
    snprintf(command, sizeof(command), "exec %s -f %s -dontfork -pidfile %s >daemon.log 2>&1",
             program, at("xinetd.conf"), at("pid"));
    use_super_server(port, start_shell(command));
}
END_TEST

START_TEST(inetd)
{
    char program[4096], config[16384];
    unsigned port;
    if (!find_program("inetd", program, sizeof(program))) {
        test_skipped("inetd", "it is not installed");
        return;
    }
    close(listening_socket(&port));
    snprintf(config, sizeof(config),
             "127.0.0.1:%u stream tcp %s %s %s hangupd --inetd --state %s %s\n", port,
             _i ? "wait" : "nowait.1000", user_name(), the_things(), at("state"),
             _i ? "--idle-exit 0.3" : "");
    file_write(at("inetd.conf"), config);
    char command[16384];
    snprintf(command, sizeof(command), "exec %s -i -E %s >daemon.log 2>&1", program,
             at("inetd.conf"));
    use_super_server(port, start_shell(command));
}
END_TEST

/* ---- The README's snippets, as they stand but for what differs here ------------ */

static void use_readme_snippet(const char *info, const char *daemon, const char *arguments)
{
    char program[4096], command[16384], number[16];
    unsigned port;
    if (!find_program(daemon, program, sizeof(program))) {
        test_skipped(daemon, "it is not installed");
        return;
    }
    close(listening_socket(&port));
    snprintf(number, sizeof(number), "%u", port);
    char *config = readme_block(info, "hangupd");
    config = replaced(config, "8080", number);
    config = replaced(config, "nobody", user_name());
    config = replaced(config, "/usr/local/bin/hangupd", the_things());
    config = replaced(config, "/var/lib/hangupd", at("state"));
    file_write(at("readme.conf"), config);
    free(config);
    snprintf(command, sizeof(command), "exec %s %s >daemon.log 2>&1", program, arguments);
    use_super_server(port, start_shell(command));
}

START_TEST(readme_xinetd)
{
    use_readme_snippet("xinetd", "xinetd", "-f readme.conf -dontfork -pidfile pid");
}
END_TEST

START_TEST(readme_inetd)
{
    use_readme_snippet("inetd.conf", "inetd", "-i -E readme.conf");
}
END_TEST

/* What systemd would do with the two units: no systemd runs here, so a starter stands for it. */
START_TEST(readme_systemd)
{
    char *unit =
        replaced(readme_block("systemd", "# hangupd.service"), "/var/lib/hangupd", at("state"));
    const char *start = strstr(unit, "ExecStart=/usr/local/bin/hangupd ");
    must_say(start, "%s", unit);
    start += strlen("ExecStart=/usr/local/bin/hangupd ");
    char *words = strndup(start, strcspn(start, "\n"));
    must(words);
    struct server here;
    int fd = listening_socket(&here.port);
    struct server *s = server_spawn(the_things(), words, -1, false, fd);
    int c = get(&here, "/make?path=%s", at("kept"));
    must(hear_answer(c, false).status == 200);
    close_fin(c);
    c = get(&here, "/make?path=%s&seconds=60", at("file"));
    wait_exists(at("file"));
    close_fin(c);
    wait_gone(at("file"));
    kill(s->pid, SIGTERM);
    must(server_wait(s) == 0 && exists(at("kept")));
    close(fd);
    free(words);
    free(unit);
}
END_TEST

START_TEST(user_is_dropped_for_good)
{
    if (geteuid() != 0) {
        test_skipped("user_is_dropped_for_good", "not root");
        return;
    }
    struct server *s = things("--user nobody");
    const struct passwd *user = getpwnam("nobody");
    must(user);
    char path[64], uids[128], gids[128];
    snprintf(path, sizeof(path), "/proc/%d/status", (int)s->pid);
    snprintf(uids, sizeof(uids), "Uid:\t%u\t%u\t%u\t%u\n", user->pw_uid, user->pw_uid, user->pw_uid,
             user->pw_uid);
    snprintf(gids, sizeof(gids), "Gid:\t%u\t%u\t%u\t%u\nFDSize", user->pw_gid, user->pw_gid,
             user->pw_gid, user->pw_gid);
    char *status = file_read(path);
    must_say(strstr(status, uids) && strstr(status, gids), "%s", status);
    char *groups = strstr(status, "\nGroups:");
    must_say(groups && strtoul(groups + 8, NULL, 10) != 0, "%s", status);
    must_say(strstr(status, "CapEff:\t0000000000000000\n"), "%s", status);

    must(mkdir(at("theirs"), 0777) == 0 && chown(at("theirs"), user->pw_uid, user->pw_gid) == 0);
    int c = get(s, "/tree?path=%s&seconds=60", at("theirs/tree"));
    wait_made(s, at("theirs/tree"));
    struct stat st;
    must(stat(at("theirs/tree/one"), &st) == 0 && st.st_uid == user->pw_uid);
    close_fin(c);
    log_wait(s, " hangup undo=ok");
    must(!exists(at("theirs/tree")));

    /* The death signal must have survived the change of user. */
    (void)get(s, "/make?path=%s&seconds=60", at("theirs/file"));
    pid_t pid = wait_made(s, at("theirs/file"));
    server_kill(s, SIGKILL);
    wait_until(!is_alive(pid));
    must(!exists(at("theirs/file")));
    s = things("--user nobody");
    server_stop(s);
}
END_TEST

/* The groups are those of /etc/group, and not root's. */
START_TEST(user_has_groups)
{
    if (geteuid() != 0 || !private_mounts()) {
        test_skipped("user_has_groups", "not root, or no mounts of one's own");
        return;
    }
    file_write(at("passwd"), "root:x:0:0::/:/bin/sh\nsomebody:x:4711:4712::/:/bin/sh\n");
    file_write(at("group"), "root:x:0:root\nfirst:x:4801:root,somebody\nown:x:4712:\n"
                            "not:x:4802:root\nneither:x:4803:somebody2\nlast:x:4804:somebody\n");
    must(mount(at("passwd"), "/etc/passwd", NULL, MS_BIND, NULL) == 0 &&
         mount(at("group"), "/etc/group", NULL, MS_BIND, NULL) == 0);
    struct server *s = things("--user somebody");
    char path[64];
    snprintf(path, sizeof(path), "/proc/%d/status", (int)s->pid);
    char *status = file_read(path);
    must_say(strstr(status, "\nUid:\t4711\t4711\t4711\t4711\nGid:\t4712\t4712\t4712\t4712\n"), "%s",
             status);
    must_say(strstr(status, "\nGroups:\t4712 4801 4804 \n"), "%s", status);
    server_stop(s);
}
END_TEST

START_TEST(user_that_is_not_there)
{
    struct output o = run("%s --state %s --listen 127.0.0.1:0 --user no-such-user-at-all",
                          the_hangupd(), at("state"));
    must_say(o.status == 1 && strstr(o.text, "no-such-user-at-all"), "%d: %s", o.status, o.text);
    must(!state_is_there());
}
END_TEST

START_TEST(root_is_warned)
{
    struct server *s = things("%s", "");
    must(log_count(s, "--user") == (geteuid() == 0 ? 1 : 0));
    server_stop(s);
}
END_TEST

/* ---- The log ------------------------------------------------------------------------------- */

START_TEST(outcomes_in_text)
{
    struct server *s = things("--grace 0.2 --drain 0.2");
    must(hear_answer(get(s, "/make?path=%s", at("ok")), false).status == 200);
    log_wait(s, "\" 200 5 ");
    log_wait(s, "ms ok undo=none");
    must(hear_answer(get(s, "/status?code=418&path=%s", at("e")), false).status == 418);
    log_wait(s, "\" 418 9 ");
    log_wait(s, "ms error undo=ok");
    must(hear_answer(get(s, "/nowhere"), false).status == 404);
    log_wait(s, "\"GET /nowhere HTTP/1.1\" 404 ");
    log_wait(s, "ms error undo=none");
    int c = get(s, "/make?path=%s&seconds=60", at("h"));
    wait_made(s, at("h"));
    close_fin(c);
    log_wait(s, "\" - 0 ");
    log_wait(s, "ms hangup undo=ok");
    struct heard slow = hear_answer(get(s, "/brief?path=%s&seconds=60", at("t")), false);
    log_wait(s, "\" 504 %s ", field(slow, "Content-Length"));
    log_wait(s, "ms timeout undo=ok");
    struct heard crashed = hear_answer(get(s, "/crash?path=%s", at("c")), false);
    log_wait(s, "\" 500 %s ", field(crashed, "Content-Length"));
    log_wait(s, "ms crash undo=ok");
    c = get(s, "/make?path=%s&seconds=60", at("k"));
    kill(wait_made(s, at("k")), SIGKILL);
    log_wait(s, "ms killed undo=ok");
    close(c);
    (void)get(s, "/make?path=%s&seconds=60", at("d"));
    wait_made(s, at("d"));
    server_stop(s);
    log_wait(s, "ms drain undo=ok");
    static const char *const outcomes[] = {"ok", "hangup", "timeout", "crash", "killed", "drain"};
    for (unsigned i = 0; i < 6; i++) {
        char text[32];
        snprintf(text, sizeof(text), "ms %s undo=", outcomes[i]);
        must_say(log_count(s, text) == 1, "%s", outcomes[i]);
    }
    must(log_count(s, "ms error undo=") == 2);
}
END_TEST

/* Check every line of the log with a Python expression that is given the line as L. */
static void check_lines(const struct server *s, const char *expression)
{
    char script[4096];
    snprintf(script, sizeof(script),
             "import json, re, sys\n"
             "lines = sys.stdin.read().splitlines()\n"
             "assert lines\n"
             "for L in lines:\n"
             "    assert %s, L\n",
             expression);
    const char *argv[] = {"python3", "-c", script, NULL};
    struct output o = run_argv(argv, s->text, true);
    must_say(o.status == 0, "%s", o.text);
}

static void make_trouble(struct server *s)
{
    static const char *const requests[] = {
        "GET /who?\"\\\x1b[31m\x7f\x80\xff HTTP/1.1\r\nHost: test\r\n\r\n",
        "GET /logs?text=%0a2026-01-01T00:00:00.000Z%20forged%0d%1b%22%5c%c3%a9 HTTP/1.0\r\n\r\n",
        "GET /logs?text=%0d%0a{\"time\":\"forged\"} HTTP/1.1\r\nHost: test\r\n\r\n",
        "\n\n\x01\x02\n\nforged\n\n",
        "GET / HTTP/9.9\r\n\r\n",
        "\r\n\r\nGET /who HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n",
    };
    for (unsigned i = 0; i < sizeof(requests) / sizeof(requests[0]); i++) {
        int c = dial(s);
        say(c, "%s", requests[i]);
        shutdown(c, SHUT_WR);
        hear(c);
        close(c);
    }
    must(hear_answer(get(s, "/make?path=%s", at("ok")), false).status == 200);
    hear_answer(get(s, "/crash?path=%s", at("crash")), false);
    int c = get(s, "/make?path=%s&seconds=60", at("file"));
    wait_made(s, at("file"));
    close_fin(c);
    wait_gone(at("file"));
}

START_TEST(text_lines_cannot_be_forged)
{
    struct server *s = things("%s", "");
    make_trouble(s);
    log_wait(s, "\"GET /who?\\\"\\\\\\x1b[31m\\x7f\\x80\\xff HTTP/1.1\" ");
    server_stop(s);
    log_has(s, "%s", "");
    check_lines(s, "re.match(r'20\\d\\d-\\d\\d-\\d\\dT\\d\\d:\\d\\d:\\d\\d\\.\\d\\d\\dZ "
                   "(-|[0-9a-f]{16}-[0-9a-f]+) [ -~]+$', L)");
    check_lines(s, "' undo=' not in L or re.match(r'\\S+ \\S+ 127\\.0\\.0\\.1:\\d+ "
                   "\"([^\"\\\\]|\\\\[\"\\\\]|\\\\x[0-9a-f]{2})*\" (\\d\\d\\d|-) \\d+ \\d+ms "
                   "(ok|error|hangup|timeout|crash|drain|killed) undo=(none|ok|failed)$', L)");
}
END_TEST

START_TEST(json_lines_can_be_parsed)
{
    struct server *s = things("--log json");
    make_trouble(s);
    log_wait(s, "\"outcome\":\"hangup\",\"undo\":\"ok\"");
    server_stop(s);
    log_has(s, "%s", "");
    check_lines(s, "json.loads(L)['time'][10] == 'T' and 'id' in json.loads(L)");
    check_lines(s, "'event' in json.loads(L) or set(json.loads(L)) == "
                   "{'time','id','client','request','status','bytes','ms','outcome','undo'}");
    check_lines(s, "json.loads(L).get('request', '') is None or "
                   "isinstance(json.loads(L).get('request', ''), str)");
    check_lines(s, "json.loads(L)['time'] != 'forged' and L.isascii()");
}
END_TEST

START_TEST(log_that_nobody_reads_holds_up_nobody)
{
    struct server *s = things("%s", "");
    fcntl(s->log, F_SETPIPE_SZ, 4096);
    for (unsigned i = 0; i < 150; i++)
        must(hear_answer(get(s, "/who?0123456789012345678901234567890123456789"), false).status ==
             200);
    server_stop(s);
    must(log_count(s, "\"GET /who") < 150);
}
END_TEST

/* A /dev of this test's own, with a socket for the syslog in it; -1: not allowed here. */
static int private_syslog(void)
{
    static const char *const devices[] = {"null", "zero", "random", "urandom", "full", "tty"};
    if (!private_mounts() || !mount_small(at("dev"), "1m") || chmod(at("dev"), 0755) < 0)
        return -1;
    for (unsigned i = 0; i < sizeof(devices) / sizeof(devices[0]); i++) {
        char device[32];
        snprintf(device, sizeof(device), "/dev/%s", devices[i]);
        file_write(at("dev/%s", devices[i]), "");
        if (mount(device, at("dev/%s", devices[i]), NULL, MS_BIND, NULL) < 0)
            return -1;
    }
    if (mount(at("dev"), "/dev", NULL, MS_BIND | MS_REC, NULL) < 0)
        return -1;
    struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = "/dev/log"};
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    struct timeval patience = {.tv_sec = PATIENCE_MS / 1000};
    must(fd >= 0 && bind(fd, (struct sockaddr *)&address, sizeof(address)) == 0 &&
         chmod("/dev/log", 0666) == 0 &&
         setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)) == 0);
    return fd;
}

/* Wait for a message with TEXT. */
static void syslog_wait(int fd, const char *text)
{
    char message[8192];
    int64_t deadline = now_ms() + PATIENCE_MS;
    for (;;) {
        ssize_t n = recv(fd, message, sizeof(message) - 1, 0);
        must_say(n > 0 && now_ms() < deadline, "no message with: %s", text);
        message[n] = '\0';
        must_say(message[0] == '<' && strstr(message, "hangupd"), "%s", message);
        if (strstr(message, text))
            return;
    }
}

START_TEST(log_to_syslog)
{
    int syslog = private_syslog();
    if (syslog < 0) {
        test_skipped("log_to_syslog", "mounting is not allowed here");
        return;
    }
    if (_i == 0) {
        struct server *s =
            server_spawn(the_hangupd(), "--log-to syslog --listen unix:sock", -1, false, -1);
        syslog_wait(syslog, "listening on unix:");
        struct output o = run("curl -sS --unix-socket sock http://x/a?seconds=0");
        must_say(o.status == 0, "%s", o.text);
        syslog_wait(syslog, "new file ");
        syslog_wait(syslog, " ok undo=none");
        must(unlink(at("tmp/txt")) == 0);
        server_stop(s);
        must_say(s->length == 0, "on stderr: %s", s->text);
        return;
    }
    /* inetd's log goes there by itself. */
    int c;
    struct server *s = serve_connection(false, &c, "--inetd");
    say(c, "GET /make?path=%s&seconds=60 HTTP/1.1\r\nHost: test\r\n\r\n", at("file"));
    syslog_wait(syslog, "made ");
    close_fin(c);
    syslog_wait(syslog, " hangup undo=ok");
    must(server_wait(s) == 0);
}
END_TEST

/* ---- The command line ---------------------------------------------------------------------- */

static const struct {
    const char *words, *wrong, *right; /* what the message must name */
} mistakes[] = {
    {"--bogus", "--bogus", "--help"},
    {"-z", "-z", "--help"},
    {"--requests many", "--requests", "many"},
    {"--requests 0", "--requests", "0"},
    {"--requests -1", "--requests", "-1"},
    {"--requests", "--requests", ""},
    {"--connections 1.5", "--connections", "1.5"},
    {"--per-client x", "--per-client", "x"},
    {"--timeout 5y", "--timeout", "5y"},
    {"--grace -1", "--grace", "-1"},
    {"--undo-at-once 0", "--undo-at-once", "0"},
    {"--undo-retries x", "--undo-retries", "x"},
    {"--undo-timeout x", "--undo-timeout", "x"},
    {"--drain forever", "--drain", "forever"},
    {"--queue-timeout x", "--queue-timeout", "x"},
    {"--header-timeout x", "--header-timeout", "x"},
    {"--body-timeout x", "--body-timeout", "x"},
    {"--idle-timeout x", "--idle-timeout", "x"},
    {"--send-timeout x", "--send-timeout", "x"},
    {"--dead-peer x", "--dead-peer", "x"},
    {"--idle-exit x", "--idle-exit", "x"},
    {"--max-body 12q", "--max-body", "12q"},
    {"--max-header x", "--max-header", "x"},
    {"--max-target x", "--max-target", "x"},
    {"--listen 127.0.0.1", "--listen", "PORT"},
    {"--listen 127.0.0.1:99999", "99999", ""},
    {"--listen [::1:80", "--listen", "[::1:80"},
    {"--listen unix:", "--listen", "unix:"},
    {"--listen no.such.host:80", "no.such.host", "address"},
    {"--listen [fe80::1%nosuchlink]:80", "fe80::1%nosuchlink", "address"},
    {"--half-close maybe", "--half-close", "probe"},
    {"--on-hangup cry", "--on-hangup", "undo"},
    {"--log xml", "--log", "json"},
    {"--log-to file", "--log-to", "syslog"},
    {"a=@a", "a=@a", "/"},
    {"/a", "/a", "="},
    {"/a=@nobody", "@nobody", "@a"},
    {"/a=", "/a=", ""},
    {"/a=@a,colour=red", "colour", "timeout"},
    {"/a=@a,timeout=x", "timeout", "x"},
    {"/a=@a,half-close=x", "half-close", "probe"},
    {"/a=@a,on-hangup=x", "on-hangup", "finish"},
    {"/a=@a /a=@a", "/a", ""},
};

START_TEST(mistake_is_explained)
{
    struct output o = run("%s --state %s --listen 127.0.0.1:0 %s", the_hangupd(), at("state"),
                          mistakes[_i].words);
    must_say(o.status == 2, "%s: %d: %s", mistakes[_i].words, o.status, o.text);
    must_say(strstr(o.text, mistakes[_i].wrong) && strstr(o.text, mistakes[_i].right), "%s: %s",
             mistakes[_i].words, o.text);
    must(!state_is_there());
}
END_TEST

START_TEST(help_names_every_option)
{
    static const char *const options[] = {
        "--listen",         "--inetd",        "--idle-exit",    "--user",
        "--requests",       "--connections",  "--per-client",   "--queue-timeout",
        "--header-timeout", "--body-timeout", "--timeout",      "--idle-timeout",
        "--send-timeout",   "--dead-peer",    "--grace",        "--drain",
        "--max-body",       "--max-header",   "--max-target",   "--half-close",
        "--on-hangup",      "--state",        "--sync",         "--log",
        "--log-to",         "--help",         "--version",      "timeout=",
        "on-hangup=",       "half-close=",    "127.0.0.1:8080", "--undo-timeout",
        "--undo-retries",   "--undo-at-once", "hangupd undo",   "hangupd recover",
    };
    const char *argv[] = {the_hangupd(), "--help", NULL};
    struct output o = run_argv(argv, NULL, false);
    must(o.status == 0);
    for (unsigned i = 0; i < sizeof(options) / sizeof(options[0]); i++)
        must_say(strstr(o.text, options[i]), "%s is not in --help", options[i]);
    argv[1] = "--version";
    o = run_argv(argv, NULL, false);
    must_say(o.status == 0 && strncmp(o.text, "hangupd ", 8) == 0, "%s", o.text);
}
END_TEST

START_TEST(state_that_cannot_be_used)
{
    struct output o;
    file_write(at("file"), "");
    o = run("%s --listen 127.0.0.1:0 --state %s", the_hangupd(), at("file"));
    must_say(o.status == 1 && strstr(o.text, at("file")), "%d: %s", o.status, o.text);
    must(mkdir(at("open"), 0755) == 0);
    o = run("%s --listen 127.0.0.1:0 --state %s", the_hangupd(), at("open"));
    must_say(o.status == 1 && strstr(o.text, at("open")) && strstr(o.text, "700"), "%d: %s",
             o.status, o.text);
    if (geteuid() != 0)
        return;
    must(mkdir(at("theirs"), 0700) == 0 && chown(at("theirs"), 65534, 65534) == 0);
    o = run("%s --listen 127.0.0.1:0 --state %s", the_hangupd(), at("theirs"));
    must_say(o.status == 1 && strstr(o.text, at("theirs")) && strstr(o.text, "another user"),
             "%d: %s", o.status, o.text);
}
END_TEST

START_TEST(state_is_private)
{
    struct server *s = things("%s", "");
    int c = get(s, "/make?path=%s&seconds=60", at("file"));
    wait_made(s, at("file"));
    struct output o = run("find %s -perm /077", at("state"));
    must_say(o.length == 0, "%s", o.text);
    o = run("grep -r -l unlink-if %s", at("state"));
    must_say(o.status == 0, "there is no ledger: %s", run("ls -lR %s", at("state")).text);
    close_fin(c);
    log_wait(s, " hangup undo=ok");
    server_stop(s);
}
END_TEST

/* -------------------------------------------------------------------------------------------- */

#define COUNT(array) ((int)(sizeof(array) / sizeof((array)[0])))

static Suite *server_suite(void)
{
    Suite *suite = suite_create("server");
    TCase *t = theme(suite, "demonstration");
    tcase_add_test(t, transcript);
    tcase_add_test(t, demonstration_takes_four_seconds);
    tcase_add_test(t, demonstration_for_two_callers);
    tcase_add_test(t, demonstration_refuses_odd_seconds);

    t = theme(suite, "hangup");
    tcase_add_loop_test(t, hangup_removes_the_file, 0, WAYS);
    tcase_add_loop_test(t, hangup_removes_the_tree_and_the_scratch, 0, WAYS);
    tcase_add_test(t, answer_keeps_the_tree_but_not_the_scratch);
    tcase_add_loop_test(t, hangup_removes_what_was_recorded, 0, WAYS);
    tcase_add_loop_test(t, hangup_keeps_what_was_committed, 0, WAYS);
    tcase_add_loop_test(t, hangup_with_nothing_made, 0, WAYS);
    tcase_add_loop_test(t, hangup_behind_pipelined_bytes, 0, WAYS);
    tcase_add_loop_test(t, hangup_behind_an_ignored_body, 0, WAYS);
    tcase_add_loop_test(t, hangup_inside_the_body_starts_no_work, 0, WAYS);
    tcase_add_test(t, hangup_in_the_packet_of_the_request);
    tcase_add_loop_test(t, hangup_touches_no_neighbour, 0, WAYS);
    tcase_add_loop_test(t, hangup_when_a_neighbour_holds_no_socket, 0, WAYS);
    tcase_add_test(t, end_of_a_child_is_noticed_without_a_signal);
    tcase_add_loop_test(t, child_has_its_own_connection_alone, 0, WAYS + 1);
    tcase_add_loop_test(t, finish_goes_on_after_a_hangup, 0, WAYS);

    t = theme(suite, "half-close");
    tcase_add_loop_test(t, probe_answers_a_half_closed_client, 0, 2);
    tcase_add_test(t, probe_comes_once);
    tcase_add_test(t, no_probe_without_a_fin);
    tcase_add_loop_test(t, fin_of_http10_is_a_hangup, 0, 2);
    tcase_add_loop_test(t, hangup_policy_takes_a_half_close_for_a_hangup, 0, COUNT(hangup_policy));
    tcase_add_test(t, hangup_policy_when_closed);
    tcase_add_loop_test(t, ignore_policy_answers_a_half_closed_client, 0, 2);
    tcase_add_test(t, ignore_policy_undoes_for_a_closed_client_at_the_end);
    tcase_add_test(t, ignore_policy_takes_a_reset);

    t = theme(suite, "queue");
    tcase_add_loop_test(t, hangup_in_the_queue, 0, COUNT(queued_ways));
    tcase_add_test(t, queue_is_served_in_order);
    tcase_add_test(t, queue_timeout_is_503);
    tcase_add_test(t, one_address_has_a_limit);
    tcase_add_test(t, incomplete_head_gives_way);
    tcase_add_test(t, slow_body_gives_way);
    tcase_add_loop_test(t, slow_reader_gives_way, 0, 2);
    tcase_add_test(t, complete_head_does_not_give_way);
    tcase_add_test(t, connection_limit_ends_the_oldest_idle_one);

    t = theme(suite, "delivery");
    tcase_add_loop_test(t, hangup_in_a_streamed_answer, 0, 2 * WAYS);
    tcase_add_loop_test(t, hangup_before_the_end_of_a_big_answer, 0, WAYS);
    tcase_add_test(t, client_that_does_not_read_is_given_up);
    tcase_add_test(t, slow_reader_that_makes_progress_is_served);
    tcase_add_test(t, reset_after_the_orderly_end_is_too_late);
    tcase_add_test(t, answer_read_to_its_end_is_kept);
    tcase_add_test(t, reset_at_the_end_is_judged_one_way);
    tcase_add_test(t, http10_answer_is_kept);
    tcase_add_loop_test(t, cut_answer_is_seen_as_cut, 0, COUNT(cuts));
    tcase_add_test(t, failure_after_a_whole_answer_is_told);
    tcase_add_test(t, answer_cut_by_a_limit_or_the_end_is_seen_as_cut);
    tcase_add_test(t, answer_cut_by_the_death_of_all_is_seen_as_cut);
    tcase_add_loop_test(t, answer_that_cannot_be_recorded_is_an_error, 0, 2);

    t = theme(suite, "death");
    tcase_add_test(t, crash_undoes);
    tcase_add_loop_test(t, kill_of_the_child_undoes, 0, 4);
    tcase_add_test(t, answer_that_a_killed_child_cannot_finish_is_undone);
    tcase_add_loop_test(t, killed_janitor_leaves_its_question_to_the_next, 0, WAYS + 1);
    tcase_add_loop_test(t, hangup_reaches_a_stopped_child, 0, WAYS);
    tcase_add_test(t, time_limit_reaches_a_stopped_child);
    tcase_add_test(t, child_undoes_when_the_server_is_killed);
    tcase_add_test(t, next_start_undoes_when_both_are_killed);
    tcase_add_test(t, next_start_ends_what_still_runs_first);
    tcase_add_test(t, next_start_leaves_the_living_alone);
    tcase_add_test(t, next_start_keeps_a_file_that_took_the_name);

    t = theme(suite, "files");
    tcase_add_test(t, second_caller_is_told_that_the_file_is_taken);
    tcase_add_test(t, file_that_was_there_stays);
    tcase_add_test(t, two_overwriters_do_not_remove_each_others_file);
    tcase_add_loop_test(t, foreign_file_that_took_the_name_stays, 0, 2);
    tcase_add_test(t, foreign_directory_that_took_the_name_stays);
    tcase_add_test(t, tree_with_a_link_out_of_it);
    tcase_add_test(t, undo_keeps_errors_of_400_and_more);
    tcase_add_loop_test(t, handler_without_an_answer_gets_500, 0, 2);
    tcase_add_test(t, directory_that_is_not_there);
    tcase_add_test(t, directory_that_cannot_be_written);
    tcase_add_test(t, disk_that_is_full);
    tcase_add_test(t, ledger_on_a_full_disk);
    tcase_add_test(t, disk_that_is_full_when_a_request_is_undone);
    tcase_add_test(t, undo_that_fails_stays_on_record);

    t = theme(suite, "processes");
    tcase_add_loop_test(t, second_thread_does_not_outlive_the_request, 0, WAYS);
    tcase_add_loop_test(t, forked_processes_do_not_outlive_the_request, 0, 4);
    tcase_add_test(t, killed_server_leaves_no_forked_process);
    tcase_add_test(t, forked_processes_touch_no_neighbour);
    tcase_add_test(t, server_ends_only_what_it_started);
    tcase_add_test(t, child_has_no_descriptor_of_others);

    t = theme(suite, "limits");
    tcase_add_loop_test(t, time_limit_is_504_after_undo, 0, 3);
    tcase_add_loop_test(t, late_request_is_408, 0, COUNT(late));
    tcase_add_test(t, trickled_header_is_408);
    tcase_add_test(t, body_that_makes_progress_is_served);
    tcase_add_test(t, idle_connection_is_closed);
    tcase_add_test(t, too_much_is_refused);
    tcase_add_test(t, refusal_is_read_by_a_client_that_goes_on_sending);
    tcase_add_test(t, body_of_the_largest_size_is_taken);
    tcase_add_test(t, no_descriptor_left_is_503);

    t = theme(suite, "http");
    tcase_add_test(t, connection_is_used_again);
    tcase_add_test(t, curl_uses_the_connection_again);
    tcase_add_test(t, http10_connection_is_closed);
    tcase_add_test(t, pipelined_requests_are_answered_in_order);
    tcase_add_test(t, request_is_told_to_the_handler);
    tcase_add_test(t, methods);
    tcase_add_test(t, wrong_requests_are_400);
    tcase_add_test(t, expectation_is_met);
    tcase_add_test(t, expectation_is_refused_before_the_body);
    tcase_add_test(t, large_body_comes_back);
    tcase_add_test(t, header_fields_cannot_be_split);

    t = theme(suite, "end");
    tcase_add_test(t, drain_lets_the_work_finish);
    tcase_add_test(t, drain_ends_work_that_takes_too_long);
    tcase_add_loop_test(t, second_signal_undoes_at_once, 0, 3);
    tcase_add_test(t, drain_answers_the_queue);
    tcase_add_test(t, hangup_while_draining);
    tcase_add_test(t, idle_server_leaves);

    t = theme(suite, "listening");
    tcase_add_test(t, several_sockets);
    tcase_add_test(t, unix_answer_is_kept);
    tcase_add_test(t, unix_hangup_undoes);
    tcase_add_test(t, unix_half_close_is_answered);
    tcase_add_test(t, unix_answer_that_is_cut);
    tcase_add_test(t, unix_path_that_was_left);
    tcase_add_test(t, every_address);
    tcase_add_test(t, ipv6);
    tcase_add_test(t, address_that_is_taken);
    tcase_add_loop_test(t, handed_connection_is_served, 0, 2);
    tcase_add_loop_test(t, handed_connection_that_hangs_up, 0, 2);
    tcase_add_loop_test(t, handed_connection_that_says_nothing, 0, 2);
    tcase_add_test(t, handed_connection_with_trouble);
    tcase_add_loop_test(t, handed_listener_is_served, 0, 2);
    tcase_add_test(t, descriptor_that_is_no_socket);
    tcase_add_loop_test(t, xinetd, 0, 2);
    tcase_add_loop_test(t, inetd, 0, 2);
    tcase_add_test(t, readme_xinetd);
    tcase_add_test(t, readme_inetd);
    tcase_add_test(t, readme_systemd);
    tcase_add_test(t, user_is_dropped_for_good);
    tcase_add_test(t, user_has_groups);
    tcase_add_test(t, user_that_is_not_there);
    tcase_add_test(t, root_is_warned);

    t = theme(suite, "log");
    tcase_add_test(t, outcomes_in_text);
    tcase_add_test(t, text_lines_cannot_be_forged);
    tcase_add_test(t, json_lines_can_be_parsed);
    tcase_add_test(t, log_that_nobody_reads_holds_up_nobody);
    tcase_add_loop_test(t, log_to_syslog, 0, 2);

    t = theme(suite, "command line");
    tcase_add_loop_test(t, mistake_is_explained, 0, COUNT(mistakes));
    tcase_add_test(t, help_names_every_option);
    tcase_add_test(t, state_that_cannot_be_used);
    tcase_add_test(t, state_is_private);
    return suite;
}

int main(void)
{
    return run_suite(server_suite());
}
