/* check_settle.c: what undoing a ledger does: in which order, to what, and what if it cannot. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness_ledgers.h"

SUITE(LEDGERS);

/* ---- Undo -------------------------------------------------------------------------------- */

THEME("undo");

TEST(undo_newest_first)
{
    begin();
    ck_assert_int_eq(cleanup_run("1"), 0);
    ck_assert_int_eq(cleanup_run("2"), 0);
    ck_assert_int_eq(cleanup_run("3"), 0);
    ck_assert_done(settle());
    ck_assert_str_eq(runs, "3\n2\n1\n");
}

/* The order among records of different kinds, as each command sees it. */
static void look(const char *command)
{
    char expected[64];

    snprintf(expected, sizeof expected, "%s", command);
    ck_assert_str_eq(listing("work"), expected);
}

TEST(undo_order_across_verbs)
{
    begin();
    ck_assert_int_eq(cleanup_run("x "), 0);
    close(cleanup_create(at("work/a"), 0, 0644));
    ck_assert_int_eq(cleanup_run("a x "), 0);
    ck_assert_int_eq(cleanup_mkdir(at("work/b"), 0755), 0);
    ck_assert_int_eq(cleanup_run("a b x "), 0);
    ck_assert_int_eq(cleanup_unlink(at("work/c")), 0);
    file_write(at("work/c"), "");
    file_write(at("work/x"), "");
    on_run = look;
    ck_assert_done(settle());
    ck_assert_str_eq(runs, "a b x \na x \nx \n");
}

TEST(undo_failures_newest_first)
{
    begin();
    ck_assert_int_eq(cleanup_unlink(at("work/one")), 0);
    ck_assert_int_eq(cleanup_unlink(at("work/two")), 0);
    ck_assert_int_eq(mkdir(at("work/one"), 0755), 0);
    ck_assert_int_eq(mkdir(at("work/two"), 0755), 0);
    ck_assert_int_eq(cleanup_undo(), CLEANUP_FAILED);
    const char *one = strstr(reports, "work/one"), *two = strstr(reports, "work/two");
    ck_assert_ptr_nonnull(one);
    ck_assert_ptr_nonnull(two);
    ck_assert(two < one);
}

TEST(undo_twice)
{
    begin();
    close(cleanup_create(at("work/a"), 0, 0644));
    ck_assert_done(cleanup_undo());
    file_write(at("work/a"), "theirs, later");
    ck_assert_done(cleanup_undo());
    ck_assert_done(settle());
    ck_assert_str_eq(listing("work"), "a ");
    ck_assert(!cleanup_pending());
}

/* What a failure leaves: the records that are done as comments, the failed one as it was, to
 * be tried again. */
TEST(undo_goes_on_after_failure)
{
    begin();
    close(cleanup_create(at("work/a"), 0, 0644));
    ck_assert_int_eq(cleanup_unlink(at("work/stuck")), 0);
    close(cleanup_create(at("work/b"), 0, 0644));
    ck_assert_int_eq(mkdir(at("work/stuck"), 0755), 0);
    ck_assert_int_eq(cleanup_undo(), CLEANUP_FAILED);
    ck_assert_str_eq(listing("work"), "stuck ");
    ck_assert(cleanup_pending());
    const char *text = ledger_of(ID);
    ck_assert_line(text, "^#nlink-if .*/work/a$");
    ck_assert_line(text, "^#nlink-if .*/work/b$");
    ck_assert_line(text, "^unlink /.*/work/stuck$");
    ck_assert_line(reports, with("^%s: .*work/stuck", ID));
    ck_assert_int_eq(rmdir(at("work/stuck")), 0);
    ck_assert_done(settle());
    ck_assert_str_eq(listing("ledgers"), "");
}

TEST(undo_on_read_only_file_system)
{
    const char *dir = at("work/ro");

    if (!may_mount())
        return;
    ck_assert_int_eq(mkdir(dir, 0755), 0);
    begin();
    close(cleanup_create(at("work/a"), 0, 0644));
    close(cleanup_create(at("work/ro/f"), 0, 0644));
    ck_assert_int_eq(cleanup_mkdir(at("work/ro/d"), 0755), 0);
    file_write(at("work/ro/d/x"), "");
    close(cleanup_create(at("work/b"), 0, 0644));
    ck_assert_int_eq(mount(dir, dir, "none", MS_BIND, NULL), 0);
    ck_assert_int_eq(mount("none", dir, "none", MS_REMOUNT | MS_BIND | MS_RDONLY, NULL), 0);
    ck_assert_int_eq(cleanup_undo(), CLEANUP_FAILED);
    ck_assert_str_eq(listing("work"), "ro ");
    ck_assert_line(reports, "work/ro/f");
    ck_assert_line(reports, "work/ro/d");
    ck_assert_int_eq(umount(dir), 0);
    ck_assert_done(cleanup_undo());
    ck_assert_str_eq(listing("work/ro"), "");
    ck_assert_str_eq(listing("ledgers"), "");
}

/* A handler's undo stops before the first run; what is newer has been undone. */
TEST(undo_stops_at_run)
{
    begin();
    close(cleanup_create(at("work/older"), 0, 0644));
    ck_assert_int_eq(cleanup_run("echo"), 0);
    close(cleanup_create(at("work/newer"), 0, 0644));
    ck_assert_int_eq(cleanup_undo(), CLEANUP_RUN_LEFT);
    ck_assert_str_eq(listing("work"), "older ");
    ck_assert_line(ledger_of(ID), "^run echo$");
    ck_assert_int_eq(settle_with(false, NULL), CLEANUP_RUN_LEFT);
    ck_assert_str_eq(listing("work"), "older ");
    ck_assert_done(settle());
    ck_assert_str_eq(listing("work"), "");
    ck_assert_str_eq(runs, "echo\n");
}

TEST(run_that_fails)
{
    begin();
    close(cleanup_create(at("work/a"), 0, 0644));
    ck_assert_int_eq(cleanup_run("first"), 0);
    ck_assert_int_eq(cleanup_run("fail"), 0);
    ck_assert_int_eq(cleanup_run("last"), 0);
    ck_assert_int_eq(settle(), CLEANUP_FAILED);
    ck_assert_str_eq(runs, "last\nfail\nfirst\n");
    ck_assert_str_eq(listing("work"), "");
    const char *text = ledger_of(ID);
    ck_assert_line(text, "^#un first$");
    ck_assert_line(text, "^run fail$");
    ck_assert_line(text, "^#un last$");
    runs[0] = '\0';
    ck_assert_int_eq(settle(), CLEANUP_FAILED);
    ck_assert_str_eq(runs, "fail\n"); /* what is done is not done again */
}

