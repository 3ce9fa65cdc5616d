/* check_state.c: STATE, and recovery of what dead servers left there. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness_ledgers.h"

SUITE(LEDGERS);

/* ---- State ------------------------------------------------------------------------------- */

THEME("state");

static int state_open(const char *path, const char **why)
{
    *why = NULL;
    return cleanup_state_open(path, geteuid(), getegid(), why);
}

static int open_state(void)
{
    const char *why;
    int fd = state_open(at("state"), &why);

    ck_assert_msg(fd >= 0, "%s: %s", why, strerror(errno));
    return fd;
}

TEST(state_made_private)
{
    struct stat st;

    umask(0);
    int fd = open_state();
    ck_assert_int_eq(fcntl(fd, F_GETFD), FD_CLOEXEC);
    close(fd);
    ck_assert_int_eq(lstat(at("state"), &st), 0);
    ck_assert_uint_eq(st.st_mode, S_IFDIR | 0700);
    ck_assert_uint_eq(st.st_uid, geteuid());
    close(open_state()); /* and again */
}

static void state_refused(const char *path, const char *word)
{
    const char *why;

    ck_assert_int_eq(state_open(path, &why), -1);
    ck_assert_ptr_nonnull(why);
    ck_assert_msg(has_line(why, word), "%s: %s", path, why);
}

TEST(state_refuses)
{
    ck_assert_int_eq(mkdir(at("open"), 0700), 0);
    ck_assert_int_eq(chmod(at("open"), 0750), 0);
    state_refused(at("open"), "0700|mode|private");
    ck_assert_int_eq(errno, 0); /* no call failed */
    file_write(at("file"), "");
    state_refused(at("file"), "directory");
    ck_assert_int_eq(mkdir(at("real"), 0700), 0);
    ck_assert_int_eq(symlink(at("real"), at("link")), 0);
    state_refused(at("link"), "link");
    state_refused(at("file/below"), ".");
    ck_assert_str_eq(listing("real"), "");
    if (geteuid() == 0) {
        ck_assert_int_eq(mkdir(at("other"), 0700), 0);
        ck_assert_int_eq(chown(at("other"), 1, 1), 0);
        state_refused(at("other"), "own|belong");
        ck_assert_int_eq(errno, 0);
    }
}

TEST(state_for_another_owner)
{
    const char *why;
    struct stat st;

    if (geteuid() != 0)
        return;
    int fd = cleanup_state_open(at("state"), 65534, 65534, &why);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(fstat(fd, &st), 0);
    ck_assert_uint_eq(st.st_uid, 65534);
    ck_assert_uint_eq(st.st_gid, 65534);
    ck_assert_uint_eq(st.st_mode, S_IFDIR | 0700);
    close(fd);
}

static bool lock_is_free(int dir)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    int fd = openat(dir, "lock", O_RDWR | O_CLOEXEC);

    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(fcntl(fd, F_GETLK, &lock), 0);
    close(fd);
    return lock.l_type == F_UNLCK;
}

static int other_dir; /* what a child looks at */

static void expect_locked(void)
{
    ck_assert(!lock_is_free(other_dir));
}

TEST(server_directory)
{
    char token[CLEANUP_TOKEN_SIZE], second[CLEANUP_TOKEN_SIZE];
    struct stat st;
    int state = open_state();
    int dir = cleanup_server_open(state, token);

    ck_assert_int_ge(dir, 0);
    ck_assert_uint_eq(strlen(token), 16);
    ck_assert_uint_eq(strspn(token, "0123456789abcdef"), 16);
    ck_assert_int_eq(fstatat(state, token, &st, 0), 0);
    ck_assert_uint_eq(st.st_mode, S_IFDIR | 0700);
    other_dir = dir;
    in_child(expect_locked);
    int dir2 = cleanup_server_open(state, second);
    ck_assert_int_ge(dir2, 0);
    ck_assert_str_ne(token, second);
    cleanup_server_close(state, dir2, second);
    in_child(expect_locked);
    cleanup_server_close(state, dir, token);
    ck_assert_str_eq(listing("state"), "");
}

