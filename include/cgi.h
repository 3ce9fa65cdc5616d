/* cgi.h: the header of a program's answer (RFC 3875 section 6).
 *
 *     struct cgi_head h;
 *     int64_t size = cgi_parse_head(&h, buffer, length);
 *     if (size < 0)
 *         ...                                  h.wrong, in the line h.line
 *     else if (size == 0)
 *         ...                                  read more behind it, and call again
 *
 * Always over the whole of what has come, from its beginning. Lines may end in LF alone, as
 * programs write them. What is found is spans of the buffer.
 *
 * Only parsed here: which fields go on to the client is its caller's affair. Not for what a client
 * sends, where leniency would be a hole (http.h).
 *
 * Kind: pure.
 * Signal safety: none.
 */
#ifndef HANGUPD_CGI_H
#define HANGUPD_CGI_H

#include "http.h"

#define CGI_HEAD_MAX 16000 /* bytes, with the empty line */

struct cgi_head {
    /* What the server acts on; a span's length is 0 where the field is not there. */
    struct http_span type, location, reason;
    int status; /* 0: not given */
    bool has_length;
    uint64_t length; /* Content-Length */
    /* The other fields, for the client. */
    uint32_t field_count;
    struct http_field fields[HTTP_FIELDS_MAX];
    /* The error. */
    const char *wrong;
    struct http_span line; /* the one that is wrong, or empty */
};

/* Parse what has come so far, from its beginning. Returns the header's length with the empty line
 * that ends it, 0 if more is needed, -1 with h->wrong set. */
static inline int64_t cgi_parse_head(struct cgi_head *h, const char *buffer, size_t length);

/* ---- Fields (RFC 3875 section 6.3) --------------------------------------------------- */

static inline int64_t cgi_bad(struct cgi_head *h, struct http_span line, const char *wrong)
{
    h->line = line;
    h->wrong = wrong;
    return -1;
}

/* "404" or "404 Not Found" */
static inline int64_t cgi_status(struct cgi_head *h, const char *b, struct http_span line,
                                 struct http_span value)
{
    const char *s = b + value.at;
    if (h->status != 0)
        return cgi_bad(h, line, "more than one Status");
    if (value.length < 3 || !http_is_digit((unsigned char)s[0]) ||
        !http_is_digit((unsigned char)s[1]) || !http_is_digit((unsigned char)s[2]) ||
        (value.length > 3 && s[3] != ' '))
        return cgi_bad(h, line, "a Status is three digits and a reason");
    h->status = (s[0] - '0') * 100 + (s[1] - '0') * 10 + (s[2] - '0');
    if (h->status < 200 || h->status > 599)
        return cgi_bad(h, line, "a Status is a number from 200 to 599");
    if (value.length > 4)
        h->reason = (struct http_span){value.at + 4, value.length - 4};
    return 0;
}

static inline int64_t cgi_length(struct cgi_head *h, const char *b, struct http_span line,
                                 struct http_span value)
{
    struct http_head number = {.has_length = h->has_length};
    if (http_parse_content_length(&number, b, value) < 0)
        return cgi_bad(h, line, number.reason);
    h->has_length = true;
    h->length = number.body_length;
    return 0;
}

static inline int64_t cgi_field(struct cgi_head *h, const char *b, struct http_span line)
{
    const char *s = b + line.at, *colon = memchr(s, ':', line.length);
    if (colon == NULL || !http_is_token(s, (size_t)(colon - s)))
        return cgi_bad(h, line, "not a header field, NAME: VALUE");
    struct http_span name = {line.at, (uint32_t)(colon - s)};
    struct http_span value = http_trim(b, name.at + name.length + 1, line.at + line.length);
    for (uint32_t i = 0; i < value.length; i++)
        if (!http_is_text((unsigned char)b[value.at + i]))
            return cgi_bad(h, line, "a control character in the header");
    if (http_span_is(b, name, "Status"))
        return cgi_status(h, b, line, value);
    if (http_span_is(b, name, "Content-Length"))
        return cgi_length(h, b, line, value);
    bool type = http_span_is(b, name, "Content-Type"), location = http_span_is(b, name, "Location");
    if (type || location) {
        struct http_span *of = type ? &h->type : &h->location;
        if (of->length > 0 || value.length == 0)
            return cgi_bad(h, line, "a Content-Type or Location that is empty or there twice");
        *of = value;
        return 0;
    }
    if (h->field_count == HTTP_FIELDS_MAX)
        return cgi_bad(h, line, "too many header fields");
    h->fields[h->field_count++] = (struct http_field){name, value};
    return 0;
}

static inline int64_t cgi_parse_head(struct cgi_head *h, const char *buffer, size_t length)
{
    size_t at = 0;
    *h = (struct cgi_head){0};
    const struct http_span none = {0};
    for (const char *end; at < length; at = (size_t)(end - buffer) + 1) {
        end = memchr(buffer + at, '\n', length - at);
        if ((end != NULL ? (size_t)(end - buffer) : length) >= CGI_HEAD_MAX)
            return cgi_bad(h, none, "the header is too large");
        if (end == NULL)
            return 0;
        struct http_span line = {(uint32_t)at, (uint32_t)((size_t)(end - buffer) - at)};
        if (line.length > 0 && buffer[at + line.length - 1] == '\r')
            line.length--;
        if (line.length > 0) {
            if (cgi_field(h, buffer, line) < 0)
                return -1;
            continue;
        }
        if (h->type.length == 0 && h->location.length == 0 && h->status == 0)
            return cgi_bad(h, none, "a header without Content-Type, Location or Status");
        return end + 1 - buffer;
    }
    return 0;
}

#endif
