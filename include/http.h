/* http.h: HTTP/1 as it comes: the head of a request, chunked bodies, targets, queries (RFC 9110,
 * RFC 9112, RFC 3986).
 *
 *     struct http_head h = {0};
 *     int64_t size = http_parse_head(&h, buffer, length, &limits);
 *     if (size < 0)
 *         ...                                  answer h.status and h.reason
 *     else if (size == 0)
 *         ...                                  read more behind it, and call again
 *
 * Each function looks at what it is given and no byte more: no descriptor, no memory of its own.
 * What is found is spans of the buffer, which may move between two calls but must begin with the
 * same bytes. It does not matter in which pieces a message comes.
 *
 * Beside the parser, the reason phrases (http_reason) and the field Date (http_add_date) are here.
 *
 * It is strict where leniency would let two servers see two different requests: a bare LF, white
 * space before a colon, two lengths, a coding that is not known. For what a client sends; what a
 * program answers is more lenient, and cgi.h's. Not for answers of other servers.
 *
 * Kind: pure.
 * Signal safety: what is marked ASYNC_SAFE.
 */
#ifndef HANGUPD_HTTP_H
#define HANGUPD_HTTP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <strings.h>

#include "text.h"

/* An interim answer: to a client that waits before it sends its body, and, unasked, the question
 * whether the client is still there (RFC 9110 section 15.2.1). To be sent without its NUL. */
#define HTTP_CONTINUE "HTTP/1.1 100 Continue\r\n\r\n"

#define HTTP_FIELDS_MAX 128
#define HTTP_LINE_SLACK 1024 /* bytes of a request line beside its target */

struct http_span {
    uint32_t at, length; /* in the buffer */
};

struct http_field {
    struct http_span name, value; /* the value without surrounding white space */
};

struct http_head {
    /* Progress, zeroed before the first call. */
    uint32_t line;      /* where the next line starts */
    uint32_t seen;      /* bytes already looked at in it */
    bool started;       /* the request line has been read */
    uint32_t fields_at; /* where the header fields start */
    /* The result. */
    struct http_span method, target;
    uint8_t minor; /* HTTP/1.minor */
    uint32_t field_count;
    struct http_field fields[HTTP_FIELDS_MAX];
    uint64_t body_length; /* from Content-Length; 0 without one */
    bool has_length, chunked;
    bool keep_alive;      /* the connection may be used again */
    bool expect_continue; /* the client waits for HTTP_CONTINUE */
    bool has_host;
    bool close_asked, keep_alive_asked; /* by Connection */
    /* The error. */
    int status;         /* 0, or 4xx, 5xx */
    const char *reason; /* what was wrong, for the client to read */
};

struct http_limits {
    uint32_t max_target, max_header; /* bytes; the fields and the empty line are the header */
};

/* Parse what has arrived so far (RFC 9112 sections 2 to 6). Returns the head's length with the
 * empty line that ends it, 0 if more is needed, -1 with h->status and h->reason set. */
static inline int64_t http_parse_head(struct http_head *h, const char *buffer, size_t length,
                                      const struct http_limits *limits);

/* A chunked body, zeroed before its first byte. */
struct http_chunks {
    uint8_t state;
    uint32_t line_length; /* of the size line or trailer section so far */
    uint64_t left;        /* of the chunk's data */
    const char *reason;   /* what was wrong */
};

enum http_chunk_step { CHUNK_MORE, CHUNK_DATA, CHUNK_END, CHUNK_BAD };

/* Decode chunked coding (RFC 9112 section 7.1), in whatever pieces it comes: look at LENGTH bytes
 * and put into *USED how many are done with; what is behind them is for the next call. Returns
 * CHUNK_DATA if the *DATA_LENGTH bytes at *DATA_AT in BUFFER, all within *USED, are body;
 * CHUNK_MORE if all bytes are used; CHUNK_END if the body ends at *USED; CHUNK_BAD with c->reason.
 * Trailers are checked and dropped. */
