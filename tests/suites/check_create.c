/* check_create.c: cleanup_create, cleanup_mkdir and cleanup_tempdir, in every way that file systems
 * offer. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "harness_ledgers.h"

SUITE(LEDGERS);

/* ---- cleanup_create ---------------------------------------------------------------------- */

THEME("create");

TEST_TIMES(create_new, CREATE_WAYS)
{
    if (!use_way(_i))
        return;
    begin();
    int fd = cleanup_create(at("work/f"), 0, 0644);
    ck_assert_msg(fd >= 0, "%s", strerror(errno));
    ck_assert_int_eq(fcntl(fd, F_GETFD), FD_CLOEXEC);
    ck_assert_int_eq(write(fd, "hello", 5), 5);
    ck_assert_str_eq(text_of(at("work/f")), "hello");
    ck_assert_str_eq(text_of_fd(fd), "hello");
    ck_assert_str_eq(listing("work"), "f ");
    ck_assert_done(cleanup_undo());
    ck_assert_str_eq(listing("work"), "");
    ck_assert_str_eq(listing("ledgers"), "");
    ck_assert_str_eq(reports, "");
}

TEST_TIMES(create_is_kept, CREATE_WAYS)
{
    if (!use_way(_i))
        return;
    begin();
    close(cleanup_create(at("work/f"), 0, 0644));
    ck_assert_int_eq(cleanup_mkdir(at("work/d"), 0755), 0);
    ck_assert_int_eq(cleanup_keep(), CLEANUP_DONE);
    ck_assert_str_eq(listing("work"), "d f ");
    ck_assert_str_eq(listing("ledgers"), "");
    ck_assert_done(cleanup_undo());
    ck_assert_str_eq(listing("work"), "d f ");
}

/* A name that is taken is refused, and undo does not touch what has it. */
TEST_TIMES(create_taken, CREATE_WAYS)
{
    if (!use_way(_i))
        return;
    file_write(at("work/f"), "theirs");
    ck_assert_int_eq(mkdir(at("work/d"), 0755), 0);
    ck_assert_int_eq(symlink("nowhere", at("work/l")), 0);
    begin();
    ck_assert_int_eq(cleanup_create(at("work/f"), 0, 0644), -1);
    ck_assert_int_eq(errno, EEXIST);
    ck_assert_int_eq(cleanup_create(at("work/d"), 0, 0644), -1);
    ck_assert_int_eq(errno, EEXIST);
    ck_assert_int_eq(cleanup_create(at("work/l"), 0, 0644), -1);
    ck_assert_int_eq(errno, EEXIST);
    ck_assert_str_eq(listing("work"), "d f l ");
    ck_assert_done(cleanup_undo());
    ck_assert_str_eq(listing("work"), "d f l ");
    ck_assert_str_eq(text_of(at("work/f")), "theirs");
    ck_assert_str_eq(listing("ledgers"), "");
}

TEST_TIMES(create_overwrite, CREATE_WAYS)
{
    struct stat st;

    if (!use_way(_i))
        return;
    file_write(at("work/f"), "old and longer");
    ck_assert_int_eq(chmod(at("work/f"), 0600), 0);
    begin();
    int fd = cleanup_create(at("work/f"), CLEANUP_OVERWRITE, 0640);
    ck_assert_msg(fd >= 0, "%s", strerror(errno));
    ck_assert_int_eq(write(fd, "new", 3), 3);
    close(fd);
    ck_assert_str_eq(text_of(at("work/f")), "new");
    ck_assert_int_eq(stat(at("work/f"), &st), 0);
    ck_assert_uint_eq(st.st_mode & 07777, 0640);
    fd = cleanup_create(at("work/g"), CLEANUP_OVERWRITE, 0644); /* nothing there to overwrite */
    ck_assert_int_ge(fd, 0);
    close(fd);
    ck_assert_str_eq(listing("work"), "f g ");
    ck_assert_done(cleanup_undo());
    ck_assert_str_eq(listing("work"), "");
}

