/* check_asking.c: the question in the middle of an answer. A program that has begun to answer in
 * chunks is silent, and its caller has ended its side: the line end behind the last chunk, which
 * was held back, asks whether it is still there. Callers that read all of an answer must read the
 * same whether they were asked or not, and must see that a cut one is cut. */
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness.h"

SUITE();

#define HEAD "printf 'Content-Type: text/plain\\n\\n'; "
#define MAKE "echo \"unlink $PWD/made\" >&3; echo made >made; "
#define AWAIT_GO "read word <go; " /* until the test opens it, with say_go */

/* A server for the program /p of the text BODY, which runs in the test's directory. */
static struct server *serve(const char *body, const char *options)
{
    char text[1024];
    snprintf(text, sizeof(text), "#!/bin/sh\ncd %s; %s", test_dir, body);
    file_write(at("program"), text);
    must(chmod(at("program"), 0755) == 0 && mkfifo(at("go"), 0600) == 0);
    return hangupd("/p=%s --grace 5 %s", at("program"), options);
}

static void say_go(void)
{
    int fd = open(at("go"), O_WRONLY | O_CLOEXEC);
    must(fd >= 0 && write(fd, "go\n", 3) == 3);
    close(fd);
}

/* Call, and hear the first piece of the answer, after which the program is silent. */
static int hear_first(const struct server *s, const char *version)
{
    int c = dial(s);
    say(c, "GET /p HTTP/%s\r\nHost: test\r\n\r\n", version);
    hear_until(c, "first\n");
    return c;
}

/* The NUMBER first bytes of the question, as they come. */
static void hear_questions(int c, int number)
{
    for (int i = 0; i < number; i++)
        hear_until(c, i == 0 ? "\r" : "\n");
}

/* Hang up with nothing unread, which would make a reset of it. */
static void leave(int c, int way)
{
    char buffer[64];
    while (recv(c, buffer, sizeof(buffer), MSG_DONTWAIT) > 0)
        continue;
    hang_up(c, way);
}

/* ---- Who has gone -------------------------------------------------------------------------- */

THEME("gone");

TEST_TIMES(hangup_in_a_silent_stream_is_undone, WAYS)
{
    struct server *s = serve(MAKE HEAD "echo first; exec sleep 600", "");
    int c = hear_first(s, "1.1");
    must(exists(at("made")));
    leave(c, _i);
    log_wait(s, " hangup undo=ok");
    must(!exists(at("made")));
    server_stop(s);
}

/* It had ended its side before, and has answered the first question. */
TEST(half_closed_client_that_leaves_is_found_by_the_second_question)
{
    struct server *s = serve(MAKE HEAD "echo first; exec sleep 600", "");
    int c = hear_first(s, "1.1");
    shutdown(c, SHUT_WR);
    hear_questions(c, 1);
    must(exists(at("made")));
    leave(c, BY_FIN);
    log_wait(s, " hangup undo=ok");
    must(!exists(at("made")));
    server_stop(s);
}

/* The FIN came while the work ran, when it was asked in another way. */
TEST(half_closed_client_that_leaves_later_is_found)
{
    struct server *s = serve(MAKE AWAIT_GO HEAD "echo first; exec sleep 600", "");
    int c = get(s, "/p");
    wait_exists(at("made"));
    shutdown(c, SHUT_WR);
    hear_until(c, "HTTP/1.1 100 Continue\r\n\r\n");
    say_go();
    hear_until(c, "first\n");
    hear_until(c, "\r");
    leave(c, BY_FIN);
    log_wait(s, " hangup undo=ok");
    must(!exists(at("made")));
    server_stop(s);
}

TEST(fin_in_a_stream_is_a_hangup_where_it_is_to_be_one)
{
    struct server *s = serve(MAKE HEAD "echo first; exec sleep 600", "--half-close hangup");
    int c = hear_first(s, "1.1");
    shutdown(c, SHUT_WR);
    log_wait(s, " hangup undo=ok");
    struct heard h = hear(c);
    must_say(!exists(at("made")) && h.reset && h.length == 0, "%s", h.text);
    server_stop(s);
}

/* ---- Who is there -------------------------------------------------------------------------- */

THEME("there");