static inline enum http_chunk_step http_decode_chunks(struct http_chunks *c, const char *buffer,
                                                      size_t length, size_t *used, size_t *data_at,
                                                      size_t *data_length);

/* Decode and resolve the path of TARGET, in origin-form or absolute-form, into PATH (room for
 * length + 1 bytes), and find its query (RFC 9112 section 3.2, RFC 3986 section 5.2.4). Returns
 * NULL, or what is wrong with it. */
static inline const char *http_decode_target(const char *target, size_t length, char *path,
                                             struct http_span *query);

/* Decode QUERY, the part of a target behind its '?', into TO: "name\0value\0"..., ended by an empty
 * name. TO has room for http_query_room(QUERY) bytes. */
static inline void http_decode_query(const char *query, char *to);

static inline size_t http_query_room(const char *query)
{
    return 2 * strlen(query) + 3; /* a value that is not there still has its NUL */
}

/* ---- Characters and lines (RFC 9110 section 5.6, RFC 9112 section 2.2) --------------- */

static inline bool http_is_digit(unsigned char c)
{
    return c >= '0' && c <= '9';
}

static inline bool http_is_alpha(unsigned char c)
{
    return (c | 0x20) >= 'a' && (c | 0x20) <= 'z';
}

static inline int http_hex_value(unsigned char c)
{
    if (http_is_digit(c))
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Returns the byte that the two hexadecimal digits behind a '%' at S stand for, with N bytes from S
 * on, or -1 if they are not there (RFC 3986 section 2.1). */
static inline int http_percent(const char *s, size_t n)
{
    int high = n > 2 && s[0] == '%' ? http_hex_value((unsigned char)s[1]) : -1;
    int low = high >= 0 ? http_hex_value((unsigned char)s[2]) : -1;
    return low >= 0 ? high << 4 | low : -1;
}

/* White space within a line. (strchr would find the NUL, too.) */
static inline bool http_is_blank(char c)
{
    return c == ' ' || c == '\t';
}

/* Returns the bytes of B from AT to END without the white space around them. */
static inline struct http_span http_trim(const char *b, uint32_t at, uint32_t end)
{
    while (at < end && http_is_blank(b[at]))
        at++;
    while (end > at && http_is_blank(b[end - 1]))
        end--;
    return (struct http_span){at, end - at};
}

static inline bool http_is_token_char(unsigned char c)
{
    return http_is_digit(c) || http_is_alpha(c) ||
           (c != '\0' && strchr("!#$%&'*+-.^_`|~", c) != NULL);
}

static inline bool http_is_token(const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!http_is_token_char((unsigned char)s[i]))
            return false;
    return n > 0;
}

/* Letters are those of ASCII, and need no look at the locale's tables. */
static inline char http_lower(char c)
{
    return http_is_alpha((unsigned char)c) ? (char)(c | 0x20) : c;
}

static inline bool http_span_is(const char *buffer, struct http_span s, const char *word)
{
    uint32_t i = 0;
    while (i < s.length && word[i] != '\0' && http_lower(buffer[s.at + i]) == http_lower(word[i]))
        i++;
    return i == s.length && word[i] == '\0';
}

static inline int64_t http_bad(struct http_head *h, int status, const char *reason)
{
    h->status = status;
    h->reason = reason;
    return -1;
}

/* Find the next line, without its CRLF. Returns 1, 0 if its end is not there yet, or -1. A line
 * that ends in a bare LF, which RFC 9112 section 2.2 allows to be taken, is refused: what stands
 * before us may not have taken it, and would see another request. */
static inline int http_next_line(struct http_head *h, const char *b, size_t length,
                                 struct http_span *line)
{
    for (size_t at = h->line + h->seen; at < length; at++) {
        unsigned char c = (unsigned char)b[at];
        bool after_cr = at > h->line && b[at - 1] == '\r';
        if (c == '\n' && after_cr) {
            *line = (struct http_span){h->line, (uint32_t)(at - 1 - h->line)};
            h->line = (uint32_t)(at + 1);
            h->seen = 0;
            return 1;
        }
        if (c == '\n')
            return (int)http_bad(h, 400, "a line ends in LF without CR");
        if (after_cr)
            return (int)http_bad(h, 400, "a CR without LF");
        if (c == 0x7f || (c < 0x20 && c != '\t' && c != '\r'))
            return (int)http_bad(h, 400, "a control character in the head");
    }
    h->seen = (uint32_t)(length - h->line);
    return 0;
}

