/* check_handler.c: the parser, by itself, however its input is cut; the words of the command
 * line; and whether an answer has arrived. Every test has its own process. */
#include <arpa/inet.h>
#include <check.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "cgi.h"
#include "routes.h"
#include "serve.h"

#define SIZE_OF(array) (sizeof(array) / sizeof(array)[0])

/* A string with its length, which may hold NULs. */
struct bytes {
    const char *at;
    size_t length;
};
#define BYTES(literal)                                                                             \
    {                                                                                              \
        literal, sizeof(literal) - 1                                                               \
    }

/* BYTES for a failure's message. */
static const char *shown(const char *s, size_t n)
{
    static char text[2][1024];
    static unsigned next;
    char *buffer = text[next++ % 2];
    size_t out = 0;
    for (size_t i = 0; i < n && out < sizeof text[0] - 8; i++) {
        unsigned char c = (unsigned char)s[i];
        out += (size_t)snprintf(buffer + out, 8, c < ' ' || c > '~' ? "\\x%02x" : "%c", c);
    }
    buffer[out] = '\0';
    return buffer;
}

/* The same numbers in every run. */
static unsigned random_below(unsigned n)
{
    static uint64_t x = 88172645463325252ULL;
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    return (unsigned)(x >> 11) % n;
}

/* ---- The head ---------------------------------------------------------------------------- */

static const struct http_limits wide = {.max_target = 8192, .max_header = 32768};

/* A copy that ends where the bytes end, so that reading on is seen by a sanitizer. */
static int64_t parse_prefix(struct http_head *h, const char *s, size_t n,
                            const struct http_limits *limits)
{
    char *copy = malloc(n > 0 ? n : 1);
    ck_assert_ptr_nonnull(copy);
    memcpy(copy, s, n);
    int64_t result = http_parse_head(h, copy, n, limits);
    free(copy);
    return result;
}

static bool same_span(struct http_span a, struct http_span b)
{
    return a.at == b.at && a.length == b.length;
}

static bool same_head(const struct http_head *a, const struct http_head *b)
{
    if (a->status != 0 || b->status != 0)
        return a->status == b->status && a->reason != NULL && b->reason != NULL;
    for (uint32_t i = 0; i < a->field_count && i < b->field_count; i++)
        if (!same_span(a->fields[i].name, b->fields[i].name) ||
            !same_span(a->fields[i].value, b->fields[i].value))
            return false;
    return same_span(a->method, b->method) && same_span(a->target, b->target) &&
           a->minor == b->minor && a->field_count == b->field_count &&
           a->body_length == b->body_length && a->has_length == b->has_length &&
           a->chunked == b->chunked && a->keep_alive == b->keep_alive &&
           a->expect_continue == b->expect_continue && a->has_host == b->has_host;
}

/* Parse S in pieces of STEP bytes after a first one of FIRST. */
static int64_t parse_in_pieces(struct http_head *h, const char *s, size_t n, size_t first,
                               size_t step, const struct http_limits *limits)
{
    int64_t result = 0;
    *h = (struct http_head){0};
    for (size_t have = first; result == 0; have = n - have < step ? n : have + step) {
        result = parse_prefix(h, s, have, limits);
        if (have == n)
            break;
    }
    return result;
}

static void must_be_same(const char *s, size_t n, const struct http_head *a, int64_t ra,
                         const struct http_head *b, int64_t rb)
{
    ck_assert_msg(ra == rb && same_head(a, b),
                  "cut otherwise: %lld (%d %s), whole: %lld (%d %s): %s", (long long)rb, b->status,
                  b->reason ? b->reason : "-", (long long)ra, a->status,
                  a->reason ? a->reason : "-", shown(s, n));
}

/* Parse S whole into *H; and then in every other way, with the same result. */
static int64_t parse_every_way(struct http_head *h, const char *s, size_t n,
                               const struct http_limits *limits)
{
    struct http_head other = {0};
    *h = (struct http_head){0};
    int64_t result = parse_prefix(h, s, n, limits);
    must_be_same(s, n, h, result, &other, parse_in_pieces(&other, s, n, 1, 1, limits));
    for (size_t cut = 0; cut < n; cut += 1 + n / 512)
        must_be_same(s, n, h, result, &other, parse_in_pieces(&other, s, n, cut, n, limits));
    return result;
}

static const char *parsed(const struct http_head *h, const char *s)
{
    static char text[512];
    snprintf(text, sizeof text, "%.*s %.*s 1.%u%s%s%s%s", (int)h->method.length, s + h->method.at,
             (int)h->target.length, s + h->target.at, h->minor, h->keep_alive ? " keep" : "",
             h->chunked ? " chunked" : "", h->expect_continue ? " expect" : "",
             h->has_host ? " host" : "");
    if (h->has_length) {
        size_t length = strlen(text);
        snprintf(text + length, sizeof text - length, " %llu", (unsigned long long)h->body_length);
    }
    return text;
}

#define H "Host: a\r\n"
#define E "\r\n"
#define GET "GET / HTTP/1.1\r\n"

static const struct {
    struct bytes head;
    const char *result;
} good_heads[] = {
    {BYTES(GET H E), "GET / 1.1 keep host"},
    {BYTES("\r\n" GET H E), "GET / 1.1 keep host"},
    {BYTES("\r\n\r\n\r\n" GET H E), "GET / 1.1 keep host"},
    {BYTES("GET /a?b=%20c HTTP/1.1\r\nhOST:a\r\n\r\n"), "GET /a?b=%20c 1.1 keep host"},
    {BYTES("get / HTTP/1.1\r\n" H E), "get / 1.1 keep host"},
    {BYTES("!#$%&'*+-.^_`|~09azAZ * HTTP/1.1\r\n" H E), "!#$%&'*+-.^_`|~09azAZ * 1.1 keep host"},
    {BYTES("GET http://a:80/b HTTP/1.1\r\n" H E), "GET http://a:80/b 1.1 keep host"},
    {BYTES("CONNECT a:443 HTTP/1.1\r\n" H E), "CONNECT a:443 1.1 keep host"},
    {BYTES("GET / HTTP/1.0\r\n\r\n"), "GET / 1.0"},
    {BYTES("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"), "GET / 1.0 keep"},
    {BYTES("GET / HTTP/1.0\r\nConnection: keep-alive, close\r\n\r\n"), "GET / 1.0"},
    {BYTES("GET / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n"), "GET / 1.0 3"},
    {BYTES("GET / HTTP/1.9\r\n" H E), "GET / 1.9 keep host"},
    /* Connection */
    {BYTES(GET H "Connection: close\r\n\r\n"), "GET / 1.1 host"},
    {BYTES(GET H "cOnnection:CLOSE\r\n\r\n"), "GET / 1.1 host"},
    {BYTES(GET H "Connection: Upgrade\t, ,close,TE\r\n\r\n"), "GET / 1.1 host"},
    {BYTES(GET H "Connection: x\r\nConnection: close\r\nConnection: keep-alive\r\n\r\n"),
     "GET / 1.1 host"},
    {BYTES(GET H "Connection: closed, not-close\r\n\r\n"), "GET / 1.1 keep host"},
    {BYTES(GET H "Connection:\r\n\r\n"), "GET / 1.1 keep host"},
    /* Host */
    {BYTES(GET "Host:\r\n\r\n"), "GET / 1.1 keep host"},
    {BYTES(GET "Host: \t a.b-c_d:8080 \t\r\n\r\n"), "GET / 1.1 keep host"},
    {BYTES(GET "Host: a:\r\n\r\n"), "GET / 1.1 keep host"},
    {BYTES(GET "Host: [2001:db8::192.0.2.1]\r\n\r\n"), "GET / 1.1 keep host"},
    {BYTES(GET "Host: [::1]:80\r\n\r\n"), "GET / 1.1 keep host"},
    {BYTES(GET "Host: caf%C3%A9.example\r\n\r\n"), "GET / 1.1 keep host"},
    /* Bodies */
    {BYTES(GET H "Content-Length: 0\r\n\r\n"), "GET / 1.1 keep host 0"},
    {BYTES(GET H "content-length:\t0042 \r\n\r\n"), "GET / 1.1 keep host 42"},
    {BYTES(GET H "Content-Length: 4611686018427387904\r\n\r\n"),
     "GET / 1.1 keep host 4611686018427387904"},
    {BYTES(GET H "Transfer-Encoding: chunked\r\n\r\n"), "GET / 1.1 keep chunked host"},
    {BYTES(GET H "TRANSFER-ENCODING:,\tCHUNKED ,\r\n\r\n"), "GET / 1.1 keep chunked host"},
    {BYTES(GET H "Content-Length: 3\r\nExpect: 100-Continue\r\n\r\n"),
     "GET / 1.1 keep expect host 3"},
    /* Fields */
    {BYTES(GET H "X:\r\nY: \t\r\n!#$%&'*+-.^_`|~: a\tb c:d\x80\xff\r\n\r\n"),
     "GET / 1.1 keep host"},
    {BYTES(GET H "Content-Lengths: x\r\nXHost: b\r\nHos: c\r\n\r\n"), "GET / 1.1 keep host"},
};

