/* fuzz_cgi.c: the parser of a program's header, cgi_parse_head, fed any bytes.
 *
 * However they come in pieces, the result is the one that they give as a whole; a header that is
 * found is one that a plain reading, line by line, finds too: every line is in it once, as a span
 * in the right place, and none holds what would end a line of the server's own answer.
 * The first byte chooses the pieces.
 */
#include <strings.h>

#include "fuzz.h"
#include "http.h"

static bool same_span(struct http_span a, struct http_span b)
{
    return a.at == b.at && a.length == b.length;
}

static bool same_head(const struct cgi_head *a, const struct cgi_head *b)
{
    bool same = same_span(a->type, b->type) && same_span(a->location, b->location) &&
                same_span(a->reason, b->reason) && same_span(a->line, b->line) &&
                a->status == b->status && a->has_length == b->has_length &&
                a->length == b->length && a->field_count == b->field_count && a->wrong == b->wrong;
    for (uint32_t i = 0; same && i < a->field_count; i++)
        same = same_span(a->fields[i].name, b->fields[i].name) &&
               same_span(a->fields[i].value, b->fields[i].value);
    return same;
}

static int64_t parse(struct cgi_head *h, const uint8_t *data, size_t size)
{
    char *buffer = exact_copy(data, size);
    memset(h, 0xaa, sizeof *h); /* it is for the parser to begin anew */
    int64_t result = cgi_parse_head(h, buffer, size);
    free(buffer);
    return result;
}

/* ---- A plain reading ----------------------------------------------------------------------- */

/* Whether the N bytes at S are this field's name. */
static bool is_name(const char *s, size_t n, const char *name)
{
    return n == strlen(name) && strncasecmp(s, name, n) == 0;
}

static void check_value(const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++)
        must_of(((unsigned char)s[i] >= ' ' && s[i] != 0x7f) || s[i] == '\t', s, n);
    must_of(n == 0 || (strchr(" \t", s[0]) == NULL && strchr(" \t", s[n - 1]) == NULL), s, n);
}

static struct http_span value_in(const char *b, uint32_t at, uint32_t end)
{
    while (at < end && (b[at] == ' ' || b[at] == '\t'))
        at++;
    while (end > at && (b[end - 1] == ' ' || b[end - 1] == '\t'))
        end--;
    return (struct http_span){at, end - at};
}

static void check_status(const char *b, const struct cgi_head *h, struct http_span value)
{
    char digits[4] = "";
    must(value.length >= 3);
    memcpy(digits, b + value.at, 3);
    must(h->status == atoi(digits) && h->status >= 200 && h->status <= 599);
    if (value.length > 4)
        must(b[value.at + 3] == ' ' && h->reason.at == value.at + 4 &&
             h->reason.length == value.length - 4);
    else
        must(h->reason.length == 0);
}

static void check_length(const char *b, const struct cgi_head *h, struct http_span value)
{
    char digits[64] = "";
    uint32_t zeros = 0;
    while (zeros + 1 < value.length && b[value.at + zeros] == '0')
        zeros++;
    must(value.length > 0 && value.length - zeros < sizeof digits && h->has_length);
    memcpy(digits, b + value.at + zeros, value.length - zeros);
    must_of(digits[strspn(digits, "0123456789")] == '\0', digits, strlen(digits));
    must_of(h->length == strtoull(digits, NULL, 10), digits, strlen(digits));
}

struct counts {
    unsigned status, length, type, location, other;
};

static void check_line(const char *b, uint32_t at, uint32_t end, const struct cgi_head *h,
                       struct counts *n)
{
    const char *colon = memchr(b + at, ':', end - at);
    must_of(colon != NULL, b + at, end - at);
    uint32_t name = (uint32_t)(colon - b) - at;
    struct http_span value = value_in(b, at + name + 1, end);
    must_of(is_all_token(b + at, name), b + at, name);
    check_value(b + value.at, value.length);
    if (is_name(b + at, name, "Status")) {
        n->status++;
        check_status(b, h, value);
    } else if (is_name(b + at, name, "Content-Length")) {
        n->length++;
        check_length(b, h, value);
    } else if (is_name(b + at, name, "Content-Type")) {
        n->type++;
        must(same_span(h->type, value) && value.length > 0);
    } else if (is_name(b + at, name, "Location")) {
        n->location++;
        must(same_span(h->location, value) && value.length > 0);
    } else {
        must(n->other < h->field_count);
        const struct http_field *f = &h->fields[n->other++];
        must(f->name.at == at && f->name.length == name && same_span(f->value, value));
    }
}

static void check_found(const char *b, size_t size, const struct cgi_head *h)
{
    struct counts n = {0};
    uint32_t at = 0;
    must(h->field_count <= HTTP_FIELDS_MAX && size <= CGI_HEAD_MAX);
    for (;;) {
        const char *newline = memchr(b + at, '\n', size - at);
        must(newline != NULL);
        uint32_t end = (uint32_t)(newline - b), next = end + 1;
        if (end > at && b[end - 1] == '\r')
            end--;
        if (end == at) {
            must(next == size);
            break;
        }
        check_line(b, at, end, h, &n);
        at = next;
    }
    must(n.status == (h->status != 0) && n.length == h->has_length && n.other == h->field_count);
    must(n.type == (h->type.length > 0) && n.location == (h->location.length > 0));
    must(n.status + n.type + n.location > 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct cgi_head whole, pieces, exact;
    if (size == 0)
        return 0;
    uint32_t seed = *data;
    data++;
    size--;
    int64_t result = parse(&whole, data, size), again = 0;
    must(result >= -1 && result <= (int64_t)size);
    must(result >= 0 || whole.wrong != NULL);
    must((size_t)whole.line.at + whole.line.length <= size);
    for (size_t have = 0; again == 0 && have < size;) {
        have += next_piece(&seed, size - have);
        again = parse(&pieces, data, have);
    }
    must(again == result && (size == 0 || same_head(&whole, &pieces)));
    if (result > 0) {
        char *b = exact_copy(data, (size_t)result);
        must(parse(&exact, data, (size_t)result) == result && same_head(&whole, &exact));
        must(parse(&exact, data, (size_t)result - 1) == 0);
        check_found(b, (size_t)result, &whole);
        free(b);
    }
    return 0;
}
