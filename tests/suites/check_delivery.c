/* check_delivery.c: when an answer has arrived, and what a cut one looks like. */
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "harness.h"

SUITE();

/* ---- Delivery ------------------------------------------------------------------------------ */

THEME("delivery");

TEST_TIMES(hangup_in_a_streamed_answer, 2 * WAYS)
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

TEST_TIMES(hangup_before_the_end_of_a_big_answer, WAYS)
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

TEST(client_that_does_not_read_is_given_up)
{
    struct server *s = things("--send-timeout 0.4");
    int c = get(s, "/big?path=%s&bytes=50000000", at("file"));
    log_wait(s, "\"GET /big");
    must(log_has(s, " undo=ok") && !exists(at("file")));
    close_fin(c);
    server_stop(s);
}

TEST(slow_reader_that_makes_progress_is_served)
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

/* Call for an answer that fits into the kernel's buffers, by a client with little room for it. */
static int call_slowly(const struct server *s)
{
    int c = dial_slow(s);
    say(c, "GET /big?path=%s&bytes=150000 HTTP/1.1\r\nHost: test\r\n\r\n", at("file"));
    wait_sent();
    must(exists(at("file")));
    return c;
}

/* As long as it takes a little now and then, there is progress: but not for ever. The second time
 * its child is dead, and a janitor waits for it. */
TEST_TIMES(trickling_reader_is_given_up, 2)
{
    struct server *s = things("--send-timeout 0.5");
    int c = call_slowly(s);
    char little[128];
    if (_i == 1)
        kill(only_child(s->pid), SIGKILL);
    for (int64_t deadline = now_ms() + PATIENCE_MS; !log_has(s, "\"GET /big"); rest()) {
        must(now_ms() < deadline);
        (void)!recv(c, little, sizeof(little), MSG_DONTWAIT);
    }
    must_say(log_has(s, _i == 0 ? " timeout undo=ok" : " killed undo=ok"), "%s", s->text);
    must(!exists(at("file")) && hear(c).reset);
    server_stop(s);
}

/* SIGINT, or the end of a drain, does not wait for who does not read; nor does a janitor. */
TEST_TIMES(end_does_not_wait_for_a_reader, 4)
{
    struct server *s = things("--send-timeout 3600 --drain %s", _i % 2 == 0 ? "3600" : "0.2");
    int c = call_slowly(s);
    pid_t child = only_child(s->pid);
    if (_i >= 2) {
        kill(child, SIGKILL);
        wait_until(!is_alive(child) && only_child(s->pid) != child);
    }
    kill(s->pid, _i % 2 == 0 ? SIGINT : SIGTERM);
    must(server_wait(s) == 0);
    must(log_has(s, _i < 2 ? " drain undo=ok" : " killed undo=ok") && !exists(at("file")));
    must(hear(c).reset);
}

TEST(reset_after_the_orderly_end_is_too_late)
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

TEST(answer_read_to_its_end_is_kept)
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

TEST(reset_at_the_end_is_judged_one_way)
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

TEST(http10_answer_is_kept)
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

/* ---- An answer that is cut ----------------------------------------------------------------- */

static const char *const cuts[] = {
    "/cut?",           "/cut?length&",           "-0 /cut?",           "-0 /cut?length&",
    "/cut?how=crash&", "/cut?how=crash&length&", "-0 /cut?how=crash&", "-0 /cut?how=crash&length&"};

TEST_EACH(cut_answer_is_seen_as_cut, cuts)
{
    struct server *s = things("%s", "");
    struct output o = curl(s, "-o body %spath=%s", cuts[_i], at("file"));
    must_say(o.status != 0, "curl was content: %s", o.text);
    log_wait(s, "\"GET /cut");
    must(log_has(s, _i < 4 ? " error undo=ok" : " crash undo=ok") && !exists(at("file")));
    server_stop(s);
}

/* Of a small answer that came at once nothing is out when its handler fails: it is told in HTTP. */
TEST(failure_after_a_whole_answer_is_told)
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

TEST(answer_cut_by_a_limit_or_the_end_is_seen_as_cut)
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

TEST(answer_cut_by_the_death_of_all_is_seen_as_cut)
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

/* Without the mark that it is on its way, an answer must not go out: nobody has hung up, and a
 * route's on-hangup does not matter. */
TEST_TIMES(answer_that_cannot_be_recorded_is_an_error, 2)
{
    struct server *s = things("%s", _i == 0 ? "" : "--on-hangup finish");
    struct heard h = hear(get(s, "/stuck?path=%s", at("file")));
    must_say(h.reset && h.length == 0, "%s", h.text);
    log_wait(s, "could not record the answer in the ledger: File too large");
    log_wait(s, " error undo=ok");
    must(!exists(at("file")));
    server_stop(s);
}