/* ---- The request line (RFC 9112 section 3) ------------------------------------------- */

static inline int64_t http_parse_version(struct http_head *h, const char *v, size_t n)
{
    if (n != 8 || memcmp(v, "HTTP/", 5) != 0 || !http_is_digit((unsigned char)v[5]) ||
        v[6] != '.' || !http_is_digit((unsigned char)v[7]))
        return http_bad(h, 400, "the request line does not end in HTTP/1.1 or HTTP/1.0");
    if (v[5] != '1')
        return http_bad(h, 505, "only HTTP/1.1 and HTTP/1.0 are spoken here");
    h->minor = (uint8_t)(v[7] - '0');
    return 0;
}

static inline int64_t http_parse_request_line(struct http_head *h, const char *b,
                                              struct http_span line,
                                              const struct http_limits *limits)
{
    const char *s = b + line.at, *end = s + line.length;
    const char *first = memchr(s, ' ', line.length);
    if (first == NULL || first == s)
        return http_bad(h, 400, "the request line is not METHOD TARGET VERSION");
    const char *second = memchr(first + 1, ' ', (size_t)(end - first - 1));
    if (second == NULL || second == first + 1)
        return http_bad(h, 400, "the request line is not METHOD TARGET VERSION");
    h->method = (struct http_span){line.at, (uint32_t)(first - s)};
    h->target = (struct http_span){(uint32_t)(first + 1 - b), (uint32_t)(second - first - 1)};
    if (!http_is_token(s, h->method.length))
        return http_bad(h, 400, "the method is not a token");
    if (h->target.length > limits->max_target)
        return http_bad(h, 414, "the request target is too long");
    for (const char *p = first + 1; p < second; p++)
        if (*p <= ' ' || *p > '~' || *p == '#')
            return http_bad(h, 400, "the request target holds a character that it may not");
    return http_parse_version(h, second + 1, (size_t)(end - second - 1));
}

/* ---- Fields (RFC 9112 sections 5, 6; RFC 9110 sections 7.2, 8.6) --------------------- */

/* Returns true for uri-host [ ":" port ], RFC 3986 section 3.2.2. Empty is allowed. */
static inline bool http_is_authority(const char *s, size_t n)
{
    size_t at = 0;
    if (n > 0 && s[0] == '[') {
        const char *close = memchr(s, ']', n);
        if (close == NULL || close == s + 1)
            return false;
        for (at = 1; s + at < close; at++)
            if (http_hex_value((unsigned char)s[at]) < 0 && s[at] != ':' && s[at] != '.')
                return false;
        at++;
    } else {
        for (; at < n && s[at] != ':'; at++) {
            unsigned char c = (unsigned char)s[at];
            if (http_percent(s + at, n - at) >= 0)
                continue; /* its digits are looked at next, and may stand here */
            if (!http_is_digit(c) && !http_is_alpha(c) &&
                (c == '\0' || !strchr("-._~!$&'()*+,;=", c)))
                return false;
        }
    }
    if (at == n)
        return true;
    if (s[at++] != ':')
        return false;
    for (; at < n; at++)
        if (!http_is_digit((unsigned char)s[at]))
            return false;
    return true;
}

/* Take the next element of a comma-separated list, without white space; empty ones are skipped
 * (RFC 9110 section 5.6.1.2). Returns false at the end. */
static inline bool http_next_element(const char *b, struct http_span *list,
                                     struct http_span *element)
{
    while (list->length > 0 && (http_is_blank(b[list->at]) || b[list->at] == ',')) {
        list->at++;
        list->length--;
    }
    if (list->length == 0)
        return false;
    const char *comma = memchr(b + list->at, ',', list->length);
    uint32_t n = comma != NULL ? (uint32_t)(comma - b) - list->at : list->length;
    *element = http_trim(b, list->at, list->at + n);
    list->at += n;
    list->length -= n;
    return true;
}