/* Twice the same name: both are ours, and nothing is left of either. */
TEST_TIMES(create_overwrite_own, CREATE_WAYS)
{
    if (!use_way(_i))
        return;
    begin();
    close(cleanup_create(at("work/f"), 0, 0644));
    close(cleanup_create(at("work/f"), CLEANUP_OVERWRITE, 0644));
    ck_assert_str_eq(listing("work"), "f ");
    ck_assert_done(cleanup_undo());
    ck_assert_str_eq(listing("work"), "");
    ck_assert_str_eq(reports, "");
}

TEST_TIMES(create_overwrite_directory, CREATE_WAYS)
{
    if (!use_way(_i))
        return;
    ck_assert_int_eq(mkdir(at("work/d"), 0755), 0);
    file_write(at("work/d/x"), "theirs");
    ck_assert_int_eq(mkdir(at("work/empty"), 0755), 0);
    begin();
    ck_assert_int_eq(cleanup_create(at("work/d"), CLEANUP_OVERWRITE, 0644), -1);
    ck_assert_int_eq(errno, EISDIR);
    ck_assert_int_eq(cleanup_create(at("work/empty"), CLEANUP_OVERWRITE, 0644), -1);
    ck_assert_int_eq(errno, EISDIR);
    ck_assert_str_eq(listing("work"), "d empty ");
    ck_assert_done(cleanup_undo());
    ck_assert_str_eq(listing("work"), "d empty ");
    ck_assert_str_eq(text_of(at("work/d/x")), "theirs");
    ck_assert_str_eq(reports, "");
}

/* A symbolic link at the name is what is replaced, not what it points to. */
TEST_TIMES(create_overwrite_symlink, CREATE_WAYS)
{
    if (!use_way(_i))
        return;
    file_write(at("target"), "theirs");
    ck_assert_int_eq(symlink(at("target"), at("work/l")), 0);
    begin();
    int fd = cleanup_create(at("work/l"), CLEANUP_OVERWRITE, 0644);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(write(fd, "ours", 4), 4);
    close(fd);
    ck_assert_str_eq(text_of(at("target")), "theirs");
    ck_assert_str_eq(text_of(at("work/l")), "ours");
    ck_assert_done(cleanup_undo());
    ck_assert_str_eq(listing("work"), "");
    ck_assert_str_eq(text_of(at("target")), "theirs");
}

/* A symbolic link on the way is followed, as by open(2). */
TEST_TIMES(create_below_symlink, CREATE_WAYS)
{
    if (!use_way(_i))
        return;
    ck_assert_int_eq(mkdir(at("real"), 0755), 0);
    ck_assert_int_eq(symlink(at("real"), at("work/l")), 0);
    begin();
    close(cleanup_create(at("work/l/f"), 0, 0644));
    ck_assert_str_eq(listing("real"), "f ");
    ck_assert_done(cleanup_undo());
    ck_assert_str_eq(listing("real"), "");
    ck_assert_str_eq(listing("work"), "l ");
}

TEST_TIMES(create_mode, CREATE_WAYS)
{
    static const mode_t cases[][3] = {
        {0666, 022, 0644}, {0666, 027, 0640}, {0600, 0, 0600}, {0777, 077, 0700}, {0444, 0, 0444}};
    struct stat st;

    if (!use_way(_i))
        return;
    begin();
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char name[32];
        snprintf(name, sizeof name, "work/f%zu", i);
        umask(cases[i][1]);
        int fd = cleanup_create(at("%s", name), 0, cases[i][0]);
        ck_assert_int_ge(fd, 0);
        ck_assert_int_eq(write(fd, "x", 1), 1); /* whatever the mode says */
        close(fd);
        ck_assert_int_eq(stat(at("%s", name), &st), 0);
        ck_assert_uint_eq(st.st_mode & 07777, cases[i][2]);
    }
    ck_assert_done(cleanup_undo());
    ck_assert_str_eq(listing("work"), "");
}

