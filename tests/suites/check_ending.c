/* check_ending.c: how the processes of a request are ended, and found by their mark. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "harness_ledgers.h"

SUITE(LEDGERS);

/* ---- Processes --------------------------------------------------------------------------- */

THEME("processes");

static void ignore_term(void)
{
    signal(SIGTERM, SIG_IGN);
    wait_for_term();
}

static void stop_yourself(void)
{
    say_ready();
    raise(SIGSTOP);
    for (;;)
        pause();
}

static void await_stopped(pid_t pid)
{
    int status;

    ck_assert_int_eq(waitpid(pid, &status, WUNTRACED), pid);
    ck_assert(WIFSTOPPED(status));
}

static void grandchild(void)
{
    setsid();
    signal(SIGTERM, SIG_IGN);
    prctl(PR_SET_PDEATHSIG, 0);
    wait_for_term();
}

static void daemonize(void)
{
    setsid();
    (void)start_ready(grandchild);
    say_ready();
    _exit(0);
}

static void parent_of_daemon(void)
{
    (void)start_ready(daemonize);
    wait_for_term();
}

/* Its child becomes ours only when it is dead itself. */
static void parent_of_session(void)
{
    (void)start_ready(grandchild);
    wait_for_term();
}

static void many_children(void)
{
    for (int i = 0; i < 20; i++)
        (void)start_ready(ignore_term);
    wait_for_term();
}

TEST_TIMES(end_children, 2)
{
    int grace_ms = _i * 200;
    static void (*const bodies[])(void) = {wait_for_term,    ignore_term,       daemonize,
                                           parent_of_daemon, parent_of_session, many_children};
    int64_t before = clock_ms();

    for (size_t i = 0; i < sizeof bodies / sizeof bodies[0]; i++)
        (void)start_ready(bodies[i]);
    await_stopped(start_ready(stop_yourself));
    ck_assert(cleanup_end_children(grace_ms, NULL));
    ck_assert_int_eq(waitpid(-1, NULL, WNOHANG), -1);
    ck_assert_int_eq(errno, ECHILD);
    ck_assert_int_ge(clock_ms() - before, grace_ms); /* some ignore SIGTERM: they had their grace */
    ck_assert_int_lt(clock_ms() - before, 15000);
    ck_assert(cleanup_end_children(grace_ms, NULL)); /* nobody there */
}

/* clone(2): a child whose end is not told by SIGCHLD, which wait(2) does not see. */
TEST(end_children_that_tell_nobody)
{
    pid_t pid = (pid_t)syscall(SYS_clone, 0, NULL, NULL, NULL, NULL);
    if (pid == 0)
        for (;;)
            syscall(SYS_ppoll, NULL, 0, NULL, NULL, 0);
    ck_assert_int_gt(pid, 0);
    ck_assert(cleanup_end_children(0, NULL));
    ck_assert_int_eq(waitpid(pid, NULL, WNOHANG | __WALL), -1);
    ck_assert_int_eq(errno, ECHILD);
}

/* With grace, who goes by itself does so with its last word said, and nobody waits longer. */
static int word[2];

static void say_last_word(int sig)
{
    (void)sig;
    if (write(word[1], "", 1) == 1)
        _exit(0);
}

static void last_word(void)
{
    signal(SIGTERM, say_last_word);
    wait_for_term();
}

TEST(end_children_with_grace)
{
    ck_assert_int_eq(pipe2(word, O_CLOEXEC), 0);
    (void)start_ready(last_word);
    int64_t before = clock_ms();
    ck_assert(cleanup_end_children(60000, NULL));
    ck_assert_int_lt(clock_ms() - before, 15000);
    await(word);
}

/* A stopped process gets its last word too. */
static void stopped_with_word(void)
{
    signal(SIGTERM, say_last_word);
    say_ready();
    raise(SIGSTOP);
    for (;;)
        pause();
}

TEST(end_children_continues_the_stopped)
{
    ck_assert_int_eq(pipe2(word, O_CLOEXEC), 0);
    pid_t pid = start_ready(stopped_with_word);
    await_stopped(pid);
    ck_assert(cleanup_end_children(60000, NULL));
    await(word);
}

static void fork_a_late_one(int sig)
{
    (void)sig;
    if (fork() == 0) {
        signal(SIGTERM, SIG_DFL);
        sigset_t none;
        sigemptyset(&none);
        sigprocmask(SIG_SETMASK, &none, NULL);
        prctl(PR_SET_PDEATHSIG, 0);
        for (;;)
            pause();
    }
    _exit(0);
}

static void parent_of_a_late_one(void)
{
    struct sigaction action = {.sa_handler = fork_a_late_one};
    ck_assert_int_eq(sigaction(SIGTERM, &action, NULL), 0);
    wait_for_term();
}

/* Who was not there yet when SIGTERM was sent gets its own. */
TEST(end_children_that_come_late)
{
    (void)start_ready(parent_of_a_late_one);
    int64_t before = clock_ms();
    ck_assert(cleanup_end_children(60000, NULL));
    ck_assert_int_lt(clock_ms() - before, 15000);
}

static void start_a_helper(int sig)
{
    (void)sig;
    pid_t helper = fork();
    if (helper == 0) {
        sigset_t none;
        sigemptyset(&none);
        signal(SIGTERM, SIG_DFL);
        sigprocmask(SIG_SETMASK, &none, NULL);
        sleep_ms(200);
        _exit(write(word[1], "", 1) != 1);
    }
    waitpid(helper, NULL, 0);
    _exit(0);
}