static inline int64_t http_parse_content_length(struct http_head *h, const char *b,
                                                struct http_span value)
{
    if (h->has_length)
        return http_bad(h, 400, "more than one Content-Length");
    uint64_t n = 0;
    for (uint32_t i = 0; i < value.length; i++) {
        unsigned char c = (unsigned char)b[value.at + i];
        if (!http_is_digit(c))
            return http_bad(h, 400, "the Content-Length is not a number");
        if (n > (UINT64_MAX / 2 - (c - '0')) / 10)
            return http_bad(h, 400, "the Content-Length is too large a number");
        n = n * 10 + (uint64_t)(c - '0');
    }
    if (value.length == 0)
        return http_bad(h, 400, "the Content-Length is empty");
    h->has_length = true;
    h->body_length = n;
    return 0;
}

static inline int64_t http_parse_transfer_encoding(struct http_head *h, const char *b,
                                                   struct http_span value)
{
    struct http_span coding;
    bool any = false;
    while (http_next_element(b, &value, &coding)) {
        any = true;
        if (!http_is_token(b + coding.at, coding.length))
            return http_bad(h, 400, "the Transfer-Encoding is malformed");
        if (!http_span_is(b, coding, "chunked"))
            return http_bad(h, h->chunked ? 400 : 501,
                            "only the transfer coding chunked is understood");
        if (h->chunked)
            return http_bad(h, 400, "chunked more than once");
        h->chunked = true;
    }
    return any ? 0 : http_bad(h, 400, "the Transfer-Encoding is empty");
}

static inline void http_parse_connection(struct http_head *h, const char *b, struct http_span value)
{
    struct http_span option;
    while (http_next_element(b, &value, &option)) {
        if (http_span_is(b, option, "close"))
            h->close_asked = true;
        else if (http_span_is(b, option, "keep-alive"))
            h->keep_alive_asked = true;
    }
}

static inline int64_t http_parse_known_field(struct http_head *h, const char *b,
                                             const struct http_field *f)
{
    if (http_span_is(b, f->name, "Host")) {
        if (h->has_host)
            return http_bad(h, 400, "more than one Host");
        h->has_host = true;
        if (!http_is_authority(b + f->value.at, f->value.length))
            return http_bad(h, 400, "the Host is not a host");
    } else if (http_span_is(b, f->name, "Content-Length")) {
        return http_parse_content_length(h, b, f->value);
    } else if (http_span_is(b, f->name, "Transfer-Encoding")) {
        return http_parse_transfer_encoding(h, b, f->value);
    } else if (http_span_is(b, f->name, "Connection")) {
        http_parse_connection(h, b, f->value);
    } else if (http_span_is(b, f->name, "Expect")) {
        if (!http_span_is(b, f->value, "100-continue"))
            return http_bad(h, 417, "the only expectation that can be met is 100-continue");
        h->expect_continue = true;
    }
    return 0;
}

static inline int64_t http_parse_field(struct http_head *h, const char *b, struct http_span line)
{
    const char *s = b + line.at;
    if (*s == ' ' || *s == '\t')
        return http_bad(h, 400, "a header line begins with white space");
    const char *colon = memchr(s, ':', line.length);
    if (colon == NULL)
        return http_bad(h, 400, "a header line has no colon");
    struct http_field f = {.name = {line.at, (uint32_t)(colon - s)}};
    if (!http_is_token(s, f.name.length))
        return http_bad(h, 400, "a header field's name is not a token");
    f.value = http_trim(b, f.name.at + f.name.length + 1, line.at + line.length);
    if (h->field_count == HTTP_FIELDS_MAX)
        return http_bad(h, 431, "too many header fields");
    h->fields[h->field_count++] = f;
    return http_parse_known_field(h, b, &f);
}

