/* harness.h: what the system tests share: a directory of one's own, servers and their logs,
 * clients, curl, and the proof that nothing is left.
 *
 * Every test runs in a process of its own (Check's fork mode) and calls test_begin first, as its
 * fixture. What waits, waits for an event, and gives up after PATIENCE_MS: then the test fails,
 * and the servers' logs so far are printed. CK_TIMEOUT_MULTIPLIER makes it more patient, too.
 */
#ifndef HARNESS_H
#define HARNESS_H

#include <check.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "deny.h"
#include "memcheck.h"

#define PATIENCE_MS patience_ms()

/* In main: make the directory for all tests and remove it, and what runs in it, at the end.
 * harness_end returns how many processes had been left. */
void harness_begin(void);
unsigned harness_end(void);
/* A group of tests, which test_begin prepares, with two minutes each; and all of main: the suite
 * run between these two, its exit status. */
TCase *theme(Suite *suite, const char *name);
int run_suite(Suite *suite);

/* This test's directory, as the fixture made it; DIR/tmp is TMPDIR, DIR/state is --state. */
extern char test_dir[];
void test_begin(void);
/* Fail, with the logs of all servers, unless CONDITION holds; must_say says more. */
#define must(condition) must_say(condition, "%s", "")
#define must_say(condition, ...)                                                                   \
    ((condition) ? (void)0 : test_failed(__FILE__, __LINE__, #condition, __VA_ARGS__))
_Noreturn void test_failed(const char *file, int line, const char *condition, const char *format,
                           ...) __attribute__((format(printf, 4, 5)));
/* Say why this test cannot be run here; the test then returns. */
void test_skipped(const char *test, const char *why);

/* ---- Files ------------------------------------------------------------------------------- */

/* FORMAT as a path in the test's directory. Valid for the next 15 calls. */
const char *at(const char *format, ...) __attribute__((format(printf, 1, 2)));
bool exists(const char *path);
bool is_empty(const char *directory); /* or not there */
/* Whether TMPDIR has nothing of a request: at most the pool of one server, with empty spares. */
bool no_scratch(void);
void file_write(const char *path, const char *text);
char *file_read(const char *path); /* "" if it is not there; valid for the next 3 calls */
/* Wait until PATH is there or gone. */
void wait_exists(const char *path);
void wait_gone(const char *path);
/* Wait until CONDITION, any expression, holds. */
#define wait_until(condition)                                                                      \
    do {                                                                                           \
        int64_t deadline_ = now_ms() + PATIENCE_MS;                                                \
        while (!(condition)) {                                                                     \
            must_say(now_ms() < deadline_, "waited for: %s", #condition);                          \
            rest();                                                                                \
        }                                                                                          \
    } while (0)
int64_t now_ms(void);
int patience_ms(void);
void rest(void); /* for the few milliseconds between two looks */
/* Mount namespaces of one's own, in which what is mounted is seen by this test's servers alone.
 * False: not allowed here. */
bool private_mounts(void);

/* The README's first fenced block of the kind INFO that holds WITH; and TEXT, which is freed, with
 * its first WHAT, which must be there, as WITH. Both for the caller to free. */
char *readme_block(const char *info, const char *with);
char *replaced(char *text, const char *what, const char *with);

/* ---- Processes --------------------------------------------------------------------------- */

bool is_alive(pid_t pid); /* and not a zombie */
/* The state letter in /proc/PID/stat, 0 if it is not there. */
char process_state(pid_t pid);
long processor_ms(pid_t pid);
/* The only child of PARENT; waits until there is one. */
pid_t only_child(pid_t parent);
/* The children of OF that are alive, at most ROOM of them: how many there are. */
unsigned children_of(pid_t of, pid_t *pids, unsigned room);
/* SIGKILL to PID if it still is a child of OF: a number alone may be another's by now. */
bool kill_child(pid_t of, pid_t pid);
/* Fails if a process of this test is left, besides its servers; zombies do not count. */
void no_process_left(void);
/* Wait until none is. */
void wait_no_process(void);
/* End every process that this test has started. */
void end_processes(void);

struct output {
    char *text; /* stdout and stderr, as they came */
    size_t length;
    int status; /* exit status; 128 + N when ended by the signal N */
};
/* Run a program to its end. WORDS are split at spaces. */
struct output run(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* The same with an argument vector, INPUT as stdin (or NULL), and without stderr when !BOTH. */
struct output run_argv(const char *const argv[], const char *input, bool both);
/* Run COMMAND with the shell, in the background. */
pid_t start_shell(const char *command);

/* ---- Servers ----------------------------------------------------------------------------- */

struct server {
    pid_t pid;
    unsigned port; /* of its first TCP socket */
    int log;       /* the read end of its stderr */
    char *text;    /* what it said so far */
    size_t length, room, mark;
    int status; /* once ended, as struct output's */
    bool ended;
};

/* What starts the binary, the binary itself, and the program of example handlers. */
const char *the_hangupd(void);
const char *the_binary(void);
const char *the_things(void);
/* Start PROGRAM with --state and TMPDIR in the test's directory and with FORMAT's words, on
 * 127.0.0.1 and a port of the kernel's choice unless --listen is among them; wait until it is
 * ready. The current directory is the test's. */
struct server *server_start(const char *program, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
#define hangupd(...) server_start(the_hangupd(), __VA_ARGS__)
#define things(...) server_start(the_things(), __VA_ARGS__)
/* The same without waiting. IN, if not -1, becomes descriptor 0 (and with ALL also 1 and 2, as
 * inetd does it); THREE, if not -1, becomes descriptor 3 and LISTEN_FDS is set. */
struct server *server_spawn(const char *program, const char *words, int in, bool all, int three);
/* SIGTERM; it must exit with 0 and leave nothing: no process, no state, nothing in TMPDIR. */
void server_stop(struct server *s);
/* What it takes at this moment. */
struct gauge {
    long pss_kb; /* of memory, by its share of each page; without mapped files, whose pages other
                  * programs of this machine share, now more, now fewer */
    unsigned descriptors, sockets, children, ledgers;
};
struct gauge server_gauge(const struct server *s);
/* Its exit status, once it has ended by itself; and that nothing is left. */
int server_wait(struct server *s);
void server_kill(struct server *s, int signal);
/* What must hold once no server runs. */
void nothing_left(void);

/* Wait for a line with FORMAT in the log, after the mark: that line, valid until the next call
 * for this server. */
const char *log_wait(struct server *s, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* Whether it is there already; how many such lines there are. */
bool log_has(struct server *s, const char *format, ...) __attribute__((format(printf, 2, 3)));
unsigned log_count(struct server *s, const char *text);
/* Look only at what comes from now on. */
void log_mark(struct server *s);
/* The pid in a line "... pid N ..." of the example handlers, once PATH was made. */
pid_t wait_made(struct server *s, const char *path);

/* ---- Clients ----------------------------------------------------------------------------- */

int dial(const struct server *s);
int dial_from(const struct server *s, const char *address); /* "127.0.0.2" */
int dial_unix(const char *path);
/* Wait until the server has looked at all that was said to it on TCP before. */
void wait_seen(const struct server *s);
/* Wait until it has read all that was said on C. */
void wait_read(const struct server *s, int c);
void say(int fd, const char *format, ...) __attribute__((format(printf, 2, 3)));
void say_bytes(int fd, const void *bytes, size_t n);
/* Connect and send a GET (HTTP/1.1) for FORMAT. */
int get(const struct server *s, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* What the other side says, up to its end: valid for the next 7 calls. */
struct heard {
    char *text; /* NUL-terminated */
    size_t length;
    int status; /* of the first final answer, or 0 */
    bool reset; /* it ended with a reset and not with a FIN */
};
struct heard hear(int fd);
/* The same, and leave the connection half open. */
struct heard hear_holding(int fd);
/* The same up to and with PATTERN; it must come. */
struct heard hear_until(int fd, const char *pattern);
/* One whole final answer with Content-Length or in chunks (HEAD: without a body). */
struct heard hear_answer(int fd, bool head);
/* Nothing has come, and the connection is open. */
bool is_quiet(int fd);
/* HEAD's value of a header field, or "". */
const char *field(struct heard answer, const char *name);

void close_fin(int fd);
void close_rst(int fd);

/* curl -sS with WORDS; one that starts with '/' gets the server's URL put before it. The text is
 * stdout and stderr. */
struct output curl(const struct server *s, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* The same in the background: end it with kill(2), and waitpid(2). */
pid_t curl_start(const struct server *s, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Where the test was when one of these failed. */
extern const char *test_file;
extern int test_line;
#ifndef HARNESS_ITSELF
#define HERE(call) (test_file = __FILE__, test_line = __LINE__, call)
#define wait_exists(...) HERE(wait_exists(__VA_ARGS__))
#define wait_gone(...) HERE(wait_gone(__VA_ARGS__))
#define only_child(...) HERE(only_child(__VA_ARGS__))
#define wait_no_process(...) HERE(wait_no_process(__VA_ARGS__))
#define wait_read(...) HERE(wait_read(__VA_ARGS__))
#define wait_seen(...) HERE(wait_seen(__VA_ARGS__))
#define no_process_left(...) HERE(no_process_left(__VA_ARGS__))
#define nothing_left(...) HERE(nothing_left(__VA_ARGS__))
#define run(...) HERE(run(__VA_ARGS__))
#define run_argv(...) HERE(run_argv(__VA_ARGS__))
#define server_start(...) HERE(server_start(__VA_ARGS__))
#define server_stop(...) HERE(server_stop(__VA_ARGS__))
#define server_wait(...) HERE(server_wait(__VA_ARGS__))
#define server_kill(...) HERE(server_kill(__VA_ARGS__))
#define log_wait(...) HERE(log_wait(__VA_ARGS__))
#define wait_made(...) HERE(wait_made(__VA_ARGS__))
#define dial(...) HERE(dial(__VA_ARGS__))
#define say(...) HERE(say(__VA_ARGS__))
#define get(...) HERE(get(__VA_ARGS__))
#define hear(...) HERE(hear(__VA_ARGS__))
#define hear_until(...) HERE(hear_until(__VA_ARGS__))
#define hear_answer(...) HERE(hear_answer(__VA_ARGS__))
#define curl(...) HERE(curl(__VA_ARGS__))
#endif

#endif
