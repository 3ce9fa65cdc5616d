/* example_storm.c: handlers for storms of callers, each of which makes one thing that names its
 * caller, so that what is left afterwards can be held against what the callers were answered.
 *
 * The world is the directory $WORLD. Parameters: tag, the caller's number, which names or fills
 * what is made; name, of a file that several callers make; ms, of work; bytes, of the answer.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <hangupd/server.h>

static const char *text_of(struct request *rq, const char *name)
{
    const char *value = request_parameter(rq, name);
    return value ? value : "0";
}

static long number_of(struct request *rq, const char *name)
{
    return strtol(text_of(rq, name), NULL, 10);
}

static void work(long ms)
{
    struct timespec left = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};
    while (nanosleep(&left, &left) < 0 && errno == EINTR) {
    }
}

/* WORLD/KIND/NAME, valid until the process ends. */
static char *place(const char *kind, const char *name)
{
    char *path;
    const char *world = getenv("WORLD");
    if (!world || asprintf(&path, "%s/%s/%s", world, kind, name) < 0)
        abort();
    return path;
}

/* ?bytes= of answer, at least a word. */
static int answer(struct request *rq)
{
    size_t bytes = (size_t)number_of(rq, "bytes");
    if (bytes == 0)
        return respond_text(rq, 200, "made\n");
    char *body = malloc(bytes);
    if (!body)
        return respond_errno(rq, "find the memory");
    memset(body, 'b', bytes);
    int result = respond(rq, 200, "text/plain", body, bytes);
    free(body);
    return result;
}

static int fill(struct request *rq, int fd)
{
    int written = fd < 0 ? -1 : dprintf(fd, "%s\n", text_of(rq, "tag"));
    if (fd >= 0)
        close(fd);
    return written < 0 ? respond_errno(rq, "create the file") : 0;
}

static int make_own(struct request *rq)
{
    return fill(rq, cleanup_create(place("made", text_of(rq, "tag")), 0, 0644));
}

static int made(struct request *rq)
{
    if (make_own(rq) < 0)
        return 0;
    work(number_of(rq, "ms"));
    return answer(rq);
}

/* Which of two requests had the name last, nobody could tell from outside: a line before the file
 * gets its name, and one after it. */
static int note(struct request *rq, char what)
{
    int fd = open(place(".", "journal"), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
    int written = fd < 0 ? -1 : dprintf(fd, "%c %s\n", what, text_of(rq, "tag"));
    if (fd >= 0)
        close(fd);
    return written < 0 ? -1 : 0;
}

static int over(struct request *rq)
{
    if (note(rq, 'B') < 0)
        return respond_errno(rq, "write the journal");
    int fd = cleanup_create(place("over", text_of(rq, "name")), CLEANUP_OVERWRITE, 0644);
    if (fd < 0 || note(rq, 'E') < 0)
        return respond_errno(rq, "create the file");
    if (fill(rq, fd) < 0)
        return 0;
    work(number_of(rq, "ms"));
    return answer(rq);
}

static int taken(struct request *rq)
{
    if (fill(rq, cleanup_create(place("taken", text_of(rq, "name")), 0, 0644)) < 0)
        return 0;
    work(number_of(rq, "ms"));
    return answer(rq);
}

static int tree(struct request *rq)
{
    char *path = place("tree", text_of(rq, "tag"));
    char below[4096], file[4200];
    snprintf(below, sizeof(below), "%s/below", path);
    snprintf(file, sizeof(file), "%s/file", below);
    if (!cleanup_tempdir() || cleanup_mkdir(path, 0755) < 0 || mkdir(below, 0755) < 0)
        return respond_errno(rq, "create the directory");
    if (fill(rq, open(file, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644)) < 0)
        return 0;
    work(number_of(rq, "ms"));
    return answer(rq);
}

/* The cloud is a directory; a command deletes from it, which takes ?undo= ms. */
static int cloud(struct request *rq)
{
    long undo_ms = number_of(rq, "undo");
    char *path = place("cloud", text_of(rq, "tag")), command[4096];
    snprintf(command, sizeof(command), "sleep %ld.%03ld; rm -f '%s'", undo_ms / 1000,
             undo_ms % 1000, path);
    if (cleanup_run(command) < 0)
        return respond_errno(rq, "record the command");
    if (fill(rq, open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644)) < 0)
        return 0;
    work(number_of(rq, "ms"));
    return answer(rq);
}

static int streamed(struct request *rq)
{
    static char piece[4096];
    memset(piece, 's', sizeof(piece));
    if (make_own(rq) < 0)
        return 0;
    if (respond_begin(rq, 200, "text/plain", -1) < 0)
        return -1;
    for (long n = 0; n < 8; n++) {
        if (respond_write(rq, piece, sizeof(piece)) < 0)
            return -1;
        work(number_of(rq, "ms") / 8);
    }
    return 0;
}

/* Two daemons that nobody can ask to leave; one lost its parent. They hold the connection. */
static int daemons(struct request *rq)
{
    if (make_own(rq) < 0)
        return 0;
    for (int kind = 0; kind < 2; kind++) {
        pid_t pid = fork();
        if (pid < 0)
            return respond_errno(rq, "fork");
        if (pid > 0)
            continue;
        signal(SIGTERM, SIG_IGN);
        setsid();
        if (kind == 1 && fork() != 0)
            _exit(0);
        for (;;)
            pause();
    }
    work(number_of(rq, "ms"));
    return answer(rq);
}

/* The end that is asked for, after something was made. */
static int bad(struct request *rq)
{
    if (make_own(rq) < 0)
        return 0;
    work(number_of(rq, "ms"));
    switch (number_of(rq, "how")) {
    case 0:
        return respond_text(rq, 500, "as asked\n");
    case 1:
        return -1;
    case 2:
        signal(SIGSEGV, SIG_DFL);
        raise(SIGSEGV);
        return 0;
    default:
        return 0; /* without an answer */
    }
}

static int posted(struct request *rq)
{
    if (request_body_length(rq) != (uint64_t)number_of(rq, "length"))
        return respond_text(rq, 400, "the body has another length\n");
    return made(rq);
}

static int plain(struct request *rq)
{
    work(number_of(rq, "ms"));
    return answer(rq);
}

int main(int argc, char **argv)
{
    char program[4096], world[4096];
    const char *tests = getenv("TESTS"), *env[] = {world, NULL};
    snprintf(world, sizeof(world), "WORLD=%s", getenv("WORLD"));
    snprintf(program, sizeof(program), "%s/examples/example_storm.sh", tests ? tests : "tests");
    const struct route routes[] = {
        {.path = "/made", .handler = made},
        {.path = "/over", .handler = over},
        {.path = "/taken", .handler = taken},
        {.path = "/tree", .handler = tree},
        {.path = "/cloud", .handler = cloud},
        {.path = "/streamed", .handler = streamed},
        {.path = "/daemons", .handler = daemons},
        {.path = "/bad", .handler = bad},
        {.path = "/posted", .handler = posted, .methods = "POST"},
        {.path = "/plain", .handler = plain},
        {.path = "/program", .program = program, .env = env},
        {0},
    };
    return server_main(argc, argv, routes);
}