/* ---- The head as a whole ------------------------------------------------------------- */

/* Check what only the whole head can tell; above all, where the body ends (RFC 9112 section 6.3).
 * Both a length and a coding are how requests are smuggled: refused, as section 6.1 lets us. */
static inline int64_t http_check_head(struct http_head *h)
{
    if (h->minor > 0 && !h->has_host)
        return http_bad(h, 400, "the Host is missing");
    if (h->chunked && h->has_length)
        return http_bad(h, 400, "both Content-Length and Transfer-Encoding");
    if (h->chunked && h->minor == 0)
        return http_bad(h, 400, "Transfer-Encoding in HTTP/1.0");
    h->keep_alive = !h->close_asked && (h->minor > 0 || h->keep_alive_asked);
    if (h->minor == 0)
        h->expect_continue = false;
    return h->line;
}

static inline int64_t http_parse_head(struct http_head *h, const char *buffer, size_t length,
                                      const struct http_limits *limits)
{
    for (;;) {
        /* Nothing beyond the limit is looked at, so that it does not matter in which pieces the
         * head comes. */
        size_t limit = h->started ? (size_t)h->fields_at + limits->max_header
                                  : (size_t)limits->max_target + HTTP_LINE_SLACK;
        bool over = length > limit;
        struct http_span line;
        int64_t wrong = 0;
        int found = http_next_line(h, buffer, over ? limit : length, &line);
        if (found < 0)
            return -1;
        if (found == 0 && over)
            return h->started ? http_bad(h, 431, "the header is too large")
                              : http_bad(h, 414, "the request line is too long");
        if (found == 0)
            return 0;
        if (!h->started && line.length == 0)
            continue; /* an empty line before the request line, RFC 9112 section 2.2 */
        if (h->started && line.length == 0)
            return http_check_head(h);
        if (h->started) {
            wrong = http_parse_field(h, buffer, line);
        } else {
            h->started = true;
            wrong = http_parse_request_line(h, buffer, line, limits);
            h->fields_at = h->line;
        }
        if (wrong < 0)
            return wrong;
    }
}

/* ---- Looking fields up --------------------------------------------------------------- */

/* Returns the first field NAME (any case) of a head that has been parsed, or NULL. */
static inline const struct http_field *http_find_field(const struct http_head *h,
                                                       const char *buffer, const char *name)
{
    for (uint32_t i = 0; i < h->field_count; i++)
        if (http_span_is(buffer, h->fields[i].name, name))
            return &h->fields[i];
    return NULL;
}

/* Write the values of all fields NAME, joined, and a NUL to TO, unless that is NULL. Returns their
 * size with the NUL, or 0 if there is none. (RFC 9110 section 5.3; Cookie has a separator of its
 * own, RFC 6265 section 5.4.) */
static inline size_t http_join_values(const struct http_head *h, const char *buffer,
                                      const char *name, char *to)
{
    const struct http_field *f = http_find_field(h, buffer, name);
    const char *separator = strcasecmp(name, "Cookie") == 0 ? "; " : ", ";
    size_t length = 0;
    if (f == NULL)
        return 0;
    for (const struct http_field *end = h->fields + h->field_count; f < end; f++) {
        if (!http_span_is(buffer, f->name, name))
            continue;
        if (length > 0) {
            if (to != NULL)
                memcpy(to + length, separator, 2);
            length += 2;
        }
        if (to != NULL)
            memcpy(to + length, buffer + f->value.at, f->value.length);
        length += f->value.length;
    }
    if (to != NULL)
        to[length] = '\0';
    return length + 1;
}

/* ---- Chunked coding (RFC 9112 section 7.1) ------------------------------------------- */

enum {
    CHUNK_SIZE_FIRST,
    CHUNK_SIZE,
    CHUNK_EXT,      /* behind the size, up to CR */
    CHUNK_EXT_NAME, /* just behind a ';': a name must follow */
    CHUNK_EXT_QUOTED,
    CHUNK_EXT_ESCAPE,
    CHUNK_SIZE_LF,
    CHUNK_BODY,
    CHUNK_BODY_CR,
    CHUNK_BODY_LF,
    CHUNK_TRAILER_FIRST,
    CHUNK_TRAILER_NAME,
    CHUNK_TRAILER_VALUE,
    CHUNK_TRAILER_LF,
    CHUNK_LAST_LF
};

