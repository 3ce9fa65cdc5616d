/* check_reuse.c: a server's slots, one request after the other in the same one: where their scratch
 * directories are, and what becomes of what outlives its request, or its server.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "harness.h"

SUITE();

/* Returns TEXT in a place of its own, until the test ends. */
static char *keep(const char *text)
{
    static char kept[16][PATH_MAX];
    static unsigned count;
    must(count < 16);
    snprintf(kept[count], sizeof kept[count], "%s", text);
    return kept[count++];
}

#define HEAD "printf 'Content-Type: text/plain\\n\\n'\n"

/* A server with the program /p, a shell script, which runs in cgi/ below the test's directory. */
static struct server *serve(const char *options, const char *body)
{
    char text[4096];
    must(mkdir(at("cgi"), 0755) == 0 || errno == EEXIST);
    snprintf(text, sizeof text, "#!/bin/sh\n%s", body);
    file_write(at("cgi/program"), text);
    must(chmod(at("cgi/program"), 0755) == 0);
    return hangupd("/p=%s %s", at("cgi/program"), options);
}

/* What /p answers, without its newline. */
static char *answer(struct server *s, const char *query)
{
    struct output o = curl(s, "/p%s", query);
    must_say(o.status == 0, "%s", o.text);
    o.text[strcspn(o.text, "\n")] = '\0';
    return o.text;
}

/* The directory in STATE of the server that lives. */
static const char *state_of_server(void)
{
    static char token[32];
    DIR *d = opendir(at("state"));
    for (const struct dirent *e; d && (e = readdir(d));)
        if (strlen(e->d_name) == 16)
            snprintf(token, sizeof token, "%.16s", e->d_name);
    must(d);
    closedir(d);
    return token;
}

/* The only directory in TMPDIR that is a pool and not NOT. */
static const char *pool_beside(const char * not )
{
    static char name[256];
    name[0] = '\0';
    DIR *d = opendir(at("tmp"));
    for (const struct dirent *e; d && (e = readdir(d));)
        if (is_pool_name(e->d_name) && strcmp(e->d_name, not ) != 0)
            snprintf(name, sizeof name, "%s", e->d_name);
    must(d);
    closedir(d);
    return *name ? name : NULL;
}

static bool starts_with(const char *text, const char *start)
{
    return strncmp(text, start, strlen(start)) == 0;
}

/* ---- Scratch directories ------------------------------------------------------------------- */

THEME("scratch");

#define SAY_TMPDIR HEAD "[ -d \"$TMPDIR\" ] && [ -z \"$(ls -A $TMPDIR)\" ] && echo $TMPDIR\n"

TEST(scratch_is_the_same_one_after_the_other)
{
    struct server *s = serve("", SAY_TMPDIR);
    const char *first = keep(answer(s, ""));
    must_say(starts_with(first, at("tmp/hangupd-")) && strstr(first, "/0"), "%s", first);
    for (int i = 0; i < 3; i++)
        must(strcmp(answer(s, ""), first) == 0);
    must(no_scratch());
    server_stop(s);
}

/* 24 bytes at most, where TMPDIR is /tmp: in the first slot and in others. */
TEST(tmpdir_is_short)
{
    enum { MANY = 40 };
    int c[MANY];
    size_t longest = 0;
    struct server *s = serve("", HEAD "echo $TMPDIR; echo $TMPDIR >>../all; "
                                      "while ! [ -e ../go ]; do sleep 0.05; done\n");
    for (int i = 0; i < MANY; i++)
        c[i] = get(s, "/p");
    unsigned count = 0;
    wait_until(
        (count = (unsigned)atoi(
             run_argv((const char *const[]){"sh", "-c", "wc -l <all", NULL}, NULL, true).text)) ==
        MANY);
    file_write(at("go"), "");
    for (int i = 0; i < MANY; i++) {
        const char *path = strstr(hear_answer(c[i], false).text, at("tmp/"));
        must(path);
        size_t length = strcspn(path, "\r\n") - strlen(at("tmp")) + strlen("/tmp");
        longest = length > longest ? length : longest;
        close(c[i]);
    }
    must_say(longest == strlen("/tmp/hangupd-12345/17"), "%zu bytes", longest);
    must(longest <= 24);
    must(run("sort -u all").length > MANY); /* each had its own */
    must(atoi(run_argv((const char *const[]){"sh", "-c", "sort -u all | wc -l", NULL}, NULL, true)
                  .text) == MANY);
    server_stop(s);
}

