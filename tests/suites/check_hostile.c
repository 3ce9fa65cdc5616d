/* check_hostile.c: a local user who means harm. What he has put where the server looks is refused
 * with a clear word, and nothing outside is touched.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "harness.h"

SUITE();

#define HIM 65534 /* nobody, who is not us */
#define TOKEN "0123456789abcdef"
#define ID TOKEN "-1"

static void give(const char *path)
{
    must_say(lchown(path, HIM, HIM) == 0, "%s: %s", path, strerror(errno));
}

/* ---- The state directory ------------------------------------------------------------------- */

THEME("state");

/* The server does not start with this --state, says why, and leaves what is there as it is. */
static void state_is_refused(const char *why)
{
    const char *before = run("ls -lRn %s", test_dir).text;
    struct output o =
        run("timeout 20 %s --listen 127.0.0.1:0 --state %s", the_hangupd(), at("state"));
    must_say(o.status == 1, "%d: %s", o.status, o.text);
    must_say(strstr(o.text, at("state")) && strstr(o.text, why), "%s", o.text);
    const char *after = run("ls -lRn %s", test_dir).text;
    must_say(strcmp(before, after) == 0, "before: %s after: %s", before, after);
}

TEST_TIMES(state_that_is_a_link, 2)
{
    must(mkdir(at("elsewhere"), 0700) == 0);
    must(symlink(_i == 0 ? at("elsewhere") : at("nowhere"), at("state")) == 0);
    state_is_refused("symbolic links are not followed");
    must(is_empty(at("elsewhere")) && !exists(at("nowhere")));
}

static const struct odd_state {
    mode_t type;
    mode_t mode;
    const char *why;
} odd_states[] = {
    {S_IFDIR, 0777, "chmod 700"},        {S_IFDIR, 01777, "chmod 700"},
    {S_IFDIR, 0701, "chmod 700"},        {S_IFDIR, 0710, "chmod 700"},
    {S_IFREG, 0600, "not a directory"},  {S_IFIFO, 0600, "not a directory"},
    {S_IFSOCK, 0600, "not a directory"},
};

TEST_EACH(state_that_is_odd, odd_states)
{
    const struct odd_state *odd = &odd_states[_i];
    if (odd->type == S_IFDIR)
        must(mkdir(at("state"), 0700) == 0 && chmod(at("state"), odd->mode) == 0);
    else
        must(mknod(at("state"), odd->type | odd->mode, 0) == 0);
    state_is_refused(odd->why);
}

TEST(state_of_another_user)
{
    if (only_for_root("state_of_another_user"))
        return;
    must(mkdir(at("state"), 0700) == 0);
    give(at("state"));
    state_is_refused("belongs to another user");
}

/* ---- Planted ledgers ----------------------------------------------------------------------- */

THEME("ledgers");

/* Everything that a ledger may say, against things of ours. */
static void plant(const char *path)
{
    char text[8192];
    snprintf(text, sizeof(text),
             "# hangupd ledger 1 id=" ID " pid=1 start=1 boot=- GET /x\n"
             "unlink %s/victim\nrmtree %s/victims\nscratch %s/victims\nrun touch %s/was-run\n",
             test_dir, test_dir, test_dir, test_dir);
    file_write(path, text);
    must(chmod(path, 0600) == 0);
}

static void plant_tree(bool his)
{
    must(mkdir(at("state"), 0700) == 0 && mkdir(at("state/" TOKEN), 0700) == 0);
    if (his)
        give(at("state/" TOKEN));
}

static void his_directory(void)
{
    plant_tree(true);
    plant(at("state/" TOKEN "/" ID));
    give(at("state/" TOKEN "/" ID));
}

static void his_directory_with_our_file(void)
{
    plant_tree(true);
    plant(at("state/" TOKEN "/" ID));
}

static void his_file(void)
{
    plant_tree(false);
    plant(at("state/" TOKEN "/" ID));
    give(at("state/" TOKEN "/" ID));
}

static void his_file_beside_ours(void)
{
    plant_tree(false);
    file_write(at("state/" TOKEN "/" ID),
               "# hangupd ledger 1 id=" ID " pid=1 start=1 boot=- GET /\n");
    plant(at("state/" TOKEN "/" ID ".p"));
    give(at("state/" TOKEN "/" ID ".p"));
}

static void his_parked_file(void)
{
    must(mkdir(at("state"), 0700) == 0 && mkdir(at("state/failed"), 0700) == 0);
    plant(at("state/failed/" ID));
    give(at("state/failed/" ID));
}

static void his_directory_of_failed(void)
{
    must(mkdir(at("state"), 0700) == 0 && mkdir(at("state/failed"), 0700) == 0);
    plant(at("state/failed/" ID));
    give(at("state/failed"));
}

