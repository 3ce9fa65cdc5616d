/* check_parser.c: the parser, however its input is cut: heads, chunks, targets, the heads of
 * programs; and the answers that are made without one. */
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>

#include "http.h"
#include "serve.h"
#include "suite.h"

SUITE(.bare = true);

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

THEME("head");

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

TEST_EACH(head_good, good_heads)
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

TEST_EACH(head_bad, bad_heads)
{
    struct http_head h;
    struct bytes head = bad_heads[_i].head;
    int64_t result = parse_every_way(&h, head.at, head.length, &wide);
    ck_assert_msg(result == -1 && h.status == bad_heads[_i].status, "%lld, status %d: %s",
                  (long long)result, h.status, shown(head.at, head.length));
    ck_assert_ptr_nonnull(h.reason);
}

TEST(head_fields)
{
    static const char s[] = GET H "A:b\r\nLong-Name: \t v w \t\r\nEmpty: \r\n\r\n";
    static const char *const fields[][2] = {
        {"Host", "a"}, {"A", "b"}, {"Long-Name", "v w"}, {"Empty", ""}};
    struct http_head h;
    ck_assert_int_eq(parse_every_way(&h, s, sizeof s - 1, &wide), (int64_t)(sizeof s - 1));
    ck_assert_uint_eq(h.field_count, COUNT(fields));
    ck_assert_uint_eq(h.fields_at, sizeof(GET) - 1);
    for (size_t i = 0; i < COUNT(fields); i++) {
        struct http_field f = h.fields[i];
        ck_assert_uint_eq(f.name.length, strlen(fields[i][0]));
        ck_assert_mem_eq(s + f.name.at, fields[i][0], f.name.length);
        ck_assert_uint_eq(f.value.length, strlen(fields[i][1]));
        ck_assert_mem_eq(s + f.value.at, fields[i][1], f.value.length);
    }
}

TEST(head_field_count)
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

TEST(head_target_limit)
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

TEST(head_header_limit)
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

/* Near a limit, too, it is not the packets that decide. */
TEST(cut_anywhere_at_limits)
{
    static const char *const ends[] = {" HTTP/1.1\r\n" H E, "\x01", "\n", "\r\nx\r\n\r\n"};
    static char s[4096];
    struct http_head h;
    for (size_t i = 0; i < COUNT(ends); i++)
        for (size_t n = narrow.max_target + HTTP_LINE_SLACK - 30;
             n < narrow.max_target + HTTP_LINE_SLACK + 5; n++) {
            parse_every_way(&h, s, stretch(s, sizeof s, "G", n, " / HTTP/1.1\r\n" H E), &narrow);
            parse_every_way(&h, s, stretch(s, sizeof s, "GET /", n, ends[i]), &narrow);
        }
    static const char *const field_ends[] = {"\r\n\r\n", "\x01", "\n", "\r\nx\r\n\r\n",
                                             "\r\n x\r\n"};
    for (size_t i = 0; i < COUNT(field_ends); i++)
        for (size_t n = narrow.max_header - 30; n < narrow.max_header + 5; n++) {
            parse_every_way(&h, s, stretch(s, sizeof s, GET H "X: ", n, field_ends[i]), &narrow);
            parse_every_way(&h, s, stretch(s, sizeof s, GET H, n, field_ends[i]), &narrow);
        }
}

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

