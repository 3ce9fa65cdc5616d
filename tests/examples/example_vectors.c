/* example_vectors.c: the smallest server that a suite of raw HTTP requests can be sent to.
 *
 * GET of "/" and of anything below it is answered "ok"; POST to "/sink" with the length of the
 * body, every byte of which has been read.
 */
#include <hangupd/server.h>

#include <errno.h>
#include <inttypes.h>
#include <unistd.h>

static int ok(struct request *rq)
{
    return respond_text(rq, 200, "ok\n");
}

static int sink(struct request *rq)
{
    char buffer[65536];
    uint64_t length = 0;
    int body = request_body(rq);
    while (body >= 0) {
        ssize_t n = read(body, buffer, sizeof buffer);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return respond_errno(rq, "read the body");
        if (n == 0)
            break;
        length += (uint64_t)n;
    }
    return respond_text(rq, 200, "%" PRIu64 "\n", length);
}

int main(int argc, char **argv)
{
    static const struct route routes[] = {
        {.path = "/sink", .handler = sink, .methods = "POST"},
        {.path = "/", .handler = ok},
        {0},
    };
    return server_main(argc, argv, routes);
}
