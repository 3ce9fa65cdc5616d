/* check_slot.c: what a slot keeps from one request to the next, its two files and its scratch
 * directory, and that nothing of the one before reaches the next one with them.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "harness_ledgers.h"
#include "reader.h"

SUITE(LEDGERS);

/* The request before, which has been answered; the one that is looked at is ID. */
static const char *before(void)
{
    static char id[CLEANUP_ID_SIZE];
    snprintf(id, sizeof id, "%s-2", TOKEN);
    return id;
}

static struct stat stat_of(const char *path)
{
    struct stat now;
    ck_assert_msg(lstat(path, &now) == 0, "%s: %s", path, strerror(errno));
    return now;
}

/* Settle the ledger ID, which its slot still has. */
static enum cleanup_result settle_in_slot(void)
{
    struct cleanup_settling how = {.dir = ledgers, .id = ID, .name = "slot-0", .run = note_run};
    return cleanup_settle(&how);
}

/* ---- Records ------------------------------------------------------------------------------- */

THEME("records");

static const char *title_before, *title_now;
static unsigned requests_before;

/* Requests that record, in both files, and are answered. */
static void be_answered(void)
{
    begin_in_slot(0, before(), title_before);
    int fd = cleanup_open_for_program();
    ck_assert_int_ge(fd, 0);
    ck_assert_ptr_nonnull(cleanup_tempdir());
    ck_assert_int_eq(cleanup_unlink(at("work/old")), 0);
    ck_assert_int_eq(cleanup_rmtree(at("work/tree")), 0);
    ck_assert_int_eq(cleanup_run("undo what was answered"), 0);
    ck_assert_int_eq(cleanup_append(fd, "unlink", at("work/program"), false), 0);
    ck_assert_int_eq(cleanup_append(fd, "run", "undo what the program was answered", false), 0);
    ck_assert_int_eq(cleanup_sent(7), 0);
    ck_assert_done(cleanup_keep());
}

static void make_before(void)
{
    file_write(at("work/old"), "");
    file_write(at("work/program"), "");
    ck_assert_int_eq(mkdir(at("work/tree"), 0755), 0);
    for (unsigned i = 0; i < requests_before; i++)
        in_child(be_answered);
    ck_assert_str_eq(listing("ledgers"), "slot-0 "); /* what a program has recorded is not kept */
}

static void before_is_there(void)
{
    ck_assert_str_eq(listing("work"), "old program tree ");
    ck_assert_str_eq(runs, "");
}

/* Ways to die, each with a ledger of which little or nothing is to be undone. */
static void die_at_once(void)
{
    begin_in_slot(0, ID, title_now);
    ck_assert_ptr_nonnull(cleanup_tempdir());
    raise(SIGKILL);
}

static void die_with_a_record(void)
{
    begin_in_slot(0, ID, title_now);
    ck_assert_int_eq(cleanup_unlink("/x"), 0);
    raise(SIGKILL);
}

static void die_with_a_program(void)
{
    begin_in_slot(0, ID, title_now);
    ck_assert_int_ge(cleanup_open_for_program(), 0);
    raise(SIGKILL);
}

/* As a shell does at `> /dev/fd/3`. */
static void die_with_a_cut_file(void)
{
    char path[64];
    begin_in_slot(0, ID, title_now);
    snprintf(path, sizeof path, "/proc/self/fd/%d", cleanup_open_for_program());
    ck_assert_int_ge(open(path, O_WRONLY | O_TRUNC | O_CLOEXEC), 0);
    raise(SIGKILL);
}

static void (*const deaths[])(void) = {die_at_once, die_with_a_record, die_with_a_program,
                                       die_with_a_cut_file};
static const char *const title_pairs[][2] = {
    {"GET /", "GET /"},
    {"GET /a/title/that/is/longer/than/the/next/one?and=has&a=query", "GET /"},
    {"GET /", "GET /a/title/that/is/longer/than/the/one/before?and=has&a=query"},
};
/* So many that the file is short, long, and has been cut back. */
static const unsigned counts[] = {1, 5, 12};

