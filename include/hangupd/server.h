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
 *
 * Kind: declared here, defined in server.c.
 * Signal safety: none.
 */
#ifndef HANGUPD_SERVER_H
#define HANGUPD_SERVER_H

#include "handler.h"

#pragma GCC visibility push(default)
#ifdef __cplusplus
extern "C" {
#endif

/* Serve ROUTES, which end with a member without a path, until told to stop. The strings and the
 * array stay the caller's, and must stay as they are. The options and further routes in ARGV are
 * those of hangupd(8); routes named there replace ROUTES, and may use its names as @NAME. ROUTES
 * are checked like those: what cannot be served (no target, a path without a slash, a method that
 * is no word, and the like) is said on standard error, and the process exits with 2.
 *
 * Returns the exit status, 0, after a drain. Exits with 1 if it could not serve and with 2 if the
 * command line was wrong, and says so on standard error. If ARGV names a command (`status`,
 * `recover`, `undo`) it is run, and the exit status is its own. Call it once, from a process with
 * one thread. Children that the process has already are left alone. When it forks, handlers of
 * pthread_atfork(3) are not called. */
int server_main(int argc, char **argv, const struct route *routes);

#ifdef __cplusplus
}
#endif
#pragma GCC visibility pop
#endif