TEST_TIMES(create_impossible, CREATE_WAYS)
{
    char name[NAME_MAX + 16] = "work/";

    if (!use_way(_i))
        return;
    memset(name + 5, 'n', NAME_MAX + 1);
    file_write(at("work/file"), "");
    begin();
    ck_assert_int_eq(cleanup_create(at("work/no/f"), 0, 0644), -1);
    ck_assert_int_eq(errno, ENOENT);
    ck_assert_int_eq(cleanup_create(at("work/file/f"), 0, 0644), -1);
    ck_assert_int_eq(errno, ENOTDIR);
    ck_assert_int_eq(cleanup_create(at("%s", name), 0, 0644), -1);
    ck_assert_int_eq(errno, ENAMETOOLONG);
    ck_assert_int_eq(cleanup_create(at("%s", name), CLEANUP_OVERWRITE, 0644), -1);
    ck_assert_int_eq(errno, ENAMETOOLONG);
    ck_assert_int_eq(cleanup_mkdir(at("%s", name), 0755), -1);
    ck_assert_int_eq(errno, ENAMETOOLONG);
    ck_assert_int_eq(cleanup_create(at("work/no/"), 0, 0644), -1);
    ck_assert_int_eq(cleanup_create("/", 0, 0644), -1);
    ck_assert_int_eq(cleanup_create(at("work/.."), 0, 0644), -1);
    ck_assert_str_eq(listing("work"), "file ");
    ck_assert_done(cleanup_undo());
    ck_assert_str_eq(listing("work"), "file ");
    ck_assert_str_eq(listing("ledgers"), "");
    ck_assert_str_eq(reports, "");
}

/* The longest name a directory takes is taken, private names or not. */
TEST_TIMES(create_longest_name, CREATE_WAYS)
{
    char name[NAME_MAX + 16] = "work/";

    if (!use_way(_i))
        return;
    memset(name + 5, 'n', NAME_MAX);
    begin();
    int fd = cleanup_create(at("%s", name), 0, 0644);
    ck_assert_msg(fd >= 0, "%s", strerror(errno));
    close(fd);
    fd = cleanup_create(at("%s", name), CLEANUP_OVERWRITE, 0644);
    ck_assert_msg(fd >= 0, "%s", strerror(errno));
    close(fd);
    ck_assert_str_ne(listing("work"), "");
    ck_assert_done(cleanup_undo());
    ck_assert_str_eq(listing("work"), "");
}

/* The ledger holds absolute paths: the current directory may change. */
TEST_TIMES(create_relative, CREATE_WAYS)
{
    if (!use_way(_i))
        return;
    begin();
    ck_assert_int_eq(chdir(at("work")), 0);
    close(cleanup_create("f", 0, 0644));
    ck_assert_int_eq(cleanup_mkdir("d", 0755), 0);
    close(cleanup_create("d/../g", 0, 0644));
    file_write("u", "");
    ck_assert_int_eq(cleanup_unlink("u"), 0);
    ck_assert_str_eq(listing("work"), "d f g u ");
    ck_assert_int_eq(chdir("/"), 0);
    ck_assert_done(cleanup_undo());
    ck_assert_str_eq(listing("work"), "");
}

static void create_without_permission(void)
{
    as_nobody();
    begin();
    ck_assert_int_eq(cleanup_create(at("work/locked/f"), 0, 0644), -1);
    ck_assert_int_eq(errno, EACCES);
    ck_assert_int_eq(cleanup_mkdir(at("work/locked/f"), 0755), -1);
    ck_assert_int_eq(errno, EACCES);
    ck_assert_done(cleanup_undo());
}

TEST_TIMES(create_in_locked_directory, CREATE_WAYS)
{
    if (!use_way(_i))
        return;
    ck_assert_int_eq(mkdir(at("work/locked"), 0500), 0);
    give_to_nobody("");
    give_to_nobody("ledgers");
    in_child(create_without_permission);
    ck_assert_str_eq(listing("work/locked"), "");
    ck_assert_str_eq(listing("ledgers"), "");
}

/* ---- cleanup_mkdir, cleanup_tempdir and the plain records -------------------------------- */

TEST_TIMES(mkdir_new, CREATE_WAYS)
{
    struct stat st;

    if (!use_way(_i))
        return;
    begin();
    umask(027);
    ck_assert_msg(cleanup_mkdir(at("work/d"), 0777) == 0, "%s", strerror(errno));
    ck_assert_int_eq(lstat(at("work/d"), &st), 0);
    ck_assert_uint_eq(st.st_mode, S_IFDIR | 0750);
    ck_assert_str_eq(listing("work"), "d ");
    file_write(at("work/d/x"), "");
    ck_assert_int_eq(mkdir(at("work/d/sub"), 0755), 0);
    file_write(at("work/d/sub/y"), "");
    ck_assert_done(cleanup_undo());
    ck_assert_str_eq(listing("work"), "");
}