/* Whoever settles it, and wherever it is by then. */
TEST_TIMES(records_of_the_one_before_stay_away, COUNT(deaths) * COUNT(title_pairs) * COUNT(counts))
{
    unsigned death = (unsigned)_i % COUNT(deaths), rest = (unsigned)_i / COUNT(deaths);
    uint64_t n;
    title_before = title_pairs[rest % COUNT(title_pairs)][0];
    title_now = title_pairs[rest % COUNT(title_pairs)][1];
    requests_before = counts[rest / COUNT(title_pairs)];
    make_before();
    ck_assert_int_le(stat_of(at("ledgers/slot-0")).st_size, 4096);
    ck_assert(dead_by(start(deaths[death]), SIGKILL));
    ck_assert(cleanup_exists(ledgers, ID));
    ck_assert_int_eq(cleanup_was_sent(ledgers, "slot-0", &n), 0);
    if (_i % 2 == 0) {
        ck_assert_done(settle_in_slot());
        before_is_there();
        ck_assert_int_eq(strncmp(ledger_of("slot-0"), "# hangupd slot, idle: ", 22), 0);
    } else { /* as recovery does it */
        ck_assert(cleanup_move(ledgers, "slot-0", ledgers, ID));
        ck_assert_done(settle());
        before_is_there();
        ck_assert_str_eq(listing("ledgers"), "");
    }
    ck_assert(!cleanup_exists(ledgers, ID));
    ck_assert_str_eq(listing("tmp"), "");
}

/* What dies with a ledger that nobody settles goes on under the name of its request, and the slot
 * with files of its own. */
static void die_with_all(void)
{
    begin_in_slot(0, ID, "GET /");
    int fd = cleanup_open_for_program();
    ck_assert_int_eq(cleanup_run("own"), 0);
    ck_assert_int_eq(cleanup_append(fd, "run", "program", false), 0);
    raise(SIGKILL);
}

static void be_the_next(void)
{
    begin_in_slot(0, before(), "GET /");
    ck_assert_int_ge(cleanup_open_for_program(), 0);
    ck_assert_str_eq(cleanup_tempdir(), at("tmp/0A")); /* 0 is still needed */
    ck_assert_done(cleanup_keep());
}

TEST(ledger_that_was_left_outlives_its_slot)
{
    ck_assert(dead_by(start(die_with_all), SIGKILL));
    ck_assert_str_eq(listing("ledgers"), "slot-0 slot-0.p ");
    in_child(be_the_next);
    ck_assert_str_eq(listing("ledgers"), with("%s %s.p slot-0 slot-0.p ", ID, ID));
    ck_assert_str_eq(listing("tmp"), "0 0A ");
    in_child(be_the_next);
    ck_assert_str_eq(listing("tmp"), "0 0A ");
    ck_assert_done(settle());
    ck_assert_str_eq(runs, "program\nown\n");
    ck_assert_str_eq(listing("ledgers"), "slot-0 slot-0.p ");
    ck_assert_str_eq(listing("tmp"), "0A ");
}

/* If it cannot get its name, the slot has no ledger to give: nothing is recorded, so nothing may be
 * made; and what was left is as it was. */
static void be_refused(void)
{
    begin_in_slot(0, before(), "GET /");
    ck_assert_int_eq(cleanup_unlink(at("work/a")), -1);
    ck_assert_int_eq(cleanup_open_for_program(), -1);
    ck_assert_done(cleanup_undo());
}

TEST(ledger_that_cannot_leave_its_slot)
{
    ck_assert(dead_by(start(die_with_all), SIGKILL));
    ck_assert_int_eq(mkdir(at("ledgers/%s", ID), 0700), 0);
    in_child(be_refused);
    ck_assert(cleanup_exists(ledgers, ID));
    ck_assert_int_eq(rmdir(at("ledgers/%s", ID)), 0);
    in_child(be_the_next);
    ck_assert_done(settle());
    ck_assert_str_eq(runs, "program\nown\n");
}

/* The head of a slot's file may be in doubt, and then nothing is done by its word. */
TEST(head_that_is_cut)
{
    char text[2048];
    int n = snprintf(text, sizeof text,
                     "# hangupd ledger 2 id=%s from=600 program=0 pid=1 start=1 "
                     "boot=%s GET /\n",
                     ID, boot_id());
    snprintf(text + n, sizeof text - (size_t)n, "#%0400d\nunlink %s", 0, at("work/a"));
    file_write(at("work/a"), "");
    snprintf(text + LEDGER_HEAD_SIZE, sizeof text - LEDGER_HEAD_SIZE, "%s\n%0100d\nrun this\n",
             " and all that follows", 0);
    file_write(at("ledgers/%s", ID), text);
    (void)settle();
    ck_assert_str_eq(listing("work"), "a ");
}

/* ---- A slot without a ledger --------------------------------------------------------------- */

THEME("idle");

