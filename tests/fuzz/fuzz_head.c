/* fuzz_head.c: the request parser, http_parse_head and http_decode_target, fed any bytes.
 *
 * What must hold, whatever the bytes:
 *     - however they come in pieces, the result is the one that they give as a whole;
 *     - a head that is found ends in an empty line, is found in exactly these bytes, and not in
 *       one byte less;
 *     - every span lies in it, and is what RFC 9112 says: tokens, no surrounding white space, ...
 *     - a decoded path is a path: from '/', without "." and "..", in the room it was given.
 * The first byte chooses the limits and the pieces.
 */
#include <strings.h>

#include "fuzz.h"
#include "http.h"

static const struct http_limits limits_of[] = {{8192, 65536}, {32, 128}, {1, 1}, {0, 0}};

struct parsed {
    int64_t result;
    struct http_head head;
};

static struct parsed parse_whole(const uint8_t *data, size_t size, const struct http_limits *l)
{
    struct parsed p = {0};
    char *buffer = exact_copy(data, size);
    p.result = http_parse_head(&p.head, buffer, size, l);
    free(buffer);
    return p;
}

/* As the child does it: more and more of it in the buffer, until the parser has decided. */
static struct parsed parse_in_pieces(const uint8_t *data, size_t size, uint32_t seed,
                                     const struct http_limits *l)
{
    struct parsed p = {0};
    for (size_t have = 0; p.result == 0 && have < size;) {
        have += next_piece(&seed, size - have);
        char *buffer = exact_copy(data, have);
        p.result = http_parse_head(&p.head, buffer, have, l);
        free(buffer);
    }
    return p;
}

static bool same_span(struct http_span a, struct http_span b)
{
    return a.at == b.at && a.length == b.length;
}

static void must_agree(const struct parsed *a, const struct parsed *b)
{
    const struct http_head *x = &a->head, *y = &b->head;
    must(a->result == b->result);
    must(x->status == y->status);
    must((x->reason == NULL) == (y->reason == NULL));
    must(x->reason == NULL || strcmp(x->reason, y->reason) == 0);
    if (a->result <= 0)
        return;
    must(same_span(x->method, y->method));
    must(same_span(x->target, y->target));
    must(x->field_count == y->field_count);
    for (uint32_t i = 0; i < x->field_count; i++) {
        must(same_span(x->fields[i].name, y->fields[i].name));
        must(same_span(x->fields[i].value, y->fields[i].value));
    }
    must(x->minor == y->minor && x->body_length == y->body_length);
    must(x->has_length == y->has_length && x->chunked == y->chunked);
    must(x->keep_alive == y->keep_alive && x->expect_continue == y->expect_continue);
}

/* ---- What a head is, said again and plainly ---------------------------------------------- */

static bool is_field_value(const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (((unsigned char)s[i] < ' ' && s[i] != '\t') || s[i] == 0x7f)
            return false;
    return n == 0 || (strchr(" \t", s[0]) == NULL && strchr(" \t", s[n - 1]) == NULL);
}

/* Between a field's value and the next line there is white space, and then CRLF. */
static uint32_t end_of_line(const char *b, uint32_t at, int64_t head)
{
    while (at < head && (b[at] == ' ' || b[at] == '\t'))
        at++;
    must((int64_t)at + 2 <= head && b[at] == '\r' && b[at + 1] == '\n');
    return at + 2;
}

/* Returns true if F is a Host whose value is that of an absolute-form target, as it must be. */
static bool check_target_host(const char *b, const struct http_head *h, const struct http_field *f)
{
    const char *target = b + h->target.at;
    size_t scheme = strncasecmp(target, "http://", 7) == 0 ? 7 : 8;
    bool absolute = scheme == 7 || strncasecmp(target, "https://", 8) == 0;
    if (h->target.length <= scheme || !absolute || f->name.length != 4 ||
        strncasecmp(b + f->name.at, "Host", 4) != 0)
        return false;
    must(f->value.at == h->target.at + scheme);
    must(f->value.length <= h->target.length - scheme);
    const char *end = target + scheme + f->value.length;
    must(end == target + h->target.length || *end == '/' || *end == '?');
    for (const char *at = target + scheme; at < end; at++)
        must(*at != '/' && *at != '?');
    return true;
}