TEST(head_spoilt)
{
    static const struct http_limits limits = {.max_target = 40, .max_header = 120};
    char s[512];
    for (unsigned round = 0; round < 30000; round++) {
        struct http_head whole = {0}, other = {0};
        struct bytes from = good_heads[random_below(COUNT(good_heads))].head;
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

/* ---- Chunked coding ---------------------------------------------------------------------- */

THEME("chunks");

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

TEST_EACH(chunks_good, good_chunks)
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

TEST_EACH(chunks_bad, bad_chunks)
{
    static struct decoded d;
    struct bytes coded = bad_chunks[_i];
    decode_every_way(&d, coded.at, coded.length);
    ck_assert_msg(d.step == CHUNK_BAD, "step %d: %s", d.step, shown(coded.at, coded.length));
    ck_assert_ptr_nonnull(d.reason);
}

/* Size lines and trailers that never end are not read for ever, each on its own. */
TEST(chunks_limits)
{
    static char s[40000];
    static struct decoded d;
    static const struct {
        const char *prefix, *suffix;
    } lines[] = {{"1;", "\r\nx\r\n0\r\n\r\n"}, {"0\r\nA: ", "\r\n\r\n"}};
    for (size_t i = 0; i < COUNT(lines); i++) {
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

TEST(chunks_spoilt)
{
    static struct decoded whole, other;
    char s[256];
    for (unsigned round = 0; round < 20000; round++) {
        struct bytes from = good_chunks[random_below(COUNT(good_chunks))].coded;
        memcpy(s, from.at, from.length);
        size_t n = spoil(s, from.length);
        decode_in_pieces(&whole, s, n, n, n);
        decode_in_pieces(&other, s, n, 1, 1);
        must_decode_same(s, n, &whole, &other);
        decode_in_pieces(&other, s, n, random_below((unsigned)n), n);
        must_decode_same(s, n, &whole, &other);
    }
}

/* ---- Targets ----------------------------------------------------------------------------- */

THEME("target");

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

TEST_EACH(target_good, targets)
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

TEST(target_bad)
{
    static const char *const bad[] = {
        "",         "a",         "*",           "a:443",       "/%",         "/%4",
        "/%zz",     "/%4g",      "/a%",         "/%00",        "/a%00b",     "http:",
        "http://",  "http:///a", "http://?a",   "http://a b/", "http://u@a", "http://a:x/",
        "ftp://a/", "http:/a",   "http://[::1", "?a",          "./a",        "/%-1",
    };
    for (size_t i = 0; i < COUNT(bad); i++) {
        size_t n = strlen(bad[i]);
        char *exact = malloc(n + 1), path[64];
        struct http_span query;
        ck_assert_ptr_nonnull(exact);
        memcpy(exact, bad[i], n);
        ck_assert_msg(http_decode_target(exact, n, path, &query) != NULL, "%s: %s", bad[i], path);
        free(exact);
    }
}

/* ---- Canned answers and dates ------------------------------------------------------------ */

THEME("answer");

TEST(canned_answers)
{
    static const int statuses[] = {400, 404, 408, 414, 417, 431, 500, 501, 503, 504, 505, 599};
    for (size_t i = 0; i < COUNT(statuses); i++) {
        char answer[1024], line[128], length[64];
        size_t n =
            handler_canned_answer(answer, sizeof answer, statuses[i], false, true, "so it is");
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
        ck_assert_uint_eq(
            handler_canned_answer(other, sizeof other, statuses[i], true, true, "so it is"), head);
        ck_assert_mem_eq(other + head - 4, "\r\n\r\n", 4);
        ck_assert_mem_eq(other, answer, strlen("HTTP/1.1 "));
    }
    char small[40];
    memset(small, '~', sizeof small);
    ck_assert_uint_lt(handler_canned_answer(small, 20, 404, false, true, "x"), 20);
    for (size_t i = 20; i < sizeof small; i++)
        ck_assert_int_eq(small[i], '~');
}

TEST(canned_date)
{
    char answer[1024], dates[2][64];
    time_t before, after;
    do { /* within one second */
        before = time(NULL);
        answer[handler_canned_answer(answer, sizeof answer, 404, false, true, "x")] = '\0';
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

TEST(reasons)
{
    ck_assert_str_eq(http_reason(200), "OK");
    ck_assert_str_eq(http_reason(404), "Not Found");
    ck_assert_str_eq(http_reason(507), "Insufficient Storage");
    ck_assert_str_eq(http_reason(299), "Unknown");
    ck_assert_str_eq(http_reason(-1), "Unknown");
}

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

TEST(utc)
{
    for (int64_t day = 0; day < 300000; day++) { /* to the year 2791 */
        must_be_utc(day * 86400);
        must_be_utc(day * 86400 + 86399);
        must_be_utc(day * 86400 + random_below(86400));
    }
    for (int64_t second = 0; second < 86400; second++)
        must_be_utc(1795392000 + second);
}

/* ---- A program's header -------------------------------------------------------------------- */

THEME("program");

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

TEST_EACH(program_head, program_heads)
{
    struct cgi_head h;
    struct bytes text = program_heads[_i].text;
    const char *wrong = program_heads[_i].wrong;
    int64_t found = cgi_parse_head(&h, text.at, text.length);
    ck_assert_int_eq(found, wrong == NULL ? (int64_t)text.length : -1);
    if (wrong != NULL)
        ck_assert_msg(strstr(h.wrong, wrong) != NULL, "%s", h.wrong);
}