TEST(idle_slot_has_no_ledger)
{
    size_t count;
    struct cleanup_look look;
    requests_before = 3;
    title_before = "GET /";
    make_before();
    ck_assert(!cleanup_exists(ledgers, before()));
    ck_assert_ptr_null(cleanup_list(ledgers, &count));
    ck_assert_uint_eq(count, 0);
    free(cleanup_look_ledgers(ledgers, &count));
    ck_assert_uint_eq(count, 0);
    ck_assert(!cleanup_look_ledger(ledgers, "slot-0", &look));
    ck_assert_int_eq(errno, ENOENT);
    ck_assert_done(settle_in_slot());
    before_is_there();
    /* For people, who find lines there. */
    const char *text = ledger_of("slot-0");
    ck_assert_int_eq(strncmp(text, "# hangupd slot, idle: ", 22), 0);
    ck_assert_line(text,
                   "^# The lines below are of requests that have ended: nothing is to be undone");
    ck_assert_no_line(text, "hangupd ledger");
    ck_assert_ptr_null(strstr(text, "program was answered")); /* nor is the program's anywhere */
}

/* An id that belongs to another request by now is nobody's ledger. */
static void die_for_another(void)
{
    begin_in_slot(0, before(), "GET /");
    ck_assert_int_eq(cleanup_unlink(at("work/a")), 0);
    raise(SIGKILL);
}

TEST(slot_of_another_request_is_left_alone)
{
    file_write(at("work/a"), "");
    ck_assert(dead_by(start(die_for_another), SIGKILL));
    const char *text = ledger_of("slot-0");
    ck_assert_done(settle_in_slot());
    ck_assert_str_eq(ledger_of("slot-0"), text);
    ck_assert_str_eq(listing("work"), "a ");
}

/* ---- Files that are used again ------------------------------------------------------------- */

THEME("files");

static const char *const titles[] = {"GET /", "GET /1", "GET /12", "GET /123456789", "GET"};
static bool undone, synced;

static void be_first(void)
{
    begin_in_slot(0, before(), title_before);
    ck_assert_int_ge(cleanup_open_for_program(), 0);
    ck_assert_str_eq(cleanup_tempdir(), at("tmp/0"));
    ck_assert_done(cleanup_keep());
}

static void be_second(void)
{
    begin_in_slot(0, ID, "GET /");
    int fd = cleanup_open_for_program();
    ck_assert_ptr_null(cleanup_not_a_ledger(fd)); /* it is appended to */
    ck_assert_str_eq(cleanup_tempdir(), at("tmp/0"));
    const char *text = ledger_of("slot-0"), *program = ledger_of("slot-0.p");
    ck_assert_line(text, with("^# hangupd ledger 2 id=%s .* program=1 .* GET /$", ID));
    ck_assert_line(text, with("^scratch %s$", at("tmp/0")));
    ck_assert_ptr_null(strstr(text, before()));
    ck_assert_ptr_eq(strchr(program, '\n'), program + strlen(program) - 1);
    ck_assert(!cleanup_has_records());
    file_write(at("work/a"), "");
    ck_assert_int_eq(cleanup_append(fd, "unlink", at("work/a"), false), 0);
    ck_assert(cleanup_has_records());
    ck_assert_done(undone ? cleanup_undo() : cleanup_keep());
    ck_assert_str_eq(listing("work"), undone ? "" : "a ");
}

TEST_EACH(files_are_used_again, titles)
{
    title_before = titles[_i];
    undone = _i % 2 != 0;
    in_child(be_first);
    ck_assert_str_eq(listing("ledgers"), "slot-0 slot-0.p ");
    ck_assert_str_eq(listing("tmp"), "0 ");
    ino_t own = stat_of(at("ledgers/slot-0")).st_ino;
    ino_t program = stat_of(at("ledgers/slot-0.p")).st_ino;
    ino_t scratch = stat_of(at("tmp/0")).st_ino;
    in_child(be_first);
    ck_assert(stat_of(at("ledgers/slot-0")).st_ino == own);
    ck_assert(stat_of(at("ledgers/slot-0.p")).st_ino == program);
    ck_assert(stat_of(at("tmp/0")).st_ino == scratch);
    in_child(be_second);
    ck_assert(stat_of(at("ledgers/slot-0")).st_ino == own);
    ck_assert_str_eq(listing("ledgers"), "slot-0 ");
    ck_assert_str_eq(listing("tmp"), "");
}

/* On a file system without O_TMPFILE they have a name while they are made. One who died then does
 * not keep the next one from it. */
static void be_on_a_plain_file_system(void)
{
    if (!use_way(BY_RENAME)) {
        test_skipped("file_of_a_dead_maker", "no filter for system calls here");
        return;
    }
    be_first();
}

TEST(file_of_a_dead_maker)
{
    title_before = "GET /";
    file_write(at("ledgers/.slot-0"), "# hang");
    file_write(at("ledgers/.slot-0.p"), "");
    in_child(be_on_a_plain_file_system);
    if (exists(at("ledgers/slot-0")))
        ck_assert_str_eq(listing("ledgers"), "slot-0 slot-0.p ");
}