#define CHUNK_LINE_MAX 16384 /* bytes of one size line, and of all trailers */

static inline bool http_is_text(unsigned char c)
{
    return c == '\t' || (c >= ' ' && c != 0x7f);
}

static inline const char *http_chunk_size_byte(struct http_chunks *c, unsigned char byte)
{
    int digit = http_hex_value(byte);
    if (digit >= 0 && c->state <= CHUNK_SIZE) {
        if (c->left > (UINT64_MAX / 2) >> 4)
            return "a chunk is too large";
        c->left = c->left << 4 | (unsigned)digit;
        c->state = CHUNK_SIZE;
        return NULL;
    }
    if (c->state == CHUNK_SIZE_FIRST)
        return "a chunk's size is not a hexadecimal number";
    if (byte == '\r' && c->state != CHUNK_EXT_NAME) {
        c->state = CHUNK_SIZE_LF;
        return NULL;
    }
    if (c->state == CHUNK_SIZE && byte != ';')
        return "a chunk's size is not a hexadecimal number";
    if (!http_is_text(byte))
        return "a control character in a chunk extension";
    if (c->state == CHUNK_EXT_NAME && !http_is_token_char(byte) && byte != ' ' && byte != '\t')
        return "a chunk extension without a name";
    if (byte == ';')
        c->state = CHUNK_EXT_NAME;
    else if (byte == '"')
        c->state = CHUNK_EXT_QUOTED;
    else if (c->state != CHUNK_EXT_NAME || http_is_token_char(byte))
        c->state = CHUNK_EXT;
    return NULL;
}

static inline const char *http_chunk_trailer_byte(struct http_chunks *c, unsigned char byte)
{
    if (byte == '\r' && c->state != CHUNK_TRAILER_NAME) {
        c->state = c->state == CHUNK_TRAILER_FIRST ? CHUNK_LAST_LF : CHUNK_TRAILER_LF;
        return NULL;
    }
    if (c->state == CHUNK_TRAILER_VALUE)
        return http_is_text(byte) ? NULL : "a control character in a trailer";
    if (byte == ':' && c->state == CHUNK_TRAILER_NAME)
        c->state = CHUNK_TRAILER_VALUE;
    else if (http_is_token_char(byte))
        c->state = CHUNK_TRAILER_NAME;
    else
        return "a trailer is not a header field";
    return NULL;
}

/* Take one byte outside the chunks' data. Returns NULL, or what is wrong with it. */
static inline const char *http_chunk_byte(struct http_chunks *c, unsigned char byte)
{
    switch (c->state) {
    case CHUNK_EXT_QUOTED:
        if (!http_is_text(byte))
            return "a control character in a chunk extension";
        c->state = byte == '"' ? CHUNK_EXT : byte == '\\' ? CHUNK_EXT_ESCAPE : CHUNK_EXT_QUOTED;
        return NULL;
    case CHUNK_EXT_ESCAPE:
        c->state = CHUNK_EXT_QUOTED;
        return http_is_text(byte) ? NULL : "a control character in a chunk extension";
    case CHUNK_SIZE_LF:
        c->state = c->left > 0 ? CHUNK_BODY : CHUNK_TRAILER_FIRST;
        c->line_length = 0;
        return byte == '\n' ? NULL : "a CR without LF in a chunk's size line";
    case CHUNK_BODY_CR:
        c->state = CHUNK_BODY_LF;
        return byte == '\r' ? NULL : "a chunk is longer than its size";
    case CHUNK_BODY_LF:
        c->state = CHUNK_SIZE_FIRST;
        c->line_length = 0;
        return byte == '\n' ? NULL : "a CR without LF after a chunk";
    case CHUNK_TRAILER_LF:
        c->state = CHUNK_TRAILER_FIRST;
        return byte == '\n' ? NULL : "a CR without LF in a trailer";
    case CHUNK_LAST_LF:
        return byte == '\n' ? NULL : "a CR without LF at the end of the body";
    default:
        return c->state <= CHUNK_EXT_NAME ? http_chunk_size_byte(c, byte)
                                          : http_chunk_trailer_byte(c, byte);
    }
}

