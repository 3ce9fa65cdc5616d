/* check_death.c: children, janitors and servers that die, and processes that are left. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness.h"

SUITE();

/* ---- Death --------------------------------------------------------------------------------- */

THEME("death");

TEST(crash_undoes)
{
    struct server *s = things("%s", "");
    struct heard h = hear_answer(get(s, "/crash?path=%s", at("file")), false);
    must_say(h.status == 500, "%s", h.text);
    log_wait(s, " 500 ");
    must(log_has(s, " crash undo=ok") && !exists(at("file")));
    must(hear_answer(get(s, "/who"), false).status == 200);
    server_stop(s);
}

TEST_TIMES(kill_of_the_child_undoes, 4)
{
    static const int signals[] = {SIGKILL, SIGTERM, SIGINT, SIGHUP};
    struct server *s = things("%s", "");
    int c = get(s, "/make?path=%s&seconds=60", at("file"));
    kill(wait_made(s, at("file")), signals[_i]);
    struct heard h = hear_answer(c, false);
    must_say(h.status >= 500 && strstr(h.text, "the server is stopping") == NULL, "%s", h.text);
    log_wait(s, " killed undo=ok");
    must(!exists(at("file")));
    must(log_has(s, "its process was ended by signal 9, which this server did not send") ==
         (signals[_i] == SIGKILL));
    server_stop(s);
}

TEST(answer_that_a_killed_child_cannot_finish_is_undone)
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

/* All of the answer has been sent, and the client has not read it: whoever asks, waits. */
TEST_TIMES(killed_janitor_leaves_its_question_to_the_next, WAYS + 1)
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

TEST_TIMES(hangup_reaches_a_stopped_child, WAYS)
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

TEST(time_limit_reaches_a_stopped_child)
{
    struct server *s = things("--grace 0.2 --timeout 0.4");
    struct heard h = hear_answer(get(s, "/stop?path=%s", at("file")), false);
    must_say(h.status == 504, "%s", h.text);
    log_wait(s, " timeout undo=ok");
    must(!exists(at("file")));
    server_stop(s);
}

TEST(child_undoes_when_the_server_is_killed)
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

/* End the server and the child PID so that neither can undo anything. */
static void kill_both(struct server *s, pid_t pid)
{
    kill(pid, SIGSTOP);
    wait_until(process_state(pid) == 'T');
    server_kill(s, SIGKILL);
    kill(pid, SIGKILL);
    wait_until(!is_alive(pid));
}

TEST(next_start_undoes_when_both_are_killed)
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

TEST(next_start_ends_what_still_runs_first)
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

TEST(next_start_ends_daemons_too)
{
    file_write(at("program"), "#!/bin/sh\n"
                              "env -i setsid sleep 1000 >/dev/null 2>&1 3>&- & echo $! >daemon\n"
                              "mv daemon pid\nsleep 1000\n");
    must(chmod(at("program"), 0755) == 0);
    struct server *s = hangupd("/p=%s", at("program"));
    get(s, "/p");
    wait_exists(at("pid"));
    pid_t daemon = (pid_t)atoi(file_read(at("pid")));
    kill_both(s, only_child(s->pid));
    wait_until(strstr(run("ps -o comm= -p %d", (int)daemon).text, "sleep"));
    s = hangupd("/p=%s", at("program"));
    wait_until(!is_alive(daemon));
    server_stop(s);
}

TEST(next_start_leaves_the_living_alone)
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

TEST(next_start_keeps_a_file_that_took_the_name)
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

/* ---- Processes ----------------------------------------------------------------------------- */

THEME("processes");

TEST_TIMES(second_thread_does_not_outlive_the_request, WAYS)
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

/* Another client's close would not reach the wire while this child lives. */
TEST(child_has_no_other_connection_in_a_sandbox)
{
    if (!deny(SYS_close_range, 1, ~0U, EPERM)) {
        test_skipped("child_has_no_other_connection_in_a_sandbox", "no seccomp");
        return;
    }
    struct server *s = things("%s", "");
    int idle[3];
    for (int i = 0; i < 3; i++) {
        idle[i] = dial(s);
        say(idle[i], "GET /who HTTP/1.1\r\nHost: test\r\n\r\n");
        must(hear_answer(idle[i], false).status == 200);
    }
    int c = get(s, "/make?path=%s&seconds=60", at("file"));
    struct output o = run("ls -l /proc/%d/fd", (int)wait_made(s, at("file")));
    const char *first = strstr(o.text, "socket:");
    must_say(first != NULL && strstr(first + 1, "socket:") == NULL, "%s", o.text);
    close_fin(c);
    log_wait(s, " hangup undo=ok");
    server_stop(s);
}

static void wait_forked(struct server *s, pid_t helpers[3])
{
    const char *line = strstr(log_wait(s, "forked "), "forked ");
    must(sscanf(line, "forked %d %d %d", &helpers[0], &helpers[1], &helpers[2]) == 3);
    for (int i = 0; i < 3; i++)
        must(is_alive(helpers[i]));
}

TEST_TIMES(forked_processes_do_not_outlive_the_request, 4)
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

TEST(killed_server_leaves_no_forked_process)
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

TEST(forked_processes_touch_no_neighbour)
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

TEST(server_ends_only_what_it_started)
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

TEST(child_has_no_descriptor_of_others)
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

