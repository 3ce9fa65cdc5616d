/* check_library.c: what a C program that embeds the library may do in a handler, and what it then
 * gets: processes, threads, stdio, signals, descriptors. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "harness.h"

SUITE();

static struct server *library(const char *options)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/example_library", getenv("EXAMPLES"));
    return server_start(path, "%s", options);
}

/* ---- The request and the answer -------------------------------------------------------------- */

THEME("answer");

TEST(nul_in_the_query_is_400)
{
    struct server *s = things("%s", "");
    static const char *const wrong[] = {"user=bob%00role%00admin&limit=5", "%00", "a=%%00", "a%00"};
    for (int i = 0; i < COUNT(wrong); i++)
        must_say(hear_answer(get(s, "/who?%s", wrong[i]), false).status == 400, "%s", wrong[i]);
    struct heard h = hear_answer(get(s, "/logs?text=%%2500"), false);
    must(h.status == 200);
    log_wait(s, " %%00");
    server_stop(s);
}

/* A program decodes its query by itself, and may want any byte. */
TEST(nul_in_the_query_is_the_programs)
{
    file_write(at("say"),
               "#!/bin/sh\nprintf 'Content-Type: text/plain\\n\\n'; echo \"$QUERY_STRING\"\n");
    must(chmod(at("say"), 0755) == 0);
    struct server *s = hangupd("/say=%s", at("say"));
    struct heard h = hear_answer(get(s, "/say?info_hash=%%00x"), false);
    must_say(strstr(h.text, "info_hash=%00x\n") != NULL, "%s", h.text);
    server_stop(s);
}