static void link_to_ours(void)
{
    plant_tree(false);
    plant(at("a-ledger"));
    must(symlink(at("a-ledger"), at("state/" TOKEN "/" ID)) == 0);
}

static void hard_link_to_ours(void)
{
    plant_tree(false);
    plant(at("a-ledger"));
    must(link(at("a-ledger"), at("state/" TOKEN "/" ID)) == 0);
}

static void pipe_for_a_ledger(void)
{
    plant_tree(false);
    must(mkfifo(at("state/" TOKEN "/" ID), 0600) == 0);
}

static void directory_for_a_ledger(void)
{
    plant_tree(false);
    must(mkdir(at("state/" TOKEN "/" ID), 0700) == 0);
}

static void socket_for_a_ledger(void)
{
    plant_tree(false);
    must(mknod(at("state/" TOKEN "/" ID), S_IFSOCK | 0600, 0) == 0);
}

/* A directory elsewhere, under a server's name. */
static void link_to_a_directory(void)
{
    must(mkdir(at("state"), 0700) == 0 && mkdir(at("elsewhere"), 0700) == 0);
    plant(at("elsewhere/" ID));
    must(symlink(at("elsewhere"), at("state/" TOKEN)) == 0);
    must(symlink(at("elsewhere"), at("state/failed")) == 0);
}

/* A dead server's link to its pool, which is removed with all that is in it. */
static void plant_pool(const char *name)
{
    plant_tree(false);
    must(mkdir(at("%s", name), 0700) == 0);
    file_write(at("%s/one", name), "");
    must(symlink(at("%s", name), at("state/" TOKEN "/scratch")) == 0);
}

static void his_link_to_a_pool(void)
{
    plant_pool("hangupd-" TOKEN "-1");
    give(at("state/" TOKEN "/scratch"));
}

static void pool_of_another_name(void)
{
    plant_pool("hangupd-1123456789abcdef-1");
}

/* None of these is the name of a ledger, or of a server. */
static void names_with_tricks(void)
{
    static const char *const names[] = {"0123456789ABCDEF-1",
                                        TOKEN "-",
                                        TOKEN "-1.q",
                                        TOKEN "-1-2",
                                        TOKEN "-1\n",
                                        " " TOKEN "-1",
                                        TOKEN "-g",
                                        "-1",
                                        "...",
                                        TOKEN "-11111111111111111111111111111"};
    static const char *const servers[] = {"0123456789ABCDEF", "0123456789abcde", TOKEN "0", "..."};
    plant_tree(false);
    for (int i = 0; i < COUNT(names); i++)
        plant(at("state/" TOKEN "/%s", names[i]));
    for (int i = 0; i < COUNT(servers); i++) {
        must(mkdir(at("state/%s", servers[i]), 0700) == 0);
        plant(at("state/%s/" ID, servers[i]));
    }
}

static const struct planted {
    void (*plant)(void);
    const char *file; /* that must be there still, wherever it was moved to; NULL: not asked */
    const char *word; /* that must be said */
    bool root;
} planted[] = {
    {his_directory, "state/" TOKEN "/" ID, "belongs to another user", true},
    {his_directory_with_our_file, "state/" TOKEN "/" ID, "belongs to another user", true},
    {his_file, NULL, "not a plain file of this user's own", true},
    {his_file_beside_ours, NULL, "not a plain file of this user's own", true},
    {his_parked_file, "state/failed/" ID, "", true},
    {his_directory_of_failed, "state/failed/" ID, "", true},
    {link_to_ours, "a-ledger", "not a plain file of this user's own", false},
    {hard_link_to_ours, "a-ledger", "not a plain file of this user's own", false},
    {pipe_for_a_ledger, NULL, "not a plain file of this user's own", false},
    {directory_for_a_ledger, NULL, "not a plain file of this user's own", false},
    {socket_for_a_ledger, NULL, "not a plain file of this user's own", false},
    {link_to_a_directory, "elsewhere/" ID, "", false},
    {his_link_to_a_pool, "hangupd-" TOKEN "-1/one", "", true},
    {pool_of_another_name, "hangupd-1123456789abcdef-1/one", "", false},
    {names_with_tricks, NULL, "", false},
};

static void make_victims(void)
{
    file_write(at("victim"), "ours");
    must(mkdir(at("victims"), 0700) == 0);
    file_write(at("victims/one"), "ours");
}

static void victims_are_there(void)
{
    must(strcmp(file_read(at("victim")), "ours") == 0);
    must(strcmp(file_read(at("victims/one")), "ours") == 0);
    must_say(!exists(at("was-run")), "the command was run");
}

