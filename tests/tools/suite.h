/* suite.h: suites, their tests, and how a test fails.
 *
 * A test is registered where it is written, and nowhere else:
 *
 *     SUITE();                               this file is a suite, and here is its main
 *
 *     THEME("half-close");                   the tests from here on are this case of the suite
 *
 *     TEST(probe_comes_once)                 a test
 *     {
 *         ...
 *     }
 *
 *     TEST_TIMES(fin_is_a_hangup, 2)         the same twice: _i is 0, then 1
 *     TEST_EACH(wrong_requests, table)       once for each row: _i is its number
 *
 * Each of these macros defines a constructor, a function that runs before main, which puts the test
 * on a list; main hands the list to Check in the order of the lines, so the order in which
 * constructors run does not matter. A suite is one file, and is called after it: check_NAME.c.
 *
 * Every test runs in a process of its own (Check's fork mode), in a directory of its own. What
 * waits, waits for an event, and gives up after PATIENCE_MS: then the test fails, and the logs of
 * its servers so far are printed. CK_TIMEOUT_MULTIPLIER makes it more patient, too. ONLY=NAME in
 * the environment runs the one test, ONLY=NAME:2 of its rows the one with _i == 2.
 */
#ifndef SUITE_H
#define SUITE_H

#include <check.h>
#include <stdbool.h>
#include <stdint.h>

/* ---- Registering ------------------------------------------------------------------------- */

/* SUITE(.begin = write_script) says what is special about a suite. */
struct suite {
    const char *file;
    void (*start)(int argc, char **argv); /* in main, before all tests */
    void (*begin)(void);                  /* before each test, in its process and its directory */
    void (*end)(void);                    /* after each; otherwise end_processes is */
    bool bare;                            /* its tests need no directory: only begin is called */
};
#define SUITE(...)                                                                                 \
    int main(int argc, char **argv)                                                                \
    {                                                                                              \
        return suite_main(&(struct suite){.file = __FILE__, __VA_ARGS__}, argc, argv);             \
    }                                                                                              \
    TAKES_A_SEMICOLON
int suite_main(const struct suite *suite, int argc, char **argv);
/* For start: the seconds that a test may take, and to run only the test NAME with _i == ROW, or all
 * of its rows if that is -1. */
extern double suite_seconds;
void suite_only(const char *name, int row);

/* A line of the list: a test, or without a function a theme. */
struct suite_line {
    int line;
    const char *name;
    TFun test;
    int times;
    const char *file;
    TTest as_check_has_it;
    struct suite_line *next;
};
void suite_add(struct suite_line *line);
#define TAKES_A_SEMICOLON _Static_assert(true, "")
#define REGISTERED_BY(function, ...)                                                               \
    __attribute__((constructor)) static void function(void)                                        \
    {                                                                                              \
        static struct suite_line line = {.line = __LINE__, .file = __FILE__, __VA_ARGS__};         \
        suite_add(&line);                                                                          \
    }
#define PASTED(a, b) a##b
#define PASTE(a, b) PASTED(a, b)

#define THEME(words)                                                                               \
    REGISTERED_BY(PASTE(theme_of_line_, __LINE__), .name = (words)) TAKES_A_SEMICOLON
#define TEST(function) TEST_TIMES(function, 1)
#define TEST_EACH(function, table) TEST_TIMES(function, COUNT(table))
#define TEST_TIMES(function, rows)                                                                 \
    static void function(int _i);                                                                  \
    REGISTERED_BY(register_##function, .name = #function, .test = (function), .times = (rows))     \
    static void function(__attribute__((unused)) int _i)

#define COUNT(array) ((int)(sizeof(array) / sizeof((array)[0])))

/* ---- Failing, and being patient ---------------------------------------------------------- */

/* Fail, with the logs of all servers, unless CONDITION holds; must_say says more. */
#define must(condition) must_say(condition, "%s", "")
#define must_say(condition, ...)                                                                   \
    ((condition) ? (void)0 : test_failed(__FILE__, __LINE__, #condition, __VA_ARGS__))
_Noreturn void test_failed(const char *file, int line, const char *condition, const char *format,
                           ...) __attribute__((format(printf, 4, 5)));
/* Where the test was when something in tests/tools fails: see HERE in harness.h. */
extern const char *test_file;
extern int test_line;

/* Say why this test cannot be run here; the test then returns. */
void test_skipped(const char *test, const char *why);
/* True if this is not root: then it says so for TEST, which needs other users. It then returns. */
bool only_for_root(const char *test);
/* True if this runs for tests/tools/valgrind.sh, which sets MEMCHECK: then it says that TEST, which
 * means nothing with memcheck, is left out, and why. The test then returns. */
#define NO_MARK "no process is marked: what /proc shows of an environment is memcheck's own"
bool left_out_with_memcheck(const char *test, const char *why);

#define PATIENCE_MS patience_ms()
int patience_ms(void);
int64_t now_ms(void);
void rest(void); /* for the few milliseconds between two looks */
/* Wait until CONDITION, any expression, holds. */
#define wait_until(condition)                                                                      \
    do {                                                                                           \
        int64_t deadline_ = now_ms() + PATIENCE_MS;                                                \
        while (!(condition)) {                                                                     \
            must_say(now_ms() < deadline_, "waited for: %s", #condition);                          \
            rest();                                                                                \
        }                                                                                          \
    } while (0)

/* ---- A test's directory ------------------------------------------------------------------ */

/* In main: make the directory for all tests and remove it, and what runs in it, at the end.
 * harness_end returns how many processes had been left. */
void harness_begin(void);
unsigned harness_end(void);
/* This test's directory, as the fixture made it; DIR/tmp is TMPDIR, DIR/state is --state. */
extern char test_dir[];
void test_begin(void);

#endif