/* Whoever cleans TMPDIR up takes the pool away, or gives it another name, while a request is in it.
 * The next requests do without, and soon there is a pool again. */
enum { REMOVED, RENAMED, TAKEN, CLEANINGS };

TEST_TIMES(pool_is_cleaned_up, CLEANINGS)
{
    if (_i == TAKEN && only_for_root("pool_is_cleaned_up"))
        return;
    struct server *s =
        serve("", "[ -z \"$QUERY_STRING\" ] || { echo ready >&2; sleep 1000; }\n" SAY_TMPDIR);
    char *old = keep(answer(s, ""));
    char *pool = keep(pool_beside(""));
    int c = get(s, "/p?wait");
    log_wait(s, " ready");
    if (_i == REMOVED)
        remove_tree(at("tmp/%s", pool));
    else
        must(rename(at("tmp/%s", pool), at("tmp/cleaned-up")) == 0);
    if (_i == TAKEN) {
        must(mkdir(at("tmp/%s", pool), 0700) == 0 && chmod(at("tmp/%s", pool), 0777) == 0);
        must(chown(at("tmp/%s", pool), 12345, 12345) == 0);
    }
    for (int i = 0; i < 3; i++) {
        char *path = answer(s, "");
        must_say(starts_with(path, at("tmp/hangupd-")), "%s", path);
        must_say(strncmp(path, old, strlen(at("tmp/%s", pool))) != 0, "%s", path);
    }
    wait_until(pool_beside(pool) != NULL);
    log_wait(s, "has been removed; another one is made");
    char *next = keep(answer(s, ""));
    must_say(starts_with(next, at("tmp/%s/", pool_beside(pool))), "%s", next);
    must(strcmp(answer(s, ""), next) == 0);
    close_fin(c);
    log_wait(s, " hangup undo=none");
    remove_tree(at("tmp/cleaned-up"));
    if (_i == TAKEN) /* his, and with nothing of ours in it */
        must(rmdir(at("tmp/%s", pool)) == 0);
    server_stop(s);
}

/* ---- What outlives its request ------------------------------------------------------------- */

THEME("outliving");

#define FAILS_UNTIL_MENDED                                                                         \
    "[ -z \"$QUERY_STRING\" ] || {\n"                                                              \
    "d=$(dirname $PWD); touch ../file $TMPDIR/x\n"                                                 \
    "echo \"run test -e $d/mended && rm -f $d/file\" >&3\n"                                        \
    "echo $REQUEST_ID ready >&2; sleep 1000; }\n"

/* Start a request that waits. Returns its id, and its connection in C. */
static char *start_waiting(struct server *s, int *c)
{
    *c = get(s, "/p?wait");
    char *id = keep(strstr(log_wait(s, " ready"), "Z ") + 2);
    id[strcspn(id, " ")] = '\0';
    return id;
}

/* Returns the id of one that has been killed, and whose undo fails. */
static char *leave_failing(struct server *s)
{
    int c;
    char *id = start_waiting(s, &c);
    kill(only_child(s->pid), SIGKILL);
    log_wait(s, " killed undo=failed");
    close(c);
    return id;
}

/* An undo that fails has undone all the same what it could, and the scratch directory is of that.
 * The ledger has the name of its request, and the slot serves others, whose directories it leaves
 * alone. */
TEST(ledger_that_waits_leaves_the_slot)
{
    int c;
    struct server *s = serve("", FAILS_UNTIL_MENDED SAY_TMPDIR);
    char *first = keep(answer(s, "")), *id = leave_failing(s);
    wait_exists(at("state/%.16s/%s", id, id));
    must(exists(at("state/%.16s/%s.p", id, id)));
    for (int i = 0; i < 3; i++)
        must(strcmp(answer(s, ""), first) == 0);
    log_mark(s);
    start_waiting(s, &c);
    file_write(at("mended"), "");
    log_wait(s, " %s undone at last", id);
    must(exists(first));
    close_fin(c);
    log_wait(s, " hangup undo=");
    must(!exists(at("file")));
    server_stop(s);
}