/* Another name of a file is another way to write to it. */
TEST(file_with_another_name_is_not_used_again)
{
    title_before = "GET /";
    in_child(be_first);
    struct stat own = stat_of(at("ledgers/slot-0")), program = stat_of(at("ledgers/slot-0.p"));
    ck_assert_int_eq(link(at("ledgers/slot-0"), at("work/own")), 0);
    ck_assert_int_eq(link(at("ledgers/slot-0.p"), at("work/program")), 0);
    in_child(be_the_next);
    ck_assert(stat_of(at("ledgers/slot-0")).st_ino != own.st_ino);
    ck_assert(stat_of(at("ledgers/slot-0.p")).st_ino != program.st_ino);
}

/* A descriptor that was passed on, to a process outside the request or to nobody yet, does not lead
 * to the next request's ledger. */
static int pass[2];

static void pass_on(void)
{
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control = {.header = {CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS}};
    struct iovec byte = {"", 1};
    struct msghdr m = {.msg_iov = &byte,
                       .msg_iovlen = 1,
                       .msg_control = &control,
                       .msg_controllen = sizeof control.bytes};
    begin_in_slot(0, before(), "GET /");
    int fd = cleanup_open_for_program();
    memcpy(CMSG_DATA(&control.header), &fd, sizeof fd);
    ck_assert_int_eq(sendmsg(pass[0], &m, 0), 1);
    ck_assert_done(cleanup_keep());
}

static int passed(void)
{
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control;
    char byte;
    struct iovec to = {&byte, 1};
    struct msghdr m = {
        .msg_iov = &to, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    int fd = -1;
    ck_assert_int_eq(recvmsg(pass[1], &m, MSG_CMSG_CLOEXEC), 1);
    memcpy(&fd, CMSG_DATA(&control.header), sizeof fd);
    return fd;
}

static void wait_with_a_program(void)
{
    begin_in_slot(0, ID, "GET /");
    ck_assert_int_eq(cleanup_append(cleanup_open_for_program(), "run", "this", false), 0);
    wait_for_term();
}

TEST_TIMES(descriptor_of_the_one_before, 4)
{
    int fd = -1;
    file_write(at("work/a"), "");
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pass), 0);
    in_child(pass_on);
    if (_i % 2 == 0)
        fd = passed();
    pid_t child = start_ready(wait_with_a_program);
    if (_i % 2 == 1)
        fd = passed();
    if (_i < 2)
        ck_assert_int_gt(dprintf(fd, "unlink %s\n", at("work/a")), 0);
    else
        ck_assert_int_eq(ftruncate(fd, 0), 0);
    end_by_kill(child);
    ck_assert_done(settle_in_slot());
    ck_assert_str_eq(listing("work"), "a ");
    ck_assert_str_eq(runs, "this\n");
    ck_assert_str_eq(reports, "");
    close(fd);
}

/* Where a file system has no leases, each program gets a file of its own. */
static void be_three(void)
{
    ck_assert_int_eq(fcntl(ledgers, F_SETLEASE, F_UNLCK), -1);
    for (int i = 0; i < 3; i++)
        be_first();
}

static void without_leases(void)
{
    if (!deny(SYS_fcntl, 1, F_SETLEASE, EINVAL)) {
        test_skipped("no_leases", "no filter for system calls here");
        return;
    }
    be_three();
    begin_in_slot(0, ID, "GET /");
    ck_assert_int_eq(cleanup_append(cleanup_open_for_program(), "run", "it", false), 0);
    raise(SIGKILL);
}

TEST(no_leases)
{
    title_before = "GET /";
    pid_t child = start(without_leases);
    int status = status_of(child);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return;
    ck_assert(WIFSIGNALED(status));
    ck_assert_done(settle_in_slot());
    ck_assert_str_eq(runs, "it\n");
    ck_assert_str_eq(listing("ledgers"), "slot-0 ");
}

/* Let CHILD go on until it is about to give its lease back. False: it has ended, with STATUS. */
static bool goes_on_to_give_back(pid_t child, int *status)
{
    for (long signal = 0;;) {
        struct __ptrace_syscall_info now = {0};
        ck_assert_int_eq(ptrace(PTRACE_SYSCALL, child, NULL, signal), 0);
        ck_assert_int_eq(waitpid(child, status, 0), child);
        if (!WIFSTOPPED(*status))
            return false;
        bool at_call = WSTOPSIG(*status) == (SIGTRAP | 0x80);
        signal = at_call ? 0 : WSTOPSIG(*status);
        if (at_call && ptrace(PTRACE_GET_SYSCALL_INFO, child, sizeof now, &now) > 0 &&
            now.op == PTRACE_SYSCALL_INFO_ENTRY && now.entry.nr == SYS_fcntl &&
            now.entry.args[1] == F_SETLEASE && now.entry.args[2] == F_UNLCK)
            return true;
    }
}