TEST_TIMES(mkdir_taken, CREATE_WAYS)
{
    if (!use_way(_i))
        return;
    ck_assert_int_eq(mkdir(at("work/d"), 0755), 0);
    file_write(at("work/f"), "theirs");
    ck_assert_int_eq(symlink("nowhere", at("work/l")), 0);
    begin();
    /* An empty directory would be replaced by a plain rename. */
    ck_assert_int_eq(cleanup_mkdir(at("work/d"), 0755), -1);
    ck_assert_int_eq(errno, EEXIST);
    file_write(at("work/d/x"), "theirs");
    ck_assert_int_eq(cleanup_mkdir(at("work/d"), 0755), -1);
    ck_assert_int_eq(errno, EEXIST);
    ck_assert_int_eq(cleanup_mkdir(at("work/f"), 0755), -1);
    ck_assert_int_eq(errno, EEXIST);
    ck_assert_int_eq(cleanup_mkdir(at("work/l"), 0755), -1);
    ck_assert_int_eq(errno, EEXIST);
    ck_assert_int_eq(cleanup_mkdir(at("work/no/d"), 0755), -1);
    ck_assert_int_eq(errno, ENOENT);
    ck_assert_str_eq(listing("work"), "d f l ");
    ck_assert_done(cleanup_undo());
    ck_assert_str_eq(listing("work"), "d f l ");
    ck_assert_str_eq(text_of(at("work/d/x")), "theirs");
    ck_assert_str_eq(listing("ledgers"), "");
}

/* Ours was moved away and another directory has its name: neither is undone. */
TEST_TIMES(mkdir_identity, CREATE_WAYS)
{
    if (!use_way(_i))
        return;
    begin();
    ck_assert_int_eq(cleanup_mkdir(at("work/d"), 0755), 0);
    ck_assert_int_eq(rename(at("work/d"), at("work/moved")), 0);
    ck_assert_int_eq(mkdir(at("work/d"), 0755), 0);
    file_write(at("work/d/x"), "theirs");
    ck_assert_done(cleanup_undo());
    ck_assert_str_eq(listing("work"), "d moved ");
    ck_assert_str_eq(listing("work/d"), "x ");
}

static void undo_beside_a_locked_stranger(void)
{
    struct stat st;

    as_nobody();
    begin();
    ck_assert_int_eq(cleanup_mkdir(at("work/d"), 0755), 0);
    ck_assert_int_eq(rename(at("work/d"), at("work/moved")), 0);
    ck_assert_int_eq(mkdir(at("work/d"), 0), 0);
    (void)cleanup_undo();
    ck_assert_int_eq(lstat(at("work/d"), &st), 0);
    ck_assert_uint_eq(st.st_mode, S_IFDIR);
}

/* Not even its mode is touched before it is known to be ours. */
TEST(mkdir_identity_before_mode)
{
    give_to_nobody("");
    give_to_nobody("work");
    give_to_nobody("ledgers");
    in_child(undo_beside_a_locked_stranger);
}

TEST_TIMES(tempdir_is_private, 2)
{
    struct stat st;
    char path[PATH_MAX], expected[PATH_MAX * 2];

    begin();
    umask(0);
    const char *dir = cleanup_tempdir();
    ck_assert_msg(dir != NULL, "%s", strerror(errno));
    snprintf(path, sizeof path, "%s", dir);
    ck_assert_int_eq(strncmp(path, at("tmp/"), strlen(at("tmp/"))), 0);
    ck_assert_int_eq(lstat(path, &st), 0);
    ck_assert_uint_eq(st.st_mode, S_IFDIR | 0700);
    ck_assert_str_eq(cleanup_tempdir(), path);
    ck_assert_str_eq(strchr(listing("tmp"), ' '), " "); /* there is one */
    snprintf(expected, sizeof expected, "\nscratch %s\n", path);
    ck_assert_ptr_nonnull(strstr(ledger_of(ID), expected));
    file_write(strcat(path, "/x"), "");
    if (_i) {
        ck_assert_int_eq(cleanup_keep(), CLEANUP_DONE);
    } else {
        ck_assert_done(cleanup_undo());
    }
    ck_assert_str_eq(listing("tmp"), "");
    ck_assert_str_eq(listing("ledgers"), "");
}

