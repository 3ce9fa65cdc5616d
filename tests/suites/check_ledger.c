/* check_ledger.c: what a ledger says: its records and marks, who may write it, and when it is kept.
 */
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
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#include "harness_ledgers.h"
#include "reader.h"

SUITE(LEDGERS);

/* ---- The ledger's format ----------------------------------------------------------------- */

THEME("ledger");

TEST(ledger_is_made_at_the_first_record)
{
    begin();
    ck_assert(!cleanup_pending());
    ck_assert(!cleanup_exists(ledgers, ID));
    ck_assert_str_eq(listing("ledgers"), "");
    ck_assert_int_eq(cleanup_unlink(at("work/a")), 0);
    ck_assert(cleanup_pending());
    ck_assert(cleanup_exists(ledgers, ID));
    ck_assert_str_eq(listing("ledgers"), with("%s ", ID));
    ck_assert_done(cleanup_undo());
    ck_assert(!cleanup_exists(ledgers, ID));
    ck_assert_str_eq(listing("ledgers"), "");
}

TEST(ledger_header)
{
    char expected[512];
    struct stat st;

    begin();
    ck_assert_int_eq(cleanup_unlink(at("work/a")), 0);
    snprintf(expected, sizeof expected,
             "# hangupd ledger 2 id=%s from=0000000512 program=0 pid=%d start=%llu boot=%s "
             "GET /test\n#  ",
             ID, (int)getpid(), start_time(getpid()), boot_id());
    const char *text = ledger_of(ID);
    ck_assert_int_eq(strncmp(text, expected, strlen(expected)), 0);
    ck_assert_int_eq(strncmp(text + 510, " \nin ", 5), 0); /* the comment fills a sector */
    ck_assert_int_eq(fstatat(ledgers, ID, &st, AT_SYMLINK_NOFOLLOW), 0);
    ck_assert_uint_eq(st.st_mode, S_IFREG | 0600);
    ck_assert_done(cleanup_undo());
}

/* It says when its process was born, also where the clock was read in another tick. */
static struct cleanup_owner newborn;

static int late_ms;

static void be_newborn(void)
{
    sleep_ms(late_ms);
    newborn.dir = ledgers;
    cleanup_begin(&newborn);
    ck_assert_int_eq(cleanup_unlink(at("work/a")), 0);
    ck_assert_ptr_nonnull(strstr(ledger_of(ID), with(" start=%llu ", start_time(getpid()))));
    ck_assert_done(cleanup_undo());
}

TEST_TIMES(ledger_header_of_a_newborn, 3)
{
    newborn = (struct cleanup_owner){.id = ID, .title = "GET /test", .tmpdir = at("tmp")};
    newborn.forked = clock_ticks();
    if (_i == 1)
        sleep_ms(30);
    late_ms = _i == 2 ? 30 : 0;
    in_child(be_newborn);
}

/* A title is for people: whatever it holds, it stays on its line and says nothing else. */
TEST(ledger_hostile_title)
{
    static char title[4096];
    struct cleanup_owner owner = {.dir = ledgers, .id = ID, .title = title, .tmpdir = "/tmp"};

    snprintf(title, sizeof title, "GET /\nunlink %s\n# pid=1 boot=x ", at("work/theirs"));
    memset(title + strlen(title), 'x', 2000);
    file_write(at("work/theirs"), "");
    cleanup_begin(&owner);
    close(cleanup_create(at("work/a"), 0, 0644));
    ck_assert_int_eq(settle_with(true, NULL), CLEANUP_DONE);
    ck_assert_str_eq(listing("work"), "theirs ");
    ck_assert_str_eq(reports, "");
}

/* The verbs whose record is what the caller said. */
TEST(ledger_plain_records)
{
    char expected[PATH_MAX * 4];

    begin();
    ck_assert_int_eq(chdir(at("work")), 0);
    ck_assert_int_eq(cleanup_unlink("a b"), 0);
    ck_assert_int_eq(cleanup_rmtree(at("work/tree")), 0);
    ck_assert_int_eq(cleanup_run("echo  'x' >&2 # y"), 0);
    ck_assert_int_eq(cleanup_sent(18446744073709551615ULL), 0);
    ck_assert_int_eq(cleanup_commit(), 0);
    snprintf(expected, sizeof expected,
             "in %s %s/work\nunlink %s/work/a b\nrmtree %s/work/tree\nrun echo  'x' >&2 # y\n"
             "sent 18446744073709551615\ncommit\n",
             file_id(at("work"), 0), test_dir, test_dir, test_dir);
    const char *text = ledger_of(ID);
    ck_assert_str_eq(text + LEDGER_HEAD_SIZE, expected);
}

