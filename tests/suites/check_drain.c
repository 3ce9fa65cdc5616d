/* check_drain.c: the end of a server that still has work. */
#include <fcntl.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "harness.h"

SUITE();

/* ---- The end of a server ------------------------------------------------------------------- */

THEME("end");

TEST(drain_lets_the_work_finish)
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

TEST(drain_ends_work_that_takes_too_long)
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

TEST_TIMES(second_signal_undoes_at_once, 3)
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

TEST(drain_answers_the_queue)
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

TEST(hangup_while_draining)
{
    struct server *s = things("--drain 600");
    int c = get(s, "/make?path=%s&seconds=60", at("file"));
    wait_made(s, at("file"));
    kill(s->pid, SIGTERM);
    close_fin(c);
    must(server_wait(s) == 0 && !exists(at("file")));
    log_wait(s, " hangup undo=ok");
}

TEST(idle_server_leaves)
{
    struct server *s = things("--idle-exit 0.4");
    int c = get(s, "/make?path=%s&seconds=0.8", at("file"));
    must(hear_answer(c, false).status == 200);
    close_fin(c);
    must(server_wait(s) == 0 && exists(at("file")));
}