/* Whoever opens the file while it is looked at breaks the lease, whose signal must not end us. */
TEST(lease_that_is_broken)
{
    int status, broken = 0;
    title_before = "GET /";
    in_child(be_first);
    pid_t child = fork();
    ck_assert_int_ge(child, 0);
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        ptrace(PTRACE_TRACEME, 0, NULL, NULL);
        raise(SIGSTOP);
        be_first();
        _exit(0);
    }
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert_int_eq(ptrace(PTRACE_SETOPTIONS, child, NULL, PTRACE_O_TRACESYSGOOD), 0);
    while (goes_on_to_give_back(child, &status)) {
        int fd = open(at("ledgers/slot-0.p"), O_WRONLY | O_NONBLOCK | O_CLOEXEC);
        broken += fd < 0 && errno == EWOULDBLOCK;
        close(fd);
    }
    ck_assert_int_eq(broken, 1);
    ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 0, "status %x", (unsigned)status);
    ck_assert_str_eq(listing("ledgers"), "slot-0 slot-0.p ");
}

/* With --sync every record and every head is on the disk when it is written, also in a file that is
 * used again. */
static void be_synced(void)
{
    struct cleanup_owner owner = {.dir = ledgers,
                                  .id = ID,
                                  .title = "GET /",
                                  .tmpdir = at("tmp"),
                                  .pool_path = at("tmp"),
                                  .sync = synced,
                                  .slot = 1};
    unsigned count = 0;
    cleanup_begin(&owner);
    ck_assert_int_ge(cleanup_open_for_program(), 0);
    for (int fd = 3; fd < 100; fd++) {
        struct stat now;
        if (fstat(fd, &now) < 0 || (now.st_ino != stat_of(at("ledgers/slot-0")).st_ino &&
                                    now.st_ino != stat_of(at("ledgers/slot-0.p")).st_ino))
            continue;
        ck_assert_int_eq(fcntl(fd, F_GETFL) & O_DSYNC, synced ? O_DSYNC : 0);
        count++;
    }
    ck_assert_uint_eq(count, 2);
    ck_assert_done(cleanup_keep());
}

TEST_TIMES(files_are_synced, 2)
{
    synced = _i == 1;
    in_child(be_synced);
    in_child(be_synced);
}

/* ---- The scratch directory ----------------------------------------------------------------- */

THEME("scratch");

static void own_it(const char *path)
{
    ck_assert_int_eq(chown(path, geteuid(), getegid()), 0);
}

static void set_attribute(const char *path, const char *name, const char *value, size_t size)
{
    if (setxattr(path, name, value, size, 0) < 0) {
        ck_assert_int_eq(errno, EOPNOTSUPP);
        own_it(path);
    }
}

/* With it, what the next request makes there would be the user 12345's as well. */
static void share_it(const char *path)
{
    static const char acl[] = "\2\0\0\0" /* version; then tag, rights, who */
                              "\1\0\7\0\377\377\377\377"
                              "\2\0\7\0\x39\x30\0\0"
                              "\4\0\0\0\377\377\377\377"
                              "\20\0\7\0\377\377\377\377"
                              "\40\0\0\0\377\377\377\377";
    set_attribute(path, "system.posix_acl_default", acl, sizeof acl - 1);
}

static void name_it(const char *path)
{
    set_attribute(path, "user.name", "it", 2);
}

static void use_it(const char *path)
{
    char file[PATH_MAX];
    snprintf(file, sizeof file, "%s/a", path);
    file_write(file, "");
    ck_assert_int_eq(unlink(file), 0);
}

static void open_it(const char *path)
{
    ck_assert_int_eq(chmod(path, 0755), 0);
}

static void replace_it(const char *path)
{
    ck_assert_int_eq(rmdir(path), 0);
    ck_assert_int_eq(mkdir(path, 0700), 0);
}

/* The new one is made first, so that it is another inode for certain. */
static void exchange_it(const char *path)
{
    ck_assert_int_eq(mkdir(at("tmp/another"), 0700), 0);
    ck_assert_int_eq(rename(at("tmp/another"), path), 0);
}

static void link_it(const char *path)
{
    ck_assert_int_eq(rmdir(path), 0);
    ck_assert_int_eq(symlink(at("work"), path), 0);
}

static void remove_it(const char *path)
{
    ck_assert_int_eq(rmdir(path), 0);
}

static void fill_it(const char *path)
{
    char file[PATH_MAX];
    snprintf(file, sizeof file, "%s/a", path);
    file_write(file, "");
}

