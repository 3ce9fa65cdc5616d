/* text.h: text built in place, numbers, escapes, clocks and dates, without stdio; and small calls
 * on descriptors that are wanted everywhere in the same way.
 *
 *     char buffer[64];
 *     struct text t = TEXT(buffer);
 *     text_add(&t, "hangupd, ");
 *     puts(text_format(&t, "process %d of %s", getpid(), name));
 *
 * Text is built in an array of the caller's; what does not fit there is cut off and nothing
 * overflows. Use it for lines of the log and of ledgers, for names, for heads of answers: for all
 * that a signal handler may have to write, where stdio is not allowed. Do not use it for text of
 * unbounded length, as the caller is not told that something was cut.
 *
 * Kind: pure.
 * Signal safety: what is marked ASYNC_SAFE, which is all but random_hex.
 */
#ifndef HANGUPD_TEXT_H
#define HANGUPD_TEXT_H

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "libc.h"

/* A function so marked may run in a signal handler. It goes to a section of its own, and
 * `make lint` proves that nothing in that section calls anything but async-signal-safe
 * functions (signal-safety(7)) and other functions of that section. */
#define ASYNC_SAFE __attribute__((section(".text.async_safe")))

/* ---- Text and numbers ---------------------------------------------------------------- */

/* AT has room for ROOM bytes, at least one. Always LENGTH < ROOM, so that the NUL of text_end has
 * its place; until then nothing ends the text. */
struct text {
    char *at;
    size_t length, room;
};
#define TEXT(array) ((struct text){.at = (array), .length = 0, .room = sizeof(array)})

/* Append N bytes, or as many as fit. */
ASYNC_SAFE static inline void text_bytes(struct text *t, const void *bytes, size_t n)
{
    size_t left = t->room - 1 - t->length;
    if (n > left)
        n = left;
    memcpy(t->at + t->length, bytes, n);
    t->length += n;
}

ASYNC_SAFE static inline void text_add(struct text *t, const char *s)
{
    text_bytes(t, s, strlen(s));
}

ASYNC_SAFE static inline void text_char(struct text *t, char c)
{
    text_bytes(t, &c, 1);
}

/* Append N in decimal, with zeros before it up to WIDTH digits. */
ASYNC_SAFE static inline void text_number(struct text *t, unsigned long long n, unsigned width)
{
    char digits[24];
    size_t at = sizeof digits;
    do {
        digits[--at] = (char)('0' + n % 10);
        n /= 10;
    } while (n != 0);
    while (sizeof digits - at < width && at > 0)
        digits[--at] = '0'; /* cppcheck-suppress arrayIndexOutOfBoundsCond ; at is below 24 */
    text_bytes(t, digits + at, sizeof digits - at);
}

ASYNC_SAFE static inline void text_signed(struct text *t, long long n)
{
    if (n < 0)
        text_char(t, '-');
    text_number(t, n < 0 ? 0ULL - (unsigned long long)n : (unsigned long long)n, 1);
}

/* Write the NUL. Returns the string, to which more can still be added. */
ASYNC_SAFE static inline const char *text_end(struct text *t)
{
    t->at[t->length] = '\0';
    return t->at;
}

/* Append what printf(3) makes of FORMAT, but without stdio, which no signal handler may use and
 * whose pages each process would pay for. Of printf's directives it knows %s, %c, and %d and %u,
 * with l or ll, %u also with zeros up to nine digits (%02u). Returns the string, as text_end does.
 */
ASYNC_SAFE __attribute__((format(printf, 2, 3))) static inline const char *
text_format(struct text *t, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    for (const char *f = format;; f++) {
        unsigned width = 1, longs = 0;
        size_t plain = strcspn(f, "%");
        text_bytes(t, f, plain);
        f += plain;
        if (*f == '\0')
            break;
        for (f++; *f >= '0' && *f <= '9'; f++)
            width = (unsigned)(*f - '0');
        for (; *f == 'l'; f++)
            longs++;
        if (*f == 's')
            text_add(t, va_arg(args, const char *));
        else if (*f == 'c')
            text_char(t, (char)va_arg(args, int));
        else if (*f == 'd')
            text_signed(t, longs > 1 ? va_arg(args, long long)
                           : longs   ? va_arg(args, long)
                                     : va_arg(args, int));
        else if (longs > 0)
            text_number(t,
                        longs > 1 ? va_arg(args, unsigned long long) : va_arg(args, unsigned long),
                        width);
        else
            text_number(t, va_arg(args, unsigned), width);
    }
    va_end(args);
    return text_end(t);
}