static void die_with_tempdir(void)
{
    begin();
    ck_assert_ptr_nonnull(cleanup_tempdir());
}

/* Whoever took the scratch directory's name beforehand does not lose what is in it. */
TEST_TIMES(tempdir_taken, 2)
{
    char name[PATH_MAX];

    in_child(die_with_tempdir);
    snprintf(name, sizeof name, "tmp/%s", listing("tmp"));
    name[strlen(name) - 1] = '\0';
    ck_assert_done(settle());
    ck_assert_str_eq(listing("tmp"), "");
    ck_assert_int_eq(mkdir(at("%s", name), 0755), 0);
    ck_assert_int_eq(mkdir(at("%s", strcat(name, "/theirs")), 0755), 0);
    begin();
    const char *dir = cleanup_tempdir();
    if (dir)
        ck_assert_str_ne(dir, at("%s", name));
    if (_i) {
        ck_assert_int_eq(cleanup_keep(), CLEANUP_DONE);
    } else {
        ck_assert_done(cleanup_undo());
    }
    ck_assert(exists(at("%s", name)));
}

TEST(tempdir_impossible)
{
    begin();
    ck_assert_int_eq(rmdir(at("tmp")), 0);
    ck_assert_ptr_null(cleanup_tempdir());
    ck_assert_int_eq(errno, ENOENT);
    ck_assert_done(cleanup_undo());
    ck_assert_str_eq(listing("ledgers"), "");
}

THEME("undo");

/* unlink and rmtree go by name, whatever then has it; what is not there is success. */
TEST(plain_records_undone)
{
    begin();
    ck_assert_int_eq(cleanup_unlink(at("work/f")), 0);
    ck_assert_int_eq(cleanup_unlink(at("work/absent")), 0);
    ck_assert_int_eq(cleanup_unlink(at("work/no/way")), 0);
    ck_assert_int_eq(cleanup_rmtree(at("work/d")), 0);
    ck_assert_int_eq(cleanup_rmtree(at("work/plain")), 0);
    ck_assert_int_eq(cleanup_rmtree(at("work/l")), 0);
    ck_assert_int_eq(cleanup_rmtree(at("work/absent")), 0);
    file_write(at("work/f"), "");
    file_write(at("work/plain"), "");
    file_write(at("work/other"), "");
    ck_assert_int_eq(mkdir(at("work/d"), 0755), 0);
    file_write(at("work/d/x"), "");
    ck_assert_int_eq(mkdir(at("outside"), 0755), 0);
    file_write(at("outside/x"), "");
    ck_assert_int_eq(symlink(at("outside"), at("work/l")), 0);
    ck_assert_done(cleanup_undo());
    ck_assert_str_eq(listing("work"), "other ");
    ck_assert_str_eq(listing("outside"), "x ");
    ck_assert_str_eq(reports, "");
}

/* open(2) made the name without the slash. */
TEST(unlink_of_a_name_with_a_slash)
{
    begin();
    ck_assert_int_eq(cleanup_unlink(at("work/f/")), 0);
    file_write(at("work/f"), "");
    ck_assert_done(cleanup_undo());
    ck_assert_str_eq(listing("work"), "");
    ck_assert_str_eq(reports, "");
}

TEST(commit_keeps_what_is_above)
{
    begin();
    close(cleanup_create(at("work/kept"), 0, 0644));
    const char *scratch = cleanup_tempdir();
    ck_assert_ptr_nonnull(scratch);
    ck_assert_int_eq(cleanup_run("kept"), 0);
    ck_assert_int_eq(cleanup_commit(), 0);
    close(cleanup_create(at("work/undone"), 0, 0644));
    ck_assert_int_eq(cleanup_run("undone"), 0);
    ck_assert_done(settle());
    ck_assert_str_eq(listing("work"), "kept ");
    ck_assert_str_eq(listing("tmp"), "");
    ck_assert_str_eq(runs, "undone\n");
    ck_assert_str_eq(listing("ledgers"), "");
}