static inline enum http_chunk_step http_decode_chunks(struct http_chunks *c, const char *buffer,
                                                      size_t length, size_t *used, size_t *data_at,
                                                      size_t *data_length)
{
    for (*used = 0; *used < length;) {
        if (c->state == CHUNK_BODY) {
            size_t there = length - *used;
            *data_at = *used;
            *data_length = c->left < there ? (size_t)c->left : there;
            *used += *data_length;
            c->left -= *data_length;
            if (c->left == 0)
                c->state = CHUNK_BODY_CR;
            return CHUNK_DATA;
        }
        bool last = c->state == CHUNK_LAST_LF;
        c->reason = http_chunk_byte(c, (unsigned char)buffer[(*used)++]);
        if (c->reason == NULL && ++c->line_length > CHUNK_LINE_MAX)
            c->reason = "a chunk's size line, or the trailers, are too long";
        if (c->reason != NULL)
            return CHUNK_BAD;
        if (last)
            return CHUNK_END;
    }
    return CHUNK_MORE;
}

/* ---- The target (RFC 9112 section 3.2, RFC 3986 section 5.2.4) ----------------------- */

/* Take back the last segment of PATH, of LENGTH bytes: "/a/b" -> "/a". */
static inline size_t http_drop_segment(const char *path, size_t length)
{
    while (length > 0 && path[--length] != '/')
        continue;
    return length;
}

/* Resolve "." and ".." in PATH, in place. A ".." at the root stays there. */
static inline void http_remove_dot_segments(char *path)
{
    size_t out = 0;
    for (const char *in = path; *in != '\0';) {
        const char *end = strchr(in + 1, '/');
        size_t n = end != NULL ? (size_t)(end - in) : strlen(in);
        bool dot = n == 2 && in[1] == '.', dots = n == 3 && in[1] == '.' && in[2] == '.';
        if (dots)
            out = http_drop_segment(path, out);
        if (!dot && !dots)
            memmove(path + out, in, n), out += n;
        else if (in[n] == '\0')
            path[out++] = '/';
        in += n;
    }
    path[out] = '\0';
    if (out == 0)
        memcpy(path, "/", 2);
}

static inline const char *http_decode_target(const char *target, size_t length, char *path,
                                             struct http_span *query)
{
    size_t at = 0, out = 0;
    *query = (struct http_span){(uint32_t)length, 0};
    for (const char *scheme = "http://";; scheme = "https://") {
        size_t n = strlen(scheme);
        if (length > n && strncasecmp(target, scheme, n) == 0) {
            at = n;
            while (at < length && target[at] != '/' && target[at] != '?')
                at++;
            if (at == n || !http_is_authority(target + n, at - n))
                return "the request target's host is malformed";
        }
        if (n == 8)
            break;
    }
    if (at == 0 && (length == 0 || target[0] != '/'))
        return "the request target is neither a path nor an http URI";
    if (at == length || target[at] == '?')
        path[out++] = '/';
    for (; at < length && target[at] != '?'; at++) {
        int c = (unsigned char)target[at];
        if (c == '%') {
            c = http_percent(target + at, length - at);
            if (c < 0)
                return "a '%' in the request target is not followed by two hexadecimal digits";
            at += 2;
        }
        if (c == '\0')
            return "a NUL in the request target";
        path[out++] = (char)c;
    }
    path[out] = '\0';
    if (at < length)
        *query = (struct http_span){(uint32_t)(at + 1), (uint32_t)(length - at - 1)};
    http_remove_dot_segments(path);
    return NULL;
}

/* ---- Queries, as forms send them ----------------------------------------------------- */