TEST(forked_process_cannot_answer)
{
    struct server *s = library("");
    static const char *const how[] = {"all", "nothing"};
    for (int i = 0; i < COUNT(how); i++) {
        int c = dial(s);
        say(c, "GET /fork?how=%s HTTP/1.1\r\nHost: test\r\n\r\n", how[i]);
        struct heard h = hear_answer(c, false);
        must_say(strstr(h.text, i == 0 ? "\r\n\r\nrefused 1 status 0\n" : "refused 0 status 0\n") !=
                     NULL,
                 "%s", h.text);
        say(c, "GET /type?own=a/b HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
        h = hear(c);
        must_say(strstr(h.text, "typed\n") != NULL && strstr(h.text, "status 0") == NULL, "%s",
                 h.text);
        log_wait(s, "which the handler forked, returned from the handler");
        log_mark(s);
    }
    server_stop(s);
}

TEST(content_type_is_there_once)
{
    struct server *s = library("");
    struct heard h = hear_answer(get(s, "/type?own=text/csv"), false);
    must_say(h.status == 200 && strcmp(field(h, "Content-Type"), "text/csv") == 0, "%s", h.text);
    must_say(strstr(h.text, "text/plain") == NULL && strstr(h.text, "text/first") == NULL, "%s",
             h.text);
    /* It was not meant for an error. */
    h = hear_answer(get(s, "/type?own=text/csv&fail"), false);
    must_say(h.status == 500 && strstr(h.text, "text/plain") && strstr(h.text, "could not do it\n"),
             "%s", h.text);
    const char *line = log_wait(s, "could not do it");
    must_say(strcmp(strstr(line, " could"), " could not do it") == 0, "%s", line);
    server_stop(s);
}

/* RFC 9110 section 15.3.6. */
TEST(answer_205_has_no_body)
{
    struct server *s = library("");
    int c = dial(s);
    for (int i = 0; i < 2; i++)
        say(c, "GET /type?own=a/b&status=205 HTTP/1.1\r\nHost: test\r\n%s\r\n",
            i == 0 ? "" : "Connection: close\r\n");
    struct heard h = hear(c);
    must_say(strstr(h.text, "typed") == NULL && strcmp(field(h, "Content-Length"), "0") == 0, "%s",
             h.text);
    must(strstr(h.text + 1, "HTTP/1.1 205") != NULL);
    server_stop(s);
}

/* ---- The process ------------------------------------------------------------------------------
 */

THEME("routes");

TEST(method_that_a_route_lists_is_served)
{
    struct server *s = library("");
    static const struct {
        const char *method, *path;
        int status;
    } asked[] = {{"PURGE", "/purge", 200},
                 {"BAN", "/purge", 501},
                 {"DELETE", "/purge", 405},
                 {"PURGE", "/type", 501},
                 {"PURGE", "/none", 501}};
    for (int i = 0; i < COUNT(asked); i++) {
        int c = dial(s);
        say(c, "%s %s?own=a/b HTTP/1.1\r\nHost: test\r\n\r\n", asked[i].method, asked[i].path);
        struct heard h = hear_answer(c, false);
        must_say(h.status == asked[i].status, "%s %s: %s", asked[i].method, asked[i].path, h.text);
        if (h.status == 405)
            must_say(strstr(field(h, "Allow"), "GET, PURGE") != NULL, "%s", h.text);
        close_fin(c);
    }
    server_stop(s);
}

/* The tables of example_library.c, in their order, and none. */
TEST(wrong_routes_are_told)
{
    static const char *const said[] = {
        "number 1 of the routes of server_main, \"/none\": it has neither",
        "number 2 of the routes of server_main, \"slash\": its path",
        "its path has a control character",
        "both a handler and a program",
        "not an absolute path",
        "methods are not words",
        "methods are not words",
        "a limit of it is negative",
        "is none of the values that there are",
        "does not begin with a slash",
        "server_main has no table of routes",
    };
    for (int i = 0; i < COUNT(said); i++) {
        struct output o =
            run("timeout 9 env BROKEN=%d %s/example_library --state %s --listen unix:%s", i,
                getenv("EXAMPLES"), at("state"), at("socket"));
        must_say(o.status == 2 && strstr(o.text, said[i]) != NULL, "%d: %d %s", i, o.status,
                 o.text);
        must_say(strchr(o.text, '\r') == NULL, "%s", o.text);
        free(o.text);
    }
}

THEME("process");

TEST(what_ended_a_handler_is_told)
{
    static const struct {
        const char *how, *said;
    } ways[] = {{"raise=11", "was ended by signal 11 (Segmentation fault)"},
                {"raise=9", "was ended by signal 9 (Killed)"},
                {"exit=0", "with exit status 0"},
                {"exit=2", "with exit status 2"},
                {"exit=3", "with exit status 3"}};
    struct server *s = library("");
    for (int i = 0; i < COUNT(ways); i++) {
        struct heard h = hear_answer(get(s, "/end?%s&path=%s", ways[i].how, at("f")), false);
        must_say(h.status == 500, "%s", h.text);
        log_wait(s, "%s", ways[i].said);
        log_wait(s, " undo=ok");
        log_mark(s);
        must(!exists(at("f")));
    }
    server_stop(s);
}

TEST(helpers_get_ordinary_signals_and_limits)
{
    struct rlimit few = {.rlim_cur = 200, .rlim_max = 4096};
    must(setrlimit(RLIMIT_NOFILE, &few) == 0);
    signal(SIGPIPE, SIG_DFL);
    struct server *s = library("--connections 500");
    struct output o = curl(s, "/helper");
    unsigned long long blocked = 1, ignored = 1;
    char rest[64] = "";
    must_say(sscanf(o.text, "SigBlk: %llx SigIgn: %llx %63[^~]", &blocked, &ignored, rest) == 3,
             "%s", o.text);
    ignored &= ~0x180000000ULL; /* popen(3) of glibc ignores its own two, 32 and 33 */
    must_say(blocked == 0 && ignored == 0 && strcmp(rest, "200\n") == 0, "%s", o.text);
    free(o.text);
    server_stop(s);
}

TEST(what_was_printed_is_there_with_the_answer)
{
    struct server *s = library("");
    struct heard h = hear_answer(get(s, "/print?path=%s", at("file")), false);
    must_say(h.status == 200, "%s", h.text);
    ck_assert_str_eq(file_read(at("file")), "printed\n");
    server_stop(s);
}

TEST(what_cannot_be_printed_fails)
{
    struct server *s = library("");
    struct heard h = hear_answer(get(s, "/print?full&path=%s", at("file")), false);
    must_say(h.status == 500, "%s", h.text);
    log_wait(s, "could not write what the handler left in a buffer: Bad file descriptor");
    must(!exists(at("file")));
    server_stop(s);
}

/* What the program printed before it served stands there once, and not once for each request. */
TEST(what_was_printed_before_is_printed_once)
{
    char command[4096];
    snprintf(command, sizeof command,
             "exec %s/example_library --state %s --listen unix:%s >%s 2>%s", getenv("EXAMPLES"),
             at("state"), at("socket"), at("out"), at("log"));
    pid_t pid = start_shell(command);
    wait_exists(at("socket"));
    for (int i = 0; i < 3; i++) {
        struct output o =
            run("curl -sS --unix-socket %s http://x/print?path=%s%d", at("socket"), at("f"), i);
        ck_assert_str_eq(o.text, "printed\n");
        free(o.text);
    }
    kill(pid, SIGTERM);
    ck_assert_int_eq(wait_status(pid), 0);
    ck_assert_str_eq(file_read(at("out")),
                     "before serving\nby a handler\nby a handler\nby a handler\n");
}

/* Also what it said just before it crashed. */
TEST_TIMES(what_a_handler_says_is_json_in_json, 2)
{
    struct server *s = library("--log json");
    struct heard h = hear_answer(get(s, "/complain%s", _i == 1 ? "?crash" : ""), false);
    must(h.status == (_i == 0 ? 200 : 500));
    log_wait(s, "\"id\":null,\"stream\":\"stderr\",\"event\":\"careful: {\\\"a\\\"}\"}");
    log_wait(s, "\"stream\":\"stderr\",\"event\":\"and \\\\ again\"}");
    log_wait(s, "\"request\":\"GET /complain");
    server_stop(s);
    for (char *line = strtok(s->text, "\n"); line != NULL; line = strtok(NULL, "\n"))
        must_say(line[0] == '{' || strcmp(line, "before serving") == 0, "%s", line);
}

/* ---- Threads ----------------------------------------------------------------------------------
 */

THEME("threads");

TEST(threads_record_side_by_side)
{
    struct server *s = library("");
    must(mkdir(at("in"), 0755) == 0);
    file_write(at("taken"), "theirs\n");
    int c = dial(s);
    for (int i = 0; i < 15; i++) {
        say(c, "GET /threads?in=%s&taken=%s HTTP/1.1\r\nHost: test\r\n\r\n", at("in"), at("taken"));
        struct heard h = hear_answer(c, false);
        must_say(h.status == 200, "%s", h.text);
    }
    struct output o = run("ls -A %s", at("in"));
    unsigned lines = 0;
    for (const char *line = o.text; *line != '\0'; line++)
        lines += *line == '\n';
    ck_assert_uint_eq(lines, 600); /* 15 requests, 8 threads, 5 each */
    free(o.text);
    ck_assert_str_eq(file_read(at("taken")), "theirs\n");
    close_fin(c);
    server_stop(s);
}

TEST_TIMES(hangup_undoes_what_threads_make, WAYS)
{
    struct server *s = library("");
    must(mkdir(at("in"), 0755) == 0);
    file_write(at("taken"), "theirs\n");
    for (int i = 0; i < 6; i++) {
        int c = get(s, "/threads?each=0&in=%s&taken=%s", at("in"), at("taken"));
        log_wait(s, "the threads make files");
        hang_up(c, _i);
        log_wait(s, " hangup undo=ok");
        log_mark(s);
        must_say(is_empty(at("in")), "%d", i);
    }
    ck_assert_str_eq(file_read(at("taken")), "theirs\n");
    server_stop(s);
}

/* Nothing comes after the undo, also from threads that the handler has left. */
TEST(threads_that_are_left_make_nothing_more)
{
    struct server *s = library("");
    must(mkdir(at("in"), 0755) == 0);
    for (int i = 0; i < 6; i++) {
        struct heard h = hear(get(s, "/threads?each=0&leave=-1&in=%s", at("in")));
        must_say(h.status == 500, "%s", h.text);
        log_wait(s, " error undo=ok");
        log_mark(s);
        must_say(is_empty(at("in")), "%d", i);
    }
    struct heard h = hear_answer(get(s, "/threads?each=0&leave=0&in=%s", at("in")), false);
    must_say(h.status == 200, "%s", h.text);
    log_wait(s, " ok undo=none");
    must(!is_empty(at("in")));
    server_stop(s);
}

/* ---- Descriptors and ids ----------------------------------------------------------------------
 */

THEME("descriptors");

/* With a record before, and with the first one after. */
TEST_TIMES(ledger_is_not_written_to_another_file, 4)
{
    struct server *s = library("");
    char words[4096] = "";
    if (_i % 2 == 1)
        snprintf(words, sizeof words, "before=%s&", at("before"));
    if (_i < 2)
        strcat(strcat(strcat(words, "file="), at("mine")), "&");
    int c = get(s, "/close?%spath=%s", words, at("made"));
    if (_i % 2 == 1) { /* `sent` cannot be recorded */
        must(hear(c).status != 200);
        log_wait(s, " error undo=ok");
    } else {
        struct heard h = hear_answer(c, false);
        must_say(strstr(h.text, "\n-1 Bad file descriptor\n") != NULL, "%s", h.text);
    }
    ck_assert_str_eq(file_read(at("mine")), "");
    must(!exists(at("made")) && !exists(at("before")));
    server_stop(s);
}

TEST_TIMES(answer_is_not_written_to_another_file, 2)
{
    struct server *s = library("");
    char file[4096] = "";
    if (_i == 1)
        snprintf(file, sizeof file, "file=%s&", at("mine"));
    struct heard h = hear(get(s, "/close?connection&%sbefore=%s", file, at("before")));
    must_say(h.status == 500, "%s", h.text);
    log_wait(s, "the handler has closed the descriptor of its connection");
    log_wait(s, " error undo=ok");
    must(!exists(at("before")));
    ck_assert_str_eq(file_read(at("mine")), "");
    server_stop(s);
}

TEST_TIMES(handler_may_become_another_user, 2)
{
    if (only_for_root("handler_may_become_another_user"))
        return;
    struct server *s = library("");
    must(mkdir(at("open"), 0755) == 0 && chmod(at("open"), 0777) == 0 &&
         chmod(test_dir, 0711) == 0);
    struct heard h = hear_answer(
        get(s, "/become?uid=65534&%spath=%s", _i == 1 ? "fail&" : "", at("open/f")), false);
    must_say(h.status == (_i == 0 ? 200 : 400), "%s", h.text);
    log_wait(s, _i == 0 ? " ok undo=none" : " error undo=ok");
    must(exists(at("open/f")) == (_i == 0));
    server_stop(s);
}
