/* harness_ledgers.h: what the suites share that test the ledger by itself, without a server. They
 * begin with SUITE(LEDGERS). Each test has, below its directory, `ledgers`, `work` and `tmp`.
 */
#ifndef HARNESS_LEDGERS_H
#define HARNESS_LEDGERS_H

#include <stdarg.h>
#include <stdbool.h>
#include <sys/types.h>

#include "harness_files.h"
#include "harness_obstacles.h"
#include "ledger.h"
#include "suite.h"

#define LEDGERS .start = ledgers_start, .begin = ledgers_begin, .end = ledgers_end
void ledgers_start(int argc, char **argv);
void ledgers_begin(void);
void ledgers_end(void); /* fails if the test has left a process */

/* This run's own: two that run at once must not take each other's processes for theirs. */
extern char token_of_run[CLEANUP_TOKEN_SIZE], id_of_run[CLEANUP_ID_SIZE];
#define TOKEN ((const char *)token_of_run)
#define ID ((const char *)id_of_run)
extern int ledgers; /* the directory of that name */

/* ---- Texts ------------------------------------------------------------------------------- */

/* FORMAT with what it names; valid for the next 7 calls. */
const char *with(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Each returns the text of FD, which is closed, of the file PATH (NULL if there is none), or of a
 * ledger. Valid for the next 3 calls. */
const char *text_of_fd(int fd);
const char *text_of(const char *path);
const char *ledger_of(const char *id);
/* The names in DIR/NAME, sorted, each followed by a space. */
const char *listing(const char *name);
/* True if TEXT has a line that matches the extended regular expression PATTERN. */
bool has_line(const char *text, const char *pattern);
#define ck_assert_line(text, pattern)                                                              \
    ck_assert_msg(has_line(text, pattern), "no line like %s in:\n%s", pattern, text)
#define ck_assert_no_line(text, pattern)                                                           \
    ck_assert_msg(!has_line(text, pattern), "a line like %s in:\n%s", pattern, text)
/* The identity of PATH as the ledger writes it, with a birth time that is OFF_BY_NS. */
const char *file_id(const char *path, long long off_by_ns);
bool have_birth_times(void); /* says so if not */
const char *boot_id(void);
/* When PID was started, in clock ticks after boot: field 22 of its stat. */
unsigned long long start_time(pid_t pid);

/* ---- Ledgers ----------------------------------------------------------------------------- */

/* Begin a request that records, called ID (begin), without a slot; or in a SLOT, counted from 0,
 * whose pool of scratch directories is `tmp`. */
void begin_as(const char *id);
void begin(void);
void begin_in_slot(unsigned slot, const char *id, const char *title);
/* Settle the ledger ID; its commands are not run but noted. */
enum cleanup_result settle(void);
enum cleanup_result settle_with(bool after_crash, int (*run)(const char *, const char *, int));
/* All reports of cleanup_report: "ID: WHAT\n" each. */
extern char reports[65536];
#define ck_assert_done(call)                                                                       \
    ck_assert_msg((call) == CLEANUP_DONE, "%s did not succeed: %s", #call, reports)
/* All commands that note_run was given: "COMMAND\n" each, after it has called on_run if that is
 * set. A command that starts with "fail" fails. */
extern char runs[65536];
extern void (*on_run)(const char *command);
int note_run(const char *id, const char *command, int look);
/* A ledger as a child with pid PID would have left it in DIR; as one that is dead would have, in
 * this boot; and before it. */
void forge(int dir, const char *id, pid_t pid, unsigned long long started, const char *boot,
           const char *format, va_list args) __attribute__((format(printf, 6, 0)));
void leave(const char *id, const char *format, ...) __attribute__((format(printf, 2, 3)));
void leave_before_boot(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* ---- Obstacles --------------------------------------------------------------------------- */

/* The ways to create a file, and to leave this process only the features of WAY. */
enum way { BY_TMPFILE, BY_RENAME, BY_LINK, CREATE_WAYS };
bool use_way(int way);
/* If this is root: from here on nobody; and DIR/NAME is nobody's. */
void as_nobody(void);
void give_to_nobody(const char *name);
/* True in a mount namespace of this test's own; says so if that is not allowed here. */
bool may_mount(void);

/* ---- Processes --------------------------------------------------------------------------- */

/* Wait for the end of PID. */
int status_of(pid_t pid);
bool dead_by(pid_t pid, int sig);
bool alive(pid_t pid); /* a child that has not ended */
void await_zombie(pid_t pid);
void end_by_kill(pid_t pid);
/* Run BODY in a child, and wait until it has ended well: a failed assertion in a child ends the
 * child alone, and its status carries it here. */
pid_t start(void (*body)(void));
void in_child(void (*body)(void));
/* Start BODY and wait until it says that it is ready, on a pipe that nobody else listens to. */
pid_t start_ready(void (*body)(void));
void say_ready(void);
void await(const int pipe_fds[2]); /* one byte */
/* Bodies: one that undoes its ledger when it gets SIGTERM, from arm on; one that waits for any
 * signal; and one that does not die with its parent, either. */
void arm(void);
void wait_for_term(void);
void sleep_forever(void);
/* A process as a program's daemon would be: own session, own environment, in which REQUEST_ID is.
 * Until exec has happened it still has its maker's environment. */
pid_t spawn(const char *request_id);
void await_exec(pid_t pid);
/* Memory that a test shares with a server of its own, in another process. */
extern struct stage {
    char token[CLEANUP_TOKEN_SIZE];
    pid_t child, daemon;
} * stage;
void make_stage(void);

#endif