START_TEST(head_good)
{
    struct http_head h;
    struct bytes head = good_heads[_i].head;
    ck_assert_int_eq(parse_every_way(&h, head.at, head.length, &wide), (int64_t)head.length);
    ck_assert_str_eq(parsed(&h, head.at), good_heads[_i].result);
    ck_assert_int_eq(h.status, 0);
    for (size_t n = 0; n < head.length; n++) {
        h = (struct http_head){0};
        ck_assert_msg(parse_prefix(&h, head.at, n, &wide) == 0, "%s", shown(head.at, n));
    }

    /* What follows is the body's, or another request's, and not looked at. */
    static const char more[] = "\n\r\0\x7f :x";
    char *both = malloc(head.length + sizeof more);
    ck_assert_ptr_nonnull(both);
    memcpy(both, head.at, head.length);
    memcpy(both + head.length, more, sizeof more);
    ck_assert_int_eq(parse_every_way(&h, both, head.length + sizeof more, &wide),
                     (int64_t)head.length);
    free(both);
}
END_TEST

static const struct {
    struct bytes head;
    int status;
} bad_heads[] = {
    /* The request line */
    {BYTES(" GET / HTTP/1.1\r\n" H E), 400},
    {BYTES("GET  / HTTP/1.1\r\n" H E), 400},
    {BYTES("GET /  HTTP/1.1\r\n" H E), 400},
    {BYTES("GET / HTTP/1.1 \r\n" H E), 400},
    {BYTES("GET\t/ HTTP/1.1\r\n" H E), 400},
    {BYTES("GET / x HTTP/1.1\r\n" H E), 400},
    {BYTES("GET /\r\n\r\n"), 400},
    {BYTES("GET\r\n\r\n"), 400},
    {BYTES("GET  HTTP/1.1\r\n" H E), 400},
    {BYTES("GET HTTP/1.1\r\n" H E), 400},
    {BYTES("GET: / HTTP/1.1\r\n" H E), 400},
    {BYTES("G@T / HTTP/1.1\r\n" H E), 400},
    {BYTES("G(T / HTTP/1.1\r\n" H E), 400},
    {BYTES("G\xc3T / HTTP/1.1\r\n" H E), 400},
    {BYTES("GET /a#b HTTP/1.1\r\n" H E), 400},
    {BYTES("GET /\xc3\xa9 HTTP/1.1\r\n" H E), 400},
    {BYTES("GET /\t HTTP/1.1\r\n" H E), 400},
    {BYTES("GET / HTTP/1.1\n" H E), 400},
    {BYTES("\nGET / HTTP/1.1\r\n" H E), 400},
    {BYTES("GET /a\rb HTTP/1.1\r\n" H E), 400},
    {BYTES("GET / HTTP/1.1\r\r\n" H E), 400},
    {BYTES("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"), 400}, /* TLS */
    {BYTES("GET /a\0b HTTP/1.1\r\n" H E), 400},
    {BYTES("GET /a\x7f HTTP/1.1\r\n" H E), 400},
    /* The version */
    {BYTES("GET / HTTP/2.0\r\n" H E), 505},
    {BYTES("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), 505},
    {BYTES("GET / HTTP/0.9\r\n" H E), 505},
    {BYTES("GET / HTTP/1.\r\n" H E), 400},
    {BYTES("GET / HTTP/1.10\r\n" H E), 400},
    {BYTES("GET / HTTP/11\r\n" H E), 400},
    {BYTES("GET / http/1.1\r\n" H E), 400},
    {BYTES("GET / HTTP/1,1\r\n" H E), 400},
    {BYTES("GET / HTTP/a.1\r\n" H E), 400},
    {BYTES("GET / HTTP/1.a\r\n" H E), 400},
    {BYTES("GET / HTTPS/1.1\r\n" H E), 400},
    /* The form of fields */
    {BYTES(GET " Host: a\r\n\r\n"), 400},
    {BYTES(GET H " folded\r\n\r\n"), 400},
    {BYTES(GET H "\tfolded\r\n\r\n"), 400},
    {BYTES(GET H "A: b\r\n c: d\r\n\r\n"), 400},
    {BYTES(GET H "A : b\r\n\r\n"), 400},
    {BYTES(GET H "A\t: b\r\n\r\n"), 400},
    {BYTES(GET H ": b\r\n\r\n"), 400},
    {BYTES(GET H "A b: c\r\n\r\n"), 400},
    {BYTES(GET H "no colon\r\n\r\n"), 400},
    {BYTES(GET H "A\xff: b\r\n\r\n"), 400},
    {BYTES(GET H "A\0: b\r\n\r\n"), 400},
    {BYTES(GET H "A: b\0c\r\n\r\n"), 400},
    {BYTES(GET H "A: b\x0b\r\n\r\n"), 400},
    {BYTES(GET H "A: b\x7f\r\n\r\n"), 400},
    {BYTES(GET H "A: b\rc\r\n\r\n"), 400},
    {BYTES(GET H "A: b\nTransfer-Encoding: chunked\r\n\r\n"), 400},
    {BYTES(GET H "A: b\r\r\n\r\n"), 400},
    {BYTES(GET H "\n"), 400},
    {BYTES(GET H "\rX"), 400},
    /* Host */
    {BYTES(GET E), 400},
    {BYTES(GET "X: y\r\n\r\n"), 400},
    {BYTES(GET H H E), 400},
    {BYTES(GET "Host: a\r\nhost: b\r\n\r\n"), 400},
    {BYTES("GET / HTTP/1.0\r\n" H H E), 400},
    {BYTES(GET "Host: a b\r\n\r\n"), 400},
    {BYTES(GET "Host: a/b\r\n\r\n"), 400},
    {BYTES(GET "Host: u@a\r\n\r\n"), 400},
    {BYTES(GET "Host: a:b\r\n\r\n"), 400},
    {BYTES(GET "Host: a:80:81\r\n\r\n"), 400},
    {BYTES(GET "Host: [::1\r\n\r\n"), 400},
    {BYTES(GET "Host: [::1]80\r\n\r\n"), 400},
    {BYTES(GET "Host: []\r\n\r\n"), 400},
    {BYTES(GET "Host: [g::1]\r\n\r\n"), 400},
    {BYTES(GET "Host: a%4\r\n\r\n"), 400},
    {BYTES(GET "Host: a%zz\r\n\r\n"), 400},
    {BYTES(GET "Host: \"a\"\r\n\r\n"), 400},
    /* Where the body ends */
    {BYTES(GET H "Content-Length:\r\n\r\n"), 400},
    {BYTES(GET H "Content-Length: +1\r\n\r\n"), 400},
    {BYTES(GET H "Content-Length: -1\r\n\r\n"), 400},
    {BYTES(GET H "Content-Length: 1 0\r\n\r\n"), 400},
    {BYTES(GET H "Content-Length: 0x1\r\n\r\n"), 400},
    {BYTES(GET H "Content-Length: 1, 1\r\n\r\n"), 400},
    {BYTES(GET H "Content-Length: 1\r\nContent-Length: 1\r\n\r\n"), 400},
    {BYTES(GET H "Content-Length: 9223372036854775808\r\n\r\n"), 400},
    {BYTES(GET H "Content-Length: 18446744073709551617\r\n\r\n"), 400},
    {BYTES(GET H "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n"), 400},
    {BYTES(GET H "Transfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n"), 400},
    {BYTES("GET / HTTP/1.0\r\n" H "Transfer-Encoding: chunked\r\n\r\n"), 400},
    {BYTES(GET H "Transfer-Encoding:\r\n\r\n"), 400},
    {BYTES(GET H "Transfer-Encoding: ,\r\n\r\n"), 400},
    {BYTES(GET H "Transfer-Encoding: chunked, chunked\r\n\r\n"), 400},
    {BYTES(GET H "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n"), 400},
    {BYTES(GET H "Transfer-Encoding: chunked, gzip\r\n\r\n"), 400},
    {BYTES(GET H "Transfer-Encoding: \x80"
                 "chunked\r\n\r\n"),
     400},
    {BYTES(GET H "Transfer-Encoding: chunked;a=b\r\n\r\n"), 400},
    {BYTES(GET H "Transfer-Encoding: gzip, chunked\r\n\r\n"), 501},
    {BYTES(GET H "Transfer-Encoding: identity\r\n\r\n"), 501},
    {BYTES(GET H "Transfer-Encoding: xchunked\r\n\r\n"), 501},
    {BYTES(GET H "Expect: 200-ok\r\n\r\n"), 417},
    {BYTES(GET H "Expect:\r\n\r\n"), 417},
};

START_TEST(head_bad)
{
    struct http_head h;
    struct bytes head = bad_heads[_i].head;
    int64_t result = parse_every_way(&h, head.at, head.length, &wide);
    ck_assert_msg(result == -1 && h.status == bad_heads[_i].status, "%lld, status %d: %s",
                  (long long)result, h.status, shown(head.at, head.length));
    ck_assert_ptr_nonnull(h.reason);
}
END_TEST

START_TEST(head_fields)
{
    static const char s[] = GET H "A:b\r\nLong-Name: \t v w \t\r\nEmpty: \r\n\r\n";
    static const char *const fields[][2] = {
        {"Host", "a"}, {"A", "b"}, {"Long-Name", "v w"}, {"Empty", ""}};
    struct http_head h;
    ck_assert_int_eq(parse_every_way(&h, s, sizeof s - 1, &wide), (int64_t)(sizeof s - 1));
    ck_assert_uint_eq(h.field_count, SIZE_OF(fields));
    ck_assert_uint_eq(h.fields_at, sizeof(GET) - 1);
    for (size_t i = 0; i < SIZE_OF(fields); i++) {
        struct http_field f = h.fields[i];
        ck_assert_uint_eq(f.name.length, strlen(fields[i][0]));
        ck_assert_mem_eq(s + f.name.at, fields[i][0], f.name.length);
        ck_assert_uint_eq(f.value.length, strlen(fields[i][1]));
        ck_assert_mem_eq(s + f.value.at, fields[i][1], f.value.length);
    }
}
END_TEST

START_TEST(head_field_count)
{
    struct http_head h;
    for (unsigned count = HTTP_FIELDS_MAX - 1; count <= HTTP_FIELDS_MAX + 1; count++) {
        char s[8192] = GET H;
        size_t n = strlen(s);
        for (unsigned i = 1; i < count; i++)
            n += (size_t)snprintf(s + n, sizeof s - n, "F%u: v\r\n", i);
        n += (size_t)snprintf(s + n, sizeof s - n, "\r\n");
        int64_t result = parse_every_way(&h, s, n, &wide);
        if (count <= HTTP_FIELDS_MAX) {
            ck_assert_int_eq(result, (int64_t)n);
            ck_assert_uint_eq(h.field_count, count);
        } else {
            ck_assert_int_eq(result, -1);
            ck_assert_int_eq(h.status, 431);
        }
    }
}
END_TEST

/* PREFIX, N times 'x', SUFFIX. */
static size_t stretch(char *s, size_t room, const char *prefix, size_t n, const char *suffix)
{
    size_t before = strlen(prefix), after = strlen(suffix);
    ck_assert_uint_le(before + n + after, room);
    struct text t = {.at = s, .room = room + 1};
    text_add(&t, prefix);
    memset(s + before, 'x', n);
    t.length += n;
    text_add(&t, suffix);
    return t.length;
}

static const struct http_limits narrow = {.max_target = 100, .max_header = 200};

START_TEST(head_target_limit)
{
    char s[4096];
    struct http_head h;
    size_t n = stretch(s, sizeof s, "GET /", narrow.max_target - 1, " HTTP/1.1\r\n" H E);
    ck_assert_int_eq(parse_every_way(&h, s, n, &narrow), (int64_t)n);
    n = stretch(s, sizeof s, "GET /", narrow.max_target, " HTTP/1.1\r\n" H E);
    ck_assert_int_eq(parse_every_way(&h, s, n, &narrow), -1);
    ck_assert_int_eq(h.status, 414);
    /* One that never ends is not waited for. */
    n = stretch(s, sizeof s, "GET /", narrow.max_target + HTTP_LINE_SLACK, "");
    ck_assert_int_eq(parse_every_way(&h, s, n, &narrow), -1);
    ck_assert_int_eq(h.status, 414);
}
END_TEST

START_TEST(head_header_limit)
{
    char s[4096];
    struct http_head h;
    static const char start[] = GET H "X: ";
    const size_t others = sizeof(H "X: \r\n") - 1;
    size_t n = stretch(s, sizeof s, start, narrow.max_header - others - 2, "\r\n\r\n");
    ck_assert_int_eq(parse_every_way(&h, s, n, &narrow), (int64_t)n);
    n = stretch(s, sizeof s, start, narrow.max_header - others + 1, "\r\n\r\n");
    ck_assert_int_eq(parse_every_way(&h, s, n, &narrow), -1);
    ck_assert_int_eq(h.status, 431);
    n = stretch(s, sizeof s, start, narrow.max_header, "");
    ck_assert_int_eq(parse_every_way(&h, s, n, &narrow), -1);
    ck_assert_int_eq(h.status, 431);
}
END_TEST

/* Near a limit, too, it is not the packets that decide. */
START_TEST(cut_anywhere_at_limits)
{
    static const char *const ends[] = {" HTTP/1.1\r\n" H E, "\x01", "\n", "\r\nx\r\n\r\n"};
    static char s[4096];
    struct http_head h;
    for (size_t i = 0; i < SIZE_OF(ends); i++)
        for (size_t n = narrow.max_target + HTTP_LINE_SLACK - 30;
             n < narrow.max_target + HTTP_LINE_SLACK + 5; n++) {
            parse_every_way(&h, s, stretch(s, sizeof s, "G", n, " / HTTP/1.1\r\n" H E), &narrow);
            parse_every_way(&h, s, stretch(s, sizeof s, "GET /", n, ends[i]), &narrow);
        }
    static const char *const field_ends[] = {"\r\n\r\n", "\x01", "\n", "\r\nx\r\n\r\n",
                                             "\r\n x\r\n"};
    for (size_t i = 0; i < SIZE_OF(field_ends); i++)
        for (size_t n = narrow.max_header - 30; n < narrow.max_header + 5; n++) {
            parse_every_way(&h, s, stretch(s, sizeof s, GET H "X: ", n, field_ends[i]), &narrow);
            parse_every_way(&h, s, stretch(s, sizeof s, GET H, n, field_ends[i]), &narrow);
        }
}
END_TEST

/* Change, remove or double a few bytes of S, of N in a room of N + 8. */
static size_t spoil(char *s, size_t n)
{
    static const char bytes[] = "\r\n\r\n\0 \t:;,\"\\#%/aF0\x7f\xff";
    for (unsigned i = 1 + random_below(4); i > 0; i--) {
        size_t at = random_below((unsigned)n);
        switch (random_below(3)) {
        case 0:
            s[at] = bytes[random_below(sizeof bytes - 1)];
            break;
        case 1:
            memmove(s + at, s + at + 1, --n - at);
            break;
        default:
            memmove(s + at + 1, s + at, n++ - at);
        }
    }
    return n;
}

START_TEST(head_spoilt)
{
    static const struct http_limits limits = {.max_target = 40, .max_header = 120};
    char s[512];
    for (unsigned round = 0; round < 30000; round++) {
        struct http_head whole = {0}, other = {0};
        struct bytes from = good_heads[random_below(SIZE_OF(good_heads))].head;
        memcpy(s, from.at, from.length);
        size_t n = spoil(s, from.length);
        int64_t result = parse_prefix(&whole, s, n, &limits);
        ck_assert(result == -1 ? whole.status >= 400 && whole.reason != NULL
                               : whole.status == 0 && (size_t)result <= n);
        must_be_same(s, n, &whole, result, &other, parse_in_pieces(&other, s, n, 1, 1, &limits));
        size_t cut = random_below((unsigned)n);
        must_be_same(s, n, &whole, result, &other, parse_in_pieces(&other, s, n, cut, n, &limits));
    }
}
END_TEST

/* ---- Chunked coding ---------------------------------------------------------------------- */

struct decoded {
    enum http_chunk_step step;
    size_t used, length;
    char body[4096];
    const char *reason;
};

/* Decode S in pieces of STEP bytes after a first one of FIRST. */
static void decode_in_pieces(struct decoded *d, const char *s, size_t n, size_t first, size_t step)
{
    struct http_chunks c = {0};
    *d = (struct decoded){.step = CHUNK_MORE};
    for (size_t begin = 0, end = first; d->step == CHUNK_MORE; begin = end, end += step) {
        end = end < n ? end : n;
        char *copy = malloc(end - begin + 1);
        ck_assert_ptr_nonnull(copy);
        memcpy(copy, s + begin, end - begin);
        size_t done = 0;
        do {
            size_t used = 0, at = 0, length = 0;
            d->step = http_decode_chunks(&c, copy + done, end - begin - done, &used, &at, &length);
            ck_assert_uint_le(used, end - begin - done);
            if (d->step == CHUNK_DATA) {
                ck_assert_uint_gt(length, 0);
                ck_assert_uint_le(at + length, used);
                ck_assert_uint_le(d->length + length, sizeof d->body);
                memcpy(d->body + d->length, copy + done + at, length);
                d->length += length;
            }
            done += used;
        } while (d->step == CHUNK_DATA);
        ck_assert(d->step != CHUNK_MORE || done == end - begin);
        d->used += done;
        free(copy);
        if (end == n)
            break;
    }
    d->reason = c.reason;
}

static void must_decode_same(const char *s, size_t n, const struct decoded *a,
                             const struct decoded *b)
{
    ck_assert_msg(a->step == b->step && a->used == b->used && a->length == b->length &&
                      memcmp(a->body, b->body, a->length) == 0,
                  "cut otherwise: step %d used %zu, whole: %d %zu: %s", b->step, b->used, a->step,
                  a->used, shown(s, n));
    if (a->step == CHUNK_BAD)
        ck_assert_str_eq(a->reason, b->reason);
}

static void decode_every_way(struct decoded *d, const char *s, size_t n)
{
    static struct decoded other;
    decode_in_pieces(d, s, n, n, n);
    decode_in_pieces(&other, s, n, 1, 1);
    must_decode_same(s, n, d, &other);
    for (size_t cut = 0; cut < n; cut += 1 + n / 512) {
        decode_in_pieces(&other, s, n, cut, n);
        must_decode_same(s, n, d, &other);
    }
}

static const struct {
    struct bytes coded;
    const char *body;
} good_chunks[] = {
    {BYTES("0\r\n\r\n"), ""},
    {BYTES("0000\r\n\r\n"), ""},
    {BYTES("5\r\nhello\r\n0\r\n\r\n"), "hello"},
    {BYTES("00005\r\nhello\r\n1\r\n!\r\n0\r\n\r\n"), "hello!"},
    {BYTES("a\r\n0123456789\r\nB\r\n0123456789a\r\n0\r\n\r\n"), "01234567890123456789a"},
    {BYTES("7\r\n\r\n0\r\n\r\n\r\n0\r\n\r\n"), "\r\n0\r\n\r\n"},
    {BYTES("5;a\r\nhello\r\n0;b=c;d=\"e;\\\"\r\n\r\n"), NULL}, /* the quote does not end */
    {BYTES("5;a\r\nhello\r\n0;b=c;d=\"e;\\\"f\"\r\n\r\n"), "hello"},
    {BYTES("5; a = b\r\nhello\r\n0\r\n\r\n"), "hello"},
    {BYTES("0\r\nA: b\r\nC:\r\n\r\n"), ""},
};

START_TEST(chunks_good)
{
    static struct decoded d;
    static char more[512];
    struct bytes coded = good_chunks[_i].coded;
    decode_every_way(&d, coded.at, coded.length);
    if (good_chunks[_i].body == NULL) {
        ck_assert_int_eq(d.step, CHUNK_BAD);
        return;
    }
    ck_assert_msg(d.step == CHUNK_END, "%s: %s", shown(coded.at, coded.length),
                  d.reason ? d.reason : "-");
    ck_assert_uint_eq(d.used, coded.length);
    ck_assert_uint_eq(d.length, strlen(good_chunks[_i].body));
    ck_assert_mem_eq(d.body, good_chunks[_i].body, d.length);
    for (size_t n = 0; n < coded.length; n++) {
        decode_in_pieces(&d, coded.at, n, n, n);
        ck_assert_int_eq(d.step, CHUNK_MORE);
    }
    /* The next request stays where it is. */
    memcpy(more, coded.at, coded.length);
    memcpy(more + coded.length, GET, sizeof(GET));
    decode_every_way(&d, more, coded.length + sizeof(GET));
    ck_assert_int_eq(d.step, CHUNK_END);
    ck_assert_uint_eq(d.used, coded.length);
}
END_TEST

static const struct bytes bad_chunks[] = {
    BYTES("\r\n"),
    BYTES("g\r\n"),
    BYTES(" 5\r\nhello\r\n0\r\n\r\n"),
    BYTES("5 \r\nhello\r\n0\r\n\r\n"),
    BYTES("+5\r\nhello\r\n0\r\n\r\n"),
    BYTES("-1\r\n"),
    BYTES("0x5\r\nhello\r\n0\r\n\r\n"),
    BYTES(";a\r\n"),
    BYTES("5\nhello\r\n0\r\n\r\n"),
    BYTES("5\rhello\r\n0\r\n\r\n"),
    BYTES("5\r\nhello0\r\n\r\n"),
    BYTES("5\r\nhello!\r\n0\r\n\r\n"),
    BYTES("5\r\nhello\n0\r\n\r\n"),
    BYTES("5\r\nhello\r0\r\n\r\n"),
    BYTES("5\r\nhello!\n0\r\n\r\n"),
    BYTES("5\r\nhello\rX0\r\n\r\n"),
    BYTES("5;\r\nhello\r\n0\r\n\r\n"),
    BYTES("5;;a\r\nhello\r\n0\r\n\r\n"),
    BYTES("5;=b\r\nhello\r\n0\r\n\r\n"),
    BYTES("5;a\nb\r\nhello\r\n0\r\n\r\n"),
    BYTES("5;a\0\r\nhello\r\n0\r\n\r\n"),
    BYTES("5;a=\"\n\"\r\nhello\r\n0\r\n\r\n"),
    BYTES("5;a=\"\\\n\"\r\nhello\r\n0\r\n\r\n"),
    BYTES("5\0\r\nhello\r\n0\r\n\r\n"),
    BYTES("8000000000000000\r\n"),
    BYTES("10000000000000005\r\nhello\r\n0\r\n\r\n"),
    BYTES("0\r\n\n"),
    BYTES("0\r\n\rX"),
    BYTES("0\r\nA\r\n\r\n"),
    BYTES("0\r\nA b: c\r\n\r\n"),
    BYTES("0\r\n: c\r\n\r\n"),
    BYTES("0\r\n A: b\r\n\r\n"),
    BYTES("0\r\nA: b\r\n c\r\n\r\n"),
    BYTES("0\r\nA: b\nc: d\r\n\r\n"),
    BYTES("0\r\nA: b\0\r\n\r\n"),
    BYTES("0\r\nA: b\rc\r\n\r\n"),
};

START_TEST(chunks_bad)
{
    static struct decoded d;
    struct bytes coded = bad_chunks[_i];
    decode_every_way(&d, coded.at, coded.length);
    ck_assert_msg(d.step == CHUNK_BAD, "step %d: %s", d.step, shown(coded.at, coded.length));
    ck_assert_ptr_nonnull(d.reason);
}
END_TEST

/* Size lines and trailers that never end are not read for ever, each on its own. */
START_TEST(chunks_limits)
{
    static char s[40000];
    static struct decoded d;
    static const struct {
        const char *prefix, *suffix;
    } lines[] = {{"1;", "\r\nx\r\n0\r\n\r\n"}, {"0\r\nA: ", "\r\n\r\n"}};
    for (size_t i = 0; i < SIZE_OF(lines); i++) {
        decode_every_way(&d, s, stretch(s, sizeof s, lines[i].prefix, 2000, lines[i].suffix));
        ck_assert_int_eq(d.step, CHUNK_END);
        size_t n = stretch(s, sizeof s, lines[i].prefix, 30000, lines[i].suffix);
        decode_in_pieces(&d, s, n, n, n);
        ck_assert_int_eq(d.step, CHUNK_BAD);
        decode_in_pieces(&d, s, n, 1, 1);
        ck_assert_int_eq(d.step, CHUNK_BAD);
    }
    size_t n = 0; /* many short trailers are one long section */
    n += stretch(s, sizeof s, "0\r\n", 0, "");
    while (n < sizeof s - 10)
        n += stretch(s + n, sizeof s - n, "A: b", 0, "\r\n");
    decode_in_pieces(&d, s, n, n, n);
    ck_assert_int_eq(d.step, CHUNK_BAD);
    n = 0; /* but not many short chunks */
    while (n < sizeof s - 30 && n / 6 < sizeof d.body - 1)
        n += stretch(s + n, sizeof s - n, "1\r\n", 1, "\r\n");
    n += stretch(s + n, sizeof s - n, "0\r\n", 0, "\r\n");
    decode_in_pieces(&d, s, n, n, n);
    ck_assert_int_eq(d.step, CHUNK_END);
}
END_TEST

START_TEST(chunks_spoilt)
{
    static struct decoded whole, other;
    char s[256];
    for (unsigned round = 0; round < 20000; round++) {
        struct bytes from = good_chunks[random_below(SIZE_OF(good_chunks))].coded;
        memcpy(s, from.at, from.length);
        size_t n = spoil(s, from.length);
        decode_in_pieces(&whole, s, n, n, n);
        decode_in_pieces(&other, s, n, 1, 1);
        must_decode_same(s, n, &whole, &other);
        decode_in_pieces(&other, s, n, random_below((unsigned)n), n);
        must_decode_same(s, n, &whole, &other);
    }
}
END_TEST

/* ---- Targets ----------------------------------------------------------------------------- */

static const struct {
    const char *target, *path, *query;
} targets[] = {
    {"/", "/", ""},
    {"/a/b", "/a/b", ""},
    {"/a/b/", "/a/b/", ""},
    {"/a?", "/a", ""},
    {"/a?b=c?d/../%zz", "/a", "b=c?d/../%zz"},
    {"/?a", "/", "a"},
    {"//a//b", "//a//b", ""},
    {"/%41%5a%7E%20+", "/AZ~ +", ""},
    {"/%c3%A9", "/\xc3\xa9", ""},
    {"/%3f?x", "/?", "x"},
    {"/%2541", "/%41", ""},
    {"/.", "/", ""},
    {"/..", "/", ""},
    {"/./", "/", ""},
    {"/../", "/", ""},
    {"/../../a", "/a", ""},
    {"/a/.", "/a/", ""},
    {"/a/..", "/", ""},
    {"/a/b/..", "/a/", ""},
    {"/a/b/../..", "/", ""},
    {"/a/./b/../c", "/a/c", ""},
    {"/a/../../../b", "/b", ""},
    {"/a/...", "/a/...", ""},
    {"/.a/..b/c.", "/.a/..b/c.", ""},
    {"/a//../b", "/a/b", ""},
    {"/%2e%2E/a", "/a", ""},
    {"/a%2f..%2Fb", "/b", ""},
    {"/a/%2e%2e%2f%2e%2e/etc", "/etc", ""},
    {"http://a", "/", ""},
    {"http://a?b", "/", "b"},
    {"http://a/", "/", ""},
    {"HTTP://a.b:80/c/../d?e", "/d", "e"},
    {"https://[::1]:443/c", "/c", ""},
};

START_TEST(target_good)
{
    size_t n = strlen(targets[_i].target);
    char *exact = malloc(n), *path = malloc(n + 1);
    struct http_span query = {77, 77};
    ck_assert(exact != NULL && path != NULL);
    memcpy(exact, targets[_i].target, n);
    const char *wrong = http_decode_target(exact, n, path, &query);
    ck_assert_msg(wrong == NULL, "%s: %s", targets[_i].target, wrong);
    ck_assert_str_eq(path, targets[_i].path);
    ck_assert_uint_le(query.at + query.length, n);
    ck_assert_uint_eq(query.length, strlen(targets[_i].query));
    ck_assert(memcmp(targets[_i].target + query.at, targets[_i].query, query.length) == 0);
    free(exact);
    free(path);
}
END_TEST

START_TEST(target_bad)
{
    static const char *const bad[] = {
        "",         "a",         "*",           "a:443",       "/%",         "/%4",
        "/%zz",     "/%4g",      "/a%",         "/%00",        "/a%00b",     "http:",
        "http://",  "http:///a", "http://?a",   "http://a b/", "http://u@a", "http://a:x/",
        "ftp://a/", "http:/a",   "http://[::1", "?a",          "./a",        "/%-1",
    };
    for (size_t i = 0; i < SIZE_OF(bad); i++) {
        size_t n = strlen(bad[i]);
        char *exact = malloc(n + 1), path[64];
        struct http_span query;
        ck_assert_ptr_nonnull(exact);
        memcpy(exact, bad[i], n);
        ck_assert_msg(http_decode_target(exact, n, path, &query) != NULL, "%s: %s", bad[i], path);
        free(exact);
    }
}
END_TEST

/* ---- Canned answers and dates ------------------------------------------------------------ */

START_TEST(canned_answers)
{
    static const int statuses[] = {400, 404, 408, 414, 417, 431, 500, 501, 503, 504, 505, 599};
    for (size_t i = 0; i < SIZE_OF(statuses); i++) {
        char answer[1024], line[128], length[64];
        size_t n = handler_canned_answer(answer, sizeof answer, statuses[i], false, "so it is");
        ck_assert_uint_lt(n, sizeof answer);
        answer[n] = '\0';
        snprintf(line, sizeof line, "HTTP/1.1 %d %s\r\n", statuses[i], http_reason(statuses[i]));
        ck_assert_msg(strncmp(answer, line, strlen(line)) == 0, "%s", answer);
        char *body = strstr(answer, "\r\n\r\n");
        ck_assert_ptr_nonnull(body);
        body += 4;
        snprintf(line, sizeof line, "%d %s: so it is\n", statuses[i], http_reason(statuses[i]));
        ck_assert_str_eq(body, line);
        snprintf(length, sizeof length, "\r\nContent-Length: %zu\r\n", strlen(body));
        ck_assert_ptr_nonnull(strstr(answer, length));
        ck_assert_ptr_nonnull(strstr(answer, "\r\nConnection: close\r\n"));
        ck_assert_ptr_nonnull(strstr(answer, "\r\nContent-Type: text/plain"));
        ck_assert_int_eq(strstr(answer, "\r\nRetry-After: ") != NULL, statuses[i] == 503);

        /* HEAD gets the same head. */
        size_t head = (size_t)(body - answer);
        char other[1024];
        ck_assert_uint_eq(handler_canned_answer(other, sizeof other, statuses[i], true, "so it is"),
                          head);
        ck_assert_mem_eq(other + head - 4, "\r\n\r\n", 4);
        ck_assert_mem_eq(other, answer, strlen("HTTP/1.1 "));
    }
    char small[40];
    memset(small, '~', sizeof small);
    ck_assert_uint_lt(handler_canned_answer(small, 20, 404, false, "x"), 20);
    for (size_t i = 20; i < sizeof small; i++)
        ck_assert_int_eq(small[i], '~');
}
END_TEST

START_TEST(canned_date)
{
    char answer[1024], dates[2][64];
    time_t before, after;
    do { /* within one second */
        before = time(NULL);
        answer[handler_canned_answer(answer, sizeof answer, 404, false, "x")] = '\0';
        after = time(NULL);
    } while (before != after);
    struct tm tm;
    ck_assert_ptr_nonnull(gmtime_r(&before, &tm));
    strftime(dates[0], sizeof dates[0], "\r\nDate: %a, %d %b %Y %H:%M:%S GMT\r\n", &tm);
    /* The coarse clock behind time() may be a tick late. */
    after++;
    ck_assert_ptr_nonnull(gmtime_r(&after, &tm));
    strftime(dates[1], sizeof dates[1], "\r\nDate: %a, %d %b %Y %H:%M:%S GMT\r\n", &tm);
    ck_assert_msg(strstr(answer, dates[0]) != NULL || strstr(answer, dates[1]) != NULL, "%s",
                  answer);
}
END_TEST

START_TEST(reasons)
{
    ck_assert_str_eq(http_reason(200), "OK");
    ck_assert_str_eq(http_reason(404), "Not Found");
    ck_assert_str_eq(http_reason(507), "Insufficient Storage");
    ck_assert_str_eq(http_reason(299), "Unknown");
    ck_assert_str_eq(http_reason(-1), "Unknown");
}
END_TEST

static void must_be_utc(int64_t seconds)
{
    struct tm tm;
    time_t t = (time_t)seconds;
    struct utc u = utc_at(seconds);
    ck_assert_ptr_nonnull(gmtime_r(&t, &tm));
    bool same = (int)u.year == tm.tm_year + 1900 && (int)u.month == tm.tm_mon + 1 &&
                (int)u.day == tm.tm_mday && (int)u.weekday == tm.tm_wday &&
                (int)u.hour == tm.tm_hour && (int)u.minute == tm.tm_min &&
                (int)u.second == tm.tm_sec;
    ck_assert_msg(same, "%lld: %u-%u-%u %u:%u:%u day %u", (long long)seconds, u.year, u.month,
                  u.day, u.hour, u.minute, u.second, u.weekday);
}

START_TEST(utc)
{
    for (int64_t day = 0; day < 300000; day++) { /* to the year 2791 */
        must_be_utc(day * 86400);
        must_be_utc(day * 86400 + 86399);
        must_be_utc(day * 86400 + random_below(86400));
    }
    for (int64_t second = 0; second < 86400; second++)
        must_be_utc(1795392000 + second);
}
END_TEST

/* ---- Words of the command line ----------------------------------------------------------- */

START_TEST(durations)
{
    static const struct {
        const char *text;
        int64_t ms;
    } cases[] = {
        {"0", 0},
        {"1", 1000},
        {"1.5", 1500},
        {"0.5", 500},
        {".5", 500},
        {"90s", 90000},
        {"250ms", 250},
        {"15m", 900000},
        {"2h", 7200000},
        {"1.5h", 5400000},
        {"0.0001", 1},
        {"0.0006s", 1},
        {"2147483647ms", INT32_MAX},
        {"3600", 3600000},
        {"", -1},
        {".", -1},
        {"s", -1},
        {"-1", -1},
        {"+1", -1},
        {" 1", -1},
        {"1 ", -1},
        {"1 s", -1},
        {"1d", -1},
        {"1S", -1},
        {"1sm", -1},
        {"1.2.3", -1},
        {"2147483648ms", -1},
        {"1000h", -1},
        {"nan", -1},
        {"inf", -1},
        {"1,5", -1},
        {"0x10", -1},
        {"1e3", -1},
        {"99999999999999999999999999", -1},
    };
    for (size_t i = 0; i < SIZE_OF(cases); i++)
        ck_assert_msg(parse_duration(cases[i].text) == cases[i].ms, "%s: %lld", cases[i].text,
                      (long long)parse_duration(cases[i].text));
}
END_TEST

START_TEST(sizes)
{
    static const struct {
        const char *text;
        int64_t bytes;
    } cases[] = {
        {"0", 0},
        {"1", 1},
        {"64k", 65536},
        {"64K", 65536},
        {"1M", 1048576},
        {"3m", 3145728},
        {"2G", 2147483648},
        {"2g", 2147483648},
        {"4G", 4294967296},
        {"5000000000", 5000000000},
        {"100G", 107374182400},
        {"", -1},
        {"k", -1},
        {"-1", -1},
        {"+1", -1},
        {" 1", -1},
        {"1 ", -1},
        {"1T", -1},
        {"1kB", -1},
        {"1kk", -1},
        {"1.5M", -1},
        {"0x10", -1},
        {"1\x0b", -1},
        {"99999999999999999999", -1},
        {"9999999999999G", -1},
    };
    for (size_t i = 0; i < SIZE_OF(cases); i++)
        ck_assert_msg(parse_size(cases[i].text) == cases[i].bytes, "%s: %lld", cases[i].text,
                      (long long)parse_size(cases[i].text));
}
END_TEST

static int nothing(struct request *rq)
{
    (void)rq;
    return 0;
}

static const struct route compiled[] = {
    {.path = "/one", .handler = nothing, .name = "one", .methods = "POST", .timeout_ms = 5},
    {.path = "/anonymous", .handler = nothing},
    {.path = "/two", .handler = handler_demonstration, .name = "two"},
    {0},
};

static const char *route_text(const char *text)
{
    static char line[256];
    struct route r;
    char why[256] = "";
    if (route_parse(text, compiled, &r, why, sizeof why) < 0) {
        ck_assert_str_ne(why, "");
        return "refused";
    }
    snprintf(line, sizeof line, "%s %s %lld %d %d", r.path, r.name, (long long)r.timeout_ms,
             r.on_hangup, r.half_close);
    ck_assert(r.handler == (strcmp(r.name, "one") == 0 ? nothing : handler_demonstration));
    free((char *)r.path);
    return line;
}

START_TEST(routes)
{
    static const char *const cases[][2] = {
        {"/a=@one", "/a one 5 0 0"},
        {"/a/=@two", "/a/ two 0 0 0"},
        {"/a=@one,timeout=2m", "/a one 120000 0 0"},
        {"/a=@two,on-hangup=finish,half-close=hangup", "/a two 0 2 2"},
        {"/a=@two,on-hangup=undo,half-close=ignore", "/a two 0 1 3"},
        {"/a=@two,half-close=probe,timeout=250ms", "/a two 250 0 1"},
        {"", "refused"},
        {"/a", "refused"},
        {"/a=", "refused"},
        {"a=@one", "refused"},
        {"=@one", "refused"},
        {"/a=,timeout=1", "refused"},
        {"/a=@", "refused"},
        {"/a=@three", "refused"},
        {"/a=@On", "refused"},
        {"/a=@one,timeout", "refused"},
        {"/a=@one,timeout=", "refused"},
        {"/a=@one,timeout=x", "refused"},
        {"/a=@one,timeout=0", "refused"},
        {"/a=@one,on-hangup=default", "refused"},
        {"/a=@one,half-close=", "refused"},
        {"/a=@one,color=red", "refused"},
    };
    ck_assert_int_eq(HALF_CLOSE_HANGUP, 2);
    for (size_t i = 0; i < SIZE_OF(cases); i++)
        ck_assert_msg(strcmp(route_text(cases[i][0]), cases[i][1]) == 0, "%s: %s", cases[i][0],
                      route_text(cases[i][0]));
}
END_TEST

START_TEST(routes_say_why)
{
    struct route r;
    char why[256];
    static const char *const cases[][2] = {
        {"/a=@three", "@one @two"},   {"/a=@one,color=red", "color"},
        {"/a=@one,timeout=x", "90s"}, {"/a=@one,on-hangup=x", "finish"},
        {"/a", "PATH=TARGET"},        {"/a=,,", "PATH=TARGET"},
    };
    for (size_t i = 0; i < SIZE_OF(cases); i++) {
        ck_assert_int_eq(route_parse(cases[i][0], compiled, &r, why, sizeof why), -1);
        ck_assert_msg(strstr(why, cases[i][1]) != NULL, "%s: %s", cases[i][0], why);
        char small[8] = "1234567";
        ck_assert_int_eq(route_parse(cases[i][0], compiled, &r, small, 4), -1);
        ck_assert_uint_lt(strlen(small), 4);
        ck_assert_str_eq(small + 4, "567");
    }
}
END_TEST

/* ---- A program's header -------------------------------------------------------------------- */

static const struct {
    struct bytes text;
    const char *wrong; /* a word of it; NULL: nothing is */
} program_heads[] = {
    {BYTES("Content-Type: a/b\nX: y\n\n"), NULL},
    {BYTES("Status: 404 Not \tFound\r\n\r\n"), NULL},
    {BYTES("Status: 404 Not Found\0\n\n"), "control character"},
    {BYTES("Status: \000404 Not Found\n\n"), "control character"},
    {BYTES("Status:\0 404\n\n"), "control character"},
    {BYTES("Content-Type: a/b\0\n\n"), "control character"},
    {BYTES("Content-Type: a/b\nX: \0\n\n"), "control character"},
    {BYTES("Content-Type: a/b\nX: y\rZ: z\n\n"), "control character"},
    {BYTES("Content-Type: a/b\nX\0: y\n\n"), "not a header field"},
};

START_TEST(program_head)
{
    struct cgi_head h;
    struct bytes text = program_heads[_i].text;
    const char *wrong = program_heads[_i].wrong;
    int64_t found = cgi_parse_head(&h, text.at, text.length);
    ck_assert_int_eq(found, wrong == NULL ? (int64_t)text.length : -1);
    if (wrong != NULL)
        ck_assert_msg(strstr(h.wrong, wrong) != NULL, "%s", h.wrong);
}
END_TEST

/* ---- Has the answer arrived? ------------------------------------------------------------- */

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

START_TEST(delivered_when_read)
{
    int pair[2];
    make_pair(pair, _i, false);
    size_t n = queue(pair[SERVER], 1000);
    read_all(pair[CLIENT], n);
    ck_assert(handler_was_delivered(pair[SERVER], _i, n, LONG_MS));
    /* And the next answer on the same connection. */
    n += queue(pair[SERVER], 3000);
    read_all(pair[CLIENT], 3000);
    ck_assert(handler_was_delivered(pair[SERVER], _i, n, LONG_MS));
}
END_TEST

START_TEST(delivered_then_closed)
{
    int pair[2];
    make_pair(pair, _i, false);
    size_t n = queue(pair[SERVER], 1000);
    read_all(pair[CLIENT], n);
    close(pair[CLIENT]);
    ck_assert(handler_was_delivered(pair[SERVER], _i, n, LONG_MS));
}
END_TEST

/* The client's kernel has it: what the client does with it is its own affair. */
START_TEST(delivered_when_acknowledged)
{
    int pair[2];
    tcp_pair(pair, false);
    size_t n = queue(pair[SERVER], 1000);
    ck_assert(handler_was_delivered(pair[SERVER], true, n, LONG_MS));
    reset(pair[CLIENT]);
    struct pollfd p = {.fd = pair[SERVER]};
    ck_assert_int_eq(poll(&p, 1, LONG_MS), 1);
    ck_assert(handler_was_delivered(pair[SERVER], true, n, LONG_MS));
}
END_TEST

/* A FIN of ours counts one. */
START_TEST(delivered_with_fin)
{
    int pair[2];
    char c;
    tcp_pair(pair, false);
    size_t n = queue(pair[SERVER], 1000);
    ck_assert(!handler_was_delivered(pair[SERVER], true, n + 1, 50));
    ck_assert_int_eq(shutdown(pair[SERVER], SHUT_WR), 0);
    read_all(pair[CLIENT], n);
    ck_assert_int_eq(recv(pair[CLIENT], &c, 1, 0), 0);
    close(pair[CLIENT]);
    ck_assert(handler_was_delivered(pair[SERVER], true, n + 1, LONG_MS));
}
END_TEST

START_TEST(not_delivered_in_time)
{
    int pair[2];
    make_pair(pair, _i, true);
    size_t n = queue(pair[SERVER], 200000);
    int64_t before = clock_ms();
    ck_assert(!handler_was_delivered(pair[SERVER], _i, n, 200));
    ck_assert_int_ge(clock_ms() - before, 200);
    ck_assert_int_lt(clock_ms() - before, LONG_MS);
}
END_TEST

/* A reset ends the wait at once; on AF_UNIX it is a close with bytes unread. */
START_TEST(not_delivered_when_reset)
{
    int pair[2];
    make_pair(pair, _i, true);
    size_t n = queue(pair[SERVER], 200000);
    reset(pair[CLIENT]);
    int64_t before = clock_ms();
    ck_assert(!handler_was_delivered(pair[SERVER], _i, n, LONG_MS));
    ck_assert_int_lt(clock_ms() - before, LONG_MS);
}
END_TEST

START_TEST(not_delivered_when_read_in_part)
{
    int pair[2];
    make_pair(pair, _i, true);
    size_t n = queue(pair[SERVER], 200000);
    read_all(pair[CLIENT], 1000);
    reset(pair[CLIENT]);
    ck_assert(!handler_was_delivered(pair[SERVER], _i, n, LONG_MS));
}
END_TEST

/* Whoever asks second, the parent after its child, is told the same. */
START_TEST(not_delivered_asked_twice)
{
    int pair[2];
    make_pair(pair, _i, true);
    size_t n = queue(pair[SERVER], 200000);
    reset(pair[CLIENT]);
    ck_assert(!handler_was_delivered(pair[SERVER], _i, n, LONG_MS));
    ck_assert(!handler_was_delivered(pair[SERVER], _i, n, LONG_MS));
}
END_TEST

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
START_TEST(delivered_slowly)
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
    ck_assert(handler_was_delivered(pair[SERVER], _i, n, 1000));
    ck_assert_int_gt(clock_ms() - before, 1000);
    must_end_well(pid);
}
END_TEST

/* It waits for what comes later, and sees a reset that comes later. */
START_TEST(waits_for_the_end)
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
    bool delivered = handler_was_delivered(pair[SERVER], tcp, n, LONG_MS);
    ck_assert_int_eq(delivered, whole);
    ck_assert_int_lt(clock_ms() - before, LONG_MS);
    must_end_well(pid);
}
END_TEST

