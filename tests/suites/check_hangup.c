/* check_hangup.c: what a caller's hangup undoes, and when a half-closed connection is one. */
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness.h"

SUITE();

/* ---- The demonstration --------------------------------------------------------------------- */

THEME("demonstration");

TEST(transcript)
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

TEST(demonstration_takes_four_seconds)
{
    struct server *s = hangupd("%s", "");
    int64_t start = now_ms();
    struct output o = curl(s, "/a");
    must_say(o.status == 0 && now_ms() - start >= 4000, "%d: %s", o.status, o.text);
    must(unlink(at("tmp/txt")) == 0);
    server_stop(s);
}

TEST(demonstration_for_two_callers)
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

TEST(demonstration_refuses_odd_seconds)
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

/* ---- Hangup -------------------------------------------------------------------------------- */

THEME("hangup");

TEST_TIMES(hangup_removes_the_file, WAYS)
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

TEST_TIMES(hangup_removes_the_tree_and_the_scratch, WAYS)
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

TEST(answer_keeps_the_tree_but_not_the_scratch)
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

TEST_TIMES(hangup_removes_what_was_recorded, WAYS)
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

TEST_TIMES(hangup_keeps_what_was_committed, WAYS)
{
    struct server *s = things("%s", "");
    int c = get(s, "/commit?first=%s&second=%s&seconds=60", at("first"), at("second"));
    wait_made(s, at("second"));
    hang_up(c, _i);
    log_wait(s, " hangup undo=ok");
    must(exists(at("first")) && !exists(at("second")));
    server_stop(s);
}

TEST_TIMES(hangup_with_nothing_made, WAYS)
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

TEST_TIMES(hangup_behind_pipelined_bytes, WAYS)
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

TEST_TIMES(hangup_behind_an_ignored_body, WAYS)
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

TEST_TIMES(hangup_inside_the_body_starts_no_work, WAYS)
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

TEST(hangup_in_the_packet_of_the_request)
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

TEST_TIMES(hangup_touches_no_neighbour, WAYS)
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

TEST_TIMES(hangup_when_a_neighbour_holds_no_socket, WAYS)
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
TEST_TIMES(child_has_its_own_connection_alone, WAYS + 1)
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

/* The kernel tells of each child's end by a signal of its own, and drops it when none may wait. */
TEST(end_of_a_child_is_noticed_without_a_signal)
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

TEST_TIMES(finish_goes_on_after_a_hangup, WAYS)
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

/* ---- Half-close ---------------------------------------------------------------------------- */

THEME("half-close");

static const char continued[] = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n";

TEST_TIMES(probe_answers_a_half_closed_client, 2)
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

TEST(probe_comes_once)
{
    struct server *s = things("%s", "");
    int c = get(s, "/make?path=%s&seconds=0.5", at("file"));
    shutdown(c, SHUT_WR);
    struct heard h = hear(c);
    must_say(h.status == 200 && !strstr(h.text + 20, "100 Continue"), "%s", h.text);
    server_stop(s);
}

TEST(no_probe_without_a_fin)
{
    struct server *s = things("%s", "");
    int c = get(s, "/make?path=%s&seconds=0.3", at("file"));
    struct heard h = hear_answer(c, false);
    must_say(strncmp(h.text, "HTTP/1.1 200", 12) == 0, "%s", h.text);
    server_stop(s);
}

TEST_TIMES(fin_of_http10_is_a_hangup, 2)
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

static const char *const hangup_policy[] = {"--half-close hangup /make=@make",
                                            "/make=@make,half-close=hangup", ""};

TEST_EACH(hangup_policy_takes_a_half_close_for_a_hangup, hangup_policy)
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

TEST(hangup_policy_when_closed)
{
    struct server *s = things("--half-close hangup");
    int c = get(s, "/make?path=%s&seconds=60", at("file"));
    wait_made(s, at("file"));
    close_fin(c);
    log_wait(s, " hangup undo=ok");
    must(!exists(at("file")));
    server_stop(s);
}

TEST_TIMES(ignore_policy_answers_a_half_closed_client, 2)
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

TEST(ignore_policy_undoes_for_a_closed_client_at_the_end)
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

TEST(ignore_policy_takes_a_reset)
{
    struct server *s = things("--half-close ignore");
    int c = get(s, "/make?path=%s&seconds=60", at("file"));
    wait_made(s, at("file"));
    close_rst(c);
    log_wait(s, " hangup undo=ok");
    must(!exists(at("file")));
    server_stop(s);
}
