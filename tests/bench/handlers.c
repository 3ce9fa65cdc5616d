/* handlers.c: the C handlers that are measured.
 *
 *     /hello            the shortest answer
 *     /file?path=PATH   makes PATH and works on until it is hung up: a slow request
 */
#include <unistd.h>

#include <hangupd/server.h>

static int hello(struct request *rq)
{
    return respond(rq, 200, "text/plain", "hello\n", 6);
}

static int file(struct request *rq)
{
    const char *path = request_parameter(rq, "path");
    int fd = cleanup_create(path != NULL ? path : "", 0, 0644);
    if (fd < 0)
        return respond_errno(rq, "create the file");
    close(fd);
    for (;;)
        pause();
}

int main(int argc, char **argv)
{
    static const struct route routes[] = {
        {.path = "/hello", .handler = hello}, {.path = "/file", .handler = file}, {0}};
    return server_main(argc, argv, routes);
}
