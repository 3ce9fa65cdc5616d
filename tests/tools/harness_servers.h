/* harness_servers.h: servers that a test starts, their logs, and the proof that nothing is left. */
#ifndef HARNESS_SERVERS_H
#define HARNESS_SERVERS_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

struct server {
    pid_t pid;
    unsigned port; /* of its first TCP socket */
    int log;       /* the read end of its stderr */
    char *text;    /* what it said so far */
    size_t length, room, mark;
    int status; /* once ended, as struct output's */
    bool ended;
};

/* Each returns a path: of the program that starts the binary (memcheck, maybe), of the binary
 * itself, and of the example handlers. */
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
/* A listening socket on 127.0.0.1, and its PORT; two ends of one TCP connection. */
int listening_socket(unsigned *port);
int connected_socket(int *client);
/* Serve the connection that a super-server would hand over: as descriptors 0 to 2, or as systemd
 * does it. The log must not be on it. */
struct server *serve_connection(bool systemd, int *client, const char *options);
/* SIGTERM; it must exit with 0 and leave nothing: no process, no state, nothing in TMPDIR. */
void server_stop(struct server *s);
/* The memory, descriptors and processes that it takes at this moment. */
struct gauge {
    long pss_kb; /* of memory, by its share of each page; without mapped files, whose pages other
                  * programs of this machine share, now more, now fewer */
    unsigned descriptors, sockets, children, ledgers;
};
struct gauge server_gauge(const struct server *s);
/* Its exit status, once it has ended by itself; and that nothing is left. */
int server_wait(struct server *s);
void server_kill(struct server *s, int signal);
/* True if a server has a directory in STATE. */
bool state_is_there(void);
/* Fails unless nothing is left: to be called once no server runs. */
void nothing_left(void);

/* True if PID is a server of this test that has not ended. */
bool server_is_running(pid_t pid);

/* ---- The log ----------------------------------------------------------------------------- */

/* Wait for a line with FORMAT in the log, after the mark: that line, valid until the next call
 * for this server. */
const char *log_wait(struct server *s, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* Returns true if it is there already; returns how many such lines there are. */
bool log_has(struct server *s, const char *format, ...) __attribute__((format(printf, 2, 3)));
unsigned log_count(struct server *s, const char *text);
/* Look only at what comes from now on. */
void log_mark(struct server *s);
/* Wait until a ledger says that the answer is on its way. */
void wait_sent(void);
/* The pid in a line "... pid N ..." of the example handlers, once PATH was made. */
pid_t wait_made(struct server *s, const char *path);
/* Print all logs so far, for a test that failed at LINE of FILE. */
void servers_show_logs(const char *file, int line);

#endif