TEST(parked_ledger_leaves_the_slot)
{
    int c;
    struct server *s = serve("--undo-retries 0", FAILS_UNTIL_MENDED SAY_TMPDIR);
    char *first = keep(answer(s, "")), *id = leave_failing(s);
    wait_exists(at("state/failed/%s", id));
    for (int i = 0; i < 3; i++)
        must(strcmp(answer(s, ""), first) == 0);
    struct output o = run("%s recover --state %s %s", the_hangupd(), at("state"), id);
    must_say(o.status == 1, "%d: %s", o.status, o.text);
    log_mark(s);
    start_waiting(s, &c);
    file_write(at("mended"), "");
    o = run("%s recover --state %s %s", the_hangupd(), at("state"), id);
    must_say(o.status == 0, "%d: %s", o.status, o.text);
    must(!exists(at("file")) && exists(first));
    file_write(at("file"), "");
    close_fin(c);
    log_wait(s, " hangup undo=");
    server_stop(s);
}

/* The parent cannot give the ledger its request's name, as that is a directory's. It is not lost:
 * the slot has no ledger for others until it can be moved, and then it is settled. */
TEST(ledger_that_cannot_get_its_name)
{
    int c, d;
    struct server *s = serve("", FAILS_UNTIL_MENDED SAY_TMPDIR);
    answer(s, "");
    char *id = start_waiting(s, &c);
    must(mkdir(at("state/%.16s/%s", id, id), 0700) == 0);
    kill(only_child(s->pid), SIGKILL);
    log_wait(s, " killed undo=failed");
    close(c);
    must(starts_with(file_read(at("state/%.16s/slot-0", id)), "# hangupd ledger 2 "));
    d = get(s, "/p");
    must(hear_answer(d, false).status == 500);
    close(d);
    must(exists(at("file")));
    must(rmdir(at("state/%.16s/%s", id, id)) == 0);
    must(starts_with(answer(s, ""), at("tmp/hangupd-")));
    file_write(at("mended"), "");
    log_wait(s, " %s undone at last", id);
    must(!exists(at("file")));
    server_stop(s);
}

/* A janitor that is killed says nothing, so its request is not done: the slot stays with it, and
 * its scratch directory with its command, until the next one has settled it. */
TEST(janitor_that_is_killed)
{
    int c;
    struct server *s = serve("", "[ -z \"$QUERY_STRING\" ] || {\n"
                                 "d=$(dirname $PWD); touch ../file; echo $$ >$TMPDIR/x\n"
                                 "echo \"run test -e $d/up || { touch $d/up; exec sleep 1000; }; "
                                 "test -e $TMPDIR/x && rm $d/file\" >&3\n"
                                 "echo $REQUEST_ID ready >&2; sleep 1000; }\n" SAY_TMPDIR);
    char *first = keep(answer(s, "")), *id = start_waiting(s, &c);
    kill(only_child(s->pid), SIGKILL);
    wait_exists(at("up")); /* the command waits now; the next one will not */
    kill(only_child(s->pid), SIGKILL);
    log_wait(s, " %s a janitor ended by signal 9", id);
    must(strcmp(answer(s, ""), first) != 0);
    wait_gone(at("file"));
    must(!log_has(s, "could not undo"));
    close(c);
    server_stop(s);
}

/* While a janitor is at work, the slot is nobody else's. */
TEST(slot_is_not_free_before_its_request_is_done)
{
    struct server *s =
        serve("--requests 1", "[ -z \"$QUERY_STRING\" ] || {\n"
                              "d=$(dirname $PWD)\n"
                              "echo \"run echo up >>$d/up; until test -e $d/mended; "
                              "do sleep 0.02; done\" >&3\n"
                              "echo $REQUEST_ID ready >&2; sleep 1000; }\n" SAY_TMPDIR);
    char *first = keep(answer(s, ""));
    int c = get(s, "/p?wait"), d;
    log_wait(s, " ready");
    kill(only_child(s->pid), SIGKILL);
    wait_exists(at("up"));
    d = get(s, "/p");
    usleep(300000);
    must(is_quiet(d));
    must(starts_with(file_read(at("state/%s/slot-0", state_of_server())), "# hangupd ledger 2 "));
    file_write(at("mended"), "");
    struct heard h = hear_answer(d, false);
    must_say(h.status == 200 && strstr(h.text, first), "%s", h.text);
    close(c);
    close(d);
    server_stop(s);
}

/* ---- Slots that nobody has any more -------------------------------------------------------- */

THEME("dead servers");

#define RECORDS "echo \"unlink $(dirname $PWD)/file\" >&3; touch ../file\n" SAY_TMPDIR

