/* http.h: HTTP/1 as it comes: the head of a request, chunked bodies, targets, queries (RFC 9110,
 * RFC 9112, RFC 3986), and the header of a program's answer (CGI, RFC 3875).
 *
 *     struct http_head h = {0};
 *     int64_t size = http_parse_head(&h, buffer, length, &limits);
 *     if (size < 0)
 *         ...                                  answer h.status and h.reason
 *     else if (size == 0)
 *         ...                                  read more behind it, and call again
 *
 *     struct cgi_head c;
 *     size = cgi_parse_head(&c, buffer, length);         the same, with c.wrong in the line c.line
 *
 * Each function looks at what it is given and no byte more: no descriptor, no memory of its own.
 * What is found is spans of the buffer, which may move between two calls but must begin with the
 * same bytes. It does not matter in which pieces a message comes.
 *
 * Beside the parser, the reason phrases (http_reason) and the field Date (http_add_date) are here.
 *
 * It is strict where leniency would let two servers see two different requests: a bare LF, white
 * space before a colon, two lengths, a coding that is not known. Only a program's answer may have
 * lines that end in LF alone, as programs write them. Not for answers of other servers.
 *
 * Kind: pure.
 * Signal safety: what is marked ASYNC_SAFE.
 */
#ifndef HANGUPD_HTTP_H
#define HANGUPD_HTTP_H

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

/* ---- Characters and lines (RFC 9110 section 5.6, RFC 9112 section 2.2) --------------- */

static inline bool http_is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static inline bool http_is_alpha(char c)
{
    return (c | 0x20) >= 'a' && (c | 0x20) <= 'z';
}

/* strchr alone would find the NUL, too. */
static inline bool http_is_in(char c, const char *set)
{
    return c != '\0' && strchr(set, c) != NULL;
}

/* Returns true for what a token is made of. */
static inline bool http_is_token_char(char c)
{
    return http_is_digit(c) || http_is_alpha(c) || http_is_in(c, "!#$%&'*+-.^_`|~");
}

/* Returns true for what a field's value is made of: no control character but the tab. */
static inline bool http_is_text(char c)
{
    return c == '\t' || ((unsigned char)c >= ' ' && c != 0x7f);
}

static inline int http_hex_value(char c)
{
    int letter = c | 0x20;
    return http_is_digit(c) ? c - '0' : letter >= 'a' && letter <= 'f' ? letter - 'a' + 10 : -1;
}

/* Returns the byte that the two hexadecimal digits behind a '%' at S stand for, with N bytes from S
 * on, or -1 if they are not there (RFC 3986 section 2.1). */
static inline int http_percent(const char *s, size_t n)
{
    int high = n > 2 && s[0] == '%' ? http_hex_value(s[1]) : -1;
    int low = high >= 0 ? http_hex_value(s[2]) : -1;
    return low >= 0 ? high << 4 | low : -1;
}

/* Returns the bytes of B from AT to END without the white space around them. */
static inline struct http_span http_trim(const char *b, uint32_t at, uint32_t end)
{
    while (at < end && http_is_in(b[at], " \t"))
        at++;
    while (end > at && http_is_in(b[end - 1], " \t"))
        end--;
    return (struct http_span){at, end - at};
}

static inline bool http_is_token(const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!http_is_token_char(s[i]))
            return false;
    return n > 0;
}

/* Returns true if S is WORD in any case. Letters are those of ASCII, which needs no look at the
 * locale's tables. */
static inline bool http_span_is(const char *buffer, struct http_span s, const char *word)
{
    if (s.length != strlen(word))
        return false;
    for (uint32_t i = 0; i < s.length; i++) {
        char a = buffer[s.at + i], b = word[i];
        if (a != b && ((a ^ b) != 0x20 || !http_is_alpha(a)))
            return false;
    }
    return true;
}

/* Note what is wrong. Returns -1. */
static inline int http_bad(struct http_head *h, int status, const char *reason)
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
        char c = b[at];
        bool after_cr = at > h->line && b[at - 1] == '\r';
        if (c == '\n' && after_cr) {
            *line = (struct http_span){h->line, (uint32_t)(at - 1 - h->line)};
            h->line = (uint32_t)(at + 1);
            h->seen = 0;
            return 1;
        }
        if (c == '\n')
            return http_bad(h, 400, "a line ends in LF without CR");
        if (after_cr)
            return http_bad(h, 400, "a CR without LF");
        if (c != '\r' && !http_is_text(c))
            return http_bad(h, 400, "a control character in the head");
    }
    h->seen = (uint32_t)(length - h->line);
    return 0;
}