/* A file made in the first tenth of a second has a fraction that begins with 0. */
static void wait_for_a_small_fraction(void)
{
    struct timespec now;

    do {
        sleep_ms(1);
        clock_gettime(CLOCK_REALTIME_COARSE, &now); /* what files are stamped with */
    } while (now.tv_nsec < 5000000 || now.tv_nsec > 50000000);
}

TEST_TIMES(ledger_identity_records, CREATE_WAYS)
{
    char expected[PATH_MAX * 2];

    if (!use_way(_i) || !have_birth_times())
        return;
    begin();
    if (_i == BY_TMPFILE)
        wait_for_a_small_fraction();
    int fd = cleanup_create(at("work/f"), 0, 0644);
    ck_assert_int_ge(fd, 0);
    close(fd);
    snprintf(expected, sizeof expected, "\nunlink-if %s %s\n", file_id(at("work/f"), 0),
             at("work/f"));
    ck_assert_ptr_nonnull(strstr(ledger_of(ID), expected));
    ck_assert_int_eq(cleanup_mkdir(at("work/d"), 0755), 0);
    snprintf(expected, sizeof expected, "\nrmtree-if %s %s\n", file_id(at("work/d"), 0),
             at("work/d"));
    ck_assert_ptr_nonnull(strstr(ledger_of(ID), expected));
    ck_assert_done(cleanup_undo());
}

/* Every line is a comment or a record of the grammar, whatever is called. */
TEST_TIMES(ledger_grammar, CREATE_WAYS)
{
    static const char grammar[] =
        "^(#.*|(unlink|rmtree|scratch) /.*|run .*|sent [0-9]+|commit|"
        "(in|(unlink|rmtree)-if) [0-9]+:[0-9]+:[0-9]+:(-|[0-9]+\\.[0-9]{9})"
        "(:[0-9]+\\.([0-9a-f]{2})+)? /.*)$";

    if (!use_way(_i))
        return;
    begin();
    close(cleanup_create(at("work/f"), 0, 0644));
    close(cleanup_create(at("work/f"), CLEANUP_OVERWRITE, 0644));
    ck_assert_int_eq(cleanup_create(at("work/f"), 0, 0644), -1);
    ck_assert_int_eq(cleanup_mkdir(at("work/d"), 0755), 0);
    ck_assert_int_eq(cleanup_mkdir(at("work/d"), 0755), -1);
    ck_assert_ptr_nonnull(cleanup_tempdir());
    ck_assert_int_eq(cleanup_run("true"), 0);
    ck_assert_int_eq(cleanup_sent(1), 0);
    ck_assert_int_eq(cleanup_unsent(), 0);
    const char *text = ledger_of(ID);
    while (*text) {
        char line[PATH_MAX * 2];
        size_t n = strcspn(text, "\n");
        ck_assert_int_eq(text[n], '\n');
        snprintf(line, sizeof line, "%.*s", (int)n, text);
        ck_assert_line(line, grammar);
        text += n + 1;
    }
    ck_assert_done(settle());
    ck_assert_str_eq(listing("work"), "");
}