/* What was answered stays, whoever looks at the slots that a dead server leaves. */
TEST_TIMES(idle_slots_of_a_dead_server, 2)
{
    struct server *s = serve("", RECORDS);
    answer(s, "");
    const char *line = log_wait(s, " ok undo=none");
    char *id = keep(strstr(line, "Z ") + 2);
    id[strcspn(id, " ")] = '\0';
    struct output o = run("%s recover --state %s %s", the_hangupd(), at("state"), id);
    must_say(o.status != 0, "%s", o.text);
    o = run("%s status --state %s", the_hangupd(), at("state"));
    must_say(o.status == 0 && !strstr(o.text, id), "%s", o.text);
    server_kill(s, SIGKILL);
    o = run("%s status --state %s --json", the_hangupd(), at("state"));
    must_say(!strstr(o.text, id), "%s", o.text);
    o = run("%s recover --state %s %s", the_hangupd(), at("state"), id);
    must_say(o.status != 0, "%s", o.text);
    if (_i == 0) {
        o = run("%s recover --state %s", the_hangupd(), at("state"));
        must_say(o.status == 0 && !strstr(o.text, id), "%d: %s", o.status, o.text);
    } else {
        s = serve("", RECORDS);
        wait_gone(at("state/%.16s", id));
        must(!log_has(s, "left by a dead server"));
        server_stop(s);
    }
    must(exists(at("file")));
    nothing_left();
}

/* A request of version 1, which had other files beside its ledger. */
TEST_TIMES(leftovers_of_version_1, 2)
{
    static const char token[] = "0123456789abcdef";
    char pool[1024], text[8192];
    must(mkdir(at("state"), 0700) == 0 && mkdir(at("state/%s", token), 0700) == 0);
    must(chmod(at("tmp"), 0700) == 0);
    snprintf(pool, sizeof pool, "%s", at("tmp/hangupd-%s-fedcba9876543210", token));
    must(mkdir(pool, 0700) == 0);
    must(symlink(pool, at("state/%s/scratch", token)) == 0);
    file_write(at("state/%s/lock", token), "");
    file_write(at("state/%s/scoreboard", token), "");
    snprintf(text, sizeof text,
             "# hangupd ledger 1 id=%s-1f pid=1 start=1 boot=- GET /x\nunlink %s\nrmtree %s\n",
             token, at("own"), at("tree"));
    file_write(at("state/%s/%s-1f", token, token), text);
    snprintf(text, sizeof text,
             "# hangupd ledger 1 id=%s-1f pid=1 start=1 boot=- GET /x\nscratch %s/%s-1f\n"
             "run test -e %s/%s-1f/note && touch %s\nunlink %s\n",
             token, pool, token, pool, token, at("was-run"), at("program"));
    file_write(at("state/%s/%s-1f.p", token, token), text);
    snprintf(text, sizeof text,
             "# hangupd ledger 1 id=%s-1e pid=1 start=1 boot=- GET /y\n"
             "scratch %s/%s-1e\n",
             token, pool, token);
    file_write(at("state/%s/.spare-1", token), text);
    file_write(at("state/%s/.spare-1-room", token), "    ");
    snprintf(text, sizeof text, "%s/%s-1f", pool, token);
    must(mkdir(text, 0700) == 0);
    snprintf(text, sizeof text, "%s/%s-1f/note", pool, token);
    file_write(text, "");
    snprintf(text, sizeof text, "%s/.spare-1", pool);
    must(mkdir(text, 0700) == 0);
    file_write(at("own"), "");
    file_write(at("program"), "");
    must(mkdir(at("tree"), 0700) == 0);
    file_write(at("tree/one"), "");
    struct output o = run("%s status --state %s --json", the_hangupd(), at("state"));
    must_say(strstr(o.text, "GET /x") && strstr(o.text, "0123456789abcdef-1f"), "%s", o.text);
    if (_i == 0) {
        o = run("%s recover --state %s --undo-again 0", the_hangupd(), at("state"));
        must_say(o.status == 0 && strstr(o.text, "-1f"), "%d: %s", o.status, o.text);
        must_say(!strstr(o.text, "overwritten"), "%s", o.text);
    } else {
        struct server *s = serve("--undo-again 0", SAY_TMPDIR);
        log_wait(s, "-1f undone at last"); /* it has a command, which waits */
        wait_gone(at("state/%s", token));
        must(!log_has(s, "overwritten"));
        server_stop(s);
    }
    must(!exists(at("own")) && !exists(at("program")) && !exists(at("tree")));
    must(exists(at("was-run")) && !exists(pool));
    nothing_left();
}