static void says_it_by_a_helper(void)
{
    struct sigaction action = {.sa_handler = start_a_helper};
    ck_assert_int_eq(sigaction(SIGTERM, &action, NULL), 0);
    wait_for_term();
}

/* But not what somebody starts for his last word, and waits for. */
TEST(end_children_with_helpers_for_the_last_word)
{
    ck_assert_int_eq(pipe2(word, O_CLOEXEC), 0);
    (void)start_ready(says_it_by_a_helper);
    ck_assert(cleanup_end_children(60000, NULL));
    await(word);
}

static bool know_nobody(pid_t pid)
{
    (void)pid;
    return false;
}

static pid_t known_pid;

static bool know_one(pid_t pid)
{
    return pid == known_pid;
}

/* A request's child that is dead and leaves one process. */
static void session_leader(void)
{
    setsid();
    cleanup_mark_process(ID);
    stage->daemon = start_ready(sleep_forever);
    say_ready();
}

TEST(end_request)
{
    pid_t daemon = spawn(with("REQUEST_ID=%s", ID));
    pid_t neighbour = spawn(with("REQUEST_ID=%s-2", TOKEN));
    pid_t longer =
        spawn(with("REQUEST_ID=%s0", ID)); /* another request, whose id begins the same */
    pid_t stranger = spawn("");

    make_stage();
    pid_t leader = start_ready(session_leader);
    await_exec(daemon);
    await_exec(neighbour);
    await_exec(longer);
    await_exec(stranger);
    await_zombie(leader);
    ck_assert(cleanup_end_request(ID, 0, know_nobody));
    ck_assert(WIFSIGNALED(status_of(daemon)));
    ck_assert(WIFSIGNALED(status_of(stage->daemon)));
    ck_assert_int_eq(status_of(leader), 0);
    ck_assert(alive(neighbour));
    ck_assert(alive(longer));
    ck_assert(alive(stranger));

    /* What has re-parented to the server is ended too, unless it is known, or of its session. */
    known_pid = neighbour;
    pid_t janitor = start_ready(wait_for_term);
    ck_assert(cleanup_end_request(ID, getpid(), know_one));
    ck_assert(WIFSIGNALED(status_of(stranger)));
    ck_assert(WIFSIGNALED(status_of(longer)));
    ck_assert(alive(neighbour));
    ck_assert(alive(janitor));
    end_by_kill(neighbour);
    end_by_kill(janitor);
}

/* ---- The mark in the environment --------------------------------------------------------- */

static bool environment_has(pid_t pid, const char *entry)
{
    static char text[1 << 18];
    char path[64];
    size_t length = 0;

    snprintf(path, sizeof path, "/proc/%d/environ", (int)pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ck_assert_int_ge(fd, 0);
    for (ssize_t n; (n = read(fd, text + length, sizeof text - 1 - length)) > 0;)
        length += (size_t)n;
    close(fd);
    text[length] = '\0';
    for (size_t i = 0; i < length; i += strlen(text + i) + 1)
        if (strcmp(text + i, entry) == 0)
            return true;
    return false;
}

/* The mark overwrites what was there first; what it cuts in two does not look like a variable. */
TEST(mark_leaves_no_half_variable)
{
    char path[64];

    if (left_out_with_memcheck("mark_leaves_no_half_variable", NO_MARK))
        return;
    cleanup_mark_process(ID);
    snprintf(path, sizeof path, "/proc/%d/environ", (int)getpid());
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ck_assert_int_ge(fd, 0);
    static char text[1 << 18];
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    ck_assert_int_gt(n, 0);
    for (ssize_t i = 0; i < n; i += (ssize_t)strlen(text + i) + 1) {
        char name[256];
        snprintf(name, sizeof name, "%.*s", (int)strcspn(text + i, "="), text + i);
        if (text[i] != '\0' && strcmp(text + i, with("REQUEST_ID=%s", ID)) != 0)
            ck_assert_msg(getenv(name) != NULL, "half a variable: %s", text + i);
    }
}

TEST(mark_process)
{
    char path[PATH_MAX];

    if (left_out_with_memcheck("mark_process", NO_MARK))
        return;
    ck_assert_ptr_nonnull(getenv("PATH"));
    snprintf(path, sizeof path, "%s", getenv("PATH"));
    ck_assert_str_eq(getenv("TMPDIR"), at("tmp"));
    ck_assert(!environment_has(getpid(), with("REQUEST_ID=%s", ID)));
    cleanup_mark_process(ID);
    ck_assert(environment_has(getpid(), with("REQUEST_ID=%s", ID)));
    ck_assert_str_eq(getenv("PATH"), path);
    ck_assert_str_eq(getenv("TMPDIR"), at("tmp"));
    pid_t child = start_ready(wait_for_term);
    ck_assert(environment_has(child, with("REQUEST_ID=%s", ID)));
    end_by_kill(child);

    /* And so it is found, but not who has another mark since. */
    child = start_ready(wait_for_term);
    cleanup_mark_process(with("%s-ffffffffffffffff", TOKEN));
    ck_assert(environment_has(getpid(), with("REQUEST_ID=%s-ffffffffffffffff", TOKEN)));
    ck_assert(!environment_has(getpid(), with("REQUEST_ID=%s", ID)));
    ck_assert(cleanup_end_request(ID, 0, know_nobody));
    ck_assert(WIFSIGNALED(status_of(child)));
}
