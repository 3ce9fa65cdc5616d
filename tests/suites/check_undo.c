/* check_undo.c: undo that outlives everything: `hangupd undo`, the janitors that run what is
 * recorded, `hangupd recover`, and starts that go on with what dead servers left. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <linux/fs.h>
#include <pwd.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness.h"
#include "ledger.h"

#define ID "0123456789abcdef-1"

/* ---- hangupd undo -------------------------------------------------------------------------- */

THEME("hangupd undo");

/* A ledger as a request's program finds it, in the test's directory. */
static void ledger_write(const char *records)
{
    char text[4096];
    snprintf(text, sizeof(text), "# hangupd ledger 1 id=" ID " pid=1 start=1 boot=- GET /x\n%s",
             records);
    must(mkdir(at("ledgers"), 0700) == 0 || errno == EEXIST);
    file_write(at("ledgers/" ID), text);
}

static const char *ledger_records(void)
{
    const char *text = file_read(at("ledgers/" ID)), *end = strchr(text, '\n');
    return end ? end + 1 : "";
}

#define WORDS_MOST 16

/* `hangupd undo WORDS...`, with SETTING, shell, before it; the ledger is descriptor 3. */
static struct output undo_as(const char *setting, const char *const words[])
{
    char shell[8192];
    const char *argv[WORDS_MOST + 8] = {"sh", "-c", shell, "sh", the_hangupd(), "undo"};
    snprintf(shell, sizeof(shell), "exec 3>>'%s'; UNDO_FD=3; export UNDO_FD; %s exec \"$@\"",
             at("ledgers/" ID), setting);
    for (int i = 0; words[i]; i++)
        argv[6 + i] = words[i];
    return run_argv(argv, NULL, true);
}

static struct output undo(const char *const words[])
{
    return undo_as("", words);
}

static const struct {
    const char *words[WORDS_MOST], *record;
} recorded[] = {
    {{"run", "rm -f a && b"}, "run rm -f a && b\n"},
    {{"run", "rm", "-f", "plain_1.2/x:y@z%+,"}, "run rm -f plain_1.2/x:y@z%+,\n"},
    {{"run", "rm", "two words", "it's", ""}, "run rm 'two words' 'it'\\''s' ''\n"},
    {{"run", "A=1", "$x", "`y`", "a\\b", "~", "*"}, "run 'A=1' '$x' '`y`' 'a\\b' '~' '*'\n"},
    {{"run", "if", "true"}, "run 'if' true\n"},
    {{"--again", "1.5m", "run", "rm", "a b"}, "again +90 run rm 'a b'\n"},
    {{"--again=0.2", "run", "x"}, "again +1 run x\n"},
    {{"unlink", "/tmp/some file"}, "unlink /tmp/some file\n"},
    {{"rmtree", "/tmp/tree//"}, "rmtree /tmp/tree\n"},
    {{"unlink-if", "8:1:10:123.456000000", "/x y"}, "unlink-if 8:1:10:123.456000000 /x y\n"},
    {{"rmtree-if", "8:1:10:-", "/x"}, "rmtree-if 8:1:10:- /x\n"},
    {{"commit"}, "commit\n"},
};

TEST_EACH(record_is_written, recorded)
{
    ledger_write("");
    struct output o = undo(recorded[_i].words);
    must_say(o.status == 0 && o.length == 0, "%d: %s", o.status, o.text);
    must_say(strcmp(ledger_records(), recorded[_i].record) == 0, "%s", ledger_records());
}

TEST(record_goes_to_the_end)
{
    ledger_write("unlink /before\n");
    must(undo((const char *const[]){"commit", NULL}).status == 0);
    must_say(strcmp(ledger_records(), "unlink /before\ncommit\n") == 0, "%s", ledger_records());
}

/* What a shell makes of the record is what was said, word for word. */
TEST(words_come_through_the_shell)
{
    static const char *const words[] = {"run",   "./show", "two  words", "'",   "\"", "\\",
                                        "$HOME", "`id`",   "$(id)",      "*",   "~",  "",
                                        "-n",    "!",      "#x",         ";&|", NULL};
    char expected[256] = "";
    file_write(at("show"), "#!/bin/sh\nprintf '<%s>' \"$@\"\n");
    must(chmod(at("show"), 0755) == 0);
    for (int i = 2; words[i]; i++)
        snprintf(expected + strlen(expected), sizeof(expected) - strlen(expected), "<%s>",
                 words[i]);
    ledger_write("");
    must(undo(words).status == 0);
    char command[1024];
    snprintf(command, sizeof(command), "%s", ledger_records() + strlen("run "));
    command[strcspn(command, "\n")] = '\0';
    const char *argv[] = {"sh", "-c", command, NULL};
    struct output o = run_argv(argv, NULL, true);
    must_say(strcmp(o.text, expected) == 0, "%s became %s", expected, o.text);
}

TEST_TIMES(relative_path_is_made_absolute, 2)
{
    static const char *const verbs[] = {"unlink", "rmtree"};
    char expected[8192];
    ledger_write("");
    must(undo((const char *const[]){verbs[_i], "below/it", NULL}).status == 0);
    snprintf(expected, sizeof(expected), "%s %s\n", verbs[_i], at("below/it"));
    must_say(strcmp(ledger_records(), expected) == 0, "%s", ledger_records());
}

static char ran[256];

static int note_command(const char *id, const char *command, int look)
{
    (void)look;
    must_say(strcmp(id, ID) == 0, "%s", id);
    snprintf(ran + strlen(ran), sizeof(ran) - strlen(ran), "[%s]", command);
    return 0;
}