/* Read the decimal number at *S into *N and move *S past it. Returns false, and changes neither, if
 * there is no digit or the number is larger than MAX. What follows the digits is for the caller to
 * judge. */
ASYNC_SAFE static inline bool parse_number(const char **s, unsigned long long max,
                                           unsigned long long *n)
{
    const char *p = *s;
    unsigned long long value = 0;
    for (; *p >= '0' && *p <= '9'; p++) {
        unsigned digit = (unsigned)(*p - '0');
        if (value > (max - digit) / 10 || digit > max)
            return false;
        value = value * 10 + digit;
    }
    if (p == *s)
        return false;
    *s = p;
    *n = value;
    return true;
}

/* ---- Escapes --------------------------------------------------------------------------- */

/* Where the text is going to stand: bare in a line, between double quotes, in a string of JSON, in
 * the label of a metric, on a page. */
enum escape { ESCAPE_LINE, ESCAPE_STRING, ESCAPE_JSON, ESCAPE_METRIC, ESCAPE_HTML };

/* Returns how many bytes at S are one character of UTF-8 (RFC 3629), and which one in *C; 0 if they
 * are none. */
ASYNC_SAFE static inline size_t utf8_next(const char *s, uint32_t *c)
{
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000}; /* of this length: no longer */
    const unsigned char *b = (const unsigned char *)s;
    size_t n = b[0] < 0x80 ? 1 : b[0] < 0xc0 ? 0 : b[0] < 0xe0 ? 2 : b[0] < 0xf0 ? 3 : 4;
    *c = n < 2 ? b[0] : b[0] & (0x7fU >> n);
    for (size_t i = 1; i < n; i++) {
        if ((b[i] & 0xc0) != 0x80)
            return 0;
        *c = *c << 6 | (b[i] & 0x3f);
    }
    bool valid = *c >= least[n] && b[0] < 0xf8 && *c <= 0x10ffff && (*c < 0xd800 || *c > 0xdfff);
    return valid ? n : 0;
}

/* Returns true for what a terminal or a reader of lines would obey instead of showing it: the
 * control characters of ASCII and beyond (U+0080 on), ends of lines, and those that turn the
 * direction of the text around what stands beside them. */
ASYNC_SAFE static inline bool is_obeyed(uint32_t c)
{
    return c < ' ' || (c >= 0x7f && c < 0xa0) || (c >= 0x2028 && c <= 0x202e) ||
           (c >= 0x2066 && c <= 0x2069);
}

ASYNC_SAFE static inline void text_hex(struct text *t, uint32_t n, unsigned digits)
{
    while (digits-- > 0)
        text_char(t, "0123456789abcdef"[n >> 4 * digits & 15]);
}

/* Append the character that S begins with as it may stand there. A client or a program may have
 * chosen it: it can neither end the line or the string, nor steer a terminal. UTF-8 stays as it is;
 * a byte that is none becomes \xHH. Returns how many bytes of S that was, or 0 if it did not fit:
 * an escape that is cut would be another one. */
ASYNC_SAFE static inline size_t text_escaped_char(struct text *t, const char *s, enum escape how)
{
    char piece[24];
    struct text p = TEXT(piece);
    uint32_t c;
    size_t n = utf8_next(s, &c);
    bool quoted = how == ESCAPE_STRING || how == ESCAPE_JSON || how == ESCAPE_METRIC;
    if (n > 0 && is_obeyed(c) && how == ESCAPE_JSON) {
        text_add(&p, "\\u");
        text_hex(&p, c, 4);
    } else if (n == 0 || is_obeyed(c)) {
        n = n > 0 ? n : 1;
        for (size_t i = 0; i < n; i++) {
            text_add(&p, how == ESCAPE_JSON || how == ESCAPE_METRIC ? "\\\\x" : "\\x");
            text_hex(&p, (unsigned char)s[i], 2);
        }
    } else if (how == ESCAPE_HTML && strchr("&<>\"'", *s) != NULL) {
        text_format(&p, "&#%u;", (unsigned)c);
    } else {
        if (quoted && (c == '"' || c == '\\'))
            text_char(&p, '\\');
        text_bytes(&p, s, n);
    }
    if (p.length >= t->room - t->length)
        return 0;
    text_bytes(t, piece, p.length);
    return n;
}

/* Append S so, or as much of it as fits. */
ASYNC_SAFE static inline void text_escaped(struct text *t, const char *s, enum escape how)
{
    for (size_t n = 1; *s != '\0' && n > 0; s += n)
        n = text_escaped_char(t, s, how);
}