static const struct change {
    void (*change)(const char *path);
    bool shows; /* in the same tick, too */
} changes[] = {{own_it, false},   {use_it, false},     {share_it, true},     {name_it, true},
               {open_it, true},   {replace_it, false}, {exchange_it, false}, {link_it, true},
               {remove_it, true}, {fill_it, true}};

static bool same_change_time(const struct stat *a, const struct stat *b)
{
    return a->st_ctim.tv_sec == b->st_ctim.tv_sec && a->st_ctim.tv_nsec == b->st_ctim.tv_nsec;
}

static const struct change *change;
static bool in_its_tick, at_its_end;

/* A request whose program changes the directory, in the tick of the clock of files in which it was
 * made, or after that; or a process that it has left behind does so at its end. */
static void be_changed(void)
{
    struct stat made, now;
    begin_in_slot(0, before(), "GET /");
    ck_assert_int_ge(cleanup_open_for_program(), 0);
    const char *scratch = cleanup_tempdir();
    ck_assert_str_eq(scratch, at("tmp/0"));
    ck_assert_int_eq(stat(scratch, &made), 0);
    if (!in_its_tick)
        sleep_ms(15);
    if (at_its_end)
        ck_assert_done(cleanup_keep());
    change->change(scratch);
    if (in_its_tick && lstat(scratch, &now) == 0 && !same_change_time(&made, &now))
        _exit(1); /* it was another tick by then */
    if (!at_its_end)
        ck_assert_done(cleanup_keep());
}

static void be_after_a_change(void)
{
    struct stat now;
    begin_in_slot(0, ID, "GET /");
    ck_assert_int_ge(cleanup_open_for_program(), 0);
    const char *scratch = cleanup_tempdir();
    ck_assert_int_eq(lstat(scratch, &now), 0);
    ck_assert_uint_eq(now.st_mode, S_IFDIR | 0700);
    ck_assert_uint_eq(now.st_uid, geteuid());
    ck_assert_str_eq(listing("tmp/0"), "");
    ck_assert_int_le(getxattr(scratch, "user.name", NULL, 0), 0);
    ck_assert_int_le(getxattr(scratch, "system.posix_acl_default", NULL, 0), 0);
    ck_assert_done(cleanup_keep());
}

TEST_EACH(changed_scratch_is_not_used_again, changes)
{
    change = &changes[_i];
    in_child(be_changed);
    ck_assert_str_eq(listing("tmp"), "");
    in_child(be_after_a_change);
    ck_assert_str_eq(listing("tmp"), "0 ");
    ck_assert_str_eq(listing("work"), "");
}

/* What does not show by the time of the change shows by a look into it. */
static void change_in_the_same_tick_as_made(void)
{
    in_its_tick = true;
    int tries = 0;
    for (; tries < 200 && status_of(start(be_changed)) != 0; tries++) {
        remove_tree(at("tmp/0"));
        remove_tree(at("ledgers/slot-0"));
        remove_tree(at("ledgers/slot-0.p"));
    }
    if (tries == 200) {
        test_skipped("change_in_the_same_tick", "each change here has a time of its own");
        return;
    }
    if (change->shows && !at_its_end)
        ck_assert_str_eq(listing("tmp"), "");
    in_child(be_after_a_change);
    ck_assert_str_eq(listing("work"), "");
}

TEST_EACH(change_in_the_same_tick, changes)
{
    change = &changes[_i];
    change_in_the_same_tick_as_made();
}

TEST_EACH(change_in_the_same_tick_at_the_end, changes)
{
    change = &changes[_i];
    at_its_end = true;
    change_in_the_same_tick_as_made();
}

/* A process that a request has left behind, or anybody else, changes it when it is nobody's. */
TEST_EACH(scratch_that_is_changed_later, changes)
{
    title_before = "GET /";
    in_child(be_first);
    sleep_ms(15);
    changes[_i].change(at("tmp/0"));
    in_child(be_after_a_change);
    ck_assert_str_eq(listing("tmp"), "0 ");
    ck_assert_str_eq(listing("work"), "");
    in_child(be_after_a_change);
}

/* A request that wants no scratch directory, between two that do. */
static bool is_killed, wants_one_late;

static void be_without_scratch(void)
{
    begin_in_slot(0, ID, "GET /");
    ck_assert_int_eq(cleanup_unlink(at("work/it")), 0);
    if (wants_one_late)
        ck_assert_str_eq(cleanup_tempdir(), at("tmp/0"));
    if (is_killed)
        raise(SIGKILL);
    ck_assert_done(cleanup_keep());
}

