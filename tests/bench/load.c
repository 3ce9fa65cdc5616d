/* load.c: the callers, on loopback; one thread, so that they leave as much as they can of the
 * processors to the server.
 *
 *     load rate PORT PATH CALLERS close|keep SECONDS [REQUESTS]
 *         CALLERS at once, each asking again when it has been answered, for SECONDS after a
 *         warm-up, or for REQUESTS in all. A connection for each request, or kept alive.
 *     load idle PORT COUNT
 *         COUNT connections that ask for nothing, until a line or the end of stdin.
 *     load slow PORT PATH COUNT DIRECTORY
 *         COUNT requests, each making the file DIRECTORY/NUMBER, whose name is added to PATH.
 *         At a line or the end of stdin all hang up; how long until all files are gone.
 *     load hangup PORT PATH COUNT DIRECTORY
 *         The same one after the other: how long each file took to go.
 *     load first PORT PATH COUNT
 *         How long after it was written the first piece of stream.c's answer is here.
 *
 * Times are in milliseconds. "ready" is said when all are connected, or have made their files.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/inotify.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define PATIENCE_MS 60000
#define FROM_ONE_ADDRESS 5000 /* connections: a port is taken for each */

static _Noreturn void die(const char *format, ...) __attribute__((format(printf, 1, 2)));
static _Noreturn void die(const char *format, ...)
{
    int error = errno;
    va_list args;
    fputs("load: ", stderr);
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fprintf(stderr, " (%s)\n", strerror(error));
    exit(1);
}

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static double as_ms(int64_t ns)
{
    return (double)ns / 1e6;
}

/* A whole number from 1 on. */
static unsigned number(const char *text)
{
    char *end;
    unsigned long n = strtoul(text, &end, 10);
    if (*text == '\0' || *end != '\0' || n == 0 || n > 1000000000)
        die("%s is not a number", text);
    return (unsigned)n;
}

/* ---- Connections --------------------------------------------------------------------- */

static struct sockaddr_in server = {.sin_family = AF_INET};
static char request[1024];
static size_t request_length;

static void set_request(const char *path, const char *more, unsigned index, bool keep)
{
    char last[16] = "";
    if (more != NULL)
        snprintf(last, sizeof last, "/%u", index);
    int n = snprintf(request, sizeof request, "GET %s%s%s HTTP/1.1\r\nHost: localhost\r\n%s\r\n",
                     path, more != NULL ? more : "", last, keep ? "" : "Connection: close\r\n");
    if (n < 0 || (size_t)n >= sizeof request)
        die("the path %s is too long", path);
    request_length = (size_t)n;
}

/* The INDEXth connection: from 127.0.0.1, and from further addresses when there are many. */
static int dial(unsigned index, int flags)
{
    const int on = 1;
    struct sockaddr_in from = {.sin_family = AF_INET};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | flags, 0);
    if (fd < 0)
        die("could not make a socket");
    from.sin_addr.s_addr = htonl(INADDR_LOOPBACK + index / FROM_ONE_ADDRESS);
    if (index >= FROM_ONE_ADDRESS &&
        (setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on) < 0 ||
         bind(fd, (struct sockaddr *)&from, sizeof from) < 0))
        die("could not take a further address");
    if (connect(fd, (struct sockaddr *)&server, sizeof server) < 0 && errno != EINPROGRESS)
        die("could not connect");
    return fd;
}

/* Connect and ask. */
static int ask(unsigned index)
{
    int fd = dial(index, 0);
    if (send(fd, request, request_length, MSG_NOSIGNAL) != (ssize_t)request_length)
        die("could not send a request");
    return fd;
}

/* ---- Answers ------------------------------------------------------------------------- */

enum verdict { MORE, WHOLE, WRONG };

/* The value of a field in HEAD, or NULL. */
static const char *field(const char *head, const char *name)
{
    const char *at = strcasestr(head, name);
    return at != NULL ? at + strlen(name) : NULL;
}