/* What a command records while it runs is undone as well: the reader reads on. */
static void record_more(const char *command)
{
    int fd;

    if (strcmp(command, "more") != 0)
        return;
    fd = openat(ledgers, ID, O_WRONLY | O_APPEND | O_CLOEXEC);
    ck_assert_int_eq(cleanup_append(fd, "run", "added", false), 0);
    close(fd);
}

TEST(undo_reads_on)
{
    leave(ID, "run first\nrun more\n");
    on_run = record_more;
    ck_assert_done(settle());
    ck_assert_line(runs, "^added$");
    ck_assert_line(runs, "^first$");
    ck_assert_str_eq(listing("ledgers"), "");
}

TEST(unknown_verb)
{
    file_write(at("work/a"), "");
    file_write(at("work/b"), "");
    file_write(at("work/c"), "");
    leave(ID,
          "unlink %s\nunlinks %s\nUNLINK %s\nunlink\t%s\nunlink-if %s\nrmtree-if x %s\nunlink %s\n",
          at("work/a"), at("work/c"), at("work/c"), at("work/c"), at("work/c"), at("work/c"),
          at("work/b"));
    ck_assert_int_eq(settle(), CLEANUP_REFUSED);
    ck_assert_str_eq(listing("work"), "c ");
    ck_assert_line(reports, "unlinks");
    ck_assert_line(reports, "UNLINK");
    const char *text = ledger_of(ID);
    ck_assert_line(text, "^#nlink .*/a$");
    ck_assert_line(text, "^#nlink .*/b$");
    ck_assert_line(text, "^unlinks .*/c$");
    ck_assert_line(text, "^UNLINK .*/c$");
}

TEST(relative_path_is_not_guessed)
{
    ck_assert_int_eq(chdir(at("work")), 0);
    file_write("a", "");
    leave(ID, "unlink a\nrmtree a\nscratch a\n");
    ck_assert_int_eq(settle(), CLEANUP_REFUSED);
    ck_assert_str_eq(listing("work"), "a ");
    ck_assert_str_ne(reports, "");
}

TEST(last_line_without_newline)
{
    file_write(at("work/a"), "");
    file_write(at("work/b"), "");
    leave(ID, "unlink %s\nunlink %s", at("work/a"), at("work/b"));
    ck_assert_done(settle());
    ck_assert_str_eq(listing("work"), "b ");
    ck_assert_str_eq(listing("ledgers"), "");
}

TEST(comments_and_empty_lines)
{
    file_write(at("work/a"), "");
    leave(ID, "#nlink %s\n\n# a remark\n", at("work/a"));
    ck_assert_done(settle());
    ck_assert_str_eq(listing("work"), "a ");
    ck_assert_str_eq(reports, "");
}

/* A request that has left these made something that was to be undone, or not. */
static const struct {
    const char *records;
    bool made;
} lefts[] = {
    {"", false},
    {"# a remark\n#\n", false},
    {"scratch /nonexistent/a\n", false},
    {"unlink /nonexistent/a\n", true},
    {"unlink /nonexistent/a\ncommit\n", false},
    {"scratch /nonexistent/a\ncommit\nunlink /nonexistent/b\n", true},
    {"#nlink /nonexistent/a\n", true}, /* undone by whoever died then */
};

TEST_EACH(look_tells_whether_something_was_made, lefts)
{
    struct cleanup_look l;
    leave(ID, "%s", lefts[_i].records);
    ck_assert(cleanup_look_ledger(ledgers, ID, &l));
    ck_assert_int_eq(l.made, lefts[_i].made);
}

/* What cannot be read has not been undone, and is not dropped. */
static void settle_what_cannot_be_read(void)
{
    if (deny(SYS_pread64, 2, ~0U, EIO))
        ck_assert_int_eq(settle(), CLEANUP_FAILED);
}

TEST(read_error)
{
    file_write(at("work/a"), "");
    leave(ID, "unlink %s\n", at("work/a"));
    in_child(settle_what_cannot_be_read);
    ck_assert(cleanup_exists(ledgers, ID));
    ck_assert_done(settle());
    ck_assert_str_eq(listing("work"), "");
}

/* A line that no maker of ours can have written is reported, and stops nothing. */
TEST(overlong_line)
{
    static char noise[3 * CLEANUP_RECORD_MAX] = "run ";

    memset(noise + 4, 'x', sizeof noise - 5);
    file_write(at("work/a"), "");
    file_write(at("work/b"), "");
    leave(with("%s.p", ID), "unlink %s\n%s\nunlink %s\n", at("work/a"), noise, at("work/b"));
    leave(ID, "scratch %s\n", at("tmp/none"));
    ck_assert_int_eq(settle(), CLEANUP_REFUSED);
    ck_assert_str_eq(listing("work"), "");
    ck_assert_str_eq(runs, "");
    ck_assert_str_ne(reports, "");
}

/* What was read of such a line is not what was recorded, whatever it says. */
TEST(overlong_scratch)
{
    static char noise[2 * CLEANUP_RECORD_MAX] = "";

    memset(noise, 'x', sizeof noise - 1);
    leave(ID, "scratch /%s\n", noise);
    ck_assert_int_eq(settle(), CLEANUP_REFUSED);
    ck_assert_str_ne(reports, "");
    leave(ID, "scratch /%s\n", noise);
    ck_assert_int_eq(
        cleanup_settle_kept(&(struct cleanup_settling){.dir = ledgers, .id = ID, .run = note_run}),
        CLEANUP_DONE);
}

TEST(line_with_nul)
{
    int fd;

    file_write(at("work/a"), "");
    file_write(at("work/b"), "");
    leave(ID, "unlink %s\n", at("work/b"));
    leave(with("%s.p", ID), "%s", "");
    fd = openat(ledgers, with("%s.p", ID), O_WRONLY | O_APPEND | O_CLOEXEC);
    ck_assert_int_gt(dprintf(fd, "rmtree %s", at("work/a")), 0);
    ck_assert_int_eq(write(fd, "\0/tail\n", 7), 7);
    close(fd);
    ck_assert_int_eq(settle(), CLEANUP_REFUSED);
    ck_assert_str_eq(listing("work"), "a ");
    ck_assert_str_ne(reports, "");
}

/* ---- Identity ---------------------------------------------------------------------------- */

THEME("identity");

