/* example_library.c: handlers that do what a C program does beside answering: fork, print, run
 * helpers, close descriptors. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <hangupd/server.h>

static const char *text_of(struct request *rq, const char *name, const char *otherwise)
{
    const char *value = request_parameter(rq, name);
    return value != NULL ? value : otherwise;
}

/* A process that is forked, and then does what its parent should: it answers, or returns, or both.
 * The answer says what errno it got, and how it ended. */
static int forked(struct request *rq)
{
    int told[2], error = 0, status = 0;
    if (pipe2(told, O_CLOEXEC) < 0)
        return respond_errno(rq, "make a pipe");
    pid_t pid = fork();
    if (pid < 0)
        return respond_errno(rq, "fork");
    if (pid == 0) {
        const char *how = text_of(rq, "how", "");
        int refused = 0;
        if (strcmp(how, "all") == 0)
            refused = respond_text(rq, 200, "child\n") < 0 && errno == EPERM &&
                      respond_header(rq, "X", "y") < 0 && errno == EPERM &&
                      respond_begin(rq, 200, NULL, -1) < 0 && errno == EPERM &&
                      respond_write(rq, "x", 1) < 0 && errno == EPERM &&
                      respond_errno(rq, "answer in a forked process") < 0 && errno == EPERM;
        if (write(told[1], &refused, sizeof refused) < 0)
            _exit(99);
        return 0;
    }
    if (read(told[0], &error, sizeof error) < 0 || waitpid(pid, &status, 0) < 0)
        return respond_errno(rq, "hear from the child");
    return respond_text(rq, 200, "refused %d status %d\n", error, status);
}

/* The answer's fields: ?own=TYPE by respond_header, and what it says of what is no field. */
static int typed(struct request *rq)
{
    if (respond_header(rq, NULL, "x") == 0 || errno != EINVAL ||
        respond_header(rq, "X", NULL) == 0 || errno != EINVAL ||
        respond(rq, 200, NULL, NULL, 1) == 0 || errno != EINVAL)
        return respond_text(rq, 500, "NULL was taken\n");
    if (respond_header(rq, "Content-Type", "text/first") < 0 ||
        respond_header(rq, "content-type", text_of(rq, "own", "")) < 0)
        return respond_errno(rq, "name the type");
    if (request_parameter(rq, "fail") != NULL) {
        errno = 0;
        return respond_errno(rq, "do it");
    }
    return respond_text(rq, atoi(text_of(rq, "status", "200")), "typed\n");
}

/* It ends its process, in a way of its own. */
static int ends(struct request *rq)
{
    const char *exits = request_parameter(rq, "exit"), *raises = request_parameter(rq, "raise");
    close(cleanup_create(text_of(rq, "path", ""), 0, 0644));
    if (exits != NULL)
        exit(atoi(exits));
    signal(atoi(raises), SIG_DFL);
    raise(atoi(raises));
    return 0;
}

/* What a helper inherits. */
static int helper(struct request *rq)
{
    char line[256];
    /* NOLINTNEXTLINE(cert-env33-c): what a shell gets is the question */
    FILE *out = popen("grep -E '^Sig(Blk|Ign)' /proc/self/status; ulimit -n; "
                      "sh -c 'kill -PIPE $$; echo alive'",
                      "r");
    if (out == NULL || respond_begin(rq, 200, "text/plain", -1) < 0)
        return respond_errno(rq, "run a helper");
    while (fgets(line, sizeof line, out) != NULL)
        if (respond_write(rq, line, strlen(line)) < 0)
            return -1;
    pclose(out);
    return 0;
}

/* It makes ?path= and prints to it, and leaves what it printed in the buffer; also to standard
 * output. With ?full the descriptor below the stream is one that can only be read. */
static int prints(struct request *rq)
{
    int fd = cleanup_create(text_of(rq, "path", ""), 0, 0644);
    FILE *file = fd < 0 ? NULL : fdopen(fd, "w");
    if (file == NULL)
        return respond_errno(rq, "make the file");
    if (request_parameter(rq, "full") != NULL) {
        int nothing = open("/dev/null", O_RDONLY | O_CLOEXEC);
        if (nothing < 0 || dup3(nothing, fd, O_CLOEXEC) < 0)
            return respond_errno(rq, "spoil the stream");
    }
    fputs("printed\n", file);
    printf("by a handler\n");
    return respond_text(rq, 200, "printed\n");
}

/* ---- Threads ----------------------------------------------------------------------------------
 */

static struct {
    const char *in, *taken, *id; /* the directory, a file that is there, the request's id */
    int each;                    /* files for each thread; 0: without an end */
    _Atomic int wrong, made;
} crowd;

/* Make files; and, in between, one that is there already, and a tree. */
static void *make_files(void *number)
{
    char path[4096];
    int self = *(int *)number;
    for (int i = 0; crowd.each == 0 || i < crowd.each; i++) {
        snprintf(path, sizeof path, "%s/%s-%d-%d", crowd.in, crowd.id, self, i);
        int fd = i % 3 == 2 ? cleanup_mkdir(path, 0755) : cleanup_create(path, 0, 0644);
        if (fd < 0 || (i % 3 == 1 && cleanup_unlink(path) < 0))
            crowd.wrong++;
        crowd.made++;
        if (fd > 0)
            close(fd);
        if (crowd.taken != NULL && (cleanup_create(crowd.taken, 0, 0644) >= 0 || errno != EEXIST))
            crowd.wrong++;
        if (cleanup_tempdir() == NULL)
            crowd.wrong++;
    }
    return NULL;
}

