/* check_routes.c: what a route may say beside its path and target, from the command line and from a
 * file; above all `max`, the requests of a route at once; and what is refused before the body. */
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <limits.h>
#include <linux/futex.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness.h"
#include "serve.h"

SUITE();

/* ---- Where routes are written -------------------------------------------------------------- */

THEME("file");

/* A server with ROUTES, words, and OPTIONS: on its command line, or one a line in a file. */
enum { ON_THE_COMMAND_LINE, IN_A_FILE, SOURCES };

static struct server *routed(int source, const char *options, const char *routes)
{
    char text[4096];
    if (source == ON_THE_COMMAND_LINE)
        return things("%s %s", options, routes);
    snprintf(text, sizeof(text), "# The routes.\n%s\n", routes);
    for (char *at = text + 14; *at != '\0'; at++)
        if (*at == ' ')
            *at = '\n';
    file_write(at("routes"), text);
    return things("%s --routes %s", options, at("routes"));
}

static void bytes_write(const char *path, const char *bytes, size_t n)
{
    FILE *f = fopen(path, "we");
    must(f && fwrite(bytes, 1, n, f) == n && fclose(f) == 0);
}

static int status_of(const struct server *s, const char *target)
{
    int c = get(s, "%s", target);
    int status = hear_answer(c, false).status;
    close_fin(c);
    return status;
}

TEST(file_is_read_line_by_line)
{
    file_write(at("one"), "# a comment\r\n"
                          "\r\n"
                          "   \t \n"
                          "/plain=@who\r\n"
                          "  \t/indented=@who,timeout=5s  \t\r\n"
                          "/commented=@who # said behind it\n"
                          "/tab=@who\t#\n"
                          "  # indented comment /not=@who\n"
                          "/no#comment=@who\n"
                          "/last=@who,max=3");
    file_write(at("two"), "/second=@who\n");
    struct server *s = things("--routes %s /word=@who --routes %s", at("one"), at("two"));
    static const char *const served[] = {"/plain", "/indented", "/commented", "/tab",
                                         "/last",  "/second",   "/word"};
    for (int i = 0; i < COUNT(served); i++)
        must_say(status_of(s, served[i]) == 200, "%s", served[i]);
    must(status_of(s, "/no%23comment") == 200);
    must(status_of(s, "/not") == 404 && status_of(s, "/no") == 404);
    must_say(status_of(s, "/who") == 404, "what the program has is replaced");
    server_stop(s);
}

TEST(file_may_be_a_pipe)
{
    struct output o;
    must(mkfifo(at("pipe"), 0600) == 0);
    char command[8192];
    snprintf(command, sizeof(command), "echo '/piped=@nobody' >%s", at("pipe"));
    pid_t writer = start_shell(command);
    o = run("%s --state %s --listen 127.0.0.1:0 --routes %s", the_things(), at("state"),
            at("pipe"));
    must_say(o.status == 2 && strstr(o.text, "pipe:1:") && strstr(o.text, "@nobody"), "%s", o.text);
    wait_until(!is_alive(writer));
}

#define LONG_LINE 8193
#define NUL_AT 5 /* in the content of the mistake so named */

static const struct {
    const char *content, *wrong, *right;
} mistakes[] = {
    {"/a=@who\n/b\n", "routes:2:", "PATH=TARGET"},
    {"/a=@who\r\n\r\n# x\n/b=@nobody", "routes:4:", "@who"},
    {"/a=@who,max=0\n", "routes:1:", "from 1 to 1000000"},
    {"/a=@who,max=1000001\n", "max=1000001", "from 1 to 1000000"},
    {"/few=@few,max=3x\n", "max=3x", "from 1 to 1000000"},
    {"/a=@who,max=-1\n", "max=-1", "from 1 to 1000000"},
    {"/a=@who,max\n", "routes:1:", "max=VALUE"},
    {"/a=@who,timeout=soon\n", "timeout=soon", "90s"},
    {"/a=@who,on-hangup=cry\n", "on-hangup=cry", "finish"},
    {"/a=@who,half-close=maybe\n", "half-close=maybe", "probe"},
    {"/a=@who,least=3\n", "least", "max"},
    {"/a=/bin/true,env=GREETING\n", "env=GREETING is not a variable", "env=NAME=VALUE"},
    {"/a=/bin/true,env=2=3\n", "env=2=3 is not a variable", "env=NAME=VALUE"},
    {"/a=/bin/true,env=A=1,env=A=2\n", "env=A=2", "twice"},
    {"/a=/bin/true,env=SCRIPT_NAME=y\n", "env=SCRIPT_NAME=y", "another name"},
    {"/a=/bin/true,env=HTTP_PROXY=y\n", "env=HTTP_PROXY=y", "another name"},
    {"/a=/bin/true,memory=0\n", "memory=0", "64M"},
    {"/a=/bin/true,cpu=soon\n", "cpu=soon", "90s"},
    {"/a=/bin/true,tmpdir=mine\n", "tmpdir=mine", "leave"},
    {"/a=@who,memory=1G\n", "memory is about programs", "@who"},
    {"/a=@who,env=A=1\n", "env is about programs", "@who"},
    {"/a=@who,options=server\n", "options is about programs", "@who"},
    {"/a=@who\n/b=@who\n/a=@who\n", "routes:3: the path /a has two routes", "routes:1"},
    {"/x=@who\n", "/x has two routes", "routes:1"}, /* and on the command line */
    {"# nothing\n\n", "no route in", "one a line"},
    {"/x = /bin/true\n", "routes:1:", "write /x=/bin/true"},
    {"/x= /bin/true\n", "routes:1:", "write /x=/bin/true"},
    {"/x\t=/bin/true\n", "routes:1:", "write /x=/bin/true"},
    {"\xef\xbb\xbf/x=@who\n", "routes:1:", "byte order mark"},
    {"/x=/bin/true --flag\n", "/bin/true gets no arguments", "script"},
    {"NUL", "routes:2:", "text"},
    {"LONG", "routes:2:", "8192"},
};

