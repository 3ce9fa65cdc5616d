/* harness_processes.h: the processes of a test, and programs that it runs. */
#ifndef HARNESS_PROCESSES_H
#define HARNESS_PROCESSES_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

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
/* End every process that this test has started; or that was started below DIRECTORY: how many there
 * were. */
void end_processes(void);
unsigned end_processes_of(const char *directory);

struct output {
    char *text; /* stdout and stderr, as they came */
    size_t length;
    int status; /* exit status; 128 + N when ended by the signal N */
};
/* Run a program to its end. WORDS are split at spaces. */
struct output run(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* The same with an argument vector, INPUT as stdin (or NULL), and without stderr when !BOTH. */
struct output run_argv(const char *const argv[], const char *input, bool both);
/* Run COMMAND with the shell, in the background; wait for the end of PID: its status, as above. */
pid_t start_shell(const char *command);
int wait_status(pid_t pid);

/* ---- For the other parts of the harness -------------------------------------------------- */

#define WORDS_MAX 64
/* Split TEXT at spaces, in place: how many words there are. */
unsigned split_words(char *text, char **words, unsigned room);
/* Called in a forked child of a test before it runs a program: undoes Check's signal handlers. The
 * child dies with its parent, because Check kills a test that takes too long without asking. */
void become_ordinary(pid_t parent);
/* Returns the status that waitpid gave as struct output has it. */
int plain_status(int status);
/* Append N BYTES and a NUL to *TEXT, which grows. */
void append_bytes(char **text, size_t *length, size_t *room, const char *bytes, size_t n);

#endif