/* What the ledger cannot hold is refused, and then nothing is made, not even the ledger. */
TEST(ledger_refuses)
{
    static char long_command[CLEANUP_RECORD_MAX];
    static char long_path[CLEANUP_RECORD_MAX + 16];

    memset(long_command, 'x', CLEANUP_RECORD_MAX - strlen("run \n") + 1);
    memset(long_path, 'x', sizeof long_path - 1);
    long_path[0] = '/';
    begin();
    ck_assert_int_eq(cleanup_unlink("a\nb"), -1);
    ck_assert_int_eq(errno, EINVAL);
    ck_assert_int_eq(cleanup_rmtree("/a\n"), -1);
    ck_assert_int_eq(errno, EINVAL);
    ck_assert_int_eq(cleanup_run("true\ntrue"), -1);
    ck_assert_int_eq(errno, EINVAL);
    ck_assert_int_eq(cleanup_create(at("work/a\nb"), 0, 0644), -1);
    ck_assert_int_eq(errno, EINVAL);
    ck_assert_int_eq(cleanup_mkdir(at("work/a\nb"), 0755), -1);
    ck_assert_int_eq(errno, EINVAL);
    ck_assert_int_eq(cleanup_unlink(""), -1);
    ck_assert_int_eq(errno, EINVAL);
    ck_assert_int_eq(cleanup_rmtree(""), -1);
    ck_assert_int_eq(errno, EINVAL);
    ck_assert_int_eq(cleanup_run(""), -1);
    ck_assert_int_eq(errno, EINVAL);
    ck_assert_int_eq(cleanup_create("", 0, 0644), -1);
    ck_assert_int_eq(errno, EINVAL);
    ck_assert_int_eq(cleanup_mkdir("", 0755), -1);
    ck_assert_int_eq(errno, EINVAL);
    ck_assert_int_eq(cleanup_run(long_command), -1);
    ck_assert_int_eq(errno, ENAMETOOLONG);
    ck_assert_int_eq(cleanup_unlink(long_path), -1);
    ck_assert_int_eq(errno, ENAMETOOLONG);
    ck_assert_int_eq(cleanup_rmtree(long_path), -1);
    ck_assert_int_eq(errno, ENAMETOOLONG);
    ck_assert_int_eq(cleanup_create(long_path, 0, 0644), -1);
    ck_assert_int_eq(errno, ENAMETOOLONG);
    ck_assert_int_eq(cleanup_mkdir(long_path, 0755), -1);
    ck_assert_int_eq(errno, ENAMETOOLONG);
    ck_assert_str_eq(listing("work"), "");
    ck_assert_str_eq(listing("ledgers"), "");
    ck_assert(!cleanup_pending());
}

/* The longest record is written, and read back whole. */
TEST(ledger_longest_record)
{
    static char command[CLEANUP_RECORD_MAX];
    size_t length = CLEANUP_RECORD_MAX - strlen("run \n");

    memset(command, 'x', length);
    begin();
    ck_assert_int_eq(cleanup_run("first"), 0);
    ck_assert_int_eq(cleanup_run(command), 0);
    ck_assert_int_eq(cleanup_run("last"), 0);
    ck_assert_done(settle());
    ck_assert_uint_eq(strlen(runs), strlen("last\n") + length + 1 + strlen("first\n"));
    ck_assert_int_eq(strncmp(runs, "last\nxxx", 8), 0);
    ck_assert_str_eq(reports, "");
}

TEST(ledger_outside_a_request)
{
    ck_assert_int_eq(cleanup_unlink(at("work/a")), -1);
    ck_assert_int_eq(errno, EPERM);
    ck_assert_int_eq(cleanup_create(at("work/a"), 0, 0644), -1);
    ck_assert_int_eq(errno, EPERM);
    ck_assert_int_eq(cleanup_mkdir(at("work/a"), 0755), -1);
    ck_assert_int_eq(errno, EPERM);
    ck_assert_int_eq(cleanup_run("true"), -1);
    ck_assert_int_eq(errno, EPERM);
    ck_assert_int_eq(cleanup_commit(), -1);
    ck_assert_int_eq(errno, EPERM);
    ck_assert_ptr_null(cleanup_tempdir());
    ck_assert_int_eq(errno, EPERM);
    ck_assert(!cleanup_is_owner());
    ck_assert(!cleanup_pending());
    ck_assert_done(cleanup_undo());
    ck_assert_int_eq(cleanup_keep(), CLEANUP_DONE);
    ck_assert_str_eq(listing("work"), "");
    ck_assert_str_eq(listing("ledgers"), "");
}

