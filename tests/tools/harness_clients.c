#include "harness_clients.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "suite.h"

static int dial_address(const struct server *s, const char *from, int room)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;
    struct sockaddr_in address = {.sin_family = AF_INET};
    must(fd >= 0);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    if (room > 0)
        setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &room, sizeof(room));
    inet_pton(AF_INET, from, &address.sin_addr);
    must(bind(fd, (struct sockaddr *)&address, sizeof(address)) == 0);
    address.sin_port = htons((uint16_t)s->port);
    inet_pton(AF_INET, "127.0.0.1", &address.sin_addr);
    must_say(connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0, "connect: %s",
             strerror(errno));
    return fd;
}

int dial(const struct server *s)
{
    return dial_address(s, "127.0.0.1", 0);
}

int dial_from(const struct server *s, const char *address)
{
    return dial_address(s, address, 0);
}

int dial_slow(const struct server *s)
{
    return dial_address(s, "127.0.0.1", 1);
}

int dial_unix(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    /* The current directory is the test's, whose path may be too long for a socket's. */
    snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    must_say(fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0,
             "connect to %s: %s", path, strerror(errno));
    return fd;
}

/* Returns true if the server has accepted the connection C (only then the kernel shows an inode for
 * the server's end), and read all that came on it if READ. */
static bool is_accepted(const struct server *s, int c, bool read)
{
    struct sockaddr_in mine = {0};
    socklen_t size = sizeof(mine);
    char line[512];
    bool accepted = false;
    must(getsockname(c, (struct sockaddr *)&mine, &size) == 0);
    FILE *f = fopen("/proc/net/tcp", "re");
    must(f);
    while (!accepted && fgets(line, sizeof(line), f)) {
        unsigned local, remote, unread;
        unsigned long inode;
        accepted = sscanf(line, "%*s %*x:%x %*x:%x %*x %*x:%x %*s %*x %*u %*u %lu", &local, &remote,
                          &unread, &inode) == 4 &&
                   local == s->port && remote == ntohs(mine.sin_port) && inode != 0 &&
                   (!read || unread == 0);
    }
    fclose(f);
    return accepted;
}

void wait_read(const struct server *s, int c)
{
    wait_until(is_accepted(s, c, true));
}

/* How many bytes wait at the server for its client's PORT to be sent or acknowledged, see proc(5).
 * Ports of others, and of connections that have ended, are there, too. */
static unsigned long waiting_for(const struct server *s, unsigned port)
{
    char line[512];
    unsigned local, remote, state;
    unsigned long waits = 0, n;
    FILE *f = fopen("/proc/net/tcp", "r");
    must(f);
    while (fgets(line, sizeof(line), f))
        if (sscanf(line, " %*d: %*8x:%4x %*8x:%4x %2x %8lx:", &local, &remote, &state, &n) == 4 &&
            local == s->port && remote == port && state == TCP_ESTABLISHED)
            waits = n;
    fclose(f);
    return waits;
}

void wait_all_sent(const struct server *s, int c, unsigned long bytes)
{
    struct sockaddr_in own = {0};
    int there = 0;
    must(getsockname(c, (struct sockaddr *)&own, &(socklen_t){sizeof(own)}) == 0);
    wait_until(ioctl(c, FIONREAD, &there) == 0 &&
               waiting_for(s, ntohs(own.sin_port)) + (unsigned long)there >= bytes);
}

void wait_seen(const struct server *s)
{
    /* The first is accepted after all before it; by the third, each of these was looked at. */
    for (int i = 0; i < 3; i++) {
        int c = dial(s);
        wait_until(is_accepted(s, c, false));
        close(c);
    }
}

void say_bytes(int fd, const void *bytes, size_t n)
{
    const char *p = bytes;
    while (n > 0) {
        ssize_t sent = send(fd, p, n, MSG_NOSIGNAL);
        must_say(sent > 0, "send: %s", strerror(errno));
        p += sent;
        n -= (size_t)sent;
    }
}

