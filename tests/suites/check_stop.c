/* check_stop.c: `hangupd stop`, the operator's end of a request. */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "harness.h"
#include "serve.h"

SUITE();

THEME("stop");

static struct output stop(const char *words)
{
    return run("%s stop --state %s %s", the_hangupd(), at("state"), words);
}

/* A server with a program that has made and recorded ./file and then runs BODY; one request of it
 * is in flight: its id, and its connection in *C. */
static const char *working(struct server **s, int *c, const char *options, const char *body)
{
    static char text[4096], id[64];
    snprintf(text, sizeof(text),
             "#!/bin/sh\n\"$HANGUPD\" undo unlink \"$PWD/file\" && touch file\n"
             "echo $REQUEST_ID ready >&2\n%s\n",
             body);
    file_write(at("program"), text);
    must(chmod(at("program"), 0755) == 0);
    *s = hangupd("%s /p=%s", options, at("program"));
    *c = get(*s, "/p");
    must(sscanf(log_wait(*s, " ready"), "%*s %63s", id) == 1);
    return id;
}

TEST(stop_ends_and_undoes)
{
    struct server *s;
    int c;
    const char *id = working(&s, &c, "", "sleep 1000");
    int other = get(s, "/p");
    wait_until(log_count(s, " ready") == 2);
    struct output o = stop(id);
    char text[128];
    snprintf(text, sizeof(text), "%s: ended\n", id);
    must_say(o.status == 0 && strcmp(o.text, text) == 0, "%d: %s", o.status, o.text);
    struct heard h = hear(c);
    must_say(h.status == 503 && *field(h, "Retry-After") == '\0' && !h.reset, "%s", h.text);
    log_wait(s, "\" 503 %s ", field(h, "Content-Length"));
    log_wait(s, "ms killed undo=ok undone=1");
    must(!exists(at("file")) && is_quiet(other));
    close(other);
    server_stop(s);
}

/* After the first byte there is nobody to tell but by the cut. */
TEST(stop_in_mid_answer_cuts)
{
    struct server *s;
    int c;
    const char *id = working(&s, &c, "", "printf 'Content-Type: text/plain\\n\\nhalf'; sleep 1000");
    hear_until(c, "half");
    struct output o = stop(id);
    must_say(o.status == 0, "%d: %s", o.status, o.text);
    must(hear(c).reset);
    log_wait(s, "ms killed undo=ok undone=1");
    server_stop(s);
}

/* The request's process stands still in the midst of its end: its time runs all the same. */
TEST(stop_is_not_held_up)
{
    struct server *s;
    int c;
    const char *id = working(&s, &c, "--grace 0.3",
                             "trap 'kill -STOP $PPID; exit' TERM\nwhile :; do sleep 0.02; done");
    struct output o = stop(id);
    must_say(o.status == 0, "%d: %s", o.status, o.text);
    struct heard h = hear(c);
    must_say(h.status == 503 && *field(h, "Retry-After") == '\0', "%s", h.text);
    log_wait(s, "ms killed undo=ok undone=1");
    must(!exists(at("file")));
    server_stop(s);
}

/* SIGTERM by hand is the same. */
TEST(signal_by_hand_is_the_operators)
{
    struct server *s;
    int c;
    working(&s, &c, "", "sleep 1000");
    kill(only_child(s->pid), SIGTERM);
    struct heard h = hear(c);
    must_say(h.status == 503 && *field(h, "Retry-After") == '\0', "%s", h.text);
    log_wait(s, "ms killed undo=ok undone=1");
    server_stop(s);
}

TEST(stop_says_what_it_cannot)
{
    struct server *s;
    int c;
    char words[256];
    const char *id = working(&s, &c, "--grace 9", "trap '' TERM; while :; do sleep 0.02; done");
    snprintf(words, sizeof(words), "--grace 0 0123456789abcdef-1 %s", id);
    struct output o = stop(words);
    snprintf(words, sizeof(words), "%s: has not ended", id);
    must_say(o.status == 1 && strstr(o.text, "0123456789abcdef-1: not in flight") &&
                 strstr(o.text, words),
             "%d: %s", o.status, o.text);
    close(c);
    kill(only_child(s->pid), SIGKILL);
    log_wait(s, "ms killed undo=ok");
    server_stop(s);
    static const struct {
        const char *words, *why;
    } wrong[] = {{"", "ID is missing"}, {"x", "x is not the id"}, {"--json x", "no option --json"}};
    for (unsigned i = 0; i < 3; i++) {
        o = stop(wrong[i].words);
        must_say(o.status == 2 && strstr(o.text, wrong[i].why), "%d: %s", o.status, o.text);
    }
    o = run("%s stop --state %s "
            "0123456789abcdef-1",
            the_hangupd(), at("nowhere"));
    must_say(o.status == 1 && strstr(o.text, "cannot be looked at") && !exists(at("nowhere")), "%s",
             o.text);
}

/* A board that names a process which is not the request's does not have it signalled. */
TEST(board_that_lies_ends_nobody)
{
    struct server *s;
    int c;
    const char *id = working(&s, &c, "", "sleep 1000");
    pid_t stranger = start_shell("exec sleep 1000");
    must(run("%s status --state %s", the_hangupd(), at("state")).status == 0); /* it is fresh */
    kill(s->pid, SIGSTOP); /* it does not write it anew */
    int board = open(at("state/%.16s/scoreboard", id), O_RDWR | O_CLOEXEC);
    struct slot slot;
    off_t where = (off_t)offsetof(struct scoreboard, slots);
    must(board >= 0 && pread(board, &slot, sizeof(slot), where) == (ssize_t)sizeof(slot));
    must(strcmp(slot.id, id) == 0);
    int32_t pid = (int32_t)stranger;
    must(pwrite(board, &pid, sizeof(pid), where + (off_t)offsetof(struct slot, pid)) == 4);
    struct output o = stop(id);
    must_say(o.status == 1 && strstr(o.text, "is not this request's"), "%d: %s", o.status, o.text);
    must(is_alive(stranger));
    kill(s->pid, SIGCONT);
    pid = slot.pid;
    must(pwrite(board, &pid, sizeof(pid), where + (off_t)offsetof(struct slot, pid)) == 4);
    close(board);
    kill(stranger, SIGKILL);
    wait_status(stranger);
    must(stop(id).status == 0);
    close(c);
    server_stop(s);
}