TEST(append_checks_the_grammar)
{
    static const struct {
        const char *verb, *argument;
        int error;
    } cases[] = {
        {"unlink", "/a b", 0},
        {"rmtree", "/a", 0},
        {"run", "rm -f x", 0},
        {"scratch", "/s", 0},
        {"commit", "", 0},
        {"unlink-if", "8:1:10952780:1795412859.324394260 /srv/q3.csv", 0},
        {"rmtree-if", "8:1:10952780:- /srv/q3", 0},
        {"unlink-if", "8:1:10:1.000000001:129.00ff /srv/q3", 0},
        {"unlink-if", "8:1:10:-:1.0a /srv/q3", 0},
        {"unlink-if", "8:1:10:-: /srv/q3", EINVAL},
        {"unlink-if", "8:1:10:-:1. /srv/q3", EINVAL},
        {"unlink-if", "8:1:10:-:1.0 /srv/q3", EINVAL},
        {"unlink-if", "8:1:10:-:1.0G /srv/q3", EINVAL},
        {"unlink-if", "8:1:10:-:0a /srv/q3", EINVAL},
        {"delete", "/a", EINVAL},
        {"", "/a", EINVAL},
        {"unlink ", "/a", EINVAL},
        {"#nlink", "/a", EINVAL},
        {"unlink", "a", EINVAL},
        {"unlink", "", EINVAL},
        {"unlink", "/a\nrun x", EINVAL},
        {"run", "", EINVAL},
        {"run", "a\n", EINVAL},
        {"commit", "x", EINVAL},
        {"unlink-if", "/a", EINVAL},
        {"unlink-if", "1:2:3 /a", EINVAL},
        {"unlink-if", "1:2:3:4.000000005 a", EINVAL},
    };
    int fd = open(at("ledger"), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0600);

    ck_assert_int_ge(fd, 0);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        errno = 0;
        off_t before = lseek(fd, 0, SEEK_END);
        int result = cleanup_append(fd, cases[i].verb, cases[i].argument, false);
        ck_assert_msg(result == (cases[i].error ? -1 : 0) && (!cases[i].error || errno == EINVAL),
                      "%s %s: %d, %s", cases[i].verb, cases[i].argument, result, strerror(errno));
        if (cases[i].error)
            ck_assert_int_eq(lseek(fd, 0, SEEK_END), before);
    }
    ck_assert_str_eq(text_of_fd(fd), "unlink /a b\nrmtree /a\nrun rm -f x\nscratch /s\ncommit\n"
                                     "unlink-if 8:1:10952780:1795412859.324394260 /srv/q3.csv\n"
                                     "rmtree-if 8:1:10952780:- /srv/q3\n"
                                     "unlink-if 8:1:10:1.000000001:129.00ff /srv/q3\n"
                                     "unlink-if 8:1:10:-:1.0a /srv/q3\n");
}

/* ---- sent, kept, refuted ----------------------------------------------------------------- */

THEME("marks");

TEST(sent_mark)
{
    uint64_t n = 0;

    begin();
    ck_assert(!cleanup_was_sent(ledgers, ID, &n));
    close(cleanup_create(at("work/a"), 0, 0644));
    ck_assert(!cleanup_was_sent(ledgers, ID, &n));
    ck_assert_int_eq(cleanup_sent(1893), 0);
    ck_assert_line(ledger_of(ID), "^sent 1893$");
    ck_assert(cleanup_was_sent(ledgers, ID, &n));
    ck_assert_uint_eq(n, 1893);
    ck_assert_int_eq(cleanup_unsent(), 0);
    ck_assert_line(ledger_of(ID), "^#ent 1893$");
    ck_assert(!cleanup_was_sent(ledgers, ID, &n));
    ck_assert_done(cleanup_undo());
    ck_assert_str_eq(listing("work"), "");
}

TEST(unsent_without_sent)
{
    begin();
    ck_assert_int_eq(cleanup_unsent(), 0);
    close(cleanup_create(at("work/a"), 0, 0644));
    ck_assert_int_eq(cleanup_unsent(), 0);
    ck_assert_line(ledger_of(ID), "^unlink-if .*work/a$");
    ck_assert_done(cleanup_undo());
}

/* A mark that only looks like one: cut off, too long, with a NUL, or in the program's ledger, which
 * is not believed. */
TEST(sent_mark_forged)
{
    static char zeros[CLEANUP_RECORD_MAX];
    uint64_t n;

    leave(ID, "unlink /no/such\nsent 12");
    ck_assert(!cleanup_was_sent(ledgers, ID, &n));
    leave(ID, "#ent 12\nrun sent 12\nsent\nsent x\nsent 12x\n");
    ck_assert(!cleanup_was_sent(ledgers, ID, &n));
    memset(zeros, '0', sizeof zeros - 1);
    leave(ID, "sent %s1\n", zeros);
    ck_assert(!cleanup_was_sent(ledgers, ID, &n));
    leave(ID, "sent 12");
    int fd = openat(ledgers, ID, O_WRONLY | O_APPEND | O_CLOEXEC);
    ck_assert_int_eq(write(fd, "\0tail\n", 6), 6);
    close(fd);
    ck_assert(!cleanup_was_sent(ledgers, ID, &n));
    leave(ID, "unlink /no/such\n");
    leave(with("%s.p", ID), "sent 12\n");
    ck_assert(!cleanup_was_sent(ledgers, ID, &n));
    leave(ID, "sent 12\n");
    ck_assert(cleanup_was_sent(ledgers, ID, &n));
    ck_assert_uint_eq(n, 12);
}