TEST_TIMES(scratch_stays_while_others_do_without, 4)
{
    title_before = "GET /";
    is_killed = (_i & 1) != 0;
    wants_one_late = (_i & 2) != 0;
    in_child(be_first);
    sleep_ms(15);
    in_child(be_after_a_change); /* by now each change would show */
    ino_t kept = stat_of(at("tmp/0")).st_ino;
    int status = status_of(start(be_without_scratch));
    if (is_killed) {
        ck_assert(WIFSIGNALED(status));
        ck_assert_done(settle_in_slot());
        ck_assert_str_eq(listing("tmp"), "");
    } else {
        ck_assert_int_eq(status, 0);
        ck_assert_str_eq(listing("tmp"), "0 ");
        ck_assert(stat_of(at("tmp/0")).st_ino == kept);
    }
    in_child(be_after_a_change);
    ck_assert_str_eq(listing("tmp"), "0 ");
}

/* Short, as a socket's path has 107 bytes at most. */
static const struct {
    unsigned slot;
    const char *name;
} names[] = {{0, "0"},   {9, "9"},     {10, "a"},      {31, "v"},
             {32, "10"}, {1023, "vv"}, {32767, "vvv"}, {1048575, "vvvv"}};

TEST_EACH(scratch_has_a_short_name, names)
{
    begin_in_slot(names[_i].slot, ID, "GET /");
    ck_assert_int_ge(cleanup_open_for_program(), 0);
    ck_assert_str_eq(cleanup_tempdir(), at("tmp/%s", names[_i].name));
    ck_assert_str_eq(listing("ledgers"),
                     with("slot-%u slot-%u.p ", names[_i].slot, names[_i].slot));
    ck_assert_done(cleanup_keep());
    /* With a letter, in a pool in /tmp. */
    ck_assert_uint_le(strlen("/tmp/hangupd-12345/") + strlen(names[_i].name) + 1, 24);
}

/* Somebody has cleaned TMPDIR up: the scratch directory is made elsewhere. */
static void be_without_a_pool(void)
{
    struct cleanup_owner owner = {.dir = ledgers,
                                  .id = ID,
                                  .title = "GET /",
                                  .tmpdir = at("tmp"),
                                  .pool_path = at("tmp/hangupd-%.5s", TOKEN),
                                  .slot = 1};
    struct cleanup_look look;
    cleanup_begin(&owner);
    ck_assert_int_ge(cleanup_open_for_program(), 0);
    const char *scratch = cleanup_tempdir();
    ck_assert_ptr_nonnull(scratch);
    ck_assert_int_eq(strncmp(scratch, at("tmp/hangupd-"), strlen(at("tmp/hangupd-"))), 0);
    ck_assert_uint_eq(strlen(scratch), strlen(at("tmp/hangupd-")) + 8);
    ck_assert(exists(scratch));
    ck_assert(cleanup_look_ledger(ledgers, "slot-0", &look));
    ck_assert_uint_eq(look.records, 1); /* it is recorded once */
    ck_assert_done(undone ? cleanup_undo() : cleanup_keep());
}

TEST_TIMES(pool_that_is_gone, 2)
{
    undone = _i == 1;
    in_child(be_without_a_pool);
    ck_assert_str_eq(listing("ledgers"), "slot-0 slot-0.p ");
    ck_assert_str_eq(listing("tmp"), "");
    in_child(be_without_a_pool);
    ck_assert_str_eq(listing("tmp"), "");
}

/* ...and another user has taken the name of the pool: nothing of ours is in there, and what is, or
 * is behind a link there, is neither used nor removed. */
static struct cleanup_owner in_pool;

static void be_in_the_pool(void)
{
    as_nobody();
    cleanup_begin(&in_pool);
    ck_assert_int_ge(cleanup_open_for_program(), 0);
    ck_assert_str_eq(cleanup_tempdir(), with("%s/0", in_pool.pool_path));
    ck_assert_done(cleanup_keep());
}

static void be_beside_a_stranger(void)
{
    as_nobody();
    cleanup_begin(&in_pool);
    ck_assert_int_ge(cleanup_open_for_program(), 0);
    ck_assert_ptr_nonnull(cleanup_tempdir());
    ck_assert_ptr_null(strstr(cleanup_tempdir(), in_pool.pool_path));
    ck_assert_done(undone ? cleanup_undo() : cleanup_keep());
}

/* The name is taken while the request runs. */
static void lose_the_pool(void)
{
    as_nobody();
    cleanup_begin(&in_pool);
    ck_assert_int_ge(cleanup_open_for_program(), 0);
    fill_it(cleanup_tempdir());
    say_ready();
    while (!exists(at("tmp/taken")))
        sleep_ms(1);
    ck_assert_done(undone ? cleanup_undo() : cleanup_keep());
}