TEST_EACH(mistake_in_a_file_is_explained, mistakes)
{
    const char *content = mistakes[_i].content;
    char bytes[2 * LONG_LINE] = "/a=@who\n/b";
    file_write(at("routes"), content);
    if (strcmp(content, "NUL") == 0)
        bytes_write(at("routes"), "/a=@who\n/b=@\0who\n", 17);
    if (strcmp(content, "LONG") == 0) {
        memset(bytes + 10, 'b', LONG_LINE);
        file_write(at("routes"), bytes);
    }
    struct output o =
        run("%s --state %s --listen 127.0.0.1:0 --routes %s %s", the_things(), at("state"),
            at("routes"), strchr(content, 'x') == content + 1 ? "/x=@who" : "");
    must_say(o.status == 2, "%s: %d: %s", content, o.status, o.text);
    must_say(strstr(o.text, mistakes[_i].wrong) && strstr(o.text, mistakes[_i].right), "%s: %s",
             content, o.text);
    must(!exists(at("state")));
}

TEST(file_that_cannot_be_read)
{
    must(mkdir(at("directory"), 0755) == 0);
    const char *const files[][2] = {{at("missing"), "No such file"},
                                    {at("directory"), "Is a directory"}};
    for (int i = 0; i < COUNT(files); i++) {
        struct output o = run("%s --state %s --listen 127.0.0.1:0 --routes %s", the_hangupd(),
                              at("state"), files[i][0]);
        must_say(o.status == 2 && strstr(o.text, files[i][0]) && strstr(o.text, files[i][1]) &&
                     strstr(o.text, "one route a line"),
                 "%d: %s", o.status, o.text);
    }
    char words[2048] = "";
    for (int i = 0; i < 17; i++)
        strcat(words, " --routes x");
    struct output o = run("%s --listen 127.0.0.1:0%s", the_hangupd(), words);
    must_say(o.status == 2 && strstr(o.text, "16 times"), "%s", o.text);
}

TEST(file_is_read_before_privileges_are_dropped)
{
    if (only_for_root("file_is_read_before_privileges_are_dropped"))
        return;
    file_write(at("routes"), "/mine=@who\n");
    must(chmod(at("routes"), 0600) == 0);
    struct server *s = things("--user nobody --routes %s", at("routes"));
    must(status_of(s, "/mine") == 200);
    server_stop(s);
}

TEST(client_of_inetd_reads_no_mistake)
{
    int ends[2];
    must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
    struct server *s = server_spawn(the_things(), "--inetd --routes missing", ends[0], true, -1);
    close(ends[0]);
    struct heard h = hear(ends[1]);
    must_say(h.length == 0, "%s", h.text);
    must(server_wait(s) == 2);
}

/* ---- The keys ------------------------------------------------------------------------------ */

THEME("keys");

TEST_TIMES(key_timeout, SOURCES)
{
    struct server *s = routed(_i, "", "/make=@make,timeout=300ms");
    int c = get(s, "/make?path=%s&seconds=60", at("file"));
    must(hear(c).status == 504);
    log_wait(s, " timeout undo=ok");
    must(!exists(at("file")));
    server_stop(s);
}

TEST_TIMES(key_on_hangup, 2 * SOURCES)
{
    struct server *s = routed(_i % SOURCES, _i < SOURCES ? "" : "--on-hangup finish",
                              "/keep=@make,on-hangup=finish /drop=@make,on-hangup=undo");
    int keep = get(s, "/keep?path=%s&seconds=0.3", at("kept"));
    int drop = get(s, "/drop?path=%s&seconds=60", at("dropped"));
    wait_made(s, at("kept"));
    wait_made(s, at("dropped"));
    close_rst(keep);
    close_rst(drop);
    log_wait(s, "\"GET /keep");
    log_wait(s, "\"GET /drop");
    must(exists(at("kept")) && !exists(at("dropped")));
    server_stop(s);
}

TEST_TIMES(key_half_close, SOURCES)
{
    /* Each route against the opposite default. */
    struct server *s = routed(_i, "--half-close hangup",
                              "/ask=@make,half-close=probe /ignore=@make,half-close=ignore");
    int ask = get(s, "/ask?path=%s&seconds=60", at("ask"));
    int ignore = get(s, "/ignore?path=%s&seconds=0.3", at("ignore"));
    wait_made(s, at("ask"));
    wait_made(s, at("ignore"));
    shutdown(ask, SHUT_WR);
    shutdown(ignore, SHUT_WR);
    hear_until(ask, "HTTP/1.1 100 Continue\r\n\r\n");
    close_rst(ask);
    struct heard h = hear(ignore);
    must_say(h.status == 200 && !strstr(h.text, "100 Continue"), "%s", h.text);
    server_stop(s);

    s = routed(_i, "--half-close ignore", "/strict=@make,half-close=hangup");
    int strict = get(s, "/strict?path=%s&seconds=60", at("strict"));
    wait_made(s, at("strict"));
    shutdown(strict, SHUT_WR);
    log_wait(s, " hangup undo=ok");
    must(!exists(at("strict")) && hear(strict).status == 0);
    server_stop(s);
}

TEST(help_and_manual_name_the_keys)
{
    static const char *const wanted[] = {"timeout=TIME",          "max=N",
                                         "on-hangup=undo|finish", "half-close=probe|hangup|ignore",
                                         "env=NAME=VALUE",        "options=program|server",
                                         "tmpdir=own|leave",      "memory=SIZE",
                                         "--routes FILE"};
    struct output help = run("%s --help", the_hangupd());
    must(help.status == 0);
    const char *tests = getenv("TESTS");
    struct output manual = run("awk -v hangupd=%s -v examples_dir=/examples -f %s/tools/manual.awk "
                               "%s/tools/hangupd.8.in",
                               the_binary(), tests, tests);
    must(manual.status == 0);
    char *to = manual.text;
    for (const char *from = manual.text; *from != '\0'; from++)
        if (*from != '\\')
            *to++ = *from;
    *to = '\0';
    for (int i = 0; i < COUNT(wanted); i++) {
        must_say(strstr(help.text, wanted[i]), "--help does not say %s", wanted[i]);
        must_say(strstr(manual.text, wanted[i]), "hangupd(8) does not say %s", wanted[i]);
    }
    must_say(strstr(manual.text, ".TP\n.B --routes FILE\n"), "%s", manual.text);
}

