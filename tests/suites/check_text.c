/* check_text.c: numbers, text and time, as the ledger needs them. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <regex.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness_ledgers.h"
#include "text.h"

SUITE(LEDGERS);

/* ---- Text -------------------------------------------------------------------------------- */

THEME("text");

TEST(text_building)
{
    char room[64], small[8];
    struct text t = TEXT(room);

    text_add(&t, "a");
    text_char(&t, 'b');
    text_bytes(&t, "cde", 2);
    text_number(&t, 0, 0);
    text_number(&t, 7, 3);
    text_number(&t, 12345, 2);
    text_char(&t, ' ');
    text_signed(&t, -1);
    ck_assert_str_eq(text_end(&t), "abcd000712345 -1");
    t = TEXT(room);
    text_number(&t, 18446744073709551615ULL, 0);
    text_char(&t, ' ');
    text_signed(&t, LLONG_MIN);
    text_char(&t, ' ');
    text_signed(&t, LLONG_MAX);
    ck_assert_str_eq(text_end(&t), "18446744073709551615 -9223372036854775808 9223372036854775807");

    /* What does not fit is cut, and the byte after the array stays as it is. */
    for (size_t n = 0; n < 20; n++) {
        struct {
            char at[8], after;
        } guarded = {.after = 'x'};
        t = TEXT(guarded.at);
        text_bytes(&t, "01234567890123456789", n);
        text_add(&t, "");
        ck_assert_uint_eq(strlen(text_end(&t)), n < 7 ? n : 7);
        text_char(&t, '!');
        text_number(&t, 123456789, 12);
        text_signed(&t, -123456789);
        ck_assert_int_eq(strncmp(text_end(&t), "01234567", n < 7 ? n : 7), 0);
        ck_assert_uint_eq(strlen(text_end(&t)), 7);
        ck_assert_int_eq(guarded.after, 'x');
    }
    t = TEXT(small);
    ck_assert_str_eq(text_end(&t), "");
}

TEST(number_parsing)
{
    static const struct {
        const char *text;
        unsigned long long max;
        bool good;
        unsigned long long n;
        size_t used;
    } cases[] = {
        {"0", 0, true, 0, 1},
        {"1", 0, false, 0, 0},
        {"255", 255, true, 255, 3},
        {"256", 255, false, 0, 0},
        {"0000000000000000000000000255x", 255, true, 255, 28},
        {"12 34", 1000, true, 12, 2},
        {"18446744073709551615", ULLONG_MAX, true, ULLONG_MAX, 20},
        {"18446744073709551616", ULLONG_MAX, false, 0, 0},
        {"18446744073709551620", ULLONG_MAX, false, 0, 0},
        {"99999999999999999999999", ULLONG_MAX, false, 0, 0},
        {"", ULLONG_MAX, false, 0, 0},
        {"-1", ULLONG_MAX, false, 0, 0},
        {"+1", ULLONG_MAX, false, 0, 0},
        {" 1", ULLONG_MAX, false, 0, 0},
        {"x", ULLONG_MAX, false, 0, 0},
    };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const char *s = cases[i].text;
        unsigned long long n = 0;
        ck_assert_msg(parse_number(&s, cases[i].max, &n) == cases[i].good, "%s", cases[i].text);
        if (!cases[i].good)
            continue;
        ck_assert_uint_eq(n, cases[i].n);
        ck_assert_uint_eq((size_t)(s - cases[i].text), cases[i].used);
    }
}

static int to_reader[2]; /* a pipe */

/* Full, the pipe makes the writer wait. One signal cuts its write short, and one comes when the
 * next has written nothing yet. */
static void read_slowly(void)
{
    char buffer[1000];
    size_t total = 0;

    close(to_reader[1]);
    for (ssize_t n; (n = read(to_reader[0], buffer, sizeof buffer)) > 0; total += (size_t)n)
        for (int i = 0; total % 64000 == 0 && i < 2; i++) {
            sleep_ms(1);
            kill(getppid(), SIGALRM);
        }
    _exit(total == 1 << 20 ? 0 : 1);
}

static void nothing(int sig)
{
    (void)sig;
}

/* All arrives, though the reader is slow and signals cut the writes short. */
TEST(writing_all)
{
    static char bytes[1 << 20];
    struct sigaction action = {.sa_handler = nothing}; /* no SA_RESTART */

    ck_assert_int_eq(pipe2(to_reader, O_CLOEXEC), 0);
    ck_assert_int_eq(sigaction(SIGALRM, &action, NULL), 0);
    pid_t reader = start(read_slowly);
    close(to_reader[0]);
    ck_assert_int_eq(write_all(to_reader[1], bytes, sizeof bytes), 0);
    close(to_reader[1]);
    ck_assert_int_eq(status_of(reader), 0);

    int fd = open("/dev/full", O_WRONLY | O_CLOEXEC);
    ck_assert_int_eq(write_all(fd, "x", 1), -1);
    ck_assert_int_eq(errno, ENOSPC);
    ck_assert_int_eq(write_all(fd, "x", 0), 0);
    close(fd);
}

TEST(time_passes)
{
    int64_t before = clock_ms();

    sleep_ms(30);
    ck_assert_int_ge(clock_ms() - before, 29);
    sleep_ms(0);
    sleep_ms(-5);
    ck_assert_int_lt(clock_ms() - before, 20000);
}