/* ---- The request line (RFC 9112 section 3) ------------------------------------------- */

static inline int http_parse_request_line(struct http_head *h, const char *b, struct http_span line,
                                          const struct http_limits *limits)
{
    const char *s = b + line.at, *end = s + line.length;
    const char *first = memchr(s, ' ', line.length);
    const char *second = first != NULL ? memchr(first + 1, ' ', (size_t)(end - first - 1)) : NULL;
    if (second == NULL || first == s || second == first + 1)
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
    const char *v = second + 1;
    if (end - v != 8 || memcmp(v, "HTTP/", 5) != 0 || !http_is_digit(v[5]) || v[6] != '.' ||
        !http_is_digit(v[7]))
        return http_bad(h, 400, "the request line does not end in HTTP/1.1 or HTTP/1.0");
    if (v[5] != '1')
        return http_bad(h, 505, "only HTTP/1.1 and HTTP/1.0 are spoken here");
    h->minor = (uint8_t)(v[7] - '0');
    return 0;
}

/* ---- Fields (RFC 9112 sections 5, 6; RFC 9110 sections 7.2, 8.6) --------------------- */

/* Returns true for uri-host [ ":" port ], RFC 3986 section 3.2.2. Empty is allowed. */
static inline bool http_is_authority(const char *s, size_t n)
{
    const char *at = s, *end = s + n;
    if (n > 0 && *s == '[') {
        for (at++; at < end && (http_hex_value(*at) >= 0 || http_is_in(*at, ":."));)
            at++;
        if (at == end || at == s + 1 || *at++ != ']')
            return false;
    } else {
        /* The digits behind a '%' are looked at next, and may stand here. */
        while (at < end &&
               (http_is_digit(*at) || http_is_alpha(*at) || http_is_in(*at, "-._~!$&'()*+,;=") ||
                http_percent(at, (size_t)(end - at)) >= 0))
            at++;
    }
    if (at < end && *at++ != ':')
        return false;
    while (at < end && http_is_digit(*at))
        at++;
    return at == end;
}

/* Take the next element of a comma-separated list, without white space; empty ones are skipped
 * (RFC 9110 section 5.6.1.2). Returns false at the end. */
static inline bool http_next_element(const char *b, struct http_span *list,
                                     struct http_span *element)
{
    uint32_t at = list->at, end = list->at + list->length;
    while (at < end && http_is_in(b[at], " \t,"))
        at++;
    uint32_t from = at;
    while (at < end && b[at] != ',')
        at++;
    *element = http_trim(b, from, at);
    *list = (struct http_span){at, end - at};
    return at > from;
}

/* Parse the VALUE of a Content-Length, which *HAS none so far, into *LENGTH. Returns NULL, or what
 * is wrong with it. Behind the value there is a line's end: a number cannot run out of it. */
static inline const char *http_parse_content_length(const char *b, struct http_span value,
                                                    bool *has, uint64_t *length)
{
    const char *s = b + value.at;
    unsigned long long n = 0;
    if (*has)
        return "more than one Content-Length";
    if (value.length == 0)
        return "the Content-Length is empty";
    bool number = parse_number(&s, UINT64_MAX / 2, &n);
    if (!number && http_is_digit(*s))
        return "the Content-Length is too large a number";
    if (!number || s != b + value.at + value.length)
        return "the Content-Length is not a number";
    *has = true;
    *length = n;
    return NULL;
}