/* How often TEXT is in the other. */
static unsigned times(const char *in, const char *text)
{
    unsigned n = 0;
    for (; (in = strstr(in, text)) != NULL; in += strlen(text))
        n++;
    return n;
}

/* ---- The scoreboard, as a child has it ----------------------------------------------------- */

struct board {
    struct slot *slots;
    size_t count;
};

static struct board board_of(const struct server *s)
{
    glob_t found;
    struct stat st;
    char pattern[64], what[PATH_MAX];
    int fd = -1;
    snprintf(pattern, sizeof(pattern), "/proc/%d/fd/*", (int)s->pid);
    must(glob(pattern, 0, NULL, &found) == 0);
    for (size_t i = 0; fd < 0 && i < found.gl_pathc; i++) {
        ssize_t n = readlink(found.gl_pathv[i], what, sizeof(what) - 1);
        what[n > 0 ? n : 0] = '\0';
        if (strncmp(what, "/memfd:hangupd-scoreboard", 25) == 0)
            fd = open(found.gl_pathv[i], O_RDWR | O_CLOEXEC);
    }
    must(fd >= 0 && fstat(fd, &st) == 0);
    char *all = mmap(NULL, (size_t)st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    must(all != MAP_FAILED);
    close(fd);
    globfree(&found);
    /* Their number stands behind the first 16 bytes; the slots are the end of it. */
    uint32_t count;
    memcpy(&count, all + 16, sizeof(count));
    must(count > 0 && count * sizeof(struct slot) < (size_t)st.st_size);
    return (struct board){(void *)(all + (size_t)st.st_size - count * sizeof(struct slot)), count};
}

/* How many wait for their turn. */
static unsigned waiting(struct board b)
{
    unsigned n = 0;
    for (size_t i = 0; i < b.count; i++)
        n += (atomic_load(&b.slots[i].state) & SLOT_WAITING) != 0;
    return n;
}

/* ---- The key max: whose turn it is --------------------------------------------------------- */

THEME("max");

/* Returns the slot of the request whose line has TEXT in it, or NULL. */
static struct slot *slot_with(struct board b, const char *text)
{
    for (size_t i = 0; i < b.count; i++)
        if (atomic_load(&b.slots[i].state) != SLOT_FREE && strstr(b.slots[i].request, text) != NULL)
            return b.slots + i;
    return NULL;
}

TEST_TIMES(max_is_served_in_order, SOURCES)
{
    struct server *s = routed(_i, "", "/make=@make,max=1 /who=@who");
    struct board b = board_of(s);
    int c[4];
    c[0] = get(s, "/make?path=%s&seconds=60", at("f0"));
    wait_made(s, at("f0"));
    for (unsigned i = 1; i < 4; i++) {
        c[i] = get(s, "/make?path=%s&seconds=0.1", at("f%u", i));
        wait_until(waiting(b) == i);
    }
    must_say(status_of(s, "/who") == 200, "another route waits with this one");
    must(is_quiet(c[1]) && waiting(b) == 3);
    struct output o = run("%s status --json --state %s", the_hangupd(), at("state"));
    must_say(times(o.text, "\"waiting\"") == 3, "%s", o.text);
    close_rst(c[0]);
    for (int i = 1; i < 4; i++) {
        must(hear_answer(c[i], false).status == 200);
        /* Nobody is served before the one in front has had its answer. */
        for (int later = i + 2; later < 4; later++)
            must(!log_has(s, "made %s", at("f%d", later)));
    }
    must(waiting(b) == 0);
    server_stop(s);
}

TEST_TIMES(max_may_be_more_than_one, 2)
{
    /* The second time as a C program sets it, for a route that the command line leaves alone. */
    struct server *s = things("%s", _i ? "" : "/few=@make,max=2");
    struct board b = board_of(s);
    int one = get(s, "/few?path=%s&seconds=60", at("one"));
    int two = get(s, "/few?path=%s&seconds=60", at("two"));
    wait_made(s, at("one"));
    wait_made(s, at("two"));
    int three = get(s, "/few?path=%s", at("three"));
    wait_until(waiting(b) == 1);
    must(is_quiet(three));
    close_rst(one);
    must(hear_answer(three, false).status == 200);
    must(exists(at("two")) && !exists(at("one")));
    close_rst(two);
    server_stop(s);
}

TEST(max_is_changed_on_the_command_line)
{
    struct server *s = things("/few=@few,max=1");
    struct board b = board_of(s);
    int one = get(s, "/few?path=%s&seconds=60", at("one"));
    wait_made(s, at("one"));
    int two = get(s, "/few?path=%s", at("two"));
    wait_until(waiting(b) == 1);
    close_rst(one);
    must(hear_answer(two, false).status == 200);
    server_stop(s);
}

/* ---- The key max: a place is held until nothing is left ------------------------------------ */

TEST(killed_child_gives_its_place_back)
{
    struct server *s = things("/make=@make,max=1");
    struct board b = board_of(s);
    int one = get(s, "/make?path=%s&seconds=60", at("one"));
    pid_t pid = wait_made(s, at("one"));
    int two = get(s, "/make?path=%s", at("two"));
    wait_until(waiting(b) == 1);
    kill(pid, SIGKILL);
    must(hear(one).status == 500);
    must(hear_answer(two, false).status == 200);
    must(!exists(at("one")) && exists(at("two")));
    server_stop(s);
}

TEST(killed_child_that_waits_is_not_waited_for)
{
    struct server *s = things("/make=@make,max=1 /who=@who");
    struct board b = board_of(s);
    int one = get(s, "/make?path=%s&seconds=60", at("one"));
    pid_t first = wait_made(s, at("one")), second = 0;
    int two = get(s, "/make?path=%s", at("two"));
    wait_until(waiting(b) == 1);
    int three = get(s, "/make?path=%s", at("three"));
    wait_until(waiting(b) == 2);
    struct slot *slot = slot_with(b, at("two"));
    must(slot != NULL);
    second = slot->pid;
    must(second > 0 && second != first && is_alive(second));
    kill(second, SIGKILL);
    must(hear(two).status == 500);
    close_rst(one);
    must(hear_answer(three, false).status == 200);
    must(!exists(at("two")));
    server_stop(s);
}

/* It has been told to end, and does not come to it: this test's tracer holds it. */
TEST(place_is_not_given_to_one_that_is_being_ended)
{
    struct server *s = things("/make=@make,max=1 --grace 1h");
    struct board b = board_of(s);
    int one = get(s, "/make?path=%s&seconds=60", at("one")), status = 0;
    wait_made(s, at("one"));
    int two = get(s, "/make?path=%s", at("two"));
    wait_until(waiting(b) == 1);
    int three = get(s, "/make?path=%s", at("three"));
    wait_until(waiting(b) == 2);
    struct slot *slot = slot_with(b, at("two"));
    must(slot != NULL);
    pid_t held = (pid_t)atomic_load(&slot->pid);
    if (ptrace(PTRACE_SEIZE, held, NULL, NULL) < 0) {
        test_skipped("place_is_not_given_to_one_that_is_being_ended", "no ptrace(2)");
        return;
    }
    must(ptrace(PTRACE_INTERRUPT, held, NULL, NULL) == 0);
    must(waitpid(held, &status, __WALL) == held && WIFSTOPPED(status));
    close_rst(two);
    wait_until(atomic_load(&slot->cause) == CAUSE_HANGUP);
    close_rst(one);
    must(hear_answer(three, false).status == 200);
    must(ptrace(PTRACE_DETACH, held, NULL, NULL) == 0);
    wait_until(log_count(s, " hangup undo=") == 2);
    must(!exists(at("two")));
    server_stop(s);
}

TEST(place_is_held_until_the_undo_has_ended)
{
    struct server *s = things("/run=@run,max=1 /who=@who");
    struct board b = board_of(s);
    file_write(at("undo"), "echo undoing; while [ ! -e end ]; do sleep 0.02; done\n");
    int one = get(s, "/run?cmd=.+%s&seconds=60", at("undo"));
    log_wait(s, "recorded pid");
    log_mark(s);
    int two = get(s, "/run?cmd=true");
    wait_until(waiting(b) == 1);
    close_rst(one);
    log_wait(s, "undoing");
    for (int i = 0; i < 5; i++)
        must(status_of(s, "/who") == 200);
    must_say(is_quiet(two) && waiting(b) == 1 && !log_has(s, "recorded pid"),
             "the second began while the first was being undone");
    file_write(at("end"), "");
    must(hear_answer(two, false).status == 200);
    server_stop(s);
}

TEST(place_is_held_when_a_program_redirects)
{
    file_write(at("redirect"), "#!/bin/sh\nprintf 'Location: /make?%s\\n\\n' \"$QUERY_STRING\"\n");
    must(chmod(at("redirect"), 0755) == 0);
    struct server *s = things("/to=%s,max=1 /make=@make", at("redirect"));
    struct board b = board_of(s);
    int one = get(s, "/to?path=%s&seconds=60", at("one"));
    wait_made(s, at("one"));
    int two = get(s, "/to?path=%s", at("two"));
    wait_until(waiting(b) == 1);
    must(is_quiet(two));
    close_rst(one);
    must(hear_answer(two, false).status == 200);
    must(!exists(at("one")) && exists(at("two")));
    server_stop(s);
}

/* ---- The key max: a child that lies -------------------------------------------------------- */

TEST(turn_that_was_not_granted_frees_no_place)
{
    struct server *s = things("/make=@make,max=1 /who=@who");
    struct board b = board_of(s);
    int one = get(s, "/make?path=%s&seconds=60", at("one"));
    wait_made(s, at("one"));
    int two = get(s, "/make?path=%s&seconds=60", at("two"));
    wait_until(waiting(b) == 1);
    int three = get(s, "/make?path=%s", at("three"));
    wait_until(waiting(b) == 2);
    /* The second takes its turn; only its sleep has to be ended. */
    struct slot *liar = slot_with(b, at("two"));
    must(liar != NULL);
    atomic_store(&liar->turn, TURN_GRANTED);
    syscall(SYS_futex, &liar->turn, FUTEX_WAKE, 1, NULL, NULL, 0);
    wait_made(s, at("two"));
    close_rst(two);
    log_wait(s, " hangup undo=ok");
    for (int i = 0; i < 5; i++) /* the end of the liar is behind the server then */
        must(status_of(s, "/who") == 200);
    must_say(is_quiet(three) && waiting(b) == 1, "the liar had no place to give away");
    close_rst(one);
    must(hear_answer(three, false).status == 200);
    server_stop(s);
}

TEST(turn_is_asked_for_a_route_that_is_not_there)
{
    struct server *s = things("/make=@make,max=1");
    struct board b = board_of(s);
    int one = get(s, "/make?path=%s&seconds=60", at("one"));
    wait_made(s, at("one"));
    struct slot *liar = slot_with(b, at("one"));
    must(liar != NULL);
    atomic_store(&liar->route, INT16_MAX);
    atomic_store(&liar->turn, TURN_ASKED);
    int two = get(s, "/make?path=%s", at("two"));
    wait_until(waiting(b) == 1);
    close_rst(one);
    must(hear_answer(two, false).status == 200);
    server_stop(s);
}

/* ---- The key max: the end of waiting ------------------------------------------------------- */

static const struct {
    const char *key;
    int way;
    bool at_once; /* seen while it waits, and not only at the end of its work */
    int minor;    /* of HTTP/1 */
} waiting_ways[] = {
    {"", BY_RST, true, 1},
    {",half-close=hangup", BY_FIN, true, 1},
    {"", BY_FIN, true, 1},
    {"", BY_FIN, true, 0},
    {",on-hangup=finish", BY_FIN, true, 1},
    {",half-close=ignore", BY_FIN, false, 1},
};

TEST_EACH(hangup_of_one_that_waits, waiting_ways)
{
    struct server *s = things("/make=@make,max=1%s", waiting_ways[_i].key);
    struct board b = board_of(s);
    int first = get(s, "/make?path=%s&seconds=60", at("first"));
    wait_made(s, at("first"));
    int second = dial(s);
    say(second, "GET /make?path=%s HTTP/1.%d\r\nHost: test\r\n\r\n", at("second"),
        waiting_ways[_i].minor);
    wait_until(waiting(b) == 1);
    int third = get(s, "/make?path=%s", at("third"));
    wait_until(waiting(b) == 2);
    hang_up(second, waiting_ways[_i].way);
    if (waiting_ways[_i].at_once) {
        log_wait(s, " hangup undo=none");
        wait_until(waiting(b) == 1);
    }
    must(is_quiet(third));
    kill((pid_t)atomic_load(&slot_with(b, at("first"))->pid), SIGKILL);
    must(hear_answer(third, false).status == 200);
    wait_until(log_count(s, " hangup undo=") == 1);
    close_fin(first);
    must(!exists(at("second")) && exists(at("third")));
    if (waiting_ways[_i].at_once)
        must_say(!log_has(s, "made %s", at("second")), "work was begun for a client that left");
    server_stop(s);
}

TEST(hangup_of_one_that_waits_with_finish)
{
    /* It has begun nothing that could be finished. */
    struct server *s = things("/make=@make,max=1,on-hangup=finish");
    struct board b = board_of(s);
    int first = get(s, "/make?path=%s&seconds=60", at("first"));
    pid_t pid = wait_made(s, at("first"));
    int second = get(s, "/make?path=%s", at("second"));
    wait_until(waiting(b) == 1);
    close_rst(second);
    log_wait(s, " hangup undo=none");
    must(is_quiet(first));
    kill(pid, SIGKILL);
    must(hear(first).status == 500 && !exists(at("second")));
    server_stop(s);
}

TEST(fin_before_waiting)
{
    struct server *s = things("/make=@make,max=1,half-close=hangup");
    int first = get(s, "/make?path=%s&seconds=60", at("first"));
    wait_made(s, at("first"));
    /* The server finds both at once. */
    kill(s->pid, SIGSTOP);
    int second = get(s, "/make?path=%s", at("second"));
    shutdown(second, SHUT_WR);
    kill(s->pid, SIGCONT);
    log_wait(s, " hangup undo=none");
    must(hear(second).status == 0 && exists(at("first")));
    close_rst(first);
    server_stop(s);
}

TEST(half_closed_client_that_waits_is_answered)
{
    struct server *s = things("/make=@make,max=1");
    struct board b = board_of(s);
    int first = get(s, "/make?path=%s&seconds=60", at("first"));
    wait_made(s, at("first"));
    int second = get(s, "/make?path=%s", at("second"));
    wait_until(waiting(b) == 1);
    shutdown(second, SHUT_WR);
    hear_until(second, "HTTP/1.1 100 Continue\r\n\r\n");
    must(waiting(b) == 1);
    close_rst(first);
    struct heard h = hear(second); /* it was asked again when its turn came */
    must_say(h.status == 200 && strncmp(h.text, "HTTP/1.1 100 ", 13) == 0, "%s", h.text);
    server_stop(s);
}

TEST_TIMES(waiting_too_long_is_503, 2)
{
    struct server *s = things("/make=@make,max=1 /who=@who --queue-timeout %s", _i ? "0" : "0.3");
    int first = get(s, "/make?path=%s&seconds=60", at("first"));
    wait_made(s, at("first"));
    int second = get(s, "/make?path=%s", at("second"));
    struct heard h = hear_answer(second, false);
    must_say(h.status == 503 && atoi(field(h, "Retry-After")) > 0, "%s", h.text);
    must_say(strstr(h.text, "waited too long"), "%s", h.text);
    say(second, "GET /who HTTP/1.1\r\nHost: test\r\n\r\n");
    must_say(hear_answer(second, false).status == 200, "the connection was not kept");
    log_wait(s, " 503 ");
    must(log_has(s, " error undo=none"));
    must(exists(at("first")) && !exists(at("second")));
    close_rst(first);
    server_stop(s);
}

TEST(who_waits_makes_room)
{
    struct server *s = things("/make=@make,max=1 /who=@who --requests 3");
    struct board b = board_of(s);
    int first = get(s, "/make?path=%s&seconds=60", at("first"));
    wait_made(s, at("first"));
    int second = get(s, "/make?path=%s", at("second"));
    wait_until(waiting(b) == 1);
    int third = get(s, "/make?path=%s", at("third"));
    wait_until(waiting(b) == 2);
    must_say(status_of(s, "/who") == 200, "the waiting kept out who need not wait");
    struct heard h = hear(third);
    must_say(h.status == 503 && atoi(field(h, "Retry-After")) > 0 && !h.reset, "%s", h.text);
    must_say(strstr(h.text, "make room"), "%s", h.text);
    must(log_has(s, " 503 ") && log_has(s, " error undo=none"));
    must_say(is_quiet(second), "the first of the line had to go");
    close_rst(first);
    must(hear_answer(second, false).status == 200);
    must(!exists(at("third")));
    server_stop(s);
}

TEST_TIMES(drain_while_one_waits, 2)
{
    struct server *s = things("/make=@make,max=1");
    struct board b = board_of(s);
    int first = get(s, "/make?path=%s&seconds=60", at("first"));
    wait_made(s, at("first"));
    int second = get(s, "/make?path=%s", at("second"));
    wait_until(waiting(b) == 1);
    kill(s->pid, _i ? SIGINT : SIGTERM);
    log_wait(s, _i ? "stopping: 2 in flight, to be undone now"
                   : "stopping: 2 in flight, which may take 30 s to finish");
    if (!_i)
        close_rst(first);
    struct heard h = hear(second);
    must_say(h.status == (_i ? 503 : 200), "%s", h.text);
    must(server_wait(s) == 0);
    must(exists(at("second")) == !_i);
}

TEST_TIMES(time_limit_does_not_count_the_waiting, 2)
{
    struct server *s =
        things("%s", _i ? "/make=@make,max=1 --timeout 3" : "/make=@make,max=1,timeout=3");
    struct board b = board_of(s);
    int first = get(s, "/make?path=%s&seconds=60", at("first"));
    wait_made(s, at("first"));
    int second = get(s, "/make?path=%s&seconds=0.2", at("second"));
    wait_until(waiting(b) == 1);
    must(hear(first).status == 504);
    must(hear_answer(second, false).status == 200);
    /* And the limit still holds for the work. */
    int third = get(s, "/make?path=%s&seconds=60", at("third"));
    must(hear(third).status == 504);
    must(exists(at("second")) && !exists(at("third")));
    server_stop(s);
}

/* ---- The key max: a storm ------------------------------------------------------------------ */

#define CALLERS 40
#define CALLS 240

/* Kill one of the children that serve requests; a janitor has no session of its own. */
static void kill_some_child(const struct server *s, unsigned which)
{
    pid_t pids[2 * CALLERS];
    unsigned count = children_of(s->pid, pids, 2 * CALLERS), serving = 0;
    for (unsigned i = 0; i < count; i++)
        if (getsid(pids[i]) == pids[i])
            pids[serving++] = pids[i];
    if (serving > 0)
        kill_child(s->pid, pids[which % serving]);
}

/* Let 40 callers, some of whom hang up, call a route of which 3 may run; kill children meanwhile.
 * Whoever hangs up does so when somebody has been served, and nobody is killed before three have
 * run at once: on a slow machine nobody would live long enough otherwise. */
static void storm(struct server *s)
{
    int calls[CALLERS], made = 0, open_calls = 0, kill_at = 0;
    unsigned seed = 5180;
    bool moved = false;
    for (int i = 0; i < CALLERS; i++)
        calls[i] = -1;
    do {
        for (int i = 0; i < CALLERS; i++) {
            char answer[1024];
            ssize_t n = calls[i] < 0 ? 0 : recv(calls[i], answer, sizeof(answer), MSG_DONTWAIT);
            bool over = calls[i] >= 0 && (n >= 0 || errno != EAGAIN);
            if (over || (calls[i] >= 0 && moved && rand_r(&seed) % 100 == 0)) {
                hang_up(calls[i], rand_r(&seed) % WAYS);
                calls[i] = -1;
                open_calls--;
            }
            if (calls[i] < 0 && made < CALLS) {
                calls[i] = get(s, "/crowd?in=%s&seconds=0.0%d", at("crowd"), rand_r(&seed) % 9);
                made++;
                open_calls++;
            }
        }
        if (made >= kill_at && exists(at("crowd.3"))) {
            kill_some_child(s, (unsigned)rand_r(&seed));
            kill_at = made + 1 + rand_r(&seed) % 3;
        }
        size_t had = s->length;
        log_has(s, "%s", ""); /* take what was logged */
        moved = s->length > had;
        rest();
    } while (open_calls > 0);
}

TEST(storm_on_a_route_with_max)
{
    must(mkdir(at("crowd"), 0755) == 0);
    struct server *s = things("/crowd=@crowd,max=3 --requests 64 --queue-timeout 15m");
    struct board b = board_of(s);
    storm(s);
    wait_until(is_empty(at("crowd")));
    must_say(exists(at("crowd.3")), "there were never three");
    must_say(!exists(at("crowd.4")), "there were four");
    must(log_has(s, " hangup ") && log_has(s, " killed ") && log_has(s, " ok "));
    /* The route is free: three run, and a fourth is served after one of them. */
    int c[4];
    for (int i = 0; i < 3; i++)
        c[i] = get(s, "/crowd?in=%s&seconds=60", at("crowd"));
    wait_until(run("find %s -type f -printf x", at("crowd")).length == 3);
    c[3] = get(s, "/crowd?in=%s", at("crowd"));
    wait_until(waiting(b) == 1);
    for (int i = 0; i < 3; i++)
        close_rst(c[i]);
    must(hear_answer(c[3], false).status == 200);
    server_stop(s);
    must(!exists(at("crowd.4")));
}

/* ---- Refused before the body --------------------------------------------------------------- */

THEME("body");

#define EXPECT "Expect: 100-continue\r\n"
#define LONG_PATH "/0123456789012345678901234567890123456789012345678901234567890123456789"
#define FOUR_TIMES(text) text text text text
#define LONG_FIELD "X:" FOUR_TIMES(LONG_PATH LONG_PATH)
#define REFUSING "/echo=@echo /who=@who --max-body 64k --max-target 64 --max-header 400"

static const struct {
    const char *line, *fields, *curl;
    int status;
} refusals[] = {
    {"POST /none", EXPECT, "/none", 404},
    {"POST /who", EXPECT, "/who", 405},
    {"BREW /echo", EXPECT, "-X BREW /echo", 501},
    {"POST /echo", EXPECT, "/echo", 413},
    {"POST " LONG_PATH, EXPECT, LONG_PATH, 414},
    {"POST /echo", EXPECT LONG_FIELD "\r\n", "-H " LONG_FIELD " /echo", 431},
    {"POST /echo", EXPECT "No colon\r\n", NULL, 400},
    {"POST /echo", "Expect: a-miracle\r\n", NULL, 417},
};

#define BODY 100000 /* bytes */

TEST_EACH(refused_before_the_body, refusals)
{
    /* The client waits for the answer, or sends the body all the same. */
    static char body[BODY];
    struct server *s = things(REFUSING);
    for (int sends = 0; sends < 2; sends++) {
        int c = dial(s);
        say(c, "%s HTTP/1.1\r\nHost: test\r\nContent-Length: %d\r\n%s\r\n", refusals[_i].line, BODY,
            refusals[_i].fields);
        if (sends)
            say_bytes(c, body, sizeof(body));
        struct heard h = hear(c);
        must_say(h.status == refusals[_i].status && !h.reset, "%s", h.text);
        must_say(strncmp(h.text, "HTTP/1.1 100", 12) != 0, "%s", h.text);
        must_say(strcmp(field(h, "Connection"), "close") == 0, "%s", h.text);
        const char *text = strstr(h.text, "\r\n\r\n");
        must_say(text && strlen(text + 4) == strtoul(field(h, "Content-Length"), NULL, 10), "%s",
                 h.text);
    }
    server_stop(s);
}

static void check_that_curl_sends_nothing(const struct server *s, const char *words, int status)
{
    char result[64];
    file_write(at("body"), "");
    must(truncate(at("body"), BODY) == 0);
    snprintf(result, sizeof(result), "\ncurl %d 0\n", status);
    struct output o = curl(s,
                           "-v -H Expect:100-continue --expect100-timeout 60 -o answer -w "
                           "\ncurl_%%{http_code}_%%{size_upload}\n --data-binary @%s %s",
                           at("body"), words);
    for (char *c = o.text; *c != '\0'; c++)
        if (*c == '_')
            *c = ' ';
    must_say(o.status == 0 && strstr(o.text, result), "%d: %s", o.status, o.text);
    must_say(!strstr(o.text, "< HTTP/1.1 100"), "%s", o.text);
}

TEST_EACH(refused_before_curl_sends_the_body, refusals)
{
    struct server *s = things(REFUSING);
    if (refusals[_i].curl)
        check_that_curl_sends_nothing(s, refusals[_i].curl, refusals[_i].status);
    server_stop(s);
}

TEST(turn_comes_before_the_body)
{
    static char body[BODY];
    struct server *s = things("/few=@echo,max=1 --queue-timeout 2");
    struct board b = board_of(s);
    /* A request that is still being read holds the place. */
    int first = dial(s);
    say(first, "POST /few HTTP/1.1\r\nHost: test\r\nContent-Length: 4\r\n" EXPECT "\r\n");
    hear_until(first, "HTTP/1.1 100 Continue\r\n\r\n");
    for (int sends = 0; sends < 2; sends++) {
        int c = dial(s);
        say(c, "POST /few HTTP/1.1\r\nHost: test\r\nContent-Length: %d\r\n" EXPECT "\r\n", BODY);
        wait_until(waiting(b) == 1);
        must(is_quiet(c));
        if (sends)
            say_bytes(c, body, sizeof(body));
        struct heard h = hear(c);
        must_say(h.status == 503 && !h.reset && atoi(field(h, "Retry-After")) > 0, "%s", h.text);
        must_say(strncmp(h.text, "HTTP/1.1 100", 12) != 0, "%s", h.text);
    }
    check_that_curl_sends_nothing(s, "/few", 503);
    say(first, "body");
    must(hear_answer(first, false).status == 200);
    server_stop(s);
}

TEST(body_is_asked_for_once)
{
    struct server *s = things("/echo=@echo,max=1 /who=@who");
    struct board b = board_of(s);
    static const char *const framings[] = {"Content-Length: 4", "Transfer-Encoding: chunked"};
    static const char *const bodies[] = {"body", "4\r\nbody\r\n0\r\n\r\n"};
    int c = dial(s);
    for (int i = 0; i < 2; i++) {
        say(c, "POST /echo HTTP/1.1\r\nHost: test\r\n%s\r\n" EXPECT "\r\n", framings[i]);
        hear_until(c, "HTTP/1.1 100 Continue\r\n\r\n");
        must(is_quiet(c));
        /* Who waits for a turn is not asked for the body, and then once. */
        int other = dial(s);
        say(other, "POST /echo HTTP/1.1\r\nHost: test\r\n%s\r\n" EXPECT "\r\n", framings[i]);
        wait_until(waiting(b) == 1);
        must(is_quiet(other));
        say(c, "%s", bodies[i]);
        struct heard h = hear_answer(c, false);
        must_say(h.status == 200 && times(h.text, "HTTP/1.1 ") == 1, "%s", h.text);
        hear_until(other, "HTTP/1.1 100 Continue\r\n\r\n");
        say(other, "%s", bodies[i]);
        h = hear_answer(other, false);
        must_say(h.status == 200 && times(h.text, "HTTP/1.1 ") == 1, "%s", h.text);
        /* Nor is who has sent it already. */
        say(c, "POST /echo HTTP/1.1\r\nHost: test\r\n%s\r\n" EXPECT "\r\n%s", framings[i],
            bodies[i]);
        h = hear_answer(c, false);
        must_say(h.status == 200 && times(h.text, "HTTP/1.1 ") == 1, "%s", h.text);
        close_fin(other);
    }
    close_fin(c);
    file_write(at("body"), "");
    must(truncate(at("body"), BODY) == 0);
    struct output o = curl(s,
                           "-v -H Expect:100-continue --expect100-timeout 60 -o answer "
                           "--data-binary @%s /echo",
                           at("body"));
    must_say(o.status == 0 && times(o.text, "< HTTP/1.1 100") == 1 &&
                 times(o.text, "< HTTP/1.1 200") == 1,
             "%s", o.text);
    server_stop(s);
}

/* ---- Room for all bodies together ----------------------------------------------------------- */

static int post(const struct server *s, const char *path, int length, const char *body)
{
    int c = dial(s);
    say(c, "POST %s HTTP/1.1\r\nHost: test\r\nContent-Length: %d\r\n\r\n%s", path, length, body);
    return c;
}

/* While one body of 600k is being read, another has no room, and 60k need not ask; with and without
 * a length. What was granted comes back with the end, whatever it is. */
TEST_TIMES(bodies_are_bounded_together, 3)
{
    static char chunks[2 * 40000 + 64];
    struct server *s = things("/echo=@echo /who=@who --max-spool 1000000");
    int first = post(s, "/echo", 600000, "x");
    wait_read(s, first);
    int second = _i == 0 ? post(s, "/echo", 600000, "") : dial(s);
    if (_i > 0) {
        say(second, "POST /echo HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n");
        for (int i = 0; i < 15 && is_quiet(second); i++) {
            int n = sprintf(chunks, "9c40\r\n%040000d\r\n", i);
            if (send(second, chunks, (size_t)n, MSG_NOSIGNAL) < 0)
                break;
        }
    }
    struct heard h = hear(second);
    must_say(h.status == 503 && !h.reset && atoi(field(h, "Retry-After")) > 0, "%s", h.text);
    must_say(strstr(h.text, "no room for this body"), "%s", h.text);
    memset(chunks, 'x', 60000);
    chunks[60000] = '\0';
    must(hear_answer(post(s, "/echo", 60000, chunks), false).status == 200);
    if (_i == 2)
        kill(only_child(s->pid), SIGKILL);
    else
        close_rst(first);
    log_wait(s, _i == 2 ? " killed " : " hangup ");
    file_write(at("body"), "");
    must(truncate(at("body"), 900000) == 0);
    wait_until(
        strcmp(curl(s, "-H Expect: -o answer -w %%{http_code} --data-binary @%s /echo", at("body"))
                   .text,
               "200") == 0);
    server_stop(s);
}

/* No one may be larger than all together. */
TEST(body_larger_than_all_room_is_413)
{
    struct server *s = things("/echo=@echo --max-spool 100k --max-body 1M");
    must(hear(post(s, "/echo", 102401, "")).status == 413);
    server_stop(s);
}

static const char *const bodiless[] = {"GET /who", "HEAD /who", "GET /status?code=200"};

TEST_EACH(handler_that_takes_no_body_is_spared_it, bodiless)
{
    struct server *s = things("%s", "");
    for (int chunked = 0; chunked < 2; chunked++) {
        int c = dial(s);
        say(c, "%s HTTP/1.1\r\nHost: test\r\n%s\r\n\r\n", bodiless[_i],
            chunked ? "Transfer-Encoding: chunked" : "Content-Length: 1000000");
        struct heard h = hear(c);
        must_say(h.status == 413 && strcmp(field(h, "Connection"), "close") == 0, "%s", h.text);
    }
    server_stop(s);
}

/* Name the slot NUMBER to the server, as the child PID would: by its pipe that is not the log's. */
static void nudge_as(pid_t pid, uint32_t number)
{
    char path[64], log[64] = "", pipe[64];
    snprintf(path, sizeof(path), "/proc/%d/fd/2", (int)pid);
    must(readlink(path, log, sizeof(log) - 1) > 0);
    for (int fd = 3; fd < 256; fd++) {
        snprintf(path, sizeof(path), "/proc/%d/fd/%d", (int)pid, fd);
        ssize_t n = readlink(path, pipe, sizeof(pipe) - 1);
        pipe[n > 0 ? n : 0] = '\0';
        if (strncmp(pipe, "pipe:", 5) != 0 || strcmp(pipe, log) == 0)
            continue;
        int end = open(path, O_WRONLY | O_CLOEXEC);
        must(end >= 0 && write(end, &number, sizeof(number)) == (ssize_t)sizeof(number));
        close(end);
        return;
    }
    must_say(false, "the child has no pipe to the server");
}

/* A child that claims more than it may keeps others out by no more than one body. */
TEST(false_word_about_a_body_is_bounded)
{
    struct server *s = things("/make=@make /echo=@echo --max-body 300k --max-spool 1000k");
    struct board b = board_of(s);
    int liar = get(s, "/make?path=%s&seconds=60", at("file"));
    pid_t pid = wait_made(s, at("file"));
    struct slot *slot = slot_with(b, at("file"));
    must(slot != NULL);
    atomic_store(&slot->room_for, UINT64_C(1000) * 1024);
    atomic_store(&slot->room, ROOM_ASKED);
    nudge_as(pid, (uint32_t)(slot - b.slots));
    wait_until(atomic_load(&slot->room) != ROOM_ASKED);
    int two[2];
    for (int i = 0; i < 2; i++) {
        two[i] = dial(s);
        say(two[i],
            "POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: 300000\r\n" EXPECT "\r\n");
        hear_until(two[i], "HTTP/1.1 100 Continue\r\n\r\n"); /* there was room */
    }
    close_rst(two[0]);
    close_rst(two[1]);
    close_rst(liar);
    log_wait(s, " hangup undo=ok");
    server_stop(s);
}

/* ---- A body that grows too large ----------------------------------------------------------- */

TEST(chunked_body_that_grows_too_large)
{
    struct server *s = things("/echo=@echo --max-body 1k");
    char chunk[1025];
    memset(chunk, 'c', 1024);
    chunk[1024] = '\0';
    int c = dial(s);
    say(c, "POST /echo HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n400\r\n%s\r\n",
        chunk);
    wait_read(s, c);
    must(is_quiet(c));
    say(c, "1\r\nc\r\n");
    /* The client does not know yet, and goes on. */
    for (int i = 0; i < 20; i++)
        say(c, "400\r\n%s\r\n", chunk);
    struct heard h = hear(c);
    must_say(h.status == 413 && !h.reset && strcmp(field(h, "Connection"), "close") == 0, "%s",
             h.text);
    log_wait(s, " 413 ");
    must(log_has(s, " error undo=none") && no_scratch());

    file_write(at("body"), "");
    must(truncate(at("body"), 3000000) == 0);
    struct output o = curl(s,
                           "-H Expect: -H Transfer-Encoding:chunked -o answer -w %%{http_code} "
                           "--data-binary @%s /echo",
                           at("body"));
    must_say(strcmp(o.text, "413") == 0, "%d: %s", o.status, o.text);
    server_stop(s);
}