TEST_TIMES(foreign_file_stays, CREATE_WAYS)
{
    if (!use_way(_i))
        return;
    begin();
    close(cleanup_create(at("work/a"), 0, 0644));
    file_write(at("theirs"), "theirs");
    ck_assert_int_eq(rename(at("theirs"), at("work/a")), 0);
    ck_assert_done(cleanup_undo());
    ck_assert_str_eq(text_of(at("work/a")), "theirs");
    ck_assert_str_eq(listing("ledgers"), "");
}

TEST(renamed_away)
{
    begin();
    close(cleanup_create(at("work/a"), 0, 0644));
    ck_assert_int_eq(rename(at("work/a"), at("work/b")), 0);
    ck_assert_done(cleanup_undo());
    ck_assert_str_eq(listing("work"), "b ");
}

/* Inode numbers are given out again at once: ours is gone, a stranger has name and number. */
TEST(same_inode_number_stays)
{
    struct stat ours, theirs = {0};

    if (!have_birth_times())
        return;
    begin();
    close(cleanup_create(at("work/a"), 0, 0644));
    ck_assert_int_eq(lstat(at("work/a"), &ours), 0);
    for (int i = 0; i < 100 && theirs.st_ino != ours.st_ino; i++) {
        ck_assert_int_eq(unlink(at("work/a")), 0);
        file_write(at("work/a"), "theirs");
        ck_assert_int_eq(lstat(at("work/a"), &theirs), 0);
    }
    ck_assert_done(cleanup_undo());
    ck_assert_str_eq(text_of(at("work/a")), "theirs");
}

TEST(birth_time_decides)
{
    if (!have_birth_times())
        return;
    file_write(at("work/other"), "");
    file_write(at("work/ours"), "");
    ck_assert_int_eq(mkdir(at("work/dir"), 0755), 0);
    leave(ID, "unlink-if %s %s\n", file_id(at("work/other"), 1), at("work/other"));
    ck_assert_done(settle());
    leave(ID, "rmtree-if %s %s\n", file_id(at("work/dir"), -1), at("work/dir"));
    ck_assert_done(settle());
    leave(ID, "unlink-if %s %s\n", file_id(at("work/ours"), 0), at("work/ours"));
    ck_assert_done(settle());
    ck_assert_str_eq(listing("work"), "dir other ");
    leave(ID, "rmtree-if %s %s\n", file_id(at("work/dir"), 0), at("work/dir"));
    ck_assert_done(settle());
    ck_assert_str_eq(listing("work"), "other ");
}

/* A device's number may be another after a reboot. Within a boot, a file system that was mounted
 * anew may have another one too: what is there may be ours or not, so it stays, on record. */
TEST(another_device_proves_nothing)
{
    const char *id, *rest;

    if (!have_birth_times())
        return;
    file_write(at("work/a"), "");
    file_write(at("work/b"), "");
    begin(); /* as a server has: this boot is known */
    id = file_id(at("work/a"), 0);
    rest = strchr(strchr(id, ':') + 1, ':'); /* INO:BTIME:HANDLE */
    leave(ID, "unlink-if 9999:1%s %s\nunlink-if 9999:1%s %s\n", rest, at("work/a"), rest,
          at("work/b"));
    for (int i = 0; i < 2; i++) {
        ck_assert_int_eq(settle_with(i == 0, NULL), CLEANUP_FAILED);
        ck_assert_str_eq(listing("work"), "a b ");
        ck_assert_line(ledger_of(ID), "^unlink-if .*/work/a$");
        ck_assert_line(ledger_of(ID), "^#nlink-if .*/work/b$"); /* that is plainly another */
        ck_assert_line(reports, "/work/a: it cannot be told whether");
    }
    leave_before_boot("unlink-if 9999:1%s %s\n", rest, at("work/a"));
    ck_assert_int_eq(settle_with(true, NULL), CLEANUP_DONE);
    ck_assert_str_eq(listing("work"), "b ");
}

/* A file system may give the inode's number, and the same time of birth, to a file that is made
 * within the same tick: that is a neighbour's. */
TEST(handle_decides)
{
    char id[512];

    file_write(at("work/a"), "");
    snprintf(id, sizeof id, "%s", file_id(at("work/a"), 0));
    char *handle = strrchr(id, ':');
    if (strchr(handle, '.') == NULL || handle == strchr(id, ':')) {
        fprintf(stderr, "skipped: no file handles in %s\n", test_dir);
        return;
    }
    char *last = id + strlen(id) - 1, was = *last;
    *last = was == '0' ? '1' : '0';
    leave(ID, "unlink-if %s %s\n", id, at("work/a"));
    ck_assert_done(settle());
    ck_assert_str_eq(listing("work"), "a ");
    *last = was;
    leave(ID, "unlink-if %s %s\n", id, at("work/a"));
    ck_assert_int_eq(settle_with(true, NULL), CLEANUP_DONE);
    ck_assert_str_eq(listing("work"), "");
}

/* As version 1 wrote it, and as programs put it together with stat(1). */
TEST(identity_without_a_handle)
{
    char id[512];

    if (!have_birth_times())
        return;
    file_write(at("work/a"), "");
    snprintf(id, sizeof id, "%s", file_id(at("work/a"), 0));
    char *colon = id;
    for (int i = 0; i < 4 && colon != NULL; i++)
        colon = strchr(colon + (i > 0), ':');
    if (colon != NULL)
        *colon = '\0';
    leave(ID, "unlink-if %s %s\n", id, at("work/a"));
    ck_assert_int_eq(settle_with(true, NULL), CLEANUP_DONE);
    ck_assert_str_eq(listing("work"), "");
}

TEST(without_birth_time)
{
    struct stat st;
    char id[64];

    file_write(at("work/a"), "");
    ck_assert_int_eq(mkdir(at("work/d"), 0755), 0);
    ck_assert_int_eq(lstat(at("work/a"), &st), 0);
    snprintf(id, sizeof id, "%u:%u:%llu:-", major(st.st_dev), minor(st.st_dev),
             (unsigned long long)st.st_ino);
    leave(ID, "unlink-if %s %s\n", id, at("work/a"));
    ck_assert_int_eq(settle_with(true, NULL), CLEANUP_FAILED);
    ck_assert_str_eq(listing("work"), "a d ");
    ck_assert_line(ledger_of(ID), "^unlink-if .*/work/a$");
    ck_assert_line(reports, "work/a");
    ck_assert_int_eq(settle_with(false, NULL), CLEANUP_DONE);
    ck_assert_str_eq(listing("work"), "d ");

    /* What is gone, or plainly another, needs no birth time. */
    leave(ID, "unlink-if %s %s\nunlink-if %s %s\n", id, at("work/a"), id, at("work/d"));
    ck_assert_int_eq(settle_with(true, NULL), CLEANUP_DONE);
    ck_assert_str_eq(listing("work"), "d ");
}