TEST_TIMES(half_closed_client_gets_all_of_its_answer, 3)
{
    struct server *s = serve(MAKE HEAD "echo first; " AWAIT_GO "echo second", "");
    int c = hear_first(s, "1.1");
    shutdown(c, SHUT_WR);
    hear_questions(c, _i);
    say_go();
    struct heard h = hear(c);
    must_say(!h.reset && strcmp(h.text, &"\r\n7\r\nsecond\n\r\n0\r\n\r\n"[_i]) == 0, "%s", h.text);
    log_wait(s, " ok undo=none");
    must(exists(at("made")));
    server_stop(s);
}

static const struct {
    const char *head, *options, *version;
    bool fin;
} unasked[] = {
    {HEAD, "", "1.1", false},
    {"printf 'Content-Type: text/plain\\nContent-Length: 13\\n\\n'; ", "", "1.1", true},
    {HEAD, "", "1.0", true},
    {HEAD, "--half-close ignore", "1.1", true},
    {HEAD, "--on-hangup finish", "1.1", true},
};

TEST_EACH(nobody_else_is_asked, unasked)
{
    char body[256];
    snprintf(body, sizeof(body), "%secho first; " AWAIT_GO "echo second", unasked[_i].head);
    struct server *s = serve(body, unasked[_i].options);
    int c = hear_first(s, unasked[_i].version);
    if (unasked[_i].fin)
        shutdown(c, SHUT_WR);
    poll(NULL, 0, 200); /* what does not come has no event */
    must(is_quiet(c));
    say_go();
    struct heard h = hear_until(c, "second\n");
    must_say(!strstr(h.text, "100 Continue"), "%s", h.text);
    close_fin(c);
    server_stop(s);
}

/* The client takes nothing: to what waits for it nothing is added, and it gets all in the end. */
TEST(client_whose_window_is_full_is_not_asked)
{
    struct server *s = serve(HEAD "head -c 9000000 /dev/zero; : >all; " AWAIT_GO "echo second", "");
    int c = get(s, "/p");
    hear_until(c, "\r\n\r\n");
    shutdown(c, SHUT_WR);
    poll(NULL, 0, 200);
    must_say(!exists(at("all")), "the window is not full");
    wait_until(!is_quiet(c));
    size_t zeros = 0;
    static char buffer[262144];
    for (ssize_t n; (n = recv(c, buffer, sizeof(buffer), 0)) > 0;) {
        for (ssize_t i = 0; i < n; i++)
            zeros += buffer[i] == '\0';
        if (zeros == 9000000) {
            zeros++;
            say_go();
        }
    }
    must(zeros == 9000001);
    log_wait(s, " ok undo=none");
    server_stop(s);
}

/* ---- curl ---------------------------------------------------------------------------------- */

THEME("curl");

/* curl calls through a relay that ends its side towards the server, so that the server asks, and
 * that turns a reset into an end, as many do. Returns curl's exit status, and its body at "body".
 */
static int curl_through_a_relay(const struct server *s, int questions)
{
    struct server front;
    int listener = listening_socket(&front.port);
    pid_t pid = curl_start(&front, "-H Connection:close -o body /p");
    int below = accept4(listener, NULL, NULL, SOCK_CLOEXEC), above = dial(s);
    struct heard h = hear_until(below, "\r\n\r\n");
    say_bytes(above, h.text, h.length);
    h = hear_until(above, "first\n");
    say_bytes(below, h.text, h.length);
    if (questions > 0)
        shutdown(above, SHUT_WR);
    for (int i = 0; i < questions; i++) {
        h = hear_until(above, i == 0 ? "\r" : "\n");
        say_bytes(below, h.text, h.length);
    }
    say_go();
    h = hear(above);
    say_bytes(below, h.text, h.length);
    close(below);
    close(listener);
    return wait_status(pid);
}

TEST_TIMES(curl_reads_the_same_if_it_was_asked, 3)
{
    struct server *s = serve(MAKE HEAD "echo first; " AWAIT_GO "echo second", "");
    must(curl_through_a_relay(s, _i) == 0);
    must_say(strcmp(file_read(at("body")), "first\nsecond\n") == 0, "%s", file_read(at("body")));
    log_wait(s, " ok undo=none");
    must(exists(at("made")));
    server_stop(s);
}

TEST_TIMES(curl_sees_that_an_answer_is_cut, 3)
{
    struct server *s = serve(MAKE HEAD "echo first; " AWAIT_GO "kill -9 $$", "");
    int status = curl_through_a_relay(s, _i);
    must_say(status != 0 && strcmp(file_read(at("body")), "first\n") == 0, "%d: %s", status,
             file_read(at("body")));
    log_wait(s, " error undo=ok");
    must(!exists(at("made")));
    server_stop(s);
}