/* Decode the N bytes at S to TO, with a NUL: '+' is a space, and a '%' without its digits is
 * itself. Returns the length. */
static inline size_t http_decode_component(char *to, const char *s, size_t n)
{
    size_t length = 0;
    for (size_t i = 0; i < n; i++) {
        int byte = http_percent(s + i, n - i);
        to[length++] = byte >= 0 ? (char)byte : s[i] == '+' ? ' ' : s[i];
        i += byte >= 0 ? 2 : 0;
    }
    to[length] = '\0';
    return length;
}

static inline void http_decode_query(const char *query, char *to)
{
    for (const char *at = query; *at != '\0';) {
        size_t n = strcspn(at, "&");
        const char *equals = memchr(at, '=', n);
        size_t name = equals != NULL ? (size_t)(equals - at) : n;
        size_t value = name + (equals != NULL);
        if (name > 0) {
            to += http_decode_component(to, at, name) + 1;
            to += http_decode_component(to, at + value, n - value) + 1;
        }
        at += n + (at[n] == '&');
    }
    *to = '\0';
}

/* ---- What every answer says ---------------------------------------------------------- */

/* Add "Date: Mon, 23 Nov 2026 09:20:01 GMT" and the end of the line, RFC 9110 section 5.6.7. */
ASYNC_SAFE static inline void http_add_date(struct text *t)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    struct utc u = utc_at(now.tv_sec);
    text_add(t, "Date: ");
    text_bytes(t, &"SunMonTueWedThuFriSat"[(size_t)3 * u.weekday], 3);
    text_add(t, ", ");
    text_number(t, u.day, 2);
    text_char(t, ' ');
    text_bytes(t, &"JanFebMarAprMayJunJulAugSepOctNovDec"[(size_t)3 * (u.month - 1)], 3);
    text_char(t, ' ');
    text_number(t, u.year, 4);
    text_char(t, ' ');
    text_number(t, u.hour, 2);
    text_char(t, ':');
    text_number(t, u.minute, 2);
    text_char(t, ':');
    text_number(t, u.second, 2);
    text_add(t, " GMT\r\n");
}

/* ---- Reasons (RFC 9110 section 15) --------------------------------------------------- */

/* Returns the phrase that goes with STATUS in a status line: "Not Found" for 404, "Unknown" for a
 * number that has none here. */
ASYNC_SAFE static inline const char *http_reason(int status)
{
    static const struct {
        int status;
        const char *reason;
    } names[] = {{200, "OK"},
                 {201, "Created"},
                 {202, "Accepted"},
                 {204, "No Content"},
                 {206, "Partial Content"},
                 {301, "Moved Permanently"},
                 {302, "Found"},
                 {303, "See Other"},
                 {304, "Not Modified"},
                 {307, "Temporary Redirect"},
                 {308, "Permanent Redirect"},
                 {400, "Bad Request"},
                 {401, "Unauthorized"},
                 {403, "Forbidden"},
                 {404, "Not Found"},
                 {405, "Method Not Allowed"},
                 {406, "Not Acceptable"},
                 {408, "Request Timeout"},
                 {409, "Conflict"},
                 {410, "Gone"},
                 {411, "Length Required"},
                 {412, "Precondition Failed"},
                 {413, "Content Too Large"},
                 {414, "URI Too Long"},
                 {415, "Unsupported Media Type"},
                 {417, "Expectation Failed"},
                 {422, "Unprocessable Content"},
                 {423, "Locked"},
                 {424, "Failed Dependency"},
                 {428, "Precondition Required"},
                 {429, "Too Many Requests"},
                 {431, "Request Header Fields Too Large"},
                 {500, "Internal Server Error"},
                 {501, "Not Implemented"},
                 {502, "Bad Gateway"},
                 {503, "Service Unavailable"},
                 {504, "Gateway Timeout"},
                 {505, "HTTP Version Not Supported"},
                 {507, "Insufficient Storage"}};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (names[i].status == status)
            return names[i].reason;
    return "Unknown";
}

#endif