static inline int http_parse_transfer_encoding(struct http_head *h, const char *b,
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

static inline int http_parse_known_field(struct http_head *h, const char *b,
                                         const struct http_field *f)
{
    struct http_span list = f->value, option;
    if (http_span_is(b, f->name, "Host")) {
        if (h->has_host)
            return http_bad(h, 400, "more than one Host");
        h->has_host = true;
        if (!http_is_authority(b + f->value.at, f->value.length))
            return http_bad(h, 400, "the Host is not a host");
    } else if (http_span_is(b, f->name, "Content-Length")) {
        const char *wrong = http_parse_content_length(b, f->value, &h->has_length, &h->body_length);
        return wrong != NULL ? http_bad(h, 400, wrong) : 0;
    } else if (http_span_is(b, f->name, "Transfer-Encoding")) {
        return http_parse_transfer_encoding(h, b, f->value);
    } else if (http_span_is(b, f->name, "Connection")) {
        while (http_next_element(b, &list, &option)) {
            h->close_asked |= http_span_is(b, option, "close");
            h->keep_alive_asked |= http_span_is(b, option, "keep-alive");
        }
    } else if (http_span_is(b, f->name, "Expect")) {
        if (!http_span_is(b, f->value, "100-continue"))
            return http_bad(h, 417, "the only expectation that can be met is 100-continue");
        h->expect_continue = true;
    }
    return 0;
}

static inline int http_parse_field(struct http_head *h, const char *b, struct http_span line)
{
    const char *s = b + line.at, *colon = memchr(s, ':', line.length);
    if (http_is_in(*s, " \t"))
        return http_bad(h, 400, "a header line begins with white space");
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

/* Returns the length of "http://" or "https://" at the beginning of TARGET, an absolute-form; or 0.
 */
static inline size_t http_scheme(const char *target, size_t length)
{
    const struct http_span http = {0, 7}, https = {0, 8};
    return length > 7 && http_span_is(target, http, "http://")     ? 7
           : length > 8 && http_span_is(target, https, "https://") ? 8
                                                                   : 0;
}

/* The host of an absolute-form target stands for that of the field Host, whatever that says (RFC
 * 9112 section 3.2.2): what stands before us has gone by it. */
static inline void http_override_host(struct http_head *h, const char *b)
{
    uint32_t at = h->target.at, end = at + h->target.length;
    at += (uint32_t)http_scheme(b + at, h->target.length);
    struct http_span host = {at, 0};
    while (at < end && b[at] != '/' && b[at] != '?')
        at++;
    host.length = at - host.at;
    for (uint32_t i = 0; host.at > h->target.at && i < h->field_count; i++)
        if (http_span_is(b, h->fields[i].name, "Host"))
            h->fields[i].value = host;
}

/* Check what only the whole head can tell; above all, where the body ends (RFC 9112 section 6.3).
 * Both a length and a coding are how requests are smuggled: refused, as section 6.1 lets us. */
static inline int64_t http_check_head(struct http_head *h, const char *b)
{
    http_override_host(h, b);
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

/* Parse what has arrived so far (RFC 9112 sections 2 to 6). Returns the head's length with the
 * empty line that ends it, 0 if more is needed, -1 with h->status and h->reason set. */
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
        int found = http_next_line(h, buffer, over ? limit : length, &line);
        if (found < 0)
            return -1;
        if (found == 0 && over)
            return h->started ? http_bad(h, 431, "the header is too large")
                              : http_bad(h, 414, "the request line is too long");
        if (found == 0)
            return 0;
        if (h->started && line.length == 0)
            return http_check_head(h, buffer);
        if (line.length == 0)
            continue; /* an empty line before the request line, RFC 9112 section 2.2 */
        if (h->started && http_parse_field(h, buffer, line) < 0)
            return -1;
        if (!h->started && http_parse_request_line(h, buffer, line, limits) < 0)
            return -1;
        if (!h->started)
            h->fields_at = h->line;
        h->started = true;
    }
}

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
    const char *separator = strcasecmp(name, "Cookie") == 0 ? "; " : ", ";
    size_t length = 0;
    bool any = false;
    for (const struct http_field *f = h->fields; f < h->fields + h->field_count; f++) {
        if (!http_span_is(buffer, f->name, name))
            continue;
        size_t gap = length > 0 ? 2 : 0;
        if (to != NULL) {
            memcpy(to + length, separator, gap);
            memcpy(to + length + gap, buffer + f->value.at, f->value.length);
        }
        length += gap + f->value.length;
        any = true;
    }
    if (to != NULL)
        to[length] = '\0';
    return any ? length + 1 : 0;
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

/* A chunked body, zeroed before its first byte. */
struct http_chunks {
    uint8_t state;
    uint32_t line_length; /* of the size line or trailer section so far */
    uint64_t left;        /* of the chunk's data */
    const char *reason;   /* what was wrong */
};

enum http_chunk_step { CHUNK_MORE, CHUNK_DATA, CHUNK_END, CHUNK_BAD };

static inline const char *http_chunk_size_byte(struct http_chunks *c, char byte)
{
    int digit = http_hex_value(byte);
    if (digit < 0 && (c->state == CHUNK_SIZE_FIRST || !http_is_in(byte, ";\r")))
        return "a chunk's size is not a hexadecimal number";
    if (digit >= 0 && c->left > (UINT64_MAX / 2) >> 4)
        return "a chunk is too large";
    if (digit >= 0)
        c->left = c->left << 4 | (unsigned)digit;
    c->state = digit >= 0 ? CHUNK_SIZE : byte == ';' ? CHUNK_EXT_NAME : CHUNK_SIZE_LF;
    return NULL;
}

static inline const char *http_chunk_extension_byte(struct http_chunks *c, char byte)
{
    if (c->state == CHUNK_EXT && byte == '\r') {
        c->state = CHUNK_SIZE_LF;
        return NULL;
    }
    if (!http_is_text(byte))
        return "a control character in a chunk extension";
    if (c->state == CHUNK_EXT_NAME && !http_is_token_char(byte) && !http_is_in(byte, " \t"))
        return "a chunk extension without a name";
    if (c->state == CHUNK_EXT_NAME)
        c->state = http_is_token_char(byte) ? CHUNK_EXT : CHUNK_EXT_NAME;
    else if (c->state == CHUNK_EXT)
        c->state = byte == ';' ? CHUNK_EXT_NAME : byte == '"' ? CHUNK_EXT_QUOTED : CHUNK_EXT;
    else if (c->state == CHUNK_EXT_QUOTED)
        c->state = byte == '"' ? CHUNK_EXT : byte == '\\' ? CHUNK_EXT_ESCAPE : CHUNK_EXT_QUOTED;
    else
        c->state = CHUNK_EXT_QUOTED;
    return NULL;
}

static inline const char *http_chunk_trailer_byte(struct http_chunks *c, char byte)
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
static inline const char *http_chunk_byte(struct http_chunks *c, char byte)
{
    switch (c->state) {
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
        return c->state <= CHUNK_SIZE         ? http_chunk_size_byte(c, byte)
               : c->state <= CHUNK_EXT_ESCAPE ? http_chunk_extension_byte(c, byte)
                                              : http_chunk_trailer_byte(c, byte);
    }
}

/* Decode chunked coding, in whatever pieces it comes: look at LENGTH bytes and put into *USED how
 * many are done with; what is behind them is for the next call. Returns CHUNK_DATA if the
 * *DATA_LENGTH bytes at *DATA_AT in BUFFER, all within *USED, are body; CHUNK_MORE if all bytes are
 * used; CHUNK_END if the body ends at *USED; CHUNK_BAD with c->reason. Trailers are checked and
 * dropped. */
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
        c->reason = http_chunk_byte(c, buffer[(*used)++]);
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

/* Resolve "." and ".." in PATH, in place. A ".." takes back the last segment, "/a/b" -> "/a"; at
 * the root it stays there. */
static inline void http_remove_dot_segments(char *path)
{
    size_t out = 0;
    for (const char *in = path; *in != '\0';) {
        size_t n = 1 + strcspn(in + 1, "/");
        bool dot = n == 2 && in[1] == '.', dots = n == 3 && in[1] == '.' && in[2] == '.';
        while (dots && out > 0 && path[--out] != '/')
            continue;
        if (!dot && !dots) {
            memmove(path + out, in, n);
            out += n;
        } else if (in[n] == '\0') {
            path[out++] = '/';
        }
        in += n;
    }
    path[out] = '\0';
    if (out == 0)
        memcpy(path, "/", 2);
}

/* Decode and resolve the path of TARGET, in origin-form or absolute-form, into PATH (room for
 * length + 1 bytes), and find its query. Returns NULL, or what is wrong with it. */
static inline const char *http_decode_target(const char *target, size_t length, char *path,
                                             struct http_span *query)
{
    size_t scheme = http_scheme(target, length), at = scheme, out = 0;
    *query = (struct http_span){(uint32_t)length, 0};
    while (scheme > 0 && at < length && target[at] != '/' && target[at] != '?')
        at++;
    if (scheme > 0 && (at == scheme || !http_is_authority(target + scheme, at - scheme)))
        return "the request target's host is malformed";
    if (scheme == 0 && (length == 0 || target[0] != '/'))
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

static inline size_t http_query_room(const char *query)
{
    return 2 * strlen(query) + 3; /* a value that is not there still has its NUL */
}

/* Decode QUERY, the part of a target behind its '?', into TO: "name\0value\0"..., ended by an empty
 * name. TO has room for http_query_room(QUERY) bytes. */
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

/* ---- The header of a program's answer (RFC 3875 section 6) --------------------------- */

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

/* "404" or "404 Not Found". Returns NULL, or what is wrong with it. */
static inline const char *cgi_status(struct cgi_head *h, const char *b, struct http_span value)
{
    const char *s = b + value.at;
    if (h->status != 0)
        return "more than one Status";
    if (value.length < 3 || !http_is_digit(s[0]) || !http_is_digit(s[1]) || !http_is_digit(s[2]) ||
        (value.length > 3 && s[3] != ' '))
        return "a Status is three digits and a reason";
    h->status = (s[0] - '0') * 100 + (s[1] - '0') * 10 + (s[2] - '0');
    if (h->status < 200 || h->status > 599)
        return "a Status is a number from 200 to 599";
    if (value.length > 4)
        h->reason = (struct http_span){value.at + 4, value.length - 4};
    return NULL;
}

/* Take one LINE. Returns NULL, or what is wrong with it. */
static inline const char *cgi_field(struct cgi_head *h, const char *b, struct http_span line)
{
    const char *s = b + line.at, *colon = memchr(s, ':', line.length);
    if (colon == NULL || !http_is_token(s, (size_t)(colon - s)))
        return "not a header field, NAME: VALUE";
    struct http_span name = {line.at, (uint32_t)(colon - s)};
    struct http_span value = http_trim(b, name.at + name.length + 1, line.at + line.length);
    for (uint32_t i = 0; i < value.length; i++)
        if (!http_is_text(b[value.at + i]))
            return "a control character in the header";
    if (http_span_is(b, name, "Status"))
        return cgi_status(h, b, value);
    if (http_span_is(b, name, "Content-Length"))
        return http_parse_content_length(b, value, &h->has_length, &h->length);
    bool type = http_span_is(b, name, "Content-Type"), location = http_span_is(b, name, "Location");
    if (type || location) {
        struct http_span *of = type ? &h->type : &h->location;
        if (of->length > 0 || value.length == 0)
            return "a Content-Type or Location that is empty or there twice";
        *of = value;
        return NULL;
    }
    if (h->field_count == HTTP_FIELDS_MAX)
        return "too many header fields";
    h->fields[h->field_count++] = (struct http_field){name, value};
    return NULL;
}

/* Parse what has come so far, from its beginning. Returns the header's length with the empty line
 * that ends it, 0 if more is needed, -1 with h->wrong set. Which fields go on to the client is for
 * the caller to say. */
static inline int64_t cgi_parse_head(struct cgi_head *h, const char *buffer, size_t length)
{
    *h = (struct cgi_head){0};
    for (size_t at = 0; at < length && h->wrong == NULL;) {
        const char *s = buffer + at, *end = memchr(s, '\n', length - at);
        size_t n = end != NULL ? (size_t)(end - s) : length - at;
        struct http_span line = {(uint32_t)at, (uint32_t)n};
        at += n + 1;
        if (at > CGI_HEAD_MAX) {
            h->wrong = "the header is too large";
        } else if (end == NULL) {
            return 0;
        } else if (n > 1 || (n == 1 && *s != '\r')) {
            line.length -= s[n - 1] == '\r';
            h->wrong = cgi_field(h, buffer, line);
            if (h->wrong != NULL)
                h->line = line;
        } else if (h->type.length == 0 && h->location.length == 0 && h->status == 0) {
            h->wrong = "a header without Content-Type, Location or Status";
        } else {
            return (int64_t)at;
        }
    }
    return h->wrong != NULL ? -1 : 0;
}

/* ---- What every answer says (RFC 9110 section 15) ------------------------------------ */

/* Add "Date: Mon, 23 Nov 2026 09:20:01 GMT" and the end of the line, RFC 9110 section 5.6.7. */
ASYNC_SAFE static inline void http_add_date(struct text *t)
{
    static const char days[][4] = {"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"};
    static const char months[][4] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                     "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    struct utc u = utc_at(now.tv_sec);
    text_format(t, "Date: %s, %02u %s %04u %02u:%02u:%02u GMT\r\n", days[u.weekday], u.day,
                months[u.month - 1], u.year, u.hour, u.minute, u.second);
}

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