void say(int fd, const char *format, ...)
{
    char *text;
    va_list arguments;
    va_start(arguments, format);
    int n = vasprintf(&text, format, arguments);
    va_end(arguments);
    must(n >= 0);
    say_bytes(fd, text, (size_t)n);
    free(text);
}

int get(const struct server *s, const char *format, ...)
{
    char target[8192];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(target, sizeof(target), format, arguments);
    va_end(arguments);
    int fd = dial(s);
    say(fd, "GET %s HTTP/1.1\r\nHost: test\r\n\r\n", target);
    return fd;
}

/* ---- Listening to an answer --------------------------------------------------------------------
 */

/* The first answer in TEXT that is not an interim one: its start, or NULL. */
static const char *final_answer(const char *text)
{
    while (strncmp(text, "HTTP/1.1 1", 10) == 0) {
        const char *end = strstr(text, "\r\n\r\n");
        if (!end)
            return NULL;
        text = end + 4;
    }
    return strncmp(text, "HTTP/1.", 7) == 0 && strnlen(text, 13) > 12 ? text : NULL;
}

/* Read as long as WANTED wants bytes after what has been read, until the connection ends, or time
 * is up. Not one byte more is taken than it wants: they are peeked at. */
static struct heard hear_while(int fd, size_t (*wanted)(const struct heard *, const void *),
                               const void *what, bool end_is_wrong)
{
    static struct heard answers[8];
    static size_t rooms[8];
    static unsigned next;
    unsigned i = next++ % 8;
    struct heard *h = &answers[i];
    *h = (struct heard){.text = h->text};
    append_bytes(&h->text, &h->length, &rooms[i], "", 0);
    int64_t deadline = now_ms() + PATIENCE_MS;
    static char buffer[262144];
    for (size_t want; (want = wanted(h, what)) > 0;) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        int64_t left = deadline - now_ms();
        must_say(left > 0, "waited for the other side, which has said: %s", h->text);
        if (poll(&p, 1, (int)left) <= 0)
            continue;
        ssize_t n = recv(fd, buffer, sizeof(buffer), end_is_wrong ? MSG_PEEK : 0);
        if (n <= 0) {
            h->reset = n < 0;
            must_say(!end_is_wrong, "the connection ended; what came: %s", h->text);
            break;
        }
        size_t got = (size_t)n, taken = 0;
        for (; taken < got && want > 0; want = wanted(h, what)) {
            size_t part = want < got - taken ? want : got - taken;
            append_bytes(&h->text, &h->length, &rooms[i], buffer + taken, part);
            taken += part;
        }
        must(!end_is_wrong || recv(fd, buffer, taken, 0) == (ssize_t)taken);
    }
    const char *final = final_answer(h->text);
    h->status = final ? atoi(final + 9) : 0;
    return *h;
}

static size_t all(const struct heard *h, const void *what)
{
    (void)h;
    (void)what;
    return SIZE_MAX;
}

struct heard hear_holding(int fd)
{
    return hear_while(fd, all, NULL, false);
}

struct heard hear(int fd)
{
    struct heard h = hear_holding(fd);
    shutdown(fd, SHUT_WR); /* an end is answered by one, as everybody does it */
    return h;
}

static size_t until_it_ends_with(const struct heard *h, const void *what)
{
    size_t n = strlen(what);
    return h->length < n || memcmp(h->text + h->length - n, what, n) != 0;
}

struct heard hear_until(int fd, const char *pattern)
{
    return hear_while(fd, until_it_ends_with, pattern, true);
}