/* A commit in the program's own ledger covers what the program has recorded. */
TEST(commit_in_both)
{
    leave(ID, "unlink %s\ncommit\nunlink %s\n", at("work/a"), at("work/b"));
    leave(with("%s.p", ID), "unlink %s\ncommit\nunlink %s\n", at("work/c"), at("work/d"));
    file_write(at("work/a"), "");
    file_write(at("work/b"), "");
    file_write(at("work/c"), "");
    file_write(at("work/d"), "");
    ck_assert_done(settle());
    ck_assert_str_eq(listing("work"), "a c ");
    ck_assert_str_eq(listing("ledgers"), "");
}

/* ---- The storm --------------------------------------------------------------------------- */

THEME("storm");

static int storm_round; /* in every other two, one name is overwritten again and again */

static void create_until_killed(void)
{
    char name[64];

    arm();
    begin();
    say_ready();
    for (unsigned i = 0;; i++) {
        snprintf(name, sizeof name, "work/f%u", storm_round % 4 > 1 ? i % 50 : 0);
        int fd = cleanup_create(at("%s", name),
                                storm_round % 4 > 1 && i % 3 ? 0 : CLEANUP_OVERWRITE, 0644);
        if (fd >= 0)
            close(fd);
        if (storm_round % 4 > 1 && i % 4 == 0) {
            snprintf(name, sizeof name, "work/d%u", i);
            (void)cleanup_mkdir(at("%s", name), 0755);
            (void)mkdir(strcat(name, "/sub"), 0755);
        }
        if (i == 8)
            (void)cleanup_tempdir();
        if (i == 16)
            (void)cleanup_sent(1);
        if (i == 18)
            (void)cleanup_unsent();
    }
}

/* Death at any instruction leaves nothing: 240 deaths, half of them with an undo of their own,
 * shared between the ways to create. */
TEST_TIMES(kill_storm, CREATE_WAYS)
{
    unsigned delay;

    if (!use_way(_i))
        return;
    for (int round = 0; round < 80; round++) {
        storm_round = round;
        pid_t pid = start_ready(create_until_killed);
        ck_assert_int_eq(getrandom(&delay, sizeof delay, 0), sizeof delay);
        usleep(delay % 4000);
        ck_assert_int_eq(kill(pid, round % 2 ? SIGKILL : SIGTERM), 0);
        int status = status_of(pid);
        ck_assert(round % 2 ? WIFSIGNALED(status) : WEXITSTATUS(status) == 9);
        if (round % 2 == 0)
            ck_assert_str_eq(listing("work"), ""); /* by its own hand */
        ck_assert_int_eq(settle_with(round % 8 < 4, NULL), CLEANUP_DONE);
        ck_assert_str_eq(listing("work"), "");
        ck_assert_str_eq(listing("tmp"), "");
        if (_i != BY_TMPFILE) /* a ledger that never was: recovery's to sweep away */
            (void)unlinkat(ledgers, with(".%s", ID), 0);
        ck_assert_str_eq(listing("ledgers"), "");
        ck_assert_str_eq(reports, "");
    }
}

/* Death while undoing: whoever goes on finishes it. */
static void undo_for_ever(void)
{
    (void)settle_with(false, NULL);
}

TEST(kill_storm_in_undo)
{
    unsigned delay;

    for (int round = 0; round < 30; round++) {
        begin();
        for (int i = 0; i < 40; i++) {
            char name[64];
            snprintf(name, sizeof name, "work/f%d", i);
            close(cleanup_create(at("%s", name), 0, 0644));
            snprintf(name, sizeof name, "work/d%d", i);
            ck_assert_int_eq(cleanup_mkdir(at("%s", name), 0755), 0);
        }
        pid_t pid = start(undo_for_ever);
        ck_assert_int_eq(getrandom(&delay, sizeof delay, 0), sizeof delay);
        usleep(delay % 2000);
        ck_assert_int_eq(kill(pid, SIGKILL), 0);
        (void)status_of(pid);
        ck_assert_int_eq(settle_with(true, NULL), CLEANUP_DONE);
        ck_assert_str_eq(listing("work"), "");
        ck_assert_str_eq(listing("ledgers"), "");
    }
    ck_assert_str_eq(reports, "");
}