/* A server that goes while ledgers are left leaves its directory for recovery. */
TEST(server_close_keeps_ledgers)
{
    char token[CLEANUP_TOKEN_SIZE];
    int state = open_state();
    int dir = cleanup_server_open(state, token);

    close(openat(dir, ID, O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
    cleanup_server_close(state, dir, token);
    ck_assert_ptr_nonnull(strstr(listing("state"), token));
}

static char stage_id[CLEANUP_ID_SIZE];

static const char *stage_child_id(const char *suffix)
{
    snprintf(stage_id, sizeof stage_id, "%s-%s", stage->token, suffix);
    return stage_id;
}

static void be_a_server(void)
{
    int state = open_state();

    ledgers = cleanup_server_open(state, stage->token);
    ck_assert_int_ge(ledgers, 0);
}

static void server_with_ledger(void)
{
    be_a_server();
    begin_as(stage_child_id("1"));
    close(cleanup_create(at("work/a"), 0, 0644));
    ck_assert_ptr_nonnull(cleanup_tempdir());
}

static void server_with_ledger_pauses(void)
{
    server_with_ledger();
    wait_for_term();
}

static int adopt_dir(void)
{
    if (mkdir(at("adopt"), 0700) != 0)
        ck_assert_int_eq(errno, EEXIST);
    return open(at("adopt"), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

static unsigned recovered, recovery_left;

static void count_recovered(const struct cleanup_look *was, enum cleanup_result result, bool kept)
{
    (void)was;
    (void)kept;
    if (result == CLEANUP_DONE)
        recovered++;
    else
        recovery_left++;
}

/* As a server does it when it starts. Returns how many were settled. */
static unsigned recover(int state, int adopt, unsigned *left)
{
    struct cleanup_recovery how = {.state = state, .adopt = adopt, .settled = count_recovered};

    recovered = recovery_left = 0;
    ck_assert(cleanup_recover(&how));
    *left = recovery_left;
    return recovered;
}

TEST(recover_dead_not_living)
{
    unsigned left = 99;

    make_stage();
    pid_t server = start_ready(server_with_ledger_pauses);
    int state = open_state(), adopt = adopt_dir();
    ck_assert_uint_eq(recover(state, adopt, &left), 0);
    ck_assert_uint_eq(left, 0);
    ck_assert_str_eq(listing("work"), "a ");
    ck_assert_ptr_nonnull(strstr(listing("state"), stage->token));

    ck_assert_int_eq(kill(server, SIGKILL), 0);
    ck_assert(dead_by(server, SIGKILL));
    ck_assert_str_eq(listing("work"), "a ");
    ck_assert_uint_eq(recover(state, adopt, &left), 1);
    ck_assert_uint_eq(left, 0);
    ck_assert_str_eq(listing("work"), "");
    ck_assert_str_eq(listing("tmp"), "");
    ck_assert_str_eq(listing("state"), "");
    ck_assert_str_eq(listing("adopt"), "");
    ck_assert_uint_eq(recover(state, adopt, &left), 0);
}

static void server_dies_after_sent(void)
{
    server_with_ledger();
    ck_assert_int_eq(cleanup_sent(100), 0);
}

/* Server and child died inside delivery: nobody can be asked, so the answer stands. */
TEST(recover_keeps_sent)
{
    unsigned left = 99;

    make_stage();
    in_child(server_dies_after_sent);
    ck_assert_uint_eq(recover(open_state(), adopt_dir(), &left), 1);
    ck_assert_uint_eq(left, 0);
    ck_assert_str_eq(listing("work"), "a ");
    ck_assert_str_eq(listing("tmp"), "");
    ck_assert_str_eq(listing("state"), "");
}

static void server_dies_with_run(void)
{
    static char second[CLEANUP_ID_SIZE];

    server_with_ledger();
    ck_assert_int_eq(cleanup_run("true"), 0);
    close(cleanup_create(at("work/newer"), 0, 0644));
    ck_assert_int_ge(cleanup_open_for_program(), 0);
    file_write(at("work/stuck"), "");
    ck_assert_int_eq(unlink(at("work/stuck")), 0);
    snprintf(second, sizeof second, "%s", stage_child_id("2"));
    begin_as(second);
    ck_assert_int_eq(cleanup_unlink(at("work/stuck")), 0);
    ck_assert_int_eq(mkdir(at("work/stuck"), 0755), 0);
}

TEST(recover_moves_what_is_left)
{
    unsigned left = 99;
    char name[64];

    make_stage();
    in_child(server_dies_with_run);
    int state = open_state(), adopt = adopt_dir();
    (void)recover(state, adopt, &left);
    ck_assert_uint_eq(left, 2);
    ck_assert_str_eq(listing("work"), "a stuck ");
    ck_assert_str_eq(listing("state"), "");
    snprintf(name, sizeof name, "%s-1", stage->token);
    ck_assert(cleanup_exists(adopt, name));
    snprintf(name, sizeof name, "%s-2", stage->token);
    ck_assert(cleanup_exists(adopt, name));
    struct cleanup_settling how = {.dir = adopt, .id = stage_child_id("1"), .after_crash = true};
    ck_assert_int_eq(cleanup_settle(&how), CLEANUP_RUN_LEFT);
    ck_assert_str_eq(listing("work"), "a stuck ");
}

static bool was_answered;

/* Dies between the two renames of parking: a directory is in the way of the second. Its program's
 * file ends with a line that is not whole, which must not become another one. */
static void server_dies_half_parked(void)
{
    server_with_ledger();
    int fd = cleanup_open_for_program();
    ck_assert_int_ge(fd, 0);
    file_write(at("work/b"), "");
    file_write(at("work/c"), "");
    ck_assert_int_gt(dprintf(fd, "unlink %s\nunlink %s", at("work/b"), at("work/c")), 0);
    if (was_answered)
        ck_assert_int_eq(cleanup_sent(100), 0);
    const char *id = stage_child_id("1");
    ck_assert_int_eq(mkdir(at("state/failed"), 0700), 0);
    ck_assert_int_eq(mkdir(at("state/failed/%s", id), 0700), 0);
    ck_assert(!cleanup_park(open_state(), ledgers, id, id));
    ck_assert_int_eq(rmdir(at("state/failed/%s", id)), 0);
    ck_assert_str_eq(listing("state/failed"), with("%s.p ", id));
}

/* Whoever comes first, and whichever half is met first: all is kept, or all is undone. */
TEST_TIMES(half_parked_is_decided_once, 4)
{
    unsigned left = 99;
    was_answered = _i & 1;

    make_stage();
    in_child(server_dies_half_parked);
    int state = open_state();
    struct cleanup_recovery how = {.state = state, .adopt = -1, .settled = count_recovered};
    if (_i & 2)
        ck_assert(cleanup_recover_parked(&how));
    unsigned met = _i & 2 ? 1 : 0;
    ck_assert_uint_eq(recovered, met);
    ck_assert_uint_eq(recover(state, -1, &left), 1);
    ck_assert_uint_eq(left, 0);
    recovered = 0;
    ck_assert(cleanup_recover_parked(&how)); /* it was fetched from there, or is done */
    ck_assert_uint_eq(recovered, 0);
    ck_assert_str_eq(listing("state/failed"), "");
    ck_assert_str_eq(listing("work"), was_answered ? "a b c " : "c ");
    ck_assert_str_eq(listing("tmp"), "");
}

static void request_child(void)
{
    setsid(); /* as the server's children do, first of all */
    begin_as(stage_child_id("1"));
    close(cleanup_create(at("work/a"), 0, 0644));
    sleep_forever();
}

static void server_with_child(void)
{
    be_a_server();
    stage->child = start_ready(request_child);
    wait_for_term();
}

TEST(recover_ends_processes)
{
    char variable[64];
    unsigned left;

    make_stage();
    pid_t server = start_ready(server_with_child);
    snprintf(variable, sizeof variable, "REQUEST_ID=%s-7", stage->token);
    pid_t daemon = spawn(variable);
    pid_t other = spawn("REQUEST_ID=fedcba9876543210-7");
    snprintf(variable, sizeof variable, "XREQUEST_ID=%s-7", stage->token);
    pid_t similar = spawn(variable);
    pid_t stranger = spawn("");
    await_exec(daemon);
    await_exec(other);
    await_exec(similar);
    await_exec(stranger);
    ck_assert_int_eq(kill(server, SIGKILL), 0);
    ck_assert(dead_by(server, SIGKILL));
    ck_assert(alive(stage->child));

    ck_assert_uint_eq(recover(open_state(), adopt_dir(), &left), 1);
    ck_assert(WIFSIGNALED(status_of(stage->child)));
    ck_assert(WIFSIGNALED(status_of(daemon)));
    ck_assert_str_eq(listing("work"), "");
    ck_assert_str_eq(listing("state"), "");
    ck_assert(alive(other));
    ck_assert(alive(similar));
    ck_assert(alive(stranger));
    end_by_kill(other);
    end_by_kill(similar);
    end_by_kill(stranger);
}

__attribute__((format(printf, 5, 6))) static void
leave_for(int dir, const char *id, pid_t pid, unsigned long long started, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    forge(dir, id, pid, started, boot_id(), format, args);
    va_end(args);
}

/* The pid in a header may be somebody else's by now: only the start time proves it. */
TEST(recover_spares_a_recycled_pid)
{
    unsigned left;
    char id[64];

    make_stage();
    in_child(be_a_server);
    int state = open_state();
    int dir = openat(state, stage->token, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    pid_t stranger = spawn("");
    pid_t child = spawn("");
    await_exec(stranger);
    await_exec(child);
    snprintf(id, sizeof id, "%s-1", stage->token);
    leave_for(dir, id, stranger, start_time(stranger) - 1, "unlink %s\n", at("work/a"));
    snprintf(id, sizeof id, "%s-2", stage->token);
    leave_for(dir, id, child, start_time(child), "unlink %s\n", at("work/b"));
    ck_assert_uint_eq(recover(state, adopt_dir(), &left), 2);
    ck_assert(alive(stranger));
    ck_assert(WIFSIGNALED(status_of(child)));
    end_by_kill(stranger);
}

static void leave_a_job(void)
{
    setsid();
    stage->daemon = start_ready(sleep_forever);
}

/* So may its session: a stranger's shell had it, and has ended, and its job goes on. */
TEST(recover_spares_a_recycled_session)
{
    unsigned left;

    make_stage();
    in_child(be_a_server);
    int state = open_state();
    int dir = openat(state, stage->token, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    pid_t shell = start(leave_a_job);
    ck_assert_int_eq(status_of(shell), 0);
    ck_assert_int_eq(getsid(stage->daemon), shell);
    leave_for(dir, stage_child_id("1"), shell, 1, "unlink %s\n", at("work/a"));
    ck_assert_uint_eq(recover(state, adopt_dir(), &left), 1);
    ck_assert(alive(stage->daemon));
    end_by_kill(stage->daemon);
}

/* As a daemon that wants room for its title. */
static void wipe_environment(void)
{
    unsigned long from, to;
    FILE *stat = fopen("/proc/self/stat", "re");
    ck_assert_ptr_nonnull(stat);
    for (int field = 1; field < 50; field++)
        ck_assert_int_eq(fscanf(stat, "%*s"), 0);
    ck_assert_int_eq(fscanf(stat, "%lu %lu", &from, &to), 2);
    fclose(stat);
    int memory = open("/proc/self/mem", O_WRONLY | O_CLOEXEC);
    for (; from < to; from++)
        ck_assert_int_eq(pwrite(memory, "", 1, (off_t)from), 1);
    close(memory);
}

static void lose_everything(void)
{
    cleanup_mark_process(stage_child_id("7"));
    setsid();
    wipe_environment();
    sleep_forever();
}

static void become_a_daemon(void)
{
    cleanup_mark_process(stage_child_id("7"));
    setsid();
    say_ready();
    execle("/bin/sleep", "sleep", "1000", (char *)NULL, (char *[]){NULL});
}

/* Neither its environment nor its session tells whose it is. */
TEST_TIMES(recover_ends_who_has_lost_everything, 2)
{
    unsigned left;

    make_stage();
    in_child(be_a_server);
    pid_t lost = start_ready(_i == 0 ? become_a_daemon : lose_everything);
    if (_i == 0)
        await_exec(lost);
    (void)recover(open_state(), adopt_dir(), &left);
    ck_assert(WIFSIGNALED(status_of(lost)));
}

/* A sandbox that does not know a call may forbid it instead of saying so. */
TEST(ledger_is_found_in_a_sandbox)
{
    size_t count;

    begin();
    ck_assert_int_ge(cleanup_open_for_program(), 0);
    ck_assert(deny(SYS_faccessat2, 3, ~0U, EPERM));
    free(cleanup_list(ledgers, &count)); /* it has two files */
    ck_assert_uint_eq(count, 1);
    ck_assert_done(cleanup_undo());
}

static pid_t spawn_for(const char *token, const char *suffix)
{
    char variable[64];

    snprintf(variable, sizeof variable, "REQUEST_ID=%s-%s", token, suffix);
    pid_t pid = spawn(variable);
    await_exec(pid);
    return pid;
}

/* A ledger that the dead server had taken over bears another server's token. */
TEST(recover_ends_processes_of_adopted_ledgers)
{
    unsigned left;

    make_stage();
    in_child(be_a_server);
    int state = open_state();
    int dir = openat(state, stage->token, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    leave_for(dir, "fedcba9876543210-7", 1, 1, "unlink %s\n", at("work/a"));
    pid_t adopted = spawn_for("fedcba9876543210", "7");
    pid_t other = spawn_for("fedcba9876543210", "71");
    ck_assert_uint_eq(recover(state, adopt_dir(), &left), 1);
    ck_assert(WIFSIGNALED(status_of(adopted)));
    ck_assert(alive(other));
    end_by_kill(other);
}

/* Who holds a ledger ends its processes: not those of one that is parked, or at another server. */
TEST(recover_spares_processes_of_ledgers_elsewhere)
{
    char id[64], token[CLEANUP_TOKEN_SIZE];
    unsigned left;

    make_stage();
    in_child(be_a_server);
    int state = open_state();
    int living = cleanup_server_open(state, token);
    ck_assert_int_eq(mkdir(at("state/failed"), 0700), 0);
    int failed = openat(state, "failed", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    snprintf(id, sizeof id, "%s-8", stage->token);
    leave_for(living, id, 1, 1, "unlink %s\n", at("work/a"));
    snprintf(id, sizeof id, "%s-9", stage->token);
    leave_for(failed, id, 1, 1, "unlink %s\n", at("work/a"));
    pid_t at_living = spawn_for(stage->token, "8");
    pid_t parked = spawn_for(stage->token, "9");
    pid_t unrecorded = spawn_for(stage->token, "1");
    (void)recover(state, living, &left);
    ck_assert(WIFSIGNALED(status_of(unrecorded)));
    ck_assert(alive(at_living));
    ck_assert(alive(parked));
    end_by_kill(at_living);
    end_by_kill(parked);
}

/* A dead server's directory without its lock, as one that was put back by hand. */
TEST(recover_takes_what_has_no_lock)
{
    unsigned left;
    int state = open_state();

    ck_assert_int_eq(mkdir(at("state/%s", TOKEN), 0700), 0);
    int dir = openat(state, TOKEN, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    file_write(at("work/a"), "");
    leave_for(dir, ID, 1, 1, "unlink %s\n", at("work/a"));
    ck_assert_uint_eq(recover(state, adopt_dir(), &left), 1);
    ck_assert_str_eq(listing("work"), "");
    ck_assert_str_eq(listing("state"), "");
}

/* Where there are no nameless files a ledger has another name first; only its maker's death makes
 * that rubbish. */
TEST(list_leaves_unfinished_ledgers)
{
    char token[CLEANUP_TOKEN_SIZE], path[PATH_MAX];
    size_t count = 99;
    int state = open_state();
    int dir = cleanup_server_open(state, token);

    close(openat(dir, with(".%s", ID), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
    ck_assert_ptr_null(cleanup_list(dir, &count));
    ck_assert_uint_eq(count, 0);
    snprintf(path, sizeof path, "state/%s", token);
    ck_assert_ptr_nonnull(strstr(listing(path), with(".%s", ID)));
    cleanup_server_close(state, dir, token);
    ck_assert_str_eq(listing("state"), "");
}

static int recover_state, recover_adopt;

static void recover_as_a_janitor(void)
{
    unsigned left = 99;

    ck_assert_uint_eq(recover(recover_state, recover_adopt, &left), 0);
    ck_assert_uint_eq(left, 0);
}

/* A server's janitor that looks for the dead does not take its own server for one. */
TEST(recover_spares_its_own)
{
    char token[CLEANUP_TOKEN_SIZE];

    recover_state = open_state();
    ledgers = recover_adopt = other_dir = cleanup_server_open(recover_state, token);
    begin_as(ID);
    close(cleanup_create(at("work/a"), 0, 0644));
    in_child(recover_as_a_janitor);
    recover_as_a_janitor(); /* nor does the server, whose lock does not bind itself */
    ck_assert_str_eq(listing("work"), "a ");
    ck_assert_ptr_nonnull(strstr(listing("state"), token));
    in_child(expect_locked);
    ck_assert_done(cleanup_undo());
}

/* Things in STATE that are no server's directory are left alone. */
TEST(recover_leaves_strangers)
{
    unsigned left;
    int state = open_state();

    file_write(at("state/file"), "");
    ck_assert_int_eq(mkdir(at("state/%sx", TOKEN), 0700), 0);
    ck_assert_int_eq(mkdir(at("state/failed"), 0700), 0);
    ck_assert_int_eq(mkdir(at("elsewhere"), 0700), 0);
    file_write(at("elsewhere/lock"), "");
    ck_assert_int_eq(symlink(at("elsewhere"), at("state/%s", TOKEN)), 0);
    ck_assert_uint_eq(recover(state, adopt_dir(), &left), 0);
    ck_assert_uint_eq(left, 0);
    ck_assert(exists(at("state/file")));
    ck_assert(exists(at("state/%sx", TOKEN)));
    ck_assert(exists(at("state/failed")));
    ck_assert(exists(at("elsewhere/lock")));
}
