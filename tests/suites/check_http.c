/* check_http.c: HTTP as clients of all kinds speak it. */
#include <linux/seccomp.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness.h"

SUITE();

/* ---- HTTP ---------------------------------------------------------------------------------- */

THEME("http");

TEST(connection_is_used_again)
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

/* RFC 9112 section 2.2: some send an empty line behind a body. It is no request: nothing is
 * answered to it, nothing logged, and the connection serves the next one. */
TEST_TIMES(empty_line_behind_a_body_is_no_request, 2)
{
    struct server *s = things("--header-timeout 0.2");
    int c = dial(s);
    say(c, "POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: 4\r\n\r\nbody%s",
        _i == 0 ? "\r\n" : "");
    must(hear_answer(c, false).status == 200);
    if (_i == 1)
        say(c, "\r\n");
    struct pollfd p = {.fd = c, .events = POLLIN};
    must_say(poll(&p, 1, 500) == 0, "it was answered"); /* what does not come has no event */
    say(c, "GET /who HTTP/1.1\r\nHost: test\r\n\r\n");
    must(hear_answer(c, false).status == 200);
    say(c, "\r\n");
    close_fin(c);
    wait_until(log_count(s, " ok undo=none") == 2);
    server_stop(s);
    must_say(!log_has(s, " 408 ") && !log_has(s, " hangup "), "%s", s->text);
}

TEST(curl_uses_the_connection_again)
{
    struct server *s = things("%s", "");
    struct output o = curl(s, "-w %%{num_connects} -o a -o b /who /who");
    must_say(o.status == 0 && strcmp(o.text, "10") == 0, "%s", o.text);
    server_stop(s);
}

TEST(http10_connection_is_closed)
{
    struct server *s = things("%s", "");
    int c = dial(s);
    say(c, "GET /who HTTP/1.0\r\n\r\n");
    struct heard h = hear(c);
    must_say(h.status == 200 && !h.reset, "%s", h.text);
    must_say(!strstr(h.text, "Transfer-Encoding"), "%s", h.text);
    server_stop(s);
}

TEST(pipelined_requests_are_answered_in_order)
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

TEST(request_is_told_to_the_handler)
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

TEST(methods)
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

TEST(wrong_requests_are_400)
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

TEST(expectation_is_met)
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

TEST(expectation_is_refused_before_the_body)
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

TEST(large_body_comes_back)
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

TEST(header_fields_cannot_be_split)
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