/* ---- The place --------------------------------------------------------------------------- */

THEME("place");

static void make_on_the_disk(void)
{
    begin();
    close(cleanup_create(at("work/disk/a"), 0, 0644));
    ck_assert_int_eq(cleanup_mkdir(at("work/disk/d"), 0755), 0);
    ck_assert_int_eq(cleanup_unlink(at("work/disk/b")), 0);
    file_write(at("work/disk/b"), "");
}

/* What is not there because its disk is not mounted yet has not been undone, and what has its name
 * meanwhile is another thing. */
TEST_TIMES(disk_that_is_not_mounted, 2)
{
    if (!may_mount())
        return;
    ck_assert_int_eq(mkdir(at("outside"), 0755), 0);
    ck_assert_int_eq(mkdir(at("work/disk"), 0755), 0);
    ck_assert_int_eq(mount(at("outside"), at("work/disk"), "none", MS_BIND, NULL), 0);
    in_child(make_on_the_disk);
    ck_assert_int_eq(umount(at("work/disk")), 0);
    if (_i == 1)
        ck_assert_int_eq(rmdir(at("work/disk")), 0); /* as with what udisks(8) mounts */
    else
        file_write(at("work/disk/b"), "theirs");
    for (int i = 0; i < 2; i++) {
        ck_assert_int_eq(settle_with(true, NULL), CLEANUP_LATER);
        ck_assert_str_eq(listing("outside"), "a b d ");
        ck_assert_line(reports, "could not undo yet: unlink-if .*/work/disk/a: its directory");
    }
    if (_i == 1)
        ck_assert_int_eq(mkdir(at("work/disk"), 0755), 0);
    else
        ck_assert_str_eq(text_of(at("work/disk/b")), "theirs");
    ck_assert_int_eq(mount(at("outside"), at("work/disk"), "none", MS_BIND, NULL), 0);
    ck_assert_int_eq(settle_with(true, NULL), CLEANUP_DONE);
    ck_assert_str_eq(listing("outside"), "");
    ck_assert_str_eq(listing("ledgers"), "");
}

/* The same if somebody has moved the directory away. */
TEST(directory_that_was_moved_away)
{
    ck_assert_int_eq(mkdir(at("work/disk"), 0755), 0);
    in_child(make_on_the_disk);
    ck_assert_int_eq(rename(at("work/disk"), at("moved")), 0);
    ck_assert_int_eq(settle(), CLEANUP_LATER);
    ck_assert_int_eq(mkdir(at("work/disk"), 0755), 0);
    ck_assert_int_eq(settle(), CLEANUP_LATER);
    ck_assert_str_eq(listing("moved"), "a b d ");
    ck_assert_int_eq(rmdir(at("work/disk")), 0);
    ck_assert_int_eq(rename(at("moved"), at("work/disk")), 0);
    ck_assert_done(settle());
    ck_assert_str_eq(listing("work/disk"), "");
}

static void make_in_a_tree(void)
{
    begin();
    ck_assert_int_eq(cleanup_unlink(at("work/tree/sub/early")), 0);
    ck_assert_int_eq(cleanup_mkdir(at("work/tree"), 0755), 0);
    ck_assert_int_eq(mkdir(at("work/tree/sub"), 0755), 0);
    close(cleanup_create(at("work/tree/sub/late"), 0, 0644));
}

/* What lay in a tree that is the request's own went with it: a handler that cleans up after itself,
 * and records of what was never made. */
TEST_TIMES(what_lay_in_a_tree_of_its_own_went_with_it, 2)
{
    in_child(make_in_a_tree);
    if (_i == 1)
        remove_tree(at("work/tree")); /* the harness's */
    ck_assert_done(settle());
    ck_assert_str_eq(listing("work"), "");
    ck_assert_str_eq(reports, "");
}

/* A record that nobody has looked at, as a crash leaves it, says less: a directory must be there.
 */
TEST(record_without_its_place)
{
    leave(with("%s.p", ID), "unlink %s\nrmtree %s\n", at("work/a"), at("work/no/b"));
    ck_assert_int_eq(settle_with(true, NULL), CLEANUP_LATER);
    ck_assert_int_eq(mkdir(at("work/no"), 0755), 0);
    ck_assert_int_eq(settle_with(true, NULL), CLEANUP_DONE);
}

/* What a tmpfs held is gone with the boot, and its directories are others. */
TEST(tmpfs_does_not_outlive_its_boot)
{
    char id[512];

    if (!may_mount())
        return;
    ck_assert_int_eq(mkdir(at("work/t"), 0755), 0);
    ck_assert_int_eq(mount("tmpfs", at("work/t"), "tmpfs", 0, "size=64k"), 0);
    ck_assert_int_eq(mkdir(at("work/t/d"), 0755), 0);
    snprintf(id, sizeof id, "%s", file_id(at("work/t/d"), 0));
    ck_assert_int_eq(rmdir(at("work/t/d")), 0);
    leave(ID, "in %s %s\nunlink %s\n", id, at("work/t/d"), at("work/t/d/f"));
    ck_assert_int_eq(settle_with(true, NULL), CLEANUP_LATER);
    leave_before_boot("in %s %s\nunlink %s\n", id, at("work/t/d"), at("work/t/d/f"));
    ck_assert_int_eq(settle_with(true, NULL), CLEANUP_DONE);
    leave_before_boot("in %s %s\nunlink %s\n", file_id(at("work"), 1), at("work/no"),
                      at("work/no/f"));
    ck_assert_int_eq(settle_with(true, NULL), CLEANUP_LATER);
}

/* ---- File systems ------------------------------------------------------------------------ */

THEME("file systems");

/* The identity of PATH as `hangupd undo` finds it. */
static const char *identity_of(const char *path)
{
    static char text[IDENTITY_SIZE];
    bool directory;

    ck_assert_int_eq(cleanup_fileid(path, text, &directory), 0);
    return text;
}

static void mount_an_old_ext4(void)
{
    const char *command = with("exec >/dev/null 2>&1; cd %s && truncate -s 4M image && "
                               "mkfs.ext4 -q -I 128 image && mount -o loop image disk",
                               test_dir);
    execl("/bin/sh", "sh", "-c", command, NULL);
}