/* Eight threads make files. ?each=0: until they are ended; with ?leave, the handler then returns
 * with that value, and leaves them. */
static int threads(struct request *rq)
{
    enum { THREADS = 8 };
    static int numbers[THREADS];
    pthread_t all[THREADS];
    crowd.in = text_of(rq, "in", "");
    crowd.taken = request_parameter(rq, "taken");
    crowd.id = request_id(rq);
    crowd.each = atoi(text_of(rq, "each", "5"));
    for (int i = 0; i < THREADS; i++) {
        numbers[i] = i;
        if (pthread_create(&all[i], NULL, make_files, &numbers[i]) != 0)
            return respond_text(rq, 500, "no thread\n");
    }
    while (crowd.each == 0 && crowd.made < 20)
        sched_yield();
    const char *leave = request_parameter(rq, "leave");
    if (crowd.each == 0)
        request_log(rq, "the threads make files");
    if (leave == NULL)
        for (int i = 0; i < THREADS; i++)
            pthread_join(all[i], NULL);
    if (respond_text(rq, crowd.wrong == 0 ? 200 : 500, "wrong %d\n", crowd.wrong) < 0)
        return -1;
    return leave != NULL ? atoi(leave) : 0;
}

/* ---- Descriptors and ids ----------------------------------------------------------------------
 */

/* Close all that is not its own, or put a file of its own over it (?file=), after one record with
 * ?before; then record another. The answer is what came of it. */
static int closes(struct request *rq)
{
    const char *file = request_parameter(rq, "file"), *before = request_parameter(rq, "before");
    char path[4096];
    snprintf(path, sizeof path, "%s", text_of(rq, "path", ""));
    if (before != NULL)
        close(cleanup_create(before, 0, 0644));
    int own = file != NULL ? open(file, O_RDWR | O_CREAT | O_CLOEXEC, 0644) : -1;
    int keep = request_parameter(rq, "connection") != NULL ? -1 : 0;
    for (int fd = 3; fd < 100; fd++) {
        struct stat now;
        bool connected = fstat(fd, &now) == 0 && S_ISSOCK(now.st_mode);
        if (fd == own || (connected && keep == 0))
            continue;
        if (own >= 0)
            dup2(own, fd);
        else
            close(fd);
    }
    errno = 0;
    int made = cleanup_create(path, 0, 0644);
    return respond_text(rq, 200, "%d %s\n", made, strerror(errno));
}

/* Become another user, as far as seteuid(2) goes, and make a file. */
static int becomes(struct request *rq)
{
    uid_t uid = (uid_t)atoi(text_of(rq, "uid", "0"));
    char path[4096];
    snprintf(path, sizeof path, "%s", text_of(rq, "path", ""));
    if (seteuid(uid) < 0)
        return respond_errno(rq, "become another user");
    int fd = cleanup_create(path, 0, 0644);
    if (fd < 0)
        return respond_errno(rq, "make the file");
    close(fd);
    if (request_parameter(rq, "fail") != NULL)
        return respond_text(rq, 400, "made\n");
    return respond_text(rq, 200, "made\n");
}

/* It says what a C library would, on standard error. */
static int complains(struct request *rq)
{
    fprintf(stderr, "careful: {\"a\"}\nand \\ again\n");
    if (request_parameter(rq, "crash") != NULL)
        abort();
    return respond_text(rq, 200, "said\n");
}

/* The tables of routes that cannot be served, by BROKEN=NUMBER in the environment. */
static const struct route *broken(const char *number)
{
    static const struct route tables[][3] = {
        {{.path = "/none"}, {0}},
        {{.path = "/good", .handler = forked}, {.path = "slash", .handler = forked}, {0}},
        {{.path = "/a\r\nX: y", .handler = forked}, {0}},
        {{.path = "/two", .handler = forked, .program = "/bin/true"}, {0}},
        {{.path = "/relative", .program = "true"}, {0}},
        {{.path = "/methods", .handler = forked, .methods = "GET\r\nX: y"}, {0}},
        {{.path = "/methods", .handler = forked, .methods = ""}, {0}},
        {{.path = "/", .handler = forked, .max = -1}, {0}},
        {{.path = "/", .handler = forked, .half_close = (enum half_close)9}, {0}},
        {{.path = "", .handler = forked}, {0}},
    };
    size_t n = (size_t)atoi(number);
    return n < sizeof tables / sizeof tables[0] ? tables[n] : NULL;
}

int main(int argc, char **argv)
{
    static const struct route routes[] = {
        {.path = "/fork", .handler = forked},
        {.path = "/type", .handler = typed},
        {.path = "/end", .handler = ends},
        {.path = "/helper", .handler = helper},
        {.path = "/print", .handler = prints},
        {.path = "/threads", .handler = threads},
        {.path = "/close", .handler = closes},
        {.path = "/become", .handler = becomes},
        {.path = "/complain", .handler = complains},
        {.path = "/purge", .handler = typed, .methods = "GET PURGE"},
        {0},
    };
    const char *number = getenv("BROKEN");
    if (number != NULL)
        return server_main(argc, argv, broken(number));
    printf("before serving\n"); /* is in a buffer when the server forks */
    return server_main(argc, argv, routes);
}
