/* check_undo.c: undo that outlives everything: `hangupd undo`, the janitors that run what is
 * recorded, `hangupd recover`, and starts that go on with what dead servers left. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cleanup.h"
#include "harness.h"

#define COUNT(array) ((int)(sizeof(array) / sizeof(array)[0]))
#define ID "0123456789abcdef-1"

/* ---- hangupd undo -------------------------------------------------------------------------- */

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
    {{"unlink", "/tmp/some file"}, "unlink /tmp/some file\n"},
    {{"rmtree", "/tmp/tree//"}, "rmtree /tmp/tree\n"},
    {{"unlink-if", "8:1:10:123.456000000", "/x y"}, "unlink-if 8:1:10:123.456000000 /x y\n"},
    {{"rmtree-if", "8:1:10:-", "/x"}, "rmtree-if 8:1:10:- /x\n"},
    {{"commit"}, "commit\n"},
};

START_TEST(record_is_written)
{
    ledger_write("");
    struct output o = undo(recorded[_i].words);
    must_say(o.status == 0 && o.length == 0, "%d: %s", o.status, o.text);
    must_say(strcmp(ledger_records(), recorded[_i].record) == 0, "%s", ledger_records());
}
END_TEST

START_TEST(record_goes_to_the_end)
{
    ledger_write("unlink /before\n");
    must(undo((const char *const[]){"commit", NULL}).status == 0);
    must_say(strcmp(ledger_records(), "unlink /before\ncommit\n") == 0, "%s", ledger_records());
}
END_TEST

/* What a shell makes of the record is what was said, word for word. */
START_TEST(words_come_through_the_shell)
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
END_TEST

START_TEST(relative_path_is_made_absolute)
{
    static const char *const verbs[] = {"unlink", "rmtree"};
    char expected[8192];
    ledger_write("");
    must(undo((const char *const[]){verbs[_i], "below/it", NULL}).status == 0);
    snprintf(expected, sizeof(expected), "%s %s\n", verbs[_i], at("below/it"));
    must_say(strcmp(ledger_records(), expected) == 0, "%s", ledger_records());
}
END_TEST

static char ran[256];

static int note_command(const char *id, const char *command)
{
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
START_TEST(what_is_recorded_is_undone)
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
END_TEST

START_TEST(commit_keeps_what_is_above)
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
END_TEST

static char too_long[CLEANUP_RECORD_MAX + 1];

static const struct {
    const char *words[WORDS_MOST], *why;
} refused[] = {
    {{NULL}, "VERB is missing"},
    {{"run"}, "empty"},
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

START_TEST(what_cannot_be_held_is_refused)
{
    memset(too_long, 'x', sizeof(too_long) - 1);
    ledger_write("unlink /before\n");
    file_write(at("file"), "");
    must(mkdir(at("dir"), 0755) == 0 && symlink("dir", at("link")) == 0);
    struct output o = undo(refused[_i].words);
    must_say(o.status == 2 && strstr(o.text, refused[_i].why), "%d: %s", o.status, o.text);
    must_say(strcmp(ledger_records(), "unlink /before\n") == 0, "%s", ledger_records());
}
END_TEST

START_TEST(directory_that_is_gone_is_told)
{
    ledger_write("");
    must(mkdir(at("gone"), 0755) == 0);
    struct output o =
        undo_as("cd gone; rmdir ../gone;", (const char *const[]){"unlink", "x", NULL});
    must_say(o.status == 2 && strstr(o.text, "No such file"), "%d: %s", o.status, o.text);
    must_say(*ledger_records() == '\0', "%s", ledger_records());
}
END_TEST

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

START_TEST(descriptor_that_is_no_ledger_is_told)
{
    ledger_write("");
    file_write(at("other"), "something else\n");
    struct output o = undo_as(not_ledgers[_i].setting, (const char *const[]){"commit", NULL});
    must_say(o.status == 2 && strstr(o.text, not_ledgers[_i].why), "%d: %s", o.status, o.text);
    must(*ledger_records() == '\0' && strcmp(file_read(at("other")), "something else\n") == 0);
}
END_TEST

START_TEST(any_descriptor_will_do)
{
    ledger_write("");
    struct output o = undo_as("exec 7>&3 3>&-; UNDO_FD=7;", (const char *const[]){"commit", NULL});
    must_say(o.status == 0 && strcmp(ledger_records(), "commit\n") == 0, "%s", o.text);
}
END_TEST

START_TEST(record_that_cannot_be_written_is_told)
{
    ledger_write("");
    struct output o =
        undo_as("trap '' XFSZ; ulimit -f 0;", (const char *const[]){"unlink", "/x", NULL});
    must_say(o.status == 1 && strstr(o.text, "File too large") && strstr(o.text, "do not make"),
             "%d: %s", o.status, o.text);
    must(*ledger_records() == '\0');
}
END_TEST

START_TEST(undo_helps)
{
    static const char *const named[] = {"run",    "unlink", "rmtree",  "unlink-if",  "rmtree-if",
                                        "commit", "FILEID", "UNDO_FD", "REQUEST_ID", "Exit status"};
    struct output o = run("%s undo --help", the_hangupd());
    must_say(o.status == 0, "%d", o.status);
    for (int i = 0; i < COUNT(named); i++)
        must_say(strstr(o.text, named[i]), "%s is not in hangupd undo --help", named[i]);
}
END_TEST

/* ---- Running ------------------------------------------------------------------------------- */

static TCase *theme(Suite *suite, const char *name)
{
    TCase *t = tcase_create(name);
    suite_add_tcase(suite, t);
    tcase_add_checked_fixture(t, test_begin, end_processes);
    tcase_set_timeout(t, 120);
    return t;
}

static Suite *undo_suite(void)
{
    Suite *suite = suite_create("undo");
    TCase *t = theme(suite, "hangupd undo");
    tcase_add_loop_test(t, record_is_written, 0, COUNT(recorded));
    tcase_add_test(t, record_goes_to_the_end);
    tcase_add_test(t, words_come_through_the_shell);
    tcase_add_loop_test(t, relative_path_is_made_absolute, 0, 2);
    tcase_add_test(t, what_is_recorded_is_undone);
    tcase_add_test(t, commit_keeps_what_is_above);
    tcase_add_loop_test(t, what_cannot_be_held_is_refused, 0, COUNT(refused));
    tcase_add_test(t, directory_that_is_gone_is_told);
    tcase_add_loop_test(t, descriptor_that_is_no_ledger_is_told, 0, COUNT(not_ledgers));
    tcase_add_test(t, any_descriptor_will_do);
    tcase_add_test(t, record_that_cannot_be_written_is_told);
    tcase_add_test(t, undo_helps);
    return suite;
}

int main(void)
{
    SRunner *runner = srunner_create(undo_suite());
    srunner_set_fork_status(runner, CK_FORK);
    harness_begin();
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    unsigned left = harness_end();
    if (left > 0)
        fprintf(stderr, "%u processes were left\n", left);
    return failed == 0 && left == 0 ? 0 : 1;
}
