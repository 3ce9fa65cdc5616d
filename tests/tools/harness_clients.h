/* harness_clients.h: callers of a server: sockets, and curl. */
#ifndef HARNESS_CLIENTS_H
#define HARNESS_CLIENTS_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "harness_processes.h"
#include "harness_servers.h"

int dial(const struct server *s);
int dial_from(const struct server *s, const char *address); /* "127.0.0.2" */
int dial_slow(const struct server *s); /* with as little room for an answer as can be */
int dial_unix(const char *path);
/* Wait until the server has looked at all that was said to it on TCP before. */
void wait_seen(const struct server *s);
/* Wait until it has read all that was said on C. */
void wait_read(const struct server *s, int c);
/* Wait until BYTES have been sent to C, who does not read: they are with its kernel, or wait. */
void wait_all_sent(const struct server *s, int c, unsigned long bytes);
void say(int fd, const char *format, ...) __attribute__((format(printf, 2, 3)));
void say_bytes(int fd, const void *bytes, size_t n);
/* Connect and send a GET (HTTP/1.1) for FORMAT. */
int get(const struct server *s, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Everything that the other side says, up to its end. Valid for the next 7 calls. */
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
/* The ways to hang up, as a test's _i. */
enum { BY_FIN, BY_RST, WAYS };
void hang_up(int fd, int way);

/* curl -sS with WORDS; one that starts with '/' gets the server's URL put before it. The text is
 * stdout and stderr. */
struct output curl(const struct server *s, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* The same in the background: end it with kill(2), and waitpid(2). */
pid_t curl_start(const struct server *s, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

#endif