static void take_the_pool(int way)
{
    const char *pool = in_pool.pool_path;
    ck_assert_int_eq(rename(pool, at("tmp/cleaned-up")), 0);
    ck_assert_int_eq(mkdir(at("victims"), 0755), 0);
    ck_assert_int_eq(mkdir(at("victims/0"), 0755), 0);
    file_write(at("victims/0/a"), "");
    if (way == 0)
        ck_assert_int_eq(rename(at("victims"), pool), 0);
    else
        ck_assert_int_eq(symlink(at("victims"), pool), 0);
    ck_assert_int_eq(chmod(pool, 0777), 0);
    if (way == 1) {
        give_to_nobody("victims");
        give_to_nobody("victims/0");
    }
}

TEST_TIMES(pool_of_a_stranger, 8)
{
    if (geteuid() != 0)
        return;
    in_pool = (struct cleanup_owner){.dir = ledgers,
                                     .id = ID,
                                     .title = "GET /",
                                     .tmpdir = strdup(at("tmp")),
                                     .pool_path = strdup(at("tmp/hangupd-%.5s", TOKEN)),
                                     .slot = 1};
    undone = _i % 2 == 1;
    give_to_nobody("");
    give_to_nobody("tmp");
    give_to_nobody("ledgers");
    ck_assert_int_eq(mkdir(in_pool.pool_path, 0700), 0);
    give_to_nobody(with("tmp/hangupd-%.5s", TOKEN));
    if (_i < 4) {
        in_child(be_in_the_pool);
        take_the_pool(_i / 2 % 2);
        in_child(be_beside_a_stranger);
    } else {
        pid_t child = start_ready(lose_the_pool);
        take_the_pool(_i / 2 % 2);
        file_write(at("tmp/taken"), "");
        ck_assert_int_eq(status_of(child), 0);
    }
    ck_assert(exists(with("%s/0/a", in_pool.pool_path)));
    ck_assert_int_eq(strncmp(ledger_of("slot-0"), "# hangupd slot, idle: ", 22), 0);
}

/* What could not be removed is named, and it is not the ledger; also where the program has cut its
 * own file. */
static char *mounted;

static void fail_to_remove(void)
{
    char *scratch;
    begin_in_slot(0, ID, "GET /");
    int fd = cleanup_open_for_program();
    ck_assert_int_ge(fd, 0);
    scratch = strdup(cleanup_tempdir());
    mounted = strdup(with("%s/mounted", scratch));
    ck_assert_int_eq(mkdir(mounted, 0755), 0);
    ck_assert_int_eq(mount("tmpfs", mounted, "tmpfs", 0, "size=64k"), 0);
    ck_assert_int_eq(ftruncate(fd, 0), 0);
    ck_assert_int_eq(cleanup_undo(), CLEANUP_FAILED);
    ck_assert_ptr_nonnull(strstr(reports, with("could not undo: scratch %s", scratch)));
    ck_assert_ptr_null(strstr(reports, "could not remove the ledger"));
    ck_assert_str_eq(listing("ledgers"), "slot-0 slot-0.p ");
    ck_assert(cleanup_exists(ledgers, ID));
    ck_assert_int_eq(umount(mounted), 0);
    ck_assert_done(cleanup_undo());
    ck_assert_str_eq(listing("tmp"), "");
    ck_assert_str_eq(listing("ledgers"), "slot-0 ");
}

static void take_another(void)
{
    begin_in_slot(0, with("%sf", ID), "GET /next");
    ck_assert_str_eq(strrchr(cleanup_tempdir(), '/'), "/0A");
}

/* The record of a scratch directory that is gone could not be struck out, and is tried again when
 * the slot has another request: that must not get a directory of this name. */
TEST(name_of_a_record_that_stays_is_not_given_away)
{
    struct rlimit limit, before;
    struct stat there;
    char path[PATH_MAX];

    begin_in_slot(0, ID, "GET /test");
    snprintf(path, sizeof path, "%s", cleanup_tempdir());
    ck_assert_int_eq(getrlimit(RLIMIT_FSIZE, &before), 0);
    limit = before;
    limit.rlim_cur = 16;
    signal(SIGXFSZ, SIG_IGN);
    bool limited = setrlimit(RLIMIT_FSIZE, &limit) == 0;
    enum cleanup_result result = cleanup_undo();
    ck_assert(setrlimit(RLIMIT_FSIZE, &before) == 0 && limited);
    ck_assert_int_eq(result, CLEANUP_FAILED);
    ck_assert_int_eq(stat(path, &there), 0);
    ck_assert(cleanup_move(ledgers, "slot-0", ledgers, ID));
    in_child(take_another);
    ck_assert_done(cleanup_settle(&(struct cleanup_settling){.dir = ledgers, .id = ID}));
    ck_assert_int_lt(stat(path, &there), 0);
}

TEST(scratch_that_cannot_be_removed)
{
    if (may_mount())
        fail_to_remove();
}