/* ---- Clocks and dates ------------------------------------------------------------------ */

/* Milliseconds on CLOCK_MONOTONIC, which no change of the date moves: for deadlines. */
ASYNC_SAFE static inline int64_t clock_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* USER_HZ, in which the kernel tells people its times, whatever it counts in itself: time(7). */
#define TICKS_PER_SECOND 100

/* Now, in the clock ticks since boot in which /proc/PID/stat tells when a process began (proc(5)):
 * for telling a process from a later one of the same number. */
ASYNC_SAFE static inline uint64_t clock_ticks(void)
{
    struct timespec now;
    clock_gettime(CLOCK_BOOTTIME, &now);
    return (uint64_t)now.tv_sec * TICKS_PER_SECOND +
           (uint64_t)now.tv_nsec / (1000000000 / TICKS_PER_SECOND);
}

/* Wait for MS, or until a signal comes. */
ASYNC_SAFE static inline void sleep_ms(int64_t ms)
{
    struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = (ms % 1000) * 1000000};
    nanosleep(&t, NULL);
}

/* A time in UTC, from seconds since 1970. */
struct utc {
    unsigned year, month, day, weekday, hour, minute, second; /* weekday 0: Sunday */
};

/* SECONDS since 1970 as a date. gmtime_r() is not async-signal-safe. A year is counted from March
 * here, so that the leap day is its last, and 400 years are an era, after which dates repeat. */
ASYNC_SAFE static inline struct utc utc_at(int64_t seconds)
{
    static const unsigned char lengths[] = {31, 30, 31, 30, 31, 31, 30, 31, 30, 31, 31, 29};
    int64_t day = seconds / 86400, rest = seconds % 86400;
    unsigned era_day = (unsigned)((day + 719468) % 146097);
    unsigned year = (era_day - era_day / 1460 + era_day / 36524 - era_day / 146096) / 365;
    unsigned year_day = era_day - (365 * year + year / 4 - year / 100);
    unsigned month = 0;
    while (year_day >= lengths[month])
        year_day -= lengths[month++];
    return (struct utc){
        .year = (unsigned)((day + 719468) / 146097 * 400) + year + (month >= 10),
        .month = month < 10 ? month + 3 : month - 9,
        .day = year_day + 1,
        .weekday = (unsigned)((day + 4) % 7),
        .hour = (unsigned)(rest / 3600),
        .minute = (unsigned)(rest % 3600 / 60),
        .second = (unsigned)(rest % 60),
    };
}

/* Append SECONDS since 1970 as "2026-11-23T11:27:50". */
ASYNC_SAFE static inline void text_time(struct text *t, int64_t seconds)
{
    struct utc u = utc_at(seconds);
    text_format(t, "%04u-%02u-%02uT%02u:%02u:%02u", u.year, u.month, u.day, u.hour, u.minute,
                u.second);
}

/* ---- Descriptors, and names that nobody can guess ---------------------------------------- */

/* Write all N BYTES to FD, a file, a pipe or a terminal, going on after a signal and after a short
 * write. Returns 0, or -1 with errno: some of them may have been written then. It waits where FD
 * waits. */
ASYNC_SAFE static inline int write_all(int fd, const void *bytes, size_t n)
{
    const char *p = bytes;
    while (n > 0) {
        ssize_t done = write(fd, p, n);
        if (done < 0 && errno != EINTR)
            return -1;
        if (done > 0) {
            p += done;
            n -= (size_t)done;
        }
    }
    return 0;
}

/* Close FD on the way out of a failure, whose errno the caller still has to tell. */
ASYNC_SAFE static inline void close_keep_errno(int fd)
{
    int saved = errno;
    close(fd);
    errno = saved;
}

#define HEX_SIZE 17

/* Write HEX_SIZE - 1 hex digits, 64 bits that nobody can guess, and a NUL. Returns 0, or -1 with
 * errno if the kernel has no randomness yet. */
static inline int random_hex(char hex[HEX_SIZE])
{
    unsigned char bytes[(HEX_SIZE - 1) / 2];
    if (getrandom(bytes, sizeof bytes, 0) != (ssize_t)sizeof bytes)
        return -1;
    for (size_t i = 0; i < sizeof bytes; i++) {
        hex[2 * i] = "0123456789abcdef"[bytes[i] >> 4];
        hex[2 * i + 1] = "0123456789abcdef"[bytes[i] & 15];
    }
    hex[HEX_SIZE - 1] = '\0';
    return 0;
}

#endif
