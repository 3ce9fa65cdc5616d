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

static const struct {
    const char *text, *line, *string, *json, *metric, *page;
} escapes[] = {
    {"a b\"\\<&", "a b\"\\<&", "a b\\\"\\\\<&", "a b\\\"\\\\<&", "a b\\\"\\\\<&",
     "a b&#34;\\&#60;&#38;"},
    {"\n\x1b\x7f", "\\x0a\\x1b\\x7f", "\\x0a\\x1b\\x7f", "\\u000a\\u001b\\u007f",
     "\\\\x0a\\\\x1b\\\\x7f", "\\x0a\\x1b\\x7f"},
/* UTF-8 of one to four bytes, at the edges of each length. */
#define AS_IT_IS(text)                                                                             \
    {                                                                                              \
        text, text, text, text, text, text                                                         \
    }
    AS_IT_IS("Schl\xc3\xbcssel \xc2\xa0\xdf\xbf"),
    AS_IT_IS("\xe0\xa0\x80\xed\x9f\xbf\xee\x80\x80\xef\xbf\xbf\xe2\x82\xac"),
    AS_IT_IS("\xf0\x90\x80\x80\xf4\x8f\xbf\xbf\xf0\x9f\x92\xa9"),
    /* What would steer a terminal, end a line, or turn the text around. */
    {"\xc2\x9b\xe2\x80\xa8", "\\xc2\\x9b\\xe2\\x80\\xa8", "\\xc2\\x9b\\xe2\\x80\\xa8",
     "\\u009b\\u2028", "\\\\xc2\\\\x9b\\\\xe2\\\\x80\\\\xa8", "\\xc2\\x9b\\xe2\\x80\\xa8"},
    {"\xe2\x80\xae\xe2\x80\xac", "\\xe2\\x80\\xae\\xe2\\x80\\xac", "\\xe2\\x80\\xae\\xe2\\x80\\xac",
     "\\u202e\\u202c", "\\\\xe2\\\\x80\\\\xae\\\\xe2\\\\x80\\\\xac",
     "\\xe2\\x80\\xae\\xe2\\x80\\xac"},
    {"\xe2\x81\xa6\xe2\x81\xa9", "\\xe2\\x81\\xa6\\xe2\\x81\\xa9", "\\xe2\\x81\\xa6\\xe2\\x81\\xa9",
     "\\u2066\\u2069", "\\\\xe2\\\\x81\\\\xa6\\\\xe2\\\\x81\\\\xa9",
     "\\xe2\\x81\\xa6\\xe2\\x81\\xa9"},
/* No UTF-8: alone, cut, too long for what they are, halves of a pair, beyond the last. */
#define BYTE_BY_BYTE(text, escaped, twice)                                                         \
    {                                                                                              \
        text, escaped, escaped, twice, twice, escaped                                              \
    }
    BYTE_BY_BYTE("\x80", "\\x80", "\\\\x80"),
    BYTE_BY_BYTE("\xff", "\\xff", "\\\\xff"),
    BYTE_BY_BYTE("\xc3", "\\xc3", "\\\\xc3"),
    BYTE_BY_BYTE("\xc3(", "\\xc3(", "\\\\xc3("),
    BYTE_BY_BYTE("\xe2\x82", "\\xe2\\x82", "\\\\xe2\\\\x82"),
    BYTE_BY_BYTE("\xc0\x8a", "\\xc0\\x8a", "\\\\xc0\\\\x8a"),
    BYTE_BY_BYTE("\xe0\x80\x8a", "\\xe0\\x80\\x8a", "\\\\xe0\\\\x80\\\\x8a"),
    BYTE_BY_BYTE("\xed\xa0\x80", "\\xed\\xa0\\x80", "\\\\xed\\\\xa0\\\\x80"),
    BYTE_BY_BYTE("\xf4\x90\x80\x80", "\\xf4\\x90\\x80\\x80", "\\\\xf4\\\\x90\\\\x80\\\\x80"),
    BYTE_BY_BYTE("\xf8\x88\x80\x80\x80", "\\xf8\\x88\\x80\\x80\\x80",
                 "\\\\xf8\\\\x88\\\\x80\\\\x80\\\\x80"),
};

TEST_EACH(escapes_for_each_place, escapes)
{
    const char *const expected[] = {escapes[_i].line, escapes[_i].string, escapes[_i].json,
                                    escapes[_i].metric, escapes[_i].page};
    for (enum escape how = ESCAPE_LINE; how <= ESCAPE_HTML; how++) {
        char room[64];
        struct text t = TEXT(room);
        text_escaped(&t, escapes[_i].text, how);
        ck_assert_str_eq(text_end(&t), expected[how]);
    }
    /* What does not fit is left out whole: half an escape, or half a character, is another one. */
    for (size_t n = 1; n < 64; n++) {
        char room[64], all[64];
        struct text t = {.at = room, .room = n}, whole = TEXT(all);
        size_t fits = 0;
        text_escaped(&t, escapes[_i].text, ESCAPE_JSON);
        for (const char *s = escapes[_i].text; *s != '\0' && whole.length < n;) {
            fits = whole.length;
            s += text_escaped_char(&whole, s, ESCAPE_JSON);
        }
        fits = whole.length < n ? whole.length : fits;
        ck_assert_uint_eq(t.length, fits);
        ck_assert_int_eq(memcmp(room, text_end(&whole), fits), 0);
    }
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