/* TEXT is what has come, NUL-terminated. Only a whole "200" with the right body will do. */
static enum verdict judge(const char *text, size_t length, bool ended)
{
    const char *crlf = strstr(text, "\r\n\r\n"), *lf = strstr(text, "\n\n");
    const char *body = crlf != NULL ? crlf + 4 : lf != NULL ? lf + 2 : NULL;
    if (body == NULL)
        return ended ? WRONG : MORE;
    if (strncmp(text, "HTTP/1.", 7) != 0 || strncmp(text + 8, " 200", 4) != 0)
        return WRONG;
    size_t got = length - (size_t)(body - text);
    const char *said = field(text, "\ncontent-length:");
    bool whole = ended;
    if (said != NULL && said < body)
        whole = got >= strtoul(said, NULL, 10);
    else if ((said = field(text, "\ntransfer-encoding: chunked")) != NULL && said < body)
        whole = got >= 5 && memcmp(text + length - 5, "0\r\n\r\n", 5) == 0;
    if (!whole)
        return ended ? WRONG : MORE;
    return strstr(body, "hello\n") != NULL ? WHOLE : WRONG;
}

/* ---- rate ---------------------------------------------------------------------------- */

#define WARM_UP_NS 200000000
#define STUCK_NS 1000000000

struct caller {
    int fd; /* -1: not connected */
    bool asked, waiting;
    int64_t since;
    size_t got;
    char answer[4096];
};

static struct {
    int epoll;
    bool keep;
    unsigned left; /* requests to start; UINT32_MAX: until the time is over */
    unsigned waiting;
    unsigned dropped; /* callers without a connection */
    int64_t from, until;
    size_t errors, count, room;
    float *took; /* ms */
} rate = {.left = UINT32_MAX};

static void watch(struct caller *c, int how, uint32_t events)
{
    struct epoll_event e = {.events = events, .data.ptr = c};
    if (epoll_ctl(rate.epoll, how, c->fd, &e) < 0)
        die("could not watch a connection");
}

static void caller_drop(struct caller *c)
{
    close(c->fd);
    c->fd = -1;
    rate.dropped++;
}

static void caller_ask(struct caller *c)
{
    ssize_t n = send(c->fd, request, request_length, MSG_NOSIGNAL | MSG_DONTWAIT);
    c->asked = n == (ssize_t)request_length;
    if (!c->asked && n < 0 && errno != EAGAIN && errno != ENOTCONN)
        c->asked = true; /* reading will tell */
}

static void caller_start(struct caller *c)
{
    if (rate.left == 0)
        return;
    if (rate.left != UINT32_MAX)
        rate.left--;
    bool fresh = c->fd < 0;
    c->since = now_ns();
    c->got = 0;
    c->waiting = true;
    rate.waiting++;
    if (fresh) {
        c->fd = dial(0, SOCK_NONBLOCK);
        rate.dropped--;
    }
    caller_ask(c);
    if (fresh)
        watch(c, EPOLL_CTL_ADD, c->asked ? EPOLLIN : EPOLLIN | EPOLLOUT);
    else if (!c->asked)
        watch(c, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT);
}

static void caller_done(struct caller *c, bool well)
{
    int64_t now = now_ns();
    c->waiting = false;
    rate.waiting--;
    if (now >= rate.from && now < rate.until && well) {
        if (rate.count == rate.room) {
            rate.room = rate.room > 0 ? 2 * rate.room : 65536;
            rate.took = realloc(rate.took, rate.room * sizeof *rate.took);
            if (rate.took == NULL)
                die("out of memory");
        }
        rate.took[rate.count++] = (float)as_ms(now - c->since);
    }
    rate.errors += !well;
    if (!well || !rate.keep)
        caller_drop(c);
}