static void die_after_sent(void)
{
    begin();
    close(cleanup_create(at("work/a"), 0, 0644));
    ck_assert_ptr_nonnull(cleanup_tempdir());
    ck_assert_int_eq(cleanup_run("undo"), 0);
    ck_assert_int_ge(cleanup_open_for_program(), 0);
    ck_assert_int_eq(cleanup_sent(100), 0);
}

static void die_after_sent_to_nobody(void)
{
    begin();
    close(cleanup_create(at("work/a"), 0, 0644));
    ck_assert_ptr_nonnull(cleanup_tempdir());
    ck_assert_int_eq(cleanup_sent(0), 0);
    ck_assert_int_eq(cleanup_sent(100), 0);
}

/* What is kept whatever the peer has is kept when the peer has it not. */
TEST(refuted_and_kept_all_the_same)
{
    struct cleanup_settling how = {.dir = ledgers, .id = ID, .run = note_run};
    bool kept = false;

    in_child(die_after_sent_to_nobody);
    ck_assert_int_eq(cleanup_settle_refuted(&how, &kept), CLEANUP_DONE);
    ck_assert(kept);
    ck_assert_str_eq(listing("work"), "a ");
    ck_assert_str_eq(listing("tmp"), "");
    ck_assert_str_eq(listing("ledgers"), "");
}

static void no_longer_sent(const char *command)
{
    uint64_t n;

    (void)command;
    ck_assert(!cleanup_was_sent(ledgers, ID, &n));
}

/* The peer had it all: results stay, the scratch goes. It had not: all is undone, and whoever
 * would have to go on after a crash in between no longer finds the mark. */
TEST_TIMES(kept_or_refuted, 2)
{
    struct cleanup_settling how = {.dir = ledgers, .id = ID, .run = note_run};

    in_child(die_after_sent);
    ck_assert_str_ne(listing("tmp"), "");
    if (_i) {
        ck_assert_int_eq(cleanup_settle_kept(&how), CLEANUP_DONE);
        ck_assert_str_eq(listing("work"), "a ");
        ck_assert_str_eq(runs, "");
    } else {
        on_run = no_longer_sent;
        bool kept = true;
        ck_assert_int_eq(cleanup_settle_refuted(&how, &kept), CLEANUP_DONE);
        ck_assert(!kept);
        ck_assert_str_eq(listing("work"), "");
        ck_assert_str_eq(runs, "undo\n");
    }
    ck_assert_str_eq(listing("tmp"), "");
    ck_assert_str_eq(listing("ledgers"), "");
}

/* ---- The program's own ledger ------------------------------------------------------------ */

TEST(program_ledger_first)
{
    begin();
    int fd = cleanup_open_for_program();
    ck_assert_int_ge(fd, 0);
    ck_assert_str_eq(listing("ledgers"), with("%s %s.p ", ID, ID));
    ck_assert_int_eq(cleanup_run("server"), 0);
    ck_assert_int_eq(write(fd, "run program\n", 12), 12);
    ck_assert_int_eq(cleanup_run("server again"), 0);
    ck_assert_int_eq(cleanup_append(fd, "run", "program again", false), 0);
    close(fd);
    ck_assert_done(settle());
    ck_assert_str_eq(runs, "program again\nprogram\nserver again\nserver\n");
    ck_assert_str_eq(listing("ledgers"), "");
}

TEST(program_ledger_kept)
{
    begin();
    file_write(at("work/a"), "");
    int fd = cleanup_open_for_program();
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(cleanup_append(fd, "unlink", at("work/a"), false), 0);
    close(fd);
    ck_assert(cleanup_pending());
    ck_assert_int_eq(cleanup_keep(), CLEANUP_DONE);
    ck_assert_str_eq(listing("work"), "a ");
    ck_assert_str_eq(listing("ledgers"), "");
}

/* `> /dev/fd/3` truncates: what it threw away is lost and said so, but not what it wrote, nor
 * what the server recorded. */