/* An ext4 whose inodes have no room for times of birth gives their numbers out again, too. */
TEST(stranger_on_an_old_ext4)
{
    struct statx x;
    char id[512];

    if (geteuid() != 0 || !may_mount())
        return;
    ck_assert_int_eq(mkdir(at("disk"), 0755), 0);
    if (status_of(start(mount_an_old_ext4)) != 0) {
        fprintf(stderr, "skipped: no loop mount of an ext4\n");
        return;
    }
    file_write(at("disk/a"), "");
    ck_assert_int_eq(statx(AT_FDCWD, at("disk/a"), 0, STATX_BTIME, &x), 0);
    ck_assert_uint_eq(x.stx_mask & STATX_BTIME, 0);
    snprintf(id, sizeof id, "%s", identity_of(at("disk/a")));
    for (int i = 0; i < 2; i++) { /* while its server lives, and after a crash */
        leave(ID, "unlink-if %s %s\n", id, at("disk/a"));
        ck_assert_int_eq(unlink(at("disk/a")), 0);
        file_write(at("disk/a"), "theirs");
        ck_assert_int_eq(settle_with(i == 1, NULL), CLEANUP_DONE);
        ck_assert_str_eq(text_of(at("disk/a")), "theirs");
    }
    leave(ID, "unlink-if %s %s\n", identity_of(at("disk/a")), at("disk/a"));
    ck_assert_int_eq(settle_with(true, NULL), CLEANUP_DONE);
    ck_assert(!exists(at("disk/a")));
    ck_assert_int_eq(umount(at("disk")), 0);
}

/* ---- A full disk ------------------------------------------------------------------------- */

THEME("disk");

/* A file system of SIZE at test_dir/NAME. */
static bool small_disk(const char *name, const char *options)
{
    if (!may_mount())
        return false;
    ck_assert_int_eq(mkdir(at("%s", name), 0755), 0);
    if (mount("tmpfs", at("%s", name), "tmpfs", 0, options) == 0)
        return true;
    fprintf(stderr, "skipped: cannot mount (%s)\n", strerror(errno));
    return false;
}

