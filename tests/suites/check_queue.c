/* check_queue.c: what waits, what has to make room, and what takes too long or is too much. */
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness.h"

SUITE();

/* ---- In the queue -------------------------------------------------------------------------- */

THEME("queue");

static const struct {
    const char *options;
    int way;
    bool at_once; /* seen while it waits, not only when its turn comes */
} queued_ways[] = {
    {"--requests 1", BY_RST, true},
    {"--requests 1 --half-close hangup", BY_FIN, true},
    {"--requests 1", BY_FIN, false}, /* then it has been read, and is asked */
};

TEST_EACH(hangup_in_the_queue, queued_ways)
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
    must_say(!log_has(s, "made %s", at("second")), "work was begun for a client that left");
    server_stop(s);
}

/* Who may have gone is served last, also behind those that came later. */
TEST(half_closed_client_in_the_queue_lets_others_pass)
{
    struct server *s = things("--requests 1");
    int first = get(s, "/make?path=%s&seconds=60", at("first"));
    wait_made(s, at("first"));
    int second = get(s, "/make?path=%s", at("second"));
    wait_seen(s);
    shutdown(second, SHUT_WR);
    wait_seen(s);
    int third = get(s, "/make?path=%s", at("third"));
    wait_seen(s);
    close_rst(first);
    must(hear_answer(third, false).status == 200);
    must_say(!log_has(s, "made %s", at("second")), "who sent FIN came first");
    must(hear(second).status == 200 && exists(at("second")));
    server_stop(s);
}

TEST(queue_is_served_in_order)
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

TEST(queue_timeout_is_503)
{
    struct server *s = things("--requests 1 --queue-timeout 0.3");
    int first = get(s, "/make?path=%s&seconds=60", at("first"));
    wait_made(s, at("first"));
    int second = get(s, "/make?path=%s", at("second"));
    struct heard h = hear(second);
    must_say(h.status == 503 && atoi(field(h, "Retry-After")) > 0 && !h.reset, "%s", h.text);
    log_wait(s, "/second HTTP/1.1\" 503 %s ", field(h, "Content-Length"));
    must(exists(at("first")) && !exists(at("second")));
    close_fin(first);
    log_wait(s, " hangup undo=ok");
    server_stop(s);
}

TEST(one_address_has_a_limit)
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

/* With all connections in use, of which one address has nearly all in the queue, another one is
 * served; and who has sent FIN makes room first. */
TEST_TIMES(who_queues_most_makes_room, 2)
{
    struct server *s =
        things("--connections 8 --requests 4 %s", _i == 0 ? "--per-client 2" : "--per-client 0");
    int one[8], open_count = 8;
    for (int i = 0; i < open_count; i++) {
        one[i] = get(s, "/make?path=%s&seconds=60", at("f%d", i));
        if (i < 2)
            wait_made(s, at("f%d", i));
    }
    if (_i == 1)
        shutdown(one[5], SHUT_WR);
    int other = dial_from(s, "127.0.0.2");
    say(other, "GET /who HTTP/1.1\r\nHost: test\r\n\r\n");
    must(_i == 1 || hear_answer(other, false).status == 200);
    int refused = _i == 1 ? 5 : 7;
    struct heard h = hear(one[refused]);
    must_say(h.status == 503 && !h.reset && strstr(h.text, "make room"), "%s", h.text);
    for (int i = 0; i < open_count; i++)
        must(i == refused || is_quiet(one[i]));
    log_wait(s, " 503 ");
    for (int i = 0; i < open_count; i++)
        close(one[i]);
    must(_i == 0 || hear_answer(other, false).status == 200);
    wait_until(log_count(s, " hangup undo=") == 7);
    server_stop(s);
}

TEST(incomplete_head_gives_way)
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

/* Who waits for the rest of a body has made nothing; of two, the one whose body comes stays. */
TEST(slow_body_gives_way)
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

/* With and without an answer that is all on its way. */
TEST_TIMES(slow_reader_gives_way, 2)
{
    struct server *s = things("--requests 1 --queue-timeout 600 --send-timeout 3600");
    int slow = get(s, "/big?path=%s&bytes=%d", at("file"), _i == 0 ? 50000000 : 150000);
    wait_sent();
    must(hear_answer(get(s, "/who"), false).status == 200);
    log_wait(s, " error undo=ok");
    must(!exists(at("file")) && hear(slow).reset);
    server_stop(s);
}

TEST(complete_head_does_not_give_way)
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

TEST(connection_limit_ends_the_oldest_idle_one)
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

/* ---- Limits -------------------------------------------------------------------------------- */

THEME("limits");

TEST_TIMES(time_limit_is_504_after_undo, 3)
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

TEST_EACH(late_request_is_408, late)
{
    struct server *s = things("%s", late[_i].options);
    int c = dial(s);
    say(c, "%s", late[_i].request);
    struct heard h = hear(c);
    must_say(h.status == late[_i].status && !h.reset, "%s", h.text);
    log_wait(s, " 408 ");
    server_stop(s);
}

TEST(trickled_header_is_408)
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

TEST(body_that_makes_progress_is_served)
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

TEST(idle_connection_is_closed)
{
    struct server *s = things("--idle-timeout 0.3");
    int fresh = dial(s), used = get(s, "/who");
    must(hear_answer(used, false).status == 200);
    must(hear(used).length == 0);
    must(hear(fresh).length == 0);
    server_stop(s);
}

TEST(too_much_is_refused)
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

TEST(refusal_is_read_by_a_client_that_goes_on_sending)
{
    struct server *s = things("--max-body 1k");
    file_write(at("body"), "");
    must(truncate(at("body"), 3000000) == 0);
    struct output o =
        curl(s, "-H Expect: -o answer -w %%{http_code} --data-binary @%s /echo", at("body"));
    must_say(strcmp(o.text, "413") == 0, "%d: %s", o.status, o.text);
    server_stop(s);
}

TEST(body_of_the_largest_size_is_taken)
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

TEST(no_descriptor_left_is_503)
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