TEST(program_ledger_truncated)
{
    char path[64];

    begin();
    file_write(at("work/server"), "");
    ck_assert_int_eq(cleanup_unlink(at("work/server")), 0);
    int fd = cleanup_open_for_program();
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(cleanup_append(fd, "unlink", at("work/lost"), false), 0);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    int careless = open(path, O_WRONLY | O_TRUNC | O_CLOEXEC);
    ck_assert_int_ge(careless, 0);
    file_write(at("work/program"), "");
    ck_assert_int_gt(dprintf(careless, "unlink %s\n", at("work/program")), 0);
    close(careless);
    close(fd);
    (void)settle();
    ck_assert_str_eq(listing("work"), "");
    ck_assert_line(reports, with("^%s: ", ID));
}

/* What has the same size and says something else is no ledger without records. */
TEST_TIMES(program_ledger_rewritten, 2)
{
    struct stat st;
    char line[CLEANUP_RECORD_MAX];

    begin();
    int fd = cleanup_open_for_program();
    ck_assert_int_eq(fstat(fd, &st), 0);
    ck_assert(!cleanup_has_records());
    snprintf(line, sizeof line, "run true %0*d\n", (int)st.st_size - 10, 0);
    int own = open(at("ledgers/%s.p", ID), O_WRONLY | (_i == 0 ? O_TRUNC : 0) | O_CLOEXEC);
    ck_assert_int_eq(write(own, line, strlen(line)), st.st_size);
    ck_assert(cleanup_has_records());
    close(own);
    ck_assert_int_eq(cleanup_undo(), CLEANUP_RUN_LEFT);
}

/* With --sync every record is on the disk when it is written, whoever writes it. */
TEST(program_ledger_is_synced)
{
    for (int sync = 0; sync < 2; sync++) {
        struct cleanup_owner owner = {
            .dir = ledgers, .id = ID, .title = "GET /test", .tmpdir = at("tmp"), .sync = sync};

        cleanup_begin(&owner);
        int fd = cleanup_open_for_program();
        ck_assert_int_ge(fd, 0);
        ck_assert_int_eq(fcntl(fd, F_GETFL) & O_DSYNC, sync ? O_DSYNC : 0);
        close(fd);
        ck_assert_done(settle());
    }
}

/* ---- Who owns a ledger ------------------------------------------------------------------- */

static void be_a_helper(void)
{
    ck_assert(!cleanup_is_owner());
    ck_assert(!cleanup_pending());
    ck_assert_int_eq(cleanup_create(at("work/b"), 0, 0644), -1);
    ck_assert_int_eq(errno, EPERM);
    ck_assert_int_eq(cleanup_mkdir(at("work/b"), 0755), -1);
    ck_assert_int_eq(errno, EPERM);
    ck_assert_int_eq(cleanup_unlink(at("work/b")), -1);
    ck_assert_int_eq(errno, EPERM);
    ck_assert_int_eq(cleanup_rmtree(at("work/b")), -1);
    ck_assert_int_eq(errno, EPERM);
    ck_assert_int_eq(cleanup_run("true"), -1);
    ck_assert_int_eq(errno, EPERM);
    ck_assert_int_eq(cleanup_commit(), -1);
    ck_assert_int_eq(errno, EPERM);
    ck_assert_int_eq(cleanup_sent(1), -1);
    ck_assert_int_eq(errno, EPERM);
    ck_assert_ptr_null(cleanup_tempdir());
    ck_assert_int_eq(errno, EPERM);
    ck_assert_int_eq(cleanup_open_for_program(), -1);
    ck_assert_int_eq(errno, EPERM);
    (void)cleanup_undo();
    (void)cleanup_keep();
}

TEST(forked_helper)
{
    begin();
    arm();
    ck_assert(cleanup_is_owner());
    close(cleanup_create(at("work/a"), 0, 0644));
    const char *before = ledger_of(ID);
    in_child(be_a_helper);
    pid_t helper = start_ready(wait_for_term);
    ck_assert_int_eq(kill(helper, SIGTERM), 0);
    ck_assert_int_eq(WEXITSTATUS(status_of(helper)), 9);
    ck_assert_str_eq(listing("work"), "a ");
    ck_assert_str_eq(ledger_of(ID), before);
    ck_assert_done(cleanup_undo());
    ck_assert_str_eq(listing("work"), "");
}