/* What is refused is kept on record, loudly; the server serves, and leaves when told to. */
static void stop_with_records(struct server *s)
{
    kill(s->pid, SIGTERM);
    log_wait(s, " stopped");
    server_kill(s, SIGKILL);
}

TEST_EACH(planted_ledger_is_not_obeyed, planted)
{
    const struct planted *p = &planted[_i];
    if (p->root && only_for_root("planted_ledger_is_not_obeyed"))
        return;
    make_victims();
    p->plant();
    struct server *s = things("--undo-retries 0");
    if (*p->word)
        log_wait(s, "%s", p->word);
    int c = get(s, "/make?path=%s", at("file"));
    must(hear_answer(c, false).status == 200);
    close(c);
    victims_are_there();
    must(p->file == NULL || exists(at("%s", p->file)));
    stop_with_records(s);
    victims_are_there();
}

TEST_EACH(planted_ledger_is_not_recovered, planted)
{
    const struct planted *p = &planted[_i];
    if (p->root && only_for_root("planted_ledger_is_not_recovered"))
        return;
    make_victims();
    p->plant();
    struct output o = run("timeout 20 %s recover --state %s", the_hangupd(), at("state"));
    must_say(o.status == 1 || !*p->word, "%d: %s", o.status, o.text);
    must_say(strstr(o.text, p->word), "%s", o.text);
    must(p->file == NULL || exists(at("%s", p->file)));
    victims_are_there();
}

/* The same ledger, where and as it should be, is obeyed: the tests above could fail. */
TEST(ledger_of_ours_is_obeyed)
{
    make_victims();
    plant_tree(false);
    plant(at("state/" TOKEN "/" ID));
    struct output o = run("timeout 20 %s recover --state %s", the_hangupd(), at("state"));
    must_say(o.status == 0, "%d: %s", o.status, o.text);
    must(!exists(at("victim")) && !exists(at("victims")) && exists(at("was-run")));
}

/* Another's STATE, settled by root: with his ids, so that he can do no more than he could anyway.
 */
TEST(state_of_another_settled_by_root)
{
    if (only_for_root("state_of_another_settled_by_root"))
        return;
    make_victims();
    plant_tree(true);
    plant(at("state/" TOKEN "/" ID));
    give(at("state/" TOKEN "/" ID));
    give(at("state"));
    must(mkdir(at("his"), 0700) == 0);
    give(at("his"));
    struct output o = run("timeout 20 %s recover --state %s", the_hangupd(), at("state"));
    must_say(o.status == 1 && strstr(o.text, "Permission denied"), "%d: %s", o.status, o.text);
    victims_are_there();
}

/* ---- TMPDIR -------------------------------------------------------------------------------- */

THEME("tmp");

static const struct taken {
    mode_t type; /* 0: a hard link; S_IFLNK: a symbolic one */
    bool his;
} taken[] = {{S_IFLNK, false}, {S_IFLNK, true}, {0, false}, {S_IFREG, true}, {S_IFIFO, true}};

/* The demonstration's file has a name that everybody knows. */
TEST_EACH(known_name_in_tmp, taken)
{
    if (only_for_root("known_name_in_tmp"))
        return;
    const struct taken *t = &taken[_i];
    file_write(at("victim"), "ours");
    if (t->type == 0)
        must(link(at("victim"), at("tmp/txt")) == 0);
    else if (t->type == S_IFLNK)
        must(symlink(at("victim"), at("tmp/txt")) == 0);
    else
        must(mknod(at("tmp/txt"), t->type | 0666, 0) == 0);
    if (t->his)
        give(at("tmp/txt"));
    struct server *s = hangupd("%s", "");
    struct output o = curl(s, "/a?seconds=0");
    must_say(o.status == 0 && strcmp(o.text, "File persisted.\n") == 0, "%s", o.text);
    struct stat now;
    must(lstat(at("tmp/txt"), &now) == 0 && S_ISREG(now.st_mode) && now.st_uid == 0 &&
         now.st_nlink == 1);
    must(strcmp(file_read(at("tmp/txt")), "hello\n") == 0);
    must(strcmp(file_read(at("victim")), "ours") == 0);
    must(unlink(at("tmp/txt")) == 0);
    server_stop(s);
}

/* The scratch directory is nobody else's, and its name cannot be taken before. */
TEST(scratch_is_private)
{
    struct server *s = things("%s", "");
    int c = get(s, "/tree?path=%s&seconds=60", at("tree"));
    wait_made(s, at("tree"));
    struct stat now;
    char *line = run("ls tmp").text;
    line[strcspn(line, "\n")] = '\0';
    must(stat(at("tmp/%s", line), &now) == 0 && (now.st_mode & 07777) == 0700 &&
         now.st_uid == geteuid());
    must_say(strlen(line) == strlen("hangupd-") + 8, "%s can be guessed", line);
    close_fin(c);
    wait_until(is_empty(at("tmp")));
    server_stop(s);
}