TEST(disk_full_before_the_ledger)
{
    if (!small_disk("disk", "size=128k"))
        return;
    fill_disk(at("disk/filler"));
    close(ledgers);
    ledgers = open(at("disk"), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    begin();
    ck_assert_int_eq(cleanup_create(at("work/a"), 0, 0644), -1);
    ck_assert_int_eq(errno, ENOSPC);
    ck_assert_int_eq(cleanup_mkdir(at("work/d"), 0755), -1);
    ck_assert_int_eq(errno, ENOSPC);
    ck_assert_int_eq(cleanup_unlink(at("work/a")), -1);
    ck_assert_int_eq(errno, ENOSPC);
    ck_assert_ptr_null(cleanup_tempdir());
    ck_assert_int_eq(errno, ENOSPC);
    ck_assert_str_eq(listing("work"), "");
    ck_assert_str_eq(listing("tmp"), "");
    ck_assert_str_eq(listing("disk"), "filler ");
    ck_assert_done(cleanup_undo());
}

/* Records of all lengths until the disk is full: the one that did not fit never happened, what
 * it was for was not made, and what fits later is read as it was written. */
TEST(disk_full_in_between)
{
    char path[PATH_MAX];
    int made = 0;

    if (!small_disk("disk", "size=128k"))
        return;
    close(ledgers);
    ledgers = open(at("disk"), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    begin();
    close(cleanup_create(at("work/first"), 0, 0644));
    fill_disk(at("disk/filler"));
    for (;; made++) {
        snprintf(path, sizeof path, "work/%0*d", 1 + (made * 37) % 200, made);
        int fd = cleanup_create(at("%s", path), 0, 0644);
        if (fd < 0)
            break;
        close(fd);
        ck_assert_int_lt(made, 10000);
    }
    ck_assert_int_eq(errno, ENOSPC);
    ck_assert(!exists(at("%s", path)));
    while (cleanup_unlink(at("work/shorter, and so it may fit yet")) == 0)
        ck_assert_int_lt(made++, 20000);
    ck_assert_int_eq(errno, ENOSPC);
    ck_assert_str_eq(reports, "");
    ck_assert_int_eq(unlink(at("disk/filler")), 0);
    close(cleanup_create(at("work/later"), 0, 0644));
    ck_assert(exists(at("work/later")));
    ck_assert_done(cleanup_undo());
    ck_assert_str_eq(listing("work"), "");
    ck_assert_str_eq(listing("disk"), "");
    ck_assert_str_eq(reports, "");
}

/* The work of a program that has made something is not for nothing when the disk is full by then.
 */
TEST_TIMES(disk_full_for_the_answer, 2)
{
    uint64_t n = 0;

    if (!small_disk("disk", "size=128k"))
        return;
    close(ledgers);
    ledgers = open(at("disk"), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    for (int i = 0; i < 2; i++) {
        if (_i == 0)
            begin();
        else
            begin_in_slot(0, ID, i == 0 ? "GET /" : "GET /1");
        int fd = cleanup_open_for_program();
        ck_assert_int_ge(fd, 0);
        ck_assert_int_eq(cleanup_append(fd, "unlink", at("work/a"), false), 0);
        fill_disk(at("disk/filler"));
        ck_assert_int_eq(cleanup_sent(5), 0);
        ck_assert_int_eq(cleanup_was_sent(ledgers, _i == 0 ? ID : "slot-0", &n), 1);
        ck_assert(n == 5);
        ck_assert_done(i == 0 ? cleanup_keep() : cleanup_undo());
        ck_assert_str_eq(listing("disk"), _i == 0 ? "filler " : "filler slot-0 ");
        ck_assert_int_eq(unlink(at("disk/filler")), 0);
        close(fd);
    }
}

/* The same by a limit on the ledger's size, for every place where the cut can fall. */
static void write_up_to_limit(void)
{
    struct stat st;
    struct rlimit limit;

    signal(SIGXFSZ, SIG_IGN);
    begin();
    ck_assert_int_eq(cleanup_unlink(at("work/a")), 0);
    ck_assert_int_eq(fstatat(ledgers, ID, &st, 0), 0);
    ck_assert_int_eq(getrlimit(RLIMIT_FSIZE, &limit), 0);
    rlim_t unlimited = limit.rlim_cur;
    for (rlim_t room = 0; room < 30; room++) {
        limit.rlim_cur = (rlim_t)st.st_size + room;
        /* Nothing is asserted in between: Check would write that to a file, too. */
        bool limited = setrlimit(RLIMIT_FSIZE, &limit) == 0;
        int result = cleanup_run("this must never have been recorded");
        limit.rlim_cur = unlimited;
        ck_assert(setrlimit(RLIMIT_FSIZE, &limit) == 0 && limited);
        ck_assert_int_eq(result, -1);
        ck_assert_int_eq(cleanup_unlink(at("work/b")), 0);
        ck_assert_int_eq(fstatat(ledgers, ID, &st, 0), 0);
    }
}

TEST(short_append)
{
    in_child(write_up_to_limit);
    file_write(at("work/a"), "");
    file_write(at("work/b"), "");
    ck_assert_done(settle());
    ck_assert_str_eq(runs, "");
    ck_assert_str_eq(reports, "");
    ck_assert_str_eq(listing("work"), "");
}

/* The disk for the files is full, the ledger's is not. */
TEST_TIMES(disk_full_for_the_file, CREATE_WAYS)
{
    if (!use_way(_i) || !small_disk("disk", "size=128k,nr_inodes=3"))
        return;
    file_write(at("disk/1"), "");
    file_write(at("disk/2"), "");
    begin();
    ck_assert_int_eq(cleanup_create(at("disk/a"), 0, 0644), -1);
    ck_assert_int_eq(errno, ENOSPC);
    ck_assert_int_eq(cleanup_mkdir(at("disk/d"), 0755), -1);
    ck_assert_int_eq(errno, ENOSPC);
    ck_assert_str_eq(listing("disk"), "1 2 ");
    ck_assert_done(cleanup_undo());
    ck_assert_str_eq(listing("disk"), "1 2 ");
    ck_assert_str_eq(reports, "");
}

/* ---- Trees ------------------------------------------------------------------------------- */

/* Deeper than a path can say. */
TEST(rmtree_deep)
{
    static const char name[] = "a-directory-with-a-name-of-forty-bytes-x";

    begin();
    ck_assert_int_eq(cleanup_mkdir(at("work/tree"), 0755), 0);
    int fd = open(at("work/tree"), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    for (int level = 0; level < 200; level++) {
        ck_assert_int_eq(mkdirat(fd, name, 0755), 0);
        int file = openat(fd, "file", O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
        ck_assert_int_ge(file, 0);
        close(file);
        int below = openat(fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        ck_assert_int_ge(below, 0);
        close(fd);
        fd = below;
    }
    close(fd);
    ck_assert_done(cleanup_undo());
    ck_assert_str_eq(listing("work"), "");
    ck_assert_str_eq(reports, "");
}

/* As deep, with few descriptors to spare. */
TEST(rmtree_with_few_descriptors)
{
    struct rlimit limit;
    char path[PATH_MAX];

    begin();
    ck_assert_int_eq(cleanup_mkdir(at("work/tree"), 0755), 0);
    snprintf(path, sizeof path, "%s", at("work/tree"));
    for (int level = 0; level < 200; level++)
        ck_assert_int_eq(mkdir(strcat(path, "/d"), 0755), 0);
    ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &limit), 0);
    limit.rlim_cur = 100;
    ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
    ck_assert_done(cleanup_undo());
    ck_assert_str_eq(listing("work"), "");
}

TEST(rmtree_wide)
{
    begin();
    const char *scratch = cleanup_tempdir();
    ck_assert_ptr_nonnull(scratch);
    int fd = open(scratch, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    for (int i = 0; i < 2000; i++) {
        char name[64];
        snprintf(name, sizeof name, "an entry whose name is not short %d", i);
        ck_assert_int_eq(i % 10 ? mknodat(fd, name, S_IFREG | 0644, 0) : mkdirat(fd, name, 0755),
                         0);
    }
    ck_assert_int_eq(mkfifoat(fd, "fifo", 0644), 0);
    close(fd);
    ck_assert_int_eq(cleanup_keep(), CLEANUP_DONE);
    ck_assert_str_eq(listing("tmp"), "");
}

TEST(rmtree_does_not_follow)
{
    ck_assert_int_eq(mkdir(at("outside"), 0755), 0);
    file_write(at("outside/x"), "theirs");
    begin();
    ck_assert_int_eq(cleanup_mkdir(at("work/tree"), 0755), 0);
    ck_assert_int_eq(symlink(at("outside"), at("work/tree/to-directory")), 0);
    ck_assert_int_eq(symlink(at("outside/x"), at("work/tree/to-file")), 0);
    ck_assert_int_eq(symlink("nowhere", at("work/tree/dangling")), 0);
    ck_assert_int_eq(symlink(".", at("work/tree/loop")), 0);
    ck_assert_int_eq(link(at("outside/x"), at("work/tree/hard")), 0);
    ck_assert_done(cleanup_undo());
    ck_assert_str_eq(listing("work"), "");
    ck_assert_str_eq(text_of(at("outside/x")), "theirs");
}

/* A name recorded with a slash at its end is no leave to follow the link that it has become. */
TEST_TIMES(rmtree_does_not_follow_for_a_slash, 2)
{
    static const char *const verbs[] = {"rmtree", "scratch"};
    ck_assert_int_eq(mkdir(at("outside"), 0755), 0);
    file_write(at("outside/x"), "theirs");
    ck_assert_int_eq(symlink(at("outside"), at("work/tree")), 0);
    leave(ID, "%s %s//\n", verbs[_i], at("work/tree"));
    ck_assert_done(settle());
    ck_assert_str_eq(listing("work"), "");
    ck_assert_str_eq(text_of(at("outside/x")), "theirs");
    ck_assert_int_eq(mkdir(at("work/tree"), 0755), 0);
    leave(ID, "%s %s/\n", verbs[_i], at("work/tree"));
    ck_assert_done(settle());
    ck_assert_str_eq(listing("work"), "");
}

static void locked_trees(void)
{
    as_nobody();
    ck_assert_int_eq(chdir(at("work")), 0);
    begin();
    ck_assert_int_eq(cleanup_mkdir("tree", 0755), 0);
    ck_assert_int_eq(mkdir("tree/a", 0755), 0);
    file_write("tree/a/x", "");
    ck_assert_int_eq(mkdir("tree/b", 0755), 0);
    ck_assert_int_eq(mkdir("tree/b/c", 0755), 0);
    file_write("tree/b/c/x", "");
    ck_assert_int_eq(chmod("tree/a", 0500), 0);
    ck_assert_int_eq(chmod("tree/b/c", 0), 0);
    ck_assert_int_eq(chmod("tree/b", 0), 0);
    ck_assert_int_eq(mkdir("tree/empty", 0), 0);
    ck_assert_int_eq(chmod("tree", 0), 0);
    ck_assert_msg(cleanup_undo() == CLEANUP_DONE, "%s", reports);
}

/* The owner's own modes do not stop the owner. */
TEST(rmtree_without_permission)
{
    give_to_nobody("");
    give_to_nobody("work");
    give_to_nobody("ledgers");
    in_child(locked_trees);
    ck_assert_str_eq(listing("work"), "");
    ck_assert_str_eq(listing("ledgers"), "");
}

/* A file system mounted inside the tree is somebody else's, even if it is the same one. */
TEST_TIMES(rmtree_stays_on_its_mount, 2)
{
    const char *mounted = at("work/tree/mounted");

    if (!may_mount())
        return;
    ck_assert_int_eq(mkdir(at("outside"), 0755), 0);
    begin();
    ck_assert_int_eq(cleanup_mkdir(at("work/tree"), 0755), 0);
    ck_assert_int_eq(mkdir(mounted, 0755), 0);
    file_write(at("work/tree/x"), "");
    if (_i) {
        ck_assert_int_eq(mount("tmpfs", mounted, "tmpfs", 0, "size=64k"), 0);
    } else {
        ck_assert_int_eq(mount(at("outside"), mounted, "none", MS_BIND, NULL), 0);
    }
    file_write(at("work/tree/mounted/theirs"), "");
    ck_assert_int_eq(cleanup_undo(), CLEANUP_FAILED);
    ck_assert_str_eq(listing("work/tree"), "mounted ");
    ck_assert_str_eq(listing("work/tree/mounted"), "theirs ");
    ck_assert_str_ne(reports, "");
    ck_assert_int_eq(umount(mounted), 0);
    ck_assert_done(cleanup_undo());
    ck_assert_str_eq(listing("work"), "");
}

/* What is mounted over a thing of the request's is not that thing, and says nothing about it. */
static const struct {
    const char *verb;
    bool identity, file;
} mounted_over[] = {{"rmtree", false, false},
                    {"rmtree-if", true, false},
                    {"scratch", false, false},
                    {"unlink", false, true},
                    {"unlink-if", true, true}};

/* Also where the kernel, or a sandbox, does not know the call that refuses it. */
TEST_TIMES(what_is_mounted_over_a_thing_stays, 2 * COUNT(mounted_over))
{
    const char *thing = at("work/thing"), *theirs = at("theirs");

    bool old_kernel = _i >= COUNT(mounted_over);
    _i %= COUNT(mounted_over);
    if (!may_mount())
        return;
    bool file = mounted_over[_i].file;
    ck_assert(file || (mkdir(thing, 0755) == 0 && mkdir(theirs, 0755) == 0));
    file_write(file ? thing : at("work/thing/ours"), "");
    file_write(file ? theirs : at("theirs/x"), "theirs");
    leave(ID, "%s %s%s%s\n", mounted_over[_i].verb,
          mounted_over[_i].identity ? file_id(thing, 0) : "", mounted_over[_i].identity ? " " : "",
          thing);
    ck_assert_int_eq(mount(theirs, thing, "none", MS_BIND, NULL), 0);
    ck_assert(!old_kernel || deny(SYS_openat2, 3, ~0U, _i % 2 == 0 ? ENOSYS : EPERM));
    ck_assert_int_eq(settle(), CLEANUP_FAILED);
    ck_assert_str_eq(text_of(file ? theirs : at("theirs/x")), "theirs");
    ck_assert_line(reports, "/work/thing: Device or resource busy");
    ck_assert_int_eq(umount(thing), 0);
    ck_assert_done(settle());
    ck_assert_str_eq(listing("work"), "");
}

/* So it is with what is mounted over the place where it is. */
TEST(what_is_mounted_over_the_pool_stays)
{
    char pool[PATH_MAX];

    if (!may_mount())
        return;
    snprintf(pool, sizeof pool, "%s/tmp/hangupd-%.5s", test_dir, TOKEN);
    ck_assert_int_eq(mkdir(pool, 0700), 0);
    ck_assert_int_eq(mkdir(with("%s/0", pool), 0700), 0);
    ck_assert_int_eq(mkdir(at("theirs"), 0700), 0);
    ck_assert_int_eq(mkdir(at("theirs/0"), 0700), 0);
    file_write(at("theirs/0/x"), "theirs");
    leave(ID, "scratch %s/0\n", pool);
    ck_assert_int_eq(mount(at("theirs"), pool, "none", MS_BIND, NULL), 0);
    ck_assert_int_eq(settle(), CLEANUP_FAILED);
    ck_assert_str_eq(text_of(at("theirs/0/x")), "theirs");
    ck_assert_int_eq(umount(pool), 0);
    ck_assert_done(settle());
    ck_assert_str_eq(listing("tmp"), "");
}

/* The one entry that would not go is named, however deep it lies. */
TEST(rmtree_names_what_is_left)
{
    if (!may_mount())
        return;
    ck_assert_int_eq(mkdir(at("work/tree"), 0755), 0);
    ck_assert_int_eq(mkdir(at("work/tree/a"), 0755), 0);
    ck_assert_int_eq(mkdir(at("work/tree/a/b"), 0755), 0);
    file_write(at("work/tree/a/x"), "");
    leave(ID, "rmtree %s\n", at("work/tree"));
    ck_assert_int_eq(mount("tmpfs", at("work/tree/a/b"), "tmpfs", 0, "size=64k"), 0);
    ck_assert_int_eq(settle(), CLEANUP_FAILED);
    ck_assert_line(reports, "rmtree /.*/work/tree: a/b: Device or resource busy");
    ck_assert_int_eq(umount(at("work/tree/a/b")), 0);
    ck_assert_done(settle());
}

static void settle_with_a_maker(void)
{
    ptrace(PTRACE_TRACEME, 0, NULL, NULL);
    raise(SIGSTOP);
    ck_assert_int_eq(settle(), CLEANUP_FAILED);
    ck_assert_line(reports, "rmtree /.*/work/tree: sub: Directory not empty");
}

/* Whoever makes a file in a tree for each that is removed there does not keep us in it for ever. */
TEST(rmtree_comes_to_an_end)
{
    struct __ptrace_syscall_info now = {0}; /* memcheck does not know what ptrace fills in */
    int status, made = 0;

    ck_assert_int_eq(mkdir(at("work/tree"), 0755), 0);
    ck_assert_int_eq(mkdir(at("work/tree/sub"), 0755), 0);
    file_write(at("work/tree/sub/0"), "");
    leave(ID, "rmtree %s\n", at("work/tree"));
    pid_t child = start(settle_with_a_maker);
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert_int_eq(ptrace(PTRACE_SETOPTIONS, child, NULL, PTRACE_O_TRACESYSGOOD), 0);
    while (ptrace(PTRACE_SYSCALL, child, NULL, NULL) == 0 && waitpid(child, &status, 0) == child &&
           WIFSTOPPED(status))
        if (ptrace(PTRACE_GET_SYSCALL_INFO, child, sizeof now, &now) > 0 &&
            now.op == PTRACE_SYSCALL_INFO_ENTRY && now.entry.nr == SYS_unlinkat &&
            exists(at("work/tree/sub")))
            file_write(at("work/tree/sub/%d", ++made), "");
    ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 0, "status %x", (unsigned)status);
    ck_assert_int_gt(made, 64);
    ck_assert_done(settle());
    ck_assert_str_eq(listing("work"), "");
}

/* ---- Second looks -------------------------------------------------------------------------- */

THEME("second looks");

static enum cleanup_result settle_again(int64_t seconds, bool now)
{
    struct cleanup_settling how = {
        .dir = ledgers, .id = ID, .again_s = seconds, .again_now = now, .run = note_run};
    runs[0] = '\0';
    return cleanup_settle(&how);
}

/* The number behind the first `again ` of the ledger, 0 if there is none that is left. */
static unsigned long long due_in_ledger(void)
{
    const char *at_it = strstr(file_read(at("ledgers/%s", ID)), "\nagain ");
    return at_it ? strtoull(at_it + strlen("\nagain "), NULL, 10) : 0;
}

static const struct {
    const char *before; /* of its id */
    const char *behind; /* NULL: there is no id */
    bool again;
} commands[] = {
    {"rm ", "", true},
    {"rm x-", ".csv", true},
    {"rm x$REQUEST_ID", NULL, true},
    {"rm ${REQUEST_ID}x", NULL, true},
    {"rm \"$REQUEST_ID\"", NULL, true},
    {"rm $REQUEST_IDS $REQUEST_ID_2 ; rm $REQUEST_ID", NULL, true},
    {"rm ", "f", false}, /* another request's */
    {"rm $REQUEST_IDS", NULL, false},
    {"rm REQUEST_ID", NULL, false},
    {"rm fixed", NULL, false},
};

TEST_EACH(who_gets_a_second_look, commands)
{
    char command[256];
    bool has_id = commands[_i].behind != NULL;
    snprintf(command, sizeof command, "%s%s%s", commands[_i].before, has_id ? ID : "",
             has_id ? commands[_i].behind : "");
    leave(ID, "run %s\n", command);
    time_t before = time(NULL);
    ck_assert_int_eq(settle_again(60, false), commands[_i].again ? CLEANUP_AGAIN : CLEANUP_DONE);
    ck_assert_str_eq(runs, with("%s\n", command));
    if (!commands[_i].again)
        return;
    ck_assert_uint_ge(due_in_ledger(), (unsigned long long)before + 60);
    ck_assert_line(file_read(at("ledgers/%s", ID)), "#un rm .*");
    ck_assert_int_eq(settle_again(60, false), CLEANUP_AGAIN); /* not yet */
    ck_assert_str_eq(runs, "");
    ck_assert_int_eq(settle_again(60, true), CLEANUP_AGAIN); /* now, and still later */
    ck_assert_str_eq(runs, with("again: %s\n", command));
    ck_assert_uint_ne(due_in_ledger(), 0);
}

TEST(never_is_never_but_for_who_asked)
{
    leave(ID, "again +5 run asked\nrun rm %s\n", ID);
    ck_assert_int_eq(settle_again(0, false), CLEANUP_AGAIN);
    ck_assert_str_eq(runs, with("rm %s\nasked\n", ID));
    ck_assert_line(file_read(at("ledgers/%s", ID)), "again [0-9]*[+]5 run asked");
    ck_assert_no_line(file_read(at("ledgers/%s", ID)), "again .* run rm.*");
}

/* They hold back no older record, wait for each other, and are taken newest first. */
TEST(looks_wait_for_the_last)
{
    unsigned long long now = (unsigned long long)time(NULL);
    file_write(at("work/a"), "");
    leave(ID, "unlink %s\nagain 1 run older\nagain %llu run newer\n", at("work/a"), now + 50);
    ck_assert_int_eq(settle_again(60, false), CLEANUP_AGAIN);
    ck_assert_str_eq(runs, "");
    ck_assert_str_eq(listing("work"), "");
    leave(ID, "again 1 run older\ncommit\nagain 1 run same\nagain 2 run newer\n");
    ck_assert_done(settle_again(60, false));
    ck_assert_str_eq(runs, "again: newer\nagain: same\n"); /* what is older is kept */
}

/* What is further ahead than it can be is of a clock that was set back: it waits its time from now,
 * and that is written down. */
TEST(clock_was_set_back)
{
    unsigned long long now = (unsigned long long)time(NULL);
    leave(ID, "again 99999999999 run x\n");
    ck_assert_int_eq(settle_again(60, false), CLEANUP_AGAIN);
    ck_assert_uint_ge(due_in_ledger(), now + 60);
    ck_assert_uint_le(due_in_ledger(), now + 70);
    leave(ID, "again 99999999999+5 run x\n");
    ck_assert_int_eq(settle_again(60, false), CLEANUP_AGAIN);
    ck_assert_uint_le(due_in_ledger(), now + 15);
}

/* It succeeds only when its second look is on record; a failure leaves it as it was. */
TEST(first_look_that_fails_is_no_second_one)
{
    leave(ID, "again +60 run fail\n");
    ck_assert_int_eq(settle_again(60, false), CLEANUP_FAILED);
    ck_assert_line(file_read(at("ledgers/%s", ID)), "again [+]60 run fail");
    leave(ID, "again 1 run fail\n");
    ck_assert_int_eq(settle_again(60, false), CLEANUP_FAILED);
    ck_assert_str_eq(runs, "again: fail\n");
}

static const char *const not_again[] = {
    "again",       "again run x",  "again + run x",     "again +0 run x", "again 0 run x",
    "again 5 run", "again 5 run ", "again 5 unlink /x", "again -5 run x", "again 5+ run x"};

TEST_EACH(no_second_look, not_again)
{
    leave(ID, "%s\n", not_again[_i]);
    ck_assert_int_eq(settle_again(60, true), CLEANUP_REFUSED);
    ck_assert_str_eq(runs, "");
}
