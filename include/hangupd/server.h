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

#ifdef __cplusplus
extern "C" {
#endif

/* Serve ROUTES, ended by a member without a path, until told to stop. The options and further
 * routes are those of hangupd(8); routes named on the command line replace ROUTES, and may use
 * its names as @NAME. Returns the exit status: 0 after a drain, 1 when it could not serve, 2 when
 * the command line was wrong (said on stderr). Call it once, from a process with one thread, whose
 * children, if any, it leaves alone. When it forks, pthread_atfork(3) is not heeded. */
int server_main(int argc, char **argv, const struct route *routes);

#ifdef __cplusplus
}
#endif
#endif
