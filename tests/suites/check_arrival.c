/* check_arrival.c: handler_delivery, which tells whether an answer has arrived. */
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "serve.h"
#include "suite.h"

static void let_sigpipe_kill(void)
{
    signal(SIGPIPE, SIG_DFL);
}

SUITE(.begin = let_sigpipe_kill, .bare = true);

/* ---- Has the answer arrived? ------------------------------------------------------------- */

THEME("delivery");

enum { SERVER, CLIENT };

#define LONG_MS 30000 /* longer than anything takes here */

/* With SMALL, the client takes little at a time and the server queues much. */
static void tcp_pair(int pair[2], bool small)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    int few = 4096, many = 1 << 20;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    pair[CLIENT] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ck_assert_int_eq(bind(listener, (struct sockaddr *)&address, size), 0);
    ck_assert_int_eq(listen(listener, 1), 0);
    ck_assert_int_eq(getsockname(listener, (struct sockaddr *)&address, &size), 0);
    if (small)
        setsockopt(pair[CLIENT], SOL_SOCKET, SO_RCVBUF, &few, sizeof few);
    ck_assert_int_eq(connect(pair[CLIENT], (struct sockaddr *)&address, size), 0);
    pair[SERVER] = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    ck_assert_int_ge(pair[SERVER], 0);
    if (small)
        setsockopt(pair[SERVER], SOL_SOCKET, SO_SNDBUF, &many, sizeof many);
    close(listener);
}

/* A pair of the kind that _i says: 1 is TCP. */
static void make_pair(int pair[2], bool tcp, bool small)
{
    if (tcp)
        tcp_pair(pair, small);
    else
        ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
}

/* Queue up to N bytes without waiting; how many were. */
static size_t queue(int fd, size_t n)
{
    static const char bytes[4096];
    size_t done = 0;
    while (done < n) {
        size_t piece = n - done < sizeof bytes ? n - done : sizeof bytes;
        ssize_t sent = send(fd, bytes, piece, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent < 0)
            break;
        done += (size_t)sent;
    }
    ck_assert_uint_gt(done, 0);
    return done;
}

static void reset(int fd)
{
    struct linger none = {.l_onoff = 1, .l_linger = 0};
    ck_assert_int_eq(setsockopt(fd, SOL_SOCKET, SO_LINGER, &none, sizeof none), 0);
    close(fd);
}

static void read_all(int fd, size_t n)
{
    char buffer[4096];
    while (n > 0) {
        ssize_t got = recv(fd, buffer, n < sizeof buffer ? n : sizeof buffer, 0);
        ck_assert_int_gt(got, 0);
        n -= (size_t)got;
    }
}

static _Atomic uint32_t no_cause;

static bool was_delivered(int connection, bool is_tcp, uint64_t n, int64_t patience_ms)
{
    return handler_delivery(connection, is_tcp, n, patience_ms, &no_cause) == OUTCOME_OK;
}

TEST_TIMES(delivered_when_read, 2)
{
    int pair[2];
    make_pair(pair, _i, false);
    size_t n = queue(pair[SERVER], 1000);
    read_all(pair[CLIENT], n);
    ck_assert(was_delivered(pair[SERVER], _i, n, LONG_MS));
    /* And the next answer on the same connection. */
    n += queue(pair[SERVER], 3000);
    read_all(pair[CLIENT], 3000);
    ck_assert(was_delivered(pair[SERVER], _i, n, LONG_MS));
}

TEST_TIMES(delivered_then_closed, 2)
{
    int pair[2];
    make_pair(pair, _i, false);
    size_t n = queue(pair[SERVER], 1000);
    read_all(pair[CLIENT], n);
    close(pair[CLIENT]);
    ck_assert(was_delivered(pair[SERVER], _i, n, LONG_MS));
}

/* The client's kernel has it: what the client does with it is its own affair. */
TEST(delivered_when_acknowledged)
{
    int pair[2];
    tcp_pair(pair, false);
    size_t n = queue(pair[SERVER], 1000);
    ck_assert(was_delivered(pair[SERVER], true, n, LONG_MS));
    reset(pair[CLIENT]);
    struct pollfd p = {.fd = pair[SERVER]};
    ck_assert_int_eq(poll(&p, 1, LONG_MS), 1);
    ck_assert(was_delivered(pair[SERVER], true, n, LONG_MS));
}