static void caller_event(struct caller *c, uint32_t events)
{
    if (!c->asked && (events & EPOLLOUT) != 0) {
        caller_ask(c);
        if (c->asked)
            watch(c, EPOLL_CTL_MOD, EPOLLIN);
    }
    if ((events & ~(uint32_t)EPOLLOUT) == 0)
        return;
    ssize_t n = recv(c->fd, c->answer + c->got, sizeof c->answer - 1 - c->got, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (!c->waiting) { /* kept, and the server ends it: an answer must not ask for that */
        rate.errors++;
        caller_drop(c);
        return;
    }
    if (n > 0)
        c->got += (size_t)n;
    c->answer[c->got] = '\0';
    enum verdict v =
        n < 0 || c->got == sizeof c->answer - 1 ? WRONG : judge(c->answer, c->got, n == 0);
    if (v != MORE)
        caller_done(c, v == WHOLE);
}

static int by_value(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static double percentile(double p)
{
    return rate.count > 0 ? (double)rate.took[(size_t)(p * (double)(rate.count - 1))] : 0;
}

static void rate_tell(const struct caller *callers, unsigned count)
{
    int64_t now = now_ns();
    if (now > rate.until)
        now = rate.until;
    for (unsigned i = 0; i < count; i++)
        rate.errors += callers[i].waiting && now - callers[i].since > STUCK_NS;
    if (rate.count > 0)
        qsort(rate.took, rate.count, sizeof *rate.took, by_value);
    printf("rate %.1f p50 %.3f p99 %.3f requests %zu errors %zu\n",
           (double)rate.count / ((double)(now - rate.from) / 1e9), percentile(0.5),
           percentile(0.99), rate.count, rate.errors);
}

static bool rate_is_over(void)
{
    return rate.left == UINT32_MAX ? now_ns() >= rate.until : rate.left == 0 && rate.waiting == 0;
}

static void rate_loop(struct caller *callers, unsigned count)
{
    struct epoll_event events[256];
    while (!rate_is_over()) {
        for (unsigned i = 0; rate.dropped > 0 && i < count; i++)
            if (callers[i].fd < 0)
                caller_start(&callers[i]);
        int n = epoll_wait(rate.epoll, events, 256, 100);
        if (n < 0 && errno != EINTR)
            die("could not wait");
        for (int i = 0; i < n; i++) {
            struct caller *c = events[i].data.ptr;
            caller_event(c, events[i].events);
            if (!c->waiting)
                caller_start(c);
        }
    }
}

static void do_rate(char **argv)
{
    unsigned count = number(argv[2]);
    rate.keep = strcmp(argv[3], "keep") == 0;
    if (argv[5] != NULL)
        rate.left = number(argv[5]);
    set_request(argv[1], NULL, 0, rate.keep);
    struct caller *callers = calloc(count, sizeof *callers);
    rate.epoll = epoll_create1(EPOLL_CLOEXEC);
    if (callers == NULL || rate.epoll < 0)
        die("could not begin");
    for (unsigned i = 0; i < count; i++)
        callers[i].fd = -1;
    rate.dropped = count;
    rate.from = now_ns() + (argv[5] != NULL ? 0 : WARM_UP_NS);
    rate.until = rate.from + (int64_t)number(argv[4]) * 1000000000;
    rate_loop(callers, count);
    rate_tell(callers, count);
    free(callers);
}

/* ---- Files that come and go ---------------------------------------------------------- */

static int files = -1; /* inotify */

static void files_watch(const char *directory)
{
    files = inotify_init1(IN_CLOEXEC);
    if (files < 0 ||
        inotify_add_watch(files, directory, IN_CREATE | IN_MOVED_TO | IN_DELETE | IN_ONLYDIR) < 0)
        die("could not watch the directory %s", directory);
}

static bool is_a_number(const char *name)
{
    return *name != '\0' && name[strspn(name, "0123456789")] == '\0';
}

/* Wait until something happened: how many of the numbered files were made, and removed. */
static void files_wait(unsigned *made, unsigned *gone)
{
    static _Alignas(struct inotify_event) char buffer[1 << 16];
    struct pollfd p = {.fd = files, .events = POLLIN};
    if (poll(&p, 1, PATIENCE_MS) <= 0)
        die("nothing happens: %u files were made, %u removed", *made, *gone);
    ssize_t n = read(files, buffer, sizeof buffer);
    if (n < 0)
        die("could not watch the files");
    const struct inotify_event *e;
    for (const char *at = buffer; at < buffer + n; at += sizeof *e + e->len) {
        e = (const void *)at;
        if ((e->mask & IN_Q_OVERFLOW) != 0)
            die("too many files at once; see fs.inotify.max_queued_events");
        if (e->len == 0 || !is_a_number(e->name))
            continue;
        *made += (e->mask & (IN_CREATE | IN_MOVED_TO)) != 0;
        *gone += (e->mask & IN_DELETE) != 0;
    }
}

/* ---- idle, slow, hangup, first ------------------------------------------------------- */

static void wait_for_line(void)
{
    puts("ready");
    fflush(stdout);
    for (int c; (c = getchar()) != EOF && c != '\n';) {
    }
}

static int *descriptors(unsigned count)
{
    struct rlimit limit;
    int *fds = calloc(count, sizeof *fds);
    if (fds == NULL || getrlimit(RLIMIT_NOFILE, &limit) < 0)
        die("could not begin");
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    return fds;
}

static void do_idle(char **argv)
{
    unsigned count = number(argv[1]);
    int *fds = descriptors(count);
    for (unsigned i = 0; i < count; i++)
        fds[i] = dial(i, 0);
    wait_for_line();
    free(fds);
}

#define STARTING 64 /* requests at once that have not made their files yet */

static void do_slow(char **argv)
{
    unsigned count = number(argv[2]), made = 0, gone = 0;
    int *fds = descriptors(count);
    files_watch(argv[3]);
    for (unsigned i = 0; i < count; i++) {
        set_request(argv[1], argv[3], i, true);
        fds[i] = ask(i);
        while (i - made >= STARTING && i >= made)
            files_wait(&made, &gone);
    }
    while (made < count)
        files_wait(&made, &gone);
    if (gone > 0)
        die("%u of the requests have ended too early", gone);
    wait_for_line();
    int64_t from = now_ns();
    for (unsigned i = 0; i < count; i++)
        close(fds[i]);
    while (gone < count)
        files_wait(&made, &gone);
    printf("gone %.3f\n", as_ms(now_ns() - from));
    free(fds);
}

static void do_hangup(char **argv)
{
    unsigned count = number(argv[2]);
    const struct timespec a_while = {.tv_nsec = 3000000}; /* both sides have gone to sleep */
    files_watch(argv[3]);
    for (unsigned i = 0; i < count; i++) {
        unsigned made = 0, gone = 0;
        set_request(argv[1], argv[3], i, true);
        int fd = ask(i);
        while (made == 0)
            files_wait(&made, &gone);
        nanosleep(&a_while, NULL);
        int64_t from = now_ns();
        close(fd);
        while (gone == 0)
            files_wait(&made, &gone);
        printf("%.3f\n", as_ms(now_ns() - from));
    }
}

static void do_first(char **argv)
{
    unsigned count = number(argv[2]);
    set_request(argv[1], NULL, 0, false);
    for (unsigned i = 0; i < count; i++) {
        char text[4096];
        size_t got = 0;
        bool told = false;
        int fd = ask(0);
        for (ssize_t n; (n = read(fd, text + got, sizeof text - 1 - got)) > 0;) {
            int64_t now = now_ns();
            got += (size_t)n;
            text[got] = '\0';
            const char *at = strstr(text, "t=");
            if (told || at == NULL || strchr(at, '\n') == NULL)
                continue;
            told = true;
            printf("%.3f\n", as_ms(now - strtoll(at + 2, NULL, 10)));
        }
        if (!told)
            die("not an answer of stream.c");
        close(fd);
    }
}

/* ---- Main ---------------------------------------------------------------------------- */

int main(int argc, char **argv)
{
    static const struct mode {
        const char *name;
        void (*run)(char **argv);
        int least, most; /* arguments, from PORT on */
    } modes[] = {{"rate", do_rate, 5, 6},
                 {"idle", do_idle, 2, 2},
                 {"slow", do_slow, 4, 4},
                 {"hangup", do_hangup, 4, 4},
                 {"first", do_first, 3, 3}};
    for (size_t i = 0; argc > 2 && i < sizeof modes / sizeof modes[0]; i++) {
        const struct mode *m = &modes[i];
        if (strcmp(argv[1], m->name) != 0 || argc - 2 < m->least || argc - 2 > m->most)
            continue;
        server.sin_port = htons((uint16_t)number(argv[2]));
        server.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        m->run(argv + 2);
        return 0;
    }
    fputs("load: see the head of load.c for how to call it\n", stderr);
    return 2;
}