static enum cleanup_result settle_it(void)
{
    int dir = open(at("ledgers"), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    struct cleanup_settling how = {.dir = dir, .id = ID, .run = note_command};
    enum cleanup_result result = cleanup_settle(&how);
    close(dir);
    return result;
}

/* The reader understands each record that the writer writes. */
TEST(what_is_recorded_is_undone)
{
    static const char *const records[][4] = {
        {"unlink", "file"}, {"rmtree", "tree"},   {"unlink-if", "same"}, {"unlink-if", "other"},
        {"run", "a b"},     {"rmtree-if", "dir"}, {"run", "c", "d e"}};
    ledger_write("");
    file_write(at("file"), "");
    file_write(at("same"), "");
    file_write(at("other"), "");
    must(mkdir(at("tree"), 0755) == 0 && mkdir(at("dir"), 0755) == 0);
    file_write(at("tree/x"), "");
    file_write(at("dir/x"), "");
    for (int i = 0; i < COUNT(records); i++)
        must(undo(records[i]).status == 0);
    must(rename(at("other"), at("kept")) == 0); /* what takes the name is another's */
    file_write(at("other"), "");
    must(settle_it() == CLEANUP_DONE);
    must(!exists(at("file")) && !exists(at("same")) && !exists(at("tree")) && !exists(at("dir")));
    must(exists(at("other")) && exists(at("kept")));
    must_say(strcmp(ran, "[c 'd e'][a b]") == 0, "%s", ran);
}

/* The manual's way to record a file that gets its name only when it is whole. */
TEST_TIMES(fileid_of_stat_is_understood, 2)
{
    ledger_write("");
    file_write(at("x.tmp"), "");
    struct output o = run("stat -c %%Hd:%%Ld:%%i:%%.9W %s", at("x.tmp"));
    o.text[strcspn(o.text, "\n")] = '\0';
    must(undo((const char *const[]){"unlink-if", o.text, "x", NULL}).status == 0);
    must(rename(at("x.tmp"), at("x")) == 0);
    if (_i == 1) { /* what takes the name is another's */
        must(rename(at("x"), at("kept")) == 0);
        file_write(at("x"), "");
    }
    must(settle_it() == CLEANUP_DONE);
    must(exists(at("x")) == (_i == 1));
}

TEST(commit_keeps_what_is_above)
{
    ledger_write("");
    file_write(at("above"), "");
    file_write(at("below"), "");
    must(undo((const char *const[]){"unlink", "above", NULL}).status == 0);
    must(undo((const char *const[]){"commit", NULL}).status == 0);
    must(undo((const char *const[]){"unlink", "below", NULL}).status == 0);
    must(settle_it() == CLEANUP_DONE);
    must(exists(at("above")) && !exists(at("below")));
}

static char too_long[CLEANUP_RECORD_MAX + 1];

static const struct {
    const char *words[WORDS_MOST], *why;
} refused[] = {
    {{NULL}, "VERB is missing"},
    {{"run"}, "empty"},
    {{"--again"}, "not a time"},
    {{"--again", "0", "run", "x"}, "not a time"},
    {{"--again", "10000h", "run", "x"}, "not a time"},
    {{"--again", "5"}, "VERB is missing"},
    {{"--again", "5", "unlink", "/x"}, "--again is for run"},
    {{"--again", "5", "run", " "}, "empty"},
    {{"run", ""}, "empty"},
    {{"run", " \t"}, "empty"},
    {{"run", "", "x"}, "empty"},
    {{"run", "a\nb"}, "newline"},
    {{"run", "a", "b\n"}, "newline"},
    {{"run", too_long}, "longer than 8192 bytes"},
    {{"run", "x", too_long}, "longer than 8192 bytes"},
    {{"unlink"}, "one path"},
    {{"unlink", ""}, "empty"},
    {{"unlink", "a", "b"}, "2 words"},
    {{"unlink", "a\nb"}, "newline"},
    {{"unlink", "dir/"}, "rmtree"},
    {{"unlink", too_long}, "too long"},
    {{"rmtree", "/"}, "the thing itself"},
    {{"rmtree", "///"}, "the thing itself"},
    {{"rmtree", "."}, "the thing itself"},
    {{"rmtree", "dir/../"}, "the thing itself"},
    {{"unlink-if", "missing"}, "record unlink before"},
    {{"rmtree-if", "missing"}, "record rmtree before"},
    {{"unlink-if", "dir"}, "use rmtree-if"},
    {{"rmtree-if", "file"}, "use unlink-if"},
    {{"rmtree-if", "link/"}, "use unlink-if"},
    {{"unlink-if", "8:1:x", "/x"}, "FILEID"},
    {{"unlink-if", "8:1:10:1.0", "8:1:10:1.0", "x"}, "3 words"},
    {{"commit", "now"}, "no argument"},
    {{"sent", "1"}, "no verb sent"},
    {{"scratch", "/tmp/x"}, "no verb scratch"},
    {{"Unlink", "/tmp/x"}, "no verb Unlink"},
};

TEST_EACH(what_cannot_be_held_is_refused, refused)
{
    memset(too_long, 'x', sizeof(too_long) - 1);
    ledger_write("unlink /before\n");
    file_write(at("file"), "");
    must(mkdir(at("dir"), 0755) == 0 && symlink("dir", at("link")) == 0);
    struct output o = undo(refused[_i].words);
    must_say(o.status == 2 && strstr(o.text, refused[_i].why), "%d: %s", o.status, o.text);
    must_say(strcmp(ledger_records(), "unlink /before\n") == 0, "%s", ledger_records());
}

TEST(directory_that_is_gone_is_told)
{
    ledger_write("");
    must(mkdir(at("gone"), 0755) == 0);
    struct output o =
        undo_as("cd gone; rmdir ../gone;", (const char *const[]){"unlink", "x", NULL});
    must_say(o.status == 2 && strstr(o.text, "No such file"), "%d: %s", o.status, o.text);
    must_say(*ledger_records() == '\0', "%s", ledger_records());
}

static const struct {
    const char *setting, *why;
} not_ledgers[] = {
    {"unset UNDO_FD;", "not called from a request's program"},
    {"UNDO_FD=;", "not called from a request's program"},
    {"UNDO_FD=three;", "UNDO_FD=three"},
    {"UNDO_FD=3x;", "UNDO_FD=3x"},
    {"UNDO_FD=-1;", "UNDO_FD=-1"},
    {"UNDO_FD=9;", "not open"},
    {"exec 3>&-;", "not open"},
    {"exec 3>>/dev/null;", "not a file"},
    {"exec 3<\"ledgers/" ID "\";", "not open for appending"},
    {"exec 3<>\"ledgers/" ID "\";", "not open for appending"},
    {"exec 3>>other;", "not a ledger"},
    {": >\"ledgers/" ID "\";", "not a ledger"},
    {"rm \"ledgers/" ID "\";", "has ended"},
};

TEST_EACH(descriptor_that_is_no_ledger_is_told, not_ledgers)
{
    ledger_write("");
    file_write(at("other"), "something else\n");
    struct output o = undo_as(not_ledgers[_i].setting, (const char *const[]){"commit", NULL});
    int status = strstr(o.text, "this descriptor") ? 1 : 2; /* a wrong word is wrong use */
    must_say(o.status == status && strstr(o.text, not_ledgers[_i].why), "%d: %s", o.status, o.text);
    must(*ledger_records() == '\0' && strcmp(file_read(at("other")), "something else\n") == 0);
}

TEST(any_descriptor_will_do)
{
    ledger_write("");
    struct output o = undo_as("exec 7>&3 3>&-; UNDO_FD=7;", (const char *const[]){"commit", NULL});
    must_say(o.status == 0 && strcmp(ledger_records(), "commit\n") == 0, "%s", o.text);
}

TEST(record_that_cannot_be_written_is_told)
{
    ledger_write("");
    struct output o =
        undo_as("trap '' XFSZ; ulimit -f 0;", (const char *const[]){"unlink", "/x", NULL});
    must_say(o.status == 1 && strstr(o.text, "File too large") && strstr(o.text, "do not make"),
             "%d: %s", o.status, o.text);
    must(*ledger_records() == '\0');
}

TEST(undo_helps)
{
    static const char *const named[] = {"run",    "unlink", "rmtree",  "unlink-if",  "rmtree-if",
                                        "commit", "FILEID", "UNDO_FD", "REQUEST_ID", "Exit status"};
    struct output o = run("%s undo --help", the_hangupd());
    must_say(o.status == 0, "%d", o.status);
    for (int i = 0; i < COUNT(named); i++)
        must_say(strstr(o.text, named[i]), "%s is not in hangupd undo --help", named[i]);
}

/* ---- What the tests of janitors share ------------------------------------------------------ */

/* A command of the tests': it says in the file `order` that it begins, as NAME, and waits for the
 * file go-NAME. It says in `overlap` when a process of an earlier run of the same NAME is alive. It
 * leaves a daemon behind, which a kill of its group does not reach. */
static const char slow_script[] =
    "name=$1\n"
    "for p in $(cat pids-$name 2>/dev/null); do\n"
    "    case $(sed 's/.*) //' /proc/$p/stat 2>/dev/null) in\n"
    "    [!ZX]*) echo $name $p >>overlap ;;\n"
    "    esac\n"
    "done\n"
    ": >>pids-$name\n"
    "before=$(wc -l <pids-$name)\n"
    "setsid sh -c \"echo \\$\\$ >>pids-$name; exec sleep 1000\" </dev/null >/dev/null 2>&1 &\n"
    "while [ $(wc -l <pids-$name) = $before ]; do sleep 0.02; done\n"
    "echo $$ >>pids-$name\n"
    "echo $PPID >janitor-$name\n"
    "echo $name >>order\n"
    "while ! [ -e go-$name ]; do sleep 0.02; done\n"
    "[ ! -e fail-$name ]\n";

static void write_script(void)
{
    file_write(at("slow"), slow_script);
}

SUITE(.begin = write_script);

/* TEXT as it may stand in a query. Valid for the next 7 calls. */
static const char *encoded(const char *format, ...) __attribute__((format(printf, 1, 2)));

static const char *encoded(const char *format, ...)
{
    static char texts[8][4096];
    static unsigned next;
    char plain[1024], *text = texts[next++ % 8];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(plain, sizeof(plain), format, arguments);
    va_end(arguments);
    int n = 0;
    for (const char *s = plain; *s; s++)
        n += snprintf(text + n, sizeof(texts[0]) - (size_t)n, "%%%02x", (unsigned char)*s);
    return text;
}

/* The id at the beginning of the last line in the log with TEXT. */
static const char *id_of(struct server *s, const char *text)
{
    static char ids[8][CLEANUP_ID_SIZE];
    static unsigned next;
    char *id = ids[next++ % 8];
    const char *line = log_wait(s, "%s", text);
    must_say(sscanf(line, "%*s %39s", id) == 1 && cleanup_is_id(id), "%s", line);
    return id;
}

/* A request that has recorded what QUERY says and works on: its connection, id and child. */
struct working {
    int connection;
    const char *id;
    pid_t pid;
};

static struct working start_working(struct server *s, const char *query)
{
    struct working w;
    log_mark(s);
    w.connection = get(s, "/records?%s&seconds=60", query);
    const char *line = log_wait(s, " recorded pid ");
    w.pid = (pid_t)atoi(strstr(line, " pid ") + 5);
    w.id = id_of(s, " recorded pid ");
    return w;
}

static struct working start_slow(struct server *s, const char *name)
{
    char query[4096];
    snprintf(query, sizeof(query), "run1=%s", encoded("exec sh slow %s", name));
    return start_working(s, query);
}

/* End the server and the requests' children so that none of them can undo anything. */
static void kill_all_of(struct server *s, const struct working *w, int count)
{
    for (int i = 0; i < count; i++) {
        kill(w[i].pid, SIGSTOP);
        wait_until(process_state(w[i].pid) == 'T');
    }
    server_kill(s, SIGKILL);
    for (int i = 0; i < count; i++) {
        kill(w[i].pid, SIGKILL);
        wait_until(!is_alive(w[i].pid));
    }
}

/* A server with one request that waits for go-NAME when it is undone; both are dead. */
static const char *leave_slow(const char *name)
{
    struct server *s = things("%s", "");
    struct working w = start_slow(s, name);
    kill_all_of(s, &w, 1);
    return w.id;
}

static void wait_order(const char *order)
{
    wait_until(strcmp(file_read(at("order")), order) == 0);
}

static void go(const char *name)
{
    file_write(at("go-%s", name), "");
}

static void no_overlap(void)
{
    must_say(!exists(at("overlap")), "run in parallel: %s", file_read(at("overlap")));
}

/* The shell of the slow command NAME, in its latest run. */
static pid_t shell_of(const char *name)
{
    char *text = file_read(at("pids-%s", name));
    pid_t pid = 0;
    for (char *word = strtok(text, "\n"); word; word = strtok(NULL, "\n"))
        pid = (pid_t)atoi(word);
    return pid;
}

/* Every process that the slow command NAME has had is gone. */
static bool is_ended(const char *name)
{
    char text[4096];
    snprintf(text, sizeof(text), "%s", file_read(at("pids-%s", name)));
    for (char *word = strtok(text, "\n"); word; word = strtok(NULL, "\n"))
        if (is_alive((pid_t)atoi(word)))
            return false;
    return true;
}

static unsigned child_count(pid_t pid)
{
    pid_t pids[64];
    return children_of(pid, pids, 64);
}

/* What is not struck out in a parked ledger. */
static const char *parked(const char *id)
{
    static char left[8192];
    char *text = file_read(at("state/failed/%s", id));
    size_t n = 0;
    left[0] = '\0';
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n"))
        if (*line != '#' && strncmp(line, "in ", 3) != 0)
            n += (size_t)snprintf(left + n, sizeof(left) - n, "%s\n", line);
    return left;
}

static bool nothing_in_state(void)
{
    struct output o = run("find %s -type f ! -name recovered", at("state"));
    return o.length == 0;
}

/* ---- Commands that undo -------------------------------------------------------------------- */

THEME("commands");

TEST(commands_run_newest_first)
{
    struct server *s = things("%s", "");
    char query[8192];
    snprintf(query, sizeof(query), "run1=%s&make2=%s&run3=%s&run4=%s", encoded("echo one >>order"),
             at("file"), encoded("test -e file; echo three $? >>order"),
             encoded("echo four >>order"));
    struct working w = start_working(s, query);
    must(exists(at("file")));
    close_fin(w.connection);
    log_wait(s, " hangup undo=ok");
    must_say(strcmp(file_read(at("order")), "four\nthree 0\none\n") == 0, "%s",
             file_read(at("order")));
    must(!exists(at("file")));
    server_stop(s);
}

TEST(command_has_the_servers_environment)
{
    must(setenv("FROM_THE_SERVER", "yes indeed", 1) == 0 && setenv("REQUEST_ID", "wrong", 1) == 0);
    struct server *s = things("--pass-env FROM_THE_SERVER");
    file_write(at("tell"), "echo \"id $REQUEST_ID env $FROM_THE_SERVER\"\n"
                           "echo \"input $(wc -c) group $(ps -o pgid= -p $$ | tr -d ' ') $$\"\n"
                           "echo error >&2\n"
                           "printf 'open\\0 end'\n");
    struct working w = start_working(s, "run1=.+./tell");
    close_fin(w.connection);
    log_wait(s, " hangup undo=ok");
    must(log_has(s, " %s undo: id %s env yes indeed\n", w.id, w.id));
    must(log_has(s, " %s undo: error\n", w.id) && log_has(s, " %s undo: open  end\n", w.id));
    int group = 0, pid = -1;
    const char *line = log_wait(s, " %s undo: input 0 group ", w.id);
    must(sscanf(strstr(line, "group"), "group %d %d", &group, &pid) == 2);
    must_say(group == pid, "%s", line);
    server_stop(s);
}

/* A script that becomes PROGRAM with a terminal, as for somebody who sits there; *MASTER is the
 * terminal's other end. */
static const char *on_a_terminal(const char *program, int *master)
{
    char text[PATH_MAX + 128];
    *master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
    must(*master >= 0 && grantpt(*master) == 0 && unlockpt(*master) == 0);
    snprintf(text, sizeof(text), "#!/bin/sh\nexec setsid -c '%s' \"$@\" <%s\n", program,
             ptsname(*master));
    file_write(at("on-a-terminal"), text);
    must(chmod(at("on-a-terminal"), 0755) == 0);
    return at("on-a-terminal");
}

#define LOOK_FOR_A_TERMINAL                                                                        \
    "if (: </dev/tty); then echo reached; else echo none; fi >tty; "                               \
    "cut -d' ' -f7 /proc/$$/stat >>tty"

/* Who can open a terminal can push keys into it: those of whoever runs hangupd there, maybe root.
 */
TEST_TIMES(command_has_no_terminal, 2)
{
    enum { BY_A_JANITOR, BY_RECOVER };
    int master;
    const char *program = on_a_terminal(_i == BY_A_JANITOR ? the_things() : the_hangupd(), &master);
    struct server *s = _i == BY_A_JANITOR ? server_start(program, "%s", "") : things("%s", "");
    char query[1024];
    snprintf(query, sizeof(query), "run1=%s", encoded(LOOK_FOR_A_TERMINAL));
    struct working w = start_working(s, query);
    if (_i == BY_A_JANITOR) {
        close_fin(w.connection);
        log_wait(s, " hangup undo=ok");
        server_stop(s);
    } else {
        kill_all_of(s, &w, 1);
        struct output o = run("%s recover --state %s", program, at("state"));
        must_say(o.status == 0, "%s", o.text);
    }
    must_say(strcmp(file_read(at("tty")), "none\n0\n") == 0, "%s", file_read(at("tty")));
    close(master);
}

/* Nobody waits for a log, but a janitor may, for a while: what a command says is not lost. */
TEST(command_that_says_much)
{
    char text[64];
    struct server *s = things("%s", "");
    struct working w = start_working(s, "run1=seq+30000");
    close_fin(w.connection);
    int held = 0, before, capacity = fcntl(s->log, F_GETPIPE_SZ);
    do { /* until the log is full */
        before = held;
        for (int i = 0; i < 30; i++)
            rest();
        must(ioctl(s->log, FIONREAD, &held) == 0);
    } while (held < capacity / 2 || held != before);
    log_wait(s, " hangup undo=ok");
    must(log_has(s, " %s undo: 30000\n", w.id));
    snprintf(text, sizeof(text), "Z %s ", w.id);
    must_say(log_count(s, text) >= 30000, "%u lines", log_count(s, text));
    server_stop(s);
}

TEST(command_that_floods_the_log)
{
    struct server *s = things("--undo-timeout 0.5 --undo-retries 0");
    struct working w = start_working(s, "run1=yes");
    close_fin(w.connection);
    wait_until(log_has(s, "UNDO FAILED for good: run yes: no end within 500 ms"));
    must(log_has(s, " %s could not undo: run yes: no end within 500 ms\n", w.id));
    server_stop(s);
}

static const struct {
    const char *query, *what, *why;
} failures[] = {
    {"run1=exit+3", "run exit 3", "exit status 3"},
    {"run1=kill+-9+$$", "run kill -9 $$", "ended by signal 9"},
    {"run1=no-such-thing+x", "run no-such-thing x", "exit status 127"},
    {"run1=sleep+1000", "run sleep 1000", "no end within 400 ms"},
    {"run1=trap+''+TERM;+sleep+1000+%26+wait", "run trap '' TERM; sleep 1000 & wait",
     "no end within 400 ms"},
    {"unlink1=dir", NULL, "Is a directory"},
};

TEST_EACH(failure_is_told_with_its_reason, failures)
{
    char what[8192];
    must(mkdir(at("dir"), 0755) == 0);
    snprintf(what, sizeof(what), failures[_i].what ? "%s" : "unlink %s",
             failures[_i].what ? failures[_i].what : at("dir"));
    struct server *s = things("--undo-timeout 0.4 --undo-retries 0");
    struct working w = start_working(s, failures[_i].query);
    close_fin(w.connection);
    log_wait(s, " hangup undo=failed");
    must(log_has(s, " %s could not undo: %s: %s\n", w.id, what, failures[_i].why));
    log_wait(s, " %s UNDO FAILED for good: %s: %s;", w.id, what, failures[_i].why);
    strcat(what, "\n");
    must_say(strcmp(parked(w.id), what) == 0, "%s", parked(w.id));
    server_stop(s);
}

static const char *const lefts[] = {"sleep 1000 &", "setsid sleep 1000 & sleep 0.1",
                                    "(trap '' TERM HUP; sleep 1000; :) & :"};

/* The pipe that its output comes through is still open then: nobody waits for that. */
TEST_EACH(command_leaves_nothing_behind, lefts)
{
    char query[4096];
    struct server *s = things("%s", "");
    snprintf(query, sizeof(query), "run1=%s", encoded("%s", lefts[_i]));
    struct working w = start_working(s, query);
    close_fin(w.connection);
    log_wait(s, " hangup undo=ok");
    no_process_left();
    server_stop(s);
}

/* ---- Janitors ------------------------------------------------------------------------------ */

THEME("janitors");

TEST(at_most_so_many_at_once)
{
    static const char *const names[] = {"a", "b", "c", "d", "e"};
    struct working w[5];
    struct server *s = things("--undo-at-once 2");
    for (int i = 0; i < 5; i++)
        w[i] = start_slow(s, names[i]);
    for (int i = 0; i < 5; i++) {
        close_fin(w[i].connection);
        wait_until(!is_alive(w[i].pid));
    }
    wait_until(strlen(file_read(at("order"))) == 4); /* two of them */
    must(hear_answer(get(s, "/who"), false).status == 200);
    wait_until(child_count(s->pid) == 2);
    must_say(strlen(file_read(at("order"))) == 4, "%s", file_read(at("order")));
    for (int i = 0; i < 5; i++)
        go(names[i]);
    wait_until(log_count(s, " hangup undo=ok") == 5);
    server_stop(s);
}

/* It takes its ten seconds: an undo that hangs must not keep all others. */
TEST(slow_undo_makes_room)
{
    struct server *s = things("--undo-at-once 1 --undo-timeout 60");
    struct working slow = start_slow(s, "a"), w = start_working(s, "run1=true");
    close_fin(slow.connection);
    wait_order("a\n");
    close_fin(w.connection);
    log_wait(s, "%s the undo goes on for 10 s; its janitor ", slow.id);
    log_wait(s, " hangup undo=ok");
    must(!log_has(s, "%s 127.0.0.1", slow.id));
    go("a");
    wait_until(log_count(s, " hangup undo=ok") == 2);
    server_stop(s);
}

TEST(waiting_connection_goes_first)
{
    struct working w[3];
    static const char *const names[] = {"x", "y", "z"};
    struct server *s = things("%s", "");
    for (int i = 0; i < 3; i++)
        w[i] = start_slow(s, names[i]);
    kill_all_of(s, w, 3);
    s = things("--undo-at-once 1");
    wait_until(strlen(file_read(at("order"))) == 2);
    struct working last = start_slow(s, "new");
    close_fin(last.connection);
    wait_until(!is_alive(last.pid));
    must(hear_answer(get(s, "/who"), false).status == 200);
    for (int i = 0; i < 3; i++)
        go(names[i]);
    go("new");
    wait_until(strlen(file_read(at("order"))) == 10);
    must_say(strncmp(file_read(at("order")) + 1, "\nnew\n", 5) == 0, "%s", file_read(at("order")));
    log_wait(s, " hangup undo=ok");
    wait_until(child_count(s->pid) == 0);
    server_stop(s);
}

TEST(failure_holds_back_nothing)
{
    char query[8192];
    struct server *s = things("--undo-retries 1");
    must(mkdir(at("dir"), 0755) == 0);
    snprintf(query, sizeof(query), "run1=touch+first&make2=%s&run3=false&unlink4=dir&run5=%s",
             at("file"), encoded("touch last"));
    struct working bad = start_working(s, query);
    struct working good = start_working(s, "run1=touch+other");
    close_fin(bad.connection);
    log_wait(s, " hangup undo=failed");
    must(exists(at("first")) && exists(at("last")) && !exists(at("file")));
    log_wait(s, " %s undo failed; it is tried again in 1 s", bad.id);
    close_fin(good.connection);
    log_wait(s, " hangup undo=ok");
    must(exists(at("other")));
    must(unlink(at("first")) == 0 && unlink(at("last")) == 0);
    log_wait(s, " %s UNDO FAILED for good: unlink %s: Is a directory (and more); ", bad.id,
             at("dir"));
    must(log_count(s, "UNDO FAILED") == 1);
    must(!exists(at("first")) && !exists(at("last"))); /* what is undone is not done again */
    snprintf(query, sizeof(query), "run false\nunlink %s\n", at("dir"));
    must_say(strcmp(parked(bad.id), query) == 0, "%s", parked(bad.id));
    server_stop(s);
}

TEST(failure_is_tried_again_later_and_later)
{
    struct server *s = things("--undo-retries 2");
    struct working w = start_working(s, "run1=date+%2b%25s%25N+>>times;+false");
    close_fin(w.connection);
    log_wait(s, " hangup undo=failed");
    log_wait(s, " %s undo failed; it is tried again in 1 s\n", w.id);
    log_wait(s, " %s undo failed; it is tried again in 2 s\n", w.id);
    log_wait(s, " %s UNDO FAILED for good", w.id);
    must(log_count(s, "could not undo: run date") == 3); /* each try */
    long long times[3];
    must(sscanf(file_read(at("times")), "%lld %lld %lld", &times[0], &times[1], &times[2]) == 3);
    must_say(times[1] - times[0] >= 1000000000 && times[2] - times[1] >= 2000000000,
             "after %lld and %lld ns", times[1] - times[0], times[2] - times[1]);
    server_stop(s);
}

TEST(failure_that_goes_away_is_undone)
{
    struct server *s = things("%s", "");
    struct working w = start_working(s, "run1=test+-e+mended");
    close_fin(w.connection);
    log_wait(s, " hangup undo=failed");
    file_write(at("mended"), "");
    log_wait(s, " %s undone at last", w.id);
    must(!exists(at("state/failed")));
    wait_until(strstr(run("%s status --state %s", the_hangupd(), at("state")).text,
                      "1 request ended: 1 hangup (1 undone)\n"));
    must(strstr(run("%s status --state %s --json", the_hangupd(), at("state")).text,
                "\"ended\":[{\"outcome\":\"hangup\",\"undo\":\"ok\",\"count\":1}]"));
    server_stop(s);
}

/* Exit status 75 is no failure, and does not become one by being repeated, nor beside one. */
TEST(later_is_tried_until_it_is_done)
{
    struct server *s = things("--undo-retries 0");
    struct working w = start_working(s, "run1=test+-e+mended&run2=test+-e+mended+||+exit+75");
    close_fin(w.connection);
    log_wait(s, " hangup undo=failed");
    must(log_has(
        s, " %s could not undo yet: run test -e mended || exit 75: exit status 75, later\n", w.id));
    log_wait(s, " %s cannot be undone yet; it is tried again in 1 s\n", w.id);
    wait_until(strstr(run("%s status --state %s", the_hangupd(), at("state")).text,
                      "(1 not undone); 1 cannot be undone yet\n"));
    log_wait(s, " %s cannot be undone yet; it is tried again in 2 s\n", w.id);
    file_write(at("mended"), "");
    log_wait(s, " %s undone at last", w.id);
    must(!exists(at("state/failed")));
    wait_until(!strstr(run("%s status --state %s", the_hangupd(), at("state")).text, "undone yet"));
    server_stop(s);
}

TEST(later_has_an_end)
{
    struct server *s = things("--undo-give-up 0");
    struct working w = start_working(s, "run1=test+-e+mended+||+exit+75");
    close_fin(w.connection);
    log_wait(s, " %s UNDO FAILED for good: run test -e mended || exit 75: exit status 75, later; ",
             w.id);
    log_wait(s, " hangup undo=failed");
    struct output o = run("%s recover --state %s", the_hangupd(), at("state"));
    must_say(o.status == 1 && strstr(o.text, "exit status 75, later"), "%d: %s", o.status, o.text);
    file_write(at("mended"), "");
    o = run("%s recover --state %s", the_hangupd(), at("state"));
    must_say(o.status == 0 && strstr(o.text, ": undone"), "%d: %s", o.status, o.text);
    server_stop(s);
}

/* With its janitor the command dies, and what it has left behind before the next one begins. */
TEST(command_dies_with_its_janitor)
{
    struct server *s = things("%s", "");
    struct working w = start_slow(s, "a");
    close_fin(w.connection);
    wait_order("a\n");
    kill((pid_t)atoi(file_read(at("janitor-a"))), SIGKILL);
    log_wait(s, " %s a janitor ended by signal 9", w.id);
    wait_order("a\na\n");
    no_overlap();
    go("a");
    log_wait(s, "hangup undo=ok");
    no_process_left();
    server_stop(s);
}

TEST(janitor_that_dies_last_leaves_it_to_the_parent)
{
    struct server *s = things("--undo-retries 0");
    struct working w = start_slow(s, "a");
    close_fin(w.connection);
    wait_order("a\n");
    kill((pid_t)atoi(file_read(at("janitor-a"))), SIGKILL);
    log_wait(s, " %s UNDO FAILED for good: the janitor could not say what; ", w.id);
    must(log_has(s, "hangup undo=failed"));
    must_say(strcmp(parked(w.id), "run exec sh slow a\n") == 0, "%s", parked(w.id));
    server_kill(s, SIGKILL);
}

static const char *const states[] = {"state", "st'a%te", "st\xc3\xa4'te", "st\xff\xc3\xa4\x1b'te"};

/* The line says what to type. */
TEST_EACH(line_tells_how_to_try_again, states)
{
    char command[8192], path[8192];
    struct server *s = things("--undo-retries 0 --state %s", at("%s", states[_i]));
    struct working w = start_working(s, "run1=test+-e+mended");
    close_fin(w.connection);
    const char *line =
        log_wait(s, " %s UNDO FAILED for good: run test -e mended: exit status 1; ", w.id);
    snprintf(command, sizeof(command), "%s", strstr(line, "hangupd recover "));
    must_say(strstr(command, w.id), "%s", command);
    must_say((strstr(states[_i], "\xc3\xa4") != NULL) == (strstr(command, "\xc3\xa4") != NULL),
             "%s", command);
    kill(s->pid, SIGTERM);
    must(server_wait(s) == 0);
    snprintf(path, sizeof(path), "%s:%s", the_hangupd(), getenv("PATH"));
    char *slash = strstr(path, "/hangupd:");
    must(slash != NULL);
    memmove(slash, slash + strlen("/hangupd"), strlen(slash + strlen("/hangupd")) + 1);
    must(setenv("PATH", path, 1) == 0);
    const char *argv[] = {"sh", "-c", command, NULL};
    struct output o = run_argv(argv, NULL, true);
    must_say(o.status == 1 && strstr(o.text, "NOT undone: run test -e mended: exit status 1"),
             "%s: %s", command, o.text);
    file_write(at("mended"), "");
    o = run_argv(argv, NULL, true);
    must_say(o.status == 0 && strstr(o.text, ": undone"), "%s: %s", command, o.text);
    must(!exists(at("%s/failed/%s", states[_i], w.id)));
}

/* An answer that was refuted stays so, also when that could not be written down at once. */
TEST(refuted_answer_is_not_kept_by_a_later_try)
{
    struct server *s = things("%s", "");
    int c = get(s, "/big?path=%s&bytes=50000000", at("file"));
    hear_until(c, "bbb");
    const char *id = id_of(s, "big answer is ready");
    const char *ledger = at("state/%.16s/slot-0", id);
    wait_until(strstr(file_read(ledger), "\nsent "));
    if (!set_file_flag(ledger, FS_APPEND_FL, true)) {
        test_skipped("refuted_answer_is_not_kept_by_a_later_try", "no append-only files here");
        return;
    }
    close_rst(c);
    log_wait(s, " undo=failed");
    must(exists(at("file")) && strstr(file_read(ledger), "\nsent "));
    must(set_file_flag(ledger, FS_APPEND_FL, false));
    log_wait(s, " undone at last");
    must(!exists(at("file")));
    server_stop(s);
}

/* An answer that is refuted cannot complete any more while it is undone. */
TEST(refuted_answer_is_cut_before_it_is_undone)
{
    struct server *s = things("--send-timeout 1");
    int c = get(s, "/big?path=%s&bytes=50000000&run=%s", at("file"), encoded("exec sh slow a"));
    hear_until(c, "bbb");
    pid_t child = (pid_t)atoi(strstr(log_wait(s, "big answer is ready"), " pid ") + 5);
    const char *id = id_of(s, "big answer is ready");
    wait_until(strstr(file_read(at("state/%.16s/slot-0", id)), "\nsent "));
    kill(child, SIGKILL);
    wait_order("a\n");
    must(hear(c).reset);
    go("a");
    log_wait(s, " undo=ok");
    must(!exists(at("file")));
    server_stop(s);
}

static struct output recover(const char *words)
{
    return run("%s recover --state %s %s", the_hangupd(), at("state"), words);
}

/* ---- One environment, whoever undoes -------------------------------------------------------- */

THEME("environment");

/* The same in another shell, and somewhere else. */
static struct output recover_elsewhere(const char *words)
{
    must(chdir("/") == 0);
    struct output o = run("env -i HOME=/root PATH=/usr/bin:/bin CLOUD=wrong SECRET=told %s recover "
                          "--state %s --undo-again 0 %s",
                          the_hangupd(), at("state"), words);
    must(chdir(test_dir) == 0);
    return o;
}

/* A server with a program that has recorded a command which needs variables of the server and of
 * the route, and the server's directory, and which fails until there is a file. */
static struct server *serve_needy(void)
{
    must(setenv("CLOUD", "cloud nine", 1) == 0 && setenv("SECRET", "told", 1) == 0);
    file_write(at("needy"), "#!/bin/sh\n"
                            "echo 'run echo \"$CLOUD,$PLACE,$HANGUPD_STATE,$REQUEST_ID\" >it; "
                            "env >all; [ -e mended ]' >&3\n"
                            "echo ready >&2; exec sleep 1000\n");
    must(chmod(at("needy"), 0755) == 0);
    return hangupd(
        "--undo-retries 0 --undo-again 0 --pass-env CLOUD /p=%s,env=PLACE=here,env=X=a\\,b",
        at("needy"));
}

static void leave_needy(struct server *s, const char *id)
{
    struct working w = {.id = id, .pid = only_child(s->pid)};
    kill_all_of(s, &w, 1);
}

/* A server with nothing of the first one's environment: it takes over, and ends. */
static void start_elsewhere(const char *till)
{
    must(setenv("CLOUD", "wrong", 1) == 0 && mkdir(at("elsewhere"), 0755) == 0);
    must(chdir(at("elsewhere")) == 0);
    struct server *next = things("--undo-retries 0 --undo-again 0");
    must(chdir(test_dir) == 0);
    log_wait(next, "%s", till);
    server_kill(next, SIGTERM);
}

enum { BY_JANITOR, BY_START, BY_RECOVER, BY_RECOVER_OF_ONE, PARKED, ADOPTED_AND_PARKED, RUNNERS };

TEST_TIMES(command_has_the_same_environment_whoever_runs_it, RUNNERS)
{
    char id[CLEANUP_ID_SIZE], expected[4096];
    struct server *s = serve_needy();
    int c = get(s, "/p");
    snprintf(id, sizeof(id), "%s", id_of(s, " ready"));
    if (_i < PARKED)
        file_write(at("mended"), "");
    if (_i != BY_JANITOR && _i != PARKED)
        leave_needy(s, id);
    close_fin(c);
    if (_i == BY_JANITOR)
        log_wait(s, " hangup undo=ok");
    else if (_i == PARKED)
        log_wait(s, "UNDO FAILED for good");
    else if (_i == BY_START || _i == ADOPTED_AND_PARKED)
        start_elsewhere(_i == BY_START ? " undone at last" : "UNDO FAILED for good");
    if (_i == BY_JANITOR || _i == PARKED)
        server_kill(s, SIGTERM);
    if (_i >= PARKED) {
        must(exists(at("it")) && unlink(at("it")) == 0);
        file_write(at("mended"), "");
    }
    if (_i > BY_START) {
        struct output o = recover_elsewhere(_i == BY_RECOVER ? "" : id);
        must_say(o.status == 0, "%s", o.text);
    }
    snprintf(expected, sizeof(expected), "cloud nine,here,%s,%s\n", at("state"), id);
    must_say(strcmp(file_read(at("it")), expected) == 0, "%s", file_read(at("it")));
    must_say(strstr(file_read(at("all")), "SECRET") == NULL, "%s", file_read(at("all")));
    must_say(strstr(file_read(at("all")), "\nX=a,b\n") != NULL, "%s", file_read(at("all")));
    must(nothing_in_state());
}

/* What cannot be had is not guessed. */
TEST(command_whose_environment_is_lost_is_not_run)
{
    struct server *s = serve_needy();
    int c = get(s, "/p");
    const char *id = id_of(s, " ready");
    close_fin(c);
    log_wait(s, "UNDO FAILED for good");
    server_kill(s, SIGTERM);
    file_write(at("mended"), "");
    must(unlink(at("it")) == 0 && unlink(at("state/failed/%s.env", id)) == 0);
    struct output o = recover(id);
    must_say(o.status == 1 && strstr(o.text, "the environment that was kept for: run echo"), "%s",
             o.text);
    must(!exists(at("it")));
    /* Nor is another server's taken for it. */
    file_write(at("state/failed/%s.env", id), "# hangupd environment of 0123456789abcdef\n");
    o = recover(id);
    must_say(o.status == 1 && strstr(o.text, "the environment that was kept for: run echo"), "%s",
             o.text);
    must(!exists(at("it")));
}

/* A ledger of an older version says nothing of an environment: whoever runs it gives his own. */
TEST(command_of_an_old_ledger_has_the_runners_environment)
{
    must(mkdir(at("state"), 0700) == 0 && mkdir(at("state/failed"), 0700) == 0);
    file_write(at("state/failed/" ID), "# hangupd ledger 2 id=" ID " from=0000000512 program=0 "
                                       "pid=1 start=1 boot=- GET /x\nrun echo $CLOUD >it\n");
    must(setenv("CLOUD", "mine", 1) == 0);
    struct output o = recover("");
    must_say(o.status == 0, "%s", o.text);
    must_say(strcmp(file_read(at("it")), "mine\n") == 0, "%s", file_read(at("it")));
}

/* A crash between the steps of parking may leave an environment without a ledger. */
TEST(recover_sweeps_environments_without_a_ledger)
{
    struct server *s = serve_needy();
    int c = get(s, "/p");
    const char *id = id_of(s, " ready");
    close_fin(c);
    log_wait(s, "UNDO FAILED for good");
    server_kill(s, SIGTERM);
    file_write(at("state/failed/" ID ".env"), "");
    must(recover("").status == 1);
    must(exists(at("state/failed/%s.env", id)) && !exists(at("state/failed/" ID ".env")));
    file_write(at("mended"), "");
    must(recover("--undo-again 0").status == 0 && nothing_in_state());
}

/* ---- hangupd recover ----------------------------------------------------------------------- */

THEME("hangupd recover");

/* The same in the background; what it says is in the file OUT. */
static pid_t start_recover(const char *out, const char *words)
{
    char command[8192];
    snprintf(command, sizeof(command), "exec '%s' recover --state '%s' %s >%s 2>&1", the_hangupd(),
             at("state"), words, out);
    return start_shell(command);
}

TEST(recover_undoes_all_that_was_left)
{
    char query[8192];
    struct working w[2];
    struct server *s = things("--undo-retries 0");
    struct working bad = start_working(s, "run1=test+-e+mended;+false+||+test+-e+mended");
    close_fin(bad.connection);
    log_wait(s, "UNDO FAILED for good");
    snprintf(query, sizeof(query), "run1=%s&make2=%s", encoded("echo ran $REQUEST_ID"), at("file"));
    w[0] = start_working(s, query);
    w[1] = start_working(s, "run1=echo+other+$REQUEST_ID");
    kill_all_of(s, w, 2);
    file_write(at("mended"), "");
    must(exists(at("file")));
    struct output o = recover("--undo-again 0");
    must_say(o.status == 0, "%d: %s", o.status, o.text);
    must_say(strstr(o.text, bad.id) && strstr(o.text, "3 undone or kept, 0 left"), "%s", o.text);
    snprintf(query, sizeof(query), "%s: undo: ran %s\n%s: undone: ", w[0].id, w[0].id, w[0].id);
    must_say(strstr(o.text, query), "%s", o.text);
    must(!exists(at("file")) && nothing_in_state());
    nothing_left();
    o = recover("");
    must_say(o.status == 0 && strstr(o.text, "nothing is left"), "%d: %s", o.status, o.text);
}

TEST(recover_undoes_only_what_is_named)
{
    struct working w[3];
    struct server *s = things("--undo-retries 0");
    struct working bad = start_working(s, "run1=test+-e+mended");
    close_fin(bad.connection);
    log_wait(s, "UNDO FAILED for good");
    w[0] = start_working(s, "run1=echo+0+>>order");
    w[1] = start_working(s, "run1=echo+1+>>order");
    w[2] = start_working(s, "run1=echo+2+>>order");
    kill_all_of(s, w, 3);
    file_write(at("mended"), "");
    struct output o = recover(w[1].id);
    must_say(o.status == 0 && strcmp(file_read(at("order")), "1\n") == 0, "%s", o.text);
    must(exists(at("state/failed/%s", bad.id)) && exists(at("state/%.16s/%s", w[0].id, w[0].id)));
    char words[256];
    snprintf(words, sizeof(words), "%s %s", bad.id, w[2].id);
    o = recover(words);
    must_say(o.status == 0 && strcmp(file_read(at("order")), "1\n2\n") == 0, "%s", o.text);
    must(!exists(at("state/failed/%s", bad.id)) && exists(at("state/%.16s/%s", w[0].id, w[0].id)));
    o = recover("");
    must(o.status == 0 && strcmp(file_read(at("order")), "1\n2\n0\n") == 0 && nothing_in_state());
}

TEST(recover_keeps_what_was_answered)
{
    char *ledger = (char *)at("state/0123456789abcdef/" ID);
    must(mkdir(at("state"), 0700) == 0 && mkdir(at("state/0123456789abcdef"), 0700) == 0);
    file_write(at("file"), "");
    file_write(ledger, "# hangupd ledger 1 id=" ID " pid=1 start=1 boot=- GET /x\n"
                       "unlink file\nrun touch ran\nsent 17\n");
    struct output o = recover("");
    must_say(o.status == 0 && strstr(o.text, ID ": kept"), "%d: %s", o.status, o.text);
    must(exists(at("file")) && !exists(at("ran")) && nothing_in_state());
}

TEST(recover_says_what_is_left_and_why)
{
    char text[8192];
    struct server *s = things("%s", "");
    struct working w[2];
    must(mkdir(at("dir"), 0755) == 0);
    w[0] = start_working(s, "run1=touch+first&run2=echo+sorry;+exit+4&unlink3=dir&run4=touch+last");
    w[1] = start_working(s, "run1=sleep+1000");
    kill_all_of(s, w, 2);
    struct output o = recover("--undo-timeout 0.3");
    must_say(o.status == 1, "%d: %s", o.status, o.text);
    snprintf(text, sizeof(text),
             "%s: undo: sorry\n%s: could not undo: run echo sorry; exit 4: exit ", w[0].id,
             w[0].id);
    must_say(strstr(o.text, text), "%s", o.text);
    snprintf(text, sizeof(text), "%s: NOT undone: unlink %s: Is a directory (and more)\n", w[0].id,
             at("dir"));
    must_say(strstr(o.text, text), "%s", o.text);
    snprintf(text, sizeof(text), "%s: NOT undone: run sleep 1000: no end within 300 ms\n", w[1].id);
    must_say(strstr(o.text, text) && strstr(o.text, "0 undone or kept, 2 left"), "%s", o.text);
    must(exists(at("first")) && exists(at("last")));
    no_process_left();
    must(rmdir(at("dir")) == 0);
    o = recover("--undo-timeout 0.3");
    must_say(o.status == 1 && !strstr(o.text, "Is a directory"), "%s", o.text);
    s = things("--undo-timeout 0.3 --undo-retries 0"); /* a start goes on with it, too */
    wait_until(log_count(s, "UNDO FAILED") == 2);
    server_stop(s);
}

TEST(recover_refuses_what_is_not_its)
{
    char words[256], text[256];
    struct server *s = things("%s", "");
    struct working lives = start_working(s, "run1=touch+ran");
    wait_until(child_count(s->pid) == 1); /* its own recovery has ended */
    struct output o = recover(lives.id);
    snprintf(text, sizeof(text), "%s: refused: process %d has it in hand", lives.id, (int)s->pid);
    must_say(o.status == 1 && strstr(o.text, text), "%d: %s", o.status, o.text);
    o = recover("");
    must_say(o.status == 0 && strstr(o.text, "nothing is left"), "%d: %s", o.status, o.text);
    must(is_alive(lives.pid) && !exists(at("ran")));
    o = recover(ID);
    must_say(o.status == 1 && strstr(o.text, ID ": refused: there is no ledger"), "%s", o.text);
    must_say(!strstr(o.text, " left"), "%s", o.text);
    const char *dead = leave_slow("a");
    go("a");
    snprintf(words, sizeof(words), "%s %s " ID, dead, lives.id);
    o = recover(words); /* what can be done is done */
    snprintf(text, sizeof(text), "%s: undone", dead);
    must_say(o.status == 1 && strstr(o.text, text), "%d: %s", o.status, o.text);
    close_fin(lives.connection);
    log_wait(s, " hangup undo=ok");
    server_stop(s);
}

/* Somebody cleans up by age, and the file with the server's lock goes. */
TEST(recover_spares_a_server_that_has_lost_its_lock)
{
    struct server *s = things("%s", "");
    struct working lives = start_working(s, "run1=touch+ran");
    wait_until(child_count(s->pid) == 1); /* its own recovery has ended */
    must(unlink(at("state/%.16s/lock", lives.id)) == 0);
    struct output o = recover("");
    must_say(o.status == 0 && is_alive(lives.pid) && !exists(at("ran")), "%s", o.text);
    kill(s->pid, SIGKILL);
    server_kill(s, SIGKILL);
    wait_until(!is_alive(lives.pid));
    close(lives.connection);
    o = recover("--undo-again 0"); /* nobody holds it any more */
    must_say(exists(at("ran")) && nothing_in_state(), "%d: %s", o.status, o.text);
}

static const struct {
    const char *words;
    int status;
    const char *why;
} recover_mistakes[] = {
    {"../" ID, 2, "../" ID " is not the id"},
    {"x", 2, "x is not the id"},
    {"--undo-timeout soon", 2, "--undo-timeout soon"},
    {"--listen :80", 2, "no option --listen"},
    {"--state nowhere", 1, "nowhere cannot be looked at: No such file"},
    {"--state file", 1, "not a directory"},
    {"--state open", 1, "chmod 700"},
    {"--help", 0, "Exit status"},
};

TEST_EACH(recover_explains_mistakes, recover_mistakes)
{
    file_write(at("file"), "");
    must(mkdir(at("open"), 0755) == 0 && mkdir(at("state"), 0700) == 0);
    struct output o = recover(recover_mistakes[_i].words);
    must_say(o.status == recover_mistakes[_i].status && strstr(o.text, recover_mistakes[_i].why),
             "%d: %s", o.status, o.text);
    must(is_empty(at("state")) && !exists(at("nowhere")));
}

/* From a dead server's directory, or from failed. */
static const char *leave_somewhere(bool in_failed)
{
    if (!in_failed)
        return leave_slow("a");
    struct server *s = things("--undo-retries 0");
    struct working w = start_slow(s, "a");
    file_write(at("fail-a"), "");
    go("a");
    close_fin(w.connection);
    log_wait(s, "UNDO FAILED for good");
    kill(s->pid, SIGTERM);
    must(server_wait(s) == 0);
    must(unlink(at("fail-a")) == 0 && unlink(at("go-a")) == 0 && unlink(at("order")) == 0);
    return w.id;
}

TEST_TIMES(second_recover_waits_for_the_first, 2)
{
    const char *id = leave_somewhere(_i);
    pid_t first = start_recover("out1", "");
    wait_order("a\n");
    pid_t second = start_recover("out2", id);
    wait_until(strstr(file_read(at("out2")), "waiting for its end"));
    go("a");
    must_say(wait_status(first) == 0, "%s", file_read(at("out1")));
    must_say(wait_status(second) == 1 && strstr(file_read(at("out2")), "no ledger"), "%s",
             file_read(at("out2")));
    must(strcmp(file_read(at("order")), "a\n") == 0);
    no_overlap();
    must(nothing_in_state());
}

/* The process that a terminal's kill meets, or the one that does the work. */
TEST_TIMES(recover_that_is_killed_is_gone_on_with, 4)
{
    leave_somewhere(_i / 2);
    pid_t first = start_recover("out1", "");
    wait_order("a\n");
    pid_t worker = (pid_t)atoi(file_read(at("janitor-a")));
    kill(_i % 2 ? worker : first, SIGKILL);
    must(wait_status(first) != 0);
    wait_until(!is_alive(shell_of("a"))); /* nobody had to look for it */
    pid_t second = start_recover("out2", "");
    wait_order("a\na\n");
    no_overlap();
    must(!is_alive(worker));
    go("a");
    must_say(wait_status(second) == 0, "%s", file_read(at("out2")));
    must(nothing_in_state());
    no_process_left();
}

TEST(recover_beside_a_start)
{
    leave_slow("a");
    pid_t pid = start_recover("out", "");
    wait_order("a\n");
    struct server *s = things("%s", "");
    struct working w = start_slow(s, "b");
    wait_until(child_count(s->pid) == 1); /* its recovery has ended */
    go("a");
    must_say(wait_status(pid) == 0, "%s", file_read(at("out")));
    must_say(strcmp(file_read(at("order")), "a\n") == 0, "%s", file_read(at("order")));
    no_overlap();
    go("b");
    close_fin(w.connection);
    log_wait(s, " hangup undo=ok");
    server_stop(s);
}

/* The dead server's start-up recovery looks for all its requests' processes; but not for those of
 * a ledger that somebody else holds by now. */
TEST(start_spares_what_recover_runs)
{
    struct server *s = things("--undo-retries 0");
    struct working parked_one = start_slow(s, "a");
    file_write(at("fail-a"), "");
    go("a");
    close_fin(parked_one.connection);
    log_wait(s, "UNDO FAILED for good");
    struct working w = start_working(s, "run1=touch+ran");
    kill_all_of(s, &w, 1);
    must(unlink(at("fail-a")) == 0 && unlink(at("go-a")) == 0 && unlink(at("order")) == 0);
    pid_t pid = start_recover("out", parked_one.id);
    wait_order("a\n");
    s = things("%s", "");
    log_wait(s, "recovered from a dead server");
    wait_exists(at("ran"));
    go("a");
    must_say(wait_status(pid) == 0, "%s", file_read(at("out")));
    must(strcmp(file_read(at("order")), "a\n") == 0);
    server_stop(s);
}

/* Only one of a dead server's ledgers is asked for: a start meanwhile finds the others. */
TEST(start_beside_recover_of_one)
{
    struct working w[2];
    struct server *s = things("%s", "");
    w[0] = start_slow(s, "a");
    w[1] = start_working(s, "run1=touch+ran");
    kill_all_of(s, w, 2);
    pid_t pid = start_recover("out", w[0].id);
    wait_order("a\n");
    s = things("%s", "");
    wait_exists(at("ran"));
    wait_until(child_count(s->pid) == 0);
    go("a");
    must_say(wait_status(pid) == 0, "%s", file_read(at("out")));
    must(strcmp(file_read(at("order")), "a\n") == 0);
    server_stop(s);
}

/* Root becomes the owner, with or without a name, before anything is run. */
TEST_TIMES(recover_as_root_becomes_the_owner, 2)
{
    static const uid_t owners[] = {65534, 54321};
    char text[256];
    if (only_for_root("recover_as_root_becomes_the_owner"))
        return;
    const gid_t further[] = {12345}; /* which must go, too */
    must(setgroups(1, further) == 0);
    must(mkdir(at("state"), 0700) == 0 && mkdir(at("state/failed"), 0700) == 0);
    file_write(at("state/failed/" ID), "# hangupd ledger 1 id=" ID " pid=1 start=1 boot=- GET /x\n"
                                       "run id -u; id -ru; id -g; id -G; echo \"$SECRET.$HOME\"\n");
    must(setenv("SECRET", "root's", 1) == 0 && setenv("HOME", "/root", 1) == 0);
    must(chown(at("state/failed/" ID), owners[_i], 65534) == 0);
    must(chown(at("state/failed"), owners[_i], 65534) == 0);
    must(chown(at("state"), owners[_i], 65534) == 0);
    struct output o = recover("");
    snprintf(text, sizeof(text),
             ID ": undo: %u\n" ID ": undo: %u\n" ID ": undo: 65534\n" ID ": undo: 65534\n" ID
                ": undo: .%s\n" ID ": undone",
             owners[_i], owners[_i], _i == 0 ? getpwuid(owners[_i])->pw_dir : "/root");
    must_say(o.status == 0 && strstr(o.text, text), "%d: %s", o.status, o.text);
}

TEST(recover_by_another_user_is_refused)
{
    if (only_for_root("recover_by_another_user_is_refused"))
        return;
    must(mkdir(at("state"), 0700) == 0 && chmod(test_dir, 0755) == 0);
    must(run("cp %s hangupd", the_hangupd()).status ==
         0); /* its own place may be closed to others */
    setenv("HANGUPD", at("hangupd"), 1);
    must(setgid(65534) == 0 && setuid(65534) == 0);
    struct output o = recover("");
    must_say(o.status == 1 && strstr(o.text, at("state")), "%d: %s", o.status, o.text);
}

/* ---- After a crash ------------------------------------------------------------------------- */

THEME("after a crash");

TEST(start_goes_on_with_commands)
{
    const char *dead = leave_slow("a");
    struct server *s = things("%s", "");
    wait_order("a\n");
    must(log_has(s, "recovered from a dead server: 0 undone or kept, 1 still to do"));
    go("a");
    log_wait(s, " %s undone at last", dead);
    wait_until(child_count(s->pid) == 0);
    server_stop(s);
    must(is_ended("a"));
}

/* A server for one connection recovers once a minute, also if the last time was by a clock that was
 * wrong. */
TEST_TIMES(recovery_is_not_too_often, 2)
{
    int c;
    const char *dead = leave_slow("a");
    go("a");
    struct timespec to_come[2] = {{.tv_sec = time(NULL) + (_i ? 100000 : -5)},
                                  {.tv_sec = time(NULL) + (_i ? 100000 : -5)}};
    file_write(at("state/recovered"), "");
    must(utimensat(AT_FDCWD, at("state/recovered"), to_come, 0) == 0);
    struct server *s = serve_connection(true, &c, "");
    close_fin(c);
    if (_i == 1)
        log_wait(s, "recovered from a dead server");
    wait_until(!is_alive(s->pid));
    must(waitpid(s->pid, NULL, 0) == s->pid);
    s->ended = true;
    struct output o = recover("");
    must_say(strstr(o.text, dead) ? _i == 0 : _i == 1, "%s", o.text);
}

/* What is to be tried again when the server is stopped is tried by the next one. */
TEST(stop_leaves_retries_to_the_next_start)
{
    struct server *s = things("%s", "");
    struct working w = start_working(s, "run1=test+-e+mended");
    close_fin(w.connection);
    log_wait(s, " %s undo failed; it is tried again in 1 s", w.id);
    kill(s->pid, SIGTERM);
    log_wait(s, " %s still to be undone: the next start goes on with it", w.id);
    wait_until(!is_alive(s->pid));
    must(waitpid(s->pid, NULL, 0) == s->pid);
    s->ended = true;
    file_write(at("mended"), "");
    s = things("%s", "");
    log_wait(s, "recovered from a dead server");
    wait_until(*run("find %s -name %s*", at("state"), w.id).text == '\0');
    server_stop(s);
    must(!exists(at("state/failed")));
}

/* The second server dies in the middle of what it took over from the first. */
TEST(start_goes_on_after_two_crashes)
{
    const char *id = leave_slow("a");
    struct server *s = things("%s", "");
    wait_order("a\n");
    must(exists(at("state/%.16s", id)) == false); /* it has been taken over */
    server_kill(s, SIGKILL);
    s = things("%s", "");
    wait_order("a\na\n");
    no_overlap();
    server_kill(s, SIGKILL);
    struct output o = {0};
    go("a");
    o = recover(id);
    must_say(o.status == 0, "%d: %s", o.status, o.text);
    no_overlap();
    must(is_ended("a") && nothing_in_state());
    nothing_left();
}

/* A server for one connection does the same when that has ended, and follows its own undo. */
TEST(inetd_server_goes_on_too)
{
    int ends[2];
    leave_slow("a");
    go("a");
    must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
    struct server *s =
        server_spawn(the_things(), "--inetd --log-to stderr --undo-retries 1", ends[1], false, -1);
    close(ends[1]);
    say(ends[0], "GET /records?run1=false&seconds=60 HTTP/1.1\r\nHost: test\r\n\r\n");
    log_wait(s, " recorded pid ");
    close(ends[0]);
    log_wait(s, "UNDO FAILED for good: run false: exit status 1");
    must(server_wait(s) == 0);
    must(strcmp(file_read(at("order")), "a\n") == 0 && is_ended("a"));
}

/* ---- Running ------------------------------------------------------------------------------- */

/* Two machines have one STATE, or a container's outlives it: a path in another's ledger means
 * another file here. Whatever is there, and however it is asked for, it is left alone. */
TEST_TIMES(ledgers_of_another_node_are_left_alone, 2)
{
    struct server *s = things("--node one --undo-retries 0");
    int c = -1;
    char id[64];
    if (_i == 0) {
        c = get(s, "/make?path=%s&seconds=60", at("file"));
        pid_t child = wait_made(s, at("file"));
        snprintf(id, sizeof id, "%s", id_of(s, "made "));
        kill(child, SIGSTOP);
        server_kill(s, SIGKILL);
        kill(child, SIGKILL);
    } else {
        struct working w = start_working(s, "run1=test+-e+mended");
        snprintf(id, sizeof id, "%s", w.id);
        close_fin(w.connection);
        log_wait(s, " %s UNDO FAILED for good: ", w.id);
        kill(s->pid, SIGTERM);
        must(server_wait(s) == 0);
        file_write(at("mended"), "");
    }
    struct server *other = things("--node two");
    if (_i == 0)
        log_wait(other, " %.16s left alone, as it is of another node, one:", id);
    server_kill(other, SIGTERM);
    struct output o = recover("--node two");
    must_say(o.status == 1 && strstr(o.text, "left alone, as it is of another node, one:"), "%s",
             o.text);
    char words[128];
    snprintf(words, sizeof words, "--node two %s", id);
    o = recover(words);
    must_say(o.status == 1 && strstr(o.text, "left alone, as it is of another node, one:"), "%s",
             o.text);
    must(_i == 1 || exists(at("file")));
    o = recover("--node one");
    must_say(o.status == 0 && strstr(o.text, ": undone"), "%s", o.text);
    must(!exists(at("file")) && nothing_in_state());
    if (c >= 0)
        close(c);
}

/* ---- The second look ----------------------------------------------------------------------- */

THEME("second look");

/* Finds by a name that is the request's alone, and says which look it is. */
#define FINDS encoded("echo look $UNDO_LOOK >>looks; rm -f thing-$REQUEST_ID")

/* A request with the records QUERY whose caller hangs up. Its service is slow: it has the order,
 * and will make the thing only after the undo. */
static struct working hang_up_on(struct server *s, const char *query)
{
    struct working w = start_working(s, query);
    close_fin(w.connection);
    log_wait(s, " hangup undo=ok");
    return w;
}

static struct working order_thing(struct server *s)
{
    char query[1024];
    snprintf(query, sizeof(query), "run1=%s", FINDS);
    struct working w = hang_up_on(s, query);
    log_wait(s, " %s undone; a second look is due in ", w.id);
    must(strcmp(file_read(at("looks")), "look 1\n") == 0);
    file_write(at("thing-%s", w.id), ""); /* only now */
    return w;
}

enum { SERVER_LIVES, SERVER_IS_KILLED, SERVER_STOPS, NEXT_TO_LOOK };

/* The thing appears after the undo that found nothing, and is gone when it was looked for again,
 * whoever goes on with it. */
TEST_TIMES(late_thing_is_undone, NEXT_TO_LOOK)
{
    struct server *s = things("--undo-again 1");
    struct working w = order_thing(s);
    if (_i == SERVER_IS_KILLED)
        server_kill(s, SIGKILL);
    if (_i == SERVER_STOPS) {
        kill(s->pid, SIGTERM);
        log_wait(s, " second looks: 1, due until 20");
        must(wait_status(s->pid) == 0);
        s->ended = true;
    }
    if (_i != SERVER_LIVES)
        s = things("--undo-again 1");
    log_wait(s, " %s second look: done", w.id);
    must(!exists(at("thing-%s", w.id)));
    must_say(strcmp(file_read(at("looks")), "look 1\nlook 2\n") == 0, "%s", file_read(at("looks")));
    server_stop(s);
}

/* `recover` names what is not due; what it is told to look at it looks at now, and again later. */
TEST(recover_takes_second_looks)
{
    char words[256];
    struct server *s = things("--undo-again 3600");
    struct working w = order_thing(s);
    struct output o = run("%s status --state %s", the_hangupd(), at("state"));
    must_say(strstr(o.text, "; 1 second look to come, the next in ") &&
                 strstr(o.text, "Undone, with a second look to come:\n"),
             "%s", o.text);
    o = run("%s status --state %s --json", the_hangupd(), at("state"));
    must_say(strstr(o.text, "\"undoing\":[],\"second_looks\":[{\"id\":\""), "%s", o.text);
    o = run("%s status --state %s --prometheus", the_hangupd(), at("state"));
    must_say(strstr(o.text, "\nhangupd_undo_second_looks{") && strstr(o.text, "} 1\n"), "%s",
             o.text);
    server_kill(s, SIGKILL);
    o = recover("--undo-again 3600");
    must_say(o.status == 1 && strstr(o.text, ": undone; a second look is due at 20"), "%s", o.text);
    must(exists(at("thing-%s", w.id)));
    snprintf(words, sizeof(words), "--undo-again 3600 %s", w.id);
    o = recover(words);
    must_say(o.status == 1 && strstr(o.text, ": undone; a second look is due at 20"), "%s", o.text);
    must(!exists(at("thing-%s", w.id)));
    wait_until(recover("--undo-again 1").status == 0); /* no look waits longer than this */
    must_say(strcmp(file_read(at("looks")), "look 1\nlook 2\nlook 2\n") == 0, "%s",
             file_read(at("looks")));
    must(nothing_in_state());
}

TEST(second_look_that_fails_is_told_as_one)
{
    struct server *s = things("--undo-again 1 --undo-retries 0");
    char query[1024];
    snprintf(query, sizeof(query), "run1=%s",
             encoded("[ $UNDO_LOOK = 1 ] || exit 3; : $REQUEST_ID"));
    struct working w = hang_up_on(s, query);
    log_wait(s, " %s second look failed: run [ $UNDO_LOOK = 1 ]", w.id);
    log_wait(s, " %s SECOND LOOK FAILED for good: run [ $UNDO_LOOK = 1 ] || exit 3; ", w.id);
    must(!log_has(s, "could not undo") && !log_has(s, "undo=failed"));
    must(strstr(parked(w.id), " run [ $UNDO_LOOK = 1 ]"));
    server_stop(s);
}

/* A name that another request's thing may have by then is looked for once, unless its author says
 * otherwise. */
TEST(other_names_get_no_second_look)
{
    struct server *s = things("--undo-again 1");
    struct working w = hang_up_on(s, "run1=rm+-f+fixed-$REQUEST_IDS+REQUEST_ID");
    must(!exists(at("state/%.16s/%s", w.id, w.id)));
    must(!log_has(s, "second look"));
    server_stop(s);
}

/* A program's record says nothing of its directory; its child finds that out while it runs. */
TEST(programs_directory_is_known_after_a_crash)
{
    char text[1024], id[64];
    must(mkdir(at("dir"), 0755) == 0);
    snprintf(text, sizeof text,
             "#!/bin/sh\necho \"unlink %s/f\" >&3\necho x >%s/f\necho made >&2\nexec sleep 60\n",
             at("dir"), at("dir"));
    file_write(at("program"), text);
    must(chmod(at("program"), 0755) == 0);
    struct server *s = hangupd("/p=%s", at("program"));
    int c = get(s, "/p");
    snprintf(id, sizeof id, "%s", id_of(s, "made"));
    snprintf(text, sizeof text, " %s\n", at("dir"));
    wait_until(strstr(file_read(at("state/%.16s/slot-0", id)), text));
    pid_t child = only_child(s->pid);
    kill(child, SIGSTOP);
    server_kill(s, SIGKILL);
    kill(child, SIGKILL);
    must(rename(at("dir"), at("moved")) == 0 && mkdir(at("dir"), 0755) == 0);
    struct output o = recover("");
    must_say(o.status == 1 && strstr(o.text, "could not undo yet: unlink "), "%s", o.text);
    must(exists(at("moved/f")) && rmdir(at("dir")) == 0 && rename(at("moved"), at("dir")) == 0);
    o = recover("");
    must_say(o.status == 0 && strstr(o.text, ": undone"), "%s", o.text);
    must(is_empty(at("dir")) && nothing_in_state());
    close(c);
}