/* ---- The suite --------------------------------------------------------------------------- */

static void set_up(void)
{
    signal(SIGPIPE, SIG_DFL);
}

static TCase *new_case(Suite *suite, const char *name)
{
    TCase *tc = tcase_create(name);
    tcase_set_timeout(tc, 60);
    tcase_add_checked_fixture(tc, set_up, NULL);
    suite_add_tcase(suite, tc);
    return tc;
}

int main(void)
{
    Suite *s = suite_create("handler");
    TCase *tc = new_case(s, "head");
    tcase_add_loop_test(tc, head_good, 0, (int)SIZE_OF(good_heads));
    tcase_add_loop_test(tc, head_bad, 0, (int)SIZE_OF(bad_heads));
    tcase_add_test(tc, head_fields);
    tcase_add_test(tc, head_field_count);
    tcase_add_test(tc, head_target_limit);
    tcase_add_test(tc, head_header_limit);
    tcase_add_test(tc, cut_anywhere_at_limits);
    tcase_add_test(tc, head_spoilt);
    tc = new_case(s, "chunks");
    tcase_add_loop_test(tc, chunks_good, 0, (int)SIZE_OF(good_chunks));
    tcase_add_loop_test(tc, chunks_bad, 0, (int)SIZE_OF(bad_chunks));
    tcase_add_test(tc, chunks_limits);
    tcase_add_test(tc, chunks_spoilt);
    tc = new_case(s, "target");
    tcase_add_loop_test(tc, target_good, 0, (int)SIZE_OF(targets));
    tcase_add_test(tc, target_bad);
    tc = new_case(s, "answer");
    tcase_add_test(tc, canned_answers);
    tcase_add_test(tc, canned_date);
    tcase_add_test(tc, reasons);
    tcase_add_test(tc, utc);
    tc = new_case(s, "program");
    tcase_add_loop_test(tc, program_head, 0, (int)SIZE_OF(program_heads));
    tc = new_case(s, "words");
    tcase_add_test(tc, durations);
    tcase_add_test(tc, sizes);
    tcase_add_test(tc, routes);
    tcase_add_test(tc, routes_say_why);
    tc = new_case(s, "delivery");
    tcase_add_loop_test(tc, delivered_when_read, 0, 2);
    tcase_add_loop_test(tc, delivered_then_closed, 0, 2);
    tcase_add_test(tc, delivered_when_acknowledged);
    tcase_add_test(tc, delivered_with_fin);
    tcase_add_loop_test(tc, not_delivered_in_time, 0, 2);
    tcase_add_loop_test(tc, not_delivered_when_reset, 0, 2);
    tcase_add_loop_test(tc, not_delivered_when_read_in_part, 0, 2);
    tcase_add_loop_test(tc, not_delivered_asked_twice, 0, 2);
    tcase_add_loop_test(tc, delivered_slowly, 0, 2);
    tcase_add_loop_test(tc, waits_for_the_end, 0, 4);
    SRunner *runner = srunner_create(s);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