/* A FIN of ours counts one. */
TEST(delivered_with_fin)
{
    int pair[2];
    char c;
    tcp_pair(pair, false);
    size_t n = queue(pair[SERVER], 1000);
    ck_assert(!was_delivered(pair[SERVER], true, n + 1, 50));
    ck_assert_int_eq(shutdown(pair[SERVER], SHUT_WR), 0);
    read_all(pair[CLIENT], n);
    ck_assert_int_eq(recv(pair[CLIENT], &c, 1, 0), 0);
    close(pair[CLIENT]);
    ck_assert(was_delivered(pair[SERVER], true, n + 1, LONG_MS));
}

TEST_TIMES(not_delivered_in_time, 2)
{
    int pair[2];
    make_pair(pair, _i, true);
    size_t n = queue(pair[SERVER], 200000);
    int64_t before = clock_ms();
    ck_assert(!was_delivered(pair[SERVER], _i, n, 200));
    ck_assert_int_ge(clock_ms() - before, 200);
    ck_assert_int_lt(clock_ms() - before, LONG_MS);
}

/* A reset ends the wait at once; on AF_UNIX it is a close with bytes unread. */
TEST_TIMES(not_delivered_when_reset, 2)
{
    int pair[2];
    make_pair(pair, _i, true);
    size_t n = queue(pair[SERVER], 200000);
    reset(pair[CLIENT]);
    int64_t before = clock_ms();
    ck_assert(!was_delivered(pair[SERVER], _i, n, LONG_MS));
    ck_assert_int_lt(clock_ms() - before, LONG_MS);
}

TEST_TIMES(not_delivered_when_read_in_part, 2)
{
    int pair[2];
    make_pair(pair, _i, true);
    size_t n = queue(pair[SERVER], 200000);
    read_all(pair[CLIENT], 1000);
    reset(pair[CLIENT]);
    ck_assert(!was_delivered(pair[SERVER], _i, n, LONG_MS));
}

/* Whoever asks second, the parent after its child, is told the same. */
TEST_TIMES(not_delivered_asked_twice, 2)
{
    int pair[2];
    make_pair(pair, _i, true);
    size_t n = queue(pair[SERVER], 200000);
    reset(pair[CLIENT]);
    ck_assert(!was_delivered(pair[SERVER], _i, n, LONG_MS));
    ck_assert(!was_delivered(pair[SERVER], _i, n, LONG_MS));
}

static pid_t start_client(int pair[2])
{
    pid_t pid = fork();
    ck_assert_int_ge(pid, 0);
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        signal(SIGTERM, SIG_DFL);
        close(pair[SERVER]);
        return 0;
    }
    close(pair[CLIENT]);
    return pid;
}

static void must_end_well(pid_t pid)
{
    int status;
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    ck_assert_int_eq(status, 0);
}

/* The limit is for standing still: a slow reader may take longer than that in all. */
TEST_TIMES(delivered_slowly, 2)
{
    int pair[2];
    make_pair(pair, _i, true);
    size_t n = queue(pair[SERVER], 100000), left = n;
    int64_t before = clock_ms();
    pid_t pid = start_client(pair);
    while (pid == 0 && left > 0) {
        size_t piece = left < n / 20 ? left : n / 20;
        sleep_ms(100);
        read_all(pair[CLIENT], piece);
        left -= piece;
    }
    if (pid == 0)
        _exit(0);
    ck_assert(was_delivered(pair[SERVER], _i, n, 1000));
    ck_assert_int_gt(clock_ms() - before, 1000);
    must_end_well(pid);
}

/* It waits for what comes later, and sees a reset that comes later. */
TEST_TIMES(waits_for_the_end, 4)
{
    int pair[2];
    bool tcp = _i & 1, whole = _i & 2;
    make_pair(pair, tcp, true);
    size_t n = queue(pair[SERVER], 100000);
    int64_t before = clock_ms();
    pid_t pid = start_client(pair);
    if (pid == 0) {
        sleep_ms(150);
        if (whole)
            read_all(pair[CLIENT], n);
        reset(pair[CLIENT]);
        _exit(0);
    }
    bool delivered = was_delivered(pair[SERVER], tcp, n, LONG_MS);
    ck_assert_int_eq(delivered, whole);
    ck_assert_int_lt(clock_ms() - before, LONG_MS);
    must_end_well(pid);
}