/* Field for field, without a gap: from the end of the request line to the empty line. */
static void check_fields(const char *b, const struct http_head *h, int64_t head)
{
    uint32_t at = h->target.at + h->target.length + 9; /* " HTTP/1.x" */
    for (uint32_t i = 0;; i++) {
        at = end_of_line(b, at, head);
        if (i == h->field_count)
            break;
        const struct http_field *f = &h->fields[i];
        must(f->name.at == at);
        must((int64_t)f->name.at + f->name.length < head);
        must(is_all_token(b + f->name.at, f->name.length));
        at += f->name.length;
        must(b[at] == ':');
        if (check_target_host(b, h, f)) { /* its value is not in its line */
            at = (uint32_t)((const char *)memchr(b + at, '\r', (size_t)head - at) - b);
            continue;
        }
        must(f->value.at > at && (int64_t)f->value.at + f->value.length <= head);
        for (at++; at < f->value.at; at++)
            must(b[at] == ' ' || b[at] == '\t' || f->value.length == 0);
        must_of(is_field_value(b + f->value.at, f->value.length), b + f->value.at, f->value.length);
        at += f->value.length;
    }
    must(at + 2 == head && b[at] == '\r' && b[at + 1] == '\n');
}

static void check_result(const char *b, const struct http_head *h, int64_t head,
                         const struct http_limits *l)
{
    must(h->status == 0);
    must(h->field_count <= HTTP_FIELDS_MAX);
    must(h->target.length <= l->max_target && head - h->fields_at <= (int64_t)l->max_header);
    must(is_all_token(b + h->method.at, h->method.length));
    must(h->method.at == 0 || b[h->method.at - 1] == '\n');
    must(h->target.at == h->method.at + h->method.length + 1 && b[h->target.at - 1] == ' ');
    must(h->target.length > 0);
    for (uint32_t i = 0; i < h->target.length; i++)
        must(b[h->target.at + i] > ' ' && b[h->target.at + i] < 0x7f);
    const char *version = b + h->target.at + h->target.length;
    must(version - b + 9 < head && memcmp(version, " HTTP/1.", 8) == 0);
    must(version[8] - '0' == h->minor && h->minor <= 9);
    check_fields(b, h, head);
    must(!h->chunked || (!h->has_length && h->minor > 0));
    must(h->has_host || h->minor == 0);
}

/* ---- Targets ------------------------------------------------------------------------------ */

static void check_path(const char *path, size_t room)
{
    must(memchr(path, '\0', room) != NULL);
    must_of(path[0] == '/', path, strlen(path));
    for (const char *at = path; (at = strchr(at, '/')) != NULL;) {
        at++;
        size_t n = strcspn(at, "/");
        must_of(!(n == 1 && at[0] == '.') && !(n == 2 && at[0] == '.' && at[1] == '.'), path,
                strlen(path));
    }
}

static void check_target(const char *target, size_t length)
{
    char *exact = exact_copy(target, length), *path = malloc(length + 1);
    struct http_span query;
    must(path != NULL);
    if (http_decode_target(exact, length, path, &query) == NULL) {
        check_path(path, length + 1);
        must((size_t)query.at + query.length == length);
        const char *mark = memchr(exact, '?', length);
        must(mark == NULL ? query.length == 0 : exact + query.at == mark + 1);
    }
    free(path);
    free(exact);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    const struct http_limits *l = &limits_of[*data & 3];
    uint32_t seed = *data;
    data++;
    size--;
    struct parsed whole = parse_whole(data, size, l);
    struct parsed pieces = parse_in_pieces(data, size, seed, l);
    must_agree(&whole, &pieces);
    must(whole.result >= -1 && whole.result <= (int64_t)size);
    must(whole.result >= 0 || (whole.head.status >= 400 && whole.head.reason != NULL));
    if (whole.result > 0) {
        char *b = exact_copy(data, (size_t)whole.result);
        struct parsed exact = parse_whole(data, (size_t)whole.result, l);
        struct parsed less = parse_whole(data, (size_t)whole.result - 1, l);
        must_agree(&whole, &exact);
        must(less.result == 0);
        check_result(b, &whole.head, whole.result, l);
        check_target(b + whole.head.target.at, whole.head.target.length);
        free(b);
    }
    check_target((const char *)data, size);
    return 0;
}