/* A program that records a file, makes it, and leaves the process in `pid` that $KEEPER starts. */
static void write_keeper(const char *keeper)
{
    char text[1024];
    snprintf(text, sizeof(text),
             "#!/bin/sh\ncd theirs\necho \"unlink $PWD/file\" >&3\n: >file\n"
             "%s sleep 1000 >/dev/null 2>&1 3>&- &\nk=$!\n"
             "until [ \"$(cat /proc/$k/comm)\" = sleep ]; do :; done\necho $k >new\nmv new pid\n"
             "[ \"$QUERY_STRING\" = answer ] || exec sleep 1000\n"
             "printf 'Content-Type: text/plain\\n\\nyes\\n'\n",
             keeper);
    file_write(at("program"), text);
    must(chmod(at("program"), 0755) == 0 && mkdir(at("theirs"), 0777) == 0);
    must(chmod(at("theirs"), 0777) == 0);
}

static pid_t wait_kept(void)
{
    wait_exists(at("theirs/pid"));
    pid_t pid = (pid_t)atoi(file_read(at("theirs/pid")));
    char path[64];
    snprintf(path, sizeof(path), "/proc/%d/comm", (int)pid);
    wait_until(strcmp(file_read(path), "sleep\n") == 0);
    return pid;
}

/* As sudo would start it: setpriv, made setuid. */
static bool may_keep_as_root(const char *test)
{
    if (only_for_root(test))
        return false;
    run("cp /usr/bin/setpriv %s", at("setpriv"));
    must(chmod(at("setpriv"), 04755) == 0);
    write_keeper("../setpriv --reuid 0");
    return true;
}

/* It cannot be ended, and may go on making things: so they are undone again when it has gone. */
TEST(process_of_another_user_is_waited_for)
{
    if (!may_keep_as_root("process_of_another_user_is_waited_for"))
        return;
    struct server *s = hangupd("--user nobody --grace 0.1 /w=%s", at("program"));
    int c = get(s, "/w");
    pid_t pid = wait_kept();
    must(exists(at("theirs/file")));
    int64_t before = now_ms();
    close_fin(c);
    log_wait(s, " hangup undo=failed");
    must_say(now_ms() - before < 8000, "it was waited for");
    must(log_has(s, "its process %d (sleep) of the user 0 cannot be ended: Operation not permitted",
                 (int)pid));
    must(!exists(at("theirs/file")));
    struct output o = run("%s status --state %s", the_hangupd(), at("state"));
    must_say(strstr(o.text, "# waits: its process"), "%s", o.text);
    log_mark(s);
    log_wait(s, "cannot be undone yet");
    file_write(at("theirs/file"), "");
    kill(pid, SIGKILL);
    log_wait(s, "undone at last");
    must(!exists(at("theirs/file")));
    server_stop(s);
}

TEST(process_of_another_user_does_not_delay_an_answer)
{
    if (!may_keep_as_root("process_of_another_user_does_not_delay_an_answer"))
        return;
    struct server *s = hangupd("--user nobody /w=%s", at("program"));
    int64_t before = now_ms();
    struct heard h = hear_answer(get(s, "/w?answer"), false);
    must_say(h.status == 200 && now_ms() - before < 8000, "%s", h.text);
    pid_t pid = wait_kept();
    log_wait(s, "its process %d (sleep) of the user 0 cannot be ended", (int)pid);
    log_wait(s, " ok undo=none");
    must(exists(at("theirs/file")));
    /* Nor is it taken for another request's. */
    must(unlink(at("theirs/pid")) == 0);
    int c = get(s, "/w");
    pid_t other = wait_kept();
    kill(pid, SIGKILL);
    kill(other, SIGKILL);
    wait_until(!is_alive(pid) && !is_alive(other));
    close_fin(c);
    log_wait(s, " hangup undo=ok");
    server_stop(s);
}

#define FREEZER "/sys/fs/cgroup/freezer/"

static const char *freeze(pid_t pid)
{
    static char directory[64], path[96], number[16];
    snprintf(directory, sizeof(directory), FREEZER "hangupd-%d", (int)getpid());
    if (geteuid() != 0 || mkdir(directory, 0755) != 0)
        return NULL;
    snprintf(path, sizeof(path), "%s/cgroup.procs", directory);
    snprintf(number, sizeof(number), "%d", (int)pid);
    file_write(path, number);
    snprintf(path, sizeof(path), "%s/freezer.state", directory);
    file_write(path, "FROZEN");
    wait_until(strcmp(file_read(path), "FROZEN\n") == 0);
    return path;
}

/* The same of one that sleeps in the kernel, as on a disk that does not answer. */
TEST_TIMES(process_that_cannot_die_is_waited_for, 2)
{
    enum { AFTER_A_HANGUP, AFTER_A_CRASH };
    write_keeper("");
    struct server *s = hangupd("--grace 0.1 /w=%s", at("program"));
    int c = get(s, "/w");
    pid_t pid = wait_kept(), child = only_child(s->pid);
    const char *state = freeze(pid);
    if (state == NULL) {
        test_skipped("process_that_cannot_die_is_waited_for", "no cgroup to freeze it in");
    } else if (_i == AFTER_A_CRASH) {
        kill_both(s, child);
        s = hangupd("/w=%s", at("program"));
        log_wait(s, "cannot be undone yet");
        must(!exists(at("theirs/file")));
    }
    close_fin(c);
    if (state != NULL) {
        if (_i == AFTER_A_HANGUP)
            log_wait(s, " hangup undo=failed");
        must(log_has(s,
                     "its process %d (sleep) of the user 0 does not end, even by SIGKILL; its "
                     "state is D",
                     (int)pid));
        must(!exists(at("theirs/file")));
        file_write(at("theirs/file"), "");
        file_write(state, "THAWED");
        log_wait(s, "undone at last");
        must(!exists(at("theirs/file")) && !is_alive(pid));
        wait_until(rmdir(strndupa(state, strlen(state) - strlen("/freezer.state"))) == 0);
    } else {
        log_wait(s, " hangup undo=ok");
    }
    server_stop(s);
}
