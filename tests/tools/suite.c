/* suite.c: the list of tests, main, and what every test begins and fails with. */
#include "suite.h"

#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "harness_files.h"
#include "harness_processes.h"
#include "harness_servers.h"

static struct suite_line *lines; /* by their numbers */
static const char *only_name;
static int only_row = -1;
double suite_seconds = 120;

/* ---- Registering ------------------------------------------------------------------------- */

void suite_add(struct suite_line *line)
{
    struct suite_line **at = &lines;
    while (*at && (*at)->line < line->line)
        at = &(*at)->next;
    line->next = *at;
    *at = line;
}

void suite_only(const char *name, int row)
{
    only_name = name;
    only_row = row;
}

/* Returns NAME of a FILE check_NAME.c. */
static const char *suite_name(const char *file)
{
    static char name[64];
    const char *base = strrchr(file, '/') ? strrchr(file, '/') + 1 : file;
    base += strcspn(base, "_") + 1;
    snprintf(name, sizeof(name), "%.*s", (int)strcspn(base, "."), base);
    return name;
}

static TCase *add_case(Suite *to, const struct suite *suite, const char *name)
{
    TCase *tcase = tcase_create(name);
    tcase_set_timeout(tcase, suite_seconds);
    if (!suite->bare)
        tcase_add_checked_fixture(tcase, test_begin, suite->end ? suite->end : end_processes);
    if (suite->begin)
        tcase_add_checked_fixture(tcase, suite->begin, NULL);
    suite_add_tcase(to, tcase);
    return tcase;
}

static void add_test(TCase *tcase, struct suite_line *line)
{
    if (only_name && strcmp(only_name, line->name) != 0)
        return;
    bool one = only_name && only_row >= 0;
    line->as_check_has_it = (TTest){line->name, line->test, line->file, line->line};
    tcase_add_loop_test(tcase, &line->as_check_has_it, one ? only_row : 0,
                        one ? only_row + 1 : line->times);
}

/* From NAME or NAME:ROW in the environment. */
static void read_only(void)
{
    static char name[128];
    const char *only = getenv("ONLY");
    if (!only || !*only)
        return;
    snprintf(name, sizeof(name), "%.*s", (int)strcspn(only, ":"), only);
    suite_only(name, strchr(only, ':') ? atoi(strchr(only, ':') + 1) : -1);
}

/* The lines as Check's suite; tests above the first theme are the theme of the suite's name. */
static Suite *as_check_has_it(const struct suite *suite)
{
    Suite *s = suite_create(suite_name(suite->file));
    TCase *tcase = NULL;
    for (struct suite_line *line = lines; line; line = line->next) {
        if (!line->test || !tcase)
            tcase = add_case(s, suite, line->test ? suite_name(suite->file) : line->name);
        if (line->test)
            add_test(tcase, line);
    }
    return s;
}

int suite_main(const struct suite *suite, int argc, char **argv)
{
    read_only();
    if (suite->start)
        suite->start(argc, argv);
    SRunner *runner = srunner_create(as_check_has_it(suite));
    harness_begin();
    srunner_run_all(runner, CK_ENV);
    int run = srunner_ntests_run(runner), failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    unsigned left = harness_end();
    if (left > 0)
        fprintf(stderr, "%u processes were left\n", left);
    if (run == 0)
        fprintf(stderr, "there is no such test\n");
    return run > 0 && failed == 0 && left == 0 ? 0 : 1;
}

/* ---- Failing, and being patient ----------------------------------------------------------------
 */

const char *test_file = "";
int test_line;

int64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

int patience_ms(void)
{
    const char *times = getenv("CK_TIMEOUT_MULTIPLIER");
    int n = times ? atoi(times) : 1;
    return 20000 * (n > 1 ? n : 1);
}

void rest(void)
{
    nanosleep(&(struct timespec){.tv_nsec = 3000000}, NULL);
}

void test_failed(const char *file, int line, const char *condition, const char *format, ...)
{
    static bool failing;
    char why[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(why, sizeof(why), format, arguments);
    va_end(arguments);
    /* A failure on the way down has nothing to add. */
    if (!failing) {
        failing = true;
        servers_show_logs(file, line);
        fflush(stderr);
        end_processes();
    }
    if (strstr(file, "tests/tools/") && *test_file)
        ck_abort_msg("%s:%d: %s:%d: %s: %s", test_file, test_line, file, line, condition, why);
    ck_abort_msg("%s:%d: %s: %s", file, line, condition, why);
    abort();
}

void test_skipped(const char *test, const char *why)
{
    fprintf(stderr, "SKIPPED %s: %s\n", test, why);
}

bool only_for_root(const char *test)
{
    if (geteuid() == 0)
        return false;
    test_skipped(test, "only root can become another user, or give him a file");
    return true;
}

bool left_out_with_memcheck(const char *test, const char *why)
{
    if (!getenv("MEMCHECK"))
        return false;
    fprintf(stderr, "LEFT OUT %s: %s\n", test, why);
    return true;
}

/* ---- A test's directory ------------------------------------------------------------------------
 */

static char base_dir[PATH_MAX];
char test_dir[PATH_MAX];

void harness_begin(void)
{
    const char *tmp = getenv("TMPDIR");
    snprintf(base_dir, sizeof(base_dir), "%s/hangupd-test-XXXXXX", tmp && *tmp ? tmp : "/tmp");
    /* Open to others, for --user: the tests' own directories are below. */
    if (!mkdtemp(base_dir) || chmod(base_dir, 0711) < 0) {
        fprintf(stderr, "%s: %s\n", base_dir, strerror(errno));
        exit(1);
    }
}

unsigned harness_end(void)
{
    unsigned left = end_processes_of(base_dir);
    remove_tree(base_dir);
    return left;
}

void test_begin(void)
{
    snprintf(test_dir, PATH_MAX, "%.*s/XXXXXX", PATH_MAX - 16, base_dir);
    must_say(mkdtemp(test_dir) && chmod(test_dir, 0711) == 0, "%s: %s", test_dir, strerror(errno));
    must(mkdir(at("tmp"), 0777) == 0 && chmod(at("tmp"), 01777) == 0);
    must(chdir(test_dir) == 0);
    must(setenv("TMPDIR", at("tmp"), 1) == 0);
    signal(SIGPIPE, SIG_IGN);
    /* Whoever loses its parent comes here, and is found. */
    must(prctl(PR_SET_CHILD_SUBREAPER, 1) == 0);
}
