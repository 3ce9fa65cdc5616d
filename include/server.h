/* server.h: the server as a whole.
 *
 * A program of its own is ten lines:
 *
 *     #include <hangupd/server.h>
 *
 *     static int hello(struct request *rq)
 *     {
 *         return respond_text(rq, 200, "hello\n");
 *     }
 *     int main(int argc, char **argv)
 *     {
 *         static const struct route routes[] = {{.path = "/hello", .handler = hello}, {0}};
 *         return server_main(argc, argv, routes);
 *     }
 */
#ifndef HANGUPD_SERVER_H
#define HANGUPD_SERVER_H

#include "handler.h"

/* Serve ROUTES, ended by a member without a path, until told to stop. The options and further
 * routes are those of hangupd(8); routes named on the command line replace ROUTES, and may use
 * its names as @NAME. Returns the exit status: 0 after a drain, 1 when it could not serve, 2 when
 * the command line was wrong (said on stderr). Call it once, from a process with one thread, whose
 * children, if any, it leaves alone. When it forks, pthread_atfork(3) is not heeded. */
int server_main(int argc, char **argv, const struct route *routes);

#ifdef HANGUPD_INTERNAL

/* ---- For the server's own files from here on ----------------------------------------- */

#define HANGUPD_VERSION "0.1"

/* One line in the log, in one write; ID may be NULL. What a client sent is escaped. A line that
 * the log cannot take at once is dropped and counted, never waited for. */
ASYNC_SAFE void log_event(const char *id, const char *what);
void log_eventf(const char *id, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* What a process prints, a log line a line. Zeroed at first. */
struct log_lines {
    size_t length;
    char text[1024]; /* of a line whose end has not come; a longer one is cut in two */
};
/* Read once from FD and log what is whole: as read(2) returns. */
ASYNC_SAFE ssize_t log_lines_read(struct log_lines *lines, const char *id, int fd);
/* There will be no more. */
ASYNC_SAFE void log_lines_end(struct log_lines *lines, const char *id);

#endif /* HANGUPD_INTERNAL */
#endif