static size_t rest_of_answer(const struct heard *h, const void *what)
{
    const bool *head = what;
    const char *start = final_answer(h->text), *end = start ? strstr(start, "\r\n\r\n") : NULL;
    if (!end)
        return 1;
    if (*head || atoi(start + 9) == 204 || atoi(start + 9) == 304)
        return 0;
    size_t body = h->length - (size_t)(end + 4 - h->text);
    for (const char *line = start; line < end; line = strstr(line + 2, "\r\n"))
        if (strncasecmp(line, "\r\nContent-Length:", 17) == 0)
            return strtoull(line + 17, NULL, 10) - body;
    return until_it_ends_with(h, "\r\n0\r\n\r\n");
}

struct heard hear_answer(int fd, bool head)
{
    return hear_while(fd, rest_of_answer, &head, true);
}

bool is_quiet(int fd)
{
    char byte;
    return recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0 && errno == EAGAIN;
}

const char *field(struct heard answer, const char *name)
{
    static char values[4][1024];
    static unsigned next;
    char *value = values[next++ % 4], pattern[128];
    value[0] = '\0';
    snprintf(pattern, sizeof(pattern), "\r\n%s:", name);
    const char *start = final_answer(answer.text);
    const char *end = start ? strstr(start, "\r\n\r\n") : NULL;
    const char *found = start ? strcasestr(start, pattern) : NULL;
    if (!found || !end || found >= end)
        return value;
    found += strlen(pattern);
    found += strspn(found, " \t");
    snprintf(value, sizeof(values[0]), "%.*s", (int)strcspn(found, "\r"), found);
    return value;
}

/* ---- Hanging up --------------------------------------------------------------------------------
 */

void close_fin(int fd)
{
    close(fd);
}

void close_rst(int fd)
{
    struct linger at_once = {.l_onoff = 1, .l_linger = 0};
    must(setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once)) == 0);
    close(fd);
}

void hang_up(int fd, int way)
{
    if (way == BY_RST)
        close_rst(fd);
    else
        close_fin(fd);
}

/* ---- curl --------------------------------------------------------------------------------------
 */

/* curl's words; TEXT and STORE hold them. */
static void curl_words(const struct server *s, char *text, size_t size, char **argv, char *store,
                       size_t store_size, const char *format, va_list arguments)
{
    static char program[] = "curl", options[] = "-sS", limit[] = "--max-time", time[16];
    char *words[WORDS_MAX];
    unsigned n = 0;
    vsnprintf(text, size, format, arguments);
    snprintf(time, sizeof(time), "%d", PATIENCE_MS / 1000 - 1);
    unsigned count = split_words(text, words, WORDS_MAX - 6);
    argv[n++] = program;
    argv[n++] = options;
    argv[n++] = limit;
    argv[n++] = time;
    for (unsigned i = 0; i < count; i++) {
        if (words[i][0] != '/') {
            argv[n++] = words[i];
            continue;
        }
        int used = snprintf(store, store_size, "http://127.0.0.1:%u%s", s->port, words[i]);
        argv[n++] = store;
        store += used + 1;
        store_size -= (size_t)used + 1;
    }
    argv[n] = NULL;
}

struct output curl(const struct server *s, const char *format, ...)
{
    char text[8192], store[16384], *argv[WORDS_MAX];
    va_list arguments;
    va_start(arguments, format);
    curl_words(s, text, sizeof(text), argv, store, sizeof(store), format, arguments);
    va_end(arguments);
    return run_argv((const char *const *)argv, NULL, true);
}

pid_t curl_start(const struct server *s, const char *format, ...)
{
    char text[8192], store[16384], *argv[WORDS_MAX];
    pid_t parent = getpid();
    va_list arguments;
    va_start(arguments, format);
    curl_words(s, text, sizeof(text), argv, store, sizeof(store), format, arguments);
    va_end(arguments);
    fflush(NULL);
    pid_t pid = fork();
    must(pid >= 0);
    if (pid == 0) {
        become_ordinary(parent);
        int null = open("/dev/null", O_RDWR);
        dup2(null, 0);
        dup2(null, 1);
        dup2(null, 2);
        execvp(argv[0], argv);
        _exit(127);
    }
    return pid;
}