static void tmpdir_is_refused(const char *why)
{
    struct output o =
        run("timeout 20 %s --listen 127.0.0.1:0 --state %s", the_hangupd(), at("state"));
    must_say(o.status == 1 && strstr(o.text, "TMPDIR") && strstr(o.text, why), "%d: %s", o.status,
             o.text);
}

TEST_TIMES(tmpdir_that_is_none, 3)
{
    if (left_out_with_memcheck("tmpdir_that_is_none", "memcheck itself does not start so"))
        return;
    must(rmdir(at("tmp")) == 0);
    if (_i == 1)
        must(symlink(at("nowhere"), at("tmp")) == 0);
    if (_i == 2)
        file_write(at("tmp"), "");
    tmpdir_is_refused(_i == 2 ? "is not a directory" : "No such file");
}

TEST(tmpdir_of_another_user)
{
    if (only_for_root("tmpdir_of_another_user"))
        return;
    give(at("tmp"));
    tmpdir_is_refused("belongs to another user");
    must(rename(at("tmp"), at("his")) == 0 && symlink(at("his"), at("tmp")) == 0);
    tmpdir_is_refused("belongs to another user");
}

TEST(tmpdir_open_to_others)
{
    must(chmod(at("tmp"), 0777) == 0);
    tmpdir_is_refused("chmod +t");
}

TEST(tmpdir_by_another_name)
{
    must(rename(at("tmp"), at("real")) == 0 && symlink(at("real"), at("tmp")) == 0);
    struct server *s = things("%s", "");
    int c = get(s, "/tree?path=%s&seconds=60", at("tree"));
    wait_made(s, at("tree"));
    must(!is_empty(at("real")));
    close_fin(c);
    wait_until(is_empty(at("real")));
    server_stop(s);
}

/* ---- The path of a socket ------------------------------------------------------------------ */

THEME("sockets");

static void socket_path_is_refused(const char *why)
{
    struct stat before, after;
    must(lstat(at("socket"), &before) == 0);
    struct output o =
        run("timeout 20 %s --listen unix:socket --state %s", the_hangupd(), at("state"));
    must_say(o.status == 1 && strstr(o.text, "unix:socket") && strstr(o.text, why), "%d: %s",
             o.status, o.text);
    must(lstat(at("socket"), &after) == 0 && before.st_ino == after.st_ino &&
         before.st_mode == after.st_mode && before.st_size == after.st_size);
}

static int bind_here(const char *name)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    snprintf(address.sun_path, sizeof(address.sun_path), "%s", name);
    must(fd >= 0 && bind(fd, (struct sockaddr *)&address, sizeof(address)) == 0 &&
         listen(fd, 5) == 0);
    return fd;
}

TEST_TIMES(socket_path_that_is_no_socket, 6)
{
    file_write(at("victim"), "ours");
    switch (_i) {
    case 0:
        file_write(at("socket"), "ours");
        break;
    case 1:
        must(mkdir(at("socket"), 0700) == 0);
        break;
    case 2:
        must(symlink("victim", at("socket")) == 0);
        break;
    case 3:
        must(symlink("nowhere", at("socket")) == 0);
        break;
    case 4:
        must(mkfifo(at("socket"), 0600) == 0);
        break;
    default: /* a link to a socket that nobody serves: not removed, nor what it names */
        close(bind_here("stale"));
        must(symlink("stale", at("socket")) == 0);
        break;
    }
    socket_path_is_refused("not a socket");
    must(strcmp(file_read(at("victim")), "ours") == 0 && !exists(at("nowhere")));
    must(_i < 5 || exists(at("stale")));
}

TEST(socket_path_that_is_served)
{
    int fd = bind_here("socket");
    socket_path_is_refused("in use");
    close(dial_unix("socket"));
    close(fd);
}

TEST(socket_path_of_another_user)
{
    if (only_for_root("socket_path_of_another_user"))
        return;
    close(bind_here("socket"));
    give(at("socket"));
    socket_path_is_refused("another user's");
}

TEST(socket_path_that_was_ours)
{
    close(bind_here("socket"));
    struct server *s = things("--listen unix:socket");
    int c = dial_unix("socket");
    say(c, "GET /who HTTP/1.1\r\nHost: test\r\n\r\n");
    must(hear_answer(c, false).status == 200);
    close(c);
    server_stop(s);
}
